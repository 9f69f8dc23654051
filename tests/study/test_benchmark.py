"""The benchmark: every cell beside a plain loop, kept and shown."""
import json
import os
import platform
import subprocess

import nbformat
import pytest
import torch

from conftest import ROOT
from kd_capacity import benchmark, findings, models, sections
from kd_capacity.basics import UserError
from kd_capacity.config import RunSpec
from kd_capacity.costs import flops
from kd_capacity.engine import ENGINES, engine_for
from kd_capacity.profiles import run_spec


@pytest.fixture(scope='module')
def result():
    return benchmark.run(minutes=0, device='cpu', width=4, batch=4, say=lambda _: None,
                         cells=('R18', 'R50→R18 logit', 'R50→R18 feature'))


def test_each_switch_that_is_on_is_turned_off_where_it_matters(result):
    off = benchmark.switches(result).groupby('cell').switch.agg(set)
    bfloat16 = engine_for('fast', torch.device('cpu')).bfloat16
    on = {'channels_last', 'keep_memory'} | ({'bfloat16'} if bfloat16 else set())
    assert off['R18'] == on
    assert off['R50→R18 logit'] == on | {'cache'} and off['R50→R18 feature'] == on | {'folded'}
    on_gpu = 'channels_last', 'folded', 'cache', 'bfloat16', 'compiled', 'fused'
    assert set(benchmark.without(ENGINES['fast']['cuda'])) == {f'without {k}' for k in on_gpu}


def test_the_table_holds_what_was_measured(result):
    t, cell = benchmark.benchmark_table(result), result['cells']['R18']
    plain, fast = (cell['measured'][k] for k in ('plain', 'fast'))
    assert t.ratio['R18'] == plain['seconds']/fast['seconds'] and t.images_per_second['R18'] == 4/fast['seconds']
    assert t.share_of_peak['R18'] == pytest.approx(cell['flops']/fast['seconds']/result['peak_flops'])
    assert result['cells']['R50→R18 logit']['flops'] == cell['flops'] < result['cells']['R50→R18 feature']['flops']


def test_the_benchmarks_in_the_repository_are_read():
    assert set(benchmark.read_benchmarks(ROOT/'results'/'benchmarks')) >= {'amd-epyc-2-cores-bfloat16'}


@pytest.mark.parametrize('change, told', [
    (lambda r: r['machine'].pop('device'), 'machine.device is missing'),
    (lambda r: r.update(batch=0), 'batch = 0 is not valid'),
    (lambda r: r.update(peak_flops=True), 'peak_flops = True is not valid'),
    (lambda r: r.update(notes=''), "key 'notes' is not known"),
    (lambda r: r['cells']['R18']['measured'].pop('plain'), "lacks the loop 'plain'"),
    (lambda r: r['cells']['R18']['measured']['fast'].update(seconds=0.), 'seconds = 0.0 is not'),
    (lambda r: r['cells']['R18']['spec'].update(method='no'), "method = 'no' is not known"),
])
def test_a_file_that_is_no_benchmark_is_refused_in_one_sentence(result, tmp_path, change, told):
    changed = json.loads(json.dumps(result))
    change(changed)
    (tmp_path/'changed.json').write_text(json.dumps(changed))
    with pytest.raises(UserError, match='changed.json: ') as error: benchmark.read_benchmarks(tmp_path)
    assert told in str(error.value)


