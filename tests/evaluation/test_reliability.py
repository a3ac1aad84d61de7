"""The reliability report: each check has something that sets it off and something that does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.data.loading import Batch, EvaluationLoader
from advmia.data.phantoms import make_phantoms
from advmia.evaluation import reliability
from advmia.evaluation.probe import Probe, probe_network, repeated, saturated, share_right
from advmia.evaluation.reliability import Check, Table, conclude, report
from advmia.losses import binary_cross_entropy, cross_entropy
from advmia.models import build_model
from advmia.results.record import CLEAN, ResultFile, ResultRow, read_results, result_stem
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from tests.support.networks import CPU, LinearNet, Snapshot, Wrapped, image_data, network, pixels, trained, unsettle
from tests.support.running import run_main

IMAGES = 40
NAMES = (
    *("black-box", "transfer", "eps order", "large eps", "zero gradients"),
    *("saturation", "outputs", "inputs", "mode"),
)
HEALTHY = Probe(
    images=200,
    attacked=60,
    holding=6,
    without_gradient=2,
    saturated=2,
    flat=2,
    repeated=99,
    not_finite=0,
    probabilities=199,
    outside=0,
    lowest=0.0,
    highest=1.0,
    unsteady=0,
    training=[],
    moved=[],
)


def loader(batch_size: int = 16, count: int = IMAGES) -> EvaluationLoader:
    return EvaluationLoader(image_data(count), batch_size, CPU)


def find(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.check == name)


def warnings(probed: Probe) -> set[str]:
    return {check.check for check in report({}, probed, score="accuracy") if check.verdict == "warning"}


# --- rows -----------------------------------------------------------------------------------------------------------

# Clean 0.9; then what each attack leaves at eps 1 and 8.
SOUND: Table = {
    (CLEAN, 0.0): 0.9,
    ("fgsm", 1.0): 0.7,
    ("fgsm", 8.0): 0.3,
    ("pgd", 1.0): 0.6,
    ("pgd", 8.0): 0.1,
    ("square", 1.0): 0.8,
    ("square", 8.0): 0.2,
    ("aa", 1.0): 0.5,
    ("aa", 8.0): 0.0,
    ("simba", 1.0): 0.01,
    ("simba", 8.0): 0.02,
}
NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "verdict", "says"),
    [
        ({}, "ok", "square leaves 0.2000 and pgd 0.1000 at eps 8"),
        ({("square", 8.0): 0.1}, "ok", "square leaves 0.1000 and pgd 0.1000 at eps 8"),
        ({("square", 8.0): 0.096}, "ok", "square leaves 0.0960 and pgd 0.1000 at eps 8"),
        ({("square", 8.0): 0.09}, "warning", "square leaves 0.0900 and pgd 0.1000 at eps 8"),
        ({("square", 1.0): 0.59}, "warning", "square leaves 0.5900 and pgd 0.6000 at eps 1"),
        ({("square", 8.0): 0.15, ("pgd", 8.0): 0.35, ("cw", 8.0): 0.2}, "warning", "cw 0.2000 at eps 8"),
        ({("square", 1.0): NAN, ("square", 8.0): NAN}, "not checked", "no rows of square"),
        ({("pgd", 1.0): NAN, ("pgd", 8.0): NAN, ("square", 8.0): 0.15}, "not checked", "and a gradient attack (pgd, "),
    ],
)
def test_black_box(change: Table, verdict: str, says: str) -> None:
    """Fails if square is compared at another eps, with the weakest attack, with FGSM (which it may well beat), with
    AutoAttack (of which it is a part), if simba counts, a hair's breadth or an undefined score does."""
    check = find(report(SOUND | change, HEALTHY, score="accuracy"), "black-box")
    assert check.verdict == verdict and says in check.reason


def test_black_box_of_a_transfer_run() -> None:
    """Fails if square, asked of the surrogate, is called a sign of the target's masked gradients."""
    check = find(report(SOUND | {("square", 8.0): 0.0}, HEALTHY, score="accuracy", transfer=True), "black-box")
    assert check.verdict == "not checked"


