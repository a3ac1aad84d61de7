"""Draws Grad-CAM maps of a list, clean and under attack: a JPEG for each map, a contact sheet and a CSV."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advmia.attacks.common import Attack, stops_early
from advmia.attacks.inference import Blocks, inference_copy
from advmia.data.loading import Batch, EvaluationLoader
from advmia.errors import UserError
from advmia.gradcam.maps import cosine_similarity, grad_cam, is_empty, top_overlap
from advmia.gradcam.pictures import SHEET_ROWS, SheetPicture, overlay, save_jpeg, save_sheet
from advmia.runtime.files import csv_text, read_json_object, write_json, write_text
from advmia.runtime.precision import FP32, Precision
from advmia.runtime.progress import Bar
from advmia.runtime.rng import SampleRng

COLUMNS = (
    *("file", "index", "label", "attack", "eps", "predicted", "confidence"),
    *("cosine", "iou_top_fifth", "map", "map_class", "empty"),
)
RECORD_NAME, TABLE_NAME, SHEET_NAME = "gradVisual.json", "gradVisual.csv", "gradVisual.png"


@dataclass(frozen=True)
class View:
    """One way to show every image: clean, or under one attack at one eps."""

    attack_name: str  # "clean" where there is no attack
    grey_eps: float  # in grey levels; 0 where there is no attack
    attack: Attack | None
    scope: tuple[object, ...]  # seeds the attack's random numbers, as in `evaluate`

    @property
    def title(self) -> str:
        """The view's name on the contact sheet."""
        return "clean" if self.attack is None else f"{self.attack_name} eps {self.grey_eps:g}/255"

    def file_name(self, label: int, confidence: float, index: int) -> str:
        """Returns a map's file name: the published code's, with the attack's name for attacks other than PGD."""
        stem = f"class{label}_confidence{confidence:.4f}_{index}"
        if self.attack is None:
            return f"{stem}.jpg"
        prefix = "" if self.attack_name == "pgd" else f"{self.attack_name}_"
        return f"{stem}map_{prefix}eps{self.grey_eps:g}-255.jpg"


