"""Tables and curves from result files. The real scripts made the committed examples."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from advmia.errors import UserError
from advmia.results.intervals import RESAMPLES, _resamples, auroc, bootstrap_auroc, bootstrap_mean, wilson
from advmia.results.render import Cell, Table, render_tables, rounded
from advmia.results.tables import write_tables
from tests.support.running import ROOT, run_main

EXAMPLES = ROOT / "tests" / "fixtures" / "examples"
FOLDERS = [Path("results"), Path("results/seed1"), Path("results/limit8")]
NAT = "melBin__MobileNetV2_melBin_nat_class2_maxLR0.01_weightDecay0.001"
PGDAT = "melBin__MobileNetV2_melBin_pgdat_beta0_class2_ADV8-255_10_2-255_maxLR0.01_weightDecay0.001"


def example(name: str) -> dict[str, Any]:
    return json.loads((EXAMPLES / "results" / f"{name}.json").read_text())


def save(folder: Path, name: str, record: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(record))
    return path


def table_of(text: str, title: str) -> list[list[str]]:
    """Header and rows of the Markdown table whose title holds `title`."""
    lines = text.splitlines()
    start = next(at for at, line in enumerate(lines) if title in line) + 2
    body = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        body.append([cell.strip() for cell in line.split("|")[1:-1]])
    return [body[0], *body[2:]]


# ---------------------------------------------------------------- the committed examples


@pytest.mark.parametrize(("form", "extension"), [("md", "md"), ("csv", "csv"), ("latex", "tex")])
def test_examples_byte_for_byte(form: str, extension: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a character of any table changes; see tests/fixtures/examples/README.md."""
    monkeypatch.chdir(EXAMPLES)
    printed = write_tables(FOLDERS, tmp_path, form=form)
    assert (tmp_path / f"tables.{extension}").read_bytes() == (EXAMPLES / f"expected.{extension}").read_bytes()
    assert printed == (EXAMPLES / "expected.md").read_text(), "the terminal shows Markdown whatever the file's format"
    assert write_tables(FOLDERS, None, form=form) == (EXAMPLES / f"expected.{extension}").read_text()


def test_examples_are_small() -> None:
    """Fails when the examples outgrow what a repository should carry."""
    assert sum(path.stat().st_size for path in EXAMPLES.rglob("*") if path.is_file()) < 100_000


def test_order_and_repetition_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if the order of arguments shows, or a file that is named twice, or copied, makes a second row."""
    monkeypatch.chdir(EXAMPLES)
    expected = (EXAMPLES / "expected.md").read_text()
    twice = [Path(f"results/{NAT}.json"), *FOLDERS[::-1], EXAMPLES / "results"]
    assert write_tables(twice, None) == expected
    assert capsys.readouterr().err == ""
    shutil.copy(f"results/{NAT}.json", tmp_path / "copy.json")
    assert write_tables([*FOLDERS, tmp_path], None) == expected
    said = capsys.readouterr().err
    assert "copy.json" in said and "counted once" in said and said.count("\n") == 1


def test_numbers_are_those_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a cell of a table is not the stored score of its file, attack and eps."""
    monkeypatch.chdir(EXAMPLES)
    header, *rows = table_of(write_tables([Path("results")], None), "melBin[phantom], mv2: accuracy")
    cells = {(row[0], head): cell.strip("*") for row in rows for head, cell in zip(header, row, strict=True)}
    for method, name in (("nat", NAT), ("pgdat 8", PGDAT)):
        for row in example(name)["rows"]:
            head = "clean" if row["attack"] == "none" else f"{row['attack']} {row['eps']:g}"
            low, high = wilson(round(row["scores"]["accuracy"] * 15), 15)
            wanted = f"{100 * row['scores']['accuracy']:.1f} ({100 * low:.1f}-{100 * high:.1f})"
            assert cells[method, head] == wanted
    assert cells["trades 8", "fgsm 2"] == "", "what was not measured is empty"


