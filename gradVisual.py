"""Draws what a trained single-label classifier looks at (Grad-CAM), in clean and in adversarial images.

The contact sheet, gradVisual.png, shows the first 16 images; there is a JPEG for each map, and a table, gradVisual.csv.

examples (* stands for the rest of the file name, where only one file fits):
  maps of the true class, clean and under PGD at four eps
    python gradVisual.py --dataset melBin --model res18 --gpu 0 \\
      --weight clsCkpt/ResNet_melBin_nat_*0.001 --saveDir maps

  maps of the predicted class, of 16 images, clean and at eps 8
    python gradVisual.py --dataset melBin --model res18 --gpu 0 \\
      --weight clsCkpt/ResNet_melBin_nat_*0.001 \\
      --saveDir predicted --mapOf predicted --limit 16 --epsilons 8
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
