"""What a watch remembers: how far it has read, whom it found there at first, and what became of the others.

The rows themselves are records of the campaign, as those of any merge. Beside them lie the watch's cursor, the keys of
the rows that were there before it began, and of which mails its source was told.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from smtp_notebook.holder import stamp
from smtp_notebook.journal import Journal
from smtp_notebook.outcome import Outcome, State
from smtp_notebook.schema import checksum, key_hash
from smtp_notebook.standing import RECHECKED
from smtp_notebook.store import Database

__all__ = ["BEFORE", "Book", "PracticeBook", "Watchbook"]

#: How a row stands that was there before the watch began.
BEFORE = "before"
#: Stands in ``since`` between how a watch began and the columns of the keys that were there.
_BY = " by "
_AT_ONCE = 500
_WENT = (State.SENT, State.PARTIAL)


class Book(Protocol):
    """What a watch remembers of one campaign: in the journal (`Watchbook`), or in memory for a trial (`PracticeBook`).

    Its methods may be called from any thread, one at a time.
    """

    @property
    def begun(self) -> bool:
        """Whether a first start was recorded."""
        ...

    @property
    def cursor(self) -> Any:
        """How far the source was read, as it said so itself; None where it said nothing."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the keys that were there already; () where none were, or nobody said so."""
        ...

    def begin(self, cursor: Any, keys: Iterable[str], since: str, columns: Sequence[str] = ()) -> bool:
        """Record a first start in one durable step: the cursor, the keys that were there already, and their columns.

        Rows that the campaign has sent before count as told. Returns False where another process began meanwhile;
        then nothing is changed.
        """
        ...

    def advance(self, before: Any, after: Any) -> bool:
        """Move the cursor from *before* to *after*; return False where it is not at *before* any more."""
        ...

    def standing(self, keys: Iterable[str]) -> dict[str, Outcome | str]:
        """Return how those of the keys stand that are known: an Outcome, or `BEFORE`. Others are new."""
        ...

    def open(self) -> list[Outcome]:
        """Return the rows that a later poll may have to try, in the order in which they were planned.

        They are planned, deferred, failed, invalid or refused, or sent to some of their recipients and put off by others.
        """
        ...

    def in_doubt(self) -> list[Outcome]:
        """Return the rows in doubt."""
        ...

    def counts(self) -> dict[str, int]:
        """Return how many rows are in which `State`, and under `BEFORE` how many were there already."""
        ...

    def owed(self, most: int = 2000) -> list[Outcome]:
        """Return the first rows that went and of which the source was not told."""
        ...

    def told(self, keys: Iterable[str]) -> None:
        """Record that the source was told of these rows."""
        ...

    def note(self, outcomes: Iterable[Outcome]) -> None:
        """Take what became of rows, where no journal has it already."""
        ...

    def close(self) -> None:
        """Let go of what is held open."""
        ...


