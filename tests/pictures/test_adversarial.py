"""The files of attacked images: other code reads them as they were scored, and a killed test completes them."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from advmia.models import build_model
from advmia.pictures import adversarial
from advmia.results import partial
from tests.pictures.commands import CLASSES, FINDINGS, MASKS, RunTest, lines_of, results_of, row_of
from tests.support.documents import code_blocks
from tests.support.kills import Killed
from tests.support.running import check_one_line

FEW = ["--epsilons", 8, "--saveAdversarial"]


def folder_of(out: Path) -> Path:
    (folder,) = out.glob("*.adversarial")
    return folder


def outcomes(folder: Path, model: nn.Module) -> list[tuple[dict[str, str], torch.Tensor]]:
    """Returns each line of the index, and the logits of its image, which the code in docs/testing.md reads."""
    names: dict[str, Any] = {}
    (code,) = code_blocks("docs/testing.md", "python")
    exec(code, names)
    with torch.no_grad():
        return [
            (line, model.eval()(torch.from_numpy(pixels)[None])[0]) for line, pixels in names["read_attacked"](folder)
        ]


def network(name: str, classes: int) -> nn.Module:
    """Returns a network of the world."""
    model = build_model(name, classes)
    file = {("mv2", 14): "mv2-14"}.get((name, classes), name)
    model.load_state_dict(torch.load(Path("weights") / file, weights_only=True))
    return model


def contents(folder: Path) -> dict[str, bytes]:
    """Returns all files below a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("noise", ["colour", "grey"])
def test_an_outsider_scores_the_classes(noise: str, run_test: RunTest, tmp_path: Path) -> None:
    """Fails if the documented lines of NumPy, which read index and files, and the network give another class than the
    result rows, of any image, attack or rounding; or if a rounded image is no PNG."""
    command = [*CLASSES, "--attacks", "pgd", "fgsm", "--restarts", 2, "--eightBit", *FEW]
    if noise == "grey":
        command += ["--dataset", "xrayBin", "--noise", "grey"]
    assert run_test(command, "out") == 0
    results, seen = results_of(tmp_path / "out"), set()
    for line, logits in outcomes(folder_of(tmp_path / "out"), network("mv2", 2)):
        index, is_rounded = int(line["index"]), line["eight_bits"] == "yes"
        row = row_of(results, line["attack"], float(line["eps"]), eight_bits=is_rounded)
        assert int(logits.argmax()) == row["outcomes"][index] == int(line["predicted"])
        assert line["image"] == results["samples"]["file"][index]
        assert int(line["label"]) == results["samples"]["label"][index]
        assert (line["form"] == "png") >= is_rounded
        assert line["restarts"] == ("2" if line["attack"] == "pgd" else "1")
        seen.add((line["attack"], is_rounded, index, line["form"]))
    assert len(seen) == 2 * 2 * len(results["samples"]["file"])
    assert {form for _, is_rounded, _, form in seen if not is_rounded} >= {"npy"}


def test_an_outsider_scores_masks_and_findings(run_test: RunTest, tmp_path: Path) -> None:
    """Fails if Dice or a finding's logit of a saved image is not that of the result row, or if an attack on each
    finding does not save an image against each."""
    assert run_test(MASKS, "masks", "--attacks", "pgd-dice", *FEW, "--limit", 2) == 0
    results = results_of(tmp_path / "masks")
    for line, _ in outcomes(folder_of(tmp_path / "masks"), network("unet", 2)):
        expected = row_of(results, "pgd-dice", 8)["outcomes"][int(line["index"])]
        assert [float(line["dice"]), float(line["iou"])] == pytest.approx(expected)
        assert line["label"] == results["samples"]["label"][int(line["index"])]
    assert run_test(FINDINGS, "findings", "--attacks", "pgd", "pgd-finding", *FEW, "--limit", 3) == 0
    results, findings = results_of(tmp_path / "findings"), set()
    names = list(results["rows"][0]["scores"])[1:]
    for line, logits in outcomes(folder_of(tmp_path / "findings"), network("mv2", 14)):
        expected = row_of(results, line["attack"], 8)["outcomes"][int(line["index"])]
        said = [line[f"logit {name}"] for name in names]
        for number, name in enumerate(names):
            if line["finding"] in ("", name):
                assert float(logits[number]) == pytest.approx(expected[number], abs=1e-4)
                assert float(said[number]) == pytest.approx(expected[number])
            else:
                assert said[number] == ""
        label = results["samples"]["label"][int(line["index"])]
        assert line["label"] == "b" + "".join(str(int(bit)) for bit in label)
        findings.add((line["index"], line["finding"]))
    assert findings == {(str(index), name) for index in range(3) for name in ("", *names)}


