"""Websites for tests, made in a folder of their own from the repository's notebooks."""
import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from functools import cache

import nbformat
import pytest
from bs4 import BeautifulSoup
from conftest import ROOT
from made_up import write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kd_capacity import config, run_pages, site_build, staging, study

HOSTILE = ('<script>alert("x")</script> [x](javascript:alert(1)) '
           '{{< include /etc/passwd >}} $x$')
FOLDERS = 'nbs', 'theme', 'kd_capacity', 'workflow'
FILES = '_quarto.yml', 'settings.ini', 'pyproject.toml'
REPORTS = sorted(p.stem for p in (ROOT/'nbs'/'report').glob('*.ipynb'))


def copy_repository(to, chapters=True):
    "What the website is made of, in a folder of its own; without chapters, these are a title each."
    ignored = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')
    for name in FOLDERS: shutil.copytree(ROOT/name, to/name, ignore=ignored)
    for name in FILES: shutil.copy(ROOT/name, to)
    if (ROOT/'.venv').exists(): (to/'.venv').symlink_to(ROOT/'.venv')
    for path in [] if chapters else (to/'nbs').glob('*/[0-9]*.ipynb'):
        path.write_text(notebook(f'# {path.stem[3:]}'))
    return to


def keep_pages(root, *sources):
    "Leave only these notebooks of nbs/: what is made of the others is the same at every page."
    for path in (root/'nbs').rglob('*.ipynb'):
        if path.relative_to(root/'nbs').as_posix() not in sources: path.unlink()
    return root


def notebook(*sources, outputs=()):
    "A notebook as text: Markdown where a source begins with '# ', else code with these outputs."
    cells = [new_markdown_cell(s) if s.startswith('# ') else
             new_code_cell(s, outputs=[nbformat.from_dict(o) for o in outputs]) for s in sources]
    return nbformat.writes(new_notebook(cells=cells, metadata={'papermill': {'x': 1}}))


def parameters_of(path):
    "Whether a notebook takes papermill's parameters."
    cells = nbformat.read(path, 4).cells
    return any('parameters' in c.metadata.get('tags', []) for c in cells)


@contextmanager
def report_kernels():
    "What a process needs in its environment to find the kernels that all tests share, or its own."
    if 'KD_TEST_KERNELS' in os.environ: yield json.loads(os.environ['KD_TEST_KERNELS'])
    else:
        with study.warm_kernels(dict(os.environ), modules=(*study.OF_A_RUN, *study.OF_A_REPORT)) as env:
            yield {name: env[name] for name in ('KD_KERNELS', 'JUPYTER_PATH', 'PATH')}


def execute(into, *names, **parameters):
    "Execute pages of the report, and the front page, as `make report` does: from warm kernels."
    import papermill
    with report_kernels() as env, pytest.MonkeyPatch.context() as m:
        for k in 'KD_KERNELS', 'JUPYTER_PATH': m.setenv(k, env[k])
        for name in names or (*REPORTS, 'front'):
            if name == 'benchmark': continue  # shows no run
            source = ROOT/'nbs'/('index.ipynb' if name == 'front' else f'report/{name}.ipynb')
            made = into/'_build'/source.relative_to(ROOT)
            made.parent.mkdir(parents=True, exist_ok=True)
            given = parameters if parameters_of(source) else {}
            papermill.execute_notebook(str(source), str(made), parameters=given,
                                       cwd=str(source.parent), kernel_name='python3', start_timeout=600,
                                       progress_bar=False, request_save_on_cell_execute=False)


def make_site(root):
    "The website by pandoc, whether Quarto is here or not."
    with pytest.MonkeyPatch.context() as m:
        m.setattr(site_build.shutil, 'which', lambda name: None)
        front, made_by = site_build.site(root)
    assert made_by == 'pandoc' and front == root/'_site'/'index.html'
    return root/'_site'


def make_full(root):
    "The website of a whole study with a failed run, and of another with one run."
    copy_repository(root)
    demo, results = config.study_runs('demo'), root/'results'
    write(demo, results, failure={demo[-1].run_id: HOSTILE})
    write(config.study_runs('paper-v1')[:1], results)
    shutil.copytree(ROOT/'results'/'benchmarks', results/'benchmarks')
    execute(root, profiles='demo, paper-v1', results=str(results))
    run_pages.build(['demo', 'paper-v1'], results, root/'_build'/'runs')
    return make_site(root)


def make_staged(root):
    "A repository whose pages are staged, none of them executed."
    copy_repository(root)
    staging.stage(root)


def make_empty(root):
    "The website without a run; pages that would show runs are executed, the others say nothing."
    copy_repository(root, chapters=False)
    shown = 'front', 'analysis', 'explorer', 'runs', 'reproduce'
    execute(root, *shown, profiles='demo', results=str(root/'nothing'))
    return make_site(root)


def make_with_quarto(root, full):
    "The same website by the real Quarto; returns what it said."
    copy_repository(root)
    shutil.copytree(full.parent/'_build', root/'_build', ignore=shutil.ignore_patterns('site-*'))
    done = subprocess.run(['quarto', 'render'], cwd=root, capture_output=True, text=True, check=False)
    (root/'quarto.log').write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return root/'_site'


def addresses(): return [page.address for page in staging.all_pages(ROOT)]


@cache
def soup(path): return BeautifulSoup(path.read_text(encoding='utf-8'), 'html.parser')


def pages_of(site): return [site/address for address in addresses()]
