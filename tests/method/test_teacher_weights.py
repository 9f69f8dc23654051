"""A teacher from elsewhere: a file of weights instead of a run of ours."""
import hashlib
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
import torchvision

from kd_capacity import models, study
from kd_capacity.basics import UserError
from kd_capacity.calls import notebook_spec, parameters
from kd_capacity.config import RunSpec
from kd_capacity.profiles import run_spec, study_runs
from kd_capacity.run_files import read_record, run_folder
from kd_capacity.training import train, weights_of_file

PAIR = dict(teacher='resnet34', student='resnet18', method='logit')
COLOUR = SimpleNamespace(num_classes=10, shape=(3, 32, 32))  # of images


@pytest.fixture(scope='module')
def taught(tmp_path_factory):
    "(results folder, spec) of a thin teacher that does better than guessing."
    results = tmp_path_factory.mktemp('taught')
    spec = run_spec('demo', 'teacher', teacher='resnet34', width=4, epochs=5)
    train(spec, results)
    return results, spec


@pytest.fixture
def file(taught, tmp_path):
    "Its weights as a file that came from elsewhere."
    results, spec = taught
    shutil.copy(run_folder(spec.run_id, results)/'weights.pt', tmp_path/'r34.pth')
    return tmp_path/'r34.pth'


def asked(file, **more):
    given = {**PAIR, 'width': 4, 'epochs': 2, 'teacher_weights': file and str(file), **more}
    return run_spec('demo', 'student', **given)


def test_a_student_of_a_file_is_that_of_the_run_whose_weights_they_are(taught, file):
    results, spec = taught
    ours = train(asked(None, teacher_run=spec.run_id), results)
    theirs = train(asked(file), results)
    assert theirs['weights'] == ours['weights'] and theirs['fidelity'] == ours['fidelity']
    assert theirs['run_id'] != ours['run_id'] and theirs['spec']['teacher_run'] is None
    told = theirs['teacher']
    assert told['file'] == 'r34.pth' and told['weights_sha256'] == ours['teacher']['weights_sha256']
    assert told['file_sha256'] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert told['test_accuracy'] == read_record(spec.run_id, results)['outcome']['test_best']
    file.unlink()
    assert train(RunSpec(**theirs['spec']), results) == theirs # read; nothing asks for the file


def test_torchvisions_weights_give_torchvisions_answers(tmp_path):
    theirs = torchvision.models.resnet18(num_classes=10).eval()
    torch.save(theirs.state_dict(), tmp_path/'r18.pth')
    ours, stem = weights_of_file(tmp_path/'r18.pth', 'resnet18', COLOUR, 64)
    x = torch.rand(2, 3, 64, 64)
    assert stem == 'imagenet' and torch.allclose(ours.eval()(x), theirs(x), atol=1e-5)
    of_imagenet = SimpleNamespace(num_classes=1000, shape=(3, 32, 32))
    with pytest.raises(UserError, match=r'fc.weight has shape \(10, 512\), not \(1000, 512\)'):
        weights_of_file(tmp_path/'r18.pth', 'resnet18', of_imagenet, 64)


def test_the_place_of_a_file_is_no_part_of_the_name_and_its_content_is(file, tmp_path):
    elsewhere = shutil.copy(file, tmp_path/'same.pth')
    assert asked(file).run_id == asked(elsewhere).run_id
    torch.save(models.build_network('resnet34', 10, 'cifar', 4, 1).state_dict(), file)
    assert asked(file).run_id != asked(elsewhere).run_id


def test_weights_that_only_guess_are_refused_and_leave_nothing(file, tmp_path):
    torch.manual_seed(0)
    torch.save(models.build_network('resnet34', 10, 'cifar', 4, 1).state_dict(), file)
    with pytest.raises(UserError, match='no better than guessing'): train(asked(file), tmp_path/'new')
    assert not list((tmp_path/'new').rglob('*.json'))


@pytest.mark.parametrize('damage, says', [
    (lambda f: f.write_bytes(b'no weights'), 'holds no state dict'),
    (lambda f: torch.save({'epoch': 3}, f), 'holds no state dict'),
    (lambda f: torch.save(models.build_network('resnet34', 10, 'cifar', 8, 1).state_dict(), f), 'has shape'),
    (lambda f: torch.save(models.build_network('resnet18', 10, 'cifar', 4, 1).state_dict(), f), 'is missing'),
    (os.remove, 'cannot be read: No such file')])
def test_a_file_that_does_not_fit_is_refused_in_one_sentence(damage, says, file, tmp_path):
    damage(file)
    with pytest.raises(UserError, match=says) as refused: train(asked(file), tmp_path/'new')
    assert str(file) in str(refused.value) and '\n' not in str(refused.value)


def test_papermills_parameters_give_the_spec_and_the_spec_gives_them(file):
    spec = asked(file)
    assert notebook_spec({**PAIR, 'profile': 'demo', 'width': 4, 'epochs': 2, 'teacher_weights': str(file)},
                         'student') == spec
    assert notebook_spec(parameters(spec), 'student') == spec
    both = dict(teacher_weights=str(file), teacher_run='demo/teacher/x')
    with pytest.raises(UserError, match='teacher_run or teacher_weights'): asked(file, **both)


@pytest.fixture
def mine(file, tmp_path, monkeypatch):
    "A profile whose teacher comes from elsewhere."
    (tmp_path/'profiles').mkdir()
    (tmp_path/'profiles'/'mine.toml').write_text(f'''description = "mine"
pairs = [["resnet34", "resnet18"]]
seeds = [0]
[teacher_weights]
resnet34 = "{file}"
[run]
data = "digits"
width = 4
protocol = "v2"
validation_size = 150
padding = 1
''')
    monkeypatch.setenv('KD_PROFILES', str(tmp_path/'profiles'))


def test_a_profiles_teacher_is_checked_before_the_first_run(mine, file, tmp_path):
    runs = study_runs('mine')
    assert [s.role for s in runs] == ['baseline', 'student', 'student']
    assert {s.teacher_weights for s in runs[1:]} == {str(file)}
    study.preflight('mine', tmp_path/'results')
    assert study.after(runs[1]) == []
    for spec in study.runs_of('mine', tmp_path/'results').values(): assert spec in runs
    file.write_bytes(b'another')
    with pytest.raises(UserError, match='it is another file'): study.preflight('mine', tmp_path/'results')
