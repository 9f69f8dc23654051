"""Tables: numbers against hand and scipy values, and the published tables from the authors' own runs."""
import json
import zipfile
from filecmp import cmp

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, SHARED
from made_up import baseline, cell, frame, row, student, write
from scipy import stats

from kd_capacity import config, fidelity, records, statistics, tables, wording

A, B = [0.9500, 0.9520, 0.9540], [0.9490, 0.9500, 0.9510]


def one(table, **values):
    "The only row with these values."
    for k, v in values.items(): table = table[table[k] == v]
    assert len(table) == 1, table
    return table.iloc[0]


# --- numbers

def test_gain_is_difference_of_means_with_welch_interval():
    g = tables.gains(frame(cell(student(), A) + cell(baseline(), B)))
    r = one(g, method='logit')
    assert (r.n, r.n_baseline) == (3, 3)
    assert r[['mean', 'std', 'baseline_mean', 'baseline_std', 'gain']].tolist() == pytest.approx([95.2, 0.2, 95.0, 0.1, 0.2])
    se = np.sqrt(0.2**2/3 + 0.1**2/3)
    df = se**4/((0.2**2/3)**2/2 + (0.1**2/3)**2/2)
    half = stats.t.ppf(0.975, df)*se
    assert [r.ci_low, r.ci_high] == pytest.approx([0.2 - half, 0.2 + half], abs=1e-9)


def test_interval_of_a_mean_is_students():
    a = tables.accuracy(frame(cell(baseline(), A)))
    assert a[['mean_low', 'mean_high']].iloc[0].tolist() == pytest.approx([95.2 - 4.302653*0.2/3**0.5, 95.2 + 4.302653*0.2/3**0.5], abs=1e-5)


def test_an_interval_of_an_accuracy_stays_within_what_is_possible():
    wide = [.93, .99, .99]
    r = tables.accuracy_table(frame(cell(baseline(), wide))).iloc[0]
    uncut = stats.t.interval(.95, 2, 100*np.mean(wide), 100*np.std(wide, ddof=1)/3**.5)
    assert uncut[1] > 100 and (r.mean_high, r.mean_cut) == (100, True) and r.mean_low == pytest.approx(uncut[0])
    text = tables.accuracy_text(tables.accuracy_table(frame(cell(baseline(), wide))))
    assert text['95 % interval, %'][0] == f'[{uncut[0]:.2f}, 100.00], cut at what is possible'
    assert not tables.accuracy_table(frame(cell(baseline(), A))).mean_cut[0]


def test_a_gain_knows_its_teachers_lead_and_both_sizes():
    teachers = [config.run_spec('demo', 'teacher', teacher='resnet50', seed=i) for i in (0, 1)]
    rows = [row(t, test_best=a) for t, a in zip(teachers, (.97, .90))] + cell(student(), A) + cell(baseline(), B)
    r = tables.gains(frame(rows)).iloc[0]
    assert (r.teacher_mean, r.accuracy_gap) == (pytest.approx(97), pytest.approx(97 - 95))  # of the run that they learned from
    assert r.teacher_parameters/r.student_parameters == frame(rows).parameters[0]/frame(cell(baseline(), B)).parameters[0]


def test_a_study_without_ablations_says_so():
    runs = frame(cell(student(), A) + cell(baseline(), B))
    assert len(tables.clipping_text(tables.clipping_ablation(runs))) == 0
    assert tables.clipping_finding(tables.clipping_ablation(runs)) == 'The study has no clipping ablation'
    assert tables.stem_finding(tables.stem_ablation(runs)) == 'The study has no stem ablation'


def test_metric_is_chosen_and_checked():
    runs = frame([row(student(), test_best=.9, test_final=.8), row(baseline(), test_best=.7, test_final=.5)])
    assert tables.gains(runs).gain[0] == pytest.approx(20)
    assert tables.gains(runs, 'test_final').gain[0] == pytest.approx(30)
    with pytest.raises(config.UserError, match="Did you mean 'test_best'"): tables.gains(runs, 'testbest')


# --- which runs form a cell

@pytest.mark.parametrize('other', [{'alpha': 0.9}, {'temperature': 2.0}, {'epochs': 3}, {'width': 16}, {'data': 'cifar10'}, {'clipping': 'none'}])
def test_other_settings_are_another_row(other):
    g = tables.gains(frame(cell(student(), A) + cell(student(**other), [0.1, 0.2]) + cell(baseline(), B)))
    assert sorted(g.n) == [2, 3]
    assert g[g.n == 3]['mean'].iloc[0] == pytest.approx(95.2)


