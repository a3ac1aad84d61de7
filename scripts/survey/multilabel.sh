#!/usr/bin/env bash
# The 14 findings of ChestX-ray14: natural training, then PGD adversarial training at every training eps.
. "$(dirname "$0")/settings.sh"
train --datasets xray_multilabel --models $MODELS --methods nat pgdat --saveDir "$CLS_DIR" "$@"
