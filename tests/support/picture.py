"""Takes README's picture from the page of the demo: its warnings, scores, curves and Grad-CAM sheets, without the rest.

python -m tests.support.picture demo/report.html docs/demo.png
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

from tests.support.browser import running_browser

SIZE = (1240, 900)
_MARGIN = 16  # pixels below the last part
SHOWN = ("warnings", "tables", "curves", "maps")
_STYLE = f"""
nav, section:not({", ".join(f"#{name}" for name in SHOWN)}), details, #maps h2 {{ display: none; }}
main {{ display: grid; grid-template-columns: 2fr 3fr; gap: 1.2rem 2rem; margin-top: 1rem; }}
section {{ margin: 0; min-width: 0; content-visibility: visible; }}
#warnings, #tables {{ grid-column: 1 / -1; }}
#maps {{ columns: 2; }} #maps figure {{ break-inside: avoid; margin: 0; }}
body {{ padding-bottom: 1rem; }}
"""


def take(page_file: Path, picture: Path) -> None:
    """Writes the picture, a PNG."""
    with tempfile.TemporaryDirectory() as folder, running_browser(Path(folder) / "chromium") as browser:
        page = browser.open(page_file, SIZE)
        style = f"Object.assign(document.createElement('style'), {{textContent: `{_STYLE}`}})"
        page.evaluate(f"document.head.append({style})")
        page.evaluate("Promise.all([...document.images].map(image => image.decode())).then(() => 0)")
        page.screenshot(Path(folder) / "page.png")
        with Image.open(Path(folder) / "page.png") as file:
            whole = file.convert("RGB")
        paper = Image.new("RGB", whole.size, whole.getpixel((0, 0)))
        _, _, _, bottom = ImageChops.difference(whole, paper).getbbox() or (0, 0, *whole.size)
        # The browser may take the height that the page had before its parts were hidden.
        whole.crop((0, 0, whole.width, min(bottom + _MARGIN, whole.height))).save(picture, optimize=True)


if __name__ == "__main__":
    take(*map(Path, sys.argv[1:3]))
