"""The reliability report at the end of a run: what is probed, compared, recorded and printed."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from advmia.data.phantoms import make_phantoms
from advmia.evaluation import reliability
from advmia.evaluation.checks import Check
from advmia.evaluation.probe import Probe
from advmia.evaluation.reliability import conclude
from advmia.models import build_model
from advmia.results.read import read_results
from advmia.results.rows import CLEAN, ResultRow
from advmia.results.write import ResultFile, result_stem
from advmia.tasks import SINGLE_LABEL
from tests.evaluation.probes import HEALTHY, find, loader
from tests.evaluation.test_checks import NAMES
from tests.support.networks import trained
from tests.support.running import run_main


def results_of(folder: Path, target: str, source: str, pgd: float, seed: int = 0) -> ResultFile:
    """Writes the files of a finished run, in which the accuracy under PGD at eps 8 is `pgd`; replaces earlier ones."""
    run = {"seed": seed, "size": 16, "data": {}, "target_sha256": f"#{target}", "source_sha256": f"#{source}"}
    facts = {"dataset": "melMulti[noise]", "target_model": "mv2", "target_weight": f"a/{target}"}
    facts |= {"source_model": "mv2", "source_weight": f"b.c/{source}"}
    stem = result_stem(folder, "melMulti", Path(target), None if source == target else Path(source))
    results = ResultFile(stem, facts, ("accuracy",), run, {})
    results.json_path.unlink(missing_ok=True)
    for attack, eps, score in ((CLEAN, 0.0, 0.9), ("pgd", 8.0, pgd)):
        results.add(ResultRow(attack, eps, 0, 0.0, 8, {"accuracy": score}, 0.0, [0] * 8))
    return results


@pytest.mark.parametrize("transfer", [False, True], ids=["white-box", "transfer"])
def test_results_beside(tmp_path: Path, transfer: bool) -> None:
    """Fails if results of another target, seed or kind are compared, or those of the same target are not."""
    own = results_of(tmp_path, "t.1", "s" if transfer else "t.1", 0.5)
    others = [("t.1", "t.1" if transfer else "s", 0.5, 1), ("t.1", "s2" if transfer else "t.1", 0.5, 0)]
    others.append(("t.12", "t.12" if transfer else "s", 0.5, 0))
    for target, source, score, seed in others:
        if (target, source) != ("t.1", "t.1") or transfer:  # do not overwrite the run's own file
            results_of(tmp_path, target, source, score, seed)

    def check() -> Check:
        source = trained() if transfer else None
        return find(conclude(own, loader(count=4), SINGLE_LABEL, trained(), source), "transfer")

    assert check().verdict == "not checked"
    for score, verdicts in ((0.4, ("warning", "ok")), (0.6, ("ok", "warning"))):
        results_of(tmp_path, "t.1", "t.1" if transfer else "s", score)
        outcome = check()
        assert outcome.verdict == verdicts[transfer]
        assert "melMulti__t.1" + (".json" if transfer else "__from__s.json") in outcome.reason


def test_a_network_is_probed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a run probes again after one that has finished, also with further rows; or if it uses the probe of a run
    with other facts, of other packages or of another version."""
    calls = []

    def counting(*args: object, **named: object) -> Probe:
        calls.append(args)
        return HEALTHY

    monkeypatch.setattr(reliability, "probe_network", counting)
    results = results_of(tmp_path, "t", "t", 0.5)
    first = conclude(results, loader(), SINGLE_LABEL, trained(), None)
    assert conclude(results, loader(), SINGLE_LABEL, trained(), None) == first and len(calls) == 1
    later = replace(results, rows=[])
    later.add(replace(results.rows[-1], grey_eps=4.0))
    conclude(later, loader(), SINGLE_LABEL, trained(), None)
    assert len(calls) == 1 and len(read_results(later.json_path).rows) == 3
    results.run["seed"] = 1
    conclude(results, loader(), SINGLE_LABEL, trained(), None)
    assert len(calls) == 2
    content = json.loads(results.json_path.read_text())
    for number, name in enumerate(("flat", "versions")):
        changed = copy.deepcopy(content) | ({"versions": {"torch": "1"}} if name == "versions" else {})
        changed["probe"].pop(name, None)  # as another version may have it
        results.json_path.write_text(json.dumps(changed))
        conclude(results, loader(), SINGLE_LABEL, trained(), None)
        assert len(calls) == 3 + number, name


@pytest.mark.usefixtures("few_steps")
def test_through_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Fails if the report is not printed last, recorded, and printed again by a run that has nothing to do; if a
    transfer run does not probe the surrogate; or if it overlooks the white-box results in the same folder."""
    make_phantoms(tmp_path / "data", ["mel2017"], count=24, size=32)
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        torch.save(build_model("mv2", 2).state_dict(), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    words = ["testCls.py", "--dataset", "melBin", "--gpu", "cpu", "--imgSize", 16, "--targetModel", "mv2"]
    words += ["--targetWeight", "one", "--attacks", "fgsm", "--epsilons", 8, "--limit", 4]

    def lines(*more: str) -> list[str]:
        assert run_main(monkeypatch, [*words, *more]) == 0
        return capsys.readouterr().out.splitlines()

    printed = lines()
    record = read_results(tmp_path / "results" / "melBin__one.json")
    assert len(record.rows) == 2
    checks = [Check(**check) for check in record.content["reliability"]]
    assert [check.check for check in checks] == ["base rate", *NAMES, "training"]
    assert printed[-11:] == [check.line for check in checks]
    assert printed[-12].startswith("\teps:8-255")
    assert find(checks, "inputs").verdict == "ok"
    assert record.content["probe"]["images"] == record.images
    assert lines()[-11:] == printed[-11:]

    probed = []
    monkeypatch.setattr(
        reliability, "probe_network", lambda source, *_, target, seed: probed.append((source, target)) or HEALTHY
    )
    transferred = lines("--surrogateWeight", "two")
    assert "melBin__one.json" in next(line for line in transferred if "] transfer: " in line)
    source, target = (model.state_dict()["conv1.weight"] for model in probed[0])
    weights = [torch.load(tmp_path / name, weights_only=True)["conv1.weight"] for name in ("two", "one")]
    assert torch.equal(source, weights[0]) and torch.equal(target, weights[1])
