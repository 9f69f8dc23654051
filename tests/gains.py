"""Shared by the tests of evidence: two cells of accuracies, a made-up study, the only row of a table."""
import numpy as np
from made_up import baseline, cell, frame, student

from kd_capacity import statistics

A, B = [0.9512, 0.9531, 0.9540, 0.9527, 0.9519], [0.9491, 0.9500, 0.9516, 0.9488, 0.9497]
CLOSE = dict(rel=1e-10, abs=1e-10)


def one(table, **values):
    "The only row with these values."
    for k, v in values.items(): table = table[table[k] == v]
    assert len(table) == 1, table
    return table.iloc[0]


def whole(seeds=5, seed=0, gains=None, **more):
    "A study with two students, two teachers, two methods; `gains` by student in pp."
    rng, gains = np.random.default_rng(seed), gains or {}
    draw = lambda s, g=0.: .95 + g/100 + .0014*rng.normal(size=seeds)
    rows = [r for s in statistics.STUDENTS for r in cell(baseline(s), draw(s))]
    for t in ('resnet50', 'resnet101'):
        for s in statistics.STUDENTS:
            for m in ('logit', 'feature'): rows += cell(student(t, s, m), draw(s, gains.get(s, 0)), **more)
    return frame(rows)
