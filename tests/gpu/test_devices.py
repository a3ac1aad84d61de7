"""Nothing mixes the GPU with the CPU: every attack, method and precision, evaluations, and the seven commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from advmia import budgets
from advmia.attacks import ATTACKS
from advmia.attacks.inference import Blocks, inference_copy
from advmia.attacks.restarts import with_restarts
from advmia.budgets import Budget
from advmia.data import loading
from advmia.data.loading import EvaluationLoader, ImageData, TrainingLoader
from advmia.data.specs import Augmentation
from advmia.evaluation.attacked import AttackRun
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.runtime.precision import FP32, PRECISIONS, Precision
from advmia.runtime.rng import SampleRng
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from advmia.training.averaging import WeightAverage
from advmia.training.loop import Position, Training, train_one_epoch
from advmia.training.methods import METHODS, MethodSettings
from advmia.training.perturbation import WeightPerturbation
from tests.support.networks import CPU, SmallNet, image_data, network, pixels, targets
from tests.support.pretended_gpu import DEVICE, GpuTensor, PretendedGpu
from tests.support.running import run_main
from tests.support.world import TRAININGS

TASKS = (SINGLE_LABEL, MULTI_LABEL, SEGMENTATION)


def attacked(task: Task, name: str, device: torch.device, precision: Precision) -> torch.Tensor:
    """Returns the adversarial images of an attack with two starts where it is random, in few steps."""
    model = network("small-segmenter" if task is SEGMENTATION else "small", 3).to(device).eval()
    x, y = pixels(4, size=8)[0].to(device), targets(task, 4, 8, 3).to(device)
    steps = 4 if name in ("square", "simba", "sea") else 2
    attack = ATTACKS[name].build(Budget(8 / 255, steps, 2 / 255), task.attacks[name])
    attack = with_restarts(attack, task.attacks[name], 2 if ATTACKS[name].restartable else 1)
    copied = Blocks(inference_copy(model, x), 3)
    rng = SampleRng.of(0, samples=range(4), device=device)
    with precision.autocast(device, early_stopping=ATTACKS[name].early_stopping):
        return attack(copied, x, y, rng=rng)


def settings_with(helper: nn.Module) -> MethodSettings:
    """Returns settings from which every method can be built, with two steps of its attack."""
    return MethodSettings(
        SINGLE_LABEL.objective,
        SINGLE_LABEL.divergence,
        Budget(8 / 255, 2, 2 / 255),
        beta=6.0,
        gamma=1.0,
        hat_step=3.5,
        helper=helper,
    )


def training_of(method: str, data: ImageData, precision: Precision = FP32, *, extras: bool) -> Training:
    """Returns a training by a method on the GPU, with AWP and EMA where there are `extras`."""
    model, helper = SmallNet(3).to(DEVICE), SmallNet(3).to(DEVICE).eval()
    loader = TrainingLoader(data, 3, DEVICE, "weighted", Augmentation(20, 0.5, 0.5), 0)
    optimizer = SINGLE_LABEL.optimizer(model.parameters(), 0.01, 1e-3)
    schedule = SINGLE_LABEL.schedule(optimizer, 0.01, 10)
    both = (WeightPerturbation(0.01), WeightAverage(model, 0.9)) if extras else (None, None)
    return Training(model, METHODS[method](settings_with(helper)), loader, optimizer, schedule, 2, precision, *both)


@pytest.mark.slow
def test_attacks(pretended: PretendedGpu) -> None:
    """Fails if an attack of a task mixes devices in fp32 or bf16, or finds other images in fp32 than on the CPU."""
    for task in TASKS:
        for name in task.attacks:
            expected = attacked(task, name, CPU, FP32)
            for precision in ("fp32", "bf16") if not ATTACKS[name].early_stopping else ("fp32",):
                x_adv = attacked(task, name, DEVICE, Precision.choose(precision, DEVICE))
                assert isinstance(x_adv, GpuTensor) and not x_adv.requires_grad, (task.name, name)
                assert x_adv.dtype == torch.float32 and float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
                if precision == "fp32":  # the noise is the CPU's; blocks differ, and with them the rounding
                    same = float((x_adv.cpu() - expected).abs().lt(1e-4).double().mean())
                    assert same > 0.9, (task.name, name, same)


def test_methods(pretended: PretendedGpu) -> None:
    """Fails if a method mixes devices in an epoch in some precision, with or without AWP and EMA."""
    for method in METHODS:
        for precision in PRECISIONS:
            chosen = Precision.choose(precision, DEVICE)
            training = training_of(method, image_data(4, size=8), chosen, extras=precision == "tf32")
            assert train_one_epoch(training, Position(1)) > 0, method
            assert all(isinstance(value, GpuTensor) for value in training.model.state_dict().values())


def test_evaluations(pretended: PretendedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if pixels that stay on the GPU or are streamed, a transfer, restarts or rounding to 8 bits mix devices."""
    monkeypatch.setattr(budgets, "EVALUATION_STEPS", 2)
    target, source = SmallNet(3).to(DEVICE).eval(), network("small").to(DEVICE).eval()
    run = AttackRun.of("pgd", 8, restarts=2, rounds=True)
    found = []
    for share in (loading.PRELOAD_FRACTION, 0.0):
        monkeypatch.setattr(loading, "PRELOAD_FRACTION", share)
        data = image_data(7, size=8).preload(DEVICE)
        assert (data.preloaded is None) == (share == 0)
        options = EvaluationOptions((0,), precision=Precision("bf16"), rounding=run.rounding)
        loader = EvaluationLoader(data, 3, DEVICE)
        evaluation = evaluate(target, loader, SINGLE_LABEL, run.build(SINGLE_LABEL), source=source, options=options)
        assert type(evaluation.outcomes) is torch.Tensor and evaluation.rounded is not None
        found.append(evaluation.outcomes)
    assert torch.equal(*found)


