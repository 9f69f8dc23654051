"Models from outside: torchvision's own ResNets are the witness."
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kd_capacity import models
from kd_capacity.basics import UserError
from kd_capacity.models import ARCHS, forward_flops, frozen, resnet

PARAMETERS = {('resnet18', 'cifar'): 11_173_962, ('resnet34', 'cifar'): 21_282_122,
              ('resnet50', 'cifar'): 23_520_842, ('resnet101', 'cifar'): 42_512_970,
              ('resnet18', 'imagenet'): 11_181_642, ('resnet34', 'imagenet'): 21_289_802,
              ('resnet50', 'imagenet'): 23_528_522, ('resnet101', 'imagenet'): 42_520_650}
EXPANSION = {'resnet18': 1, 'resnet34': 1, 'resnet50': 4, 'resnet101': 4}


def on_meta(make, *args, **kwargs):
    "A network with shapes and no numbers: made in no time."
    with torch.device('meta'): return make(*args, **kwargs)


def trained_looking(model):
    "Batch norms as after training, so that a wrong order of norms or a lost statistic shows."
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1), module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize('arch, stem', PARAMETERS)
def test_parameter_counts(arch, stem):
    model = on_meta(resnet, arch, stem=stem)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[arch, stem]


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('stem', ['cifar', 'imagenet'])
def test_state_dict_names_and_shapes_are_torchvisions(arch, stem):
    ours = on_meta(resnet, arch, num_classes=1000, stem=stem).state_dict()
    theirs = on_meta(getattr(torchvision.models, arch)).state_dict()
    assert list(ours) == list(theirs)
    differ = [name for name in ours if ours[name].shape != theirs[name].shape]
    assert differ == ([] if stem == 'imagenet' else ['conv1.weight'])


@pytest.mark.parametrize('arch', ARCHS)
def test_imagenet_logits_and_features_are_torchvisions(arch):
    torch.manual_seed(0)
    theirs = trained_looking(getattr(torchvision.models, arch)(num_classes=10))
    ours = on_meta(resnet, arch, stem='imagenet')
    ours.load_state_dict({name: value.clone() for name, value in theirs.state_dict().items()}, assign=True)
    maps, x = {}, torch.randn(2, 3, 64, 64)
    for i in range(1, 5):
        theirs.get_submodule(f'layer{i}').register_forward_hook(lambda _, __, out, i=i: maps.__setitem__(f'layer{i}', out.clone()))
    for mode in (False, True):
        with torch.no_grad(): expected, (logits, features) = theirs.train(mode)(x), ours.train(mode).features(x)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        assert list(features) == list(maps)
        for name in maps: torch.testing.assert_close(features[name], maps[name], rtol=1e-4, atol=1e-4)
    for name, value in ours.state_dict().items(): torch.testing.assert_close(value, theirs.state_dict()[name])


@pytest.mark.parametrize('arch', ['resnet18', 'resnet50'])
def test_initial_weights_are_torchvisions(arch):
    torch.manual_seed(7)
    ours = resnet(arch, num_classes=10, stem='imagenet').state_dict()
    torch.manual_seed(7)
    theirs = getattr(torchvision.models, arch)(num_classes=10).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize('arch', ['resnet18', 'resnet50'])
def test_the_cifar_stems_convolution_starts_as_pytorch_starts_it_and_all_others_as_torchvision(arch):
    torch.manual_seed(7)
    weights = {name: w for name, w in resnet(arch, stem='cifar').state_dict().items() if w.ndim == 4}
    bound = (3 * 3 * 3) ** -0.5 # uniform in ±1/√(inputs of an output)
    assert 0.98 * bound < weights['conv1.weight'].abs().max() <= bound
    assert weights.pop('conv1.weight').std().item() == pytest.approx(bound / 3 ** 0.5, rel=0.05)
    for name, w in weights.items(): # normal, of standard deviation √(2/outputs of an input)
        assert w.std().item() == pytest.approx((2 / (w.shape[0] * w.shape[2] * w.shape[3])) ** 0.5, rel=0.05), name


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('stem, image, sizes', [('cifar', 32, [32, 16, 8, 4]), ('imagenet', 32, [8, 4, 2, 1]),
                                                ('imagenet', 224, [56, 28, 14, 7]), ('cifar', 8, [8, 4, 2, 1])])
def test_feature_shapes(arch, stem, image, sizes):
    model = on_meta(resnet, arch, num_classes=7, stem=stem)
    logits, maps = model.features(torch.empty(2, 3, image, image, device='meta'))
    channels = [64 * 2 ** i * EXPANSION[arch] for i in range(4)]
    assert logits.shape == (2, 7)
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        f'layer{i + 1}': (2, channels[i], size, size) for i, size in enumerate(sizes)}
    assert model.channels == dict(zip(maps, channels))


