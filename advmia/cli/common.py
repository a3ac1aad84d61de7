"""Flags that several of the seven scripts have, each declared once."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from advmia.attacks import ATTACKS
from advmia.cli import meanings
from advmia.cli.formatter import listed, published, with_remark
from advmia.cli.parser import (
    DeviceNames,
    NameList,
    dataset_name,
    grey_level,
    model_name,
    normalization,
    one_of,
    several_of,
    whole_number,
    with_choices,
)
from advmia.data.datasets import DATASETS
from advmia.data.specs import NOISES
from advmia.runtime.precision import PRECISIONS
from advmia.tasks import SEGMENTATION, Task

OWN_MODEL, OWN_DATASET = "FILE.py:NAME", "FOLDER"  # how --help names a user's network and data set


def named(text: str, names: Iterable[str], meanings_by_name: dict[str, str]) -> str:
    """Returns the text of a flag of the published code that takes one of the names, with their meanings."""
    return listed(published(text), {name: meanings_by_name.get(name, "") for name in names})


def add_name(
    group: argparse._ArgumentGroup, flag: str, names: Iterable[str], text: str, aliases: dict[str, str] | None = None
) -> None:
    """Adds a required flag that takes one of the names. `aliases`: {further spelling: name}."""
    group.add_argument(flag, required=True, type=one_of(names, aliases), metavar="NAME", help=text)


def add_model(group: argparse._ArgumentGroup, flag: str, task: Task, text: str) -> None:
    """Adds a required flag that takes a network of the task."""
    text = named(text, (*task.models, OWN_MODEL), meanings.MODELS | {OWN_MODEL: "your own network, or package:NAME"})
    group.add_argument(flag, required=True, type=model_type(task), metavar="NAME", help=text)


def model_type(task: Task) -> Callable[[str], str]:
    """Returns the argument type of a flag that takes a network of the task."""
    return model_name(task.models, "segmentation" if task is SEGMENTATION else "classification")


def add_network_input(group: argparse._ArgumentGroup) -> None:
    """Adds the flags that say what the network's first layer does with an image."""
    group.add_argument(
        "--normalize",
        type=normalization,
        metavar="NAME",
        help="normalisation that the network was trained with, inside it: imagenet, none, or MEAN/STD for pixels in"
        " [0, 1], such as 0.5/0.25 (default: that of the data set)",
    )
    group.add_argument(
        "--noise",
        type=one_of(NOISES),
        metavar="NAME",
        help="what attacks may change: colour (each channel by itself) or grey (all channels by the same, for grey"
        " images such as radiographs) (default: that of the data set, colour for the survey's)",
    )


def add_dataset(group: argparse._ArgumentGroup, task: Task, aliases: dict[str, str] | None = None) -> None:
    """Adds the published --dataset, if the survey has several data sets of the task. `aliases`: {spelling: name}."""
    if len(task.datasets) > 1:
        aliases = {alias: name for name in task.datasets for alias in DATASETS[name].aliases} | (aliases or {})
        kind = dataset_name(task.datasets, aliases)
        group.add_argument(
            "--dataset", required=True, type=kind, metavar="NAME", help=_datasets(published("data set"), task)
        )


def _datasets(text: str, task: Task) -> str:
    """Returns the text of --dataset with the names that it takes."""
    meaning = meanings.DATASETS | {OWN_DATASET: "your own: a folder with a declaration, see docs/data.md"}
    return listed(text, {name: meaning.get(name, "") for name in (*task.datasets, OWN_DATASET)})


def add_other_dataset(group: argparse._ArgumentGroup, action: str) -> None:
    group.add_argument(
        "--otherDataset",
        action="store_true",
        help=f"{action} trained on another data set, whose classes mean something else (default: that is refused)",
    )


def add_images(group: argparse._ArgumentGroup, task: Task) -> None:
    """Adds the flags that choose images and change how they are read."""
    if len(task.datasets) == 1:  # the published scripts have no flag for it
        (only,) = task.datasets
        kind = dataset_name(task.datasets, {})
        group.add_argument("--dataset", default=only, type=kind, metavar="NAME", help=_datasets("data set", task))
    sizes: dict[int, list[str]] = {}
    for name in task.datasets:
        sizes.setdefault(DATASETS[name].size, []).append(name)
    defaults = [f"{size} for {', '.join(names)}" if len(sizes) > 1 else str(size) for size, names in sizes.items()]
    group.add_argument(
        "--imgSize",
        type=whole_number(8, 2**13),
        metavar="N",
        help=f"side of the square images in pixels (default: {'; '.join(defaults)})",
    )
    group.add_argument(
        "--limit",
        type=whole_number(1),
        metavar="N",
        help="use only N images of each list, drawn evenly over the classes (default: all)",
    )
    if task is SEGMENTATION:
        group.add_argument(
            "--foreground",
            nargs="+",
            type=whole_number(1, 65535),
            metavar="N",
            help="mask values that are foreground, where masks have more than two (default: decided for each file)",
        )


