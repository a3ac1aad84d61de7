"""The survey's tables and curves, from result files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from advmia.errors import UserError
from advmia.results.cells import Values, score_cells, score_of, seeds_notes
from advmia.results.costs import cost_table
from advmia.results.differences import caption_facts, identity_columns, run_names
from advmia.results.layout import Cell, Table
from advmia.results.long import long_form
from advmia.results.planned import PlannedTest, untested_table, with_planned
from advmia.results.plots import Picture, curves_of, plot_curves
from advmia.results.read import RunRecord, read_records
from advmia.results.render import EXTENSIONS, LONG, render_tables
from advmia.results.rows import is_bounded
from advmia.results.scored import ScoredRun, column_heads, positives_of, score_run
from advmia.results.scores import MAIN_SCORES, SCORES
from advmia.results.seeds import group_seeds
from advmia.results.transfer import transfer_tables
from advmia.runtime.files import write_text
from advmia.tasks import MULTI_LABEL

_BY = "by attack and eps (grey levels out of 255)"
_NOT_COMPARABLE = (
    "Rows differ in what they were tested on: the best is marked among rows of the same images, size and seed."
)


def write_tables(
    paths: Sequence[Path],
    out: Path | None,
    *,
    form: str = "md",
    scores: Sequence[str] = (),
    per_seed: bool = False,
    planned: Sequence[PlannedTest] = (),
) -> str:
    """Makes all tables from the result files at `paths`, and returns the text for the terminal.

    Without `out` that is the tables in the format `form`, one of `EXTENSIONS`. With `out` it is the tables as Markdown;
    `<out>/tables.<extension>` has them in the format `form`, and `<out>/<dataset>__<model>.png` and `.pdf` show the
    curves over eps. `scores` names further scores, which get tables too.
    `per_seed`: whether trainings that are equal but for their seed are shown each by itself, not averaged. `planned`:
    tests that a sweep has yet to run, or has run; see `make_tables`.
    """
    runs = [score_run(record) for record in read_records(paths)]
    runs = runs if per_seed else group_seeds(runs)
    tables = make_tables(runs, scores, planned=planned)
    text = long_form(runs) if form == LONG else render_tables(tables, form)
    if out is None:
        return text
    write_text(out / f"tables.{EXTENSIONS[form]}", text)
    for group in white_box_groups(runs):
        first = group[0].record
        stem = re.sub(r"[^\w\[\] .-]", "-", f"{first.dataset}__{first.model}")  # no data set's name leaves the folder
        images = " or ".join(dict.fromkeys(str(run.record.images) for run in group))
        score = first.task.selection
        title = f"{first.dataset}, {first.model}: {images} images"
        plot_curves(curves_of(group, score), Picture(title, SCORES[score]), out / stem)
    return render_tables(tables, "md")


def make_tables(
    runs: Sequence[ScoredRun],
    scores: Sequence[str] = (),
    *,
    costs: bool = True,
    planned: Sequence[PlannedTest] = (),
) -> list[Table]:
    """Returns all tables: scores, findings and costs by data set and model, then the transfer attacks.

    `scores` names scores that get tables beside the main ones. `costs`: whether there are tables of costs.
    `planned`: those of these tests that have no results yet have rows without numbers. Raises `UserError` for a score
    that no run has.
    """
    check_scores(runs, scores)
    tables = []
    for group in white_box_groups(runs):
        task = group[0].record.task
        further = [name for name in scores if name in score_names(group)]
        for name in dict.fromkeys([*MAIN_SCORES[task.name], *further]):
            tables.append(with_planned(score_table(group, name), _records(group), planned))
        if task is MULTI_LABEL:
            tables.append(finding_table(group))
        if costs:
            tables.append(cost_table(_records(group)))
    tables += transfer_tables(runs)
    untested = untested_table([run.record for run in runs if not run.record.is_transfer], planned)
    return [*tables, untested] if untested else tables


def check_scores(runs: Sequence[ScoredRun], scores: Sequence[str]) -> None:
    """Raises `UserError` for a score of --scores that no run has."""
    available = score_names(runs)
    for name in scores:
        if name not in available:
            raise UserError(f"--scores {name}: no result file has this score; choose from {', '.join(available)}")


def white_box_groups(runs: Iterable[ScoredRun]) -> list[list[ScoredRun]]:
    """Returns the runs whose adversarial images were made on the target itself, by data set and model."""
    groups = defaultdict(list)
    for run in runs:
        if not run.record.is_transfer:
            groups[run.record.dataset, run.record.model].append(run)
    return list(groups.values())


def _records(group: Sequence[ScoredRun]) -> list[RunRecord]:
    return [run.record for run in group]


def score_names(runs: Sequence[ScoredRun]) -> list[str]:
    """Returns the names of all scores in the runs, in the order of the files."""
    return list(dict.fromkeys(name for run in runs for scores in run.values.values() for name in scores))


def score_table(group: Sequence[ScoredRun], name: str) -> Table:
    """Returns the table of one score: methods in rows, attacks and eps in columns."""
    columns = column_heads(group)
    values = [[run.get(column, name) for column in columns] for run in group]
    score = score_of(name, values)
    heads, identities = identity_columns(_records(group))
    warnings = _warnings(group)
    cells, legend = score_cells(values, [run.record.conditions for run in group], score, list(map(bool, warnings)))
    rows = tuple(
        (*map(Cell, identity), Cell.of(run.record.images), *numbers)
        for run, identity, numbers in zip(group, identities, cells, strict=True)
    )
    title = f"{group[0].record.dataset}, {group[0].record.model}: {score.heading}, {_BY}"
    header, notes = (*heads, "images", *columns.values()), _notes(group, values)
    facts = caption_facts(_records(group))
    return Table(title, header, rows, notes, tuple(warnings), _footnotes(group, warnings), legend, facts)


def finding_table(group: Sequence[ScoredRun]) -> Table:
    """Returns the table of each finding's AUROC, with a row for each method."""
    columns = column_heads(group)
    heads, identities = identity_columns(_records(group))
    positives = [{name: int(labels.sum()) for name, labels in positives_of(run.record).items()} for run in group]
    findings = dict.fromkeys(finding for counts in positives for finding in counts)
    lines = [(finding, row, run) for finding in findings for row, run in enumerate(group) if finding in positives[row]]
    values = [[run.get(column, finding) for column in columns] for finding, _, run in lines]
    comparable = [(finding, run.record.conditions) for finding, _, run in lines]
    warnings = _warnings(group)
    cells, legend = score_cells(values, comparable, SCORES["auroc"], [bool(warnings[row]) for _, row, _ in lines])
    rows = tuple(
        (Cell(finding), Cell.of(positives[row][finding]), *map(Cell, identities[row]), *numbers)
        for (finding, row, _), numbers in zip(lines, cells, strict=True)
    )
    first = group[0].record
    title = f"{first.dataset}, {first.model}: AUROC by finding in percent (95 % bootstrap interval), {_BY}"
    header = ("finding", "positive images", *heads, *columns.values())
    by_row = tuple(warnings[row] for _, row, _ in lines)
    facts, notes = caption_facts(_records(group)), _notes(group, values)
    return Table(title, header, rows, notes, by_row, _footnotes(group, warnings), legend, facts)


