"""The rows of one run: one record each, in a private table that goes to disk when it grows.

So a million rows hold no million objects. The table is SQLite's, without a name: it lies in memory while it is
small, in a temporary file that nobody else can open when it is not, and is gone with the Roll. It holds addresses
and outcomes, never a text.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from smtp_notebook.outcome import Outcome, State
from smtp_notebook.records import COLUMNS, DEFINITIONS, Stored, packed, rows_and_marks, unpacked

__all__ = ["EXPIRED", "Due", "Roll"]

#: So the reason of each row begins whose time was over.
EXPIRED = "Expired at "
_BUFFERED = 500
_MOST_BUFFERED = 5000
_CACHE_KIB = 8192
#: So many keys and addresses are looked up in memory; those beyond lie in the table.
_IN_MEMORY = 100_000
_SETTERS = ", ".join(f"{c}=?" for c in COLUMNS)
_DUE = "position, key, digest, record, seq, expires, message_id, recipients, warnings, variant, rows"
_PLAN = f"key, position, digest, {', '.join(COLUMNS)}"
#: What stands under ``due`` for a row that the journal is to have although it is not sent.
_NOTED = 2
_MARKS = ", ".join("?" * (7 + len(COLUMNS)))

Columns = tuple[Any, ...]


class Due(NamedTuple):
    """A row that is to be sent.

    Attributes:
        record: The number of its record in the journal; 0 for none.
        seq: How often that record was written.
        expires: From when on it is not sent any more, in seconds since 1970; None for no end.
        message_id: What an earlier try called the same mail, or "".
        recipients: Whom it goes to, as written on the wire.
        variant: Which of several texts it gets, or "".
        made_of: Of which rows, as `records.made_of` has that.
    """

    position: int
    key: str
    digest: bytes
    record: int
    seq: int
    expires: float | None
    message_id: str
    recipients: tuple[str, ...]
    warnings: tuple[str, ...]
    variant: str = ""
    made_of: str = ""

    def outcome(self, state: State, **more: Any) -> Outcome:
        """Return an Outcome of this row, which was not tried."""
        rows, marks = rows_and_marks(self.made_of)
        return Outcome(
            state=state, key=self.key, row=self.position, to=self.recipients, message_id=self.message_id,
            warnings=self.warnings, variant=self.variant, rows=rows, marks=marks, **more,
        )  # fmt: skip


def _due(found: Sequence[Any]) -> Due:
    position, key, digest, record, seq, expires, message_id, to, warnings, *made = found
    listed = tuple(json.loads(warnings)) if warnings else ()
    return Due(position, key, digest, record, seq, expires, message_id, tuple(to.split("\n")), listed, *made)


class Roll:
    """What is known of each row of a run, by its position. Used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        # A Report may hold it for as long as a person holds that. Python 3.13 warns of a connection that is left open.
        weakref.finalize(self, self._db.close).atexit = False
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE_KIB}", "temp_store=FILE"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(
            "CREATE TABLE row (position INTEGER PRIMARY KEY, key TEXT NOT NULL, digest BLOB NOT NULL, "
            f"record INTEGER NOT NULL, seq INTEGER NOT NULL, due INTEGER NOT NULL, expires REAL, {DEFINITIONS})"
        )
        self._db.execute("CREATE TABLE later (position INTEGER PRIMARY KEY, at REAL NOT NULL)")
        self._db.execute(
            "CREATE TABLE seen (hash INTEGER PRIMARY KEY, position INTEGER NOT NULL, text TEXT NOT NULL)"
        )
        # Nobody reads it from elsewhere, so it is one transaction from the beginning to the end.
        self._db.execute("BEGIN")
        self._seen: dict[str, int] = {}
        self._inserts: list[tuple[Any, ...]] = []
        self._updates: deque[Columns] = deque()

    def __del__(self) -> None:
        # SQLite's connection and its cache of statements hold each other: left alone, megabytes of every run would
        # stay until Python next looks for such cycles, which counts objects and sees only a handful.
        with contextlib.suppress(AttributeError, sqlite3.Error):
            self._db.close()

    def __repr__(self) -> str:
        return f"<Roll of {len(self.outcomes())} rows>"

    # ----------------------------------------------------------------------------------------- writing

    def first(self, text: str, position: int) -> int:
        """Note that the row at *position* has *text*, and return the position of the first one that has it."""
        if (found := self._seen.get(text)) is not None:
            return found
        if len(self._seen) < _IN_MEMORY:
            self._seen[text] = position
            return position
        return self._first_in_table(text, position)

    def _first_in_table(self, text: str, position: int) -> int:
        number = hash(text)
        with self._lock:
            while not self._db.execute(
                "INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (number, position, text)
            ).rowcount:
                found = self._db.execute("SELECT position, text FROM seen WHERE hash=?", (number,)).fetchone()
                if found[1] == text:
                    return int(found[0])
                number += 1  # two texts of one hash
        return position

    def key(self, position: int) -> str:
        """Return the key of a row that was added."""
        found = self._read("SELECT key FROM row WHERE position=?", position)
        return str(found[0][0]) if found else ""

    def add(self, outcome: Outcome) -> None:
        """Add a row that is not to be sent."""
        self._insert((outcome.row, outcome.key, b"", 0, 0, 0, None, *packed(outcome)))

    def add_noted(self, outcome: Outcome, *, record: int, seq: int) -> None:
        """Add a row that is not to be sent, and that the journal shall have as it is; see `noted`."""
        self._insert((outcome.row, outcome.key, b"", record, seq, _NOTED, None, *packed(outcome)))

    def add_due(
        self,
        position: int,
        key: str,
        digest: bytes,
        columns: tuple[Any, ...],
        *,
        record: int,
        seq: int,
        expires: float | None = None,
    ) -> None:
        """Add a row that is to be sent; *columns* as of `records.planned`, *expires* as in `Due`."""
        self._insert((position, key, digest, record, seq, 1, expires, *columns))

    def wait(self, position: int, moment: float) -> None:
        """Note that the time of a row, which was added, comes later: in seconds since 1970."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO later VALUES (?, ?)", (position, moment))

    def come(self, now: float) -> list[int]:
        """Return the positions of the rows whose time has come; they do not wait any more."""
        found = [
            row[0] for row in self._read("SELECT position FROM later WHERE at <= ? ORDER BY position", now)
        ]
        with self._lock:
            self._db.execute("DELETE FROM later WHERE at <= ?", (now,))
        return found

    def waiting(self) -> tuple[int, float, float]:
        """Return how many rows wait, and until when the first and the last one does."""
        count, first, last = self._read("SELECT count(*), min(at), max(at) FROM later")[0]
        return count, first or 0.0, last or 0.0

    def expired(self) -> int:
        """Return how many rows are skipped because their time was over."""
        query = f"SELECT count(*) FROM row WHERE state=? AND reason LIKE '{EXPIRED}%'"
        return int(self._read(query, State.SKIPPED.value)[0][0])

    def close_round(self) -> None:
        """Have no row sent, or noted, that is to be by now: that was done."""
        with self._lock:
            self._flush()
            self._db.execute("UPDATE row SET due=0 WHERE due<>0")

    def _insert(self, row: tuple[Any, ...]) -> None:
        with self._lock:
            self._inserts.append(row)
            if len(self._inserts) >= _BUFFERED:
                self._flush()

    def put(self, position: int | None, columns: Columns) -> None:
        """Write what became of a row: its Outcome as `records.packed` has it."""
        # Whoever reads writes them, as a rule: the thread that sends does not wait for a table.
        self._updates.append((*columns, position))
        if len(self._updates) >= _MOST_BUFFERED:
            with self._lock:
                self._flush()

    def note_records(self, first: int, rows: Sequence[Columns]) -> None:
        """Write the journal's numbers of rows that `unplanned` gave: *first*, and the ones behind it."""
        with self._lock:
            numbered = ((number, row[1]) for number, row in enumerate(rows, first))
            self._db.executemany("UPDATE row SET record=?, seq=1 WHERE position=?", numbered)

    def hold_back(self, limit: int, reason: str) -> None:
        """Have only the first *limit* of the due rows sent; the others stay planned, for this reason."""
        with self._lock:
            self._flush()
            kept = f"SELECT position FROM row WHERE due=1 ORDER BY position LIMIT {limit}"
            self._db.execute(
                f"UPDATE row SET due=0, reason=? WHERE due=1 AND position NOT IN ({kept})", (reason,)
            )

    def explain(self, reason: str) -> None:
        """Say of every row that is still planned why it was not tried."""
        with self._lock:
            self._flush()
            self._db.execute(
                "UPDATE row SET reason=? WHERE state=? AND due=1 AND reason=''", (reason, State.PLANNED.value)
            )

    def _flush(self) -> None:
        if self._inserts:
            self._db.executemany(f"INSERT OR REPLACE INTO row VALUES ({_MARKS})", self._inserts)
            self._inserts.clear()
        if self._updates:
            self._db.executemany(f"UPDATE row SET {_SETTERS} WHERE position=?", self._drained())

    def _drained(self) -> Iterator[Columns]:
        """Yield what waits, while another thread may add to it."""
        while self._updates:
            yield self._updates.popleft()

    # ----------------------------------------------------------------------------------------- reading

    def _read(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            self._flush()
            return self._db.execute(query, values).fetchall()

    def due(self, after: int, count: int) -> list[Due]:
        """Return the next *count* rows to be sent, behind the position *after*."""
        query = f"SELECT {_DUE} FROM row WHERE due=1 AND position > ? ORDER BY position LIMIT ?"
        return [_due(found) for found in self._read(query, after, count)]

    def unplanned(self, count: int) -> Iterator[list[Columns]]:
        """Yield the rows to be sent that no earlier run put into the journal, *count* at a time.

        Each is key, position, digest and the values of `records.COLUMNS`.
        """
        query = f"SELECT {_PLAN} FROM row WHERE due=1 AND record=0 AND position > ? ORDER BY position LIMIT ?"
        last = -1
        while found := self._read(query, last, count):
            last = found[-1][1]
            yield found

    def noted(self, count: int) -> Iterator[list[Columns]]:
        """Yield the rows of `add_noted`, *count* at a time: record, seq, and then as from `unplanned`."""
        query = f"SELECT record, seq, {_PLAN} FROM row WHERE due={_NOTED} AND position > ? ORDER BY position LIMIT ?"
        last = -1
        while found := self._read(query, last, count):
            last = found[-1][3]
            yield found

    def count_due(self) -> int:
        """Return how many rows are to be sent."""
        return int(self._read("SELECT count(*) FROM row WHERE due=1")[0][0])

    def mark(self, *, texts: bool) -> str:
        """Return a digest of the rows to be sent: where they stand, their keys and recipients, and what they say.

        Args:
            texts: Whether what the mails say counts; not where it is another each time.
        """
        found, last = hashlib.blake2b(digest_size=16), -1
        while rows := self.due(last, _BUFFERED):
            last = rows[-1].position
            for row in rows:
                said = row.digest if texts else b""
                found.update(repr((row.position, row.key, row.recipients, said)).encode())
        return found.hexdigest()

    def outcomes(self) -> Stored:
        """Return every row as an Outcome, in the frame's order."""
        return Stored(
            self._read,
            columns=f"key, position, {', '.join(COLUMNS)}",
            decode=lambda record: unpacked(record[0], record[1], record[2:]),
            table="row WHERE 1",
        )
