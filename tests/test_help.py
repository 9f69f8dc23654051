"""What `help` shows: the package, and each parameter with what the notebooks say of it."""
import importlib
import inspect
import re
import subprocess
import sys

import pytest
from fastcore.docments import docments

from conftest import ROOT

MODULES = sorted(p.stem for p in (ROOT/'kd_capacity').glob('[a-z]*.py'))


def help_of(name):
    done = subprocess.run([sys.executable, '-m', 'pydoc', name], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_of_a_function_shows_parameters_with_shapes_and_units():
    text = help_of('kd_capacity.losses.logit_kd')
    for name in 'student_logits', 'teacher_logits', 'temperature': assert f'\n    {name}\n' in text
    assert '(batch, classes)' in text and 'softmax temperature T > 0' in text


def test_help_of_the_package_says_what_is_in_it():
    text = help_of('kd_capacity')
    for word in '2605.31191', 'method', 'study', 'evidence', 'site', 'help': assert word in text


def functions(module):
    "The functions and methods that a module's own classes define."
    own = [v for v in vars(module).values() if getattr(v, '__module__', '') == module.__name__]
    for value in own:
        if inspect.isfunction(value): yield value
        if not inspect.isclass(value): continue
        yield from (v for v in vars(value).values() if inspect.isfunction(v))


@pytest.mark.parametrize('name', MODULES)
def test_every_comment_on_a_parameter_is_in_the_docstring(name):
    "fastcore's docments, which reads the source as a whole, is the judge."
    module = importlib.import_module(f'kd_capacity.{name}')
    for function in functions(module):
        if function.__code__.co_filename != module.__file__ or function.__name__ == '<lambda>': continue
        for parameter, comment in docments(function, args_kwargs=True).items():
            if not comment or comment not in inspect.getsource(function): continue  # of a base class
            assert comment in (function.__doc__ or ''), f'{name}.{function.__qualname__}: {parameter}'


COMMANDS = [name for name in MODULES
            if "__name__ == '__main__'" in (ROOT/'kd_capacity'/f'{name}.py').read_text()]


@pytest.mark.parametrize('name', COMMANDS)
def test_a_command_explains_itself(name):
    done = subprocess.run([sys.executable, '-m', f'kd_capacity.{name}', '--help'], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'usage' in done.stdout and len(done.stdout.splitlines()) > 4


@pytest.mark.parametrize('command', ['make', 'make help'])
def test_make_lists_what_there_is(command):
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for target in 'demo', 'test', 'study', 'plan', 'report', 'bench', 'lab', 'export', 'hooks', 'lock':
        line = next(x for x in done.stdout.splitlines() if x.startswith(f'make {target} '))
        assert len(line.split()) > 4


def test_make_lists_every_target():
    text = (ROOT/'Makefile').read_text()
    phony = set(' '.join(re.findall(r'(?m)^\.PHONY: (.*)', text)).split())
    listed = set(re.findall(r'(?m)^([a-z]+):.*## ', text))
    assert {t for t in phony if t.isalpha() and t.islower()} == listed
