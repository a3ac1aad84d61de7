#!/usr/bin/env bash
# Natural training of every classifier on every single-label data set.
. "$(dirname "$0")/settings.sh"
train --datasets $DATASETS --models $MODELS --methods nat --saveDir "$CLS_DIR" "$@"
