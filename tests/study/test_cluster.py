"""A study on a cluster: what its jobs ask for, how a run ends when it is told to, and a real Slurm where there is one."""
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from made_up import tiny_profile

from kd_capacity import study
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


def test_an_executor_that_is_missing_and_a_limit_that_cannot_be_kept_are_refused():
    with pytest.raises(UserError, match='needs snakemake-executor-plugin-nowhere, which is not installed'): study.run_study('demo', executor='nowhere')
    with pytest.raises(UserError, match='Leave it out'): study.run_study('demo', executor='slurm', limit='5m')


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
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000
PartitionName=main Nodes=ALL Default=YES State=UP
'''
CLIENTS = Path('/run/slurm/conf/slurm.conf')  # where Slurm's commands look when nobody tells them; the executor plugin drops SLURM_CONF


def start(daemon, folder): subprocess.run([daemon], check=True, env={**os.environ, 'SLURM_CONF': str(folder/'slurm.conf')})


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


def running_job(): return subprocess.run(['squeue', '-h', '-t', 'R', '-o', '%i'], capture_output=True, text=True).stdout.split()


def test_a_study_through_slurm_is_that_of_this_machine(slurm, tmp_path, monkeypatch):
    "Two jobs are cancelled in the middle, the node's daemon is started anew; the weights are the same, bit for bit."
    (tmp_path/'profiles').mkdir()
    (tmp_path/'profiles'/'tiny.toml').write_text(tiny_profile(40))
    monkeypatch.setenv('KD_PROFILES', str(tmp_path/'profiles'))
    here, there, specs = tmp_path/'here', tmp_path/'there', study_runs('tiny')
    options = ('--slurm-no-account --slurm-status-command squeue --slurm-init-seconds-before-status-checks 2 --latency-wait 5 '
               '--set-threads student=1 teacher=1 --set-resources student:gpu=0 teacher:gpu=0 student:mem_mb=1000 teacher:mem_mb=1000')
    command = [sys.executable, '-m', 'kd_capacity.study', 'run', 'tiny', '--jobs', '4', '--results', str(there), '--executor', 'slurm',
               '--tflops', '0.01', f'--snakemake_args={options}']
    process = subprocess.Popen(command, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    cancelled = []
    try:
        for spec in specs[:2]:  # the teacher, then the first of the group of students
            folder = run_folder(spec.run_id, there)
            wait_for(lambda: (folder/'checkpoint.pt').exists(), 300, process)
            pid = json.loads((folder/'owner.json').read_text())['pid']
            subprocess.run(['scancel', *running_job()], check=True)
            wait_for(lambda: not Path(f'/proc/{pid}').exists(), 60, process)
            assert not (folder/'record.json').exists() and (folder/'checkpoint.pt').exists()
            cancelled.append(spec.run_id)
        wait_for(running_job, 300, process)
        end(slurm/'slurmd.pid')
        start('slurmd', slurm)
        assert process.wait(900) == 0
    finally:
        process.terminate()  # the study ends Snakemake, which cancels its jobs
        process.wait(60)
    assert len(cancelled) == 2
    for spec in specs:
        train(spec, here)
        ours, theirs = (read_record(spec.run_id, folder) for folder in (here, there))
        assert all(ours[part] == theirs[part] for part in ('weights', 'outcome', 'fidelity', 'norms', 'data', 'teacher'))
