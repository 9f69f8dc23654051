"""How long 10,000 records take: written once, then loaded, judged and tabled.

    python workflow/many_records.py [records] [folder]

The records are made up: the cells of paper-v1, each with as many seeds as it takes. Prints the
CPU seconds of every step. A folder that has the records already is measured as it is.
"""
import sys
import tempfile
import time
from itertools import count, islice
from pathlib import Path

import numpy as np

from kd_capacity import claims, pooled_effects, profiles, records, specification_curve
from kd_capacity import statistics, tables
from kd_capacity.run_files import write_record


def specs(most):
    "The runs of paper-v1 with more and more seeds, `most` of them."
    cells = {s.replace(seed=0).run_id: s for s in profiles.study_runs('paper-v1')}
    return islice((s.replace(seed=seed) for seed in count() for s in cells.values()), most)


def timed(name, step):
    start = time.process_time()
    value = step()
    print(f'{name:28} {time.process_time() - start:6.1f} s', flush=True)
    return value


def record(spec, accuracy):
    "A complete record, as training leaves it."
    fidelity = {'agreement': accuracy, 'kl_t1': .2, 'kl_t4': .03} if spec.role == 'student' else None
    outcome = {'test_best': accuracy, 'test_final': accuracy, 'validation_best': accuracy,
               'validation_best_epoch': 90}
    return {'run_id': spec.run_id, 'status': 'complete', 'spec': spec.to_dict(),
            'outcome': outcome, 'fidelity': fidelity, 'data': {'sha256': 'ab'},
            'parameters': 11_173_962, 'seconds': 900., 'images_per_second': 5000.,
            'norms': {'student_max': 3., 'projections_max': .2, 'total_max': 3.1},
            'environment': {'device': 'cuda', 'deterministic': True}}


def write(folder, most):
    rng = np.random.default_rng(0)
    for spec in specs(most): write_record(record(spec, .95 + .002*rng.normal()), folder)


def measure(folder):
    rng = np.random.default_rng(0)
    runs = timed('load', lambda: records.load_runs(folder))
    print(len(runs), 'records')
    evidence = timed('evidence', lambda: claims.evidence(runs, rng=rng))
    timed('claims', lambda: claims.ledger(evidence))
    for make in (tables.gains, tables.accuracy_table, tables.clipping_ablation,
                 tables.stem_ablation, tables.selected, tables.fidelity_table):
        timed(f'tables.{make.__name__}', lambda make=make: make(runs))
    timed('gain_table', lambda: statistics.gain_table(runs, rng=rng))
    timed('moderation_table', lambda: statistics.moderation_table(runs))
    timed('sensitivity', lambda: statistics.sensitivity(runs))
    timed('headline_effects', lambda: pooled_effects.headline_effects(runs))
    timed('specification_curve', lambda: specification_curve.specification_curve(runs))


if __name__ == '__main__':
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp(prefix='many-'))/'many'
    if not folder.exists(): timed('written', lambda: write(folder, most))
    start = time.process_time()
    measure(folder)
    print(f'together {time.process_time() - start:.1f} s')
