#!/usr/bin/env bash
# The survey's experiments on one single-label data set: trains with every method at every training eps, tests with every
# attack at every test eps, and makes the tables. All three networks take days on one GPU. Square and SimBA take most of the
# time of the tests.
#
#   scripts/reproduce.sh melBin [more flags]
#
# MODELS="res18 mv2" chooses networks (default: res18 mv2 chexnet), EPSILONS="4 8" the training eps (default: 1 2 4 8).
# Flags are those of scripts/sweep_eps.sh and replace the settings below, e.g. --gpu 0 --attacks pgd --dryRun --out DIR
# (default: reproduce), --seeds 0 1 2. Started again, it skips finished steps.
. "$(dirname "$0")/sweep.sh"
if [[ ${1:---help} != -* ]]; then set -- --dataset "$@"; fi
# shellcheck disable=SC2086 # the unquoted variables are lists of words
run_sweep --models $MODELS --methods nat pgdat trades mart hat --eps $EPSILONS \
  --attacks $ATTACKS --epsilons 1 2 4 8 --out reproduce "${@:---help}"
