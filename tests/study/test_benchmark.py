"""The benchmark: every cell beside a plain loop, kept and shown."""
import json
import subprocess

import nbformat
import pytest
import torch

from conftest import ROOT
from kd_capacity import benchmark, findings, sections
from kd_capacity.basics import UserError
from kd_capacity.engine import ENGINES, engine_for


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
