"""What remembers a merge: which rows were claimed, intended and answered.

A row is *armed* by a synced commit, *intended* by a commit before its final dot leaves, and answered by a
commit after the reply. Inside a window of armed rows commits are not synced: they survive a killed process,
and after power loss every row of the window is in doubt, which is said. An intent is a compare-and-swap on
the claim: no row changed, no dot.

The file is SQLite (https://sqlite.org/wal.html; no WAL on a network file system, where it does not work). It
holds no secret and no text of a mail.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import hashlib
import html
import json
import os
import platform
import secrets
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from smtp_notebook import _html
from smtp_notebook.outcome import JournalError, MergeRefusedError, Outcome, Report, State

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Campaign", "Journal", "Ledger", "PassingJournal"]

PATH_VARIABLE = "SMTP_NOTEBOOK_JOURNAL"
#: How many rows one synced commit arms; after power loss at most these are in doubt.
WINDOW = 64
_BUSY_SECONDS = 10.0
_ARMED, _INTENDED = "armed", "intended"
_NETWORK = ("nfs", "cifs", "smb", "9p", "afs", "sshfs", "glusterfs", "ceph", "lustre")
#: The campaign of mails that `send` sends.
SINGLE = "single mails"
_WENT = frozenset({State.SENT, State.PARTIAL, State.IN_DOUBT})
_OPEN = frozenset({State.PLANNED, State.DEFERRED, State.FAILED})

#: Named steps from an empty file to the present schema; their number is the file's ``user_version``.
_MIGRATIONS: tuple[tuple[str, str], ...] = (
    (
        "campaigns and rows",
        """
        CREATE TABLE campaign (
            id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, scope TEXT NOT NULL, sender TEXT NOT NULL,
            fingerprint TEXT NOT NULL, version INTEGER NOT NULL, created TEXT NOT NULL,
            rows INTEGER NOT NULL DEFAULT 0);
        CREATE TABLE row (
            campaign INTEGER NOT NULL REFERENCES campaign (id), key TEXT NOT NULL, seq INTEGER NOT NULL,
            state TEXT NOT NULL, run TEXT NOT NULL, boot TEXT NOT NULL, digest BLOB NOT NULL,
            version INTEGER NOT NULL, outcome TEXT NOT NULL, sum INTEGER NOT NULL,
            PRIMARY KEY (campaign, key)) WITHOUT ROWID;
        CREATE INDEX open_rows ON row (campaign, state) WHERE state IN ('armed', 'intended');
        """,
    ),
)


class PassingJournal:
    """A journal in memory, for sends that count for nobody: the sandbox, tests, a redirect."""

    durable = False

    def __repr__(self) -> str:
        return "<PassingJournal>"

    async def claim(self, row: Any) -> Outcome | None:  # noqa: ARG002 - nothing is known of earlier runs, so every row is due
        """Take a row."""
        return None

    async def intend(self, row: Any) -> None:
        """Record that the final dot is about to leave."""

    async def record(self, row: Any, outcome: Outcome) -> None:
        """Record what happened."""

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


@dataclass(frozen=True, slots=True)
class Known:
    """What the journal holds of one row."""

    key: str
    state: str
    run: str
    boot: str
    digest: bytes
    version: int
    outcome: Outcome


class Journal:
    """The record of every mailing of one person, in one SQLite file.

    Args:
        path: The file; by default what ``SMTP_NOTEBOOK_JOURNAL`` names, else ``journal.sqlite3`` in the
            user's state folder.

    Raises:
        JournalError: The file cannot be opened, is damaged, or was written by a newer version.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path or os.environ.get(PATH_VARIABLE) or _default_path()).expanduser().absolute()
        self.new = not self.path.exists()
        self._lock = threading.RLock()
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._open()

    def _open(self) -> None:
        self._wal = not _on_network(self.path)
        mode = "WAL" if self._wal else "DELETE"
        self._db.execute(f"PRAGMA journal_mode={mode}")
        self._db.execute("PRAGMA synchronous=FULL")
        found = self._db.execute("PRAGMA quick_check").fetchone()[0]
        if found != "ok":
            raise self._damaged(str(found))
        self._migrate()

    def _migrate(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            cause = f"The journal {str(self.path)!r} was written by a newer smtp_notebook."
            raise JournalError(cause, "Upgrade this one, or name another file: journal=….")
        for number, (_, script) in enumerate(_MIGRATIONS[version:], version + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version={number}; COMMIT;")

    def _damaged(self, what: str) -> JournalError:
        return JournalError(
            f"The journal {str(self.path)!r} is damaged: {what}.",
            "Nothing was sent. Journal.export() reads what is good; restore the file from a backup.",
        )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
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
        """Run one transaction; *synced* makes it outlive a power failure."""
        with self._lock, self._explained():
            self._db.execute(f"PRAGMA synchronous={'FULL' if synced or not self._wal else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

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

    def _counts(self, number: int) -> dict[str, int]:
        rows = self._all("SELECT state, count(*) FROM row WHERE campaign=? GROUP BY state", number)
        return {str(state): count for state, count in rows}

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
        found = self._all(f"SELECT {_COLUMNS} FROM row WHERE campaign=? AND key=?", number, key)
        return self._checked(found[0]) if found else None

    def _checked(self, record: Sequence[Any]) -> Known:
        *values, total = record
        if _sum(values) != total:
            raise self._damaged(f"the record of {record[0]!r} does not fit its checksum")
        key, _, state, run, boot, digest, version, outcome = values
        return Known(key, state, run, boot, digest, version, _outcome(outcome))

    def report(self, campaign: str) -> Report:
        """Return the Outcomes of a mailing, as they were last recorded.

        Raises:
            JournalError: There is no such campaign, or a record is damaged.
        """
        rows = self._all(f"SELECT {_COLUMNS} FROM row WHERE campaign=?", self._number(campaign))
        found = [_now(self._checked(r)) for r in rows]
        return Report(sorted(found, key=lambda o: o.row or 0), title=f"Campaign {campaign}")

    def export(self) -> pd.DataFrame:
        """Return every good record as a DataFrame: campaign, scope, key, state and the Outcome's fields."""
        import pandas as pd

        found = []
        for number, name, scope in self._all("SELECT id, name, scope FROM campaign ORDER BY id"):
            for record in self._all(f"SELECT {_COLUMNS} FROM row WHERE campaign=?", number):
                with contextlib.suppress(JournalError):
                    known = self._checked(record)
                    outcome = dataclasses.asdict(_now(known))
                    found.append({"campaign": name, "scope": scope, **outcome, "version": known.version})
        return pd.DataFrame(found)

    # --------------------------------------------------------------------------------------- deciding

    def resolve(self, campaign: str, key: str, *, delivered: bool) -> None:
        """Say what became of a row in doubt: ``delivered=False`` lets the next run send it.

        Raises:
            JournalError: The row is not in doubt.
        """
        number = self._number(campaign)
        known = self.known(number, key)
        if known is None or known.state not in {State.IN_DOUBT, _INTENDED}:
            cause = f"The row {key!r} of {campaign!r} is not in doubt."
            raise JournalError(cause, f"report({campaign!r}).in_doubt lists those that are.")
        state = State.SENT if delivered else State.PLANNED
        outcome = known.outcome.with_(
            state=state, status=0, reason="Resolved by a person.", fix="", code=None, enhanced=""
        )
        with self._writing(synced=True) as db:
            self._put(db, number, dataclasses.replace(known, state=state, outcome=outcome))

    def forget(self, campaign: str) -> None:
        """Forget a mailing: whoever had it may get it again."""
        number = self._number(campaign)
        with self._writing(synced=True) as db:
            db.execute("DELETE FROM row WHERE campaign=?", (number,))
            db.execute("DELETE FROM campaign WHERE id=?", (number,))

    def _put(self, db: sqlite3.Connection, number: int, row: Known) -> None:
        """Write a record with its next sequence number and its checksum."""
        found = db.execute("SELECT seq FROM row WHERE campaign=? AND key=?", (number, row.key)).fetchone()
        seq = 1 if found is None else found[0] + 1
        values = [
            row.key,
            seq,
            str(row.state),
            row.run,
            row.boot,
            row.digest,
            row.version,
            _packed(row.outcome),
        ]
        db.execute(
            f"INSERT OR REPLACE INTO row (campaign, {_COLUMNS}) VALUES ({', '.join('?' * 10)})",
            (number, *values, _sum(values)),
        )
        if found is None:
            db.execute("UPDATE campaign SET rows = rows + 1 WHERE id=?", (number,))

    # ------------------------------------------------------------------------------------------ a run

    def begin(
        self,
        campaign: str,
        *,
        scope: str,
        sender: str,
        fingerprint: str,
        changed: Literal["stop", "send-rest"] = "stop",
    ) -> Ledger:
        """Open a mailing for one run; nobody else can until it is closed.

        Raises:
            MergeRefusedError: Another process runs it, or the template, From or server differs from
                before and *changed* is "stop".
            JournalError: The file is damaged or cannot be written.
        """
        if campaign == SINGLE:
            raise MergeRefusedError(f"The campaign name {campaign!r} is taken by send().", "Choose another.")
        holder = _Holder(self.path, campaign)
        try:
            number, version = self._campaign(campaign, scope, sender, fingerprint, changed)
            self._recover(number)
        except BaseException:
            holder.release()
            raise
        return Ledger(self, number, version, holder)

    def single(self, row: Any, *, once: bool) -> tuple[Ledger, Outcome | None, str]:
        """Open one mail, known by what it says: no campaign, and no lock that others would wait for.

        Args:
            row: The mail, whose digest identifies it.
            once: Whether a mail that went before, or may have, is not sent again.

        Returns:
            The Ledger of this mail; an Outcome when it is not to be sent; and what to say of earlier
            ones, or "".
        """
        name = row.digest.hex()[:32]
        with self._writing(synced=True) as db:
            db.execute(
                "INSERT OR IGNORE INTO campaign (name, scope, sender, fingerprint, version, created) VALUES (?, '', '', '', 1, ?)",
                (SINGLE, _stamp()),
            )
            number = self._number(SINGLE)
            found = self._all(
                f"SELECT {_COLUMNS} FROM row WHERE campaign=? AND key GLOB ?", number, f"{name}#*"
            )
            went = [o for o in (_now(self._checked(r)) for r in found) if o.state in _WENT]
            said = f"the same mail went before ({_when(went[-1])})" if went else ""
            ledger = Ledger(self, number, 1, None, alias=f"{name}#{len(found) + 1}")
            if once and went:
                return ledger, _skipped_once(row, went[-1]), said
            ledger.arm_single(db, row)
        return ledger, None, said

    def _campaign(
        self, name: str, scope: str, sender: str, fingerprint: str, changed: str
    ) -> tuple[int, int]:
        query = "SELECT id, sender, fingerprint, version, rows, scope FROM campaign WHERE name=?"
        found = self._all(query, name)
        if not found:
            with self._writing(synced=True) as db:
                cursor = db.execute(
                    "INSERT INTO campaign (name, scope, sender, fingerprint, version, created) VALUES (?, ?, ?, ?, 1, ?)",
                    (name, scope, sender, fingerprint, _stamp()),
                )
                return int(cursor.lastrowid or 0), 1
        number, old_sender, old_print, version, rows, old_scope = found[0]
        self._count(number, rows)
        what = [
            *([f"its From was {old_sender}, now it is {sender}"] if old_sender != sender else []),
            *(["its template is another"] if old_print != fingerprint else []),
            *(
                [f"it went to {_place(old_scope)}, now it goes to {_place(scope)}"]
                if old_scope != scope
                else []
            ),
        ]
        if not what:
            return number, version
        if changed != "send-rest":
            cause = f"The campaign {name!r} has changed since it began: {' and '.join(what)}."
            fix = 'changed="send-rest" sends the rest as it is now; another campaign= mails everyone.'
            if old_scope != scope:
                fix += f" If nobody got it there: Journal().forget({name!r})."
            raise MergeRefusedError(cause, fix)
        with self._writing(synced=True) as db:
            db.execute(
                "UPDATE campaign SET sender=?, fingerprint=?, scope=?, version=? WHERE id=?",
                (sender, fingerprint, scope, version + 1, number),
            )
        return number, version + 1

    def _count(self, number: int, rows: int) -> None:
        found = self._all("SELECT count(*) FROM row WHERE campaign=?", number)[0][0]
        if found != rows:
            raise self._damaged(f"it holds {found:,} of {rows:,} records of this campaign")

    def _recover(self, number: int) -> None:
        """Put what a dead run left open into its one known state; only the holder may call this."""
        left = self._all(
            f"SELECT {_COLUMNS} FROM row WHERE campaign=? AND state IN ('armed', 'intended')", number
        )
        if not left:
            return
        boot = _boot()
        with self._writing(synced=True) as db:
            for record in left:
                known = self._checked(record)
                doubtful = known.state == _INTENDED or known.boot != boot
                state = State.IN_DOUBT if doubtful else State.PLANNED
                self._put(db, number, dataclasses.replace(known, state=state, outcome=_left(known, state)))

    # ---------------------------------------------------------------------------------------- display

    def __repr__(self) -> str:
        count = len(self.campaigns())
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


_COLUMNS = "key, seq, state, run, boot, digest, version, outcome, sum"


class Ledger:
    """One run of one campaign: claims, intents and answers; satisfies `merge.Journal`."""

    durable = True

    def __init__(
        self, journal: Journal, number: int, version: int, holder: _Holder | None, *, alias: str = ""
    ) -> None:
        self.version = version
        self._alias = alias
        self._journal = journal
        self._number = number
        self._holder = holder
        self._run = secrets.token_hex(8)
        self._boot = _boot()
        self._ahead: list[Any] = []
        self._next = 0
        self._armed: set[str] = set()
        self._earlier: dict[str, tuple[str, ...]] = {}
        self._window = asyncio.Lock()
        self._pending: list[tuple[Known, bool, asyncio.Future[None]]] = []

    def __repr__(self) -> str:
        return f"<Ledger of run {self._run}: {len(self._armed)} armed>"

    def due(self, rows: Iterable[Any]) -> tuple[list[Any], list[Outcome]]:
        """Split rows into those to be sent now, and an Outcome for each of the others."""
        wanted: list[Any] = []
        others: list[Outcome] = []
        for row in rows:
            known = self._journal.known(self._number, row.key)
            verdict = None if known is None else _decided(row, known)
            if verdict is None:
                wanted.append(row)
                if known is not None and known.state == State.PARTIAL:
                    self._rest(row, known)
            else:
                others.append(verdict)
        self._ahead = wanted
        return wanted, others

    def _rest(self, row: Any, known: Known) -> None:
        """Have a partly accepted row go to those alone that were refused for the time being."""
        rest = tuple(a for a, said in known.outcome.refused if said.startswith("4"))
        row.envelope = dataclasses.replace(row.envelope, recipients=rest)
        self._earlier[row.key] = known.outcome.to

    def _key(self, row: Any) -> str:
        return self._alias or str(row.key)

    async def claim(self, row: Any) -> Outcome | None:
        """Take a row; arms a window of rows by one synced commit when it is not armed yet."""
        async with self._window:
            if self._key(row) not in self._armed:
                return await asyncio.to_thread(self._arm, row)
        return None

    def _arm(self, row: Any) -> Outcome | None:
        ahead = self._ahead[self._next : self._next + WINDOW]
        rows = [row, *(r for r in ahead if r is not row and r.attempts == 0)]
        self._next += len(ahead)
        refused: Outcome | None = None
        with self._journal._writing(synced=True) as db:  # noqa: SLF001 - a ledger is its journal's other half
            for each in rows:
                known = self._journal.known(self._number, self._key(each))
                taken = None if known is None or known.run == self._run else _decided(each, known)
                if taken is None:
                    armed = self._record(each, _ARMED, each.outcome(State.PLANNED))
                    self._journal._put(db, self._number, armed)  # noqa: SLF001
                    self._armed.add(self._key(each))
                elif each is row:
                    refused = taken
        return refused

    def arm_single(self, db: sqlite3.Connection, row: Any) -> None:
        """Arm the one mail of this ledger, inside its journal's transaction."""
        self._journal._put(db, self._number, self._record(row, _ARMED, row.outcome(State.PLANNED)))  # noqa: SLF001
        self._armed.add(self._alias)

    async def intend(self, row: Any) -> None:
        """Record that the final dot is about to leave.

        Raises:
            MergeRefusedError: The row is not this run's any more; no dot may leave.
        """
        outcome = row.outcome(State.IN_DOUBT, reason="The run ended before the server's answer was recorded.")
        await self._write(self._record(row, _INTENDED, outcome), guarded=True)

    async def record(self, row: Any, outcome: Outcome) -> None:
        """Record what happened; a row that is not sent stays this run's until it ends."""
        self._armed.discard(self._key(row))
        await self._write(self._record(row, str(outcome.state), outcome), guarded=False)

    def _record(self, row: Any, state: str, outcome: Outcome) -> Known:
        earlier = self._earlier.get(row.key, ())
        if earlier:
            outcome = outcome.with_(to=tuple(dict.fromkeys((*earlier, *outcome.to))))
        return Known(self._key(row), state, self._run, self._boot, row.digest, self.version, outcome)

    async def _write(self, known: Known, *, guarded: bool) -> None:
        """Write a record together with whatever else asks in this turn of the loop: one commit."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._pending.append((known, guarded, done))
        if len(self._pending) == 1:
            loop.call_soon(self._flush)
        await done

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        lost: list[asyncio.Future[None]] = []
        try:
            with self._journal._writing(synced=False) as db:  # noqa: SLF001
                for known, guarded, done in pending:
                    if guarded and not self._mine(db, known.key):
                        lost.append(done)
                        continue
                    self._journal._put(db, self._number, known)  # noqa: SLF001
        except Exception as error:  # noqa: BLE001 - each waiting row has to hear of it, or it would hang
            for _, _, done in pending:
                if not done.done():
                    done.set_exception(error)
            return
        for _, _, done in pending:
            if done.done():
                continue
            if done in lost:
                cause = "Another run has taken over this campaign; this one sends no more."
                done.set_exception(MergeRefusedError(cause, "Look at Journal() for what it sent."))
            else:
                done.set_result(None)

    def _mine(self, db: sqlite3.Connection, key: str) -> bool:
        found = db.execute(
            "SELECT run, state FROM row WHERE campaign=? AND key=?", (self._number, key)
        ).fetchone()
        return found is not None and found == (self._run, _ARMED)

    def close(self) -> None:
        """End the run: rows that were armed and not tried are planned again, durably."""
        try:
            with self._journal._writing(synced=True) as db:  # noqa: SLF001
                for key in self._armed:
                    known = self._journal.known(self._number, key)
                    if known is not None and (known.run, known.state) == (self._run, _ARMED):
                        self._journal._put(  # noqa: SLF001
                            db, self._number, dataclasses.replace(known, state=str(State.PLANNED))
                        )
        finally:
            if self._holder is not None:
                self._holder.release()


# ------------------------------------------------------------------------------------------ decisions


def _decided(row: Any, known: Known) -> Outcome | None:
    """Return the Outcome of a row that must not be sent now, or None when it is due."""
    before = known.outcome
    state = _now(known).state
    if state in _OPEN:
        return None
    if state is State.REFUSED and known.digest != row.digest:
        return None
    if state is State.PARTIAL and any(said.startswith("4") for _, said in before.refused):
        return None
    if state is State.IN_DOUBT:
        return before.with_(row=row.position, fix=_DOUBT_FIX)
    if state is State.REFUSED:
        return before.with_(row=row.position, reason=f"Refused before, unchanged since: {before.reason}")
    reason = f"This campaign had it already ({_when(before)}, version {known.version})."
    warnings = before.warnings
    if set(before.to) != set(row.envelope.recipients):
        warnings = (
            *warnings,
            f"sent to {', '.join(before.to)}, but the row now says {', '.join(row.envelope.recipients)}",
        )
    return before.with_(
        state=State.SKIPPED, status=0, row=row.position, reason=reason, fix="", warnings=warnings
    )


def _when(outcome: Outcome) -> str:
    return outcome.started.strftime("%Y-%m-%d %H:%M UTC") if outcome.started else "at an unknown time"


def _skipped_once(row: Any, before: Outcome) -> Outcome:
    """Return the Outcome of a mail that is sent once only; one in doubt stays in doubt."""
    if before.state is State.IN_DOUBT:
        reason = f"The same mail may have gone before ({_when(before)}); it is not sent again."
        fix = f'See Journal().report("{SINGLE}").in_doubt.'
        doubt: Outcome = row.outcome(State.IN_DOUBT, reason=reason, fix=fix)
        return doubt
    skipped: Outcome = row.outcome(State.SKIPPED, reason=f"The same mail went before ({_when(before)}).")
    return skipped


_DOUBT_FIX = (
    "Look into the recipient's mailbox, then Journal().resolve(campaign, key, delivered=True or False)."
)


def _left(known: Known, state: State) -> Outcome:
    if state is State.PLANNED:
        return known.outcome.with_(state=state, status=0, reason="")
    reason = "The run that sent it ended before the server's answer was recorded; it may have been delivered."
    return known.outcome.with_(state=state, status=0, reason=reason, fix=_DOUBT_FIX)


def _now(known: Known) -> Outcome:
    """Return a record as an Outcome; what a run has open at this moment counts as planned or in doubt."""
    state = {_ARMED: State.PLANNED, _INTENDED: State.IN_DOUBT}.get(known.state)
    return known.outcome if state is None else known.outcome.with_(state=state, status=0)


# -------------------------------------------------------------------------------------------- records


def _packed(outcome: Outcome) -> str:
    values = dataclasses.asdict(outcome) | {
        "started": outcome.started.isoformat() if outcome.started else None
    }
    return json.dumps({k: v for k, v in values.items() if v not in (None, "", ())}, ensure_ascii=False)


def _outcome(text: str) -> Outcome:
    values = json.loads(text)
    values["state"] = State(values["state"])
    for name in ("to", "warnings"):
        values[name] = tuple(values.get(name, ()))
    values["refused"] = tuple((a, said) for a, said in values.get("refused", ()))
    if values.get("started"):
        values["started"] = dt.datetime.fromisoformat(values["started"])
    return Outcome(**values)


def _sum(values: Sequence[Any]) -> int:
    """Return the checksum of a record; finds what a disk or an editor changed, guards against nobody."""
    return zlib.crc32(repr(tuple(bytes(v) if isinstance(v, memoryview) else v for v in values)).encode())


def _place(scope: str) -> str:
    kind, _, host = scope.partition(":")
    return f"{host} on this machine" if kind == "loopback" else host


def _stamp() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


# ---------------------------------------------------------------------------------- file and machine


def _default_path() -> Path:
    import platformdirs

    return Path(platformdirs.user_state_dir("smtp_notebook", appauthor=False)) / "journal.sqlite3"


def _boot() -> str:
    """Return what changes when this machine starts anew; a clock that was set counts as a new start."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{platform.node()} {round((time.time() - time.monotonic()) / 60)}"


def _on_network(path: Path) -> bool:
    """Tell whether *path* lies on a network file system, as far as Linux's mount table says."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return False
    under = [m for m in mounts if path.is_relative_to(m[1].replace("\\040", " "))]
    kind = max(under, key=lambda m: len(m[1]))[2].lower() if under else ""
    return any(name in kind for name in _NETWORK)


class _Holder:
    """Who runs a campaign: a lock on a file beside the journal, which the system drops with the process.

    What the file says (host, boot, process) is for the message, and for a lock of another host: that one
    is never taken over, because its process cannot be seen from here.
    """

    def __init__(self, path: Path, campaign: str) -> None:
        name = hashlib.sha256(campaign.encode()).hexdigest()[:16]
        self._path = path.with_name(f"{path.name}.{name}.lock")
        try:
            self._file = self._path.open("a+", encoding="utf-8")
        except OSError as error:
            cause = f"The journal's folder {str(path.parent)!r} cannot be written: {error.strerror}."
            raise JournalError(cause, "Name another file: journal=….") from None
        if not _locked(self._file):
            who = self._read()
            self._file.close()
            raise _held(campaign, who, "Wait for it, or interrupt it there.")
        who = self._read()
        if who and who.get("host") != platform.node():
            self._file.close()
            fix = f"If it is dead, delete {str(self._path)!r}."
            raise _held(campaign, who, fix)
        self._write({"host": platform.node(), "boot": _boot(), "pid": os.getpid(), "since": _stamp()})

    def _read(self) -> dict[str, Any]:
        self._file.seek(0)
        with contextlib.suppress(ValueError):
            found = json.loads(self._file.read())
            return found if isinstance(found, dict) else {}
        return {}

    def _write(self, who: dict[str, Any]) -> None:
        self._file.seek(0)
        self._file.truncate()
        if who:
            self._file.write(json.dumps(who))
        self._file.flush()

    def release(self) -> None:
        """Let others run the campaign."""
        if not self._file.closed:
            self._write({})
            self._file.close()


def _held(campaign: str, who: dict[str, Any], fix: str) -> MergeRefusedError:
    where = (
        f"process {who.get('pid', '?')} on {who.get('host', 'an unknown host')} since {who.get('since', '?')}"
    )
    return MergeRefusedError(f"The campaign {campaign!r} is being sent already, by {where}.", fix)


def _locked(file: Any) -> bool:
    """Take the lock of an open file without waiting; False when somebody has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
