"""Result files as they come: read, checked, each counted once, and told apart by what they differ in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from advmia.results.read import SHARED_SETTINGS, RunRecord, setting_text

ABSENT = object()  # of a training that nothing is recorded of
# Training settings that belong to a method, and are compared between networks of one method and eps alone.
_METHODS_OWN = ("steps", "step_size", "beta", "gamma", "hat_step", "helper")


def distinguish(entries: Sequence[RunRecord]) -> list[str]:
    """For each entry what it differs in from the others of its table, so that no two of one method read alike."""
    shown: list[list[str]] = [[] for _ in entries]
    _tell(shown, "trained", entries, [_trained(entry) for entry in entries])
    _tell(shown, "tested", entries, [_tested(entry) for entry in entries])
    texts = ["; ".join(parts) for parts in shown]
    for name in ("weights", "file"):
        values = [entry.target[:8] if name == "weights" else str(entry.file) for entry in entries]
        alike = [(entry.method, text, entry.images) for entry, text in zip(entries, texts, strict=True)]
        for at, key in enumerate(alike):
            if len({value for value, other in zip(values, alike, strict=True) if other == key}) > 1:
                texts[at] = "; ".join(filter(None, [texts[at], f"{name} {values[at]}"]))
    return texts


def network_names(entries: Sequence[RunRecord]) -> dict[str, str]:
    """A name for each target, by the SHA-256 of its weights: model, method, and what equal ones differ in."""
    networks = list({entry.target: entry for entry in entries}.values())
    names = []
    for entry in networks:
        rivals = [other for other in networks if (other.model, other.method) == (entry.model, entry.method)]
        shown: list[list[str]] = [[] for _ in rivals]
        _tell(shown, "trained", rivals, [_trained(rival) for rival in rivals])
        names.append(" ".join([entry.model, entry.method, *(f"({part})" for part in shown[rivals.index(entry)])]))
    return {
        entry.target: name if names.count(name) == 1 else f"{name} (weights {entry.target[:8]})"
        for entry, name in zip(networks, names, strict=True)
    }


Facts = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]  # for the reader, of the method alone, and hashes


def _trained(entry: RunRecord) -> Facts:
    training = entry.training
    if training is None:
        return {}, {}, {}
    data = training.get("train_data") or {}
    plain = {name: training.get(name) for name in SHARED_SETTINGS}
    plain |= {"images": data.get("images"), "content": data.get("content")}
    own = {name: training.get(name) for name in _METHODS_OWN}
    return plain, own, {"list": data.get("sha256"), "pixels": data.get("pixels_crc32")}


def _tested(entry: RunRecord) -> Facts:
    run, data = entry.record["run"], entry.record["run"]["data"]
    plain = {"seed": run["seed"], "size": run["size"], "precision": run.get("precision"), "images": entry.images}
    return plain, {}, {"list": data.get("sha256"), "pixels": data.get("pixels_crc32")}


def _tell(shown: list[list[str]], verb: str, entries: Sequence[RunRecord], facts: Sequence[Facts]) -> None:
    """Appends to each entry's parts `<verb>: <fact> <value>, ...` of those facts that differ."""
    told: list[list[str]] = [[] for _ in entries]
    for tier in range(3):
        names = dict.fromkeys(name for fact in facts for name in fact[tier])
        for name in names:
            for at, entry in enumerate(entries):
                # A method's own settings are compared within the method; a hash where all else is equal.
                rivals = [
                    fact[tier].get(name, ABSENT)
                    for other, fact in zip(entries, facts, strict=True)
                    if (tier != 1 or other.method == entry.method) and (tier != 2 or fact[0] == facts[at][0])
                ]
                value = facts[at][tier].get(name, ABSENT)
                if (verb, name) == ("tested", "images"):  # a column of their own
                    continue
                if value is not ABSENT and any(rival is not ABSENT and rival != value for rival in rivals):
                    told[at].append(f"{name.replace('_', ' ')} {setting_text(value)}")
    for parts, words in zip(shown, told, strict=True):
        parts += [f"{verb}: {', '.join(words)}"] if words else []
