"""A mail as intent, and its bytes.

The stdlib's email package builds the tree and writes it out; every header line is ours, because its own
folding turns data into headers and recipients on several interpreters (CVE-2024-6923, gh-80222). What was
written is then parsed again and compared with what was meant: nothing that reads differently leaves.

Content is 7-bit throughout (quoted-printable or base64), so that it is the same on every connection. Only a
mail to a non-ASCII local part has raw UTF-8 headers (RFC 6532).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime as dt
import functools
import hashlib
import io
import os
import re
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from email import message_from_bytes, message_from_string, policy, utils
from email.generator import BytesGenerator
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.message import Message as Node
from email.utils import format_datetime
from typing import Any

from smtp_notebook.addresses import CONTROL, Address, shortened
from smtp_notebook.outcome import MessageError

__all__ = [
    "Draft",
    "Part",
    "base64_length",
    "base64_lines",
    "boundaries",
    "canonical",
    "check_gate",
    "frame",
    "header_lines",
    "mailbox_line",
    "new_message_id",
    "parameters_of",
    "quoted",
    "soft_broken",
    "stamp",
    "tag",
    "text_head",
    "text_line",
    "to_bytes",
    "uri_line",
    "written_file",
]

_LINE = 76
_OURS = re.compile(r"[0-9a-f]{16}\.[0-9a-f]{16}")
_WORD = 75
_LONGEST_LINE = 998
_LONGEST_QUOTED = 60
_PLAIN = re.compile(r"[\x21-\x7e]+(?: [\x21-\x7e]+)*")
#: Words that every parser of headers takes for text and nothing else; never an encoded word.
_WHITELIST = re.compile(r"[A-Za-z0-9!#$%&'()*+./?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'()*+./?^_`{|}~-]+)*")
_WHITE_NAME = re.compile(r"[A-Za-z0-9]+(?: [A-Za-z0-9]+)*")
_WHITE_SPEC = re.compile(r"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")
_PLAIN_ID = re.compile(r"<[0-9a-f]+\.[0-9a-f]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*>")
_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_QP_UNSAFE = re.compile(rb"[^\x21-\x3c\x3e-\x7e \t\r\n]")
_QP_SAFE = bytes(i for i in range(256) if not _QP_UNSAFE.match(bytes([i])))
_HEX = {bytes([i]): b"=%02X" % i for i in range(256)}
_Q_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+/-")
_BLANKS = (" ", "\t")
#: What would be taken for more than text, at the start of a line.
_UNSAFE_STARTS = (".", "From ")
#: Each octet as the Q encoding writes it (RFC 2047, 4.2).
_Q_CODED = ["_" if i == ord(" ") else chr(i) if i in _Q_SAFE else f"={i:02X}" for i in range(256)]
#: How an octet begins that continues a character of UTF-8.
_Q_CONTINUED = ("=8", "=9", "=A", "=B")
#: What every encoded word has around its text: "=?utf-8?q?" and "?=".
_WORD_FRAME = 12
_BASE64_LINE = re.compile(rb".{1,76}")
_ATTRIBUTE_CHARACTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
#: Newer Pythons' strict way refuses domain literals; what it guards against, the other parser sees.
_LENIENT: dict[str, Any] = {"strict": False} if hasattr(utils, "supports_strict_parsing") else {}
#: Headers whose grammar has no encoded words: they go as they are, or not at all (RFC 2047, 5).
_STRUCTURED = frozenset(
    {"in-reply-to", "references", "list-unsubscribe", "list-unsubscribe-post", "feedback-id"}
    | {"list-archive", "list-help", "list-owner", "list-post", "list-subscribe"}
)
_ROOM_FOR_A_WORD = 30
_BOUNDARY = re.compile(rb'boundary="(=_[0-9a-f]{32})"')
_PARAMETER = re.compile(r'[^";]+(?:"[^"]*")?|;[^";]+(?:"[^"]*")?')
#: No semicolon: some readers split parameters there even inside quotes.
_PLAIN_FILE = re.compile(r"[A-Za-z0-9 !#$%&'()+,.=@\[\]^_`{}~-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file or image of a mail.

    Attributes:
        content: Its bytes, decoded.
        type: Its media type, such as ``image/png``, or ``text/calendar; method=REQUEST``.
        filename: Its name, or "".
        content_id: Its Content-ID without brackets, or "".
        transfer_encoding: ``base64``, or ``7bit`` for ASCII content with short lines.
        charset: The charset parameter of a text, or "".
        identity: What tells it from another part where its content alone does not, such as the moment when
            it was made; b"" for the content.
    """

    content: bytes
    type: str = "application/octet-stream"
    filename: str = ""
    content_id: str = ""
    transfer_encoding: str = "base64"
    charset: str = ""
    identity: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A mail as intent: everything decoded, nothing encoded yet.

    Attributes:
        receipt_to: Who is told that the mail was shown (Disposition-Notification-To, RFC 8098).
        headers: Further headers, each name once.
        inline: Images that *html* shows by ``cid:``.
        calendar: An invitation that mail programs show with its buttons, or None.
    """

    from_: Address
    to: tuple[Address, ...] = ()
    cc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    receipt_to: tuple[Address, ...] = ()
    subject: str = ""
    date: dt.datetime
    message_id: str
    headers: tuple[tuple[str, str], ...] = ()
    text: str | None = None
    html: str | None = None
    inline: tuple[Part, ...] = field(default=())
    calendar: Part | None = None
    attachments: tuple[Part, ...] = field(default=())

    @property
    def smtputf8(self) -> bool:
        """Whether a header address has a non-ASCII local part, so that headers are raw UTF-8."""
        return any(a.needs_smtputf8 for _, found in self.mailboxes for a in found)

    @property
    def mailboxes(self) -> tuple[tuple[str, tuple[Address, ...]], ...]:
        """The headers that hold addresses, in the order in which they are written."""
        return (
            ("From", (self.from_,)),
            ("Reply-To", self.reply_to),
            ("To", self.to),
            ("Cc", self.cc),
            ("Disposition-Notification-To", self.receipt_to),
        )

    @property
    def files(self) -> tuple[tuple[Part, str], ...]:
        """Every leaf that is no text of the mail's own, in the order of the tree, with its disposition."""
        return (
            *((part, "inline") for part in self.inline),
            *([(self.calendar, "")] if self.calendar is not None else []),
            *((part, "attachment") for part in self.attachments),
        )


