"""Every flag, declared once; choices come from the registries. Spellings in circulation work in any letter case."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults that say something, as they are typed, and the example as it is written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default is None or isinstance(default, bool):
            return action.help
        if isinstance(default, list):
            typed = " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in default)
            return f"{action.help} (default: {typed})" if typed else action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Takes flags in any letter case, and says what is wrong in one line."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        spellings = {flag.lower(): flag for action in self._actions for flag in action.option_strings}
        words = []
        for word in sys.argv[1:] if args is None else args:
            flag, equals, value = word.partition("=")
            words.append(spellings.get(flag.lower(), flag) + equals + value)
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


def make_parser(description: str | None, prog: str | None = None) -> Parser:
    return Parser(prog=prog, description=description, formatter_class=HelpFormatter, allow_abbrev=False)


def one_of(names: Iterable[str], aliases: dict[str, str] | None = None) -> Callable[[str], str]:
    """Takes a name or an alias in any letter case; an unknown one lists the known."""
    known = {name.lower(): name for name in names}
    spellings = known | {alias.lower(): name for alias, name in (aliases or {}).items()}

    def parse(text: str) -> str:
        if text.lower() not in spellings:
            raise argparse.ArgumentTypeError(f"unknown name {text!r}: known are {', '.join(known.values())}")
        return spellings[text.lower()]

    return parse


def whole_number(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.lstrip("+").isdecimal() or int(text[:99]) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        if int(text[:99]) > most:
            raise argparse.ArgumentTypeError(f"expected a whole number of at most {most}, got {text!r}")
        return int(text)

    return parse


def number(fits: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not fits(value):
            raise argparse.ArgumentTypeError(f"expected a number {expected}, got {text!r}")
        return value

    return parse


positive = number(lambda value: value > 0, "above 0")
non_negative = number(lambda value: value >= 0, "of at least 0")
share = number(lambda value: 0 < value < 1, "between 0 and 1")
grey_level = number(lambda value: 0 <= value <= 255, "of grey levels from 0 to 255")  # --eps, --epsilons


def listed(what: str, names: Iterable[str]) -> str:
    return f"{what}: {', '.join(names)}"
