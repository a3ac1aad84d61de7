"""Attacks a trained segmentation network, white-box or from a surrogate, and reports Dice and IoU.

example: python testSeg.py --dataset mel --targetModel unet --targetWeight segckpt/NAME --bs 16 --gpu 0
"""

import sys

from advmia import cli, commands
from advmia.tasks import SEGMENTATION


def main() -> int:
    parser = cli.test_parser(SEGMENTATION, __doc__)
    args = parser.parse_args()
    return cli.run(parser, lambda: commands.test(SEGMENTATION, args))


if __name__ == "__main__":
    sys.exit(main())
