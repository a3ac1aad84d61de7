"""--help of the seven scripts and the four tools: what it shows, in which order, how wide, and its examples."""

from __future__ import annotations

import re
import shlex
from functools import partial

import pytest

from advmia.cli.parser import Parser
from advmia.cli.tools import tools_parser
from advmia.entry_points import SCRIPTS
from advmia.tasks import MULTI_LABEL, SEGMENTATION, SINGLE_LABEL
from tests.support.running import run_main

TRAIN = ["--method", "--model", "--eps", "--epoch", "--lr", "--wd", "--bs", "--gpu"]
TEST = ["--targetModel", "--targetWeight", "--surrogateModel", "--surrogateWeight", "--bs", "--gpu"]
PUBLISHED = {  # the flags that the published README documents, in our order
    "trainCls.py": ["--dataset", *TRAIN[:2], "--helperModel", "--helperWeight", *TRAIN[2:]],
    "trainChex.py": TRAIN,
    "trainSeg.py": ["--dataset", *TRAIN],
    "testCls.py": ["--dataset", *TEST],
    "testChex.py": TEST,
    "testSeg.py": ["--dataset", *TEST],
    "gradVisual.py": ["--dataset", "--model", "--weight", "--bs", "--saveDir", "--gpu"],
}
TOOLS = ("demo", "prepare", "phantoms", "tables", "where")
COMMANDS = [*PUBLISHED, "python -m advmia", *(f"python -m advmia {tool}" for tool in TOOLS)]
PARSERS = {name: partial(script.make_parser, script.task, None) for name, script in SCRIPTS.items()}
PARSERS["advmia"] = partial(tools_parser, "python -m advmia")


def show(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int = 100) -> str:
    """Returns the help that a command prints on a terminal of so many columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    if command in PUBLISHED:
        assert run_main(monkeypatch, [command, "--help"]) == 0
    else:
        with pytest.raises(SystemExit) as stop:
            PARSERS["advmia"]().parse_args([*command.split()[3:], "--help"])
        assert stop.value.code == 0
    return capsys.readouterr().out


def examples(text: str) -> list[list[str]]:
    """Returns the words of each command below "examples" in a help; of a pipe, those of each of its commands."""
    _, _, end = text.partition("\nexamples")
    lines = re.findall(r"^    (\S.*)$", end.replace("\\\n", " "), re.M)
    return [shlex.split(part) for line in lines for part in line.removeprefix("echo ").split("|")]


def sections(text: str) -> dict[str, dict[str, str]]:
    """Returns the text of each flag of a help, by its section and its name."""
    found: dict[str, dict[str, str]] = {}
    for block in text.split("\n\n"):
        title, _, body = block.partition(":\n")
        if body.startswith("  --"):
            entries = re.split(r"^  (?=--)", body, flags=re.M)[1:]
            found[title] = {entry.split()[0].rstrip(","): " ".join(entry.split()) for entry in entries}
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if a help leaves its width, its usage line grows, a default looks like Python or an example is wrong."""
    for columns in (60, 80, 250, 100):
        text = show(command, monkeypatch, capsys, columns)
        assert max(map(len, text.splitlines())) <= min(max(columns, 80), 100)
    start = f"python {command}" if command in PUBLISHED else command
    assert text.startswith(f"usage: {start}") and text.index("\n\n") < 100
    assert not re.search(r"default: (None|True|False|\[|Posix)|%\(", text)
    commands = examples(text)
    assert sum(start in " ".join(example) for example in commands) >= (2 if command in PUBLISHED else 1)
    for example in commands:
        name, *arguments = example[2:] if example[:2] == ["python", "-m"] else example[example[0] == "python" :]
        parser: Parser = PARSERS[name]()
        assert parser.parse_args(arguments)  # exits if it refuses them


@pytest.mark.parametrize("script", PUBLISHED)
def test_published_flags(script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if a published flag is not marked or comes after one of ours in its group, or if one of ours is marked."""
    groups = sections(show(script, monkeypatch, capsys))
    verb = script[:4] if script[:4] == "test" else "draw" if script == "gradVisual.py" else "train"
    assert list(groups)[:2] == [f"what to {verb}", f"how to {verb}"]
    marked = []
    for flags in groups.values():
        is_marked = ["(published" in text for text in flags.values()]
        assert is_marked == sorted(is_marked, reverse=True), flags
        marked += [flag for flag, is_published in zip(flags, is_marked, strict=True) if is_published]
    assert marked == PUBLISHED[script]


def test_every_flag_and_name_is_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if a flag that a script takes, or a name that a flag takes, is missing from its help or has no meaning."""
    tasks = {"Cls": SINGLE_LABEL, "Chex": MULTI_LABEL, "Seg": SEGMENTATION}
    for script in PUBLISHED:
        text = show(script, monkeypatch, capsys)
        flags = {flag for action in PARSERS[script]()._actions for flag in action.option_strings} - {"-h", "--help"}
        assert all(re.search(rf"^  (--\w+, )?{flag}\b", text, re.M) for flag in flags)
        task = tasks.get(re.sub("train|test|.py", "", script), SINGLE_LABEL)
        names = [*task.models, *(task.methods if "train" in script else task.attacks)]
        names += task.datasets if len(task.datasets) > 1 else ()
        for name in names:
            assert re.search(rf"^ +{name}  +\w", text, re.M), (script, name)
