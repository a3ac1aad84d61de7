"""Trains a segmentation network, naturally or adversarially, and keeps its best epoch.

example: python trainSeg.py --dataset mel --method pgdat --model unet --eps 8 --epoch 100 --bs 32 --gpu 0
"""

import sys

from advmia import cli, commands
from advmia.tasks import SEGMENTATION


def main() -> int:
    parser = cli.train_parser(SEGMENTATION, __doc__)
    return cli.run(parser, lambda args: commands.train(SEGMENTATION, args), shared=True)


if __name__ == "__main__":
    sys.exit(main())
