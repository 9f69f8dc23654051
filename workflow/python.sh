# The project's own Python, with its packages: sh workflow/python.sh -m kd_capacity.staging
python=$(dirname "$0")/../.venv/bin/python
if [ ! -x "$python" ]; then
    echo "The website needs the project's own Python, and there is no .venv: make .venv/.ready sets it up, then give the command again." >&2
    exit 1
fi
exec "$python" "$@"
