"""The registry of data sets: those of the survey, which datasets.toml declares, and those of the user."""

from __future__ import annotations

from pathlib import Path

from advmia.data.declarations import FILE_NAME, read_declaration, read_declarations
from advmia.data.specs import DatasetSpec
from advmia.errors import UserError
from advmia.targets import TaskName

DATASETS: dict[str, DatasetSpec] = read_declarations(Path(__file__).with_name("datasets.toml"))
CHEST_FINDINGS = DATASETS["xray_multilabel"].findings


def find_dataset(name: str, root: Path, task: TaskName) -> DatasetSpec:
    """Returns a data set of the survey, or the one that `<root>/<name>/dataset.toml` declares.

    `name`: for the survey's, as in `DATASETS`. Raises `UserError` for a data set that is unknown or of another task,
    and for a wrong declaration.
    """
    path = _declaration(name, root)
    if name in DATASETS:
        spec = DATASETS[name]
        if path.exists():
            raise UserError(f"{path} declares {name}, which is a data set of the survey: give its folder another name")
    elif path.exists():
        spec = read_declaration(path)
        _check_aliases(spec)
    else:
        known = [*own_datasets(root), *(spec.name for spec in DATASETS.values() if spec.task == task)]
        raise UserError(f"unknown data set {name!r}: choose from {', '.join(known)}, or declare yours in {path}")
    if spec.task != task:
        raise UserError(f"{spec.name} is for {spec.task}, but this command for {task}: take another command")
    return spec


def own_datasets(root: Path) -> list[str]:
    """Returns the names of the data sets that users declare below the data root."""
    return sorted(path.parent.name for path in root.glob(f"*/{FILE_NAME}"))


def _declaration(name: str, root: Path) -> Path:
    """Returns the path of the declaration of the data set that has this name or alias, or would have this name."""
    path = root / name / FILE_NAME
    if path.exists() or name in DATASETS:
        return path
    return next((root / own / FILE_NAME for own in own_datasets(root) if name in _aliases(own, root)), path)


def _aliases(own: str, root: Path) -> tuple[str, ...]:
    """Returns the aliases of a user's data set; none of one that is declared wrongly, for another may be meant."""
    try:
        return read_declaration(root / own / FILE_NAME).aliases
    except UserError:
        return ()


def _check_aliases(spec: DatasetSpec) -> None:
    taken = {word.lower() for other in DATASETS.values() for word in (other.name, *other.aliases)}
    clash = next((alias for alias in spec.aliases if alias.lower() in taken), None)
    if clash and spec.source:
        raise UserError(f"{spec.source.at('aliases')}: aliases: {clash} is a data set of the survey: leave it out")
