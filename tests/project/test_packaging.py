"""The package as `pip install .` installs it, and the files that describe the project to other programs."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import advmia
from tests.support.documents import links, named_paths
from tests.support.running import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(name: str) -> list[str]:
    """Returns the requirements that a file itself lists, without comments and without included files."""
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("-r")]


def test_requirements_files_agree_with_the_package() -> None:
    """Fails if a dependency is added to, or changed in, only one of pyproject.toml and the requirements files."""
    assert requirements("requirements.txt") == PROJECT["dependencies"]
    assert requirements("requirements-test.txt") == PROJECT["optional-dependencies"]["test"]
    assert "-r requirements.txt" in (ROOT / "requirements-test.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which a wheel of the package is unpacked, as pip does it, without its dependencies."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "README.md", "LICENSE", "trainCls.py"):
        shutil.copy(ROOT / name, source)
    for name in ("advmia", "benchmarks", "scripts"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "tests").mkdir()
    (source / "tests" / "__init__.py").touch()
    program = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, target], cwd=source, capture_output=True, timeout=120, check=True)
    (wheel,) = target.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target)
    wheel.unlink()
    return target


def test_a_wheel_holds_the_package_and_nothing_else(installed: Path) -> None:
    """Fails if a wing is missing from the package, or tests, scripts or benchmarks are installed with it."""
    info = f"advmia-{advmia.__version__}.dist-info"
    assert {path.name for path in installed.iterdir()} == {"advmia", info}
    modules = {path.relative_to(ROOT) for path in (ROOT / "advmia").rglob("*.py")}
    assert {path.relative_to(installed) for path in (installed / "advmia").rglob("*.py")} == modules
    others = {str(path.relative_to(installed)) for path in (installed / "advmia").rglob("*.*")} - set(map(str, modules))
    pages = {f"advmia/report/page.{ending}" for ending in ("html", "css", "js")}
    assert others == {"advmia/data/datasets.toml", "advmia/py.typed", *pages}
    assert (installed / info / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_metadata(installed: Path) -> None:
    """Fails if version, oldest Python, license, dependencies or command differ from what pyproject.toml states."""
    info = installed / f"advmia-{advmia.__version__}.dist-info"
    metadata = email.message_from_string((info / "METADATA").read_text(encoding="utf-8"))
    expected = {
        "Name": "advmia",
        "Version": advmia.__version__,
        "Requires-Python": ">=3.11",
        "License-Expression": "MIT",
    }
    assert {key: metadata[key] for key in expected} == expected
    assert metadata.get_all("Provides-Extra") == ["tensorboard", "test"]
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra" not in line]
    assert needed == PROJECT["dependencies"]
    commands = (info / "entry_points.txt").read_text(encoding="utf-8").split()
    assert commands == ["[console_scripts]", "advmia", "=", "advmia.__main__:main"]


@pytest.mark.slow
def test_the_command_runs_from_any_folder(installed: Path, tmp_path: Path) -> None:
    """Fails if the installed command needs the repository, or its help names another command than the user typed."""
    command = tmp_path / "advmia"  # as pip writes it
    command.write_text("import sys\nfrom advmia.__main__ import main\nsys.exit(main())\n")
    process = subprocess.run(
        [sys.executable, command, "where", "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("usage: advmia where") and "| advmia where" in process.stdout


@pytest.mark.slow
def test_a_source_distribution_holds_what_readme_names(tmp_path: Path) -> None:
    """Fails if a page that README links to, or a script that it runs, is missing from a source distribution."""
    source = tmp_path / "source"
    source.mkdir()
    for path in (path for path in ROOT.iterdir() if path.is_file()):
        shutil.copy(path, source)
    for name in ("advmia", "benchmarks", "docs", "scripts", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    program = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, tmp_path], cwd=source, capture_output=True, timeout=120, check=True)
    with tarfile.open(tmp_path / f"advmia-{advmia.__version__}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    linked = {path for path, _ in links("README.md") if path.exists()}  # test_documents.py reports those that do not
    assert {str(path.relative_to(ROOT)) for path in linked} <= names
    assert {name.rstrip("/") for name in named_paths("README.md")} <= names
    assert not any(name.endswith(".pyc") for name in names)


def load_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_citation_names_this_version_and_the_survey() -> None:
    """Fails if CITATION.cff cannot be parsed, or names another version, license or article."""
    citation = load_yaml("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (advmia.__version__, PROJECT["license"])
    survey = citation["preferred-citation"]
    assert survey["doi"] == "10.1145/3702638"
    assert [author["family-names"] for author in survey["authors"]] == ["Dong", "Chen", "Xie", "Lai", "Chen"]


def test_commit_hooks_run_the_linters_of_the_checks() -> None:
    """Fails if a hook is not one of the two ruff commands that scripts/test.sh runs too."""
    (repository,) = load_yaml(".pre-commit-config.yaml")["repos"]
    entries = [hook["entry"].removesuffix(" --force-exclude") for hook in repository["hooks"]]
    assert entries == ["python -m ruff check", "python -m ruff format"]
    checks = (ROOT / "scripts" / "test.sh").read_text(encoding="utf-8")
    assert all(entry.replace("python", '"$PYTHON"') in checks for entry in entries)


def test_the_workflow_runs_the_checks() -> None:
    """Fails if the workflow does not run .ci/run, or not on the oldest Python that the package allows."""
    job = load_yaml(".github/workflows/ci.yml")["jobs"]["checks"]
    assert job["steps"][-1] == {"run": ".ci/run"} and os.access(ROOT / ".ci" / "run", os.X_OK)
    assert PROJECT["requires-python"] == f">={job['strategy']['matrix']['python'][0]}"


def test_the_changelog_names_this_version() -> None:
    """Fails if CHANGELOG.md has no section for unreleased changes, or none for the current version."""
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings[0] == "Unreleased" and advmia.__version__ in headings
