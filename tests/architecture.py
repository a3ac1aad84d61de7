"""The wings of the package, the layers that they form, and the rules that every module keeps.

A wing is a folder of the package, or a module at its top. `python -m tests.architecture` prints the imports between
wings and every broken rule. Add a new wing to `LAYERS`. A new module needs no change here: it belongs to the wing whose
folder it is in.
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

# The wings of each layer, from the bottom to the top; CONTRIBUTING.md says what they do. A wing imports from lower
# layers only. Wings of one layer do not import each other. `draw_map` prints the layers between lines `--`.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("version", "errors"),
    ("runtime",),
    ("budgets", "losses", "models", "surfaces", "targets"),
    ("metrics",),
    ("attacks", "data"),
    ("checkpoints",),
    ("tasks",),
    ("gradcam", "results"),
    ("evaluation",),
    ("pictures", "report", "training"),
    ("cli", "commands", "interface"),
    ("entry_points",),
    ("demo", "sweeps"),
    ("__main__",),
    ("scripts",),
)
MODULE_LINES, FUNCTION_LINES, PARAMETERS, TEST_LINES = 300, 60, 6, 500

# For each package that only some modules may import: patterns of their names.
_ARGUMENTS = (
    "advmia.cli.*",
    "advmia.commands.*",
    "advmia.entry_points",
    "advmia.demo",
    "advmia.sweeps.*",
    "advmia.__main__",
)
RESERVED: dict[str, tuple[str, ...]] = {
    "argparse": (*_ARGUMENTS, "advmia.checkpoints.reading"),  # there, for flags that training programs have saved
    "torchvision": ("advmia.models.densenet", "advmia.models.pretrained"),
    "pickle": ("advmia.models.pretrained",),  # for the exceptions of a damaged download; see BANNED_CALLS
}
PRINTERS = (*_ARGUMENTS, "advmia.runtime.terminal")
# For each function, the keyword argument that a call must have, as source text, so that no file that is read runs code.
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
        """The folder below `advmia`; for a module at the top of the package, its name; for a script, "scripts"."""
        if self.name in SCRIPTS:
            return "scripts"
        return self.name.split(".")[1] if "." in self.name else "version"


def _module_name(path: Path) -> str:
    """Returns the dotted name of a source file; that of an `__init__.py` is the package's."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Module]:
    """Returns every module of the package and the seven scripts, by name."""
    paths = [*sorted((ROOT / "advmia").rglob("*.py")), *(ROOT / f"{name}.py" for name in SCRIPTS)]
    return {_module_name(path): Module(_module_name(path), path.read_text(encoding="utf-8")) for path in paths}


MODULES = modules()


def layer_of(wing: str) -> int:
    """Returns the number of a wing's layer, from 0. Raises `LookupError` for a wing that no layer names."""
    for number, wings in enumerate(LAYERS):
        if wing in wings:
            return number
    raise LookupError(f"the wing {wing!r} is in no layer: add it to LAYERS in {Path(__file__).name}")


def imports(module: Module) -> Iterator[tuple[str, int]]:
    """Yields each imported module's name and the number of the line. Includes imports within functions."""
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
    """Returns a line for each import from a higher layer, from another wing of the layer, or of a reserved package."""
    faults = []
    for name, line in imports(module):
        where = f"{module.name}:{line} imports {name}"
        if name in MODULES:
            other = MODULES[name].wing
            other_layer, own_layer = layer_of(other), layer_of(module.wing)
            if other_layer > own_layer:
                faults.append(f"{where}: {other} is above {module.wing}")
            elif other_layer == own_layer and other != module.wing:
                faults.append(f"{where}: {other} and {module.wing} are in one layer and must not import each other")
        for reserved, importers in RESERVED.items():
            is_reserved = name == reserved or name.startswith(f"{reserved}.")
            if is_reserved and not any(fnmatchcase(module.name, pattern) for pattern in importers):
                faults.append(f"{where}, which only {', '.join(importers) or 'nothing'} may")
    return faults


def private_import_faults(module: Module) -> list[str]:
    """Returns a line for each import of a name with a leading underscore."""
    return [
        f"{module.name}:{node.lineno} imports {alias.name}, which is private to {node.module}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("advmia")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]


def call_faults(module: Module) -> list[str]:
    """Returns a line for each call that could run code from a file, delete a folder, or print from a library module."""
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
    """Returns a line if the module is too long, and for each function that is too long or has too many parameters."""
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
            is_kernel = "triton.jit" in map(ast.unparse, node.decorator_list)  # which can take no objects
            if count > PARAMETERS and not is_kernel:
                faults.append(f"{module.name}:{node.lineno} {node.name} has {count} parameters, more than {PARAMETERS}")
    return faults


def name_faults(module: Module) -> list[str]:
    """Returns a line if the module defines a function or class of its own name, such as `probe.probe`."""
    own = module.name.rpartition(".")[2]
    names = [node.name for node in module.tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return [f"{module.name} defines {own}: give one of them another name"] if own in names else []


def cycle() -> list[str]:
    """Returns the modules of one import cycle; an empty list if there is none."""
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
    """Returns a line for each broken rule."""
    checks = (import_faults, private_import_faults, call_faults, size_faults, name_faults)
    return [fault for check in checks for fault in check(module)]


def draw_map() -> str:
    """Returns the layers as text, from the top to the bottom: each wing's size, and its imports from other wings."""
    imports_between: Counter[tuple[str, str]] = Counter()
    for module in MODULES.values():
        for name, _ in imports(module):
            if name in MODULES and MODULES[name].wing != module.wing:
                imports_between[module.wing, MODULES[name].wing] += 1
    lines = []
    for wings in reversed(LAYERS):
        lines.append("--")
        for wing in wings:
            members = [module for module in MODULES.values() if module.wing == wing]
            size = sum(len(module.source.splitlines()) for module in members)
            targets = [f"{other} {count}" for (name, other), count in sorted(imports_between.items()) if name == wing]
            lines.append(
                f"   {wing:12}{len(members):3} modules {size:5} lines  imports {', '.join(targets) or 'nothing'}"
            )
    return "\n".join(lines)


def main() -> int:
    print(draw_map())
    faults = [fault for module in MODULES.values() for fault in faults_of(module)]
    modules_in_cycle = cycle()
    if modules_in_cycle:
        faults.append(f"modules import each other in a circle: {' <- '.join(modules_in_cycle)}")
    print("\n".join(faults) or "no import goes upward, and no module breaks a rule")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
