"""Trainings that are equal but for their seed: grouped, averaged, told from those that are not."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from advmia.errors import UserError
from advmia.results.plots import curves_of
from advmia.results.read import read_records
from advmia.results.scored import score_run
from advmia.results.seeds import group_seeds
from advmia.results.tables import write_tables
from tests.results.examples import NAT, PGDAT, TRANSFER, change, example, save, table_of, with_hits

ACCURACY = "mv2: accuracy"


def digest(name: str, seed: int) -> str:
    """Returns the SHA-256 that stands for the weights of a network."""
    return f"{name[-3:]}{seed}".ljust(64, "0")


def of_seed(content: dict[str, Any], seed: int, method: str = "") -> dict[str, Any]:
    """Returns a white-box result of another seed of the same training. `method`: another name for the method."""
    name = method or content["target_training"]["method"]
    changed = change(content, "target_training.seed", seed)
    changed["target_training"]["method"] = name
    changed["run"] |= {"target_sha256": digest(name, seed), "source_sha256": digest(name, seed)}
    return changed


def hits(count: int) -> list[bool]:
    return [image < count for image in range(15)]


def save_seeds(folder: Path, counts: Sequence[int], name: str = PGDAT) -> list[dict[str, Any]]:
    """Writes a result for each seed, of which so many images are right: seed 0 into the folder, others into seedN."""
    contents = [of_seed(with_hits(example(name), hits(count)), seed) for seed, count in enumerate(counts)]
    for seed, content in enumerate(contents):
        save(folder / f"seed{seed}" if seed else folder, name, content)
    return contents


def cells(folder: Path, *, title: str = ACCURACY, **options: Any) -> dict[str, list[str]]:
    """Returns the cells of each method's last row."""
    return {row[0]: row[1:] for row in table_of(write_tables([folder], None, **options), title)[1:]}


def test_mean_and_deviation(tmp_path: Path) -> None:
    """Fails if the mean, the sample deviation or the number of seeds is wrong in any format, the words beneath the
    table are missing, or --perSeed averages."""
    save_seeds(tmp_path, (9, 12, 14))
    scores = [100 * count / 15 for count in (9, 12, 14)]
    mean, deviation = f"{statistics.mean(scores):.1f}", f"{statistics.stdev(scores):.1f}"
    text = write_tables([tmp_path], None)
    assert table_of(text, ACCURACY) == [
        ["method", "images", "clean"],
        ["pgdat 8", "15", f"{mean} +- {deviation} (3 seeds)"],
    ]
    assert text.count("+- is the standard deviation over the seeds") == 1 and "over the images" in text
    lines = list(csv.reader(io.StringIO(write_tables([tmp_path], None, form="csv"))))
    assert lines[2] == ["pgdat 8", "15", f"{mean} +- {deviation} (3 seeds)"]
    latex = write_tables([tmp_path], None, form="latex")
    assert (
        rf"""pgdat 8 & 15 & {mean} \\[-3pt]
 &  & {{\scriptsize $\pm$ {deviation}}} \\[-3pt]
 &  & {{\scriptsize (3 seeds)}} \\
"""
        in latex
    )
    text = write_tables([tmp_path], None, per_seed=True)
    assert [row[1] for row in table_of(text, ACCURACY)[1:]] == [f"trained: seed {seed}" for seed in range(3)]
    assert "+-" not in text and [row[3].split()[0] for row in table_of(text, ACCURACY)[1:]] == ["60.0", "80.0", "93.3"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("run.size", 32),
        ("run.seed", 1),
        ("run.precision", "bf16"),
        ("run.data.sha256", "0" * 64),
        ("run.data.pixels_crc32", "0"),
        ("run.noise", "grey"),
        ("target_training.lr", 0.5),
        ("target_training.eps", 4.0),
        ("target_training.processes", 2),
        ("target_training.init", "weights 0123456789ab"),
        ("target_training.train_data.sha256", "0" * 64),
        ("dataset", "melBin"),
        ("target_training.seed", None),
        ("target_training", None),
    ],
)
def test_unlike_things_are_not_averaged(path: str, value: object, tmp_path: Path) -> None:
    """Fails if results that differ in more than the seed of the training are averaged."""
    _, second = save_seeds(tmp_path, (9, 12))
    save(tmp_path / "seed1", PGDAT, change(second, path, value))
    assert "seeds)" not in write_tables([tmp_path], None)


