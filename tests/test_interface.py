"""`import advmia`: attacks, evaluation and training on a user's tensors, against the scripts and another library."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchattacks
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import advmia
from advmia import interface
from advmia.budgets import Budget
from advmia.checkpoints.weights import load_model
from advmia.data.datasets import DATASETS
from advmia.data.loading import EvaluationLoader, load_data
from advmia.data.readers import read_samples
from tests.support.networks import SmallNet, pixels, same_tensors, trained
from tests.support.notebooks import run_notebook
from tests.support.running import ROOT, run_main
from tests.support.world import make_world

ATTACKS = ("fgsm", "pgd", "cw", "apgd-ce", "fab-t", "square", "aa")


@pytest.mark.slow
@pytest.mark.usefixtures("small_networks", "few_steps")
def test_outcomes_are_those_of_the_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if an image is classified otherwise than by testCls.py, or the files and scores are others."""
    monkeypatch.chdir(tmp_path)
    make_world(tmp_path)
    test = [
        "testCls.py",
        "--dataset",
        "melBin",
        "--targetModel",
        "mv2",
        "--targetWeight",
        "weights/mv2",
        "--gpu",
        "cpu",
    ]
    assert run_main(monkeypatch, [*test, "--imgSize", 16, "--bs", 4, "--epsilons", 2, "--attacks", *ATTACKS]) == 0
    (path,) = Path("results").glob("*.json")
    rows = {row["attack"]: row for row in json.loads(path.read_text())["rows"]}
    for row in rows.values():  # JSON has no NaN
        row["scores"] = {name: float("nan") if score is None else score for name, score in row["scores"].items()}
    spec = DATASETS["melBin"].at_size(16)
    images = load_data(Path("data"), read_samples(spec, Path("data"), "test"), workers=1)
    batch = next(iter(EvaluationLoader(images, 100, torch.device("cpu"))))
    model = load_model("mv2", Path("weights/mv2"), spec).model
    loader = DataLoader(TensorDataset(batch.x, batch.y), batch_size=5)
    found = advmia.evaluate(model, loader, attacks=ATTACKS, epsilons=[2 / 255], out="own")
    assert {row.attack: row.outcomes for row in found.rows} == {name: row["outcomes"] for name, row in rows.items()}
    for row in found.rows:
        assert row.scores == pytest.approx(rows[row.attack]["scores"], nan_ok=True), row.attack
    assert found.scores("pgd", 2 / 255) == pytest.approx(rows["pgd"]["scores"], nan_ok=True)
    x_adv = [
        advmia.attacks.pgd(2 / 255, steps=2)(model, batch.x[n : n + 3], batch.y[n : n + 3], first=n) for n in (0, 3)
    ]
    with torch.no_grad():
        assert model.eval()(torch.cat(x_adv)).argmax(1).tolist() == rows["pgd"]["outcomes"][:6]
    written = json.loads(found.results.json_path.read_text())
    assert written["finished"] is True and len(written["rows"]) == len(ATTACKS) + 2
    right = [found.scores(name, 2 / 255)["accuracy"] for name in (*ATTACKS, "worst")]
    assert right[-1] <= min(right) and found.rows[-1].attacks == rows["worst"]["attacks"]
    assert "pgd 2" in str(found) and "worst 2" in str(found) and type(model).__name__ in str(found)
    pictures = found.plot("pictures")
    assert len(pictures) == 1 and pictures[0].stat().st_size > 1000
    monkeypatch.setattr(interface, "evaluate_list", None)  # a call would fail: nothing is attacked again
    again = advmia.evaluate(model, loader, attacks=ATTACKS[:2], epsilons=[2 / 255], out="own")
    assert again.scores("fgsm", 2 / 255) == found.scores("fgsm", 2 / 255)
    assert again.results.json_path == found.results.json_path and len(again.rows) == len(ATTACKS) + 2


def state_of(model: nn.Module) -> tuple[list[Tensor], list[bool], list[bool]]:
    tensors = [tensor.clone() for tensor in model.state_dict().values()]
    return tensors, [module.training for module in model.modules()], [p.requires_grad for p in model.parameters()]


def test_the_network_stays_as_it_is(few_steps: None) -> None:
    """Fails if a call changes the weights, running statistics, modes or gradients of the network, or the images."""
    torch.manual_seed(0)
    model = SmallNet(3).train()
    x, y = pixels(6)
    list(model.modules())[1].eval()
    F.cross_entropy(model(x), y).backward()
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    before, original = state_of(model), x.clone()
    x_adv = advmia.attacks.pgd(8 / 255)(model, x, y)
    assert 0 < (x_adv - x).abs().max() <= 8 / 255 + 1e-6 and not x_adv.requires_grad
    found = advmia.evaluate(model, (x, y), ["fgsm"], [4 / 255])
    assert any("large eps" in text or "base rate" in text for text in found.warnings)  # of an untrained network
    after = state_of(model)
    assert all(map(torch.equal, before[0], after[0])) and before[1:] == after[1:] and torch.equal(x, original)
    assert all(
        a is None or (p.grad is not None and torch.equal(a, p.grad))
        for a, p in zip(gradients, model.parameters(), strict=True)
    )


