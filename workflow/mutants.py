"""`make mutants`: which small faults put into method, study and statistics would no test notice?

mutmut makes the faults and forks a process for each, which runs the tests that reach the changed function, until one fails.
What is said here and not by mutmut:

- modules are those that nbs/method and nbs/study export, and statistics;
- a function under decorators is mutated too: `@d def f` becomes `def f`, `f = d(f)`, which mutmut would leave out otherwise;
- a call whose value is not used is left out (`model.eval()` becomes `pass`), which is no mutant of mutmut's;
- a string with a space in it is a sentence for people, whose words are no behaviour: it is not mutated; nor does the name count
  that a refusal (`one_of`, `checked_value`) says first;
- a mutant has all tests of its module's own file and notebook, then the quickest, of together at most SECONDS; a test that starts another Python is left to `make test`;
- what runs only in processes that its tests start (ELSEWHERE) has its own file of tests, in a process whose children find the mutant;
- a library notebook is a test too: its cells that are not exported, run on what the package has of it.

A survivor is named in tests/mutants.toml with the reason why nobody could see a difference, or it counts as survived.
"""
import argparse
import functools
import gc
import glob
import importlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing.process import BaseProcess
from pathlib import Path

import libcst as cst
import pytest
from execnb.shell import CaptureShell
from mutmut import __main__ as mutmut
from mutmut import configuration
from mutmut.mutation import diff_apply, mutators
from mutmut.mutation.data import SourceFileMutationData
from mutmut.runners.harness import ListAllTestsResult, PytestRunner
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.workers.isolation import ForkServerRunner
from scipy.stats import binomtest
from torch.utils.data._utils.worker import _worker_loop

PARTS = 'nbs/method/', 'nbs/study/', 'nbs/evidence/00_statistics'
SECONDS = 300 # as they took when all were recorded
GOAL = .9
COLUMNS = {'made': 8, 'tried': 8, 'caught': 8, 'equivalent': 12, 'survived': 10}
ELSEWHERE = {'kernels': 'tests/study/test_kernels.py'}
THERE = set() # all tests
IMPORT = 'while it is imported'  # stands among the tests of a function that is called then
RESULTS, NAMED = Path('results/benchmarks/mutants/mutants.json'), Path('tests/mutants.toml')
NAME_REFUSED = re.compile(r"(?<=checked_value)\('\w+', |(?<=one_of)\('\w+', ")


def modules():
    "Files of the package that are exported from PARTS."
    def source(path): return path.read_text().partition('File to edit: ../')[2]
    return sorted(str(p) for p in Path('kd_capacity').glob('*.py') if source(p).startswith(PARTS))


# --- which mutants there are

class _Undecorated(cst.CSTTransformer):
    "Decorators of functions as calls after them, where mutmut would not mutate the function otherwise."
    def __init__(self): self.depth = 0

    def visit_FunctionDef(self, node): self.depth += 1

    def leave_FunctionDef(self, original, f):
        self.depth -= 1
        names = [d.decorator.value for d in f.decorators if isinstance(d.decorator, cst.Name)]
        if self.depth or not f.decorators or names in (['staticmethod'], ['classmethod']): return f
        value = f.name
        for d in reversed(f.decorators): value = cst.Call(d.decorator, [cst.Arg(value)])
        after = cst.SimpleStatementLine([cst.Assign([cst.AssignTarget(f.name)], value)])
        return cst.FlattenSentinel([f.with_changes(decorators=[]), after])


def _mutate(filename, source, *more, original=mutmut.mutate_file_contents):
    return original(filename, cst.parse_module(source).visit(_Undecorated()).code, *more)


def _names_only(node):
    "Mutants of a string that is a name, not a sentence."
    if not isinstance(node, cst.SimpleString) or ' ' in node.value: return ()
    return mutators.operator_string(node)


def _call_left_out(node):
    if isinstance(node.value, cst.Call): yield cst.Pass()


def _set_operators():
    operators = mutators.mutation_operators
    operators[operators.index((cst.BaseString, mutators.operator_string))] = (cst.BaseString, _names_only)
    operators.append((cst.Expr, _call_left_out))
    mutmut.mutate_file_contents = _mutate


# --- how they are tested

