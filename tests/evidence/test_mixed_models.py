"""Mixed models: against statsmodels' formulas and closed forms; moderation and shrunken gains of the authors' runs."""
import numpy as np
import pytest
from gains import whole
from made_up import frame

from kd_capacity import mixed_models, records, statistics


@pytest.fixture(scope='module')
def paper(): return records.paper_runs()


def test_without_seed_noise_the_mixed_model_is_the_regression(paper):
    t = mixed_models.moderation_at_equal_gap(paper).set_index('term')
    assert t.estimate['larger'] == pytest.approx(statistics.moderation_regression(paper).estimate, abs=1e-3)
    assert t.runs.tolist() == [50, 50, 50]
    assert ((t.ci_low < 0) & (t.ci_high > 0)).all()
    assert t.estimate['larger, gap held'] == pytest.approx(.218, abs=.01)


def test_seeds_that_share_their_luck_are_found(paper):
    luck = paper.seed.map({0: -.004, 1: -.002, 2: 0., 3: .002, 4: .004}).astype(float)
    t = mixed_models.moderation_at_equal_gap(paper.assign(test_best=paper.test_best + luck))
    plain = mixed_models.moderation_at_equal_gap(paper)
    assert t.seed_std[0] > .2 > plain.seed_std[0]
    assert t.estimate.tolist() == pytest.approx(plain.estimate.tolist(), abs=.02)  # every cell has every seed


def test_too_little_has_a_word():
    runs = whole()
    assert mixed_models.moderation_at_equal_gap(runs).note.tolist() == ['no gain with an interval for resnet34']  # no teacher's accuracy
    assert 'no gain' in mixed_models.moderation_at_equal_gap(frame([])).note[0]
    assert len(mixed_models.shrunken_gains(frame([]))) == 0 == len(mixed_models.shrunken_gains(runs[runs.seed.eq(0)]))


def test_sampling_covariance_is_that_of_simulated_gains():
    rng = np.random.default_rng(0)
    gains = statistics.cells(whole())
    v = mixed_models.gain_covariance(gains, .14)
    networks = [c.network for c in gains]
    baselines = {n: rng.normal(size=(40_000, 5)).mean(1) for n in set(networks)}
    drawn = [.14*(rng.normal(size=(40_000, 5)).mean(1) - baselines[n]) for n in networks]
    assert v == pytest.approx(np.cov(drawn), abs=2e-4)


def test_much_spread_keeps_the_gains_and_none_pools_them():
    x, v = np.ones((6, 1)), .01*np.eye(6)
    apart = np.array([-2., -1, 0, 1, 2, 3])
    t, tau = mixed_models.shrink(apart/2, v, x)
    assert t.estimate.tolist() == pytest.approx((apart/2).tolist(), abs=.06) and tau > .5
    close = np.array([.09, .1, .1, .1, .1, .11])
    t, tau = mixed_models.shrink(close, v, x)
    assert np.ptp(t.estimate) < np.ptp(close)/2 and tau < .1
    assert ((t.ci_low < t.estimate) & (t.estimate < t.ci_high)).all()


def test_shrunken_gains_of_the_authors_runs(paper):
    t = mixed_models.shrunken_gains(paper)
    gains = statistics.gain_table(paper)
    assert t.raw.tolist() == pytest.approx(gains.gain.tolist()) and t.raw_low.tolist() == pytest.approx(gains.ci_low.tolist())
    by_method = t.groupby('method')
    assert (by_method.gain.agg(np.ptp) < by_method.raw.agg(np.ptp)).all() and 0 < t.attrs['tau'] < .3
    assert by_method.gain.mean()['feature'] > by_method.gain.mean()['logit']
