"""Outcomes as rows of a table, and a table of them as a sequence that reads a few at a time."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from smtp_notebook.outcome import Listed, Outcome, State

__all__ = [
    "COLUMNS",
    "DEFINITIONS",
    "Stored",
    "made_of",
    "packed",
    "planned",
    "rows_and_marks",
    "sent",
    "unpacked",
]

#: What a table holds of an Outcome beside its key and its row's position.
DEFINITIONS = (
    "state TEXT NOT NULL, recipients TEXT NOT NULL, status INTEGER NOT NULL, code INTEGER, "
    "enhanced TEXT NOT NULL, reason TEXT NOT NULL, fix TEXT NOT NULL, message_id TEXT NOT NULL, "
    "attempts INTEGER NOT NULL, started REAL, seconds REAL NOT NULL, refused TEXT NOT NULL, warnings TEXT NOT NULL, "
    "variant TEXT NOT NULL DEFAULT '', rows TEXT NOT NULL DEFAULT ''"
)
COLUMNS = tuple(part.split()[0] for part in DEFINITIONS.split(", "))
_AT_A_TIME = 1000


def packed(outcome: Outcome) -> tuple[Any, ...]:
    """Return the Outcome as the values of `COLUMNS`."""
    return (
        outcome.state.value,
        "\n".join(outcome.to),
        outcome.status,
        outcome.code,
        outcome.enhanced,
        outcome.reason,
        outcome.fix,
        outcome.message_id,
        outcome.attempts,
        outcome.started.timestamp() if outcome.started is not None else None,
        outcome.seconds,
        json.dumps(outcome.refused, ensure_ascii=False) if outcome.refused else "",
        json.dumps(outcome.warnings, ensure_ascii=False) if outcome.warnings else "",
        outcome.variant,
        made_of(outcome.rows, outcome.marks),
    )


def made_of(rows: int, marks: str) -> str:
    """Return of which rows a mail was made, as the last of `COLUMNS`; "" for one row that has no mark."""
    return f"{rows} {marks}".rstrip() if marks or rows != 1 else ""


def rows_and_marks(made: str) -> tuple[int, str]:
    """Return what `made_of` was given."""
    rows, _, marks = made.partition(" ")
    return int(rows or 1), marks


def planned(
    to: Sequence[str], message_id: str, warnings: Sequence[str], made: tuple[str, str] = ("", "")
) -> tuple[Any, ...]:
    """Return what `packed` returns for a row that was not tried, without making an Outcome.

    *made* is its variant, and of which rows it is made, as `made_of` has that.
    """
    said = json.dumps(warnings, ensure_ascii=False) if warnings else ""
    return ("planned", "\n".join(to), 202, None, "", "", "", message_id, 0, None, 0.0, "", said, *made)


def sent(
    to: Sequence[str],
    reply: tuple[int | None, str],
    message_id: str,
    tried: tuple[int, dt.datetime | None, float],
    warnings: Sequence[str],
    made: tuple[str, str] = ("", ""),
) -> tuple[Any, ...]:
    """Return what `packed` returns for a row that everybody has, without making an Outcome.

    Args:
        to: The envelope's recipients.
        reply: Its code and enhanced code.
        message_id: With its angle brackets.
        tried: How often, since when, and how long it took together, in seconds.
        warnings: What a person may want to look at.
        made: As in `planned`.
    """
    attempts, started, seconds = tried
    said = json.dumps(warnings, ensure_ascii=False) if warnings else ""
    moment = started.timestamp() if started is not None else None
    return (
        "sent",
        "\n".join(to),
        200,
        *reply,
        "",
        "",
        message_id,
        attempts,
        moment,
        round(seconds, 6),
        "",
        said,
        *made,
    )


def unpacked(key: str, position: int | None, values: Sequence[Any]) -> Outcome:
    """Return the Outcome of a row's key, position and `COLUMNS`."""
    state, to, status, code, enhanced, reason, fix, message_id, attempts, started, seconds, *lists = values
    refused, warnings, variant, made = lists
    rows, marks = rows_and_marks(made)
    return Outcome(
        state=State(state),
        key=key,
        row=position,
        to=tuple(to.split("\n")) if to else (),
        status=status,
        code=code,
        enhanced=enhanced,
        reason=reason,
        fix=fix,
        message_id=message_id,
        attempts=attempts,
        started=None if started is None else dt.datetime.fromtimestamp(started, dt.UTC),
        seconds=seconds,
        refused=tuple((a, said) for a, said in json.loads(refused)) if refused else (),
        warnings=tuple(json.loads(warnings)) if warnings else (),
        variant=variant,
        rows=rows,
        marks=marks,
    )


