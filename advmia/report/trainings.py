"""The sections of the trainings: their curves, from the records beside the checkpoints, and what they cost."""

from __future__ import annotations

import math
from typing import Any

from advmia.report.blocks import Block, Chart, Grid, Section, folded
from advmia.report.charts import Line, Panel, draw
from advmia.report.source import Source
from advmia.results.costs import cost_table, epochs_of
from advmia.results.differences import network_names
from advmia.results.read import RunRecord

SHOWN = 4  # charts that are not folded
MOST_POINTS = 200  # on a line
_SCORES, _LOSS_COLOUR = {"clean": 0, "robust": 1}, 2  # the lines, with their colours


def trainings_section(source: Source) -> Section | None:
    """Returns the section of training curves; None where no record of a training is found."""
    charts: list[tuple[str, tuple[Block, ...]]] = []
    for dataset in dict.fromkeys(run.record.dataset for run in source.files):
        records = {run.record.target: run.record for run in source.files if run.record.dataset == dataset}
        names = network_names(list(records.values()))
        for target, record in records.items():
            epochs, _ = epochs_of(record)
            if epochs:
                name = f"{dataset}, {names[target]}"
                charts.append((name, (_chart(name, record, epochs),)))
    return Section("trainings", "Trainings", folded(charts, SHOWN)) if charts else None


def _chart(name: str, record: RunRecord, epochs: list[dict[str, Any]]) -> Chart:
    """Returns two panels: the loss, and the scores by which the best epoch was chosen."""
    selection = record.task.selection
    loss = [(epoch["number"], epoch["loss"]) for epoch in epochs]
    scores = {
        kind: [(epoch["number"], epoch[kind].get(selection)) for epoch in epochs if epoch.get(kind)] for kind in _SCORES
    }
    losses = _lines({"training loss": (_LOSS_COLOUR, loss)})
    lines = _lines({kind: (_SCORES[kind], found) for kind, found in scores.items()})
    validation = Panel(f"{selection} in validation", "epoch", selection, y_range=(-0.03, 1.03))
    panels = [draw(Panel("mean training loss", "epoch", "loss"), losses)] if losses else []
    panels += [draw(validation, lines)] if lines else []
    legend = tuple((line.colour, line.name, False) for line in (*losses, *lines))
    return Chart(f"{name}: {len(epochs)} epochs", tuple(panels), legend)


def _lines(found: dict[str, tuple[int, list[tuple[int, Any]]]]) -> list[Line]:
    """Returns the lines that have points. `found`: by name, the colour, and the number and the value of each epoch."""
    lines = [Line(colour, name, _points(values)) for name, (colour, values) in found.items()]
    return [line for line in lines if line.points]


def _points(found: list[tuple[int, Any]]) -> tuple[tuple[float, float, float, float], ...]:
    """Returns the points of a line, without values that are undefined: of many, every n-th and the last."""
    numbers = [(number, value) for number, value in found if isinstance(value, int | float)]
    defined = [(number, value) for number, value in numbers if math.isfinite(value)]
    step = -(-len(defined) // MOST_POINTS) or 1
    chosen = defined[::step]
    if defined and chosen[-1] != defined[-1]:
        chosen.append(defined[-1])
    return tuple((number, value, value, value) for number, value in chosen)


def costs_section(source: Source) -> Section | None:
    """Returns the section of what the trainings cost; None where no record of a training is found."""
    grids = []
    for group in source.groups:
        table = cost_table([run.record for run in group], with_validation=True)
        if any(row[1].text for row in table.rows):
            grids.append(Grid(table, source.command("tables")))
    return Section("costs", "Costs of training", tuple(grids)) if grids else None