def test_the_cifar_stem_sees_every_pixel():
    "3x3 at stride 1 without max-pool: its own convolution, norm and relu, written out."
    torch.manual_seed(0)
    model, x = resnet('resnet18', width=8).eval(), torch.randn(2, 3, 16, 16)
    assert tuple(model.conv1.weight.shape) == (8, 3, 3, 3)
    stem = F.relu(F.batch_norm(F.conv2d(x, model.conv1.weight, padding=1), model.bn1.running_mean, model.bn1.running_var))
    with torch.no_grad():
        _, maps = model.features(x)
        torch.testing.assert_close(maps['layer1'], model.layer1(stem))


def test_model_and_features_give_the_same_logits_and_options_apply():
    torch.manual_seed(0)
    model, x = resnet('resnet34', num_classes=5, width=4, in_channels=1).eval(), torch.randn(3, 1, 8, 8)
    logits, maps = model.features(x)
    assert torch.equal(model(x), logits) and logits.shape == (3, 5)
    assert model.channels == {'layer1': 4, 'layer2': 8, 'layer3': 16, 'layer4': 32}
    assert model.channels == {name: m.shape[1] for name, m in maps.items()}


def test_every_parameter_learns():
    torch.manual_seed(0)
    model = resnet('resnet50', width=4)
    model(torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize('options, words', [
    (dict(arch='resnet19'), "arch = 'resnet19'.*'resnet18', 'resnet34', 'resnet50', 'resnet101'"),
    (dict(arch='resnet18', stem='cifar10'), "stem = 'cifar10'.*'cifar', 'imagenet'")])
def test_unknown_names_are_refused_with_what_there_is(options, words):
    with pytest.raises(UserError, match=words): resnet(**options)
    with pytest.raises(UserError, match=words): forward_flops(image_shape=(3, 32, 32), **options)


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('stem', ['cifar', 'imagenet'])
def test_flops_are_those_of_pytorchs_own_counter(arch, stem):
    model = resnet(arch, num_classes=7, stem=stem, width=16, in_channels=1).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter: model(torch.empty(1, 1, 24, 32))
    assert forward_flops(arch, (1, 24, 32), num_classes=7, stem=stem, width=16) == counter.get_total_flops()


def test_counting_leaves_the_random_numbers_where_they_were():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    models.measured.__wrapped__('resnet18', (3, 8, 8), width=4)
    assert torch.equal(torch.rand(2), expected)


def test_flops_on_cifar10():
    "0.56 billion multiply-adds, the figure everybody quotes for this ResNet-18."
    assert round(forward_flops('resnet18', (3, 32, 32)) / 2e9, 2) == 0.56


# The frozen teacher

class Pair(nn.Module):
    "A student that carries its teacher along, as a training loop might."
    def __init__(self):
        super().__init__()
        self.student, self.teacher = resnet('resnet18', width=4), frozen(trained_looking(resnet('resnet34', width=4)))


def test_a_teacher_stays_in_evaluation_mode():
    pair = Pair()
    assert pair.train().student.training
    pair.teacher.train()
    pair.teacher.train(True)
    assert not any(module.training for module in pair.teacher.modules())


def test_a_teachers_answer_does_not_depend_on_the_batch_and_leaves_it_as_it_was():
    torch.manual_seed(0)
    teacher, (a, b, c) = Pair().train().teacher, torch.randn(3, 3, 8, 8)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    torch.testing.assert_close(teacher(torch.stack([a, b]))[0], teacher(torch.stack([a, c]))[0])
    torch.testing.assert_close(teacher.features(torch.stack([a, b]))[0][0], teacher(a[None])[0])
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_no_gradient_reaches_a_teacher_or_passes_through_it():
    torch.manual_seed(0)
    pair, x = Pair().train(), torch.randn(4, 3, 8, 8, requires_grad=True)
    logits, maps = pair.teacher.features(x)
    assert not any(t.requires_grad for t in (pair.teacher(x), logits, *maps.values(), *pair.teacher.parameters()))
    F.mse_loss(pair.student(x.detach()), logits).backward()
    assert all(p.grad is None for p in pair.teacher.parameters()) and x.grad is None
    assert all(p.grad is not None for p in pair.student.parameters())


def test_a_teacher_is_the_model_it_was_made_from():
    model, x = trained_looking(resnet('resnet18', width=4)).eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad(): expected = model(x)
    teacher = frozen(model.train())
    assert torch.equal(teacher(x), expected) and teacher.channels == model.channels
