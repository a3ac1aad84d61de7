"""The end of a run: renews the rows `worst`, probes the networks, judges the results and records all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, fields

import torch
from torch import nn

from advmia.data.loading import EvaluationLoader
from advmia.evaluation.checks import Check, ScoreTable, report
from advmia.evaluation.guessing import base_rate
from advmia.evaluation.origin import check_training
from advmia.evaluation.probe import Probe, probe_network
from advmia.evaluation.worst import renew_worst
from advmia.results.read import RunRecord
from advmia.results.rows import CLEAN, WORST, ResultRow
from advmia.results.write import ResultFile
from advmia.tasks import Task


def conclude(
    results: ResultFile, loader: EvaluationLoader, task: Task, target: nn.Module, source: nn.Module | None
) -> list[Check]:
    """Returns the checks of a finished run, and writes them, the probe and the rows `worst` into its files.

    These are of all rows in the files, also of those that other runs have added. `loader`: of the whole list. `source`
    is None for a white-box run, as in `evaluate`.
    """
    with results.locked():
        probe = _recorded_probe(results)
    if probe is None:
        probe = probe_network(source or target, loader, task, target=target, seed=results.run["seed"])
    rate, clean = base_rate(task, loader.data), results.row(CLEAN, 0)
    with results.locked():
        renew_worst(results, task, loader.data)
        table = score_table(results.rows, task.selection)
        others = _results_beside(results, task.selection)
        checks = [
            rate.check(clean.scores, torch.tensor(clean.outcomes)),
            *report(table, probe, score=task.selection, transfer=results.is_transfer, others=others),
            check_training(results.details, loader.data),
        ]
        results.details["probe"], results.details["reliability"] = asdict(probe), [vars(check) for check in checks]
        results.details["base_rate"] = {"score": rate.score, "answer": rate.answer}
        results.details["finished"] = True
        results.save()
    return checks


def _recorded_probe(results: ResultFile) -> Probe | None:
    """Returns the probe that an earlier command has written into the files of the same run; None if there is none.

    It depends on the networks and the images only. In a test of few images under a fast attack, it is much of the work.
    """
    recorded = results.details.get("probe")
    if not isinstance(recorded, dict) or recorded.keys() != {field.name for field in fields(Probe)}:
        return None  # missing, or another version's
    return Probe(**recorded)


def score_table(rows: Iterable[ResultRow], score: str) -> ScoreTable:
    """Returns the scores that the checks compare: those of the attacks themselves.

    Left out are `worst`, which is no attack and made of other attacks at each eps, and images rounded to 8 bits. Of an
    attack that was run with several numbers of restarts, the one that was run at most eps is compared, or the lowest.
    """
    attacks = [row for row in rows if row.attack != WORST and not row.eight_bits and score in row.scores]
    counts = Counter((row.attack, row.restarts) for row in attacks)
    compared: dict[str, int] = {}  # number of restarts by attack
    for (attack, restarts), _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        compared.setdefault(attack, restarts)
    return {(row.attack, row.grey_eps): row.scores[score] for row in attacks if compared[row.attack] == row.restarts}


def _results_beside(results: ResultFile, score: str) -> dict[str, ScoreTable]:
    """Returns the scores of comparable results in the same folder, by file name.

    For a transfer run these are the white-box results of its target on the same images, and the other way round.
    """
    comparable = [other for other in results.beside() if _is_comparable(other, results)]
    return {other.file.name: score_table(other.rows, score) for other in comparable}


def _is_comparable(other: RunRecord, results: ResultFile) -> bool:
    """Returns whether two runs differ in the source only, and one of them is a white-box run."""
    same = {**other.run, "source_sha256": None} == {**results.run, "source_sha256": None}
    return same and other.is_transfer != results.is_transfer
