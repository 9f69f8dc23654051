"""nbdev's commands and git, as somebody uses them who knows nbdev: they work, or say what to call instead."""
import asyncio
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

from conftest import ROOT

BIN = Path(sys.executable).parent
CHAPTER = 'nbs/method/04_clipping.ipynb'
SHORT = 'nbs/site/00_show.ipynb'
INSTEAD = {
    'nbdev_docs': 'make report', 'nbdev_preview': 'make report', 'nbdev_proc_nbs': 'make report',
    'nbdev_sidebar': 'make report', 'nbdev_readme': 'README.md', 'nbdev_contributing': 'CONTRIBUTING.md',
    'nbdev_install': 'make demo', 'nbdev_install_quarto': 'make quarto',
    'nbdev_requirements': 'pyproject.toml',
}  # command: what its sentence names


def shell(command, folder, **more):
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True,
                          env={**os.environ, 'PATH': f'{BIN}:{os.environ["PATH"]}', **more})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def template(tmp_path_factory, git):
    "A clone of the repository as it lies here, set up but for its packages, with git's hooks."
    folder = tmp_path_factory.mktemp('template')/'clone'
    ignored = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')
    for name in 'nbs', 'kd_capacity', 'workflow':
        shutil.copytree(ROOT/name, folder/name, ignore=ignored, symlinks=True)
    for name in 'settings.ini', 'pyproject.toml', 'Makefile', '.gitattributes', '.gitignore', 'README.md':
        shutil.copy(ROOT/name, folder)
    (folder/'.venv').symlink_to(BIN.parent)
    shell('git init -q -b main && git config user.name a && git config user.email a@b.c', folder)
    # a copy of the clone has the times and sizes of its files, and no need to be read again
    shell('git config core.checkStat minimal && git config core.trustctime false', folder)
    with (folder/'.git'/'info'/'exclude').open('a') as file: file.write('/.venv\n')
    shell('make hooks && git add -A && git commit -qm all', folder)
    return folder


@pytest.fixture
def clone(template, tmp_path):
    shutil.copytree(template, tmp_path/'clone', symlinks=True)
    return tmp_path/'clone'


def status(clone): return shell('git status --porcelain', clone)


@pytest.mark.parametrize('command', INSTEAD)
def test_a_command_that_has_no_place_here_says_what_to_call(command):
    before = {p.name for p in (*ROOT.iterdir(), *(ROOT/'nbs').iterdir())}
    done = subprocess.run([BIN/command], capture_output=True, text=True)
    assert done.returncode != 0 and len(done.stderr.splitlines()) == 1
    assert INSTEAD[command] in done.stderr
    assert {p.name for p in (*ROOT.iterdir(), *(ROOT/'nbs').iterdir())} == before


@pytest.mark.parametrize('command', ['nbdev_export', 'nbdev_clean', f'nbdev_test --path {SHORT}'])
def test_a_command_that_works_leaves_nothing_behind(command, clone):
    shell(command, clone)
    assert status(clone) == ''
    left = shell('git ls-files --others --ignored --exclude-standard nbs .', clone).split()
    assert {p for p in left if '__pycache__' not in p} <= {'.venv'}


def executed(path):
    "The notebook once its cells ran in JupyterLab: outputs, counts, and metadata of every kind."
    nb = nbformat.read(path, 4)
    nb.metadata.kernelspec.display_name = 'Python 3 (ipykernel)'
    nb.metadata.language_info = {'name': 'python', 'version': '3.11.7', 'mimetype': 'text/x-python'}
    nb.metadata.widgets = {'application/vnd.jupyter.widget-state+json': {'state': {}}}
    for i, cell in enumerate(nb.cells):
        cell.metadata.update({'editable': True, 'slideshow': {'slide_type': ''}, 'trusted': True})
        if cell.cell_type != 'code': continue
        cell.execution_count = i
        cell.metadata['execution'] = {'iopub.status.busy': '2026-01-01T00:00:00Z'}
        cell.outputs = [nbformat.v4.new_output('stream', name='stdout', text='1\n2\n')]
    return nb


@pytest.fixture
def lab(clone):
    "A function that saves a notebook of the clone as JupyterLab does, with this environment's configuration."
    from jupyter_events import EventLogger
    from jupyter_server.serverapp import ServerApp
    app = ServerApp(root_dir=str(clone))
    app.load_config_file()
    manager = app.contents_manager_class(parent=app, event_logger=EventLogger())
    def save(name, nb):
        saving = manager.save({'type': 'notebook', 'content': nb}, name)
        with ThreadPoolExecutor(1) as thread: # free of the event loops that other tests keep open
            thread.submit(asyncio.run, saving).result()
    return save


def test_setting_up_gave_jupyter_its_configuration():
    place = BIN.parent/'etc'/'jupyter'/'jupyter_server_config.py'
    assert place.read_text() == (ROOT/'workflow'/'jupyter_server_config.py').read_text()


@pytest.mark.parametrize('name', [CHAPTER, 'nbs/experiments/student.ipynb', 'nbs/index.ipynb'])
def test_saving_a_notebook_in_lab_is_no_change(name, clone, lab):
    lab(name, executed(clone/name))
    assert any(c.get('outputs') for c in nbformat.read(clone/name, 4).cells)  # nothing is lost
    assert status(clone) == shell('git diff', clone) == ''


def test_a_changed_line_is_a_diff_of_that_line(clone, lab):
    nb = executed(clone/CHAPTER)
    nb.cells[-1].source = 'assert True\n' + nb.cells[-1].source
    lab(CHAPTER, nb)
    assert status(clone) == f' M {CHAPTER}\n'  # and not staged
    changed = [x for x in shell('git diff', clone).splitlines() if x.startswith(('+ ', '- '))]
    assert [x.strip() for x in changed] == ['+    "assert True\\n",']
    shell('git commit -qam one', clone)
    assert '"outputs": []' in shell(f'git show HEAD:{CHAPTER}', clone) and status(clone) == ''


def test_other_editors_save_no_diff_either(clone):
    nbformat.write(executed(clone/CHAPTER), clone/CHAPTER)
    assert shell('git diff', clone) == ''
    shell('git add . && git diff --cached --quiet', clone)


NO_NOTEBOOKS = '', 'text', '<<<<<<< HEAD\n{}', '[]', '{"nbformat": 4, "nbformat_minor": 5, "cells": 3}'


@pytest.mark.parametrize('text', NO_NOTEBOOKS)
def test_what_is_no_notebook_passes_as_it_is(text):
    command = [sys.executable, ROOT/'workflow'/'clean_notebook.py']
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, text)


def test_the_filter_and_nbdev_clean_agree(clone):
    for path in (clone/'nbs').rglob('*.ipynb'): nbformat.write(executed(path), path)
    shell('nbdev_clean', clone)
    for path in (clone/'nbs').rglob('*.ipynb'):
        nb = json.loads(path.read_text())
        for cell in nb['cells']: cell.update({'outputs': []} if cell['cell_type'] == 'code' else {})
        ours = shell(f'git show :{path.relative_to(clone)}', clone)
        assert {**nb, 'metadata': 0} == {**json.loads(ours), 'metadata': 0}


def test_setting_up_again_changes_nothing(clone):
    before = (clone/'.git'/'config').read_text()
    shell('make hooks && git config --local --add include.path ../mine && make hooks', clone)
    assert (clone/'.git'/'config').read_text().replace('\tpath = ../mine\n', '') == before
    assert status(clone) == ''
