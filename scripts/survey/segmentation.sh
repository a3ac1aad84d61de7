#!/usr/bin/env bash
# Both segmentation data sets: natural training, then PGD adversarial training at every training eps.
. "$(dirname "$0")/settings.sh"
find_python requirements.txt
for dataset in mel xray; do
  for model in $SEGMENTERS; do
    "$PYTHON" trainSeg.py --dataset "$dataset" --method nat --model "$model" --eps 0 $SEGMENTER --saveDir "$SEG_DIR" "$@"
    for eps in $EPSILONS; do
      "$PYTHON" trainSeg.py --dataset "$dataset" --method pgdat --model "$model" --eps "$eps" $SEGMENTER --saveDir "$SEG_DIR" "$@"
    done
  done
done
