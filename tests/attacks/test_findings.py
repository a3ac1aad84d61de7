"""PGD against each finding: what it does to the logits, and that a finding is scored on the image made against it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import advmia
from advmia.attacks.common import runs_of
from advmia.attacks.findings import pgd_finding
from advmia.attacks.gradient import pgd
from advmia.budgets import Budget
from advmia.data.datasets import CHEST_FINDINGS, DATASETS
from advmia.data.loading import EvaluationLoader, ImageData
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.losses import label_margin
from advmia.runtime.rng import SampleRng
from advmia.tasks import MULTI_LABEL
from tests.support.networks import CPU, image_data, network, pixels, streams, targets

FINDINGS, BUDGET = len(CHEST_FINDINGS), Budget.grey(8, 3, 3)


def findings_data(count: int) -> ImageData:
    data = image_data(count)
    labels = targets(MULTI_LABEL, count, 16, FINDINGS)
    spec = DATASETS["xray_multilabel"].at_size(16)
    return replace(data, samples=replace(data.samples, spec=spec, labels=labels))


def victim() -> nn.Module:
    return network("small", FINDINGS).eval()


def test_the_finding_loses_its_rank() -> None:
    """Fails if a logit rises where its finding is present, or another finding is attacked harder than the own."""
    model, (x, _), y = victim(), pixels(6), targets(MULTI_LABEL, 6, 16, FINDINGS)
    runs = runs_of(pgd_finding(BUDGET, label_margin), y)
    assert len(runs) == FINDINGS
    with torch.no_grad():
        clean = model(x)
        harm = torch.stack(
            [(1 - 2 * y) * (model(run(model, x, y, rng=streams(6))) - clean) for run in runs]
        )  # (run, image, finding)
    own = harm.diagonal(dim1=0, dim2=2)  # (image, finding)
    assert (own > 0).all()
    assert (own >= harm.amax(dim=0) - 1e-3).all()


def test_it_is_stronger_than_pgd_on_the_mean() -> None:
    """Fails if outcomes of a finding come from an image that was made against another one, or AUROC falls less."""
    model, data = victim(), findings_data(24)
    loader = EvaluationLoader(data, 5, CPU)
    mean = evaluate(model, loader, MULTI_LABEL, pgd(BUDGET, label_margin), options=EvaluationOptions((0, "a")))
    each = evaluate(model, loader, MULTI_LABEL, pgd_finding(BUDGET, label_margin), options=EvaluationOptions((0, "a")))
    assert all(each.scores[name] <= mean.scores[name] for name in ("auroc", *CHEST_FINDINGS))
    assert each.scores["auroc"] < mean.scores["auroc"]
    assert each.outcomes.shape == (24, FINDINGS) and (each.linf <= 8 / 255 + 1e-6).all()

    batch = next(iter(EvaluationLoader(data, 24, CPU)))
    for finding in (0, 13):
        run = runs_of(pgd_finding(BUDGET, label_margin), batch.y)[finding]
        x_adv = run(model, batch.x, batch.y, rng=SampleRng.of(0, "a", samples=range(24)))
        with torch.no_grad():
            torch.testing.assert_close(each.outcomes[:, finding], model(x_adv)[:, finding], atol=1e-4, rtol=0)
    distances = (x_adv - batch.x).abs().flatten(1).amax(dim=1)
    assert (each.linf >= distances - 1e-6).all()


def test_order_and_batches_change_no_outcome() -> None:
    """Fails if the random start of a finding depends on the batch, or on the findings that were attacked before it."""
    model, data = victim(), findings_data(7)

    def outcomes(data: ImageData, batch_size: int) -> Tensor:
        loader, attack = EvaluationLoader(data, batch_size, CPU), pgd_finding(BUDGET, label_margin)
        return evaluate(model, loader, MULTI_LABEL, attack, options=EvaluationOptions((0, "a"))).outcomes

    order = np.array([3, 1, 6, 0])
    assert torch.equal(outcomes(replace(data, indices=order), 3), outcomes(data, 7)[torch.from_numpy(order)])


def test_from_python() -> None:
    """Fails if `pgd_finding` attacks another finding than the scripts' run against it, or draws other numbers."""
    model, (x, _), y = victim(), pixels(3), targets(MULTI_LABEL, 3, 16, FINDINGS)
    attack = advmia.attacks.pgd_finding(8 / 255, 5, steps=3, step_size=3 / 255)
    rng = SampleRng.of(0, "pgd-finding", 8.0, samples=range(3))
    run = runs_of(pgd_finding(BUDGET, label_margin), y)[5]
    torch.testing.assert_close(attack(model, x, y), run(model, x, y, rng=rng))
    with pytest.raises(advmia.UserError, match="finding 14: expected 0 to 13"):
        advmia.attacks.pgd_finding(8 / 255, 14)(model, x, y)