@pytest.mark.parametrize('other', [{'epochs': 3}, {'width': 16}, {'data': 'cifar10'}, {'stem': 'imagenet'}])
def test_baseline_has_the_settings_of_the_student(other):
    g = tables.gains(frame(cell(student(), A) + cell(baseline(**other), B)))
    assert g.n_baseline[0] == 0 and np.isnan(g.gain[0])


def test_other_images_are_no_baseline():
    g = tables.gains(frame(cell(student(), A) + cell(baseline(), B, data_sha256='cd')))
    assert g.n_baseline[0] == 0


def test_only_finals_count():
    select = cell(student(stage='select'), [0.1])
    ablated = cell(student(method='feature', stage='clipping', clipping='student_only'), [0.1])
    g = tables.gains(frame(cell(student(), A) + cell(baseline(), B) + select + ablated))
    assert len(g) == 1 and g['mean'][0] == pytest.approx(95.2)


def test_a_run_counts_once():
    runs = frame(cell(student(), A) + cell(baseline(), B))
    assert tables.gains(pd.concat([runs, runs])).n.tolist() == [3]


# --- missing, failed, single

def test_plan_shows_what_is_missing():
    specs = config.study_runs('demo')
    planned = tables.with_plan(frame(cell(student(), A)[:2]), specs)
    assert planned.run_id.tolist() == [s.run_id for s in specs]
    g = tables.gains(planned)
    assert len(g) == 6
    r = one(g, teacher='resnet50', student='resnet18', method='logit')
    assert (r.n, r.planned) == (2, 3)
    text = tables.gains_text(g)
    assert text.n[0] == '2 of 3, baseline 0'
    assert text['Accuracy, %'].tolist()[1:] == ['not run']*5
    assert set(text['Gain, pp']) == {''}  # no baseline, no gain


def test_run_outside_the_plan_is_left_out(tmp_path):
    specs = config.study_runs('demo')
    write([specs[0], student(alpha=0.9)], tmp_path)
    assert tables.planned('demo', tmp_path).status.value_counts().to_dict() == {'missing': len(specs) - 1, 'complete': 1}
    assert tables.unplanned('demo', tmp_path).run_id.tolist() == [student(alpha=0.9).run_id]


def test_failed_run_is_counted_and_has_no_number():
    failed = row(student().replace(seed=2), status='failed')
    g = tables.gains(frame(cell(student(), A[:2]) + [failed] + cell(baseline(), B)))
    assert (g.n[0], g.failed[0], g['mean'][0]) == (2, 1, pytest.approx(95.1))
    assert tables.gains_text(g).n[0] == '2 of 3 (1 failed), baseline 3'


def test_one_seed_has_no_interval():
    g = tables.gains(frame(cell(student(), A[:1]) + cell(baseline(), B)))
    assert g.gain[0] == pytest.approx(0) and np.isnan(g.ci_low[0]) and np.isnan(g['std'][0])
    assert tables.gains_text(g)['95 % interval, pp'][0] == 'n = 1: no interval'
    assert tables.gains_finding(g).endswith('none with an interval; largest: Logit-KD on R50 → R18, +0.00 pp, n = 1: no interval')


def test_equal_accuracies_have_no_interval():
    g = tables.gains(frame(cell(student(), [.95]*3) + cell(baseline(), [.94]*3)))
    assert g.gain[0] == pytest.approx(1)
    assert tables.gains_text(g)['95 % interval, pp'][0] == 'no spread: no interval'


@pytest.mark.parametrize('name', config.profiles())
def test_nothing_run_makes_every_table(name, tmp_path):
    runs = tables.planned(name, tmp_path)
    assert set(runs.status) == {'missing'}
    for table, text in ((tables.gains(runs), tables.gains_text), (tables.accuracy(runs), tables.accuracy_text),
                        (tables.clipping_ablation(runs), tables.clipping_text), (tables.stem_ablation(runs), tables.stem_text),
                        (tables.fidelity(runs, tmp_path), tables.fidelity_text)):
        assert table.n.sum() == 0 and (len(table) or not config.profile(name).clipping_ablation)
        assert tables.styled(text(table))._repr_html_().count('not run') >= len(table)
    assert 'No gain can be computed yet' in tables.headline(name, tmp_path)


