"""Losses that attacks on masks ascend, computed for each image: shape (B,), means over its pixels.

They take logits (B, K, H, W) and masks y (B, H, W) int64, from two classes on; a label (B,) is a mask of one pixel. A
pixel is right if its largest logit is that of its class. Which pixels are right, and all weights, count as constants in
the gradient.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from advmia.losses import pixel_mean


def right_pixels(logits: Tensor, y: Tensor) -> Tensor:
    """Returns which pixels are right, (B, ...) bool."""
    return logits.argmax(dim=1) == y


def wrong_share(logits: Tensor, y: Tensor) -> Tensor:
    """Computes the share of the pixels that are wrong: 1 - the pixel accuracy."""
    return (~right_pixels(logits, y)).reshape(len(y), -1).double().mean(dim=1).float()


def all_wrong(logits: Tensor, y: Tensor) -> Tensor:
    """Returns which images (B,) have no pixel that is right."""
    return ~right_pixels(logits, y).reshape(len(y), -1).any(dim=1)


def segpgd_loss(logits: Tensor, y: Tensor, wrong_weight: float) -> Tensor:
    """Computes the cross-entropy with `wrong_weight` on wrong pixels, and 1 minus it on right ones.

    Gu et al., SegPGD, ECCV 2022, equation 4, where the weight is called lambda.
    """
    weight = torch.where(right_pixels(logits, y), 1 - wrong_weight, wrong_weight)
    return pixel_mean(weight * _cross_entropy(logits, y))


def cospgd_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Computes the cross-entropy, weighted by the cosine between the pixel's softmax and its one-hot class.

    Agnihotri et al., CosPGD, ICML 2024. The softmax is that of the authors' code; with a sigmoid, as in other code, a
    constant added to all logits would change the weights.
    """
    p = F.softmax(logits.detach().float(), dim=1)
    cosine = _at(p, y) / p.norm(dim=1)
    return pixel_mean(cosine * _cross_entropy(logits, y))


def masked_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Computes the cross-entropy of the right pixels only (Croce et al., arXiv 2306.12941)."""
    return pixel_mean(right_pixels(logits, y) * _cross_entropy(logits, y))


def jensen_shannon(logits: Tensor, y: Tensor) -> Tensor:
    """Computes the Jensen-Shannon divergence between the pixel's softmax and its one-hot class (Croce et al.).

    With p the probability of the class, it is log 2 + (p log p - (1 + p) log(1 + p)) / 2. It is bounded, so that pixels
    that are clearly wrong have little weight.
    """
    p = _at(F.softmax(logits.float(), dim=1), y).clamp(min=torch.finfo(torch.float32).tiny)
    p = p.double()  # as in `advmia.losses.binary_cross_entropy`: vectorised logarithms differ in the last bit
    return pixel_mean(math.log(2) + (p * p.log() - (1 + p) * p.log1p()) / 2).float()


def masked_normalized_logit(logits: Tensor, y: Tensor) -> Tensor:
    """Computes minus the logit of the class, divided by the norm of the pixel's logits, of the right pixels only.

    Croce et al., with the logit of their code. Scaling the logits does not change it.
    """
    return pixel_mean(right_pixels(logits, y) * -_normalized(logits, y))


def normalized_logit(logits: Tensor, y: Tensor) -> Tensor:
    """Computes `masked_normalized_logit` of all pixels."""
    return pixel_mean(-_normalized(logits, y))


def _normalized(logits: Tensor, y: Tensor) -> Tensor:
    return _at(F.normalize(logits.float(), dim=1), y)


def _at(values: Tensor, y: Tensor) -> Tensor:
    """Returns the value of each pixel's class, (B, ...); values (B, K, ...)."""
    return values.gather(1, y[:, None])[:, 0]


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), y, reduction="none")
