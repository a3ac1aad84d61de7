"""The flags of `python -m advmia demo | prepare | phantoms | report | tables | where`."""

from __future__ import annotations

import argparse
from pathlib import Path

from advmia.cli import meanings
from advmia.cli.common import add_data_root, add_gpu, add_results
from advmia.cli.formatter import listed
from advmia.cli.parser import Parser, fraction, make_parser, one_of, whole_number, with_choices
from advmia.cli.report_flags import DESCRIPTION as REPORT_DESCRIPTION
from advmia.cli.report_flags import add_report_flags
from advmia.cli.sweep_flags import DESCRIPTION, add_sweep_flags
from advmia.data.datasets import DATASETS
from advmia.data.phantoms import FOLDERS
from advmia.data.prepare import DOWNLOADS, SPLITS
from advmia.data.prepare.own import OWN
from advmia.results.render import EXTENSIONS


def tools_parser(prog: str) -> Parser:
    """Returns the parser of the tools, one subparser for each.

    `prog`: how the user started the command, `advmia` or `python -m advmia`; help and error lines begin with it.
    """
    parser = make_parser(
        "Runs the demo, prepares data sets, generates phantoms, and makes tables and a page of results. Each tool has "
        "a --help of its own.\n\n"
        "examples:\n"
        "  what this software does, in a few minutes\n"
        "    %(prog)s demo\n\n"
        "  images for trying the scripts without a download\n"
        "    %(prog)s phantoms --dataRoot phantoms\n\n"
        "  one page of all results\n"
        "    %(prog)s report results",
        prog=prog,
    )
    tools = parser.add_subparsers(
        dest="tool",
        required=True,
        title="tools",
        prog=prog,
        metavar="demo | prepare | phantoms | report | sweep | tables | where",
    )
    _add_demo(tools)
    _add_prepare(tools)
    _add_phantoms(tools)
    _add_report(tools)
    _add_sweep(tools)
    _add_tables(tools)
    _add_where(tools)
    return parser


def _add_tool(tools: argparse._SubParsersAction, name: str, summary: str, description: str) -> argparse.ArgumentParser:
    """Adds a subparser. In `description`, `%(prog)s` stands for the command with the tool's name."""
    return tools.add_parser(name, help=summary, description=description)


def _add_demo(tools: argparse._SubParsersAction) -> None:
    parser = _add_tool(
        tools,
        "demo",
        "train a natural and a robust network on generated images, attack both, draw what comes out",
        "Draws phantoms, trains one network naturally and one adversarially, attacks both, and makes the robustness "
        "table, curves, Grad-CAM maps and a page of it all. May be run again: finished steps are not repeated.\n\n"
        "examples:\n"
        "  everything in the folder demo\n"
        "    %(prog)s\n\n"
        "  other phantoms and networks, on a CPU\n"
        "    %(prog)s --seed 1 --out demo1 --gpu cpu",
    )
    subject = parser.add_argument_group("what to draw")
    subject.add_argument(
        "--count",
        type=whole_number(64),
        default=304,
        metavar="N",
        help="number of phantoms, 64 or more; with fewer, the demo is faster, and the networks learn less",
    )
    subject.add_argument(
        "--seed",
        type=whole_number(0, 2**32 - 1),
        default=0,
        metavar="N",
        help="seed: another one gives other phantoms and networks",
    )
    places = parser.add_argument_group("where files are")
    places.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="FOLDER", help="folder for everything that the demo writes"
    )
    add_gpu(parser.add_argument_group("machine"), "CUDA device id, or cpu")


def _add_prepare(tools: argparse._SubParsersAction) -> None:
    parser = _add_tool(
        tools,
        "prepare",
        "convert an official download, or images of your own, to the folders that the scripts read",
        "Converts an unpacked official download, or images of your own, to the folders that the scripts read, and "
        "reports what is in it. Never replaces a file by a different one. May be run again.\n\n"
        "examples:\n"
        "  an official download\n"
        "    %(prog)s --dataset isic2017 --source downloads/isic2017\n\n"
        "  the same lists as the survey, links instead of copies\n"
        "    %(prog)s --dataset chestxray14 --link \\\n"
        "      --source downloads/chestxray14 --meta downloads/meta\n\n"
        "  real images without registration: an archive of MedMNIST\n"
        "    %(prog)s --dataset medmnist \\\n"
        "      --source downloads/retinamnist_224.npz --dataRoot medmnist\n\n"
        "  your own images, in a folder for each class\n"
        "    %(prog)s --dataset folder --source photos --name moles",
    )
    subject = parser.add_argument_group("what to convert")
    subject.add_argument(
        "--dataset",
        required=True,
        type=one_of((*DOWNLOADS, OWN)),
        metavar="NAME",
        help=listed("download", {name: meanings.DOWNLOADS.get(name, "") for name in (*DOWNLOADS, OWN)}),
    )
    subject.add_argument(
        "--partial", action="store_true", help="the download is meant to lack classes, sheets, parts or masks"
    )
    how = parser.add_argument_group("how to divide the images into training and test")
    how.add_argument("--split", type=one_of(SPLITS), metavar="NAME", help=listed("rule (default: published)", SPLITS))
    how.add_argument(
        "--meta",
        type=Path,
        metavar="FOLDER",
        help="folder of the survey's published lists (default: derive the lists from the official labels)",
    )
    how.add_argument(
        "--patients", type=Path, metavar="TABLE", help="CSV table file,patient, for --split patient and the report"
    )
    _add_own(parser)
    places = parser.add_argument_group("where files are")
    places.add_argument(
        "--source", required=True, type=Path, metavar="PATH", help="folder of the unpacked download, or the .npz file"
    )
    add_data_root(places, "the scripts read")
    placing = places.add_mutually_exclusive_group()
    placing.add_argument("--link", action="store_true", help="link to the images of the download")
    placing.add_argument("--copy", action="store_false", dest="link", help="copy the images of the download (default)")


