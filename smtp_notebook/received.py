"""One mail as it arrived: what it says, what it carries, and how it is shown. Pure: runs and fetches nothing.

Anybody may have written it. Nothing here raises for what a mail holds, and no text has a lone surrogate, which no
message to a browser can carry. The stdlib's older parser and a decoder of our own read it: the newer one takes
quadratic time for some headers, and seven times as long for a usual mail.
"""

from __future__ import annotations

import binascii
import codecs
import datetime as dt
import mimetypes
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from functools import cached_property

from smtp_notebook import markup
from smtp_notebook.addresses import CONTROL
from smtp_notebook.views import View, source_text, viewed

__all__ = ["Received", "bare_name", "decoded"]

#: A larger head is not taken apart, in bytes: Postfix cuts one after 100 kB (``header_size_limit``).
HEAD = 1 << 18
#: So much of a text is shown, in characters; the rest is in the file.
TEXT = 500_000
#: HTML of more characters is not shown: it would travel into the browser with each change.
PAGE = 4_000_000
#: So much of a body is searched, in characters.
SEARCHED = 100_000
_SEARCHED = frozenset({b"subject", b"from", b"to", b"cc", b"reply-to"})
_HEADERS = 200
_VALUE = 4_000
_NAME = 120
_SUFFIX = 12