def new_message_id(domain: str) -> str:
    """Return a Message-ID that is new and unguessable: ``<dot-atom@dot-atom>`` (RFC 5322, 3.6.4).

    All for one domain have the same length, so that a mail's size is known before its id is.
    """
    return f"<{time.time_ns():016x}.{_ENTROPY.word()}@{_host(domain)}>"


def tag(message_id: str) -> str:
    """Return what stands for a mail where the whole Message-ID cannot: 33 characters that tell nothing to a stranger.

    It is the left part of an id that `new_message_id` made; of another one a digest, for a person may have written
    anything into it.
    """
    left = message_id.strip("<>").partition("@")[0]
    if _OURS.fullmatch(left):
        return left
    digest = hashlib.blake2b(message_id.encode("utf-8", "replace"), digest_size=16).hexdigest()
    return f"{digest[:16]}.{digest[16:]}"


@functools.lru_cache(maxsize=64)
def _host(domain: str) -> str:
    return domain if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", domain) else "localhost"


class _Entropy:
    """Words of 64 random bits, which the system is asked for many at a time."""

    _AT_ONCE = 256

    def __init__(self) -> None:
        self._words: list[str] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._words.clear)  # parent and child must not say the same

    def word(self) -> str:
        """Return a word that was never returned before."""
        try:
            return self._words.pop()
        except IndexError:
            found = secrets.token_hex(8 * self._AT_ONCE)
            self._words.extend(found[i : i + 16] for i in range(16, len(found), 16))
            return found[:16]


_ENTROPY = _Entropy()


def stamp(message_id: str, date: dt.datetime) -> bytes:
    """Return the first two lines of every mail: its Date and its Message-ID."""
    return f"Date: {_date(date)}\r\nMessage-ID: {message_id}\r\n".encode("ascii")


#: The rows of one window share their moment.
_date = functools.lru_cache(maxsize=16)(format_datetime)


def to_bytes(draft: Draft) -> bytes:
    """Return the mail's octets: CRLF lines of at most 998, 7-bit, the gate passed.

    Raises:
        MessageError: The mail cannot be written so that it reads back as it was meant.
    """
    root = _tree(draft)
    content = _written(root)
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    shape = _shape(draft, root)
    if shape is not None and shape in _PROVEN:
        _check_lines(content, draft)
        return content
    check_gate(content, draft)
    if shape is not None:
        _PROVEN.add(shape)
    return content


