"""README.md and the pages of docs/: their commands, code, links, pictures and paths."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.support.running import ROOT

# In the order in which a user needs them: commands of a page may need files that commands of earlier pages write.
DOCUMENTS = (
    "README.md",
    *(
        f"docs/{name}.md"
        for name in (
            *("data", "training", "testing", "results", "report", "sweeps"),
            *("speed", "scaling", "differences", "errors", "python"),
        )
    ),
)


def text_of(document: str) -> str:
    """Returns the text of a document, named by its path below the repository's folder."""
    return (ROOT / document).read_text(encoding="utf-8")


def code_blocks(document: str, language: str = "") -> list[str]:
    """Returns the fenced blocks of a document that begin with ``` and this language; without one, it is commands."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text_of(document), re.M | re.S)
    return [block for name, block in blocks if name == language]


def documented_commands() -> list[list[str]]:
    """Returns the words of each command in the documents' blocks, in the order of `DOCUMENTS`, each command once."""
    lines = [line for name in DOCUMENTS for block in code_blocks(name) for line in block.splitlines() if line]
    return [shlex.split(line) for line in dict.fromkeys(lines)]


def prose(document: str) -> str:
    """Returns the text of a document without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text_of(document), flags=re.M | re.S)


def links(document: str) -> list[tuple[Path, str]]:
    """Returns the relative links of a document, pictures included: the file that each names, and the anchor or ""."""
    folder, found = (ROOT / document).parent, []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if not re.match(r"[a-z]+:", target):
            name, _, anchor = target.partition("#")
            found.append(((folder / name).resolve() if name else ROOT / document, anchor))
    return found


def anchors(path: Path) -> set[str]:
    """Returns the anchors of a Markdown file's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def named_paths(document: str) -> set[str]:
    """Returns the paths of this repository that a document names in its text or runs in its blocks.

    These are words that begin with a folder of the repository, or that name a file in its root.
    """
    words = re.findall(r"`([^`\n]+)`", prose(document))
    words += [word for block in code_blocks(document) for line in block.splitlines() for word in line.split()]
    folders = ("advmia", "benchmarks", "docs", "scripts", "tests")
    paths = {
        word.rstrip(".,:;")
        for text in words
        for word in text.split()
        if word.startswith(tuple(f"{name}/" for name in folders))
    }
    return paths | {
        word
        for text in words
        for word in re.findall(r"^(?:[\w-]+\.(?:py|md|toml|cff)|requirements[\w-]*\.txt)\b(?!:)", text)
    }
