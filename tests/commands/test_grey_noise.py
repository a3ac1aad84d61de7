"""Grey noise: attacks and trainings change all channels of a grey image alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advmia.attacks import ATTACKS
from advmia.attacks.inference import Blocks, inference_copy
from advmia.budgets import Budget
from advmia.data.phantoms import make_phantoms
from advmia.models import MODELS, build_model
from advmia.models.normalize import Normalize
from advmia.runtime.rng import SampleRng
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from tests.support.running import check_one_line, run_main

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def test_the_channel_is_repeated(narrow_wrn: None) -> None:
    """Fails if a network gives a grey image of one channel another output than the same image of three."""
    x = torch.rand(2, 1, 16, 16)
    for layer in (Normalize(), Normalize(MEAN, STD)):
        assert torch.equal(layer(x), layer(x.repeat(1, 3, 1, 1)))
    for name in MODELS:
        torch.manual_seed(0)
        model = build_model(name, 2, mean=MEAN, std=STD).eval()
        grey = torch.rand(2, 1, 32, 32)
        coloured = grey.repeat(1, 3, 1, 1)
        with torch.no_grad():
            assert torch.equal(model(grey), model(coloured)), name
            assert torch.allclose(inference_copy(model, grey)(grey), model(coloured), atol=1e-4), name


@pytest.mark.parametrize("task", [SINGLE_LABEL, MULTI_LABEL, SEGMENTATION], ids=lambda task: task.name)
def test_every_attack_gives_grey_images(task: Task, few_steps: None) -> None:
    """Fails if an attack changes the number of channels, leaves its budget, or does nothing."""
    torch.manual_seed(0)
    model = build_model("unet" if task is SEGMENTATION else "mv2", 3).eval()
    x = torch.rand(4, 1, 16, 16)
    with torch.no_grad():
        y = model(x).argmax(1)  # correct, so that attacks that stop early have something to do
    if task is MULTI_LABEL:
        y = torch.nn.functional.one_hot(y, 3).float()
    for attack_name, objective in task.attacks.items():
        spec = ATTACKS[attack_name]
        attack = spec.build(Budget.grey(8, 2, 2), objective)
        rng = SampleRng.of(0, samples=range(4), device=x.device)
        x_adv = attack(Blocks(inference_copy(model, x)), x, y, rng=rng)
        assert x_adv.shape == x.shape and x_adv.min() >= 0 and x_adv.max() <= 1, attack_name
        if spec.bounded:
            assert (x_adv - x).abs().max() <= 8 / 255 + 1e-6, attack_name
        assert spec.early_stopping or (x_adv - x).abs().max() > 1 / 255, attack_name


@pytest.mark.slow
@pytest.mark.usefixtures("small_networks", "few_steps")
def test_commands_with_grey_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if a method or command cannot use grey noise, does not record it, or takes coloured images for grey."""
    monkeypatch.chdir(tmp_path)
    make_phantoms(Path("data"), ["xray", "mel2017"], count=24, size=32)
    size = ["--imgSize", 16, "--bs", 8, "--gpu", "cpu", "--noise", "grey"]
    common = ["--dataset", "xrayBin", *size, "--model", "mv2"]
    train = ["trainCls.py", *common, "--epoch", 1, "--eps", 8]
    for method in ("nat", "pgdat", "trades", "mart"):
        assert run_main(monkeypatch, [*train, "--method", method]) == 0
    (weights,) = [path for path in Path("clsCkpt").glob("*_pgdat_*") if Path(f"{path}.json").exists()]
    settings = json.loads(Path(f"{weights}.json").read_text())["settings"]
    assert settings["noise"] == "grey"
    (natural,) = [path for path in Path("clsCkpt").glob("*_nat_*") if Path(f"{path}.json").exists()]
    test = ["testCls.py", *common[:-2], "--targetModel", "mv2", "--targetWeight", natural]
    assert run_main(monkeypatch, [*test, "--attacks", "pgd", "square", "--epsilons", 8]) == 0
    (path,) = Path("results").glob("*.json")
    record = json.loads(path.read_text())
    assert record["run"]["noise"] == "grey" and record["rows"][0]["scores"]
    assert path.with_suffix(".csv").read_text().splitlines()[1].startswith('"xrayBin[phantom, grey noise]"')
    draw = ["gradVisual.py", *common, "--weight", natural, "--epsilons", 8, "--limit", 2, "--saveDir", "maps"]
    assert run_main(monkeypatch, draw) == 0
    assert np.asarray(Image.open("maps/gradVisual.png")).std() > 0
    capsys.readouterr()
    skin = ["trainCls.py", "--dataset", "melBin", *size, "--model", "mv2", "--method", "nat"]
    assert run_main(monkeypatch, skin) == 2
    error = capsys.readouterr().err.splitlines()[-1] + "\n"
    check_one_line(error, "is coloured, and grey noise is for grey images")
