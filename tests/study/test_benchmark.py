"""The benchmark: every cell beside a plain loop, kept and shown."""
import json
import subprocess
import sys

import nbformat
import pytest
import torch

from conftest import ROOT
from kd_capacity import benchmark
from kd_capacity.engine import ENGINES


@pytest.fixture(scope='module')
def result():
    return benchmark.run(minutes=0, device='cpu', width=4, batch=4, cells=('R18', 'R50→R18 logit', 'R50→R18 feature'), say=lambda _: None)


def test_each_switch_that_is_on_is_turned_off_where_it_matters(result):
    off = benchmark.switches(result).groupby('cell').switch.agg(set)
    on = {'channels_last', 'keep_memory'} | ({'bfloat16'} if benchmark.engine_for('fast', torch.device('cpu')).bfloat16 else set())
    assert off['R18'] == on and off['R50→R18 logit'] == on | {'table'} and off['R50→R18 feature'] == on | {'folded'}
    assert set(benchmark.without(ENGINES['fast']['cuda'])) == {f'without {k}' for k in ('channels_last', 'folded', 'table', 'bfloat16', 'compiled', 'fused')}


def test_the_table_holds_what_was_measured(result):
    t, cell = benchmark.table(result), result['cells']['R18']
    plain, fast = (cell['measured'][k] for k in ('plain', 'fast'))
    assert t.ratio['R18'] == plain['seconds']/fast['seconds'] and t.images_per_second['R18'] == 4/fast['seconds']
    assert t.share_of_peak['R18'] == pytest.approx(cell['flops']/fast['seconds']/result['peak_flops'])
    assert result['cells']['R50→R18 logit']['flops'] == cell['flops'] < result['cells']['R50→R18 feature']['flops']


def test_the_report_shows_what_was_kept(result, tmp_path):
    result = json.loads(json.dumps(result))
    result['machine']['device'] = 'A <b>machine</b>'
    benchmark.write(result, tmp_path/'benchmarks')
    done = subprocess.run([sys.executable, '-m', 'papermill', str(ROOT/'nbs'/'report'/'benchmark.ipynb'), str(tmp_path/'out.ipynb'), '--cwd', str(ROOT/'nbs'/'report'),
                           '-k', 'python3', '-p', 'results', str(tmp_path), '--no-progress-bar'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    outputs = [o for c in nbformat.read(tmp_path/'out.ipynb', 4).cells for o in c.get('outputs', [])]
    shown = '\n'.join(''.join(o.get('data', {}).get('text/markdown', '')) for o in outputs)
    tables = '\n'.join(''.join(o.get('data', {}).get('text/html', '')) for o in outputs)
    assert '## A' in shown and '<b>' not in shown and 'What bounds it' in shown
    assert f"{benchmark.table(result).ratio['R18']:.2f}" in tables and '<figure' in tables and '<svg' in tables
