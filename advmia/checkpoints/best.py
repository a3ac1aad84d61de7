"""Weights on disk: a bare state_dict, as the reference writes it, and beside it a record of how it came about."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from advmia.checkpoints.paths import record_path
from advmia.checkpoints.settings import TrainingSettings
from advmia.checkpoints.weights import StateDict, _weights_of, save_weights
from advmia.runtime import distributed
from advmia.runtime.files import read_json_object, write_json


def read_record(checkpoint: Path) -> dict[str, Any] | None:
    """What is recorded of a checkpoint; None where nothing readable is (the reference's own weights have none)."""
    return read_json_object(record_path(checkpoint))


class BestCheckpoint:
    """Keeps a network's weights at the best epoch so far, and after every epoch the record."""

    def __init__(self, path: Path, settings: TrainingSettings, facts: dict[str, Any], model: nn.Module) -> None:
        """`facts`: what else the record says, beside the settings, the epochs and the best of them."""
        self._path, self._model = path, model
        self._epochs: list[dict[str, Any]] = []
        self._record = {"settings": asdict(settings), **facts}
        self.epoch = 0  # the best; 0 before the first
        self.score = -math.inf
        self._weights: StateDict | None = None  # of the best epoch

    def offer(self, epoch: dict[str, Any], score: float) -> bool:
        """Records an epoch; keeps the weights when its score is the highest so far. Says whether it was."""
        self._epochs.append(epoch)
        is_best = score > self.score
        if is_best:
            self.epoch, self.score, self._weights = epoch["number"], score, _weights_of(self._model)
            self._save_weights()
        self._write(finished=False)
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` goes on from. The epochs are JSON, which has room for any kind of number."""
        return {
            "epochs": json.dumps(self._epochs),
            "epoch": self.epoch,
            "score": float(self.score),
            "weights": self._weights,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from an earlier run's epochs, and writes its files again: they may have got ahead of its state."""
        self._epochs = json.loads(state_dict["epochs"])
        self.epoch, self.score, self._weights = (state_dict[name] for name in ("epoch", "score", "weights"))
        if self._weights is not None:
            self._save_weights()
            self._write(finished=False)

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """What `offer` was given, from the first epoch on."""
        return list(self._epochs)

    def finish(self) -> None:
        self._write(finished=True)

    def _save_weights(self) -> None:
        if distributed.is_main() and self._weights is not None:
            save_weights(self._path, self._weights)

    def _write(self, *, finished: bool) -> None:
        record = {**self._record, "finished": finished, "best_epoch": self.epoch, "epochs": self._epochs}
        if distributed.is_main():
            write_json(record_path(self._path), record, indent=2)
