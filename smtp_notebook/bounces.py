"""What a mail server, or a provider, reports of a mail that was sent: read out of the report, and nothing guessed.

Understood are delivery status notifications (RFC 3464, and RFC 6533 with letters beyond ASCII), complaints (RFC 5965),
what qmail writes (https://cr.yp.to/proto/qsbmf.txt), what Exim writes, and a text of a mail daemon in which an
SMTP answer with an enhanced code and one single address stand in one paragraph. Of everything else it is said that it
was not understood, or that it is no such report.

Pure, and total: anybody may have written it. Nothing here raises, whatever the octets; the time is linear, and of a
large mail only the beginning is read, where the report stands. A mail inside the mail is asked for its headers alone.
"""

from __future__ import annotations

import binascii
import contextlib
import datetime as dt
import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from smtp_notebook.received import decoded
from smtp_notebook.replies import one_line

__all__ = ["LIMIT", "Action", "Fact", "Form", "Notice", "read"]

#: So many octets of a mail are looked at: its own words come before the mail that it returns.
LIMIT = 1 << 20
_HEAD = 1 << 17
_TEXT = 1 << 16
_VALUE = 4_000
_HEADERS = 500
_PARTS = 50
_DEPTH = 5
_FACTS = 1_000
_PARAGRAPHS = 300
_LONGEST_ADDRESS = 320

_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
# A field and the lines that go on with it (RFC 5322, 2.2.3).
_FIELD = re.compile(rb"^([!-9;-~]++)[ \t]*+:([^\r\n]*+(?:\r?\n[ \t][^\r\n]*+)*+)", re.MULTILINE)
_BLANK = re.compile(r"\n[ \t]*+\n")
_TYPE = re.compile(r"\s*([\w.+-]{1,60}/[\w.+-]{1,80})")
_BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"([^"\r\n]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)
_STATUS = re.compile(r"\s*([245])\.(\d{1,3})\.(\d{1,3})(?!\d|\.\d)")
# One among other words counts at their beginning, behind a reply code, or in qmail's way: (#5.1.1).
_SPOKEN = re.compile(r"(?:^\s*|(?<!\d)[245]\d\d[ -]+#?|#)([245]\.\d{1,3}\.\d{1,3})(?!\d|\.\d)")
_CODE = re.compile(r"\s*([245]\d\d)(?:[ -]|$)")
# An SMTP answer in a text: its code and its enhanced code, in qmail's way too: 550 … (#5.1.1)
_ANSWER = re.compile(r"(?<!\d)([45]\d\d)[ -]+#?(?=[45]\.\d)")
_ADDRESS = re.compile(r"[^\s<>()\[\]\"',;:@]{1,64}@[A-Za-z0-9\u0080-\U0010ffff_.-]{1,255}")
_TAGGED = re.compile(r"[0-9a-f]{16}\.[0-9a-f]{16}")
_MESSAGE_ID = re.compile(r"<[^<>\s]{1,250}@[^<>\s]{1,250}>")
_UNICODE = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_XTEXT = re.compile(r"\+([0-9A-F]{2})")
_DASHES = re.compile(r"^--[^\n]*+", re.MULTILINE)
_COPY = re.compile(r"copy|original|below|returned|message", re.IGNORECASE)
_DAEMON = re.compile(r"(?:^|<|\s)(?:mailer-daemon|postmaster)@|mailer-daemon", re.IGNORECASE)
#: Where the address stands to which a report came, which may have a tag in it.
_CAME_TO = (
    "delivered-to", "x-original-to", "envelope-to", "x-envelope-to", "x-delivered-to", "x-rcpt-to", "to",
)  # fmt: skip
_COMPLAINTS = frozenset({"abuse", "fraud", "opt-out", "opt-out-list"})

Fields = Mapping[str, list[str]]


