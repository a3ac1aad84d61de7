"""Disks that are full or read-only, limits of file sizes, and files where a folder is needed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.downloads import make_npz
from tests.support.faults import (
    CACHE_LOCK,
    CHEX,
    PHANTOMS,
    PREPARE,
    SEG,
    TABLES,
    TEST,
    TEST_CHEX,
    TRAIN,
    VISUAL,
    Case,
    parameters,
)
from tests.support.spoiling import both, in_download, isic, remove, write

A_FILE = write("file", "kept")
CASES = [
    Case(
        "full: checkpoint",
        f"{TRAIN} --saveDir disk",
        ("cannot write disk/MobileNetV2_melBin", "No space left", "free space"),
        disk="full",
    ),
    Case(
        "full: results",
        f"{TEST} --resultDir disk",
        ("cannot write disk/melBin__mv2", "No space left", "free space"),
        disk="full",
    ),
    Case(
        "full: maps",
        f"{VISUAL} --saveDir disk",
        ("cannot write disk/gradVisual.json", "No space left", "free space"),
        disk="full",
    ),
    Case(
        "full: tables",
        f"{TABLES} results --out disk",
        ("cannot write disk/tables.md", "No space left", "free space"),
        disk="full",
    ),
    Case(
        "full: phantoms",
        f"{PHANTOMS} disk",
        ("cannot write disk/mesidor/", "No space left", "free space"),
        disk="full",
        leaves=("disk/mesidor",),
    ),
    Case(
        "full: prepare",
        f"{PREPARE} isic2017 --source source --dataRoot disk",
        ("cannot write disk/mel2017/img/", "No space left", "free space"),
        in_download(isic, write("file", "")),
        disk="full",
        leaves=("disk/mel2017", "disk/mel2017/*"),
    ),
    Case(
        "read only: checkpoint",
        f"{CHEX} --saveDir disk/new",
        ("cannot write disk/new", "Read-only", "another folder"),
        disk="read-only",
    ),
    Case(
        "read only: results",
        f"{TEST} --resultDir disk",
        ("cannot write disk/melBin__mv2", "Read-only", "another folder"),
        disk="read-only",
    ),
    Case(
        "read only: data",
        f"{TEST} --dataRoot disk/data --imgSize 8",
        ("cannot write the image cache at disk/data/cache", "Read-only", "--dataRoot"),
        disk="read-only",
    ),
    Case(
        "read only: phantoms",
        f"{PHANTOMS} disk",
        ("cannot write disk/mesidor", "Read-only", "another folder"),
        disk="read-only",
    ),
    Case(
        "read only: prepare",
        f"{PREPARE} isic2017 --source source --dataRoot disk --link",
        ("cannot write disk/mel2017", "Read-only"),
        in_download(isic, write("file", "")),
        disk="read-only",
    ),
    Case(
        "limit: checkpoint",
        TRAIN,
        ("cannot write new/MobileNetV2_melBin", "File too large", "free space"),
        file_limit=4096,
        leaves=("new",),
    ),
    Case(
        "limit: results",
        TEST,
        ("cannot write new/melBin__mv2.json", "File too large"),
        file_limit=1024,
        leaves=("new", "new/melBin__mv2.csv"),
    ),
    Case(
        "limit: maps",
        VISUAL,
        ("cannot write new/gradVisual.png", "File too large"),
        file_limit=4096,
        leaves=("new", "new/gradVisual.json", "new/class*.jpg"),
    ),
    Case(
        "limit: cache",
        f"{TRAIN} --imgSize 32",
        ("cannot write data/cache", "File too large"),
        file_limit=1024,
        leaves=CACHE_LOCK,
    ),
    Case(
        "limit: tables",
        f"{TABLES} results --out new",
        ("cannot write new/melBin", "File too large"),
        file_limit=1024,
        leaves=("new", "new/tables.md"),
    ),
    Case(
        "limit: prepare",
        f"{PREPARE} medmnist --source retinamnist.npz",
        ("cannot write new/mesidor/img/retinamnist_28", "File too large"),
        lambda folder: make_npz(folder / "retinamnist.npz", {"train": [[0], [1]], "val": [[0]], "test": [[4]]}),
        file_limit=512,
        leaves=("new", "new/mesidor*"),
    ),
    Case(
        "file for saveDir",
        f"{SEG} --saveDir file",
        ("cannot write file/UNet_mel", "Not a directory|File exists", "another folder"),
        A_FILE,
    ),
    Case(
        "file for resultDir",
        f"{TEST} --resultDir file",
        (
            "cannot write file/melBin__mv2",
            "file is a file where a folder is needed: rename it or choose another",
        ),
        A_FILE,
    ),
    Case(
        "file for maps",
        f"{VISUAL} --saveDir file",
        ("cannot write file/gradVisual", "Not a directory|File exists", "another folder"),
        A_FILE,
    ),
    Case("file for data", f"{TEST_CHEX} --dataRoot file", ("cannot read the list|no list at", "file/xray"), A_FILE),
    Case(
        "file for the cache",
        f"{TEST} --imgSize 8",
        ("cannot write the image cache at data/cache", "--dataRoot"),
        both(remove("data/cache"), write("data/cache", "kept")),
    ),
    Case("file for phantoms", f"{PHANTOMS} file", ("cannot write|file/mesidor",), A_FILE),
    Case(
        "file for prepare",
        f"{PREPARE} isic2017 --source source --dataRoot file",
        ("cannot write file/mel2017", "another folder"),
        in_download(isic, A_FILE),
    ),
    Case("file for tables", f"{TABLES} results --out file", ("cannot write file/tables.md", "another folder"), A_FILE),
]


@pytest.mark.slow
@parameters(CASES)
def test_fault(case: Case, check_case: Callable[[Case], None]) -> None:
    """Fails if a command accepts what is bad, does not say what and where in one line, or changes a file."""
    check_case(case)
