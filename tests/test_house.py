"""The house: parts and chapters import what comes before them, and a name is defined once."""
import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import ROOT

PARTS = 'method', 'study', 'evidence', 'site'

# Names that two modules may define: `load` of a data set and of a checkpoint, both public for long
# and called as `data.load` and `checkpoint.load`; `main`, what a module does as a command.
TWICE = {'load', 'main'}


class Chapter(NamedTuple):
    "An exported notebook: its place in the reading order and its module."
    part: int
    number: str
    module: str
    path: Path


def sources(path):
    "The code cells of a notebook, as text."
    cells = json.loads(path.read_text())['cells']
    return [''.join(c['source']) for c in cells if c['cell_type'] == 'code']


def chapters():
    "Every notebook that exports a module, in reading order."
    found = []
    for path in (ROOT/'nbs').rglob('*.ipynb'):
        exported = re.findall(r'(?m)^#\| *default_exp +(\w+)', '\n'.join(sources(path)))
        if not exported or '.ipynb_checkpoints' in path.parts: continue
        number = re.match(r'(\d\d[a-z]?)_', path.name)
        assert path.parent.name in PARTS and number, f'{path} is in no part of the house'
        found.append(Chapter(PARTS.index(path.parent.name), number[1], exported[0], path))
    return sorted(found)


CHAPTERS = chapters()
PLACE = {c.module: (c.part, c.number) for c in CHAPTERS}


@cache
def tree(module): return ast.parse((ROOT/'kd_capacity'/f'{module}.py').read_text())


def imported(node):
    "Modules of the package that an import statement names."
    if isinstance(node, ast.Import):
        return {a.name.split('.')[1] for a in node.names if a.name.startswith('kd_capacity.')}
    if not isinstance(node, ast.ImportFrom): return set()
    if node.module in (None, 'kd_capacity'): return {a.name for a in node.names} & PLACE.keys()
    inside = node.level or node.module.startswith('kd_capacity.')
    return {node.module.removeprefix('kd_capacity.').split('.')[0]} if inside else set()


def by_name(node):
    "Modules of the package that a call such as `import_module('kd_capacity.data')` asks for."
    if not isinstance(node, ast.Call): return set()
    if 'import_module' not in ast.unparse(node.func): return set()
    return set(re.findall(r'kd_capacity\.(\w+)', ast.unparse(node))) or {'a module by name'}


def test_every_module_is_one_chapter():
    modules = [c.module for c in CHAPTERS]
    assert len(set(modules)) == len(modules)
    assert set(modules) == {p.stem for p in (ROOT/'kd_capacity').glob('[a-z]*.py')}
    assert len({(c.part, c.number) for c in CHAPTERS}) == len(CHAPTERS), 'two chapters of one number'


@pytest.mark.parametrize('chapter', CHAPTERS, ids=lambda c: c.module)
def test_a_chapter_imports_only_chapters_before_it(chapter):
    place = PLACE[chapter.module]
    needs = set().union(*(imported(n) for n in ast.walk(tree(chapter.module))))
    assert not {m for m in needs if PLACE[m] >= place}


@pytest.mark.parametrize('chapter', CHAPTERS, ids=lambda c: c.module)
def test_a_chapter_asks_for_no_module_by_name(chapter):
    "`moved_to` of the first chapter is the one place that does: old names of later modules."
    asked = set().union(*(by_name(n) for n in ast.walk(tree(chapter.module))))
    assert not asked or chapter.module in ('basics', 'claims', 'config', 'kernels', 'tables', 'statistics')


MOVED = {
    'config': 'Profile grid profile run_spec study_runs papermill_command results_dir root',
    'statistics': 'calibration_error detectable fidelity_tests power seeds_needed selection_optimism',
    'claims': 'budget decidable plan_text stopping_rule',
    'study': 'costs plan progress select serve_kernels',
    'records': 'environment history logits read_record write_record'}


@pytest.mark.parametrize('module, name', [(m, n) for m, names in MOVED.items() for n in names.split()])
def test_a_name_that_moved_is_still_found_where_it_was(module, name):
    place = importlib.import_module(f'kd_capacity.{module}')
    assert getattr(place, name).__module__ != place.__name__


