"""One run, from spec to record: the decisions that a comparison of tenths of a percent rests on."""
import math
import os
import re
import shlex
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from conftest import SHARED, SMALL
from kd_capacity import checkpoint, clipping, data, fidelity, models, run_files, training
from kd_capacity.basics import UserError
from kd_capacity.calls import notebook_spec
from kd_capacity.engine import torch_switches
from kd_capacity.profiles import run_spec
from kd_capacity.records import load_runs
from kd_capacity.training import RunFailed, train

JPEGS = SHARED/'data'/'cifar10-jpeg.tar.xz'


def baseline(**more): return run_spec('demo', 'baseline', student='resnet18').replace(**{**SMALL, **more})


@pytest.fixture
def spy(monkeypatch):
    "Records what train_step is given and leaves behind: (arguments, student's weights before and after, result) for each step."
    seen, real = [], training.train_step
    def step(model, teacher, method, optimizer, spec, lr, x, y, *more):
        before = {k: v.detach().clone() for k, v in model.named_parameters()}
        out = real(model, teacher, method, optimizer, spec, lr, x, y, *more)
        seen.append(dict(model=model, teacher=teacher, method=method, optimizer=optimizer, x=x, y=y, before=before, out=out,
                         gradients={k: v.grad.clone() for k, v in model.named_parameters()},
                         teacher_mode=teacher and any(m.training for m in teacher.modules()), mode=model.training))
        return out
    monkeypatch.setattr(training, 'train_step', step)
    return seen


def test_projections_are_in_the_optimizer_and_learn(teacher, student_spec, spy):
    train(student_spec('feature', epochs=1), teacher[0])
    ours = {id(p) for p in spy[0]['optimizer'].parameters}
    projections = list(spy[0]['method'].projections.parameters())
    assert len(projections) == 4 and all(id(p) in ours for p in projections)
    assert all(id(p) in ours for p in spy[0]['model'].parameters())


def test_the_clip_comes_between_backward_and_step(teacher, student_spec, spy):
    "At a tiny norm the first step (no momentum yet) is bounded by lr·max_norm·(1 + momentum); clipped after the step it would not be."
    spec = student_spec('feature', epochs=1, max_norm=1e-3, weight_decay=0.)
    train(spec, teacher[0])
    first = spy[0]
    moved = math.sqrt(sum((p.detach() - first['before'][k]).square().sum().item() for k, p in _after_first(spy)))
    assert first['out']['norm_total'] > 0.1
    assert moved <= spec.lr*spec.max_norm*(1 + spec.momentum)*1.001


def _after_first(spy):
    "The student's parameters as the second step found them."
    return [(k, v) for k, v in spy[1]['before'].items()]


def test_union_clips_student_and_projections_together(teacher, student_spec, spy):
    train(student_spec('feature', epochs=1, max_norm=1e-2), teacher[0])
    s = spy[-1]
    grads = [*s['gradients'].values(), *(p.grad for p in s['method'].projections.parameters())]
    assert math.isclose(torch.cat([g.flatten() for g in grads]).norm().item(), 1e-2, rel_tol=1e-3)


def test_student_only_leaves_the_projections_out(teacher, student_spec, spy):
    train(student_spec('feature', stage='clipping', clipping='student_only', epochs=1, max_norm=1e-2), teacher[0])
    s = spy[-1]
    norm = lambda gs: torch.cat([g.flatten() for g in gs]).norm().item()
    assert math.isclose(norm(s['gradients'].values()), 1e-2, rel_tol=1e-3)
    assert math.isclose(norm(p.grad for p in s['method'].projections.parameters()), s['out']['norm_projections'].item(), rel_tol=1e-4)


def test_the_teacher_stays_in_eval_and_unchanged(teacher, student_spec, spy):
    results, t = teacher
    train(student_spec('logit', epochs=1), results)
    assert not any(s['teacher_mode'] for s in spy) and all(s['mode'] for s in spy)
    want = run_files.read_record(t.run_id, results)['weights']['best_sha256']
    path = checkpoint.load(run_files.run_folder(t.run_id, results)/'weights.pt')
    assert checkpoint.weights_sha256(path) == want
    live = spy[-1]['teacher'].state_dict()
    assert {k.split('.', 1)[-1] if k not in path else k for k in live} and all(
        torch.equal(v, next(w for k2, w in live.items() if k2.endswith(k))) for k, v in path.items() if 'running' in k)
    assert all(p.grad is None for p in spy[-1]['teacher'].parameters())


