"""The page in a real browser: nothing fails, nothing is fetched, tables sort, images are found, everyone can use it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advmia.report.page import write_report
from advmia.report.source import Options
from advmia.results.sheets import INDEX_NAME, pictures_folder
from tests.report.made import made, save_all
from tests.results.examples import EXAMPLES
from tests.support.browser import DESKTOP, PHONE, Browser, Page

NASTY = "\"'><script>alert('x')</script></script><img src=x onerror=alert(1)> & ü 肺 \u2028 {{ 7 * 7 }} " + 300 * "n"
IMAGES = 120
# Everything is laid out, also what is far below.
STYLE = "{textContent: 'section { content-visibility: visible; }'}"
ALL_SHOWN = f"document.head.append(Object.assign(document.createElement('style'), {STYLE}))"
OPEN_FOLDS = "for (const fold of document.querySelectorAll('details')) fold.open = true"


def nasty_content() -> dict:
    """Returns the content of a result file whose every name would do harm in a page that does not escape it."""
    check = {"check": "mode", "verdict": "warning", "reason": f"random {NASTY}"}
    content = made(2, IMAGES, method="trades", classes=3, dataset=NASTY, target_model=NASTY, target_weight=NASTY)
    content["samples"]["file"][0] = NASTY
    content["samples"]["file"][1] = "a file whose name is no text: \udcff.png"
    content["run"]["declaration"] = {"classes": [NASTY, "b", "c"]}
    return content | {"reliability": [*content["reliability"], check]}


@pytest.fixture(scope="module")
def contents() -> dict[str, dict]:
    """The contents of the result files by their names."""
    files = {"a": made(0, IMAGES), "b": made(1, IMAGES, method="pgdat"), "nasty": nasty_content()}
    files["a"]["rows"][1]["notes"]["queries"] = [5000 - image for image in range(IMAGES)]
    files["a"]["rows"][2]["notes"]["margin"] = [(image % 7) - 2.5 for image in range(IMAGES)]
    transfer = made(
        1, IMAGES, method="pgdat", rows=[row for row in made(0, IMAGES)["rows"] if row["attack"] != "worst"]
    )
    transfer["run"]["source_sha256"] = files["a"]["run"]["target_sha256"]
    return files | {"transfer": transfer}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, contents: dict[str, dict]) -> Path:
    """A page that has every section but Grad-CAM maps."""
    folder = save_all(tmp_path_factory.mktemp("page") / "results", contents)
    pictures = pictures_folder(folder / "a.json")
    pictures.mkdir()
    Image.fromarray(np.full((40, 60, 3), 128, np.uint8)).save(pictures / "pgd.png")
    sheet = {"file": "pgd.png", "attack": "pgd", "restarts": 1, "eps": [2.0, 8.0], "images": [], "alt": f"alt {NASTY}"}
    (pictures / INDEX_NAME).write_text(json.dumps({"run": contents["a"]["run"], "sheets": [sheet]}))
    page = folder.parent / "report.html"
    write_report([folder, EXAMPLES / "results"], page, Options())
    return page


@pytest.fixture(scope="module")
def page(browser: Browser, file: Path) -> Page:
    opened = browser.open(file)
    opened.evaluate(ALL_SHOWN)
    return opened


def choose(page: Page, **values: object) -> list[int]:
    """Chooses values in the browser of images, by the fields' names; returns the images that it finds, on all pages."""
    for name, value in values.items():
        kind = "input" if name in ("file", "margin") else "change"
        field = f"document.getElementById('browser').elements[{json.dumps(name)}]"
        page.evaluate(f"{field}.value = {json.dumps(str(value))}, {field}.dispatchEvent(new Event('{kind}')), 0")
    found: list[int] = []
    while True:
        rows = "[...document.querySelectorAll('#images-table tbody tr')].map(row => Number(row.dataset.image))"
        found += page.evaluate(rows)
        if page.evaluate("document.getElementById('next').disabled"):
            return found
        page.evaluate("document.getElementById('next').click()")


def test_nothing_fails_and_nothing_is_fetched(page: Page) -> None:
    """Fails if the page logs an error, shows a dialogue of an injected script, or asks for anything but itself."""
    page.evaluate(OPEN_FOLDS)
    assert (page.errors, page.foreign_requests) == ([], [])
    assert page.evaluate("document.querySelectorAll('script:not([type])').length") == 1
    assert page.evaluate("[...document.images].every(image => image.src.startsWith('data:'))")
    assert page.evaluate("Promise.all([...document.images].map(image => image.decode())).then(all => all.length)") == 1
    assert "7 * 7" in page.evaluate("document.body.textContent")


