"""The folder of a test's contact sheets: a PNG each, and the index that `advmia.results.sheets` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advmia.attacks import ATTACKS
from advmia.errors import UserError
from advmia.evaluation.attacked import AttackRun
from advmia.results.sheets import INDEX_NAME, pictures_folder
from advmia.results.write import ResultFile
from advmia.runtime.files import read_json_object, write_json, write_lock

_FACTS = ("attack", "restarts", "eps", "count")  # on which the sheets of an attack depend, beside the run


def check_folder(record: Path, run: dict[str, Any], flag: str) -> None:
    """Raises `UserError` if there are files in a folder, and its record does not say that this run has written them.

    `record`: the path of a JSON file in the folder, with the facts of the run as its `run`. `flag`: for the message.
    """
    folder, content = record.parent, read_json_object(record)
    is_used = folder.exists() and (not folder.is_dir() or any(folder.glob("[!.]*")))
    if is_used and (content is None or content.get("run") != json.loads(json.dumps(run))):
        raise UserError(f"{folder} exists and holds nothing of this run: rename it, or leave out {flag}")


class SheetFolder:
    """The contact sheets beside a result file. Files that the same run did not write are never overwritten."""

    def __init__(self, results: ResultFile) -> None:
        """Checks the folder, and creates nothing yet.

        Raises `UserError` if the folder holds sheets of another run, or files without an index.
        """
        self.folder = pictures_folder(results.json_path)
        self._run, self._dataset = results.run, results.facts["dataset"]
        check_folder(self.folder / INDEX_NAME, self._run, "--pictures")

    def has(self, runs: Sequence[AttackRun], count: int) -> bool:
        """Returns whether the folder has all sheets of an attack at these eps, drawn with this --pictures."""
        facts = _facts(runs, count)
        found = [entry for entry in self._entries() if _is_of(entry, facts)]
        return bool(found) and all(
            _is_of(entry, facts, *_FACTS) and (self.folder / entry["file"]).is_file() for entry in found
        )

    def begin(self) -> None:
        """Records that this run writes here, so that it can replace its own sheets after an interruption."""
        with self._locked():
            self._write(self._entries())

    def add(self, runs: Sequence[AttackRun], count: int, entries: Sequence[dict[str, Any]]) -> None:
        """Lists the sheets of an attack, which are written, and removes those that were drawn of it before."""
        facts = _facts(runs, count)
        with self._locked():
            earlier = self._entries()
            kept = [entry for entry in earlier if not _is_of(entry, facts)]
            order = {name: number for number, name in enumerate(ATTACKS)}
            new = [*kept, *({**entry, **facts} for entry in entries)]
            self._write(sorted(new, key=lambda entry: (order.get(entry["attack"], len(order)), entry["restarts"])))
            for name in {entry["file"] for entry in earlier} - {entry["file"] for entry in new}:
                (self.folder / Path(name).name).unlink(missing_ok=True)

    def path(self, run: AttackRun, number: int) -> Path:
        """Returns the path of an attack's sheet: `pgd.png`, `pgd-x5.png` of 5 restarts; the second is `pgd-2.png`."""
        return self.folder / f"{run.file_name}{f'-{number}' if number > 1 else ''}.png"

    def _locked(self) -> Any:
        return write_lock(self.folder / INDEX_NAME, wait=True)

    def _entries(self) -> list[dict[str, Any]]:
        """Returns the entries of the index; [] if there is none, or a damaged one."""
        entries: Any = (read_json_object(self.folder / INDEX_NAME) or {}).get("sheets")
        is_sound = isinstance(entries, list) and all(isinstance(entry, dict) and "file" in entry for entry in entries)
        return entries if is_sound else []

    def _write(self, entries: list[dict[str, Any]]) -> None:
        content = {"run": self._run, "dataset": self._dataset, "sheets": entries}
        write_json(self.folder / INDEX_NAME, content, indent=1)


def _facts(runs: Sequence[AttackRun], count: int) -> dict[str, Any]:
    """Returns the facts of an attack's sheets. `runs`: the attack at each eps, ascending."""
    epsilons = [run.budget.grey_eps for run in runs]
    return {"attack": runs[0].name, "restarts": runs[0].restarts, "eps": epsilons, "count": count}


def _is_of(entry: dict[str, Any], facts: dict[str, Any], *names: str) -> bool:
    """Returns whether an entry has the same facts; by default, whether it is of the same attack."""
    return all(entry.get(name) == facts[name] for name in names or ("attack", "restarts"))
