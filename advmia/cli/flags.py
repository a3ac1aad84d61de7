"""The flags of the seven scripts. Each is declared once; names to choose from come from the registries.

In each group of the help, the flags of the published code come first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from advmia.cli import common, meanings, training_flags
from advmia.cli.formatter import published
from advmia.cli.parser import (
    NameList,
    Parser,
    fraction,
    grey_level,
    initial_weights,
    make_parser,
    non_negative,
    one_of,
    positive,
    several_of,
    whole_number,
)
from advmia.data.loading import EVALUATION_BATCH_SIZE
from advmia.models import MODELS
from advmia.tasks import SEGMENTATION, Task
from advmia.training.logs import LOGS

_NOTE = (
    "Flags marked (published) are those of the survey's published code; the others are additions. Letter case does not"
    " matter in flags and names."
)


def _script_parser(task: Task, description: str | None) -> Parser:
    parser = make_parser(description)
    parser.description = f"{parser.description}\n\n{_NOTE}"
    parser.set_defaults(task=task.name)
    return parser


def train_parser(task: Task, description: str | None) -> Parser:
    """Returns the parser of the task's training script. `description` begins its help."""
    parser = _script_parser(task, description)
    subject = parser.add_argument_group("what to train")
    common.add_dataset(subject, task)
    common.add_name(subject, "--method", task.methods, common.named("training method", task.methods, meanings.METHODS))
    common.add_model(subject, "--model", task, "network")
    if "hat" in task.methods:
        subject.add_argument(
            "--helperModel",
            type=common.model_type(task),
            metavar="NAME",
            help=published("hat only: network of the helper, which is trained with nat"),
        )
        subject.add_argument(
            "--helperWeight", type=Path, metavar="FILE", help=published("hat only: weights of the helper")
        )
        common.add_other_dataset(subject, "hat only: take a helper")
    common.add_network_input(subject)
    common.add_images(subject, task)
    _add_training(parser.add_argument_group("how to train"), task)
    _add_stopping(parser.add_argument_group("how to continue after a stop"))
    places = parser.add_argument_group("where files are")
    common.add_data_root(places)
    places.add_argument(
        "--saveDir",
        type=Path,
        default=Path(task.checkpoint_folder),
        metavar="FOLDER",
        help="folder for the weights, a bare state_dict under the published file name; a record (.json) and curves"
        " (.png) lie beside it; those of --seed N in its folder seedN, except for seed 0",
    )
    places.add_argument(
        "--log",
        nargs="+",
        action=NameList,
        type=several_of(LOGS),
        default=[],
        metavar="NAME",
        help="write the numbers of each epoch beside the weights as it ends: csv (.log.csv), tensorboard (the folder"
        " .tensorboard; needs the package tensorboard), or both",
    )
    training_flags.add_recomputation(common.add_machine(parser))
    return parser


def _add_training(group: argparse._ArgumentGroup, task: Task) -> None:
    group.add_argument(
        "--eps",
        type=grey_level,
        default=8.0,
        metavar="X",
        help=published(
            "size of the perturbation in adversarial training, in grey levels out of 255: 8 or 8/255; not used by nat"
            + ("; mpadvt draws it for each batch, from a quarter of X to X" if "mpadvt" in task.methods else "")
        ),
    )
    group.add_argument("--epoch", type=whole_number(1), default=100, metavar="N", help=published("number of epochs"))
    rate = "learning rate; the maximum of a one-cycle schedule" if task is not SEGMENTATION else "learning rate"
    group.add_argument("--lr", type=positive, default=task.default_lr, metavar="X", help=published(rate))
    group.add_argument("--wd", type=non_negative, default=1e-3, metavar="X", help=published("weight decay"))
    common.add_batch_size(group, 32)
    pretrained = ", ".join(name for name in task.models if MODELS[name].load_imagenet)
    imagenet = (
        f"; or imagenet (for {pretrained}, whose default it is, and networks of torchvision)" if pretrained else ""
    )
    group.add_argument(
        "--init",
        type=initial_weights,
        metavar="NAME",
        help="initial weights: random, or a file with weights of this network, whose last layer is left out if its"
        " classes are not as many" + imagenet,
    )
    training_flags.add_method_settings(group, task)
    training_flags.add_weights(group)
    group.add_argument(
        "--valFraction",
        type=fraction,
        metavar="X",
        help="choose the best epoch on this part of the training list, e.g. 0.1, held out by image, not by patient"
        " (default: choose it on the test list, as the survey does)",
    )
    group.add_argument(
        "--validateEvery",
        type=whole_number(1),
        default=1,
        metavar="N",
        help="validate, and choose the best epoch, only after every N-th epoch and after the last one. Another number"
        " than 1 is recorded",
    )
    common.add_seed(
        group, "seed of all random numbers; the network of another seed than 0 goes to a folder seedN in --saveDir"
    )


