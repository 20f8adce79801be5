"""What remembers every mailing: which rows are planned, armed, intended and answered.

Inside a window of claimed rows a file's commits are not synced: they survive a killed process, and after power loss
every row of the window is in doubt, which is said. What a run writes is in `ledger`; this module has what lies around a
run: which campaigns there are, what a dead run left, what a person decides.

The rules are here, once; they stand on a `store`, which is a file of SQLite's or a PostgreSQL database. It holds no
secret and no text of a mail.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import html
import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from smtp_notebook import _html, entries
from smtp_notebook.entries import SELECT
from smtp_notebook.holder import stamp
from smtp_notebook.ledger import Columns, Ledger, PassingJournal, Row
from smtp_notebook.outcome import JournalError, MergeRefusedError, Outcome, Report, State
from smtp_notebook.pace import Pace
from smtp_notebook.places import PATH_VARIABLE, DatabaseURL, given
from smtp_notebook.postgres_store import PostgresStore
from smtp_notebook.records import Stored
from smtp_notebook.schema import checksum, key_hash
from smtp_notebook.sqlite_store import SQLiteStore
from smtp_notebook.standing import SINGLE, Known, Terms, doubtful, key_name, skipped_once, spread, when
from smtp_notebook.store import Database, Held, Store

if TYPE_CHECKING:
    import pandas as pd

    from smtp_notebook.connection import Connection
    from smtp_notebook.rate import Rate

__all__ = [
    "PATH_VARIABLE",
    "Campaign",
    "Columns",
    "Glance",
    "Journal",
    "Ledger",
    "PassingJournal",
    "Row",
    "journal_path",
    "look",
]

_READ_AT_ONCE = 10_000
#: So many values a query is given at most.
_ASKED_AT_ONCE = 500
_WENT = frozenset({State.SENT, State.PARTIAL, State.IN_DOUBT})

T = TypeVar("T")


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
    """The record of every mailing: a file of one person, or a PostgreSQL database that several machines share.

    Args:
        path: The file, or ``postgresql://host/database``; by default what ``SMTP_NOTEBOOK_JOURNAL`` names, else
            ``journal.sqlite3`` in the user's state folder. A URL's password may stand in the environment alone; libpq
            also takes it from ``PGPASSWORD``, a password file or a service file. The tables are in the schema
            ``smtp_notebook``, or in the one that the URL names with ``?schema=``; they are made where there are none.

    Attributes:
        new: Whether it was made just now.

    Raises:
        JournalError: It cannot be opened, is damaged, or was written by a newer version.
        SettingsError: A password stands in the URL, and not in the environment.
    """

    def __init__(self, path: str | Path | DatabaseURL | None = None) -> None:
        place = given(path)
        self._store: Store = PostgresStore(place) if isinstance(place, DatabaseURL) else SQLiteStore(place)

    @classmethod
    def to_read(cls, path: str | Path | DatabaseURL | None = None, *, whole: bool = False) -> Journal | None:
        """Return the journal at *path*, open for reading alone; None where there is none, and none is made.

        Args:
            path: As in `Journal`.
            whole: Look for torn pages of a file however large it is, which may take seconds.

        A file of an older version stays as it is: a private copy of it is moved to the present form.

        Raises:
            JournalError: As from `Journal`; a database of an older version, too.
        """
        place = given(path)
        store: Store | None
        if isinstance(place, DatabaseURL):
            store = PostgresStore.to_read(place)
        else:
            store = SQLiteStore.to_read(place, whole=whole)
        if store is None:
            return None
        self = cls.__new__(cls)
        self._store = store
        return self

    @property
    def path(self) -> Path | DatabaseURL:
        """Where it is; of a database the URL, which shows itself without a password."""
        return self._store.path

    @property
    def new(self) -> bool:
        """Whether it was made just now."""
        return self._store.new

    def write(self, change: Callable[[Database], T], *, synced: bool) -> T:
        """Run one transaction and return what *change* returns; see `store.Store.write`."""
        return self._store.write(change, synced=synced)

    def close(self) -> None:
        """Close the file, or end the session."""
        self._store.close()

    # ---------------------------------------------------------------------------------------- reading

    def _all(self, query: str, *values: Any) -> list[Any]:
        return self._store.all(query, *values)

    def _damaged(self, what: str) -> JournalError:
        return self._store.damaged(what)

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

    def _stored(self, number: int, condition: str = "1=1") -> Stored:
        """Return the rows of a campaign that fit a condition, which is SQL of ours."""
        return entries.stored(self._store, number, condition)

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
        return entries.known(self._store, number, key)

    def known_of(self, number: int, keys: Sequence[str]) -> list[Known]:
        """Return what is known of some rows, those alone that are; as many keys as SQLite takes values.

        Raises:
            JournalError: As from `known`.
        """
        query = f"{SELECT} WHERE campaign=? AND hash IN ({', '.join('?' * len(keys))})"
        wanted = set(keys)
        found = self._all(query, number, *map(key_hash, keys))
        return [self._checked(record) for record in found if record[1] in wanted]

    def gone(self, campaign: str, keys: Sequence[str]) -> set[str]:
        """Return those of some keys whose mails a campaign sent, or may have sent; as many as from `known_of`."""
        went = {State.SENT, State.IN_DOUBT}
        return {known.key for known in self.known_of(self._number(campaign), keys) if known.state in went}

    def known_at(self, records: Sequence[int]) -> list[Known]:
        """Return what is known of the records of some numbers, in any order.

        Raises:
            JournalError: As from `known`.
        """
        found: list[Known] = []
        for start in range(0, len(records), _ASKED_AT_ONCE):
            some = records[start : start + _ASKED_AT_ONCE]
            query = f"{SELECT} WHERE id IN ({', '.join('?' * len(some))})"
            found += map(self._checked, self._all(query, *some))
        return found

    def _checked(self, record: Sequence[Any]) -> Known:
        return entries.checked(self._store, record)

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
            for record in self._all(f"{SELECT} WHERE campaign=? ORDER BY id", number):
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
        known = ((self._all(f"{SELECT} WHERE id=?", number), name) for number, name in found)
        return [(name, self._checked(record[0]).outcome) for record, name in known if record]

    def past(self, scope: str, seconds: float) -> list[tuple[float, int, int]]:
        """Return how much went to a server of late: age in seconds, mails, recipients; summed by minutes.

        Single mails count for every server, for it is not known which one took them.
        """
        now = time.time()
        people = "length(recipients) - length(replace(recipients, ?, '')) + 1"
        query = (
            f"SELECT min(? - started), count(*), sum({people}) FROM record JOIN campaign ON campaign.id = campaign "
            "WHERE scope IN (?, '') AND started > ? AND attempts > 0 GROUP BY CAST((? - started) / 60 AS INTEGER)"
        )
        found = self._all(query, now, "\n", scope, now - seconds, now)
        return [(max(0.0, age), int(n), int(m)) for age, n, m in found]

    # --------------------------------------------------------------------------------------- deciding

    def resolve(self, campaign: str, key: str, *, delivered: bool) -> None:
        """Say what became of a row in doubt: ``delivered=False`` lets the next run send it.

        Raises:
            JournalError: The row is not in doubt.
            MergeRefusedError: The campaign is being sent at this moment.
        """
        number = self._number(campaign)

        def change(db: Database) -> None:
            self._store.alone(db, campaign)
            self._settle_lost(db, number)
            known = self.known(number, key)
            if known is None or known.state is not State.IN_DOUBT:
                cause = f"The row {key!r} of {campaign!r} is not in doubt."
                raise JournalError(cause, f"report({campaign!r}).in_doubt lists those that are.")
            state = State.SENT if delivered else State.PLANNED
            outcome = known.outcome.with_(
                state=state, status=0, reason="Resolved by a person.", fix="", code=None, enhanced=""
            )
            entries.change(db, known, outcome)

        with self._held(campaign) as held:
            self._store.write(change, synced=True, held=held)

    @contextlib.contextmanager
    def _held(self, campaign: str) -> Iterator[Held | None]:
        """Keep a campaign from being sent meanwhile; single mails are nobody's."""
        held = self._store.hold(campaign, _a_run()) if campaign != SINGLE else None
        try:
            yield held
        finally:
            if held is not None:
                held.release()

    def forget(self, campaign: str) -> None:
        """Forget a mailing: whoever had it may get it again. A watch of that name begins anew.

        Raises:
            MergeRefusedError: It is being sent at this moment.
        """
        if not self._all("SELECT 1 FROM watch WHERE name=?", campaign):
            self._number(campaign)

        def change(db: Database) -> None:
            self._store.alone(db, campaign)
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

        with self._held(campaign) as held:
            self._store.write(change, synced=True, held=held)

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
        run = _a_run()
        held = self._store.hold(campaign, run)
        try:
            self._store.check()
            now = Terms(scope, sender, fingerprint, json.dumps(key))
            number, version = self._campaign(campaign, now, changed, held)
            self._recover(number, held)
            return Ledger(self._store, number, version, run, held, now)
        except BaseException:
            held.release()
            raise

    def join(self, campaign: str, run: int, batch: int) -> Ledger:
        """Take a batch of another client's run, and from whoever had it before.

        What is written by what this returns is of the rows of that batch alone; it plans none.

        Args:
            campaign: The run's.
            run: Its `Ledger.run`.
            batch: The batch's number within that run.

        Raises:
            MergeRefusedError: The run has ended.
            JournalError: It cannot be read or written, or is a file.
        """
        number = self._number(campaign)
        version = int(self._all("SELECT version FROM campaign WHERE id=?", number)[0][0])
        token = _a_run()
        return Ledger(self._store, number, version, token, self._store.join(campaign, run, batch, token))

    def pace(self, connection: Connection, rates: tuple[Rate, ...]) -> Pace:
        """Return a server's rate as all who share this journal keep it."""
        name = f"{connection.host}:{connection.port} {connection.user}"
        return Pace(self._store, name, rates)

    def ahead(self, clock: Callable[[], dt.datetime]) -> float:
        """Return how many seconds the clock of all who share this journal is ahead of another."""

        def read(db: Database) -> float:
            before = clock()
            shared = self._store.clock(db)
            return shared - (before.timestamp() + clock().timestamp()) / 2

        return self._store.write(read, synced=False)

    def glance(self, campaign: str, now: Terms, changed: str) -> Glance:
        """Look at a mailing; see `look`."""
        with self._store.reading():
            found = self._version(campaign, now, changed)
            if found is None:
                return Glance(self.path, self)
            number, _ = found
            running = self._all("SELECT 1 FROM campaign WHERE id=? AND running=1", number)
            lost = self._claimed(number) if running else ()
            return Glance(self.path, self, number, frozenset(lost), self._store.holder(campaign))

    def single(self, row: Row, *, once: bool) -> tuple[Ledger, Outcome | None, str]:
        """Open one mail, known by what it says: no campaign, and no lock that others would wait for.

        Args:
            row: The mail, whose digest identifies it.
            once: Whether a mail that went before, or may have, is not sent again.

        Returns:
            The Ledger of this mail; an Outcome when it is not to be sent; and what to say of earlier
            ones, or "".
        """
        return self._store.write(lambda db: self._single(db, row, once=once), synced=True)

    def _single(self, db: Database, row: Row, *, once: bool) -> tuple[Ledger, Outcome | None, str]:
        self._store.alone(db, SINGLE)
        name = row.digest.hex()
        db.execute(
            "INSERT INTO campaign (name, scope, sender, fingerprint, version, created) VALUES (?, '', '', '', 1, ?) "
            "ON CONFLICT (name) DO NOTHING",
            (SINGLE, stamp()),
        )
        number = self._number(SINGLE)
        # Before its copies: in PostgreSQL each query sees what was committed before it, and whoever sends one of them at
        # this moment may have an answer, and be gone, by the next.
        sending = self._sending(number) if once else {}
        # The copies of one mail share a hash, and have a number each.
        copies = self._all(
            f"{SELECT} WHERE campaign=? AND hash=? AND key LIKE ?", number, key_hash(name), f"{name}#%"
        )
        lost = self._claimed(number) if copies else set()
        earlier = [self._checked(copy) for copy in copies]
        found = [doubtful(k.outcome) if (k.id, k.seq) in lost else k.outcome for k in earlier]
        went = [o for o in found if o.state in _WENT]
        said = f"the same mail went before ({when(went[-1])})" if went else ""
        row.key = f"{name}#{len(found) + 1}"
        ledger = Ledger(self._store, number, 1, _a_run(), None)
        if once and went:
            return ledger, skipped_once(row, went[-1]), said
        if twin := next((sending[k.id] for k in earlier if k.id in sending), None):
            cause = f"The same mail is being sent at this moment, by process {twin}."
            raise MergeRefusedError(cause, "Wait for it; it is not sent a second time.")
        ledger.arm_single(db, row, key_hash(name))
        return ledger, None, said

    def _sending(self, number: int) -> dict[int, int]:
        """Return the records that somebody who lives has claimed, and by which process that is."""
        query = "SELECT pid, rows FROM claim WHERE campaign=? AND boot=?"
        return {
            record: pid
            for pid, rows in self._all(query, number, self._store.era)
            if self._store.alive(pid)
            for record, _ in spread(rows)
        }

    def _campaign(self, name: str, now: Terms, changed: str, held: Held) -> tuple[int, int]:
        """Return the campaign's number, and which version of it these terms are; a new one is written."""
        found = self._version(name, now, changed)
        if found is not None:
            return found

        def change(db: Database) -> int:
            db.execute(
                "INSERT INTO campaign (name, scope, sender, fingerprint, keys, version, created) VALUES (?, ?, ?, ?, ?, 1, ?)",
                (name, *now, stamp()),
            )
            return int(db.execute("SELECT id FROM campaign WHERE name=?", (name,)).fetchone()[0])

        return self._store.write(change, synced=True, held=held), 1

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

    def _claimed(self, number: int) -> set[tuple[int, int]]:
        """Return the records, as written so many times, that were claimed before the present era."""
        found: set[tuple[int, int]] = set()
        query = "SELECT id, rows, sum FROM claim WHERE campaign=? AND boot<>?"
        for claim, rows, total in self._all(query, number, self._store.era):
            if checksum((rows,)) != total:
                raise self._damaged(f"the claim {claim} does not fit its checksum")
            found.update(spread(rows))
        return found

    def _recover(self, number: int, held: Held) -> None:
        """Put what a dead run left open into its one known state; only the holder may call this."""
        if not self._all("SELECT 1 FROM campaign WHERE id=? AND running=1", number):
            return
        mine = "id IN (SELECT id FROM record WHERE campaign=?)"
        for intent in self._all(f"SELECT id, seq, run, sum FROM intent WHERE {mine}", number):
            if checksum(intent[:3]) != intent[3]:
                raise self._damaged(f"the intent of record {intent[0]} does not fit its checksum")

        def change(db: Database) -> None:
            self._settle_lost(db, number)
            for record in self._all(f"{SELECT} WHERE campaign=? AND stands<>state", number):
                known = self._checked(record)
                entries.change(db, known, known.outcome)
            db.execute("DELETE FROM claim WHERE campaign=?", (number,))
            db.execute("UPDATE campaign SET running=0 WHERE id=?", (number,))

        self._store.write(change, synced=True, held=held)

    def end_joined(self, ledger: Ledger) -> None:
        """Have nobody who joined a run write any more, and put what they left open into its one known state."""
        held = ledger.held
        assert held is not None
        self._store.fence_off(held)
        self._recover(ledger.number, held)

    def _settle_lost(self, db: Database, number: int) -> None:
        """Put rows in doubt that were claimed before the present era, and not answered since."""
        for record, seq in sorted(self._claimed(number)):
            for found in self._all(f"{SELECT} WHERE id=? AND seq=? AND stands=state", record, seq):
                known = self._checked(found)
                entries.change(db, known, doubtful(known.outcome))

    # ---------------------------------------------------------------------------------------- display

    def __repr__(self) -> str:
        # A traceback that shows variables asks one that could not be opened, and one that is closed, too.
        if not hasattr(self, "_store"):
            return "<Journal that is not open>"
        try:
            count = self._all("SELECT count(*) FROM campaign")[0][0]
        except JournalError as error:
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


@dataclass(frozen=True, slots=True)
class Glance:
    """A campaign as it stands, looked at while somebody may be sending it.

    Attributes:
        path: Where the journal is.
        journal: The journal, or None where there is none yet.
        number: The campaign's number there, or None where it is new.
        lost: The records, as written so many times, that a power failure put in doubt.
        holder: Who seems to be sending it at this moment, in words, or "".
    """

    path: Path | DatabaseURL
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
    path: str | Path | DatabaseURL | None,
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
        path: Where the journal is, as in `Journal`.
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
        yield Glance(given(path))
        return
    with contextlib.closing(journal):
        yield journal.glance(campaign, Terms(scope, sender, fingerprint, json.dumps(key)), changed)


def journal_path() -> Path | DatabaseURL:
    """Return where a journal is that nobody names: what ``SMTP_NOTEBOOK_JOURNAL`` says, else the user's own."""
    return given(None)


def _a_run() -> int:
    """Return a number for a run that no other has."""
    return secrets.randbits(62)


def _refuse_reserved(campaign: str) -> None:
    if campaign == SINGLE:
        raise MergeRefusedError(f"The campaign name {campaign!r} is taken by send().", "Choose another.")
