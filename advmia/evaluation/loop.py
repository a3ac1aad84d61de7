"""The story of training and of testing, told once for every task. Only here and in `cli` are command lines known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advmia.attacks.common import Attack, frozen_eval, notes_of, stops_early
from advmia.attacks.inference import Blocks, inference_copy
from advmia.budgets import GREY_LEVELS, Budget
from advmia.data.loading import Batch, EvaluationLoader, ImageData
from advmia.errors import UserError
from advmia.metrics import Scores
from advmia.results.partial import PartialEvaluation
from advmia.results.rows import ResultRow
from advmia.runtime import distributed
from advmia.runtime.precision import FP32, Precision
from advmia.runtime.progress import ProgressBar
from advmia.runtime.rng import SampleRng
from advmia.runtime.signals import Stopped, defer_signals
from advmia.tasks import Task

# So many batches are handed at once to an attack whose images leave as they are fooled: what is left of them makes full
# ones. Not more, because a wave that is killed is attacked again; and no more than so many bytes of pixels, because the
# attack keeps up to ten tensors of that size.
WAVE_BATCHES, WAVE_BYTES = 8, 256 * 2**20


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
    unfinished: PartialEvaluation | None = None,
) -> Evaluation:
    """Scores `model` on the loader's images, attacked where `attack` is given.

    Adversarial images are made on `source` (a transfer attack) or, by default, on `model` itself (white-box).
    `scope` names the purpose of the random draws, e.g. (seed, "pgd", eps); each sample's draws depend on it and on the
    sample's row alone, so neither the batch size nor the order changes an outcome.

    Under bf16, attacks that stop as soon as an image is fooled still run unrounded: they would stop too early.

    Of several processes each is given its share of the list, and all return the whole list's scores and outcomes.
    `unfinished`: where an evaluation that was killed has left what it had done, and this one does.
    """
    return evaluate_each(
        model,
        loader,
        task,
        [attack],
        source=source,
        scopes=[scope],
        title=title,
        precision=precision,
        unfinished=unfinished,
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
    unfinished: PartialEvaluation | None = None,
) -> list[Evaluation]:
    """As `evaluate`, for several attacks that take turns on each batch: FGSMs of several eps then share a gradient."""
    data, attacked = loader.data, model if source is None else source
    tallies = [_Tally(task, data) for _ in attacks]
    for tally, state in zip(tallies, unfinished.load() if unfinished else [], strict=False):
        tally.load_state_dict(state)
    done, scored, passes = len(tallies[0]), Blocks(model, loader.batch_size), 0
    early_stopping = any(map(stops_early, attacks))

    def note(images: int) -> str:
        score = [f"{task.selection} {tallies[-1].meter.compute()[task.selection]:.4f}"] if images else []
        return ", ".join([*score, f"{passes} passes"] if early_stopping else score)

    def passed(images: int) -> None:
        nonlocal passes
        passes += images
        batches.refresh()

    def tallied(batch: Batch, made_on: nn.Module, attack: Attack | None, scope: tuple[object, ...]) -> _Tally:
        tally, start, x = _Tally(task, data), _now(loader.device), batch.x
        if attack is not None:
            rng = SampleRng.of(*scope, samples=batch.index.tolist(), device=loader.device)
            with precision.networks(loader.device, early_stopping=stops_early(attack)):
                x = attack(made_on, x, batch.y, rng=rng)
            tally.note(_now(loader.device) - start, notes_of(attack))
        with precision.scoring(early_stopping=stops_early(attack)), torch.no_grad(), frozen_eval(model):
            logits = scored(x).float()
        if attack is None:
            tally.note(_now(loader.device) - start, {})
        if not logits.isfinite().all():  # argmax would call NaN class 0
            raise UserError(f"{title}: the network's outputs are not all finite numbers, so its weights are of no use")
        tally.score(x, logits, batch)
        return tally

    def states() -> list[Any]:
        return [tally.state_dict() for tally in tallies]

    waves = loader.waves(WAVE_BATCHES if early_stopping else 1, WAVE_BYTES, skip=done)
    batches = ProgressBar(waves, len(data), title, note, done=done)
    try:
        for batch in batches:
            made_on = Blocks(inference_copy(attacked, batch.x), loader.batch_size, passed) if any(attacks) else scored
            found = [tallied(batch, made_on, attack, scope) for attack, scope in zip(attacks, scopes, strict=True)]
            with defer_signals():  # a batch is done with for every attack, or for none
                for tally, new in zip(tallies, found, strict=True):
                    tally.merge(new)
                if unfinished:
                    unfinished.save_if_due(states)
    except Stopped:
        if unfinished and len(tallies[0]) > done:
            unfinished.save(states())
        raise
    return [tally.total() for tally in _whole(tallies, task, data)]


class _Tally:
    """What one attack has given on some of the images."""

    def __init__(self, task: Task, data: ImageData) -> None:
        self.meter, self._task = task.meter(data.samples.classes, data.samples.spec.positive), task
        self._seconds = 0.0
        self._columns: dict[str, list[Tensor]] = {}  # of each batch

    def __len__(self) -> int:
        return sum(map(len, self._columns.get("outcomes", [])))

    def note(self, seconds: float, notes: dict[str, Tensor]) -> None:
        self._seconds += seconds
        self._append(notes)

    def score(self, x: Tensor, logits: Tensor, batch: Batch) -> None:
        """Counts the batch, of which the attack has made x (B, C, H, W) and the network these logits."""
        self.meter.update(logits, batch.y)
        moved = (x - batch.x).flatten(1)
        outcomes = self._task.outcome(logits, batch.y)
        self._append({"l2": moved.norm(dim=1), "linf": moved.abs().amax(dim=1), "outcomes": outcomes})

    def merge(self, other: _Tally) -> None:
        """Takes over what is known of the images that come next."""
        self.meter.merge(other.meter)
        self._seconds += other._seconds
        self._append({name: torch.cat(parts) for name, parts in other._columns.items()})

    def total(self) -> Evaluation:
        whole = self.state_dict()["columns"]
        outcomes, l2, linf = (whole.pop(name) for name in ("outcomes", "l2", "linf"))
        return Evaluation(self.meter.compute(), outcomes, self._seconds, l2, linf, notes=whole)

    def state_dict(self) -> dict[str, Any]:
        columns = {name: torch.cat(parts) for name, parts in self._columns.items()}
        return {"seconds": self._seconds, "columns": columns, "meter": self.meter.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds = state_dict["seconds"]
        self._columns = {name: [whole] for name, whole in state_dict["columns"].items()}
        self.meter.load_state_dict(state_dict["meter"])

    def _append(self, columns: dict[str, Tensor]) -> None:
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values.cpu())


def _whole(tallies: list[_Tally], task: Task, data: ImageData) -> list[_Tally]:
    """The tallies of all processes as one, in each of them. They worked at the same time: the longest counts."""
    shares = distributed.all_gather([tally.state_dict() for tally in tallies])
    whole = []
    for states in zip(*shares, strict=True):
        whole.append(_Tally(task, data))
        for state in states:
            share = _Tally(task, data)
            share.load_state_dict(state)
            whole[-1].merge(share)
        whole[-1]._seconds = max(state["seconds"] for state in states)
    return whole


def _now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def result_row(attack: str, budget: Budget, losses: Sequence[str], scores: Scores, found: Evaluation) -> ResultRow:
    linf = found.linf * GREY_LEVELS
    notes = {"l2": found.l2, "linf": linf, **found.notes}
    return ResultRow(
        attack=attack,
        grey_eps=budget.grey_eps,
        steps=budget.steps,
        grey_step_size=budget.grey_step_size,
        n=len(found),
        scores=scores,
        seconds=found.seconds,
        l2=float(found.l2.mean()),
        grey_linf=float(linf.mean()),
        queries=float(found.notes["queries"].float().mean()) if "queries" in found.notes else None,
        losses=list(losses),
        outcomes=found.outcomes.tolist(),
        notes={name: values.tolist() for name, values in notes.items()},
    )
