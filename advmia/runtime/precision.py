"""How networks round: fp32, tf32 or bf16. Losses, updates and scores are float32 whatever they ran in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

from advmia.errors import UserError

PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class Precision:
    """fp32; tf32: on CUDA, products and convolutions round their inputs to 10 bits; bf16: they run in bfloat16.

    Under bf16, what must not be rounded so far runs in tf32 or fp32 (`unrounded`), and scores are taken in fp32. So are
    they under tf32 of attacks that leave an image alone as soon as it is fooled: some end a hair's breadth over.
    """

    name: str

    @classmethod
    def chosen(cls, name: str | None, device: torch.device) -> Precision:
        """The precision asked for, by default tf32 on CUDA, as published code ran, and fp32 on a CPU."""
        is_cuda = device.type == "cuda"
        name = name or ("tf32" if is_cuda else "fp32")
        if name == "tf32" and not is_cuda:
            raise UserError("--precision tf32: a CPU has none; use fp32 or bf16")
        if name == "bf16" and is_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UserError(f"--precision bf16: {torch.cuda.get_device_name(device)} has none; use tf32 or fp32")
        precision = cls(name)
        precision.allow_tf32(name != "fp32")
        return precision

    def networks(self, device: torch.device, *, early_stopping: bool = False) -> AbstractContextManager[object]:
        """Where networks run that are trained or attacked.

        `early_stopping`: whether the attack leaves an image alone once it is fooled: under bf16 it stops too early.
        """
        return torch.autocast(device.type, torch.bfloat16, enabled=self.name == "bf16" and not early_stopping)

    @contextmanager
    def scoring(self, *, early_stopping: bool = False) -> Iterator[None]:
        """Where networks run whose outputs are counted: of what bf16 attacks find, only what fp32 confirms counts.

        `early_stopping`: of an attack as in `networks`.
        """
        with _without_tf32() if self.name == "bf16" or early_stopping else nullcontext():
            yield

    @staticmethod
    def allow_tf32(allowed: bool) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


FP32 = Precision("fp32")


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Networks in here run in float32, whatever the precision."""
    with unrounded(device), _without_tf32():
        yield


@contextmanager
def _without_tf32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    Precision.allow_tf32(False)
    try:
        yield
    finally:
        Precision.allow_tf32(before)


def unrounded(device: torch.device) -> AbstractContextManager[object]:
    """Inside `Precision.networks`, where bf16 would change what is computed and not only how fast."""
    return torch.autocast(device.type, enabled=False)
