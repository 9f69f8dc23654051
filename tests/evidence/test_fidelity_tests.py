"""Closeness to the teacher beside control and twins; McNemar; calibration."""
from itertools import combinations

import numpy as np
import pytest
from gains import CLOSE, one
from made_up import baseline, write
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from kd_capacity import config, fidelity_tests, tables


def test_mcnemar_is_statsmodels_and_counts():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 300)
    a, b = (np.eye(10)[np.where(rng.random(300) < p, labels, (labels + 1) % 10)] for p in (.9, .8))
    m = fidelity_tests.mcnemar(a, b, labels)
    right_a, right_b = a.argmax(1) == labels, b.argmax(1) == labels
    assert (m.only_a, m.only_b) == ((right_a & ~right_b).sum(), (right_b & ~right_a).sum())
    assert m.p == pytest.approx(mcnemar([[0, m.only_a], [m.only_b, 0]], exact=True).pvalue) == pytest.approx(stats.binomtest(m.only_a, m.only_a + m.only_b).pvalue)
    assert m.difference == pytest.approx(100*(right_a.mean() - right_b.mean()))
    with pytest.raises(config.UserError): fidelity_tests.mcnemar(a, b, labels[:5])
    with pytest.raises(config.UserError): fidelity_tests.mcnemar(a, b*np.nan, labels)


def test_calibration_error_against_a_loop():
    rng = np.random.default_rng(0)
    z = 2*rng.normal(size=(500, 10))  # unsure and often right, sure and often wrong: bins of either sign
    labels = np.where((rng.random(500) < .7), z.argmax(1), rng.integers(0, 10, 500))
    p = np.exp(z)/np.exp(z).sum(1, keepdims=True)
    confidence, right, expected = p.max(1), p.argmax(1) == labels, 0.
    for m in range(15):
        inside = (confidence > m/15) & (confidence <= (m + 1)/15)
        if inside.any(): expected += inside.mean()*abs(right[inside].mean() - confidence[inside].mean())
    assert fidelity_tests.calibration_error(z, labels) == pytest.approx(expected, **CLOSE)
    for m, b in fidelity_tests.bin_by_confidence(z, labels).iterrows():
        inside = (confidence > m/15) & (confidence <= (m + 1)/15)
        assert (b.images, b.low, b.high) == (inside.sum(), pytest.approx(m/15), pytest.approx((m + 1)/15))
        if inside.any(): assert (b.confidence, b.accuracy) == pytest.approx((confidence[inside].mean(), right[inside].mean()), **CLOSE)
        else: assert np.isnan([b.confidence, b.accuracy]).all()
    assert fidelity_tests.calibration_error(1000*np.eye(10), np.arange(10)) == 0  # sure and right
    with pytest.raises(config.UserError): fidelity_tests.calibration_error(z, labels[:3])


@pytest.fixture
def study(tmp_path):
    write(config.study_runs('demo'), tmp_path)
    return tables.planned('demo', tmp_path), tmp_path


def test_fidelity_stands_beside_control_and_twins(study):
    runs, root = study
    f = fidelity_tests.fidelity_tests(runs, root)
    assert len(f) == 6*3
    r = one(f, teacher='resnet34', student='resnet18', method='logit', measure='kl_t1')
    base = [baseline().replace(seed=i).run_id for i in range(3)]
    teacher = config.run_spec('demo', 'teacher', teacher='resnet34').run_id
    control = [fidelity_tests.closeness(teacher, b, root)['kl_t1'] for b in base]
    twins = [fidelity_tests.closeness(a, b, root)['kl_t1'] for a, b in combinations(base, 2)]
    ours = runs[(runs.stage == 'final') & (runs.teacher == 'resnet34') & (runs.method == 'logit')].kl_t1
    w = stats.ttest_ind(ours, control, equal_var=False)
    assert [r['mean'], r.control, r.twins, r.p, r.estimate] == pytest.approx([ours.mean(), np.mean(control), np.mean(twins), w.pvalue, ours.mean() - np.mean(control)], **CLOSE)
    assert (r.n, r.n_control, r.n_twins) == (3, 3, 3)
    t = one(tables.fidelity(runs, root), teacher='resnet34', student='resnet18', method='logit')
    a = one(f, teacher='resnet34', student='resnet18', method='logit', measure='agreement')
    assert [a['mean'], a.estimate, a.ci_low, a.ci_high] == pytest.approx([t['mean'], t.gain, t.ci_low, t.ci_high], **CLOSE)


def test_lost_logits_leave_a_word(study):
    runs, root = study
    f = fidelity_tests.fidelity_tests(runs, root/'elsewhere')
    assert f.n_control.sum() == 0 and f.p.isna().all() and set(f.note) == {'no control'}
