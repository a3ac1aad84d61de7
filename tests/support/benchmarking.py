"""Running a benchmark in this process on a small network, and checking its record."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advmia.data.specs import DatasetSpec
from advmia.runtime.machine import on_device, seed_everything
from advmia.tasks import SEGMENTATION
from tests.support.networks import SmallNet, SmallSegmenter

Benchmark = Callable[..., dict[str, Any]]  # the fixture `run_benchmark`


def small_network(name: str, spec: DatasetSpec, classes: int, device: torch.device, seed: int = 0) -> nn.Module:
    """Replaces `benchmarks.subjects.network`: returns a network of two convolutions, for masks if `name` is."""
    seed_everything(seed)
    return on_device(SmallSegmenter(classes) if name in SEGMENTATION.models else SmallNet(classes), device)


def checked(path: Path) -> dict[str, Any]:
    """Returns the record of a benchmark. Fails if a number is not finite or, except for differences, negative."""
    record = json.loads(path.read_text())
    assert record["machine"]["versions"]["torch"] and record["machine"]["date"] and record["machine"]["name"]
    assert all(math.isfinite(number) and number >= 0 for number in numbers(record))
    return record


def numbers(record: object) -> Iterator[float]:
    """Yields all numbers in a JSON record except the differences `above_plain`."""
    if isinstance(record, dict):
        record = [value for name, value in record.items() if name != "above_plain"]
    if isinstance(record, list):
        for value in record:
            yield from numbers(value)
    elif isinstance(record, (int, float)) and not isinstance(record, bool):
        yield record
