"""Records: what a run leaves, and the table of all runs."""
import json
import shutil
import subprocess

import numpy as np
import pytest

from conftest import ROOT
from kd_capacity import fidelity, records, run_files
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
    assert [row[f'norm_{group}_max'] for group in ('student', 'projections', 'total')] == [record['norms'][f'{group}_max'] for group in ('student', 'projections', 'total')]
    assert row.norm_total_max > 0 and row.data_sha256 == record['data']['sha256'] and len(row.data_sha256) == 64
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


def test_a_file_too_large_to_be_a_record_is_not_even_read(tmp_path):
    with open(tmp_path/'record.json', 'wb') as file: file.truncate((16 << 20) + 1)
    with pytest.raises(UserError, match='record.json is larger than 16 MiB. '): records.read_record(tmp_path/'record.json')


def test_a_half_written_run_is_not_read(teacher):
    results, t = teacher
    folder = records.run_folder(t.run_id, results)
    (folder/'record.json').rename(folder/'.record.json.1.tmp')
    assert records.read_record(t.run_id, results) is None and len(records.load_runs(results)) == 0


def test_no_results_is_an_empty_table_with_all_columns(tmp_path):
    runs = records.load_runs(tmp_path/'nothing')
    assert len(runs) == 0 and list(runs) == records.COLUMNS


@pytest.mark.parametrize('text, says', [('{"schema_version": 7}', 'schema 7, this version reads up to 1: update kd_capacity'),
                                        ('{"schema_version": 1', 'is not JSON'), ('3', 'no schema_version')])
def test_foreign_newer_and_damaged_records_are_refused_by_name(teacher, text, says):
    results, t = teacher
    path = records.run_folder(t.run_id, results)/'record.json'
    path.write_text(text)
    with pytest.raises(UserError) as e: train(t, results)
    assert says in str(e.value) and str(path) in str(e.value)
    assert path.read_text() == text  # and nothing was written over it
    assert len(records.load_runs(results)) == 0
    (bad,) = records.bad_records(results)
    assert bad.path == path and says in bad.reason and str(path) in bad.reason


GOOD = {'schema_version': 1, 'run_id': 'demo/bad', 'status': 'complete', 'failure': None, 'seconds': 3.0, 'parameters': 10,
        'spec': {'profile': 'demo', 'stage': 'final', 'role': 'student', 'teacher': 'resnet50', 'student': 'resnet18', 'method': 'logit',
                 'alpha': .5, 'temperature': 4., 'seed': 0, 'epochs': 2, 'width': 8, 'flip': False},
        'outcome': {'test_best': .9, 'test_final': .8, 'best_epoch': 2, 'per_class': [.9, 1.]}, 'fidelity': {'agreement': .9, 'kl_t1': .1, 'kl_t4': .1},
        'norms': {'student_max': 1.}, 'data': {'sha256': 'ab', 'train': 10, 'shape': [1, 8, 8], 'classes': ['0', '1']},
        'teacher': {'run_id': 'demo/t'}, 'weights': {'best_sha256': 'ab'}, 'environment': {'device': 'cpu', 'threads': 1, 'packages': {'torch': '2'}}}
PLACES = [(k,) for k in GOOD] + [(k, inner) for k, v in GOOD.items() if isinstance(v, dict) for inner in v]
WRONG = [[], {}, 'text', True, -1, 1.5, 1e999, float('nan'), 2**64, 95.2]


def with_value(place, value):
    record = json.loads(json.dumps(GOOD))
    inner = record if len(place) == 1 else record[place[0]]
    inner[place[-1]] = value
    return record


def suits(place, value):
    "What a value may be without harm: text where text belongs, a number of another size where any number is possible."
    good = GOOD[place[0]] if len(place) == 1 else GOOD[place[0]][place[1]]
    if place in [('status',), ('schema_version',), ('spec', 'role')]: return False
    if isinstance(value, float) and not np.isfinite(value): return False
    if good is None or isinstance(good, str): return isinstance(value, str)
    if isinstance(good, (list, dict)): return type(value) is type(good) and not value and place not in [('teacher',), ('weights',), ('outcome',)]
    if isinstance(good, bool): return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0: return False
    if isinstance(good, int): return isinstance(value, int) and value < 2**63
    bounded = place[-1] in ('alpha', 'test_best', 'test_final', 'agreement')
    return value <= 1 if bounded else True