@pytest.mark.parametrize("kind", ["findings", "masks"])
def test_findings_and_masks(kind: str, few_steps: None) -> None:
    """Fails if findings or masks are not scored, or an attack on classes takes them."""
    x, _ = pixels(6)
    if kind == "findings":
        model: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 4))
        y = (torch.arange(24).reshape(6, 4) % 3 == 0).float()
        names, main = ["pgd", "apgd"], "auroc"
    else:
        model, y = nn.Conv2d(3, 3, 3, padding=1), (x.mean(1) * 2.99).long()
        names, main = ["pgd", "pgd-dice"], "dice"
    found = advmia.evaluate(model, (x, y), names, [8 / 255])
    assert 0 <= found.scores()[main] <= 1 and found.scores(names[1], 8 / 255)[main] <= found.scores()[main]
    assert ("dice class 2" in found.scores()) == (kind == "masks")
    with pytest.raises(advmia.UserError, match="cw is for single-label: these targets are for"):
        advmia.attacks.cw(8 / 255)(model, x, y)
    with pytest.raises(advmia.UserError, match="cw is not for"):
        advmia.evaluate(model, (x, y), ["cw"], [8 / 255])


def test_what_is_refused() -> None:
    """Fails if images or eps in grey levels, wrong targets or names are attacked in silence."""
    model, (x, y) = SmallNet(3), pixels(4)
    with pytest.raises(advmia.UserError, match=r"eps 8 is outside \[0, 1\].* write 8 / 255"):
        advmia.attacks.pgd(8)
    with pytest.raises(advmia.UserError, match="write 2 / 255"):
        advmia.evaluate(model, (x, y), ["pgd"], [2])
    attack = advmia.attacks.fgsm(8 / 255)
    refused = {
        "pixels from .*: expected 0 to 1": (x * 255, y),
        "pixels from nan": (x + torch.nan, y),
        r"images of shape .*uint8: expected floats": ((x * 255).byte(), y),
        r"targets of shape \(4,\) and type torch.float32": (x, y.float()),
    }
    for message, data in refused.items():
        with pytest.raises(advmia.UserError, match=message):
            attack(model, *data)
        with pytest.raises(advmia.UserError, match=message):
            advmia.evaluate(model, data, ["fgsm"], [8 / 255])
    with pytest.raises(advmia.UserError, match="targets from 0 to 3, but the network has 3 classes"):
        advmia.evaluate(model, (x, torch.arange(4)), ["fgsm"], [8 / 255])
    with pytest.raises(advmia.UserError, match="unknown attack 'pdg': choose from fgsm, pgd"):
        advmia.evaluate(model, (x, y), ["pdg"], [8 / 255])
    with pytest.raises(advmia.UserError, match="there are no images"):
        advmia.evaluate(model, [], ["pgd"], [8 / 255])
    with pytest.raises(
        advmia.UserError, match=r"unknown training method 'hat'.*choose from nat, pgdat, trades, mart, m"
    ):
        advmia.train(model, (x, y), "hat")


@pytest.mark.slow
def test_training() -> None:
    """Fails if a method does not lower its loss, or adversarial training makes no network more robust."""
    (x, y), robust = pixels(96), {}
    loader = DataLoader(TensorDataset(x, y), 32)
    for method, count in (("nat", 15), ("pgdat", 15), ("trades", 3), ("mart", 3), ("mpadvt", 15)):
        torch.manual_seed(0)
        model = SmallNet(3, dropout=0.0)
        seen: list[int] = []
        options = advmia.TrainingOptions(
            batch_size=16,
            lr=0.1,
            validation=(x[:16], y[:16]),
            validate_every=2,
            report=lambda epoch, seen=seen: seen.append(epoch.number),
        )
        epochs = advmia.train(model, loader, method, 4 / 255, count, options)
        assert seen == [epoch.number for epoch in epochs] == list(range(1, count + 1))
        assert epochs[-1].loss < epochs[0].loss and not model.training
        assert (epochs[-1].robust is None) == (method == "nat")
        assert [epoch.number for epoch in epochs if epoch.clean] == sorted({*range(2, count + 1, 2), count})
        robust[method] = advmia.evaluate(model, (x, y), ["pgd"], [4 / 255]).scores("pgd", 4 / 255)["accuracy"]
    assert min(robust["pgdat"], robust["mpadvt"]) > robust["nat"] + 0.04, robust


