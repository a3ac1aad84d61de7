"""Training methods: `method(model, x, y, rng=rng) -> loss`.

Adversarial examples are made on the model's frozen copy in eval mode; the loss is taken with the model as it is handed
over (train mode in training), so that its gradient updates the parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advmia.attacks.common import Objective, ascend, frozen_eval, normal_start
from advmia.attacks.gradient import pgd
from advmia.attacks.inference import Blocks, inference_copy
from advmia.budgets import Budget
from advmia.losses import cross_entropy, kl_divergence
from advmia.runtime.precision import no_autocast
from advmia.runtime.rng import SampleRng


class Method(Protocol):
    """Images x (B, C, H, W) in [0, 1] and labels y to a scalar loss that carries the parameters' gradient."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor: ...


@dataclass(frozen=True)
class Natural:
    """The task's loss on clean images."""

    objective: Objective

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        return self.objective(model(x), y).mean()


@dataclass(frozen=True)
class PGDAT:
    """The task's loss on PGD examples (Madry et al. 2018, equation 2.1)."""

    objective: Objective
    budget: Budget

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        x_adv = pgd(self.budget, self.objective)(training_copy(model, x), x, y, rng=rng)
        return self.objective(model(x_adv), y).mean()


@dataclass(frozen=True)
class TRADES:
    """CE(f(x), y) + beta * KL(f(x) || f(x')), x' ascending the KL (Zhang et al. 2019, equation 5)."""

    budget: Budget
    beta: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        x_adv = divergence_ascent(model, x, self.budget, rng)
        logits, logits_adv = model(x), model(x_adv)
        return cross_entropy(logits, y).mean() + self.beta * kl_divergence(logits_adv, logits).mean()


@dataclass(frozen=True)
class MART:
    """Boosted CE on x' plus beta times KL weighted by the clean error (Wang et al. 2020, section 3)."""

    budget: Budget
    beta: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        x_adv = _ascend_from_normal(training_copy(model, x), x, y, cross_entropy, self.budget, rng)
        logits, logits_adv = model(x).float(), model(x_adv).float()
        log_p, p_adv = F.log_softmax(logits, dim=1), F.softmax(logits_adv, dim=1)
        truth = F.one_hot(y, p_adv.shape[1]).bool()
        strongest_wrong = p_adv.masked_fill(truth, -1.0).amax(dim=1)
        boosted = cross_entropy(logits_adv, y) - torch.log(1.0001 - strongest_wrong + 1e-12)
        # log_target: the gradient by a p that underflows to 0 would be NaN
        divergence = F.kl_div(torch.log(p_adv + 1e-12), log_p, reduction="none", log_target=True).sum(dim=1)
        weight = 1.0000001 - log_p[truth].exp()
        return boosted.mean() + self.beta * (divergence * weight).mean()


@dataclass(frozen=True)
class HAT:
    """TRADES plus gamma times CE at x + h (x' - x), labelled by a frozen, naturally trained helper at x'.

    Rade and Moosavi-Dezfooli 2022, algorithm 1.
    """

    budget: Budget
    beta: float
    helper: nn.Module
    gamma: float = 1.0
    step: float = 3.5  # h

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        x_adv = divergence_ascent(model, x, self.budget, rng)
        labeller = training_copy(self.helper, x)
        with torch.no_grad(), frozen_eval(labeller):
            helper_y = labeller(x_adv).argmax(dim=1)
        logits, logits_adv = model(x), model(x_adv)
        logits_helper = model(x + self.step * (x_adv - x))
        return (
            cross_entropy(logits, y).mean()
            + self.beta * kl_divergence(logits_adv, logits).mean()
            + self.gamma * cross_entropy(logits_helper, helper_y).mean()
        )


def training_copy(model: nn.Module, x: Tensor) -> Blocks:
    """What the attacks of training methods run on: the model's frozen copy. `x`: images (B, C, H, W)."""
    return Blocks(inference_copy(model, x), filled=False)


def divergence_ascent(model: nn.Module, x: Tensor, budget: Budget, rng: SampleRng) -> Tensor:
    """The adversarial example of TRADES and HAT: sign steps up KL(f(x) || f(x')) from near x.

    Never in bf16: so near to x the KL and its gradient are smaller than its rounding.
    """
    attacked = training_copy(model, x)
    with no_autocast(x.device):
        with torch.no_grad(), frozen_eval(attacked):
            clean_logits = attacked(x)
        return _ascend_from_normal(attacked, x, clean_logits, kl_divergence, budget, rng)


def _ascend_from_normal(
    attacked: nn.Module, x: Tensor, y: Tensor, objective: Objective, budget: Budget, rng: SampleRng
) -> Tensor:
    with frozen_eval(attacked):
        return ascend(attacked, x, y, objective, budget, normal_start(x, budget.eps, rng))


@dataclass(frozen=True)
class MethodSettings:
    """All that a method may be built with; each takes what it needs."""

    objective: Objective  # the task's loss, per sample
    budget: Budget
    beta: float
    gamma: float
    step: float
    helper: nn.Module | None


def _build_hat(settings: MethodSettings) -> HAT:
    assert settings.helper is not None, "the command line asks for a helper before any work"
    return HAT(settings.budget, settings.beta, settings.helper, settings.gamma, settings.step)


METHODS: dict[str, Callable[[MethodSettings], Method]] = {
    "nat": lambda settings: Natural(settings.objective),
    "pgdat": lambda settings: PGDAT(settings.objective, settings.budget),
    "trades": lambda settings: TRADES(settings.budget, settings.beta),
    "mart": lambda settings: MART(settings.budget, settings.beta),
    "hat": _build_hat,
}

# beta by method and data set; "" stands for every data set not named (REFERENCE section 4).
_BETAS: dict[str, dict[str, float]] = {
    "trades": {"mesidorBin": 12, "": 6},
    "mart": {"": 6},
    "hat": {"mesidorBin": 12, "mesidorMulti": 3, "": 6},
}


def default_beta(method: str, dataset: str) -> float:
    """The survey's weight of the robustness term; 0 for methods without one."""
    betas = _BETAS.get(method, {"": 0.0})
    return float(betas.get(dataset, betas[""]))
