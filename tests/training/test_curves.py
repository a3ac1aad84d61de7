"""The picture of a training's curves."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advmia.checkpoints.paths import picture_path
from advmia.training import curves
from advmia.training.curves import Frame, TrainingCurves
from advmia.training.loop import Epoch

NAME = "ResNet_melBin_pgdat_beta0_class2_ADV8-255_10_2-255_maxLR0.01_weightDecay0.001"
FRAME = Frame(NAME, "accuracy", "accuracy under PGD-20", epochs=0, base_rate=0.4)


def epoch(number: int, *, robust: bool = True, loss: float | None = None) -> Epoch:
    clean, robust_scores = {"accuracy": 1 - 0.5**number}, {"accuracy": 0.5 - 0.4**number}
    return Epoch(number, 1 / number if loss is None else loss, 0.01, 1.0, clean, robust_scores if robust else None)


def picture_of(folder: Path, epochs: list[Epoch], best: int, total: int | None = None) -> np.ndarray:
    """Returns the pixels of the picture of a training of `total` epochs, by default of one that is finished."""
    with TrainingCurves(folder / NAME, FRAME if total is None else replace(FRAME, epochs=total)) as picture:
        for new in epochs:
            picture.add(new, best)
    with Image.open(folder / f"{NAME}.png") as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def pixels_of(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(picture - np.array(colour)).sum(axis=2) < 30).sum())


BLUE, ORANGE, GREEN = (0, 114, 178), (213, 94, 0), (0, 158, 115)  # clean, robust, best epoch
SHADE, RED = (221, 221, 221), (204, 0, 0)  # epochs to come, epochs without skill


@pytest.mark.parametrize("count", [1, 3, 100])
def test_curves(count: int, tmp_path: Path) -> None:
    """Fails if the picture is blank, lacks a curve or the line of the best epoch, or is not beside the checkpoint."""
    picture = picture_of(tmp_path, [epoch(number) for number in range(1, count + 1)], best=count)
    height, width, _ = picture.shape
    assert 500 < height < 1500 and 500 < width < 1500
    assert all(pixels_of(picture, colour) > 50 for colour in (BLUE, ORANGE, GREEN))
    assert [path.name for path in tmp_path.iterdir()] == [f"{NAME}.png"] == [picture_path(tmp_path / NAME).name]


def test_curves_of_natural_training_and_without_a_score(tmp_path: Path) -> None:
    """Fails if natural training gets a robust curve, or an undefined score or loss raises."""
    epochs = [epoch(number, robust=False) for number in (1, 2, 3)]
    assert pixels_of(picture_of(tmp_path, epochs, best=2), ORANGE) == 0
    undefined = Epoch(1, math.nan, 0.01, 1.0, {"accuracy": math.nan}, None)
    assert pixels_of(picture_of(tmp_path, [undefined], best=0), GREEN) == 0


def test_what_is_no_result_looks_otherwise(tmp_path: Path) -> None:
    """Fails if a training that was stopped looks finished, or an epoch without skill like the others."""
    epochs = [epoch(number) for number in (1, 2, 3)]
    finished, stopped = (picture_of(tmp_path, epochs, best=2, total=total) for total in (3, 6))
    assert pixels_of(stopped, SHADE) > pixels_of(finished, SHADE) + 50_000  # the grid has this grey too
    assert pixels_of(finished, RED) == 0
    warned = [replace(epochs[0], warning="predicts class 0 for all 6 images"), *epochs[1:]]
    assert pixels_of(picture_of(tmp_path, warned, best=2), RED) > 20


def test_epochs_that_were_not_validated(tmp_path: Path) -> None:
    """Fails if an epoch without scores raises, or those with scores are lost among a hundred without."""
    epochs = [replace(epoch(number), clean=None, robust=None) for number in range(1, 101)]
    none = picture_of(tmp_path, epochs, best=0)
    assert pixels_of(none, BLUE) == pixels_of(none, ORANGE) == 0
    one = picture_of(tmp_path, [*epochs[:49], epoch(50), *epochs[50:]], best=50)
    assert all(pixels_of(one, colour) > 50 for colour in (BLUE, ORANGE, GREEN))


def test_curves_are_redrawn_seldom_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if every epoch of a fast training is drawn, or the last epoch is missing after an error."""
    now, drawings = [0.0], []
    monkeypatch.setattr(curves.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(curves, "draw_curves", lambda epochs, *_: drawings.append(len(epochs)) or _[-1].write_text("x"))
    with pytest.raises(KeyboardInterrupt), TrainingCurves(tmp_path / NAME, FRAME) as picture:
        for number in range(1, 31):
            now[0] += 1
            picture.add(epoch(number), number)
        assert drawings == [10, 20, 30]
        now[0] += 1
        picture.add(epoch(31), 31)
        raise KeyboardInterrupt
    assert drawings == [10, 20, 30, 31]


def test_no_picture_stops_no_training(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Fails if a picture that cannot be written ends the training, or is reported more than once."""
    (tmp_path / "file").write_text("")
    with TrainingCurves(tmp_path / "file" / NAME, FRAME) as picture:
        picture.add(epoch(1), 1)
        picture._draw()
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and f"no training curves at {tmp_path}/file/{NAME}.png: " in message
