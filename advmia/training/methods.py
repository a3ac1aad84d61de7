"""The training methods. A method, called as `method(model, x, y, rng=rng)`, returns the loss that training descends.

It has two parts, so that a training can compute the loss twice on the same examples. `examples` makes the adversarial
examples, on a frozen copy of the model in eval mode. `losses` are the terms of the loss of these, computed with the
model in the mode in which it is passed (train mode in training), and the gradient of their sum updates the parameters.
`advmia.training.gradients` computes it term by term.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advmia.attacks.common import Attack, Objective, ascend, frozen_eval, normal_start
from advmia.attacks.gradient import pgd
from advmia.attacks.inference import Blocks, inference_copy
from advmia.attacks.mask_attacks import segpgd
from advmia.budgets import Budget
from advmia.losses import cross_entropy, kl_divergence
from advmia.runtime.precision import no_autocast
from advmia.runtime.rng import SampleRng

AttackBuilder = Callable[[Budget, Objective], Attack]
CLEAN_BATCHES = 0.5  # MPAdvT: share of the batches that are not attacked
SMALLEST_EPS = 0.25  # MPAdvT: the smallest eps of a batch, as a share of the largest


class Method(Protocol):
    """Maps images x (B, C, H, W) in [0, 1] and targets y (B, ...) to a scalar loss with a gradient by the parameters.

    `rng`: one random stream for each image, from which the attack's start is drawn, and one for the batch, from which
    comes what its images have in common (`SampleRng.batch_uniform`): it is the same in all processes that share the
    batch. A method of which a term depends on several passes over the batch has their number in an attribute `passes`,
    by which its memory is estimated; the largest number if there are several terms.
    """

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        """Returns the images x_adv, shape of x, that the loss is computed on: adversarial examples, or x itself."""
        ...

    def losses(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Iterator[Tensor]:
        """Yields the terms of the loss, scalars whose sum training descends. Draws no random numbers but dropout's.

        Passes that a term needs belong after the `yield` of the term before: then only one term's are kept at a time.
        """
        ...

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        first, *others = self.losses(model, x, self.examples(model, x, y, rng=rng), y)
        return sum(others, first)


@dataclass(frozen=True)
class Natural(Method):
    """Natural training: the mean of the task's loss on clean images."""

    objective: Objective

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        return x

    def losses(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Iterator[Tensor]:
        yield self.objective(model(x), y).mean()


@dataclass(frozen=True)
class PGDAT(Method):
    """PGD adversarial training: the mean of the task's loss on PGD examples (Madry et al. 2018, equation 2.1).

    `attack` builds the attack from the budget and the task's loss.
    """

    objective: Objective
    budget: Budget
    attack: AttackBuilder = pgd

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        return self.attack(self.budget, self.objective)(training_copy(model, x), x, y, rng=rng)

    def losses(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Iterator[Tensor]:
        yield self.objective(model(x_adv), y).mean()


@dataclass(frozen=True)
class TRADES(Method):
    """CE(f(x), y) + beta * KL(f(x) || f(x')), where x' maximises the KL (Zhang et al. 2019, equation 5).

    Both terms are means over the batch, and both sides of the KL carry the parameters' gradient. The paper is about
    single labels. For findings and masks the same is done with the task's loss and divergence, which is this project's
    own choice: the KL of each finding or pixel, averaged over an image as the loss is, so that beta keeps its meaning.
    """

    passes: ClassVar = 2

    budget: Budget
    beta: float
    objective: Objective = cross_entropy
    divergence: Objective = kl_divergence

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        return divergence_ascent(model, x, self.divergence, self.budget, rng)

    def losses(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Iterator[Tensor]:
        logits, logits_adv = model(x), model(x_adv)
        yield self.objective(logits, y).mean() + self.beta * self.divergence(logits_adv, logits).mean()


@dataclass(frozen=True)
class MART(Method):
    """BCE(f(x'), y) + beta * KL(f(x) || f(x')) * (1 - p_y(x)), where x' maximises the CE (Wang et al. 2020, section 3).

    BCE is their boosted cross-entropy, CE(f(x'), y) - log(1 - max_{k != y} p_k(x')). The small constants are those of
    their published code.
    """

    passes: ClassVar = 2

    budget: Budget
    beta: float

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        return _ascend_from_normal(training_copy(model, x), x, y, cross_entropy, self.budget, rng)

    def losses(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Iterator[Tensor]:
        logits, logits_adv = model(x).float(), model(x_adv).float()
        log_p, p_adv = F.log_softmax(logits, dim=1), F.softmax(logits_adv, dim=1)
        truth = F.one_hot(y, p_adv.shape[1]).bool()
        strongest_wrong = p_adv.masked_fill(truth, -1.0).amax(dim=1)
        boosted = cross_entropy(logits_adv, y) - torch.log(1.0001 - strongest_wrong + 1e-12)
        # log_target, because without it the gradient is NaN where a probability underflows to 0
        divergence = F.kl_div(torch.log(p_adv + 1e-12), log_p, reduction="none", log_target=True).sum(dim=1)
        weight = 1.0000001 - log_p.gather(1, y[:, None])[:, 0].exp()  # indexing by a mask would wait for the GPU
        yield boosted.mean() + self.beta * (divergence * weight).mean()


@dataclass(frozen=True)
class HAT(Method):
    """TRADES plus gamma * CE(f(x + h (x' - x)), y_helper) (Rade and Moosavi-Dezfooli 2022, algorithm 1).

    y_helper is the class that a frozen, naturally trained helper network predicts at x'.
    """

    passes: ClassVar = 2  # of the first term; the second has one

    budget: Budget
    beta: float
    helper: nn.Module
    gamma: float = 1.0
    hat_step: float = 3.5  # h

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        return divergence_ascent(model, x, kl_divergence, self.budget, rng)

    def losses(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Iterator[Tensor]:
        logits, logits_adv = model(x), model(x_adv)
        yield cross_entropy(logits, y).mean() + self.beta * kl_divergence(logits_adv, logits).mean()
        labeller = training_copy(self.helper, x)
        with torch.no_grad(), frozen_eval(labeller):
            helper_y = labeller(x_adv).argmax(dim=1)
        yield self.gamma * cross_entropy(model(x + self.hat_step * (x_adv - x)), helper_y).mean()


@dataclass(frozen=True)
class MPAdvT(PGDAT):
    """PGD-AT in about half of the batches, natural training in the others (Xu et al. 2021).

    A coin decides for each batch. The attack's eps is drawn uniformly from a quarter of `budget.eps` to `budget.eps`,
    and its number of steps from 1 to `budget.steps`. The authors' code has 0.01 to 0.04, and 1 to 9 steps of 1/255.
    """

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        if rng.batch_uniform() < CLEAN_BATCHES:
            return x
        eps = self.budget.eps * (SMALLEST_EPS + (1 - SMALLEST_EPS) * rng.batch_uniform())
        budget = replace(self.budget, eps=eps, steps=_drawn_steps(self.budget, rng))
        return PGDAT(self.objective, budget, self.attack).examples(model, x, y, rng=rng)


@dataclass(frozen=True)
class MAAdvT(MART):
    """MART with a number of steps that is drawn for each batch, from 1 to `budget.steps` (Xu et al. 2021).

    The authors' code has eps 4/255, and 1 to 9 steps of 0.007.
    """

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        budget = replace(self.budget, steps=_drawn_steps(self.budget, rng))
        return MART(budget, self.beta).examples(model, x, y, rng=rng)


def _drawn_steps(budget: Budget, rng: SampleRng) -> int:
    """Returns a number of steps for the batch, from 1 to `budget.steps`, each equally likely."""
    return 1 + int(budget.steps * rng.batch_uniform())


def training_copy(model: nn.Module, x: Tensor) -> Blocks:
    """Returns the frozen copy of the model on which the attack of a training method runs, for images x (B, C, H, W)."""
    return Blocks(inference_copy(model, x, in_training=True), filled=False)


def divergence_ascent(model: nn.Module, x: Tensor, divergence: Objective, budget: Budget, rng: SampleRng) -> Tensor:
    """Returns the adversarial examples x' of TRADES and HAT, shape of x: sign steps up KL(f(x) || f(x')) from near x.

    `divergence`: this KL, as the task measures it. Runs in float32 also under bf16: so near to x, the KL and its
    gradient are smaller than bf16's rounding.
    """
    frozen = training_copy(model, x)
    with no_autocast(x.device):
        with torch.no_grad(), frozen_eval(frozen):
            clean_logits = frozen(x)
        return _ascend_from_normal(frozen, x, clean_logits, divergence, budget, rng)


def _ascend_from_normal(
    frozen: nn.Module, x: Tensor, y: Tensor, objective: Objective, budget: Budget, rng: SampleRng
) -> Tensor:
    """Returns x' after sign steps up the objective from x plus normal noise."""
    with frozen_eval(frozen):
        return ascend(frozen, x, y, objective, budget, normal_start(x, budget.eps, rng))


@dataclass(frozen=True)
class MethodSettings:
    """What a method may be built from; each method takes what it needs."""

    objective: Objective  # the task's loss of each sample
    divergence: Objective  # the task's KL divergence of each sample: TRADES
    budget: Budget  # of the attack in training; the largest where it is drawn
    beta: float  # weight of the KL: TRADES, MART, HAT, MAAdvT
    gamma: float  # weight of the helper's term: HAT
    hat_step: float  # h: HAT
    helper: nn.Module | None  # HAT
    attack: AttackBuilder = pgd  # PGD-AT


def _build_hat(settings: MethodSettings) -> HAT:
    if settings.helper is None:
        raise ValueError("hat needs a helper: a naturally trained network")
    return HAT(settings.budget, settings.beta, settings.helper, settings.gamma, settings.hat_step)


# By name, in the order of `advmia.tasks.METHOD_NAMES`.
METHODS: dict[str, Callable[[MethodSettings], Method]] = {
    "nat": lambda settings: Natural(settings.objective),
    "pgdat": lambda settings: PGDAT(settings.objective, settings.budget, settings.attack),
    "trades": lambda settings: TRADES(settings.budget, settings.beta, settings.objective, settings.divergence),
    "mart": lambda settings: MART(settings.budget, settings.beta),
    "hat": _build_hat,
    "mpadvt": lambda settings: MPAdvT(settings.objective, settings.budget),
    "maadvt": lambda settings: MAAdvT(settings.budget, settings.beta),
}

# What the attack of PGD-AT for masks ascends, and the attack, by its name for --attackLoss. The first is the default.
MASK_ATTACKS: dict[str, AttackBuilder] = {"cross-entropy": pgd, "segpgd": segpgd}

# The survey's beta by method and data set; "" stands for every other data set. 6 is the value of the methods' papers.
# MAAdvT's are its authors'.
_BETAS: dict[str, dict[str, float]] = {
    "trades": {"mesidorBin": 12, "": 6},
    "mart": {"": 6},
    "hat": {"mesidorBin": 12, "mesidorMulti": 3, "": 6},
    "maadvt": {"mesidorBin": 8, "mesidorMulti": 8, "": 6},
}


def default_beta(method: str, dataset: str) -> float:
    """Returns the usual weight of the robustness term; 0 for methods without one."""
    betas = _BETAS.get(method, {"": 0.0})
    return float(betas.get(dataset, betas[""]))
