"""The scripts of scripts/survey: all their commands are compared with the survey, and some run on tiny phantoms."""

from __future__ import annotations

import os
import shlex
import subprocess
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
def call(warm_interpreter: Path, phantoms: Path, tmp_path: Path) -> Callable[..., str]:
    """Returns a function that runs a script and returns its standard output."""

    def run(script: str, *words: object, status: int = 0, **settings: str) -> str:
        folders = {"CLS_DIR": "cls", "SEG_DIR": "seg", "RESULT_DIR": "results", "TABLE_DIR": "tables"}
        environment = {"PYTHON": str(warm_interpreter), "OMP_NUM_THREADS": "1"}
        environment |= {key: str(tmp_path / name) for key, name in folders.items()}
        process = subprocess.run(
            [ROOT / "scripts" / script, *map(str, words), "--dataRoot", phantoms, "--out", tmp_path / "out"],
            env=os.environ | environment | settings,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert process.returncode == status, process.stdout + process.stderr
        return process.stdout + process.stderr

    return run


def listed(text: str) -> list[list[str]]:
    """Returns the commands that `--dryRun` lists, without the interpreter."""
    return [shlex.split(line)[1:] for line in text.splitlines()]


TINY = ("--epoch", 1, "--bs", 4, "--gpu", "cpu", "--workers", 1)


def trained(folder: Path) -> set[str]:
    """Returns the names of the checkpoints in a folder."""
    return {path.name for path in folder.iterdir() if path.suffix not in (".json", ".png")}


@pytest.mark.slow
def test_masks_are_trained_and_evaluated(call: Callable[..., str], tmp_path: Path) -> None:
    """Fails if a script does not train what it lists, or evaluate.sh does not find it, test it and make tables.

    32 pixels is the smallest size that a U-Net takes.
    """
    words, settings = (*TINY, "--imgSize", 32, "--limit", 4), {"SEGMENTERS": "unet", "EPSILONS": "8"}
    call("survey/segmentation.sh", *words, "--datasets", "mel", **settings)
    assert trained(tmp_path / "seg") == segmentation_names("UNet", "mel", ("8",))
    text = call("survey/evaluate.sh", *words[2:], "--attacks", "pgd", "--epsilons", 8, **settings)
    assert "2 of 4 tests are left out: their networks are not trained yet" in text
    assert "| pgdat 8" in (tmp_path / "tables" / "tables.md").read_text()


@pytest.mark.slow
def test_hat_after_natural(call: Callable[..., str], tmp_path: Path) -> None:
    """Fails if hat.sh trains the helpers of natural.sh again, or finds no helper of another seed."""
    names = {natural_name("MobileNetV2", "melMulti"), robust_name("MobileNetV2", "melMulti", "hat", "8")}
    words, settings = (*TINY, "--imgSize", 16, "--limit", 4), {"MODELS": "mv2", "DATASETS": "melMulti", "EPSILONS": "8"}
    call("survey/natural.sh", *words, **settings, SEED="3")
    helper = tmp_path / "cls" / "seed3" / natural_name("MobileNetV2", "melMulti")
    before = helper.stat().st_mtime_ns
    call("survey/hat.sh", *words, **settings, SEED="3")
    assert trained(tmp_path / "cls" / "seed3") == names and helper.stat().st_mtime_ns == before


@pytest.mark.slow
def test_all_commands_of_the_survey(call: Callable[..., str], tmp_path: Path) -> None:
    """Fails if a training of the survey is missing, has another beta or step size, or has a flag that does not exist.

    Fails also if evaluate.sh does not test each network once white-box, and each natural network once with each other
    natural network of its data set as the source. No command is run. Checkpoints are empty files under their names.
    """
    paths = set()
    for method in METHODS:
        for words in listed(call(f"survey/{method}.sh", "--dryRun", "--gpu", 0)):
            paths.add(output_path(words))
    assert {path.name for path in paths} == survey_names() and len(paths) == len(survey_names())
    assert not list(tmp_path.iterdir())
    for path in paths:
        for end in ("", ".json", ".png", ".state", ".earlier-1"):
            path.parent.mkdir(exist_ok=True)
            path.with_name(path.name + end).touch()

    commands = listed(call("survey/evaluate.sh", "--dryRun"))
    tables = [words for words in commands if words[0] == "-m"]
    made = ["-m", "advmia", "tables", str(tmp_path / "results"), "--out", str(tmp_path / "tables"), "--plan"]
    assert [words[:-1] for words in tables] == [made] * 3
    tests = [words for words in commands if words[0] != "-m"]
    results = Counter(output_path(words).stem for words in tests)
    assert set(results.values()) == {1}
    white_box = [words for words in tests if "--surrogateModel" not in words]
    assert sorted(words[words.index("--targetWeight") + 1] for words in white_box) == sorted(map(str, paths))
    assert all(("aa" in words) == (words[0] == "testCls.py") for words in white_box)
    # Six data sets have three natural networks, two have two; each is a target for each other one.
    transferred = [name for name in results if "__from__" in name]
    assert len(transferred) == len(tests) - len(white_box) == 6 * 3 * 2 + 2 * 2
    for name in transferred:
        dataset, target, source = name.replace("__from__", "__").split("__")
        mark = "_nat_" if "class" in name else "_NAT_"
        assert mark in target and mark in source and target != source
        assert f"_{dataset}_" in target and f"_{dataset}_" in source


@pytest.mark.slow
def test_nothing_trained_is_told(call: Callable[..., str]) -> None:
    """Fails if evaluate.sh without any network says that all is well."""
    text = call("survey/evaluate.sh", status=2)
    assert "there is nothing to test" in text and text.endswith("run the training scripts first\n")


@pytest.mark.slow
def test_reproduce_lists_the_survey(call: Callable[..., str], tmp_path: Path) -> None:
    """Fails if a run of the survey is missing or listed twice, hat precedes its helper, or --dryRun creates files."""
    commands = listed(call("reproduce.sh", "mesidorBin", "--dryRun"))
    trainings = [words for words in commands if words[0] == "trainCls.py"]
    assert len(commands) == 2 * len(trainings) + 1 == 2 * 3 * (1 + 4 * 4) + 1
    assert len({tuple(words) for words in commands}) == len(commands)
    out = tmp_path / "out"
    made = ["-m", "advmia", "tables", out / "results", "--out", out / "tables", "--plan", out / "plan.json"]
    assert commands[-1] == list(map(str, made))
    expected = {name for name in survey_names() if "_mesidorBin_" in name}
    assert {output_path(words).name for words in trainings} == expected
    assert all(
        words[-4:-2] == ["--helperModel", words[words.index("--model") + 1]] for words in trainings if "hat" in words
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["sweep_eps.sh", "reproduce.sh"])
def test_help_from_any_folder(script: str, warm_interpreter: Path) -> None:
    """Fails if --help works only in some folders, or shows something else there."""
    texts = []
    for folder, words in ((ROOT, [f"scripts/{script}"]), (ROOT / "scripts", [f"./{script}"]), (ROOT / "tests", [])):
        command = [*(words or [str(ROOT / "scripts" / script)]), "--help"]
        environment = os.environ | {"PYTHON": str(warm_interpreter)}
        process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert (process.returncode, process.stderr) == (0, "")
        texts.append(process.stdout)
    assert "--methods" in texts[0] or "scripts/reproduce.sh melBin" in texts[0]
    assert "#" not in texts[0] and len(set(texts)) == 1
