"""The study: its graph, what is selected, what it costs, and Snakemake walking it."""
import json
import os
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

from made_up import write

from kd_capacity import records, study
from kd_capacity.config import UserError, profile, study_runs

TINY = '''description = "for tests"
pairs = [["resnet34", "resnet18"]]
methods = ["feature"]
seeds = [0]
teacher_epochs = 1
selection = { seed = 0, alphas = [0.3, 0.7], temperatures = [4.0] }
[run]
data = "digits"
width = 2
epochs = 1
protocol = "v2"
validation_size = 150
padding = 1
flip = false
'''


def made(name, **columns):
    "Selection-stage rows of a profile with accuracies from functions of the spec."
    return pd.DataFrame([{'profile': s.profile, 'stage': s.stage, 'run_id': s.run_id, **{k: f(s) for k, f in columns.items()}}
                         for s in study_runs(name) if s.stage == 'select'])


def test_v2_selects_by_validation_alone():
    runs = made('paper-v2', validation_best=lambda s: 0.9 + (s.alpha == 0.7)/100, test_best=lambda s: 0.9 + (s.alpha == 0.3)/10)
    chosen = study.select(runs, profile('paper-v2'))
    assert len(chosen) == 8 and {c['alpha'] for c in chosen.values()} == {0.7}


def test_v1_selects_by_test_as_the_paper_did():
    runs = made('paper-v1-grid', validation_best=lambda s: float('nan'), test_best=lambda s: 0.9 + (s.alpha == 0.3)/10)
    assert {c['alpha'] for c in study.select(runs, profile('paper-v1-grid')).values()} == {0.3}


def test_a_selection_with_a_hole_is_refused():
    runs = made('paper-v2', validation_best=lambda s: 0.9, test_best=lambda s: 0.9)
    with pytest.raises(UserError, match='run it before anything is selected'): study.select(runs[:-1], profile('paper-v2'))


def test_every_run_comes_after_what_it_needs():
    for name in 'demo', 'fast', 'paper-v1', 'paper-v2':
        order = list(study.runs_of(name))
        assert all(order.index(t) < order.index(r) for r, s in study.runs_of(name).items() for t in study.after(s))


def test_the_plan_names_every_run_its_cost_and_trains_nothing(tmp_path):
    table, speed, source = study.plan('paper-v1', tmp_path, speed=1e15)
    assert len(table) == 37 and list(tmp_path.iterdir()) == []
    main = table[table.stage.isin(['teacher', 'final'])]
    assert len(main) == 26 and abs(main.PFLOP.sum()/1000 - 0.94) < 0.01
    assert abs(table.hours.sum() - table.PFLOP.sum()/3600) < 1e-6


def test_a_dead_process_does_not_count_as_running(tmp_path):
    folder = tmp_path/'demo'/'x'
    folder.mkdir(parents=True)
    import platform
    process = subprocess.Popen(['true'])
    process.wait()
    for pid, state in ((os.getpid(), 'running (epoch 0)'), (process.pid, 'to do')):
        (folder/'owner.json').write_text(json.dumps({'pid': pid, 'host': platform.node(), 'since': ''}))
        assert study.state_of('demo/x', tmp_path) == state


def test_a_finished_study_needs_no_images_to_say_so(tmp_path, monkeypatch):
    (tmp_path/'profiles').mkdir()
    (tmp_path/'profiles'/'mine.toml').write_text(TINY.replace('"digits"', '"image_folder"').replace('selection', '# selection'))
    monkeypatch.setenv('KD_PROFILES', str(tmp_path/'profiles'))
    monkeypatch.delenv('KD_IMAGE_FOLDER', raising=False)
    specs = study_runs('mine')
    write(specs[1:], tmp_path)
    assert study.progress('mine', tmp_path) == f'{len(specs) - 1} of {len(specs)} runs done'
    write(specs[:1], tmp_path)
    assert study.progress('mine', tmp_path) == f'{len(specs)} of {len(specs)} runs done'


def test_make_plan_and_a_bad_profile():
    done = subprocess.run([sys.executable, '-m', 'kd_capacity.study', 'plan', 'papre-v2'], capture_output=True, text=True)
    assert done.returncode == 1 and "Did you mean 'paper-v2'?" in done.stderr and 'Traceback' not in done.stderr


def test_snakemake_walks_selects_goes_on_after_a_failure_and_does_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setenv('KD_PROFILES', str(tmp_path/'profiles'))
    (tmp_path/'profiles').mkdir()
    (tmp_path/'profiles'/'tiny.toml').write_text(TINY)
    results = tmp_path/'results'
    baseline = next(s for s in study_runs('tiny') if s.role == 'baseline')
    hot = baseline.replace(lr=1e30, clipping='none')  # a record of a failed run, under the id of a run of the study
    from kd_capacity.training import RunFailed, train
    with pytest.raises(RunFailed): train(hot, tmp_path/'hot')
    failed = records.read_record(hot.run_id, tmp_path/'hot')
    records.write_record({**failed, 'run_id': baseline.run_id}, results)

    def run(): return subprocess.run([sys.executable, '-m', 'kd_capacity.study', 'run', 'tiny', '--jobs', '2', '--results', str(results)],
                                     capture_output=True, text=True)
    first = run()
    assert first.returncode != 0 and f'{baseline.run_id} failed: the loss was not finite at step' in first.stderr
    assert '4 of 5 runs done, 1 failed' in first.stdout
    runs = records.load_runs(results)
    selected = study.read_selection('tiny', results)['resnet34', 'resnet18', 'feature']['alpha']
    best = runs[runs.stage == 'select'].sort_values(['validation_best', 'alpha'], ascending=[False, True]).iloc[0]
    assert selected == best.alpha and runs[(runs.stage == 'final') & (runs.role == 'student')].alpha.tolist() == [selected]

    (records.run_folder(baseline.run_id, results)/'record.json').unlink()
    before = {p: p.stat().st_mtime_ns for p in results.glob('**/record.json')}
    assert run().returncode == 0  # only the missing run
    after = {p: p.stat().st_mtime_ns for p in results.glob('**/record.json')}
    assert len(after) == 5 and all(after[p] == t for p, t in before.items())
    assert (records.run_folder(baseline.run_id, results)/'run.ipynb').exists()