@pytest.mark.parametrize(
    ("change", "verdict", "says"),
    [
        ({}, "ok", "accuracy rises by no more than 0.005"),
        ({("pgd", 8.0): 0.604}, "ok", "from 0.6000 at eps 1 to 0.6040 at eps 8 under pgd"),
        ({("pgd", 8.0): 0.606}, "warning", "from 0.6000 at eps 1 to 0.6060 at eps 8 under pgd (1 of 8 steps)"),
        ({("pgd", 1.0): 0.91}, "warning", "from 0.9000 at eps 0 to 0.9100 at eps 1 under pgd"),
        ({("fgsm", 2.0): 0.2}, "warning", "from 0.2000 at eps 2 to 0.3000 at eps 8 under fgsm (1 of 9 steps)"),
        ({("simba", 8.0): 0.8}, "ok", "accuracy rises by no more than 0.005"),
        ({("pgd", 4.0): NAN}, "ok", "accuracy rises by no more than 0.005"),
    ],
)
def test_eps_order(change: Table, verdict: str, says: str) -> None:
    """Fails if attacks are mixed up, the clean score is left out, rows count in the order they were made in, a hair's
    breadth is a warning, or simba's step is taken for a bound."""
    check = find(report(SOUND | change, HEALTHY, score="accuracy"), "eps order")
    assert check.verdict == verdict and says in check.reason


def test_eps_order_of_clean_rows() -> None:
    """Fails if a run without attacks is called ordered."""
    assert find(report({(CLEAN, 0.0): 0.9}, HEALTHY, score="accuracy"), "eps order").verdict == "not checked"


WHITE: Table = {(CLEAN, 0.0): 0.9, ("pgd", 8.0): 0.2, ("fgsm", 8.0): 0.3}
FAR: Table = {(CLEAN, 0.0): 0.9, ("pgd", 8.0): 0.7, ("fgsm", 8.0): 0.7, ("cw", 8.0): 0.0}


@pytest.mark.parametrize(
    ("transfer", "table", "other", "verdict", "says"),
    [
        (True, FAR, WHITE, "ok", "fgsm at eps 8 leaves 0.7000 by transfer and 0.3000 white-box (file.json)"),
        (False, WHITE, FAR, "ok", "fgsm at eps 8 leaves 0.7000 by transfer and 0.3000 white-box (file.json)"),
        (True, FAR | {("pgd", 8.0): 0.1}, WHITE, "warning", "pgd at eps 8 leaves 0.1000 by transfer and 0.2000 white"),
        (False, WHITE, FAR | {("pgd", 8.0): 0.1}, "warning", "pgd at eps 8 leaves 0.1000 by transfer and 0.2000 white"),
        (False, WHITE, FAR | {("pgd", 8.0): 0.196}, "ok", "pgd at eps 8 leaves 0.1960 by transfer and 0.2000 white"),
        (True, FAR | {("pgd", 8.0): NAN}, WHITE | {("fgsm", 8.0): NAN}, "not checked", "no white-box results"),
        (True, {(CLEAN, 0.0): 0.8}, {(CLEAN, 0.0): 0.9}, "not checked", "this run is transfer"),
        (True, FAR, None, "not checked", "this run is transfer"),
        (False, WHITE, None, "not checked", "this run is white-box"),
    ],
)
def test_transfer(transfer: bool, table: Table, other: Table | None, verdict: str, says: str) -> None:
    """Fails if white-box and transfer change places, clean scores or rows that only one run has are compared."""
    others = {} if other is None else {"file.json": other}
    check = find(report(table, HEALTHY, score="accuracy", transfer=transfer, others=others), "transfer")
    assert check.verdict == verdict and says in check.reason


def test_every_attack_has_its_place() -> None:
    """Fails if an attack is added that the black-box check would overlook without a word."""
    assert set(ATTACKS) <= {*reliability.GRADIENT, *reliability.BLACK_BOX, *reliability.NOT_COMPARED}


# --- what was measured ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "change", "says"),
    [
        ("large eps", {"holding": 7}, "7 of 60 images (11.7%)"),
        ("zero gradients", {"without_gradient": 3}, "3 of 200 images (1.5%)"),
        ("saturation", {"saturated": 3}, "blind to them in float32 at 3 of 200 images (1.5%)"),
        ("saturation", {"flat": 3}, "between the classes at 3 of 200 images (1.5%)"),
        ("saturation", {"repeated": 100}, "100 of 199 images (50.3%): a constant"),
        ("outputs", {"probabilities": 200}, "look like probabilities at 200 of 200 images"),
        ("outputs", {"not_finite": 1}, "not all finite numbers at 1 of 200 images"),
        ("inputs", {"outside": 1, "highest": 255.0}, "1 of 200 images (0.5%) are not finite or outside [0, 1]"),
        ("mode", {"unsteady": 1}, "two passes differ at 1 of 200 images"),
        ("mode", {"training": ["a", "b", "c", "d"]}, "a, b, c and 1 more in train mode"),
        ("mode", {"moved": ["bn.running_mean"]}, "bn.running_mean changed by scoring"),
    ],
)
def test_limits(check: str, change: dict[str, object], says: str) -> None:
    """`HEALTHY` is at every limit, the change one beyond: fails if a limit moves, a check looks at another number, or
    more than the one check warns."""
    assert warnings(HEALTHY) == set()
    probed = replace(HEALTHY, **change)  # type: ignore[arg-type]
    assert warnings(probed) == {check}
    assert says in find(report({}, probed, score="accuracy"), check).reason


