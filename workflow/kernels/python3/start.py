"""Stands for a process that the study's server forks: a kernel, or papermill, which has its imports done.

Jupyter starts this in place of ipykernel while a study runs (JUPYTER_PATH leads here), and the shell in place of papermill
(PATH leads to a script that calls it); see nbs/study/05_kernels.ipynb. It needs nothing but Python's own library.
"""
import array
import json
import os
import signal
import socket
import sys


def ask(files=(), **wanted):
    "A connection to the server, which has been asked for a process in our folder and environment, with our open files."
    request = json.dumps({**wanted, 'cwd': os.getcwd(), 'env': dict(os.environ)}).encode() + b'\n'
    given = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', files))] if files else []
    server = socket.socket(socket.AF_UNIX)
    server.connect(os.environ['KD_KERNELS'])
    server.sendall(request[server.sendmsg([request], given):])
    return server


def kernel(file):
    "Live as long as the kernel does, and it no longer than Jupyter."
    server = ask(file=file)
    number = int(server.makefile().readline())
    for name in signal.SIGINT, signal.SIGTERM: signal.signal(name, lambda n, _: os.kill(number, n))
    server.settimeout(1)
    parent = os.getppid()
    while os.getppid() == parent:  # papermill, which may be killed before it could stop its kernel
        try:
            if not server.recv(1): break  # nothing is ever sent: this is the kernel's end
        except TimeoutError: pass


def papermill(*arguments):
    "papermill's exit status; a signal is passed on to it."
    server = ask([0, 1, 2], papermill=arguments)
    last = []
    def pass_on(number, frame):
        last.append(number)
        server.send(bytes([number]))
    for name in signal.SIGINT, signal.SIGTERM: signal.signal(name, pass_on)
    status = server.recv(1)
    if status: return status[0]
    if last:  # what ended it ends this
        signal.signal(last[-1], signal.SIG_DFL)
        os.kill(os.getpid(), last[-1])
    return 'papermill was killed.'


if __name__ == '__main__':
    try: sys.exit(papermill(*sys.argv[2:]) if sys.argv[1] == 'papermill' else kernel(sys.argv[1]))
    except (OSError, ValueError) as e:
        sys.exit(f'The kernel server of the study is gone ({e}); see snakemake.log in its results '
                 'folder, then give the command that started the study again.')
