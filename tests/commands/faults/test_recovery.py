"""Damaged files that a command replaces or keeps aside, and odd files that it accepts."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.downloads import make_isic
from tests.support.faults import PREPARE, RESUME, TEST, RunHere, lines_without_seconds
from tests.support.spoiling import LISTS, Change, Malicious, change_record, copy_interrupted, flip_bit, write


@pytest.fixture
def run_in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, run_here: RunHere) -> RunHere:
    """Runs a command line in the folder, as `main` in this process."""
    monkeypatch.chdir(folder)
    return run_here


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "bit", "empty", "pickle", "facts", "facts too deep"])
def test_damaged_caches_are_built_again(how: str, folder: Path, run_in_folder: RunHere) -> None:
    """Fails if pixels of a damaged cache are used, or anything in a cache file is executed."""
    for path in (folder / "data" / "cache").glob("*.json" if "facts" in how else "*.npy"):
        raw = path.read_bytes()
        malicious = io.BytesIO()
        np.save(malicious, np.array([Malicious()], dtype=object), allow_pickle=True)
        contents = {"cut": raw[:-9], "bit": flip_bit(raw, len(raw) // 2), "empty": b"", "pickle": malicious.getvalue()}
        path.write_bytes(contents.get(how, b"[" * (200_000 if how == "facts too deep" else 1)))
    status, stderr = run_in_folder(TEST)
    assert status == 0, stderr
    result, expected = (folder / name / "melBin__mv2.csv" for name in ("new", "results"))
    assert lines_without_seconds(result) == lines_without_seconds(expected)
    assert not (folder / "harm").exists()


def remove_scores(record: dict[str, Any]) -> None:
    record["rows"][0].pop("scores")


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(write("results/melBin__mv2.json", b"{"), id="cut"),
        pytest.param(write("results/melBin__mv2.json", pickle.dumps(Malicious())), id="pickle"),
        pytest.param(change_record(remove_scores), id="row"),
        pytest.param(change_record(lambda record: record.update(rows={"a": 1})), id="rows"),
    ],
)
def test_damaged_results_are_kept(spoil: Change, folder: Path, run_in_folder: RunHere) -> None:
    """Fails if results that cannot be continued are lost, or mixed with new ones."""
    spoil(folder)
    before = (folder / "results" / "melBin__mv2.json").read_bytes()
    status, stderr = run_in_folder(f"{TEST} --resultDir results")
    assert status == 0, stderr
    assert (folder / "results" / "melBin__mv2.json.earlier-1").read_bytes() == before
    assert json.loads((folder / "results" / "melBin__mv2.json").read_text())["rows"][0]["attack"] == "none"


def test_a_loss_that_is_not_finite_keeps_the_state(folder: Path, run_in_folder: RunHere) -> None:
    """Fails if a training whose loss is no number overwrites its last state, in which all weights are finite."""
    copy_interrupted(folder)
    (path,) = (folder / "interrupted").glob("*.state")
    before = path.read_bytes()
    status, stderr = run_in_folder(RESUME)
    assert status == 2 and "the loss became nan in epoch 1, step 2 of 3" in stderr.splitlines()[-1]
    assert path.read_bytes() == before
    network = torch.load(io.BytesIO(before[32:]), weights_only=True)["parts"]["network"]
    assert all(tensor.isfinite().all() for tensor in network.values())


def test_symbolic_links(folder: Path, run_in_folder: Callable[..., tuple[int, str]]) -> None:
    """Fails if links that a user, or `prepare --link`, has made in the data root stop working."""
    (folder / LISTS / "img").rename(folder / "elsewhere")
    (folder / LISTS / "img").symlink_to(folder / "elsewhere")
    make_isic(folder / "source")
    (folder / "source" / "loop").symlink_to(folder / "source")
    for command in (TEST, f"{PREPARE} isic2017 --source source --link"):
        status, stderr = run_in_folder(command)
        assert status == 0, stderr
    assert (folder / "new" / "mel2017" / "img" / "ISIC_0000001.jpg").is_symlink()
