"""What the tests of the reliability report share: a probe of a sound network, and the checks by name."""

from __future__ import annotations

from advmia.data.loading import EvaluationLoader
from advmia.evaluation.checks import Check, report
from advmia.evaluation.probe import Probe
from tests.support.networks import CPU, image_data

IMAGES = 40
# At every limit: one image more or less, in the wrong direction, is a warning.
HEALTHY = Probe(
    images=200,
    attacked=60,
    holding=6,
    without_gradient=2,
    saturated=2,
    flat=2,
    repeated=99,
    not_finite=0,
    probabilities=199,
    outside=0,
    lowest=0.0,
    highest=1.0,
    unsteady=0,
    training=[],
    moved=[],
)


def loader(batch_size: int = 16, count: int = IMAGES) -> EvaluationLoader:
    return EvaluationLoader(image_data(count), batch_size, CPU)


def find(checks: list[Check], name: str) -> Check:
    """Returns the check of this name."""
    return next(check for check in checks if check.check == name)


def warnings(probe: Probe) -> set[str]:
    """Returns the names of the checks that warn of this probe."""
    return {check.check for check in report({}, probe, score="accuracy") if check.verdict == "warning"}
