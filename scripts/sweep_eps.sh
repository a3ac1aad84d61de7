#!/usr/bin/env bash
# Trains one or several networks with each method at each training eps, tests them all, and makes tables of the results:
#
#   scripts/sweep_eps.sh --dataset melBin --model res18 --methods nat pgdat --eps 4 8 [more flags]
#
# --out DIR      folder for checkpoints, results, logs and tables (default: sweep)
# --seeds 0 1 2  trains each network with each of these seeds; the tables show mean and deviation over them
# --dryRun       prints the commands that the sweep would run, and runs none
# --epoch --lr --wd --init --valFraction --validateEvery --beta --gamma --hatStep --saveEvery   go to the training commands
# --attacks --epsilons --restarts --eightBit --autoBatch                       go to the test commands
# Any other flag goes to both, e.g. --gpu 0 --imgSize 64 --limit 100 --dataRoot data --bs 32 --seed 1
#
# Started again, a sweep skips finished steps. A step that fails ends it. For hat, its helper, a
# natural network, is trained first. Paths are relative to the repository's folder, where the commands run.
. "$(dirname "$0")/sweep.sh"
run_sweep --out sweep "$@"
