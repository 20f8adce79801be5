"""How a row of a campaign stands, whether it is due, and what a campaign must not change unnoticed. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from smtp_notebook.outcome import Outcome, State

__all__ = [
    "ALL",
    "MARK",
    "RECHECKED",
    "SINGLE",
    "Known",
    "Terms",
    "decided",
    "doubtful",
    "key_name",
    "place",
    "ranges",
    "regrouped",
    "skipped_once",
    "spread",
    "when",
]

#: The campaign of mails that `send` sends.
SINGLE = "single mails"
#: The states of rows that every run checks anew; nobody has their mail.
RECHECKED = frozenset({State.PLANNED, State.DEFERRED, State.FAILED, State.INVALID})


#: A row's mark has so many letters: of two rows of a group that differ, one in 16 million pairs has the same.
MARK = 4
#: Begins the one mark of a group that has too many rows for a mark each.
ALL = "*"


class _Row(Protocol):
    """A row that can say how it stands."""

    def outcome(self, state: State, **more: Any) -> Outcome:
        """Return an Outcome of this row."""
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """What the journal holds of one row.

    Attributes:
        accepted: The recipients who have the mail although the row as a whole is not sent.
    """

    id: int
    key: str
    seq: int
    version: int
    digest: bytes
    accepted: tuple[str, ...]
    outcome: Outcome

    @property
    def state(self) -> State:
        """How the row stands."""
        return self.outcome.state


class Terms(NamedTuple):
    """What a campaign must not change unnoticed."""

    scope: str
    sender: str
    fingerprint: str
    keys: str

    def differences(self, now: Terms) -> list[str]:
        """Say what is another now."""
        return [
            *([f"its From was {self.sender}, now it is {now.sender}"] if self.sender != now.sender else []),
            *(["its template is another"] if self.fingerprint != now.fingerprint else []),
            *(
                [f"it went to {place(self.scope)}, now it goes to {place(now.scope)}"]
                if self.scope != now.scope
                else []
            ),
        ]


def key_name(keys: str) -> str:
    """Return the columns that identify a row, in words; *keys* is JSON."""
    columns = json.loads(keys)
    return " and ".join(map(repr, columns)) if columns else "their addresses"


def decided(known: Known, recipients: tuple[str, ...], digest: bytes) -> Outcome | None:
    """Return the Outcome of a row that must not be sent now, or None when it is due.

    Args:
        known: What earlier runs made of it.
        recipients: Whom it goes to now.
        digest: What its mail says now; of interest for a row that was refused.
    """
    before = known.outcome
    if before.state in RECHECKED:
        return None
    if before.state is State.REFUSED and known.digest != digest:
        return None
    if before.state is State.PARTIAL and any(said.startswith("4") for _, said in before.refused):
        return None
    if before.state is State.IN_DOUBT:
        return before.with_(fix=_DOUBT_FIX)
    if before.state is State.REFUSED:
        return before.with_(reason=f"Refused before, unchanged since: {before.reason}")
    reason = f"This campaign had it already ({when(before)}, version {known.version})."
    warnings = before.warnings
    if recipients and {a.casefold() for a in before.to} != {a.casefold() for a in recipients}:
        warnings = (
            *warnings,
            f"sent to {', '.join(before.to)}, but the row now says {', '.join(recipients)}",
        )
    return before.with_(state=State.SKIPPED, status=0, reason=reason, fix="", warnings=warnings)


def regrouped(before: Outcome, rows: int, marks: str) -> str:
    """Return what to say of a group whose mail went, and that has other rows now; "" where it has the same.

    Args:
        before: What became of the mail; with of how many rows it was made, and their marks.
        rows: How many rows there are now.
        marks: Their marks.
    """
    said = f"sent with {_rows(before.rows)}, now {rows:,}"
    if not before.marks or ALL in {before.marks[:1], marks[:1]}:
        if before.rows == rows and (not before.marks or before.marks == marks):
            return ""
        more = f"at least {rows - before.rows:,}" if rows > before.rows else "perhaps some"
        return f"{said}; {more} of the rows now were in no mail"
    had, now = Counter(_split(before.marks)), Counter(_split(marks))
    fresh, gone = (now - had).total(), (had - now).total()
    if fresh:
        return f"{said}; {_rows(fresh)} {'was' if fresh == 1 else 'were'} in no mail, or changed since"
    return (
        f"{said}; {_rows(gone)} of the mail {'is' if gone == 1 else 'are'} not there any more" if gone else ""
    )


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _split(marks: str) -> list[str]:
    return [marks[i : i + MARK] for i in range(0, len(marks), MARK)]


def when(outcome: Outcome) -> str:
    """Return when the mail went, in words."""
    return outcome.started.strftime("%Y-%m-%d %H:%M UTC") if outcome.started else "at an unknown time"


def skipped_once(row: _Row, before: Outcome) -> Outcome:
    """Return the Outcome of a mail that is sent once only; one in doubt stays in doubt."""
    if before.state is State.IN_DOUBT:
        reason = f"The same mail may have gone before ({when(before)}); it is not sent again."
        return row.outcome(State.IN_DOUBT, reason=reason, fix=f'See Journal().report("{SINGLE}").in_doubt.')
    return row.outcome(State.SKIPPED, reason=f"The same mail went before ({when(before)}).")


_DOUBT_FIX = (
    "Look into the recipient's mailbox, then Journal().resolve(campaign, key, delivered=True or False)."
)
_DOUBT_REASON = (
    "The run that sent it ended before the server's answer was recorded; it may have been delivered."
)


def doubtful(outcome: Outcome) -> Outcome:
    """Return the Outcome of a row whose answer is not known."""
    return outcome.with_(state=State.IN_DOUBT, status=0, reason=_DOUBT_REASON, fix=_DOUBT_FIX)


def place(scope: str) -> str:
    """Return where a campaign goes, in words."""
    kind, _, host = scope.partition(":")
    return f"{host} on this machine" if kind == "loopback" else host


def ranges(records: Iterable[tuple[int, int]]) -> str:
    """Return record numbers with how often each was written, runs of neighbours together: ``5-36@1,40@3``."""
    found: list[list[int]] = []
    for number, seq in records:
        if found and found[-1][1] == number - 1 and found[-1][2] == seq:
            found[-1][1] = number
        else:
            found.append([number, number, seq])
    return ",".join(f"{first}-{last}@{seq}" for first, last, seq in found)


def spread(text: str) -> Iterator[tuple[int, int]]:
    """Yield what `ranges` was given."""
    for part in filter(None, text.split(",")):
        span, _, seq = part.partition("@")
        first, _, last = span.partition("-")
        for number in range(int(first), int(last) + 1):
            yield number, int(seq)
