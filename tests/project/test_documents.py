"""README.md, the pages of docs/ and CONTRIBUTING.md: their links, pictures, paths and Python code."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from advmia.models import build_model
from benchmarks import demo
from tests.support.documents import DOCUMENTS, anchors, code_blocks, links, named_paths, prose, text_of
from tests.support.networks import SmallNet, pixels
from tests.support.running import ROOT

MADE_BY_COMMANDS = "benchmarks/results/gpu.json"  # a path that documents name, and that a command makes


def test_every_page_is_listed() -> None:
    """Fails if a page of docs/ is not in `DOCUMENTS`, so that no test reads it, or if README does not link to it."""
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages == set(DOCUMENTS) - {"README.md"}
    linked = {path for path, _ in links("README.md")}
    assert {ROOT / page for page in pages} <= linked
    assert {ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff")} <= linked


@pytest.mark.parametrize("document", [*DOCUMENTS, "CONTRIBUTING.md"])
def test_links_and_paths(document: str) -> None:
    """Fails if a relative link, its anchor, or a named path of the repository does not exist."""
    for path, anchor in links(document):
        assert path.exists(), path
        assert not anchor or anchor in anchors(path), (path, anchor)
    for name in named_paths(document) - {MADE_BY_COMMANDS} if document in DOCUMENTS else ():  # recipes name new files
        assert (ROOT / name).exists(), name


def test_pictures() -> None:
    """Fails if a picture of a document cannot be read, is too large for a repository, or has no text for the blind."""
    pictures = [(name, *found) for name in DOCUMENTS for found in re.findall(r"!\[(.*?)\]\((.+?)\)", text_of(name))]
    assert pictures
    for document, description, target in pictures:
        path = (ROOT / document).parent / target
        assert len(description) > 40 and path.stat().st_size < 500_000
        with Image.open(path) as picture:
            picture.load()


def test_a_page_begins_with_what_its_reader_wants() -> None:
    """Fails if the first sentence below the title of a page does not say what the page is good for: "To ...:"."""
    for document in DOCUMENTS[1:]:
        first = text_of(document).split("\n\n")[1]
        assert re.match(r"(- )?To \w+", first), (document, first)


def test_readme_is_short_and_says_all() -> None:
    """Fails if README grows to more than 130 lines, or if training, attacking, tabulating and looking are not in it."""
    assert len(text_of("README.md").splitlines()) <= 130
    commands = "".join(code_blocks("README.md"))
    for word in ("prepare", "--method nat", "--method pgdat", "testCls.py", "tables results", "gradVisual.py"):
        assert word in commands, word
    scripts = {path.name for path in ROOT.glob("*.py")}
    assert scripts <= set(re.findall(r"`(\w+\.py)`", prose("README.md")))


@pytest.mark.parametrize("document", ["README.md", pytest.param("docs/python.md", marks=pytest.mark.slow)])
def test_python_code(
    document: str,
    tmp_path: Path,
    small_networks: None,
    few_steps: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fails if the code of a document does not run, or attacks nothing."""
    monkeypatch.chdir(tmp_path)
    Path("clsCkpt").mkdir()
    weights = build_model("mv2", 2).state_dict()
    torch.save(weights, "clsCkpt/MobileNetV2_melBin_nat_class2_maxLR0.01_weightDecay0.001")
    x, y = pixels(8, classes=2)
    network: nn.Module = SmallNet(2).eval()
    names: dict = {"model": network, "network": network, "x": x, "y": y, "loader": [(x[:4], y[:4]), (x[4:], y[4:])]}
    blocks = code_blocks(document, "python")
    assert blocks
    for block in blocks:
        exec(compile(block, document, "exec"), names)
        assert document != "README.md" or len(block.splitlines()) == 8
        if "\nx_adv = " in block:
            assert 0 < (names["x_adv"] - names["x"]).abs().max() <= 8 / 255 + 1e-6
    assert "x_adv" in names
    assert re.search(r"\d\.\d", capsys.readouterr().out)


def test_figures_of_the_demo() -> None:
    """Fails if README or docs/speed.md state other figures of the demo than its benchmark wrote."""
    record = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text(encoding="utf-8"))
    runs = record["runs"]
    assert demo.table(runs) in text_of("docs/speed.md")
    assert f"{record['kept']} of {len(runs)} runs" in text_of("docs/speed.md")
    (shown,) = [run for run in runs if (run["threads"], run["seed"]) == (2, 0)]
    for method, name in (("nat", "nat"), ("pgdat", "pgdat 8")):
        row = f"| {name} | {shown[f'{method} clean']:.1f} | {shown[f'{method} attacked']:.1f} |"
        assert row in text_of("README.md"), row
    minutes = max(run["seconds"] for run in runs if run["threads"] == 2) / 60
    assert f"at most {math.ceil(2 * minutes) / 2:g} minutes" in " ".join(text_of("README.md").split())
