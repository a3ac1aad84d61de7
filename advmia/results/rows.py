"""One row of a result file: the scores of an attack at one eps, or of the clean images."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from advmia.attacks import ATTACKS

CLEAN = "none"  # the attack's name in the row of the clean images


@dataclass(frozen=True)
class ResultRow:
    """The evaluation of one attack at one eps, or of the clean images.

    A result file has the fields in this order, as keys of the same name; `_KEYS` lists those that have another name.
    """

    attack: str
    grey_eps: float  # grey levels out of 255, as grey_step_size and grey_linf
    steps: int
    grey_step_size: float
    n: int  # images
    scores: dict[str, float]  # NaN where a score is undefined
    seconds: float  # spent in the attack; for the clean images, in the network
    outcomes: list[Any]  # of each image, in the order of the record's `samples`
    l2: float = 0.0  # mean over the images of the perturbation's L2 norm, pixels in [0, 1]
    grey_linf: float = 0.0  # mean over the images of the perturbation's maximum norm
    queries: float | None = None  # mean over the images; None for attacks that do not count queries
    losses: list[str] = field(default_factory=list)  # names of the losses that the attack ascended
    notes: dict[str, list[Any]] = field(default_factory=dict)  # of each image: "l2", "linf" and the attack's own notes

    def to_json(self) -> dict[str, Any]:
        """Returns the row as result files hold it."""
        return {_KEYS[name]: value for name, value in vars(self).items()}

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
        return cls(**values)


_KEYS = {row_field.name: row_field.name for row_field in fields(ResultRow)}
_KEYS |= {"grey_eps": "eps", "grey_step_size": "step_size", "grey_linf": "linf"}
_REQUIRED = {
    row_field.name
    for row_field in fields(ResultRow)
    if row_field.default is MISSING and row_field.default_factory is MISSING
}
ROW_KEYS = frozenset(_KEYS.values())


def is_bounded(attack: str) -> bool:
    """Returns whether the attack stays within its eps; true for attacks that this version does not know."""
    return attack not in ATTACKS or ATTACKS[attack].bounded
