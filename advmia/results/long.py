"""All scores of result files in long form: a line for each number, as pandas and other programs want them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from advmia.results.differences import distinguish
from advmia.results.scored import Column, ScoredRun, Value
from advmia.runtime.files import csv_text

_COLUMNS = (
    *("dataset", "model", "method", "training_method", "training_eps", "training_seed", "setting"),
    *("images", "size", "attack_seed", "attack", "eps", "steps", "step_size", "restarts", "eight_bits", "attacks"),
    *("source_model", "source_weight", "score", "value", "low", "high", "deviation", "trainings"),
    *("warnings", "file", "weight"),
)
_EXACT = ("value", "low", "high", "deviation")  # numbers that are written with all their digits


def long_form(runs: Sequence[ScoredRun]) -> str:
    """Returns `long_lines` as CSV text with a header; fields that are None are empty."""
    rows = ([_field(name, line[name]) for name in _COLUMNS] for line in long_lines(runs))
    return csv_text([_COLUMNS, *rows])


def long_lines(runs: Sequence[ScoredRun]) -> list[dict[str, Any]]:
    """Returns every score of the runs with all that tells it from the others, by the names of docs/results.md.

    Scores are as in the result files, shares from 0 to 1, and not rounded. None: unknown, undefined, does not apply.
    """
    settings: dict[int, str] = {}  # by the place of the run
    groups = defaultdict(list)
    for place, run in enumerate(runs):
        groups[run.record.dataset, run.record.model, run.record.is_transfer].append(place)
    for places in groups.values():
        texts = distinguish([runs[place].record for place in places])
        settings |= dict(zip(places, texts, strict=True))
    return [
        {**_facts_of(run), "setting": settings[place], **_attack_of(column), "score": name, **_numbers_of(value)}
        for place, run in enumerate(runs)
        for column in sorted(run.values, key=Column.order)
        for name, value in run.values[column].items()
    ]


def _facts_of(run: ScoredRun) -> dict[str, Any]:
    """Returns what all numbers of a run have in common."""
    record = run.record
    training = record.training or {}
    return {
        **{name: getattr(record, name) for name in ("dataset", "model", "method", "images")},
        **{f"training_{name}": training.get(name) for name in ("method", "eps", "seed")},
        "size": record.run["size"],
        "attack_seed": record.run["seed"],
        **{name: record.content[name] if record.is_transfer else None for name in ("source_model", "source_weight")},
        "warnings": "; ".join(record.warnings),
        "file": record.file_name,
        "weight": record.target_weight,
    }


def _attack_of(column: Column) -> dict[str, Any]:
    return {
        "attack": column.attack,
        "eps": column.grey_eps,
        "steps": column.steps,
        "step_size": column.grey_step_size,
        "restarts": column.restarts,
        "eight_bits": column.eight_bits,
        "attacks": "; ".join(column.attacks),
    }


def _numbers_of(value: Value) -> dict[str, Any]:
    low, high = value.interval or (math.nan, math.nan)
    deviation = math.nan if value.deviation is None else value.deviation
    numbers = {"value": value.score, "low": low, "high": high, "deviation": deviation}
    defined = {name: None if math.isnan(number) else float(number) for name, number in numbers.items()}
    return {**defined, "trainings": len(value.seeds) or 1}


def _field(name: str, value: object) -> object:
    if isinstance(value, float):
        return repr(value) if name in _EXACT else f"{value:g}"
    return "" if value is None else value
