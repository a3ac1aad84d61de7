#!/usr/bin/env bash
# Compares the seven training methods on generated images of 64 pixels: trains and attacks a network with each, prints the
# robustness table and draws the curves. SEEDS="0 1 2" trains each with several seeds (default: 0). Everything goes to the
# folder in METHODS (default: methods). Finished steps are
# not repeated. Sets up .venv if needed. Further arguments go to every training and test command, e.g. --gpu 0
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/python.sh
find_python requirements.txt
METHODS=${METHODS:-methods}

COMMON=(--dataset melBin --dataRoot "$METHODS/data" --imgSize 64 "$@")
"$PYTHON" -m advmia phantoms --dataRoot "$METHODS/data" --dataset mel2017 --count "${PHANTOMS:-320}" --size 96
for seed in ${SEEDS:-0}; do
  TRAIN=(trainCls.py --seed "$seed" "${COMMON[@]}" --model mv2 --eps 8 --epoch "${EPOCHS:-5}" --bs 8 --resume --saveDir "$METHODS/clsCkpt")
  for method in nat pgdat trades mart mpadvt maadvt; do
    "$PYTHON" "${TRAIN[@]}" --method $method
  done
  natural=$(checkpoint_of "${TRAIN[@]}" --method nat)
  "$PYTHON" "${TRAIN[@]}" --method hat --helperModel mv2 --helperWeight "$natural"
  for method in nat pgdat trades mart hat mpadvt maadvt; do
    weights=$(checkpoint_of "${TRAIN[@]}" --method $method)
    "$PYTHON" testCls.py "${COMMON[@]}" --targetModel mv2 --targetWeight "$weights" --attacks fgsm pgd cw --epsilons 8 --bs 32 --resultDir "$METHODS/results"
  done
done
"$PYTHON" -m advmia tables "$METHODS/results" --out "$METHODS"
