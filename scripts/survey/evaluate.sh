#!/usr/bin/env bash
# Tests the networks that the other scripts here have trained, and writes tables of the results. Each network is attacked
# white-box. Then each natural network is tested with adversarial images of each other natural network of its data set
# (transfer), both of one seed. Networks that were not trained are left out; finished tests are skipped. Arguments go to every test command,
# e.g. --gpu 0
. "$(dirname "$0")/settings.sh"
find_python requirements.txt
read_class_names
shopt -s nullglob
FLAGS=("$@")
declare -A NATURAL # of the current data set: for each network, its naturally trained checkpoint

run_test() { # arguments: network, checkpoint, further flags
  "$PYTHON" "${TEST[@]}" --targetModel "$1" --targetWeight "$2" --resultDir "$RESULT_DIR" "${@:3}" "${FLAGS[@]}"
}

run_transfer() {
  local target source
  for target in "${!NATURAL[@]}"; do
    for source in "${!NATURAL[@]}"; do
      if [ "$target" != "$source" ]; then
        run_test "$target" "${NATURAL[$target]}" --surrogateModel "$source" --surrogateWeight "${NATURAL[$source]}"
      fi
    done
  done
}

for dataset in $DATASETS xray_multilabel; do
  TEST=(testCls.py --dataset "$dataset") ATTACK_FLAGS=(--attacks $ATTACKS)
  if [ "$dataset" = xray_multilabel ]; then TEST=(testChex.py) ATTACK_FLAGS=(); fi
  for folder in "$CLS_DIR" "$CLS_DIR"/seed*; do
    NATURAL=()
    for model in $MODELS; do
      for weights in "$folder/${CLASS[$model]}_${dataset}_"*_maxLR0.01_weightDecay0.001; do
        run_test "$model" "$weights" "${ATTACK_FLAGS[@]}"
        if [[ ${weights##*/} == *_nat_* ]]; then NATURAL[$model]=$weights; fi
      done
    done
    run_transfer
  done
done

for dataset in mel xray; do
  TEST=(testSeg.py --dataset "$dataset")
  for folder in "$SEG_DIR" "$SEG_DIR"/seed*; do
    NATURAL=()
    for model in $SEGMENTERS; do
      for weights in "$folder/${CLASS[$model]}_${dataset}_"*_CrossEntropyLoss_Adam{,_eps*-255}; do
        run_test "$model" "$weights"
        if [[ ${weights##*/} == *_NAT_* ]]; then NATURAL[$model]=$weights; fi
      done
    done
    run_transfer
  done
done

if [ ! -d "$RESULT_DIR" ]; then
  echo "${0##*/}: error: there are no checkpoints in $CLS_DIR and $SEG_DIR: run the training scripts first" >&2
  exit 2
fi
"$PYTHON" -m advmia tables "$RESULT_DIR" --out "$TABLE_DIR"
