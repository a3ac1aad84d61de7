"""Every flag, declared once; choices come from the registries. Spellings in circulation work in any letter case."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from advmia.attacks import ATTACKS
from advmia.cli.parser import (
    Parser,
    grey_level,
    listed,
    make_parser,
    non_negative,
    one_of,
    positive,
    share,
    whole_number,
)
from advmia.data.specs import DATASETS
from advmia.models import MODELS
from advmia.runtime.precision import PRECISIONS
from advmia.tasks import Task


def train_parser(task: Task, description: str | None) -> Parser:
    parser = make_parser(description)
    need = parser.add_argument_group("what to train")
    _add_dataset(need, task)
    need.add_argument(
        "--method", required=True, type=one_of(task.methods), help=listed("training method", task.methods)
    )
    need.add_argument("--model", required=True, type=one_of(task.models), help=listed("network", task.models))
    if "hat" in task.methods:
        need.add_argument("--helperModel", type=one_of(task.models), help="hat only: network of the natural helper")
        need.add_argument("--helperWeight", type=Path, help="hat only: checkpoint of the natural helper")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--eps", type=grey_level, default=8.0, help="training budget in grey levels out of 255; nat has none"
    )
    how.add_argument("--epoch", type=whole_number(1), default=100, help="epochs")
    how.add_argument("--lr", type=positive, default=task.default_lr, help="(maximum) learning rate")
    how.add_argument("--wd", type=non_negative, default=1e-3, help="weight decay")
    pretrained = [name for name in task.models if MODELS[name].load_imagenet]
    how.add_argument(
        "--init",
        type=one_of(("imagenet", "random")),
        help=f"first weights: random, or imagenet, which {pretrained[0]} alone has, and begins with by default"
        if pretrained
        else "first weights: random; these networks have no others",
    )
    if "trades" in task.methods:
        how.add_argument("--beta", type=non_negative, help="weight of the robustness term (default: the survey's)")
        how.add_argument("--gamma", type=non_negative, default=1.0, help="hat only: weight of the helper's term")
        how.add_argument("--hatStep", type=positive, default=3.5, help="hat only: h of its helper's images")
    how.add_argument(
        "--valFraction",
        type=share,
        help="choose the epoch on this held-out share of the training list, drawn by image, not by patient"
        " (default: on the test list, as the survey)",
    )
    _add_common(parser, bs=32)
    parser.add_argument("--saveDir", type=Path, default=Path(task.checkpoint_folder), help="where checkpoints go")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on where the same training was stopped or killed. A finished training is skipped, with --resume or"
        " without; an unfinished one is renamed without it (to .earlier-1) and begun anew",
    )
    parser.add_argument(
        "--saveEvery",
        type=positive,
        metavar="MINUTES",
        help="save for --resume within an epoch too, this often (default: after each epoch)",
    )
    return parser


def test_parser(task: Task, description: str | None) -> Parser:
    parser = make_parser(description)
    what = parser.add_argument_group("what to test")
    _add_dataset(what, task)
    network = one_of(task.models)
    what.add_argument("--targetModel", required=True, type=network, help=listed("attacked network", task.models))
    what.add_argument("--targetWeight", "--targetPath", required=True, type=Path, help="its checkpoint")
    what.add_argument("--surrogateModel", type=network, help="network that attacks are made on (default: the target's)")
    what.add_argument("--surrogateWeight", "--surrogatePath", type=Path, help="its checkpoint (default: the target's)")
    how = parser.add_argument_group("how")
    _add_attacks(how, task, list(task.default_attacks))
    _add_common(parser, bs=16)
    parser.add_argument(
        "--autoBatch", action="store_true", help="on a GPU, take as many images at once as its memory allows"
    )
    parser.add_argument("--resultDir", type=Path, default=Path("results"), help="where result files go")
    return parser


def visual_parser(task: Task, description: str | None) -> Parser:
    parser = make_parser(description)
    what = parser.add_argument_group("what to look at")
    _add_dataset(what, task, {"mel": "melBin", "xray": "xrayBin"})
    what.add_argument("--model", required=True, type=one_of(task.models), help=listed("network", task.models))
    what.add_argument("--weight", required=True, type=Path, help="its checkpoint")
    what.add_argument("--saveDir", required=True, type=Path, help="folder for the pictures; made, never emptied")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--overlayOn",
        type=one_of(("attacked", "clean")),
        default="attacked",
        help="image under an attacked image's map; the published code drew the clean one",
    )
    _add_attacks(how, task, ["pgd"])
    _add_common(parser, bs=16)
    return parser


def _add_dataset(group: argparse._ArgumentGroup, task: Task, more: dict[str, str] | None = None) -> None:
    if len(task.datasets) == 1:
        group.set_defaults(dataset=task.datasets[0])
        return
    aliases = {alias: name for name in task.datasets for alias in DATASETS[name].aliases} | (more or {})
    group.add_argument(
        "--dataset", required=True, type=one_of(task.datasets, aliases), help=listed("data set", task.datasets)
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
        "--epsilons", nargs="+", type=grey_level, default=[1.0, 2.0, 4.0, 8.0], help="grey levels out of 255"
    )


def _add_common(parser: argparse.ArgumentParser, *, bs: int) -> None:
    parser.add_argument("--bs", type=whole_number(1), default=bs, help="batch size, over all GPUs together")
    parser.add_argument(
        "--gpu",
        nargs="+",
        metavar="ID",
        help="CUDA device ids, or cpu (default: 0, or cpu without CUDA); several share each batch",
    )
    parser.add_argument(
        "--precision",
        type=one_of(PRECISIONS),
        help=listed("rounding of networks (default: tf32 on CUDA, fp32 on a CPU)", PRECISIONS),
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the attacked network by torch.compile: slow to start, for long runs",
    )
    parser.add_argument("--dataRoot", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--imgSize", type=whole_number(8, 2**13), help="image side in pixels (default: the data set's)")
    parser.add_argument("--limit", type=whole_number(1), metavar="N", help="only the first N rows of each list")
    parser.add_argument("--seed", type=whole_number(0, 2**63 - 1), default=0, help="of everything random")
    parser.add_argument(
        "--workers", type=whole_number(1), default=os.cpu_count() or 1, help="threads that decode images once"
    )
