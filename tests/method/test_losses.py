"""The losses against values worked out by hand, NumPy and SciPy; where gradients go; what is refused."""
import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import nn

from kd_capacity import losses, models
from kd_capacity.basics import UserError

LAYERS = 'layer1', 'layer2'
STUDENT, TEACHER = dict(layer1=2, layer2=4), dict(layer1=6, layer2=8)
OPTIONS = dict(none={}, logit=dict(alpha=0.3, temperature=4.0), feature=dict(alpha=0.3, beta=0.5, normalize=False))

def objective(method, **changed):
    "An objective with the options above, some of them changed."
    return losses.objective(method, OPTIONS[method] | changed, STUDENT, TEACHER)

def random(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

def maps(channels, size=4, seed=0, images=3):
    return {layer: random(images, c, size, size, seed=seed + i) for i, (layer, c) in enumerate(channels.items())}

def batch(seed=0):
    "Arguments of an objective: three images, five classes."
    return (random(3, 5, seed=seed), torch.tensor([4, 0, 2]), random(3, 5, seed=seed + 1, scale=3.0),
            maps(STUDENT, seed=seed + 2), maps(TEACHER, seed=seed + 4))

def close(a, b, tolerance=1e-5):
    a, b = (float(torch.as_tensor(value).detach()) for value in (a, b))
    assert a == pytest.approx(b, rel=tolerance, abs=1e-6)

# ---- total

def test_alpha_weighs_the_teachers_term():
    close(losses.total_loss(torch.tensor(4.0), torch.tensor(1.0), 0.3), 1.9)
    close(losses.total_loss(torch.tensor(4.0), torch.tensor(1.0), 0), 1)
    close(losses.total_loss(torch.tensor(4.0), torch.tensor(1.0), 1), 4)

# ---- Logit-KD

def two_classes(T):
    "Student at (1/2, 1/2) and teacher at (3/4, 1/4) when softened by T."
    return torch.zeros(1, 2), torch.tensor([[T * np.log(3.0), 0.0]], dtype=torch.float32)

def test_kl_is_from_student_to_teacher():
    close(losses.logit_kd(*two_classes(1), temperature=1), 0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    close(losses.logit_kd(*reversed(two_classes(1)), temperature=1), 0.5 * np.log(2 / 3) + 0.5 * np.log(2))

@pytest.mark.parametrize('T', [0.5, 2, 3, 4])
def test_temperature_softens_and_is_squared(T):
    close(losses.logit_kd(*two_classes(T), temperature=T), T**2 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5)))

@pytest.mark.parametrize('T', [1, 2, 4])
def test_gradient_is_T_times_the_difference_of_probabilities(T):
    z_s, z_t = random(6, 10).requires_grad_(), random(6, 10, seed=1, scale=3)
    losses.logit_kd(z_s, z_t, T).backward()
    expected = T * (special.softmax(z_s.detach().numpy() / T, axis=1) - special.softmax(z_t.numpy() / T, axis=1)) / 6
    np.testing.assert_allclose(z_s.grad.numpy(), expected, atol=1e-6)

def test_gradient_keeps_its_size_over_temperatures():
    def gradient(T):
        z_s = random(6, 10).requires_grad_()
        losses.logit_kd(z_s, random(6, 10, seed=1), T).backward()
        return z_s.grad.norm()
    assert 0.5 < gradient(16) / gradient(1) < 2

@pytest.mark.parametrize('T', [1, 3])
def test_logit_kd_is_scipys_entropy(T):
    z_s, z_t = random(20, 10, scale=3).double(), random(20, 10, seed=1, scale=3).double()
    p_s, p_t = special.softmax(z_s / T, axis=1), special.softmax(z_t / T, axis=1)
    close(losses.logit_kd(z_s, z_t, T), T**2 * stats.entropy(p_t, p_s, axis=1).mean(), 1e-10)

