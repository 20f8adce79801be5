"""A journal in PostgreSQL, which several machines share.

Every commit is synced: what a server that fails leaves is what was committed. Whoever sends a campaign holds an advisory
lock of the session, which ends with the client, and has its run's number in the table ``holder``; each transaction of
the run looks there first, so that a client whose session ended changes nothing once another run has begun.

A connection that is lost is made anew. Each transaction leaves its number in the table ``pulse``, which tells whether
the one that was under way had been committed; where it had not, it is run again.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from smtp_notebook.holder import held_by, here, words
from smtp_notebook.outcome import JournalError, MergeRefusedError
from smtp_notebook.places import DatabaseURL
from smtp_notebook.schema import POSTGRESQL
from smtp_notebook.store import Database, Held, taken_over

if TYPE_CHECKING:
    import psycopg

__all__ = ["PostgresStore"]

#: How long a lost connection is tried again, in seconds; a server that starts anew takes a few.
RECONNECT_SECONDS = 20.0
_PAUSE = 0.02
#: How long the lock of a client that has just died is waited for, in seconds.
_GRACE_SECONDS = 0.5
#: How long a session of this process that was lost may take to end, in seconds.
_GHOST_SECONDS = 5.0
_TRIES = 5
#: Nothing hangs for ever; in milliseconds for the server, and for the network in seconds.
_STATEMENT_MS, _LOCK_MS, _IDLE_MS = 60_000, 20_000, 60_000
_NETWORK = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "application_name": "smtp_notebook",
}
#: Servers before it have no identity columns.
_OLDEST = 100_000
#: What a client's last transaction was: the number is there where that was committed. The server's own number of a
#: transaction does not do: after a crash it may give the same one to another.
_PULSE = """INSERT INTO pulse (client, step, at) VALUES ({0}, {1}, now())
    ON CONFLICT (client) DO UPDATE SET step=excluded.step, at=excluded.at"""
_FORGET_PULSES = "DELETE FROM pulse WHERE at < now() - interval '30 days'"

_SETUP = f"""SELECT set_config('search_path', %s, false),
    set_config('statement_timeout', '{_STATEMENT_MS}', false), set_config('lock_timeout', '{_LOCK_MS}', false),
    set_config('idle_in_transaction_session_timeout', '{_IDLE_MS}', false),
    set_config('tcp_keepalives_idle', '30', false), set_config('tcp_keepalives_interval', '10', false),
    set_config('tcp_keepalives_count', '3', false), set_config('default_transaction_isolation', 'read committed', false),
    set_config('default_transaction_read_only', CASE WHEN %s THEN 'on' ELSE current_setting('default_transaction_read_only') END, false),
    set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN 'on' ELSE current_setting('synchronous_commit') END, false)"""
_FACTS = """SELECT pg_backend_pid(),
    coalesce((SELECT extract(epoch FROM backend_start)::text FROM pg_stat_activity WHERE pid = pg_backend_pid()), ''),
    current_setting('server_encoding'), current_setting('server_version_num')::bigint"""
_STARTED = "extract(epoch FROM pg_postmaster_start_time())"
# A promoted standby has another timeline, and may lack the last commits; so may a server without fsync that began anew.
_ERA = f"""SELECT (SELECT system_identifier FROM pg_control_system()) || '/'
    || CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END
    || CASE WHEN current_setting('fsync') = 'on' THEN '' ELSE '/' || {_STARTED} END"""
#: Where a server does not tell: one that began anew may be another.
_ANY_ERA = f"SELECT 'began ' || {_STARTED}"
_HOLD = """INSERT INTO holder (lock, run, campaign, host, pid, since) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (lock) DO UPDATE SET run=excluded.run, host=excluded.host, pid=excluded.pid, since=excluded.since,
    stopping=0"""
_LEASE = """INSERT INTO lease (run, batch, token) VALUES (?, ?, ?)
    ON CONFLICT (run, batch) DO UPDATE SET token=excluded.token"""
_LOCKED = """SELECT 1 FROM pg_locks WHERE locktype='advisory' AND granted AND objsubid=1 AND classid=? AND objid=?
    AND database=(SELECT oid FROM pg_database WHERE datname=current_database())"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Session:
    """A connection, and what is known of its server."""

    connection: psycopg.Connection[Any]
    process: int
    started: str
    era: str


