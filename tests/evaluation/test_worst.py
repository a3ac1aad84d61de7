"""The row `worst`: its outcomes and scores by brute force, when it is there, and what becomes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from advmia.data.loading import ImageData
from advmia.data.tensors import as_data
from advmia.errors import UserError
from advmia.evaluation.reliability import score_table
from advmia.evaluation.worst import renew_worst
from advmia.results.read import read_results
from advmia.results.rows import CLEAN, WORST, ResultRow
from advmia.results.scored import column_heads, score_run
from advmia.results.tables import make_tables
from advmia.results.write import ResultFile
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task

N = 30
SCORES = {
    "single-label": ("accuracy", "recall", "precision", "f1", "balanced_accuracy", "auroc"),
    "multi-label": ("auroc", "finding 0", "finding 1"),
    "segmentation": ("dice", "iou", "ce_loss"),
}


def data_of(task: Task) -> ImageData:
    """Returns N images with labels, two findings or masks."""
    rng = np.random.default_rng(0)
    y = {
        "single-label": torch.from_numpy(rng.integers(3, size=N)),
        "multi-label": torch.from_numpy(rng.integers(2, size=(N, 2))).float(),
        "segmentation": torch.from_numpy(rng.integers(2, size=(N, 4, 4))),
    }[task.name]
    return as_data(torch.zeros(N, 3, 4, 4), y, name="data", classes=2 if task is not SINGLE_LABEL else 3)


def outcomes_of(task: Task, seed: int) -> np.ndarray:
    """Returns random outcomes of N images."""
    rng = np.random.default_rng(seed)
    return rng.integers(3, size=N) if task is SINGLE_LABEL else rng.random((N, 2)).astype(np.float32)


def row_of(task: Task, attack: str, grey_eps: float, outcomes: np.ndarray) -> ResultRow:
    scores = dict.fromkeys(SCORES[task.name], 0.5)
    return ResultRow(attack, grey_eps, 1, 1.0, N, scores, 2.0, outcomes.tolist())


def results_in(folder: Path, task: Task, attacks: Sequence[str], grey_eps: float = 8.0) -> ResultFile:
    """Writes results of the clean images and of attacks with random outcomes; the seed is the attack's number."""
    y = data_of(task).samples.labels
    run = {"seed": 0, "size": 4, "data": {}, "target_sha256": "t", "source_sha256": "t"}
    facts = {name: name for name in ("dataset", "target_model", "target_weight", "source_model", "source_weight")}
    results = ResultFile(folder / "x", facts, SCORES[task.name], run, {"samples": {"label": y.tolist()}})
    results.add(row_of(task, CLEAN, 0.0, outcomes_of(task, 99)))
    for seed, attack in enumerate(attacks):
        results.add(row_of(task, attack, grey_eps, outcomes_of(task, seed)))
    return results


def test_single_label(tmp_path: Path) -> None:
    """Fails if an image counts as correct that some attack fools, a fooled image has another class than the first
    attack in the order of the registry gives it, or a score is not scikit-learn's of these outcomes."""
    attacks = ("cw", "fgsm", "pgd")  # seeds 0, 1, 2; in the registry: fgsm, pgd, cw
    results, data = results_in(tmp_path, SINGLE_LABEL, attacks), data_of(SINGLE_LABEL)
    (row,) = renew_worst(results, SINGLE_LABEL, data)
    y = data.samples.labels.tolist()
    ordered = [outcomes_of(SINGLE_LABEL, seed).tolist() for seed in (1, 2, 0)]
    for image, outcome in enumerate(row.outcomes):
        wrong = [number for number in range(3) if ordered[number][image] != y[image]]
        assert outcome == (ordered[wrong[0]][image] if wrong else y[image])
        assert row.notes["attack"][image] == (wrong[0] if wrong else -1)
    assert {-1, 0, 1, 2} >= set(row.notes["attack"]) >= {-1, 0, 1}
    assert row.attacks == ["fgsm", "pgd", "cw"] and (row.seconds, row.steps) == (6.0, 0) and math.isnan(row.l2)
    macro = {"average": "macro", "zero_division": 0.0}
    expected = {
        "accuracy": np.mean(np.array(row.outcomes) == y),
        "recall": recall_score(y, row.outcomes, **macro),
        "precision": precision_score(y, row.outcomes, **macro),
        "f1": f1_score(y, row.outcomes, **macro),
        "balanced_accuracy": balanced_accuracy_score(y, row.outcomes),
    }
    assert {name: row.scores[name] for name in expected} == pytest.approx(expected)
    assert math.isnan(row.scores["auroc"]), "it needs probabilities"
    clean = np.array(results.row(CLEAN, 0).outcomes) == y
    assert row.scores["attack_success_rate"] == pytest.approx(
        np.mean(np.array(row.outcomes)[clean] != np.array(y)[clean])
    )


