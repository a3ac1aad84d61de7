"""The argument parser that all commands share, and the types of their arguments."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from advmia.budgets import GREY_LEVELS
from advmia.cli.formatter import HelpFormatter
from advmia.data.specs import parse_normalization
from advmia.errors import UserError
from advmia.models import declare_imported
from advmia.models.spec import Kind


class Parser(argparse.ArgumentParser):
    """Accepts flags in any letter case; reports an error in one line and exits with status 2.

    A paragraph of the description that begins with "examples" is shown at the end of the help, after the flags.
    """

    def __init__(self, description: str | None = None, **settings: Any) -> None:
        text, start, examples = (description or "").partition("\n\nexamples")
        super().__init__(
            description=text, epilog=start.strip() + examples, formatter_class=HelpFormatter, add_help=False, **settings
        )
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)  # who reads the help knows it
        self.unknown_as = ""  # name of the argument that takes the words of unknown flags; "": they are errors
        self.quoted: tuple[str, ...] = ()  # flags whose value may begin with dashes

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        spellings = {flag.lower(): flag for flag in self.flags()}
        words = []
        for word in sys.argv[1:] if args is None else args:
            if words and words[-1] in self.quoted:
                words[-1] += f"={word}"
                continue
            flag, equals, value = word.partition("=")
            words.append(spellings.get(flag.lower(), flag) + equals + value)
        parsed, unknown = super().parse_known_args(words, namespace)
        if self.unknown_as:
            setattr(parsed, self.unknown_as, unknown)
            unknown = []
        return parsed, unknown

    def flags(self) -> list[str]:
        """Returns all flags in their own spelling."""
        return [flag for action in self._actions for flag in action.option_strings]

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


def make_parser(description: str | None, prog: str | None = None) -> Parser:
    """Returns a parser without flags. `prog` is its name in messages; by default, the script's file name."""
    return Parser(description, prog=prog, allow_abbrev=False)


def one_of(names: Iterable[str], aliases: dict[str, str] | None = None) -> Callable[[str], str]:
    """Returns an argument type that accepts one of the names in any letter case, and returns it as `names` spells it.

    `aliases`: {further accepted spelling: name}.
    """
    names_by_spelling = {name.lower(): name for name in names}
    choices = ", ".join(names_by_spelling.values())
    names_by_spelling |= {alias.lower(): name for alias, name in (aliases or {}).items()}

    def parse(text: str) -> str:
        if text.lower() not in names_by_spelling:
            raise argparse.ArgumentTypeError(f"unknown name {text!r}: choose from {choices}")
        return names_by_spelling[text.lower()]

    return parse


def several_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Returns an argument type for `NameList`: names as `one_of` takes them, with commas between them; `all` is all."""
    known = list(names)
    parse_one = one_of([*known, "all"])

    def parse(text: str) -> list[str]:
        chosen = [parse_one(word) for word in text.split(",") if word] or [parse_one(text)]
        return [name for choice in chosen for name in (known if choice == "all" else [choice])]

    return parse


class NameList(argparse.Action):
    """Stores the names of a flag that takes several, each once; `several_of` is the type of its words."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        setattr(namespace, self.dest, list(dict.fromkeys(name for names in values for name in names)))


def dataset_name(names: Iterable[str], aliases: dict[str, str]) -> Callable[[str], str]:
    """Returns an argument type that accepts one of the names, or the name of a folder, of a user's data set.

    `aliases`: {further spelling of a name: name}. Whether the folder declares a data set is not checked.
    """
    known = one_of(names, aliases)

    def parse(text: str) -> str:
        try:
            return known(text)
        except argparse.ArgumentTypeError:
            if Path(text).name != text:
                raise
            return text

    return parse


def model_name(names: Iterable[str], kind: Kind) -> Callable[[str], str]:
    """Returns an argument type that accepts one of the names, or a user's network such as `FILE.py:NAME`."""
    known = one_of(names)

    def parse(text: str) -> str:
        if ":" not in text:
            return known(text)
        try:
            return declare_imported(text, kind)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


