"""What a sweep plans from its flags and its file: which commands, in which order, and what they need."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.running import check_one_line, run_main

TAIL = "maxLR0.01_weightDecay0.001"
NATURAL = f"MobileNetV2_melBin_nat_class2_{TAIL}"
GRID = ["--dataset", "melBin", "--model", "mv2", "--methods", "hat", "nat", "--eps", "8/255", "--epsilons", 8]


class Sweep:
    """Runs `python -m advmia sweep` in this process, in an empty folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def error(self, *words: object) -> str:
        """Returns the line with which a sweep is refused."""
        status = run_main(self.monkeypatch, ["advmia", "sweep", *words])
        printed = self.capsys.readouterr()
        assert (status, printed.out, printed.err.count("\n")) == (2, "", 1), printed
        return printed.err

    def commands(self, *words: object) -> list[list[str]]:
        """Returns the commands that `--dryRun` lists, without the interpreter."""
        status = run_main(self.monkeypatch, ["advmia", "sweep", *words, "--dryRun"])
        printed = self.capsys.readouterr()
        assert status == 0, printed.err
        lists = [shlex.split(line)[1:] for line in printed.out.splitlines()]
        return [words[2:] if words[:2] == ["-m", "advmia.entry_points"] else words for words in lists]


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Sweep:
    monkeypatch.chdir(tmp_path)
    return Sweep(monkeypatch, capsys)


def value(words: list[str], flag: str) -> str:
    """Returns the value of a flag that is given once."""
    assert words.count(flag) == 1, words
    return words[words.index(flag) + 1]


def test_hat_follows_its_helper_and_tests_follow_trainings(sweep: Sweep, tmp_path: Path) -> None:
    """Fails if a test does not name the checkpoint of its training, or HAT not that of its natural helper."""
    commands = sweep.commands(*GRID, "--out", "out")
    assert [words[0] for words in commands] == ["trainCls.py", "testCls.py"] * 2 + ["-m"]
    natural, natural_test, hat, hat_test, tables = commands
    assert value(natural, "--method") == "nat" and value(hat, "--helperModel") == "mv2"
    assert value(hat, "--helperWeight") == value(natural_test, "--targetWeight") == f"out/clsCkpt/{NATURAL}"
    assert "_hat_beta6_class2_ADV8-255_10_2-255_" in value(hat_test, "--targetWeight")
    assert tables == ["-m", "advmia", "tables", "out/results", "--out", "out/tables", "--plan", "out/plan.json"]
    assert not list(tmp_path.iterdir())


def test_a_helper_is_not_tested(sweep: Sweep) -> None:
    """Fails if HAT is planned without its helper's training, or if the helper is tested though nobody asked for it."""
    commands = sweep.commands(*GRID, "--methods", "hat")
    assert [words[0] for words in commands] == ["trainCls.py", "trainCls.py", "testCls.py", "-m"]


def test_each_data_set_takes_the_networks_and_methods_of_its_task(sweep: Sweep) -> None:
    """Fails if findings or masks cannot be in a grid with single labels, or are trained with what is not for them."""
    words = ["--datasets", "melBin", "xray_multilabel", "mel", "--models", "mv2", "unet", "--methods", "nat", "mart"]
    commands = sweep.commands(*words, "--eps", 2, 4)
    trainings = [
        (w[0], *(value(w, f"--{name}") for name in ("model", "method", "eps"))) for w in commands if "--method" in w
    ]
    assert trainings == [
        ("trainCls.py", "mv2", "nat", "0"),
        ("trainCls.py", "mv2", "mart", "2"),
        ("trainCls.py", "mv2", "mart", "4"),
        ("trainChex.py", "mv2", "nat", "0"),
        ("trainSeg.py", "unet", "nat", "0"),
    ]
    assert {w[0] for w in commands} == {f"{k}{t}.py" for k in ("train", "test") for t in ("Cls", "Chex", "Seg")} | {
        "-m"
    }
    folders = {value(w, "--saveDir") for w in commands if "--saveDir" in w}
    assert folders == {"sweep/clsCkpt", "sweep/segckpt"}