def test_all_checks_are_reported_in_order() -> None:
    """Fails if a check is left out, a verdict is spelled otherwise, or a line is more than one."""
    checks = report(SOUND, HEALTHY, score="accuracy")
    assert tuple(check.check for check in checks) == NAMES
    assert {check.verdict for check in checks} == {"ok", "not checked"}
    assert all(check.line == f"[{check.verdict}] {check.check}: {check.reason}" for check in checks)
    assert not any("\n" in check.line for check in checks)


# --- networks -------------------------------------------------------------------------------------------------------


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
    """Always in train mode; with p = 0 nothing else tells."""

    def train(self, mode: bool = True) -> StubbornDropout:
        return super().train(True)


def with_part(name: str, part: nn.Module) -> nn.Module:
    model = trained()
    setattr(model, name, part)
    return model


def rounded(x: Tensor) -> Tensor:
    """Six grey levels; the gradient of a step is zero."""
    return (x * 5).round() / 5


def broken(logits: Tensor) -> Tensor:
    return logits * torch.inf


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
    """Each network warns of what is wrong with it, and of nothing else: fails if a check always or never warns."""
    torch.manual_seed(0)
    assert warnings(probe_network(model(), loader(), SINGLE_LABEL)) == expected


def test_mode_names_what_is_wrong() -> None:
    """Fails if the batch norm that refuses eval mode is not named, nor the statistics that it moved."""
    probed = probe_network(with_part("bn1", StubbornNorm(8)), loader(), SINGLE_LABEL)
    assert probed.training == ["bn1"]
    assert probed.moved == ["bn1.num_batches_tracked", "bn1.running_mean", "bn1.running_var"]


def test_the_scored_networks_mode_counts() -> None:
    """Fails if a transfer run looks at the surrogate's mode alone, or attacks the target."""
    random = Before(trained(), lambda x: F.dropout(x, 0.2))
    masked = Before(trained(), rounded)
    assert warnings(probe_network(trained(), loader(), SINGLE_LABEL, scored=random)) == {"mode"}
    assert warnings(probe_network(trained(), loader(), SINGLE_LABEL, scored=masked)) == set()


@dataclass(frozen=True)
class Stretched:
    """A loader whose images are changed."""

    change: Callable[[Tensor], Tensor]
    device: torch.device = CPU

    def __iter__(self) -> Iterator[Batch]:
        return (replace(batch, x=self.change(batch.x)) for batch in loader())


def spoil_one(x: Tensor) -> Tensor:
    x = x.clone()
    x[0, 0, 0, 0] = torch.nan
    return x


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


# --- the other tasks ------------------------------------------------------------------------------------------------


class Brightness(nn.Module):
    """Segments the bright pixels: (B, 3, H, W) -> (B, 2, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        lead = 20 * (x.mean(dim=1) - 0.4)
        return torch.stack([-lead, lead], dim=1)


def labelled(task: Task) -> tuple[nn.Module, EvaluationLoader]:
    """A network that is right about nearly all there is to tell, and its list."""
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
        (MULTI_LABEL, lambda z: 1e4 * z, {"large eps", "zero gradients", "saturation"}),
        (MULTI_LABEL, lambda z: z.sigmoid(), {"outputs"}),
        (MULTI_LABEL, lambda z: 0 * z - 1, {"large eps", "zero gradients", "saturation"}),
        (SEGMENTATION, lambda z: z, set()),
        (SEGMENTATION, lambda z: 1e4 * z, {"large eps", "zero gradients", "saturation"}),
        (SEGMENTATION, lambda z: z.softmax(dim=1), {"outputs"}),
        (SEGMENTATION, lambda z: z.sigmoid() / 2, set()),
    ],
)
def test_other_tasks(task: Task, change: Callable[[Tensor], Tensor], expected: set[str]) -> None:
    """Fails if a check takes labels for classes or pixels for images, wants findings to sum to 1 or lets masks not."""
    model, data = labelled(task)
    assert warnings(probe_network(Wrapped(model, change), data, task)) == expected


@pytest.mark.parametrize(
    ("logits", "y", "expected"),
    [
        ([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]], [1, 2], [1.0, 0.0]),
        ([[-1.0, 2.0, 3.0, -4.0], [9.0, 9.0, 9.0, 9.0]], [[0.0, 1.0, 0.0, 0.0], [0.0] * 4], [0.75, 0.0]),
        ([[[[1.0, 1.0]], [[0.0, 2.0]]]], [[[0, 0]]], [0.5]),
    ],
    ids=["class", "findings", "pixels"],
)
def test_share_right(logits: list, y: list, expected: list[float]) -> None:
    """Fails if findings compete like classes, or pixels' classes do not."""
    assert share_right(torch.tensor(logits), torch.tensor(y)).tolist() == expected


