"""The mold of a mail: what all rows of one skeleton share, encoded once, and the places of their values.

A mold is made from a row that went the whole way, through the gate. It fills only what it can vouch for:
values of plain types, header words of a whitelist, text that no further rule looks at. For all else it
raises `UnusualError`, and that row goes the whole way too. So it decides nothing of its own: it is either
as right as the one-message builder, or it is not used.
"""

from __future__ import annotations

import binascii
import datetime as dt
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from numbers import Number
from typing import NamedTuple

from smtp_notebook import _html, mime
from smtp_notebook.addresses import Address, plain_wire, split_addresses, split_mailbox
from smtp_notebook.fields import unsubscribe_uris
from smtp_notebook.message import Event, Message, calendar_parts, each_once
from smtp_notebook.outcome import MailError
from smtp_notebook.slots import Pieces, Place, SlotError, Spot, escape
from smtp_notebook.template import (
    Field,
    Filled,
    Parts,
    Row,
    Slot,
    Template,
    addresses_of,
    broken_lines,
    lints,
)

__all__ = ["Filling", "Form", "Leaf", "Mailbox", "Mold", "UnusualError", "addressees", "texts_of"]

_LINE = 76
#: A longer word in a subject is encoded.
_LONGEST_WORD = 66
_LONGEST_URI_LINE = 900
#: No piece of a soft-broken line but the last has fewer characters of what is broken.
_SHORTEST_PIECE = 71
_PLAIN_TYPES = frozenset({str, int, float, bool, Decimal, dt.date, dt.datetime, dt.time})
#: Words that no parser of headers takes for anything but text; a name has fewer.
_WORDS = re.compile(r"[A-Za-z0-9!#$%&'()*+./?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'()*+./?^_`{|}~-]+)*")
_NAME = re.compile(r"[A-Za-z0-9]{1,60}(?: [A-Za-z0-9]{1,60})*")
_PRINTABLE = re.compile(r"[\x21-\x7e]+(?: [\x21-\x7e]+)*")
#: The same with any letters: such a line is read back.
_ANY_WORDS = re.compile(r"[\w!#$%&'()*+./?^`{|}~-]+(?: [\w!#$%&'()*+./?^`{|}~-]+)*")
_ANY_NAME = re.compile(r"[^\W_]+(?: [^\W_]+)*")
_ANY_PRINTABLE = re.compile(r"[\w\x21-\x7e]+(?: [\w\x21-\x7e]+)*")
_LONGEST_TEXT = 200
_IN_URI = re.compile(r"[A-Za-z0-9_.~-]+")
_WHOLE_URI = re.compile(r"https://[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*/[A-Za-z0-9/_.~?&%=+-]*")
_HTTPS = re.compile(r"<(https:[^>]*)>", re.IGNORECASE)
_URI = re.compile(r"(?:https://[A-Za-z0-9.-]+/|mailto:)[\x21-\x2b\x2d-\x3b\x3d\x3f-\x7e]*")
#: What stands for itself in plain text, in HTML and in quoted-printable alike.
_SIMPLE = re.compile(r"[A-Za-z0-9 .,;!?()/_+*#@$%^~|\[\]-]*")
#: What stands for itself in a URL and in a style besides.
_WORD = re.compile(r"[A-Za-z0-9_.-]+")
_SIMPLE_SPOTS = frozenset({Spot.PLAIN, Spot.TEXT, Spot.ATTRIBUTE})
#: What would make a value that stands before it a reference to an image.
_AFTER_CID = re.compile(r"(?:i?d)?:", re.IGNORECASE)
_TAG_WITH_CID = re.compile(r"<[a-z][^<>]*cid:[^<>]*", re.IGNORECASE)
_LOADED = re.compile(rf"\s(?:src|background)\s*=\s*[\"']?{_html.CID.pattern}", re.IGNORECASE)

#: The texts of a row's values, by field.
Texts = Sequence[Sequence[str]]


