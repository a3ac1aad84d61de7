"""MI-FGSM and its input diversity: where images are placed, and that masks are put back.

Its steps are compared with another library's in test_peers.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advmia.attacks.common import input_gradient
from advmia.attacks.momentum import Placement, dimifgsm, diverse_gradient, mifgsm, placements, shrunk_side
from advmia.budgets import Budget, momentum_budget
from advmia.losses import cross_entropy, pixel_cross_entropy
from advmia.tasks import SEGMENTATION
from tests.support.networks import gaussian, network, pixels, right, share_equal, streams, targets, trained


def test_where_images_are_placed() -> None:
    """Fails if a side is outside 90 to 100 %, an image leaves its frame, or not about half of the images stay."""
    assert [shrunk_side(20, u) for u in (0, 0.49, 0.5, 0.999)] == [18, 18, 19, 19]
    assert shrunk_side(1, 0) == 1
    x = torch.zeros(200, 3, 40, 20)
    found = [place for place in placements(x, streams(200), 1)[0] if place is not None]
    assert 70 < len(found) < 130
    assert {place.height for place in found} == set(range(36, 40)) and {place.width for place in found} == {18, 19}
    assert {place.top for place in found} > {0, 1} and len({place.left for place in found}) == 2
    for place in found:
        assert 0 <= place.top < 40 - place.height and 0 <= place.left < 20 - place.width


def test_shrink_and_restore() -> None:
    """Fails if the frame is not black, or what is restored is not where it was."""
    image = torch.linspace(0.2, 0.8, 20).view(1, 1, 20, 1).expand(1, 3, 20, 20)
    place = Placement(18, 19, 1, 0)
    shrunk = place.shrink(image)
    assert shrunk.shape == image.shape
    assert (shrunk[:, :, 0] == 0).all() and (shrunk[:, :, 19] == 0).all() and (shrunk[..., 19] == 0).all()
    assert (shrunk[:, :, 1:19, :19] > 0.1).all()
    torch.testing.assert_close(place.restore(shrunk), image, atol=0.01, rtol=0)


def test_masks_are_put_back() -> None:
    """Fails if logits of a shrunk image are compared with the mask as it is: each pixel then has another's class."""

    class Pixelwise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x[:, :1], 1 - x[:, :1]], dim=1) * 20

    y = targets(SEGMENTATION, 1, 5, 2).repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    x = (1 - y)[:, None].float().expand(-1, 3, -1, -1).contiguous()
    losses: list[float] = []

    def objective(logits: Tensor, y: Tensor) -> Tensor:
        losses.append(float(pixel_cross_entropy(logits.detach(), y)))
        return pixel_cross_entropy(logits, y)

    diverse_gradient(Pixelwise(), x, y, objective, [Placement(36, 36, 3, 0)])
    astray = float(pixel_cross_entropy(Pixelwise()(Placement(36, 36, 3, 0).shrink(x)), y))
    assert losses[0] < astray / 3


def test_gradient_without_and_with_placements() -> None:
    """Fails if an image that stays gets another gradient, or images of one batch exchange theirs."""
    model, (x, y) = trained(), pixels(4)
    place = Placement(14, 15, 1, 0)
    plain = input_gradient(model, x, y, cross_entropy)
    mixed = diverse_gradient(model, x, y, cross_entropy, [None, place, None, place])
    alone = diverse_gradient(model, x[1:2], y[1:2], cross_entropy, [place])
    torch.testing.assert_close(mixed[[0, 2]], plain[[0, 2]])
    torch.testing.assert_close(mixed[1:2], alone)
    assert not torch.allclose(mixed[1], plain[1])


def test_an_image_without_gradient() -> None:
    """Fails if a gradient of zero is divided by its mean of zero, so that x_adv is no number."""
    x, y = pixels(2)
    flat = mifgsm(Budget(8 / 255, 3, 1 / 255), lambda logits, y: 0 * cross_entropy(logits, y))
    assert torch.equal(flat(trained(), x, y, rng=streams(2)), x)


def test_transfer() -> None:
    """Fails if what is made on one network misleads no other, or diversity draws from the batch."""
    source, target, (x, y) = trained(), trained(seed=1), pixels(48)
    for attack in (mifgsm, dimifgsm):
        x_adv = attack(momentum_budget(8), cross_entropy)(source, x, y, rng=streams(48))
        assert right(target, x_adv, y).sum() <= right(target, x, y).sum() - 5
    part = dimifgsm(momentum_budget(8), cross_entropy)(source, x[:3], y[:3], rng=streams(3))
    assert share_equal(part, x_adv[:3]) > 0.99


def test_the_steps_are_the_budgets() -> None:
    """Fails if ten steps do not reach eps: on a network with constant gradients, each step counts."""
    (x, y), weight = pixels(2, classes=2), gaussian(2, 3 * 16 * 16)

    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ weight.T / 100

    x_adv = mifgsm(momentum_budget(8), cross_entropy)(Linear(), x.clamp(0.1, 0.9), y, rng=streams(2))
    change = (x_adv - x.clamp(0.1, 0.9)).abs()
    torch.testing.assert_close(change, torch.full_like(x, 8 / 255))
    model = network("small-segmenter").eval()
    masks = targets(SEGMENTATION, 2, 16, 3)
    assert dimifgsm(momentum_budget(8), pixel_cross_entropy)(model, x, masks, rng=streams(2)).shape == x.shape
