"""One evaluation: a loader, a target, and perhaps an attack made on a source."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advmia.attacks.steps import Attack, frozen_eval, notes_of
from advmia.data.loading import EvaluationLoader
from advmia.errors import UserError
from advmia.inference import EqualBlocks, inference_copy
from advmia.metrics import Scores
from advmia.progress import watched
from advmia.rng import SampleRng
from advmia.tasks import Task


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a list gave."""

    scores: Scores
    outcomes: Tensor  # (N, ...): what the task records of each image, in the list's order
    seconds: float  # spent in the attack; for a clean pass, in the network
    l2: Tensor  # (N,) float32: how far each image was moved, pixels in [0, 1]
    linf: Tensor  # (N,) float32: likewise
    notes: dict[str, Tensor]  # (N,) each: what the attack notes of its images (`advmia.attacks.steps.notes_of`)

    def __len__(self) -> int:
        return len(self.outcomes)


def evaluate(
    model: nn.Module,
    loader: EvaluationLoader,
    task: Task,
    attack: Attack | None = None,
    *,
    source: nn.Module | None = None,
    scope: tuple[object, ...] = (),
    title: str = "clean",
) -> Evaluation:
    """Scores `model` on the loader's images, attacked where `attack` is given.

    Adversarial images are made on `source` (a transfer attack) or, by default, on `model` itself (white-box).
    `scope` names the purpose of the random draws, e.g. (seed, "pgd", eps); each sample's draws depend on it and on the
    sample's row alone, so neither the batch size nor the order changes an outcome.
    """
    meter, seconds = task.meter(loader.data.samples.classes, loader.data.samples.spec.positive), 0.0
    columns: dict[str, list[Tensor]] = defaultdict(list)  # of each batch
    attacked = model if source is None else source

    def score_so_far(_: int) -> str:
        return f"{task.selection} {meter.compute()[task.selection]:.4f}"

    for batch in watched(loader, len(loader.data), title, score_so_far):
        start = _now(loader.device)
        x = batch.x
        if attack is not None:
            rng = SampleRng.of(*scope, samples=batch.index.tolist(), device=loader.device)
            x = attack(EqualBlocks(inference_copy(attacked, x)), x, batch.y, rng=rng)
            seconds += _now(loader.device) - start
            for name, values in notes_of(attack).items():
                columns[name].append(values.cpu())
        with torch.no_grad(), frozen_eval(model):
            logits = EqualBlocks(model)(x).float()
        if attack is None:
            seconds += _now(loader.device) - start
        if not logits.isfinite().all():  # argmax would call NaN class 0
            raise UserError(f"{title}: the network's outputs are not all finite numbers; its weights must be made anew")
        meter.update(logits, batch.y)
        moved = (x - batch.x).flatten(1)
        columns["l2"].append(moved.norm(dim=1).cpu())
        columns["linf"].append(moved.abs().amax(dim=1).cpu())
        columns["outcomes"].append(task.outcome(logits, batch.y).cpu())
    whole = {name: torch.cat(values) for name, values in columns.items()}
    outcomes, l2, linf = (whole.pop(name) for name in ("outcomes", "l2", "linf"))
    return Evaluation(meter.compute(), outcomes, seconds, l2, linf, notes=whole)


def _now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
