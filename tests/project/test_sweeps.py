"""scripts/sweep_eps.sh and scripts/reproduce.sh, run as processes: what they list and run, and how they resume."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from advmia.data.phantoms import make_phantoms
from tests.support.running import ROOT

pytestmark = pytest.mark.slow
TAIL = "maxLR0.01_weightDecay0.001"
NATURAL = f"MobileNetV2_melBin_nat_class2_{TAIL}"
HAT = f"MobileNetV2_melBin_hat_beta6_class2_ADV8-255_10_2-255_{TAIL}"
TINY = ["--imgSize", 16, "--limit", 8, "--epoch", 2, "--bs", 8, "--gpu", "cpu", "--workers", 1, "--attacks", "fgsm"]
HAT_SWEEP = ["--dataset", "melBin", "--model", "mv2", "--methods", "hat", "nat", "--eps", "8/255", "--epsilons", 8]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module", autouse=True)
def quick_python(warm_interpreter: Path) -> Iterator[None]:
    """Makes the scripts use the warm interpreter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENT, "PYTHON", str(warm_interpreter))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_phantoms(root, ["mel2017"], count=32, size=32)
    return root


def sweep(*words: object, script: str = "sweep_eps.sh", **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a sweep script; returns the finished process."""
    return subprocess.run(
        [ROOT / "scripts" / script, *map(str, words)],
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def sweep_output(*words: object, **environment: str) -> str:
    """Runs sweep_eps.sh; returns its standard output. Fails if its exit status is not 0."""
    process = sweep(*words, **environment)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def killed_sweep(*words: object, log: Path, text: str) -> None:
    """Starts a sweep, and kills it and all its children as soon as `log` contains `text`."""
    process = subprocess.Popen(
        [ROOT / "scripts" / "sweep_eps.sh", *map(str, words)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 120
        while not (log.exists() and text in log.read_text()):
            assert process.poll() is None and time.monotonic() < end, f"{log} never contained {text}"
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the content of every file below the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def record(path: Path) -> dict:
    """Returns the content of a JSON file."""
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of an undisturbed sweep, and what it printed."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    return out, sweep_output(*HAT_SWEEP, *TINY, "--dataRoot", data, "--out", out)


def test_a_sweep_runs_what_it_lists(data: Path, undisturbed: tuple[Path, str]) -> None:
    """Fails if the commands that run differ from the listed ones, or output is missing on the screen or in the logs."""
    out, printed = undisturbed
    words = [*HAT_SWEEP, *TINY, "--dataRoot", data, "--out", out, "--dryRun"]
    listed = sweep_output(*words).splitlines()
    steps = ["train_melBin_mv2_nat", "test_melBin_mv2_nat", "train_melBin_mv2_hat_eps8", "test_melBin_mv2_hat_eps8"]
    steps.append("tables_melBin")
    assert re.findall(r"^\[\d/5\] (.*)$", printed, re.M) == steps
    logs = [(out / "logs" / f"{step}.log").read_text() for step in steps]
    assert [log.splitlines()[0] for log in logs] == [f"$ {line}" for line in listed]
    assert all(log.partition("\n")[2] in printed for log in logs)
    assert [re.findall(r"^epoch (\d)/2 loss", logs[index], re.M) for index in (0, 2)] == [["1", "2"]] * 2
    assert (out / "tables" / "tables.md").read_text() in printed
    assert len(list((out / "logs").glob("*.log"))) == len(steps)


def test_several_seeds(data: Path, tmp_path: Path) -> None:
    """Fails if a network of a seed is missing, HAT gets another seed's helper, or attacks have other random numbers."""
    words = [*HAT_SWEEP, "--dataRoot", data, "--out", tmp_path, "--dryRun"]
    lines = [shlex.split(line)[1:] for line in sweep_output(*words, "--seeds", "0 3", "--seed", 5).splitlines()]
    *commands, tables = lines
    assert tables[:3] == ["-m", "advmia", "tables"] and len(commands) == 8
    places = ["", "", "", "", "seed3/", "seed3/", "seed3/", "seed3/"]
    for place, command in zip(places, commands, strict=True):
        values = dict(pairwise(command))
        if command[0] == "trainCls.py":
            assert command[-2:] == ["--seed", place[4:-1] or "0"] or "--helperWeight" in command
            assert values.get("--helperWeight", f"{tmp_path}/clsCkpt/{place}{NATURAL}").endswith(f"/{place}{NATURAL}")
        else:
            assert values["--targetWeight"].startswith(f"{tmp_path}/clsCkpt/{place}Mobile")
            assert values["--seed"] == "5" and values["--resultDir"] == f"{tmp_path}/results"
    process = sweep(*words, "--seeds", "1", "x")
    assert process.returncode == 2 and process.stderr.endswith("--seeds takes whole numbers, got x\n")


def scores(out: Path) -> str:
    """Returns all tables except the last, which contains seconds."""
    tables, _, costs = (
        (out / "tables" / "tables.md").read_text().partition("\n\nmelBin[phantom], mv2: seconds an epoch")
    )
    assert costs.count("| hat 8") == 1
    return tables


def test_a_killed_sweep_resumes(data: Path, tmp_path: Path, undisturbed: tuple[Path, str]) -> None:
    """Fails if a resumed sweep uses an unfinished or foreign checkpoint, repeats work or makes other tables."""
    out, cut = undisturbed[0], tmp_path / "cut"
    table = scores(out)
    assert "| nat" in table and "| hat 8" in table

    (cut / "clsCkpt").mkdir(parents=True)
    (cut / "clsCkpt" / HAT).write_bytes(b"someone else's")
    words = [*HAT_SWEEP, *TINY, "--dataRoot", data, "--out", cut]
    killed_sweep(*words, log=cut / "logs" / "train_melBin_mv2_nat.log", text="epoch 1/2")
    assert record(cut / "clsCkpt" / f"{NATURAL}.json")["finished"] is False
    killed_sweep(*words, log=cut / "logs" / "test_melBin_mv2_nat.log", text="nat acc")
    trained = (cut / "clsCkpt" / NATURAL).stat().st_mtime_ns
    killed_sweep(*words, log=cut / "logs" / "train_melBin_mv2_hat_eps8.log", text="epoch 1/2")
    assert record(cut / "clsCkpt" / f"{HAT}.json")["finished"] is False
    sweep_output(*words)
    assert scores(cut) == table
    assert (cut / "clsCkpt" / NATURAL).stat().st_mtime_ns == trained
    assert (cut / "clsCkpt" / f"{HAT}.earlier-1").read_bytes() == b"someone else's"
    for name in (NATURAL, HAT):
        assert record(cut / "clsCkpt" / f"{name}.json")["finished"] is True
        assert (cut / "clsCkpt" / name).read_bytes() == (out / "clsCkpt" / name).read_bytes()


def test_a_failing_step_ends_the_sweep(data: Path, tmp_path: Path, undisturbed: tuple[Path, str]) -> None:
    """Fails if a sweep continues after a failed step, does not report it, or changes finished results."""
    root, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data, root)
    shutil.copytree(undisturbed[0], out)
    name = (root / "mel2017/testbin.csv").read_text().split()[3].split(",")[0]
    image = root / "mel2017/img" / name
    image.write_bytes(image.read_bytes()[:100])
    before = contents(out)

    process = sweep(*HAT_SWEEP, *TINY, "--dataRoot", root, "--out", out)
    log = out / "logs" / "train_melBin_mv2_nat.log"
    assert process.returncode == 2
    assert process.stderr.endswith(f"; log: {log}\n") and process.stderr.count("\n") == 1
    assert f"cannot read {image}" in log.read_text() and f"cannot read {image}" in process.stdout
    after = contents(out)
    # The log of the first run is continued.
    assert after.pop(f"logs/{log.name}").startswith(before.pop(f"logs/{log.name}"))
    assert after == before


