"""Kernels of .venv (setting up puts this file into .venv/etc/ipython) keep one warning to themselves.

ipykernel warns for every kernel that its messages go over TCP in plain text. Ours never leave this machine: papermill and
JupyterLab start them on its loopback address.
"""
import logging

logging.getLogger('IPKernelApp').addFilter(lambda record: 'over TCP without' not in record.getMessage())
