"""The authors' archive: read as our own runs are, to the printed digit, and nothing in it is trusted."""
import io
import json
import struct
import zipfile

import numpy as np
import pandas as pd
import pytest
from archives import archive, members, results
from conftest import ROOT, SHARED

from kd_capacity import authors, records, tables
from kd_capacity.config import UserError

ARCHIVE = SHARED/'reference'/'authors_runs.zip'
COLUMN = {'validation_best': 'validation', 'test_best': 'test_best', 'test_final': 'test_final'}


@pytest.fixture
def small(tmp_path): return archive(tmp_path/'small.zip', members())


def test_imported_runs_are_rows_like_ours(small):
    runs = records.import_authors(small)
    assert list(runs) == records.COLUMNS and len(runs) == 16
    assert runs.dtypes.astype(str)[['seed', 'epochs', 'width', 'alpha', 'test_best']].tolist() == ['Int64', 'Int64', 'Int64', 'float64', 'float64']
    assert set(runs.profile) == {'authors'} and set(runs.status) == {'complete'} and set(runs.data) == {'cifar10'} and set(runs.protocol) == {'v2'}
    by = runs.set_index('run_id')
    r = by.loc['authors/final/resnet50_to_resnet18_feature/seed1']
    assert (r.stage, r.role, r.teacher, r.student, r.method, r.alpha, r.beta, r.clipping) == ('final', 'student', 'resnet50', 'resnet18', 'feature', .5, .5, 'union')
    assert (r.test_best, r.test_final, r.validation_best, r.agreement, r.parameters) == (.95, .94, .91, .955, 11_173_962) and np.isnan(r.temperature)
    assert (r.seed, r.epochs, r.width, r.stem) == (1, 3, 64, 'cifar')
    t = by.loc['authors/teachers/r50/seed0']
    assert (t.stage, t.role, t.teacher, t.parameters) == ('teacher', 'teacher', 'resnet50', 23_520_842) and pd.isna(t.student) and np.isnan(t.alpha)
    assert by.groupby('stage').size().to_dict() == {'clipping': 2, 'final': 6, 'select': 2, 'stem': 4, 'teacher': 2}


def test_what_the_archive_does_not_have_is_missing(small):
    runs = records.import_authors(small)
    assert runs[['seconds', 'images_per_second', 'device', 'deterministic', 'data_sha256', 'teacher_run', 'failure']].isna().all().all()
    union = runs[(runs.method == 'feature') & (runs.clipping == 'union')]
    assert union.norm_projections_max.isna().all() and union.norm_student_max.isna().all()  # the 0 in the archive was never measured
    assert union.norm_total_max.tolist() == [5.0]*2
    bug = runs[runs.clipping == 'student_only']
    assert bug.norm_student_max.tolist() == [5.0]*2 and bug.norm_projections_max.tolist() == [.2]*2 and bug.norm_total_max.isna().all()


def test_copies_are_marked_and_counted_once(small):
    runs = records.import_authors(small)
    copies = dict(runs[runs.duplicate_of.notna()][['run_id', 'duplicate_of']].values)
    assert copies == {'authors/select/resnet50_to_resnet18/logit/a0.5_t4/seed0': 'authors/final/resnet50_to_resnet18_logit/seed0',
                      **{f'authors/stem_ablation/resnet18_cifar/seed{s}': f'authors/final/baseline/resnet18/seed{s}' for s in (0, 1)}}
    assert len(records.distinct(runs)) == 13 and records.distinct(runs).duplicate_of.isna().all()
    shuffled = runs.sample(frac=1, random_state=0)
    assert records.distinct(shuffled).run_id.tolist() == [r for r in shuffled.run_id if r not in copies]
    assert len(records.distinct(runs[runs.stage == 'select'])) == 2 and len(records.distinct(runs[:0])) == 0
    stems = tables.stem_ablation(runs)
    assert stems[stems.stem == 'cifar'].n.tolist() == [2]


