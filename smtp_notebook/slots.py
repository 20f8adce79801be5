"""Where a value stands in a text, and how it is escaped there. Pure: text in, text out.

A template is rendered with a token in the place of each value; what results is a *skeleton* that holds
no data. The skeleton alone is parsed here, so no value can ever become markup, an attribute or another
URL scheme. The rules for URLs follow Go's html/template: the start of a URL is checked, its path is
normalised, its query is escaped.
"""

from __future__ import annotations

import enum
import html
import re
import secrets
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import quote

from markupsafe import Markup

__all__ = ["READY", "Marker", "Pieces", "Place", "SlotError", "Spot", "escape", "html_pieces", "plain_pieces"]

SCHEMES = frozenset({"http", "https", "mailto", "tel", "sms", "cid"})
_URL_ATTRIBUTES = frozenset(
    {"href", "src", "action", "background", "cite", "poster", "longdesc", "xlink:href"}
)
_NEVER = frozenset({"srcdoc", "srcset", "formaction", "http-equiv"})
_ATTRIBUTE = re.compile(r"""([^\s=/>"'<]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_URL_TAIL = re.compile(r"\b(?:https?://|mailto:)[^\s<>()\[\]\"]*$", re.IGNORECASE)
READY = 100
_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.\-]*):", re.IGNORECASE)
_CSS_VALUE = re.compile(r"[\w #%.,\-]*")


class SlotError(ValueError):
    """A value in a place where no escaping makes it safe; the text says what to do."""


class Spot(enum.Enum):
    """The kind of place that a value stands in."""

    TEXT = enum.auto()
    ATTRIBUTE = enum.auto()
    URL_START = enum.auto()
    URL_REST = enum.auto()
    URL_PATH = enum.auto()
    URL_QUERY = enum.auto()
    STYLE = enum.auto()
    NOWHERE = enum.auto()
    PLAIN = enum.auto()
    PLAIN_URL_PATH = enum.auto()
    PLAIN_URL_QUERY = enum.auto()


@dataclass(frozen=True, slots=True)
class Place:
    """One value's place: *index* counts the values in the order they were printed."""

    index: int
    spot: Spot


Pieces = tuple[str | Place, ...]


class Marker:
    """Makes the tokens of one template, and finds them again.

    A token is letters and digits only, so that Markdown, URLs and HTML leave it alone. It holds a
    random number that no data can know, and one letter at each end whose case shows whether a filter
    was applied to text that held it.

    Attributes:
        hint: What every token has in it, and almost no data.
        ready: The first `READY` tokens as what autoescaping leaves alone.
    """

    def __init__(self) -> None:
        self._nonce = f"{secrets.randbelow(9 * 10**11) + 10**11}"
        self._find = re.compile(f"k{self._nonce}([0-9]{{5}})q")
        self.hint = self._nonce[:6]
        self.ready = tuple(self.markup(i) for i in range(READY))
        self._torn = re.compile(f"{self._nonce}|k{self._nonce[:6]}", re.IGNORECASE)

    def token(self, index: int) -> str:
        """Return the token of the value that was printed as number *index*."""
        return f"k{self._nonce}{index:05d}q"

    def markup(self, index: int) -> Markup:
        """Return a token as what autoescaping leaves alone."""
        return Markup(self.token(index))  # noqa: S704 - letters and digits of ours

    def holds(self, text: str) -> bool:
        """Tell whether *text* has a token in it."""
        return self._find.search(text) is not None

    def touches(self, text: str) -> bool:
        """Tell whether *text* has a token in it, whole or changed."""
        return self._torn.search(text) is not None

    def split(self, text: str) -> list[str | int]:
        """Return *text* as literal pieces and value numbers, in order.

        Raises:
            SlotError: A token was cut or changed by a filter.
        """
        parts = self._find.split(text)
        out: list[str | int] = []
        for position, part in enumerate(parts):
            if position % 2:
                out.append(int(part))
            elif part:
                if self.touches(part):
                    msg = (
                        "A filter changed text that values had already been printed into. "
                        "Apply it to the value itself: {{ name | upper }}."
                    )
                    raise SlotError(msg)
                out.append(part)
        return out

    def sole(self, text: str) -> int | None:
        """Return the value's number when *text* is one token and nothing else."""
        found = self._find.fullmatch(text.strip())
        return int(found[1]) if found else None


def plain_pieces(text: str, marker: Marker) -> Pieces:
    """Return the pieces of a plain text; values inside a URL there are escaped as URL parts."""
    out: list[str | Place] = []
    before = ""
    for part in marker.split(text):
        if isinstance(part, str):
            out.append(part)
            before += part
            continue
        out.append(Place(part, _plain_spot(before)))
        before += "x"
    return tuple(out)


def _plain_spot(before: str) -> Spot:
    found = _URL_TAIL.search(before[-2000:])
    if found is None:
        return Spot.PLAIN
    return Spot.PLAIN_URL_QUERY if re.search(r"[?#]", found[0]) else Spot.PLAIN_URL_PATH


def html_pieces(text: str, marker: Marker) -> Pieces:
    """Return the pieces of an HTML text, each value with the place it stands in.

    Raises:
        SlotError: A value stands where none may: a tag's or attribute's name, an unquoted attribute,
            a script, a style sheet, an event handler.
    """
    parts = marker.split(text)
    scanner = _Scanner(marker)
    scanner.feed(text)
    scanner.close()
    if [p for p in parts if isinstance(p, int)] != [p.index for p in scanner.places]:
        msg = "The HTML is too broken to tell where its values stand. Close every tag, quote and comment."
        raise SlotError(msg)
    places = iter(scanner.places)
    return tuple(part if isinstance(part, str) else next(places) for part in parts)


class _Scanner(HTMLParser):
    """Walks a skeleton in document order and notes the place of every token."""

    def __init__(self, marker: Marker) -> None:
        super().__init__(convert_charrefs=False)
        self._marker = marker
        self._open = ""
        self.places: list[Place] = []

    def _add(self, text: str, spot: Spot) -> None:
        self.places += [Place(i, spot) for i in self._marker.split(text) if isinstance(i, int)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the raw text shows the quotes, attrs do not
        self._open = tag
        raw = self.get_starttag_text() or ""
        if not self._marker.holds(raw):
            return
        end = 0
        for found in _ATTRIBUTE.finditer(raw):
            self._refuse(raw[end : found.start()] + found[1])
            self._attribute(found[1].lower(), found[2] if found[2] is not None else found[3])
            end = found.end()
        self._refuse(raw[end:])

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag: str) -> None:
        self._refuse(tag)
        self._open = ""

    def _refuse(self, text: str) -> None:
        if self._marker.holds(text):
            msg = 'A value stands inside a tag without quotes around it. Write attribute="{{ value }}".'
            raise SlotError(msg)

    def _attribute(self, name: str, value: str) -> None:
        if not self._marker.holds(value):
            return
        if name.startswith("on") or name in _NEVER:
            msg = f"A value cannot stand in the attribute {name}: no escaping makes that safe."
            raise SlotError(msg)
        if name == "style":
            self._add(value, Spot.STYLE)
        elif name in _URL_ATTRIBUTES:
            self._url(value)
        else:
            self._add(value, Spot.ATTRIBUTE)

    def _url(self, value: str) -> None:
        before = ""
        for part in self._marker.split(value):
            if isinstance(part, str):
                before += part
                continue
            self.places.append(Place(part, _url_spot(before)))
            before += "x"

    def handle_data(self, data: str) -> None:
        if self._open in {"script", "style"} and self._marker.holds(data):
            msg = f"A value cannot stand in a <{self._open}> element. Put it into the text or an attribute."
            raise SlotError(msg)
        self._add(data, Spot.TEXT)

    def handle_comment(self, data: str) -> None:
        # Outlook reads the markup inside a conditional comment; every other comment is for nobody.
        if data.lstrip().startswith("[if"):
            self.places += [p for p in html_pieces(data, self._marker) if isinstance(p, Place)]
        else:
            self._add(data, Spot.NOWHERE)

    def handle_decl(self, decl: str) -> None:
        self._add(decl, Spot.NOWHERE)

    def handle_pi(self, data: str) -> None:
        self._add(data, Spot.NOWHERE)

    def unknown_decl(self, data: str) -> None:
        self._add(data, Spot.NOWHERE)


def _url_spot(before: str) -> Spot:
    """Return the kind of place behind *before* in a URL, where each value is an x."""
    if not before.strip():
        return Spot.URL_START
    if re.search(r"[?#]", before):
        return Spot.URL_QUERY
    # What stands there may be the end of a scheme: "java", then "script:".
    return Spot.URL_PATH if re.search(r"[:/]", before) else Spot.URL_REST


def escape(text: str, spot: Spot) -> str:
    """Return a value's *text* as it must stand at *spot*.

    Raises:
        SlotError: The value begins a URL with a scheme that mail does not need (``javascript:``), or
            is no plain CSS value.
    """
    match spot:
        case Spot.PLAIN:
            return text
        case Spot.TEXT | Spot.ATTRIBUTE:
            # "--" could end the conditional comment that the value stands in.
            return html.escape(text).replace("--", "-&#45;")
        case Spot.URL_QUERY | Spot.PLAIN_URL_QUERY:
            return quote(text, safe="")
        case Spot.PLAIN_URL_PATH | Spot.URL_PATH:
            # A value that is a path may hold slashes; never the start of a query or another host.
            return quote(text, safe="/%~!$&'()*+,;=:@" if spot is Spot.PLAIN_URL_PATH else "/%~!$*+,;=:@")
        case Spot.URL_REST:
            return quote(text, safe="/%~!$*+,;=@")
        case Spot.URL_START:
            return html.escape(_checked_url(text))
        case Spot.STYLE:
            if not _CSS_VALUE.fullmatch(text):
                msg = f"{text[:60]!r} is no plain CSS value. A value in style= may be a colour, a number or a word."
                raise SlotError(msg)
            return html.escape(text)
        case Spot.NOWHERE:
            return ""


def _checked_url(text: str) -> str:
    url = text.strip()
    if url.startswith("<") and url.endswith(">"):
        url = url[1:-1].strip()  # as URLs stand in headers and texts (RFC 3986, appendix C)
    # Browsers skip white space and control characters inside a scheme: "java\tscript:".
    scheme = _SCHEME.match(re.sub(r"[\x00-\x20\x7f]", "", url))
    if scheme and scheme[1].lower() not in SCHEMES:
        msg = f"{url[:60]!r} is no link for a mail: its scheme is {scheme[1]!r}. Links begin with https:, http:, mailto: or tel:."
        raise SlotError(msg)
    return quote(url, safe="/%?#[]@!$&'()*+,;=:~")