def test_open_selection_leaves_the_settings_open(tmp_path):
    g = tables.gains(tables.planned('paper-v2', tmp_path))
    assert len(g) == 8 and g.alpha.isna().all() and g.planned.tolist() == [5]*8


def test_empty_frame_makes_every_table(tmp_path):
    none = frame([])
    for table in (tables.gains(none), tables.accuracy(none), tables.clipping_ablation(none), tables.stem_ablation(none), tables.fidelity(none, tmp_path)):
        assert len(table) == 0
    assert list(tables.gains_text(tables.gains(none)))[:2] == ['Pair', 'Method']


# --- ablations

def test_clipping_ablation_against_union():
    feature = student(method='feature')
    ablated = feature.replace(stage='clipping', clipping='student_only')
    c = tables.clipping_ablation(frame(cell(feature, A, norm_projections_max=0.1, norm_student_max=2.) + cell(ablated, B, norm_projections_max=4.65, norm_student_max=3.)
                                       + cell(student(teacher='resnet34', method='feature'), [0.1])))
    assert c.clipping.tolist() == ['union', 'student_only']
    r = one(c, clipping='student_only')
    assert (r.gain, r.norm_projections_max, r.norm_student_max, r.n_baseline) == (pytest.approx(-0.2), 4.65, 3., 3)
    assert np.isnan(one(c, clipping='union').gain)
    assert tables.clipping_finding(c).endswith('reached 4.65, above the threshold 1')


def test_stem_ablation_uses_baselines_of_equal_epochs():
    imagenet, cifar = baseline(stage='stem', stem='imagenet'), baseline()
    s = tables.stem_ablation(frame(cell(imagenet, [.88, .88, .89]) + cell(baseline(epochs=3), [.5]*4) + cell(cifar, A)
                                   + cell(baseline('resnet50', stage='stem'), [.953]) + cell(baseline('resnet50', stage='stem', stem='imagenet'), [.898])))
    r = one(s, student='resnet18', stem='cifar')
    assert (r.n, r['mean'], r.gain) == (3, pytest.approx(95.2), pytest.approx(95.2 - 88 - 1/3))
    r = one(s, student='resnet50', stem='cifar')
    assert (r.n, r.gain) == (1, pytest.approx(5.5)) and np.isnan(r.ci_low)
    assert tables.stem_text(s)['95 % interval, pp'].tolist()[2] == 'n = 1: no interval'


# --- fidelity

@pytest.fixture
def study(tmp_path):
    write(config.study_runs('demo'), tmp_path)
    return tables.planned('demo', tmp_path), tmp_path


def test_control_is_baseline_against_the_same_teacher(study):
    runs, root = study
    f = tables.fidelity(runs, root)
    assert f.method.tolist() == ['none', 'logit', 'feature']*3
    teacher = config.run_spec('demo', 'teacher', teacher='resnet34').run_id
    said = [fidelity.kl(records.logits(teacher, root)['best'], records.logits(baseline().replace(seed=i).run_id, root)['best'], 4) for i in range(3)]
    r = one(f, teacher='resnet34', student='resnet18', method='none')
    assert (r.n, r.kl_t4) == (3, pytest.approx(np.mean(said)))
    ours = one(f, teacher='resnet34', student='resnet18', method='logit')
    assert ours.gain == pytest.approx(ours['mean'] - r['mean'])


def test_recorded_agreement_is_that_of_the_logits(study):
    runs, root = study
    r = runs[runs.role == 'student'].iloc[0]
    said = tables.against_teacher(r.run_id, r.teacher_run, root)
    assert [r.agreement, r.kl_t1, r.kl_t4] == pytest.approx([said['agreement'], said['kl_t1'], said['kl_t4']], abs=2e-3)  # float16 on disk


@pytest.mark.parametrize('damage', ['lost', 'cut', 'infinite'])
def test_unusable_logits_leave_the_count(study, damage):
    runs, root = study
    path = records.run_folder(baseline().run_id, root)/'logits.npz'
    if damage == 'lost': path.unlink()
    if damage == 'cut': path.write_bytes(path.read_bytes()[:100])
    if damage == 'infinite': records.write_logits(baseline().run_id, np.full((60, 10), np.inf), np.zeros((60, 10)), np.zeros(60), root)
    r = one(tables.fidelity(runs, root), teacher='resnet50', student='resnet18', method='none')
    assert (r.n, r.planned) == (2, 3)


