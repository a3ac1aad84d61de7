"""The devices that `--gpu` names."""

from __future__ import annotations

import pytest

from advmia.errors import UserError
from advmia.runtime.devices import pick_devices
from tests.support.networks import CPU


def test_devices_of_several_processes() -> None:
    """Fails if two processes may share a GPU. They may share a CPU."""
    with pytest.raises(UserError, match=r"named twice|no CUDA device"):
        pick_devices(["0", "0"])
    assert pick_devices(["cpu", "cpu"]) == [CPU, CPU]
