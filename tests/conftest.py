"""Fixtures that several test files share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from advmia import budgets
from tests.support import browser as chromium
from tests.support import networks
from tests.support.running import ROOT
from tests.support.warm import warm_python
from tests.support.world import make_world

SHARED = ROOT.parent / "shared"
FRESH = """#!{python}
import runpy, sys
sys.executable, sys.argv = sys.argv[0], sys.argv[1:]  # the commands that it starts have small networks too
sys.path.insert(0, {root!r})
from tests.support.networks import small_networks
with small_networks():
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Runs each test file on one thread, which is faster on small inputs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def official() -> Path:
    """Real ISIC 2017 and ChestX-ray14 images in the layout of the official downloads; without them, skips the test."""
    path = SHARED / "data" / "official"
    if not path.is_dir():
        pytest.skip(f"no real images at {path}")
    return path


@pytest.fixture(scope="session")
def reference_fixtures() -> Path:
    """The folder of logits and state_dict shapes of the published code's networks."""
    return ROOT / "tests" / "fixtures" / "reference"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with phantoms and untrained networks, see `make_world`. No test changes its contents."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def warm_interpreter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A program that replaces `python` and has already imported torch, for tests that run many short commands.

    Its networks are those of `small_networks`.
    """
    with warm_python(tmp_path_factory.mktemp("warm")) as program:
        yield program


@pytest.fixture(scope="session")
def fresh_interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that replaces `python`, an interpreter of its own, whose networks are those of `small_networks`."""
    program = tmp_path_factory.mktemp("fresh") / "python"
    program.write_text(FRESH.format(python=sys.executable, root=str(ROOT)))
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    """A chromium for the tests of one file; without it, skips them."""
    reason = chromium.why_not()
    if reason:
        pytest.skip(reason)
    with chromium.running_browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
def small_networks() -> Iterator[None]:
    """Makes the networks of this process as small as those of the warm interpreter and in `world`."""
    with networks.small_networks():
        yield


@pytest.fixture
def narrow_wrn() -> Iterator[None]:
    """Makes `wrn` narrow, for tests that run all networks at their full size, of which it is far the slowest."""
    with networks.narrow_wrn():
        yield


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes attacks in this process take few steps, for tests that do not check how strong an attack is."""
    for name, steps in (("EVALUATION_STEPS", 2), ("CW_STEPS", 2), ("AUTO_STEPS", 5), ("QUERIES", 50)):
        monkeypatch.setattr(budgets, name, steps)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` if there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