class Action(enum.StrEnum):
    """What is reported of a recipient (RFC 3464, 2.3.3), and that one complained."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"
    COMPLAINT = "complaint"


class Form(enum.StrEnum):
    """What a mail is, as far as reports go."""

    DSN = "dsn"
    COMPLAINT = "complaint"
    QMAIL = "qmail"
    EXIM = "exim"
    TEXT = "text"
    ANSWER = "answer"
    UNREAD = "unread"
    OTHER = "other"


_ACTIONS = {a.value: a for a in Action if a is not Action.COMPLAINT}
_BY_CLASS = {"5": Action.FAILED, "4": Action.DELAYED, "2": Action.DELIVERED}


@dataclass(frozen=True, slots=True)
class Fact:
    """What is reported of one recipient.

    Attributes:
        action: What became of the mail.
        recipient: Whom the reporting server tried; "" where that is no Internet address.
        original: Whom the sender had named, where it says so; a forwarded mail fails for another address.
        enhanced: The enhanced status code (RFC 3463), or "".
        code: The SMTP reply code, or None.
        said: What the receiving server said, one line, or "".
    """

    action: Action
    recipient: str = ""
    original: str = ""
    enhanced: str = ""
    code: int | None = None
    said: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """One mail, read as a report.

    Attributes:
        form: What it is.
        facts: One for each recipient of whom it speaks.
        message_ids: Message-IDs of the mail that it speaks of, with angle brackets.
        tags: What may be tags of that mail (`mime.tag`), from the addresses that the report came to.
        envelope_id: What the sender called the transaction (RFC 3461, 4.4), or "".
        reporter: Which server reports, or "".
        subject: The report's own subject.
        date: The report's own date, or None.
    """

    form: Form
    facts: tuple[Fact, ...] = ()
    message_ids: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    envelope_id: str = ""
    reporter: str = ""
    subject: str = ""
    date: dt.datetime | None = None


class _Part(NamedTuple):
    """A part that holds no others: its type, its fields, and its content as it stands."""

    type: str
    fields: Fields
    content: bytes


def read(raw: bytes) -> Notice:
    """Return what a mail reports; of one that reports nothing, its `Form` says what it seems to be."""
    fields, content = _taken_apart(raw[:LIMIT])
    parts = list(_leaves(fields, content, 0))
    text = next((_text(p) for p in parts if p.type == "text/plain"), "")
    own, _, copy = _cut_off(text)
    returned = [_fields(p.content) for p in parts if _is_returned(p)] or [_fields(copy.encode())]
    form, facts, about = _found(fields, parts, own)
    tags = [v for name in _CAME_TO for v in fields.get(name, ())]
    tags += [v for f in returned for v in f.get("return-path", ())] + about.get("original-mail-from", [])
    ids = [v for f in returned for v in f.get("message-id", ())]
    return Notice(
        form,
        tuple(facts[:_FACTS]),
        _each(m[0] for v in ids[:20] if (m := _MESSAGE_ID.search(v))),
        _each(t for v in tags[:50] for t in _TAGGED.findall(v.lower())),
        _unxtext(_first(about, "original-envelope-id"))[:250],
        one_line(_first(about, "reporting-mta").partition(";")[2].strip(), 255),
        decoded(_first(fields, "subject"))[:300],
        _date(_first(fields, "date")),
    )


def _found(fields: Fields, parts: list[_Part], text: str) -> tuple[Form, list[Fact], Fields]:
    """Return what a mail is, what it says of whom, and the fields that speak of the whole mail."""
    for part in parts:
        if part.type in {"message/delivery-status", "message/global-delivery-status"}:
            facts, about = _delivery_status(_decoded(part))
            if facts:
                return Form.DSN, facts, about
        if part.type == "message/feedback-report":
            about = _fields(_decoded(part))
            facts = _complaint(about, parts)
            return (Form.COMPLAINT if facts else Form.OTHER), facts, about
    if text.startswith("Hi. This is the"):
        facts = list(_qmail(text))
        return (Form.QMAIL if facts else Form.UNREAD), facts, {}
    if "x-failed-recipients" in fields:
        facts = list(_exim(fields["x-failed-recipients"], text))
        return (Form.EXIM if facts else Form.UNREAD), facts, {}
    daemon = bool(_DAEMON.search(_first(fields, "from")))
    null = _first(fields, "return-path").strip() == "<>"
    answered = _first(fields, "auto-submitted").lower().strip().startswith("auto-replied")
    if not daemon and (answered or {"x-autoreply", "x-autorespond"} & fields.keys()):
        return Form.ANSWER, [], {}
    if daemon or null:
        facts = list(_plain(text))
        return (Form.TEXT if facts else Form.UNREAD), facts, {}
    return Form.OTHER, [], {}


# ----------------------------------------------------------------------------------------- RFC 3464, 5965


def _delivery_status(content: bytes) -> tuple[list[Fact], Fields]:
    """Return a fact for each recipient, and the fields of the whole mail (RFC 3464, 2.1)."""
    about: dict[str, list[str]] = {}
    facts = []
    text = content.decode("utf-8", "replace").replace("\r\n", "\n")
    for group in _BLANK.split(text, maxsplit=_FACTS):
        fields = _fields(group.encode())
        if not {"final-recipient", "original-recipient", "action"} & fields.keys():
            about.update(fields)
            continue
        about.update({k: v for k, v in fields.items() if k in {"reporting-mta", "original-envelope-id"}})
        if (fact := _fact(fields)) is not None:
            facts.append(fact)
    return facts, about


def _fact(fields: Fields) -> Fact | None:
    """Return what a group of fields says of its recipient, or None where it says nothing that can be trusted."""
    diagnostic = _first(fields, "diagnostic-code")
    kind, separator, said = diagnostic.partition(";")
    said = said if separator else diagnostic
    status = _STATUS.match(_first(fields, "status"))
    spoken = _SPOKEN.search(said)
    enhanced = status[0].strip() if status else ""
    # Some write 5.0.0 whatever the server said, which says more.
    if spoken and (not status or (status[2] == status[3] == "0" and spoken[1][0] == status[1])):
        enhanced = spoken[1]
    word = re.match(r"\s*([A-Za-z]+)", _first(fields, "action"))
    action = _ACTIONS.get(word[1].lower() if word else "") or _BY_CLASS.get(enhanced[:1])
    if action is None or (action is Action.FAILED and enhanced.startswith("2")):
        return None
    code = _CODE.match(said) if kind.strip().lower() == "smtp" or not separator else None
    return Fact(
        action,
        _typed(_first(fields, "final-recipient")),
        _typed(_first(fields, "original-recipient")),
        enhanced,
        int(code[1]) if code else None,
        one_line(decoded(said)),
    )


def _typed(value: str) -> str:
    """Return the Internet address of a field such as ``rfc822; ann@example.com``, or "" (RFC 3464, 2.3.1)."""
    kind, separator, rest = value.partition(";")
    if not separator:
        kind, rest = "rfc822", value
    if kind.strip().lower() not in {"rfc822", "utf-8"}:
        return ""
    text = rest.strip().strip("<>").strip()[:_LONGEST_ADDRESS]
    text = _UNICODE.sub(lambda m: _character(m[1]), text)  # RFC 6533, 3
    if "@" not in text:
        text = _unxtext(text)  # RFC 3461, 4: it should not be encoded any more
    found = _ADDRESS.match(text)
    return found[0].rstrip(".") if found else ""


def _complaint(about: Fields, parts: list[_Part]) -> list[Fact]:
    """Return whom a complaint comes from; nobody where it is none, such as a report of a failed signature."""
    if _first(about, "feedback-type").strip().lower() not in _COMPLAINTS:
        return []
    named = [a for v in about.get("original-rcpt-to", ()) if (a := _typed(v))]
    if not named:
        # Providers leave it out, to protect who complained. One address in the mail's own To is as good.
        returned = next((_fields(p.content) for p in parts if _is_returned(p)), {})
        named = _ADDRESS.findall(", ".join(returned.get("to", ())))
        named = named if len(named) == 1 else [""]
    return [Fact(Action.COMPLAINT, a, said="reported as spam") for a in _each(named)]


# ------------------------------------------------------------------------------------------------ texts


def _qmail(text: str) -> Iterator[Fact]:
    """Yield who failed, of the paragraphs that begin with ``<address>:``; all failures are permanent."""
    for paragraph in _BLANK.split(text, maxsplit=_PARAGRAPHS):
        if paragraph.startswith("-"):
            return
        first, _, rest = paragraph.strip().partition("\n")
        if first.startswith("<") and first.rstrip().endswith(">:"):
            found = _ADDRESS.fullmatch(first.strip()[1:-2])
            if found:
                yield _told(found[0], rest, Action.FAILED)


def _exim(named: Iterable[str], text: str) -> Iterator[Fact]:
    """Yield who failed: the header names them, and below each one's line stands why."""
    said: dict[str, str] = {}
    for paragraph in _BLANK.split(text, maxsplit=_PARAGRAPHS):
        first, _, rest = paragraph.strip().partition("\n")
        said.setdefault(first.strip().casefold(), rest)
    addresses = _each(_ADDRESS.findall(", ".join(named)))[:_FACTS]
    for address in addresses:
        why = said.get(address.casefold(), "") or (text if len(addresses) == 1 else "")
        yield _told(address, why[_start(why) :], Action.FAILED)


