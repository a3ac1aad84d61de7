"""Runs of one method are told apart by what they differ in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from advmia.results.differences import distinguish, identity_columns, network_names
from advmia.results.read import RunRecord, read_results
from tests.results.examples import NAT, PGDAT, change, example, save

CHANGES: list[tuple[str, object, list[str]]] = [
    ("run.seed", 1, ["tested: seed 0", "tested: seed 1"]),
    ("run.size", 32, ["tested: size 16", "tested: size 32"]),
    ("target_training.epochs", 100, ["trained: epochs 6", "trained: epochs 100"]),
    ("target_training.val_fraction", 0.1, ["trained: val fraction none", "trained: val fraction 0.1"]),
    ("target_training.ema", 0.995, ["", "trained: ema 0.995"]),
    ("target_training.awp_warm_up", 2, ["", "trained: awp warm up 2"]),
    ("target_training.validate_every", 5, ["", "trained: validate every 5"]),
    ("target_training.beta", 3.0, ["trained: beta 0", "trained: beta 3"]),
    ("target_training.attack_loss", "segpgd", ["trained: attack loss cross-entropy", "trained: attack loss segpgd"]),
    ("target_training.train_data.content", "official", ["trained: content phantom", "trained: content official"]),
    ("run.data.sha256", "f" * 64, ["tested: list <own>", "tested: list ffffffff"]),
    ("run.target_sha256", "e" * 64, ["weights <own>", "weights eeeeeeee"]),
    ("versions", {}, ["file <a>", "file <b>"]),
]


def records_of(folder: Path, *contents: dict[str, Any]) -> list[RunRecord]:
    """Writes result files with these contents and returns their records, in order: `a.json`, `b.json`, ..."""
    return [read_results(save(folder, "abc"[number], content)) for number, content in enumerate(contents)]


def test_runs_of_one_method_are_told_apart(tmp_path: Path) -> None:
    """Fails if runs that differ in one fact have the same text, or a text that does not name the fact."""
    content = example(PGDAT)
    for number, (path, value, texts) in enumerate(CHANGES):
        changed = change(content, path, value)
        if path == "run.target_sha256":
            changed["run"]["source_sha256"] = value  # white-box as before
        a, b = records_of(tmp_path / str(number), content, changed)
        own = a.target if "weights" in texts[0] else a.run["data"]["sha256"]
        expected = [text.replace("<own>", own[:8]).replace("<a>", str(a.file)) for text in texts]
        assert distinguish([a, b]) == [text.replace("<b>", str(b.file)) for text in expected], path
        heads, identities = identity_columns([a, b])
        assert heads == ["method", "setting"] and [row[0] for row in identities] == ["pgdat 8", "pgdat 8"]


def test_several_differences(tmp_path: Path) -> None:
    """Fails if a text names one difference of several, or those of training and test in another order."""
    content = example(PGDAT)
    trained = change(content, "target_training.lr", 0.5)
    texts = distinguish(records_of(tmp_path, content, trained, change(trained, "run.seed", 1)))
    assert texts == [
        "trained: lr 0.01; tested: seed 0",
        "trained: lr 0.5; tested: seed 0",
        "trained: lr 0.5; tested: seed 1",
    ]


def test_settings_of_a_method_are_compared_within_it(tmp_path: Path) -> None:
    """Fails if methods, which differ in steps and beta by nature, are said to differ in them."""
    records = records_of(tmp_path, example(NAT), example(PGDAT))
    assert identity_columns(records) == (["method"], [["nat"], ["pgdat 8"]])


def test_network_names(tmp_path: Path) -> None:
    """Fails if two networks have one name, or a name says more than is needed to tell them apart."""
    pgdat = example(PGDAT)
    other = change(change(pgdat, "target_training.seed", 1), "run.target_sha256", "e" * 64)
    records = records_of(tmp_path, example(NAT), pgdat, other)
    names = ["mv2 nat", "mv2 pgdat 8 (trained: seed 0)", "mv2 pgdat 8 (trained: seed 1)"]
    assert network_names(records) == {record.target: name for record, name in zip(records, names, strict=True)}
    equal = records_of(tmp_path, pgdat, change(pgdat, "run.target_sha256", "e" * 64))
    assert network_names(equal)["e" * 64] == "mv2 pgdat 8 (weights eeeeeeee)"
