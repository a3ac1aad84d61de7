"""The flags of `python -m advmia`: what it calls itself, and wrong values."""

from __future__ import annotations

from pathlib import Path

import pytest

from advmia.__main__ import main
from tests.support.running import check_one_line, run_main


def test_messages_name_the_command_that_was_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if help, example or error line name `python -m advmia` to a user of `advmia`, or the reverse."""
    for program, prog in (("/venv/bin/advmia", "advmia"), ("/site/advmia/__main__.py", "python -m advmia")):
        monkeypatch.setattr("sys.argv", [program, "tables", "--help"])
        assert main() == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: {prog} tables") and f"    {prog} tables results --out tables\n" in shown
        monkeypatch.setattr("sys.argv", [program, "tables", "nowhere"])
        assert main() == 2
        assert capsys.readouterr().err.startswith(f"{prog}: error: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["prepare", "--dataset", "messidor", "--source", "x"],
            "unknown name 'messidor': choose from mesidor, isic2017",
        ),
        (["prepare", "--dataset", "isic2017", "--source", "nowhere"], "nowhere"),
        (["phantoms", "--dataset", "retina"], "unknown name 'retina': choose from mesidor, mel2017, xray, covidSeg"),
        (["phantoms", "--count", "3"], "count"),
        (["tables", "nowhere"], "is not a result file"),
        (["tabulate"], "invalid choice: 'tabulate'"),
    ],
)
def test_wrong_tool_flags(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails if a wrong flag of a tool does not end in one line and status 2, or leaves a file."""
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, ["advmia", *words]) == 2
    check_one_line(capsys.readouterr().err, message)
    assert not list(tmp_path.iterdir())
