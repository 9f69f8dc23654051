"Data from outside: torchvision's crops and archive format, real image files, bad folders."
import hashlib
import os
import pickle
import tarfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SHARED
from PIL import Image

from kd_capacity import data
from kd_capacity.basics import UserError
from kd_capacity.data import (augmentation, batches, crop_flip, epoch_order, image_folder, load, make_dataset, normalize,
                              plain_batches, split)

JPEGS = SHARED / 'data' / 'cifar10-jpeg.tar.xz'
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    "Downloads and caches of a test stay in its own folder."
    monkeypatch.setenv('KD_DATA', str(tmp_path / 'data'))
    monkeypatch.delenv('KD_IMAGE_FOLDER', raising=False)
    return tmp_path / 'data'


def random_images(n, c=3, h=32, w=32, seed=0):
    "No black pixels, so that a padded zero is told from an image's own pixel."
    return torch.from_numpy(np.random.default_rng(seed).integers(1, 256, (n, c, h, w), dtype=np.uint8))


def numbered_images(n):
    "Image i is told by its pixels alone, wherever it is cropped: all have the value i + 1."
    return torch.arange(1, n + 1, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 8, 8).contiguous()


# Crop and flip

@pytest.mark.parametrize('c, h, w, padding', [(3, 32, 32, 4), (1, 8, 8, 1), (3, 7, 12, 2), (2, 5, 5, 0)])
def test_crop_flip_is_torchvisions_random_crop_and_flip(c, h, w, padding, monkeypatch):
    from torchvision.transforms import RandomCrop
    from torchvision.transforms.functional import hflip
    n = 100
    images, (offsets, flips) = random_images(n, c, h, w), augmentation(n, 3, 1, padding, True)
    ours = crop_flip(images, offsets, flips, padding)
    assert ours.dtype == torch.uint8 and 0 < flips.sum() < n
    for image, (top, left), flip, got in zip(images, offsets.tolist(), flips, ours):
        monkeypatch.setattr(RandomCrop, 'get_params', staticmethod(lambda img, size: (top, left, h, w)))
        expected = RandomCrop((h, w), padding=padding)(image)
        assert torch.equal(got, hflip(expected) if flip else expected)


def test_a_batch_is_torchvisions_pipeline():
    from torchvision.transforms.functional import crop, hflip, normalize as tv_normalize, pad
    images, labels = random_images(50), torch.arange(50) % 10
    offsets, flips = augmentation(50, 5, 2, 4, True)
    for x, y, index in batches(images, labels, 16, 5, 2, MEAN, STD):
        assert x.dtype == torch.float32 and torch.equal(y, labels[index])
        for got, i in zip(x, index):
            expected = crop(pad(images[i], 4), *offsets[i].tolist(), 32, 32)
            expected = tv_normalize((hflip(expected) if flips[i] else expected) / 255, MEAN, STD)
            torch.testing.assert_close(got, expected)


def test_padding_is_black_before_normalisation():
    corner = crop_flip(random_images(1), torch.tensor([[0, 0]]), torch.tensor([False]), 4)
    assert not corner[:, :, :4].any() and not corner[:, :, :, :4].any() and corner[:, :, 4:, 4:].all()
    assert torch.equal(normalize(corner, MEAN, STD)[0, :, 0, 0], -MEAN / STD)


def test_augmentation_uses_every_offset_and_its_options():
    offsets, flips = augmentation(20_000, 0, 1, 4, True)
    assert len(offsets.unique(dim=0)) == 81 and offsets.min() == 0 and offsets.max() == 8
    assert abs(flips.float().mean() - 0.5) < 0.02
    assert not augmentation(1000, 0, 1, 4, False)[1].any()
    assert not augmentation(1000, 0, 1, 0, True)[0].any()
    images = random_images(20)
    for x, _, index in batches(images, torch.zeros(20), 6, 0, 1, MEAN, STD, padding=0, flip=False):
        assert torch.equal(x, normalize(images[index], MEAN, STD))


# Order

def epoch_of(epoch, seed=0):
    images = random_images(70, h=8, w=8)
    return list(batches(images, torch.arange(70), 32, seed, epoch, MEAN, STD))