def test_written_out_they_are_read_like_records(small, tmp_path):
    runs = records.import_authors(small, tmp_path/'results')
    pd.testing.assert_frame_equal(records.load_runs(tmp_path/'results'), runs)
    bug = records.history('authors/bug_ablation/resnet50_to_resnet18/feature_bugged/a0.5/seed0', tmp_path/'results')
    assert list(bug) == records.HISTORY and bug.norm_student_max.tolist() == [5, 2.5, 5/3] and bug.loss_cosine.tolist() == [.2]*3
    assert bug[['lr', 'seconds', 'test_accuracy', 'norm_student_mean']].isna().all().all()
    base = records.history('authors/final/baseline/resnet18/seed0', tmp_path/'results')
    assert base.loss_kd.isna().all() and base.norm_total_max.tolist() == base.norm_student_max.tolist()
    env = records.read_record(runs.run_id[0], tmp_path/'results')['environment']
    assert env['archive'] == 'small.zip' and len(env['archive_sha256']) == 64 and env['imported_from'].endswith('results.json')
    assert len(tables.curves(runs[runs.stage == 'final'], tmp_path/'results')) == 18


def test_an_import_replaces_the_earlier_one_and_nothing_else(small, tmp_path):
    results = tmp_path/'results'
    records.import_authors(small, results)
    fewer = {n: d for n, d in members().items() if 'final' in n}
    records.import_authors(archive(tmp_path/'fewer.zip', fewer), results)
    assert len(records.load_runs(results)) == 6 and [p.name for p in results.iterdir()] == ['authors']
    records.write_record({'run_id': 'authors/mine', 'spec': {}, 'environment': {'device': 'cpu'}}, results)
    with pytest.raises(UserError, match='runs of your own'): records.import_authors(small, results)
    assert len(records.load_runs(results)) == 7


def test_what_the_repository_keeps_of_an_archive(tmp_path):
    found = members()
    student = 'runs/final/resnet50_to_resnet18_feature/seed1/'
    found[student + 'fidelity.json'] |= {'per_class_acc': {'cat': .25, 'dog': .75}}
    found[student + 'results.json']['history'][0]['train_acc'] = .123456
    runs = authors.read_archive(archive(tmp_path/'small.zip', found))
    table, curves = records.published_runs(runs)
    name = 'final/resnet50_to_resnet18_feature/seed1'
    by = table.set_index('run_id')
    assert len(table) == 16 and list(table)[0] == 'run_id' and list(table)[-2:] == ['cat', 'dog']
    assert by.loc[name, ['cat', 'dog']].tolist() == [.25, .75] and by.cat.notna().sum() == 1
    assert not {'profile', 'status', 'data', 'protocol', 'width'} & set(table)  # the same for all
    assert by.duplicate_of['stem_ablation/resnet18_cifar/seed0'] == 'final/baseline/resnet18/seed0'
    assert list(curves) == ['run_id', 'epoch', 'train_accuracy', 'validation_accuracy']
    assert set(curves.run_id) == set(table.run_id[table.duplicate_of.isna()]) and len(curves) == 2*4 + 10*3 + 5
    assert curves[curves.run_id == name].train_accuracy.tolist() == [.1235, .9, .9]
    record = next(run.record for run in runs if run.record['run_id'] == f'authors/{name}')
    assert record['outcome']['per_class'] == [.25, .75] and record['data'] == {'name': 'cifar10', 'classes': ['cat', 'dog']}


def test_without_into_nothing_is_written(small, tmp_path):
    before = sorted(tmp_path.rglob('*'))
    records.import_authors(small)
    assert sorted(tmp_path.rglob('*')) == before


# --- what is not the authors' archive

