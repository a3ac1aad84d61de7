"""Attacks a trained classifier of the 14 findings, white-box or from a surrogate, and reports AUROC by finding.

example: python testChex.py --targetModel res18 --targetWeight clsCkpt/NAME --bs 16 --gpu 0
"""

import sys

from advmia import cli, commands
from advmia.tasks import MULTI_LABEL


def main() -> int:
    parser = cli.test_parser(MULTI_LABEL, __doc__)
    return cli.run(parser, lambda args: commands.test(MULTI_LABEL, args), shared=True)


if __name__ == "__main__":
    sys.exit(main())
