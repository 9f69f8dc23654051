"""A loss, a network and a data set of one's own: registered in one place, they train, are named and are counted."""
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from kd_capacity import data, losses, models
from kd_capacity.basics import Positive, UserError
from kd_capacity.calls import notebook_spec, parameters
from kd_capacity.engine import fold_batch_norms
from kd_capacity.naming import method_colour, method_name, network_name, source_name
from kd_capacity.profiles import grid, profile, run_spec, study_runs
from kd_capacity.run_files import history
from kd_capacity.training import train

TWO_STEPS = dict(width=4, epochs=1, batch_size=425, lr=0.01) # 850 digits, 150 more held out


@pytest.fixture(autouse=True)
def registries():
    "What a test registers is gone after it."
    tables = losses.METHODS, models.ARCHS, data.SOURCES
    before = [dict(table) for table in tables]
    models.measured.cache_clear()
    yield
    for table, entries in zip(tables, before):
        table.clear()
        table.update(entries)
    models.measured.cache_clear()


def pair(teacher, student, results, method='logit', **given):
    "The records of a teacher and of a student that learns from it, two steps each."
    settings = {**TWO_STEPS, **given}
    options = {k: settings.pop(k) for k in list(settings) if k in losses.option_fields()}
    t = run_spec('demo', 'teacher', teacher=teacher, **settings)
    s = run_spec('demo', 'student', teacher=teacher, student=student, method=method, teacher_run=t.run_id, **settings, **options)
    return train(t, results), train(s, results)


# ---- a loss

def cosine_kd():
    "A loss with an option of its own."
    @losses.method('cosine', 'Cosine-KD', '#117733')
    class CosineDistillation(losses.Distillation):
        class Options(losses.Weighted):
            sharpness: Positive = losses.option(2.0, 'κ', 'k', 'factor of the distance')

        def distance(self, batch):
            cosine = F.cosine_similarity(batch.student_logits, batch.teacher_logits, dim=1)
            return dict(kd=self.options.sharpness * (1 - cosine).mean())


def test_a_loss_trains_and_its_option_is_in_spec_name_record_and_parameters(tmp_path):
    cosine_kd()
    _, record = pair('resnet18', 'resnet18', tmp_path, 'cosine', sharpness=3.0)
    assert record['spec']['sharpness'] == 3.0 and '/cosine/a0.5-k3/' in record['run_id']
    row = history(record['run_id'], tmp_path).iloc[0]
    assert 0 < row.loss_kd < 6 and row.loss_total == pytest.approx((row.loss_kd + row.loss_ce) / 2)
    assert (method_name('cosine'), method_colour('cosine')) == ('Cosine-KD', '#117733')
    spec = run_spec('demo', 'student', teacher='resnet50', student='resnet18', method='cosine', sharpness=3.0)
    assert parameters(spec)['sharpness'] == 3.0 and notebook_spec(parameters(spec), 'student') == spec


def test_a_losss_option_has_bounds_and_belongs_to_it_alone():
    cosine_kd()
    student = dict(teacher='resnet50', student='resnet18')
    with pytest.raises(UserError, match='sharpness = -1 is not valid; allowed: a number > 0'):
        run_spec('demo', 'student', **student, method='cosine', sharpness=-1)
    with pytest.raises(UserError, match="sharpness = 1.0 does not apply to method 'logit'"):
        run_spec('demo', 'student', **student, method='logit', sharpness=1.0)


def test_a_profile_sets_and_selects_a_losss_option(monkeypatch, tmp_path):
    cosine_kd()
    monkeypatch.setenv('KD_PROFILES', str(tmp_path))
    (tmp_path/'mine.toml').write_text('''description = "a loss"
pairs = [["resnet34", "resnet18"]]
methods = ["cosine", "logit"]
[run]
data = "digits"
padding = 1
[options]
sharpness = 4.0
[selection]
seed = 0
[selection.grid]
sharpness = [1.0, 5.0]
temperature = [2.0]
''')
    p = profile('mine')
    assert grid(p, 'cosine') == [{'sharpness': 1.0}, {'sharpness': 5.0}] and grid(p, 'logit') == [{'temperature': 2.0}]
    assert run_spec('mine', 'student', teacher='resnet34', student='resnet18', method='cosine').sharpness == 4.0


# ---- networks

