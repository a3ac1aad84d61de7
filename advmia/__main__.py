"""`python -m advmia prepare | phantoms | tables`."""

from __future__ import annotations

import argparse
import sys

from advmia import cli
from advmia.data.phantoms import make_phantoms
from advmia.data.prepare import prepare
from advmia.tables import write_tables


def run_tool(args: argparse.Namespace) -> None:
    if args.tool == "prepare":
        report = prepare(args.dataset, args.source, args.dataRoot, meta=args.meta, split=args.split, link=args.link)
        print("\n".join(report))
    elif args.tool == "phantoms":
        report = make_phantoms(args.dataRoot, args.dataset, count=args.count, size=args.size, seed=args.seed)
        print("\n".join(report))
    else:
        print(write_tables(args.results, args.out, form=args.format, scores=args.scores), end="")


def main() -> int:
    parser = cli.tools_parser()
    args = parser.parse_args()
    return cli.run(parser, lambda: run_tool(args))


if __name__ == "__main__":
    sys.exit(main())
