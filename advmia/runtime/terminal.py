"""Devices, seeds, versions, and what is said to the person at the terminal."""

from __future__ import annotations

import sys
from contextlib import suppress


def say(text: str) -> None:
    """A line for the person, not for the scripts that parse standard output. One that cannot be told stops nothing."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
