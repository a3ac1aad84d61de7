"""The card of a checkpoint: what it is, how it came about, how it was tested, and what must not be concluded from that.

It has the form that hubs of models read: Markdown with metadata in YAML, of which a `model-index` holds the scores. The
same facts are written as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from advmia.checkpoints.best import read_all_records
from advmia.checkpoints.paths import card_paths
from advmia.data.datasets import DATASETS
from advmia.evaluation.meanings import CHECKS
from advmia.models import MODELS
from advmia.report.card_markdown import card_text
from advmia.report.methods import training_text
from advmia.report.references import PUBLICATIONS, SURVEY
from advmia.report.source import class_names
from advmia.results.long import long_lines
from advmia.results.read import RunRecord
from advmia.results.scored import ScoredRun
from advmia.results.tables import make_tables
from advmia.runtime.files import fitting_name, rename_existing, write_text
from advmia.runtime.terminal import say

_USE = (
    "Research on how far networks for medical images withstand adversarial attacks: as a target of attacks, or to"
    " compare training methods.",
    "It is no medical device. It must not be used for a diagnosis, or for any decision about a patient.",
)
_PHANTOMS = "phantoms, drawn by a program: its numbers say nothing about medicine"
_NAME_BYTES = 200  # of the weights' name, in that of a card that does not lie beside them
# What of each score the card's JSON holds.
_KEPT = (
    *("dataset", "images", "size", "attack_seed", "attack", "eps", "steps", "step_size", "restarts", "eight_bits"),
    *("attacks", "source_model", "score", "value", "low", "high"),
)


def write_cards(runs: Sequence[ScoredRun], elsewhere: Path) -> list[Path]:
    """Writes `<checkpoint>.card.md` and `.card.json` for each network of the runs; returns the paths of the former.

    They lie beside the weights, which are known by their SHA-256. Where no such file is found, they go to the folder
    `elsewhere`, and a message says so. A card with another text is renamed to `.earlier-1`, since somebody may have
    edited it.
    """
    by_target: dict[str, list[ScoredRun]] = {}
    for run in runs:
        by_target.setdefault(run.record.target, []).append(run)
    written = []
    for target, own in by_target.items():
        record = own[0].record
        checkpoint = _find(record)
        place = checkpoint
        if place is None:
            name = Path(record.target_weight).name
            place = elsewhere / f"{fitting_name(name, _NAME_BYTES)}.{target[:8]}"
            say(f"the weights {record.target_weight} are not here: their card is {card_paths(place)[0]}")
        card = card_of(own, checkpoint)
        evaluation = make_tables(own, costs=False)
        texts = card_text(card, evaluation), json.dumps(card, indent=2, allow_nan=False) + "\n"
        for path, text in zip(card_paths(place), texts, strict=True):
            _write_if_other(path, text)
        written.append(card_paths(place)[0])
    return written


def card_of(runs: Sequence[ScoredRun], checkpoint: Path | None) -> dict[str, Any]:
    """Returns the facts of a card as JSON holds them.

    `runs`: all of one network. `checkpoint`: its file, beside which its training is recorded; None where it is missing.
    """
    record = runs[0].record
    training = record.training or {}
    recorded = _training_record(record, checkpoint)
    keys: dict[str, None] = {SURVEY: None}
    how = training_text(training, keys) if training else "a training that is not recorded"
    return {
        "name": Path(record.target_weight).name,
        "summary": f"A network ({record.model}) for {record.dataset}, made by {how}.",
        "model": _model(record, training),
        "intended_use": list(_USE),
        "limits": _limits(runs, recorded),
        "data": {
            "dataset": record.dataset,
            "training": training.get("train_data"),
            "test": [json.loads(text) for text in dict.fromkeys(json.dumps(run.record.run["data"]) for run in runs)],
        },
        "training": {
            "text": how,
            "settings": {name: value for name, value in training.items() if not name.endswith("_data")},
            **{name: recorded[name] for name in ("selection", "best_epoch", "versions") if name in recorded},
        },
        "evaluation": [{name: line[name] for name in _KEPT} for line in long_lines(runs)],
        "warnings": _warnings(runs),
        "all_checked": all("reliability" in run.record.content for run in runs),
        "loading": _loading(record, training),
        "citation": "\n\n".join(PUBLICATIONS[key].bibtex(key) for key in keys),
    }


def _find(record: RunRecord) -> Path | None:
    """Returns the file with the network's weights; None where there is none."""
    for path in record.checkpoint_paths():
        with suppress(OSError):  # no such file, a folder, a name that is too long
            if sha256(path.read_bytes()).hexdigest() == record.target:
                return path
    return None


