"""python-emails, with one message and one connection for each thread, and its own Jinja2 templates."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import emails
from drive import Job, Row, shared_out
from emails.backend.smtp import SMTPBackend
from emails.template import JinjaTemplate
from workload import HTML, SENDER, SUBJECT, TEXT, jinja

ACCEPTED = 250


@contextlib.contextmanager
def opened(job: Job, attachment: bytes) -> Iterator[Callable[[Row], None]]:
    """Make the message once, and fill it for every row."""
    mail = emails.Message(
        subject=JinjaTemplate(jinja(SUBJECT)),
        text=JinjaTemplate(jinja(TEXT)),
        html=JinjaTemplate(jinja(HTML, escaped=True)),
        mail_from=SENDER,
    )
    if attachment:
        mail.attach(data=attachment, filename="report.bin")
    server = SMTPBackend(host="127.0.0.1", port=job.port, local_hostname="localhost", timeout=60)

    def one(row: Row) -> None:
        answer = mail.send(to=row["email"], render=row, smtp=server)
        if answer is None or answer.status_code != ACCEPTED:
            msg = f"python-emails: {answer and answer.error}"
            raise RuntimeError(msg)

    with server:
        yield one


def send(job: Job, rows: list[Row]) -> int:
    """Send *rows*; an error ends it."""
    attachment = job.attached()
    return shared_out(rows, job.workers, lambda: opened(job, attachment))
