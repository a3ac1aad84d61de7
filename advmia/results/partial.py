"""Files from which a training or an evaluation goes on where it was stopped or killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advmia.runtime.sealed import DamagedError, read_sealed, write_sealed
from advmia.runtime.terminal import say

_SAVE_SECONDS = 5.0  # between two savings of an evaluation, which may come many times a second


class PartialEvaluation:
    """What is done of an evaluation under way, in a file that is there only until the evaluation is finished."""

    def __init__(self, path: Path, evaluation: object) -> None:
        """`evaluation`: all that its outcomes depend on, of what JSON knows."""
        self._path, self._evaluation = path, json.dumps(evaluation)
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Returns the state that was saved of this very evaluation; None where there is none, or a damaged one."""
        try:
            found = read_sealed(self._path)
        except DamagedError as error:
            say(f"{self._path} is damaged ({error}): what it kept is attacked again")
            return None
        is_ours = isinstance(found, dict) and found.get("evaluation") == self._evaluation
        return found.get("state") if found is not None and is_ours else None

    def save_if_due(self, state: Callable[[], dict[str, Any]]) -> None:
        """Saves, unless that was done just now: what is lost by a kill is `_SAVE_SECONDS` and a batch at the most."""
        if time.monotonic() - self._saved >= _SAVE_SECONDS:
            self.save(state())

    def save(self, state: dict[str, Any]) -> None:
        write_sealed(self._path, {"evaluation": self._evaluation, "state": state})
        self._saved = time.monotonic()

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
