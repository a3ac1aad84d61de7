#!/usr/bin/env bash
# Natural training of every classifier on every single-label data set.
. "$(dirname "$0")/settings.sh"
find_python requirements.txt
for dataset in $DATASETS; do
  for model in $MODELS; do
    "$PYTHON" trainCls.py --dataset "$dataset" --method nat --model "$model" --eps 0 $CLASSIFIER --saveDir "$CLS_DIR" "$@"
  done
done
