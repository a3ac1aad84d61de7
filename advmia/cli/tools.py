"""The flags of `python -m advmia prepare | phantoms | tables | where`."""

from __future__ import annotations

import argparse
from pathlib import Path

from advmia.cli.parser import HelpFormatter, Parser, make_parser, one_of, whole_number, with_choices
from advmia.data.phantoms import FOLDERS
from advmia.data.prepare import DOWNLOADS, SPLITS
from advmia.data.specs import DATASETS
from advmia.results.render import EXTENSIONS


def tools_parser(prog: str) -> Parser:
    """Returns the parser of the four tools, one subparser for each.

    `prog`: how the user started the command, `advmia` or `python -m advmia`; help and error lines begin with it.
    """
    parser = make_parser("Prepares data sets, generates phantoms, and makes tables of results.", prog=prog)
    tools = parser.add_subparsers(dest="tool", required=True, metavar="prepare | phantoms | tables | where")
    _add_prepare(tools)
    _add_phantoms(tools)
    _add_tables(tools)
    _add_where(tools)
    return parser


def _add_tool(tools: argparse._SubParsersAction, name: str, summary: str, description: str) -> argparse.ArgumentParser:
    """Adds a subparser. In `description`, `%(prog)s` stands for the command with the tool's name."""
    return tools.add_parser(name, help=summary, description=description, formatter_class=HelpFormatter)


def _add_prepare(tools: argparse._SubParsersAction) -> None:
    parser = _add_tool(
        tools,
        "prepare",
        "convert an official download to the folders that the scripts read",
        "Converts an unpacked official download to the folders that the scripts read, and reports what is in it.\n"
        "Never replaces a file by a different one. May be run again.\n\n"
        "example: %(prog)s --dataset isic2017 --source downloads/isic2017",
    )
    parser.add_argument("--dataset", required=True, type=one_of(DOWNLOADS), help=with_choices("download", DOWNLOADS))
    parser.add_argument("--source", required=True, type=Path, help="folder of the unpacked download, or the .npz file")
    parser.add_argument("--dataRoot", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument(
        "--meta",
        type=Path,
        help="folder of the survey's published lists (default: derive the lists from the official labels)",
    )
    parser.add_argument(
        "--split",
        type=one_of(SPLITS),
        default="published",
        help="; ".join(f"{name}: {meaning}" for name, meaning in SPLITS.items()),
    )
    parser.add_argument(
        "--patients", type=Path, metavar="TABLE", help="CSV table file,patient, for --split patient and the report"
    )
    parser.add_argument(
        "--partial", action="store_true", help="the download is meant to lack classes, sheets, parts or masks"
    )
    placing = parser.add_mutually_exclusive_group()
    placing.add_argument("--link", action="store_true", help="link to the images of the download")
    placing.add_argument("--copy", action="store_false", dest="link", help="copy the images of the download (default)")


def _add_phantoms(tools: argparse._SubParsersAction) -> None:
    parser = _add_tool(
        tools,
        "phantoms",
        "generate images in the same folders, to try the commands without a download",
        "Generates images, masks and lists in the folders of the four data sets, so that every command runs without\n"
        "a download. Results on them are marked [phantom].\n\n"
        "example: %(prog)s --dataRoot phantoms --count 800 --size 64",
    )
    folders = {spec.name: spec.folder for spec in DATASETS.values() if spec.folder in FOLDERS}
    folders |= {name: name for name in FOLDERS}  # xray is a folder, and a data set in another one: the folder wins
    parser.add_argument("--dataRoot", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument(
        "--dataset",
        nargs="+",
        type=one_of(FOLDERS, folders),
        default=list(FOLDERS),
        help=with_choices("folders", FOLDERS),
    )
    parser.add_argument("--count", type=whole_number(1), default=800, help="number of images in each folder")
    parser.add_argument("--size", type=whole_number(1), default=64, help="side of the images in pixels")
    parser.add_argument("--seed", type=whole_number(0, 2**63 - 1), default=0, help="seed; another gives other images")


def _add_tables(tools: argparse._SubParsersAction) -> None:
    parser = _add_tool(
        tools,
        "tables",
        "make tables and curves from result files",
        "Prints tables of the given results: scores by attack and eps, AUROC by finding, seconds per epoch, transfer\n"
        "between networks. With --out, writes them to a file, with pictures of the curves over eps.\n\n"
        "example: %(prog)s results --out tables",
    )
    parser.add_argument("results", nargs="+", type=Path, help="result files (.json), or folders of them")
    parser.add_argument(
        "--format", type=one_of(EXTENSIONS), default="md", help=with_choices("format of the tables", EXTENSIONS)
    )
    parser.add_argument("--out", type=Path, help="folder for the tables, and for the curves as PNG and PDF")
    parser.add_argument(
        "--scores", nargs="+", default=[], metavar="NAME", help="further scores to show, by their names in result files"
    )


def _add_where(tools: argparse._SubParsersAction) -> None:
    _add_tool(
        tools,
        "where",
        "print which file each of the given training and test commands will write",
        "Reads commands of the training and test scripts from standard input, one per line. For each, it prints the\n"
        "path of the checkpoint or of the JSON result file that the command will write. It runs none of them, and\n"
        "reports wrong arguments as the script would.\n\n"
        "example: echo trainCls.py --dataset melBin --method nat --model res18 | %(prog)s",
    )
