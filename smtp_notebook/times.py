"""When a row may be sent: not before a moment, and not from another one on.

The wall clock decides, since that is what a person means; waits are taken by the monotonic one, in `merge`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from smtp_notebook.outcome import MailError, MergeRefusedError, MessageError, OptionError
from smtp_notebook.rows import Differing
from smtp_notebook.template import given_cells, is_missing

__all__ = ["NOW", "Moment", "Moments", "Span", "called", "check_moment", "from_seconds", "in_words"]

#: A moment for every row, the column that has each row's, or a function of a row that returns it.
Moment = dt.date | str | Callable[[dict[str, Any]], Any] | None
_FIX = "Give a datetime with its time zone, the name of a column, or a function of a row that returns one."


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


#: What a merge takes for the time of day; a test may exchange it.
NOW: Callable[[], dt.datetime] = _now


class Span(NamedTuple):
    """When one row may be sent.

    Attributes:
        begins: Not before then; None for at once.
        ends: From then on not any more; None for no end.
    """

    begins: dt.datetime | None = None
    ends: dt.datetime | None = None

    def waits(self, now: dt.datetime) -> bool:
        """Tell whether its time has not come."""
        return self.begins is not None and now < self.begins

    def over(self, now: dt.datetime) -> bool:
        """Tell whether its time is over."""
        return self.ends is not None and now >= self.ends


def in_words(moment: dt.datetime) -> str:
    """Return a moment as it is said: ``2026-12-01 09:00 +01:00``."""
    seconds = ":%S" if moment.second or moment.microsecond else ""
    offset = moment.strftime("%z")
    return f"{moment.strftime(f'%Y-%m-%d %H:%M{seconds}')} {offset[:3]}:{offset[3:5]}"


def from_seconds(seconds: float) -> dt.datetime:
    """Return a moment of so many seconds since 1970, in this machine's time zone."""
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    try:
        return moment.astimezone()
    except (
        OverflowError,
        OSError,
        ValueError,
    ):  # the last day of 9999, as a sign for never, may be behind it here
        return moment


def check_moment(name: str, given: Any) -> None:
    """Refuse what can say no moment.

    Raises:
        OptionError: It is none.
    """
    if given is not None and not isinstance(given, dt.date | str) and not callable(given):
        raise OptionError(f"{name}={given!r} is no moment.", _FIX)


def called(name: str, function: Callable[[dict[str, Any]], Any], cells: Mapping[str, Any]) -> Any:
    """Return what a person's function, given as *name*, makes of a row.

    Raises:
        MessageError: It failed.
    """
    try:
        return function(given_cells(cells))
    except MailError:
        raise
    except Exception as error:
        cause = (
            f"{name}: the function failed with {type(error).__name__}: {' '.join(str(error).split())[:200]}."
        )
        raise MessageError(cause, "It is given a row as a dict of its cells.") from error


class Moments:
    """What a merge was told of when its rows may be sent.

    Args:
        send_at: See `mail_merge`.
        expires: See `mail_merge`.
        columns: Those that there are.

    Attributes:
        local: The first moment without a time zone, which was taken as this machine's; None while there was none.

    Raises:
        MergeRefusedError: There is no such column.
    """

    def __init__(self, send_at: Moment, expires: Moment, columns: Sequence[str]) -> None:
        self.local: dt.datetime | None = None
        self._given = {"send_at": send_at, "expires": expires}
        self._fixed: dict[str, dt.datetime | None] = {}
        for name, given in self._given.items():
            if isinstance(given, str) and given not in columns:
                cause = f"{name}: there is no column {given!r}; the columns are: {', '.join(map(repr, columns[:20]))}."
                raise MergeRefusedError(cause, _FIX)
            if given is None or isinstance(given, dt.date):
                self._fixed[name] = None if given is None else self._moment(name, given)

    def span(self, cells: Mapping[str, Any]) -> Span:
        """Return when a row may be sent.

        Raises:
            MessageError: Its cell says no moment, or it would expire before it may be sent.
        """
        begins, ends = self._of("send_at", cells), self._of("expires", cells)
        if begins is not None and ends is not None and begins >= ends:
            cause = f"send_at, {in_words(begins)}, is not before expires, {in_words(ends)}."
            raise MessageError(cause, "Give it an earlier send_at, or a later expires.")
        return Span(begins, ends)

    def _of(self, name: str, cells: Mapping[str, Any]) -> dt.datetime | None:
        if name in self._fixed:
            return self._fixed[name]
        given = self._given[name]
        if isinstance(given, str):
            return self._moment(f"{name}, column {given!r}", cells[given])
        assert callable(given)
        # What it returns may be anything, and then reading that fails as the function would.
        found: dt.datetime | None = called(name, lambda row: self._moment(name, given(row)), cells)
        return found

    def _moment(self, name: str, value: Any) -> dt.datetime | None:
        """Return a moment with a time zone; None where there is none."""
        if type(value) is Differing:
            value.refuse()
        if is_missing(value) or value == "" or _is_nat(value):
            return None
        found = _read(value)
        if found is None:
            cause = f"{name}: {str(value)[:60]!r} is no moment."
            raise MessageError(cause, "Write it as 2026-12-01 09:00+01:00, or give a datetime.")
        try:
            if found.tzinfo is None or found.utcoffset() is None:
                found = found.replace(tzinfo=None).astimezone()
                self.local = self.local or found
            found.timestamp()
        except (OverflowError, OSError, ValueError):
            cause = f"{name}: {str(value)[:60]!r} is too far away."
            raise MessageError(cause, "Give a moment of this century, or none.") from None
        return found


def _is_nat(value: Any) -> bool:
    """Tell whether it is NumPy's own missing moment, which equals nothing."""
    return type(value).__name__ == "datetime64" and bool(value != value)  # noqa: PLR0124 - see above


def _read(value: Any) -> dt.datetime | None:
    """Return what a cell says as a datetime, or None."""
    if hasattr(value, "to_pydatetime"):  # pandas' own, which knows nanoseconds
        value = value.to_pydatetime(warn=False)
    elif type(value).__module__ == "numpy" and type(value).__name__ == "datetime64":
        value = value.astype("datetime64[us]").item()
    if isinstance(value, str):
        try:
            return dt.datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if isinstance(value, dt.datetime):
        return value
    return dt.datetime.combine(value, dt.time()) if isinstance(value, dt.date) else None
