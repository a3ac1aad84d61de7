"""What `import advmia` offers: attack, evaluate and train networks of your own, on tensors or a torch DataLoader.

The scripts use the same attacks, loops, scores and files. docs/python.md has examples.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from advmia.attacks import ATTACKS, attack_named, square_memory
from advmia.attacks.common import Attack, frozen_eval
from advmia.budgets import Budget, pgd_budget, training_budget
from advmia.checkpoints.weights import digest_weights
from advmia.data.loading import EvaluationLoader, TrainingLoader
from advmia.data.specs import IMAGENET_MEAN, IMAGENET_STD, Augmentation
from advmia.data.tensors import Batches, TensorData, as_data, collect
from advmia.errors import UserError
from advmia.evaluation import reliability
from advmia.evaluation.attacked import AttackRun, evaluation_options
from advmia.evaluation.loop import EvaluationOptions, result_row
from advmia.evaluation.loop import evaluate as evaluate_list
from advmia.evaluation.tally import Evaluation
from advmia.metrics import Scores
from advmia.models.normalize import Normalize
from advmia.results.read import read_records, results_at
from advmia.results.render import render_tables
from advmia.results.rows import CLEAN, ResultRow
from advmia.results.scored import score_run
from advmia.results.tables import make_tables, write_tables
from advmia.results.write import ResultFile
from advmia.runtime import machine
from advmia.runtime.precision import FP32
from advmia.runtime.rng import GENERATOR
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL, Task
from advmia.training.averaging import WeightAverage
from advmia.training.loop import Epoch, Training, fit
from advmia.training.methods import METHODS, MethodSettings, default_beta
from advmia.training.perturbation import WeightPerturbation
from advmia.training.recomputation import Recomputation

TASKS: dict[str, Task] = {task.name: task for task in (SINGLE_LABEL, MULTI_LABEL, SEGMENTATION)}
Data = Batches | tuple[Tensor, Tensor]
_BATCH = 32


def wrap(network: nn.Module, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> nn.Module:
    """Returns a network of pixels in [0, 1] that normalises them, and then is `network`, which stays as it is.

    `mean` and `std`: of each channel, for pixels in [0, 1]; by default those of ImageNet.
    """
    return nn.Sequential(Normalize(mean, std), network)


@dataclass(frozen=True)
class Robustness:
    """The scores of a network on clean and on attacked images."""

    results: ResultFile
    _folder: object = field(repr=False, default=None)  # a temporary folder, which is removed with this object

    @property
    def rows(self) -> list[ResultRow]:
        """A row for the clean images, for each attack at each eps, and for the worst of the attacks at each eps."""
        return self.results.rows

    def scores(self, attack: str = CLEAN, eps: float = 0.0) -> Scores:
        """Returns the scores of one row. `attack`: or "none", "worst". Raises `UserError` if there is no such row."""
        row = self.results.find(attack, Budget(eps, 0, 0).grey_eps)
        if row is None:
            raise UserError(f"no row of {attack} at eps {eps:g}")
        return row.scores

    @property
    def warnings(self) -> list[str]:
        """What the checks of the evaluation warn of, such as attacks that look stuck."""
        record = results_at(self.results.json_path)
        return record.warnings if record else []

    @cached_property
    def table(self) -> str:
        """The scores with their confidence intervals, in Markdown."""
        runs = [score_run(record) for record in read_records([self.results.json_path])]
        return render_tables(make_tables(runs, costs=False), "md")

    def __str__(self) -> str:
        return self.table

    def plot(self, folder: Path | str) -> list[Path]:
        """Writes the table and the curves over eps to a folder; returns the pictures' paths."""
        write_tables([self.results.json_path], Path(folder))
        return sorted(Path(folder).glob("*.png"))


