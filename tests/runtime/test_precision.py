"""The precision of each pass: which run in bf16 and which in float32. Runs of different precisions stay apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advmia.attacks import ATTACKS
from advmia.attacks.auto_attack import AutoAttack
from advmia.attacks.common import clear_margin, misclassified
from advmia.attacks.inference import inference_copy
from advmia.budgets import Budget, training_budget
from advmia.data.loading import EvaluationLoader
from advmia.errors import UserError
from advmia.evaluation.loop import EvaluationOptions, evaluate
from advmia.losses import cross_entropy, kl_divergence
from advmia.models import build_model
from advmia.runtime.precision import FP32, Precision
from advmia.tasks import SINGLE_LABEL
from advmia.training.methods import METHODS, MethodSettings
from tests.support.networks import CPU, image_data, network, pixels, streams, trained
from tests.support.running import run_main

BF16 = Precision("bf16")


class Rounding(nn.Module):
    """A network that records, for each pass, the dtype of its logits and whether the images require a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network("small")
        self.passes: list[tuple[torch.dtype, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        self.passes.append((logits.dtype, x.requires_grad))
        return logits


@pytest.fixture(autouse=True)
def without_tf32() -> Iterator[None]:
    """Switches tf32 off after each test, which another test would run in."""
    yield
    Precision.allow_tf32(False)


@pytest.fixture(autouse=True)
def attacks_run_on_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes attacks run on the network itself, because a copy would keep a record of its own."""
    for module in ("training.methods", "evaluation.loop"):
        monkeypatch.setattr(f"advmia.{module}.inference_copy", lambda model, x, **_: model)


@pytest.mark.parametrize("method", METHODS)
def test_the_kl_ascent_is_never_rounded(method: str) -> None:
    """Fails if TRADES or HAT ascends the KL in bf16, which loses its small gradients, or others do not run in bf16."""
    model, (x, y) = Rounding(), pixels(4)
    settings = MethodSettings(cross_entropy, kl_divergence, training_budget(8), 6.0, 1.0, 3.5, network("small"))
    with BF16.autocast(CPU):
        loss = METHODS[method](settings)(model, x, y, rng=streams(4))
    dtypes = {dtype for dtype, is_attack in model.passes if is_attack}
    assert dtypes == {"nat": set(), "trades": {torch.float32}, "hat": {torch.float32}}.get(method, {torch.bfloat16})
    assert model.passes[-1] == (torch.bfloat16, False)  # the update's
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(value.grad is not None and value.grad.dtype == torch.float32 for value in model.parameters())


@pytest.mark.parametrize("attack", SINGLE_LABEL.attacks)
def test_success_is_confirmed_in_float32(attack: str) -> None:
    """Fails if scores are computed in bf16, or an early-stopping attack runs in bf16."""
    model = Rounding()
    loader = EvaluationLoader(image_data(4), 4, CPU)
    built = ATTACKS[attack].build(Budget(8 / 255, 2, 4 / 255), SINGLE_LABEL.attacks[attack])
    if isinstance(built, AutoAttack):
        built.attacks.pop("square")  # it would take a hundred queries
    evaluate(model, loader, SINGLE_LABEL, built, options=EvaluationOptions(precision=BF16))
    *attack_dtypes, scoring_dtype = (dtype for dtype, _ in model.passes)
    assert set(attack_dtypes) == {torch.float32 if ATTACKS[attack].early_stopping else torch.bfloat16}
    assert scoring_dtype == torch.float32


def test_bf16_attacks_are_as_strong() -> None:
    """Fails if PGD is much weaker in bf16."""
    model, loader = trained(), EvaluationLoader(image_data(64), 64, CPU)
    built = ATTACKS["pgd"].build(ATTACKS["pgd"].budget(4), cross_entropy)
    exact, rounded = (
        evaluate(model, loader, SINGLE_LABEL, built, options=options).scores["accuracy"]
        for options in (EvaluationOptions((0,), precision=FP32), EvaluationOptions((0,), precision=BF16))
    )
    assert 0.05 < exact < 0.95  # or there would be nothing to compare
    assert abs(exact - rounded) <= 2 / 64


def test_defaults_and_what_a_machine_lacks() -> None:
    """Fails if the default is not fp32 on a CPU and tf32 on CUDA, or depends on torch's own default."""
    assert Precision.choose(None, CPU) == FP32
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
    assert Precision.choose(None, torch.device("cuda")).name == "tf32"
    assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    with pytest.raises(UserError, match=r"--precision tf32: a CPU has none; use fp32 or bf16"):
        Precision.choose("tf32", CPU)


def test_whether_to_fold_is_decided_in_float32() -> None:
    """Fails if a copy is compared with its network in bf16 or tf32, whose rounding errors may decide whether to fold.

    A resumed training could then decide differently than before.
    """
    model, x = build_model("mv2", 2), torch.rand(2, 3, 16, 16)
    compared: list[tuple[torch.dtype, bool]] = []
    model.register_forward_hook(
        lambda *call: compared.append((call[-1].dtype, torch.backends.cudnn.allow_tf32)) or None
    )
    Precision.allow_tf32(True)
    with BF16.autocast(CPU):
        inference_copy(model, x)
        assert torch.is_autocast_enabled("cpu") and torch.backends.cudnn.allow_tf32
    Precision.allow_tf32(False)
    assert set(compared) == {(torch.float32, False)}


@pytest.mark.parametrize(("attack", "exact"), [("pgd", False), ("square", False), ("fab-t", True), ("simba", True)])
def test_attacks_that_run_without_tf32(attack: str, exact: bool) -> None:
    """Fails if SimBA or FAB runs in tf32, which loses their small steps, or an attack that is faster in tf32 does not.

    Fails too if images of an early-stopping attack are scored in tf32.
    """
    model, switches = network("small"), []
    model.register_forward_hook(lambda *_: switches.append(torch.backends.cudnn.allow_tf32))
    loader = EvaluationLoader(image_data(4), 4, CPU)
    built = ATTACKS[attack].build(Budget(8 / 255, 2, 8 / 255), SINGLE_LABEL.attacks[attack])
    Precision.allow_tf32(True)
    evaluate(model, loader, SINGLE_LABEL, built, options=EvaluationOptions(precision=Precision("tf32")))
    Precision.allow_tf32(False)
    *attack_switches, scoring_switch = switches
    assert set(attack_switches) == {not exact} and scoring_switch == (attack == "pgd")


def test_tf32_needs_a_wider_margin() -> None:
    """Fails if an early-stopping attack in tf32 takes an image for misclassified whose margin rounding may have turned.

    Logits have been seen to move by up to 0.8 % of the largest one. Fails too if fp32 has that margin: then images that
    are misclassified would be attacked on and on.
    """
    cuda, moved = torch.device("cuda"), 2 * 0.008
    Precision.allow_tf32(True)
    assert clear_margin(cuda) > moved and clear_margin(CPU) < 1e-4
    Precision.allow_tf32(False)
    assert clear_margin(cuda) < 1e-4
    y = torch.tensor([0])
    assert misclassified(torch.tensor([[1.0, 1.001]]), y) and not misclassified(torch.tensor([[1.0, 1.000001]]), y)


def test_scoring_switches_tf32_off_and_on_again() -> None:
    """Fails if networks are scored in tf32 under bf16, or tf32 stays off after scoring."""
    switches = torch.backends.cudnn
    Precision.allow_tf32(True)
    with BF16.scoring():
        assert not switches.allow_tf32
    assert switches.allow_tf32
    with pytest.raises(KeyError), BF16.scoring():
        raise KeyError
    assert switches.allow_tf32
    with Precision("tf32").scoring():
        assert switches.allow_tf32
    Precision.allow_tf32(False)
    with FP32.scoring():
        assert not switches.allow_tf32


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_on_a_gpu(precision: str, gpu: torch.device) -> None:
    """Fails if a precision does not run on CUDA or rounds more than its name says."""
    chosen = Precision.choose(precision, gpu)
    model, (x, _) = network("res18-normalized").to(gpu).eval(), pixels(4)
    exact = model.cpu().double()(x.double())
    with torch.no_grad(), chosen.autocast(gpu):
        actual = model.float().to(gpu)(x.to(gpu)).double().cpu()
    allowed = {"fp32": 1e-5, "tf32": 5e-3, "bf16": 5e-2}[precision]
    assert (actual - exact).abs().max() <= allowed * exact.abs().max()


@pytest.mark.slow
def test_another_precision_is_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a checkpoint or results of one precision are used as those of another one."""

    def run(*words: object) -> str:
        capsys.readouterr()
        assert run_main(monkeypatch, list(words)) == 0
        return capsys.readouterr().out

    run("advmia", "phantoms", "--dataRoot", tmp_path, "--dataset", "mel2017", "--count", 24, "--size", 32)
    common = ["--dataset", "melBin", "--dataRoot", tmp_path, "--imgSize", 32, "--limit", 4, "--bs", 4, "--gpu", "cpu"]
    train = ["trainCls.py", *common, "--method", "nat", "--model", "mv2", "--epoch", 1, "--saveDir", tmp_path / "ckpt"]
    for precision, says in (("fp32", "best epoch 1"), ("fp32", "is trained already"), ("bf16", "best epoch 1")):
        assert says in run(*train, "--precision", precision)
    weights = tmp_path / "ckpt" / "MobileNetV2_melBin_nat_class2_maxLR0.01_weightDecay0.001"
    test = ["testCls.py", *common, "--targetModel", "mv2", "--targetWeight", weights, "--resultDir", tmp_path / "out"]
    for precision, files in (("fp32", 2), ("fp32", 2), ("bf16", 4)):
        run(*test, "--attacks", "fgsm", "--epsilons", 8, "--precision", precision)
        assert len(list((tmp_path / "out").iterdir())) == files
