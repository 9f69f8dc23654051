"""Statistics: every test against scipy, statsmodels or a hand value; what intervals keep; what bad input becomes."""
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from gains import A, B, CLOSE, one, whole
from made_up import baseline, cell, frame, student
from scipy import special, stats
from statsmodels.formula.api import ols
from statsmodels.stats import multitest, proportion
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW, ttost_ind

from kd_capacity import config, fidelity_tests, records, selection_bias, sequential, statistics


def gain(*cells, **how):
    "(only row, its note) of the gain table of these rows."
    table = statistics.gain_table(frame([r for c in cells for r in c]), **how)
    assert len(table) == 1 and list(table) == statistics.GAIN_COLUMNS
    return table.iloc[0], statistics.notes(table).iloc[0]


# --- against libraries

def test_welch_is_scipys():
    r, note = gain(cell(student(), A), cell(baseline(), B[:4]))
    t = stats.ttest_ind(A, B[:4], equal_var=False)
    assert [r.welch_t, r.welch_df, r.welch_p] == pytest.approx([t.statistic, t.df, t.pvalue], **CLOSE)
    assert [r.ci_low, r.ci_high] == pytest.approx([100*v for v in t.confidence_interval(.95)], **CLOSE)
    assert [r['mean'], r.baseline_mean, r.gain] == pytest.approx([100*np.mean(A), 100*np.mean(B[:4]), 100*(np.mean(A) - np.mean(B[:4]))], **CLOSE)
    assert (r.n, r.n_baseline, note) == (5, 4, 'paired over 4 common seeds')
    wide = gain(cell(student(), A), cell(baseline(), B), confidence=.99)[0]
    cm = CompareMeans(DescrStatsW(100*np.array(A)), DescrStatsW(100*np.array(B)))
    assert [wide.ci_low, wide.ci_high] == pytest.approx(cm.tconfint_diff(.01, usevar='unequal'), **CLOSE)


def test_paired_is_scipys_by_seed():
    shuffled = [{**r, 'seed': s} for r, s in zip(cell(student(), A), (3, 1, 4, 0, 2))]
    r, _ = gain(shuffled, cell(baseline(), B))
    t = stats.ttest_rel(A, [B[s] for s in (3, 1, 4, 0, 2)])
    assert [r.paired_t, r.paired_p] == pytest.approx([t.statistic, t.pvalue], **CLOSE)
    e = statistics.paired(pd.Series(A), pd.Series(B))
    t = stats.ttest_rel(A, B)
    assert [e.ci_low, e.ci_high, e.se*t.statistic] == pytest.approx([*(100*v for v in t.confidence_interval()), e.estimate], **CLOSE)


@pytest.mark.parametrize('seed', range(20))
def test_equal_means_have_the_standard_error_of_their_differences(seed):
    a, b = np.random.default_rng(seed).normal(0.95, 0.002, (2, 5))
    b += (a - b).mean()  # a difference of rounding, or none
    e = statistics.paired(pd.Series(a), pd.Series(b))
    assert e.se == pytest.approx(100*stats.sem(a - b)) and e.estimate == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize('n, seed', [(n, s) for n in (3, 4, 5) for s in range(20)])
def test_splits_that_tie_count_in_the_permutation_test(n, seed):
    from itertools import combinations
    counts = np.random.default_rng(seed).integers(9480, 9500, 2*n)  # right answers of 10,000: sums are exact
    total, seen = counts.sum(), 2*counts[:n].sum() - counts.sum()
    splits = [2*counts[list(i)].sum() - total for i in combinations(range(2*n), n)]
    low, high = (np.mean([f(d) for d in splits]) for f in (lambda d: d <= seen, lambda d: d >= seen))
    a, b = counts[:n]/1e4, counts[n:]/1e4
    assert statistics.permutation_p(a, b, np.random.default_rng(0)) == pytest.approx(min(1, 2*min(low, high)))


def test_bootstrap_is_scipys():
    boot = statistics.bootstrap_gain(A, B, np.random.default_rng(4), 1500)
    md = lambda a, b, axis: a.mean(axis) - b.mean(axis)
    for method, ours in (('percentile', boot[:2]), ('BCa', boot[2:])):
        theirs = stats.bootstrap((100*np.array(A), 100*np.array(B)), md, n_resamples=1500, method=method, rng=np.random.default_rng(4), batch=400_000)
        assert ours == pytest.approx(theirs.confidence_interval, **CLOSE)
    r, _ = gain(cell(student(), A), cell(baseline(), B), rng=np.random.default_rng(4), resamples=1500)
    assert [r.boot_low, r.boot_high] == pytest.approx(boot[2:], **CLOSE)


