#!/usr/bin/env bash
# Trains one network or several with each method at each training eps, tests them all, and tables the results:
#
#   scripts/sweep_eps.sh --dataset melBin --model res18 --methods nat pgdat --eps 4 8 [more flags]
#
# --out DIR      where checkpoints, results, logs and tables go (default: sweep)
# --dryRun       prints the command lines that the sweep consists of, and does nothing
# --epoch --lr --wd --init --valFraction --beta --gamma --hatStep --saveEvery   go to the training commands
# --attacks --epsilons --autoBatch                                             go to the test commands
# Any other flag goes to both, e.g. --gpu 0 --imgSize 64 --limit 100 --dataRoot data --bs 32 --seed 1
#
# Started again, a sweep skips what is finished. A step that fails ends it. hat trains the natural network first, as its
# helper. Paths are relative to the repository's folder, in which the commands run.
. "$(dirname "$0")/sweep.sh"
run_sweep --out sweep "$@"