def test_control_without_its_teacher_is_not_run(study):
    runs, root = study
    f = tables.fidelity(runs[runs.role != 'teacher'], root)
    assert f[f.method == 'none'].n.sum() == 0
    assert tables.fidelity_finding(f).endswith('the control is not run yet')


def test_curves_know_their_run(study):
    runs, root = study
    c = tables.curves(runs[runs.stage == 'clipping'], root)
    assert set(c.clipping) == {'student_only'} and set(c.seed) == {0, 1, 2} and c.epoch.max() == runs.epochs.min()


# --- curves and what they come to

def test_a_lost_history_leaves_the_curves(study):
    runs, root = study
    (records.run_folder(baseline().run_id, root)/'history.csv').unlink()
    assert baseline().run_id not in set(tables.curves(runs, root).run_id) and tables.curves(runs, root).run_id.nunique() == len(runs) - 1


def test_a_pairs_curves_are_its_students_and_their_baseline(study):
    runs, root = study
    pairs = list(tables.by_pair(tables.curves(runs, root)))
    assert [s['teacher'] + s['student'] for s, _ in pairs] == ['resnet50resnet18', 'resnet34resnet18', 'resnet50resnet34']
    for settings, curves in pairs:
        assert curves.groupby('method').run_id.nunique().to_dict() == {'none': 3, 'logit': 3, 'feature': 3}
        assert set(curves.student) == {settings['student']} and set(curves.teacher.dropna()) == {settings['teacher']} and set(curves.stage) == {'final'}
    assert not list(tables.by_pair(tables.curves(runs[runs.role != 'student'], root))) and not list(tables.by_pair(tables.curves(runs[:0], root)))


def test_the_end_is_the_last_epoch_of_each_run(study):
    runs, root = study
    _, curves = next(tables.by_pair(tables.curves(runs, root)))
    last = {m: [records.history(i, root).validation_accuracy.iloc[-1] for i in cell.run_id.unique()] for m, cell in curves.groupby('method')}
    e = tables.ending(curves, curves[tables.judged_by(curves)])
    for r in e.to_dict('records'):
        assert (r['n'], r['epoch'], r['mean'], r['least'], r['most']) == (3, 12, *map(pytest.approx, (100*np.mean(last[r['method']]), 100*min(last[r['method']]), 100*max(last[r['method']]))))
    r, w = one(e, method='logit'), stats.ttest_ind(last['logit'], last['none'], equal_var=False).confidence_interval()
    assert [r.gain, r.ci_low, r.ci_high] == pytest.approx([100*(np.mean(last['logit']) - np.mean(last['none'])), 100*w.low, 100*w.high])
    best = e.loc[e['mean'].idxmax()]
    assert f"Highest x after epoch 12: {tables.method(best.method)} {best['mean']:.2f} %" in tables.ending_finding(e, 'x')
    gap = tables.ending(curves, tables.generalisation_gap(curves))
    assert gap['mean'].tolist() == pytest.approx([2]*3) and 'Logit-KD +2.00 pp' in tables.gap_finding(gap, 'x')


def test_v1_has_its_gap_to_the_test_images(tmp_path):
    write([config.run_spec('paper-v1', 'baseline', student='resnet18')], tmp_path)
    curves = tables.curves(tables.planned('paper-v1', tmp_path), tmp_path)
    assert tables.judged_by(curves) == 'test_accuracy' and tables.generalisation_gap(curves).tolist() == pytest.approx([.02]*100)


def test_norms_count_epochs_above_the_threshold(study):
    runs, root = study
    t = tables.norms(tables.curves(runs, root), 1.5)  # student 2/e + 1, total 2/e + 1.1, projections 0.2/e
    feature, logit = (one(t, teacher='resnet50', student='resnet18', method=m, clipping='union') for m in ('feature', 'logit'))
    assert (feature.n, feature.epochs, feature.student_above, feature.total_above, feature.projections_above) == (3, 12, 3, 4, 0)
    assert (feature.student_max, feature.projections_max) == (3, pytest.approx(.2)) and np.isnan(logit.projections_above)
    said = tables.norms_finding(t[t.index == feature.name], 1.5)
    assert said == 'Largest norm above the threshold 1.5: Feature-KD (n = 3): student in 3, projections in 0, total in 4 of 12 epochs'
    text = tables.norms_text(t, 1.5)
    assert text['Epochs above 1.5, total'][feature.name] == '4 of 12' and text['Epochs above 1.5, projections'][logit.name] == ''
    assert len(tables.norms(tables.curves(runs[:0], root))) == 0


