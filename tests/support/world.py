"""The folder in which tests run complete commands, and the arguments of trainings for this folder."""

from __future__ import annotations

from pathlib import Path

import torch

from advmia.data.phantoms import make_phantoms
from advmia.models import build_model
from tests.support.networks import small_networks

NETWORKS = {"mv2": ("mv2", 2), "mv2-14": ("mv2", 14), "unet": ("unet", 2)}  # file -> network, classes

_SMALL = ["--model", "mv2", "--bs", "8", "--imgSize", "16"]
_CLS = ["trainCls.py", "--dataset", "melBin", *_SMALL]
_HELPER = ["--helperModel", "mv2", "--helperWeight", "weights/mv2"]
_MASKS = ["trainSeg.py", "--dataset", "mel", "--model", "unet", "--bs", "8", "--imgSize", "16", "--limit", "8"]
TRAININGS = {
    "nat": [*_CLS, "--method", "nat"],
    "pgdat": [*_CLS, "--method", "pgdat", "--eps", "8"],
    "awp and ema": [*_CLS, "--method", "mpadvt", "--eps", "8", "--awp", "0.01", "--ema", "0.9"],
    "mart": [*_CLS, "--method", "mart", "--eps", "8"],
    "hat": [*_CLS, "--method", "hat", "--eps", "8", *_HELPER],
    "findings": ["trainChex.py", *_SMALL, "--method", "trades", "--eps", "8"],
    "masks": [*_MASKS, "--method", "pgdat", "--attackLoss", "segpgd", "--eps", "8"],
}


def make_world(folder: Path, images: int = 24) -> Path:
    """Writes phantoms of mel2017 and xray to `folder/data` and the checkpoints of NETWORKS to `folder/weights`.

    A quarter of the images is in the test list. The networks are those of `small_networks`. Returns the folder.
    """
    make_phantoms(folder / "data", ["mel2017", "xray"], count=images, size=32)
    (folder / "weights").mkdir()
    with small_networks():
        for name, (model, classes) in NETWORKS.items():
            torch.manual_seed(0)
            torch.save(build_model(model, classes).state_dict(), folder / "weights" / name)
    return folder