def test_every_wrong_value_is_refused_in_words_and_no_other(tmp_path):
    path, refused = tmp_path/'demo'/'bad'/'record.json', 0
    path.parent.mkdir(parents=True)
    for place in PLACES:
        for value in WRONG:
            path.write_text(json.dumps(with_value(place, value)))
            record, reason = run_files.checked_record(path)
            assert (record is not None) == suits(place, value), (place, value, reason)
            if record is None:
                refused += 1
                assert str(path) in reason and '\n' not in reason and len(reason) < 500 and len(records.load_runs(tmp_path)) == 0
    assert refused > 300


DAMAGED = {'deep list': '['*5000 + ']'*5000, 'deep object': '{"a":'*5000 + '1' + '}'*5000, 'deep inside': json.dumps(GOOD)[:-1] + ', "x": ' + '['*5000 + ']'*5000 + '}',
           'empty': '', 'cut off': json.dumps(GOOD)[:100], 'bytes': b'\xff\xfe', 'text': '"record"', 'null': 'null', 'no outcome': json.dumps({**GOOD, 'outcome': None}),
           'a long number': '{"schema_version": ' + '9'*5000 + '}', 'true as schema': '{"schema_version": true}', 'no run_id': '{"schema_version": 1}'}


@pytest.mark.parametrize('name', DAMAGED)
def test_a_damaged_record_is_left_out_and_named_and_the_others_are_read(name, tmp_path):
    records.write_record({**GOOD, 'run_id': 'demo/good'}, tmp_path)
    path = tmp_path/'demo'/'bad'/'record.json'
    path.parent.mkdir(parents=True)
    path.write_bytes(DAMAGED[name] if isinstance(DAMAGED[name], bytes) else DAMAGED[name].encode())
    assert records.load_runs(tmp_path).run_id.tolist() == ['demo/good']
    (bad,) = records.bad_records(tmp_path)
    assert bad.path == path and bad.reason.startswith(f'{path} ') and '\n' not in bad.reason and len(bad.reason) < 500
    with pytest.raises(UserError) as e: records.read_record('demo/bad', tmp_path)
    assert str(e.value) == bad.reason


def test_a_folder_that_cannot_be_read_as_a_record_is_named(tmp_path):
    (tmp_path/'demo'/'bad'/'record.json').mkdir(parents=True)
    assert 'cannot be read' in records.bad_records(tmp_path)[0].reason


def test_a_copied_folder_does_not_count_twice(teacher):
    results, t = teacher
    folder = records.run_folder(t.run_id, results)
    shutil.copytree(folder, folder.with_name('copy'))
    assert records.load_runs(results).run_id.tolist() == [t.run_id]
    assert t.run_id in records.bad_records(results)[0].reason


@pytest.mark.parametrize('change, says', [(lambda h: h.drop(columns='lr'), 'column lr is missing'), (lambda h: h.assign(extra=1), "'extra' is not known"),
                                          (lambda h: h.assign(test_accuracy=95.), 'test_accuracy leaves [0, 1]'), (lambda h: h.assign(lr='much'), 'lr holds text')])
def test_a_history_of_other_columns_or_values_is_refused_in_words(teacher, change, says):
    results, t = teacher
    path = records.run_folder(t.run_id, results)/'history.csv'
    change(records.history(t.run_id, results)).to_csv(path, index=False)
    with pytest.raises(UserError) as e: records.history(t.run_id, results)
    assert says in str(e.value) and str(path) in str(e.value)
    if 'column' in says: assert says in records.bad_records(results)[0].reason and len(records.load_runs(results)) == 0


def test_a_number_that_nobody_measured_is_not_written(tmp_path):
    with pytest.raises(ValueError): records.write_record({'run_id': 'a', 'x': float('inf')}, tmp_path)
    assert list(tmp_path.glob('a/*')) == []


def test_published_figures_are_the_references():
    from conftest import SHARED
    if not (SHARED/'reference').exists(): pytest.skip(f'{SHARED.name}/reference is not beside this checkout')
    for which in 'v1', 'v2':
        assert (ROOT/'results'/'published'/f'published_{which}.csv').read_text() == (SHARED/'reference'/f'published_{which}.csv').read_text()


def test_a_study_beside_the_code_leaves_the_tree_clean(tmp_path, monkeypatch, git):
    git = lambda *args: subprocess.run(['git', '-C', str(tmp_path), '-c', 'user.name=x', '-c', 'user.email=x', *args], check=True, capture_output=True)
    git('init')
    (tmp_path/'results').mkdir()
    for name in 'code.py', 'results/old.json': (tmp_path/name).write_text('1')
    git('add', '.'); git('commit', '-m', 'all')
    monkeypatch.setattr(run_files, 'root', lambda: tmp_path)
    clean = lambda: records.environment()['git_clean']
    assert clean() is True
    for name in 'new.json', 'old.json': (tmp_path/'results'/name).write_text('2')
    assert clean() is True
    (tmp_path/'new.py').write_text('1')
    assert clean() is False
    (tmp_path/'new.py').unlink(); (tmp_path/'code.py').write_text('2')
    assert clean() is False


