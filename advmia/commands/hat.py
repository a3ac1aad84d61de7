"""HAT's helper: reads it, and compares what it was trained on with the images of the training that it helps."""

from __future__ import annotations

import argparse

from advmia.checkpoints.best import read_training_of
from advmia.checkpoints.weights import LoadedModel, load_model
from advmia.commands.inputs import Inputs, check_imported
from advmia.data.loading import ImageData
from advmia.errors import UserError
from advmia.evaluation.origin import check_dataset, difference
from advmia.runtime.terminal import say


def load_helper(inputs: Inputs, classes: int) -> LoadedModel | None:
    """Loads HAT's helper; returns None for other methods. Raises `UserError` if it is missing or does not fit."""
    args = inputs.args
    if args.method != "hat":
        return None
    if args.helperModel is None or args.helperWeight is None:
        raise UserError("--method hat needs --helperModel and --helperWeight: a naturally trained network")
    helper = load_model(args.helperModel, args.helperWeight, inputs.spec, classes=classes)
    check_imported(args.helperModel, helper.model, helper.classes, inputs.spec.size)
    return helper


def compare_helper(args: argparse.Namespace, helper: LoadedModel | None, data: ImageData) -> list[str]:
    """Warns if the helper's record says that it was trained on other images or at another size; returns the warnings.

    Raises `UserError` if it was trained on another data set, unless --otherDataset says that this is meant.
    """
    if helper is None:
        return []
    training, warnings = read_training_of(args.helperWeight, helper.sha256)
    check_dataset(args.helperWeight, training, data.samples.spec, is_meant=args.otherDataset)
    fault = difference(training, data) if training else ""
    remarks = [f"the helper {args.helperWeight} was {fault}"] if fault else []
    remarks += [f"in the training of the helper {args.helperWeight}, {text}" for text in warnings]
    for remark in remarks:
        say(f"warning: {remark}")
    return remarks
