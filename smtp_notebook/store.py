"""What the journal's rules ask of a database. Two have it: a file of SQLite's, and PostgreSQL.

The rules write SQL that both understand, with question marks for values; what the two do differently is a method here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from smtp_notebook.outcome import JournalError, MergeRefusedError
from smtp_notebook.places import DatabaseURL

__all__ = ["Database", "Held", "Result", "Store", "not_shared", "taken_over"]

T = TypeVar("T")


class Result(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int:
        """How many rows were written, by all of them where many were executed."""
        ...

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        ...


class Database(Protocol):
    """A transaction that is open: whatever is executed is part of it."""

    def execute(self, query: str, values: Sequence[Any] = ..., /) -> Result:
        """Run one statement."""
        ...

    def executemany(self, query: str, rows: Iterable[Sequence[Any]], /) -> Result:
        """Run a statement that writes, once for each of the rows."""
        ...


class Held(Protocol):
    """A campaign that nobody else sends, or a part of it that its run shares with others."""

    @property
    def guest(self) -> bool:
        """Whether it is a part of another's run, which ends what is to be ended."""
        ...

    def release(self) -> None:
        """Let others send it; never raises for a database that is away."""
        ...


class Store(Protocol):
    """A journal's database. Used from several threads, which wait for each other."""

    @property
    def path(self) -> Path | DatabaseURL:
        """Where it is; shows no password."""
        ...

    @property
    def new(self) -> bool:
        """Whether it was made just now."""
        ...

    @property
    def inline(self) -> bool:
        """Whether a commit is so quick that an event loop may wait for it; else it belongs into a thread."""
        ...

    @property
    def lock(self) -> threading.RLock:
        """What is held while it is used."""
        ...

    @property
    def era(self) -> str:
        """What changes where commits that were not synced, or not passed on, may have been lost."""
        ...

    @property
    def me(self) -> int:
        """The number of whoever writes here now, for `alive`; it goes into claims."""
        ...

    def alive(self, number: int) -> bool:
        """Tell whether whoever had this number in the present era may still be at work."""
        ...

    def all(self, query: str, *values: Any) -> list[Any]:
        """Return all rows of a query."""
        ...

    def write(self, change: Callable[[Database], T], *, synced: bool, held: Held | None = None) -> T:
        """Run one transaction, and return what *change* returns.

        Args:
            change: What to do in it. It may be called again where a transaction came to nothing, so it leaves no other
                traces than such as may be left twice.
            synced: Whether this commit, and all before it, must outlive a power failure.
            held: What must still be held, or nothing is changed.

        Raises:
            MergeRefusedError: *held* is another's by now.
        """
        ...

    def reading(self) -> AbstractContextManager[None]:
        """Have several queries see one moment of what others write to."""
        ...

    def alone(self, db: Database, name: str) -> None:
        """Have no other transaction that says the same name run beside this one."""
        ...

    def clock(self, db: Database) -> float:
        """Return this moment by the clock that all who use it share, in seconds since 1970."""
        ...

    def numbers(self, db: Database, count: int) -> int:
        """Return the first of so many numbers of records that none ever had, a forgotten one either."""
        ...

    def hold(self, campaign: str, run: int) -> Held:
        """Keep others from sending a campaign.

        Raises:
            MergeRefusedError: Somebody has it.
        """
        ...

    def join(self, campaign: str, run: int, batch: int, token: int) -> Held:
        """Take a batch of a run's rows, from whoever had it: what that one writes from now on comes to nothing.

        Args:
            campaign: The run's.
            run: Its number.
            batch: The batch's number within the run.
            token: Tells who takes it from all others.

        Raises:
            MergeRefusedError: The run has ended, or this journal is a file, which machines cannot share.
        """
        ...

    def fence_off(self, held: Held) -> None:
        """Have nobody who joined a run write any more: it goes on under another number."""
        ...

    def ask_to_stop(self, held: Held) -> None:
        """Have those who joined a run end in order; see `stopping`."""
        ...

    def stopping(self, held: Held) -> bool | None:
        """Tell, who joined a run, whether it is to end; None where nobody seems to hold its campaign at this moment."""
        ...

    def holder(self, campaign: str) -> str:
        """Say in words who seems to be sending a campaign, or ""."""
        ...

    def check(self) -> None:
        """Look for damage, however long that takes.

        Raises:
            JournalError: There is some.
        """
        ...

    def damaged(self, what: str) -> JournalError:
        """Return what is said of damage."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def not_shared(path: object) -> JournalError:
    """Return the refusal of a journal in a file, where several machines are to write it."""
    cause = f"The journal {str(path)!r} is a file, which several machines cannot share."
    return JournalError(cause, 'Name a PostgreSQL database: journal="postgresql://host/database".')


def taken_over() -> MergeRefusedError:
    """Return what a run hears whose campaign another run has by now."""
    cause = "Another run has taken over this campaign; this one sends no more."
    error = MergeRefusedError(cause, "Look at Journal() for what it sent.")
    error.passing = True
    return error
