"""A run that is killed, at any moment and as often as it likes, ends like one that never was."""
import contextlib
import json
import multiprocessing
import os
import platform
import random
import shutil
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import SMALL
from kd_capacity import checkpoint, run_files
from kd_capacity.basics import UserError
from kd_capacity.profiles import run_spec
from kd_capacity.training import exclusive, train


@pytest.fixture(autouse=True)
def own_threads():
    "A run sets the number of threads; each test puts it back."
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# forkserver: torch is imported once, each run is a process that can be killed
processes = multiprocessing.get_context('forkserver')
processes.set_forkserver_preload(['kd_capacity.training'])


def _train(spec, results, log=None):
    "In a process of its own; `log` gets the process's name for every epoch that it trains, and what it says."
    if log is None: return train(spec, results)
    name = multiprocessing.current_process().name
    with open(log, 'a', buffering=1) as f, contextlib.redirect_stdout(f):
        train(spec, results, progress=lambda *_: print(name))


def _start(*args, name=None):
    p = processes.Process(target=_train, args=args, name=name)
    p.start()
    return p


def _same(spec, a, b):
    "Same history (but for seconds), weights and logits."
    ra, rb = (run_files.read_record(spec.run_id, r) for r in (a, b))
    assert ra['weights'] == rb['weights'] and ra['outcome'] == rb['outcome'] and ra['norms'] == rb['norms']
    ha, hb = (run_files.history(spec.run_id, r).drop(columns='seconds') for r in (a, b))
    pd.testing.assert_frame_equal(ha, hb, check_exact=True)
    la, lb = (run_files.logits(spec.run_id, r) for r in (a, b))
    assert all(np.array_equal(la[k], lb[k]) for k in la)


@pytest.mark.parametrize('method', ['feature', 'logit'])
def test_killed_again_and_again(teacher, student_spec, tmp_path, method):
    results, _ = teacher
    never = tmp_path/'never'
    shutil.copytree(results, never)
    spec = student_spec(method, epochs=6)
    train(spec, never)
    moments, kills = random.Random(5), 0
    folder = run_files.run_folder(spec.run_id, results)
    while run_files.read_record(spec.run_id, results) is None:
        done = _epochs(folder)
        p = _start(spec, results)
        if kills < 5:  # wait for one more epoch, then strike some time within the next, or while it writes
            while p.is_alive() and _epochs(folder) <= done: time.sleep(0.002)
            time.sleep(moments.random()*0.15)
            p.kill()
            kills += p.exitcode is None or p.exitcode == -9
        p.join()
        assert p.exitcode in (0, -9)
    assert kills >= 3
    _same(spec, never, results)
    assert not list(folder.glob('.*.tmp')) and not (folder/'checkpoint.pt').exists()


def _epochs(folder):
    "Epochs in the history so far."
    path = folder/'history.csv'
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def test_a_checkpoint_of_another_teacher_or_other_images_is_not_resumed(teacher, student_spec, monkeypatch):
    from kd_capacity import data
    results, _ = teacher
    spec = run_spec('demo', 'baseline', student='resnet18').replace(**SMALL)
    class Stop(Exception): pass
    def stop(*a): raise Stop
    with pytest.raises(Stop): train(spec, results, progress=stop)
    other = replace(data.load('digits'), sha256='0'*64)
    monkeypatch.setattr(data, 'load', lambda *a: other)
    with pytest.raises(UserError, match='belongs to a run on other images'): train(spec, results)


def test_two_processes_on_one_run(teacher, student_spec):
    results, _ = teacher
    spec, log = student_spec('feature', epochs=30), results/'log'
    a = _start(spec, results, log, name='a')
    while not (run_files.run_folder(spec.run_id, results)/'owner.json').exists(): time.sleep(0.01)
    b = _start(spec, results, log, name='b')
    for p in (a, b): p.join()
    assert (a.exitcode, b.exitcode) == (0, 0)
    said = log.read_text().splitlines()
    epochs = [line for line in said if line in ('a', 'b')]
    assert len(epochs) == 30 and len(set(epochs)) == 1  # one trained all of it
    assert run_files.read_record(spec.run_id, results)['status'] == 'complete'
    assert any('already being trained by {"pid"' in line for line in said)


