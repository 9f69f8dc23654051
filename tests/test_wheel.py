"""`pip install .` gives a library that works without a clone, or says in one sentence that it needs one."""
import os
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT
from kd_capacity.config import profiles

MODULES = sorted(p.stem for p in (ROOT/'kd_capacity').glob('[a-z]*.py'))


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    "A folder with the package as pip installs it, far from any clone."
    source, site = (tmp_path_factory.mktemp(name) for name in ('source', 'site'))
    ignored = shutil.ignore_patterns('__pycache__')
    for name in 'kd_capacity', 'workflow':
        shutil.copytree(ROOT/name, source/name, ignore=ignored, symlinks=True)
    shutil.copytree(ROOT/'results'/'published', source/'results'/'published')
    for name in 'pyproject.toml', 'README.md', 'LICENSE', 'settings.ini':
        shutil.copy(ROOT/name, source)
    pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-index', '--no-deps',
           '--no-build-isolation', '--disable-pip-version-check', '--target', site, source]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(source)
    return site


@pytest.fixture
def outside(installed, tmp_path):
    "A function that runs Python code in another folder, with the installed package."
    def run(code, *arguments, **folders):
        env = {k: v for k, v in os.environ.items() if not k.startswith('KD_')}
        env |= {'PYTHONPATH': str(installed), **{k: str(v) for k, v in folders.items()}}
        where = f'import kd_capacity; assert kd_capacity.__file__.startswith({str(installed)!r})\n'
        return subprocess.run([sys.executable, '-c', where + code, *arguments], cwd=tmp_path, env=env,
                              capture_output=True, text=True)
    return run


def output(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


LIBRARY = '''
import sys
import torch
from kd_capacity import claims, losses, models, records, statistics
from kd_capacity.basics import data_dir, results_dir
from kd_capacity.profiles import profile, profiles
logits = torch.zeros(2, 10)
assert losses.logit_kd(logits, logits, 4.) == 0
assert models.build_network('resnet18', 10, width=4)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
assert statistics.difference([.90, .91, .92], [.80, .81, .82])
assert [str(results_dir()), str(data_dir())] == sys.argv[1:]
assert len(records.paper_runs()) == 126 and len(claims.ledger(None)) == len(claims.CLAIMS)
print(*profiles(), profile('paper-v2').run['validation_size'])
'''


def test_every_module_imports_and_the_library_computes(outside, tmp_path):
    imports = ''.join(f'import kd_capacity.{name}\n' for name in MODULES)
    given = tmp_path/'results', tmp_path/'data'
    done = outside(imports + LIBRARY, *given, KD_RESULTS=given[0], KD_DATA=given[1])
    assert output(done).split() == [*profiles(), '5000']


TRAIN = '''
from kd_capacity import data
from kd_capacity.profiles import run_spec
from kd_capacity.training import train
assert data.load('digits').classes
for role in ({'teacher': 'resnet18'}, {'student': 'resnet18'}):
    name, = ('teacher' if 'teacher' in role else 'baseline',)
    train(run_spec('demo', name, width=4, epochs=1, **role), results=%r)
'''


def test_a_run_trains_into_a_folder_given(outside, tmp_path):
    output(outside(TRAIN % str(tmp_path/'mine'), KD_DATA=tmp_path/'data'))
    records = list((tmp_path/'mine').rglob('record.json'))
    assert len(records) == 2


NEEDS_A_CLONE = '''
from kd_capacity import basics, staging, study
def sentence(call):
    try: call()
    except (basics.UserError, SystemExit) as error: return str(error)
print(sentence(basics.results_dir))
print(sentence(staging.stage))
print(sentence(lambda: study.main('run', 'demo')))
'''


def test_what_needs_a_clone_says_so_in_one_sentence(outside):
    lines = output(outside(NEEDS_A_CLONE)).splitlines()
    assert len(lines) == 3 and all('clone' in line and len(line) < 300 for line in lines), lines