def same(a, b): return all(torch.equal(s, t) for p, q in zip(a, b, strict=True) for s, t in zip(p, q, strict=True))


def test_order_and_augmentation_depend_on_seed_and_epoch_alone():
    torch.manual_seed(1), np.random.seed(1)
    uninterrupted = [epoch_of(e) for e in range(1, 5)]
    torch.manual_seed(2), np.random.seed(2), torch.rand(7)
    resumed = [epoch_of(e) for e in range(3, 5)]
    assert same(uninterrupted[2], resumed[0]) and same(uninterrupted[3], resumed[1])


def test_epochs_and_seeds_differ_in_order_and_in_augmentation():
    cases = [(0, 1), (0, 2), (1, 1), (1, 2), (1, 0), (2, 1)]
    for draw in (lambda s, e: epoch_order(500, s, e), lambda s, e: augmentation(500, s, e, 4, True)[0],
                 lambda s, e: augmentation(500, s, e, 4, True)[1]):
        drawn = [draw(*case) for case in cases]
        assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_using_an_epoch_leaves_the_global_random_states_alone():
    torch.manual_seed(0), np.random.seed(0)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(0), np.random.seed(0)
    epoch_of(1)
    assert torch.equal(torch.rand(3), expected[0]) and np.array_equal(np.random.rand(3), expected[1])


def test_the_streams_are_those_of_the_records():
    "A changed constant, or a numpy that draws otherwise, would make every committed record irreproducible."
    assert epoch_order(8, 0, 57).tolist() == [0, 4, 5, 2, 1, 7, 3, 6]
    offsets, flips = augmentation(4, 0, 57, 4, True)
    assert offsets.tolist() == [[4, 4], [8, 1], [6, 5], [1, 4]] and flips.tolist() == [False, True, False, False]
    assert split(20, 1234)[1].tolist() == [15, 16]


def test_every_image_once_an_epoch():
    parts = epoch_of(1)
    assert [len(y) for _, y, _ in parts] == [32, 32, 6]
    index = torch.cat([i for _, _, i in parts])
    assert torch.equal(index.sort().values, torch.arange(70)) and not torch.equal(index, torch.arange(70))


# Validation and evaluation

@pytest.mark.parametrize('n, size', [(50_000, 5_000), (1000, 100), (7, 1), (7, 6), (7, 0)])
def test_validation_and_training_share_no_image_and_leave_none_out(n, size):
    train, validation = split(n, 1234, size)
    assert train.dtype == validation.dtype == torch.int64 and (len(train), len(validation)) == (n - size, size)
    assert not set(train.tolist()) & set(validation.tolist())
    assert set(train.tolist()) | set(validation.tolist()) == set(range(n))


def test_no_training_batch_holds_a_validation_image():
    images, labels = numbered_images(100), torch.arange(100)
    train, validation = split(100, 1234, 20)
    seen = set()
    for x, _, _ in batches(images[train], labels[train], 16, 0, 1, torch.zeros(3), torch.ones(3), padding=1):
        seen |= set((x.amax((1, 2, 3)) * 255).round().int().sub(1).tolist())
    assert seen == set(range(100)) - set(validation.tolist())


def test_the_split_is_one_tenth_by_default_random_and_the_same_for_every_run():
    torch.manual_seed(3), np.random.seed(3)
    train, validation = split(50_000, 1234)
    assert len(validation) == 5000 and 2400 < (validation < 25_000).sum() < 2600
    torch.manual_seed(4), np.random.seed(4)
    assert torch.equal(split(50_000, 1234)[1], validation) and not torch.equal(split(50_000, 1235)[1], validation)


def test_the_validation_images_are_those_of_the_papers_code():
    "The first 5,000 of torch.randperm(50000) by a generator of seed 1234."
    order = torch.randperm(50_000, generator=torch.Generator().manual_seed(1234))
    train, validation = split(50_000, 1234)
    assert set(validation.tolist()) == set(order[:5000].tolist()) and set(train.tolist()) == set(order[5000:].tolist())


