"""Messages for the person at the terminal."""

from __future__ import annotations

import sys
from contextlib import suppress


def say(text: str) -> None:
    """Prints a line to standard error, so that programs that parse standard output do not meet it.

    Errors of the stream are ignored: a run does not end because its terminal has gone.
    """
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
