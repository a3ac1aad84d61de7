"""The wings of the package, the layers that they form, and the rules that every module keeps.

`python -m tests.architecture` prints the map of the imports, wing by wing, and the faults that it finds.
A new wing gets a name in `LAYERS`. A new module needs nothing here: it belongs to the wing whose folder it is in.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("trainCls", "trainChex", "trainSeg", "testCls", "testChex", "testSeg", "gradVisual")

# From the bottom to the top: the wings of each layer, and what the layer is. A wing imports from lower layers only.
# Wings of one layer do not import each other.
LAYERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("version", "errors"), "the version, and the error that a user sees"),
    (("runtime",), "processes, signals, files, precision, randomness; knows no network, task or data set"),
    (("budgets", "losses", "models"), "eps, losses and networks; each is usable alone"),
    (("metrics",), "scores from logits and labels"),
    (("attacks", "data"), "adversarial examples; images and lists. Neither knows the other"),
    (("checkpoints",), "weights, records and states on disk"),
    (("tasks",), "what differs between the three kinds of prediction"),
    (("gradcam", "results"), "maps of what a network looks at; result files, tables and plots"),
    (("evaluation",), "scores a network, and checks whether the scores can be believed"),
    (("training",), "methods, the training loop, validation"),
    (("cli", "commands"), "flags; and what the seven scripts do with them"),
    (("__main__",), "python -m advmia"),
    (("scripts",), "the seven entry scripts, which nothing imports"),
)
MODULE_LINES, FUNCTION_LINES, PARAMETERS, TEST_LINES = 300, 60, 6, 500

# Who may import a package or module that is not for everyone. Patterns are of module names.
_ARGUMENTS = ("advmia.cli.*", "advmia.commands.*", "advmia.__main__")
RESERVED: dict[str, tuple[str, ...]] = {
    "argparse": _ARGUMENTS,
    "torchvision": ("advmia.models.densenet",),
    "pickle": ("advmia.models.densenet",),  # for the exceptions that a damaged download raises; see BANNED_CALLS
}
PRINTERS = (*_ARGUMENTS, "advmia.runtime.terminal")
# The keyword that a call must have, as source text: no file from elsewhere may run code.
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


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name and its text."""

    name: str
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def wing(self) -> str:
        """The folder below `advmia`, the module's own name at the top of the package, or "scripts"."""
        if self.name in SCRIPTS:
            return "scripts"
        return self.name.split(".")[1] if "." in self.name else "version"


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Module]:
    """Every module of the package and the seven scripts, by name."""
    paths = [*sorted((ROOT / "advmia").rglob("*.py")), *(ROOT / f"{name}.py" for name in SCRIPTS)]
    return {_module_name(path): Module(_module_name(path), path.read_text(encoding="utf-8")) for path in paths}


MODULES = modules()


def layer_of(wing: str) -> int:
    """The number of a wing's layer, from 0. Raises `LookupError` for a wing that no layer names."""
    for number, (wings, _) in enumerate(LAYERS):
        if wing in wings:
            return number
    raise LookupError(f"the wing {wing!r} is in no layer: add it to LAYERS in {Path(__file__).name}")