def test_every_section_is_there_in_order(page: Page) -> None:
    """Fails if a section is missing, warnings come after the first number, or headings skip a level."""
    sections = page.evaluate("[...document.querySelectorAll('section')].map(section => section.id)")
    assert sections == [
        *("tested", "warnings", "tables", "curves", "transfer", "findings", "strongest", "differences"),
        *("confusion", "dice", "trainings", "costs", "checks", "methods", "pictures", "images", "origins"),
    ]
    links = page.evaluate("[...document.querySelectorAll('nav a')].map(link => link.getAttribute('href').slice(1))")
    assert links == sections
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(head => Number(head.tagName[1]))")
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


@pytest.mark.parametrize(("size", "dark"), [(PHONE, False), (DESKTOP, True)])
def test_everyone_can_use_it(page: Page, size: tuple[int, int], dark: bool) -> None:
    """Fails if axe-core finds a serious fault, or the page is wider than a phone."""
    page.resize(size)
    page.prefer(dark=dark)
    page.evaluate(OPEN_FOLDS)
    assert page.barriers() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    page.resize(DESKTOP)
    page.prefer(dark=False)


def test_every_table_sorts(page: Page) -> None:
    """Fails if a column of a table is not in order after its button was pressed, or in the other after the second."""
    script = """
    [...document.querySelectorAll('.sort')].filter(button => {
      const head = button.closest('th'), body = button.closest('table').tBodies[0];
      const texts = () => [...body.rows].map(row => row.cells[head.cellIndex].textContent.trim());
      const before = texts().sort().join('\\n');
      const numbers = list => list.map(text => parseFloat(text.replace(/^[<+]/, '')));
      return !['ascending', 'descending'].every((direction, times) => {
        button.click();
        const filled = texts().filter(Boolean), values = numbers(filled);
        const isNumeric = values.every(value => !Number.isNaN(value));
        const ordered = isNumeric ? (times ? values.reverse() : values) : [];
        const inOrder = ordered.every((value, place) => place === 0 || ordered[place - 1] <= value);
        const emptyLast = texts().every((text, place) => text === '' ? place >= filled.length : place < filled.length);
        const isSame = texts().sort().join('\\n') === before;
        return inOrder && emptyLast && isSame && head.getAttribute('aria-sort') === direction;
      });
    }).map(button => button.closest('table').caption.textContent + ': ' + button.textContent)
    """
    assert page.evaluate(script) == []
    assert page.evaluate("document.querySelectorAll('.sort').length") > 100


@pytest.mark.parametrize(("name", "run"), [("a", "skin[phantom], mv2: nat"), ("nasty", NASTY)])
def test_filter_finds_the_fooled_images(page: Page, contents: dict[str, dict], name: str, run: str) -> None:
    """Fails if the browser finds other images than the result file says were fooled, right, wrong or of a label."""
    content = contents[name]
    labels = np.array(content["samples"]["label"])
    is_right = {(row["attack"], row["eps"]): np.array(row["outcomes"]) == labels for row in content["rows"]}
    clean = is_right.pop(("none", 0.0))
    runs = page.evaluate("JSON.parse(document.getElementById('data').textContent).runs")
    (number,) = [number for number, found in enumerate(runs) if found["name"].startswith(run)]
    heads = [row["head"] for row in runs[number]["rows"]]
    choose(page, run=number, file="", label="", kind="all")
    for (attack, eps), left in is_right.items():
        found = choose(page, row=heads.index(f"{attack} {eps:g}"), kind="fooled", label="")
        assert found == np.flatnonzero(clean & ~left).tolist() and (found or eps < 8)
        assert choose(page, label=1) == np.flatnonzero(clean & ~left & (labels == 1)).tolist()
    assert choose(page, kind="all", label="") == list(range(IMAGES))
    assert choose(page, kind="wrong") == np.flatnonzero(~clean).tolist()
    withstood = np.all(list(is_right.values()), axis=0)
    assert choose(page, kind="robust") == np.flatnonzero(clean & withstood).tolist()
    assert choose(page, kind="fooled-by-any") == np.flatnonzero(clean & ~withstood).tolist()
    last = content["samples"]["file"][-1]
    assert choose(page, kind="all", file=last.upper()) == [IMAGES - 1]


def test_an_image_says_what_fooled_it(page: Page, contents: dict[str, dict]) -> None:
    """Fails if the row of an image names another prediction, smallest eps or attack than the result file."""
    rows = {(row["attack"], row["eps"]): row for row in contents["a"]["rows"]}
    runs = page.evaluate("JSON.parse(document.getElementById('data').textContent).runs")
    (number,) = [number for number, found in enumerate(runs) if found["name"].startswith("skin[phantom], mv2: nat")]
    heads = [row["head"] for row in runs[number]["rows"]]
    choose(page, run=number, file="", label="")
    found = choose(page, row=heads.index("worst 8"), kind="fooled", file="")
    shown = page.evaluate("[...document.querySelector('#images-table tbody tr').cells].map(cell => cell.textContent)")
    image = page.evaluate("Number(document.querySelector('#images-table tbody tr').dataset.image)")
    assert image in found
    first_eps = next(
        eps for eps in (2, 4, 8) if rows["worst", eps]["outcomes"][image] != rows["none", 0]["outcomes"][image]
    )
    attack = rows["worst", 8]["attacks"][rows["worst", 8]["notes"]["attack"][image]]
    predicted = [f"class {rows[key]['outcomes'][image]}" for key in (("none", 0), ("worst", 8))]
    label = f"class {contents['a']['samples']['label'][image]}"
    file = contents["a"]["samples"]["file"][image]
    assert shown == [file, label, *predicted, str(first_eps), "fooled", attack]
    (last,) = choose(page, row=1, kind="all", file=contents["a"]["samples"]["file"][-1])
    cells = "[...document.querySelector('#images-table tbody tr').cells]"
    assert page.evaluate(f"{cells}.at(-1).textContent") == str(5000 - last)


