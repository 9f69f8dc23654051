"""The templates, as papermill runs them: from anywhere, good input and bad."""
import os
import subprocess
from pathlib import Path

import nbformat
import pytest

from conftest import ROOT
from kd_capacity import records

TEMPLATES = ROOT/'nbs'/'experiments'
pytestmark = pytest.mark.usefixtures('warm')


def papermill(template, output, cwd, **given):
    "A call as on the README, small."
    options = [x for k, v in given.items() for x in ('-p', k, str(v))]
    return subprocess.run(['papermill', str(TEMPLATES/f'{template}.ipynb'), str(output), *options, '--no-progress-bar'],
                          cwd=cwd, capture_output=True, text=True)


def test_teacher_then_student_from_two_folders_and_not_twice(tmp_path):
    out = tmp_path/'out'
    out.mkdir()
    assert (ROOT/'out').is_dir()  # papermill does not make the folder that the README's commands write to
    t = papermill('teacher', out/'t.ipynb', ROOT, arch='resnet34', profile='demo', seed=0, epochs=1, width=4)
    assert t.returncode == 0, t.stderr
    teacher = records.load_runs().iloc[0]
    s = papermill('student', 'out/s.ipynb', tmp_path, teacher='resnet34', student='resnet18', method='feature', alpha=0.3, seed=0, profile='demo',
                  epochs=2, width=4, teacher_run=teacher.run_id)
    assert s.returncode == 0, s.stderr
    runs = records.load_runs()
    row = runs[runs.role == 'student'].iloc[0]
    assert len(runs) == 2 and (row.alpha, row.epochs, row.teacher_run) == (0.3, 2, teacher.run_id)
    cells = [c for c in nbformat.read(out/'s.ipynb', 4).cells if c.cell_type == 'code']
    pictures = sum('image/png' in o.get('data', {}) for c in cells for o in c.outputs)
    run_cell = next(c for c in cells if 'training.train' in c.source)
    assert pictures == 3 and len(run_cell.outputs) <= 2 and 'epoch 2/2' in str(run_cell.outputs)  # curves; one line of progress
    path = records.run_folder(row.run_id)/'record.json'
    before = path.stat().st_mtime_ns
    again = papermill('student', 'out/s.ipynb', tmp_path, teacher='resnet34', student='resnet18', method='feature', alpha=0.3, seed=0, profile='demo',
                      epochs=2, width=4, teacher_run=teacher.run_id)
    assert again.returncode == 0 and path.stat().st_mtime_ns == before


@pytest.mark.parametrize('template, given, says', [
    ('student', {'alhpa': 0.5}, "parameter = 'alhpa' is not known"),
    ('student', {'alhpa': 0.5}, "Did you mean 'alpha'?"),
    ('student', dict(teacher='resnet50', method='logit', alpha=1.5), 'alpha = 1.5 is not valid; allowed: a number in [0, 1]'),
    ('student', dict(teacher='resnet50', method='logit', temperature=0), 'temperature = 0 is not valid; allowed: a number > 0'),
    ('teacher', dict(arch='resnet51'), "teacher = 'resnet51' is not known; allowed: 'resnet18'"),
    ('teacher', dict(profile='dmeo'), "Did you mean 'demo'?"),
    ('student', dict(teacher='resnet50', method='logit'), 'Train it with: papermill nbs/experiments/teacher.ipynb'),
])
def test_bad_input_is_one_sentence_and_leaves_nothing(template, given, says, tmp_path):
    done = papermill(template, tmp_path/'o.ipynb', tmp_path, **given)
    assert done.returncode != 0
    shown = done.stderr.split('Exception encountered at')[1]
    assert says in shown and 'kd_capacity/' not in done.stderr and shown.count('UserError') == 1  # no frame of ours
    assert not list(Path(os.environ['KD_RESULTS']).glob('**/*.json'))
