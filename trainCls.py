"""Trains a single-label classifier, naturally or adversarially, and keeps its best epoch.

Afterwards, testCls.py attacks the network, and gradVisual.py draws what it looks at.

examples:
  natural training with the settings of the survey, on the first GPU
    python trainCls.py --dataset melBin --method nat --model res18 --gpu 0

  adversarial training at eps 8/255; run again after a stop, it continues
    python trainCls.py --dataset melBin --method pgdat --model res18 --eps 8 \\
      --gpu 0 --resume

  a trial on a CPU, with generated images
    python -m advmia phantoms --dataRoot phantoms
    python trainCls.py --dataset melBin --method nat --model mv2 --epoch 5 \\
      --bs 16 --dataRoot phantoms --imgSize 32 --limit 200 --gpu cpu
"""

import sys

from advmia.cli import flags, run
from advmia.commands import training
from advmia.tasks import SINGLE_LABEL


def main() -> int:
    parser = flags.train_parser(SINGLE_LABEL, __doc__)
    return run.run_command(parser, lambda args: training.train(SINGLE_LABEL, args), shared=True)


if __name__ == "__main__":
    sys.exit(main())
