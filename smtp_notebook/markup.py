"""Tags of a document and declarations of a style sheet, read in linear time. Pure: text in, values out.

No browser: no tree is built and nothing is repaired. Tags, attributes, comments and raw text end where the
HTML standard (13.2.5) ends them, strings, comments and blocks of CSS where CSS Syntax Level 3 does, so that a
``<`` in a comment or a brace in a string fools nobody. Whatever the input, nothing raises. The stdlib's
HTMLParser takes quadratic time for some of it (tags and comments that never end), and twice as long for a table.
"""

from __future__ import annotations

import enum
import html
import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Kind", "Statement", "Token", "attributes", "declarations", "plain", "statements", "tokens"]

#: How many characters of one style sheet or style attribute are read. Gmail reads 16 kB of styles.
CSS_LIMIT = 1 << 17

# Possessive throughout: each character is looked at once, and a tag that never ends is found to do so once.
_ATTRIBUTES = (
    r"""(?:[\s/]++|[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>"'][^\s>]*+|(?=>)))?+)*+"""
)
_MARKUP = re.compile(rf"<(?:(/?)([a-zA-Z][^\s/>]*+)({_ATTRIBUTES})>|(!--)|([!?/])|[a-zA-Z])")
_ATTRIBUTE = re.compile(
    r"""([^\s/>][^\s/>=]*+)(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>"'][^\s>]*+)|(?=>)))?"""
)
_COMMENT_END = re.compile(r"--!?>")
#: Elements whose content is text, whatever it looks like (HTML standard, 13.2.6.2 and 13.2.6.4).
_RAW = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in ("iframe", "noembed", "noframes", "script", "style", "textarea", "title", "xmp")
}


class Kind(enum.IntEnum):
    """What a piece of a document is."""

    TEXT = 0
    START = 1
    END = 2
    RAW = 3
    COMMENT = 4


class Token(NamedTuple):
    """One piece of a document.

    Attributes:
        kind: What it is.
        name: The element's name in lower case, also of the raw text in one; "" otherwise.
        text: What stands there: a text, a start tag's attributes, the raw content, a comment's inside.
        start: Where it begins in the document, in characters.
    """

    kind: Kind
    name: str
    text: str
    start: int


def tokens(document: str) -> Iterator[Token]:
    """Yield the pieces of an HTML document in their order; what follows an unfinished tag is not there."""
    place, end = 0, len(document)
    while found := _MARKUP.search(document, place):
        at = found.start()
        if at > place:
            yield Token(Kind.TEXT, "", document[place:at], place)
        slash, name, text, comment, other = found.groups()
        if name is not None:
            name, place = name.lower(), found.end()
            yield Token(Kind.END if slash else Kind.START, name, text, at)
            if not slash and name in _RAW:
                close = _RAW[name].search(document, place)
                stop = close.start() if close else end
                yield Token(Kind.RAW, name, document[place:stop], place)
                place = stop
        elif comment:
            # "<!-->" and "<!--->" are whole comments, so the search begins at their own dashes.
            close = _COMMENT_END.search(document, at + 2)
            place = close.end() if close else end
            yield Token(Kind.COMMENT, "", document[at + 4 : close.start() if close else end], at)
        elif other:
            stop = document.find(">", at)
            place = end if stop < 0 else stop + 1
            yield Token(Kind.COMMENT, "", document[at + 2 : max(place - 1, at + 2)], at)
        else:
            return
    if place < end:
        yield Token(Kind.TEXT, "", document[place:], place)


def attributes(text: str) -> dict[str, str]:
    """Return a start tag's attributes by their name in lower case; of two the first counts."""
    found: dict[str, str] = {}
    for name, double, single, bare in _ATTRIBUTE.findall(text):
        found.setdefault(name.lower(), plain(double or single or bare))
    return found


def plain(text: str) -> str:
    """Return text with its character references resolved."""
    if "&" not in text:
        return text
    try:
        return html.unescape(text)
    except ValueError:  # a reference of more digits than int() reads
        return text


# ------------------------------------------------------------------------------------------------ CSS

_SPECIAL = re.compile(r"""["'(){}\[\]\\]|/\*""")
_PIECE = re.compile(
    r"""/\*(?:.*?\*/|.*)|"(?:[^"\\\n]++|\\.)*+"?|'(?:[^'\\\n]++|\\.)*+'?|<!--|-->|\\.?|[^"'(){}\[\];/\\<-]++|.""",
    re.DOTALL,
)
# What follows "url(" without a quote may hold anything but a bracket (CSS Syntax Level 3, 4.3.6).
_URL_REST = re.compile(r"""\s*+[^"'\s)][^)]*+""")
_IMPORTANT = re.compile(r"!\s*+important\s*+$")
_CLOSERS = {"(": ")", "[": "]", "{": "}"}


class Statement(NamedTuple):
    """A declaration, a rule or an at-rule.

    Attributes:
        head: What stands before its block, or all of it; strings are emptied or read ``"s"``.
        block: The inside of its block, or None where it ended without one.
    """

    head: str
    block: str | None


def _pieces(css: str) -> Iterator[str]:
    """Yield brackets, semicolons and what stands between them, without comments and what is in strings."""
    place, before = 0, ""
    while found := _PIECE.match(css, place):
        piece, place = found[0], found.end()
        if piece[0] in "\"'":
            piece = '"s"' if len(piece.strip(piece[0])) else '""'
        elif piece.startswith("/*"):
            piece = " "
        elif piece in {"<!--", "-->"}:
            continue
        elif piece == "(" and before[-3:].lower() == "url" and (rest := _URL_REST.match(css, place)):
            place = rest.end()
        yield piece
        before = piece


def statements(css: str) -> Iterator[Statement]:
    """Yield what a style sheet or a block consists of, in its order.

    Args:
        css: The inside of a style element, of a style attribute, or of a Statement's block.
    """
    head: list[str] = []
    block: list[str] | None = None
    open_: list[str] = []
    for piece in _pieces(css[:CSS_LIMIT]):
        if piece == "{" and not open_:
            block = []
            open_.append("}")
            continue
        if piece == ";" and not open_:
            yield Statement("".join(head).strip(), None)
            head = []
            continue
        if open_ and piece == open_[-1]:
            open_.pop()
            if block is not None and not open_:
                yield Statement("".join(head).strip(), "".join(block))
                head, block = [], None
                continue
        elif piece in _CLOSERS:
            open_.append(_CLOSERS[piece])
        (head if block is None else block).append(piece)
    if head or block:
        yield Statement("".join(head).strip(), None if block is None else "".join(block))


def declarations(block: str) -> tuple[tuple[str, str], ...]:
    """Return the properties and values of a block in lower case, without ``!important``, in their order."""
    if _SPECIAL.search(block):
        parts = [s.head for s in statements(block) if s.block is None]
    else:
        parts = block[:CSS_LIMIT].split(";")
    found = []
    for part in parts:
        name, colon, value = part.partition(":")
        if colon and (name := name.strip().lower()):
            found.append((name, _IMPORTANT.sub("", value.lower()).strip()))
    return tuple(found)
