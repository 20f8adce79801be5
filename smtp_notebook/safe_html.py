"""HTML that somebody's object shows, made fit for a mail: its CSS inlined, and everything live removed.

What goes: scripts, frames, forms, plug-ins, media, event handlers, style sheets once they are inlined, CSS that
loads something or leaves its place, and links of other schemes than a mail needs. Text stays as it was.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

from smtp_notebook.bodies import inline_css

__all__ = ["clean_html", "has_content"]

#: Gone with all that is in them.
_DROPPED = frozenset(
    [
        "script",
        "style",
        "iframe",
        "frame",
        "frameset",
        "object",
        "embed",
        "applet",
        "input",
        "button",
        "select",
        "option",
        "optgroup",
        "datalist",
        "textarea",
        "link",
        "meta",
        "base",
        "svg",
        "math",
        "noscript",
        "noembed",
        "noframes",
        "title",
        "template",
        "canvas",
        "audio",
        "video",
        "source",
        "track",
        "dialog",
        "param",
        "xml",
        "plaintext",
        "listing",
        "xmp",
        "portal",
        "fencedframe",
    ]
)
#: Kept; of every other element what is in it stays.
_KEPT = frozenset(
    [
        "a",
        "abbr",
        "acronym",
        "address",
        "article",
        "aside",
        "b",
        "bdi",
        "bdo",
        "big",
        "blockquote",
        "br",
        "caption",
        "center",
        "cite",
        "code",
        "col",
        "colgroup",
        "dd",
        "del",
        "dfn",
        "dir",
        "div",
        "dl",
        "dt",
        "em",
        "figcaption",
        "figure",
        "font",
        "footer",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hgroup",
        "hr",
        "i",
        "img",
        "ins",
        "kbd",
        "li",
        "mark",
        "menu",
        "nav",
        "ol",
        "p",
        "pre",
        "q",
        "rp",
        "rt",
        "ruby",
        "s",
        "samp",
        "section",
        "small",
        "span",
        "strike",
        "strong",
        "sub",
        "sup",
        "table",
        "tbody",
        "td",
        "tfoot",
        "th",
        "thead",
        "time",
        "tr",
        "tt",
        "u",
        "ul",
        "var",
        "wbr",
    ]
)
_ATTRIBUTES = frozenset(
    [
        "abbr",
        "align",
        "alt",
        "bgcolor",
        "border",
        "cellpadding",
        "cellspacing",
        "cite",
        "color",
        "colspan",
        "datetime",
        "dir",
        "face",
        "headers",
        "height",
        "href",
        "hspace",
        "lang",
        "noshade",
        "nowrap",
        "reversed",
        "role",
        "rowspan",
        "rules",
        "scope",
        "size",
        "span",
        "src",
        "start",
        "style",
        "summary",
        "title",
        "type",
        "valign",
        "value",
        "vspace",
        "width",
    ]
)
_SCHEMES = frozenset({"http", "https", "mailto", "tel", "sms", "cid"})
_URLS = frozenset({"href", "src", "cite"})
_IMAGE_DATA = re.compile(r"data:image/(?:png|jpeg|jpg|gif|svg\+xml)[;,]", re.IGNORECASE)
_SCHEME = re.compile(r"([a-z][a-z0-9+.\-]*):")
#: Declarations that load, run or escape; and what CSS hides them with.
_LIVE_CSS = re.compile(
    r"url\(|image-set\(|image\(|expression\(|@import|javascript:|-moz-binding|behavior\s*:|\\|/\*|<",
    re.IGNORECASE,
)
_ESCAPING = re.compile(
    r"\s*(?:position\s*:\s*(?:fixed|absolute|sticky)|z-index\s*:|content\s*:|pointer-events\s*:|animation|transition)",
    re.IGNORECASE,
)
#: Neither a parser nor a mail takes these; a lone half of a character has no bytes.
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_DECLARATION = re.compile(r"<\?xml\s[^>]*>", re.IGNORECASE)
_TAG = re.compile(r"<[a-zA-Z]")
#: Parsers and printers walk HTML recursively; nobody's object is nested deeper than this.
_DEEPEST = 200
#: An object that shows more HTML than this is a page of its own.
MAX_HTML = 8 * 2**20


def clean_html(source: str, image: Callable[[str], str | None] | None = None) -> str:
    """Return an HTML fragment with its CSS inlined and everything live removed.

    Args:
        source: HTML, well formed or not; a whole document gives what is in its body.
        image: Takes the ``data:`` URI of an image and returns what ``src`` says instead; None, or an answer of
            None, drops the image and leaves its alt text.

    Raises:
        ValueError: It is longer than `MAX_HTML`, or nested deeper than 200 elements.
    """
    if len(source) > MAX_HTML:
        raise ValueError(
            f"its HTML has {len(source) / 2**20:,.0f} MB, and a mail can show {MAX_HTML // 2**20}"
        )
    text = _DECLARATION.sub("", _NO_TEXT.sub("\ufffd", source), count=1)
    if "<style" in text.lower():
        text = inline_css(_tidied(text))
    return _cleaned(_without_blocks(text), image)


_BLOCKS = re.compile(
    r"<(script|style|title|textarea|noscript|xmp|template)\b.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL
)


def _without_blocks(text: str) -> str:
    """Take out what parsers disagree about: elements whose content is no markup."""
    return _BLOCKS.sub("", text)


def _tidied(text: str) -> str:
    """Return HTML for the one parser that has no bound of its own: every element closed, none but known ones.

    What it nests is then what was counted here; left to itself, it runs out of stack where tags are badly closed.
    """
    from lxml import etree
    from lxml import html as lxml_html

    try:
        root = lxml_html.document_fromstring(text)
    except etree.ParserError:
        return ""  # there is nothing in it
    _refuse_depth(root)
    for node in list(root.iter()):
        tag = node.tag.lower() if isinstance(node.tag, str) else ""
        if not tag or tag in _DROPPED - {"style"}:
            _drop(node)
        elif tag not in _KEPT and tag not in {"html", "head", "body", "style"}:
            node.drop_tag()
    written: str = etree.tostring(root, encoding="unicode", method="html")
    return written


def _refuse_depth(root: Any) -> None:
    """Refuse what is nested deeper than mail programs show; a parser gives up soon after, and loses the rest."""
    from lxml import etree

    depth = 0
    for event, _ in etree.iterwalk(root, events=("start", "end")):
        depth += 1 if event == "start" else -1
        if depth > _DEEPEST:
            raise ValueError("its HTML is nested deeper than mail programs show")


def _cleaned(text: str, image: Callable[[str], str | None] | None) -> str:
    from lxml import etree

    if not _TAG.search(text):
        return html.escape(html.unescape(text), quote=False).strip()
    root = _parsed(text)
    _refuse_depth(root)
    for node in list(root.iter()):
        tag = node.tag.lower() if isinstance(node.tag, str) else ""
        if node is root:
            continue
        if not tag or tag in _DROPPED:
            _drop(node)
        elif tag in _KEPT:
            _clean_attributes(node, image)
            if tag == "table" and "cellpadding" not in node.attrib:
                # What a notebook's own style sheet would do; Outlook goes by the attributes alone.
                node.attrib.update({"cellpadding": "4", "cellspacing": "0", "border": "0"})
        elif node.getparent() is not None:
            node.drop_tag()
    inner = [html.escape(root.text or "", quote=False)]
    inner += [etree.tostring(child, encoding="unicode", method="html") for child in root]
    return "".join(inner).strip()


def _parsed(text: str) -> Any:
    """Return what a document, or a piece of one, shows as a ``<div>``; one of frames alone shows nothing."""
    from lxml import etree
    from lxml import html as lxml_html

    root = lxml_html.Element("div")
    whole = text if _WHOLE.match(text) else f"<html><body>{text}</body></html>"
    try:
        bodies = lxml_html.document_fromstring(whole).findall("body")
    except etree.ParserError:  # an empty one
        return root
    for body in bodies:
        root.text = (root.text or "") + (body.text or "")
        root.extend(list(body))
    return root


_WHOLE = re.compile(r"\s*<(?:html|!doctype)", re.IGNORECASE)


def _drop(node: Any) -> None:
    """Remove a node but keep the text that follows it; its parent may be gone already."""
    if node.getparent() is not None:
        node.drop_tree()


def _clean_attributes(node: Any, image: Callable[[str], str | None] | None) -> None:
    for name in list(node.attrib):
        value = node.attrib[name]
        plain = name.lower()
        if plain == "style":
            kept = clean_style(value)
            if kept:
                node.attrib[name] = kept
            else:
                del node.attrib[name]
        elif plain == "src" and node.tag.lower() == "img" and _IMAGE_DATA.match(value.strip()):
            shown = image(value.strip()) if image is not None else None
            if shown is None:
                del node.attrib[name]
            else:
                node.attrib[name] = shown
        elif not _harmless(plain, value):
            del node.attrib[name]
    if node.tag.lower() == "img" and "src" not in node.attrib:
        node.tail = (node.get("alt") or "") + (node.tail or "")
        _drop(node)


def clean_style(style: str) -> str:
    """Return a style attribute without the declarations that load, run or leave their place."""
    kept = [d.strip() for d in _declarations(style)]
    return ";".join(d for d in kept if d and not _LIVE_CSS.search(d) and not _ESCAPING.match(d))


_CSS_PIECE = re.compile(r"""[^;"'()]+|"[^"]*"|'[^']*'|.""", re.DOTALL)


def _declarations(style: str) -> list[str]:
    """Split at semicolons, but not inside quotes or parentheses; what is not closed reaches to the end."""
    found = [""]
    depth = 0
    for piece in _CSS_PIECE.findall(style):
        if piece == ";" and not depth:
            found.append("")
            continue
        depth = max(0, depth + (piece == "(") - (piece == ")"))
        found[-1] += piece
    return found


def _harmless(name: str, value: str) -> bool:
    if name not in _ATTRIBUTES:
        return False
    if name not in _URLS:
        return True
    scheme = _SCHEME.match(re.sub(r"[\x00-\x20\x7f]", "", value).lower())
    return scheme is None or scheme[1] in _SCHEMES


def has_content(fragment: str) -> bool:
    """Tell whether a cleaned fragment shows anything: a text, an image, a rule."""
    if re.search(r"<(?:img|hr)\b", fragment):
        return True
    return bool(html.unescape(re.sub(r"<[^>]*>", "", fragment)).strip())
