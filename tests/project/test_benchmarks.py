"""Every benchmark runs, on next to nothing, and writes what it promises; and the plain code they measure against is
right. No time is tested."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advmia.attacks.gradient import cw, fgsm, pgd
from advmia.attacks.inference import Blocks
from advmia.attacks.simba_dct import draw_directions, simba
from advmia.budgets import Budget, cw_budget, fgsm_budget
from advmia.data.transforms import load_image
from advmia.losses import confident_margin, cross_entropy, pixel_cross_entropy
from advmia.runtime import machine
from advmia.runtime.precision import FP32
from advmia.tasks import SEGMENTATION
from advmia.training import methods
from advmia.training.methods import HAT, MART, TRADES
from benchmarks import evaluation, plain, steps, timing
from benchmarks.timing import Passes, alternate, counting, counting_asked
from tests.support.networks import SmallNet, SmallSegmenter, Wrapped, pixels, share_equal, streams, targets, trained
from tests.support.running import ROOT, run_well

IMAGES = 16
CPU = torch.device("cpu")
BUDGET = Budget.grey(8, 10, 2)


# --- the plain code --------------------------------------------------------------------------------------------------


def test_plain_pgd_is_ours() -> None:
    """Fails when the two ascend another loss, step or project otherwise: the ratio would compare different work."""
    model = trained()
    x, y = pixels(IMAGES)
    ours = pgd(BUDGET, cross_entropy, random_start=False)(model, x, y, rng=streams(IMAGES))
    assert share_equal(plain.pgd(model, x, y, BUDGET, start=x), ours) > 0.999
    assert any(parameter.grad is not None for parameter in model.parameters()), "nothing was thrown away"


def test_plain_fgsm_and_cw_are_ours() -> None:
    """Fails as above; CW starts at random, so that it is held to the loss it reaches."""
    model = trained()
    x, y = pixels(IMAGES)
    budget = fgsm_budget(4)
    ours = fgsm(budget, cross_entropy)(model, x, y, rng=streams(IMAGES))
    assert share_equal(plain.fgsm(model, x, y, budget), ours) > 0.999
    found = plain.cw(model, x, y, cw_budget(4)), cw(cw_budget(4), confident_margin)(model, x, y, rng=streams(IMAGES))
    with torch.no_grad():
        theirs, ours = (confident_margin(model(x_adv), y).mean() for x_adv in found)
        before = confident_margin(model(x), y).mean()
    assert theirs > before
    torch.testing.assert_close(theirs, ours, rtol=0.02, atol=0)


def test_plain_ascent_starts_near_x() -> None:
    """Fails when the KL attack leaves its budget, or the clean pass at each step changes what is ascended."""
    model = trained()
    x, _ = pixels(IMAGES)
    torch.manual_seed(0)
    once = plain.divergence_ascent(model, x, BUDGET, clean_each_step=False)
    torch.manual_seed(0)
    each_step = plain.divergence_ascent(model, x, BUDGET, clean_each_step=True)
    assert share_equal(once, each_step) > 0.999
    assert 0 < (once - x).abs().max() <= BUDGET.eps + 1e-6


class Helper(nn.Module):
    """Says class 0 always: not what any label says."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([5.0, 0.0, 0.0]).expand(len(x), 3)


LOSSES: dict[str, tuple[object, Callable[..., Tensor]]] = {
    "trades": (TRADES(BUDGET, 6.0), lambda *args: plain.trades_loss(*args, 6.0)),
    "mart": (MART(BUDGET, 6.0), lambda *args: plain.mart_loss(*args, 6.0)),
    "hat": (HAT(BUDGET, 6.0, Helper()), lambda *args: plain.hat_loss(*args, 6.0, Helper())),
}


