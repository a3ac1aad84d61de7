"""All scores of result files in long form: a CSV line for each number, as pandas and other programs want them."""

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


def long_form(runs: Sequence[ScoredRun]) -> str:
    """Returns every score of the runs as CSV text with a header; empty fields are unknown, undefined or do not apply.

    Scores are as in the result files, shares from 0 to 1, and not rounded.
    """
    settings: dict[int, str] = {}  # by the place of the run
    groups = defaultdict(list)
    for place, run in enumerate(runs):
        groups[run.record.dataset, run.record.model, run.record.is_transfer].append(place)
    for places in groups.values():
        texts = distinguish([runs[place].record for place in places])
        settings |= dict(zip(places, texts, strict=True))
    lines = [
        {**_facts_of(run), "setting": settings[place], **_attack_of(column), "score": name, **_numbers_of(value)}
        for place, run in enumerate(runs)
        for column in sorted(run.values, key=Column.order)
        for name, value in run.values[column].items()
    ]
    return csv_text([_COLUMNS, *([line[name] for name in _COLUMNS] for line in lines)])


def _facts_of(run: ScoredRun) -> dict[str, Any]:
    """Returns what all numbers of a run have in common."""
    record = run.record
    training = record.training or {}
    source = ("source_model", "source_weight")
    return {
        **{name: getattr(record, name) for name in ("dataset", "model", "method", "images", "file")},
        "training_method": training.get("method", ""),
        "training_eps": training.get("eps", ""),
        "training_seed": training.get("seed", ""),
        "size": record.run["size"],
        "attack_seed": record.run["seed"],
        **{name: record.content[name] if record.is_transfer else "" for name in source},
        "warnings": "; ".join(record.warnings),
        "weight": record.target_weight,
    }


def _attack_of(column: Column) -> dict[str, Any]:
    return {
        "attack": column.attack,
        "eps": f"{column.grey_eps:g}",
        "steps": column.steps,
        "step_size": f"{column.grey_step_size:g}",
        "restarts": column.restarts,
        "eight_bits": column.eight_bits,
        "attacks": "; ".join(column.attacks),
    }


def _numbers_of(value: Value) -> dict[str, Any]:
    low, high = value.interval or (math.nan, math.nan)
    deviation = math.nan if value.deviation is None else value.deviation
    numbers = {"value": value.score, "low": low, "high": high, "deviation": deviation}
    return {
        **{name: "" if math.isnan(number) else repr(float(number)) for name, number in numbers.items()},
        "trainings": len(value.seeds) or 1,
    }
