"""Tables from result files. The committed examples were made by the real scripts."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from advmia.errors import UserError
from advmia.results import tables
from advmia.results.intervals import wilson
from advmia.results.planned import read_planned
from advmia.results.render import EXTENSIONS, LONG, rounded
from advmia.results.tables import write_tables
from tests.results.examples import (
    EXAMPLES,
    FOLDERS,
    NAT,
    PGDAT,
    TRADES,
    TRANSFER,
    change,
    example,
    save,
    table_of,
    with_hits,
)


def test_examples_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a character of any table changes; see tests/fixtures/examples/README.md."""
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(tables, "plot_curves", lambda *_: [])  # tested on their own
    for form, extension in EXTENSIONS.items():
        if form == LONG:
            continue  # made of the results, not of these tables: see test_long.py
        printed = write_tables(FOLDERS, tmp_path, form=form)
        assert (tmp_path / f"tables.{extension}").read_bytes() == (EXAMPLES / f"expected.{extension}").read_bytes()
        assert printed == (EXAMPLES / "expected.md").read_text(), (
            "the terminal shows Markdown whatever the file's format"
        )
        assert write_tables(FOLDERS, None, form=form) == (EXAMPLES / f"expected.{extension}").read_text()


def test_examples_are_small() -> None:
    """Fails if the examples are larger than a repository should carry."""
    assert sum(path.stat().st_size for path in EXAMPLES.rglob("*") if path.is_file()) < 100_000


def test_order_and_repetition_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if the order of arguments changes a table, or a file that is named twice or copied has two rows."""
    monkeypatch.chdir(EXAMPLES)
    expected = (EXAMPLES / "expected.md").read_text()
    twice = [Path(f"results/{NAT}.json"), *FOLDERS[::-1], EXAMPLES / "results"]
    assert write_tables(twice, None) == expected
    assert capsys.readouterr().err == ""
    shutil.copy(f"results/{NAT}.json", tmp_path / "copy.json")
    assert write_tables([*FOLDERS, tmp_path], None) == expected
    message = capsys.readouterr().err
    assert "copy.json" in message and "not counted again" in message and message.count("\n") == 1


def test_numbers_are_those_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a cell of a table is not the score that its file stores for its attack and eps."""
    monkeypatch.chdir(EXAMPLES)
    files = sorted(Path("results").glob("melBin*.json"))
    header, *rows = table_of(write_tables(files, None), "melBin[phantom], mv2: accuracy")
    cells = {(row[0], head): cell.strip("*") for row in rows for head, cell in zip(header, row, strict=True)}
    for method, name in (("nat", NAT), ("pgdat 8", PGDAT)):
        for row in example(name)["rows"]:
            head = "clean" if row["attack"] == "none" else f"{row['attack']} {row['eps']:g}"
            low, high = wilson(round(row["scores"]["accuracy"] * 15), 15)
            expected = f"{100 * row['scores']['accuracy']:.1f} ({100 * low:.1f}-{100 * high:.1f})"
            assert cells[method, head] == expected
    assert cells["trades 8", "fgsm 2"] == "", "cells without a measurement are empty"


def test_csv_can_be_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a title, which has commas, takes several columns, or the best is marked."""
    monkeypatch.chdir(EXAMPLES)
    rows = list(csv.reader(io.StringIO(write_tables(FOLDERS, None, form="csv"))))
    assert rows[0] == [
        "melBin[phantom], mv2: accuracy in percent (95 % Wilson interval), by attack and eps (grey levels out of 255)"
    ]
    assert rows[1][:4] == ["method", "setting", "images", "clean"]
    assert not any("*" in cell for row in rows for cell in row)


def test_phantoms_and_real_images_have_their_own_tables(tmp_path: Path) -> None:
    """Fails if the numbers of phantoms are in a table with those of real images."""
    save(tmp_path, "a", example(PGDAT))
    save(tmp_path, "b", change(example(PGDAT), "run.data.content", "official") | {"dataset": "melBin"})
    text = write_tables([tmp_path], None)
    assert len(table_of(text, "melBin[phantom], mv2: accuracy")) == len(table_of(text, "melBin, mv2: accuracy")) == 2


def test_another_attack_setting_is_another_column(tmp_path: Path) -> None:
    """Fails if results of 20 and of 50 steps are in one column."""
    changed = example(PGDAT)
    changed["rows"][-1]["steps"] = 50
    save(tmp_path, "a", example(NAT))
    save(tmp_path, "b", changed)
    header = table_of(write_tables([tmp_path], None), "accuracy")[0]
    assert header[-2:] == ["pgd 8 (20 x 2)", "pgd 8 (50 x 2)"]


def test_best(tmp_path: Path) -> None:
    """Fails if the best is not marked, a difference by chance is, or rows of different images are compared."""

    def are_marked(*hits: int) -> list[bool]:
        for number, (name, count) in enumerate(zip((NAT, PGDAT, TRADES), hits, strict=False)):
            save(tmp_path, "abc"[number], with_hits(example(name), [image < count for image in range(15)]))
        return [row[2].startswith("**") for row in table_of(write_tables([tmp_path], None), "accuracy")[1:]]

    assert are_marked(5, 12) == [False, True]  # seven images more: McNemar's p is 2 / 2^7
    assert are_marked(7, 12) == [False, False]  # five: 2 / 2^5
    assert are_marked(12, 12) == [False, False]
    assert are_marked(5, 12, 11) == [False, True, True], "a row that cannot be told from the best is as good"
    assert are_marked(5, 11, 11) == [False, False, False], "2 / 2^6 is below 0.05, but not twice"
    text = write_tables([tmp_path], None)
    assert "McNemar's exact test does not tell from it (level 0.05" in text
    assert "McNemar" not in write_tables([tmp_path], None, form="csv"), "CSV has no bold"
    (tmp_path / "c.json").unlink()
    right = [image < 12 for image in range(15)]
    save(tmp_path, "b", change(with_hits(example(PGDAT), right), "run.data.pixels_crc32", "0"))
    text = write_tables([tmp_path], None)
    assert "**" not in text and "Rows differ in what they were tested on" in text
    content = with_hits(example(PGDAT), right)
    content["samples"] = {}
    save(tmp_path, "b", content)
    assert "Nothing is bold where the results hold too little" in write_tables([tmp_path], None)


def test_unbounded_attacks_have_a_note(tmp_path: Path) -> None:
    """Fails if a table does not say that SimBA's eps is no bound, or says so of another attack."""
    content = example(NAT)
    save(tmp_path, "a", content)
    assert "not a bound" not in write_tables([tmp_path], None)
    content["rows"].append(content["rows"][-1] | {"attack": "simba"})
    save(tmp_path, "a", content)
    assert write_tables([tmp_path], None).count("\nsimba's eps is the length of a step, not a bound.\n") == 1


