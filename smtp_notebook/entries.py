"""The records of a journal: how they are read, looked through for damage, and changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from smtp_notebook.outcome import Outcome
from smtp_notebook.records import Stored, packed, unpacked
from smtp_notebook.schema import FIELDS, key_hash, record_sum
from smtp_notebook.standing import Known, doubtful
from smtp_notebook.store import Database, Store

__all__ = ["SELECT", "UPDATE", "behind", "change", "checked", "known", "stored"]

_COLUMNS = f"{', '.join(FIELDS)}, sum, stands"
#: So many records are read at once where they are asked for in their order.
_AHEAD = 500
SELECT = f"SELECT {_COLUMNS} FROM standing"
#: A compare-and-swap: the record as it was written so many times.
UPDATE = f"UPDATE record SET {', '.join(f'{c}=?' for c in FIELDS[2:])}, sum=? WHERE id=? AND seq=?"


def checked(store: Store, record: Sequence[Any]) -> Known:
    """Return what a row of `SELECT` says.

    Raises:
        JournalError: Its checksum does not fit.
    """
    *values, total, stands = record
    if record_sum(values) != total:
        raise store.damaged(f"the record of {record[1]!r} does not fit its checksum")
    number, key, seq, version, digest, accepted, position, state, *columns = values
    outcome = unpacked(key, position, [state, *columns])
    if stands != state:
        outcome = doubtful(outcome)
    return Known(number, key, seq, version, digest, tuple(accepted.split("\n")) if accepted else (), outcome)


def known(store: Store, campaign: int, key: str) -> Known | None:
    """Return what is known of one row, or None."""
    found = store.all(f"{SELECT} WHERE campaign=? AND hash=? AND key=?", campaign, key_hash(key), key)
    return checked(store, found[0]) if found else None


def behind(store: Store, campaign: int, number: int) -> dict[str, Sequence[Any]]:
    """Return the records behind one, as rows of `SELECT` that nobody has looked through, by their keys."""
    query = f"{SELECT} WHERE campaign=? AND id>? AND id<=?"
    return {str(record[1]): record for record in store.all(query, campaign, number, number + _AHEAD)}


def stored(store: Store, campaign: int, condition: str = "1=1") -> Stored:
    """Return the rows of a campaign that fit a condition, which is SQL of ours."""
    decode: Callable[[Sequence[Any]], Outcome] = lambda record: checked(store, record).outcome  # noqa: E731
    return Stored(
        store.all,
        columns=_COLUMNS,
        decode=decode,
        table=f"standing WHERE campaign=? AND {condition}",
        values=(campaign,),
        order="id",
        state="stands",
    )


def change(db: Database, known: Known, outcome: Outcome) -> None:
    """Give a record another outcome; for rows that no run has open."""
    accepted = "\n".join(known.accepted)
    values = (
        known.id, known.key, known.seq + 1, known.version, known.digest, accepted, outcome.row, *packed(outcome)
    )  # fmt: skip
    db.execute(UPDATE, (*values[2:], record_sum(values), known.id, known.seq))