def _add_own(parser: argparse.ArgumentParser) -> None:
    own = parser.add_argument_group(f"your own images, with --dataset {OWN}")
    own.add_argument("--name", metavar="NAME", help="name of the data set (default: that of the source's folder)")
    own.add_argument(
        "--labels",
        type=Path,
        metavar="TABLE",
        help="CSV table with columns file and label (class), labels (findings joined by |) or mask (file); also, if"
        " they are known, patient and split (train, val, test) (default: the images' folders are the classes)",
    )
    own.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="names of the classes or findings, in the order of their numbers; needed for masks of more than two"
        " classes, in the order of their values (default: those that occur, sorted)",
    )
    own.add_argument(
        "--valFraction", type=fraction, metavar="X", help="share of the images for a validation list (default: none)"
    )
    own.add_argument("--testFraction", type=fraction, metavar="X", help="share for the test list (default: 0.2)")
    own.add_argument(
        "--size",
        type=whole_number(8, 2**13),
        metavar="N",
        help="side of the square images that networks get, in pixels (default: 224)",
    )


def _add_phantoms(tools: argparse._SubParsersAction) -> None:
    parser = _add_tool(
        tools,
        "phantoms",
        "generate images in the same folders, to try the commands without a download",
        "Generates images, masks and lists in the folders of the four data sets, so that every command runs without "
        "a download. Results on them are marked [phantom].\n\n"
        "examples:\n"
        "  all four folders\n"
        "    %(prog)s --dataRoot phantoms\n\n"
        "  one folder, with fewer and smaller images\n"
        "    %(prog)s --dataRoot phantoms --dataset mel2017 \\\n"
        "      --count 200 --size 32",
    )
    folders = {spec.name: spec.folder for spec in DATASETS.values() if spec.folder in FOLDERS}
    folders |= {name: name for name in FOLDERS}  # xray is a folder, and a data set in another one: the folder wins
    subject = parser.add_argument_group("what to generate")
    subject.add_argument(
        "--dataset",
        nargs="+",
        type=one_of(FOLDERS, folders),
        default=list(FOLDERS),
        metavar="NAME",
        help=listed("folders", {name: meanings.FOLDERS.get(name, "") for name in FOLDERS}),
    )
    subject.add_argument(
        "--count", type=whole_number(1), default=800, metavar="N", help="number of images in each folder"
    )
    subject.add_argument("--size", type=whole_number(1), default=64, metavar="N", help="side of the images in pixels")
    subject.add_argument(
        "--seed", type=whole_number(0, 2**63 - 1), default=0, metavar="N", help="seed; another gives other images"
    )
    add_data_root(parser.add_argument_group("where files are"), "the scripts read")


def _add_report(tools: argparse._SubParsersAction) -> None:
    add_report_flags(_add_tool(tools, "report", "make one page of results, to look at and to send", REPORT_DESCRIPTION))


def _add_sweep(tools: argparse._SubParsersAction) -> None:
    parser = tools.add_parser(
        "sweep",
        help="train and test the networks of a grid, and make tables",
        description=DESCRIPTION,
        allow_abbrev=False,
    )
    parser.unknown_as, parser.quoted = "further", ("--slurm",)
    add_sweep_flags(parser)


def _add_tables(tools: argparse._SubParsersAction) -> None:
    parser = _add_tool(
        tools,
        "tables",
        "make tables and curves from result files",
        "Prints tables of the given results: scores by attack and eps, AUROC by finding, seconds per epoch, transfer "
        "between networks. With --out, writes them to a file, with pictures of the curves over eps.\n\n"
        "examples:\n"
        "  tables and curves of all results\n"
        "    %(prog)s results --out tables\n\n"
        "  for LaTeX, with two more scores\n"
        "    %(prog)s results --out tables --format latex \\\n"
        "      --scores recall f1\n\n"
        "  all scores for pandas: a CSV line for each number\n"
        "    %(prog)s results --out tables --format long",
    )
    add_results(parser.add_argument_group("what to show")).add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="plan.json of a sweep: its networks that are not tested yet have rows without numbers",
    )
    how = parser.add_argument_group("how to show it")
    how.add_argument(
        "--format",
        type=one_of(EXTENSIONS),
        default="md",
        metavar="NAME",
        help=with_choices("format of the tables", EXTENSIONS),
    )
    places = parser.add_argument_group("where files are")
    places.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder for the tables, and for the curves as PNG and PDF (default: print the tables only)",
    )


def _add_where(tools: argparse._SubParsersAction) -> None:
    _add_tool(
        tools,
        "where",
        "print which file each of the given training and test commands will write",
        "Reads commands of the training and test scripts from standard input, one per line. For each, it prints the "
        "path of the checkpoint or of the JSON result file that the command will write. It runs none of them, and "
        "reports wrong arguments as the script would. It has no flags.\n\n"
        "examples:\n"
        "  the name of a checkpoint\n"
        "    echo trainCls.py --dataset melBin --method nat --model res18 \\\n"
        "      | %(prog)s",
    )
