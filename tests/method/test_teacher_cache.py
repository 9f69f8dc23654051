"""The teacher's logits by (image, view): the live teacher's answers, whoever asks, whoever is killed."""
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch

from kd_capacity import data, models, run_files, training
from kd_capacity.basics import UserError, data_dir
from kd_capacity.engine import precision
from kd_capacity.teacher_cache import TeacherCache, cache_key, epoch_logits, fill, view_count, view_number, view_of
from kd_capacity.training import train

processes = multiprocessing.get_context('fork')
IMAGES = 30


@pytest.fixture(scope='module')
def images():
    "Coloured noise: every view of every image differs from every other."
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (IMAGES, 3, 12, 12), dtype=np.uint8))


STATS = torch.full((3,), .5), torch.full((3,), .25)


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(3)
    net = models.resnet('resnet18', width=4)
    with torch.no_grad(): net(torch.randn(64, 3, 12, 12))  # running statistics of its own
    return models.frozen(net)


def all_views(padding): return torch.cartesian_prod(torch.arange(IMAGES), torch.arange(view_count(padding)))


@pytest.mark.parametrize('padding', [1, 2])
def test_every_view_of_a_filled_cache_is_the_live_teachers_answer(images, network, tmp_path, padding):
    cache = TeacherCache(tmp_path, IMAGES, 10, padding)
    shuffled = all_views(padding)[torch.randperm(IMAGES*view_count(padding), generator=torch.Generator().manual_seed(1))]
    assert fill(cache, network, images, STATS, *shuffled.T, batch=100) == IMAGES*view_count(padding)
    for seed, epoch in (0, 1), (0, 2), (5, 1):
        kept = epoch_logits(cache, lambda x: pytest.fail('asked although everything is known'), images, STATS, seed, epoch, flip=True)
        for x, _, index in data.batches(images, torch.zeros(IMAGES, dtype=torch.long), 7, seed, epoch, *STATS, padding):
            torch.testing.assert_close(kept[index], network(x), rtol=2e-3, atol=2e-3)


def test_the_answers_of_other_views_are_further_away_than_that(images, network):
    "The tolerance above would notice an off-by-one: neighbouring views answer differently."
    at = lambda top, left, flip: network(data.normalize(data.crop_flip(
        images, torch.tensor([[top, left]]*IMAGES), torch.tensor([flip]*IMAGES), 2), *STATS))
    here = at(2, 2, False)
    for other in (at(2, 3, False), at(3, 2, False), at(2, 2, True)): assert ((here - other).abs().amax(1) > 2e-2).all()


def test_only_what_is_missing_is_asked(images, network, tmp_path):
    cache, asked = TeacherCache(tmp_path, IMAGES, 10, 1), []
    def ask(x):
        asked.append(len(x))
        return network(x)
    a = epoch_logits(cache, ask, images, STATS, 0, 1, True)
    b = epoch_logits(cache, ask, images, STATS, 0, 1, True)
    assert sum(asked) == IMAGES and torch.equal(a, b)
    epoch_logits(TeacherCache(tmp_path, IMAGES, 10, 1), ask, images, STATS, 0, 1, True)
    assert sum(asked) == IMAGES


def _fill_in_turn(folder, images, network, order):
    torch.set_num_threads(1)
    cache = TeacherCache(folder, IMAGES, 10, 1)
    for part in order.split(11): fill(cache, network, images, STATS, *part.T)


def test_two_processes_fill_one_cache(images, network, tmp_path):
    order = all_views(1)
    workers = [processes.Process(target=_fill_in_turn, args=(tmp_path/'cache', images, network, o)) for o in (order, order.flip(0))]
    for w in workers: w.start()
    for w in workers: w.join()
    assert [w.exitcode for w in workers] == [0, 0]
    _same_as_live(tmp_path/'cache', images, network)


