"""The five networks, declared once: `MODELS`, and how to build one or to recognise its weights.

Every network takes (B, 3, H, W) float pixels in [0, 1] and normalises them itself. It returns logits: (B, classes)
for classification, (B, classes, H, W) for segmentation. Parameter names are those of the survey's published weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from advmia.errors import UserError
from advmia.models.densenet import DenseNet121, load_imagenet
from advmia.models.mobilenetv2 import MobileNetV2
from advmia.models.normalize import Normalize
from advmia.models.resnet import ResNet18
from advmia.models.segnet import SegNet
from advmia.models.unet import UNet

__all__ = ["MODELS", "ModelSpec", "Normalize", "build_model", "count_classes", "find_model", "identify"]


@dataclass(frozen=True)
class ModelSpec:
    """One network: what it is called, how it is built and where its parts lie."""

    name: str  # what --model takes
    class_name: str  # what checkpoint files are named by
    kind: Literal["classification", "segmentation"]
    build: Callable[[int, nn.Module], nn.Module]  # (classes, normalize) -> random weights; never a download
    head: str  # the state_dict entry whose first dimension is the number of classes
    min_size: int  # smallest side of a square input, in pixels
    # Module whose output Grad-CAM reads (classification only): the map, after its ReLU, that is averaged into the
    # classifier's input. There Grad-CAM is CAM: a channel's weight is the classifier's (Selvaraju et al., ICCV 2017).
    cam_layer: str | None = None
    load_imagenet: Callable[[nn.Module], None] | None = None  # starts a built model from ImageNet weights; may download


MODELS: dict[str, ModelSpec] = {
    "res18": ModelSpec(
        name="res18",
        class_name="ResNet",
        kind="classification",
        build=ResNet18,
        head="linear.weight",
        min_size=1,
        cam_layer="layer4",
    ),
    "mv2": ModelSpec(
        name="mv2",
        class_name="MobileNetV2",
        kind="classification",
        build=MobileNetV2,
        head="linear.weight",
        min_size=1,
        cam_layer="relu2",
    ),
    "chexnet": ModelSpec(
        name="chexnet",
        class_name="DenseNet121",
        kind="classification",
        build=DenseNet121,
        head="densenet121.classifier.0.weight",
        min_size=29,
        cam_layer="densenet121.features",
        load_imagenet=load_imagenet,
    ),
    "unet": ModelSpec(
        name="unet",
        class_name="UNet",
        kind="segmentation",
        build=UNet,
        head="outc.conv.weight",
        min_size=16,
    ),
    "segnet": ModelSpec(
        name="segnet",
        class_name="SegNet",
        kind="segmentation",
        build=SegNet,
        head="conv11d.weight",
        min_size=32,
    ),
}


def find_model(name: str) -> ModelSpec:
    """The model called `name`, in any letter case."""
    for spec in MODELS.values():
        if name.lower() == spec.name.lower():
            return spec
    raise UserError(f"unknown model {name!r}: known are {', '.join(MODELS)}")


def check_init(name: str, init: str | None) -> None:
    """Raises `UserError` where the first weights asked for are not to be had; None takes the network's usual ones."""
    if init == "imagenet" and MODELS[name].load_imagenet is None:
        known = ", ".join(other.name for other in MODELS.values() if other.load_imagenet)
        raise UserError(f"{name} has no ImageNet weights (only {known} has): use --init random")


def build_model(
    name: str,
    classes: int,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    init: Literal["random", "imagenet"] = "random",
) -> nn.Module:
    """The network called `name`, in train mode, float32.

    `mean` and `std` (one value a channel) make normalisation its first layer. `init="imagenet"` starts it from ImageNet
    weights, which chexnet alone has; only then may anything be downloaded.
    """
    spec = find_model(name)
    if (mean is None) != (std is None):
        raise ValueError("mean and std are given together or not at all")
    check_init(spec.name, init)
    normalize = nn.Identity() if mean is None or std is None else Normalize(mean, std)
    model = spec.build(classes, normalize)
    if init == "imagenet" and spec.load_imagenet is not None:
        spec.load_imagenet(model)
    return model


def count_classes(name: str, state_dict: Mapping[str, Tensor]) -> int:
    """The number of classes that the weights `state_dict` of the model `name` tell apart.

    Only the head is looked at, and res18 and mv2 name theirs alike: `identify` says whose weights they are.
    """
    spec = find_model(name)
    if spec.head not in state_dict:
        held = identify(state_dict) or "no known model"
        raise UserError(f"expected weights of {spec.name}, with an entry {spec.head}; these are of {held}")
    return state_dict[spec.head].shape[0]


def identify(state_dict: Mapping[str, Tensor]) -> str | None:
    """The name of the model that has exactly these state_dict entries; None where none has."""
    for name, spec in MODELS.items():
        with torch.device("meta"):  # names only: no memory, no random numbers
            names = spec.build(1, nn.Identity()).state_dict().keys()
        if names == set(state_dict):
            return name
    return None
