"""What is to be seen of a training: the bars on a terminal, plain lines elsewhere, and the picture of its curves."""

from __future__ import annotations

import fcntl
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advmia.checkpoints.paths import picture_path
from advmia.data.phantoms import make_phantoms
from advmia.runtime import progress
from advmia.runtime.progress import ProgressBar
from advmia.training import curves
from advmia.training.curves import TrainingCurves
from advmia.training.loop import Epoch
from tests.support.running import ROOT

NAME = "ResNet_melBin_pgdat_beta0_class2_ADV8-255_10_2-255_maxLR0.01_weightDecay0.001"


def epoch(number: int, *, robust: bool = True, loss: float | None = None) -> Epoch:
    clean, attacked = {"accuracy": 1 - 0.5**number}, {"accuracy": 0.5 - 0.4**number}
    return Epoch(number, 1 / number if loss is None else loss, 0.01, 1.0, clean, attacked if robust else None)


def drawn(folder: Path, epochs: list[Epoch], best: int) -> np.ndarray:
    with TrainingCurves(folder / NAME, "accuracy", "accuracy under PGD-20") as picture:
        for each in epochs:
            picture.add(each, best)
    with Image.open(folder / f"{NAME}.png") as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def pixels_of(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(picture - np.array(colour)).sum(axis=2) < 30).sum())


BLUE, ORANGE, GREEN = (0, 114, 178), (213, 94, 0), (0, 158, 115)  # clean, robust, best epoch


@pytest.mark.parametrize("count", [1, 3, 100])
def test_curves(count: int, tmp_path: Path) -> None:
    """Fails if the picture is blank, lacks a curve or the best epoch's line, or is not beside the checkpoint."""
    picture = drawn(tmp_path, [epoch(number) for number in range(1, count + 1)], best=count)
    height, width, _ = picture.shape
    assert 500 < height < 1500 and 500 < width < 1500
    assert all(pixels_of(picture, colour) > 50 for colour in (BLUE, ORANGE, GREEN))
    assert [path.name for path in tmp_path.iterdir()] == [f"{NAME}.png"] == [picture_path(tmp_path / NAME).name]


def test_curves_of_natural_training_and_without_a_score(tmp_path: Path) -> None:
    """Fails if a robust curve is drawn where there is none, or an undefined score or loss stops the drawing."""
    epochs = [epoch(number, robust=False) for number in (1, 2, 3)]
    assert pixels_of(drawn(tmp_path, epochs, best=2), ORANGE) == 0
    undefined = Epoch(1, math.nan, 0.01, 1.0, {"accuracy": math.nan}, None)
    assert pixels_of(drawn(tmp_path, [undefined], best=0), GREEN) == 0


def test_curves_are_redrawn_seldom_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if each epoch of a fast training is drawn, none of a slow one is, or an error leaves no picture."""
    now, drawings = [0.0], []
    monkeypatch.setattr(curves.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(curves, "draw_curves", lambda epochs, *_: drawings.append(len(epochs)) or _[-1].write_text("x"))
    with pytest.raises(KeyboardInterrupt), TrainingCurves(tmp_path / NAME, "accuracy", "accuracy") as picture:
        for number in range(1, 31):
            now[0] += 1
            picture.add(epoch(number), number)
        assert drawings == [10, 20, 30]
        now[0] += 1
        picture.add(epoch(31), 31)
        raise KeyboardInterrupt
    assert drawings == [10, 20, 30, 31]


def test_no_picture_stops_no_training(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Fails if a training dies of its picture, or says so at every epoch."""
    (tmp_path / "file").write_text("")
    with TrainingCurves(tmp_path / "file" / NAME, "accuracy", "accuracy") as picture:
        picture.add(epoch(1), 1)
        picture._draw()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"no training curves at {tmp_path}/file/{NAME}.png: " in said


# --- bars ------------------------------------------------------------------------------------------------------------


def test_batches_pass_through(capsys: pytest.CaptureFixture) -> None:
    """Fails if a batch is lost; and without a terminal nothing is printed and no note is asked for, for it may wait."""

    def note(_: int) -> str:
        raise AssertionError("asked for")

    assert list(ProgressBar([[1, 2], [3]], 3, "title", note)) == [[1, 2], [3]]
    assert capsys.readouterr().err == ""


def test_a_long_batch_shows_that_it_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Fails if nothing moves on the screen while one batch of an hour is worked on, or every pass waits for the bar."""
    now, passes = [0.0], [0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    batches = ProgressBar([[0, 0]], 2, "title", lambda images: f"{images} images, {passes[0]} passes")
    for _ in batches:
        for _ in range(8):
            now[0] += 0.125
            passes[0] += 1
            batches.refresh()
    said = capsys.readouterr().err
    assert [count for count in range(9) if f"0 images, {count} passes" in said] == [1, 5]


def test_notes_are_few(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Fails if each batch of a fast loop waits for its note, or the note counts batches."""
    now, notes = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    def batches() -> Iterator[list[int]]:
        for _ in range(20):
            now[0] += 0.125
            yield [0, 0]

    list(ProgressBar(batches(), 40, "title", lambda images: notes.append(images) or f"note {images}"))
    assert notes == [2, 10, 18, 26, 34]
    assert "note 2]" in capsys.readouterr().err


def run_on_a_terminal(words: list[str], folder: Path) -> tuple[str, str]:
    """Standard output, and what a terminal would have got as standard error."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))  # rows and columns; else none
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, ROOT / words[0], *words[1:]],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # Linux's way to say that the other end is closed
            pass
        os.close(ours)
        assert process.stdout is not None
        printed = process.stdout.read()
    assert process.returncode == 0, shown.decode()
    return printed, shown.decode()


def test_bars_on_a_terminal_and_lines_elsewhere(tmp_path: Path) -> None:
    """Fails if a bar lacks its numbers on a terminal, or control characters reach a pipe or standard output."""
    make_phantoms(tmp_path / "data", ["mel2017"], count=24, size=32)
    words = ["trainCls.py", "--dataset", "melBin", "--method", "pgdat", "--model", "mv2", "--epoch", "2", "--bs", "8"]
    words += ["--gpu", "cpu", "--imgSize", "16"]
    printed, shown = run_on_a_terminal(words, tmp_path)
    number = r"\d\.\d{4}"
    rate = r"\d+/18 \[\d\d:\d\d<(\?|\d\d:\d\d), +(\?|[\d.]+) images/s, "
    assert re.search(rf"epoch 1/2: .*{rate}loss {number}\]", shown)
    assert re.search(rf"epoch 2/2: .*{rate}loss {number}, robust accuracy {number}\]", shown)
    assert re.search(rf"validation under attack: .* images/s, accuracy {number}\]", shown)

    again = [*words, "--saveDir", "other"]
    done = subprocess.run(
        [sys.executable, ROOT / again[0], *again[1:]],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    plain = r"epoch \d/2 loss .* s( \(best so far\))?|best epoch \d: .*"
    for text in (printed, done.stdout):
        assert len(text.splitlines()) == 3 and all(re.fullmatch(plain, line) for line in text.splitlines())
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["training"]