class _Reach:
    "What mutmut's record of tests lacks: work that a test finds done by a cache or by a shared fixture."
    def __init__(self): self.shared = {}

    def pytest_collection_finish(self):
        for function in state()._stats: state().tests_by_mangled_function_name[function].add(IMPORT)
        state()._stats.clear()

    def pytest_runtest_setup(self):
        for name, module in [*sys.modules.items()]:
            if not name.startswith('kd_capacity.'): continue
            for value in vars(module).values():
                if isinstance(value, functools._lru_cache_wrapper): value.cache_clear()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        start, before = time.monotonic(), set(state()._stats)
        state()._stats.clear()
        value = yield
        if fixturedef.scope != 'function':
            self.shared[fixturedef.argname] = time.monotonic() - start, set(state()._stats)
        state()._stats.update(before)
        return value

    def pytest_runtest_makereport(self, item, call):
        if call.when != 'setup': return
        seconds, reached = 0, set()
        for name in getattr(item, 'fixturenames', ()): # a notebook has none
            more, functions = self.shared.get(name, (0, ()))
            seconds, reached = seconds + more, reached.union(functions)
        state()._stats.update(reached)
        state().duration_by_test[item.nodeid] += seconds + .02

    def pytest_runtest_logreport(self, report):
        "A test that does not pass by itself can catch nothing."
        if not report.passed: state().duration_by_test[report.nodeid] = math.inf


@contextmanager
def _imported_anew():
    "As in a new kernel: a package that has registered no more than a notebook imports."
    def ours(): return [name for name in sys.modules if name.split('.')[0] == 'kd_capacity']
    before = {name: sys.modules.pop(name) for name in ours()}
    try: yield
    finally:
        for name in ours(): del sys.modules[name]
        sys.modules.update(before)


class _Lesson(pytest.Item):
    "The cells of a library notebook that are not exported, on the module that is exported from it."
    def runtest(self):
        cells = [''.join(c['source']) for c in json.loads(self.path.read_text())['cells'] if c['cell_type'] == 'code']
        module = next(c.split()[-1] for c in cells if c.startswith('#| default_exp'))
        with chdir(self.path.parent), warnings.catch_warnings(), _imported_anew():
            warnings.resetwarnings() # those of pytest's settings are for tests
            shell = CaptureShell() # as nbdev_test has it
            shell.push(vars(importlib.import_module(f'kd_capacity.{module}')))
            for cell in cells:
                if cell.startswith(('#| export', '#| default_exp', '#| eval: false')): continue
                if error := shell.run_cell(cell).exception: raise error


class _Lessons(pytest.File):
    def collect(self): yield _Lesson.from_parent(self, name='cells')


class _CollectsLessons:
    def pytest_collect_file(self, file_path, parent):
        if file_path.suffix == '.ipynb' and file_path.name[0].isdigit(): return _Lessons.from_parent(parent, path=file_path)


def _skip(*_): pytest.skip('starts another Python')


def _start(process, start=BaseProcess.start):
    "Only the workers of a loader of images are started, which end with their test."
    if process._target is not _worker_loop: _skip()
    start(process)


def _no_python(event, given):
    "A hook of Python's audit."
    if event == 'subprocess.Popen' and str(given[0]) == sys.executable: _skip()


class _Runner(PytestRunner):
    "Each pytest in temporary folders of its own, which go with it."
    def warm_up(self):
        super().warm_up()
        gc.collect()
        gc.freeze()  # or each child's collector would copy all that it shares with the others

    def run_tests(self, *, mutant_name, tests):
        if IMPORT in tests: # what has been imported knows nothing of the mutant
            ours = {p.stem for p in Path('tests').rglob('*.py')} | {'kd_capacity'}
            for name in [m for m in sys.modules if m.split('.')[0] in ours]: del sys.modules[name]
        return super().run_tests(mutant_name=mutant_name, tests=[t for t in tests if t != IMPORT])

    def execute_pytest(self, params, plugins=(), **more):
        sys.addaudithook(_no_python)
        BaseProcess.start = _start
        folder = Path(f'.tmp/{os.getpid()}').absolute()
        folder.parent.mkdir(exist_ok=True)
        if plugins:
            plugins = [*plugins, _Reach()]
            params = [p for p in params if p != '-x']
        plugins = [*plugins, _CollectsLessons()]
        try: return super().execute_pytest([*params, f'--basetemp={folder}'], plugins=plugins, **more)
        finally: shutil.rmtree(folder, ignore_errors=True)


def _own_first(self, name, tests, limit, seconds, submit=ForkServerRunner.submit):
    "A mutant's tests: all of its module, then the quickest, of together SECONDS, at least one."
    took, chosen, total, known = state().duration_by_test, [], 0, state().tests_by_mangled_function_name
    if IMPORT in tests:
        of_module = name.rpartition('.')[0] + '.'
        tests = {t for function in known if function.startswith(of_module) for t in known[function]} - {IMPORT}
        chosen = [IMPORT]
    tests = THERE.intersection(tests) # one that is there no more would end pytest, and look like a mutant that was caught
    module = name.split('.')[1]
    its_own = re.compile(rf'(.*/)?(test_{module}\.py|\d+\w?_{module}\.ipynb)::')
    for test in sorted(tests, key=lambda t: (not its_own.match(t), took[t], t)):
        if total + took[test] > SECONDS and chosen and not its_own.match(test): break
        chosen.append(test)
        total += took[test]
    submit(self, name, chosen, int(120 + 6*total), total)


