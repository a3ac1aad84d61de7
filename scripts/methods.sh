#!/usr/bin/env bash
# Compares the training methods: trains networks with each, attacks them, prints the robustness table and draws the
# curves. By default on generated images of 16 pixels. Finished steps are not repeated. Sets up .venv if needed.
#
#   METHODS=methods        folder for everything
#   MODELS=mv2             networks
#   EPSILONS=8             eps in grey levels, of the trainings and of the tests
#   SEEDS="0 1 2"          seeds of the trainings
#   EPOCHS=12              of natural training; the others take a third of them
#   TRAININGS="pgdat,..."  other trainings: a method and its flags each, with commas between
#   TRAIN_FLAGS=""         further flags of every training, e.g. "--validateEvery 4"
#   ATTACKS="pgd cw apgd-t"
#
# Arguments go to every training and test command, e.g. --gpu 0, or --dataset with --dataRoot for other images.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/python.sh
find_python requirements.txt
METHODS=${METHODS:-methods} EPOCHS=${EPOCHS:-12}
TRAININGS=${TRAININGS:-pgdat,trades,mart,hat,mpadvt,maadvt,pgdat --awp 0.01 --awpWarmUp 2,pgdat --ema 0.995,trades --awp 0.005 --awpWarmUp 2}

COMMON=(--dataset melBin --dataRoot "$METHODS/data" --imgSize 16 "$@")
# The weight decay keeps the logits of natural networks so small that their cross-entropy has a gradient in float32.
TRAIN=(trainCls.py "${COMMON[@]}" --wd 0.01 --bs 8 ${TRAIN_FLAGS:-} --resume --saveDir "$METHODS/clsCkpt")
if [[ " ${*,,}" != *" --dataroot"* ]]; then
  "$PYTHON" -m advmia phantoms --dataRoot "$METHODS/data" --dataset mel2017 --count "${PHANTOMS:-400}" --size 40
fi

train_and_test() { # arguments: network and flags of the training
  local flags=(--model "$@")
  "$PYTHON" "${TRAIN[@]}" "${flags[@]}"
  "$PYTHON" testCls.py "${COMMON[@]}" --targetModel "$1" --targetWeight "$(checkpoint_of "${TRAIN[@]}" "${flags[@]}")" \
    --attacks ${ATTACKS:-pgd cw apgd-t} --epsilons ${EPSILONS:-8} --bs 64 --resultDir "$METHODS/results"
}

for model in ${MODELS:-mv2}; do
  for seed in ${SEEDS:-0 1 2}; do
    natural=("$model" --seed "$seed" --epoch "$EPOCHS" --method nat)
    train_and_test "${natural[@]}"
    helper=(--helperModel "$model" --helperWeight "$(checkpoint_of "${TRAIN[@]}" --model "${natural[@]}")")
    for eps in ${EPSILONS:-8}; do
      while read -r method further; do
        flags=("$model" --seed "$seed" --epoch $(((EPOCHS + 2) / 3)) --eps "$eps" --method "$method" $further)
        if [ "$method" = hat ]; then flags+=("${helper[@]}"); fi
        train_and_test "${flags[@]}" < /dev/null
      done <<< "${TRAININGS//,/$'\n'}"
    done
  done
done
"$PYTHON" -m advmia tables "$METHODS/results" --out "$METHODS"
