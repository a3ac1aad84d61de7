"""Trains a classifier of the 14 findings of ChestX-ray14, naturally or adversarially, and keeps its best epoch.

Afterwards, testChex.py attacks the network.

examples:
  natural training with the settings of the survey, on the first GPU
    python trainChex.py --method nat --model mv2 --gpu 0

  adversarial training at eps 8/255; run again after a stop, it continues
    python trainChex.py --method pgdat --model mv2 --eps 8 --gpu 0 --resume

  a trial on a CPU, with generated images
    python -m advmia phantoms --dataRoot phantoms
    python trainChex.py --method nat --model mv2 --epoch 5 \\
      --bs 16 --dataRoot phantoms --imgSize 32 --limit 200 --gpu cpu
"""

import sys

from advmia.cli import flags, run
from advmia.commands import training
from advmia.tasks import MULTI_LABEL


def main() -> int:
    parser = flags.train_parser(MULTI_LABEL, __doc__)
    return run.run_command(parser, lambda args: training.train(MULTI_LABEL, args), shared=True)


if __name__ == "__main__":
    sys.exit(main())
