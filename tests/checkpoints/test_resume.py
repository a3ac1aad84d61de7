"""The state of a training on disk, and what a new training does with the files that it finds."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from advmia.checkpoints.best import BestCheckpoint, read_all_records, read_record, read_record_of, read_training_of
from advmia.checkpoints.paths import all_paths, record_path, state_path
from advmia.checkpoints.reading import load_weights
from advmia.checkpoints.resume import (
    CheckpointStatus,
    RandomState,
    Stateful,
    read_training,
    rename_earlier_training,
    save_training,
    status_of,
)
from advmia.errors import UserError
from advmia.runtime.files import rename_existing
from tests.checkpoints.settings import PGDAT, pgdat


def network(value: float = 0.0) -> nn.Module:
    model = nn.Linear(2, 1)
    nn.init.constant_(model.weight, value)
    nn.init.zeros_(model.bias)
    return model


def by_score(epoch: dict[str, Any], best: dict[str, Any]) -> bool:
    return bool(epoch["score"] > best["score"])


def test_state_is_read_as_it_was_saved(tmp_path: Path) -> None:
    """Fails if a part is left out, or random numbers differ after resuming."""
    checkpoint, model, generators = tmp_path / "a.b", network(1.5), RandomState()
    parts: dict[str, Stateful] = {"network": model, "generators": generators}
    assert read_training(checkpoint, PGDAT) is None
    save_training(checkpoint, PGDAT, parts)
    expected = torch.rand(3)
    states = read_training(checkpoint, PGDAT)
    assert states is not None and set(states) == set(parts)
    assert torch.equal(states["network"]["weight"], torch.full((1, 2), 1.5))
    generators.load_state_dict(states["generators"])
    assert torch.equal(torch.rand(3), expected)


def test_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    """Fails if a training resumes from the state of another one, or the error does not name what differs."""
    save_training(tmp_path / "a", PGDAT, {})
    with pytest.raises(UserError, match=r"eps was 2.0, is 8.0; train_data images was 18, is 9\. .*leave out --resume"):
        read_training(tmp_path / "a", pgdat(grey_eps=8.0, train_data={"images": 9}))


def test_damaged_state_is_refused(tmp_path: Path) -> None:
    """Fails if a state file of which a byte has changed is used."""
    save_training(tmp_path / "a", PGDAT, {})
    path = state_path(tmp_path / "a")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged.*leave out --resume"):
        read_training(tmp_path / "a", PGDAT)


def test_status(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Fails if a finished training would be repeated, or one of other settings or other weights is taken for it."""
    checkpoint = tmp_path / "a"
    assert status_of(checkpoint, PGDAT) is CheckpointStatus.ABSENT
    best = BestCheckpoint(checkpoint, PGDAT, {}, network(), by_score)
    best.offer({"number": 1, "score": 0.5}, 0.5)
    assert status_of(checkpoint, PGDAT) is CheckpointStatus.UNFINISHED
    best.finish()
    assert status_of(checkpoint, PGDAT) is CheckpointStatus.FINISHED
    assert status_of(checkpoint, pgdat(seed=1)) is CheckpointStatus.DIFFERENT
    content = json.loads(record_path(checkpoint).read_text())
    earlier = {key: value for key, value in content.items() if key != "weights_sha256"}
    assert content["weights_sha256"] == sha256(checkpoint.read_bytes()).hexdigest()
    assert capsys.readouterr().err == ""
    checkpoint.write_bytes(b"of another seed")
    assert status_of(checkpoint, PGDAT) is CheckpointStatus.DIFFERENT
    message = capsys.readouterr().err
    assert f"a.json is the record of other weights than those in {checkpoint}" in message and message.count("\n") == 1
    record_path(checkpoint).write_text(json.dumps(earlier))  # of an earlier version
    assert status_of(checkpoint, PGDAT) is CheckpointStatus.FINISHED
    record_path(checkpoint).write_text("[")
    assert status_of(checkpoint, PGDAT) is CheckpointStatus.DIFFERENT


