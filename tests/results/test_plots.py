"""The pictures of curves over eps."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advmia.results.tables import write_tables
from tests.results.examples import EXAMPLES, FOLDERS, NAT, example, save

STEMS = ("mel[phantom]__unet", "melBin[phantom]__mv2", "xray_multilabel[phantom]__mv2")


@pytest.mark.slow
def test_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a picture is missing, blank, unreadable, or differs between equal runs (a time stamp would)."""
    monkeypatch.chdir(EXAMPLES)
    for name in ("a", "b"):
        write_tables(FOLDERS, tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(["tables.md", *(f"{stem}.{kind}" for stem in STEMS for kind in ("png", "pdf"))])
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    for stem in STEMS:
        with Image.open(tmp_path / "a" / f"{stem}.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert pixels.shape[0] > 400 and (pixels.min(axis=2) < 250).mean() > 0.01
        for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):
            assert (pixels == colour).all(axis=2).any(), "each of the first two methods has a curve"
        raw = (tmp_path / "a" / f"{stem}.pdf").read_bytes()
        assert raw.startswith(b"%PDF-") and raw.rstrip().endswith(b"%%EOF") and b"CreationDate" not in raw
        drawn = b"".join(map(inflated, re.findall(rb"stream\r?\n(.*?)endstream", raw, re.S)))
        assert drawn.count(b" l\n") > 20, "lines are drawn"


def inflated(stream: bytes) -> bytes:
    """Returns a stream of a PDF file decompressed; nothing for a stream that is not compressed."""
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_no_picture_of_clean_scores_alone(tmp_path: Path) -> None:
    """Fails if an empty picture is written for results without an attack."""
    content = example(NAT)
    content["rows"] = content["rows"][:1]
    write_tables([save(tmp_path / "in", "x", content)], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tables.md"]


def test_a_data_set_is_no_path(tmp_path: Path) -> None:
    """Fails if the name of a data set in a result file can put a picture outside the folder."""
    content = example(NAT) | {"dataset": "../../melBin"}
    write_tables([save(tmp_path / "in", "x", content)], tmp_path / "out")
    assert (tmp_path / "out" / "..-..-melBin__mv2.png").exists()
