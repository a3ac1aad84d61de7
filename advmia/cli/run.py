"""Runs a command: turns its errors, signals and closed streams into one line and an exit status."""

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

from advmia.data.loading import EVALUATION_BATCH_SIZE
from advmia.errors import UserError
from advmia.runtime import distributed, launch
from advmia.runtime.signals import Stopped, stop_on_signal
from advmia.runtime.terminal import say

Command = Callable[[argparse.Namespace], None]


def run_command(parser: argparse.ArgumentParser, command: Command, *, shared: bool = False) -> int:
    """Parses `sys.argv`, runs the command and returns its exit status.

    The status is 0 if it finished, 2 for bad input and 128 plus the number of a signal that stopped it. Whatever is
    wrong is reported in one line on standard error. `shared`: whether several devices can share the command's work,
    each in a process of its own.
    """
    _tolerate_any_text()
    try:
        with redirect_stdout(_CheckedOutput(sys.stdout)):
            try:
                return _parse_and_run(parser, command, shared)
            except SystemExit as stop:  # raised by argparse, for a wrong argument or --help
                return int(stop.code or 0)
            finally:
                sys.stdout.flush()
    except _OutputLostError as lost:
        if isinstance(lost.cause, BrokenPipeError):  # as in `... | head`
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
            _flush_or_discard(stream)


def _tolerate_any_text() -> None:
    """Lets the standard streams take names that their encoding lacks; replaces closed ones by the null device."""
    for name, errors in (("stdin", "surrogateescape"), ("stdout", "backslashreplace"), ("stderr", "backslashreplace")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("r+"))  # noqa: SIM115 - stays open until the process ends
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)


def _flush_or_discard(stream: TextIO) -> None:
    """Flushes the stream. If that fails, discards its buffer: Python would flush again at exit, with a traceback."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# What errors of the GPU and of its libraries name.
_GPU_LIBRARIES = ("CUDA error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "NCCL")
_GPU_ADVICE = (
    "run the command again (a training with --resume); if it fails again, look at nvidia-smi, or try --gpu cpu"
)


class _OutputLostError(Exception):
    """Standard output could not be written."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _CheckedOutput:
    """Standard output that raises `_OutputLostError`, so that its errors differ from those of other files."""

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


def _parse_and_run(parser: argparse.ArgumentParser, command: Command, shared: bool) -> int:
    """Runs the command and returns its exit status; reports bad input and signals."""
    args = parser.parse_args()
    try:
        if shared and launch.needs_spawn(args.gpu):
            return launch.spawn(args.gpu)
        with stop_on_signal(), distributed.process_group():
            _run_within_memory(command, args)
    except UserError as error:
        process = f" (in process {distributed.rank()})" if distributed.rank() else ""
        say(f"{parser.prog}: error: {' '.join(str(error).split())}{process}")
        return 2
    except Stopped as stop:
        say(f"{parser.prog}: stopped{f'; {stop.advice}' if stop.advice else ''}")
        return 128 + stop.number
    except KeyboardInterrupt:  # a second signal, which does not wait for anything to be saved
        say(f"{parser.prog}: stopped at once; what was saved before is kept")
        return 128 + signal.SIGINT
    return 0


def _run_within_memory(command: Command, args: argparse.Namespace) -> None:
    """Runs the command. Raises `UserError` with advice if the memory is full."""
    try:
        command(args)
    except torch.OutOfMemoryError as error:
        advice = _memory_advice(args)
        if getattr(args, "autoBatch", False) or getattr(args, "bs", "none") is None:  # the batch size was estimated
            advice = f"name a batch size, e.g. --bs {EVALUATION_BATCH_SIZE}: more images were taken at once than fit"
        raise UserError(f"the GPU's memory is full{_gpu_memory_use()}: {advice}") from error
    except MemoryError as error:
        raise UserError(f"the memory is full: {_memory_advice(args)}") from error
    except RuntimeError as error:
        # torch has exception classes neither for full CPU memory nor, in all versions, for errors of the GPU.
        if "DefaultCPUAllocator" in str(error):
            raise UserError(f"the memory is full: {_memory_advice(args)}") from error
        if any(library in str(error) for library in _GPU_LIBRARIES):
            first_line = str(error).strip().splitlines()[0]
            raise UserError(f"the GPU or its driver failed ({first_line[:200]}): {_GPU_ADVICE}") from error
        raise


def _gpu_memory_use() -> str:
    """Returns how much of the GPU's memory this process and others use, in parentheses; "" without CUDA."""
    if not torch.cuda.is_available():
        return ""
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    own, capacity, others = (f"{size / 2**30:.1f} GiB" for size in (reserved, total, max(total - free - reserved, 0)))
    return f" (this run holds {own} of {capacity}, others {others})"


def _memory_advice(args: argparse.Namespace) -> str:
    """Returns advice for using less memory. How much the full batch would have needed is unknown."""
    if not hasattr(args, "bs"):
        return "make or take fewer or smaller images"
    size = args.bs or EVALUATION_BATCH_SIZE
    least = max(len(args.gpu or [""]), 1)  # one image per device
    if size > least:
        return (
            f"try --bs {max(size // 2, least)}, which takes about half of what --bs {size} does, or a smaller --imgSize"
        )
    return f"--bs {size} is the smallest; try a smaller --imgSize, or --precision bf16"
