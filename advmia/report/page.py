"""One page of all results: a single HTML file that needs nothing else, without a time stamp."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from advmia.report.blocks import Section
from advmia.report.browser import browser_section
from advmia.report.charts import marker
from advmia.report.galleries import galleries_section, maps_section
from advmia.report.methods import methods_section
from advmia.report.outcomes import confusion_section, dice_section
from advmia.report.overview import checks_section, origins_section, tested_section, warnings_section
from advmia.report.pairs import pairs_section
from advmia.report.scores import (
    curves_section,
    findings_section,
    masks_section,
    strongest_section,
    tables_section,
    transfer_section,
)
from advmia.report.source import Options, Source
from advmia.report.trainings import costs_section, trainings_section
from advmia.runtime.files import write_text

TITLE = "Robustness report"
_TEMPLATE, _STYLE, _SCRIPT = "page.html", "page.css", "page.js"


def write_report(paths: Sequence[Path], out: Path, options: Options) -> Source:
    """Writes the page of the result files at `paths` to the file `out`, atomically; returns what it is of.

    Equal results give an equal file, wherever they lie. Raises `UserError` if a path is no result file, or if there is
    none.
    """
    source = Source.read(paths, options)
    write_text(out, render(source))
    return source


def render(source: Source) -> str:
    """Returns the page as HTML."""
    from jinja2 import Environment, StrictUndefined

    sections, data = sections_of(source)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    script = _resource(_SCRIPT)
    text = environment.from_string(_resource(_TEMPLATE)).render(
        title=TITLE,
        subjects=list(dict.fromkeys(run.record.dataset for run in source.files)),
        sections=sections,
        data=data,
        style=_resource(_STYLE),
        marker=marker,
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return text.encode(errors="backslashreplace").decode()  # names of files may hold bytes that are no text


def sections_of(source: Source) -> tuple[list[Section], dict[str, Any] | None]:
    """Returns the sections in their order, without those that have no data, and the data of the browser of images."""
    found = browser_section(source)
    sections = [
        tested_section(source),
        warnings_section(source),
        tables_section(source),
        curves_section(source),
        transfer_section(source),
        findings_section(source),
        masks_section(source),
        strongest_section(source),
        pairs_section(source),
        confusion_section(source),
        dice_section(source),
        trainings_section(source),
        costs_section(source),
        checks_section(source),
        methods_section(source),
        galleries_section(source),
        maps_section(source),
        found[0] if found else None,
        origins_section(source),
    ]
    return [section for section in sections if section and section.blocks], found[1] if found else None


def _resource(name: str) -> str:
    return files("advmia.report").joinpath(name).read_text(encoding="utf-8")
