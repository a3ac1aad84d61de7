"""Trains a single-label classifier, naturally or adversarially, and keeps its best epoch.

example: python trainCls.py --dataset melBin --method pgdat --model res18 --eps 8 --epoch 100 --bs 32 --gpu 0
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
