"""pytest in children of one process that has done the slow imports, but none of ours.

Reads lines of JSON, [folder, tests, log]; runs those tests there in a child, its output in `log`; prints the child's exit status.
"""
import contextlib
import json
import os
import sys
import tempfile
import traceback

os.environ['OMP_NUM_THREADS'] = '1'  # a pool of threads does not survive a fork
sys.path.pop(0)  # the folder of this file
import pandas
import pytest
import scipy.stats
import sklearn.datasets
import torch
import torchvision


def run(folder, tests, log):
    with open(log, 'w') as out:
        for fd in 1, 2: os.dup2(out.fileno(), fd)
    os.chdir(folder)
    sys.path.insert(0, folder)
    os.environ['PYTHONPATH'] = folder  # for the processes that a test starts
    return pytest.main(['-x', '-p', 'no:xdist', *(f'tests/{t}' for t in tests)])


with tempfile.TemporaryDirectory() as empty, contextlib.redirect_stdout(sys.stderr):
    pytest.main(['-q', '-p', 'no:xdist', '-p', 'no:cacheprovider', empty])  # imports pytest's plugins

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        status = 70
        try: status = run(*json.loads(line))
        except BaseException: traceback.print_exc()
        finally:
            sys.stdout.flush(); sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
