"""Checkpoints and training states that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.faults import RESUME, TEST, TEST_CHEX, TEST_SEG, TRAIN, VISUAL, Case, parameters
from tests.support.spoiling import bad_checkpoint, copy_interrupted, spoil_state

HAT = "--method hat --helperModel mv2 --helperWeight"


def bad_weights(how: str, *messages: str, command: str = TEST + " --targetWeight bad", process: bool = False) -> Case:
    """A command that is given the file `bad` of `bad_checkpoint`."""
    name = f"weights: {how}, {command.split('.')[0]}"
    return Case(name, command, ("bad ", *messages), bad_checkpoint(how), process=process)


NO_CHECKPOINT = ("is no checkpoint", "expected a state_dict of tensors")
CODE = ("holds objects of posix.mkdir", "save the network's state_dict alone")
WEIGHTS = [
    Case("weights missing", f"{TEST} --targetWeight none", ("no checkpoint at none", "train one, or check the path")),
    Case("weights of no text", f"{TEST} --targetWeight w\udcff", ("no checkpoint at w\\udcff", "check the path")),
    Case("weights a folder", f"{VISUAL} --weight data", ("data is a folder", "expected a checkpoint file")),
    Case("of another model", TEST_SEG, ("weights/mv2 holds weights of mv2, not of unet", "name the model")),
    Case("of other classes", f"{TEST} --targetWeight weights/mv2-14", ("has 14 classes, but melBin has 2",)),
    Case("of fewer classes", f"{TEST_CHEX} --targetWeight weights/mv2", ("has 2 classes", "has 14")),
    Case("helper missing", f"{TRAIN} {HAT} none", ("no checkpoint at none",)),
    Case("helper of other classes", f"{TRAIN} {HAT} weights/mv2-14", ("has 14 classes",)),
    *(bad_weights(how, *NO_CHECKPOINT) for how in ("cut", "empty", "text", "pickle")),
    *(bad_weights(how, *NO_CHECKPOINT) for how in ("script", "tar")),
    *(bad_weights(how, *CODE) for how in ("zip", "old pickle")),
    bad_weights("bit", "is damaged: the checksum of", "download it again"),
    bad_weights("nan", "not finite (linear.weight", "train it again"),
    bad_weights("wrapped optimizer", "holds a dict of step: expected a state_dict of tensors"),
    bad_weights("optimizer", "entries that are no tensors, epoch (int), optimizer (dict): expected a state_dict"),
    bad_weights("twice", "holds this network 2 times, as net., ema.: keep one"),
    bad_weights("entries", "not of mv2: they have extra, 7; they lack bn1.weight"),
    bad_weights("scalar", "has 0 classes, but melBin has 2"),
    bad_weights("shape", "does not fit mv2", "linear.weight"),
    bad_weights("zip", *CODE, command=f"{TEST} --surrogateWeight bad", process=True),
    bad_weights("nan", "not finite", command=f"{TEST} --surrogateWeight bad"),
    bad_weights("pickle", *NO_CHECKPOINT, command=f"{TRAIN} {HAT} bad"),
    bad_weights("nan", "not finite", command=f"{TRAIN} {HAT} bad"),
    bad_weights("old pickle", *CODE, command=f"{VISUAL} --weight bad"),
    bad_weights("pickle", *NO_CHECKPOINT, command=f"{TEST_SEG} --targetWeight bad"),
]


def bad_state(how: str, message: str, process: bool = False) -> Case:
    """A resumed training whose state file is damaged or malicious."""

    def change(folder: Path) -> None:
        copy_interrupted(folder)
        spoil_state(folder / "interrupted", how)

    return Case(f"state: {how}", RESUME, (message, "leave out --resume"), change, process=process)


STATES = [
    *(bad_state(how, ".state is damaged") for how in ("cut", "bit", "empty")),
    *(bad_state(how, "UnpicklingError", process=how == "zip") for how in ("pickle", "zip", "text")),
    bad_state("incomplete", ".state"),
    Case(
        "state of another training",
        f"{RESUME} --bs 4",
        ("batch_size was 8, is 4", "leave out --resume"),
        copy_interrupted,
    ),
    Case(
        "loss not a number",
        f"{TRAIN} --lr 1e30",
        ("the loss became nan in epoch 1, step 2 of 3", "a lower --lr", "kept"),
        leaves=("new",),
    ),
    Case(
        "weights blown up in the last step",
        f"{TRAIN} --lr 1e30 --bs 32",
        ("after epoch 1, ", "not all finite", "a lower --lr", "kept"),
        leaves=("new",),
    ),
]

CASES = [*WEIGHTS, *STATES]


@parameters(CASES)
def test_fault(case: Case, check_case: Callable[[Case], None]) -> None:
    """Fails if a command accepts what is bad, does not say what and where in one line, or changes a file."""
    check_case(case)
