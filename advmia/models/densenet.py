"""CheXNet: torchvision's DenseNet-121 with a classifier of its own.

Huang et al., Densely Connected Convolutional Networks, CVPR 2017; Rajpurkar et al., CheXNet, arXiv 1711.05225.
Weights start from torchvision's DenseNet defaults, or from its ImageNet weights (`load_imagenet`).
"""

from __future__ import annotations

import pickle
import re
import textwrap
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn

from advmia.errors import UserError


class DenseNet121(nn.Module):
    """(B, 3, H, W) float pixels in [0, 1] -> (B, classes) logits."""

    def __init__(self, classes: int, normalize: nn.Module) -> None:
        from torchvision.models import densenet121  # here, because it takes longer to import than torch

        super().__init__()
        self.normalize = normalize
        self.densenet121 = densenet121(weights=None)
        # In torchvision the last ReLU comes after `features` and works in place, on the very map that Grad-CAM reads.
        self.densenet121.features.add_module("relu5", nn.ReLU())
        self.densenet121.classifier = nn.Sequential(nn.Linear(1024, classes))

    def forward(self, x: Tensor) -> Tensor:
        out = self.densenet121.features(self.normalize(x))  # (B, 1024, H/32, W/32)
        return self.densenet121.classifier(out.mean(dim=(2, 3)))


def load_imagenet(model: nn.Module) -> None:
    """Put torchvision's ImageNet weights into the features of `model`, a DenseNet121; its classifier stays random.

    The 31 MB file is downloaded unless torch has it in its cache already.
    """
    from torchvision.models import DenseNet121_Weights

    weights = DenseNet121_Weights.IMAGENET1K_V1
    try:
        state_dict = weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
        features = {_current_name(name): value for name, value in state_dict.items() if name.startswith("features.")}
        model.get_submodule("densenet121.features").load_state_dict(features)
    except (OSError, HTTPException, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise UserError(
            f"chexnet's ImageNet weights could not be loaded ({reason}): put {weights.url} at {cached}, "
            "or start from random weights with --init random"
        ) from error


def _current_name(name: str) -> str:
    """The file's features.denseblock1.denselayer1.norm.1.weight is now denseblock1.denselayer1.norm1.weight."""
    return re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", name.removeprefix("features."))
