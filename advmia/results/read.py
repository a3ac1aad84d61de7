"""Result files as they come: read, checked, each counted once, and told apart by what they differ in."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from advmia.errors import UserError
from advmia.results.record import read_results
from advmia.runtime.terminal import say

KINDS = ("accuracy", "dice", "auroc")  # the first that a row holds names its task
METHODS = ("nat", "pgdat", "trades", "mart", "hat")  # in the order of the tables
_FACTS = ("dataset", "target_model", "target_weight", "source_model", "source_weight")
_DATA = ("content", "sha256", "pixels_crc32")
_RUN = ("seed", "size", "data", "target_sha256", "source_sha256")
SHARED_SETTINGS = ("epochs", "batch_size", "lr", "weight_decay", "init", "seed", "size", "precision", "val_fraction")


@dataclass(frozen=True)
class RunRecord:
    """One result file."""

    file: Path
    record: dict[str, Any]

    @property
    def dataset(self) -> str:
        return self.record["dataset"]

    @property
    def model(self) -> str:
        return self.record["target_model"]

    @property
    def target(self) -> str:
        """SHA-256 of the attacked network's weights."""
        return self.record["run"]["target_sha256"]

    @property
    def source(self) -> str:
        return self.record["run"]["source_sha256"]

    @property
    def kind(self) -> str:
        return kind_of(self.rows[0]["scores"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.record["rows"]

    @property
    def images(self) -> int:
        return self.rows[0]["n"]

    @property
    def training(self) -> dict[str, Any] | None:
        return self.record.get("target_training") or None

    @property
    def method(self) -> str:
        """`pgdat 8`: method and training eps; the checkpoint's file name where its training is not recorded."""
        training = self.training
        if training is None:
            return Path(self.record["target_weight"]).name.encode(errors="backslashreplace").decode()
        return training["method"] if training["method"] == "nat" else f"{training['method']} {training['eps']:g}"

    @cached_property
    def tested(self) -> tuple[str, ...]:
        """What rows must share to be compared: seed, size and the very images."""
        run = self.record["run"]
        return tuple(str(value) for value in (run["seed"], run["size"], *map(run["data"].get, _DATA)))

    def order(self) -> tuple[Any, ...]:
        """By data set, model, method (in the published order), eps, and what tells equal ones apart."""
        training = self.training or {}
        method = training.get("method")
        place = METHODS.index(method) if method in METHODS else len(METHODS)
        distinguish = [setting_text(training.get(name)) for name in SHARED_SETTINGS]
        budget = (place, training.get("eps", 0.0), self.method)
        return (self.dataset, self.model, *budget, distinguish, -self.images, str(self.tested), str(self.file))


def kind_of(scores: dict[str, Any]) -> str:
    return next((kind for kind in KINDS if kind in scores), "")


def read_records(paths: Sequence[Path]) -> list[RunRecord]:
    """The result files at `paths` (.json files, or folders of them), in the order of the tables.

    A file that comes twice, also as a copy, counts once. Raises `UserError` when one is no result file, or none is.
    """
    files = {file.resolve(): file for path in paths for file in (path.glob("*.json") if path.is_dir() else [path])}
    entries: dict[str, RunRecord] = {}
    for file in sorted(files.values()):
        entry = _read(file)
        known = entries.setdefault(hashlib.sha256(file.read_bytes()).hexdigest(), entry)
        if known is not entry:
            say(f"{file} repeats {known.file}: counted once")
    if not entries:
        raise UserError(f"no result files (.json, written by the test scripts) in {', '.join(map(str, paths))}")
    return sorted(entries.values(), key=RunRecord.order)


def _read(file: Path) -> RunRecord:
    record = read_results(file)
    if record is None:
        raise UserError(f"{file} is no result file: expected the JSON that a test script wrote, or a folder of such")
    try:
        fault = _fault(record)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        fault = f"a part is missing or has another type than expected ({error})"
    if fault:
        raise UserError(f"{file} is no whole result file: {fault}; test again, or leave it out")
    return RunRecord(file, record)


def _fault(record: dict[str, Any]) -> str | None:
    """What of a record is missing or contradicts itself."""
    missing = [name for name in _FACTS if not isinstance(record.get(name), str)]
    missing += [f"run.{name}" for name in _RUN if name not in record["run"]]
    if missing:
        return f"it has no {', '.join(missing)}"
    if not record["rows"]:
        return "it has no rows"
    training, data = record.get("target_training") or {"method": "nat", "eps": 0.0}, record["run"]["data"]
    if not isinstance(training["method"], str) or not math.isfinite(training["eps"]) or not isinstance(data, dict):
        return "its target_training names no method and eps, or its run.data is no set of facts"
    seen, count = set(), record["rows"][0]["n"]
    for row in record["rows"]:
        where = f"row {row['attack']} eps {row['eps']:g}"
        if not all(math.isfinite(row[name]) for name in ("eps", "steps", "step_size")):
            return f"{where} has no finite steps"
        if (row["attack"], row["eps"]) in seen:
            return f"{where} is there twice"
        seen.add((row["attack"], row["eps"]))
        if row["n"] != count or len(row["outcomes"]) != count or count < 1:
            return f"{where} has {len(row['outcomes'])} outcomes of {row['n']} images, the first row has {count} images"
        if kind_of(row["scores"]) != kind_of(record["rows"][0]["scores"]) or not kind_of(row["scores"]):
            return f"{where} has none of the scores {', '.join(KINDS)}"
        odd = [name for name, score in row["scores"].items() if score is not None and not math.isfinite(score)]
        if odd:
            return f"{where} has scores that are not finite: {', '.join(odd)}"
    return None


def groups(entries: Iterable[RunRecord], key: str) -> list[list[RunRecord]]:
    """Entries of one data set and `key`, in order."""
    found: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for entry in entries:
        found[entry.dataset, getattr(entry, key)].append(entry)
    return list(found.values())


def setting_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = "none" if value is None else str(value)
    return text[:8] if len(text) >= 32 else text  # a hash
