"""What stands for torch's classes and modules of a device in the pretended GPU (`tests.support.pretended_gpu`)."""

from __future__ import annotations

from typing import Any

import torch

from tests.support.gpu_records import Launch, Wait, line_of_the_package


class Event:
    """Stands for `torch.cuda.Event`; waiting for it is recorded."""

    def __init__(self, launches: list[Launch], waits: list[Wait]) -> None:
        self._launches, self._waits = launches, waits
        self._recorded = -1

    def record(self) -> None:
        self._recorded = len(self._launches)

    def synchronize(self) -> None:
        assert self._recorded >= 0, "waiting for an event that was not recorded"
        self._waits.append(Wait("event", line_of_the_package(), len(self._launches) - self._recorded))


class Backend:
    """What torch asks of the module of a device."""

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "is_initialized": True, "is_available": True, "_is_in_bad_fork": False, "current_device": 0,
            "device_count": 1, "manual_seed_all": None, "get_amp_supported_dtype": [torch.bfloat16],
            "get_rng_state": torch.empty(0), "set_rng_state": None,
        }  # fmt: skip
        if name not in answers:
            raise AttributeError(name)
        return lambda *_: answers[name]