def test_findings(tmp_path: Path) -> None:
    """Fails if a present finding has not its lowest logit and an absent one its highest, or if the AUROC of a finding
    is not scikit-learn's of these, or higher than under one of the attacks."""
    results, data = results_in(tmp_path, MULTI_LABEL, ("pgd", "apgd")), data_of(MULTI_LABEL)
    (row,) = renew_worst(results, MULTI_LABEL, data)
    y, logits = data.samples.labels.numpy(), np.stack([outcomes_of(MULTI_LABEL, seed) for seed in (0, 1)])
    assert np.array_equal(np.array(row.outcomes, np.float32), np.where(y, logits.min(0), logits.max(0)))
    for label in range(2):
        worst = roc_auc_score(y[:, label], np.array(row.outcomes)[:, label])
        assert row.scores[f"finding {label}"] == pytest.approx(worst)
        assert worst <= min(roc_auc_score(y[:, label], outcomes[:, label]) for outcomes in logits)
    assert row.scores["auroc"] == pytest.approx(np.mean([row.scores["finding 0"], row.scores["finding 1"]]))
    record = read_results(_saved(results))
    record.rows[0].scores.update(row.scores)  # those of the clean row are invented
    assert score_run(replace(record, rows=record.rows[-1:])).values  # the outcomes give the scores


def test_masks(tmp_path: Path) -> None:
    """Fails if an image has not the lowest Dice of all attacks and the IoU of that attack, or a score is invented."""
    results = results_in(tmp_path, SEGMENTATION, ("pgd", "pgd-dice", "apgd"))
    (row,) = renew_worst(results, SEGMENTATION, data_of(SEGMENTATION))
    outcomes = np.stack([outcomes_of(SEGMENTATION, seed) for seed in range(3)])
    lowest = outcomes[..., 0].argmin(axis=0)
    assert row.notes["attack"] == lowest.tolist() and set(row.notes["attack"]) == {0, 1, 2}
    assert np.array_equal(np.array(row.outcomes, np.float32), outcomes[lowest, np.arange(N)])
    assert row.scores["dice"] == pytest.approx(outcomes[..., 0].min(axis=0).mean())
    assert row.scores["iou"] == pytest.approx(outcomes[lowest, np.arange(N), 1].mean())
    assert math.isnan(row.scores["ce_loss"])


def _saved(results: ResultFile) -> Path:
    results.save()
    return results.json_path


def test_which_attacks_count(tmp_path: Path) -> None:
    """Fails if SimBA, another eps, the clean images or 8-bit images count, or one attack alone has a row `worst`."""
    data = data_of(SINGLE_LABEL)
    for attacks in ([], ["pgd"], ["pgd", "simba"]):
        results = results_in(tmp_path, SINGLE_LABEL, attacks)
        assert renew_worst(results, SINGLE_LABEL, data) == [] and len(results.rows) == len(attacks) + 1
    more = replace(row_of(SINGLE_LABEL, "pgd", 8.0, outcomes_of(SINGLE_LABEL, 5)), restarts=3)
    results.add(more)
    assert renew_worst(results, SINGLE_LABEL, data) == [], "one attack with several restarts is one attack"
    for attack in ("pgd", "cw"):
        row = row_of(SINGLE_LABEL, attack, 8.0, outcomes_of(SINGLE_LABEL, 6))
        results.add(replace(row, eight_bits=True), replace(row, grey_eps=4.0))
    rows = renew_worst(results, SINGLE_LABEL, data)
    assert [(row.grey_eps, row.eight_bits, row.attacks) for row in rows] == [
        (4.0, False, ["pgd", "cw"]),
        (8.0, True, ["pgd", "cw"]),
    ]
    results.add(row_of(SINGLE_LABEL, "cw", 8.0, outcomes_of(SINGLE_LABEL, 7)))
    assert renew_worst(results, SINGLE_LABEL, data)[1].attacks == ["pgd", "pgd (3 restarts)", "cw"]


