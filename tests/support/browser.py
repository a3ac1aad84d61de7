"""Debian's chromium without a window, for tests of pages: what they draw, log and request, and who can use them.

It is driven through two pipes by the Chrome DevTools Protocol
(https://chromedevtools.github.io/devtools-protocol): each message is JSON and ends in a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PHONE, DESKTOP = (390, 844), (1280, 900)  # width and height of the window in CSS pixels
SECONDS = 60.0  # that an answer or a page may take
_PROGRAM = "chromium"
_FLAGS = (
    *("--headless", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check"),
    *("--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync", "--hide-scrollbars", "--force-color-profile=srgb"),
    "--host-resolver-rules=MAP * ~NOTFOUND",  # nothing reaches the network
    "about:blank",
)
_FIRST_PIPE = 10  # file descriptors of the pipes here: none of 3 and 4, where chromium expects them
_AXE = "axe_core_python"  # the package that holds axe-core's script


def why_not() -> str:
    """Returns why no page can be opened here; "" if one can."""
    if shutil.which(_PROGRAM) is None:
        return "chromium is not installed (Debian: chromium)"
    return "" if find_spec(_AXE) else "axe-core is not installed (requirements-test.txt)"


class Browser:
    """A chromium, see `running_browser`."""

    def __init__(self, to_chromium: int, from_chromium: int) -> None:
        """The file descriptors at which messages are written and read."""
        self._to, self._from = to_chromium, from_chromium
        self._number, self._unread = 0, b""
        self._pages: dict[str, Page] = {}  # by session

    def open(self, file: Path, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> Page:
        """Opens a local file in a new window of this size, without cookies and storage, and waits until it is loaded.

        `dark`: whether the page is told that its reader prefers dark pages.
        """
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, file.resolve().as_uri())
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.resize(size)
        page.prefer(dark=dark)
        page.load()
        return page

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Sends a command and returns its result."""
        number = self.send(method, session, **parameters)
        while True:
            message = self.receive()
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])

    def send(self, method: str, session: str = "", **parameters: Any) -> int:
        """Sends a command without waiting for its result; returns its number."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        left = json.dumps(message).encode() + b"\0"
        while left:
            left = left[os.write(self._to, left) :]
        return self._number

    def receive(self) -> dict[str, Any]:
        """Returns the next message from chromium, after its page has noted it."""
        end = time.monotonic() + SECONDS
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._from], [], [], end - time.monotonic())
            assert ready, f"chromium has not answered for {SECONDS:g} seconds"
            part = os.read(self._from, 2**20)
            assert part, "chromium has ended"
            self._unread += part
        first, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        if message.get("sessionId") in self._pages and "method" in message:
            self._pages[message["sessionId"]].note(message["method"], message["params"])
        return message


class Page:
    """An open page."""

    def __init__(self, browser: Browser, session: str, url: str) -> None:
        self._browser, self._session, self._url = browser, session, url
        self._errors: list[str] = []
        self._requests: list[str] = []
        self._is_loaded = False

    def load(self) -> None:
        """Loads the file, or loads it again, and waits until it is loaded."""
        self._is_loaded = False
        result = self.call("Page.navigate", url=self._url)
        assert not result.get("errorText"), f"{self._url}: {result['errorText']}"
        while not self._is_loaded:
            self._browser.receive()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command of the protocol to this page and returns its result."""
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression, which JSON must be able to hold; waits for a promise's value.

        Fails where it throws an exception.
        """
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, _text_of(result["exceptionDetails"])
        return result["result"].get("value")

    @property
    def errors(self) -> list[str]:
        """What was logged as an error until now: by the page, by chromium, as an exception or in a dialogue."""
        self._catch_up()
        return list(self._errors)

    @property
    def foreign_requests(self) -> list[str]:
        """The address of each request until now that was neither for the file itself nor for a `data:` address."""
        self._catch_up()
        return [url for url in self._requests if url.partition("#")[0] != self._url and not url.startswith("data:")]

    def resize(self, size: tuple[int, int]) -> None:
        """Sets width and height of the window; one as narrow as `PHONE` counts as that of a telephone."""
        width, height = size
        is_phone = width <= PHONE[0]
        shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone}
        self.call("Emulation.setDeviceMetricsOverride", **shape)

    def prefer(self, *, dark: bool) -> None:
        """Sets whether the page is told that its reader prefers dark pages."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, file: Path, *, whole: bool = True) -> None:
        """Writes a PNG of the `whole` page, or of what the window shows."""
        result = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(result["data"]))

    def print(self, file: Path) -> None:
        """Writes a PDF of the page as it is printed on A4, with its backgrounds."""
        paper = {"paperWidth": 8.27, "paperHeight": 11.69}  # inches
        result = self.call("Page.printToPDF", printBackground=True, **paper)
        file.write_bytes(base64.b64decode(result["data"]))

    def barriers(self) -> list[str]:
        """Returns what axe-core finds that keeps people from using the page: serious and critical violations."""
        self.evaluate((files(_AXE) / "axe.min.js").read_text(encoding="utf-8") + "; 0")
        found = self.evaluate("axe.run(document, {resultTypes: ['violations'], preload: false})")["violations"]
        return [
            f"{rule['impact']}: {rule['help']} ({rule['id']}): {node['html'][:200]}"
            for rule in found
            for node in rule["nodes"]
            if rule["impact"] in ("serious", "critical")
        ]

    def note(self, method: str, facts: dict[str, Any]) -> None:
        """Keeps what a message from chromium says of errors, requests and loading."""
        if method == "Page.loadEventFired":
            self._is_loaded = True
        elif method == "Network.requestWillBeSent":
            self._requests.append(facts["request"]["url"])
        elif method == "Network.webSocketCreated":
            self._requests.append(facts["url"])
        elif method == "Runtime.exceptionThrown":
            self._errors.append(_text_of(facts["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and facts["type"] in ("error", "assert"):
            values = (value.get("value", value.get("description", "")) for value in facts["args"])
            self._errors.append(" ".join(map(str, values)))
        elif method == "Log.entryAdded" and facts["entry"]["level"] == "error":
            self._errors.append(f"{facts['entry']['text']} {facts['entry'].get('url', '')}".strip())
        elif method == "Page.javascriptDialogOpening":  # a page with an open dialogue answers nothing
            self._errors.append(f"dialogue: {facts['message']}")
            self._browser.send("Page.handleJavaScriptDialog", self._session, accept=False)

    def _catch_up(self) -> None:
        """Waits until all that the page has done until now is noted."""
        self.evaluate("new Promise(resolve => setTimeout(resolve))")


def _text_of(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description", details["text"]))


@contextmanager
def running_browser(folder: Path) -> Iterator[Browser]:
    """Runs a chromium during the block, whose files are in a new folder."""
    ends = [*os.pipe(), *os.pipe()]
    pipes = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _FIRST_PIPE) for end in ends]
    for end in ends:
        os.close(end)
    its_input, to_chromium, from_chromium, its_output = pipes
    program = ["bash", "-c", f'exec "$@" 3<&{its_input} 4>&{its_output}', "bash", _PROGRAM]
    process = subprocess.Popen(
        [*program, f"--user-data-dir={folder}", *_FLAGS],
        pass_fds=(its_input, its_output),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(its_input)
    os.close(its_output)
    try:
        yield Browser(to_chromium, from_chromium)
    finally:
        os.close(to_chromium)  # chromium ends then
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(from_chromium)
