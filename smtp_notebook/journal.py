"""What remembers every mailing: which rows are planned, armed, intended and answered.

A row is *planned* when the merge begins, *claimed* in a window of rows by a synced commit, *intended* by a commit
before its final dot leaves, and answered by a commit after the reply. Inside a window commits are not synced: they
survive a killed process, and after power loss every row of the window is in doubt, which is said. An intent is a
compare-and-swap on the record as this run knows it: nothing changed, no dot.

The file is SQLite (https://sqlite.org/wal.html; no WAL on a network file system, where it does not work). It
holds no secret and no text of a mail.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import html
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from smtp_notebook import _html
from smtp_notebook.holder import Holder, alive, boot_id, on_network, publish, seen, stamp
from smtp_notebook.outcome import JournalError, MergeRefusedError, Outcome, Report, State
from smtp_notebook.records import COLUMNS, Stored, packed, unpacked
from smtp_notebook.schema import FIELDS, INSERT, MIGRATIONS, checksum, key_hash
from smtp_notebook.standing import (
    SINGLE,
    Known,
    Terms,
    doubtful,
    key_name,
    ranges,
    skipped_once,
    spread,
    when,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Campaign", "Glance", "Journal", "Ledger", "PassingJournal", "Row", "journal_path", "look"]

PATH_VARIABLE = "SMTP_NOTEBOOK_JOURNAL"
#: Answers are synced when they are this old, in seconds, if no window was armed since.
SYNC_SECONDS = 1.0
_BUSY_SECONDS = 10.0
_QUICK_BYTES = 16 * 2**20
#: The log is copied into the file when it has so many pages; a merge writes the same ones again and again.
_CHECKPOINT_PAGES = 4000
_READ_AT_ONCE = 10_000
_WENT = frozenset({State.SENT, State.PARTIAL, State.IN_DOUBT})

_COLUMNS = f"{', '.join(FIELDS)}, sum, stands"
_SELECT = f"SELECT {_COLUMNS} FROM standing"
_CHANGED = FIELDS[2:]
_UPDATE = f"UPDATE record SET {', '.join(f'{c}=?' for c in _CHANGED)}, sum=? WHERE id=? AND seq=?"
#: The compare-and-swap of an intent: the record is as this run knows it, and nobody else has intended it so.
_INTEND = (
    "INSERT INTO intent (id, seq, run, sum) SELECT id, seq, ?, ? FROM record WHERE id=? AND seq=? "
    "ON CONFLICT (id) DO UPDATE SET seq=excluded.seq, run=excluded.run, sum=excluded.sum "
    "WHERE intent.seq < excluded.seq"
)


T = TypeVar("T")
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


@dataclass(frozen=True, slots=True)
class Campaign:
    """One mailing in a journal.

    Attributes:
        name: What the person called it.
        scope: Where its rows go at present: ``real:host`` or ``loopback:host``.
        sender: Its From.
        version: How many templates or senders it has had.
        created: When it began (UTC, ISO 8601).
        counts: How many rows are in which state.
    """

    name: str
    scope: str
    sender: str
    version: int
    created: str
    counts: dict[str, int]

    @property
    def summary(self) -> str:
        """The counts in words."""
        return ", ".join(f"{n:,} {s.replace('_', ' ')}" for s, n in self.counts.items()) or "no rows"


class Journal:
    """The record of every mailing of one person, in one SQLite file.

    Args:
        path: The file; by default what ``SMTP_NOTEBOOK_JOURNAL`` names, else ``journal.sqlite3`` in the
            user's state folder.

    Raises:
        JournalError: The file cannot be opened, is damaged, or was written by a newer version.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = _given(path)
        self._lock = threading.RLock()
        self._synced: bool | None = None
        with self._explained():
            self.path = self.path.resolve()
            self.new = not self.path.exists()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._wal = not on_network(self.path)
            if self.new:
                self._make()
            self._refuse_empty()
            self._open(self.path)

    @classmethod
    def to_read(cls, path: str | Path | None = None, *, whole: bool = False) -> Journal | None:
        """Return the journal at *path*, open for reading alone; None where there is none, and none is made.

        Args:
            path: As in `Journal`.
            whole: Look for torn pages however large it is, which may take seconds.

        A file of an older version stays as it is: a private copy of it is moved to the present form.

        Raises:
            JournalError: As from `Journal`.
        """
        self = cls.__new__(cls)
        self.path = _given(path)
        self._lock, self._synced, self._wal, self.new = threading.RLock(), None, True, False
        with self._explained():
            self.path = self.path.resolve()
            if not self.path.exists():
                return None
            self._refuse_empty()
            # Not mode=ro: that would leave the log's files behind, and could not read over a dead run's.
            self._db = _connected(f"{self.path.as_uri()}?mode=rw", uri=True)
            self._db.execute("PRAGMA query_only=1")
            if whole or self.path.stat().st_size <= _QUICK_BYTES:
                self._check()
            if self._db.execute("PRAGMA user_version").fetchone()[0] < len(MIGRATIONS):
                with contextlib.closing(self._db) as file:
                    self._db = _connected("")
                    file.backup(self._db)
            self._migrate()
        return self

    def _refuse_empty(self) -> None:
        if not self.path.stat().st_size:
            raise self._damaged("it is empty, which a journal never is")

    def _make(self) -> None:
        """Make the file under another name, so that nobody ever sees half of one; whoever is first wins."""
        draft = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        try:
            self._open(draft)
            self._db.close()
            with contextlib.suppress(FileExistsError):
                publish(draft, self.path)
        finally:
            draft.unlink(missing_ok=True)

    def _open(self, path: Path) -> None:
        self._db = _connected(path)
        mode = "wal" if self._wal else "delete"
        if self._db.execute("PRAGMA journal_mode").fetchone()[0] != mode:
            self._db.execute(f"PRAGMA journal_mode={mode}")
        self._synced = None
        self._db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        if path.stat().st_size <= _QUICK_BYTES:
            self._check()
        self._migrate()

    def _check(self) -> None:
        """Have SQLite look for torn pages and a torn index; of a large file only before a campaign begins."""
        # A row that the index does not lead to would be mailed again.
        found = self._db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise self._damaged(str(found))

    def _migrate(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            cause = f"The journal {str(self.path)!r} was written by a newer smtp_notebook."
            raise JournalError(cause, "Upgrade this one, or name another file: journal=….")
        for number in range(version, len(MIGRATIONS)):
            with self._writing(synced=True) as db:
                # Another process may have done it while this one waited.
                if db.execute("PRAGMA user_version").fetchone()[0] == number:
                    MIGRATIONS[number].apply(db)
                    db.execute(f"PRAGMA user_version={number + 1}")

    def _damaged(self, what: str) -> JournalError:
        return JournalError(
            f"The journal {str(self.path)!r} is damaged: {what}.",
            "Nothing was sent. Journal.export() reads what is good; restore the file from a backup.",
        )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError as error:
            cause = f"The journal {str(self.path)!r} is closed."
            raise JournalError(cause, "Open it again: Journal(…).") from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                cause = f"The journal {str(self.path)!r} cannot be used: {error}."
                raise JournalError(cause, "Make room, or name another file: journal=….") from error
            raise self._damaged(str(error)) from error
        except OSError as error:
            cause = f"The journal {str(self.path)!r} cannot be used: {error.strerror or error}."
            raise JournalError(cause, "Name another file: journal=….") from error

    @contextlib.contextmanager
    def _writing(self, *, synced: bool) -> Iterator[sqlite3.Connection]:
        """Run one transaction; *synced* makes it, and all before it, outlive a power failure."""
        with self._lock, self._explained():
            self._begin(synced=synced)
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def write(self, change: Callable[[sqlite3.Connection], T], *, synced: bool) -> T:
        """Run one transaction and return what *change* returns; `_writing` without its ceremony."""
        with self._lock:
            try:
                self._begin(synced=synced)
                result = change(self._db)
                self._db.execute("COMMIT")
            except BaseException:
                with self._explained():
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
        return result

    def _begin(self, *, synced: bool) -> None:
        wanted = synced or not self._wal
        if wanted is not self._synced:
            self._db.execute(f"PRAGMA synchronous={'FULL' if wanted else 'NORMAL'}")
            self._synced = wanted
        self._db.execute("BEGIN IMMEDIATE")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def __del__(self) -> None:
        # Journal().resolve(…) is how people use it; newer Pythons warn of a database that nobody closed.
        with contextlib.suppress(AttributeError, sqlite3.Error):
            self._db.close()

    # ---------------------------------------------------------------------------------------- reading

    def _all(self, query: str, *values: Any) -> list[Any]:
        with self._lock, self._explained():
            return self._db.execute(query, values).fetchall()

    def campaigns(self) -> list[Campaign]:
        """Return every mailing, the newest first."""
        found = self._all("SELECT id, name, scope, sender, version, created FROM campaign ORDER BY id DESC")
        return [
            Campaign(name, scope, sender, version, created, self._counts(number))
            for number, name, scope, sender, version, created in found
        ]

    def campaign_names(self) -> list[str]:
        """Return the name of every mailing, the newest first."""
        return [
            name for (name,) in self._all("SELECT name FROM campaign WHERE name<>? ORDER BY id DESC", SINGLE)
        ]

    def _counts(self, number: int) -> dict[str, int]:
        """Return how many rows of a campaign are in which state, in the order in which Reports say it."""
        found = self._stored(number).counts()
        return {state.value: found[state.value] for state in State if state.value in found}

    def _stored(self, number: int, condition: str = "1") -> Stored:
        """Return the rows of a campaign that fit a condition, which is SQL of ours."""
        return Stored(
            self._all,
            columns=_COLUMNS,
            decode=lambda record: self._checked(record).outcome,
            table=f"standing WHERE campaign=? AND {condition}",
            values=(number,),
            order="id",
            state="stands",
        )

    def _number(self, campaign: str) -> int:
        found = self._all("SELECT id FROM campaign WHERE name=?", campaign)
        if found:
            return int(found[0][0])
        names = ", ".join(repr(c.name) for c in self.campaigns()[:10]) or "none"
        raise JournalError(f"The journal has no campaign {campaign!r}.", f"It has: {names}.")

    def known(self, number: int, key: str) -> Known | None:
        """Return what is known of one row, or None.

        Raises:
            JournalError: The record's checksum does not fit.
        """
        found = self._all(f"{_SELECT} WHERE campaign=? AND hash=? AND key=?", number, key_hash(key), key)
        return self._checked(found[0]) if found else None

    def known_of(self, number: int, keys: Sequence[str]) -> list[Known]:
        """Return what is known of some rows, those alone that are; as many keys as SQLite takes values.

        Raises:
            JournalError: As from `known`.
        """
        query = f"{_SELECT} WHERE campaign=? AND hash IN ({', '.join('?' * len(keys))})"
        wanted = set(keys)
        found = self._all(query, number, *map(key_hash, keys))
        return [self._checked(record) for record in found if record[1] in wanted]

    def _checked(self, record: Sequence[Any]) -> Known:
        *values, total, stands = record
        if checksum(values) != total:
            raise self._damaged(f"the record of {record[1]!r} does not fit its checksum")
        number, key, seq, version, digest, accepted, position, state, *columns = values
        outcome = unpacked(key, position, [state, *columns])
        if stands != state:
            outcome = doubtful(outcome)
        return Known(
            number, key, seq, version, digest, tuple(accepted.split("\n")) if accepted else (), outcome
        )

    def key_columns(self, campaign: str) -> tuple[str, ...]:
        """Return the columns by which a mailing knows its rows; () where it is new, or knows them by their address."""
        found = self._all("SELECT keys FROM campaign WHERE name=?", campaign)
        return tuple(json.loads(found[0][0]) or ()) if found and found[0][0] else ()

    def report(self, campaign: str) -> Report:
        """Return the Outcomes of a mailing, as they were last recorded, in the order in which they were planned.

        Raises:
            JournalError: There is no such campaign; while it is read, that a record is damaged.
        """
        return Report(self._stored(self._number(campaign)), title=f"Campaign {campaign}")

    def export(self) -> pd.DataFrame:
        """Return every good record as a DataFrame: campaign, scope, key, state and the Outcome's fields."""
        import pandas as pd

        found = []
        for number, name, scope in self._all("SELECT id, name, scope FROM campaign ORDER BY id"):
            for record in self._all(f"{_SELECT} WHERE campaign=? ORDER BY id", number):
                with contextlib.suppress(JournalError):
                    known = self._checked(record)
                    outcome = dataclasses.asdict(known.outcome)
                    found.append({"campaign": name, "scope": scope, **outcome, "version": known.version})
        return pd.DataFrame(found)

    def mails(self, wanted: Callable[[str], bool]) -> list[tuple[str, Outcome]]:
        """Return the mailing and the Outcome of each mail whose Message-ID, with its angle brackets, is wanted.

        Reads every Message-ID once: about a second for a million.

        Raises:
            JournalError: A record of one of them is damaged.
        """
        names = dict(self._all("SELECT id, name FROM campaign"))
        query = (
            "SELECT id, campaign, message_id FROM record WHERE message_id<>'' AND id>? ORDER BY id LIMIT ?"
        )
        found, last = [], 0
        while some := self._all(query, last, _READ_AT_ONCE):
            last = some[-1][0]
            found += [(number, names.get(campaign, "")) for number, campaign, name in some if wanted(name)]
        known = ((self._all(f"{_SELECT} WHERE id=?", number), name) for number, name in found)
        return [(name, self._checked(record[0]).outcome) for record, name in known if record]

    def past(self, scope: str, seconds: float) -> list[tuple[float, int, int]]:
        """Return how much went to a server of late: age in seconds, mails, recipients; summed by minutes.

        Single mails count for every server, for it is not known which one took them.
        """
        now = time.time()
        people = "length(recipients) - length(replace(recipients, char(10), '')) + 1"
        query = (
            f"SELECT min(? - started), count(*), sum({people}) FROM record JOIN campaign ON campaign.id = campaign "
            "WHERE scope IN (?, '') AND started > ? AND attempts > 0 GROUP BY CAST((? - started) / 60 AS INTEGER)"
        )
        return [(max(0.0, age), n, m) for age, n, m in self._all(query, now, scope, now - seconds, now)]

    # --------------------------------------------------------------------------------------- deciding

    def resolve(self, campaign: str, key: str, *, delivered: bool) -> None:
        """Say what became of a row in doubt: ``delivered=False`` lets the next run send it.

        Raises:
            JournalError: The row is not in doubt.
            MergeRefusedError: The campaign is being sent at this moment.
        """
        number = self._number(campaign)
        with self._held(campaign), self._writing(synced=True) as db:
            self._settle_lost(db, number)
            known = self.known(number, key)
            if known is None or known.state is not State.IN_DOUBT:
                cause = f"The row {key!r} of {campaign!r} is not in doubt."
                raise JournalError(cause, f"report({campaign!r}).in_doubt lists those that are.")
            state = State.SENT if delivered else State.PLANNED
            outcome = known.outcome.with_(
                state=state, status=0, reason="Resolved by a person.", fix="", code=None, enhanced=""
            )
            _change(db, known, outcome)

    @contextlib.contextmanager
    def _held(self, campaign: str) -> Iterator[None]:
        """Keep a campaign from being sent meanwhile; single mails are nobody's."""
        holder = Holder(self.path, campaign) if campaign != SINGLE else None
        try:
            yield
        finally:
            if holder is not None:
                holder.release()

    def forget(self, campaign: str) -> None:
        """Forget a mailing: whoever had it may get it again. A watch of that name begins anew.

        Raises:
            MergeRefusedError: It is being sent at this moment.
        """
        if not self._all("SELECT 1 FROM watch WHERE name=?", campaign):
            self._number(campaign)
        with self._held(campaign), self._writing(synced=True) as db:
            # A watch that has found nobody yet has no campaign.
            found = db.execute("SELECT id FROM campaign WHERE name=?", (campaign,)).fetchall()
            for mine in found:
                of_records = "IN (SELECT id FROM record WHERE campaign=?)"
                db.execute(f"DELETE FROM watch_told WHERE record {of_records}", mine)
                db.execute(f"DELETE FROM intent WHERE id {of_records}", mine)
                db.execute("DELETE FROM claim WHERE campaign=?", mine)
                db.execute("DELETE FROM record WHERE campaign=?", mine)
                db.execute("DELETE FROM campaign WHERE id=?", mine)
            db.execute("DELETE FROM watch_before WHERE name=?", (campaign,))
            db.execute("DELETE FROM watch WHERE name=?", (campaign,))

    # ------------------------------------------------------------------------------------------ a run

    def begin(
        self,
        campaign: str,
        *,
        scope: str,
        sender: str,
        fingerprint: str,
        key: Sequence[str] | None = None,
        changed: Literal["stop", "send-rest"] = "stop",
    ) -> Ledger:
        """Open a mailing for one run; nobody else can until it is closed.

        Args:
            campaign: Its name.
            scope: Where it goes: ``real:host`` or ``loopback:host``.
            sender: Its From.
            fingerprint: Tells its template from another.
            key: The columns that identify a row; None for the address.
            changed: Whether another template, From or server stops it.

        Raises:
            MergeRefusedError: Another process runs it, its rows were identified otherwise, or the template, From
                or server differs from before and *changed* is "stop".
            JournalError: The file is damaged or cannot be written.
        """
        _refuse_reserved(campaign)
        holder = Holder(self.path, campaign)
        try:
            with self._explained():
                self._check()
            now = Terms(scope, sender, fingerprint, json.dumps(key))
            number, version = self._campaign(campaign, now, changed)
            self._recover(number)
        except BaseException:
            holder.release()
            raise
        return Ledger(self, number, version, holder, now)

    def glance(self, campaign: str, now: Terms, changed: str) -> Glance:
        """Look at a mailing; see `look`."""
        with self._reading():
            found = self._version(campaign, now, changed)
            if found is None:
                return Glance(self.path, self)
            number, _ = found
            running = self._all("SELECT 1 FROM campaign WHERE id=? AND running=1", number)
            lost = self._claimed(number, boot_id()) if running else ()
        return Glance(self.path, self, number, frozenset(lost), seen(self.path, campaign))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Have several queries see one moment of a file that others write to."""
        with self._lock, self._explained():
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")  # nothing was written

    def single(self, row: Row, *, once: bool) -> tuple[Ledger, Outcome | None, str]:
        """Open one mail, known by what it says: no campaign, and no lock that others would wait for.

        Args:
            row: The mail, whose digest identifies it.
            once: Whether a mail that went before, or may have, is not sent again.

        Returns:
            The Ledger of this mail; an Outcome when it is not to be sent; and what to say of earlier
            ones, or "".
        """
        name = row.digest.hex()
        with self._writing(synced=True) as db:
            db.execute(
                "INSERT OR IGNORE INTO campaign (name, scope, sender, fingerprint, version, created) VALUES (?, '', '', '', 1, ?)",
                (SINGLE, stamp()),
            )
            number = self._number(SINGLE)
            # The copies of one mail share a hash, and have a number each.
            copies = self._all(
                f"{_SELECT} WHERE campaign=? AND hash=? AND key GLOB ?", number, key_hash(name), f"{name}#*"
            )
            lost = self._claimed(number, boot_id()) if copies else set()
            found = [
                doubtful(k.outcome) if (k.id, k.seq) in lost else k.outcome
                for k in map(self._checked, copies)
            ]
            went = [o for o in found if o.state in _WENT]
            said = f"the same mail went before ({when(went[-1])})" if went else ""
            row.key = f"{name}#{len(found) + 1}"
            ledger = Ledger(self, number, 1, None)
            if once and went:
                return ledger, skipped_once(row, went[-1]), said
            if once:
                self._refuse_twin(number, {k.id for k in map(self._checked, copies)})
            ledger.arm_single(db, row, key_hash(name))
        return ledger, None, said

    def _refuse_twin(self, number: int, copies: set[int]) -> None:
        """Refuse a mail that somebody sends at this very moment, and that is to go once."""
        query = "SELECT pid, rows FROM claim WHERE campaign=? AND boot=?"
        for pid, rows in self._all(query, number, boot_id()):
            if alive(pid) and any(record in copies for record, _ in spread(rows)):
                cause = f"The same mail is being sent at this moment, by process {pid}."
                raise MergeRefusedError(cause, "Wait for it; it is not sent a second time.")

    def _campaign(self, name: str, now: Terms, changed: str) -> tuple[int, int]:
        """Return the campaign's number, and which version of it these terms are; a new one is written."""
        found = self._version(name, now, changed)
        if found is not None:
            return found
        with self._writing(synced=True) as db:
            cursor = db.execute(
                "INSERT INTO campaign (name, scope, sender, fingerprint, keys, version, created) VALUES (?, ?, ?, ?, ?, 1, ?)",
                (name, *now, stamp()),
            )
            return int(cursor.lastrowid or 0), 1

    def _version(self, name: str, now: Terms, changed: str) -> tuple[int, int] | None:
        """Return the campaign's number, and which version of it these terms are; None where it is new."""
        query = "SELECT id, scope, sender, fingerprint, keys, version, rows FROM campaign WHERE name=?"
        found = self._all(query, name)
        if not found:
            return None
        number, scope, sender, fingerprint, keys, version, rows = found[0]
        self._count(number, rows)
        before = Terms(scope, sender, fingerprint, keys or now.keys)
        if not rows or before == now:
            return number, version
        if before.keys != now.keys:
            cause = f"The campaign {name!r} knows its rows by {key_name(keys)}, not by {key_name(now.keys)}."
            raise MergeRefusedError(cause, "Name the same key=, or mail everyone with another campaign=.")
        if changed != "send-rest":
            cause = (
                f"The campaign {name!r} has changed since it began: {' and '.join(before.differences(now))}."
            )
            fix = 'changed="send-rest" sends the rest as it is now; another campaign= mails everyone.'
            if scope != now.scope:
                fix += f" If nobody got it there: Journal().forget({name!r})."
            raise MergeRefusedError(cause, fix)
        return number, version + 1

    def _count(self, number: int, rows: int) -> None:
        found = self._all("SELECT count(*) FROM record WHERE campaign=?", number)[0][0]
        if found != rows:
            raise self._damaged(f"it holds {found:,} of {rows:,} records of this campaign")

    def _claimed(self, number: int, boot: str) -> set[tuple[int, int]]:
        """Return the records, as written so many times, that runs before the present start of the machine claimed."""
        found: set[tuple[int, int]] = set()
        for claim, rows, total in self._all(
            "SELECT id, rows, sum FROM claim WHERE campaign=? AND boot<>?", number, boot
        ):
            if checksum((rows,)) != total:
                raise self._damaged(f"the claim {claim} does not fit its checksum")
            found.update(spread(rows))
        return found

    def _recover(self, number: int) -> None:
        """Put what a dead run left open into its one known state; only the holder may call this."""
        if not self._all("SELECT 1 FROM campaign WHERE id=? AND running=1", number):
            return
        mine = "id IN (SELECT id FROM record WHERE campaign=?)"
        for intent in self._all(f"SELECT id, seq, run, sum FROM intent WHERE {mine}", number):
            if checksum(intent[:3]) != intent[3]:
                raise self._damaged(f"the intent of record {intent[0]} does not fit its checksum")
        with self._writing(synced=True) as db:
            self._settle_lost(db, number)
            for record in self._all(f"{_SELECT} WHERE campaign=? AND stands<>state", number):
                known = self._checked(record)
                _change(db, known, known.outcome)
            db.execute("DELETE FROM claim WHERE campaign=?", (number,))
            db.execute("UPDATE campaign SET running=0 WHERE id=?", (number,))

    def _settle_lost(self, db: sqlite3.Connection, number: int) -> None:
        """Put rows in doubt that were claimed before the machine started anew, and not answered since."""
        for record, seq in self._claimed(number, boot_id()):
            for found in self._all(f"{_SELECT} WHERE id=? AND seq=? AND stands=state", record, seq):
                known = self._checked(found)
                _change(db, known, doubtful(known.outcome))

    # ---------------------------------------------------------------------------------------- display

    def __repr__(self) -> str:
        try:
            count = len(self.campaigns())
        except JournalError as error:
            # A traceback that shows variables asks a closed one too.
            return f"<Journal {str(self.path)!r}: {error.cause}>"
        return f"<Journal {str(self.path)!r}: {count} campaign{'s' if count != 1 else ''}>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        found = self.campaigns()
        rows = [(c.name, c.scope, c.sender, c.created[:16].replace("T", " "), c.summary) for c in found]
        text = "\n".join(
            [repr(self), *(f"  {name} ({scope}): {summary}" for name, scope, _, _, summary in rows)]
        )
        table = _html.table(("campaign", "where", "from", "began (UTC)", "rows"), rows) if rows else ""
        head = f"<p><strong>Journal</strong> {html.escape(str(self.path))}</p>"
        return {"text/plain": text, "text/html": _html.card(head + (table or "<p>no campaigns yet</p>"))}


class Ledger:
    """One run of one campaign: plan, claims, intents and answers; satisfies `merge.Journal`.

    `plan`, `arm` and `close` block for the disk and belong on the calling thread; `intend` and `record` on the
    loop of the run, where those of a few turns share a commit.
    """

    def __init__(
        self, journal: Journal, number: int, version: int, holder: Holder | None, terms: Terms | None = None
    ) -> None:
        self.version = version
        self._terms = terms
        self._journal = journal
        self._number = number
        self._holder = holder
        self._run = secrets.randbits(62)
        self._open: set[int] = set()
        self._pending: list[_Write] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unsynced_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._failed = False
        self.empty = not journal._all("SELECT 1 FROM record WHERE campaign=? LIMIT 1", number)  # noqa: SLF001 - a ledger is its journal's other half

    def __repr__(self) -> str:
        return f"<Ledger of run {self._run:x}: {len(self._open)} without an answer>"

    def known(self, key: str) -> Known | None:
        """Return what is known of a row from earlier runs."""
        return None if self.empty else self._journal.known(self._number, key)

    # ------------------------------------------------------------------------------- plan and claims

    def adopt(self) -> None:
        """Have the campaign go on with the template, From and server of this run: it was not refused."""
        if self._terms is not None:
            with self._journal._writing(synced=False) as db:  # noqa: SLF001
                db.execute(
                    "UPDATE campaign SET scope=?, sender=?, fingerprint=?, keys=?, version=? WHERE id=?",
                    (*self._terms, self.version, self._number),
                )

    def plan(self, rows: Sequence[Columns]) -> int:
        """Write rows that no earlier run planned; return the number of the first one's record, others follow.

        Args:
            rows: For each its key, position, digest and the values of `records.COLUMNS`.
        """
        with self._journal._writing(synced=False) as db:  # noqa: SLF001
            return self._insert(db, [(key_hash(row[0]), row) for row in rows])

    def _insert(self, db: sqlite3.Connection, rows: Sequence[tuple[int, Columns]]) -> int:
        # Never a number that a forgotten campaign had.
        highest = db.execute("SELECT seq FROM sqlite_sequence WHERE name='record'").fetchone()
        first = int(highest[0]) + 1 if highest is not None else 1
        records = []
        for number, (hashed, (key, position, digest, *columns)) in enumerate(rows, first):
            values = (number, key, 1, self.version, digest, "", position, *columns)
            records.append((self._number, hashed, *values, checksum(values)))
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
        with self._journal._writing(synced=False) as db:  # noqa: SLF001
            self._insert(db, [(key_hash(row[2]), row[2:]) for row in rows if not row[0]])
            for number, seq, key, position, digest, *columns in (row for row in rows if row[0]):
                stands = db.execute("SELECT state, reason FROM record WHERE id=?", (number,)).fetchone()
                row = (number, seq, key, position, digest, *columns)
                if stands == (row[state], row[reason]):
                    continue
                values = (number, key, seq + 1, self.version, digest, "", position, *columns)
                db.execute(_UPDATE, (*values[2:], checksum(values), number, seq))

    def arm(self, rows: Sequence[Row]) -> None:
        """Claim rows by one synced commit: after power loss these may have gone."""
        with self._journal._writing(synced=True) as db:  # noqa: SLF001
            self._claim(db, rows)
        self._unsynced_since = 0.0

    def _claim(self, db: sqlite3.Connection, rows: Sequence[Row]) -> None:
        text = ranges((row.record, row.seq) for row in rows)
        claim = (self._number, self._run, boot_id(), os.getpid(), text, checksum((text,)))
        db.execute("INSERT INTO claim (campaign, run, boot, pid, rows, sum) VALUES (?, ?, ?, ?, ?, ?)", claim)
        db.execute("UPDATE campaign SET running=1 WHERE id=? AND running=0", (self._number,))

    def arm_single(self, db: sqlite3.Connection, row: Row, hashed: int) -> None:
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
        self._enqueue(_Write(row.record, before, (*values[2:], checksum(values)), then))

    def _enqueue(self, write: _Write) -> None:
        self._pending.append(write)
        if len(self._pending) == 1:
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
        if not self._pending:
            return
        if not self._journal._lock.acquire(blocking=False):  # noqa: SLF001
            if self._loop is not None:
                self._loop.call_later(_MOMENT, self.flush)
            return
        try:
            self._commit()
        finally:
            self._journal._lock.release()  # noqa: SLF001

    def _commit(self) -> None:
        pending, self._pending = self._pending, []
        now = time.monotonic()
        self._unsynced_since = self._unsynced_since or now
        synced = now - self._unsynced_since >= SYNC_SECONDS
        error: BaseException | None = None
        lost: set[int] = set()
        try:
            lost = self._journal.write(functools.partial(self._change, pending=pending), synced=synced)
        except Exception as failure:  # noqa: BLE001 - each waiting row has to hear of it, or it would hang
            error = failure
            self._failed = True
        if synced and error is None:
            self._unsynced_since = 0.0
        elif self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(SYNC_SECONDS, self._sync)
        for write in pending:
            write.then(error or (_taken_over() if write.id in lost else None))

    def _change(self, db: sqlite3.Connection, pending: Sequence[_Write]) -> set[int]:
        """Write the changes; return the records that are not this run's any more."""
        answers = [(*w.change, w.id, w.seq) for w in pending if w.change is not None]
        intents = [w for w in pending if w.change is None]
        changed = 0
        if answers:
            changed += db.executemany(_UPDATE, answers).rowcount
            self._open.difference_update(w.id for w in pending if w.change is not None)
        if intents:
            run = self._run
            marks = [(run, checksum((w.id, w.seq, run)), w.id, w.seq) for w in intents]
            changed += db.executemany(_INTEND, marks).rowcount
            self._open.update(w.id for w in intents)
        if changed == len(pending):
            return set()
        return {w.id for w in pending if not self._stands(db, w)}

    def _stands(self, db: sqlite3.Connection, write: _Write) -> bool:
        """Tell whether a change has been made by this run, and not prevented by another."""
        query = "SELECT record.seq, intent.seq, intent.run FROM record LEFT JOIN intent ON intent.id = record.id WHERE record.id=?"
        found = db.execute(query, (write.id,)).fetchone()
        if write.change is None:
            return bool(found == (write.seq, write.seq, self._run))
        return found is not None and found[0] == write.seq + 1

    def _sync(self) -> None:
        """Have answers outlive a power failure although no window follows them."""
        self._timer = None
        if self._unsynced_since and not self._pending:
            if not self._journal._lock.acquire(blocking=False):  # noqa: SLF001
                self._timer = self._loop.call_later(_MOMENT, self._sync) if self._loop is not None else None
                return
            try:
                with contextlib.suppress(JournalError), self._journal._writing(synced=True) as db:  # noqa: SLF001
                    db.execute("UPDATE campaign SET running=1 WHERE id=?", (self._number,))
                    self._unsynced_since = 0.0
            finally:
                self._journal._lock.release()  # noqa: SLF001

    def close(self) -> None:
        """End the run, durably; rows that were claimed and not tried are as they were before."""
        if self._timer is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._timer.cancel)
        try:
            with self._journal._writing(synced=True) as db:  # noqa: SLF001
                if not self._open and not self._failed:
                    db.execute("DELETE FROM claim WHERE run=?", (self._run,))
                    if self._holder is not None:
                        db.execute("UPDATE campaign SET running=0 WHERE id=?", (self._number,))
        finally:
            if self._holder is not None:
                self._holder.release()


