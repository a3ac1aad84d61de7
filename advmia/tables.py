"""From result files to the survey's tables, and curves over eps."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Sequence
from itertools import count, groupby
from pathlib import Path

import numpy as np

from advmia.checkpoints import read_record
from advmia.data.specs import CHEST_FINDINGS
from advmia.errors import UserError
from advmia.files import write_text
from advmia.formats import EXTENSIONS, Cell, Table, render, rounded
from advmia.gather import Entry, gather, groups, network_names, settings
from advmia.plots import Curve, Point, plot_curves
from advmia.results import CLEAN
from advmia.scored import Column, Scored, Value, columns, labels, score

_NAMES = {"accuracy": "accuracy", "auroc": "mean AUROC", "dice": "Dice", "iou": "IoU"}
_METHODS = {"accuracy": "Wilson", "auroc": "bootstrap", "dice": "bootstrap", "iou": "bootstrap"}
_DEFAULT = {"accuracy": ("accuracy",), "auroc": ("auroc",), "dice": ("dice", "iou")}  # scores, by kind
_AS_THEY_ARE = ("dice", "iou")  # three decimals, as the survey prints them; other shares are in percent
_LOWER_IS_BETTER = ("attack_success_rate", "ce_loss")
_BY = "by attack and eps (grey levels out of 255)"
_APART = "Rows differ in what they were tested on: the best is marked among rows of the same images, size and seed."


def write_tables(paths: Sequence[Path], out: Path | None, *, form: str = "md", scores: Sequence[str] = ()) -> str:
    """What the terminal shows: all tables as Markdown; without `out`, in the format `form`.

    With `out`, `<out>/tables.<extension>` holds them in the format `form`, and `<out>/<dataset>__<model>.png` and
    `.pdf` the curves. `scores` names further scores to table.
    """
    scored = [score(entry) for entry in gather(paths)]
    tables = make_tables(scored, scores)
    if out is None:
        return render(tables, form)
    write_text(out / f"tables.{EXTENSIONS[form]}", render(tables, form))
    for group in _white_box(scored):
        entry = group[0].entry
        stem = re.sub(r"[^\w\[\] .-]", "-", f"{entry.dataset}__{entry.model}")  # one file name, whatever the data set
        title = f"{entry.dataset}, {entry.model}: {_images(group)} images"
        plot_curves(_curves(group), title, f"{_NAMES[entry.kind]} (%)", out / stem)
    return render(tables, "md")


def make_tables(scored: Sequence[Scored], scores: Sequence[str] = ()) -> list[Table]:
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
    return tables + _transfer_tables(scored)


def _white_box(scored: Sequence[Scored]) -> list[list[Scored]]:
    """The files whose attacks were made on the target itself, by data set and model."""
    by_file = {one.entry.file: one for one in scored}
    own = [one.entry for one in scored if one.entry.source == one.entry.target]
    return [[by_file[entry.file] for entry in entries] for entries in groups(own, "model")]


def _images(group: Sequence[Scored]) -> str:
    return " or ".join(dict.fromkeys(str(one.entry.images) for one in group))


# ---------------------------------------------------------------- scores


def _score_table(group: Sequence[Scored], name: str) -> Table:
    """Methods in rows, attacks and eps in columns."""
    heads = columns(group)
    values = [[one.get(column, name) for column in heads] for one in group]
    identity, entries = _identity(group), [one.entry for one in group]
    cells = _cells(values, [entry.tested for entry in entries], name)
    known = [
        [Cell(text) for text in (*words, str(entry.images))] for words, entry in zip(identity[1], entries, strict=True)
    ]
    title = f"{entries[0].dataset}, {entries[0].model}: {_measure(name, values)}, {_BY}"
    rows = tuple((*first, *rest) for first, rest in zip(known, cells, strict=True))
    return Table(title, (*identity[0], "images", *heads.values()), rows, _notes(group))


def _finding_table(group: Sequence[Scored]) -> Table:
    """AUROC of each finding, method by method."""
    heads = columns(group)
    words, identity = _identity(group)
    lines = [(finding, number, one) for finding in range(len(CHEST_FINDINGS)) for number, one in enumerate(group)]
    values = [[one.get(column, CHEST_FINDINGS[finding]) for column in heads] for finding, _, one in lines]
    cells = _cells(values, [(finding, one.entry.tested) for finding, _, one in lines], "auroc")
    positive = [labels(one.entry).sum(axis=0) for one in group]
    rows = tuple(
        (Cell(CHEST_FINDINGS[finding]), Cell(str(positive[number][finding])), *map(Cell, identity[number]), *rest)
        for (finding, number, _), rest in zip(lines, cells, strict=True)
    )
    entry = group[0].entry
    title = f"{entry.dataset}, {entry.model}: AUROC by finding in percent (95 % bootstrap interval), {_BY}"
    return Table(title, ("finding", "positive images", *words, *heads.values()), rows, _notes(group))


def _identity(group: Sequence[Scored]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of the columns that say which network a row is of; `setting` where methods need telling apart."""
    entries = [one.entry for one in group]
    told = settings(entries)
    if not any(told):
        return ["method"], [[entry.method] for entry in entries]
    return ["method", "setting"], [[entry.method, text] for entry, text in zip(entries, told, strict=True)]


