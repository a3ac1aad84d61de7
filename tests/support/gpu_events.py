"""Events of the pretended GPU (`tests.support.pretended_gpu`)."""

from __future__ import annotations

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
