"""Checkpoints: whole or absent, tensors only."""
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
