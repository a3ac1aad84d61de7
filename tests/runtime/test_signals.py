"""Signals that end a run: which of them count, and when."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from advmia.runtime import signals
from advmia.runtime.signals import Stopped, defer_signals, stop_on_signal


@pytest.fixture
def interrupted() -> Iterator[list[int]]:
    """The signals that ended the process at once; here, their numbers are noted instead."""
    received: list[int] = []
    earlier = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGTERM, earlier)


def test_the_same_signal_sent_twice_does_not_interrupt_saving(interrupted: list[int]) -> None:
    """Fails if a run that Slurm and its parent both tell to end is killed by the second signal while it saves."""
    saved = False
    with pytest.raises(Stopped), stop_on_signal(), defer_signals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        saved = True
    assert saved and not interrupted


def test_a_second_signal_interrupts_at_once(interrupted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a user cannot end a run that takes long to save."""
    monkeypatch.setattr(signals, "_SAME_SIGNAL_SECONDS", 0.0)
    with pytest.raises(Stopped), stop_on_signal(), defer_signals():
        signal.raise_signal(signal.SIGTERM)
        assert not interrupted
        signal.raise_signal(signal.SIGTERM)
        assert interrupted == [signal.SIGTERM]
