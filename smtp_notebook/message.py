"""One mail as a frozen value, and the connector's JSON for it.

Nothing here touches a network; files are read only by `Attachment`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smtp_notebook import _html, fields, mime
from smtp_notebook.addresses import Address
from smtp_notebook.attachments import Attachment, files_of, named_properties, refuse_ambiguous, with_id
from smtp_notebook.event import FILE_NAME, Event, Invitation, checked_event
from smtp_notebook.letters import Theme, first_uri, letter_html, letter_text, theme_of
from smtp_notebook.outcome import MessageError

__all__ = [
    "Attachment",
    "Event",
    "Message",
    "calendar_parts",
    "each_once",
    "header_block",
    "images_of",
    "part_of",
    "preview_html",
]

_PRIORITY = {"high": ("high", "1", "High"), "low": ("low", "5", "Low")}
_TAG = re.compile(r"<[a-z][^<>]*cid:[^<>]*", re.IGNORECASE)
#: Where a tag loads what it names; a link to a cid: would be allowed to dangle.
_LOADED = re.compile(
    rf"(?:\s(?:src|background)\s*=\s*[\"']?|url\(\s*{_html.QUOTE}?)\s*{_html.CID.pattern}", re.IGNORECASE
)
_REMOTE = re.compile(r"""<img\s[^<>]*src\s*=\s*["']?\s*(?:https?:)?//""", re.IGNORECASE)
_SHOWN_RECIPIENTS = 3
#: About how many characters of a text fit beside each other in a notebook.
_PREVIEW_COLUMNS = 90


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
        unsubscribe: ``https:`` or ``mailto:`` URIs (RFC 2369); one-click (RFC 8058) with an https one. The letter's
            footer links to the first of the web.
        bulk: Whether it is one of many to people on a list. True demands one ``https:`` address in *unsubscribe*, as
            Google and Yahoo do of bulk mail; False refuses a list's headers. None: it is, where it has them.
        list_id: The mailing list (RFC 2919): ``News <news.example.com>``, or the identifier alone.
        feedback_id: What Gmail counts complaints by: up to three identifiers and the sender's own of 5 to 15
            characters, separated by colons (https://support.google.com/mail/answer/6254652).
        postal_address: The sender's, one line; the letter's footer shows it, and laws ask for it in advertising
            (15 U.S.C. 7704(a)(5)(A)(iii)).
        preheader: What inboxes show beside the subject; without it, the text's beginning.
        theme: What a Markdown body looks like: None for the default letter, ``"none"`` for the bare text, the path
            of a Jinja2 file with ``{{ content }}`` in it, or its text. HTML gets no theme but one that is named here.
        inline_css: Whether CSS is moved into style attributes, as several mail programs need it.
        event: An `Event` that the mail invites to (RFC 6047). From is its organizer, To and Cc are its
            attendees, unless it names others; it is also attached, as ``invite.ics``.
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
    bulk: bool | None
    list_id: str
    feedback_id: str
    postal_address: str
    preheader: str
    theme: Theme
    inline_css: bool
    event: Event | None
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
        bulk: bool | str | None = None,
        list_id: str | None = "",
        feedback_id: str | None = "",
        postal_address: str | None = "",
        preheader: str = "",
        theme: Theme | str | Path | bool | None = None,
        inline_css: bool | str = True,
        event: Event | None = None,
        attach_root: str | Path | None = None,
        date: dt.datetime | None = None,
        message_id: str = "",
        text: str | None = None,
        html: str | None = None,
        warnings: Iterable[str] = (),
        **others: Any,
    ) -> None:
        fields.check_field_names(others)
        root = Path(attach_root or ".").absolute()
        kind = fields.body_format(format, body)
        extra = headers.items() if isinstance(headers, Mapping) else tuple(headers or ())
        values: dict[str, Any] = {
            "to": fields.addresses("to", to),
            "cc": fields.addresses("cc", cc),
            "bcc": fields.addresses("bcc", bcc),
            "reply_to": fields.addresses("reply_to", reply_to),
            "from_": fields.sender(from_),
            "subject": fields.one_line("subject", "" if subject is None else subject).strip(),
            "body": fields.mail_text("body", body),
            "format": kind,
            "importance": fields.importance(importance),
            "attach": files_of(attach, root),
            "inline": tuple(with_id(a) for a in files_of(inline, root)),
            "headers": fields.header_pairs([*extra, *others.items()]),
            "read_receipt": fields.receipt(read_receipt),
            "unsubscribe": fields.unsubscribe_uris(unsubscribe),
            "bulk": fields.truth_or_none("bulk", bulk),
            "list_id": fields.list_id(list_id),
            "feedback_id": fields.feedback_id(feedback_id),
            "postal_address": fields.one_line("postal_address", postal_address or "").strip(),
            "preheader": fields.one_line("preheader", preheader or "").strip(),
            "theme": theme_of(theme, root),
            "inline_css": fields.truth("inline_css", inline_css),
            "event": checked_event(event),
            "date": fields.moment(date),
            "message_id": fields.message_id(message_id),
            "text": None if text is None else fields.mail_text("text", text),
            "html": None if html is None else fields.mail_text("html", html),
            "warnings": tuple(warnings),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        fields.check_bulk(self.bulk, self.unsubscribe, self.list_id, self.headers)
        self._convert()
        refuse_ambiguous((*self.inline, *self.attach))

    def _convert(self) -> None:
        """Make the text and HTML parts that were not given."""
        link = first_uri(self.unsubscribe)
        if self.html is None and self.format != "text":
            made = letter_html(
                self.body,
                self.format,
                self.theme,
                preheader=self.preheader,
                unsubscribe=link,
                postal_address=self.postal_address,
                inline=self.inline_css,
            )
            object.__setattr__(self, "html", made)
        if self.text is None:
            made = letter_text(self.body, self.format, self.theme, link, self.postal_address)
            object.__setattr__(self, "text", made)

    # ---------------------------------------------------------------------------------- derived

    def with_(self, **changes: Any) -> Message:
        """Return a copy with some fields changed; a new body is converted anew.

        Raises:
            MessageError: Also for a new body that plainly is HTML, as in the constructor.
        """
        fields.check_field_names(
            set(changes) - {"date", "message_id", "text", "html", "warnings", "attach_root"}
        )
        known = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if {
            "body",
            "format",
            "theme",
            "preheader",
            "unsubscribe",
            "postal_address",
            "inline_css",
        } & changes.keys():
            known |= {"text": None, "html": None}
        if "body" in changes and self.format == "markdown":
            known["format"] = None  # said of the old body, not of the new one
        return Message(**(known | changes))

    @property
    def recipients(self) -> tuple[str, ...]:
        """The envelope's recipients as written on the wire: To, Cc and Bcc, each address once."""
        return each_once(a.wire for a in (*self.to, *self.cc, *self.bcc))

    @property
    def is_bulk(self) -> bool:
        """Whether it is bulk mail: as *bulk* says, else whether it has a mailing list's headers."""
        return fields.check_bulk(self.bulk, self.unsubscribe, self.list_id, self.headers)

    @property
    def smtputf8(self) -> bool:
        """Whether only a server with SMTPUTF8 can take it (RFC 6531)."""
        one = [a for a in (self.from_, self.read_receipt) if isinstance(a, Address)]
        every = (*self.to, *self.cc, *self.bcc, *self.reply_to, *one)
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
            MessageError: It has no sender, cannot be written so that it reads back the same, or its event
                has nobody to invite.
        """
        return mime.to_bytes(self.draft())

    def save(self, path: str | Path) -> Path:
        """Write the mail to a file (``.eml``), which mail programs open, and return its path."""
        target = Path(path)
        target.write_bytes(self.as_bytes())
        return target

    def draft(self) -> mime.Draft:
        """Return the mail as `mime` takes it, stamped; see `as_bytes`."""
        if self.from_ is None:
            raise MessageError("The mail has no From address.", "Give from_='you@example.com'.")
        stamped = self.stamped()
        inline, attach = self._sorted_files()
        self._refuse_dangling(inline)
        receipt = self.from_ if self.read_receipt is True else self.read_receipt
        invitation = self._invitation()
        shown, *copies = calendar_parts(invitation) if invitation is not None else (None,)
        return mime.Draft(
            from_=self.from_,
            to=self.to,
            cc=self.cc,
            reply_to=self.reply_to,
            receipt_to=(receipt,) if receipt else (),
            subject=self.subject,
            date=stamped.date or dt.datetime.now(dt.UTC),
            message_id=stamped.message_id,
            headers=(*self._special_headers(), *self.headers),
            text=self.text,
            html=self.html,
            inline=tuple(part_of(a) for a in inline),
            calendar=shown,
            attachments=(*(part_of(a) for a in attach), *copies),
        )

    def _invitation(self) -> Invitation | None:
        if self.event is None:
            return None
        return self.event.invitation(organizer=self.from_, to=self.to, cc=self.cc)

    def _sorted_files(self) -> tuple[list[Attachment], list[Attachment]]:
        """Return the images that the HTML shows, and everything else, each file once.

        An inline part that nothing refers to would be invisible in many mail programs, so it becomes
        an attachment; an attachment that the HTML shows becomes a part beside it.
        """
        shown = _html.cids(self.html)
        inline = [a for a in dict.fromkeys((*self.inline, *self.attach)) if a.content_id in shown]
        rest = [a for a in dict.fromkeys(self.inline) if a.content_id not in shown]
        return inline, [*rest, *(a for a in self.attach if a.content_id not in shown)]

    def _refuse_dangling(self, inline: Iterable[Attachment]) -> None:
        """Refuse HTML that shows an image which is not there: every reader would see a broken one."""
        known = {a.content_id for a in inline}
        for tag in _TAG.finditer(self.html or ""):
            for found in _LOADED.finditer(tag[0]):
                identifier = _html.plain_cid(found[1])
                if identifier not in known:
                    cause = f"The body shows cid:{identifier}, but no inline image has that Content-ID."
                    raise MessageError(
                        cause, f"Give inline=[Attachment(…, content_id={identifier!r})], or drop the image."
                    )

    def _special_headers(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        if self.importance in _PRIORITY:
            importance, priority, microsoft = _PRIORITY[self.importance]
            found += [("Importance", importance), ("X-Priority", priority), ("X-MSMail-Priority", microsoft)]
        if self.list_id:
            found.append(("List-Id", self.list_id))
        if self.unsubscribe:
            found.append(("List-Unsubscribe", ", ".join(f"<{u}>" for u in self.unsubscribe)))
            if fields.one_click(self.unsubscribe):
                found.append(("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"))
        if self.feedback_id:
            found.append(("Feedback-ID", self.feedback_id))
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
        given = named_properties(properties, _CONNECTOR)
        body = given.get("Body")
        body = "" if body is None else fields.mail_text("Body", body)
        files = [Attachment.from_connector(a) for a in _listed(given.get("Attachments"))]
        shown = _html.cids(body)
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
        """Return the connector's JSON for this mail; Markdown goes as the HTML that it becomes.

        What the connector has no property for (Reply-To, further headers, receipts, what makes it a list's) is
        left out; an event goes as an attachment.

        Raises:
            MessageError: The event has no organizer or nobody to invite; see `Event.as_ics`.
        """
        invitation = self._invitation()
        invite = [] if invitation is None else [_attached(invitation)]
        found: dict[str, Any] = {
            "To": "; ".join(map(str, self.to)),
            "CC": "; ".join(map(str, self.cc)),
            "Bcc": "; ".join(map(str, self.bcc)),
            "Subject": self.subject,
            "Body": self.body if self.format != "markdown" else self.html,
            "From": str(self.from_ or ""),
            "IsHtml": self.format != "text",
            "Importance": self.importance.capitalize(),
            "Attachments": [a.to_connector() for a in (*self.inline, *self.attach, *invite)],
        }
        return {k: v for k, v in found.items() if v not in ("", []) or k in {"To", "Subject", "Body"}}

    # --------------------------------------------------------------------------------- display

    def __repr__(self) -> str:
        files = len(self.inline) + len(self.attach)
        more = f", {files} file{'s' if files > 1 else ''}" if files else ""
        more += ", an event" if self.event is not None else ""
        rest = len(self.to) - _SHOWN_RECIPIENTS
        to = ", ".join(map(str, self.to[:_SHOWN_RECIPIENTS])) + (f" and {rest} more" if rest > 0 else "")
        return f"<Message {self.subject!r} to {to or 'nobody'}{more}>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/plain": _preview_text(self), "text/html": preview_html(self)}


def each_once(wires: Iterable[str]) -> tuple[str, ...]:
    """Return addresses as written on the wire, each once, whatever the case of its local part."""
    found: dict[tuple[str, str], str] = {}
    for wire in wires:
        local, _, domain = wire.rpartition("@")
        found.setdefault((local.casefold(), domain), wire)
    return tuple(found.values())


# ---------------------------------------------------------------------------------------- the parts


def part_of(file: Attachment) -> mime.Part:
    """Return a file as `mime` takes it."""
    return mime.Part(
        content=file.content,
        type=file.type,
        filename=file.name,
        content_id=file.content_id or "",
        transfer_encoding="7bit" if file.transfer_encoding == "none" else "base64",
        charset="utf-8" if _is_utf8_text(file) else "",
    )


def calendar_parts(invitation: Invitation) -> tuple[mime.Part, mime.Part]:
    """Return an invitation twice: for those who show it, and as a file for those who do not.

    Both are what Google's own mails have, and nodemailer's (https://nodemailer.com/message/calendar-events/).
    The ``method`` has to be the one inside (RFC 6047, 2.4): Outlook refuses the mail otherwise.
    """
    content, method, identity = invitation
    kind = f"text/calendar; method={method}"
    shown = mime.Part(content=content, type=kind, charset="utf-8", identity=identity)
    return shown, mime.Part(content=content, type=_ICS, filename=FILE_NAME, identity=identity)


_ICS = "application/ics"


def _attached(invitation: Invitation) -> Attachment:
    kind = f"text/calendar; method={invitation.method}; charset=utf-8"
    return Attachment(invitation.content, FILE_NAME, kind)


def _is_utf8_text(file: Attachment) -> bool:
    kind, parameters = mime.parameters_of(file.type)
    if not kind.startswith("text/") or "charset" in parameters:
        return False
    try:
        file.content.decode()
    except UnicodeDecodeError:
        return False
    return True


# ------------------------------------------------------------------------------- the connector's JSON

_CONNECTOR = ("To", "CC", "Bcc", "Subject", "Body", "From", "IsHtml", "Importance", "Attachments")


def _truth(value: Any) -> bool:
    if isinstance(value, str):
        if value.strip().lower() not in {"true", "false", ""}:
            raise MessageError(f"IsHtml: {value!r} is neither true nor false.", "Write true or false.")
        return value.strip().lower() == "true"
    return bool(value)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise MessageError(
            f"Attachments: this is of type {type(value).__name__}, not a list.", "Give a list of objects."
        )
    return list(value)


# ----------------------------------------------------------------------------------------- display


def header_block(message: Message) -> list[tuple[str, str]]:
    """Return what a reader sees above the body: name and value, only those that there are."""
    rows = [
        ("From", str(message.from_ or "")),
        ("To", "; ".join(map(str, message.to))),
        ("Cc", "; ".join(map(str, message.cc))),
        ("Bcc", "; ".join(map(str, message.bcc))),
        ("Reply-To", "; ".join(map(str, message.reply_to))),
        ("Subject", message.subject),
        ("Event", message.event.line if message.event is not None else ""),
        ("Importance", message.importance if message.importance != "normal" else ""),
        ("Attached", ", ".join(f"{a.name} ({_size(a.size)})" for a in message._sorted_files()[1])),  # noqa: SLF001 - the same module
        ("Note", "; ".join([*message.warnings, *_remote_note(message)])),
    ]
    return [(name, value) for name, value in rows if value]


def _size(count: int) -> str:
    if count < 1024:  # noqa: PLR2004 - one kB
        return f"{count} B"
    return f"{count / 1024:,.0f} kB" if count < 2**20 else f"{count / 2**20:,.1f} MB"


def _remote_note(message: Message) -> list[str]:
    return (
        ["images from the web are not loaded in this preview"] if _REMOTE.search(message.html or "") else []
    )


def _preview_text(message: Message) -> str:
    head = "\n".join(f"{name}: {value}" for name, value in header_block(message))
    return f"{head}\n\n{message.text or ''}"


def images_of(message: Message) -> dict[str | None, tuple[str, bytes]]:
    """Return media type and octets of each image of a mail, by its Content-ID."""
    return {
        a.content_id: (mime.parameters_of(a.type)[0], a.content)
        for a in (*message.inline, *message.attach)
        if a.type.lower().startswith("image/")
    }


def preview_html(message: Message, *, height: int = 420) -> str:
    """Return the mail as a reader sees it: its headers, and its body in an iframe that runs nothing.

    The iframe has neither scripts nor this page's origin, and loads nothing from elsewhere.

    Args:
        message: The mail; it needs no sender.
        height: Of the body, in CSS pixels; a short text takes less.
    """
    rows = "".join(
        f'<div style="display:flex;gap:8px"><span style="flex:0 0 84px;opacity:.72">{name}</span>'
        f'<span style="min-width:0{";font-weight:600" if name == "Subject" else ""}">{html.escape(value)}</span></div>'
        for name, value in header_block(message)
    )
    document = message.html
    if document is None:
        text = message.text or ""
        document = _html.plain(text)
        lines = sum(1 + len(line) // _PREVIEW_COLUMNS for line in text.splitlines())
        height = min(height, 40 + 21 * max(lines, 2))
    body = _html.frame(
        _html.with_images(document, images_of(message).get), height=height, title="The mail's body"
    )
    return _html.card(f'<div style="padding:6px 0">{rows}</div>{body}')