class _Shapes:
    """The shapes of mails that have passed the gate; bounded, and used from several threads."""

    _MOST = 512

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Hashable, None] = OrderedDict()

    def __contains__(self, shape: Hashable) -> bool:
        with self._lock:
            if shape not in self._known:
                return False
            self._known.move_to_end(shape)
            return True

    def add(self, shape: Hashable) -> None:
        with self._lock:
            self._known[shape] = None
            while len(self._known) > self._MOST:
                self._known.popitem(last=False)


_PROVEN = _Shapes()


def _shape(draft: Draft, root: Node) -> Hashable | None:
    """Return everything of a mail but its plain values and its texts, or None when a value is not plain.

    Two mails of one shape differ in words of a whitelist, which no parser reads in two ways, and in
    content that base64 or quoted-printable carries; so one of them through the gate stands for both.
    """
    if draft.smtputf8 or not _is_plain_header("Subject", draft.subject):
        return None
    for name, found in draft.mailboxes[1:]:
        if len(found) > 1 or not all(_is_plain_mailbox(name, a) for a in found):
            return None
    files = [part for part, _ in draft.files]
    if not _PLAIN_ID.fullmatch(draft.message_id) or any(p.transfer_encoding != "base64" for p in files):
        return None
    return (
        (draft.from_.display_name, draft.from_.addr_spec),
        tuple((name, tuple(bool(a.display_name) for a in found)) for name, found in draft.mailboxes[1:]),
        draft.headers,
        draft.date.utcoffset(),
        tuple((p.type, p.filename, p.content_id, p.charset) for p in files),
        (len(draft.inline), draft.calendar is None),
        (draft.text is None, draft.html is None, bool(draft.subject)),
        tuple(node["Content-Transfer-Encoding"] for node in root.walk()),
    )


def _is_plain_header(name: str, value: str) -> bool:
    return len(name) + 2 + len(value) <= _LINE and (not value or _WHITELIST.fullmatch(value) is not None)


def _is_plain_mailbox(name: str, address: Address) -> bool:
    length = len(name) + len(address.display_name) + len(address.wire) + 6
    named = not address.display_name or _WHITE_NAME.fullmatch(address.display_name)
    plain = _WHITE_SPEC.fullmatch(address.addr_spec) and address.wire == address.addr_spec
    return bool(named and plain) and length <= _LINE


# ------------------------------------------------------------------------------------------ the tree


class _WirePolicy(policy.Policy):
    """Writes header values as they are: they were encoded and folded before they came here."""

    def header_source_parse(self, sourcelines: Sequence[str]) -> tuple[str, str]:
        name, _, value = "".join(sourcelines).partition(":")
        return name, value.strip()

    def header_store_parse(self, name: str, value: Any) -> tuple[str, Any]:
        return name, value

    def header_fetch_parse(self, name: str, value: Any) -> Any:  # noqa: ARG002 - the base class's signature
        return value

    def fold(self, name: str, value: Any) -> str:
        return f"{name}: {value}\r\n"

    def fold_binary(self, name: str, value: Any) -> bytes:
        return self.fold(name, value).encode()


_WIRE = _WirePolicy(linesep="\r\n", cte_type="7bit", max_line_length=None)


def _tree(draft: Draft) -> Node:
    """Return the smallest tree that holds the draft: mixed(alternative(text, related(html, …), …), …).

    An invitation stands last among the alternatives, which makes it the best one (RFC 2046, 5.1.4); so
    Exchange writes it too ([MS-OXCMAIL], 2.1.3.3.8.2), and Gmail.
    """
    root = _assembled(
        None if draft.text is None and draft.html is not None else _text(draft.text or "", "plain"),
        None if draft.html is None else _text(draft.html, "html"),
        [_leaf(p, "inline") for p in draft.inline],
        None if draft.calendar is None else _leaf(draft.calendar, ""),
        [_leaf(p, "attachment") for p in draft.attachments],
    )
    return _headed(root, _header_lines(draft))


def _assembled(
    text: Node | None, html: Node | None, inline: list[Node], calendar: Node | None, files: list[Node]
) -> Node:
    if html is not None and inline:
        # RFC 2387, 3.1: the type parameter names the root's type.
        html = _multipart("related", [html, *inline], 'type="text/html"')
    given = [node for node in (text, html, calendar) if node is not None]
    node = given[0] if len(given) == 1 else _multipart("alternative", given)
    return _multipart("mixed", [node, *files]) if files else node


