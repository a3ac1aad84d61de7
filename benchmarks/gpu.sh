#!/usr/bin/env bash
# Measures on one CUDA device, in less than nine minutes: first the tests that need one, then the most telling figures.
# The time limits add up to 525 s, those of the first six parts to 300 s. Writes one file: $1, or $OUT/gpu.json if OUT is
# set, or benchmarks/results/gpu.json; it is complete after each part, however early this script ends. PYTHON=... chooses
# the interpreter, and PLAN=1 only prints the parts. `python -m benchmarks.counts` made the counts that measured figures
# stand beside (benchmarks/results/gpu_counts.json).
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/parts.sh
begin "${1:-${OUT:-benchmarks/results}/gpu.json}"

GPU=(--device cuda)
BOTH=(--precision tf32 bf16)
part tests 65 gpu_tests "${GPU[@]}"
part kernels 55 gpu "${GPU[@]}" --groups ceilings kernels profile --seconds 40
part steps 45 gpu "${GPU[@]}" --groups steps memory --seconds 30
part queries 30 gpu "${GPU[@]}" --groups queries --seconds 16
part layouts 40 gpu "${GPU[@]}" --groups layouts batches segmentation --seconds 26
part compiled 65 gpu "${GPU[@]}" --groups compiled --seconds 35
part plain-224 65 steps "${GPU[@]}" --models res18 --size 224 --bs 32 --methods pgdat "${BOTH[@]}" --repeats 3
part epoch-224 65 epoch "${GPU[@]}" --size 224 --images 256 --testImages 64 "${BOTH[@]}" --repeats 1
part evaluation 50 evaluation "${GPU[@]}" --images 64 --bs 64 --queries 250 --steps 5 --epsilons 4 --trainEpochs 3
part strength 45 strength "${GPU[@]}" --images 512 --bs 256 --trainEpochs 3 --precision fp32 tf32 bf16
finish
