"""What must hold of every committed record of real images, whatever the study showed."""
import json

import numpy as np
import pytest
from conftest import ROOT

from kd_capacity import checkpoint, config, dose, fidelity, records, statistics, tables

REAL_IMAGES = 'cifar10', 'cifar10_jpeg'
REAL = [name for name in config.profiles() if config.profile(name).run['data'] in REAL_IMAGES and any((ROOT/'results'/name).glob('**/record.json'))]
BEST_KNOWN = 0.995  # no network of this size, trained on these images alone, is known to exceed it
SEVERAL = 2.0       # pp by which the CIFAR stem must lead

pytestmark = pytest.mark.skipif(not REAL, reason='no record of real images is committed')


@pytest.fixture(scope='module', params=REAL or [None])
def runs(request):
    "The planned runs of a study on real images."
    return tables.planned(request.param, ROOT/'results')


def complete(runs, **values):
    for name, value in values.items(): runs = runs[runs[name] == value]
    return runs[runs.status == 'complete']


def accuracies(runs, stem, student):
    "By seed: the network without a teacher, with either stem."
    alone = complete(runs, role='baseline', student=student, stem=stem)
    return alone[alone.stage.isin(['final', 'stem'])].drop_duplicates('seed').set_index('seed').test_best


def test_every_complete_run_of_the_plan_has_its_files(runs):
    done = complete(runs)
    assert len(done), 'a folder without a record'
    for run_id in done.run_id:
        for name in 'history.csv', 'logits.npz': assert (ROOT/'results'/run_id/name).is_file(), f'{run_id} lacks {name}'


def test_no_run_below_chance_or_above_what_is_known_to_be_possible(runs):
    for r in complete(runs).itertuples():
        for value in r.test_best, r.test_final: assert 0.1 < value < BEST_KNOWN, f'{r.run_id}: {value}'


def test_accuracy_is_that_of_the_stored_logits(runs):
    for r in complete(runs).itertuples():
        stored = records.logits(r.run_id, ROOT/'results')
        assert len(stored['labels']) == 10_000
        assert fidelity.accuracy(stored['best'], stored['labels']) == pytest.approx(r.test_best, abs=1e-9), r.run_id
        assert fidelity.accuracy(stored['last'], stored['labels']) == pytest.approx(r.test_final, abs=1e-9), r.run_id


def test_fidelity_is_that_of_the_stored_logits(runs):
    for r in complete(runs, role='student').itertuples():
        agreement = tables.against_teacher(r.run_id, r.teacher_run, ROOT/'results')['agreement']
        assert agreement == pytest.approx(r.agreement, abs=3e-4), r.run_id


def test_all_runs_saw_the_same_images_in_one_environment_of_packages(runs):
    assert complete(runs).data_sha256.nunique() == 1
    assert set(complete(runs).data) <= set(REAL_IMAGES)


def test_the_order_of_the_baselines_does_not_contradict_depth(runs):
    small, large = (accuracies(runs, 'cifar', s) for s in ('resnet18', 'resnet34'))
    if min(len(small), len(large)) < 2: pytest.skip('an interval needs two seeds of each baseline')
    found = statistics.difference(large, small)
    assert found['ci_high'] > 0, f'R34 is worse than R18 beyond its interval: {found}'


def test_the_cifar_stem_leads_by_several_points_at_the_same_settings(runs):
    seen = 0
    for student in 'resnet18', 'resnet34', 'resnet50':
        cifar, imagenet = (accuracies(runs, stem, student) for stem in ('cifar', 'imagenet'))
        both = sorted(set(cifar.index) & set(imagenet.index))
        if not both: continue
        seen += 1
        assert 100*np.mean(cifar[both] - imagenet[both]) > SEVERAL, student
    if not seen: pytest.skip('the stem ablation is not run')


# --- capacity

