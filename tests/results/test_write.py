"""Writing result files, and continuing those of an earlier run."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest

from advmia.budgets import Budget
from advmia.results.rows import CLEAN, ResultRow
from advmia.results.write import ResultFile, result_stem
from advmia.runtime.files import write_lock

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
    header = ",".join(
        [*FACTS, "attack,eps,steps,step_size,n,accuracy,auroc,seconds,mean_l2,mean_linf,mean_queries,warnings"]
    )
    first, second = "none,0,20,0.5,2,0.500000,,1.250,0.5,8,3,", "square,8,20,0.5,2,0.333333,,1.250,0.5,8,3,"
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


def test_runs_with_other_settings(tmp_path: Path) -> None:
    """Fails if a run's results are renamed, replaced or mixed by a run of another seed, list or network, or if a run
    does not find its own rows among those of the others."""
    runs: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"data": {"content": "phantom", "images": 2}},
        {"target_sha256": "u"},
    ]
    for _ in range(2):
        for number, run in enumerate(runs):
            results = results_in(tmp_path, **run)
            assert results.resume() == []
            if results.rows:
                assert results.row(CLEAN, 0).scores["accuracy"] == number / 4
            else:
                results.add(row_of(CLEAN, 0, number / 4))
    names = sorted(path.name for path in tmp_path.glob("*.json"))
    assert len(names) == 4 and names[-1] == "x.json"
    assert all(re.fullmatch(r"x\.[0-9a-f]{8}\.json", name) for name in names[:-1])
    assert len(list(tmp_path.iterdir())) == 8, "a CSV beside each"

    (tmp_path / "x.json").unlink()  # the name is free again: a new run takes it, and the others find their own
    new, old = results_in(tmp_path, seed=2), results_in(tmp_path, seed=1)
    assert new.resume() == [tmp_path / "x.csv.earlier-1"] and new.rows == [] and new.json_path.name == "x.json"
    assert old.resume() == [] and old.row(CLEAN, 0).scores["accuracy"] == 1 / 4
    own = old.json_path
    own.write_text("{")
    again = results_in(tmp_path, seed=1)
    new.add(row_of(CLEAN, 0, 0.5))
    assert {path.name for path in again.resume()} == {f"{own.stem}.{kind}.earlier-1" for kind in ("csv", "json")}
    assert again.json_path == own


def test_stem() -> None:
    """Fails if the results of a transfer attack have the name of white-box results."""
    target, source = Path("a/t.1"), Path("b/s.1")
    assert result_stem(Path("r"), "mel", target, None) == Path("r/mel__t.1")
    assert result_stem(Path("r"), "mel", target, source) == Path("r/mel__t.1__from__s.1")
    assert result_stem(Path("r"), "mel", target, source, "seed1__") == Path("r/mel__t.1__from__seed1__s.1")


@pytest.mark.parametrize("letter", ["n", "ü", "\udcff"], ids=["ascii", "two bytes", "no UTF-8"])
def test_long_names(letter: str, tmp_path: Path) -> None:
    """Fails if the results of two checkpoints with long names cannot be written, found, locked or renamed, have one
    name, or if names that fit are changed."""
    longest = 255 // len(os.fsencode(letter))
    stems = {result_stem(tmp_path, "xray", Path(letter * longest), Path(source + letter * 100)) for source in "ab"}
    assert len(stems) == 2
    for number, stem in enumerate(sorted(stems)):
        runs = [RUN | {"seed": seed, "number": number} for seed in (0, 1)]
        for run in runs:
            results = ResultFile(stem, FACTS, ("accuracy", "auroc"), run, {})
            with write_lock(stem):
                assert results.resume() == []
                partial = results.partial_evaluation("apgd-margin", Budget.grey(1.2e-05, 20, 0.5))
                partial.save({"a": 1})
                assert partial.load() == {"a": 1}
                results.add(row_of("apgd-margin", 1.2e-05, 0.5))
                assert partial.load() is None, "partial progress is removed with the row"
            again = ResultFile(stem, FACTS, ("accuracy", "auroc"), run, {})
            assert again.resume() == [] and len(again.rows) == 1
    assert len(list(tmp_path.iterdir())) == 8
    stem.with_name(f"{stem.name}.json").write_text("{")
    assert len(ResultFile(stem, FACTS, ("accuracy",), RUN, {}).resume()) == 2
    fits = "t" * (241 - len("mel__"))
    assert result_stem(tmp_path, "mel", Path(fits), None).name == f"mel__{fits}"