def test_many_bootstraps_at_once_are_each_their_own():
    rng = np.random.default_rng(0)
    a, b = rng.normal(.95, .001, (2, 3, 5))
    together = statistics.bootstrap_gain(a, b, np.random.default_rng(4), 500)
    for i in range(3): assert [v[i] for v in together] == pytest.approx(statistics.bootstrap_gain(a[i], b[i], np.random.default_rng(4), 500), **CLOSE)


@pytest.mark.parametrize('n', [3, 5])
def test_permutation_counts_every_split(n):
    a, b = np.array(A[:n]), np.array(B[:n])
    every = np.concatenate([a, b])
    split = [every[list(s)].mean() - every[[i for i in range(2*n) if i not in s]].mean() for s in combinations(range(2*n), n)]
    expected = np.mean(np.abs(split) >= abs(a.mean() - b.mean()) - 1e-12)
    r, note = gain(cell(student(), a), cell(baseline(), b))
    assert r.permutation_p == pytest.approx(expected, **CLOSE)
    assert statistics.smallest_p(n, n) == pytest.approx({3: .1, 5: 2/252}[n])
    assert ('smallest permutation p is 0.1' in note) == (n == 3)


def test_three_runs_cannot_reach_5_percent():
    r, _ = gain(cell(student(), [.99, .991, .992]), cell(baseline(), [.5, .51, .52]))
    assert r.permutation_p == pytest.approx(.1) and r.welch_p < 1e-3


def test_adjusted_p_over_the_rows_that_have_one():
    runs = whole()
    alone = cell(student('resnet34', 'resnet18', 'feature'), A[:1])  # n = 1: no p, no member of the family
    g = statistics.gain_table(pd.concat([runs, frame(alone)]))
    known = g.welch_p.notna()
    assert known.sum() == 8 and np.isnan(g.holm_p[8])
    for column, method in (('holm_p', 'holm'), ('bh_p', 'fdr_bh')):
        assert g[column][known].tolist() == pytest.approx(multitest.multipletests(g.welch_p[known], method=method)[1].tolist(), **CLOSE)
    p = np.sort(g.welch_p[known])
    assert np.sort(g.holm_p[known]) == pytest.approx(np.minimum(np.maximum.accumulate(p*np.arange(8, 0, -1)), 1))


def test_hedges_g_by_hand():
    r, _ = gain(cell(student(), A), cell(baseline(), B))
    pooled = np.sqrt((np.var(A, ddof=1) + np.var(B, ddof=1))/2)
    j = special.gamma(4)/np.sqrt(4)/special.gamma(3.5)  # exact, of 8 degrees of freedom
    assert r.hedges_g == pytest.approx(j*(np.mean(A) - np.mean(B))/pooled, **CLOSE)
    assert statistics.hedges_correction(8) == pytest.approx(1 - 3/(4*8 - 1), abs=1e-3)


def test_adjusted_intervals_are_bonferronis():
    g = statistics.with_adjusted_intervals(statistics.gain_table(whole()))
    r = g.iloc[2]
    se = r.gain/r.welch_t
    half = stats.t.ppf(1 - .025/8, r.welch_df)*se
    assert [r.adjusted_low, r.adjusted_high] == pytest.approx([r.gain - half, r.gain + half], **CLOSE)


def test_the_spread_between_seeds_is_pooled_over_cells():
    runs = frame(cell(student(), A) + cell(student(method='feature'), A[:1]) + cell(baseline(), B[:4]))
    sd, df = statistics.pooled_std(runs)
    assert df == 4 + 3 and sd == pytest.approx(100*np.sqrt((4*np.var(A, ddof=1) + 3*np.var(B[:4], ddof=1))/7), **CLOSE)
    residuals = statistics.residuals_by_cell(runs)
    assert [key[0] for key in residuals] == ['student', 'baseline']
    for values, of in zip(residuals.values(), (A, B[:4])): assert values.tolist() == pytest.approx(100*(np.array(of) - np.mean(of)), **CLOSE)


# --- from a summary

def summary_of(runs):
    rows = [(s, 'none', None, v) for (s,), v in runs[runs.role == 'baseline'].groupby(['student']).test_best]
    rows += [(s, m, t, v) for (t, s, m), v in runs[runs.role == 'student'].groupby(['teacher', 'student', 'method'], sort=False).test_best]
    return pd.DataFrame([{'teacher': t, 'student': s, 'method': m, **statistics.summary(v)} for s, m, t, v in rows])


def test_a_summary_says_what_the_runs_say():
    runs = whole()
    raw, short = statistics.gain_table(runs), statistics.gain_table_from_summary(summary_of(runs))
    assert list(short) == statistics.GAIN_COLUMNS
    without = ['paired_t', 'paired_p', 'boot_low', 'boot_high', 'permutation_p']
    without = [*without, 'width']  # which this summary does not have
    pd.testing.assert_frame_equal(short.drop(columns=without), raw.drop(columns=without), rtol=1e-9, check_dtype=False)
    assert short[without].isna().all().all() and raw.width.eq(8).all()


