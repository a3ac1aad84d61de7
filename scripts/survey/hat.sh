#!/usr/bin/env bash
# HAT on every single-label data set at every training eps. Run natural.sh first: it trains the helper networks.
. "$(dirname "$0")/settings.sh"
find_python requirements.txt
read_class_names
HELPERS=$CLS_DIR
if [ "${SEED:-0}" != 0 ]; then HELPERS+=/seed$SEED; fi
for dataset in $DATASETS; do
  for model in $MODELS; do
    helper=$(echo "$HELPERS/${CLASS[$model]}_${dataset}"_nat_class*_maxLR0.01_weightDecay0.001)
    for eps in $EPSILONS; do
      "$PYTHON" trainCls.py --dataset "$dataset" --method hat --model "$model" --helperModel "$model" \
        --helperWeight "$helper" --eps "$eps" $CLASSIFIER --saveDir "$CLS_DIR" "$@"
    done
  done
done
