#!/usr/bin/env bash
# All checks: lint, types, tests. Sets up .venv if need be. Further arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/python.sh
find_python requirements-test.txt

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
# One process a core, one thread each: the tests are many and small, and threads would wait for each other.
OMP_NUM_THREADS=1 "$PYTHON" -m pytest -n auto --dist worksteal "$@"