def imports(module: Module) -> Iterator[tuple[str, int]]:
    """Yields each imported module's name with the line, also of imports within functions."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name}:{node.lineno}: a relative import; write the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            ours = [name for name in names if name in MODULES]
            yield from ((name, node.lineno) for name in ours)
            if len(ours) < len(names):
                yield str(node.module), node.lineno


def import_faults(module: Module) -> list[str]:
    """Imports that go upward, sideways to another wing, or to what is reserved for other modules."""
    faults = []
    for name, line in imports(module):
        where = f"{module.name}:{line} imports {name}"
        if name in MODULES:
            other = MODULES[name].wing
            below, own = layer_of(other), layer_of(module.wing)
            if below > own:
                faults.append(f"{where}: {other} is above {module.wing}")
            elif below == own and other != module.wing:
                faults.append(f"{where}: {other} and {module.wing} are beside each other and must not know each other")
        for reserved, importers in RESERVED.items():
            is_reserved = name == reserved or name.startswith(f"{reserved}.")
            if is_reserved and not any(fnmatchcase(module.name, pattern) for pattern in importers):
                faults.append(f"{where}, which only {', '.join(importers) or 'nothing'} may")
    return faults


def private_import_faults(module: Module) -> list[str]:
    """Names with a leading underscore that are imported from another module."""
    return [
        f"{module.name}:{node.lineno} imports {alias.name}, which is private to {node.module}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("advmia")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]


def call_faults(module: Module) -> list[str]:
    """Calls that could run code from a file, empty a folder, or print from a library module."""
    faults = []
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, (ast.Name, ast.Attribute)):
            continue
        function = ast.unparse(node.func)
        where = f"{module.name}:{node.lineno} calls {function}"
        keyword, value = KEYWORDS.get(function, ("", ""))
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if keyword and keywords.get(keyword) != value:
            faults.append(f"{where} without {keyword}={value}")
        if function in BANNED_CALLS:
            faults.append(f"{where}, which no module may")
        if function == "print" and not any(fnmatchcase(module.name, pattern) for pattern in PRINTERS):
            faults.append(f"{where}; only {', '.join(PRINTERS)} write to the terminal")
    return faults


def size_faults(module: Module, *, lines: int = MODULE_LINES) -> list[str]:
    """Modules and functions that are too long, and functions with too many parameters."""
    faults = []
    length = len(module.source.splitlines())
    if length > lines:
        faults.append(f"{module.name} has {length} lines, more than {lines}")
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            extent = (node.end_lineno or 0) - node.lineno + 1
            if extent > FUNCTION_LINES:
                faults.append(f"{module.name}:{node.lineno} {node.name} has {extent} lines, more than {FUNCTION_LINES}")
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([argument for argument in arguments if argument.arg not in ("self", "cls")])
            if count > PARAMETERS:
                faults.append(f"{module.name}:{node.lineno} {node.name} has {count} parameters, more than {PARAMETERS}")
    return faults


def name_faults(module: Module) -> list[str]:
    """A module that is named after a function or class that it defines: `probe.probe` reads two ways."""
    own = module.name.rpartition(".")[2]
    names = [node.name for node in module.tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return [f"{module.name} defines {own}: give one of them another name"] if own in names else []


def cycle() -> list[str]:
    """The modules of one import cycle; empty where there is none."""
    graph = {
        name: {other for other, _ in imports(module) if other in MODULES and other != name}
        for name, module in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def faults_of(module: Module) -> list[str]:
    """Every rule that the module breaks, a line each."""
    checks = (import_faults, private_import_faults, call_faults, size_faults, name_faults)
    return [fault for check in checks for fault in check(module)]


def draw_map() -> str:
    """The layers from the top to the bottom; for each wing its size, and how often it imports each other wing."""
    arrows: Counter[tuple[str, str]] = Counter()
    for module in MODULES.values():
        for name, _ in imports(module):
            if name in MODULES and MODULES[name].wing != module.wing:
                arrows[module.wing, MODULES[name].wing] += 1
    lines = []
    for wings, meaning in reversed(LAYERS):
        lines.append(f"-- {meaning}")
        for wing in wings:
            members = [module for module in MODULES.values() if module.wing == wing]
            size = sum(len(module.source.splitlines()) for module in members)
            below = [f"{target} {count}" for (source, target), count in sorted(arrows.items()) if source == wing]
            lines.append(
                f"   {wing:12}{len(members):3} modules {size:5} lines  imports {', '.join(below) or 'nothing'}"
            )
    return "\n".join(lines)


def main() -> int:
    print(draw_map())
    faults = [fault for module in MODULES.values() for fault in faults_of(module)]
    circle = cycle()
    if circle:
        faults.append(f"modules import each other in a circle: {' <- '.join(circle)}")
    print("\n".join(faults) or "no import goes upward, and no module breaks a rule")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
