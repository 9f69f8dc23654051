"""The study: Snakemake walking it, what is said before its first run and after its last, GPUs, limited time."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT
from made_up import tiny_profile, write

from kd_capacity import records, study
from kd_capacity.basics import UserError
from kd_capacity.profiles import DistilledCell, study_runs


def refusal(*given, **more):
    "What `python -m kd_capacity.study` says when it refuses; --help and a real process are tried in tests/test_help.py."
    before = signal.getsignal(signal.SIGTERM) # a command handles it, until its process ends
    try:
        with pytest.raises(SystemExit) as e: study.main(*given, **more)
    finally: signal.signal(signal.SIGTERM, before)
    assert '\n' not in e.value.code
    return e.value.code


def test_make_plan_and_a_bad_profile(): assert "Did you mean 'paper-v2'?" in refusal('plan', 'papre-v2')


def test_snakemake_walks_selects_goes_on_after_a_failure_and_does_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setenv('KD_PROFILES', str(tmp_path/'profiles'))
    (tmp_path/'profiles').mkdir()
    (tmp_path/'profiles'/'tiny.toml').write_text(tiny_profile(selection=True))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', 'MIG-11/2/0,7')  # two GPUs, as far as study, Snakemake and papermill can tell
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
    assert first.stderr.strip().splitlines()[-1].startswith('The first reason: failed: the loss was not finite')
    assert 'running over TCP' not in first.stdout + first.stderr and not any('running over TCP' in p.read_text() for p in results.rglob('*.log'))
    assert '4 of 5 runs done, 1 failed' in first.stdout
    runs = records.load_runs(results)
    selected = study.read_selection('tiny', results)[DistilledCell('resnet34', 'resnet18', 'feature')]['alpha']
    best = runs[runs.stage == 'select'].sort_values(['validation_best', 'alpha'], ascending=[False, True]).iloc[0]
    assert selected == best.alpha and runs[(runs.stage == 'final') & (runs.role == 'student')].alpha.tolist() == [selected]

    (records.run_folder(baseline.run_id, results)/'record.json').unlink()
    before = {p: p.stat().st_mtime_ns for p in results.glob('**/record.json')}
    assert run().returncode == 0  # only the missing run
    after = {p: p.stat().st_mtime_ns for p in results.glob('**/record.json')}
    assert len(after) == 5 and all(after[p] == t for p, t in before.items())
    trained = [records.read_record(s, results)['environment']['visible_devices'] for s in study.runs_of('tiny', results)]
    assert set(trained) == {'MIG-11/2/0', '7'}, 'each kernel sees one of them, and its record says which'
    assert (records.run_folder(baseline.run_id, results)/'run.ipynb').exists()


# --- the order of starts

def stand_in(folder, does):
    "A `papermill` that comes before the real one: it is told the executed notebook, as snakemake gives it."
    folder.mkdir()
    (folder/'papermill').write_text(f'#!{sys.executable}\nimport os, sys, pathlib\nnotebook = pathlib.Path(sys.argv[2])\n{does}\n')
    (folder/'papermill').chmod(0o755)
    return {**os.environ, 'PATH': f'{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'}


def test_teachers_come_first_then_seed_by_seed(tmp_path, monkeypatch):
    results = tiny(tmp_path, monkeypatch)
    text = tiny_profile().replace('seeds = [0]', 'seeds = [1, 0]\nteacher_seeds = [0, 1]\nstem_ablation = [{ arch = "resnet18", seeds = [0, 1] }]')
    (tmp_path/'profiles'/'tiny.toml').write_text(text.replace('[["resnet34", "resnet18"]]', '[["resnet34", "resnet18"], ["resnet50", "resnet18"]]'))
    log = tmp_path/'order'
    env = stand_in(tmp_path/'bin', f'open({str(log)!r}, "a").write(f"{{notebook.parent.relative_to({str(results)!r})}}\\n"); notebook.touch()')
    subprocess.run(study.snakemake_command('tiny', results, 1), env=env, check=True, capture_output=True)
    specs = study.runs_of('tiny', results)
    started = [specs[run_id] for run_id in log.read_text().split()]
    assert len(started) == len(specs) == 12
    kinds = [(s.stage, s.seed) for s in started]
    assert kinds[:2] == [('teacher', 0)]*2
    for seed, place in (0, 2), (1, 6):
        teachers = 2*seed  # nobody waits for those of seed 1
        assert kinds[place:place + 4 + teachers] == [('teacher', 1)]*teachers + [('final', seed)]*3 + [('stem', seed)]
        assert started[place + teachers].role == 'baseline'


# --- before the first run

def call(*given, **env):
    return subprocess.run([sys.executable, '-m', 'kd_capacity.study', *map(str, given)], capture_output=True, text=True, env={**os.environ, **env})


def tiny(tmp_path, monkeypatch, **settings):
    (tmp_path/'profiles').mkdir()
    (tmp_path/'profiles'/'tiny.toml').write_text(tiny_profile(**settings))
    monkeypatch.setenv('KD_PROFILES', str(tmp_path/'profiles'))
    return tmp_path/'results'


def test_without_images_nothing_is_started_and_the_reason_is_said(tmp_path, monkeypatch, capsys):
    results = tiny(tmp_path, monkeypatch, data='image_folder', selection=True)
    monkeypatch.setenv('KD_IMAGE_FOLDER', str(tmp_path/'none'))
    assert str(tmp_path/'none') in refusal('run', 'tiny', results=str(results))
    assert capsys.readouterr().out == '' and not list(tmp_path.rglob('papermill.log'))


def test_a_teacher_that_came_without_its_weights_is_named_before_its_students_start(tmp_path, monkeypatch):
    results = tiny(tmp_path, monkeypatch)
    teacher = next(s for s in study_runs('tiny') if s.role == 'teacher')
    write([teacher], results)
    with pytest.raises(UserError, match='has a record and no weights.pt'): study.preflight('tiny', results)
    (records.run_folder(teacher.run_id, results)/'weights.pt').touch()
    study.preflight('tiny', results)


def test_a_full_disk_is_said_before_the_first_run(tmp_path, monkeypatch):
    import shutil
    full = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(study.shutil, 'disk_usage', lambda folder: full)
    with pytest.raises(UserError, match='0.0 GB free'): study.preflight('demo', tmp_path/'not'/'there')


def test_a_run_that_could_not_start_says_why_last(tmp_path, monkeypatch, capsys):
    results = tiny(tmp_path, monkeypatch, selection=True)
    folder = records.run_folder(next(iter(study.runs_of('tiny', results))), results)
    folder.mkdir(parents=True)
    (folder/'papermill.log').write_text('…\nUserError: CIFAR-10 is not complete in /x.\n')
    study._report_failures('tiny', results, 1)
    assert capsys.readouterr().err.strip().endswith('The first reason: CIFAR-10 is not complete in /x.')


def test_a_command_that_is_none_is_refused(): assert "Did you mean 'run'?" in refusal('rnu', 'demo')


# --- one GPU for each run

SHOW = 'import os, sys, time; print(os.environ["CUDA_VISIBLE_DEVICES"], os.environ["KD_JOBS"], flush=True); time.sleep(float(sys.argv[1]))'


def on_gpu(names, share, folder, seconds):
    wrapper = ROOT/'workflow'/'on_gpu.py'
    return subprocess.Popen([sys.executable, wrapper, names, str(share), folder, sys.executable, '-c', SHOW, str(seconds)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize('names, jobs', [('0', 1), ('0', 3), ('0,1', 2), ('0,1', 5), ('MIG-a/1/0,MIG-b', 2), ('0,1,2,3,4,5,6,7', 8)])
def test_runs_are_spread_over_the_gpus(names, jobs, tmp_path, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', names)
    slots = study.gpu_slots(jobs)
    assert len(slots.gpus)*slots.share >= jobs
    running = [on_gpu(','.join(slots.gpus), slots.share, tmp_path/'slots', 60) for _ in range(jobs)]
    seen = [p.stdout.readline().split() for p in running]
    for p in running: p.kill()
    for p in running: p.wait()
    counts = [[gpu for gpu, _ in seen].count(name) for name in names.split(',')]
    assert sum(counts) == jobs and max(counts) - min(counts) <= 1 and {share for _, share in seen} == {str(slots.share)}


def test_a_slot_is_free_again_when_its_run_is_killed(tmp_path):
    first = on_gpu('7', 1, tmp_path/'slots', 60)
    assert first.stdout.readline().split()[0] == '7'
    second = on_gpu('7', 1, tmp_path/'slots', 0)
    time.sleep(1)
    assert second.poll() is None  # waits
    first.kill(); first.wait()
    assert second.wait(300) == 0 and second.stdout.readline().split()[0] == '7'


def test_without_gpus_the_runs_are_not_wrapped(monkeypatch):
    for names in '', '-1':
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', names)
        assert 'gpus=none' in study.snakemake_command('demo', 'r', 2)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,1')
    command = study.snakemake_command('demo', 'r', 4)
    assert {'gpus=0,1', 'share=2', 'gpu_slot=4'} <= set(command)


# --- limited time

def test_a_study_stops_in_time_and_leaves_nothing_running(tmp_path, monkeypatch):
    results = tiny(tmp_path, monkeypatch, epochs=20000)
    done = call('run', 'tiny', '--results', results, '--limit', '10s')
    assert done.returncode == 0, done.stderr
    assert 'The time is up; ' in done.stdout and 'runs are left' in done.stdout
    states = [study.state_of(run_id, results) for run_id in study.runs_of('tiny', results)]
    assert set(states) <= {'to do', 'begun'}, states


def test_a_length_of_time_is_checked(tmp_path):
    assert "'soon' is no length of time" in refusal('run', 'demo', results=str(tmp_path), limit='soon')
