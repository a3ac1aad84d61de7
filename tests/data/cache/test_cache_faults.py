"""The cache with several processes, killed processes, full disks and read-only folders."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advmia.data import cache
from advmia.data.cache import CACHE_FOLDER
from advmia.data.transforms import load_image
from advmia.errors import UserError
from tests.data.cache.data_root import COUNT, cache_files, direct, get, image_path, write_image

FORK = multiprocessing.get_context("fork")

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def fork(work: Callable[[], object]) -> Any:
    """Starts `work` in a process of its own; a `UserError` ends it with status 2."""

    def run() -> None:
        try:
            work()
        except UserError as error:
            print(error, flush=True)
            os._exit(2)
        os._exit(0)

    process = FORK.Process(target=run)
    process.start()
    return process


def join(process: Any) -> int:
    process.join(60)
    assert process.exitcode is not None, "still running"
    return process.exitcode


def test_two_processes_decode_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails without the lock. The first process decodes when the second has reached the lock, or decodes as well."""
    log = tmp_path / "decoded.txt"
    arrived = FORK.Semaphore(0)
    both = FORK.Event()
    lock = fcntl.flock

    def count_and_lock(file: BufferedWriter, operation: int) -> None:
        arrived.release()
        lock(file, operation)

    def load(path: Path, resize: int, size: int, **options: Any) -> np.ndarray:
        if not both.is_set():
            assert arrived.acquire(timeout=30) and arrived.acquire(timeout=30)  # both are at the lock
            both.set()
        with log.open("a") as file:
            file.write(f"{path.name}\n")
        return load_image(path, resize, size, **options)

    monkeypatch.setattr(cache.fcntl, "flock", count_and_lock)
    monkeypatch.setattr(cache, "load_image", load)

    def work(number: int) -> None:
        np.save(tmp_path / f"{number}.npy", get(root, workers=1).pixels)

    processes = [fork(partial(work, number)) for number in range(2)]
    assert [join(process) for process in processes] == [0, 0]
    assert sorted(log.read_text().split()) == [f"{number}.png" for number in range(COUNT)]
    for number in range(2):
        assert np.array_equal(np.load(tmp_path / f"{number}.npy"), direct(root))


@pytest.mark.parametrize("killed_at", ["while decoding", "between array and facts", "while writing the facts"])
def test_a_killed_builder(killed_at: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the files that `kill -9` leaves are used, hinder the next run, or stay for ever."""

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def load(path: Path, resize: int, size: int, **options: Any) -> np.ndarray:
        if path.name == "3.png":
            die()
        return load_image(path, resize, size, **options)

    def build() -> None:
        if killed_at == "while decoding":
            monkeypatch.setattr(cache, "load_image", load)
            monkeypatch.setattr(cache, "_FILES_AT_A_TIME", 1)
        elif killed_at == "between array and facts":
            monkeypatch.setattr(cache, "write_text", die)
        else:
            monkeypatch.setattr(Path, "write_text", lambda path, *_, **__: (path.touch(), die()))
        get(root)

    assert join(fork(build)) == -signal.SIGKILL
    left = [path.name for path in (root / CACHE_FOLDER).iterdir()]
    assert any(name.endswith(".tmp") for name in left) == (killed_at != "between array and facts")
    assert not any(name.endswith(".json") for name in left)
    assert np.array_equal(get(root).pixels, direct(root))
    cache_files(root)  # nothing but array, facts and lock


@pytest.mark.parametrize("step", ["load_image", "write_text"])
def test_a_killed_rebuild(step: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the old facts outlive their array, or are removed before all images are decoded."""
    get(root)
    write_image(image_path(root, 0), np.random.default_rng(9))

    def build() -> None:
        monkeypatch.setattr(cache, step, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        get(root)

    assert join(fork(build)) == -signal.SIGKILL
    assert len(list((root / CACHE_FOLDER).glob("*.json"))) == (step == "load_image")
    assert np.array_equal(get(root).pixels, direct(root))
    cache_files(root)


def test_full_disk(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Fails if the system's limit on a file's size ends the process, but not with a `UserError`."""

    def build() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        get(root)

    assert join(fork(build)) == 2
    message = capfd.readouterr().out
    assert "cannot write" in message and "File too large" in message and "free space" in message
    assert [path.suffix for path in (root / CACHE_FOLDER).iterdir()] == [".lock"]
    assert np.array_equal(get(root).pixels, direct(root))


def test_disk_fills_up_before_the_last_byte(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if an error that comes only with the final sync leaves an array behind."""

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(UserError, match=r"cannot write .*\.npy \(No space left on device\): free space"):
            get(root)
    assert [path.suffix for path in (root / CACHE_FOLDER).iterdir()] == [".lock"]
    assert np.array_equal(get(root).pixels, direct(root))


@pytest.fixture
def read_only(root: Path) -> Iterator[Callable[[], None]]:
    """Yields a function that makes the data root read-only until the end of the test."""
    with ExitStack() as stack:

        def take() -> None:
            for folder in (root, root / CACHE_FOLDER):
                if folder.exists():
                    folder.chmod(0o555)
                    stack.callback(folder.chmod, 0o755)
            if os.access(root, os.W_OK):
                pytest.skip("the super-user may write anywhere")
            lock = next((root / CACHE_FOLDER).glob("*.lock"), None)
            if lock is not None:
                lock.chmod(0o444)

        yield take


def test_read_only_root_without_a_cache(root: Path, read_only: Callable[[], None]) -> None:
    """Fails if the system's error is not turned into a `UserError`."""
    read_only()
    with pytest.raises(UserError, match=r"cannot write the image cache at .*cache \(Permission denied\)"):
        get(root)


def test_read_only_root_with_a_cache(root: Path, read_only: Callable[[], None], decoded: list[str]) -> None:
    """Fails if a finished array cannot be used by a user who may only read it."""
    get(root)
    decoded.clear()
    read_only()
    assert np.array_equal(get(root).pixels, direct(root)) and decoded == []


def _lock_is_a_folder(root: Path) -> None:
    get(root)
    lock = cache_files(root)[".lock"]
    lock.unlink()
    lock.mkdir()


def test_a_finished_array_needs_no_lock(root: Path, decoded: list[str]) -> None:
    """Fails if reading needs the right to write. Unlike a read-only folder, this also tests the super-user."""
    _lock_is_a_folder(root)
    decoded.clear()
    assert np.array_equal(get(root).pixels, direct(root)) and decoded == []


def _unlockable(_: object, __: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_folders_that_cannot_be_locked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a file system without locks, or a folder with the lock's name, ends in a traceback."""
    with monkeypatch.context() as patch:
        patch.setattr(cache.fcntl, "flock", _unlockable)
        with pytest.raises(UserError, match=r"cannot write the image cache at .* \(No locks available\): .*--dataRoot"):
            get(root)
    _lock_is_a_folder(root)
    write_image(image_path(root, 0), np.random.default_rng(9))
    with pytest.raises(UserError, match=r"cannot write the image cache at .* \(Is a directory\)"):
        get(root)


def test_a_file_with_the_cache_folders_name(root: Path) -> None:
    """Fails if the system's error is not turned into a `UserError`."""
    (root / CACHE_FOLDER).touch()
    with pytest.raises(UserError, match=r"cannot write the image cache at .* \(File exists\)"):
        get(root)
