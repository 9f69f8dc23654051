"""The progress line: what the disk says of a study's runs, and how long the rest may take."""
import io
import json
import os
import platform

import pytest
from made_up import tiny_profile, write

from kd_capacity import progress, run_files
from kd_capacity.costs import flops
from kd_capacity.progress import OVERHEAD, SeenRecord, StudyProgress, progress_text, speed_of_records, time_left
from kd_capacity.selection import runs_of


@pytest.fixture
def make_profile(tmp_path, monkeypatch):
    "A function that makes the profile `tiny`."
    monkeypatch.setenv('KD_PROFILES', str(tmp_path/'profiles'))
    def make(**settings):
        (tmp_path/'profiles').mkdir()
        (tmp_path/'profiles'/'tiny.toml').write_text(tiny_profile(**settings).replace('seeds = [0]', 'seeds = [0, 1]'))
        return 'tiny'
    return make


def named(results):
    "{'teacher/s0': its spec, …} of the five runs."
    return {f'{s.role}/s{s.seed}': s for s in runs_of('tiny', results).values()}


def at_work(spec, results, epochs):
    folder = run_files.run_folder(spec.run_id, results)
    folder.mkdir(parents=True)
    (folder/'owner.json').write_text(json.dumps({'pid': os.getpid(), 'host': platform.node(), 'since': ''}))
    (folder/'history.csv').write_text('epoch\n' + '1\n'*epochs)


def change(spec, results, **values):
    path = run_files.run_folder(spec.run_id, results)/'record.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_line_counts_each_state_and_estimates_the_rest(make_profile, tmp_path):
    name = make_profile(epochs=3)
    runs = named(tmp_path)
    write([runs['teacher/s0'], runs['baseline/s0'], runs['student/s0']], tmp_path, failure={runs['baseline/s0'].run_id: 'diverged'})
    change(runs['baseline/s0'], tmp_path, seconds=1.)  # a failed run says nothing of the speed
    change(runs['student/s0'], tmp_path, outcome={'test_best': 90.})
    at_work(runs['baseline/s1'], tmp_path, 2)
    study = StudyProgress(name, tmp_path, jobs=2)
    study.look()
    speed = flops(runs['teacher/s0'])/9  # made-up runs take 9 s
    left = sum(OVERHEAD + flops(runs[r])/speed for r in ('baseline/s1', 'student/s1'))/2
    assert time_left(study) == pytest.approx(left) and left < 90
    assert progress_text(study) == ('1 of 5 runs done, 1 failed, 1 with a record that cannot be used'
                                    f' | now: baseline/r18w2/s1 (epoch 2) | about {left:.0f} s left')
    change(runs['teacher/s0'], tmp_path, seconds=900.)
    study.look()
    assert progress_text(study).endswith(f' | about {time_left(study)/60:.0f} min left') and time_left(study) > 90


def test_ninety_seconds_are_the_first_minutes(make_profile, tmp_path, monkeypatch):
    study = StudyProgress(make_profile(), tmp_path)
    study.look()
    for seconds, text in (89.6, '90 s'), (90, '2 min'), (3600, '60 min'):
        monkeypatch.setattr(progress, 'time_left', lambda study: seconds)
        assert progress_text(study) == f'0 of 5 runs done | about {text} left'


def test_the_study_of_a_folder_is_that_of_its_selection(make_profile, tmp_path):
    name = make_profile(selection=True)
    assert progress.progress(name, tmp_path) == '0 of 5 + finals after the selection runs done'
    chosen = {'teacher': 'resnet34', 'student': 'resnet18', 'method': 'feature', 'alpha': .3}
    (tmp_path/name).mkdir()
    (tmp_path/name/'selection.json').write_text(json.dumps({'selected_by': 'validation_best', 'chosen': [chosen]}))
    assert progress.progress(name, tmp_path) == '0 of 7 runs done'


def test_a_record_is_read_when_it_is_new_or_has_changed(make_profile, tmp_path, monkeypatch):
    read = []
    real = progress.checked_record
    monkeypatch.setattr(progress, 'checked_record', lambda path: read.append(path.parent.name) or real(path))
    study = StudyProgress(make_profile(), tmp_path)
    runs = named(tmp_path)
    write([runs['teacher/s0'], runs['baseline/s0']], tmp_path)
    for _ in range(3): study.look()
    assert len(read) == 2 and list(study.states.values()).count('complete') == 2
    change(runs['baseline/s0'], tmp_path, status='failed', failure='diverged', outcome=None)
    study.look()
    assert len(read) == 3 and study.states[runs['baseline/s0'].run_id] == 'failed'


