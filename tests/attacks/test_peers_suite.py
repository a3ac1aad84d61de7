"""CW and AutoAttack's parts against torchattacks, pyautoattack and foolbox: at least as strong at the same budget.

Random numbers differ between libraries, so the success is compared, on 128 images of which some withstand each attack.
FGSM, PGD and TRADES' ascent, which can be compared to the bit, are in test_peers.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.attacks.auto_pgd import apgd
from advmia.attacks.fab import fab_t
from advmia.attacks.gradient import cw
from advmia.attacks.square_attack import square
from advmia.budgets import Budget, cw_budget, pgd_budget
from advmia.losses import confident_margin, cross_entropy
from tests.support.networks import StubRng, Wrapped, pixels, record_calls, right, share_equal, streams, trained

torchattacks = pytest.importorskip("torchattacks")
foolbox = pytest.importorskip("foolbox")
pyautoattack = pytest.importorskip("pyautoattack")
autopgd_base = pytest.importorskip("pyautoattack.autopgd_base")
fab_pt = pytest.importorskip("pyautoattack.fab_pt")
peer_square = pytest.importorskip("pyautoattack.square")

pytestmark = pytest.mark.slow

IMAGES = 128
SLACK = 1  # images: random starts or rounding may decide on one of them
SCALE = 1e4  # of logits: the softmax is then 1 for the largest, and the cross-entropy has no gradient
STEPS = {"apgd-ce": 50, "apgd-t": 50, "fab-t": 50, "square": 500, "aa": 10, "cw": 30}  # Square's are queries
PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")


@dataclass(frozen=True)
class Victim:
    """A small network, and an eps in grey levels at which some images withstand attacks, but not all."""

    classes: int
    hardened: float = 0
    grey_eps: int = 6

    @property
    def eps(self) -> float:
        return self.grey_eps / 255

    def model(self) -> nn.Module:
        return trained(self.classes, hardened=self.hardened)

    def data(self) -> tuple[Tensor, Tensor]:
        return pixels(IMAGES, classes=self.classes)

    def left(self, x_adv: Tensor) -> int:
        """Returns how many images the network itself still classifies correctly, whatever network was attacked."""
        return int(right(self.model(), x_adv, self.data()[1]).sum())

    def __str__(self) -> str:
        return f"{self.classes} classes{', hardened' if self.hardened else ''}"


NATURAL = [Victim(2), Victim(3), Victim(4)]
HARDENED = [Victim(2, hardened=6), Victim(4, hardened=6)]
victims = pytest.mark.parametrize("victim", NATURAL + HARDENED, ids=str)
natural = pytest.mark.parametrize("victim", NATURAL, ids=str)


@cache
def ours(victim: Victim, name: str, scale: float = 1) -> int:
    """Returns how many images withstand our attack on the logits times `scale`."""
    x, y = victim.data()
    model = Wrapped(victim.model(), lambda logits: scale * logits).eval()
    objective = confident_margin if name == "cw" else cross_entropy
    budget = cw_budget(victim.grey_eps) if name == "cw" else Budget(victim.eps, STEPS[name], 0)
    return victim.left(ATTACKS[name].build(budget, objective)(model, x, y, rng=streams(IMAGES)))


def peer_part(name: str, model: nn.Module, eps: float, steps: int, classes: int) -> Any:
    """Returns one attack of pyautoattack, with as many targets as there are wrong classes, instead of nine."""
    common = {"norm": "Linf", "eps": eps, "seed": 0, "device": "cpu"}
    if name == "apgd-ce":
        return autopgd_base.APGDAttack(model, n_iter=steps, **common)
    if name == "apgd-t":
        return autopgd_base.APGDAttack_targeted(model, n_iter=steps, n_target_classes=classes - 1, **common)
    if name == "fab-t":
        return fab_pt.FABAttack_PT(model, n_iter=steps, targeted=True, n_target_classes=classes - 1, **common)
    return peer_square.SquareAttack(model, n_queries=steps, resc_schedule=False, **common)


def peer_suite(victim: Victim, parts: tuple[str, ...]) -> Tensor:
    """Returns the adversarial images of pyautoattack's AutoAttack with our numbers of steps and queries."""
    model = victim.model()
    suite = pyautoattack.AutoAttack(model, version="custom", attacks=list(parts), eps=victim.eps, norm="Linf", seed=0)
    names = {"apgd-ce": "apgd", "apgd-t": "apgd_targeted", "fab-t": "fab", "square": "square"}
    for part in parts:
        steps = STEPS["square"] if part == "square" else STEPS["aa"]
        setattr(suite, names[part], peer_part(part, model, victim.eps, steps, victim.classes))
    return suite.run_standard_evaluation(*victim.data(), batch_size=IMAGES)[0]