class UnusualError(Exception):
    """A row, or a whole skeleton, that a mold does not vouch for."""


class Leaf(NamedTuple):
    """A file as it travels, and its hash."""

    content: bytes
    digest: bytes

    @classmethod
    def of(cls, part: mime.Part, disposition: str) -> Leaf:
        """Encode a file."""
        content = mime.written_file(part, disposition)
        told = content
        if part.identity:
            told = b"\0".join(
                [part.type.encode(), part.filename.encode(), disposition.encode(), part.identity]
            )
        return cls(content, hashlib.sha256(told).digest())


#: How each header line with values is written: its encoded words and its line ends.
Form = tuple[tuple[int, int], ...]


class Filling(NamedTuple):
    """One row in its mold; a mold's rows of one form differ in words alone."""

    recipients: tuple[str, ...]
    sender: str
    chunks: list[bytes | Leaf]
    warnings: tuple[str, ...]
    form: Form = ()
    link: str = ""


def texts_of(slots: Iterable[Slot]) -> list[str]:
    """Return what values print as; those of plain types alone."""
    return [value if type(value) is str else _text_of(value) for value, _, _ in slots]


def _text_of(value: object) -> str:
    kind = type(value)
    if kind in _PLAIN_TYPES:
        return str(value)
    module = kind.__module__
    if (module == "numpy" and isinstance(value, Number)) or (
        module.startswith("pandas.") and isinstance(value, dt.datetime)
    ):
        return str(value)
    raise UnusualError


class _Line:
    """Literal text with values in it."""

    def __init__(self, pieces: Iterable[str | int]) -> None:
        found = list(pieces)
        self.start = found[0] if found and isinstance(found[0], str) else ""
        self.literals = [p for p in found if isinstance(p, str)]
        self.numbers = [p for p in found if isinstance(p, int)]
        self.format = "".join("%s" if isinstance(p, int) else p.replace("%", "%%") for p in found)

    def fill(self, texts: Sequence[str]) -> str:
        return self.format % tuple([texts[i] for i in self.numbers])


# ------------------------------------------------------------------------------------- the addresses


class Mailbox(NamedTuple):
    """One address that a row's values fill."""

    field: int
    name: _Line | None
    spec: _Line

    def fill(self, texts: Texts) -> tuple[str, str]:
        """Return the display name and the address as written on the wire."""
        found = texts[self.field]
        wire = plain_wire(self.spec.fill(found))
        if wire is None:
            raise UnusualError
        if self.name is None:
            return "", wire
        name = self.name.fill(found)
        if _ANY_NAME.fullmatch(name) is None or len(name) > _LONGEST_TEXT:
            raise UnusualError
        return name, wire


def addressees(parts: Parts, key: str, known: Mapping[Field, Filled]) -> list[str | Mailbox]:
    """Return the addresses of one field: those that are the same in every row as they travel.

    Raises:
        UnusualError: One item holds several, some of them a row's.
    """
    numbers = {field: number for number, field in enumerate(known)}
    found: list[str | Mailbox] = []
    for item in parts.fields.get(key, ()):
        if item not in known or not known[item].slots:
            found += [a.wire for a in addresses_of(item, Row({}, known))]
            continue
        pieces = split_addresses(known[item].skeleton)
        if len(pieces) != 1:
            raise UnusualError
        name, spec = split_mailbox(pieces[0])
        split = parts.marker.split
        found.append(Mailbox(numbers[item], _Line(split(name)) if name else None, _Line(split(spec))))
    return found


# --------------------------------------------------------------------------------------- the headers

_Filler = Callable[[Texts, list[tuple[str, str]]], str]


def _mailbox_filler(label: str, box: int) -> _Filler:
    def fill(_: Texts, boxes: list[tuple[str, str]]) -> str:
        name, wire = boxes[box]
        if len(label) + len(name) + len(wire) + 6 > _LINE:
            raise UnusualError
        if not name:
            return f"{label}: {wire}\r\n"
        if _NAME.fullmatch(name):
            return f"{label}: {name} <{wire}>\r\n"
        return _read_back(mime.mailbox_line, label, name, wire)

    return fill


