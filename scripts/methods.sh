#!/usr/bin/env bash
# The five training methods side by side, on generated images of 64 pixels: trains each, attacks each, prints the
# robustness table and draws the curves. Everything goes to the folder METHODS (default methods); what is finished is not
# repeated. Sets up .venv if need be. Further arguments go to every training and test command, e.g. --gpu 0
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/python.sh
find_python requirements.txt
METHODS=${METHODS:-methods}

COMMON=(--dataset melBin --dataRoot "$METHODS/data" --imgSize 64 "$@")
TRAIN=(--model mv2 --eps 8 --epoch "${EPOCHS:-5}" --bs 8 --resume --saveDir "$METHODS/clsCkpt")
NATURAL=$METHODS/clsCkpt/MobileNetV2_melBin_nat_class2_maxLR0.01_weightDecay0.001
"$PYTHON" -m advmia phantoms --dataRoot "$METHODS/data" --dataset mel2017 --count 320 --size 96
for method in nat pgdat trades mart; do
  "$PYTHON" trainCls.py "${COMMON[@]}" --method $method "${TRAIN[@]}"
done
"$PYTHON" trainCls.py "${COMMON[@]}" --method hat --helperModel mv2 --helperWeight "$NATURAL" "${TRAIN[@]}"
for weights in "$METHODS"/clsCkpt/MobileNetV2_melBin_*_maxLR0.01_weightDecay0.001; do
  "$PYTHON" testCls.py "${COMMON[@]}" --targetModel mv2 --targetWeight "$weights" --attacks fgsm pgd cw --epsilons 8 --bs 32 --resultDir "$METHODS/results"
done
"$PYTHON" -m advmia tables "$METHODS/results" --out "$METHODS"
