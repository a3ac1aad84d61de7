"""The scripts of scripts/survey: all their commands are compared with the survey, and some run on tiny phantoms."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from advmia.data.phantoms import make_phantoms
from advmia.entry_points import output_path
from tests.support.running import ROOT

CLASSES = {"mesidorBin": 2, "mesidorMulti": 4, "melBin": 2, "melMulti": 3, "xrayBin": 2}
MODELS = ("ResNet", "MobileNetV2", "DenseNet121")
SEGMENTERS = ("UNet", "SegNet")
BETAS = {  # the survey's beta, by method and data set
    "pgdat": dict.fromkeys(CLASSES, 0),
    "trades": dict.fromkeys(CLASSES, 6) | {"mesidorBin": 12},
    "mart": dict.fromkeys(CLASSES, 6),
    "hat": dict.fromkeys(CLASSES, 6) | {"mesidorBin": 12, "mesidorMulti": 3},
}
# By training eps in grey levels: eps, steps and step size in a checkpoint's name; the step size is max(0.5, eps / 4).
BUDGETS = {"1": "1-255_10_05-255", "2": "2-255_10_05-255", "4": "4-255_10_1-255", "8": "8-255_10_2-255"}
TAIL = "maxLR0.01_weightDecay0.001"
METHODS = ("natural", *BETAS, "multilabel", "segmentation")
MULTI = "xray_multilabel"


def natural_name(model: str, dataset: str) -> str:
    """Returns the name of a naturally trained checkpoint."""
    return f"{model}_{dataset}_nat_class{CLASSES[dataset]}_{TAIL}"


def robust_name(model: str, dataset: str, method: str, grey_eps: str) -> str:
    """Returns the name of an adversarially trained checkpoint."""
    beta = BETAS[method][dataset]
    return f"{model}_{dataset}_{method}_beta{beta}_class{CLASSES[dataset]}_ADV{BUDGETS[grey_eps]}_{TAIL}"


def multilabel_names(model: str, epsilons: tuple[str, ...] = tuple(BUDGETS)) -> set[str]:
    robust = {f"{model}_{MULTI}_pgdat_beta0_class14_ADV{BUDGETS[eps]}_{TAIL}" for eps in epsilons}
    return robust | {f"{model}_{MULTI}_nat_class14_{TAIL}"}


def segmentation_names(model: str, dataset: str, epsilons: tuple[str, ...] = tuple(BUDGETS)) -> set[str]:
    names = {f"{model}_{dataset}_NAT_CrossEntropyLoss_Adam"}
    for eps in epsilons:
        _, steps, step_size = BUDGETS[eps].split("_")
        names.add(f"{model}_{dataset}_PGDAT_CrossEntropyLoss_Adam_eps{eps}-255_step{steps}_stepSize{step_size}")
    return names


def survey_names() -> set[str]:
    """Returns the names of all checkpoints of the survey."""
    names = {natural_name(model, dataset) for model, dataset in product(MODELS, CLASSES)}
    names |= {robust_name(*run) for run in product(MODELS, CLASSES, BETAS, BUDGETS)}
    for model in MODELS:
        names |= multilabel_names(model)
    for model, dataset in product(SEGMENTERS, ("mel", "xray")):
        names |= segmentation_names(model, dataset)
    return names


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    make_phantoms(root, count=24, size=32)
    return root


@pytest.fixture
def run_script(warm_interpreter: Path, phantoms: Path, tmp_path: Path) -> Callable[..., set[str]]:
    """Returns a function that runs a script with flags that make it tiny, and returns the names of all checkpoints."""

    def run(name: str, size: int = 16, limit: int = 4, **environment: str) -> set[str]:
        tiny = ["--epoch", "1", "--bs", "4", "--limit", str(limit), "--imgSize", str(size), "--gpu", "cpu"]
        settings = {"PYTHON": str(warm_interpreter), "MODELS": "mv2", "CLS_DIR": str(tmp_path), "EPSILONS": "8"}
        process = subprocess.run(
            [ROOT / "scripts" / "survey" / name, *tiny, "--workers", "1", "--dataRoot", phantoms],
            env=os.environ | {"OMP_NUM_THREADS": "1", "SEG_DIR": str(tmp_path)} | settings | environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return {path.name for path in tmp_path.iterdir() if path.suffix not in (".json", ".png")}

    return run


@pytest.mark.slow
def test_hat_after_natural(run_script: Callable[..., set[str]]) -> None:
    """Fails if natural.sh or hat.sh does not train, or hat.sh does not find the helpers that natural.sh trained."""
    datasets = ("mesidorBin", "melMulti")
    natural = {natural_name("MobileNetV2", dataset) for dataset in datasets}
    assert run_script("natural.sh", DATASETS=" ".join(datasets)) == natural
    robust = {robust_name("MobileNetV2", dataset, "hat", "8") for dataset in datasets}
    assert run_script("hat.sh", DATASETS=" ".join(datasets)) == natural | robust


@pytest.mark.slow
def test_multilabel(run_script: Callable[..., set[str]]) -> None:
    """Fails if multilabel.sh does not train all its networks."""
    # With only four images, no finding has both positive and negative images.
    assert run_script("multilabel.sh", limit=24) == multilabel_names("MobileNetV2", ("8",))


@pytest.mark.slow
def test_segmentation(run_script: Callable[..., set[str]]) -> None:
    """Fails if segmentation.sh does not train all its networks. 32 pixels is the smallest size that a U-Net takes."""
    expected = segmentation_names("UNet", "mel", ("8",)) | segmentation_names("UNet", "xray", ("8",))
    assert run_script("segmentation.sh", size=32, SEGMENTERS="unet") == expected


# Replaces Python: it runs a program on standard input, but only logs a command with arguments.
RECORDER = """#!/bin/bash
if [ "$1" = - ]; then exec '{python}' "$@"; fi
printf '%q ' "$@" >> '{log}'
echo >> '{log}'
"""


@pytest.mark.slow
def test_all_commands_of_the_survey(phantoms: Path, tmp_path: Path) -> None:
    """Fails if a training of the survey is missing, has another beta or step size, or has a flag that does not exist.

    Fails also if evaluate.sh does not test each network once white-box, and each natural network once with each other
    natural network of its data set as the source. No command is run. Checkpoints are empty files under their names.
    """
    python, log = tmp_path / "two words", tmp_path / "log"
    python.write_text(RECORDER.format(python=sys.executable, log=log))
    python.chmod(0o755)
    for folder in ("cls", "seg", "results"):
        (tmp_path / folder).mkdir()
    folders = {"CLS_DIR": "cls", "SEG_DIR": "seg", "RESULT_DIR": "results", "TABLE_DIR": "tables"}
    settings = {"PYTHON": str(python)} | {key: str(tmp_path / name) for key, name in folders.items()}

    def commands(script: str) -> list[list[str]]:
        log.write_text("")
        process = subprocess.run(
            [ROOT / "scripts" / "survey" / script, "--gpu", "0", "--dataRoot", phantoms],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (process.returncode, process.stderr) == (0, ""), process.stderr
        return [shlex.split(line) for line in log.read_text().splitlines()]

    trained = []
    for method in METHODS:
        for words in commands(f"{method}.sh"):
            path = output_path(words)
            trained.append(path)
            for end in ("", ".json", ".png", ".state", ".earlier-1"):
                path.with_name(path.name + end).touch()
    assert len(trained) == len(survey_names())
    assert {path.name for path in trained} == survey_names()

    *tests, tables = commands("evaluate.sh")
    assert tables == ["-m", "advmia", "tables", settings["RESULT_DIR"], "--out", settings["TABLE_DIR"]]
    results = Counter(output_path(words).stem for words in tests)
    assert set(results.values()) == {1}
    white_box = [words for words in tests if "--surrogateModel" not in words]
    assert sorted(words[words.index("--targetWeight") + 1] for words in white_box) == sorted(map(str, trained))
    assert all(("aa" in words) == (words[0] == "testCls.py") for words in white_box)
    # Six data sets have three natural networks, two have two; each is a target for each other one.
    transferred = [name for name in results if "__from__" in name]
    assert len(transferred) == len(tests) - len(white_box) == 6 * 3 * 2 + 2 * 2
    for name in transferred:
        dataset, target, source = name.replace("__from__", "__").split("__")
        mark = "_nat_" if "class" in name else "_NAT_"
        assert mark in target and mark in source and target != source
        assert f"_{dataset}_" in target and f"_{dataset}_" in source
