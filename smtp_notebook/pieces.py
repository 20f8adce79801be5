"""What was printed and shown, as pieces of a mail: for `outputs`, which heard it, and `pages`, which read it.

What mail programs cannot show, or what is too large, is named in a line: no display keeps a mail back.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from typing import Any

from smtp_notebook import _html
from smtp_notebook.addresses import CONTROL
from smtp_notebook.outcome import MessageError
from smtp_notebook.recorder import IMAGES, Printed, Shown
from smtp_notebook.render import Fragment, render, render_bundle, shows_itself
from smtp_notebook.screen import plain

__all__ = ["FAILURE", "as_piece", "fit", "monospace", "note", "one_line", "reason", "traceback_end"]

#: A traceback's end says what happened; so many lines of it are mailed.
_TRACEBACK_LINES = 30
_MAX_REASON = 120
_MAX_NAME = 200
_CID_TAG = re.compile(r"<[a-z][^<>]*cid:[^<>]*", re.IGNORECASE)
#: What a mail has no room for: controls other than line ends and tabs, and halves of characters.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
#: The stream whose text is a traceback.
FAILURE = "failure"


# -------------------------------------------------------------------------------------------- in words


def reason(error: BaseException | None) -> str:
    """Return an exception's name and text in one short line, as a traceback ends."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - it is somebody's __str__
        text = ""
    short = one_line(text)
    return f"{type(error).__name__}: {short}" if short else type(error).__name__


def one_line(text: str, most: int = _MAX_REASON) -> str:
    """Return text as one line of at most *most* characters, as a terminal would show it."""
    words = " ".join(CONTROL.sub(" ", " ".join(plain(text))).split())
    return words if len(words) <= most else f"{words[:most]}…"


def traceback_end(lines: list[str]) -> list[str]:
    """Return the end of a traceback, and how much of it is left out."""
    more = len(lines) - _TRACEBACK_LINES
    rest = f"… {more:,} line{'s' if more > 1 else ''} left out"
    return lines if more <= 0 else [rest, *lines[-_TRACEBACK_LINES:]]


def _left_out(piece: Printed | Shown) -> str:
    what = "line" if isinstance(piece, Printed) else "display"
    return f"… {piece.lost:,} {what}{'s' if piece.lost > 1 else ''} left out"


# ------------------------------------------------------------------------------------------- as a mail

#: As the letter's own <pre>, which values never go through.
_PRE = (
    "margin:0 0 16px;padding:12px;background:#f4f5f6;color:#1f2328;overflow-x:auto;white-space:pre-wrap;"
    "font-family:Menlo,Consolas,monospace;font-size:13px;line-height:1.45"
)
_EDGES = {
    "stderr": ";border-left:3px solid #9a6700",
    FAILURE: ";border-left:3px solid #b42318",
    "code": ";border-left:3px solid #0969da",
}


def monospace(lines: Iterable[str], stream: str = "stdout") -> Fragment:
    """Return lines as they were printed; *stream* decides the colour of their edge."""
    text = "\n".join(lines)
    return Fragment(f'<pre style="{_PRE}{_EDGES.get(stream, "")}">{html.escape(text)}</pre>', text)


def note(text: str) -> Fragment:
    """Return a line of ours between what is somebody else's."""
    return Fragment(f'<p style="margin:0 0 16px;font-size:13px">{html.escape(text)}</p>', text)


def fit(part: Fragment) -> Fragment:
    """Return a part without what no mail can hold; what was displayed may have anything in it."""
    markup, text = (
        _UNFIT.sub("\ufffd", t.replace("\r\n", "\n").replace("\r", "\n")) for t in (part.html, part.text)
    )
    return Fragment(markup, text, part.inline, part.block)


def as_piece(piece: Printed | Shown, value: object = None) -> list[Fragment]:
    """Return something that was printed or shown, after a line that counts what is left out before it.

    Args:
        piece: What a `Recording` gave.
        value: The object that was shown, where it is known: a table is mailed as it is, not as it was shown.
    """
    before = [note(_left_out(piece))] if piece.lost else []
    shown = monospace(piece.lines, piece.stream) if isinstance(piece, Printed) else _display(piece, value)
    return [*before, shown]


_CANNOT = "Not shown, because mail programs cannot"


def _display(piece: Shown, value: object) -> Fragment:
    """Return a display as mail shows it, or a line that names it."""
    text = str(piece.data.get("text/plain", ""))
    lines = plain(text)
    if piece.kind == "failure":
        return monospace(traceback_end(lines), FAILURE)
    name = (" ".join(lines).strip("<> ") or "a display without a text of its own")[:_MAX_NAME]
    if piece.size:
        return note(f"Left out, because it is too large ({piece.size / 2**20:.1f} MB): {name}")
    found, why = note(""), _CANNOT
    try:
        if shows_itself(value) and not any(piece.data.get(mime) for mime in IMAGES):
            return render(value)
        if set(piece.data) <= {"text/plain"} and not piece.live:
            return monospace(lines)
        if not piece.live:
            found = render_bundle(_styled(piece.data), piece.about, name=name)
            why = "" if found.html.strip() and not _dangles(found) else _CANNOT
    except MessageError:
        why = _CANNOT
    except Exception as error:  # noqa: BLE001 - HTML and images are anybody's; the rest of the mail has to go
        why = f"Not shown ({reason(error)})"
    return note(f"{why}: {name}") if why else found


def _dangles(part: Fragment) -> bool:
    """Tell whether HTML shows an image of a mail that is not this one; a Message would be refused for it."""
    shown = {cid for tag in _CID_TAG.finditer(part.html) for cid in _html.cids(tag[0])}
    return not shown <= {image.content_id for image in part.inline}


#: A frame as libraries show it leaves its looks to the notebook's style sheet; here it looks as the letter's tables.
_FRAME = """\
<style>
table.dataframe{border:0;border-collapse:collapse;margin:0 0 16px;font-size:14px}
table.dataframe th,table.dataframe td{border:0;border-bottom:1px solid #d0d7de;padding:6px 10px;text-align:right}
table.dataframe thead th{border-bottom:2px solid #d0d7de}
</style>
"""


def _styled(data: Mapping[str, Any]) -> Mapping[str, Any]:
    shown = data.get("text/html")
    return {**data, "text/html": _FRAME + shown} if isinstance(shown, str) and "dataframe" in shown else data
