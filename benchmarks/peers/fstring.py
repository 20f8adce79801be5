"""smtplib with a text put together by hand: what smtplib alone costs.

It builds no MIME: the parts' headers are a constant, nothing is encoded or checked, and a name with an umlaut
makes a header that the standard forbids.
"""

from __future__ import annotations

import contextlib
import smtplib
from collections.abc import Callable, Iterator

from drive import Job, Row, shared_out
from workload import SENDER, filled

MAIL = """\
From: {sender}
To: {to}
Subject: {subject}
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="=_parts"

--=_parts
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

{text}
--=_parts
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: 8bit

{html}
--=_parts--
"""


@contextlib.contextmanager
def opened(job: Job) -> Iterator[Callable[[Row], None]]:
    """Connect once, and send every mail over that."""
    with smtplib.SMTP("127.0.0.1", job.port, local_hostname="localhost") as server:

        def one(row: Row) -> None:
            subject, text, html = filled(row)
            mail = MAIL.format(sender=SENDER, to=row["email"], subject=subject, text=text, html=html)
            server.sendmail(SENDER, row["email"], mail.encode())

        yield one


def send(job: Job, rows: list[Row]) -> int:
    """Send *rows*; an error ends it."""
    return shared_out(rows, job.workers, lambda: opened(job))