def _notes(group: Sequence[Scored]) -> tuple[str, ...]:
    notes = [_APART] if len({one.entry.tested for one in group}) > 1 else []
    if any(column.attack == "simba" for one in group for column in one.values):
        notes.append("simba's eps is the length of a step, not a bound.")
    return tuple(notes)


Values = Sequence[Sequence[Value | None]]


def _measure(name: str, values: Values) -> str:
    """What a table shows: `accuracy in percent (95 % Wilson interval)`."""
    unit = " in percent" if _is_percent(name, values) else ""
    return f"{_NAMES.get(name, name)}{unit}" + (f" (95 % {_METHODS[name]} interval)" if name in _METHODS else "")


def _is_percent(name: str, values: Values) -> bool:
    """Whether a score is a share that is printed in percent; a loss or a distance is not."""
    shares = (value.score for row in values for value in row if value is not None and not math.isnan(value.score))
    return name not in (*_AS_THEY_ARE, "ce_loss") and all(0 <= share <= 1 for share in shares)


def _cells(values: Values, rivals: Sequence[Hashable], name: str) -> list[list[Cell]]:
    """Texts of a table's numbers, in each column the best of the rows that may be compared marked as such."""
    written = _writer(_is_percent(name, values))
    best = min if name in _LOWER_IS_BETTER else max
    cells = [[Cell(_text(value, written)) for value in row] for row in values]
    for column in range(len(values[0])):
        for rival in dict.fromkeys(rivals):
            found = {row: values[row][column] for row in range(len(values)) if rivals[row] == rival}
            scores = {row: value.score for row, value in found.items() if value and not math.isnan(value.score)}
            for row in scores if len(scores) > 1 else ():
                # Equal as printed is equally good.
                if written(scores[row]) == written(best(scores.values())):
                    cells[row][column] = Cell(cells[row][column].text, best=True)
    return cells


def _writer(percent: bool) -> Callable[[float], str]:
    return lambda value: rounded(value, 1, 100) if percent else rounded(value, 3)


def _text(value: Value | None, written: Callable[[float], str]) -> str:
    """`84.6 (81.2-87.5)`; empty where nothing was measured."""
    if value is None:
        return ""
    if math.isnan(value.score):
        return "undefined"
    if value.interval is None or math.isnan(value.interval[0]):
        return written(value.score)
    low, high = value.interval
    return f"{written(value.score)} ({written(low)}-{written(high)})"


# ---------------------------------------------------------------- cost


def _cost_table(group: Sequence[Scored]) -> Table:
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


def _epoch_seconds(entry: Entry) -> list[float]:
    """Of each epoch, from `<checkpoint>.json` where it is a record of this very training; else empty.

    A relative path is looked up from here, then from the folders above the result file.
    """
    weight = Path(entry.record["target_weight"])
    for folder in (Path(), *entry.file.resolve().parents[:3]):
        record = read_record(folder / weight) or {}
        if entry.training is not None and record.get("settings") == entry.training:
            return [epoch["seconds"] for epoch in record.get("epochs", [])]
    return []