@pytest.mark.parametrize('size', [-1, 10, 11])
def test_an_impossible_split_is_refused(size):
    with pytest.raises(UserError, match=f'validation_size {size} .* 10 training images; give 0 to 9'): split(10, 0, size)


def test_evaluation_batches_are_the_images_as_they_are():
    images, labels = random_images(70), torch.arange(70)
    for _ in range(2):
        xs, ys = zip(*plain_batches(images, labels, 32, MEAN, STD))
        assert [len(y) for y in ys] == [32, 32, 6] and torch.equal(torch.cat(ys), labels)
        torch.testing.assert_close(torch.cat(xs), (images / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1))


def test_channel_stats_are_of_the_images_given():
    images = random_images(40, h=8, w=8)
    images[20:] //= 4
    dataset = make_dataset('made', (images, [0] * 40), (images, [0] * 40), ['one'])
    for indices in (None, torch.arange(20), torch.tensor([3, 30])):
        pixels = (images if indices is None else images[indices]).numpy() / 255
        mean, std = dataset.channel_stats(indices)
        np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(std, pixels.std((0, 2, 3)), rtol=1e-6)
        assert mean.dtype == std.dtype == torch.float32


def test_the_papers_constants_can_be_had_instead_of_what_is_measured():
    images = random_images(20)
    dataset = make_dataset('made', (images, [0] * 20), (images, [0] * 20), ['one'])
    mean, std = data.normalization(dataset, 'cifar10', torch.arange(20))
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]))
    torch.testing.assert_close(std, torch.tensor([0.2470, 0.2435, 0.2616]))
    for ours, measured in zip(data.normalization(dataset, 'measured', torch.arange(10)), dataset.channel_stats(torch.arange(10))):
        assert torch.equal(ours, measured)
    with pytest.raises(UserError, match="normalization = 'cifar10' is for images of 3 channels, 'digits' has"):
        data.normalization(load('digits'), 'cifar10', torch.arange(20))


# Digits

def test_digits_are_scikit_learns_each_image_on_one_side():
    from sklearn.datasets import load_digits
    raw, dataset = load_digits(), load('digits')
    assert repr(dataset) == ('digits: 1000 training and 797 test images of 1 x 8 x 8, 10 classes, '
                             f'sha256 {dataset.sha256[:12]}')
    ours = torch.cat([dataset.train_images, dataset.test_images]).flatten(1).numpy()
    assert set(np.unique(ours)) == {round(k * 255 / 16) for k in range(17)}
    key = lambda images, labels: sorted((*np.rint(image).astype(int), label) for image, label in zip(images, labels))
    labels = torch.cat([dataset.train_labels, dataset.test_labels]).tolist()
    assert key(ours / 255 * 16, labels) == key(raw.data, raw.target.tolist())


def test_digits_are_the_same_data_set_for_ever():
    assert load('digits').sha256 == 'ab4bd34a2027f43af2d7921fb792d7aa42b49c291874718a6146780fe07c161b'


@pytest.mark.parametrize('name, words', [('digit', "'digits'"), ('cifar100', "'cifar10'"), (None, "'image_folder'")])
def test_an_unknown_data_set_is_refused_with_what_there_is(name, words):
    with pytest.raises(UserError, match=words): load(name)


def test_digits_take_no_folder():
    with pytest.raises(UserError, match='leave the folder out'): load('digits', root='/data')


@pytest.mark.parametrize('change, words', [
    (lambda train: (train[0].float(), train[1]), 'torch.float32'),
    (lambda train: (train[0][:, 0], train[1]), r'\(4, 8, 8\)'),
    (lambda train: (train[0], train[1][:-1]), r'labels of shape \(3,\)'),
    (lambda train: (train[0][:0], train[1][:0]), r'\(0, 3, 8, 8\)'),
    (lambda train: (train[0], train[1] + 1), 'from 1 to 2; with 2 classes give 0 to 1'),
    (lambda train: (train[0], train[1] - 1), 'from -1 to 0'),
    (lambda train: (train[0][:, :1], train[1]), 'both one size')])
