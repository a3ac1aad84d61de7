"""The sections of pictures: contact sheets of attacked images, and of Grad-CAM maps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from advmia.errors import UserError
from advmia.gradcam.draw import RECORD_NAME, SHEET_NAME, TABLE_NAME
from advmia.report.blocks import Block, Paragraph, Photo, Section, folded
from advmia.report.source import Source
from advmia.results.sheets import read_pictures
from advmia.runtime.files import read_json_object

SHOWN = 4  # pictures that are not folded
MOST_BYTES = 20_000_000  # of all sheets together, so that a mail takes the page


def galleries_section(source: Source) -> Section | None:
    """Returns the section of the contact sheets beside the result files; None where there is none."""
    photos: list[tuple[str, tuple[Block, ...]]] = []
    left_out, used = 0, 0
    for run in source.files:
        record = run.record
        for sheet in read_pictures(record.file, record.run):
            content = sheet.path.read_bytes()
            used += len(content)
            if used > MOST_BYTES:
                left_out += 1
                continue
            title = f"{source.names[record.file_name]}: {sheet.label}"
            eps = ", ".join(f"{grey_eps:g}" for grey_eps in sheet.grey_eps)
            photos.append((title, (Photo(f"{title}, eps {eps}", content, sheet.alt),)))
    if not photos:
        return None
    blocks = folded(photos, SHOWN)
    if left_out:
        text = f"{left_out} further sheets would make the page too large; they lie in the folders beside the results."
        blocks = (*blocks, Paragraph(text))
    return Section("pictures", "Attacked images", blocks)


def maps_section(source: Source) -> Section | None:
    """Returns the section of the contact sheets of `gradVisual.py` in the folders of --maps; None without any.

    Raises `UserError` for a folder that holds no finished maps.
    """
    photos = []
    for folder, shown in zip(source.options.maps, source.shown_maps, strict=True):
        record, sheet = read_json_object(folder / RECORD_NAME) or {}, folder / SHEET_NAME
        if not record.get("finished") or not sheet.is_file():
            raise UserError(
                f"--maps {folder}: expected a folder that gradVisual.py has finished, with {RECORD_NAME} and"
                f" {SHEET_NAME}: draw the maps, or leave the folder out"
            )
        photos.append(Photo(f"Grad-CAM: {shown}", sheet.read_bytes(), _maps_text(folder, shown)))
    return Section("maps", "Where the networks look (Grad-CAM)", tuple(photos)) if photos else None


def _maps_text(folder: Path, shown: str) -> str:
    """Returns what a sheet of maps shows, from the table beside it."""
    import pandas as pd

    text = f"A contact sheet of Grad-CAM maps in {shown}: a row for each of the first images, a column for each view"
    try:
        table = pd.read_csv(folder / TABLE_NAME)
        views = list(zip(table["attack"], table["eps"], strict=True))
        is_right = (table["predicted"] == table["label"]).tolist()
        right = Counter(view for view, hit in zip(views, is_right, strict=True) if hit)
        images = table["index"].nunique()
    except (OSError, ValueError, KeyError):
        return f"{text}."
    names = [f"{attack} at eps {eps:g}" if eps else attack for attack, eps in dict.fromkeys(views)]
    parts = [f"{right[view]} right {name}" for view, name in zip(dict.fromkeys(views), names, strict=True)]
    return f"{text}. Of {images} images: {', '.join(parts)}."
