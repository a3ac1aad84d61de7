"""The command `python -m advmia` (`advmia` where the package is installed): prepare, phantoms, tables and where."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from advmia.cli import flags, run, tools
from advmia.cli.parser import Parser
from advmia.commands import testing, training
from advmia.data.phantoms import make_phantoms
from advmia.data.prepare import prepare_dataset
from advmia.errors import UserError
from advmia.results.tables import write_tables
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task


@dataclass(frozen=True)
class Script:
    """What `where` needs to know of a training or test script."""

    task: Task
    make_parser: Callable[[Task, str | None], Parser]
    output_path: Callable[[Task, argparse.Namespace], Path]  # the file that the script writes, given its arguments


_TASKS = {"Cls": SINGLE_LABEL, "Chex": MULTI_LABEL, "Seg": SEGMENTATION}
SCRIPTS = {
    f"train{suffix}.py": Script(task, flags.train_parser, training.checkpoint_path) for suffix, task in _TASKS.items()
} | {f"test{suffix}.py": Script(task, flags.test_parser, testing.result_path) for suffix, task in _TASKS.items()}


def run_tool(args: argparse.Namespace) -> None:
    """Runs one of the four tools and prints its report."""
    if args.tool == "prepare":
        report = prepare_dataset(
            args.dataset,
            args.source,
            args.dataRoot,
            meta=args.meta,
            split=args.split,
            link=args.link,
            partial=args.partial,
            patients=args.patients,
        )
        print("\n".join(report))
    elif args.tool == "phantoms":
        report = make_phantoms(args.dataRoot, args.dataset, count=args.count, size=args.size, seed=args.seed)
        print("\n".join(report))
    elif args.tool == "where":
        for number, line in enumerate(sys.stdin, start=1):
            print(output_path(_split_words(line, number)))
    else:
        print(write_tables(args.results, args.out, form=args.format, scores=args.scores), end="")


def _split_words(line: str, number: int) -> list[str]:
    """Splits a line as a shell does. `number` is its number in standard input, for the error line."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UserError(
            f"line {number} of standard input, `{line.strip()[:80]}`, is no command line ({error}): check its quotes"
        ) from error


def output_path(words: list[str]) -> Path:
    """Returns the file that a command such as `trainCls.py --dataset ...` will write, without running it.

    Raises `UserError`, or exits with status 2 as the script would, if the command is wrong.
    """
    if not words or words[0] not in SCRIPTS:
        raise UserError(f"expected a command of {', '.join(SCRIPTS)}, got `{shlex.join(words)}`")
    script = SCRIPTS[words[0]]
    parser = script.make_parser(script.task, None)
    parser.prog = words[0]  # error lines name the script, not `advmia where`
    return script.output_path(script.task, parser.parse_args(words[1:]))


def main() -> int:
    is_module = Path(sys.argv[0]).name == "__main__.py"
    return run.run_command(tools.tools_parser("python -m advmia" if is_module else "advmia"), run_tool)


if __name__ == "__main__":
    sys.exit(main())
