# Sourced by the survey's scripts. Each variable may be set in the environment, e.g. MODELS=mv2 EPSILONS="4 8".
# Arguments of a script go to every command that it runs, e.g. scripts/survey/pgdat.sh --gpu 0 1 --valFraction 0.1
# SEED=1 trains with another seed and finds hat's helpers of it; evaluate.sh tests the networks of all seeds.
# Finished trainings are skipped, and a training that was stopped is resumed.
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
CLASSIFIER="--wd 1e-3 --lr 0.01 --epoch 100 --bs 32 --resume${SEED:+ --seed $SEED}"
SEGMENTER="--wd 1e-3 --lr 1e-4 --epoch 100 --bs 32 --resume${SEED:+ --seed $SEED}"

# Sets CLASS, which maps each network to its class name; the names of its checkpoints begin with it. Needs PYTHON.
read_class_names() {
  local names name class_name
  names=$("$PYTHON" - <<<'from advmia.models import MODELS
for name, spec in MODELS.items(): print(name, spec.class_name)')
  declare -gA CLASS=()
  while read -r name class_name; do CLASS[$name]=$class_name; done <<<"$names"
}
