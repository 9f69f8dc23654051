"""A study on a cluster: what its jobs ask for, how a run ends when it is told to, and a real Slurm where there is one."""
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import types
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from made_up import tiny_profile

from kd_capacity import cluster, study
from kd_capacity.basics import UserError
from kd_capacity.cluster import request
from kd_capacity.config import run_spec
from kd_capacity.profiles import study_runs
from kd_capacity.run_files import read_record, run_folder
from kd_capacity.training import RunStopped, train


def test_a_cluster_is_asked_for_what_a_run_needs():
    long, short = (study.snakemake_command(name, 'r', 20, executor='slurm', speed=1e13) for name in ('paper-v1', 'demo'))
    assert {'--executor', 'slurm', '20', 'speed=10000000000000.0', 'gpus=none'} <= set(long)
    assert any(part.endswith('workflow/cluster/slurm') for part in long)
    assert '--groups' in short and '--groups' not in long, 'runs of minutes share a job, runs of hours do not'
    run = study_runs('paper-v1')[0]
    assert request(run, 1e13, attempt=2).runtime > 1.9*request(run, 1e13).runtime


def test_the_environment_of_this_machine_is_not_carried_to_a_cluster():
    here, there = (study._environment(2, 'r', executor) for executor in ('local', 'slurm'))
    assert here['KD_JOBS'] == '2' and there['KD_JOBS'] == '1'
    assert there.get('OMP_NUM_THREADS') == os.environ.get('OMP_NUM_THREADS')


def test_an_executor_that_is_missing_is_refused():
    with pytest.raises(UserError, match='needs snakemake-executor-plugin-nowhere, which is not installed'): study.run_study('demo', executor='nowhere')


@pytest.mark.parametrize('here, signals', [(False, [signal.SIGTERM, signal.SIGINT]), (True, [signal.SIGTERM, signal.SIGTERM])])
def test_when_time_is_up_a_cluster_is_told_to_submit_no_more_then_to_cancel(here, signals, monkeypatch):
    sent, ended = [], []
    process = types.SimpleNamespace(pid=os.getpid(), send_signal=sent.append)
    monkeypatch.setattr(study, 'first_step_seconds', lambda progress: 60)
    monkeypatch.setattr(study, '_end', ended.append)
    deadline, child = study._Deadline(30, here), subprocess.Popen(['sleep', '60'])
    try:
        for _ in range(2): deadline.check(process, None)
        assert sent == signals[:1] and deadline.closing and not deadline.over and not ended
        deadline.end = 0
        for _ in range(2): deadline.check(process, None)
    finally:
        child.kill()
        child.wait()
    assert sent == signals and deadline.over
    assert (child.pid in [p.pid for p in ended]) == here  # a cluster's jobs are not children of this machine


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_is_told_to_end_loses_no_finished_epoch_and_ends_with_the_same_bits(number, tmp_path):
    spec = run_spec('demo', 'baseline', student='resnet18').replace(width=4, epochs=2)
    before = signal.getsignal(number)
    def end(spec, history): os.kill(os.getpid(), number)
    with pytest.raises(RunStopped, match=f'ended by {number.name}'): train(spec, tmp_path/'a', progress=end)
    folder = run_folder(spec.run_id, tmp_path/'a')
    assert (folder/'checkpoint.pt').exists() and not (folder/'owner.json').exists() and not list(folder.glob('.*.tmp'))
    epochs = []
    again = train(spec, tmp_path/'a', progress=lambda spec, history: epochs.append(history[-1]['epoch']))
    assert epochs == [2]
    assert again['weights'] == train(spec, tmp_path/'b')['weights']
    assert signal.getsignal(number) == before


def test_a_cluster_whose_time_is_up_at_once_gets_one_signal(monkeypatch):
    "SIGINT right after SIGTERM was lost in Snakemake, and the jobs ran on."
    sent = []
    monkeypatch.setattr(study, 'first_step_seconds', lambda progress: 60)
    deadline = study._Deadline(0, here=False)
    for _ in range(2): deadline.check(types.SimpleNamespace(send_signal=sent.append), None)
    assert sent == [signal.SIGINT] and deadline.over and deadline.closing


