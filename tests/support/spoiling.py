"""Functions that damage the files of a working folder. Most return a `Change`, which is called with the folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.support.downloads import make_chest, make_covid, make_isic, make_mesidor, make_npz

Change = Callable[[Path], object]
LISTS = "data/mel2017"


class Malicious:
    """An object that makes a folder `harm` in the working directory of a process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


# --- any file --------------------------------------------------------------------------------------------------------


def write(path: str, content: str | bytes) -> Change:
    """Replaces the content of a file; creates the file and its folder if needed."""
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda folder: replace_file(folder / path, raw)


def replace_file(path: Path, raw: bytes) -> None:
    """Replaces a file by a new one. If `path` is a link, the file that it points to does not change."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(raw)


def remove(path: str) -> Change:
    """Removes a file or a folder."""
    return lambda folder: shutil.rmtree(folder / path) if (folder / path).is_dir() else (folder / path).unlink()


def make_folder(path: str) -> Change:
    """Replaces a file by an empty folder."""

    def change(folder: Path) -> None:
        (folder / path).unlink(missing_ok=True)
        (folder / path).mkdir(parents=True)

    return change


def make_link(path: str, target: str) -> Change:
    """Makes a symbolic link in a new folder."""

    def change(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True)
        (folder / path).symlink_to(folder / target)

    return change


def truncate(path: str) -> Change:
    """Keeps the first half of a file."""

    def change(folder: Path) -> None:
        raw = (folder / path).read_bytes()
        replace_file(folder / path, raw[: len(raw) // 2])

    return change


def replace_line(path: str, number: int, content: str) -> Change:
    """Replaces one line of a list, counted from 1. NAME stands for its image, FIRST for the image of line 1."""

    def change(folder: Path) -> None:
        lines = (folder / path).read_text().splitlines()
        lines[number - 1] = content.replace("NAME", lines[number - 1].split(",")[0])
        lines[number - 1] = lines[number - 1].replace("FIRST", lines[0].split(",")[0])
        (folder / path).write_text("\n".join(lines) + "\n")

    return change


def flip_bit(raw: bytes, index: int) -> bytes:
    """Returns `raw` with the lowest bit of one byte flipped."""
    return raw[:index] + bytes([raw[index] ^ 1]) + raw[index + 1 :]


def both(*changes: Change) -> Change:
    """Makes several changes, in order."""
    return lambda folder: [change(folder) for change in changes]


# --- images ----------------------------------------------------------------------------------------------------------


def spoil_image(which: str, how: str) -> Change:
    """Damages the first test image of mel2017 (`which` "image") or its mask ("mask") in the way that `how` names."""

    def change(folder: Path) -> None:
        line = (folder / LISTS / ("testSeg.csv" if which == "mask" else "testbin.csv")).read_text().split()[0]
        name = line.split(",")[1 if which == "mask" else 0]
        path = next(path for path in (folder / LISTS).rglob(name) if (which == "mask") == (path.parent.name != "img"))
        raw = path.read_bytes()
        path.unlink()
        if how == "folder":
            path.mkdir()
        elif how == "nowhere":
            path.symlink_to(folder / "nowhere.jpg")
        elif how == "bomb":
            path.write_bytes(decompression_bomb())
        elif how == "16 bit":
            Image.fromarray(np.zeros((8, 8), np.uint16)).save(path, format="PNG")
        elif how != "gone":
            path.write_bytes({"empty": b"", "cut": raw[: len(raw) // 2], "text": b"no image"}[how])

    return change


def decompression_bomb() -> bytes:
    """Returns a small PNG file whose header states a width and height of 20,000 pixels."""
    Image.new("1", (8, 8)).save(stream := io.BytesIO(), format="PNG")
    raw = stream.getvalue()
    header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + raw[24:29]
    return raw[:12] + header + struct.pack(">I", zlib.crc32(header)) + raw[33:]


# --- checkpoints and states ------------------------------------------------------------------------------------------


def bad_checkpoint(how: str) -> Change:
    """Writes a file `bad` that is not a valid checkpoint of mv2 for two classes; `how` names what is wrong with it."""

    def change(folder: Path) -> None:
        good, path = folder / "weights" / "mv2", folder / "bad"
        raw = good.read_bytes()
        contents = {
            "cut": raw[: len(raw) // 2],
            "bit": flip_bit(raw, len(raw) // 2),
            "pickle": pickle.dumps(Malicious()),
            "empty": b"",
            "text": b"no weights",
        }
        if how in contents:
            path.write_bytes(contents[how])
        elif how == "old pickle":
            torch.save(Malicious(), path, _use_new_zipfile_serialization=False)
        elif how == "script":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch.jit is deprecated
                torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
        elif how == "tar":
            with tarfile.open(path, "w") as archive:
                archive.add(good, "mv2")
        else:
            torch.save(_bad_contents(how, torch.load(good, weights_only=True)), path)

    return change


def _bad_contents(how: str, state: dict[str, Any]) -> dict[Any, Any]:
    """Returns the content of a checkpoint that can be read but must be refused."""
    if how == "zip":
        return {"linear.weight": Malicious()}
    if how == "wrapped optimizer":
        return {"state_dict": {"step": 3}, "epoch": 3}
    if how == "optimizer":
        return {**state, "epoch": 3, "optimizer": {}}
    if how == "twice":
        return {f"{prefix}.{name}": value for prefix in ("net", "ema") for name, value in state.items()}
    if how == "entries":
        odd: dict[Any, Any] = {"extra": torch.zeros(1), 7: torch.ones(1)}
        return {name: state[name] for name in state if name != "bn1.weight"} | odd
    if how == "scalar":
        return {**state, "linear.weight": torch.tensor(1.0)}
    if how == "nan":
        state["linear.weight"][0, 0] = torch.nan
    elif how == "shape":
        state["linear.weight"] = state["linear.weight"][:, :7].clone()
    else:
        raise ValueError(how)
    return state


def copy_interrupted(folder: Path) -> None:
    """Copies the files of an interrupted training, so that it can be resumed in the folder `interrupted`."""
    shutil.copytree(folder / "weights" / "interrupted", folder / "interrupted")


def with_checksum(content: bytes) -> bytes:
    """Returns a state file with this content and the right checksum."""
    return hashlib.sha256(content).digest() + content


def spoil_state(folder: Path, how: str) -> Path:
    """Damages the only state file of a folder in the way that `how` names; returns its path."""
    (path,) = folder.glob("*.state")
    raw = path.read_bytes()
    torch.save({"settings": Malicious(), "parts": {}}, malicious := io.BytesIO())
    contents = {
        "cut": raw[: len(raw) // 2],
        "bit": flip_bit(raw, len(raw) // 2),
        "empty": b"",
        "text": with_checksum(b"not torch"),
        "pickle": with_checksum(pickle.dumps(Malicious())),
        "zip": with_checksum(malicious.getvalue()),
    }
    if how == "incomplete":
        state = torch.load(io.BytesIO(raw[32:]), weights_only=True)
        del state["parts"]["schedule"]
        torch.save(state, incomplete := io.BytesIO())
        contents[how] = with_checksum(incomplete.getvalue())
    replace_file(path, contents[how])
    return path


# --- downloads and results -------------------------------------------------------------------------------------------


def bad_archive(how: str) -> Change:
    """Writes a damaged or malicious `retinamnist.npz`; `how` names what is wrong with it."""

    def change(folder: Path) -> None:
        path = folder / "retinamnist.npz"
        arrays = make_npz(path, {"train": [[0], [1]], "val": [[0]], "test": [[4]]})
        raw = path.read_bytes()
        if how == "object":
            arrays["test_labels"] = np.array([Malicious()], dtype=object)
        elif how == "label":
            arrays["test_labels"][0] = 5
        elif how == "member":
            del arrays["val_images"]
        elif how == "floats":
            arrays["train_images"] = arrays["train_images"].astype(np.float32)
        if how in ("object", "label", "member", "floats"):
            np.savez(path, **arrays)
        elif how == "outside":
            with zipfile.ZipFile(path, "w") as archive:
                for name in ("../train_images.npy", "/train_images.npy"):
                    archive.writestr(name, b"out")
        elif how == "shape":  # the header claims a billion images
            header = io.BytesIO()
            shape = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 64, 64, 3)}
            np.lib.format.write_array_header_1_0(header, shape)
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("train_images.npy", header.getvalue())
        else:
            path.write_bytes({"cut": raw[: len(raw) // 2], "text": b"no archive", "empty": b""}[how])

    return change


def in_download(make: Change, spoil: Change) -> Change:
    """Makes a small official download in `source`, then damages it."""

    def change(folder: Path) -> None:
        make(folder / "source")
        spoil(folder)

    return change


def isic(folder: Path) -> None:
    """Makes a small download of ISIC 2017."""
    make_isic(folder)


def chest(folder: Path) -> None:
    """Makes a small download of ChestX-ray14."""
    make_chest(folder, [("00000001_000.png", "No Finding", 1), ("00000002_000.png", "Mass|Hernia", 2)])


def mesidor(folder: Path) -> None:
    """Makes a small download of Messidor."""
    make_mesidor(folder, {"20051020_43808_0100_PP": 0.0, "20051020_43832_0100_PP": 2.0})


def covid(folder: Path) -> None:
    """Makes a small download of the COVID-19 Radiography Database."""
    make_covid(folder, ["COVID-1", "COVID-2", "Normal-3", "Normal-4"])


def change_record(edit: Callable[[dict[str, Any]], object]) -> Change:
    """Changes the record of the finished test in `results`: `edit` is called with it."""

    def change(folder: Path) -> None:
        (path,) = (folder / "results").glob("*.json")
        record = json.loads(path.read_text())
        edit(record)
        path.write_text(json.dumps(record))

    return change