def test_flags_go_to_the_commands_that_have_them(sweep: Sweep) -> None:
    """Fails if a flag is given to a command that refuses it, or a later value does not replace an earlier one."""
    *commands, _ = sweep.commands(*GRID, "--saveEvery", 5, "--AUTOBATCH", "--bs", 8, "--bs=4")
    for words in commands:
        is_training = words[0] == "trainCls.py"
        assert ("--saveEvery" in words) == ("--resume" in words) == is_training
        assert ("--AUTOBATCH" in words) == ("--epsilons" in words) == (not is_training)
        assert value(words, "--bs") == "4"


def test_seeds(sweep: Sweep) -> None:
    """Fails if a network of a seed is missing, HAT gets another seed's helper, or attacks have other random numbers."""
    *commands, _ = sweep.commands(*GRID, "--seeds", "0 3", "--seed", 5)
    assert len(commands) == 8
    for place, words in zip(["", "", "", "", "seed3/", "seed3/", "seed3/", "seed3/"], commands, strict=True):
        values = dict(pairwise(words))  # the last one of each flag, which counts
        if words[0] == "trainCls.py":
            assert values["--seed"] == (place[4:-1] or "0")
            assert values.get("--helperWeight", f"sweep/clsCkpt/{place}{NATURAL}") == f"sweep/clsCkpt/{place}{NATURAL}"
        else:
            assert values["--targetWeight"].startswith(f"sweep/clsCkpt/{place}Mobile") and values["--seed"] == "5"
    assert "--seeds: expected whole numbers, got 'x'" in sweep.error(*GRID, "--seeds", 1, "x")


def test_transfer_pairs(sweep: Sweep) -> None:
    """Fails if a natural network is not tested once by each other one, or by other attacks than those named."""
    words = [*GRID, "--models", "mv2", "res18", "chexnet", "--attacks", "pgd", "--transfer"]
    pairs = [
        (value(w, "--surrogateModel"), value(w, "--targetModel"), value(w, "--attacks"))
        for w in sweep.commands(*words)
        if "--surrogateWeight" in w
    ]
    models = ("mv2", "res18", "chexnet")
    assert sorted(pairs) == sorted((one, other, "pgd") for one in models for other in models if one != other)
    named = [" ".join(w) for w in sweep.commands(*words, "fgsm", "cw") if "--surrogateWeight" in w]
    assert len(named) == 6 and all("--attacks fgsm cw" in line and "pgd" not in line for line in named)


def test_only_some_steps(sweep: Sweep, tmp_path: Path) -> None:
    """Fails if `--only train` tests, or `--only test` trains or tests a network that has no checkpoint."""
    assert [w[0] for w in sweep.commands(*GRID, "--only", "train")] == ["trainCls.py"] * 2
    assert sweep.commands(*GRID, "--only", "test") == []
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / NATURAL).touch()
    test, tables = sweep.commands(*GRID, "--only", "test", "--saveDir", "mine", "--resultDir", "r", "--tableDir", "t")
    assert value(test, "--targetWeight") == f"mine/{NATURAL}" and value(test, "--resultDir") == "r"
    assert tables == ["-m", "advmia", "tables", "r", "--out", "t", "--plan", "sweep/plan.json"]


