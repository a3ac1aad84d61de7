"""Attacks a trained segmentation network, white-box or from a surrogate, and reports Dice and IoU.

Afterwards, `python -m advmia tables results` makes tables and curves of all results.

examples (* stands for the rest of the file name, where only one file fits):
  the default attacks at four eps
    python testSeg.py --dataset mel --targetModel unet --gpu 0 \\
      --targetWeight segckpt/UNet_mel_PGDAT_*_eps8-255_*_stepSize2-255

  all attacks, at eps 4 and 8
    python testSeg.py --dataset mel --targetModel unet --gpu 0 \\
      --targetWeight segckpt/UNet_mel_PGDAT_*_eps8-255_*_stepSize2-255 \\
      --attacks pgd pgd-dice apgd apgd-dice --epsilons 4 8

  transfer: adversarial images are computed on another network
    python testSeg.py --dataset mel --targetModel unet --gpu 0 \\
      --targetWeight segckpt/UNet_mel_PGDAT_*_eps8-255_*_stepSize2-255 \\
      --surrogateModel unet \\
      --surrogateWeight segckpt/UNet_mel_NAT_CrossEntropyLoss_Adam
"""

import sys

from advmia.cli import flags, run
from advmia.commands import testing
from advmia.tasks import SEGMENTATION


def main() -> int:
    parser = flags.test_parser(SEGMENTATION, __doc__)
    return run.run_command(parser, lambda args: testing.test(SEGMENTATION, args), shared=True)


if __name__ == "__main__":
    sys.exit(main())
