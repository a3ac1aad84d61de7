"""Draws the contact sheets of a test. Only the chosen images are attacked again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from advmia.attacks import ATTACKS
from advmia.attacks.common import runs_of
from advmia.budgets import GREY_LEVELS
from advmia.evaluation.attacked import AttackRun
from advmia.pictures.choosing import choose
from advmia.pictures.folder import SheetFolder
from advmia.pictures.layout import AttackedPicture, Column, Picture, SheetRow, SheetText, save_sheet
from advmia.pictures.meaning import Meaning, meaning_of
from advmia.pictures.tested import KeptImage, NetworkUnderTest, kept_images
from advmia.results.rows import CLEAN
from advmia.results.write import ResultFile
from advmia.runtime import distributed
from advmia.runtime.terminal import say

SHEET_ROWS = 8  # images on a sheet, so that it fits a printed page; more images are on further sheets


def draw_sheets(
    tested: NetworkUnderTest, results: ResultFile, attacks: Sequence[Sequence[AttackRun]], count: int
) -> None:
    """Draws the contact sheets of each attack that are not there yet (collective).

    Args:
        tested: the networks and the images.
        results: with the rows of all attacks.
        attacks: for each attack, its runs, by rising eps.
        count: the number of first, worst, median and best images each.

    The main process writes. Raises `UserError` if the folder holds something else, or cannot be written.
    """
    folder = SheetFolder(results) if distributed.is_main() else None
    missing = [folder is not None and not folder.has(runs, count) for runs in attacks]
    missing = distributed.broadcast(missing)
    if folder is not None and any(missing):
        folder.begin()
    for runs, is_missing in zip(attacks, missing, strict=True):
        if is_missing:
            _AttackSheets(tested, results, runs).draw(folder, count)
    if folder is not None:
        say(f"contact sheets in {folder.folder}" + ("" if any(missing) else " already"))


class _AttackSheets:
    """The sheets of one attack."""

    def __init__(self, tested: NetworkUnderTest, results: ResultFile, runs: Sequence[AttackRun]) -> None:
        self.tested, self.results, self.runs = tested, results, runs
        self.rows = [results.row(run.name, run.budget.grey_eps, run.restarts) for run in runs]
        one_by_one = len(runs_of(runs[0].build(tested.task), tested.data.samples.labels)) > 1
        self.meaning: Meaning = meaning_of(tested, results.row(CLEAN, 0), one_by_one=one_by_one)

    def draw(self, folder: SheetFolder | None, count: int) -> None:
        """Draws the sheets and lists them in the folder, which only the main process has (collective)."""
        chosen = choose(self.meaning.ranking(self.rows), count)
        indices, entries = list(chosen), []
        parts = [indices[start : start + SHEET_ROWS] for start in range(0, len(indices), SHEET_ROWS)]
        for number, part in enumerate(parts, 1):
            clean = kept_images(self.tested, None, part)
            attacked = [
                kept_images(self.tested, run, part, row=row, shown=self.meaning.shown_run)
                for run, row in zip(self.runs, self.rows, strict=True)
            ]
            if folder is None:
                continue
            path = folder.path(self.runs[0], number)
            sheet = [self.sheet_row(index, chosen[index], clean, attacked) for index in part]
            of_all = f", sheet {number} of {len(parts)}" if len(parts) > 1 else ""
            save_sheet(sheet, self.text(sheet, of_all), path)
            captions = {index: row.attacked[-1].picture.caption for index, row in zip(part, sheet, strict=True)}
            images = [
                {"index": index, "file": row.name, "why": row.why} for index, row in zip(part, sheet, strict=True)
            ]
            alt = f"{self.title}{of_all}: {len(part)} images, clean and attacked at eps {self.epsilons}, with the"
            alt += f" differences; {self.meaning.summary(captions, self.rows[-1])}."
            entries.append({"file": path.name, "images": images, "alt": alt})
        if folder is not None:
            folder.add(self.runs, count, entries)

    def sheet_row(
        self, index: int, why: str, clean: dict[int, KeptImage], attacked: Sequence[dict[int, KeptImage]]
    ) -> SheetRow:
        """Returns an image's row from the images kept, clean and at each eps."""
        meaning, original = self.meaning, clean[index]
        pictures = []
        for kept in (images[index] for images in attacked):
            outlines = meaning.outlines(index, original, kept)
            picture = Picture(_pixels(kept.x), meaning.attacked(index, original, kept), outlines)
            pictures.append(AttackedPicture(picture, _pixels(kept.x - original.x)))
        shown = Picture(_pixels(original.x), meaning.clean(index, original), meaning.outlines(index, original, None))
        name = _plain(self.tested.data.samples.files[index])
        return SheetRow(why, name, meaning.truth(index), shown, pictures)

    def text(self, sheet: Sequence[SheetRow], of_all: str) -> SheetText:
        """Returns what stands around the pictures of a sheet."""
        is_bounded = ATTACKS[self.runs[0].name].bounded
        columns = []
        for number, run in enumerate(self.runs):
            largest = max(float(np.abs(row.attacked[number].difference).max()) for row in sheet)
            limit = run.budget.eps if is_bounded else largest
            columns.append(Column(f"eps {run.budget.grey_eps:g}/{GREY_LEVELS}", limit or 1 / GREY_LEVELS))
        extremes = "eps" if is_bounded else "the largest difference on this sheet"
        notes = [
            f"Difference: attacked minus clean image, enlarged. Grey is unchanged, white and black are {extremes}.",
            *self.meaning.notes,
            f"Worst, median and best: images are ranked {self.meaning.rule}.",
        ]
        return SheetText(f"{self.title}{of_all}", columns, notes)

    @property
    def title(self) -> str:
        facts = self.results.facts
        source = f", made on {_plain(facts['source_weight'])}" if self.results.is_transfer else ""
        return f"{facts['dataset']}: {self.runs[0].label} on {_plain(facts['target_weight'])}{source}"

    @property
    def epsilons(self) -> str:
        return ", ".join(f"{run.budget.grey_eps:g}" for run in self.runs) + f" of {GREY_LEVELS}"


def _pixels(x: Tensor) -> np.ndarray:
    """Returns an image (C, H, W) as (H, W, 3); a grey one, C = 1, has equal channels."""
    return x.expand(3, -1, -1).permute(1, 2, 0).numpy()


def _plain(path: str) -> str:
    """Returns a file's name as text that can be drawn and written: without bytes that are no text, and line breaks."""
    name = path.rpartition("/")[2].encode(errors="backslashreplace").decode()
    return "".join(letter if letter.isprintable() else "?" for letter in name)
