"""States, statuses, errors and reports: the vocabulary that every other module speaks.

The exception tree (each also inherits the builtin that a caller would expect)::

    MailError
    ├── OptionError       (TypeError)        a field or setting that does not exist
    ├── MessageError      (ValueError)       a message that cannot be built as asked
    │   ├── AddressError
    │   └── AttachmentError
    ├── TemplateError     (ValueError)       syntax, unknown name, missing cell
    ├── SettingsError     (ValueError)       a connection that cannot be made as asked
    │   └── SecretError   (LookupError)      no password to be had
    ├── PreflightError    (ValueError)       rows that must not be sent; has ``.report``
    ├── MergeRefusedError (RuntimeError)     a merge that may not start
    ├── JournalError      (RuntimeError)     the journal or suppression list cannot be used
    ├── SourceError       (ConnectionError)  rows that cannot be had from a source at present
    └── DeliveryError     (ConnectionError)  a mail that was not accepted; has ``.outcome``
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import html
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, overload

from smtp_notebook import _html

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "AddressError",
    "AttachmentError",
    "DeliveryError",
    "JournalError",
    "Listed",
    "MailError",
    "MergeRefusedError",
    "MessageError",
    "OptionError",
    "Outcome",
    "PreflightError",
    "Report",
    "SecretError",
    "SettingsError",
    "Shelf",
    "SourceError",
    "State",
    "TemplateError",
]


class MailError(Exception):
    """The base of every error that this package raises on purpose.

    Args:
        cause: One sentence: what is wrong, naming the row, column or option.
        fix: One sentence: what to do about it. May be empty.

    In IPython such an error shows as one line, not as a traceback.
    """

    def __init__(self, cause: str, fix: str = "") -> None:
        self.cause = cause
        self.fix = fix
        super().__init__(f"{cause} {fix}".strip())

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class OptionError(MailError, TypeError):
    """A field, setting or option that does not exist."""


class MessageError(MailError, ValueError):
    """A message that cannot be built as asked."""


class AddressError(MessageError):
    """Something that is not an e-mail address, or not one."""


class AttachmentError(MessageError):
    """An attachment that cannot be read, or must not be sent."""


class TemplateError(MailError, ValueError):
    """A template that does not compile, or that a row cannot fill.

    Attributes:
        line: Line in the template, counted from 1, or None.
        column: The row's column that caused it, or None.
    """

    def __init__(
        self,
        cause: str,
        fix: str = "",
        *,
        line: int | None = None,
        column: str | None = None,
    ) -> None:
        super().__init__(cause, fix)
        self.line = line
        self.column = column


class SettingsError(MailError, ValueError):
    """A connection that cannot be made as asked."""


class SecretError(SettingsError, LookupError):
    """A password that is needed and cannot be had here."""


class MergeRefusedError(MailError, RuntimeError):
    """A merge that may not start; nothing was sent.

    Attributes:
        passing: Whether it is enough to wait: somebody else is sending this campaign.
    """

    passing: bool = False


class JournalError(MailError, RuntimeError):
    """The journal or the suppression list cannot be read or written; no merge sends anything without them."""


class PreflightError(MailError, ValueError):
    """Rows that must not be sent; nothing was sent.

    Attributes:
        report: One Outcome per row; the bad ones are ``State.INVALID``.
    """

    def __init__(self, cause: str, fix: str = "", *, report: Report) -> None:
        super().__init__(cause, fix)
        self.report = report

    def _render_traceback_(self) -> list[str]:
        lines = [f"{type(self).__name__}: {self}"]
        return [*lines, *self.report.failures.lines(limit=20)]


class SourceError(MailError, ConnectionError):
    """Rows that cannot be had from a source at present, or not written back to it; a watch tries it again."""


class DeliveryError(MailError, ConnectionError):
    """A mail that was not accepted.

    Attributes:
        outcome: What happened.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason, outcome.fix)
        self.outcome = outcome


class State(enum.StrEnum):
    """What happened to one row. The words are the whole vocabulary."""

    PLANNED = "planned"
    SENT = "sent"
    PARTIAL = "partial"
    SKIPPED = "skipped"
    DEFERRED = "deferred"
    INVALID = "invalid"
    REFUSED = "refused"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"


FAILURES = frozenset({State.INVALID, State.REFUSED, State.FAILED, State.DEFERRED, State.IN_DOUBT})

