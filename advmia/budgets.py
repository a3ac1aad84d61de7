"""How far an attack may go. The only place where grey levels become pixel values."""

from __future__ import annotations

from dataclasses import dataclass

from advmia.errors import UserError

GREY_LEVELS = 255
TRAINING_STEPS = 10
EVALUATION_STEPS = 20  # also the validation after every epoch
CW_STEPS = 30
AUTO_STEPS = 100  # of APGD and FAB, alone and in AutoAttack
QUERIES = 5000  # of Square, and SimBA's directions


@dataclass(frozen=True)
class Budget:
    """An L-infinity budget: at most `eps` a pixel, spent in `steps` of `step_size`.

    `eps` and `step_size` are in pixel units (images are in [0, 1]); `Budget.grey(8, 20, 2)` takes grey levels.
    eps 0 allows no change: every attack is then the identity.
    """

    eps: float
    steps: int
    step_size: float

    def __post_init__(self) -> None:
        if not 0 <= self.eps <= 1:
            raise UserError(
                f"eps {self.eps} is outside [0, 1]: images are in [0, 1]; Budget.grey takes grey levels out of 255"
            )
        if self.steps < 0 or self.step_size < 0:
            raise UserError(f"an attack needs steps >= 0 and a step size >= 0, got {self.steps} and {self.step_size}")

    @classmethod
    def grey(cls, eps: float, steps: int, step_size: float) -> Budget:
        """From grey levels out of 255."""
        return cls(eps / GREY_LEVELS, steps, step_size / GREY_LEVELS)

    @property
    def grey_eps(self) -> float:
        return round(self.eps * GREY_LEVELS, 6)

    @property
    def grey_step_size(self) -> float:
        return round(self.step_size * GREY_LEVELS, 6)


def step_size_for(eps: float) -> float:
    """The survey's step size (grey levels): 0.5 for eps 1 and 2, 1 for 4, 2 for 8; max(0.5, eps/4) for any other."""
    return max(0.5, eps / 4)


def training_budget(eps: float) -> Budget:
    """The attack inside adversarial training: 10 steps. `eps` in grey levels."""
    return Budget.grey(eps, TRAINING_STEPS, step_size_for(eps))


def pgd_budget(eps: float) -> Budget:
    """PGD-20, for validation and evaluation. `eps` in grey levels."""
    return Budget.grey(eps, EVALUATION_STEPS, step_size_for(eps))


def fgsm_budget(eps: float) -> Budget:
    """One step of the whole eps. `eps` in grey levels."""
    return Budget.grey(eps, 1, eps)


def cw_budget(eps: float) -> Budget:
    """CW-30. `eps` in grey levels; the step is 0.0015 in pixel units up to eps 2, 0.003 beyond."""
    return Budget(eps / GREY_LEVELS, CW_STEPS, 0.0015 if eps <= 2 else 0.003)


def auto_budget(eps: float) -> Budget:
    """APGD, FAB and AutoAttack, which choose the size of their steps: it is given as 0. `eps` in grey levels."""
    return Budget.grey(eps, AUTO_STEPS, 0)


def square_budget(eps: float) -> Budget:
    """Square's 5,000 queries; it takes no steps. `eps` in grey levels."""
    return Budget.grey(eps, QUERIES, 0)


def simba_budget(eps: float) -> Budget:
    """SimBA's 5,000 directions; eps (grey levels) is the size of a step, not a bound."""
    return Budget.grey(eps, QUERIES, eps)


def grey_token(grey: float) -> str:
    """A grey level as file names and output lines spell it: 8 -> "8", 0.5 -> "05", 2.5 -> "2.5"."""
    text = f"{grey:g}"
    return "0" + text[2:] if text.startswith("0.") else text