def test_csv_can_be_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a title, which holds commas, spills over columns, or marks of the best are written."""
    monkeypatch.chdir(EXAMPLES)
    rows = list(csv.reader(io.StringIO(write_tables(FOLDERS, None, form="csv"))))
    assert rows[0] == [
        "melBin[phantom], mv2: accuracy in percent (95 % Wilson interval), by attack and eps (grey levels out of 255)"
    ]
    assert rows[1][:4] == ["method", "setting", "images", "clean"]
    assert not any("*" in cell for row in rows for cell in row)


# ---------------------------------------------------------------- pictures


def test_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a picture is missing, blank, unreadable, or differs between equal runs (a time stamp would)."""
    monkeypatch.chdir(EXAMPLES)
    for name in ("a", "b"):
        write_tables(FOLDERS, tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    stems = ("mel[phantom]__unet", "melBin[phantom]__mv2", "xray_multilabel[phantom]__mv2")
    assert names == sorted(["tables.md", *(f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf"))])
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    for stem in stems:
        with Image.open(tmp_path / "a" / f"{stem}.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert pixels.shape[0] > 400 and (pixels.min(axis=2) < 250).mean() > 0.01
        for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):
            assert (pixels == colour).all(axis=2).any(), "a curve each of the first two methods"
        whole = (tmp_path / "a" / f"{stem}.pdf").read_bytes()
        assert whole.startswith(b"%PDF-") and whole.rstrip().endswith(b"%%EOF") and b"CreationDate" not in whole
        drawn = b"".join(map(inflated, re.findall(rb"stream\r?\n(.*?)endstream", whole, re.S)))
        assert drawn.count(b" l\n") > 20, "lines are drawn"


def inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_no_picture_of_clean_scores_alone(tmp_path: Path) -> None:
    """Fails if an empty picture is written where nothing was attacked."""
    record = example(NAT)
    record["rows"] = record["rows"][:1]
    write_tables([save(tmp_path / "in", "x", record)], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tables.md"]


def test_a_data_set_is_no_path(tmp_path: Path) -> None:
    """Fails if a name in a result file can lead a picture out of the folder."""
    record = example(NAT) | {"dataset": "../../melBin"}
    write_tables([save(tmp_path / "in", "x", record)], tmp_path / "out")
    assert (tmp_path / "out" / "..-..-melBin__mv2.png").exists()


# ---------------------------------------------------------------- told apart


def change(record: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy with the fact at `path` (dots between keys) replaced."""
    changed = copy.deepcopy(record)
    *parents, last = path.split(".")
    part = changed
    for name in parents:
        part = part[name]
    part[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "settings"),
    [
        ("run.seed", 1, ["tested: seed 0", "tested: seed 1"]),
        ("run.size", 32, ["tested: size 16", "tested: size 32"]),
        ("target_training.epochs", 100, ["trained: epochs 100", "trained: epochs 6"]),
        ("target_training.val_fraction", 0.1, ["trained: val fraction 0.1", "trained: val fraction none"]),
        ("target_training.beta", 3.0, ["trained: beta 0", "trained: beta 3"]),
        ("target_training.train_data.content", "official", ["trained: content official", "trained: content phantom"]),
        ("run.data.sha256", "f" * 64, ["tested: list <own>", "tested: list ffffffff"]),
        ("run.target_sha256", "e" * 64, ["weights <own>", "weights eeeeeeee"]),
        ("versions", {}, ["file <a>", "file <b>"]),
    ],
)
def test_two_files_of_one_method_are_two_rows(path: str, value: object, settings: list[str], tmp_path: Path) -> None:
    """Fails if results that differ in one fact are merged, or their rows do not say in what they differ."""
    record = example(PGDAT)
    changed = change(record, path, value)
    if path == "run.target_sha256":
        changed["run"]["source_sha256"] = value  # white-box as before
    a, b = save(tmp_path, "a", record), save(tmp_path, "b", changed)
    header, *rows = table_of(write_tables([tmp_path], None), "accuracy")
    assert header[:3] == ["method", "setting", "images"]
    own = record["run"]["target_sha256" if "weights" in settings[0] else "data"]
    own = own if isinstance(own, str) else own["sha256"]
    wanted = [text.replace("<own>", own[:8]).replace("<a>", str(a)).replace("<b>", str(b)) for text in settings]
    assert sorted(row[1] for row in rows) == sorted(wanted)


def test_phantoms_and_real_images_have_their_own_tables(tmp_path: Path) -> None:
    """Fails if a phantom's numbers stand beside those of real images."""
    save(tmp_path, "a", example(PGDAT))
    save(tmp_path, "b", change(example(PGDAT), "run.data.content", "official") | {"dataset": "melBin"})
    text = write_tables([tmp_path], None)
    assert len(table_of(text, "melBin[phantom], mv2: accuracy")) == len(table_of(text, "melBin, mv2: accuracy")) == 2


def test_a_setting_that_nothing_differs_in_is_not_shown(tmp_path: Path) -> None:
    """Fails if methods, which differ in steps and beta by nature, are said to differ in them."""
    save(tmp_path, "a", example(NAT))
    save(tmp_path, "b", example(PGDAT))
    assert table_of(write_tables([tmp_path], None), "accuracy")[0][:2] == ["method", "images"]


def test_another_attack_setting_is_another_column(tmp_path: Path) -> None:
    """Fails if results of 20 and of 50 steps stand in one column."""
    changed = example(PGDAT)
    changed["rows"][-1]["steps"] = 50
    save(tmp_path, "a", example(NAT))
    save(tmp_path, "b", changed)
    header = table_of(write_tables([tmp_path], None), "accuracy")[0]
    assert header[-2:] == ["pgd 8 (20 x 2)", "pgd 8 (50 x 2)"]


def test_best(tmp_path: Path) -> None:
    """Fails if the best is not marked, ties are not both, or rows of other images compete with each other."""

    def accuracies(record: dict[str, Any], clean: float) -> dict[str, Any]:
        record["rows"] = record["rows"][:1]
        record["rows"][0]["scores"]["accuracy"] = clean
        return record

    save(tmp_path, "a", accuracies(example(NAT), 9 / 15))
    save(tmp_path, "b", accuracies(example(PGDAT), 12 / 15))
    assert [row[2].startswith("**") for row in table_of(write_tables([tmp_path], None), "accuracy")[1:]] == [
        False,
        True,
    ]
    save(tmp_path, "b", accuracies(example(PGDAT), 9 / 15))
    assert [row[2].startswith("**") for row in table_of(write_tables([tmp_path], None), "accuracy")[1:]] == [True, True]
    save(tmp_path, "b", change(accuracies(example(PGDAT), 12 / 15), "run.data.pixels_crc32", "0"))
    text = write_tables([tmp_path], None)
    assert "**" not in text and "Rows differ in what they were tested on" in text


# ---------------------------------------------------------------- findings, transfer, cost, further scores


def test_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a finding's AUROC or its count is another's, or an undefined one is a number."""
    monkeypatch.chdir(EXAMPLES)
    name = "xray_multilabel__MobileNetV2_xray_multilabel_nat_class14_maxLR0.01_weightDecay0.001"
    header, *rows = table_of(write_tables([Path("results")], None), "AUROC by finding")
    assert header == ["finding", "positive images", "method", "clean", "pgd 8"]
    scores, labels = example(name)["rows"][0]["scores"], np.array(example(name)["samples"]["label"])
    assert any(score is None for score in scores.values()), "the example should hold an undefined finding"
    for number, (finding, score) in enumerate(list(scores.items())[1:]):
        row = next(row for row in rows if row[0] == finding and row[2] == "nat")
        assert row[1] == str(int(labels[:, number].sum()))
        shown = row[header.index("clean")].strip("*")
        assert shown == "undefined" if score is None else shown.startswith(f"{rounded(score, 1, 100)} (")


def test_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if source and target change places, or the diagonal is not the white-box result."""
    monkeypatch.chdir(EXAMPLES)
    header, *rows = table_of(write_tables([Path("results")], None), "transfer of pgd 8")
    assert header == ["source", "mv2 nat", "mv2 pgdat 8", "mv2 trades 8"]

    def accuracy(name: str, attack: str = "pgd", eps: float = 8.0) -> str:
        row = next(row for row in example(name)["rows"] if (row["attack"], row["eps"]) == (attack, eps))
        return rounded(row["scores"]["accuracy"], 1, 100)

    weights = [name.removeprefix("melBin__") for name in (NAT, PGDAT)]
    wanted = {
        ("mv2 nat", 1): NAT,
        ("mv2 nat", 2): f"{PGDAT}__from__{weights[0]}",
        ("mv2 pgdat 8", 1): f"{NAT}__from__{weights[1]}",
        ("mv2 pgdat 8", 2): PGDAT,
    }
    cells = {row[0]: row for row in rows}
    for (source, column), name in wanted.items():
        assert cells[source][column].split(" ")[0] == accuracy(name)
    assert cells["none: clean"][1].split(" ")[0] == accuracy(NAT, "none", 0.0)
    assert cells["mv2 nat"][3] == "" and len(rows) == 4


def test_a_pair_that_was_tested_twice(tmp_path: Path) -> None:
    """Fails if one of two different results of one source and target is dropped or averaged."""
    name = f"{PGDAT}__from__{NAT.removeprefix('melBin__')}"
    save(tmp_path, "a", example(name))
    again = save(tmp_path, "b", change(example(name), "versions", {"torch": "9"}))
    rows = table_of(write_tables([tmp_path], None), "transfer of pgd 8")[1:]
    assert len(rows) == 3 and rows[1][0] == f"{rows[0][0]} (again: {again})"
    assert "MobileNetV2_melBin_nat" in rows[0][0], "a source that is no result's target is called by its file"


def test_matrices_of_other_images_are_apart(tmp_path: Path) -> None:
    """Fails if results on other images stand in one matrix."""
    name = f"{PGDAT}__from__{NAT.removeprefix('melBin__')}"
    save(tmp_path, "a", example(name))
    save(tmp_path, "b", change(example(name), "run.size", 32))
    titles = [line for line in write_tables([tmp_path], None).splitlines() if "transfer of pgd 8" in line]
    assert len(titles) == 2 and "size 16" in titles[0] + titles[1] and "size 32" in titles[0] + titles[1]


def test_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if seconds are another training's, or an empty cell is not explained."""
    record = example(NAT)
    folder = tmp_path / "clsCkpt"
    folder.mkdir()
    shutil.copy(EXAMPLES / "clsCkpt" / f"{NAT.removeprefix('melBin__')}.json", folder)
    path = save(tmp_path / "results", "x", record)
    monkeypatch.chdir("/")
    seconds = sorted(epoch["seconds"] for epoch in json.loads(next(folder.iterdir()).read_text())["epochs"])
    middle = (seconds[2] + seconds[3]) / 2
    rows = table_of(write_tables([path], None), "seconds an epoch")
    assert rows == [
        ["method", "epochs", "seconds an epoch"],
        ["nat", "6", f"{rounded(middle, 1)} ({rounded(seconds[0], 1)}-{rounded(seconds[-1], 1)})"],
    ]
    save(tmp_path / "results", "x", change(record, "target_training.seed", 7))
    text = write_tables([path], None)
    assert table_of(text, "seconds an epoch")[1] == ["nat", "", ""]
    assert f"Empty: no record of that training beside {record['target_weight']}" in text


def test_further_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a score that rows hold cannot be tabled, a loss is read as a share, or the highest loss is the best."""
    monkeypatch.chdir(EXAMPLES)
    text = write_tables(FOLDERS, None, scores=["recall", "ce_loss", "dice"])
    stored = example(NAT)["rows"][0]["scores"]["recall"]
    assert table_of(text, "mv2: recall in percent, by")[1][3].strip("*") == rounded(stored, 1, 100)
    assert text.count("unet: Dice") == 1, "a table that is there already is not repeated"
    rows = table_of(text, "unet: ce_loss, by")[1:]
    clean = [row[-2] for row in rows]
    best = min(clean, key=lambda cell: float(cell.strip("*")))
    assert all(re.fullmatch(r"(\*\*)?\d+\.\d{3}(\*\*)?", cell) for cell in clean) and best.startswith("**")
    with pytest.raises(
        UserError, match=r"--scores auc: no result holds it; known are accuracy, recall, precision, f1, .*dice"
    ):
        write_tables(FOLDERS, None, scores=["auc"])


def test_a_row_without_a_further_score_is_empty(tmp_path: Path) -> None:
    """Fails if older files, which lack a newer score, break its table, or a lower success rate is not the better."""
    for name, source, rate in (("a", NAT, 0.5), ("b", PGDAT, 0.25)):
        record = example(source)
        record["rows"][-1]["scores"]["attack_success_rate"] = rate
        save(tmp_path, name, record)
    rows = table_of(write_tables([tmp_path], None, scores=["attack_success_rate"]), "attack_success_rate in percent")
    assert [row[-1] for row in rows[1:]] == ["50.0", "**25.0**"] and {row[2] for row in rows[1:]} == {""}


# ---------------------------------------------------------------- what is no result file


def broken(key: str) -> Any:
    record = example(NAT)
    if key == "no rows":
        record["rows"] = []
    elif key == "rows of another type":
        record["rows"] = [1]
    elif key == "no run.seed":
        del record["run"]["seed"]
    elif key == "no model":
        del record["target_model"]
    elif key == "twice":
        record["rows"].append(record["rows"][0])
    elif key == "outcomes lost":
        record["rows"][1]["outcomes"].pop()
    elif key == "no score":
        record["rows"][0]["scores"] = {"beauty": 1.0}
    elif key == "not finite":
        record["rows"][0]["scores"]["f1"] = float("inf")
    elif key == "no steps":
        del record["rows"][1]["steps"]
    elif key == "no eps":
        record["rows"][1]["eps"] = "8"
    elif key == "no training":
        record["target_training"] = {"epochs": 3}
    elif key == "no facts":
        record["run"]["data"] = "phantoms"
    elif key == "no share":
        record["rows"][0]["scores"]["accuracy"] += 0.01
    return record


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("no rows", "it has no rows"),
        ("rows of another type", "another type"),
        ("no run.seed", "it has no run.seed"),
        ("no model", "it has no target_model"),
        ("twice", "row none eps 0 is there twice"),
        ("outcomes lost", "has 14 outcomes of 15 images"),
        ("no score", "none of the scores accuracy"),
        ("not finite", "not finite: f1"),
        ("no steps", "a part is missing or has another type than expected ('steps')"),
        ("no eps", "another type"),
        ("no training", "('method')"),
        ("no facts", "run.data is no set of facts"),
        ("no share", "are no accuracy's"),
    ],
)
def test_broken_files(
    key: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if a damaged file ends in a traceback, more than a line, or a table."""
    path = save(tmp_path, "x", broken(key))
    assert run_main(monkeypatch, ["advmia", "tables", path, "--out", tmp_path / "out"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and says in said.err and str(path) in said.err
    assert not (tmp_path / "out").exists()


def test_outcomes_that_contradict(tmp_path: Path) -> None:
    """Fails if an interval is taken from outcomes that are not those of the score beside it."""
    for path in sorted((EXAMPLES / "results").glob("[mx]*l__UNet*.json")) + sorted(
        (EXAMPLES / "results").glob("xray*")
    ):
        record = json.loads(path.read_text())
        record["rows"][0]["outcomes"][0] = [5.0 for _ in record["rows"][0]["outcomes"][0]]
        record["rows"][0]["outcomes"][1] = [-5.0 for _ in record["rows"][0]["outcomes"][0]]
        with pytest.raises(UserError, match="the row says"):
            write_tables([save(tmp_path, path.stem, record)], None)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b'{"rows": 1}', b'{"rows": 1, "run": 2}', b"a,b\n1,2\n"])
def test_foreign_files(content: bytes, tmp_path: Path) -> None:
    """Fails if a file of something else is passed over or crashes."""
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json is no (whole )?result file"):
        write_tables([tmp_path], None)


def test_out_that_cannot_be_written(tmp_path: Path) -> None:
    """Fails if an unwritable folder is a traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_tables([EXAMPLES / "results" / f"{NAT}.json"], tmp_path / "file")


# ---------------------------------------------------------------- numbers and formats


@pytest.mark.parametrize(
    ("value", "places", "scale", "text"),
    [
        (0.0625, 1, 100, "6.3"),  # as a float's digits: 6.2
        (0.1225, 1, 100, "12.3"),  # binary: just below
        (0.0625, 3, 1, "0.063"),
        (0.5545, 3, 1, "0.555"),  # binary: just below
        (0.99949999, 1, 100, "99.9"),
        (0.9995, 1, 100, "100.0"),
        (0.0, 1, 100, "0.0"),
        (1, 3, 1, "1.000"),
        (1e-9, 3, 1, "0.000"),
        (1e30, 1, 1, "1" + 30 * "0" + ".0"),
    ],
)
def test_halves_round_up(value: float, places: int, scale: int, text: str) -> None:
    """Fails if rounding follows binary digits, or Python's round-half-even."""
    assert rounded(value, places, scale) == text


def test_formats_quote() -> None:
    """Fails if a name that is special to a format breaks its table."""
    table = Table("a_b, 95 %", ("x|y", "z"), ((Cell("[1] 50% & more", best=True), Cell('say "a", b')),), ("note #1",))
    assert render_tables([table], "md").splitlines()[2].startswith(r"| x\|y ")
    assert "**[1] 50% & more**" in render_tables([table], "md")
    assert list(csv.reader(io.StringIO(render_tables([table], "csv"))))[2] == ["[1] 50% & more", 'say "a", b']
    latex = render_tables([table], "latex")
    assert r"\caption{a\_b, 95 \%. note \#1.}" in latex
    assert r"\textbf{{[}1{]} 50\% \& more} & say" in latex
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 1


# Newcombe (1998), Statistics in Medicine 17, table I, method 3.
@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(n - hits, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize("n", [1, 7, 130, 25596])
def test_wilson_inverts_the_score_test(n: int) -> None:
    """Fails if a bound is not where the score test just rejects, or leaves [0, 1]."""
    for hits in {0, 1, n // 3, n - 1, n}:
        low, high = wilson(hits, n)
        assert 0 <= low <= hits / n <= high <= 1
        for bound in (low, high):
            if 0 < bound < 1:
                assert abs(hits / n - bound) == pytest.approx(1.959964 * (bound * (1 - bound) / n) ** 0.5, rel=1e-6)


def drawn_again(n: int, resamples: int = RESAMPLES) -> list[np.ndarray]:
    """The images of each resample, one by one, from the same frozen stream."""
    rng = np.random.RandomState(0)
    return [rng.randint(0, n, size=n, dtype=np.int64) for _ in range(resamples)]


def test_bootstrap_of_a_mean() -> None:
    """Fails if resamples are not with replacement, as large as the sample, or the percentiles are others."""
    values = np.random.default_rng(1).beta(5, 2, size=(40, 2))
    means = np.array([values[rows].mean(axis=0) for rows in drawn_again(40)])
    found = bootstrap_mean(values)
    assert np.allclose(found, np.quantile(means, [0.025, 0.975], axis=0).T, rtol=0, atol=1e-12)
    spread = values.std(axis=0) / 40**0.5
    assert np.allclose([(high - low) / 2 for low, high in found], 1.96 * spread, rtol=0.1)
    assert bootstrap_mean(values) == found


def test_bootstrap_of_auroc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if an AUROC of a resample, ties and all, is not scikit-learn's, or an undefined label joins the mean."""
    monkeypatch.setattr("advmia.results.intervals.RESAMPLES", 100)  # scikit-learn takes its time
    rng = np.random.default_rng(2)
    positive = (rng.random((30, 3)) < 0.3).astype(np.int64)
    positive[:, 2] = 0
    scores = np.round(rng.normal(size=(30, 3)) + positive, 1)  # with ties
    found = []
    for rows in drawn_again(30, 100):
        one = [roc_auc_score(positive[rows, label], scores[rows, label]) for label in range(2)]
        found.append([np.mean(one), *one])
    expected = np.quantile(np.array(found), [0.025, 0.975], axis=0).T
    intervals = bootstrap_auroc(scores, positive)
    assert np.allclose(intervals[:3], expected, rtol=0, atol=1e-12)
    assert np.isnan(intervals[3]).all()
    plain = [roc_auc_score(positive[:, label], scores[:, label]) for label in range(2)]
    assert auroc(scores, positive)[:3] == pytest.approx([np.mean(plain), *plain]) and np.isnan(
        auroc(scores, positive)[3]
    )


def test_resamples_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the memory that is used shows in the intervals."""
    whole = np.concatenate(list(_resamples(9)))
    monkeypatch.setattr("advmia.results.intervals._CHUNK", 100)
    assert np.array_equal(np.concatenate(list(_resamples(9))), whole) and whole.shape == (RESAMPLES, 9)
    assert (whole.sum(axis=1) == 9).all()
