"""A user's data sets: what a declaration may say, and the lines that report what is wrong in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advmia.data.cache import cached_masks
from advmia.data.datasets import DATASETS, find_dataset
from advmia.data.declarations import SCORE_NAMES
from advmia.data.masks import read_class_mask
from advmia.data.readers import read_samples
from advmia.data.specs import IMAGENET_MEAN, IMAGENET_STD, Augmentation, DatasetSpec
from advmia.errors import UserError
from advmia.results.scores import SELECTIONS

MOLES = """\
task = "single-label"
train = "a.csv"  # the lists
val = "b.csv"
test = "c.csv"
images = "pictures"
classes = ["nevus", "melanoma"]
disease = "nevus"
size = 32
resize = 40
rotation = 10
vertical_flip = 0.25
normalize = "imagenet"
aliases = ["naevi"]
"""
ORGANS = 'task = "segmentation"\nsize = 8\nclasses = ["background", "liver", "spleen"]\n'


def declare(root: Path, text: str, name: str = "moles") -> Path:
    path = root / name / "dataset.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key(tmp_path: Path) -> None:
    """Fails if a key is not used, or a user's data set is not found by its alias."""
    declare(tmp_path, MOLES)
    expected = DatasetSpec(
        name="moles",
        task="single-label",
        folder="moles",
        train_list="a.csv",
        val_list="b.csv",
        test_list="c.csv",
        image_folder="pictures",
        classes=2,
        class_names=("nevus", "melanoma"),
        positive=0,
        size=32,
        resize=40,
        augmentation=Augmentation(rotation=10, vertical_flip=0.25),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        aliases=("naevi",),
    )
    assert find_dataset("moles", tmp_path, "single-label") == expected
    assert find_dataset("naevi", tmp_path, "single-label") == expected
    assert [expected.class_name(label) for label in (0, 1, 2)] == ["nevus", "melanoma", "class 2"]


def test_defaults(tmp_path: Path) -> None:
    """Fails if a short declaration needs another layout than the survey's data sets."""
    declare(tmp_path, 'task = "segmentation"\nsize = 64\n')
    spec = find_dataset("moles", tmp_path, "segmentation")
    assert (spec.train_list, spec.test_list, spec.val_list) == ("train.csv", "test.csv", None)
    assert (spec.image_folder, spec.mask_folder, spec.classes, spec.mask_values) == ("img", "target", 2, ())
    declare(tmp_path, 'task = "multi-label"\nsize = 64\nfindings = ["Mass", "Edema"]\n')
    spec = find_dataset("moles", tmp_path, "multi-label")
    assert (spec.findings, spec.classes, spec.mask_folder) == (("Mass", "Edema"), 2, None)
    declare(tmp_path, ORGANS)
    assert find_dataset("moles", tmp_path, "segmentation").mask_values == ((0,), (1,), (2,))


