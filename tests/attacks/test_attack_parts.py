"""What APGD, FAB, Square and SimBA are made of, and their losses, each against an independent computation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.attacks.auto_pgd import _checkpoints, _Run, auto_ascend, likeliest_wrong, targeted_losses
from advmia.attacks.fab import to_plane
from advmia.attacks.simba_dct import SimBA, _directions, cosines, log_odds
from advmia.attacks.square_attack import Square, _Numbers, _side, _whole
from advmia.budgets import Budget
from advmia.losses import (
    confident_margin,
    cross_entropy,
    label_margin,
    margin,
    targeted_cross_entropy,
    targeted_dlr,
    targeted_margin,
)
from tests.support.networks import LinearNet, Wrapped, pixels, record_calls, streams

EPS = 8 / 255
Loss = Callable[[Tensor, Tensor], Tensor]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Scripted(nn.Module):
    """Gives the logits of a list, one entry a call, whatever the images; they hang on the image by a gradient of 1."""

    def __init__(self, script: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.script = [torch.tensor(logits) for logits in script]
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        logits = self.script[self.calls].repeat(len(x), 1)
        self.calls += 1
        pull = torch.zeros_like(logits)
        pull[:, 0] = 1
        return logits + (x - x.detach()).flatten(1).sum(dim=1, keepdim=True) * pull


# --- APGD ------------------------------------------------------------------------------------------------------------


def test_checkpoints_of_100_steps() -> None:
    """Fails when rounding moves one: in floating point 0.57 x 100 is a hair above 57. The list is the paper's."""
    assert list(_checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(_checkpoints(100).values()) == [22, 19, 16, 13, 10, 7, 6, 6]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 50, 1000])
def test_checkpoints_of_other_budgets(steps: int) -> None:
    """Fails when a checkpoint is beyond the last step, or the steps since the one before are miscounted."""
    checkpoints = _checkpoints(steps)
    at = np.array([0, *checkpoints])
    assert (np.diff(at) == list(checkpoints.values())).all() and (np.diff(at) > 0).all()
    assert at[1] == int(np.ceil(22 * steps / 100)) and at[-1] <= steps


def test_no_checkpoints_without_steps() -> None:
    assert _checkpoints(0) == {}


class Bowl(nn.Module):
    """-(x - peak)^2 / 2 of a single pixel, the same in each channel: the steps can be followed by hand."""

    def __init__(self, peak: float) -> None:
        super().__init__()
        self.peak = peak

    def forward(self, x: Tensor) -> Tensor:
        return -((x - self.peak) ** 2).flatten(1) / 2


def by_hand(start: float, x: float, eps: float, steps: int, peak: float) -> tuple[float, list[float]]:
    """Algorithm 1 for one pixel: (the best point, all points)."""

    def clip(z: float) -> float:
        return min(max(z, x - eps, 0.0), x + eps, 1.0)

    def f(z: float) -> float:
        return -((z - peak) ** 2) / 2

    shares = [0, 22]
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    at = [int(np.ceil(share * steps / 100)) for share in shares if share <= 100]
    size, before, now, best = 2 * eps, start, start, start
    rises, size_then, best_then, last, value = 0, size, f(start), 0, f(start)
    path = [start]
    for step in range(steps):
        if step in at and step > last:
            stalls = rises < 0.75 * (step - last) or (size == size_then and f(best) <= best_then)
            size_then, best_then, last, rises = size, f(best), step, 0
            if stalls:
                size, now, value = size / 2, best, f(best)
        z = clip(now + size * np.sign(peak - now))
        weight = 1.0 if step == 0 else 0.75
        moved = clip(now + weight * (z - now) + (1 - weight) * (now - before))
        before, now = now, moved
        rises += f(now) > value
        value = f(now)
        best = now if f(now) > f(best) else best
        path.append(now)
    return best, path