def test_training_with_a_perturbation_and_an_average_of_the_weights() -> None:
    """Fails if an option has no effect, or the network is left with its raw weights or in train mode."""
    x, y = pixels(12)
    raw: list[dict[str, Tensor]] = []

    def trained_with(**options: float | None) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = SmallNet(3, dropout=0.0)

        def report(epoch: object) -> None:
            raw.append({name: value.clone() for name, value in model.state_dict().items()})

        more = advmia.TrainingOptions(batch_size=4, lr=0.1, report=report, **options)
        advmia.train(model, (x, y), "nat", epochs=1, options=more)
        assert not model.training
        return model.state_dict()

    plain, perturbed, averaged = trained_with(), trained_with(awp=0.05), trained_with(ema=0.5)
    assert same_tensors(raw[0], plain) and same_tensors(raw[2], plain)
    assert not same_tensors(perturbed, plain) and not same_tensors(averaged, plain)
    assert same_tensors(trained_with(awp=0.05, awp_warm_up=1), plain)
    with pytest.raises(advmia.UserError, match="expected one such as"):
        trained_with(ema=1.5)


@pytest.mark.slow
def test_as_strong_as_torchattacks_on_resnet18() -> None:
    """Fails if an attack leaves more images correct than torchattacks does, on torchvision's resnet18.

    torchattacks' CW knows no eps: what it finds is cut to the eps of ours. Its APGD-T does not run with 3 classes.
    """
    from torchvision.models import resnet18

    torch.manual_seed(0)
    x, y = pixels(24, size=32)
    x = (x / 2 + F.one_hot(y, 3)[:, :, None, None] * 0.1).clamp(0, 1)  # a colour that is easy to learn
    model = resnet18(num_classes=3)
    advmia.train(model, (x, y), "nat", epochs=8, options=advmia.TrainingOptions(batch_size=8))
    with torch.no_grad():  # how many it has learned depends on the processor, which rounds in its own way
        learned = (model(x).argmax(1) == y).nonzero()[:8, 0]
    assert len(learned) >= 6
    x, y = x[learned], y[learned]
    eps, steps = 8 / 255, 4
    queries = 50 * steps  # as many as our AutoAttack makes
    parts = [
        torchattacks.APGD(model, eps=eps, steps=steps),
        torchattacks.FAB(model, eps=eps, steps=steps, n_classes=3),
        torchattacks.Square(model, eps=eps, n_queries=queries),
    ]
    own = advmia.attacks
    pairs = {
        "fgsm": (own.fgsm(eps), torchattacks.FGSM(model, eps=eps)),
        "pgd": (own.pgd(eps, 20, eps / 4), torchattacks.PGD(model, eps=eps, alpha=eps / 4, steps=20)),
        "cw": (own.cw(eps, 20), lambda x, y: x + (torchattacks.CW(model, steps=20)(x, y) - x).clamp(-eps, eps)),
        "apgd-ce": (own.apgd_ce(eps, 10), torchattacks.APGD(model, eps=eps, steps=10)),
        "fab-t": (own.fab_t(eps, steps), parts[1]),
        "square": (own.square(eps, queries), parts[2]),
        "aa": (replace(advmia.autoattack(eps), budget=Budget(eps, steps, 0)), torchattacks.MultiAttack(parts)),
    }

    def right(images: Tensor) -> int:
        with torch.no_grad():
            return int((model(images).argmax(1) == y).sum())

    for name, (ours, theirs) in pairs.items():
        left = right(ours(model, x, y))
        slack = name in ("pgd", "apgd-ce", "square")  # an image may depend on random numbers
        assert left <= right(theirs(x, y)) + slack, name
        assert left < len(x), name


def test_wrap() -> None:
    """Fails if a wrapped network is given other pixels, or has other weights."""
    network, (x, _) = trained(3), pixels(2)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    normalized = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        assert torch.allclose(advmia.wrap(network, mean, std).eval()(x), network.eval()(normalized), atol=1e-6)


def test_what_is_offered() -> None:
    """Fails if an offered name does not exist, or importing advmia imports torch before it is needed."""
    assert set(dir(advmia)) >= {"attacks", "evaluate", "train", "wrap", "ATTACKS", "__version__"}
    missing = [name for name in dir(advmia) if not hasattr(advmia, name)]
    assert missing == [] and not hasattr(advmia, "nosuch")
    command = [sys.executable, "-c", "import advmia, sys; sys.exit('torch' in sys.modules)"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


@pytest.mark.slow
def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the notebook does not run, its training shows no contrast, or outputs and pictures are not stored."""
    path = ROOT / "examples" / "attack_your_network.ipynb"
    monkeypatch.chdir(tmp_path)
    stored, again = json.loads(path.read_text()), run_notebook(path)
    shape = [[output["output_type"] for output in cell.get("outputs", [])] for cell in stored["cells"]]
    assert shape == [[output["output_type"] for output in cell.get("outputs", [])] for cell in again["cells"]]
    assert sum("display_data" in kinds for kinds in shape) == 2
    printed = "".join("".join(o.get("text", [])) for cell in again["cells"] for o in cell.get("outputs", []))
    clean, robust = (line.split("|") for line in printed.splitlines() if line.startswith("| Sequential"))
    accuracy = [[float(cell.strip("* ").split(" ")[0]) for cell in (row[3], row[-2])] for row in (clean, robust)]
    assert accuracy[0][0] > 90 and accuracy[0][1] < 30 and accuracy[1][1] > 60, accuracy
