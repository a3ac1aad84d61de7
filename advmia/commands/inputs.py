"""What the commands read before they work: the device, the data set, its lists and their images."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advmia.data.datasets import find_dataset
from advmia.data.loading import EVALUATION_BATCH_SIZE, EvaluationLoader, ImageData, load_data
from advmia.data.mask_report import describe_masks
from advmia.data.masks import check_encodings
from advmia.data.readers import SampleList, count_mismatched_masks, count_shared, read_samples
from advmia.data.specs import DatasetSpec, parse_normalization
from advmia.errors import UserError
from advmia.models import MODELS, build_model
from advmia.models.imported import check_network
from advmia.runtime import devices, distributed, machine
from advmia.runtime.files import write_lock
from advmia.runtime.precision import Precision
from advmia.runtime.terminal import say


@dataclass(frozen=True)
class Inputs:
    """What the flags of a command choose: this rank's device, the precision, and the data set at its image size."""

    args: argparse.Namespace
    device: torch.device
    precision: Precision
    spec: DatasetSpec

    @classmethod
    def of(cls, args: argparse.Namespace, *models: str) -> Inputs:
        """Returns the inputs for the networks named `models`. Raises `UserError` for what this machine cannot do."""
        device = devices.pick_device(args.gpu)
        if device.type == "cpu":
            machine.keep_freed_memory()
        return cls(args, device, Precision.choose(args.precision, device), choose_spec(args, *models))

    def read_lists(self) -> tuple[SampleList, SampleList]:
        """Reads the training list and the one on which the epoch is chosen, and warns of images that are in both.

        The latter is the validation list, where one is declared, else the test list.
        """
        train_list = read_samples(self.spec, self.args.dataRoot, "train")
        chosen_on = replace(self.spec, test_list=self.spec.val_list or self.spec.test_list)
        test_list = read_samples(chosen_on, self.args.dataRoot, "test", classes=train_list.classes)
        shared = count_shared(train_list, test_list)
        if shared:
            say(
                f"warning: {shared} images are in both {train_list.path} and {test_list.path.name}: scores will be too"
                " high"
            )
        return train_list, test_list

    def load_images(self, samples: SampleList) -> ImageData:
        """Loads the images of a list, --limit of them, into the GPU's memory if they fit, and says what looks odd.

        Raises `UserError` for masks without any foreground, and for masks that contradict each other.
        """
        samples = samples.subset(self.args.limit)
        for remark in [*samples.remarks, *([f"{samples.share} published images"] if samples.share else [])]:
            say(f"{samples.path}: {remark}")
        counts = {samples.spec.class_name(label): count for label, count in enumerate(samples.class_counts())}
        if self.args.limit is not None and counts:
            say(f"{samples.path}: --limit takes {', '.join(f'{count} of {name}' for name, count in counts.items())}")
        only = next((name for name, count in counts.items() if count == len(samples)), None)
        if only is not None:
            say(f"warning: all {len(samples)} images of {samples.path} are of {only}")
        mismatched = count_mismatched_masks(samples)
        if mismatched:
            say(
                f"{samples.path}: {mismatched} masks have another size than their image;"
                " both are resized to the same square"
            )
        with distributed.local_main_first():  # fills the cache, from which the other ranks then read
            data = load_data(self.args.dataRoot, samples, workers=self.args.workers)
        for remark, (count, name) in data.remarks.items():
            say(f"{samples.path}: {count} images have {remark} ({name}{', ...' if count > 1 else ''})")
        coloured = data.coloured() if samples.spec.noise == "grey" else None
        if coloured is not None:
            raise UserError(
                f"{samples.path}: {coloured} is coloured, and grey noise is for grey images: use --noise colour"
            )
        if data.masks is not None:
            if not samples.spec.mask_values:  # else these say what each value means
                check_encodings(data.encodings, str(samples.path))
            if not data.masks.any():
                raise UserError(f"{samples.path}: all {len(data)} masks are empty: they have no foreground")
            for line in describe_masks(data.masks, samples.masks, data.encodings):
                say(f"{samples.path}: {line}")
        return data.preload(self.device)

    def evaluation_loader(self, data: ImageData) -> EvaluationLoader:
        """Returns a loader of this rank's shard; --bs is the batch size of all ranks together."""
        shard = data.shard(distributed.rank(), distributed.world_size())
        batch_size = self.args.bs or EVALUATION_BATCH_SIZE
        return EvaluationLoader(shard, -(-batch_size // distributed.world_size()), self.device)


def choose_spec(args: argparse.Namespace, *models: str) -> DatasetSpec:
    """Returns the data set at --imgSize pixels, with the normalisation of --normalize and the noise of --noise.

    Raises `UserError` if there is no such data set, or if a network cannot take images so small.
    """
    spec = find_dataset(args.dataset, args.dataRoot, args.task)
    if args.normalize is not None:
        mean, std = parse_normalization(args.normalize)
        spec = replace(spec, mean=mean, std=std)
    if args.noise is not None:
        spec = replace(spec, noise=args.noise)
    if getattr(args, "foreground", None):
        if spec.mask_values:
            raise UserError(f"--foreground: {spec.name} declares the values of {spec.classes} classes: leave it out")
        spec = replace(spec, foreground=tuple(sorted(args.foreground)))
    if args.imgSize is not None:
        spec = spec.at_size(args.imgSize)
    for model in models:
        if spec.size < MODELS[model].min_size:
            raise UserError(
                f"--imgSize {spec.size} is too small for {model}: it takes {MODELS[model].min_size} or more"
            )
    return spec


def check_divisible(data: ImageData) -> None:
    """Raises `UserError` if no --valFraction divides the images: both parts need an image, and one of each class."""
    is_single_label = data.samples.spec.task == "single-label"
    labels = data.targets(data.indices) if is_single_label else torch.zeros(len(data), dtype=torch.int64)
    for label, count in enumerate(torch.bincount(labels).tolist()):
        if count == 1:
            name = data.samples.spec.class_name(label) if is_single_label else "the list"
            raise UserError(
                f"{data.samples.path}: {name} has one image only, so none can be held out: leave out --valFraction, or"
                " use more"
            )


def check_scorable(data: ImageData) -> None:
    """Reports the findings whose AUROC is undefined on these images; raises `UserError` if that is all of them."""
    undefined, path = data.undefined_findings, data.samples.path
    if undefined and len(undefined) == len(data.samples.spec.findings):
        raise UserError(f"{path}: no finding has both a positive and a negative among the {len(data)} rows: use more")
    if undefined:
        say(f"{path}: {', '.join(undefined)} have one class only in {len(data)} rows: left out of the mean AUROC")


def check_normalization(weights: Path, training: dict[str, Any] | None, args: argparse.Namespace) -> None:
    """Raises `UserError` if --normalize is not that of the training of the weights, where this is recorded."""
    trained = training.get("normalize") if training else args.normalize
    if trained != args.normalize:
        used = f"with --normalize {trained}" if trained else "without --normalize"
        raise UserError(f"{weights} was trained {used}: test it so too")


def check_imported(name: str, network: nn.Module | None, classes: int, size: int) -> None:
    """Raises `UserError` if a user's network does not do what a network must, see `check_network`.

    `network`: the loaded one; None to build one.
    """
    if ":" in name:
        with torch.random.fork_rng(devices=[]):
            check_network(MODELS[name], build_model(name, classes) if network is None else network, classes, size)


def lock_outputs(path: Path) -> AbstractContextManager[object]:
    """Returns the write lock of the path in rank 0; in the other ranks, a context manager that does nothing."""
    return write_lock(path) if distributed.is_main() else nullcontext()
