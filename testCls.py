"""Attacks a trained single-label classifier, white-box or from a surrogate, and reports its robust accuracy.

example: python testCls.py --dataset melBin --targetModel res18 --targetWeight clsCkpt/NAME --bs 16 --gpu 0
"""

import sys

from advmia.cli import flags, run
from advmia.commands import testing
from advmia.tasks import SINGLE_LABEL


def main() -> int:
    parser = flags.test_parser(SINGLE_LABEL, __doc__)
    return run.run_command(parser, lambda args: testing.test(SINGLE_LABEL, args), shared=True)


if __name__ == "__main__":
    sys.exit(main())
