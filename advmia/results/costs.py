"""The table of training costs, from the records beside the checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from advmia.checkpoints.best import read_record
from advmia.results.differences import network_names
from advmia.results.read import RunRecord
from advmia.results.render import Cell, Table, rounded


def cost_table(records: Sequence[RunRecord]) -> Table:
    """Returns the table of seconds per epoch of training, with a row for each network.

    `records`: results of one data set and one model. Networks whose training record cannot be found have empty cells,
    and a note lists them.
    """
    # The first record of each network, ordered by the networks' last records.
    first_records = {record.target: record for record in reversed(records)}
    networks = list(first_records.values())[::-1]
    names = network_names(networks)
    rows, without_record = [], []
    for network in networks:
        seconds = _epoch_seconds(network)
        if not seconds:
            without_record.append(network.target_weight)
        median = "" if not seconds else rounded(float(np.median(seconds)), 1)
        spread = "" if len(seconds) < 2 else f" ({rounded(min(seconds), 1)}-{rounded(max(seconds), 1)})"
        name = names[network.target].removeprefix(f"{network.model} ")
        rows.append((Cell(name), Cell(str(len(seconds) or "")), Cell(median + spread)))
    first = records[0]
    title = f"{first.dataset}, {first.model}: seconds an epoch of training, without validation: median (least-most)"
    notes = (f"Empty: no record of that training beside {', '.join(without_record)}",) if without_record else ()
    return Table(title, ("method", "epochs", "seconds an epoch"), tuple(rows), notes)


def _epoch_seconds(record: RunRecord) -> list[float]:
    """Returns the seconds of each epoch of the target's training; an empty list where its record cannot be found.

    The record is `<checkpoint>.json`. A relative path is looked up from the working folder, then from the folders above
    the result file. A record of another training counts as none.
    """
    checkpoint = Path(record.target_weight)
    for folder in (Path(), *record.file.resolve().parents[:3]):
        training = read_record(folder / checkpoint) or {}
        if record.training is not None and training.get("settings") == record.training:
            return [epoch["seconds"] for epoch in training.get("epochs", [])]
    return []
