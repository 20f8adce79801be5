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
import math
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
    "Tuning",
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
        variant: Which of several texts the row got, such as ``B``; "" where there is one text. See `Variants`.
        rows: Of how many rows of the frame the mail was made; 1 unless ``group_by=`` folds them.
        marks: What tells these rows apart from others, for a later run; "" without ``group_by=``.
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
    variant: str = ""
    rows: int = 1
    marks: str = dataclasses.field(default="", repr=False)

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


#: A run that took less is not told how it could be faster, in seconds.
_LONG = 30.0
#: A mail kept its connection for at most so many round trips where latency is what took the time.
_ROUND_TRIPS = 3
#: Which part of the time connections carry mails where they are what a run waits for.
_FULL = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Tuning:
    """What a merge settled on, by what the server answered: nobody has to set it, and it may be worth knowing.

    Attributes:
        connections: How many connections it used at last.
        allowed: How many it might have used: ``max_connections`` of the `Connection`.
        refused: How many connections the server refused because there were too many.
        seconds: For how long a mail kept its connection, in seconds: the median of the last ones.
        latency: How long the server takes for its shortest answer, the one to EHLO, in seconds.
        elapsed: How long the whole took, in seconds, waits for the rate included.
        mails_per_second: How many mails were accepted each second, over the whole.
        slowed: How often it was slowed down because the server asked for fewer mails (4.7.28); complaints within ten
            seconds count as one.
        rate: How many mails were accepted each second since it was last slowed down; None where it never was, or
            only within the last ten seconds.
        workers: How many processes sent it: more than one over a cluster.
        batch: How many rows a worker of a cluster was given at once, at last; 0 without a cluster.
    """

    connections: int
    allowed: int
    refused: int
    seconds: float
    latency: float
    elapsed: float
    mails_per_second: float
    slowed: int = 0
    rate: float | None = None
    workers: int = 1
    batch: int = 0

    def __repr__(self) -> str:
        many = f", {self.workers} workers, {self.batch} rows a batch" if self.batch else ""
        asked = f", {self.refused} refused" if self.refused else ""
        slowed = f", slowed down {self.slowed} times" if self.slowed else ""
        return (
            f"<Tuning {self.connections} of {self.allowed} connections{asked}: {self.mails_per_second:,.1f} mails a second over "
            f"{self.elapsed:,.1f} s, {self.seconds:.3f} s each{slowed}{many}>"
        )

    def note(self, documented: int | None = None) -> str:
        """Return the sentence that says what a person could set by hand, or "" where there is nothing to gain.

        Args:
            documented: How many connections the provider takes at once, as it says itself; None where it does not.
        """
        if self.slowed:
            return f"The server asked for fewer mails (4.7.28), and {self._slowed}."
        if self.refused and self.connections < self.allowed:
            used = "1 was" if self.connections == 1 else f"{self.connections} were"
            return (
                f"The server refused a connection more, and {used} used of the {self.allowed} allowed; "
                f"max_connections={self.connections} asks for no more."
            )
        more = min(2 * self.allowed, documented or 2 * self.allowed)
        if self._waited and more > self.allowed:
            return (
                f"Most of the time went by waiting for the server's answers, over {self.connections} "
                f"connections: max_connections={more} would be faster, where the server allows that."
            )
        return ""

    @property
    def _slowed(self) -> str:
        times = "it was slowed down" + ("" if self.slowed == 1 else f" {self.slowed} times")
        return f"{times}; rate={_as_rate(self.rate)!r} keeps to what it took" if self.rate else times

    @property
    def _waited(self) -> bool:
        """Whether it was at its limit for long, and the round trips were what took the time."""
        full = self.mails_per_second * self.seconds >= _FULL * self.connections
        at_limit = self.connections == self.allowed
        return self.elapsed >= _LONG and at_limit and full and self.seconds <= _ROUND_TRIPS * self.latency


def _as_rate(speed: float) -> str:
    """Return at most so many mails a second, as ``Connection(rate=)`` has it."""
    if speed >= 1:
        return f"{math.floor(speed)}/s"
    return f"{max(1, math.floor(speed * 60))}/min"


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

    def variants(self) -> dict[tuple[str, str], int]:
        """Return how many there are of each variant and state; those without a variant under ""."""
        return dict(Counter((o.variant, str(o.state)) for o in self))