@pytest.mark.parametrize("name", LOSSES)
def test_plain_losses_are_ours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a term is left out, weighted otherwise, or its gradient is another."""
    model = trained().train()
    x, y = pixels(IMAGES)
    x_adv = (x + 8 / 255 * torch.randn_like(x).sign()).clamp(0, 1)
    monkeypatch.setattr(methods, "divergence_ascent", lambda *_: x_adv)
    monkeypatch.setattr(methods, "_ascend_from_normal", lambda *_: x_adv)
    method, theirs = LOSSES[name]
    losses = [method(model, x, y, rng=streams(IMAGES)), theirs(model, x, x_adv, y)]  # type: ignore[operator]
    torch.testing.assert_close(losses[1], losses[0])
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)


def test_plain_steps_train_in_train_mode() -> None:
    """Fails when a step attacks in train mode, or updates in eval mode."""
    x, y = pixels(4)
    for name, loss in plain.step_losses(Budget.grey(8, 2, 2), 6.0, Helper()).items():
        model = SmallNet(3)
        running = model.bn1.running_mean.clone()
        modes: list[bool] = []
        model.register_forward_pre_hook(lambda module, _, modes=modes: modes.append(module.training))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before = model.linear.weight.detach().clone()
        plain.training_step(model, optimizer, loss, x, y)
        assert modes == sorted(modes) and modes[-1] and not modes[0], name
        assert not torch.equal(running, model.bn1.running_mean) and not torch.equal(before, model.linear.weight), name


def test_plain_simba_is_ours() -> None:
    """Fails when the basis, the order of trials or what is kept differs: given one order, both go the same way.

    Logits are made small: near 1 the plain side's probabilities are rounded to a standstill, and the two part.
    """
    model = Wrapped(trained(hardened=6), lambda logits: logits / 10).eval()
    x, y = pixels(IMAGES)
    budget = Budget.grey(8, 40, 8)
    order = draw_directions(x, 40, streams(IMAGES))
    ours = simba(budget, cross_entropy)(model, x, y, rng=streams(IMAGES))
    theirs = plain.simba_dct(model, x, y, budget.eps, budget.steps, order)
    assert not torch.equal(ours, x)
    assert share_equal(theirs, ours) > 0.999


def test_plain_decoding_without_augmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when resize or crop differ from the product's."""
    from PIL import Image

    noise = torch.randint(256, (50, 70, 3), dtype=torch.uint8).numpy()
    Image.fromarray(noise).save(tmp_path / "a.png")
    monkeypatch.setattr(torch, "rand", lambda count: torch.full((count,), 0.5))  # no angle, no flip
    expected = torch.from_numpy(load_image(tmp_path / "a.png", 36, 32).copy()).permute(2, 0, 1) / 255
    for rotation in (20.0, None):
        x, label = plain.DecodedImages([tmp_path / "a.png"], [1], 36, 32, rotation)[0]
        assert torch.equal(x, expected) and label == 1


# --- counting and timing ---------------------------------------------------------------------------------------------


def test_counts_of_passes() -> None:
    """Fails when gradients by the parameters are missed, or counted where none are asked for."""
    model, (x, y) = SmallNet(3), pixels(4)
    with counting(model) as passes:
        plain.pgd(model, x, y, Budget.grey(8, 3, 2))
    assert passes == Passes(12, 12, 12)
    with counting(model) as passes:
        pgd(Budget.grey(8, 3, 2), cross_entropy)(model, x, y, rng=streams(4))
    assert passes == Passes(12, 12, 0) and passes.work == 24
    with counting(model) as passes:
        plain.divergence_ascent(model, x, Budget.grey(8, 3, 2), clean_each_step=True)
    assert passes == Passes(24, 12, 0)


def test_counts_of_a_segmenter() -> None:
    """Fails when the count depends on the last layer being linear."""
    model, (x, _) = SmallSegmenter(2), pixels(2)
    y = targets(SEGMENTATION, 2, 16, 2)
    with counting(model) as passes:
        plain.pgd(model, x, y, Budget.grey(8, 2, 2), lambda logits, y: pixel_cross_entropy(logits, y).mean())
    assert passes == Passes(4, 4, 4)


def test_counts_without_copies() -> None:
    """Fails when what fills a block is counted as asked for, or is not counted at all."""
    model, (x, y) = SmallNet(3).eval(), pixels(11, size=16)
    with counting(model) as passes, counting_asked() as asked:
        pgd(Budget.grey(8, 3, 2), cross_entropy)(Blocks(model), x, y, rng=streams(11))
    assert passes == Passes(48, 48, 0) and asked == Passes(33, 33, 0)


def test_alternation() -> None:
    """Fails when calls that warm up are timed, or do not come right before the timed one, whose memory they find; or
    the order is the same in every round."""
    calls: list[str] = []
    runs = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    found = alternate(runs, CPU, repeats=3, warmup=1)
    assert "".join(calls) == "aabb" + "bbaa" + "aabb"
    assert found["a"]["ours_faster"] == found["a"]["ours_faster_min"] == 1
    assert found["b"]["seconds_min"] <= found["b"]["seconds"] <= found["b"]["seconds_max"]


