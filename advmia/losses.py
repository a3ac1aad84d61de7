"""Losses. Per-sample ones return shape (B,), so that no image's attack depends on its neighbours in the batch.

Logits are scored in float32 whatever precision the network ran in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CONFIDENCE = 50.0  # of the wrong class, beyond which the survey's CW does not go


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
    # In float64: float32's exponentials differ in the last bit by the image's place in the batch.
    loss = F.binary_cross_entropy_with_logits(logits.double(), y.double(), reduction="none")
    return loss.mean(dim=1).float()


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


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """How far the true class leads: z_y - max of the others; logits (B, K >= 2), y (B,) int64; shape (B,).

    Negative where the image is misclassified. Blind to a constant added to the logits.
    """
    logits = logits.float()
    true = logits.gather(1, y[:, None])[:, 0]
    return true - logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """log(p_y / (1 - p_y)), shape (B,): in the same order as p_y, but it does not saturate at 1; logits (B, K)."""
    logits = logits.float()
    true = logits.gather(1, y[:, None])[:, 0]
    return true - logits.scatter(1, y[:, None], -torch.inf).logsumexp(dim=1)


def confident_margin(logits: Tensor, y: Tensor) -> Tensor:
    """-max(margin + 50, 0): what CW ascends (Carlini and Wagner 2017, f_6 with the survey's confidence); shape (B,)."""
    return -(margin(logits, y) + CONFIDENCE).clamp(min=0)


def label_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Minus the mean over the labels of how far each is on its right side; logits and y (B, L), y of 0 and 1; (B,).

    Not cut off where a label is wrong: AUROC ranks images, so that further wrong is worse.
    """
    return -((2 * y - 1) * logits.float()).mean(dim=1)


def targeted_cross_entropy(logits: Tensor, pair: Tensor) -> Tensor:
    """Minus the cross-entropy against the target; logits (B, K), pair (B, 2) int64 of label and target; shape (B,)."""
    return -cross_entropy(logits, pair[:, 1])


def targeted_margin(logits: Tensor, pair: Tensor) -> Tensor:
    """z_t - z_y; logits (B, K >= 2), pair (B, 2) int64 of label y and target t; shape (B,).

    Where only the gradient's sign and the order of values count, as in APGD, the logits' scale cancels as in DLR.
    """
    chosen = logits.float().gather(1, pair)
    return chosen[:, 1] - chosen[:, 0]


def targeted_dlr(logits: Tensor, pair: Tensor) -> Tensor:
    """-(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2), ranked by size; logits (B, K >= 4), pair as above; shape (B,).

    Croce and Hein 2020a (Reliable evaluation ...), equation 6: the difference of logits ratio. Blind to the logits'
    scale and to a constant added to them.
    """
    first, _, third, fourth = logits.float().topk(4, dim=1).values.unbind(dim=1)
    return targeted_margin(logits, pair) / (first - (third + fourth) / 2 + 1e-12)
