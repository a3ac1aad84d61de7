"""The story of training and of testing, told once for every task. Only here and in `cli` are command lines known."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from advmia.data.loading import EvaluationLoader, ImageData, load_data
from advmia.data.readers import (
    SampleList,
    count_mismatched_masks,
    count_shared,
    read_samples,
)
from advmia.data.specs import DATASETS, DatasetSpec
from advmia.errors import UserError
from advmia.models import MODELS
from advmia.runtime import devices, distributed, machine
from advmia.runtime.files import write_lock
from advmia.runtime.terminal import say


def choose_device(args: argparse.Namespace) -> torch.device:
    """This process' device, and memory as suits it."""
    device = devices.pick_device(args.gpu)
    if device.type == "cpu":
        machine.keep_freed_memory()
    return device


def choose_spec(args: argparse.Namespace, *models: str) -> DatasetSpec:
    """The data set at the size asked for, which the models must be able to take."""
    spec = DATASETS[args.dataset]
    if args.imgSize is not None:
        spec = spec.at_size(args.imgSize)
    for model in models:
        if spec.size < MODELS[model].min_size:
            raise UserError(
                f"--imgSize {spec.size} is too small for {model}: it takes {MODELS[model].min_size} or more"
            )
    return spec


def read_lists(args: argparse.Namespace, spec: DatasetSpec) -> tuple[SampleList, SampleList]:
    """The training and the test list, both checked before either is decoded."""
    train_list = read_samples(spec, args.dataRoot, "train")
    test_list = read_samples(spec, args.dataRoot, "test", classes=train_list.classes)
    shared = count_shared(train_list, test_list)
    if shared:
        say(f"warning: {shared} images are in both {train_list.path} and {test_list.path.name}: scores will flatter")
    return train_list, test_list


def load_images(args: argparse.Namespace, samples: SampleList, device: torch.device) -> ImageData:
    """The pixels of the rows asked for, in the device's memory if they fit; what is odd about them is said."""
    samples = samples.first(args.limit)
    odd = count_mismatched_masks(samples)
    if odd:
        say(f"{samples.path}: {odd} masks have another size than their image; both are resized to the same square")
    with distributed.local_main_first():  # they find in the cache what it has decoded
        data = load_data(args.dataRoot, samples, workers=args.workers)
    if data.empty_masks == len(data):
        raise UserError(f"{samples.path}: all {len(data)} masks are empty: foreground must be grey 128 or more of 255")
    if data.empty_masks:
        say(f"{samples.path}: {data.empty_masks} masks are all background")
    return data.preload(device)


def lock_outputs(path: Path) -> AbstractContextManager[None]:
    """Of the processes of one run the first writes; no other run does meanwhile."""
    return write_lock(path) if distributed.is_main() else nullcontext()


def evaluation_loader(args: argparse.Namespace, data: ImageData, device: torch.device) -> EvaluationLoader:
    """This process' share of the list; `--bs` is the batch of all processes together."""
    share = data.shard(distributed.rank(), distributed.world_size())
    return EvaluationLoader(share, -(-args.bs // distributed.world_size()), device)


def check_scorable(data: ImageData) -> None:
    """Says for which findings a list has no AUROC; none for any of them is no list to score on."""
    undefined, where = data.undefined_findings, data.samples.path
    if undefined and len(undefined) == len(data.samples.spec.findings):
        raise UserError(f"{where}: no finding has both a positive and a negative among the {len(data)} rows: use more")
    if undefined:
        say(f"{where}: {', '.join(undefined)} have one class only in {len(data)} rows: left out of the mean AUROC")
