"""Made-up runs for the tests of tables, figures and report: a frame of rows, or records in a folder."""
from dataclasses import asdict, replace

import numpy as np
import pandas as pd

from kd_capacity import config, fidelity, records

PARAMETERS = {'resnet18': 11_173_962, 'resnet34': 21_282_122, 'resnet50': 23_520_842, 'resnet101': 42_512_970}


def row(spec, **more):
    "A row of `records.load_runs` for a RunSpec; accuracies and the rest by keyword."
    known = {k: getattr(spec, k) for k in records.COLUMNS if hasattr(spec, k)}
    return {**known, 'status': 'complete', 'data_sha256': 'ab', 'parameters': PARAMETERS[spec.arch], **more}


def frame(rows):
    "Rows as `records.load_runs` returns them."
    numbers = {c: float for c in records._numbers}
    return pd.DataFrame(rows, columns=records.COLUMNS).astype(numbers).astype({'seed': 'Int64', 'epochs': 'Int64', 'width': 'Int64'})


def student(teacher='resnet50', student='resnet18', method='logit', profile='demo', **more):
    return config.run_spec(profile, 'student', teacher=teacher, student=student, method=method, **more)


def baseline(student='resnet18', profile='demo', **more):
    return config.run_spec(profile, 'baseline', student=student, **more)


def cell(spec, accuracies, **more):
    "Rows of one cell: seeds 0, 1, … with these test accuracies."
    return [row(replace(spec, seed=i), test_best=a, test_final=a, **more) for i, a in enumerate(accuracies)]


def write(specs, root, failure=None):
    """Records of `specs` below `root`, plausible enough to be drawn; `failure` maps a run_id to why it failed."""
    rng, labels = np.random.default_rng(0), np.arange(60) % 10
    logits = {}
    for spec in specs:
        accuracy = 0.95 + 0.003*rng.normal() - 0.06*(spec.stem == 'imagenet') + 0.004*(spec.method == 'feature')
        logits[spec.run_id] = z = 3*np.eye(10)[labels] + rng.normal(size=(60, 10))
        epochs = np.arange(1, spec.epochs + 1)
        curve = accuracy - 0.5*np.exp(-epochs/3)
        judged = 'validation_accuracy' if spec.protocol == 'v2' else 'test_accuracy'
        feature = float(spec.method == 'feature')
        records.write_logits(spec.run_id, z, z, labels, root)
        records.write_history(spec.run_id, [
            {'epoch': int(e), 'lr': 0.1/e, 'loss_total': 2/e, 'loss_ce': 1/e, 'train_accuracy': a + 0.02, judged: a, 'norm_student_max': 2/e + 1,
             'norm_projections_max': feature*0.2/e, 'norm_total_max': 2/e + 1.1} for e, a in zip(epochs, curve)], root)
        why = (failure or {}).get(spec.run_id)
        teacher = logits.get(spec.teacher_run)
        records.write_record({
            'run_id': spec.run_id, 'status': 'failed' if why else 'complete', 'failure': why, 'spec': asdict(spec),
            'outcome': None if why else {'test_best': accuracy, 'test_final': accuracy - 0.001, 'validation_best': accuracy, 'validation_best_epoch': 9},
            'norms': {'student_max': 3.0, 'projections_max': 0.2*feature, 'total_max': 3.1}, 'data': {'sha256': 'ab'},
            'fidelity': None if teacher is None or why else {'agreement': fidelity.agreement(teacher, z), **{f'kl_t{t}': fidelity.kl(teacher, z, t) for t in (1, 4)}},
            'parameters': PARAMETERS[spec.arch], 'seconds': 9.0, 'images_per_second': 1000.0, 'environment': {'device': 'cpu', 'deterministic': True}}, root)