def test_a_source_that_gives_something_else_is_refused(change, words):
    good = numbered_images(4), torch.tensor([0, 1, 0, 1])
    with pytest.raises(UserError, match=f"data set 'mine'.*{words}"): make_dataset('mine', change(good), good, 'ab')


def test_the_hash_tells_data_sets_apart():
    images, labels = numbered_images(4), torch.tensor([0, 1, 0, 1])
    make = lambda *parts: make_dataset('mine', *parts, 'ab').sha256
    one_pixel = images.clone()
    one_pixel[2, 1, 3, 3] += 1
    hashes = {make((images, labels), (images, labels)), make((one_pixel, labels), (images, labels)),
              make((images, labels), (one_pixel, labels)), make((images, 1 - labels), (images, labels))}
    assert len(hashes) == 4 and make((images.numpy(), [0, 1, 0, 1]), (images, labels)) in hashes


def test_a_data_set_moves_as_a_whole():
    moved = load('digits').to('meta')
    assert {getattr(moved, f'{part}_{kind}').device.type for part in ('train', 'test') for kind in ('images', 'labels')} == {'meta'}


# CIFAR-10 in the official format

@pytest.fixture
def archive(tmp_path, monkeypatch):
    "A small cifar-10-python.tar.gz, which torchvision fetches from a server on this machine and checks by its MD5 sums."
    from torchvision.datasets import CIFAR10
    rng, folder, md5 = np.random.default_rng(0), tmp_path / 'made' / CIFAR10.base_folder, {}
    folder.mkdir(parents=True)
    names = [f'data_batch_{i}' for i in range(1, 6)] + ['test_batch']
    contents = {name: {'batch_label': name, 'labels': rng.integers(0, 10, 20).tolist(),
                       'data': rng.integers(0, 256, (20, 3072), dtype=np.uint8),
                       'filenames': [f'{i}.png' for i in range(20)]} for name in names}
    labels = 'airplane automobile bird cat deer dog frog horse ship truck'.split()
    for name, content in {**contents, 'batches.meta': {'label_names': labels, 'num_vis': 3072}}.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    path = tmp_path / 'server' / CIFAR10.filename
    path.parent.mkdir()
    with tarfile.open(path, 'w:gz') as tar: tar.add(folder, CIFAR10.base_folder)
    fetched = []
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args): super().__init__(*args, directory=path.parent)
        def do_GET(self):
            if 'Method' not in self.headers: fetched.append(self.path)  # torchvision asks for redirects first
            super().do_GET()
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setattr(CIFAR10, 'url', f'http://127.0.0.1:{server.server_port}/{path.name}')
    monkeypatch.setattr(CIFAR10, 'tgz_md5', hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR10, 'train_list', [[name, md5[name]] for name in names[:5]])
    monkeypatch.setattr(CIFAR10, 'test_list', [['test_batch', md5['test_batch']]])
    monkeypatch.setattr(CIFAR10, 'meta', {**CIFAR10.meta, 'md5': md5['batches.meta']})
    def close(): server.shutdown(), server.server_close()
    yield SimpleNamespace(contents=contents, fetched=fetched, close=close)
    close()


def test_cifar10_is_downloaded_checked_and_read(archive, data_dir):
    dataset, batch = load('cifar10'), archive.contents
    assert (dataset.name, dataset.shape, dataset.num_classes, dataset.classes[9]) == ('cifar10', (3, 32, 32), 10, 'truck')
    expected = np.concatenate([batch[f'data_batch_{i}']['data'] for i in range(1, 6)]).reshape(100, 3, 32, 32)
    assert torch.equal(dataset.train_images, torch.from_numpy(expected))
    assert dataset.train_labels.tolist() == sum((batch[f'data_batch_{i}']['labels'] for i in range(1, 6)), [])
    assert torch.equal(dataset.test_images, torch.from_numpy(batch['test_batch']['data'].reshape(20, 3, 32, 32)))
    assert dataset.test_labels.tolist() == batch['test_batch']['labels']
    archive.close()
    assert load('cifar10').sha256 == load('cifar10', data_dir / 'cifar10').sha256 == dataset.sha256  # from disk


