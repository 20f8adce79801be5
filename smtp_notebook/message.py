"""One mail as a frozen value, and the connector's JSON for it.

Nothing here touches a network; files are read only by `Attachment`.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime as dt
import difflib
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from smtp_notebook import _html, bodies, mime
from smtp_notebook.addresses import CONTROL, Address, parse_addresses, shortened
from smtp_notebook.attachments import Attachment, inside
from smtp_notebook.outcome import AddressError, AttachmentError, MessageError, OptionError

__all__ = ["FIELDS", "IMPORTANCES", "Attachment", "Message", "check_field_names", "preview_html"]

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
    "disposition-notification-to": "read_receipt",
    "date": "",
    "message-id": "",
    "mime-version": "",
    "received": "",
    "return-path": "",
    "sender": "",
    "dkim-signature": "",
}
_PRIORITY = {"high": ("high", "1", "High"), "low": ("low", "5", "Low")}
_CID = re.compile(r"""cid:([^"'\s)>]+)""", re.IGNORECASE)
_UNSUBSCRIBE = re.compile(r"(?:https|mailto):[\x21-\x3b\x3d\x3f-\x7e]+")


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


@dataclass(frozen=True, init=False, repr=False)
class Message:
    """One mail. Frozen: `with_` returns a changed copy.

    Args:
        to: Recipients: text separated by semicolons or commas, a list, or Addresses.
        cc: Copies.
        bcc: Blind copies; in the envelope alone, never in the mail.
        reply_to: Where answers go.
        from_: The sender: one address. None leaves it to the connection.
        subject: One line.
        body: The text, in *format*.
        format: ``markdown`` (default), ``html`` or ``text``.
        importance: ``low``, ``normal`` or ``high``.
        attach: Attachments; text and Paths are paths inside *attach_root*.
        inline: Images that the HTML shows by ``cid:`` and their Content-ID (by default their name).
        headers: Further headers by name, such as ``References``.
        read_receipt: True or an address asks for a receipt (RFC 8098).
        unsubscribe: ``https:`` or ``mailto:`` URIs (RFC 2369); one-click (RFC 8058) with an https one.
        attach_root: The folder that paths must stay in; by default the working one.
        date: When it was sent; set by `stamped`.
        message_id: Its Message-ID, with angle brackets; set by `stamped`.
        text: The plain text; made from *body* when None.
        html: The HTML; made from *body* when None, absent for ``text``.
        warnings: What a person may want to look at.

    Raises:
        AddressError: A recipient is no address.
        AttachmentError: A file cannot be read, or lies outside *attach_root*.
        MessageError: Something else that no mail can hold.
    """

    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    bcc: tuple[Address, ...]
    reply_to: tuple[Address, ...]
    from_: Address | None
    subject: str
    body: str
    format: str
    importance: str
    attach: tuple[Attachment, ...]
    inline: tuple[Attachment, ...]
    headers: tuple[tuple[str, str], ...]
    read_receipt: bool | Address
    unsubscribe: tuple[str, ...]
    date: dt.datetime | None
    message_id: str
    text: str | None
    html: str | None
    warnings: tuple[str, ...]

    def __init__(
        self,
        *,
        to: Any = None,
        cc: Any = None,
        bcc: Any = None,
        reply_to: Any = None,
        from_: str | Address | None = None,
        subject: str = "",
        body: str = "",
        format: str | None = None,  # noqa: A002 - the field's name everywhere
        importance: str = "normal",
        attach: Any = (),
        inline: Any = (),
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        read_receipt: bool | str | Address = False,
        unsubscribe: str | Iterable[str] | None = None,
        attach_root: str | Path | None = None,
        date: dt.datetime | None = None,
        message_id: str = "",
        text: str | None = None,
        html: str | None = None,
        warnings: Iterable[str] = (),
        **others: Any,
    ) -> None:
        check_field_names(others)
        root = Path(attach_root or ".").absolute()
        kind = _checked_format(format, body)
        extra = dict(headers) if isinstance(headers, Mapping) else dict(tuple(headers))
        values: dict[str, Any] = {
            "to": _addresses("to", to),
            "cc": _addresses("cc", cc),
            "bcc": _addresses("bcc", bcc),
            "reply_to": _addresses("reply_to", reply_to),
            "from_": _sender(from_),
            "subject": _one_line("subject", subject).strip(),
            "body": str(body),
            "format": kind,
            "importance": _checked_importance(importance),
            "attach": _files(attach, root),
            "inline": tuple(_with_id(a) for a in _files(inline, root)),
            "headers": tuple(_checked_header(k, v) for k, v in {**extra, **others}.items()),
            "read_receipt": _receipt(read_receipt),
            "unsubscribe": _checked_unsubscribe(unsubscribe),
            "date": date,
            "message_id": _one_line("message_id", message_id),
            "text": text,
            "html": html,
            "warnings": tuple(warnings),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._convert()

    def _convert(self) -> None:
        """Make the text and HTML parts that were not given."""
        if self.html is None and self.format != "text":
            made = (
                bodies.markdown_to_html(self.body)
                if self.format == "markdown"
                else bodies.inline_css(self.body)
            )
            object.__setattr__(self, "html", made)
        if self.text is None:
            made = bodies.html_to_text(self.body) if self.format == "html" else self.body
            object.__setattr__(self, "text", made)

    # ---------------------------------------------------------------------------------- derived

    def with_(self, **changes: Any) -> Message:
        """Return a copy with some fields changed; a new body is converted anew."""
        check_field_names(set(changes) - {"date", "message_id", "text", "html", "warnings", "attach_root"})
        known = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if {"body", "format"} & changes.keys():
            known |= {"text": None, "html": None}
        return Message(**(known | changes))

    @property
    def recipients(self) -> tuple[str, ...]:
        """The envelope's recipients as written on the wire: To, Cc and Bcc, each address once."""
        found: dict[tuple[str, str], str] = {}
        for address in (*self.to, *self.cc, *self.bcc):
            local, _, domain = address.wire.rpartition("@")
            found.setdefault((local.casefold(), domain), address.wire)
        return tuple(found.values())

    @property
    def smtputf8(self) -> bool:
        """Whether only a server with SMTPUTF8 can take it (RFC 6531)."""
        every = (*self.to, *self.cc, *self.bcc, *self.reply_to, *((self.from_,) if self.from_ else ()))
        return any(a.needs_smtputf8 for a in every)

    def stamped(self, now: dt.datetime | None = None) -> Message:
        """Return a copy with Date and Message-ID, which stay the same over all attempts to send it."""
        if self.date is not None and self.message_id:
            return self
        domain = self.from_.wire.rpartition("@")[2] if self.from_ else "localhost"
        return self.with_(
            date=self.date or now or dt.datetime.now(dt.UTC).astimezone(),
            message_id=self.message_id or mime.new_message_id(domain),
        )

    def as_bytes(self) -> bytes:
        """Return the mail as it travels: CRLF line ends, 7-bit content, no Bcc.

        Raises:
            MessageError: It has no sender, or cannot be written so that it reads back the same.
        """
        return mime.to_bytes(self._draft())

    def save(self, path: str | Path) -> Path:
        """Write the mail to a file (``.eml``), which mail programs open, and return its path."""
        target = Path(path)
        target.write_bytes(self.as_bytes())
        return target

    def _draft(self) -> mime.Draft:
        if self.from_ is None:
            raise MessageError("The mail has no From address.", "Give from_='you@example.com'.")
        stamped = self.stamped()
        inline, attach = self._sorted_files()
        return mime.Draft(
            from_=self.from_,
            to=self.to,
            cc=self.cc,
            reply_to=self.reply_to,
            subject=self.subject,
            date=stamped.date or dt.datetime.now(dt.UTC),
            message_id=stamped.message_id,
            headers=(*self._special_headers(), *self.headers),
            text=self.text,
            html=self.html,
            inline=tuple(_part(a) for a in inline),
            attachments=tuple(_part(a) for a in attach),
        )

    def _sorted_files(self) -> tuple[list[Attachment], list[Attachment]]:
        """Return the images that the HTML shows, and everything else.

        An inline part that nothing refers to would be invisible in many mail programs, so it becomes
        an attachment.
        """
        shown = {found[1] for found in _CID.finditer(self.html or "")}
        inline = [a for a in self.inline if a.content_id in shown]
        return inline, [*(a for a in self.inline if a.content_id not in shown), *self.attach]

    def _special_headers(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        if self.importance in _PRIORITY:
            importance, priority, microsoft = _PRIORITY[self.importance]
            found += [("Importance", importance), ("X-Priority", priority), ("X-MSMail-Priority", microsoft)]
        if self.read_receipt and self.from_ is not None:
            to = self.read_receipt if isinstance(self.read_receipt, Address) else self.from_
            found.append(("Disposition-Notification-To", to.wire))
        if self.unsubscribe:
            found.append(("List-Unsubscribe", ", ".join(f"<{u}>" for u in self.unsubscribe)))
            if any(u.startswith("https:") for u in self.unsubscribe):
                found.append(("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"))
        return found

    # ------------------------------------------------------------------------------- connector

    @classmethod
    def from_connector(cls, properties: Mapping[str, Any]) -> Message:
        """Return the Message that the connector's Send Email action means by its JSON.

        Args:
            properties: ``To CC Bcc Subject Body From IsHtml Importance`` and ``Attachments``, a list of
                ``ContentData ContentType ContentTransferEncoding FileName ContentId``. Names are
                compared without regard to case. Addresses are separated by semicolons.

        Raises:
            MessageError: A property that the action does not have, with the nearest that it has, or
                content that is not base64.
        """
        given = _named(properties, _CONNECTOR)
        body = str(given.get("Body") or "")
        files = [_connector_file(a) for a in given.get("Attachments") or ()]
        shown = {found[1] for found in _CID.finditer(body)}
        is_html = _truth(given.get("IsHtml"))
        inline = [a for a in files if is_html and a.content_id in shown]
        return cls(
            to=given.get("To"),
            cc=given.get("CC"),
            bcc=given.get("Bcc"),
            from_=given.get("From"),
            subject=str(given.get("Subject") or ""),
            body=body,
            format="html" if is_html else "text",
            importance=str(given.get("Importance") or "normal"),
            inline=inline,
            attach=[a for a in files if a not in inline],
        )

    def to_connector(self) -> dict[str, Any]:
        """Return the connector's JSON for this mail; Markdown goes as the HTML that it becomes."""
        found: dict[str, Any] = {
            "To": "; ".join(map(str, self.to)),
            "CC": "; ".join(map(str, self.cc)),
            "Bcc": "; ".join(map(str, self.bcc)),
            "Subject": self.subject,
            "Body": self.body if self.format != "markdown" else self.html,
            "From": str(self.from_ or ""),
            "IsHtml": self.format != "text",
            "Importance": self.importance.capitalize(),
            "Attachments": [_connector_json(a) for a in (*self.inline, *self.attach)],
        }
        return {k: v for k, v in found.items() if v not in ("", []) or k in {"To", "Subject", "Body"}}

    # --------------------------------------------------------------------------------- display

    def __repr__(self) -> str:
        files = len(self.inline) + len(self.attach)
        more = f", {files} file{'s' if files > 1 else ''}" if files else ""
        return f"<Message {self.subject!r} to {', '.join(map(str, self.to)) or 'nobody'}{more}>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/plain": _preview_text(self), "text/html": preview_html(self)}


# ---------------------------------------------------------------------------------------- the checks


def _addresses(name: str, value: Any) -> tuple[Address, ...]:
    try:
        return parse_addresses(value)
    except AddressError as error:
        raise AddressError(f"{name}: {error.cause}", error.fix) from None


def _sender(value: Any) -> Address | None:
    found = _addresses("from_", value)
    if len(found) > 1:
        raise AddressError(
            f"from_: a mail has one sender, this one has {len(found)}.", "Use reply_to for the others."
        )
    return found[0] if found else None


def _one_line(name: str, value: Any) -> str:
    text = str(value)
    if found := CONTROL.search(text):
        kind = "a line break" if found[0] in "\r\n" else f"the control character U+{ord(found[0]):04X}"
        cause = f"{name}: {shortened(text)} has {kind} in it; a header is one line."
        raise MessageError(cause, "Remove it: a line break could add headers and recipients.")
    return text


def _checked_format(kind: str | None, body: Any) -> str:
    if not isinstance(body, str):
        cause = f"body: a {type(body).__name__} is no text."
        raise MessageError(cause, "send(body=…) and templates show objects; a Message takes text.")
    if kind is None:
        if bodies.looks_like_html(body):
            cause = (
                "body: this is HTML, but nothing says so, and as Markdown its tags would be shown as text."
            )
            raise MessageError(cause, 'Say format="html" (or "markdown" to show the tags).')
        return "markdown"
    if str(kind).lower() not in bodies.FORMATS:
        raise OptionError(f"format: {kind!r} is none of {', '.join(bodies.FORMATS)}.")
    return str(kind).lower()


def _checked_importance(value: Any) -> str:
    text = str(value).strip().lower()
    if text not in IMPORTANCES:
        raise OptionError(f"importance: {value!r} is none of {', '.join(IMPORTANCES)}.")
    return text


def _files(value: Any, root: Path) -> tuple[Attachment, ...]:
    if value is None:
        return ()
    items: Sequence[Any] = list(value) if isinstance(value, list | tuple | set) else [value]
    return tuple(_file(item, root) for item in items)


def _file(item: Any, root: Path) -> Attachment:
    if isinstance(item, Attachment):
        return item
    if isinstance(item, str | Path):
        return inside(item, root)
    if isinstance(item, bytes | bytearray):
        raise AttachmentError(
            "Bytes need a name to be attached.", "Attachment(content, name='report.pdf') gives one."
        )
    return Attachment(item)


def _with_id(file: Attachment) -> Attachment:
    """Return an inline image with a Content-ID: its name when it has none."""
    if file.content_id:
        return file
    identifier = re.sub(r"[^A-Za-z0-9._-]", "-", file.name)
    return Attachment(file.content, file.name, file.type, identifier, file.transfer_encoding)


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
        fix = f"Use {field}=." if field else "The builder writes that one."
        raise MessageError(f"headers: {name} cannot be set here.", fix)
    text = _one_line(f"headers: {name}", value).strip()
    if not text:
        raise MessageError(f"headers: {name} is empty.", "Leave it out.")
    return name, re.sub(r" {2,}", " ", text)


def _receipt(value: Any) -> bool | Address:
    if isinstance(value, bool | Address):
        return value
    text = str(value or "").strip()
    if text.lower() in {"", "false", "no", "0"}:
        return False
    return True if text.lower() in {"true", "yes", "1"} else _addresses("read_receipt", text)[0]


def _checked_unsubscribe(value: Any) -> tuple[str, ...]:
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
            _one_line("unsubscribe", uri)
            if not _UNSUBSCRIBE.fullmatch(uri) or (uri.startswith("https:") and not urlsplit(uri).hostname):
                cause = f"unsubscribe: {shortened(uri)} is no https: or mailto: URI in plain ASCII."
                raise MessageError(
                    cause, "Percent-encode what is not ASCII; http: without TLS is not allowed (RFC 8058)."
                )
            found.append(uri)
    return tuple(found)


def _part(file: Attachment) -> mime.Part:
    return mime.Part(
        content=file.content,
        type=file.type,
        filename=file.name,
        content_id=file.content_id or "",
        transfer_encoding="7bit" if file.transfer_encoding == "none" else "base64",
        charset="utf-8" if file.type.lower().startswith("text/") and _is_utf8(file.content) else "",
    )


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


# ------------------------------------------------------------------------------- the connector's JSON

_CONNECTOR = ("To", "CC", "Bcc", "Subject", "Body", "From", "IsHtml", "Importance", "Attachments")
_CONNECTOR_FILE = ("ContentData", "ContentType", "ContentTransferEncoding", "FileName", "ContentId")


def _named(given: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the properties under their own names, case aside; refuse what is none."""
    if not isinstance(given, Mapping):
        raise MessageError(
            f"The connector's properties are a {type(given).__name__}, not a dict.", "json.loads() makes one."
        )
    by_lower = {n.lower(): n for n in names}
    found: dict[str, Any] = {}
    for name, value in given.items():
        own = by_lower.get(str(name).lower())
        if own is None:
            near = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.4)
            fix = f"Did you mean {by_lower[near[0]]!r}?" if near else f"It has {', '.join(names)}."
            raise MessageError(f"The connector has no property {name!r}.", fix)
        if own in found:
            raise MessageError(f"The property {own!r} is there twice.", "Keep one of them.")
        found[own] = value
    return found


def _truth(value: Any) -> bool:
    if isinstance(value, str):
        if value.strip().lower() not in {"true", "false", ""}:
            raise MessageError(f"IsHtml: {value!r} is neither true nor false.", "Write true or false.")
        return value.strip().lower() == "true"
    return bool(value)


def _connector_file(given: Any) -> Attachment:
    file = _named(given, _CONNECTOR_FILE)
    encoding = str(file.get("ContentTransferEncoding") or "base64").strip().lower()
    data = file.get("ContentData")
    name = file.get("FileName") or None
    if not isinstance(data, str):
        raise AttachmentError(
            f"The attachment {name or ''!r} has no ContentData.",
            "It is base64 text, or text with the encoding none.",
        )
    if encoding == "none":
        content = data.encode()
    elif encoding == "base64":
        content = _decoded(data, str(name or ""))
    else:
        raise AttachmentError(f"ContentTransferEncoding: {encoding!r} is neither base64 nor none.")
    plain = encoding == "none" and _plain_text(content)
    return Attachment(
        content,
        name,
        file.get("ContentType") or None,
        file.get("ContentId") or None,
        "none" if plain else "base64",
    )


def _plain_text(content: bytes) -> bool:
    """Tell whether content that came unencoded can also travel so."""
    try:
        Attachment(content, "x", "text/plain", None, "none")
    except AttachmentError:
        return False
    return True


def _decoded(data: str, name: str) -> bytes:
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        cause = f"The ContentData of {name!r} is not base64."
        raise AttachmentError(cause, "Encode it, or say ContentTransferEncoding: none for text.") from None


def _connector_json(file: Attachment) -> dict[str, str]:
    plain = file.transfer_encoding == "none"
    found = {
        "ContentData": file.content.decode() if plain else base64.b64encode(file.content).decode(),
        "ContentType": file.type,
        "ContentTransferEncoding": "none" if plain else "base64",
        "FileName": file.name,
    }
    return found | ({"ContentId": file.content_id} if file.content_id else {})


# ----------------------------------------------------------------------------------------- display


def _header_block(message: Message) -> list[tuple[str, str]]:
    rows = [
        ("From", str(message.from_ or "")),
        ("To", "; ".join(map(str, message.to))),
        ("Cc", "; ".join(map(str, message.cc))),
        ("Bcc", "; ".join(map(str, message.bcc))),
        ("Reply-To", "; ".join(map(str, message.reply_to))),
        ("Subject", message.subject),
        ("Importance", message.importance if message.importance != "normal" else ""),
        ("Attached", ", ".join(f"{a.name} ({_size(a.size)})" for a in message._sorted_files()[1])),  # noqa: SLF001 - the same module
        ("Note", "; ".join(message.warnings)),
    ]
    return [(name, value) for name, value in rows if value]


def _size(count: int) -> str:
    if count < 1024:  # noqa: PLR2004 - one kB
        return f"{count} B"
    return f"{count / 1024:,.0f} kB" if count < 2**20 else f"{count / 2**20:,.1f} MB"


def _preview_text(message: Message) -> str:
    head = "\n".join(f"{name}: {value}" for name, value in _header_block(message))
    return f"{head}\n\n{message.text or ''}"


def preview_html(message: Message, *, height: int = 420) -> str:
    """Return the mail as a reader sees it: its headers, and its body in an iframe that runs nothing.

    The iframe has neither scripts nor this page's origin, and loads nothing from elsewhere.
    """
    rows = "".join(
        f'<div style="display:flex;gap:8px"><span style="flex:0 0 84px;opacity:.72">{name}</span>'
        f"<span>{html.escape(value)}</span></div>"
        for name, value in _header_block(message)
    )
    document = message.html
    if document is None:
        document = f'<pre style="white-space:pre-wrap;font:14px/1.5 monospace;margin:16px">{html.escape(message.text or "")}</pre>'
    images = {a.content_id: a for a in message.inline}

    def shown(found: re.Match[str]) -> str:
        image = images.get(found[1])
        if image is None:
            return found[0]
        return f"data:{image.type};base64,{base64.b64encode(image.content).decode()}"

    return _html.card(
        f'<div style="padding:6px 0">{rows}</div>'
        + _html.frame(_CID.sub(shown, document), height=height, title="The mail's body")
    )