def normalization(text: str) -> str:
    """Returns the normalisation that a network was trained with: `imagenet`, `none`, or `MEAN/STD` as given.

    MEAN and STD are one number, or three with commas between them, for pixels in [0, 1].
    """
    if text.lower() not in ("imagenet", "none"):
        try:
            parse_normalization(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"expected imagenet, none or MEAN/STD such as 0.5/0.25 or 0.5,0.4,0.3/0.2,0.2,0.2, got {text!r}"
            ) from None
    return text.lower()


def initial_weights(text: str) -> str | Path:
    """Returns an argument of `--init`: a name in lower case, or the path of a file with weights."""
    return text.lower() if text.lower() in ("imagenet", "random") else Path(text)


def whole_number(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """Returns an argument type that accepts whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        # The first 99 digits are enough to compare; Python refuses to convert thousands of them.
        if not text.lstrip("+").isdecimal() or int(text[:99]) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        if int(text[:99]) > most:
            raise argparse.ArgumentTypeError(f"expected a whole number of at most {most}, got {text!r}")
        return int(text)

    return parse


def number(is_allowed: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    """Returns an argument type that accepts finite numbers for which `is_allowed` is true.

    `expected` completes the error line "expected a number ...".
    """

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not is_allowed(value):
            raise argparse.ArgumentTypeError(f"expected a number {expected}, got {text!r}")
        return value

    return parse


positive = number(lambda value: value > 0, "above 0")
non_negative = number(lambda value: value >= 0, "of at least 0")
fraction = number(lambda value: 0 < value < 1, "between 0 and 1")
_grey_number = number(lambda value: 0 <= value <= GREY_LEVELS, f"of grey levels from 0 to {GREY_LEVELS}")
LEAST_GREY_LEVEL = 0.5  # an eps below it is more likely meant in pixels of [0, 1], as the literature also states eps


def grey_level(text: str) -> float:
    """Returns an eps in grey levels, from a number of grey levels or a fraction: `8` and `8/255` are 8, `0.1/255` 0.1.

    It is rounded to the digits that file names and tables show, so that no two eps look alike there. A number above 0
    and below 0.5 that is no fraction is refused: it may be an eps of [0, 1].
    """
    numerator, slash, denominator = text.partition("/")
    try:
        value = _grey_number(numerator)
    except argparse.ArgumentTypeError:
        value = math.nan
    if math.isnan(value) or (slash and denominator.strip() != str(GREY_LEVELS)):
        raise argparse.ArgumentTypeError(
            f"expected a number of grey levels from 0 to {GREY_LEVELS}, got {text!r}: write 8 or 8/{GREY_LEVELS}"
        )
    if not slash and 0 < value < LEAST_GREY_LEVEL:
        raise argparse.ArgumentTypeError(
            f"{text} grey levels? If you mean {text} of 1, write {_levels_of_share(value)}/{GREY_LEVELS}; if you mean"
            f" grey levels, write {text}/{GREY_LEVELS}"
        )
    rounded = round(float(f"{value:g}"), 6)
    if value > 0 and rounded == 0:
        raise argparse.ArgumentTypeError(f"expected at least a millionth of a grey level, or 0, got {text!r}")
    return rounded


def _levels_of_share(share: float) -> str:
    """Returns an eps of [0, 1] in grey levels: the whole number that it is a rounding of, or three digits."""
    levels = share * GREY_LEVELS
    whole = round(levels)
    return str(whole) if abs(levels - whole) < 0.015 * levels else f"{levels:.3g}"


class DeviceNames(argparse.Action):
    """Stores the device names of `--gpu` as a list, in small letters; several may be divided by commas or spaces."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        names = [name for word in values for name in word.lower().replace(",", " ").split()]
        if not names:
            parser.error(f"argument --gpu: expected CUDA device ids such as 0 or 0 1, or cpu, got {' '.join(values)!r}")
        setattr(namespace, self.dest, names)


def with_choices(meaning: str, choices: Iterable[str]) -> str:
    """Returns a help text that ends with the names to choose from: `network: res18, mv2`."""
    return f"{meaning}: {', '.join(choices)}"
