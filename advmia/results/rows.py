"""One row of a result file: the scores of an attack at one eps, of the worst of the attacks, or of the clean images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from advmia.attacks import ATTACKS

CLEAN = "none"  # the attack's name in the row of the clean images
RowKey = tuple[str, float, int, bool]  # what a result file has one row of, see `ResultRow.key`
WORST = "worst"  # and in the row of the worst of all bounded attacks, image by image (`advmia.evaluation.worst`)


@dataclass(frozen=True)
class ResultRow:
    """The evaluation of one attack at one eps, or of the clean images.

    A result file has the fields in this order, as keys of the same name; `_KEYS` lists those that have another name.
    The last three are written only if they differ from their defaults.
    """

    attack: str
    grey_eps: float  # grey levels out of 255, as grey_step_size and grey_linf
    steps: int
    grey_step_size: float
    n: int  # images
    scores: dict[str, float]  # NaN where a score is undefined
    seconds: float  # spent in the attack; for the clean images, in the network; for `worst`, in all its attacks
    outcomes: list[Any]  # of each image, in the order of the record's `samples`
    l2: float = 0.0  # mean over the images of the perturbation's L2 norm, pixels in [0, 1]; NaN in the row `worst`
    grey_linf: float = 0.0  # mean over the images of the perturbation's maximum norm; NaN likewise
    queries: float | None = None  # mean over the images; None for attacks that do not count queries
    losses: list[str] = field(default_factory=list)  # names of the losses that the attack ascended
    notes: dict[str, list[Any]] = field(default_factory=dict)  # of each image: "l2", "linf" and the attack's own notes
    restarts: int = 1  # random starts, of which the worst counts image by image
    eight_bits: bool = False  # whether the attacked images were rounded to 8 bits, as a file would hold them
    attacks: list[str] = field(default_factory=list)  # of the row `worst`: the labels of the attacks that it is made of

    @property
    def key(self) -> RowKey:
        """What a result file has one row of: attack, eps in grey levels, restarts, and whether rounded to 8 bits."""
        return self.attack, self.grey_eps, self.restarts, self.eight_bits

    @property
    def label(self) -> str:
        """The attack's name as the row `worst` and printed lines state it: `pgd`, or `pgd (5 restarts)`."""
        return attack_label(self.attack, self.restarts)

    def to_json(self) -> dict[str, Any]:
        """Returns the row as result files hold it."""
        written = {name: value for name, value in vars(self).items() if name not in OPTIONAL or value != OPTIONAL[name]}
        return {_KEYS[name]: value for name, value in written.items()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ResultRow:
        """Returns the row that `to_json` wrote; keys of other versions are ignored, and null is an undefined score.

        Raises `ValueError` where a key is missing, `TypeError` or `AttributeError` where the content has another type.
        """
        missing = [key for name, key in _KEYS.items() if key not in content and name in _REQUIRED]
        if missing:
            raise ValueError(f"a row has no {', '.join(missing)}")
        values = {name: content[key] for name, key in _KEYS.items() if key in content}
        values["scores"] = {
            name: math.nan if score is None else score for name, score in dict(content["scores"]).items()
        }
        return cls(**values | {name: math.nan for name in ("l2", "grey_linf") if values.get(name, 0.0) is None})


_KEYS = {row_field.name: row_field.name for row_field in fields(ResultRow)}
_KEYS |= {"grey_eps": "eps", "grey_step_size": "step_size", "grey_linf": "linf"}
_REQUIRED = {
    row_field.name
    for row_field in fields(ResultRow)
    if row_field.default is MISSING and row_field.default_factory is MISSING
}
ROW_KEYS = frozenset(_KEYS.values())
# Fields that files hold only where a row differs from these.
OPTIONAL: dict[str, object] = {"restarts": 1, "eight_bits": False, "attacks": []}


def attack_label(attack: str, restarts: int) -> str:
    """Returns e.g. `pgd`, or `pgd (5 restarts)`."""
    return attack if restarts == 1 else f"{attack} ({restarts} restarts)"


def bounded_rows(rows: Iterable[ResultRow], grey_eps: float, *, eight_bits: bool = False) -> list[ResultRow]:
    """Returns the rows of bounded attacks at an eps, in the order of the registry: those that `worst` is made of.

    `eight_bits`: those of images rounded to 8 bits, else the others.
    """
    order = {name: number for number, name in enumerate(ATTACKS)}
    at_eps = [row for row in rows if (row.grey_eps, row.eight_bits) == (grey_eps, eight_bits)]
    found = [row for row in at_eps if row.attack not in (CLEAN, WORST) and is_bounded(row.attack)]
    return sorted(found, key=lambda row: (order.get(row.attack, len(order)), row.attack, row.restarts))


def is_bounded(attack: str) -> bool:
    """Returns whether an attack, by its name or label, stays within its eps; true for those of other versions."""
    name = attack.partition(" ")[0]
    return name not in ATTACKS or ATTACKS[name].bounded