class Watchbook:
    """What a journal holds of one watch.

    Args:
        journal: Where; one that is open for reading alone does for all that reads.
        campaign: The watch's campaign.
    """

    def __init__(self, journal: Journal, campaign: str) -> None:
        self._journal = journal
        self._name = campaign

    def __repr__(self) -> str:
        return f"<Watchbook of {self._name!r} in {str(self._journal.path)!r}>"

    def _read(self, query: str, *values: Any) -> list[Any]:
        return self._journal._all(query, *values)  # noqa: SLF001 - a watchbook is a part of its journal

    def _row(self) -> tuple[str, str, str] | None:
        """Return cursor, how it began and creation, or None where it has not begun."""
        found = self._read("SELECT cursor, since, created, sum FROM watch WHERE name=?", self._name)
        if not found:
            return None
        *values, total = found[0]
        if checksum((self._name, *values)) != total:
            raise self._damaged("how far it was read")
        return values[0], values[1], values[2]

    def _damaged(self, what: str) -> Exception:
        said = f"what the watch {self._name!r} holds of {what} does not fit its checksum"
        return self._journal._damaged(said)  # noqa: SLF001 - as above

    @property
    def begun(self) -> bool:
        """Whether a first start was recorded."""
        return self._row() is not None

    @property
    def cursor(self) -> Any:
        """How far the source was read; None where it said nothing."""
        row = self._row()
        return None if row is None else json.loads(row[0])

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the keys that were there already; () where none were, or nobody said so."""
        row = self._row()
        _, _, columns = row[1].partition(_BY) if row is not None else ("", "", "")
        return tuple(json.loads(columns)) if columns else ()

    def begin(self, cursor: Any, keys: Iterable[str], since: str, columns: Sequence[str] = ()) -> bool:
        """Record a first start; see `Book.begin`."""
        how = f"{since}{_BY}{json.dumps(list(columns))}" if columns else since
        values = (self._name, _text(cursor), how, stamp())
        before = [(self._name, key_hash(key), key) for key in dict.fromkeys(keys)]

        def change(db: Database) -> bool:
            sql = (
                "INSERT INTO watch (name, cursor, since, created, sum) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (name) DO NOTHING"
            )
            if not db.execute(sql, (*values, checksum(values))).rowcount:
                return False
            sql = "INSERT INTO watch_before (name, hash, key, sum) VALUES (?, ?, ?, ?)"
            db.executemany(sql, ((*row, checksum(row)) for row in before))
            sql = (
                "INSERT INTO watch_told (record) SELECT id FROM record WHERE state IN (?, ?) "
                "AND campaign IN (SELECT id FROM campaign WHERE name=?) ON CONFLICT (record) DO NOTHING"
            )
            db.execute(sql, (*_WENT, self._name))
            return True

        return self._journal.write(change, synced=True)

    def advance(self, before: Any, after: Any) -> bool:
        """Move the cursor; see `Book.advance`."""
        row = self._row()
        if row is None or json.loads(row[0]) != before:
            return False
        values = (self._name, _text(after), row[1], row[2])

        def change(db: Database) -> bool:
            sql = "UPDATE watch SET cursor=?, sum=? WHERE name=? AND cursor=?"
            return bool(db.execute(sql, (values[1], checksum(values), self._name, row[0])).rowcount)

        return self._journal.write(change, synced=True)

    def standing(self, keys: Iterable[str]) -> dict[str, Outcome | str]:
        """Return how keys stand; see `Book.standing`."""
        found: dict[str, Outcome | str] = {}
        wanted = list(dict.fromkeys(keys))
        for some in _chunks(wanted):
            found.update(dict.fromkeys(self._before(some), BEFORE))
        number = self._number()
        for some in _chunks(wanted) if number is not None else ():
            # A row that was there before and has a record all the same is one that somebody merged.
            for known in self._journal.known_of(number, some):  # type: ignore[arg-type]  # not None: see above
                found[known.key] = known.outcome
        return found

    def _before(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that were there already."""
        marks = ", ".join("?" * len(keys))
        query = f"SELECT name, hash, key, sum FROM watch_before WHERE name=? AND hash IN ({marks})"
        found = self._read(query, self._name, *map(key_hash, keys))
        if any(checksum(row[:3]) != row[3] for row in found):
            raise self._damaged("the rows that were there before")
        return sorted({row[2] for row in found}.intersection(keys))

    def _number(self) -> int | None:
        found = self._read("SELECT id FROM campaign WHERE name=?", self._name)
        return int(found[0][0]) if found else None

    def _in(self, *states: State) -> list[Outcome]:
        number = self._number()
        if number is None:
            return []
        return list(self._journal._stored(number).where(states))  # noqa: SLF001 - as above

    def open(self) -> list[Outcome]:
        """Return the rows that may have to be tried; see `Book.open`."""
        return [o for o in self._in(*sorted(RECHECKED), State.REFUSED, State.PARTIAL) if _opens(o)]

    def in_doubt(self) -> list[Outcome]:
        """Return the rows in doubt."""
        return self._in(State.IN_DOUBT)

    def counts(self) -> dict[str, int]:
        """Return how many rows are in which state; see `Book.counts`."""
        number = self._number()
        found = {} if number is None else self._journal._counts(number)  # noqa: SLF001 - as above
        before = self._read("SELECT count(*) FROM watch_before WHERE name=?", self._name)[0][0]
        return {**found, **({BEFORE: before} if before else {})}

    def owed(self, most: int = 2000) -> list[Outcome]:
        """Return rows of which the source was not told; see `Book.owed`."""
        number = self._number()
        if number is None:
            return []
        untold = self._journal._stored(number, "id NOT IN (SELECT record FROM watch_told)")  # noqa: SLF001 - as above
        return list(untold.where(_WENT).part(slice(0, most)))

    def told(self, keys: Iterable[str]) -> None:
        """Record that the source was told of these rows."""
        number = self._number()
        rows = [(number, key_hash(key), key) for key in keys]
        if number is None or not rows:
            return

        def change(db: Database) -> None:
            sql = (
                "INSERT INTO watch_told (record) SELECT id FROM record WHERE campaign=? AND hash=? AND key=? "
                "ON CONFLICT (record) DO NOTHING"
            )
            db.executemany(sql, rows)

        self._journal.write(change, synced=True)

    def note(self, outcomes: Iterable[Outcome]) -> None:
        """Do nothing: the journal has them."""

    def close(self) -> None:
        """Do nothing: the journal belongs to whoever opened it."""


