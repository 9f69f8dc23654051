"""The replication planner: what a budget buys, from study.plan and statistics, and what it says when that is too little."""
import subprocess

import pytest
from conftest import ROOT
from made_up import write

from kd_capacity import budget as planner
from kd_capacity import claims, config, statistics, study
from kd_capacity.config import UserError
from kd_capacity.power import detectable

SPEED = 20e12


def hours_of(name, **kept):
    specs = [s for s in config.study_runs(name, {(t, s, m): config.grid(config.profile(name), m)[0] for t, s in config.profile(name).pairs for m in ('logit', 'feature')} if config.profile(name).selection else None)]
    return sum(study.flops(s) for s in specs if all(getattr(s, k) in v for k, v in kept.items()))/SPEED/3600


def cells_of_seed_zero():
    "Specs of seed 0 of every cell that has seeds, R50's stems included."
    return dict(stage=('final', 'clipping', 'stem'), seed=(0,))


def test_the_profile_itself_costs_its_plan(tmp_path):
    b = planner.budget('paper-v2', 100, tmp_path, SPEED)
    assert b.once == pytest.approx(hours_of('paper-v2', stage=('teacher', 'select')))
    assert b.a_seed == pytest.approx(hours_of('paper-v2', **cells_of_seed_zero()))
    assert (b.planned, b.source) == (5, 'given')


def test_hours_pay_for_every_stem_that_a_claim_counts(tmp_path):
    "The profile has three seeds of two stems and one of R50's; five seeds of all cost more than its plan."
    b = planner.budget('paper-v2', 100, tmp_path, SPEED)
    planned = study.plan('paper-v2', tmp_path, SPEED)[0].hours.sum()
    five = b.once + 5*b.a_seed
    assert five > planned
    assert [planner.budget('paper-v2', five + x, tmp_path, SPEED).seeds for x in (1e-6, -1e-3)] == [5, 4]


@pytest.mark.parametrize('name', ['paper-v1', 'paper-v2', 'fast'])
def test_more_hours_never_buy_fewer_seeds(name, tmp_path):
    seeds = [planner.budget(name, h, tmp_path, SPEED).seeds for h in (1, 10, 50, 100, 300)]
    assert seeds == sorted(seeds) and seeds[0] < seeds[-1]


def test_what_is_done_costs_nothing(tmp_path):
    specs = config.study_runs('demo')
    before = planner.budget('demo', 1e-5, tmp_path, SPEED)
    write([s for s in specs if s.stage in ('teacher', 'stem') or s.seed == 0], tmp_path)
    after = planner.budget('demo', 1e-5, tmp_path, SPEED)
    assert after.once == 0 < before.once and after.seeds > before.seeds
    assert planner.budget('demo', after.a_seed/1000, tmp_path, SPEED).seeds == 1  # seed 0 is there


def test_speed_of_finished_runs_is_used_and_named(tmp_path):
    write(config.study_runs('demo'), tmp_path)
    b = planner.budget('demo', 1, tmp_path)
    assert b.source == 'finished runs of this profile' and b.speed == pytest.approx(study.measured_speed('demo', tmp_path))
    sd, of = planner.seed_std('demo', tmp_path)
    from kd_capacity import records
    assert sd == pytest.approx(statistics.pooled_std(records.load_runs(tmp_path/'demo'))[0]) and of.startswith('runs of demo')


def test_without_records_the_published_spread_is_used_and_said(tmp_path):
    sd, of = planner.seed_std('paper-v2', tmp_path)
    assert sd == pytest.approx(.14, abs=.005) and of == 'the published table'
    text = planner.plan_text('paper-v2', 100, tmp_path, SPEED)
    n = planner.budget('paper-v2', 100, tmp_path, SPEED).seeds
    assert f'{n} seeds a cell (the profile has 5)' in text and 'spread 0.14 pp (the published table)' in text
    for t, i in (1, False), (8, False), (1, True): assert f'{detectable(n, sd, tests=t, interaction=i):.2f} pp' in text
    assert f'train {n} seeds of every cell' in text and 'make study PROFILE=paper-v2' in text and text.count('\n  v') == 11


