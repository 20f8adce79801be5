"""One run of one campaign: what it plans and claims, and for each row the intent and the answer.

A row is *planned* when the merge begins, *claimed* in a window of rows by a synced commit, *intended* by a commit
before its final dot leaves, and answered by a commit after the reply. An intent is a compare-and-swap on the record as
this run knows it: nothing changed, no dot.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from smtp_notebook import entries
from smtp_notebook.entries import UPDATE
from smtp_notebook.outcome import JournalError, MergeRefusedError, Outcome, State
from smtp_notebook.records import COLUMNS
from smtp_notebook.schema import INSERT, checksum, key_hash, record_sum
from smtp_notebook.standing import Known, Terms, ranges
from smtp_notebook.store import Database, Held, Store, taken_over

__all__ = ["Columns", "Ledger", "PassingJournal", "Row", "Then"]

#: Answers are synced when they are this old, in seconds, if no window was armed since.
SYNC_SECONDS = 1.0
#: The compare-and-swap of an intent: the record is as this run knows it, and nobody else has intended it so.
_INTEND = (
    "INSERT INTO intent (id, seq, run, sum) SELECT id, seq, ?, ? FROM record WHERE id=? AND seq=? "
    "ON CONFLICT (id) DO UPDATE SET seq=excluded.seq, run=excluded.run, sum=excluded.sum "
    "WHERE intent.seq < excluded.seq"
)
_MOMENT = 0.001
#: So many turns a change waits for others to share its commit; a turn takes microseconds where nothing happens.
_TURNS = 3

Columns = tuple[Any, ...]
Then = Callable[[BaseException | None], None]


class Row(Protocol):
    """A row of a merge, as the journal wants it."""

    position: int | None
    key: str
    digest: bytes
    accepted: tuple[str, ...]
    record: int
    seq: int

    def outcome(self, state: State, **more: Any) -> Outcome:
        """Return an Outcome of this row."""
        ...

    def columns(self, state: State) -> Columns:
        """Return such an Outcome as the values of `records.COLUMNS`."""
        ...


class PassingJournal:
    """A journal that remembers nothing, for sends that count for nobody: the sandbox, tests, a redirect."""

    def __repr__(self) -> str:
        return "<PassingJournal>"

    def arm(self, rows: Sequence[Row]) -> None:
        """Take rows."""

    async def intend(self, row: Row) -> None:
        """Record that the final dot is about to leave."""

    def record(self, row: Row, columns: Columns, then: Then) -> None:  # noqa: ARG002
        """Record what happened."""
        then(None)

    def close(self) -> None:
        """Do nothing: nothing was opened."""


@dataclass(slots=True)
class _Write:
    """One change that waits for its commit: an answer's columns, or None for an intent.

    *seq* is how often the record had been written before.
    """

    id: int
    seq: int
    change: tuple[Any, ...] | None
    then: Then


class Ledger:
    """One run of one campaign: plan, claims, intents and answers; satisfies `merge.Journal`.

    `plan`, `arm` and `close` block for the database and belong on the calling thread; `intend` and `record` on the
    loop of the run, where those of a few turns share a commit. Where a commit takes long, it is made in a thread, and
    what comes meanwhile shares the next one.

    Args:
        store: The journal's.
        number: The campaign's number there.
        version: Which of its versions is sent.
        run: The number of this run.
        held: What keeps others from sending it; None for a single mail, which is nobody's.
        terms: What it agrees on with earlier runs.
    """

    def __init__(
        self, store: Store, number: int, version: int, run: int, held: Held | None, terms: Terms | None = None
    ) -> None:
        self.version = version
        self._terms = terms
        self._store = store
        self._number = number
        self._holder = held
        self._run = run
        self._me = store.me
        self._open: set[int] = set()
        self._pending: list[_Write] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._under_way: asyncio.Future[Any] | None = None
        self._unsynced_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._failed = False
        self._ahead: dict[str, Sequence[Any]] = {}
        self._last = 0
        self.empty = not store.all("SELECT 1 FROM record WHERE campaign=? LIMIT 1", number)

    def __repr__(self) -> str:
        return f"<Ledger of run {self._run:x}: {len(self._open)} without an answer>"

    @property
    def number(self) -> int:
        """The campaign's number in the journal."""
        return self._number

    @property
    def run(self) -> int:
        """The number of this run, by which others join it."""
        return self._run

    def hold_on(self) -> None:
        """Make sure that the campaign is held, also where nothing is written for long.

        Raises:
            MergeRefusedError: Another run has it by now.
        """
        self._store.write(lambda _: None, synced=False, held=self._holder)

    @property
    def held(self) -> Held | None:
        """What keeps others from sending the campaign."""
        return self._holder

    def ask_to_stop(self) -> None:
        """Have those who joined this run end in order; from any thread."""
        assert self._holder is not None
        self._store.ask_to_stop(self._holder)

    def stopping(self) -> bool | None:
        """Tell whether the run that was joined is to end; see `store.Store.stopping`."""
        assert self._holder is not None
        return self._store.stopping(self._holder)

    def known(self, key: str) -> Known | None:
        """Return what is known of a row from earlier runs; of use before this one claims any."""
        if self.empty:
            return None
        record = self._ahead.pop(key, None)
        if record is not None:
            known: Known | None = entries.checked(self._store, record)
        else:
            known = entries.known(self._store, self._number, key)
            if known is not None and known.id == self._last + 1 and not self._store.inline:
                # The frame has the order of the plan: a network need not be crossed for each row.
                self._ahead = entries.behind(self._store, self._number, known.id)
        if known is not None:
            self._last = known.id
        return known

    # ------------------------------------------------------------------------------- plan and claims

    def adopt(self) -> None:
        """Have the campaign go on with the template, From and server of this run: it was not refused."""
        if (terms := self._terms) is None:
            return

        def change(db: Database) -> None:
            db.execute(
                "UPDATE campaign SET scope=?, sender=?, fingerprint=?, keys=?, version=? WHERE id=?",
                (*terms, self.version, self._number),
            )

        self._store.write(change, synced=False, held=self._holder)

    def plan(self, rows: Sequence[Columns]) -> int:
        """Write rows that no earlier run planned; return the number of the first one's record, others follow.

        Args:
            rows: For each its key, position, digest and the values of `records.COLUMNS`.
        """
        new = [(key_hash(row[0]), row) for row in rows]
        return self._store.write(lambda db: self._insert(db, new), synced=False, held=self._holder)

    def _insert(self, db: Database, rows: Sequence[tuple[int, Columns]]) -> int:
        # Never a number that a forgotten campaign had.
        first = self._store.numbers(db, len(rows))
        records = []
        for number, (hashed, (key, position, digest, *columns)) in enumerate(rows, first):
            values = (number, key, 1, self.version, digest, "", position, *columns)
            records.append((self._number, hashed, *values, record_sum(values)))
        db.executemany(INSERT, records)
        db.execute("UPDATE campaign SET rows = rows + ? WHERE id=?", (len(records), self._number))
        return first

    def note(self, rows: Sequence[Columns]) -> None:
        """Write how rows stand that this run does not send.

        Args:
            rows: For each its record and how often that was written, 0 and 0 for a row that no earlier run wrote; then
                as in `plan`. A record that says the same already is left as it is. A row that is skipped is written as
                planned: it is due once what keeps it back is lifted.
        """
        state, reason = (5 + COLUMNS.index(name) for name in ("state", "reason"))
        rows = [_due_later(row, state) for row in rows]
        new = [(key_hash(row[2]), row[2:]) for row in rows if not row[0]]

        def change(db: Database) -> None:
            self._insert(db, new)
            for number, seq, key, position, digest, *columns in (row for row in rows if row[0]):
                stands = db.execute("SELECT state, reason FROM record WHERE id=?", (number,)).fetchone()
                row = (number, seq, key, position, digest, *columns)
                if stands == (row[state], row[reason]):
                    continue
                values = (number, key, seq + 1, self.version, digest, "", position, *columns)
                db.execute(UPDATE, (*values[2:], record_sum(values), number, seq))

        self._store.write(change, synced=False, held=self._holder)

    def arm(self, rows: Sequence[Row]) -> None:
        """Claim rows by one synced commit: after power loss these may have gone."""
        self._store.write(lambda db: self._claim(db, rows), synced=True, held=self._holder)
        self._unsynced_since = 0.0

    def _claim(self, db: Database, rows: Sequence[Row]) -> None:
        text = ranges((row.record, row.seq) for row in rows)
        claim = (self._number, self._run, self._store.era, self._store.me, text, checksum((text,)))
        db.execute("INSERT INTO claim (campaign, run, boot, pid, rows, sum) VALUES (?, ?, ?, ?, ?, ?)", claim)
        db.execute("UPDATE campaign SET running=1 WHERE id=? AND running=0", (self._number,))

    def arm_single(self, db: Database, row: Row, hashed: int) -> None:
        """Plan and claim the one mail of this ledger, inside its journal's transaction."""
        row.record = self._insert(
            db, [(hashed, (row.key, row.position, row.digest, *row.columns(State.PLANNED)))]
        )
        row.seq = 1
        self._claim(db, [row])

    # ------------------------------------------------------------------------------ intents and answers

    def intend(self, row: Row) -> Awaitable[None]:
        """Record that the final dot is about to leave; that is so when what is returned has been awaited.

        Raises:
            MergeRefusedError: When awaited: the row is not this run's any more; no dot may leave.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._enqueue(_Write(row.record, row.seq, None, functools.partial(_settle, done)))
        return done

    def record(self, row: Row, columns: Columns, then: Then) -> None:
        """Record what happened, and call *then* when it is recorded, or with the error that prevented it."""
        before = row.seq
        row.seq += 1
        values = self._values(row, columns)
        self._enqueue(_Write(row.record, before, (*values[2:], record_sum(values)), then))

    def _enqueue(self, write: _Write) -> None:
        self._pending.append(write)
        if len(self._pending) == 1 and self._under_way is None:
            self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._gather, _TURNS)

    def _values(self, row: Row, columns: Columns) -> tuple[Any, ...]:
        """Return the record of a row: `FIELDS`."""
        accepted = "\n".join(row.accepted)
        return (row.record, row.key, row.seq, self.version, row.digest, accepted, row.position, *columns)

    def _gather(self, turns: int) -> None:
        """Write what waits some turns of the loop later, so that what other connections hear meanwhile shares it."""
        assert self._loop is not None
        if turns:
            self._loop.call_soon(self._gather, turns - 1)
        else:
            self.flush()

    def flush(self) -> None:
        """Write what waits as one commit; while a window is being claimed it waits a moment longer."""
        if not self._pending or self._under_way is not None:
            return
        if not self._store.inline:
            self._commit_elsewhere()
            return
        if not self._store.lock.acquire(blocking=False):
            if self._loop is not None:
                self._loop.call_later(_MOMENT, self.flush)
            return
        try:
            self._commit()
        finally:
            self._store.lock.release()

    def _commit(self) -> None:
        pending, self._pending = self._pending, []
        now = time.monotonic()
        self._unsynced_since = self._unsynced_since or now
        synced = now - self._unsynced_since >= SYNC_SECONDS
        error, lost = self._written(pending, synced=synced)
        if synced and error is None:
            self._unsynced_since = 0.0
        elif self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(SYNC_SECONDS, self._sync)
        _tell(pending, error, lost)

    def _commit_elsewhere(self) -> None:
        """Write what waits in a thread; what comes until that is done is written behind it."""
        assert self._loop is not None
        pending, self._pending = self._pending, []
        try:
            work = functools.partial(self._written, pending, synced=True)
            self._under_way = self._loop.run_in_executor(None, work)
        except RuntimeError as error:  # the interpreter ends, and begins no thread any more
            _tell(pending, error, set())
            return
        self._under_way.add_done_callback(functools.partial(self._committed, pending))

    def _committed(self, pending: Sequence[_Write], done: asyncio.Future[Any]) -> None:
        self._under_way = None
        if done.cancelled():
            # Nobody cancels it but a loop that ends. What was committed is known to the next run.
            self._failed = True
            cause = "The event loop ended before the journal was written."
            _tell(pending, JournalError(cause, "Run the cell again: it goes on where it stopped."), set())
            return
        _tell(pending, *done.result())
        if self._pending:
            self._gather(0)

    def _written(self, pending: Sequence[_Write], *, synced: bool) -> tuple[BaseException | None, set[int]]:
        """Make one commit of what waited; return the error, and the records that are not this run's any more."""
        try:
            change = functools.partial(self._change, pending=pending)
            return None, self._store.write(change, synced=synced, held=self._holder)
        except Exception as failure:  # noqa: BLE001 - each waiting row has to hear of it, or it would hang
            self._failed = True
            return failure, set()

    def _change(self, db: Database, pending: Sequence[_Write]) -> set[int]:
        """Write the changes; return the records that are not this run's any more."""
        answers = [(*w.change, w.id, w.seq) for w in pending if w.change is not None]
        intents = [w for w in pending if w.change is None]
        changed = 0
        if answers:
            changed += db.executemany(UPDATE, answers).rowcount
            self._open.difference_update(w.id for w in pending if w.change is not None)
        if intents:
            self._refuse_another_session()
            run = self._run
            marks = [(run, checksum((w.id, w.seq, run)), w.id, w.seq) for w in intents]
            changed += db.executemany(_INTEND, marks).rowcount
            self._open.update(w.id for w in intents)
        if changed == len(pending):
            return set()
        return {w.id for w in pending if not self._stands(db, w)}

    def _refuse_another_session(self) -> None:
        """Refuse the intent of a single mail whose session ended: others may take it for dead, and send it."""
        if self._holder is None and self._store.me != self._me:
            cause = "The connection to the journal was lost before the mail left; it was not sent."
            raise JournalError(cause, "Run the cell again.")

    def _stands(self, db: Database, write: _Write) -> bool:
        """Tell whether a change has been made by this run, and not prevented by another."""
        query = (
            "SELECT record.seq, record.sum, intent.seq, intent.run FROM record "
            "LEFT JOIN intent ON intent.id = record.id WHERE record.id=?"
        )
        found = db.execute(query, (write.id,)).fetchone()
        if found is None:
            return False
        seq, total, *intent = found
        if write.change is None:
            return bool((seq, *intent) == (write.seq, write.seq, self._run))
        return bool((seq, total) == (write.seq + 1, write.change[-1]))

    def _sync(self) -> None:
        """Have answers outlive a power failure although no window follows them."""
        self._timer = None
        if self._unsynced_since and not self._pending:
            if not self._store.lock.acquire(blocking=False):
                self._timer = self._loop.call_later(_MOMENT, self._sync) if self._loop is not None else None
                return
            try:
                with contextlib.suppress(JournalError):
                    self._store.write(self._touch, synced=True, held=self._holder)
                    self._unsynced_since = 0.0
            finally:
                self._store.lock.release()

    def _touch(self, db: Database) -> None:
        db.execute("UPDATE campaign SET running=1 WHERE id=?", (self._number,))

    def close(self) -> None:
        """End the run, durably; rows that were claimed and not tried are as they were before."""
        if self._timer is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._timer.cancel)
        try:
            with contextlib.suppress(MergeRefusedError):  # what another run took over is its own to end
                self._store.write(self._end, synced=True, held=self._holder)
        finally:
            if self._holder is not None:
                self._holder.release()

    def _end(self, db: Database) -> None:
        if not self._open and not self._failed:
            db.execute("DELETE FROM claim WHERE run=?", (self._run,))
            if self._holder is not None and not self._holder.guest:
                db.execute("UPDATE campaign SET running=0 WHERE id=?", (self._number,))


def _tell(pending: Sequence[_Write], error: BaseException | None, lost: set[int]) -> None:
    for write in pending:
        write.then(error or (taken_over() if write.id in lost else None))


def _settle(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _due_later(row: Columns, state: int) -> Columns:
    """Return a row of `Ledger.note` as it is written: skipped is not how a row can stand."""
    return (*row[:state], State.PLANNED.value, *row[state + 1 :]) if row[state] == State.SKIPPED else row