class PracticeBook:
    """What a watch remembers in a trial, in memory: of mails that count for nobody the journal holds nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cursor: str | None = None
        self._before: set[str] = set()
        self._columns: tuple[str, ...] = ()
        self._rows: dict[str, Outcome] = {}
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return f"<PracticeBook of {len(self._rows):,} rows>"

    @property
    def begun(self) -> bool:
        """Whether a first start was recorded."""
        return self._cursor is not None

    @property
    def cursor(self) -> Any:
        """How far the source was read; None where it said nothing."""
        return None if self._cursor is None else json.loads(self._cursor)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the keys that were there already; () where none were, or nobody said so."""
        return self._columns

    def begin(
        self,
        cursor: Any,
        keys: Iterable[str],
        since: str,  # noqa: ARG002 - of no use here
        columns: Sequence[str] = (),
    ) -> bool:
        """Record a first start; see `Book.begin`."""
        with self._lock:
            if self._cursor is not None:
                return False
            self._cursor = _text(cursor)
            self._before.update(keys)
            self._columns = tuple(columns)
            return True

    def advance(self, before: Any, after: Any) -> bool:
        """Move the cursor; see `Book.advance`."""
        with self._lock:
            if self._cursor is None or json.loads(self._cursor) != before:
                return False
            self._cursor = _text(after)
            return True

    def standing(self, keys: Iterable[str]) -> dict[str, Outcome | str]:
        """Return how keys stand; see `Book.standing`."""
        with self._lock:
            found: dict[str, Outcome | str] = {}
            for key in keys:
                if key in self._rows:
                    found[key] = self._rows[key]
                elif key in self._before:
                    found[key] = BEFORE
            return found

    def outcomes(self) -> list[Outcome]:
        """Return what became of every row, in the order in which they came."""
        return self._those(lambda _: True)

    def _those(self, wanted: Callable[[Outcome], bool]) -> list[Outcome]:
        with self._lock:
            return [outcome for outcome in self._rows.values() if wanted(outcome)]

    def open(self) -> list[Outcome]:
        """Return the rows that may have to be tried; see `Book.open`."""
        return self._those(_opens)

    def in_doubt(self) -> list[Outcome]:
        """Return the rows in doubt."""
        return self._those(lambda outcome: outcome.state is State.IN_DOUBT)

    def counts(self) -> dict[str, int]:
        """Return how many rows are in which state; see `Book.counts`."""
        states = [outcome.state for outcome in self._those(lambda _: True)]
        found = {state.value: states.count(state) for state in State if state in states}
        return {**found, **({BEFORE: len(self._before)} if self._before else {})}

    def owed(self, most: int = 2000) -> list[Outcome]:
        """Return rows of which the source was not told; see `Book.owed`."""
        return self._those(lambda outcome: outcome.state in _WENT and outcome.key not in self._told)[:most]

    def told(self, keys: Iterable[str]) -> None:
        """Record that the source was told of these rows."""
        with self._lock:
            self._told.update(keys)

    def note(self, outcomes: Iterable[Outcome]) -> None:
        """Take what became of rows; a row that is skipped is as it was before."""
        with self._lock:
            for outcome in outcomes:
                if outcome.key and outcome.state is not State.SKIPPED:
                    self._rows[outcome.key] = outcome

    def close(self) -> None:
        """Do nothing: it lasts as long as the process."""


def _opens(outcome: Outcome) -> bool:
    """Tell whether a later poll may have to try a row."""
    if outcome.state is State.PARTIAL:
        return any(said.startswith("4") for _, said in outcome.refused)
    return outcome.state in RECHECKED or outcome.state is State.REFUSED


def _text(cursor: Any) -> str:
    return json.dumps(cursor, sort_keys=True, separators=(",", ":"))


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _AT_ONCE):
        yield keys[start : start + _AT_ONCE]