@pytest.mark.parametrize('executor, heard', [('slurm', signal.default_int_handler), ('local', signal.SIG_IGN)])
def test_a_study_that_a_script_started_in_the_background_can_cancel_its_jobs(executor, heard, monkeypatch):
    "A shell starts such a job deaf to SIGINT, and so would Snakemake be, whose way to cancel is SIGINT."
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(study, 'run_study', lambda *_, **__: 0)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        study._do('run', 'demo', None, 1, None, executor, '', None)
        assert signal.getsignal(signal.SIGINT) is heard
    finally:
        for number, handler in kept.items(): signal.signal(number, handler)


# --- a real Slurm: `make slurm-test`

CONF = '''ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
MinJobAge=300
KillWait=5
ReturnToService=2
MailProg=/bin/true
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000
PartitionName=main Nodes=ALL Default=YES State=UP
'''
CLIENTS = Path('/run/slurm/conf/slurm.conf')  # where Slurm's commands look when nobody tells them; the executor plugin drops SLURM_CONF


def start(daemon, folder, *options): subprocess.run([daemon, *options], check=True, env={**os.environ, 'SLURM_CONF': str(folder/'slurm.conf')})


def end(pid_file):
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGTERM)
    while Path(f'/proc/{pid}').exists() and Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z': time.sleep(0.1)


@pytest.fixture
def slurm(tmp_path):
    "The folder of a Slurm of one node, which is this machine."
    if not os.environ.get('KD_SLURM'): pytest.skip('a study through a real Slurm takes minutes: make slurm-test')
    missing = [name for name in ('munged', 'slurmctld', 'slurmd', 'sbatch') if not shutil.which(name)]
    if missing: pytest.skip(f'no {", ".join(missing)} on PATH (Debian: slurm-wlm and munge), so no Slurm was tried')
    if os.geteuid() != 0 or CLIENTS.exists(): pytest.skip('a Slurm of its own needs root and a machine without one, so no Slurm was tried')
    pytest.importorskip('snakemake_executor_plugin_slurm', reason='snakemake-executor-plugin-slurm is not installed, so no Slurm was tried')
    folder = tmp_path/'slurm'
    for name in 'state', 'spool': (folder/name).mkdir(parents=True)
    (folder/'munge.key').write_bytes(os.urandom(1024))
    (folder/'munge.key').chmod(0o600)
    files = [f'--{what}-file={folder}/munge.{what}' for what in ('key', 'pid', 'log', 'seed')]
    subprocess.run(['munged', '--force', f'--socket={folder}/munge.socket', *files], check=True)
    (folder/'slurm.conf').write_text(CONF.format(host=platform.node().split('.')[0], folder=folder))
    CLIENTS.parent.mkdir(parents=True, exist_ok=True)
    CLIENTS.symlink_to(folder/'slurm.conf')
    try:
        for daemon in 'slurmctld', 'slurmd': start(daemon, folder)
        yield folder
    finally:
        CLIENTS.unlink()
        for name in 'slurmd', 'slurmctld', 'munge':
            if (folder/f'{name}.pid').exists(): end(folder/f'{name}.pid')


def wait_for(condition, seconds, process):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None and time.monotonic() < deadline, 'it did not come to that'
        time.sleep(0.2)
    return found


def jobs(): return subprocess.run(['squeue', '-h', '-o', '%i'], capture_output=True, text=True, check=True).stdout.split()


OPTIONS = ('--slurm-no-account --slurm-status-command squeue --slurm-init-seconds-before-status-checks 2 --latency-wait 5 '
           '--set-threads student=1 teacher=1 --set-resources student:gpu=0 teacher:gpu=0 student:mem_mb=1000 teacher:mem_mb=1000')


def submit(name, results, *more):
    command = [sys.executable, '-m', 'kd_capacity.study', 'run', name, '--jobs', '4', '--results', str(results), '--executor', 'slurm',
               '--tflops', '0.01', f'--snakemake_args={OPTIONS}', *more]
    return subprocess.Popen(command, env={**os.environ, 'OMP_NUM_THREADS': '1'}, stdout=subprocess.PIPE, text=True)


