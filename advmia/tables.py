"""From result files to a table of robust scores, and curves over eps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from advmia.errors import UserError
from advmia.files import whole_file, write_text
from advmia.results import CLEAN, read_results

# One row of a table is one result file: results are put side by side, never averaged.
_IDENTITY = ["model", "method", "from", "images"]


def gather(paths: Sequence[Path]) -> pd.DataFrame:
    """One line per (result file, attack, eps): dataset, model, method, from, images, attack, eps, score_name, score.

    `paths`: result files (.json) or folders of them. Raises `UserError` when there are none.
    """
    files = sorted({file for path in paths for file in (path.glob("*.json") if path.is_dir() else [path])})
    lines = [line for file in files for line in _lines(file)]
    if not lines:
        raise UserError(f"no result files (.json, written by the test scripts) in {', '.join(map(str, paths))}")
    return pd.DataFrame(lines)


def _lines(file: Path) -> list[dict[str, Any]]:
    record = read_results(file)
    if record is None:
        raise UserError(f"{file} is no result file: expected the JSON that a test script wrote, or a folder of such")
    facts = {
        "dataset": record["dataset"],
        "model": record["target_model"],
        "method": _method(record),
        "from": "" if record["source_weight"] == record["target_weight"] else Path(record["source_weight"]).name,
        "file": file.name,
    }
    return [
        {
            **facts,
            "images": row["n"],
            "attack": row["attack"],
            "eps": row["eps"],
            "score_name": next(iter(row["scores"])),  # the task's first: accuracy, mean AUROC or Dice
            "score": next(iter(row["scores"].values())),
        }
        for row in record["rows"]
    ]


def _method(record: dict[str, Any]) -> str:
    """`pgdat 8`: method and training eps, from the checkpoint's record; else the checkpoint's file name."""
    training = record.get("target_training")
    if not training:
        return Path(record["target_weight"]).name
    return training["method"] if training["method"] == "nat" else f"{training['method']} {training['eps']:g}"


def robustness_table(results: pd.DataFrame) -> pd.DataFrame:
    """Scores in percent of one data set: a row per result file, a column per attack and eps, `clean` first."""
    column = results.apply(lambda row: "clean" if row["attack"] == CLEAN else f"{row['attack']} {row['eps']:g}", axis=1)
    table = (100 * results["score"]).groupby([*(results[key] for key in [*_IDENTITY, "file"]), column]).first()
    wide = table.unstack().reindex(columns=list(dict.fromkeys(column)))
    return wide.round(1).reset_index().drop(columns="file")


def to_markdown(table: pd.DataFrame) -> str:
    """A table as aligned Markdown."""
    cells = [[str(name) for name in table.columns], *([_cell(value) for value in row] for row in table.to_numpy())]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.1f}"
    return str(value)


def write_tables(paths: Sequence[Path], out: Path | None) -> str:
    """All tables as Markdown; with `out`, also `<out>/tables.md` and one picture of curves per data set."""
    results = gather(paths)
    sections = []
    for dataset, part in results.groupby("dataset", sort=True):
        table = robustness_table(part)
        name = part["score_name"].iloc[0]
        sections.append(
            f"{dataset}: {name} in percent, by attack and eps (grey levels out of 255)\n\n{to_markdown(table)}"
        )
        if out is not None:
            plot_curves(part, str(dataset), out / f"{dataset}.png")
    text = "\n".join(sections)
    if out is not None:
        write_text(out / "tables.md", text)
    return text


def plot_curves(results: pd.DataFrame, dataset: str, path: Path) -> None:
    """Score over eps, one panel per attack, one curve per result file; the clean score stands at eps 0."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    attacks = [attack for attack in dict.fromkeys(results["attack"]) if attack != CLEAN]
    if not attacks:
        return
    with plt.style.context("tableau-colorblind10"):
        figure, panels = plt.subplots(
            1, len(attacks), figsize=(1 + 4 * len(attacks), 4), sharey=True, squeeze=False, layout="constrained"
        )
        for panel, attack in zip(panels[0], attacks, strict=True):
            for marker, (_, curve) in zip("osD^vP*X" * len(results), results.groupby("file", sort=True), strict=False):
                shown = curve[curve["attack"].isin([CLEAN, attack])].sort_values("eps")
                first = curve.iloc[0]
                name = f"{first['model']} {first['method']}" + (f" from {first['from']}" if first["from"] else "")
                panel.plot(shown["eps"], 100 * shown["score"], marker=marker, label=name)
            panel.set(title=attack, xlabel="eps (grey levels out of 255)", ylim=(-2, 102))
            panel.grid(alpha=0.3)
        panels[0][0].set_ylabel(f"{results['score_name'].iloc[0]} (%)")
        panels[0][-1].legend()
        figure.suptitle(f"{dataset}, {results['images'].max()} images")
        with whole_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
        plt.close(figure)
