"""A run of a campaign that a test takes step by step, and lets die."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from smtp_notebook import Connection, Journal, State, Template
from smtp_notebook.frames import Frame
from smtp_notebook.holder import Holder
from smtp_notebook.journal import Ledger
from smtp_notebook.preflight import Feed, Planned, Preflight
from smtp_notebook.press import Press
from smtp_notebook.roll import Roll

CONNECTION = Connection(host="localhost", port=25)


@dataclass
class Begun:
    """A campaign that was opened, planned and, as far as a window reaches, claimed."""

    journal: Journal
    ledger: Ledger
    rows: list[Planned]
    known: list

    def die(self):
        """End as a killed process does: the system drops its lock or connection, and nothing else happens."""
        if isinstance(self.ledger._holder, Holder):
            self.ledger._holder._file.close()
        else:
            cut(self.journal)
        self.journal.close()


def cut(journal):
    """Break the connection of a journal in PostgreSQL, as a killed client or a network does."""
    with socket.socket(fileno=os.dup(journal._store._session.connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


def begun(journal, data, campaign="c"):
    """Begin a run as `mail_merge` does, up to the first claimed window."""
    ledger = journal.begin(campaign, scope="s", sender="x", fingerprint="y")
    press = Press(Template("hi {{ Email }}", to="{{ Email }}", from_="me@example.com"), CONNECTION)
    frame = Frame(data)
    check = Preflight(press, CONNECTION, Roll(), earlier=None if ledger.empty else ledger.known)
    check.check(frame)
    for rows in check.roll.unplanned(1000):
        check.roll.note_records(ledger.plan(rows), rows)
    known = [o for o in check.roll.outcomes() if o.state is not State.PLANNED]
    return Begun(journal, ledger, Feed(frame, check, ledger, report=known.append).window(), known)
