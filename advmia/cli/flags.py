"""The flags of the seven scripts. Each is declared once; names to choose from come from the registries."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from advmia.attacks import ATTACKS
from advmia.cli.parser import (
    DeviceNames,
    Parser,
    fraction,
    grey_level,
    make_parser,
    non_negative,
    one_of,
    positive,
    whole_number,
    with_choices,
)
from advmia.data.specs import DATASETS
from advmia.models import MODELS
from advmia.runtime.precision import PRECISIONS
from advmia.tasks import SEGMENTATION, Task


def train_parser(task: Task, description: str | None) -> Parser:
    """Returns the parser of the task's training script. `description` begins its help."""
    parser = make_parser(description)
    subject = parser.add_argument_group("what to train")
    _add_dataset(subject, task)
    subject.add_argument(
        "--method", required=True, type=one_of(task.methods), help=with_choices("training method", task.methods)
    )
    subject.add_argument("--model", required=True, type=one_of(task.models), help=with_choices("network", task.models))
    if "hat" in task.methods:
        subject.add_argument(
            "--helperModel", type=one_of(task.models), help="hat only: network of the naturally trained helper"
        )
        subject.add_argument("--helperWeight", type=Path, help="hat only: checkpoint of the helper")
        _add_other_dataset(subject, "hat only: take a helper")
    _add_training(parser.add_argument_group("how to train"), task)
    _add_common(parser, bs=32)
    parser.add_argument("--saveDir", type=Path, default=Path(task.checkpoint_folder), help="folder for checkpoints")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the same training from its saved state if it was stopped or killed. Without this flag, an"
        " unfinished training is renamed (to .earlier-1) and a new one starts. A finished one is always skipped",
    )
    parser.add_argument(
        "--saveEvery",
        type=positive,
        metavar="MINUTES",
        help="also save the state for --resume at this interval within an epoch (default: only after each epoch)",
    )
    return parser


def _add_training(group: argparse._ArgumentGroup, task: Task) -> None:
    group.add_argument(
        "--eps",
        type=grey_level,
        default=8.0,
        help="perturbation budget of adversarial training, in grey levels out of 255: 8 or 8/255; nat does not use it",
    )
    group.add_argument("--epoch", type=whole_number(1), default=100, help="number of epochs")
    group.add_argument(
        "--lr", type=positive, default=task.default_lr, help="learning rate; its maximum if a schedule changes it"
    )
    group.add_argument("--wd", type=non_negative, default=1e-3, help="weight decay")
    pretrained = ", ".join(name for name in task.models if MODELS[name].load_imagenet)
    group.add_argument(
        "--init",
        type=one_of(("imagenet", "random")),
        help=f"initial weights: random, or imagenet, which is available for {pretrained} only and is its default"
        if pretrained
        else "initial weights: random; no others are available for these networks",
    )
    if "trades" in task.methods:
        group.add_argument(
            "--beta",
            type=non_negative,
            help="weight of the robustness term of trades, mart and hat (default: the survey's for the data set)",
        )
        group.add_argument("--gamma", type=non_negative, default=1.0, help="hat only: weight of the helper term")
        group.add_argument(
            "--hatStep",
            type=positive,
            default=3.5,
            help="hat only: h, which scales the perturbation of the helper term",
        )
    group.add_argument(
        "--valFraction",
        type=fraction,
        help="choose the best epoch on this fraction of the training list, held out by image and not by patient"
        " (default: choose it on the test list, as the survey does)",
    )


def test_parser(task: Task, description: str | None) -> Parser:
    """Returns the parser of the task's test script. `description` begins its help."""
    parser = make_parser(description)
    subject = parser.add_argument_group("what to test")
    _add_dataset(subject, task)
    network = one_of(task.models)
    subject.add_argument(
        "--targetModel",
        required=True,
        type=network,
        help=with_choices("target network, which is evaluated", task.models),
    )
    subject.add_argument("--targetWeight", "--targetPath", required=True, type=Path, help="checkpoint of the target")
    subject.add_argument(
        "--surrogateModel",
        type=network,
        help="source network, on which the adversarial images are computed (default: the target)",
    )
    subject.add_argument(
        "--surrogateWeight", "--surrogatePath", type=Path, help="checkpoint of the source (default: the target's)"
    )
    if len(task.datasets) > 1:
        _add_other_dataset(subject, "test networks")
    _add_attacks(parser.add_argument_group("how to test"), task, list(task.default_attacks))
    _add_common(parser, bs=16)
    parser.add_argument(
        "--autoBatch", action="store_true", help="on a GPU: use the largest batch that fits its memory instead of --bs"
    )
    parser.add_argument("--resultDir", type=Path, default=Path("results"), help="folder for result files")
    return parser


