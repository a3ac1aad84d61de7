"""The plain implementation that ours is compared with: the equations of the papers, written as in published code.

Images are in PyTorch's default memory layout (NCHW), batch norms stay layers of their own, and attacks run through the
network that is trained. If published implementations differ, the fastest one is used, so that the comparison does not
favour ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from advmia.budgets import Budget

Loss = Callable[[Tensor, Tensor], Tensor]  # (logits, y) -> the mean over the batch, a scalar
# (model, x (B, C, H, W), y) -> the scalar loss of one training step; leaves the network in train mode.
StepLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (model, x, y) -> x_adv

HAT_STEP = 3.5  # HAT's helper example is x + HAT_STEP * (x_adv - x)
GAMMA = 1.0  # the weight of the loss on the helper example
Batches = Iterable[tuple[Tensor, Tensor]]  # of images and labels


def uniform_start(x: Tensor, eps: float) -> Tensor:
    """Returns x plus uniform noise in [-eps, eps], clamped to [0, 1]."""
    return (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)


def normal_start(x: Tensor) -> Tensor:
    """Returns x plus normal noise of standard deviation 0.001, not clamped, as TRADES' code does."""
    return x + 0.001 * torch.randn_like(x)


def pgd(
    model: nn.Module, x: Tensor, y: Tensor, budget: Budget, loss: Loss = F.cross_entropy, start: Tensor | None = None
) -> Tensor:
    """Computes PGD images (Madry et al., ICLR 2018).

    `backward()` also computes the gradients of the parameters, without need.
    """
    model.eval()
    x_adv = uniform_start(x, budget.eps) if start is None else start
    for _ in range(budget.steps):
        x_adv = x_adv.detach().requires_grad_(True)
        model.zero_grad()
        loss(model(x_adv), y).backward()
        assert x_adv.grad is not None
        x_adv = _step(x_adv, x_adv.grad, x, budget)
    return x_adv.detach()


def fgsm(model: nn.Module, x: Tensor, y: Tensor, budget: Budget) -> Tensor:
    """Computes FGSM images (Goodfellow et al., ICLR 2015): one step of eps from x."""
    return pgd(model, x, y, Budget(budget.eps, 1, budget.eps), start=x)


def cw(model: nn.Module, x: Tensor, y: Tensor, budget: Budget) -> Tensor:
    """Computes CW images by PGD, which ascends -max(z_y - max_{k != y} z_k + 50, 0) of the logits z."""

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        truth = F.one_hot(y, logits.shape[1]).bool()
        lead = logits[truth] - logits.masked_fill(truth, -torch.inf).amax(dim=1)
        return -(lead + 50).clamp(min=0).mean()

    return pgd(model, x, y, budget, loss)


def ascend(model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor], budget: Budget) -> Tensor:
    """Ascends `loss(x_adv)`, a scalar, by sign steps from `normal_start(x)`.

    Computes gradients with respect to the input only.
    """
    model.eval()
    x_adv = normal_start(x)
    for _ in range(budget.steps):
        x_adv = x_adv.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(x_adv), x_adv)
        x_adv = _step(x_adv, gradient, x, budget)
    return x_adv.detach()


def _step(x_adv: Tensor, gradient: Tensor, x: Tensor, budget: Budget) -> Tensor:
    """Returns x_adv after one sign step, projected to eps around x and to [0, 1]."""
    x_adv = x_adv.detach() + budget.step_size * gradient.sign()
    return torch.min(torch.max(x_adv, x - budget.eps), x + budget.eps).clamp(0, 1)


def divergence_ascent(model: nn.Module, x: Tensor, budget: Budget, *, clean_each_step: bool) -> Tensor:
    """Ascends the KL divergence from the clean prediction: the attack of TRADES and HAT.

    One pass of the clean image is enough, and HAT's code makes only one. TRADES' code makes one in each step
    (`clean_each_step`). Both keep the graph of that pass without need.
    """
    model.eval()
    p = None if clean_each_step else F.softmax(model(x), dim=1)

    def loss(x_adv: Tensor) -> Tensor:
        reference = F.softmax(model(x), dim=1) if p is None else p
        return F.kl_div(F.log_softmax(model(x_adv), dim=1), reference, reduction="sum")

    return ascend(model, x, loss, budget)