def in_the_middle(specs, results):
    "(folder, process) of a run that has a checkpoint and no record."
    for spec in specs:
        folder = run_folder(spec.run_id, results)
        if not (folder/'checkpoint.pt').exists() or (folder/'record.json').exists(): continue
        try:
            process = psutil.Process(json.loads((folder/'owner.json').read_text())['pid'])
            if process.environ().get('SLURM_JOB_ID'): return folder, process
        except (FileNotFoundError, ValueError, psutil.Error): continue  # it ends just now


def interrupt(specs, results, study_process, how):
    "End a run in the middle by `how`; its job. A run that was too quick is not counted."
    while True:
        folder, run = wait_for(lambda: in_the_middle(specs, results), 1800, study_process)
        try: job = run.environ()['SLURM_JOB_ID']
        except psutil.Error: continue
        how(run, job)
        wait_for(lambda: not run.is_running(), 300, study_process)
        if (folder/'checkpoint.pt').exists() and not (folder/'record.json').exists(): return job


def cancel(run, job): subprocess.run(['scancel', job], check=True)


def reboot(folder):
    "A function that does to Slurm what a reboot of the node does: the daemon and every job are gone, then it is back."
    def node_fails(run, job):
        end(folder/'slurmd.pid')
        # a run's own step is not that of its job's script, which would wait for it for ever
        for step in [p for p in psutil.process_iter() if p.name().startswith('slurmstepd')]:
            for process in [*step.children(recursive=True), step]: process.kill()
        time.sleep(25)  # of a job that began less than 20 s before, Slurm asks no node where it is
        start('slurmd', folder, '-b')
    return node_fails


def profile_of(tmp_path, monkeypatch, text):
    (tmp_path/'profiles').mkdir()
    (tmp_path/'profiles'/'tiny.toml').write_text(text)
    monkeypatch.setenv('KD_PROFILES', str(tmp_path/'profiles'))
    return 'tiny'


def figures_of_jobs(slurm, records):
    "How many jobs there were, and seconds of a job that are not training, for each of its runs."
    rows = [dict(part.split('=', 1) for part in line.split() if '=' in part) for line in (slurm/'jobs.txt').read_text().splitlines()]
    times = [[datetime.fromisoformat(row[key]) for key in ('StartTime', 'EndTime')] for row in rows if row['JobState'] == 'COMPLETED']
    seconds = sum((b - a).total_seconds() for a, b in times)
    return len(rows), (seconds - sum(r['seconds'] for r in records))/len(records)


