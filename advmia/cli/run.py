"""Every flag, declared once; choices come from the registries. Spellings in circulation work in any letter case."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import torch

from advmia.errors import UserError
from advmia.runtime import distributed, launch
from advmia.runtime.signals import Stopped, stop_on_signal
from advmia.runtime.terminal import say


def run(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], None], *, shared: bool = False) -> int:
    """Runs a command: bad input ends in one line and status 2; a signal in one line and 128 plus its number.

    `shared`: whether several devices share the work, each with a process of its own.
    """
    _take_any_text()
    try:
        with redirect_stdout(_Output(sys.stdout)):
            try:
                return _status(parser, command, shared)
            except SystemExit as stop:  # of the parser: a wrong argument, or --help
                return int(stop.code or 0)
            finally:
                sys.stdout.flush()
    except _OutputLostError as lost:
        if isinstance(lost.cause, BrokenPipeError):  # as of `| head`
            say(f"{parser.prog}: stopped: nobody reads its standard output any more; what was saved before is kept")
            return 128 + signal.SIGPIPE
        say(f"{parser.prog}: error: cannot write to standard output ({lost.cause.strerror}): send it to another place")
        return 2
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        say(f"{parser.prog}: error: {reason}; check that place, or name another")
        return 2
    finally:
        for stream in (sys.stdout, sys.stderr):
            _let_go(stream)


def _take_any_text() -> None:
    """File names may hold what the terminal's encoding does not, and the streams may be closed."""
    for name, errors in (("stdin", "surrogateescape"), ("stdout", "backslashreplace"), ("stderr", "backslashreplace")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("r+"))  # noqa: SIM115 - until the process ends
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)


def _let_go(stream: TextIO) -> None:
    """What could not be written goes nowhere: at its end the interpreter would try again, and fail with a traceback."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _OutputLostError(Exception):
    """Standard output could not be written."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Output:
    """Standard output, whose faults are told from those of other files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise _OutputLostError(error) from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise _OutputLostError(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _status(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], None], shared: bool) -> int:
    """The exit status of the command, which has said what went wrong."""
    args = parser.parse_args()
    try:
        if shared and launch.needs_spawn(args.gpu):
            return launch.spawn(args.gpu)
        with stop_on_signal(), distributed.process_group():
            _within_memory(command, args)
    except UserError as error:
        place = f" (in process {distributed.rank()})" if distributed.rank() else ""
        say(f"{parser.prog}: error: {' '.join(str(error).split())}{place}")
        return 2
    except Stopped as stop:
        say(f"{parser.prog}: stopped{f'; {stop.advice}' if stop.advice else ''}")
        return 128 + stop.number
    except KeyboardInterrupt:  # the second: nothing was waited for
        say(f"{parser.prog}: stopped at once; what was saved before is kept")
        return 128 + signal.SIGINT
    return 0


def _within_memory(command: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Runs the command. Raises `UserError` when memory is full, which says what would take less."""
    try:
        command(args)
    except torch.OutOfMemoryError as error:
        less = _less(args)
        if getattr(args, "autoBatch", False):  # the batch was not --bs, but what seemed to fit
            less = "leave out --autoBatch, which took more images at once than fit"
        raise UserError(f"the GPU's memory is full{_gpu_memory()}: {less}") from error
    except MemoryError as error:
        raise UserError(f"the memory is full: {_less(args)}") from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # torch has no class of its own for it
            raise
        raise UserError(f"the memory is full: {_less(args)}") from error


def _gpu_memory() -> str:
    """Who holds how much of this process' GPU."""
    if not torch.cuda.is_available():
        return ""
    free, whole = torch.cuda.mem_get_info()
    ours = torch.cuda.memory_reserved()
    held = [f"{part / 2**30:.1f} GiB" for part in (ours, whole, max(whole - free - ours, 0))]
    return f" (this run holds {held[0]} of {held[1]}, others {held[2]})"


def _less(args: argparse.Namespace) -> str:
    """What would take less memory; nobody knows how much the whole batch would have taken."""
    size = getattr(args, "bs", None)
    if size is None:
        return "make or take fewer or smaller images"
    least = max(len(args.gpu or [""]), 1)  # an image for each device
    if size > least:
        return (
            f"try --bs {max(size // 2, least)}, which takes about half of what --bs {size} does, or a smaller --imgSize"
        )
    return f"--bs {size} is the least; try a smaller --imgSize, or --precision bf16"