def _words_filler(label: str, field: int, line: _Line) -> _Filler:
    longest = min(_LONGEST_WORD, _LINE - len(label) - 2)
    # An equals sign could begin an encoded word that a value ends.
    if any("=" in p for p in line.literals):
        raise UnusualError
    # Words neither begin nor end with a blank, so that one of them in the values' places stands for all.
    plain = _PRINTABLE.fullmatch(line.format.replace("%s", "x").replace("%%", "%")) is not None

    def fill(texts: Texts, _: list[tuple[str, str]]) -> str:
        found = texts[field]
        text = line.fill(found)
        if "{" in text:
            raise UnusualError  # template text, perhaps
        # Joined by a blank, texts are words when each of them is.
        if plain and len(text) <= longest and _WORDS.fullmatch(" ".join(found)):
            return f"{label}: {text}\r\n"
        if (
            len(text) > _LONGEST_TEXT
            or not _ANY_PRINTABLE.fullmatch(text)
            or not all(map(_ANY_WORDS.fullmatch, found))
        ):
            raise UnusualError
        return _read_back(mime.text_line, label, text)

    return fill


def _read_back(write: Callable[..., str], *texts: str) -> str:
    try:
        return write(*texts)
    except (MailError, UnicodeError):
        raise UnusualError from None


def _uri_part(line: _Line) -> re.Pattern[str]:
    """Return what a value in this URI may be."""
    # Scheme and host are the template's, or the value is all of it; nothing may look like an encoded word or a
    # second URI.
    inside = _IN_URI if line.literals else _WHOLE_URI
    if line.literals and not (_URI.fullmatch("".join(line.literals)) and _URI.fullmatch(line.start)):
        raise UnusualError
    if "=?" in line.format or (not line.literals and len(line.numbers) > 1):
        raise UnusualError
    return inside


def _uris_filler(label: str, uris: Sequence[str | tuple[int, _Line]]) -> _Filler:
    """Return what writes several URIs: those that every row has, and the field and line of those with values."""
    parts = [uri if isinstance(uri, str) else (*uri, _uri_part(uri[1])) for uri in uris]

    def fill(texts: Texts, _: list[tuple[str, str]]) -> str:
        found: list[str] = []
        for part in parts:
            if isinstance(part, str):
                found.append(part)
                continue
            field, line, inside = part
            text = line.fill(texts[field])
            if len(text) > _LONGEST_URI_LINE or "=?" in text or not all(map(inside.fullmatch, texts[field])):
                raise UnusualError
            found.append(text)
        return mime.uri_line(label, found) if len(found) > 1 else f"{label}: <{found[0]}>\r\n"

    return fill


def _link_in(line: str) -> str:
    """Return the address for one-click unsubscribing in a line of List-Unsubscribe, or ""."""
    found = _HTTPS.search(line)
    return found[1] if found else ""


_ITEM_KEYS = {"Subject": "subject", "List-Unsubscribe": "unsubscribe"}
_MAILBOX_KEYS = {"From": "from_", "Reply-To": "reply_to", "To": "to", "Cc": "cc"}


