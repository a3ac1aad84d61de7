"""Imports go downward only (DESIGN.md), and what no module may do, read from the source.

A module that is new gets a line in `LAYERS`; the lowest layer that its imports allow is the right one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the bottom up. A module imports from its own layer or those below; the first pattern that fits counts.
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "advmia",
        "advmia.errors",
        "advmia.files",
        "advmia.budgets",
        "advmia.rng",
        "advmia.losses",
        "advmia.metrics",
        "advmia.attacks.steps",
        "advmia.models",
        "advmia.models.*",
        "advmia.data",
        "advmia.data.specs",
        "advmia.data.markers",
        "advmia.data.readers",
        "advmia.data.transforms",
        "advmia.results",
        "advmia.state",
        "advmia.runtime",
        "advmia.stopping",
        "advmia.processes",
        "advmia.progress",
        "advmia.precision",
        "advmia.inference",
        "advmia.overlays",
        "advmia.intervals",
        "advmia.formats",
        "advmia.gather",
        "advmia.plots",
    ),
    (
        "advmia.data.cache",
        "advmia.data.loading",
        "advmia.data.prepare",
        "advmia.data.prepare.*",
        "advmia.data.phantoms",
        "advmia.data.phantom_images",
        "advmia.attacks",
        "advmia.attacks.*",
        "advmia.checkpoints",
    ),
    ("advmia.tasks", "advmia.methods"),
    (
        "advmia.training",
        "advmia.evaluation",
        "advmia.probe",
        "advmia.reliability",
        "advmia.gradcam",
        "advmia.visual",
        "advmia.scored",
        "advmia.curves",
    ),
    ("advmia.cli", "advmia.commands", "advmia.tables", "advmia.__main__"),
    # The entry scripts, which nothing imports.
    ("trainCls", "trainChex", "trainSeg", "testCls", "testChex", "testSeg", "gradVisual"),
)
TOP = ("advmia.cli", "advmia.commands", "advmia.__main__")

# Who may import what; a pattern of modules or packages, and patterns of the importers.
RESERVED: dict[str, tuple[str, ...]] = {
    "argparse": TOP,
    "advmia.cli": (*TOP, *LAYERS[-1]),
    "advmia.commands": (*TOP, *LAYERS[-1]),
    "torchvision": ("advmia.models.densenet",),
    "pickle": ("advmia.checkpoints", "advmia.models.densenet"),  # for its exceptions; see the calls below
}
# What packages must not import at all: the attacks know neither tasks nor data, the networks nothing of either.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "advmia.attacks": ("advmia.tasks", "advmia.data", "advmia.methods", "advmia.training", "advmia.evaluation"),
    "advmia.models": ("advmia.attacks", "advmia.data", "advmia.tasks", "advmia.methods"),
    "advmia.data": ("advmia.attacks", "advmia.models", "advmia.tasks", "advmia.methods"),
}
PRINTERS = (*TOP, "advmia.runtime", "advmia.tables")
# Keyword that a call must have, as source text.
KEYWORDS: dict[str, tuple[str, str]] = {
    "torch.load": ("weights_only", "True"),
    "torch.hub.load_state_dict_from_url": ("weights_only", "True"),
    "np.load": ("allow_pickle", "False"),
    "numpy.load": ("allow_pickle", "False"),
}
BANNED_CALLS = (
    "eval",
    "exec",
    "breakpoint",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "os.system",
    "shutil.rmtree",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in (*sorted((ROOT / "advmia").rglob("*.py")), *sorted(ROOT.glob("*.py")))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8"), str(path)) for name, path in SOURCES.items()}


def fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def layer_of(name: str) -> int:
    for number, patterns in enumerate(LAYERS):
        if fits(name, patterns):
            return number
    pytest.fail(f"{SOURCES[name].relative_to(ROOT)} is in no layer: add `{name}` to LAYERS in {Path(__file__).name}")


def imports(name: str, tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module imported anywhere in the file, functions and all, with the line; `from` names may be modules too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: a relative import; write the full name"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            ours = [module for module in modules if module in SOURCES]
            yield from ((module, node.lineno) for module in ours)
            if len(ours) < len(modules):
                yield str(node.module), node.lineno


def dotted(node: ast.expr) -> str:
    """The text of a call's function: `torch.load`."""
    return ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def import_faults(name: str, tree: ast.Module) -> list[str]:
    faults = []
    for imported, line in imports(name, tree):
        where = f"{name}:{line} imports {imported}"
        if imported in SOURCES and layer_of(imported) > layer_of(name):
            faults.append(f"{where}, which is above it")
        for reserved, importers in RESERVED.items():
            if is_in(imported, reserved) and not fits(name, importers):
                faults.append(f"{where}, which is for {', '.join(importers)} alone")
        for package, barred in FORBIDDEN.items():
            if is_in(name, package) and any(is_in(imported, other) for other in barred):
                faults.append(f"{where}, which {package} must not know")
    return faults