def test_the_published_summary_is_judged():
    paper = records.published('v2').rename(columns={'test_best_mean': 'mean', 'test_best_std': 'std', 'seeds': 'n'})
    g = statistics.gain_table_from_summary(paper)
    assert len(g) == 8
    r = one(g, teacher='resnet101', student='resnet34', method='feature')
    t, p = stats.ttest_ind_from_stats(95.26, .11, 5, 95.04, .13, 5, equal_var=False)
    assert [r.gain, r.welch_t, r.welch_p] == pytest.approx([.22, t, p]) and r.welch_p < .05 < r.holm_p
    assert set(g[g.welch_p < .05].student + g[g.welch_p < .05].method) == {'resnet34feature'} and not (g.holm_p < .05).any()


@pytest.mark.parametrize('change, says', [
    ({'n': 1}, 'n = 1: no interval'), ({'n': np.nan}, 'not run'), ({'mean': np.nan}, 'not run'), ({'std': np.nan}, 'no spread')])
def test_a_poor_summary_has_a_word(change, says):
    s = pd.DataFrame([('resnet50', 'resnet18', 'logit', 3, 95.1, .1), (None, 'resnet18', 'none', 3, 95., .1)], columns='teacher student method n mean std'.split())
    for c, v in change.items(): s[c] = s[c].astype(float).where(s.index > 0, v)
    g = statistics.gain_table_from_summary(s)
    assert says in statistics.notes(g)[0] and g[['ci_low', 'welch_t', 'welch_p', 'holm_p', 'hedges_g']].isna().all(axis=None)
    assert statistics.notes(statistics.gain_table_from_summary(s[:1].assign(mean=95.1, n=3, std=.1)))[0] == 'no baseline'
    twice = statistics.gain_table_from_summary(pd.concat([s, s[1:]]).assign(mean=95., n=3, std=.1))
    assert '2 baselines, not pooled' in statistics.notes(twice)[0] and np.isnan(twice.gain[0])


# --- moderation

def four(runs, method='feature', teacher='resnet50'):
    of = lambda s, m: 100*runs[(runs.student == s) & (runs.method == m) & (runs.teacher.eq(teacher) | (m == 'none'))].test_best
    return [of(s, m) for s in ('resnet34', 'resnet18') for m in (method, 'none')]


def test_moderation_is_the_difference_of_the_gains():
    runs = whole(gains={'resnet34': .3})
    m, g = statistics.moderation(runs, 'resnet50', 'feature'), statistics.gain_table(runs)
    large, small = (one(g, teacher='resnet50', student=s, method='feature') for s in statistics.STUDENTS)
    cells = four(runs)
    part = [x.var()/5 for x in cells]
    df = sum(part)**2/sum(p**2/4 for p in part)
    half = stats.t.ppf(.975, df)*np.sqrt(sum(part))
    assert m[:6] == pytest.approx([large.gain - small.gain, np.sqrt(sum(part)), df, m.estimate - half, m.estimate + half, 2*stats.t.sf(abs(m.estimate)/m.se, df)], **CLOSE)
    by_seed = statistics.moderation(runs, 'resnet50', 'feature', pair_seeds=True)
    a, b, c, d = (x.to_numpy() for x in cells)
    t = stats.ttest_1samp(a - b - c + d, 0)
    assert [by_seed.estimate, by_seed.p, by_seed.df] == pytest.approx([m.estimate, t.pvalue, 4], **CLOSE)


def test_moderation_with_a_teacher_each():
    runs = whole()
    m = statistics.moderation(runs, ('resnet101', 'resnet50'), 'logit')
    a, b = four(runs, 'logit', 'resnet101')[:2]; c, d = four(runs, 'logit', 'resnet50')[2:]
    assert m.estimate == pytest.approx(a.mean() - b.mean() - c.mean() + d.mean(), **CLOSE)


def test_regression_is_statsmodels_interaction():
    runs = whole(gains={'resnet34': .3})
    t = pd.concat([pd.DataFrame({'y': x, 'large': l, 'kd': k}) for x, l, k in zip(four(runs), (1, 1, 0, 0), (1, 0, 1, 0))])
    fit = ols('y ~ large*kd', t).fit(cov_type='HC3', use_t=True)
    r = statistics.moderation_regression(runs, 'resnet50', 'feature')
    assert [r.estimate, r.se, r.p, r.df] == pytest.approx([fit.params['large:kd'], fit.bse['large:kd'], fit.pvalues['large:kd'], 16], **CLOSE)
    assert [r.ci_low, r.ci_high] == pytest.approx(fit.conf_int().loc['large:kd'].tolist(), **CLOSE)
    each_once = pd.DataFrame({'y': 100*runs.test_best, 'large': runs.student.eq('resnet34').astype(int), 'method': runs.method,
                              'kd': runs.role.eq('student').astype(int)})
    fit = ols('y ~ large + C(method) + large:kd', each_once).fit(cov_type='HC3', use_t=True)
    r = statistics.moderation_regression(runs)
    assert [r.estimate, r.se, r.df] == pytest.approx([fit.params['large:kd'], fit.bse['large:kd'], 45], **CLOSE)


