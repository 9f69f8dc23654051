"""The study of arXiv 2605.31191, student capacity in distillation, to read, re-run and judge.

Every module is a notebook of the same name in the repository, where four parts tell the story:

method    what a run is and does: data, networks, losses, the training of one network
study     many runs: records, selection, costs, progress, the order in which they run
evidence  what they show: statistics, claims and verdicts, tables, figures
site      how it is shown: explorer, a page for each run, the website

A loss by hand: `from kd_capacity.losses import logit_kd`.
A run: `from kd_capacity.training import train`.
`help` of a function shows each of its parameters with shape and unit.
"""
__version__ = "0.1.0"

import re as _re
import sys as _sys
from importlib.machinery import PathFinder as _PathFinder
from importlib.machinery import SourceFileLoader as _SourceFileLoader
from types import FunctionType as _Function

# The notebooks say what a parameter is in a comment on its line. As a module is imported, what
# follows writes these comments into its docstrings, so that `help`, pydoc and Jupyter show them.
# It costs about a millisecond a module.

def _header(lines, start):
    "The lines of a `def` at or after index `start`, each as (code, comment)."
    depth, begun = 0, False
    for line in lines[start:]:
        begun = begun or line.lstrip().startswith('def ')
        if not begun: continue  # a decorator
        code, _, comment = line.partition('# ')
        yield code, comment.strip()
        depth += sum(map(code.count, '([{')) - sum(map(code.count, ')]}'))
        if depth <= 0: return


def _names(function):
    "A function's parameters, `*args` and `**kwargs` included."
    code = function.__code__
    starred = bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)
    return code.co_varnames[:code.co_argcount + code.co_kwonlyargcount + starred]


def _comments(function, lines):
    "What the comments of a function's header say of its parameters and of what it returns."
    names, comments = _names(function), {}
    for code, comment in _header(lines, function.__code__.co_firstlineno - 1):
        if not comment: continue
        on_line = [n for n in _re.findall(r'(?:^|[(,])\s*\*{0,2}(\w+)', code) if n in names]
        if code.lstrip().startswith(')'): comments['return'] = comment
        elif on_line: comments[on_line[-1]] = comment
    return comments


def _entry(name, function, comment):
    "One parameter in numpy's style: its name and type, and below what it is."
    kind = function.__annotations__.get(name, '')
    kind = kind.__name__ if isinstance(kind, type) else str(kind)
    title = [text for text in (name if name != 'return' else '', kind) if text]
    return '\n'.join([*([' : '.join(title)] if title else []), f'    {comment}'])


def _describe(function, lines):
    "Add the comments of a function's header to its docstring."
    comments = _comments(function, lines)
    returned = comments.pop('return', None)
    sections = [function.__doc__ or '']
    if comments:
        entries = [_entry(name, function, comment) for name, comment in comments.items()]
        sections.append('\n'.join(['Parameters', '----------', *entries]))
    if returned:
        sections.append('\n'.join(['Returns', '-------', _entry('return', function, returned)]))
    if len(sections) > 1: function.__doc__ = '\n\n'.join(s for s in sections if s)


def _functions(module):
    "The functions that a module defines, methods included."
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    own = [module, *(c for c in classes if c.__module__ == module.__name__)]
    for value in (value for part in own for value in vars(part).values()):
        value = getattr(value, 'fget', None) or getattr(value, '__func__', value)
        if not isinstance(value, _Function): continue
        if value.__code__.co_filename == module.__file__: yield value


class _Loader(_SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        lines = self.get_data(self.path).decode().splitlines()
        for function in set(_functions(module)): _describe(function, lines)


class _Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if not name.startswith('kd_capacity.'): return None
        spec = _PathFinder.find_spec(name, path, target)
        if spec and type(spec.loader) is _SourceFileLoader:
            spec.loader = _Loader(name, spec.loader.path)
        return spec


_sys.meta_path.insert(0, _Finder)