@dataclass(frozen=True, slots=True)
class Glance:
    """A campaign as it stands, looked at while somebody may be sending it.

    Attributes:
        path: The journal's file.
        journal: The journal, or None where there is none yet.
        number: The campaign's number there, or None where it is new.
        lost: The records, as written so many times, that a power failure put in doubt.
        holder: Who seems to be sending it at this moment, in words, or "".
    """

    path: Path
    journal: Journal | None = None
    number: int | None = None
    lost: frozenset[tuple[int, int]] = frozenset()
    holder: str = ""

    def known(self, key: str) -> Known | None:
        """Return what the next run would know of a row: what a dead run left open is in doubt."""
        if self.journal is None or self.number is None:
            return None
        known = self.journal.known(self.number, key)
        if known is not None and (known.id, known.seq) in self.lost:
            return dataclasses.replace(known, outcome=doubtful(known.outcome))
        return known


@contextlib.contextmanager
def look(
    path: str | Path | None,
    campaign: str,
    *,
    scope: str,
    sender: str,
    fingerprint: str,
    key: Sequence[str] | None = None,
    changed: Literal["stop", "send-rest"] = "stop",
) -> Iterator[Glance]:
    """Look at a mailing as `Journal.begin` would find it.

    Nothing is written, no file is made, and nobody is kept from sending the campaign meanwhile.

    Args:
        path: The journal's file, as in `Journal`.
        campaign: As in `Journal.begin`, like the others.
        scope: Where it would go.
        sender: Its From.
        fingerprint: Tells its template from another.
        key: The columns that identify a row.
        changed: Whether another template, From or server is refused.

    Raises:
        MergeRefusedError: `Journal.begin` would refuse it for what it is; never because somebody sends it.
        JournalError: The file is damaged or cannot be read.
    """
    _refuse_reserved(campaign)
    journal = Journal.to_read(path)
    if journal is None:
        yield Glance(_given(path))
        return
    with contextlib.closing(journal):
        yield journal.glance(campaign, Terms(scope, sender, fingerprint, json.dumps(key)), changed)


