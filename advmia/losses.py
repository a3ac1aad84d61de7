"""Losses. Per-sample ones return shape (B,), so that no image's attack depends on its neighbours in the batch.

Logits are scored in float32 whatever precision the network ran in.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits (B, K) against labels (B,) int64; shape (B,)."""
    return F.cross_entropy(logits.float(), y, reduction="none")


def kl_divergence(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """KL(softmax(reference) || softmax(logits)) of each sample; both (B, K), result (B,)."""
    log_p = F.log_softmax(logits.float(), dim=1)
    log_q = F.log_softmax(reference_logits.float(), dim=1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=1)


def binary_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over the labels of each sample's binary cross-entropy; logits and y (B, L), y of 0 and 1; shape (B,)."""
    return F.binary_cross_entropy_with_logits(logits.float(), y, reduction="none").mean(dim=1)


def pixel_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over the pixels of each image's cross-entropy; logits (B, K, H, W), y (B, H, W) int64; shape (B,)."""
    # Two means, not one: a single one would be summed in another order where the batch is one image.
    return F.cross_entropy(logits.float(), y, reduction="none").mean(dim=2).mean(dim=1)


def soft_dice(logits: Tensor, y: Tensor) -> Tensor:
    """One minus the class-mean soft Dice of each image; logits (B, K, H, W), y (B, H, W) int64; shape (B,).

    Milletari et al. 2016, equation in section 3, with sums of probabilities in place of their squares. One pixel is
    added above and below, so that a class that an image lacks counts as 1 when it is not predicted, and has a gradient.
    """
    p = F.softmax(logits.float(), dim=1)
    truth = F.one_hot(y, logits.shape[1]).permute(0, 3, 1, 2)  # (B, K, H, W)
    overlap = (p * truth).sum(dim=(2, 3))  # (B, K)
    size = (p + truth).sum(dim=(2, 3))
    return 1 - ((2 * overlap + 1) / (size + 1)).mean(dim=1)
