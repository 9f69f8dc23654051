"""Several GPUs, without one: study, Snakemake, on_gpu.py and the papermill call are real; what stands in for papermill
says what it sees. A record that a real run leaves is looked at in test_study.py."""
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager

import pytest
from made_up import tiny_profile

from kd_capacity import study

# Writes a line when it starts and one when it ends. Teachers end at once; the others stay until as many have begun as
# shall run at a time, so that these are seen together. A run whose name has DIES in it kills itself.
PAPERMILL = '''#!{python} -S
import fcntl, json, os, signal, sys, time
log, jobs, dies = {log!r}, {jobs}, {dies!r}
notebook = sys.argv[2]
def say(what):
    seen = [what, notebook, os.environ.get('CUDA_VISIBLE_DEVICES'), os.environ.get('KD_JOBS')]
    with open(log, 'a') as out: out.write(json.dumps(seen) + '\\n')
def begun():
    lines = [json.loads(line) for line in open(log)]
    return sum(what == 'start' and '/teacher/' not in name for what, name, *_ in lines)
say('start')
end = time.monotonic() + 120
while '/teacher/' not in notebook and begun() < jobs and time.monotonic() < end: time.sleep(0.05)
if dies and dies in notebook: os.kill(os.getpid(), signal.SIGKILL)
say('end')
open(notebook, 'w').close()
'''