def _start(said: str) -> int:
    """Return where a server's answer begins among other words; 0 where there is none."""
    found = _ANSWER.search(said)
    return found.start() if found else 0


def _plain(text: str) -> Iterator[Fact]:
    """Yield of whom a daemon's own text speaks beyond doubt: one address, and an answer with an enhanced code."""
    for paragraph in _BLANK.split(text, maxsplit=_PARAGRAPHS):
        answer = _ANSWER.search(paragraph)
        named = {a.rstrip(".").casefold(): a.rstrip(".") for a in _ADDRESS.findall(paragraph)}
        if answer and len(named) == 1:
            action = Action.FAILED if answer[1].startswith("5") else Action.DELAYED
            yield _told(next(iter(named.values())), paragraph[answer.start() :], action)


def _told(address: str, said: str, action: Action) -> Fact:
    """Return a fact out of the words that stand beside an address."""
    answer, spoken = _ANSWER.search(said), _SPOKEN.search(said)
    wanted = "5" if action is Action.FAILED else "4"
    known = spoken[1] if spoken and spoken[1].startswith(wanted) else ""
    code = int(answer[1]) if answer and answer[1].startswith(wanted) else None
    return Fact(action, address, enhanced=known, code=code, said=one_line(said))


def _cut_off(text: str) -> tuple[str, str, str]:
    """Return a daemon's own words, the line that ends them, and the mail that it returns below."""
    found = next((m for m in _DASHES.finditer(text) if _COPY.search(m[0])), None)
    if found is None:
        return text, "", ""
    return text[: found.start()], found[0], text[found.end() :].lstrip("\n")


