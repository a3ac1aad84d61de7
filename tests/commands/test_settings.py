"""What the flags of the training scripts say: the settings that are recorded, and the method that is built of them."""

from __future__ import annotations

import pytest

from advmia.attacks.mask_attacks import segpgd
from advmia.budgets import Budget
from advmia.cli import flags
from advmia.commands.settings import method_of, settings_of
from advmia.data.datasets import DATASETS
from advmia.runtime.precision import FP32
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from advmia.training.methods import PGDAT, TRADES, MAAdvT, Method, MPAdvT

LABEL, FINDINGS, MASK = SINGLE_LABEL.objective, MULTI_LABEL.objective, SEGMENTATION.objective
TASKS = {"melBin": SINGLE_LABEL, "mesidorMulti": SINGLE_LABEL, "xray_multilabel": MULTI_LABEL, "mel": SEGMENTATION}
# data set, method, eps and further flags -> the method
CASES: dict[str, Method] = {
    "melBin pgdat 8": PGDAT(LABEL, Budget.grey(8, 10, 2)),
    "melBin mpadvt 10.2": MPAdvT(LABEL, Budget.grey(10.2, 9, 1)),
    "mesidorMulti maadvt 4": MAAdvT(Budget.grey(4, 9, 1.785), 8.0),
    "xray_multilabel mpadvt 2": MPAdvT(FINDINGS, Budget.grey(2, 9, 1)),
    "xray_multilabel trades 2 --beta 3": TRADES(Budget.grey(2, 10, 0.5), 3.0, FINDINGS, MULTI_LABEL.divergence),
    "mel trades 4": TRADES(Budget.grey(4, 10, 1), 6.0, MASK, SEGMENTATION.divergence),
    "mel pgdat 4": PGDAT(MASK, Budget.grey(4, 10, 1)),
    "mel pgdat 4 --attackLoss segpgd": PGDAT(MASK, Budget.grey(4, 10, 1), segpgd),
}


@pytest.mark.parametrize("line", CASES)
def test_method_of_flags(line: str) -> None:
    """Fails if a flag does not reach the method, or the record does not say it or changes where a flag is not used."""
    dataset, name, eps, *more = line.split()
    task: Task = TASKS[dataset]
    words = ["--dataset", dataset, "--method", name, "--eps", eps, *more, "--model", task.models[0]]
    if task is MULTI_LABEL:
        words = words[2:]
    settings = settings_of(flags.train_parser(task, None).parse_args(words), DATASETS[dataset], 2, FP32)
    assert method_of(task, settings, None) == CASES[line]
    record, budget = settings.to_json(), settings.budget
    assert (record["eps"], record["steps"], record["step_size"]) == (float(eps), budget.steps, budget.grey_step_size)
    assert record.get("attack_loss", "unused") == ("segpgd" if "segpgd" in line else "unused")
    assert record["generator"] == "splitmix64"
