"""Pooled effects: against hand-made contrasts and ordinary regressions; figures of the authors' runs."""
import numpy as np
import pandas as pd
import pytest
from conftest import SHARED
from gains import one, whole
from made_up import baseline, cell, frame, student
from scipy import stats
from statsmodels.formula.api import ols

from kd_capacity import config, pooled_effects, records, statistics


@pytest.fixture(scope='module')
def authors():
    archive = SHARED/'reference'/'authors_runs.zip'
    if not archive.exists(): pytest.skip('the authors\' archive is not here, so its figures were not checked')
    return records.import_authors(archive)


def test_a_mean_gain_counts_a_shared_baseline_once():
    runs = whole(gains={'resnet34': .3})
    e = pooled_effects.mean_gain(runs, 'logit')
    percent = (100*runs.test_best).groupby([runs.student, runs.method, runs.teacher.fillna('')])
    of_cells, of_baselines = (percent.var().xs(m, level='method').sum()/5 for m in ('logit', 'none'))
    assert e.se == pytest.approx(np.sqrt(of_cells/16 + of_baselines/4))
    gains = statistics.gain_table(runs)
    assert e.estimate == pytest.approx(gains[gains.method.eq('logit')].gain.mean())


def test_baselines_cancel_in_a_difference_of_methods():
    runs = whole()
    e = pooled_effects.method_difference(runs, 'feature', 'logit')
    worse = runs.assign(test_best=runs.test_best - .3*runs.role.eq('baseline'))
    assert pooled_effects.method_difference(worse, 'feature', 'logit')[:6] == pytest.approx(e[:6])
    only_one = runs[~(runs.method.eq('logit') & runs.teacher.eq('resnet101') & runs.student.eq('resnet18'))]
    gains = statistics.gain_table(only_one).pivot(index=['teacher', 'student'], columns='method', values='gain').dropna()
    assert len(gains) == 3
    assert pooled_effects.method_difference(only_one, 'feature', 'logit').estimate == pytest.approx((gains.feature - gains.logit).mean())


def test_what_cannot_be_averaged_has_a_word():
    runs = whole()
    assert pooled_effects.mean_gain(runs, 'attention').note == 'no cell with an interval'
    assert 'left out: resnet50 resnet34 logit' in pooled_effects.mean_gain(runs[runs.seed.eq(0)], 'logit').note
    runs.loc[runs.student == 'resnet34', 'epochs'] = 3
    assert 'different settings' in pooled_effects.mean_gain(runs, 'logit').note


def test_longer_training_is_welch_of_the_same_network():
    long = cell(config.run_spec('demo', 'teacher', teacher='resnet34', stage='teacher'), [.96, .961, .963])
    runs = pd.concat([whole(), frame(long)])
    found, = pooled_effects.longer_training(runs)
    t = stats.ttest_ind([.96, .961, .963], runs[runs.role.eq('baseline') & runs.student.eq('resnet34')].test_best, equal_var=False)
    assert (found.network, found.estimate.p) == ('R34·w8', pytest.approx(t.pvalue))
    other = pooled_effects.longer_training(pd.concat([whole(), frame(long).assign(stem='imagenet')]))[0].estimate
    assert np.isnan(other.estimate) and other.note.startswith('trained with different settings (stem imagenet, cifar')


def test_correlation_within_cells_is_that_of_a_regression_on_cells():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(6), 4)
    x = rng.normal(size=24) + 5*group
    y = .5*x + rng.normal(size=24) - 9*group
    c = pooled_effects.correlation_within_cells(x, y, group)
    fit = ols('y ~ x + C(group)', pd.DataFrame({'x': x, 'y': y, 'group': group})).fit()
    assert (c.p, c.runs, c.cells) == (pytest.approx(fit.pvalues['x']), 24, 6)
    assert np.sign(c.r) > 0 > np.corrcoef(x, y)[0, 1] and c.ci_low < c.r < c.ci_high


def test_correlation_of_too_little_is_none():
    c = pooled_effects.correlation_within_cells([1, 2, 3], [1, 2, np.nan], [0, 0, 1])
    assert np.isnan(c.r) and c.cells == 1
    assert np.isnan(pooled_effects.correlation_within_cells([1.]*8, range(8), [0]*8).r)


def test_a_seed_that_was_trained_twice_counts_once():
    runs = frame([r for m in ('logit', 'feature') for r in cell(student(method=m), [.95, .951, .953, .954])] + cell(baseline(), [.94, .95]))
    runs['agreement'] = .9 + runs.test_best/100*np.arange(len(runs))
    again = pd.concat([runs, runs[:2].assign(run_id=['x', 'y'])])
    assert pooled_effects.fidelity_and_accuracy(again) == pooled_effects.fidelity_and_accuracy(runs)
    assert pooled_effects.mean_gain(again, 'logit')[:6] == pooled_effects.mean_gain(runs, 'logit')[:6]


def test_the_figures_of_the_authors_runs(authors):
    t = pooled_effects.headline_effects(authors)
    figures = lambda r: [r.estimate, r.ci_low, r.ci_high]
    feature, logit = (one(t, question='mean gain', of=m) for m in ('feature', 'logit'))
    assert figures(feature) == pytest.approx([.158, .044, .272], abs=5e-4) and feature.p == pytest.approx(.0097, abs=5e-5)
    assert figures(logit) == pytest.approx([.031, -.079, .141], abs=5e-4)
    e = pooled_effects.method_difference(authors, 'feature', 'logit')
    assert figures(e) == pytest.approx([.127, .037, .217], abs=5e-4) and e.p == pytest.approx(.0075, abs=5e-5)
    long, = pooled_effects.longer_training(authors)
    assert (long.network, long.epochs, long.baseline_epochs) == ('R34', 200, 100)
    assert (long.estimate.estimate, long.estimate.p) == (pytest.approx(.26, abs=.005), pytest.approx(.017, abs=5e-4))
    c = pooled_effects.fidelity_and_accuracy(authors)
    assert (c.r, c.p, c.runs) == (pytest.approx(.40, abs=.005), pytest.approx(.02, abs=.0005), 40)
