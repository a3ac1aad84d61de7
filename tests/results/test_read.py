"""Reading result files: a damaged one, or another file, is refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advmia.errors import UserError
from advmia.results.read import read_records, read_results, results_at
from advmia.results.rows import ResultRow
from advmia.results.scored import score_run
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL
from tests.results.examples import EXAMPLES, NAT, example, save
from tests.support.running import run_main

DAMAGES = {
    "no rows": "it has no rows",
    "rows of another type": "another type",
    "no run.seed": "it has no run.seed",
    "no model": "it has no target_model",
    "twice": "row none eps 0 is there twice",
    "outcomes lost": "has 14 outcomes of 15 images",
    "no score": "none of the scores accuracy",
    "not finite": "not finite: f1",
    "no steps": "a part is missing or has another type than expected (a row has no steps)",
    "no eps": "another type",
    "no training": "('method')",
    "no facts": "run.data is not an object",
    "no share": "the accuracy cannot be computed from the outcomes",
}


def damaged(key: str) -> dict[str, Any]:
    """Returns an example result with one of the `DAMAGES`."""
    content = example(NAT)
    if key == "no rows":
        content["rows"] = []
    elif key == "rows of another type":
        content["rows"] = [1]
    elif key == "no run.seed":
        del content["run"]["seed"]
    elif key == "no model":
        del content["target_model"]
    elif key == "twice":
        content["rows"].append(content["rows"][0])
    elif key == "outcomes lost":
        content["rows"][1]["outcomes"].pop()
    elif key == "no score":
        content["rows"][0]["scores"] = {"beauty": 1.0}
    elif key == "not finite":
        content["rows"][0]["scores"]["f1"] = float("inf")
    elif key == "no steps":
        del content["rows"][1]["steps"]
    elif key == "no eps":
        content["rows"][1]["eps"] = "8"
    elif key == "no training":
        content["target_training"] = {"epochs": 3}
    elif key == "no facts":
        content["run"]["data"] = "phantoms"
    elif key == "no share":
        content["rows"][0]["scores"]["accuracy"] += 0.01
    return content


@pytest.mark.parametrize(("key", "reason"), DAMAGES.items())
def test_damaged_files(
    key: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if a damaged file ends in a traceback, in more than one line, or in a table."""
    path = save(tmp_path, "x", damaged(key))
    assert run_main(monkeypatch, ["advmia", "tables", path, "--out", tmp_path / "out"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and reason in printed.err and str(path) in printed.err
    assert not (tmp_path / "out").exists()


def test_outcomes_that_contradict(tmp_path: Path) -> None:
    """Fails if an interval is computed from outcomes that do not give the score beside them."""
    results = EXAMPLES / "results"
    for path in [*sorted(results.glob("[mx]*l__UNet*.json")), *sorted(results.glob("xray*"))]:
        content = json.loads(path.read_text())
        outcomes = content["rows"][0]["outcomes"]
        outcomes[:2] = [[5.0] * len(outcomes[0]), [-5.0] * len(outcomes[0])]
        with pytest.raises(UserError, match="the row says"):
            score_run(read_results(save(tmp_path, path.stem, content)))


def test_foreign_files(tmp_path: Path) -> None:
    """Fails if a file that is no result file is skipped without an error, or ends in another exception."""
    for content, fault in [
        *((content, "not a result file") for content in (b"", b"\xff\xfe", b"[1]", b'{"rows": 1}', b"a,b\n1,2\n")),
        (b'{"rows": 1, "run": 2}', "damaged"),
    ]:
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(UserError, match=rf"x\.json is {fault}"):
            read_records([tmp_path])
        assert results_at(tmp_path / "x.json") is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no result files"):
        read_records([tmp_path / "empty"])


def test_tasks() -> None:
    """Fails if the task of a file is not recognised by its scores."""
    tasks = {"melBin": SINGLE_LABEL, "mel": SEGMENTATION, "xray_multilabel": MULTI_LABEL}
    paths = sorted((EXAMPLES / "results").glob("*.json"))
    assert {path.name.split("__")[0] for path in paths} == tasks.keys()
    for path in paths:
        assert read_results(path).task is tasks[path.name.split("__")[0]]


def test_rows_are_written_as_they_were_read() -> None:
    """Fails if a row of a file changes on its way through `ResultRow`: a value, a key or the keys' order."""
    for path in sorted((EXAMPLES / "results").glob("*.json")):
        rows = json.loads(path.read_text())["rows"]
        written = [ResultRow.from_json(row).to_json() for row in rows]
        assert json.dumps(written).replace("NaN", "null") == json.dumps(rows)


def test_rows_of_other_versions() -> None:
    """Fails if a row of an older version, without the later keys, is refused, or a newer key goes unnoticed."""
    content = example(NAT)
    for row in content["rows"]:
        for key in ("l2", "linf", "queries", "losses", "notes"):
            del row[key]
    row = ResultRow.from_json(content["rows"][0])
    assert (row.l2, row.grey_linf, row.queries, row.losses, row.notes) == (0, 0, None, [], {})
    record = read_results(EXAMPLES / "results" / f"{NAT}.json")
    assert record.unknown_keys == set()
    record.content["rows"][0]["beauty"] = 1
    assert record.unknown_keys == {"beauty"}
