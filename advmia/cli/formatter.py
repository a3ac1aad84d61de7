"""How --help looks: short usage lines, at most 100 columns, lists of names, defaults as a user would type them."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterable
from typing import Any

MOST_COLUMNS = 100
HELP_COLUMN = 26  # where the texts of the flags begin


class HelpFormatter(argparse.HelpFormatter):
    """Formats --help.

    Of the description and the examples, indented lines stay as they are and the others are wrapped. In the text of a
    flag, the first line ends with the default; further lines form a list, see `listed`.
    """

    def __init__(self, prog: str, **settings: Any) -> None:
        columns = min(shutil.get_terminal_size().columns, MOST_COLUMNS)
        super().__init__(prog, **{"max_help_position": HELP_COLUMN, "width": columns - 2} | settings)

    def add_usage(self, usage: str | None, actions: Iterable[argparse.Action], *_: Any, **__: Any) -> None:
        """Adds a usage line with the required arguments only: all of them are listed below it."""
        command = f"python {self._prog}" if self._prog.endswith(".py") else self._prog
        parts = [command.replace(" ", "\0")]
        for action in actions:
            if action.option_strings and action.required:
                parts.append(f"{action.option_strings[0]}\0{action.metavar}")
            elif not action.option_strings:
                parts.append(self._format_args(action, action.dest).replace(" ", "\0"))
        if any(
            action.option_strings and not action.required and action.help != argparse.SUPPRESS for action in actions
        ):
            parts.append("[options]")
        lines = textwrap.wrap(" ".join(parts), self._width - len("usage: "), break_on_hyphens=False)
        self._add_item(lambda: "usage: " + "\n       ".join(lines).replace("\0", " ") + "\n\n", [])

    def _format_action(self, action: argparse.Action) -> str:
        if action.nargs == argparse.PARSER:  # the names of the tools are listed one by one
            return "".join(self._format_action(tool) for tool in self._iter_indented_subactions(action))
        return super()._format_action(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = []
        for is_kept, lines in _blocks(text):
            block = "\n".join(lines)
            filled.append(block if is_kept else textwrap.fill(block, width, break_on_hyphens=False))
        return textwrap.indent("\n".join(filled), indent)

    def _split_lines(self, text: str, width: int) -> list[str]:
        lines = []
        for line in text.replace("default: ", "default:\0").splitlines():
            name = re.match(r" *\S+  +", line)  # an entry of `listed`: its meaning stays to the right of its name
            indent = " " * len(name[0]) if name else ""
            lines += textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)
        return [line.replace("\0", " ") for line in lines]

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, action.dest.upper())}"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if action.help is None or default is None or isinstance(default, bool) or default in ([], argparse.SUPPRESS):
            return action.help
        values = default if isinstance(default, list) else [default]
        typed = " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
        return with_remark(action.help, f"default: {typed}".replace("%", "%%"))


def with_remark(text: str, remark: str) -> str:
    """Returns a flag's text with a remark in parentheses at the end of its first line, after `published` if it is."""
    first, newline, rest = text.partition("\n")
    first = f"{first[:-1]}; {remark})" if first.endswith("(published)") else f"{first} ({remark})"
    return first + newline + rest


def published(text: str, remark: str = "") -> str:
    """Returns the text of a flag of the published code, which is marked as such. `remark`: e.g. what its default is."""
    marked = with_remark(text, "published")
    return with_remark(marked, remark) if remark else marked


def listed(text: str, meanings: dict[str, str]) -> str:
    """Returns a flag's text with a line for each name that it takes and what the name means."""
    width = max(map(len, meanings), default=0)
    return "\n".join([text, *(f"  {name:<{width}}  {meaning}".rstrip() for name, meaning in meanings.items())])


def _blocks(text: str) -> list[tuple[bool, list[str]]]:
    """Divides a text into runs of lines that stay as they are (indented or empty) and of lines to be wrapped."""
    blocks: list[tuple[bool, list[str]]] = []
    for line in text.splitlines():
        is_kept = not line.strip() or line.startswith(" ")
        if not blocks or blocks[-1][0] != is_kept:
            blocks.append((is_kept, []))
        blocks[-1][1].append(line)
    return blocks