def test_logit_kd_is_zero_only_at_the_teachers_probabilities():
    z = random(6, 10)
    assert losses.logit_kd(z, z, 4) == 0
    close(losses.logit_kd(z + 7, z, 4), 0)
    assert losses.logit_kd(2 * z, z, 4) > 0.01

def test_logit_kd_is_a_mean_over_images():
    z_s, z_t = random(6, 10), random(6, 10, seed=1)
    each = torch.stack([losses.logit_kd(z_s[i:i + 1], z_t[i:i + 1], 4) for i in range(6)])
    close(losses.logit_kd(z_s, z_t, 4), each.mean())

def test_extreme_logits_stay_finite():
    z_s, z_t = torch.tensor([[500.0, -500.0]], requires_grad=True), torch.tensor([[-500.0, 500.0]])
    loss = losses.logit_kd(z_s, z_t, 1)
    loss.backward()
    close(loss, 1000)
    assert z_s.grad.isfinite().all()

# ---- Feature-KD

def numpy_feature_kd(weights, student, teacher, beta, normalize=False):
    "The equations once more, in NumPy, for student maps twice as high and wide as the teacher's."
    mse, cosine = [], []
    for layer, W in weights.items():
        s = np.einsum('tc,nchw->nthw', W[:, :, 0, 0], student[layer])
        n, c, h, w = teacher[layer].shape
        s = s.reshape(n, c, h, 2, w, 2).mean((3, 5))
        t, scale = teacher[layer], teacher[layer].std(ddof=1) if normalize else 1
        mse.append((((s - t) / scale)**2).mean())
        a, b = s.mean((2, 3)), t.mean((2, 3))
        cosine.append((1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())
    return np.mean(mse) + beta * np.mean(cosine), np.mean(mse), np.mean(cosine)

def test_maps_of_half_precision_are_pooled_in_float32():
    s, t = (random(3, 4, 16, 16, seed=i).bfloat16() for i in (0, 1))
    cosine, exact = losses.feature_distance(s, t)[1], losses.feature_distance(s.float(), t.float())[1]
    assert cosine.dtype == torch.float32
    close(cosine, exact)

@pytest.mark.parametrize('normalize', [False, True])
@pytest.mark.parametrize('beta', [0, 0.5, 2])
def test_feature_kd_is_the_equation(beta, normalize):
    loss = losses.FeatureKD(STUDENT, TEACHER, beta, normalize)
    student, teacher = maps(STUDENT, size=8), {l: 3 * t + 1 for l, t in maps(TEACHER, size=4, seed=5).items()}
    out = loss(student, teacher)
    weights = {l: conv.weight.detach().numpy() for l, conv in loss.projections.items()}
    expected = numpy_feature_kd(weights, {l: s.numpy() for l, s in student.items()}, {l: t.numpy() for l, t in teacher.items()}, beta, normalize)
    for name, value in zip(('loss', 'mse', 'cosine'), expected): close(out[name], value)
    assert all(value.ndim == 0 for value in out.values())

def test_feature_kd_by_hand():
    loss = losses.FeatureKD(dict(layer1=2, layer2=2), dict(layer1=2, layer2=2), beta=0.5)
    for conv in loss.projections.values(): nn.init.dirac_(conv.weight)
    s, t = torch.tensor([[[[4.0, 0.0]], [[0.0, 0.0]]]]), torch.ones(1, 2, 1, 2)
    out = loss(dict(layer1=s, layer2=t), dict(layer1=t, layer2=t))
    close(out['mse'], (9 + 1 + 1 + 1) / 4 / 2)
    close(out['cosine'], (1 - 0.5**0.5) / 2)
    close(out['loss'], 1.5 + 0.5 * (1 - 0.5**0.5) / 2)

@pytest.mark.parametrize('student_size, teacher_size', [((8, 8), (4, 4)), ((2, 2), (4, 4)), ((8, 2), (4, 4)), ((5, 5), (3, 3)), ((8, 8), (4, 2))])
def test_the_students_map_is_brought_to_the_teachers_size(student_size, teacher_size):
    s = losses.match_size(random(2, 3, *student_size), random(2, 3, *teacher_size, seed=1))
    assert s.shape == (2, 3, *teacher_size)

def test_pooling_averages_a_larger_map_and_repeats_a_smaller_one():
    large, small = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), torch.tensor([[[[9.0]]]])
    assert losses.match_size(large, small).tolist() == [[[[4]]]]
    assert losses.match_size(small, large).tolist() == [[[[9, 9], [9, 9]]]]

