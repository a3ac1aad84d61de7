"""Where the host waits for the GPU: nowhere in an attack's step or between the steps of a batch but in `ALLOWED`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.attacks.inference import Blocks, inference_copy
from advmia.budgets import Budget
from advmia.data.loading import EvaluationLoader
from advmia.evaluation.attacked import AttackRun
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.runtime.rng import SampleRng
from advmia.tasks import SEGMENTATION, SINGLE_LABEL, Task
from advmia.training.loop import Position, train_one_epoch
from advmia.training.methods import METHODS
from tests.gpu.test_devices import TASKS, training_of
from tests.support.gpu_records import Wait
from tests.support.networks import SmallNet, image_data, targets
from tests.support.pretended_gpu import DEVICE, PretendedGpu

# Module and function -> (the most waits in a step of an attack, why). "Step" is a direction of SimBA, a query of
# Square; of attacks that consist of several runs, each run's.
ALLOWED_IN_STEPS: dict[str, tuple[int, str]] = {
    "attacks/auto_pgd.py auto_ascend": (1, "whether an image is fooled, and leaves"),
    "attacks/fab.py _try_target": (1, "whether an image is fooled, and leaves"),
    "attacks/square_attack.py _search": (1, "whether an image is fooled, and leaves"),
    "attacks/simba_dct.py __call__": (1, "whether an image is fooled, and leaves"),
    "attacks/simba_dct.py _try_planes": (2, "which images are tried forwards too, and which helped neither way"),
}
# Of attacks that consist of several runs: how many.
RUNS = {"apgd-t": 3 * 2, "fab-t": 3, "sea": 2 * 4}  # targets and losses; targets; halves of the steps and losses
# Module and function -> (the most waits in a batch, besides those of steps, why).
ALLOWED_IN_BATCHES: dict[str, tuple[int, str]] = {
    "attacks/common.py attack_correct_images": (1, "which images are classified correctly: only these are attacked"),
    "attacks/square_attack.py _search": (1, "the same"),
    "attacks/simba_dct.py __call__": (1, "the same"),
    "attacks/mask_ensemble.py __call__": (4, "which images have a pixel that is right, before each of four runs"),
    "attacks/auto_pgd.py _try_targets": (6, "which images are left for the next target and loss"),
    "attacks/fab.py _try_targets": (3, "which images are left for the next target"),
    "attacks/auto_pgd.py auto_ascend": (16, "whether an image is fooled at the start of a run"),
    "attacks/simba_dct.py <genexpr>": (2, "the bases of the DCT are computed on the CPU, in float64"),
    "attacks/momentum.py placements": (1, "the sizes of all shrunk images: the host must know a tensor's shape"),
}
ALLOWED_IN_TRAINING: dict[str, tuple[int, str]] = {
    "training/progress.py values": (1, "the loss of the update before, when the next is launched"),
}
ALLOWED_IN_EVALUATION: dict[str, tuple[int, str]] = {
    "evaluation/loop.py _now": (2, "the clock is read when the device has finished"),
    "evaluation/loop.py score": (2, "whether the logits are finite; twice with rounding to 8 bits"),
    "evaluation/tally.py _append": (8, "outcomes and distances are kept on the host; twice with rounding to 8 bits"),
    "metrics.py _append": (6, "logits are kept on the host; twice with rounding to 8 bits"),
}
ONCE = {
    "attacks/inference/copies.py _can_be_folded": (3, "whether a network may be folded, once for each network"),
    "attacks/inference/fused.py _fault": (2, "whether fused layers are right, without a gradient and with one"),
}
# Once for each kind of pass: a batch size, with or without a gradient.
WHEN_RECORDED = {
    "attacks/inference/captured.py recording": (2, "what a graph records begins when the device has finished"),
    "attacks/inference/captured.py _capture": (1, "whether a graph gives the network's numbers"),
}


class Sure(nn.Module):
    """A network that is sure of class 0 whatever it sees, so that no image leaves; for findings, absent ones."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.conv, self.is_for_masks = nn.Conv2d(3, 4, 3, padding=1), task is SEGMENTATION
        self.register_buffer("lead", torch.tensor([40.0, 0, 0, 0]))

    def forward(self, x: Tensor) -> Tensor:
        z, lead = self.conv(x) / 10, self.get_buffer("lead")
        return z + lead.view(-1, 1, 1) if self.is_for_masks else z.mean(dim=(2, 3)) + lead


def place_of(wait: Wait) -> str:
    """Returns the module and the function, without the line."""
    path, _, function = wait.place.removeprefix("advmia/").partition(" ")
    return f"{path.partition(':')[0]} {function}"