# --- single measures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "expected"),
    [([16.0, 0.0, -1.0], False), ([18.0, 0.0, -1.0], True), ([0.0, 18.0, -1.0], False), ([-200.0, 0.0, -200.0], False)],
)
def test_saturated_cross_entropy(logits: list[float], expected: bool) -> None:
    """Float32 loses exp(-17) beside 1: fails if a loss of exactly 0 is not seen, or a
    mere large lead is, or the lead of a wrong class."""
    found = saturated(torch.tensor([logits]), torch.tensor([0]), cross_entropy)
    assert found.tolist() == [expected]


def test_saturated_findings() -> None:
    """Fails if findings that the loss is blind to hide behind one it sees: the loss itself is large."""
    y = torch.ones(2, 4)
    logits = torch.tensor([[90.0, 90.0, 90.0, -5.0], [90.0, -5.0, -5.0, -5.0]])
    assert saturated(logits, y, binary_cross_entropy).tolist() == [True, False]


def test_the_first_image_repeats_none() -> None:
    """Fails if the first image of the list is compared with itself, or that of a later batch with nothing."""
    logits = torch.ones(3, 2)
    assert repeated(logits, None).tolist() == [False, True, True]
    assert repeated(logits, logits[-1:]).tolist() == [True, True, True]
    assert repeated(logits, logits[-1:] + 0.002).tolist() == [False, True, True]


def test_probe_does_not_depend_on_the_batch_size() -> None:
    """Fails if images are compared within a batch alone, a short batch is lost, or noise is the batch's."""
    model = Wrapped(trained(), lambda z: (500 * z.softmax(dim=1)).round() / 10)
    found = [probe_network(model, loader(size), SINGLE_LABEL) for size in (1, 16, 64)]
    assert found[0] == found[1] == found[2]
    assert found[0].images == found[0].attacked == IMAGES
    assert 0 < found[0].repeated < IMAGES  # or the comparison would show nothing


def test_probe_looks_at_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the whole list is passed through, which on a long one would cost as much as an attack."""
    monkeypatch.setattr("advmia.evaluation.probe.PROBED", 20)
    monkeypatch.setattr("advmia.evaluation.probe.ATTACKED", 6)
    loaded = []

    class Counting(Stretched):
        def __iter__(self) -> Iterator[Batch]:
            for batch in super().__iter__():
                loaded.append(len(batch))
                yield batch

    probed = probe_network(trained(), Counting(lambda x: x), SINGLE_LABEL)  # type: ignore[arg-type]
    assert (probed.images, probed.attacked) == (20, 6)
    assert loaded == [16, 16, 16]  # two batches for the 20, one for the 6


def test_networks_are_as_before() -> None:
    """Fails if the probe leaves a network in eval mode, gathers gradients or moves its statistics."""
    model, source = unsettle(network("small")), unsettle(network("small-normalized"))
    before = Snapshot.of(model), Snapshot.of(source)
    probe_network(source, loader(), SINGLE_LABEL, scored=model)
    before[0].assert_same(model)
    before[1].assert_same(source)


# --- a run's end ----------------------------------------------------------------------------------------------------


def results_of(folder: Path, target: str, source: str, pgd: float, seed: int = 0) -> ResultFile:
    """A finished run's files, PGD at eps 8 leaving `pgd`."""
    run = {"seed": seed, "size": 16, "data": "d", "target_sha256": f"#{target}", "source_sha256": f"#{source}"}
    facts = {"dataset": "melMulti[noise]", "target_weight": f"a/{target}", "source_weight": f"b.c/{source}"}
    stem = result_stem(folder, "melMulti", Path(target), Path(source))
    results = ResultFile(stem, facts, ("accuracy",), run, {})
    for attack, eps, score in ((CLEAN, 0.0, 0.9), ("pgd", 8.0, pgd)):
        results.add(ResultRow(attack, eps, 0, 0.0, 8, {"accuracy": score}, 0.0, []))
    return results