def test_a_killed_test_completes_the_folder(
    run_test: RunTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if a test that was killed after a batch, continued without saving images, and run again with it, leaves
    other files than an undisturbed one, or attacks images whose files are there."""
    words = ["--attacks", "fgsm", "pgd", "--bs", 2, *FEW]
    assert run_test(CLASSES, "undisturbed", *words) == 0
    expected = contents(folder_of(tmp_path / "undisturbed"))
    saves, save = 0, partial.PartialEvaluation.save

    def save_and_die(self: partial.PartialEvaluation, state: dict[str, Any]) -> None:
        nonlocal saves
        save(self, state)
        saves += 1
        if saves == 4:  # three batches of clean images, then one of fgsm
            raise Killed

    monkeypatch.setattr(partial, "_SAVE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(partial.PartialEvaluation, "save", save_and_die)
        with pytest.raises(Killed):
            run_test(CLASSES, "killed", *words)
    folder = folder_of(tmp_path / "killed")
    assert sorted(path.name for path in folder.rglob("*.n*")) == ["0.npy", "1.npy"]
    (folder / "fgsm-eps8" / ".0.npy.1999999999.tmp").write_text("left by the kill")
    capsys.readouterr()
    assert run_test(CLASSES, "killed", *words[:-1]) == 0
    assert run_test(CLASSES, "killed", *words) == 0
    said = capsys.readouterr().err
    assert "fgsm eps 8: 4 images are attacked again" in said and "pgd eps 8: 6 images are attacked again" in said
    assert contents(folder) == expected
    (folder / "pgd-eps8" / "3.npy").unlink()
    assert run_test(CLASSES, "killed", *words) == 0
    said = capsys.readouterr().err
    assert said.count("attacked again") == 1 and "pgd eps 8: 1 images are attacked again" in said
    assert contents(folder) == expected


def test_the_same_command_continues(run_test: RunTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a killed test that is started again attacks an image twice that was saved with its progress."""
    words = ["--attacks", "fgsm", "--bs", 2, *FEW]
    written: list[str] = []
    write = adversarial._write_image

    def write_or_die(folder: Path, name: str, x: torch.Tensor) -> None:
        if len(written) == 5:
            written.append("killed")
            raise Killed
        write(folder, name, x)
        written.append(name)

    monkeypatch.setattr(partial, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(adversarial, "_write_image", write_or_die)
    with pytest.raises(Killed):
        run_test(CLASSES, "killed", *words)
    assert run_test(CLASSES, "killed", *words) == 0
    assert written == ["0", "1", "2", "3", "4", "killed", "4", "5"]
    assert run_test(CLASSES, "undisturbed", *words) == 0
    assert contents(folder_of(tmp_path / "killed")) == contents(folder_of(tmp_path / "undisturbed"))


def test_a_full_disk(
    run_test: RunTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if a disk that is full while an image is written ends in a traceback, or a part of the image stays."""

    def write_part(file: Any, array: np.ndarray) -> None:
        file.write(b"part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(adversarial.np, "save", write_part)
    assert run_test(CLASSES, "out", "--attacks", "fgsm", *FEW) == 2
    said = capsys.readouterr().err
    check_one_line(said[said.index("testCls.py: error") :], "cannot write")
    assert "fgsm-eps8/0.npy (No space left on device): free space" in said
    assert not [path for path in folder_of(tmp_path / "out").rglob("*") if "npy" in path.name]


def test_rows_of_two_commands(run_test: RunTest, tmp_path: Path) -> None:
    """Fails if a second command for another attack loses lines of the index, or its images differ from those of one
    command for both."""

    def run(out: str, *attacks: str) -> None:
        assert run_test(CLASSES, out, *FEW, "--attacks", *attacks) == 0

    run("one", "fgsm", "pgd")
    run("two", "fgsm")
    run("two", "pgd")
    assert contents(folder_of(tmp_path / "two")) == contents(folder_of(tmp_path / "one"))
    shutil.rmtree(folder_of(tmp_path / "two") / "fgsm-eps8")
    run("two", "pgd")
    assert {line["attack"] for line in lines_of(folder_of(tmp_path / "two") / "index.csv")} == {"pgd"}