def test_a_smaller_student_is_compared_at_every_position_of_the_teachers_map():
    mse, _ = losses.feature_distance(torch.zeros(1, 1, 1, 1), torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]))
    close(mse, (1 + 9 + 25 + 49) / 4)

def test_normalising_divides_by_the_unbiased_standard_deviation_of_the_teachers_map():
    t = torch.tensor([[[[0.0, 2.0]]]]) # standard deviation √2 over n − 1, 1 over n
    close(losses.feature_distance(torch.zeros_like(t), t, normalize=True)[0], (0 + 4) / 2 / 2)

def test_a_teachers_map_of_one_value_is_divided_by_a_millionth():
    mse, _ = losses.feature_distance(torch.full((1, 1, 2, 2), 3e-6), torch.zeros(1, 1, 2, 2), normalize=True)
    close(mse, 9)

def test_normalized_loss_ignores_the_scale_of_the_maps():
    s, t = random(3, 6, 4, 4), random(3, 6, 4, 4, seed=1)
    for normalize, factor in (True, 1), (False, 100):
        (mse, cosine), (mse10, cosine10) = losses.feature_distance(s, t, normalize), losses.feature_distance(10 * s, 10 * t, normalize)
        close(mse10, factor * mse)
        close(cosine10, cosine)

def test_projections_are_xavier_uniform_bias_free_1x1():
    loss = losses.FeatureKD(dict(layer1=64, layer2=128), dict(layer1=256, layer2=128))
    assert isinstance(loss.projections, nn.ModuleDict) and list(loss.projections) == list(LAYERS)
    for conv, c_s, c_t in zip(loss.projections.values(), (64, 128), (256, 128)):
        a = (6 / (c_s + c_t))**0.5
        assert conv.weight.shape == (c_t, c_s, 1, 1) and conv.bias is None
        assert 0.98 * a < conv.weight.abs().max() <= a
        assert conv.weight.std().item() == pytest.approx(a / 3**0.5, rel=0.03)

def test_two_seeds_give_two_projections_and_one_seed_one():
    def weights(seed):
        torch.manual_seed(seed)
        return losses.FeatureKD(STUDENT, TEACHER).projections['layer1'].weight
    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))

# ---- gradients

def test_gradient_reaches_student_and_every_projection():
    loss, student = losses.FeatureKD(STUDENT, TEACHER), maps(STUDENT)
    for s in student.values(): s.requires_grad_()
    loss(student, maps(TEACHER, seed=5))['loss'].backward()
    assert all(s.grad.norm() > 0 for s in student.values())
    assert all(conv.weight.grad.norm() > 0 for conv in loss.projections.values())

def test_no_gradient_reaches_the_teachers_logits():
    z_s, z_t = random(3, 5).requires_grad_(), random(3, 5, seed=1).requires_grad_()
    losses.logit_kd(z_s, z_t, 4).backward()
    assert z_t.grad is None and z_s.grad.norm() > 0

@pytest.mark.parametrize('normalize', [False, True])
@pytest.mark.parametrize('size', [2, 4, 8])
def test_no_gradient_reaches_the_teachers_features(size, normalize):
    loss, teacher = losses.FeatureKD(STUDENT, TEACHER, normalize=normalize), maps(TEACHER, size=size, seed=5)
    for t in teacher.values(): t.requires_grad_()
    loss(maps(STUDENT), teacher)['loss'].backward()
    assert all(t.grad is None for t in teacher.values())

