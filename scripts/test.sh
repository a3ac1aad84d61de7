#!/usr/bin/env bash
# Runs all checks: lint, types and tests. Sets up .venv if need be.
#
#   scripts/test.sh                 everything
#   scripts/test.sh --quick         lint, types and the unit tests: all tests that are not marked `slow`
#   scripts/test.sh [...] ARGUMENTS further arguments go to pytest, for example -k resume
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/python.sh
find_python requirements-test.txt

tier=()
if [ "${1-}" = --quick ]; then
    shift
    tier=(-m "not slow")
fi

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
# One process per core, each with one thread: the tests are many and small, and threads would wait for each other.
OMP_NUM_THREADS=1 "$PYTHON" -m pytest -n auto --dist worksteal --durations=25 "${tier[@]}" "$@"
