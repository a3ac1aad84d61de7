"""From result files to the survey's tables, and curves over eps."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from advmia.checkpoints.best import read_record
from advmia.data.specs import CHEST_FINDINGS
from advmia.errors import UserError
from advmia.results.cells import _DEFAULT, _NAMES, ScoredRun, _measure, columns, labels, score, score_cells
from advmia.results.differences import distinguish, network_names
from advmia.results.plots import Curve, Point, plot_curves
from advmia.results.read import RunRecord, groups, read_records
from advmia.results.record import CLEAN
from advmia.results.render import EXTENSIONS, Cell, Table, render_tables, rounded
from advmia.results.transfer import transfer_tables
from advmia.runtime.files import write_text

_BY = "by attack and eps (grey levels out of 255)"
_APART = "Rows differ in what they were tested on: the best is marked among rows of the same images, size and seed."


def write_tables(paths: Sequence[Path], out: Path | None, *, form: str = "md", scores: Sequence[str] = ()) -> str:
    """What the terminal shows: all tables as Markdown; without `out`, in the format `form`.

    With `out`, `<out>/tables.<extension>` holds them in the format `form`, and `<out>/<dataset>__<model>.png` and
    `.pdf` the curves. `scores` names further scores to table.
    """
    scored = [score(entry) for entry in read_records(paths)]
    tables = make_tables(scored, scores)
    if out is None:
        return render_tables(tables, form)
    write_text(out / f"tables.{EXTENSIONS[form]}", render_tables(tables, form))
    for group in _white_box(scored):
        entry = group[0].entry
        stem = re.sub(r"[^\w\[\] .-]", "-", f"{entry.dataset}__{entry.model}")  # one file name, whatever the data set
        title = f"{entry.dataset}, {entry.model}: {_images(group)} images"
        plot_curves(_curves(group), title, f"{_NAMES[entry.kind]} (%)", out / stem)
    return render_tables(tables, "md")


def make_tables(scored: Sequence[ScoredRun], scores: Sequence[str] = ()) -> list[Table]:
    """All tables: by data set and model the scores, findings and cost, then the transfer matrices."""
    known = dict.fromkeys(name for one in scored for found in one.values.values() for name in found)
    for name in scores:
        if name not in known:
            raise UserError(f"--scores {name}: no result holds it; known are {', '.join(known)}")
    tables = []
    for group in _white_box(scored):
        kind = group[0].entry.kind
        held = {name for one in group for found in one.values.values() for name in found}
        names = [*_DEFAULT[kind], *(name for name in scores if name in held)]
        tables += [_score_table(group, name) for name in dict.fromkeys(names)]
        if kind == "auroc":
            tables.append(_finding_table(group))
        tables.append(_cost_table(group))
    return tables + transfer_tables(scored)


def _white_box(scored: Sequence[ScoredRun]) -> list[list[ScoredRun]]:
    """The files whose attacks were made on the target itself, by data set and model."""
    by_file = {one.entry.file: one for one in scored}
    own = [one.entry for one in scored if one.entry.source == one.entry.target]
    return [[by_file[entry.file] for entry in entries] for entries in groups(own, "model")]


def _images(group: Sequence[ScoredRun]) -> str:
    return " or ".join(dict.fromkeys(str(one.entry.images) for one in group))


def _score_table(group: Sequence[ScoredRun], name: str) -> Table:
    """Methods in rows, attacks and eps in columns."""
    heads = columns(group)
    values = [[one.get(column, name) for column in heads] for one in group]
    identity, entries = _identity(group), [one.entry for one in group]
    cells = score_cells(values, [entry.tested for entry in entries], name)
    known = [
        [Cell(text) for text in (*words, str(entry.images))] for words, entry in zip(identity[1], entries, strict=True)
    ]
    title = f"{entries[0].dataset}, {entries[0].model}: {_measure(name, values)}, {_BY}"
    rows = tuple((*first, *rest) for first, rest in zip(known, cells, strict=True))
    return Table(title, (*identity[0], "images", *heads.values()), rows, _notes(group))


def _finding_table(group: Sequence[ScoredRun]) -> Table:
    """AUROC of each finding, method by method."""
    heads = columns(group)
    words, identity = _identity(group)
    lines = [(finding, number, one) for finding in range(len(CHEST_FINDINGS)) for number, one in enumerate(group)]
    values = [[one.get(column, CHEST_FINDINGS[finding]) for column in heads] for finding, _, one in lines]
    cells = score_cells(values, [(finding, one.entry.tested) for finding, _, one in lines], "auroc")
    positive = [labels(one.entry).sum(axis=0) for one in group]
    rows = tuple(
        (Cell(CHEST_FINDINGS[finding]), Cell(str(positive[number][finding])), *map(Cell, identity[number]), *rest)
        for (finding, number, _), rest in zip(lines, cells, strict=True)
    )
    entry = group[0].entry
    title = f"{entry.dataset}, {entry.model}: AUROC by finding in percent (95 % bootstrap interval), {_BY}"
    return Table(title, ("finding", "positive images", *words, *heads.values()), rows, _notes(group))


def _identity(group: Sequence[ScoredRun]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of the columns that say which network a row is of; `setting` where methods need telling apart."""
    entries = [one.entry for one in group]
    told = distinguish(entries)
    if not any(told):
        return ["method"], [[entry.method] for entry in entries]
    return ["method", "setting"], [[entry.method, text] for entry, text in zip(entries, told, strict=True)]


