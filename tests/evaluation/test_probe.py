"""The probe: each kind of faulty network is recognised by what is measured, and a sound one has no fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.budgets import pgd_budget
from advmia.data.datasets import DATASETS
from advmia.data.loading import Batch, EvaluationLoader
from advmia.evaluation import probe
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.evaluation.probe import probe_network, repeated, saturated, scored_right
from advmia.losses import binary_cross_entropy, cross_entropy
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from tests.evaluation.probes import IMAGES, loader, warnings
from tests.support.networks import CPU, LinearNet, Snapshot, Wrapped, image_data, network, pixels, trained, unsettle

few_steps = pytest.mark.usefixtures("few_steps")  # at the large eps 4 steps find the same faults as 20


class Before(nn.Module):
    """A network whose images pass through `change`."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.change(x))


class StubbornNorm(nn.BatchNorm2d):
    """A batch norm that is always in train mode."""

    def train(self, mode: bool = True) -> StubbornNorm:
        return super().train(True)


class StubbornDropout(nn.Dropout):
    """A dropout that is always in train mode; with p = 0 only its mode shows it."""

    def train(self, mode: bool = True) -> StubbornDropout:
        return super().train(True)


def with_part(name: str, part: nn.Module) -> nn.Module:
    model = trained()
    setattr(model, name, part)
    return model


def rounded(x: Tensor) -> Tensor:
    """Rounds images to six grey levels, so that the input gradient is zero."""
    return (x * 5).round() / 5


def broken(logits: Tensor) -> Tensor:
    return logits * torch.inf


@few_steps
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (trained, set()),
        (lambda: trained().train(), set()),
        (lambda: Wrapped(trained(), lambda z: 1e4 * z), {"large eps", "zero gradients", "saturation"}),
        (lambda: Wrapped(trained(), lambda z: 1e-6 * z), {"saturation"}),
        (lambda: Wrapped(trained(), lambda z: z.softmax(dim=1)), {"outputs"}),
        (lambda: Wrapped(trained(), lambda z: z.log_softmax(dim=1)), set()),
        (lambda: Wrapped(trained(), broken), {"large eps", "zero gradients", "outputs"}),
        (lambda: Before(trained(), rounded), {"large eps", "zero gradients"}),
        (lambda: Before(trained(), lambda x: F.dropout(x, 0.2)), {"mode"}),
        (lambda: Wrapped(trained(), lambda z: F.dropout(z, 0.2, training=False)), set()),
        (
            lambda: Wrapped(trained(), lambda z: 0 * z + torch.arange(3)),
            {"large eps", "zero gradients", "saturation"},
        ),
        (lambda: with_part("dropout", StubbornDropout(0)), {"mode"}),
    ],
    ids=[
        *("sound", "handed over in train mode", "logits x 1e4", "logits x 1e-6", "probabilities", "log-probabilities"),
        *("infinite logits", "rounded images", "dropout that stays on", "dropout that is off", "constant"),
        "module that stays in train mode",
    ],
)
def test_networks(model: Callable[[], nn.Module], expected: set[str]) -> None:
    """Fails if a check does not warn of the network that has its fault, or warns of another network."""
    torch.manual_seed(0)
    assert warnings(probe_network(model(), loader(), SINGLE_LABEL)) == expected


@few_steps
def test_mode_names_what_is_wrong() -> None:
    """Fails if the batch norm that stays in train mode is not named, or the statistics that it changed are not."""
    probed = probe_network(with_part("bn1", StubbornNorm(8)), loader(), SINGLE_LABEL)
    assert probed.training == ["bn1"]
    assert probed.moved == ["bn1.num_batches_tracked", "bn1.running_mean", "bn1.running_var"]


@few_steps
def test_the_mode_of_the_target_counts() -> None:
    """Fails if in a transfer run only the source's mode is checked, or the target is attacked."""
    random = Before(trained(), lambda x: F.dropout(x, 0.2))
    masked = Before(trained(), rounded)
    assert warnings(probe_network(trained(), loader(), SINGLE_LABEL, target=random)) == {"mode"}
    assert warnings(probe_network(trained(), loader(), SINGLE_LABEL, target=masked)) == set()


@dataclass(frozen=True)
class Stretched:
    """A loader whose images pass through `change`."""

    change: Callable[[Tensor], Tensor]
    device: torch.device = CPU

    def __iter__(self) -> Iterator[Batch]:
        return (replace(batch, x=self.change(batch.x)) for batch in loader())


def spoil_one(x: Tensor) -> Tensor:
    x = x.clone()
    x[0, 0, 0, 0] = torch.nan
    return x


