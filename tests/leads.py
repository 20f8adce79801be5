"""A source of leads for tests: rows that came one after another, read from a number on, with an overlap."""

from __future__ import annotations

from smtp_notebook.sources import Batch, Part


class Leads:
    """Leads with a cursor: how many rows there were.

    Attributes:
        rows: The leads, in the order in which they came; a test adds some.
        calls: What was called, in order.
        told: The keys of `sent`, each time they were told.
        at: What happens in a call, by its name, before it returns: a function.
    """

    key = ("Id",)

    def __init__(self, count=0, *, name="leads", overlap=2):
        self.name = name
        self.rows = [lead(number) for number in range(count)]
        self.calls, self.told, self.wanted = [], [], []
        self.at = {}
        self._overlap = overlap

    def add(self, *numbers, **cells):
        self.rows += [lead(number, **cells) for number in numbers]

    def begin(self, since):
        rows = [] if since == "all" else self.rows
        cursor = 0 if since == "all" else len(self.rows)
        return self._done("begin", Batch((Part("", list(rows)),), cursor))

    def read(self, cursor):
        rows = self.rows[max(0, cursor - self._overlap) :]
        return self._done("read", Batch((Part("", rows),) if rows else (), len(self.rows)))

    def again(self, wanted):
        self.wanted.append(wanted.keys)
        rows = [row for row in self.rows if wanted.key_of(row) in wanted.keys]
        return self._done("again", Batch((Part("", rows),) if rows else ()))

    def sent(self, outcomes, rows):
        keys = [outcome.key for outcome in outcomes]
        self.told.append((keys, dict(rows)))
        return self._done("sent", keys)

    def _done(self, what, result):
        self.calls.append(what)
        happens = self.at.get(what)
        if happens is not None:
            happens()
        return result


def lead(number, **cells):
    """Return one lead."""
    return {"Id": f"L{number}", "Email": f"u{number}@example.com", **cells}
