"""The precision in which networks run: fp32, tf32 or bf16. Losses, updates and scores are always in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

from advmia.errors import UserError

PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class Precision:
    """One of `PRECISIONS`, by name.

    fp32 is plain float32. tf32, on CUDA only, rounds the inputs of matrix products and convolutions to 10 bits of
    mantissa. bf16 runs them in bfloat16, except where that would change the result (`no_autocast`); there tf32 is used
    on CUDA, fp32 on a CPU.

    Networks are always scored in fp32 under bf16. Early-stopping attacks are always scored in fp32, because they leave
    some images so close to the decision boundary that rounding could change their class.
    """

    name: str

    @classmethod
    def choose(cls, name: str | None, device: torch.device) -> Precision:
        """Returns the precision and sets torch's tf32 switches. Without a name: tf32 on CUDA, fp32 on a CPU.

        tf32 is what the survey's published code ran in. Raises `UserError` if the device lacks the precision.
        """
        is_cuda = device.type == "cuda"
        name = name or ("tf32" if is_cuda else "fp32")
        if name == "tf32" and not is_cuda:
            raise UserError("--precision tf32: a CPU has none; use fp32 or bf16")
        if name == "bf16" and is_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UserError(f"--precision bf16: {torch.cuda.get_device_name(device)} has none; use tf32 or fp32")
        precision = cls(name)
        precision.allow_tf32(name != "fp32")
        return precision

    def autocast(self, device: torch.device, *, early_stopping: bool = False) -> AbstractContextManager[object]:
        """Returns a context in which networks are trained or attacked: bfloat16 autocast under bf16.

        Pass `early_stopping` for an early-stopping attack, which runs without it: rounded logits would make it stop at
        images that fp32 still classifies correctly.
        """
        return torch.autocast(device.type, torch.bfloat16, enabled=self.name == "bf16" and not early_stopping)

    @contextmanager
    def scoring(self, *, early_stopping: bool = False) -> Iterator[None]:
        """Sets the precision in which the block scores networks: fp32 under bf16, so that fp32 confirms every success.

        Pass `early_stopping` for images of an early-stopping attack, which are always scored in fp32.
        """
        with _without_tf32() if self.name == "bf16" or early_stopping else nullcontext():
            yield

    @staticmethod
    def allow_tf32(allowed: bool) -> None:
        """Sets torch's switches for matrix products and convolutions."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


FP32 = Precision("fp32")


@contextmanager
def fp32_only(device: torch.device) -> Iterator[None]:
    """Makes networks run in float32 during the block, whatever the precision: without autocast and without tf32."""
    with no_autocast(device), _without_tf32():
        yield


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Returns a context without autocast, for passes whose result, not only their speed, bf16 would change."""
    return torch.autocast(device.type, enabled=False)


@contextmanager
def _without_tf32() -> Iterator[None]:
    earlier = torch.backends.cudnn.allow_tf32
    Precision.allow_tf32(False)
    try:
        yield
    finally:
        Precision.allow_tf32(earlier)
