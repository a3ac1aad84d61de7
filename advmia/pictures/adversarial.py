"""The attacked images of a test as files, with an index, so that other code can score them.

Beside the result file `<stem>.json`, the folder `<stem>.adversarial` has a folder for each attack at each eps
(`pgd-eps8`, of 5 restarts `pgd-x5-eps8`, rounded `pgd-eps8-8bit`), with a file for each image. An image whose pixels
are all whole grey levels is a PNG; any other is a NumPy array (C, H, W) of float32 in [0, 1]. Read back, each has the
bits that were scored. Files are written as the images are attacked, before the progress of the attack is saved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advmia.attacks.common import runs_of
from advmia.budgets import GREY_LEVELS
from advmia.data.readers import SampleList
from advmia.errors import UserError
from advmia.evaluation.attacked import AttackRun, file_label
from advmia.evaluation.loop import AttackedBatch
from advmia.pictures.folder import check_folder
from advmia.pictures.tested import NetworkUnderTest
from advmia.results.rows import ResultRow, RowKey
from advmia.results.sheets import folder_beside
from advmia.results.write import ResultFile
from advmia.runtime import distributed
from advmia.runtime.files import (
    atomic_write,
    csv_text,
    remove_leftovers,
    write_json,
    write_lock,
    write_text,
)
from advmia.runtime.terminal import say
from advmia.tasks import SEGMENTATION

ENDING, RECORD_NAME, INDEX_NAME = ".adversarial", "adversarial.json", "index.csv"
_FORMS = ("png", "npy")  # endings of files
_COLUMNS = ("file", "form", "attack", "restarts", "eps", "eight_bits", "index", "image", "label", "finding")


class AdversarialFolder:
    """The folder of one run's attacked images. Files that the same run did not write are never overwritten."""

    def __init__(self, tested: NetworkUnderTest, results: ResultFile) -> None:
        """Makes the folder, unless it is there (collective).

        Raises `UserError` if it holds images of another run, or files without a record.
        """
        self._tested, self._results = tested, results
        self.folder = folder_beside(results.json_path, ENDING)
        if distributed.is_main():
            check_folder(self.folder / RECORD_NAME, results.run, "--saveAdversarial")
            write_json(self.folder / RECORD_NAME, {"run": results.run})
        distributed.broadcast(None)  # the other ranks write into the folder from here on

    def keeper(self, run: AttackRun) -> Callable[[AttackedBatch], None]:
        """Returns what `EvaluationOptions` take as `keep`: a function that writes the images of each batch."""

        def keep(attacked: AttackedBatch) -> None:
            folder = self.folder / _folder_name(run.keys[attacked.rounded])
            for finding, images in enumerate(attacked.images):
                for index, x in zip(attacked.batch.index.tolist(), images, strict=True):
                    _write_image(folder, self._name(index, finding if len(attacked.images) > 1 else None), x)

        return keep

    def complete(self, run: AttackRun) -> None:
        """Attacks images again whose files are missing, and writes the index (collective).

        Files are missing after a test that did not save them. The rows of the attack are in the results.
        """
        with ExitStack() as stack:
            if distributed.is_main():
                stack.enter_context(write_lock(self.folder / _folder_name(run.keys[0]), wait=True))
            missing = distributed.broadcast(self._missing(run) if distributed.is_main() else [])
            if missing:
                say(f"{run.label} eps {run.budget.grey_eps:g}: {len(missing)} images are attacked again, to be saved")
                self._tested.attack_again(run, missing, self.keeper(run), self._results.row(*run.keys[0][:3]))
            if not distributed.is_main():
                return
            for key in run.keys:
                remove_leftovers(self.folder / _folder_name(key))  # of a killed run
            if self._missing(run):
                raise UserError(f"{self.folder} lacks images that other machines have written: test on one machine")
            with write_lock(self.folder / INDEX_NAME, wait=True):
                write_text(self.folder / INDEX_NAME, csv_text(self._index()))

    def _missing(self, run: AttackRun) -> list[int]:
        """Returns the indices of the images of which a file is missing."""
        written = [_forms(self.folder / _folder_name(key)) for key in run.keys]
        return [
            index
            for index, names in enumerate(self._names(run))
            if not all(forms.keys() >= set(names) for forms in written)
        ]

    def _index(self) -> Iterator[list[object]]:
        """Yields the lines of the index: a line for each file of the attacks that are complete."""
        yield [*_COLUMNS, *self._outcome_names]
        for row in self._results.rows:
            if row.attack not in self._tested.task.attacks:
                continue  # clean, or the worst of the attacks
            run, folder = AttackRun.of(row.attack, row.grey_eps, row.restarts), _folder_name(row.key)
            forms = _forms(self.folder / folder)
            names = self._names(run)
            if all(forms.keys() >= set(of_image) for of_image in names):
                for index, of_image in enumerate(names):
                    yield from self._lines(row, index, [f"{folder}/{name}.{forms[name]}" for name in of_image])

    def _lines(self, row: ResultRow, index: int, files: Sequence[str]) -> Iterator[list[object]]:
        """Yields the lines of one image: one, or one for each finding that is attacked by itself."""
        samples = self._samples
        outcome = row.outcomes[index] if isinstance(row.outcomes[index], list) else [row.outcomes[index]]
        for number, file in enumerate(files):
            finding, shown = "", [f"{value:.9g}" for value in outcome]
            if len(files) > 1:
                finding = samples.spec.findings[number]
                shown = [text if place == number else "" for place, text in enumerate(shown)]
            what = [
                file,
                file.rpartition(".")[2],
                row.attack,
                row.restarts,
                f"{row.grey_eps:g}",
                "yes" if row.eight_bits else "no",
            ]
            yield [*what, index, samples.files[index], self._label(index), finding, *shown]

    def _label(self, index: int) -> object:
        """Returns an image's class, its findings as lists write them (b010...), or the name of its mask's file."""
        if self._samples.masks:
            return self._samples.masks[index]
        label = self._samples.labels[index]
        return int(label) if label.dim() == 0 else "b" + "".join(str(int(bit)) for bit in label)

    @property
    def _outcome_names(self) -> tuple[str, ...]:
        """The columns of what the network says of an image."""
        if self._tested.task is SEGMENTATION:
            return ("dice", "iou")
        return tuple(f"logit {name}" for name in self._samples.spec.findings) or ("predicted",)

    def _names(self, run: AttackRun) -> list[list[str]]:
        """Returns the names of each image's files, without the endings."""
        count = len(runs_of(run.build(self._tested.task), self._samples.labels[:1]))
        findings = range(count) if count > 1 else (None,)
        return [[self._name(index, finding) for finding in findings] for index in range(len(self._samples))]

    def _name(self, index: int, finding: int | None) -> str:
        number = str(index).zfill(len(str(len(self._samples) - 1)))
        return number if finding is None else f"{number}-{finding:02}"

    @property
    def _samples(self) -> SampleList:
        return self._tested.data.samples