def test_runs_of_one_learning_rate_are_one_schedule(study):
    runs, root = study
    s = tables.schedules(tables.curves(runs, root))
    assert s.drop_duplicates('schedule')[['roles', 'n']].values.tolist() == [['teachers', 2], ['baselines, students', 35]]
    assert s[s.schedule == 1].lr.tolist() == pytest.approx([.1/e for e in range(1, 13)])
    assert 'teachers (n = 2) from 0.1 to 0.00417 over 24 epochs' in tables.schedule_finding(s)


# --- from the logits, class by class

def test_class_accuracy_is_that_of_the_logits(study):
    runs, root = study
    c = tables.class_accuracy(runs, root)
    def recall(specs): return [100*np.mean(z['best'][z['labels'] == 3].argmax(1) == 3) for z in (records.logits(s.run_id, root) for s in specs)]
    ours, base = (recall([s.replace(seed=i) for i in range(3)]) for s in (student(), baseline()))
    r = one(c, teacher='resnet50', student='resnet18', method='logit', **{'class': 3})
    assert len(c) == 6*10 and [r['mean'], r.baseline_mean, r.gain] == pytest.approx([np.mean(ours), np.mean(base), np.mean(ours) - np.mean(base)])
    assert set(tables.class_text(c).n) == {'3, 3'}
    alone = tables.class_accuracy(runs[runs.role != 'baseline'], root)
    assert len(alone) == 60 and alone.gain.isna().all() and tables.class_finding(alone) == 'No class can be compared with its baseline yet'


def test_class_finding_counts_what_is_clear_of_zero():
    c = pd.DataFrame({'name': ['cat', 'class 1', 'dog'], 'gain': [1., -3., .5], 'ci_low': [.5, -4, -1], 'ci_high': [2., -2, 2], 'n': 3, 'n_baseline': 3,
                      'teacher': 'resnet50', 'student': 'resnet18', 'method': 'logit'})
    assert tables.class_finding(c) == '2 of 3 differences have a 95 % interval clear of zero, where chance alone gives about 1; largest: class 1, Logit-KD on R50 → R18, −3.00 pp [−4.00, −2.00]'


def test_classes_are_named_by_their_records(study):
    runs, root = study
    def name(run_id, names):
        record = records.read_record(run_id, root)
        records.write_record({**record, 'data': names if names is None else {'classes': names}}, root)
    names = [f'<{k}>' for k in range(10)]
    assert tables.class_names(runs, root) is None
    name(runs.run_id[0], names)
    assert tables.class_names(runs, root) == tuple(names) and tables.class_accuracy(runs, root).name[2] == '<2>'
    for i in 1, 2: name(runs.run_id[i], None)
    assert tables.class_names(runs, root) == tuple(names)
    name(runs.run_id[1], names[:9])
    assert tables.class_names(runs, root) is None and tables.disagreements(runs, root).teacher_says[0] == 'class 0'


def test_disagreements_have_the_teacher_in_the_rows(study):
    runs, root = study
    d = tables.disagreements(runs, root)
    teacher = records.logits(student().teacher_run, root)['best'].argmax(1)
    ours = [records.logits(student().replace(seed=i).run_id, root)['best'].argmax(1) for i in range(3)]
    cell = d[(d.teacher == 'resnet50') & (d.student == 'resnet18') & (d.method == 'logit')]
    for r in cell.to_dict('records'):
        both = np.mean([((teacher == r['teacher_class']) & (z == r['student_class'])).mean() for z in ours])
        assert (r['share'], r['given']) == pytest.approx((100*both, 100*both/(teacher == r['teacher_class']).mean()))
    f = tables.fidelity(runs, root)
    agreed = d[d.teacher_class == d.student_class].groupby(['teacher', 'student', 'method']).share.sum()
    for r in f.to_dict('records'): assert agreed[r['teacher'], r['student'], r['method']] == pytest.approx(r['mean'], abs=.2)  # recorded before float16
    top = tables.disagreements_text(d)
    off = cell[cell.teacher_class != cell.student_class]
    assert list(top)[3:6] == ['control, %', 'Logit-KD, %', 'Feature-KD, %'] and len(top) == 15 and float(top['Logit-KD, %'][:5].max()) <= off.share.max() + .01
    assert f'Logit-KD {off.share.sum():.1f} % (n = 3)' in tables.disagreement_finding(d[(d.teacher == 'resnet50') & (d.student == 'resnet18')])


