"""Losses and training methods written directly from the formulas of the papers, to compare ours with."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn


def plain_ce(logits: Tensor, y: Tensor) -> Tensor:
    """Returns -log p_y of each sample."""
    p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    return torch.stack([-p[i, label].log() for i, label in enumerate(y.tolist())])


def plain_kl(reference_logits: Tensor, logits: Tensor) -> Tensor:
    """Returns KL(p || q) = sum p log(p / q) of each sample, where p = softmax(reference_logits)."""
    p = reference_logits.exp() / reference_logits.exp().sum(dim=1, keepdim=True)
    q = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    return (p * (p / q).log()).sum(dim=1)


def plain_label_kl(reference_logits: Tensor, logits: Tensor) -> Tensor:
    """Returns p log(p / q) + (1 - p) log((1 - p) / (1 - q)), averaged over the labels of each sample."""
    p, q = 1 / (1 + (-reference_logits).exp()), 1 / (1 + (-logits).exp())
    return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(dim=1) / logits.shape[1]


def plain_pixel_kl(reference_logits: Tensor, logits: Tensor) -> Tensor:
    """Returns the KL of the pixels' classes, averaged over each image."""
    pairs = zip(reference_logits, logits, strict=True)
    return torch.stack([plain_kl(p.flatten(1).T, q.flatten(1).T).mean() for p, q in pairs])


def plain_trades(logits: Tensor, logits_adv: Tensor, y: Tensor, beta: float) -> Tensor:
    """Returns the loss of Zhang et al. 2019: CE(f(x), y) + beta KL(f(x) || f(x')), both averaged over the batch."""
    return plain_ce(logits, y).sum() / len(y) + beta * plain_kl(logits, logits_adv).sum() / len(y)


def plain_mart(logits: Tensor, logits_adv: Tensor, y: Tensor, beta: float) -> Tensor:
    """Returns the loss of Wang et al. 2020: BCE(p(x'), y) + beta KL(p(x) || p(x')) (1 - p_y(x)).

    It contains the small constants of the published code.
    """
    losses = []
    for i, label in enumerate(y.tolist()):
        p, p_adv = logits[i].softmax(dim=0), logits_adv[i].softmax(dim=0)
        wrong = max(p_adv[k] for k in range(len(p_adv)) if k != label)
        boosted = -p_adv[label].log() - (1.0001 - wrong + 1e-12).log()
        divergence = sum(p[k] * (p[k].log() - (p_adv[k] + 1e-12).log()) for k in range(len(p)))
        losses.append(boosted + beta * divergence * (1.0000001 - p[label]))
    return torch.stack(losses).mean()


def plain_hat(logits: tuple[Tensor, Tensor, Tensor], y: Tensor, y_help: Tensor, beta: float, gamma: float) -> Tensor:
    """Returns the loss of Rade and Moosavi-Dezfooli 2022: TRADES' loss + gamma CE(f(x + h (x' - x)), helper's label).

    `logits`: those of x, of x' and of x + h (x' - x).
    """
    clean, adversarial, helper = logits
    return plain_trades(clean, adversarial, y, beta) + gamma * plain_ce(helper, y_help).sum() / len(y)


def plain_ascent(
    model: nn.Module, x: Tensor, start: Tensor, loss: Callable[[Tensor], Tensor], eps: float, steps: int, step: float
) -> Tensor:
    """Returns x_adv after sign steps on the network in eval mode, each projected to eps and [0, 1]; all in float64."""
    model = copy.deepcopy(model).eval().double()
    x, x_adv = x.double(), start.double()
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_(True)
        loss(model(x_adv)).backward()
        assert x_adv.grad is not None
        x_adv = x_adv.detach() + step * torch.sign(x_adv.grad)
        x_adv = torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)
    return x_adv.detach().float()


def plain_bce(logits: Tensor, y: Tensor) -> Tensor:
    """Returns -(y log p + (1 - y) log(1 - p)), averaged over the labels of each sample."""
    p = 1 / (1 + (-logits).exp())
    return -(y * p.log() + (1 - y) * (1 - p).log()).sum(dim=1) / logits.shape[1]


def plain_pixel_ce(logits: Tensor, y: Tensor) -> Tensor:
    """Returns the cross-entropy of the pixels, averaged over each image."""
    return torch.stack(
        [
            plain_ce(image_logits.flatten(1).T, mask.flatten()).mean()
            for image_logits, mask in zip(logits, y, strict=True)
        ]
    )


def plain_soft_dice(logits: Tensor, y: Tensor) -> Tensor:
    """Returns 1 - mean over classes of (2 sum p t + 1) / (sum p + sum t + 1) of each image."""
    losses = []
    for image_logits, mask in zip(logits, y, strict=True):
        p = image_logits.exp() / image_logits.exp().sum(dim=0)
        shares = [(2 * p[k][mask == k].sum() + 1) / (p[k].sum() + (mask == k).sum() + 1) for k in range(len(p))]
        losses.append(1 - sum(shares) / len(p))
    return torch.stack(losses)