class _Transaction:
    """A transaction that is open; satisfies `store.Database`."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, query: str, values: Sequence[Any] = (), /) -> Any:
        return self._connection.execute(_translated(query), values)

    def executemany(self, query: str, rows: Iterable[Sequence[Any]], /) -> Any:
        cursor = self._connection.cursor()
        cursor.executemany(_translated(query), rows)
        return cursor


class _Holding:
    """A campaign that a run of this store holds; satisfies `store.Held`."""

    guest = False

    def __init__(self, store: PostgresStore, campaign: str, lock: int, run: int, era: str) -> None:
        self._store = store
        self.campaign = campaign
        self.lock = lock
        self.run = run
        self.era = era
        #: Why it is held no more, or None.
        self.lost: JournalError | MergeRefusedError | None = None

    @property
    def fence(self) -> str:
        """What finds a row as long as it is held, and keeps that so until the transaction ends."""
        return f"SELECT 1 FROM holder WHERE lock={self.lock} AND run={self.run} FOR SHARE"

    def release(self) -> None:
        """Let others send the campaign; a server that is away has done so itself."""
        self._store.release(self)


class _Joined(_Holding):
    """A batch of a run that another client holds."""

    guest = True

    def __init__(self, store: PostgresStore, of: _Holding, batch: int, token: int) -> None:
        super().__init__(store, of.campaign, of.lock, of.run, of.era)
        self._batch, self._token = batch, token

    @property
    def fence(self) -> str:
        """As of `_Holding`; and nobody has taken the batch over."""
        return (
            f"SELECT 1 FROM holder JOIN lease USING (run) WHERE lock={self.lock} AND run={self.run} "
            f"AND batch={self._batch} AND token={self._token} FOR SHARE"
        )

    def release(self) -> None:
        """Take part no more."""
        self._store.leave(self)


class PostgresStore:
    """A journal's schema in a database; satisfies `store.Store`.

    Args:
        path: Where it is; the tables are made where there are none.

    Raises:
        JournalError: The server cannot be reached or used, or the tables are of a newer version.
    """

    inline = False

    def __init__(self, path: DatabaseURL) -> None:
        self._begin(path, reads=False)
        try:
            self.new = self._made()
            self._formed = True
        except BaseException:
            self.close()
            raise

    @classmethod
    def to_read(cls, path: DatabaseURL) -> PostgresStore | None:
        """Return it opened for reading alone, or None where there is none; see `Journal.to_read`."""
        self = cls.__new__(cls)
        self._begin(path, reads=True)
        try:
            version = self._version()
            if version is None:
                self.close()
                return None
            self._refuse_older(version)
        except BaseException:
            self.close()
            raise
        return self

    def _begin(self, path: DatabaseURL, *, reads: bool) -> None:
        self.path = path
        self.new = False
        self.lock = threading.RLock()
        self._reads = reads
        self._holding: dict[str, _Holding] = {}
        self._joined: set[_Joined] = set()
        self._transaction: _Transaction | None = None
        self._closed = False
        self._process = os.getpid()
        self._client = secrets.randbits(62)
        self._step = 0
        self._gave_up = False
        #: Whether the tables are in their present form.
        self._formed = False
        self._session: _Session | None = None
        with self._explained():
            self._session = self._connected()

    # ------------------------------------------------------------------------------------- the session

    def _connected(self) -> _Session:
        import psycopg

        settings: dict[str, Any] = _NETWORK | self.path.settings()
        if "," in settings.get("host", "") and not self._reads:
            # Of several servers the one that is written to.
            settings.setdefault("target_session_attrs", "read-write")
        connection = psycopg.connect(**settings, autocommit=True, client_encoding="utf8")
        try:
            _adapt(connection)
            connection.execute(_SETUP, (f'"{self.path.schema}", pg_catalog', self._reads))
            found = connection.execute(_FACTS).fetchone()
            assert found is not None
            process, started, encoding, version = found
            self._refuse_unfit(encoding, version)
            era = _era(connection)
        except BaseException:
            connection.close()
            raise
        return _Session(connection, process, started, era)

    def _refuse_unfit(self, encoding: str, version: int) -> None:
        if encoding != "UTF8":
            cause = (
                f"The database of the journal {str(self.path)!r} holds {encoding}, which lacks most letters."
            )
            raise JournalError(cause, "Name a database that was made with the encoding UTF8.")
        if version < _OLDEST:
            cause = f"The server of the journal {str(self.path)!r} is PostgreSQL {version // 10000}."
            raise JournalError(cause, "It takes PostgreSQL 10 or newer.")

    def _ready(self) -> psycopg.Connection[Any]:
        """Return the connection, made anew where it was lost."""
        if self._closed:
            cause = f"The journal {str(self.path)!r} is closed."
            raise JournalError(cause, "Open it again: Journal(…).")
        if self._process != os.getpid():
            self._leave_to_the_parent()
        session = self._session
        if session is None or _lost(session.connection):
            session = self._again()
        return session.connection

    def _leave_to_the_parent(self) -> None:
        """After a fork the connection is the parent's, and so is every campaign that it holds."""
        _INHERITED.append(self._session)
        self._process, self._session = os.getpid(), None
        for holding in (*self._holding.values(), *self._joined):
            holding.lost = taken_over()

    def _again(self) -> _Session:
        """Connect again, for a while, and take up what was held."""
        import psycopg

        before = self._session
        # Whoever asks after that was in vain does not wait as long again.
        until = time.monotonic() + (0 if self._gave_up else RECONNECT_SECONDS)
        while True:
            try:
                session = self._connected()
                try:
                    if before is not None:
                        self._end_ghost(session.connection, before)
                    for holding in (*self._holding.values(), *self._joined):
                        self._renew(session, holding)
                except BaseException:
                    session.connection.close()
                    raise
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    self._gave_up = True
                    raise
                time.sleep(_PAUSE)
            else:
                self._session, self._gave_up = session, False
                return session

    def _end_ghost(self, connection: psycopg.Connection[Any], before: _Session) -> None:
        """End the session that was lost, where the server does not know of that yet: it has locks, and may yet commit."""
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid=%s AND extract(epoch FROM backend_start)::text=%s"
        until = time.monotonic() + _GHOST_SECONDS
        while connection.execute(query.encode(), (before.process, before.started)).fetchall():
            if time.monotonic() > until:
                cause = f"The journal {str(self.path)!r} has a session of this process that does not end."
                raise JournalError(cause, "Run the cell again once the server has noticed.")
            time.sleep(_PAUSE)

    def _renew(self, session: _Session, holding: _Holding) -> None:
        """Lock a campaign again after the session was lost; that nobody had it meanwhile is seen in `_open`."""
        if holding.lost is not None:
            return
        if session.era != holding.era:
            cause = "The journal's server was replaced by another, which may lack what was written last."
            holding.lost = JournalError(
                cause, "Run the cell again: rows that may have gone will be listed in doubt."
            )
            return
        if holding.guest:
            return  # it has no lock of its own
        mine = session.connection.execute(
            "SELECT 1 FROM holder WHERE lock=%s AND run=%s", (holding.lock, holding.run)
        )
        if mine.fetchone() is None or not self._locks(session.connection, holding.lock, 10 * _GRACE_SECONDS):
            holding.lost = taken_over()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            raise self._said(error) from None

    def _said(self, error: psycopg.Error) -> JournalError:
        from psycopg import errors

        said = " ".join((error.diag.message_primary or str(error) or type(error).__name__).split())[:300]
        cause = (
            f"The journal {str(self.path)!r} cannot be used: {self.path.without_secrets(said).rstrip('.')}."
        )
        if isinstance(error, errors.InsufficientPrivilege):
            return JournalError(
                cause, f"Ask for the right to use, or to make, the schema {self.path.schema!r} there."
            )
        if isinstance(error, errors.ReadOnlySqlTransaction):
            return JournalError(cause, "Name the server that is written to, not its copy.")
        if isinstance(error, errors.QueryCanceled | errors.LockNotAvailable | errors.DeadlockDetected):
            return JournalError(
                cause, "Somebody else holds what is to be written, or the server is slow: try again."
            )
        if isinstance(error, errors.DiskFull):
            return JournalError(cause, "Make room on the server, or name another journal.")
        if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn):
            return JournalError(cause, "Its tables were changed or dropped: restore them from a backup.")
        fix = "Look whether the server runs; a password may come from PGPASSWORD or a password file, never from the cell."
        return JournalError(cause, fix)

    def damaged(self, what: str) -> JournalError:
        """Return what is said of damage."""
        return JournalError(
            f"The journal {str(self.path)!r} is damaged: {what}.",
            "Nothing was sent. Journal.export() reads what is good; restore the database from a backup.",
        )

    def check(self) -> None:
        """Do nothing: PostgreSQL looks after its own pages, and each record has its checksum."""

    def close(self) -> None:
        """End the session, and with it what is held."""
        with self.lock:
            self._closed = True
            session = getattr(self, "_session", None)
            if session is not None and self._process == os.getpid():
                session.connection.close()

    def __del__(self) -> None:
        # Journal().resolve(…) is how people use it.
        with contextlib.suppress(Exception):
            self.close()

    # ---------------------------------------------------------------------------------------- the tables

    def _version(self) -> int | None:
        """Return the version of the tables, or None where there are none."""
        # Not to_regclass, which may know nothing of what another client made since this transaction began.
        query = "SELECT 1 FROM pg_class JOIN pg_namespace n ON n.oid=relnamespace WHERE nspname=? AND relname='form'"
        if not self.all(query, self.path.schema):
            return None
        found = self.all("SELECT max(version) FROM form")
        version = int(found[0][0] or 0)
        if version > len(POSTGRESQL):
            cause = f"The journal {str(self.path)!r} was written by a newer smtp_notebook."
            raise JournalError(cause, "Upgrade this one, or name another: journal=….")
        return version

    def _refuse_older(self, version: int) -> None:
        if version < len(POSTGRESQL):
            cause = f"The journal {str(self.path)!r} was written by an older smtp_notebook."
            raise JournalError(cause, "Open it once to be written, which moves it: Journal(…).")

    def _made(self) -> bool:
        """Bring the tables to the present form; tell whether there were none."""
        first = self._version()
        if first == len(POSTGRESQL):
            return False

        def change(db: Database) -> bool:
            self.alone(db, "\n the form of the tables")
            # Another client may have done it while this one waited.
            version = self._version()
            if version is None:
                # IF NOT EXISTS asks for the right to make it, although it is there.
                if not db.execute(
                    "SELECT 1 FROM pg_namespace WHERE nspname=?", (self.path.schema,)
                ).fetchall():
                    db.execute(f'CREATE SCHEMA "{self.path.schema}"')
                db.execute(f'CREATE TABLE "{self.path.schema}".form (version BIGINT NOT NULL)')
            for number, step in enumerate(POSTGRESQL[version or 0 :], (version or 0) + 1):
                for statement in step.statements:
                    db.execute(statement)
                db.execute("INSERT INTO form VALUES (?)", (number,))
            return version is None

        return self.write(change, synced=True)

    # ------------------------------------------------------------------------------- reading and writing

    def all(self, query: str, *values: Any) -> list[Any]:
        """Return all rows of a query."""
        with self.lock, self._explained():
            if self._transaction is not None:
                rows: list[Any] = self._transaction.execute(query, values).fetchall()
                return rows
            return self._persistent(
                lambda connection: connection.execute(_translated(query), values).fetchall()
            )

    def _persistent(self, read: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Read, and once more where the connection turns out to be lost."""
        import psycopg

        connection = self._ready()
        try:
            return read(connection)
        except psycopg.OperationalError as error:
            if not _lost(connection, error):
                raise
        return read(self._ready())

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Have several queries see one moment of what others write to."""
        with self.lock, self._explained():
            self._persistent(
                lambda connection: connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            )
            connection = self._ready()
            self._transaction = _Transaction(connection)
            try:
                yield
            finally:
                self._transaction = None
                _roll_back(connection)  # nothing was written

    def write(self, change: Callable[[Database], T], *, synced: bool, held: Held | None = None) -> T:  # noqa: ARG002 - every commit is
        """Run one transaction; see `store.Store.write`."""
        assert held is None or isinstance(held, _Holding)
        with self.lock, self._explained():
            for left in reversed(range(_TRIES)):
                done, result = self._tried(change, held, last=not left)
                if done:
                    return result
            raise AssertionError  # the last try returns or raises

    def _tried(self, change: Callable[[Database], T], held: _Holding | None, *, last: bool) -> tuple[bool, T]:
        """Run a transaction once; return whether it was committed, and what came of it."""
        from psycopg import OperationalError
        from psycopg.errors import DeadlockDetected, SerializationFailure

        connection = self._ready()
        nothing: Any = None
        result: T = nothing
        committing = False
        try:
            self._open(connection, held)
            self._transaction = _Transaction(connection)
            result = change(self._transaction)
            self._transaction = None
            committing = True
            connection.execute(b"COMMIT", prepare=False)
        except (DeadlockDetected, SerializationFailure):
            _roll_back(connection)
            if last:
                raise
            return False, result
        except OperationalError as error:
            if not _lost(connection, error):
                _roll_back(connection)
                raise
            if committing and self._formed and self._was_committed(self._step):
                return True, result
            if last:
                raise
            return False, result
        except BaseException:
            _roll_back(connection)
            raise
        finally:
            self._transaction = None
        return True, result

    def _open(self, connection: psycopg.Connection[Any], held: _Holding | None) -> None:
        """Begin a transaction that leaves its number, of a run that still has its campaign."""
        self._step += 1
        begin = f"BEGIN; {_PULSE.format(self._client, self._step)}" if self._formed else "BEGIN"
        if held is None:
            connection.execute(begin.encode(), prepare=False)
            return
        if held.lost is not None:
            raise held.lost
        # Whoever takes the campaign over waits for this transaction, and the next one finds that.
        cursor = connection.execute(f"{begin}; {held.fence}".encode(), prepare=False)
        while cursor.nextset():
            pass
        if cursor.fetchone() is None:
            raise taken_over()

    def _was_committed(self, step: int) -> bool:
        """Ask a new session what became of a transaction whose commit had no answer; the old one has ended."""
        era = self.era
        self._ready()
        if self.era != era:
            cause = f"The journal {str(self.path)!r} was lost while it was written; what became of that is not known."
            raise JournalError(cause, "Run the cell again: what is not known will be listed in doubt.")
        found = self.all("SELECT step FROM pulse WHERE client=?", self._client)
        return bool(found) and found[0][0] == step

    def alone(self, db: Database, name: str) -> None:
        """Have no other transaction that says the same name run beside this one."""
        db.execute("SELECT pg_advisory_xact_lock(?)", (self._key(f"alone\n{name}"),))

    def clock(self, db: Database) -> float:
        """Return this moment by the server's clock; within a transaction it goes on."""
        found = db.execute("SELECT extract(epoch FROM clock_timestamp())::double precision").fetchone()
        return float(found[0])

    def numbers(self, db: Database, count: int) -> int:
        """Return the first of so many numbers of records that none ever had."""
        highest = db.execute("UPDATE numbering SET highest = highest + ? RETURNING highest", (count,))
        return int(highest.fetchone()[0]) - count + 1

    # -------------------------------------------------------------------------------------- who is there

    @property
    def era(self) -> str:
        """The server and its timeline: another one may lack the last commits."""
        if self._session is None:  # after a fork
            self._ready()
        assert self._session is not None
        return self._session.era

    @property
    def me(self) -> int:
        """The number of this session's process on the server."""
        return self._session.process if self._session is not None else 0

    def alive(self, number: int) -> bool:
        """Tell whether a process of the server lives; a number that was given away again counts as living."""
        return bool(self.all("SELECT 1 FROM pg_stat_activity WHERE pid=?", number))

    def _key(self, name: str) -> int:
        """Return the number of an advisory lock of this journal."""
        digest = hashlib.blake2b(
            f"{self.path.schema}\n{name}".encode("utf-8", "surrogatepass"), digest_size=8
        )
        return int.from_bytes(digest.digest(), "big", signed=True)

    def hold(self, campaign: str, run: int) -> Held:
        """Lock a campaign for this session, and write down who has it."""
        who = here()
        with self.lock, self._explained():
            lock = self._key(campaign)
            # A session may take its own lock twice.
            if campaign in self._holding or not (self._gets(lock) or self._gets_from_garbage(lock, who)):
                raise held_by(campaign, self._who(lock), "Wait for it, or interrupt it there.")
            holding = self._holding[campaign] = _Holding(self, campaign, lock, run, self.era)
            values = (lock, run, campaign, who["host"], who["pid"], who["since"])

            def change(db: Database) -> None:
                db.execute(_HOLD, values)
                db.execute(_FORGET_PULSES)

            try:
                self.write(change, synced=True)
            except BaseException:
                self._let_go(holding)
                raise
            if holding.lost is not None:  # the session was lost in between
                del self._holding[campaign]
                raise holding.lost
        return holding

    def _gets(self, lock: int) -> bool:
        return self._persistent(lambda connection: self._locks(connection, lock, _GRACE_SECONDS))

    def _gets_from_garbage(self, lock: int, me: dict[str, Any]) -> bool:
        """Take a lock from a run of this process that nobody can reach any more: whoever closes a loop leaves one."""
        found = self._who(lock)
        if (found.get("host"), found.get("pid")) != (me["host"], me["pid"]):
            return False
        gc.collect()
        return self._gets(lock)

    def _locks(self, connection: psycopg.Connection[Any], lock: int, seconds: float) -> bool:
        """Take an advisory lock; one of a client that has just died is free in a moment."""
        from psycopg.errors import LockNotAvailable

        found = connection.execute("SELECT pg_try_advisory_lock(%s)", (lock,)).fetchone()
        if found is not None and found[0]:
            return True
        try:
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = {round(1000 * seconds)}")
                connection.execute("SELECT pg_advisory_lock(%s)", (lock,))
        except LockNotAvailable:
            return False
        return True

    def release(self, holding: _Holding) -> None:
        """Let others have a campaign."""
        with self.lock:
            if self._holding.get(holding.campaign) is not holding:
                return
            with contextlib.suppress(JournalError, MergeRefusedError):
                if holding.lost is None and not self._closed:
                    gone = "DELETE FROM holder WHERE lock=? AND run=?"
                    self.write(lambda db: db.execute(gone, (holding.lock, holding.run)), synced=True)
            self._let_go(holding)

    def _let_go(self, holding: _Holding) -> None:
        import psycopg

        self._holding.pop(holding.campaign, None)
        if holding.lost is None and not self._closed and self._session is not None:
            with contextlib.suppress(psycopg.Error):
                self._session.connection.execute("SELECT pg_advisory_unlock(%s)", (holding.lock,))
        if holding.lost is None:
            holding.lost = taken_over()

    # ---------------------------------------------------------------------------------- several for one run

    def join(self, campaign: str, run: int, batch: int, token: int) -> Held:
        """Take a batch of a run's rows, from whoever had it."""
        run_itself = _Holding(self, campaign, self._key(campaign), run, self.era)
        joined = _Joined(self, run_itself, batch, token)

        def change(db: Database) -> None:
            # It waits for a transaction of whoever has it; the next one finds this token.
            db.execute(_LEASE, (run, batch, token))

        with self.lock:
            self.write(change, synced=True, held=run_itself)
            self._joined.add(joined)
        return joined

    def leave(self, joined: _Joined) -> None:
        """Take part in a run no more."""
        with self.lock:
            self._joined.discard(joined)
            joined.lost = joined.lost or taken_over()

    def fence_off(self, held: Held) -> None:
        """Have nobody who joined a run write any more."""
        assert isinstance(held, _Holding)
        before, after = held.run, secrets.randbits(62)

        def change(db: Database) -> None:
            db.execute("DELETE FROM lease WHERE run=?", (before,))
            db.execute(
                "UPDATE holder SET run=?, stopping=0 WHERE lock=? AND run=?", (after, held.lock, before)
            )

        self.write(change, synced=True, held=held)
        held.run = after

    def ask_to_stop(self, held: Held) -> None:
        """Have those who joined a run end in order."""
        assert isinstance(held, _Holding)
        query = "UPDATE holder SET stopping=1 WHERE lock=? AND run=?"
        self.write(lambda db: db.execute(query, (held.lock, held.run)), synced=True, held=held)

    def stopping(self, held: Held) -> bool | None:
        """Tell, who joined a run, whether it is to end; None where nobody holds its campaign at this moment."""
        assert isinstance(held, _Holding)
        found = self.all("SELECT stopping FROM holder WHERE lock=? AND run=?", held.lock, held.run)
        if not found or found[0][0]:
            return True
        return False if self._is_locked(held.lock) else None

    def _who(self, lock: int) -> dict[str, Any]:
        found = self.all("SELECT host, pid, since FROM holder WHERE lock=?", lock)
        return dict(zip(("host", "pid", "since"), found[0], strict=True)) if found else {}

    def holder(self, campaign: str) -> str:
        """Say in words who sends a campaign, or ""."""
        lock = self._key(campaign)
        return words(self._who(lock)) if self._is_locked(lock) else ""

    def _is_locked(self, lock: int) -> bool:
        unsigned = lock % 2**64
        return bool(self.all(_LOCKED, unsigned >> 32, unsigned % 2**32))


#: Connections that are a parent's: they are never closed here, which would end them there.
_INHERITED: list[_Session | None] = []


def _era(connection: psycopg.Connection[Any]) -> str:
    from psycopg.errors import FeatureNotSupported, InsufficientPrivilege, UndefinedFunction

    try:
        found = connection.execute(_ERA.encode()).fetchone()
    except (FeatureNotSupported, InsufficientPrivilege, UndefinedFunction):
        found = connection.execute(_ANY_ERA.encode()).fetchone()
    assert found is not None
    return str(found[0])


def _lost(connection: psycopg.Connection[Any], error: psycopg.Error | None = None) -> bool:
    """Tell whether a connection is of no use any more, as far as is known after an error of its."""
    from psycopg import errors

    if isinstance(
        error, errors.AdminShutdown | errors.CrashShutdown | errors.IdleInTransactionSessionTimeout
    ):
        # The server has said so; that it also hung up may not have been read yet.
        connection.close()
    return connection.closed or connection.broken


def _roll_back(connection: psycopg.Connection[Any]) -> None:
    """End a transaction; a connection that cannot is closed, which ends it too."""
    import psycopg
    from psycopg.pq import TransactionStatus

    try:
        if connection.info.transaction_status != TransactionStatus.IDLE and not _lost(connection):
            connection.execute(b"ROLLBACK", prepare=False)
    except psycopg.Error:
        connection.close()


@functools.cache
def _translated(query: str) -> bytes:
    return query.replace("%", "%%").replace("?", "%s").encode()


# ------------------------------------------------------------------------------------------------- text

_MARK = "\x1a"
_FOREIGN = re.compile(f"[\x00{_MARK}\ud800-\udfff]")
_WRITTEN = re.compile(f"{_MARK}([0-9a-f]{{4}})")


def escaped(text: str) -> str:
    """Return text as PostgreSQL takes it: it holds no NUL and no half of a character."""
    return _FOREIGN.sub(lambda found: f"{_MARK}{ord(found[0]):04x}", text)


def unescaped(text: str) -> str:
    """Return what `escaped` was given."""
    return _WRITTEN.sub(lambda found: chr(int(found[1], 16)), text) if _MARK in text else text


def _adapt(connection: psycopg.Connection[Any]) -> None:
    """Have a connection write and read text, and numbers of one size, as a journal needs it."""
    text, loaded, number = _adapters()
    connection.adapters.register_dumper(str, text)
    connection.adapters.register_loader("text", loaded)
    connection.adapters.register_dumper(int, number)


@functools.cache
def _adapters() -> tuple[Any, Any, Any]:
    from psycopg.adapt import Dumper, Loader
    from psycopg.types.numeric import Int8Dumper

    class Text(Dumper):
        """Text of no stated type, as PostgreSQL infers it."""

        def dump(self, obj: str) -> bytes:
            return escaped(obj).encode()

    class Loaded(Loader):
        """Text that may hold what `escaped` wrote."""

        def load(self, data: Any) -> str:
            return unescaped(bytes(data).decode())

    # Numbers of other sizes would make other prepared statements.
    return Text, Loaded, Int8Dumper