def test_all_pairs_have_one_sentence(study):
    "The range over the pairs of what each pair's own sentence says."
    runs, root = study
    d, c = tables.disagreement_table(runs, root), tables.calibration_table(runs, root)
    apart = d[d.teacher_class != d.student_class].groupby(['method', 'teacher', 'student']).share.sum().loc['feature']
    assert f'Feature-KD {apart.min():.1f} to {apart.max():.1f} %' in wording.disagreements_finding(d)
    errors = {role: c.loc[c.role.eq(role) & c.method.isin([*method]), 'mean'] for role, method in (('teacher', c.method), ('student', ['feature']))}
    said = wording.calibrations_finding(c)
    assert f'teachers {errors["teacher"].min():.1f} to {errors["teacher"].max():.1f} %' in said
    assert f'Feature-KD {errors["student"].min():.1f} to {errors["student"].max():.1f} %' in said
    assert said.count('%') == 4 and 'no teacher ' in said
    assert wording.disagreements_finding(d[:0]).endswith('yet') and wording.calibrations_finding(c[:0]).endswith('yet')


def test_nobody_is_compared_with_a_teacher_that_is_not_there(study):
    runs, root = study
    d = tables.disagreements(runs[~(runs.role.eq('teacher') & runs.teacher.eq('resnet50'))], root)
    assert set(d.teacher) == {'resnet34'}
    assert len(tables.disagreements(runs[:0], root)) == 0 == len(tables.disagreements_text(tables.disagreements(runs[:0], root)))


def test_calibration_is_the_mean_over_the_runs(study):
    runs, root = study
    c = tables.calibration(runs, root)
    said = [statistics.calibration_error(*(records.logits(student().replace(seed=i).run_id, root)[k] for k in ('best', 'labels'))) for i in range(3)]
    base = [statistics.calibration_error(*(records.logits(baseline().replace(seed=i).run_id, root)[k] for k in ('best', 'labels'))) for i in range(3)]
    r = one(c, role='student', teacher='resnet50', student='resnet18', method='logit')
    assert (r.n, r['mean'], r.gain) == (3, pytest.approx(100*np.mean(said)), pytest.approx(100*(np.mean(said) - np.mean(base))))
    b = tables.networks_of(tables.reliability(runs, root), {'teacher': 'resnet50', 'student': 'resnet18'})
    assert b.groupby(['role', 'method'], sort=False).images.sum().tolist() == [60, 180, 180, 180]
    part = tables.networks_of(c, {'teacher': 'resnet50', 'student': 'resnet18'})
    assert part.role.tolist() == ['teacher', 'baseline', 'student', 'student'] and f"Logit-KD {r['mean']:.1f} % (n = 3, " in tables.calibration_finding(part)


def test_a_failed_run_has_no_say_in_calibration(tmp_path):
    specs = config.study_runs('demo')
    write(specs, tmp_path, failure={student().run_id: 'diverged'})
    runs = tables.planned('demo', tmp_path)
    r = one(tables.calibration(runs, tmp_path), role='student', teacher='resnet50', student='resnet18', method='logit')
    assert (r.n, r.complete, r.failed) == (2, 2, 1)
    assert one(tables.class_accuracy(runs, tmp_path), teacher='resnet50', student='resnet18', method='logit', **{'class': 0}).n == 2
    assert set(tables.disagreements(runs, tmp_path).query('teacher == "resnet50" and student == "resnet18" and method == "logit"').n) == {2}


