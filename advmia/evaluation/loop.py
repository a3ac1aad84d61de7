"""Evaluation of a network on a list of images: clean, attacked white-box, or attacked through a source network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advmia.attacks.common import Attack, frozen_eval, notes_of, runs_of, stops_early
from advmia.attacks.inference import Blocks, inference_copy
from advmia.budgets import GREY_LEVELS, Budget
from advmia.data.loading import Batch, EvaluationLoader
from advmia.errors import UserError
from advmia.evaluation.tally import Evaluation, Tally, merge_ranks
from advmia.metrics import Scores
from advmia.results.partial import PartialEvaluation
from advmia.results.rows import ResultRow
from advmia.runtime.precision import FP32, Precision
from advmia.runtime.progress import ProgressBar
from advmia.runtime.rng import SampleRng
from advmia.runtime.signals import Stopped, defer_signals
from advmia.tasks import Task

# An early-stopping attack gets a wave of several batches at once, so that images not yet fooled can be regrouped into
# full blocks. A wave has at most this many batches, because it is attacked again after a kill, and at most this many
# bytes of pixels, because an attack keeps up to ten tensors of that size.
WAVE_BATCHES, WAVE_BYTES = 8, 256 * 2**20


@dataclass(frozen=True)
class AttackedBatch:
    """The images of a batch as the target was scored on them, and its logits."""

    batch: Batch  # the clean images, the targets and the images' indices in the list
    images: Sequence[Tensor]  # (B, C, H, W) each: one, or one for each finding that is attacked by itself
    logits: Tensor  # (B, ...); of several images, the logit of each finding on its image
    rounded: bool = False  # whether the images are those of the attack rounded to 8 bits


@dataclass(frozen=True)
class EvaluationOptions:
    """The options of `evaluate`; of these, `precision` and `scope` change the outcomes of the images themselves."""

    scope: tuple[object, ...] = ()  # names the random streams, e.g. (seed, "pgd", grey_eps)
    title: str = "clean"  # of the progress bar and of errors
    precision: Precision = FP32
    partial: PartialEvaluation | None = None  # saves progress, from which a killed evaluation continues
    is_test: bool = True  # computes the task's further scores too
    # (x_adv, x) -> x_adv rounded to 8 bits (`advmia.evaluation.eight_bits`), which is scored too; None: it is not.
    rounding: Callable[[Tensor, Tensor], Tensor] | None = None
    # Gets each batch that is evaluated here, before its progress is saved; of a resumed evaluation only the others.
    keep: Callable[[AttackedBatch], None] | None = None


def evaluate(
    model: nn.Module,
    loader: EvaluationLoader,
    task: Task,
    attack: Attack | None = None,
    *,
    source: nn.Module | None = None,
    options: EvaluationOptions = EvaluationOptions(),
) -> Evaluation:
    """Scores `model` on the loader's images, attacked where `attack` is given.

    Adversarial images are made on `source` (a transfer attack) or, by default, on `model` itself (white-box). The
    random draws of an image depend only on `options.scope` and on the image's index in its list, so neither the batch
    size nor the order changes an outcome.

    Under bf16, early-stopping attacks still run in fp32, because rounding would make them stop too early.

    With several ranks, each evaluates its share of the list, and all return the scores and outcomes of the whole list
    (collective). Raises `UserError` when an output of the network is not a finite number.
    """
    return _Pass(model, loader, task, attack, model if source is None else source, options).run()


@dataclass
class _Pass:
    """One call of `evaluate`: its arguments, and the results so far."""

    target: nn.Module
    loader: EvaluationLoader
    task: Task
    attack: Attack | None
    source: nn.Module
    options: EvaluationOptions

    def __post_init__(self) -> None:
        self.early_stopping = stops_early(self.attack)
        is_test, rounds = self.options.is_test, self.options.rounding is not None
        self.tally = Tally(self.task, self.loader.data, is_test=is_test, rounds=rounds)
        self.network_passes = 0  # images that the attack has passed through the network

    def run(self) -> Evaluation:
        """Evaluates the images that are not in the partial progress, and merges those of all ranks."""
        partial, data = self.options.partial, self.loader.data
        state = partial.load() if partial else None
        if state is not None and self.tally.holds(state):
            self.tally.load_state_dict(state)
        resumed = len(self.tally)
        waves = self.loader.waves(WAVE_BATCHES if self.early_stopping else 1, WAVE_BYTES, skip=resumed)
        self.progress = ProgressBar(waves, len(data), self.options.title, self.status, initial=resumed)
        target = Blocks(self.target, self.loader.batch_size)
        try:
            for batch in self.progress:
                batch_tally = self.evaluate_batch(batch, target)
                with defer_signals():  # a signal must not come between merging and saving
                    self.tally.merge(batch_tally)
                    if partial:
                        partial.save_if_due(self.tally.state_dict)
        except Stopped:
            if partial and len(self.tally) > resumed:
                partial.save(self.tally.state_dict())
            raise
        return merge_ranks(self.tally).evaluation()

    def evaluate_batch(self, batch: Batch, target: nn.Module) -> Tally:
        """Attacks one batch and scores it. `target`: the target network, run in blocks."""
        device, precision = self.loader.device, self.options.precision
        tally, images = self.tally.empty(), [batch.x]
        start = _now(device)
        if self.attack is not None:
            source = self.source_in_blocks(batch.x)
            rng = SampleRng.of(*self.options.scope, samples=batch.index.tolist(), device=device)
            with precision.autocast(device, early_stopping=self.early_stopping):
                images = [run(source, batch.x, batch.y, rng=rng) for run in runs_of(self.attack, batch.y)]
            tally.add_time(_now(device) - start, notes_of(self.attack))
        logits = self.score(target, images)
        if self.attack is None:
            tally.add_time(_now(device) - start, {})
        tally.add_scores(images, logits, batch)
        self.keep(AttackedBatch(batch, images, logits))
        if tally.rounded is not None and self.options.rounding is not None:
            images = [self.options.rounding(x, batch.x) for x in images]
            logits = self.score(target, images)
            tally.rounded.add_scores(images, logits, batch)
            self.keep(AttackedBatch(batch, images, logits, rounded=True))
        return tally

    def keep(self, attacked: AttackedBatch) -> None:
        """Hands a batch to the caller who asked for it."""
        if self.options.keep is not None:
            self.options.keep(attacked)

    def score(self, target: nn.Module, images: Sequence[Tensor]) -> Tensor:
        """Returns the target's logits (B, ...) on a batch of images. Raises `UserError` for logits that are not finite.

        Of several batches, each made against one finding, each gives the logit of its finding.
        """
        precision = self.options.precision
        with precision.scoring(early_stopping=self.early_stopping), torch.no_grad(), frozen_eval(self.target):
            found = [target(x).float() for x in images]
        logits: Tensor = found[0]
        if len(found) > 1:
            logits = torch.stack([of_run[:, finding] for finding, of_run in enumerate(found)], dim=1)
        if not logits.isfinite().all():  # argmax would count NaN as class 0
            raise UserError(
                f"{self.options.title}: the network's outputs are not all finite numbers, so its weights are of no use"
            )
        return logits

    def source_in_blocks(self, x: Tensor) -> Blocks:
        """Returns the source network as attacks see it, for images x (B, C, H, W)."""
        return Blocks(inference_copy(self.source, x), self.loader.batch_size, self.count_passes)

    def status(self, images: int) -> str:
        """Returns the progress bar's text: the score so far and, of early-stopping attacks, the network passes."""
        selection = self.task.selection
        score = [f"{selection} {self.tally.meter.compute()[selection]:.4f}"] if images else []
        return ", ".join([*score, f"{self.network_passes} passes"] if self.early_stopping else score)

    def count_passes(self, images: int) -> None:
        """Counts the images of one network pass, and refreshes the bar: a batch may take hours."""
        self.network_passes += images
        self.progress.refresh()