def test_a_file_says_the_same_as_flags(sweep: Sweep, tmp_path: Path) -> None:
    """Fails if a grid in a file differs from the same in flags, or if a flag does not replace what the file says."""
    (tmp_path / "grid.toml").write_text(
        'datasets = ["melBin"]\nmodels = ["mv2"]\nmethods = ["nat", "hat"]\neps = [2, 4.5]\nseeds = [0, 1]\n'
        'attacks = ["fgsm", "pgd"]\nepsilons = [8]\ntransfer = ["cw"]\n'
        "[flags]\nimgSize = 16\nautoBatch = false\n[train]\nbs = 8\n[test]\nbs = 4\nautoBatch = true\n"
    )
    words = ["--datasets", "melBin", "--models", "mv2", "--methods", "nat", "hat", "--seeds", 0, 1, "--attacks", "fgsm"]
    words += ["pgd", "--epsilons", 8, "--transfer", "cw", "--imgSize", 16]
    from_file = sweep.commands("--grid", "grid.toml")
    from_flags = sweep.commands(*words, "--eps", 2, 4.5)
    assert len(from_file) == len(from_flags) == 13
    for mine, theirs in zip(from_file[:-1], from_flags[:-1], strict=True):
        place = mine.index("--bs")
        assert mine[place + 1] == ("8" if mine[0] == "trainCls.py" else "4")
        del mine[place : place + 2]
        assert ("--autoBatch" in mine) == (mine[0] == "testCls.py")
        assert sorted(word for word in mine if word != "--autoBatch") == sorted(theirs)
    replaced = sweep.commands("--grid", "grid.toml", "--eps", 1, "--seeds", 0, "--bs", 2)
    assert [value(w, "--bs") for w in replaced[:-1]] == ["2"] * 4
    assert [value(w, "--eps") for w in replaced if "--eps" in w] == ["0", "1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epsilon = [1]", "unknown key epsilon: expected datasets, models"),
        ("datasets = [[1]]", "datasets: expected a text, a number, or a list of these"),
        ("datasets = ", "cannot read the grid grid.toml: Invalid value"),
    ],
)
def test_a_wrong_file_is_refused(text: str, message: str, sweep: Sweep, tmp_path: Path) -> None:
    """Fails if a mistake in the file is not reported in a line that names the file."""
    (tmp_path / "grid.toml").write_text(text)
    check_one_line(sweep.error("--grid", "grid.toml", "--dryRun"), message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a sweep needs a data set, a network, a method, a training eps"),
        ([*GRID, "--attacks", "pdg"], "testCls.py: error: argument --attacks: unknown name 'pdg'"),
        ([*GRID, "--eps", "x"], "argument --eps"),
        ([*GRID, "--helperModel", "mv2"], "--helperModel: the sweep gives it to each command"),
        ([*GRID, "--speed", "2"], "--speed: no command of this sweep has this flag"),
        ([*GRID, "--dataset", "nil"], "unknown data set 'nil'"),
        ([*GRID, "--models", "mv2", "resnet"], "resnet: no data set of this sweep takes a network or a method"),
        ([*GRID, "--methods", "nat", "pgd"], "pgd: no data set of this sweep takes a network or a method"),
        ([*GRID, "--model", "unet"], "melBin: none of the networks unet and methods hat, nat is for single-label"),
        (["--status", "--out", "none"], "none/plan.json is no plan of a sweep"),
    ],
    ids=["nothing", "attack", "eps", "filled", "unknown", "dataset", "model", "method", "task", "status"],
)
def test_bad_input_is_refused_before_any_work(words: list[object], message: str, sweep: Sweep, tmp_path: Path) -> None:
    """Fails if something wrong is found only after the first training, in more than a line, or changes files."""
    assert message in sweep.error(*words)
    assert not list(tmp_path.iterdir())


def test_the_plan_as_json(sweep: Sweep, tmp_path: Path) -> None:
    """Fails if the plan lacks a command, names a need that comes later, or says that another file is written."""
    commands = sweep.commands(*GRID, "--transfer", "--models", "mv2", "res18")
    assert (
        run_main(
            sweep.monkeypatch, ["advmia", "sweep", *GRID, "--transfer", "--models", "mv2", "res18", "--plan", "p.json"]
        )
        == 0
    )
    steps = json.loads((tmp_path / "p.json").read_text())["steps"]
    assert [
        shlex.split(step["command"])[-len(words) :] for step, words in zip(steps, commands, strict=True)
    ] == commands
    writes = {step["name"]: step["writes"] for step in steps}
    for number, step in enumerate(steps):
        earlier = [each["name"] for each in steps[:number]]
        assert set(step["needs"]) <= set(earlier)
        if step["kind"] == "test":
            assert writes[step["needs"][0]] == value(shlex.split(step["command"]), "--targetWeight")
    assert steps[-1]["needs"] == [step["name"] for step in steps if step["kind"] == "test"]
    assert writes["test_melBin_res18_nat_from_mv2"].endswith(".json") and len(set(writes.values())) == len(steps)