def test_the_report_shows_what_was_kept(result, tmp_path, warm):
    result = json.loads(json.dumps(result))
    result['machine']['device'] = 'A <b>machine</b>'
    benchmark.write_benchmark(result, tmp_path/'benchmarks')
    pages, out = ROOT/'nbs'/'report', tmp_path/'out.ipynb'
    call = ['papermill', pages/'benchmark.ipynb', out, '--cwd', pages,
            '-k', 'python3', '-p', 'results', tmp_path, '--no-progress-bar']
    done = subprocess.run(map(str, call), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    outputs = [o for c in nbformat.read(out, 4).cells for o in c.get('outputs', [])]
    shown = '\n'.join(''.join(o.get('data', {}).get('text/markdown', '')) for o in outputs)
    tables = '\n'.join(''.join(o.get('data', {}).get('text/html', '')) for o in outputs)
    assert 'On A' in shown and '<b>' not in shown and 'What bounds it' in shown
    assert f"{result['shares']['convolutions']:.0%} on convolutions" in shown
    table = benchmark.benchmark_table(result)
    for ratio in 'ratio', 'paper_ratio', 'faithful_ratio':
        assert f'{table[ratio]["R18"]:.2f} ×' in tables
    assert '<figure' in tables and '<svg' in tables


def test_a_file_without_the_papers_loop_says_so(result):
    old = json.loads(json.dumps(result))
    for cell in old['cells'].values(): del cell['measured']['paper']
    del old['shares']
    text = findings.benchmark_text(benchmark.benchmark_table(old))
    assert set(text["Fast over the paper's"]) == {'not measured'}
    assert 'not measured' not in set(text['Fast over plain'])
    heading = next(iter(sections._machine_blocks(old))).markdown.splitlines()[0]
    assert 'as fast as the plain loop' in heading and 'nan' not in heading
    assert 'convolutions.' not in benchmark.bound(old)


def test_two_arithmetics_of_one_machine_are_two_files(result, tmp_path):
    other = result | {'machine': result['machine'] | {'arithmetic': 'bfloat16'}}
    one = result | {'machine': result['machine'] | {'arithmetic': 'float32'}}
    for r in one, other: benchmark.write_benchmark(r, tmp_path)
    assert list(benchmark.read_benchmarks(tmp_path).values()) == [other, one]


# --- what is measured, without measuring

CPU, CUDA = torch.device('cpu'), torch.device('cuda')


def test_images_are_made_once_and_lie_on_the_device():
    here, there = benchmark.synthetic(6, CPU), benchmark.synthetic(6, torch.device('meta'))
    assert all(t.device.type == 'meta' for t in there) and all(t.device.type == 'cpu' for t in here)
    assert here.images.shape == (6, 3, 32, 32) and here.images.dtype == torch.uint8 and here.labels.shape == (6,) and set(here.labels.tolist()) <= set(range(10))
    assert torch.equal(here.images, benchmark.synthetic(6, CPU).images)


def test_the_plain_loader_does_what_the_tutorials_do():
    few = benchmark.synthetic(10, CPU)
    torch.manual_seed(0)  # of 162 crops and flips one changes nothing
    batches = list(benchmark.plain_loader(few, 4))
    images, labels = (torch.cat(part) for part in zip(*batches))
    assert [len(y) for _, y in batches] == [4, 4, 2] and sorted(labels.tolist()) == sorted(few.labels.tolist())
    assert images.shape == (10, 3, 32, 32) and images.dtype == torch.float32
    assert images.min() == -2 and images.max() == 2 # pixels of 0 and 1, less a mean of .5, over a deviation of .25
    assert not any(torch.equal(a, b) for a in images for b in (few.images/255 - .5)/.25)  # cropped, and some flipped


def test_a_loop_is_measured_by_its_first_step_and_by_blocks(monkeypatch):
    asked = []
    class Loop:
        device = CPU
        def __init__(self, name): self.name = name
        def seconds(self, k):
            asked.append((self.name, k))
            return float(len(asked))
    monkeypatch.setattr(benchmark, '_loop', lambda engine, images, spec, folder: Loop(folder.name))
    measured = benchmark.cell('spec', {'fast': 'an engine'}, 'images', rounds=3, block=5)
    assert list(measured) == ['plain', 'paper', 'fast']
    first = [(name, k) for name in measured for k in (1, 5)]
    assert asked == first + 2*first
    for name, m in measured.items():
        at = [i + 1 for i, (who, k) in enumerate(asked) if who == name and k == 5]
        assert m['blocks'] == at and m['seconds'] == at[1] and m['first'] == at[0] - 1 and m['memory'] > 0


def test_of_the_loaders_the_first_epoch_warms_up(monkeypatch):
    took, seen = iter([9., 90., 1., 10., 2., 20., 3., 30., 4., 40., 5., 50.]), []
    def seconds(batches, device, keep):
        seen.append((len(batches.dataset) if hasattr(batches, 'dataset') else sum(len(x) for x, *_ in batches), device, keep))
        return next(took)
    monkeypatch.setattr(benchmark, '_image_seconds', seconds)
    assert benchmark.pipeline(CPU, images=3) == {'plain': 3., 'ours': 30., 'ratio': .1}
    assert seen == [(3, CPU, False), (24, CPU, engine_for('fast', CPU).keep_memory)]*6


@pytest.mark.parametrize('device, block, dtype', [(CPU, 1, torch.float32), (CUDA, 20, torch.bfloat16)])
def test_time_is_dealt_out_by_the_work_of_the_cells(device, block, dtype, monkeypatch, result):
    seen, said = [], []
    monkeypatch.setattr(benchmark, 'peak_flops', lambda *given: seen.append(given) or 1e15)
    monkeypatch.setattr(benchmark, 'pipeline', lambda device: 'loaders')
    monkeypatch.setattr(benchmark, 'machine', lambda device: 'here')
    monkeypatch.setattr(benchmark, 'step_shares', lambda spec, engine, device: {'all': 1.})
    monkeypatch.setattr(benchmark, '_rounds', lambda *given: seen.append(given) or 7)
    monkeypatch.setattr(benchmark, '_measured_cell', lambda plan, rounds, block, device: seen.append((rounds, block, device)) or dict(
        rounds=rounds, measured={name: {'seconds': 2.} for name in ('plain', 'paper', 'fast', 'faithful')}))
    if device is CPU and engine_for('fast', CPU).bfloat16: dtype = torch.bfloat16
    made = benchmark.run(minutes=10, device=device.type, width=4, batch=8, cells=('R18', 'R34'), say=said.append)
    assert seen[0] == (device, dtype) and seen[2] == seen[4] == (7, block, device)
    (share, work, peak, by), (rest, work_, *_) = seen[1], seen[3]
    assert (peak, by) == (1e15, block) and share == pytest.approx(600*work/(work + work_), rel=.02) and rest == pytest.approx(600, rel=.02)
    assert said == [f'{name}: fast is 1.00 times the plain loop, 1.00 times the paper\'s; faithful 1.00 times the paper\'s (7 rounds)' for name in ('R18', 'R34')]
    assert (made['machine'], made['pipeline'], made['shares'], made['width'], made['batch']) == ('here', 'loaders', {'all': 1.}, 4, 8)
    assert list(made['cells']) == ['R18', 'R34'] and made['peak_flops'] == 1e15 and made['minutes'] >= 0


@pytest.mark.parametrize('there, kind', [(False, 'cpu'), (True, 'cuda')])
def test_it_is_measured_on_a_gpu_where_there_is_one(there, kind, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: there)
    for name in 'peak_flops', 'pipeline', 'machine', 'step_shares':
        monkeypatch.setattr(benchmark, name, lambda *given: next(g for g in given if isinstance(g, torch.device)).type)
    made = benchmark.run(cells=())
    assert made['peak_flops'] == made['pipeline'] == made['machine'] == made['shares'] == kind and made['cells'] == {}


def test_rounds_fit_into_the_time():
    for seconds, rounds in (0, 1), (9.9, 1), (20, 2), (55, 5), (1000, 10):
        assert benchmark._rounds(seconds, work=4e9, peak=2e9, block=1) == rounds # 5 s a step of every loop, two a round


def test_a_measured_cell_has_images_for_all_of_its_steps(monkeypatch):
    seen = []
    monkeypatch.setattr(benchmark, 'cell', lambda spec, engines, images, rounds, block: seen.append((len(images.images), images.images.device, rounds, block)) or {})
    fast, spec = engine_for('fast', CPU), benchmark._spec('resnet18', 'resnet34', 'logit', batch=4, width=4)
    made = benchmark._measured_cell(benchmark._Plan(spec, {'fast': fast}), 3, 2, torch.device('meta'))
    assert seen == [(4*3*3, torch.device('meta'), 3, 2)]
    alone = 4*3*models.forward_flops('resnet18', (3, 32, 32), width=4)
    assert made['flops'] == alone and made['rounds'] == 3 and made['spec'] == spec.to_dict()  # the teacher is looked up
    spec = benchmark._spec('resnet18', 'resnet34', 'feature', batch=4, width=4)
    assert benchmark._measured_cell(benchmark._Plan(spec, {'fast': fast}), 1, 1, CPU)['flops'] == alone + 4*models.forward_flops('resnet34', (3, 32, 32), width=4)


def test_a_machine_says_what_it_is(monkeypatch):
    here = benchmark.machine(CPU)
    assert here['kind'] == 'cpu' and here['threads'] == torch.get_num_threads() and here['cores'] == len(os.sched_getaffinity(0))
    assert here['arithmetic'] == ('bfloat16' if engine_for('fast', CPU).bfloat16 else 'float32') and here['torch'] == torch.__version__
    assert here['device'] == benchmark._cpu_name() and here['python'] == platform.python_version() and here['date'].endswith('+00:00')
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: f'a GPU, {device}')
    assert (benchmark.machine(CUDA)['device'], benchmark.machine(CUDA)['arithmetic']) == ('a GPU, cuda', 'bfloat16')


