"""Pure text to text: Markdown to HTML, CSS into style attributes, HTML to its text twin.

Nothing here knows a message, a row or a network. Each function is called once for each distinct
skeleton of a merge, not once for each row, so clarity wins over speed.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from css_inline import CSSInliner
    from markdown_it import MarkdownIt

__all__ = [
    "FORMATS",
    "Format",
    "first_heading",
    "html_to_text",
    "inline_css",
    "looks_like_html",
    "markdown_to_html",
    "notebook_to_html",
]

Format = Literal["markdown", "html", "text"]
FORMATS: tuple[str, ...] = get_args(Format)

# Elements that nobody types in Markdown unless the text really is HTML.
_TAGS = "html|head|body|div|p|br|table|thead|tbody|tr|td|th|span|h[1-6]|ul|ol|li|a|b|i|u|em|strong|img|style|font|center"
_TAG = re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>|<!doctype html", re.IGNORECASE)
_CODE = re.compile(r"^(```|~~~).*?^\1|(`+)(?!`).+?(?<!`)\2(?!`)", re.DOTALL | re.MULTILINE)

_DECLARATION = re.compile(r"<\?xml\s[^>]*>", re.IGNORECASE)


def looks_like_html(text: str) -> bool:
    """Tell whether *text* plainly is HTML: it has a tag outside Markdown's code spans and fences."""
    if "<" not in text:
        return False
    return _TAG.search(_CODE.sub("", text)) is not None


def markdown_to_html(text: str) -> str:
    """Return Markdown as HTML without a document around it.

    Line breaks are kept, HTML in *text* is shown as text, bare URLs become links (GFM's tables, strikethrough and
    autolinks, without its raw HTML). A table stands in ``<div class="scroll">``, so that a wide one need not make
    the letter wide.
    """
    html: str = _markdown().render(text)
    return html


@functools.cache
def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("gfm-like", {"html": False, "breaks": True, "linkify": True, "typographer": False})
    # Without this "report.md" or "setup.py" would become a link to somebody's domain.
    if parser.linkify is not None:
        parser.linkify.set({"fuzzy_link": False})
    parser.add_render_rule("table_open", lambda *_: '<div class="scroll"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return parser


def notebook_to_html(text: str) -> str:
    """Return the Markdown of a notebook's cell as HTML, as Jupyter reads it.

    Other than in a mail's text, single line breaks are none, and HTML in *text* is HTML: whoever calls this
    cleans it.
    """
    html: str = _notebook_markdown().render(text)
    return html


def first_heading(text: str) -> str:
    """Return the text of the first heading in a notebook's Markdown, without its markup; "" for none."""
    tokens = _notebook_markdown().parse(text)
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            inner = tokens[place + 1].children or []
            words = " ".join("".join(c.content or " " for c in inner if c.type in _WORDS).split())
            if words:
                return words
    return ""


_WORDS = frozenset({"text", "code_inline", "softbreak"})


@functools.cache
def _notebook_markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("gfm-like", {"html": True, "breaks": False, "linkify": True, "typographer": False})
    if parser.linkify is not None:
        parser.linkify.set({"fuzzy_link": False})
    # Images of a notebook are its own: as data, as files of other kinds, as attachments of a cell.
    parser.validateLink = _any_link  # type: ignore[method-assign]  # its own way to say so
    return parser


def _any_link(url: str) -> bool:
    return bool(url)


def inline_css(html: str) -> str:
    """Return *html* with its ``<style>`` rules moved into style attributes.

    Media queries stay in a ``<style>`` element; nothing remote is loaded. HTML without a style
    element comes back unchanged, to the letter.
    """
    if "<style" not in html.lower():
        return html
    return _inliner().inline(html)


@functools.cache
def _inliner() -> CSSInliner:
    from css_inline import CSSInliner

    return CSSInliner(load_remote_stylesheets=False, keep_at_rules=True)


def html_to_text(html: str) -> str:
    """Return the text twin of *html*: what a reader without HTML sees, links kept as ``[text](url)``."""
    from inscriptis import get_text
    from inscriptis.model.config import ParserConfig

    if not html.strip():
        return ""
    # lxml refuses text that declares an encoding; the text has been decoded already.
    bare = _DECLARATION.sub("", html, count=1)
    lines = [
        line.rstrip()
        for line in get_text(bare, ParserConfig(display_links=True, display_images=True)).splitlines()
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"
