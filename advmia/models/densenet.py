"""CheXNet: torchvision's DenseNet-121 with a new classifier.

Huang et al., Densely Connected Convolutional Networks, CVPR 2017; Rajpurkar et al., CheXNet, arXiv 1711.05225.
The weights are initialised by torchvision's defaults; `load_imagenet` replaces them by its ImageNet weights.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import cast

import torch
from torch import Tensor, nn

from advmia.models.pretrained import load_weights


class DenseNet121(nn.Module):
    """DenseNet-121 for classification: pixels (B, 3, H, W), float, in [0, 1] -> logits (B, classes)."""

    def __init__(self, classes: int, normalize: nn.Module) -> None:
        from torchvision.models import densenet121  # a late import: torchvision takes longer to import than torch

        super().__init__()
        self.normalize = normalize
        self.densenet121 = densenet121(weights=None)
        for name, block in self.densenet121.features.named_children():
            if name.startswith("denseblock"):
                setattr(self.densenet121.features, name, _DenseBlock(cast(nn.ModuleDict, block)))
        # In torchvision the last ReLU comes after `features` and works in place, so it would overwrite the map that
        # Grad-CAM reads. As the last layer of `features`, it makes their output that map.
        self.densenet121.features.add_module("relu5", nn.ReLU())
        self.densenet121.classifier = nn.Sequential(nn.Linear(1024, classes))

    def forward(self, x: Tensor) -> Tensor:
        out = self.densenet121.features(self.normalize(x))  # (B, 1024, H/32, W/32)
        return self.densenet121.classifier(out.mean(dim=(2, 3)))


class _DenseBlock(nn.ModuleDict):
    """A block of torchvision's DenseNet, of which each layer sees what all layers before it computed.

    torchvision concatenates all of that anew for each layer, so that a layer's output gets a gradient from every layer
    after it. Here the concatenation grows by a layer's output, and passes one gradient on. Outputs and gradients are
    the same to the bit: the gradients are added in the same order.
    """

    def __init__(self, block: nn.ModuleDict) -> None:
        super().__init__()
        for name, layer in block.items():  # norm, ReLU and convolution of 1x1, and again of 3x3
            self[name] = nn.Sequential(OrderedDict(layer.named_children()))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.values():
            x = torch.cat([x, layer(x)], dim=1)
        return x


def load_imagenet(model: nn.Module) -> None:
    """Copies torchvision's ImageNet weights into the features of `model`, a DenseNet121; its classifier is unchanged.

    Downloads the file of 31 MB unless it is in torch's cache. Raises `UserError` if it can be neither loaded nor
    downloaded.
    """
    from torchvision.models import DenseNet121_Weights

    def copy(saved: dict[str, Tensor]) -> None:
        features = {_current_name(name): value for name, value in saved.items() if name.startswith("features.")}
        model.get_submodule("densenet121.features").load_state_dict(features)

    load_weights("chexnet", DenseNet121_Weights.IMAGENET1K_V1, copy)


def _current_name(name: str) -> str:
    """Translates an entry's name in the file into its name in the module.

    For example features.denseblock1.denselayer1.norm.1.weight -> denseblock1.denselayer1.norm1.weight.
    """
    return re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", name.removeprefix("features."))
