"""ImageNet weights of torchvision's networks."""

from __future__ import annotations

import pickle
import textwrap
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from advmia.errors import UserError

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum


def load_weights(name: str, weights: WeightsEnum, copy: Callable[[dict[str, Tensor]], object]) -> None:
    """Gives a state_dict of torchvision to `copy`; downloads it unless it is in torch's cache. `name`: of the network.

    Raises `UserError` if it can be neither loaded nor downloaded, or if `copy` finds that it is of another network.
    """
    try:
        copy(dict(weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)))
    except (OSError, HTTPException, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise UserError(
            f"{name}'s ImageNet weights could not be loaded ({reason}): put {weights.url} at {cached}, "
            "or start from random weights with --init random"
        ) from error


def imagenet_loader(name: str) -> Callable[[nn.Module], None] | None:
    """Returns what copies torchvision's default weights into its network `name`; None if there are none.

    The head, whose shape depends on the number of classes, keeps its weights.
    """
    import torchvision.models

    if name not in torchvision.models.list_models(module=torchvision.models):
        return None

    def load(model: nn.Module) -> None:
        def copy(saved: dict[str, Tensor]) -> None:
            own = model.state_dict()
            others = {entry: own[entry] for entry in saved if entry in own and own[entry].shape != saved[entry].shape}
            model.load_state_dict(saved | others)

        load_weights(name, torchvision.models.get_model_weights(name).DEFAULT, copy)

    return load
