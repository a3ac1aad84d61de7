"""The table of training costs, from the records beside the checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from advmia.checkpoints.best import is_record_of, read_all_records
from advmia.results.differences import network_names
from advmia.results.layout import Cell, Table
from advmia.results.read import RunRecord
from advmia.results.render import rounded
from advmia.results.seeds import SeedsRecord

_FURTHER = ("seconds of validation an epoch (mean)", "seconds in all")
_POOLED = "Epochs of all seeds of a method together."


def cost_table(records: Sequence[RunRecord], *, with_validation: bool = False) -> Table:
    """Returns the table of seconds per epoch of training, with a row for each network.

    `with_validation`: with the mean seconds of an epoch's validation, and the seconds of the whole training.
    `records`: results of one data set and one model. Networks whose training record cannot be found have empty cells,
    and a note lists them.
    """
    # The first record of each network, ordered by the networks' last records.
    first_records = {record.target: record for record in reversed(records)}
    networks = list(first_records.values())[::-1]
    names = network_names(networks)
    rows, notes = [], []
    for network in networks:
        seconds, validation = [], []
        for part in _networks_of(network.target, records):
            epochs, fault = epochs_of(part)
            seconds += [epoch["seconds"] for epoch in epochs]
            validation += [epoch.get("validation_seconds", 0.0) for epoch in epochs]
            if fault:
                notes.append((fault, part.target_weight))
        median = "" if not seconds else rounded(float(np.median(seconds)), 1)
        spread = "" if len(seconds) < 2 else f" ({rounded(min(seconds), 1)}-{rounded(max(seconds), 1)})"
        name = names[network.target].removeprefix(f"{network.model} ")
        row = (Cell(name), Cell.of(len(seconds) or ""), Cell(median + spread, number=median))
        rows.append((*row, *_further_cells(seconds, validation)) if with_validation else row)
    first = records[0]
    title = f"{first.dataset}, {first.model}: seconds an epoch of training, without validation: median (least-most)"
    faults = dict.fromkeys(fault for fault, _ in notes)
    lines = (f"Empty: {fault} beside {', '.join(path for other, path in notes if other == fault)}" for fault in faults)
    pooled = (_POOLED,) if any(isinstance(record, SeedsRecord) for record in records) else ()
    header = ("method", "epochs", "seconds an epoch", *(_FURTHER if with_validation else ()))
    return Table(title, header, tuple(rows), (*pooled, *lines))


def _further_cells(seconds: Sequence[float], validation: Sequence[float]) -> tuple[Cell, Cell]:
    """Returns the cells of the columns `_FURTHER`, empty ones for a network without a record."""
    if not seconds:
        return Cell(), Cell()
    mean, total = float(np.mean(validation)), float(np.sum(seconds) + np.sum(validation))
    return Cell.of(rounded(mean, 1)), Cell.of(rounded(total, 0))


def _networks_of(name: str, records: Sequence[RunRecord]) -> list[RunRecord]:
    """Returns a record for each network in a row of the table: those of several seeds have one row."""
    same = [record for record in records if record.target == name]
    parts = [part for record in same for part in (record.parts if isinstance(record, SeedsRecord) else (record,))]
    return list({part.target: part for part in reversed(parts)}.values())[::-1]


def epochs_of(record: RunRecord) -> tuple[list[dict[str, Any]], str]:
    """Returns what each epoch of the target's training gave, and what is wrong where there are none.

    An epoch is as `advmia.training.loop.Epoch` records it. The record is `<checkpoint>.json`, or one that was renamed
    when another network was trained under that name. A relative path is looked up from the working folder, then from
    the folders above the result file. A record of another training or of other weights counts as none.
    """
    fault = "no record of that training"
    for checkpoint in record.checkpoint_paths():
        for training in read_all_records(checkpoint):
            if record.training is None or training.get("settings") != record.training:
                continue
            if not is_record_of(training, record.target):
                fault = "the record is of other weights"
            elif training.get("epochs"):
                return training["epochs"], ""
    return [], fault
