"""smtp_notebook as a user calls it: preflight and journal on.

The option is ``html``, ``markdown`` or either with ``-practice``, which tells the library that nothing counts,
so that it keeps no journal.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from drive import Job, Row
from workload import HTML, MARKDOWN, SENDER, SUBJECT, jinja

from smtp_notebook import Connection, Template, mail_merge

BODIES = {"html": HTML, "markdown": MARKDOWN}


def prepared(rows: list[Row]) -> pd.DataFrame:
    """Return what a notebook has when the merge begins."""
    return pd.DataFrame(rows)


def send(job: Job, frame: pd.DataFrame) -> int:
    """Merge *frame*, as one campaign in a journal of its own."""
    kind, _, practice = job.option.partition("-")
    template = Template(body=jinja(BODIES[kind]), format=kind, subject=jinja(SUBJECT))
    fields: dict[str, Any] = {"attach": [job.attachment]} if job.attachment else {}
    via = Connection.from_url(f"smtp+plain://127.0.0.1:{job.port}", max_connections=job.workers)
    if practice:
        via = via.with_(practice=True)
    else:
        folder = Path(tempfile.mkdtemp(dir=job.folder))
        fields |= {"campaign": "renewals", "journal": folder / "journal.sqlite3"}
    report = mail_merge(frame, template, key="account", via=via, from_=SENDER, progress=False, **fields)
    return len(report.sent)
