"""Trains a single-label classifier, naturally or adversarially, and keeps its best epoch.

example: python trainCls.py --dataset melBin --method pgdat --model res18 --eps 8 --epoch 100 --bs 32 --gpu 0
"""

import sys

from advmia import cli, commands
from advmia.tasks import SINGLE_LABEL


def main() -> int:
    parser = cli.train_parser(SINGLE_LABEL, __doc__)
    return cli.run(parser, lambda args: commands.train(SINGLE_LABEL, args), shared=True)


if __name__ == "__main__":
    sys.exit(main())
