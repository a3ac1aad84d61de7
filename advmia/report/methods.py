"""The section to copy into a paper: a paragraph that says how the numbers came about, and BibTeX of what it cites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from advmia.report.blocks import Code, Section
from advmia.report.references import ATTACK_TEXTS, AWP, METHODS, PUBLICATIONS, SURVEY
from advmia.report.source import Source
from advmia.results.intervals import RESAMPLES
from advmia.results.read import RunRecord
from advmia.results.rows import CLEAN, WORST, ResultRow
from advmia.results.scores import SCORES


def methods_section(source: Source) -> Section:
    """Returns the section of the methods paragraph and its BibTeX."""
    records = [run.record for run in source.files]
    keys: dict[str, None] = {SURVEY: None}
    by_dataset: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_dataset[record.dataset].append(record)
    texts = [_of_dataset(dataset, group, keys) for dataset, group in by_dataset.items()]
    seeds = sorted({str(record.run["seed"]) for record in records})
    versions = sorted({str((record.content.get("versions") or {}).get("advmia", "unknown")) for record in records})
    torches = sorted({str((record.content.get("versions") or {}).get("torch", "unknown")) for record in records})
    texts.append(
        f"The random numbers of the attacks have the seed {_joined(seeds)}. All numbers were computed with PyTorch"
        f" {_joined(torches)} and advmia {_joined(versions)}, which reproduces the experiments of a survey"
        f" ({PUBLICATIONS[SURVEY].cited})."
    )
    bibtex = "\n\n".join(PUBLICATIONS[key].bibtex(key) for key in keys)
    return Section(
        "methods", "Methods, to copy", (Code("Methods paragraph", "\n\n".join(texts)), Code("BibTeX", bibtex))
    )


def _of_dataset(dataset: str, records: Sequence[RunRecord], keys: dict[str, None]) -> str:
    """Returns the paragraph of one data set, and adds what it cites to `keys`."""
    images = _joined(dict.fromkeys(str(record.images) for record in records))
    models = _joined(dict.fromkeys(record.model for record in records))
    size = _joined(dict.fromkeys(str(record.run["size"]) for record in records))
    trainings = [record.training for record in records if record.training]
    sentences = [f"On {dataset}, networks ({models}) were tested on {images} images of {size} x {size} pixels."]
    named = dict.fromkeys(training_text(training, keys) for training in trainings)
    if named:
        sentences.append(f"They were trained by {_joined(named)}.")
    rows = [row for record in records for row in record.rows if row.attack not in (CLEAN, WORST)]
    if rows:
        sentences.append(_attacks_sentence(rows, keys))
    if any(record.is_transfer for record in records):
        sentences.append("In transfer attacks, the images were made on another network than the one that is tested.")
    if any(row.attack == WORST for record in records for row in record.rows):
        sentences.append("The worst of all attacks counts, image by image, the attack that harms the network most.")
    score = SCORES[records[0].task.selection]
    interval = "Wilson's" if score.interval == "Wilson" else f"the percentile bootstrap's ({RESAMPLES} resamples)"
    sentences.append(f"Intervals of the {score.label} are of 95 %, {interval}, over images.")
    return " ".join(sentences)


def training_text(training: dict[str, object], keys: dict[str, None]) -> str:
    """Returns e.g. `PGD adversarial training (Madry et al. 2018; eps 8/255, 10 steps of 2/255)`."""
    name = str(training["method"])
    text, cited = METHODS.get(name, (name, ()))
    facts = [PUBLICATIONS[key].cited for key in cited]
    if name != "nat":
        steps = f"{training.get('steps')} steps of {training.get('step_size') or 0:g}/255"
        facts.append(f"eps {training['eps']:g}/255, {steps}")
    if training.get("awp"):
        cited = (*cited, AWP)
        facts.append(f"with adversarial weight perturbation, {PUBLICATIONS[AWP].cited}")
    keys.update(dict.fromkeys(cited))
    facts.append(f"{training.get('epochs')} epochs")
    return f"{text} ({'; '.join(facts)})"


def _attacks_sentence(rows: Iterable[ResultRow], keys: dict[str, None]) -> str:
    """Returns the sentence that names each attack with its steps, and the eps."""
    rows = list(rows)
    texts = []
    for label, row in {row.label: row for row in rows}.items():
        text, cited = ATTACK_TEXTS.get(row.attack, (row.attack, ()))
        keys.update(dict.fromkeys(cited))
        facts = ", ".join(PUBLICATIONS[key].cited for key in cited)
        how = f"{row.steps} step{'' if row.steps == 1 else 's'}" if row.steps else ""
        starts = f"{row.restarts} random starts" if row.restarts > 1 else ""
        shown = "; ".join(filter(None, (facts, how, starts)))
        texts.append(f"{text} ({shown})" if shown else label)
    epsilons = _joined(f"{grey_eps:g}" for grey_eps in sorted({row.grey_eps for row in rows}))
    return f"They were attacked by {_joined(texts)}, with an L-infinity bound eps of {epsilons} out of 255 grey levels."


def _joined(texts: Iterable[str]) -> str:
    """Returns e.g. `a, b and c`."""
    *first, last = dict.fromkeys(texts)
    return f"{', '.join(first)} and {last}" if first else last
