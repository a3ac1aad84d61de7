"""Confidence intervals: as published, and as scikit-learn and plain resampling give them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from advmia.results import intervals
from advmia.results.intervals import (
    RESAMPLES,
    auroc,
    percentile_interval,
    resample_counts,
    resampled_aurocs,
    resampled_means,
    wilson,
)


def test_wilson_as_published() -> None:
    """Fails if an interval is not the one in Newcombe (1998), Statistics in Medicine 17, table I, method 3."""
    for hits, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)
        assert wilson(n - hits, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_inverts_the_score_test() -> None:
    """Fails if a bound is not where the score test just rejects, or is outside [0, 1]."""
    for n in (1, 7, 130, 25596):
        for hits in {0, 1, n // 3, n - 1, n}:
            low, high = wilson(hits, n)
            assert 0 <= low <= hits / n <= high <= 1
            for bound in (low, high):
                if 0 < bound < 1:
                    assert abs(hits / n - bound) == pytest.approx(1.959964 * (bound * (1 - bound) / n) ** 0.5, rel=1e-6)


def resampled(n: int, resamples: int = RESAMPLES) -> list[np.ndarray]:
    """Returns the images of each resample, drawn one resample at a time from the same stream."""
    rng = np.random.RandomState(0)
    return [rng.randint(0, n, size=n, dtype=np.int64) for _ in range(resamples)]


def test_bootstrap_of_a_mean() -> None:
    """Fails if resamples are drawn without replacement, are smaller than the sample, or other percentiles are used."""
    values = np.random.default_rng(1).beta(5, 2, size=(40, 2))
    means = np.array([values[images].mean(axis=0) for images in resampled(40)])
    bounds = [percentile_interval(column) for column in resampled_means(values).T]
    assert np.allclose(bounds, np.quantile(means, [0.025, 0.975], axis=0).T, rtol=0, atol=1e-12)
    spread = values.std(axis=0) / 40**0.5
    assert np.allclose([(high - low) / 2 for low, high in bounds], 1.96 * spread, rtol=0.1)
    assert [percentile_interval(column) for column in resampled_means(values).T] == bounds


def test_bootstrap_of_auroc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if an AUROC of a resample with ties differs from scikit-learn's, or an undefined label enters the mean."""
    monkeypatch.setattr(intervals, "RESAMPLES", 50)  # scikit-learn takes a millisecond for each
    rng = np.random.default_rng(2)
    positive = (rng.random((30, 3)) < 0.3).astype(np.int64)
    positive[:, 2] = 0
    scores = np.round(rng.normal(size=(30, 3)) + positive, 1)  # with ties

    def expected(images: np.ndarray) -> list[float]:
        by_label = [roc_auc_score(positive[images, label], scores[images, label]) for label in range(2)]
        return [float(np.mean(by_label)), *by_label]

    quantiles = np.quantile([expected(images) for images in resampled(30, 50)], [0.025, 0.975], axis=0).T
    bounds = [percentile_interval(column) for column in resampled_aurocs(scores, positive).T]
    assert np.allclose(bounds[:3], quantiles, rtol=0, atol=1e-12)
    assert np.isnan(bounds[3]).all()
    computed = auroc(scores, positive)
    assert computed[:3] == pytest.approx(expected(np.arange(30))) and np.isnan(computed[3])


def test_resamples_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the size of the chunks in memory changes the resamples."""
    at_once = np.concatenate(list(resample_counts(9)))
    monkeypatch.setattr(intervals, "_CHUNK", 100)
    assert np.array_equal(np.concatenate(list(resample_counts(9))), at_once) and at_once.shape == (RESAMPLES, 9)
    assert (at_once.sum(axis=1) == 9).all()