def listed_commands(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.splitlines()]


def test_reproduce_lists_the_survey(tmp_path: Path) -> None:
    """Fails if a run of the survey is missing or listed twice, hat precedes its helper, or --dryRun creates files."""
    out = tmp_path / "two words"
    process = sweep("mesidorBin", "--dryRun", "--out", out, "--gpu", 0, script="reproduce.sh")
    assert process.returncode == 0, process.stderr
    commands = listed_commands(process.stdout)
    trainings = [words for words in commands if words[1] == "trainCls.py"]
    tests = [words for words in commands if words[1] == "testCls.py"]
    assert len(commands) == 2 * len(trainings) + 1 == 2 * 3 * (1 + 4 * 4) + 1
    assert len({tuple(words) for words in commands}) == len(commands)
    assert commands[-1][1:] == ["-m", "advmia", "tables", f"{out}/results", "--out", f"{out}/tables"]
    # Tests and trainings of HAT use the name that a training gives its checkpoint.
    targets = [words[words.index("--targetWeight") + 1] for words in tests]
    for index, words in enumerate(commands):
        assert words[0] == ENVIRONMENT["PYTHON"] and words.count("--gpu") == (words is not commands[-1])
        if "--helperWeight" in words:
            helper = words[words.index("--helperWeight") + 1]
            assert any(helper in earlier and earlier[1] == "testCls.py" for earlier in commands[:index])
            assert words[words.index("--helperModel") + 1] == words[words.index("--model") + 1]
    assert len(set(targets)) == len(targets) and f"{out}/clsCkpt/ResNet_mesidorBin_nat_class2_{TAIL}" in targets
    assert f"{out}/clsCkpt/DenseNet121_mesidorBin_hat_beta12_class2_ADV4-255_10_1-255_{TAIL}" in targets
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["sweep_eps.sh", "reproduce.sh"])
def test_help_from_any_folder(script: str) -> None:
    """Fails if --help works only in some folders, or shows something else there."""
    texts = []
    for folder, words in ((ROOT, [f"scripts/{script}"]), (ROOT / "scripts", [f"./{script}"]), (ROOT / "tests", [])):
        command = [*(words or [str(ROOT / "scripts" / script)]), "--help"]
        process = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert (process.returncode, process.stderr) == (0, "")
        texts.append(process.stdout)
    assert f"scripts/{script} " in texts[0] and "#" not in texts[0] and len(set(texts)) == 1