COMMANDS: dict[str, list[str]] = {
    "trainCls": [
        *TRAININGS["hat"],
        "--kernels",
        "plain",
        "--awp",
        "0.01",
        "--ema",
        "0.9",
        "--epoch",
        "1",
        "--limit",
        "8",
    ],
    "trainChex": [*TRAININGS["findings"], "--epoch", "1", "--limit", "8", "--precision", "bf16"],
    "trainSeg": [*TRAININGS["masks"], "--epoch", "1"],
    "testCls": [
        *("testCls.py", "--dataset", "melBin", "--targetModel", "mv2", "--targetWeight", "weights/mv2"),
        *("--attacks", "pgd", "apgd-ce", "--restarts", "2", "--eightBit"),
    ],
    "testChex": [
        *("testChex.py", "--targetModel", "mv2", "--targetWeight", "weights/mv2-14", "--attacks", "pgd", "apgd"),
        *("--precision", "bf16"),
    ],
    "testSeg": [
        *("testSeg.py", "--dataset", "mel", "--targetModel", "unet", "--targetWeight", "weights/unet"),
        *("--attacks", "segpgd", "--surrogateModel", "unet", "--surrogateWeight", "weights/unet"),
        *("--kernels", "plain"),
    ],
    "gradVisual": [
        "gradVisual.py",
        "--dataset",
        "melBin",
        "--model",
        "mv2",
        "--weight",
        "weights/mv2",
        "--kernels",
        "plain",
    ],
}


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps", "small_networks")
def test_commands(pretended: PretendedGpu, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if one of the seven commands does not run to its end with --gpu 0, or does nothing on the GPU, or has
    other operators than --kernels asks for."""
    monkeypatch.chdir(world)
    for name, words in COMMANDS.items():
        pretended.clear()
        folder = "--resultDir" if name.startswith("test") else "--saveDir"
        common = ["--imgSize", "16", "--gpu", "0", folder, str(tmp_path / name)]
        if not name.startswith("train"):
            common += ["--limit", "4", "--epsilons", "8"]
        assert run_main(monkeypatch, [*words, *common]) == 0, name
        assert len(pretended.launches) > 100 and any((tmp_path / name).iterdir()), name
        fused = sum("cudnn_convolution" in launch.op for launch in pretended.launches)
        assert (fused == 0) == ("plain" in words), (name, fused)
