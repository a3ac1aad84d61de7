"""Progress bars: the numbers that they show on a terminal. Elsewhere they show nothing."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from advmia.data.phantoms import make_phantoms
from advmia.runtime import progress
from advmia.runtime.progress import Bar, ProgressBar
from tests.support.running import ROOT


def test_batches_pass_through(capsys: pytest.CaptureFixture) -> None:
    """Fails if a batch is lost, or if, without a terminal, something is printed or a note is computed."""

    def note(_: int) -> str:
        raise AssertionError("the note was computed")

    assert list(ProgressBar([[1, 2], [3]], 3, "title", note)) == [[1, 2], [3]]
    assert capsys.readouterr().err == ""


def test_notes_are_refreshed_within_batches(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Fails if the note is not refreshed within a batch that takes long, or is computed for every pass."""
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
    """Fails if a note is computed for each batch of a fast loop, or counts batches instead of images."""
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


def test_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Fails if a loop of minutes prints nothing to a log, more than a line a minute, or other numbers than a bar."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def batches() -> Iterator[list[int]]:
        for _ in range(8):
            now[0] += 25
            yield [0, 0]

    bar = ProgressBar(batches(), 20, "pgd eps 8", lambda images: f"accuracy at {images}", initial=4)
    for _ in bar:
        now[0] += 2
        bar.refresh()  # as within a batch that takes long
    assert capsys.readouterr().err.splitlines() == [
        "pgd eps 8: 8 of 20 images after 1 min, accuracy at 8",
        "pgd eps 8: 14 of 20 images after 2 min, accuracy at 14",
    ]
    assert list(Bar(batches(), desc="reliability", unit="batches", total=8)) == [[0, 0]] * 8
    with Bar(total=9, desc="copying", unit="files") as counter:
        now[0] += 30
        counter.update()
        now[0] += 31
        counter.update(2)
    assert capsys.readouterr().err.splitlines() == [
        "reliability: 3 of 8 batches after 1 min",
        "reliability: 6 of 8 batches after 2 min",
        "copying: 3 of 9 files after 1 min",
    ]


def run_on_a_terminal(python: Path, words: list[str], folder: Path) -> tuple[str, str]:
    """Runs the script with a pseudo-terminal as standard error; returns standard output and what the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))  # 50 lines of 200 characters
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [python, ROOT / words[0], *words[1:]],
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
        except OSError:  # Linux's sign that the other end is closed
            pass
        os.close(ours)
        assert process.stdout is not None
        printed = process.stdout.read()
    assert process.returncode == 0, shown.decode()
    return printed, shown.decode()


@pytest.mark.slow
def test_bars_on_a_terminal_and_lines_elsewhere(tmp_path: Path, warm_interpreter: Path) -> None:
    """Fails if a bar lacks its numbers on a terminal, or control characters reach a pipe or standard output."""
    make_phantoms(tmp_path / "data", ["mel2017"], count=24, size=32)
    words = ["trainCls.py", "--dataset", "melBin", "--method", "pgdat", "--model", "mv2", "--epoch", "2", "--bs", "8"]
    words += ["--gpu", "cpu", "--imgSize", "16"]
    printed, shown = run_on_a_terminal(warm_interpreter, words, tmp_path)
    number = r"\d\.\d{4}"
    rate = r"\d+/18 \[\d\d:\d\d<(\?|\d\d:\d\d), +(\?|[\d.]+) images/s, "
    assert re.search(rf"epoch 1/2: .*{rate}loss {number}\]", shown)
    assert re.search(rf"epoch 2/2: .*{rate}loss {number}, robust accuracy {number}\]", shown)
    assert re.search(rf"validation under attack: .* images/s, accuracy {number}\]", shown)

    again = [*words, "--saveDir", "other"]
    process = subprocess.run(
        [warm_interpreter, ROOT / again[0], *again[1:]],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    plain = r"epoch \d/2 loss .* s( \(best so far\))?|best epoch \d: .*"
    for text in (printed, process.stdout):
        assert len(text.splitlines()) == 3 and all(re.fullmatch(plain, line) for line in text.splitlines())
    assert [line.split()[0] for line in process.stderr.splitlines()] == ["training"]
