#!/usr/bin/env bash
# PGD adversarial training on every single-label data set at every training eps.
. "$(dirname "$0")/settings.sh"
train --datasets $DATASETS --models $MODELS --methods pgdat --saveDir "$CLS_DIR" "$@"