# --- where runs were made, and the command

def made_at(run_id, **changes):
    "GOOD under another name, with other surroundings or data."
    record = json.loads(json.dumps(GOOD))
    for part, values in changes.items(): record[part] = {**(record.get(part) or {}), **values}
    return {**record, 'run_id': run_id}


def test_surroundings_are_listed_once_with_their_runs_the_most_frequent_first(tmp_path):
    here = {'device': 'cuda', 'device_name': 'H100', 'threads': 2, 'python': '3.12', 'packages': {'torch': '2.9', 'numpy': '2.1', 'pandas': '3.0'}}
    digits, folder = {'name': 'digits', 'sha256': 'ab', 'train': 850, 'validation': 150, 'test': 797}, {'name': None, 'sha256': 'cd'}
    for name, packages, data in ('a', here['packages'], digits), ('b', {'torch': '2.8'}, folder), ('c', here['packages'], digits):
        records.write_record(made_at(f'demo/{name}', environment={**here, 'packages': packages}, data=data, spec={'profile': 'demo', 'data': 'image_folder'}), tmp_path)
    records.write_record(made_at('fast/a', environment={**here, 'device_name': None}, data=digits, spec={'profile': 'fast'}), tmp_path)
    records.write_record(made_at('other/a', spec={'profile': 'other'}), tmp_path)
    where, images = records.surroundings(['demo', 'fast'], tmp_path)
    shown = where[['profile', 'device', 'threads', 'python', 'torch', 'packages', 'runs']]
    assert shown.values.tolist() == [['demo', 'H100', 2, '3.12', '2.9', 'numpy 2.1, pandas 3.0', 2], ['demo', 'H100', 2, '3.12', '2.8', None, 1],
                                     ['fast', 'cuda', 2, '3.12', '2.9', 'numpy 2.1, pandas 3.0', 1]]
    assert images.values.tolist() == [['demo', 'digits', 'ab', 850, 150, 797, 2], ['demo', 'image_folder', 'cd', *images.values.tolist()[1][3:6], 1],
                                      ['fast', 'digits', 'ab', 850, 150, 797, 1]]
    assert list(images.columns) == ['profile', 'data', 'sha256', 'train', 'validation', 'test', 'runs']
    none = records.surroundings(['nothing'], tmp_path)
    assert [len(t) for t in none] == [0, 0] and 'git_commit' in none[0] and 'runs' in none[1]


def test_the_arithmetic_of_a_run_stands_in_its_row_and_sets_surroundings_apart(tmp_path):
    for name, halves in ('a', True), ('b', False), ('c', True):
        records.write_record(made_at(f'demo/{name}', environment={'engine': {'bfloat16': halves}}), tmp_path)
    records.write_record(made_at('demo/d', environment={'engine': None}), tmp_path)
    runs = records.load_runs(tmp_path).set_index('run_id').bfloat16
    assert [runs[f'demo/{name}'] for name in 'abcd'] == [True, False, True, None]
    where = records.surroundings(['demo'], tmp_path)[0]
    assert where[['bfloat16', 'runs']].values.tolist() == [[True, 2], [False, 1], [None, 1]]


def test_a_command_that_is_none_is_refused_in_words(tmp_path):
    with pytest.raises(SystemExit) as e: records.main('improt', str(tmp_path/'x.zip'), str(tmp_path))
    assert "Did you mean 'import'?" in e.value.code and list(tmp_path.iterdir()) == []


def test_curves_are_judged_by_validation_where_there_is_any():
    import pandas as pd
    curves = pd.DataFrame({'train_accuracy': [.9, .8], 'validation_accuracy': [.7, np.nan], 'test_accuracy': [.6, .5]})
    assert records.selection_metric(curves) == 'validation_accuracy' and records.selection_metric(curves[1:]) == 'test_accuracy'
    assert records.generalisation_gap(curves).iloc[0] == pytest.approx(.2) and records.generalisation_gap(curves[1:]).iloc[0] == pytest.approx(.3)


def test_of_equally_frequent_surroundings_the_first_stays_first():
    rows = [{'profile': f'p{i}'} for i in range(60)] + [{'profile': 'often'}]*2
    table = records._distinct_rows(rows, ['profile'])
    assert table.profile.tolist() == ['often', *(f'p{i}' for i in range(60))] and table.runs.tolist() == [2, *[1]*60]
    assert table.index.tolist() == list(range(61))
