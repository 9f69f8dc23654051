"""Gradient clipping: what each mode scales, by which norm, and what is refused."""
import pytest
import torch
from torch import nn

from kd_capacity import clipping, config, losses
from kd_capacity.clipping import clip_gradients
from kd_capacity.basics import UserError

def parameter(*gradient):
    p = nn.Parameter(torch.ones(len(gradient)))
    p.grad = torch.tensor(gradient)
    return p

def clipped(mode, student=3.0, projection=4.0, max_norm=1.0):
    "Gradient norms of student and projection after clipping."
    s, p = parameter(0.0, student), parameter(projection, 0.0)
    clip_gradients([s], [p], max_norm, mode)
    return s.grad.norm().item(), p.grad.norm().item()

# ---- the four modes, by hand: norms 3 and 4, together 5

def test_union_scales_both_by_the_norm_of_both(): assert clipped('union') == pytest.approx((0.6, 0.8), rel=1e-5)
def test_student_only_leaves_the_projections(): assert clipped('student_only') == pytest.approx((1, 4), rel=1e-5)
def test_separate_scales_each_by_its_own_norm(): assert clipped('separate') == pytest.approx((1, 1), rel=1e-5)
def test_none_scales_nothing(): assert clipped('none') == (3, 4)
def test_union_is_the_default():
    s, p = parameter(0.0, 3.0), parameter(4.0, 0.0)
    clip_gradients([s], [p])
    assert (s.grad[1].item(), p.grad[0].item()) == pytest.approx((0.6, 0.8), rel=1e-5)

@pytest.mark.parametrize('mode', clipping.MODES)
def test_below_the_threshold_nothing_changes_but_where_every_norm_is_matched(mode):
    expected = (0.6, 0.8) if mode == 'matched' else (0.3, 0.4)
    assert clipped(mode, 0.3, 0.4) == pytest.approx(expected, rel=1e-5)

def test_threshold_is_max_norm(): assert clipped('union', max_norm=2.5) == pytest.approx((1.5, 2), rel=1e-5)

def test_student_below_and_total_above_the_threshold():
    assert clipped('union', 0.8, 0.8) == pytest.approx((0.5**0.5, 0.5**0.5), rel=1e-5)
    assert clipped('student_only', 0.8, 0.8) == pytest.approx((0.8, 0.8))

@pytest.mark.parametrize('mode', clipping.MODES)
def test_norms_are_those_before_clipping(mode):
    norms = clip_gradients([parameter(0.0, 3.0)], [parameter(4.0, 0.0)], mode=mode)
    assert (norms.student, norms.projections, norms.total) == pytest.approx((3, 4, 5))
    assert all(isinstance(n, torch.Tensor) and n.ndim == 0 for n in norms)

# ---- on networks

@pytest.fixture
def networks():
    "A student of two convolutions and Feature-KD's projections, with gradients far above the threshold."
    torch.manual_seed(0)
    convs = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)])
    loss = losses.FeatureKD(dict(layer1=4, layer2=6), dict(layer1=8, layer2=12))
    x = torch.randn(5, 3, 8, 8)
    student = dict(layer1=convs[0](x), layer2=convs[1](convs[0](x).relu()))
    teacher = dict(layer1=50 * torch.randn(5, 8, 8, 8), layer2=50 * torch.randn(5, 12, 8, 8))
    loss(student, teacher)['loss'].backward()
    return convs, loss.projections

def gradients(module): return torch.cat([p.grad.flatten() for p in module.parameters()])

def test_union_is_pytorchs_clip_of_both_together(networks):
    parameters = [p for module in networks for p in module.parameters()]
    before = [p.grad.clone() for p in parameters]
    norms = clip_gradients(networks[0].parameters(), networks[1].parameters())
    ours = [p.grad.clone() for p in parameters]
    for p, g in zip(parameters, before): p.grad = g
    total = nn.utils.clip_grad_norm_(parameters, 1.0)
    assert norms.total > 1
    torch.testing.assert_close(norms.total, total)
    torch.testing.assert_close(ours, [p.grad for p in parameters])

def test_union_keeps_the_direction_and_student_only_bends_it(networks):
    def direction(mode):
        for p, g in zip(parameters, before): p.grad = g.clone()
        clip_gradients(networks[0].parameters(), networks[1].parameters(), mode=mode)
        return nn.functional.cosine_similarity(gradients(networks), whole, dim=0).item()
    networks = nn.ModuleList(networks)
    parameters, whole = list(networks.parameters()), gradients(networks)
    before = [p.grad.clone() for p in parameters]
    assert direction('union') == pytest.approx(1, abs=1e-5)
    assert direction('student_only') < 0.99

def test_student_only_leaves_out_exactly_the_projections(networks):
    student, projections = networks
    before, student_before = gradients(projections).clone(), gradients(student).clone()
    clip_gradients(student.parameters(), projections.parameters(), mode='student_only')
    assert torch.equal(gradients(projections), before) and not torch.equal(gradients(student), student_before)

@pytest.mark.parametrize('mode', clipping.MODES)
def test_without_projections_student_and_total_norm_are_one(networks, mode):
    norms = clip_gradients(networks[0].parameters(), [], mode=mode)
    assert norms.projections == 0 and norms.total == norms.student
    assert gradients(networks[0]).norm().item() == pytest.approx(norms.student.item() if mode == 'none' else 1, rel=1e-5)

def test_parameters_without_gradient_are_passed_over(networks):
    student, projections = networks
    norms = clip_gradients([*student.parameters(), nn.Parameter(torch.ones(3))], projections.parameters())
    assert norms.total > 1

def test_a_norm_of_nearly_nothing_is_not_blown_up_without_bound():
    p = parameter(1e-6)
    clip_gradients([p], [], mode='matched')
    assert p.grad.item() == pytest.approx(0.5)

def test_nan_is_reported_and_not_hidden():
    assert clip_gradients([parameter(float('nan'))], []).total.isnan()

# ---- what is refused, before anything is changed

def refused(words, *args, **kwargs):
    with pytest.raises(UserError) as caught: clip_gradients(*args, **kwargs)
    assert all(word in str(caught.value) for word in words), str(caught.value)

@pytest.mark.parametrize('max_norm', [0, -1, float('nan'), None])
def test_max_norm_must_be_positive(max_norm):
    p = parameter(3.0)
    refused(['max_norm', repr(max_norm)], [p], [], max_norm)
    assert p.grad.item() == 3

def test_unknown_mode_is_refused_with_the_nearest():
    p = parameter(3.0)
    refused(['students_only', "Did you mean 'student_only'?"], [p], [], mode='students_only')
    assert p.grad.item() == 3

def test_clipping_before_backward_is_refused():
    refused(['student', 'backward()'], [nn.Parameter(torch.ones(2))], [parameter(1.0)])
    refused(['projections', 'backward()'], [parameter(1.0)], [nn.Parameter(torch.ones(2))])

def test_a_spec_allows_just_these_modes(): assert config.REGISTRIES['clipping'] is clipping.MODES
