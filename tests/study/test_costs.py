"""What a study costs: its arithmetic, the speed of finished runs, and the plan made of both."""
import functools
import json
import math

import numpy as np
import pandas as pd
import pytest
from made_up import baseline, student, tiny_profile, write

from kd_capacity import costs, data, models
from kd_capacity.config import run_spec
from kd_capacity.costs import Images, flops, recorded_flops
from kd_capacity.run_files import run_folder
from kd_capacity.selection import runs_of

TEACHER = run_spec('demo', 'teacher', teacher='resnet50')
forward = models.forward_flops


def change(results, run, **values):
    path = run_folder(run.run_id, results)/'record.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_step_is_three_passes_of_the_student_and_one_of_its_teacher():
    spec = student(method='feature').replace(epochs=3, width=8, teacher_width=12, validation_size=100)
    n, shape = 1000 - 100, (1, 8, 8)
    own, teacher = forward('resnet18', shape, width=8), forward('resnet50', shape, width=12)
    assert flops(spec) == 3*n*(3*own + teacher)
    assert flops(spec.replace(teacher_width=None)) == 3*n*(3*own + forward('resnet50', shape, width=8))
    assert flops(baseline().replace(epochs=3, width=8, validation_size=100)) == 3*n*3*own
    assert flops(spec, Images(7, (3, 32, 32))) == 3*7*(3*forward('resnet18', (3, 32, 32), width=8) + forward('resnet50', (3, 32, 32), width=12))
    thin = TEACHER.replace(width=8)
    assert flops(thin) == thin.epochs*(1000 - thin.validation_size)*3*forward('resnet50', shape, width=8)


def test_images_of_known_sets_are_not_loaded_and_others_once(monkeypatch):
    loaded = []
    digits = data.load('digits')
    monkeypatch.setattr(costs.data_sets, 'load', lambda name: loaded.append(name) or digits)
    assert costs.images_of(baseline(profile='paper-v2')) == Images(45_000, (3, 32, 32)) and loaded == []
    monkeypatch.setattr(costs, '_loaded', functools.cache(costs._loaded.__wrapped__))  # which forgets with this test
    spec = baseline().replace(data='image_folder', validation_size=50)
    assert [costs.images_of(spec) for _ in range(3)] == [Images(950, (1, 8, 8))]*3 and loaded == ['image_folder']


@pytest.mark.parametrize('flop, text', [(1e18, '1 EFLOP'), (2.345e15, '2.35 PFLOP'), (9.99e14, '999 TFLOP'), (1e9, '1 GFLOP'),
                                        (5e8, '5e+08 FLOP'), (0, '0 FLOP'), (None, 'unknown'), (math.nan, 'unknown')])
def test_operations_in_words(flop, text): assert costs.flop_text(flop) == text


@pytest.mark.parametrize('seconds, text', [(0, '0.0 s'), (119.9, '119.9 s'), (120, '2.0 min'), (7199, '120.0 min'), (7200, '2.0 h'),
                                           (172_799, '48.0 h'), (172_800, '2.0 days'), (None, 'unknown'), (math.nan, 'unknown')])
def test_a_time_in_words(seconds, text): assert costs.duration_text(seconds) == text


def test_a_record_says_what_it_was_trained_on_and_what_it_leaves_out_has_its_default():
    spec = student(method='feature')
    told = {'train': 77, 'shape': [3, 16, 16]}
    assert recorded_flops(spec.to_dict(), told) == flops(spec, Images(77, (3, 16, 16)))
    assert recorded_flops(spec.to_dict(), {'train': 77}) == flops(spec, Images(77, (1, 8, 8)))
    assert recorded_flops(spec.to_dict()) == flops(spec)
    part = {k: v for k, v in spec.to_dict().items() if k not in ('padding', 'batch_size', 'stem')}
    assert recorded_flops(part) == flops(spec)
    teacher = TEACHER.to_dict() | {'student': None}
    assert recorded_flops(teacher) == flops(TEACHER)


@pytest.mark.parametrize('change', [{'student': 'vgg'}, {'teacher': 'vgg'}, {'stem': 'wide'}, {'data': 'mnist'}])
def test_a_network_or_images_that_are_not_known_cost_nobody_knows(change):
    assert math.isnan(recorded_flops(student(method='feature').to_dict() | change))


