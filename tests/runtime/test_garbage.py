"""Pausing the garbage collector."""

from __future__ import annotations

import gc

import pytest

from advmia.runtime.garbage import paused_collection


def test_the_collector_works_again() -> None:
    """Fails if the collector stays off after the block or an error in it, or is turned on where it was off."""
    with pytest.raises(ValueError, match="in the block"), paused_collection():
        assert not gc.isenabled()
        raise ValueError("in the block")
    assert gc.isenabled()
    gc.disable()
    try:
        paused_collection()(gc.isenabled)()
        assert not gc.isenabled()
    finally:
        gc.enable()
