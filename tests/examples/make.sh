#!/usr/bin/env bash
# Makes the example results anew, in a new folder: tests/examples/make.sh DIR. On phantoms, at tiny scale, on the CPU.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
PYTHON=${PYTHON:-python}
export PYTHONPATH=$ROOT OMP_NUM_THREADS=1
mkdir -p "$1" && cd "$1"
ON=(--gpu cpu --bs 8 --dataRoot data)
CLS=(--dataset melBin --imgSize 16 "${ON[@]}")
HEAD=clsCkpt/MobileNetV2_melBin
TAIL=maxLR0.01_weightDecay0.001
NAT=${HEAD}_nat_class2_$TAIL
PGDAT=${HEAD}_pgdat_beta0_class2_ADV8-255_10_2-255_$TAIL
TRADES=${HEAD}_trades_beta6_class2_ADV8-255_10_2-255_$TAIL

"$PYTHON" -m advmia phantoms --dataRoot data --count 60 --size 32
for method in nat pgdat trades; do
  "$PYTHON" "$ROOT/trainCls.py" "${CLS[@]}" --method $method --model mv2 --epoch 6
done
"$PYTHON" "$ROOT/trainCls.py" "${CLS[@]}" --method pgdat --model mv2 --epoch 6 --seed 1 --saveDir seed1
test_cls() { "$PYTHON" "$ROOT/testCls.py" "${CLS[@]}" --targetModel mv2 --targetWeight "$@"; }
for weight in "$NAT" "$PGDAT"; do test_cls "$weight" --attacks fgsm pgd --epsilons 2 8; done
test_cls "$TRADES" --attacks pgd --epsilons 8
test_cls "seed1/${PGDAT#*/}" --attacks pgd --epsilons 8 --resultDir results/seed1
test_cls "$NAT" --attacks pgd --epsilons 8 --limit 8 --resultDir results/limit8
for pair in "$NAT $PGDAT" "$PGDAT $NAT"; do
  test_cls "${pair% *}" --surrogateModel mv2 --surrogateWeight "${pair#* }" --attacks pgd --epsilons 8
done

for method in nat pgdat; do
  "$PYTHON" "$ROOT/trainChex.py" --imgSize 16 "${ON[@]}" --method $method --model mv2 --epoch 3
  "$PYTHON" "$ROOT/trainSeg.py" --dataset mel --imgSize 32 "${ON[@]}" --method $method --model unet --epoch 2
done
for weight in clsCkpt/*multilabel*001; do
  "$PYTHON" "$ROOT/testChex.py" --imgSize 16 "${ON[@]}" --targetModel mv2 --targetWeight "$weight" --epsilons 8 --limit 10
done
for weight in segckpt/UNet_mel_NAT_CrossEntropyLoss_Adam segckpt/UNet_mel_PGDAT*255; do
  "$PYTHON" "$ROOT/testSeg.py" --dataset mel --imgSize 32 "${ON[@]}" --targetModel unet --targetWeight "$weight" --epsilons 8
done

# What the tables do not read is left out, for size.
find results -name "*.json" -exec "$PYTHON" - {} + <<'END'
import json, sys
from pathlib import Path

for path in map(Path, sys.argv[1:]):
    record = json.loads(path.read_text())
    for name in ("reliability", "probe"):
        record.pop(name, None)
    for row in record["rows"]:
        row["notes"] = {}
    path.write_text(json.dumps(record) + "\n")
END
