"""Studies of thousands of runs: made once, in time that grows with the runs and no faster."""
import pytest

from kd_capacity import profiles, scale
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


def test_the_cost_grows_like_the_runs():
    with scale.study_of(50) as name: runs_of(name, 'nowhere')  # what only the first call does
    rows = [scale.costs_of_scale(runs, commands=False) for runs in (50, 500, 2000)]
    table = scale.pd.DataFrame(rows)
    assert scale.exponent(table, 'graph') < 1.3 and scale.exponent(table, 'look') < 1.3  # squared: 2
    assert rows[-1]['graph'] < 4


def test_snakemake_goes_through_a_thousand_runs_in_seconds(tmp_path):
    with scale.study_of(1000) as name:
        command = scale.snakemake_command(name, tmp_path, 2, '--dry-run')
        assert scale._command_seconds(command) < 30  # of processor time; 10 on the machine where this was written


@pytest.mark.parametrize('power', [1, 1.5, 2])
def test_the_exponent_is_that_of_the_part_that_grows(power):
    table = scale.pd.DataFrame([{'runs': n, 'graph': 7 + 0.01*(n - 20)**power} for n in (20, 500, 1000, 5000)])
    assert scale.exponent(table, 'graph') == pytest.approx(power)
