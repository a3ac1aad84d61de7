"""Warnings travel with the numbers: into tables of every format, the pictures and the CSV of a test."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

from advmia.errors import UserError
from advmia.results.plots import curves_of
from advmia.results.read import read_records, read_results
from advmia.results.scored import score_run
from advmia.results.tables import write_tables
from advmia.results.write import ResultFile
from tests.results.examples import EXAMPLES, NAT, PGDAT, TRANSFER, example, save, table_of, with_hits

REASON = "outputs that differ by less than 0.001 from the image before at 9 of 14 images: a constant"
CHECKS = [
    {"check": "saturation", "verdict": "warning", "reason": REASON},
    {"check": "mode", "verdict": "ok", "reason": "all submodules were in eval mode"},
]
WORDS = f"saturation: {REASON}"


def warned(name: str, **more: Any) -> dict[str, Any]:
    return example(name) | {"reliability": CHECKS} | more


def test_tables_of_every_format(tmp_path: Path) -> None:
    """Fails if a row with a warning has a cell without a mark, one in bold or no footnote in words, in any format, or
    if a row without a warning has a mark."""
    save(tmp_path, "nat", example(NAT))
    save(tmp_path, "pgdat", warned(PGDAT))
    markdown = write_tables([tmp_path], None)
    rows = table_of(markdown, "mv2: accuracy")[1:]
    assert [row[0] for row in rows] == ["nat", "pgdat 8"]
    assert not any("†" in cell for cell in rows[0])
    assert all(cell.endswith(" †") and "**" not in cell for cell in rows[1][2:]) and "†" not in rows[1][1]
    assert f"\n† pgdat 8: {WORDS}\n" in markdown
    for text in ("mode: all", "AUROC"):
        assert text not in markdown

    latex = write_tables([tmp_path], None, form="latex")
    line = next(line for line in latex.splitlines() if line.startswith("pgdat 8 & 15 & 86.7"))
    assert line.count(r"\dag{}") == line.count("&") - 1 and "bfseries" not in line
    assert rf"\dag{{}} pgdat 8: {WORDS}\par" in latex

    lines = list(csv.reader(io.StringIO(write_tables([tmp_path], None, form="csv"))))
    assert lines[1][-1] == "warnings" and [line[-1] for line in lines[2:4]] == ["", WORDS]
    assert not any("†" in cell for line in lines for cell in line)


def test_the_best_is_among_the_others(tmp_path: Path) -> None:
    """Fails if a row of which a check warns is the best, or hides which of the others is."""
    for name, source, warns, hits in (("a", NAT, False, 1), ("b", PGDAT, True, 12), ("c", PGDAT, False, 9)):
        content = warned(source) if warns else example(source)
        save(tmp_path, name, with_hits(content, [image < hits for image in range(15)]))
    cells = [row[-1] for row in table_of(write_tables([tmp_path], None), "mv2: accuracy")[1:]]
    assert sorted(cell.startswith("**") for cell in cells) == [False, False, True]
    assert next(cell for cell in cells if cell.startswith("**")).startswith("**60.0")


def test_findings_and_transfer(tmp_path: Path) -> None:
    """Fails if the warning of a finding's row, or of a cell of the transfer table, is lost or given to another."""
    name = "xray_multilabel__MobileNetV2_xray_multilabel_nat_class14_maxLR0.01_weightDecay0.001"
    save(tmp_path / "x", "a", warned(name))
    text = write_tables([tmp_path / "x"], None)
    rows = table_of(text, "AUROC by finding")[1:]
    assert all(cell.endswith("†") for row in rows for cell in row[3:]) and "**" not in text
    assert text.count(f"\n† nat: {WORDS}\n") == 2  # the mean, and the findings

    save(tmp_path / "y", "a", example(NAT))
    save(tmp_path / "y", "b", example(PGDAT))
    save(tmp_path / "y", "c", warned(TRANSFER))
    text = write_tables([tmp_path / "y"], None)
    marked = {row[0]: [cell.endswith("†") for cell in row[1:]] for row in table_of(text, "transfer of pgd 8")[1:]}
    assert marked == {"mv2 nat": [False, True], "mv2 pgdat 8": [False, False], "none: clean": [False, False]}
    assert f"\n† mv2 nat to mv2 pgdat 8: {WORDS}\n" in text
    lines = list(csv.reader(io.StringIO(write_tables([tmp_path / "y"], None, form="csv"))))
    transfer = next(number for number, line in enumerate(lines) if line and "transfer of pgd 8" in line[0])
    assert [line[-1] for line in lines[transfer + 1 : transfer + 3]] == ["warnings", f"to mv2 pgdat 8: {WORDS}"]