def visual_parser(task: Task, description: str | None) -> Parser:
    """Returns the parser of the script that draws Grad-CAM maps. `description` begins its help."""
    parser = make_parser(description)
    subject = parser.add_argument_group("what to draw")
    _add_dataset(subject, task, {"mel": "melBin", "xray": "xrayBin"})
    subject.add_argument("--model", required=True, type=one_of(task.models), help=with_choices("network", task.models))
    subject.add_argument("--weight", required=True, type=Path, help="checkpoint of the network")
    subject.add_argument(
        "--saveDir", required=True, type=Path, help="folder for the pictures; created if missing, never emptied"
    )
    _add_other_dataset(subject, "draw a network")
    group = parser.add_argument_group("how to draw")
    group.add_argument(
        "--overlayOn",
        type=one_of(("attacked", "clean")),
        default="attacked",
        help="image to draw an adversarial image's map on: the adversarial image (attacked), or the clean one (clean,"
        " as in the published code)",
    )
    group.add_argument(
        "--mapOf",
        type=one_of(("true", "predicted")),
        default="true",
        help="class that the maps explain: the true class (as in the published code), or the one that is predicted",
    )
    _add_attacks(group, task, ["pgd"])
    _add_common(parser, bs=16)
    return parser


def _add_dataset(group: argparse._ArgumentGroup, task: Task, aliases: dict[str, str] | None = None) -> None:
    """Adds --dataset, or sets its value if the task has only one data set. `aliases`: {further spelling: name}."""
    if len(task.datasets) == 1:
        group.set_defaults(dataset=task.datasets[0])
        return
    if task is SEGMENTATION:
        group.add_argument(
            "--foreground",
            nargs="+",
            type=whole_number(1, 65535),
            metavar="VALUE",
            help="mask values that are foreground, where masks have more than two (default: decided for each file)",
        )
    aliases = {alias: name for name in task.datasets for alias in DATASETS[name].aliases} | (aliases or {})
    group.add_argument(
        "--dataset", required=True, type=one_of(task.datasets, aliases), help=with_choices("data set", task.datasets)
    )


def _add_other_dataset(group: argparse._ArgumentGroup, action: str) -> None:
    group.add_argument(
        "--otherDataset",
        action="store_true",
        help=f"{action} trained on another data set, whose classes mean something else (default: that is refused)",
    )


def _add_attacks(group: argparse._ArgumentGroup, task: Task, default: list[str]) -> None:
    group.add_argument(
        "--attacks",
        nargs="+",
        type=one_of(task.attacks),
        default=default,
        help="; ".join(f"{name}: {ATTACKS[name].phrase}" for name in task.attacks),
    )
    group.add_argument(
        "--epsilons",
        nargs="+",
        type=grey_level,
        default=[1.0, 2.0, 4.0, 8.0],
        help="perturbation budgets of the attacks, in grey levels out of 255: 8 or 8/255",
    )


def _add_common(parser: argparse.ArgumentParser, *, bs: int) -> None:
    """Adds the flags that all seven scripts have."""
    parser.add_argument("--bs", type=whole_number(1), default=bs, help="batch size, of all devices together")
    parser.add_argument(
        "--gpu",
        nargs="+",
        action=DeviceNames,
        metavar="ID",
        help="CUDA device ids, or cpu (default: 0, or cpu without a CUDA device). In training and tests, several"
        " devices share each batch; gradVisual.py uses the first",
    )
    parser.add_argument(
        "--precision",
        type=one_of(PRECISIONS),
        help=with_choices("precision of the networks (default: tf32 on CUDA, fp32 on a CPU)", PRECISIONS),
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the copy of the network that attacks run on (torch.compile); slow to start, for long runs",
    )
    parser.add_argument("--dataRoot", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument(
        "--imgSize", type=whole_number(8, 2**13), help="side of the square images in pixels (default: the data set's)"
    )
    parser.add_argument(
        "--limit",
        type=whole_number(1),
        metavar="N",
        help="use only N images of each list, drawn evenly over the classes",
    )
    parser.add_argument("--seed", type=whole_number(0, 2**63 - 1), default=0, help="seed of all random numbers")
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        default=os.cpu_count() or 1,
        help="number of threads that decode images; each image is decoded once",
    )
