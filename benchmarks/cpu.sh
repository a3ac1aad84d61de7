#!/usr/bin/env bash
# The CPU figures. One file comes out: $1, or $OUT/cpu.json where OUT is set, or benchmarks/results/cpu.json.
# PYTHON=... chooses the interpreter. Run it on a machine that does nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/parts.sh
begin "${1:-${OUT:-benchmarks/results}/cpu.json}"

CPU=(--device cpu)
part data 300 data "${CPU[@]}"
part simba 300 evaluation "${CPU[@]}" --simba
STEPS=("${CPU[@]}" --size 64 --bs 16)
part steps-mv2 1200 steps "${STEPS[@]}" --models mv2 --repeats 3
part steps-res18 1500 steps "${STEPS[@]}" --models res18 --repeats 3
part steps-bf16 1200 steps "${STEPS[@]}" --models res18 mv2 --methods pgdat --precision bf16 --repeats 2
part evaluation 1200 evaluation "${CPU[@]}" --queries 500 --steps 10 --images 24
part strength 900 strength "${CPU[@]}" --precision fp32 bf16 --seeds 6 --images 256
for precision in fp32 bf16; do
  part "trainings-$precision" 3000 strength "${CPU[@]}" --train --precision "$precision" --images 256
done
finish
