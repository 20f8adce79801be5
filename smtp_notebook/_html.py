"""The few pieces of HTML that reprs share; colours follow Jupyter's theme, light or dark.

Everything given is escaped here, except what a caller hands to `card`.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import unquote

__all__ = [
    "CID",
    "POLICY",
    "QUOTE",
    "badge",
    "card",
    "cids",
    "frame",
    "items",
    "outcome",
    "plain",
    "plain_cid",
    "quiet",
    "table",
    "with_images",
]

_GOOD, _QUIET, _BAD, _DOUBT = "#1a7f37", "#57606a", "#b42318", "#9a6700"
_COLOURS = {
    "sent": _GOOD,
    "planned": _QUIET,
    "skipped": _QUIET,
    "partial": _DOUBT,
    "deferred": _DOUBT,
    "in_doubt": _DOUBT,
}
_SHORT = 36
_TEXT = "color:var(--jp-ui-font-color1,inherit)"
_LINE = "var(--jp-border-color2,#d0d7de)"


def badge(state: str, text: str) -> str:
    """Return a coloured pill; white on a colour of contrast 4.5 or more in either theme."""
    colour = _COLOURS.get(state, _BAD)
    style = f"background:{colour};color:#fff;border-radius:9px;padding:1px 9px;margin-right:6px"
    return f'<span style="{style};white-space:nowrap">{html.escape(text)}</span>'


def card(body: str) -> str:
    """Return *body*, which is HTML, in the frame that all displays share."""
    style = (
        f"font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.5;{_TEXT}"
    )
    return f'<div style="{style};overflow-wrap:anywhere">{body}</div>'


def quiet(text: str) -> str:
    """Return words that may be read last."""
    return f'<span style="opacity:.72">{html.escape(text)}</span>'


def items(lines: Iterable[str]) -> str:
    """Return lines as a list."""
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def outcome(state: str, text: str) -> str:
    """Return one outcome as a card."""
    return card(f"{badge(state, state.replace('_', ' '))}{html.escape(text)}")


def _wrapping(text: str) -> str:
    """Return how a cell breaks: a word or an address never, a sentence between its words."""
    return "white-space:nowrap" if len(text) <= _SHORT else "min-width:180px;overflow-wrap:break-word"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a left-aligned table that scrolls when it is wider than its cell."""
    cell = f"text-align:left;vertical-align:top;padding:3px 10px 3px 0;border-bottom:1px solid {_LINE}"
    tops = "".join(
        f'<th style="{cell};font-weight:600;white-space:nowrap">{html.escape(h)}</th>' for h in head
    )
    lines = "".join(
        "<tr>" + "".join(f'<td style="{cell};{_wrapping(c)}">{html.escape(c)}</td>' for c in row) + "</tr>"
        for row in rows
    )
    style = "border-collapse:collapse;margin:4px 0"
    # What scrolls has to be reached by keyboard, too.
    return f'<div style="overflow-x:auto" tabindex="0"><table style="{style}"><tr>{tops}</tr>{lines}</table></div>'


QUOTE = r"""(?:["']|&quot;|&#3[49];)"""
#: A reference to a part of the same mail, by its Content-ID (RFC 2392).
CID = re.compile(rf"cid:((?:(?!{QUOTE})[^\s)>])+)", re.IGNORECASE)


def plain_cid(identifier: str) -> str:
    """Return the Content-ID that a ``cid:`` names: RFC 2392 percent-encodes it, and HTML may escape it."""
    return unquote(html.unescape(identifier))


def cids(document: str | None) -> set[str]:
    """Return the Content-IDs that *document* refers to, as written and as meant."""
    found = [match[1] for match in CID.finditer(document or "")]
    return {*found, *map(plain_cid, found)}


def with_images(document: str, image: Callable[[str], tuple[str, bytes] | None]) -> str:
    """Return *document* with each ``cid:`` that *image* knows replaced by the image itself.

    Args:
        document: HTML.
        image: Gives the media type and the octets of a Content-ID, or None.
    """

    def shown(found: re.Match[str]) -> str:
        known = image(found[1]) or image(plain_cid(found[1]))
        return f"data:{known[0]};base64,{base64.b64encode(known[1]).decode()}" if known else found[0]

    return CID.sub(shown, document)


def plain(text: str) -> str:
    """Return text as a document that keeps its line breaks."""
    style = "white-space:pre-wrap;font:14px/1.5 monospace;margin:16px"
    return f'<pre style="{style}">{html.escape(text)}</pre>'


#: What a mail that is looked at may load: its own images and style, nothing from elsewhere, and no script.
POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="'
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
)


def frame(document: str, *, height: int = 420, title: str = "") -> str:
    """Return *document*, which nobody trusts, in an iframe.

    It runs no script, has no origin, submits nothing and loads nothing: ``sandbox`` is empty, and the
    policy in front of the document allows images that it carries itself.
    """
    # Without a document type in front of the policy the mail would be shown in quirks mode.
    source = html.escape(f"<!doctype html>{POLICY}{document}")
    style = "width:100%;border:1px solid var(--jp-border-color2,#d0d7de);border-radius:4px;background:#fff"
    return (
        f'<div><iframe sandbox="" title="{html.escape(title)}" style="{style};height:{height}px" '
        f'srcdoc="{source}"></iframe></div>'
    )
