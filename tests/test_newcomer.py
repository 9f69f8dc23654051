"""What a newcomer stumbled over, each point once, from outside."""
import os
import re
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from conftest import ROOT
from kd_capacity import data, losses, models
from kd_capacity.basics import UserError
from kd_capacity.calls import notebook_spec, papermill_command, parameters
from kd_capacity.engine import fold_batch_norms
from kd_capacity.profiles import run_spec
from kd_capacity.run_files import read_record
from kd_capacity.training import train

TINY = dict(width=4, epochs=1)


@pytest.fixture
def results(tmp_path): return tmp_path/'results'


@pytest.fixture
def own_images(tmp_path, monkeypatch):
    "A folder of images of one's own, two classes, as `data = 'image_folder'` reads it."
    rng = np.random.default_rng(0)
    for part, n in (('train', 40), ('test', 8)):
        for i, name in enumerate(('dark', 'light')):
            folder = tmp_path/'images'/part/name
            folder.mkdir(parents=True)
            for k in range(n):
                pixels = rng.integers(100*i, 100*i + 100, (12, 12, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder/f'{k:02d}.png')
    monkeypatch.setenv('KD_IMAGE_FOLDER', str(tmp_path/'images'))


# 1. -p options reach the student and its default teacher

OWN = dict(data='image_folder', validation_size=20, protocol='v2', batch_size=16, width=4, profile='demo')


def test_options_that_both_share_reach_the_default_teacher(own_images, results):
    teacher = notebook_spec({**OWN, 'arch': 'resnet18'}, 'teacher').replace(epochs=1)
    student = notebook_spec({**OWN, 'teacher': 'resnet18', 'student': 'resnet18', 'method': 'logit'}, 'student')
    asked = run_spec('demo', 'teacher', teacher='resnet18', data='image_folder', validation_size=20,
                     protocol='v2', width=4)
    assert student.teacher_run == asked.run_id
    train(teacher, results)
    with pytest.raises(UserError) as refused: train(student.replace(epochs=1), results)
    # not with these epochs, so the sentence names the one that is there, and it is taken at its word
    named = re.search(r'-p teacher_run (\S+)', str(refused.value))[1]
    assert named == teacher.run_id
    assert 'data image_folder' in str(refused.value) and 'validation_size 20' in str(refused.value)
    record = train(student.replace(epochs=1, teacher_run=named), results)
    assert record['status'] == 'complete' and record['data']['name'] == 'image_folder'


# 2. a method declares its own options

@pytest.fixture
def margin():
    "A method of one's own: the teacher's margin of the true class over the others, with an option of its own."
    @losses.method('margin', 'Margin-KD', '#009e73')
    class Margin(losses.Distillation):
        "How far the student's logit of the label lies from the teacher's."
        class Options(losses.Weighted):
            power: losses.Positive = losses.option(2.0, 'π', 'p', 'exponent of the difference')

        def distance(self, batch):
            rows = torch.arange(len(batch.labels))
            ours, theirs = batch.student_logits, batch.teacher_logits.detach()
            difference = (ours - theirs)[rows, batch.labels]
            return dict(kd=difference.abs().pow(self.options.power).mean())
    yield Margin
    del losses.METHODS['margin']


def test_a_method_of_ones_own_is_refused_checked_named_and_recorded(margin, results):
    teacher = run_spec('demo', 'teacher', teacher='resnet18', **TINY)
    train(teacher, results)
    given = dict(teacher='resnet18', student='resnet18', method='margin', teacher_run=teacher.run_id, **TINY)
    spec = run_spec('demo', 'student', power=1.5, **given)
    assert spec.power == spec.options.power == 1.5 and '-p1.5' in spec.run_id
    assert run_spec('demo', 'student', **given).power == 2.0 != run_spec('demo', 'student', power=3., **given).power
    assert run_spec('demo', 'student', **given).run_id != spec.run_id
    assert parameters(spec)['power'] == 1.5 and '-p power 1.5' in papermill_command(spec)
    with pytest.raises(UserError, match='power = -1'): run_spec('demo', 'student', power=-1., **given)
    with pytest.raises(UserError, match="temperature .* does not apply to method 'margin'"):
        run_spec('demo', 'student', temperature=4., **given)
    with pytest.raises(UserError, match="power .* does not apply to method 'logit'"):
        run_spec('demo', 'student', power=2., **{**given, 'method': 'logit'})
    record = train(spec, results)
    assert record['spec']['power'] == 1.5 and record['spec'].get('temperature') is None
    assert read_record(spec.run_id, results)['spec']['power'] == 1.5


def test_betas_that_differ_are_seen_in_the_run_id():
    given = dict(teacher='resnet50', student='resnet18', method='feature')
    names = [run_spec('demo', 'student', beta=beta, **given).run_id for beta in (0.25, 0.75)]
    assert 'b0.25' in names[0] and 'b0.75' in names[1]


# 3. other networks

class ThreeStages(nn.Module):
    "A wide residual network of three stages, as on CIFAR: no layer4, no bn1 after the stem, a width of its own."
    def __init__(self, classes, width, in_channels):
        super().__init__()
        sizes = [width, 2*width, 4*width]
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(
            models.BasicBlock(a, b, stride) for a, b, stride in zip([width, *sizes], sizes, (1, 2, 2), strict=False))
        self.fc = nn.Linear(sizes[-1], classes)
        self.channels = {f'block{i}': size for i, size in enumerate(sizes)}

    def features(self, x):
        x, maps = self.stem(x), {}
        for name, block in zip(self.channels, self.blocks, strict=True): maps[name] = x = block(x)
        return self.fc(x.mean((2, 3))), maps

    def forward(self, x): return self.features(x)[0]


class Mobile(nn.Module):
    "torchvision's mobilenet_v2: depthwise convolutions, dropout, another classifier."
    def __init__(self, classes, in_channels):
        super().__init__()
        from torchvision.models import mobilenet_v2
        self.net = mobilenet_v2(num_classes=classes, width_mult=0.25)
        self.net.features[0][0] = nn.Conv2d(in_channels, self.net.features[0][0].out_channels, 3, padding=1, bias=False)
        self.channels = {'last': self.net.last_channel}

    def features(self, x):
        maps = self.net.features(x)
        return self.net.classifier(maps.mean((2, 3))), {'last': maps}

    def forward(self, x): return self.features(x)[0]


@pytest.fixture
def networks():
    models.network('wrn', 'WRN', 'wrn')(
        lambda num_classes, stem, width, in_channels: ThreeStages(num_classes, width, in_channels))
    models.network('mobilenet', 'MN', 'mn')(
        lambda num_classes, stem, width, in_channels: Mobile(num_classes, in_channels))
    yield 'wrn', 'mobilenet'
    for name in 'wrn', 'mobilenet': del models.ARCHS[name]
    models.measured.cache_clear()


@pytest.mark.parametrize('name', ['wrn', 'mobilenet'])
def test_a_networks_parameters_and_flops_are_those_of_the_network(name, networks):
    net = models.build(name, 10, width=8)
    assert models.parameter_count(name, 10, width=8) == sum(p.numel() for p in net.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad(): net.eval()(torch.zeros(1, 3, 32, 32))
    assert models.forward_flops(name, (3, 32, 32), 10, width=8) == counter.get_total_flops()


@pytest.mark.parametrize('name', ['wrn', 'mobilenet'])
def test_a_folded_teacher_answers_as_before(name, networks):
    torch.manual_seed(0)
    teacher = models.frozen(models.build(name, 10, width=8))
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(fold_batch_norms(teacher)(x), teacher(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('method', ['logit', 'feature'])
def test_another_network_teaches_and_learns(method, networks, results):
    teacher = run_spec('demo', 'teacher', teacher='wrn', **TINY)
    train(teacher, results)
    student = run_spec('demo', 'student', teacher='wrn', student='wrn', method=method,
                       teacher_run=teacher.run_id, engine='fast', **TINY)
    record = train(student, results)
    assert record['parameters'] == models.parameter_count('wrn', 10, width=4, in_channels=1)
    assert 'wrn' in student.run_id


def test_a_constructor_that_gives_no_features_is_refused_in_words():
    models.network('plain', 'P', 'p')(lambda num_classes, stem, width, in_channels: nn.Linear(3, num_classes))
    try:
        with pytest.raises(UserError, match=r'plain.*features\(x\)'): models.build('plain')
    finally: del models.ARCHS['plain']


# 5. threads

def threads_of(record): return record['environment']['threads']


def test_a_small_run_takes_one_thread_and_says_so(tmp_path):
    "By hand, without OMP_NUM_THREADS, on a machine of several cores."
    code = f'''
from kd_capacity.profiles import run_spec
from kd_capacity.training import train
print(train(run_spec('demo', 'teacher', teacher='resnet18', width=4, epochs=1), {str(tmp_path)!r})['environment']['threads'])
'''
    env = {k: v for k, v in os.environ.items() if k != 'OMP_NUM_THREADS'}
    for given, threads in ((None, '1'), ('2', '2')):
        more = {} if given is None else {'OMP_NUM_THREADS': given}
        done = subprocess.run([sys.executable, '-c', code.replace('seed=0', '') if given is None else
                               code.replace('epochs=1', 'epochs=1, seed=1')],
                              env={**env, **more}, cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.strip() == threads, done.stderr


# 7. what a run shows, and where from it can be started

def papermill(name, output, cwd, **given):
    options = [x for key, value in given.items() for x in ('-p', key, str(value))]
    return subprocess.run([sys.executable, '-m', 'papermill', ROOT/'nbs'/'experiments'/f'{name}.ipynb', output,
                           *options, '--no-progress-bar'], cwd=cwd, capture_output=True, text=True)


def shown(notebook):
    "Everything that the cell of the run shows."
    cells = [c for c in nbformat.read(notebook, 4).cells if c.cell_type == 'code']
    run = next(c for c in cells if 'train_in_notebook' in c.source)
    return [o.get('text') or o['data']['text/plain'] for o in run.outputs]


def test_a_run_shows_its_progress_and_a_second_call_that_it_was_read(tmp_path):
    given = dict(arch='resnet18', profile='demo', seed=0, epochs=1, width=4)
    first = papermill('teacher', 'first.ipynb', tmp_path, **given)  # from a folder that is no clone
    assert first.returncode == 0, first.stderr
    assert 'TCP' not in first.stderr + first.stdout
    line, = shown(tmp_path/'first.ipynb')
    assert 'epoch 1/1' in line and not re.search(r"""["']""", line)
    second = papermill('teacher', 'second.ipynb', tmp_path, **given)
    assert second.returncode == 0, second.stderr
    line, = shown(tmp_path/'second.ipynb')
    assert 'read' in line and 'record' in line and 'starting' not in line
