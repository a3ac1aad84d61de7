"""The benchmarks: each runs on tiny inputs and writes all its results, and the plain code computes the same as ours.

Times are not tested.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
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
from advmia.sweeps.step_times import Estimator, StepTime
from advmia.sweeps.steps import begin_state, write_state
from advmia.tasks import SEGMENTATION
from advmia.training import methods
from advmia.training.methods import HAT, MART, TRADES, Method
from benchmarks import demo, estimate, evaluation, plain, steps, timing
from benchmarks.passes import Passes, count_passes, count_requests
from benchmarks.timing import alternate
from tests.support.benchmarking import Benchmark, checked
from tests.support.networks import SmallNet, SmallSegmenter, Wrapped, pixels, share_equal, streams, targets, trained
from tests.support.running import ROOT, run_well

IMAGES = 16
CPU = torch.device("cpu")
BUDGET = Budget.grey(8, 10, 2)


# --- the plain code --------------------------------------------------------------------------------------------------


def test_plain_pgd_is_ours() -> None:
    """Fails if the two ascend different losses, or step or project differently: their times would not be comparable."""
    model = trained()
    x, y = pixels(IMAGES)
    ours = pgd(BUDGET, cross_entropy, random_start=False)(model, x, y, rng=streams(IMAGES))
    assert share_equal(plain.pgd(model, x, y, BUDGET, start=x), ours) > 0.999
    assert any(parameter.grad is not None for parameter in model.parameters()), "the plain code takes all gradients"


def test_plain_fgsm_and_cw_are_ours() -> None:
    """Fails if the two ascend different losses, or step or project differently.

    CW starts at random, so the losses that both reach are compared.
    """
    model = trained()
    x, y = pixels(IMAGES)
    budget = fgsm_budget(4)
    ours = fgsm(budget, cross_entropy)(model, x, y, rng=streams(IMAGES))
    assert share_equal(plain.fgsm(model, x, y, budget), ours) > 0.999
    adversarial = (
        plain.cw(model, x, y, cw_budget(4)),
        cw(cw_budget(4), confident_margin)(model, x, y, rng=streams(IMAGES)),
    )
    with torch.no_grad():
        plain_loss, our_loss = (confident_margin(model(x_adv), y).mean() for x_adv in adversarial)
        clean_loss = confident_margin(model(x), y).mean()
    assert plain_loss > clean_loss
    torch.testing.assert_close(plain_loss, our_loss, rtol=0.02, atol=0)


def test_plain_ascent_starts_near_x() -> None:
    """Fails if the attack of TRADES leaves its budget, or if a clean pass in each step changes its loss."""
    model = trained()
    x, _ = pixels(IMAGES)
    torch.manual_seed(0)
    once = plain.divergence_ascent(model, x, BUDGET, clean_each_step=False)
    torch.manual_seed(0)
    each_step = plain.divergence_ascent(model, x, BUDGET, clean_each_step=True)
    assert share_equal(once, each_step) > 0.999
    assert 0 < (once - x).abs().max() <= BUDGET.eps + 1e-6


class Helper(nn.Module):
    """A network that always predicts class 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([5.0, 0.0, 0.0]).expand(len(x), 3)


LOSSES: dict[str, tuple[Method, Callable[..., Tensor]]] = {
    "trades": (TRADES(BUDGET, 6.0), partial(plain.trades_loss, beta=6.0)),
    "mart": (MART(BUDGET, 6.0), partial(plain.mart_loss, beta=6.0)),
    "hat": (HAT(BUDGET, 6.0, Helper()), partial(plain.hat_loss, beta=6.0, helper=Helper())),
}