def _warnings(group: Sequence[ScoredRun]) -> list[str]:
    """Returns for each run what its checks warn of, "" for nothing."""
    return ["; ".join(run.record.warnings) for run in group]


def _footnotes(group: Sequence[ScoredRun], warnings: Sequence[str]) -> tuple[str, ...]:
    """Returns for each run with warnings its name and the warnings."""
    names = run_names(_records(group))
    return tuple(f"{name}: {warning}" for name, warning in zip(names, warnings, strict=True) if warning)


def _notes(group: Sequence[ScoredRun], values: Values) -> tuple[str, ...]:
    """Returns the lines beneath a table with these values."""
    notes = list(seeds_notes(value for row in values for value in row))
    notes += [_NOT_COMPARABLE] if len({run.record.conditions for run in group}) > 1 else []
    attacks = dict.fromkeys(column.attack for column in column_heads(group))
    notes += [f"{attack}'s eps is the length of a step, not a bound." for attack in attacks if not is_bounded(attack)]
    made_of = dict.fromkeys(column.attacks for column in column_heads(group) if column.attacks)
    each = "image and finding" if group[0].record.task is MULTI_LABEL else "image"
    notes += [f"worst: for each {each}, the worst of {', '.join(names[:-1])} and {names[-1]}." for names in made_of]
    return (*notes, *dict.fromkeys(run.note for run in group if run.note))
