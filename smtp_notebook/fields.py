"""The fields of a mail: their names, and what each one may hold.

Pure: each check takes what a person wrote and returns it in its one form, or refuses it with the field's
name, the reason and the way out.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from smtp_notebook import bodies
from smtp_notebook.addresses import CONTROL, Address, parse_addresses, shortened
from smtp_notebook.outcome import AddressError, MessageError, OptionError

__all__ = [
    "FIELDS",
    "IMPORTANCES",
    "addresses",
    "body_format",
    "check_bulk",
    "check_field_names",
    "feedback_id",
    "header_pairs",
    "importance",
    "list_id",
    "mail_text",
    "message_id",
    "moment",
    "one_click",
    "one_line",
    "receipt",
    "sender",
    "truth",
    "truth_or_none",
    "unsubscribe_uris",
]

FIELDS: tuple[str, ...] = (
    "to",
    "cc",
    "bcc",
    "reply_to",
    "from_",
    "subject",
    "body",
    "format",
    "importance",
    "attach",
    "inline",
    "headers",
    "read_receipt",
    "unsubscribe",
    "bulk",
    "list_id",
    "feedback_id",
    "postal_address",
    "preheader",
    "theme",
    "inline_css",
    "event",
)
IMPORTANCES = ("low", "normal", "high")
_FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+^_`|~-]{1,60}")
_OURS = {
    "from": "from_",
    "to": "to",
    "cc": "cc",
    "bcc": "bcc",
    "reply-to": "reply_to",
    "subject": "subject",
    "importance": "importance",
    "x-priority": "importance",
    "x-msmail-priority": "importance",
    "list-unsubscribe": "unsubscribe",
    "list-unsubscribe-post": "unsubscribe",
    "list-id": "list_id",
    "feedback-id": "feedback_id",
    "disposition-notification-to": "read_receipt",
    "date": "",
    "message-id": "",
    "mime-version": "",
    "received": "",
    "return-path": "",
    "sender": "",
    "dkim-signature": "",
}
_UNSUBSCRIBE = re.compile(r"(?:https|mailto):[\x21-\x3b\x3d\x3f-\x7e]+", re.IGNORECASE)
_MESSAGE_ID = re.compile(r"<[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,200}@[A-Za-z0-9.-]{1,200}>")
_LABELS = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)+"
_LIST_ID = re.compile(rf"(?:(?P<name>[^<>]*?)\s*<(?P<within>{_LABELS})>|(?P<bare>{_LABELS}))")
#: RFC 2919, 2: a list identifier has at most so many octets.
_LONGEST_LIST_ID = 255
#: Google's header: at most three identifiers, then the sender's own, which has 5 to 15 characters:
#: https://support.google.com/mail/answer/6254652
_FEEDBACK_ID = re.compile(r"(?:[\x21-\x39\x3b-\x7e]*:){0,3}[\x21-\x39\x3b-\x7e]{5,15}")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def check_field_names(names: Iterable[str]) -> None:
    """Refuse a field that does not exist.

    Raises:
        OptionError: Names the nearest one that does.
    """
    for name in names:
        if name in FIELDS or name.lower().startswith("x-"):
            continue
        if name == "from":
            raise OptionError("There is no field 'from'.", "Python has the word; write from_.")
        near = difflib.get_close_matches(name.lower(), FIELDS, n=1, cutoff=0.4)
        fix = f"Did you mean {near[0]!r}?" if near else f"The fields are {', '.join(FIELDS)}."
        raise OptionError(f"There is no field {name!r}.", fix)


def addresses(name: str, value: Any) -> tuple[Address, ...]:
    """Return the addresses of a field; an error names the field."""
    try:
        return parse_addresses(value)
    except AddressError as error:
        raise AddressError(f"{name}: {error.cause}", error.fix) from None


def sender(value: Any) -> Address | None:
    """Return the one sender, or None (RFC 5322, 3.6.2, would allow several; providers do not)."""
    found = addresses("from_", value)
    if len(found) > 1:
        raise AddressError(
            f"from_: a mail has one sender, this one has {len(found)}.", "Use reply_to for the others."
        )
    return found[0] if found else None


def one_line(name: str, value: Any) -> str:
    """Return the value as text without control characters: a line break in a header adds headers."""
    text = str(value)
    if found := CONTROL.search(text):
        kind = "a line break" if found[0] in "\r\n" else f"the control character U+{ord(found[0]):04X}"
        cause = f"{name}: {shortened(text)} has {kind} in it; a header is one line."
        raise MessageError(cause, "Remove it: a line break could add headers and recipients.")
    return text


def body_format(kind: str | None, body: Any) -> str:
    """Return the format of *body*; Markdown unless said, but never for what plainly is HTML."""
    if not isinstance(body, str):
        cause = f"body: this is of type {type(body).__name__}, not text."
        raise MessageError(cause, "send(body=…) and templates show objects; a Message takes text.")
    if kind is None:
        if bodies.looks_like_html(body):
            cause = (
                "body: this is HTML, but nothing says so, and as Markdown its tags would be shown as text."
            )
            raise MessageError(cause, 'Say format="html" (or "markdown" to show the tags).')
        return "markdown"
    if str(kind).lower() not in bodies.FORMATS:
        raise OptionError(f"format: {kind!r} is no format.", f"It is {_or(bodies.FORMATS)}.")
    return str(kind).lower()


def importance(value: Any) -> str:
    """Return low, normal or high."""
    text = str(value).strip().lower()
    if text not in IMPORTANCES:
        raise OptionError(f"importance: {value!r} is no importance.", f"It is {_or(IMPORTANCES)}.")
    return text


def _or(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def mail_text(name: str, text: Any) -> str:
    """Return text that UTF-8 and every mail program can hold."""
    if not isinstance(text, str):
        raise MessageError(f"{name}: this is of type {type(text).__name__}, not text.", "Give text.")
    if found := _NO_TEXT.search(text):
        what = "a NUL character" if found[0] == "\0" else "half of a character"
        raise MessageError(f"{name}: there is {what} in it, which no mail can hold.", "Clean the text.")
    return text


def moment(date: Any) -> dt.datetime | None:
    """Return the moment with its zone, in whole minutes of offset; a naive one is local time."""
    if date is None:
        return None
    if not isinstance(date, dt.datetime):
        cause = f"date: this is of type {type(date).__name__}, not a moment."
        raise MessageError(cause, "Give a datetime.datetime, or leave it out.")
    aware = date.astimezone() if date.tzinfo is None else date
    offset = aware.utcoffset() or dt.timedelta()
    return aware.astimezone(dt.UTC) if offset % dt.timedelta(minutes=1) else aware


def message_id(value: Any) -> str:
    """Return a Message-ID with its angle brackets, or ""."""
    text = one_line("message_id", value or "")
    if text and not _MESSAGE_ID.fullmatch(text):
        cause = f"message_id: {shortened(text)} is no Message-ID."
        raise MessageError(cause, "Write it as <unique@example.com>, or leave it out.")
    return text


def header_pairs(pairs: Iterable[Any]) -> tuple[tuple[str, str], ...]:
    """Return further headers, each name once; those that other fields write are refused."""
    found: dict[str, tuple[str, str]] = {}
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:  # noqa: PLR2004 - a name and a value
            raise MessageError(
                f"headers: {shortened(str(pair))} is no name with a value.", "Give a dict, or pairs."
            )
        name, value = pair
        header = _checked_header(name, value)
        if header[0].lower() in found:
            raise MessageError(f"headers: {header[0]} is there twice.", "Keep one of them.")
        found[header[0].lower()] = header
    return tuple(found.values())


def _checked_header(name: str, value: Any) -> tuple[str, str]:
    name = str(name)
    if not _FIELD_NAME.fullmatch(name):
        raise MessageError(
            f"headers: {shortened(name)} is no header's name.",
            "Use letters, digits and hyphens (RFC 5322, 2.2).",
        )
    lower = name.lower()
    if lower in _OURS or lower.startswith(("content-", "resent-")):
        field = _OURS.get(lower)
        fix = f"Use {field}=." if field else "It is written for you, here or on the way."
        raise MessageError(f"headers: {name} cannot be set here.", fix)
    text = one_line(f"headers: {name}", value).strip()
    if not text:
        raise MessageError(f"headers: {name} is empty.", "Leave it out.")
    return name, re.sub(r" {2,}", " ", text)


def truth(name: str, value: Any) -> bool:
    """Return yes or no, as a bool or as a head writes it."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    found = value if isinstance(value, bool) else words.get(str(value).strip().lower())
    if found is None:
        raise OptionError(f"{name}: {value!r} is neither yes nor no.", "Write True or False.")
    return found