def test_memory_as_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when another side runs with the memory settings of our commands, or ours without."""
    given: list[dict[int, int]] = []
    monkeypatch.setattr(timing, "hand_out_memory", given.append)
    alternate({"plain": lambda: None, "ours": lambda: None, "peer": lambda: None}, CPU, repeats=1)
    before, *given = given  # what the process has before is not what a side takes
    assert before == machine.MEMORY_RETURNED
    assert given == [machine.MEMORY_RETURNED, machine.MEMORY_KEPT, machine.MEMORY_RETURNED]


# --- the commands ----------------------------------------------------------------------------------------------------


Benchmark = Callable[..., dict[str, Any]]


@pytest.fixture
def ran(tmp_path: Path, warm_interpreter: Path) -> Benchmark:
    """Runs a benchmark and returns what it wrote; every number in it is finite, and none but a difference negative."""

    def run(benchmark: str, *words: object) -> dict[str, Any]:
        out = tmp_path / "out.json"
        words = (f"benchmarks.{benchmark}", *words, "--device", "cpu", "--out", out)
        assert run_well(*words, cwd=tmp_path, python=warm_interpreter).strip(), "no table"
        record = json.loads(out.read_text())
        assert record["machine"]["versions"]["torch"] and record["machine"]["date"] and record["machine"]["name"]
        assert all(math.isfinite(number) and number >= 0 for number in numbers(record))
        return record

    return run


def numbers(record: object) -> Iterator[float]:
    if isinstance(record, dict):
        record = [value for name, value in record.items() if name != "above_plain"]
    if isinstance(record, list):
        for value in record:
            yield from numbers(value)
    elif isinstance(record, (int, float)) and not isinstance(record, bool):
        yield record


def test_steps(ran: Benchmark) -> None:
    words = ["--models", "mv2", "--size", 8, "--bs", 8, "--repeats", 1, "--warmup", 0, "--methods", "pgdat", "hat"]
    results = ran("steps", *words, "--precision", "fp32")["results"]
    assert [found["what"] for found in results] == ["attack", "pgdat", "hat"]
    attack, step, hat = results
    assert attack["passes_per_image"]["plain"] == {"forward": 10, "backward": 10, "by_parameters": 10, "work": 30}
    assert attack["passes_per_image"]["ours"]["work"] == 20
    assert {"plain", "ours"} <= set(attack["rows"]) and set(attack["skipped"]) <= {"torchattacks", "foolbox"}
    assert all(row["seconds"] > 0 and row["ours_faster"] > 0 for found in results for row in found["rows"].values())
    assert step["passes_per_image"]["ours"] == {"forward": 11, "backward": 10, "by_parameters": 1, "work": 22}
    # The attack's start and its ten steps, the helper, and three losses.
    assert hat["passes_per_image"]["plain"]["forward"] == hat["passes_per_image"]["ours"]["forward"] == 15


def test_compiled_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when what is timed as compiled is not."""
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda network, **_: compiled.append(network) or network)
    run, seconds = steps._compiled(steps.Subject("mv2", 8, 8, CPU), FP32)
    run()
    assert len(compiled) == 1 and seconds >= 0


def test_data(ran: Benchmark) -> None:
    words = ["--images", 4, "--width", 90, "--height", 60, "--size", 32, "--draws", 8, "--repeats", 1]
    record = ran("data", *words)
    assert all(record["ms_per_image"][name]["ms"] > 0 for name in ("decoded", "cached"))
    assert record["speedup"] > 0 and record["cache"]["build_ms_per_image"] > 0


def test_evaluation(ran: Benchmark) -> None:
    pytest.importorskip("pyautoattack")
    words = ["--size", 8, "--images", 6, "--trainImages", 18, "--trainEpochs", 1, "--trainEps", 0]
    words += ["--queries", 2, "--steps", 1, "--attacks", "fgsm", "aa", "simba", "--epsilons", 1, 2]
    record = ran("evaluation", *words)
    assert [(row["attack"], row["eps"]) for row in record["results"]] == [
        ("fgsm", 1), ("fgsm", 2), ("aa", 1), ("aa", 2), ("simba", 1), ("simba", 2)
    ]  # fmt: skip
    for row in record["results"]:
        assert all(row[side]["seconds"] > 0 and row[side]["forward"] > 0 for side in ("plain", "ours"))
        assert all(0 <= row[side]["accuracy"] <= 1 for side in ("plain", "ours"))
        assert row["plain"]["copies"] == 0 < row["ours"]["copies"]  # six images make no block
    total = record["total"]
    assert total["seconds"] > 0 and total["work"] > total["work_with_copies"] > 0 and not total["left_out"]
    assert "work_of_survey" not in total  # 2 queries of 5,000 are not 1 step of 100


