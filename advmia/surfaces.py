"""Distances between the surfaces of two masks: how far a predicted outline lies from the true one.

Surfaces are the pixels of a mask that touch its outside, or the image's border. Distances are Euclidean, in pixels.
Reinke et al., Understanding metric-related pitfalls in image analysis validation, Nature Methods 2024, define both.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
PERCENTILE = 95


def surface_distances(predicted: Mask, truth: Mask) -> tuple[float, float]:
    """Returns HD95 and the average symmetric surface distance of two masks (H, W), in pixels.

    HD95 is the larger of the two 95th percentiles of the distances from one surface to the other; the average is over
    the distances of both. Two empty masks have 0. If one mask is empty, both are the image's diagonal, the largest
    distance that there is: a lesion that is overlooked must not count as undefined.
    """
    from scipy import ndimage  # takes half a second to import

    if not predicted.any() or not truth.any():
        farthest = 0.0 if predicted.any() == truth.any() else math.hypot(*truth.shape)
        return farthest, farthest
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (predicted, truth)]
    to_other = [ndimage.distance_transform_edt(~other)[own] for own, other in (surfaces, surfaces[::-1])]
    largest = max(float(np.percentile(distances, PERCENTILE)) for distances in to_other)
    return largest, float(np.concatenate(to_other).mean())
