"""Selection bias: what choosing on the test set adds, by noise and as observed."""
import numpy as np
import pytest
from gains import A, B, whole
from made_up import baseline, cell, frame, row, student

from kd_capacity import selection_bias, statistics


def selection(test, validation, **more):
    "Runs of stage select, a configuration each."
    configurations = [{'alpha': a, 'temperature': t} for a in (.3, .5, .7) for t in (2., 3., 4.)]
    return [row(student(stage='select', **c), test_best=x, validation_best=v, **more) for c, x, v in zip(configurations, test, validation)]


def test_optimism_is_best_on_test_minus_best_by_validation():
    runs = frame(cell(student(), A) + cell(baseline(), B) + selection([.95, .951, .953], [.96, .97, .94]))
    r = selection_bias.selection_optimism(runs).iloc[0]
    assert (r.configurations, r.by_test, r.by_validation) == (3, 'alpha 0.3, temperature 4', 'alpha 0.3, temperature 3')
    assert [r.test_of_best_by_test, r.test_of_best_by_validation, r.optimism, r.test_mean] == pytest.approx([95.3, 95.1, .2, 95.13333333])
    assert r.sd == pytest.approx(np.sqrt((np.var(A, ddof=1) + np.var(B, ddof=1))/2)*100) and r.noise == pytest.approx(r.sd*1.5/np.sqrt(np.pi))


@pytest.mark.parametrize('rho', [0., .6])
def test_noise_optimism_is_what_a_simulation_gives(rho):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, 50_000, 9))
    validation = rho*z[0] + np.sqrt(1 - rho**2)*z[1]
    seen = (z[0].max(1) - z[0][np.arange(50_000), validation.argmax(1)])
    assert selection_bias.noise_optimism(.14, 9, rho) == pytest.approx(.14*seen.mean(), abs=.003)
    assert selection_bias.noise_range(1., 9, rho, rng, 50_000, .9) == pytest.approx(np.quantile(seen, [.05, .95]), abs=.05)


def test_correlation_of_noise_is_within_cells():
    rng = np.random.default_rng(1)
    runs = whole(seeds=200)
    runs['validation_best'] = runs.test_best + .0014*rng.normal(size=len(runs)) - .05*(runs.student == 'resnet34')
    sd, rho = selection_bias.seed_noise(runs, 'test_best', 'final')
    assert (sd, rho) == (pytest.approx(.14, abs=.005), pytest.approx(1/np.sqrt(2), abs=.03))
    assert statistics.pooled_std(runs) == (sd, 10*199)


@pytest.mark.parametrize('rows, says', [
    (selection([.95, .951], [np.nan]*2), '2 of 2 without test or validation accuracy left out'),
    (selection([.95], [.95]), 'one configuration'), (selection([.95, .96], [.95, .96]), 'noise unknown'),
    (selection([.95, .951], [.9, .9]) + selection([.95, .951], [.9, .9], data_sha256='cd', run_id='x'), 'not of one study: data_sha256 ab, cd')])
def test_selection_without_its_numbers_has_a_word(rows, says):
    rows = [{**r, 'run_id': str(i)} for i, r in enumerate(rows)]
    t = selection_bias.selection_optimism(frame(rows))
    assert says in statistics.notes(t)[0] and np.isnan(t.noise[0])
    assert np.isnan(selection_bias.mean_optimism(t).p)