def truth_or_none(name: str, value: Any) -> bool | None:
    """Return yes or no; None where nothing is said."""
    return None if value is None or value == "" else truth(name, value)


def receipt(value: Any) -> bool | Address:
    """Return whether, or to which address, a receipt is asked for."""
    if isinstance(value, bool | Address):
        return value
    text = str(value or "").strip()
    if text.lower() in {"", "false", "no", "0"}:
        return False
    if text.lower() in {"true", "yes", "1"}:
        return True
    found = addresses("read_receipt", text)
    if len(found) != 1:
        raise AddressError(f"read_receipt: {shortened(text)} is not one address.", "Give one, or True.")
    return found[0]


def unsubscribe_uris(value: Any) -> tuple[str, ...]:
    """Return the URIs of List-Unsubscribe (RFC 2369), https: and mailto: alone."""
    items = [value] if isinstance(value, str) else list(value or ())
    found: list[str] = []
    for item in items:
        for uri in filter(
            None,
            (
                u.strip().removeprefix("<").removesuffix(">")
                for u in re.split(r",\s*(?=<|https?:|mailto:)", str(item))
            ),
        ):
            one_line("unsubscribe", uri)
            if not _UNSUBSCRIBE.fullmatch(uri) or (
                uri.lower().startswith("https:") and not urlsplit(uri).hostname
            ):
                cause = f"unsubscribe: {shortened(uri)} is no https: or mailto: URI in plain ASCII."
                raise MessageError(
                    cause, "Percent-encode what is not ASCII; http: without TLS is not allowed (RFC 8058)."
                )
            found.append(uri)
    return tuple(found)


