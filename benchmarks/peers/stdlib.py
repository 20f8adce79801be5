"""smtplib with email.message.EmailMessage: what Python brings. One connection for each thread."""

from __future__ import annotations

import contextlib
import smtplib
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from drive import Job, Row, shared_out
from workload import SENDER, filled


def message(row: Row, attachment: bytes) -> EmailMessage:
    """Return one mail, built as the library's documentation does."""
    mail = EmailMessage()
    subject, text, html = filled(row)
    mail["From"], mail["To"], mail["Subject"] = SENDER, row["email"], subject
    mail["Date"], mail["Message-ID"] = formatdate(localtime=True), make_msgid(domain="example.com")
    mail.set_content(text)
    mail.add_alternative(html, subtype="html")
    if attachment:
        mail.add_attachment(attachment, "application", "octet-stream", filename="report.bin")
    return mail


@contextlib.contextmanager
def opened(job: Job, attachment: bytes) -> Iterator[Callable[[Row], None]]:
    """Connect once, and send every mail over that."""
    with smtplib.SMTP("127.0.0.1", job.port, local_hostname="localhost") as server:
        yield lambda row: server.send_message(message(row, attachment)) and None


def send(job: Job, rows: list[Row]) -> int:
    """Send *rows*; an error ends it."""
    attachment = job.attached()
    return shared_out(rows, job.workers, lambda: opened(job, attachment))