@pytest.mark.parametrize('method', ['logit', 'feature'])
def test_a_teacher_that_is_not_frozen_gets_no_gradient_either(method):
    student, teacher = models.resnet('resnet18', width=4), models.resnet('resnet50', width=4)
    objective = losses.objective(method, None, student.channels, teacher.channels)
    (z_s, s_maps), (z_t, t_maps) = (network.features(random(2, 3, 8, 8)) for network in (student, teacher))
    objective(z_s, torch.tensor([1, 2]), z_t, s_maps, t_maps)['total'].backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in [*student.parameters(), *objective.projections.parameters()])

# ---- objectives

@pytest.mark.parametrize('method, alpha', [('none', 0), ('logit', 0.3), ('feature', 0.3)])
def test_objective_is_made_of_its_parts(method, alpha):
    out = objective(method)(*batch())
    close(out['ce'], nn.functional.cross_entropy(*batch()[:2]))
    close(out['total'], alpha * out['kd'] + (1 - alpha) * out['ce'])

def test_objectives_distances_are_the_losses_above():
    z_s, labels, z_t, student, teacher = batch()
    close(objective('logit')(z_s, labels, z_t)['kd'], losses.logit_kd(z_s, z_t, 4))
    close(objective('logit')(z_s, labels=labels, teacher_logits=z_t)['kd'], losses.logit_kd(z_s, z_t, 4))
    feature = objective('feature')
    again = losses.FeatureKD(STUDENT, TEACHER, beta=0.5)
    again.projections.load_state_dict(feature.projections.state_dict())
    out, expected = feature(*batch()), again(student, teacher)
    for a, b in (('kd', 'loss'), ('mse', 'mse'), ('cosine', 'cosine')): close(out[a], expected[b])

def test_feature_objective_passes_its_options_on():
    def kd(**changed):
        torch.manual_seed(0)
        return objective('feature', **changed)(*batch())['kd'].item()
    assert len({kd(), kd(beta=0.7), kd(normalize=True)}) == 3

def test_baseline_needs_no_teacher():
    z_s, labels, *_ = batch()
    out = losses.objective('none')(z_s, labels)
    assert out['kd'] == 0 and torch.equal(out['total'], out['ce'])

@pytest.mark.parametrize('method, teacher, features, layers', [
    ('none', False, False, []), ('logit', True, False, []), ('feature', True, True, list(LAYERS))])
def test_objective_says_what_it_needs(method, teacher, features, layers):
    o, entry = objective(method), losses.METHODS[method]
    assert (entry.needs_teacher, entry.needs_features) == (o.needs_teacher, o.needs_features) == (teacher, features)
    assert list(o.projections) == layers

def test_projections_are_all_that_an_objective_trains():
    feature = objective('feature')
    assert [id(p) for p in feature.parameters()] == [id(p) for p in feature.projections.parameters()]
    assert set(feature.projections.state_dict()) == {f'{l}.weight' for l in LAYERS}

def test_one_more_loss_is_one_more_entry(monkeypatch):
    class LogitMSE(losses.Distillation):
        def distance(self, batch):
            return dict(kd=nn.functional.mse_loss(batch.student_logits, batch.teacher_logits))
    monkeypatch.setitem(losses.METHODS, 'mse', losses.Method('mse', 'MSE', '#000000', LogitMSE))
    out = losses.objective('mse', dict(alpha=0.25))(*batch())
    close(out['total'], 0.25 * nn.functional.mse_loss(batch()[0], batch()[2]) + 0.75 * out['ce'])

# ---- what is refused

def refused(call, *words):
    with pytest.raises(UserError) as caught: call()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert '\n' not in message

@pytest.mark.parametrize('alpha', [-0.1, 1.1, float('nan'), None, '0.5'])
def test_alpha_outside_0_1_is_refused(alpha):
    refused(lambda: losses.total_loss(torch.tensor(1.0), torch.tensor(1.0), alpha), 'alpha', repr(alpha))
    for method in 'logit', 'feature': refused(lambda: objective(method, alpha=alpha), 'alpha', repr(alpha))