def _headed(root: Node, headers: Iterable[tuple[str, str]]) -> Node:
    """Put the headers in front of those that the root has of its own."""
    own = list(root.items())
    for name, _ in own:
        del root[name]
    for name, value in [*headers, ("MIME-Version", "1.0"), *own]:
        root[name] = value
    return root


def _written(node: Node) -> bytes:
    buffer = io.BytesIO()
    BytesGenerator(buffer, policy=_WIRE).flatten(node)
    return buffer.getvalue()


def frame(draft: Draft) -> tuple[bytes, ...]:
    """Return what surrounds a draft's leaves, from MIME-Version on: each leaf stands between two pieces.

    The leaves come in the order text, HTML, then those of `Draft.files`; `text_head` and `written_file`
    write them.
    """
    mark = f"={secrets.token_hex(16)}"

    def hole() -> Node:
        node = Node(policy=_WIRE)
        node.set_payload(mark)
        return node

    root = _assembled(
        None if draft.text is None and draft.html is not None else hole(),
        None if draft.html is None else hole(),
        [hole() for _ in draft.inline],
        None if draft.calendar is None else hole(),
        [hole() for _ in draft.attachments],
    )
    # A leaf without headers begins with the empty line that ends them.
    return tuple(_written(_headed(root, ())).split(f"\r\n{mark}".encode()))


def boundaries(content: bytes) -> tuple[bytes, ...]:
    """Return the boundaries that a mail, or a piece of one, declares."""
    return tuple(_BOUNDARY.findall(content))


def header_lines(draft: Draft) -> list[tuple[str, str]]:
    """Return the draft's own header lines behind its stamp, encoded and folded."""
    return _header_lines(draft)[2:]


def text_line(name: str, text: str) -> str:
    """Return one unstructured header line as a draft would have it, read back and compared.

    Raises:
        MessageError: It cannot be written, or an older parser reads another text.
    """
    value = _unstructured(name, text, _longest_word(name))
    _same(name, _older_text(value), text)
    return f"{name}: {value}\r\n"


def mailbox_line(name: str, display_name: str, wire: str) -> str:
    """Return one header line with one plain address, read back and compared as by `text_line`."""
    value = _folded(name, [*_phrase(display_name, _LINE - len(name) - 2), f"<{wire}>"])
    pairs = utils.getaddresses([_unfolded(value)], **_LENIENT)
    _same(name, [(_older_text(found), spec) for found, spec in pairs], [(display_name, wire)])
    return f"{name}: {value}\r\n"


def _older_text(value: str) -> str:
    found = decode_header(_unfolded(value))
    if len(found) == 1 and found[0][1] == "utf-8":
        return str(found[0][0], "utf-8")  # as a Header would, which takes longer than all the rest
    return str(make_header(found))


def _unfolded(value: str) -> str:
    return value if "\n" not in value else re.sub(r"\r?\n(?=[ \t])", "", value)


@functools.cache
def text_head(subtype: str, encoding: str) -> str:
    """Return the headers of a text in its encoding, and the empty line behind them."""
    return _written(_text_node(subtype, encoding, "")).decode("ascii")


def written_file(part: Part, disposition: str) -> bytes:
    """Return a file or image as a leaf: its headers, without a disposition where that is "", and its content."""
    return _written(_leaf(part, disposition))


def _multipart(subtype: str, parts: Iterable[Node], *parameters: str) -> Node:
    node = Node(policy=_WIRE)
    boundary = f"=_{secrets.token_hex(16)}"
    lines = [f"multipart/{subtype}", *parameters, f'boundary="{boundary}"']
    node["Content-Type"] = ";\r\n ".join(lines)
    for part in parts:
        node.attach(part)
    return node


def _text(text: str, subtype: str) -> Node:
    encoding, payload = _shorter(canonical(text).encode())
    return _text_node(subtype, encoding, payload)


def _text_node(subtype: str, encoding: str, payload: str) -> Node:
    node = Node(policy=_WIRE)
    node["Content-Type"] = f'text/{subtype}; charset="utf-8"'
    node["Content-Transfer-Encoding"] = encoding
    node.set_payload(payload)
    return node


