"""The flags of the training scripts that only some methods have, and of what an update does with the weights."""

from __future__ import annotations

import argparse

from advmia.cli.parser import fraction, non_negative, one_of, positive, whole_number
from advmia.tasks import SEGMENTATION, Task
from advmia.training.methods import MASK_ATTACKS


def add_method_settings(group: argparse._ArgumentGroup, task: Task) -> None:
    """Adds the flags that only some training methods have."""
    weight = "weight of the robustness term of "
    if "hat" in task.methods:
        weight += "trades, mart, hat and maadvt (default: the survey's, 6 for most data sets)"
    else:
        weight += "trades (default: 6)"
    group.add_argument("--beta", type=non_negative, metavar="X", help=weight)
    if "hat" in task.methods:
        group.add_argument(
            "--gamma", type=non_negative, default=1.0, metavar="X", help="hat only: weight of the helper's term"
        )
        group.add_argument(
            "--hatStep",
            type=positive,
            default=3.5,
            metavar="X",
            help="hat only: h, the factor of the perturbation in the helper's term",
        )
    if task is SEGMENTATION:
        group.add_argument(
            "--attackLoss",
            type=one_of(MASK_ATTACKS),
            default=next(iter(MASK_ATTACKS)),
            metavar="NAME",
            help="pgdat only: loss that its attack ascends: cross-entropy, or segpgd (SegPGD's: at first that of right"
            " pixels only, later also that of wrong ones)",
        )


def add_weights(group: argparse._ArgumentGroup) -> None:
    """Adds the flags of what an update does with the weights, whatever the method."""
    group.add_argument(
        "--awp",
        type=fraction,
        metavar="GAMMA",
        help="adversarial weight perturbation (AWP), for any method: before each update, weights move up the loss by"
        " GAMMA of their norm, the gradient is taken there, and they move back. The paper has 0.01 for pgdat and 0.005"
        " for trades. A step costs one more forward and backward pass of the loss, beside those of the attack",
    )
    group.add_argument(
        "--awpWarmUp",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="epochs at the beginning without --awp; 10 in the published code for trades",
    )
    group.add_argument(
        "--ema",
        type=fraction,
        metavar="DECAY",
        help="validate and keep the exponential moving average (EMA) of the weights instead of the weights, for any"
        " method: after each update, average = DECAY * average + (1 - DECAY) * weights. 0.995 is usual. It costs"
        " next to nothing",
    )


def add_recomputation(group: argparse._ArgumentGroup) -> None:
    """Adds the flag of trainings that do not fit into the memory."""
    group.add_argument(
        "--checkpointActivations",
        action="store_true",
        help="keep only the inputs of the network's blocks for the gradient of the loss, and compute the rest again:"
        " needs a fraction of the memory and one more forward pass of the loss in a step, for networks and a --bs that"
        " do not fit otherwise. The network is the same",
    )
