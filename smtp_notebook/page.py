"""What an HTML document holds of what `lint` asks for: read once, from its first piece to its last."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from smtp_notebook import markup, support
from smtp_notebook.markup import Kind, Token
from smtp_notebook.support import OUTLOOK, Feature

__all__ = ["LEFT", "Image", "Page", "Places", "Table", "read"]

#: Template text that nothing filled.
LEFT = re.compile(r"\{\{[^{}]{0,60}\}?\}?|\{%[^{}]{0,60}\}?")
#: A table with fewer rows is layout, or not what makes a mail large.
_ROWS = 20
#: Of a link's text so much is kept, in characters.
_WORDS = 2048


class Image(NamedTuple):
    """One <img>.

    Attributes:
        src: Its address, without blanks around it.
        alt: Whether it has an alt text, which may be empty.
        width: Its width attribute, or "".
        outlook: Whether Outlook for Windows sees it.
    """

    src: str
    alt: bool
    width: str
    outlook: bool


class Table(NamedTuple):
    """A table's size in characters, and its rows."""

    span: int = 0
    rows: int = 0


@dataclass(slots=True)
class Places:
    """How often a feature was found, and for which programs."""

    count: int = 0
    letters: set[str] = field(default_factory=set)


# ------------------------------------------------------------------------------------- a block of CSS

#: Only a value with a function or one of these units can hold what is not understood.
_UNUSUAL = re.compile(r"\(|\d(?:rem|vw|vh|ch)\b")


class _Lack(NamedTuple):
    """A feature, and the letters of the programs to which nothing else is given."""

    feature: Feature
    letters: str


class _Block(NamedTuple):
    """What the declarations of one block lack, and what they say that is understood.

    Attributes:
        lacks: What is lacking to whom.
        said: The letters of the programs that understand a declaration, by ``name`` and ``name:value``.
    """

    lacks: tuple[_Lack, ...]
    said: Mapping[str, set[str]]


def _judged(block: str) -> _Block:
    """Return what the declarations of a block lack.

    One that a program does not understand does no harm there beside one that it understands.
    """
    lacks: list[tuple[str, Feature, str]] = []
    said: dict[str, set[str]] = {}
    for name, value in markup.declarations(block):
        if name[0] == "-":
            continue
        found = list(_lacking(name, value))
        lacks += [(name, feature, letters) for feature, letters in found]
        understood = {OUTLOOK} if name.startswith("mso-") else set(support.CLIENTS)
        understood -= {letter for _, letters in found for letter in letters}
        for key in (name, f"{name}:{value}"):
            said.setdefault(key, set()).update(understood)
    return _Block(tuple(_uncovered(lacks, said)), said)


def _lacking(name: str, value: str) -> Iterator[_Lack]:
    """Yield what a declaration needs, with who lacks it."""
    lost: set[str] = set()
    for pattern, feature in support.PROPERTIES.get(name, ()):
        if pattern is None or pattern.search(value):
            lost.update(feature.lacking)
            if feature.fix:
                yield _Lack(feature, feature.lacking)
            break
    if not _UNUSUAL.search(value):
        return
    for pattern, feature in support.VALUES:
        # Who does not know the property at all does not miss its value.
        letters = "".join(x for x in feature.lacking if x not in lost)
        if letters and pattern.search(value):
            yield _Lack(feature, letters)


def _uncovered(lacks: Iterable[tuple[str, Feature, str]], said: Mapping[str, set[str]]) -> Iterator[_Lack]:
    for name, feature, letters in lacks:
        left = _left(feature, letters, said, name)
        if left:
            yield _Lack(feature, left)


def _left(feature: Feature, letters: str, said: Mapping[str, set[str]], *names: str) -> str:
    """Return who is left when what was said beside a feature counts for those that understand it."""
    covered = set().union(*(said.get(key, ()) for key in (*names, *feature.beside)))
    return "".join(x for x in letters if x not in covered)


# ------------------------------------------------------------------------------------------ the page

_HEAD = frozenset({"html", "head", "meta", "title", "style", "link", "base", "script", "noscript"})
_OTHER_CONTENT = frozenset(
    {"svg", "video", "audio", "object", "canvas", "input", "button", "iframe", "hr", "progress", "meter"}
)
_CONDITION = re.compile(r"\s*+\[if\s", re.IGNORECASE)
_NOT_OUTLOOK = re.compile(r"\s*+\[if\s++!\s*+\(*+(?:(?:gte?|lte?)\s++)?mso", re.IGNORECASE)
_AT_NAME = re.compile(r"@(?:-\w++-)?([\w-]++)")
_ON_ACTION = re.compile(r":(?:hover|focus|active|checked|target|visited)", re.IGNORECASE)
_BEFORE_AFTER = re.compile(r"::?(?:before|after)\b", re.IGNORECASE)
_REMOTE_URL = re.compile(
    r"""background(?:-image)?\s*+:[^;{}"']{0,200}url\(\s*+["']?\s*+(?:https?:)?//""", re.IGNORECASE
)
_NO_BLOCK = _Block((), {})