def canonical(text: str) -> str:
    """Return text with CRLF line ends, the last line ended too (RFC 2046, 4.1.1)."""
    if "\0" in text or re.search("[\ud800-\udfff]", text):
        cause = "The text has a NUL character or half of a character in it."
        raise MessageError(cause, "Clean it: mail cannot carry that.")
    lines = re.sub(r"\r\n|\r|\n", "\r\n", text)
    return lines if not lines or lines.endswith("\r\n") else lines + "\r\n"


def _shorter(content: bytes) -> tuple[str, str]:
    printable = _quoted_printable(content)
    if base64_length(len(content)) < len(printable):
        return "base64", base64_lines(content).decode("ascii")
    return "quoted-printable", printable


def base64_length(octets: int) -> int:
    """Return how long base64 makes that many octets, one octet for each line end."""
    characters = (octets + 2) // 3 * 4
    return characters + -(-characters // _LINE)


def base64_lines(content: bytes, end: bytes = b"\n") -> bytes:
    """Encode as lines of 76 characters, each with its *end*."""
    lines = _BASE64_LINE.findall(binascii.b2a_base64(content, newline=False))
    return end.join([*lines, b""]) if lines else b""


def _quoted_printable(content: bytes) -> str:
    """Encode canonical text; no line begins with a dot or "From " (RFC 2045, 6.7)."""
    return "\n".join([soft_broken(line) for line in quoted(content).split("\0")]).replace("\r\n", "\n")


def quoted(content: bytes) -> str:
    """Write the octets that quoted-printable does not let stand as they are; a line end becomes NUL.

    What is quoted in pieces is the same as quoted whole. `soft_broken` does the rest.
    """
    if content.translate(None, _QP_SAFE):
        content = _QP_UNSAFE.sub(_hex, content)
    lines = content.replace(b"\r\n", b"\0").decode("ascii")
    return lines.replace("\r", "=0D").replace("\n", "=0A")


def soft_broken(line: str) -> str:
    """Break one quoted line, without its end, by ``=`` and CRLF at 76 octets.

    A blank at its end is written out, and so is what no line must begin with: a dot, and "From ".
    """
    if len(line) <= _LINE and not line.endswith(_BLANKS) and not line.startswith(_UNSAFE_STARTS):
        return line
    if line.endswith(_BLANKS):
        line = line[:-1] + ("=20" if line[-1] == " " else "=09")
    pieces: list[str] = []
    start = 0
    while True:
        if line.startswith(_UNSAFE_STARTS, start):
            line = f"{line[:start]}={ord(line[start]):02X}{line[start + 1 :]}"
        if len(line) - start <= _LINE:
            return "=\r\n".join([*pieces, line[start:]])
        end = start + _LINE - 1
        # A break is never inside "=XX".
        cut = line.find("=", end - 2, end)
        end = cut if cut > 0 else end
        pieces.append(line[start:end])
        start = end


def _hex(found: re.Match[bytes]) -> bytes:
    return _HEX[found[0]]


def _leaf(part: Part, disposition: str) -> Node:
    node = Node(policy=_WIRE)
    charset = f'; charset="{part.charset}"' if part.charset else ""
    node["Content-Type"] = part.type + charset
    node["Content-Transfer-Encoding"] = part.transfer_encoding
    if disposition:
        node["Content-Disposition"] = disposition + _filename(part.filename)
    if part.content_id:
        node["Content-ID"] = f"<{part.content_id}>"
    if part.transfer_encoding == "7bit":
        node.set_payload(part.content.decode("ascii"))
    else:
        node.set_payload(base64_lines(part.content).decode("ascii"))
    return node


def _filename(name: str) -> str:
    """Return the filename parameter: quoted where that is safe, else RFC 2231."""
    if not name:
        return ""
    if (
        _PLAIN_FILE.fullmatch(name)
        and "=?" not in name
        and len(name) <= _LONGEST_QUOTED
        and name == name.strip()
    ):
        return f';\r\n filename="{name}"'
    coded = "".join(chr(b) if b in _ATTRIBUTE_CHARACTERS else f"%{b:02X}" for b in name.encode())
    return f";\r\n filename*=utf-8''{coded}"


# --------------------------------------------------------------------------------------- the headers


def _header_lines(draft: Draft) -> list[tuple[str, str]]:
    # The stamp stands first, so that all behind it is known before it is.
    lines = [("Date", format_datetime(draft.date)), ("Message-ID", draft.message_id)]
    lines += [(name, _mailboxes(name, found, draft)) for name, found in draft.mailboxes if found]
    lines.append(("Subject", _unstructured("Subject", draft.subject, _longest_word("Subject"))))
    lines += [(name, _unstructured(name, value, _longest_word(name))) for name, value in draft.headers]
    return lines


def _longest_word(name: str) -> int:
    """Return how long a word may be that is written as it is: a subject is shown, the others are read."""
    return 66 if name == "Subject" else _LONGEST_LINE - 100


def _unstructured(name: str, value: str, longest: int) -> str:
    """Return a header value, encoded and folded; as it is when it is plain ASCII (RFC 2047)."""
    _refuse_control(name, value)
    if not value:
        return ""
    if name.lower() == "list-id":
        return _identified(name, value)
    if name.lower() in _STRUCTURED:
        if not _PLAIN.fullmatch(value):
            cause = f"{name}: {shortened(value)} is not plain ASCII, which this header must be."
            raise MessageError(cause, "Percent-encode what is not, or leave it out.")
        return _folded(name, value.split(" "))
    if _PLAIN.fullmatch(value) and "=?" not in value and max(map(len, value.split(" "))) <= longest:
        return _folded(name, value.split(" "))
    return _folded(name, _encoded_words(value, _LINE - len(name) - 2))


def _identified(name: str, value: str) -> str:
    """Return a phrase with an identifier behind it (RFC 2919, 2); the phrase alone may be encoded (RFC 2047, 5)."""
    phrase, _, identifier = value.rpartition(" ")
    room = _LINE - len(name) - 2
    plain = "=?" not in phrase and _ATOM.fullmatch(phrase)
    atoms = phrase.split(" ") if plain else _encoded_words(phrase, room) if phrase else []
    return _folded(name, [*atoms, identifier])


def uri_line(name: str, uris: Sequence[str]) -> str:
    """Return one header line with URIs of plain ASCII as a draft would have it (RFC 2369, 2)."""
    last = len(uris) - 1
    value = _folded(name, [f"<{uri}>{',' if i < last else ''}" for i, uri in enumerate(uris)])
    return f"{name}: {value}\r\n"


def _mailboxes(name: str, addresses: Sequence[Address], draft: Draft) -> str:
    atoms: list[str] = []
    room = _LINE - len(name) - 2
    for address in addresses:
        _refuse_control(name, address.display_name)
        spec = _spec(address, draft)
        if address.display_name:
            atoms += [*_phrase(address.display_name, room), f"<{spec}>,"]
        else:
            atoms.append(f"{spec},")
        room = _WORD
    atoms[-1] = atoms[-1].removesuffix(",")
    return _folded(name, atoms)


def _phrase(name: str, room: int) -> list[str]:
    if "=?" not in name:
        if _ATOM.fullmatch(name) and max(map(len, name.split(" "))) <= _LONGEST_QUOTED:
            return name.split(" ")
        if _PLAIN.fullmatch(name) and len(name) <= _LONGEST_QUOTED:
            escaped = name.replace("\\", "\\\\").replace('"', '\\"')
            return [f'"{escaped}"']
    return _encoded_words(name, room)


def _encoded_words(value: str, room: int) -> list[str]:
    """Return encoded words of at most 75 characters, the first at most *room*; whole characters each."""
    # A name so long that no word fits beside it has the line to itself; see _folded.
    room = min(room, _WORD) if room >= _ROOM_FOR_A_WORD else _WORD
    data = value.encode()
    coded = "".join([_Q_CODED[octet] for octet in data])
    if len(coded) <= (len(data) + 2) // 3 * 4:
        return _q_words(coded, room - _WORD_FRAME, _WORD - _WORD_FRAME)
    return _b_words(data, (room - _WORD_FRAME) // 4 * 3, (_WORD - _WORD_FRAME) // 4 * 3)


def _q_words(coded: str, first: int, most: int) -> list[str]:
    """Cut what the Q encoding wrote into words of at most *most* characters between their frames."""
    words: list[str] = []
    start, end = 0, first
    while end < len(coded):
        if "=" in (tail := coded[end - 2 : end]):
            end -= 2 - tail.index("=")
        while coded.startswith(_Q_CONTINUED, end):
            end -= 3
        words.append(f"=?utf-8?q?{coded[start:end]}?=")
        start, end = end, end + most
    return [*words, f"=?utf-8?q?{coded[start:]}?="]


def _b_words(data: bytes, first: int, most: int) -> list[str]:
    """Cut UTF-8 into words of at most *most* octets each, in base64."""
    pieces: list[bytes] = []
    start, end = 0, first
    while end < len(data):
        while data[end] & 0xC0 == 0x80:  # noqa: PLR2004 - UTF-8's mark of an octet that continues a character
            end -= 1
        pieces.append(data[start:end])
        start, end = end, end + most
    return [f"=?utf-8?b?{base64.b64encode(p).decode('ascii')}?=" for p in (*pieces, data[start:])]


def _folded(name: str, atoms: Sequence[str]) -> str:
    """Join atoms by spaces, with a line break before one where the line would pass 76 characters."""
    out = atoms[0]
    length = len(name) + 2 + len(atoms[0].encode())
    if length > _LINE and out.startswith("=?"):
        out, length = f"\r\n {out}", 1 + len(out)
    for atom in atoms[1:]:
        width = len(atom.encode())
        if length + 1 + width > _LINE:
            out += f"\r\n {atom}"
            length = 1 + width
        else:
            out += f" {atom}"
            length += 1 + width
    return out


def _refuse_control(name: str, value: str) -> None:
    if found := CONTROL.search(value):
        kind = "a line break" if found[0] in "\r\n" else f"the control character U+{ord(found[0]):04X}"
        cause = f"{name}: {shortened(value)} has {kind} in it; a header is one line."
        raise MessageError(cause, "Remove it: a line break could add headers and recipients.")


# ------------------------------------------------------------------------------------------ the gate


def check_gate(content: bytes, draft: Draft) -> None:
    """Parse the bytes again and compare them with the intent.

    Raises:
        MessageError: They differ, and where; the mail must not leave.
    """
    _check_lines(content, draft)
    try:
        _compare(content, draft)
    except (IndexError, AttributeError, TypeError, UnicodeError) as error:
        # The standard library's own parser fails so for a local part that looks like an encoded word.
        cause = f"The mail cannot be read back: a parser of mail fails with {type(error).__name__}."
        raise MessageError(cause, "Look for =? in its addresses and write them more plainly.") from None


def _compare(content: bytes, draft: Draft) -> None:
    # A mail with raw UTF-8 headers is text; the bytes parser would take them for a broken encoding.
    parsed: Any = message_from_string(content.decode(), policy=policy.default) if draft.smtputf8 else None
    parsed = parsed or message_from_bytes(content, policy=policy.default)
    _same("header names", Counter(n.lower() for n in parsed.keys()), _expected_names(draft))  # noqa: SIM118 - keys() has every occurrence
    _same("Subject", str(parsed["subject"]), draft.subject)
    _same("Message-ID", str(parsed["message-id"]), draft.message_id)
    # In UTC: a moment that its zone's clocks show twice equals nothing in another zone (PEP 495).
    _same("Date", parsed["date"].datetime.astimezone(dt.UTC), _whole_second(draft.date))
    older: Any = message_from_string(content.partition(b"\r\n\r\n")[0].decode())
    for name, meant in draft.mailboxes:
        _check_mailboxes(name, (parsed, older), meant, draft)
    for name, value in draft.headers:
        _same(name, " ".join(str(parsed[name]).split()), " ".join(value.split()))
    _check_leaves(list(_leaves(parsed)), _expected_leaves(draft))


def _whole_second(moment: dt.datetime) -> dt.datetime:
    return moment.replace(microsecond=0).astimezone(dt.UTC)


def _check_mailboxes(name: str, parsers: tuple[Any, Any], meant: Sequence[Address], draft: Draft) -> None:
    """Compare a header's mailboxes: the specs by both of the stdlib's parsers, the names by the older one.

    The newer one keeps the blank between two encoded words of a phrase, which RFC 2047, 6.2 drops; the
    older one does not. The newer one takes Disposition-Notification-To for text.
    """
    parsed, older = parsers
    specs = [_spec(a, draft) for a in meant]
    if name != "Disposition-Notification-To":
        found = parsed[name].addresses if parsed[name] is not None else ()
        _same(name, [a.addr_spec for a in found], specs)
    lines = [_unfolded(value) for value in older.get_all(name, [])]
    pairs = [(_older_text(n), spec) for n, spec in utils.getaddresses(lines, **_LENIENT)]
    _same(name, pairs, [(a.display_name, spec) for a, spec in zip(meant, specs, strict=True)])


def _check_lines(content: bytes, draft: Draft) -> None:
    head = content.partition(b"\r\n\r\n")[0]
    if (
        not content.count(b"\r\n") == content.count(b"\n") == content.count(b"\r")
        or b"\0" in content
        or re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", head)
        or not (draft.smtputf8 or content.isascii())
    ):
        raise MessageError(
            "The mail has a bare line end, a control character or an 8-bit octet in it.",
            "This is a fault of the builder; please report it.",
        )
    longest = max(map(len, content.split(b"\r\n")))
    if longest > _LONGEST_LINE:
        cause = f"A line of the mail has {longest:,} octets; mail allows {_LONGEST_LINE} (RFC 5322, 2.1.1)."
        raise MessageError(cause, "Shorten the longest header value.")


def _same(what: str, found: object, meant: object) -> None:
    if found != meant:
        cause = f"{what}: this would read differently when it arrives: {shortened(str(found), 120)}."
        raise MessageError(cause, f"Write it more plainly than {shortened(str(meant), 120)}.")


def _expected_names(draft: Draft) -> Counter[str]:
    names = ["subject", "date", "message-id", "mime-version", "content-type"]
    names += [name.lower() for name, found in draft.mailboxes if found]
    names += [name.lower() for name, _ in draft.headers]
    related = draft.html is not None and (draft.text is not None or draft.inline)
    if not (draft.attachments or draft.calendar or related):
        names.append("content-transfer-encoding")
    return Counter(names)


def _spec(address: Address, draft: Draft) -> str:
    """Return the address as this mail's headers write it."""
    return address.addr_spec if draft.smtputf8 and address.needs_smtputf8 else address.wire


@dataclass(frozen=True, slots=True)
class _Leaf:
    """What a reader gets of one leaf."""

    type: str
    parameters: dict[str, str]
    disposition: str
    filename: str
    content_id: str
    content: bytes


def _leaves(parsed: EmailMessage) -> Iterable[_Leaf]:
    for part in parsed.walk():
        if part.is_multipart():
            continue
        content = part.get_payload(decode=True)
        kind: Any = part["content-type"]
        place: Any = part["content-disposition"]
        yield _Leaf(
            type=part.get_content_type(),
            parameters={name.lower(): value for name, value in kind.params.items()},
            disposition=part.get_content_disposition() or "",
            # get_filename() would also take quotes and brackets away that belong to the name.
            filename=str(place.params.get("filename", "")) if place is not None else "",
            content_id=str(part["content-id"] or "").removeprefix("<").removesuffix(">"),
            content=content if isinstance(content, bytes) else b"",
        )


def _expected_leaves(draft: Draft) -> list[_Leaf]:
    leaves: list[_Leaf] = []
    utf8 = {"charset": "utf-8"}
    if draft.text is not None or draft.html is None:
        leaves.append(_Leaf("text/plain", utf8, "", "", "", canonical(draft.text or "").encode()))
    if draft.html is not None:
        leaves.append(_Leaf("text/html", utf8, "", "", "", canonical(draft.html).encode()))
    return leaves + [_expected_leaf(part, disposition) for part, disposition in draft.files]


def _expected_leaf(part: Part, disposition: str) -> _Leaf:
    kind, parameters = parameters_of(part.type)
    if part.charset:
        parameters["charset"] = part.charset
    return _Leaf(kind, parameters, disposition, part.filename, part.content_id, part.content)


def parameters_of(media_type: str) -> tuple[str, dict[str, str]]:
    """Split ``text/calendar; method=REQUEST`` into the type in lower case and its parameters."""
    kind, *rest = _PARAMETER.findall(media_type)
    pairs = (piece.strip(" ;").partition("=") for piece in rest)
    return kind.strip().lower(), {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def _check_leaves(found: Sequence[_Leaf], meant: Sequence[_Leaf]) -> None:
    _same("The number of parts", len(found), len(meant))
    for got, wanted in zip(found, meant, strict=True):
        what = wanted.filename or wanted.type
        for attribute in dataclasses.fields(_Leaf):
            label = f"{what}, {attribute.name.replace('_', ' ')}"
            _same(label, getattr(got, attribute.name), getattr(wanted, attribute.name))