def _now(device: torch.device) -> float:
    """Returns seconds on a monotonic clock, read once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _without_rounding(linf: Tensor, grey_eps: float) -> Tensor:
    """Returns distances in grey levels; those that are above eps by no more than float32 rounds pixels are eps."""
    is_rounding = (linf > grey_eps) & (linf < grey_eps + GREY_LEVELS * torch.finfo(torch.float32).eps)
    return torch.where(is_rounding, grey_eps, linf)


def result_row(attack: str, budget: Budget, losses: Sequence[str], scores: Scores, evaluation: Evaluation) -> ResultRow:
    """Returns the result row of one evaluation. Eps, step size and L-infinity distances are in grey levels there."""
    linf = _without_rounding(evaluation.linf.double() * GREY_LEVELS, budget.grey_eps)
    notes = {"l2": evaluation.l2, "linf": linf, **evaluation.notes}
    return ResultRow(
        attack=attack,
        grey_eps=budget.grey_eps,
        steps=budget.steps,
        grey_step_size=budget.grey_step_size,
        n=len(evaluation),
        scores=scores,
        seconds=evaluation.seconds,
        l2=float(evaluation.l2.mean()),
        grey_linf=float(_without_rounding(linf.mean(), budget.grey_eps)),
        queries=float(evaluation.notes["queries"].float().mean()) if "queries" in evaluation.notes else None,
        losses=list(losses),
        outcomes=evaluation.outcomes.tolist(),
        notes={name: values.tolist() for name, values in notes.items()},
    )
