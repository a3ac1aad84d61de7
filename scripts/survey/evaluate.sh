#!/usr/bin/env bash
# Tests the networks that the other scripts here have trained, and writes tables of the results. Each network is attacked
# white-box. Then each natural network is tested with adversarial images of each other natural network of its data set
# (transfer), both of one seed. Networks that were not trained are left out; finished tests are skipped.
# Arguments go to `python -m advmia sweep`, e.g. --gpu 0
. "$(dirname "$0")/settings.sh"

evaluate() { # arguments: folder of the checkpoints, and the grid
  local seeds=0 folder
  for folder in "$1"/seed*/; do
    if [ -d "$folder" ]; then seeds+=" $(basename "${folder#"$1"/seed}")"; fi
  done
  sweep --only test --eps $EPSILONS --seeds $seeds --saveDir "$1" --resultDir "$RESULT_DIR" --tableDir "$TABLE_DIR" "${@:2}"
}

evaluate "$CLS_DIR" --out survey/evaluate --datasets $DATASETS --models $MODELS --methods nat pgdat trades mart hat \
  --attacks $ATTACKS --transfer fgsm pgd cw "$@"
evaluate "$CLS_DIR" --out survey/evaluate-findings --datasets xray_multilabel --models $MODELS --methods nat pgdat --transfer "$@"
evaluate "$SEG_DIR" --out survey/evaluate-masks --datasets mel xray --models $SEGMENTERS --methods nat pgdat --transfer "$@"
if [ ! -d "$RESULT_DIR" ] && [[ " ${*,,} " != *" --dryrun "* ]]; then
  echo "${0##*/}: error: there are no checkpoints in $CLS_DIR and $SEG_DIR: run the training scripts first" >&2
  exit 2
fi
