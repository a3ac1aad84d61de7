"""The images of all results, one by one, as compact data for the page's script.

Images that several files have in common are held once. Of single labels, the class of each image is one character of a
text, so that 25,000 images under ten attacks take a quarter of a megabyte.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from advmia.report.blocks import Browser, Paragraph, Section
from advmia.report.source import Source, class_names, samples_of
from advmia.results.read import RunRecord
from advmia.results.rows import CLEAN, ResultRow
from advmia.results.scored import Column, ScoredRun, column_heads, findings_of
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL

DIGITS = string.digits + string.ascii_letters  # a class each; with more classes, lists of numbers are written
_AUTO_ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")  # the numbers of AutoAttack's note `fooled_by`
_QUERIES = "queries"  # of an attack without gradients, the note of how many each image took
_MARGIN = "margin"  # of single labels, the note of the label's logit minus the highest other one
_WORDS = {
    SINGLE_LABEL.name: "An image is fooled if its class is right clean and wrong under the attack. Its margin is the"
    " logit of its label minus the highest other one: the lower, the nearer it is to an error, and below 0 it is one.",
    MULTI_LABEL.name: "Findings are predicted where their logit is above 0 (a probability of 0.5). An image is fooled"
    " if the attack changes which findings are predicted.",
    SEGMENTATION.name: "An image is fooled if its Dice is at least 0.5 clean and below 0.5 under the attack.",
}


def browser_section(source: Source) -> tuple[Section, dict[str, Any]] | None:
    """Returns the section of the browser, and the data that its script reads; None where no file names its images.

    Data: `sets`, lists of images: `files`, `task`, `labels`, and `names` of classes or findings. `runs`: `name`, the
    number of its `set`, and `rows`: `head`, `attack` (with its restarts), `eps`, `o` (outcomes), `by` (which attack it
    was, of attacks that consist of several), `queries` and `margin`.
    """
    sets: list[dict[str, Any]] = []
    numbers: dict[object, int] = {}
    runs = []
    for run in source.files:
        record = run.record
        files, labels = samples_of(record, "file"), samples_of(record, "label")
        if not files or not labels:
            continue
        key = (record.dataset, record.task.name, *record.conditions[2:], tuple(files))
        if key not in numbers:
            numbers[key] = len(sets)
            sets.append(_images(record, files, labels))
        runs.append({"name": source.names[record.file_name], "set": numbers[key], "rows": _rows(run)})
    if not runs:
        return None
    tasks = dict.fromkeys(run.record.task.name for run in source.files)
    paragraphs = [Paragraph(_WORDS[task]) for task in tasks]
    return Section("images", "Images one by one", (*paragraphs, Browser())), {"sets": sets, "runs": runs}


def _images(record: RunRecord, files: Sequence[Any], labels: Sequence[Any]) -> dict[str, Any]:
    """Returns the images of a list."""
    images: dict[str, Any] = {"task": record.task.name, "data": record.dataset, "files": list(map(str, files))}
    if record.task is SINGLE_LABEL:
        outcomes = [max(row.outcomes) for row in record.rows]
        return images | {"labels": _classes(labels), "names": class_names(record, max(*labels, *outcomes) + 1)}
    if record.task is MULTI_LABEL:
        return images | {"labels": [_present(line) for line in np.array(labels) > 0.5], "names": findings_of(record)}
    return images


def _rows(run: ScoredRun) -> list[dict[str, Any]]:
    """Returns the rows of a file, the clean one first."""
    heads = column_heads([run])
    rows = []
    for row in sorted(run.record.rows, key=lambda row: Column.of(row).order()):
        found: dict[str, Any] = {"head": heads[Column.of(row)], "attack": row.label, "eps": row.grey_eps}
        found["attack"] += " (8 bits)" if row.eight_bits else ""
        found["o"] = _OUTCOMES[run.record.task.name](row.outcomes)
        by = _attack_of_each(row)
        found |= {"by": by} if by and row.attack != CLEAN else {}
        for note in (_QUERIES, _MARGIN):
            values = row.notes.get(note, [])
            found |= {note: [_short(value) for value in values]} if len(values) == row.n else {}
        rows.append(found)
    return rows


def _short(value: float) -> float:
    """Returns a number with four digits, or a whole one as it is."""
    return value if isinstance(value, int) else float(f"{value:.4g}")


def _attack_of_each(row: ResultRow) -> dict[str, Any]:
    """Returns which attack each image's outcome is of: `names`, and a list `of` numbers, -1 for none.

    It is known of `worst` and of AutoAttack; {} for other attacks.
    """
    for note, names in (("attack", row.attacks), ("fooled_by", _AUTO_ATTACKS)):
        numbers = row.notes.get(note, [])
        if len(numbers) == row.n and names:
            return {"names": list(names), "of": numbers}
    return {}


def _classes(classes: Sequence[int]) -> str | list[int]:
    """Returns the classes as one text, a digit for each; as they are if there are too many of them."""
    if all(isinstance(number, int) and 0 <= number < len(DIGITS) for number in classes):
        return "".join(DIGITS[number] for number in classes)
    return list(classes)


def _findings(outcomes: Sequence[Sequence[float]]) -> list[str]:
    return [_present(line) for line in np.array(outcomes, dtype=np.float64) > 0]


def _present(line: np.ndarray) -> str:
    """Returns the numbers of the findings that are present, e.g. `0 3`."""
    return " ".join(map(str, np.flatnonzero(line).tolist()))


def _dice(outcomes: Sequence[Sequence[float]]) -> list[int]:
    """Returns the Dice of each image in thousandths."""
    return [round(1000 * outcome[0]) for outcome in outcomes]


_OUTCOMES: dict[str, Any] = {SINGLE_LABEL.name: _classes, MULTI_LABEL.name: _findings, SEGMENTATION.name: _dice}