def test_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a finding has the AUROC or the count of another, or an undefined AUROC is a number."""
    monkeypatch.chdir(EXAMPLES)
    name = "xray_multilabel__MobileNetV2_xray_multilabel_nat_class14_maxLR0.01_weightDecay0.001"
    header, *rows = table_of(write_tables([Path("results")], None), "AUROC by finding")
    assert header == ["finding", "positive images", "method", "clean", "pgd 8"]
    scores, labels = example(name)["rows"][0]["scores"], np.array(example(name)["samples"]["label"])
    assert any(score is None for score in scores.values()), "the example should have an undefined finding"
    for number, (finding, score) in enumerate(list(scores.items())[1:]):
        row = next(row for row in rows if row[0] == finding and row[2] == "nat")
        assert row[1] == str(int(labels[:, number].sum()))
        shown = row[header.index("clean")].strip("*")
        assert shown == "undefined" if score is None else shown.startswith(f"{rounded(score, 1, 100)} (")


def test_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if source and target are exchanged, or the diagonal is not the white-box result."""
    monkeypatch.chdir(EXAMPLES)
    header, *rows = table_of(write_tables(sorted(Path("results").glob("*.json")), None), "transfer of pgd 8")
    assert header == ["source", "mv2 nat", "mv2 pgdat 8", "mv2 trades 8"]

    def accuracy(name: str, attack: str = "pgd", eps: float = 8.0) -> str:
        row = next(row for row in example(name)["rows"] if (row["attack"], row["eps"]) == (attack, eps))
        return rounded(row["scores"]["accuracy"], 1, 100)

    names = {
        ("mv2 nat", 1): NAT,
        ("mv2 nat", 2): TRANSFER,
        ("mv2 pgdat 8", 1): f"{NAT}__from__{PGDAT.removeprefix('melBin__')}",
        ("mv2 pgdat 8", 2): PGDAT,
    }
    cells = {row[0]: row for row in rows}
    for (source, column), name in names.items():
        assert cells[source][column].split(" ")[0] == accuracy(name)
    assert cells["none: clean"][1].split(" ")[0] == accuracy(NAT, "none", 0.0)
    assert cells["mv2 nat"][3] == "" and len(rows) == 4


def test_a_pair_that_was_tested_twice(tmp_path: Path) -> None:
    """Fails if one of two different results of one source and target is dropped or averaged."""
    save(tmp_path, "a", example(TRANSFER))
    again = save(tmp_path, "b", change(example(TRANSFER), "versions", {"torch": "9"}))
    rows = table_of(write_tables([tmp_path], None), "transfer of pgd 8")[1:]
    assert len(rows) == 3 and rows[1][0] == f"{rows[0][0]} (again: {again})"
    assert "MobileNetV2_melBin_nat" in rows[0][0], "a source that is no target is named by its file"


def test_transfer_on_other_images_has_a_table_of_its_own(tmp_path: Path) -> None:
    """Fails if results on different images are in one table."""
    save(tmp_path, "a", example(TRANSFER))
    save(tmp_path, "b", change(example(TRANSFER), "run.size", 32))
    titles = [line for line in write_tables([tmp_path], None).splitlines() if "transfer of pgd 8" in line]
    assert len(titles) == 2 and "size 16" in titles[0] + titles[1] and "size 32" in titles[0] + titles[1]