@pytest.mark.parametrize("peak", [0.43, 0.5021, 0.61, 0.9])
@pytest.mark.parametrize("steps", [1, 5, 20, 50])
def test_apgd_on_a_bowl(peak: float, steps: int) -> None:
    """Fails when the momentum, the halving, the return to the best or a checkpoint is another than algorithm 1's.

    Its peak is off the grid of full steps: only ever smaller ones come near.
    """
    eps, x = 0.125, torch.full((1, 3, 1, 1), 0.5, dtype=torch.float64)
    start = torch.full_like(x, 0.40625)
    model = Bowl(peak).double()
    calls = record_calls(model)
    best, done = auto_ascend(
        model, x, torch.zeros(1), lambda logits, _: logits.sum(dim=1), Budget(eps, steps, 0), start, None
    )
    expected, path = by_hand(0.40625, 0.5, eps, steps, peak)
    torch.testing.assert_close(torch.stack([call.x[0, 0, 0, 0] for call in calls]), torch.tensor(path).double())
    torch.testing.assert_close(best, torch.full_like(x, expected))
    assert not done.any()
    if steps == 50:
        assert abs(expected - min(peak, 0.625)) < 0.005


def test_a_fooling_point_survives_a_checkpoint() -> None:
    """Fails when a stalled image goes back to its best point before anyone asks whether the last one fools.

    The loss falls at the first step, which is a checkpoint, yet that point is misclassified.
    """
    x, y = torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64)
    model, losses = Scripted([(1.0, 0.0), (0.0, 1.0)]), iter([1.0, 0.0])
    calls = record_calls(model)

    def objective(logits: Tensor, y: Tensor) -> Tensor:
        return logits[:, 0] - logits[:, 0].detach() + next(losses)

    found, done = auto_ascend(model, x, y, objective, Budget(EPS, 1, 0), x.clone(), lambda z, y: margin(z, y) < 0)
    assert 1 in _checkpoints(1) and done.all()
    assert torch.equal(found, calls[1].x) and not torch.equal(found, x)


def test_adapt_halves_only_what_stalls() -> None:
    """Fails when one image's stall changes another's step, or an image that still rises goes back."""
    x = torch.full((3, 3, 1, 1), 0.5)
    model = Bowl(0.5)
    run = _Run.begin(model, x, torch.zeros(3), lambda logits, _: logits.sum(dim=1), x, 0.25)
    run.best = x + 0.1
    run.best_loss = torch.tensor([5.0, 5.0, 0.0])  # risen, risen, not
    run.rises = torch.tensor([4.0, 2.0, 4.0])  # of 4 steps: 3 are enough
    run.adapt(4)
    assert run.size.flatten().tolist() == [0.25, 0.125, 0.125]
    assert torch.equal(run.now[0], x[0]) and torch.equal(run.now[1:], run.best[1:])
    assert run.rises.tolist() == [0, 0, 0]
    run.rises = torch.tensor([15.0, 14.0, 20.0])  # of 20: 15 are enough
    run.best_loss = run.best_loss_then + 1
    run.adapt(20)
    assert run.size.flatten().tolist() == [0.25, 0.0625, 0.125]
    # Halved at the last checkpoint: no better best is no stall now.
    run.rises = torch.tensor([3.0, 3.0, 3.0])
    run.best_loss = run.best_loss_then.clone()
    run.adapt(4)
    assert run.size.flatten().tolist() == [0.125, 0.0625, 0.0625]


@pytest.mark.parametrize("classes", [2, 3, 4, 9, 10, 11, 15])
def test_likeliest_wrong(classes: int) -> None:
    """Fails when the label itself is a target, or the targets are not the nine likeliest, the likeliest first."""
    logits, y = random(8, classes), torch.arange(8) % classes
    found = likeliest_wrong(logits, y)
    for row, label, targets in zip(logits.tolist(), y.tolist(), found.tolist(), strict=True):
        wrong = sorted((other for other in range(classes) if other != label), key=lambda other: -row[other])
        assert targets == wrong[:9]


@pytest.mark.parametrize(
    ("classes", "losses"),
    [
        (2, (targeted_margin,)),
        (3, (targeted_margin, targeted_cross_entropy)),
        (4, (targeted_dlr, targeted_cross_entropy)),
        (20, (targeted_dlr, targeted_cross_entropy)),
    ],
)
def test_targeted_losses(classes: int, losses: tuple[Loss, ...]) -> None:
    """Fails when targeted DLR, which ranks four logits, meets fewer."""
    assert targeted_losses(classes) == losses


# --- FAB -------------------------------------------------------------------------------------------------------------


