#!/usr/bin/env bash
# Measures all GPU figures on one CUDA device, in less than ten minutes: the time limits add up to 580 s. Writes one
# file: $1, or $OUT/gpu.json if OUT is set, or benchmarks/results/gpu.json. PYTHON=... chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/parts.sh
begin "${1:-${OUT:-benchmarks/results}/gpu.json}"

GPU=(--device cuda)
BOTH=(--precision tf32 bf16)
part steps-224 130 steps "${GPU[@]}" --models res18 --size 224 --bs 32 "${BOTH[@]}" --repeats 5
part steps-299 55 steps "${GPU[@]}" --models res18 --size 299 --bs 32 --methods pgdat "${BOTH[@]}" --repeats 3
part steps-unet 45 steps "${GPU[@]}" --models unet --size 256 --bs 32 --methods pgdat "${BOTH[@]}" --repeats 3
part networks 45 networks "${GPU[@]}" --models res18 wrn --size 224 --bs 32 "${BOTH[@]}"
part epoch-224 90 epoch "${GPU[@]}" --size 224 --images 320 --testImages 96 "${BOTH[@]}" --repeats 1
part data 25 data "${GPU[@]}" --repeats 3
part simba 20 evaluation "${GPU[@]}" --simba --queries 100 --repeats 3
part evaluation 70 evaluation "${GPU[@]}" --images 64 --bs 64 --queries 250 --steps 5 --epsilons 2 8 --trainEpochs 3
part strength 45 strength "${GPU[@]}" --images 512 --bs 256 --trainEpochs 3 --precision fp32 tf32 bf16
part compiled 55 steps "${GPU[@]}" --models res18 --size 224 --bs 32 --methods --compile --repeats 3
finish