def test_a_seed_that_is_there_twice(tmp_path: Path) -> None:
    """Fails if two networks, or two results, of one seed are averaged as if they were two seeds, or nothing is said."""
    first, _ = save_seeds(tmp_path, (9, 12))
    save(tmp_path, "again", first | {"versions": {"torch": "9"}})
    text = write_tables([tmp_path], None)
    assert "seeds)" not in text and text.count("pgdat 8 is not averaged over seeds: a seed has several") == 1
    assert [row[-1] for row in table_of(text, ACCURACY)[1:]] == [
        *["60.0 (35.7-80.2) (1 seed)"] * 2,
        "80.0 (54.8-93.0) (1 seed)",
    ]
    other = change(change(first, "run.target_sha256", "e" * 64), "run.source_sha256", "e" * 64)
    save(tmp_path, "again", other)
    text = write_tables([tmp_path], None)
    assert "seeds)" not in text and text.count("pgdat 8 is not averaged over seeds: a seed has several") == 1


def test_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if HAT trainings with helpers of other seeds are not averaged, those with other helpers are, or an unknown
    helper is not said. The helper's training is known by its test, or by its record beside the checkpoint."""
    natural = save_seeds(tmp_path / "nat", (9, 12), NAT)
    for seed in (0, 1):
        content = of_seed(with_hits(example(PGDAT), hits(8 + seed)), seed, "hat")
        save(tmp_path / "hat", str(seed), change(content, "target_training.helper", digest("nat", seed)))
    monkeypatch.chdir(tmp_path)

    def hat_cell() -> str:
        return table_of(write_tables([Path("nat"), Path("hat")], None), ACCURACY)[-1][-1]

    assert hat_cell() == "56.7 +- 4.7 (2 seeds)"
    save(Path("nat/seed1"), NAT, change(natural[1], "target_training.lr", 0.5))
    assert hat_cell() == "60.0 (35.7-80.2)"
    text = write_tables([Path("hat")], None)
    assert text.count("hat 8 is not averaged over seeds: the training of its helper is not known") == 1
    for seed, content in enumerate(natural):
        record = {"settings": content["target_training"], "weights_sha256": digest("nat", seed)}
        save(Path("clsCkpt"), f"nat{seed}", record)
    assert "(2 seeds)" in write_tables([Path("hat")], None)


def test_some_seeds_lack_a_column(tmp_path: Path) -> None:
    """Fails if a mean over fewer seeds than the row has does not say so, or an undefined score spoils the mean."""
    save_seeds(tmp_path, (9, 12))
    content = of_seed(example(PGDAT), 2)
    content["rows"][0]["scores"]["f1"] = None
    save(tmp_path / "seed2", PGDAT, content)
    row = cells(tmp_path)["pgdat 8"]
    assert row[1] == "75.6 +- 13.9 (3 seeds)" and row[-1] == "66.7 (41.7-84.8) (1 seed)"
    assert cells(tmp_path, title="mv2: f1", scores=["f1"])["pgdat 8"][1] == "undefined"
    content["rows"][0]["scores"]["f1"] = 0.5
    save(tmp_path / "seed2", PGDAT, content)
    assert cells(tmp_path, title="mv2: f1", scores=["f1"])["pgdat 8"][1] == "50.0 (1 seed)"


def test_warnings_of_a_seed(tmp_path: Path) -> None:
    """Fails if a mean that has an unfinished or a warned result in it does not say so, or is the best."""
    contents = save_seeds(tmp_path, (14, 14))
    save(tmp_path, "x", with_hits(example(NAT), hits(2)))
    save(tmp_path / "seed1", PGDAT, contents[1] | {"finished": False})
    text = write_tables([tmp_path], None)
    row = table_of(text, ACCURACY)[-1]
    assert row[-1] == "93.3 +- 0.0 (2 seeds) †" and "\n† pgdat 8 (trained: seed 0-1): seed 1: unfinished: " in text