def test_what_one_method_gains_more_is_no_noise_of_the_regression():
    runs = whole()
    better = runs.method.eq('feature')
    apart = runs.assign(test_best=runs.test_best + .01*better)  # Feature-KD gains 1 pp more from every student
    for ask in statistics.moderation_regression, lambda r: statistics.gain_by_size(r.assign(parameters=r.student.map({'resnet18': 1, 'resnet34': 2}))):
        assert ask(apart)[:6] == pytest.approx(ask(runs)[:6], rel=1e-6)


def test_pooled_counts_a_shared_baseline_once():
    runs = whole()
    p, g = statistics.moderation_pooled(runs), statistics.gain_table(runs)
    mean = lambda s: g[g.student == s].gain.mean()
    v = 0.
    for s in statistics.STUDENTS:
        mine = runs[runs.student == s]
        v += sum((100*x).var()/5 for _, x in mine[mine.role == 'student'].groupby(['teacher', 'method']).test_best)/16 + (100*mine[mine.role == 'baseline'].test_best).var()/5
    assert [p.estimate, p.se] == pytest.approx([mean('resnet34') - mean('resnet18'), np.sqrt(v)], **CLOSE)
    assert statistics.moderation_pooled(runs, teacher='resnet50', method='logit')[:6] == pytest.approx(statistics.moderation(runs, 'resnet50', 'logit')[:6], **CLOSE)


def test_gain_by_size_finds_the_slope():
    sizes = {'resnet18': 2., 'resnet34': 8., 'resnet50': 4.}  # doublings: 1, 3, 2
    rows = []
    for s, x in sizes.items():
        noise = np.array([-.001, 0, .001])
        rows += cell(baseline(s), .9 + noise, ) + cell(student('resnet101', s), .9 + .0005*np.log2(x) + noise)
    runs = frame(rows).assign(parameters=lambda r: r.student.map(sizes))
    e = statistics.gain_by_size(runs)
    assert e.estimate == pytest.approx(.05, **CLOSE)
    assert 'fewer than two student sizes' in statistics.gain_by_size(runs[runs.student == 'resnet18']).note
    assert statistics.student_sizes(runs) == sizes
    assert np.isnan(statistics.student_sizes(runs.assign(parameters=range(len(runs))))['resnet18'])  # records that disagree


def test_moderation_table_has_a_row_a_way():
    t = statistics.moderation_table(whole())
    assert t.way.tolist() == ['difference of gains']*4 + ['pooled, same teachers', 'pooled', 'regression (HC3)', 'per doubling (HC3)']
    assert t.holm_p[:4].tolist() == pytest.approx(multitest.multipletests(t.p[:4], method='holm')[1].tolist()) and t.holm_p[4:].isna().all()


@pytest.mark.parametrize('left, says', [
    (lambda r: r[r.student == 'resnet18'], 'not run: resnet50 resnet34 feature'),
    (lambda r: r[r.method != 'feature'], 'not run: resnet50 resnet34 feature, resnet50 resnet18 feature'),
    (lambda r: r[~((r.role == 'baseline') & (r.student == 'resnet18'))], 'resnet18: no baseline'),
    (lambda r: r[r.seed == 0], 'n = 1: no interval')])
def test_moderation_without_its_cells_has_a_word(left, says):
    runs = left(whole())
    m = statistics.moderation(runs, 'resnet50', 'feature')
    assert says in m.note and np.isnan([m.ci_low, m.ci_high, m.p]).all()
    statistics.moderation_table(runs), statistics.sensitivity(runs)
    assert np.isnan(statistics.moderation_pooled(runs, method='feature').p) and np.isnan(statistics.moderation_regression(runs, None, 'feature').p)


def test_students_of_other_settings_are_not_compared():
    runs = whole()
    runs.loc[runs.student == 'resnet34', 'epochs'] = 3
    for e in (statistics.moderation(runs, 'resnet50', 'logit'), statistics.moderation_pooled(runs), statistics.moderation_regression(runs), statistics.gain_by_size(runs)):
        assert np.isnan(e.estimate) and 'different settings' in e.note


# --- equivalence

