"""What declares a network: `ModelSpec`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

Kind = Literal["classification", "segmentation"]


@dataclass(frozen=True)
class ModelSpec:
    """Declares one network: its names, how to build it, and where its head and its last convolution are."""

    name: str  # the value of --model
    class_name: str  # the first part of checkpoint file names
    kind: Kind
    # (classes, normalize) -> the network with random weights. `normalize` is applied to the input first. Must not
    # download anything.
    build: Callable[[int, nn.Module], nn.Module]
    # The state_dict entry whose first dimension is the number of classes; None: found by building the network twice.
    head: str | None
    min_size: int  # the smallest side of a square input, in pixels
    # Classification only: the module whose output Grad-CAM reads. It must be the map, after its ReLU, that is averaged
    # over its pixels and then classified linearly. There Grad-CAM equals CAM: a channel's weight is the classifier's
    # (Selvaraju et al., Grad-CAM, ICCV 2017).
    cam_layer: str | None = None
    # Copies ImageNet weights into a network that `build` returned; may download them. None: there are none.
    load_imagenet: Callable[[nn.Module], None] | None = None
    init: Literal["random", "imagenet"] = "random"  # where a training starts by default
    # Prefixes (used, unused): published classes of the network have a second module, of the shapes of the first, which
    # no forward pass uses. Weights with its entries are read without them; `advmia.models.with_unused` adds them.
    unused_twin: tuple[str, str] | None = None
