"""Reads declarations of data sets, in TOML, and checks every key; a message names the file and the line.

docs/data.md describes the keys.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from advmia.data.specs import NOISES, Augmentation, DatasetSpec, MaskValues, Source, parse_normalization
from advmia.errors import UserError
from advmia.targets import TaskName

FILE_NAME = "dataset.toml"
TASKS: tuple[TaskName, ...] = get_args(TaskName)
_PLAIN_NAME = re.compile(r"[\w][\w.+ -]*")  # of data sets, files and folders: a path could lead to another folder
_COLOUR = re.compile(r"#[0-9a-f]{6}", re.IGNORECASE)
SCORE_NAMES = ("accuracy", "auroc", "dice")  # the scores by which results tell the tasks apart


@dataclass(frozen=True)
class _Key:
    """What a key may hold, and the tasks that have it."""

    expected: str  # completes the message "expected ..."
    accepts: Callable[[Any], bool]
    tasks: tuple[TaskName, ...] = TASKS


def read_declarations(path: Path) -> dict[str, DatasetSpec]:
    """Reads a file with a table for each data set; returns the data sets by name. Raises as `read_declaration`."""
    text = _read(path)
    tables = _parse(path, text)
    starts = {name: text[: text.index(f"[{name}]")].count("\n") for name in tables}
    return {
        name: _declared(name, Source(path, table, _lines(text, table, starts[name]))) for name, table in tables.items()
    }


def read_declaration(path: Path) -> DatasetSpec:
    """Reads the declaration of one data set, `<data root>/<name>/dataset.toml`.

    Raises `UserError` for a file that cannot be read, and for a key that is unknown, missing or wrong.
    """
    return parse_declaration(path, _read(path))


def parse_declaration(path: Path, text: str) -> DatasetSpec:
    """Returns the data set that a text declares, of the file `path` even if it is not there. Raises `UserError`."""
    table = _parse(path, text)
    source = Source(path, table, _lines(text, table, 0))
    for key in _SURVEY_KEYS:
        if key in table:
            raise UserError(f"{source.at(key)}: {key}: the survey's data sets have this key only; leave it out")
    name = path.parent.name
    if not _PLAIN_NAME.fullmatch(name):
        raise UserError(f"{path}: the folder names the data set: expected letters, digits and . _ + - only")
    return replace(_declared(name, source), source=source)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the declaration {path} ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8: save it as such") from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:  # its message ends with "(at line 3, column 5)"
        raise UserError(f"{path} is not TOML: {error}") from error


def _lines(text: str, table: dict[str, Any], start: int) -> dict[str, int]:
    """Returns the line of each key of a table, from 1. `start`: the number of lines before the table."""
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines()[start:], start + 1):
        key = line.partition("=")[0].strip().strip("\"'")
        if key in table and key not in found:
            found[key] = number
    return found


def _declared(name: str, source: Source) -> DatasetSpec:
    """Returns the data set that a table declares, after checking its keys."""
    table = source.table
    if table.get("task") not in TASKS:
        given = f", got {table['task']!r}" if "task" in table else ""
        raise UserError(f"{source.at('task')}: task: expected one of {', '.join(TASKS)}{given}")
    task: TaskName = table["task"]
    for key, value in table.items():
        declared = _KEYS.get(key)
        if declared is None or task not in declared.tasks:
            known = ", ".join(key for key, its in _KEYS.items() if task in its.tasks and key not in _SURVEY_KEYS)
            raise UserError(f"{source.at(key)}: unknown key {key!r} for {task}: the keys are {known}")
        if not declared.accepts(value):
            raise UserError(f"{source.at(key)}: {key}: expected {declared.expected}, got {value!r}")
    if "size" not in table:
        raise UserError(f"{source.path}: the key size is missing: expected e.g. `size = 224`, pixels a side")
    classes, names = _classes(source)
    size = table["size"]
    if table.get("resize", size) < size:
        raise UserError(f"{source.at('resize')}: resize: expected at least the size, {size}: a square of it is cut out")
    mean, std = parse_normalization(table.get("normalize", "none"))
    return DatasetSpec(
        name=name,
        task=task,
        folder=table.get("folder", name),
        train_list=table.get("train", "train.csv"),
        test_list=table.get("test", "test.csv"),
        val_list=table.get("val"),
        download=table.get("download"),
        size=size,
        resize=table.get("resize", size),
        image_folder=table.get("images", "img"),
        mask_folder=table.get("masks", "target") if task == "segmentation" else None,
        foreground=tuple(sorted(table.get("foreground", ()))),
        mask_values=_mask_values(source, classes),
        classes=classes,
        class_names=names,
        positive=_disease(source, classes, names),
        findings=tuple(table.get("findings", ())),
        augmentation=Augmentation(**{key: float(table[key]) for key in _AUGMENTATION if key in table}),
        mean=mean,
        std=std,
        patients=table.get("patients", ""),
        noise=table.get("noise", "colour"),
        published_rows=tuple(table["published_rows"]) if "published_rows" in table else None,
        aliases=tuple(table.get("aliases", ())),
    )


def _classes(source: Source) -> tuple[int | None, tuple[str, ...]]:
    """Returns the number of classes, None if the training list says it, and their names, () if they have none."""
    table = source.table
    if table["task"] == "multi-label":
        if "findings" not in table:
            raise UserError(f"{source.path}: the key findings is missing: expected a list of their names")
        return len(table["findings"]), ()
    classes = table.get("classes", 2 if table["task"] == "segmentation" else None)
    return (len(classes), tuple(classes)) if isinstance(classes, list) else (classes, ())


def _disease(source: Source, classes: int | None, names: tuple[str, ...]) -> int:
    """Returns the class that means disease."""
    disease = source.table.get("disease", 1)
    if classes != 2 and "disease" in source.table:
        raise UserError(f"{source.at('disease')}: disease: only two classes have sensitivity and specificity")
    if disease in names:
        return names.index(disease)
    if disease not in (0, 1) or isinstance(disease, str):
        raise UserError(f"{source.at('disease')}: disease: expected one of {', '.join(names) or '0, 1'}")
    return int(disease)


def _mask_values(source: Source, classes: int | None) -> MaskValues:
    """Returns the values or colours of each class; () for the two classes of a mask of foreground and background."""
    table = source.table
    given = table.get("mask_values")
    if given is None:
        more_than_two = table["task"] == "segmentation" and (classes or 2) > 2
        return tuple((label,) for label in range(classes or 2)) if more_than_two else ()
    if "foreground" in table:
        raise UserError(f"{source.at('foreground')}: foreground: mask_values says it already; leave one of them out")
    values = tuple(tuple(item) if isinstance(item, list) else (item,) for item in given)
    flat = [value.lower() if isinstance(value, str) else value for its in values for value in its]
    where = source.at("mask_values")
    if len(values) != classes:
        raise UserError(f"{where}: mask_values: expected one item for each of the {classes} classes, got {len(values)}")
    if len(set(map(type, flat))) > 1 or len(set(flat)) < len(flat):
        raise UserError(f"{where}: mask_values: expected each value once, all numbers or all colours")
    return values


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(_PLAIN_NAME.fullmatch(value))


def _is_label(value: Any) -> bool:
    """Returns whether a text can be a class or finding: a column's head and a score's name."""
    return isinstance(value, str) and bool(value.strip() == value != "") and not re.search(r"[,\"\n\r]", value)


def _is_list(value: Any, accepts: Callable[[Any], bool], least: int = 1) -> bool:
    distinct = len({str(item).lower() for item in value}) == len(value) if isinstance(value, list) else False
    return distinct and len(value) >= least and all(map(accepts, value))


def _is_whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: Any, most: float) -> bool:
    return type(value) in (int, float) and 0 <= value <= most


def _is_value(value: Any) -> bool:
    return _is_whole(value, 0, 65535) or (isinstance(value, str) and bool(_COLOUR.fullmatch(value)))


def _is_normalization(value: Any) -> bool:
    try:
        parse_normalization(value)
    except (ValueError, AttributeError):
        return False
    return True


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and re.compile(value).groups == 1
    except re.error:
        return False


_CLASSIFIED: tuple[TaskName, ...] = ("single-label", "multi-label")
_AUGMENTATION = ("rotation", "horizontal_flip", "vertical_flip")
_SURVEY_KEYS = ("folder", "download", "published_rows")  # that only the survey's data sets have
_NAME = "a name of letters, digits, spaces and . _ + - only"
_KEYS: dict[str, _Key] = {
    "task": _Key(f"one of {', '.join(TASKS)}", lambda value: value in TASKS),
    "folder": _Key(_NAME, _is_name),
    "download": _Key(_NAME, _is_name),
    "aliases": _Key("a list of names", lambda value: _is_list(value, _is_name)),
    "train": _Key("the name of a CSV file in this folder", _is_name),
    "test": _Key("the name of a CSV file in this folder", _is_name),
    "val": _Key("the name of a CSV file in this folder", _is_name),
    "images": _Key("the name of a folder in this folder", _is_name),
    "masks": _Key("the name of a folder in this folder", _is_name, ("segmentation",)),
    "classes": _Key(
        "a list of at least two different names, or their number",
        lambda value: _is_whole(value, 2, 10_000) or _is_list(value, _is_label, 2),
        ("single-label", "segmentation"),
    ),
    "disease": _Key("the name or number of a class", lambda value: type(value) in (int, str), ("single-label",)),
    "findings": _Key(
        f"a list of different names, none of them {', '.join(SCORE_NAMES)}",
        lambda value: _is_list(value, lambda item: _is_label(item) and item.lower() not in SCORE_NAMES),
        ("multi-label",),
    ),
    "mask_values": _Key(
        'for each class a grey level or palette index, a colour such as "#ff0000", or a list of them',
        lambda value: _is_list(value, lambda item: _is_value(item) or _is_list(item, _is_value), 2),
        ("segmentation",),
    ),
    "foreground": _Key(
        "a list of mask values from 1 to 65535",
        lambda value: _is_list(value, lambda item: _is_whole(item, 1, 65535)),
        ("segmentation",),
    ),
    "size": _Key("a whole number of pixels from 8 to 8192", lambda value: _is_whole(value, 8, 8192)),
    "resize": _Key("a whole number of pixels from 8 to 16384", lambda value: _is_whole(value, 8, 16384)),
    "rotation": _Key("degrees from 0 to 180", lambda value: _is_number(value, 180), _CLASSIFIED),
    "horizontal_flip": _Key("a probability from 0 to 1", lambda value: _is_number(value, 1), _CLASSIFIED),
    "vertical_flip": _Key("a probability from 0 to 1", lambda value: _is_number(value, 1), _CLASSIFIED),
    "normalize": _Key('"imagenet", "none" or "MEAN/STD" such as "0.5/0.25", for pixels in [0, 1]', _is_normalization),
    "patients": _Key("a regular expression with one group, the patient in a file's name", _is_pattern),
    "noise": _Key(f"one of {', '.join(NOISES)}", lambda value: value in NOISES),
    "published_rows": _Key("two numbers of rows", lambda value: _is_list(value, lambda n: _is_whole(n, 1, 10**9), 2)),
}
