"""What must hold of every committed record of real images, whatever the study showed."""
import numpy as np
import pytest
from conftest import ROOT

from kd_capacity import config, fidelity, records, statistics, tables

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


def test_committed_results_stay_small():
    "record.json, history.csv and logits.npz alone, 40 MB in all."
    import subprocess
    listed = subprocess.run(['git', 'ls-files', '-z', 'results'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split('\0')[:-1]
    files = [ROOT/f for f in listed if f.split('/')[1] not in ('published', 'benchmarks') and not f.endswith('README.md')]
    assert {f.name for f in files} <= {'record.json', 'history.csv', 'logits.npz', 'selection.json'}
    assert sum(f.stat().st_size for f in files) < 40e6
