"""The browser in which pages are tested: it must notice what a page does wrong."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.support.browser import PHONE, Browser

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Page</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<style>:root { color-scheme: light dark; }</style></head><body><main><h1>Page</h1>%s</main></body></html>"""


DOT = 'src="data:image/gif;base64,R0lGODlhAQABAAAAACw="'


def page_file(folder: Path, body: str = "") -> Path:
    file = folder / "a page, ü.html"
    file.write_text(PAGE % body, encoding="utf-8")
    return file


def test_a_page_without_faults_has_none(browser: Browser, tmp_path: Path) -> None:
    """Fails if an error, a request or a barrier is reported where there is none, or a file's own parts are foreign."""
    page = browser.open(page_file(tmp_path, f'<a id="a" href="#a">a</a><img alt="dot" {DOT}>'))
    page.evaluate("document.querySelector('a').click()")
    assert (page.errors, page.foreign_requests, page.barriers()) == ([], [], [])
    assert page.evaluate("location.hash") == "#a"


def test_errors_are_noticed(browser: Browser, tmp_path: Path) -> None:
    """Fails if an exception, a rejected promise, a logged error or a dialogue passes unseen, or stops the browser."""
    scripts = [
        "missing()",
        "Promise.reject(new Error('rejected'))",
        "console.error('logged', 1)",
        "alert('shown')",
        "setTimeout(() => later())",
    ]
    page = browser.open(page_file(tmp_path, "".join(f"<script>{script}</script>" for script in scripts)))
    errors = "\n".join(page.errors)
    for text in ("missing is not defined", "rejected", "logged 1", "dialogue: shown", "later is not defined"):
        assert text in errors, text


def test_requests_are_noticed_and_leave_nothing(browser: Browser, tmp_path: Path) -> None:
    """Fails if a request for another file or to the network passes unseen, or one to the network succeeds."""
    (tmp_path / "other.js").write_text("")
    body = '<script src="other.js"></script><img alt="" src="https://example.org/a.png">'
    page = browser.open(page_file(tmp_path, body))
    answer = page.evaluate("fetch('http://example.org/b').then(() => 'arrived', () => 'no network')")
    assert answer == "no network"
    assert page.foreign_requests == [
        (tmp_path / "other.js").as_uri(),
        "https://example.org/a.png",
        "http://example.org/b",
    ]
    assert any("a.png" in error for error in page.errors)


def test_barriers_are_noticed(browser: Browser, tmp_path: Path) -> None:
    """Fails if axe-core does not run: the picture has no text, and the words are pale."""
    body = f'<img {DOT}><p style="color: #ddd; background: #fff">pale</p>'
    found = browser.open(page_file(tmp_path, body)).barriers()
    assert len(found) == 2
    assert any("image-alt" in barrier for barrier in found) and any("color-contrast" in barrier for barrier in found)


def test_window_colours_pictures_and_print(browser: Browser, tmp_path: Path) -> None:
    """Fails if the page is not told the width or the preferred colours, or a picture or PDF lacks a part."""
    page = browser.open(page_file(tmp_path, '<div style="height: 1500px">tall</div>'), PHONE, dark=True)
    is_dark = "matchMedia('(prefers-color-scheme: dark)').matches"
    assert page.evaluate(is_dark) and page.evaluate("innerWidth") == PHONE[0]
    page.screenshot(tmp_path / "whole.png")
    page.screenshot(tmp_path / "window.png", whole=False)
    with Image.open(tmp_path / "whole.png") as whole, Image.open(tmp_path / "window.png") as window:
        assert (whole.width, window.size) == (PHONE[0], PHONE) and whole.height > 1500
        assert sum(whole.convert("L").histogram()[:60]) > whole.width * 1500, "it is not dark"
    page.prefer(dark=False)
    assert not page.evaluate(is_dark)
    page.print(tmp_path / "page.pdf")
    pdf = (tmp_path / "page.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") == 2
