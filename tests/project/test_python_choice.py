"""scripts/python.sh: which interpreter the scripts use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.running import ROOT

# Runs the program on standard input, as `python - FILE` does, in an environment without pip, such as `uv venv` makes.
WITHOUT_PIP = """#!/bin/sh
shift
exec '{python}' -c 'import sys; sys.modules["pip"] = None; exec(sys.stdin.read())' "$@"
"""


def pick(folder: Path, python: str | None, requirements: Path = ROOT / "requirements.txt") -> tuple[str, str]:
    """Runs `pick_python` in `folder`; returns the PYTHON that it sets ("" if it fails) and its standard error.

    `python` is the user's PYTHON. With None it is not set, and the `python3` on the path has no packages.
    """
    (folder / "python3").write_text("#!/bin/sh\nexit 1\n")
    (folder / "python3").chmod(0o755)
    program = f'set -eu; . {ROOT}/scripts/python.sh; pick_python "$1" && printf %s "$PYTHON"'
    process = subprocess.run(
        ["bash", "-c", program, "bash", requirements],
        cwd=folder,
        env={"PATH": f"{folder}:{os.environ['PATH']}"} | ({} if python is None else {"PYTHON": python}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (process.returncode == 0) == bool(process.stdout)
    return process.stdout, process.stderr


@pytest.fixture
def folder_with_venv(tmp_path: Path) -> Path:
    """A folder whose .venv/bin/python has all packages."""
    path = tmp_path / ".venv" / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n")
    path.chmod(0o755)
    return tmp_path


def test_no_pip_is_needed(tmp_path: Path) -> None:
    """Fails if an interpreter without pip is refused, or one with a package that is too old is accepted."""
    python = tmp_path / "two words"
    python.write_text(WITHOUT_PIP.format(python=sys.executable))
    python.chmod(0o755)
    assert pick(tmp_path, str(python)) == (str(python), "")
    (tmp_path / "more.txt").write_text(f"-r {ROOT}/requirements.txt\nnumpy>=999  # does not exist\n")
    assert pick(tmp_path, str(python), tmp_path / "more.txt") == ("", "")


def test_an_unusable_python_is_reported(folder_with_venv: Path) -> None:
    """Fails if the user's PYTHON is replaced without a message, or a message appears although PYTHON is not set."""
    python, message = pick(folder_with_venv, "/bin/false")
    assert python == ".venv/bin/python"
    assert message.startswith("/bin/false is not Python 3.11") and message.endswith("using .venv/bin/python instead\n")
    assert message.count("\n") == 1
    assert pick(folder_with_venv, None) == (".venv/bin/python", "")


def test_the_oldest_python_is_the_same_everywhere() -> None:
    """Fails if the scripts, the linter and the package disagree about the oldest Python that advmia supports."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["requires-python"] == ">=3.11"
    assert project["tool"]["ruff"]["target-version"] == "py311"
    script = (ROOT / "scripts" / "python.sh").read_text(encoding="utf-8")
    assert set(re.findall(r"3[.,] ?1\d", script)) == {"3.11", "3, 11", "3.12"}  # 3.12 is the example of an error line
    for name in ("requirements.txt", "README.md"):
        assert "3.11 or later" in (ROOT / name).read_text(encoding="utf-8"), name
