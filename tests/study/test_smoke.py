"""The smoke test of a GPU, executed on a CPU with tiny networks, and what it must refuse to call well."""
import json
import math
import os

import pytest
import torch

from kd_capacity import smoke
from kd_capacity.basics import UserError
from kd_capacity.benchmark import CELLS


@pytest.fixture(scope='module')
def result():
    return smoke.smoke_test('cpu', width=2, batch=4, images=8, minutes=0, cells=('R18', 'R34→R18 logit', 'R34→R18 feature'), say=lambda _: None)


def test_every_question_has_an_answer(result):
    table = smoke.smoke_table(result)
    assert list(table.index) == ['R18', 'R34→R18 logit', 'R34→R18 feature'] and set(table.index) < set(CELLS)
    assert table['same bits'].all() and table.finite.all() and (table['fits JOBS'] == '1 2 4').all()
    assert (table[['faithful s', 'fast s', 'faithful × paper', 'fast × paper']] > 0).all(axis=None)
    assert {'plain', 'paper', 'faithful', 'fast', 'without channels_last'} <= set(result['benchmark']['cells']['R18']['measured'])


def test_what_must_not_be_is_said(result):
    changed = json.loads(json.dumps(result))
    changed['cells']['R18']['same_bits'] = False
    changed['cells']['R34→R18 logit']['fast']['finite'] = False
    assert smoke.faults(result) == [] and len(smoke.faults(changed)) == 2


def test_a_run_that_does_not_fit_is_seen(monkeypatch):
    monkeypatch.setattr(smoke, '_total_memory', lambda device: 1000)
    training_set = smoke.synthetic(4, torch.device('cpu'))
    assert smoke.shares(None, None, training_set, 400) == {'1': True, '2': True, '4': False}


def test_it_is_kept_and_a_file_that_is_none_is_refused(result, tmp_path):
    path = smoke.write_smoke(result, tmp_path)
    assert smoke.read_smoke(path) == json.loads(json.dumps(result))
    path.write_text(json.dumps({**result, 'width': 0}))
    with pytest.raises(UserError, match='width = 0 is not valid'): smoke.read_smoke(path)


def test_a_device_that_is_not_here_is_refused():
    with pytest.raises(SystemExit, match="device = 'tpu' is not here; allowed: cpu"): smoke.main(device='tpu')


def test_memory_that_is_kept_changes_no_bit():
    from kd_capacity.engine import AS_PUBLISHED, keep_memory
    spec, images = smoke.benchmark._spec('resnet18', 'resnet34', 'feature', batch=16, width=8), smoke.synthetic(48, torch.device('cpu'))
    weights = []
    for keep in True, False:
        keep_memory(keep)
        weights.append(smoke.epoch(spec, AS_PUBLISHED, images).weights)
    assert weights[0] == weights[1]


def test_the_peak_is_that_of_the_hungrier_engine(result):
    changed = json.loads(json.dumps(result))
    for cell, memory in zip(changed['cells'].values(), ((2**30, 2**31), (None, 3*2**30), (None, None))):
        cell['faithful']['memory'], cell['fast']['memory'] = memory
    peaks = smoke.smoke_table(changed)['peak GiB'].tolist()
    assert peaks[:2] == [2, 3] and math.isnan(peaks[2])


@pytest.mark.parametrize('best, given, asked', [
    ('cpu', {}, (None, 4, 8, 16, 0)), ('cpu', {'device': 'cpu', 'batch': 2, 'minutes': 9.}, ('cpu', 4, 2, 16, 0)),
    ('cuda', {}, (None, 64, 128, 45_000, 3.)), ('cuda', {'device': 'cpu'}, ('cpu', 4, 8, 16, 0)),
    ('cuda', {'device': 'cuda', 'width': 16, 'images': 100, 'minutes': 1.}, ('cuda', 16, 128, 100, 1.))])
def test_a_gpu_is_tested_at_full_size_and_a_cpu_in_miniature(best, given, asked, result, tmp_path, monkeypatch, capsys):
    heard = []
    monkeypatch.setattr(smoke, '_best_device', lambda: best)
    monkeypatch.setattr(smoke, 'smoke_test', lambda *args: heard.append(args) or result)
    monkeypatch.setenv('KD_RESULTS', str(tmp_path))
    smoke.main(**given)
    assert heard == [asked]
    kept, = (tmp_path/'benchmarks'/'smoke').iterdir()
    said = capsys.readouterr().out
    assert said == f'{smoke.smoke_table(result).round(2).to_string()}\n{result["minutes"]:.1f} minutes; kept in {kept}\n'


def test_what_must_not_be_ends_the_command(result, tmp_path, monkeypatch):
    changed = json.loads(json.dumps(result))
    changed['cells']['R18']['same_bits'] = False
    monkeypatch.setattr(smoke, 'smoke_test', lambda *args: changed)
    with pytest.raises(SystemExit, match='R18: the faithful engine gave other bits the second time.'): smoke.main()
    with pytest.raises(SystemExit, match="device = 'cuda' is not here; allowed: cpu."):
        monkeypatch.setattr(smoke, '_best_device', lambda: 'cpu')
        smoke.main(device='cuda')
    changed['minutes'] = math.nan  # no JSON, and nothing is left of it
    with pytest.raises(ValueError): smoke.write_smoke(changed, tmp_path/'new')
    assert not list((tmp_path/'new').glob('*'))


@pytest.mark.parametrize('before', [None, '7'])
def test_a_cell_in_its_share_of_a_gpu_leaves_the_environment_as_it_was(before, monkeypatch):
    "The GPU is left out: what is asked of it, and that memory which is not there is an answer."
    if before: monkeypatch.setenv('KD_JOBS', before)
    else: monkeypatch.delenv('KD_JOBS', raising=False)
    seen, whole = [], []
    monkeypatch.setattr(smoke, 'share_gpu', lambda device: seen.append(os.environ['KD_JOBS']))
    monkeypatch.setattr(torch.cuda, 'set_per_process_memory_fraction', whole.append)
    monkeypatch.setattr(smoke, 'epoch', lambda *given: None)
    images = smoke.synthetic(2, torch.device('cpu'))
    assert smoke._runs_within('spec', 'engine', images, 4) is True
    def too_much(*given): raise torch.OutOfMemoryError
    monkeypatch.setattr(smoke, 'epoch', too_much)
    assert smoke._runs_within('spec', 'engine', images, 2) is False
    assert seen == ['4', '2'] and whole == [1., 1.] and os.environ.get('KD_JOBS') == before
