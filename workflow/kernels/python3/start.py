"""The kernel of a study's notebooks: asks the study's server for one that has its imports done,
and lives as long as it does.

Jupyter starts this in place of ipykernel while a study runs (JUPYTER_PATH leads here); see
nbs/study/05_kernels.ipynb.
"""
import json
import os
import signal
import socket
import sys

server = socket.socket(socket.AF_UNIX)
try:
    server.connect(os.environ['KD_KERNELS'])
    request = {'file': sys.argv[1], 'cwd': os.getcwd(), 'env': dict(os.environ)}
    server.sendall(json.dumps(request).encode() + b'\n')
    kernel = int(server.makefile().readline())
except (OSError, ValueError) as e:
    sys.exit(f'The kernel server of the study is gone ({e}); see snakemake.log in its results '
             'folder, then give the command that started the study again.')
for number in signal.SIGINT, signal.SIGTERM: signal.signal(number, lambda n, _: os.kill(kernel, n))
server.settimeout(1)
parent = os.getppid()
while os.getppid() == parent:  # papermill, which may be killed before it could stop its kernel
    try:
        if not server.recv(1): break  # nothing is ever sent: this is the kernel's end
    except TimeoutError: pass
