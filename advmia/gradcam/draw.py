"""Grad-CAM of a list of images, clean and attacked: one JPEG a map, a contact sheet, and how far each map moved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from advmia.attacks.common import Attack, stops_early
from advmia.attacks.inference import Blocks, inference_copy
from advmia.data.loading import Batch, EvaluationLoader
from advmia.errors import UserError
from advmia.gradcam.maps import cosine_similarity, grad_cam, top_overlap
from advmia.gradcam.pictures import SHEET_ROWS, Cell, overlay, save_jpeg, save_sheet
from advmia.runtime.files import csv_text, read_json_object, write_json, write_text
from advmia.runtime.precision import FP32, Precision
from advmia.runtime.rng import SampleRng

COLUMNS = ("file", "index", "label", "attack", "eps", "predicted", "confidence", "cosine", "iou_top_fifth", "map")


@dataclass(frozen=True)
class View:
    """One picture of every image: clean, or under one attack."""

    attack: str  # "clean" for none
    eps: float  # grey levels out of 255
    make: Attack | None
    scope: tuple[object, ...]  # of the random draws, as in `evaluate`

    @property
    def title(self) -> str:
        return "clean" if self.make is None else f"{self.attack} eps {self.eps:g}/255"

    def file_name(self, label: int, confidence: float, index: int) -> str:
        """The reference's names; maps under another attack than PGD say which."""
        name = f"class{label}_confidence{confidence:.4f}_{index}"
        if self.attack == "clean":
            return f"{name}.jpg"
        return f"{name}map_{'' if self.attack == 'pgd' else f'{self.attack}_'}eps{self.eps:g}-255.jpg"


class MapFolder:
    """Where a run's pictures go. The folder is made, never emptied, and no file of another run is written over."""

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        """`run`: all that the pictures depend on. Raises `UserError` where the folder holds another run's."""
        self.folder, self._run = folder, json.loads(json.dumps(run))
        self.record_path = folder / "gradVisual.json"
        known = read_json_object(self.record_path)
        self._is_ours = known is not None and known.get("run") == self._run
        self.is_finished = self._is_ours and bool(known and known.get("finished"))
        if known is not None and not self._is_ours:
            raise UserError(f"{folder} holds the maps of another run ({self.record_path.name}): name another --saveDir")
        if not self._is_ours:
            for name in ("gradVisual.csv", "gradVisual.png"):
                self.path(name)

    def path(self, name: str) -> Path:
        """Where a picture goes. Raises `UserError` when a file is there that this run did not make."""
        path = self.folder / name
        if path.exists() and not self._is_ours:
            raise UserError(f"{path} is there already and not of this run: name another --saveDir")
        return path

    def begin(self) -> None:
        write_json(self.record_path, {"run": self._run, "finished": False})

    def finish(self, rows: Sequence[dict[str, Any]]) -> None:
        table = [COLUMNS, *([row[name] for name in COLUMNS] for row in rows)]
        write_text(self.folder / "gradVisual.csv", csv_text(table))
        write_json(self.record_path, {"run": self._run, "finished": True, "maps": [row["map"] for row in rows]})


def draw_maps(
    model: nn.Module,
    layer: str,
    loader: EvaluationLoader,
    views: Sequence[View],
    folder: MapFolder,
    *,
    on_clean: bool,
    precision: Precision = FP32,
) -> list[dict[str, Any]]:
    """Draws every view of every image; returns the CSV's rows. The first view is the clean one.

    `on_clean` lays the maps of attacked images over the clean image, as the published code does.
    """
    folder.begin()
    rows: list[dict[str, Any]] = []
    sheet: list[list[Cell]] = []
    files = loader.data.samples.files
    for batch in tqdm(loader, desc="Grad-CAM", unit="batch", disable=None, leave=False):
        cells: list[list[Cell]] = [[] for _ in range(len(batch))]
        clean_maps = torch.empty(0)
        for view in views:
            x = attacked(model, batch, view, precision)
            with precision.scoring():
                maps, logits = grad_cam(model, layer, x, batch.y)
            clean_maps = maps if view.make is None else clean_maps
            moved = zip(
                cosine_similarity(maps, clean_maps).tolist(), top_overlap(maps, clean_maps).tolist(), strict=True
            )
            confidence, predicted = logits.softmax(dim=1).max(dim=1)
            true = logits.softmax(dim=1).gather(1, batch.y[:, None])[:, 0]
            for place, (cosine, shared) in enumerate(moved):
                index, label = int(batch.index[place]), int(batch.y[place])
                pixels = overlay((batch.x if on_clean else x)[place], maps[place])
                path = folder.path(view.file_name(label, float(true[place]), index))
                save_jpeg(pixels, path)
                if len(sheet) + place < SHEET_ROWS:
                    cells[place].append(Cell(pixels, int(predicted[place]), float(confidence[place])))
                rows.append(
                    {
                        "file": files[index],
                        "index": index,
                        "label": label,
                        "attack": view.attack,
                        "eps": f"{view.eps:g}",
                        "predicted": int(predicted[place]),
                        "confidence": f"{float(confidence[place]):.6f}",
                        "cosine": f"{cosine:.6f}",
                        "iou_top_fifth": f"{shared:.6f}",
                        "map": path.name,
                    }
                )
        sheet += [each for each in cells if each]
    names = [f"{file}\nclass {label}" for file, label in zip(files, loader.data.samples.labels.tolist(), strict=True)]
    title = f"{loader.data.samples.dataset_name}: Grad-CAM of the true class; below, the class predicted"
    save_sheet(sheet, names[: len(sheet)], [view.title for view in views], title, folder.path("gradVisual.png"))
    folder.finish(rows)
    return rows


def attacked(model: nn.Module, batch: Batch, view: View, precision: Precision) -> Tensor:
    """The batch's images as the view shows them: those that `evaluate` scores under the same attack and seed."""
    if view.make is None:
        return batch.x
    device = batch.x.device
    rng = SampleRng.of(*view.scope, samples=batch.index.tolist(), device=device)
    with precision.autocast(device, early_stopping=stops_early(view.make)):
        return view.make(Blocks(inference_copy(model, batch.x)), batch.x, batch.y, rng=rng)
