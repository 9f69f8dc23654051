"""Every command in the README is run: as written, or, where it would train for days, as far as it goes without training."""
import os
import re
import shutil
import subprocess

import pytest

from conftest import ROOT
from kd_capacity import records

BLOCKS = re.findall(r'(?m)^    (\S.*)$', (ROOT/'README.md').read_text())
OF_A_RUN = '. ', 'papermill ', 'mkdir '
BY_CI = ['make demo', 'make test']  # .ci/run runs these two, and nothing else


def shell(command, **more):
    return subprocess.run(['bash', '-c', command], cwd=ROOT, capture_output=True, text=True, env={**os.environ, **more})


def test_ci_runs_the_two_commands_and_nothing_else():
    lines = [line for line in (ROOT/'.ci'/'run').read_text().splitlines() if line and not line.startswith(('#', 'set ', 'cd '))]
    assert lines == BY_CI and BLOCKS[:2] == BY_CI


def test_the_single_run_as_written(tmp_path, kernel_server):
    one = [c for c in BLOCKS if c.startswith(OF_A_RUN)]
    assert len(one) == 5 and 'mkdir' in one[3]
    here, elsewhere = one[:3], [one[0], f'cd {tmp_path}', *one[3:]]
    shutil.copytree(ROOT/'workflow'/'profiles', tmp_path/'profiles')
    demo = tmp_path/'profiles'/'demo.toml'  # the epochs are those of `make demo`; here one is enough
    demo.write_text(re.sub(r'(?m)^(teacher_)?epochs = \d+$', r'\1epochs = 1', demo.read_text()))
    for commands, kernels in (here, {}), (elsewhere, kernel_server): # the second reads what the first has trained
        done = shell(' && '.join(commands), KD_PROFILES=str(tmp_path/'profiles'), **kernels)
        assert done.returncode == 0, done.stderr
        assert 'TCP' not in done.stdout + done.stderr
    assert (tmp_path/'out'/'teacher.ipynb').exists()
    runs = records.load_runs().set_index('role')
    assert (runs.teacher['teacher'], runs.epochs['teacher']) == ('resnet50', 1)
    assert runs.loc['student', ['teacher', 'student', 'method', 'alpha', 'epochs']].tolist() == ['resnet50', 'resnet34', 'feature', 0.5, 1]


def test_make_plan_as_written():
    done = shell(next(c for c in BLOCKS if c.startswith('make plan')))
    assert done.returncode == 0 and '120 runs' in done.stdout, done.stderr


@pytest.mark.parametrize('command, starts', [('make study PROFILE=paper-v2 JOBS=4', 'kd_capacity.study run paper-v2 --jobs 4'),
                                             ('make report PROFILE=paper-v2', '_site/index.html'), ('make lab', 'jupyter lab'), ('make export', 'nbdev_export'), ('make bench', 'nbs/report/benchmark.ipynb'),
                                             ('make quarto', 'quarto-cli'),
                                             ('make report RUNS=authors AUTHORS_ZIP=raw_results_json.zip', '_site/index.html')])
def test_what_would_train_for_days_or_open_a_window_names_its_program(command, starts):
    assert command in (ROOT/'README.md').read_text()
    done = shell(f'{command} --dry-run')
    assert done.returncode == 0 and starts in done.stdout


def test_no_command_is_left_untested():
    tested = {*BY_CI, *(c for c in BLOCKS if c.startswith((*OF_A_RUN, 'make plan'))), 'make study PROFILE=paper-v2 JOBS=4', 'make report PROFILE=paper-v2'}
    assert set(BLOCKS) == tested
