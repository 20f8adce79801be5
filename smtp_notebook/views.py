"""A mail as it may be looked at: as several readers see it, as text, and as octets. Pure: runs and fetches nothing.

Whatever shows a page puts it into an ``iframe`` with an empty ``sandbox``, where it has neither scripts nor an
origin; the policy in front of the page has it load nothing but what it carries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from smtp_notebook import _html
from smtp_notebook.message import Message, header_block, images_of

__all__ = ["View", "source_text", "still", "view_of", "viewed"]

#: So much of a mail's source is shown, in characters; more of it is an attachment's base64.
SOURCE = 200_000
#: Images beyond so many bytes together are left out of a page: it travels with each change.
IMAGES = 8 * 2**20
# A tag ends before the next one begins: thousands of tags that never end would otherwise take quadratic time.
_STYLE = re.compile(r"(<style\b[^<>]*+>)(.*?)(</style\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_MEDIA = re.compile(r"(?<=\s)media\s*=\s*(\"[^\"]*\"|'[^']*')", re.IGNORECASE)
_PREFERS = re.compile(r"\(\s*prefers-color-scheme\s*:\s*(dark|light)\s*\)", re.IGNORECASE)
_SCHEME = re.compile(r"(?<![\w-])color-scheme\s*:[^;}\"']*", re.IGNORECASE)
_STYLED = re.compile(r"(?<=\s)style\s*=\s*(\"[^\"]*\"|'[^']*')", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class View:
    """One mail, ready to be shown.

    Attributes:
        page: The HTML as a whole document behind its policy; "" for a mail of text alone. Where it asks for a dark
            or light screen it has ``(smtpnb:dark)`` or ``(smtpnb:light)`` and ``smtpnb-scheme``, which whatever
            shows it replaces: a browser would answer for the whole screen, not for a preview.
        text: The text part.
        headers: Name and value of the headers to show.
        notes: What a person may want to look at, one sentence each.
    """

    page: str
    text: str
    headers: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


def viewed(
    html: str,
    text: str,
    headers: Iterable[tuple[str, str]],
    *,
    image: Callable[[str], tuple[str, bytes] | None],
    notes: Sequence[str] = (),
) -> View:
    """Return the View of a mail's parts.

    Args:
        html: Its HTML, or "".
        text: Its text.
        headers: Those to show.
        image: Gives the media type and octets of a Content-ID, or None.
        notes: What a person may want to look at.
    """
    page = _page(_html.with_images(html, _within(image))) if html else ""
    return View(page, text, tuple(headers), tuple(notes))


def view_of(message: Message) -> View:
    """Return the View of a Message; it needs neither sender nor recipients."""
    head = [(name, value) for name, value in header_block(message) if name != "Note"]
    return viewed(
        message.html or "", message.text or "", head, image=images_of(message).get, notes=message.warnings
    )


def still(page: str) -> str:
    """Return a View's page as it stands on a light screen, where nobody can choose another."""
    lit = page.replace("(smtpnb:dark)", "(max-width:0)").replace("(smtpnb:light)", "(min-width:0)")
    return lit.replace("smtpnb-scheme", "light")


def source_text(raw: bytes) -> str:
    """Return a mail's octets as text, cut where attachments make it long."""
    text = raw[: SOURCE + 4].decode("utf-8", "replace").replace("\r\n", "\n")[:SOURCE]
    rest = len(raw) - SOURCE
    return f"{text}\n… and {rest:,} more bytes" if rest > 0 else text


def _within(image: Callable[[str], tuple[str, bytes] | None]) -> Callable[[str], tuple[str, bytes] | None]:
    """Return the same images as long as they are not too much together."""
    left = [IMAGES]

    def small(identifier: str) -> tuple[str, bytes] | None:
        found = image(identifier)
        if found is None:
            return None
        left[0] -= len(found[1])
        return found if left[0] >= 0 else ("image/gif", b"")

    return small


def _page(document: str) -> str:
    """Return a document behind its policy, its questions about the screen made answerable."""
    front = f'<!doctype html>{_html.POLICY}<meta name="color-scheme" content="only smtpnb-scheme">'
    styled = _STYLE.sub(lambda found: found[1] + _asked(found[2]) + found[3], document)
    return front + _STYLED.sub(_attribute, _MEDIA.sub(_attribute, styled))


def _attribute(found: re.Match[str]) -> str:
    return _asked(found[0])


def _asked(css: str) -> str:
    made = _PREFERS.sub(lambda found: f"(smtpnb:{found[1].lower()})", css)
    return _SCHEME.sub("color-scheme: only smtpnb-scheme", made)
