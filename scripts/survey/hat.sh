#!/usr/bin/env bash
# HAT on every single-label data set at every training eps. Helper networks that natural.sh has not trained yet are trained first.
. "$(dirname "$0")/settings.sh"
train --datasets $DATASETS --models $MODELS --methods hat --saveDir "$CLS_DIR" "$@"
