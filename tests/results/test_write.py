"""Writing result files, and continuing those of an earlier run."""

from __future__ import annotations

import json
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from advmia.budgets import Budget
from advmia.results.read import read_results
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


def test_two_runs_add_rows_at_the_same_time(tmp_path: Path) -> None:
    """Fails if a run removes or repeats rows that another has added since it began, mixes them with those of a run with
    other settings, or loses its own with files that are removed or damaged meanwhile."""
    first, second, other = results_in(tmp_path), results_in(tmp_path), results_in(tmp_path, seed=1)
    for results in (first, second, other):
        with results.locked() as renamed:
            assert renamed == [] and results.stem == tmp_path / "x"
    first.add(row_of(CLEAN, 0, 0.5))
    second.add(row_of(CLEAN, 0, 0.25))
    second.add(row_of("cw", 8.0, 0.25), row_of("cw", 4.0, 0.5))
    other.add(row_of(CLEAN, 0, 1.0))
    first.add(row_of("pgd", 8.0, 0.0))
    keys = [(CLEAN, 0.0), ("cw", 8.0), ("cw", 4.0), ("pgd", 8.0)]
    assert [row.key[:2] for row in read_results(first.json_path).rows] == keys
    assert first.row(CLEAN, 0).scores["accuracy"] == 0.5 and first.json_path == second.json_path
    assert other.json_path != first.json_path and [row.key[:2] for row in other.rows] == keys[:1]
    for damage in (Path.unlink, lambda path: path.write_text("{")):
        damage(first.json_path)
        first.add(row_of("pgd", 8.0, 0.0))
        assert [row.key[:2] for row in read_results(first.json_path).rows] == keys
    first.json_path.unlink()
    results_in(tmp_path).add(row_of("cw", 2.0, 0.5))
    first.add(row_of("pgd", 8.0, 0.0))
    assert [row.key[:2] for row in read_results(first.json_path).rows] == [("cw", 2.0), *keys]
    assert len(list(tmp_path.glob("x.json.earlier-*"))) == 1 and not list(tmp_path.glob(".*"))


def test_rows_are_computed_by_one_run_at_a_time(tmp_path: Path) -> None:
    """Fails if two runs compute one row at the same time, if one of them does not find it when the other has added it,
    or if a run waits for another row."""
    first, second = results_in(tmp_path), results_in(tmp_path)
    pgd, cw = ("pgd", 8.0, 1, False), ("cw", 8.0, 1, False)

    def wait() -> bool:
        with second.turn(pgd) as is_missing:
            return is_missing

    with ThreadPoolExecutor(1) as pool:
        with first.turn(pgd) as is_missing, results_in(tmp_path).turn(cw) as is_also_missing:
            assert is_missing and is_also_missing
            waiting = pool.submit(wait)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
            first.add(row_of("pgd", 8.0, 0.5))
        assert waiting.result(timeout=60) is False
    assert second.row("pgd", 8.0).scores["accuracy"] == 0.5
    with second.turn(pgd, ("pgd", 8.0, 1, True)) as is_missing:
        assert is_missing, "that of 8 bits is not there"


@pytest.mark.parametrize(
    ("changes", "is_taken"),
    [
        ({"seed": 1}, True),
        ({"source_sha256": "s"}, True),
        ({"target_sha256": "u", "source_sha256": "u"}, False),
        ({"size": 32}, False),
        ({"precision": "bf16"}, False),
        ({"noise": "grey"}, False),
        ({"data": {"content": "phantom", "images": 3}}, False),
        ({"versions": {"device": "cpu", "torch": "1"}}, False),
    ],
    ids=str,
)
def test_clean_rows_of_other_results(changes: dict[str, Any], is_taken: bool, tmp_path: Path) -> None:
    """Fails if the clean images are scored again although results beside have the same row, or the row of another
    network, other images, another precision or other packages is taken."""
    other = results_in(tmp_path, **{name: value for name, value in changes.items() if name != "versions"})
    other.details["versions"] = changes.get("versions", {"device": "cpu"})
    other.add(row_of("pgd", 8.0, 0.25))
    results = ResultFile(tmp_path / "x__from__s", FACTS, ("accuracy", "auroc"), RUN, {"versions": {"device": "cpu"}})
    assert results.clean_row_beside() is None
    other.add(row_of(CLEAN, 0, 0.5))
    found = results.clean_row_beside()
    assert (found is not None) == is_taken and (found is None or found.scores["accuracy"] == 0.5)
    for file in (other, results):
        file.details["versions"] = {"device": "NVIDIA A100"}
    other.save()
    assert results.clean_row_beside() is None, "on a GPU, outcomes depend on the batch size"


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
            assert results.resume() == []
            with results.turn(("apgd-margin", 1.2e-05, 1, False)):
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
