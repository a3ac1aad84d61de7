#!/usr/bin/env bash
# Trains one or several networks with each method at each training eps, tests them all, and makes tables of the results:
#
#   scripts/sweep_eps.sh --dataset melBin --model res18 --methods nat pgdat --eps 4 8 [more flags]
#
# It is `python -m advmia sweep`, run in the repository's folder by a Python that has the packages (.venv is set up if
# there is none). --help lists the flags.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/python.sh
find_python requirements.txt
exec "$PYTHON" -m advmia sweep "$@"
