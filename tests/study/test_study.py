"""The study: Snakemake walking it, what is said before its first run and after its last, GPUs, limited time."""
import contextlib
import io
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from conftest import ROOT
from made_up import tiny_profile, write

from kd_capacity import records, study
from kd_capacity.basics import UserError
from kd_capacity.profiles import DistilledCell, study_runs
from kd_capacity.progress import SeenRecord


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


# --- what a call starts, says and returns; its processes left out

@pytest.fixture
def walked(monkeypatch):
    "Calls of `_walk`, which starts nothing and says 3."
    calls = []
    def walk(command, env, log, progress, deadline, ending=signal.SIGTERM):
        calls.append(types.SimpleNamespace(command=command, env=env, log=log, progress=progress, deadline=deadline, ending=ending))
        return 3
    monkeypatch.setattr(study, '_walk', walk)
    monkeypatch.setattr(study, 'warm_kernels', lambda env, log: contextlib.nullcontext({**env, 'WARM': str(log)}))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    return calls


def test_a_study_here_is_walked_with_warm_kernels(walked, tmp_path, monkeypatch, capsys):
    checked = []
    monkeypatch.setattr(study, 'preflight', lambda *given: checked.append(given))
    assert study.run_study('demo', tmp_path/'x'/'..'/'r', 3, more=('--dry-run',)) == 3
    call, = walked
    results = (tmp_path/'r').resolve()
    assert checked == [('demo', results, 3)]
    assert call.command == study.snakemake_command('demo', results, 3, '--dry-run')
    assert call.log == results/'demo'/'snakemake.log' and call.log.read_text() == '' and call.env['WARM'] == str(call.log)
    assert (call.env['KD_JOBS'], call.env['KD_RESULTS']) == ('3', str(results))
    assert (call.progress.name, call.progress.results, call.progress.jobs) == ('demo', results, 3)
    assert call.deadline is None and call.ending == signal.SIGTERM
    assert capsys.readouterr().out == f'0 of {len(study.runs_of("demo", results))} runs done\n'


def test_a_study_whose_time_is_up_says_what_is_left(walked, tmp_path, monkeypatch, capsys):
    results = tiny(tmp_path, monkeypatch)
    specs = study_runs('tiny')
    write(specs[:1], results)
    (records.run_folder(specs[0].run_id, results)/'weights.pt').touch()
    study.run_study('tiny', results, limit='1h')
    limit = walked[0].deadline
    assert limit.here and abs(limit.end - time.monotonic() - 3600) < 60 and 'The time is up' not in capsys.readouterr().out
    walk = study._walk
    def in_time(*given):
        given[4].closing = True
        return walk(*given)
    monkeypatch.setattr(study, '_walk', in_time)
    study.run_study('tiny', results, limit='1h')
    left = study.time_left(walked[1].progress)
    assert capsys.readouterr().out.splitlines()[1] == (
        f'The time is up; 2 runs are left, about {study.duration_text(left)} of training. Give the same command again to go on.')
    write(specs, results, failure={specs[1].run_id: 'diverged'})
    study.run_study('tiny', results, limit='1h')
    assert 'The time is up; 0 runs are left. Give' in capsys.readouterr().out


@pytest.mark.parametrize('tflops, said', [(2., '2 TFLOP/s (from TFLOPS)'), (None, '0.5 TFLOP/s (from a guess)')])
def test_a_study_on_a_cluster_has_its_own_kernels_speed_and_ending(tflops, said, walked, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, '_check_executor', lambda executor: None)
    monkeypatch.setattr(study, 'assumed_speed', lambda name, results: (5e11, 'a guess'))
    study.run_study('demo', tmp_path, 20, limit='30m', executor='slurm', tflops=tflops)
    call, = walked
    assert call.command == study.snakemake_command('demo', tmp_path.resolve(), 20, executor='slurm', speed=(tflops or .5)*1e12)
    assert 'WARM' not in call.env and call.env['KD_JOBS'] == '1' and call.ending == signal.SIGINT and not call.deadline.here
    assert f'Run times are reckoned with {said}; TFLOPS= gives another.\n' in capsys.readouterr().out