@pytest.mark.parametrize("name", LOSSES)
def test_plain_losses_are_ours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a term of a loss is missing or has another weight, or if gradients flow through other terms."""
    model = trained().train()
    x, y = pixels(IMAGES)
    x_adv = (x + 8 / 255 * torch.randn_like(x).sign()).clamp(0, 1)
    monkeypatch.setattr(methods, "divergence_ascent", lambda *_: x_adv)
    monkeypatch.setattr(methods, "_ascend_from_normal", lambda *_: x_adv)
    method, plain_loss = LOSSES[name]
    losses = [method(model, x, y, rng=streams(IMAGES)), plain_loss(model, x, x_adv, y)]
    torch.testing.assert_close(losses[1], losses[0])
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)


def test_plain_steps_train_in_train_mode() -> None:
    """Fails if a step attacks in train mode, or updates in eval mode."""
    x, y = pixels(4)
    for name, loss in plain.step_losses(Budget.grey(8, 2, 2), 6.0, Helper()).items():
        model = SmallNet(3)
        before = copy.deepcopy(model.state_dict())
        modes: list[bool] = []
        model.register_forward_pre_hook(lambda module, _, modes=modes: modes.append(module.training))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        plain.training_step(model, optimizer, loss, x, y)
        assert modes == sorted(modes) and modes[-1] and not modes[0], name
        after = model.state_dict()
        for entry in ("bn1.running_mean", "linear.weight"):
            assert not torch.equal(before[entry], after[entry]), (name, entry)


def test_plain_simba_is_ours() -> None:
    """Fails if the basis, the order of the two trials or the acceptance differs.

    With the same order of directions, the results are equal. Logits are divided by 10, because the plain code's
    probabilities do not change any more where they round to 1.
    """
    model = Wrapped(trained(hardened=6), lambda logits: logits / 10).eval()
    x, y = pixels(IMAGES)
    budget = Budget.grey(8, 40, 8)
    order = draw_directions(x, 40, streams(IMAGES))
    ours = simba(budget, cross_entropy)(model, x, y, rng=streams(IMAGES))
    x_adv = plain.simba_dct(model, x, y, budget.eps, budget.steps, order)
    assert not torch.equal(ours, x)
    assert share_equal(x_adv, ours) > 0.999


def test_plain_decoding_without_augmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the plain code resizes or crops differently from ours."""
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
    """Fails if gradients of the parameters are not counted, or are counted where only the input's are computed."""
    model, (x, y) = SmallNet(3), pixels(4)
    with count_passes(model) as passes:
        plain.pgd(model, x, y, Budget.grey(8, 3, 2))
    assert passes == Passes(12, 12, 12)
    with count_passes(model) as passes:
        pgd(Budget.grey(8, 3, 2), cross_entropy)(model, x, y, rng=streams(4))
    assert passes == Passes(12, 12, 0) and passes.work == 24
    with count_passes(model) as passes:
        plain.divergence_ascent(model, x, Budget.grey(8, 3, 2), clean_each_step=True)
    assert passes == Passes(24, 12, 0)


def test_counts_of_a_segmenter() -> None:
    """Fails if gradients of the parameters are only counted when the last layer is linear."""
    model, (x, _) = SmallSegmenter(2), pixels(2)
    y = targets(SEGMENTATION, 2, 16, 2)
    with count_passes(model) as passes:
        plain.pgd(model, x, y, Budget.grey(8, 2, 2), lambda logits, y: pixel_cross_entropy(logits, y).mean())
    assert passes == Passes(4, 4, 4)


def test_counts_without_copies() -> None:
    """Fails if the copies that fill a block are counted as requests, or not counted as passes."""
    model, (x, y) = SmallNet(3).eval(), pixels(11, size=16)
    with count_passes(model) as passes, count_requests() as requests:
        pgd(Budget.grey(8, 3, 2), cross_entropy)(Blocks(model), x, y, rng=streams(11))
    assert passes == Passes(48, 48, 0) and requests == Passes(33, 33, 0)


def test_alternation() -> None:
    """Fails if warm-up calls are timed or do not come right before the timed call, or if the order never changes."""
    calls: list[str] = []
    timings = alternate({name: partial(calls.append, name) for name in "ab"}, CPU, repeats=3, warmup=1)
    assert "".join(calls) == "aabb" + "bbaa" + "aabb"
    assert timings["a"]["ours_faster"] == timings["a"]["ours_faster_min"] == 1
    assert timings["b"]["seconds_min"] <= timings["b"]["seconds"] <= timings["b"]["seconds_max"]