@dataclass(frozen=True)
class MappedNetwork:
    """A network whose maps are drawn, and how: the layer that they are read from, the precision, the class."""

    model: nn.Module
    layer: str  # name of the submodule
    precision: Precision = FP32
    of_predicted: bool = False  # maps explain the predicted class instead of the true one

    @property
    def explained(self) -> str:
        return "predicted" if self.of_predicted else "true"

    def show(self, batch: Batch, view: View) -> Tensor:
        """Returns a batch's images (B, 3, H, W) in a view; adversarial images are those that `evaluate` scores."""
        if view.attack is None:
            return batch.x
        device = batch.x.device
        rng = SampleRng.of(*view.scope, samples=batch.index.tolist(), device=device)
        with self.precision.autocast(device, early_stopping=stops_early(view.attack)):
            blocks = Blocks(inference_copy(self.model, batch.x), len(batch.x))
            return view.attack(blocks, batch.x, batch.y, rng=rng)

    def explain(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Computes maps (B, H, W) and logits (B, K) of images x (B, 3, H, W) of the true classes y (B,)."""
        with self.precision.scoring():
            return grad_cam(self.model, self.layer, x, None if self.of_predicted else y)


@dataclass(frozen=True)
class MapScores:
    """The numbers about one map."""

    predicted: int  # class
    confidence: float  # probability of the predicted class
    label_confidence: float  # probability of the true class
    cosine: float  # similarity to the clean image's map, 0 to 1
    overlap: float  # intersection over union of the brightest fifths of this map and the clean image's, 0 to 1
    is_empty: bool  # nothing in the image supports the class that the map explains
    is_comparable: bool  # neither this map nor the clean image's is empty

    def columns(self) -> dict[str, Any]:
        """Returns the scores that the CSV shows, by column."""
        return {
            "predicted": self.predicted,
            "confidence": f"{self.confidence:.6f}",
            "cosine": f"{self.cosine:.6f}" if self.is_comparable else "",
            "iou_top_fifth": f"{self.overlap:.6f}" if self.is_comparable else "",
            "empty": "yes" if self.is_empty else "no",
        }


def score_maps(maps: Tensor, clean_maps: Tensor, logits: Tensor, y: Tensor) -> list[MapScores]:
    """Scores the maps (B, H, W) of a batch, with its logits (B, K) and true classes (B,)."""
    probabilities = logits.softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    label_confidence = probabilities.gather(1, y[:, None])[:, 0]
    empty = is_empty(maps)
    similarity = (cosine_similarity(maps, clean_maps), top_overlap(maps, clean_maps), empty)
    comparable = ~(empty | is_empty(clean_maps))
    columns = [column.tolist() for column in (predicted, confidence, label_confidence, *similarity, comparable)]
    return [MapScores(*values) for values in zip(*columns, strict=True)]


class MapFolder:
    """The folder of one run's pictures. Files that the same run did not write are never overwritten or deleted."""

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        """Checks the folder, and creates nothing yet.

        Args:
            folder: where the pictures go; it need not exist.
            run: everything that the pictures depend on, as JSON values.

        Raises `UserError` if the folder holds the pictures of another run, or a file with the name of the CSV or of the
        contact sheet.
        """
        self.folder, self._run = folder, json.loads(json.dumps(run))
        self.record_path = folder / RECORD_NAME
        record = read_json_object(self.record_path)
        self._is_ours = record is not None and record.get("run") == self._run
        self.is_finished = self._is_ours and bool(record and record.get("finished"))
        if record is not None and not self._is_ours:
            raise UserError(f"{folder} holds the maps of another run ({self.record_path.name}): name another --saveDir")
        if not self._is_ours:
            for name in (TABLE_NAME, SHEET_NAME):
                self.path(name)

    def path(self, name: str) -> Path:
        """Returns a picture's path. Raises `UserError` if there is a file of that name that is not this run's."""
        path = self.folder / name
        if path.exists() and not self._is_ours:
            raise UserError(f"{path} exists and is not of this run: name another --saveDir")
        return path

    def begin(self) -> None:
        """Records that this run writes here, so that it can replace its own pictures after an interruption."""
        write_json(self.record_path, {"run": self._run, "finished": False})

    def finish(self, records: Sequence[dict[str, Any]]) -> None:
        """Writes the CSV, with a row for each map, and records that all pictures are written."""
        table = [COLUMNS, *([record[name] for name in COLUMNS] for record in records)]
        write_text(self.folder / TABLE_NAME, csv_text(table))
        maps = [record["map"] for record in records]
        write_json(self.record_path, {"run": self._run, "finished": True, "maps": maps})


def draw_maps(
    network: MappedNetwork, loader: EvaluationLoader, views: Sequence[View], folder: MapFolder, *, on_clean: bool
) -> list[dict[str, Any]]:
    """Draws a map of each image in every view, then the contact sheet and the CSV.

    Args:
        network: the classifier.
        loader: the images.
        views: the clean view first.
        folder: where all files go.
        on_clean: lays every map over the clean image, as the published code does, instead of the adversarial one.

    Returns: a record for each map, with the CSV's columns as keys.
    """
    folder.begin()
    samples = loader.data.samples
    records: list[dict[str, Any]] = []
    sheet: list[list[SheetPicture]] = []
    for batch in Bar(loader, desc="Grad-CAM", unit="batches", leave=False):
        pictures: list[list[SheetPicture]] = [[] for _ in range(len(batch))]
        clean_maps = torch.empty(0)
        for view in views:
            x = network.show(batch, view)
            maps, logits = network.explain(x, batch.y)
            clean_maps = maps if view.attack is None else clean_maps
            for position, scores in enumerate(score_maps(maps, clean_maps, logits, batch.y)):
                index, label = int(batch.index[position]), int(batch.y[position])
                pixels = overlay((batch.x if on_clean else x)[position], maps[position])
                path = folder.path(view.file_name(label, scores.label_confidence, index))
                save_jpeg(pixels, path)
                if len(sheet) + position < SHEET_ROWS:
                    is_right = scores.predicted == label
                    predicted = samples.spec.class_name(scores.predicted)
                    picture = SheetPicture(pixels, predicted, scores.confidence, is_right, scores.is_empty)
                    pictures[position].append(picture)
                records.append(
                    {
                        "file": samples.files[index],
                        "index": index,
                        "label": label,
                        "attack": view.attack_name,
                        "eps": f"{view.grey_eps:g}",
                        **scores.columns(),
                        "map": path.name,
                        "map_class": scores.predicted if network.of_predicted else label,
                    }
                )
        sheet += [image_pictures for image_pictures in pictures if image_pictures]
    classes = map(samples.spec.class_name, samples.labels.tolist())
    names = list(zip(samples.files, classes, strict=True))
    title = f"{samples.dataset_name}: Grad-CAM of the {network.explained} class; below, the class predicted"
    save_sheet(sheet, names[: len(sheet)], [view.title for view in views], title, folder.path(SHEET_NAME))
    folder.finish(records)
    return records
