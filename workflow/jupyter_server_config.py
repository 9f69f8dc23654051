"""JupyterLab from .venv (setting up puts this file into .venv/etc/jupyter): running a notebook leaves no change in git.

Outputs stay in the file. Where they are all that differs from what is committed, git is told to look at the file again.
"""
import shutil
import subprocess
from pathlib import Path


def refresh(os_path, model, contents_manager):
    "After a save: `git add` of a notebook that git's filter cleans to what git has already."
    path = Path(os_path)
    if model['type'] != 'notebook' or not shutil.which('git'): return
    def git(*command):
        command = ['git', *command, '--', path.name]
        return subprocess.run(command, cwd=path.parent, capture_output=True, check=False).returncode == 0
    if git('ls-files', '--error-unmatch') and git('diff', '--quiet'): git('add')


c = get_config()  # noqa: F821 (Jupyter gives it to its configuration files)
c.FileContentsManager.post_save_hook = refresh