def test_memory_settings_of_each_callable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if our code runs without the memory settings of our commands, or other code runs with them."""
    settings: list[dict[int, int]] = []
    monkeypatch.setattr(timing, "set_memory", settings.append)
    alternate({"plain": lambda: None, "ours": lambda: None, "foolbox": lambda: None}, CPU, repeats=1)
    first, *others = settings  # the first is for the measurement of the memory that the process has at the start
    assert first == machine.MEMORY_RETURNED
    assert others == [machine.MEMORY_RETURNED, machine.MEMORY_KEPT, machine.MEMORY_RETURNED]


# --- the benchmarks --------------------------------------------------------------------------------------------------


def test_steps(run_benchmark: Benchmark) -> None:
    """Fails if an implementation is missing from the table, or its passes are counted wrongly."""
    words = ["--models", "mv2", "--size", 8, "--bs", 8, "--repeats", 1, "--warmup", 0, "--methods", "pgdat", "hat"]
    results = run_benchmark("steps", *words, "--precision", "fp32")["results"]
    assert [result["what"] for result in results] == ["attack", "pgdat", "hat"]
    attack, step, hat = results
    assert attack["passes_per_image"]["plain"] == {"forward": 10, "backward": 10, "by_parameters": 10, "work": 30}
    assert attack["passes_per_image"]["ours"]["work"] == 20
    assert {"plain", "ours"} <= set(attack["rows"]) and set(attack["skipped"]) <= {"torchattacks", "foolbox"}
    assert all(row["seconds"] > 0 and row["ours_faster"] > 0 for result in results for row in result["rows"].values())
    assert step["passes_per_image"]["ours"] == {"forward": 11, "backward": 10, "by_parameters": 1, "work": 22}
    # One pass for the start of the attack, ten for its steps, one of the helper, and three for the losses.
    assert hat["passes_per_image"]["plain"]["forward"] == hat["passes_per_image"]["ours"]["forward"] == 15


def test_networks(run_benchmark: Benchmark) -> None:
    """Fails if a network is missing, one is compared with another than the first, or its arithmetic is miscounted."""
    words = ["--models", "res18", "wrn", "--size", 32, "--bs", 2, "--repeats", 1, "--warmup", 0]
    (result,) = run_benchmark("networks", *words, "--processorTime")["results"]
    flops = {name: facts["gflop"] for name, facts in result["networks"].items()}
    assert flops == pytest.approx({"res18": 1.1108, "wrn": 10.4866}, rel=1e-4)
    for row in (result["attack"], result["update"]):
        assert list(row) == ["ours, res18", "ours, wrn"] and row["ours, res18"]["ours_faster"] == 1
    for name, row in result["folding"].items():  # the two batch norms of `SmallNet`
        assert row["ours, not folded"]["ours_faster"] > 0 and row["ours"]["ours_faster"] == 1
        assert (result["networks"][name]["batch_norms"], result["networks"][name]["not_folded"]) == (2, 0)


@pytest.mark.slow
def test_steps_of_a_real_network_as_a_command(tmp_path: Path, warm_interpreter: Path) -> None:
    """Fails if a network of the survey cannot be timed, both as it is published and as we train it."""
    out = tmp_path / "out.json"
    words = ["--models", "mv2", "--size", 8, "--bs", 8, "--repeats", 1, "--warmup", 0, "--methods", "pgdat"]
    run_well("benchmarks.steps", *words, "--device", "cpu", "--out", out, cwd=tmp_path, python=warm_interpreter)
    assert [result["what"] for result in checked(out)["results"]] == ["attack", "pgdat"]


def test_compiled_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the attack that is timed as compiled is not compiled."""
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda network, **_: compiled.append(network) or network)
    run, seconds = steps._compiled(steps.Subject("mv2", 8, 8, CPU), FP32)
    run()
    assert len(compiled) == 1 and seconds >= 0


@pytest.mark.slow
def test_data_as_a_command(tmp_path: Path, warm_interpreter: Path) -> None:
    """Fails if a benchmark does not run as a command, prints no table or writes no record."""
    out = tmp_path / "out.json"
    words = ["--images", 4, "--width", 90, "--height", 60, "--size", 32, "--draws", 8, "--repeats", 1]
    command = ("benchmarks.data", *words, "--device", "cpu", "--out", out)
    assert "times as fast" in run_well(*command, cwd=tmp_path, python=warm_interpreter)
    record = checked(out)
    assert all(record["ms_per_image"][name]["ms"] > 0 for name in ("decoded", "cached"))
    assert record["speedup"] > 0 and record["cache"]["build_ms_per_image"] > 0


