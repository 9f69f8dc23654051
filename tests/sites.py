"""Websites for tests, made by nbconvert in a folder of their own from the repository's notebooks."""
import json
import os
import shutil

import pytest
from conftest import ROOT
from made_up import write

from kd_capacity import config, site_build, run_pages, study

HOSTILE = '<script>alert("x")</script> [x](javascript:alert(1)) {{< include /etc/passwd >}} $x$'
REPORTS = 'analysis', 'reproduced', 'explorer', 'statistics', 'training', 'fidelity', 'cost', 'runs', 'reproduce'


def copy_repository(to, chapters=True):
    "What the website is made of, in a folder of its own; without chapters, these are a title each."
    for name in ('nbs', 'theme', 'kd_capacity'): shutil.copytree(ROOT/name, to/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    shutil.copy(ROOT/'_quarto.yml', to)
    for path in [] if chapters else (to/'nbs').glob('*/[0-9]*.ipynb'): path.write_text(notebook(f'# {path.stem[3:]}'))
    return to


def notebook(*sources, outputs=()):
    "A notebook as JSON: Markdown where a source begins with '# ', else code with these outputs."
    cells = [{'cell_type': 'markdown', 'metadata': {}, 'source': s} if s.startswith('# ') else
             {'cell_type': 'code', 'metadata': {}, 'source': s, 'outputs': list(outputs), 'execution_count': 1} for s in sources]
    return json.dumps({'cells': cells, 'metadata': {'papermill': {'x': 1}, 'widgets': {'y': 2}}, 'nbformat': 4, 'nbformat_minor': 5})


def execute(into, *names, **parameters):
    "Execute pages of the report, and the front page, as `make report` does: from kernels that have their imports done."
    import papermill
    for folder in 'nbs', 'report': (into/'_build'/folder).mkdir(parents=True, exist_ok=True)
    with study.warm_kernels(dict(os.environ), also=['kd_capacity.statistics']) as env, pytest.MonkeyPatch.context() as m:
        for k in 'KD_KERNELS', 'JUPYTER_PATH': m.setenv(k, env[k])
        for name in names or (*REPORTS, 'index'):
            source, made = (ROOT/'nbs'/'index.ipynb', 'nbs') if name == 'index' else (ROOT/'nbs'/'report'/f'{name}.ipynb', 'report')
            papermill.execute_notebook(str(source), str(into/'_build'/made/source.name), parameters=parameters, kernel_name='python3', progress_bar=False)


def make_site(root):
    "The website by nbconvert, whether Quarto is here or not."
    with pytest.MonkeyPatch.context() as m:
        m.setattr(site_build.shutil, 'which', lambda name: None)
        front, made_by = site_build.site(root)
    assert made_by == 'nbconvert' and front == root/'_site'/'index.html'
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
