"""Cards of checkpoints: right, harmless whatever names hold, and readable by the programs that they are for."""

from __future__ import annotations

import json
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from yaml import safe_load

from advmia.checkpoints.paths import card_paths
from advmia.report.card import write_cards
from advmia.report.card_markdown import escaped, yaml
from advmia.results.read import read_records
from advmia.results.scored import ScoredRun, score_run
from tests.report.made import made
from tests.results.examples import EXAMPLES, save
from tests.support.running import run_main

NASTY = "\"'><script>alert('x')</script> | `a` [b](javascript:c) # & ü 肺😀 \u2028\n---\n{{ 7 }}: - *d* \\ " + 300 * "n"


def runs_of(*paths: Path) -> list[ScoredRun]:
    return [score_run(record) for record in read_records(paths)]


def metadata_of(text: str) -> Any:
    _, head, _ = re.split(r"^---$", text, maxsplit=2, flags=re.M)
    return safe_load(head)


@pytest.fixture
def checkpoint(world: Path, tmp_path: Path) -> Path:
    """An untrained network in a folder `clsCkpt`, and its results in `results` beside it."""
    path = tmp_path / "clsCkpt" / "network7"
    path.parent.mkdir()
    shutil.copy(world / "weights" / "mv2", path)
    content = made(7, 40)
    digest = sha256(path.read_bytes()).hexdigest()
    content["run"] |= {"target_sha256": digest, "source_sha256": digest}
    content["target_training"] |= {"dataset": "melBin", "size": 16, "train_data": {"content": "phantom"}}
    settings = content["target_training"]
    facts = {"selection": {"score": "accuracy", "chosen_on": "test list"}, "best_epoch": 2, "weights_sha256": digest}
    save(tmp_path / "clsCkpt", "network7", {"settings": settings, "epochs": [], **facts})
    save(tmp_path / "results", "x", content)
    return path


def test_a_card_beside_its_weights(checkpoint: Path, tmp_path: Path) -> None:
    """Fails if a score, a fact or a limit of the card is not that of the result file or of the training's record."""
    (written,) = write_cards(runs_of(tmp_path / "results"), tmp_path / "elsewhere")
    markdown, facts = card_paths(checkpoint)
    assert written == markdown and not (tmp_path / "elsewhere").exists()
    card, text = json.loads(facts.read_text()), markdown.read_text()
    content = json.loads((tmp_path / "results" / "x.json").read_text())
    scores = {(line["attack"], line["eps"]): line["value"] for line in card["evaluation"]}
    expected = {(row["attack"], row["eps"]): row["scores"]["accuracy"] for row in content["rows"]}
    assert scores == expected
    (index,) = metadata_of(text)["model-index"]
    (result,) = index["results"]
    assert index["name"] == "network7" and result["dataset"]["type"] == "skin[phantom]"
    metrics = result["metrics"]
    assert {(found["args"]["attack"], found["args"]["eps"]): found["value"] for found in metrics} == expected
    assert all(found["args"]["interval"][0] <= found["value"] <= found["args"]["interval"][1] for found in metrics)
    assert card["training"]["best_epoch"] == 2 and card["model"]["classes"] == ["class 0", "class 1"]
    for sentence in ("Trained and tested on phantoms", "chosen on the test list", "small perturbations"):
        assert any(sentence in limit for limit in card["limits"]) and sentence in text
    assert "No check warns." in text and "@article{dong2024survey," in text


