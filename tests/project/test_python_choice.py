"""scripts/python.sh: which interpreter the scripts take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running import ROOT

# Runs the program on standard input as `python - FILE` does, but cannot import pip: as in a `uv venv`.
WITHOUT_PIP = """#!/bin/sh
shift
exec '{python}' -c 'import sys; sys.modules["pip"] = None; exec(sys.stdin.read())' "$@"
"""


def pick(folder: Path, python: str | None, requirements: Path = ROOT / "requirements.txt") -> tuple[str, str]:
    """What `pick_python` sets PYTHON to in that folder ("" where it fails), and what it says.

    `python`: what PYTHON was before; None where the user has set none, and the python3 at hand has nothing.
    """
    (folder / "python3").write_text("#!/bin/sh\nexit 1\n")
    (folder / "python3").chmod(0o755)
    program = f'set -eu; . {ROOT}/scripts/python.sh; pick_python "$1" && printf %s "$PYTHON"'
    done = subprocess.run(
        ["bash", "-c", program, "bash", requirements],
        cwd=folder,
        env={"PATH": f"{folder}:{os.environ['PATH']}"} | ({} if python is None else {"PYTHON": python}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode == 0) == bool(done.stdout)
    return done.stdout, done.stderr


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder whose .venv/bin/python has all packages."""
    path = tmp_path / ".venv" / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n")
    path.chmod(0o755)
    return tmp_path


def test_no_pip_is_needed(tmp_path: Path) -> None:
    """Fails if an interpreter without pip counts as one without packages, or one that lacks a version as complete."""
    python = tmp_path / "two words"
    python.write_text(WITHOUT_PIP.format(python=sys.executable))
    python.chmod(0o755)
    assert pick(tmp_path, str(python)) == (str(python), "")
    (tmp_path / "more.txt").write_text(f"-r {ROOT}/requirements.txt\nnumpy>=999  # not yet\n")
    assert pick(tmp_path, str(python), tmp_path / "more.txt") == ("", "")


def test_a_choice_that_is_overruled_is_said(own: Path) -> None:
    """Fails if the user's PYTHON is passed over in silence, or somebody who has set none is told of it."""
    taken, said = pick(own, "/bin/false")
    assert taken == ".venv/bin/python"
    assert said.startswith("/bin/false is no Python") and said.endswith("taking .venv/bin/python\n")
    assert said.count("\n") == 1
    assert pick(own, None) == (".venv/bin/python", "")
