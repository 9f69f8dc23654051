"""Studies of thousands of runs: made once, in time that grows with the runs and no faster."""
import json
import os
import subprocess
import sys
from collections import Counter

import pytest
from conftest import ROOT

from kd_capacity import pages, profiles, scale, sections, tables
from kd_capacity.basics import UserError
from kd_capacity.progress import StudyProgress
from kd_capacity.selection import runs_of


def test_a_profile_is_read_once_and_its_runs_are_made_once(tmp_path, monkeypatch):
    read = []
    loads = profiles.tomllib.loads
    monkeypatch.setattr(profiles.tomllib, 'loads', lambda text: read.append(text) or loads(text))
    with scale.study_of(200) as name:
        runs = runs_of(name, tmp_path)
        assert all(runs_of(name, tmp_path) is runs for _ in range(20))
        StudyProgress(name, tmp_path).look()
    assert len(runs) == 202 and len(read) == 1


def calls_in(make):
    "How many functions are called: what takes time, without the clock."
    counted = Counter()
    sys.setprofile(lambda frame, event, argument: counted.update([event]))
    try: make()
    finally: sys.setprofile(None)
    return counted['call'] + counted['c_call']


def test_the_cost_grows_like_the_runs():
    with scale.study_of(50) as name: runs_of(name, 'nowhere')  # what only the first call does
    counted = {'runs': [], 'calls': []}
    for runs in 50, 500, 2000:
        rows = []
        counted['calls'].append(calls_in(lambda: rows.append(scale.costs_of_scale(runs, commands=False))))
        counted['runs'].append(rows[0]['runs'])
    assert scale.exponent(scale.pd.DataFrame(counted), 'calls') < 1.1  # squared: 2


def test_snakemake_goes_through_a_thousand_runs_in_seconds(tmp_path):
    with scale.study_of(1000) as name:
        command = scale.snakemake_command(name, tmp_path, 2, '--dry-run')
        assert scale._command_seconds(command) < 30  # of processor time; 10 on the machine where this was written


@pytest.mark.parametrize('power', [1, 1.5, 2])
def test_the_exponent_is_that_of_the_part_that_grows(power):
    table = scale.pd.DataFrame([{'runs': n, 'graph': 7 + 0.01*(n - 20)**power} for n in (20, 500, 1000, 5000)])
    assert scale.exponent(table, 'graph') == pytest.approx(power)


def test_the_measured_growth_is_on_the_benchmark_page_and_near_linear(tmp_path):
    text, figure = sections.scale_section(pages.Report([], ROOT/'results'))
    rows = scale.read_scale(ROOT/'results'/'benchmarks'/'scale')
    powers = scale.exponents(rows)
    assert set(powers) == {'graph', 'look', 'plan', 'dry_run'} and max(powers.values()) <= 1.1 and rows[-1]['runs'] > 4900
    assert all(f'{power:.2f}' in text.markdown and f'{power:.2f}' in figure.caption for power in powers.values())
    assert [len(line.get_xdata()) for line in figure.drawn.lines] == [len(rows) - 1]*4
    assert [t.get_text().partition(':')[0].replace(' ', '_') for t in figure.drawn.texts] == list(powers)  # each line is named at its end
    assert 'sections.scale_section' in (ROOT/'nbs'/'report'/'benchmark.ipynb').read_text()
    assert list(sections.scale_section(pages.Report([], tmp_path))) == []


def test_half_a_study_is_completed_by_its_plan_in_time_that_grows_with_the_runs(monkeypatch):
    "Whether a run is there is asked of a set that is made once."
    import pandas as pd
    from made_up import baseline, cell, frame
    runs = frame(cell(baseline(), [.9]*40))
    asked = []
    iterate = pd.Series.__iter__
    monkeypatch.setattr(pd.Series, '__iter__', lambda column: asked.append(column.name) or iterate(column))
    table = tables.with_plan(runs, [baseline(seed=seed) for seed in range(80)])
    assert table.status.value_counts().to_dict() == {'complete': 40, 'missing': 40} and asked.count('run_id') <= 2


ROW = {'runs': 20, 'graph': .5, 'look': .25, 'plan': 1., 'dry_run': 2.}


def test_the_measurement_is_kept_and_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('KD_RESULTS', str(tmp_path))
    measured = []
    def costs_of_scale(runs):
        measured.append(runs)
        return {k: v*runs/20 if k != 'runs' else runs for k, v in ROW.items()}
    monkeypatch.setattr(scale, 'costs_of_scale', costs_of_scale)
    scale.main(most=1000)
    assert measured == [20, 500, 1000]
    kept = tmp_path/'benchmarks'/'scale'/'scale.json'
    rows = scale.read_scale(kept.parent)
    assert rows == [costs_of_scale(n) for n in (20, 500, 1000)] and kept.read_text() == json.dumps(rows, indent=1)
    said = capsys.readouterr().out
    assert said == f'{scale.pd.DataFrame(rows).round(2).to_string(index=False)}\n{scale.scale_text(rows)}\n'
    assert 'graph 1.00, look 1.00, plan 1.00, dry run 1.00.' in said and 'of 1000 runs takes 12.50 s a look and pauses 250 s or more' in said


def test_too_few_rows_and_none_are_told_apart(tmp_path):
    assert scale.read_scale(tmp_path) == []
    (tmp_path/'scale.json').write_text(json.dumps([ROW, ROW]))
    with pytest.raises(UserError, match='measure again by make scale'): scale.read_scale(tmp_path)


def test_the_time_of_a_command_is_that_of_its_processor():
    busy = ['sh', '-c', 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 0.3; echo hello']
    assert 0 < scale._command_seconds(busy) < 10 and scale._command_seconds(['sleep', '0.5']) < .3
    with pytest.raises(subprocess.CalledProcessError): scale._command_seconds(['false'])


def test_commands_are_measured_where_they_are_wanted(monkeypatch):
    asked = []
    monkeypatch.setattr(scale, '_command_seconds', lambda command: asked.append(command) or float(len(asked)))
    row = scale.costs_of_scale(10)
    assert (row['runs'], row['plan'], row['dry_run']) == (12, 1., 2.)
    results = asked[0][-1]
    assert asked[0] == [sys.executable, '-m', 'kd_capacity.study', 'plan', 'seeds10', '--results', results]
    assert asked[1][1:3] == ['-m', 'snakemake'] and {'profile=seeds10', f'results={results}', '--dry-run'} <= set(asked[1])
    assert asked[1][asked[1].index('--cores') + 1] == '2' and not os.path.exists(results)
    monkeypatch.setattr(scale, '_own_seconds', lambda act: act() or 0.)
    with pytest.raises(UserError, match='a row of scale'): scale.costs_of_scale(10, commands=False)


@pytest.mark.parametrize('before', [None, 'elsewhere'])
def test_a_made_up_study_leaves_the_profiles_as_they_were(before, monkeypatch):
    if before: monkeypatch.setenv('KD_PROFILES', before)
    else: monkeypatch.delenv('KD_PROFILES', raising=False)
    with scale.study_of(23) as name: assert name == 'seeds23' and len(runs_of(name, 'nowhere')) == 4*5 + 2
    assert os.environ.get('KD_PROFILES') == before