@pytest.fixture(scope='module')
def doses():
    "What the records of `capacity` say, without tables: {(method, width): {seed: test accuracy}}, parameters by width."
    accuracies, parameters = {}, {}
    for path in (ROOT/'results'/'capacity').glob('**/record.json'):
        record = json.loads(path.read_text())
        spec = record['spec']
        if record['status'] != 'complete' or spec['role'] == 'teacher': continue
        accuracies.setdefault((spec['method'], spec['width']), {})[spec['seed']] = record['outcome']['test_best']
        parameters[spec['width']] = record['parameters']
    if not accuracies: pytest.skip('no record of the capacity study is committed')
    return accuracies, parameters


def test_wider_networks_are_more_accurate(doses):
    accuracies, seen = doses[0], 0
    for (method, width), narrow in accuracies.items():
        wide = accuracies.get((method, 2*width), {})
        both = sorted(set(narrow) & set(wide))
        if not both: continue
        seen += 1
        assert np.mean([wide[s] - narrow[s] for s in both]) > 0, (method, width)
    if not seen: pytest.skip('no two widths share a seed')


def test_the_capacity_contrast_of_the_page_is_that_of_the_records(doses):
    "The slope of the gain on log2 of the parameters, seed by seed in order, as declared before the first run."
    accuracies, parameters = doses
    widths, slopes = sorted(parameters), {}
    for method in 'logit', 'feature':
        cells = [(accuracies.get((method, w), {}), accuracies.get(('none', w), {})) for w in widths]
        seeds = sorted(set.intersection(*(set(a) & set(b) for a, b in cells)))
        size = np.log2([parameters[w] for w in widths])
        slopes[method] = [np.polyfit(size, [100*(a[s] - b[s]) for a, b in cells], 1)[0] for s in seeds]
    if len(widths) < 3 or not any(slopes.values()): pytest.skip('no seed has every width yet')
    decisions = dose.dose_decisions(dose.dose_gains(tables.planned('capacity', ROOT/'results'))).set_index('method')
    for method, by_seed in slopes.items():
        if not by_seed: continue
        row = decisions.loc[method]
        assert row.seeds == len(by_seed) and row.estimate == pytest.approx(np.mean(by_seed[:row.n]))


@pytest.fixture(scope='module')
def committed(git):
    "Files of git in the results folder, but for the published tables and the benchmarks."
    import subprocess
    if not (ROOT/'.git').exists(): pytest.skip('this folder is no clone, so nobody knows which results are committed')
    listed = subprocess.run(['git', 'ls-files', '-z', 'results'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split('\0')[:-1]
    return [ROOT/f for f in listed if f.split('/')[1] not in ('published', 'benchmarks') and not f.endswith('README.md')]


def test_committed_results_stay_small(committed):
    "record.json, history.csv and logits.npz, and the weights of small teachers; 40 MB in all."
    assert {f.name for f in committed if f.name != 'weights.pt'} <= {'record.json', 'history.csv', 'logits.npz', 'selection.json'}
    assert sum(f.stat().st_size for f in committed) < 40e6


def test_anyone_can_learn_from_the_teachers_of_the_committed_students(committed):
    "Their weights are here, and are those of the record that each student learned from."
    records_ = {path.parent: json.loads(path.read_text()) for path in committed if path.name == 'record.json'}
    students = [r for r in records_.values() if r['teacher'] and r['spec']['profile'] in ('capacity', 'small')]
    wanted = {r['teacher']['run_id']: r['teacher']['weights_sha256'] for r in students}
    if not wanted: pytest.skip('no student of a small teacher is committed')
    found = {}
    for path in (f for f in committed if f.name == 'weights.pt'):
        record = records_[path.parent]
        found[record['run_id']] = checkpoint.weights_sha256(checkpoint.load(path))
        assert record['spec']['role'] == 'teacher' and found[record['run_id']] == record['weights']['best_sha256'], path
    assert found.items() >= wanted.items()
