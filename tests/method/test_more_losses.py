"""The further losses against few lines of NumPy that share nothing with them; refusals; one training step each."""
import numpy as np
import pytest
import torch

from kd_capacity import losses, more_losses
from kd_capacity.basics import UserError

RNG = np.random.default_rng(0)
Z_S, Z_T = RNG.normal(size=(2, 8, 5))*3
LABELS = RNG.integers(0, 5, 8)
CHANNELS = {'layer1': 2, 'layer2': 3, 'layer3': 4, 'layer4': 5}
MAPS_S = {name: RNG.normal(size=(8, c, 6, 6)) for name, c in CHANNELS.items()}
MAPS_T = {name: RNG.normal(size=(8, 2*c, 3, 3)) for name, c in CHANNELS.items()}
WIDER = {name: 2*c for name, c in CHANNELS.items()}


def tensors(maps): return {name: torch.tensor(m, dtype=torch.float64) for name, m in maps.items()}


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e/e.sum(1, keepdims=True)


def pooled(m): return m.reshape(*m.shape[:2], 3, 2, 3, 2).mean((3, 5))  # 6×6 to 3×3


def kd(name, options=None, module=None):
    "The distance of a method on the batch above, a number."
    module = module or losses.objective(name, options or {}, CHANNELS, WIDER).double()
    batch = torch.tensor(Z_S), torch.tensor(LABELS), torch.tensor(Z_T), tensors(MAPS_S), tensors(MAPS_T)
    return module(*batch)['kd'].item()


def test_dkd():
    T, parts = 3.0, []
    for i, label in enumerate(LABELS):
        p_t, p_s = (softmax(z[i:i + 1]/T)[0] for z in (Z_T, Z_S))
        others = np.arange(5) != label
        binary = sum(a*np.log(a/b) for a, b in ((p_t[label], p_s[label]), (1 - p_t[label], 1 - p_s[label])))
        q_t, q_s = p_t[others]/p_t[others].sum(), p_s[others]/p_s[others].sum()
        parts.append(1.5*binary + 2.5*(q_t*np.log(q_t/q_s)).sum())
    assert kd('dkd', {'temperature': T, 'target': 1.5, 'others': 2.5}) == pytest.approx(T**2*np.mean(parts), rel=1e-6)


def test_dist():
    T = 2.0
    p_s, p_t = softmax(Z_S/T), softmax(Z_T/T)
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p_s, p_t)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p_s.T, p_t.T)])
    expected = T**2*(3*inter + 0.5*intra)
    assert kd('dist', {'temperature': T, 'inter': 3., 'intra': .5}) == pytest.approx(expected, rel=1e-5)


def test_standardised():
    def z(x): return (x - x.mean(1, keepdims=True))/(x.std(1, ddof=1, keepdims=True) + 1e-7)
    p_t, p_s = softmax(z(Z_T)/2), softmax(z(Z_S)/2)
    expected = 9*4*(p_t*np.log(p_t/p_s)).sum(1).mean()
    assert kd('standardised') == pytest.approx(expected, rel=1e-6)


def test_attention():
    def q(m):
        flat = (m**2).mean(1).reshape(len(m), -1)
        return flat/np.linalg.norm(flat, axis=1, keepdims=True)
    layers = [np.linalg.norm(q(pooled(MAPS_S[n])) - q(MAPS_T[n]), axis=1).mean() for n in CHANNELS]
    assert kd('attention') == pytest.approx(np.mean(layers), rel=1e-6)


def test_hint_projects_the_middle_layer_alone():
    hint = losses.objective('hint', {'strength': 2.}, CHANNELS, WIDER).double()
    assert list(hint.projections) == ['layer2']
    w = hint.projections['layer2'].weight.detach().numpy()[:, :, 0, 0]
    projected = np.einsum('oc,bchw->bohw', w, MAPS_S['layer2'])
    assert kd('hint', module=hint) == pytest.approx(2*((pooled(projected) - MAPS_T['layer2'])**2).mean()/2, rel=1e-6)


def test_similarity_of_the_last_layer():
    def g(m):
        flat = m.reshape(len(m), -1)
        gram = flat @ flat.T
        return gram/np.linalg.norm(gram, axis=1, keepdims=True)
    expected = 3000*((g(MAPS_S['layer4']) - g(MAPS_T['layer4']))**2).sum()/64
    assert kd('similarity') == pytest.approx(expected, rel=1e-4)


def test_smoothing():
    target = 0.8*np.eye(5)[LABELS] + 0.2/5
    expected = -(target*np.log(softmax(Z_S))).sum(1).mean()
    out = losses.objective('smoothing', {'epsilon': 0.2})(torch.tensor(Z_S), torch.tensor(LABELS))
    assert out['total'].item() == pytest.approx(expected, rel=1e-6)


def test_a_virtual_teacher_spreads_what_it_does_not_give_the_label():
    answers = more_losses.virtual_teacher(torch.tensor([1, 0]), 3, 0.8)
    assert answers.tolist() == [pytest.approx([0.1, 0.8, 0.1]), pytest.approx([0.8, 0.1, 0.1])]


def test_teacher_free():
    answers = np.where(np.eye(5)[LABELS] == 1, 0.9, 0.1/4)
    p_t, p_s = softmax(answers/10), softmax(Z_S/10)
    expected = (p_t*np.log(p_t/p_s)).sum(1).mean()
    assert kd('teacher_free', {'right': 0.9, 'temperature': 10.}) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('name', [name for name in losses.METHODS if name != 'none'])
def test_a_method_declares_the_parts_that_it_gives(name):
    module = losses.objective(name, {}, CHANNELS, WIDER).double()
    batch = torch.tensor(Z_S), torch.tensor(LABELS), torch.tensor(Z_T), tensors(MAPS_S), tensors(MAPS_T)
    assert set(module(*batch)) == {'total', 'ce', 'kd', *module.parts}


@pytest.mark.parametrize('name, option', [('dkd', 'others'), ('dist', 'inter'), ('standardised', 'strength'),
                                          ('smoothing', 'epsilon'), ('teacher_free', 'right')])
def test_an_option_out_of_bounds_is_refused_by_name(name, option):
    with pytest.raises(UserError, match=f'{option} = -1 is not valid'): losses.method_options(name, {option: -1})


@pytest.mark.parametrize('name', [name for name in losses.METHODS if name != 'none'])
def test_one_run_of_each_method(name, teacher):
    from conftest import SMALL
    from kd_capacity.profiles import run_spec
    from kd_capacity.training import train
    root, learned = teacher
    taught = losses.METHODS[name].needs_teacher
    who = {'teacher': 'resnet34', 'teacher_run': learned.run_id} if taught else {}
    spec = run_spec('demo', 'student', student='resnet18', method=name, **who, **{**SMALL, 'epochs': 1})
    record = train(spec, root)
    assert record['status'] == 'complete' and record['spec']['method'] == name
    assert (record['teacher'] is None) == (not taught)
