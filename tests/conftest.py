"""Shared by all tests: one torch thread, results and data in temporary folders, a small trained teacher."""
import os
import sys
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
import pytest
import torch

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent/'shared'
SMALL = dict(width=4, epochs=2)  # a run of about a second


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    "No test touches the repository's results or data."
    for name in 'KD_RESULTS', 'KD_DATA': monkeypatch.setenv(name, str(tmp_path/name))


@pytest.fixture(scope='session')
def made_once(tmp_path_factory, request):
    "A function: a folder of this name, filled by `make` in the first process that asks for it."
    from filelock import FileLock
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, 'workerinput') else base  # a worker of xdist has a folder in that of all
    def once(name, make):
        root = shared/name
        with FileLock(f'{root}.lock'):
            if not (root/'made').exists():
                root.mkdir()
                make(root)
                (root/'made').touch()
        return root
    return once


@pytest.fixture(scope='session')
def trained_teacher(made_once):
    "(results folder, spec) of a small ResNet-34 trained on the digits; copy the folder before changing it."
    from kd_capacity.config import run_spec
    from kd_capacity.training import train
    spec = run_spec('demo', 'teacher', teacher='resnet34').replace(**SMALL)
    given = os.environ.get('KD_TRAINED_TEACHER')  # by tests/test_mutations.py: a mistake has to fail its test, not this training
    return Path(given) if given else made_once('teacher', lambda root: train(spec, root/'results'))/'results', spec


@pytest.fixture
def teacher(trained_teacher, tmp_path):
    "The same in a results folder of the test's own."
    import shutil
    results = tmp_path/'results'
    shutil.copytree(trained_teacher[0], results)
    return results, trained_teacher[1]


@pytest.fixture
def student_spec(trained_teacher):
    "A function that makes the spec of a small student of that teacher."
    from kd_capacity.config import run_spec
    def make(method='feature', **more):
        spec = run_spec('demo', 'student', teacher='resnet34', student='resnet18', method=method)
        return spec.replace(**{**SMALL, 'teacher_run': trained_teacher[1].run_id, **more})
    return make


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    "One server of warm kernels for all workers of xdist; it ends with their controller."
    import contextlib
    import json

    from sites import report_kernels
    stack = contextlib.ExitStack()
    if not hasattr(node.config, 'kernels'):
        node.config.kernels = json.dumps(stack.enter_context(report_kernels()))
        node.config.add_cleanup(stack.close)
    node.workerinput['kernels'] = node.config.kernels


def pytest_configure(config):
    if 'kernels' in getattr(config, 'workerinput', {}): os.environ['KD_TEST_KERNELS'] = config.workerinput['kernels']


@pytest.fixture(scope='session')
def kernel_server():
    "What processes need in their environment to find a papermill and kernels that are forked, not started."
    import subprocess

    from sites import report_kernels
    with report_kernels() as env:
        subprocess.run(['papermill', '--version'], env={**os.environ, **env}, check=True, capture_output=True)  # waits for the server
        yield env


@pytest.fixture
def warm(kernel_server, monkeypatch):
    "papermill takes a second less here: its kernel is forked. tests/test_readme.py starts it as a user does."
    for name, value in kernel_server.items(): monkeypatch.setenv(name, value)


@pytest.fixture(scope='session')
def git():
    "Where there is no git, the tests that need it are skipped and say so."
    import shutil
    if not shutil.which('git'): pytest.skip('no git on PATH, so nothing was asked of it')


@pytest.fixture(scope='session')
def browser():
    "A real browser; where there is none, the tests that need it are skipped and say so."
    import shutil
    chromium = shutil.which('chromium')
    if not chromium: pytest.skip('no chromium on PATH, so no page was opened')
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed, so no page was opened')
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-gpu'])
        yield opened
        opened.close()


@pytest.fixture(scope='session')
def full(made_once):
    "The website of `sites.make_full`, by pandoc."
    from sites import make_full
    return made_once('full', make_full)/'_site'


@pytest.fixture(scope='session')
def staged(made_once):
    "Every page staged, in a repository without a run; for reading."
    from sites import make_staged
    return made_once('staged', make_staged)


@pytest.fixture(scope='session')
def empty(made_once):
    "The website of a repository without a run."
    from sites import make_empty
    return made_once('empty', make_empty)/'_site'


@pytest.fixture(scope='session')
def full_by_quarto(full, made_once):
    "The same website by the real Quarto; where there is none, its tests are skipped and say so."
    import shutil
    from sites import make_with_quarto
    if not shutil.which('quarto'): pytest.skip('no quarto on PATH, so no page was made by it')
    return made_once('quarto', lambda root: make_with_quarto(root, full))/'_site'


@pytest.fixture(scope='module', autouse=True)
def no_page_is_kept():
    "Parsed pages are millions of objects, which would slow the tests that come after."
    yield
    if 'sites' in sys.modules: sys.modules['sites'].soup.cache_clear()


# Files that take longest come first, so that no process is left alone with one at the end.
# One of those that need the website goes first: the others would wait for what it makes.
LONG = [f'test_{name}.py' for name in (
    'browser study readme claims resume mutations engine nbdev pages one_cell wheel newcomer '
    'explorer report site_build quarto run_pages').split()]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda i: LONG.index(i.path.name) if i.path.name in LONG else len(LONG))


def pytest_collection_finish():
    "What was imported stays to the end, and need not be looked through at each collection of garbage."
    import gc
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    "One line that says what was not checked here, and why."
    reasons = [r.longrepr[2] for r in terminalreporter.stats.get('skipped', ())
               if isinstance(r.longrepr, tuple)]
    counts = {reason.removeprefix('Skipped: '): reasons.count(reason) for reason in reasons}
    if not counts: return
    text = '; '.join(f'{n} tests ({reason})' for reason, n in counts.items())
    terminalreporter.write_line(f'Not checked here: {text}')