@cache
def theirs(victim: Victim, name: str, scale: float = 1) -> int:
    """Returns how many images withstand pyautoattack's attack; its AutoAttack has APGD-T only for 4 classes or more."""
    x, y = victim.data()
    if name == "aa":
        return victim.left(peer_suite(victim, tuple(p for p in PARTS if p != "apgd-t" or victim.classes >= 4)))
    model = Wrapped(victim.model(), lambda logits: scale * logits).eval()
    return victim.left(peer_part(name, model, victim.eps, STEPS[name], victim.classes).perturb(x, y))


def assert_some_survive(victim: Victim, *left: int) -> None:
    """Checks that some images withstand the attack, but not all: otherwise the comparison shows nothing."""
    clean = victim.left(victim.data()[0])
    assert all(0.02 * clean < count < 0.95 * clean for count in left)


# --- at least as strong ----------------------------------------------------------------------------------------------


@victims
@pytest.mark.parametrize("name", ["apgd-ce", "fab-t", "square", "aa"])
def test_at_least_as_strong_as_the_peer(victim: Victim, name: str) -> None:
    """Fails if an attack misleads on fewer images than the published code, e.g. by a wrong projection or few queries.

    It does not test how APGD chooses its step sizes, because these networks are smooth; the loss test below does.
    """
    assert STEPS["square"] == 50 * STEPS["aa"]  # so our AutoAttack has as many queries as the peer's
    assert_some_survive(victim, ours(victim, name), theirs(victim, name))
    assert ours(victim, name) <= theirs(victim, name) + SLACK


@pytest.mark.parametrize("victim", [v for v in NATURAL + HARDENED if v.classes >= 4], ids=str)
def test_targeted_apgd_is_at_least_as_strong_as_the_peer(victim: Victim) -> None:
    """Fails if APGD-T misleads on fewer images than the peer's, which needs four classes."""
    assert_some_survive(victim, ours(victim, "apgd-t"), theirs(victim, "apgd-t"))
    assert ours(victim, "apgd-t") <= theirs(victim, "apgd-t") + SLACK


@pytest.mark.parametrize("victim", [Victim(4), Victim(4, hardened=6)], ids=str)
def test_apgd_climbs_as_high_as_the_peer(victim: Victim) -> None:
    """Fails if step sizes are never halved: the loss then ends 0.005 to 0.01 lower.

    Two seeds of the peer differ by 0.0006 at most. Momentum and the return to the best point make no difference here.
    """
    model = victim.model()
    x, y = victim.data()
    x, y = x[right(model, x, y)], y[right(model, x, y)]
    x_adv = apgd(Budget(victim.eps, 50, 0), cross_entropy)(model, x, y, rng=streams(len(x)))
    x_theirs = peer_part("apgd-ce", model, victim.eps, 50, victim.classes).perturb(x, y, best_loss=True)
    with torch.no_grad():
        own, theirs, clean = (cross_entropy(model(images), y).mean() for images in (x_adv, x_theirs, x))
    assert theirs > clean + 0.5
    assert own > theirs - 0.002


@pytest.mark.parametrize("victim", HARDENED, ids=str)
def test_the_hardened_network_is_the_robust_one(victim: Victim) -> None:
    """Fails if the adversarially trained networks are not more robust than the others."""
    for count in (ours, theirs):
        assert count(victim, "aa") > count(Victim(victim.classes), "aa") + 8