def test_the_best_over_seeds(tmp_path: Path) -> None:
    """Fails if a difference between means that the seeds explain is marked, a clear one is not, or a score of one seed
    is compared with a mean."""
    save_seeds(tmp_path, (15, 15, 14))
    save_seeds(tmp_path, (2, 3, 1), NAT)
    text = write_tables([tmp_path], None)
    assert [row[-1].startswith("**") for row in table_of(text, ACCURACY)[1:]] == [False, True]
    assert "Clark's min F' over seeds and images does not tell from it (level 0.05" in text
    save_seeds(tmp_path, (15, 15, 0), NAT)
    assert "**" not in write_tables([tmp_path], None)
    for path in (tmp_path / "seed1", tmp_path / "seed2"):
        (path / f"{NAT}.json").unlink()
    save(tmp_path, NAT, with_hits(example(NAT), hits(0)))
    text = write_tables([tmp_path], None)
    assert "**" not in text and "Beside means over several seeds, a score of one seed is not compared" in text


def transferred(content: dict[str, Any], source_seed: int, source: str, training: dict[str, Any]) -> dict[str, Any]:
    changed = change(content, "run.source_sha256", digest(source, source_seed))
    return changed | {"source_training": training | {"seed": source_seed}}


def test_transfer(tmp_path: Path) -> None:
    """Fails if transfer attacks of two seeds are not averaged, or those between two seeds of one training count as
    white-box."""
    training = example(NAT)["target_training"]
    counts = {0: 9, 1: 12}
    save_seeds(tmp_path, (15, 13))
    save_seeds(tmp_path, (3, 4), NAT)
    for seed, count in counts.items():
        content = of_seed(example(TRANSFER), seed)
        for row in content["rows"]:
            row["outcomes"], row["scores"] = row["outcomes"], {"accuracy": count / 15}
        save(tmp_path, f"from-nat{seed}", transferred(content, seed, "nat", training))
        own = content["target_training"]
        save(tmp_path, f"from-own{seed}", transferred(content, 1 - seed, "pgdat", own))
    text = write_tables([tmp_path], None)
    rows = {row[0]: row[1:] for row in table_of(text, "transfer of pgd 8")[1:]}
    assert rows == {
        "mv2 nat": ["70.0 +- 14.1 (2 seeds)"],
        "mv2 pgdat 8 (another seed)": ["70.0 +- 14.1 (2 seeds)"],
        "none: clean": ["93.3 +- 9.4 (2 seeds)"],
    }
    assert "+- is the standard deviation" in text.partition("transfer of pgd 8")[2]
    save(tmp_path, "crossed", transferred(content, 0, "nat", training))
    assert "pgdat 8 is not averaged over seeds" in write_tables([tmp_path], None).partition("transfer of pgd 8")[2]


def test_curves_and_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a curve of several seeds has bars over images or no word of the seeds, or a row of costs has the epochs
    of one seed only."""
    contents = [of_seed(example(PGDAT), seed) for seed in (0, 1)]
    contents[1]["rows"][0] |= with_hits(contents[1], hits(15))["rows"][0]
    for seed, content in enumerate(contents):
        save(tmp_path, str(seed), content)
        record = {"settings": content["target_training"], "epochs": [{"seconds": 1.0 + seed}] * 2}
        path = tmp_path / f"{content['target_weight']}.json"
        path.parent.mkdir(exist_ok=True)
        path.with_name(path.name + (f".earlier-{seed}" if seed else "")).write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path)
    (run,) = group_seeds([score_run(record) for record in read_records([tmp_path])])
    (curve,) = curves_of([run], "accuracy")
    first = curve.points["pgd"][0]
    scores = [100 * content["rows"][0]["scores"]["accuracy"] for content in contents]
    mean, deviation = statistics.mean(scores), statistics.stdev(scores)
    assert (first.score, first.low, first.high) == pytest.approx((mean, mean - deviation, mean + deviation))
    assert curve.label == "pgdat 8 (2 seeds)"
    assert table_of(write_tables([tmp_path], None), "seconds an epoch")[1] == ["pgdat 8", "4", "1.5 (1.0-2.0)"]


def test_only_folders_of_seeds_are_read(tmp_path: Path) -> None:
    """Fails if results in another folder are read too, or a folder with seeds only counts as empty."""
    for folder in ("seed1", "seedless", "seed01", "old"):
        save(tmp_path / folder, "x", example(NAT))
    assert [record.file.parent.name for record in read_records([tmp_path])] == ["seed1"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no result files"):
        read_records([tmp_path / "empty"])
