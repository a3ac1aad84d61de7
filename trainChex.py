"""Trains a classifier of the 14 findings of ChestX-ray14, naturally or adversarially, and keeps its best epoch.

example: python trainChex.py --method pgdat --model res18 --eps 8 --epoch 100 --bs 32 --gpu 0
"""

import sys

from advmia import cli, commands
from advmia.tasks import MULTI_LABEL


def main() -> int:
    parser = cli.train_parser(MULTI_LABEL, __doc__)
    return cli.run(parser, lambda args: commands.train(MULTI_LABEL, args), shared=True)


if __name__ == "__main__":
    sys.exit(main())
