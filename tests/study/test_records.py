"""Records: what a run leaves, and the table of all runs."""
import json
import subprocess

import numpy as np
import pytest

from kd_capacity import fidelity, records
from kd_capacity.config import UserError
from kd_capacity.training import train

FIRST = ('stage role teacher student method alpha temperature beta stem clipping seed epochs validation_best validation_best_epoch '
         'test_best test_final agreement kl_t1 kl_t4').split()


def test_one_tidy_row_per_run(teacher, student_spec):
    results, t = teacher
    s = student_spec('logit')
    record = train(s, results)
    runs = records.load_runs(results).set_index('run_id')
    assert list(records.load_runs(results))[:len(FIRST)] == FIRST and len(runs) == 2
    row, o = runs.loc[s.run_id], record['outcome']
    assert (row.stage, row.role, row.teacher, row.student, row.method, row.stem, row.clipping) == ('final', 'student', 'resnet34', 'resnet18', 'logit', 'cifar', 'union')
    assert (row.alpha, row.temperature, row.seed, row.epochs) == (0.5, 4.0, 0, 2) and np.isnan(row.beta)
    assert (row.test_best, row.test_final, row.validation_best) == (o['test_best'], o['test_final'], o['validation_best'])
    assert 0 < row.test_best <= 1
    base = runs.loc[t.run_id]
    assert base.role == 'teacher' and np.isnan([base.alpha, base.agreement, base.kl_t1]).all()


def test_every_number_of_the_record_follows_from_the_stored_files(teacher, student_spec):
    results, t = teacher
    s = student_spec('feature')
    r = train(s, results)
    mine, its = records.logits(s.run_id, results), records.logits(t.run_id, results)
    h = records.history(s.run_id, results)
    assert mine['best'].dtype == np.float16 and mine['best'].shape == (797, 10)
    assert r['outcome']['test_best'] == fidelity.accuracy(mine['best'], mine['labels']) == (mine['best'].argmax(1) == mine['labels']).mean()
    assert r['outcome']['test_final'] == fidelity.accuracy(mine['last'], mine['labels'])
    assert r['fidelity']['agreement'] == (mine['best'].argmax(1) == its['best'].argmax(1)).mean()
    assert r['outcome']['validation_best'] == h.validation_accuracy.max()
    assert r['outcome']['validation_best_epoch'] == h.epoch[h.validation_accuracy.argmax()]
    assert r['norms']['projections_max'] == h.norm_projections_max.max() > 0
    assert r['outcome']['per_class'] == fidelity.per_class_accuracy(mine['best'], mine['labels'], 10).tolist()
    assert len(h) == s.epochs and h.test_accuracy.isna().all()


def test_the_record_says_where_it_comes_from(teacher):
    results, t = teacher
    r = records.read_record(t.run_id, results)
    assert r['schema_version'] == records.SCHEMA and r['spec']['seed'] == 0 and r['run_id'] == t.run_id
    env = r['environment']
    assert {'torch', 'numpy', 'papermill'} <= set(env['packages']) and env['device'] == 'cpu' and env['threads'] == 1 and env['deterministic'] is True
    assert len(r['data']['sha256']) == 64 and r['data']['name'] == 'digits' and (r['data']['train'], r['data']['validation'], r['data']['test']) == (850, 150, 797) and r['data']['shape'] == [1, 8, 8]
    assert r['seconds'] > 0 and r['images_per_second'] > 0 and len(r['weights']['best_sha256']) == 64


def test_a_half_written_run_is_not_read(teacher):
    results, t = teacher
    folder = records.run_folder(t.run_id, results)
    (folder/'record.json').rename(folder/'.record.json.1.tmp')
    assert records.read_record(t.run_id, results) is None and len(records.load_runs(results)) == 0


def test_no_results_is_an_empty_table_with_all_columns(tmp_path):
    runs = records.load_runs(tmp_path/'nothing')
    assert len(runs) == 0 and list(runs) == records.COLUMNS


@pytest.mark.parametrize('text, says', [('{"schema_version": 7}', 'schema 7, this version reads up to 1: update kd_capacity'),
                                        ('{"schema_version": 1', 'is not a record'), ('3', 'no schema_version')])
def test_foreign_newer_and_damaged_records_are_refused_by_name(teacher, text, says):
    results, t = teacher
    path = records.run_folder(t.run_id, results)/'record.json'
    path.write_text(text)
    for read in (lambda: records.load_runs(results), lambda: train(t, results)):
        with pytest.raises(UserError) as e: read()
        assert says in str(e.value) and str(path) in str(e.value)
    assert path.read_text() == text  # and nothing was written over it


def test_a_number_that_nobody_measured_is_not_written(tmp_path):
    with pytest.raises(ValueError): records.write_record({'run_id': 'a', 'x': float('inf')}, tmp_path)
    assert list(tmp_path.glob('a/*')) == []


def test_published_figures_are_the_references():
    from conftest import SHARED
    if not (SHARED/'reference').exists(): pytest.skip(f'{SHARED.name}/reference is not beside this checkout')
    for which in 'v1', 'v2':
        assert (records.root()/'results'/'published'/f'published_{which}.csv').read_text() == (SHARED/'reference'/f'published_{which}.csv').read_text()


def test_a_study_beside_the_code_leaves_the_tree_clean(tmp_path, monkeypatch):
    git = lambda *args: subprocess.run(['git', '-C', str(tmp_path), '-c', 'user.name=x', '-c', 'user.email=x', *args], check=True, capture_output=True)
    git('init')
    (tmp_path/'results').mkdir()
    for name in 'code.py', 'results/old.json': (tmp_path/name).write_text('1')
    git('add', '.'); git('commit', '-m', 'all')
    monkeypatch.setattr(records, 'root', lambda: tmp_path)
    clean = lambda: records.environment()['git_clean']
    assert clean() is True
    for name in 'new.json', 'old.json': (tmp_path/'results'/name).write_text('2')
    assert clean() is True
    (tmp_path/'new.py').write_text('1')
    assert clean() is False
    (tmp_path/'new.py').unlink(); (tmp_path/'code.py').write_text('2')
    assert clean() is False
