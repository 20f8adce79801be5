"""The press of a merge: a row in, a mail out that lacks only its Date and Message-ID.

A merge prints thousands of mails that differ in a few words. Everything they share is made once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from smtp_notebook.connection import Connection
from smtp_notebook.message import Message
from smtp_notebook.mime import stamp
from smtp_notebook.outcome import MessageError
from smtp_notebook.template import Template

__all__ = ["Press", "Printed", "refuse_leftover", "stamp", "with_sender"]

_LEFTOVER = re.compile(r"\{\{.{0,200}?\}\}|\{%.{0,200}?%\}", re.DOTALL)
_BOUNDARY = re.compile(rb'boundary="(=_[0-9a-f]{32})"')
#: Files and structures are kept up to this many bytes.
CACHE_BYTES = 64 * 2**20


class Printed(NamedTuple):
    """One row as a mail, all but its stamp (Date and Message-ID), ready for the wire.

    Attributes:
        recipients: The envelope's, as written on the wire; each once.
        sender: From's address, as written on the wire.
        smtputf8: Whether only a server with SMTPUTF8 can take it.
        chunks: The mail after its stamp: CRLF lines, the last one ended. A file that every row carries
            is the same object in each.
        size: Octets of the chunks together.
        digest: 16 bytes that tell mails apart: whatever a recipient would see, and the recipients;
            the same in every process.
        warnings: What a person may want to look at.
    """

    recipients: tuple[str, ...]
    sender: str
    smtputf8: bool
    chunks: tuple[bytes, ...]
    size: int
    digest: bytes
    warnings: tuple[str, ...]


class Press:
    """Prints the mails of one merge: compiled once, per row only what varies.

    Args:
        template: What each row fills.
        connection: Whose sender stands in for a missing From.
        values: More names for every row.
        cache_bytes: How much may be kept of files and structures.

    It is used from one thread at a time.
    """

    def __init__(
        self,
        template: Template,
        connection: Connection,
        *,
        values: Mapping[str, Any] | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._template = template
        self._connection = connection
        self._values = values
        self._cache_bytes = cache_bytes
        self.slow_rows = 0

    def recipients(self, cells: Mapping[str, Any]) -> tuple[str, ...]:
        """Return whom the row's mail goes to, as written on the wire.

        Raises:
            MailError: As from `print`.
        """
        return self.message(cells).recipients

    def print(self, cells: Mapping[str, Any]) -> Printed:
        """Return the row's mail.

        Raises:
            MailError: The row makes no mail that may be sent, and why.
        """
        self.slow_rows += 1
        message = self.message(cells)
        refuse_leftover(message, self._template)
        content = message.stamped().as_bytes().split(b"\r\n", 2)[2]
        sender = message.from_.wire if message.from_ is not None else ""
        return Printed(
            recipients=message.recipients,
            sender=sender,
            smtputf8=message.smtputf8,
            chunks=(content,),
            size=len(content),
            digest=_digest(message.recipients, content),
            warnings=message.warnings,
        )

    def message(self, cells: Mapping[str, Any]) -> Message:
        """Return the Message that a row makes, with a sender; for a look at it.

        Raises:
            MailError: The row makes no message, or one without recipient or sender.
        """
        message = self._template.fill(cells, values=self._values)
        if not message.recipients:
            cause = "There is no recipient."
            raise MessageError(cause, "Fill the address cell, or leave the row out.")
        return with_sender(message, self._connection)


def _digest(recipients: tuple[str, ...], content: bytes) -> bytes:
    state = hashlib.sha256("\n".join(recipients).encode())
    for boundary in _BOUNDARY.findall(content):
        content = content.replace(boundary, b"")
    state.update(b"\n\n" + content)
    return state.digest()[:16]


def with_sender(message: Message, connection: Connection) -> Message:
    """Return the message with the connection's sender when it names none.

    Raises:
        MessageError: Neither names one.
    """
    if message.from_ is not None:
        return message
    sender = connection.sender or (connection.user if "@" in connection.user else "")
    if not sender:
        cause = "The mail has no From address."
        raise MessageError(
            cause, "Give from_=, a from: line in the head, or connect(…, sender='you@example.com')."
        )
    return message.with_(from_=sender)


def refuse_leftover(message: Message, template: Template) -> None:
    """Refuse a mail that still has template text in it, which a cell brought along.

    Raises:
        MessageError: Where it stands.
    """
    if "{% raw %}" in template.source:
        return  # the author wants braces to arrive
    for name, text in (
        ("subject", message.subject),
        ("body", message.text or ""),
        ("body", message.html or ""),
    ):
        if found := _LEFTOVER.search(text):
            cause = f"The {name} still has {found[0][:60]!r} in it after the row filled it."
            raise MessageError(cause, "A cell holds template text; clean it.")
