# Sourced by the survey's scripts. Each list may be set from outside, e.g. MODELS=mv2 EPSILONS="4 8".
# Flags given to a script are handed to every command, e.g. scripts/survey/pgdat.sh --gpu 0 1 --valFraction 0.1
# What is trained already is skipped, and a training that was stopped goes on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. scripts/python.sh
DATASETS=${DATASETS:-mesidorBin mesidorMulti melBin melMulti xrayBin}
MODELS=${MODELS:-res18 mv2 chexnet}
EPSILONS=${EPSILONS:-1 2 4 8} # grey levels out of 255
CLS_DIR=${CLS_DIR:-clsCkpt} # where checkpoints go
SEG_DIR=${SEG_DIR:-segckpt}
SEGMENTERS=${SEGMENTERS:-unet segnet}
ATTACKS=${ATTACKS:-pgd fgsm cw aa square simba} # on single-label networks
RESULT_DIR=${RESULT_DIR:-results} # where evaluate.sh writes
TABLE_DIR=${TABLE_DIR:-tables}
declare -A CLASS=([res18]=ResNet [mv2]=MobileNetV2 [chexnet]=DenseNet121 [unet]=UNet [segnet]=SegNet) # as checkpoints are named
CLASSIFIER="--wd 1e-3 --lr 0.01 --epoch 100 --bs 32 --resume"
SEGMENTER="--wd 1e-3 --lr 1e-4 --epoch 100 --bs 32 --resume"
