"""Paired differences and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_rel

from advmia.results.paired import paired_differences
from advmia.results.scored import PerImage, Value
from advmia.results.significance import BOOTSTRAP, MCNEMAR, OVER_SEEDS


def of_hits(hits: np.ndarray) -> Value:
    """Returns an accuracy of one seed."""
    return Value(float(np.mean(hits)), per_image=PerImage(len(hits) - 1, hits=hits))


def test_interval_of_a_share_is_that_of_the_paired_bootstrap() -> None:
    """Fails if images are not paired, the sign is turned round, or pairs get the intervals of others."""
    rng = np.random.default_rng(0)
    a = rng.random(400) < 0.8
    b, c = a & (rng.random(400) < 0.9), a.copy()
    first, same, back = paired_differences(
        [(of_hits(a), of_hits(b)), (of_hits(a), of_hits(c)), (of_hits(b), of_hits(a))]
    )
    assert first and same and back and first.interval and back.interval
    assert first.test == MCNEMAR and first.value == pytest.approx(np.mean(a) - np.mean(b))
    # Nearly the t interval of the differences image by image, which is far narrower than one of unpaired shares.
    expected = ttest_rel(a.astype(float), b.astype(float)).confidence_interval(0.95)
    assert first.interval == pytest.approx((expected.low, expected.high), abs=0.006)
    assert back.interval == pytest.approx((-first.interval[1], -first.interval[0]))
    assert (same.value, same.interval, same.p) == (0.0, (0.0, 0.0), 1.0)


def test_intervals_of_other_tests_agree_with_their_p() -> None:
    """Fails if the interval of the paired bootstrap, or over seeds, holds 0 though p is below 0.05, or the reverse."""
    rng = np.random.default_rng(1)
    for shift in (0.0, 0.02, 0.05, 0.2):
        resampled = [rng.normal(mean, 0.02, 1000) for mean in (0.5 + shift, 0.5)]
        values = [Value(float(x.mean()), per_image=PerImage(59, resampled=x)) for x in resampled]
        hits = [[rng.random(200) < share for _ in range(3)] for share in (0.5 + shift, 0.5)]
        over = [Value(float(np.mean(some)), seeds=tuple(of_hits(one) for one in some)) for some in hits]
        for pair, test in ((values, BOOTSTRAP), (over, OVER_SEEDS)):
            (found,) = paired_differences([(pair[0], pair[1])])
            assert found is not None and found.interval is not None and found.test == test
            low, high = found.interval
            assert (low + high) / 2 == pytest.approx(found.value)
            assert (low > 0 or high < 0) == (found.p < 0.05)


def test_nothing_is_compared_without_images() -> None:
    """Fails if a score of which the files hold too little of each image gets a difference."""
    assert paired_differences([(Value(0.5), Value(0.6))]) == [None]
