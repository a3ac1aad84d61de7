"""Losses of logits, computed for each sample: shape (B,), not a mean over the batch.

The attack on an image therefore does not depend on the other images of its batch. Logits are converted to float32
first, whatever precision the network ran in. B is the batch size, K the number of classes, L the number of labels of
multi-label data.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CW_CONFIDENCE = 50.0  # the survey's kappa: CW stops where the true logit is this far below another


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Computes the cross-entropy of each sample; logits (B, K), y (B,) int64, result (B,)."""
    return F.cross_entropy(logits.float(), y, reduction="none")


def kl_divergence(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Computes KL(softmax(reference_logits) || softmax(logits)) of each sample; both (B, K), result (B,).

    Both may have further axes (B, K, ...); the result is then (B, ...).
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    log_q = F.log_softmax(reference_logits.float(), dim=1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=1)


def binary_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Computes the mean over labels of the binary cross-entropy; logits and y (B, L), y 0 or 1, result (B,)."""
    # In float64: float32's vectorised exponentials differ in the last bit with the image's position in the batch.
    loss = F.binary_cross_entropy_with_logits(logits.double(), y.double(), reduction="none")
    return loss.mean(dim=1).float()


def label_divergence(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Computes the mean over labels of KL(p || q), p and q the label's probabilities; both (B, L), result (B,).

    p = sigmoid(reference_logits) and q = sigmoid(logits), each of present and absent. A mean, not a sum: so that it has
    the scale of `binary_cross_entropy`, which is a mean over labels too.
    """
    z, reference = logits.double(), reference_logits.double()  # float64 as above
    present = reference.sigmoid() * (F.logsigmoid(reference) - F.logsigmoid(z))
    absent = (-reference).sigmoid() * (F.logsigmoid(-reference) - F.logsigmoid(-z))
    return (present + absent).mean(dim=1).float()


def pixel_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Computes the mean over pixels of the cross-entropy; logits (B, K, H, W), y (B, H, W) int64, result (B,).

    A label, logits (B, K) and y (B,), counts as a mask of one pixel.
    """
    return pixel_mean(F.cross_entropy(logits.float(), y, reduction="none"))


def pixel_mean(values: Tensor) -> Tensor:
    """Returns the mean over the pixels, (B,); values (B, ...)."""
    while values.dim() > 1:  # One axis at a time: a single mean sums in another order when the batch is one image.
        values = values.mean(dim=-1)
    return values


def pixel_divergence(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Computes the mean over pixels of `kl_divergence`; both (B, K, H, W), result (B,)."""
    return pixel_mean(kl_divergence(logits, reference_logits))


def soft_dice(logits: Tensor, y: Tensor) -> Tensor:
    """Computes 1 - the mean over classes of the soft Dice; logits (B, K, H, W), y (B, H, W) int64, result (B,).

    Milletari et al., V-Net, 3DV 2016, section 3, with sums of probabilities instead of sums of their squares. One pixel
    is added to the numerator and to the denominator: a class that is absent from the mask then scores 1 if it is not
    predicted, and has a gradient.
    """
    p = F.softmax(logits.float(), dim=1)
    truth = F.one_hot(y, logits.shape[1]).permute(0, 3, 1, 2)  # (B, K, H, W)
    overlap = (p * truth).sum(dim=(2, 3))  # (B, K)
    size = (p + truth).sum(dim=(2, 3))
    return 1 - ((2 * overlap + 1) / (size + 1)).mean(dim=1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Computes z_y - max_{k != y} z_k; logits z (B, K >= 2), y (B,) int64, result (B,).

    Negative if the image is misclassified. Adding a constant to the logits does not change it.
    """
    logits = logits.float()
    true = logits.gather(1, y[:, None])[:, 0]
    return true - logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """Computes log(p_y / (1 - p_y)) for p = softmax(logits); logits (B, K >= 2), y (B,) int64, result (B,).

    It increases with p_y, but does not saturate where p_y rounds to 1.
    """
    logits = logits.float()
    true = logits.gather(1, y[:, None])[:, 0]
    return true - logits.scatter(1, y[:, None], -torch.inf).logsumexp(dim=1)


def confident_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Computes -max(margin + 50, 0), the loss that CW ascends; logits (B, K >= 2), y (B,) int64, result (B,).

    Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, S&P 2017: -f_6, with the survey's
    confidence.
    """
    return -(margin(logits, y) + CW_CONFIDENCE).clamp(min=0)


def label_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Computes minus the mean over labels of (2 y - 1) z; logits z and y (B, L), y 0 or 1, result (B,).

    It keeps growing after a label is predicted wrongly, because AUROC ranks images: a logit that is further on the
    wrong side lowers it more.
    """
    return -((2 * y - 1) * logits.float()).mean(dim=1)


def targeted_cross_entropy(logits: Tensor, pair: Tensor) -> Tensor:
    """Computes minus the cross-entropy of t; logits (B, K), pair (B, 2) int64 of label y and target class t; (B,)."""
    return -cross_entropy(logits, pair[:, 1])


def targeted_margin(logits: Tensor, pair: Tensor) -> Tensor:
    """Computes z_t - z_y; logits z (B, K >= 2), pair (B, 2) int64 of label y and target class t, result (B,).

    The scale of the logits changes neither the gradient's sign nor the order of values, and APGD uses nothing else. In
    APGD this loss is therefore as invariant to scale as the DLR loss.
    """
    label, target = logits.float().gather(1, pair).unbind(dim=1)
    return target - label


def targeted_dlr(logits: Tensor, pair: Tensor) -> Tensor:
    """Computes the targeted difference of logits ratio, -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2).

    z_(i) is the i-th largest logit; logits z (B, K >= 4), pair (B, 2) int64 of label y and target class t, result (B,).
    Scaling the logits or adding a constant to them does not change it. Croce and Hein, Reliable Evaluation of
    Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks, ICML 2020, equation 6.
    """
    first, _, third, fourth = logits.float().topk(4, dim=1).values.unbind(dim=1)
    return targeted_margin(logits, pair) / (first - (third + fourth) / 2 + 1e-12)
