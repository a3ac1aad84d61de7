"""Imports go downward only, and no module breaks the rules of `tests.architecture`."""

from __future__ import annotations

import ast

import pytest

from tests import architecture
from tests.architecture import LAYERS, MODULES, ROOT, TEST_LINES, Module


@pytest.mark.parametrize("name", MODULES)
def test_no_module_breaks_a_rule(name: str) -> None:
    """Fails if a module imports upward or sideways, is too long, prints, or calls what no module may call."""
    assert architecture.faults_of(MODULES[name]) == []


def test_no_module_imports_itself_through_others() -> None:
    """Fails if modules import each other in a circle, also within one wing."""
    assert architecture.cycle() == []


def test_every_module_has_a_docstring() -> None:
    """Fails if a module does not say what it is for; an empty `__init__` needs no docstring."""
    assert [name for name, module in MODULES.items() if module.tree.body and not ast.get_docstring(module.tree)] == []


def test_test_files_are_short() -> None:
    """Fails if a test file has more than 500 lines."""
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / "tests").rglob("*.py")}
    assert [f"{path.relative_to(ROOT)}: {length}" for path, length in lengths.items() if length > TEST_LINES] == []


def test_the_map_shows_every_wing(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if `python -m tests.architecture` leaves a wing out, or finds a fault where the tests above find none."""
    assert architecture.main() == 0
    text = capsys.readouterr().out
    assert all(f"   {wing} " in text for wings in LAYERS for wing in wings)
    assert text.endswith("no import goes upward, and no module breaks a rule\n")


# ---------------------------------------------------------------- the rules fail where they should

WINGS = [wing for wings in LAYERS for wing in wings]


def member(wing: str) -> str:
    """Returns the name of one module of a wing."""
    return next(name for name, module in MODULES.items() if module.wing == wing)


@pytest.mark.parametrize("wing", WINGS)
def test_an_import_from_above_is_found(wing: str) -> None:
    """Fails if a wing can import another one of a higher layer or of its own layer."""
    layer = architecture.layer_of(wing)
    for number, wings in enumerate(LAYERS):
        for other in wings:
            faults = architecture.import_faults(Module(member(wing), f"import {member(other)}"))
            faults = [fault for fault in faults if "which only" not in fault]
            assert bool(faults) == (number > layer or (number == layer and other != wing)), (wing, other, faults)


@pytest.mark.parametrize(
    "source",
    [
        "from advmia import tasks",
        "from advmia.tasks import Task",
        "import advmia.tasks as other",
        "def f():\n    from advmia.tasks import Task",
        "if TYPE_CHECKING:\n    from advmia.tasks import Task",
    ],
)
def test_every_spelling_of_an_import_is_read(source: str) -> None:
    """Fails if an import is overlooked because of its spelling."""
    faults = architecture.import_faults(Module("advmia.attacks.common", source))
    assert len(faults) == 1 and "tasks is above attacks" in faults[0]


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("advmia.training.loop", "import argparse", "which only advmia.cli"),
        ("advmia.attacks.common", "from argparse import Namespace", "which only advmia.cli"),
        ("advmia.data.transforms", "from torchvision.transforms import Resize", "which only advmia.models.densenet"),
        ("advmia.data.transforms", "from advmia.data.cache import _key", "private to advmia.data.cache"),
        ("advmia.checkpoints.weights", "torch.load(path)", "without weights_only=True"),
        ("advmia.checkpoints.weights", "torch.load(path, weights_only=False)", "without weights_only=True"),
        ("advmia.checkpoints.weights", "torch.load(path, weights_only=trusted)", "without weights_only=True"),
        ("advmia.data.prepare.archives", "np.load(path)", "without allow_pickle=False"),
        ("advmia.training.loop", "def f():\n    print('epoch')", "write to the terminal"),
        ("advmia.results.read", "pickle.loads(data)", "which no module may"),
        ("advmia.commands.training", "shutil.rmtree(folder)", "which no module may"),
        ("advmia.training.loop", "\n" * 301, "has 301 lines"),
        ("advmia.training.loop", "def f():\n" + "    x = 1\n" * 60, "f has 61 lines"),
        ("advmia.training.loop", "class A:\n    def f(self, a, b, c, /, d, *, e, g, h): ...", "f has 7 parameters"),
        ("advmia.training.loop", "def loop(): ...", "advmia.training.loop defines loop"),
    ],
)
def test_a_broken_rule_is_found(name: str, source: str, says: str) -> None:
    """Fails if one of the rules finds no fault with a module that breaks it, or finds further faults."""
    faults = architecture.faults_of(Module(name, source))
    assert len(faults) == 1 and says in faults[0], faults


def test_modules_that_keep_the_rules_pass() -> None:
    """Fails if the rules find fault with what is allowed."""
    allowed = "import argparse\nfrom advmia.attacks.common import Attack\ndef f(a, b, c, d, *, e, g): print(a)"
    assert architecture.faults_of(Module("advmia.commands.training", allowed)) == []
    load = "torch.load(path, map_location='cpu', weights_only=True)"
    assert architecture.faults_of(Module("advmia.checkpoints.weights", load)) == []


def test_a_wing_must_be_in_a_layer() -> None:
    """Fails if a new wing passes without a layer, or the message does not say what to do."""
    with pytest.raises(LookupError, match=r"'novelty' is in no layer: add it to LAYERS in architecture\.py"):
        architecture.layer_of(Module("advmia.novelty.loop", "").wing)