@pytest.mark.slow
def test_sweeps_as_a_command(tmp_path: Path, warm_interpreter: Path) -> None:
    """Fails if the benchmark's sweeps do not run, or it writes no times of both."""
    out = tmp_path / "out.json"
    words = ["--images", 24, "--size", 16, "--epoch", 1, "--bs", 8, "--repeats", 1, "--jobs", 2, "--methods", "nat"]
    command = ("benchmarks.sweeps", *words, "--device", "cpu", "--out", out)
    assert "2 at a time: " in run_well(*command, cwd=tmp_path, python=warm_interpreter)
    assert all(seconds > 0 for (seconds,) in checked(out)["seconds"])


def test_evaluation(run_benchmark: Benchmark) -> None:
    """Fails if an attack or eps is missing from the table, or the total does not include all of them."""
    pytest.importorskip("pyautoattack")
    words = ["--size", 8, "--images", 6, "--trainImages", 18, "--trainEpochs", 1, "--trainEps", 0]
    words += ["--queries", 2, "--steps", 1, "--attacks", "fgsm", "aa", "simba", "--epsilons", 1, 2]
    record = run_benchmark("evaluation", *words)
    assert [(row["attack"], row["eps"]) for row in record["results"]] == [
        ("fgsm", [1]), ("fgsm", [2]), ("aa", [1]), ("aa", [2]), ("simba", [1]), ("simba", [2])
    ]  # fmt: skip
    for row in record["results"]:
        assert all(row[side]["seconds"] > 0 and row[side]["forward"] > 0 for side in ("plain", "ours"))
        assert all(len(row[side]["accuracy"]) == 1 for side in ("plain", "ours"))
        assert row["plain"]["copies"] == 0 < row["ours"]["copies"]  # six images do not fill a block
    total = record["total"]
    assert total["seconds"] > 0 and total["work"] > total["work_with_copies"] > 0 and not total["left_out"]
    assert "work_of_survey" not in total  # 2 queries of 5,000 are not 1 step of 100


def test_total_of_the_survey() -> None:
    """Fails if attacks without queries or steps are multiplied too, or copies are counted as requests."""

    def row(attack: str, plain_work: float, ours: float, copies: float) -> dict[str, Any]:
        sides = {
            "plain": {"work": plain_work, "copies": 0, "seconds": 2},
            "ours": {"work": ours, "copies": copies, "seconds": 1},
        }
        return {"attack": attack, **sides}

    args = argparse.Namespace(queries=500, steps=10)
    total = evaluation._total([row("pgd", 60, 40, 0), row("simba", 30, 20, 5), {"attack": "aa", "plain": None}], args)
    assert total["left_out"] == ["aa"] and total["seconds"] == 2
    assert total["work"] == 90 / 55 and total["work_with_copies"] == 90 / 60
    assert total["work_of_survey"] == 360 / 190 and total["work_of_survey_with_copies"] == 360 / 240


def test_simba(run_benchmark: Benchmark) -> None:
    """Fails if SimBA's overhead is not measured for both implementations."""
    words = ["--simba", "--size", 64, "--bs", 2, "--queries", 20, "--repeats", 1]
    rows = run_benchmark("evaluation", *words)["ms_per_iteration"]
    assert set(rows) == {"plain", "ours"} and rows["ours"]["ms"] > 0


def test_strength(run_benchmark: Benchmark) -> None:
    """Fails if a precision is missing from the comparison with the plain attack."""
    words = ["--size", 8, "--images", 6, "--trainImages", 18, "--trainEpochs", 1, "--trainEps", 0, "--seeds", 1]
    record = run_benchmark("strength", *words, "--precision", "fp32", "bf16")
    assert list(record["results"]) == ["plain", "ours, fp32", "ours, bf16"]
    assert all(len(row["right"]) == 1 and max(row["right"]) <= 6 for row in record["results"].values())


