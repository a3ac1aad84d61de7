"""The flags of `python -m advmia sweep`."""

from __future__ import annotations

import argparse
from pathlib import Path

from advmia.cli.common import add_gpu
from advmia.cli.parser import grey_level, one_of, whole_number

DESCRIPTION = (
    "Trains every network of a grid (data sets, networks, methods, eps, seeds), tests them all, and makes tables of "
    "the results. All three tasks may be in one grid: each data set takes the networks and methods that are for it. "
    "Flags that are not listed here go to the training and test commands, each to those that have it, e.g. "
    "--imgSize 64 --limit 100 --epoch 20 --attacks pgd cw --epsilons 4 8. A wrong flag is reported before anything "
    "runs.\n\n"
    "Started again, a sweep goes on where it was stopped, and tries again what has failed.\n\n"
    "examples:\n"
    "  two methods at two eps, on one GPU\n"
    "    %(prog)s --dataset melBin --model res18 --methods nat pgdat --eps 4 8 --gpu 0\n\n"
    "  the same on four GPUs, with three seeds\n"
    "    %(prog)s --dataset melBin --model res18 --methods nat pgdat --eps 4 8 \\\n"
    "      --seeds 0 1 2 --gpu 0 1 2 3"
)


def add_sweep_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a sweep to its parser."""
    subject = parser.add_argument_group("what to train and test")
    subject.add_argument(
        "--grid", type=Path, metavar="FILE", help="TOML file with the grid; flags replace what it says"
    )
    subject.add_argument("--dataset", "--datasets", dest="datasets", nargs="+", metavar="NAME", help="data sets")
    subject.add_argument("--model", "--models", dest="models", nargs="+", metavar="NAME", help="networks")
    subject.add_argument("--method", "--methods", dest="methods", nargs="+", metavar="NAME", help="training methods")
    subject.add_argument(
        "--eps", nargs="+", type=typed_grey_level, metavar="X", help="eps of the trainings, in grey levels"
    )
    subject.add_argument(
        "--seeds", nargs="+", metavar="N", help="seeds of the trainings (default: one training each, with --seed)"
    )
    subject.add_argument(
        "--transfer",
        nargs="*",
        metavar="ATTACK",
        help="also test each natural network by adversarial images of each other of its data set, made by these attacks"
        " (default: those of --attacks)",
    )
    subject.add_argument(
        "--only",
        type=one_of(("train", "test")),
        metavar="KIND",
        help="train: test nothing; test: test the networks that are trained already, and make tables",
    )
    how = parser.add_argument_group("how to run it")
    how.add_argument("--dryRun", action="store_true", help="print the commands, and run none")
    how.add_argument("--plan", type=Path, metavar="FILE", help="write the steps as JSON, and run none")
    how.add_argument("--estimate", action="store_true", help="show how long it will take on this machine, and run none")
    add_gpu(how, "CUDA device ids, one step at a time on each; or cpu")
    how.add_argument(
        "--jobs", type=whole_number(1), metavar="N", help="most steps at a time (default: one a GPU; 1 on a CPU)"
    )
    how.add_argument("--jobsPerGpu", type=whole_number(1), default=1, metavar="N", help="steps at a time on each GPU")
    how.add_argument(
        "--slurm",
        metavar="OPTIONS",
        help='submit each step as a job of Slurm; options of sbatch in quotes, e.g. "--partition=gpu --gres=gpu:1"',
    )
    how.add_argument("--status", action="store_true", help="show what runs, waits and has failed in --out")
    how.add_argument("--cancel", action="store_true", help="end the jobs of Slurm of the sweep in --out")
    places = parser.add_argument_group("where files are")
    places.add_argument(
        "--out",
        type=Path,
        default=Path("sweep"),
        metavar="FOLDER",
        help="folder for checkpoints, results, logs, tables and status.json",
    )
    for flag, text in (("saveDir", "checkpoints"), ("resultDir", "results"), ("tableDir", "tables")):
        places.add_argument(f"--{flag}", type=Path, metavar="FOLDER", help=f"folder for {text} (default: one in --out)")
    places.add_argument("--dataRoot", type=Path, metavar="FOLDER", help="folder of the data sets (default: data)")


def typed_grey_level(text: str) -> str:
    """Returns an eps as it was typed, if it is one."""
    grey_level(text)
    return text
