"""A pretended CUDA device, for tests of what a GPU needs on machines without one.

    with PretendedGpu() as gpu:
        model.to("cuda:0")(x.to("cuda:0"))
    gpu.waits, gpu.launches, gpu.memory.peak

Inside the block torch has one CUDA device. A tensor on it is a `GpuTensor`, which holds a CPU tensor with its numbers.
Its backend is torch's PrivateUse1, of which operators, factories and autocast are written in Python (torch 2.9 or
later). As on CUDA,

- an operator on tensors of both devices, and a draw with the other device's generator, raise `MixedDevicesError`;
- float32 matrix products and convolutions round their inputs to tf32 where torch's switches allow it;
- `torch.autocast("cuda")` casts what it casts on CUDA, and keeps the casts of weights that learn until it ends;
- more memory than the device has raises `torch.OutOfMemoryError`.

It records every launch and every wait, each with the line of the package that caused it. A launch is an operator that
runs on the device; a convolution with a bias is two, since cuDNN's plain ones have none, and an operator on a long list
of tensors may be several. A wait is where the host needs a number from the device, or copies memory that is not pinned.
With `shapes_only`, tensors have no numbers: then FLOP, bytes and memory of large networks can be counted in a moment,
but `item()` gives 1 or True, and nothing may depend on it.

Not pretended: times, races, the rounding and the random numbers of CUDA's kernels, several GPUs, `torch.compile`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests.support.gpu_convolutions import STAND_INS, bytes_read
from tests.support.gpu_graphs import Graph, graph_functions, tensors_in
from tests.support.gpu_modules import Backend, Event
from tests.support.gpu_records import Launch, Memory, Wait, bytes_of, flop_of, kernels_of, line_of_the_package
from tests.support.gpu_rounding import BACKEND, Autocast, mapped, register_casts, rounded_to_tf32

DEVICE = torch.device("cuda:0")
_INDEXING = ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_")
# Operators whose result's shape depends on numbers, or that return numbers to the host.
_WAITING = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal", "bincount")
_WITHOUT_KERNEL = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_unsafe_view", "item")


def why_not() -> str:
    """Returns why there can be no pretended GPU here; "" if there can."""
    release = tuple(map(int, torch.__version__.split(".")[:2]))
    return "" if release >= (2, 9) else f"the pretended GPU needs torch 2.9, and this is torch {torch.__version__}"


class MixedDevicesError(RuntimeError):
    """An operator was given tensors, or a generator, of the GPU and of the CPU."""


class GpuTensor(Tensor):
    """A tensor that says that it is on cuda:0. `content` is a CPU tensor, or one without numbers (on "meta")."""

    content: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    device, is_cuda = DEVICE, True

    @staticmethod
    def __new__(cls, content: Tensor) -> GpuTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            content.size(),
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            dtype=content.dtype,
            device=torch.device(BACKEND, 0),
        )
        made.content = content
        if PretendedGpu.active is not None:
            PretendedGpu.active.memory.add(content)
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any, kwargs: Any) -> Any:  # type: ignore[override]
        return _Call(func, args, kwargs or {}).run()

    def data_ptr(self) -> int:
        return self.content.data_ptr() or self.content.untyped_storage()._cdata

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __deepcopy__(self, memo: dict[int, Any]) -> GpuTensor:
        if id(self) not in memo:
            made = memo[id(self)] = self.detach().clone().requires_grad_(self.requires_grad)
            vars(made).update({name: value for name, value in vars(self).items() if name != "content"})  # _is_param
            made.grad = copy.deepcopy(self.grad, memo)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().cpu().__reduce_ex__(protocol)

    def __format__(self, spec: str) -> str:
        return repr(self) if self.dim() else format(self.item(), spec)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"GpuTensor({tuple(self.shape)}, {self.dtype})"


class GpuGenerator(torch.Generator):
    """A generator that says that it is on cuda:0. Its numbers are those of the CPU's with the same seed."""

    device = DEVICE