@pytest.mark.parametrize('operation, kind', [('aten::mkldnn_convolution', 'convolutions'), ('cudnn_frontend', 'convolutions'), ('aten::native_batch_norm_backward', 'batch norms'),
                                             ('aten::clamp_min_', 'ReLUs'), ('aten::threshold_backward', 'ReLUs'), ('relu', 'ReLUs'), ('aten::copy_', 'everything else')])
def test_an_operation_has_a_kind(operation, kind): assert benchmark._kind_of_operation(operation) == kind


def test_the_shares_of_a_step_are_all_of_it():
    shares = benchmark.step_shares(benchmark._spec('resnet18', batch=4, width=4), engine_for('fast', CPU), CPU)
    assert sum(shares.values()) == pytest.approx(1) and set(shares) == {'convolutions', 'batch norms', 'ReLUs', 'everything else'}


def test_what_bounds_it_is_said_with_its_shares(result):
    said = benchmark.bound({**result, 'shares': {'convolutions': .2, 'ReLUs': .7, 'everything else': .1}})
    assert ' A fast step of R18 spends 70% on ReLUs, 20% on convolutions, 10% on everything else. ' in said
    table = benchmark.benchmark_table(result)
    assert f'{table.share_of_peak.min():.0%} to {table.share_of_peak.max():.0%}' in said
    plain = (table.share_of_peak*table.fast_step/table.plain_step).drop('R50→R18 logit')
    assert f'the plain loop of {plain.idxmax()} is at {plain.max():.0%} already' in said