FINAL = 'runs/final/baseline/resnet18/seed0/results.json'
BAD = {
    'absolute path': ({'/etc/x/results.json': results()}, 'points outside'), 'parent path': ({'runs/final/../../x/seed0/results.json': results()}, 'points outside'),
    'windows parent': ({'runs\\..\\final/results.json': results()}, 'points outside'), 'drive': ({'C:/final/results.json': results()}, 'points outside'),
    'a parent path beside good ones': ({FINAL: results(), '../../.bashrc': 'x'}, 'points outside'), 'strange name': ({'final/a b/results.json': results()}, 'no name for a run'),
    'no runs': ({'README.md': 'x'}, 'holds no results.json'), 'empty': ({}, 'holds no results.json'), 'foreign results': ({'a/results.json': results()}, 'holds no results.json'),
    'not JSON': ({FINAL: '{"model": '}, 'not JSON'), 'not text': ({FINAL: b'\xff\xfe\x00'}, 'not JSON'), 'a list': ({FINAL: '[1]'}, 'not a JSON object'),
    'deep': ({FINAL: '['*200_000}, 'not JSON'), 'NaN': ({FINAL: json.dumps(results(test_acc_best=float('nan')))}, 'NaN is no number'),
    'infinite': ({FINAL: json.dumps(results()).replace('0.95', '1e999')}, '1e999 is no number'),
    'no accuracy': ({FINAL: {k: v for k, v in results().items() if k != 'test_acc_best'}}, 'test_acc_best is missing'),
    'percent': ({FINAL: results(test_acc_best=95.2)}, 'test_acc_best = 95.2'), 'text': ({FINAL: results(test_acc_best='0.95')}, 'is not valid'),
    'true': ({FINAL: results(test_acc_final=True)}, 'test_acc_final = True'), 'unknown model': ({FINAL: results(model='<script>')}, 'model'),
    'model is a list': ({FINAL: results() | {'model': ['resnet18']}}, 'model'), 'unknown method': ({FINAL: results() | {'kd_type': 'magic'}}, 'kd_type'),
    'negative seed': ({FINAL: results() | {'seed': -1}}, 'seed = -1'), 'another seed': ({FINAL: results() | {'seed': 3}}, 'holds seed 3'),
    'epochs cut off': ({FINAL: results() | {'epochs': 100}}, '3 epochs of 100'), 'history is text': ({FINAL: results(history='long')}, 'history'),
    'epoch without accuracy': ({FINAL: results(history=[{'epoch': 1}], epochs=1)}, 'history[0].val_acc is missing'), 'teacher without method': ({FINAL: results(teacher='resnet50')}, 'do not go together'),
    'one name twice': ({f'a/{FINAL}': results(), f'b/{FINAL}': results()}, 'same name'),
    'fidelity': ({FINAL: results(), FINAL.replace('results', 'fidelity'): {'kl_t1': 1}}, 'top1_agreement is missing')}


@pytest.mark.parametrize('name', BAD)
def test_a_bad_archive_is_one_sentence_and_nothing_on_disk(name, tmp_path):
    found, says = BAD[name]
    path = archive(tmp_path/'bad.zip', found)
    with pytest.raises(UserError) as e: records.import_authors(path, tmp_path/'results')
    assert says in str(e.value) and 'bad.zip' in str(e.value) and '\n' not in str(e.value) and len(str(e.value)) < 400
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_run_may_lie_in_the_stages_folder_itself(tmp_path):
    runs = records.import_authors(archive(tmp_path/'one.zip', {'runs/final/results.json': results(), 'runs/notes/results.json': results()}))
    assert runs.run_id.tolist() == ['authors/final'] and runs.stage.tolist() == ['final']


