"""The networks: `MODELS` declares them, `build_model` builds one, `identify` recognises one by its weights.

Every network takes pixels (B, 3, H, W), float, in [0, 1], and normalises them itself. It returns logits: (B, classes)
for classification, (B, classes, H, W) for segmentation. Parameter names are those of the survey's published weights, so
that its checkpoints load here and ours load there.

`declare_imported` adds a user's network to `MODELS`, which `--model` names by its module and callable. A new network
of the package needs a module in this folder and an entry in `MODELS`, from which the tasks of its kind, the `--model`
flags, the checkpoints and the tests take it. No two networks may have the same parameter names, because `identify`
tells them apart by these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal

from torch import Tensor, nn

from advmia.errors import UserError
from advmia.models import imported
from advmia.models.densenet import DenseNet121, load_imagenet
from advmia.models.mobilenetv2 import MobileNetV2
from advmia.models.normalize import Normalize
from advmia.models.resnet import ResNet18
from advmia.models.segnet import SegNet
from advmia.models.spec import Kind, ModelSpec
from advmia.models.unet import UNet
from advmia.models.wideresnet import WideResNet

__all__ = [
    "MODELS",
    "ModelSpec",
    "Normalize",
    "build_model",
    "check_init",
    "classes_of_weights",
    "declare_imported",
    "find_model",
    "head_of",
    "identify",
    "shown_name",
    "state_dict_names",
    "unused_names",
    "with_unused",
]


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
        init="imagenet",
    ),
    "wrn": ModelSpec(
        name="wrn",
        class_name="WideResNet",
        kind="classification",
        build=WideResNet,
        head="fc.weight",
        min_size=1,
        cam_layer="relu",
        unused_twin=("block1.", "sub_block1."),
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


def declare_imported(name: str, kind: Kind) -> str:
    """Enters the network `FILE.py:NAME` or `package.module:NAME` in `MODELS`, if it is not there; returns its name.

    Raises `UserError` if it cannot be imported, see `advmia.models.imported`.
    """
    if name not in MODELS:
        MODELS[name] = imported.import_network(name, kind)
    return name


def shown_name(name: str) -> str:
    """Returns how tables and file names show the network `name`: a user's by its callable, without the module."""
    return MODELS[name].class_name if ":" in name else name


def find_model(name: str) -> ModelSpec:
    """Returns the spec of the network `name`, in any letter case; raises `UserError` for an unknown name."""
    for spec in MODELS.values():
        if name.lower() == spec.name.lower():
            return spec
    raise UserError(f"unknown model {name!r}: choose from {', '.join(MODELS)}")


def check_init(name: str, init: object) -> None:
    """Raises `UserError` if `init` is "imagenet" and the network `name` (a key of `MODELS`) has no such weights."""
    if init == "imagenet" and MODELS[name].load_imagenet is None:
        available = ", ".join(spec.name for spec in MODELS.values() if spec.load_imagenet)
        raise UserError(
            f"{name} has no ImageNet weights (available for: {available}, and networks of torchvision.models): use"
            " --init random"
        )


def build_model(
    name: str,
    classes: int,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    init: Literal["random", "imagenet"] = "random",
) -> nn.Module:
    """Builds the network `name` with `classes` outputs, in train mode and float32.

    With `mean` and `std` (one value for each channel, for pixels in [0, 1]) its first layer normalises the input.
    `init="imagenet"` copies ImageNet weights into it, which may download them. Raises `UserError` for an unknown name,
    and for a network without ImageNet weights if they are requested.
    """
    spec = find_model(name)
    if (mean is None) != (std is None):
        raise ValueError("expected both mean and std, or neither")
    check_init(spec.name, init)
    model = spec.build(classes, Normalize(mean, std))
    if init == "imagenet" and spec.load_imagenet is not None:
        spec.load_imagenet(model)
    return model


def head_of(name: str) -> str:
    """Returns the state_dict entry of the network `name` whose first dimension is the number of classes.

    Raises `UserError` if it has none.
    """
    spec = find_model(name)
    return spec.head or imported.find_head(spec)


def classes_of_weights(name: str, state_dict: Mapping[str, Tensor]) -> int:
    """Returns the number of classes of the network `name` that has the weights `state_dict`.

    Only reads the head's shape, and the heads of res18 and mv2 have the same name: use `identify` to tell networks
    apart. Raises `UserError` if the weights have no such head.
    """
    head = head_of(name)
    if head not in state_dict:
        owner = identify(state_dict) or "no known model"
        raise UserError(f"expected weights of {name}, with an entry {head}, but got weights of {owner}")
    shape = state_dict[head].shape
    return shape[0] if shape else 0


def identify(state_dict: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the network that has exactly the entries of `state_dict`, or None if there is none.

    The entries of `unused_names` may be among them.
    """
    names = frozenset(state_dict)
    for name in MODELS:
        own = state_dict_names(name)
        if names in (own, own | unused_names(name)):
            return name
    return None


@cache
def state_dict_names(name: str) -> frozenset[str]:
    """Returns the names of the network's state_dict entries, which do not depend on the number of classes."""
    return frozenset(imported.skeleton(MODELS[name], classes=2))


def unused_names(name: str) -> frozenset[str]:
    """Returns the entries that files of the network `name` may hold besides its own, and that no forward pass uses."""
    twin = MODELS[name].unused_twin
    if twin is None:
        return frozenset()
    used, unused = twin
    return frozenset(unused + entry.removeprefix(used) for entry in state_dict_names(name) if entry.startswith(used))


def with_unused(name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns weights of the network `name` with the entries of `unused_names`, for programs that ask for them.

    For wrn these are `sub_block1`, a module that TRADES' and the survey's class of WideResNet have besides `block1`.
    Since they never use it, any values do; they are those of `block1`.
    """
    twin = MODELS[name].unused_twin
    if twin is None:
        return dict(state_dict)
    used, unused = twin
    twins = {unused + entry.removeprefix(used): entry for entry in state_dict if entry.startswith(used)}
    return {**state_dict, **{entry: state_dict[own].clone() for entry, own in twins.items()}}
