"""The mistakes that a study like this has been bitten by, put in by hand: each must make a test fail.

Each mutant is a copy of the package with one place changed; the named test runs against the copy in a process of its own.
"""
import json
import os
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT

MUTANTS = {
    'ImageNet stem used for CIFAR': ('models', 'return _conv(channels, width, 3), nn.Identity()',
        'return _conv(channels, width, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1)', 'method/test_models.py::test_parameter_counts'),
    'T² left out': ('losses', 'return T**2 * F.kl_div(', 'return F.kl_div(', 'method/test_losses.py::test_temperature_softens_and_is_squared'),
    'KL arguments swapped': ('losses', 'F.kl_div(log_p_s, log_p_t,', 'F.kl_div(log_p_t, log_p_s,', 'method/test_losses.py::test_kl_is_from_student_to_teacher'),
    'gradient to the teacher': ('losses', '    t = teacher.detach()\n', '    t = teacher\n',
        'method/test_losses.py::test_no_gradient_reaches_the_teachers_features'),
    'standard deviation over n': ('losses', 't.std().clamp_min(', 't.std(correction=0).clamp_min(',
        'method/test_losses.py::test_normalising_divides_by_the_unbiased_standard_deviation_of_the_teachers_map'),
    'CIFAR stem started like the rest': ('models', "if stem == 'imagenet' or m is not self.conv1]", ']',
        'method/test_models.py::test_the_cifar_stems_convolution_starts_as_pytorch_starts_it_and_all_others_as_torchvision'),
    'float16 changes predictions': ('fidelity', 'np.nextafter(top, np.float16(np.inf))', 'top', 'method/test_fidelity.py::test_half_precision_keeps_every_prediction'),
    'threads of its own on resume': ('training', '    torch.set_num_threads(threads)\n    cores', '    cores',
        'method/test_resume.py::test_a_resumed_run_goes_on_with_the_threads_it_was_started_with'),
    'projections out of the optimizer': ('training', '[*model.parameters(), *objective.projections.parameters()]', '[*model.parameters()]',
        'method/test_training.py::test_projections_are_in_the_optimizer_and_learn'),
    'projections out of the clip': ('clipping', "'union': Mode(lambda student, projections, norms: [(student + projections, norms.total)]",
        "'union': Mode(lambda student, projections, norms: [(student, norms.student)]",
        'method/test_training.py::test_union_clips_student_and_projections_together'),
    'clip after the step': ('training',
        "    norms = clip_gradients(model.parameters(), projections, spec.max_norm, spec.clipping)\n    optimizer.step(lr)\n",
        "    optimizer.step(lr)\n    norms = clip_gradients(model.parameters(), projections, spec.max_norm, spec.clipping)\n",
        'method/test_training.py::test_the_clip_comes_between_backward_and_step'),
    'cosine schedule by step': ('training', 'cosine(run.epoch, spec.epochs,', 'cosine(run.epoch, spec.epochs*14,', 'method/test_training.py::test_the_cosine_steps_once_an_epoch'),
    'augmentation on validation': ('training', 'batches = data.plain_batches(images, labels, batch, *stats)',
        'batches = ((x, y) for x, y, _ in data.batches(images, labels, batch, 0, 1, *stats))',
        'method/test_training.py::test_evaluation_sees_images_unaugmented_and_in_order'),
    'validation images in training': ('data', 'return order[size:].sort().values, order[:size].sort().values',
        'return order.sort().values, order[:size].sort().values', 'method/test_training.py::test_validation_images_never_enter_training'),
    'selection on test under v2': ('selection', "'v2': 'validation_best'", "'v2': 'test_best'", 'study/test_selection.py::test_v2_selects_by_validation_alone'),
    'best epoch on test under v2': ('training', "if run.spec.protocol == 'v1': return 'test'", "if True: return 'test'",
        'method/test_training.py::test_v2_reports_the_best_validation_epoch_and_never_asks_the_test_set'),
    'teacher in train mode': ('models', 'def train(self, mode=True): return super().train(False)', 'def train(self, mode=True): return super().train(True)',
        'method/test_training.py::test_the_teacher_stays_in_eval_and_unchanged'),
    'crop padding by reflection': ('data', 'padded = F.pad(images, (padding,) * 4)', "padded = F.pad(images.float(), (padding,) * 4, mode='reflect').byte()",
        'method/test_data.py::test_crop_flip_is_torchvisions_random_crop_and_flip'),
    'resumed run that reshuffles': ('data', 'np.random.default_rng((seed, epoch, _ORDER)).permutation(n)', 'np.random.default_rng().permutation(n)',
        'method/test_resume.py::test_a_resumed_run_sees_the_batches_of_one_that_was_never_stopped'),
    'views numbered with the wrong base': ('teacher_cache', 'return ((2*padding + 1)*offsets[:, 0] + offsets[:, 1])*2', 'return (2*padding*offsets[:, 0] + offsets[:, 1])*2',
        'method/test_teacher_cache.py::test_every_view_of_a_filled_cache_is_the_live_teachers_answer'),
    'cache asks for a crop one pixel off': ('teacher_cache', 'torch.stack([place//(2*padding + 1), place', 'torch.stack([(place//(2*padding + 1) + 1).clamp(max=2*padding), place',
        'method/test_teacher_cache.py::test_every_view_of_a_filled_cache_is_the_live_teachers_answer'),
    'cache forgets the flip': ('teacher_cache', 'number % 2 == 1', 'number % 2 == 2',
        'method/test_teacher_cache.py::test_every_view_of_a_filled_cache_is_the_live_teachers_answer'),
    'cache of another image': ('training', 'answers = None if t_logits is None else t_logits[index]', 'answers = None if t_logits is None else t_logits[:len(index)]',
        'method/test_teacher_cache.py::test_a_step_is_given_the_teachers_answer_to_its_own_images'),
    'momentum lost on resume': ('training', "'optimizer': self.optimizer})", "})",
        'method/test_resume.py::test_a_resumed_run_sees_the_batches_of_one_that_was_never_stopped'),
}


