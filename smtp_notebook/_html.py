"""The few pieces of HTML that reprs share; colours follow Jupyter's theme, light or dark.

Everything given is escaped here, except what a caller hands to `card`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["badge", "card", "frame", "outcome", "table"]

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
    return f'<div style="overflow-x:auto"><table style="{style}"><tr>{tops}</tr>{lines}</table></div>'


_POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="'
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
)


def frame(document: str, *, height: int = 420, title: str = "") -> str:
    """Return *document*, which nobody trusts, in an iframe.

    It runs no script, has no origin, submits nothing and loads nothing: ``sandbox`` is empty, and the
    policy in front of the document allows images that it carries itself.
    """
    source = html.escape(_POLICY + document)
    style = "width:100%;border:1px solid var(--jp-border-color2,#d0d7de);border-radius:4px;background:#fff"
    return (
        f'<div><iframe sandbox="" title="{html.escape(title)}" style="{style};height:{height}px" '
        f'srcdoc="{source}"></iframe></div>'
    )