def test_cifar10_that_was_damaged_on_disk_is_restored(archive, data_dir):
    expected = load('cifar10').sha256
    damaged = data_dir / 'cifar10' / 'cifar-10-batches-py' / 'data_batch_3'
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert load('cifar10').sha256 == expected


def test_cifar10_with_a_wrong_checksum_is_refused(archive, data_dir, monkeypatch):
    from torchvision.datasets import CIFAR10
    monkeypatch.setattr(CIFAR10, 'tgz_md5', '0' * 32)
    with pytest.raises(UserError, match="CIFAR-10 is not complete in .*cifar10.*image_folder"): load('cifar10')
    assert not (data_dir / 'cifar10' / 'cifar-10-batches-py').exists()


def test_cifar10_without_network_says_what_to_do(archive, tmp_path):
    archive.close()
    with pytest.raises(UserError, match='elsewhere and the download failed .*put cifar-10-python.tar.gz into that folder'):
        load('cifar10', tmp_path / 'elsewhere')


def test_four_runs_at_once_download_cifar10_once(archive):
    with ThreadPoolExecutor(4) as pool: hashes = {d.sha256 for d in pool.map(lambda _: load('cifar10'), range(4))}
    assert len(hashes) == 1 and len(archive.fetched) == 1


# Image folders

@pytest.fixture
def folder(tmp_path):
    "ROOT with classes dog and cat (made in that order), 3 training and 2 test images of 6x5 pixels each."
    rng, root = np.random.default_rng(0), tmp_path / 'root'
    for part, n in ('train', 3), ('test', 2):
        for name in 'dog', 'cat':
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f'{i}.png', compress_level=0)
    return root


@pytest.fixture
def decoded(monkeypatch):
    "Paths that Pillow opened, in order."
    paths, open_image = [], Image.open
    monkeypatch.setattr(Image, 'open', lambda path, *a, **k: (paths.append(path), open_image(path, *a, **k))[1])
    return paths


def pixels_of(path): return torch.from_numpy(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1)


def test_an_image_folder_is_read_in_order_of_names(folder, monkeypatch):
    dataset = load('image_folder', folder)
    assert (dataset.name, dataset.classes, dataset.shape) == ('image_folder', ('cat', 'dog'), (3, 6, 5))
    assert (dataset.train_labels.tolist(), dataset.test_labels.tolist()) == ([0] * 3 + [1] * 3, [0, 0, 1, 1])
    for part, images in ('train', dataset.train_images), ('test', dataset.test_images):
        paths = sorted((folder / part).glob('*/*.png'))
        assert torch.equal(images, torch.stack([pixels_of(path) for path in paths]))
    monkeypatch.setenv('KD_IMAGE_FOLDER', str(folder))
    assert load('image_folder').sha256 == dataset.sha256


def test_formats_and_modes_may_mix_and_hidden_files_do_not_count(folder):
    Image.new('L', (5, 6), 77).save(folder / 'train' / 'cat' / 'grey.bmp')
    Image.new('RGBA', (5, 6), (1, 2, 3, 255)).save(folder / 'train' / 'cat' / 'alpha.png')
    Image.new('P', (5, 6)).save(folder / 'train' / 'dog' / 'palette.gif')
    (folder / 'train' / 'cat' / '.DS_Store').write_bytes(b'finder')
    (folder / 'train' / '.git').mkdir()
    (folder / 'notes.txt').write_text('beside train and test anything may lie')
    dataset = image_folder(folder)
    assert len(dataset.train_images) == 9
    assert dataset.train_images[3:5, :, 0, 0].tolist() == [[1, 2, 3], [77, 77, 77]]


def test_images_are_decoded_once(folder, decoded):
    first = image_folder(folder)
    assert len(set(decoded)) == 10
    decoded.clear()
    again = image_folder(folder)
    assert not decoded and again.sha256 == first.sha256 and again.classes == first.classes
    assert torch.equal(again.train_images, first.train_images) and torch.equal(again.test_labels, first.test_labels)