@pytest.mark.parametrize("transfer", [False, True], ids=["white-box", "transfer"])
def test_results_beside(tmp_path: Path, transfer: bool) -> None:
    """Fails if results of another target, seed or kind are compared, or those of this target are not found."""
    own = results_of(tmp_path, "t.1", "s" if transfer else "t.1", 0.5)
    others = [("t.1", "t.1" if transfer else "s", 0.5, 1), ("t.1", "s2" if transfer else "t.1", 0.5, 0)]
    others.append(("t.12", "t.12" if transfer else "s", 0.5, 0))
    for target, source, score, seed in others:
        if (target, source) != ("t.1", "t.1") or transfer:  # never over its own file
            results_of(tmp_path, target, source, score, seed)

    def check() -> Check:
        source = trained() if transfer else None
        return find(conclude(own, loader(count=4), SINGLE_LABEL, trained(), source), "transfer")

    assert check().verdict == "not checked"
    for score, verdicts in ((0.4, ("warning", "ok")), (0.6, ("ok", "warning"))):
        results_of(tmp_path, "t.1", "t.1" if transfer else "s", score)
        found = check()
        assert found.verdict == verdicts[transfer]
        assert "melMulti__t.1" + (".json" if transfer else "__from__s.json") in found.reason


def test_the_probe_is_repeated_only_after_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a finished run pays for the probe again, or one of other facts takes over what was measured."""
    asked = []

    def counting(*args: object, **named: object) -> Probe:
        asked.append(args)
        return HEALTHY

    monkeypatch.setattr(reliability, "probe_network", counting)
    results = results_of(tmp_path, "t", "t", 0.5)
    first = conclude(results, loader(), SINGLE_LABEL, trained(), None)
    assert conclude(results, loader(), SINGLE_LABEL, trained(), None) == first and len(asked) == 1
    results.run["seed"] = 1
    conclude(results, loader(), SINGLE_LABEL, trained(), None)
    assert len(asked) == 2
    (record := json.loads(results.json_path.read_text()))["probe"].pop("flat")  # another version's
    results.json_path.write_text(json.dumps(record))
    conclude(results, loader(), SINGLE_LABEL, trained(), None)
    assert len(asked) == 3


def test_through_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """The report stands after the result lines and in the record; a run that has nothing left to do prints it again;
    fails if the surrogate is not the one probed, or the white-box file beside a transfer run is not found."""
    make_phantoms(tmp_path / "data", ["mel2017"], count=24, size=32)
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        torch.save(build_model("mv2", 2).state_dict(), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    words = ["testCls.py", "--dataset", "melBin", "--gpu", "cpu", "--imgSize", 16, "--targetModel", "mv2"]
    words += ["--targetWeight", "one", "--attacks", "fgsm", "--epsilons", 8]

    def lines(*more: str) -> list[str]:
        assert run_main(monkeypatch, [*words, *more]) == 0
        return capsys.readouterr().out.splitlines()

    printed = lines()
    record = read_results(tmp_path / "results" / "melBin__one.json")
    assert record is not None and len(record["rows"]) == 2
    assert [check["check"] for check in record["reliability"]] == list(NAMES)
    assert printed[-9:] == [f"[{c['verdict']}] {c['check']}: {c['reason']}" for c in record["reliability"]]
    assert printed[-10].startswith("\teps:8-255")
    assert find([Check(**check) for check in record["reliability"]], "inputs").verdict == "ok"
    assert record["probe"]["images"] == record["rows"][0]["n"]
    assert lines()[-9:] == printed[-9:]

    probed = []
    monkeypatch.setattr(
        reliability, "probe_network", lambda model, *_, scored, seed: probed.append((model, scored)) or HEALTHY
    )
    transferred = lines("--surrogateWeight", "two")
    assert "melBin__one.json" in next(line for line in transferred if "] transfer: " in line)
    attacked, scored = (model.state_dict()["conv1.weight"] for model in probed[0])
    weights = [torch.load(tmp_path / name, weights_only=True)["conv1.weight"] for name in ("two", "one")]
    assert torch.equal(attacked, weights[0]) and torch.equal(scored, weights[1])
