"""The flags of `python -m advmia report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from advmia.cli.common import add_results

DESCRIPTION = (
    "Writes one page of all given results, a single HTML file that needs no network: what was tested, what the checks "
    "warn of, tables that can be sorted, curves, differences between networks, pictures, and a browser of the images. "
    "It can be sent by mail, read on a phone and printed. The same results give the same file.\n\n"
    "examples:\n"
    "  a page of all results\n"
    "    %(prog)s results\n\n"
    "  with Grad-CAM maps and two more scores\n"
    "    %(prog)s results --maps maps/nat --scores recall f1 --out page.html\n\n"
    "  with a card of each network, beside its weights\n"
    "    %(prog)s results --card"
)


def add_report_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a report to its parser."""
    add_results(parser.add_argument_group("what to show")).add_argument(
        "--maps",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="folders of Grad-CAM maps that gradVisual.py has drawn, whose contact sheets are shown too",
    )
    places = parser.add_argument_group("where files are")
    places.add_argument(
        "--card",
        action="store_true",
        help="also write a card of each network, as hubs of models read it, beside its weights (.card.md, .card.json)",
    )
    places.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page")
