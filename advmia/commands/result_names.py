"""What the flags of a test script say of the names of its result files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from advmia.checkpoints.best import read_seed, seed_of
from advmia.checkpoints.paths import seed_folder
from advmia.commands.inputs import choose_spec
from advmia.data.specs import DatasetSpec
from advmia.results.write import ResultFile, result_stem
from advmia.tasks import Task


def result_path(task: Task, args: argparse.Namespace) -> Path:
    """Returns the path of the JSON file that `test` will write, unless another run has this name.

    Reads at most the checkpoints and their records, which say the seeds of the trainings.
    """
    source_model, source_weight = source_of(args)
    is_transfer = (source_model, source_weight) != (args.targetModel, args.targetWeight)
    spec = choose_spec(args, args.targetModel, source_model)
    stem = stem_of(args, spec, read_seed(args.targetWeight), read_seed(source_weight) if is_transfer else None)
    return ResultFile(stem, facts={}, score_names=task.score_names(spec), run={}, details={}).json_path


def source_of(args: argparse.Namespace) -> tuple[str, Path]:
    """Returns the source's model and checkpoint; what the flags do not name is the target's."""
    return args.surrogateModel or args.targetModel, args.surrogateWeight or args.targetWeight


def seeds_of(args: argparse.Namespace, trainings: dict[str, Any]) -> tuple[int, int | None]:
    """Returns the seeds of the trainings of the target and of the source; None for the source of a white-box test."""
    target = seed_of(args.targetWeight, trainings["target_training"])
    if "source_training" not in trainings:
        return target, None
    return target, seed_of(source_of(args)[1], trainings["source_training"])


def stem_of(args: argparse.Namespace, spec: DatasetSpec, seed: int, source_seed: int | None) -> Path:
    """Returns the result files' path without its ending. `seed`, `source_seed`: see `seeds_of`."""
    source = None if source_seed is None else source_of(args)[1]
    mark = "" if source_seed in (None, seed) else f"seed{source_seed}__"
    return result_stem(seed_folder(args.resultDir, seed), spec.name, args.targetWeight, source, mark)