def change_a_file(folder):
    path = folder / 'train' / 'cat' / '1.png'
    size = path.stat().st_size
    Image.new('RGB', (5, 6), (9, 9, 9)).save(path, compress_level=0)
    assert path.stat().st_size == size
def add_a_file(folder): Image.new('RGB', (5, 6), (9, 9, 9)).save(folder / 'test' / 'dog' / '7.png')
def remove_a_file(folder): (folder / 'train' / 'dog' / '2.png').unlink()
def rename_a_class(folder): [(folder / part / 'cat').rename(folder / part / 'zebra') for part in ('train', 'test')]


@pytest.mark.parametrize('change', [change_a_file, add_a_file, remove_a_file, rename_a_class])
def test_a_changed_folder_is_decoded_again(folder, decoded, change):
    before = image_folder(folder)
    change(folder)
    decoded.clear()
    after = image_folder(folder)
    assert decoded and (after.sha256, after.classes) != (before.sha256, before.classes)
    cache = folder / '.kd_capacity.npz'
    cache.unlink()
    assert image_folder(folder).sha256 == after.sha256


def truncate(cache): cache.write_bytes(cache.read_bytes()[:-200])
def empty(cache): cache.write_bytes(b'')
def flip_a_bit(cache):
    content = bytearray(cache.read_bytes())
    content[content.index(b'train_images.npy') + 300] ^= 1
    cache.write_bytes(content)
def exchange_a_pixel(cache):
    with np.load(cache) as stored: arrays = dict(stored)
    arrays['train_images'][0, 0, 0, 0] ^= 1
    np.savez(cache, **arrays)
def leave_an_array_out(cache):
    with np.load(cache) as stored: arrays = dict(stored)
    del arrays['test_labels']
    np.savez(cache, **arrays)


@pytest.mark.parametrize('damage', [truncate, empty, flip_a_bit, exchange_a_pixel, leave_an_array_out])
def test_a_damaged_cache_is_noticed_and_made_again(folder, damage):
    expected, cache = image_folder(folder).sha256, folder / '.kd_capacity.npz'
    damage(cache)
    with pytest.warns(UserWarning, match='is damaged .* reading the images again'):
        assert image_folder(folder).sha256 == expected
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert image_folder(folder).sha256 == expected


def test_the_cache_of_a_read_only_folder_lies_with_the_data(folder, data_dir, decoded, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda path, mode: Path(path) != folder)  # root may write anywhere
    before = sorted(folder.rglob('*'))
    first = image_folder(folder)
    assert sorted(folder.rglob('*')) == before and len(list((data_dir / 'cache').glob('image_folder-*.npz'))) == 1
    decoded.clear()
    assert image_folder(folder).sha256 == first.sha256 and not decoded


def test_a_full_disk_leaves_no_half_of_a_cache(folder, monkeypatch):
    def full(file, **arrays):
        file.write(b'half')
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(np, 'savez', full)
    with pytest.raises(UserError, match='No space left on device'): image_folder(folder)
    assert not [p for p in folder.iterdir() if p.is_file() and p.stat().st_size]


def test_four_runs_at_once_decode_once(folder, decoded):
    with ThreadPoolExecutor(4) as pool: hashes = {d.sha256 for d in pool.map(lambda _: image_folder(folder), range(4))}
    assert len(hashes) == 1 and len(decoded) == len(set(decoded)) + 1  # the first image tells the size


def no_root(root): root.rename(root.with_name('away'))
def nothing_in_it(root): no_root(root), root.mkdir()
def no_test(root): (root / 'test').rename(root / 'other')
def no_class_folders(root): [path.rename(root / path.name) for path in (root / 'train').iterdir()]
def class_missing_in_test(root): (root / 'test' / 'cat').rename(root / 'lost')
def class_missing_in_train(root): (root / 'train' / 'dog').rename(root / 'lost')
def empty_class(root): [path.unlink() for path in (root / 'train' / 'cat').iterdir()]
def broken_image(root): (root / 'test' / 'dog' / '1.png').write_bytes(b'no image')
def empty_image(root): (root / 'test' / 'dog' / '1.png').write_bytes(b'')
def truncated_image(root):
    path = root / 'test' / 'dog' / '1.png'
    path.write_bytes(path.read_bytes()[:-60])
