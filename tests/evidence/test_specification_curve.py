"""The specification curve: 216 analyses of the paper's runs, each equal to the one asked for by itself."""
import numpy as np
import pytest
from gains import one, whole
from made_up import frame
from matplotlib import pyplot as plt

from kd_capacity import records, specification_curve as sc
from kd_capacity import statistics


@pytest.fixture(scope='module')
def paper(): return records.paper_runs()


@pytest.fixture(scope='module')
def curve(paper): return sc.specification_curve(paper)


def test_the_papers_runs_exclude_zero_in_none_of_216_analyses(curve):
    s = sc.summarise_curve(curve)
    assert (s.analyses, s.above, s.below) == (216, 0, 0)
    assert s.median_by_metric['validation_best'] < 0 < s.median_by_metric['test_best']
    assert not curve[sc.ANALYSIS_CHOICES].duplicated().any()


@pytest.mark.parametrize('metric', statistics.METRICS)
@pytest.mark.parametrize('left_out', [False, True])
def test_each_analysis_is_the_one_asked_for_by_itself(paper, curve, metric, left_out):
    runs = paper[paper.seed.ne(0)] if left_out else paper
    ask = dict(metric=metric, selection_seed='left out' if left_out else 'kept')
    for paired in (False, True):
        r = one(curve, paired=paired, method='logit', contrast='R101→R34 − R34→R18', **ask)
        m = statistics.moderation(runs, ('resnet101', 'resnet34'), 'logit', metric, pair_seeds=paired)
        assert [r.estimate, r.ci_low, r.p] == pytest.approx([m.estimate, m.ci_low, m.p])
    r, m = one(curve, paired=False, method='all', contrast=sc.ALL, **ask), statistics.moderation_pooled(runs, metric)
    assert [r.estimate, r.p] == pytest.approx([m.estimate, m.p])
    r, m = one(curve, paired=False, method='feature', contrast=sc.REGRESSION, **ask), statistics.moderation_regression(runs, None, 'feature', metric)
    assert [r.estimate, r.p] == pytest.approx([m.estimate, m.p])


def test_a_real_moderation_is_seen_in_every_analysis():
    runs = whole(gains={'resnet34': 2.})
    for m in statistics.METRICS: runs[m] = runs.test_best
    s = sc.summarise_curve(sc.specification_curve(runs))
    assert s.above == s.analyses > 100 and s.below == 0


def test_little_is_left_out_and_nothing_is_said_of_nothing():
    assert len(sc.specification_curve(frame([]))) == 0
    assert sc.curve_finding(sc.specification_curve(frame([]))) == \
        'No way to ask whether the larger student gains more has an interval'
    one_student = whole()[lambda r: r.student.eq('resnet18')]
    assert np.isnan(sc.summarise_curve(sc.specification_curve(one_student)).median)


def test_the_figure_shows_each_analysis(curve):
    fig = sc.specification_figure(curve)
    top, bottom = fig.axes
    estimates = top.lines[0].get_ydata()
    assert len(estimates) == 216 and (np.diff(estimates) >= 0).all()
    assert sum(len(line.get_xdata()) for line in bottom.lines) == 5*216
    plt.close(fig)
