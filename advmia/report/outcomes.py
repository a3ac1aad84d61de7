"""The sections that show what happened to the images of a file: confusion matrices, and Dice image by image."""

from __future__ import annotations

import numpy as np

from advmia.report.blocks import Block, Chart, Grid, Paragraph, Section, folded
from advmia.report.charts import Line, Panel, draw
from advmia.report.scores import SHADES, lowest
from advmia.report.source import Source, attack_columns, class_names, main_score, samples_of
from advmia.results.layout import Cell, Table
from advmia.results.rows import CLEAN, WORST, ResultRow
from advmia.results.scored import Column, ScoredRun, column_heads
from advmia.tasks import SEGMENTATION, SINGLE_LABEL

SHOWN = 4  # networks whose matrices or charts are not folded
MOST_CLASSES = 20  # of a confusion matrix; a larger one could not be read
MOST_POINTS = 200  # on a curve over images


def confusion_section(source: Source) -> Section | None:
    """Returns the section of confusion matrices, clean and under the worst attack; None without classes."""
    matrices: list[tuple[str, tuple[Block, ...]]] = []
    for run in _of_task(source, SINGLE_LABEL.name):
        name = source.names[run.record.file_name]
        labels = np.array(samples_of(run.record, "label"), dtype=np.int64)
        found = [
            _matrix(f"{name}: {head}", labels, np.array(row.outcomes), run)
            for head, row in _clean_and_worst(run)
            if len(labels)
        ]
        grids = tuple(grid for grid in found if grid)
        matrices += [(name, grids)] if grids else []
    if not matrices:
        return None
    text = "Rows are the true class, columns the predicted one; the darker a cell, the larger its share of the row."
    return Section("confusion", "Confusion matrices", (Paragraph(text), *folded(matrices, SHOWN)))


def _matrix(title: str, labels: np.ndarray, predicted: np.ndarray, run: ScoredRun) -> Grid | None:
    """Returns the confusion matrix of the labels and the predicted classes, both (N,)."""
    classes = int(max(labels.max(), predicted.max())) + 1
    if classes > MOST_CLASSES or min(labels.min(), predicted.min()) < 0:
        return None
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    names = class_names(run.record, classes)
    rows: list[tuple[Cell, ...]] = []
    shades: list[tuple[int | None, ...]] = []
    for name, line in zip(names, counts, strict=True):
        total = int(line.sum())
        recall = f"{100 * line[len(rows)] / total:.1f}" if total else ""
        rows.append((Cell(name), *(Cell(str(count)) for count in line), Cell(str(total)), Cell(recall)))
        shades.append(
            (None, *(min(SHADES - 1, int(SHADES * count / total)) if total else None for count in line), None, None)
        )
    header = ("true class", *names, "images", "right (%)")
    return Grid(Table(title, header, tuple(rows)), shades=tuple(shades))


def dice_section(source: Source) -> Section | None:
    """Returns the section of the Dice of every image, clean and under the worst attack; None without masks."""
    charts: list[tuple[str, tuple[Block, ...]]] = []
    for run in _of_task(source, SEGMENTATION.name):
        name = source.names[run.record.file_name]
        lines, low = [], []
        for number, (head, row) in enumerate(_clean_and_worst(run)):
            values = np.sort(np.array([outcome[0] for outcome in row.outcomes], dtype=np.float64))
            lines.append(Line(number, head, tuple(_points(values))))
            low.append(f"{head}: {int((values < 0.5).sum())} of {row.n} below 0.5")
        panel = Panel("Dice of each image, sorted", "images up to this one (%)", "Dice", y_range=(-0.03, 1.03))
        legend = tuple((line.colour, line.name, False) for line in lines)
        charts.append((name, (Chart(name, (draw(panel, lines),), legend, ("; ".join(low) + ".",)),)))
    if not charts:
        return None
    text = "A line that falls on the left shows images on which the mask is bad, which a mean hides."
    return Section("dice", "Dice image by image", (Paragraph(text), *folded(charts, SHOWN)))


def _points(values: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Returns points (share of the images in percent, value) of sorted values (N,): all, or evenly chosen ones."""
    places = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_POINTS)).round().astype(int))
    return [(round(100 * (place + 1) / len(values), 3), *[float(values[place])] * 3) for place in places.tolist()]


def _of_task(source: Source, task: str) -> list[ScoredRun]:
    """Returns the white-box runs of a task, a run for each file."""
    return [run for run in source.files if run.record.task.name == task and not run.record.is_transfer]


def _clean_and_worst(run: ScoredRun) -> list[tuple[str, ResultRow]]:
    """Returns the clean row and the one at the largest eps that leaves least, `worst` included, with their heads."""
    heads = column_heads([run])
    by_column = {Column.of(row): row for row in run.record.rows}
    chosen = [column for column in heads if column.attack == CLEAN]
    by_eps = attack_columns([run])
    if by_eps:
        grey_eps, columns = list(by_eps.items())[-1]
        worst = [column for column in heads if (column.attack, column.grey_eps) == (WORST, grey_eps)]
        least = lowest(run, [*worst, *columns], main_score(run.record))
        chosen += [least] if least else []
    return [(heads[column], by_column[column]) for column in chosen]