def test_a_table_has_the_seconds_of_an_epoch(result):
    t, cells = benchmark.benchmark_table(result), result['cells']
    for name, c in cells.items():
        loops, row = c['measured'], t.loc[name]
        steps = -(-45_000//4)
        assert (row.plain_epoch, row.fast_epoch) == (loops['plain']['seconds']*steps, loops['fast']['seconds']*steps)
        assert (row.paper_step, row.faithful_step, row.first_step, row.memory, row.plain_memory, row.rounds) == (
            loops['paper']['seconds'], loops['faithful']['seconds'], loops['fast']['first'], loops['fast']['memory'], loops['plain']['memory'], c['rounds'])
        assert row.paper_ratio == loops['paper']['seconds']/loops['fast']['seconds'] and row.faithful_ratio == loops['paper']['seconds']/loops['faithful']['seconds']
    ratios = benchmark.switches(result).set_index(['cell', 'switch']).ratio
    assert ratios['R18', 'channels_last'] == cells['R18']['measured']['without channels_last']['seconds']/cells['R18']['measured']['fast']['seconds']


def test_a_study_takes_what_its_cells_took_and_the_rest_by_its_arithmetic(result):
    spec = benchmark._spec('resnet18', batch=4, width=4).replace(epochs=2)
    other = spec.replace(student='resnet34')
    took = benchmark.study_seconds([spec], result)
    assert took == (2*-(-50_000//4)*result['cells']['R18']['measured']['fast']['seconds'], 0)
    both = benchmark.study_seconds([spec, other], result)
    speed = benchmark.average_speed(result)
    assert both.estimated == 1 and both.seconds == pytest.approx(took.seconds + flops(other)/speed)
    assert benchmark.study_seconds([spec.replace(width=8)], result).estimated == 1
    work = sum(benchmark.step_flops(RunSpec.from_json(c['spec'])) for c in result['cells'].values())
    assert benchmark.average_speed(result, 'plain') == pytest.approx(work/sum(c['measured']['plain']['seconds'] for c in result['cells'].values()))


def test_a_run_belongs_to_the_cell_that_it_trains():
    specs = {name: benchmark._spec(*trained) for name, trained in benchmark.CELLS.items()}
    assert {name: benchmark.cell_of(spec) for name, spec in specs.items()} == {name: name for name in benchmark.CELLS}
    assert benchmark.cell_of(specs['R18'].replace(stem='imagenet')) is None and benchmark.cell_of(specs['R18'].replace(student='resnet101')) is None
    assert benchmark.cell_of(run_spec('demo', 'teacher', teacher='resnet50')) == 'R50'
