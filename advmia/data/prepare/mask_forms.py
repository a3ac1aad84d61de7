"""Checks masks that are converted: in the layout all are 0 and 255, and no longer show that they contradicted."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from advmia.data.masks import check_encodings
from advmia.data.prepare.contents import THREADS, Content, Pixels
from advmia.runtime.progress import Bar


def describe_forms(files: dict[Path, Content], missing: Iterable[Path], where: str) -> list[str]:
    """Returns a report line with the forms of a download's masks, or no line if no mask has to be converted.

    Args:
        files: the content of every file of the layout, by path.
        missing: the files that are to be written.
        where: names the masks in a message.

    Raises `UserError` for a mask that cannot be read, and for masks that contradict each other.
    """
    converted = {path: content.form for path, content in files.items() if isinstance(content, Pixels) and content.form}
    if converted.keys().isdisjoint(missing):
        return []
    encodings: dict[str, tuple[int, str]] = {}
    bar = Bar(total=len(converted), desc="reading masks", unit="files")
    with ThreadPoolExecutor(THREADS) as pool, bar:
        for path, form in zip(converted, pool.map(lambda read: read(), converted.values()), strict=True):
            count, first = encodings.get(form, (0, path.name))
            encodings[form] = (count + 1, first)
            bar.update()
    check_encodings(encodings, where, remedy="convert the masks to 0 and 255")
    return ["masks of the download: foreground " + ", ".join(f"{form} in {n}" for form, (n, _) in encodings.items())]