@pytest.mark.parametrize("classes", [2, 3])
def test_fab_comes_as_near_as_the_peers(classes: int) -> None:
    """Fails if the nearest misclassified point of an image is over 2 % further from x than the peer's.

    They are up to 20 % further away if a point is moved back towards x only when it is clearly beyond the boundary: the
    closer the steps come to the boundary, the less far beyond it they end. Our eps is so small that the search takes
    all steps; its points are the inputs of the network.
    """
    model = trained(classes)
    x, y = pixels(IMAGES, classes=classes)
    x, y = x[right(model, x, y)], y[right(model, x, y)]
    calls = record_calls(model)
    fab_t(Budget(1e-6, 50, 0), cross_entropy)(model, x, y, rng=streams(len(x)))
    points = torch.stack([call.x for call in calls[2::2]])  # after the first look: a gradient, a point, ...
    assert len(points) == 50 * (classes - 1) and points.shape[1:] == x.shape
    distances = (points - x).abs().flatten(2).amax(dim=2)
    misled = torch.stack([~right(model, point, y) for point in points])
    nearest = torch.where(misled, distances, torch.inf).amin(dim=0)

    x_adv = peer_part("fab-t", model, 1.0, 50, classes).perturb(x, y)
    assert not right(model, x_adv, y).any()
    assert (nearest <= 1.02 * (x_adv - x).abs().flatten(1).amax(dim=1)).all()


# --- AutoAttack of the peers, and few classes ------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes_with_survivors(classes: int) -> None:
    """Fails if our AutoAttack raises with few classes, like pyautoattack's standard version, or is too weak.

    The peer's targeted loss ranks four logits, and it has nine targets. It raises only if images withstand APGD-CE: not
    with a large eps, where the network is weak.
    """
    model = trained(classes)
    x, y = pixels(16, classes=classes)
    eps = 3 / 255
    after_ce = peer_part("apgd-ce", model, eps, 10, classes).perturb(x, y)
    assert right(model, after_ce, y).any()
    with pytest.raises(IndexError):
        pyautoattack.AutoAttack(model, eps=eps, norm="Linf", seed=0).run_standard_evaluation(x, y)
    x_weak, _ = pyautoattack.AutoAttack(model, eps=0.25, norm="Linf", seed=0).run_standard_evaluation(x, y)
    assert not right(model, x_weak, y).any()

    x_adv = ATTACKS["aa"].build(Budget(eps, 4, 0), cross_entropy)(model, x, y, rng=streams(16))
    assert 0 < right(model, x_adv, y).sum() <= right(model, after_ce, y).sum()


def test_why_the_autoattack_of_torchattacks_is_no_measure() -> None:
    """Fails if a later version runs what the paper runs: ours can then be compared with it.

    It runs APGD and FAB with 10 steps instead of 100, and Square with the rescaled schedule. So our Square is compared
    only with peers without rescaling: in `test_at_least_as_strong_as_the_peer` and in the next test.
    """
    suite = torchattacks.AutoAttack(trained(4), eps=6 / 255, n_classes=4)._autoattack.attacks
    assert [type(attack).__name__ for attack in suite] == ["APGD", "APGDT", "FAB", "Square"]
    assert [attack.steps for attack in suite[:3]] == [10, 10, 10]
    assert suite[3].rescale_schedule and suite[3].n_queries == 5000
    theirs = pyautoattack.AutoAttack(trained(4), eps=6 / 255, norm="Linf", seed=0)
    assert theirs.apgd.n_iter == theirs.apgd_targeted.n_iter == theirs.fab.n_iter == 100
    assert not theirs.square.rescale_schedule and theirs.square.n_queries == 5000


@pytest.mark.parametrize("victim", [Victim(3), Victim(4), Victim(4, hardened=6)], ids=str)
def test_few_queries_of_square_without_rescaling(victim: Victim) -> None:
    """Fails if our schedule is rescaled to the number of queries: with 300 the squares are soon single pixels."""
    x, y = victim.data()
    settings = {"eps": victim.eps, "n_queries": 300}
    rescaled = victim.left(torchattacks.Square(victim.model(), **settings, resc_schedule=True)(x, y))
    unscaled = victim.left(torchattacks.Square(victim.model(), **settings, resc_schedule=False)(x, y))
    own = victim.left(square(Budget(victim.eps, 300, 0), cross_entropy)(victim.model(), x, y, rng=streams(IMAGES)))
    assert_some_survive(victim, rescaled, unscaled, own)
    assert rescaled > unscaled + 4
    assert own <= unscaled + SLACK