def plane_by_bisection(point: np.ndarray, normal: np.ndarray, value: float) -> np.ndarray:
    """The smallest r such that steps of r along the sign of the normal, cut off at the box, reach the plane."""
    sign = -np.sign(value) * np.sign(normal)

    def step(r: float) -> np.ndarray:
        return np.where(sign == 0, 0.0, (point + sign * r).clip(0, 1) - point)

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if abs(normal @ step(middle)) >= abs(value) else (middle, high)
    return step(high)


@pytest.mark.parametrize("kind", ["near", "box-limited", "unreachable", "sparse"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_to_plane_against_bisection(kind: str, seed: int) -> None:
    """Fails when a coordinate leaves the box, when what others cannot give is not made up, or the sign is wrong."""
    rng = np.random.default_rng(seed)
    batch, shape = 6, (3, 4, 5)
    point = rng.random((batch, *shape))
    point[:, :, 0] = 0  # a black border
    point[:, :, 1, 0] = 1
    normal = rng.normal(size=(batch, *shape)) * 10.0 ** rng.integers(-3, 4, (batch, 1, 1, 1))
    if kind == "sparse":
        normal[rng.random(normal.shape) < 0.7] = 0
    share = {"near": 0.01, "box-limited": 0.4, "unreachable": 3.0, "sparse": 0.1}[kind]
    value = share * np.abs(normal).sum(axis=(1, 2, 3)) * rng.choice([-1, 1], batch)
    tensors = (torch.from_numpy(each).float() for each in (point, normal, value))
    step = to_plane(*tensors).double().numpy()
    assert ((point + step > -1e-6) & (point + step < 1 + 1e-6)).all()
    for i in range(batch):
        expected = plane_by_bisection(point[i].ravel(), normal[i].ravel(), value[i])
        np.testing.assert_allclose(step[i].ravel(), expected, atol=2e-6)
        reached = value[i] + normal[i].ravel() @ step[i].ravel()
        if kind == "unreachable":
            assert np.sign(reached) == np.sign(value[i])
            assert (np.isclose(point[i] + step[i], 0, atol=1e-6) | np.isclose(point[i] + step[i], 1, atol=1e-6)).all()
        elif kind == "near":
            assert abs(reached) < 1e-5 * np.abs(normal[i]).sum()


def test_to_plane_is_the_smallest_step() -> None:
    """Fails when another step reaches the plane by less: of many random ones in a smaller cube none does."""
    rng = np.random.default_rng(0)
    point, normal = rng.random((1, 1, 2, 3)), rng.normal(size=(1, 1, 2, 3))
    value = 0.15 * np.abs(normal).sum()
    step = to_plane(*(torch.from_numpy(np.asarray(each)).float() for each in (point, normal, [value]))).numpy()
    radius = 0.999 * np.abs(step).max()
    corners = rng.choice([-radius, radius], (2000, 6))
    inside = (point.ravel() + corners).clip(0, 1) - point.ravel()
    assert (value + inside @ normal.ravel() > 0).all()
    assert abs(value + normal.ravel() @ step.ravel()) < 1e-5


def test_to_plane_without_a_way() -> None:
    """Fails by dividing by zero: a gradient that vanishes, a point on the plane, a corner that has no room."""
    point = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).repeat(3, 1, 1, 1)
    normal = random(3, 3, 4, 4)
    normal[0] = 0
    value = torch.tensor([1.0, 0.0, 1.0])
    point[2] = (normal[2] < 0).float()  # down the gradient lies the box's end
    assert torch.equal(to_plane(point, normal, value), torch.zeros_like(point))


# --- Square ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "share"),
    [
        *[(1, 0.8), (10, 0.8), (11, 0.4), (50, 0.4), (51, 0.2), (201, 0.1), (500, 0.1), (501, 0.05), (1001, 0.025)],
        *[(2001, 0.0125), (4000, 0.0125), (4001, 0.00625), (6001, 0.003125), (8001, 0.0015625), (9999, 0.0015625)],
    ],
)
def test_side_of_the_square(query: int, share: float) -> None:
    """Fails when the share is halved too early, too late, or with the number of queries: section 5's table."""
    assert _side(query, 224, 224) == max(round((share * 224 * 224) ** 0.5), 1)
    assert _side(query, 8, 8) == max(round((share * 64) ** 0.5), 1)


