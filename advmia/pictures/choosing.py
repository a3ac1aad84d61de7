"""Chooses the images that a contact sheet shows: the first, and the worst, median and best under the attack."""

from __future__ import annotations

from collections.abc import Sequence


def choose(ranking: Sequence[int], count: int) -> dict[int, str]:
    """Returns the chosen images, each once: their indices in the list, with why they were chosen.

    Args:
        ranking: the indices of all images, from the worst to the best.
        count: the number of images of each kind. A list that is shorter than that is shown whole.

    Returns: in the order first, worst, median, best; an image of several kinds stands where it comes first, and names
    all: "first, worst".
    """
    middle = max(len(ranking) - count, 0) // 2
    kinds = {
        "first": sorted(ranking)[:count],
        "worst": ranking[:count],
        "median": ranking[middle : middle + count],
        "best": ranking[::-1][:count],
    }
    reasons: dict[int, list[str]] = {}
    for kind, indices in kinds.items():
        for index in indices:
            reasons.setdefault(index, []).append(kind)
    return {index: ", ".join(kinds_of_image) for index, kinds_of_image in reasons.items()}
