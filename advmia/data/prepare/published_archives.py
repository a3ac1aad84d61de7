"""What MedMNIST and MedSegBench have published: images of each part, and the MD5 of each archive.

Sources: `medmnist.INFO` of the package medmnist 3.0.2, and `medsegbench/info.py` of zekikus/MedSegBench.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_PARTS = ("training", "validation", "test")


@dataclass(frozen=True)
class Published:
    """One published data set."""

    counts: tuple[int, int, int]  # images for training, validation and testing
    md5: dict[int, str]  # of the archive, by the side of its images in pixels


PUBLISHED: dict[str, Published] = {
    "retinamnist": Published(
        (1080, 120, 400),
        {
            28: "bd4c0672f1bba3e3a89f0e4e876791e4",
            64: "afda852cc34dcda56f86ad2b2457dbcc",
            128: "e48e916a24454daf90583d4e6efb1a18",
            224: "eae7e3b6f3fcbda4ae613ebdcbe35348",
        },
    ),
    "dermamnist": Published(
        (7007, 1003, 2005),
        {
            28: "0744692d530f8e62ec473284d019b0c7",
            64: "b70a2f5635c6199aeaa28c31d7202e1f",
            128: "2defd784463fa5243564e855ed717de1",
            224: "8974907d8e169bef5f5b96bc506ae45d",
        },
    ),
    "chestmnist": Published(
        (78468, 11219, 22433),
        {
            28: "02c8a6516a18b556561a56cbdd36c4a8",
            64: "9de6cd0b934ebb5b7426cfba5efbae16",
            128: "db107e5590b27930b62dbaf558aebee3",
            224: "45bd33e6f06c3e8cdb481c74a89152aa",
        },
    ),
    "pneumoniamnist": Published(
        (4708, 524, 624),
        {
            28: "28209eda62fecd6e6a2d98b1501bb15f",
            64: "8f4eceb4ccffa70c672198ea285246c6",
            128: "05b46931834c231683c68f40c47b2971",
            224: "d6a3c71de1b945ea11211b03746c1fe1",
        },
    ),
    "covid19radio": Published(
        (14814, 2115, 4236),
        {
            128: "49c72b01477c1656acd2842ec71df5fd",
            256: "f1b1de2f1a22d163f553d9b554c742ec",
            512: "69c39062cd60a45cd8d0ed1a1b43e493",
        },
    ),
    "isic2018": Published(
        (2594, 100, 1000),
        {
            128: "a89f5259e99e146f1e983173ced69903",
            256: "03680ffc3fc8e0221f161d445c8a94d4",
            512: "000a76e688e6d48543b9563a8c406ae4",
        },
    ),
}


def difference_from_published(path: Path, name: str, size: int, counts: tuple[int, ...]) -> str:
    """Returns how an archive differs from the published one, or "".

    Args:
        path: the archive.
        name: of the data set, a key of `PUBLISHED`.
        size: side of its images in pixels.
        counts: its images for training, validation and testing.
    """
    expected = PUBLISHED[name]
    different = [
        f"{count} {part} images instead of {right}"
        for part, count, right in zip(_PARTS, counts, expected.counts, strict=True)
        if count != right
    ]
    if different:
        return ", ".join(different)
    if size not in expected.md5:
        return f"images of {size} pixels, which are not published"
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    return "" if md5 == expected.md5[size] else f"MD5 {md5} instead of {expected.md5[size]}"
