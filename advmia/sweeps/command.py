"""The command `python -m advmia sweep`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from advmia.errors import UserError
from advmia.runtime.files import write_lock
from advmia.sweeps.estimate import estimate_text
from advmia.sweeps.grid import Flag, Grid, last_of_each, read_grid, split_flags
from advmia.sweeps.local import LocalRun, places
from advmia.sweeps.plan import plan_steps
from advmia.sweeps.slurm import SlurmRun
from advmia.sweeps.steps import plan_path, read_plan, write_plan

_NEEDED = {"datasets": "a data set", "models": "a network", "methods": "a method", "eps": "a training eps"}


def run_sweep(args: argparse.Namespace, further: Sequence[str]) -> None:
    """Plans a sweep, and prints, writes or runs its steps. `further`: words of flags that the sweep does not have."""
    if args.status or args.cancel:
        _watch(args)
        return
    steps = plan_steps(grid_of(args, further), args.dataRoot or Path("data"))
    if args.plan is not None:
        write_plan(args.plan, steps)
    elif args.estimate:
        where = places(args.gpu, args.jobs, args.jobsPerGpu)
        print(estimate_text(args.out, steps, where, slurm=args.slurm is not None), end="", flush=True)
    elif args.dryRun:
        for step in steps:
            print(shlex.join([sys.executable, *step.words]))
    else:
        with write_lock(plan_path(args.out)):
            write_plan(plan_path(args.out), steps)
            if args.slurm is not None:
                SlurmRun(args.out, steps).submit(args.slurm, ("--gpu", *args.gpu) if args.gpu else ())
            else:
                LocalRun(args.out, steps, places(args.gpu, args.jobs, args.jobsPerGpu)).run()


def _watch(args: argparse.Namespace) -> None:
    """Shows the sweep in `--out`, or ends its jobs."""
    run = SlurmRun(args.out, read_plan(plan_path(args.out)))
    if args.cancel:
        run.cancel()
    else:
        run.show()


def grid_of(args: argparse.Namespace, further: Sequence[str]) -> Grid:
    """Returns the grid that the flags and the file of `--grid` ask for. Raises `UserError` if it lacks something."""
    lists, flags = read_grid(args.grid) if args.grid is not None else ({}, [])
    own = split_flags(further)
    if args.dataRoot is not None:
        own.append(Flag("--dataRoot", (str(args.dataRoot),)))
    for name in ("attacks", "epsilons"):
        if name in lists:
            flags.append(Flag(f"--{name}", tuple(lists[name])))
    chosen = {name: getattr(args, name) or lists.get(name, []) for name in ("datasets", "models", "methods", "eps")}
    if [method.lower() for method in chosen["methods"]] == ["nat"]:
        chosen["eps"] = chosen["eps"] or ["0"]
    missing = [text for name, text in _NEEDED.items() if not chosen[name]]
    if missing:
        raise UserError(f"a sweep needs {', '.join(missing)}: see --help")
    return Grid(
        datasets=tuple(chosen["datasets"]),
        models=tuple(model if ":" in model else model.lower() for model in chosen["models"]),
        methods=tuple(method.lower() for method in chosen["methods"]),
        epsilons=tuple(chosen["eps"]),
        seeds=_seeds(args.seeds or lists.get("seeds", [])),
        transfer=_transfer(args.transfer, lists.get("transfer")),
        only=args.only or "",
        out=args.out,
        checkpoints=args.saveDir,
        results=args.resultDir or args.out / "results",
        tables=args.tableDir or args.out / "tables",
        flags=tuple(last_of_each([*flags, *own])),
    )


def _transfer(own: Sequence[str] | None, listed: Sequence[str] | None) -> tuple[str, ...] | None:
    attacks = listed if own is None else own
    return None if attacks is None else tuple(attacks)


def _seeds(words: Sequence[str]) -> tuple[int, ...]:
    numbers = [word for text in words for word in text.replace(",", " ").split()]
    wrong = next((word for word in numbers if not word.isdecimal()), None)
    if wrong is not None:
        raise UserError(f"--seeds: expected whole numbers, got {wrong!r}")
    return tuple(dict.fromkeys(map(int, numbers)))