def test_hat_alone_has_its_helper_trained(tmp_path: Path) -> None:
    """Fails if hat is listed without the training of its natural helper, or if the helper is tested too."""
    commands = listed_commands(sweep_output(*HAT_SWEEP, "--methods", "hat", "--dryRun", "--out", tmp_path / "out"))
    scripts = ["trainCls.py", "trainCls.py", "testCls.py", "-m"]
    assert [words[1] for words in commands] == scripts
    helper = f"{tmp_path}/out/clsCkpt/{NATURAL}"
    assert commands[0][commands[0].index("--method") + 1] == "nat" and commands[1][-2:] == ["--helperWeight", helper]
    assert not list(tmp_path.iterdir())


def test_flags_go_where_they_belong(tmp_path: Path) -> None:
    """Fails if a flag that only one command has is given to the other, which refuses it."""
    listed = sweep_output(*HAT_SWEEP, "--saveEvery", 5, "--autoBatch", "--bs", 8, "--dryRun", "--out", tmp_path / "out")
    for line in listed.splitlines()[:-1]:
        assert ("--saveEvery 5" in line) == ("--resume" in line) == ("trainCls.py" in line)
        assert ("--autoBatch" in line) == ("testCls.py" in line) and "--bs 8" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods"], "a data set, a model, a method, a training eps"),
        (["--attacks", "pdg"], "testCls.py: error: argument --attacks: unknown name 'pdg'"),
        (["--saveDir", "elsewhere"], "testCls.py: error: unrecognized arguments: --saveDir elsewhere"),
    ],
    ids=str,
)
def test_bad_flags_are_refused_before_any_work(words: list[object], message: str, tmp_path: Path) -> None:
    """Fails if a flag that a later command refuses is refused only after the first training."""
    process = sweep(*HAT_SWEEP, "--out", tmp_path / "out", *words)
    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (2, "", 1), process.stderr
    assert message in process.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("status", "word"), [(130, "stopped in"), (143, "stopped in"), (2, "failed"), (137, "failed")])
def test_a_sweep_that_is_stopped_has_not_failed(status: int, word: str, tmp_path: Path) -> None:
    """Fails if Ctrl-C or SIGTERM is reported as a failure, or a failure as Ctrl-C."""
    steps = f"OUT={shlex.quote(str(tmp_path))} STEPS=(train tables) COMMANDS=('exit {status}' 'echo no'); run_steps"
    command = ["bash", "-c", f". scripts/sweep.sh; {steps}", "sweep_eps.sh"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == status and process.stdout == "[1/2] train\n"
    assert process.stderr.startswith(f"sweep_eps.sh: {word if word != 'failed' else 'train failed'} ")
    assert process.stderr.endswith(f"log: {tmp_path}/logs/train.log\n") and process.stderr.count("\n") == 1


def test_only_one_sweep_writes_to_a_folder(data: Path, tmp_path: Path) -> None:
    """Fails if a second sweep trains over the first one's checkpoints."""
    if shutil.which("flock") is None:
        pytest.skip("no flock here")
    (tmp_path / "logs").mkdir()
    with (tmp_path / "logs" / ".lock").open("w") as lock:
        subprocess.run(["flock", "-n", str(lock.fileno())], pass_fds=[lock.fileno()], check=True)
        process = sweep(*HAT_SWEEP, *TINY, "--dataRoot", data, "--out", tmp_path)
    assert process.returncode == 2 and f"another sweep is writing to {tmp_path}" in process.stderr