def test_footnotes_of_one_method(tmp_path: Path) -> None:
    """Fails if the footnotes of two tests of one network, which differ in their images only, have the same name."""
    save(tmp_path, "a", warned(NAT))
    fewer = warned(NAT)
    for row in fewer["rows"]:
        row |= {"n": 5, "outcomes": row["outcomes"][:5], "notes": {}, "scores": {"accuracy": 0.6}}
    save(tmp_path, "b", fewer)
    text = write_tables([tmp_path], None)
    assert [row[1] for row in table_of(text, "mv2: accuracy")[1:]] == ["15", "5"]
    assert re.findall(r"^† (nat.*?): saturation", text, re.M) == ["nat (15 images)", "nat (5 images)"]


def test_a_test_that_was_stopped(tmp_path: Path) -> None:
    """Fails if the numbers of a test that has not reached its checks look like checked ones."""
    content = example(PGDAT) | {"finished": False}
    record = read_results(save(tmp_path, "a", content))
    assert record.is_unfinished and re.match("unfinished: .* not checked", record.warnings[0])
    assert "† pgdat 8: unfinished: " in write_tables([tmp_path], None)
    assert not read_results(save(tmp_path, "b", content | {"finished": True})).warnings


def test_curves(tmp_path: Path) -> None:
    """Fails if the curve of a network with a warning, or of an unfinished test, looks like the others."""
    save(tmp_path, "a", example(NAT) | {"base_rate": {"score": 0.6, "answer": "class 1 for every image"}})
    save(tmp_path, "b", warned(PGDAT))
    curves = curves_of([score_run(record) for record in read_records([tmp_path])], "accuracy")
    assert [(curve.warned, curve.label) for curve in curves] == [(False, "nat"), (True, "pgdat 8 (warning)")]
    labels = example(PGDAT)["samples"]["label"]
    assert [curve.guessing for curve in curves] == [60, 100 * max(labels.count(0), labels.count(1)) / len(labels)]
    save(tmp_path, "b", example(PGDAT) | {"finished": False})
    curves = curves_of([score_run(record) for record in read_records([tmp_path])], "accuracy")
    assert curves[1].label == "pgdat 8 (unfinished)" and curves[1].unfinished and curves[1].warned


def test_the_csv_of_a_test(tmp_path: Path) -> None:
    """Fails if a line of a result CSV lacks what the checks at the end of the run have found."""
    record = read_results(EXAMPLES / "results" / f"{NAT}.json")
    facts = {name: record.content[name] for name in ("dataset", "target_model", "target_weight")}
    results = ResultFile(tmp_path / "x", facts, ("accuracy",), record.run, {"finished": False}, list(record.rows))
    results.save()
    assert "unfinished: " in results.csv_path.read_text().splitlines()[-1]
    results.details |= {"finished": True, "reliability": CHECKS}
    results.save()
    with results.csv_path.open(newline="") as file:
        assert [row["warnings"] for row in csv.DictReader(file)] == [WORDS] * len(record.rows)


@pytest.mark.parametrize("fact", [{"reliability": [{"check": "mode"}]}, {"reliability": [1]}, {"base_rate": {}}])
def test_damaged_checks(fact: dict[str, Any], tmp_path: Path) -> None:
    """Fails if checks that cannot be read end in a traceback, or are dropped without a word."""
    with pytest.raises(UserError, match="is damaged"):
        read_results(save(tmp_path, "x", example(NAT) | fact))