class Plain(nn.Module):
    "Two convolutions without a shortcut, without a batch norm."
    def __init__(self, num_classes, width, in_channels):
        super().__init__()
        self.first, self.second = nn.Conv2d(in_channels, width, 3, 2, 1), nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.classifier = nn.Linear(2 * width, num_classes)
        self.channels = {'early': width, 'late': 2 * width}

    def features(self, x):
        early = self.first(x).relu()
        late = self.second(early).relu()
        return self.classifier(late.mean((2, 3))), {'early': early, 'late': late}

    def forward(self, x): return self.features(x)[0]


class MobileNet(nn.Module):
    "torchvision's MobileNetV2 with the maps before each change of size."
    stages = {'layer1': 2, 'layer2': 4, 'layer3': 7, 'layer4': 19} # the module that ends it

    def __init__(self, num_classes, width, in_channels):
        super().__init__()
        net = torchvision.models.mobilenet_v2(num_classes=num_classes, width_mult=width / 64)
        net.features[0][0] = nn.Conv2d(in_channels, net.features[0][0].out_channels, 3, 1, 1, bias=False)
        # 8 × 8 digits must not shrink to one pixel before the last stride of 2: on such maps torch 2.11 leaves the
        # gradient of a strided depthwise convolution unset in bfloat16 and channels_last
        net.features[2].conv[1][0].stride = (1, 1)
        self.blocks, self.classifier, self.channels = net.features, net.classifier, {}
        probe = torch.zeros(1, in_channels, 32, 32, device=net.classifier[1].weight.device)
        with torch.no_grad(): maps = self.eval().features(probe)[1]
        self.channels = {name: m.shape[1] for name, m in maps.items()}
        self.train()

    def features(self, x):
        maps = {}
        for i, block in enumerate(self.blocks, 1):
            x = block(x)
            maps |= {name: x for name, end in self.stages.items() if end == i}
        return self.classifier(x.mean((2, 3))), maps

    def forward(self, x): return self.features(x)[0]


class PreActivation(nn.Module):
    "A block of a WideResNet: the batch norms stand before the convolutions (Zagoruyko & Komodakis 2016)."
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        ready = self.bn1(x).relu()
        out = self.conv2(self.bn2(self.conv1(ready)).relu())
        return out + (x if self.shortcut is None else self.shortcut(ready))


class WideResNet(nn.Module):
    "Three stages of two blocks: WRN-16, of `width` channels in the first."
    def __init__(self, num_classes, width, in_channels):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.channels, inputs = {}, 16
        for i in range(3):
            outputs = width * 2**i
            blocks = PreActivation(inputs, outputs, 2 if i else 1), PreActivation(outputs, outputs, 1)
            self.add_module(f'layer{i + 1}', nn.Sequential(*blocks))
            self.channels[f'layer{i + 1}'] = inputs = outputs
        self.bn1, self.fc = nn.BatchNorm2d(inputs), nn.Linear(inputs, num_classes)

    def features(self, x):
        x, maps = self.conv1(x), {}
        for name in self.channels: maps[name] = x = getattr(self, name)(x)
        return self.fc(self.bn1(x).relu().mean((2, 3))), maps

    def forward(self, x): return self.features(x)[0]


NETWORKS = {'plain': Plain, 'mobilenet': MobileNet, 'wrn16': WideResNet}


def register(name):
    @models.network(name, name.upper(), name)
    def build(num_classes, stem, width, in_channels): return NETWORKS[name](num_classes, width, in_channels)


def flops_by_hand(model, x):
    "Two for each multiply-add of every convolution and linear layer."
    counted = []
    def count(module, _, out): counted.append(2 * out.numel() * module.weight[0].numel())
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)): module.register_forward_hook(count)
    model.eval()(x)
    return sum(counted)


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('width', [16, 64])
def test_parameters_and_operations_of_any_network_are_its_own(name, width):
    register(name)
    model = models.build_network(name, 7, width=width, in_channels=1)
    assert models.parameter_count(name, 7, width=width, in_channels=1) == sum(p.numel() for p in model.parameters())
    assert models.forward_flops(name, (1, 24, 32), 7, width=width) == flops_by_hand(model, torch.zeros(1, 1, 24, 32))


