"""The command `python -m advmia` (`advmia` where the package is installed): demo, phantoms, prepare, report,
sweep, tables, where."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from advmia.cli import run, tools
from advmia.demo import run_demo
from advmia.entry_points import TOOLS
from advmia.sweeps.command import run_sweep


def run_tool(args: argparse.Namespace) -> None:
    """Runs one of the tools and prints its report."""
    if args.tool == "demo":
        run_demo(args.out, args.gpu, count=args.count, seed=args.seed)
    elif args.tool == "sweep":
        run_sweep(args, args.further)
    else:
        TOOLS[args.tool](args)


def main() -> int:
    is_module = Path(sys.argv[0]).name == "__main__.py"
    return run.run_command(tools.tools_parser("python -m advmia" if is_module else "advmia"), run_tool)


if __name__ == "__main__":
    sys.exit(main())
