"""Attacks a trained single-label classifier, white-box or from a surrogate, and reports its robust accuracy.

Afterwards, `python -m advmia tables results` makes tables and curves of all results.

examples (* stands for the rest of the file name, where only one file fits):
  the default attacks at four eps
    python testCls.py --dataset melBin --targetModel res18 --gpu 0 \\
      --targetWeight clsCkpt/ResNet_melBin_pgdat_*_ADV8-255_*0.001

  the survey's full table; aa, square and simba take most of the time
    python testCls.py --dataset melBin --targetModel res18 --gpu 0 \\
      --targetWeight clsCkpt/ResNet_melBin_pgdat_*_ADV8-255_*0.001 \\
      --attacks pgd fgsm cw aa square simba

  transfer: adversarial images are computed on another network
    python testCls.py --dataset melBin --targetModel res18 --gpu 0 \\
      --targetWeight clsCkpt/ResNet_melBin_pgdat_*_ADV8-255_*0.001 \\
      --surrogateModel res18 \\
      --surrogateWeight clsCkpt/ResNet_melBin_nat_*0.001
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