def _training_record(record: RunRecord, checkpoint: Path | None) -> dict[str, Any]:
    """Returns the record of the training beside a checkpoint; an empty one where there is none of these weights."""
    for found in read_all_records(checkpoint) if checkpoint else ():
        if found.get("weights_sha256", record.target) == record.target and found.get("settings") == record.training:
            return found
    return {}


def _model(record: RunRecord, training: dict[str, Any]) -> dict[str, Any]:
    classes = training.get("classes")
    spec = MODELS.get(record.model)
    size = training.get("size", record.run["size"])
    return {
        "network": record.model,
        "class": spec.class_name if spec else record.model,
        "task": record.task.name,
        "classes": class_names(record, classes) if isinstance(classes, int) else None,
        "input": f"images of {size} x {size} pixels with values from 0 to 1, which it normalises itself",
        "sha256": record.target,
    }


def _limits(runs: Sequence[ScoredRun], recorded: dict[str, Any]) -> list[str]:
    """Returns what must not be concluded from the card, as sentences."""
    record = runs[0].record
    training = record.training or {}
    trained, tested = (training.get("train_data") or {}).get("content"), record.run["data"].get("content")
    uses = {"Trained and tested": trained} if trained == tested else {"Trained": trained, "Tested": tested}
    limits = [
        f"{use} on {_PHANTOMS}."
        if content == "phantom"
        else f"{use} on images of {content}, which are not those of the data set."
        for use, content in uses.items()
        if content not in (None, "official")
    ]
    if training.get("method") == "nat":
        limits.append("Trained without adversarial examples: expect small perturbations to fool it.")
    limits.append(
        "Its robustness is that against the attacks and eps below. Other attacks, or other changes of the images, may"
        " fool it more often."
    )
    if (recorded.get("selection") or {}).get("chosen_on") == "test list":
        limits.append("The epoch was chosen on the test list, so that its scores on that list are too good.")
    limits.append("Intervals treat images as independent. Where a patient has several, the true ones are wider.")
    if any(run.record.warnings for run in runs):
        limits.append("Checks warn of its scores: see the warnings before any of them is used.")
    return limits


def _warnings(runs: Sequence[ScoredRun]) -> list[dict[str, str]]:
    """Returns each warning of the checks, with what it means and what to do."""
    found = {}
    for warning in (warning for run in runs for warning in run.record.warnings):
        check = CHECKS.get(warning.partition(": ")[0])
        texts = {"meaning": check.meaning, "advice": check.advice} if check else {}
        found[warning] = {"warning": warning, **texts}
    return list(found.values())


def _loading(record: RunRecord, training: dict[str, Any]) -> str:
    """Returns Python that loads the network."""
    dataset = str(training.get("dataset") or record.dataset.partition("[")[0])
    name, path = repr(str(training.get("model", record.model))), repr(Path(record.target_weight).name)
    if dataset in DATASETS:
        origin, spec = "from advmia.data.datasets import DATASETS", f"DATASETS[{dataset!r}]"
    else:
        declaration = f"Path('data', {dataset!r}, 'dataset.toml')"
        origin, spec = "from advmia.data.declarations import read_declaration", f"read_declaration({declaration})"
    lines = ["from pathlib import Path", "", "from advmia.checkpoints.weights import load_model", origin]
    if training.get("normalize"):
        lines = ["from dataclasses import replace", *lines, "from advmia.data.specs import parse_normalization"]
        lines += ["", f"mean, std = parse_normalization({training['normalize']!r})"]
        spec = f"replace({spec}, mean=mean, std=std)"
    size = training.get("size", record.run["size"])
    lines += ["", f"weights = Path({path})", f"model = load_model({name}, weights, {spec}).model.eval()"]
    return "\n".join([*lines, f"logits = model(x)  # x: images in [0, 1], float32, (B, 3, {size}, {size})"])


def _write_if_other(path: Path, text: str) -> None:
    """Writes a text, after renaming a file that has another one."""
    encoded = text.encode(errors="backslashreplace")
    if path.is_file() and path.read_bytes() == encoded:
        return
    rename_existing(path)
    write_text(path, text)
