#!/usr/bin/env bash
# TRADES on every single-label data set at every training eps.
. "$(dirname "$0")/settings.sh"
train --datasets $DATASETS --models $MODELS --methods trades --saveDir "$CLS_DIR" "$@"