def test_images_of_a_folder_count_where_they_are_here_and_the_same(tmp_path, monkeypatch):
    digits, asked = data.load('digits'), []
    def load(name):
        asked.append(name)
        if len(asked) == 1: raise costs.UserError('no images')
        return digits
    monkeypatch.setattr(costs.data_sets, 'load', load)
    spec, loaded = baseline().replace(data='image_folder', validation_size=100), {}
    assert math.isnan(recorded_flops(spec.to_dict(), {}, loaded)) and loaded == {'image_folder': None}
    assert math.isnan(recorded_flops(spec.to_dict(), {}, loaded)) and len(asked) == 1  # not asked again
    same = Images(900, (1, 8, 8))
    loaded = {}
    assert recorded_flops(spec.to_dict(), {'sha256': digits.sha256}, loaded) == recorded_flops(spec.to_dict(), {}, loaded) == flops(spec, same)
    assert recorded_flops(spec.to_dict(), {'train': 10}, loaded) == flops(spec, same._replace(number=10))
    assert math.isnan(recorded_flops(spec.to_dict(), {'sha256': 'of others'}, loaded)) and len(asked) == 2


@pytest.fixture
def study(tmp_path):
    "(results, specs): a teacher of 9 s, a baseline of 18 s, a failed student."
    specs = [TEACHER, baseline(), student(method='feature')]
    write(specs, tmp_path, failure={specs[2].run_id: 'diverged'})
    change(tmp_path, specs[1], seconds=18., images_per_second=500.,
           environment={'device': 'cuda', 'device_name': 'H100', 'threads': 4, 'deterministic': True})
    return tmp_path, specs


def test_a_row_says_what_a_training_was_and_what_it_took(study):
    results, specs = study
    table = costs.costs('demo', results).set_index('run_id')
    assert table.device[specs[0].run_id] == 'cpu (cpu, ? threads)' and table.device[specs[1].run_id] == 'H100 (cuda, 4 threads)'
    row = table.loc[specs[1].run_id]
    assert (row.profile, row.stage, row.role, row.student, row.method, row.status) == ('demo', 'final', 'baseline', 'resnet18', 'none', 'complete')
    assert pd.isna(row.teacher) and table.teacher[specs[2].run_id] == 'resnet50'
    assert (row.seconds, row.images_per_second, row.flop) == (18, 500, flops(specs[1]))
    assert table.status[specs[2].run_id] == 'failed' and math.isnan(table.flop[specs[2].run_id])
    assert table[['seconds', 'images_per_second', 'flop']].dtypes.tolist() == [np.dtype(float)]*3
    none = costs.costs('paper-v1', results)
    assert len(none) == 0 and list(none.columns)[-1] == 'flop' and none.flop.dtype == float


def test_a_folder_of_images_is_loaded_once_for_all_records(study, monkeypatch):
    results, specs = study
    loaded = []
    digits = data.load('digits')
    for spec in specs[:2]: change(results, spec, spec={**spec.to_dict(), 'data': 'image_folder'}, data={'sha256': digits.sha256})
    monkeypatch.setattr(costs.data_sets, 'load', lambda name: loaded.append(name) or digits)
    assert costs.costs('demo', results).flop.notna().sum() == 2 and loaded == ['image_folder']


def test_the_speed_is_that_of_complete_runs_of_the_study(study):
    results, specs = study
    both = (flops(specs[0]) + flops(specs[1]))/(9 + 18)
    assert costs.speed_of(costs.costs('demo', results)) == costs.measured_speed('demo', results) == pytest.approx(both)
    odd = baseline().replace(epochs=1, seed=7)  # under the profile's name, and none of its runs
    write([odd], results)
    assert costs.measured_speed('demo', results) == pytest.approx(both) != costs.speed_of(costs.costs('demo', results))
    change(results, specs[1], seconds=0.)
    assert costs.measured_speed('demo', results) == pytest.approx(flops(specs[0])/9)
    assert costs.assumed_speed('demo', results) == (costs.measured_speed('demo', results), 'finished runs of this profile')


def test_cells_are_summed_by_stage_role_and_method_in_their_order(study):
    results, specs = study
    write([student(method='feature', seed=1), student(method='feature', seed=2)], results)
    change(results, student(method='feature', seed=2), images_per_second=3000., seconds=21.)
    cells = costs.cost_by_cell(costs.costs('demo', results).sample(frac=1, random_state=0))
    assert cells.index.tolist() == [0, 1, 2] and list(cells)[0] == 'profile'
    assert cells[['stage', 'role', 'method', 'runs', 'timed', 'seconds', 'each', 'images_per_second']].values.tolist() == [
        ['teacher', 'teacher', 'none', 1, 1, 9, 9, 1000], ['final', 'baseline', 'none', 1, 1, 18, 18, 500],
        ['final', 'student', 'feature', 2, 2, 30, 15, 2000]]
    one = flops(student(method='feature'))
    assert cells.flop.tolist() == [flops(specs[0]), flops(specs[1]), 2*one] and cells.flop_each.tolist()[2] == one
    table = costs.costs('demo', results)
    unknown = costs.cost_by_cell(table.assign(flop=table.flop.where(table.seconds != 21), seconds=table.seconds.where(table.seconds == 21)))
    assert unknown.timed.tolist() == [0, 0, 1] and math.isnan(unknown.flop[2]) and unknown.flop_each[2] == one
    assert unknown.seconds.isna().tolist() == [True, True, False]  # a sum of nothing is not 0 s
    strange = costs.cost_by_cell(pd.concat([table, table.assign(stage='mine')]))
    assert strange.stage.tolist() == ['teacher', 'final', 'final', 'mine', 'mine', 'mine']


