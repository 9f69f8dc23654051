"""Confidence sequences: the bet against its density ratio, coverage over whole paths, the stopping rule."""
import numpy as np
import pandas as pd
import pytest
from gains import whole
from scipy import integrate, stats
from statsmodels.stats import proportion

from kd_capacity import config, sequential, statistics
from kd_capacity.naming import network_name

NETWORKS = 'R34·w8', 'R18·w8'
X = np.array([.21, .35, .11, .42, .30, .28, .17])


@pytest.mark.parametrize('n, scale, null', [(2, 1.5, 0.), (4, 1.5, .1), (7, .5, .3), (7, 3., 0.)])
def test_the_bet_is_a_ratio_of_densities_of_t(n, scale, null):
    t = (X[:n].mean() - null)/stats.sem(X[:n])
    density = lambda d: stats.nct.pdf(t, n - 1, d*np.sqrt(n))*stats.norm.pdf(d, 0, scale)
    mixture = integrate.quad(density, -8*scale, 8*scale, limit=200)[0]
    assert sequential.e_value(X[:n], null, scale) == pytest.approx(mixture/stats.t.pdf(t, n - 1), rel=1e-5)


@pytest.mark.parametrize('alpha', [.05, .01])
def test_the_interval_ends_where_the_bet_refutes(alpha):
    s = sequential.confidence_sequence(X, alpha=alpha)
    for r in s[np.isfinite(s.low)].itertuples():
        for end in (r.low, r.high): assert sequential.e_value(X[:r.n], end) == pytest.approx(1/alpha)
        assert r.estimate == pytest.approx(X[:r.n].mean())
    assert np.isinf(s.low[:3]).all() and np.isfinite(s.low.iloc[-1])


def test_the_bet_is_fair():
    z = np.random.default_rng(0).normal(size=(20_000, 6))
    for n in (2, 4, 6):
        stakes = [sequential.e_value(x[:n], scale=.5) for x in z[:4000]]
        assert np.mean(stakes) == pytest.approx(1, abs=.12)


@pytest.mark.parametrize('scale', [.5, 1.5, 3.])
@pytest.mark.parametrize('truth, sd', [(0., .2), (.3, .05)])
def test_all_intervals_of_a_path_hold_together(scale, truth, sd):
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(400):
        s = sequential.confidence_sequence(truth + sd*rng.normal(size=40), scale=scale)
        missed += ((s.low > truth) | (s.high < truth)).any()
    assert missed <= proportion.binom_test_reject_interval(.05, 400, .001)[1]


def test_the_first_decision_is_wrong_in_at_most_5_percent_even_on_the_margin():
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(400):
        d = sequential.decided(sequential.confidence_sequence(.1 + .2*rng.normal(size=40), margin=.1))
        wrong += d.verdict != 'open'  # the truth lies on the boundary of two regions
    assert wrong <= proportion.binom_test_reject_interval(.05, 400, .001)[1]


@pytest.mark.parametrize('mean, verdict', [(.5, 'above'), (-.5, 'below'), (0., 'within')])
def test_what_is_clear_is_decided_and_stays(mean, verdict):
    x = mean + .1*np.random.default_rng(0).normal(size=60)
    s = sequential.confidence_sequence(x, margin=.2)
    d = sequential.decided(s)
    assert d.verdict == verdict == s.verdict.iloc[-1] and s.verdict[:3].eq('open').all()
    assert (s.verdict[s.n >= d.n] == verdict).all() and (s.verdict[s.n < d.n] == 'open').all()
    later = np.concatenate([x[:d.n], -5*x])  # whatever comes after
    assert sequential.confidence_sequence(later, margin=.2).verdict.iloc[-1] == verdict
    assert sequential.may_stop(x[:d.n], .2, most=99) and not sequential.may_stop(x[:d.n - 1], .2, most=99)
    assert sequential.may_stop(x[:d.n - 1], .2, most=d.n - 1)


def test_seeds_until_decided_is_what_the_sequences_say():
    n = sequential.seeds_until_decided(.3, .2, .1, np.random.default_rng(5), most=30, studies=50)
    x = .3 + .2*np.random.default_rng(5).normal(size=(50, 30))
    decisions = [sequential.decided(sequential.confidence_sequence(v, margin=.1)) for v in x]
    assert n.tolist() == [np.inf if d.verdict == 'open' else d.n for d in decisions]


def test_equal_and_few_differences_decide_nothing():
    for x in ([], [.3], [.3]*10):
        d = sequential.decided(sequential.confidence_sequence(x, margin=.1))
        assert (d.verdict, d.n, d.low, d.high) == ('open', len(x), -np.inf, np.inf)


@pytest.mark.parametrize('ask, says', [
    (lambda: sequential.confidence_sequence([.1, np.nan]), 'finite numbers'),
    (lambda: sequential.confidence_sequence([[.1]]), 'finite numbers'),
    (lambda: sequential.confidence_sequence([.1], margin=-.1), 'margin = -0.1'),
    (lambda: sequential.confidence_sequence([.1], margin=np.nan), 'margin = nan'),
    (lambda: sequential.confidence_sequence([.1], alpha=5), 'alpha = 5'),
    (lambda: sequential.seeds_until_decided(.1, .1, .1, np.random.default_rng(0), scale=0), 'scale = 0')])
def test_what_is_no_rule_is_refused(ask, says):
    with pytest.raises(config.UserError, match=says): ask()


def test_a_number_a_seed_from_runs():
    runs = whole()
    gains = sequential.gains_by_seed(runs, 'resnet50', 'logit')
    accuracy = lambda s, m: runs[runs.student.eq(s) & runs.method.eq(m) & (runs.teacher.eq('resnet50') | runs.role.eq('baseline'))].set_index('seed').test_best
    for s in statistics.STUDENTS:
        expected = 100*(accuracy(s, 'logit') - accuracy(s, 'none'))
        assert gains[network_name(s, 8)].tolist() == pytest.approx(expected.tolist())
    difference = sequential.moderation_by_seed(gains, *NETWORKS)
    m = statistics.moderation(runs, 'resnet50', 'logit', pair_seeds=True)
    assert difference.mean() == pytest.approx(m.estimate)
    slopes = sequential.slopes_by_seed(gains, {'R34·w8': 8., 'R18·w8': 2.})
    assert (2*slopes).tolist() == pytest.approx(difference.tolist())
    missing = runs[~(runs.seed.eq(1) & runs.student.eq('resnet18') & runs.role.eq('baseline'))]
    complete = sequential.moderation_by_seed(sequential.gains_by_seed(missing, 'resnet50', 'logit'), *NETWORKS)
    assert complete.index.tolist() == [0, 2, 3, 4]
    assert isinstance(sequential.confidence_sequence(slopes), pd.DataFrame)
    with pytest.raises(config.UserError, match='two students'): sequential.slopes_by_seed(gains[['R18·w8']], {'R18·w8': 2.})
