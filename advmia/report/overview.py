"""The first and the last sections: what was tested, what the checks warn of, what every check means, and all hashes."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence

from advmia.evaluation.meanings import CHECKS
from advmia.report.blocks import Block, Code, Fold, Grid, Listing, Paragraph, Section, plain_table
from advmia.report.source import Source, patient_count
from advmia.results.read import RunRecord
from advmia.results.rows import CLEAN, WORST

_PATIENTS = (
    "Patients are counted by the names of the files where the data set says how. Where a patient has several images,"
    " the true intervals are wider than those on this page, which treat images as independent."
)
_CONTENTS = {"official": "those of the official data set", "phantom": "phantoms, drawn by a program"}
_VERDICTS = ("ok", "warning", "not checked")


def tested_section(source: Source) -> Section:
    """Returns the section that says what was tested: data sets, networks, attacks."""
    records = [run.record for run in source.files]
    by_data: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        data = record.run["data"]
        content = str(data.get("content", "official"))
        patients = patient_count(record)
        images_of = (str(record.images), "unknown" if patients is None else str(patients))
        facts = (str(data.get("list", "")), *images_of, _CONTENTS.get(content, content))
        by_data[record.dataset, *facts, str(record.run["size"])].append(record)
    images = plain_table(
        "Images that networks were tested on",
        ("data set", "list", "images", "patients", "content", "pixels a side", "networks"),
        [(*facts, len({record.target for record in group})) for facts, group in by_data.items()],
        [_PATIENTS],
    )
    networks = plain_table(
        "Networks, and the attacks on them",
        ("network", "images", "attacks", "eps (grey levels out of 255)"),
        [_tested_row(source, record) for record in records],
    )
    counts = [
        _count(len({record.target for record in records}), "network"),
        _count(len({record.dataset for record in records}), "data set"),
        _count(len(records), "result file"),
    ]
    text = f"{counts[0]} on {counts[1]}, from {counts[2]}."
    return Section("tested", "What was tested", (Paragraph(text), Grid(images), Grid(networks)))


def _tested_row(source: Source, record: RunRecord) -> tuple[str, ...]:
    rows = [row for row in record.rows if row.attack not in (CLEAN, WORST)]
    epsilons = ", ".join(f"{grey_eps:g}" for grey_eps in sorted({row.grey_eps for row in rows}))
    attacks = ", ".join(dict.fromkeys(row.label for row in rows))
    return source.names[record.file_name], str(record.images), attacks, epsilons


def warnings_section(source: Source) -> Section:
    """Returns the box of all warnings, network by network, in words."""
    records = [run.record for run in source.files]
    listings = [
        Listing(source.names[record.file_name], tuple(record.warnings)) for record in records if record.warnings
    ]
    unchecked = sum("reliability" not in record.content and not record.is_unfinished for record in records)
    if listings:
        files = _count(len(listings), "result file")
        text = f"The checks warn of {files}. Numbers of such a file have the mark † and are never bold."
    else:
        text = "No check warns of a result on this page."
    if unchecked:
        text += f" Of {_count(unchecked, 'result file')}, written by an earlier version, no checks are recorded."
    return Section("warnings", "Warnings", (Paragraph(text), *listings), is_alarm=bool(listings))


def checks_section(source: Source) -> Section | None:
    """Returns the section of all checks: how often each warns, what it means, and what to do; None without any."""
    verdicts: dict[str, Counter[str]] = {name: Counter() for name in CHECKS}
    lines: dict[str, list[str]] = defaultdict(list)
    for run in source.files:
        for check in run.record.content.get("reliability") or []:
            name, verdict = str(check["check"]), str(check["verdict"])
            verdicts.setdefault(name, Counter())[verdict] += 1
            lines[name].append(f"{source.names[run.record.file_name]}: {verdict}: {check.get('reason', '')}")
    if not lines:
        return None
    rows = [(name, *(counts[verdict] for verdict in _VERDICTS)) for name, counts in verdicts.items()]
    title = "Checks of whether the numbers can be trusted: result files by verdict"
    folds = [Fold(name, _check_blocks(name, lines[name])) for name in verdicts]
    return Section("checks", "Checks", (Grid(plain_table(title, ("check", *_VERDICTS), rows)), *folds))


def _check_blocks(name: str, lines: Sequence[str]) -> tuple[Block, ...]:
    """Returns what a check means, what to do if it warns, and what it found in each file."""
    texts = CHECKS.get(name)
    told = (Paragraph(f"A warning means: {texts.meaning}"), Paragraph(f"What to do: {texts.advice}")) if texts else ()
    return (*told, Listing("", tuple(lines) or ("No result file has this check.",)))


def origins_section(source: Source) -> Section:
    """Returns the section of versions, hashes and seeds, and the command that makes the page."""
    records = [run.record for run in source.files]
    rows = []
    for record in records:
        data, training = record.run["data"], record.training or {}
        digests = (record.target, record.source if record.is_transfer else "", str(data.get("sha256", "")))
        rows.append(
            (
                source.names[record.file_name],
                record.file_name,
                training.get("seed", "not recorded"),
                record.run["seed"],
                record.run.get("precision", ""),
                *(digest[:16] for digest in digests),
                data.get("pixels_crc32", ""),
            )
        )
    header = ("network", "result file", "seed of training", "seed of attacks", "precision")
    digests_header = ("target weights", "source weights", "list", "pixels")
    table = plain_table(
        "Seeds and hashes",
        (*header, *digests_header),
        rows,
        ["Weights, list: the first 16 digits of the file's SHA-256. Pixels: CRC-32 of what networks get."],
    )
    versions = Counter(json.dumps(record.content.get("versions") or {}, sort_keys=True) for record in records)
    lines = [
        f"{_count(number, 'result file')}: {_versions_text(json.loads(text))}" for text, number in versions.items()
    ]
    names = [] if not source.options.maps else ["--maps", *map(str, source.shown_maps)]
    further = ["--scores", *source.options.scores] if source.options.scores else []
    blocks: list[Block] = [Listing("Versions", tuple(lines)), Grid(table)]
    return Section(
        "origins",
        "Versions, hashes and seeds",
        (*blocks, Code("This page is made again by", source.command("report", *further, *names))),
    )


def _versions_text(versions: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in versions.items()) or "no versions recorded"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
