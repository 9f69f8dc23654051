"""Sources of noise: against an analysis of variance, Welch's error, and studies drawn with new images."""
import numpy as np
import pandas as pd
import pytest
from made_up import write
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from kd_capacity import config, noise_sources, profiles, records, tables


def answers(rng, seeds=4, images=60): return rng.random((seeds, images)) < rng.random(images)


def test_components_are_those_of_an_analysis_of_variance():
    x = answers(np.random.default_rng(0))
    long = pd.DataFrame([(s, i, float(v)) for (s, i), v in np.ndenumerate(x)], columns=['s', 'i', 'x'])
    ms = anova_lm(ols('x ~ C(s) + C(i)', long).fit()).mean_sq
    c = noise_sources.components(x)
    assert c.rest == pytest.approx(ms['Residual'])
    assert c.image == pytest.approx((ms['C(i)'] - ms['Residual'])/4)
    assert c.seed == pytest.approx(max((ms['C(s)'] - ms['Residual'])/60, 0))


def test_errors_of_a_gain():
    rng = np.random.default_rng(1)
    a, b = answers(rng, 5), answers(rng, 3)
    g = noise_sources.gain_noise(a, b)
    assert g.estimate == pytest.approx(100*(a.mean() - b.mean()))
    assert g.se_seeds == pytest.approx(100*np.sqrt(a.mean(1).var(ddof=1)/5 + b.mean(1).var(ddof=1)/3))
    assert g.se_images == pytest.approx(100*np.sqrt((a.mean(0) - b.mean(0)).var(ddof=1)/60))
    assert g.se_both >= g.se_images and g.ci_low < g.estimate < g.ci_high


def test_the_interval_holds_for_new_seeds_and_images():
    rng = np.random.default_rng(2)
    def study():
        easy = .2 + .6*rng.random(400)
        runs = [rng.random((4, 400)) < easy + shift + .02*rng.normal(size=(4, 1)) for shift in (.05*rng.normal(size=400), 0)]
        return noise_sources.gain_noise(*runs)
    gains = pd.DataFrame([study() for _ in range(800)])
    inside = ((gains.ci_low <= 0) & (0 <= gains.ci_high)).mean()
    assert .925 < inside < .985
    assert np.sqrt((gains.se_both**2).mean()) == pytest.approx(gains.estimate.std(), rel=.08)


def test_the_bootstrap_agrees_and_takes_its_generator():
    rng = np.random.default_rng(3)
    a, b = answers(rng, 8, 400), answers(rng, 8, 400)
    boot = noise_sources.bootstrap_noise(a, b, np.random.default_rng(0))
    g = noise_sources.gain_noise(a, b)
    assert boot['images'] == pytest.approx(g.se_images, rel=.12)
    assert boot['seeds'] == pytest.approx(g.se_seeds*np.sqrt(7/8), rel=.12)
    assert boot == noise_sources.bootstrap_noise(a, b, np.random.default_rng(0))


def test_one_seed_has_no_error_and_other_images_are_refused():
    x = answers(np.random.default_rng(0))
    assert np.isnan(noise_sources.gain_noise(x[:1], x)[1:]).all() and np.isnan(noise_sources.accuracy_noise(x[:1])[1:]).all()
    for ask in (lambda: noise_sources.gain_noise(x, x[:, 1:]), lambda: noise_sources.accuracy_noise(x + .5), lambda: noise_sources.components(x[0])):
        with pytest.raises(config.UserError, match='images'): ask()


def test_a_row_for_each_cell_with_logits(tmp_path):
    write(profiles.study_runs('demo'), tmp_path)
    runs = tables.planned('demo', tmp_path)
    t = noise_sources.noise_table(runs, tmp_path)
    assert len(t) == 6 and set(t.seeds) == {3} and set(t.images) == {60}
    r = t[(t.teacher == 'resnet34') & (t.method == 'logit')].iloc[0]
    right = lambda rows: np.array([records.logits(i, tmp_path)['best'].argmax(1) == records.logits(i, tmp_path)['labels'] for i in rows.run_id])
    finals = runs[runs.stage.eq('final')]
    a = finals[finals.teacher.eq('resnet34') & finals.method.eq('logit')]
    b = finals[finals.role.eq('baseline') & finals.student.eq(a.student.iloc[0])]
    assert r.estimate == pytest.approx(100*(right(a).mean() - right(b).mean()))
    assert len(noise_sources.noise_table(runs, tmp_path/'elsewhere')) == 0