def test_a_wide_resnets_parameters_are_those_worked_out_by_hand():
    "432 + 9,344 + 32,992 + 131,520 of three stages, 128 of the last batch norm, 650 of the classifier."
    register('wrn16')
    assert models.parameter_count('wrn16', 10, width=16) == 175_066


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('method, engine', [('feature', 'faithful'), ('logit', 'fast')])
def test_any_network_trains_as_teacher_and_as_student(name, method, engine, tmp_path):
    register(name)
    _, record = pair(name, name, tmp_path, method, width=16, engine=engine)
    assert record['status'] == 'complete' and record['run_id'].split('/')[1] == f'{name}w16-{name}w16'
    assert record['parameters'] == models.parameter_count(name, width=16, in_channels=1)
    assert network_name(name, 16) == f'{name.upper()}·w16' and network_name(name) == name.upper()


def test_a_resnet_learns_from_another_kind_of_network(tmp_path):
    register('plain')
    assert pair('plain', 'resnet18', tmp_path)[1]['fidelity']['agreement'] >= 0
    with pytest.raises(UserError, match=r"has the layers \['layer1', .*\['early', 'late'\]"):
        pair('plain', 'resnet18', tmp_path, 'feature')


def test_folding_leaves_batch_norms_that_stand_before_their_convolutions_alone():
    register('wrn16')
    torch.manual_seed(0)
    model, x = models.build_network('wrn16', width=16), torch.randn(8, 3, 8, 8)
    for _ in range(3): model(x) # running statistics that would show
    teacher = models.frozen(model)
    folded = fold_batch_norms(teacher)
    assert torch.equal(folded(x), teacher(x))
    assert folded.state_dict().keys() == teacher.state_dict().keys()


@pytest.mark.parametrize('build, words', [
    (lambda *_: nn.Linear(2, 2), 'has no features and no channels'),
    (lambda *_: torchvision.models.mobilenet_v2(), 'has no channels')])
def test_a_network_without_features_or_channels_is_refused_in_words(build, words):
    models.network('mine', 'Mine', 'm')(build)
    with pytest.raises(UserError, match=f"the network 'mine' {words}: its constructor must give"): models.build_network('mine')


# ---- pairs

def test_two_equal_networks_are_a_pair(monkeypatch, tmp_path):
    monkeypatch.setenv('KD_PROFILES', str(tmp_path))
    (tmp_path/'mine.toml').write_text('''description = "self-distillation"
pairs = [["resnet18", "resnet18"]]
seeds = [0]
teacher_epochs = 1
[run]
data = "digits"
padding = 1
width = 4
epochs = 1
batch_size = 500
''')
    specs = study_runs('mine')
    assert [s.role for s in specs] == ['teacher', 'baseline', 'student', 'student'] and len({s.run_id for s in specs}) == 4
    records = [train(spec, tmp_path/'results') for spec in specs]
    assert [r['teacher'] and r['teacher']['run_id'] for r in records] == [None, None, *[specs[0].run_id] * 2]
    assert records[0]['parameters'] == records[3]['parameters']


def test_a_pair_of_one_network_at_two_widths(tmp_path):
    t = run_spec('demo', 'teacher', teacher='resnet18', **{**TWO_STEPS, 'width': 8})
    s = run_spec('demo', 'student', teacher='resnet18', student='resnet18', method='feature', teacher_width=8,
                 teacher_run=t.run_id, **TWO_STEPS)
    teacher, student = train(t, tmp_path), train(s, tmp_path)
    assert teacher['parameters'] > 3 * student['parameters'] and '/r18w8-r18w4/' in s.run_id


# ---- a data set

def test_a_data_set_of_other_images_trains(tmp_path):
    "40×40 pixels in three classes."
    @data.source('patches', 'coloured patches', train_images=60, shape=(3, 40, 40), num_classes=3)
    def patches(root=None):
        labels = torch.arange(60) % 3
        images = torch.randint(0, 150, (60, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        images[torch.arange(60), labels] += 100
        return data.make_dataset('patches', (images, labels), (images.flip(3), labels), ('red', 'green', 'blue'))

    settings = dict(data='patches', batch_size=25, validation_size=10, padding=4, flip=True)
    teacher, student = pair('resnet34', 'resnet18', tmp_path, 'feature', **settings)
    for record in teacher, student:
        assert record['data']['shape'] == [3, 40, 40] and record['data']['classes'] == ['red', 'green', 'blue']
        assert (record['data']['train'], record['data']['validation'], len(record['outcome']['per_class'])) == (50, 10, 3)
    assert source_name('patches') == 'coloured patches'
    with pytest.raises(UserError, match='validation_size = 60, but patches has 60 training images'):
        run_spec('demo', 'baseline', student='resnet18', **{**settings, 'validation_size': 60})