def trades_loss(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, beta: float) -> Tensor:
    """Returns TRADES' loss (Zhang et al., ICML 2019, equation 5), a scalar."""
    logits, logits_adv = model(x), model(x_adv)
    divergence = F.kl_div(F.log_softmax(logits_adv, dim=1), F.softmax(logits, dim=1), reduction="batchmean")
    return F.cross_entropy(logits, y) + beta * divergence


def mart_loss(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, beta: float) -> Tensor:
    """Returns MART's loss (Wang et al., ICLR 2020, section 3), a scalar."""
    logits, logits_adv = model(x), model(x_adv)
    p, p_adv = F.softmax(logits, dim=1), F.softmax(logits_adv, dim=1)
    ranked = p_adv.argsort(dim=1, descending=True)
    wrong = torch.where(ranked[:, 0] == y, ranked[:, 1], ranked[:, 0])
    boosted = F.cross_entropy(logits_adv, y) + F.nll_loss(torch.log(1.0001 - p_adv + 1e-12), wrong)
    divergence = F.kl_div(torch.log(p_adv + 1e-12), p, reduction="none").sum(dim=1)
    p_true = p.gather(1, y[:, None])[:, 0]
    return boosted + beta * (divergence * (1.0000001 - p_true)).mean()


def hat_loss(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, beta: float, helper: nn.Module) -> Tensor:
    """Returns HAT's loss (Rade and Moosavi-Dezfooli, ICLR 2022, algorithm 1), a scalar."""
    helper.eval()
    with torch.no_grad():
        helper_y = helper(x_adv).argmax(dim=1)
    helper_loss = F.cross_entropy(model(x + HAT_STEP * (x_adv - x)), helper_y)
    return trades_loss(model, x, x_adv, y, beta) + GAMMA * helper_loss


