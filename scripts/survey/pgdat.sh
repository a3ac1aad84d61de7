#!/usr/bin/env bash
# PGD adversarial training on every single-label data set at every training eps.
. "$(dirname "$0")/settings.sh"
find_python requirements.txt
for dataset in $DATASETS; do
  for model in $MODELS; do
    for eps in $EPSILONS; do
      "$PYTHON" trainCls.py --dataset "$dataset" --method pgdat --model "$model" --eps "$eps" $CLASSIFIER --saveDir "$CLS_DIR" "$@"
    done
  done
done
