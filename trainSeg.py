"""Trains a segmentation network, naturally or adversarially, and keeps its best epoch.

example: python trainSeg.py --dataset mel --method pgdat --model unet --eps 8 --epoch 100 --bs 32 --gpu 0
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
