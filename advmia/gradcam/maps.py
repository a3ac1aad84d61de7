"""Grad-CAM (Selvaraju et al. 2017, section 3): which parts of an image support a class. Also compares maps."""

from __future__ import annotations

import difflib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advmia.attacks.common import frozen_eval
from advmia.errors import UserError

TOP_FRACTION = 0.2  # of a map's pixels: those that `top_overlap` compares


def grad_cam(model: nn.Module, layer: str, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
    """Computes the Grad-CAM maps of a batch.

    A map is the ReLU of the sum of the layer's channels, each weighted by the mean of the class logit's gradient
    (equations 1 and 2). It is enlarged bilinearly to the image's size and divided by its maximum. If no part of the
    image supports the class, the map is all 0. The model's mode, gradients and statistics stay as they were.

    Args:
        model: a classifier, (B, 3, H, W) -> (B, K).
        layer: the name of the submodule whose output (B, C, h, w) the maps are read from.
        x: images (B, 3, H, W) in [0, 1].
        y: the class that each map explains, (B,) int64; None for the class that the model predicts.

    Returns: maps (B, H, W) in [0, 1] and logits (B, K) float32.
    """
    outputs: list[Tensor] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        outputs.append(output)
        return output.clone()  # a ReLU behind the layer may work in place

    with frozen_eval(model), torch.enable_grad():
        hook = model.get_submodule(layer).register_forward_hook(record)
        try:
            logits = model(x.detach().requires_grad_(True)).float()  # parameters are frozen: the graph starts at x
        finally:
            hook.remove()
        (activations,) = outputs
        explained = logits.argmax(dim=1) if y is None else y
        (gradients,) = torch.autograd.grad(logits.gather(1, explained[:, None]).sum(), activations)
    activations, gradients = as_map(activations), as_map(gradients)  # (B, C, h, w)
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    maps = (weights * activations.detach()).sum(dim=1, keepdim=True).relu()
    maps = F.interpolate(maps, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12), logits.detach()


def as_map(tokens: Tensor) -> Tensor:
    """Returns a transformer's tokens (B, N, C) as a map (B, C, h, w), h = w, without tokens before those of the image.

    A map stays as it is. Raises `UserError` for any other shape.
    """
    if tokens.ndim == 4:
        return tokens
    side = math.isqrt(tokens.shape[1]) if tokens.ndim == 3 else 0
    if side == 0:
        shape = " x ".join(map(str, tokens.shape))
        raise UserError(f"--camLayer: the layer's output ({shape}) is no map and no tokens: name another layer")
    return tokens[:, -(side**2) :].transpose(1, 2).unflatten(2, (side, side))


def find_layer(model: nn.Module, name: str | None) -> str:
    """Returns the layer from which Grad-CAM is made: `name`, or by default the last that keeps where things are.

    That is the last convolution or, in a transformer, the layer norm in front of the last attention. Raises `UserError`
    if there is no such layer.
    """
    modules = dict(model.named_modules())
    if name is not None:
        if name not in modules:
            near = ", ".join(difflib.get_close_matches(name, modules, 3, 0.1))
            raise UserError(f"--camLayer {name}: the network has no module of this name; similar are {near}")
        return name
    found = ""
    for path, module in modules.items():
        if isinstance(module, nn.Conv2d):
            found = path
        elif isinstance(module, nn.MultiheadAttention):
            parent = path.rpartition(".")[0]
            children = model.get_submodule(parent).named_children()
            norms = [key for key, child in children if isinstance(child, nn.LayerNorm)]
            found = f"{parent}.{norms[0]}".lstrip(".") if norms else found
    if not found:
        raise UserError("the network has no convolution: name a layer for Grad-CAM with --camLayer")
    return found


def is_empty(maps: Tensor) -> Tensor:
    """Returns which maps (B, H, W) of `grad_cam` are empty, (B,) bool: no part of the image supports the class."""
    return maps.amax(dim=(1, 2)) < 0.5  # the maximum of any other map is 1


def cosine_similarity(maps: Tensor, clean_maps: Tensor) -> Tensor:
    """Computes the similarity (B,) of maps (B, H, W) pairwise: 1 if equal up to a factor, 0 without a common pixel.

    A map that is all 0 has similarity 0 to every map.
    """
    return F.cosine_similarity(maps.flatten(1), clean_maps.flatten(1), dim=1)


def top_overlap(maps: Tensor, clean_maps: Tensor) -> Tensor:
    """Computes the intersection over union (B,) of the brightest fifths of the pixels of maps (B, H, W), pairwise.

    A map that is all 0 has no bright pixels: its overlap is 0.
    """
    count = max(1, round(TOP_FRACTION * maps[0].numel()))
    brightest = []
    for flat in (maps.flatten(1), clean_maps.flatten(1)):
        top = torch.zeros_like(flat, dtype=torch.bool).scatter(1, flat.topk(count, dim=1).indices, True)
        brightest.append(top & (flat > 0))
    first, second = brightest
    return (first & second).sum(dim=1) / (first | second).sum(dim=1).clamp(min=1)