_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
# A header and the lines that go on with it (RFC 5322, 2.2.3).
_LINE = re.compile(rb"^([!-9;-~]++)[ \t]*+:([^\r\n]*+(?:\r?\n[ \t][^\r\n]*+)*+)", re.MULTILINE)
# Possessive and without a "?" inside: linear, whatever the header (RFC 2047, 2).
_WORD = re.compile(r"=\?([^?\s*]{1,40})(?:\*[^?\s]{0,40})?\?([bBqQ])\?([^?]*+)\?=")
_HEX = re.compile(rb"=([0-9A-Fa-f]{2})")
_WIRE = policy.compat32.clone(linesep="\r\n")
#: Codecs that are no character set of a mail: slow for long texts, or with a meaning of their own.
_NO_CHARSETS = frozenset({"punycode", "idna", "unicode_escape", "raw_unicode_escape", "undefined"})
_TYPE = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,80}")
_REMOTE = re.compile(
    r"""(?:src|background)\s*+=\s*+["']?\s*+(?:https?:)?//|url\(\s*+["']?\s*+https?:""", re.IGNORECASE
)
#: Marks that turn the direction of a text: a name could look as if it ended otherwise (Unicode TR 36, 3.5).
_TURNS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Received:
    """One mail as it arrived.

    Attributes:
        raw: Its octets.
        sender: The envelope's sender (MAIL FROM).
        recipients: The envelope's recipients (RCPT TO), Bcc included.
        received: When its last octet came (UTC).
        number: How many had come to this sandbox with it; no other one there has the same.
    """

    raw: bytes = field(repr=False)
    sender: str
    recipients: tuple[str, ...]
    received: dt.datetime
    number: int = field(default=0, compare=False)

    @cached_property
    def email(self) -> EmailMessage:
        """The parsed mail; a header that cannot be read raises only when it is asked for."""
        return message_from_bytes(self.raw, policy=policy.default.clone(utf8=True))

    @cached_property
    def subject(self) -> str:
        """The subject as text, "" when there is none."""
        return self.header("subject")

    def header(self, name: str) -> str:
        """Return a header as text, its encoded words decoded; "" when it is missing."""
        wanted = name.lower().encode("utf-8", "replace")
        found = (line[2] for line in _LINE.finditer(self._head()) if line[1].lower() == wanted)
        return _header_text(next(found, b""))

    def headers(self) -> list[tuple[str, str]]:
        """Return name and text of every header, in their order; a line that is none of one is left out."""
        return [(line[1].decode("ascii"), _header_text(line[2])) for line in _LINE.finditer(self._head())]

    def _head(self) -> bytes:
        found = _END_OF_HEAD.search(self.raw, 0, HEAD)
        return self.raw[: found.end() if found else HEAD]

    def body(self, *kinds: str) -> str:
        """Return the text of the first part of one of *kinds* (``html``, ``plain``), or ""."""
        try:
            bodies, _ = _taken_apart(self._parsed())
        except Exception:  # noqa: BLE001 - whatever the parser makes of a stranger's mail
            return ""
        return next((text for kind in kinds if (text := bodies.get(kind, ""))), "")

    def files(self) -> list[tuple[str, str, bytes, str]]:
        """Return name, type, content and Content-ID of every file and image.

        The name is bare: no path, no control characters. A part that is neither text nor named has one of its type.
        """
        try:
            return [_file(part) for part in _taken_apart(self._parsed())[1]]
        except Exception:  # noqa: BLE001 - as in `body`
            return []

    def view(self) -> View:
        """Return what there is to see of it; of a mail that cannot be taken apart, its source."""
        try:
            return self._viewed()
        except Exception as error:  # noqa: BLE001 - as in `body`
            why = f"This mail cannot be read ({type(error).__name__}), so its source is shown as it arrived."
            return View("", source_text(self.raw), self._envelope(), (why,))

    @cached_property
    def searched(self) -> str:
        """What a search looks at: subject, addresses and the body's beginning, case folded. Kept once it was asked for."""
        lines = (line for line in _LINE.finditer(self._head()) if line[1].lower() in _SEARCHED)
        said = [_header_text(line[2]) for line in lines]
        body = self.body("plain")[:SEARCHED] or _words(self.body("html")[: 4 * SEARCHED])[:SEARCHED]
        return "\n".join([*said, self.sender, *self.recipients, body]).casefold()

    # ---------------------------------------------------------------------------------- taken apart

    def _parsed(self) -> Message:
        if _END_OF_HEAD.search(self.raw, 0, HEAD) is None and len(self.raw) > HEAD:
            raise ValueError("its head is too long")
        return message_from_bytes(self.raw)

    def _viewed(self) -> View:
        parsed = self._parsed()
        bodies, rest = _taken_apart(parsed)
        files = map(_file, rest)
        images = {
            cid: (kind, content) for _, kind, content, cid in files if cid and kind.startswith("image/")
        }
        html, notes = bodies.get("html", ""), []
        text = bodies.get("plain", "")
        if len(html) > PAGE:
            notes.append(f"Its HTML has {len(html):,} characters, too many to be shown here: save the .eml.")
            html = ""
        if not text and html:
            notes.append("It has no text part.")
            text = _words(html)
        elif not (text or html):
            notes.append("It has neither text nor HTML; its source and its files are all there is.")
        if _REMOTE.search(html):
            notes.append("What it would load from the web is not loaded here.")
        if parsed.defects:
            named = ", ".join(dict.fromkeys(type(defect).__name__ for defect in parsed.defects))
            notes.append(
                f"It is malformed ({named}), so part of it may be missing here; its source has everything."
            )
        said = [(name, _cut(value, _VALUE)) for name, value in self.headers()[:_HEADERS]]
        return viewed(html, _cut(text, TEXT), [*self._envelope(), *said], image=images.get, notes=notes)

    def _envelope(self) -> tuple[tuple[str, str], ...]:
        """Return whom the server was told, which is all that counts: a Bcc stands nowhere else (RFC 5321, 2.3.1)."""
        to = _cut(", ".join(self.recipients), _VALUE)
        return (("Envelope from", self.sender or "<>"), ("Envelope to", to))


def _leaves(message: Message) -> Iterator[Message]:
    """Yield the parts that hold no others, in their order; a mail inside the mail is one of them."""
    waiting = [message]
    while waiting:
        part = waiting.pop()
        inside = part.get_payload()
        if isinstance(inside, list) and part.get_content_type() != "message/rfc822":
            waiting.extend(p for p in reversed(inside) if isinstance(p, Message))
        else:
            yield part


def _taken_apart(message: Message) -> tuple[dict[str, str], list[Message]]:
    """Return the first text and the first HTML by their subtype, and every part beside them."""
    bodies: dict[str, str] = {}
    files = []
    for part in _leaves(message):
        kind = part.get_content_subtype()
        if kind not in bodies and _is_body(part):
            bodies[kind] = _text(_content(part), part.get_content_charset())
        else:
            files.append(part)
    return bodies, files


