"""Which runs a study has, in which order they start, what is chosen for its finals, and in which state a run is."""
import json
import os
import platform
import subprocess

import pandas as pd
import pytest
from made_up import student, tiny_profile, write

from kd_capacity import run_files, selection
from kd_capacity.profiles import DistilledCell, profile, study_runs
from kd_capacity.records import load_runs
from kd_capacity.selection import all_specs, finals_are_open, places_of, read_selection, runs_of, starting_order, state_of, undetermined, write_selection

CELL = DistilledCell('resnet34', 'resnet18', 'feature')


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    "A profile with a selection: a teacher, a baseline, two candidates, one final."
    monkeypatch.setenv('KD_PROFILES', str(tmp_path/'profiles'))
    (tmp_path/'profiles').mkdir()
    (tmp_path/'profiles'/'tiny.toml').write_text(tiny_profile(selection=True))
    return 'tiny'


def judged(results, **validation):
    "Records of all runs; candidates of these alphas with that validation accuracy."
    specs = study_runs('tiny')
    write(specs, results)
    for spec in specs:
        if spec.stage != 'select': continue
        path = run_files.run_folder(spec.run_id, results)/'record.json'
        record = json.loads(path.read_text())
        record['outcome'] |= {'validation_best': validation[f'a{10*spec.alpha:.0f}'], 'test_best': 1 - validation[f'a{10*spec.alpha:.0f}']}
        path.write_text(json.dumps(record))


def made(name, **columns):
    "Selection-stage rows of a profile with accuracies from functions of the spec."
    return pd.DataFrame([{'profile': s.profile, 'stage': s.stage, 'run_id': s.run_id, **{k: f(s) for k, f in columns.items()}}
                         for s in study_runs(name) if s.stage == 'select'])


def test_v2_selects_by_validation_alone():
    runs = made('paper-v2', validation_best=lambda s: 0.9 + (s.alpha == 0.7)/100, test_best=lambda s: 0.9 + (s.alpha == 0.3)/10)
    chosen = selection.select(runs, profile('paper-v2'))
    assert len(chosen) == 8 and {c['alpha'] for c in chosen.values()} == {0.7}


def test_v1_selects_by_test_as_the_paper_did():
    runs = made('paper-v1-grid', validation_best=lambda s: float('nan'), test_best=lambda s: 0.9 + (s.alpha == 0.3)/10)
    assert {c['alpha'] for c in selection.select(runs, profile('paper-v1-grid')).values()} == {0.3}


def test_a_selection_with_a_hole_is_refused():
    runs = made('paper-v2', validation_best=lambda s: 0.9, test_best=lambda s: 0.9)
    with pytest.raises(selection.UserError, match='run it before anything is selected'): selection.select(runs[:-1], profile('paper-v2'))


def test_every_run_comes_after_what_it_needs():
    for name in 'demo', 'fast', 'paper-v1', 'paper-v2':
        order = list(runs_of(name))
        assert all(order.index(t) < order.index(r) for r, s in runs_of(name).items() for t in selection.prerequisites(s))


@pytest.mark.parametrize('text, says', [('5', 'not valid'), ('{"chosen": []}', 'selected_by is missing'), ('{"selected_by": "luck", "chosen": []}', 'test_best'),
                                        ('{"selected_by": "test_best", "chosen": [{"student": "resnet18", "method": "logit", "alhpa": 1}]}', 'alhpa')])
def test_a_selection_that_is_none_is_refused_in_words(text, says, tmp_path):
    path = selection.selection_file('paper-v2', tmp_path)
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(selection.UserError) as e: runs_of('paper-v2', tmp_path)
    assert says in str(e.value) and str(path) in str(e.value) and '\n' not in str(e.value)


def test_what_is_written_is_what_was_chosen_and_the_finals_follow(tiny, tmp_path):
    judged(tmp_path, a3=.8, a7=.9)
    assert finals_are_open(tiny, tmp_path) and read_selection(tiny, tmp_path) is None
    before = runs_of(tiny, tmp_path)
    assert not [s for s in before.values() if s.stage == 'final' and s.role == 'student']
    write_selection(tiny, tmp_path)
    written = json.loads((tmp_path/tiny/'selection.json').read_text())
    assert written == {'selected_by': 'validation_best',
                       'chosen': [{'teacher': 'resnet34', 'student': 'resnet18', 'method': 'feature', 'alpha': .7}]}
    assert read_selection(tiny, tmp_path) == {CELL: {'alpha': .7}} and not finals_are_open(tiny, tmp_path)
    final, = (s for s in runs_of(tiny, tmp_path).values() if s.stage == 'final' and s.role == 'student')
    assert final.alpha == .7 and set(before) < set(runs_of(tiny, tmp_path))
    assert all_specs(tiny, tmp_path) == list(runs_of(tiny, tmp_path).values())


