# Sourced by the survey's scripts. Each variable may be set in the environment, e.g. MODELS=mv2 EPSILONS="4 8".
# Arguments of a script go to `python -m advmia sweep`, e.g. scripts/survey/pgdat.sh --gpu 0 1 --valFraction 0.1 --dryRun
# SEED=1 trains with another seed; evaluate.sh tests the networks of all seeds.
# Finished trainings are skipped, and a training that was stopped is resumed. The other settings are the commands' defaults.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. scripts/python.sh
DATASETS=${DATASETS:-mesidorBin mesidorMulti melBin melMulti xrayBin}
MODELS=${MODELS:-res18 mv2 chexnet}
EPSILONS=${EPSILONS:-1 2 4 8} # training eps in grey levels out of 255
CLS_DIR=${CLS_DIR:-clsCkpt} # folder for checkpoints of classifiers
SEG_DIR=${SEG_DIR:-segckpt} # folder for checkpoints of segmentation networks
SEGMENTERS=${SEGMENTERS:-unet segnet}
ATTACKS=${ATTACKS:-pgd fgsm cw aa square simba} # attacks on single-label networks
RESULT_DIR=${RESULT_DIR:-results} # folder for results, written by evaluate.sh
TABLE_DIR=${TABLE_DIR:-tables} # folder for tables, written by evaluate.sh

sweep() {
  find_python requirements.txt
  "$PYTHON" -m advmia sweep "$@"
}

train() { # arguments: the grid. Each script keeps its logs in a folder of its own, so that several may run at once.
  sweep --only train --out "survey/$(basename "$0" .sh)" --eps $EPSILONS ${SEED:+--seeds "$SEED"} "$@"
}
