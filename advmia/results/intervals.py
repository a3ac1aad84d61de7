"""95 % confidence intervals of scores over images: Wilson for shares, the percentile bootstrap for the others.

Images are taken as drawn independently; where a patient has several, the true interval is wider."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

Interval = tuple[float, float]
RESAMPLES = 1000
_SEED = 0
_Z = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
_CHUNK = 2**22  # draws held at a time


def wilson(hits: int, n: int) -> Interval:
    """Wilson's score interval (1927) of the share `hits` / `n`, n >= 1."""
    share, z2 = hits / n, _Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Exact at the ends, where rounding would leave 1e-17 or 0.9999999999999999.
    return (0.0 if hits == 0 else centre - half, 1.0 if hits == n else centre + half)


def bootstrap_mean(values: np.ndarray) -> list[Interval]:
    """Of the mean over images of each column of `values` (N, K)."""
    means = [counts @ values / len(values) for counts in _resamples(len(values))]
    return [_percentiles(column) for column in np.concatenate(means).T]


def bootstrap_auroc(scores: np.ndarray, positive: np.ndarray) -> list[Interval]:
    """Of the mean AUROC over labels, then of each label; scores (N, L), positive (N, L) of 0 and 1.

    A label with one class only has no AUROC: NaN. A resample that happens to hold one class only says nothing of that
    label; the mean is then over the others.
    """
    ranks = [_Ranking(scores[:, label], positive[:, label]) for label in range(scores.shape[1])]
    # Images along the first axis: their rows, one number a resample, are then moved and added as wholes.
    chunks = (np.ascontiguousarray(counts.T) for counts in _resamples(len(scores)))
    found = np.concatenate([np.stack([ranking.auroc(counts) for ranking in ranks], axis=1) for counts in chunks])
    return [_percentiles(_mean_of_defined(found)), *(_percentiles(column) for column in found.T)]


def auroc(scores: np.ndarray, positive: np.ndarray) -> list[float]:
    """The mean AUROC over labels, then of each label, as `bootstrap_auroc` takes them."""
    once = np.ones((len(scores), 1), dtype=np.int32)
    found = [_Ranking(scores[:, label], positive[:, label]).auroc(once)[0] for label in range(scores.shape[1])]
    return [float(_mean_of_defined(np.array([found]))[0]), *map(float, found)]


class _Ranking:
    """One label's images, ranked once, so that each resample's AUROC is a sum over counts."""

    def __init__(self, scores: np.ndarray, positive: np.ndarray) -> None:
        self._positives, negatives = np.flatnonzero(positive), np.flatnonzero(positive == 0)
        self._negatives = negatives[np.argsort(scores[negatives], kind="stable")]
        ranked = scores[self._negatives]
        self._below = np.searchsorted(ranked, scores[self._positives], side="left")  # negatives below each positive
        self._not_above = np.searchsorted(ranked, scores[self._positives], side="right")  # those, and ties

    def auroc(self, counts: np.ndarray) -> np.ndarray:
        """How often each image is drawn, image by image (N, R), to each resample's AUROC (R,); NaN for one class."""
        hits = counts[self._positives].astype(np.int64)
        misses = np.zeros((len(self._negatives) + 1, counts.shape[1]), dtype=np.int32)
        np.cumsum(counts[self._negatives], axis=0, dtype=np.int32, out=misses[1:])
        # In halves, for a tie counts as half a win: whole numbers, so that no machine rounds them otherwise.
        wins = (hits * (misses[self._below] + misses[self._not_above])).sum(axis=0)
        pairs = 2 * hits.sum(axis=0) * misses[-1]
        return np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)


def _resamples(n: int) -> Iterator[np.ndarray]:
    """How often each of `n` images is drawn, int32 (R, n), in chunks that hold `RESAMPLES` rows together.

    Equal for equal n, so rows on the same images are resampled alike. RandomState: its stream is frozen for good.
    """
    rng = np.random.RandomState(_SEED)
    step = max(1, _CHUNK // n)
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        drawn = rng.randint(0, n, size=(size, n), dtype=np.int64) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.int32)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """The mean of each row without its NaNs; NaN for a row of nothing else."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=1)
    return np.where(defined.any(axis=1), total / np.maximum(defined.sum(axis=1), 1), np.nan)


def _percentiles(values: np.ndarray) -> Interval:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)
