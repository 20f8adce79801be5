"""The gallery notebook, run without a browser: what arrived, as files and as pages that a browser shows.

``python scripts/gallery.py`` writes pictures of all mails below ``docs/gallery``, at 600 and 360 pixels, light and dark.
"""

from __future__ import annotations

import base64
import email
import email.policy
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from isolated import environment
from system_packages import find_chromium

ROOT = Path(__file__).resolve().parent.parent
NAME = "04-rich-results.ipynb"
TARGET = ROOT / "docs" / "gallery"
WIDTHS = (600, 360)
SCHEMES = ("light", "dark")
#: Those whose pictures are kept: one that has a bit of everything, and one that another library styled.
SHOWN = ("The quarter", "Result: great_table")
_COLUMNS = 5
_GAP = 10
_CID = re.compile(r"cid:([^\"')\s]+)")

_SAVE = """
from pathlib import Path
for number, message in enumerate(sandbox.messages):
    (Path({folder!r}) / f"{{number:02d}}.eml").write_bytes(message.raw)
"""


def run(folder: Path) -> list[EmailMessage]:
    """Run the notebook in a kernel, have its mails written into *folder*, and return them."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "notebooks" / NAME, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(_SAVE.format(folder=str(folder))))
    NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(folder)}}).execute()
    return [read(path.read_bytes()) for path in sorted(folder.glob("*.eml"))]


def read(raw: bytes) -> EmailMessage:
    """Return a mail as the standard library reads it."""
    found = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    return found


def page(message: EmailMessage) -> str:
    """Return the mail's HTML with its images inside, as a mail program shows it."""
    body = message.get_body(("html",))
    assert body is not None
    parts = {str(p["Content-ID"]).strip("<>"): p for p in message.walk() if p["Content-ID"]}

    def shown(found: re.Match[str]) -> str:
        part = parts[found[1]]
        return f"data:{part.get_content_type()};base64,{base64.b64encode(part.get_payload(decode=True)).decode()}"

    return _CID.sub(shown, body.get_content())


@contextmanager
def browser(executable: str) -> Iterator[Any]:
    """Give a headless Chromium."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=executable, args=flags)
        try:
            yield made
        finally:
            made.close()


def main() -> None:
    """Write the pictures."""
    with tempfile.TemporaryDirectory(prefix="smtp-notebook-gallery-") as place:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        os.environ.update(environment(Path(place)) | {"PATH": path})
        mails = Path(place) / "mails"
        mails.mkdir()
        messages = run(mails)
        TARGET.mkdir(parents=True, exist_ok=True)
        found = find_chromium()
        if found is None:
            sys.exit("No Chromium here: apt install chromium")
        with browser(found) as chromium:
            for width in WIDTHS:
                for scheme in SCHEMES:
                    _pictures(chromium, messages, width, scheme)
    print(f"{len(messages)} mails arrived; pictures: {TARGET.relative_to(ROOT)}")


def _pictures(chromium: Any, messages: Sequence[EmailMessage], width: int, scheme: str) -> None:
    """Write one picture with every mail, and those of their own."""
    from PIL import Image

    taken = []
    view = chromium.new_page(viewport={"width": width, "height": 100}, color_scheme=scheme)
    for message in messages:
        view.set_content(page(message))
        shot = view.screenshot(full_page=True)
        taken.append(Image.open(io.BytesIO(shot)).convert("RGB"))
        if str(message["Subject"]) in SHOWN:
            name = re.sub(r"[^a-z]+", "-", str(message["Subject"]).lower())
            (TARGET / f"{name}-{width}-{scheme}.png").write_bytes(shot)
    view.close()
    _sheet(taken, width).save(TARGET / f"all-{width}-{scheme}.png", optimize=True)


def _sheet(pictures: Sequence[Any], width: int) -> Any:
    """Return pictures of one width in columns, each where there is most room."""
    from PIL import Image

    heights = [0] * _COLUMNS
    places = []
    for picture in pictures:
        column = heights.index(min(heights))
        places.append((column * (width + _GAP), heights[column]))
        heights[column] += picture.height + _GAP
    sheet = Image.new("RGB", (_COLUMNS * (width + _GAP) - _GAP, max(heights) - _GAP), "#8c959f")
    for picture, place in zip(pictures, places, strict=True):
        sheet.paste(picture, place)
    return sheet


if __name__ == "__main__":
    main()