def _folder_name(key: RowKey) -> str:
    """Returns the folder of a result row's images: `pgd-eps8`, `pgd-x5-eps8` or `pgd-eps8-8bit`."""
    attack, grey_eps, restarts, eight_bits = key
    return f"{file_label(attack, restarts)}-eps{grey_eps:g}{'-8bit' if eight_bits else ''}"


def _forms(folder: Path) -> dict[str, str]:
    """Returns the images in a folder: the name of each without its ending, and the ending."""
    if not folder.is_dir():
        return {}
    parts = (entry.name.rpartition(".") for entry in os.scandir(folder))
    return {name: form for name, _, form in parts if form in _FORMS}


def _write_image(folder: Path, name: str, x: Tensor) -> None:
    """Writes an image (C, H, W): as PNG if all its pixels are whole grey levels, else as a NumPy array."""
    x = x.detach().float().cpu()
    levels = (x * GREY_LEVELS).round()
    is_whole = torch.equal(levels / torch.tensor(float(GREY_LEVELS)), x)  # as files are read: `data.transforms`
    form, other = _FORMS if is_whole else _FORMS[::-1]
    with atomic_write(folder / f"{name}.{form}") as temporary:
        if is_whole:
            pixels = levels.to(torch.uint8).permute(1, 2, 0).numpy()
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(temporary, format="PNG")
        else:
            with temporary.open("wb") as file:
                np.save(file, x.contiguous().numpy())
    (folder / f"{name}.{other}").unlink(missing_ok=True)  # of an attack that was rounded differently