def call_faults(name: str, tree: ast.Module) -> list[str]:
    faults = []
    for called, node in calls(tree):
        where = f"{name}:{node.lineno} calls {called}"
        keyword, value = KEYWORDS.get(called, ("", ""))
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if keyword and given.get(keyword) != value:
            faults.append(f"{where} without {keyword}={value}")
        if called in BANNED_CALLS:
            faults.append(f"{where}, which no module may")
        if called == "print" and not fits(name, PRINTERS):
            faults.append(f"{where}; only {', '.join(PRINTERS)} talk to the terminal")
    return faults


@pytest.mark.parametrize("name", SOURCES)
def test_imports_go_downward(name: str) -> None:
    """Fails if a module imports from above itself, or what is reserved for others, or is in no layer."""
    layer_of(name)
    assert import_faults(name, TREES[name]) == []


@pytest.mark.parametrize("name", SOURCES)
def test_calls(name: str) -> None:
    """Fails if a file from elsewhere could run code, a folder could be emptied, or a library module prints."""
    assert call_faults(name, TREES[name]) == []


def test_no_cycles() -> None:
    """Fails if modules of one layer import each other in a circle."""
    graph = {
        name: {imported for imported, _ in imports(name, tree) if imported in SOURCES and imported != name}
        for name, tree in TREES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_every_module_says_what_it_is_for() -> None:
    """Fails if a module has no docstring; a package's empty `__init__` needs none."""
    assert [name for name, tree in TREES.items() if tree.body and not ast.get_docstring(tree)] == []


# ---------------------------------------------------------------- that the rules above can fail


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("advmia.attacks.steps", "from advmia.attacks import gradient", "which is above it"),
        ("advmia.budgets", "def f():\n    from advmia.tasks import Task", "which is above it"),
        ("advmia.data.readers", "import advmia.data.cache", "which is above it"),
        ("advmia.attacks.gradient", "from advmia.data.specs import DATASETS", "which advmia.attacks must not know"),
        ("advmia.attacks.gradient", "from advmia.data import specs", "which advmia.attacks must not know"),
        ("advmia.training", "from advmia import cli", "which is above it"),
        ("advmia.training", "import argparse", "which is for advmia.cli, "),
        ("advmia.attacks.gradient", "from argparse import Namespace", "which is for advmia.cli, "),
        ("advmia.data.transforms", "from torchvision.transforms import Resize", "advmia.models.densenet alone"),
    ],
)
def test_a_forbidden_import_is_found(name: str, source: str, says: str) -> None:
    """Fails if the rules overlook one of the spellings of an import."""
    faults = import_faults(name, ast.parse(source))
    assert any(says in fault for fault in faults), faults


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("advmia.checkpoints", "torch.load(path)", "without weights_only=True"),
        ("advmia.checkpoints", "torch.load(path, weights_only=False)", "without weights_only=True"),
        ("advmia.checkpoints", "torch.load(path, weights_only=trusted)", "without weights_only=True"),
        ("advmia.data.prepare.archives", "np.load(path)", "without allow_pickle=False"),
        ("advmia.training", "def f():\n    print('epoch')", "talk to the terminal"),
        ("advmia.results", "pickle.loads(data)", "which no module may"),
        ("advmia.commands", "shutil.rmtree(folder)", "which no module may"),
    ],
)
def test_a_forbidden_call_is_found(name: str, source: str, says: str) -> None:
    """Fails if the rules overlook a call."""
    faults = call_faults(name, ast.parse(source))
    assert len(faults) == 1 and says in faults[0]


def test_allowed_lines_pass() -> None:
    """Fails if the rules find fault with what is right."""
    allowed = "from advmia import runtime\nimport argparse\nfrom advmia.attacks.steps import Attack"
    assert import_faults("advmia.commands", ast.parse(allowed)) == []
    assert call_faults("advmia.checkpoints", ast.parse("torch.load(p, map_location='cpu', weights_only=True)")) == []
    assert call_faults("advmia.tables", ast.parse("print(1)")) == []


def test_a_new_module_must_be_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a module that is in no layer passes, or the message does not say what to do."""
    monkeypatch.setitem(SOURCES, "advmia.novelty", ROOT / "advmia" / "novelty.py")
    with pytest.raises(pytest.fail.Exception, match=r"novelty\.py is in no layer: add `advmia\.novelty` to LAYERS"):
        layer_of("advmia.novelty")