def _file_by_file(self, tests, jobs=3, collect=ForkServerRunner.collect_stats):
    "mutmut's record of tests, in processes of which one may end badly."
    import pandas, scipy.stats, sklearn.datasets, statsmodels.api, torch, torchvision  # noqa: F401 as in tests/forked_pytest.py
    given = configuration.config().pytest_add_cli_args_test_selection
    files = [f for g in given for f in ([g] if Path(g).suffix else sorted(glob.glob(f'{g}/test_*.py') + glob.glob(f'{g}/[0-9]*.ipynb')))]
    ignored = [a.partition('=')[2] for a in configuration.config().pytest_add_cli_args]
    parts = [[t for t in sorted(tests) if t.startswith(f + '::')] if tests else [f] for f in files if f not in ignored]
    def one(part):
        start = time.monotonic()
        try: code = collect(self, part)
        except ChildProcessError as error: code = error
        sys.__stdout__.write(f'{part[0]}: {code} after {time.monotonic() - start:.0f} s\n')
        sys.__stdout__.flush()
    with ThreadPoolExecutor(jobs) as pool: list(pool.map(one, filter(None, parts)))
    unused = {test for test, seconds in state().duration_by_test.items() if seconds == math.inf}
    for test in sorted(unused):
        state().duration_by_test[test] = 0
        sys.__stdout__.write(f'not used: {test}\n')
    for known in state().tests_by_mangled_function_name.values(): known -= unused
    THERE.update(state().duration_by_test, [IMPORT])  # a first call lists no tests
    return 0


def _elsewhere(mutant, tests, seconds=300):
    "pytest's exit status, or mutmut's of a mutant that took too long; nothing that it started stays."
    env = {**os.environ, 'MUTANT_UNDER_TEST': mutant, 'PYTHONPATH': str(Path('mutants').absolute())}
    run = subprocess.Popen([sys.executable, '-m', 'pytest', '-x', '-q', '-n0', tests], cwd='mutants', env=env,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try: return run.wait(seconds)
    except subprocess.TimeoutExpired: return 36
    finally:
        with suppress(ProcessLookupError): os.killpg(run.pid, signal.SIGKILL)


def _try_elsewhere(module, chosen):
    "Try mutants of a module that runs in other processes."
    mutmut.copy_also_copy_files()
    if _elsewhere('', ELSEWHERE[module]): sys.exit(f'{ELSEWHERE[module]} fails without a mutant: mend it first')
    data = SourceFileMutationData(path=Path(f'kd_capacity/{module}.py'))
    data.load()
    for mutant in chosen:
        data.exit_code_by_key[mutant] = _elsewhere(mutant, ELSEWHERE[module])
        data.save()
        print(mutant, status_by_exit_code[data.exit_code_by_key[mutant]], flush=True)


def _with_import(self, listed=ForkServerRunner.list_all_tests):
    "All tests, and what takes the place of one where a function is called by an import."
    state().duration_by_test[IMPORT] = 0
    THERE.update(listed(self).ids, [IMPORT])
    return ListAllTestsResult(ids=set(THERE))


def _set_runner():
    ForkServerRunner.collect_stats = _file_by_file
    mutmut.PytestRunner = _Runner
    mutmut.get_mutant_runner = lambda workers=1: ForkServerRunner(
        max_workers=workers, test_runner_class=_Runner, test_runner_args={})
    ForkServerRunner.submit = _own_first
    ForkServerRunner.list_all_tests = _with_import
    ForkServerRunner.run_forced_fail = lambda self: 1


# --- what came of them

# pytest is "interrupted" where a file of tests cannot be imported
CAUGHT = 'killed', 'timeout', 'segfault', 'suspicious', 'check was interrupted by user'


def states(module):
    "{mutant: its state} of a module."
    data = SourceFileMutationData(path=Path(f'kd_capacity/{module}.py'))
    data.load()
    return {mutant: status_by_exit_code[code] for mutant, code in data.exit_code_by_key.items()}


def change(mutant):
    "(function, its lines before, its lines after) of a mutant."
    path, function = f'kd_capacity/{mutant.split(".")[1]}.py', mutant.partition('__mutmut')[0].partition('.')[2]
    for mark in '.x_', '.xǁ', 'ǁ': function = function.replace(mark, '.')
    lines = diff_apply.get_diff_for_mutant(mutant, path=path).splitlines()[2:]
    return function, *(' '.join(x[1:].strip() for x in lines if x[:1] == sign) for sign in '-+')


def named():
    "{(function, lines before, lines after): why nobody could see a difference}"
    cases = tomllib.loads(NAMED.read_text())['equivalent'] if NAMED.exists() else []
    return {(case['at'], case['was'], now): case['why'] for case in cases for now in case['now']}


def _of_a_message(at, was, now):
    "Whether all that changes is what a refusal calls the thing that it refuses."
    return NAME_REFUSED.sub('(', was) == NAME_REFUSED.sub('(', now)


def row(module):
    "What came of the mutants of a module; prints each that survived and has no name."
    reasons, found = named(), {m: s for m, s in states(module).items() if s != 'not checked'}
    alive = {m: change(m) for m, s in found.items() if s not in CAUGHT}
    words = [m for m, c in alive.items() if _of_a_message(*c)]
    equivalent = [m for m, c in alive.items() if c in reasons]
    survived = [m for m in alive if m not in words and m not in equivalent]
    for m in survived:
        at, was, now = alive[m]
        print(f'\n{m} ({found[m]})\nat = {at!r}\nwas = {was!r}\nnow = {now!r}')
    tried = len(found) - len(words)
    counts = {'made': len(states(module)), 'tried': tried, 'caught': tried - len(equivalent) - len(survived),
              'equivalent': len(equivalent), 'survived': len(survived)}
    could = max(counts['caught'] + counts['survived'], 1)
    # of all mutants, by those that were drawn: Wilson's interval of 95 %
    ends = binomtest(counts['caught'], could).proportion_ci(method='wilson')
    return {'module': module, **counts, 'share': counts['caught']/could, 'low': ends.low, 'high': ends.high}


def _keep(table):
    "Rows of modules that were tried on this machine take the place of theirs in RESULTS."
    known = {r['module']: r for r in json.loads(RESULTS.read_text())['modules']} if RESULTS.exists() else {}
    tried = {'date': f'{datetime.now(UTC):%Y-%m-%d}', 'mutmut': version('mutmut'), 'seconds': SECONDS}
    known |= {r['module']: {**r, **tried} for r in table if r['tried']}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({'modules': [known[m] for m in sorted(known)]}, indent=1) + '\n')


