"""Made-up runs are what `records.load_runs` gives of real ones, with the values that tests and chapters rely on."""
import numpy as np
import pytest
from made_up import baseline, student

from kd_capacity import fidelity, models, run_files
from kd_capacity.config import run_spec
from kd_capacity.example import example_cell, example_frame, example_row, write_example
from kd_capacity.records import load_runs

TEACHER = run_spec('demo', 'teacher', teacher='resnet50')


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    "(results folder, specs): a teacher, two baselines of other stems, a student of each method, a failed one."
    root = tmp_path_factory.mktemp('example')
    specs = [TEACHER, baseline(), baseline(stage='stem', stem='imagenet'), student(method='logit'), student(method='feature'),
             student(method='feature', seed=1)]
    write_example(specs, root, {specs[-1].run_id: 'diverged'})
    return root, specs


def test_the_accuracies_are_those_of_the_stem_and_the_method_give_or_take_a_spread(study):
    root, specs = study
    spread = .003*np.random.default_rng(0).normal(size=1)[0]
    accuracies = {s.run_id: run_files.read_record(s.run_id, root)['outcome'] for s in specs[:-1]}
    assert accuracies[TEACHER.run_id]['test_best'] == pytest.approx(.95 + spread)
    for spec, known in zip(specs, (.95, .95, .89, .95, .954)):
        outcome = accuracies[spec.run_id]
        assert abs(outcome['test_best'] - known) < .012
        assert outcome == {'test_best': outcome['test_best'], 'test_final': pytest.approx(outcome['test_best'] - .001),
                           'validation_best': outcome['test_best'], 'validation_best_epoch': 9}


def test_a_record_says_what_those_of_real_runs_say(study):
    root, specs = study
    runs = load_runs(root).set_index('run_id')
    assert runs.status.value_counts().to_dict() == {'complete': 5, 'failed': 1}
    row = runs.loc[specs[4].run_id]
    assert row.parameters == models.parameter_count('resnet18', 10, 'cifar', specs[4].width) and row.seconds == 9
    assert (row.images_per_second, row.device, row.deterministic) == (1000, 'cpu', True)
    assert (row.norm_student_max, row.norm_projections_max, row.norm_total_max) == (3, .2, 3.1)
    assert runs.norm_projections_max[specs[3].run_id] == 0
    assert set(runs.data_sha256) == {'ab'}
    failed = run_files.read_record(specs[5].run_id, root)
    assert failed['failure'] == 'diverged' and failed['outcome'] is None and failed['fidelity'] is None
    assert run_files.read_record(specs[0].run_id, root)['failure'] is None


def test_fidelity_is_that_of_the_logits(study):
    root, specs = study
    of = {s.run_id: run_files.logits(s.run_id, root)['best'] for s in specs}
    assert run_files.read_record(specs[1].run_id, root)['fidelity'] is None  # no teacher
    for spec in specs[3:5]:
        told, teacher, own = run_files.read_record(spec.run_id, root)['fidelity'], of[spec.teacher_run], of[spec.run_id]
        assert told['agreement'] == pytest.approx((teacher.argmax(1) == own.argmax(1)).mean(), abs=.02)
        for t in 1, 4: assert told[f'kl_t{t}'] == pytest.approx(fidelity.kl(teacher, own, t), rel=.01)


def test_logits_are_better_than_guessing_and_the_classes_are_those_asked_for(study, tmp_path):
    root, specs = study
    kept = run_files.logits(TEACHER.run_id, root)
    assert kept['best'].shape == (60, 10) and kept['labels'].tolist() == [i % 10 for i in range(60)]
    assert (kept['best'].argmax(1) == kept['labels']).mean() > .8 and (kept['best'] == kept['last']).all()
    write_example([TEACHER], tmp_path, classes=4)
    kept = run_files.logits(TEACHER.run_id, tmp_path)
    assert kept['best'].shape == (60, 4) and set(kept['labels']) == {0, 1, 2, 3}


def test_a_history_looks_like_learning(study):
    root, specs = study
    history = run_files.history(specs[4].run_id, root)
    e, reached = history.epoch, run_files.read_record(specs[4].run_id, root)['outcome']['test_best'] - .5*np.exp(-history.epoch/3)
    assert e.tolist() == list(range(1, specs[4].epochs + 1))
    wanted = {'lr': .1/e, 'loss_total': 2/e, 'loss_ce': 1/e, 'train_accuracy': reached + .02, 'norm_student_max': 2/e + 1,
              'norm_projections_max': .2/e, 'norm_total_max': 2/e + 1.1}
    judged = 'validation_accuracy' if specs[4].protocol == 'v2' else 'test_accuracy'
    for name, values in (wanted | {judged: reached}).items(): assert np.allclose(history[name], values), name
    assert (run_files.history(specs[3].run_id, root).norm_projections_max == 0).all()


def test_each_protocol_has_its_judge(tmp_path):
    specs = [baseline(profile=name) for name in ('paper-v1', 'paper-v2')]
    write_example(specs, tmp_path)
    judged = [{c for c in run_files.history(s.run_id, tmp_path).columns if c.endswith('_accuracy')} - {'train_accuracy'} for s in specs]
    assert [{c for c in names if run_files.history(s.run_id, tmp_path)[c].notna().any()} for names, s in zip(judged, specs)] == [
        {'test_accuracy'}, {'validation_accuracy'}]


def test_rows_are_those_of_the_specs_and_more_columns_come_along():
    row = example_row(student(), test_best=.9, kl_t1=.2)
    assert row['status'] == 'complete' and row['data_sha256'] == 'ab' and row['run_id'] == student().run_id
    assert row['parameters'] == models.parameter_count('resnet18', width=student().width) and (row['test_best'], row['kl_t1']) == (.9, .2)
    assert {k: row[k] for k in student().to_dict()} == student().to_dict()
    frame = example_frame(example_cell(student(), [.9, .8], agreement=.7))
    assert frame.seed.tolist() == [0, 1] and frame.test_best.tolist() == frame.test_final.tolist() == [.9, .8]
    assert frame.run_id.tolist() == [student().run_id, student(seed=1).run_id] and set(frame.agreement) == {.7}
