"""The best epoch of a training on disk: the checkpoint, and beside it a record of how it came about."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from advmia.checkpoints.paths import record_path, seed_named_by
from advmia.checkpoints.settings import TrainingSettings
from advmia.checkpoints.weights import StateDict, copy_weights, save_weights
from advmia.runtime import distributed
from advmia.runtime.files import read_json_object, write_json
from advmia.runtime.terminal import say


def read_record(checkpoint: Path) -> dict[str, Any] | None:
    """Returns the record of a checkpoint; None where there is none that can be read.

    Keys: "settings" (`TrainingSettings.to_json`), "epochs" (one `advmia.training.loop.Epoch` each), "best_epoch",
    "weights_sha256", "finished", "selection" and "versions". Checkpoints of the published code have no record.
    """
    return read_json_object(record_path(checkpoint))


def read_all_records(checkpoint: Path) -> list[dict[str, Any]]:
    """Returns the record of a checkpoint, then those of earlier trainings that were renamed to make room for it."""
    path = record_path(checkpoint)
    paths = [path, *sorted(path.parent.glob(f"{escape(path.name)}.earlier-*"))]
    return [record for record in map(read_json_object, paths) if record is not None]


def is_record_of(record: dict[str, Any], sha256: str) -> bool:
    """Returns whether a record is of the weights with this SHA-256. Records of earlier versions, without it, count."""
    return record.get("weights_sha256", sha256) == sha256


def read_record_of(checkpoint: Path, sha256: str) -> dict[str, Any] | None:
    """Returns the record of a checkpoint whose file has this SHA-256; None where there is none.

    Where the record beside the checkpoint is of other weights, says so and returns None.
    """
    record = read_record(checkpoint)
    if record is None or is_record_of(record, sha256):
        return record
    say(
        f"warning: {record_path(checkpoint)} is the record of other weights than those in {checkpoint}, so it is not"
        " used: put back the file that it belongs to"
    )
    return None


class RecordedTraining(NamedTuple):
    """What the record of a checkpoint says of its training."""

    settings: dict[str, Any] | None  # `TrainingSettings.to_json`; None where they are not recorded
    warnings: list[str]  # about the training


def read_training_of(checkpoint: Path, sha256: str) -> RecordedTraining:
    """Returns the training of a checkpoint whose file has this SHA-256, as `read_record_of` finds its record.

    Parts of the record that a user's editing has given another type count as not recorded.
    """
    record = read_record_of(checkpoint, sha256) or {}
    settings, warnings = record.get("settings"), record.get("warnings")
    texts = [text for text in warnings if isinstance(text, str)] if isinstance(warnings, list) else []
    return RecordedTraining(settings if isinstance(settings, dict) else None, texts)


def seed_of(checkpoint: Path, training: dict[str, Any] | None) -> int:
    """Returns the seed with which a network was trained, by which its files are told from those of other seeds.

    `training`: the settings in its record. Where they do not say it, the folder `seedN` does in which the checkpoint
    lies; of any other checkpoint it is 0, as if it were the only one.
    """
    seed = (training or {}).get("seed")
    return seed if isinstance(seed, int) else seed_named_by(checkpoint.parent) or 0


def read_seed(checkpoint: Path) -> int:
    """Returns `seed_of` a checkpoint, which need not exist."""
    if not checkpoint.is_file():
        return seed_of(checkpoint, None)
    return seed_of(checkpoint, read_training_of(checkpoint, sha256(checkpoint.read_bytes()).hexdigest()).settings)


Comparison = Callable[[dict[str, Any], dict[str, Any]], bool]


class BestCheckpoint:
    """Keeps the weights of the best epoch so far in the checkpoint, and all epochs in the record beside it.

    Only the main process writes. Attributes: `epoch`, the number of the best epoch (0 before the first), and `score`,
    its score.
    """

    def __init__(
        self, path: Path, settings: TrainingSettings, facts: dict[str, Any], model: nn.Module, is_better: Comparison
    ) -> None:
        """`path`: the checkpoint. `facts`: what the record states beside the settings and the epochs.

        `is_better`: whether an epoch is better than the best one before it.
        """
        self._path, self._model, self._is_better = path, model, is_better
        self._epochs: list[dict[str, Any]] = []
        self._record = {"settings": settings.to_json(), **facts}
        self.epoch = 0
        self.score = -math.inf
        self._weights: StateDict | None = None  # of the best epoch
        self._sha256: str | None = None  # of the checkpoint file

    def offer(self, epoch: dict[str, Any], score: float) -> bool:
        """Records an epoch, and saves the weights if it is the best so far; returns whether it is.

        An epoch whose score is undefined (NaN), such as one that was not validated, is never the best.
        """
        best = next((earlier for earlier in self._epochs if earlier["number"] == self.epoch), None)
        self._epochs.append(epoch)
        is_best = not math.isnan(score) and (best is None or self._is_better(epoch, best))
        if is_best:
            self.epoch, self.score, self._weights = epoch["number"], score, copy_weights(self._model)
            self._save_weights()
        if self.epoch:  # else there is no checkpoint yet that a record could be of
            self._write_record(finished=False)
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` continues from. The epochs are JSON, which can hold any of their numbers."""
        return {
            "epochs": json.dumps(self._epochs),
            "epoch": self.epoch,
            "score": float(self.score),
            "weights": self._weights,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from an earlier run's epochs. Writes its files again, which may be of a later epoch than the state.

        That is the case when the run was killed after it had saved an epoch's files and before it saved its state.
        """
        self._epochs = json.loads(state_dict["epochs"])
        self.epoch, self.score, self._weights = (state_dict[name] for name in ("epoch", "score", "weights"))
        if self._weights is not None:
            self._save_weights()
            self._write_record(finished=False)

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The epochs that `offer` has recorded, from the first on."""
        return list(self._epochs)

    def finish(self) -> None:
        """Marks the training as finished in the record."""
        self._write_record(finished=True)

    def _save_weights(self) -> None:
        if distributed.is_main() and self._weights is not None:
            self._sha256 = save_weights(self._path, self._weights)

    def _write_record(self, *, finished: bool) -> None:
        best = {"best_epoch": self.epoch, "weights_sha256": self._sha256}
        record = {**self._record, "finished": finished, **best, "epochs": self._epochs}
        if distributed.is_main():
            write_json(record_path(self._path), record, indent=2)
