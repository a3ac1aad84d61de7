"""A user's network, which `--model FILE.py:NAME` or `--model package.module:NAME` names.

NAME is a callable that takes the number of classes and returns a network, from pixels (B, 3, H, W) in [0, 1] to logits,
(B, classes) or, for masks, (B, classes, H, W). A network that returns a tuple, list or dictionary is taken to return
its logits first.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from advmia.errors import UserError
from advmia.models.pretrained import imagenet_loader
from advmia.models.spec import Kind, ModelSpec
from advmia.runtime import machine

Factory = Callable[..., Any]
_CLASSES = ("num_classes", "n_classes", "classes")  # usual names of the argument that is the number of classes
_PLAIN: set[str] = set()  # names of networks that `check_network` found not to run in channels-last layout
_STEADY = 1e-5  # how much the outputs of two equal passes may differ, as a share of the largest


def import_network(name: str, kind: Kind) -> ModelSpec:
    """Imports the callable `name` and returns its declaration. This runs the code of its module.

    Raises `UserError` if the name is wrong, or if the module cannot be imported.
    """
    module_name, _, attribute = name.rpartition(":")
    module = _import(name, module_name)
    factory: Any = module
    for part in attribute.split("."):
        factory = getattr(factory, part, None)
    if not callable(factory):
        known = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        what = "is no callable" if factory is not None else "does not exist"
        raise UserError(f"{name}: {attribute!r} {what} in {module_name}, which has {', '.join(known[:8]) or 'none'}")

    def build(classes: int, normalize: nn.Module) -> nn.Module:
        network = _make(name, factory, classes)
        if name in _PLAIN:
            machine.keep_plain_layout(network)
        network.register_forward_pre_hook(_Input(normalize))
        network.register_forward_hook(_first_output)
        return network.train()

    return ModelSpec(
        name=name,
        class_name=attribute.rpartition(".")[2],
        kind=kind,
        build=build,
        head=None,
        min_size=1,
        load_imagenet=imagenet_loader(attribute) if module_name == "torchvision.models" else None,
    )


def _import(name: str, module_name: str) -> ModuleType:
    """Imports a file or a module by name."""
    path = Path(module_name)
    try:
        if path.suffix != ".py":
            return importlib.import_module(module_name)
        if not path.is_file():
            raise UserError(f"{name}: there is no file {path}: expected FILE.py:NAME or package.module:NAME")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)  # as dataclasses and pickle expect
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:  # the module's own code may raise anything
        raise UserError(f"{name}: {module_name or 'nothing'} cannot be imported ({_reason(error)})") from error
    return module


def _make(name: str, factory: Factory, classes: int) -> nn.Module:
    """Calls the factory with the number of classes. Raises `UserError` unless it returns a network."""
    try:
        network = factory(**_arguments(factory, classes)) if _arguments(factory, classes) else factory(classes)
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"{name} does not build a network for {classes} classes ({_reason(error)})") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"{name} returns {type(network).__name__}: expected a torch.nn.Module")
    if not any(parameter.is_floating_point() for parameter in network.parameters()):
        raise UserError(f"{name} returns a network without parameters")
    return network


def _arguments(factory: Factory, classes: int) -> dict[str, int]:
    """Returns the keyword argument for the number of classes; {} if it is the first positional argument."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # a callable without a signature
        return {}
    for parameter in parameters:
        if parameter.name in _CLASSES and parameter.kind is not parameter.POSITIONAL_ONLY:
            return {parameter.name: classes}
    positional = any(parameter.kind <= parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return {_CLASSES[0]: classes} if takes_any and not positional else {}


class _Input:
    """Normalises a network's input, as a forward pre-hook: so the names of its parameters stay its own."""

    def __init__(self, normalize: nn.Module) -> None:
        self._normalize = normalize

    def __call__(self, network: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *others = arguments
        if machine.memory_format_of(network) is not torch.channels_last:
            x = x.contiguous()
        self._normalize.to(x.device)
        return (self._normalize(x), *others)


def _first_output(network: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
    """Returns the first tensor of a tuple, list or dictionary of outputs."""
    while not isinstance(output, Tensor):
        values = list(output.values()) if isinstance(output, Mapping) else list(output) if _is_sequence(output) else []
        if not values:
            return output
        output = values[0]
    return output


def _is_sequence(output: object) -> bool:
    return isinstance(output, (tuple, list))


def skeleton(spec: ModelSpec, classes: int) -> dict[str, torch.Size]:
    """Returns the shapes of the network's state_dict entries by their names."""
    try:
        with torch.device("meta"):  # builds the modules without memory for weights and without drawing random numbers
            network = spec.build(classes, nn.Identity())
    except UserError:  # code that reads the values of weights does not run on this device
        with torch.random.fork_rng(devices=[]):
            network = spec.build(classes, nn.Identity())
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def find_head(spec: ModelSpec) -> str:
    """Returns the state_dict entry whose first dimension is the number of classes, by building the network twice.

    Raises `UserError` if there is none.
    """
    two, three = skeleton(spec, 2), skeleton(spec, 3)
    for name, shape in three.items():
        if shape[:1] == (3,) and two.get(name, ())[:1] == (2,):
            return name
    raise UserError(f"{spec.name} builds the same network for 2 and for 3 classes: it must use its argument")


def check_network(spec: ModelSpec, network: nn.Module, classes: int, size: int) -> None:
    """Raises `UserError` if the network does not do what a network must: one line that says what is wrong.

    Runs it in eval mode on two random images of `size` pixels a side; its mode and gradients stay as they were. If it
    does not run with weights and images in channels-last layout, it and those built later get the plain layout.
    """
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    x = x.to(next(network.parameters()).device, memory_format=torch.channels_last)
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        try:
            output, again, gradient = _run_twice(machine.on_device(network, x.device), x)
        except RuntimeError:  # as of `view` in a forward pass
            machine.keep_plain_layout(network)
            output, again, gradient = _run_twice(machine.on_device(network, x.device), x)
            _PLAIN.add(spec.name)
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"{spec.name} fails on images of {size} x {size} pixels ({_reason(error)})") from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    fault = _fault(output, again, gradient, _shape(spec.kind, classes, size))
    if fault:
        raise UserError(f"{spec.name}: the network {fault}")


def _shape(kind: Kind, classes: int, size: int) -> tuple[int, ...]:
    return (2, classes) if kind == "classification" else (2, classes, size, size)


def _run_twice(network: nn.Module, x: Tensor) -> tuple[Any, Any, Tensor | None]:
    """Returns the outputs of two passes, and the gradient of the first's sum of squares by x; None if there is none."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        output = network(leaf)
        gradient = None
        if isinstance(output, Tensor) and output.requires_grad:
            (gradient,) = torch.autograd.grad(output.float().square().sum(), leaf, allow_unused=True)
    with torch.no_grad():
        return output, network(x), gradient


def _fault(output: Any, again: Any, gradient: Tensor | None, shape: tuple[int, ...]) -> str:
    """Returns what is wrong with the outputs of two passes and the gradient by the input; "" if nothing is."""
    if not isinstance(output, Tensor):
        return f"returns {type(output).__name__}: expected logits, a tensor of shape {shape} for two images"
    if tuple(output.shape) != shape:
        return f"returns a tensor of shape {tuple(output.shape)} for two images: expected {shape}"
    if not output.isfinite().all():
        return "returns numbers that are not finite"
    if (output - again).abs().max() > _STEADY * output.abs().max():
        return "returns other outputs for the same images in eval mode: it must not draw random numbers there"
    # A last layer of zeros, as of torchvision's vision transformers before training, has a gradient of zeros.
    constant = output[0].equal(output[1])
    if gradient is None or not (constant or gradient.any()):
        return "has no gradient by its input, which attacks need: it must not detach it, or round"
    if bool((output >= 0).all()) and bool((output.sum(1) - 1).abs().max() < 1e-3):
        return "returns probabilities: expected logits, without softmax at the end"
    if "Sigmoid" in type(output.grad_fn).__name__:  # untrained logits may be from 0 to 1 by chance
        return "ends with a sigmoid: expected logits, without it"
    return ""


def _reason(error: Exception) -> str:
    """Returns an error's type and text, shortened to one line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")