def text_among_images(root): (root / 'train' / 'dog' / 'notes.txt').write_text('read me')
def folder_among_images(root): (root / 'train' / 'dog' / 'more').mkdir()
def dangling_link(root): (root / 'train' / 'dog' / 'link.png').symlink_to(root / 'nowhere.png')
def other_size(root): Image.new('RGB', (6, 5)).save(root / 'train' / 'cat' / '1.png')
def other_size_in_test(root): Image.new('RGB', (5, 7)).save(root / 'test' / 'cat' / '1.png')
def sixteen_bits(root): Image.fromarray(np.full((6, 5), 3000, np.uint16)).save(root / 'train' / 'cat' / '1.png')


@pytest.mark.parametrize('spoil, words', [
    (no_root, 'there is no folder .*train; images belong in ROOT/train/<class>/'),
    (nothing_in_it, 'there is no folder .*train; images belong in ROOT/train/<class>/'),
    (no_test, 'there is no folder .*test; images belong'),
    (no_class_folders, 'train holds no class folder; images belong'),
    (class_missing_in_test, "test has no folder for class 'cat'.*same classes in both"),
    (class_missing_in_train, "train has no folder for class 'dog'.*same classes in both"),
    (empty_class, "train/cat holds no images; add some, or remove class 'cat' from train and test"),
    (broken_image, 'test/dog/1.png cannot be read as an image .*replace or remove it'),
    (empty_image, 'test/dog/1.png cannot be read as an image .*replace or remove it'),
    (truncated_image, 'test/dog/1.png cannot be read as an image .*replace or remove it'),
    (text_among_images, 'train/dog/notes.txt cannot be read as an image .*replace or remove it'),
    (folder_among_images, 'train/dog/more cannot be read as an image .*replace or remove it'),
    (dangling_link, 'train/dog/link.png cannot be read .*replace or remove it'),
    (other_size, 'train/cat/1.png is 5 x 6 pixels, but .*train/cat/0.png is 6 x 5 pixels .*one size'),
    (other_size_in_test, 'test/cat/1.png is 7 x 5 pixels, but .*train/cat/0.png is 6 x 5 pixels .*one size'),
    (sixteen_bits, 'train/cat/1.png has more than 8 bits per channel .*8 bits')], ids=lambda v: getattr(v, '__name__', ''))
def test_a_bad_image_folder_is_refused_in_one_sentence_with_nothing_half_written(folder, spoil, words):
    spoil(folder)
    with pytest.raises(UserError, match=words) as refusal: image_folder(folder)
    assert '\n' not in str(refusal.value)
    assert not folder.exists() or not list(folder.glob('.*.npz*[!k]'))


def test_an_image_folder_needs_a_folder():
    with pytest.raises(UserError, match='set KD_IMAGE_FOLDER to your ROOT: images belong in ROOT/train'): load('image_folder')


def test_an_archive_of_copies_is_unpacked_once_and_leaves_no_half(folder, tmp_path, data_dir, monkeypatch):
    archive = tmp_path / 'copies.v1.tar'
    with tarfile.open(archive, 'w') as tar: tar.add(folder, '.')
    monkeypatch.setenv('KD_CIFAR10_JPEG', str(archive))
    with pytest.raises(UserError, match="copies holds .*but data 'cifar10_jpeg' is 50000 training and 10000 test images"): load('cifar10_jpeg')
    there = sorted(p.name for p in data.data_dir().iterdir() if not p.name.endswith('.lock'))
    assert 'copies' in there and not any('.tmp' in name for name in there)
    archive.write_bytes(b'')  # what is unpacked is not asked for again
    with pytest.raises(UserError, match='copies holds'): load('cifar10_jpeg')
    broken = tmp_path / 'broken.tar'
    broken.write_bytes(archive.read_bytes() + b'no archive')
    with pytest.raises(UserError, match='broken.tar cannot be unpacked'): load('cifar10_jpeg', broken)
    assert not [p for p in data.data_dir().iterdir() if p.name.endswith('.tmp')]
    with pytest.raises(UserError, match="'cifar10_jpeg' is not in .*nowhere; set KD_CIFAR10_JPEG"): load('cifar10_jpeg', tmp_path / 'nowhere')