def step_losses(
    budget: Budget, beta: float, helper: nn.Module, loss: Loss = F.cross_entropy, *, clean_each_step: bool = True
) -> dict[str, StepLoss]:
    """Returns the training loss of each method, by name: attack in eval mode, then the loss in train mode.

    `loss`: the loss of PGD-AT. `clean_each_step`: see `divergence_ascent`; for TRADES only.
    """

    def pgdat(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x_adv = pgd(model, x, y, budget, loss)
        return loss(model.train()(x_adv), y)

    def trades(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x_adv = divergence_ascent(model, x, budget, clean_each_step=clean_each_step)
        return trades_loss(model.train(), x, x_adv, y, beta)

    def mart(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x_adv = ascend(model, x, lambda x_adv: F.cross_entropy(model(x_adv), y), budget)
        return mart_loss(model.train(), x, x_adv, y, beta)

    def hat(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x_adv = divergence_ascent(model, x, budget, clean_each_step=False)
        return hat_loss(model.train(), x, x_adv, y, beta, helper)

    return {"pgdat": pgdat, "trades": trades, "mart": mart, "hat": hat}


def training_step(model: nn.Module, optimizer: Optimizer, loss: StepLoss, x: Tensor, y: Tensor) -> None:
    """Computes the loss of a batch and updates the network once."""
    value = loss(model, x, y)
    optimizer.zero_grad()
    value.backward()
    optimizer.step()


def robust_images(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, batch_size: int) -> Tensor:
    """Returns which images of x (N, C, H, W) are classified correctly under the attack: (N,) bool."""
    model.eval()
    correct = []
    for batch_x, batch_y in zip(x.split(batch_size), y.split(batch_size), strict=True):
        x_adv = attack(model, batch_x, batch_y)
        with torch.no_grad():
            correct.append(model(x_adv).argmax(dim=1) == batch_y)
    return torch.cat(correct)


def simba_dct(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, directions: int, order: Tensor | None = None
) -> Tensor:
    """SimBA-DCT (Guo et al., ICML 2019, algorithm 1), as published for batches.

    Returns x_adv, (B, C, H, W). Each iteration makes three passes: of the current images, to see which are still
    classified correctly, of the images one step back, and of the images one step forth. All three kinds of images are
    computed by an inverse transform of all coefficients. `order`: the coefficients to try, (B, directions) int64;
    random by default.
    """
    model.eval()
    batch, numel = len(x), x[0].numel()
    if order is None:
        order = torch.stack([torch.randperm(numel, device=x.device)[:directions] for _ in range(batch)])
    bases = [_cosines(side).to(x) for side in x.shape[2:]]
    coefficients = torch.zeros_like(x)
    with torch.no_grad():
        last = _true_probability(model, x, y)
        for direction in range(min(directions, numel)):
            remaining = (model(_moved(x, coefficients, bases)).argmax(dim=1) == y).nonzero()[:, 0]
            if not len(remaining):
                break
            some_x, some_y, current = x[remaining], y[remaining], coefficients[remaining]
            step = torch.zeros_like(current).flatten(1)
            step = step.scatter(1, order[remaining, direction][:, None], eps).view_as(current)
            back = _true_probability(model, _moved(some_x, current - step, bases), some_y)
            forth = _true_probability(model, _moved(some_x, current + step, bases), some_y)
            goes_back = back < last[remaining]
            goes_forth = ~goes_back & (forth < last[remaining])
            sign = (goes_forth.float() - goes_back.float()).view(-1, 1, 1, 1)
            coefficients[remaining] = current + sign * step
            last[remaining] = torch.where(goes_back, back, torch.where(goes_forth, forth, last[remaining]))
    return _moved(x, coefficients, bases)


def _moved(x: Tensor, coefficients: Tensor, bases: list[Tensor]) -> Tensor:
    """Returns x plus the inverse transform of the coefficients, clamped to [0, 1]."""
    return (x + bases[0].T @ coefficients @ bases[1]).clamp(0, 1)


def _true_probability(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Returns the probability (B,) of each image's true class."""
    return F.softmax(model(x), dim=1).gather(1, y[:, None])[:, 0]


def _cosines(side: int) -> Tensor:
    """Returns the matrix of the orthonormal DCT-II, (side, side); row k is the k-th cosine."""
    centres = torch.arange(side) + 0.5
    basis = torch.cos(math.pi / side * torch.arange(side)[:, None] * centres) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    return basis


class DecodedImages(Dataset[tuple[Tensor, int]]):
    """A data set that decodes, resizes and crops an image whenever it is read, and can augment it."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], resize: int, size: int, rotation: float | None):
        """`rotation`: the largest angle in degrees of the augmentation, which also flips; None for no augmentation."""
        self.paths, self.labels, self.resize, self.size, self.rotation = paths, labels, resize, size, rotation

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Returns pixels (3, size, size) in [0, 1] and the label."""
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB").resize((self.resize, self.resize), Image.Resampling.BILINEAR)
        offset = round((self.resize - self.size) / 2)
        image = image.crop((offset, offset, offset + self.size, offset + self.size))
        if self.rotation is not None:
            angle, horizontal, vertical = torch.rand(3).tolist()
            image = image.rotate((2 * angle - 1) * self.rotation)
            if horizontal < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if vertical < 0.5:
                image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(self.size, self.size, 3)
        return pixels.permute(2, 0, 1).contiguous().float().div(255), self.labels[index]


def train_epoch(model: nn.Module, optimizer: Optimizer, loss: StepLoss, batches: Batches, device: torch.device) -> None:
    """Makes a training step on each batch."""
    for x, y in batches:
        training_step(model, optimizer, loss, x.to(device), y.to(device))


def validate(model: nn.Module, attack: Attack, batches: Batches, device: torch.device) -> tuple[float, float]:
    """Returns the clean and the robust accuracy, from 0 to 1."""
    correct, robust, images = 0, 0, 0
    for x_cpu, y_cpu in batches:
        x, y = x_cpu.to(device), y_cpu.to(device)
        correct += int(robust_images(model, x, y, lambda model, x, y: x, len(x)).sum())
        robust += int(robust_images(model, x, y, attack, len(x)).sum())
        images += len(x)
    return correct / images, robust / images