@few_steps
@pytest.mark.parametrize(
    ("change", "outside", "highest"),
    [
        (lambda x: x, 0, 1.0),
        (lambda x: 255 * x, IMAGES, 255.0),
        (lambda x: x - 0.01, IMAGES, 0.99),
        (spoil_one, 3, 1.0),
    ],
    ids=["pixels", "grey levels", "below 0", "NaN"],
)
def test_inputs(change: Callable[[Tensor], Tensor], outside: int, highest: float) -> None:
    """Fails if grey levels, negative pixels or NaN (one image in each of three batches) pass for pixels in [0, 1]."""
    probed = probe_network(trained(), Stretched(change), SINGLE_LABEL)  # type: ignore[arg-type]
    assert (probed.outside, probed.highest) == (outside, pytest.approx(highest))
    assert ("inputs" in warnings(probed)) == bool(outside)


# ---------------------------------------------------------------- the other tasks


class Brightness(nn.Module):
    """Segments the bright pixels: (B, 3, H, W) -> (B, 2, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        lead = 20 * (x.mean(dim=1) - 0.4)
        return torch.stack([-lead, lead], dim=1)


def labelled(task: Task) -> tuple[nn.Module, EvaluationLoader]:
    """A network that is right on nearly all decisions, and a loader of its images."""
    data, (x, _) = image_data(12), pixels(12)
    if task is SEGMENTATION:
        masks = (x.mean(dim=1) > 0.4).numpy().astype(np.uint8)
        return Brightness(), EvaluationLoader(replace(data, masks=masks), 5, CPU)
    model = Wrapped(LinearNet(14, 16), lambda z: z / 4)
    with torch.no_grad():
        labels = (model(x) > 0).float()
    return model, EvaluationLoader(replace(data, samples=replace(data.samples, labels=labels)), 5, CPU)


@pytest.mark.parametrize(
    ("task", "change", "expected"),
    [
        (MULTI_LABEL, lambda z: z, set()),
        (MULTI_LABEL, lambda z: z.sigmoid(), {"outputs"}),
        (MULTI_LABEL, lambda z: 0 * z - 1, {"large eps", "zero gradients", "saturation"}),
        (SEGMENTATION, lambda z: z, set()),
        (SEGMENTATION, lambda z: 1e4 * z, {"large eps", "zero gradients", "saturation"}),
        (SEGMENTATION, lambda z: z.softmax(dim=1), {"outputs"}),
        (SEGMENTATION, lambda z: z.sigmoid() / 2, set()),
    ],
)
def test_other_tasks(task: Task, change: Callable[[Tensor], Tensor], expected: set[str]) -> None:
    """Fails if findings are taken for classes or pixels for images, or probabilities of findings must sum to 1."""
    model, data = labelled(task)
    assert warnings(probe_network(Wrapped(model, change), data, task)) == expected


def test_findings_without_gradients() -> None:
    """Fails if findings without a gradient are not noticed.

    The large eps is not judged here: PGD stays at its random start, and chance decides what this leaves in order.
    """
    model, data = labelled(MULTI_LABEL)
    found = warnings(probe_network(Wrapped(model, lambda z: 1e4 * z), data, MULTI_LABEL))
    assert found - {"large eps"} == {"zero gradients", "saturation"}


@pytest.mark.parametrize(
    ("logits", "y", "expected"),
    [
        ([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]], [1, 2], [1.0, 0.0]),
        # The second finding ranks the first image above the others, one of which has it too; the third is a tie.
        (
            [[-9.0, 2.0, 0.0, 5.0], [-8.0, 1.0, 0.0, 5.0], [-7.0, 0.0, 1.0, 5.0], [3.0, 3.0, 3.0, 3.0]],
            [[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]],
            [(0 + 0 + 0 + 0 + 0.5 + 0 + 0) / 7, (0 + 0 + 0.5) / 3, (0 + 0 + 0 + 0 + 0) / 5, (0 + 0 + 0) / 3],
        ),
        ([[1.0], [2.0]], [[0.0], [0.0]], []),
        ([[[[1.0, 1.0]], [[0.0, 2.0]]]], [[[0, 0]]], [(2 / 3 + 0) / 2]),
        ([[[[1.0, 1.0]], [[0.0, 0.0]]]], [[[0, 0]]], [1.0]),
    ],
    ids=["class", "findings", "no pair", "pixels", "no foreground"],
)
def test_scored_right(logits: list, y: list, expected: list[float]) -> None:
    """Fails if an image counts as right where the task's score does not count it, or the other way round."""
    assert scored_right(torch.tensor(logits), torch.tensor(y)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("task", [MULTI_LABEL, SEGMENTATION])
def test_rare_positives(task: Task) -> None:
    """Fails if the large eps leaves no score, but most decisions right, since most are negative, and that is a warning:
    the AUROC of the attacked images is near 0, and so is the Dice of their foreground."""
    data, (x, _) = image_data(12), pixels(12)
    if task is SEGMENTATION:
        masks = (x.mean(dim=1) > x.mean(dim=1).quantile(0.9)).numpy().astype(np.uint8)
        model: nn.Module = Wrapped(Brightness(), lambda z: torch.stack([z[:, 0] * 0.05 + 5, z[:, 1] * 0.05], dim=1))
        data = replace(data, masks=masks)
    else:
        linear = LinearNet(14, 16)
        with torch.no_grad():
            raw = linear(x)
        labels = (raw == raw.amax(dim=0)).float()  # each finding has one image
        model, data = (
            Wrapped(linear, lambda z: z / 100 - 9),
            replace(data, samples=replace(data.samples, labels=labels, spec=DATASETS["xray_multilabel"])),
        )
    images = EvaluationLoader(data, 5, CPU)
    probed = probe_network(model, images, task)
    assert probed.attacked == 12 and probed.holding == 0 and warnings(probed) == set()
    attack = ATTACKS["pgd"].build(pgd_budget(64), task.objective)
    options = EvaluationOptions((0, "reliability", 64.0))
    scores = evaluate(model, images, task, attack, options=options).scores
    assert scores[task.selection] < (0.01 if task is MULTI_LABEL else 0.5)


# ---------------------------------------------------------------- single measures


@pytest.mark.parametrize(
    ("logits", "expected"),
    [([16.0, 0.0, -1.0], False), ([18.0, 0.0, -1.0], True), ([0.0, 18.0, -1.0], False), ([-200.0, 0.0, -200.0], False)],
)
def test_saturated_cross_entropy(logits: list[float], expected: bool) -> None:
    """Fails if a loss of exactly 0 is overlooked (1 + exp(-17) is 1 in float32), or a large lead that the loss still
    depends on, or the lead of a wrong class, counts as saturated."""
    assert saturated(torch.tensor([logits]), torch.tensor([0]), cross_entropy).tolist() == [expected]


def test_saturated_findings() -> None:
    """Fails if saturated findings are overlooked because another finding makes the loss large."""
    y = torch.ones(2, 4)
    logits = torch.tensor([[90.0, 90.0, 90.0, -5.0], [90.0, -5.0, -5.0, -5.0]])
    assert saturated(logits, y, binary_cross_entropy).tolist() == [True, False]


def test_the_first_image_repeats_none() -> None:
    """Fails if the first image of the list is compared with itself, or the first of a later batch with none."""
    logits = torch.ones(3, 2)
    assert repeated(logits, None).tolist() == [False, True, True]
    assert repeated(logits, logits[-1:]).tolist() == [True, True, True]
    assert repeated(logits, logits[-1:] + 0.002).tolist() == [False, True, True]


@few_steps
def test_probe_does_not_depend_on_the_batch_size() -> None:
    """Fails if images are compared within a batch only, a short batch is lost, or random numbers belong to a batch."""
    model = Wrapped(trained(), lambda z: (500 * z.softmax(dim=1)).round() / 10)
    first, second, third = (probe_network(model, loader(size), SINGLE_LABEL) for size in (1, 16, 64))
    assert first == second == third
    assert first.images == first.attacked == IMAGES
    assert 0 < first.repeated < IMAGES  # or the comparison would show nothing


@few_steps
def test_probe_looks_at_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the whole list is measured, which for a long list would take as long as an attack."""
    monkeypatch.setattr(probe, "PROBED", 20)
    monkeypatch.setattr(probe, "ATTACKED", 6)
    loaded = []

    class Counting(Stretched):
        def __iter__(self) -> Iterator[Batch]:
            for batch in super().__iter__():
                loaded.append(len(batch))
                yield batch

    probed = probe_network(trained(), Counting(lambda x: x), SINGLE_LABEL)  # type: ignore[arg-type]
    assert (probed.images, probed.attacked) == (20, 6)
    assert loaded == [16, 16, 16]  # two batches for the 20, one for the 6


@few_steps
def test_networks_are_as_before() -> None:
    """Fails if the probe leaves a network in eval mode, with gradients, or with other running statistics."""
    model, source = unsettle(network("small")), unsettle(network("small-normalized"))
    before = Snapshot.of(model), Snapshot.of(source)
    probe_network(source, loader(), SINGLE_LABEL, target=model)
    before[0].assert_same(model)
    before[1].assert_same(source)