@pytest.mark.parametrize('chapter', CHAPTERS, ids=lambda c: c.module)
def test_an_import_inside_a_function_says_why(chapter):
    lines = (ROOT/'kd_capacity'/f'{chapter.module}.py').read_text().splitlines()
    functions = [n for n in ast.walk(tree(chapter.module)) if isinstance(n, ast.FunctionDef)]
    inside = {n.lineno for f in functions for n in ast.walk(f)
              if isinstance(n, ast.Import | ast.ImportFrom)}
    bare = [n for n in inside if '#' not in lines[n - 1] and '#' not in lines[n - 2]]
    assert not [lines[n - 1].strip() for n in sorted(bare)]


def defined(module):
    "Names that a module defines at its top level; what it imports is defined elsewhere."
    for node in tree(module).body:
        match node:
            case ast.FunctionDef() | ast.ClassDef(): yield node.name
            case ast.Assign(targets=targets): yield from (n.id for n in names_in(*targets))
            case ast.AnnAssign(target=target): yield from (n.id for n in names_in(target))


def names_in(*targets):
    return [n for target in targets for n in ast.walk(target)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]


def test_no_name_is_defined_in_two_modules():
    homes = defaultdict(set)
    for chapter in CHAPTERS:
        for name in defined(chapter.module):
            if not name.startswith('__') and name != '_all_': homes[name].add(chapter.module)
    twice = {name: sorted(modules) for name, modules in homes.items() if len(modules) > 1}
    assert twice.keys() == TWICE, twice


@cache
def generated(path):
    "The lines of a module's `__all__`, which nbdev writes and wraps at 120 columns."
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__':
            return range(node.lineno, node.end_lineno + 1)
    return range(0)


def findings(*paths):
    "What ruff finds at 100 columns, outside of what is generated."
    wide = 'lint.pycodestyle.max-line-length = 100'
    done = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--config', wide, '--no-cache',
                           '--output-format', 'json', *paths], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    for finding in json.loads(done.stdout):
        path, row = Path(finding['filename']), finding['location']['row']
        if row in generated(path): continue
        yield f'{path.name}:{row} {finding["code"]} {finding["message"]}'


def test_ruff_finds_nothing_in_the_package():
    assert not list(findings('kd_capacity'))


@pytest.mark.parametrize('line', ['x = ' + ' + '.join(['1']*25), 'import os', 'def f(x=[]): return x'])
def test_ruff_would_find_it(line, tmp_path):
    shutil.copy(ROOT/'pyproject.toml', tmp_path)
    (tmp_path/'untidy.py').write_text(f'{line}\n')
    assert list(findings(tmp_path/'untidy.py'))


def test_one_version_everywhere():
    import yaml
    version = re.search(r'(?m)^version = (.+)$', (ROOT/'settings.ini').read_text())[1]
    assert re.search(r'__version__ = "(.+)"', (ROOT/'kd_capacity'/'__init__.py').read_text())[1] == version
    cited = yaml.safe_load((ROOT/'CITATION.cff').read_text())
    assert cited['version'] == version and {'cff-version', 'message', 'title', 'authors'} <= cited.keys()
    assert f'## {version} ' in (ROOT/'CHANGELOG.md').read_text()


def test_ci_on_github_runs_what_a_newcomer_runs():
    import yaml
    jobs = yaml.safe_load((ROOT/'.github'/'workflows'/'ci.yml').read_text())['jobs']
    assert [step['run'] for job in jobs.values() for step in job['steps'] if 'run' in step] == ['.ci/run']


def test_every_path_that_the_documents_name_is_there():
    for name in 'CONTRIBUTING.md', 'README.md':
        text = (ROOT/name).read_text()
        table = re.sub(r'(?m)^\|.*', lambda row: row[0].replace(', ', ' '), text)
        for path in re.findall(r'(?<![\w/.~])((?:nbs|tests|workflow|theme)/[\w/.-]*\w)', table):
            assert list(ROOT.glob(f'{path}*')), f'{name} names {path}, which is not there'