def test_tost_is_statsmodels():
    for margin in (.1, .3, 1.):
        e = statistics.equivalence(A, B, margin)
        p, above, below = ttost_ind(100*np.array(A), 100*np.array(B), -margin, margin, usevar='unequal')
        assert [e.p, e.p_above, e.p_below] == pytest.approx([p, above[1], below[1]], **CLOSE)
        assert e.equivalent == (p < .05) == (-margin < e.ci_low and e.ci_high < margin)
        assert [e.ci_low, e.ci_high] == pytest.approx([100*v for v in stats.ttest_ind(A, B, equal_var=False).confidence_interval(.9)], **CLOSE)
    assert statistics.equivalence([.95], B, 1).note == 'n = 1: no interval' and not statistics.equivalence([.95], B, 1).equivalent
    assert not statistics.equivalence([.95]*3, [.95]*3, 1).equivalent  # no spread, no evidence
    with pytest.raises(config.UserError, match='margin'): statistics.equivalence(A, B, -1)



# --- what intervals keep

def many(n, studies=4000, gain=.2, seed=0):
    rng = np.random.default_rng((seed, n))
    return [.95 + (g + .14*rng.normal(size=(studies, n)))/100 for g in (gain, 0, 0, 0)]


def numbers(*x): return [[f(v) for v in x] for f in (lambda v: np.full(len(v), v.shape[1]), lambda v: 100*v.mean(1), lambda v: 100*v.std(1, ddof=1))]


def share(e, truth): return float(((e[0] <= truth) & (truth <= e[1])).mean())


@pytest.mark.parametrize('n', [3, 5, 10])
def test_intervals_cover_and_tests_err_at_their_rate(n):
    a, b, c, d = many(n)
    welch, difference = statistics.contrast([1, -1], *numbers(a, b)), statistics.contrast([1, -1, -1, 1], *numbers(a, b, c, d))
    paired = statistics.contrast([1], *numbers(a - b))
    assert share(welch[3:5], .2) == pytest.approx({3: .97, 5: .955, 10: .95}[n], abs=.011)  # Welch is a little wide at n = 3
    assert share(difference[3:5], .2) == pytest.approx({3: .967, 5: .955, 10: .95}[n], abs=.011)
    assert share(paired[3:5], .2) == pytest.approx(.95, abs=.011)
    null = statistics.contrast([1, -1], *numbers(b, c))
    assert (null.p <= .05).mean() == pytest.approx({3: .033, 5: .045, 10: .05}[n], abs=.011)
    assert ((null.p <= .05) == ((null.ci_low > 0) | (null.ci_high < 0))).all()


@pytest.mark.parametrize('n', [3, 5, 10])
def test_the_bootstrap_covers_too_little_and_says_how_much(n):
    a, b, *_ = many(n, 2000)
    boot = statistics.bootstrap_gain(a, b, np.random.default_rng(1), 999)
    for ends in (boot[:2], boot[2:]): assert share(ends, .2) == pytest.approx({3: .80, 5: .87, 10: .92}[n], abs=.025)


@pytest.mark.parametrize('n', [3, 5])
def test_exact_permutation_errs_at_its_rate(n):
    _, b, c, _ = many(n, 2000)
    p = statistics.permutation_p(b, c, np.random.default_rng(1))
    assert (p <= .05).mean() == pytest.approx({3: 0, 5: 12/252}[n], abs=.015 if n > 3 else 0)
    assert (p <= .1 + 1e-9).mean() == pytest.approx({3: .1, 5: 24/252}[n], abs=.02)


def test_drawn_permutations_err_at_their_rate():
    _, b, c, _ = many(10, 400)
    p = statistics.permutation_p(b, c, np.random.default_rng(1), 499)
    assert (p <= .05).mean() == pytest.approx(.05, abs=.03) and p.min() >= 1/500


@pytest.mark.parametrize('n', [3, 5, 10])
def test_tost_errs_at_most_at_its_rate(n):
    a, b, *_ = many(n, 1000)  # the true difference lies on the margin
    wrong = np.mean([statistics.equivalence(x, y, .2).equivalent for x, y in zip(a, b)])
    assert wrong <= proportion.binom_test_reject_interval(.05, 1000, .001)[1]/1000
    a = b[::-1] - .00001
    assert n == 3 or np.mean([statistics.equivalence(x, y, .4).equivalent for x, y in zip(a[:200], b[:200])]) > .5


@pytest.mark.parametrize('n', [3, 5, 10])
def test_regression_errs_at_most_at_its_rate(n):
    rng = np.random.default_rng(n)
    p = []
    for _ in range(300):
        y = .14*rng.normal(size=4*n)
        large, kd = np.repeat([1., 1, 0, 0], n), np.repeat([1., 0, 1, 0], n)
        p.append(statistics._hc3(y, np.stack([np.ones(4*n), large, kd, large*kd], 1), .95).p)
    assert np.mean(np.array(p) <= .05) <= proportion.binom_test_reject_interval(.05, 300, .001)[1]/300
    assert np.mean(np.array(p) <= .5) > .3


