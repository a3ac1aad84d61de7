"""Existing files, copies and links: nothing is replaced, and an interrupted run continues."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from advmia.data.prepare import prepare_dataset
from advmia.data.prepare.contents import Original
from advmia.errors import UserError
from tests.support.downloads import COVID_NAMES, line_with, make_covid, make_isic, make_npz, save_image, snapshot


class TestNothingIsReplaced:
    def test_second_run_changes_nothing(self, tmp_path: Path) -> None:
        """Fails if a second run writes a file again."""
        source = make_isic(tmp_path / "source")
        prepare_dataset("isic2017", source, tmp_path / "data")
        before = snapshot(tmp_path / "data")
        lines = prepare_dataset("isic2017", source, tmp_path / "data")
        assert snapshot(tmp_path / "data") == before
        assert lines[-1] == "everything is in place (9 files): nothing was written"

    def test_archives_and_conversions_too(self, tmp_path: Path) -> None:
        """Fails if a second run writes converted images again."""
        make_npz(tmp_path / "retinamnist.npz", {"train": [[0], [1]], "val": [[1]], "test": [[0]]})
        source = make_covid(tmp_path / "source", list(COVID_NAMES))
        runs = (("medmnist", tmp_path / "retinamnist.npz"), ("covid19radiography", source))
        for dataset, path in runs:
            prepare_dataset(dataset, path, tmp_path / "data")
        before = snapshot(tmp_path / "data")
        for dataset, path in runs:
            assert "everything is in place" in prepare_dataset(dataset, path, tmp_path / "data")[-1]
        assert snapshot(tmp_path / "data") == before

    @pytest.mark.parametrize("name", ["img/ISIC_0000002.jpg", "target/ISIC_0000002_segmentation.png", "test.csv"])
    def test_a_different_file_stops_all(self, tmp_path: Path, name: str) -> None:
        """Fails if a different file, even of the same size, is replaced, or others are written before the error."""
        source = make_isic(tmp_path / "source")
        prepare_dataset("isic2017", source, tmp_path / "complete")
        existing = tmp_path / "data" / "mel2017" / name
        existing.parent.mkdir(parents=True)
        content = (tmp_path / "complete" / "mel2017" / name).read_bytes()
        existing.write_bytes(content[:-3] + b"xyz")
        before = snapshot(tmp_path / "data")
        with pytest.raises(UserError) as caught:
            prepare_dataset("isic2017", source, tmp_path / "data")
        assert str(existing) in str(caught.value) and "nothing was changed" in str(caught.value)
        assert snapshot(tmp_path / "data") == before

    def test_a_converted_file_that_differs(self, tmp_path: Path) -> None:
        """Fails if a mask with other pixels, or no image at all, is overwritten or accepted."""
        source = make_covid(tmp_path / "source", list(COVID_NAMES))
        prepare_dataset("covid19radiography", source, tmp_path / "data")
        mask = tmp_path / "data/covidSeg/target/COVID-1.png"
        for content in ("other pixels", "no image"):
            if content == "no image":
                mask.write_bytes(b"no image")
            else:
                save_image(mask, 5, "L", (6, 6))
            with pytest.raises(UserError, match=r"COVID-1\.png exists and differs"):
                prepare_dataset("covid19radiography", source, tmp_path / "data")

    def test_the_same_rows_for_other_images(self, tmp_path: Path) -> None:
        """Fails if a list with equal rows is accepted although its marker says that its images are others."""
        source = make_isic(tmp_path / "source")
        prepare_dataset("isic2017", source, tmp_path / "data")
        marker = tmp_path / "data/mel2017/advmia-data.json"
        facts = json.loads(marker.read_text())
        facts["test.csv"]["label"] = "phantom"
        marker.write_text(json.dumps(facts))
        with pytest.raises(
            UserError, match=r"test\.csv exists for other images \(phantom there, official in this run\)"
        ):
            prepare_dataset("isic2017", source, tmp_path / "data")

    def test_a_killed_run_continues(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if a killed run leaves lists, or the next run does not finish it."""
        source = make_isic(tmp_path / "source")
        complete = tmp_path / "complete"
        prepare_dataset("isic2017", source, complete)
        write = Original.write

        def killed(self: Original, target: Path, link: bool) -> None:
            if target.name == "ISIC_0000004.jpg":
                raise KeyboardInterrupt
            write(self, target, link)

        monkeypatch.setattr(Original, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset("isic2017", source, tmp_path / "data")
        monkeypatch.undo()
        assert not list((tmp_path / "data/mel2017").glob("*.csv"))  # no list names a file that is not there
        prepare_dataset("isic2017", source, tmp_path / "data")
        contents = [
            {name: data for name, (_, data) in snapshot(root).items()} for root in (complete, tmp_path / "data")
        ]
        assert contents[0] == contents[1]

    def test_hand_placed_lists_with_other_line_ends_stay(self, tmp_path: Path) -> None:
        """Fails if a list that differs only in its line ends is refused or rewritten."""
        source = make_isic(tmp_path / "source")
        prepare_dataset("isic2017", source, tmp_path / "data")
        path = tmp_path / "data/mel2017/train.csv"
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        before = path.read_bytes()
        prepare_dataset("isic2017", source, tmp_path / "data")
        assert path.read_bytes() == before


class TestLinks:
    def test_links_are_absolute_and_run_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if links break from another folder, or a second run refuses its own links."""
        make_isic(tmp_path / "source")
        monkeypatch.chdir(tmp_path)
        lines = prepare_dataset("isic2017", Path("source"), Path("data"), link=True)
        link = Path("data/mel2017/img/ISIC_0000001.jpg")
        assert link.is_symlink() and link.readlink().is_absolute()
        assert link.resolve() == tmp_path / "source/ISIC-2017_Training_Data/ISIC_0000001.jpg"
        line_with(lines, "linked 9 files")
        assert "everything is in place" in prepare_dataset("isic2017", Path("source"), Path("data"), link=True)[-1]
        assert "everything is in place" in prepare_dataset("isic2017", Path("source"), Path("data"))[-1]

    def test_links_to_a_download_that_moved_are_renewed(self, tmp_path: Path) -> None:
        """Fails if a broken link is taken for a file that exists."""
        prepare_dataset("isic2017", make_isic(tmp_path / "source"), tmp_path / "data", link=True)
        moved = (tmp_path / "source").rename(tmp_path / "moved")
        assert line_with(prepare_dataset("isic2017", moved, tmp_path / "data", link=True), "linked 9 files")
        assert (tmp_path / "data/mel2017/img/ISIC_0000001.jpg").resolve().is_relative_to(moved)

    def test_what_is_converted_is_written(self, tmp_path: Path) -> None:
        """Fails if a converted mask is a link to the download's file."""
        source = make_covid(tmp_path / "source", list(COVID_NAMES))
        lines = prepare_dataset("covid19radiography", source, tmp_path / "data", link=True)
        folder = tmp_path / "data" / "covidSeg"
        assert (folder / "image/COVID-1.png").is_symlink() and not (folder / "target/COVID-1.png").is_symlink()
        line_with(lines, "linked 5 files, converted 5")
