"""File names that a spreadsheet would compute, locales, time zones and clocks."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import subprocess
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from advmia.runtime.files import csv_text
from tests.support.faults import (
    TABLES,
    TEST,
    TRAIN,
    VISUAL,
    RunHere,
    environment,
    lines_without_seconds,
    run_process,
)
from tests.support.spoiling import LISTS, replace_line


def test_cells() -> None:
    """Fails if a spreadsheet would compute a cell, or if a number or a harmless text is changed."""
    escaped = ["=1+1", "+1 (a)", "-cmd", "@SUM(A1)", "\t=1", "\r=1"]
    unchanged = ["-0.25", "+1e-3", "a=1", -1, ""]
    expected = [f"'{cell}" for cell in escaped] + [str(cell) for cell in unchanged]
    assert next(csv.reader(io.StringIO(csv_text([[*escaped, *unchanged]]), newline=""))) == expected


@pytest.mark.slow
def test_no_formula_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch, run_here: RunHere) -> None:
    """Fails if the name of an image or a checkpoint is a formula in any CSV file. The JSON record keeps the name."""
    monkeypatch.chdir(folder)
    name = "=a$\\b{$\udcff"  # neither UTF-8 nor a formula that Matplotlib can read
    image = "=image$\\c{$.jpg"
    replace_line(f"{LISTS}/testbin.csv", 1, f"{image},0")(folder)
    images = folder / LISTS / "img"
    images.joinpath(image).write_bytes(next(iter(sorted(images.iterdir()))).read_bytes())
    (folder / name).symlink_to(folder / "weights" / "mv2")

    test = f"{TEST} --targetWeight {shlex.quote(name)} --resultDir formulas"
    for command in (test, f"{VISUAL} --weight {shlex.quote(name)}", f"{TABLES} formulas --format csv --out formulas"):
        status, stderr = run_here(command)
        assert status == 0, stderr
    for path in (f"formulas/melBin__{name}.csv", "new/gradVisual.csv", "formulas/tables.csv"):
        with (folder / path).open(newline="") as file:
            cells = [cell for line in csv.reader(file) for cell in line]
        assert any(cell.startswith("'=") for cell in cells), path
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "\r"))], path
    record = json.loads((folder / "formulas" / f"melBin__{name}.json").read_text())
    assert (record["target_weight"], record["samples"]["file"][0]) == (name, image)
    assert "2 rows are in" in run_here(test)[1]  # what is read back still fits: nothing is attacked again


def make_locales(folder: Path) -> None:
    """Makes Turkish and German in a folder, where the system can; elsewhere their names have no effect."""
    for name in ("tr_TR", "de_DE"):
        with suppress(FileNotFoundError):
            command = ["localedef", "-i", name, "-f", "UTF-8", str(folder / f"{name}.UTF-8")]
            subprocess.run(command, capture_output=True, check=False)


@pytest.mark.slow
def test_locales_and_time_zones(
    folder: Path, fresh_interpreter: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Fails if a number has a comma, a letter is lowered as in Turkish, or a name that the terminal cannot show ends
    a run. Files must be the same to the byte, but for seconds."""
    locales = tmp_path_factory.mktemp("locales")
    make_locales(locales)
    turkish = {"LC_CTYPE": "tr_TR.UTF-8", "LC_NUMERIC": "de_DE.UTF-8", "LOCPATH": str(locales)}
    settings = [
        turkish | {"TZ": "Asia/Tokyo", "LC_ALL": ""},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "TZ": "<odd>+13:37"},
    ]
    expected = lines_without_seconds(folder / "results" / "melBin__mv2.csv")
    for number, setting in enumerate(settings):
        out = f"new {number} \N{LATIN SMALL LETTER I WITH DIAERESIS}"
        command = f"{TEST} --resultDir '{out}' --dataset MELBIN --targetModel MV2"
        # An interpreter of its own: it reads these variables when it starts.
        process = run_process(fresh_interpreter, folder, command, env=environment(**setting))
        assert process.returncode == 0, process.stderr
        assert lines_without_seconds(folder / out / "melBin__mv2.csv") == expected
        record = json.loads((folder / out / "melBin__mv2.json").read_text(encoding="ascii"))
        assert [f"{row['eps']:g}" for row in record["rows"]] == ["0", "8"]


@pytest.mark.slow
def test_odd_clocks(folder: Path, monkeypatch: pytest.MonkeyPatch, run_here: RunHere) -> None:
    """Fails if a clock that starts in 1970 or steps back, or files from before 1970, change what is recorded."""
    monkeypatch.chdir(folder)
    clock = count(1e6, -3600.0)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(clock) * 1e9))
    for path in (folder / LISTS / "img").iterdir():
        os.utime(path, (-1e6, -1e6))
    assert run_here(TEST)[0] == 0
    result, expected = (folder / name / "melBin__mv2.csv" for name in ("new", "results"))
    assert lines_without_seconds(result) == lines_without_seconds(expected)
    record = json.loads((folder / "new" / "melBin__mv2.json").read_text())
    assert all(row["seconds"] > 0 for row in record["rows"])
    assert run_here(TRAIN)[0] == 0
    (path,) = (folder / "new").glob("*.001.json")
    epochs = json.loads(path.read_text())["epochs"]
    assert len(epochs) == 2 and all(epoch["seconds"] > 0 for epoch in epochs)