def add_attacks(group: argparse._ArgumentGroup, task: Task, default: list[str]) -> None:
    group.add_argument(
        "--attacks",
        nargs="+",
        action=NameList,
        type=several_of(task.attacks),
        default=default,
        metavar="NAME",
        help=listed(
            "attacks, with spaces or commas between them, or all",
            {name: ATTACKS[name].phrase for name in task.attacks},
        ),
    )
    group.add_argument(
        "--epsilons",
        nargs="+",
        type=grey_level,
        default=[1.0, 2.0, 4.0, 8.0],
        metavar="X",
        help="sizes of the attacks' perturbations, in grey levels out of 255: 8 or 8/255",
    )


def add_further_rows(group: argparse._ArgumentGroup, task: Task) -> None:
    """Adds the flags of a test that give rows of their own: further random starts, and images of 8 bits."""
    restartable = ", ".join(name for name in task.attacks if ATTACKS[name].restartable)
    group.add_argument(
        "--restarts",
        type=whole_number(1),
        default=1,
        metavar="N",
        help=f"random starts of {restartable}; the worst start counts, image by image. Other attacks are run once",
    )
    group.add_argument(
        "--eightBit",
        action="store_true",
        help="score the attacked images also rounded to 8 bits, as a file would hold them, in rows of their own",
    )


def add_pictures(group: argparse._ArgumentGroup) -> None:
    """Adds the flags of a test that keep attacked images."""
    group.add_argument(
        "--pictures",
        type=whole_number(1, 1000),
        metavar="N",
        help="draw contact sheets of each attack: of the first N images, and of the N worst, median and best under it,"
        " which are attacked a second time; to the folder .pictures beside the results",
    )
    group.add_argument(
        "--saveAdversarial",
        action="store_true",
        help="save all attacked images, with an index, for other programs to score: PNG where that loses nothing, else"
        " NumPy arrays; to the folder .adversarial beside the results",
    )


def add_batch_size(group: argparse._ArgumentGroup, default: int | None, remark: str = "") -> None:
    """Adds --bs. `remark`: what is used without the flag, if that is no number."""
    text = published("batch size, of all devices together", remark)
    group.add_argument("--bs", type=whole_number(1), default=default, metavar="N", help=text)


def add_seed(group: argparse._ArgumentGroup, text: str = "seed of all random numbers") -> None:
    group.add_argument("--seed", type=whole_number(0, 2**63 - 1), default=0, metavar="N", help=text)


def add_data_root(group: argparse._ArgumentGroup, use: str = "`python -m advmia prepare` or `phantoms` fills") -> None:
    """Adds --dataRoot. `use`: what is done with the folder, and by what."""
    text = f"folder of the data sets, which {use}"
    group.add_argument("--dataRoot", type=Path, default=Path("data"), metavar="FOLDER", help=text)


def add_results(group: argparse._ArgumentGroup) -> argparse._ArgumentGroup:
    """Adds the result files, and the flags that say how they are shown; returns the group."""
    group.add_argument(
        "results", nargs="+", type=Path, help="result files (.json), or folders of them (and of folders seedN)"
    )
    group.add_argument(
        "--scores", nargs="+", default=[], metavar="NAME", help="further scores to show, by their names in result files"
    )
    group.add_argument(
        "--perSeed",
        action="store_true",
        help="show each training by itself (default: mean and standard deviation over trainings that are equal but for"
        " their --seed)",
    )
    return group


def add_gpu(group: argparse._ArgumentGroup, text: str) -> None:
    text = with_remark(text, "default: 0, or cpu where there is no CUDA device")
    group.add_argument("--gpu", nargs="+", action=DeviceNames, metavar="ID", help=text)


def add_machine(parser: argparse.ArgumentParser, several: str = "several share each batch") -> argparse._ArgumentGroup:
    """Adds the flags that choose devices, and how they compute; returns their group.

    `several`: what the command does with several devices.
    """
    group = parser.add_argument_group("machine")
    add_gpu(group, published(f"CUDA device ids, e.g. 0 or 0 1, or cpu; {several}"))
    group.add_argument(
        "--precision",
        type=one_of(PRECISIONS),
        metavar="NAME",
        help=with_remark(with_choices("precision of the networks", PRECISIONS), "default: tf32 on CUDA, fp32 on a CPU"),
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile the network that attacks run on (torch.compile): slow to start, for long runs",
    )
    group.add_argument(
        "--kernels",
        type=one_of(meanings.KERNELS),
        default="auto",
        metavar="NAME",
        help=listed("operators of the network that attacks run on, on a GPU", meanings.KERNELS),
    )
    group.add_argument(
        "--workers",
        type=whole_number(1),
        default=os.cpu_count() or 1,
        metavar="N",
        help="number of threads that decode images; each image is decoded once",
    )
    return group