SINGLE = 'task = "single-label"\nsize = 32\n'
WRONG = {
    "no TOML": ("task = single-label", "is not TOML: .*line 1"),
    "no task": ("size = 3", "task: expected one of single-label, multi-label, segmentation$"),
    "wrong task": ('size = 8\ntask = "detection"', "line 2: task: expected one of .*, got 'detection'"),
    "no size": ('task = "single-label"', "the key size is missing"),
    "unknown key": (f"{SINGLE}colour = 1", "line 3: unknown key 'colour' for single-label: the keys are task, "),
    "key of another task": (f'{SINGLE}masks = "m"', "line 3: unknown key 'masks' for single-label"),
    "key of the survey": (f'{SINGLE}download = "d"', "line 3: download: the survey's data sets have this key only"),
    "a path": (f'{SINGLE}images = "../img"', "line 3: images: expected the name of a folder"),
    "a number as text": ('task = "single-label"\nsize = "32"', "line 2: size: expected a whole number.*, got '32'"),
    "truth as a number": (f"{SINGLE}resize = true", "line 3: resize: expected a whole number"),
    "small resize": (f"{SINGLE}resize = 16", "line 3: resize: expected at least the size, 32"),
    "one class": (f'{SINGLE}classes = ["a"]', "line 3: classes: expected a list of at least two different names"),
    "classes of one name": (f'{SINGLE}classes = ["a", "A"]', "line 3: classes: expected .* different names"),
    "a comma": (f'{SINGLE}classes = ["a,b", "c"]', "line 3: classes: expected"),
    "unknown disease": (f'{SINGLE}classes = ["a", "b"]\ndisease = "c"', "line 4: disease: expected one of a, b"),
    "disease of three": (f"{SINGLE}classes = 3\ndisease = 1", "line 4: disease: only two classes have sensitivity"),
    "no findings": ('task = "multi-label"\nsize = 8', "the key findings is missing"),
    "a score": ('task = "multi-label"\nsize = 8\nfindings = ["AUROC", "a"]', "line 3: findings: .* none of them accu"),
    "normalisation": (f'{SINGLE}normalize = "0.5"', 'line 3: normalize: expected "imagenet", "none" or "MEAN/STD"'),
    "probability": (f"{SINGLE}horizontal_flip = 2", "line 3: horizontal_flip: expected a probability from 0 to 1"),
    "augmented masks": (f"{ORGANS}rotation = 3", "line 4: unknown key 'rotation' for segmentation"),
    "few values": (f"{ORGANS}mask_values = [0, 1]", "line 4: mask_values: expected one item for each of the 3 classes"),
    "a value twice": (f"{ORGANS}mask_values = [0, [1, 2], 2]", "line 4: mask_values: expected each value once"),
    "mixed values": (f'{ORGANS}mask_values = [0, 1, "#ff0000"]', "line 4: .* all numbers or all colours"),
    "no colour": (f'{ORGANS}mask_values = ["red", "#ff0000", "#00ff00"]', "line 4: mask_values: expected for each"),
    "said twice": (f"{ORGANS}mask_values = [0, 1, 2]\nforeground = [1]", "line 5: foreground: mask_values says it"),
    "a clash": (f'{SINGLE}aliases = ["MelBin"]', "line 3: aliases: MelBin is a data set of the survey"),
    "other task": (ORGANS, "moles is for segmentation, but this command for single-label"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_declaration(kind: str, tmp_path: Path) -> None:
    """Fails if a fault is not reported in one line with the file and, where a key is wrong, its line."""
    text, message = WRONG[kind]
    path = declare(tmp_path, text + "\n")
    with pytest.raises(UserError, match=message) as caught:
        find_dataset("moles", tmp_path, "single-label")
    assert "\n" not in str(caught.value) and (str(path) in str(caught.value) or kind == "other task")


def test_names_that_clash_or_are_unknown(tmp_path: Path) -> None:
    """Fails if a user's data set replaces one of the survey, or an unknown name is not answered by the known ones."""
    declare(tmp_path, SINGLE)
    with pytest.raises(UserError, match=r"unknown data set 'mole': choose from moles, mesidorBin, .*mole/dataset.toml"):
        find_dataset("mole", tmp_path, "single-label")
    declare(tmp_path, SINGLE, "melBin")
    with pytest.raises(UserError, match=r"melBin/dataset.toml declares melBin, which is a data set of the survey"):
        find_dataset("melBin", tmp_path, "single-label")
    (tmp_path / "melBin" / "dataset.toml").unlink()
    assert find_dataset("melBin", tmp_path, "single-label") is DATASETS["melBin"]


def make_list(folder: Path, name: str, rows: list[str]) -> None:
    (folder / "img").mkdir(exist_ok=True)
    for row in rows:
        Image.new("RGB", (8, 8)).save(folder / "img" / row.split(",")[0])
    (folder / name).write_text("\n".join(rows) + "\n")


def test_labels_by_name(tmp_path: Path) -> None:
    """Fails if a label cannot be the name of its class, or a wrong name or a class without images is not reported."""
    folder = declare(tmp_path, f'{SINGLE}classes = ["nevus", "melanoma"]').parent
    spec = find_dataset("moles", tmp_path, "single-label")
    with pytest.raises(UserError, match=r"moles/dataset.toml: train: there is no list .*train.csv"):
        read_samples(spec, tmp_path, "train")
    make_list(folder, "train.csv", ["a.png,melanoma", "b.png,nevus", "c.png,1"])
    assert read_samples(spec, tmp_path, "train").labels.tolist() == [1, 0, 1]
    make_list(folder, "train.csv", ["a.png,melanoma", "b.png,naevus"])
    with pytest.raises(UserError, match=r"train.csv row 2: expected one of nevus, melanoma, got `naevus`"):
        read_samples(spec, tmp_path, "train")
    make_list(folder, "train.csv", ["a.png,melanoma"])
    with pytest.raises(UserError, match=r"moles/dataset.toml line 3: classes: .*train.csv has no image of nevus"):
        read_samples(spec, tmp_path, "train")


FORMS = {
    "grey": ("", lambda classes: Image.fromarray(classes)),
    "levels": ("[0, [100, 101], 255]", lambda classes: Image.fromarray(np.array([0, 101, 255], np.uint8)[classes])),
    "palette": ("[3, 0, 1]", None),
    "colours": (
        '["#000000", "#FF8000", "#0000ff"]',
        lambda classes: Image.fromarray(np.array([[0, 0, 0], [255, 128, 0], [0, 0, 255]], np.uint8)[classes]),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_masks_of_three_classes(form: str, tmp_path: Path) -> None:
    """Fails if grey levels, palette indices or colours do not become the classes that the declaration names."""
    values, make = FORMS[form]
    folder = declare(tmp_path, ORGANS + (f"mask_values = {values}\n" if values else "")).parent
    classes = np.random.default_rng(0).integers(0, 3, (8, 8)).astype(np.uint8)
    if make is None:
        picture = Image.fromarray(np.array([3, 0, 1], np.uint8)[classes], mode="P")
        picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0])
    else:
        picture = make(classes)
    (folder / "target").mkdir()
    picture.save(folder / "target" / "m.png")
    make_list(folder, "train.csv", ["a.png,m.png"])
    samples = read_samples(find_dataset("moles", tmp_path, "segmentation"), tmp_path, "train")
    assert samples.classes == 3
    assert np.array_equal(cached_masks(tmp_path, samples, workers=1).pixels[0], classes)


def test_a_value_of_no_class(tmp_path: Path) -> None:
    """Fails if a pixel of no declared class becomes background in silence."""
    Image.fromarray(np.array([[0, 1], [2, 9]], np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match="the mask has the grey values 2, 9, which mask_values gives to no class"):
        read_class_mask(tmp_path / "m.png", ((0,), (1,)))


def test_names_of_scores() -> None:
    """Fails if a finding may have the name of a score by which results tell the tasks apart."""
    assert set(SCORE_NAMES) == set(SELECTIONS)
