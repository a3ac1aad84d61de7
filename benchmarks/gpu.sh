#!/usr/bin/env bash
# The GPU figures on one CUDA device, in under nine minutes: the limits add up to 535 s. One file comes out: $1, or
# $OUT/gpu.json where OUT is set, or benchmarks/results/gpu.json. PYTHON=... chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/parts.sh
begin "${1:-${OUT:-benchmarks/results}/gpu.json}"

GPU=(--device cuda)
part steps-224 125 steps "${GPU[@]}" --models res18 --size 224 --bs 32 --precision tf32 bf16 --repeats 5
part steps-299 65 steps "${GPU[@]}" --models res18 --size 299 --bs 32 --methods pgdat --precision tf32 bf16 --repeats 5
part steps-unet 50 steps "${GPU[@]}" --models unet --size 256 --bs 32 --methods pgdat --precision tf32 bf16 --repeats 5
part epoch-299 95 epoch "${GPU[@]}" --model res18 --size 299 --bs 32 --precision tf32 bf16 --repeats 1
part data 40 data "${GPU[@]}" --repeats 3
part simba 25 evaluation "${GPU[@]}" --simba --queries 100 --repeats 3
part evaluation 75 evaluation "${GPU[@]}" --precision tf32 --images 64 --bs 64 --queries 250 --steps 5 --epsilons 2 8
part strength 60 strength "${GPU[@]}" --images 256 --bs 128 --precision tf32 bf16
finish
