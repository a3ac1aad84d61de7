"""Two runs into one data root, and what a killed run leaves."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from advmia.data.markers import data_label, read_markers
from advmia.data.prepare import prepare_dataset
from advmia.errors import UserError
from advmia.runtime.files import remove_leftovers, write_lock
from tests.support.downloads import make_chest, make_isic, make_npz, read_list


def test_two_runs_at_once_keep_both_markers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if a run writes beside another one, does not say that it waits, or loses the other one's marker."""
    make_npz(tmp_path / "dermamnist.npz", {"train": [[0], [1]], "val": [[1]], "test": [[0]]})
    source, data = make_isic(tmp_path / "source"), tmp_path / "data"
    with write_lock(data / "mel2017"):  # as the first run holds it
        second = threading.Thread(target=prepare_dataset, args=("medmnist", tmp_path / "dermamnist.npz", data))
        second.start()
        second.join(0.5)
        assert second.is_alive() and not list(data.rglob("*.csv"))
    second.join(20)
    assert "another run is writing" in capsys.readouterr().err
    assert data_label(data / "mel2017", "train.csv") == "DermaMNIST 28 altered"
    with pytest.raises(UserError, match=r"train\.csv exists with other rows"):  # the same lists for other images
        prepare_dataset("isic2017", source, data)
    assert set(read_markers(data / "mel2017")) == {"train.csv", "test.csv", "trainbin.csv", "testbin.csv"}


def test_two_splits_at_once(tmp_path: Path) -> None:
    """Fails if two runs with other splits leave lists of both."""
    rows = [(f"{n // 3:08d}_{n % 3:03d}.png", "No Finding" if n % 2 else "Mass", n // 3) for n in range(30)]
    source, refused = make_chest(tmp_path / "source", rows), []

    def run(split: str) -> None:
        try:
            prepare_dataset("chestxray14", source, tmp_path / "data", split=split, link=True)
        except UserError as error:
            refused.append((split, str(error)))

    threads = [threading.Thread(target=run, args=(split,)) for split in ("published", "patient")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(refused) == 1 and "exists with other rows" in refused[0][1]
    winner = "patient" if refused[0][0] == "published" else "published"
    prepare_dataset("chestxray14", source, tmp_path / "alone", split=winner)
    for path in (tmp_path / "alone/xray").glob("*.csv"):
        assert (tmp_path / "data/xray" / path.name).read_bytes() == path.read_bytes()
    assert {facts["split"] for facts in read_markers(tmp_path / "data/xray").values()} == {winner}


def test_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    """Fails if half-written files stay among the images, or a file of the user is removed."""
    source, folder = make_isic(tmp_path / "source"), tmp_path / "data" / "mel2017"
    for place in ("img", "target", "."):
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / f".ISIC_0000001.jpg.{os.getpid()}.tmp").write_bytes(b"half")
    kept = folder / "img" / "notes.1.tmp"
    kept.write_text("mine")
    prepare_dataset("isic2017", source, tmp_path / "data")
    assert kept.exists() and not list(folder.rglob(".*"))
    assert not list((tmp_path / "data").glob(".*"))  # no lock stays
    assert len(read_list(folder / "train.csv")) == 2 and remove_leftovers(tmp_path / "none") == 0
