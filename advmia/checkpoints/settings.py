"""The settings that a training depends on, and the checkpoint names that the published code makes of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from advmia.budgets import Budget, grey_token, pgd_budget
from advmia.models import MODELS

# Fields whose key in records and state files differs from their name.
_JSON_KEYS = {
    "grey_eps": "eps",
    "grey_step_size": "step_size",
    "helper_sha256": "helper",
    "world_size": "processes",
}
_OPTIONAL = (
    *("normalize", "noise", "declaration", "awp", "awp_warm_up", "ema", "attack_loss", "validate_every"),
    "generator",
)


@dataclass(frozen=True)
class TrainingSettings:
    """All that a trained network depends on: a checkpoint of other settings is another network."""

    dataset: str
    model: str
    method: str
    classes: int
    grey_eps: float  # 0 for natural training, as are steps and grey_step_size
    steps: int  # of the attack in training; the most where each batch draws its own
    grey_step_size: float
    beta: float  # weight of the robustness term; 0 for methods without one
    gamma: float  # HAT's; 0 for the other methods, as hat_step
    hat_step: float  # HAT's h
    helper_sha256: str | None  # of the file with the weights of HAT's helper
    epochs: int
    batch_size: int  # of all processes together
    lr: float
    weight_decay: float
    init: str
    seed: int
    size: int  # pixels a side
    precision: str
    val_fraction: float | None  # share of the training list that is held out for validation; None: the test list
    world_size: int  # processes: each batch norm sees its rank's share of a batch only
    train_data: dict[str, object]  # `advmia.data.loading.ImageData.facts`
    test_data: dict[str, object]
    # Recorded only if they are not None, as in the records of earlier versions.
    normalize: str | None = None  # of --normalize; None for the data set's
    noise: str | None = None  # what attacks change, where that is not every channel by itself
    declaration: dict[str, Any] | None = None  # of a user's data set
    awp: float | None = None  # gamma of the adversarial weight perturbation
    awp_warm_up: int | None = None  # epochs without it; None where there is no perturbation
    ema: float | None = None  # decay of the average of the weights
    attack_loss: str | None = None  # that PGD-AT's attack ascends, where it is not the task's
    validate_every: int | None = None  # the network is validated after every N-th epoch; None for every epoch
    generator: str | None = None  # of the attack's random numbers; None for natural training

    @property
    def budget(self) -> Budget:
        """The budget of the attack in training."""
        return Budget.grey(self.grey_eps, self.steps, self.grey_step_size)

    @property
    def validation_budget(self) -> Budget | None:
        """The budget of the PGD-20 that validates epochs; None for natural training."""
        return pgd_budget(self.grey_eps) if self.grey_eps else None

    @property
    def suffix(self) -> str:
        """What is appended to the published file name for what the published code lacks: `_awp0.01_ema0.995`, or ""."""
        return "".join(f"_{name}{value:g}" for name, value in (("awp", self.awp), ("ema", self.ema)) if value)

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as records and state files hold them."""
        facts = {_JSON_KEYS.get(name, name): value for name, value in asdict(self).items()}
        return {name: value for name, value in facts.items() if value is not None or name not in _OPTIONAL}


def classification_name(settings: TrainingSettings) -> str:
    """Returns the published file name, e.g. `ResNet_melBin_nat_class2_maxLR0.01_weightDecay0.001`."""
    head = f"{MODELS[settings.model].class_name}_{settings.dataset}_{settings.method}"
    tail = f"maxLR{settings.lr}_weightDecay{settings.weight_decay}"
    if settings.method == "nat":
        return f"{head}_class{settings.classes}_{tail}{settings.suffix}"
    attack = f"ADV{grey_token(settings.grey_eps)}-255_{settings.steps}_{grey_token(settings.grey_step_size)}-255"
    return f"{head}_beta{settings.beta:g}_class{settings.classes}_{attack}_{tail}{settings.suffix}"


def segmentation_name(settings: TrainingSettings) -> str:
    """Returns the published file name, e.g. `UNet_mel_PGDAT_CrossEntropyLoss_Adam_eps8-255_step10_stepSize2-255`.

    What the published code does not have for masks stands behind the method: `TRADES_beta6`, `PGDAT_segpgd`.
    """
    method = settings.method.upper() + (f"_beta{settings.beta:g}" if settings.method == "trades" else "")
    method += f"_{settings.attack_loss}" if settings.attack_loss else ""
    name = f"{MODELS[settings.model].class_name}_{settings.dataset}_{method}_CrossEntropyLoss_Adam"
    if settings.method == "nat":
        return name + settings.suffix
    eps, step_size = grey_token(settings.grey_eps), grey_token(settings.grey_step_size)
    return f"{name}_eps{eps}-255_step{settings.steps}_stepSize{step_size}-255{settings.suffix}"
