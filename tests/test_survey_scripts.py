"""Every command of scripts/survey, as written there, at tiny scale on phantoms."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from running import ROOT

from advmia.data.phantoms import make_phantoms

CLASSES = {"mesidorBin": 2, "mesidorMulti": 4, "melBin": 2, "melMulti": 3, "xrayBin": 2}
BETAS = {  # REFERENCE section 4
    "pgdat": dict.fromkeys(CLASSES, 0),
    "trades": dict.fromkeys(CLASSES, 6) | {"mesidorBin": 12},
    "mart": dict.fromkeys(CLASSES, 6),
    "hat": dict.fromkeys(CLASSES, 6) | {"mesidorBin": 12, "mesidorMulti": 3},
}
ATTACKS = {1: "ADV1-255_10_05-255", 2: "ADV2-255_10_05-255", 4: "ADV4-255_10_1-255", 8: "ADV8-255_10_2-255"}
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
    tiny = ["--epoch", "1", "--bs", "4", "--limit", str(limit), "--gpu", "cpu", "--workers", "1"]
    settings = {"PYTHON": str(warm_interpreter), "MODELS": "mv2", "CLS_DIR": str(out), "SEG_DIR": str(out)}
    done = subprocess.run(
        [ROOT / "scripts" / "survey" / name, *tiny, "--imgSize", "32", "--dataRoot", phantoms],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | settings | environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {path.name for path in out.iterdir() if path.suffix not in (".json", ".png")}


def test_natural(warm_interpreter: Path, phantoms: Path, tmp_path: Path) -> None:
    assert run_script("natural.sh", warm_interpreter, phantoms, tmp_path) == NATURAL


@pytest.mark.parametrize(("method", "epsilons"), [("pgdat", (1, 2, 4, 8)), ("trades", (1, 8)), ("mart", (1, 8))])
def test_adversarial(
    method: str, epsilons: tuple[int, ...], warm_interpreter: Path, phantoms: Path, tmp_path: Path
) -> None:
    """All five data sets, at the script's own four eps or at two; the names hold the survey's beta and step size."""
    environment = {} if len(epsilons) == 4 else {"EPSILONS": " ".join(map(str, epsilons))}
    expected = {
        f"MobileNetV2_{dataset}_{method}_beta{beta}_class{CLASSES[dataset]}_{attack}_{TAIL}"
        for dataset, beta in BETAS[method].items()
        for attack in map(ATTACKS.get, epsilons)
    }
    assert run_script(f"{method}.sh", warm_interpreter, phantoms, tmp_path, **environment) == expected


def test_hat_after_natural(warm_interpreter: Path, phantoms: Path, tmp_path: Path) -> None:
    """hat.sh finds the helpers that natural.sh left; at two eps, for they share every line."""
    run_script("natural.sh", warm_interpreter, phantoms, tmp_path)
    expected = {
        f"MobileNetV2_{dataset}_hat_beta{beta}_class{CLASSES[dataset]}_{ATTACKS[eps]}_{TAIL}"
        for dataset, beta in BETAS["hat"].items()
        for eps in (1, 8)
    }
    assert run_script("hat.sh", warm_interpreter, phantoms, tmp_path, EPSILONS="1 8") == expected | NATURAL


def test_multilabel(warm_interpreter: Path, phantoms: Path, tmp_path: Path) -> None:
    expected = {f"MobileNetV2_xray_multilabel_pgdat_beta0_class14_{attack}_{TAIL}" for attack in ATTACKS.values()}
    natural = f"MobileNetV2_xray_multilabel_nat_class14_{TAIL}"
    # Four rows would show no finding with both classes.
    assert run_script("multilabel.sh", warm_interpreter, phantoms, tmp_path, limit=24) == expected | {natural}


def test_segmentation(warm_interpreter: Path, phantoms: Path, tmp_path: Path) -> None:
    """Both networks on both data sets, naturally and at two eps."""
    expected = {
        f"{network}_{dataset}_{attack}"
        for network in ("UNet", "SegNet")
        for dataset in ("mel", "xray")
        for attack in (
            "NAT_CrossEntropyLoss_Adam",
            "PGDAT_CrossEntropyLoss_Adam_eps1-255_step10_stepSize05-255",
            "PGDAT_CrossEntropyLoss_Adam_eps8-255_step10_stepSize2-255",
        )
    }
    assert run_script("segmentation.sh", warm_interpreter, phantoms, tmp_path, EPSILONS="1 8") == expected