@pytest.mark.parametrize('epochs', [2, 5])
def test_the_cosine_steps_once_an_epoch(tmp_path, epochs):
    spec = baseline(epochs=epochs)
    train(spec, tmp_path)
    want = [spec.lr_min + (spec.lr - spec.lr_min)/2*(1 + math.cos(math.pi*e/epochs)) for e in range(epochs)]
    assert np.allclose(run_files.history(spec.run_id, tmp_path).lr, want, rtol=1e-9)


def test_validation_images_never_enter_training(tmp_path, spy):
    spec = baseline(epochs=2, padding=0)  # without shifts, images can be told apart
    train(spec, tmp_path)
    digits = data.load('digits')
    _, held_out = data.split(1000, spec.split_seed, spec.validation_size)
    train_part = torch.tensor(sorted(set(range(1000)) - set(held_out.tolist())))
    mean, std = digits.channel_stats(train_part)
    key = lambda images: {i.tobytes() for i in np.round((images*std.view(1, -1, 1, 1) + mean.view(1, -1, 1, 1)).mul(255).numpy()).astype(np.uint8)}
    seen = set().union(*(key(s['x']) for s in spy))
    pixels = lambda index: {i.tobytes() for i in digits.train_images[index].numpy()}
    assert len(held_out) == 150 and seen == pixels(train_part) and not seen & (pixels(held_out) - pixels(train_part))