# --- Square's squares ------------------------------------------------------------------------------------------------


def shown_beside_stripes(calls: list[Tensor]) -> Tensor:
    """Returns where (H, W) any query differs from the first stripes, for a network whose margin never falls."""
    stripes, *squares = calls
    return torch.stack([(images != stripes).any(dim=1) for images in squares]).flatten(0, 1).any(dim=0)


def test_squares_reach_the_last_row_and_column() -> None:
    """Fails if a square's corner is drawn from 0 to w - h - 1, as by the peers, and not to w - h as in algorithm 2.

    No square then contains the last row or column, which keep their first stripes. Our Square is therefore stronger
    than the peers' in the tests above; with the same restriction, as many images withstand it.
    """
    model = Wrapped(nn.Flatten(), lambda flat: 0 * flat[:, :2] + torch.tensor([1.0, 0.0]))
    x, y = torch.full((4, 3, 16, 16), 0.5), torch.zeros(4, dtype=torch.int64)
    calls = record_calls(model)
    square(Budget(0.1, 400, 0), cross_entropy)(model, x, y, rng=streams(4))
    reached = shown_beside_stripes([call.x for call in calls][1:])  # the first look is at x itself
    assert reached.all()

    for peer in (
        lambda: torchattacks.Square(model, eps=0.1, n_queries=400, resc_schedule=False)(x, y),
        lambda: peer_part("square", model, 0.1, 400, 2).perturb(x, y),
    ):
        calls.clear()
        peer()
        shown = [call.x for call in calls]
        first = next(index for index, images in enumerate(shown) if not torch.equal(images, x))
        reached = shown_beside_stripes([images for images in shown[first:] if not torch.equal(images, shown[0])])
        assert reached[:-1, :-1].all()
        assert not reached[-1].any() and not reached[:, -1].any()


def test_square_fools_a_network_that_looks_at_the_last_row_and_column() -> None:
    """Fails if the last row and column keep their first stripes, as with the peers."""
    weight = torch.zeros(16, 16)
    weight[-1], weight[:, -1] = 1, 1
    threshold = 0.5 - 0.8 * 0.1  # four fifths of what eps 0.1 allows: random stripes do not reach that

    def logits(flat: Tensor) -> Tensor:
        mean = (flat.view(-1, 3, 16, 16) * weight).sum(dim=(1, 2, 3)) / (3 * weight.sum())
        return torch.stack([mean - threshold, threshold - mean], dim=1)

    model = Wrapped(nn.Flatten(), logits)
    x, y = torch.full((16, 3, 16, 16), 0.5), torch.zeros(16, dtype=torch.int64)
    x_adv = square(Budget(0.1, 1000, 0), cross_entropy)(model, x, y, rng=streams(16))
    assert right(model, x, y).all() and not right(model, x_adv, y).any()
    x_theirs = torchattacks.Square(model, eps=0.1, n_queries=1000, resc_schedule=False)(x, y)
    assert right(model, x_theirs, y).all()


# --- CW --------------------------------------------------------------------------------------------------------------


class FoolboxCW(foolbox.attacks.LinfProjectedGradientDescentAttack):  # type: ignore[name-defined]
    """foolbox's PGD up the function f of foolbox's own CW attack, with the survey's confidence."""

    def get_loss_fn(self, model: Any, labels: Any) -> Any:
        best_other = foolbox.attacks.carlini_wagner.best_other_classes

        def loss(inputs: Any) -> Any:
            logits = model(inputs)
            images = range(len(logits))
            lead = logits[images, labels] - logits[images, best_other(logits, labels)]
            return -(lead + 50).maximum(0).sum()

        return loss


