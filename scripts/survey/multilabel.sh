#!/usr/bin/env bash
# The 14 findings of ChestX-ray14: natural training, then PGD adversarial training at every training eps.
. "$(dirname "$0")/settings.sh"
find_python requirements.txt
for model in $MODELS; do
  "$PYTHON" trainChex.py --method nat --model "$model" --eps 0 $CLASSIFIER --saveDir "$CLS_DIR" "$@"
  for eps in $EPSILONS; do
    "$PYTHON" trainChex.py --method pgdat --model "$model" --eps "$eps" $CLASSIFIER --saveDir "$CLS_DIR" "$@"
  done
done