class _Heading:
    """The header lines of a skeleton, and its envelope."""

    def __init__(self, parts: Parts, known: Mapping[Field, Filled], draft: mime.Draft) -> None:
        self._known = known
        self._numbers = {field: number for number, field in enumerate(known)}
        self._split = parts.marker.split
        self._boxes: list[Mailbox] = []
        found = {k: self._numbered(addressees(parts, k, known)) for k in (*_MAILBOX_KEYS.values(), "bcc")}
        #: Each address of a field: as it travels, or the number of its mailbox.
        self.addressed: Mapping[str, list[str | int]] = found
        self._recipients = [*found["to"], *found["cc"], *found["bcc"]]
        self._sender = found["from_"][0] if found["from_"] else draft.from_.wire
        if draft.receipt_to and isinstance(self._sender, int):
            raise UnusualError
        self._own = draft.from_.display_name.casefold()
        named = (a for a in found["to"] if isinstance(a, int))
        self._named = [a for a in named if self._boxes[a].name is not None]
        self._pieces: list[str] = [""]
        self._fillers: list[_Filler] = []
        self._link = ""
        self._linking: int | None = None
        for label, value in mime.header_lines(draft):
            filler = self._filler(parts, label, found)
            if filler is None:
                self._pieces[-1] += f"{label}: {value}\r\n"
                self._link = _link_in(value) if label == "List-Unsubscribe" else self._link
            else:
                self._linking = len(self._fillers) if label == "List-Unsubscribe" else self._linking
                self._fillers.append(filler)
                self._pieces += ["", ""]
        if not "".join(self._pieces).isascii():
            raise UnusualError

    def _numbered(self, found: list[str | Mailbox]) -> list[str | int]:
        """Put mailboxes into a list of their own; two fields may name the same."""
        out: list[str | int] = []
        for item in found:
            if isinstance(item, Mailbox):
                self._boxes.append(item)
                out.append(len(self._boxes) - 1)
            else:
                out.append(item)
        return out

    def _filler(self, parts: Parts, label: str, found: Mapping[str, list[str | int]]) -> _Filler | None:
        """Return what writes a line that depends on the row's values."""
        if label in _MAILBOX_KEYS:
            boxes = [b for b in found[_MAILBOX_KEYS[label]] if isinstance(b, int)]
            if boxes and len(found[_MAILBOX_KEYS[label]]) > 1:
                raise UnusualError
            return _mailbox_filler(label, boxes[0]) if boxes else None
        items = [*parts.fields.get(_ITEM_KEYS.get(label, ""), ()), *filter(None, [parts.headers.get(label)])]
        if not any(i in self._known and self._known[i].slots for i in items):
            return None
        if label == "List-Unsubscribe":
            return _uris_filler(label, [uri for item in items for uri in self._uris(item)])
        (item, *more) = items
        if more:
            raise UnusualError
        line = _Line(self._split(self._known[item].skeleton.strip()))
        return _words_filler(label, self._numbers[item], line)

    def _uris(self, item: object) -> list[str | tuple[int, _Line]]:
        """Return the URIs of one item, of which one with values has to stand alone."""
        if not isinstance(item, Field):
            return list(unsubscribe_uris(item))
        if item not in self._known:
            return list(unsubscribe_uris(item.source))
        if not self._known[item].slots:
            return list(unsubscribe_uris(self._known[item].skeleton))
        return [(self._numbers[item], _Line(self._split(self._known[item].skeleton.strip())))]

    def boxes(self, texts: Texts) -> list[tuple[str, str]]:
        """Return the mailboxes that a row fills."""
        return [box.fill(texts) for box in self._boxes]

    def fill(self, texts: Texts, boxes: list[tuple[str, str]]) -> tuple[str, tuple[str, ...], str, Form, str]:
        """Return the lines, the recipients, the sender, the form and the link for unsubscribing of a row."""
        if self._named:
            own = self._own if isinstance(self._sender, str) else boxes[self._sender][0].casefold()
            if own and own in [boxes[b][0].casefold() for b in self._named]:
                raise UnusualError  # the sender's name is the recipient's: the whole way says so
        out = self._pieces.copy()
        lines = [fill(texts, boxes) for fill in self._fillers]
        out[1::2] = lines
        wires = [r if isinstance(r, str) else boxes[r][1] for r in self._recipients]
        recipients = tuple(wires) if len(wires) == 1 else each_once(wires)
        sender = self._sender if isinstance(self._sender, str) else boxes[self._sender][1]
        form = tuple([(line.count("=?"), line.count("\n")) for line in lines])
        link = self._link if self._linking is None else _link_in(lines[self._linking])
        return "".join(out), recipients, sender, form, link


