"""What `--estimate` counts and shows: passes as in real trainings and tests, sums, and places. Times are not tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advmia import budgets
from advmia.attacks.inference import inference_copy
from advmia.data.datasets import DATASETS
from advmia.data.loading import EvaluationLoader, TrainingLoader
from advmia.data.phantoms import make_phantoms
from advmia.errors import UserError
from advmia.evaluation.attacked import AttackRun
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.evaluation.probe import probe_network
from advmia.runtime.precision import FP32, Precision
from advmia.sweeps import step_times
from advmia.sweeps.estimate import attack_table, makespan, steps_at_a_time, subject_table
from advmia.sweeps.local import places
from advmia.sweeps.passes import Cost, Pass, checks_cost, evaluation_cost, method_costs
from advmia.sweeps.scene import Scene
from advmia.sweeps.step_times import REST, TRAINING, StepTime
from advmia.sweeps.steps import Kind, Step, begin_state, read_plan, write_state
from advmia.sweeps.stopwatch import Stopwatch
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from advmia.training.loop import Position, Training, train_one_epoch
from advmia.training.methods import Method
from advmia.training.perturbation import WeightPerturbation
from benchmarks import subjects
from tests.support.networks import CPU, SmallNet, SmallSegmenter
from tests.support.running import check_one_line, run_main

TASKS = (SINGLE_LABEL, MULTI_LABEL, SEGMENTATION)
SETS = {SINGLE_LABEL.name: "melBin", MULTI_LABEL.name: "xray_multilabel", SEGMENTATION.name: "mel"}
STEPS = {"EVALUATION_STEPS": 9, "CW_STEPS": 3, "AUTO_STEPS": 10, "QUERIES": 20, "SEA_STEPS": 10, "MOMENTUM_STEPS": 9}


def scene_of(task: Task, classes: int = 2, images: int = 8) -> Scene:
    """Returns a scene of tiny images: one batch of them fills a block."""
    spec = DATASETS[SETS[task.name]].at_size(8)
    return Scene(spec, len(spec.findings) or classes, images, 8, CPU, FP32)


class Sure(nn.Module):
    """A small network that no attack misleads: it is right on all images of a scene. Counts its and its copies' passes.

    `counts`: images in forward passes, in backward passes by the image, and in those by the weights.
    """

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        masks, data = scene.task is SEGMENTATION, scene.data(1)
        self.inner = SmallSegmenter(scene.classes) if masks else SmallNet(scene.classes)
        lead = data.targets(data.indices)
        if scene.task is not MULTI_LABEL:
            lead = nn.functional.one_hot(lead, scene.classes).float()
        self.register_buffer("lead", 40 * (lead.movedim(-1, 1) if masks else lead))
        counts: Counter[str] = Counter()
        self.counts = lambda: counts  # copies of the network have this function too

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x) + self.lead
        counts, images = self.counts(), len(x)
        counts["forward"] += images
        if logits.requires_grad:
            kind = "image" if x.requires_grad else "weights"
            logits.register_hook(lambda _: counts.update({kind: images}))
        return logits


def assert_counted(cost: Cost, *networks: Sure) -> None:
    """Compares the passes of a cost with those that the networks have counted."""
    found = sum((network.counts() for network in networks), Counter[str]())
    counted = {name: of_kind(cost, name) for name in ("image", "weights")}
    assert counted | {"forward": sum(cost.passes.values())} == pytest.approx({"image": 0, "weights": 0} | found)


def of_kind(cost: Cost, kind: str) -> float:
    return sum(count for name, count in cost.passes.items() if name.kind == kind)


def copied(*networks: Sure, x: Tensor) -> None:
    """Makes the copies for attacks, which are compared with the network by passes of their own; forgets these."""
    for network in networks:
        inference_copy(network, x)
        network.counts().clear()


def method(task: Task, name: str) -> Callable[[nn.Module | None], Method]:
    return lambda helper: subjects.method(name, task, 8, SETS[task.name], helper)


DRAWN = ("mpadvt", "maadvt")


@pytest.mark.parametrize(
    ("task", "name"), [(task, name) for task in TASKS for name in task.methods if name not in DRAWN],
    ids=lambda value: value if isinstance(value, str) else value.name,
)  # fmt: skip
def test_passes_of_an_update(task: Task, name: str) -> None:
    """Fails if a pass of a method is not counted, or one is counted that is not made; also with AWP."""
    scene = scene_of(task)
    examples, loss = method_costs(scene, "a", "b" if name == "hat" else None, method(task, name))
    data, helper = scene.data(8), Sure(scene)
    batch = next(iter(EvaluationLoader(data, 8, CPU)))
    for awp in (None, WeightPerturbation(0.01)):
        model = Sure(scene)
        copied(model, helper, x=batch.x)
        optimizer = task.optimizer(model.parameters(), 1e-3, 0)
        loader = TrainingLoader(data, 8, CPU, task.order, scene.spec.augmentation, 0)
        schedule = task.schedule(optimizer, 1e-3, 100)
        training = Training(model, method(task, name)(helper), loader, optimizer, schedule, 1, perturbation=awp)
        train_one_epoch(training, Position())
        assert_counted((examples + loss * (2 if awp else 1)) * 8, model, helper)


@pytest.mark.parametrize(("name", "steps"), [("mpadvt", 0.5 * 5), ("maadvt", 5)])
def test_passes_of_drawn_steps(name: str, steps: float) -> None:
    """Fails if the mean of the steps that are drawn for each batch, of 1 to 9, is missed by more than 2 %.

    MPAdvT attacks half of the batches.
    """
    examples, loss = method_costs(scene_of(SINGLE_LABEL), "a", None, method(SINGLE_LABEL, name))
    assert of_kind(examples, "image") == pytest.approx(steps, rel=0.02)
    assert of_kind(loss, "weights") == pytest.approx(1 if name == "mpadvt" else 2)


@pytest.mark.parametrize(
    ("task", "name"), [(task, name) for task in TASKS for name in task.attacks],
    ids=lambda value: value if isinstance(value, str) else value.name,
)  # fmt: skip
def test_passes_of_an_attack(task: Task, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a pass of an evaluation is missed, where images withstand the attack, or if more steps cost otherwise.

    Most attacks have more steps here than are run for the estimate.
    """
    for budget, steps in STEPS.items():
        monkeypatch.setattr(budgets, budget, steps if name != "aa" else 2)
    scene = scene_of(task, classes=3 if task is SINGLE_LABEL else 2)
    run = AttackRun.of(name, 8, 2, rounds=task is SINGLE_LABEL)
    model, loader = Sure(scene), EvaluationLoader(scene.data(8), 8, CPU)
    copied(model, x=next(iter(loader)).x)
    evaluate(model, loader, task, run.build(task), options=EvaluationOptions(rounding=run.rounding))
    cost = evaluation_cost(scene, run, "a") * 8
    if name == "simba":  # which directions need a second pass depends on the network
        assert 3 + budgets.QUERIES <= sum(cost.passes.values()) / 8 <= 3 + 2 * budgets.QUERIES
    else:
        assert_counted(cost, model)


