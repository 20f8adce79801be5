"""Which of the rows that a source gave are to be mailed now, and when the others are due. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from smtp_notebook.frames import Frame, guess_address_column, own_key, stand_in_key
from smtp_notebook.outcome import MergeRefusedError, Outcome, State

__all__ = [
    "MOST_REREAD",
    "Due",
    "Row",
    "Sorted",
    "backoff",
    "due_rows",
    "key_columns",
    "key_or_none",
    "keyed",
    "retry_after",
    "sort",
]

#: A row that was put off is tried again after so many seconds at the earliest, then after twice as many, up to
#: `LONGEST_RETRY`: RFC 5321, 4.5.4.1, "the retry interval SHOULD be at least 30 minutes".
FIRST_RETRY = 30 * 60.0
LONGEST_RETRY = 4 * 60 * 60.0
#: So many rows that are invalid or refused are read again at one time: somebody may have mended them.
MOST_REREAD = 2000
#: After a failure a watch waits for its own interval or so many seconds, whichever is less, then for twice as many …
FIRST_BACKOFF = 60.0
#: … and never for more than its own interval or so many, whichever is more.
LONGEST_BACKOFF = 60 * 60.0
_JITTER = 0.25

_PUT_OFF = frozenset({State.DEFERRED, State.PARTIAL})
#: With another status than these a row was put off because its run had to end, which is no answer to the row.
_OF_THE_ROW = frozenset({202, 500})
_NO_KEY = stand_in_key({}).partition(":")[0] + ":"


# -------------------------------------------------------------------------------------------- rows


class Row(NamedTuple):
    """A row that came: what identifies it, its cells, and the number of the part in which it came."""

    key: str
    cells: Mapping[str, Any]
    part: int

    @property
    def nameless(self) -> bool:
        """Whether it has no key of its own."""
        return is_nameless(self.key)


def is_nameless(key: str) -> bool:
    """Tell whether a key is the one that stands in where a row has none."""
    return key.startswith(_NO_KEY)


def key_columns(frames: Iterable[Frame], named: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that identify the rows of these frames: the named ones, else the column of the addresses.

    Args:
        frames: At least one row has to be in them.
        named: What a person or the source named; () for nothing.

    Raises:
        MergeRefusedError: No frame has the named columns, or none or several hold addresses.
    """
    columns = list(dict.fromkeys(name for frame in frames for name in frame.columns))
    if not named:
        try:
            return (guess_address_column(columns),)
        except MergeRefusedError as error:
            raise MergeRefusedError(error.cause, "Say what identifies a row: key=….") from None
    for name in named:
        if name not in columns:
            cause = f"There is no key column {name!r}; the columns are: {', '.join(map(repr, columns[:20]))}."
            raise MergeRefusedError(cause, "Name one that tells the rows apart: key=….")
    return tuple(named)


def key_or_none(columns: Sequence[str], cells: Mapping[str, Any]) -> str:
    """Return a row's key, or "" where it has none."""
    key = own_key(columns, _with(columns, cells))
    return "" if is_nameless(key) else key


def keyed(frames: Iterable[Frame], columns: Sequence[str], first: int = 0) -> list[Row]:
    """Return all rows of the frames, in their order; a row without a key has one that stands for its cells.

    Args:
        frames: One for each part that a source gave.
        columns: The key columns.
        first: The number of the first part.
    """
    found = []
    for number, frame in enumerate(frames, first):
        for cells in frame.rows():
            whole = _with(columns, cells)
            found.append(Row(own_key(columns, whole), whole, number))
    return found


