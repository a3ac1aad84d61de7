"""Several processes draw and save what one does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.pictures.commands import CLASSES
from tests.support.running import ROOT

WORDS = [*CLASSES, "--attacks", "fgsm", "--epsilons", "8", "--pictures", "1", "--saveAdversarial", "--limit", "5"]


@pytest.mark.slow
def test_two_processes(world: Path, warm_interpreter: Path, tmp_path: Path) -> None:
    """Fails if two processes draw other sheets or save other images than one, or hang, or if they cannot complete a
    folder that lacks images, each its share."""

    def run(out: str, *more: str) -> dict[str, bytes]:
        command = [str(ROOT / WORDS[0]), *WORDS[1:], "--resultDir", str(tmp_path / out), *more]
        process = subprocess.run(
            [str(warm_interpreter), *command], cwd=world, capture_output=True, text=True, timeout=240, check=False
        )
        assert process.returncode == 0, process.stderr
        files = [path for path in (tmp_path / out).glob("*/**/*") if path.is_file()]
        return {str(path.relative_to(tmp_path / out)): path.read_bytes() for path in files}

    expected = run("one")
    assert {Path(name).suffix for name in expected} == {".csv", ".json", ".npy", ".png"}
    assert run("two", "--gpu", "cpu", "cpu") == expected
    for path in [*(tmp_path / "two").glob("*/*/[0-2].*"), *(tmp_path / "two").glob("*/*.png")]:
        path.unlink()
    assert run("two", "--gpu", "cpu", "cpu") == expected