def test_of_equals_the_first_of_the_grid_is_chosen(tiny, tmp_path):
    judged(tmp_path, a3=.9, a7=.9)
    write_selection(tiny, tmp_path)
    assert read_selection(tiny, tmp_path) == {CELL: {'alpha': .3}}


def test_only_candidates_of_this_study_are_looked_at(tiny, tmp_path):
    judged(tmp_path, a3=.8, a7=.9)
    runs = load_runs(tmp_path)
    best = runs.stage == 'select'
    runs.loc[best & (runs.alpha == .3), 'profile'] = 'another'
    with pytest.raises(selection.UserError, match='has no record with validation_best: run it before'): selection.select(runs, profile(tiny))


def test_the_runs_are_made_again_when_the_selection_changes(tiny, tmp_path):
    assert runs_of(tiny, tmp_path) is runs_of(tiny, tmp_path)
    path = selection.selection_file(tiny, tmp_path)
    path.parent.mkdir()
    alphas = []
    for alpha in .3, .7:
        row = {**{k: v for k, v in CELL._asdict().items() if v}, 'alpha': alpha}
        path.write_text(json.dumps({'selected_by': 'validation_best', 'chosen': [row]}) + ' '*int(10*alpha))  # another size
        alphas += [s.alpha for s in runs_of(tiny, tmp_path).values() if s.stage == 'final' and s.role == 'student']
    assert alphas == [.3, .7]
    elsewhere = runs_of(tiny, tmp_path/'other')
    assert len(elsewhere) == 4 and len(runs_of(tiny, tmp_path)) == 5


def test_stand_ins_cost_what_the_finals_will_and_are_only_those_that_are_open(tiny):
    stand_in, = undetermined(profile(tiny))
    assert (stand_in.stage, stand_in.role, stand_in.alpha) == ('final', 'student', .3) and stand_in.run_id not in runs_of(tiny, 'nowhere')
    assert [s.run_id for s in all_specs(tiny, 'nowhere')] == [*runs_of(tiny, 'nowhere'), stand_in.run_id]


def test_without_a_selection_nothing_is_open():
    assert not finals_are_open('demo', 'nowhere') and all_specs('demo', 'nowhere') == list(runs_of('demo', 'nowhere').values())


def test_first_what_others_wait_for_then_seed_by_seed_and_the_main_cells_first():
    specs = study_runs('paper-v1')
    order = starting_order(iter(specs))
    of = {s.run_id: s for s in specs}
    waited = {s.teacher_run for s in specs if s.teacher_run}
    assert set(order[:len(waited)]) == waited
    rest = [(of[r].seed, of[r].stage not in ('teacher', 'select', 'final')) for r in order[len(waited):]]
    assert rest == sorted(rest) and len(set(rest)) > 4 and len(order) == len(specs)
    assert places_of('paper-v1', 'nowhere') == {run_id: i for i, run_id in enumerate(order)}
    assert places_of('paper-v1', 'nowhere') is places_of('paper-v1', 'nowhere')
    assert selection.prerequisites(student()) == [student().teacher_run] and selection.prerequisites(specs[0]) == []


def test_the_state_of_a_run_is_what_the_disk_says(tmp_path):
    spec = student()
    folder = run_files.run_folder(spec.run_id, tmp_path)
    def state(): return state_of(spec.run_id, tmp_path)
    assert state() == 'to do'
    folder.mkdir(parents=True)
    (folder/'history.csv').write_text('epoch\n')
    assert state() == 'to do'  # no epoch is done
    (folder/'history.csv').write_text('epoch\n1\n2\n3\n')
    assert state() == 'begun'
    gone = subprocess.Popen(['true'])
    gone.wait()
    here = {'pid': os.getpid(), 'host': platform.node(), 'since': ''}
    for owner, says in ((here, 'running (epoch 3)'), (here | {'pid': gone.pid}, 'begun'), (here | {'pid': gone.pid, 'host': 'elsewhere'}, 'running (epoch 3)'),
                        (here | {'pid': 1}, 'running (epoch 3)')):  # alive, whoever it belongs to
        (folder/'owner.json').write_text(json.dumps(owner))
        assert state() == says
    (folder/'owner.json').write_text('{"pid": 1')
    assert state() == 'begun'
    write([spec], tmp_path)
    assert state() == 'complete'
    write([spec], tmp_path, failure={spec.run_id: 'diverged'})
    assert state() == 'failed'
    record = json.loads((folder/'record.json').read_text())
    for text in '{}', 'no json', json.dumps({**record, 'status': None}), json.dumps({**record, 'status': 'odd'}):
        (folder/'record.json').write_text(text)
        assert state() == 'bad record', text