@pytest.mark.parametrize('n', [3, 5, 10])
def test_holm_keeps_the_family_although_the_baseline_is_shared(n):
    rng = np.random.default_rng(n)
    b, a = .14*rng.normal(size=(1500, n)), .14*rng.normal(size=(8, 1500, n))
    p = np.array([statistics.contrast([1, -1], *numbers(x/100, b/100)).p for x in a]).T
    holm = 8*p.min(1) <= .05  # the smallest p decides whether any is rejected
    for v, h in zip(p[:5], holm): assert (statistics.holm(v) <= .05).any() == h
    bh = np.mean([(statistics.benjamini_hochberg(v) <= .05).any() for v in p])
    limit = proportion.binom_test_reject_interval(.05, 1500, .001)[1]/1500
    assert holm.mean() <= limit and bh <= limit < np.mean((p <= .05).any(1))


# --- sensitivity

def test_sensitivity_looks_four_ways():
    runs = whole(gains={'resnet34': .8})
    runs['test_final'] = runs.test_best - .01*(runs.role == 'student')  # with the final weights all gains vanish
    runs.loc[runs.seed == 0, 'test_best'] += .0005
    s = statistics.sensitivity(runs)
    assert s.groupby('variant', sort=False).size().to_dict() == {'test_best': 12, 'test_final': 12, 'without seed 0': 12, 'paired by seed': 12}
    cell = dict(quantity='gain', teacher='resnet50', student='resnet34', method='logit')
    by = {v: one(s, variant=v, **cell) for v in s.variant.unique()}
    assert by['test_best'].conclusion == 'above zero' and by['test_final'].conclusion == 'below zero' and not by['test_final'].same and by['test_best'].same
    assert by['without seed 0'].n == 4
    rest = statistics.gain_table(runs[runs.seed != 0])
    assert by['without seed 0'].p == pytest.approx(one(rest, teacher='resnet50', student='resnet34', method='logit').welch_p)
    assert by['paired by seed'].p == pytest.approx(one(statistics.gain_table(runs), teacher='resnet50', student='resnet34', method='logit').paired_p)
    m = one(s, variant='paired by seed', quantity='moderation', teacher='resnet50', method='logit')
    assert m.p == pytest.approx(statistics.moderation(runs, 'resnet50', 'logit', pair_seeds=True).p)
    final = s[(s.variant == 'test_final') & (s.quantity == 'gain')]
    assert final.holm_p.tolist() == pytest.approx(multitest.multipletests(final.p, method='holm')[1].tolist())


# --- bad input

def test_one_seed_has_a_word_and_no_interval():
    r, note = gain(cell(student(), A[:1]), cell(baseline(), B))
    assert note == 'n = 1: no interval' and r.gain == pytest.approx(100*(A[0] - np.mean(B))) and r.n == 1
    assert r[['ci_low', 'welch_p', 'paired_p', 'holm_p', 'hedges_g', 'boot_low', 'permutation_p']].isna().all()
    assert gain(cell(student(), A), cell(baseline(), B[:1]))[1] == 'baseline n = 1: no interval'


def test_two_seeds_have_an_interval_and_no_bca():
    r, note = gain(cell(student(), A[:2]), cell(baseline(), B[:2]))
    assert r.welch_p == pytest.approx(stats.ttest_ind(A[:2], B[:2], equal_var=False).pvalue) and 'percentile bootstrap' in note
    assert [r.boot_low, r.boot_high] == pytest.approx(statistics.bootstrap_gain(A[:2], B[:2], np.random.default_rng(0))[:2])


def test_missing_baseline_has_a_word():
    r, note = gain(cell(student(), A))
    assert (note, r.n_baseline) == ('no baseline', 0) and np.isnan(r.gain)
    r, note = gain(cell(student(), A), cell(baseline(epochs=3), B))
    assert np.isnan(r.gain) and note.startswith('no baseline of equal settings (epochs ')


def test_unequal_seeds_are_paired_where_they_meet():
    late = [{**r, 'seed': r['seed'] + 3} for r in cell(baseline(), B)]  # seeds 3 to 7 against 0 to 4
    r, note = gain(cell(student(), A), late)
    assert note == 'paired over 2 common seeds' and r.paired_p == pytest.approx(stats.ttest_rel(A[3:], B[:2]).pvalue)
    apart = [{**r, 'seed': r['seed'] + 9} for r in cell(baseline(), B)]
    r, note = gain(cell(student(), A), apart)
    assert note == 'fewer than 2 common seeds: not paired' and np.isnan(r.paired_p) and np.isfinite(r.welch_p)


