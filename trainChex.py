"""Trains a classifier of the 14 findings of ChestX-ray14, naturally or adversarially, and keeps its best epoch.

example: python trainChex.py --method pgdat --model res18 --eps 8 --epoch 100 --bs 32 --gpu 0
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
