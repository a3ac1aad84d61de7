"""The recipes of CONTRIBUTING.md: their code is added to a copy of the package, which then trains and tests."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advmia.tasks import METHOD_NAMES
from tests.architecture import LAYERS
from tests.support.running import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = ("an attack", "a network", "a training method", "a data set")


@dataclass(frozen=True)
class Block:
    """A block of code, and the file and the location in it that its first line names."""

    path: str
    location: str  # "" for a new file, or "in NAME", "in FIELD of NAME" (a literal), "before CLASS" or "replaces NAME"
    code: str


def blocks() -> list[Block]:
    """Returns the Python blocks of CONTRIBUTING.md in their order."""
    code_blocks = []
    for text in re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S):
        head, code = text.split("\n", 1)
        match = re.fullmatch(r"# (new file )?(\S+?\.py)(?:, (.+))?", head)
        assert match and bool(match[1]) != bool(match[3]), f"a block does not name its file or location: {head}"
        code_blocks.append(Block(match[2], match[3] or "", code))
    return code_blocks


def insert(source: str, block: Block) -> str:
    """Returns the source with the block's imports after the first import, and its other lines at `block.location`."""
    lines = block.code.splitlines(keepends=True)
    imports = "".join(line for line in lines if line.startswith(("from ", "import ")))
    body = "".join(line for line in lines if not line.startswith(("from ", "import "))).strip("\n") + "\n"
    preposition, *words = block.location.split()
    name, indent = words[-1], "    " if "of" in words else ""
    # From the line that opens NAME, or FIELD within it, up to the line that closes it.
    opening = rf"^{name}\b.*[({{\[]\n" + (rf"(?:.*\n)*?    {words[0]}=[({{\[]\n" if indent else "")
    patterns = {
        "before": rf"^(?=(?:@\w+.*\n)?class {name}\b)",
        "in": rf"{opening}(?:.*\n)*?(?=^{indent}[)}}\]])",
        "replaces": rf"^{name} = .*\n",
    }
    match = re.search(patterns[preposition], source, re.M)
    assert match, f"{block.path} has no location {block.location!r}"
    start = match.start() if preposition == "replaces" else match.end()
    source = source[:start] + body + ("\n\n" if preposition == "before" else "") + source[match.end() :]
    return source.replace("annotations\n", f"annotations\n\n{imports}", 1)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and of the scripts with all recipes followed."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "advmia", folder / "advmia", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*ROOT.glob("train*.py"), *ROOT.glob("test*.py"), ROOT / "pyproject.toml"):
        shutil.copy(path, folder)
    for block in blocks():
        path = folder / block.path
        assert path.exists() == bool(block.location), block.path
        path.write_text(
            insert(path.read_text(encoding="utf-8"), block) if block.location else block.code, encoding="utf-8"
        )
    return folder


def test_every_recipe_has_code() -> None:
    """Fails if CONTRIBUTING.md lacks a recipe, or a recipe has no code for the other tests to run."""
    sections = dict(re.findall(r"^### Add (.+)\n((?:(?!^##).*\n)*)", TEXT, re.M))
    assert tuple(sections) == RECIPES
    assert all(re.search(r"^```(python|toml)\n", section, re.M) for section in sections.values())


def test_recipes_pass_the_linter(extended: Path) -> None:
    """Fails if the code of a recipe does not fit its place, or breaks a rule of the linter."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--extend-ignore", "I001", "."]
    process = subprocess.run(command, cwd=extended, capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 0, process.stdout


def test_the_new_method_comes_last() -> None:
    """Fails unless METHOD_NAMES in CONTRIBUTING.md is that of the package with the new method at the end."""
    (block,) = [block for block in blocks() if block.location == "replaces METHOD_NAMES"]
    assert tuple(re.findall(r'"(\w+)"', block.code)) == (*METHOD_NAMES, "fgsmat")


def test_every_wing_is_explained() -> None:
    """Fails if a wing or top module is missing from the table of CONTRIBUTING.md, or the table has another order."""
    table = TEXT[TEXT.index("| wing or module |") : TEXT.index("A module imports only")]
    names = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines()[2:] if line]
    layers = [[wing for wing in wings if wing not in ("version", "scripts")] for wings in LAYERS]
    assert names == [layer for layer in layers if layer]


def make_ultrasound(root: Path) -> None:
    """Writes the files of the data set's recipe: 8 images for training and 4 for testing, of two classes."""
    (root / "ultrasound" / "img").mkdir(parents=True)
    ((name, declaration),) = re.findall(r"^```toml\n# data/(\S+)\n(.*?)^```$", TEXT, re.M | re.S)
    (root / name).write_text(declaration)
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        with (root / "ultrasound" / f"{split}.csv").open("w", newline="") as stream:
            for number in range(count):
                name = f"{split}{number}.png"
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / "ultrasound/img" / name)
                csv.writer(stream).writerow([name, number % 2])


PROGRAM = """
import sys
import testCls, trainCls
for words in ({train!r}, {test!r}):
    sys.argv = words
    assert (trainCls if words[0] == "trainCls.py" else testCls).main() == 0
"""


@pytest.mark.slow
def test_recipes_train_and_test(extended: Path, tmp_path: Path) -> None:
    """Fails if the new method cannot train the new network on the new data set, or the new attack cannot attack it."""
    make_ultrasound(tmp_path / "data")
    common = ["--dataset", "ultrasound", "--imgSize", "16", "--bs", "4", "--gpu", "cpu", "--workers", "1"]
    weights = "clsCkpt/SmallCNN_ultrasound_fgsmat_beta0_class2_ADV8-255_10_2-255_maxLR0.01_weightDecay0.001"
    train = ["trainCls.py", *common, "--method", "fgsmat", "--model", "smallcnn", "--eps", "8", "--epoch", "1"]
    test = ["testCls.py", *common, "--targetModel", "smallcnn", "--targetWeight", weights, "--epsilons", "8"]
    test += ["--attacks", "bim", "fgsm"]
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(train=train, test=test)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(extended), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert (tmp_path / weights).exists()
    (path,) = (tmp_path / "results").glob("*.json")
    assert [row["attack"] for row in json.loads(path.read_text())["rows"]] == ["none", "bim", "fgsm", "worst"]
