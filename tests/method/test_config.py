"""RunSpec, profiles and the runs of a study, from outside."""
import hashlib
import json

import pydantic
import pytest
from pydantic import ValidationError

from conftest import ROOT
from kd_capacity import basics, losses
from kd_capacity.basics import UserError, atomic, data_dir, results_dir
from kd_capacity.calls import notebook_spec, parameters
from kd_capacity.config import RunSpec
from kd_capacity.profiles import profile, profiles, run_spec, study_runs


def student(**given):
    return run_spec('demo', 'student', **{'teacher': 'resnet50', 'student': 'resnet34', 'method': 'logit', **given})


def test_a_spec_cannot_be_changed():
    with pytest.raises(ValidationError, match='frozen'): student().seed = 1


@pytest.mark.parametrize('given, says', [
    ({'alpha': -0.1}, 'alpha = -0.1 is not valid; allowed: a number in [0, 1]'),
    ({'alpha': 1.01}, 'alpha = 1.01'), ({'alpha': 'half'}, "alpha = 'half'"), ({'alpha': float('nan')}, 'alpha = nan'),
    ({'temperature': 0}, 'temperature = 0 is not valid; allowed: a number > 0'), ({'temperature': -4}, 'temperature = -4'),
    ({'beta': 0.5}, "beta = 0.5 does not apply to method 'logit'"),
    ({'student': 'resnet19'}, "Did you mean 'resnet1"), ({'teacher': 'vgg'}, "teacher = 'vgg' is not known; allowed: 'resnet18'"),
    ({'method': 'logits'}, "Did you mean 'logit'?"), ({'stem': 'cfar'}, "Did you mean 'cifar'?"),
    ({'clipping': 'students_only'}, "Did you mean 'student_only'?"), ({'seed': -1}, 'seed = -1'), ({'seed': 0.5}, 'seed = 0.5'),
    ({'epochs': 0}, 'epochs = 0'), ({'epochs': True}, 'epochs = True'), ({'batch_size': 1}, 'batch_size = 1'),
    ({'validation_size': 0}, 'v2 holds some out'), ({'lr': 1e-5}, 'lr_min = 0.0001 exceeds'), ({'data': 'cifar'}, "Did you mean 'cifar10'?"),
    ({'sedd': 1}, "Did you mean 'seed'?"), ({'flip': 'yes'}, "flip = 'yes'"),
])
def test_bad_values_are_named_with_what_is_allowed(given, says):
    with pytest.raises(UserError) as e: student(**given)
    assert says in str(e.value) and '\n' not in str(e.value)


def test_a_loss_added_to_the_dict_is_valid_at_once(monkeypatch):
    with pytest.raises(UserError): student(method='mine')
    monkeypatch.setitem(losses.METHODS, 'mine', losses.METHODS['logit']._replace(name='mine'))
    assert student(method='mine', alpha=0.3).method == 'mine'


def test_json_round_trip_and_foreign_fields():
    spec = student(alpha=0.3)
    assert RunSpec.from_json(spec.to_json()) == spec
    with pytest.raises(UserError, match='a spec is a JSON object .* not list'): RunSpec.from_json('[1]')
    with pytest.raises(UserError, match="Did you mean 'alpha'"): RunSpec.from_json(json.dumps({**json.loads(spec.to_json()), 'alfa': 1}))


def test_run_id_is_stable_unique_and_blind_to_the_way_a_number_is_written():
    # A change of these ids orphans every record there is.
    assert run_spec('paper-v1', 'student', teacher='resnet50', student='resnet34', method='feature').run_id == 'paper-v1/r50-r34/feature/a0.5-b0.5/s0-037527dc'
    assert run_spec('demo', 'baseline', student='resnet18').run_id == 'demo/baseline/r18w8/s0-1a49f241'
    assert student(temperature=4).run_id == student(temperature=4.0).run_id
    a = student()
    changed = [a.replace(**{k: v}) for k, v in dict(seed=1, lr=0.05, epochs=3, width=16, alpha=0.4, temperature=3., max_norm=2., data='cifar10',
               clipping='none', stem='imagenet', split_seed=1, padding=2, flip=True, weight_decay=0., momentum=0.8, teacher_run='x', teacher_width=16, normalization='cifar10', engine='fast').items()]
    assert len({s.run_id for s in [a, *changed]}) == len(changed) + 1


@pytest.mark.parametrize('name', profiles())
def test_every_run_of_every_profile_comes_back_from_its_parameters(name):
    p = profile(name)
    chosen = {(t, s, m): {'alpha': 0.7, **({'temperature': 2.0} if m == 'logit' else {})} for t, s in p.pairs for m in p.methods}
    runs = study_runs(p, chosen if p.selection else None)
    assert len({r.run_id for r in runs}) == len(runs)
    for spec in runs:
        assert notebook_spec({**parameters(spec), 'force': False}, 'teacher' if spec.role == 'teacher' else 'student') == spec
    assert {r.teacher_run for r in runs} - {None} <= {r.run_id for r in runs}