@pytest.mark.parametrize('damage', ['lost', 'cut', 'infinite', 'flat'])
def test_unusable_logits_are_no_answer(study, damage):
    runs, root = study
    path, wrong = records.run_folder(baseline().run_id, root)/'logits.npz', {'infinite': np.full((60, 10), np.inf), 'flat': np.zeros(60)}
    if damage == 'lost': path.unlink()
    elif damage == 'cut': path.write_bytes(path.read_bytes()[:100])
    else: records.write_logits(baseline().run_id, wrong[damage], np.zeros((60, 10)), np.zeros(60), root)
    assert one(tables.calibration(runs, root), role='baseline', student='resnet18').n == 2
    assert set(tables.class_accuracy(runs, root).query('student == "resnet18"').n_baseline) == {2}


def test_without_logits_the_tables_say_so(study):
    runs, root = study
    for path in root.glob('**/logits.npz'): path.unlink()
    assert len(tables.class_accuracy(runs, root)) == len(tables.disagreements(runs, root)) == len(tables.reliability(runs, root)) == 0
    f, c = tables.fidelity_text(tables.fidelity(runs, root)), tables.calibration_text(tables.calibration(runs, root))
    assert f['Agreement with the teacher, %'].tolist()[::3] == ['no logits']*3 and set(c['Calibration error, %']) == {'no logits'}
    assert tables.fidelity_finding(tables.fidelity(runs, root)).endswith('; no logits, so no control')
    assert tables.unread(runs) == 'no logits' and tables.unread(runs[:0]) == 'no student has been run'
    assert tables.styled(c)._repr_html_().count('missing') > 0
    nothing = tables.planned('demo', root/'nothing')
    assert set(tables.calibration_text(tables.calibration(nothing, root))['Calibration error, %']) == {'not run'}
    assert len(tables.class_accuracy(nothing, root)) == 0


def test_the_tests_of_fidelity_are_written_with_their_reason(study):
    runs, root = study
    f = statistics.fidelity_tests(runs, root)
    text = tables.fidelity_tests_text(f)
    assert text['95 % interval'][0] == f'[{config.signed(f.ci_low[0], 1)}, {config.signed(f.ci_high[0], 1)}]' and text.Mean[1] == f"{f['mean'][1]:.3f}"
    assert set(tables.fidelity_tests_text(statistics.fidelity_tests(runs, root/'elsewhere'))['95 % interval']) == {'no control'}
    assert list(tables.fidelity_tests_text(f[:0])) == list(text)


# --- the paper's figures

@pytest.mark.parametrize('name', ['published_v1.csv', 'published_v2.csv'])
def test_published_figures_are_transcribed_exactly(name):
    if not (SHARED/'reference'/name).exists(): pytest.skip(f'{SHARED}/reference/{name} is not there: nothing to compare with')
    assert cmp(SHARED/'reference'/name, ROOT/'results'/'published'/name, shallow=False)


def test_published_figures_stand_beside_ours():
    runs = frame([row(s, test_best=.95) for s in config.study_runs('paper-v2', {(t, s, m): {} for t, s in config.profile('paper-v2').pairs for m in ('logit', 'feature')})
                  if s.stage in ('final', 'teacher')])
    paper = tables.published()
    g = tables.against_published(tables.gains(runs), paper, 'gain')
    r = one(g, teacher='resnet34', student='resnet18', method='feature')
    assert (r.v1, r.v2) == (0.18, pytest.approx(0.12))
    r = one(g, teacher='resnet101', student='resnet34', method='logit')
    assert np.isnan(r.v1) and r.v2 == pytest.approx(0.06)
    a = tables.against_published(tables.accuracy(runs), paper, 'mean')
    assert one(a, role='teacher', arch='resnet34')[['v1', 'v2']].tolist() == [95.70, 95.30]
    assert one(a, role='baseline', arch='resnet34')[['v1', 'v2']].tolist() == [95.25, 95.04]
    final = tables.published('test_final')
    assert set(final.version) == {'v2'} and final[final.quantity == 'baseline']['mean'].tolist() == [94.82, 95.04]