@pytest.mark.usefixtures("small_networks")
def test_the_lines_that_load_it_do(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the Python of the card does not load the network."""
    write_cards(runs_of(tmp_path / "results"), tmp_path)
    (code,) = re.findall(r"```python\n(.*?)\n```", card_paths(checkpoint)[0].read_text(), re.S)
    monkeypatch.chdir(checkpoint.parent)
    names: dict[str, Any] = {"x": torch.zeros(1, 3, 16, 16)}
    exec(code, names)
    assert names["logits"].shape == (1, 2) and not names["model"].training


def test_the_same_results_give_the_same_card(checkpoint: Path, tmp_path: Path) -> None:
    """Fails if a card depends on where it is made, is written twice, or an edited one is lost."""
    results, paths = tmp_path / "results", card_paths(checkpoint)
    write_cards(runs_of(results), tmp_path)
    before = [path.read_bytes() for path in paths]
    write_cards(runs_of(results / "x.json"), tmp_path)
    assert [path.read_bytes() for path in paths] == before and not list(checkpoint.parent.glob("*.earlier-*"))
    paths[0].write_text("edited")
    write_cards(runs_of(results), tmp_path)
    assert paths[0].read_bytes() == before[0]
    assert paths[0].with_name(f"{paths[0].name}.earlier-1").read_text() == "edited"


def test_a_card_of_weights_that_are_elsewhere(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if a card lies beside other weights, or one without weights is lost or not announced."""
    checkpoint.write_bytes(b"other weights")
    (written,) = write_cards(runs_of(tmp_path / "results"), tmp_path / "cards")
    assert written.parent == tmp_path / "cards" and written.name.startswith("network7.") and written.is_file()
    message = capsys.readouterr().err
    assert message == f"the weights clsCkpt/network7 are not here: their card is {written}\n"
    assert json.loads(written.with_suffix(".json").read_text())["training"].keys() == {"text", "settings"}


def test_names_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a name becomes a tag, a link, a heading, another cell or other metadata, or breaks the code."""
    check = {"check": "mode", "verdict": "warning", "reason": NASTY}
    content = made(1, 20, dataset=NASTY, target_model=NASTY, target_weight=NASTY.replace("/", "") + "\udcff")
    content["run"]["declaration"] = {"classes": [NASTY, "b"]}
    content["target_training"] |= {"dataset": NASTY, "model": NASTY, "method": NASTY, "normalize": NASTY}
    save(tmp_path / "results", "x", content | {"reliability": [check]})
    (written,) = write_cards(runs_of(tmp_path / "results"), tmp_path / "cards")
    text = written.read_text()
    result = metadata_of(text)["model-index"][0]["results"][0]
    assert result["dataset"]["type"] == NASTY
    body = text.split("\n---\n", 2)[1]
    code = re.search(r"```python\n(.*?)\n```", body, re.S)
    assert code is not None
    compile(code[1], "card", "exec")
    body = body.replace(code[0], "")
    assert "<" not in body and not re.search(r"(?<!\\)\[b", body) and not re.search(r"(?<!\\)`a", body)
    headings = re.findall(r"^#.*$", body, re.M)
    assert [line for line in headings if line.startswith("## ")] == [
        f"## {title}"
        for title in (
            *("Model", "Intended use", "Limits", "Data", "Training", "Evaluation", "Warnings of the checks"),
            *("Load it", "Cite"),
        )
    ]
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert rows and {len(re.findall(r"(?<!\\)\|", line)) for line in rows if "alert" not in line} <= {3, 13}
    assert written.with_suffix(".json").is_file()


def test_yaml_is_read_back() -> None:
    """Fails if a value is read as another one: numbers as texts, 1 as true, a sign that YAML does not allow."""
    value = {
        "texts": ["", NASTY, "yes", "1e3", "\x00\x85\ufeff\u2028\U0001f600", "- a: b"],
        "numbers": [0, 1, -2, 1e-7, 0.1, 1e22, True, False, None],
        "nested": [{"a": 1, "b": [{"c": "d"}, {}], "e": {}}, [1, [2, 3]], []],
    }
    assert safe_load(yaml(value)) == value


def test_escaped() -> None:
    """Fails if a mark of Markdown or HTML stays one."""
    assert escaped("<b> & *a* [c](d)\n# e `f` \\ $g$") == r"&lt;b&gt; &amp; \*a\* \[c\](d) \# e \`f\` \\ \$g\$"


def test_the_flag(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Fails if `report --card` writes no card, or a card beside results is taken for a damaged one."""
    words = ["advmia", "report", tmp_path / "results", "--out", tmp_path / "results" / "page.html", "--card"]
    assert run_main(monkeypatch, words) == 0
    assert f"card in {card_paths(checkpoint)[0]}\n" in capsys.readouterr().out
    shutil.copy(card_paths(checkpoint)[1], tmp_path / "results")
    assert run_main(monkeypatch, words) == 0


def test_cards_of_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a task, or a network that was attacked through another one, has no card."""
    monkeypatch.chdir(EXAMPLES)
    written = write_cards(runs_of(Path("results")), tmp_path)
    assert len(written) == len({path.name for path in written}) == 8
    results = [metadata_of(path.read_text())["model-index"][0]["results"] for path in written]
    types = {metric["type"] for (result, *_) in results for metric in result["metrics"]}
    assert types == {"accuracy", "roc_auc", "dice", "mean_iou"}
