"""Lists and images that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.faults import CACHE_LOCK, CHEX, SEG, TEST, TRAIN, VISUAL, Case, parameters
from tests.support.spoiling import LISTS, make_folder, remove, replace_line, spoil_image, write


def lone_class(folder: Path) -> None:
    """Leaves one image of class 1 in the training list."""
    path = folder / LISTS / "trainbin.csv"
    rows = path.read_text().split()
    ones = [row for row in rows if row.endswith(",1")]
    path.write_text("\n".join([row for row in rows if row not in ones[1:]]) + "\n")


LIST_CASES = [
    Case("list missing", TRAIN, ("no list at", "testbin.csv", "prepare"), remove(f"{LISTS}/testbin.csv")),
    Case("list a folder", VISUAL, ("cannot read the list", "testbin.csv"), make_folder(f"{LISTS}/testbin.csv")),
    Case(
        "list empty",
        TEST,
        ("testbin.csv is empty", "expected rows `image,label`"),
        write(f"{LISTS}/testbin.csv", ""),
        process=True,
    ),
    Case("list not text", SEG, ("trainSeg.csv", "as CSV in UTF-8"), write(f"{LISTS}/trainSeg.csv", b"\xff\xfe,a\n")),
    Case(
        "one image of a class to hold out",
        f"{TRAIN} --valFraction 0.5",
        ("trainbin.csv: class 1 has one image only", "leave out --valFraction"),
        lone_class,
        leaves=("data/cache/*",),  # the images were read before
    ),
    Case(
        "list of one column",
        TRAIN,
        ("trainbin.csv row 2: ", "`image,label`"),
        replace_line(f"{LISTS}/trainbin.csv", 2, "a.jpg"),
    ),
    Case(
        "list of another data set",
        SEG,
        ("trainSeg.csv row 1: mask 0 is not in",),
        replace_line(f"{LISTS}/trainSeg.csv", 1, "NAME,0"),
    ),
    Case(
        "label a word",
        TRAIN,
        ("trainbin.csv row 3: ", "integer label, got `yes`"),
        replace_line(f"{LISTS}/trainbin.csv", 3, "NAME,yes"),
    ),
    Case(
        "label out of range",
        TEST,
        ("testbin.csv row 1: ", "label 2", "0 to 1"),
        replace_line(f"{LISTS}/testbin.csv", 1, "NAME,2"),
    ),
    Case(
        "label negative",
        VISUAL,
        ("testbin.csv row 1: ", "label -1", "0 to 1"),
        replace_line(f"{LISTS}/testbin.csv", 1, "NAME,-1"),
    ),
    Case(
        "contradiction",
        TRAIN,
        ("trainbin.csv row 2: ", "is 1 here and 0 in row 1", "keep one"),
        replace_line(f"{LISTS}/trainbin.csv", 2, "FIRST,1"),
    ),
    Case(
        "name upwards",
        TEST,
        ("testbin.csv row 1: image ../x.jpg", "is a path"),
        replace_line(f"{LISTS}/testbin.csv", 1, "../x.jpg,0"),
    ),
    Case(
        "name absolute",
        TRAIN,
        ("trainbin.csv row 1: image /etc/passwd", "is a path"),
        replace_line(f"{LISTS}/trainbin.csv", 1, "/etc/passwd,0"),
    ),
    Case(
        "mask upwards",
        SEG,
        ("trainSeg.csv row 1: mask ../../x.png", "is a path"),
        replace_line(f"{LISTS}/trainSeg.csv", 1, "NAME,../../x.png"),
    ),
    Case(
        "header missing",
        CHEX,
        ("_1w.csv row 1: expected the header Cardiomegaly",),
        replace_line("data/xray/trainMultiLabel_1w.csv", 1, "a.png,b0"),
    ),
    Case(
        "bits too few",
        CHEX,
        ("_1w.csv row 2: expected the letter b and 14 bits", "b01"),
        replace_line("data/xray/trainMultiLabel_1w.csv", 2, "NAME,b01"),
    ),
    Case(
        "marker damaged",
        TRAIN,
        ("cannot read", "advmia-data.json", "make the folder again"),
        write(f"{LISTS}/advmia-data.json", "{"),
    ),
    Case("folder missing", CHEX, ("no image folder at", "data/xray", "lists its files"), remove("data/xray/img")),
]


def bad_file(which: str, how: str, *messages: str) -> Case:
    """A bad test image or mask, read by one script or another."""
    command = {"empty": VISUAL, "text": TRAIN, "16 bit": VISUAL}.get(how, TEST) if which == "image" else SEG
    line = "testSeg.csv row 1: " if which == "mask" else "testbin.csv row 1: "
    leaves = () if how in ("folder", "nowhere", "gone") else CACHE_LOCK  # nothing is decoded there
    return Case(f"{which}: {how}", command, (line, "ISIC_", *messages), spoil_image(which, how), leaves=leaves)


READ = ("cannot read", "replace the file or take the row out")
IMAGES = [
    bad_file("image", "gone", "is not in", "complete the folder or the list"),
    bad_file("image", "folder", "is not in", "complete the folder or the list"),
    bad_file("image", "nowhere", "is not in", "complete the folder or the list"),
    *(bad_file("image", how, *READ) for how in ("cut", "empty", "text", "bomb", "16 bit")),
    bad_file("mask", "gone", "mask ISIC_", "is not in", "complete the folder or the list"),
    *(bad_file("mask", how, *READ) for how in ("cut", "empty", "bomb")),
]

CASES = [*LIST_CASES, *IMAGES]


@parameters(CASES)
def test_fault(case: Case, check_case: Callable[[Case], None]) -> None:
    """Fails if a command accepts what is bad, does not say what and where in one line, or changes a file."""
    check_case(case)