def _is_body(part: Message) -> bool:
    return (
        part.get_content_type() in {"text/plain", "text/html"}
        and part.get_content_disposition() != "attachment"
        and part.get_filename() is None
    )


def _file(part: Message) -> tuple[str, str, bytes, str]:
    kind = part.get_content_type()
    kind = kind if _TYPE.fullmatch(kind) else "application/octet-stream"
    cid = _clean(str(part.get("content-id") or "").strip("<> \t\r\n"))
    suffix = ".eml" if kind == "message/rfc822" else mimetypes.guess_extension(kind) or ".bin"
    name = decoded(str(part.get_filename() or cid or f"{part.get_content_maintype()}{suffix}"))
    return bare_name(name), kind, _content(part), cid


def _content(part: Message) -> bytes:
    inside = part.get_payload()
    if isinstance(inside, list):  # a mail inside the mail
        within = inside[0] if inside else None
        return within.as_bytes(policy=_WIRE) if isinstance(within, Message) else b""
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


# ------------------------------------------------------------------------------------------- text


def decoded(value: str) -> str:
    """Return a header as text: unfolded, its encoded words decoded (RFC 2047), octets beyond ASCII as UTF-8.

    What is no encoded word stays as it is. Linear time; never raises.
    """
    plain = " ".join(_clean(value).split())
    out: list[str] = []
    held, charset, place = b"", "", 0

    def release() -> None:
        nonlocal held
        out.append(_clean(_text(held, charset)))
        held = b""

    for found in _WORD.finditer(plain):
        between = plain[place : found.start()]
        content = _unworded(found[2], found[3])
        if between.strip() or not place or charset != found[1].lower():
            release()
            # White space between two encoded words is none (RFC 2047, 6.2).
            out.append(between if between.strip() or not place else "")
        held, charset, place = held + content, found[1].lower(), found.end()
    release()
    return CONTROL.sub(" ", "".join([*out, plain[place:]]))


def _header_text(value: bytes) -> str:
    return decoded(value.decode("utf-8", "replace"))


def _unworded(encoding: str, text: str) -> bytes:
    octets = text.encode("utf-8", "replace")
    if encoding in "bB":
        try:
            return binascii.a2b_base64(octets + b"=" * (-len(octets) % 4))
        except binascii.Error:
            return octets
    return _HEX.sub(lambda found: bytes([int(found[1], 16)]), octets.replace(b"_", b" "))


def _text(content: bytes, charset: str | None) -> str:
    """Return octets as text; a character set that is none is read as UTF-8."""
    try:
        name = codecs.lookup(charset or "utf-8").name
        return _clean(content.decode("utf-8" if name in _NO_CHARSETS else name, "replace"))
    except (LookupError, ValueError):
        return content.decode("utf-8", "replace")


def _clean(text: str) -> str:
    """Return text without lone surrogates: octets that the parser kept as such become UTF-8 again."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")


def _cut(text: str, length: int) -> str:
    rest = len(text) - length
    return f"{text[:length]}… and {rest:,} more characters" if rest > 0 else text


def _words(document: str) -> str:
    """Return what a reader of an HTML document would read, one piece per line."""
    texts = (markup.plain(t.text) for t in markup.tokens(document) if t.kind is markup.Kind.TEXT)
    return _clean("\n".join(line for text in texts if (line := " ".join(text.split()))))


def bare_name(name: str) -> str:
    """Return a stranger's name for a file as one that can be saved: no path, no control or turning characters.

    Of more than 120 characters the middle goes, so that it still ends as it did; what nothing is left of is "file".
    """
    last = re.split(r"[/\\]", name)[-1]
    plain = " ".join(_TURNS.sub("", CONTROL.sub(" ", last)).split()).strip(". ")
    if len(plain) > _NAME:
        stem, dot, suffix = plain.rpartition(".")
        ending = f".{suffix}" if dot and len(suffix) <= _SUFFIX else ""
        plain = (stem if ending else plain)[: _NAME - len(ending)] + ending
    return plain or "file"
