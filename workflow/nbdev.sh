#!/bin/sh
# What nbdev's commands do here; setting up puts this file into .venv/bin under each of their names. The commands that
# are not listed (nbdev_export, nbdev_test, nbdev_clean, nbdev_fix, nbdev_trust, …) are nbdev's own.
cd "$(dirname "$0")/../.." || exit 1
case $(basename "$0") in
nbdev_docs | nbdev_preview | nbdev_proc_nbs | nbdev_sidebar)
    echo "The site is made from executed notebooks: call 'make report', then open _site/index.html." >&2 ;;
nbdev_readme)
    echo "README.md is written by hand, and a test runs its commands: edit README.md itself." >&2 ;;
nbdev_contributing)
    echo "CONTRIBUTING.md is written by hand: edit CONTRIBUTING.md itself." >&2 ;;
nbdev_install | nbdev_install_quarto)
    echo "The environment is .venv, made by 'make demo'; 'make quarto' fetches Quarto without root's rights." >&2 ;;
nbdev_requirements)
    echo "Dependencies stand in pyproject.toml: edit them there, then call 'make lock'." >&2 ;;
nbdev_prepare) exec make export test ;;
nbdev_install_hooks) exec make --no-print-directory hooks ;;
esac
exit 2
