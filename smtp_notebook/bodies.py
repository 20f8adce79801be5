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

__all__ = ["FORMATS", "Format", "html_to_text", "inline_css", "looks_like_html", "markdown_to_html", "sheet"]

Format = Literal["markdown", "html", "text"]
FORMATS: tuple[str, ...] = get_args(Format)

# Elements that nobody types in Markdown unless the text really is HTML.
_TAGS = "html|head|body|div|p|br|table|thead|tbody|tr|td|th|span|h[1-6]|ul|ol|li|a|b|i|u|em|strong|img|style|font|center"
_TAG = re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>|<!doctype html", re.IGNORECASE)
_CODE = re.compile(r"^(```|~~~).*?^\1|(`+)(?!`).+?(?<!`)\2(?!`)", re.DOTALL | re.MULTILINE)

_DECLARATION = re.compile(r"<\?xml\s[^>]*>", re.IGNORECASE)

# Colours that keep a contrast of 4.5 or more on the background of their scheme.
_STYLE = """\
body{margin:0;padding:0;background:#ffffff;color:#1f2328}
.letter{max-width:600px;margin:0 auto;padding:20px 16px;
font-family:-apple-system,BlinkMacSystemFont,'Segoe UI',Roboto,Helvetica,Arial,sans-serif;
font-size:16px;line-height:1.55;color:#1f2328;overflow-wrap:break-word}
.letter h1{font-size:26px;line-height:1.25;margin:0 0 16px}
.letter h2{font-size:21px;line-height:1.3;margin:28px 0 12px}
.letter h3{font-size:17px;line-height:1.35;margin:24px 0 8px}
.letter p,.letter ul,.letter ol{margin:0 0 16px}
.letter a{color:#0a58ca}
.letter blockquote{margin:0 0 16px;padding:2px 0 2px 14px;border-left:3px solid #d0d7de;color:#57606a}
.letter code{font-family:Menlo,Consolas,monospace;font-size:14px}
.letter pre{margin:0 0 16px;padding:12px;background:#f6f8fa;overflow-x:auto;white-space:pre-wrap}
.letter hr{border:0;border-top:1px solid #d0d7de;margin:24px 0}
.letter img{max-width:100%;height:auto}
.letter table{border-collapse:collapse;margin:0 0 16px;font-size:14px}
.letter th{text-align:left;padding:6px 10px;border-bottom:2px solid #d0d7de}
.letter td{padding:6px 10px;border-bottom:1px solid #d0d7de;vertical-align:top}
@media (prefers-color-scheme:dark){
body{background:#0d1117!important;color:#e6edf3!important}
.letter,.letter h1,.letter h2,.letter h3{color:#e6edf3!important}
.letter a{color:#79b8ff!important}
.letter blockquote{color:#9da7b1!important;border-color:#3d444d!important}
.letter pre{background:#161b22!important}
.letter th,.letter td,.letter hr{border-color:#3d444d!important}
}
"""


_OPENING = '<div class="letter">\n'
_INSIDE = re.compile(r'<div class="letter"[^>]*>(.*)</div>\s*</body>', re.DOTALL)


def looks_like_html(text: str) -> bool:
    """Tell whether *text* plainly is HTML: it has a tag outside Markdown's code spans and fences."""
    if "<" not in text:
        return False
    return _TAG.search(_CODE.sub("", text)) is not None


def markdown_to_html(text: str) -> str:
    """Return Markdown as a whole HTML document, styled in attributes as mail clients want it.

    Line breaks are kept, HTML in *text* is shown as text, bare URLs become links (GFM's tables,
    strikethrough and autolinks, without its raw HTML).
    """
    return inline_css(sheet(_markdown().render(text)))


def markdown_to_fragment(text: str) -> str:
    """Return Markdown as HTML for the inside of a letter, styled in attributes."""
    found = _INSIDE.search(markdown_to_html(text))
    assert found is not None
    return found[1].strip()


def sheet(content: str) -> str:
    """Return HTML *content* inside the default letter, before its CSS is inlined."""
    return (
        '<!doctype html><html><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<style>{_STYLE}</style></head><body>{_OPENING}{content}</div></body></html>\n"
    )


@functools.cache
def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("gfm-like", {"html": False, "breaks": True, "linkify": True, "typographer": False})
    # Without this "report.md" or "setup.py" would become a link to somebody's domain.
    if parser.linkify is not None:
        parser.linkify.set({"fuzzy_link": False})
    return parser


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
    lines = [line.rstrip() for line in get_text(bare, ParserConfig(display_links=True)).splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"
