"""What goes wrong, over all commands: one line that says what, where and what to do, and not a file lost or changed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import pickle
import resource
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from advmia.commands import training
from advmia.data import cache
from advmia.data.loading import load_data
from advmia.data.phantoms import make_phantoms
from advmia.data.readers import read_samples
from advmia.data.specs import CHEST_FINDINGS, DATASETS, Split
from advmia.models import build_model
from advmia.runtime.files import csv_text, write_lock
from tests.support.downloads import make_chest, make_covid, make_isic, make_mesidor, make_npz
from tests.support.running import ROOT, run_main

SMALL = "--bs 8 --imgSize 16 --gpu cpu"
TRAIN = f"trainCls.py --dataset melBin --method nat --model mv2 --epoch 2 --lr 0.01 --saveDir new {SMALL}"
CHEX = f"trainChex.py --method nat --model mv2 --epoch 2 --saveDir new {SMALL}"
SEG = f"trainSeg.py --dataset mel --method nat --model unet --epoch 1 --saveDir new {SMALL}"
HAT = "--method hat --helperModel mv2 --helperWeight"
TEST = (
    f"testCls.py --dataset melBin --targetModel mv2 --targetWeight weights/mv2 --attacks fgsm --epsilons 8 {SMALL}"
    " --resultDir new"
)
TEST_CHEX = f"testChex.py --targetModel mv2 --targetWeight weights/mv2-14 --attacks pgd --epsilons 8 {SMALL}"
TEST_SEG = f"testSeg.py --dataset mel --targetModel unet --targetWeight weights/mv2 {SMALL}"
VISUAL = f"gradVisual.py --dataset melBin --model mv2 --weight weights/mv2 --epsilons 8 --saveDir new {SMALL}"
PREPARE = "advmia prepare --dataRoot new --dataset"
PHANTOMS = "advmia phantoms --count 24 --size 32 --dataRoot"
TABLES = "advmia tables"

LISTS = "data/mel2017"
LOCK = ("data/cache", "data/cache/*.lock")  # what a cache that could not be built may leave


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


@dataclass(frozen=True)
class Case:
    name: str
    line: str
    says: tuple[str, ...]  # what, where, and what to do
    breaks: Callable[[Path], object] = lambda folder: None
    status: int = 2
    disk: str = ""  # what is mounted at `disk`: a full one, or one that is only read
    new: tuple[str, ...] = ()  # files and folders that may be there afterwards and were not before
    limit: int | None = None  # of a file's bytes
    stdin: str = ""


# --- ways to break a folder ------------------------------------------------------------------------------------------


def text(path: str, content: str | bytes) -> Callable[[Path], object]:
    """Another content for a file."""
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda folder: put(folder / path, raw)


def put(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(raw)


def gone(path: str) -> Callable[[Path], object]:
    return lambda folder: shutil.rmtree(folder / path) if (folder / path).is_dir() else (folder / path).unlink()


def a_folder(path: str) -> Callable[[Path], object]:
    """A folder where a file was."""

    def change(folder: Path) -> None:
        (folder / path).unlink(missing_ok=True)
        (folder / path).mkdir(parents=True)

    return change


def a_link(path: str, target: str) -> Callable[[Path], object]:
    """A link where nothing was."""

    def change(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True)
        (folder / path).symlink_to(folder / target)

    return change


def cut(path: str, share: float = 0.5) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        raw = (folder / path).read_bytes()
        put(folder / path, raw[: int(len(raw) * share)])

    return change


def row(path: str, number: int, content: str) -> Callable[[Path], object]:
    """Another row for a list, counted from 1. NAME stands for its image, FIRST for the first row's."""

    def change(folder: Path) -> None:
        lines = (folder / path).read_text().splitlines()
        lines[number - 1] = content.replace("NAME", lines[number - 1].split(",")[0])
        lines[number - 1] = lines[number - 1].replace("FIRST", lines[0].split(",")[0])
        (folder / path).write_text("\n".join(lines) + "\n")

    return change


