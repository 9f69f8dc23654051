"""Power: against whole studies drawn at random, and against statsmodels where Welch's test is the pooled one."""
import numpy as np
import pytest
from gains import one
from statsmodels.stats.power import TTestIndPower

from kd_capacity import config, power, statistics


def studies(effect, n, cells, count=20_000):
    "Estimates of `count` studies with `cells` cells of n runs, σ = 1, and an effect on the first."
    x = np.random.default_rng((n, cells)).normal(size=(cells, count, n))
    x[0] += effect
    weights = [1, -1] if cells == 2 else [1, -1, -1, 1]
    numbers = np.full(x.shape[:2], n), x.mean(2), x.std(2, ddof=1)
    return lambda confidence: statistics.contrast(weights, *numbers, confidence)


@pytest.mark.parametrize('n, effect', [(2, 3.), (2, 8.), (3, 2.5), (5, 2.), (10, 1.2)])
@pytest.mark.parametrize('interaction', [False, True])
def test_power_is_the_share_of_studies_that_find_the_effect(n, effect, interaction):
    drawn = studies(effect, n, 4 if interaction else 2)
    for tests in (1, 8):
        seen = (drawn(.95).p < .05/tests).mean()
        planned = power.power(effect*.14, n, .14, tests=tests, interaction=interaction)
        assert planned == pytest.approx(seen, abs=.013)


def test_the_textbook_promises_more_than_welch_has():
    textbook = TTestIndPower()
    for n, real in ((2, .48), (3, .70), (100, .80)):
        effect = textbook.solve_power(nobs1=n, alpha=.05, power=.8)
        assert power.power(effect, n, 1.) == pytest.approx(real, abs=.01)


def test_detectable_is_what_power_finds():
    for n in (2, 3, 5, 10):
        assert power.power(power.detectable(n, .14), n, .14) == pytest.approx(.8)
    least = power.detectable(5, .14, .9, tests=8, interaction=True)
    assert power.power(least, 5, .14, tests=8, interaction=True) == pytest.approx(.9)


@pytest.mark.parametrize('effect, how', [(.2, {}), (.1, {'tests': 8}), (.1, {'interaction': True}), (5., {})])
def test_seeds_needed_is_the_smallest_number(effect, how):
    n = power.seeds_needed(effect, .14, **how)
    assert power.power(effect, n, .14, **how) >= .8
    assert n == 2 or power.power(effect, n - 1, .14, **how) < .8


def test_moderation_needs_twice_the_seeds():
    assert power.seeds_needed(0, .14) == np.inf
    assert power.seeds_needed(.1, .14, interaction=True) == pytest.approx(2*power.seeds_needed(.1, .14), abs=3)


@pytest.mark.parametrize('ask, says', [
    (lambda: power.seeds_needed(.1, 0), 'sd = 0'), (lambda: power.seeds_needed(.1, np.nan), 'sd = nan'),
    (lambda: power.detectable(1, .14), 'n = 1'), (lambda: power.detectable(5, .14, target_power=1.), 'target_power = 1.0')])
def test_a_plan_that_cannot_be_is_refused(ask, says):
    with pytest.raises(config.UserError, match=says): ask()


def test_power_curve_is_tidy():
    c = power.power_curve([.1, .2], .14, n=[3, 5])
    assert list(c) == 'effect n power sd tests interaction'.split()
    assert one(c, effect=.2, n=5).power == pytest.approx(power.power(.2, 5, .14))


@pytest.mark.parametrize('margin, n, effect', [(4., 3, 0.), (1.5, 5, 0.), (1.5, 10, .5), (.7, 40, 0.), (.3, 5, 0.)])
def test_equivalence_counts_both_bounds(margin, n, effect):
    e = studies(effect, n, 2)(.9)
    shown = ((e.ci_low > -margin) & (e.ci_high < margin)).mean()
    planned = power.equivalence_power(.14*margin, n, .14, .14*effect)
    assert planned == pytest.approx(shown, abs=.013)


def test_equivalence_costs_more_than_one_bound():
    n = power.seeds_for_equivalence(.1, .14)
    assert power.equivalence_power(.1, n, .14) >= .8 > power.equivalence_power(.1, n - 1, .14)
    assert n > power.seeds_needed(.1, .14, alpha=.1)
    assert power.seeds_for_equivalence(.1, .14, effect=.1) == np.inf
