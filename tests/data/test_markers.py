"""Markers: they say what a folder's images really are, beside its lists and in every result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from advmia.data.markers import MARKER_NAME, data_label, read_markers, write_marker
from advmia.errors import UserError


def test_no_marker_means_the_official_images(tmp_path: Path) -> None:
    """Fails if official files that a user has placed by hand need a marker."""
    assert read_markers(tmp_path) == {}
    assert data_label(tmp_path, "train.csv") == ""


def test_lists_keep_their_own_markers(tmp_path: Path) -> None:
    """Fails if writing one list's facts drops or changes another's."""
    folder = tmp_path / "mel2017"
    write_marker(folder, ["train.csv", "test.csv"], {"label": "phantom", "seed": 0})
    write_marker(folder, ["trainSeg.csv"], {"label": ""})
    write_marker(folder, ["test.csv"], {"label": "DermaMNIST 64"})
    labels = {name: data_label(folder, name) for name in ("train.csv", "test.csv", "trainSeg.csv", "other.csv")}
    assert labels == {"train.csv": "phantom", "test.csv": "DermaMNIST 64", "trainSeg.csv": "", "other.csv": ""}
    assert read_markers(folder)["train.csv"] == {"label": "phantom", "seed": 0}
    assert json.loads((folder / MARKER_NAME).read_text(encoding="utf-8")) == read_markers(folder)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"train.csv": {"label": "phan', id="cut off"),
        pytest.param(b"\xff\xfe\x00", id="not UTF-8"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"train.csv": "phantom"}', id="no facts"),
        pytest.param(b"null", id="null"),
    ],
)
def test_damaged_markers(content: bytes, tmp_path: Path) -> None:
    """Fails if damage is taken for "no marker": generated images would then pass for the real ones."""
    (tmp_path / MARKER_NAME).write_bytes(content)
    for call in (read_markers, lambda folder: write_marker(folder, ["a.csv"], {"label": "x"})):
        with pytest.raises(UserError) as caught:
            call(tmp_path)
        text = str(caught.value)
        assert str(tmp_path / MARKER_NAME) in text and "make the folder again" in text and "\n" not in text
    assert (tmp_path / MARKER_NAME).read_bytes() == content