class Shelf(Protocol):
    """Where a `Report` has its Outcomes: a `Listed`, or a table that is read a few rows at a time."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Outcome]: ...
    def __getitem__(self, index: int, /) -> Outcome: ...
    def part(self, wanted: slice) -> Sequence[Outcome]: ...  # noqa: D102 - see Listed
    def counts(self) -> dict[str, int]: ...  # noqa: D102
    def where(self, states: Sequence[str]) -> Shelf: ...  # noqa: D102
    def warned(self) -> dict[str, int]: ...  # noqa: D102
    def variants(self) -> dict[tuple[str, str], int]: ...  # noqa: D102


class Grouping(Protocol):
    """Where the rows of each mail stand."""

    def positions(self, first: int) -> Sequence[int]:
        """Return the positions of all rows in the group of a row, in their order."""
        ...


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
        waiting: How many of the planned rows are so because their time has not come; see ``send_at=``.
        next_at: When the first of these is due, or None.
        groups: Where the rows of each mail stand, where ``group_by=`` folded them; None where each row is a mail.
        tuning: What it settled on, a `Tuning`: connections and speed. None where no mail was accepted, and in a Report of
            the journal, which does not know it.
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
        groups: Grouping | None = None,
        waiting: int = 0,
        next_at: dt.datetime | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self._outcomes: Shelf = _shelved(outcomes)
        self.title = title
        self.notes = tuple(notes)
        self.trial = trial
        self.suppressed = suppressed
        self._index = index
        self.waiting = waiting
        self.next_at = next_at
        self.tuning = tuning
        self._groups = groups

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
        labels = None if self._index is None else self._index()
        rest = self.notes, self.trial, self.suppressed, self._groups, self.waiting, self.next_at, self.tuning
        return _copied_report, (tuple(self), self.title, labels, *rest)

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
        return Report(outcomes, title=self.title, index=self._index, trial=self.trial, groups=self._groups)

    def where(self, *states: State) -> Report:
        """Return the Outcomes that have one of the states."""
        return self._part(self._outcomes.where([s.value for s in states]))

    @property
    def counts(self) -> dict[State, int]:
        """How many Outcomes there are of each State that occurs."""
        seen = self._outcomes.counts()
        return {state: seen[state] for state in State if seen.get(state)}

    def by_variant(self) -> dict[str, dict[State, int]]:
        """Return how many Outcomes there are of each variant and State; {} where no row has a variant.

        Of the whole campaign, what earlier runs sent included: ``Journal().report(campaign).by_variant()``.
        """
        seen = self._outcomes.variants()
        names = sorted({name for name, _ in seen if name})
        return {n: {s: seen[n, s.value] for s in State if seen.get((n, s.value))} for n in names}

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

    def positions(self, outcome: Outcome) -> list[int]:
        """Return where the rows stand in the frame that an Outcome is about: one, or all rows of a group.

        [] for an Outcome of no row, such as one of `Journal.report`'s of a single mail.
        """
        if outcome.row is None:
            return []
        return [outcome.row] if self._groups is None else list(self._groups.positions(outcome.row))

    def to_frame(self) -> pd.DataFrame:
        """Return the Outcomes as a DataFrame under the frame's own index: one line for each row of the frame.

        So ``df.join(report.to_frame())`` puts each row beside what became of it. Of a group every row has its mail's
        Outcome, with its own position as ``row``; ``rows`` says of how many rows the mail was made. Rows that were not
        looked at, such as those beyond ``limit=`` in a trial, are not in it. Where the index has a label twice, pandas
        joins each with each: `join` goes by position.
        """
        import pandas as pd

        names = [f.name for f in dataclasses.fields(Outcome) if f.name != "marks"]
        columns: dict[str, list[Any]] = {n: [] for n in names}
        for position, outcome in self._by_row():
            for name in names:
                columns[name].append(position if name == "row" else getattr(outcome, name))
        columns["state"] = [str(s) for s in columns["state"]]
        for name in ("to", "warnings"):
            columns[name] = ["; ".join(v) for v in columns[name]]
        index = None
        if self._index is not None and all(row is not None for row in columns["row"]):
            given: Any = self._index()
            if not isinstance(given, pd.Index):
                given = pd.RangeIndex(len(given)) if isinstance(given, range) else pd.Index(list(given))
            index = given.take(columns["row"])
        return pd.DataFrame(columns, index=index, columns=names)

    def _by_row(self) -> Iterator[tuple[int | None, Outcome]]:
        """Yield each Outcome with the position of each row that it is about, in the frame's order."""
        if self._groups is None:
            yield from ((outcome.row, outcome) for outcome in self)
            return
        found = [(position, outcome) for outcome in self for position in self.positions(outcome)]
        yield from sorted(found, key=lambda each: each[0])

    def join(self, df: Any, *, suffix: str = "_mail") -> pd.DataFrame:
        """Return the frame that was merged, as pandas has it, with the columns of `to_frame` beside its own.

        Rows and Outcomes are matched by position: an index with labels that stand twice, or on several levels, makes no
        difference. A row without an Outcome has empty cells there. The frame itself is not changed.

        Args:
            df: The frame, in the order in which it was merged.
            suffix: What is added to the name of a column of the Outcomes that the frame has too.

        Raises:
            MessageError: It is another frame: it has fewer rows.
        """
        import pandas as pd

        if isinstance(df, list | tuple):
            df = pd.DataFrame(list(df))
        elif not isinstance(df, pd.DataFrame):
            import narwhals as nw

            df = nw.from_native(df).to_pandas()
        told = self.to_frame()
        told = told[told["row"].notna()]
        rows = told["row"].to_numpy(dtype="int64")
        if len(rows) and rows.max() >= len(df):
            cause = f"The frame has {len(df):,} rows, and the Report tells of row {rows.max():,}."
            raise MessageError(cause, "Give the frame that was merged, with its rows in that order.")
        told.index = pd.Index(rows)
        beside = told.reindex(range(len(df))).set_axis(df.index)
        beside.columns = pd.Index([f"{c}{suffix}" if c in df.columns else c for c in beside.columns])
        joined: pd.DataFrame = pd.concat([df, beside], axis=1)
        return joined

    @property
    def summary(self) -> str:
        """The counts in words: ``247 sent, 3 invalid``."""
        return _in_words(self.counts) or "no rows"

    def __repr__(self) -> str:
        title = f" {self.title}:" if self.title else ""
        return f"<Report{title} {self.summary}>"

    def text(self, limit: int = 10) -> str:
        """Return the Report as plain text: notes, counts, then what failed."""
        head = f"{self.title}: {self.summary}" if self.title else self.summary
        warned = [f"  note: {w}" for w in self.warnings[:limit]]
        return "\n".join([head, *self._told, *self.failures.lines(limit), *warned])

    @property
    def _told(self) -> list[str]:
        """What stands above the rows: the notes, and a line for each variant."""
        counted = [f"Variant {name}: {_in_words(counts)}" for name, counts in self.by_variant().items()]
        return [*self.notes, *counted]

    @property
    def warnings(self) -> list[str]:
        """Each distinct warning of the rows, with how many rows have it, most frequent first."""
        seen = Counter(self._outcomes.warned())
        return [w if n == 1 else f"{w} ({n:,} rows)" for w, n in seen.most_common()]

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/plain": self.text(), "text/html": self._html()}

    def _html(self, limit: int = 20) -> str:
        counts = "".join(_html.badge(s, f"{n:,} {s.replace('_', ' ')}") for s, n in self.counts.items())
        notes = "".join(f"<p>{html.escape(n)}</p>" for n in self._told)
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


def _in_words(counts: Mapping[State, int]) -> str:
    return ", ".join(f"{n:,} {s.replace('_', ' ')}" for s, n in counts.items())


def _copied_report(
    outcomes: tuple[Outcome, ...],
    title: str,
    labels: Sequence[Any] | None,
    notes: tuple[str, ...],
    *rest: Any,
) -> Report:
    index = None if labels is None else lambda: labels
    # A pickle of before lacks some of these.
    missing: tuple[Any, ...] = (False, 0, None, 0, None, None)
    trial, suppressed, groups, waiting, next_at, tuning = (*rest, *missing[len(rest) :])
    return Report(
        outcomes, title=title, index=index, notes=notes, trial=trial, suppressed=suppressed, groups=groups,
        waiting=waiting, next_at=next_at, tuning=tuning,
    )  # fmt: skip
