"""Paired tests: which scores of a table's column are the best, and which cannot be told from the best.

Networks are compared on the same images, so the tests are paired over the images:

- One seed, a share of images: McNemar's exact test (McNemar 1947, "Note on the sampling error").
- One seed, another score: the paired bootstrap. The standard error of the difference is that over the resamples, which
  are the same for both scores (Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 6). An AUROC
  has the degrees of freedom of the smaller of its two classes: one positive image tells nothing of others.
- Several seeds: seeds and images are both drawn by chance. The variance of the difference of two means is the sum of
  the variance over the seeds of each method and of that over the images, paired, of the means over seeds. This is the
  min F' of Clark (1973), "The language-as-fixed-effect fallacy", with the degrees of freedom of Welch and
  Satterthwaite. What varies with seed and image together is in both parts of the sum, so that the test errs on the
  safe side. Equal seeds of two methods are not taken as pairs, because their trainings have little more in common.

The p-values of a column are corrected by the method of Holm (1979) for the number of rows that the best is compared to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from advmia.results.intervals import Interval
from advmia.results.scored import PerImage, Value
from advmia.results.scores import Score

LEVEL = 0.05
_CONFIDENCE = 0.95  # of intervals
_NOTHING = 1e-9  # a difference of scores, or a standard error, that only rounding can leave
MCNEMAR, BOOTSTRAP, OVER_SEEDS = "McNemar's exact test", "the paired bootstrap", "Clark's min F' over seeds and images"


@dataclass(frozen=True)
class Marking:
    """The rows of a column that are marked as the best, and how that was found."""

    rows: frozenset[int] = frozenset()
    test: str = ""  # which test it was; "" where the results hold too little for one


def best_rows(values: Mapping[int, Value], score: Score) -> Marking:
    """Returns which of the rows have the best score, or one that a paired test does not tell from it at `LEVEL`.

    `values`: two or more scores by row, defined, on the same images, all of one seed or all means over several seeds.
    Where the test tells no row from the best, none is marked.
    """
    best_score = score.best(value.score for value in values.values())
    best = next(row for row, value in values.items() if value.score == best_score)
    p_values = {row: p_value(values[best], value) for row, value in values.items() if row != best}
    known = {row: p for row, p in p_values.items() if p is not None}
    if len(known) < len(p_values):
        return Marking()
    test = _test_of(values[best])
    others = list(known)
    worse = {row for row, p in zip(others, holm([known[row] for row in others]), strict=True) if p < LEVEL}
    return Marking(frozenset(values.keys() - worse) if worse else frozenset(), test)


def _test_of(value: Value) -> str:
    if len(value.seeds) > 1:
        return OVER_SEEDS
    (one,) = value.seeds or (value,)
    return MCNEMAR if one.per_image and one.per_image.hits is not None else BOOTSTRAP


def p_value(a: Value, b: Value) -> float | None:
    """Returns the two-sided p-value of the difference of two scores on the same images.

    Both are of one seed, or both are means over several. None where a result does not hold what the test needs.
    """
    difference = paired_difference(a, b)
    return None if difference is None else difference.p


@dataclass(frozen=True)
class Difference:
    """A score minus another one on the same images, and the two-sided test of whether that may be chance."""

    value: float
    p: float
    test: str  # its name
    interval: Interval | None  # of 95 %, which belongs to the test; None for McNemar's, which has none


def paired_difference(a: Value, b: Value) -> Difference | None:
    """Returns the difference of two scores on the same images, arguments as for `p_value`; None where that is."""
    a_seeds, b_seeds = a.seeds or (a,), b.seeds or (b,)
    parts = [value.per_image for value in (*a_seeds, *b_seeds)]
    if any(part is None for part in parts) or (len(a_seeds) > 1) != (len(b_seeds) > 1):
        return None
    per_a = [value.per_image for value in a_seeds if value.per_image]
    per_b = [value.per_image for value in b_seeds if value.per_image]
    means = [float(np.mean([value.score for value in seeds])) for seeds in (a_seeds, b_seeds)]
    value, test = means[0] - means[1], _test_of(a)
    if test == MCNEMAR and per_a[0].hits is not None and per_b[0].hits is not None:
        return Difference(value, mcnemar(per_a[0].hits, per_b[0].hits), test, None)
    variances = [_variance_over_images(per_a, per_b)]
    degrees = [per_a[0].degrees]
    for seeds in (a_seeds, b_seeds):
        if len(seeds) > 1:
            variances.append(float(np.var([value.score for value in seeds], ddof=1)) / len(seeds))
            degrees.append(len(seeds) - 1)
    p, interval = _t_test(value, variances, degrees)
    return Difference(value, p, test, interval)


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the p-value of McNemar's exact two-sided test; a, b (N,) of 0 and 1, of the same images in one order."""
    from scipy.special import bdtr  # here, because the import takes time

    only_a, only_b = int(np.sum(a > b)), int(np.sum(b > a))
    # Twice the smaller tail of the binomial distribution, whose two tails are equal where the share is a half.
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values adjusted by the method of Holm (1979), in their order."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for position, number in enumerate(sorted(range(len(p_values)), key=lambda number: p_values[number])):
        largest = max(largest, min(1.0, (len(p_values) - position) * p_values[number]))
        adjusted[number] = largest
    return adjusted


def _variance_over_images(a: Sequence[PerImage], b: Sequence[PerImage]) -> float:
    """Returns the variance, over lists of images, of the difference of two means; NaN where it is unknown."""
    hits_a, hits_b = (
        [part.hits for part in a if part.hits is not None],
        [part.hits for part in b if part.hits is not None],
    )
    if hits_a and hits_b:
        difference = np.mean(hits_a, axis=0) - np.mean(hits_b, axis=0)  # (images,)
        return float(np.var(difference, ddof=1)) / len(difference) if len(difference) > 1 else np.nan
    means = [
        np.mean([part.resampled for part in parts if part.resampled is not None], axis=0)  # (R,)
        for parts in (a, b)
    ]
    difference = means[0] - means[1]
    difference = difference[~np.isnan(difference)]  # a resample without a positive image has no AUROC
    return float(np.var(difference, ddof=1)) if len(difference) > 1 else np.nan


def _t_test(difference: float, variances: Sequence[float], degrees: Sequence[int]) -> tuple[float, Interval | None]:
    """Returns the two-sided p-value and the 95 % interval of a difference.

    Its variance is the sum of independent estimates. `degrees`: the degrees of freedom of each. A variance that is
    unknown (NaN), or of which nothing is known (no degree of freedom), gives a p-value of 1 and no interval.
    """
    from scipy.stats import t

    total = sum(variances)
    if np.isnan(total) or min(degrees) < 1:
        return 1.0, None
    if total**0.5 < _NOTHING:
        return float(abs(difference) < _NOTHING), (difference, difference)
    freedom = total**2 / sum(variance**2 / count for variance, count in zip(variances, degrees, strict=True))
    half = float(t.ppf(1 - (1 - _CONFIDENCE) / 2, freedom)) * total**0.5
    p = float(2 * t.sf(abs(difference) / total**0.5, freedom))
    return p, (difference - half, difference + half)
