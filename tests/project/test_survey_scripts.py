"""Every training of scripts/survey, as written there, at tiny scale on phantoms; and what is tested of them all."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from advmia.__main__ import output_path
from advmia.data.phantoms import make_phantoms
from tests.support.running import ROOT

CLASSES = {"mesidorBin": 2, "mesidorMulti": 4, "melBin": 2, "melMulti": 3, "xrayBin": 2}
BETAS = {  # REFERENCE section 4
    "pgdat": dict.fromkeys(CLASSES, 0),
    "trades": dict.fromkeys(CLASSES, 6) | {"mesidorBin": 12},
    "mart": dict.fromkeys(CLASSES, 6),
    "hat": dict.fromkeys(CLASSES, 6) | {"mesidorBin": 12, "mesidorMulti": 3},
}
# Of two of the four eps, or one of them where scripts share every line but the method: test_evaluate plans them all.
ATTACKS = {"1": "ADV1-255_10_05-255", "8": "ADV8-255_10_2-255"}
TAIL = "maxLR0.01_weightDecay0.001"
NATURAL = {f"MobileNetV2_{dataset}_nat_class{count}_{TAIL}" for dataset, count in CLASSES.items()}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    make_phantoms(root, count=24, size=32)
    return root


def run_script(
    name: str, warm_interpreter: Path, phantoms: Path, out: Path, limit: int = 4, **environment: str
) -> set[str]:
    """Runs a script with the flags that make it tiny; returns the names of the checkpoints it left."""
    size = "32" if name == "segmentation.sh" else "16"  # the least that a U-Net takes
    tiny = ["--epoch", "1", "--bs", "4", "--limit", str(limit), "--imgSize", size, "--gpu", "cpu", "--workers", "1"]
    settings = {"PYTHON": str(warm_interpreter), "MODELS": "mv2", "CLS_DIR": str(out), "SEG_DIR": str(out)}
    done = subprocess.run(
        [ROOT / "scripts" / "survey" / name, *tiny, "--dataRoot", phantoms],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | settings | environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {path.name for path in out.iterdir() if path.suffix not in (".json", ".png")}


@pytest.mark.parametrize(("method", "epsilons"), [("pgdat", "1 8"), ("trades", "8"), ("mart", "1")])
def test_adversarial(method: str, epsilons: str, warm_interpreter: Path, phantoms: Path, tmp_path: Path) -> None:
    """All five data sets; the names hold the survey's beta and step size."""
    expected = {
        f"MobileNetV2_{dataset}_{method}_beta{beta}_class{CLASSES[dataset]}_{ATTACKS[eps]}_{TAIL}"
        for dataset, beta in BETAS[method].items()
        for eps in epsilons.split()
    }
    assert run_script(f"{method}.sh", warm_interpreter, phantoms, tmp_path, EPSILONS=epsilons) == expected


def test_hat_after_natural(warm_interpreter: Path, phantoms: Path, tmp_path: Path) -> None:
    """hat.sh finds the helpers that natural.sh left."""
    assert run_script("natural.sh", warm_interpreter, phantoms, tmp_path) == NATURAL
    expected = {
        f"MobileNetV2_{dataset}_hat_beta{beta}_class{CLASSES[dataset]}_{ATTACKS['8']}_{TAIL}"
        for dataset, beta in BETAS["hat"].items()
    }
    assert run_script("hat.sh", warm_interpreter, phantoms, tmp_path, EPSILONS="8") == expected | NATURAL


def test_multilabel(warm_interpreter: Path, phantoms: Path, tmp_path: Path) -> None:
    """Naturally and at two eps."""
    expected = {f"MobileNetV2_xray_multilabel_pgdat_beta0_class14_{attack}_{TAIL}" for attack in ATTACKS.values()}
    natural = f"MobileNetV2_xray_multilabel_nat_class14_{TAIL}"
    # Four rows would show no finding with both classes.
    names = run_script("multilabel.sh", warm_interpreter, phantoms, tmp_path, limit=24, EPSILONS="1 8")
    assert names == expected | {natural}


def test_segmentation(warm_interpreter: Path, phantoms: Path, tmp_path: Path) -> None:
    """One of the two networks, which are large, on both data sets, naturally and at one eps."""
    expected = {
        f"UNet_{dataset}_{attack}"
        for dataset in ("mel", "xray")
        for attack in (
            "NAT_CrossEntropyLoss_Adam",
            "PGDAT_CrossEntropyLoss_Adam_eps8-255_step10_stepSize2-255",
        )
    }
    names = run_script("segmentation.sh", warm_interpreter, phantoms, tmp_path, SEGMENTERS="unet", EPSILONS="8")
    assert names == expected


# Stands in for Python: a program on standard input is run, a command with its arguments is only written down.
SCRIBE = """#!/bin/bash
if [ "$1" = - ]; then exec '{python}' "$@"; fi
printf '%q ' "$@" >> '{log}'
echo >> '{log}'
"""


def test_evaluate(phantoms: Path, tmp_path: Path) -> None:
    """The whole survey, of which no command is run: checkpoints are empty files under the names that they would have.

    Fails when evaluate.sh leaves one out, tests what is none, gives a flag that the command refuses, or does not attack
    each natural network by way of each other one of its data set.
    """
    python, log = tmp_path / "two words", tmp_path / "log"
    python.write_text(SCRIBE.format(python=sys.executable, log=log))
    python.chmod(0o755)
    for folder in ("cls", "seg", "results"):
        (tmp_path / folder).mkdir()
    places = {"CLS_DIR": "cls", "SEG_DIR": "seg", "RESULT_DIR": "results", "TABLE_DIR": "tables"}
    settings = {"PYTHON": str(python)} | {key: str(tmp_path / name) for key, name in places.items()}

    def commands(script: str) -> list[list[str]]:
        log.write_text("")
        done = subprocess.run(
            [ROOT / "scripts" / "survey" / script, "--gpu", "0", "--dataRoot", phantoms],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return [shlex.split(line) for line in log.read_text().splitlines()]

    trained = []
    for name in ("natural", "pgdat", "trades", "mart", "hat", "multilabel", "segmentation"):
        for path in map(output_path, commands(f"{name}.sh")):
            trained.append(path)
            for end in ("", ".json", ".png", ".state", ".earlier-1"):
                path.with_name(path.name + end).touch()
    assert len(trained) == len(set(trained)) == 5 * 3 * (1 + 4 * 4) + 3 * (1 + 4) + 2 * 2 * (1 + 4)

    *tests, tables = commands("evaluate.sh")
    assert tables == ["-m", "advmia", "tables", settings["RESULT_DIR"], "--out", settings["TABLE_DIR"]]
    made = Counter(output_path(words).stem for words in tests)
    assert set(made.values()) == {1}
    white_box = [words for words in tests if "--surrogateModel" not in words]
    assert sorted(words[words.index("--targetWeight") + 1] for words in white_box) == sorted(map(str, trained))
    assert all(("aa" in words) == (words[0] == "testCls.py") for words in white_box)
    # Three natural networks of six data sets, two of two: each under those of the others.
    transferred = [name for name in made if "__from__" in name]
    assert len(transferred) == len(tests) - len(white_box) == 6 * 3 * 2 + 2 * 2
    for name in transferred:
        dataset, target, source = name.replace("__from__", "__").split("__")
        of = "_nat_" if "class" in name else "_NAT_"
        assert of in target and of in source and target != source
        assert f"_{dataset}_" in target and f"_{dataset}_" in source