def one_click(uris: Iterable[str]) -> tuple[str, ...]:
    """Return the URIs that RFC 8058 can be used with: those of https."""
    return tuple(uri for uri in uris if uri.lower().startswith("https:"))


def list_id(value: Any) -> str:
    """Return List-Id's value (RFC 2919, 2): ``News <news.example.com>`` or ``<news.example.com>``, or ""."""
    text = " ".join(one_line("list_id", "" if value is None else value).split())
    if not text:
        return ""
    found = _LIST_ID.fullmatch(text)
    identifier = (found["within"] or found["bare"]) if found else ""
    if found is None or len(identifier) > _LONGEST_LIST_ID:
        cause = f"list_id: {shortened(text)} is no list's identifier."
        raise MessageError(
            cause, "Write news.example.com, or News <news.example.com>, in a domain of yours (RFC 2919)."
        )
    name = (found["name"] or "").strip().removeprefix('"').removesuffix('"').strip()
    return f"{name} <{identifier}>" if name else f"<{identifier}>"


def feedback_id(value: Any) -> str:
    """Return Feedback-ID's value: up to three identifiers and the sender's, with colons between, or ""."""
    text = one_line("feedback_id", "" if value is None else value).strip()
    if text and not _FEEDBACK_ID.fullmatch(text):
        cause = f"feedback_id: {shortened(text)} is no Feedback-ID."
        raise MessageError(
            cause, "Write campaign:customer:kind:sender; the last one has 5 to 15 characters, no blanks."
        )
    return text


def check_bulk(
    bulk: bool | None,  # noqa: FBT001 - the field itself
    unsubscribe: Sequence[str],
    identifier: str,
    headers: Iterable[tuple[str, str]],
) -> bool:
    """Return whether the mail is bulk mail: what was said, else whether it has a list's headers.

    Args:
        bulk: What was said, or None.
        unsubscribe: The URIs of List-Unsubscribe.
        identifier: The value of List-Id, or "".
        headers: Further headers.

    Raises:
        MessageError: Bulk mail without one address for one-click unsubscribing (RFC 8058, 3.1), or mail to single
            people with headers that only mailing lists may have (RFC 2369).
    """
    names = [name for name, _ in headers if name.lower().startswith("list-")]
    listed = [*(["unsubscribe="] if unsubscribe else []), *(["list_id="] if identifier else []), *names]
    if bulk is False and listed:
        cause = f"bulk: this is said to be no bulk mail, but it has {_and(listed)}, which only lists have."
        raise MessageError(cause, "Take that away, or leave bulk= out (RFC 2369).")
    if bulk and len(found := one_click(unsubscribe)) != 1:
        has = f"{len(found)} https: addresses" if found else "no https: address"
        cause = (
            f"unsubscribe: bulk mail needs one https: address for unsubscribing by one click, this has {has}."
        )
        raise MessageError(
            cause, "Give unsubscribe='https://example.com/u/{{ token }}'; a mailto: may stand beside it."
        )
    return bool(listed) if bulk is None else bulk


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
