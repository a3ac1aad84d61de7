#!/usr/bin/env bash
# Measures all CPU figures. Writes one file: $1, or $OUT/cpu.json if OUT is set, or benchmarks/results/cpu.json.
# PYTHON=... chooses the interpreter. Nothing else should run on the machine.
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/parts.sh
begin "${1:-${OUT:-benchmarks/results}/cpu.json}"

CPU=(--device cpu)
# Two warm-up calls: the second call of a training step still requests memory from the system, the third almost none.
STEPS=("${CPU[@]}" --size 64 --bs 16 --warmup 2)
part data 300 data "${CPU[@]}"
part simba 300 evaluation "${CPU[@]}" --simba
part prepare 600 prepare "${CPU[@]}"
part steps-mv2 1500 steps "${STEPS[@]}" --models mv2 --compile --repeats 3
part steps-res18 1800 steps "${STEPS[@]}" --models res18 --compile --repeats 2
part steps-bf16 1200 steps "${STEPS[@]}" --models res18 mv2 --methods pgdat --precision bf16 --repeats 2
part networks 900 networks "${CPU[@]}" --size 32 64 --bs 2 --repeats 3 --processorTime
part sweeps 1800 sweeps "${CPU[@]}" --jobs 2 --images 96 --epoch 1 --methods nat pgdat
part epoch 600 epoch "${CPU[@]}" --model mv2 --size 64 --bs 16 --images 96 --testImages 32 --repeats 1
part evaluation 1800 evaluation "${CPU[@]}" --queries 500 --steps 10 --images 24
part strength 3600 strength "${CPU[@]}" --precision fp32 bf16 --images 512
TRAININGS=("${CPU[@]}" --train --images 256)
for precision in fp32 bf16; do
  part "trainings-$precision" 4500 strength "${TRAININGS[@]}" --precision "$precision" --methods trades hat
  # More seeds for PGD-AT, because its seeds differ most.
  part "pgdat-$precision" 4500 strength "${TRAININGS[@]}" --precision "$precision" --methods pgdat --seeds 6
done
part estimate 2400 estimate "${CPU[@]}"
finish
