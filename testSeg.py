"""Attacks a trained segmentation network, white-box or from a surrogate, and reports Dice and IoU.

example: python testSeg.py --dataset mel --targetModel unet --targetWeight segckpt/NAME --bs 16 --gpu 0
"""

import sys

from advmia.cli import flags, run
from advmia.commands import testing
from advmia.tasks import SEGMENTATION


def main() -> int:
    parser = flags.test_parser(SEGMENTATION, __doc__)
    return run.run_command(parser, lambda args: testing.test(SEGMENTATION, args), shared=True)


if __name__ == "__main__":
    sys.exit(main())