@pytest.fixture(scope='module')
def run(trained_teacher):
    "A function from (folder, *tests) to the exit status and output of pytest in a process that has imported nothing of ours yet."
    env = {**os.environ, 'KD_TRAINED_TEACHER': str(trained_teacher[0])}
    with subprocess.Popen([sys.executable, '-B', str(ROOT/'tests'/'forked_pytest.py')], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as server:
        def ask(folder, *tests):
            log = folder/'pytest.log'
            server.stdin.write(json.dumps([str(folder), tests, str(log)]) + '\n')
            server.stdin.flush()
            return int(server.stdout.readline()), log.read_text()
        yield ask
        server.stdin.close()


@pytest.fixture
def copy(tmp_path):
    for folder in 'kd_capacity', 'tests', 'workflow': shutil.copytree(ROOT/folder, tmp_path/folder)  # with what is compiled of them
    for name in 'settings.ini', 'pyproject.toml': shutil.copy(ROOT/name, tmp_path)
    return tmp_path


def test_without_a_mistake_they_pass(run, copy):
    status, said = run(copy, *sorted({test for *_, test in MUTANTS.values()}))
    assert status == 0, said


@pytest.mark.parametrize('mistake', MUTANTS)
def test_a_mistake_put_in_by_hand_is_caught(mistake, run, copy):
    module, right, wrong, test = MUTANTS[mistake]
    path = copy/'kd_capacity'/f'{module}.py'
    source = path.read_text()
    assert source.count(right) == 1, f'{module}.py has changed: bring this mutant up to date'
    path.write_text(source.replace(right, wrong))
    status, said = run(copy, test)
    assert status == 1, said  # 1: tests ran and failed; 2 would be a mutant that does not import
