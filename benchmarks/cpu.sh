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
part steps-mv2 1200 steps "${CPU[@]}" --models mv2 --size 64 --bs 16 --precision fp32 bf16
part steps-res18 3600 steps "${CPU[@]}" --models res18 --size 64 --bs 16 --precision fp32 bf16
part evaluation 3600 evaluation "${CPU[@]}" --queries 100 --steps 10
part strength 3600 strength "${CPU[@]}" --precision fp32 bf16
finish
