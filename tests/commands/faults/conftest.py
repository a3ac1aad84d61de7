"""A working folder to break, and how its commands are run."""

from __future__ import annotations

import io
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from advmia.data.datasets import DATASETS
from advmia.data.loading import load_data
from advmia.data.readers import read_samples
from advmia.data.specs import Split
from tests.support.faults import INTERRUPTED, TEST, Case, RunHere, check, run_case
from tests.support.networks import small_networks
from tests.support.running import run_main


@pytest.fixture(scope="session")
def template(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data whose caches are built, checkpoints, a finished test and an interrupted training. No test changes it."""
    folder = tmp_path_factory.mktemp("template")
    shutil.copytree(world / "data", folder / "data", ignore=shutil.ignore_patterns("cache"))
    shutil.copytree(world / "weights", folder / "weights")
    for name in ("melBin", "mel", "xray_multilabel"):
        for split in get_args(Split):
            load_data(folder / "data", read_samples(DATASETS[name].at_size(16), folder / "data", split), workers=1)
    with small_networks(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_main(patch, shlex.split(f"{TEST} --resultDir results")) == 0
        assert run_main(patch, shlex.split(INTERRUPTED)) == 2
    assert len(list((folder / "weights" / "interrupted").glob("*.state"))) == 1
    return folder


@pytest.fixture(autouse=True)
def small(small_networks: None) -> None:
    """Makes the networks of this process fit the checkpoints of the template."""


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    """A copy of the template to break; its checkpoints are links to those of the template."""
    for name in ("data", "results"):
        shutil.copytree(template / name, tmp_path / name)
    (tmp_path / "weights").mkdir()
    for path in (template / "weights").iterdir():
        (tmp_path / "weights" / path.name).symlink_to(path)
    return tmp_path


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunHere:
    """Runs a command line as `main` in this process and the current folder; returns its status and standard error."""

    def run(command: str, stdin: str = "") -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        status = run_main(monkeypatch, shlex.split(command))
        return status, capsys.readouterr().err

    return run


@pytest.fixture
def check_case(
    folder: Path, monkeypatch: pytest.MonkeyPatch, run_here: RunHere, request: pytest.FixtureRequest
) -> Callable[[Case], None]:
    """Checks a case in the folder: see `tests.support.faults.check`."""
    monkeypatch.chdir(folder)

    def run(case: Case) -> tuple[int, str]:
        if case.process or case.file_limit:
            return run_case(case, request.getfixturevalue("warm_interpreter"), folder)
        return run_here(case.command, case.stdin)

    return lambda case: check(case, folder, run)