def test_a_lock_left_by_a_killed_process_does_not_hold(teacher, student_spec):
    results, _ = teacher
    spec = student_spec('feature', epochs=5)
    p = _start(spec, results)
    folder = run_files.run_folder(spec.run_id, results)
    while not (folder/'history.csv').exists(): time.sleep(0.01)
    p.kill(); p.join()
    assert (folder/'owner.json').exists()
    assert train(spec, results)['status'] == 'complete' and not (folder/'owner.json').exists()


def test_a_resumed_run_sees_the_batches_of_one_that_was_never_stopped(teacher, student_spec, tmp_path):
    results, _ = teacher
    never = tmp_path/'never'
    shutil.copytree(results, never)
    spec = student_spec('feature', epochs=3)
    train(spec, never)
    class Stop(Exception): pass
    def stop(*a): raise Stop
    with pytest.raises(Stop): train(spec, results, progress=stop)
    train(spec, results)
    _same(spec, never, results)


class Stop(Exception): "Stands for a kill, after an epoch."


def _stopped(spec, results):
    "A run that ended after its first epoch."
    def stop(*_): raise Stop
    with pytest.raises(Stop): train(spec, results, progress=stop)


def test_a_resumed_run_goes_on_with_the_threads_it_was_started_with(monkeypatch, tmp_path):
    "The number of threads decides how sums are rounded."
    spec = run_spec('demo', 'baseline', student='resnet18').replace(**SMALL, batch_size=425)  # few steps: threads wait for each other where cores are busy
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    _stopped(spec, tmp_path)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    assert train(spec, tmp_path)['environment']['threads'] == 2


def test_fewer_cores_than_threads_are_said_in_the_record(monkeypatch, tmp_path):
    spec = run_spec('demo', 'baseline', student='resnet18').replace(**SMALL, batch_size=425)  # few steps: threads wait for each other where cores are busy
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    _stopped(spec, tmp_path)
    monkeypatch.setattr('os.cpu_count', lambda: 1)
    environment = train(spec, tmp_path)['environment']
    assert environment['not_deterministic'] == ['started with 2 threads, resumed on 1 cores']
    assert environment['deterministic'] is False


def test_a_run_does_not_go_on_under_a_teacher_that_was_trained_again(teacher, student_spec):
    results, t = teacher
    spec = student_spec('logit', epochs=2)
    class Stop(Exception): pass
    def stop(*a): raise Stop
    with pytest.raises(Stop): train(spec, results, progress=stop)
    folder = run_files.run_folder(t.run_id, results)
    weights = checkpoint.load(folder/'weights.pt')
    weights['fc.bias'] += 1.
    checkpoint.save(folder/'weights.pt', weights)
    record = run_files.read_record(t.run_id, results)
    record['weights']['best_sha256'] = checkpoint.weights_sha256(weights)
    run_files.write_record(record, results)
    with pytest.raises(UserError, match='checkpoint.pt belongs to a run on other images or with another teacher. Delete it, or pass -p force True'):
        train(spec, results)
    assert train(spec, results, force=True)['teacher']['weights_sha256'] == record['weights']['best_sha256']


def test_who_waits_is_told_who_is_at_work(tmp_path):
    said, order = [], []
    def second():
        with exclusive(tmp_path/'run', said.append): order.append('second')
    with exclusive(tmp_path/'run'):
        owner = json.loads((tmp_path/'run'/'owner.json').read_text())
        waiting = threading.Thread(target=second)
        waiting.start()
        while not said: time.sleep(.01)
        order.append('first')
    waiting.join()
    assert order == ['first', 'second'] and not (tmp_path/'run'/'owner.json').exists()
    assert (owner['pid'], owner['host']) == (os.getpid(), platform.node())
    assert abs((datetime.now(UTC) - datetime.fromisoformat(owner['since'])).total_seconds()) < 600
    assert said == [f'run: already being trained by {json.dumps(owner)}; waiting for it.']
