"""The nine checks: what makes each warn, and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from advmia.attacks import ATTACKS
from advmia.evaluation.checks import BLACK_BOX, GRADIENT, NOT_COMPARED, ScoreTable, report
from advmia.results.rows import CLEAN
from tests.evaluation.probes import HEALTHY, find, warnings

NAMES = (
    *("black-box", "transfer", "eps order", "large eps", "zero gradients"),
    *("saturation", "outputs", "inputs", "mode"),
)

# ---------------------------------------------------------------- scores

# Of a sound network: accuracy 0.9 on clean images, then under each attack at eps 1 and 8.
SOUND: ScoreTable = {
    (CLEAN, 0.0): 0.9,
    ("fgsm", 1.0): 0.7,
    ("fgsm", 8.0): 0.3,
    ("pgd", 1.0): 0.6,
    ("pgd", 8.0): 0.1,
    ("square", 1.0): 0.8,
    ("square", 8.0): 0.2,
    ("aa", 1.0): 0.5,
    ("aa", 8.0): 0.0,
    ("simba", 1.0): 0.01,
    ("simba", 8.0): 0.02,
}
NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        ({}, "ok", "square leaves 0.2000 and pgd 0.1000 at eps 8"),
        ({("square", 8.0): 0.1}, "ok", "square leaves 0.1000 and pgd 0.1000 at eps 8"),
        ({("square", 8.0): 0.096}, "ok", "square leaves 0.0960 and pgd 0.1000 at eps 8"),
        ({("square", 8.0): 0.09}, "warning", "square leaves 0.0900 and pgd 0.1000 at eps 8"),
        ({("square", 1.0): 0.59}, "warning", "square leaves 0.5900 and pgd 0.6000 at eps 1"),
        ({("square", 8.0): 0.15, ("pgd", 8.0): 0.35, ("cw", 8.0): 0.2}, "warning", "cw 0.2000 at eps 8"),
        ({("square", 1.0): NAN, ("square", 8.0): NAN}, "not checked", "no rows of square"),
        ({("pgd", 1.0): NAN, ("pgd", 8.0): NAN, ("square", 8.0): 0.15}, "not checked", "and a gradient attack (pgd, "),
    ],
)
def test_black_box(change: ScoreTable, verdict: str, reason: str) -> None:
    """Fails if Square is compared at another eps, with the weakest attack, with FGSM (which it may beat) or with
    AutoAttack (of which it is a part), or if SimBA, a tiny difference or an undefined score makes the check warn."""
    check = find(report(SOUND | change, HEALTHY, score="accuracy"), "black-box")
    assert check.verdict == verdict and reason in check.reason


def test_black_box_of_a_transfer_run() -> None:
    """Fails if Square on the surrogate counts as a sign that the target's gradients mislead."""
    check = find(report(SOUND | {("square", 8.0): 0.0}, HEALTHY, score="accuracy", transfer=True), "black-box")
    assert check.verdict == "not checked"


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        ({}, "ok", "accuracy rises by no more than 0.005"),
        ({("pgd", 8.0): 0.604}, "ok", "from 0.6000 at eps 1 to 0.6040 at eps 8 under pgd"),
        ({("pgd", 8.0): 0.606}, "warning", "from 0.6000 at eps 1 to 0.6060 at eps 8 under pgd (1 of 8 steps)"),
        ({("pgd", 1.0): 0.91}, "warning", "from 0.9000 at eps 0 to 0.9100 at eps 1 under pgd"),
        ({("fgsm", 2.0): 0.2}, "warning", "from 0.2000 at eps 2 to 0.3000 at eps 8 under fgsm (1 of 9 steps)"),
        ({("simba", 8.0): 0.8}, "ok", "accuracy rises by no more than 0.005"),
        ({("pgd", 4.0): NAN}, "ok", "accuracy rises by no more than 0.005"),
    ],
)
def test_eps_order(change: ScoreTable, verdict: str, reason: str) -> None:
    """Fails if attacks are mixed up, the clean score is left out, the order of the rows counts instead of eps, a tiny
    rise is a warning, or SimBA's step is taken for a bound."""
    check = find(report(SOUND | change, HEALTHY, score="accuracy"), "eps order")
    assert check.verdict == verdict and reason in check.reason


def test_eps_order_of_clean_rows() -> None:
    """Fails if the check says ok for a run without attacks."""
    assert find(report({(CLEAN, 0.0): 0.9}, HEALTHY, score="accuracy"), "eps order").verdict == "not checked"


WHITE_BOX: ScoreTable = {(CLEAN, 0.0): 0.9, ("pgd", 8.0): 0.2, ("fgsm", 8.0): 0.3}
TRANSFER: ScoreTable = {(CLEAN, 0.0): 0.9, ("pgd", 8.0): 0.7, ("fgsm", 8.0): 0.7, ("cw", 8.0): 0.0}