def _notes(group: Sequence[ScoredRun]) -> tuple[str, ...]:
    notes = [_APART] if len({one.entry.tested for one in group}) > 1 else []
    if any(column.attack == "simba" for one in group for column in one.values):
        notes.append("simba's eps is the length of a step, not a bound.")
    return tuple(notes)


def _cost_table(group: Sequence[ScoredRun]) -> Table:
    """Seconds an epoch, from the records beside the checkpoints where those still are."""
    networks = list({one.entry.target: one.entry for one in reversed(group)}.values())[::-1]
    names = network_names(networks)
    rows, lost = [], []
    for entry in networks:
        seconds = _epoch_seconds(entry)
        if not seconds:
            lost.append(entry.record["target_weight"])
        middle = "" if not seconds else rounded(float(np.median(seconds)), 1)
        spread = "" if len(seconds) < 2 else f" ({rounded(min(seconds), 1)}-{rounded(max(seconds), 1)})"
        name = names[entry.target].removeprefix(f"{entry.model} ")
        rows.append((Cell(name), Cell(str(len(seconds) or "")), Cell(middle + spread)))
    entry = group[0].entry
    title = f"{entry.dataset}, {entry.model}: seconds an epoch of training, without validation: median (least-most)"
    notes = (f"Empty: no record of that training beside {', '.join(lost)}",) if lost else ()
    return Table(title, ("method", "epochs", "seconds an epoch"), tuple(rows), notes)


def _epoch_seconds(entry: RunRecord) -> list[float]:
    """Of each epoch, from `<checkpoint>.json` where it is a record of this very training; else empty.

    A relative path is looked up from here, then from the folders above the result file.
    """
    weight = Path(entry.record["target_weight"])
    for folder in (Path(), *entry.file.resolve().parents[:3]):
        record = read_record(folder / weight) or {}
        if entry.training is not None and record.get("settings") == entry.training:
            return [epoch["seconds"] for epoch in record.get("epochs", [])]
    return []


def _curves(group: Sequence[ScoredRun]) -> list[Curve]:
    """One curve a row of the table; the clean score stands at eps 0."""
    kind = group[0].entry.kind
    differ = len({one.entry.images for one in group}) > 1
    curves = []
    for one, words in zip(group, _identity(group)[1], strict=True):
        points: dict[str, list[Point]] = {}
        for column, found in sorted(one.values.items(), key=lambda item: item[0].order()):
            value = found[kind]
            if not math.isnan(value.score):
                assert value.interval is not None
                low, high = value.interval
                point = Point(column.eps, 100 * value.score, 100 * low, 100 * high)
                points.setdefault(column.attack, []).append(point)
        clean = points.pop(CLEAN, [])
        marks = [*words[1:], f"{one.entry.images} images" if differ else ""]
        name = " ".join([words[0], *(f"({mark})" for mark in marks if mark)])
        curves.append(Curve(name, {attack: clean + found for attack, found in points.items()}))
    return curves