def test_a_bomb_is_not_opened(tmp_path, monkeypatch):
    bomb = archive(tmp_path/'bomb.zip', {FINAL: b' '*(records.MEMBER_BYTES + 1)})
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(UserError, match='results.json. has more than 8 MiB'): records.import_authors(bomb)
    lying = bytearray(bomb.read_bytes())  # the same, with a small size in its directory
    at = lying.rindex(b'PK\x01\x02')
    lying[at + 24:at + 28] = struct.pack('<I', 10)
    (tmp_path/'lying.zip').write_bytes(lying)
    with pytest.raises(UserError, match='cannot be imported'): records.import_authors(tmp_path/'lying.zip')
    monkeypatch.setattr(authors, 'ARCHIVE_BYTES', 1000)
    with pytest.raises(UserError, match='more than 0 MiB'): records.import_authors(archive(tmp_path/'many.zip', members()))
    monkeypatch.setattr(authors, 'MEMBERS', 3)
    with pytest.raises(UserError, match='more than 3'): records.import_authors(archive(tmp_path/'many.zip', dict.fromkeys('abcd', '')))


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_broken_files_are_one_sentence(small, tmp_path):
    whole, bad = small.read_bytes(), tmp_path/'bad.zip'
    for cut in 0, 10, len(whole)//2, len(whole) - 1:
        bad.write_bytes(whole[:cut])
        with pytest.raises(UserError, match='cannot be imported'): records.import_authors(bad)
    for seed in range(40):  # bytes flipped anywhere: either the same runs or one sentence
        rng = np.random.default_rng(seed)
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(len(damaged), size=8)] ^= rng.integers(1, 256, size=8).astype(np.uint8)
        bad.write_bytes(damaged.tobytes())
        try: runs = records.import_authors(bad)
        except UserError as e: assert 'cannot be imported' in str(e)
        else: assert set(runs.test_best) <= set(records.import_authors(small).test_best)
    for path in tmp_path, tmp_path/'nothing.zip':
        with pytest.raises(UserError, match='cannot be imported'): records.import_authors(path)
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, 'w') as z:
        for accuracy in .1, .9: z.writestr(FINAL, json.dumps(results(accuracy=accuracy)))
    bad.write_bytes(twice.getvalue())
    with pytest.raises(UserError, match='same name'): records.import_authors(bad)


def test_command_line(small, tmp_path, capsys):
    assert records.main('import', str(small), results=str(tmp_path/'r')) is None
    assert '16 runs imported, 13 distinct trainings' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='there is no such file'): records.main('import', str(tmp_path/'no.zip'), results=str(tmp_path/'r'))


# --- the authors' own archive: read from ../shared, skipped where that is not beside the checkout

@pytest.fixture(scope='module')
def theirs():
    if not ARCHIVE.exists(): pytest.skip(f'../shared/reference/{ARCHIVE.name} is not beside this checkout: the published tables cannot be recomputed')
    return records.import_authors(ARCHIVE)


def cell_of(runs, row):
    "The runs behind a row of published_v2.csv, each training once."
    stage = {'teacher': 'teacher', 'baseline': 'final', 'student': 'final', 'clipping_bug': 'clipping', 'stem': 'stem'}[row.quantity]
    found = runs[(runs.stage == stage) & (runs.method == row.method) & (runs.stem == row.stem)]
    network = found.teacher if row.quantity == 'teacher' else found.student
    found = found[network == row.student]
    return records.distinct(found if pd.isna(row.teacher) else found[found.teacher == row.teacher])


def test_126_runs_are_111_trainings(theirs):
    assert (len(theirs), len(records.distinct(theirs)), int(theirs.duplicate_of.notna().sum())) == (126, 111, 15)
    copies = theirs[theirs.duplicate_of.notna()].merge(theirs, left_on='duplicate_of', right_on='run_id', suffixes=('', '_of'))
    assert len(copies) == 15 and (copies.test_best == copies.test_best_of).all() and (copies.seed == copies.seed_of).all()
    assert theirs.groupby('stage').size().to_dict() == {'clipping': 5, 'final': 50, 'select': 48, 'stem': 14, 'teacher': 9}


