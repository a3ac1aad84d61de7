"""`evaluate`: what runs on the source and what on the target, what is timed, and that both are left unchanged."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advmia.attacks.gradient import fgsm, pgd
from advmia.budgets import Budget
from advmia.data.loading import Batch, EvaluationLoader
from advmia.errors import UserError
from advmia.evaluation import loop
from advmia.evaluation.loop import EvaluationOptions, evaluate, result_row
from advmia.losses import cross_entropy
from advmia.runtime.rng import SampleRng
from advmia.tasks import SINGLE_LABEL
from tests.support.networks import (
    CPU,
    LinearNet,
    Snapshot,
    Wrapped,
    image_data,
    network,
    pixels,
    record_calls,
    trained,
    unsettle,
)


@pytest.fixture(autouse=True)
def attacks_run_on_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets attacks run on the network itself and in one block: these tests record its passes.

    test_inference.py tests the copy that attacks run on, and test_equal_outcomes.py the blocks of equal size.
    """
    monkeypatch.setattr("advmia.evaluation.loop.inference_copy", lambda model, x: model)
    monkeypatch.setattr("advmia.evaluation.loop.Blocks", lambda model, *_: model)


IMAGES = 40
BUDGET = Budget(8 / 255, 3, 2 / 255)
PGD = pgd(BUDGET, cross_entropy)


def loader(batch_size: int = 16, count: int = IMAGES, classes: int = 3) -> EvaluationLoader:
    return EvaluationLoader(image_data(count, classes=classes), batch_size, CPU)


class Recording:
    """An attack that records its inputs, and adds `shift` to every pixel."""

    def __init__(self, shift: float = 0.0) -> None:
        self.models: list[nn.Module] = []
        self.x: list[Tensor] = []
        self.y: list[Tensor] = []
        self.noise: list[Tensor] = []
        self.shift = shift

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        self.models.append(model)
        self.x.append(x)
        self.y.append(y)
        self.noise.append(rng.uniform(x))
        return x + self.shift


# --- source and target -----------------------------------------------------------------------------------------------


def test_clean_pass() -> None:
    """Fails if images and labels lose their order, or the last small batch is dropped."""
    model, data = trained(), loader()
    x, y = pixels(IMAGES)
    evaluation = evaluate(model, data, SINGLE_LABEL)
    with torch.no_grad():
        predicted = model(x).argmax(dim=1)
    assert torch.equal(evaluation.outcomes, predicted)
    assert evaluation.scores["accuracy"] == pytest.approx(float((predicted == y).double().mean()))
    assert len(evaluation) == IMAGES
    assert {*evaluation.scores, "attack_success_rate"} == set(SINGLE_LABEL.score_names(data.data.samples.spec))
    assert evaluation.seconds >= 0


def test_white_box_by_default() -> None:
    """Fails if adversarial images are not made on the target, or the clean images are scored."""
    model, (x, y) = trained(), pixels(IMAGES)
    attack = Recording(shift=-0.1)
    evaluation = evaluate(model, loader(), SINGLE_LABEL, attack)
    assert all(network is model for network in attack.models)
    assert torch.equal(torch.cat(attack.x), x) and torch.equal(torch.cat(attack.y), y)
    with torch.no_grad():
        assert torch.equal(evaluation.outcomes, model(x - 0.1).argmax(dim=1))
    assert evaluation.scores != evaluate(model, loader(), SINGLE_LABEL).scores


def test_examples_are_made_on_the_source_and_scored_on_the_target() -> None:
    """Fails if source and target are swapped, or the source is not used: compares the logits of each image."""
    target, source = trained(seed=0), trained(seed=1)
    x, y = pixels(IMAGES)
    attack = fgsm(Budget(8 / 255, 1, 8 / 255), cross_entropy)
    task = replace(SINGLE_LABEL, outcome=lambda logits, y: logits)

    def by_hand(scored_on: nn.Module, made_on: nn.Module) -> Tensor:
        x_adv = attack(made_on, x, y, rng=SampleRng.of(samples=range(IMAGES)))
        with torch.no_grad():
            return scored_on(x_adv)

    evaluation = evaluate(target, loader(), task, attack, source=source).outcomes
    torch.testing.assert_close(evaluation, by_hand(target, source), rtol=1e-4, atol=1e-4)
    for scored_on, made_on in ((target, target), (source, source), (source, target)):
        assert (evaluation - by_hand(scored_on, made_on)).abs().max() > 0.1


def test_an_opposite_source() -> None:
    """Fails if the source is not used: what fools a linear network makes its negative more certain."""
    target, source = LinearNet(2, 16), LinearNet(2, 16)
    with torch.no_grad():
        target.weight.mul_(0.01)
        source.weight.mul_(-0.01)
    attack = fgsm(Budget(0.2, 1, 0.2), cross_entropy)
    accuracies = [
        evaluate(target, loader(classes=2), SINGLE_LABEL, attack, source=model).scores["accuracy"]
        for model in (None, source)
    ]
    assert accuracies == [0.0, 1.0]


