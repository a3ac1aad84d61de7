"""Draws what a trained single-label classifier looks at (Grad-CAM), in clean and in adversarial images.

example: python gradVisual.py --dataset melBin --model res18 --weight clsCkpt/NAME --saveDir maps --bs 16 --gpu 0
"""

import sys

from advmia.cli import flags, run
from advmia.commands import visualising
from advmia.tasks import SINGLE_LABEL


def main() -> int:
    parser = flags.visual_parser(SINGLE_LABEL, __doc__)
    return run.run_command(parser, lambda args: visualising.visualise(SINGLE_LABEL, args))


if __name__ == "__main__":
    sys.exit(main())
