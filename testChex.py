"""Attacks a trained classifier of the 14 findings, white-box or from a surrogate, and reports AUROC by finding.

Afterwards, `python -m advmia tables results` makes tables and curves of all results.

examples (* stands for the rest of the file name, where only one file fits):
  the default attack at four eps
    python testChex.py --targetModel mv2 --gpu 0 \\
      --targetWeight clsCkpt/*_multilabel_pgdat_*_ADV8-255_*0.001

  all attacks, at eps 4 and 8
    python testChex.py --targetModel mv2 --gpu 0 \\
      --targetWeight clsCkpt/*_multilabel_pgdat_*_ADV8-255_*0.001 \\
      --attacks pgd pgd-margin apgd apgd-margin --epsilons 4 8

  transfer: adversarial images are computed on another network
    python testChex.py --targetModel mv2 --gpu 0 \\
      --targetWeight clsCkpt/*_multilabel_pgdat_*_ADV8-255_*0.001 \\
      --surrogateModel mv2 \\
      --surrogateWeight clsCkpt/*_multilabel_nat_*0.001
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