def picture(which: str, how: str) -> Callable[[Path], object]:
    """Spoils the first test image of mel2017, or its mask."""

    def change(folder: Path) -> None:
        listed = (folder / LISTS / ("testSeg.csv" if which == "mask" else "testbin.csv")).read_text().split()[0]
        name = listed.split(",")[1 if which == "mask" else 0]
        path = next(path for path in (folder / LISTS).rglob(name) if (which == "mask") == (path.parent.name != "img"))
        raw = path.read_bytes()
        path.unlink()
        if how == "folder":
            path.mkdir()
        elif how == "nowhere":
            path.symlink_to(folder / "nowhere.jpg")
        elif how == "bomb":
            path.write_bytes(bomb())
        elif how == "16 bit":
            Image.fromarray(np.zeros((8, 8), np.uint16)).save(path, format="PNG")
        elif how != "gone":
            path.write_bytes({"empty": b"", "cut": raw[: len(raw) // 2], "text": b"no image"}[how])

    return change


def bomb() -> bytes:
    """A small file that says it is 20,000 pixels wide and high."""
    Image.new("1", (8, 8)).save(stream := io.BytesIO(), format="PNG")
    raw = stream.getvalue()
    head = b"IHDR" + struct.pack(">II", 20_000, 20_000) + raw[24:29]
    return raw[:12] + head + struct.pack(">I", zlib.crc32(head)) + raw[33:]


def flipped(raw: bytes, place: int) -> bytes:
    """One bit is another."""
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


def weights(how: str) -> Callable[[Path], object]:
    """A file `bad` that is no good checkpoint of mv2 for two classes."""

    def change(folder: Path) -> None:
        good, path = folder / "weights" / "mv2", folder / "bad"
        state = torch.load(good, weights_only=True)
        raw = good.read_bytes()
        if how == "cut":
            path.write_bytes(raw[: len(raw) // 2])
        elif how == "bit":
            path.write_bytes(flipped(raw, len(raw) // 2))
        elif how == "pickle":
            path.write_bytes(pickle.dumps(Malicious()))
        elif how == "zip":
            torch.save({"linear.weight": Malicious()}, path)
        elif how == "old pickle":
            torch.save(Malicious(), path, _use_new_zipfile_serialization=False)
        elif how == "nan":
            state["linear.weight"][0, 0] = torch.nan
            torch.save(state, path)
        elif how == "wrapped":
            torch.save({"state_dict": state, "epoch": 3}, path)
        elif how == "script":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that torch will drop it
                torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
        elif how == "tar":
            with tarfile.open(path, "w") as archive:
                archive.add(good, "mv2")
        elif how == "shape":
            state["linear.weight"] = state["linear.weight"][:, :7].clone()
            torch.save(state, path)
        else:
            path.write_bytes({"empty": b"", "text": b"no weights"}[how])

    return change


def begun(folder: Path) -> None:
    """What a training has left that was begun."""
    shutil.copytree(folder / "weights" / "begun", folder / "begun")


def state(how: str) -> Callable[[Path], object]:
    """Spoils the state file of the training that was begun in `begun`."""

    def change(folder: Path) -> None:
        begun(folder)
        (path,) = (folder / "begun").glob("*.state")
        raw = path.read_bytes()
        evil = pickle.dumps(Malicious())
        torch.save({"settings": Malicious(), "parts": {}}, stream := io.BytesIO())
        spoilt = {
            "cut": raw[: len(raw) // 2],
            "bit": flipped(raw, len(raw) // 2),
            "empty": b"",
            "pickle": hashlib.sha256(evil).digest() + evil,
            "zip": hashlib.sha256(stream.getvalue()).digest() + stream.getvalue(),
        }
        put(path, spoilt[how])

    return change


def npz(how: str) -> Callable[[Path], object]:
    """A damaged or malicious `retinamnist.npz`."""

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
        elif how == "shape":  # it says that it has a billion images
            header = io.BytesIO()
            shape = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 64, 64, 3)}
            np.lib.format.write_array_header_1_0(header, shape)
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("train_images.npy", header.getvalue())
        else:
            path.write_bytes({"cut": raw[: len(raw) // 2], "text": b"no archive", "empty": b""}[how])

    return change


def download(make: Callable[[Path], object], spoil: Callable[[Path], object]) -> Callable[[Path], object]:
    """A small official download in `source`, spoilt."""

    def change(folder: Path) -> None:
        make(folder / "source")
        spoil(folder)

    return change


def isic(folder: Path) -> None:
    make_isic(folder)


def chest(folder: Path) -> None:
    make_chest(folder, [("00000001_000.png", "No Finding", 1), ("00000002_000.png", "Mass|Hernia", 2)])


def mesidor(folder: Path) -> None:
    make_mesidor(folder, {"20051020_43808_0100_PP": 0.0, "20051020_43832_0100_PP": 2.0})


def covid(folder: Path) -> None:
    make_covid(folder, ["COVID-1", "COVID-2", "Normal-3", "Normal-4"])


def both(*changes: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [change(folder) for change in changes]


def result(how: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Changes the record of the finished test in `results`."""

    def change(folder: Path) -> None:
        (path,) = (folder / "results").glob("*.json")
        record = json.loads(path.read_text())
        how(record)
        path.write_text(json.dumps(record))

    return change


# --- the cases -------------------------------------------------------------------------------------------------------

HEADER = ",".join(CHEST_FINDINGS)
ISIC_TABLE = "source/ISIC-2017_Training_Part3_GroundTruth.csv"
COVID = "source/COVID-19_Radiography_Dataset/COVID-19_Radiography_Dataset"

ARGUMENTS = [
    Case("eps no number", f"{TRAIN} --eps eight", ("argument --eps: ", "from 0 to 255, got 'eight'", "--help")),
    Case("eps negative", f"{TRAIN} --eps -1", ("argument --eps: ", "got '-1'")),
    Case("eps nan", f"{SEG} --eps nan", ("argument --eps: ", "got 'nan'")),
    Case("eps infinite", f"{CHEX} --eps inf", ("argument --eps: ", "got 'inf'")),
    Case("epsilons overflow", f"{TEST_CHEX} --epsilons 1 1e999", ("argument --epsilons: ", "got '1e999'")),
    Case("epsilons negative", f"{VISUAL} --epsilons -0.5", ("argument --epsilons: ", "got '-0.5'")),
    Case("epsilons too large", f"{TEST_SEG} --epsilons 256", ("argument --epsilons: ", "got '256'")),
    Case("epoch 0", f"{TRAIN} --epoch 0", ("argument --epoch: ", "at least 1, got '0'")),
    Case("bs 0", f"{TEST} --bs 0", ("argument --bs: ", "at least 1, got '0'")),
    Case("bs beyond any memory", f"{CHEX} --bs {10**30}", ("argument --bs: ", "at most")),
    Case("lr nan", f"{SEG} --lr nan", ("argument --lr: ", "above 0, got 'nan'")),
    Case("seed that torch cannot take", f"{TRAIN} --seed {2**64}", ("argument --seed: ", "at most")),
    Case("imgSize too small", f"{SEG} --imgSize 8", ("--imgSize 8 is too small for unet", "16 or more")),
    Case("imgSize beyond any memory", f"{TEST} --imgSize 1000000", ("argument --imgSize: ", "at most")),
    Case("valFraction 1", f"{TRAIN} --valFraction 1", ("argument --valFraction: ", "between 0 and 1")),
    Case("valFraction too large", f"{TRAIN} --valFraction 0.99", ("hold out 0.99", "trainbin.csv", "--valFraction")),
    Case("unknown data set", "trainSeg.py --dataset mel2", ("argument --dataset: ", "'mel2'", "known are mel, xray")),
    Case("unknown network", f"{CHEX} --model vgg", ("argument --model: ", "'vgg'", "known are res18")),
    Case("unknown method", f"{SEG} --method trades", ("argument --method: ", "known are nat, pgdat")),
    Case("unknown attack", f"{TEST_CHEX} --attacks aa", ("argument --attacks: ", "known are pgd")),
    Case("unknown argument", f"{VISUAL} --nosuch 1", ("unrecognized arguments: --nosuch 1", "--help")),
    Case("argument of two lines", f"{TEST_SEG} '--a\nb'", ("unrecognized arguments: --a b",)),
    Case("unknown precision", f"{TEST_SEG} --precision fp8", ("argument --precision: ", "known are")),
    Case("no ImageNet weights", f"{TRAIN} --init imagenet", ("mv2 has no ImageNet weights",)),
    Case("no GPU", f"{TEST_SEG} --gpu 0", ("--gpu 0", "no CUDA device; use --gpu cpu")),
    Case("no GPU for two", f"{TRAIN} --gpu 0 1", ("--gpu 0", "no CUDA device; use --gpu cpu")),
    Case("GPU by name", f"{VISUAL} --gpu first", ("--gpu first", "expected CUDA device ids such as 0")),
    Case("GPU and CPU", f"{CHEX} --gpu cpu 0", ("--gpu cpu 0", "expected CUDA device ids such as 0")),
    Case("no helper", f"{TRAIN} --method hat", ("--method hat needs --helperModel and --helperWeight",)),
    Case("unknown tool", "advmia tabulate", ("invalid choice: 'tabulate'",)),
    Case("phantoms too few", "advmia phantoms --count 3 --dataRoot new", ("count is 3", "from ")),
    Case("phantoms too large", "advmia phantoms --size 1000000 --dataRoot new", ("size is 1000000", "from ")),
    Case("where: quotes", "advmia where", ("line 2 ", "No closing quotation", "mend"), stdin=f"{TEST}\nx 'y\n"),
    Case("where: unknown script", "advmia where", ("expected a command of trainCls.py", "`x y`"), stdin="x y\n"),
    Case(
        "where: wrong argument",
        "advmia where",
        ("testCls.py: error: ", "--targetWeight"),
        stdin="testCls.py --dataset melBin --targetModel mv2\n",
    ),
]

LIST_CASES = [
    Case("list missing", TRAIN, ("no list at", "testbin.csv", "prepare"), gone(f"{LISTS}/testbin.csv")),
    Case("list a folder", VISUAL, ("cannot read the list", "testbin.csv"), a_folder(f"{LISTS}/testbin.csv")),
    Case("list empty", TEST, ("testbin.csv is empty", "expected rows `image,label`"), text(f"{LISTS}/testbin.csv", "")),
    Case("list not UTF-8", SEG, ("trainSeg.csv", "expected UTF-8"), text(f"{LISTS}/trainSeg.csv", b"\xff\xfe,a\n")),
    Case(
        "list of one column", TRAIN, ("trainbin.csv row 2: ", "`image,label`"), row(f"{LISTS}/trainbin.csv", 2, "a.jpg")
    ),
    Case(
        "list of another data set",
        SEG,
        ("trainSeg.csv row 1: mask 0 is not in",),
        row(f"{LISTS}/trainSeg.csv", 1, "NAME,0"),
    ),
    Case(
        "label a word",
        TRAIN,
        ("trainbin.csv row 3: ", "integer label, got `yes`"),
        row(f"{LISTS}/trainbin.csv", 3, "NAME,yes"),
    ),
    Case(
        "label out of range",
        TEST,
        ("testbin.csv row 1: ", "label 2", "0 to 1"),
        row(f"{LISTS}/testbin.csv", 1, "NAME,2"),
    ),
    Case(
        "label negative",
        VISUAL,
        ("testbin.csv row 1: ", "label -1", "0 to 1"),
        row(f"{LISTS}/testbin.csv", 1, "NAME,-1"),
    ),
    Case(
        "contradiction",
        TRAIN,
        ("trainbin.csv row 2: ", "is 1 here and 0 in row 1", "keep one"),
        row(f"{LISTS}/trainbin.csv", 2, "FIRST,1"),
    ),
    Case(
        "name upwards",
        TEST,
        ("testbin.csv row 1: image ../x.jpg", "is a path"),
        row(f"{LISTS}/testbin.csv", 1, "../x.jpg,0"),
    ),
    Case(
        "name absolute",
        TRAIN,
        ("trainbin.csv row 1: image /etc/passwd", "is a path"),
        row(f"{LISTS}/trainbin.csv", 1, "/etc/passwd,0"),
    ),
    Case(
        "mask upwards",
        SEG,
        ("trainSeg.csv row 1: mask ../../x.png", "is a path"),
        row(f"{LISTS}/trainSeg.csv", 1, "NAME,../../x.png"),
    ),
    Case(
        "header missing",
        CHEX,
        ("_1w.csv row 1: expected the header Cardiomegaly",),
        row("data/xray/trainMultiLabel_1w.csv", 1, "a.png,b0"),
    ),
    Case(
        "bits too few",
        CHEX,
        ("_1w.csv row 2: expected the letter b and 14 bits", "b01"),
        row("data/xray/trainMultiLabel_1w.csv", 2, "NAME,b01"),
    ),
    Case(
        "marker damaged",
        TRAIN,
        ("cannot read", "advmia-data.json", "make the folder again"),
        text(f"{LISTS}/advmia-data.json", "{"),
    ),
    Case("folder missing", CHEX, ("no image folder at", "data/xray", "lists its files"), gone("data/xray/img")),
]


def spoilt(which: str, how: str, *says: str) -> Case:
    """A bad test image or mask, seen by one script after the other."""
    line = {"cut": TEST, "empty": VISUAL, "text": TRAIN, "bomb": TEST, "16 bit": VISUAL}.get(how, TEST)
    files = "testSeg.csv row 1: " if which == "mask" else "testbin.csv row 1: "
    is_decoded = how not in ("folder", "nowhere", "gone")
    line = SEG if which == "mask" else line
    return Case(f"{which}: {how}", line, (files, "ISIC_", *says), picture(which, how), new=LOCK if is_decoded else ())


READ = ("cannot read", "fetch the file again or take the row out")
IMAGES = [
    spoilt("image", "gone", "is not in", "complete the folder or the list"),
    spoilt("image", "folder", "is not in", "complete the folder or the list"),
    spoilt("image", "nowhere", "is not in", "complete the folder or the list"),
    *(spoilt("image", how, *READ) for how in ("cut", "empty", "text", "bomb", "16 bit")),
    spoilt("mask", "gone", "mask ISIC_", "is not in", "complete the folder or the list"),
    *(spoilt("mask", how, *READ) for how in ("cut", "empty", "bomb")),
]


def bad_weights(how: str, *says: str, line: str = TEST + " --targetWeight bad") -> Case:
    return Case(f"weights: {how}, {line.split('.')[0]}", line, ("bad ", *says), weights(how))


NO_CHECKPOINT = ("is no checkpoint", "expected a state_dict of tensors")
WEIGHTS = [
    Case("weights missing", f"{TEST} --targetWeight none", ("no checkpoint at none", "train one, or check the path")),
    Case("weights of no text", f"{TEST} --targetWeight w\udcff", ("no checkpoint at w\\udcff", "check the path")),
    Case("weights a folder", f"{VISUAL} --weight data", ("data is a folder", "expected a checkpoint file")),
    Case("of another model", TEST_SEG, ("weights/mv2 holds weights of mv2, not of unet", "name the model")),
    Case("of other classes", f"{TEST} --targetWeight weights/mv2-14", ("tells 14 classes apart, but melBin has 2",)),
    Case("of fewer classes", f"{TEST_CHEX} --targetWeight weights/mv2", ("tells 2 classes apart", "has 14")),
    Case("helper missing", f"{TRAIN} {HAT} none", ("no checkpoint at none",)),
    Case("helper of other classes", f"{TRAIN} {HAT} weights/mv2-14", ("tells 14 classes apart",)),
    *(bad_weights(how, *NO_CHECKPOINT) for how in ("cut", "empty", "text", "pickle", "zip", "old pickle")),
    *(bad_weights(how, *NO_CHECKPOINT) for how in ("script", "tar")),
    bad_weights("bit", "is damaged: the checksum of", "fetch it again"),
    bad_weights("nan", "not finite (linear.weight", "train it anew"),
    bad_weights("wrapped", "holds a dict of state_dict, epoch", "expected a bare state_dict"),
    bad_weights("shape", "does not fit mv2", "linear.weight"),
    bad_weights("zip", *NO_CHECKPOINT, line=f"{TEST} --surrogateWeight bad"),
    bad_weights("nan", "not finite", line=f"{TEST} --surrogateWeight bad"),
    bad_weights("pickle", *NO_CHECKPOINT, line=f"{TRAIN} {HAT} bad"),
    bad_weights("nan", "not finite", line=f"{TRAIN} {HAT} bad"),
    bad_weights("old pickle", *NO_CHECKPOINT, line=f"{VISUAL} --weight bad"),
    bad_weights("pickle", *NO_CHECKPOINT, line=f"{TEST_SEG} --targetWeight bad"),
]

# It saves its state after the first step, and dies in the second.
BEGUN = f"{TRAIN} --lr 1e30 --saveEvery 1e-9 --saveDir weights/begun"
RESUME = f"{BEGUN} --saveDir begun --resume"
STATES = [
    *(
        Case(f"state: {how}", RESUME, (".state is damaged", "leave out --resume"), state(how))
        for how in ("cut", "bit", "empty")
    ),
    *(
        Case(f"state: {how}", RESUME, ("UnpicklingError", "leave out --resume"), state(how))
        for how in ("pickle", "zip")
    ),
    Case("state of another training", f"{RESUME} --bs 4", ("batch_size was 8, is 4", "leave out --resume"), begun),
    Case(
        "loss not a number",
        f"{TRAIN} --lr 1e30",
        ("the loss became nan in epoch 1, step 2 of 3", "a lower --lr", "kept"),
        new=("new",),
    ),
    Case(
        "weights blown up in the last step",
        f"{TRAIN} --lr 1e30 --bs 32",
        ("after epoch 1, ", "not all finite", "a lower --lr", "kept"),
        new=("new",),
    ),
]

TEXT = text("file", "kept")
DISKS = [
    Case(
        "full: checkpoint",
        f"{TRAIN} --saveDir disk",
        ("cannot write disk/MobileNetV2_melBin", "No space left", "free space"),
        disk="full",
    ),
    Case(
        "full: results",
        f"{TEST} --resultDir disk",
        ("cannot write disk/melBin__mv2", "No space left", "free space"),
        disk="full",
    ),
    Case(
        "full: maps",
        f"{VISUAL} --saveDir disk",
        ("cannot write disk/gradVisual.json", "No space left", "free space"),
        disk="full",
    ),
    Case(
        "full: tables",
        f"{TABLES} results --out disk",
        ("cannot write disk/tables.md", "No space left", "free space"),
        disk="full",
    ),
    Case(
        "full: phantoms",
        f"{PHANTOMS} disk",
        ("cannot write disk/mesidor/", "No space left", "free space"),
        disk="full",
        new=("disk/mesidor",),
    ),
    Case(
        "full: prepare",
        f"{PREPARE} isic2017 --source source --dataRoot disk",
        ("cannot write disk/mel2017/img/", "No space left", "free space"),
        download(isic, text("file", "")),
        disk="full",
        new=("disk/mel2017", "disk/mel2017/*"),
    ),
    Case(
        "read only: checkpoint",
        f"{CHEX} --saveDir disk/new",
        ("cannot write disk/new", "Read-only", "another folder"),
        disk="read",
    ),
    Case(
        "read only: results",
        f"{TEST} --resultDir disk",
        ("cannot write disk/melBin__mv2", "Read-only", "another folder"),
        disk="read",
    ),
    Case(
        "read only: data",
        f"{TEST} --dataRoot disk/data --imgSize 8",
        ("cannot write the image cache at disk/data/cache", "Read-only", "--dataRoot"),
        disk="read",
    ),
    Case(
        "read only: phantoms",
        f"{PHANTOMS} disk",
        ("cannot write disk/mesidor", "Read-only", "another folder"),
        disk="read",
    ),
    Case(
        "read only: prepare",
        f"{PREPARE} isic2017 --source source --dataRoot disk --link",
        ("cannot make disk/mel2017", "Read-only"),
        download(isic, text("file", "")),
        disk="read",
    ),
    Case(
        "limit: checkpoint",
        TRAIN,
        ("cannot write new/MobileNetV2_melBin", "File too large", "free space"),
        limit=4096,
        new=("new",),
    ),
    Case(
        "limit: results",
        TEST,
        ("cannot write new/melBin__mv2.json", "File too large"),
        limit=1024,
        new=("new", "new/melBin__mv2.csv"),
    ),
    Case(
        "limit: maps",
        VISUAL,
        ("cannot write new/gradVisual.png", "File too large"),
        limit=4096,
        new=("new", "new/gradVisual.json", "new/class*.jpg"),
    ),
    Case("limit: cache", f"{TRAIN} --imgSize 32", ("cannot write data/cache", "File too large"), limit=1024, new=LOCK),
    Case(
        "limit: tables",
        f"{TABLES} results --out new",
        ("cannot write new/melBin", "File too large"),
        limit=1024,
        new=("new", "new/tables.md"),
    ),
    Case(
        "limit: prepare",
        f"{PREPARE} medmnist --source retinamnist.npz",
        ("cannot write new/mesidor/img/retinamnist_28", "File too large"),
        lambda folder: make_npz(folder / "retinamnist.npz", {"train": [[0], [1]], "val": [[0]], "test": [[4]]}),
        limit=512,
        new=("new", "new/mesidor*"),
    ),
    Case(
        "file for saveDir",
        f"{SEG} --saveDir file",
        ("cannot write file/UNet_mel", "Not a directory|File exists", "another folder"),
        TEXT,
    ),
    Case(
        "file for resultDir",
        f"{TEST} --resultDir file",
        ("cannot write file/melBin__mv2", "Not a directory|File exists", "another folder"),
        TEXT,
    ),
    Case(
        "file for maps",
        f"{VISUAL} --saveDir file",
        ("cannot write file/gradVisual", "Not a directory|File exists", "another folder"),
        TEXT,
    ),
    Case("file for data", f"{TEST_CHEX} --dataRoot file", ("cannot read the list|no list at", "file/xray"), TEXT),
    Case(
        "file for the cache",
        f"{TEST} --imgSize 8",
        ("cannot write the image cache at data/cache", "--dataRoot"),
        both(gone("data/cache"), text("data/cache", "kept")),
    ),
    Case("file for phantoms", f"{PHANTOMS} file", ("cannot write|file/mesidor",), TEXT),
    Case(
        "file for prepare",
        f"{PREPARE} isic2017 --source source --dataRoot file",
        ("cannot write file/mel2017", "another folder"),
        download(isic, TEXT),
    ),
    Case("file for tables", f"{TABLES} results --out file", ("cannot write file/tables.md", "another folder"), TEXT),
]

TOOLS = [
    Case("prepare: nothing there", f"{PREPARE} isic2017 --source none", ("--source", "none", "no such folder")),
    Case("prepare: unknown", f"{PREPARE} messidor --source data", ("'messidor'", "known are mesidor, isic2017")),
    Case(
        "prepare: into itself",
        f"{PREPARE} mesidor --source . --dataRoot data",
        ("--dataRoot data lies inside --source .", "outside it"),
    ),
    Case(
        "prepare: another folder",
        f"{PREPARE} covid19radiography --source data",
        ("COVID/images", "data, found none", "official download"),
    ),
    Case(
        "prepare: not unpacked",
        f"{PREPARE} mesidor --source source",
        ("not unpacked (Base11.zip", "unpack"),
        text("source/Base11.zip", ""),
    ),
    *(
        Case(f"npz: {how}", f"{PREPARE} medmnist --source retinamnist.npz", ("retinamnist.npz", *says), npz(how))
        for how, *says in (
            ("cut", "not a readable NumPy array", "download it again"),
            ("text", "not a readable NumPy array", "download it again"),
            ("empty", "not a readable NumPy array", "download it again"),
            ("object", "test_labels", "got dtype object", "download the archive again"),
            ("label", "test_labels, row 0", "labels of 0 to 4, got [5]"),
            ("member", "expected an array val_images", "as downloaded"),
            ("floats", "train_images: expected uint8 images", "got float32"),
            ("outside", "expected an array train_images, got ../train_images", "as downloaded"),
            ("shape", "train_images", "12288000000", "download the archive again"),
        )
    ),
    Case(
        "npz: unknown name",
        f"{PREPARE} medmnist --source blood.npz",
        ("got blood.npz", "rename it"),
        text("blood.npz", ""),
    ),
    Case(
        "xls damaged",
        f"{PREPARE} mesidor --source source",
        ("Annotation_Base11.xls is not a readable .xls", "download it again"),
        download(mesidor, cut("source/Annotation_Base11.xls")),
    ),
    Case(
        "xls a pickle",
        f"{PREPARE} mesidor --source source",
        ("Annotation_Base11.xls is not a readable .xls", "download it again"),
        download(mesidor, text("source/Annotation_Base11.xls", pickle.dumps(Malicious()))),
    ),
    Case(
        "labels: wrong column",
        f"{PREPARE} isic2017 --source source",
        ("GroundTruth.csv row 1: expected a column 'melanoma'", "official file"),
        download(isic, row(ISIC_TABLE, 1, "image_id,a,b")),
    ),
    Case(
        "labels: out of range",
        f"{PREPARE} isic2017 --source source",
        ("GroundTruth.csv row 2: expected a label of 0.0 or 1.0, got '2.0'", "mend the row"),
        download(isic, row(ISIC_TABLE, 2, "ISIC_0000001,2.0,0.0")),
    ),
    Case(
        "labels: name upwards",
        f"{PREPARE} isic2017 --source source",
        ("GroundTruth.csv row 2: expected a plain file name, got '../../x'", "mend the row"),
        download(isic, row(ISIC_TABLE, 2, "../../x,0.0,0.0")),
    ),
    Case(
        "labels: a formula",
        f"{PREPARE} chestxray14 --source source",
        ("Data_Entry_2017.csv row 2: expected a plain file name, got '=cmd()'",),
        download(chest, row("source/Data_Entry_2017.csv", 2, "=cmd(),Mass,0,1")),
    ),
    Case(
        "labels: not UTF-8",
        f"{PREPARE} chestxray14 --source source",
        ("Data_Entry_2017.csv as CSV", "download it again"),
        download(chest, text("source/Data_Entry_2017.csv", b"\xff\xfe")),
    ),
    Case(
        "labels: unknown",
        f"{PREPARE} chestxray14 --source source",
        ("Data_Entry_2017.csv row 2: ", "'Cough' does not belong"),
        download(chest, row("source/Data_Entry_2017.csv", 2, "00000001_000.png,Cough,0,1")),
    ),
    Case(
        "mask a bomb",
        f"{PREPARE} covid19radiography --source source",
        ("COVID-1.png is not a readable image", "again"),
        download(covid, lambda folder: put(folder / COVID / "COVID/masks/COVID-1.png", bomb())),
        new=("new", "new/*"),
    ),
    Case(
        "mask text",
        f"{PREPARE} covid19radiography --source source",
        ("COVID-2.png is not a readable image", "again"),
        download(covid, text(f"{COVID}/COVID/masks/COVID-2.png", "x")),
        new=("new", "new/*"),
    ),
    Case(
        "meta missing",
        f"{PREPARE} isic2017 --source source --meta none",
        ("--meta", "none: no such folder"),
        download(isic, TEXT),
    ),
    Case(
        "meta upwards",
        f"{PREPARE} isic2017 --source source --meta meta",
        ("trainbin.csv row 1: expected a plain file name, got '../a.jpg'",),
        download(isic, text("meta/trainbin.csv", "../a.jpg,0\n")),
    ),
    Case(
        "meta absolute",
        f"{PREPARE} isic2017 --source source --meta meta",
        ("trainSeg.csv row 1: expected a plain file name, got '/etc/passwd'",),
        download(isic, text("meta/trainSeg.csv", "ISIC_0000001.jpg,/etc/passwd\n")),
    ),
    Case(
        "other lists there",
        f"{PREPARE} isic2017 --source source --dataRoot data",
        ("train.csv exists with other rows", "nothing was changed", "another --dataRoot"),
        download(isic, TEXT),
    ),
    Case(
        "folder for a list",
        f"{PREPARE} isic2017 --source source",
        ("new/mel2017/train.csv: Is a directory", "check that place, or name another"),
        download(isic, a_folder("new/mel2017/train.csv")),
    ),
    Case(
        "other file there",
        f"{PREPARE} isic2017 --source source",
        ("ISIC_0000001.jpg exists and differs", "nothing was changed"),
        download(isic, text("new/mel2017/img/ISIC_0000001.jpg", "x")),
    ),
    Case(
        "phantoms over others",
        f"{PHANTOMS} data --seed 1",
        ("data/mel2017 holds phantoms made with seed 0", "another --dataRoot"),
    ),
    Case(
        "phantoms over real lists",
        f"{PHANTOMS} new",
        ("trainbin.csv is not marked as phantom", "another --dataRoot"),
        text("new/xray/trainbin.csv", "a.png,0\n"),
    ),
    Case(
        "phantoms through a link",
        f"{PHANTOMS} new",
        ("new/mesidor holds files that are not marked", "another --dataRoot"),
        a_link("new/mesidor/img/x.tif", "out"),
    ),
    Case("tables of nothing", f"{TABLES} data none", ("none is no result file", "expected the JSON")),
    Case("tables of a folder without", f"{TABLES} data", ("no result files", "in data")),
    Case(
        "results cut",
        f"{TABLES} results",
        ("melBin__mv2.json is no result file", "expected the JSON"),
        cut("results/melBin__mv2.json"),
    ),
    Case(
        "results a pickle",
        f"{TABLES} bad.json",
        ("bad.json is no result file",),
        text("bad.json", pickle.dumps(Malicious())),
    ),
    Case("results too deep", f"{TABLES} bad.json", ("bad.json is no result file",), text("bad.json", "[" * 200_000)),
    Case(
        "results without rows",
        f"{TABLES} results",
        ("melBin__mv2.json is no whole result file: it has no rows", "test again"),
        result(lambda record: record.update(rows=[])),
    ),
    Case(
        "results of odd rows",
        f"{TABLES} results",
        ("no whole result file", "another type", "test again"),
        result(lambda record: record.update(rows=[1])),
    ),
    Case(
        "results not finite",
        f"{TABLES} results",
        ("no whole result file", "not finite: accuracy"),
        result(lambda record: record["rows"][0]["scores"].update(accuracy=float("inf"))),
    ),
    Case(
        "results without hashes",
        f"{TABLES} results",
        ("it has no run.target_sha256", "test again"),
        result(lambda record: record["run"].pop("target_sha256")),
    ),
    Case(
        "unknown score",
        f"{TABLES} results --scores beauty",
        ("--scores beauty: no result holds it", "known are accuracy"),
    ),
    Case(
        "maps of another run",
        f"{VISUAL} --saveDir maps",
        ("maps holds the maps of another run", "another --saveDir"),
        text("maps/gradVisual.json", '{"run": {}}'),
    ),
    Case(
        "maps' record damaged",
        f"{VISUAL} --saveDir maps",
        ("gradVisual.csv is there already and not of this run", "another --saveDir"),
        both(text("maps/gradVisual.json", "{"), text("maps/gradVisual.csv", "x")),
    ),
]

CASES = [*ARGUMENTS, *LIST_CASES, *IMAGES, *WEIGHTS, *STATES, *DISKS, *TOOLS]

# --- running them ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, warm_interpreter: Path) -> Path:
    """Data whose caches are built, checkpoints, a finished test, and a training that was begun."""
    folder = tmp_path_factory.mktemp("world")
    make_phantoms(folder / "data", ["mel2017", "xray"], count=24, size=32)
    (folder / "weights").mkdir()
    torch.manual_seed(0)
    for name, network in (("mv2", build_model("mv2", 2)), ("mv2-14", build_model("mv2", 14))):
        torch.save(network.state_dict(), folder / "weights" / name)
    for name in ("melBin", "mel", "xray_multilabel"):
        for split in get_args(Split):
            load_data(folder / "data", read_samples(DATASETS[name].at_size(16), folder / "data", split), workers=1)
    done = run(warm_interpreter, folder, f"{TEST} --resultDir results")
    assert done.returncode == 0, done.stderr
    done = run(warm_interpreter, folder, BEGUN)
    assert done.returncode == 2 and list((folder / "weights" / "begun").glob("*.state")), done.stderr
    return folder


def run(python: Path | str, folder: Path, line: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """The command, with the warm interpreter or another."""
    words = shlex.split(line)
    script = [str(ROOT / words[0])] if words[0].endswith(".py") else ["-m", words[0]]
    usual: dict[str, Any] = {
        "cwd": folder,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "timeout": 120,
        "env": environment(),
    }
    return subprocess.run([str(python), *script, *words[1:]], text=True, check=False, **(usual | how))


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    """A copy of the world to break; the checkpoints are links to the one copy."""
    for name in ("data", "results"):
        shutil.copytree(world / name, tmp_path / name)
    (tmp_path / "weights").mkdir()
    for path in (world / "weights").iterdir():
        (tmp_path / "weights" / path.name).symlink_to(path)
    return tmp_path


def digests(folder: Path) -> dict[str, str]:
    """What is in a folder: of each file its digest, of each link its target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@contextmanager
def disk(folder: Path, kind: str) -> Iterator[None]:
    """At `disk`, a disk of its own that is full, or one that nobody may write."""
    place = folder / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k" if kind == "full" else "size=64m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only the super-user may mount a disk, and not everywhere")
    try:
        if kind == "full":
            with suppress(OSError), (place / "rest").open("wb", buffering=0) as rest:
                while True:
                    rest.write(bytes(4096))
        else:
            shutil.copytree(folder / "data", place / "data")
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def limit_files(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_fault(case: Case, folder: Path, warm_interpreter: Path) -> None:
    """Fails when bad input or a fault ends otherwise than by the status and one line, or anything that was there is
    changed, or left where it was not to be."""
    if "no CUDA" in " ".join(case.says) and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    case.breaks(folder)
    with disk(folder, case.disk) if case.disk else nullcontext():
        before = digests(folder)
        done = run(
            warm_interpreter,
            folder,
            case.line,
            input=case.stdin,
            preexec_fn=partial(limit_files, case.limit) if case.limit else None,
        )
        after = digests(folder)
    told = done.stderr.splitlines()
    assert done.returncode == case.status, done.stderr
    assert "Traceback" not in done.stderr and len([line for line in told if ": error: " in line]) == 1, done.stderr
    for says in case.says:
        assert any(part in told[-1] for part in says.split("|")), (says, told[-1])
    assert {name: digest for name, digest in after.items() if name in before} == before
    new = [name for name in after if name not in before]
    assert not [name for name in new if not any(fnmatch(name, known) for known in case.new)], new


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()[-1]


# --- output that cannot be written -----------------------------------------------------------------------------------

REPORT = f"{TABLES} results"  # some lines, quickly
BROKEN_PIPE = 128 + signal.SIGPIPE


@pytest.mark.parametrize("line", [REPORT, "trainCls.py --help", TEST])
def test_full_output(line: str, folder: Path, warm_interpreter: Path) -> None:
    """Fails when output that cannot be written ends in a traceback, or goes unnoticed, with a buffer or without."""
    unbuffered, python = ("1", sys.executable) if line == REPORT else ("", warm_interpreter)
    with Path("/dev/full").open("w") as full:
        done = run(python, folder, line, stdout=full, env=environment(PYTHONUNBUFFERED=unbuffered))
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "cannot write to standard output (No space left on device): send it to another place" in last_line(done)


def test_nobody_reads(folder: Path, warm_interpreter: Path) -> None:
    """Fails when `| head -1` ends in a traceback, or in a status that is not a pipe's."""
    read, write = os.pipe()
    os.close(read)
    for python, line in ((sys.executable, REPORT), (warm_interpreter, TRAIN)):
        done = run(python, folder, line, stdout=write, env=environment(PYTHONUNBUFFERED=""))
        assert done.returncode == BROKEN_PIPE, done.stderr
        assert "nobody reads its standard output any more; what was saved before is kept" in last_line(done)
    os.close(write)


def test_closed_streams(folder: Path) -> None:
    """Fails when a stream that is closed is read or written: the work is done all the same."""
    words = [sys.executable, "-m", "advmia", "tables", "results", "--out", "new"]
    shell = f"exec {shlex.join(words)} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", shell], cwd=folder, env=environment(), check=False).returncode == 0
    assert (folder / "new" / "tables.md").is_file()


def test_messages_that_cannot_be_told(folder: Path) -> None:
    """Fails when a full disk under standard error turns the status into another."""
    with Path("/dev/full").open("w") as full:
        assert run(sys.executable, folder, "advmia tables none", stderr=full).returncode == 2


# --- several processes, several runs, signals ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "path"),
    [(TRAIN, "new/MobileNetV2_melBin_nat_class2_maxLR0.01_weightDecay0.001"), (TEST, "new/melBin__mv2")],
    ids=["trainCls", "testCls"],
)
def test_two_writers(line: str, path: str, folder: Path, warm_interpreter: Path) -> None:
    """Fails when a second run writes what a first is writing."""
    with write_lock(folder / path):
        before = digests(folder)
        done = run(warm_interpreter, folder, line)
        assert digests(folder) == before
    assert done.returncode == 2
    assert f"another run is writing {path} now: wait for its end, or write to another folder" in last_line(done)


def test_a_bad_row_in_both_processes(folder: Path) -> None:
    """Fails when each process of a run tells of what all have met."""
    picture("image", "cut")(folder)
    done = run(sys.executable, folder, TRAIN.replace("--gpu cpu", "--gpu cpu cpu"))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "testbin.csv row 1: cannot read" in last_line(done)


def test_one_process_is_killed(folder: Path) -> None:
    """Fails when the others wait for ever, go on without it, or nobody is told: status 1, and what was there stays."""
    begun(folder)
    before = digests(folder)
    words = [sys.executable, str(ROOT / "trainCls.py"), *shlex.split(f"{TRAIN} --epoch 500 --gpu cpu cpu")[1:]]
    running = subprocess.Popen(words, cwd=folder, env=environment(), stdout=-1, stderr=-1, text=True)
    assert running.stdout is not None
    assert "epoch 1/500" in running.stdout.readline()
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 1, told
    assert "process 1 of 2 (from 0) was killed by SIGKILL" in told.splitlines()[-1] and "--resume" in told
    assert digests(folder).items() >= before.items()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal(number: int, status: int, folder: Path) -> None:
    """Fails when a signal ends a test in a traceback, or in another status than the shell's."""
    words = [sys.executable, str(ROOT / "testCls.py"), *shlex.split(TEST)[1:], "--attacks", "aa"]
    running = subprocess.Popen(words, cwd=folder, env=environment(), stdout=-1, stderr=-1, text=True)
    assert running.stdout is not None
    while running.stdout.readline().strip() != "aa":
        pass
    running.send_signal(number)
    _, told = running.communicate(timeout=60)
    assert running.returncode == status and "Traceback" not in told, told
    assert told.splitlines()[-1] == "testCls.py: stopped; the same command goes on"


# --- what is mended or kept without a word of refusal ----------------------------------------------------------------


def rows_of(path: Path) -> list[list[str]]:
    """A result CSV without the seconds."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    place = rows[0].index("seconds")
    return [row[:place] + row[place + 1 :] for row in rows]


@pytest.mark.parametrize("how", ["cut", "bit", "empty", "pickle", "facts", "facts too deep"])
def test_damaged_caches_are_built_again(how: str, folder: Path, warm_interpreter: Path) -> None:
    """Fails when pixels that are not as they were written are used, or anything in a cache file is executed."""
    for path in (folder / "data" / "cache").glob("*.json" if "facts" in how else "*.npy"):
        raw = path.read_bytes()
        evil = io.BytesIO()
        np.save(evil, np.array([Malicious()], dtype=object), allow_pickle=True)
        spoilt = {"cut": raw[:-9], "bit": flipped(raw, len(raw) // 2), "empty": b"", "pickle": evil.getvalue()}
        path.write_bytes(spoilt.get(how, b"[" * (200_000 if how == "facts too deep" else 1)))
    done = run(warm_interpreter, folder, TEST)
    assert done.returncode == 0, done.stderr
    assert rows_of(folder / "new" / "melBin__mv2.csv") == rows_of(folder / "results" / "melBin__mv2.csv")
    assert not (folder / "harm").exists()


def no_row_is_whole(record: dict[str, Any]) -> None:
    record["rows"][0].pop("scores")


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(text("results/melBin__mv2.json", b"{"), id="cut"),
        pytest.param(text("results/melBin__mv2.json", pickle.dumps(Malicious())), id="pickle"),
        pytest.param(result(no_row_is_whole), id="row"),
        pytest.param(result(lambda record: record.update(rows={"a": 1})), id="rows"),
    ],
)
def test_damaged_results_are_kept(spoil: Callable[[Path], object], folder: Path, warm_interpreter: Path) -> None:
    """Fails when results that cannot be gone on with are lost, or mixed with new ones."""
    spoil(folder)
    before = (folder / "results" / "melBin__mv2.json").read_bytes()
    done = run(warm_interpreter, folder, f"{TEST} --resultDir results")
    assert done.returncode == 0, done.stderr
    assert (folder / "results" / "melBin__mv2.json.earlier-1").read_bytes() == before
    assert json.loads((folder / "results" / "melBin__mv2.json").read_text())["rows"][0]["attack"] == "none"


def test_a_loss_that_is_no_number_keeps_the_state(world: Path, folder: Path, warm_interpreter: Path) -> None:
    """Fails when a training that failed takes its last good state with it: every weight in it is a number."""
    begun(folder)
    (state,) = (folder / "begun").glob("*.state")
    before = state.read_bytes()
    done = run(warm_interpreter, folder, RESUME)
    assert done.returncode == 2 and "the loss became nan in epoch 1, step 2 of 3" in last_line(done)
    assert state.read_bytes() == before
    network = torch.load(io.BytesIO(before[32:]), weights_only=True)["parts"]["network"]
    assert all(tensor.isfinite().all() for tensor in network.values())


def test_links_of_the_user(folder: Path, warm_interpreter: Path) -> None:
    """Fails when links that a person, or `prepare --link`, has made in the data root stop working."""
    (folder / LISTS / "img").rename(folder / "elsewhere")
    (folder / LISTS / "img").symlink_to(folder / "elsewhere")
    make_isic(folder / "source")
    (folder / "source" / "loop").symlink_to(folder / "source")
    for line in (TEST, f"{PREPARE} isic2017 --source source --link"):
        done = run(warm_interpreter, folder, line)
        assert done.returncode == 0, done.stderr
    assert (folder / "new" / "mel2017" / "img" / "ISIC_0000001.jpg").is_symlink()


def test_an_image_vanishes_midway(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Fails when a file that was there when the list was read is not named once it is gone."""
    monkeypatch.chdir(folder)
    load = cache.load_image

    def load_and_remove(path: Path, **how: Any) -> np.ndarray:
        path.with_name("ISIC_0000023.jpg").unlink(missing_ok=True)
        return load(path, **how)

    monkeypatch.setattr(cache, "load_image", load_and_remove)
    assert run_main(monkeypatch, shlex.split(f"{TEST} --imgSize 24 --workers 1")) == 2
    assert "testbin.csv row 6: cannot read" in capsys.readouterr().err


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "line", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), TRAIN, "the GPU's memory is full: try --bs 4, which"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), f"{TEST} --bs 1", "--bs 1 is the least; try a smaller"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), f"{VISUAL} --bs 9", "try --bs 4, which"),
        (MemoryError(), f"{TRAIN} --bs 9", "the memory is full: try --bs 4, which"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"), TEST, "the memory is full: try --bs 4"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried"),
            f"{TEST} --autoBatch",
            "is full: leave out --auto",
        ),
        (MemoryError(), f"{TEST} --autoBatch", "the memory is full: try --bs 4"),  # a CPU takes --bs
    ],
)
def test_full_memory(
    error: Exception,
    line: str,
    says: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Fails when memory that is full ends in a traceback, or nobody says which batch size to try."""
    monkeypatch.chdir(folder)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(training, "load_images", fail)
    assert run_main(monkeypatch, shlex.split(line)) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1, told


# --- formulas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+1 (a)", "'+1 (a)"),
        ("-cmd", "'-cmd"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("-0.25", "-0.25"),
        ("+1e-3", "+1e-3"),
        ("a=1", "a=1"),
        (-1, "-1"),
        ("", ""),
    ],
)
def test_cells(cell: object, written: str) -> None:
    """Fails when a spreadsheet would compute a cell, or a number, or text that is none, is changed."""
    assert next(csv.reader(io.StringIO(csv_text([[cell, "x"]]), newline=""))) == [written, "x"]


def test_no_formula_is_written(folder: Path, warm_interpreter: Path) -> None:
    """Fails when the name of an image or a checkpoint is a formula in any CSV file; the record keeps the name."""
    name = "=a$\\b{$\udcff"  # nor UTF-8, nor what Matplotlib takes for a formula and cannot read
    image = "=image$\\c{$.jpg"
    row(f"{LISTS}/testbin.csv", 1, f"{image},0")(folder)

    images = folder / LISTS / "img"
    images.joinpath(image).write_bytes(next(iter(sorted(images.iterdir()))).read_bytes())
    (folder / name).symlink_to(folder / "weights" / "mv2")
    test = f"{TEST} --targetWeight {shlex.quote(name)} --resultDir formulas"
    for line in (test, f"{VISUAL} --weight {shlex.quote(name)}", f"{TABLES} formulas --format csv --out formulas"):
        done = run(warm_interpreter, folder, line)
        assert done.returncode == 0, done.stderr
    for path in (f"formulas/melBin__{name}.csv", "new/gradVisual.csv", "formulas/tables.csv"):
        with (folder / path).open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert any(cell.startswith("'=") for cell in cells), path
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "\r"))], path
    record = json.loads((folder / "formulas" / f"melBin__{name}.json").read_text())
    assert (record["target_weight"], record["samples"]["file"][0]) == (name, image)
    # What is read back still fits: nothing is attacked again.
    assert "2 rows are in" in run(warm_interpreter, folder, test).stderr


# --- clock and locale ------------------------------------------------------------------------------------------------


def make_locales(place: Path) -> None:
    """Turkish and German in a folder, where the system can make them; elsewhere their names mean nothing."""
    for name in ("tr_TR", "de_DE"):
        with suppress(FileNotFoundError):
            command = ["localedef", "-i", name, "-f", "UTF-8", str(place / f"{name}.UTF-8")]
            subprocess.run(command, capture_output=True, check=False)


def test_locales_and_time_zones(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fails when a number has a comma, a letter is lowered the Turkish way, or a name that the terminal cannot show
    ends a run: files must be the same to the byte, but for seconds."""
    make_locales(place := tmp_path_factory.mktemp("locales"))
    settings = [
        {
            "LC_CTYPE": "tr_TR.UTF-8",
            "LC_NUMERIC": "de_DE.UTF-8",
            "LOCPATH": str(place),
            "TZ": "Asia/Tokyo",
            "LC_ALL": "",
        },
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "TZ": "<odd>+13:37"},
    ]
    expected = rows_of(folder / "results" / "melBin__mv2.csv")
    for number, setting in enumerate(settings):
        out = f"new {number} \N{LATIN SMALL LETTER I WITH DIAERESIS}"
        line = f"{TEST} --resultDir '{out}' --dataset MELBIN --targetModel MV2"
        done = run(sys.executable, folder, line, env=environment(**setting))
        assert done.returncode == 0, done.stderr
        assert rows_of(folder / out / "melBin__mv2.csv") == expected
        record = json.loads((folder / out / "melBin__mv2.json").read_text(encoding="ascii"))
        assert [f"{row['eps']:g}" for row in record["rows"]] == ["0", "8"]


def test_odd_clocks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a clock that begins in 1970 or steps back, or files from before, change anything that is recorded."""
    monkeypatch.chdir(folder)
    clock = count(1e6, -3600.0)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(clock) * 1e9))
    for path in (folder / LISTS / "img").iterdir():
        os.utime(path, (-1e6, -1e6))
    assert run_main(monkeypatch, shlex.split(TEST)) == 0
    assert rows_of(folder / "new" / "melBin__mv2.csv") == rows_of(folder / "results" / "melBin__mv2.csv")
    record = json.loads((folder / "new" / "melBin__mv2.json").read_text())
    assert all(row["seconds"] > 0 for row in record["rows"])
    assert run_main(monkeypatch, shlex.split(TRAIN)) == 0
    (path,) = (folder / "new").glob("*.001.json")
    epochs = json.loads(path.read_text())["epochs"]
    assert len(epochs) == 2 and all(epoch["seconds"] > 0 for epoch in epochs)
