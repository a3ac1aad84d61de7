"""Compares what a network was trained on, which its record says, with what it is used on: the data set and the size.

A network at another image size, or on other images, scores worse than it could. On a data set whose classes mean
something else, its scores mean nothing, so that is refused unless it is meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advmia.data.loading import ImageData
from advmia.data.specs import DatasetSpec
from advmia.errors import UserError
from advmia.evaluation.checks import Check

TrainingFacts = dict[str, Any]  # `TrainingSettings.to_json`, as records and result files hold it


def check_dataset(weights: Path, training: TrainingFacts | None, spec: DatasetSpec, *, is_meant: bool) -> None:
    """Raises `UserError` if a network was trained on another data set than `spec`, and that is not meant.

    `training`: the settings of its training; None where they are not recorded.
    """
    trained_on = (training or {}).get("dataset", spec.name)
    if trained_on != spec.name and not is_meant:
        raise UserError(
            f"{weights} was trained on {trained_on}, whose classes mean something else than those of {spec.name}:"
            f" take weights trained on {spec.name}, or add --otherDataset if that is meant"
        )


def difference(training: TrainingFacts, data: ImageData) -> str:
    """Returns e.g. `trained on melBin at 8 pixels, used on melBin at 16`; "" where there is no difference."""
    spec, content = data.samples.spec, str(data.facts["content"])
    trained_content = (training.get("train_data") or {}).get("content", content)
    trained = (training.get("dataset", spec.name), trained_content, training.get("size", spec.size))
    used = (spec.name, content, spec.size)
    return "" if trained == used else f"trained on {_named(*trained)}, used on {_named(*used)}"


def _named(dataset: str, content: str, size: int) -> str:
    return f"{dataset}{'' if content == 'official' else f'[{content}]'} at {size} pixels"


def check_training(facts: Mapping[str, Any], data: ImageData) -> Check:
    """Returns the check `training` of a test on `data`.

    `facts`: those of a result file. "target_training" and, in a transfer run, "source_training" are the settings of the
    trainings, None where they are not recorded; "training_warnings", what their records warn of, by "target" and
    "source".
    """
    trainings = {name: facts[f"{name}_training"] for name in ("target", "source") if f"{name}_training" in facts}
    recorded = {name: training for name, training in trainings.items() if training}
    faults = {name: difference(training, data) for name, training in recorded.items()}
    texts = [f"the {name} was {fault}" for name, fault in faults.items() if fault]
    for name, warnings in facts.get("training_warnings", {}).items():
        texts += [f"in the training of the {name}, {warning}" for warning in warnings]
    if texts:
        return Check("training", "warning", "; ".join(texts))
    missing = [name for name in trainings if name not in recorded]
    if missing:
        return Check("training", "not checked", f"there is no record of the training of the {' and '.join(missing)}")
    return Check("training", "ok", f"the {' and '.join(trainings)} saw the same data set and size in training")
