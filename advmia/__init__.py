"""Adversarial attacks, adversarial training and robust evaluation for medical image analysis.

From Python: `advmia.attacks` makes attacks for a network of your own, `advmia.evaluate` scores it, `advmia.train`
trains it. `advmia.interface` describes them, docs/python.md has examples.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
# What `advmia.interface` and other modules offer as `advmia.NAME`. They are imported when they are first used: commands
# such as `advmia --help` do not need them.
_OFFERED = {
    **dict.fromkeys(("ATTACKS", "autoattack"), "advmia.attacks"),
    "UserError": "advmia.errors",
    **dict.fromkeys(("Robustness", "TrainingOptions", "evaluate", "train", "wrap"), "advmia.interface"),
}
_SUBPACKAGES = ("attacks", "interface", "models")


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"advmia.{name}")
    if name in _OFFERED:
        return getattr(importlib.import_module(_OFFERED[name]), name)
    raise AttributeError(f"module 'advmia' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_OFFERED, *_SUBPACKAGES])
