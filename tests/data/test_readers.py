"""Reading lists: the samples of good rows, and the message for each kind of bad input."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from advmia.data.datasets import CHEST_FINDINGS, DATASETS
from advmia.data.markers import write_marker
from advmia.data.readers import count_listed_classes, count_mismatched_masks, count_shared, read_samples
from advmia.data.specs import Split
from advmia.errors import UserError

HEADER = ",".join(CHEST_FINDINGS)
BITS = "b00100000000010"
IMAGES = ("a.png", "b.png", "c.png", "d.png", "ä.png")


def write_list(root: Path, name: str, text: str | bytes, split: Split = "train") -> Path:
    """Writes a list of the data set `name`, and the empty files that it may name; readers read no pixels."""
    spec = DATASETS[name]
    path = spec.list_path(root, split)
    for folder in (spec.image_folder, spec.mask_folder):
        if folder is not None:
            (path.parent / folder).mkdir(parents=True, exist_ok=True)
            for image in IMAGES:
                (path.parent / folder / image).touch()
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def complaint(root: Path, name: str, split: Split = "train", classes: int | None = None) -> str:
    """Returns the message of the error with which a list is refused; it must be one line."""
    with pytest.raises(UserError) as caught:
        read_samples(DATASETS[name], root, split, classes=classes)
    text = str(caught.value)
    assert "\n" not in text and "\r" not in text
    return text


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a.png,0\nb.png,1\nc.png,2\n", id="plain"),
        pytest.param("a.png,0\nb.png,1\nc.png,2", id="no newline at the end"),
        pytest.param("a.png,0\r\nb.png,1\r\nc.png,2\r\n", id="Windows lines"),
        pytest.param("\ufeffa.png,0\nb.png,1\nc.png,2\n", id="byte order mark"),
        pytest.param(" a.png , 0\nb.png,1 \nc.png,2\n", id="spaces"),
        pytest.param('"a.png","0"\n"b.png",1\nc.png,"2"\n', id="quotes"),
    ],
)
def test_lists_as_editors_leave_them(text: str, tmp_path: Path) -> None:
    """Fails if a byte order mark, spaces, quotes or line ends get into names or labels."""
    write_list(tmp_path, "melMulti", text)
    samples = read_samples(DATASETS["melMulti"], tmp_path, "train")
    assert samples.files == ("a.png", "b.png", "c.png")
    assert samples.labels.dtype == torch.int64 and samples.labels.tolist() == [0, 1, 2]
    assert samples.row_numbers == (1, 2, 3)
    assert (samples.masks, samples.classes, samples.label) == ((), 3, "")


def test_blank_lines_count_as_lines(tmp_path: Path) -> None:
    """Fails if blank lines are samples, or if later rows are then named by the wrong number."""
    write_list(tmp_path, "melBin", "\na.png,0\n\n\nb.png,1\n,\n\n")
    samples = read_samples(DATASETS["melBin"], tmp_path, "train")
    assert (samples.files, samples.row_numbers) == (("a.png", "b.png"), (2, 5))
    write_list(tmp_path, "melBin", "\na.png,0\n\n\nb.png,yes\n")
    assert "trainbin.csv row 5: " in complaint(tmp_path, "melBin")


def test_order_and_repetition_are_kept(tmp_path: Path) -> None:
    """Fails if rows are sorted or made unique: the published test lists have an order, and one image in two rows."""
    write_list(tmp_path, "melBin", "c.png,1\na.png,0\nc.png,1\nä.png,0\n")
    samples = read_samples(DATASETS["melBin"], tmp_path, "train")
    assert samples.files == ("c.png", "a.png", "c.png", "ä.png")
    assert samples.labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("first", ["", "Image Index,"])
def test_multi_label(first: str, tmp_path: Path) -> None:
    """Fails if bits shift against the findings, or the header is counted as a sample."""
    write_list(tmp_path, "xray_multilabel", f"{first}{HEADER}\na.png,{BITS}\nb.png,b{'0' * 14}\n")
    samples = read_samples(DATASETS["xray_multilabel"], tmp_path, "train")
    assert samples.labels.dtype == torch.float32 and samples.labels.shape == (2, 14)
    positive = [finding for finding, bit in zip(CHEST_FINDINGS, samples.labels[0], strict=True) if bit]
    assert positive == ["Effusion", "Edema"]
    assert samples.labels[1].sum() == 0
    assert (samples.classes, samples.row_numbers) == (14, (2, 3))


def test_segmentation(tmp_path: Path) -> None:
    """Fails if masks and images are mixed up, or file names are read as labels."""
    write_list(tmp_path, "mel", "a.png,b.png\nc.png,d.png\n")
    samples = read_samples(DATASETS["mel"], tmp_path, "train")
    assert (samples.files, samples.masks) == (("a.png", "c.png"), ("b.png", "d.png"))
    assert samples.labels.shape == (2, 0) and samples.classes == 2


# text, and what is said of it
OTHER_FORMS = [
    pytest.param("./a.png,0\nb.png,1\n", "1 image names have their folder before them", id="./"),
    pytest.param("img/a.png,0\nmel2017/img/b.png,1\n", "2 image names have their folder before them", id="folder"),
    pytest.param("img\\a.png,0\n.\\b.png,1\n", "2 image names have their folder before them", id="backslashes"),
    pytest.param("a.png,0.0\nb.png,1.0\n", "2 labels are written with a decimal point", id="decimals"),
    pytest.param("image,label\na.png,0\nb.png,1\n", "its header image,label is left out", id="header"),
    pytest.param(",image,label\n0,a.png,0\n1,b.png,1\n", "its first column, of row numbers, is left out", id="index"),
    pytest.param("1,a.png,0\n2,b.png,1\n", "its first column, of row numbers, is left out", id="index from 1"),
    pytest.param(",image,label\n7,a.png,0\n3,b.png,1\n", "its first column, of row numbers, is left out", id="pandas"),
    pytest.param("a.png;0\nb.png;1\n", "its columns are separated by semicolons", id="semicolons"),
    pytest.param("a.png\t0\nb.png\t1\n", "its columns are separated by tabs", id="tabs"),
    pytest.param("a.png;0,0\nb.png;1,0\n", "2 labels are written with a decimal point", id="decimal commas"),
    pytest.param("a.png,0\nb.png,1\n".encode("utf-16"), "it is in UTF-16", id="UTF-16"),
    pytest.param("a.png,0\nb.png,1\n".encode("utf-16-be"), "it is in UTF-16", id="UTF-16 without a mark"),
]


@pytest.mark.parametrize(("text", "remark"), OTHER_FORMS)
def test_lists_in_other_forms(text: str | bytes, remark: str, tmp_path: Path) -> None:
    """Fails if a list that can be read in one way only is refused or misread, or nothing is said of its form."""
    write_list(tmp_path, "melBin", text)
    samples = read_samples(DATASETS["melBin"], tmp_path, "train")
    assert (samples.files, samples.labels.tolist()) == (("a.png", "b.png"), [0, 1])
    assert remark in samples.remarks


def test_masks_and_findings_in_other_forms(tmp_path: Path) -> None:
    """Fails if other forms are read for single labels only."""
    write_list(tmp_path, "mel", "image;mask\nimg/a.png;target/b.png\nc.png;d.png\n")
    samples = read_samples(DATASETS["mel"], tmp_path, "train")
    assert (samples.files, samples.masks) == (("a.png", "c.png"), ("b.png", "d.png"))
    assert "1 mask names have their folder before them" in samples.remarks
    write_list(tmp_path, "xray_multilabel", f"{HEADER}\n0,img/a.png,{BITS}\n1,b.png,{BITS}\n".replace(",", "\t"))
    samples = read_samples(DATASETS["xray_multilabel"], tmp_path, "train")
    assert samples.files == ("a.png", "b.png") and samples.labels.sum() == 4 and len(samples.remarks) == 3


def test_latin_1_and_other_unicode_forms(tmp_path: Path) -> None:
    """Fails if a name with an accent is not found because the list, or the file system, writes it in another way."""
    write_list(tmp_path, "melBin", "ä.png,0\nb.png,1\n".encode("latin-1"))
    samples = read_samples(DATASETS["melBin"], tmp_path, "train")
    assert samples.files == ("ä.png", "b.png") and samples.remarks == ("it is not in UTF-8, and read as Latin-1",)
    decomposed = unicodedata.normalize("NFD", "ä.png")
    assert decomposed != "ä.png"
    (tmp_path / "mel2017" / "img" / "ä.png").rename(tmp_path / "mel2017" / "img" / decomposed)
    samples = read_samples(DATASETS["melBin"], tmp_path, "train")
    assert samples.files == (decomposed, "b.png")
    assert "1 image names have another Unicode form than their files" in samples.remarks


def test_a_subset_is_even_over_the_classes(tmp_path: Path) -> None:
    """Fails if `--limit` takes rows of one class first, or changes K (the network's width), the digest or the order."""
    folder = tmp_path / "mel2017" / "img"
    write_list(tmp_path, "melMulti", "")
    labels = [0] * 20 + [1] * 3 + [2] * 20
    names = [f"{index:02}.png" for index in range(len(labels))]
    for name in names:
        (folder / name).touch()
    rows = "".join(f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
    write_list(tmp_path, "melMulti", rows)
    samples = read_samples(DATASETS["melMulti"], tmp_path, "train")
    some = samples.subset(14)
    assert some.class_counts()[1] == 3 and sorted(some.class_counts()) == [3, 5, 6]  # class 1 has no more
    assert samples.subset(6).class_counts() == [2, 2, 2]
    assert set(samples.subset(6).files) < set(some.files)
    assert some.row_numbers == tuple(sorted(some.row_numbers))
    assert [names[row - 1] for row in some.row_numbers] == list(some.files)
    assert [labels[row - 1] for row in some.row_numbers] == some.labels.tolist()
    first = sorted(names[:20], key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:2]
    assert {name for name, label in zip(samples.subset(6).files, [0, 0, 1, 1, 2, 2], strict=True) if not label} == set(
        first
    )
    assert (some.classes, some.digest) == (3, samples.digest)
    assert samples.subset(None) is samples and samples.subset(99) is samples
    write_list(tmp_path, "mel", "a.png,b.png\nc.png,d.png\n")
    (chosen,) = read_samples(DATASETS["mel"], tmp_path, "train").subset(1).files
    assert read_samples(DATASETS["mel"], tmp_path, "train").subset(1).masks == (
        {"a.png": "b.png", "c.png": "d.png"}[chosen],
    )


def test_digest_is_of_the_file(tmp_path: Path) -> None:
    """Fails if two lists that differ in one byte have the same digest."""
    path = write_list(tmp_path, "melBin", "a.png,0\nb.png,1\n")
    samples = read_samples(DATASETS["melBin"], tmp_path, "train")
    assert samples.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    write_list(tmp_path, "melBin", "a.png,0\nb.png,0\n")
    assert read_samples(DATASETS["melBin"], tmp_path, "train").digest != samples.digest


def test_generated_images_are_named_as_such(tmp_path: Path) -> None:
    """Fails if a list's marker does not reach the name in the results, or reaches another list's."""
    for split in ("train", "test"):
        write_list(tmp_path, "melBin", "a.png,0\nb.png,1\n", split)
    write_marker(tmp_path / "mel2017", ["testbin.csv"], {"label": "DermaMNIST 64"})
    assert read_samples(DATASETS["melBin"], tmp_path, "train").dataset_name == "melBin[subset 4 of 2750]"
    assert read_samples(DATASETS["melBin"], tmp_path, "test").dataset_name == "melBin[DermaMNIST 64]"


@pytest.mark.parametrize("text", ["image,label\na.png,0\nb.png,1\n", "a.png;0\rb.png;1\r"])
def test_both_lists_of_a_subset_say_the_same(text: str, tmp_path: Path) -> None:
    """Fails if a header counts as a row, or old line ends hide rows, where the other list's rows are counted."""
    write_list(tmp_path, "melBin", text)
    write_list(tmp_path, "melBin", "c.png,0\nd.png,1\n", "test")
    names = {read_samples(DATASETS["melBin"], tmp_path, split).dataset_name for split in ("train", "test")}
    assert names == {"melBin[subset 4 of 2750]"}


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("labels", "classes"), [([0, 1], 2), ([2, 0, 1, 1], 3), ([0, 1, 2, 3], 4), ([0, 0], 1)], ids=str
)
def test_classes_come_from_the_training_list(labels: list[int], classes: int, tmp_path: Path) -> None:
    """Fails if K is the largest label, the number of rows, or a constant."""
    rows = [f"{image},{label}\n" for image, label in zip(IMAGES, labels, strict=False)]
    write_list(tmp_path, "mesidorMulti", "".join(rows))
    assert read_samples(DATASETS["mesidorMulti"], tmp_path, "train").classes == classes
    assert count_listed_classes(DATASETS["mesidorMulti"], tmp_path) == classes


def test_a_test_list_may_lack_classes_but_have_no_more(tmp_path: Path) -> None:
    """Fails if the test list's labels determine K, or a label of K or more reaches the loss."""
    write_list(tmp_path, "melMulti", "a.png,0\nb.png,2\n", "test")
    assert read_samples(DATASETS["melMulti"], tmp_path, "test", classes=3).classes == 3
    text = complaint(tmp_path, "melMulti", "test", classes=2)
    assert "test.csv row 2: label 2 is out of range" in text and "2 classes" in text and "0 to 1" in text


@pytest.mark.parametrize("name", ["melBin", "mel", "xray_multilabel", "xrayBin", "mesidorBin", "xray"])
def test_declared_classes_need_no_list(name: str, tmp_path: Path) -> None:
    """Fails if a declared number of classes is looked for in a list."""
    assert count_listed_classes(DATASETS[name], tmp_path) == DATASETS[name].classes


def test_classes_without_a_training_list(tmp_path: Path) -> None:
    """Fails if testing needs the training list: if it is missing, the checkpoint says K."""
    write_list(tmp_path, "melMulti", "a.png,0\nb.png,1\n", "test")
    assert count_listed_classes(DATASETS["melMulti"], tmp_path) is None


def test_classes_of_a_bad_training_list(tmp_path: Path) -> None:
    """Fails if a gap in the training list's labels is overlooked when only K is needed."""
    write_list(tmp_path, "melMulti", "a.png,0\nb.png,2\n")
    with pytest.raises(UserError, match=r"train\.csv row 2: label 2 is out of range"):
        count_listed_classes(DATASETS["melMulti"], tmp_path)


def test_shared_images_are_counted_once_each(tmp_path: Path) -> None:
    """Fails if repeated rows count twice, or the labels matter."""
    write_list(tmp_path, "melBin", "a.png,0\nb.png,1\nb.png,1\nc.png,0\n", "train")
    write_list(tmp_path, "melBin", "b.png,0\nc.png,0\nd.png,1\nb.png,0\n", "test")
    train, test = (read_samples(DATASETS["melBin"], tmp_path, split) for split in ("train", "test"))
    assert count_shared(train, test) == count_shared(test, train) == 2


def test_masks_of_another_size_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if width and height are confused, or a file that is no image (decoding names it) ends the count."""
    write_list(tmp_path, "mel", "a.png,a.png\nb.png,b.png\nc.png,c.png\nd.png,d.png\n")
    folder = tmp_path / "mel2017"
    for image, size, mask_size in (("a.png", (6, 4), (6, 4)), ("b.png", (6, 4), (4, 6)), ("c.png", (6, 4), (3, 2))):
        Image.new("RGB", size).save(folder / "img" / image)
        Image.new("L", mask_size).save(folder / "target" / image)
    samples = read_samples(DATASETS["mel"], tmp_path, "train")
    assert count_mismatched_masks(samples) == 2
    assert count_mismatched_masks(samples.subset(1)) <= 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)  # now every image is a "decompression bomb"
    assert count_mismatched_masks(samples) == 0


def test_labels_are_no_masks(tmp_path: Path) -> None:
    """Fails if masks are looked for where a list has labels."""
    write_list(tmp_path, "melBin", "a.png,0\nb.png,1\n")
    assert count_mismatched_masks(read_samples(DATASETS["melBin"], tmp_path, "train")) == 0


# ---------------------------------------------------------------- bad input

WRONG_BITS = "expected the letter b and 14 bits, got "
# data set, list, what the message must hold
BAD_LISTS = [
    pytest.param("melBin", "", ["trainbin.csv is empty", "`image,label`"], id="empty"),
    pytest.param("melBin", "\n \n,\n".replace(" ", ""), ["trainbin.csv is empty"], id="blank lines only"),
    pytest.param("mel", "", ["trainSeg.csv is empty", "`image,mask`"], id="empty mask list"),
    pytest.param("melBin", "a.png,0\nx.png,1\n", ["row 2: image x.png is not in ", "img;"], id="missing image"),
    pytest.param(
        "melBin",
        "a.png,0\nx.png,1\nb.png,1\ny.png,1\nz.png,1\n",
        ["row 2: image x.png is not in ", "(and 2 more rows)", "complete the folder or the list"],
        id="missing images",
    ),
    pytest.param("mel", "a.png,b.png\nc.png,x.png\n", ["row 2: mask x.png is not in ", "target"], id="missing mask"),
    pytest.param("melBin", "../img/a.png,0\n", ["row 1: image ../img/a.png is not in "], id="path upwards"),
    pytest.param("mel", "a.png,../img/a.png\n", ["row 1: mask ../img/a.png is not in "], id="mask path upwards"),
    pytest.param("melBin", ".,0\n", ["row 1: image . is not in "], id="the folder itself"),
    pytest.param("melBin", "A.PNG,0\n", ["row 1: image A.PNG is not in "], id="another letter case"),
    pytest.param("melBin", "a.png,0\nb.png,one\n", ["row 2: expected an integer label, got `one`"], id="word"),
    pytest.param("melBin", "a.png,0\nb.png,2\n", ["row 2: label 2 is out of range", "0 to 1"], id="third of 2 classes"),
    pytest.param("melBin", "a.png,0\nb.png,-1\n", ["row 2: label -1 is out of range", "0 to 1"], id="negative"),
    pytest.param("melMulti", "a.png,0\nb.png,2\n", ["row 2: label 2 is out of range", "0 to 1"], id="gap"),
    pytest.param("melMulti", "a.png,1\nb.png,2\n", ["row 2: label 2 is out of range", "0 to 1"], id="from 1"),
    pytest.param("melBin", "a.png\n", ["row 1: expected `image,label`, got `a.png`"], id="one column"),
    pytest.param("melBin", "a.png,0,1\n", ["row 1: expected `image,label`, got `a.png,0,1`"], id="three columns"),
    pytest.param("mel", "a.png\n", ["row 1: expected `image,mask`, got `a.png`"], id="no mask"),
    pytest.param("melBin", "a.png,0\nb.png,\n", ["row 2: expected `image,label`, got `b.png,`"], id="no label"),
    pytest.param("melBin", "a.png,0\n,1\n", ["row 2: expected `image,label`, got `,1`"], id="no image"),
    pytest.param("melBin", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ["trainbin.csv", "CSV in UTF-8"], id="an image"),
    pytest.param("melBin", "a.png,1.5\n", ["row 1: expected an integer label, got `1.5`"], id="fraction"),
    pytest.param("melBin", "a.png,TRUE\n", ["row 1: expected an integer label, got `TRUE`"], id="truth value"),
    pytest.param("melBin", "image,label\nx.png,0\n", ["row 2: image x.png is not in "], id="header, missing image"),
    pytest.param("melBin", "7,a.png,0\n3,b.png,1\n", ["row 1: expected `image,label`"], id="numbers not in order"),
    pytest.param("melBin", "other/a.png,0\n", ["row 1: image other/a.png is not in "], id="another folder"),
    pytest.param("melBin", "C:\\x\\a.png,0\n", ["it is a path, expected a file's name"], id="Windows path"),
    pytest.param("melBin", "ö.png,0\n".encode("mac_roman"), ["save the list in UTF-8"], id="another encoding"),
    pytest.param("melBin", "image,label\n", ["trainbin.csv is empty"], id="header without rows"),
    pytest.param("melBin", "a.png,0.0\na.png,0\na.png,1\n", ["row 3: a.png is 1 here and 0.0 in"], id="two labels"),
    pytest.param("melBin", "a.png,0\nimg/a.png,1\n", ["row 2: a.png is 1 here and 0 in row 1"], id="with its folder"),
    pytest.param("melBin", "ä.png,0\na\u0308.png,1\n", ["row 2: ä.png is 1 here and 0 in row 1"], id="two forms"),
    pytest.param("xray_multilabel", "", ["row 1: expected the header Cardiomegaly,Emphysema"], id="empty multi-label"),
    pytest.param("xray_multilabel", f"{HEADER}\n", ["MultiLabel_1w.csv is empty"], id="header alone"),
    pytest.param(
        "xray_multilabel", f"a.png,{BITS}\n", ["row 1: expected the header", f"`a.png,{BITS}`"], id="no header"
    ),
    pytest.param(
        "xray_multilabel",
        "\n" + HEADER.replace("Mass,Nodule", "Nodule,Mass") + f"\na.png,{BITS}\n",
        ["row 2: expected the header Cardiomegaly,", "Infiltration,Mass,Nodule", "got `Cardiomegaly,"],
        id="other order",
    ),
    pytest.param("xray_multilabel", f"{HEADER}\na.png,{BITS[:-1]}\n", ["row 2: ", WRONG_BITS, BITS[:-1]], id="13 bits"),
    pytest.param("xray_multilabel", f"{HEADER}\na.png,{BITS}0\n", ["row 2: ", WRONG_BITS, f"{BITS}0"], id="15 bits"),
    pytest.param("xray_multilabel", f"{HEADER}\na.png,c{BITS[1:]}\n", ["row 2: ", WRONG_BITS], id="letter c"),
    pytest.param("xray_multilabel", f"{HEADER}\na.png,{BITS[1:]}\n", ["row 2: ", WRONG_BITS], id="no letter"),
    pytest.param("xray_multilabel", f"{HEADER}\na.png,{BITS[:-1]}2\n", ["row 2: ", WRONG_BITS], id="digit 2"),
]


@pytest.mark.parametrize(("name", "text", "says"), BAD_LISTS)
def test_bad_lists(name: str, text: str | bytes, says: list[str], tmp_path: Path) -> None:
    """Fails if bad input is accepted, or the message lacks the file, the row, or what was expected."""
    path = write_list(tmp_path, name, text)
    message = complaint(tmp_path, name)
    assert str(path) in message
    for words in says:
        assert words in message


def test_absolute_path(tmp_path: Path) -> None:
    """Fails if a list can name files outside its folder."""
    write_list(tmp_path, "melBin", "")
    outside = tmp_path / "outside.png"
    outside.touch()
    for name in (str(outside), "../../outside.png"):
        write_list(tmp_path, "melBin", f"{name},0\n")
        assert f"row 1: image {name[:60]}" in complaint(tmp_path, "melBin")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('a.png,0\n"b.png,1\n' + "c.png,0\n" * 5000, id="in an image's name"),
        pytest.param('a.png,0\nb.png,"1\n' + "c.png,0\n" * 5000, id="in a label"),
    ],
)
def test_a_quote_that_is_never_closed(text: str, tmp_path: Path) -> None:
    """Fails if the message quotes all the rest of the file, or has several lines."""
    path = write_list(tmp_path, "melBin", text)
    message = complaint(tmp_path, "melBin")
    assert f"{path} row 2: expected " in message and "png" in message
    assert len(message) < len(str(path)) + 200


@pytest.mark.parametrize("name", DATASETS)
def test_missing_list(name: str, tmp_path: Path) -> None:
    """Fails if the message does not say where the list was looked for and how to make it."""
    for split in ("train", "test"):
        message = complaint(tmp_path, name, split)
        assert f"no list at {DATASETS[name].list_path(tmp_path, split)}: " in message
        for words in (f"prepare --dataset {DATASETS[name].download}", "phantoms", "--dataRoot"):
            assert words in message


def _list_is_a_folder(folder: Path) -> None:
    (folder / "trainSeg.csv").unlink()
    (folder / "trainSeg.csv").mkdir()


def _images_is_a_file(folder: Path) -> None:
    (folder / "img").rename(folder / "kept")
    (folder / "img").touch()


def _image_is_a_folder(folder: Path) -> None:
    (folder / "img" / "a.png").unlink()
    (folder / "img" / "a.png").mkdir()


def _image_is_a_link_to_nowhere(folder: Path) -> None:
    (folder / "img" / "a.png").unlink()
    (folder / "img" / "a.png").symlink_to(folder / "gone" / "a.png")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        pytest.param(_list_is_a_folder, "cannot read the list {folder}/trainSeg.csv", id="list is a folder"),
        pytest.param(lambda f: (f / "img").rename(f / "kept"), "no image folder at {folder}/img (No", id="no images"),
        pytest.param(lambda f: (f / "target").rename(f / "kept"), "no mask folder at {folder}/target (", id="no masks"),
        pytest.param(_images_is_a_file, "no image folder at {folder}/img (Not a directory)", id="image folder a file"),
        pytest.param(_image_is_a_folder, "row 1: image a.png is not in {folder}/img", id="an image is a folder"),
        pytest.param(_image_is_a_link_to_nowhere, "row 1: image a.png is not in {folder}/img", id="broken link"),
    ],
)
def test_bad_folders(harm: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    """Fails if the system's error is not turned into a message, or comes only after work has begun."""
    write_list(tmp_path, "mel", "a.png,b.png\n")
    folder = tmp_path / "mel2017"
    harm(folder)
    message = complaint(tmp_path, "mel")
    assert says.format(folder=folder) in message and str(folder / "trainSeg.csv") in message


def test_links_to_images_are_images(tmp_path: Path) -> None:
    """Fails if `prepare --link` makes folders that cannot be read."""
    write_list(tmp_path, "melBin", "x.png,0\n")
    (tmp_path / "mel2017" / "img" / "x.png").symlink_to(tmp_path / "mel2017" / "img" / "a.png")
    assert read_samples(DATASETS["melBin"], tmp_path, "train").files == ("x.png",)
