"""yagmail, which connects anew for every mail.

It takes no text part of one's own: the plain alternative is the HTML source again. ``prettify_html=False``
spares it premailer, which has nothing to do here and would take half of its time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import yagmail
from drive import Job, Row, shared_out
from workload import SENDER, filled


@contextlib.contextmanager
def opened(job: Job) -> Iterator[Callable[[Row], None]]:
    """Make a client; it connects at each mail."""
    client = yagmail.Client(
        SENDER,
        host="127.0.0.1",
        port=job.port,
        smtp_ssl=False,
        smtp_starttls=False,
        smtp_skip_login=True,
        local_hostname="localhost",
    )
    files = job.attachment or None

    def one(row: Row) -> None:
        subject, _, html = filled(row)
        one_line = html.replace("\n", " ")  # it would make each line break a <br>
        done = client.send(row["email"], subject, one_line, attachments=files, prettify_html=False)
        if done is False:
            msg = f"yagmail gave up on {row['email']}"
            raise RuntimeError(msg)

    with client:
        yield one


def send(job: Job, rows: list[Row]) -> int:
    """Send *rows*; an error ends it."""
    return shared_out(rows, job.workers, lambda: opened(job))
