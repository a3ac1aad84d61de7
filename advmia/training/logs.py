"""The progress of a training for programs that watch many: a CSV file, or TensorBoard's event files.

Both lie beside the checkpoint and hold the numbers of each epoch as soon as it is kept. A training that is resumed
writes the epochs before again, so that its logs are those of an undisturbed one, whatever happened in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from advmia.checkpoints.paths import events_path, log_path
from advmia.errors import UserError
from advmia.runtime import distributed
from advmia.runtime.files import csv_text, write_text
from advmia.runtime.terminal import say
from advmia.training.curves import Frame, TrainingCurves
from advmia.training.loop import Epoch

_FIRST = ("epoch", "loss", "lr", "seconds", "validation_seconds")


class Log(Protocol):
    """Where the numbers of epochs go."""

    def add(self, epochs: Sequence[Epoch]) -> None:
        """Takes over all epochs so far, of which the last one may be new."""

    def add_picture(self, picture: Path, epoch: int) -> None:
        """Takes over the curves after an epoch."""

    def close(self) -> None: ...


class CsvLog:
    """`<checkpoint>.log.csv`: a line for each epoch. It is always written whole, as all files of a training."""

    def __init__(self, checkpoint: Path) -> None:
        self._path = log_path(checkpoint)

    def add(self, epochs: Sequence[Epoch]) -> None:
        if not epochs:
            return
        numbers = [scalars(epoch) for epoch in epochs]
        names = dict.fromkeys([*_FIRST, *(name for line in numbers for name in line), "warning"])
        lines = [
            [{**_defined(line), "epoch": epoch.number, "warning": epoch.warning}.get(name, "") for name in names]
            for line, epoch in zip(numbers, epochs, strict=True)
        ]
        write_text(self._path, csv_text([[name.replace("/", "_") for name in names], *lines]))

    def add_picture(self, picture: Path, epoch: int) -> None:
        """Does nothing: the picture lies beside the file."""

    def close(self) -> None: ...


class TensorBoardLog:
    """TensorBoard's event files, in the folder `<checkpoint>.tensorboard`: the numbers of epochs, and the curves."""

    def __init__(self, checkpoint: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a late import: the package is optional

        # TensorBoard drops what an earlier run of this training has written from this step on.
        self._writer = SummaryWriter(str(events_path(checkpoint)), purge_step=1)
        self._written = 0

    def add(self, epochs: Sequence[Epoch]) -> None:
        for epoch in epochs[self._written :]:
            for name, value in scalars(epoch).items():
                self._writer.add_scalar(name, value, epoch.number)
        self._written = len(epochs)
        self._writer.flush()  # before the state is saved: a kill after that must not lose the epoch

    def add_picture(self, picture: Path, epoch: int) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(picture) as image:
            self._writer.add_image("curves", np.asarray(image.convert("RGB")), epoch, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


LOGS: dict[str, Callable[[Path], Log]] = {"csv": CsvLog, "tensorboard": TensorBoardLog}


def scalars(epoch: Epoch) -> dict[str, float]:
    """Returns the numbers of an epoch by name, e.g. `clean/accuracy`; without scores where it was not validated."""
    numbers: dict[str, float] = {"loss": epoch.loss, "lr": epoch.lr, "seconds": epoch.seconds}
    numbers["validation_seconds"] = epoch.validation_seconds
    scores: Mapping[str, Mapping[str, float] | None] = {"clean": epoch.clean, "robust": epoch.robust}
    return numbers | {f"{kind}/{name}": value for kind, of in scores.items() for name, value in (of or {}).items()}


def _defined(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if not math.isnan(value)}


def check_logs(names: Sequence[str]) -> None:
    """Raises `UserError` where a log needs a package that is not installed."""
    if "tensorboard" in names and find_spec("tensorboard") is None:
        raise UserError("--log tensorboard needs the package tensorboard: run `pip install tensorboard`, or use csv")


@contextmanager
def reported_epochs(
    checkpoint: Path, frame: Frame, names: Sequence[str], earlier: Sequence[Epoch] = (), best: int = 0
) -> Iterator[Callable[[Epoch, int], None]]:
    """Keeps the curves of a training and the logs with these names up to date during the block.

    Yields the function to call with each new epoch and the number of the best epoch so far. `earlier`: the epochs
    before a training was resumed. `best`: the number of the best of them; 0 for none. Only the main process writes. A
    log that cannot be written is given up with a message; the training continues.
    """
    epochs = list(earlier)
    with ExitStack() as stack:
        logs: dict[str, Log] = {}

        def to_logs(call: Callable[[Log], None]) -> None:
            for name, log in list(logs.items()):
                with _never_fatal(checkpoint, name, logs):
                    call(log)

        for name in names if distributed.is_main() else ():
            with _never_fatal(checkpoint, name, logs):
                logs[name] = LOGS[name](checkpoint)
        stack.callback(lambda: to_logs(lambda log: log.close()))
        to_logs(lambda log: log.add(epochs))

        def draw(picture: Path) -> None:
            to_logs(lambda log: log.add_picture(picture, epochs[-1].number))

        curves = stack.enter_context(TrainingCurves(checkpoint, frame, earlier, best, drawn=draw))

        def add(epoch: Epoch, best: int) -> None:
            epochs.append(epoch)
            to_logs(lambda log: log.add(epochs))
            curves.add(epoch, best)

        yield add


@contextmanager
def _never_fatal(checkpoint: Path, name: str, logs: dict[str, Log]) -> Iterator[None]:
    """Turns an error of a log into a message, once, and gives the log up."""
    try:
        yield
    except Exception as error:  # a log is never worth losing a training
        logs.pop(name, None)
        say(f"no {name} log of {checkpoint}: {' '.join(str(error).split())[:200]}")