def _add_stopping(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--resume",
        action="store_true",
        help="continue this training where it was stopped or killed. Without it, an unfinished training is renamed"
        " (.earlier-1) and a new one starts. A finished one is always skipped",
    )
    group.add_argument(
        "--saveEvery",
        type=positive,
        metavar="MINUTES",
        help="save the state also within an epoch (default: after each epoch only)",
    )


def test_parser(task: Task, description: str | None) -> Parser:
    """Returns the parser of the task's test script. `description` begins its help."""
    parser = _script_parser(task, description)
    subject = parser.add_argument_group("what to test")
    common.add_dataset(subject, task)
    common.add_model(subject, "--targetModel", task, "network to test, the target")
    subject.add_argument(
        "--targetWeight",
        "--targetPath",
        required=True,
        type=Path,
        metavar="FILE",
        help=published("weights of the target"),
    )
    subject.add_argument(
        "--surrogateModel",
        type=common.model_type(task),
        metavar="NAME",
        help=published("for transfer: network on which the adversarial images are computed", "default: the target"),
    )
    subject.add_argument(
        "--surrogateWeight",
        "--surrogatePath",
        type=Path,
        metavar="FILE",
        help=published("weights of the surrogate", "default: those of the target"),
    )
    if len(task.datasets) > 1:
        common.add_other_dataset(subject, "test networks")
    common.add_network_input(subject)
    common.add_images(subject, task)
    how = parser.add_argument_group("how to test")
    common.add_batch_size(
        how, None, f"default: {EVALUATION_BATCH_SIZE}, and on a GPU as many images as its memory allows"
    )
    common.add_attacks(how, task, list(task.default_attacks))
    common.add_further_rows(how, task)
    common.add_seed(how, "seed of the attacks' random numbers")
    common.add_pictures(parser.add_argument_group("what to keep of the attacked images"))
    places = parser.add_argument_group("where files are")
    common.add_data_root(places)
    places.add_argument(
        "--resultDir",
        type=Path,
        default=Path("results"),
        metavar="FOLDER",
        help="folder for the results: a .csv with the scores, and a .json with the outcome of each image too; of a"
        " target that was trained with --seed N, in its folder seedN, except for seed 0",
    )
    machine = common.add_machine(parser)
    machine.add_argument(
        "--autoBatch",
        action="store_true",
        help="on a GPU: use the largest batch that fits its memory, even if it is larger than --bs",
    )
    return parser


def visual_parser(task: Task, description: str | None) -> Parser:
    """Returns the parser of the script that draws Grad-CAM maps. `description` begins its help."""
    parser = _script_parser(task, description)
    subject = parser.add_argument_group("what to draw")
    common.add_dataset(subject, task, {"mel": "melBin", "xray": "xrayBin"})
    common.add_model(subject, "--model", task, "network")
    subject.add_argument("--weight", required=True, type=Path, metavar="FILE", help=published("weights of the network"))
    subject.add_argument(
        "--camLayer",
        metavar="NAME",
        help="module of the network from whose output the maps are made, as named_modules() names it (default: the last"
        " convolution, or the last attention block)",
    )
    common.add_other_dataset(subject, "draw a network")
    common.add_network_input(subject)
    common.add_images(subject, task)
    how = parser.add_argument_group("how to draw")
    common.add_batch_size(how, EVALUATION_BATCH_SIZE)
    how.add_argument(
        "--mapOf",
        type=one_of(("true", "predicted")),
        default="true",
        metavar="NAME",
        help="class that the maps explain: true, as in the published code, or predicted",
    )
    how.add_argument(
        "--overlayOn",
        type=one_of(("attacked", "clean")),
        default="attacked",
        metavar="NAME",
        help="image that the map of an attacked image is drawn on: attacked, or clean as in the published code",
    )
    common.add_attacks(how, task, ["pgd"])
    common.add_seed(how)
    places = parser.add_argument_group("where files are")
    places.add_argument(
        "--saveDir",
        required=True,
        type=Path,
        metavar="FOLDER",
        help=published("folder for the pictures; created if missing, never emptied"),
    )
    common.add_data_root(places)
    common.add_machine(parser, several="only the first is used")
    return parser
