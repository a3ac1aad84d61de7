"""Grad-CAM (Selvaraju et al. 2017, section 3): which parts of an image speak for a class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advmia.attacks.common import frozen_eval


def grad_cam(model: nn.Module, layer: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(maps (B, H, W) in [0, 1], logits (B, K) float32) of images x (B, 3, H, W) in [0, 1] and classes y (B,) int64.

    `layer` is the submodule whose output the map is read from. A map is the ReLU of its channels' sum, each weighted by
    the mean of the class logit's gradient (equations 1 and 2), enlarged bilinearly to the image and divided by its own
    maximum; it is all 0 where nothing speaks for the class. The model is left as it was.
    """
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # a ReLU behind the layer may work in place

    with frozen_eval(model), torch.enable_grad():
        hook = model.get_submodule(layer).register_forward_hook(keep)
        try:
            logits = model(x.detach().requires_grad_(True)).float()  # parameters are frozen: the graph starts at x
        finally:
            hook.remove()
        (activations,) = kept  # (B, C, h, w)
        (gradients,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), activations)
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    maps = (weights * activations.detach()).sum(dim=1, keepdim=True).relu()
    maps = F.interpolate(maps, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12), logits.detach()


def cosine_similarity(maps: Tensor, clean: Tensor) -> Tensor:
    """How alike two maps (B, H, W) are: 1 the same up to scale, 0 nothing in common; shape (B,). 0 if one is all 0."""
    return F.cosine_similarity(maps.flatten(1), clean.flatten(1), dim=1)


def top_overlap(maps: Tensor, clean: Tensor, share: float = 0.2) -> Tensor:
    """Intersection over union of the brightest fifth of the pixels of two maps (B, H, W); shape (B,), 0 to 1.

    A map that is all 0 has no brightest fifth: 0.
    """
    count = max(1, round(share * maps[0].numel()))
    tops = []
    for each in (maps.flatten(1), clean.flatten(1)):
        top = torch.zeros_like(each, dtype=torch.bool).scatter(1, each.topk(count, dim=1).indices, True)
        tops.append(top & (each > 0))
    shared, either = (tops[0] & tops[1]).sum(dim=1), (tops[0] | tops[1]).sum(dim=1)
    return shared / either.clamp(min=1)
