"""The reliability report at the end of a run: probes the networks, judges the results and records both."""

from __future__ import annotations

import os
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
from advmia.results.read import RunRecord, results_at
from advmia.results.rows import CLEAN, WORST, ResultRow
from advmia.results.write import ResultFile
from advmia.tasks import Task

_KEPT_BYTES = 200  # of a long name, by `advmia.results.write.result_stem`


def conclude(
    results: ResultFile, loader: EvaluationLoader, task: Task, target: nn.Module, source: nn.Module | None
) -> list[Check]:
    """Returns the checks of a finished run, and writes them and the probe into its JSON file.

    `source` is None for a white-box run, as in `evaluate`.
    """
    probe = _recorded_probe(results)
    if probe is None:
        probe = probe_network(source or target, loader, task, target=target, seed=results.run["seed"])
    table = score_table(results.rows, task.selection)
    others = _results_beside(results, task.selection)
    rate, clean = base_rate(task, loader.data), results.row(CLEAN, 0)
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
    """Returns the probe in the result file, if the same run has written it and nothing was added since.

    `ResultFile.add` writes the file without a probe. A run that adds a row therefore probes again, which takes little
    time compared to the attack. A run that adds nothing does not: on a CPU the probe would be most of its time.
    """
    earlier = results_at(results.json_path)
    if earlier is None or earlier.run != results.run:
        return None
    recorded = earlier.content.get("probe")
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
    # All are named after the target, and long names keep these bytes. Reading any other file would only take time.
    beginning = os.fsencode(results.published_name.partition("__from__")[0])[:_KEPT_BYTES]
    tables = {}
    for path in sorted(results.stem.parent.glob("*.json")):
        if path == results.json_path or not os.fsencode(path.name).startswith(beginning):
            continue
        other = results_at(path)
        if other is not None and _is_comparable(other, results):
            tables[path.name] = score_table(other.rows, score)
    return tables


def _is_comparable(other: RunRecord, results: ResultFile) -> bool:
    """Returns whether two runs differ in the source only, and one of them is a white-box run."""
    same = {**other.run, "source_sha256": None} == {**results.run, "source_sha256": None}
    return same and other.is_transfer != results.is_transfer
