"""Attacks a trained classifier of the 14 findings, white-box or from a surrogate, and reports AUROC by finding.

example: python testChex.py --targetModel res18 --targetWeight clsCkpt/NAME --bs 16 --gpu 0
"""

import sys

from advmia.cli import flags, run
from advmia.commands import testing
from advmia.tasks import MULTI_LABEL


def main() -> int:
    parser = flags.test_parser(MULTI_LABEL, __doc__)
    return run.run_command(parser, lambda args: testing.test(MULTI_LABEL, args), shared=True)


if __name__ == "__main__":
    sys.exit(main())