def test_a_writer_killed_at_any_moment_leaves_only_whole_rows(images, network, tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(6):
        w = processes.Process(target=_fill_in_turn, args=(tmp_path/'cache', images, network, all_views(1)))
        w.start()
        time.sleep(rng.uniform(.02, .15))
        os.kill(w.pid, signal.SIGKILL)
        w.join()
    cache = TeacherCache(tmp_path/'cache', IMAGES, 10, 1)
    index, views = (t.numpy() for t in all_views(1).T)
    there = ~cache.missing(index, views)
    if there.any(): assert np.abs(cache.read(index[there], views[there]).astype(float)).sum(1).min() > 0
    _fill_in_turn(tmp_path/'cache', images, network, all_views(1))
    _same_as_live(tmp_path/'cache', images, network)


def _same_as_live(folder, images, network):
    cache = TeacherCache(folder, IMAGES, 10, 1)
    kept = epoch_logits(cache, lambda x: pytest.fail('a view is missing'), images, STATS, 4, 4, True)
    for x, _, index in data.batches(images, torch.zeros(IMAGES, dtype=torch.long), 30, 4, 4, *STATS, 1):
        torch.testing.assert_close(kept[index], network(x), rtol=2e-3, atol=2e-3)


def test_the_key_changes_with_all_that_an_answer_depends_on(images):
    base = dict(weights_sha256='a', images=images, stats=STATS, padding=1, arithmetic='cpu')
    others = [base | {'weights_sha256': 'b'}, base | {'images': images.flip(0)}, base | {'stats': (STATS[0] + .1, STATS[1])},
              base | {'padding': 2}, base | {'arithmetic': 'cuda'}]
    keys = [cache_key(**k) for k in (base, dict(base), *others)]
    assert keys[0] == keys[1] and len(set(keys)) == len(others) + 1


def test_a_damaged_cache_says_what_to_do(tmp_path):
    TeacherCache(tmp_path, 3, 10, 1)
    for name in 'known.npy', 'logits.npy':
        whole = (tmp_path/name).read_bytes()
        for broken in whole[:-5], whole[:20], b'':
            (tmp_path/name).write_bytes(broken)
            with pytest.raises(UserError, match='delete the folder'): TeacherCache(tmp_path, 3, 10, 1)
        (tmp_path/name).write_bytes(whole)
    TeacherCache(tmp_path, 3, 10, 1)


def test_a_fast_logit_run_learns_the_same_from_the_cache_as_live(teacher, student_spec):
    "The second run of a seed never asks the teacher and ends alike; its losses are those of a run that asked live."
    live = student_spec('logit', lr=1e-3)  # small steps: rounding has no time to grow
    kept = live.replace(engine='fast')
    train(live, teacher[0])
    first = train(kept, teacher[0])
    assert first['environment']['engine']['cache'] and len(list((data_dir()/'teacher_logits').iterdir())) == 1
    a, b = (run_files.history(s.run_id, teacher[0]) for s in (live, kept))
    assert np.allclose(a.loss_kd[0], b.loss_kd[0], rtol=.05) and np.allclose(a.loss_total[0], b.loss_total[0], rtol=.05)


def test_a_step_is_given_the_teachers_answer_to_its_own_images(teacher, student_spec, monkeypatch):
    real, off = training.train_step, []
    def step(model, frozen, method, optimizer, spec, lr, x, y, t_logits, engine):
        with precision(engine, x.device): live = frozen(x).float()
        off.append(float((t_logits - live).abs().max()/live.abs().max()))
        return real(model, frozen, method, optimizer, spec, lr, x, y, t_logits, engine)
    monkeypatch.setattr(training, 'train_step', step)
    train(student_spec('logit', engine='fast'), teacher[0])
    assert len(off) >= 14 and max(off) < .01


@pytest.mark.parametrize('padding', [0, 1, 4])
def test_each_view_has_a_number_of_its_own(padding):
    side = range(2*padding + 1)
    views = [(top, left, flip) for top in side for left in side for flip in (False, True)]
    assert view_count(padding) == len(views)
    offsets, flips = torch.tensor([v[:2] for v in views]), torch.tensor([v[2] for v in views])
    numbers = view_number(offsets, flips, padding)
    assert numbers.tolist() == list(range(len(views)))
    again = view_of(numbers, padding)
    assert torch.equal(again[0], offsets) and torch.equal(again[1], flips)


def test_a_cache_makes_its_folder_and_says_what_is_in_it(tmp_path):
    cache = TeacherCache(tmp_path/'not'/'there', 3, 10, padding=1)
    assert {'logits.npy', 'known.npy'} <= {p.name for p in cache.folder.iterdir()}
    assert cache.logits.shape == (3, 18, 10) and cache.logits.dtype == np.float16 and cache.known.shape == (3, 18)
    assert cache.missing([0, 2], [5, 17]).tolist() == [True, True]
    with pytest.raises(UserError, match='lacks some of these views; let `fill` ask'): cache.read([0], [0])
