#!/usr/bin/env bash
# Runs all checks: ruff, mypy and the tests. Sets up .venv if needed.
#
#   scripts/test.sh                 all tests
#   scripts/test.sh --quick         only the tests that are not marked `slow`
#   scripts/test.sh [...] ARGUMENTS further arguments go to pytest, for example -k resume
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/python.sh
find_python requirements-test.txt

selection=()
if [ "${1-}" = --quick ]; then
    shift
    selection=(-m "not slow")
fi

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
# Processes with one thread each, because many small tests gain nothing from threads; one more than there are cores,
# because tests of sweeps, Slurm and kills wait a good deal.
processes=$(($(getconf _NPROCESSORS_ONLN) + 1))
OMP_NUM_THREADS=1 "$PYTHON" -m pytest -n "$processes" --dist worksteal --durations=25 "${selection[@]}" "$@"