def test_the_square_fits_a_narrow_image() -> None:
    """Fails when the side exceeds the shorter edge, or is 0."""
    assert _side(1, 4, 100) == 4 and _side(1, 100, 4) == 4
    assert _side(9000, 4, 4) == 1


def test_whole_numbers_are_even_and_within_range() -> None:
    """Fails when the last place is never taken, or one beyond it is."""
    uniform = torch.rand(7000, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(_whole(uniform, 6)[:, 0], minlength=7)
    assert len(counts) == 7 and counts.min() > 850 and counts.max() < 1150
    edges = torch.tensor([0.0, 1 - 2**-24])
    assert _whole(edges, 6)[:, 0].tolist() == [0, 6] and _whole(edges, 0)[:, 0].tolist() == [0, 0]


def test_proposals_of_square() -> None:
    """Fails when the stripes are not vertical, or a square is of another size, sign or place than one per channel."""
    attack = Square(Budget(EPS, 100, 0))
    x = torch.full((8, 3, 10, 12), 0.5)
    numbers = _Numbers(streams(8), x)
    stripes = attack._proposal(0, x, x, numbers) - x
    torch.testing.assert_close(stripes.abs(), torch.full_like(x, EPS))
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    assert (stripes[:, :, 0].diff(dim=2) != 0).any() and (stripes[:, 0] != stripes[:, 1]).any()
    for query in (1, 30, 300):
        side = _side(query, 10, 12)
        change = attack._proposal(query, x, x, numbers) - x
        for image in change:
            rows, columns = (image != 0).any(dim=0).nonzero().unbind(dim=1)
            assert rows.max() - rows.min() + 1 == side and columns.max() - columns.min() + 1 == side
            square = image[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            torch.testing.assert_close(square.abs(), torch.full_like(square, EPS))
            assert all(len(channel.unique()) == 1 for channel in square)


def test_square_keeps_what_lowers_the_margin() -> None:
    """Fails when a proposal that raises the margin is kept, or the next one starts from it."""
    model = Scripted([(9.0, 0.0), (5.0, 0.0), (6.0, 0.0), (4.0, 0.0), (4.5, 0.0)])
    calls = record_calls(model)
    x = torch.full((1, 3, 8, 8), 0.5)
    x_adv = ATTACKS["square"].build(Budget(EPS, 4, 0), margin)(model, x, torch.tensor([0]), rng=streams(1))
    assert model.calls == 5 and torch.equal(x_adv, calls[3].x)


def test_square_keeps_a_fooling_point_of_a_lesser_lead() -> None:
    """Fails when an image stops at a fooling point that is then not kept.

    The first proposal fools by less than rounding may, for one of its logits is large; the second fools clearly.
    """
    model = Scripted([(9.0, 0.0, 0.0), (0.0, 9e-4, -100.0), (0.0, 1e-4, 0.0)])
    calls = record_calls(model)
    x = torch.full((1, 3, 8, 8), 0.5)
    x_adv = ATTACKS["square"].build(Budget(EPS, 2, 0), margin)(model, x, torch.tensor([0]), rng=streams(1))
    assert torch.equal(x_adv, calls[2].x) and not torch.equal(calls[1].x, calls[2].x)


# --- SimBA -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 7, 32, 224])
def test_cosines_are_orthonormal(length: int) -> None:
    """Fails when the first row, which is constant, is not scaled as the others."""
    basis = cosines(length).double()
    torch.testing.assert_close(basis @ basis.T, torch.eye(length).double(), atol=1e-5, rtol=0)
    assert basis[0].unique().numel() == 1


def inverse_dct(coefficients: np.ndarray) -> np.ndarray:
    """Of a plane, by the sum that defines it."""
    height, width = coefficients.shape
    rows, columns = np.arange(height), np.arange(width)
    plane = np.zeros((height, width))
    for u in range(height):
        for v in range(width):
            scale = np.sqrt((1 if u == 0 else 2) / height * (1 if v == 0 else 2) / width)
            wave = np.outer(np.cos(np.pi * (rows + 0.5) * u / height), np.cos(np.pi * (columns + 0.5) * v / width))
            plane += coefficients[u, v] * scale * wave
    return plane


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_direction_is_one_coefficient_of_the_dct(seed: int) -> None:
    """Fails when rows and columns, or channels, change places: the image is not square. Its step has the L2 norm eps.

    The network's odds fall at the first step, back along the direction.
    """
    eps, x = 0.3, torch.full((1, 3, 4, 6), 0.5)
    model = Scripted([(9.0, 0.0), (8.0, 0.0)])
    x_adv = SimBA(Budget(eps, 1, eps))(model, x, torch.tensor([0]), rng=streams(1, seed))
    number = int(_directions(x, 1, streams(1, seed)))
    coefficients = np.zeros((3, 4, 6))
    coefficients.flat[number] = -eps
    expected = np.stack([inverse_dct(plane) for plane in coefficients])
    np.testing.assert_allclose((x_adv - x)[0].numpy(), expected, atol=1e-6)
    assert float((x_adv - x).norm()) == pytest.approx(eps, rel=1e-5)


def test_directions_are_all_different_and_in_random_order() -> None:
    """Fails when a direction is tried twice, one is left out, or all images share an order."""
    x = torch.zeros(2, 3, 4, 5)
    order = _directions(x, 1000, streams(2))
    assert all(sorted(row.tolist()) == list(range(60)) for row in order) and not torch.equal(order[0], order[1])
    assert torch.equal(_directions(x, 7, streams(2)), order[:, :7])


@pytest.mark.parametrize(
    ("odds", "queries", "kept"),
    [
        ((9, 8, 7, 6), 3, (1, 2, 3)),  # each step back helps
        ((9, 10, 8, 7), 3, (2, 3)),  # the first direction helps forth only
        ((9, 9, 9, 8, 10, 7), 5, (3, 5)),  # the first direction not at all: equal odds are no help
        ((9, 8, -1), 2, (1, 2)),  # fooled, and done
    ],
)
def test_steps_and_queries_of_simba(odds: tuple[int, ...], queries: int, kept: tuple[int, ...]) -> None:
    """Fails when a step that does not lower p_y is kept, the next starts elsewhere, or queries are miscounted."""
    count = {(9, 8, 7, 6): 3, (9, 10, 8, 7): 2, (9, 9, 9, 8, 10, 7): 3, (9, 8, -1): 10}[odds]
    model = Scripted([(float(lead), 0.0) for lead in odds])
    calls = record_calls(model)
    x, attack = torch.full((1, 3, 4, 4), 0.5), SimBA(Budget(0.1, count, 0.1))
    x_adv = attack(model, x, torch.tensor([0]), rng=streams(1))
    assert attack.notes["queries"].tolist() == [queries] and len(calls) == queries + 1
    assert torch.equal(x_adv, calls[kept[-1]].x)
    for before, after in zip((0, *kept), kept, strict=False):
        assert float((calls[after].x - calls[before].x).norm()) == pytest.approx(0.1, rel=1e-4)


def test_simba_goes_beyond_eps() -> None:
    """States SimBA's exemption: eps is a step's size; on a network that looks at one pixel, many steps add up there.

    Each of the 16 directions of a channel reaches that pixel, and each is kept one way or the other.
    """
    x, eps = torch.full((1, 3, 4, 4), 0.5), 0.05

    model = Wrapped(nn.Identity(), lambda x: torch.stack([40 + x[:, 0, 0, 0], 0 * x[:, 0, 0, 0]], dim=1).double())
    x_adv = SimBA(Budget(eps, 48, eps))(model, x, torch.tensor([0]), rng=streams(1))
    reach = np.abs(np.outer(cosines(4)[:, 0], cosines(4)[:, 0])).sum()
    assert float(x[0, 0, 0, 0] - x_adv[0, 0, 0, 0]) == pytest.approx(eps * reach, rel=1e-3)
    assert eps * reach > 3 * eps


def test_simba_lowers_the_probability() -> None:
    """Fails when a kept step raises p_y, on a network with many classes; and log odds order images as p_y does."""
    x, y = pixels(4, classes=4)
    model = LinearNet(4, 16)
    with torch.no_grad():
        model.weight.div_(20)
        y = model(x).argmax(dim=1)
        x_adv = SimBA(Budget(0.2, 40, 0.2))(model, x, y, rng=streams(4))
        before, after = (model(each).softmax(dim=1).gather(1, y[:, None]) for each in (x, x_adv))
        assert (after < before).all()
    p = random(50, 4).softmax(dim=1)
    torch.testing.assert_close(log_odds(p.log(), torch.ones(50, dtype=torch.int64)), (p[:, 1] / (1 - p[:, 1])).log())


# --- losses ----------------------------------------------------------------------------------------------------------


def plain_margin(logits: Tensor, y: int) -> Tensor:
    return logits[y] - torch.stack([z for k, z in enumerate(logits) if k != y]).max()


def plain_confident_margin(logits: Tensor, y: int) -> Tensor:
    lead = plain_margin(logits, y) + 50
    return -lead if lead > 0 else 0 * lead


def plain_dlr(logits: Tensor, y: int, target: int) -> Tensor:
    ranked = logits.sort(descending=True).values
    return -(logits[y] - logits[target]) / (ranked[0] - 0.5 * (ranked[2] + ranked[3]))


def same_values_and_gradients(loss: Loss, y: Tensor, plain: Callable[[Tensor, int], Tensor], logits: Tensor) -> None:
    """`plain` takes one image's logits and its place."""
    logits = logits.clone().requires_grad_(True)
    found = loss(logits, y)
    expected = torch.stack([plain(row, place) for place, row in enumerate(logits)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(each.sum(), logits)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert gradients[0].isfinite().all()


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_margins(classes: int, scale: float) -> None:
    """Fails when the true class counts among the others, or CW's confidence is cut off elsewhere than at 50."""
    logits, y = scale * random(30, classes), torch.arange(30) % classes
    for loss, plain in ((margin, plain_margin), (confident_margin, plain_confident_margin)):
        same_values_and_gradients(loss, y, lambda row, place, f=plain: f(row, int(y[place])), logits)
    assert (confident_margin(logits, y) == 0).any() == (scale > 1)


@pytest.mark.parametrize("classes", [4, 5, 9])
def test_targeted_losses_against_plain_ones(classes: int) -> None:
    """Fails when label and target change places, or the third and fourth are ranked without the label or target."""
    logits, y = 3 * random(30, classes), torch.arange(30) % classes
    pair = torch.stack([y, (y + 1 + torch.arange(30) % (classes - 1)) % classes], dim=1)
    plain: dict[Loss, Callable[[Tensor, int, int], Tensor]] = {
        targeted_dlr: plain_dlr,
        targeted_margin: lambda row, label, target: row[target] - row[label],
        targeted_cross_entropy: lambda row, label, target: row[target] - row.exp().sum().log(),
    }
    for loss, by_pair in plain.items():
        same_values_and_gradients(loss, pair, lambda row, place, f=by_pair: f(row, *pair[place].tolist()), logits)


def test_dlr_is_blind_to_shift_and_scale() -> None:
    """Fails when one of the four logits is left out of the denominator, or the guard against 0 is too large."""
    logits = random(30, 6)
    pair = torch.tensor([[0, 3]]).repeat(30, 1)
    expected = targeted_dlr(logits, pair)
    for other in (logits * 1e4, logits * 1e-3, logits + 5):
        torch.testing.assert_close(targeted_dlr(other, pair), expected, rtol=1e-3, atol=1e-4)


def test_label_margin() -> None:
    """Fails when a label that is absent counts as one that is present, or a wrong one no more."""
    logits, y = 3 * random(20, 5), (random(20, 5, seed=1) > 0).float()

    def plain(row: Tensor, place: int) -> Tensor:
        return -sum(z if present else -z for z, present in zip(row, y[place] > 0, strict=True)) / 5

    same_values_and_gradients(label_margin, y, plain, logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scored_in_float32(dtype: torch.dtype) -> None:
    """Fails where a difference of two halves is taken in half precision."""
    logits, y = (40 * random(20, 5)).to(dtype), torch.arange(20) % 5
    pair = torch.stack([y, (y + 1) % 5], dim=1)
    cases = [(loss, y) for loss in (margin, confident_margin, cross_entropy)]
    cases += [(loss, pair) for loss in (targeted_margin, targeted_dlr, targeted_cross_entropy)]
    for loss, labels in [*cases, (label_margin, (logits > 0).float())]:
        found = loss(logits, labels)
        assert found.dtype == torch.float32
        assert torch.equal(found, loss(logits.float(), labels))