def counted(waits: Iterable[Wait]) -> Counter[str]:
    return Counter(map(place_of, waits))


def taken(counts: Counter[str], places: Iterable[str]) -> Counter[str]:
    """Takes the counts of these places out of `counts`."""
    return Counter({place: counts.pop(place, 0) for place in places})


def check(
    counts: Counter[str], waits: list[Wait], allowed: dict[str, tuple[int, str]], times: int, what: object
) -> None:
    """Fails with their lines if there are waits at a place that is not allowed, or more than `times` what is."""
    for place, count in counts.items():
        lines = sorted({f"{wait.place} ({wait.kind})" for wait in waits if place_of(wait) == place})
        assert place in allowed, f"{what}: the host waits at {lines}, and no table here says why"
        assert count <= allowed[place][0] * times, f"{what}: {count / times:g} waits at {lines}"


def waits_of(gpu: PretendedGpu, task: Task, name: str, steps: int) -> list[Wait]:
    """Returns the waits of an attack with so many steps, on images of which none is fooled."""
    torch.manual_seed(0)
    model = Sure(task).to(DEVICE).eval()
    x, y = torch.rand(3, 3, 8, 8).to(DEVICE), torch.zeros_like(targets(task, 3, 8, 4)).to(DEVICE)
    copied, rng = Blocks(inference_copy(model, x), 3), SampleRng.of(0, samples=range(3), device=DEVICE)
    gpu.clear()
    ATTACKS[name].build(Budget(8 / 255, steps, 2 / 255), task.attacks[name])(copied, x, y, rng=rng)
    return list(gpu.waits)


@pytest.mark.slow
def test_attacks(pretended: PretendedGpu) -> None:
    """Fails if an attack waits in a step, or before, between and after its steps, where or more often than allowed."""
    for task in TASKS:
        for name in task.attacks:
            if name == "aa":  # its four attacks are there by themselves
                continue
            few, many = (waits_of(pretended, task, name, steps) for steps in (4, 6))
            of_two_steps = counted(many) - counted(few)
            in_steps = Counter({place: 2 * count for place, count in of_two_steps.items()})  # in the first four
            check(of_two_steps, many, ALLOWED_IN_STEPS, 2 * RUNS.get(name, 1), (task.name, name, "steps"))
            of_batch = counted(few) - in_steps
            check(taken(of_batch, WHEN_RECORDED), few, WHEN_RECORDED, 3, (task.name, name, "recording"))
            check(taken(of_batch, ONCE), few, ONCE, 1, (task.name, name, "first pass"))
            check(of_batch, few, ALLOWED_IN_BATCHES, 1, (task.name, name, "batch"))


def test_training(pretended: PretendedGpu) -> None:
    """Fails if a method waits in its attack or loss, or the loop more often than for the loss of each update.

    Or if the loop waits for a loss before the next update is launched, except for the last one of an epoch.
    """
    for method in METHODS:
        data = image_data(6, size=8)
        training = training_of(method, data.preload(DEVICE) if method in ("nat", "hat") else data, extras=True)
        train_one_epoch(training, Position(1))
        pretended.clear()
        train_one_epoch(training, Position(2))
        check(counted(pretended.waits), pretended.waits, ALLOWED_IN_TRAINING, len(training.loader), method)
        *late, last = [wait.ahead for wait in pretended.waits]
        assert len(late) == len(training.loader) - 1 and min(late) > 100 > last, method


def test_evaluations(pretended: PretendedGpu) -> None:
    """Fails if an evaluation waits elsewhere than for its clock, its scores and what the tally keeps."""
    for name, resident in (("pgd", True), ("pgd", False), ("fgsm", True)):
        data = image_data(6, size=8)
        data = data.preload(DEVICE) if resident else data
        run = AttackRun(name, Budget(8 / 255, 3, 2 / 255), rounds=True)
        options, loader = EvaluationOptions((0,), rounding=run.rounding), EvaluationLoader(data, 3, DEVICE)
        model = SmallNet(3).to(DEVICE).eval()
        pretended.clear()
        evaluate(model, loader, SINGLE_LABEL, run.build(SINGLE_LABEL), options=options)
        counts = counted(pretended.waits)
        check(taken(counts, ONCE), pretended.waits, ONCE, 1, name)
        check(taken(counts, WHEN_RECORDED), pretended.waits, WHEN_RECORDED, 1, name)
        check(counts, pretended.waits, ALLOWED_IN_EVALUATION, len(loader), name)
