"""Reads result files: each is checked, parsed into a `RunRecord`, and counted once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from advmia.checkpoints.paths import seed_named_by
from advmia.errors import UserError
from advmia.results.rows import ROW_KEYS, WORST, ResultRow, bounded_rows
from advmia.results.scores import SELECTIONS, task_of
from advmia.runtime.files import read_json_object
from advmia.runtime.terminal import say
from advmia.tasks import METHOD_NAMES, Task

# The settings of a training that every method has.
SHARED_SETTINGS = (
    *("epochs", "batch_size", "lr", "weight_decay", "init", "seed", "size", "precision", "val_fraction"),
    *("normalize", "awp", "awp_warm_up", "ema", "validate_every"),
)
# Keys that a result file, its `run` and its `run.data` have.
_FACTS = ("dataset", "target_model", "target_weight", "source_model", "source_weight")
_RUN = ("seed", "size", "data", "target_sha256", "source_sha256")
_DATA = ("content", "sha256", "pixels_crc32")
# Keys of what else the commands write as .json: records of a training and of Grad-CAM maps, the card of a checkpoint.
_TRAINING, _MAPS, _CARD = {"settings", "epochs", "best_epoch"}, {"run", "finished", "maps"}, {"intended_use", "loading"}
_OTHER_RECORDS = (_TRAINING, _MAPS, _CARD)
_DIGEST_LENGTH, _SHOWN_DIGITS = 32, 8  # characters: a text of 32 or more is a digest; tables show its first 8


@dataclass(frozen=True)
class RunRecord:
    """A result file: how one network was attacked on one list of images, and the results."""

    file: Path
    content: dict[str, Any]  # the file's JSON
    rows: tuple[ResultRow, ...]  # parsed from `content["rows"]`; at least one
    shown_file: str = ""  # how tables name the file; "": by its path

    @property
    def file_name(self) -> str:
        """The file as tables name it."""
        return self.shown_file or str(self.file)

    @property
    def dataset(self) -> str:
        return self.content["dataset"]

    @property
    def model(self) -> str:
        return self.content["target_model"]

    @property
    def target_weight(self) -> str:
        """The path of the target's weights, as the command line named it."""
        return self.content["target_weight"]

    @property
    def run(self) -> dict[str, Any]:
        """The facts on which the outcomes depend, beside each row's attack and budget."""
        return self.content["run"]

    @property
    def target(self) -> str:
        """SHA-256 of the target's weights."""
        return self.run["target_sha256"]

    @property
    def source(self) -> str:
        """SHA-256 of the weights of the network on which the adversarial images were made."""
        return self.run["source_sha256"]

    @property
    def is_transfer(self) -> bool:
        """Whether the source is another network than the target."""
        return self.source != self.target

    @property
    def task(self) -> Task:
        """The task, which a file does not name: it follows from the scores in its rows."""
        task = task_of(self.rows[0].scores)
        assert task is not None, "checked when the file was read"
        return task

    @property
    def images(self) -> int:
        """The number of images, equal in all rows."""
        return self.rows[0].n

    @property
    def training(self) -> dict[str, Any] | None:
        """The target's training settings; None where its training is not recorded."""
        return self.content.get("target_training") or None

    @property
    def method(self) -> str:
        """`pgdat 8`: method and training eps; the checkpoint's file name where the training is not recorded."""
        training = self.training
        if training is None:
            return Path(self.target_weight).name.encode(errors="backslashreplace").decode()
        return training["method"] if training["method"] == "nat" else f"{training['method']} {training['eps']:g}"

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """Seed, image size, and the images' content, list and pixels: equal for runs that may be compared."""
        values = self.run["seed"], self.run["size"], *map(self.run["data"].get, _DATA)
        return tuple(map(str, values))

    def checkpoint_paths(self) -> list[Path]:
        """Returns where the target's checkpoint may be: from the working folder, then from those above the file."""
        return [folder / self.target_weight for folder in (Path(), *self.file.resolve().parents[:4])]

    @property
    def warnings(self) -> list[str]:
        """What the checks at the end of the run warn of, as `<check>: <reason>`."""
        return warnings_in(self.content)

    @property
    def is_unfinished(self) -> bool:
        """Whether the run was stopped before its end."""
        return self.content.get("finished") is False

    @property
    def unknown_keys(self) -> set[str]:
        """Keys in the file's rows that this version does not know; `rows` lacks them."""
        return {key for row in self.content["rows"] for key in row} - ROW_KEYS

    def order(self) -> tuple[Any, ...]:
        """The key by which tables are sorted: data set, model, method, training eps, then all that may differ."""
        training = self.training or {}
        method = training.get("method")
        method_number = METHOD_NAMES.index(method) if method in METHOD_NAMES else len(METHOD_NAMES)
        network = (self.dataset, self.model, method_number, training.get("eps", 0.0), self.method)
        settings = [setting_text(training.get(name)) for name in SHARED_SETTINGS]
        return (*network, settings, -self.images, str(self.conditions), str(self.file))