@pytest.mark.parametrize(
    ("transfer", "table", "other", "verdict", "reason"),
    [
        (True, TRANSFER, WHITE_BOX, "ok", "fgsm at eps 8 leaves 0.7000 by transfer and 0.3000 white-box (file.json)"),
        (False, WHITE_BOX, TRANSFER, "ok", "fgsm at eps 8 leaves 0.7000 by transfer and 0.3000 white-box (file.json)"),
        (
            True,
            TRANSFER | {("pgd", 8.0): 0.1},
            WHITE_BOX,
            "warning",
            "pgd at eps 8 leaves 0.1000 by transfer and 0.2000 white",
        ),
        (
            False,
            WHITE_BOX,
            TRANSFER | {("pgd", 8.0): 0.1},
            "warning",
            "pgd at eps 8 leaves 0.1000 by transfer and 0.2000 white",
        ),
        (
            False,
            WHITE_BOX,
            TRANSFER | {("pgd", 8.0): 0.196},
            "ok",
            "pgd at eps 8 leaves 0.1960 by transfer and 0.2000 white",
        ),
        (True, TRANSFER | {("pgd", 8.0): NAN}, WHITE_BOX | {("fgsm", 8.0): NAN}, "not checked", "no white-box results"),
        (True, {(CLEAN, 0.0): 0.8}, {(CLEAN, 0.0): 0.9}, "not checked", "this run is transfer"),
        (True, TRANSFER, None, "not checked", "this run is transfer"),
        (False, WHITE_BOX, None, "not checked", "this run is white-box"),
    ],
)
def test_transfer(transfer: bool, table: ScoreTable, other: ScoreTable | None, verdict: str, reason: str) -> None:
    """Fails if white-box and transfer are exchanged, or clean scores or rows that only one run has are compared."""
    others = {} if other is None else {"file.json": other}
    check = find(report(table, HEALTHY, score="accuracy", transfer=transfer, others=others), "transfer")
    assert check.verdict == verdict and reason in check.reason


def test_every_attack_is_compared_or_left_out() -> None:
    """Fails if the black-box check overlooks an attack, or compares one as both kinds."""
    compared = [*GRADIENT, *BLACK_BOX, *NOT_COMPARED]
    assert sorted([*compared, "simba"]) == sorted(ATTACKS)
    assert BLACK_BOX == ("square",) and GRADIENT[:4] == ("pgd", "pgd-margin", "pgd-dice", "cw")


# ---------------------------------------------------------------- what was measured


@pytest.mark.parametrize(
    ("check", "change", "reason"),
    [
        ("large eps", {"holding": 7}, "7 of 60 images (11.7%)"),
        ("zero gradients", {"without_gradient": 3}, "3 of 200 images (1.5%)"),
        ("saturation", {"saturated": 3}, "blind to them in float32 at 3 of 200 images (1.5%)"),
        ("saturation", {"flat": 3}, "between the classes at 3 of 200 images (1.5%)"),
        ("saturation", {"repeated": 100}, "100 of 199 images (50.3%): a constant"),
        ("outputs", {"probabilities": 200}, "look like probabilities at 200 of 200 images"),
        ("outputs", {"not_finite": 1}, "not all finite numbers at 1 of 200 images"),
        ("inputs", {"outside": 1, "highest": 255.0}, "1 of 200 images (0.5%) are not finite or outside [0, 1]"),
        ("mode", {"unsteady": 1}, "two passes differ at 1 of 200 images"),
        ("mode", {"training": ["a", "b", "c", "d"]}, "a, b, c and 1 more in train mode"),
        ("mode", {"moved": ["bn.running_mean"]}, "bn.running_mean changed by scoring"),
    ],
)
def test_limits(check: str, change: dict[str, object], reason: str) -> None:
    """Fails if a limit moves, a check judges another number, or another check warns too: `HEALTHY` is at every limit,
    and each change is one beyond."""
    assert warnings(HEALTHY) == set()
    probe = replace(HEALTHY, **change)  # type: ignore[arg-type]
    assert warnings(probe) == {check}
    assert reason in find(report({}, probe, score="accuracy"), check).reason


@pytest.mark.parametrize(
    ("attacked", "holding", "verdict", "reason"),
    [
        (
            8,
            1,
            "warning",
            "the class right on 1 of 8 images (12.5%); 10% at most were expected: of 8 images so few",
        ),
        (8, 6, "warning", "6 of 8 images (75.0%); 10% at most were expected: the attack does not work on this network"),
        (64, 13, "warning", "13 of 64 images (20.3%); 10% at most were expected: the attack does not work"),
        (0, 0, "not checked", "no finding is in some of the first images"),
    ],
)
def test_large_eps(attacked: int, holding: int, verdict: str, reason: str) -> None:
    """Fails if one survivor of eight images proves that the attack does not work, or six do not."""
    probe = replace(HEALTHY, attacked=attacked, holding=holding)
    check = find(report({}, probe, score="accuracy"), "large eps")
    assert check.verdict == verdict and reason in check.reason


def test_all_checks_are_reported_in_order() -> None:
    """Fails if a check is left out, a verdict has another name, or a reason has several lines."""
    checks = report(SOUND, HEALTHY, score="accuracy")
    assert tuple(check.check for check in checks) == NAMES
    assert {check.verdict for check in checks} == {"ok", "not checked"}
    assert all(check.line == f"[{check.verdict}] {check.check}: {check.reason}" for check in checks)
    assert not any("\n" in check.line for check in checks)