class _AnyGenerator(torch.Generator):
    """Stands for `torch.Generator`."""

    def __new__(cls, device: torch.device | str = "cpu") -> torch.Generator:  # type: ignore[misc]
        return GpuGenerator() if _is_gpu(device) else _REAL_GENERATOR(device)


_REAL_GENERATOR, _REAL_SUBMIT = torch.Generator, ThreadPoolExecutor.submit


@dataclass
class _Call:
    """One call of an operator with at least one tensor on the device."""

    func: Any
    args: Sequence[Any]
    kwargs: dict[str, Any]

    def __post_init__(self) -> None:
        self.gpu, self.place = PretendedGpu.active, line_of_the_package()
        self.name = self.func._schema.name.removeprefix("aten::")
        tensors = list(tensors_in((*self.args, *self.kwargs.values())))
        self.ours = [tensor for tensor in tensors if isinstance(tensor, GpuTensor)]
        self.foreign = [tensor for tensor in tensors if not isinstance(tensor, GpuTensor)]

    def run(self) -> Any:
        self._check_devices()
        if self.name == "_local_scalar_dense":
            return self._number()
        if self.name == "copy_":
            return self._copied(*self.args)
        self._note_waits()
        args = mapped(_content_of, self.args)
        kwargs = {name: mapped(_content_of, value) for name, value in self.kwargs.items()}
        device, is_meta = kwargs.get("device"), self.ours[0].content.is_meta
        leaves = device is not None and device.type != BACKEND
        if device is not None and not leaves:
            kwargs["device"] = self.ours[0].content.device
        if is_meta:
            kwargs.pop("generator", None)
            if leaves and device.type == "cpu":
                return torch.zeros(self.ours[0].shape, dtype=kwargs.get("dtype") or self.ours[0].dtype)
        func = STAND_INS.get(self.name, self.func)
        has_kernel = not (is_meta and self.name.startswith("_fused_"))  # optimizers, which return nothing
        found = func(*rounded_to_tf32(self.name, args), **kwargs) if has_kernel else None
        if self.gpu is not None and self.gpu.graph is not None:
            self.gpu.graph.record(func, self.name, args, kwargs, found)
        self._note_launch(found)
        return found if leaves else self._on_gpu(found)

    def _on_gpu(self, found: Any) -> Any:
        """Wraps the tensors of a result; those that the operator changed in place are the arguments themselves."""
        wrappers = {id(tensor.content): tensor for tensor in self.ours}

        def wrapped(each: Any) -> Any:
            if not isinstance(each, Tensor):
                return each
            if id(each) not in wrappers:
                return GpuTensor(each)
            if each.shape != wrappers[id(each)].shape:
                raise NotImplementedError(f"{self.func} at {self.place} resizes a tensor in place")
            return wrappers[id(each)]

        return mapped(wrapped, found)

    def _check_devices(self) -> None:
        allowed: list[Tensor] = []
        if self.name in _INDEXING and isinstance(self.args[0], GpuTensor):
            allowed = [index for index in self.args[1] if index is not None]
        wrong = [each for each in self.foreign if each.dim() and not any(each is other for other in allowed)]
        if wrong and self.name != "copy_":
            raise MixedDevicesError(f"{self.name} at {self.place}: a CPU tensor of shape {tuple(wrong[0].shape)}")

    def _number(self) -> Any:
        self._wait("item")
        (content,) = (tensor.content for tensor in self.ours)
        return self.func(content) if not content.is_meta else content.dtype == torch.bool or 1.0

    def _copied(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        if not isinstance(target, GpuTensor):
            self._wait("copy to the CPU")
        elif not isinstance(source, GpuTensor) and not (non_blocking and getattr(source, "is_pinned_here", False)):
            self._wait("copy from the CPU")
        if not any(tensor.content.is_meta for tensor in self.ours):
            args = (_content_of(target), _content_of(source))
            args[0].copy_(args[1])
            if self.gpu is not None and self.gpu.graph is not None:
                self.gpu.graph.record(self.func, self.name, args, {}, args[0])
        self._note_launch(target)
        return target

    def _note_waits(self) -> None:
        if self.name == "_to_copy" and torch.device(self.kwargs.get("device") or BACKEND).type == "cpu":
            if not self.kwargs.get("non_blocking"):
                self._wait("copy to the CPU")
        elif self.name in _WAITING:
            self._wait(self.name)
        elif self.name in _INDEXING:
            indices = [index for index in self.args[1] if index is not None]
            if any(not isinstance(index, GpuTensor) for index in indices):
                self._wait("index from the CPU")
            is_fill = self.name != "index" and len(self.args) > 2 and not self.args[2].dim()  # CUDA fills by the mask
            if not is_fill and any(index.dtype == torch.bool for index in indices):
                self._wait("index by a mask")

    def _wait(self, kind: str) -> None:
        if self.gpu is not None:
            self.gpu.waits.append(Wait(kind, self.place))

    def _note_launch(self, found: Any) -> None:
        if self.gpu is None or self.func.is_view or self.name in _WITHOUT_KERNEL:
            return
        read = bytes_read(self.name, self.args, self.ours)
        results = list(tensors_in((found,)))
        written = sum(map(bytes_of, results))
        if self.name == "convolution" and self.args[2] is not None:
            read -= bytes_of(self.args[2])
            self.gpu.launches.append(Launch("bias", self.place, 0.0, 2 * written))
        count, flop = kernels_of(self.name, self.args), flop_of(self.name, self.args, self.ours, results)
        self.gpu.launches += [Launch(self.name, self.place, flop / count, (read + written) // count)] * count


class _Devices(TorchFunctionMode):
    """Maps "cuda:0" to the backend's own device in every call of torch's Python interface."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.pin_memory:
            pinned = args[0].clone()
            pinned.is_pinned_here = True
            return pinned
        if func is Tensor.tolist:  # C++ refuses subclasses
            return args[0].detach().cpu().tolist()
        on_gpu = _is_gpu(kwargs.get("device")) or any(map(_is_gpu, args))
        if func in (torch.tensor, torch.as_tensor) and on_gpu:  # their C++ code leaves out our kernels
            return func(*args, **kwargs | {"device": "cpu"}).to(_hidden(DEVICE))
        generator = kwargs.get("generator")
        if generator is not None:
            draws_there = on_gpu or any(isinstance(each, GpuTensor) for each in args)
            if draws_there != isinstance(generator, GpuGenerator):
                raise MixedDevicesError(f"{func.__name__} at {line_of_the_package()}: the other device's generator")
        if on_gpu and func is not torch.device:
            args, kwargs = tuple(map(_hidden, args)), {name: _hidden(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)


class PretendedGpu:
    """Inside the block, torch has the pretended device; see the module.

    `launches` and `waits` are what was recorded since the block began or `clear` was called.
    """

    active: ClassVar[PretendedGpu | None] = None

    def __init__(self, *, shapes_only: bool = False, total: int = 80 * 2**30) -> None:
        """`total`: bytes of the device's memory."""
        self.shapes_only, self.memory = shapes_only, Memory(total)
        self.launches: list[Launch] = []
        self.waits: list[Wait] = []
        self.graph: Graph | None = None  # that is being recorded
        self._exit = ExitStack()

    def clear(self) -> None:
        """Forgets the launches, the waits and the peak of the memory so far."""
        self.launches.clear()
        self.waits.clear()
        self.memory.peak = self.memory.live

    def __enter__(self) -> PretendedGpu:
        assert PretendedGpu.active is None, "there is one pretended GPU at a time"
        _register_backend()
        with ExitStack() as stack:
            for owner, name, value in self._replaced():
                stack.enter_context(mock.patch.object(owner, name, value))
            threads = torch.autograd.is_multithreading_enabled()
            torch._C._set_multithreading_enabled(False)  # the engine's threads would not see `_Devices`
            stack.callback(torch._C._set_multithreading_enabled, threads)
            stack.enter_context(_Devices())
            stack.callback(setattr, PretendedGpu, "active", None)
            self._exit = stack.pop_all()
        PretendedGpu.active = self
        return self

    def __exit__(self, *error: object) -> None:
        self._exit.close()

    def _replaced(self) -> Iterator[tuple[Any, str, Any]]:
        """Yields what is replaced in torch: the owner, the name and the replacement."""
        from torch.optim import optimizer

        memory = self.memory

        def synchronize(device: object = None) -> None:
            self.waits.append(Wait("synchronize", line_of_the_package()))

        functions: dict[str, Callable[..., Any]] = {
            "is_available": lambda: True,
            "is_bf16_supported": lambda **_: True,
            "device_count": lambda: 1,
            "set_device": lambda device: None,
            "get_device_name": lambda device=None: "pretended GPU",
            "synchronize": synchronize,
            "Event": lambda: Event(self.launches, self.waits),
            "mem_get_info": lambda device=None: (memory.total - memory.live, memory.total),
            "memory_allocated": lambda device=None: memory.live,
            "memory_reserved": lambda device=None: memory.live,
            "max_memory_allocated": lambda device=None: memory.peak,
            "reset_peak_memory_stats": lambda device=None: setattr(memory, "peak", memory.live),
            "get_rng_state": lambda device=None: torch.get_rng_state(),
            "set_rng_state": lambda state, device=None: None,
            "get_rng_state_all": lambda: [torch.get_rng_state()],
            "set_rng_state_all": lambda states: None,
            **graph_functions(self),
        }
        yield from ((torch.cuda, name, function) for name, function in functions.items())
        for ask in (torch.is_autocast_enabled, torch.get_autocast_dtype):
            yield torch, ask.__name__, lambda name="cuda", ask=ask: ask(BACKEND if name == "cuda" else name)
        yield torch, "autocast", Autocast
        yield torch.amp, "autocast", Autocast
        yield torch, "Generator", _AnyGenerator
        yield optimizer, "_foreach_supported_types", [*optimizer._foreach_supported_types, GpuTensor]
        yield ThreadPoolExecutor, "submit", _submit
        yield torch.autograd, "_engine_run_backward", memory.at_its_end(torch.autograd._engine_run_backward)


def _submit(pool: ThreadPoolExecutor, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
    """Submits a function that runs in `_Devices`, because each thread has its own modes."""

    def run() -> Any:
        with _Devices():
            return function(*args, **kwargs)

    return _REAL_SUBMIT(pool, run)


def _is_gpu(device: object) -> bool:
    return isinstance(device, str | torch.device) and str(device) in ("cuda", "cuda:0")


def _hidden(value: Any) -> Any:
    return torch.device(BACKEND, 0) if _is_gpu(value) else value


def _content_of(value: Any) -> Any:
    return value.content if isinstance(value, GpuTensor) else value


@cache
def _register_backend() -> list[torch.library.Library]:
    """Registers the backend, once for the process; the libraries must be kept."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(rename=BACKEND, backend_module=Backend())

    def content_device() -> str:
        return "meta" if PretendedGpu.active and PretendedGpu.active.shapes_only else "cpu"

    def empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_: Any) -> GpuTensor:
        memory_format = memory_format or torch.contiguous_format
        return GpuTensor(torch.empty(size, dtype=dtype, memory_format=memory_format, device=content_device()))

    def empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> GpuTensor:
        return GpuTensor(torch.empty_strided(size, stride, dtype=dtype, device=content_device()))

    def arange(*limits: Any, dtype: Any = None, **_: Any) -> GpuTensor:
        made = GpuTensor(torch.arange(*limits, dtype=dtype, device=content_device()))
        if PretendedGpu.active:
            PretendedGpu.active.launches.append(Launch("arange", line_of_the_package(), 0.0, bytes_of(made)))
        return made

    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    for name in ("arange", "arange.start", "arange.start_step"):  # torch's own would resize their result
        library.impl(name, arange, "PrivateUse1")
    return [library, *register_casts()]