@pytest.fixture(scope='module')
def authors():
    "The authors' runs as rows of ours."
    path = SHARED/'reference'/'authors_runs.zip'
    if not path.exists(): pytest.skip(f'{path} is not there: the published tables cannot be computed from raw runs')
    stages = {'final': 'final', 'select': 'select', 'teachers': 'teacher', 'stem_ablation': 'stem', 'bug_ablation': 'clipping'}
    rows = []
    with zipfile.ZipFile(path) as z:
        for name in sorted(n for n in z.namelist() if n.endswith('results.json')):
            d, parts = json.loads(z.read(name)), name.split('/')
            stage = next(stages[p] for p in parts if p in stages)
            distilled = d['teacher'] is not None
            rows.append({'run_id': name, 'profile': 'authors', 'stage': stage, 'status': 'complete', 'data': 'cifar10', 'epochs': d['epochs'], 'width': 64,
                         'role': 'teacher' if stage == 'teacher' else 'student' if distilled else 'baseline', 'seed': d['seed'], 'stem': d['stem'],
                         'teacher': d['model'] if stage == 'teacher' else d['teacher'], 'student': None if stage == 'teacher' else d['model'],
                         'method': d['kd_type'], 'clipping': 'student_only' if d.get('no_proj_clip') else 'union', 'protocol': 'v2',
                         'alpha': d['alpha'] if distilled else None, 'temperature': d['temperature'] if d['kd_type'] == 'logit' else None,
                         'beta': d['feat_beta'] if d['kd_type'] == 'feature' else None,
                         'test_best': d['test_acc_best'], 'test_final': d['test_acc_final'], 'validation_best': d['best_val_acc']})
    return frame(rows)


@pytest.mark.parametrize('metric, column', [('test_best', 'test_best'), ('test_final', 'test_final'), ('validation_best', 'validation')])
def test_published_tables_come_out_of_the_authors_runs(authors, metric, column):
    paper = records.published('v2')
    ours = {('student', r['teacher'], r['student'], r['method']): r for r in tables.gains(authors, metric).to_dict('records')}
    ours |= {(r['role'], None, r['arch'], 'none'): r for r in tables.accuracy(authors, metric).to_dict('records')}
    c = tables.clipping_ablation(authors, metric).to_dict('records')[1]
    ours['clipping_bug', c['teacher'], c['student'], 'feature'] = c
    for r in paper[paper.quantity != 'stem'].to_dict('records'):
        found = ours[r['quantity'], None if pd.isna(r['teacher']) else r['teacher'], r['student'], r['method']]
        assert found['n'] == r['seeds']
        assert [found['mean'], found['std']] == pytest.approx([r[f'{column}_mean'], r[f'{column}_std']], abs=0.00501), r


def test_published_stem_ablation_comes_out_of_the_authors_runs(authors):
    paper = records.published('v2')
    s = tables.stem_ablation(authors[authors.stage == 'stem'])
    for r in paper[paper.quantity == 'stem'].to_dict('records'):
        found = one(s, student=r['student'], stem=r['stem'])
        assert (found.n, found['mean']) == (r['seeds'], pytest.approx(r['test_best_mean'], abs=0.00501))
    assert s.gain.dropna().tolist() == pytest.approx([7.15, 6.74, 5.50], abs=0.01)


# --- words

def test_hostile_text_is_text():
    bad = '<img src=x onerror=alert(1)>'
    g = tables.gains(frame(cell(student(), A) + cell(baseline(), B)).assign(method=['logit']*3 + ['none']*3, teacher=bad, profile=bad))
    html = tables.styled(tables.gains_text(g))._repr_html_()
    assert '<img' not in html and '&lt;img' in html
    assert '<' not in tables.as_markdown(bad).replace('\\<', '')
    import mistune
    assert '<img' not in mistune.html(tables.as_markdown(bad) + '\n\n' + tables.as_markdown('[a](javascript:x) `<b>`'))


def test_findings_count_intervals_clear_of_zero():
    up, down = [b + 0.05 for b in B], [b - 0.05 for b in B]
    runs = cell(student(), up) + cell(student(method='feature'), down) + cell(student(teacher='resnet34'), B) + cell(baseline(), B)
    said = tables.gains_finding(tables.gains(frame(runs)))
    assert said.startswith('1 of 3 gains have a 95 % interval above zero, 1 below; largest: Logit-KD on R50 → R18, +5.00 pp [+4.77, +5.23]')


def test_headline_and_state(study):
    _, root = study
    text = tables.headline('demo', root)
    assert all(pair in text for pair in ('R50 → R18', 'R34 → R18', 'R50 → R34')) and 'no evidence on CIFAR-10' in text
    assert max(map(len, text.split('\n')[:10])) <= 100
    n = len(config.study_runs('demo'))
    assert tables.state_text(tables.state(['demo', 'fast'], root)).Runs.tolist() == [f'{n} of {n}', '0 of 37']
