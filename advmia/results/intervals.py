"""95 % confidence intervals of scores over images: Wilson's for shares, the percentile bootstrap for other scores.

The intervals treat images as independent. Where a patient has several images, the true interval is wider.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

Interval = tuple[float, float]
RESAMPLES = 1000
_SEED = 0
_Z = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
_CHUNK = 2**22  # at most this many draws are in memory at a time


def wilson(hits: int, n: int) -> Interval:
    """Returns the score interval of the share `hits` / `n` in [0, 1]; n >= 1 (Wilson 1927, "Probable inference")."""
    share, z2 = hits / n, _Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # The ends are exactly 0 and 1, where rounding would give 1e-17 or 0.9999999999999999.
    return (0.0 if hits == 0 else centre - half, 1.0 if hits == n else centre + half)


def resampled_means(values: np.ndarray) -> np.ndarray:
    """Returns each column's mean in each resample, (R, K); values (N, K), one row an image."""
    return np.concatenate([counts @ values / len(values) for counts in resample_counts(len(values))])


def resampled_aurocs(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Returns the mean AUROC over labels, then each label's AUROC, in each resample: (R, 1 + L).

    scores (N, L), positive (N, L) of 0 and 1. A label that all or no images have is undefined: NaN. So is a label in a
    resample that has one class of it only; the resample's mean is then over the other labels.
    """
    rankings = [_Ranking(scores[:, label], positive[:, label]) for label in range(scores.shape[1])]
    # Transposed to (N, R): `_Ranking.auroc` then moves and adds contiguous rows, which is faster.
    chunks = (np.ascontiguousarray(counts.T) for counts in resample_counts(len(scores)))
    parts = [np.stack([ranking.auroc(counts) for ranking in rankings], axis=1) for counts in chunks]
    aurocs = np.concatenate(parts)  # (R, L)
    return np.column_stack([_mean_of_defined(aurocs), aurocs])


def auroc(scores: np.ndarray, positive: np.ndarray) -> list[float]:
    """Returns the mean AUROC over labels, then each label's AUROC; arguments as for `resampled_aurocs`."""
    once = np.ones((len(scores), 1), dtype=np.int32)
    aurocs = [_Ranking(scores[:, label], positive[:, label]).auroc(once)[0] for label in range(scores.shape[1])]
    return [float(_mean_of_defined(np.array([aurocs]))[0]), *map(float, aurocs)]


class _Ranking:
    """The images ranked by their scores for one label.

    The ranking is computed once; the AUROC of each resample is then a sum over how often each image was drawn.
    """

    def __init__(self, scores: np.ndarray, positive: np.ndarray) -> None:
        """scores (N,), positive (N,) of 0 and 1."""
        self._positives, negatives = np.flatnonzero(positive), np.flatnonzero(positive == 0)
        self._negatives = negatives[np.argsort(scores[negatives], kind="stable")]
        ranked = scores[self._negatives]
        # The number of negatives below each positive; then the number of those below or equal.
        self._below = np.searchsorted(ranked, scores[self._positives], side="left")
        self._not_above = np.searchsorted(ranked, scores[self._positives], side="right")

    def auroc(self, counts: np.ndarray) -> np.ndarray:
        """Returns the AUROC of each resample (R,), NaN where one has one class only.

        `counts` (N, R): how often each resample has drawn each image.
        """
        hits = counts[self._positives].astype(np.int64)
        misses = np.zeros((len(self._negatives) + 1, counts.shape[1]), dtype=np.int32)
        np.cumsum(counts[self._negatives], axis=0, dtype=np.int32, out=misses[1:])
        # A tie is half a win. Wins and pairs are doubled to stay integers, which no machine rounds differently.
        wins = (hits * (misses[self._below] + misses[self._not_above])).sum(axis=0)
        pairs = 2 * hits.sum(axis=0) * misses[-1]
        return np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)


def resample_counts(n: int) -> Iterator[np.ndarray]:
    """Yields how often each of `n` images is drawn, int32 (R, n), in chunks that have `RESAMPLES` rows in all.

    Equal n give equal resamples, so that all results on the same images are resampled alike. `RandomState` is used
    because numpy guarantees that its stream never changes.
    """
    rng = np.random.RandomState(_SEED)
    step = max(1, _CHUNK // n)
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        draws = rng.randint(0, n, size=(size, n), dtype=np.int64) + n * np.arange(size)[:, None]
        yield np.bincount(draws.ravel(), minlength=size * n).reshape(size, n).astype(np.int32)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Returns the mean of each row of `values` (R, L), leaving NaNs out: (R,). A row of NaNs gives NaN."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=1)
    return np.where(defined.any(axis=1), total / np.maximum(defined.sum(axis=1), 1), np.nan)


def percentile_interval(values: np.ndarray) -> Interval:
    """Returns the interval of a score from its values in the resamples (R,), leaving NaNs out; NaN where all are."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)
