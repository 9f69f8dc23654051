"""Studies of thousands of runs: made once, in time that grows with the runs and no faster."""
import sys
from collections import Counter

import pytest
from conftest import ROOT

from kd_capacity import pages, profiles, scale, sections, tables
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
