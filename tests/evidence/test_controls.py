"""Controls: their runs, the gains over each, the questions and whose mistakes students make."""
import numpy as np
import pytest
import torch
from made_up import frame, row, write
from scipy import stats

from kd_capacity import control_sections, controls, fidelity, models, pages
from kd_capacity.basics import UserError
from kd_capacity.profiles import control_cells, profile, run_spec, study_runs
from kd_capacity.run_files import logits, read_record, run_folder
from kd_capacity.training import train

P = profile('controls')
WORTH = {'Twice the epochs': .004, 'Label smoothing': .001, 'A teacher like the student': .008,
         'A random teacher': 0., 'A teacher stopped early': .01, 'Teacher of seed 1': .01,
         'Teacher of seed 2': .01, 'By way of an assistant': .03, 'No clip': .01,
         'Every step of one norm': .02}  # gain of a control; a student of the study gains .01


def accuracy(spec, rng, of_control):
    "Without its teacher a network reaches .9; without a clip all are worse by .05."
    control, method = of_control.get(spec.run_id, (None, spec.method))
    if spec.role == 'teacher': return .95
    gain = WORTH[control] if control else .01
    if spec.role == 'baseline' and control != 'Twice the epochs': gain = 0
    return .9 + gain - .05*(control == 'No clip') + .00001*rng.normal()


@pytest.fixture(scope='module')
def cells():
    of_control = {s.run_id: (c.control, c.method) for c in control_cells(P) for s in c.runs}
    rng = np.random.default_rng(0)
    runs = frame([row(s, test_best=accuracy(s, rng, of_control)) for s in study_runs('controls')])
    return controls.compared_runs(runs, P)


# --- the runs

def of(control, student='resnet18', method=None):
    return next(c for c in control_cells(P) if c.control == control and c.student == student
                and method in (None, c.method))


def test_a_control_differs_from_the_study_in_what_it_says_and_in_nothing_else():
    plain = run_spec('controls', 'baseline', student='resnet18').to_dict()
    longer = of('Twice the epochs').runs[0].to_dict()
    assert {k for k in plain if plain[k] != longer[k]} == {'stage', 'epochs'} and longer['epochs'] == 2*plain['epochs']
    taught = run_spec('controls', 'student', teacher='resnet50', student='resnet18', method='feature').to_dict()
    for name, changed in {'No clip': {'clipping'}, 'Every step of one norm': {'clipping'}, 'Teacher of seed 1': {'teacher_run'},
                          'A random teacher': {'teacher_run'}, 'A teacher stopped early': {'teacher_run'},
                          'By way of an assistant': {'teacher', 'teacher_run'},
                          'A teacher like the student': {'teacher', 'teacher_run'}}.items():
        theirs = of(name, method='feature').runs[0].to_dict()
        assert {k for k in taught if taught[k] != theirs[k]} == {'stage', *changed}, name
    runs = study_runs('controls')
    order = [s.run_id for s in runs]
    assert len(set(order)) == len(order)
    assert all(order.index(s.teacher_run) < order.index(s.run_id) for s in runs if s.teacher_run)