def test_passes_of_target_and_source() -> None:
    """Fails if the attack runs on the target, or the source is scored: counts the forward passes."""
    target, source = trained(seed=0), trained(seed=1)
    target_calls, source_calls = record_calls(target), record_calls(source)
    evaluate(target, loader(), SINGLE_LABEL, PGD, source=source)
    assert len(target_calls) == 3
    assert len(source_calls) == 3 * BUDGET.steps


# --- what the scores depend on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("attacked", [False, True], ids=["clean", "pgd"])
@pytest.mark.parametrize("transfer", [False, True], ids=["white-box", "transfer"])
def test_scores_do_not_depend_on_the_batch_size(batch_size: int, attacked: bool, transfer: bool) -> None:
    """Fails if the scores of batches are averaged, or randomness belongs to the batch."""
    model, source = trained(), trained(seed=1) if transfer else None
    attack = PGD if attacked else None
    options = EvaluationOptions((0, "pgd", 8.0))
    expected = evaluate(model, loader(16), SINGLE_LABEL, attack, source=source, options=options)
    evaluation = evaluate(model, loader(batch_size), SINGLE_LABEL, attack, source=source, options=options)
    assert evaluation.scores == expected.scores
    assert torch.equal(evaluation.outcomes, expected.outcomes)
    assert 0 < expected.scores["accuracy"] < 1


def test_noise_belongs_to_the_index_in_the_list() -> None:
    """Fails if a part of the list is attacked with other noise than the same images in the whole list."""
    data = image_data(12)
    whole_list, part = Recording(), Recording()
    evaluate(trained(), EvaluationLoader(data, 5, CPU), SINGLE_LABEL, whole_list, options=EvaluationOptions((0,)))
    some = replace(data, indices=np.array([3, 7, 8]))
    evaluation = evaluate(
        trained(), EvaluationLoader(some, 2, CPU), SINGLE_LABEL, part, options=EvaluationOptions((0,))
    )
    assert torch.equal(torch.cat(part.noise), torch.cat(whole_list.noise)[[3, 7, 8]])
    assert len(evaluation) == 3


def test_distances_are_not_above_eps() -> None:
    """Fails if a row says that an attack went beyond its eps, where only float32 rounded the difference of pixels; or
    if an attack that does go beyond it is hidden."""
    for grey_eps in (8.0, 0.3):
        attack = pgd(Budget.grey(grey_eps, 2, grey_eps), cross_entropy)
        evaluation = evaluate(trained(), loader(), SINGLE_LABEL, attack)
        assert grey_eps < float(evaluation.linf.double().max()) * 255 < grey_eps + 3e-5  # else this shows nothing
        row = result_row("pgd", attack.budget, (), evaluation.scores, evaluation)
        assert max(row.notes["linf"]) == grey_eps and row.grey_linf <= grey_eps
        beyond = result_row("pgd", Budget.grey(grey_eps - 0.01, 2, 1), (), evaluation.scores, evaluation)
        assert max(beyond.notes["linf"]) > grey_eps and beyond.grey_linf > grey_eps - 0.01