@pytest.mark.parametrize("victim", NATURAL + HARDENED[1:], ids=str)
def test_cw_is_pgd_up_the_function_of_foolboxs_cw(victim: Victim) -> None:
    """Fails for another function, confidence, step or start than foolbox's; torchattacks' CW is wrong, see below."""
    model = victim.model()
    x, y = victim.data()
    budget = cw_budget(victim.grey_eps)
    torch.manual_seed(5)
    rng = StubRng(torch.rand(x.shape))
    x_adv = cw(budget, confident_margin)(model, x, y, rng=rng)
    torch.manual_seed(5)
    attack = FoolboxCW(abs_stepsize=budget.step_size, steps=budget.steps, random_start=True)
    x_theirs, _, _ = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=budget.eps)
    assert_some_survive(victim, victim.left(x_adv))
    assert abs(victim.left(x_adv) - victim.left(x_theirs)) <= SLACK
    assert share_equal(x_adv, x_theirs) > 0.95


def test_cw_and_a_constant_added_to_the_logits() -> None:
    """Fails if CW depends on a constant that is added to the logits, like that of torchattacks.

    torchattacks multiplies the logits by a mask instead of choosing among them: if all are below 0, it sees two zeros.
    """
    victim = Victim(3)
    x, y = victim.data()
    model, shifted = victim.model(), Wrapped(victim.model(), lambda logits: logits - 1000).eval()
    assert victim.left(torchattacks.CW(model)(x, y)) == 0
    assert victim.left(torchattacks.CW(shifted)(x, y)) == victim.left(x)

    x_adv = cw(cw_budget(6), confident_margin)(shifted, x, y, rng=streams(IMAGES))
    assert_some_survive(victim, ours(victim, "cw"))
    assert abs(victim.left(x_adv) - ours(victim, "cw")) <= SLACK


def test_cw_and_black_pixels() -> None:
    """Fails if CW changes variables by a tanh, which is flat at 0: a fundus photograph has a black border.

    torchattacks' CW does not change a black pixel, and foolbox's hardly does, though both mislead the network.
    """
    model = trained()
    x, y = pixels(16)
    black = x == 0
    x_theirs = torchattacks.CW(model)(x, y)
    assert not torch.equal(x_theirs, x) and not right(model, x_theirs, y).any()
    assert (x_theirs[black] == 0).all()
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=3, steps=30, initial_const=10)
    x_foolbox, _, _ = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=None)
    assert not right(model, x_foolbox, y).all()
    assert (x_foolbox[black] < 1e-4).all()

    x_adv = cw(cw_budget(6), confident_margin)(model, x, y, rng=streams(16))
    assert (x_adv[black] >= 1 / 255).float().mean() > 0.2


# --- the scale of the logits -----------------------------------------------------------------------------------------


def test_cross_entropy_finds_nothing_where_logits_are_large() -> None:
    """Fails if APGD-CE or PGD, the peer's or ours, succeeds on large logits; then the attacks' description is wrong.

    The peer's APGD-CE reports every image as robust, without a warning.
    """
    victim = Victim(3)
    clean = victim.left(victim.data()[0])
    assert_some_survive(victim, theirs(victim, "apgd-ce"))
    assert theirs(victim, "apgd-ce", SCALE) == ours(victim, "apgd-ce", SCALE) == clean
    x, y = victim.data()
    model = Wrapped(victim.model(), lambda logits: SCALE * logits).eval()
    x_adv = ATTACKS["pgd"].build(pgd_budget(victim.grey_eps), cross_entropy)(model, x, y, rng=streams(IMAGES))
    # Its random start may put a wrong image right.
    assert right(victim.model(), x_adv, y)[right(victim.model(), x, y)].all()


@natural
@pytest.mark.parametrize("name", ["apgd-t", "fab-t", "square", "cw"])
def test_the_scale_of_the_logits_hides_nothing(victim: Victim, name: str) -> None:
    """Fails if an attack that should succeed whatever the scale of the logits depends on it."""
    assert_some_survive(victim, ours(victim, name), ours(victim, name, SCALE))
    assert ours(victim, name, SCALE) <= ours(victim, name) + SLACK