def test_an_assistant_is_the_studys_own_student_of_the_teacher():
    teacher, assistant = of('By way of an assistant', method='logit').first
    own = run_spec('controls', 'student', teacher='resnet50', student='resnet34', method='logit')
    assert assistant == own and own.teacher_run == teacher.run_id
    assert [s.stage for s in of('Teacher of seed 2', method='logit').first] == ['teacher']
    early, = of('A teacher stopped early', method='logit').first
    assert (early.stage, early.epochs) == ('control', P.teacher_epochs//4)


def test_a_profile_on_cifar10_has_the_same_controls():
    theirs = profile('controls-cifar10')
    assert theirs.controls == P.controls and theirs.run['data'] == 'cifar10'
    assert len(study_runs('controls-cifar10')) == len(study_runs('controls'))


@pytest.mark.parametrize('old, new, says', [
    ('asks = "more"', 'asks = "less"', "'more'"), ('epochs_times', 'epochs_time', "Did you mean 'epochs_times'?"),
    ('methods = ["smoothing"]', 'methods = ["smoothin"]', "Did you mean 'smoothing'?"),
    ('assistant = "resnet34"', 'assistant = "resnet43"', 'assistant'), ('teacher = { seed = 1 }', 'teacher = { sedd = 1 }', 'seed')])
def test_a_control_that_makes_no_runs_is_refused(old, new, says, tmp_path, monkeypatch):
    from conftest import ROOT
    for name in 'demo', 'controls':
        text = (ROOT/'workflow'/'profiles'/f'{name}.toml').read_text()
        (tmp_path/f'{name}.toml').write_text(text.replace(old, new))
    monkeypatch.setenv('KD_PROFILES', str(tmp_path))
    with pytest.raises(UserError) as refused: profile('controls')
    assert says in str(refused.value) and '\n' not in str(refused.value)


def test_a_random_teacher_keeps_the_weights_that_it_was_drawn_with(tmp_path):
    spec = of('A random teacher', method='logit').first[0].replace(width=4, teacher='resnet18')
    train(spec, tmp_path)
    weights = torch.load(run_folder(spec.run_id, tmp_path)/'weights.pt', weights_only=True)
    torch.manual_seed(spec.seed)
    drawn = models.build_network('resnet18', 10, 'cifar', 4, 1).state_dict()
    moved = [n for n in drawn if not torch.allclose(weights[n].float(), drawn[n].float(), atol=1e-8)]
    assert moved and all('running' in n or 'batches' in n for n in moved)


def test_a_student_learns_from_an_assistant_that_is_a_student(teacher, student_spec):
    results, _ = teacher
    assistant = student_spec('logit', width=4)
    train(assistant, results)
    last = assistant.replace(teacher='resnet18', teacher_run=assistant.run_id, stage='control')
    record = train(last, results)
    leads, follows = (logits(s.run_id, results)['best'] for s in (assistant, last))
    assert record['teacher']['weights_sha256'] == read_record(assistant.run_id, results)['weights']['best_sha256']
    assert record['fidelity']['agreement'] == pytest.approx((leads.argmax(1) == follows.argmax(1)).mean(), abs=.01)


# --- gains and questions

def test_gains_over_the_plain_baseline_are_differences_of_means(cells):
    gains = controls.gains_over_plain(cells)
    plain = next(c for c in cells if c.control == controls.STUDY and (c.student, c.method) == ('resnet18', 'none'))
    for c in (c for c in cells if c.student == 'resnet18' and c is not plain):
        at = gains[gains.control.eq(c.control) & gains.student.eq(c.student) & gains.method.eq(c.method)]
        r = at[at.teacher.isna() if c.teacher is None else at.teacher.eq(c.teacher)].iloc[0]
        interval = stats.ttest_ind(100*c.accuracies, 100*plain.accuracies, equal_var=False).confidence_interval()
        assert (r.gain, r.ci_low, r.ci_high) == pytest.approx((100*(c.accuracies.mean() - plain.accuracies.mean()), *interval))


def test_the_verdicts_follow_the_truth(cells):
    ledger = controls.control_ledger(cells)
    r18 = ledger[ledger.student == 'resnet18']
    def verdict(control): return set(r18[r18.control == control].verdict)
    for control, worth in WORTH.items():
        asks = of(control).asks
        # without a clip a student gains as much over a baseline without one, though both are worse
        off = 100*(.01 - worth) if asks == 'more' else 100*(worth - .01)
        expected = off > .1 if asks == 'more' else abs(off) < .1
        assert verdict(control) == {'supported' if expected else 'contradicted'}, control
    assert 'hold' in controls.control_finding_text(ledger)


def test_a_control_without_its_own_baseline_leaves_the_baselines_out(cells):
    ledger = controls.control_ledger(cells)
    line = ledger[ledger.control.eq('By way of an assistant') & ledger.method.eq('logit')].iloc[0]
    via, direct = (next(c.accuracies for c in cells if (c.control, c.student, c.method, c.teacher) ==
                        (name, 'resnet18', 'logit', 'resnet50')) for name in ('By way of an assistant', controls.STUDY))
    interval = stats.ttest_ind(100*via, 100*direct, equal_var=False).confidence_interval()
    assert (line.ci_low, line.ci_high) == pytest.approx(tuple(interval))
    assert line.low < line.ci_low and line.high > line.ci_high  # adjusted for the number of questions


def test_what_was_not_run_decides_nothing(cells):
    without = [c._replace(accuracies=c.accuracies[:0]) if c.control == 'Label smoothing' else c for c in cells]
    ledger = controls.control_ledger(without)
    smoothing = ledger[ledger.control == 'Label smoothing']
    assert set(smoothing.verdict) == {'inconclusive'} and set(smoothing.n) == {0}
    assert set(controls.control_ledger_text(smoothing)['pp [95 %]']) == {'not run'}
    one = [c._replace(accuracies=c.accuracies[:1]) for c in cells]
    assert set(controls.control_ledger(one).verdict) == {'inconclusive'}
    assert controls.control_finding_text(controls.control_ledger(one)) == 'No control has an interval yet'


# --- whose mistakes

def test_agreement_on_errors_counts_only_the_teachers_mistakes():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 300)
    teacher, student = rng.normal(size=(2, 300, 5)) + 1.5*np.eye(5)[labels]
    wrong = [(t.argmax(), s.argmax()) for t, s, y in zip(teacher, student, labels) if t.argmax() != y]
    expected = sum(t == s for t, s in wrong)/len(wrong)
    assert fidelity.agreement_on_errors(teacher, student, labels) == pytest.approx(expected)
    assert fidelity.agreement(teacher, student) > expected + .2


# --- the page

@pytest.fixture(scope='module')
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp('results')
    write(study_runs('controls'), folder)
    return folder


def test_the_page_says_that_there_are_no_controls_or_shows_each(results, tmp_path):
    nothing = pages.Report([], tmp_path)
    said = list(control_sections.controls_section(nothing))
    assert len(said) == 1 and 'No control has been run yet' in said[0].markdown and 'make study PROFILE=controls`' in said[0].markdown
    shown = list(control_sections.controls_section(pages.Report([], results)))
    assert len([b for b in shown if isinstance(b, pages.Figure)]) + len([
        b for fold in shown if isinstance(fold, pages.Fold) for b in fold.blocks if isinstance(b, pages.Figure)]) == 1
    asked = list(control_sections.questions_section(nothing))[0].text
    assert list(asked.Control) == [c.name for c in P.controls]


def test_every_method_and_control_has_a_row_in_the_figure(results):
    study = pages.Study('controls', results)
    gains = controls.gains_over_plain(controls.compared_runs(study.runs, P))
    ax = controls.plot_controls(gains)
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert len(labels) == len(gains) == 4 + len(control_cells(P))
    for control in P.controls: assert any(control.name in label for label in labels)
    shared = controls.shared_errors(study.runs, results)
    assert len(shared) == 2*4 and (shared.n == 3).all() and (shared.n_control == 3).all()
