"""Paired differences of scores with their 95 % intervals, for many pairs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from advmia.results.intervals import percentile_interval, resampled_means
from advmia.results.scored import Value
from advmia.results.significance import MCNEMAR, Difference, paired_difference


def paired_differences(pairs: Sequence[tuple[Value, Value]]) -> list[Difference | None]:
    """Returns for each pair of scores the first minus the second; None where the results hold too little of each image.

    All are of equally many images. Where the test is McNemar's, which has no interval, it is that of the paired
    bootstrap: the resamples are the same for all pairs, and drawn once.
    """
    found = [paired_difference(*pair) for pair in pairs]
    of_hits = [number for number, item in enumerate(found) if item is not None and item.test == MCNEMAR]
    if of_hits:
        changes = np.column_stack([_change(*pairs[number]) for number in of_hits])  # (images, pairs)
        for number, resampled in zip(of_hits, resampled_means(changes).T, strict=True):
            item = found[number]
            assert item is not None
            found[number] = replace(item, interval=percentile_interval(resampled))
    return found


def _change(a: Value, b: Value) -> np.ndarray:
    """Returns for each image how much more right the first is: -1, 0 or 1."""
    return _hits(a).astype(np.float64) - _hits(b)


def _hits(value: Value) -> np.ndarray:
    (one,) = value.seeds or (value,)
    assert one.per_image is not None and one.per_image.hits is not None
    return one.per_image.hits