def evaluate(
    model: nn.Module,
    data: Data,
    attacks: Sequence[str] = ("fgsm", "pgd", "cw"),
    epsilons: Sequence[float] = (2 / 255, 4 / 255, 8 / 255),
    *,
    seed: int = 0,
    out: Path | str | None = None,
) -> Robustness:
    """Scores a network on clean images and under attacks, as the test scripts do.

    Args:
        model: takes images (B, C, H, W) in [0, 1] and returns logits, (B, K), or (B, K, H, W) for masks. Its weights,
            gradients and mode stay as they are. The images are moved to its device.
        data: (x, y), or a torch DataLoader of (x, y) that does not shuffle: x floats (N, C, H, W) in [0, 1]; y classes
            (N,), findings (N, L) of 0 and 1, or masks (N, H, W).
        attacks: names in `advmia.ATTACKS`.
        epsilons: in pixels of [0, 1]: 8 / 255, not 8.
        seed: of the random numbers.
        out: a folder for the result files, CSV and JSON, as the scripts write them; a second call with the same
            arguments takes over what is there. None: the files are temporary.

    Raises `UserError` for data, attacks and epsilons that cannot be used.
    """
    attacked = [AttackRun(name, attack_named(name, eps).budget) for name in attacks for eps in epsilons]
    temporary = tempfile.TemporaryDirectory(prefix="advmia-") if out is None else None
    folder = Path(temporary.name if temporary else out or "")
    run = _Evaluation.of(model, data, seed)
    unknown = [name for name in attacks if name not in run.task.attacks]
    if unknown:
        raise UserError(f"{unknown[0]} is not for {run.task.name}: choose from {', '.join(run.task.attacks)}")
    results = run.results(folder)
    with results.locked():
        pass  # takes over what is there
    if results.find(CLEAN, 0) is None:
        clean = run.evaluate(None, (seed, CLEAN, 0.0), CLEAN)
        results.add(result_row(CLEAN, Budget(0, 0, 0), (), clean.scores, clean))
    clean_row, y, memory = results.row(CLEAN, 0), run.loader.data.samples.labels, square_memory(attacks)
    for attack in attacked:
        if results.find(attack.name, attack.budget.grey_eps) is None:
            options = evaluation_options(attack, seed, FP32)
            found = run.evaluate(attack.build(run.task, memory), options.scope, options.title)
            results.add(*attack.rows(found, run.task, clean_row, y, run.classes))
    reliability.conclude(results, run.loader, run.task, model, None)
    return Robustness(results, temporary)


@dataclass(frozen=True)
class _Evaluation:
    """A network and the images on which it is evaluated."""

    model: nn.Module
    loader: EvaluationLoader
    task: Task
    classes: int
    seed: int

    @classmethod
    def of(cls, model: nn.Module, data: Data | TensorData, seed: int) -> _Evaluation:
        device = _device_of(model)
        tensors = data if isinstance(data, TensorData) else _as_data(model, data, device)
        loader = EvaluationLoader(tensors.preload(device), int(getattr(data, "batch_size", None) or _BATCH), device)
        return cls(model, loader, TASKS[tensors.samples.spec.task], tensors.samples.classes, seed)

    def evaluate(
        self, attack: Attack | None, scope: tuple[object, ...], title: str, *, is_test: bool = True
    ) -> Evaluation:
        options = EvaluationOptions(scope, title, is_test=is_test)
        return evaluate_list(self.model, self.loader, self.task, attack, options=options)

    def results(self, folder: Path) -> ResultFile:
        samples, digest = self.loader.data.samples, digest_weights(self.model)
        name = type(self.model).__name__
        run = {
            "seed": self.seed,
            "size": samples.spec.size,
            "precision": "fp32",
            "generator": GENERATOR,
            "data": self.loader.data.facts,
            "target_sha256": digest,
            "source_sha256": digest,
        }
        details = {
            "finished": False,
            "versions": machine.versions(self.loader.device),
            "samples": {
                "index": list(range(len(samples))),
                "file": samples.files,
                "label": samples.masks or samples.labels.tolist(),
            },
        }
        facts = {"dataset": samples.dataset_name, "target_model": name, "target_weight": name}
        facts |= {"source_model": name, "source_weight": name}
        folder.mkdir(parents=True, exist_ok=True)
        stem, score_names = folder / f"{samples.spec.name}__{name}", self.task.score_names(samples.spec)
        return ResultFile(stem, facts, score_names, run, details)


@dataclass(frozen=True)
class TrainingOptions:
    """How `train` trains. The defaults are those of the scripts."""

    batch_size: int = _BATCH
    lr: float | None = None  # None: 0.01 for classifiers, 0.0001 for masks
    weight_decay: float = 1e-3
    beta: float | None = None  # weight of the robustness term of trades, mart and maadvt; None: 6
    seed: int = 0
    awp: float | None = None  # gamma of the adversarial weight perturbation, e.g. 0.01; None: without
    awp_warm_up: int = 0  # epochs at the beginning without it
    ema: float | None = None  # decay of the average of the weights, e.g. 0.995; None: no average
    validation: Data | None = None  # on which epochs are scored; None: the training images
    validate_every: int = 1  # N: only every N-th epoch and the last one are scored
    checkpoint_activations: bool = False  # computes activations again for the gradient: needs less memory
    report: Callable[[Epoch], None] = lambda epoch: None  # called after each epoch