def main():
    p = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    p.add_argument('modules', nargs='*', help='names of modules, all if none')
    p.add_argument('--sample', type=int, help='mutants to draw from each module, with seed 0')
    p.add_argument('--again', action='store_true', help='only those that survived before, or took too long')
    p.add_argument('--rest', action='store_true', help='only those never tried')
    p.add_argument('--report', action='store_true', help='only the table of what was tried before')
    p.add_argument('--jobs', type=int, default=1)
    a = p.parse_args()
    configuration._config = replace(configuration._load_config(), only_mutate=modules())
    _set_operators()
    _set_runner()
    names = a.modules or [Path(m).stem for m in modules()]
    for link in Path('kd_capacity').iterdir(): # to workflow/profiles and results/published
        copy = Path('mutants')/link
        copy.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink() and not copy.is_symlink(): copy.symlink_to(link.readlink())
    if not a.report:
        mutmut.copy_src_dir(), mutmut.create_mutants(1)
        chosen, elsewhere = [], {}
        for name in names:
            known = states(name)
            drawn = random.Random(0).sample(sorted(known), min(a.sample or len(known), len(known)))
            if a.again: drawn = [m for m in drawn if known[m] not in ('killed', 'not checked')]
            elif a.sample or a.rest: drawn = [m for m in drawn if known[m] == 'not checked']
            if name in ELSEWHERE: elsewhere[name] = drawn
            elif a.again or a.sample or a.rest: chosen += drawn
            else: chosen.append(f'kd_capacity.{name}.*')
        if chosen: mutmut._run(chosen, a.jobs)
        for name, mutants in elsewhere.items(): _try_elsewhere(name, mutants)
    table = [row(name) for name in names]
    print(f'\n{"":16}    made   tried  caught  equivalent  survived   caught of those that could be')
    for r in table:
        numbers = ''.join(f'{r[name]:{width}}' for name, width in COLUMNS.items())
        print(f'{r["module"]:16}{numbers}{r["share"]:11.1%} ({r["low"]:.0%} to {r["high"]:.0%})')
    _keep(table)
    return min(r['share'] for r in table) < GOAL


if __name__ == '__main__': sys.exit(main())
