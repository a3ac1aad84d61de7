"""Collects the results of an evaluation batch by batch: scores, outcomes, distances and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advmia.data.loading import Batch, ImageData
from advmia.metrics import Meter, Scores
from advmia.runtime import distributed
from advmia.tasks import Task


@dataclass(frozen=True)
class Evaluation:
    """The result of one pass over a list of N images."""

    scores: Scores
    outcomes: Tensor  # (N, ...): what the task records of each image, in the list's order
    seconds: float  # spent in the attack; for a clean pass, in the network
    l2: Tensor  # (N,) float32: L2 distance of each attacked image from its original, pixels in [0, 1]
    linf: Tensor  # (N,) float32: likewise, the L-infinity distance
    notes: dict[str, Tensor]  # (N,) each: those of the attack (`advmia.attacks.common.notes_of`), and of the task
    rounded: Evaluation | None = None  # of the same images rounded to 8 bits, if that was asked for

    def __len__(self) -> int:
        return len(self.outcomes)


class Tally:
    """The results of the images evaluated so far, in the list's order."""

    def __init__(self, task: Task, data: ImageData, *, is_test: bool = True, rounds: bool = False) -> None:
        """`is_test`: whether the task's further scores are computed too. `rounds`: see `rounded`."""
        self.meter, self._task = task.meter(data.samples.spec, data.samples.classes), task
        self._further = task.further_meter() if is_test and task.further_meter else None
        # The tally of the same images rounded to 8 bits, if these are scored too.
        self.rounded = Tally(task, data, is_test=is_test) if rounds else None
        self._form = (task, data, is_test, rounds)
        self._seconds = 0.0
        self._columns: dict[str, list[Tensor]] = {}  # name to one tensor for each batch

    def empty(self) -> Tally:
        """Returns a tally of the same scores without images."""
        task, data, is_test, rounds = self._form
        return Tally(task, data, is_test=is_test, rounds=rounds)

    def __len__(self) -> int:
        return sum(map(len, self._columns.get("outcomes", [])))

    def add_time(self, seconds: float, notes: dict[str, Tensor]) -> None:
        """Adds a batch's seconds and the attack's notes (B,) of its images."""
        self._seconds += seconds
        self._append(notes)

    def add_scores(self, attacked: Sequence[Tensor], logits: Tensor, batch: Batch) -> None:
        """Scores a batch from the network's logits (B, ...) on attacked images (B, C, H, W) of those in `batch`.

        Of several attacked batches (see `advmia.attacks.common.runs_of`), each image's largest distances count.
        """
        for meter in self._meters.values():
            meter.update(logits, batch.y)
        changes = [(x_adv - batch.x).flatten(1) for x_adv in attacked]
        l2 = torch.stack([change.norm(dim=1) for change in changes]).amax(dim=0)
        linf = torch.stack([change.abs().amax(dim=1) for change in changes]).amax(dim=0)
        notes = {name: note(logits, batch.y) for name, note in self._task.notes.items()}
        self._append({"l2": l2, "linf": linf, "outcomes": self._task.outcome(logits, batch.y), **notes})

    def merge(self, other: Tally) -> None:
        """Appends the tally of the images that follow."""
        for name, meter in self._meters.items():
            meter.merge(other._meters[name])
        self._seconds += other._seconds
        self._append({name: torch.cat(parts) for name, parts in other._columns.items()})
        if self.rounded is not None and other.rounded is not None:
            self.rounded.merge(other.rounded)

    def evaluation(self) -> Evaluation:
        """Returns the results of all images so far."""
        columns = self.state_dict()["columns"]
        outcomes, l2, linf = (columns.pop(name) for name in ("outcomes", "l2", "linf"))
        scores = {name: score for meter in self._meters.values() for name, score in meter.compute().items()}
        evaluation = Evaluation(scores, outcomes, self._seconds, l2, linf, notes=columns)
        if self.rounded is not None:
            rounded = self.rounded.evaluation()
            return replace(evaluation, rounded=replace(rounded, seconds=self._seconds, notes=columns | rounded.notes))
        return evaluation

    def state_dict(self) -> dict[str, Any]:
        columns = {name: torch.cat(parts) for name, parts in self._columns.items()}
        return {"seconds": self._seconds, "columns": columns} | {
            name: part.state_dict() for name, part in self._parts.items()
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds = state_dict["seconds"]
        self._columns = {name: [column] for name, column in state_dict["columns"].items()}
        for name, part in self._parts.items():
            part.load_state_dict(state_dict[name])

    @property
    def _meters(self) -> dict[str, Meter]:
        """The meters by their names in the state."""
        return {"meter": self.meter} | ({"further": self._further} if self._further else {})

    @property
    def _parts(self) -> dict[str, Meter | Tally]:
        """What has a state of its own, by its name in the state."""
        return {**self._meters, **({"rounded": self.rounded} if self.rounded is not None else {})}

    def holds(self, state_dict: dict[str, Any]) -> bool:
        """Returns whether a saved state has all that this tally needs; one of an earlier version may not."""
        columns = state_dict["columns"]
        return self._parts.keys() <= state_dict.keys() and (not columns or self._task.notes.keys() <= columns.keys())

    def _append(self, columns: dict[str, Tensor]) -> None:
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values.cpu())


def merge_ranks(tally: Tally) -> Tally:
    """Merges the tallies of all ranks in their order (collective). Its seconds are those of the slowest rank."""
    states = distributed.all_gather(tally.state_dict())
    merged = tally.empty()
    for state in states:
        share = tally.empty()
        share.load_state_dict(state)
        merged.merge(share)
    merged._seconds = max(state["seconds"] for state in states)  # the ranks worked at the same time
    return merged
