"""Adversarial images rounded to 8 bits: what a file would hold, and the scores of it beside those of the images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from advmia.attacks.gradient import pgd
from advmia.budgets import Budget
from advmia.data.loading import EvaluationLoader
from advmia.data.transforms import to_pixels
from advmia.evaluation.attacked import AttackRun
from advmia.evaluation.eight_bits import round_to_8_bits
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.evaluation.tally import Tally
from advmia.losses import cross_entropy
from advmia.runtime.rng import SampleRng
from advmia.tasks import SINGLE_LABEL
from tests.support.networks import CPU, image_data, pixels, streams, trained
from tests.support.running import run_main
from tests.support.world import make_world


def test_it_is_what_a_file_holds(tmp_path: Path) -> None:
    """Fails if a rounded image differs in a bit from the image that is read after it was saved as PNG."""
    x, y = pixels(3)
    x_adv = pgd(Budget.grey(8, 3, 0.7), cross_entropy)(trained(), x, y, rng=streams(3))
    rounded = round_to_8_bits(x_adv, x, 8.0)
    assert not torch.equal(rounded, x_adv) and not torch.equal(rounded, x)
    for number, image in enumerate(x_adv):
        saved = (255 * image).round().permute(1, 2, 0).numpy().astype(np.uint8)
        Image.fromarray(saved).save(tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as file:
            read = to_pixels(torch.from_numpy(np.array(file))[None])
        assert torch.equal(rounded[number], read[0])


@pytest.mark.parametrize(
    ("grey_x", "grey_adv", "grey_eps", "expected"),
    [
        (100, 107.6, 8.0, 108.0),
        (100, 108.0, 8.0, 108.0),
        (100, 100.7, 0.75, 100.0),  # 101 is further away than eps
        (100, 99.3, 1.0, 99.0),
        (254, 255.0, 8.0, 255.0),
        (100, 130.4, None, 130.0),  # no bound, as for SimBA
        (100.5, 100.8, 0.25, 101.0),  # no whole grey level is within eps
    ],
)
def test_it_stays_within_eps(grey_x: float, grey_adv: float, grey_eps: float | None, expected: float) -> None:
    """Fails if rounding leaves eps where it need not, or does not take the nearest grey level within eps."""
    x, x_adv = (torch.full((1, 3, 2, 2), grey / 255) for grey in (grey_x, grey_adv))
    assert (round_to_8_bits(x_adv, x, grey_eps) * 255).flatten().tolist() == pytest.approx([expected] * 12)


def test_both_are_scored() -> None:
    """Fails if the scores of the images change beside those of rounded ones, or if the latter are not those of the
    images that the attack gives, rounded."""
    loader, model = EvaluationLoader(image_data(20), 8, CPU), trained()
    run = AttackRun("pgd", Budget.grey(6, 3, 0.9), rounds=True)
    attack, options = run.build(SINGLE_LABEL), EvaluationOptions(("scope",))
    plain = evaluate(model, loader, SINGLE_LABEL, attack, options=options)
    both = evaluate(model, loader, SINGLE_LABEL, attack, options=replace(options, rounding=run.rounding))
    assert plain.rounded is None and both.rounded is not None
    assert torch.equal(both.outcomes, plain.outcomes) and both.scores == plain.scores

    def rounded_attack(model: nn.Module, x: Tensor, y: Tensor, *, rng: SampleRng) -> Tensor:
        return round_to_8_bits(attack(model, x, y, rng=rng), x, 6.0)

    expected = evaluate(model, loader, SINGLE_LABEL, rounded_attack, options=options)
    assert torch.equal(both.rounded.outcomes, expected.outcomes) and both.rounded.scores == expected.scores
    assert torch.equal(both.rounded.l2, expected.l2) and not torch.equal(both.rounded.l2, both.l2)
    margins, expected_margins = both.rounded.notes["margin"], expected.notes["margin"]
    assert torch.equal(margins, expected_margins) and not torch.equal(margins, both.notes["margin"])
    y = loader.data.targets(loader.data.indices)
    assert torch.equal(margins < 0, both.rounded.outcomes != y)  # no margin is 0
    assert float(both.rounded.linf.max()) <= 6 / 255 + 1e-6 and both.rounded.seconds == both.seconds


def test_progress_without_rounded_images_is_not_used() -> None:
    """Fails if an evaluation that rounds continues from the progress of one that did not, and so lacks images."""
    plain, rounding = (Tally(SINGLE_LABEL, image_data(2), rounds=rounds) for rounds in (False, True))
    assert rounding.holds(rounding.state_dict()) and not rounding.holds(plain.state_dict())
    assert plain.holds(rounding.state_dict())


def test_progress_of_an_earlier_version_is_not_used() -> None:
    """Fails if an evaluation continues from progress without margins, and so lacks those of some images."""
    tally = Tally(SINGLE_LABEL, image_data(2))
    columns = {name: torch.zeros(1) for name in ("l2", "linf", "outcomes")}
    state = tally.state_dict()
    assert not tally.holds(state | {"columns": columns})
    assert tally.holds(state | {"columns": columns | {"margin": torch.zeros(1)}})


@pytest.mark.usefixtures("small_networks", "few_steps")
def test_through_the_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Fails if rows of restarts, of rounded images or of `worst` are missing, mixed, computed twice or not renewed by a
    later command, or if one start differs from a command without --restarts."""
    make_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    words: list[object] = ["testSeg.py", "--dataset", "mel", "--targetModel", "unet", "--targetWeight", "weights/unet"]
    words += ["--gpu", "cpu", "--imgSize", 16, "--epsilons", 8]

    def rows(*more: object) -> list[dict]:
        assert run_main(monkeypatch, [*words, *more]) == 0
        return json.loads(Path("results/mel__unet.json").read_text())["rows"]

    def kinds(found: list[dict]) -> list[tuple]:
        return [(row["attack"], row.get("restarts"), row.get("eight_bits"), row.get("attacks")) for row in found]

    none, pgd_row, dice_row = ("none", None, None, None), ("pgd", None, None, None), ("pgd-dice", None, None, None)
    first = rows("--attacks", "pgd")
    assert kinds(first) == [none, pgd_row]
    second = rows("--attacks", "pgd,PGD-dice")
    assert second[:2] == first and kinds(second)[2:] == [dice_row, ("worst", None, None, ["pgd", "pgd-dice"])]
    third = rows("--attacks", "pgd", "--restarts", 1)
    assert third == second
    fourth = rows("--attacks", "pgd", "--restarts", 2, "--eightBit")
    labels = ["pgd", "pgd (2 restarts)", "pgd-dice"]
    more = [("pgd", 2, None, None), ("pgd", 2, True, None), ("worst", None, None, labels)]
    assert fourth[:3] == second[:3] and kinds(fourth)[3:] == more
    assert fourth[3]["scores"]["ce_loss"] > first[1]["scores"]["ce_loss"], "the higher loss of two starts counts"
    assert set(fourth[3]["notes"]["start"]) <= {0, 1} and fourth[4]["notes"]["linf"] == [8.0] * 6
    assert fourth[3]["notes"]["linf"] != fourth[3]["notes"]["l2"] != fourth[4]["notes"]["l2"]
    printed = capsys.readouterr().out
    assert "\npgd (2 restarts)\n" in printed and "rounded to 8 bits: dice 0." in printed
    assert f"worst of {', '.join(labels)}\n" in printed
    dice = [np.array(row["outcomes"])[:, 0] for row in (*fourth[1:4], fourth[5])]
    assert np.array_equal(np.min(dice[:3], axis=0), dice[3])
    assert run_main(monkeypatch, ["advmia", "tables", "results"]) == 0
    table = capsys.readouterr().out.splitlines()[2]
    heads = ["pgd 8", "pgd 8 (2 restarts)", "pgd 8 (2 restarts) (8 bits)", "pgd-dice 8", "worst 8"]
    assert [head.strip() for head in table.split("|")[4:-1]] == heads
