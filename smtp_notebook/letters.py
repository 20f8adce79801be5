"""The letter around a text: a theme, the line that inboxes show beside the subject, and a footer.

A theme is a small Jinja2 file. It sees ``content`` (HTML), ``preheader`` and ``postal_address`` (text) and
``unsubscribe`` (a URI), "" where there is none, and makes a whole document, whose CSS is inlined afterwards. It runs
once for each distinct skeleton of a merge, before a value enters.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smtp_notebook.bodies import html_to_text, inline_css, markdown_to_html
from smtp_notebook.outcome import MessageError

__all__ = [
    "BARE",
    "LETTER",
    "Theme",
    "first_uri",
    "fragment",
    "letter_html",
    "letter_text",
    "styled",
    "theme_of",
]


@dataclass(frozen=True, slots=True)
class Theme:
    """A letter's look.

    Attributes:
        name: What it is called: a file's name, ``letter`` for the default, ``none`` for no theme.
        source: Its Jinja2 text; "" for the default, which is read when it is first needed.
    """

    name: str
    source: str = ""

    def __repr__(self) -> str:
        return f"<Theme {self.name}>"

    def dress(
        self, content: str, preheader: str = "", unsubscribe: str = "", postal_address: str = ""
    ) -> str:
        """Return a whole HTML document around *content*, which is HTML; its CSS is not inlined yet.

        Raises:
            MessageError: The theme has a mistake, or leaves the content out.
        """
        from markupsafe import Markup

        try:
            made: str = _compiled(self.source or _default()).render(
                content=Markup(content),  # noqa: S704 - it is HTML, made here or the author's own
                preheader=preheader,
                unsubscribe=unsubscribe,
                postal_address=postal_address,
            )
        except Exception as error:  # noqa: BLE001 - a theme computes what it likes
            line = getattr(error, "lineno", None)
            where = f", line {line}" if line else ""
            cause = f"The theme {self.name!r}{where}: {' '.join(str(error).split()).rstrip('.')}."
            raise MessageError(
                cause, "A theme has content, preheader, unsubscribe and postal_address to work with."
            ) from None
        if content.strip() and content not in made:
            raise MessageError(
                f"The theme {self.name!r} does not show the text.", "Put {{ content }} into it."
            )
        return made


#: The default.
LETTER = Theme("letter")
#: No theme: the content alone.
BARE = Theme(
    "none", '<!doctype html>\n<html><head><meta charset="utf-8"></head><body>\n{{ content }}</body></html>\n'
)


@functools.cache
def _default() -> str:
    return (Path(__file__).with_name("themes") / "letter.html").read_text(encoding="utf-8")


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(source)


def theme_of(given: Any, root: Path) -> Theme:
    """Return the theme that somebody named.

    Args:
        given: A Theme; None or "letter" for the default; False or "none" for none; the path of an HTML file
            relative to *root*; or the Jinja2 text itself, which has ``{{ content }}`` in it.
        root: Where paths begin.

    Raises:
        MessageError: There is no such file.
    """
    if isinstance(given, Theme):
        return given
    if given is None or given in {"", "letter"}:
        return LETTER
    if given is False or given == "none":
        return BARE
    if isinstance(given, str) and "{{" in given:
        return Theme("text", given)
    if not isinstance(given, str | Path):
        raise MessageError(f"theme: {type(given).__name__} is no theme.", "Name an HTML file, or none.")
    try:
        return Theme(Path(given).name, (root / Path(given).expanduser()).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        cause = f"The theme {str(given)!r} cannot be read: {why}."
        raise MessageError(cause, f"Paths begin at {str(root)!r}; theme='none' is without one.") from None


def letter_html(
    content: str,
    kind: str,
    theme: Theme,
    *,
    preheader: str = "",
    unsubscribe: str = "",
    postal_address: str = "",
    inline: bool = True,
) -> str:
    """Return the HTML of a body.

    Args:
        content: The body as it was written, in Markdown or HTML.
        kind: Its format. HTML is its author's: it gets no theme but one that was asked for.
        theme: What goes around it.
        preheader: What inboxes show beside the subject.
        unsubscribe: The URI that the footer links to.
        postal_address: The sender's, for the footer.
        inline: Whether CSS is moved into style attributes.

    Raises:
        MessageError: The theme has a mistake.
    """
    if kind == "html" and theme == LETTER:
        return inline_css(content) if inline else content
    inner = markdown_to_html(content) if kind == "markdown" else content
    whole = theme.dress(inner, preheader, unsubscribe, postal_address)
    return inline_css(whole) if inline else whole


def letter_text(
    content: str, kind: str, theme: Theme, unsubscribe: str = "", postal_address: str = ""
) -> str:
    """Return the text of a body in any format, with the footer where it has something to say; see `letter_html`."""
    if kind == "text":
        return content
    if kind == "html" and theme == LETTER:
        return html_to_text(content)
    text = html_to_text(content) if kind == "html" else content
    footer = f"{postal_address}\n" if postal_address else ""
    footer += f"Unsubscribe: {unsubscribe}\n" if unsubscribe else ""
    return f"{text.rstrip()}\n\n-- \n{footer}" if footer and theme != BARE else text


def fragment(text: str) -> str:
    """Return Markdown as HTML for the inside of a letter, styled in attributes as the default theme has it."""
    return styled(markdown_to_html(text))


def styled(html: str) -> str:
    """Return HTML styled in attributes as the default theme has it.

    What HTML parsers nest otherwise than it is written, such as a table in a table without a cell, comes back
    as it was: it could not be told from the letter around it.
    """
    found = _INSIDE.search(inline_css(LETTER.dress(html)))
    inner = "" if found is None else found[1].strip()
    return inner if found is not None and _closes_its_own(inner) else html


def _closes_its_own(html: str) -> bool:
    depth = 0
    for tag in re.finditer(r"<(/?)div\b", html):
        depth += -1 if tag[1] else 1
        if depth < 0:
            return False
    return not depth


_INSIDE = re.compile(r'<div class="letter"[^>]*>(.*)</div>\s*<!--\[if mso\]', re.DOTALL)


def first_uri(uris: Sequence[str]) -> str:
    """Return the URI that a person can click: one of the web before a mail address."""
    return next((u for u in uris if u.lower().startswith("http")), uris[0] if uris else "")
