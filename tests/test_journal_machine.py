"""The journal under any order of sending, refusing, crashing and resolving: nobody twice, no row lost."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from smtp_notebook import Connection, Journal, State, Template
from smtp_notebook import journal as journals
from smtp_notebook.merge import Frame, Preflight

FRAME = Frame([{"Email": f"u{i}@example.com"} for i in range(5)])
CHECK = {
    "template": Template("hi", to="{{ Email }}", from_="me@example.com"),
    "connection": Connection(host="localhost", port=25),
}
FATES = st.sampled_from(
    [
        "sent",
        "refused",
        "deferred",
        "crash before the intent",
        "crash after the intent",
        "crash after the dot",
    ]
)


class Machine(RuleBasedStateMachine):
    """A merge whose process may end at any moment, and the server's own count of copies."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "journal.sqlite3"
        self.loop = asyncio.new_event_loop()
        self.copies = dict.fromkeys((f"u{i}@example.com" for i in range(5)), 0)
        self.ledger = None
        self.boot = "first start"
        self.real_boot, journals._boot = journals._boot, lambda: self.boot
        self.due = []

    def run(self, work):
        return self.loop.run_until_complete(work)

    @precondition(lambda self: self.ledger is None)
    @rule()
    def begin(self):
        self.journal = Journal(self.path)
        self.ledger = self.journal.begin("c", scope="s", sender="x", fingerprint="y")
        self.due, known = self.ledger.due(list(Preflight(**CHECK).plan(FRAME).rows))
        assert len(self.due) + len(known) == len(FRAME), "a row was lost"
        for row in self.due:
            assert self.copies[row.key] == 0, "it would go twice"
        for outcome in known:
            if outcome.state is State.SKIPPED:
                assert self.copies[outcome.key] == 1, "it never went"

    @precondition(lambda self: self.ledger is not None and self.due)
    @rule(fate=FATES, pick=st.integers(0, 4))
    def attempt(self, fate, pick):
        row = self.due.pop(pick % len(self.due))
        if self.run(self.ledger.claim(row)) is not None:
            raise AssertionError("nobody else runs this campaign")
        row.attempts += 1
        if fate == "crash before the intent":
            self.crash(power=False)
            return
        self.run(self.ledger.intend(row))
        if fate == "crash after the intent":
            self.crash(power=False)
            return
        if fate in {"sent", "crash after the dot"}:
            self.copies[row.key] += 1
        if fate == "crash after the dot":
            self.crash(power=False)
            return
        state = State(fate)
        self.run(self.ledger.record(row, row.outcome(state)))
        if state is State.DEFERRED:
            self.due.append(row)

    @precondition(lambda self: self.ledger is not None)
    @rule(power=st.booleans())
    def crash(self, power):
        self.ledger._holder._file.close()  # what the system does for a dead process
        self.journal.close()
        self.ledger = None
        if power:
            self.boot += "'"

    @precondition(lambda self: self.ledger is not None)
    @rule()
    def end(self):
        self.ledger.close()
        self.journal.close()
        self.ledger = None

    @precondition(lambda self: self.ledger is None and self.path.exists())
    @rule(pick=st.integers(0, 4))
    def resolve(self, pick):
        """A person looks into the mailbox and says what is true."""
        journal = Journal(self.path)
        if journal.campaigns():
            doubts = journal.report("c").in_doubt
            if len(doubts):
                key = doubts[pick % len(doubts)].key
                journal.resolve("c", key, delivered=self.copies[key] == 1)
        journal.close()

    @invariant()
    def nobody_twice(self):
        assert max(self.copies.values()) <= 1

    def teardown(self):
        if self.ledger is not None:
            self.end()
        journals._boot = self.real_boot
        self.loop.close()
        self.folder.cleanup()


TestJournalMachine = Machine.TestCase
TestJournalMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
