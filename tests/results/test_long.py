"""Results in long form, as pandas reads them."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from advmia.results import tables
from advmia.results.intervals import wilson
from advmia.results.tables import write_tables
from tests.results.examples import EXAMPLES, NAT, PGDAT, TRANSFER, change, example, save, with_hits
from tests.results.test_seeds import save_seeds


def read_long(*paths: Path, **options: Any) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(write_tables(paths, None, form="long", **options)))


def test_every_score_of_every_file_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a score is missing, rounded, there twice or of another attack, or one of its facts is another's."""
    monkeypatch.chdir(EXAMPLES)
    paths = sorted(Path("results").glob("*.json"))
    frame = read_long(*paths)
    assert frame.shape[0] == sum(len(row["scores"]) for path in paths for row in example(path.stem)["rows"])
    for path in paths:
        content = example(path.stem)
        for row in content["rows"]:
            of_row = frame[(frame.file == str(path)) & (frame.attack == row["attack"]) & (frame.eps == row["eps"])]
            values = dict(zip(of_row.score, of_row.value, strict=True))
            scores = {name: math.nan if value is None else value for name, value in row["scores"].items()}
            assert values == pytest.approx(scores, abs=0, rel=1e-15, nan_ok=True)
            facts = {"dataset": content["dataset"], "images": row["n"], "steps": row["steps"], "restarts": 1}
            facts |= {"step_size": row["step_size"], "eight_bits": False, "weight": content["target_weight"]}
            assert all((of_row[name] == value).all() for name, value in facts.items())
    accuracy = frame[(frame.score == "accuracy") & (frame.file == f"results/{NAT}.json") & (frame.attack == "none")]
    assert (accuracy.low.item(), accuracy.high.item()) == pytest.approx(wilson(12, 15))
    assert frame[frame.score == "recall"].low.isna().all()
    transfer = frame[frame.file == f"results/{TRANSFER}.json"]
    assert set(transfer.source_weight) == {example(TRANSFER)["source_weight"]}
    assert frame[frame.file == f"results/{NAT}.json"].source_weight.isna().all()
    out = tmp_path / "out"
    monkeypatch.setattr(tables, "plot_curves", lambda *_: [])  # tested on their own
    write_tables([Path(f"results/{NAT}.json")], out, form="long")
    assert len(pd.read_csv(out / "tables.long.csv")) == len(frame[frame.file == f"results/{NAT}.json"])


def test_several_seeds(tmp_path: Path) -> None:
    """Fails if a mean has no deviation, or the trainings by themselves have one."""
    save_seeds(tmp_path, (9, 12, 14))
    (mean,) = read_long(tmp_path).itertuples()
    scores = pd.Series([9, 12, 14]) / 15
    assert (mean.value, mean.deviation) == pytest.approx((scores.mean(), scores.std()))
    assert (mean.trainings, mean.training_seed, mean.training_eps) == (3, "0-2", 8) and math.isnan(mean.low)
    single = read_long(tmp_path, per_seed=True)
    assert list(single.training_seed) == [0, 1, 2] and list(single.value) == pytest.approx(list(scores))
    assert single.deviation.isna().all() and (single.trainings == 1).all()


def test_names_and_warnings_are_kept(tmp_path: Path) -> None:
    """Fails if a name with signs of CSV takes several fields, or a warning is lost."""
    name = 'a "b", c\nd;皮'
    checks = [{"check": "mode", "verdict": "warning", "reason": "one, two"}]
    content = with_hits(example(PGDAT), [True] * 15) | {"dataset": name, "reliability": checks}
    save(tmp_path, "x", change(content, "target_weight", "folder/=name"))
    (row,) = read_long(tmp_path).itertuples()
    assert (row.dataset, row.weight, row.warnings) == (name, "folder/=name", "mode: one, two")
