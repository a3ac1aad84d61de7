"""The demo: trains a natural and a robust network on phantoms, attacks both, and shows what came out.

Its steps are commands that a user could type. The natural network is trained, attacked and drawn in a process of its
own, side by side with the other: images are so small here that a second thread hardly helps one network. The other
commands run in this process, because starting Python and torch for each would take long. A step that an earlier demo in
the same folder has finished does nothing.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from advmia.data.datasets import DATASETS
from advmia.entry_points import THEN, output_path, run_words
from advmia.errors import UserError
from advmia.results.read import read_records
from advmia.results.rows import CLEAN
from advmia.runtime.files import atomic_write
from advmia.runtime.signals import Stopped

DATASET, MODEL = "melBin", "mv2"
SIZE, IMAGE_SIZE = 40, 16  # pixels a side: of the phantoms, and of what the networks see
GREY_EPS = 8
EPSILONS = ("2", "4", "8")  # of the tests
EPOCHS = {"nat": 15, "pgdat": 3}
NAMES = {"nat": "natural training", "pgdat": "PGD-AT"}  # as texts call them
STEPS = 6
PAGE = "report.html"
PICTURE_HEIGHT, CAPTION_HEIGHT = 600, 40  # pixels
# More than the survey's 0.001: it keeps the natural network's logits so small that its cross-entropy has a gradient in
# float32, which PGD follows. Else PGD fails with some seeds, and the network looks robust.
WEIGHT_DECAY = "0.01"
PRIOR_SECONDS = 20  # by so many, a short first step says little about the machine

INTRODUCTION = """\
This demo trains two networks on phantoms: images drawn by a program, here of skin lesions. Each phantom shows its class
in two ways. A faint tint of the skin is easy to learn, but an attack of 8 grey levels can reverse it. The lesion's size
and colour resist such an attack, but mislead in one image of eight. Natural training learns the tint, PGD adversarial
training (PGD-AT) the lesion. So the demo shows what the two trainings do; it says nothing about medicine."""


class Guide:
    """Runs steps one after another, and says before each what it does and about how long it takes."""

    def __init__(self, steps: int) -> None:
        self._steps, self._number = steps, 0
        self._expected = self._taken = 0.0  # seconds of the steps so far

    def run(self, title: str, seconds: float, words: list[str], beside: list[str] | None = None) -> None:
        """Runs a command, and says that the command `beside` is run by the other process, if there is one.

        `seconds`: what the step takes on two cores of the machine that docs/speed.md names.
        """
        # This machine may be faster or slower than the one that the estimates are from.
        pace = (self._taken + PRIOR_SECONDS) / (self._expected + PRIOR_SECONDS)
        self._number += 1
        print(f"\n[{self._number}/{self._steps}] {title} (about {_duration(pace * seconds)})")
        for command in [beside, words] if beside else [words]:
            print(f"$ {shlex.join(_as_typed(command))}", flush=True)
        start = time.perf_counter()
        run_words(words)
        self._expected += seconds
        self._taken += time.perf_counter() - start


@contextmanager
def run_beside(commands: list[list[str]], log: Path) -> Iterator[None]:
    """Runs scripts' commands in another process during the block, waits for its end and prints its output.

    Each of the two processes gets half of the threads. If the block fails or is stopped, the other process is stopped
    too; `log` then keeps its output. Raises `UserError` if a command of the other process fails.
    """
    threads = torch.get_num_threads()
    half = max(threads // 2, 1)
    words = [word for command in commands for word in (THEN, *command)][1:]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "advmia.entry_points", *words],
            env=os.environ | {"OMP_NUM_THREADS": str(half)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C reaches this process only, which then stops the other
        )
        torch.set_num_threads(half)
        try:
            yield
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()  # it saves what it has
            raise
        finally:
            torch.set_num_threads(threads)
        output.seek(0)
        print(f"\nThe other process printed meanwhile:\n{output.read()}", end="", flush=True)
    log.unlink()
    if status:
        raise UserError(f"the other process failed with status {status}: see its last line above")


def run_demo(out: Path, gpu: list[str] | None, *, count: int, seed: int = 0) -> None:
    """Runs all steps, each announced with the time that it takes; then says what was found and where to look.

    Args:
        out: folder for everything that the demo writes.
        gpu: the device as `--gpu` names it; None for the first GPU, or the CPU if there is none.
        count: number of phantoms, a quarter of them for tests.
        seed: another seed draws other phantoms and trains other networks.

    Raises `UserError` if several devices are named, or if a step fails.
    """
    if gpu and len(gpu) > 1:
        raise UserError(f"--gpu {' '.join(gpu)}: the demo uses one device; name one")
    print(INTRODUCTION)
    try:
        sheets = _run_steps(out, count, str(seed), ["--gpu", *gpu] if gpu else [])
    except Stopped as stop:
        stop.advice = "the same command continues the demo"
        raise
    (curves,) = out.glob(f"{DATASET}*__{MODEL}.png")  # its name says that the images are phantoms
    save_side_by_side({"accuracy under attack": curves, **sheets}, out / "demo.png")
    print()
    print(f"Found: {'; '.join(findings(out))}.")
    print(f"Table: {out / 'tables.md'}, and for each image what the networks said: {out / 'results'}")
    print(f"Open first: {out / PAGE} (all of that on one page, to send too); as one picture: {out / 'demo.png'}")


def _run_steps(out: Path, count: int, seed: str, device: list[str]) -> dict[str, Path]:
    """Runs the commands, with the flags `device` for each script; returns the Grad-CAM sheets by their captions."""
    guide = Guide(STEPS)
    data = ["--dataRoot", f"{out}/data"]
    size = ["--count", str(count), "--size", str(SIZE), "--seed", seed]
    guide.run(f"Draw {count} phantoms", 2, ["advmia", "phantoms", *data, "--dataset", DATASETS[DATASET].folder, *size])
    common = ["--dataset", DATASET, *data, "--imgSize", str(IMAGE_SIZE), "--seed", seed, *device]
    train = ["trainCls.py", *common, "--model", MODEL, "--eps", str(GREY_EPS), "--bs", "8", "--valFraction", "0.05"]
    train += ["--wd", WEIGHT_DECAY, "--resume", "--saveDir", f"{out}/clsCkpt"]
    trainings = {method: [*train, "--method", method, "--epoch", str(epochs)] for method, epochs in EPOCHS.items()}
    weights = {method: str(output_path(words)) for method, words in trainings.items()}
    attack = ["testCls.py", *common, "--targetModel", MODEL, "--attacks", "pgd", "--epsilons", *EPSILONS]
    attack += ["--limit", "40", "--resultDir", f"{out}/results", "--targetWeight"]
    attacks = {method: [*attack, path] for method, path in weights.items()}
    draw = ["gradVisual.py", *common, "--model", MODEL, "--mapOf", "predicted", "--epsilons", str(GREY_EPS)]
    draw += ["--limit", "4"]
    draws = {method: [*draw, "--weight", path, "--saveDir", f"{out}/maps/{method}"] for method, path in weights.items()}
    with run_beside([trainings["nat"], attacks["nat"], draws["nat"]], out / "beside.log"):
        epochs = " and ".join(f"{EPOCHS[method]} epochs of {name}" for method, name in NAMES.items())
        guide.run(f"Train {MODEL} twice, side by side: {epochs}", 60, trainings["pgdat"], trainings["nat"])
        title = f"Attack both networks by PGD-20 at eps {', '.join(EPSILONS)}"
        guide.run(title, 30, attacks["pgdat"], attacks["nat"])
        guide.run("Draw where both networks look (Grad-CAM)", 8, draws["pgdat"], draws["nat"])
    guide.run("Make the table and the curves", 2, ["advmia", "tables", f"{out}/results", "--out", str(out)])
    maps = [f"{out}/maps/{method}" for method in weights]
    page = ["advmia", "report", f"{out}/results", "--maps", *maps, "--out", f"{out}/{PAGE}"]
    guide.run("Make a page of all results", 2, page)
    return {f"Grad-CAM: {NAMES[method]}": out / "maps" / method / "gradVisual.png" for method in weights}


def findings(out: Path) -> list[str]:
    """Returns what the results in `out` say, a phrase for each network."""
    phrases = []
    for record in read_records([out / "results"]):
        shares = {(row.attack, row.grey_eps): 100 * row.scores["accuracy"] for row in record.rows}
        clean, robust = shares[CLEAN, 0.0], shares["pgd", float(GREY_EPS)]
        name = NAMES.get(record.method.split()[0], record.method)
        phrases.append(
            f"{name} is right on {clean:.0f} % of clean images and on {robust:.0f} % under PGD-20 at eps {GREY_EPS}"
        )
    return phrases


def save_side_by_side(pictures: dict[str, Path], path: Path) -> None:
    """Writes a PNG of several pictures beside each other, each below its caption, atomically.

    `pictures`: {caption: picture}; all are scaled to `PICTURE_HEIGHT`.
    """
    scaled = {}
    for caption, picture in pictures.items():
        with Image.open(picture) as original:
            width = round(original.width * PICTURE_HEIGHT / original.height)
            scaled[caption] = original.convert("RGB").resize((width, PICTURE_HEIGHT), Image.Resampling.LANCZOS)
    size = (sum(image.width for image in scaled.values()), CAPTION_HEIGHT + PICTURE_HEIGHT)
    canvas, left = Image.new("RGB", size, "white"), 0
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=CAPTION_HEIGHT // 2)
    for caption, image in scaled.items():
        draw.text((left + image.width / 2, CAPTION_HEIGHT / 2), caption, fill="black", font=font, anchor="mm")
        canvas.paste(image, (left, CAPTION_HEIGHT))
        left += image.width
    with atomic_write(path) as temporary:
        canvas.save(temporary, format="PNG", optimize=True)


def _as_typed(words: list[str]) -> list[str]:
    """Returns the words as they are typed in the repository's folder."""
    return ["python", "-m", *words] if words[0] == "advmia" else ["python", *words]


def _duration(seconds: float) -> str:
    """Returns a rough duration: `5 s`, `1 min 20 s`."""
    rounded = max(round(seconds), 1) if seconds < 20 else 10 * round(seconds / 10)
    minutes, rest = divmod(rounded, 60)
    return " ".join(part for part in (f"{minutes} min" if minutes else "", f"{rest} s" if rest else "") if part)
