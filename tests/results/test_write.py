"""Writing result files, and continuing those of an earlier run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from advmia.results.rows import CLEAN, ResultRow
from advmia.results.write import ResultFile, result_stem

RUN = {"seed": 0, "size": 16, "data": {"content": "phantom"}, "target_sha256": "t", "source_sha256": "t"}
FACTS = {name: name for name in ("dataset", "target_model", "target_weight", "source_model", "source_weight")}


def results_in(folder: Path, **run: Any) -> ResultFile:
    return ResultFile(folder / "x", FACTS, ("accuracy", "auroc"), RUN | run, {"versions": {}})


def row_of(attack: str, grey_eps: float, accuracy: float) -> ResultRow:
    scores = {"accuracy": accuracy, "auroc": math.nan}
    return ResultRow(attack, grey_eps, 20, 0.5, 2, scores, 1.25, [0, 1], l2=0.5, grey_linf=8.0, queries=3.0)


def test_files(tmp_path: Path) -> None:
    """Fails if a key, a column, their order or the form of a number changes."""
    results = results_in(tmp_path)
    results.add(row_of(CLEAN, 0, 0.5))
    results.add(row_of("square", 8.0, 1 / 3))
    header = ",".join([*FACTS, "attack,eps,steps,step_size,n,accuracy,auroc,seconds,mean_l2,mean_linf,mean_queries"])
    first, second = "none,0,20,0.5,2,0.500000,,1.250,0.5,8,3", "square,8,20,0.5,2,0.333333,,1.250,0.5,8,3"
    assert results.csv_path.read_text().splitlines() == [
        header,
        *(",".join([*FACTS.values(), row]) for row in (first, second)),
    ]
    content = json.loads(results.json_path.read_text())
    assert list(content) == [*FACTS, "run", "versions", "rows"]
    keys = ["attack", "eps", "steps", "step_size", "n", "scores", "seconds", "outcomes"]
    assert list(content["rows"][0]) == [*keys, "l2", "linf", "queries", "losses", "notes"]
    assert content["rows"][1]["linf"] == 8.0 and content["rows"][1]["scores"] == {"accuracy": 1 / 3, "auroc": None}


def test_resume(tmp_path: Path) -> None:
    """Fails if rows of the same run are lost, or those of another run, another version or a damaged file are used."""
    results = results_in(tmp_path)
    results.add(row_of(CLEAN, 0, 0.5))
    results.add(row_of("pgd", 8.0, 0.25))
    again = results_in(tmp_path)
    assert again.resume() == [] and [row.attack for row in again.rows] == [CLEAN, "pgd"]
    assert math.isnan(again.row("pgd", 8.0).scores["auroc"]) and again.find("pgd", 4.0) is None
    raw = again.json_path.read_text()
    again.save()
    assert again.json_path.read_text() == raw

    content = json.loads(raw)
    content["rows"][0]["beauty"] = 1
    for number, text in enumerate([json.dumps(content), raw.replace('"outcomes": [0, 1]', '"outcomes": [0]'), "{"]):
        again.json_path.write_text(text)
        fresh = results_in(tmp_path)
        names = [f"x.csv.earlier-{number + 1}", f"x.json.earlier-{number + 1}"]
        assert [path.name for path in fresh.resume()] == names and fresh.rows == []
        again.save()
    assert len(results_in(tmp_path, seed=1).resume()) == 2


def test_stem() -> None:
    """Fails if the results of a transfer attack have the name of white-box results."""
    target, source = Path("a/t.1"), Path("b/s.1")
    assert result_stem(Path("r"), "mel", target, target) == Path("r/mel__t.1")
    assert result_stem(Path("r"), "mel", target, source) == Path("r/mel__t.1__from__s.1")
