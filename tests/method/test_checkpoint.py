"""Checkpoints: whole or absent, tensors only."""
import random

import numpy as np
import pytest
import torch

from kd_capacity import checkpoint
from kd_capacity.basics import UserError


def test_round_trip_on_any_part(tmp_path):
    state = {'w': torch.randn(3, 2), 'n': [1, None, 'a', {'b': torch.tensor(2)}]}
    checkpoint.save(tmp_path/'c.pt', state)
    back = checkpoint.load(tmp_path/'c.pt')
    assert torch.equal(back['w'], state['w']) and back['n'][:3] == [1, None, 'a'] and back['n'][3]['b'] == 2


@pytest.mark.parametrize('keep', [0, 1, 20, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, keep):
    checkpoint.save(tmp_path/'c.pt', {'w': torch.randn(100)})
    whole = (tmp_path/'c.pt').read_bytes()
    (tmp_path/'c.pt').write_bytes(whole[:int(keep*len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match='cannot be read as a checkpoint'): checkpoint.load(tmp_path/'c.pt')


class Foreign:
    ran = False
    def __reduce__(self): return setattr, (Foreign, 'ran', True)


def test_a_pickle_cannot_run_code(tmp_path):
    torch.save({'w': Foreign()}, tmp_path/'c.pt')
    with pytest.raises(UserError): checkpoint.load(tmp_path/'c.pt')
    assert not Foreign.ran


def test_a_full_disk_is_said_and_the_old_checkpoint_stays(tmp_path):
    import os
    checkpoint.save(tmp_path/'c.pt', {'epoch': 1})
    (tmp_path/f'.c.pt.{os.getpid()}.tmp').symlink_to('/dev/full')
    with pytest.raises(UserError, match='No space left on device'): checkpoint.save(tmp_path/'c.pt', {'epoch': 2})
    assert checkpoint.load(tmp_path/'c.pt') == {'epoch': 1}


def test_the_hash_sees_names_types_shapes_and_bits():
    w = torch.arange(4.)
    base = checkpoint.weights_sha256({'w': w})
    others = [{'v': w}, {'w': w.double()}, {'w': w.view(2, 2)}, {'w': -w}, {'w': w, 'v': w}]
    assert len({base, *map(checkpoint.weights_sha256, others)}) == 6
    assert checkpoint.weights_sha256({'w': w.bfloat16()}) != base  # a type that NumPy does not have


def test_tensors_go_to_the_device_that_is_asked_for(tmp_path):
    checkpoint.save(tmp_path/'c.pt', {'w': torch.ones(2)})
    assert checkpoint.load(tmp_path/'c.pt')['w'].device.type == 'cpu'
    assert checkpoint.load(tmp_path/'c.pt', 'meta')['w'].device.type == 'meta'
    with pytest.raises(UserError, match='d.pt does not exist'): checkpoint.load(tmp_path/'d.pt')


def test_all_generators_go_on_where_they_were_and_states_of_gpus_that_are_not_here_are_passed_over(monkeypatch):
    def drawn(): return random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item(), random.gauss(0, 1)
    random.gauss(0, 1), np.random.randn()  # each keeps its second value for the next call
    states = checkpoint.random_states()
    before = drawn()
    monkeypatch.setattr(torch.cuda, 'set_rng_state_all', lambda states: pytest.fail('there is no such GPU'))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    for gpus in [], [torch.get_rng_state()]:
        checkpoint.set_random_states({**states, 'cuda': gpus})
        assert drawn() == before
    given = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(torch.cuda, 'set_rng_state_all', given.append)
    checkpoint.set_random_states({**states, 'cuda': [torch.tensor([1]), torch.tensor([2])]})
    assert given == [[torch.tensor([1])]]
    checkpoint.set_random_states({**states, 'cuda': []})
    assert len(given) == 1