def test_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the seconds are those of another training, or an empty cell is not explained."""
    content = example(NAT)
    folder = tmp_path / "clsCkpt"
    folder.mkdir()
    shutil.copy(EXAMPLES / "clsCkpt" / f"{NAT.removeprefix('melBin__')}.json", folder)
    path = save(tmp_path / "results", "x", content)
    monkeypatch.chdir("/")
    seconds = sorted(epoch["seconds"] for epoch in json.loads(next(folder.iterdir()).read_text())["epochs"])
    middle = (seconds[2] + seconds[3]) / 2
    rows = table_of(write_tables([path], None), "seconds an epoch")
    assert rows == [
        ["method", "epochs", "seconds an epoch"],
        ["nat", "6", f"{rounded(middle, 1)} ({rounded(seconds[0], 1)}-{rounded(seconds[-1], 1)})"],
    ]
    save(tmp_path / "results", "x", change(content, "target_training.seed", 7))
    text = write_tables([path], None)
    assert table_of(text, "seconds an epoch")[1] == ["nat", "", ""]
    assert f"Empty: no record of that training beside {content['target_weight']}" in text
    save(tmp_path / "results", "x", content)
    record = next(folder.iterdir())
    copies = {digest: json.loads(record.read_text()) | {"weights_sha256": digest} for digest in ("0" * 64, "target")}
    record.write_text(json.dumps(copies["0" * 64]))
    text = write_tables([path], None)
    assert table_of(text, "seconds an epoch")[1] == ["nat", "", ""]
    assert f"Empty: the record is of other weights beside {content['target_weight']}" in text
    copies["target"]["weights_sha256"] = content["run"]["target_sha256"]  # renamed when the other was trained
    record.with_name(f"{record.name}.earlier-1").write_text(json.dumps(copies["target"]))
    assert table_of(write_tables([path], None), "seconds an epoch") == rows


def test_further_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a score in the files cannot be tabled, a loss is shown in percent, or one is the best without a test."""
    monkeypatch.chdir(EXAMPLES)
    text = write_tables(FOLDERS, None, scores=["recall", "ce_loss", "dice"])
    stored = example(NAT)["rows"][0]["scores"]["recall"]
    assert table_of(text, "mv2: recall in percent, by")[1][3].strip("*") == rounded(stored, 1, 100)
    assert text.count("unet: Dice") == 1, "a main score has one table only"
    rows = table_of(text, "unet: ce_loss, by")[1:]
    clean = [row[-2] for row in rows]
    assert all(re.fullmatch(r"\d+\.\d{3}", cell) for cell in clean)
    with pytest.raises(UserError, match=r"--scores auc: no result file has .* accuracy, recall, precision, f1, .*dice"):
        write_tables(FOLDERS, None, scores=["auc"])


def test_a_row_without_a_further_score_is_empty(tmp_path: Path) -> None:
    """Fails if older files, which lack a newer score, break its table."""
    for name, source, rate in (("a", NAT, 0.5), ("b", PGDAT, 0.25)):
        content = example(source)
        content["rows"][-1]["scores"]["attack_success_rate"] = rate
        save(tmp_path, name, content)
    rows = table_of(write_tables([tmp_path], None, scores=["attack_success_rate"]), "attack_success_rate in percent")
    assert [row[-1] for row in rows[1:]] == ["50.0", "25.0"] and {row[2] for row in rows[1:]} == {""}


def test_networks_that_are_not_tested_yet(tmp_path: Path) -> None:
    """Fails if a network of a sweep without results has no row, or one with results has a second one."""
    networks = [
        ("melBin", "mv2", "nat", ""),
        ("melBin", "mv2", "mart 4", ""),
        ("melBin", "res18", "nat", ""),
        ("melBin", "mv2", "mart 8", "res18"),  # a transfer test: no row of its own
    ]
    keys = ("dataset", "model", "method", "source")
    steps = [{"kind": "test", **dict(zip(keys, network, strict=True))} for network in networks]
    plan = save(tmp_path, "plan", {"steps": [*steps, {"kind": "train", "method": "hat 2"}]})
    text = write_tables([EXAMPLES / "results" / f"{NAT}.json"], None, planned=read_planned(plan))
    header, natural, mart = table_of(text, "accuracy")
    assert natural[0] == "nat" and mart == ["mart 4", *[""] * (len(header) - 1)]
    assert table_of(text, "Not tested yet")[1:] == [["melBin", "res18", "nat"]]
    assert "mart 8" not in text and "hat 2" not in text
    with pytest.raises(UserError, match="no plan of a sweep"):
        read_planned(EXAMPLES / "results" / f"{NAT}.json")


def test_out_that_cannot_be_written(tmp_path: Path) -> None:
    """Fails if a folder that cannot be written ends in another exception."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_tables([EXAMPLES / "results" / f"{NAT}.json"], tmp_path / "file")