def train(
    model: nn.Module,
    data: Data,
    method: str = "pgdat",
    eps: float = 8 / 255,
    epochs: int = 10,
    options: TrainingOptions = TrainingOptions(),
) -> list[Epoch]:
    """Trains a network, in place, as the training scripts do: same losses, attacks, optimizer and schedule.

    Args:
        model: as for `evaluate`; it is trained on its device, and is in eval mode afterwards.
        data: as for `evaluate`; x and y stay in memory, so augmentation of a DataLoader is drawn once.
        method: "nat", "pgdat" or "trades"; for findings also "mpadvt", for classes also "mart", "mpadvt", "maadvt".
        eps: of the attack in training, in pixels of [0, 1]; ignored by "nat".
        epochs: number of passes over the images.
        options: see `TrainingOptions`.

    Returns: what each epoch gave; the network is that of the last one, or the average where `options.ema` is set.
    Raises `UserError` for data and options that cannot be used, and if the loss is no longer a number.
    """
    training, task = _training(model, data, method, eps, epochs, options)
    grey_eps = 0.0 if method == "nat" else Budget(eps, 0, 0).grey_eps
    images = training.loader.data if options.validation is None else options.validation
    model_or_average = training.validated_model
    validation = _Evaluation.of(model_or_average, images, options.seed)  # type: ignore[arg-type]  # a TensorData

    def validate() -> tuple[Scores, Scores | None]:
        clean = validation.evaluate(None, ("validation",), "validation", is_test=False).scores
        if not grey_eps:
            return clean, None
        attack = ATTACKS["pgd"].build(pgd_budget(grey_eps), task.attacks["pgd"])
        scope = (options.seed, "validation", grey_eps)
        return clean, validation.evaluate(attack, scope, "validation under attack", is_test=False).scores

    history = []
    for epoch in fit(training, validate):
        history.append(epoch)
        options.report(epoch)
    if training.average is not None:
        model.load_state_dict(training.average.model.state_dict())
    model.eval()
    return history


def _training(
    model: nn.Module, data: Data, method: str, eps: float, epochs: int, options: TrainingOptions
) -> tuple[Training, Task]:
    """Returns the training that `train` runs, and its task. Seeds the global generators, from which dropout draws."""
    device = _device_of(model)
    tensors = _as_data(model, data, device)
    task = TASKS[tensors.samples.spec.task]
    if method not in task.methods or method == "hat":
        known = ", ".join(name for name in task.methods if name != "hat")
        raise UserError(f"unknown training method {method!r} for {task.name}: choose from {known}")
    machine.seed_everything(options.seed)
    budget = training_budget(Budget(eps, 0, 0).grey_eps, method)
    beta = default_beta(method, "") if options.beta is None else options.beta
    settings = MethodSettings(task.objective, task.divergence, budget, beta, gamma=0, hat_step=0, helper=None)
    images = tensors.preload(device)
    loader = TrainingLoader(images, options.batch_size, device, task.order, Augmentation(), options.seed)
    lr = task.default_lr if options.lr is None else options.lr
    optimizer = task.optimizer(model.parameters(), lr, options.weight_decay)
    schedule = task.schedule(optimizer, lr, epochs * len(loader))
    perturbation = None if options.awp is None else WeightPerturbation(options.awp, options.awp_warm_up)
    average = None if options.ema is None else WeightAverage(model, options.ema)
    recomputation = Recomputation(model) if options.checkpoint_activations else None
    parts = (perturbation, average, options.validate_every, recomputation)
    return Training(model, METHODS[method](settings), loader, optimizer, schedule, epochs, FP32, *parts), task


def _as_data(model: nn.Module, data: Data, device: torch.device) -> TensorData:
    """Returns the user's images and targets, with the number of classes that the network has."""
    x, y = collect(data)
    with frozen_eval(model), torch.no_grad():
        logits = model(x[:1].to(device))
    if not isinstance(logits, Tensor) or logits.dim() < 2:
        raise UserError("the network returns no logits: expected a tensor (B, K), or (B, K, H, W) for masks")
    return as_data(x, y, name="data", classes=logits.shape[1])


def _device_of(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")
