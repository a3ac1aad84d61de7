"""The partial progress of an evaluation, from which it continues after it was stopped or killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advmia.runtime.sealed import DamagedError, read_sealed, write_sealed
from advmia.runtime.terminal import say

_SAVE_SECONDS = 5.0  # the least time between two saves: batches may take only a fraction of a second


class PartialEvaluation:
    """The progress of one evaluation, in a file that exists only until the evaluation is finished."""

    def __init__(self, path: Path, evaluation: object) -> None:
        """`path`: the file. `evaluation`: all facts that the outcomes depend on; JSON must be able to hold them."""
        self._path, self._evaluation = path, json.dumps(evaluation)
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Returns the state saved for this evaluation; None where there is none, or the file is damaged."""
        try:
            content = read_sealed(self._path)
        except DamagedError as error:
            say(f"{self._path} is damaged ({error}): the images in it are attacked again")
            return None
        if not isinstance(content, dict) or content.get("evaluation") != self._evaluation:
            return None
        return content.get("state")

    def save_if_due(self, state: Callable[[], dict[str, Any]]) -> None:
        """Saves what `state` returns, unless the last save was less than 5 seconds ago.

        A kill therefore loses at most 5 seconds and one batch.
        """
        if time.monotonic() - self._saved >= _SAVE_SECONDS:
            self.save(state())

    def save(self, state: dict[str, Any]) -> None:
        """Writes the state atomically."""
        write_sealed(self._path, {"evaluation": self._evaluation, "state": state})
        self._saved = time.monotonic()