def test_what_the_speed_is_taken_from():
    known = SeenRecord((1, 2), 'complete', 6e9, 2.)
    nan = float('nan')
    others = [known._replace(status='failed'), known._replace(flop=nan), known._replace(seconds=nan), known._replace(seconds=0.)]
    assert speed_of_records([known, *others, known._replace(flop=2e9, seconds=6.)]) == 1e9
    assert speed_of_records(others) is None


def test_no_time_is_told_where_nothing_is_known_or_left(make_profile, tmp_path, monkeypatch):
    monkeypatch.delenv('KD_IMAGE_FOLDER', raising=False)
    study = StudyProgress(make_profile(data='image_folder'), tmp_path)
    runs = named(tmp_path)
    study.look()
    assert time_left(study) is None  # no run is finished
    write([runs['teacher/s0']], tmp_path)
    change(runs['teacher/s0'], tmp_path, data={'train': 100, 'shape': [3, 8, 8]})
    study.look()
    assert study.records[runs['teacher/s0'].run_id].flop > 0 and time_left(study) is None  # the images of the others are not here
    write(runs.values(), tmp_path)
    study.look()
    assert time_left(study) is None and progress_text(study) == '5 of 5 runs done'


class Stop:
    "An event that lets a watcher look once for each act, and keeps its pauses."
    def __init__(self, *acts): self.acts, self.pauses = list(acts), []

    def wait(self, pause):
        self.pauses.append(pause)
        if not self.acts: return True
        self.acts.pop(0)()
        return False


class Terminal(io.StringIO):
    def isatty(self): return True


def nothing(): pass


@pytest.mark.parametrize('terminal', [False, True])
def test_a_watcher_prints_a_line_when_it_changes(terminal, make_profile, tmp_path, monkeypatch):
    study = StudyProgress(make_profile(), tmp_path)
    out = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(progress.shutil, 'get_terminal_size', lambda: os.terminal_size((12, 24)))
    stop = Stop(nothing, nothing, lambda: write([named(tmp_path)['teacher/s0']], tmp_path), nothing)
    progress.watch(study, stop, out)
    if terminal: assert out.getvalue() == '\r\x1b[K0 of 5 runs\r\x1b[K1 of 5 runs\n'  # 11 columns: the last one would wrap
    else: assert [line[:16] for line in out.getvalue().splitlines()] == ['0 of 5 runs done', '1 of 5 runs done']
    assert stop.pauses[0] == 0 and set(stop.pauses[1:]) <= {2} if terminal else min(stop.pauses[1:]) >= 10


def test_a_watcher_takes_its_share_of_a_core(make_profile, tmp_path, monkeypatch):
    ticks = iter([1., 4., 10., 10.001])  # one look of 3 s, one of a millisecond
    monkeypatch.setattr(progress.time, 'thread_time', lambda: next(ticks))
    stop = Stop(nothing, nothing)
    progress.watch(StudyProgress(make_profile(), tmp_path), stop, io.StringIO())
    assert stop.pauses == [0, pytest.approx(3/.05), 10]


@pytest.mark.parametrize('log, reason', [
    ('a\nkd_capacity.basics.UserError: No images.\nb\n', 'No images.'),
    ('RunStopped: ended by SIGTERM\n', 'ended by SIGTERM'),
    ('kd_capacity.training.RunFailed: the loss was not finite\n', 'the loss was not finite'),
    ('UserError: first\ntorch.OutOfMemoryError: CUDA out of memory\n', 'torch.OutOfMemoryError: CUDA out of memory'),
    ('papermill.exceptions.PapermillExecutionError: x\n', 'papermill.exceptions.PapermillExecutionError: x'),
    ('  File "x", line 1, in UserErrors\nno reason\n', None), ('', None)])
def test_why_a_run_stopped_is_the_last_error_of_its_log(log, reason, tmp_path):
    (tmp_path/'papermill.log').write_text(log)
    assert progress.stop_reason(tmp_path) == reason


def test_a_log_may_hold_any_bytes_or_not_be_there(tmp_path):
    assert progress.stop_reason(tmp_path) is None
    (tmp_path/'papermill.log').write_bytes(b'\xff\nUserError: caf\xe9 \n')
    assert progress.stop_reason(tmp_path).startswith('caf')
