#!/usr/bin/env bash
# MART on every single-label data set at every training eps.
. "$(dirname "$0")/settings.sh"
train --datasets $DATASETS --models $MODELS --methods mart --saveDir "$CLS_DIR" "$@"
