"""Attack budgets: how far each attack may change a pixel, in how many steps. Only this module divides eps by 255.

Two units occur. `eps` and `step_size` are in pixel values, of images in [0, 1]. `grey_eps` and `grey_step_size` are in
grey levels out of 255, as on the command line and in result files.
"""

from __future__ import annotations

from dataclasses import dataclass

from advmia.errors import UserError

GREY_LEVELS = 255
TRAINING_STEPS = 10
DRAWN_STEPS = 9  # of MPAdvT and MAAdvT: at most, since they draw a number of steps for each batch
EVALUATION_STEPS = 20  # of PGD, in evaluations and in the validation after each epoch
CW_STEPS = 30
AUTO_STEPS = 100  # of APGD and FAB, alone and as parts of AutoAttack
MOMENTUM_STEPS = 10  # of MI-FGSM
SEA_STEPS = 300  # of each of SEA's four runs
QUERIES = 5000  # of Square; for SimBA, the number of directions


@dataclass(frozen=True)
class Budget:
    """An L-infinity budget: no pixel changes by more than `eps`, in `steps` steps of `step_size`.

    `eps` and `step_size` are in pixel values; `Budget.grey(8, 20, 2)` takes grey levels. With eps 0 every attack
    returns the images unchanged. Raises `UserError` for an eps outside [0, 1] and for negative steps or step sizes.
    """

    eps: float
    steps: int
    step_size: float

    def __post_init__(self) -> None:
        if not 0 <= self.eps <= 1:
            raise UserError(
                f"eps {self.eps:g} is outside [0, 1], the range of pixels: for grey levels out of 255 write"
                f" {self.eps:g} / 255"
            )
        if self.steps < 0 or self.step_size < 0:
            raise UserError(f"an attack needs steps >= 0 and a step size >= 0, got {self.steps} and {self.step_size}")

    @classmethod
    def grey(cls, grey_eps: float, steps: int, grey_step_size: float) -> Budget:
        """Returns the budget for an eps and a step size in grey levels."""
        return cls(grey_eps / GREY_LEVELS, steps, grey_step_size / GREY_LEVELS)

    @property
    def grey_eps(self) -> float:
        """`eps` in grey levels, rounded so that `Budget.grey(8, ...)` has 8 here."""
        return round(self.eps * GREY_LEVELS, 6)

    @property
    def grey_step_size(self) -> float:
        """`step_size` in grey levels, rounded like `grey_eps`."""
        return round(self.step_size * GREY_LEVELS, 6)


def grey_step_size_for(grey_eps: float) -> float:
    """Returns PGD's step size in grey levels: max(0.5, eps / 4), the survey's 0.5, 0.5, 1, 2 for 1, 2, 4, 8."""
    return max(0.5, grey_eps / 4)


def training_steps(method: str, grey_eps: float) -> tuple[int, float]:
    """Returns the number of steps of the attack inside a training method, and their size in grey levels.

    They are 10 steps of the size that the survey takes for this eps. MPAdvT's and MAAdvT's are their authors', whatever
    eps: at most 9 of 1/255 and of 0.007. Natural training has no attack.
    """
    if method == "nat":
        return 0, 0.0
    drawn = {"mpadvt": 1.0, "maadvt": 1.785}  # 1.785 / 255 = 0.007
    if method in drawn:
        return DRAWN_STEPS, drawn[method]
    return TRAINING_STEPS, grey_step_size_for(grey_eps)


def training_budget(grey_eps: float, method: str = "pgdat") -> Budget:
    """Returns the budget of the attack inside a training method, by default that of PGD-AT: 10 steps."""
    return Budget.grey(grey_eps, *training_steps(method, grey_eps))


def pgd_budget(grey_eps: float) -> Budget:
    """Returns the budget of PGD in validation and evaluation: 20 steps."""
    return Budget.grey(grey_eps, EVALUATION_STEPS, grey_step_size_for(grey_eps))


def fgsm_budget(grey_eps: float) -> Budget:
    """Returns the budget of FGSM: a single step of size eps."""
    return Budget.grey(grey_eps, 1, grey_eps)


def cw_budget(grey_eps: float) -> Budget:
    """Returns the budget of CW: 30 steps of 0.0015, or of 0.003 for eps above 2 grey levels (in pixel values)."""
    return Budget(grey_eps / GREY_LEVELS, CW_STEPS, 0.0015 if grey_eps <= 2 else 0.003)


def auto_budget(grey_eps: float) -> Budget:
    """Returns the budget of APGD, FAB and AutoAttack: 100 steps. They choose their step sizes, so it is 0 here."""
    return Budget.grey(grey_eps, AUTO_STEPS, 0)


def momentum_budget(grey_eps: float) -> Budget:
    """Returns the budget of MI-FGSM, with and without input diversity: 10 steps of eps / 10 (Dong et al. 2018)."""
    return Budget.grey(grey_eps, MOMENTUM_STEPS, grey_eps / MOMENTUM_STEPS)


def sea_budget(grey_eps: float) -> Budget:
    """Returns the budget of SEA: 300 steps in each of its runs. It chooses its step sizes, so they are 0 here."""
    return Budget.grey(grey_eps, SEA_STEPS, 0)


def square_budget(grey_eps: float) -> Budget:
    """Returns the budget of Square: 5,000 queries, counted as steps. Square has no step size, so it is 0 here."""
    return Budget.grey(grey_eps, QUERIES, 0)


def simba_budget(grey_eps: float) -> Budget:
    """Returns the budget of SimBA: 5,000 directions, counted as steps. Its eps is the size of a step, not a bound."""
    return Budget.grey(grey_eps, QUERIES, grey_eps)


def grey_token(grey_level: float) -> str:
    """Returns a grey level as file names and output lines spell it: 8 -> "8", 0.5 -> "05", 2.5 -> "2.5"."""
    text = f"{grey_level:g}"
    return "0" + text[2:] if text.startswith("0.") else text
