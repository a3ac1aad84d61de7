"""Shows what a trained single-label classifier looks at (Grad-CAM), in clean and in attacked images.

example: python gradVisual.py --dataset melBin --model res18 --weight clsCkpt/NAME --saveDir maps --bs 16 --gpu 0
"""

import sys

from advmia import cli, commands
from advmia.tasks import SINGLE_LABEL


def main() -> int:
    parser = cli.visual_parser(SINGLE_LABEL, __doc__)
    return cli.run(parser, lambda args: commands.visualise(SINGLE_LABEL, args))


if __name__ == "__main__":
    sys.exit(main())
