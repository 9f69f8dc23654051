"""Figures: what is drawn where, and that nothing is drawn that is not known."""
import matplotlib

matplotlib.use('agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from made_up import baseline, cell, frame, row, student, write
from scipy import stats

from kd_capacity import config, figures, losses, models, records, statistics, tables, wording


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


def gains(*cells): return tables.gains(frame([r for c in cells for r in c]))


PAIRS = [('resnet50', 'resnet18'), ('resnet34', 'resnet18'), ('resnet50', 'resnet34')]


def whole(n=3):
    "Gains of all pairs and methods; the student R34 gains 1 pp, R18 nothing."
    cells = [cell(config.run_spec('demo', 'teacher', teacher=t), [.96]) for t in ('resnet50', 'resnet34')]
    cells += [cell(baseline(s), np.linspace(.94, .95, n)) for s in ('resnet18', 'resnet34')]
    return gains(*cells, *[cell(student(t, s, m), np.linspace(.94, .95, n) + .01*(s == 'resnet34')) for t, s in PAIRS for m in ('logit', 'feature')])


def marks(ax, shape): return [l for l in ax.lines if l.get_marker() == shape]


def test_pairs_stand_in_the_order_of_the_gap():
    ax = figures.plot_gain_against_gap(whole())
    size = {a: models.parameter_count(f'resnet{a}', width=baseline().width) for a in (18, 34, 50)}
    assert [t.get_text() for t in ax.get_xticklabels()] == [f'R{t} → R{s}\n{size[t]/size[s]:.2f} ×' for t, s in ((50, 34), (34, 18), (50, 18))]
    ours = [(round(l.get_xdata()[0]), l.get_ydata()[0], l.get_color()) for l in marks(ax, 'o')]
    assert sorted(x for x, *_ in ours) == [0, 0, 1, 1, 2, 2]
    assert [y for x, y, _ in ours if x == 0] == pytest.approx([1, 1]) and {c for *_, c in ours} == {figures.BLUE, figures.ORANGE}


def test_interval_is_drawn_where_there_is_one():
    g = whole()
    ax = figures.plot_gain_against_gap(g)
    drawn = sorted(tuple(l.get_ydata()) for l in ax.lines if l.get_marker() in ('None', None) and len(set(l.get_xdata())) == 1)
    assert drawn == [pytest.approx(t) for t in sorted(zip(g.ci_low, g.ci_high))]
    ax = figures.plot_gain_against_gap(whole(n=1))
    assert len(marks(ax, 'o')) == 6 and not [l for l in ax.lines if l.get_marker() in ('None', None) and len(set(l.get_xdata())) == 1]
    assert {t.get_text() for t in ax.texts} == {'n = 1'}


def test_zero_line_and_units():
    ax = figures.plot_gain_against_gap(whole())
    assert any(list(l.get_ydata()) == [0, 0] for l in ax.lines)
    assert '(pp)' in ax.get_ylabel()


def test_paper_is_hollow_and_shown_without_runs():
    runs = tables.with_plan(frame([]), config.study_runs('demo'))
    ax = figures.plot_gain_against_gap(tables.against_published(tables.gains(runs), tables.published(), 'gain'))
    assert not marks(ax, 'o')
    assert sorted(l.get_ydata()[0] for l in marks(ax, 's')) == [0.0, 0.08, 0.18, 0.21, 0.21, 0.30]
    assert all(l.get_markerfacecolor() == 'white' for l in marks(ax, 's') + marks(ax, 'D'))
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ['Logit-KD', 'Feature-KD', 'paper v1', 'paper v2']


def test_no_rows_draw_an_empty_figure():
    ax = figures.plot_gain_against_gap(tables.gains(frame([])))
    assert not marks(ax, 'o')


@pytest.fixture
def mine():
    "One more method, entered as a notebook of one's own would."
    losses.method('mine', 'My-KD', '#123456')(type('Mine', (losses.LogitDistillation,), {}))
    yield
    del losses.METHODS['mine']


def test_one_more_method_has_its_name_and_colour_everywhere(mine, tmp_path):
    g = whole().replace({'method': {'feature': 'mine'}})
    ax = figures.plot_gain_against_gap(g)
    assert {l.get_color() for l in marks(ax, 'o')} == {figures.BLUE, '#123456'}
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ['Logit-KD', 'My-KD']
    forest = figures.plot_gain_forest(tables.with_claims(g), tables.pooled_gains(g))
    assert 'R50 → R34, My-KD' in figures.alt_text(forest)
    assert wording.gains_text(g).Method.tolist()[1] == 'My-KD' and wording.gains_text(g).Settings.tolist()[1] == 'α 0.5, β 0.5'


def test_a_network_that_is_no_resnet_and_a_pair_of_equals_are_drawn():
    runs = frame(cell(config.run_spec('demo', 'teacher', teacher='resnet18'), [.95])
                 + cell(baseline(), [.93, .94]) + cell(student('resnet18', 'resnet18'), [.935, .945]))
    other = runs.assign(student=runs.student.where(runs.student.isna(), 'wide_net'), parameters=runs.parameters/2, run_id='x/' + runs.run_id)
    g = tables.gains(pd.concat([runs, other[other.role != 'teacher']]))
    assert g.student_parameters.tolist()[1] == runs.parameters[0]/2
    ax = figures.plot_gain_against_gap(g)
    assert [t.get_text() for t in ax.get_xticklabels()] == ['R18 → R18\n1.00 ×', 'R18 → wide_net\n2.00 ×']
    assert 'R18 → R18' in figures.alt_text(figures.plot_gain_bars(g))


def test_widths_of_one_architecture_are_students_of_their_own():
    rows = cell(config.run_spec('demo', 'teacher', teacher='resnet34', width=16), [.95])
    for w, gain in ((4, 0), (8, .005), (16, .01)):
        rows += cell(baseline(width=w), [.90, .91]) + cell(student('resnet34', width=w), [.90 + gain, .91 + gain])
    g = tables.gains(frame(rows))
    assert g.width.tolist() == [4, 8, 16] and g.gain.tolist() == pytest.approx([0, .5, 1]) and g.student_parameters.is_monotonic_increasing
    assert len(set(wording.gains_text(g).Pair)) == 3 and all('R18·w' in name for name in wording.gains_text(g).Pair)
    ax = figures.plot_dose_response(g, paper=tables.paper_gains('v2'))
    x, y = zip(*((l.get_xdata()[0], l.get_ydata()[0]) for l in marks(ax, 'o')))
    assert np.log2(x) == pytest.approx(np.log2(g.student_parameters), abs=.2) and list(y) == pytest.approx(g.gain.tolist())
    assert len(marks(ax, 'D')) == 8  # the paper's gains, at its two sizes
    assert len({round(np.log2(l.get_xdata()[0]/models.parameter_count(s))) for l, s in zip(marks(ax, 'D'), ['resnet18']*4 + ['resnet34']*4)}) == 1
    names = {t.get_text() for t in figures.plot_dose_response(g, 'accuracy_gap', tables.paper_gains('v2')).texts}
    assert 'R18, R34\nn = 5' in names  # their gaps are too close for two names
    def with_slope(*slope): return figures.plot_dose_response(g, slopes=dict.fromkeys(g.method, slope))
    wide = with_slope(.25, -50, 50)
    assert len(wide.collections) == 1 and wide.get_ylim() == figures.plot_dose_response(g).get_ylim()
    line = next(l for l in wide.lines if l.get_linestyle() == '--')
    doublings, rise = np.diff(np.log2(line.get_xdata())), np.diff(line.get_ydata())
    assert rise == pytest.approx(.25*doublings) and doublings[0] == pytest.approx(np.log2(g.student_parameters[2]/g.student_parameters[0]))
    assert not with_slope(.25, -np.inf, np.inf).collections  # of one seed nothing is known
    assert tables.pooled_gains(g).label.tolist() == ['student']*3 + ['all students', 'difference']
    assert wording.pooled_names(tables.pooled_gains(g))[-1] == 'R18·w16 minus R18·w4'


# --- what the paper draws, and the gains in one figure

def test_the_papers_first_figure_has_its_bars():
    fig = figures.plot_gain_bars_beside(tables.paper_gains('v2'), whole())
    left, right = fig.axes
    assert [t.get_text() for t in left.get_xticklabels()] == ['R34 → R18', 'R50 → R18', 'R50 → R34', 'R101 → R34']
    drawn = {round(p.get_height(), 2) for p in left.patches}
    assert drawn == {-.08, .12, .05, .09, .20, .06, .22} and '−0.08' in [t.get_text() for t in left.texts]
    assert len(right.patches) == 6 and 'standard error, n = 5' in left.get_title(loc='left') and '95 % interval' in right.get_title(loc='left')
    none = whole()[:0]
    assert not figures.plot_gain_bars(none).patches


def test_the_forest_holds_every_gain_and_marks_the_claims():
    g = tables.against_published(whole(), tables.published_table(), 'gain')
    pooled = tables.pooled_gains(g)
    ax = figures.plot_gain_forest(tables.with_claims(g), tables.with_claims(pooled))
    rows = [t.get_text() for t in ax.get_yticklabels()]
    assert len(rows) == 6 + 4 and rows[6:] == ['all gains of R18', 'all gains of R34', 'all students', 'R34 minus R18']
    drawn = sorted(tuple(l.get_xdata()) for l in segments(ax) if tuple(l.get_xdata()) != (0, 1))
    known = [*zip(g.ci_low, g.ci_high), *zip(pooled.ci_low, pooled.ci_high)]
    assert drawn == [pytest.approx(v) for v in sorted(known)]
    shaded = list(ax.collections)
    assert len(shaded) == 2  # R50 → R34 under Feature-KD, and the larger student minus the smaller
    empty = figures.plot_gain_forest(g[:0], tables.pooled_gains(g[:0]))
    assert not marks(empty, 'o')


def test_a_pooled_gain_counts_the_baseline_once():
    ours, base = [[.96, .97, .98], [.95, .96, .98]], [.94, .95, .97]
    rows = cell(student(), ours[0]) + cell(student('resnet34'), ours[1]) + cell(baseline(), base)
    pooled = tables.pooled_gains(tables.gains(frame(rows))).iloc[0]
    means = [100*np.mean(v) for v in (*ours, base)]
    assert pooled.gain == pytest.approx((means[0] + means[1])/2 - means[2]) and pooled.n == 9
    var = [100**2*np.var(v, ddof=1)/3 for v in (*ours, base)]
    parts = np.array([var[0]/4, var[1]/4, var[2]])
    df = parts.sum()**2/(parts**2/2).sum()
    half = stats.t.ppf(.975, df)*parts.sum()**.5
    assert (pooled.ci_low, pooled.ci_high) == pytest.approx((pooled.gain - half, pooled.gain + half))


def test_smoothing_is_the_papers():
    values = np.random.default_rng(0).uniform(size=20)
    expected = [values[0]]
    for v in values[1:]: expected.append(.2*v + .8*expected[-1])
    assert figures.smoothed(values) == pytest.approx(expected)


def test_the_papers_second_figure_has_a_panel_a_pair(study):
    runs, root = study
    fig = figures.plot_convergence_panels(tables.curves(runs, root))
    assert [a.get_title() for a in fig.axes] == ['R34 → R18', 'R50 → R18']
    names = [t.get_text() for t in fig.axes[0].get_legend().get_texts()]
    assert [n.split(' (')[0] for n in names] == ['Logit-KD', 'Feature-KD', 'teacher', 'no teacher']
    level = next(l for l in fig.axes[0].lines if l.get_label().startswith('teacher'))
    teacher = runs[runs.role.eq('teacher') & runs.teacher.eq('resnet34')].run_id.iloc[0]
    assert level.get_ydata()[0] == pytest.approx(100*records.history(teacher, root).validation_accuracy.max())
    assert figures.plot_convergence_panels(tables.curves(runs[:0], root)) is None


def test_ticks_are_plain_numbers(study):
    runs, root = study
    curves = tables.curves(runs[runs.role.eq('baseline')], root)
    for ax in (figures.plot_gradient_norms(curves), figures.plot_learning_rate(tables.schedules(curves))):
        ax.figure.canvas.draw()
        shown = [t.get_text() for t in ax.get_yticklabels(which='both') if t.get_text()]
        assert shown and not any('×' in t or '$' in t or 'e' in t for t in shown)


def test_every_figure_says_what_is_seen(study):
    runs, root = study
    text = figures.alt_text(figures.plot_gain_against_gap(whole()))
    assert 'gain over the baseline (pp) from' in text and 'R50 → R34 1.11 ×'.split()[0] in text and 'Logit-KD' in text
    text = figures.alt_text(figures.plot_norms_by_method(next(tables.by_pair(tables.curves(runs, root)))[1]))
    assert text.count('log scale') == 3 and 'threshold 1' in text


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp('results')
    write([s for s in config.study_runs('demo') if s.student in ('resnet18', None)], root)
    return tables.planned('demo', root), root


def names(ax): return [t.get_text() for t in ax.texts]


def apart(ax):
    "Least distance of two names, in heights of the axes."
    ax.figure.canvas.draw()
    y = sorted(ax.transAxes.inverted().transform(ax.get_yaxis_transform().transform((0, t.get_position()[1])))[1] for t in ax.texts)
    return np.diff(y).min()


def test_convergence_names_methods_and_n(study):
    runs, root = study
    cell = runs[(runs.stage == 'final') & (runs.student == 'resnet18') & (runs.teacher.isna() | runs.teacher.eq('resnet50'))]
    curves = tables.curves(cell, root)
    ax = figures.plot_convergence(curves)
    assert sorted(names(ax)) == ['Feature-KD (n = 3)', 'Logit-KD (n = 3)', 'no teacher (n = 3)']
    assert ax.get_ylabel() == 'validation accuracy (%)' and ax.get_xlabel() == 'epoch'
    mean = curves[curves.method == 'logit'].groupby('epoch').validation_accuracy.mean()*100
    assert next(l for l in ax.lines if l.get_color() == figures.BLUE).get_ydata().tolist() == pytest.approx(mean.tolist())
    assert apart(ax) > .06


def test_convergence_of_v1_shows_the_test_accuracy(tmp_path):
    spec = config.run_spec('paper-v1', 'baseline', student='resnet18')
    write([spec], tmp_path)
    assert figures.plot_convergence(tables.curves(tables.planned('paper-v1', tmp_path), tmp_path)).get_ylabel() == 'test accuracy (%)'


def test_norms_show_the_threshold(study):
    runs, root = study
    ax = figures.plot_gradient_norms(tables.curves(runs[runs.stage == 'clipping'], root), 2.5)
    assert sorted(names(ax)) == ['projections', 'student', 'threshold 2.5', 'total']
    assert ax.get_yscale() == 'log' and any(list(l.get_ydata()) == [2.5, 2.5] for l in ax.lines)
    ax = figures.plot_gradient_norms(tables.curves(runs[runs.role == 'baseline'], root))
    assert 'projections' not in names(ax)


def test_gap_is_drawn_in_pp(study):
    runs, root = study
    _, curves = next(tables.by_pair(tables.curves(runs, root)))
    ax = figures.plot_gap(curves)
    assert ax.get_ylabel() == 'training minus validation accuracy (pp)' and sorted(names(ax)) == ['Feature-KD (n = 3)', 'Logit-KD (n = 3)', 'no teacher (n = 3)']
    drawn = next(l for l in ax.lines if l.get_color() == figures.ORANGE)
    assert drawn.get_ydata().tolist() == pytest.approx([2]*12)
    assert not names(figures.plot_gap(curves.assign(train_accuracy=np.nan)))


def test_each_schedule_has_its_line(study):
    runs, root = study
    ax = figures.plot_learning_rate(tables.schedules(tables.curves(runs, root)))
    n = int(runs.status.eq('complete').sum()) - 2
    assert names(ax) == ['teachers (n = 2)', f'baselines, students (n = {n})'] and ax.get_yscale() == 'log'
    assert ax.lines[1].get_ydata().tolist() == pytest.approx([.1/e for e in range(1, 13)])


def test_norms_of_the_methods_share_a_scale(study):
    runs, root = study
    _, curves = next(tables.by_pair(tables.curves(runs, root)))
    fig = figures.plot_norms_by_method(curves, 2.5)
    assert [a.get_title() for a in fig.axes] == ['no teacher (n = 3)', 'Logit-KD (n = 3)', 'Feature-KD (n = 3)']
    assert len({a.get_ylim() for a in fig.axes}) == 1 and all('threshold 2.5' in names(a) for a in fig.axes)
    assert min(apart(a) for a in fig.axes) > .04
    assert figures.plot_norms_by_method(curves.assign(norm_student_max=np.nan, norm_total_max=np.nan, norm_projections_max=0.)) is None


def test_agreement_stands_beside_its_control(study):
    runs, root = study
    f = tables.fidelity(runs, root)
    ax = figures.plot_agreement(f)
    assert [t.get_text() for t in ax.get_yticklabels()][:3] == ['R50 → R18, control', 'R50 → R18, Logit-KD', 'R50 → R18, Feature-KD']
    known = f[f.n > 0]
    assert sorted(tuple(l.get_xdata()) for l in segments(ax)) == [pytest.approx(v) for v in sorted(zip(known.mean_low, known.mean_high))]
    assert [l.get_xdata()[0] for l in marks(ax, 'o') if l.get_markerfacecolor() == 'white'] == pytest.approx(f[f.method.eq('none') & f.n.gt(0)]['mean'].tolist())
    assert names(ax)[1] == f'n = 3, {config.signed(f.gain[1])} pp' and names(ax)[-1] == 'not run'
    for path in root.glob('*/baseline/**/logits.npz'): path.rename(path.with_suffix('.away'))
    try: assert names(figures.plot_agreement(tables.fidelity(runs, root)))[0] == 'no logits'
    finally:
        for path in root.glob('*/baseline/**/logits.away'): path.rename(path.with_suffix('.npz'))


def drawn(ax):
    "Values of a heat map as they are seen, the first row on top."
    values = ax.collections[0].get_array()
    return values if ax.get_ylim()[0] > ax.get_ylim()[1] else values[::-1]


def test_classes_stand_in_rows_and_cells_in_columns(study):
    runs, root = study
    c = tables.class_accuracy(runs, root)
    ax = figures.plot_class_differences(c)
    logit = c[(c.teacher == 'resnet50') & (c.method == 'logit')]
    assert drawn(ax)[:, 0].tolist() == pytest.approx(logit.gain.tolist()) and ax.get_yticklabels()[3].get_text() == 'class 3'
    assert ax.get_xticklabels()[0].get_text() == 'R50 → R18\nLogit-KD\nn = 3, 3' and '(pp)' in ax.get_xlabel()
    clear = ((c.ci_low > 0) | (c.ci_high < 0)).sum()
    assert sum(t.get_weight() == 'bold' for t in ax.texts) == clear and len(ax.texts) == c.gain.notna().sum()
    most = figures.plot_class_differences(c.assign(gain=c['class'].astype(float)), most=4)
    assert [t.get_text() for t in most.get_yticklabels()] == [f'class {k}' for k in (6, 7, 8, 9)]


def test_a_name_out_of_a_record_is_drawn_as_text(study):
    runs, root = study
    c = tables.class_accuracy(runs, root).assign(name='$x^$ a \x01 very long name')
    ax = figures.plot_class_differences(c)
    assert ax.get_yticklabels()[0].get_text() == '$x^$ a   very…'
    ax.figure.canvas.draw()  # as mathematics this would not parse
    figures.plot_disagreements(tables.disagreements(runs[runs.teacher.ne('resnet34')], root).assign(teacher_says='$x^$')).canvas.draw()


def test_disagreement_is_drawn_off_the_diagonal(study):
    runs, root = study
    d = tables.disagreements(runs, root)
    d = d[d.teacher == 'resnet50']
    fig = figures.plot_disagreements(d)
    assert [a.get_title() for a in fig.axes] == ['control (n = 3)', 'Logit-KD (n = 3)', 'Feature-KD (n = 3)']
    for ax, m in zip(fig.axes, ('none', 'logit', 'feature')):
        values, cell = np.ma.filled(drawn(ax).astype(float), np.nan), d[d.method == m].set_index(['teacher_class', 'student_class']).given
        assert np.isnan(np.diag(values)).all() and values[8, 1] == pytest.approx(cell[8, 1]) and values[1, 8] == pytest.approx(cell[1, 8])
    assert fig.axes[0].get_ylabel() == 'class the teacher predicts'
    many = pd.DataFrame([(i, j, 'logit', f'{i}', 1., 3) for i in range(30) for j in range(30)], columns='teacher_class student_class method teacher_says given n'.split())
    assert not figures.plot_disagreements(many).axes[0].texts  # a colour bar instead of numbers
    figures.plot_disagreements(many[(many.teacher_class == many.student_class)])


def test_reliability_leaves_out_bins_of_few_images():
    bins = pd.DataFrame({'role': 'student', 'method': 'logit', 'images': [5, 495, 500], 'confidence': [20., 80, 99], 'accuracy': [90., 70, 98]})
    ax = figures.plot_reliability(bins, pd.DataFrame({'role': ['student'], 'method': ['logit'], 'mean': [5.25], 'n': [3]}))
    assert (ax.lines[0].get_xdata().tolist(), ax.lines[0].get_ydata().tolist(), ax.lines[0].get_color()) == ([80, 99], [70, 98], figures.BLUE)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ['Logit-KD: 5.2 % (n = 3)'] and ax.get_xlabel() == 'confidence (%)'


def test_stems_name_n_and_difference():
    s = tables.stem_ablation(frame(cell(baseline(), [.95, .952]) + cell(baseline(stage='stem', stem='imagenet'), [.88])))
    ax = figures.plot_stems(s)
    assert sorted(names(ax)) == ['+7.10 pp', 'CIFAR stem (n = 2)', 'ImageNet stem (n = 1)']
    assert '(%)' in ax.get_xlabel()


def test_a_run_is_drawn_from_its_history(study):
    runs, root = study
    history = records.history(runs[runs.method == 'feature'].run_id.iloc[0], root)
    assert set(names(figures.plot_run_losses(history))) == {'total', 'cross-entropy'}
    assert set(names(figures.plot_run_accuracy(history))) == {'training', 'validation'}
    assert 'threshold 1' in names(figures.plot_run_norms(history))
    one_epoch = history[:1]
    for draw in (figures.plot_run_losses, figures.plot_run_accuracy, figures.plot_run_norms): draw(one_epoch)


def test_figures_draw_on_given_axes(study):
    fig, ax = plt.subplots()
    assert figures.plot_gain_against_gap(whole(), ax) is ax and len(plt.get_fignums()) == 1


def test_spread_keeps_order_and_distance():
    y = np.random.default_rng(0).normal(size=6)
    moved = figures.push_apart(y, .5)
    assert (np.argsort(moved) == np.argsort(y)).all() and np.diff(np.sort(moved)).min() > .49
    assert figures.push_apart([1., 9.], .5).tolist() == [1, 9]


# --- figures of the tests

def judged(n=3):
    "Runs of a study whose R34 students gain 1 pp, and one cell without a baseline of its own settings."
    cells = [cell(baseline(s), .94 + .001*np.arange(n)) for s in ('resnet18', 'resnet34')]
    cells += [cell(student('resnet50', s, m), .94 + .002*np.arange(n) + .01*(s == 'resnet34')) for s in ('resnet18', 'resnet34') for m in ('logit', 'feature')]
    return frame([r for c in cells for r in c])


def segments(ax): return [l for l in ax.lines if l.get_marker() in ('None', '|') and len(set(l.get_ydata())) == 1 and len(l.get_xdata()) == 2]


def test_forest_draws_both_intervals_and_says_what_is_missing():
    runs = judged()
    g = statistics.with_adjusted_intervals(statistics.gain_table(runs))
    ax = figures.plot_forest(g)
    drawn = sorted(tuple(l.get_xdata()) for l in segments(ax))
    assert drawn == [pytest.approx(v) for v in sorted([*zip(g.ci_low, g.ci_high), *zip(g.adjusted_low, g.adjusted_high)])]
    assert [l.get_xdata()[0] for l in marks(ax, 'o')] == pytest.approx(g.gain.tolist())
    assert [t.get_text() for t in ax.get_yticklabels()][0] == 'R50 → R18, Logit-KD' and '(pp)' in ax.get_xlabel()
    assert all('n = 3' in t and 'Holm p' in t for t in names(ax))
    ax = figures.plot_forest(statistics.gain_table(judged(1)))
    assert not segments(ax) and set(names(ax)) == {'baseline n = 1: no interval'}
    alone = statistics.gain_table(runs[runs.role == 'student'])
    ax = figures.plot_forest(alone)
    assert not segments(ax) and not marks(ax, 'o') and set(names(ax)) == {'no baseline'}
    assert len(figures.plot_forest(alone[:0]).lines) == 1


def test_moderation_is_drawn_with_p_or_reason():
    t = statistics.moderation_table(judged())
    ax = figures.plot_moderation(t)
    assert sorted(tuple(l.get_xdata()) for l in segments(ax)) == [pytest.approx(v) for v in sorted(zip(t.ci_low, t.ci_high))]
    assert names(ax)[0] == f'+1.00, {wording.p_value_text(t.p[0])}'
    ax = figures.plot_moderation(statistics.moderation_table(judged()[lambda r: r.student == 'resnet18']))
    assert not segments(ax) and 'no gain with an interval for resnet34' in names(ax)[0]


def test_a_long_reason_does_not_make_the_figure_small():
    ax = figures.rows_axes(['a row'], 'gain')
    figures.write_reason(ax, 0, 'left out; no gain with an interval for ' + ', '.join(f'network {i}' for i in range(20)))
    assert names(ax)[0].startswith('no gain with an interval for network 0') and len(names(ax)[0]) <= 46 and names(ax)[0].endswith('…')
    figures.write_reason(ax, 0, '')
    assert names(ax)[1] == 'no interval'


def test_gain_against_size_joins_the_students_of_a_teacher():
    runs = judged()
    ax = figures.plot_gain_against_size(statistics.gain_table(runs), statistics.student_sizes(runs))
    joined = [l for l in ax.lines if l.get_marker() == 'o']
    assert len(joined) == 2 and all(len(l.get_xdata()) == 2 for l in joined) and ax.get_xscale() == 'log'
    assert [t.get_text() for t in ax.get_xticklabels()] == ['R18\n0.176 M', 'R34\n0.335 M']
    assert names(ax) == ['Logit-KD, R50', 'Feature-KD, R50']
    figures.plot_gain_against_size(statistics.gain_table(frame([])), {})


def test_power_marks_the_papers_n():
    t = statistics.power_curve([.1, .2], .14, interaction=True)
    ax = figures.plot_power_curves(t, marked=(3, 5))
    assert names(ax) == ['n = 3', 'n = 5', '0.10 pp', '0.20 pp'] and 'difference of gains' in ax.get_ylabel()
    assert [l.get_xdata()[0] for l in ax.lines if len(set(l.get_xdata())) == 1] == [3, 5]
    assert any(list(l.get_ydata()) == [.8, .8] for l in ax.lines)


def test_optimism_stands_beside_noise():
    select = [row(student(stage='select', alpha=a), test_best=x, validation_best=v) for a, x, v in ((.3, .95, .94), (.5, .948, .95), (.7, .949, .93))]
    t = statistics.selection_optimism(pd.concat([judged(), frame(select)]))
    ax = figures.plot_optimism(t)
    assert names(ax) == ['+0.20, 3 configurations'] and marks(ax, 'o')[0].get_xdata()[0] == pytest.approx(.2)
    assert [l.get_xdata()[0] for l in ax.lines if l.get_color() == figures.GREY] == pytest.approx(t.noise.tolist())
    assert names(figures.plot_optimism(statistics.selection_optimism(frame(select[:1])))) == ['+0.00, 1 configuration']


def test_equivalence_shows_margin_and_verdict():
    ablated = cell(student(method='feature', stage='clipping', clipping='student_only'), .94 + .002*np.arange(3))
    t = statistics.clipping_equivalence(pd.concat([judged(), frame(ablated)]), 2.)
    ax = figures.plot_equivalence(t)
    assert names(ax) == [f'+0.00, within ± 2 pp, {wording.p_value_text(t.tost_p[0])}']
    shaded = ax.collections[0].get_paths()[0].vertices
    assert (shaded[:, 0].min(), shaded[:, 0].max()) == (-2, 2)
    assert sorted(tuple(l.get_xdata()) for l in segments(ax)) == [pytest.approx(v) for v in sorted([(t.ci_low[0], t.ci_high[0]), (t.tost_low[0], t.tost_high[0])])]
    assert names(figures.plot_equivalence(statistics.clipping_equivalence(frame(ablated), 2.))) == ['no union']
    assert 'not shown' in names(figures.plot_equivalence(statistics.clipping_equivalence(pd.concat([judged(), frame(ablated)]), .01)))[0]


def test_long_and_short_times_stand_at_their_bars_in_figures_that_people_read():
    from kd_capacity.findings import value_bars
    ax = value_bars(['teachers', 'baselines'], {None: [6916.5, 8.27]}, ['k', 'k'], 'seconds')
    assert [t.get_text() for t in ax.texts] == ['6,916', '8.27']
