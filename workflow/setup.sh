# Make .venv with exactly what requirements.lock names, and the project itself, editable. Called by make.
set -eu
for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && break
    python=
done
if [ -z "$python" ]; then
    echo "No Python 3.11 to 3.14 found (tried: ${PYTHON:-python3 and python3.11 to python3.14}). Install one, or name it: make demo PYTHON=/path/to/python" >&2
    exit 1
fi
if [ -L .venv ]; then
    echo ".venv is a link to $(readlink .venv), and setting up would empty that folder. Remove the link, then give the command again." >&2
    exit 1
fi
echo "Setting up .venv with $("$python" --version): downloads of about 3 GB the first time"
"$python" -m venv --clear .venv || {
    echo "$python cannot make a virtual environment; on Debian and Ubuntu install python3-venv, then give the command again." >&2
    exit 1
}
.venv/bin/python -m pip install --quiet --disable-pip-version-check "$(grep '^uv==' requirements.lock)"
# where Python is told to keep no bytecode, each start would compile torch and pandas anew: 6 of 9 seconds
bytecode=${PYTHONDONTWRITEBYTECODE:+--compile-bytecode}
.venv/bin/uv pip sync --quiet $bytecode --python .venv/bin/python requirements.lock
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .

# nbdev's commands that do something else here say so, and git learns how notebooks are committed.
for command in docs preview proc_nbs sidebar readme contributing install install_quarto requirements prepare install_hooks; do
    cp workflow/nbdev.sh ".venv/bin/nbdev_$command"
done
mkdir -p .venv/etc/jupyter .venv/etc/ipython
cp workflow/jupyter_server_config.py .venv/etc/jupyter/
cp workflow/ipython_kernel_config.py .venv/etc/ipython/
if [ -e .git ]; then make --no-print-directory hooks > /dev/null; fi
