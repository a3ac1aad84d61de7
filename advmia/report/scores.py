"""The sections of scores: tables, curves, findings, masks, transfer, and the strongest attack at each eps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from advmia.report.blocks import Block, Chart, Grid, Section, folded
from advmia.report.charts import Line, Panel, draw
from advmia.report.source import Source, attack_columns, main_score
from advmia.results.cells import cell_text
from advmia.results.differences import run_names
from advmia.results.layout import Cell, Table
from advmia.results.plots import Curve, curves_of
from advmia.results.rows import CLEAN, WORST, is_bounded
from advmia.results.scored import Column, ScoredRun, column_heads
from advmia.results.scores import MAIN_SCORES, SCORES, Score
from advmia.results.tables import check_scores, finding_table, score_names, score_table
from advmia.results.transfer import transfer_tables
from advmia.tasks import MULTI_LABEL, SEGMENTATION

CURVES_PER_CHART = 7  # as many as there are colours
CHARTS_SHOWN, MATRICES_SHOWN = 6, 6  # the others are folded
# Scores of masks that get tables without being named in --scores.
MASK_SCORES = ("foreground_dice", "hd95", "surface_distance")
SHADES = 10


def tables_section(source: Source) -> Section:
    """Returns the section of the tables of scores. Raises `UserError` for a score of --scores that no run has."""
    check_scores(source.rows, source.options.scores)
    further = ["--scores", *source.options.scores] if source.options.scores else []
    command = source.command("tables", *further)
    grids = []
    for group in source.groups:
        own = [name for name in source.options.scores if name in score_names(group)]
        names = dict.fromkeys([*MAIN_SCORES[group[0].record.task.name], *own])
        grids += [Grid(score_table(group, name), command) for name in names]
    return Section("tables", "Scores", tuple(grids))


def curves_section(source: Source) -> Section:
    """Returns the section of the curves over eps, a chart for each group of white-box results."""
    charts: list[tuple[str, tuple[Block, ...]]] = []
    for group in source.groups:
        record = group[0].record
        score = SCORES[record.task.selection]
        found = curves_of(group, record.task.selection)
        for start in range(0, len(found), CURVES_PER_CHART):
            some = found[start : start + CURVES_PER_CHART]
            title = f"{record.dataset}, {record.model}"
            if len(found) > len(some):
                title += f", rows {start + 1} to {start + len(some)} of {len(found)}"
            chart = _curves_chart(title, some, score)
            charts += [(title, (chart,))] if chart else []
    return Section("curves", "Curves over eps", folded(charts, CHARTS_SHOWN))


def _curves_chart(title: str, found: Sequence[Curve], score: Score) -> Chart | None:
    """Returns a panel for each attack, with a line for each network; None where there is no attack."""
    attacks = dict.fromkeys(attack for curve in found for attack in curve.points)
    panels = []
    for attack in attacks:
        shown = [(number, curve) for number, curve in enumerate(found) if curve.points.get(attack)]
        lines = [
            Line(
                number,
                curve.label,
                tuple((point.grey_eps, point.score, point.low, point.high) for point in curve.points[attack]),
                dashed=curve.warned,
            )
            for number, curve in shown
        ]
        top = 103.0 if score.percent else 1.03
        panel = Panel(
            attack if is_bounded(attack) else f"{attack} (eps: a step, no bound)",
            "eps (grey levels out of 255)",
            f"{score.label} (%)" if score.percent else score.label,
            y_range=(-0.03 * top, top),
            levels=tuple(sorted({curve.guessing for _, curve in shown if curve.guessing is not None})),
            is_shifted=True,
        )
        panels.append(draw(panel, lines))
    legend = tuple((number, curve.label, curve.warned) for number, curve in enumerate(found))
    notes = ["Bars: 95 % confidence interval; of several seeds, one standard deviation. Lines at one eps are shifted."]
    if any(curve.guessing is not None for curve in found):
        notes.append("Dotted: the same answer for every image.")
    if any(curve.warned for curve in found):
        notes.append("Dashed: a check warns of these scores.")
    caption = f"{title}: {score.label} under each attack"
    return Chart(caption, tuple(panels), legend, (" ".join(notes),)) if panels else None


def findings_section(source: Source) -> Section | None:
    """Returns the section of the AUROC of each finding; None without findings."""
    groups = [group for group in source.groups if group[0].record.task is MULTI_LABEL]
    grids = tuple(Grid(finding_table(group), source.command("tables")) for group in groups)
    return Section("findings", "Findings", grids) if grids else None


def masks_section(source: Source) -> Section | None:
    """Returns the section of further scores of masks: of the foreground, of each class, of outlines; None without."""
    grids = []
    for group in source.groups:
        if group[0].record.task is not SEGMENTATION:
            continue
        known = score_names(group)
        classes = [name for name in known if name.startswith("dice ")]
        shown = [name for name in (*MASK_SCORES, *classes) if name in known and name not in source.options.scores]
        grids += [Grid(score_table(group, name), source.command("tables", "--scores", name)) for name in shown]
    return Section("masks", "Masks", tuple(grids)) if grids else None


def transfer_section(source: Source) -> Section | None:
    """Returns the section of the transfer matrices as heat maps; None where no attack was made on another network."""
    grids: list[tuple[str, tuple[Block, ...]]] = []
    for table in transfer_tables(source.rows):
        note = "The darker a cell, the more the target gets right. Where source and target are one: white-box."
        whole = 100.0 if " in percent" in table.title else 1.0  # of a score
        shades = tuple((None, *(_shade(cell, whole) for cell in row[1:])) for row in table.rows)
        grid = Grid(replace(table, notes=(note, *table.notes)), source.command("tables"), shades)
        grids.append((table.title, (grid,)))
    return Section("transfer", "Transfer between networks", folded(grids, MATRICES_SHOWN)) if grids else None


def _shade(cell: Cell, whole: float) -> int | None:
    """Returns the shade of a score, of which `whole` is the highest; None for a cell without one."""
    if not cell.number:
        return None
    return min(SHADES - 1, max(0, int(float(cell.number) / whole * SHADES)))


def strongest_section(source: Source) -> Section | None:
    """Returns the section of the strongest attack on each network at each eps, and how much it takes."""
    grids = []
    for group in source.groups:
        names = run_names([run.record for run in group])
        rows = [row for run, name in zip(group, names, strict=True) for row in _strongest_rows(run, name)]
        if rows:
            first = group[0].record
            score = SCORES[main_score(first)]
            unit = " in percent" if score.percent else ""
            title = f"{first.dataset}, {first.model}: the strongest attack at each eps, by {score.label}{unit}"
            header = ("network", "eps", "strongest attack", "clean", "under it", "drop", "worst of all attacks")
            width = len(header) if any(row[-1].text for row in rows) else len(header) - 1
            note = "Drop: the clean score minus that under the strongest attack, of those that stay within eps."
            grids.append(Grid(Table(title, header[:width], tuple(row[:width] for row in rows), (note,))))
    return Section("strongest", "Strongest attacks", tuple(grids)) if grids else None


def _strongest_rows(run: ScoredRun, name: str) -> list[tuple[Cell, ...]]:
    """Returns a row for each eps."""
    score_name = main_score(run.record)
    score, warned = SCORES[score_name], bool(run.record.warnings)
    heads = column_heads([run])
    clean = next((run.get(column, score_name) for column in run.values if column.attack == CLEAN), None)
    rows = []
    for grey_eps, columns in attack_columns([run]).items():
        column = lowest(run, columns, score_name)
        value = run.get(column, score_name) if column else None
        if column is None or value is None:
            continue
        of_worst = [other for other in run.values if (other.attack, other.grey_eps) == (WORST, grey_eps)]
        worst = next((run.get(other, score_name) for other in of_worst), None)
        drop = "" if clean is None or math.isnan(clean.score) else score.number(clean.score - value.score)
        head = heads[column].replace(f" {grey_eps:g}", "", 1)
        numbers = (cell_text(clean, score), cell_text(value, score), drop, cell_text(worst, score))
        rows.append((Cell(name), Cell(f"{grey_eps:g}"), Cell(head), *(_marked(text, warned) for text in numbers)))
    return rows


def _marked(text: str, warned: bool) -> Cell:
    return Cell(text, warned=warned and bool(text))


def lowest(run: ScoredRun, columns: Iterable[Column], score_name: str) -> Column | None:
    """Returns the column with a run's lowest score, the first of equal ones; None where none is defined."""
    scores = {column: value.score for column in columns if (value := run.get(column, score_name)) is not None}
    defined = {column: score for column, score in scores.items() if not math.isnan(score)}
    return min(defined, key=lambda column: defined[column], default=None)