#: The connector's response code of each state where the reply does not decide it.
DEFAULT_STATUS: Mapping[State, int] = {
    State.PLANNED: 202,
    State.SENT: 200,
    State.PARTIAL: 202,
    State.SKIPPED: 202,
    State.DEFERRED: 202,
    State.INVALID: 400,
    State.REFUSED: 400,
    State.FAILED: 500,
    State.IN_DOUBT: 500,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What happened to one row, or to one mail.

    Attributes:
        state: The State.
        key: What identifies the row in its campaign (its address by default).
        row: The row's position in the frame, counted from 0; None for a single mail.
        to: The addresses of the envelope, as written on the wire.
        status: The connector's response code: 200 202 400 401 403 404 or 500.
        code: The server's reply code, or None when no reply decided it.
        enhanced: The enhanced status code (RFC 3463) such as ``5.1.1``, or "".
        reason: One sentence: why.
        fix: One sentence: what to do, or "".
        message_id: The Message-ID, with its angle brackets, or "".
        attempts: How many transactions were begun.
        started: When the first attempt began (UTC), or None.
        seconds: How long all attempts took together, in seconds.
        refused: For a partial: each refused address with the server's answer.
        warnings: What a person may want to look at although nothing is wrong.
    """

    state: State
    key: str = ""
    row: int | None = None
    to: tuple[str, ...] = ()
    status: int = 0
    code: int | None = None
    enhanced: str = ""
    reason: str = ""
    fix: str = ""
    message_id: str = ""
    attempts: int = 0
    started: dt.datetime | None = None
    seconds: float = 0.0
    refused: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.status:
            object.__setattr__(self, "status", DEFAULT_STATUS[self.state])

    def with_(self, **changes: Any) -> Outcome:
        """Return a copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    @property
    def line(self) -> str:
        """One line of plain text: where, state, reason and fix."""
        where = self.key or ", ".join(self.to)
        if self.row is not None:
            where = f"row {self.row}" + (f" ({where})" if where else "")
        code = f" {self.code}" if self.code else ""
        text = f"{where}: {self.state}{code}" if where else f"{self.state}{code}"
        return " ".join(filter(None, [text + (":" if self.reason else ""), self.reason, self.fix]))

    @property
    def _noted(self) -> str:
        return " ".join([self.line, *(f"Note: {w.rstrip('.')}." for w in self.warnings)])

    def __repr__(self) -> str:
        return f"<Outcome {self._noted}>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": _html.outcome(self.state, self._noted)}


class Listed(tuple[Outcome, ...]):
    """Outcomes in memory; what a `Report` of few rows is made of."""

    __slots__ = ()

    def counts(self) -> dict[str, int]:
        """Return how many there are of each state."""
        return dict(Counter(str(o.state) for o in self))

    def where(self, states: Sequence[str]) -> Listed:
        """Return those in one of the states."""
        return Listed(o for o in self if o.state in states)

    def part(self, wanted: slice) -> Listed:
        """Return some of them, by their place."""
        return Listed(self[wanted])

    def warned(self) -> dict[str, int]:
        """Return each distinct warning with how many rows have it."""
        return dict(Counter(w for o in self for w in o.warnings))


