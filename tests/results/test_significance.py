"""Paired tests: as published, as SciPy has them, and in simulations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel

from advmia.results.intervals import resampled_aurocs, resampled_means
from advmia.results.scored import PerImage, Value
from advmia.results.scores import SCORES
from advmia.results.significance import BOOTSTRAP, MCNEMAR, OVER_SEEDS, Marking, best_rows, holm, mcnemar, p_value

ACCURACY = SCORES["accuracy"]


def of_hits(hits: np.ndarray) -> Value:
    """Returns an accuracy of one seed."""
    return Value(float(np.mean(hits)), per_image=PerImage(len(hits) - 1, hits=hits))


def over_seeds(hits: Sequence[np.ndarray]) -> Value:
    """Returns a mean accuracy; a row of `hits` for each seed."""
    values = tuple(map(of_hits, hits))
    return Value(float(np.mean([value.score for value in values])), seeds=values)


def test_mcnemar() -> None:
    """Fails if the p-value is not twice the binomial tail, counts images on which both agree, or has an order."""
    a, b = np.array([1] * 8 + [0] * 1 + [1] * 50 + [0] * 9), np.array([0] * 8 + [1] * 1 + [1] * 50 + [0] * 9)
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar(a, a) == 1
    assert p_value(of_hits(a), of_hits(b)) == mcnemar(a, b)


def test_holm() -> None:
    """Fails if the adjusted values are not those of Holm's method, or lose their order."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9]) == [0.9] and holm([0.6, 0.7]) == [1, 1]


def test_the_bootstrap_of_a_mean_is_nearly_a_t_test() -> None:
    """Fails if the bootstrap is not paired by image: then it would tell these two means apart in no case."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=60)
    a, b = difficulty + rng.normal(0.05, 0.1, 60), difficulty + rng.normal(0, 0.1, 60)
    values = [Value(x.mean(), per_image=PerImage(59, resampled=resampled_means(x[:, None])[:, 0])) for x in (a, b)]
    p, expected = p_value(*values), ttest_rel(a, b)
    assert p is not None and student.isf(p / 2, 59) == pytest.approx(expected.statistic, rel=0.07)


def test_over_seeds_is_min_f() -> None:
    """Fails if the statistic is not 1 / min F' = 1 / F1 + 1 / F2, or its degrees of freedom are others."""
    rng = np.random.default_rng(1)
    a = [rng.random(80) < share for share in (0.80, 0.70, 0.85)]
    b = [rng.random(80) < share for share in (0.60, 0.55, 0.62, 0.50)]
    means = [np.mean(hits, axis=1) for hits in (a, b)]
    difference = means[0].mean() - means[1].mean()
    seeds = [np.var(mean, ddof=1) / len(mean) for mean in means]
    images = np.var(np.mean(a, axis=0) - np.mean(b, axis=0), ddof=1) / 80
    f1, f2 = difference**2 / sum(seeds), difference**2 / images
    freedom = (sum(seeds) + images) ** 2 / (seeds[0] ** 2 / 2 + seeds[1] ** 2 / 3 + images**2 / 79)
    p = p_value(over_seeds(a), over_seeds(b))
    assert p is not None and student.isf(p / 2, freedom) ** 2 == pytest.approx(f1 * f2 / (f1 + f2))


def test_chance_of_seeds_is_seldom_called_a_difference() -> None:
    """Fails if methods that differ by the chance of three seeds only are told apart in more than 5 % of cases, or if a
    clear difference is not found."""
    rng = np.random.default_rng(2)

    def method(mean: float) -> Value:
        shares = rng.normal(mean, 0.1, 3)
        return over_seeds([difficulty < share for share in shares])

    found = {0.0: 0, 0.5: 0}
    for _ in range(200):
        difficulty = rng.random(100)
        for gap in found:
            p = p_value(method(0.4), method(0.4 + gap))
            found[gap] += p is not None and p < 0.05
    assert found[0.0] <= 10 + 7 and found[0.5] > 150  # 7: two standard deviations of a binomial count


def test_scores_without_variance() -> None:
    """Fails if equal scores of all seeds give no number, or rounding alone makes a difference."""
    right, wrong = [np.ones(9)] * 3, [np.zeros(9)] * 3
    assert p_value(over_seeds(right), over_seeds(wrong)) == 0 and p_value(over_seeds(right), over_seeds(right)) == 1


def test_one_positive_image_tells_nothing() -> None:
    """Fails if an AUROC of one positive image is told from another: resamples of the others do not show its chance."""
    positive = np.zeros((40, 1), dtype=np.int64)
    positive[0] = 1
    for positives, expected in ((1, 1.0), (20, 0.0)):
        positive[:positives] = 1
        values = []
        for sign in (1, -1):
            resampled = resampled_aurocs(sign * (positive + np.linspace(0, 0.5, 40)[:, None]), positive)[:, 1]
            values.append(Value((sign + 1) / 2, per_image=PerImage(positives - 1, resampled=resampled)))
        assert p_value(*values) == pytest.approx(expected, abs=1e-3)


def test_what_is_marked() -> None:
    """Fails if a row by chance beside the best is not as good, one is marked where none is told from the best, the
    lowest of scores where less is better is not the best, or a mark needs no test."""
    hits = {number: of_hits(np.arange(100) < count) for number, count in enumerate((90, 88, 20))}
    assert best_rows(hits, ACCURACY) == Marking(frozenset({0, 1}), MCNEMAR)
    assert best_rows({0: hits[0], 1: hits[1]}, ACCURACY) == Marking(frozenset(), MCNEMAR)
    assert best_rows(hits, SCORES["attack_success_rate"]).rows == {2}
    assert best_rows({**hits, 3: Value(0.5)}, ACCURACY) == Marking()
    means = {row: over_seeds([np.arange(100) < count + seed for seed in range(3)]) for row, count in ((0, 90), (1, 20))}
    assert best_rows(means, ACCURACY) == Marking(frozenset({0}), OVER_SEEDS)
    assert p_value(hits[0], means[1]) is None, "one seed says nothing of others"
    dice = {
        row: Value(score, per_image=PerImage(99, resampled=np.linspace(-0.01, 0.01, 50) + score))
        for row, score in ((0, 0.9), (1, 0.5))
    }
    dice[1] = Value(0.5, per_image=PerImage(99, resampled=np.linspace(0.01, -0.01, 50) + 0.5))
    assert best_rows(dice, SCORES["dice"]) == Marking(frozenset({0}), BOOTSTRAP)
