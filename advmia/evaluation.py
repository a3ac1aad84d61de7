"""One evaluation: a loader, a target, and perhaps an attack made on a source."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advmia.attacks.steps import Attack, drops_images, frozen_eval, notes_of
from advmia.data.loading import Batch, EvaluationLoader
from advmia.errors import UserError
from advmia.inference import Blocks, inference_copy
from advmia.metrics import Scores
from advmia.precision import FP32, Precision
from advmia.progress import Watched
from advmia.rng import SampleRng
from advmia.tasks import Task

# Pixels, in bytes, that are handed at once to an attack whose images leave as they are fooled: what is left of many
# batches makes full ones. Such an attack keeps up to ten tensors of this size.
WAVE_BYTES = 256 * 2**20


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
    precision: Precision = FP32,
) -> Evaluation:
    """Scores `model` on the loader's images, attacked where `attack` is given.

    Adversarial images are made on `source` (a transfer attack) or, by default, on `model` itself (white-box).
    `scope` names the purpose of the random draws, e.g. (seed, "pgd", eps); each sample's draws depend on it and on the
    sample's row alone, so neither the batch size nor the order changes an outcome.

    Under bf16, attacks that stop as soon as an image is fooled still run unrounded: they would stop too early.
    """
    return evaluate_each(
        model, loader, task, [attack], source=source, scopes=[scope], title=title, precision=precision
    )[0]


def evaluate_each(
    model: nn.Module,
    loader: EvaluationLoader,
    task: Task,
    attacks: Sequence[Attack | None],
    *,
    source: nn.Module | None = None,
    scopes: Sequence[tuple[object, ...]],
    title: str,
    precision: Precision = FP32,
) -> list[Evaluation]:
    """As `evaluate`, for several attacks that take turns on each batch: FGSMs of several eps then share a gradient."""
    data, attacked = loader.data, model if source is None else source
    tallies = [_Tally(task, data.samples.classes, data.samples.spec.positive) for _ in attacks]
    scored, passes = Blocks(model, loader.batch_size), 0
    is_long = any(map(drops_images, attacks))

    def note(images: int) -> str:
        score = [f"{task.selection} {tallies[-1].meter.compute()[task.selection]:.4f}"] if images else []
        return ", ".join([*score, f"{passes} passes"] if is_long else score)

    def passed(images: int) -> None:
        nonlocal passes
        passes += images
        batches.stir()

    batches = Watched(loader.waves(WAVE_BYTES if is_long else 0), len(data), title, note)
    for batch in batches:
        made_on = Blocks(inference_copy(attacked, batch.x), loader.batch_size, passed) if any(attacks) else scored
        for attack, scope, tally in zip(attacks, scopes, tallies, strict=True):
            start, x = _now(loader.device), batch.x
            if attack is not None:
                rng = SampleRng.of(*scope, samples=batch.index.tolist(), device=loader.device)
                with precision.networks(loader.device, decides=drops_images(attack)):
                    x = attack(made_on, x, batch.y, rng=rng)
                tally.note(_now(loader.device) - start, notes_of(attack))
            with precision.scoring(), torch.no_grad(), frozen_eval(model):
                logits = scored(x).float()
            if attack is None:
                tally.note(_now(loader.device) - start, {})
            if not logits.isfinite().all():  # argmax would call NaN class 0
                raise UserError(
                    f"{title}: the network's outputs are not all finite numbers, so its weights are of no use"
                )
            tally.score(x, logits, batch)
    return [tally.total() for tally in tallies]


class _Tally:
    """What one attack has given so far."""

    def __init__(self, task: Task, classes: int, positive: int) -> None:
        self.meter, self._task, self._seconds = task.meter(classes, positive), task, 0.0
        self._columns: dict[str, list[Tensor]] = defaultdict(list)  # of each batch

    def note(self, seconds: float, notes: dict[str, Tensor]) -> None:
        self._seconds += seconds
        for name, values in notes.items():
            self._columns[name].append(values.cpu())

    def score(self, x: Tensor, logits: Tensor, batch: Batch) -> None:
        """Counts the batch, of which the attack has made x (B, C, H, W) and the network these logits."""
        self.meter.update(logits, batch.y)
        moved = (x - batch.x).flatten(1)
        self._columns["l2"].append(moved.norm(dim=1).cpu())
        self._columns["linf"].append(moved.abs().amax(dim=1).cpu())
        self._columns["outcomes"].append(self._task.outcome(logits, batch.y).cpu())

    def total(self) -> Evaluation:
        whole = {name: torch.cat(values) for name, values in self._columns.items()}
        outcomes, l2, linf = (whole.pop(name) for name in ("outcomes", "l2", "linf"))
        return Evaluation(self.meter.compute(), outcomes, self._seconds, l2, linf, notes=whole)


def _now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