# ---------------------------------------------------------------- transfer


def _transfer_tables(scored: Sequence[Scored]) -> list[Table]:
    """For each data set, attack and eps where some source is not the target: sources in rows, targets in columns."""
    tables = []
    for _, same in groupby(sorted(scored, key=_arena), key=_arena):
        arena = list(same)
        rivals = [one for one in scored if one.entry.dataset == arena[0].entry.dataset]
        names = network_names([one.entry for one in rivals])
        where = _conditions(arena[0].entry) if len(set(map(_arena, rivals))) > 1 else ""
        transferred = {column for one in arena if one.entry.source != one.entry.target for column in one.values}
        for column, head in columns(arena).items():
            if column in transferred and column.attack != CLEAN:
                tables.append(_matrix(arena, column, head, names, where))
    return tables


def _arena(one: Scored) -> tuple[str, tuple[str, ...]]:
    """Results that may stand in one matrix: of one data set, the same images, size and seed."""
    return one.entry.dataset, one.entry.tested


def _conditions(entry: Entry) -> str:
    seed, size, _, digest, pixels = entry.tested
    return f" (seed {seed}, size {size}, list {digest[:8]}, pixels {pixels})"


def _matrix(arena: Sequence[Scored], column: Column, head: str, names: dict[str, str], where: str) -> Table:
    """One attack at one eps; the last row holds the targets' clean scores."""
    involved = [one for one in arena if column in one.values]
    met = {one.entry.target for one in involved}
    targets = [sha for sha in names if sha in met]
    entry = involved[0].entry
    score_name = _DEFAULT[entry.kind][0]
    lines: list[tuple[str, list[Value | None]]] = [
        (name, [cells[target].get(column, score_name) if target in cells else None for target in targets])
        for name, cells in _by_source(involved, names)
    ]
    lines.append(("none: clean", [_clean(arena, target, score_name) for target in targets]))
    values = [line for _, line in lines]
    written = _writer(_is_percent(score_name, values))
    rows = tuple(tuple(map(Cell, (name, *(_text(value, written) for value in line)))) for name, line in lines)
    title = (
        f"{entry.dataset}: transfer of {head}, source (rows) to target (columns); {_measure(score_name, values)} of the"
        f" target on {entry.images} images{where}"
    )
    return Table(title, ("source", *(names[target] for target in targets)), rows)


def _by_source(involved: Sequence[Scored], names: dict[str, str]) -> list[tuple[str, dict[str, Scored]]]:
    """Rows of a matrix: the source's name, and the results by target. A pair's second result gets a row of its own."""
    lines: dict[tuple[str, int], dict[str, Scored]] = {}
    for one in involved:
        source, target = one.entry.source, one.entry.target
        number = next(number for number in count() if target not in lines.get((source, number), {}))
        lines.setdefault((source, number), {})[target] = one
    order = list(names)
    named = []
    for source, number in sorted(lines, key=lambda at: (order.index(at[0]) if at[0] in order else len(order), at)):
        cells = lines[source, number]
        name = names.get(source) or _source_name(next(iter(cells.values())).entry)
        again = ", ".join(str(one.entry.file) for one in cells.values())
        named.append((f"{name} (again: {again})" if number else name, cells))
    return named


def _source_name(entry: Entry) -> str:
    """Of a network that no result is of as a target: what is known of it is its file."""
    return f"{entry.record['source_model']} {Path(entry.record['source_weight']).name} (weights {entry.source[:8]})"


def _clean(arena: Sequence[Scored], target: str, name: str) -> Value | None:
    found = (
        scores.get(name)
        for one in arena
        for column, scores in one.values.items()
        if one.entry.target == target and column.attack == CLEAN
    )
    return next(found, None)


# ---------------------------------------------------------------- curves


def _curves(group: Sequence[Scored]) -> list[Curve]:
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