# -------------------------------------------------------------------------------------------- taken apart


def _taken_apart(raw: bytes) -> tuple[Fields, bytes]:
    if raw.startswith((b"\n", b"\r\n")):
        return {}, raw.lstrip(b"\r\n")
    found = _END_OF_HEAD.search(raw, 0, _HEAD)
    if found is None:
        return _fields(raw), b""
    return _fields(raw[: found.start() + 1]), raw[found.end() :]


def _fields(raw: bytes) -> dict[str, list[str]]:
    """Return the fields up to the first empty line: their values, unfolded, by their names in small letters."""
    found: dict[str, list[str]] = {}
    end = _END_OF_HEAD.search(raw, 0, _HEAD)
    head = raw[: end.start() + 1 if end else _HEAD]
    for number, line in enumerate(_FIELD.finditer(head)):
        if number >= _HEADERS:
            break
        value = " ".join(line[2][:_VALUE].decode("utf-8", "replace").split())
        found.setdefault(line[1].decode("ascii").lower(), []).append(value)
    return found


def _leaves(fields: Fields, content: bytes, depth: int) -> Iterator[_Part]:
    """Yield the parts that hold no others, a few of them; a mail inside the mail is one."""
    kind = _TYPE.match(_first(fields, "content-type"))
    name = kind[1].lower() if kind else "text/plain"
    boundary = _BOUNDARY.search(_first(fields, "content-type"))
    if not name.startswith("multipart/") or boundary is None or depth >= _DEPTH:
        yield _Part(name, fields, content)
        return
    mark = re.escape((boundary[1] or boundary[2]).encode("utf-8", "replace"))
    pieces = re.split(rb"^--" + mark + rb"(?:--)?[ \t]*+\r?$", content, maxsplit=_PARTS, flags=re.MULTILINE)
    for piece in pieces[1:]:
        # What stands between the boundary and the part's head is the end of the boundary's line.
        inside = piece[2:] if piece.startswith(b"\r\n") else piece.removeprefix(b"\n")
        if inside.strip():
            yield from _leaves(*_taken_apart(inside), depth + 1)


def _is_returned(part: _Part) -> bool:
    return part.type in {
        "message/rfc822", "message/global", "message/rfc822-headers", "text/rfc822-headers", "message/global-headers",
    }  # fmt: skip


def _decoded(part: _Part) -> bytes:
    encoding = _first(part.fields, "content-transfer-encoding").strip().lower()
    with contextlib.suppress(binascii.Error, ValueError):
        if encoding == "base64":
            return binascii.a2b_base64(part.content)
        if encoding == "quoted-printable":
            return binascii.a2b_qp(part.content)
    return part.content


def _text(part: _Part) -> str:
    return _decoded(part)[:_TEXT].decode("utf-8", "replace").replace("\r\n", "\n").strip()


def _first(fields: Fields, name: str) -> str:
    return next(iter(fields.get(name, ())), "")


def _each(items: Iterable[str]) -> tuple[str, ...]:
    """Return each once, in order."""
    return tuple(dict.fromkeys(items))


def _character(number: str) -> str:
    value = int(number, 16)
    surrogate = 0xD800 <= value <= 0xDFFF  # noqa: PLR2004 - halves of a character (Unicode, 3.9)
    return chr(value) if value <= 0x10FFFF and not surrogate else ""  # noqa: PLR2004 - the last character


def _unxtext(text: str) -> str:
    return _XTEXT.sub(lambda m: chr(int(m[1], 16)), text)


def _date(value: str) -> dt.datetime | None:
    try:
        found = parsedate_to_datetime(value[:100])
        return found.replace(tzinfo=found.tzinfo or dt.UTC).astimezone(dt.UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
