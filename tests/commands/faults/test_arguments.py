"""Arguments that a command refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.faults import CHEX, SEG, TEST, TEST_CHEX, TEST_SEG, TRAIN, VISUAL, Case, RunHere, digests

CASES = [
    Case("eps no number", f"{TRAIN} --eps eight", ("argument --eps: ", "from 0 to 255, got 'eight'", "--help")),
    Case("eps negative", f"{TRAIN} --eps -1", ("argument --eps: ", "got '-1'")),
    Case("eps nan", f"{SEG} --eps nan", ("argument --eps: ", "got 'nan'")),
    Case("eps infinite", f"{CHEX} --eps inf", ("argument --eps: ", "got 'inf'")),
    Case("epsilons overflow", f"{TEST_CHEX} --epsilons 1 1e999", ("argument --epsilons: ", "got '1e999'")),
    Case("epsilons negative", f"{VISUAL} --epsilons -0.5", ("argument --epsilons: ", "got '-0.5'")),
    Case("epsilons too large", f"{TEST_SEG} --epsilons 256", ("argument --epsilons: ", "got '256'")),
    Case("eps of 1", f"{VISUAL} --epsilons 8 0.031", ("argument --epsilons: 0.031 grey levels?", "write 8/255")),
    Case("eps of 256", f"{CHEX} --eps 8/256", ("argument --eps: ", "got '8/256': write 8 or 8/255")),
    Case("epoch 0", f"{TRAIN} --epoch 0", ("argument --epoch: ", "at least 1, got '0'")),
    Case("bs 0", f"{TEST} --bs 0", ("argument --bs: ", "at least 1, got '0'")),
    Case("bs beyond any memory", f"{CHEX} --bs {10**30}", ("argument --bs: ", "at most")),
    Case("lr nan", f"{SEG} --lr nan", ("argument --lr: ", "above 0, got 'nan'")),
    Case("seed that torch cannot take", f"{TRAIN} --seed {2**64}", ("argument --seed: ", "at most")),
    Case("imgSize too small", f"{SEG} --imgSize 8", ("--imgSize 8 is too small for unet", "16 or more")),
    Case("imgSize beyond any memory", f"{TEST} --imgSize 1000000", ("argument --imgSize: ", "at most")),
    Case("valFraction 1", f"{TRAIN} --valFraction 1", ("argument --valFraction: ", "between 0 and 1")),
    Case("valFraction too large", f"{TRAIN} --valFraction 0.99", ("hold out 0.99", "trainbin.csv", "--valFraction")),
    Case(
        "unknown data set",
        f"{SEG} --dataset mel2",
        ("unknown data set 'mel2'", "choose from mel, xray", "declare yours in data/mel2"),
    ),
    Case("unknown network", f"{CHEX} --model vgg", ("argument --model: ", "'vgg'", "choose from res18")),
    Case("unknown method", f"{SEG} --method mart", ("argument --method: ", "choose from nat, pgdat, trades")),
    Case("attack loss", f"{SEG} --attackLoss segpgd --method trades", ("--attackLoss segpgd is for --method pgdat",)),
    Case("unknown attack", f"{TEST_CHEX} --attacks aa", ("argument --attacks: ", "choose from pgd")),
    Case("unknown argument", f"{VISUAL} --nosuch 1", ("unrecognized arguments: --nosuch 1", "--help")),
    Case("argument of two lines", f"{TEST_SEG} '--a\nb'", ("unrecognized arguments: --a b",)),
    Case("unknown precision", f"{TEST_SEG} --precision fp8", ("argument --precision: ", "choose from")),
    Case("no ImageNet weights", f"{TRAIN} --init imagenet", ("mv2 has no ImageNet weights",)),
    Case("no GPU", f"{TEST_SEG} --gpu 0", ("--gpu 0", "no CUDA device; use --gpu cpu")),
    Case("no GPU for two", f"{TRAIN} --gpu 0 1", ("--gpu 0", "no CUDA device; use --gpu cpu")),
    Case("no GPU for two in one word", f"{TEST} --gpu 0,1", ("--gpu 0", "no CUDA device; use --gpu cpu")),
    Case("GPU by name", f"{VISUAL} --gpu first", ("--gpu first", "expected CUDA device ids such as 0")),
    Case("GPU and CPU", f"{CHEX} --gpu cpu 0", ("--gpu cpu 0", "expected CUDA device ids such as 0")),
    Case("no helper", f"{TRAIN} --method hat", ("--method hat needs --helperModel and --helperWeight",)),
    Case("unknown tool", "advmia tabulate", ("invalid choice: 'tabulate'",)),
    Case("phantoms too few", "advmia phantoms --count 3 --dataRoot new", ("count is 3", "from ")),
    Case("phantoms too large", "advmia phantoms --size 1000000 --dataRoot new", ("size is 1000000", "from ")),
    Case(
        "where: quotes",
        "advmia where",
        ("line 2 ", "No closing quotation", "check its quotes"),
        stdin=f"{TEST}\nx 'y\n",
    ),
    Case("where: unknown script", "advmia where", ("expected a command of trainCls.py", "`x y`"), stdin="x y\n"),
    Case(
        "where: wrong argument",
        "advmia where",
        ("testCls.py: error: ", "--targetWeight"),
        stdin="testCls.py --dataset melBin --targetModel mv2\n",
    ),
]


def test_bad_arguments(template: Path, monkeypatch: pytest.MonkeyPatch, run_here: RunHere) -> None:
    """Fails if a bad argument ends otherwise than with status 2 and one line that names it, or leaves any file."""
    monkeypatch.chdir(template)
    before = digests(template)
    for case in CASES:
        if "no CUDA" in " ".join(case.messages) and torch.cuda.is_available():
            continue
        status, stderr = run_here(case.command, case.stdin)
        assert status == 2 and "Traceback" not in stderr, (case.name, stderr)
        assert len([line for line in stderr.splitlines() if ": error: " in line]) == 1, (case.name, stderr)
        assert all(message in stderr.splitlines()[-1] for message in case.messages), (case.name, stderr)
    assert digests(template) == before


@pytest.mark.slow
def test_a_bad_argument_in_a_process(check_case: Callable[[Case], None]) -> None:
    """Fails if a real process ends otherwise than `main` in this one."""
    check_case(Case("eps", f"{TRAIN} --eps eight", ("argument --eps: ", "got 'eight'"), process=True))
