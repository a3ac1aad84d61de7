"""SIGINT (Ctrl-C) and SIGTERM end a run at a moment from which it can be resumed."""

from __future__ import annotations

import ctypes
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_SIGNAL_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1  # option of Linux's prctl: the signal to get when the parent dies


class Stopped(KeyboardInterrupt):
    """The exception with which a signal ends the run.

    `number` is the signal's number. `advice` is a line for the user: what is saved, and how to resume.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.advice = ""


class _SignalState:
    """Process-wide signal state, shared with the signal handler."""

    deferrals = 0  # how many nested `defer_signals` blocks are running
    pending = 0  # the signal that waits for their end; 0 for none


@contextmanager
def stop_on_signal() -> Iterator[None]:
    """Makes a signal during the block raise `Stopped`: at once, or at the end of the current `defer_signals` block.

    A second signal interrupts immediately. Within a second of the first it counts as the same one: a batch system tells
    the end of a job to all its processes, and the one that started this one forwards it.
    """
    first = -math.inf

    def stop(number: int) -> None:
        nonlocal first
        if time.monotonic() - first < _SAME_SIGNAL_SECONDS:
            return
        if first > -math.inf:
            _restore(earlier)
            signal.raise_signal(number)
            return
        first = time.monotonic()
        if not _SignalState.deferrals:
            raise Stopped(number)
        _SignalState.pending = number

    earlier = _handle(stop)
    try:
        yield
    finally:
        _restore(earlier)
        _SignalState.pending = 0


@contextmanager
def defer_signals() -> Iterator[None]:
    """Runs the block to its end before a signal stops the process. Blocks may be nested."""
    _SignalState.deferrals += 1
    try:
        yield
    finally:
        _SignalState.deferrals -= 1
    if _SignalState.pending and not _SignalState.deferrals:
        number, _SignalState.pending = _SignalState.pending, 0
        raise Stopped(number)


def pending_signal() -> int:
    """Returns the signal that waits for the end of the current `defer_signals` block; 0 for none."""
    return _SignalState.pending


def request_stop(number: int) -> None:
    """Acts as if this process had received the signal, because another process of the run has.

    Call it in a `defer_signals` block, at whose end it takes effect.
    """
    _SignalState.pending = _SignalState.pending or number


@contextmanager
def forward_signals(callback: Callable[[int], None]) -> Iterator[list[int]]:
    """Makes SIGINT and SIGTERM only call `callback` with their number. Yields the list of those received so far."""
    received: list[int] = []

    def receive(number: int) -> None:
        received.append(number)
        callback(number)

    earlier = _handle(receive)
    try:
        yield received
    finally:
        _restore(earlier)


def end_with_parent() -> None:
    """Makes this process get SIGTERM when its parent ends, even if that is killed. On Linux only."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


_Handlers = dict[signal.Signals, object]


def _handle(callback: Callable[[int], None]) -> _Handlers:
    """Makes signals call `callback`, and returns the earlier handlers.

    A signal that the process was started to ignore (by `nohup`, or as a shell's background job) stays ignored. Does
    nothing in threads other than the main thread, in which alone Python allows handlers to be set.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    earlier = {number: signal.getsignal(number) for number in _SIGNALS}

    def handler(number: int, frame: FrameType | None) -> None:
        callback(number)

    for number, earlier_handler in earlier.items():
        if earlier_handler is not signal.SIG_IGN:
            signal.signal(number, handler)
    return dict(earlier)


def _restore(earlier: _Handlers) -> None:
    for number, handler in earlier.items():
        signal.signal(number, handler)  # type: ignore[arg-type]