def test_an_eps_of_0_costs_no_attack() -> None:
    """Fails if an eps at which attacks return the images is counted as any other."""
    cost = evaluation_cost(scene_of(SINGLE_LABEL), AttackRun.of("pgd", 0), "a")
    assert cost.passes == {Pass("a", "score", "fp32"): 1}


@pytest.mark.parametrize("source", [None, "b"])
def test_passes_of_the_checks(source: str | None) -> None:
    """Fails if the passes of the checks at the end of a test are missed, of a white-box test or by transfer."""
    scene = scene_of(SINGLE_LABEL, images=80)
    target, other = Sure(scene), Sure(scene)
    loader = EvaluationLoader(scene.data(80), 8, CPU)
    attacked = other if source else target
    copied(attacked, target, x=next(iter(loader)).x)
    probe_network(attacked, loader, SINGLE_LABEL, target=target)
    cost = checks_cost(scene, "a", source)
    assert_counted(cost, target, other)
    assert {kind.network for kind in cost.passes} == ({"a", "b"} if source else {"a"})


def test_passes_in_bf16() -> None:
    """Fails if passes that run in float32 also under bf16 are counted as those in bf16, or the other way round."""
    scene = replace(scene_of(SINGLE_LABEL), precision=Precision("bf16"))
    for name, precision in (("pgd", "bf16"), ("apgd-ce", "fp32")):
        cost = evaluation_cost(scene, AttackRun.of(name, 8), "a")
        assert {kind.precision for kind in cost.passes if kind.kind == "image"} == {precision}, name
    examples, loss = method_costs(scene, "a", None, method(SINGLE_LABEL, "trades"))
    assert {kind.precision for kind in examples.passes} == {"fp32"} and {k.precision for k in loss.passes} == {"bf16"}