def test_scope_names_the_noise() -> None:
    """Fails if all attacks of a run start at the same points, or a repeated run starts at others."""

    def noise(*scope: object) -> Tensor:
        attack = Recording()
        evaluate(trained(), loader(count=6), SINGLE_LABEL, attack, options=EvaluationOptions(scope))
        return torch.cat(attack.noise)

    expected = noise(0, "pgd", 8.0)
    assert torch.equal(noise(0, "pgd", 8.0), expected)
    for other in ((1, "pgd", 8.0), (0, "cw", 8.0), (0, "pgd", 4.0)):
        assert not torch.equal(noise(*other), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs(dtype: torch.dtype) -> None:
    """Fails if meters or outcomes cannot take outputs in half precision."""
    model = trained()
    half = Wrapped(model, lambda logits: logits.to(dtype))
    expected = evaluate(model, loader(), SINGLE_LABEL).outcomes
    evaluation = evaluate(half, loader(), SINGLE_LABEL).outcomes
    assert (evaluation != expected).sum() <= 2


# --- networks are left unchanged -------------------------------------------------------------------------------------


@pytest.mark.parametrize("attacked", [False, True], ids=["clean", "pgd"])
def test_networks_are_as_before(attacked: bool) -> None:
    """Fails if the network is left in eval mode, or its running statistics or gradients change."""
    model, source = unsettle(network("small")), unsettle(network("small-normalized"))
    before = Snapshot.of(model), Snapshot.of(source)
    evaluate(model, loader(), SINGLE_LABEL, PGD if attacked else None, source=source)
    evaluate(model, loader(), SINGLE_LABEL, PGD if attacked else None)
    before[0].assert_same(model)
    before[1].assert_same(source)


def test_networks_are_as_before_when_the_pass_fails() -> None:
    """Fails if an error while scoring leaves the network in eval mode."""

    def fail(logits: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    model = unsettle(Wrapped(network("small"), fail))
    before = Snapshot.of(model)
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(model, loader(), SINGLE_LABEL)
    before.assert_same(model)


def test_network_in_training_is_scored_in_eval_mode() -> None:
    """Fails if a network in training is scored with dropout or the batch's statistics."""
    model = trained()
    expected = evaluate(model, loader(), SINGLE_LABEL).outcomes
    calls = record_calls(model.train())
    model.dropout.p = 0.9
    evaluation = evaluate(model, loader(), SINGLE_LABEL)
    assert torch.equal(evaluation.outcomes, expected)
    assert all(call.training == frozenset() for call in calls)


def test_outcomes_carry_no_graph() -> None:
    """Fails if scoring keeps the graph of every batch in memory."""
    evaluation = evaluate(trained(), loader(), replace(SINGLE_LABEL, outcome=lambda logits, y: logits))
    assert not evaluation.outcomes.requires_grad
    assert evaluation.outcomes.shape == (IMAGES, 3)


# --- time ------------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that advances only when `pass_` is called."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def pass_(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.mark.parametrize(("attacked", "expected"), [(False, 3 * 1.0), (True, 3 * 100.0)], ids=["clean", "attack"])
def test_time_is_the_attacks_alone(attacked: bool, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if loading or scoring counts as the attack's time. The time of a clean pass is the network's."""
    clock = Clock()
    monkeypatch.setattr(loop, "_now", lambda device: clock.seconds)

    def score(logits: Tensor) -> Tensor:
        clock.pass_(1.0)
        return logits

    def attack(model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        clock.pass_(100.0)
        return x

    class SlowLoader(EvaluationLoader):
        def waves(self, *how: int, skip: int = 0) -> Iterator[Batch]:
            for batch in super().waves(*how, skip=skip):
                clock.pass_(10_000.0)
                yield batch

    model = Wrapped(trained(), score)
    evaluation = evaluate(model, SlowLoader(loader().data, 16, CPU), SINGLE_LABEL, attack if attacked else None)
    assert evaluation.seconds == pytest.approx(expected)


# --- waves of batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "value"), [("WAVE_BYTES", 2 * 16 * 3 * 16 * 16 * 4 + 1), ("WAVE_BATCHES", 2)], ids=["bytes", "batches"]
)
def test_waves_of_early_stopping_attacks(limit: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if early-stopping attacks get one batch or more than a wave, or other attacks more than one batch."""
    monkeypatch.setattr(loop, limit, value)  # two batches, or two and a byte
    sizes: list[int] = []

    class Sizes:
        early_stopping = True

        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
            sizes.append(len(x))
            return x

    attack = Sizes()
    evaluate(trained(), loader(16), SINGLE_LABEL, attack)
    assert sizes == [32, 8]
    attack.early_stopping = False
    evaluate(trained(), loader(16), SINGLE_LABEL, attack)
    assert sizes == [32, 8, 16, 16, 8]


# --- broken networks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("attacked", [False, True], ids=["clean", "fgsm"])
def test_outputs_that_are_not_finite_are_refused(value: float, attacked: bool) -> None:
    """Fails if NaN logits are scored: argmax would count them as class 0."""
    model = trained()
    with torch.no_grad():
        model.get_parameter("linear.bias")[1] = value
    before = Snapshot.of(copy.deepcopy(model))
    attack = fgsm(Budget(8 / 255, 1, 8 / 255), cross_entropy) if attacked else None
    with pytest.raises(UserError, match=r"fgsm eps 8: .*not all finite") as caught:
        evaluate(model, loader(), SINGLE_LABEL, attack, options=EvaluationOptions(title="fgsm eps 8"))
    assert "\n" not in str(caught.value)
    assert before.modes == Snapshot.of(model).modes


# --- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 7, 64])
def test_outcomes_on_a_gpu_do_not_depend_on_the_batch_size(batch_size: int, gpu: torch.device) -> None:
    """Fails if random streams belong to the batch. Rounding may change the outcome of one image in forty."""
    model = trained().to(gpu)
    data = image_data(IMAGES)
    evaluations = [
        evaluate(model, EvaluationLoader(data, size, gpu), SINGLE_LABEL, PGD, options=EvaluationOptions((0,)))
        for size in (16, batch_size)
    ]
    assert (evaluations[0].outcomes != evaluations[1].outcomes).sum() <= 1
    assert evaluations[0].outcomes.device == CPU
    assert evaluations[0].seconds > 0
