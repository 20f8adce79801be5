"""A journal in a file of SQLite's, which one machine uses.

A commit is synced where it is asked for; the others survive a killed process, and a power failure takes them
(https://sqlite.org/wal.html; no WAL on a network file system, where it does not work).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from smtp_notebook.holder import Holder, alive, boot_id, on_network, publish, seen
from smtp_notebook.outcome import JournalError
from smtp_notebook.schema import MIGRATIONS
from smtp_notebook.store import Database, Held, not_shared

__all__ = ["SQLiteStore"]

_BUSY_SECONDS = 10.0
_QUICK_BYTES = 16 * 2**20
#: The log is copied into the file when it has so many pages; a merge writes the same ones again and again.
_CHECKPOINT_PAGES = 4000

T = TypeVar("T")


class SQLiteStore:
    """A journal's file; satisfies `store.Store`.

    Args:
        path: The file; it is made where there is none.

    Raises:
        JournalError: The file cannot be opened, is damaged, or was written by a newer version.
    """

    inline = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.RLock()
        self._synced: bool | None = None
        with self._explained():
            self.path = path.resolve()
            self.new = not self.path.exists()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._wal = not on_network(self.path)
            if self.new:
                self._make()
            self._refuse_empty()
            self._open(self.path)

    @classmethod
    def to_read(cls, path: Path, *, whole: bool = False) -> SQLiteStore | None:
        """Return the file opened for reading alone, or None where there is none; see `Journal.to_read`."""
        self = cls.__new__(cls)
        self.path = path
        self.lock, self._synced, self._wal, self.new = threading.RLock(), None, True, False
        with self._explained():
            self.path = path.resolve()
            if not self.path.exists():
                return None
            self._refuse_empty()
            # Not mode=ro: that would leave the log's files behind, and could not read over a dead run's.
            self._db = _connected(f"{self.path.as_uri()}?mode=rw", uri=True)
            self._db.execute("PRAGMA query_only=1")
            if whole or self.path.stat().st_size <= _QUICK_BYTES:
                self._look_through()
            if self._db.execute("PRAGMA user_version").fetchone()[0] < len(MIGRATIONS):
                with contextlib.closing(self._db) as file:
                    self._db = _connected("")
                    file.backup(self._db)
            self._migrate()
        return self

    # ---------------------------------------------------------------------------------------- the file

    def _refuse_empty(self) -> None:
        if not self.path.stat().st_size:
            raise self.damaged("it is empty, which a journal never is")

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
            self._look_through()
        self._migrate()

    def check(self) -> None:
        """Have SQLite look for torn pages and a torn index; of a large file only before a campaign begins."""
        with self.lock, self._explained():
            self._look_through()

    def _look_through(self) -> None:
        # A row that the index does not lead to would be mailed again.
        found = self._db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise self.damaged(str(found))

    def _migrate(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            cause = f"The journal {str(self.path)!r} was written by a newer smtp_notebook."
            raise JournalError(cause, "Upgrade this one, or name another file: journal=….")
        for number in range(version, len(MIGRATIONS)):

            def step(_: Database, number: int = number) -> None:
                # Another process may have done it while this one waited.
                if self._db.execute("PRAGMA user_version").fetchone()[0] == number:
                    MIGRATIONS[number].apply(self._db)
                    self._db.execute(f"PRAGMA user_version={number + 1}")

            self.write(step, synced=True)

    def damaged(self, what: str) -> JournalError:
        """Return what is said of damage."""
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
            raise self.damaged(str(error)) from error
        except OSError as error:
            cause = f"The journal {str(self.path)!r} cannot be used: {error.strerror or error}."
            raise JournalError(cause, "Name another file: journal=….") from error

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self._db.close()

    def __del__(self) -> None:
        # Journal().resolve(…) is how people use it; newer Pythons warn of a database that nobody closed.
        with contextlib.suppress(AttributeError, sqlite3.Error):
            self._db.close()

    # ------------------------------------------------------------------------------- reading and writing

    def all(self, query: str, *values: Any) -> list[Any]:
        """Return all rows of a query."""
        with self.lock, self._explained():
            return self._db.execute(query, values).fetchall()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Have several queries see one moment of a file that others write to."""
        with self.lock, self._explained():
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")  # nothing was written

    def write(self, change: Callable[[Database], T], *, synced: bool, held: Held | None = None) -> T:  # noqa: ARG002 - the system holds the lock of whoever lives
        """Run one transaction; *synced* makes it, and all before it, outlive a power failure."""
        with self.lock:
            try:
                wanted = synced or not self._wal
                if wanted is not self._synced:
                    self._db.execute(f"PRAGMA synchronous={'FULL' if wanted else 'NORMAL'}")
                    self._synced = wanted
                self._db.execute("BEGIN IMMEDIATE")
                result = change(self._db)
                self._db.execute("COMMIT")
            except BaseException:
                with self._explained():
                    with contextlib.suppress(sqlite3.Error):
                        if self._db.in_transaction:
                            self._db.execute("ROLLBACK")
                    raise
        return result

    def alone(self, db: Database, name: str) -> None:
        """Do nothing: the file has one writer at a time."""

    def clock(self, db: Database) -> float:  # noqa: ARG002 - the machine's, and there is one
        """Return this moment by the machine's clock."""
        return time.time()

    def numbers(self, db: Database, count: int) -> int:  # noqa: ARG002 - the table counts what is inserted
        """Return the first of so many numbers of records; never one that a forgotten record had."""
        highest = db.execute("SELECT seq FROM sqlite_sequence WHERE name='record'").fetchone()
        return int(highest[0]) + 1 if highest is not None else 1

    # -------------------------------------------------------------------------------------- who is there

    @property
    def era(self) -> str:
        """The start of this machine: what was not synced before it is lost."""
        return boot_id()

    @property
    def me(self) -> int:
        """The number of this process."""
        return os.getpid()

    def alive(self, number: int) -> bool:
        """Tell whether a process of this machine lives."""
        return alive(number)

    def hold(self, campaign: str, run: int) -> Held:  # noqa: ARG002 - the lock is the system's
        """Lock the file beside the journal that stands for a campaign."""
        return Holder(self.path, campaign)

    def join(self, campaign: str, run: int, batch: int, token: int) -> Held:  # noqa: ARG002 - see below
        """Refuse it: a file is of one machine.

        Raises:
            JournalError: Always.
        """
        raise not_shared(self.path)

    def fence_off(self, held: Held) -> None:
        """Do nothing: nobody can have joined a run."""

    def ask_to_stop(self, held: Held) -> None:
        """Do nothing: nobody can have joined a run."""

    def stopping(self, held: Held) -> bool | None:  # noqa: ARG002 - see above
        """Tell that it is to end: nobody can have joined a run."""
        return True

    def holder(self, campaign: str) -> str:
        """Say in words who seems to be sending a campaign, or ""."""
        return seen(self.path, campaign)


def _connected(path: str | Path, *, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=uri
    )
