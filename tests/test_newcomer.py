"""What a newcomer stumbled over, each point once, from outside.

1, 2, 5, 7 and 9 stand here. The others: 2 and 3 in tests/method/test_extensions.py (methods, networks and data sets
of one's own), 4 in tests/study/test_study.py (before the first run), 6 in tests/test_wheel.py, 7's call from another
folder in tests/test_readme.py, 8 in tests/test_nbdev.py, 10 in tests/test_help.py."""
import os
import re
import shutil
import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from kd_capacity import claims, figures, pages, sections, statistics, tables
from kd_capacity.basics import UserError
from kd_capacity.calls import notebook_spec
from kd_capacity.example import example_cell, example_frame, write_example
from kd_capacity.profiles import run_spec, study_runs
from kd_capacity.training import train


@pytest.fixture
def results(tmp_path): return tmp_path/'results'


@pytest.fixture
def own_images(tmp_path, monkeypatch):
    "A folder of images of one's own, two classes, as `data = 'image_folder'` reads it."
    rng = np.random.default_rng(0)
    for part, n in (('train', 40), ('test', 8)):
        for i, name in enumerate(('dark', 'light')):
            folder = tmp_path/'images'/part/name
            folder.mkdir(parents=True)
            for k in range(n):
                pixels = rng.integers(100*i, 100*i + 100, (12, 12, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder/f'{k:02d}.png')
    monkeypatch.setenv('KD_IMAGE_FOLDER', str(tmp_path/'images'))


# 1. -p options reach the student and its default teacher

OWN = dict(data='image_folder', validation_size=20, protocol='v2', batch_size=16, width=4, profile='demo')


def test_options_that_both_share_reach_the_default_teacher(own_images, results):
    teacher = notebook_spec({**OWN, 'arch': 'resnet18'}, 'teacher').replace(epochs=1)
    student = notebook_spec({**OWN, 'teacher': 'resnet18', 'student': 'resnet18', 'method': 'logit'}, 'student')
    asked = run_spec('demo', 'teacher', teacher='resnet18', data='image_folder', validation_size=20,
                     protocol='v2', width=4)
    assert student.teacher_run == asked.run_id
    train(teacher, results)
    with pytest.raises(UserError) as refused: train(student.replace(epochs=1), results)
    # not with these epochs, so the sentence names the one that is there, and it is taken at its word
    named = re.search(r'-p teacher_run (\S+)', str(refused.value))[1]
    assert named == teacher.run_id
    assert 'data image_folder' in str(refused.value) and 'validation_size 20' in str(refused.value)
    record = train(student.replace(epochs=1, teacher_run=named), results)
    assert record['status'] == 'complete' and record['data']['name'] == 'image_folder'


# 2. a method's options

def test_betas_that_differ_are_seen_in_the_run_id():
    given = dict(teacher='resnet50', student='resnet18', method='feature')
    names = [run_spec('demo', 'student', beta=beta, **given).run_id for beta in (0.25, 0.75)]
    assert 'b0.25' in names[0] and 'b0.75' in names[1]


# 5. threads

THREADS = """
import os, sys
from kd_capacity.profiles import run_spec
from kd_capacity.training import train
for seed in 0, 1:
    spec = run_spec('demo', 'teacher', teacher='resnet18', width=4, epochs=1, seed=seed)
    print(train(spec, sys.argv[1])['environment']['threads'])
    os.environ['OMP_NUM_THREADS'] = '2'
"""


def test_a_small_run_takes_one_thread_and_says_so(tmp_path):
    "By hand, without OMP_NUM_THREADS, on a machine of several cores; then with it."
    env = {k: v for k, v in os.environ.items() if k != 'OMP_NUM_THREADS'}
    done = subprocess.run([sys.executable, '-c', THREADS, tmp_path], env=env, cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.stdout.split() == ['1', '2'], done.stderr


# 7. what a run shows, and where from it can be started

def papermill(name, output, cwd, **given):
    options = [x for key, value in given.items() for x in ('-p', key, str(value))]
    return subprocess.run([sys.executable, '-m', 'papermill', ROOT/'nbs'/'experiments'/f'{name}.ipynb', output,
                           *options, '--no-progress-bar'], cwd=cwd, capture_output=True, text=True)


def shown(notebook):
    "Everything that the cell of the run shows."
    cells = [c for c in nbformat.read(notebook, 4).cells if c.cell_type == 'code']
    run = next(c for c in cells if 'train_in_notebook' in c.source)
    return [o.get('text') or o['data']['text/plain'] for o in run.outputs]


def test_a_run_shows_its_progress_and_a_second_call_that_it_was_read(tmp_path, warm):
    given = dict(arch='resnet18', profile='demo', seed=0, epochs=1, width=4)
    first = papermill('teacher', 'first.ipynb', tmp_path, **given)  # from a folder that is no clone
    assert first.returncode == 0, first.stderr
    assert 'TCP' not in first.stderr + first.stdout
    line, = shown(tmp_path/'first.ipynb')
    assert 'epoch 1/1' in line and not re.search(r"""["']""", line)
    second = papermill('teacher', 'second.ipynb', tmp_path, **given)
    assert second.returncode == 0, second.stderr
    line, = shown(tmp_path/'second.ipynb')
    assert 'read' in line and 'record' in line and 'starting' not in line


# 9. a profile of one's own in the report

MINE = 'extends = "demo"\ndescription = "mine"\nseeds = [0, 1]\nclipping_ablation = []\nstem_ablation = []\n'


@pytest.fixture
def mine(tmp_path, monkeypatch):
    "The report of a profile without ablations, whose records stand beside those of the demo."
    shutil.copytree(ROOT/'workflow'/'profiles', tmp_path/'profiles')
    (tmp_path/'profiles'/'mine.toml').write_text(MINE)
    monkeypatch.setenv('KD_PROFILES', str(tmp_path/'profiles'))
    for name in 'mine', 'demo': write_example(study_runs(name), tmp_path/'results')
    return pages.open_report({'profiles': 'mine', 'results': str(tmp_path/'results')})


def test_results_of_a_profile_without_ablations_are_its_own(mine):
    assert mine.names == ['paper', 'mine']
    study = mine.studies[1]
    assert set(study.runs.profile) == {'mine'} and not set(study.runs.stage) & {'clipping', 'stem'}
    for section in sections.gains_section, sections.clipping_section, sections.stem_section:
        assert len(list(section(mine))) > 1
    assert not len(tables.clipping_ablation(study.runs)) and len(study.gains) == 6
    assert tables.clipping_finding(tables.clipping_ablation(study.runs)) == 'The study has no clipping ablation'


def test_no_interval_of_an_accuracy_leaves_what_is_possible():
    wide = [.93, .97, 1.]
    baselines = example_frame(example_cell(run_spec('demo', 'baseline', student='resnet18'), wide))
    assert statistics.summary(wide)['mean_high'] > 103.5
    assert tables.accuracy_table(baselines).mean_high.max() == 100
    shown = tables.accuracy_text(tables.accuracy_table(baselines))['95 % interval, %'][0]
    assert '103' not in shown and 'cut at what is possible' in shown


@pytest.mark.parametrize('low, high', [(5, 80), (.04, 30), (1e-4, .4), (6, 7)])
def test_ticks_of_a_log_scale_are_plain_numbers(low, high):
    ax = plt.figure().add_subplot()
    ax.set_yscale('log'); ax.set_ylim(low, high)
    figures.plain_log_ticks(ax.yaxis)
    ax.figure.canvas.draw()
    shown = [t.get_text() for t in ax.get_yticklabels(which='both') if t.get_text()]
    plt.close(ax.figure)
    assert shown and not [t for t in shown if not re.fullmatch(r'[\d.,]+', t)]


def test_the_question_on_the_clip_names_the_version_that_says_yes_and_the_one_that_says_no():
    question = next(q for q in claims.QUESTIONS.values() if 'clipping' in q)
    sides = {c.id for c in claims.CLAIMS if c.quantity == 'Feature-KD clipped correctly minus with the defect'}
    assert sides == {'v1.2', 'v2.7'} and all(side in question for side in sides)
