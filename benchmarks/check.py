"""Look at what each sender really sends, before its speed is believed.

smtp-sink writes the mails to files; each is parsed and searched for the row's own values, in its text and in
its HTML. What a peer cannot do is said in the table.
"""

from __future__ import annotations

import html
import re
import subprocess
import tempfile
from collections.abc import Sequence
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import servers
import workload
from legs import HTML, MARKDOWN, NODE, Table
from measure import Bench, Conditions, Sender

SENDERS = (
    Sender(HTML, "ours", 1, 14, "html"),
    Sender(MARKDOWN, "ours", 1, 14, "markdown"),
    Sender(NODE, "nodemailer", 1, 14),
    Sender("smtplib", "stdlib", 1, 14),
    Sender("smtplib, f-string (no MIME)", "fstring", 1, 14),
    Sender("yagmail", "yag", 1, 14),
    Sender("redmail", "red_mail", 1, 14),
    Sender("python-emails", "python_emails", 1, 14),
    Sender("aiosmtplib", "async_smtp", 1, 14),
)
_VALUES = ("first", "company", "plan", "seats", "amount", "renews")


def check(bench: Bench) -> tuple[Table, int]:
    """Return what each sends, and how large the body of ours is."""
    rows, size = [], 0
    for sender in SENDERS:
        try:
            mails = _caught(bench, sender)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            bench.failed(sender.name, error)
            rows.append((sender.name, "failed", "", ""))
            continue
        sizes = sorted(len(m) for m in mails)
        faults = sorted({f for m in mails for f in _faults(m)})
        if len(mails) != sender.mails:
            faults.append(f"{len(mails)} of {sender.mails} mails arrived")
        if sender.peer == "ours" and faults:
            bench.failed(sender.name, "; ".join(faults))
        if sender.name == HTML:
            size = sizes[len(sizes) // 2] - mails[0].index(b"\r\n\r\n")
        rows.append(
            (sender.name, f"{sizes[len(sizes) // 2]:,}", _shape(mails[0]), "; ".join(faults) or "all")
        )
    heads = ("sender", "bytes of a mail", "parts", "personal values in subject, text and HTML")
    return Table("What each sends", heads, rows), size


def _caught(bench: Bench, sender: Sender) -> Sequence[bytes]:
    """Return the mails as they went over the wire, but for smtp-sink's own header."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        folder.chmod(0o777)  # smtp-sink is nobody, when root starts it
        with servers.sink(bench.folder, "-d", f"{folder}/mail.") as sink:
            bench.drive(sender, sink.port, Conditions(warm_up=0))
        found = [path.read_bytes() for path in sorted(folder.iterdir())]
    own = re.compile(rb"\A(X-[A-Za-z-]+: .*\n)+Received: .*\n(\s.*\n)*")
    return [own.sub(b"", mail).replace(b"\n", b"\r\n") for mail in found]


def _faults(raw: bytes) -> list[str]:
    mail = cast("EmailMessage", message_from_bytes(raw, policy=policy.default))
    row = _row_of(str(mail["To"]))
    wanted = [str(row[name]) for name in _VALUES]
    found = []
    if not raw.partition(b"\r\n\r\n")[0].isascii():
        found.append("a subject beyond ASCII is not encoded")
    elif str(mail["Subject"]) != workload.SUBJECT.format_map(row):
        found.append("values are missing in the subject")
    plain, rich = _part(mail, "plain"), _part(mail, "html")
    if "<p" in plain:
        found.append("the text is the HTML source")
    elif not all(value in plain for value in wanted):
        found.append("values are missing in the text")
    if not all(value in html.unescape(rich) for value in wanted) or str(row["account"]) not in rich:
        found.append("values are missing in the HTML")
    return found


def _row_of(to: str) -> dict[str, Any]:
    number = re.search(r"person\.(\d+)@", to)
    return workload.row(int(number[1]) if number else 0)


def _part(mail: EmailMessage, kind: str) -> str:
    """Return the text of a kind as one line, for a line may end anywhere."""
    part = mail.get_body(preferencelist=("plain",) if kind == "plain" else ("related", "html"))
    if part is not None and part.get_content_maintype() == "multipart":
        part = next((p for p in part.walk() if p.get_content_subtype() == kind), None)
    return " ".join(str(part.get_content()).split()) if part is not None else ""


def _shape(raw: bytes) -> str:
    """Return the tree of parts, such as ``alternative(plain, html)``."""

    def shape(part: Any) -> str:
        inner = [shape(p) for p in part.iter_parts()] if part.is_multipart() else []
        return (
            f"{part.get_content_subtype()}({', '.join(inner)})" if inner else str(part.get_content_subtype())
        )

    return shape(message_from_bytes(raw, policy=policy.default))
