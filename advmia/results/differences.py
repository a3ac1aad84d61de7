"""Texts that tell runs of one method apart, and names for networks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from advmia.results.read import SHARED_SETTINGS, RunRecord, setting_text

# Training settings that some methods lack, or whose usual value depends on the method.
_METHOD_SETTINGS = ("steps", "step_size", "beta", "gamma", "hat_step", "helper")
_ADDITIONS = ("awp", "awp_warm_up", "ema", "validate_every")  # named only where they are used


@dataclass(frozen=True)
class _Settings:
    """What a network was trained with, or tested with."""

    shared: dict[str, Any] = field(default_factory=dict)  # compared between all runs of a table
    of_method: dict[str, Any] = field(default_factory=dict)  # compared between runs of one method and eps
    digests: dict[str, Any] = field(default_factory=dict)  # compared between runs that share all other settings


def distinguish(records: Sequence[RunRecord]) -> list[str]:
    """Returns for each run of a table what tells it from the others, e.g. `trained: seed 1; tested: size 32`.

    No two runs of one method have the same text: where the settings are equal, the weights or the files differ.
    """
    trained, tested = _training_differences(records), _test_differences(records)
    texts = [_joined(parts) for parts in zip(trained, tested, strict=True)]
    for name in ("weights", "file"):
        values = [record.target[:8] if name == "weights" else record.file_name for record in records]
        keys = [(record.method, text, record.images) for record, text in zip(records, texts, strict=True)]
        for number, key in enumerate(keys):
            if len({value for value, other in zip(values, keys, strict=True) if other == key}) > 1:
                texts[number] = _joined((texts[number], f"{name} {values[number]}"))
    return texts


def identity_columns(records: Sequence[RunRecord]) -> tuple[list[str], list[list[str]]]:
    """Returns the heads and, for each run, the texts of the columns that name it: `method`, and `setting` if needed."""
    settings = distinguish(records)
    if not any(settings):
        return ["method"], [[record.method] for record in records]
    return ["method", "setting"], [[record.method, text] for record, text in zip(records, settings, strict=True)]


def run_names(records: Sequence[RunRecord]) -> list[str]:
    """Returns each run of a table by one text, e.g. `nat (tested: seed 1) (8 images)`: for footnotes and curves."""
    show_images = len({record.images for record in records}) > 1
    names = []
    for record, (method, *settings) in zip(records, identity_columns(records)[1], strict=True):
        details = [*settings, f"{record.images} images" if show_images else ""]
        names.append(" ".join([method, *(f"({detail})" for detail in details if detail)]))
    return names


def caption_facts(records: Sequence[RunRecord]) -> tuple[str, ...]:
    """Returns what a caption says of the tests in a table: the images, and the seeds of attacks and trainings."""
    images = " or ".join(dict.fromkeys(str(record.images) for record in records))
    attacks = ", ".join(dict.fromkeys(str(record.run["seed"]) for record in records))
    trained = [str(record.training["seed"]) for record in records if record.training and "seed" in record.training]
    trainings = "; ".join(dict.fromkeys(trained)) or "not recorded"
    return (f"Images: {images}. Seed of the attacks: {attacks}. Seed of the trainings: {trainings}",)


def network_names(records: Sequence[RunRecord]) -> dict[str, str]:
    """Returns a name for each target, by the SHA-256 of its weights.

    The name says the model, the method, and what tells networks of one model and method apart.
    """
    networks = list({record.target: record for record in records}.values())
    alike: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for network in networks:
        alike[network.model, network.method].append(network)
    differences: dict[str, str] = {}  # by target
    for group in alike.values():
        differences |= zip((network.target for network in group), _training_differences(group), strict=True)
    names = []
    for network in networks:
        difference = differences[network.target]
        names.append(f"{network.model} {network.method}" + (f" ({difference})" if difference else ""))
    counts = Counter(names)
    return {
        network.target: name if counts[name] == 1 else f"{name} (weights {network.target[:8]})"
        for network, name in zip(networks, names, strict=True)
    }


def _training_differences(records: Sequence[RunRecord]) -> list[str]:
    return _differences("trained", records, [_training_settings(record) for record in records])


def _training_settings(record: RunRecord) -> _Settings:
    """Returns the settings of the target's training; empty ones where they are not recorded."""
    training = record.training
    if training is None:
        return _Settings()
    data = training.get("train_data") or {}
    shared = {name: training.get(name) for name in SHARED_SETTINGS}
    shared |= {"images": data.get("images"), "content": data.get("content")}
    shared["awp_warm_up"] = shared["awp_warm_up"] or 0  # that of a training without AWP is no difference
    of_method = {name: training.get(name) for name in _METHOD_SETTINGS}
    of_method["attack_loss"] = training.get("attack_loss", "cross-entropy")  # only trainings with masks differ in it
    return _Settings(shared, of_method, _digests(data))


def _test_differences(records: Sequence[RunRecord]) -> list[str]:
    settings = [_test_settings(record) for record in records]
    return _differences("tested", records, settings, hidden=("images",))  # tables have a column for the images


def _test_settings(record: RunRecord) -> _Settings:
    run = record.run
    shared = {"seed": run["seed"], "size": run["size"], "precision": run.get("precision"), "images": record.images}
    return _Settings(shared, digests=_digests(run["data"]))


def _digests(data: dict[str, Any]) -> dict[str, Any]:
    return {"list": data.get("sha256"), "pixels": data.get("pixels_crc32")}


def _differences(
    verb: str, records: Sequence[RunRecord], settings: Sequence[_Settings], hidden: Container[str] = ()
) -> list[str]:
    """Returns `<verb>: <setting> <value>, ...` for each run: the settings whose values are not equal in all runs."""
    shared = _varying(["" for _ in settings], [own.shared for own in settings])
    of_method = _varying([record.method for record in records], [own.of_method for own in settings])
    digests = _varying([_key(own.shared) for own in settings], [own.digests for own in settings])
    texts = []
    for own, *differing_names in zip(settings, shared, of_method, digests, strict=True):
        differing = [name for names in differing_names for name in names]
        values = {**own.shared, **own.of_method, **own.digests}
        unused = [name for name in _ADDITIONS if not values.get(name)]
        shown = [
            f"{name.replace('_', ' ')} {setting_text(values[name])}"
            for name in differing
            if name not in hidden and name not in unused
        ]
        texts.append(f"{verb}: {', '.join(shown)}" if shown else "")
    return texts


def _varying(groups: Sequence[Hashable], values: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Returns for each member of a group the names of its values for which another member has another value.

    `groups`: the group of each member.
    """
    first: dict[Hashable, dict[str, Any]] = defaultdict(dict)  # by group: a value of each name
    varying: dict[Hashable, set[str]] = defaultdict(set)
    for group, own in zip(groups, values, strict=True):
        varying[group] |= {name for name, value in own.items() if first[group].setdefault(name, value) != value}
    return [[name for name in own if name in varying[group]] for group, own in zip(groups, values, strict=True)]


def _key(values: dict[str, Any]) -> Hashable:
    """Returns what is equal for equal dicts of settings."""
    return tuple((name, value if isinstance(value, Hashable) else repr(value)) for name, value in values.items())


def _joined(parts: Sequence[str]) -> str:
    return "; ".join(filter(None, parts))