def test_duplicate_runs_count_once():
    rows = cell(student(), A) + cell(baseline(), B)
    expected, _ = gain(rows)
    r, note = gain(rows, rows)
    pd.testing.assert_series_equal(r, expected); assert note == ''
    copy = [{**rows[0], 'run_id': 'copy'}]
    r, note = gain(rows, copy)
    pd.testing.assert_series_equal(r, expected); assert note == 'seed 0 more than once with equal accuracy, counted once'
    r, note = gain(rows, [{**rows[0], 'run_id': 'other', 'test_best': .9}])
    assert np.isnan(r.gain) and 'seed 0 more than once with different accuracy, not judged' in note
    r, note = gain(rows, [{**rows[-1], 'run_id': 'other', 'test_best': .9}])
    assert np.isnan(r.gain) and note.startswith('baseline: seed 4 more than once')


@pytest.mark.parametrize('bad', [np.nan, np.inf, -1., 95.2])
def test_what_is_no_accuracy_is_left_out_and_said(bad):
    r, note = gain(cell(student(), A + [bad]), cell(baseline(), B))
    expected, _ = gain(cell(student(), A), cell(baseline(), B))
    pd.testing.assert_series_equal(r, expected); assert note == '1 of 6 without accuracy left out'
    r, note = gain(cell(student(), [bad]*3), cell(baseline(), B))
    assert (r.n, note) == (0, '3 of 3 without accuracy left out; not run') and np.isnan(r.gain)


def test_a_single_method_is_a_family_of_one():
    r, _ = gain(cell(student(), A), cell(baseline(), B))
    assert r.holm_p == r.bh_p == r.welch_p
    assert len(statistics.moderation_table(frame(cell(student(), A) + cell(baseline(), B)))) == 3


@pytest.mark.parametrize('other, says', [({'alpha': .9}, 'alpha 0.5, 0.9'), ({'temperature': 2.}, 'temperature 4.0, 2.0'), ({'epochs': 3}, 'epochs')])
def test_configurations_are_not_pooled(other, says):
    r, note = gain(cell(student(), A), cell(student(**other), [.1, .2]), cell(baseline(), B))
    assert 'several configurations, not pooled' in note and says in note
    assert r.n == 0 and r[['mean', 'gain', 'welch_p', 'boot_low', 'permutation_p']].isna().all()


def test_networks_are_known_by_architecture_and_width():
    rows = [r for w, shift in ((4, 0.), (8, .01)) for m, more in (('logit', .001), ('feature', .002))
            for r in cell(student(method=m, width=w, teacher_width=16), [a + shift + more for a in B])]
    rows += [r for w, shift in ((4, 0.), (8, .01)) for r in cell(baseline(width=w), [b + shift for b in reversed(B)])]
    runs = frame(rows).assign(parameters=lambda r: r.width.astype(float)**2)
    runs['teacher_width'] = np.where(runs.role.eq('student'), 16, np.nan)
    g = statistics.gain_table(runs)
    assert g.width.tolist() == [4, 4, 8, 8] and set(g.teacher_width) == {16} and set(g.n_baseline) == {5}
    assert g.gain.tolist() == pytest.approx([.1, .2, .1, .2]) and g.method.tolist() == ['logit', 'feature']*2
    assert statistics.network_sizes(runs) == {'R18·w4': 16, 'R18·w8': 64}
    assert statistics.gain_by_size(runs).estimate == pytest.approx(0, abs=1e-9)
    assert statistics.moderation(runs, 'resnet50', 'logit', students=('resnet18', 'resnet18')).note == 'students of several widths'
    gains = sequential.gains_by_seed(runs, 'resnet50', 'logit')
    assert gains.columns.tolist() == ['R18·w4', 'R18·w8']
    assert sequential.slopes_by_seed(gains, statistics.network_sizes(runs)).tolist() == pytest.approx([0]*5)
    assert len(statistics.sensitivity(runs)) == 4*4 and statistics.sensitivity(runs).same[:4].all()


def test_profiles_are_not_pooled():
    rows = cell(student(), A) + cell(baseline(), B)
    r, note = gain(rows, [{**r, 'profile': 'mine', 'run_id': 'mine' + r['run_id']} for r in rows])
    assert 'profile demo, mine' in note and np.isnan(r.gain)


def test_ablations_do_not_mix_with_the_method():
    ablated = cell(student(clipping='student_only'), [.1, .2]) + cell(student(stem='imagenet'), [.1, .2]) + cell(baseline(stem='imagenet'), [.1, .2])
    r, note = gain(cell(student(), A), cell(baseline(), B), ablated)
    expected, _ = gain(cell(student(), A), cell(baseline(), B))
    pd.testing.assert_series_equal(r, expected)
    assert note == 'left out: stem imagenet; left out: clipping student_only'
    stage = cell(student(stage='select'), [.1]) + cell(student(stage='clipping', clipping='student_only'), [.1]) + cell(baseline(stage='stem', stem='imagenet'), [.1])
    r, note = gain(cell(student(), A), cell(baseline(), B), stage)
    pd.testing.assert_series_equal(r, expected); assert note == ''