@pytest.mark.parametrize(
    ("resume", "state", "status", "renamed"),
    [
        (False, False, CheckpointStatus.DIFFERENT, True),
        (False, True, CheckpointStatus.UNFINISHED, True),
        (True, True, CheckpointStatus.UNFINISHED, False),
        (True, False, CheckpointStatus.UNFINISHED, False),
        (True, False, CheckpointStatus.DIFFERENT, True),
    ],
)
def test_renaming(tmp_path: Path, resume: bool, state: bool, status: CheckpointStatus, renamed: bool) -> None:
    """Fails if a fresh training overwrites a file, or a resumed one renames what it continues from."""
    paths = [path for path in all_paths(tmp_path / "a") if state or path != state_path(tmp_path / "a")]
    for path in paths:
        path.write_text(path.name)
    rename_earlier_training(tmp_path / "a", status, resume=resume)
    expected = {f"{path.name}.earlier-1" if renamed else path.name: path.name for path in paths}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == expected


def test_a_renamed_checkpoint_keeps_its_record(tmp_path: Path) -> None:
    """Fails if the record of a checkpoint that was renamed is not found under its own name or under its former one."""
    checkpoint = tmp_path / "lr0.1.earlier-x"
    for seed in (0, 1, 2):
        BestCheckpoint(checkpoint, pgdat(seed=seed), {}, network(seed), by_score).offer({"number": 1}, 0.5)
        if seed < 2:
            rename_existing(*all_paths(checkpoint))
    for name, seed in (("", 2), (".earlier-1", 0), (".earlier-2", 1)):
        path = checkpoint.with_name(checkpoint.name + name)
        record = read_record_of(path, sha256(path.read_bytes()).hexdigest())
        assert record is not None and record["settings"]["seed"] == seed
    assert [record["settings"]["seed"] for record in read_all_records(checkpoint)] == [2, 0, 1]


@pytest.mark.parametrize(
    ("record", "settings", "warnings"),
    [
        ({"settings": {"seed": 3}, "warnings": ["odd"]}, {"seed": 3}, ["odd"]),
        ({"settings": {"seed": 3}}, {"seed": 3}, []),
        ({"settings": ["seed", 3], "warnings": "odd"}, None, []),
        ({"settings": {"seed": 3}, "warnings": ["odd"], "weights_sha256": "of another file"}, None, []),
        (None, None, []),
    ],
)
def test_what_is_recorded_of_a_training(
    record: object, settings: dict[str, int] | None, warnings: list[str], tmp_path: Path
) -> None:
    """Fails if warnings of a training are lost or cut into letters, or parts of a wrong type reach their readers."""
    if record is not None:
        record_path(tmp_path / "a").write_text(json.dumps(record))
    assert read_training_of(tmp_path / "a", "of this file") == (settings, warnings)


def test_best_epoch_is_kept_and_resumed(tmp_path: Path) -> None:
    """Fails if a worse or an equal epoch replaces the best, or resuming loses the best epoch or its score."""
    checkpoint, model = tmp_path / "a", network(1)
    best = BestCheckpoint(checkpoint, PGDAT, {"versions": {}}, model, by_score)
    assert best.offer({"number": 1, "score": 0.5}, 0.5)
    state = best.state_dict()
    nn.init.constant_(model.get_parameter("weight"), 2.0)
    assert not best.offer({"number": 2, "score": 0.5}, 0.5)
    assert not best.offer({"number": 3, "score": 0.4}, 0.4)
    assert best.offer({"number": 4, "score": 0.6}, 0.6) and best.epoch == 4

    resumed = BestCheckpoint(checkpoint, PGDAT, {"versions": {}}, model, by_score)
    resumed.load_state_dict(state)
    assert (resumed.epoch, resumed.score, resumed.epochs) == (1, 0.5, [{"number": 1, "score": 0.5}])
    weights = load_weights(checkpoint).state_dict
    assert torch.equal(weights["weight"], torch.ones(1, 2))
    record = read_record(checkpoint)
    keys = ["settings", "versions", "finished", "best_epoch", "weights_sha256", "epochs"]
    assert record is not None and list(record) == keys
    assert record["weights_sha256"] == sha256(checkpoint.read_bytes()).hexdigest()
    assert (record["finished"], record["best_epoch"], record["epochs"]) == (False, 1, [{"number": 1, "score": 0.5}])