def read_records(paths: Sequence[Path]) -> list[RunRecord]:
    """Reads the result files at `paths` (.json files, or folders of such) and returns them in the order of the tables.

    A file that is named twice, or copied, counts once. Raises `UserError` if a file is no result file, or none exists.
    """
    files = {file.resolve(): file for path in paths for file in (_results_in(path) if path.is_dir() else [path])}
    records: dict[str, RunRecord] = {}  # by the SHA-256 of the file
    for file in sorted(files.values()):
        record = read_results(file)
        first = records.setdefault(hashlib.sha256(file.read_bytes()).hexdigest(), record)
        if first is not record:
            say(f"{file} is a copy of {first.file} and is not counted again")
    if not records:
        raise UserError(f"no result files (.json, written by the test scripts) in {', '.join(map(str, paths))}")
    return sorted(records.values(), key=RunRecord.order)


def _results_in(folder: Path) -> list[Path]:
    """Returns the .json files in a folder and in its folders `seedN`, the results of networks of other seeds.

    Those that another command has written are left out: they are no mistake.
    """
    files: list[Path] = []
    others: list[Path] = []
    seeds = [path for path in folder.glob("seed*") if seed_named_by(path) is not None]
    for file in sorted(file for place in (folder, *seeds) for file in place.glob("*.json")):
        keys = (read_json_object(file) or {}).keys()
        (others if any(keys >= record for record in _OTHER_RECORDS) else files).append(file)
    if others:
        say(f"{folder}: {len(others)} records of trainings and maps, or cards, are no result files and are left out")
    return files


def results_at(file: Path) -> RunRecord | None:
    """Reads a result file; returns None where it is missing, damaged or something else."""
    try:
        return read_results(file)
    except UserError:
        return None


def read_results(file: Path) -> RunRecord:
    """Reads and checks a result file. Raises `UserError` where it is missing, damaged or something else."""
    content = read_json_object(file)
    if content is None or not content.keys() >= {"rows", "run"}:
        raise UserError(f"{file} is not a result file: expected a .json file that a test script wrote")
    try:
        record = RunRecord(file, content, tuple(map(ResultRow.from_json, content["rows"])))
        problem = _problem(record)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        problem = f"a part is missing or has another type than expected ({error})"
    if problem:
        raise UserError(f"{file} is damaged: {problem}; run the test again, or leave the file out")
    return record


def _problem(record: RunRecord) -> str | None:
    """Returns what a record lacks or what in it contradicts the rest; None if it is in order."""
    missing = [name for name in _FACTS if not isinstance(record.content.get(name), str)]
    missing += [f"run.{name}" for name in _RUN if name not in record.run]
    if missing:
        return f"it has no {', '.join(missing)}"
    if not record.rows:
        return "it has no rows"
    training = record.training or {"method": "nat", "eps": 0.0}
    if not isinstance(training["method"], str) or not math.isfinite(training["eps"]):
        return "its target_training has no method and eps"
    if not isinstance(record.run["data"], dict):
        return "its run.data is not an object"
    warnings_in(record.content)  # raises KeyError or TypeError where the checks are damaged
    if not isinstance(record.content.get("base_rate", {"score": 0.0})["score"], float | int):
        return "its base_rate has no score"
    seen = set()
    for row in record.rows:
        problem = "is there twice" if row.key in seen else _row_problem(row, record.rows[0])
        if row.attack == WORST and not problem:
            attacks = bounded_rows(record.rows, row.grey_eps, eight_bits=row.eight_bits)
            stale = set(row.attacks) != {attack.label for attack in attacks}
            problem = "is not of the attacks that the file has at this eps" if stale else None
        if problem:
            return f"row {row.attack} eps {row.grey_eps:g} {problem}"
        seen.add(row.key)
    return None


def _row_problem(row: ResultRow, first: ResultRow) -> str | None:
    """Returns what is wrong with a row, by itself or beside the file's first row; None if it is in order."""
    if not all(map(math.isfinite, (row.grey_eps, row.steps, row.grey_step_size))):
        return "has no finite eps, steps and step size"
    if row.n != first.n or len(row.outcomes) != first.n or first.n < 1:
        return f"has {len(row.outcomes)} outcomes of {row.n} images, the first row has {first.n} images"
    task = task_of(row.scores)
    if task is None or task is not task_of(first.scores):
        return f"has none of the scores {', '.join(SELECTIONS)}, or another than the first row"
    infinite = [name for name, score in row.scores.items() if math.isinf(score)]
    return f"has scores that are not finite: {', '.join(infinite)}" if infinite else None


def warnings_in(content: dict[str, Any]) -> list[str]:
    """Returns the warnings among the checks in the JSON of a result file, as `<check>: <reason>`.

    A run that was stopped has not been checked yet, which is a warning too. Files of older versions do not say whether
    their run was finished, and count as finished.
    """
    if content.get("finished") is False:
        return ["unfinished: the test has not reached its end and is not checked; the same command continues it"]
    checks = content.get("reliability") or []
    return [f"{check['check']}: {check['reason']}" for check in checks if check["verdict"] == "warning"]


def setting_text(value: Any) -> str:
    """Returns a training setting as tables show it; a digest is cut to its first digits."""
    if isinstance(value, float):
        return f"{value:g}"
    text = "none" if value is None else str(value)
    return text[:_SHOWN_DIGITS] if len(text) >= _DIGEST_LENGTH else text