def _with(columns: Sequence[str], cells: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the cells with every key column among them, empty where there is none."""
    lacking = [name for name in columns if name not in cells]
    return {**cells, **dict.fromkeys(lacking)} if lacking else cells


def _latest(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that count: those of the last part that has their key; the same row twice is one."""
    last = {row.key: row.part for row in rows}
    found: list[Row] = []
    seen: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        same = seen.setdefault(row.key, [])
        if row.part == last[row.key] and not any(_alike(row.cells, cells) for cells in same):
            same.append(row.cells)
            found.append(row)
    return found


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    # As text: an empty cell may be no equal of itself, and a cell may be a list.
    return stand_in_key(one) == stand_in_key(other)


# ------------------------------------------------------------------------------------------ due, or not


@dataclass(frozen=True, slots=True)
class Due:
    """Rows of earlier polls that may be tried now.

    Attributes:
        tried: Keys of rows that are to be tried, whatever has become of them.
        looked_at: Keys of rows that are to be tried where somebody mended them; the newest first.
    """

    tried: tuple[str, ...]
    looked_at: tuple[str, ...]


def retry_after(times: int) -> float:
    """Return how long a row rests that was put off so many times, in seconds."""
    return float(min(FIRST_RETRY * 2 ** min(max(times, 1) - 1, 16), LONGEST_RETRY))


def due_rows(
    rows: Sequence[Outcome],
    now: dt.datetime,
    *,
    times: Mapping[str, int] | None = None,
    spared: Collection[str] = (),
    practice: bool = False,
) -> Due:
    """Decide which open rows may be tried now.

    Args:
        rows: The open ones, the oldest first.
        now: The time.
        times: How often each row was put off, as far as is known.
        spared: Keys of planned rows whose recipients no merge mails at present.
        practice: Whether nothing counts: then no journal tells whether a refused row was changed, or who has the mail
            of a row already, so both are left.
    """
    tried, looked_at = [], []
    for row in rows:
        if practice and row.state in {State.REFUSED, State.PARTIAL}:
            continue
        if row.state in _PUT_OFF:
            if _rested(row, now, (times or {}).get(row.key, 1)):
                tried.append(row.key)
        elif row.state is State.FAILED or (
            row.state is State.PLANNED and _plain(row) and row.key not in spared
        ):
            tried.append(row.key)
        elif not is_nameless(row.key):
            looked_at.append(row.key)
    return Due(tuple(tried), tuple(reversed(looked_at)))


def _plain(row: Outcome) -> bool:
    """Tell whether a planned row waits for nothing but its turn; the reason is that nobody of it may be mailed.

    One that was tried has been in doubt, and a person said that it did not arrive.
    """
    return not row.reason or row.attempts > 0


def _rested(row: Outcome, now: dt.datetime, times: int) -> bool:
    if row.started is None or row.status not in _OF_THE_ROW:
        return True
    last = row.started + dt.timedelta(seconds=row.seconds)
    # A last try that lies far ahead means that the clock was set back, and nobody knows how long it rested.
    return abs(now - last) >= dt.timedelta(seconds=retry_after(times))


@dataclass(frozen=True, slots=True)
class Sorted:
    """What is to be done with the rows that came.

    Attributes:
        rows: To be merged now, in the order in which they came.
        new: Keys of those among them that nothing is known of.
        waiting: Keys of new rows that wait for a person's approval.
        before: How many of the rows were there before the watch began.
        sure: Whether at least one is to be tried whatever has become of it; otherwise they are only looked at.
    """

    rows: tuple[Row, ...]
    new: tuple[str, ...]
    waiting: tuple[str, ...]
    before: int
    sure: bool


def sort(
    rows: Sequence[Row],
    standing: Mapping[str, Outcome | str],
    due: Due,
    *,
    approved: Collection[str] = (),
    most: int,
) -> Sorted:
    """Sort the rows that came.

    A later part's row replaces an earlier part's of the same key. What was there before, or has been settled, is
    dropped. Where more than *most* rows are new and not approved, none of those goes.

    Args:
        rows: All that came.
        standing: How those of their keys stand that are known.
        due: Which open rows may be tried.
        approved: Keys that may go however many they are.
        most: How many new rows may go unasked.
    """
    counted = _latest(rows)
    new = dict.fromkeys(row.key for row in counted if row.key not in standing)
    asking = [key for key in new if key not in approved]
    waiting = frozenset(asking) if len(asking) > most else frozenset()
    tried, looked_at = frozenset(due.tried), frozenset(due.looked_at)
    going = [
        row
        for row in counted
        if (row.key in new and row.key not in waiting)
        or (isinstance(standing.get(row.key), Outcome) and (row.key in tried or row.key in looked_at))
    ]
    fresh = tuple(key for key in new if key not in waiting)
    return Sorted(
        rows=tuple(going),
        new=fresh,
        waiting=tuple(key for key in new if key in waiting),
        before=sum(isinstance(standing.get(row.key), str) for row in counted),
        sure=bool(fresh) or any(row.key in tried for row in going),
    )


# ------------------------------------------------------------------------------------------- failures


def backoff(every: float, failures: int, chance: float = 0.0) -> float:
    """Return how long a watch waits after so many failures in a row, in seconds.

    Args:
        every: Its own interval, in seconds.
        failures: 1 or more.
        chance: From 0 to 1: how much of a quarter is taken off, so that watches do not come back together.
    """
    doubled = min(every, FIRST_BACKOFF) * 2.0 ** min(failures - 1, 30)
    return min(doubled, max(every, LONGEST_BACKOFF)) * (1.0 - _JITTER * chance)