@pytest.mark.parametrize('name', ['tiny', 'demo'])
def test_a_study_through_slurm_is_that_of_this_machine(name, slurm, tmp_path, monkeypatch):
    "Two jobs are cancelled in the middle and the node is restarted in a third; the records are the same, bit for bit."
    if name == 'tiny': profile_of(tmp_path, monkeypatch, tiny_profile(40))
    here, there, specs = tmp_path/'here', tmp_path/'there', study_runs(name)
    students = [s for s in specs if s.role != 'teacher']
    begin, process = time.monotonic(), submit(name, there)
    try:
        cancelled = [interrupt(some, there, process, cancel) for some in (specs[:1], students)]
        requeued = interrupt(students, there, process, reboot(slurm))
        assert process.wait(7200) == 0
    finally:
        process.terminate()  # the study ends Snakemake, which cancels its jobs
        process.wait(300)
    wall = time.monotonic() - begin
    states = [line.split('JobState=')[1].split()[0] for line in (slurm/'jobs.txt').read_text().splitlines()]
    assert states.count('CANCELLED') == 2 and len({*cancelled, requeued}) == 3
    command = [sys.executable, '-m', 'kd_capacity.study', 'run', name, '--jobs', '2', '--results', str(here)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    theirs = [read_record(spec.run_id, there) for spec in specs]
    for spec, record in zip(specs, theirs, strict=True):
        ours = read_record(spec.run_id, here)
        assert all(ours[part] == record[part] for part in ('weights', 'outcome', 'fidelity', 'norms', 'data', 'teacher')), spec.run_id
    count, around = figures_of_jobs(slurm, theirs)
    print(f'\n{name}: {len(specs)} runs in {count} jobs, {wall:.0f} s; {around:.1f} s around the training of a run')


def test_a_study_on_a_cluster_stops_in_time_and_leaves_no_job(slurm, tmp_path, monkeypatch):
    name = profile_of(tmp_path, monkeypatch, tiny_profile(20_000))
    process = submit(name, tmp_path/'there', '--limit', '45s')
    try:
        wait_for(jobs, 600, process)
        out, _ = process.communicate(timeout=900)
    finally:
        process.terminate()
        process.wait(300)
    assert process.returncode == 0 and 'The time is up; 3 runs are left' in out
    wait_for(lambda: not jobs(), 60, types.SimpleNamespace(poll=lambda: None))
    states = {study.state_of(spec.run_id, tmp_path/'there') for spec in study_runs(name)}
    assert states <= {'to do', 'begun'}


def test_a_training_holds_its_weights_four_times_and_the_maps_of_a_batch():
    spec = run_spec('paper-v2', 'baseline', student='resnet18')
    more = cluster.training_bytes(spec.replace(batch_size=spec.batch_size + 1)) - cluster.training_bytes(spec)
    assert cluster.training_bytes(spec) - spec.batch_size*more == 16*11_173_962
    assert more == 4*cluster.map_values('resnet18', (3, 32, 32))  # of float32
    gray = run_spec('demo', 'baseline', student='resnet18').replace(width=64, stem='imagenet')
    less = cluster.training_bytes(gray.replace(batch_size=gray.batch_size + 1)) - cluster.training_bytes(gray)
    assert cluster.training_bytes(gray) - gray.batch_size*less == 16*(11_181_642 - 2*64*49) and 0 < less < more


def test_maps_are_all_that_a_pass_computes():
    "Of a ResNet-18: in each block two convolutions, norms and ReLUs, and the shortcut's where the size changes."
    size = [64*2**i*(32//2**i)**2 for i in range(4)]  # values of a map of each layer
    by_hand = 4*size[0] + sum(2*6*s + 2*s*(i > 0) for i, s in enumerate(size)) + 10  # the stem, whose pooling does nothing; blocks; logits
    counted = cluster.map_values('resnet18', (3, 32, 32))
    assert counted == cluster.map_values('resnet18', (3, 32, 32), 'cifar', 64) == by_hand
    assert cluster.map_values('resnet18', (3, 32, 32), 'imagenet') < counted/10


def test_memory_is_the_machines_on_a_cpu_and_the_devices_on_a_gpu():
    spec = run_spec('paper-v2', 'baseline', student='resnet18')
    assert request(spec, 1e12).mem_mb == 4096 and request(spec, 1e12).gpu == 1
    assert request(spec, 1e12, gpu=0).mem_mb == math.ceil(4096 + 1.5*cluster.training_bytes(spec)/2**20)
    minutes = cluster.flops(spec)/1e12/60
    assert request(spec, 1e12).runtime == math.ceil(3 + 2*minutes) and request(spec, 1e12, attempt=3).runtime == math.ceil(3*(3 + 2*minutes))


def test_students_share_a_job_as_long_as_they_are_short():
    students = [s for s in study_runs('demo') if s.role == 'student']
    teacher = run_spec('paper-v2', 'teacher', teacher='resnet101')
    asked = request(students[0], 1e12).runtime
    assert asked < 15 and cluster.runs_a_job(students[:1], 1e12) == 60//asked
    assert cluster.runs_a_job([*[teacher]*3, students[0]], 1e12) == 60//asked  # teachers are each their own job
    assert cluster.runs_a_job([teacher], 1e12) == 1 and cluster.runs_a_job([teacher, students[0]], 1e3) == 1
    for minutes, together in (14, 4), (15, 4), (16, 1):  # 15 minutes are short
        speed = cluster.flops(students[0])/60/((minutes - 3.1)/2)
        assert request(students[0], speed).runtime == minutes and cluster.runs_a_job(students[:1], speed) == together
    assert cluster.grouping(1) == []
