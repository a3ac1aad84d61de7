"""The pictures of curves over eps."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
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


def figures_of(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Draws the curves of the results in a folder; returns the figures by the name of their file."""
    figures: dict[str, Figure] = {}

    def keep(figure: Figure, path: Path, **_: object) -> None:
        figures[re.sub(r"^\.|\.png\..*|\.pdf\..*", "", path.name)] = figure
        path.write_bytes(b"x")

    with patch.context() as context:
        context.setattr(Figure, "savefig", keep)
        write_tables([folder], folder / "out")
    return figures


def lines_of(figure: Figure) -> dict[str, Line2D]:
    """Returns the lines of the first panel by their name in the legend."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    lines = [handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle for handle in handles]
    return {name: line for line, name in zip(lines, names, strict=True) if isinstance(line, Line2D)}


def test_curves_have_the_unit_of_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a curve shows 60.5 where the table shows 0.605, or there is no line for guessing."""
    segmentation = example("mel__UNet_mel_NAT_CrossEntropyLoss_Adam") | {"base_rate": {"score": 0.43, "answer": "x"}}
    save(tmp_path, "a", segmentation)
    save(tmp_path, "b", example(NAT))
    figures = figures_of(tmp_path, monkeypatch)
    dice, accuracy = figures[STEMS[0]], figures[STEMS[1]]
    for figure, content, label, scale, guessing in (
        (dice, segmentation, "Dice", 1, 0.43),
        (accuracy, example(NAT), "accuracy (%)", 100, None),
    ):
        assert figure.axes[0].get_ylabel() == label
        assert figure.axes[0].get_ylim() == pytest.approx((-0.03 * scale, 1.03 * scale))
        lines = lines_of(figure)
        score = "dice" if guessing else "accuracy"
        attack = figure.axes[0].get_title()
        rows = [row for row in content["rows"] if row["attack"] in ("none", attack)]
        assert np.asarray(lines["nat"].get_ydata()) == pytest.approx([scale * row["scores"][score] for row in rows])
        labels = content["samples"]["label"]
        expected = guessing or 100 * max(map(labels.count, labels)) / len(labels)
        (flat,) = [line for name, line in lines.items() if name.startswith("guessing")]
        assert np.asarray(flat.get_ydata()) == pytest.approx([expected] * 2)


def test_curves_that_hide_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if one of two equal curves cannot be seen, a network with a warning has no dashed curve, or a test that was
    stopped ends like a finished one."""
    content = example(NAT)
    for number in range(3):
        content["run"]["seed"] = number
        save(tmp_path, str(number), content)
    lines = lines_of(figures_of(tmp_path, monkeypatch)[STEMS[1]])
    curves = [line for name, line in lines.items() if name.startswith("nat")]
    widths = [line.get_linewidth() for line in curves]
    assert len(curves) == 3 and widths[0] >= widths[1] + 1 >= widths[2] + 2
    assert [line.get_linestyle() for line in curves] == ["-"] * 3
    shapes = {(line.get_color(), str(line.get_marker())) for line in curves}
    assert len(shapes) == 3

    check = {"check": "mode", "verdict": "warning", "reason": "random"}
    save(tmp_path, "1", example(NAT) | {"reliability": [check], "run": content["run"] | {"seed": 1}})
    save(tmp_path, "2", example(NAT) | {"finished": False})
    figure = figures_of(tmp_path, monkeypatch)[STEMS[1]]
    styles = {name.rpartition(" ")[2]: line.get_linestyle() for name, line in lines_of(figure).items()}
    assert (
        styles["(warning)"] == styles["(unfinished)"] == "--" and "dashed" in figure.legends[0].get_title().get_text()
    )
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 1 and np.asarray(hollow[0].get_xdata()).tolist() == [8]


def test_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the legend or the title of a picture of one panel is wider than the picture."""
    content = example(NAT)
    content["dataset"] = "mesidorMulti[RetinaMNIST 224 altered, a name that is longer than one line has room for]"
    content["rows"] = [row for row in content["rows"] if row["attack"] in ("none", "pgd")]
    save(tmp_path, "a", content)
    (figure,) = figures_of(tmp_path, monkeypatch).values()
    assert len(figure.axes) == 1
    figure.canvas.draw()
    for artist in (figure.legends[0], figure.texts[0]):
        box = artist.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width, artist


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
