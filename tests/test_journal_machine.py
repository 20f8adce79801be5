"""The journal under any order of sending, refusing, crashing and resolving: nobody twice, no row lost.

A crash without power loss keeps what was committed. With power loss the files are put back to what they were
at the last synced commit, which is all that a disk owes us.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path

from begun import begun
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from smtp_notebook import Journal, State
from smtp_notebook import journal as journals

ROWS = [{"Email": f"u{i}@example.com"} for i in range(5)]
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
        self.disk = Path(self.folder.name) / "disk"
        self.loop = asyncio.new_event_loop()
        self.copies = dict.fromkeys((row["Email"] for row in ROWS), 0)
        self.run = None
        self.boot = "first start"
        self.real = journals.boot_id, Journal._writing
        journals.boot_id = lambda: self.boot
        Journal._writing = self.keeping()

    def keeping(machine):  # noqa: N805 - the journal is self inside
        """Return a `_writing` that notes what the disk holds after each synced commit."""
        _, real = machine.real

        @contextlib.contextmanager
        def writing(self, *, synced):
            with real(self, synced=synced) as db:
                yield db
            if synced:
                machine.disk.mkdir(exist_ok=True)
                for file in machine.path.parent.glob("journal.sqlite3*"):
                    if file.suffix != ".lock" and not file.name.endswith("-shm"):
                        shutil.copy(file, machine.disk / file.name)

        return writing

    def wait(self, work):
        return self.loop.run_until_complete(work)

    @precondition(lambda self: self.run is None)
    @rule()
    def begin(self):
        self.run = begun(Journal(self.path), ROWS)
        assert len(self.run.rows) + len(self.run.known) == len(ROWS), "a row was lost"
        for row in self.run.rows:
            assert self.copies[row.key] == 0, "it would go twice"
        for outcome in self.run.known:
            if outcome.state is State.SKIPPED:
                assert self.copies[outcome.key] == 1, "it never went"

    @precondition(lambda self: self.run is not None and self.run.rows)
    @rule(fate=FATES, pick=st.integers(0, 4), power=st.booleans())
    def attempt(self, fate, pick, power):
        row = self.run.rows.pop(pick % len(self.run.rows))
        row.attempts += 1
        if fate == "crash before the intent":
            self.crash(power)
            return
        self.wait(self.intend(row))
        if fate == "crash after the intent":
            self.crash(power)
            return
        if fate in {"sent", "crash after the dot"}:
            self.copies[row.key] += 1
        if fate == "crash after the dot":
            self.crash(power)
            return
        self.wait(self.record(row, State(fate)))
        if fate == "deferred":
            self.run.ledger.arm([row])
            self.run.rows.append(row)

    async def intend(self, row):
        await self.run.ledger.intend(row)

    async def record(self, row, state):
        done = asyncio.get_running_loop().create_future()
        self.run.ledger.record(row, row.columns(state), done.set_result)
        assert await done is None

    @precondition(lambda self: self.run is not None)
    @rule(power=st.booleans())
    def crash(self, power):
        self.run.die()
        self.run = None
        if power:
            self.boot += "'"
            for file in self.path.parent.glob("journal.sqlite3*"):
                if file.suffix != ".lock":
                    file.unlink()
            for file in self.disk.iterdir():
                shutil.copy(file, self.path.parent / file.name)

    @precondition(lambda self: self.run is not None)
    @rule()
    def end(self):
        self.run.ledger.close()
        self.run.journal.close()
        self.run = None

    @precondition(lambda self: self.run is None and self.path.exists())
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
        if self.run is not None:
            self.end()
        journals.boot_id, Journal._writing = self.real
        self.loop.close()
        self.folder.cleanup()


TestJournalMachine = Machine.TestCase
TestJournalMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
