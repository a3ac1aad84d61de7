"""Atomic writes, the write lock, JSON without NaN, and names for earlier files."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from advmia.errors import UserError
from advmia.runtime.files import atomic_write, fitting_name, rename_existing, write_json, write_lock, write_text
from tests.support.running import ROOT

FORK = multiprocessing.get_context("fork")


def test_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    """Fails if the temporary file stays, the parent folders are not created, or the text is not UTF-8."""
    path = tmp_path / "new" / "folder" / "file.txt"
    for text in ("first\n", "zweite Fassung: äöü\n"):
        write_text(path, text)
        assert path.read_bytes() == text.encode("utf-8")
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, UserError])
def test_a_block_that_raises_leaves_the_old_file(error: type[BaseException], tmp_path: Path) -> None:
    """Fails if the block writes to the file itself, or its error is dropped or replaced by another."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_bytes_are_on_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the file is renamed before fsync: a power cut could leave an empty file under its name."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    syncs = []
    monkeypatch.setattr(os, "fsync", lambda number: syncs.append((path.read_text(), os.fstat(number).st_size)))
    write_text(path, "new text")
    assert syncs == [("old", len("new text"))]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    """Fails if the file changes before the block has ended."""
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_and_die() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half of the n")
            os.kill(os.getpid(), signal.SIGKILL)

    writer = FORK.Process(target=write_and_die)
    writer.start()
    writer.join(30)
    assert writer.exitcode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"


def _below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("kept")
    return folder / "file" / "below" / "it.txt"


def _a_folder(folder: Path) -> Path:
    (folder / "taken").mkdir()
    return folder / "taken"


@pytest.mark.parametrize(
    ("make_path", "advice"),
    [
        pytest.param(_below_a_file, "file is a file where a folder is needed: rename it", id="parent is a file"),
        pytest.param(_a_folder, "rename the folder of that name", id="name is taken by a folder"),
        pytest.param(lambda folder: folder / ("n" * 300), "take a shorter name", id="name too long"),
    ],
)
def test_unwritable_paths(make_path: object, advice: str, tmp_path: Path) -> None:
    """Fails if the system's error is not turned into a `UserError` that says the path and what helps: no free space."""
    path = make_path(tmp_path)  # type: ignore[operator]
    with pytest.raises(UserError) as caught:
        write_text(path, "text")
    text = str(caught.value)
    assert text.startswith(f"cannot write {path} (") and f"{advice} or choose another folder" in text
    assert "\n" not in text and "free space" not in text
    assert not list(tmp_path.rglob("*.tmp"))


def test_full_disk(tmp_path: Path) -> None:
    """Fails if a full disk raises no `UserError` that says so, or the old file is lost."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(UserError, match=r"No space left on device.*free space"), atomic_write(path) as temporary:
        temporary.write_text("half of the n")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_no_nan(tmp_path: Path) -> None:
    """Fails if NaN, which JSON does not have, is written at any depth, or other values change."""
    path = tmp_path / "scores.json"
    write_json(path, {"auc": [0.5, float("nan")], "of": {"mean": float("nan"), "n": 3, "pair": (1, "ä")}, "none": None})
    text = path.read_text(encoding="utf-8")
    expected = {"auc": [0.5, None], "of": {"mean": None, "n": 3, "pair": [1, "ä"]}, "none": None}
    assert json.loads(text) == expected and text.endswith("}\n") and text.count("\n") == 1
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"loss": float("inf")})
    assert path.read_text(encoding="utf-8") == text


def test_earlier_files_are_never_replaced(tmp_path: Path) -> None:
    """Fails if a file that was renamed before is lost, or two files of one run get different numbers."""
    weights, record = tmp_path / "weights", tmp_path / "weights.json"
    for content in ("first", "second", "third"):
        weights.write_text(content)
        if content != "second":
            record.write_text(content)
        moved = rename_existing(weights, record)
        assert [path.read_text() for path in moved] == [content] * len(moved)
        assert not weights.exists() and not record.exists()
    contents = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert contents == {
        "weights.earlier-1": "first",
        "weights.json.earlier-1": "first",
        "weights.earlier-2": "second",
        "weights.earlier-3": "third",
        "weights.json.earlier-3": "third",
    }


def test_the_number_is_free_for_all_files(tmp_path: Path) -> None:
    """Fails if the number is free for the first file only: the second would replace an earlier version."""
    first, second = tmp_path / "a", tmp_path / "b"
    (tmp_path / "b.earlier-1").write_text("kept")
    first.write_text("a")
    second.write_text("b")
    assert rename_existing(first, second) == [tmp_path / "a.earlier-2", tmp_path / "b.earlier-2"]
    assert (tmp_path / "b.earlier-1").read_text() == "kept"


def test_renaming_missing_files(tmp_path: Path) -> None:
    """Fails if missing files are an error."""
    assert rename_existing(tmp_path / "a", tmp_path / "b") == []


# --- one writer ------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """Fails if two runs can write one file, the lock outlasts its block, or a file is left in the folder."""
    path = tmp_path / "new" / "weights"
    with write_lock(path):
        with pytest.raises(UserError, match=r"another run is writing .*weights now"), write_lock(path):
            pass
        with write_lock(path.with_name("other")):
            pass
    with write_lock(path):
        pass
    assert not list(path.parent.iterdir())


def test_a_writer_that_is_killed(tmp_path: Path) -> None:
    """Fails if a lock outlives its process, a half-written file is not removed, or another run's file is removed."""
    path = tmp_path / "weights"
    code = "import os, sys; from pathlib import Path; from advmia.runtime.files import atomic_write, write_lock\n"
    code += "path = Path(sys.argv[1])\n"
    code += "with write_lock(path), atomic_write(path.with_name('weights.state')) as half:\n"
    code += "    half.write_text('half'); os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    (half,) = tmp_path.glob(".weights.state.*.tmp")
    assert killed.returncode == -9 and path.with_name(".weights.lock").exists()
    other = tmp_path / ".weights2.state.7.tmp"
    unfinished = tmp_path / f".weights.earlier-1.json.{os.getpid()}.tmp"  # of a run that is still writing
    for file in (other, unfinished):
        file.touch()
    with write_lock(path):
        assert not half.exists() and other.exists() and unfinished.exists()


def test_the_longest_name(tmp_path: Path) -> None:
    """Fails if the temporary name, the lock or the later name of a file with a long name is too long for the file
    system, which counts bytes."""
    for name in ("n" * 255, "ü" * 127, "日" * 85):
        path = tmp_path / name
        with write_lock(path):
            write_text(path, "text")
        assert [entry.name for entry in tmp_path.iterdir()] == [name]
        (later,) = rename_existing(path)
        assert len(later.name.encode()) <= 255 and later.name.endswith(".earlier-1") and later.read_text() == "text"
        later.unlink()


def test_a_fitting_name() -> None:
    """Fails if a name that fits is changed, a character is cut in two, or two long names become one."""
    assert fitting_name("n" * 255) == "n" * 255
    names = [fitting_name("ü" * 126 + end, 100) for end in ("a", "b")]
    assert names[0] != names[1] and all(len(name.encode()) <= 100 and name[:41] == "ü" * 41 for name in names)
