"""`python -m advmia prepare | phantoms | tables | where`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from advmia.cli import flags, run, tools
from advmia.commands import testing, training
from advmia.data.phantoms import make_phantoms
from advmia.data.prepare import prepare_dataset
from advmia.errors import UserError
from advmia.results.tables import write_tables
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL

# What stands behind each script: its task, its flags, and the file that it writes.
_TASKS = {"Cls": SINGLE_LABEL, "Chex": MULTI_LABEL, "Seg": SEGMENTATION}
SCRIPTS = {f"train{end}.py": (task, flags.train_parser, training.checkpoint_path) for end, task in _TASKS.items()} | {
    f"test{end}.py": (task, flags.test_parser, testing.result_path) for end, task in _TASKS.items()
}


def run_tool(args: argparse.Namespace) -> None:
    if args.tool == "prepare":
        report = prepare_dataset(
            args.dataset, args.source, args.dataRoot, meta=args.meta, split=args.split, link=args.link
        )
        print("\n".join(report))
    elif args.tool == "phantoms":
        report = make_phantoms(args.dataRoot, args.dataset, count=args.count, size=args.size, seed=args.seed)
        print("\n".join(report))
    elif args.tool == "where":
        for number, line in enumerate(sys.stdin, start=1):
            print(written_by(_words(line, number)))
    else:
        print(write_tables(args.results, args.out, form=args.format, scores=args.scores), end="")


def _words(line: str, number: int) -> list[str]:
    """A line of standard input as a shell would split it."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UserError(
            f"line {number} of standard input, `{line.strip()[:80]}`, is no command line ({error}): mend its quotes"
        ) from error


def written_by(words: list[str]) -> Path:
    """The file that a command such as `trainCls.py --dataset ...` will write. Refuses what the script would refuse."""
    if not words or words[0] not in SCRIPTS:
        raise UserError(f"expected a command of {', '.join(SCRIPTS)}, got `{shlex.join(words)}`")
    task, make_parser, written = SCRIPTS[words[0]]
    parser = make_parser(task, None)
    parser.prog = words[0]  # it is this script's flags that would be wrong
    return written(task, parser.parse_args(words[1:]))


def main() -> int:
    return run.run(tools.tools_parser(), run_tool)


if __name__ == "__main__":
    sys.exit(main())
