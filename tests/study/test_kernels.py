"""Kernels forked for a study's notebooks: like ordinary ones, and gone when nobody needs them."""
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from kd_capacity.kernels import warm_kernels


def notebook(path, source):
    kernel = {'name': 'python3', 'display_name': 'python3', 'language': 'python'}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata={'kernelspec': kernel}), path)
    return path


def papermill(path, env, command=(sys.executable, '-m', 'papermill'), **more):
    return subprocess.Popen([*command, str(path), str(path.with_suffix('.out.ipynb')), '--cwd', str(path.parent), '--no-progress-bar'],
                            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def gone(pid, within=300):
    for _ in range(within*10):
        try: os.kill(pid, 0)
        except ProcessLookupError: return True
        time.sleep(.1)
    return False


def written(path, within=300):
    for _ in range(within*10):
        if path.exists() and path.read_text(): return path.read_text()
        time.sleep(.1)
    pytest.fail(f'{path} was never written')


FORKED = ['papermill']  # the first on the PATH of warm kernels


@pytest.mark.parametrize('command', [[sys.executable, '-m', 'papermill'], FORKED], ids=['started', 'forked'])
def test_a_kernel_ends_when_papermill_is_killed_and_others_live_on(command, tmp_path, warm):
    (tmp_path/'a').mkdir(), (tmp_path/'b').mkdir()
    first = papermill(notebook(tmp_path/'a'/'n.ipynb', "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"), os.environ, command)
    other = papermill(notebook(tmp_path/'b'/'n.ipynb', "import os; open('pid', 'w').write(str(os.getpid())); print(sum(range(10)))"), os.environ, command)
    kernel = int(written(tmp_path/'a'/'pid'))
    first.send_signal(signal.SIGKILL)
    assert gone(kernel)
    assert other.wait(600) == 0, other.stdout.read()
    assert int(written(tmp_path/'b'/'pid')) != kernel and gone(int(written(tmp_path/'b'/'pid')))


def test_an_error_in_a_cell_is_papermills_error(tmp_path, warm):
    done = papermill(notebook(tmp_path/'n.ipynb', 'int("one")'), os.environ)
    assert done.wait(600) == 1 and 'ValueError: invalid literal' in done.stdout.read()


def test_a_forked_papermill_says_and_returns_what_a_started_one_does(tmp_path, warm):
    both = []
    for i, command in enumerate(([sys.executable, '-m', 'papermill'], FORKED)):
        (tmp_path/str(i)).mkdir()
        path = notebook(tmp_path/str(i)/'n.ipynb', 'import os; print(os.getcwd(), os.environ["MARK"], 1/0)')
        done = papermill(path, {**os.environ, 'MARK': 'mine'}, command)
        status, text = done.wait(600), done.stdout.read()
        assert status == 1 and 'ZeroDivisionError' in text
        made = nbformat.read(path.with_suffix('.out.ipynb'), 4)
        start, frames = text.split('/click/core.py', 1)
        assert 'kd_capacity' not in start.rpartition('Traceback')[2]  # no frame of ours
        both.append((frames.replace(str(path.parent), ''), [c.source for c in made.cells]))
    assert both[0] == both[1]
    asked = [subprocess.run([*command, *more], capture_output=True, text=True, check=False, cwd=tmp_path)
             for command in ([sys.executable, '-m', 'papermill'], FORKED) for more in (['--foo'], ['--version'])]
    assert [done.returncode for done in asked] == [2, 0, 2, 0] and 'No such option' in asked[2].stderr
    assert asked[1].stdout == asked[3].stdout


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_forked_papermill_and_its_kernel(number, tmp_path, warm):
    ended = papermill(notebook(tmp_path/'n.ipynb', "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"), os.environ, FORKED)
    kernel = int(written(tmp_path/'pid'))
    ended.send_signal(number)
    assert ended.wait(600) != 0 and gone(kernel)


def test_a_kernel_is_told_of_the_sigterm_that_papermill_gets(tmp_path, warm):
    source = """import os, signal, time
def told(*_): open('told', 'w').write('yes'); os._exit(0)
signal.signal(signal.SIGTERM, told)
open('pid', 'w').write(str(os.getpid())); time.sleep(600)"""
    ended = papermill(notebook(tmp_path/'n.ipynb', source), os.environ, FORKED)
    written(tmp_path/'pid')
    ended.send_signal(signal.SIGTERM)
    assert written(tmp_path/'told') == 'yes' and ended.wait(600) != 0


def test_a_server_that_is_gone_is_said_in_words(tmp_path):
    with warm_kernels(dict(os.environ)) as env: pass
    done = papermill(notebook(tmp_path/'n.ipynb', '1'), env)
    assert done.wait(600) == 1 and 'The kernel server of the study is gone' in done.stdout.read()


@pytest.mark.parametrize('command', [[sys.executable, '-m', 'papermill'], FORKED], ids=['started', 'forked'])
def test_a_kernel_has_the_environment_of_its_caller_and_nothing_of_the_servers(command, tmp_path, warm):
    env = {k: v for k, v in os.environ.items() if k != 'OMP_NUM_THREADS'} | {'MINE': '1'}  # the server has the one, not the other
    done = papermill(notebook(tmp_path/'n.ipynb', "import os; print(os.environ.get('OMP_NUM_THREADS'), os.environ['MINE'])"), env, command)
    assert done.wait(600) == 0, done.stdout.read()
    assert nbformat.read(tmp_path/'n.out.ipynb', 4).cells[0].outputs[0].text == 'None 1\n'


def test_figures_are_shown_as_in_an_ordinary_kernel(tmp_path, warm):
    source = 'import matplotlib.pyplot as plt\nax = plt.subplots()[1]; ax.plot([0, 1]);'
    done = papermill(notebook(tmp_path/'n.ipynb', source), os.environ)
    assert done.wait(600) == 0, done.stdout.read()
    cell = nbformat.read(tmp_path/'n.out.ipynb', 4).cells[0]
    assert ['image/png' in o.get('data', {}) for o in cell.outputs] == [True]


def test_the_server_ends_when_its_study_is_killed():
    psutil = pytest.importorskip('psutil')
    study = subprocess.Popen([sys.executable, '-m', 'kd_capacity.study', 'warm', 'sleep', '600'])
    children = lambda: psutil.Process(study.pid).children()
    for _ in range(3000):
        if len(children()) == 2: break  # the server and what it serves
        time.sleep(.1)
    server, sleeper = sorted(children(), key=lambda p: p.name() == 'sleep')
    study.send_signal(signal.SIGKILL)
    study.wait()
    sleeper.kill()
    assert gone(server.pid, within=300)