def test_a_plan_has_a_row_for_each_run_and_for_each_that_waits_for_the_selection(tmp_path, monkeypatch):
    monkeypatch.setenv('KD_PROFILES', str(tmp_path/'profiles'))
    (tmp_path/'profiles').mkdir()
    (tmp_path/'profiles'/'tiny.toml').write_text(tiny_profile(selection=True))
    specs = runs_of('tiny', tmp_path)
    write([next(iter(specs.values()))], tmp_path)
    plan = costs.plan('tiny', tmp_path, speed=1e12)
    assert (plan.speed, plan.source) == (1e12, 'given') and plan.table.index.tolist() == list(range(1, len(specs) + 2))
    for row, spec in zip(plan.table.itertuples(), specs.values()):
        assert (row.run, row.stage, row.epochs) == (spec.run_id, spec.stage, spec.epochs)
        assert row.after == (spec.teacher_run or '-')
        assert row.PFLOP == flops(spec)/1e15 and row.hours == pytest.approx(flops(spec)/1e12/3600)
    assert plan.table.state.tolist() == ['complete', *['to do']*(len(specs) - 1), 'selection open']
    assert plan.table.run.iloc[-1] == 'tiny/resnet34-resnet18/feature/(selected)/s0'
    measured = costs.plan('tiny', tmp_path)
    assert measured.source == 'finished runs of this profile' and measured.speed == pytest.approx(flops(next(iter(specs.values())))/9)


def test_the_plan_names_every_run_its_cost_and_trains_nothing(tmp_path):
    table, speed, source = costs.plan('paper-v1', tmp_path, speed=1e15)
    assert len(table) == 37 and list(tmp_path.iterdir()) == []
    main = table[table.stage.isin(['teacher', 'final'])]
    assert len(main) == 26 and abs(main.PFLOP.sum()/1000 - 0.94) < 0.01
    assert abs(table.hours.sum() - table.PFLOP.sum()/3600) < 1e-6


def test_without_a_finished_run_the_speed_is_that_of_a_step_here(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(costs, 'step_speed', lambda spec: asked.append(spec) or 5e9)
    assert costs.assumed_speed('demo', tmp_path) == (5e9, 'one training step of a ResNet-18 here')
    assert asked == [next(iter(runs_of('demo', tmp_path).values()))]


def test_the_speed_of_a_step_is_its_operations_over_its_seconds(monkeypatch):
    passes = []
    backward = costs.torch.Tensor.backward
    monkeypatch.setattr(costs.torch.Tensor, 'backward', lambda loss: passes.append(loss.shape) or backward(loss))
    ticks = iter([1., 100., 104.])  # a first step that warms up, then one of 4 s
    monkeypatch.setattr(costs.time, 'perf_counter', lambda: next(ticks))
    spec = baseline().replace(batch_size=16, width=4)
    assert costs.step_speed(spec, 'cpu') == 3*forward('resnet18', (1, 8, 8), width=4)*16/4
    assert passes == [()]*2  # of a scalar, forward and backward
    ticks = iter([0., 0., 2.])
    assert costs.step_speed(spec.replace(batch_size=128), 'cpu') == 3*forward('resnet18', (1, 8, 8), width=4)*32/2  # 32 are enough


def test_what_remains_is_all_that_is_not_complete(study):
    results, specs = study
    left = costs.remaining('demo', results)
    todo = [s for s in runs_of('demo', results).values() if s.run_id not in (specs[0].run_id, specs[1].run_id)]
    assert left['runs'] == len(todo) and left['flop'] == pytest.approx(sum(map(flops, todo)))
    assert left['speed'] == pytest.approx((flops(specs[0]) + flops(specs[1]))/27) and left['seconds'] == pytest.approx(left['flop']/left['speed'])
    write(runs_of('demo', results).values(), results)
    assert costs.remaining('demo', results)['runs'] == 0 and costs.remaining('demo', results)['seconds'] == 0
