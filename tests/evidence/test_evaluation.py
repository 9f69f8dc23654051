"""Any checkpoint judged: a run or a file, on its own images or others, by hand and by papermill."""
import shutil
import subprocess

import nbformat
import numpy as np
import pytest
import torch
import torchvision

from conftest import ROOT
from kd_capacity import data, evaluation, models
from kd_capacity.basics import UserError
from kd_capacity.evaluation import checkpoint_of_file, checkpoint_of_run, judge_checkpoint
from kd_capacity.run_files import logits, read_record, run_folder
from kd_capacity.training import train


@pytest.fixture(scope='module')
def judged(trained_teacher, tmp_path_factory):
    "(results, teacher's spec, student's spec) of two small runs."
    from kd_capacity.profiles import run_spec
    results, teacher = tmp_path_factory.mktemp('judged')/'results', trained_teacher[1]
    shutil.copytree(trained_teacher[0], results)
    student = run_spec('demo', 'student', teacher='resnet34', student='resnet18', method='logit', width=4,
                       epochs=2, teacher_run=teacher.run_id)
    train(student, results)
    return results, teacher, student


def test_a_judged_run_has_the_figures_of_its_record(judged):
    results, teacher, student = judged
    record = read_record(student.run_id, results)
    e = judge_checkpoint(checkpoint_of_run(student.run_id, results),
                         teacher=checkpoint_of_run(teacher.run_id, results))
    assert e.accuracy == record['outcome']['test_best']
    stored = logits(student.run_id, results)
    assert np.allclose(e.logits, stored['best'], rtol=1e-3, atol=1e-3) and (e.labels == stored['labels']).all()
    shown = evaluation.evaluation_table(e)['']
    assert shown['agreement with it'] == f'{record["fidelity"]["agreement"]:.2%}'
    assert float(shown['KL(teacher ‖ student), T = 4']) == pytest.approx(record['fidelity']['kl_t4'], abs=1e-3)
    each = evaluation.class_table(e)['accuracy, %']
    assert each.tolist() == pytest.approx([100*a for a in record['outcome']['per_class']])


def test_confusion_and_calibration_by_counting(judged):
    results, teacher, _ = judged
    e = judge_checkpoint(checkpoint_of_run(teacher.run_id, results))
    counted = np.zeros((10, 10), int)
    for z, y in zip(e.logits, e.labels): counted[y, z.argmax()] += 1
    assert (evaluation.confusion_table(e).to_numpy() == counted).all()
    p = np.exp(e.logits - e.logits.max(1, keepdims=True))
    sure = (p/p.sum(1, keepdims=True)).max(1)
    right, bins = e.logits.argmax(1) == e.labels, np.ceil(sure*15)
    parts = [(bins == b).mean()*abs(right[bins == b].mean() - sure[bins == b].mean()) for b in np.unique(bins)]
    assert e.calibration == pytest.approx(sum(parts), abs=1e-6)
    assert evaluation.confidence_table(e).images.sum() == len(e.labels)


def test_torchvisions_network_gives_torchvisions_answers(tmp_path, monkeypatch):
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(6) % 10
    colour = data.make_dataset('cifar10', (images, labels), (images, labels), [str(i) for i in range(10)])
    monkeypatch.setattr(evaluation.data, 'load', lambda name, root=None: colour)
    theirs = torchvision.models.resnet18(num_classes=10).eval()
    torch.save(theirs.state_dict(), tmp_path/'r18.pth')
    given = checkpoint_of_file(tmp_path/'r18.pth', 'resnet18', 'cifar10', normalization='cifar10')
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in data.NORMALIZATIONS['cifar10'])
    with torch.no_grad(): expected = theirs((images/255 - mean)/std)
    assert np.allclose(judge_checkpoint(given).logits, expected, atol=1e-4)


def test_what_cannot_be_judged_is_said(judged, tmp_path):
    results, teacher, student = judged
    with pytest.raises(UserError, match='no complete record'): checkpoint_of_run('demo/none', results)
    colour = tmp_path/'r18.pth'
    torch.save(models.build_network('resnet18', 10, 'cifar', 4, 3).state_dict(), colour)
    with pytest.raises(UserError, match='channels'): checkpoint_of_file(colour, 'resnet18', 'digits', 4)
    other = run_folder(student.run_id, results)/'weights.pt'
    kept = other.read_bytes()
    torch.save(models.build_network('resnet18', 10, 'cifar', 4, 1).state_dict(), other)
    try:
        with pytest.raises(UserError, match='not hold the weights of its record'):
            checkpoint_of_run(student.run_id, results)
    finally: other.write_bytes(kept)


def test_the_template_by_papermill(judged, tmp_path, warm):
    results, teacher, student = judged
    before = sorted(p.stat().st_mtime_ns for p in results.rglob('record.json'))
    given = dict(run=student.run_id, teacher=teacher.run_id, results=results)
    options = [x for k, v in given.items() for x in ('-p', k, str(v))]
    template = ROOT/'nbs'/'experiments'/'evaluate.ipynb'
    done = subprocess.run(['papermill', template, 'out.ipynb', *options, '--no-progress-bar'],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cells = [c for c in nbformat.read(tmp_path/'out.ipynb', 4).cells if c.cell_type == 'code' and c.outputs]
    text = cells[0].outputs[0].data['text/plain']
    record = read_record(student.run_id, results)
    for figure in (record['outcome']['test_best'], record['fidelity']['agreement']): assert f'{figure:.2%}' in text
    assert len(cells) == 4 and before == sorted(p.stat().st_mtime_ns for p in results.rglob('record.json'))
