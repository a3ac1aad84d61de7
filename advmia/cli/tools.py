"""Every flag, declared once; choices come from the registries. Spellings in circulation work in any letter case."""

from __future__ import annotations

import argparse
from pathlib import Path

from advmia.cli.parser import HelpFormatter, Parser, listed, make_parser, one_of, whole_number
from advmia.data.phantoms import FOLDERS
from advmia.data.prepare import DOWNLOADS, SPLITS
from advmia.data.specs import DATASETS
from advmia.results.render import EXTENSIONS


def tools_parser() -> Parser:
    """`python -m advmia`: what is done around training and testing."""
    parser = make_parser("Prepares data, makes generated stand-ins, and tables results.", prog="python -m advmia")
    tools = parser.add_subparsers(dest="tool", required=True, metavar="prepare | phantoms | tables | where")

    def add(name: str, brief: str, description: str, example: str) -> argparse.ArgumentParser:
        text = f"{description}\n\nexample: {example}"
        return tools.add_parser(name, help=brief, description=text, formatter_class=HelpFormatter)

    prepare = add(
        "prepare",
        "official download -> the layout that the scripts read",
        "Turns an unpacked official download into the layout that the scripts read, and reports what is in it.\n"
        "Never replaces a different file, and may be run again.",
        "python -m advmia prepare --dataset isic2017 --source downloads/isic2017",
    )
    prepare.add_argument("--dataset", required=True, type=one_of(DOWNLOADS), help=listed("download", DOWNLOADS))
    prepare.add_argument("--source", required=True, type=Path, help="folder of the unpacked download, or the .npz file")
    prepare.add_argument("--dataRoot", type=Path, default=Path("data"), help="folder of the data sets")
    prepare.add_argument(
        "--meta", type=Path, help="folder of the survey's published lists (default: lists are derived)"
    )
    prepare.add_argument(
        "--split",
        type=one_of(SPLITS),
        default="published",
        help="; ".join(f"{name}: {meaning}" for name, meaning in SPLITS.items()),
    )
    placing = prepare.add_mutually_exclusive_group()
    placing.add_argument("--link", action="store_true", help="link to the download's images")
    placing.add_argument("--copy", action="store_false", dest="link", help="copy the download's images (the default)")

    phantoms = add(
        "phantoms",
        "generated images in the layouts, to try things on",
        "Draws images, masks and lists that fill the layouts of the four data sets, so that every command runs\n"
        "without a download. Results on them say [phantom].",
        "python -m advmia phantoms --dataRoot phantoms --count 800 --size 64",
    )
    folders = {spec.name: spec.folder for spec in DATASETS.values() if spec.name not in FOLDERS}
    phantoms.add_argument("--dataRoot", type=Path, default=Path("data"), help="folder of the data sets")
    phantoms.add_argument(
        "--dataset", nargs="+", type=one_of(FOLDERS, folders), default=list(FOLDERS), help=listed("folders", FOLDERS)
    )
    phantoms.add_argument("--count", type=whole_number(1), default=800, help="images a folder")
    phantoms.add_argument("--size", type=whole_number(1), default=64, help="side of the images in pixels")
    phantoms.add_argument("--seed", type=whole_number(0, 2**63 - 1), default=0, help="another seed gives other images")

    tables = add(
        "tables",
        "result files -> tables and curves",
        "Prints tables of all results named: scores by attack and eps, findings, seconds an epoch, transfer between\n"
        "networks. With --out, writes them to a file, and the curves over eps beside it.",
        "python -m advmia tables results --out tables",
    )
    tables.add_argument("results", nargs="+", type=Path, help="result files (.json) or folders of them")
    tables.add_argument(
        "--format", type=one_of(EXTENSIONS), default="md", help=listed("of the tables' file", EXTENSIONS)
    )
    tables.add_argument("--out", type=Path, help="write the tables, and curves as PNG and PDF, to this folder")
    tables.add_argument(
        "--scores", nargs="+", default=[], metavar="NAME", help="further scores to table, as result rows name them"
    )

    add(
        "where",
        "command lines of the training and test scripts -> the file that each will write; nothing is run",
        "Reads command lines of the training and test scripts from standard input, one a line, and prints for each\n"
        "the checkpoint or the result record that it will write. Runs none, and refuses what the script would refuse.",
        "echo trainCls.py --dataset melBin --method nat --model res18 | python -m advmia where",
    )
    return parser
