#!/usr/bin/env bash
# The survey's experiments on one single-label data set: every training method at every training eps, every attack at
# every test eps, and the tables. Days on one GPU for all three networks; Square and SimBA take most of the testing.
#
#   scripts/reproduce.sh melBin [more flags]
#
# MODELS="res18 mv2"   fewer networks (default: res18 mv2 chexnet); EPSILONS="4 8" fewer training eps (default: 1 2 4 8)
# Flags are those of scripts/sweep_eps.sh and replace what stands here, e.g. --gpu 0 --attacks pgd --out DIR (default:
# reproduce) --dryRun. Started again, it skips what is finished.
. "$(dirname "$0")/sweep.sh"
if [[ ${1:---help} != -* ]]; then set -- --dataset "$@"; fi
# shellcheck disable=SC2086 # these are lists
run_sweep --models $MODELS --methods nat pgdat trades mart hat --eps $EPSILONS \
  --attacks $ATTACKS --epsilons 1 2 4 8 --out reproduce "${@:---help}"