def test_equal_accuracies_have_no_interval():
    same = [.9486]*3  # whose mean rounds
    r, note = gain(cell(student(), [v + .01 for v in same]), cell(baseline(), same))
    assert r.gain == pytest.approx(1) and 'no spread: no interval' in note
    assert r[['ci_low', 'welch_t', 'welch_p', 'paired_p', 'hedges_g', 'boot_low', 'permutation_p']].isna().all()
    moved = [v - .45 for v in A]
    assert len({m - v for m, v in zip(moved, A)}) > 1  # equal but for rounding
    r, note = gain(cell(student(), moved), cell(baseline(), A))
    assert np.isnan(r.paired_p) and note == 'equal differences: no paired test' and np.isfinite(r.welch_p)


def test_empty_and_foreign_tables():
    none = frame([])
    for t in (statistics.gain_table(none), selection_bias.selection_optimism(none), statistics.sensitivity(none), statistics.clipping_equivalence(none, .1),
              fidelity_tests.fidelity_tests(none), statistics.gain_table_from_summary(pd.DataFrame(columns='teacher student method n mean std'.split()))): assert len(t) == 0
    assert list(statistics.gain_table(none)) == statistics.GAIN_COLUMNS and len(statistics.moderation_table(none)) == 3
    assert statistics.pooled_std(none)[1] == 0 and len(statistics.with_adjusted_intervals(statistics.gain_table(none))) == 0
    with pytest.raises(config.UserError, match="no column 'role'"): statistics.gain_table(pd.DataFrame({'test_best': [1.]}))
    with pytest.raises(config.UserError, match="Did you mean 'test_best'"): statistics.gain_table(none, 'testbest')


def test_few_columns_are_enough():
    runs = frame(cell(student(), A) + cell(baseline(), B))
    few = statistics.gain_table(runs[['role', 'teacher', 'student', 'method', 'seed', 'test_best']])
    pd.testing.assert_frame_equal(few.drop(columns='width'), statistics.gain_table(runs).drop(columns='width'))


def test_the_same_generator_gives_the_same_table():
    runs = whole(seeds=10)
    table = lambda seed: statistics.gain_table(runs, rng=np.random.default_rng(seed))
    pd.testing.assert_frame_equal(table(1), table(1))
    assert (table(1).boot_low != table(2).boot_low).any() and (table(1).permutation_p != table(2).permutation_p).any()
    pd.testing.assert_frame_equal(statistics.gain_table(runs), table(0))


# --- clipping

def test_a_stage_is_compared_with_its_own_baselines_where_it_has_some():
    stem = dict(stage='stem', stem='imagenet')
    runs = frame(cell(student(**stem), A) + cell(baseline(**stem), B) + cell(student(), B) + cell(baseline(), A))
    assert statistics.gain_table(runs, stage='stem').gain.tolist() == pytest.approx([100*(np.mean(A) - np.mean(B))], **CLOSE)
    assert statistics.gain_table(runs).gain.tolist() == pytest.approx([100*(np.mean(B) - np.mean(A))], **CLOSE)
    elsewhere = frame(cell(student(), A) + cell(baseline(), B) + cell(baseline(stage='control'), A))
    assert statistics.gain_table(elsewhere).gain.tolist() == pytest.approx([100*(np.mean(A) - np.mean(B))], **CLOSE)
    alone = frame(cell(student(stage='control'), A) + cell(baseline(), B))
    assert statistics.gain_table(alone, stage='control').gain.tolist() == pytest.approx([100*(np.mean(A) - np.mean(B))], **CLOSE)


def test_clipping_is_compared_with_union_of_equal_settings():
    feature = student(method='feature')
    ablated = feature.replace(stage='clipping', clipping='student_only')
    runs = frame(cell(feature, A) + cell(ablated, B) + cell(feature.replace(alpha=.9), [.1, .2]) + cell(ablated.replace(student='resnet34'), A))
    t = statistics.clipping_equivalence(runs, .3)
    r, w = one(t, student='resnet18'), stats.ttest_ind(B, A, equal_var=False)
    assert [r.estimate, r.p, r.ci_low] == pytest.approx([100*(np.mean(B) - np.mean(A)), w.pvalue, 100*w.confidence_interval().low], **CLOSE)
    assert (r.n, r.n_union) == (5, 5) and r.tost_p == pytest.approx(statistics.equivalence(B, A, .3).p)
    alone = one(t, student='resnet34')
    assert alone.note == 'no union' and not alone.equivalent and np.isnan(alone.estimate)