def test_what_snakemake_is_asked(monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    workflow = ROOT/'workflow'
    start = [sys.executable, '-m', 'snakemake', '--snakefile', str(workflow/'Snakefile'), '--directory', str(ROOT)]
    order = ['--scheduler', 'greedy', '--scheduler-greedy-omit-prioritize-by-temp-and-input', '--keep-going', '--rerun-incomplete',
             '--nolock', '--rerun-triggers', 'mtime', '--quiet', 'all']
    assert study.snakemake_command('demo', 'r', 2, '-n') == [
        *start, '--cores', '2', '--resources', 'gpu_slot=2', *order, '-n',
        '--config', 'profile=demo', 'results=r', 'gpus=none', 'share=2', 'speed=0']
    assert study.snakemake_command('paper-v1', 'r', 20, executor='slurm', speed=1e13) == [
        *start, '--executor', 'slurm', '--jobs', '20', '--profile', str(workflow/'cluster'/'slurm'), *order,
        '--config', 'profile=paper-v1', 'results=r', 'gpus=none', 'share=1', 'speed=10000000000000.0']
    other = study.snakemake_command('demo', 'r', 5, executor='lsf', speed=1e13)
    assert '--profile' not in other  # no settings of ours for it
    i = other.index('--groups')
    assert other[i:i + 8] == ['--groups', 'student=students', '--group-components', other[i + 3], '--set-resource-scopes', 'gpu_slot=local',
                              '--resources', 'gpu_slot=1'] and other[i + 3].startswith('students=')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,1')
    assert study.snakemake_command('demo', 'r', 3)[7:11] == ['--cores', '3', '--resources', 'gpu_slot=4']


def test_gpus_are_those_that_nvidia_smi_lists(tmp_path, monkeypatch):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setenv('PATH', str(tmp_path))
    assert study.visible_gpus() == []
    program = tmp_path/'nvidia-smi'
    program.write_text('#!/bin/sh\n[ "$1" = -L ] && echo "GPU 0: H100 (UUID: GPU-1)" && echo "GPU 1: H100 (UUID: GPU-2)"\nexit 9\n')
    program.chmod(0o755)
    assert study.visible_gpus() == ['0', '1']
    program.write_text('#!/bin/sh\necho "GPU 0: H100 (UUID: GPU-1)"\necho "  MIG 3g.40gb Device 0: (UUID: MIG-11/2/0)"\n')
    assert study.visible_gpus() == ['MIG-11/2/0']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', ' 3, ,-1,MIG-5 ')
    assert study.visible_gpus() == ['3', 'MIG-5']


def test_the_first_checkpoint_of_the_quickest_run_that_can_start():
    specs = {s.run_id: s for s in study_runs('demo')}
    waiting, begun, running = list(specs)[2:5]
    states = {**dict.fromkeys(specs, 'complete'), waiting: 'to do', begun: 'begun', running: 'running (epoch 1)'}
    seen = types.SimpleNamespace(records={'a': SeenRecord((0, 0), 'complete', 4e9, 2.)}, specs=specs, states=states)
    epochs = [study.flops(specs[r])/specs[r].epochs for r in (waiting, begun)]
    assert study.first_step_seconds(seen) == study.OVERHEAD + min(epochs)/2e9
    def without(**what): return study.first_step_seconds(types.SimpleNamespace(**{**vars(seen), **what}))
    assert without(records={}) == without(states=dict.fromkeys(specs, 'complete')) == 0
    del seen.specs  # it has not looked yet
    assert study.first_step_seconds(seen) == 0


def test_the_room_that_runs_need():
    specs = study_runs('demo')[:3]
    sizes = [4*study.models.parameter_count(s.arch, 10, s.stem, s.width) for s in specs]
    assert study.space_needed(specs, 2) == sum(sizes) + 8*max(sizes) + 3*2**20
    assert study.space_needed([], 4) == 0


def test_reasons_are_told_once_for_each_run_and_the_first_one_last(tmp_path, capsys):
    specs = list(study.runs_of('demo', tmp_path).values())
    write(specs[:25], tmp_path, failure={s.run_id: f'reason {i}' for i, s in enumerate(specs[:25]) if i})
    log = records.run_folder(specs[30].run_id, tmp_path)/'papermill.log'
    log.parent.mkdir(parents=True)
    log.write_text('UserError: no images\n')
    found = study.failures('demo', tmp_path)
    assert found == [*((s.run_id, f'failed: reason {i}') for i, s in enumerate(specs[:25]) if i), (specs[30].run_id, 'no images')]
    study._report_failures('demo', tmp_path, 1)
    said = capsys.readouterr().err.splitlines()
    assert said[:20] == [f'{run_id} {reason}' for run_id, reason in reversed(found[:20])] and said[20] == 'and 5 more runs'
    assert said[21:] == [f'The study is not complete. Log of the runs: {tmp_path}/demo/**/papermill.log; give the same command again to go on.',
                         'The first reason: failed: reason 1']
    study._report_failures('demo', tmp_path, 0)
    assert len(capsys.readouterr().err.splitlines()) == 21
    study._report_failures('demo', tmp_path/'none', 1)
    assert capsys.readouterr().err.startswith('The study is not complete.')


def test_a_command_with_warm_kernels_has_the_modules_of_runs_and_reports(tmp_path, monkeypatch):
    given = []
    def kernels(env, modules):
        given.append(modules)
        return contextlib.nullcontext({**env, 'KD_WARM': 'yes'})
    monkeypatch.setattr(study, 'warm_kernels', kernels)
    assert study.warm_call(['sh', '-c', f'echo $KD_WARM $KD_RESULTS > {tmp_path}/said; exit 5']) == 5
    assert (tmp_path/'said').read_text().split() == ['yes', os.environ['KD_RESULTS']]
    assert given == [(*study.OF_A_RUN, *study.OF_A_REPORT)]


def test_each_command_does_its_part(tmp_path, monkeypatch, capsys):
    results = tiny(tmp_path, monkeypatch)
    specs = study_runs('tiny')
    write(specs[:1], results)
    assert study.main('progress', 'tiny', results=str(results)) == 0
    assert capsys.readouterr().out == study.progress('tiny', results) + '\n'
    assert study.main('plan', 'tiny', results=str(results)) == 0
    table, speed, _ = study.plan('tiny', results)
    said = capsys.readouterr().out
    assert all(s.run_id in said for s in specs) and f'{table.hours.iloc[0]:.3g}' in said
    assert said.endswith(f'\n\n{len(specs)} runs, {table.PFLOP.sum()/1000:.3g} EFLOP, {table.hours.sum():.3g} h one after another at '
                         f'{speed/1e12:.3g} TFLOP/s (from finished runs of this profile).\n')


def test_select_writes_the_selection(tmp_path, monkeypatch):
    results = tiny(tmp_path, monkeypatch, selection=True)
    write(study_runs('tiny'), results)
    assert study.main('select', 'tiny', results=str(results)) == 0 and not study.finals_are_open('tiny', results)


def test_run_passes_on_what_it_is_given_and_its_status(monkeypatch, capsys):
    given = []
    def run_study(*args):
        given.append(args)
        return 4
    monkeypatch.setattr(study, 'run_study', run_study)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(SystemExit) as e: study.main('run', 'demo', 'r', 2, '1h', 'slurm', '-n --until x', 3.)
        with pytest.raises(SystemExit) as ended: signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)
    finally:
        for number, handler in before.items(): signal.signal(number, handler)
    assert given == [('demo', 'r', 2, '1h', 'slurm', ['-n', '--until', 'x'], 3.)] and (e.value.code, ended.value.code) == (4, 143)
    assert 'The study is not complete.' in capsys.readouterr().err


@pytest.mark.parametrize('raises, status', [(None, 7), (KeyboardInterrupt, 130)])
def test_a_walk_shows_how_far_it_is_and_ends_what_it_started(raises, status, tmp_path, monkeypatch):
    out, checked, seen = io.StringIO(), [], tmp_path/'seen'
    monkeypatch.setattr(sys, 'stdout', out)
    class Limit:
        closing = False
        def check(self, process, progress):
            checked.append(progress)
            if 'runs done' not in out.getvalue(): return  # the watcher has not looked yet
            seen.touch()
            if raises: raise raises
    progress = study.StudyProgress('demo', tmp_path)
    started = ['sh', '-c', f'echo $WORD; until [ -e {seen} ]; do sleep 0.1; done; exit 7']
    assert study._walk(started, {**os.environ, 'WORD': 'hello'}, tmp_path/'log', progress, Limit()) == status
    assert (tmp_path/'log').read_text() == 'hello\n' and checked[0] is progress
    Limit.closing, Limit.check = True, lambda *_: None
    assert study._walk(['sh', '-c', 'exit 7'], dict(os.environ), tmp_path/'log', progress, Limit()) == 0