class Stored:
    """Outcomes in a table, in the order of a column; reads a few at a time, holds none.

    Args:
        read: Runs a query with its values and returns all rows.
        columns: What *decode* wants of a row.
        decode: Makes an Outcome of these.
        table: The table, with its condition: ``row WHERE campaign=?``.
        values: What the condition's question marks stand for.
        order: An integer column, unique among the rows of the condition.
        state: The column that has the state.
    """

    def __init__(
        self,
        read: Callable[..., list[Any]],
        *,
        columns: str,
        decode: Callable[[Sequence[Any]], Outcome],
        table: str,
        values: tuple[Any, ...] = (),
        order: str = "position",
        state: str = "state",
    ) -> None:
        self._read = read
        self._columns = columns
        self._decode = decode
        self._table = table
        self._values = values
        self._order = order
        self._state = state
        self._length: int | None = None

    def __len__(self) -> int:
        if self._length is None:
            self._length = int(self._read(f"SELECT count(*) FROM {self._table}", *self._values)[0][0])
        return self._length

    def _some(self, more: str, *values: Any) -> list[Any]:
        query = f"SELECT {self._order}, {self._columns} FROM {self._table} {more}"
        return self._read(query, *self._values, *values)

    def __iter__(self) -> Iterator[Outcome]:
        last = -1
        while found := self._some(f"AND {self._order} > ? ORDER BY {self._order} LIMIT {_AT_A_TIME}", last):
            for record in found:
                yield self._decode(record[1:])
            last = found[-1][0]

    def part(self, wanted: slice) -> Sequence[Outcome]:
        """Return some of them, by their place."""
        start, stop, step = wanted.indices(len(self))
        if step != 1:
            return Listed(self[i] for i in range(start, stop, step))
        rows = self._some(f"ORDER BY {self._order} LIMIT ? OFFSET ?", max(0, stop - start), start)
        return Listed(self._decode(record[1:]) for record in rows)

    def __getitem__(self, index: int) -> Outcome:
        place = index + len(self) if index < 0 else index
        found = self._some(f"ORDER BY {self._order} LIMIT 1 OFFSET ?", place) if place >= 0 else []
        if not found:
            msg = "there is no Outcome of this number"
            raise IndexError(msg)
        return self._decode(found[0][1:])

    def counts(self) -> dict[str, int]:
        """Return how many there are of each state."""
        query = f"SELECT {self._state}, count(*) FROM {self._table} GROUP BY {self._state}"
        return {str(state): count for state, count in self._read(query, *self._values)}

    def variants(self) -> dict[tuple[str, str], int]:
        """Return how many there are of each variant and state; those without a variant under ""."""
        query = f"SELECT variant, {self._state}, count(*) FROM {self._table} GROUP BY 1, 2"
        return {(str(name), str(state)): count for name, state, count in self._read(query, *self._values)}

    def where(self, states: Sequence[str]) -> Stored:
        """Return those in one of the states."""
        marks = ", ".join("?" * len(states))
        return Stored(
            self._read,
            columns=self._columns,
            decode=self._decode,
            table=f"{self._table} AND {self._state} IN ({marks})",
            values=(*self._values, *states),
            order=self._order,
            state=self._state,
        )

    def warned(self) -> dict[str, int]:
        """Return each distinct warning with how many rows have it."""
        query = f"SELECT warnings, count(*) FROM {self._table} AND warnings <> '' GROUP BY warnings"
        found: dict[str, int] = {}
        for text, count in self._read(query, *self._values):
            for warning in json.loads(text):
                found[warning] = found.get(warning, 0) + count
        return found
