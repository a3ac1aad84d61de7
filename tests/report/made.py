"""Made-up result files for pages: any number of images, attacks and networks, without a network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

EPSILONS = (2.0, 4.0, 8.0)
ATTACKS = ("fgsm", "pgd")
CHECKS = ("base rate", "black-box", "eps order", "large eps")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def row(attack: str, eps: float, labels: np.ndarray, outcomes: np.ndarray, **facts: Any) -> dict[str, Any]:
    """Returns the row of a single-label result file. labels, outcomes: (N,)."""
    steps = {"none": 0, "fgsm": 1, "worst": 0}.get(attack, 20)
    return {
        "attack": attack,
        "eps": eps,
        "steps": steps,
        "step_size": eps / 4 if steps else 0.0,
        "n": len(labels),
        "scores": {"accuracy": float((labels == outcomes).mean())},
        "seconds": 1.0,
        "outcomes": outcomes.tolist(),
        "notes": {},
        **facts,
    }


def made(number: int, images: int, *, method: str = "nat", classes: int = 2, **facts: Any) -> dict[str, Any]:
    """Returns the content of a single-label result file. Equal arguments give equal files; networks differ by number.

    The larger eps, the more images are wrong; those that one eps fools, the next does too. `facts` replace keys.
    """
    rng = np.random.RandomState(number)
    labels = np.arange(images) % classes
    strength = rng.random_sample(images) * (12 if method == "nat" else 40)  # eps that the image withstands
    clean = np.where(rng.random_sample(images) < 0.1, (labels + 1) % classes, labels)
    rows = [row("none", 0.0, labels, clean)]
    for attack in ATTACKS:
        for eps in EPSILONS:
            fooled = strength < (eps if attack == "pgd" else eps / 2)
            rows.append(row(attack, eps, labels, np.where(fooled, (labels + 1) % classes, clean)))
    for eps in EPSILONS:
        fooled = strength < eps
        worst = np.where(fooled, (labels + 1) % classes, clean)
        note = np.where(worst == labels, -1, np.where(strength < eps / 2, 0, 1)).tolist()
        rows.append(row("worst", eps, labels, worst, attacks=list(ATTACKS), notes={"attack": note}))
    weights = digest(f"weights {number}")
    data = {
        "list": "testbin.csv",
        "sha256": digest("list"),
        "images": images,
        "pixels_crc32": "0",
        "content": "phantom",
    }
    settings = {"dataset": "skin", "model": "mv2", "method": method, "classes": classes, "epochs": 3, "seed": number}
    settings |= {"eps": 0.0 if method == "nat" else 8.0, "steps": 10, "step_size": 2.0}
    checks = [{"check": name, "verdict": "ok", "reason": f"{name} is fine"} for name in CHECKS]
    return {
        "dataset": "skin[phantom]",
        "target_model": "mv2",
        "target_weight": f"clsCkpt/network{number}",
        "source_model": "mv2",
        "source_weight": f"clsCkpt/network{number}",
        "run": {"seed": 0, "size": 16, "precision": "fp32", "data": data, "target_sha256": weights}
        | {"source_sha256": weights},
        "finished": True,
        "versions": {"advmia": "0.1.0", "python": "3.11.7", "torch": "2.14.1"},
        "target_training": settings,
        "samples": {
            "index": list(range(images)),
            "file": [f"ISIC_{image:07d}.jpg" for image in range(images)],
            "label": labels.tolist(),
        },
        "reliability": checks,
        "base_rate": {"score": 1 / classes, "answer": "class 0 for every image"},
        "rows": rows,
        **facts,
    }


def save_all(folder: Path, contents: dict[str, dict[str, Any]]) -> Path:
    """Writes `<name>.json` for each content; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder
