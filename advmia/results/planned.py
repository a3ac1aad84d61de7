"""Networks that a sweep plans to test: in the tables of half a sweep, they have rows without numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from advmia.errors import UserError
from advmia.models import shown_name
from advmia.results.layout import Cell, Table
from advmia.results.read import RunRecord
from advmia.runtime.files import read_json_object

_NOT_TESTED = "A row without numbers: a network of the sweep that is not tested yet."


@dataclass(frozen=True)
class PlannedTest:
    """A network that is to be tested by its own adversarial images, as the rows of tables name it."""

    dataset: str
    model: str
    method: str  # with the eps of the training, e.g. `pgdat 8`

    def is_of_table(self, record: RunRecord) -> bool:
        """Returns whether its results will be in the table that has those of `record`."""
        name, _, _ = record.dataset.partition("[")  # without a mark such as `[phantom]`
        return (self.dataset, self.model) == (name, record.model)


def read_planned(path: Path) -> list[PlannedTest]:
    """Returns the networks that the plan of a sweep tests. Raises `UserError` if the file is no such plan."""
    try:
        steps = [step for step in (read_json_object(path) or {})["steps"] if step["kind"] == "test"]
        return [
            PlannedTest(step["dataset"], shown_name(step["model"]), step["method"])
            for step in steps
            if not step["source"]
        ]
    except (KeyError, TypeError):
        raise UserError(f"{path} is no plan of a sweep: expected the plan.json of its folder") from None


def with_planned(table: Table, tested: Sequence[RunRecord], planned: Iterable[PlannedTest]) -> Table:
    """Returns the table of the runs `tested` with a row for each method of `planned` that has none yet."""
    methods = {record.method for record in tested}
    missing = dict.fromkeys(
        test.method for test in planned if test.is_of_table(tested[0]) and test.method not in methods
    )
    if not missing:
        return table
    rows = tuple((Cell(method), *(Cell() for _ in table.header[1:])) for method in missing)
    warnings = (*table.warnings, *("" for _ in rows)) if table.warnings else ()
    return replace(table, rows=table.rows + rows, warnings=warnings, notes=(*table.notes, _NOT_TESTED))


def untested_table(runs: Sequence[RunRecord], planned: Iterable[PlannedTest]) -> Table | None:
    """Returns the table of those planned tests of whose data set and model there are no results yet; None if none."""
    untested: dict[tuple[str, str], dict[str, None]] = {}
    for test in planned:
        if not any(test.is_of_table(run) for run in runs):
            untested.setdefault((test.dataset, test.model), {})[test.method] = None
    rows = tuple(
        (Cell(dataset), Cell(model), Cell(", ".join(methods))) for (dataset, model), methods in untested.items()
    )
    return Table("Not tested yet", ("data set", "network", "methods"), rows) if rows else None