def test_evaluation_sees_images_unaugmented_and_in_order(tmp_path):
    digits = data.load('digits')
    stats = digits.channel_stats()
    seen = []
    class Looks(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(len(x), 10)
    training.evaluate(Looks(), digits.test_images, digits.test_labels, stats, batch=300)
    assert torch.equal(torch.cat(seen), data.normalize(digits.test_images, *stats))


def test_v2_reports_the_best_validation_epoch_and_never_asks_the_test_set(tmp_path, monkeypatch):
    asked, real = [], training.evaluate
    monkeypatch.setattr(training, 'evaluate', lambda model, images, *a, **k: asked.append(len(images)) or real(model, images, *a, **k))
    r = train(baseline(epochs=4), tmp_path)
    h = run_files.history(r['run_id'], tmp_path)
    assert asked == [150]*4 + [797]*2  # validation each epoch, test twice at the end
    assert r['outcome']['best_epoch'] == h.validation_accuracy.idxmax() + 1


def test_of_equally_good_epochs_the_first_is_the_best(tmp_path, monkeypatch):
    same = lambda run, images, labels: np.eye(10, dtype=np.float32)[np.zeros(len(labels), int)]
    monkeypatch.setattr(training._Run, 'evaluate', same)
    r = train(baseline(epochs=3), tmp_path)
    assert r['outcome']['best_epoch'] == 1 and r['weights']['best_sha256'] != r['weights']['last_sha256']


def test_v1_reports_the_best_test_epoch(tmp_path):
    r = train(baseline(epochs=4, protocol='v1', validation_size=0), tmp_path)
    h = run_files.history(r['run_id'], tmp_path)
    assert r['outcome']['test_best'] == h.test_accuracy.max() and r['outcome']['best_epoch'] == h.test_accuracy.idxmax() + 1
    assert h.validation_accuracy.isna().all() and r['outcome']['validation_best'] is None and r['data']['train'] == 1000


def test_the_recorded_loss_is_the_methods(teacher, student_spec):
    h = run_files.history(train(student_spec('logit', alpha=0.3), teacher[0])['run_id'], teacher[0])
    assert np.allclose(h.loss_total, 0.3*h.loss_kd + 0.7*h.loss_ce, rtol=1e-5) and h.loss_mse.isna().all()
    h = run_files.history(train(student_spec('feature', alpha=0.3), teacher[0])['run_id'], teacher[0])
    assert np.allclose(h.loss_kd, h.loss_mse + 0.5*h.loss_cosine, rtol=1e-5) and (h.loss_mse > 0).all()


def test_baseline_and_student_of_one_seed_start_from_the_same_weights(teacher, student_spec, spy):
    for spec in baseline(epochs=1), student_spec('feature', epochs=1), student_spec('logit', epochs=1): train(spec, teacher[0])
    starts = {checkpoint.weights_sha256(s['before']) for s in spy[::len(spy)//3]}
    assert len(starts) == 1


def test_the_same_spec_twice_gives_the_same_bits(teacher, student_spec, tmp_path):
    spec = student_spec('feature')
    again = tmp_path/'again'
    shutil.copytree(teacher[0], again)
    torch.manual_seed(99)
    a = train(spec, teacher[0])
    torch.manual_seed(7)
    b = train(spec, again)
    assert a['weights'] == b['weights'] and a['outcome'] == b['outcome'] and a['fidelity'] == b['fidelity']
    assert train(spec.replace(seed=1), again)['weights'] != a['weights']


def test_train_leaves_torch_as_it_found_it(tmp_path):
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    train(baseline(epochs=1), tmp_path)
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32) == before


def test_what_torch_cannot_do_deterministically_is_collected():
    with torch_switches(deterministic=True) as caught:
        import warnings
        warnings.warn('x does not have a deterministic implementation, but you set it. More')
    assert len(caught) == 1


# --- teachers

def test_no_teacher_no_run_and_the_command_that_trains_it(tmp_path):
    spec = run_spec('demo', 'student', teacher='resnet50', student='resnet18', method='logit')
    with pytest.raises(UserError) as e: train(spec, tmp_path)
    assert 'never learns from a random network. Train it with: papermill nbs/experiments/teacher.ipynb teacher.ipynb -p profile demo -p arch resnet50' in str(e.value)
    assert not list(tmp_path.glob('**/record.json')) and not list(tmp_path.glob('**/*.pt'))


@pytest.mark.parametrize('damage, says', [
    (lambda f: (f/'weights.pt').unlink(), 'does not exist'),
    (lambda f: (f/'weights.pt').write_bytes((f/'weights.pt').read_bytes()[:5000]), 'cannot be read as a checkpoint'),
    (lambda f: checkpoint.save(f/'weights.pt', models.resnet('resnet34', width=4, in_channels=1).state_dict()), 'are not those of its record')])
def test_a_damaged_or_foreign_teacher_is_refused(teacher, student_spec, damage, says):
    results, t = teacher
    damage(run_files.run_folder(t.run_id, results))
    with pytest.raises(UserError) as e: train(student_spec(), results)
    assert says in str(e.value) and t.run_id in str(e.value)


def test_a_teacher_of_other_images_or_another_network_is_refused(teacher, student_spec, monkeypatch):
    results, t = teacher
    other = replace(data.load('digits'), sha256='0'*64)
    with monkeypatch.context() as m:
        m.setattr(data, 'load', lambda *a: other)
        with pytest.raises(UserError, match='was trained on other images'): train(student_spec(), results)
    with pytest.raises(UserError, match="is a resnet34 of width 4, the student asks for teacher = 'resnet50' of width 4"): train(student_spec(teacher='resnet50'), results)


# --- failures

def test_a_loss_that_is_not_finite_ends_in_a_failed_record(tmp_path):
    spec = baseline(lr=1e30, clipping='none')
    with pytest.raises(RunFailed, match=r'not finite at step (\d+) \(epoch 1\)'): train(spec, tmp_path)
    r = run_files.read_record(spec.run_id, tmp_path)
    assert r['status'] == 'failed' and 1 < int(r['failure'].split('step ')[1].split()[0]) <= 14
    row = load_runs(tmp_path).iloc[0]
    assert row.status == 'failed' and np.isnan(row.test_best)
    with pytest.raises(RunFailed, match='force True'): train(spec, tmp_path)


def test_the_step_that_failed_is_counted_from_the_start_of_the_run(tmp_path, monkeypatch):
    real, epochs = training.train_epoch, []
    def second_fails(*given):
        epochs.append(real(*given)[0])
        return epochs[-1], 3 if len(epochs) == 2 else None
    monkeypatch.setattr(training, 'train_epoch', second_fails)
    with pytest.raises(RunFailed, match=r'not finite at step 11 \(epoch 2\)'): train(baseline(), tmp_path)  # 7 steps an epoch


def test_a_students_record_tells_of_its_teacher(teacher, student_spec):
    results, t = teacher
    r = train(student_spec('logit', epochs=1), results)
    best = run_files.read_record(t.run_id, results)['weights']['best_sha256']
    assert r['teacher'] == {'run_id': t.run_id, 'weights_sha256': best}
    theirs, ours = (run_files.logits(run_id, results)['best'] for run_id in (t.run_id, r['run_id']))
    assert r['fidelity'] == {'agreement': fidelity.agreement(theirs, ours),
                             'kl_t1': pytest.approx(fidelity.kl(theirs, ours, 1.), rel=1e-2), 'kl_t4': pytest.approx(fidelity.kl(theirs, ours, 4.), rel=1e-2)}


def test_a_full_disk_is_said_and_the_run_goes_on_later(tmp_path):
    spec, whole = baseline(epochs=3), tmp_path/'whole'
    want = train(spec, whole)
    folder = run_files.run_folder(spec.run_id, tmp_path)
    def full(spec, history):
        if len(history) == 1: (folder/f'.checkpoint.pt.{os.getpid()}.tmp').symlink_to('/dev/full')
    with pytest.raises(UserError, match='checkpoint.pt: No space left on device. Free space'): train(spec, tmp_path, progress=full)
    assert not (folder/'record.json').exists()
    assert train(spec, tmp_path)['weights'] == want['weights']


def test_a_results_folder_that_cannot_be_written():
    with pytest.raises(UserError, match='Cannot write to the results folder /sys/kd_capacity'): train(baseline(), '/sys/kd_capacity')


def test_force_trains_again(tmp_path):
    spec = baseline(epochs=1)
    first = train(spec, tmp_path)
    seen = []
    assert train(spec, tmp_path, progress=lambda *a: seen.append(1)) == first and not seen
    assert train(spec, tmp_path, force=True, progress=lambda *a: seen.append(1))['weights'] == first['weights'] and seen == [1]


def test_too_large_a_validation_split(tmp_path):
    with pytest.raises(UserError, match='validation_size = 1000, but digits has 1000'): train(baseline(validation_size=1000), tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU on this machine')
def test_on_a_gpu_the_record_says_whether_it_was_deterministic(tmp_path):
    r = train(baseline(), tmp_path, device='cuda')
    assert r['environment']['device'] == 'cuda' and isinstance(r['environment']['deterministic'], bool) and r['outcome']['test_best'] > 0.1


def test_a_last_batch_of_one_image_is_refused_in_words(tmp_path):
    "850 digits by 283 leave one; its map at layer4 is one pixel."
    with pytest.raises(UserError, match='batch_size = 283 leaves one of the 850 training images .* -p batch_size 284'):
        train(baseline(batch_size=283), tmp_path)
    assert not list(tmp_path.rglob('record.json')) and not list(tmp_path.rglob('checkpoint.pt'))


@pytest.mark.skipif(not JPEGS.exists(), reason='../shared/data/cifar10-jpeg.tar.xz is not beside this checkout: training on real images cannot be tried')
def test_a_subset_of_the_real_images_trains_and_beats_chance(tmp_path):
    "60 training and 30 test images a class, a thin ResNet-18: 10 % would be chance, 15.4 % is three standard errors above it."
    with tarfile.open(JPEGS, 'r|xz') as tar:
        for member in tar:
            if member.isfile() and int(Path(member.name).stem) < (60 if member.name.startswith('train') else 30): data.write_files(tar, tmp_path/'images', [member])
    spec = baseline(data='image_folder', width=8, epochs=6, batch_size=32, lr=.1, padding=4, flip=True, validation_size=60)
    record = train(spec, tmp_path/'results', data_root=tmp_path/'images')
    assert record['data']['name'] == 'image_folder' and record['data']['test'] == 300
    assert record['outcome']['test_final'] > .154, record['outcome']


def test_logits_that_overflow_end_the_run_with_a_record(tmp_path, monkeypatch):
    "The losses of an epoch may all be finite and the network beyond float16 all the same."
    real = training.evaluate
    def evaluate(*a, **k): return real(*a, **k)*np.float32('inf')
    monkeypatch.setattr(training, 'evaluate', evaluate)
    with pytest.raises(RunFailed, match=r'the logits were not finite after step \d+ \(epoch 1\)'): train(baseline(), tmp_path)
    assert run_files.read_record(baseline().run_id, tmp_path)['status'] == 'failed'


def test_a_refused_force_keeps_the_record(teacher, student_spec):
    results, spec = teacher
    student = student_spec('logit')
    path = run_files.run_folder(student.run_id, results)/'record.json'
    train(student, results)
    before = path.read_bytes()
    with pytest.raises(UserError, match='cdua'): train(student, results, device='cdua', force=True)
    (run_files.run_folder(spec.run_id, results)/'weights.pt').unlink()
    with pytest.raises(UserError, match='Train it with|-p force True'): train(student, results, force=True)
    assert path.read_bytes() == before


def test_a_student_of_a_teacher_that_was_trained_again_is_no_longer_complete(teacher, student_spec):
    results, spec = teacher
    student = student_spec('logit')
    train(student, results)
    record = run_files.read_record(spec.run_id, results)
    run_files.write_record({**record, 'weights': {**record['weights'], 'best_sha256': 'other'}}, results)
    with pytest.raises(UserError, match='learned from other weights'): train(student, results)


# --- what is judged, and what is stored of it

def test_accuracies_are_those_of_float32_logits_and_the_stored_logits_keep_every_prediction(tmp_path, monkeypatch):
    "Logits so close that float16 alone would make winners of others."
    real, exact = training.evaluate, []
    def close(*a, **k):
        exact.append((real(*a, **k)/1000 + 100).astype(np.float32))
        return exact[-1]
    monkeypatch.setattr(training, 'evaluate', close)
    record = train(baseline(), tmp_path)
    last, best = exact[-2:]
    stored = run_files.logits(record['run_id'], tmp_path)
    assert (best.astype(np.float16).argmax(1) != best.argmax(1)).any()
    assert (stored['best'].argmax(1) == best.argmax(1)).all() and (stored['last'].argmax(1) == last.argmax(1)).all()
    assert record['outcome']['test_best'] == fidelity.accuracy(best, stored['labels']) == fidelity.accuracy(stored['best'], stored['labels'])


def test_evaluation_gives_float32_logits(tmp_path):
    digits = data.load('digits')
    model = models.build_network('resnet18', width=4, in_channels=1)
    answers = training.evaluate(model, digits.test_images[:50], digits.test_labels[:50], digits.channel_stats())
    assert answers.dtype == np.float32 and answers.shape == (50, 10)


def test_evaluation_is_in_evaluation_mode_whichever_mode_the_network_was_in():
    "Batch norm answers by what it learned in training, and learns nothing from what it is judged by."
    digits = data.load('digits')
    model = models.build_network('resnet18', width=4, in_channels=1)
    judged = digits.test_images[:50], digits.test_labels[:50], digits.channel_stats()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    want = training.evaluate(model.eval(), *judged)
    assert np.array_equal(training.evaluate(model.train(), *judged), want)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


# --- which teacher a student is told of

def student_of(**given): return run_spec('demo', 'student', teacher='resnet34', student='resnet18', method='logit', **given)


def advised(command):
    "The spec that a papermill command asks its template for."
    words = shlex.split(command)
    given = {name: yaml.safe_load(value) for flag, name, value in zip(words, words[1:], words[2:]) if flag == '-p'}
    return notebook_spec(given, 'teacher')


@pytest.mark.parametrize('given', [{}, dict(validation_size=20), dict(padding=2, flip=True), dict(width=4), dict(normalization='measured', split_seed=7)])
def test_what_student_and_teacher_share_reaches_both(given):
    assert student_of(**given).teacher_run == run_spec('demo', 'teacher', teacher='resnet34', **given).run_id


def test_the_advice_trains_the_very_teacher_that_is_missing(tmp_path):
    spec = student_of(width=4, validation_size=20)
    with pytest.raises(UserError) as e: train(spec, tmp_path)
    command = re.search('Train it with: (papermill .*)', str(e.value))[1]
    assert advised(command).run_id == spec.teacher_run and '-p validation_size 20' in command


def test_the_advice_names_a_teacher_that_is_there_and_fits(tmp_path):
    "A teacher trained with fewer epochs is none that a student asks for by itself."
    shared = dict(width=4, validation_size=20)
    other = run_spec('demo', 'teacher', teacher='resnet34', epochs=1, **shared)
    unfit = run_spec('demo', 'teacher', teacher='resnet18', epochs=1, **shared)
    for t in other, unfit: train(t, tmp_path)
    with pytest.raises(UserError) as e: train(student_of(epochs=1, **shared), tmp_path)
    assert str(e.value).endswith(f'Or learn from one that is there: -p teacher_run {other.run_id}') and unfit.run_id not in str(e.value)
    record = train(student_of(epochs=1, teacher_run=other.run_id, **shared), tmp_path)
    assert record['teacher']['run_id'] == other.run_id


def test_a_teacher_of_other_images_is_not_advised(teacher, monkeypatch):
    results, t = teacher
    other = replace(data.load('digits'), sha256='0'*64)
    monkeypatch.setattr(data, 'load', lambda *a: other)
    with pytest.raises(UserError) as e: train(student_of(width=4, epochs=1), results)
    assert 'Train it with' in str(e.value) and 'one that is there' not in str(e.value) and t.run_id not in str(e.value)


# --- in a notebook

@pytest.fixture
def shown(monkeypatch):
    "The texts that a notebook shows at the place of its one line."
    from IPython.core.formatters import DisplayFormatter
    texts = []
    class Handle:
        def update(self, x): texts.append(DisplayFormatter().format(x)[0]['text/plain'])
    def display(x, display_id):
        Handle().update(x)
        return Handle()
    monkeypatch.setattr('IPython.display.display', display)
    return texts


def test_a_notebook_shows_one_line_without_quotes(tmp_path, shown):
    training.train_in_notebook(baseline(), tmp_path)
    assert shown[0] == 'starting' and len(shown) == 3
    assert re.fullmatch(r'█{10}░{10} epoch 1/2  loss \d+\.\d{3}  validation \d+\.\d\d%  \d+ s left', shown[1])
    assert shown[2].startswith('█'*20 + ' epoch 2/2') and shown[2].endswith('0 s left')


def test_a_notebook_says_that_a_run_was_read_and_not_trained(tmp_path, shown):
    record = train(baseline(epochs=1), tmp_path)
    assert training.train_in_notebook(baseline(epochs=1), tmp_path) == record
    assert re.fullmatch(r'read from its record of \d{4}-\d\d-\d\d \d\d:\d\d UTC; nothing was trained', shown[-1])
    assert record['finished'].startswith(shown[-1].split(' of ')[1].split(' UTC')[0].replace(' ', 'T'))


@pytest.mark.parametrize('factors', [(1e6, 1.), (1., 1e6), (float('nan'), 1.), (1., float('nan'))])
def test_logits_that_cannot_be_stored_end_in_a_failed_record(factors, tmp_path, monkeypatch):
    "Those of the last weights, and of the best, on the test images."
    spec, left = baseline(protocol='v2', validation_size=150, epochs=1), list(factors)
    def evaluate(run, images, labels):
        factor = left.pop(0) if images is run.data.test_images else 1.
        return np.full((len(labels), 10), factor, np.float32)
    monkeypatch.setattr(training._Run, 'evaluate', evaluate)
    with pytest.raises(RunFailed, match='a logit of a test image is not finite, or above 65504'): train(spec, tmp_path)
    record = run_files.read_record(spec.run_id, tmp_path)
    assert record['status'] == 'failed' and len(run_files.history(spec.run_id, tmp_path)) == 1
    assert not (run_files.run_folder(spec.run_id, tmp_path)/'logits.npz').exists()


def test_a_gradient_that_overflows_ends_in_a_failed_record(tmp_path, monkeypatch):
    spec = baseline(epochs=1)
    infinite = lambda *_: clipping.Norms(*torch.full((3,), float('inf')))
    monkeypatch.setattr(training, 'clip_gradients', infinite)
    monkeypatch.setattr(training._Run, 'evaluate', lambda run, images, labels: np.full((len(labels), 10), np.nan, np.float32))
    with pytest.raises(RunFailed, match='not finite'): train(spec, tmp_path)
    assert run_files.read_record(spec.run_id, tmp_path)['norms']['student_max'] is None