@pytest.mark.usefixtures("small_networks")
def test_every_kind_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a kind of pass or of work cannot be timed, or if it is timed again when it is asked for again."""
    scene, stopwatch = scene_of(SINGLE_LABEL), Stopwatch()
    monkeypatch.setattr("advmia.sweeps.stopwatch._SECONDS", 0.01)

    def times() -> list[float]:
        kinds = [Pass("mv2", kind, "fp32") for kind in ("weights", "image", "forward", "score")]
        found = [stopwatch.of_pass(scene, kind, is_training=False) for kind in kinds]
        found += [stopwatch.of_update(scene, "mv2", awp, ema) for awp, ema in ((None, None), (0.01, 0.9))]
        return [*found, stopwatch.of_refolding(scene, "mv2"), stopwatch.of_saving(scene, "mv2")]

    first = times()
    assert all(0 < seconds < 10 for seconds in first) and times() == first

    def out_of_memory(*_: object) -> float:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("advmia.sweeps.stopwatch._seconds_of_pass", out_of_memory)
    with pytest.raises(UserError, match="8 images of 8 pixels do not fit the memory of cpu: take a smaller --bs"):
        stopwatch.of_pass(replace(scene, precision=Precision("bf16")), Pass("mv2", "image", "bf16"), is_training=False)


# --- whole sweeps ----------------------------------------------------------------------------------------------------


@pytest.fixture
def constant_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every pass and every update take a second, two with AWP, a start 1,000 seconds, and all else none."""
    for name, seconds in (("pass", 1), ("refolding", 0), ("saving", 0), ("start", STARTS)):
        monkeypatch.setattr(Stopwatch, f"of_{name}", lambda *_, seconds=seconds, **__: seconds)
    monkeypatch.setattr(Stopwatch, "of_update", lambda _, scene, network, awp, ema: 1 if awp is None else 2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_phantoms(tmp_path / "data", ["mel2017"], count=32, size=32)  # 24 and 8 of each list
    return tmp_path / "data"


@pytest.fixture
def shown(
    constant_times: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., str]:
    """Returns what `python -m advmia sweep ... --estimate` prints, or the line with which it is refused."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, status: int = 0) -> str:
        words = ("sweep", "--dataset", "melBin", "--model", "mv2", "--imgSize", 8, "--gpu", "cpu", *words)
        assert run_main(monkeypatch, ["advmia", *words, "--estimate"]) == status
        printed = capsys.readouterr()
        return printed.out if status == 0 else printed.err

    return run


def table(text: str, title: str) -> list[list[str]]:
    """Returns the rows of the table with this title, without its head."""
    _, _, rest = text.partition(title)
    lines = rest.split("\n\n")[1].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


GRID = ["--methods", "nat", "pgdat", "trades", "--eps", 8, "--epoch", 10, "--bs", 8]
GRID += ["--attacks", "pgd", "cw", "--epsilons", 4, 8]
# Of 24 training and 8 test images. Natural training: an update and the clean pass of the validation. PGD-AT: also ten
# passes for the examples, and 20 passes and another to score them. TRADES: another pass for its examples, and one for
# its loss.
NAT, PGDAT, TRADES = (10 * (24 * image + 8 * test) for image, test in ((1, 1), (11, 22), (13, 22)))
PGD, CW = 2 * 8 * 21, 2 * 8 * 31  # of a test, at two eps
CHECKS = 8 * (2 + 1 + 20 + 1)
STARTS = 1000
TEST = PGD + CW + 8 + CHECKS + STARTS


def test_the_sums_of_a_sweep(shown: Callable[..., str], data: Path) -> None:
    """Fails if a training, a validation, an attack, an eps, the checks or a start is left out, or a sum is wrong."""
    text = shown(*GRID, "--dataRoot", data)
    rows = table(text, "Estimated hours by data set, network and method")
    trainings = [seconds + STARTS for seconds in (NAT, PGDAT, TRADES)]
    assert [row[:4] + row[5:6] for row in rows] == [
        *(["melBin", "mv2", name, "1", "1"] for name in ("nat", "pgdat", "trades")),
        ["in all", "", "", "3", "3"],
    ]
    for row, training, test in zip(rows, [*trainings, sum(trainings)], [TEST, TEST, TEST, 3 * TEST], strict=True):
        hours = [training / 3600, test / 3600, (training + test) / 3600]
        assert [float(row[column]) for column in (4, 6, 7)] == pytest.approx(hours, abs=0.011)
    attacks = table(text, "Estimated hours of the tests by attack")
    expected_parts = {"pgd": 3 * PGD, "cw": 3 * CW, REST: 3 * (TEST - PGD - CW), "": 3 * TEST}
    assert {row[1]: float(row[2]) for row in attacks} == pytest.approx(
        {name: seconds / 3600 for name, seconds in expected_parts.items()}, abs=0.011
    )
    assert "one step after another" in text and "at a time" not in text and "At most" not in text


def test_square_beside_autoattack(shown: Callable[..., str], data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if Square is counted twice in a test of both, or not at all in a test of Square."""
    monkeypatch.setattr(budgets, "AUTO_STEPS", 20)
    monkeypatch.setattr(budgets, "QUERIES", 1000)
    words = ("--methods", "nat", "--epoch", 1, "--bs", 8, "--epsilons", 8, "--dataRoot", data)
    hours = []
    for names in (["square"], ["aa", "square"]):
        rows = table(shown(*words, "--attacks", *names), "Estimated hours of the tests by attack")
        hours.append({row[1]: float(row[2]) for row in rows})
    assert hours[0]["square"] == pytest.approx(8 * 1002 / 3600, abs=0.011)
    assert hours[1]["square"] < 0.011 and hours[1]["aa"] > hours[0]["square"]


def test_flags_that_change_a_training(shown: Callable[..., str], data: Path) -> None:
    """Fails if a held-out part, a limit, AWP after its warm-up, or several places are not counted."""
    words = ("--methods", "pgdat", "--eps", 8, "--epoch", 10, "--bs", 8, "--only", "train", "--dataRoot", data)
    limited = shown(*words, "--valFraction", 0.5, "--limit", 16, "--jobs", 2, "--seeds", 0, 1)
    assert float(table(limited, "Estimated")[0][4]) == pytest.approx(
        2 * (1000 + 10 * (8 * 11 + 8 * 22)) / 3600, abs=0.011
    )
    assert f"On 2 of these at a time {(1000 + 10 * 8 * 33) / 3600:.2f} hours" in limited
    perturbed = shown(*words, "--awp", 0.01, "--awpWarmUp", 4)
    expected = 1000 + 4 * 24 * 11 + 6 * 24 * 12 + 10 * 8 * 22
    assert float(table(perturbed, "Estimated")[0][4]) == pytest.approx(expected / 3600, abs=0.011)


def test_attacks_that_stop_early_are_told(shown: Callable[..., str], data: Path) -> None:
    """Fails if the reader is not told that such an attack's hours are the most that it can take."""
    words = ("--methods", "nat", "--attacks", "apgd-ce", "pgd", "--dataRoot", data)
    assert "At most: apgd-ce leave" in shown(*words)


def test_missing_lists(shown: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the published numbers of images are not taken for a list that is missing, or if that is not said."""
    said: list[str] = []
    monkeypatch.setattr(step_times, "say", said.append)
    text = shown("--methods", "nat", "--only", "train", "--epoch", 1, "--dataRoot", tmp_path / "none")
    assert float(table(text, "Estimated")[0][4]) == pytest.approx((1000 + 2000 + 750) / 3600, abs=0.011)
    folder = tmp_path / "none" / "mel2017"
    assert said == [
        f"there is no list {folder / name}: the estimate takes the {count} images of the published one"
        for name, count in (("trainbin.csv", 2000), ("testbin.csv", 750))
    ]


def test_a_damaged_list(shown: Callable[..., str], data: Path) -> None:
    """Fails if a list that cannot be read is taken for a missing one."""
    (data / "mel2017" / "testbin.csv").write_text("a.jpg,0,3\n")
    check_one_line(shown("--methods", "nat", "--dataRoot", data, status=2), "testbin.csv row 1: expected `image,label`")


def test_finished_steps_are_left_out(shown: Callable[..., str], data: Path, tmp_path: Path) -> None:
    """Fails if a finished step is counted again, or nothing is said where nothing is left."""
    words = ("--methods", "nat", "--dataRoot", data)
    shown(*words, "--plan", "plan.json")
    training, test, _ = read_plan(Path("plan.json"))
    training.writes.parent.mkdir(parents=True)
    training.writes.touch()
    write_state(Path("sweep"), training, begin_state(training, "cpu").ended(training, 0))
    text = shown(*words)
    assert "have finished already, and are not counted: 1." in text and table(text, "Estimated")[0][3:6:2] == ["0", "1"]
    test.writes.parent.mkdir(parents=True)
    test.writes.touch()
    write_state(Path("sweep"), test, begin_state(test, "cpu").ended(test, 0))
    assert shown(*words).endswith("Nothing is left to do.\n")


def step_time(name: str, seconds: float, *needs: str, kind: Kind = "train") -> StepTime:
    return StepTime(Step(name, kind, (), Path(), needs), {TRAINING: seconds})


@pytest.mark.parametrize(("workers", "seconds"), [(1, 18), (2, 9), (3, 9)])
def test_several_places(workers: int, seconds: float) -> None:
    """Fails if a step starts before its needs have ended or a place is free, or waits for longer.

    A step that a finished one was needed for does not wait.
    """
    times = [step_time("a", 3), step_time("b", 4, "a"), step_time("c", 2, "b"), step_time("d", 5, "finished")]
    assert makespan([*times, step_time("e", 4)], workers) == seconds


def test_gpus_that_steps_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if steps that share a GPU are taken to be as fast as on GPUs of their own."""
    shared = places(["0", "1"], None, 2)
    assert len(shared) == 4 and steps_at_a_time(shared, torch.device("cuda:0")) == 2
    assert steps_at_a_time(places(None, 3, 1), torch.device("cpu")) == 3


def test_short_sweeps_are_in_minutes() -> None:
    """Fails if the hours of a short sweep are all 0.00."""
    found = subject_table([step_time("a", 90)])
    assert found.header[4] == "minutes" and [cell.text for cell in found.rows[-1]][3:5] == ["1", "1.50"]
    assert [cell.text for cell in attack_table([step_time("b", 30, kind="test")]).rows[-1]] == ["in all", "", "0.50"]