@pytest.mark.parametrize('name, kind', [('../outside', tarfile.REGTYPE), ('{}/outside', tarfile.REGTYPE), ('train/link', tarfile.SYMTYPE)])
def test_an_archive_that_leads_outside_its_folder_is_refused(name, kind, tmp_path, data_dir):
    "Also before Python 3.11.4, whose tarfile would follow it."
    archive, member = tmp_path/'hostile.tar', tarfile.TarInfo(name.format(tmp_path))
    member.type, member.linkname = kind, '/etc/passwd' if kind == tarfile.SYMTYPE else ''
    with tarfile.open(archive, 'w') as tar: tar.addfile(member)
    with pytest.raises(UserError, match='is no file below its folder'): load('cifar10_jpeg', archive)
    assert not list(tmp_path.rglob('outside')) and not list(data.data_dir().glob('*hostile*/**/link'))


def test_copies_of_the_right_number_and_size_are_taken(tmp_path, monkeypatch):
    def sized(training, test, side=32):
        return SimpleNamespace(train_labels=range(training), test_labels=range(test), shape=(3, 32, side))
    found = sized(50_000, 10_000)
    monkeypatch.setattr(data, '_read_folder', lambda name, folder: found)
    assert data.cifar10_jpeg(tmp_path) is found
    for found in sized(49_999, 10_000), sized(50_000, 9_999), sized(50_000, 10_000, 33):
        with pytest.raises(UserError, match='use data'): data.cifar10_jpeg(tmp_path)


@pytest.mark.skipif(not JPEGS.exists(), reason=f'{JPEGS} is not there: the real images cannot be tried')
def test_real_images_load(tmp_path):
    "Five training and five test images a class out of the 60,000 JPEG copies of CIFAR-10."
    with tarfile.open(JPEGS, 'r|xz') as tar:
        for member in tar:
            if member.isfile() and Path(member.name).stem < '0005': data.write_files(tar, tmp_path, [member])
    dataset = image_folder(tmp_path)
    assert (dataset.name, dataset.shape, len(dataset.train_images), len(dataset.test_images)) == ('image_folder', (3, 32, 32), 50, 50)
    assert ' '.join(dataset.classes) == 'airplane automobile bird cat deer dog frog horse ship truck'
    assert dataset.train_labels.bincount().tolist() == [5] * 10
    mean, std = dataset.channel_stats()
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.08, rtol=0)  # of CIFAR-10
    torch.testing.assert_close(std, torch.tensor([0.2470, 0.2435, 0.2616]), atol=0.05, rtol=0)


def test_the_digits_are_kept_and_a_damaged_copy_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv('KD_DATA', str(tmp_path))
    made = load('digits')
    kept = tmp_path/'cache'/'digits.npz'
    assert kept.exists()
    with monkeypatch.context() as m:
        m.setattr(data, '_read_digits', lambda: pytest.fail('read from scikit-learn although kept'))
        assert load('digits').sha256 == made.sha256 and load('digits').name == 'digits'
    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.warns(UserWarning, match='damaged'): assert load('digits').sha256 == made.sha256
    assert load('digits').train_images.stride() == made.train_images.stride() == (64, 64, 8, 1)  # strides decide kernels, and so bits


def test_both_ways_to_take_views_agree():
    "What runs on a GPU (`_take`) and what runs on the CPU give the same bytes."
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 3, 7, 9), dtype=np.uint8))
    offsets, flips = augmentation(40, 0, 1, 2, True)
    windows = torch.nn.functional.pad(images, (2,)*4).unfold(2, 7, 1).unfold(3, 9, 1)
    a, b = (take(windows, *offsets.T, flips) for take in (data._take, data._take_on_cpu))
    assert torch.equal(a, b) and 5 < flips.sum() < 35
