"""The text of a card: YAML metadata and Markdown, in which no name can be anything but text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from advmia.results.layout import Cell, Table
from advmia.results.render import render_tables
from advmia.results.rows import CLEAN, attack_label
from advmia.results.scores import MAIN_SCORES, SCORES
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL

_TAGS = ("medical-imaging", "adversarial-robustness", "pytorch")
_TYPES = {"auroc": "roc_auc", "iou": "mean_iou"}  # what hubs call scores, where that is another name
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_TASKS = {
    SINGLE_LABEL.name: "classification: one class for each image",
    MULTI_LABEL.name: "classification: any number of findings in each image",
    SEGMENTATION.name: "segmentation: a class for each pixel",
}
_MARKS = "\\`*_[]~$#!"


def card_text(card: dict[str, Any], tables: Sequence[Table]) -> str:
    """Returns the Markdown of a card. `tables`: of its scores."""
    model, training, data = card["model"], card["training"], card["data"]
    described = {
        "network": f"{model['network']} ({model['class']})",
        "task": _TASKS[model["task"]],
        "classes": ", ".join(model["classes"] or ["not recorded"]),
        "input": model["input"],
        "SHA-256 of the weights": model["sha256"],
    }
    chosen = {name: training[name] for name in ("best_epoch", "selection", "versions") if name in training}
    sections = {
        "Model": _facts("fact", described),
        "Intended use": _items(card["intended_use"]),
        "Limits": _items(card["limits"]),
        "Data": _facts("list", {"training": data["training"], **_numbered("test", data["test"])}),
        "Training": f"{escaped(training['text'])}.\n\n" + _facts("setting", training["settings"] | chosen),
        "Evaluation": render_tables(list(map(_escaped_table, tables)), "md").rstrip("\n"),
        "Warnings of the checks": _warnings(card),
        "Load it": f"```python\n{card['loading']}\n```",
        "Cite": f"```bibtex\n{card['citation']}\n```",
    }
    head = f"---\n{yaml(_metadata(card))}---\n\n# {escaped(card['name'])}\n\n{escaped(card['summary'])}\n"
    return head + "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items())


def _metadata(card: dict[str, Any]) -> dict[str, Any]:
    """Returns what hubs read: https://huggingface.co/docs/hub/model-cards describes the keys."""
    task = "image-segmentation" if card["model"]["task"] == SEGMENTATION.name else "image-classification"
    main = MAIN_SCORES[card["model"]["task"]]
    metrics: dict[tuple[Any, ...], list[dict[str, Any]]] = {}  # by data set
    for line in card["evaluation"]:
        if line["score"] in main and line["value"] is not None and line["source_model"] is None:
            metrics.setdefault((line["dataset"], line["images"]), []).append(_metric(line))
    results = [
        {
            "task": {"type": task},
            "dataset": {"type": dataset, "name": f"{dataset}, {images} images", "split": "test"},
            "metrics": found,
        }
        for (dataset, images), found in metrics.items()
    ]
    index = [{"name": card["name"], "results": results}]
    return {"library_name": "advmia", "pipeline_tag": task, "tags": list(_TAGS), "model-index": index}


def _metric(line: dict[str, Any]) -> dict[str, Any]:
    label = attack_label(line["attack"], line["restarts"])
    under = "clean images" if line["attack"] == CLEAN else f"{label}, eps {line['eps']:g}/255"
    under += ", 8 bits" if line["eight_bits"] else ""
    interval = {"interval": [line["low"], line["high"]]} if line["low"] is not None else {}
    score = line["score"]
    return {
        "type": _TYPES.get(score, score),
        "name": f"{SCORES[score].label}, {under}",
        "value": line["value"],
        "args": {name: line[name] for name in ("attack", "eps", "steps", "restarts", "attack_seed")} | interval,
    }


def yaml(value: Any, indent: int = 0) -> str:
    """Returns a mapping or sequence of texts, numbers, mappings and sequences as YAML, which ends in a line break."""
    pairs = value.items() if isinstance(value, dict) else ((None, item) for item in value)
    text = ""
    for key, item in pairs:
        lead = " " * indent + ("- " if key is None else f"{key}:")
        if not isinstance(item, dict | list):
            text += f"{lead}{'' if key is None else ' '}{_scalar(item)}\n"
        elif not item:
            text += f"{lead}{'' if key is None else ' '}{'{}' if isinstance(item, dict) else '[]'}\n"
        elif key is None:  # the first key of a mapping stands behind the dash
            text += lead + yaml(item, indent + 2)[indent + 2 :]
        else:
            text += f"{lead}\n{yaml(item, indent + 2)}"
    return text


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        signs = (sign if _is_plain(sign) else f"\\U{ord(sign):08x}" for sign in _decoded(value))
        return '"' + "".join(signs) + '"'
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}"  # not 1e-05, which some readers take for a text
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _is_plain(sign: str) -> bool:
    return sign.isprintable() and sign not in '"\\'


def _decoded(text: str) -> str:
    """Returns a text in which bytes of file names that are not UTF-8 are backslash escapes."""
    return text.encode(errors="backslashreplace").decode()


def escaped(text: object) -> str:
    """Returns Markdown, on one line, that shows a text as it is."""
    words = " ".join(_decoded(str(text)).split())
    signs = (sign if sign.isprintable() else f"U+{ord(sign):04X}" for sign in words)
    return "".join(_ENTITIES.get(sign, f"\\{sign}" if sign in _MARKS else sign) for sign in signs)


def _escaped_table(table: Table) -> Table:
    rows = tuple(tuple(replace(cell, text=escaped(cell.text)) for cell in row) for row in table.rows)
    texts = {name: tuple(map(escaped, getattr(table, name))) for name in ("header", "notes", "footnotes", "legend")}
    return replace(table, title=f"### {escaped(table.title)}", rows=rows, **texts)


def _facts(head: str, facts: dict[str, Any]) -> str:
    """Returns a table of names and values."""
    rows = tuple((Cell(escaped(name)), Cell(escaped(_shown(value)))) for name, value in facts.items())
    lines = render_tables([Table("", (head, "value"), rows)], "md").splitlines()
    return "\n".join(lines[2:])  # without the title


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return "none" if value is None else str(value)


def _numbered(name: str, values: Sequence[Any]) -> dict[str, Any]:
    return {name if len(values) == 1 else f"{name} {number}": value for number, value in enumerate(values, start=1)}


def _items(texts: Iterable[str]) -> str:
    return "\n".join(f"- {escaped(text)}" for text in texts)


def _warnings(card: dict[str, Any]) -> str:
    texts = [" ".join(f"{text.rstrip('.')}." for text in warning.values()) for warning in card["warnings"]]
    if not card["all_checked"]:
        texts.append("Not all results say that they were checked: they are of an earlier version, or were stopped.")
    return _items(texts) if texts else "No check warns."
