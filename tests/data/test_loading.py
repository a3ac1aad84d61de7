"""Batches: their rows, order and augmentation, none of which depends on the batch size."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from advmia.data import loading
from advmia.data.datasets import DATASETS
from advmia.data.loading import (
    Batch,
    EvaluationLoader,
    ImageData,
    Order,
    TrainingLoader,
    _prefetched,
    hold_out,
    load_data,
)
from advmia.data.markers import write_marker
from advmia.data.readers import SampleList, read_samples
from advmia.data.specs import Augmentation
from advmia.data.transforms import to_pixels
from advmia.errors import UserError

CPU = torch.device("cpu")
THREE = Augmentation(rotation=20, horizontal_flip=0.5, vertical_flip=0.5)


def some_data(labels: list[Any], *, name: str = "melMulti", side: int = 4) -> ImageData:
    """Returns images whose first two channels encode their row (below 65,536), and masks for segmentation."""
    count = len(labels)
    spec = DATASETS[name]
    dtype = torch.float32 if spec.task == "multi-label" else torch.int64
    targets = torch.empty(count, 0) if spec.task == "segmentation" else torch.tensor(labels, dtype=dtype)
    names = tuple(f"{row}.png" for row in range(count))
    samples = SampleList(
        spec=spec,
        path=Path("train.csv"),
        folder=Path(),
        row_numbers=tuple(range(1, count + 1)),
        files=names,
        labels=targets,
        masks=names if spec.task == "segmentation" else (),
        classes=int(targets.max()) + 1 if spec.task == "single-label" else 2,
        digest="0" * 64,
        label="",
    )
    images = np.zeros((count, side, side, 3), dtype=np.uint8)
    images[..., 0], images[..., 1] = (np.arange(count).reshape(-1, 1, 1) // part % 256 for part in (256, 1))
    images[:, : side // 2, :, 2] = 200  # upper and lower half differ, so that flips show
    masks = np.broadcast_to((np.arange(count) % 2).astype(np.uint8)[:, None, None], (count, side, side)).copy()
    return ImageData(samples, images, masks if spec.task == "segmentation" else None, np.arange(count), "0" * 8)


def rows_shown(x: Tensor) -> list[int]:
    """Returns the rows that a batch's pixels encode, read at the centre, which augmentation does not change."""
    centre = (x[:, :, x.shape[2] // 2, x.shape[3] // 2] * 255).round().long()
    return (centre[:, 0] * 256 + centre[:, 1]).tolist()


def training(
    data: ImageData, *, bs: int = 4, order: Order = "weighted", augmentation: Augmentation = THREE, seed: int = 0
) -> TrainingLoader:
    return TrainingLoader(data, bs, CPU, order, augmentation, seed)


def whole_epoch(loader: TrainingLoader, number: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    batches = list(loader.epoch(number))
    return tuple(torch.cat([getattr(batch, part) for batch in batches]) for part in ("x", "y", "index"))  # type: ignore[return-value]


# ---------------------------------------------------------------- evaluation


@pytest.mark.parametrize(("count", "bs", "sizes"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 16, [3]), (3, 1, [1] * 3)])
def test_evaluation_takes_every_row_once_in_order(count: int, bs: int, sizes: list[int]) -> None:
    """Fails if the last short batch is dropped or filled up, or the order or the index is not the list's."""
    data = some_data([row % 3 for row in range(count)])
    loader = EvaluationLoader(data, bs, CPU)
    for _ in range(2):  # a loader can be iterated again
        batches = list(loader)
        assert [len(batch) for batch in batches] == sizes and len(loader) == len(sizes)
        assert torch.cat([batch.index for batch in batches]).tolist() == list(range(count))
        assert [row for batch in batches for row in rows_shown(batch.x)] == list(range(count))
        assert torch.cat([batch.y for batch in batches]).tolist() == [row % 3 for row in range(count)]


def test_evaluation_pixels() -> None:
    """Fails if evaluation images are augmented, normalised or of another dtype than float32."""
    data = some_data([0, 1, 2])
    batch = next(iter(EvaluationLoader(data, 3, CPU)))
    assert isinstance(batch, Batch) and batch.x.dtype == torch.float32 and batch.x.shape == (3, 3, 4, 4)
    assert torch.equal(batch.x, to_pixels(torch.from_numpy(data.images)))
    assert batch.y.dtype == torch.int64 and batch.index.dtype == torch.int64 and batch.index.device == CPU


@pytest.mark.parametrize("bs", [1, 3, 64])
def test_index_of_a_held_out_part_is_the_row_in_the_list(bs: int) -> None:
    """Fails if a sample's noise would change with the part that it is evaluated in."""
    data = some_data([row % 2 for row in range(40)])
    _, held_out = hold_out(data, 0.25, seed=0)
    batches = list(EvaluationLoader(held_out, bs, CPU))
    index = torch.cat([batch.index for batch in batches]).tolist()
    assert index == held_out.indices.tolist() == sorted(index) and len(index) == 10
    assert [row for batch in batches for row in rows_shown(batch.x)] == index
    assert torch.cat([batch.y for batch in batches]).tolist() == [row % 2 for row in index]


def test_targets_of_each_task() -> None:
    """Fails if a criterion gets targets of another type or shape than it takes."""
    bits = [[float(row == finding) for finding in range(14)] for row in range(3)]
    multi = next(iter(EvaluationLoader(some_data(bits, name="xray_multilabel"), 3, CPU)))
    assert multi.y.dtype == torch.float32 and torch.equal(multi.y, torch.tensor(bits))
    masks = next(iter(EvaluationLoader(some_data([0] * 3, name="mel"), 3, CPU)))
    assert masks.y.dtype == torch.int64 and masks.y.shape == (3, 4, 4)
    assert masks.y[:, 0, 0].tolist() == [0, 1, 0]


def test_findings_without_an_auroc() -> None:
    """Fails if a finding that all images or none of them have is not named, or the whole list counts for a part."""
    bits = [[1.0, 0.0, float(row % 2), float(row == 5)] + [float(row % 3 == 0)] * 10 for row in range(6)]
    data = some_data(bits, name="xray_multilabel")
    assert data.undefined_findings == ["Cardiomegaly", "Emphysema"]
    part = replace(data, indices=np.arange(5))
    assert part.undefined_findings == ["Cardiomegaly", "Emphysema", "Hernia"]
    assert some_data([0, 1]).undefined_findings == some_data([0], name="mel").undefined_findings == []


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("order", ["weighted", "shuffled"])
def test_an_epoch_does_not_depend_on_the_batch_size(order: Order) -> None:
    """Fails if rows or augmentation are drawn batch by batch."""
    data = some_data([int(row > 50) for row in range(65)], side=12)
    epochs = [whole_epoch(training(data, bs=bs, order=order), 3) for bs in (1, 7, 64, 1000)]
    for other in epochs[1:]:
        for part, expected in zip(other, epochs[0], strict=True):
            assert torch.equal(part, expected)
    assert epochs[0][2].tolist() == list(range(65))


@pytest.mark.parametrize("order", ["weighted", "shuffled"])
def test_an_epoch_depends_on_seed_and_number_alone(order: Order) -> None:
    """Fails if a resumed run sees other batches than an uninterrupted one, or two epochs or seeds have equal ones."""
    data = some_data([row % 2 for row in range(40)], side=8)
    loader = training(data, order=order)
    uninterrupted = [whole_epoch(loader, number) for number in range(3)]
    torch.manual_seed(99)
    resumed = whole_epoch(training(data, order=order), 2)
    assert all(torch.equal(a, b) for a, b in zip(uninterrupted[2], resumed, strict=True))
    others = [*uninterrupted[:2], whole_epoch(training(data, order=order, seed=1), 2)]
    orders = {tuple(rows_shown(epoch[0])) for epoch in (*others, resumed)}
    assert len(orders) == 4


@pytest.mark.parametrize(("count", "bs", "sizes"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 16, [3])])
@pytest.mark.parametrize("order", ["weighted", "shuffled"])
def test_batch_sizes(order: Order, count: int, bs: int, sizes: list[int]) -> None:
    """Fails if the last short batch is dropped: the published code keeps it."""
    loader = training(some_data([row % 2 for row in range(count)]), bs=bs, order=order)
    assert [len(batch) for batch in loader.epoch(0)] == sizes and len(loader) == len(sizes)


@pytest.mark.parametrize(
    ("count", "bs", "ranks", "smallest", "sizes"),
    [
        (15, 7, 1, 2, [7, 8]),
        (15, 7, 1, 1, [7, 7, 1]),
        (16, 7, 1, 2, [7, 7, 2]),
        (19, 8, 2, 2, [8, 11]),  # 3 images would be shares of 2 and 1
        (20, 8, 2, 2, [8, 8, 4]),
        (3, 7, 1, 2, [3]),
    ],
)
def test_a_last_batch_that_is_too_small(count: int, bs: int, ranks: int, smallest: int, sizes: list[int]) -> None:
    """Fails if batch norm could meet a share of one image, or an image is left out, shown twice or weighted wrongly."""
    loaders = [
        replace(
            training(some_data([0] * count), bs=bs, order="shuffled"),
            rank=rank,
            world_size=ranks,
            smallest_share=smallest,
        )
        for rank in range(ranks)
    ]
    epochs = [list(loader.epoch(0)) for loader in loaders]
    assert [len(loader) for loader in loaders] == [len(sizes)] * ranks
    for batches in epochs:
        assert [batch.global_size for batch in batches] == sizes
        assert smallest == 1 or min(map(len, batches)) >= smallest
    for index, size in enumerate(sizes):
        assert sum(batches[index].weight for batches in epochs) == pytest.approx(ranks)
        assert sum(len(batches[index]) for batches in epochs) == size
    assert sorted(row for batches in epochs for batch in batches for row in rows_shown(batch.x)) == list(range(count))
    resumed = list(loaders[0].epoch(0, skip=len(sizes) - 1))
    assert [batch.global_size for batch in resumed] == sizes[-1:]


def test_weighted_sampling_evens_out_the_classes() -> None:
    """Fails if classes are drawn as often as they are in the list, or one sample of a class is preferred."""
    labels = [0] * 90 + [1] * 8 + [2] * 2
    data = some_data(labels, side=1)
    drawn: list[int] = []
    for number in range(300):
        x, y, _ = whole_epoch(training(data, bs=100, augmentation=Augmentation()), number)
        rows = rows_shown(x)
        assert len(rows) == 100  # N draws an epoch
        assert y.tolist() == [labels[row] for row in rows]
        drawn += rows
    counts = np.bincount(drawn, minlength=100)
    shares = np.array([counts[:90].sum(), counts[90:98].sum(), counts[98:].sum()]) / len(drawn)
    assert np.abs(shares - 1 / 3).max() < 0.015
    for members in (counts[90:98], counts[98:]):
        assert np.abs(members / members.mean() - 1).max() < 0.12
    assert counts[:90].min() > 0


def test_weighted_sampling_draws_with_replacement() -> None:
    """Fails if every row is drawn once: rare classes would not be seen more often than they are in the list."""
    x, _, _ = whole_epoch(training(some_data([0] * 30 + [1] * 2)))
    assert len(set(rows_shown(x))) < 32


def test_weighted_sampling_of_a_part() -> None:
    """Fails if rows that were held out are trained on, or weights are counted over the whole list."""
    data = some_data([0] * 60 + [1] * 20, side=1)
    rest, held_out = hold_out(data, 0.25, seed=0)
    assert len(training(rest, bs=1)) == 60
    rows = [row for number in range(100) for row in rows_shown(whole_epoch(training(rest, bs=60), number)[0])]
    assert set(rows) == set(rest.indices.tolist()) and not set(rows) & set(held_out.indices.tolist())
    assert abs(np.mean(np.array(rows) >= 60) - 0.5) < 0.03


def test_shuffled_order_is_a_permutation() -> None:
    """Fails if rows are repeated or left out, or if every epoch has the same order."""
    loader = training(some_data([0, 1] * 20), bs=7, order="shuffled")
    orders = [rows_shown(whole_epoch(loader, number)[0]) for number in range(3)]
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert len({tuple(order) for order in (*orders, list(range(40)))}) == 4


def test_masks_stay_with_their_images() -> None:
    """Fails if images and masks are shuffled differently."""
    data = some_data([0] * 30, name="mel")
    for batch in training(data, bs=8, order="shuffled", augmentation=data.samples.spec.augmentation).epoch(0):
        rows = torch.tensor(rows_shown(batch.x))
        assert torch.equal(batch.y, (rows % 2)[:, None, None].expand(-1, 4, 4))


def test_multi_label_targets_stay_with_their_images() -> None:
    """Fails if bits and images are shuffled differently."""
    bits = [[float(row >> finding & 1) for finding in range(14)] for row in range(40)]
    data = some_data(bits, name="xray_multilabel")
    for batch in training(data, bs=8, order="shuffled", augmentation=Augmentation(horizontal_flip=0.5)).epoch(0):
        assert batch.y.tolist() == [bits[row] for row in rows_shown(batch.x)]


def test_each_sample_is_augmented_by_its_own_draw() -> None:
    """Fails if all images of a batch are flipped together, or not about half of them."""
    data = some_data([0, 1] * 200)
    x, _, _ = whole_epoch(training(data, bs=400, order="shuffled", augmentation=Augmentation(vertical_flip=0.5)))
    flipped = x[:, 2, 0, 0] == 0
    assert 0.42 < flipped.double().mean() < 0.58
    runs = (flipped[1:] != flipped[:-1]).sum()
    assert 150 < runs < 250


def test_no_augmentation_gives_the_evaluations_pixels() -> None:
    """Fails if training changes images of a data set that has no augmentation."""
    data = some_data([0, 1] * 5)
    x, _, _ = whole_epoch(training(data, order="shuffled", augmentation=Augmentation()))
    assert torch.equal(x, to_pixels(torch.from_numpy(data.images[rows_shown(x)])))


# ---------------------------------------------------------------- holding out


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_hold_out_keeps_the_shares_of_the_classes(fraction: float) -> None:
    """Fails if rows are in both parts or in none, or a rare class is in one part alone."""
    labels = [0] * 200 + [1] * 60 + [2] * 20
    data = some_data(labels, side=1)
    rest, held_out = hold_out(data, fraction, seed=3)
    assert sorted([*rest.indices, *held_out.indices]) == list(range(280))
    assert len(held_out) == round(280 * fraction) and len(rest) == 280 - len(held_out)
    for label, count in enumerate((200, 60, 20)):
        assert abs(sum(labels[row] == label for row in held_out.indices) - fraction * count) <= 1
    assert held_out.samples.classes == rest.samples.classes == 3


def test_hold_out_depends_on_the_seed_alone() -> None:
    """Fails if a resumed run would choose its best epoch on other images."""
    data = some_data([0, 1] * 50, side=1)
    parts = [hold_out(data, 0.2, seed=seed)[1].indices.tolist() for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


@pytest.mark.parametrize(("name", "label"), [("mel", 0), ("xray_multilabel", [0.0] * 14)])
def test_hold_out_without_classes(name: str, label: object) -> None:
    """Fails if a list without one class a row cannot be split."""
    rest, held_out = hold_out(some_data([label] * 20, name=name, side=1), 0.25, seed=0)
    assert sorted([*rest.indices, *held_out.indices]) == list(range(20)) and len(held_out) == 5


def test_hold_out_of_a_part() -> None:
    """Fails if a part's rows are matched with the whole list's labels."""
    data = some_data([0] * 60 + [1] * 20, side=1)
    part, _ = hold_out(data, 0.5, seed=0)
    rest, held_out = hold_out(part, 0.5, seed=0)
    assert sorted([*rest.indices, *held_out.indices]) == part.indices.tolist()
    assert (held_out.indices >= 60).sum() == 5


@pytest.mark.parametrize(
    ("labels", "fraction"),
    [
        pytest.param([0, 1] * 10, 0.0, id="nothing"),
        pytest.param([0, 1] * 10, 1.0, id="everything"),
        pytest.param([0, 1] * 10, 1.5, id="more than everything"),
        pytest.param([0, 1] * 10, -0.1, id="negative"),
        pytest.param([0, 1] * 10, float("nan"), id="not a number"),
        pytest.param([0, 1] * 10, 0.05, id="fewer rows than classes"),
        pytest.param([0] * 10 + [1], 0.3, id="a class of one row"),
        pytest.param([0], 0.5, id="one row"),
    ],
)
def test_hold_out_of_a_bad_fraction(labels: list[int], fraction: float) -> None:
    """Fails if scikit-learn's error is not turned into a message that names the flag."""
    with pytest.raises(UserError) as caught:
        hold_out(some_data(labels, side=1), fraction, seed=0)
    text = str(caught.value)
    assert text.startswith(f"cannot hold out {fraction} of the {len(labels)} rows of train.csv (")
    assert text.endswith("change --valFraction") and "\n" not in text


# ---------------------------------------------------------------- from files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Returns a data root with a segmentation list; mask n is the red channel of image n, which is 0 or 255."""
    spec = DATASETS["mel"]
    rng = np.random.default_rng(0)
    for folder in ("img", "target"):
        (tmp_path / spec.folder / folder).mkdir(parents=True)
    for number in range(6):
        image = rng.choice(np.array([0, 255], dtype=np.uint8), (16, 16, 3))
        Image.fromarray(image).save(tmp_path / spec.folder / "img" / f"{number}.png")
        Image.fromarray(image[..., 0]).save(tmp_path / spec.folder / "target" / f"m{number}.png")
    rows = "".join(f"{number}.png,m{number}.png\n" for number in (3, 0, 5, 1, 4, 2))
    spec.list_path(tmp_path, "train").write_text(rows)
    return tmp_path


def load(root: Path, limit: int | None = None) -> ImageData:
    samples = read_samples(DATASETS["mel"].at_size(16), root, "train")
    return load_data(root, samples.subset(limit), workers=2)


def test_masks_of_files_stay_with_their_images(root: Path) -> None:
    """Fails if the two caches hold their rows in different orders."""
    data = load(root)
    evaluation = list(EvaluationLoader(data, 4, CPU))
    for batch in (*evaluation, *training(data, order="shuffled", augmentation=Augmentation()).epoch(0)):
        assert torch.equal(batch.y, batch.x[:, 0].long())
    assert sum(len(batch) for batch in evaluation) == 6


def test_facts_tell_data_apart(root: Path) -> None:
    """Fails if a record is the same for two runs with different lists, pixels, masks or markers."""
    facts = [load(root).facts, load(root, 3).facts]
    folder = root / "mel2017"
    image = np.zeros((16, 16), dtype=np.uint8)
    Image.fromarray(image).save(folder / "target" / "m0.png")
    facts.append(load(root).facts)
    Image.fromarray(image).save(folder / "img" / "0.png")
    facts.append(load(root).facts)
    write_marker(folder, ["trainSeg.csv"], {"label": "phantom"})
    facts.append(load(root).facts)
    path = folder / "trainSeg.csv"
    path.write_text(path.read_text() + "\n")
    facts.append(load(root).facts)
    assert len({tuple(sorted(fact.items())) for fact in facts}) == len(facts)
    assert [fact["content"] for fact in facts] == ["official"] * 4 + ["phantom"] * 2
    assert [fact["images"] for fact in facts] == [6, 3, 6, 6, 6, 6]
    assert facts[0]["list"] == "trainSeg.csv"


@pytest.mark.gpu
def test_batches_on_a_gpu(gpu: torch.device) -> None:
    """Fails if a batch on the GPU has other pixels or rows, or an index that is not on the CPU."""
    data = some_data([0, 1] * 20, side=12)
    for number in range(2):
        on_gpu = TrainingLoader(data, 8, gpu, "weighted", THREE, 0)
        for ours, theirs in zip(on_gpu.epoch(number), training(data, bs=8).epoch(number), strict=True):
            assert ours.x.is_cuda and ours.y.is_cuda and ours.index.device == CPU
            assert torch.equal(ours.x.cpu(), theirs.x) and torch.equal(ours.y.cpu(), theirs.y)


# ---------------------------------------------------------------- where pixels are kept


def test_a_copy_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a piece is left out or in another position."""
    array = np.random.default_rng(0).integers(256, size=(7, 2, 2, 3), dtype=np.uint8)
    monkeypatch.setattr(loading, "_COPY_BYTES", 24)
    assert torch.equal(loading._copied(array, CPU), torch.from_numpy(array))


@pytest.mark.parametrize("name", ["melMulti", "mel", "xray_multilabel"])
def test_preloaded_pixels_give_the_same_batches(name: str) -> None:
    """Fails if preloaded images or masks are those of other rows, or of another dtype."""
    labels = [[0.0] * 14] * 9 if name == "xray_multilabel" else [0, 1, 2] * 3
    data = some_data(labels, name=name)
    masks = None if data.masks is None else torch.from_numpy(data.masks)
    preloaded = replace(data, preloaded=(torch.from_numpy(data.images), masks))
    order: Order = "weighted" if name == "melMulti" else "shuffled"
    for expected, batch in zip(
        [*EvaluationLoader(data, 4, CPU), *training(data, order=order).epoch(1)],
        [*EvaluationLoader(preloaded, 4, CPU), *training(preloaded, order=order).epoch(1)],
        strict=True,
    ):
        assert batch.y.dtype == expected.y.dtype
        assert all(torch.equal(getattr(batch, part), getattr(expected, part)) for part in ("x", "y", "index"))


def test_a_cpu_keeps_no_copy() -> None:
    """Fails if the CPU's memory has a second copy of the pixels."""
    assert some_data([0, 1]).preload(CPU).preloaded is None


def test_one_batch_is_read_ahead() -> None:
    """Fails if batches change their order, one is lost, none is read ahead, or more than one is."""
    produced: list[int] = []

    def items() -> Iterator[int]:
        for item in range(4):
            produced.append(item)
            yield item

    ahead = _prefetched(items())
    assert next(ahead) == 0
    deadline = time.monotonic() + 10
    while len(produced) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert produced == [0, 1]
    assert list(ahead) == [1, 2, 3]


def test_an_error_while_reading_ahead_is_raised() -> None:
    """Fails if an error in the reading thread is lost."""

    def items() -> Iterator[int]:
        yield 0
        raise KeyError("the disk")

    ahead = _prefetched(items())
    assert next(ahead) == 0
    with pytest.raises(KeyError):
        next(ahead)


@pytest.mark.gpu
@pytest.mark.parametrize("share", [1.0, 0.0], ids=["preloaded", "read ahead"])
def test_where_a_gpu_finds_its_pixels(share: float, monkeypatch: pytest.MonkeyPatch, gpu: torch.device) -> None:
    """Fails if pixels or augmentation differ from those on a CPU, or a list that fits the memory is not preloaded."""
    monkeypatch.setattr("advmia.data.loading.PRELOAD_FRACTION", share)
    data = some_data([0, 1, 2] * 3, side=16)
    data_on_gpu = data.preload(gpu)
    assert (data_on_gpu.preloaded is not None) == (share == 1.0)
    expected = [*EvaluationLoader(data, 4, CPU), *training(data).epoch(1)]
    batches = [*EvaluationLoader(data_on_gpu, 4, gpu), *replace(training(data_on_gpu), device=gpu).epoch(1)]
    for ours, theirs in zip(batches, expected, strict=True):
        assert torch.equal(ours.x.cpu(), theirs.x) and torch.equal(ours.y.cpu(), theirs.y)