@dataclass(slots=True)
class Page:
    """What an HTML document holds of what the rules ask for."""

    has_text: bool = False
    has_picture: bool = False
    has_other: bool = False
    left: str = ""
    sheet: int = 0
    remote_backgrounds: int = 0
    table: Table = field(default_factory=Table)
    images: list[Image] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    elements: dict[Feature, Places] = field(default_factory=dict)
    styles: dict[Feature, Places] = field(default_factory=dict)


def read(document: str) -> Page:
    """Return what the HTML *document* holds; nothing raises, and time is linear in its length."""
    return _Reader(document).read()


class _Reader:
    """Walks a document once, piece by piece."""

    def __init__(self, document: str) -> None:
        self._document = document
        self._page = Page()
        self._hunts = LEFT.search(document) is not None
        self._in_body = False
        #: False between <!--[if !mso]><!--> and <!--<![endif]-->, which Outlook skips.
        self._outlook = True
        self._media = False
        self._tables: list[list[int]] = []
        #: The link that is open: its address, and its text so far.
        self._href: str | None = None
        self._words: list[str] = []
        #: Elements whose inside may be shown in their place, and how much had been seen when each began.
        self._inner: list[tuple[str, Feature, int, bool]] = []
        self._seen = 0
        self._blocks: dict[str, _Block] = {}
        self._tags: dict[tuple[bool, str], tuple[tuple[_Lack, bool], ...]] = {}
        self._handlers: Mapping[str, Callable[[Token], None]] = {
            "a": self._anchor,
            "area": self._area,
            "img": self._image,
            "link": self._link_element,
            "style": self._style_element,
            "table": self._table,
            "tr": self._row,
            "hr": self._rule,
        }

    def read(self) -> Page:
        """Return the page."""
        if not self._document:
            return self._page
        steps = {
            Kind.TEXT: self._text,
            Kind.START: self._start,
            Kind.END: self._end,
            Kind.RAW: self._raw,
            Kind.COMMENT: self._comment,
        }
        for token in markup.tokens(self._document):
            steps[token.kind](token)
        self._close_link()
        while self._inner:
            self._close_inner()
        while self._tables:
            self._close_table(len(self._document))
        return self._page

    def _add(self, lack: _Lack, places: dict[Feature, Places]) -> None:
        letters = set(lack.letters) if self._outlook else set(lack.letters) - {OUTLOOK}
        if letters and lack.feature.fix:
            found = places.setdefault(lack.feature, Places())
            found.count += 1
            found.letters |= letters

    # ------------------------------------------------------------------------------------ pieces

    def _text(self, token: Token) -> None:
        text = token.text
        page = self._page
        if page.has_text and self._href is None and not (self._inner or self._hunts):
            return
        if not markup.plain(text).strip():
            return
        page.has_text = self._in_body = True
        self._seen += 1
        if self._href is not None:
            self._words.append(text)
        self._hunt(text)

    def _hunt(self, text: str) -> None:
        if self._hunts and not self._page.left and (found := LEFT.search(text)):
            self._page.left = found[0]

    def _comment(self, token: Token) -> None:
        if "<![endif]" in token.text.lower() or token.text.lower().startswith("[endif]"):
            self._outlook = True
        elif _CONDITION.match(token.text):
            # Whatever else Outlook reads inside such a comment is the author's own second choice.
            self._outlook = not _NOT_OUTLOOK.match(token.text)

    def _raw(self, token: Token) -> None:
        if token.name == "style":
            self._page.sheet += len(token.text.encode("utf-8", "replace"))
            self._page.remote_backgrounds += len(_REMOTE_URL.findall(token.text))
            if not self._media:
                self._style_sheet(token.text)
        elif token.name == "textarea":
            self._hunt(token.text)

    def _start(self, token: Token) -> None:
        name, text = token.name, token.text
        if name not in _HEAD:
            self._in_body = True
        handler = self._handlers.get(name)
        if handler is not None:
            handler(token)
        feature = support.ELEMENTS.get(name)
        if feature is not None:
            self._element(name, feature, text)
        if "=" in text or "hidden" in text.lower():
            self._hunt(text)
            key = (name == "body", text)
            if key not in self._tags:
                self._tags[key] = self._judge_tag(*key)
            for lack, is_style in self._tags[key]:
                self._add(lack, self._page.styles if is_style else self._page.elements)

    def _end(self, token: Token) -> None:
        if token.name == "a":
            self._close_link()
        elif token.name == "table" and self._tables:
            self._close_table(token.start)
        elif self._inner and self._inner[-1][0] == token.name:
            self._close_inner()

    # ---------------------------------------------------------------------------------- elements

    def _anchor(self, token: Token) -> None:
        self._close_link()
        found = markup.attributes(token.text)
        self._seen += 1
        if "href" in found:
            self._href = found["href"]

    def _area(self, token: Token) -> None:
        found = markup.attributes(token.text)
        if "href" in found:
            self._page.links.append((found["href"], ""))

    def _close_link(self) -> None:
        if self._href is not None:
            self._page.links.append((self._href, markup.plain("".join(self._words)[:_WORDS])))
        self._href = None
        self._words = []

    def _image(self, token: Token) -> None:
        found = markup.attributes(token.text)
        self._seen += 1
        self._page.has_picture = True
        if "src" in found:
            image = Image(found["src"].strip(), "alt" in found, found.get("width", ""), self._outlook)
            self._page.images.append(image)
        elif "srcset" in found:
            srcset = support.ATTRIBUTES["srcset"]
            self._add(_Lack(srcset, srcset.lacking), self._page.elements)

    def _link_element(self, token: Token) -> None:
        if "stylesheet" in markup.attributes(token.text).get("rel", "").lower():
            sheet = support.ATTRIBUTES["stylesheet"]
            self._add(_Lack(sheet, sheet.lacking), self._page.styles)

    def _style_element(self, token: Token) -> None:
        # A sheet for some media is the author's own second choice, like @media.
        self._media = markup.attributes(token.text).get("media", "all").strip().lower() not in {
            "",
            "all",
            "screen",
        }

    def _table(self, token: Token) -> None:
        self._tables.append([token.start, 0])

    def _row(self, _: Token) -> None:
        if self._tables:
            self._tables[-1][1] += 1

    def _close_table(self, end: int) -> None:
        start, rows = self._tables.pop()
        if rows >= _ROWS and end - start > self._page.table.span:
            self._page.table = Table(end - start, rows)

    def _element(self, name: str, feature: Feature, text: str) -> None:
        if name in _OTHER_CONTENT:
            self._page.has_other = True
        # JSON-LD runs nothing: Gmail reads it (schema.org in mail, developers.google.com/gmail/markup).
        if name == "script" and "ld+json" in text.lower():
            return
        if feature.fallback:
            self._inner.append((name, feature, self._seen, self._outlook))
        else:
            self._add(_Lack(feature, feature.lacking), self._page.elements)

    def _close_inner(self) -> None:
        _, feature, seen, outlook = self._inner.pop()
        if self._seen == seen:
            lacking = feature.lacking if outlook else feature.lacking.replace(OUTLOOK, "")
            self._add(_Lack(feature, lacking), self._page.elements)

    def _rule(self, _: Token) -> None:
        self._page.has_other = True

    # ------------------------------------------------------------------------------------ styles

    def _judge_tag(self, is_body: bool, text: str) -> tuple[tuple[_Lack, bool], ...]:  # noqa: FBT001 - it is a dict's key
        """Return what a tag's attributes lack, each with whether it is CSS."""
        found = markup.attributes(text)
        style = found.get("style", "")
        block = self._block(style) if style else _NO_BLOCK
        self._page.remote_backgrounds += len(_REMOTE_URL.findall(style))
        lacks = [(lack, True) for lack in block.lacks if lack.feature.attribute not in found]
        for name in found:
            key = "script" if name.startswith("on") else name
            feature = support.ATTRIBUTES.get(key) if key in {"script", "hidden", "background"} else None
            # Outlook shows the picture of <body background=…> (caniemail.com, html-background).
            if feature is None or feature.attribute in found or (is_body and name == "background"):
                continue
            left = _left(feature, feature.lacking, block.said)
            if left:
                lacks.append((_Lack(feature, left), False))
        return tuple(lacks)

    def _block(self, block: str) -> _Block:
        if block not in self._blocks:
            self._blocks[block] = _judged(block)
        return self._blocks[block]

    def _style_sheet(self, css: str) -> None:
        has_rules = False
        for head, block in markup.statements(css):
            if head.startswith("@"):
                name = _AT_NAME.match(head)
                feature = support.AT_RULES.get(name[1].lower()) if name else None
                if feature is not None:
                    self._add(_Lack(feature, feature.lacking), self._page.styles)
            elif block is not None and head:
                has_rules = True
                self._style_rule(head, block)
        if has_rules and self._in_body:
            feature = support.STYLE_IN_BODY
            self._add(_Lack(feature, feature.lacking), self._page.styles)

    def _style_rule(self, head: str, block: str) -> None:
        if _ON_ACTION.search(head):  # an extra for those who can have it
            return
        lacks = list(self._block(block).lacks)
        if "{" in block:
            lacks.append(_Lack(support.NESTING, support.NESTING.lacking))
        if _BEFORE_AFTER.search(head) and any(
            n == "content" and '"s"' in v for n, v in markup.declarations(block)
        ):
            lacks.append(_Lack(support.GENERATED, support.GENERATED.lacking))
        for lack in lacks:
            self._add(lack, self._page.styles)
