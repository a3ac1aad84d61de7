"""Attacks a trained single-label classifier, white-box or from a surrogate, and tables its robust accuracy.

example: python testCls.py --dataset melBin --targetModel res18 --targetWeight clsCkpt/NAME --bs 16 --gpu 0
"""

import sys

from advmia import cli, commands
from advmia.tasks import SINGLE_LABEL


def main() -> int:
    parser = cli.test_parser(SINGLE_LABEL, __doc__)
    return cli.run(parser, lambda args: commands.test(SINGLE_LABEL, args), shared=True)


if __name__ == "__main__":
    sys.exit(main())