def test_demo_is_the_whole_study():
    runs = study_runs('demo')
    cells = {(r.teacher, r.student, r.method, r.seed) for r in runs if r.stage == 'final' and r.role == 'student'}
    pairs = ('resnet50', 'resnet18'), ('resnet34', 'resnet18'), ('resnet50', 'resnet34')
    assert cells == {(t, s, m, seed) for t, s in pairs for m in ('logit', 'feature') for seed in range(3)}
    assert {r.arch for r in runs if r.role == 'teacher'} == {'resnet34', 'resnet50'}
    assert {(r.arch, r.seed) for r in runs if r.stage == 'final' and r.role == 'baseline'} == {(a, s) for a in ('resnet18', 'resnet34') for s in range(3)}
    assert {r.clipping for r in runs if r.stage == 'clipping'} == {'student_only'}
    assert {r.stem for r in runs if r.stage == 'stem'} == {'imagenet', 'cifar'}


def test_paper_v2_has_its_seeds_pairs_and_protocol():
    p = profile('paper-v2')
    chosen = {(t, s, m): {'alpha': 0.5, **({'temperature': 4.0} if m == 'logit' else {})} for t, s in p.pairs for m in p.methods}
    runs = study_runs(p, chosen)
    finals = [r for r in runs if r.stage == 'final' and r.role == 'student']
    assert len(finals) == 4*2*5 and {r.epochs for r in finals} == {100}
    assert {(r.validation_size, r.split_seed, r.protocol) for r in runs} == {(5000, 1234, 'v2')}
    assert {(r.teacher, r.seed, r.epochs) for r in runs if r.role == 'teacher'} == {(t, s, 200) for t in ('resnet34', 'resnet50', 'resnet101') for s in range(3)}
    assert not [r for r in study_runs(p) if r.stage == 'final' and r.role == 'student']  # open until selected


def test_the_defaults_are_the_papers():
    s = run_spec('paper-v1', 'student', teacher='resnet50', student='resnet18', method='logit')
    assert (s.alpha, s.temperature, s.lr, s.lr_min, s.momentum, s.weight_decay, s.batch_size, s.epochs, s.max_norm, s.clipping, s.padding, s.flip, s.width,
            s.stem, s.protocol) == (0.5, 4.0, 0.1, 1e-4, 0.9, 5e-4, 128, 100, 1.0, 'union', 4, True, 64, 'cifar', 'v1')
    assert run_spec('paper-v1', 'student', teacher='resnet50', student='resnet18', method='feature').beta == 0.5


def test_atomic_leaves_the_old_file_when_the_disk_is_full(tmp_path):
    path = tmp_path/'a'
    path.write_text('old')
    import os
    (tmp_path/f'.a.{os.getpid()}.tmp').symlink_to('/dev/full')  # every write to it: no space left on device
    with pytest.raises(UserError, match='Cannot write .*: No space left on device'):
        with atomic(path) as t: t.write_text('new')
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith('KD_')] == ['a'] and path.read_text() == 'old'


def test_one_and_true_are_one_run():
    spec = dict(teacher='resnet34', student='resnet18', method='feature', teacher_run='demo/teacher/x')
    one, true = (run_spec('demo', 'student', **spec, normalize=v) for v in (1, True))
    assert one.run_id == true.run_id and one.to_json() == true.to_json()


@pytest.mark.parametrize('name, folder', [('KD_RESULTS', results_dir), ('KD_DATA', data_dir)])
def test_a_relative_folder_is_the_same_from_everywhere(name, folder, monkeypatch, tmp_path):
    monkeypatch.setenv(name, 'mine')
    monkeypatch.chdir(tmp_path)
    assert folder() == ROOT/'mine'
    monkeypatch.setenv(name, str(tmp_path/'mine'))
    assert folder() == tmp_path/'mine'


# ---- options of methods

def test_options_belong_to_the_method_and_are_flat_outside():
    spec = student(alpha=0.3)
    assert (spec.alpha, spec.temperature, spec.beta) == (0.3, 4.0, None)
    assert {'alpha', 'temperature'} <= set(spec.to_dict()) and 'beta' not in spec.to_dict()
    with pytest.raises(AttributeError): spec.alhpa


def test_changing_the_method_keeps_the_options_that_both_have():
    feature = student(alpha=0.3).replace(method='feature')
    assert (feature.alpha, feature.beta, feature.temperature) == (0.3, 0.5, None)


def test_what_a_run_is_shows_in_its_name():
    spec = run_spec('demo', 'student', teacher='resnet50', student='resnet18', method='feature', beta=1.0, teacher_width=32)
    _, networks, method, options, _ = spec.run_id.split('/')
    assert (method, options) == ('feature', 'a0.5-b1')
    assert networks.startswith('r50w32-r18')


# ---- widths

def test_a_teacher_width_equal_to_the_students_is_the_same_run():
    assert student(teacher_width=student().width) == student()


