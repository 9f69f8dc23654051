"""The notebooks are the source: package in step, committed clean."""
import json
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from conftest import ROOT

NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)


def test_the_package_is_what_the_notebooks_export(tmp_path):
    for name in 'nbs', 'kd_capacity': shutil.copytree(ROOT/name, tmp_path/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for name in 'settings.ini', 'pyproject.toml': shutil.copy(ROOT/name, tmp_path)
    for p in (tmp_path/'kd_capacity').glob('*.py'): p.unlink() if p.name != '__init__.py' else None
    done = subprocess.run([sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made, ours = ({p.name: p.read_text() for p in (root/'kd_capacity').glob('*.py')} for root in (tmp_path, ROOT))
    assert made == ours, 'run make export'


def committed(path):
    "The notebook as git has it: outputs that JupyterLab saved are no part of it. Without git, the file."
    command = ['git', 'show', f':{path.relative_to(ROOT).as_posix()}']
    if not (ROOT/'.git').exists() or not shutil.which('git'): return path.read_text()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else path.read_text()


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.name)
def test_a_notebook_is_committed_clean(path):
    text = committed(path)
    nb = json.loads(text)
    for cell in nb['cells']:
        assert not cell.get('outputs') and cell.get('execution_count') is None, 'run make export'
        assert set(cell['metadata']) <= {'tags'}
    assert set(nb['metadata']) <= {'kernelspec'}
    # a line of code is a line of the file, as Jupyter saves it: a change of one line is a diff of one line
    assert text == nbformat.writes(nbformat.from_dict(nb)).rstrip() + '\n', 'run make export'


@pytest.mark.parametrize('path', sorted((ROOT/'nbs'/'experiments').glob('*.ipynb')) + [ROOT/'nbs'/'report'/'analysis.ipynb'], ids=lambda p: p.name)
def test_templates_have_their_parameters_cell(path):
    assert sum('parameters' in c['metadata'].get('tags', []) for c in json.loads(path.read_text())['cells']) == 1
    assert (path.parent/'.notest').exists()


def lines_of_code(path):
    "For each code cell of a notebook, its lines."
    cells = json.loads(path.read_text())['cells']
    return [''.join(c['source']).splitlines() for c in cells if c['cell_type'] == 'code']


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.name)
def test_code_fits_into_100_columns(path):
    lines = [line for cell in lines_of_code(path) for line in cell]
    prose = '#| fig-alt: ' # Quarto wants a figure's words in one line
    assert not [line for line in lines if len(line) > 100 and not line.startswith(prose)]


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.name)
def test_a_cell_has_30_lines_at_most(path):
    most = 40 if path.name == 'student.ipynb' else 30 # papermill wants all parameters in one cell
    assert not [cell[0] for cell in lines_of_code(path) if len(cell) > most]


def prose(path):
    "The Markdown of a notebook."
    cells = json.loads(path.read_text())['cells']
    return '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.name)
def test_links_and_tests_that_the_prose_names_are_there(path):
    links = re.findall(r'\]\((?!\w+:)([^)#\s]+)', prose(path))
    tests = re.findall(r'\btests/[\w/]+\.py\b', prose(path))
    assert [link for link in links if not (path.parent/link).exists()] == []
    assert [name for name in tests if not (ROOT/name).exists()] == []
