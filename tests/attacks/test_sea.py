"""SEA against APGD up one loss, and against the published ensemble, written plainly, on small trained U-Nets."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advmia.attacks.auto_pgd import apgd
from advmia.attacks.common import value_and_gradient
from advmia.attacks.mask_ensemble import RunSettings, parts, sea
from advmia.attacks.mask_losses import all_wrong, segpgd_loss, wrong_share
from advmia.budgets import Budget, sea_budget
from advmia.losses import pixel_cross_entropy, soft_dice
from advmia.metrics import mask_overlap
from tests.support.networks import StubRng, gaussian, streams

SIZE, IMAGES, STEPS, EPS = 16, 8, 40, 4 / 255
BUDGET = Budget(EPS, STEPS, 0)


class TinyUNet(nn.Module):
    """A U-Net of two levels: (B, 3, H, W) -> (B, classes, H, W)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, padding=1)
        self.bottom = nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.Conv2d(24, classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.relu(self.down(x))
        coarse = F.relu(self.bottom(F.max_pool2d(fine, 2)))
        out: Tensor = self.up(torch.cat([fine, F.interpolate(coarse, scale_factor=2)], dim=1))
        return out


def discs(classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns noisy images with a faintly tinted disc of each class but 0, and their masks."""
    y = torch.zeros(IMAGES, SIZE, SIZE, dtype=torch.int64)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    centres = SIZE * torch.rand(IMAGES, classes, 2, 1, 1, generator=torch.Generator().manual_seed(seed))
    for k in range(1, classes):
        y[(rows - centres[:, k, 0]) ** 2 + (columns - centres[:, k, 1]) ** 2 < 2 * SIZE] = k
    tint = 0.08 * torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
    x = 0.5 + 0.05 * gaussian(IMAGES, 3, SIZE, SIZE, seed=seed) + tint[y].permute(0, 3, 1, 2)
    return x.clamp(0, 1), y


@cache
def victim(classes: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TinyUNet(classes)
    x, y = discs(classes, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


# --- the published ensemble -------------------------------------------------------------------------------------------


def plain_losses(z: Tensor, y: Tensor, name: str, share: float) -> tuple[Tensor, Tensor]:
    """Returns the loss that a run ascends, and the one by which it judges points, of each image."""
    ce, is_right = F.cross_entropy(z, y, reduction="none"), (z.argmax(dim=1) == y).float()
    one_hot, p = F.one_hot(y, z.shape[1]).permute(0, 3, 1, 2).float(), z.softmax(dim=1)
    middle = (p + one_hot) / 2
    js = (F.kl_div(middle.log(), p, reduction="none") + F.kl_div(middle.log(), one_hot, reduction="none")).sum(1) / 2
    logit = -(z / z.square().sum(dim=1, keepdim=True).sqrt() * one_hot).sum(dim=1)
    segpgd = (1 - share / 2) * is_right * ce + share / 2 * (1 - is_right) * ce
    ascended = {"masked CE": is_right * ce, "SegPGD": segpgd, "JS": js, "masked logit": is_right * logit}[name]
    judge = logit if name == "masked logit" else ce
    return ascended.flatten(1).mean(dim=1), judge.flatten(1).mean(dim=1)


def plain_apgd(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, eps: float, steps: int, name: str) -> Tensor:
    """Returns each image's point with the most wrong pixels, of the steps of one part of a run."""

    def look(x_adv: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor]:
        x_adv = x_adv.detach().requires_grad_(True)
        z = model(x_adv)
        ascended, judge = plain_losses(z, y, name, share)
        accuracy = (z.argmax(dim=1) == y).float().flatten(1).mean(dim=1)
        return judge.detach(), torch.autograd.grad(ascended.sum(), x_adv)[0], accuracy

    def clip(z: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(z, x - eps), x + eps).clamp(0, 1)

    now = before = start
    value, gradient, lowest = look(start, 0)
    best, best_value, best_gradient, worst = start, value, gradient, start
    size = torch.full((len(x), 1, 1, 1), 2 * eps)
    period, count, value_then, halved = max(int(0.22 * steps), 1), 0, value, torch.ones(len(x), dtype=torch.bool)
    rises = torch.zeros(len(x))
    for step in range(steps):
        weight = 0.75 if step else 1.0
        moved = clip(now + weight * (clip(now + size * gradient.sign()) - now) + (1 - weight) * (now - before))
        before, now, last_value = now, moved, value
        value, gradient, accuracy = look(now, (step + 1) / steps)
        rises, count = rises + (value > last_value), count + 1
        fewer = accuracy <= lowest
        lowest, worst = torch.minimum(accuracy, lowest), torch.where(fewer.view(-1, 1, 1, 1), now, worst)
        higher = value > best_value
        best, best_gradient = (
            torch.where(higher.view(-1, 1, 1, 1), new, old) for new, old in ((now, best), (gradient, best_gradient))
        )
        best_value = torch.where(higher, value, best_value)
        if count == period:
            stalls = (rises <= 0.75 * period) | (~halved & (value_then >= best_value))
            size = torch.where(stalls.view(-1, 1, 1, 1), size / 2, size)
            now, gradient = (
                torch.where(stalls.view(-1, 1, 1, 1), new, old) for new, old in ((best, now), (best_gradient, gradient))
            )
            halved, value_then, rises, count = stalls, best_value, torch.zeros(len(x)), 0
            period = max(period - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    return worst


class SameNoise(StubRng):
    """The same noise for every run, also of some of the images."""

    def take(self, indices: Tensor) -> SameNoise:
        return SameNoise(self.noise[indices])


def plain_sea(model: nn.Module, x: Tensor, y: Tensor, noise: Tensor, eps: float, steps: int) -> Tensor:
    """Returns, of four runs with three radii each, the point of each image that leaves the fewest pixels right."""
    candidates, early = [], int(0.3 * steps)
    for name in ("masked CE", "SegPGD", "JS", "masked logit"):
        point = (x + 2 * eps * (2 * noise - 1)).clamp(0, 1)
        for factor, count in ((2, early), (1.5, early), (1, steps - 2 * early)):
            point = (x + (point - x).clamp(-factor * eps, factor * eps)).clamp(0, 1)
            point = plain_apgd(model, x, y, point, factor * eps, count, name)
        candidates.append(point)
    harm = torch.stack([wrong_share(model(point), y) for point in candidates])
    return torch.stack(candidates)[harm.argmax(dim=0), torch.arange(len(x))]


def scores(model: nn.Module, x_adv: Tensor, y: Tensor) -> tuple[float, float]:
    """Returns the mean IoU and the pixel accuracy."""
    logits = model(x_adv)
    return float(mask_overlap(logits, y)[:, 1].mean()), 1 - float(wrong_share(logits, y).mean())


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3])
def test_strength(classes: int) -> None:
    """Fails if SEA leaves more right pixels than APGD up one loss, or a higher mean IoU than the published ensemble."""
    model, (x, y) = victim(classes), discs(classes, seed=0)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    x_adv = sea(BUDGET, pixel_cross_entropy)(model, x, y, rng=SameNoise(noise))
    iou, accuracy = scores(model, x_adv, y)
    assert (x_adv - x).abs().max() <= EPS + 1e-6
    clean_iou, clean_accuracy = scores(model, x, y)
    assert clean_iou > iou + 0.1 and 0.05 < accuracy < clean_accuracy - 0.05
    for objective in (pixel_cross_entropy, soft_dice):
        alone = apgd(BUDGET, objective)(model, x, y, rng=streams(IMAGES))
        assert accuracy <= scores(model, alone, y)[1]
    their_iou, their_accuracy = scores(model, plain_sea(model, x, y, noise, EPS, STEPS), y)
    assert iou <= their_iou + 0.005 and accuracy <= their_accuracy + 0.005


def test_parts() -> None:
    """Fails if a run's radii or steps are not the paper's, or a radius leaves the range of pixels."""
    assert [(part.grey_eps, part.steps) for part in parts(sea_budget(4))] == [(8, 90), (6, 90), (4, 120)]
    assert [(part.eps, part.steps) for part in parts(Budget(0.8, 10, 0))] == [(1, 3), (1, 3), (0.8, 4)]
    assert [part.steps for part in parts(Budget(EPS, 3, 0))] == [3]


def test_value_and_gradient_of_a_run() -> None:
    """Fails if a run judges points by the loss that it ascends, or SegPGD's weight does not follow the step."""
    model, (x, y) = victim(2), discs(2, seed=0)
    settings = RunSettings(pixel_cross_entropy, BUDGET, all_wrong, wrong_share, segpgd_loss)
    for step in (0, STEPS // 2, STEPS):
        _, value, gradient = value_and_gradient(model, x, y, settings.objective_at(step))
        assert torch.equal(value, pixel_cross_entropy(model(x), y))
        ascended = partial(segpgd_loss, wrong_weight=step / STEPS / 2)
        torch.testing.assert_close(gradient, value_and_gradient(model, x, y, ascended)[2])


def test_images_that_are_all_wrong_leave() -> None:
    """Fails if an image with no right pixel is attacked further: with the opposite mask, the first pass is enough."""
    model, (x, _) = victim(2), discs(2, seed=0)
    opposite, sizes = 1 - model(x).argmax(dim=1), list[int]()
    opposite[0] = 1 - opposite[0]  # all pixels are right
    hook = model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    x_adv = sea(Budget(1e-6, 2, 0), pixel_cross_entropy)(model, x, opposite, rng=streams(IMAGES))
    hook.remove()
    assert sizes == [IMAGES, 1, 1, IMAGES, *3 * [1, 1, 1, 1]]
    assert ((x_adv - x).abs() <= 1.1e-6).all()
