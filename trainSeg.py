"""Trains a segmentation network, naturally or adversarially, and keeps its best epoch.

Afterwards, testSeg.py attacks the network.

examples:
  natural training with the settings of the survey, on the first GPU
    python trainSeg.py --dataset mel --method nat --model unet --gpu 0

  adversarial training at eps 8/255; run again after a stop, it continues
    python trainSeg.py --dataset mel --method pgdat --model unet --eps 8 \\
      --gpu 0 --resume

  a trial on a CPU, with generated images
    python -m advmia phantoms --dataRoot phantoms
    python trainSeg.py --dataset mel --method nat --model unet --epoch 2 \\
      --bs 4 --dataRoot phantoms --imgSize 32 --limit 20 --gpu cpu
"""

import sys

from advmia.cli import flags, run
from advmia.commands import training
from advmia.tasks import SEGMENTATION


def main() -> int:
    parser = flags.train_parser(SEGMENTATION, __doc__)
    return run.run_command(parser, lambda args: training.train(SEGMENTATION, args), shared=True)


if __name__ == "__main__":
    sys.exit(main())
