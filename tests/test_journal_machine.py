"""The journal under any order of sending, refusing, crashing and resolving: nobody twice, no row lost.

A crash without power loss keeps what was committed. With power loss a file is put back to what it was at the last synced
commit, which is all that a disk owes us; PostgreSQL's tables to what they were when the last window was claimed, as on a
copy of the server that took over and had not got further.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import psycopg
import pytest
from begun import begun
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from journals import fresh

from smtp_notebook import Journal, State, postgres_store, sqlite_store
from smtp_notebook.places import given

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


class File:
    """A journal's file, and what its disk would give back after a power failure."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory()
        self.path = Path(self._folder.name) / "journal.sqlite3"
        self._disk = Path(self._folder.name) / "disk"
        self._boot = "first start"
        self._real = sqlite_store.boot_id, sqlite_store.SQLiteStore.write
        sqlite_store.boot_id = lambda: self._boot
        sqlite_store.SQLiteStore.write = self._keeping()

    def _keeping(disk):  # noqa: N805 - the store is self inside
        """Return a `write` that notes what the disk holds after each synced commit."""
        _, real = disk._real

        def write(self, change, *, synced, held=None):
            found = real(self, change, synced=synced, held=held)
            if synced:
                disk._disk.mkdir(exist_ok=True)
                for file in disk.path.parent.glob("journal.sqlite3*"):
                    if file.suffix != ".lock" and not file.name.endswith("-shm"):
                        shutil.copy(file, disk._disk / file.name)
            return found

        return write

    def exists(self):
        return self.path.exists()

    def fail(self):
        """The power fails."""
        self._boot += "'"
        for file in self.path.parent.glob("journal.sqlite3*"):
            if file.suffix != ".lock":
                file.unlink()
        for file in self._disk.iterdir():
            shutil.copy(file, self.path.parent / file.name)

    def close(self):
        sqlite_store.boot_id, sqlite_store.SQLiteStore.write = self._real
        self._folder.cleanup()


class Schema:
    """A journal in PostgreSQL, and a copy of the server that is behind by what came after the last claim."""

    TABLES = ("campaign", "numbering", "record", "claim", "intent", "holder")

    def __init__(self, server):
        self.path = fresh(server)
        self._copy = None
        self._real = postgres_store.PostgresStore.write
        postgres_store.PostgresStore.write = self._keeping()

    def _keeping(copy):  # noqa: N805 - the store is self inside
        """Return a `write` that notes what all tables hold after each commit that has to be synced."""
        real = copy._real

        def write(self, change, *, synced, held=None):
            found = real(self, change, synced=synced, held=held)
            # Intents and answers are synced too, but a server that takes over may not have got them.
            if synced and "_change" not in repr(change):
                with copy._connected() as db:
                    rows = {t: db.execute(f"SELECT * FROM {t}").fetchall() for t in copy.TABLES}
                copy._copy = rows
            return found

        return write

    def _connected(self):
        place = given(self.path)
        return psycopg.connect(**place.settings(), options=f"-csearch_path={place.schema}", autocommit=True)

    def exists(self):
        return self._copy is not None

    def fail(self):
        """Another server takes over: what it lacks is lost, and its timeline is another."""
        with self._connected() as db, db.transaction():
            db.execute(f"TRUNCATE {', '.join(self.TABLES)}")
            for table, rows in self._copy.items():
                for row in rows:
                    marks = ", ".join(["%s"] * len(row))
                    db.execute(f"INSERT INTO {table} VALUES ({marks})", row)
            db.execute("UPDATE claim SET boot = boot || 'before'")

    def close(self):
        postgres_store.PostgresStore.write = self._real


class Machine(RuleBasedStateMachine):
    """A merge whose process may end at any moment, and the server's own count of copies."""

    def __init__(self, disk):
        super().__init__()
        self.disk = disk
        self.path = self.disk.path
        self.loop = asyncio.new_event_loop()
        self.copies = dict.fromkeys((row["Email"] for row in ROWS), 0)
        self.run = None

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
            self.disk.fail()

    @precondition(lambda self: self.run is not None)
    @rule()
    def end(self):
        self.run.ledger.close()
        self.run.journal.close()
        self.run = None

    @precondition(lambda self: self.run is None and self.disk.exists())
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
        self.loop.close()
        self.disk.close()


def test_a_file_keeps_the_promise_whatever_happens():
    chosen = settings(max_examples=60, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(lambda: Machine(File()), settings=chosen)


@pytest.mark.parametrize("examples", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_postgresql_keeps_the_promise_whatever_happens(postgres, examples):
    chosen = settings(max_examples=examples, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(lambda: Machine(Schema(postgres)), settings=chosen)