# ---------------------------------------------------------------------------------------- the texts


@dataclass(frozen=True, slots=True)
class _Use:
    """A value at one kind of place: where it stands decides how it is escaped."""

    index: int
    spot: Spot
    html: bool


class _Text:
    """One text of a skeleton: lines without values are encoded, the others are ready to be filled."""

    def __init__(self, pieces: Pieces, subtype: str, uses: dict[_Use, int]) -> None:
        self._html = subtype == "html"
        self._head = {e: mime.text_head(subtype, e) for e in ("quoted-printable", "base64")}
        lines = _lines(pieces)
        # A text that ends in a value ends in a line end all the same; whose it is depends on the value.
        self._open_end = self._number(pieces[-1], uses) if pieces and isinstance(pieces[-1], Place) else None
        self._formats: list[str] = []
        self._order: list[int] = []
        self._raw: list[bytes] = [b""]
        for line in lines:
            if any(isinstance(p, Place) for p in line):
                self._formats.append("".join(self._format(p) for p in line) + "\0")
                self._order += [self._number(p, uses) for p in line if isinstance(p, Place)]
                self._raw.append(b"")
            else:
                self._raw[-1] += "".join(map(str, line)).encode() + b"\r\n"
        blocks = [[mime.soft_broken(line) for line in mime.quoted(raw).split("\0")] for raw in self._raw]
        coded = ["\r\n".join(block) for block in blocks]
        self._all = "".join(self._formats)
        self._literals = self._all.lower().count("cid:")
        self._printable = sum(len(block) - block.count("\n") for block in coded)
        self._octets = sum(map(len, self._raw))
        # The line end behind a line with values stands before what follows.
        self._pieces = [self._head["quoted-printable"] + coded[0]]
        for block in coded[1:]:
            self._pieces += ["", "\r\n" + block]
        self.guarded = any(
            isinstance(before, Place) and isinstance(after, str) and _AFTER_CID.match(after)
            for before, after in pairwise(pieces)
        )
        self.size = 3 * self._octets

    def _number(self, place: Place, uses: dict[_Use, int]) -> int:
        return uses.setdefault(_Use(place.index, place.spot, self._html), len(uses))

    @staticmethod
    def _format(piece: str | Place) -> str:
        if isinstance(piece, Place):
            return "%s"
        return mime.quoted(piece.encode()).replace("%", "%%")

    def fill(self, forms: Sequence[str], *, watch: bool) -> list[str]:
        """Return the text as a leaf, in pieces.

        Args:
            forms: The row's values as they stand here, quoted.
            watch: Whether one of them might become a reference to an image.
        """
        values = tuple([forms[i] for i in self._order])
        text = self._all % values
        if watch and self._html and text.lower().count("cid:") != self._literals:
            raise UnusualError
        if self._open_end is not None and (not forms[self._open_end] or forms[self._open_end][-1] == "\0"):
            raise UnusualError
        *lines, _ = text.split("\0")
        broken = [mime.soft_broken(line) for line in lines]
        if self._is_shorter_in_base64(text, broken):
            return self._base64(values)
        if len(broken) != len(self._formats):
            # A value has line ends, so that not every line is one of the text's.
            broken = [
                "\r\n".join([mime.soft_broken(line) for line in lines[:-1]])
                for lines in (line.split("\0") for line in self._each(values))
            ]
        out = self._pieces.copy()
        out[1::2] = broken
        return out

    def _is_shorter_in_base64(self, text: str, broken: Sequence[str]) -> bool:
        """Tell whether base64 takes fewer octets, with one for each line end, than these lines do."""
        count = len(broken)
        octets = self._octets + len(text) + count - 2 * text.count("=")
        # The most that breaks can add: see `mime.soft_broken`. Most texts need no closer look.
        most = len(text) + 4 * ((len(text) + 2 * count) // _SHORTEST_PIECE + count) + 2 * count
        if 4 * octets >= 3 * (self._printable + most):
            return False
        printable = sum(map(len, broken)) - sum(line.count("\n") for line in broken) + count
        return mime.base64_length(octets) < self._printable + printable

    def _each(self, values: Sequence[str]) -> Iterable[str]:
        start = 0
        for form in self._formats:
            # Literal percent signs are doubled, so what is left are the places.
            end = start + form.replace("%%", "").count("%s")
            yield form % tuple(values[start:end])
            start = end

    def _base64(self, values: Sequence[str]) -> list[str]:
        lines = [binascii.a2b_qp(line.encode("ascii")).replace(b"\0", b"\r\n") for line in self._each(values)]
        content = self._raw[0] + b"".join(a + b for a, b in zip(lines, self._raw[1:], strict=True))
        return [self._head["base64"], mime.base64_lines(content, b"\r\n").decode("ascii")]


def _lines(pieces: Pieces) -> list[list[str | Place]]:
    """Return the lines of a text, each as its pieces, without line ends."""
    lines: list[list[str | Place]] = [[]]
    for piece in pieces:
        if isinstance(piece, Place):
            lines[-1].append(piece)
            continue
        if piece.endswith("\r"):
            raise UnusualError  # half of a line end, perhaps
        first, *others = re.split(r"\r\n|\r|\n", piece)
        lines[-1].append(first)
        lines += [[text] for text in others]
    if not any(lines[-1]):
        del lines[-1]
    return lines


def _refuse_references(html: Pieces, skeleton: str) -> None:
    """Refuse HTML in which a value could decide which image is shown."""
    for tag in _TAG_WITH_CID.finditer(skeleton):
        if tag[0].lower().count("cid:") != len(_LOADED.findall(tag[0])):
            raise UnusualError
    for before, after in pairwise(html):
        if (
            isinstance(after, Place)
            and isinstance(before, str)
            and re.search(r"cid:[^\s)>\"']*$", before, re.IGNORECASE)
        ):
            raise UnusualError


class _Body:
    """The texts of a skeleton, and how a row's values stand in them."""

    def __init__(self, template: Template, skeleton: str, draft: mime.Draft) -> None:
        letter = template.letter(skeleton)
        if letter.html is not None:
            _refuse_references(letter.html, "".join(p if isinstance(p, str) else "\1" for p in letter.html))
        self._kind = template.format
        self._raw = "{% raw %}" in template.source
        if not self._raw:
            for pieces in (letter.text, letter.html or ()):
                _refuse_braces(pieces)
        uses: dict[_Use, int] = {}
        self.texts = [_Text(letter.text, "plain", uses)]
        if letter.html is not None:
            self.texts.append(_Text(letter.html, "html", uses))
        if (draft.text is None) or (draft.html is None) != (letter.html is None):
            raise UnusualError
        self._uses = list(enumerate(uses))
        self._indices = [use.index for use in uses]
        self._others = [(number, use) for number, use in self._uses if use.spot not in _SIMPLE_SPOTS]
        self._guarded = any(text.guarded for text in self.texts)

    def fill(self, texts: Sequence[str]) -> list[list[str]]:
        """Return each text as a leaf, in pieces."""
        row = " ".join(texts)
        forms = [texts[i] for i in self._indices]
        special = self._others
        if not _SIMPLE.fullmatch(row) or "--" in row:
            odd = {i for i, text in enumerate(texts) if not _SIMPLE.fullmatch(text) or "--" in text}
            special = [(n, use) for n, use in self._uses if use.index in odd or use.spot not in _SIMPLE_SPOTS]
        for number, use in special:
            forms[number] = self._form(use, texts[use.index])
        watch = self._guarded or ":" in row
        return [text.fill(forms, watch=watch) for text in self.texts]

    def _form(self, use: _Use, text: str) -> str:
        """Return a value as it stands at one kind of place, quoted; a line end is NUL."""
        if _WORD.fullmatch(text) and "--" not in text and use.spot is not Spot.NOWHERE:
            return text
        if "\0" in text or "\r" in text or ("{" in text and not self._raw):
            raise UnusualError
        try:
            placed = escape(text, use.spot)
            if use.html:
                placed = broken_lines(placed, use.spot, self._kind)
            return mime.quoted(placed.replace("\n", "\r\n").encode())
        except (SlotError, UnicodeEncodeError):
            raise UnusualError from None


def _refuse_braces(pieces: Pieces) -> None:
    """Refuse a text that has template text in it already, or that a value could complete to some."""
    for piece in pieces:
        if isinstance(piece, str) and ("{{" in piece or "{%" in piece or piece.endswith("{")):
            raise UnusualError


# --------------------------------------------------------------------------------------- the event


class _Calendar:
    """One event for every row, with the row's own people.

    Args:
        event: The event.
        message: What the row made of which the mold is.
        addressed: Each address of a field, or the number of its mailbox.
    """

    def __init__(self, event: Event, message: Message, addressed: Mapping[str, list[str | int]]) -> None:
        self._event = event
        sender = addressed["from_"] or [""]
        given = () if message.from_ is None else (message.from_,)
        self._organizer, self._to, self._cc = (
            self._people(addressed.get(key, []) if key != "from_" else sender, found)
            for key, found in (("from_", given), ("to", message.to), ("cc", message.cc))
        )
        every = (*self._organizer, *self._to, *self._cc)
        self._leaves = self._made([]) if all(isinstance(a, Address) for a in every) else None

    @staticmethod
    def _people(places: Sequence[str | int], found: Sequence[Address]) -> list[Address | int]:
        if len(places) != len(found):
            raise UnusualError
        return [p if isinstance(p, int) else a for p, a in zip(places, found, strict=True)]

    def fill(self, boxes: Sequence[tuple[str, str]]) -> list[Leaf]:
        """Return the invitation as it is shown, and its copy."""
        return self._leaves or self._made(boxes)

    def _made(self, boxes: Sequence[tuple[str, str]]) -> list[Leaf]:
        def people(found: Iterable[Address | int]) -> list[Address]:
            return [a if isinstance(a, Address) else Address(boxes[a][1], boxes[a][0]) for a in found]

        try:
            (organizer,) = people(self._organizer)
            made = self._event.invitation(organizer=organizer, to=people(self._to), cc=people(self._cc))
        except MailError:
            raise UnusualError from None
        shown, copied = calendar_parts(made)
        return [Leaf.of(shown, ""), Leaf.of(copied, "attachment")]


# ----------------------------------------------------------------------------------------- the mold

#: The numbers of a `_Calendar`'s leaves among a mail's files.
_SHOWN, _COPIED = 0, 1


class Mold:
    """All that the rows of one skeleton share.

    Args:
        template: Whose rows they are.
        known: Each dynamic field, in the order in which rows bring their values, as one row filled it.
        message: What that row made.
        leaf: Encodes a file.
        file: Reads and encodes the file at a path.

    Raises:
        UnusualError: It has something that no mold can hold.
    """

    def __init__(
        self,
        template: Template,
        known: Mapping[Field, Filled],
        message: Message,
        leaf: Callable[[mime.Part, str], Leaf],
        file: Callable[[str], Leaf],
    ) -> None:
        parts = template.parts
        draft = message.draft()
        if message.smtputf8 or callable(template.event):
            raise UnusualError
        _refuse_other_values(parts, known)
        self._heading = _Heading(parts, known, draft)
        body = parts.body
        self._body = _Body(template, known[body].skeleton if body in known else body.source, draft)
        self._numbers = {field: number for number, field in enumerate(known)}
        self._dynamic_body = body in known
        # Its values stand in the body as well; here they are only looked at.
        beside = parts.fields.get("preheader", ())
        self._one_line = [number for field, number in self._numbers.items() if field in beside]
        self._file = file
        self._files: list[Leaf | tuple[int, _Line] | int] = [leaf(p, "inline") for p in draft.inline]
        self._calendar: _Calendar | None = None
        files = draft.attachments
        if message.event is not None:
            self._calendar = _Calendar(message.event, message, self._heading.addressed)
            self._files.append(_SHOWN)
            files = files[:-1]
        self._files += [
            leaf(part, "attachment") if path is None else path
            for part, path in self._attachments(parts, known, message, files)
        ]
        self._files += [_COPIED] if self._calendar is not None else []
        frame = mime.frame(draft)
        self.boundaries = mime.boundaries(b"".join(frame))
        self._frame = [around.decode("ascii") for around in frame]
        self.size = sum(len(f) for f in self._frame) + sum(t.size for t in self._body.texts)

    def _attachments(
        self, parts: Parts, known: Mapping[Field, Filled], message: Message, files: Sequence[mime.Part]
    ) -> list[tuple[mime.Part, tuple[int, _Line] | None]]:
        """Return the attachments with the path of those whose path is a row's."""
        paths: list[tuple[int, _Line] | None] = []
        for item in parts.fields.get("attach", ()):
            if not isinstance(item, Field):
                paths.append(None)
                continue
            skeleton = known[item].skeleton if item in known else item.source
            for piece in filter(None, (p.strip() for p in skeleton.split(";"))):
                line = _Line(parts.marker.split(piece))
                paths.append((self._numbers[item], line) if line.numbers else None)
        if len(paths) != len(message.attach):
            raise UnusualError
        shown = _html.cids(message.html)
        kept = [path for path, a in zip(paths, message.attach, strict=True) if a.content_id not in shown]
        ahead: list[tuple[int, _Line] | None] = [None] * (len(files) - len(kept))
        return list(zip(files, [*ahead, *kept], strict=True))

    def fill(self, slots: Sequence[Sequence[Slot]]) -> Filling:
        """Return a row's mail.

        Raises:
            UnusualError: The row has something that this does not vouch for.
        """
        texts = [texts_of(found) for found in slots]
        if self._one_line and not all(t.isprintable() for n in self._one_line for t in texts[n]):
            raise UnusualError
        boxes = self._heading.boxes(texts)
        head, recipients, sender, form, link = self._heading.fill(texts, boxes)
        invitation = self._calendar.fill(boxes) if self._calendar is not None else []
        out = [head]
        around = iter(self._frame)
        for leaf in self._body.fill(texts[-1] if self._dynamic_body else ()):
            out.append(next(around))
            out += leaf
        chunks: list[bytes | Leaf] = []
        for file in self._files:
            out.append(next(around))
            found = invitation[file] if isinstance(file, int) else self._leaf(file, slots, texts)
            chunks += ["".join(out).encode("ascii"), found]
            out = []
        out.append(next(around))
        chunks.append("".join(out).encode("ascii"))
        warnings = lints(slots[-1]) if self._dynamic_body else ()
        return Filling(recipients, sender, chunks, warnings, form, link)

    def _leaf(self, file: Leaf | tuple[int, _Line], slots: Sequence[Sequence[Slot]], texts: Texts) -> Leaf:
        if isinstance(file, Leaf):
            return file
        number, line = file
        if line.format == "%s" and type(slots[number][line.numbers[0]].value) is not str:
            raise UnusualError  # not a path but the file itself, perhaps
        try:
            return self._file(line.fill(texts[number]).strip())
        except MailError:
            raise UnusualError from None


def _refuse_other_values(parts: Parts, known: Mapping[Field, Filled]) -> None:
    """Refuse values in fields that decide more than the words of a line."""
    keys = ("from_", "reply_to", "to", "cc", "bcc", "subject", "unsubscribe", "preheader", "attach")
    items = [item for key in keys for item in parts.fields.get(key, ())]
    for field, filled in known.items():
        if (
            filled.slots
            and field is not parts.body
            and field not in items
            and field not in parts.headers.values()
        ):
            raise UnusualError
