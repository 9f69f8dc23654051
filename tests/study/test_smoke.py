"""The smoke test of a GPU, executed on a CPU with tiny networks, and what it must refuse to call well."""
import json

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
