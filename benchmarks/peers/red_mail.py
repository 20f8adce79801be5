"""redmail, with its connection kept and its own Jinja2 templates in files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from drive import Job, Row, shared_out
from redmail import EmailSender
from workload import HTML, SENDER, SUBJECT, TEXT, jinja

FILES = {"renewal.txt": jinja(TEXT), "renewal.html": jinja(HTML, escaped=True)}


@contextlib.contextmanager
def opened(job: Job, attachment: bytes) -> Iterator[Callable[[Row], None]]:
    """Connect once; ``with`` keeps the connection, and gives back None."""
    sender = EmailSender("127.0.0.1", job.port, use_starttls=False, local_hostname="localhost")
    sender.set_template_paths(text=job.folder, html=job.folder)  # from files, it compiles a template once
    files = {"report.bin": attachment} if attachment else None
    with sender:
        yield (
            lambda row: (
                sender.send(
                    subject=SUBJECT.format_map(row),
                    sender=SENDER,
                    receivers=[row["email"]],
                    text_template="renewal.txt",
                    html_template="renewal.html",
                    body_params=row,
                    attachments=files,
                )
                and None
            )
        )


def send(job: Job, rows: list[Row]) -> int:
    """Send *rows*; an error ends it."""
    attachment = job.attached()
    for name, source in FILES.items():
        (Path(job.folder) / name).write_text(source, encoding="utf-8")
    return shared_out(rows, job.workers, lambda: opened(job, attachment))
