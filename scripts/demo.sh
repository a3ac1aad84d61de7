#!/usr/bin/env bash
# Shows the main steps on generated images: trains one network naturally and one with PGD-AT, attacks both, prints the
# robustness table, and draws curves and Grad-CAM maps. Everything goes to the folder in DEMO (default: demo). Finished
# steps are not repeated.
# Sets up .venv if needed. Further arguments go to every training and test command, e.g. --gpu 0
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/python.sh
find_python requirements.txt
DEMO=${DEMO:-demo}

COMMON=(--dataset melBin --dataRoot "$DEMO/data" --imgSize 32 "$@")
TRAIN=("${COMMON[@]}" --model mv2 --eps 8 --epoch "${EPOCHS:-6}" --bs 16 --resume --saveDir "$DEMO/clsCkpt")
"$PYTHON" -m advmia phantoms --dataRoot "$DEMO/data" --dataset mel2017 --count 400 --size 64
for method in nat pgdat; do
  "$PYTHON" trainCls.py "${TRAIN[@]}" --method $method
done
for record in "$DEMO"/clsCkpt/*.json; do
  weights=${record%.json}
  "$PYTHON" testCls.py "${COMMON[@]}" --targetModel mv2 --targetWeight "$weights" --attacks fgsm pgd --epsilons 2 4 8 --bs 32 --resultDir "$DEMO/results"
  "$PYTHON" gradVisual.py --limit 8 "${COMMON[@]}" --model mv2 --weight "$weights" --saveDir "$DEMO/maps/${weights##*/}"
done
"$PYTHON" -m advmia tables "$DEMO/results" --out "$DEMO"
echo "curves: $DEMO/melBin[phantom]__mv2.png and .pdf; Grad-CAM: $DEMO/maps/*/gradVisual.png; outcome of each image: $DEMO/results"
