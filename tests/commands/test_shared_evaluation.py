"""Several test commands of one network: what one has computed, no other computes again, and nothing is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from advmia import budgets
from advmia.attacks.auto_attack import QUERIES_PER_STEP
from advmia.attacks.inference import Blocks
from advmia.models import build_model
from tests.support.kills import evaluation_outcome
from tests.support.running import run_main, start

IMAGES = 6
WORDS = ["testCls.py", "--dataset", "melBin", "--imgSize", "16", "--gpu", "cpu", "--bs", "4", "--limit", str(IMAGES)]
WORDS += ["--targetModel", "mv2", "--targetWeight", "weights/mv2", "--epsilons", "8"]
Passes = Callable[..., int]


@pytest.fixture
def passes(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_steps: None, small_networks: None
) -> Iterator[Passes]:
    """Runs a test in this process; returns how many images pass through networks, forward.

    Called with the folder in `tmp_path` for the results, and further arguments.
    """
    monkeypatch.chdir(world)
    images = 0

    def count(module: nn.Module, inputs: Any) -> None:
        nonlocal images
        images += len(inputs[0]) if isinstance(module, Blocks) else 0

    def run(out: str, *more: object) -> int:
        nonlocal images
        images = 0
        assert run_main(monkeypatch, [*WORDS, "--resultDir", tmp_path / out, *more]) == 0
        return images

    hook = register_module_forward_pre_hook(count)
    yield run
    hook.remove()


def test_two_commands_cost_as_much_as_one(passes: Passes, tmp_path: Path) -> None:
    """Fails if a command for further attacks runs the clean images, an attack or the probe of the checks again, or if
    its results are not those of one command for all attacks."""
    together = passes("one", "--attacks", "fgsm", "cw")
    first, second = passes("two", "--attacks", "fgsm"), passes("two", "--attacks", "cw")
    assert together == first + second
    assert evaluation_outcome(tmp_path / "two") == evaluation_outcome(tmp_path / "one")
    assert passes("two", "--attacks", "cw", "fgsm") == 0


def test_transfer_takes_the_clean_images_of_the_white_box_test(passes: Passes, tmp_path: Path) -> None:
    """Fails if the clean images of a target run again for each surrogate, or the results depend on that."""
    torch.manual_seed(1)
    torch.save(build_model("mv2", 2).state_dict(), tmp_path / "other")
    transfer = ["--attacks", "fgsm", "--surrogateWeight", tmp_path / "other"]
    alone = passes("alone", *transfer)
    passes("beside", "--attacks", "pgd")
    assert passes("beside", *transfer) == alone - IMAGES
    for path in (tmp_path / "beside").glob("melBin__mv2.*"):
        path.unlink()
    rows = [evaluation_outcome(tmp_path / folder)[1]["rows"] for folder in ("alone", "beside")]
    assert rows[0] == rows[1] and len(rows[0]) == 2


def test_autoattack_and_square_run_square_once(passes: Passes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a test of both runs Square twice on an image, or has other rows than tests of one each."""
    monkeypatch.setattr(budgets, "AUTO_STEPS", budgets.QUERIES // QUERIES_PER_STEP)
    alone = sum(passes("alone", "--eightBit", "--attacks", name) for name in ("aa", "square"))
    together = passes("together", "--eightBit", "--attacks", "aa", "square")
    (lines, record), expected = (evaluation_outcome(tmp_path / folder) for folder in ("together", "alone"))
    assert (lines, record) == expected
    notes = next(row["notes"] for row in record["rows"] if row["attack"] == "aa")
    saved = [queries + 1 for queries in notes["queries"] if queries]
    assert saved and alone - together == sum(saved)


@pytest.mark.slow
def test_two_commands_at_the_same_time(world: Path, tmp_path: Path, warm_interpreter: Path) -> None:
    """Fails if one of two tests of a network that run at the same time is refused, or loses or repeats rows."""
    out = tmp_path / "two"
    commands = [[*WORDS, "--resultDir", out, "--attacks", *attacks] for attacks in (("fgsm", "pgd"), ("pgd", "cw"))]
    for process in [start(words, world, warm_interpreter) for words in commands]:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    assert sorted(path.name for path in out.iterdir()) == ["melBin__mv2.csv", "melBin__mv2.json"]
    both = json.loads((out / "melBin__mv2.json").read_text())
    shutil.rmtree(out)
    process = start([*commands[0], "cw"], world, warm_interpreter)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    one = json.loads((out / "melBin__mv2.json").read_text())
    for record in (both, one):
        record["rows"].sort(key=lambda row: (row["attack"], row["eps"]))
        for row in record["rows"]:
            del row["seconds"]
    assert both == one and len(one["rows"]) == 5 and one["finished"]
