"""Ctrl-C and SIGTERM end a run where it can be taken up again, not in the middle of something."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The run was asked to end. `advice`, for the person: what is kept, and how to go on."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.advice = ""


class _SignalState:
    """What the handler and `defer_signals` blocks tell each other; signals are a matter of the whole process."""

    deferred = 0  # blocks under way
    by = 0  # the signal that waits for their end


@contextmanager
def stop_on_signal() -> Iterator[None]:
    """Inside, a signal raises `Stopped` at once, or at the end of the current `defer_signals` block.

    A second signal interrupts immediately.
    """

    def stop(number: int) -> None:
        _restore(earlier)
        if not _SignalState.deferred:
            raise Stopped(number)
        _SignalState.by = number

    earlier = _handle(stop)
    try:
        yield
    finally:
        _restore(earlier)
        _SignalState.by = 0


@contextmanager
def defer_signals() -> Iterator[None]:
    """What begins in here is brought to its end before the process heeds a signal."""
    _SignalState.deferred += 1
    try:
        yield
    finally:
        _SignalState.deferred -= 1
    if _SignalState.by and not _SignalState.deferred:
        number, _SignalState.by = _SignalState.by, 0
        raise Stopped(number)


def pending_signal() -> int:
    """The signal that waits for the end of the `defer_signals` block; 0 for none."""
    return _SignalState.by


def request_stop(number: int) -> None:
    """As if the signal had come: another process of this run was asked to stop."""
    _SignalState.by = _SignalState.by or number


@contextmanager
def forward_signals(heed: Callable[[int], None]) -> Iterator[list[int]]:
    """Inside, SIGINT and SIGTERM call `heed` and end nothing; yields the list of those that have come."""
    come: list[int] = []

    def note(number: int) -> None:
        come.append(number)
        heed(number)

    earlier = _handle(note)
    try:
        yield come
    finally:
        _restore(earlier)


_Handlers = dict[signal.Signals, object]


def _handle(heed: Callable[[int], None]) -> _Handlers:
    """Has `heed` called; returns the handlers that were there before.

    A signal that the process was started to ignore (`nohup`, a shell's background job) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        return {}
    earlier = {number: signal.getsignal(number) for number in _SIGNALS}

    def handler(number: int, frame: FrameType | None) -> None:
        heed(number)

    for number, known in earlier.items():
        if known is not signal.SIG_IGN:
            signal.signal(number, handler)
    return dict(earlier)


def _restore(earlier: _Handlers) -> None:
    for number, handler in earlier.items():
        signal.signal(number, handler)  # type: ignore[arg-type]