@dataclass(slots=True)
class _Write:
    """One change that waits for its commit: an answer's columns, or None for an intent.

    *seq* is how often the record had been written before.
    """

    id: int
    seq: int
    change: tuple[Any, ...] | None
    then: Then


def _settle(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


_MOMENT = 0.001
#: So many turns a change waits for others to share its commit; a turn takes microseconds where nothing happens.
_TURNS = 3


def _due_later(row: Columns, state: int) -> Columns:
    """Return a row of `Ledger.note` as it is written: skipped is not how a row can stand."""
    return (*row[:state], State.PLANNED.value, *row[state + 1 :]) if row[state] == State.SKIPPED else row


def _taken_over() -> MergeRefusedError:
    cause = "Another run has taken over this campaign; this one sends no more."
    error = MergeRefusedError(cause, "Look at Journal() for what it sent.")
    error.passing = True
    return error


def _change(db: sqlite3.Connection, known: Known, outcome: Outcome) -> None:
    """Give a record another outcome; for rows that no run has open."""
    accepted = "\n".join(known.accepted)
    values = (
        known.id, known.key, known.seq + 1, known.version, known.digest, accepted, outcome.row, *packed(outcome)
    )  # fmt: skip
    db.execute(_UPDATE, (*values[2:], checksum(values), known.id, known.seq))


# ------------------------------------------------------------------------------------------------ file


def _connected(path: str | Path, *, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=uri
    )


def journal_path() -> Path:
    """Return where a journal is that nobody names: what ``SMTP_NOTEBOOK_JOURNAL`` says, else the user's own."""
    return _given(None)


def _given(path: str | Path | None) -> Path:
    """Return where the journal is to be: as named, else what the environment says, else the user's own."""
    return Path(path or os.environ.get(PATH_VARIABLE) or _default_path()).expanduser().absolute()


def _refuse_reserved(campaign: str) -> None:
    if campaign == SINGLE:
        raise MergeRefusedError(f"The campaign name {campaign!r} is taken by send().", "Choose another.")


def _default_path() -> Path:
    import platformdirs

    return Path(platformdirs.user_state_dir("smtp_notebook", appauthor=False)) / "journal.sqlite3"