class Shelf(Protocol):
    """Where a `Report` has its Outcomes: a `Listed`, or a table that is read a few rows at a time."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Outcome]: ...
    def __getitem__(self, index: int, /) -> Outcome: ...
    def part(self, wanted: slice) -> Sequence[Outcome]: ...  # noqa: D102 - see Listed
    def counts(self) -> dict[str, int]: ...  # noqa: D102
    def where(self, states: Sequence[str]) -> Shelf: ...  # noqa: D102
    def warned(self) -> dict[str, int]: ...  # noqa: D102


def _shelved(outcomes: Iterable[Outcome] | Shelf) -> Shelf:
    shelf: Any = outcomes if hasattr(outcomes, "warned") else Listed(outcomes)
    return shelf  # type: ignore[no-any-return]  # whatever has warned() is one


class Report(Sequence[Outcome]):
    """The Outcomes of a merge, in the order of its rows. Immutable.

    Args:
        outcomes: One Outcome per row: any iterable, or a `Shelf`, which is kept as it is.
        title: What the report is about, such as ``leads to the sandbox``.
        index: The frame's own index, one label per row; None counts from 0.
        notes: Sentences that a reader should see first.
        trial: Whether it tells of a trial: what it says of an address counts for nobody.
        suppressed: How many of the skipped rows are so because all their recipients are on the suppression list.
    """

    _last: ClassVar[Report | None] = None

    def __init__(
        self,
        outcomes: Iterable[Outcome] | Shelf = (),
        *,
        title: str = "",
        index: Callable[[], Sequence[Any]] | None = None,
        notes: Iterable[str] = (),
        trial: bool = False,
        suppressed: int = 0,
    ) -> None:
        self._outcomes: Shelf = _shelved(outcomes)
        self.title = title
        self.notes = tuple(notes)
        self.trial = trial
        self.suppressed = suppressed
        self._index = index

    @classmethod
    def last(cls) -> Report:
        """Return the newest merge's Report, also after an interrupt.

        Raises:
            LookupError: No merge ran in this process.
        """
        if cls._last is None:
            msg = "No merge ran in this process yet."
            raise LookupError(msg)
        return cls._last

    def remember(self) -> Report:
        """Make this the Report that ``Report.last()`` returns, and return it."""
        Report._last = self
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # The frame stays where it is: a copy has its labels, and the Outcomes themselves.
        labels = None if self._index is None else list(self._index())
        return _copied_report, (tuple(self), self.title, labels, self.notes, self.trial, self.suppressed)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> Report: ...
    def __getitem__(self, index: int | slice) -> Outcome | Report:
        if isinstance(index, slice):
            return self._part(self._outcomes.part(index))
        return self._outcomes[index]

    def __len__(self) -> int:
        return len(self._outcomes)

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self._outcomes)

    def _part(self, outcomes: Iterable[Outcome] | Shelf) -> Report:
        return Report(outcomes, title=self.title, index=self._index, trial=self.trial)

    def where(self, *states: State) -> Report:
        """Return the Outcomes that have one of the states."""
        return self._part(self._outcomes.where([s.value for s in states]))

    @property
    def counts(self) -> dict[State, int]:
        """How many Outcomes there are of each State that occurs."""
        seen = self._outcomes.counts()
        return {state: seen[state] for state in State if seen.get(state)}

    @property
    def sent(self) -> Report:
        """The rows that went to at least one recipient."""
        return self.where(State.SENT, State.PARTIAL)

    @property
    def skipped(self) -> Report:
        """The rows that were not due."""
        return self.where(State.SKIPPED)

    @property
    def failures(self) -> Report:
        """The rows that are invalid, refused, failed, deferred or in doubt."""
        return self.where(*FAILURES)

    @property
    def in_doubt(self) -> Report:
        """The rows that may or may not have been delivered."""
        return self.where(State.IN_DOUBT)

    def lines(self, limit: int = 10) -> list[str]:
        """Return one line of text per Outcome, at most *limit*, then how many more."""
        shown = [f"  {o.line}" for o in self[:limit]]
        rest = len(self) - limit
        return [*shown, f"  … and {rest} more: report.failures"] if rest > 0 else shown

    def raise_for_failures(self) -> Report:
        """Return self, or raise for the first row that failed.

        Raises:
            DeliveryError: At least one row is among ``failures``.
        """
        for outcome in self.failures:
            raise DeliveryError(outcome)
        return self

    def to_frame(self) -> pd.DataFrame:
        """Return the Outcomes as a DataFrame, one row each, under the frame's own index."""
        import pandas as pd

        names = [f.name for f in dataclasses.fields(Outcome)]
        columns: dict[str, list[Any]] = {n: [] for n in names}
        for outcome in self:
            for name in names:
                columns[name].append(getattr(outcome, name))
        columns["state"] = [str(s) for s in columns["state"]]
        for name in ("to", "warnings"):
            columns[name] = ["; ".join(v) for v in columns[name]]
        index = None
        if self._index is not None and all(row is not None for row in columns["row"]):
            labels = self._index()
            index = pd.Index([labels[row] for row in columns["row"]])
        return pd.DataFrame(columns, index=index, columns=names)

    @property
    def summary(self) -> str:
        """The counts in words: ``247 sent, 3 invalid``."""
        return ", ".join(f"{n:,} {s.replace('_', ' ')}" for s, n in self.counts.items()) or "no rows"

    def __repr__(self) -> str:
        title = f" {self.title}:" if self.title else ""
        return f"<Report{title} {self.summary}>"

    def text(self, limit: int = 10) -> str:
        """Return the Report as plain text: notes, counts, then what failed."""
        head = f"{self.title}: {self.summary}" if self.title else self.summary
        warned = [f"  note: {w}" for w in self.warnings[:limit]]
        return "\n".join([head, *self.notes, *self.failures.lines(limit), *warned])

    @property
    def warnings(self) -> list[str]:
        """Each distinct warning of the rows, with how many rows have it, most frequent first."""
        seen = Counter(self._outcomes.warned())
        return [w if n == 1 else f"{w} ({n:,} rows)" for w, n in seen.most_common()]

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/plain": self.text(), "text/html": self._html()}

    def _html(self, limit: int = 20) -> str:
        counts = "".join(_html.badge(s, f"{n:,} {s.replace('_', ' ')}") for s, n in self.counts.items())
        notes = "".join(f"<p>{html.escape(n)}</p>" for n in self.notes)
        failures = self.failures
        rows = [
            ("" if o.row is None else str(o.row), o.key, o.state, str(o.code or ""), o.reason, o.fix)
            for o in failures[:limit]
        ]
        table = _html.table(("row", "key", "state", "code", "why", "what to do"), rows) if rows else ""
        rest = len(failures) - len(rows)
        more = f"<p>… and {rest} more: <code>report.failures</code></p>" if rest > 0 else ""
        warned = "".join(f"<li>{html.escape(w)}</li>" for w in self.warnings[:limit])
        title = f"<strong>{html.escape(self.title)}</strong> " if self.title else ""
        body = f"<p>{title}{counts or 'no rows'}</p>{notes}{table}{more}"
        return _html.card(body + (f"<ul>{warned}</ul>" if warned else ""))


def _copied_report(
    outcomes: tuple[Outcome, ...],
    title: str,
    labels: list[Any] | None,
    notes: tuple[str, ...],
    *rest: Any,
) -> Report:
    index = None if labels is None else lambda: labels
    trial, suppressed = rest or (False, 0)  # a pickle of before has neither
    return Report(outcomes, title=title, index=index, notes=notes, trial=trial, suppressed=suppressed)