def test_total_of_the_survey() -> None:
    """Fails when attacks without queries or steps to divide are multiplied too, or copies are counted as asked for."""

    def row(attack: str, theirs: float, ours: float, copies: float) -> dict[str, Any]:
        sides = {
            "plain": {"work": theirs, "copies": 0, "seconds": 2},
            "ours": {"work": ours, "copies": copies, "seconds": 1},
        }
        return {"attack": attack, **sides}

    args = argparse.Namespace(queries=500, steps=10)
    total = evaluation._total([row("pgd", 60, 40, 0), row("simba", 30, 20, 5), {"attack": "aa", "plain": None}], args)
    assert total["left_out"] == ["aa"] and total["seconds"] == 2
    assert total["work"] == 90 / 55 and total["work_with_copies"] == 90 / 60
    assert total["work_of_survey"] == 360 / 190 and total["work_of_survey_with_copies"] == 360 / 240


def test_simba(ran: Benchmark) -> None:
    words = ["--simba", "--size", 64, "--bs", 2, "--queries", 20, "--repeats", 1]
    rows = ran("evaluation", *words)["ms_per_iteration"]
    assert set(rows) == {"plain", "ours"} and rows["ours"]["ms"] > 0


def test_strength(ran: Benchmark) -> None:
    words = ["--size", 8, "--images", 6, "--trainImages", 18, "--trainEpochs", 1, "--trainEps", 0, "--seeds", 1]
    record = ran("strength", *words, "--precision", "fp32", "bf16")
    assert list(record["results"]) == ["plain", "ours, fp32", "ours, bf16"]
    assert all(len(row["right"]) == 1 and max(row["right"]) <= 6 for row in record["results"].values())


def test_strength_of_trainings(ran: Benchmark) -> None:
    words = ["--train", "--methods", "trades", "--size", 16, "--images", 6, "--trainImages", 16, "--trainEpochs", 1]
    (row,) = ran("strength", *words, "--seeds", 1)["results"]
    assert row["method"] == "trades" and len(row["robust"]) == len(row["clean"]) == 1


def test_epoch(ran: Benchmark) -> None:
    words = ["--model", "mv2", "--size", 8, "--images", 8, "--testImages", 2, "--bs", 8, "--repeats", 1]
    (found,) = ran("epoch", *words, "--width", 30, "--height", 20, "--workers", 1)["results"]
    assert found["whole"]["plain"]["ours_faster"] > 0 and found["whole"]["ours"]["ours_faster"] == 1
    assert set(found["seconds"]) == {"loader", "attack", "update", "validation", "epoch"}
    assert 0 < found["waiting_for_data"] < 1 and found["matrix_product_flops"] > 0
    assert found["share_of_peak"]["epoch"] > 0


def test_a_part_that_fails_stops_no_other(tmp_path: Path) -> None:
    """Fails when what another part wrote is lost, now or in an earlier run, or the failure is not told."""
    out, good, bad = tmp_path / "out.json", tmp_path / "good", tmp_path / "bad"
    earlier = {"status": "ok", "seconds": 1, "result": None}
    out.write_text(json.dumps({"parts": {"earlier": earlier, "good": earlier}}))
    good.with_suffix(".json").write_text('{"machine": {"name": "here"}, "results": []}')
    good.with_suffix(".status").write_text("0 3\n")
    bad.with_suffix(".json").write_text('{"half')
    bad.with_suffix(".log").write_text("Traceback")
    bad.with_suffix(".status").write_text("124 60\n")
    subprocess.run([sys.executable, ROOT / "benchmarks" / "collect.py", tmp_path, out], check=True)
    record = json.loads(out.read_text())
    assert record["failed"] == ["bad"] and record["parts"]["earlier"] == earlier
    assert record["parts"]["good"]["result"]["machine"] == {"name": "here"}
    assert record["parts"]["bad"] == {
        "status": "failed: time limit",
        "seconds": 60,
        "result": None,
        "said": "Traceback",
    }


def test_a_part_that_does_not_exist(tmp_path: Path) -> None:
    """Fails when a misspelt name runs nothing and says that all is well."""
    environment = os.environ | {"ONLY": "steps-mv3", "PYTHON": sys.executable}
    command = [ROOT / "benchmarks" / "cpu.sh", tmp_path / "out.json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no part steps-mv3; there are data simba" in done.stderr
    assert not (tmp_path / "out.json").exists()