def test_images_near_an_error_are_found(page: Page, contents: dict[str, dict]) -> None:
    """Fails if the filter by margin finds other images than the result file says, or is offered where none is known."""
    margins = np.array(contents["a"]["rows"][2]["notes"]["margin"])
    runs = page.evaluate("JSON.parse(document.getElementById('data').textContent).runs")
    natural, robust = (
        next(number for number, run in enumerate(runs) if run["name"].startswith(f"skin[phantom], mv2: {method}"))
        for method in ("nat", "pgdat 8")
    )
    rows = [(row["attack"], row["eps"]) for row in runs[natural]["rows"]]
    chosen = contents["a"]["rows"][2]
    choose(page, run=natural, file="", label="", kind="all")
    row = rows.index((chosen["attack"], chosen["eps"]))
    assert choose(page, row=row, margin=0.5) == np.flatnonzero(margins <= 0.5).tolist()
    assert choose(page, margin="") == list(range(IMAGES))
    hidden = "document.getElementById('browser').elements.margin.closest('label').hidden"
    assert not page.evaluate(hidden)
    assert choose(page, run=robust, kind="all") == list(range(IMAGES)) and page.evaluate(hidden)


def test_findings_and_masks_can_be_searched(page: Page) -> None:
    """Fails if the browser finds other images than those whose findings changed, or whose masks became bad."""
    runs = page.evaluate("JSON.parse(document.getElementById('data').textContent).runs")
    for stem, is_fooled in (
        (
            "xray_multilabel__MobileNetV2_xray_multilabel_nat",
            lambda clean, left: ((clean > 0) != (left > 0)).any(axis=1),
        ),
        ("mel__UNet_mel_NAT", lambda clean, left: (clean[:, 0] >= 0.5) & (left[:, 0] < 0.5)),
    ):
        (path,) = (EXAMPLES / "results").glob(f"{stem}*.json")
        content = json.loads(path.read_text())
        clean, left = (np.array(row["outcomes"]) for row in content["rows"][:2])
        name = f"{content['dataset']}, {content['target_model']}: nat"
        (number,) = [number for number, run in enumerate(runs) if run["name"] == name]
        choose(page, run=number, file="", kind="all")
        found = choose(page, row=1, kind="fooled")
        assert found == np.flatnonzero(is_fooled(clean, left)).tolist()
        assert choose(page, kind="all") == list(range(len(clean)))


def test_print(page: Page, tmp_path: Path) -> None:
    """Fails if the page cannot be printed, or what is folded is missing from the paper."""
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = false")
    page.print(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0


OPENED = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"  # milliseconds


@pytest.mark.slow
@pytest.mark.parametrize(("files", "images"), [(500, 8), (1, 25_000)])
def test_a_large_page_opens_within_two_seconds(browser: Browser, files: int, images: int, tmp_path: Path) -> None:
    """Fails if 500 result files or 25,000 images open slower, fill the page with rows, or are not searched at once."""
    methods = ("nat", "pgdat", "trades", "mart")
    contents = {str(number): made(number, images, method=methods[number % 4]) for number in range(files)}
    write_report([save_all(tmp_path / "results", contents)], tmp_path / "page.html", Options(per_seed=True))
    opened = browser.open(tmp_path / "page.html")
    milliseconds = [opened.evaluate(OPENED)]
    for _ in range(2):  # other programs may slow down one of them
        opened.load()
        milliseconds.append(opened.evaluate(OPENED))
    assert 0 < min(milliseconds) < 2000
    outcomes = [np.array(row["outcomes"]) for row in contents["0"]["rows"]]
    fooled = (outcomes[0] == np.arange(images) % 2) & (outcomes[-1] != np.arange(images) % 2)
    assert opened.evaluate("document.querySelectorAll('#images-table tbody tr').length") == min(images, 50)
    set_kind = "document.getElementById('browser').elements.kind.value = 'fooled'"
    searched = "document.getElementById('browser').elements.kind.dispatchEvent(new Event('change'))"
    opened.evaluate(f"{set_kind}, {searched}, 0")
    assert opened.evaluate("document.getElementById('found').textContent") == f"{fooled.sum()} of {images} images"
    assert opened.errors == []