@contextmanager
def no_kernels(env, log): yield env


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes a machine and walks a study on it: returns (exit status, lines of the log).

    gpus: what nvidia-smi lists; visible: CUDA_VISIBLE_DEVICES as the user has set it."""
    (tmp_path/'bin').mkdir()
    (tmp_path/'profiles').mkdir()
    monkeypatch.setenv('KD_PROFILES', str(tmp_path/'profiles'))
    log = tmp_path/'log'
    def program(name, text):
        (tmp_path/'bin'/name).write_text(text)
        (tmp_path/'bin'/name).chmod(0o755)
    real = study._environment
    def environment(*given):
        env = real(*given)
        return {**env, 'PATH': f'{tmp_path}/bin:{env["PATH"]}'}
    monkeypatch.setattr(study, '_environment', environment)
    monkeypatch.setattr(study, 'warm_kernels', no_kernels)
    monkeypatch.setenv('PATH', f'{tmp_path}/bin:{os.environ["PATH"]}')
    def prepare(jobs, gpus='', visible=None, dies='', seeds=None):
        program('nvidia-smi', f'#!/bin/sh\ncat <<END\n{gpus}\nEND\n')
        program('papermill', PAPERMILL.format(python=sys.executable, log=str(log), jobs=jobs, dies=dies))
        (tmp_path/'profiles'/'tiny.toml').write_text(tiny_profile().replace('seeds = [0]', f'seeds = {list(range(seeds or jobs))}'))
        if visible is None: monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
        else: monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
        log.write_text('')
    def walk(jobs, *given, **more):
        prepare(jobs, *given, **more)
        status = study.run_study('tiny', tmp_path/'results', jobs)
        return status, lines(log)
    walk.folder, walk.prepare = tmp_path, prepare
    return walk


def lines(log): return [json.loads(line) for line in log.read_text().splitlines()]


def most_at_a_time(seen):
    "{GPU: runs on it at a time, at most}."
    now, most = Counter(), Counter()
    for what, _, gpu, _ in seen:
        now[gpu] += 1 if what == 'start' else -1
        most[gpu] = max(most[gpu], now[gpu])
    return dict(most)


def taken(folder):
    "Slots that somebody holds."
    held = []
    for path in sorted(folder.glob('*/.gpu_slots/*')):
        with open(path) as slot:
            try: fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError: held.append(path.name)
    return held


GPU = 'GPU {}: NVIDIA H100 (UUID: GPU-{}-aa)'.format
EIGHT = '\n'.join(GPU(i, i) for i in range(8))
TWO_PARTS = f'{GPU(0, 0)}\n  MIG 3g.40gb Device 0: (UUID: MIG-11/2/0)\n  MIG 3g.40gb Device 1: (UUID: MIG-22)'


@pytest.mark.parametrize('jobs, gpus, visible, expected', [
    (3, GPU(0, 0), None, study.Slots(['0'], 3)),                                  # they share
    (2, EIGHT, None, study.Slots(['0', '1'], 1)),                                 # fewer runs than GPUs
    (8, EIGHT, None, study.Slots([str(i) for i in range(8)], 1)),
    (9, EIGHT, None, study.Slots([str(i) for i in range(8)], 2)),
    (4, EIGHT, '5,2', study.Slots(['5', '2'], 2)),                                # the user gives two of eight
    (2, TWO_PARTS, None, study.Slots(['MIG-11/2/0', 'MIG-22'], 1)),
    (2, EIGHT, '', study.Slots([], 2)), (2, EIGHT, '-1', study.Slots([], 2)),     # the user gives none
    (2, '', None, study.Slots([], 2))],
    ids=['one', 'two-of-eight', 'eight', 'nine-on-eight', 'subset', 'mig', 'hidden', 'hidden-by-number', 'none'])
def test_gpus_are_dealt_out_to_the_runs_at_a_time(jobs, gpus, visible, expected, machine):
    machine.prepare(jobs, gpus, visible)
    assert study.gpu_slots(jobs) == expected


@pytest.mark.parametrize('jobs, gpus, visible, expected', [
    (4, EIGHT, '5,2', {'5': 2, '2': 2}),
    (2, TWO_PARTS, None, {'MIG-11/2/0': 1, 'MIG-22': 1}),
    (2, EIGHT, '', {None: 2})], ids=['subset', 'mig', 'hidden'])
def test_each_run_sees_one_gpu(jobs, gpus, visible, expected, machine):
    status, seen = machine(jobs, gpus, visible)
    assert status == 0 and len(seen) == 2*len(study.runs_of('tiny', machine.folder/'results'))
    if visible == '': seen = [[what, name, gpu or None, share] for what, name, gpu, share in seen]
    assert most_at_a_time(seen) == expected
    share = max(expected.values())
    assert {jobs_on_it for *_, jobs_on_it in seen} == {str(share)}  # memory is divided by the runs on a GPU, not by all
    assert taken(machine.folder/'results') == []


def test_a_run_that_is_killed_gives_its_gpu_back_and_the_next_call_makes_it(machine):
    status, seen = machine(2, EIGHT, '4,6', dies='baseline')
    runs = len(study.runs_of('tiny', machine.folder/'results'))
    ended = {name for what, name, *_ in seen if what == 'end'}
    assert status != 0 and len(ended) == runs - 2 and len([s for s in seen if s[0] == 'start']) == runs
    assert {gpu for *_, gpu, _ in seen} <= {'4', '6'} and taken(machine.folder/'results') == []
    status, seen = machine(2, EIGHT, '4,6')
    assert status == 0 and {name for _, name, *_ in seen}.isdisjoint(ended) and len(seen) == 4


STUDY = '''
from contextlib import contextmanager
from kd_capacity import study
real = study._environment
study._environment = lambda *given: dict(real(*given), PATH={path!r})
@contextmanager
def no_kernels(env, log): yield env
study.warm_kernels = no_kernels
study.main('run', 'tiny', results={results!r}, jobs=2)
'''


def test_a_study_that_is_killed_leaves_no_slot_taken(machine):
    "With all that it has started, as by a machine that is out of memory or a lease that ends."
    folder = machine.folder
    machine.prepare(99, EIGHT, '4,6', seeds=2)  # runs that would stay for minutes
    text = STUDY.format(path=os.environ['PATH'], results=str(folder/'results'))
    process = subprocess.Popen([sys.executable, '-c', text], start_new_session=True, stdout=open(folder/"said", "w"), stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 300
        while len(taken(folder/'results')) < 2:
            assert process.poll() is None and time.monotonic() < deadline, 'the runs did not start'
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 60
    while taken(folder/'results'):
        assert time.monotonic() < deadline, 'a slot is still taken'
        time.sleep(0.1)
    status, seen = machine(2, EIGHT, '4,6')
    assert status == 0 and most_at_a_time(seen) == {'4': 1, '6': 1}
