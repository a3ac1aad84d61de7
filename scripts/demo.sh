#!/usr/bin/env bash
# Shows the main steps on generated images: trains one network naturally and one with PGD adversarial training, attacks
# both, prints the robustness table, draws curves and Grad-CAM maps, and makes a page. Sets up .venv if needed. Finished
# steps are not repeated. Arguments go to `python -m advmia demo`, e.g. --gpu 0 or --out FOLDER (default: demo).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/python.sh
find_python requirements.txt
exec "$PYTHON" -m advmia demo "$@"