def test_strength_of_trainings(run_benchmark: Benchmark) -> None:
    """Fails if the clean or the robust accuracy of a training is missing."""
    words = ["--train", "--methods", "trades", "--size", 16, "--images", 6, "--trainImages", 16, "--trainEpochs", 1]
    (row,) = run_benchmark("strength", *words, "--seeds", 1)["results"]
    assert row["method"] == "trades" and len(row["robust"]) == len(row["clean"]) == 1


@pytest.mark.slow
def test_epoch(run_benchmark: Benchmark) -> None:
    """Fails if a part of the epoch is not timed."""
    words = ["--model", "mv2", "--size", 8, "--images", 8, "--testImages", 2, "--bs", 8, "--repeats", 1]
    (result,) = run_benchmark("epoch", *words, "--width", 30, "--height", 20, "--workers", 1)["results"]
    assert result["whole"]["plain"]["ours_faster"] > 0 and result["whole"]["ours"]["ours_faster"] == 1
    assert set(result["seconds"]) == {"loader", "attack", "update", "validation", "epoch"}
    assert 0 < result["waiting_for_data"] < 1 and result["matrix_product_flops"] > 0
    assert result["share_of_peak"]["epoch"] > 0


@pytest.mark.slow
def test_prepare(run_benchmark: Benchmark) -> None:
    """Fails if a step of preparing, or its memory, is not measured."""
    record = run_benchmark("prepare", "--rows", 48)
    assert record["rows"] == 48
    assert all(record[step]["seconds"] > 0 and record[step]["peak_mib"] > 1 for step in ("first", "second", "read"))


def test_demo(run_benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a seed or a number of threads is left out, or a run beyond a bound is counted as kept."""
    shown = {"nat clean": 100.0, "nat attacked": 0.0, "pgdat clean": 85.0, "pgdat attacked": 80.0}
    beyond = [{"nat clean": 90.0}, {"nat attacked": 15.0}, {"pgdat attacked": 60.0}, {}]
    changes = iter(beyond)

    def run_demo(out: Path, threads: int, device: str, seed: int) -> dict[str, Any]:
        return {"threads": threads, "seed": seed, "seconds": 1.0, **shown, **next(changes)}

    monkeypatch.setattr(demo, "run_demo", run_demo)
    record = run_benchmark("demo", "--seeds", 2, "--threads", 2, 1)
    assert [(run["threads"], run["seed"]) for run in record["runs"]] == [(2, 0), (2, 1), (1, 0), (1, 1)]
    assert record["kept"] == 1


def test_estimate(run_benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a step of the sweep is left out, or the sums of the estimated and of the taken seconds are wrong."""

    def run(words: list[str], **_: object) -> None:
        out = Path(words[words.index("--out") + 1])
        for number, step in enumerate(estimate.plan_of(words[3:]), start=1):
            step.writes.parent.mkdir(parents=True, exist_ok=True)
            step.writes.touch()
            write_state(out, step, replace(begin_state(step, "cpu").ended(step, 0), seconds=number))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(Estimator, "time_of", lambda _, step: StepTime(step, {"": 3.0}))
    results = run_benchmark("estimate", "--methods", "nat", "pgdat", "--images", 24, "--size", 16)["results"]
    names = [f"{kind}_melBin_mv2_{name}" for name in ("nat", "pgdat_eps8") for kind in ("train", "test")]
    assert [row["name"] for row in results] == [*names, "all of train", "all of test", "all"]
    taken = [1, 2, 3, 4, 1 + 3, 2 + 4, 1 + 2 + 3 + 4]
    assert [row["taken"] for row in results] == taken
    assert [row["estimated"] for row in results] == [3, 3, 3, 3, 6, 6, 12]
    assert results[-1]["ratio"] == pytest.approx(12 / 10)


def test_a_part_that_fails_stops_no_other(tmp_path: Path) -> None:
    """Fails if results of other parts, of this run or of an earlier one, are lost, or the failure is not recorded."""
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
    """Fails if a misspelt name runs nothing and is reported as a success."""
    environment = os.environ | {"ONLY": "steps-mv3", "PYTHON": sys.executable}
    command = [ROOT / "benchmarks" / "cpu.sh", tmp_path / "out.json"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 2 and "no part steps-mv3; the parts are: data simba" in process.stderr
    assert not (tmp_path / "out.json").exists()