def printed(x): return np.nan if pd.isna(x) else float(f'{x:.2f}')


def test_every_published_cell_comes_out_to_the_printed_digit(theirs):
    paper = pd.read_csv(ROOT/'results'/'published'/'published_v2.csv')
    wrong, compared = [], 0
    for row in paper.itertuples():
        found = cell_of(theirs, row)
        assert len(found) == row.seeds, row
        for mine, its in COLUMN.items():
            x = 100*found[mine]
            for what, value in (('mean', x.mean()), ('std', x.std(ddof=1))):
                said, compared = getattr(row, f'{its}_{what}'), compared + 1
                if not (np.isnan(said) and pd.isna(value)) and abs(said - value) > .005 + 1e-9: wrong.append((row.quantity, row.teacher, row.student, row.method, its, what, said, value))
                elif not np.isnan(said) and printed(value) != said: assert abs(abs(said - value) - .005) < 1e-9  # exactly half a digit: either way of rounding
    assert (wrong, compared) == ([], 6*len(paper))


def test_published_configurations_are_the_selected_ones(theirs):
    paper = records.published('v2')
    for row in paper[paper.quantity == 'student'].itertuples():
        found = cell_of(theirs, row)
        assert found.alpha.unique().tolist() == [row.alpha]
        tried = theirs[(theirs.stage == 'select') & (theirs.teacher == row.teacher) & (theirs.student == row.student) & (theirs.method == row.method)]
        best = tried.loc[tried.validation_best.idxmax()]
        assert (best.alpha, best.temperature if row.method == 'logit' else None) == (row.alpha, row.temperature if row.method == 'logit' else None)


def test_the_authors_archive_becomes_a_results_folder(theirs, tmp_path):
    pd.testing.assert_frame_equal(records.import_authors(ARCHIVE, tmp_path), theirs)
    pd.testing.assert_frame_equal(records.load_runs(tmp_path), theirs)
    assert len(tables.curves(theirs[theirs.stage == 'final'], tmp_path)) == 50*100


def test_what_is_published_here_is_what_the_archive_says(theirs):
    expected = theirs.assign(profile='paper', **{k: theirs[k].str.replace('authors/', 'paper/') for k in ('run_id', 'duplicate_of')})
    pd.testing.assert_frame_equal(records.paper_runs(), expected)
    runs, curves = records.published_runs(authors.read_archive(ARCHIVE))
    for name, table in ('runs.csv', runs), ('curves.csv', curves):
        assert (ROOT/'results'/'published'/name).read_text() == table.to_csv(index=False)
    theirs_by_class = {run.record['run_id']: run.record['outcome'].get('per_class') for run in authors.read_archive(ARCHIVE)}
    for run_id, classes in records.paper_per_class().groupby('run_id', sort=False):
        assert sorted(classes.accuracy) == sorted(theirs_by_class[run_id.replace('paper/', 'authors/')])


def test_the_paper_is_here_without_the_archive():
    runs, curves = records.paper_runs(), records.paper_curves()
    assert list(runs) == records.COLUMNS and len(runs) == 126 and len(records.distinct(runs)) == 111
    assert list(curves) == ['run_id', *records.HISTORY] and curves.test_accuracy.isna().all()
    originals = records.distinct(runs).set_index('run_id')
    assert set(curves.run_id) == set(originals.index) and (curves.groupby('run_id').epoch.max() == originals.epochs).all()
    best = curves.groupby('run_id').validation_accuracy.max()
    assert (best - originals.validation_best).abs().max() < 1e-9
    students = runs[runs.agreement.notna()].set_index('run_id').test_best
    by_class = records.paper_per_class()
    assert by_class['class'].nunique() == 10 and (by_class.groupby('run_id').accuracy.mean() - students).abs().max() < 1e-9
    assert all((ROOT/'results'/'published'/name).stat().st_size < 1.5e6 for name in ('runs.csv', 'curves.csv'))