@pytest.mark.parametrize('role, given', [('baseline', dict(student='resnet18')), ('teacher', dict(teacher='resnet18'))])
def test_only_a_student_has_a_teachers_width(role, given):
    with pytest.raises(UserError, match='teacher_width = 9 goes with a student'): run_spec('demo', role, **given, teacher_width=9)


def test_a_wider_teachers_run_is_the_one_that_the_student_learns_from():
    spec = student(teacher_width=32)
    assert spec.teacher_run == run_spec('demo', 'teacher', teacher='resnet50', width=32).run_id
    assert spec.width_of_teacher == 32 != spec.width


def test_a_teacher_of_the_usual_width_is_that_of_a_student_without_a_width():
    given = dict(stage='final', role='student', profile='mine', teacher='resnet34', student='resnet18', method='logit', teacher_run='mine/x')
    assert RunSpec(**given, teacher_width=64) == RunSpec(**given) and RunSpec(**given).width == 64


@pytest.mark.parametrize('given, role', [({'student': 'resnet18', 'method': 'smoothing'}, 'student'), ({'student': 'resnet18'}, 'baseline')])
def test_a_method_without_a_teacher_makes_a_student_and_no_method_a_baseline(given, role):
    assert run_spec('demo', role, **given).role == role
    with pytest.raises(UserError, match='method'): run_spec('demo', 'student', student='resnet18', method='none')


def test_zero_and_one_are_truth_values_of_a_flip():
    for number in 0, 1: assert student(flip=number).flip is bool(number)


# ---- bounds known from the data set

@pytest.mark.parametrize('given, says', [
    ({'validation_size': 1000}, 'validation_size = 1000, but digits has 1000 training images'),
    ({'padding': 8}, 'padding = 8, but the images of digits are 8×8 pixels')])
def test_more_than_the_data_set_has_is_refused_before_it_is_loaded(given, says):
    with pytest.raises(UserError, match=says): student(**given)


@pytest.mark.parametrize('template', ['teacher', 'student'])
def test_a_notebook_refuses_what_it_has_no_parameter_for(template):
    given = {'profile': 'demo', 'arch' if template == 'teacher' else 'student': 'resnet18'}
    assert notebook_spec(given, template).role == ('teacher' if template == 'teacher' else 'baseline')
    for more, says in ({'epoch': 3}, "Did you mean 'epochs'"), ({'force': 'yes'}, "force = 'yes'"):
        with pytest.raises(UserError, match=says): notebook_spec({**given, **more}, template)
    unfit = {'method': 'logit'} if template == 'teacher' else {'arch': 'resnet18'}
    with pytest.raises(UserError, match=f'parameter = {[*unfit][0]!r}'): notebook_spec({**given, **unfit}, template)


def test_results_and_data_lie_in_the_clone_unless_a_folder_is_chosen(monkeypatch, tmp_path):
    for folder, variable, default in (basics.results_dir, 'KD_RESULTS', 'results'), (basics.data_dir, 'KD_DATA', 'data'):
        monkeypatch.delenv(variable)
        assert folder() == basics.root()/default
        monkeypatch.setenv(variable, 'other/place')
        assert folder() == basics.root()/'other'/'place'
        monkeypatch.setenv(variable, str(tmp_path))
        assert folder() == tmp_path


def test_a_value_deep_in_a_list_is_refused_with_its_place_and_what_is_allowed():
    class Inner(basics.Checked): n: int = pydantic.Field(ge=1)
    class Outer(basics.Checked):
        rows: list[Inner]
        named: dict[str, Inner] = {}
    for values, place in ({'rows': [{'n': 1}, {'n': 0}]}, 'rows[1].n'), ({'rows': [], 'named': {'a': {'n': 0}}}, 'named.a.n'):
        with pytest.raises(UserError) as error: basics.checked(Outer, values)
        assert str(error.value) == f'{place} = 0 is not valid; allowed: a whole number >= 1.'
    with pytest.raises(UserError, match=r'rows\[0\].n is missing; give it'): basics.checked(Outer, {'rows': [{'m': 1}]})


def test_the_parameters_of_a_student_name_its_teacher_only_where_it_is_another_than_the_rest_gives():
    assert 'teacher_run' not in parameters(student()) and 'teacher_run' not in parameters(student(width=4))
    other = student(teacher_run='demo/of/mine')
    assert parameters(other) == {**parameters(student()), 'teacher_run': 'demo/of/mine'}


def test_a_file_of_weights_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match='weights .*w.pt cannot be read: No such file or directory'): student(teacher_weights=str(tmp_path/'w.pt'))
    (tmp_path/'w.pt').write_bytes(b'abc')
    spec = student(teacher_weights=str(tmp_path/'w.pt'))
    assert spec.teacher_sha256 == hashlib.sha256(b'abc').hexdigest() and spec.teacher_run is None
    assert student(teacher_weights=str(tmp_path/'w.pt'), teacher_sha256='f'*64).teacher_sha256 == 'f'*64