def test_it_is_never_stale(tmp_path: Path) -> None:
    """Fails if a row `worst` stays although an attack was added, one at another eps is lost, renewing changes what is
    up to date, or a file whose `worst` does not fit its attacks is read."""
    data, results = data_of(SINGLE_LABEL), results_in(tmp_path, SINGLE_LABEL, ("fgsm", "pgd"), 4.0)
    for seed, attack in enumerate(("fgsm", "pgd")):
        results.add(row_of(SINGLE_LABEL, attack, 8.0, outcomes_of(SINGLE_LABEL, seed)))
    before = renew_worst(results, SINGLE_LABEL, data)
    text = _saved(results).read_text()
    again = ResultFile(results.stem, results.facts, results.score_names, results.run, results.details)
    assert again.resume() == [] and again.rows == results.rows
    assert renew_worst(again, SINGLE_LABEL, data) == before and _saved(again).read_text() == text
    again.add(row_of(SINGLE_LABEL, "cw", 8.0, outcomes_of(SINGLE_LABEL, 2)))
    kept = [row.grey_eps for row in read_results(again.json_path).rows if row.attack == WORST]
    assert kept == [4.0], "that of eps 8 does not know cw"
    renewed = renew_worst(again, SINGLE_LABEL, data)
    assert renewed[0] == before[0] and renewed[1].attacks == ["fgsm", "pgd", "cw"]
    assert renewed[1].scores["accuracy"] < before[1].scores["accuracy"]
    content = json.loads(_saved(again).read_text())
    content["rows"] = [row for row in content["rows"] if row["attack"] != "cw"]
    again.json_path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="row worst eps 8 is not of the attacks that the file has at this eps"):
        read_results(again.json_path)


def test_files(tmp_path: Path) -> None:
    """Fails if the row is not in the CSV file with its attacks, or the columns are there without such rows."""
    results = results_in(tmp_path, SINGLE_LABEL, ("fgsm", "pgd"))
    plain = results.csv_path.read_text().splitlines()
    assert plain[0].endswith(",warnings") and '"attacks"' not in results.json_path.read_text()
    renew_worst(results, SINGLE_LABEL, data_of(SINGLE_LABEL))
    results.add(replace(results.rows[1], grey_eps=4.0, restarts=5, eight_bits=True))
    lines = results.csv_path.read_text().splitlines()
    assert lines[0] == f"{plain[0]},restarts,eight_bits,attacks"
    assert lines[1:4] == [f"{line},1,no," for line in plain[1:]]
    assert lines[4].endswith(",4.000,,,,,1,no,fgsm; pgd") and lines[5].endswith(",5,yes,")
    assert read_results(results.json_path).rows[-1].key == ("fgsm", 4.0, 5, True)


def test_tables(tmp_path: Path) -> None:
    """Fails if `worst` is not the last column, results of other restarts, of 8-bit images or of other attacks share a
    column, or the table does not say what `worst` is made of."""
    runs = []
    for name, attacks in (("a", ("fgsm", "pgd")), ("b", ("fgsm", "pgd", "cw"))):
        (tmp_path / name).mkdir()
        results = results_in(tmp_path / name, SINGLE_LABEL, attacks)
        if name == "b":
            row = results.row("pgd", 8.0)
            results.add(replace(row, restarts=2), replace(row, eight_bits=True))
        for row in renew_worst(results, SINGLE_LABEL, data_of(SINGLE_LABEL)):
            row.scores["accuracy"] = 0.5
        runs.append(score_run(read_results(_saved(results))))
    pgd = ["pgd 8", "pgd 8 (8 bits)", "pgd 8 (2 restarts)"]
    worst = ["worst 8 (fgsm, pgd)", "worst 8 (fgsm, pgd, pgd (2 restarts), cw)"]
    assert list(column_heads(runs).values()) == ["clean", "fgsm 8", *pgd, "cw 8", *worst]
    assert list(column_heads(runs[:1]).values())[-1] == "worst 8"
    table = make_tables(runs, costs=False)[0]
    assert "worst: for each image, the worst of fgsm and pgd." in table.notes


def test_the_checks_leave_it_out(tmp_path: Path) -> None:
    """Fails if a check compares `worst` or 8-bit images as if these were attacks, or mixes numbers of restarts."""
    rows = [row_of(SINGLE_LABEL, CLEAN, 0.0, outcomes_of(SINGLE_LABEL, 0))]
    for restarts, grey_eps, accuracy in ((1, 8.0, 0.3), (5, 4.0, 0.2), (5, 8.0, 0.1)):
        row = row_of(SINGLE_LABEL, "pgd", grey_eps, outcomes_of(SINGLE_LABEL, 0))
        row.scores["accuracy"] = accuracy
        rows += [replace(row, restarts=restarts), replace(row, eight_bits=True, scores={"accuracy": 0.9})]
    rows.append(row_of(SINGLE_LABEL, WORST, 8.0, outcomes_of(SINGLE_LABEL, 0)))
    assert score_table(rows, "accuracy") == {(CLEAN, 0.0): 0.5, ("pgd", 4.0): 0.2, ("pgd", 8.0): 0.1}