def test_a_budget_that_buys_nothing_says_what_would(tmp_path):
    text = planner.plan_text('paper-v2', 1, tmp_path, SPEED)
    b = planner.budget('paper-v2', 1, tmp_path, SPEED)
    assert 'too little' in text and f'{b.once + 2*b.a_seed:.3g} GPU-hours' in text and 'Stopping rule' not in text


def test_decidable_grows_with_seeds_and_knows_the_pairs():
    few, many = planner.decidable(5, .14), planner.decidable(500, .14)
    assert few.decidable.sum() < many.decidable.sum() and (many.decidable | ~few.decidable).all()
    assert few.set_index('claim').note['v2.4'] == 'no figures with a spread are printed'
    v1 = planner.decidable(500, .14, config.profile('paper-v1').pairs).set_index('claim')
    assert 'lacks R101 → R34' in v1.note['v2.2'] and not v1.decidable['v2.2'] and v1.decidable['v1.2']


def test_decidable_says_which_way():
    d = planner.decidable(5, .14).set_index('claim')
    assert d.verdict[['v1.1', 'v1.2', 'v1.3', 'v2.1', 'v2.7']].tolist() == ['supported', 'contradicted', 'supported', 'contradicted', 'supported']
    assert (d.verdict[d.seeds_needed.isna()] == '').all()


class AsEstimated:
    "The world in which the published table is the truth."
    coupling = optimism = 0.
    def __init__(self, e): self.cells = e.cells['accuracy']


@pytest.mark.parametrize('claim', ['v1.2', 'v2.2', 'v2.3', 'v2.7'])
def test_enough_seeds_decide_in_simulation(claim, monkeypatch):
    "With the seeds that the planner asks for, a claim is decided in 80 % of made-up replications of the published truth: all parts at once, both bounds."
    e = claims.published_evidence()
    claim = next(c for c in claims.CLAIMS if c.id == claim)
    needed = claims.seeds_to_decide(claim.parts(e), .137)
    monkeypatch.setattr(claims, 'true_mean', lambda truth, key, metric='accuracy': truth.cells[key].mean if key in truth.cells else 0.)
    rates = claims.verdict_rates(claim, claims.planned_study(int(needed.seeds)), AsEstimated(e), 4000)
    assert .78 < rates[('supported', 'contradicted').index(needed.verdict)] < .93
    fewer = claims.verdict_rates(claim, claims.planned_study(int(needed.seeds*.6)), AsEstimated(e), 4000)
    assert fewer[('supported', 'contradicted').index(needed.verdict)] < .8


def test_other_images_decide_nothing(tmp_path):
    text = planner.plan_text('demo', 1e-4, tmp_path, SPEED)
    assert 'learn digits: they decide no claim about CIFAR-10' in text and '  v1.1' not in text


@pytest.mark.parametrize('hours', [0, -1, float('nan'), float('inf'), 'many'])
def test_bad_hours_are_refused(hours, tmp_path):
    with pytest.raises(UserError, match='GPU_HOURS = .* is not valid'): planner.budget('demo', hours, tmp_path, SPEED)


def test_command_line(tmp_path, capsys):
    planner.plan_budget('paper-v2', 100, tflops=20, results=str(tmp_path))
    assert 'Stopping rule' in capsys.readouterr().out
    with pytest.raises(SystemExit, match="Did you mean 'paper-v2'"): planner.plan_budget('paper-v3', 1, tflops=1)


def make(*args):
    return subprocess.run(['make', '-n', '-o', '.venv/.ready', *args], cwd=ROOT, capture_output=True, text=True)


def test_make_plan_passes_the_hours_on():
    assert 'kd_capacity.budget paper-v2 100' in make('plan', 'PROFILE=paper-v2', 'GPU_HOURS=100').stdout
    assert 'kd_capacity.budget' not in make('plan', 'PROFILE=paper-v2').stdout
