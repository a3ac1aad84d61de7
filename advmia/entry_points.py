"""What the seven scripts and the tools run, by name: for programs that run several of them, or ask what they write.

`python -m advmia.entry_points trainCls.py ... --then testCls.py ...` is `python trainCls.py ...` and, if that succeeds,
`python testCls.py ...`, on one device, in one process, in a folder without the scripts.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from advmia.cli import flags, run, tools
from advmia.cli.parser import Parser
from advmia.commands import testing, training, visualising
from advmia.commands.result_names import result_path
from advmia.data.phantoms import make_phantoms
from advmia.data.prepare import prepare_dataset
from advmia.data.prepare.own import OWN, OwnOptions, prepare_own
from advmia.errors import UserError
from advmia.report.card import write_cards
from advmia.report.page import write_report
from advmia.report.source import Options
from advmia.results.planned import read_planned
from advmia.results.tables import write_tables
from advmia.runtime.terminal import say
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task


@dataclass(frozen=True)
class Script:
    """One of the seven scripts."""

    task: Task
    make_parser: Callable[[Task, str | None], Parser]
    command: Callable[[Task, argparse.Namespace], None]
    output_path: Callable[[Task, argparse.Namespace], Path] | None  # the file that it writes; None for many files

    def parser(self, name: str) -> Parser:
        """Returns the parser of the script's flags. `name`: the script's name, with which error lines begin."""
        parser = self.make_parser(self.task, None)
        parser.prog = name
        return parser

    def parse(self, words: list[str]) -> argparse.Namespace:
        """Parses a command's words, the script's name first. Exits with status 2, as the script, if one is wrong."""
        return self.parser(words[0]).parse_args(words[1:])


THEN = "--then"  # between two commands
_TASKS = {"Cls": SINGLE_LABEL, "Chex": MULTI_LABEL, "Seg": SEGMENTATION}
SCRIPTS = {
    **{
        f"train{suffix}.py": Script(task, flags.train_parser, training.train, training.checkpoint_path)
        for suffix, task in _TASKS.items()
    },
    **{
        f"test{suffix}.py": Script(task, flags.test_parser, testing.test, result_path)
        for suffix, task in _TASKS.items()
    },
    "gradVisual.py": Script(SINGLE_LABEL, flags.visual_parser, visualising.visualise, None),
}


def output_path(words: list[str]) -> Path:
    """Returns the file that a command such as `trainCls.py --dataset ...` will write, without running it.

    Raises `UserError`, or exits with status 2 as the script would, if the command is wrong.
    """
    known = {name: script.output_path for name, script in SCRIPTS.items() if script.output_path}
    if not words or words[0] not in known:
        raise UserError(f"expected a command of {', '.join(known)}, got `{shlex.join(words)}`")
    script = SCRIPTS[words[0]]
    return known[words[0]](script.task, script.parse(words))


def _prepare(args: argparse.Namespace) -> None:
    print("\n".join(_prepare_own(args) if args.dataset == OWN else _prepare_download(args)))


def _prepare_download(args: argparse.Namespace) -> list[str]:
    _refuse(args, ("name", "labels", "classes", "valFraction", "testFraction", "size"), f"--dataset {OWN}")
    options = {name: getattr(args, name) for name in ("meta", "link", "partial", "patients")}
    return prepare_dataset(args.dataset, args.source, args.dataRoot, split=args.split or "published", **options)


def _prepare_own(args: argparse.Namespace) -> list[str]:
    _refuse(args, ("meta", "split", "partial", "patients"), "official downloads")
    options = OwnOptions(
        labels=args.labels,
        classes=args.classes,
        val_fraction=args.valFraction or 0.0,
        test_fraction=args.testFraction or 0.2,
        size=args.size or 224,
        link=args.link,
    )
    return prepare_own(args.name or args.source.resolve().name, args.source, args.dataRoot, options)


def _refuse(args: argparse.Namespace, names: Sequence[str], only: str) -> None:
    """Raises `UserError` if a flag is given that is for something else. `only`: what has these flags."""
    given = next((name for name in names if getattr(args, name)), None)
    if given:
        raise UserError(f"--{given} is for {only} only: leave it out")


def _phantoms(args: argparse.Namespace) -> None:
    report = make_phantoms(args.dataRoot, args.dataset, count=args.count, size=args.size, seed=args.seed)
    print("\n".join(report))


def _tables(args: argparse.Namespace) -> None:
    planned = read_planned(args.plan) if args.plan is not None else ()
    text = write_tables(
        args.results, args.out, form=args.format, scores=args.scores, per_seed=args.perSeed, planned=planned
    )
    print(text, end="")


def _report(args: argparse.Namespace) -> None:
    source = write_report(args.results, args.out, Options(tuple(args.scores), args.perSeed, tuple(args.maps)))
    print(f"report in {args.out}")
    for path in write_cards(source.files, args.out.parent) if args.card else ():
        print(f"card in {path}")


def _where(_: argparse.Namespace) -> None:
    for number, line in enumerate(sys.stdin, start=1):
        try:
            words = shlex.split(line)
        except ValueError as error:
            place = f"line {number} of standard input, `{line.strip()[:80]}`"
            raise UserError(f"{place}, is no command line ({error}): check its quotes") from error
        print(output_path(words))


# The tools of `python -m advmia` that are one step. `demo` runs several of them, and scripts.
TOOLS: dict[str, Callable[[argparse.Namespace], None]] = {
    "prepare": _prepare,
    "phantoms": _phantoms,
    "report": _report,
    "tables": _tables,
    "where": _where,
}


def run_words(words: list[str]) -> None:
    """Runs a command such as `trainCls.py --dataset ...` or `advmia phantoms ...` in this process."""
    if words[0] == "advmia":
        args = tools.tools_parser("advmia").parse_args(words[1:])
        TOOLS[args.tool](args)
    else:
        script = SCRIPTS[words[0]]
        script.command(script.task, script.parse(words))


def main() -> int:
    """Runs the scripts that the command line names, until one fails; returns the last one's exit status."""
    words = sys.argv[1:]
    while True:
        end = words.index(THEN) if THEN in words else len(words)
        status = _run_script(words[:end])
        if status or end == len(words):
            return status
        words = words[end + 1 :]


def _run_script(words: list[str]) -> int:
    """Runs a script with its flags, as the script itself would; returns its exit status."""
    name = words[0] if words else ""
    if name not in SCRIPTS:
        say(f"advmia.entry_points: error: expected one of {', '.join(SCRIPTS)}, got {name!r}")
        return 2
    script = SCRIPTS[name]
    sys.argv[1:] = words[1:]  # which run_command parses
    return run.run_command(script.parser(name), lambda args: script.command(script.task, args))


if __name__ == "__main__":
    sys.exit(main())