@pytest.mark.parametrize('T', [0, -1, float('nan'), float('inf'), None])
def test_temperature_must_be_positive(T):
    refused(lambda: losses.logit_kd(random(3, 5), random(3, 5), T), 'temperature', repr(T))
    refused(lambda: objective('logit', temperature=T), 'temperature', repr(T))

@pytest.mark.parametrize('beta', [-1, float('nan'), None])
def test_beta_must_not_be_negative(beta): refused(lambda: losses.FeatureKD(STUDENT, TEACHER, beta), 'beta', repr(beta))

@pytest.mark.parametrize('student, teacher', [((3, 5), (3, 6)), ((3, 5), (1, 5)), ((3, 5, 1), (3, 5, 1)), ((5,), (5,))])
def test_logits_of_other_shapes_are_refused(student, teacher):
    refused(lambda: losses.logit_kd(random(*student), random(*teacher), 4), str(student), str(teacher))

def test_other_layers_are_refused():
    refused(lambda: losses.FeatureKD(STUDENT, dict(layer1=6)), "['layer1', 'layer2']", "['layer1']")
    refused(lambda: losses.FeatureKD({}, {}), 'at least one')
    loss = losses.FeatureKD(STUDENT, TEACHER)
    refused(lambda: loss(maps(STUDENT), maps(dict(layer1=6))), "['layer1', 'layer2']", "['layer1']")
    refused(lambda: loss(maps(dict(layer1=2)), maps(dict(layer1=6))), "this FeatureKD has the layers ['layer1', 'layer2'] and the student ['layer1']")

@pytest.mark.parametrize('student, teacher', [(dict(STUDENT, layer2=3), TEACHER), (STUDENT, dict(TEACHER, layer2=3))])
def test_maps_of_other_networks_are_refused(student, teacher):
    refused(lambda: losses.FeatureKD(STUDENT, TEACHER)(maps(student), maps(teacher)), 'layer2', '(3, 3, 4, 4)')

def test_maps_of_other_images_are_refused():
    refused(lambda: losses.FeatureKD(STUDENT, TEACHER)(maps(STUDENT), maps(TEACHER, images=1)), 'layer1', '(1, 6, 4, 4)', 'same images')

def test_unknown_method_is_refused_with_the_nearest():
    for of in losses.objective, lambda name: losses.method_options(name, {}):
        refused(lambda of=of: of('features'), "method = 'features'", "Did you mean 'feature'?")

def test_an_option_that_a_method_lacks_is_refused_with_those_it_has():
    refused(lambda: losses.objective('logit', dict(beta=1.0)), "beta = 1.0 does not apply to method 'logit'", 'alpha, temperature')
    refused(lambda: losses.objective('none', dict(alpha=1.0)), "'none'", 'its options: none')
    refused(lambda: losses.method_options('logit', dict(alpha=0.5, beta=1.0)), 'beta = 1.0 does not apply')
    assert losses.objective('logit', losses.method_options('logit', dict(alpha=0.3))).options.alpha == 0.3

def test_options_have_their_symbols_words_and_defaults():
    fields = losses.option_fields()
    assert [losses.option_symbol(name) for name in ('alpha', 'temperature', 'beta')] == ['α', 'T', 'β']
    assert [fields[name].json_schema_extra['short'] for name in ('alpha', 'temperature', 'beta')] == ['a', 't', 'b']
    assert all(field.description for field in fields.values())
    assert losses.method_options('logit', {}).model_dump() == dict(alpha=0.5, temperature=4.0)
    assert losses.METHODS['logit'][:3] == ('logit', 'Logit-KD', '#0072b2')
    assert losses.loss_parts()[:5] == ['total', 'ce', 'kd', 'mse', 'cosine']
    assert losses.FeatureKD(STUDENT, TEACHER).beta == 0.5
