#!/usr/bin/env bash
# Both segmentation data sets: natural training, then PGD adversarial training at every training eps.
. "$(dirname "$0")/settings.sh"
train --datasets mel xray --models $SEGMENTERS --methods nat pgdat --saveDir "$SEG_DIR" "$@"
