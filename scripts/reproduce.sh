#!/usr/bin/env bash
# The survey's experiments on one single-label data set: trains with every method at every training eps, tests with every
# attack at every test eps, and makes the tables. All three networks take days on one GPU; --estimate says how many. Square
# and SimBA take most of the time of the tests.
#
#   scripts/reproduce.sh melBin [more flags]
#
# MODELS="res18 mv2" chooses networks (default: res18 mv2 chexnet), EPSILONS="4 8" the training eps (default: 1 2 4 8).
# Flags are those of scripts/sweep_eps.sh and replace the settings below, e.g. --gpu 0 1 --attacks pgd --dryRun
# --out FOLDER (default: reproduce), --seeds 0 1 2. Started again, it skips finished steps.
#
# To run Square and SimBA on 100 images only: first ATTACKS="fgsm pgd cw aa" scripts/reproduce.sh melBin, then
#   scripts/reproduce.sh melBin --only test --attacks square simba --limit 100 --saveDir reproduce/clsCkpt --out blackbox
if [[ ${1:---help} == --help || $1 == -h ]]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
. "$(dirname "$0")/survey/settings.sh"
if [[ $1 != -* ]]; then set -- --dataset "$@"; fi
sweep --models $MODELS --methods nat pgdat trades mart hat --eps $EPSILONS --attacks $ATTACKS --epsilons 1 2 4 8 \
  --out reproduce "$@"
