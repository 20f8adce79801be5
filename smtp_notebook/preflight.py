"""Before and while a merge is sent: check every row, then give those that are due, a claimed window at a time.

All of it runs on the calling thread, where figures and database handles belong.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from smtp_notebook import times
from smtp_notebook.frames import ADDRESS_COLUMNS, address_key, own_key, row_key
from smtp_notebook.lint import Finding, alignment, open_link, reveals, shared_link
from smtp_notebook.mime import new_message_id, stamp
from smtp_notebook.outcome import JournalError, MailError, MessageError, Outcome, State
from smtp_notebook.records import packed, planned, rows_and_marks, sent
from smtp_notebook.roll import EXPIRED, Roll
from smtp_notebook.rows import Differing
from smtp_notebook.standing import RECHECKED, Known, decided, regrouped
from smtp_notebook.template import is_missing
from smtp_notebook.times import Moments, Span, in_words

if TYPE_CHECKING:
    from smtp_notebook.connection import Connection
    from smtp_notebook.press import Begun, Printed
    from smtp_notebook.rate import Token
    from smtp_notebook.roll import Due
    from smtp_notebook.signing import Signer
    from smtp_notebook.suppressions import Suppression, Suppressions

__all__ = [
    "CLAIMED",
    "WINDOW",
    "Claims",
    "Feed",
    "Planned",
    "Preflight",
    "Printing",
    "Single",
    "Watch",
    "all_suppressed",
    "checked",
    "expired",
    "spared",
    "with_left_out",
]

T = TypeVar("T")

#: Printed mails are kept up to this many bytes; beyond it a row is printed again when it is sent.
MEMORY_BUDGET = 32 * 1024 * 1024
#: How many rows are claimed at most at one moment (with up to 64 connections, else four for each); after power loss no
#: more than these are in doubt. Where mails go slowly it is fewer: what goes in a tenth of a second, at least 16.
WINDOW = 256
#: How many rows are claimed at once by a run that does not know its speed yet.
CLAIMED = 32
#: One window of claimed rows holds at most this many bytes of mail.
WINDOW_BYTES = 8 * 1024 * 1024
#: A part of a mail this large may be shared by many rows.
_LARGE_PART = 16 * 1024
#: From so many domains mails are looked at.
_MOST_SENDERS = 100
_MAY_HAVE_GONE = frozenset({State.SENT, State.PARTIAL, State.IN_DOUBT})
_ALWAYS = Span()
#: What a kept mail costs beside its octets.
_OVERHEAD = 500


class Rowed(Protocol):
    """What is merged: a `frames.Frame`, or a `groups.Grouped`, whose groups stand where their first rows do."""

    columns: list[str]

    def __len__(self) -> int:
        """Return how many mails it makes."""
        ...

    def numbered(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield what each mail is filled with, and its position."""
        ...

    def row(self, position: int) -> dict[str, Any]:
        """Return what the mail at a position is filled with."""
        ...


class Printing(Protocol):
    """Prints rows: a `press.Press`, or what tells of mails that were printed elsewhere, which prints none itself."""

    findings: list[str]

    @property
    def ahead(self) -> int:
        """How many rows may be begun before the first of them is finished."""
        ...

    def recipients(self, cells: Mapping[str, Any]) -> tuple[str, ...]:
        """Return whom the row's mail goes to."""
        ...

    def addressees(self, cells: Mapping[str, Any]) -> tuple[str, ...]:
        """Return whom the row's To names."""
        ...

    def begin(self, cells: Mapping[str, Any]) -> Begun:
        """Run a row's template."""
        ...

    def finish(self, begun: Begun) -> Printed:
        """Return the mail of a row that was begun."""
        ...

    def print(self, cells: Mapping[str, Any]) -> Printed:
        """Return the row's mail."""
        ...


class Claims(Protocol):
    """Takes rows, so that no other run sends them; a journal's ledger."""

    def arm(self, rows: Sequence[Planned]) -> None:
        """Claim rows, durably."""
        ...


@dataclass(slots=True, eq=False)
class Planned:
    """One row that is to be sent: its envelope and its mail.

    Attributes:
        digest: What the mail says, as a hash; a mail that is printed again must have the same.
        chunks: The mail's octets; empty while they are not needed.
        size: How many octets they are.
        accepted: Recipients who have it already, of an earlier transaction.
        refused: Recipients who were refused for good by an earlier transaction, with the answers.
        record: The number of its record in the journal; 0 for none.
        seq: How often that record was written.
        variant: Which of several texts it has, or "".
        made_of: Of which rows, as `records.made_of` has that.
        expires: From when on it is not sent any more, in seconds since 1970; None for no end.
    """

    position: int | None
    key: str
    sender: str
    recipients: tuple[str, ...]
    digest: bytes
    smtputf8: bool = False
    chunks: tuple[bytes, ...] = ()
    size: int = 0
    message_id: str = ""
    date: dt.datetime | None = None
    warnings: tuple[str, ...] = ()
    attempts: int = 0
    began: dt.datetime | None = None
    seconds: float = 0.0
    accepted: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    record: int = 0
    seq: int = 0
    last: Outcome | None = None
    token: Token | None = None
    variant: str = ""
    made_of: str = ""
    expires: float | None = None

    def fill(self, printed: Printed, now: dt.datetime | None = None, *, signer: Signer | None = None) -> None:
        """Put the mail in; Date and Message-ID are those of the first claim (RFC 5322, 3.6.4).

        With a signer it is signed as it leaves; its digest stays that of the mail without a signature.
        """
        self.date = self.date or now or times.NOW().astimezone()
        head = stamp(self.message_id, self.date)
        signed = b"" if signer is None else signer.sign((head, *printed.chunks), self.date)
        self.chunks = (signed + head, *printed.chunks)
        self.size = len(signed) + len(head) + printed.size

    def outcome(self, state: State, **more: Any) -> Outcome:
        """Return an Outcome of this row."""
        to = self.recipients
        if self.accepted or self.refused:
            to = (*self.accepted, *to, *(address for address, _ in self.refused))
        rows, marks = rows_and_marks(self.made_of)
        return Outcome(
            state=state, key=self.key, row=self.position, to=to, message_id=self.message_id,
            attempts=self.attempts, started=self.began, seconds=round(self.seconds, 6), warnings=self.warnings,
            variant=self.variant, rows=rows, marks=marks, **more,
        )  # fmt: skip

    def sent(self, code: int | None, enhanced: str) -> tuple[Any, ...]:
        """Return the values of `records.COLUMNS` of a row that everybody has now who is due."""
        tried = self.attempts, self.began, self.seconds
        made = self.variant, self.made_of
        return sent(self.recipients, (code, enhanced), self.message_id, tried, self.warnings, made)

    @property
    def over(self) -> bool:
        """Whether it may not be sent any more."""
        return self.expires is not None and times.NOW().timestamp() >= self.expires

    def columns(self, state: State) -> tuple[Any, ...]:
        """Return such an Outcome as the values of `records.COLUMNS`."""
        return packed(self.outcome(state))


def checked(printed: Printed, connection: Connection) -> Printed:
    """Return a printed mail that the connection's limits allow.

    Raises:
        MessageError: An address is not allowed, or it is too big.
    """
    if connection.allow:
        for address in printed.recipients:
            if not connection.allows(address):
                cause = f"{address} is not among the addresses that this connection allows."
                raise MessageError(cause, f"It allows: {', '.join(connection.allow)}.")
    size = printed.size + connection.signature_bytes
    if size > connection.max_message_bytes:
        cause = (
            f"The mail is {size / 2**20:,.1f} MB, attachments encoded; "
            f"the connection takes {connection.max_message_bytes / 2**20:,.0f} MB."
        )
        raise MessageError(
            cause, "Send a link instead, or raise max_message_bytes= if the server takes more."
        )
    return printed


# ---------------------------------------------------------------------------------------- preflight


@dataclass(slots=True)
class _Kept:
    """Printed mails inside a memory budget; a part that many share counts once."""

    budget: int
    mails: dict[int, Printed] = field(default_factory=dict)
    _used: int = 0
    _shared: dict[int, bytes] = field(default_factory=dict)

    def keep(self, position: int, printed: Printed) -> None:
        """Keep a mail where there is room."""
        fresh = [c for c in printed.chunks if id(c) not in self._shared]
        cost = _OVERHEAD + sum(map(len, fresh))
        if self._used + cost <= self.budget:
            self._used += cost
            self.mails[position] = printed
            self._shared.update((id(c), c) for c in fresh if len(c) >= _LARGE_PART)


class _Waiting(NamedTuple):
    """A row that was begun, and what is known of it."""

    position: int
    key: str
    people: tuple[str, ...]
    known: Known | None
    variant: str
    span: Span
    begun: Begun


class Preflight:
    """Prints and checks rows; on the calling thread, where figures and handles belong.

    Args:
        press: Makes a row's mail.
        connection: Whose limits count.
        roll: Takes every row.
        key: The columns that identify a row; None for the address.
        earlier: Tells what earlier runs made of a key; None when there were none.
        suppressions: Whom no merge mails; None for nobody.
        budget: How many octets of printed mails are kept; None for `MEMORY_BUDGET`.
        notes: Whether the journal shall have every row: those with a problem too, and those that are suppressed. It
            takes key columns.
        variants: Presses by the name of their text, where a row gets one of several.
        choose: Returns the name of the text for a key.
        moments: When rows may be sent; None for now.

    Attributes:
        findings: What `lint` says of the mails, each with the first row of which it says that.
        total: How many rows the frame has that is being checked.
        earlier: Tells what earlier runs made of a key; None when there were none.
        problems: How many of the rows so far must not be sent.
        due: How many are to be sent.
        settled: How many are not due: earlier runs sent them or left them in doubt, or they are suppressed.
        suppressed: How many are not due because all their recipients are on the suppression list.
        regrouped: Of how many somebody may have a mail that was made of other rows.
        envelope_sender: Gives MAIL FROM for From's address and a Message-ID.
        held_up: Why the check does not go on at this moment, in a few words, or "".
    """

    def __init__(
        self,
        press: Printing,
        connection: Connection,
        roll: Roll,
        *,
        key: tuple[str, ...] | None = None,
        earlier: Callable[[str], Known | None] | None = None,
        suppressions: Suppressions | None = None,
        budget: int | None = None,
        notes: bool = False,
        variants: Mapping[str, Printing] | None = None,
        choose: Callable[[str], str] | None = None,
        moments: Moments | None = None,
    ) -> None:
        self.press = press
        self.presses = variants or {"": press}
        self._choose = choose
        self.moments = moments
        self._folded = False
        self._now = times.NOW()
        self.notes = notes
        self.roll = roll
        self.kept = _Kept(MEMORY_BUDGET if budget is None else budget)
        self.partly: dict[int, Known] = {}
        self.findings: dict[str, int] = {}
        self.total = 0
        self.problems = 0
        self.due = 0
        self.settled = 0
        self.suppressed = 0
        self.regrouped = 0
        self.held_up = ""
        self.suppressions = suppressions
        self.envelope_sender = connection.envelope_sender
        self._connection = connection
        self._key = key
        self.earlier = earlier
        self._sender = ""
        self._senders: set[str] = set()
        self._shared: tuple[int, int] | None = None
        self._sharing = 0

    def check(self, frame: Rowed, limit: int | None = None, *, each: Watch | None = None) -> None:
        """Check the rows, at most *limit* good ones, and put each into the roll.

        *each* is called before each row; what it raises ends the check.
        """
        self.total = len(frame)
        self._folded = getattr(frame, "groups", None) is not None
        self._now = times.NOW()
        waiting: deque[_Waiting] = deque()
        try:
            for position, cells in frame.numbered():
                if each is not None:
                    each(self)
                if limit is not None and self.due + len(waiting) >= limit:
                    self._finish(waiting, 0)
                    if self.due >= limit:
                        break
                begun = self._judged(position, cells, functools.partial(self._begun, position, cells))
                if begun is not None:
                    waiting.append(begun)
                    self._finish(waiting, self.press.ahead)
            self._finish(waiting, 0)
            if self._shared is not None:
                self._find(shared_link(*self._shared, self._sharing - 1), self._shared[1])
        finally:
            for row in waiting:
                row.begun.cancel()

    def recheck(self, frame: Rowed) -> None:
        """Check the rows once more whose time has come meanwhile, and put each into the roll anew."""
        self._now = times.NOW()
        waiting: deque[_Waiting] = deque()
        try:
            for position in self.roll.come(self._now.timestamp()):
                self.settled -= 1
                cells = frame.row(position)
                begun = self._judged(position, cells, functools.partial(self._begun, position, cells))
                if begun is not None:
                    waiting.append(begun)
                    self._finish(waiting, self.press.ahead)
            self._finish(waiting, 0)
        finally:
            for row in waiting:
                row.begun.cancel()

    def _finish(self, waiting: deque[_Waiting], most: int) -> None:
        """Finish the first rows that wait until at most so many do."""
        while len(waiting) > most:
            row = waiting.popleft()
            self._judged(row.position, row.begun.cells, functools.partial(self._finished, row))

    def _judged(self, position: int, cells: Mapping[str, Any], step: Callable[[], T]) -> T | None:
        """Take a step of a row; a problem that it has is noted."""
        try:
            return step()
        except JournalError:
            raise  # says nothing of this row
        except MailError as error:
            self.problems += 1
            outcome = self._problem(position, cells, error)
            if self._key is None or not self._note(self._key, outcome, cells):
                self.roll.add(outcome)
            return None

    def _note(self, columns: tuple[str, ...], outcome: Outcome, cells: Mapping[str, Any]) -> bool:
        """Put a row with a problem into the roll as one that the journal shall have; tell whether it may.

        Not a second row of one key, whose first one stands for it, and not one that somebody has the mail of.
        """
        assert outcome.row is not None
        key = own_key(columns, cells)
        if not self.notes or self.roll.first(f"key {key}", outcome.row) != outcome.row:
            return False
        known = self.earlier(key) if self.earlier is not None else None
        if known is not None and known.state not in RECHECKED:
            return False
        record, seq = (known.id, known.seq) if known is not None else (0, 0)
        self.roll.add_noted(outcome.with_(key=key), record=record, seq=seq)
        return True

    def _begun(self, position: int, cells: Mapping[str, Any]) -> _Waiting | None:
        """Begin a row; None when it is clear already that it is not to be sent."""
        people: tuple[str, ...] = ()
        if self._folded and (fault := getattr(cells, "fault", None)) is not None:
            raise fault
        if self._key is not None:
            key = row_key(self._key, cells)
        else:
            people = self.press.addressees(cells)
            key = address_key(people)
        if (first := self.roll.first(f"key {key}", position)) != position:
            cause = f"Row {first} has the same key, {key!r}."
            raise MessageError(
                cause, "Remove one of them, or name a key column that tells them apart: key=…."
            )
        known = self.earlier(key) if self.earlier is not None else None
        if known is not None and known.state != State.REFUSED:
            outcome = decided(known, self._meant(known, self._recipients(cells)), known.digest)
            if outcome is not None:
                self._settle(self._with_other_rows(outcome, known, cells), position)
                return None
        if self.suppressions is not None and not self.suppressions.empty:
            people = people or self._named(cells)
            if known is not None or self.suppressions.concerns(people):
                outcome = self._left_alone(self.suppressions, people, cells, known)
                if outcome is not None:
                    self.suppressed += 1
                    self._settle(outcome.with_(key=key), position, noted=self.notes and known is None)
                    return None
        span = _ALWAYS if self.moments is None else self.moments.span(cells)
        if span.over(self._now) and (known is None or known.state != State.REFUSED):
            self._pass_over(position, key, self._recipients(cells), span, known)
            return None
        variant = self._choose(key) if self._choose is not None else ""
        return _Waiting(position, key, people, known, variant, span, self.presses[variant].begin(cells))

    def _pass_over(
        self, position: int, key: str, to: tuple[str, ...], span: Span, known: Known | None
    ) -> None:
        """Put a row into the roll whose time is over."""
        assert span.ends is not None
        if known is not None and (known.accepted or known.state == State.PARTIAL):
            outcome = known.outcome.with_(reason=_ended(known.outcome, span.ends))
        else:
            reason = f"{EXPIRED}{in_words(span.ends)}."
            outcome = Outcome(state=State.SKIPPED, key=key, to=to, reason=reason)
        self._settle(outcome, position, noted=self.notes and known is None)

    def _put_off(self, row: _Waiting, printed: Printed) -> None:
        """Put a row into the roll whose time has not come; the journal has it as planned, so that no later run forgets it."""
        known, begins = row.known, row.span.begins
        assert begins is not None
        reason = f"Not before {in_words(begins)}."
        if known is not None and (known.accepted or known.state == State.PARTIAL):
            outcome = known.outcome.with_(reason=f"{known.outcome.reason} The others: {reason.lower()}")
        else:
            rows, marks = rows_and_marks(str(getattr(row.begun.cells, "made_of", "")))
            outcome = Outcome(
                state=State.PLANNED, key=row.key, to=printed.recipients, reason=reason,
                variant=row.variant, rows=rows, marks=marks, warnings=printed.warnings,
            )  # fmt: skip
        self.settled += 1
        outcome = outcome.with_(row=row.position)
        if known is None or known.state in {State.PLANNED, State.INVALID}:
            record, seq = (known.id, known.seq) if known is not None else (0, 0)
            self.roll.add_noted(outcome, record=record, seq=seq)
        else:
            self.roll.add(outcome)  # what came of its last try stays in the journal
        self.roll.wait(row.position, begins.timestamp())

    def _with_other_rows(self, outcome: Outcome, known: Known, cells: Mapping[str, Any]) -> Outcome:
        """Return the Outcome of a row that is not due, with a warning where its mail went with other rows."""
        said = self._other_rows(known, cells)
        return outcome.with_(warnings=(*outcome.warnings, *said)) if said else outcome

    def _other_rows(self, known: Known, cells: Mapping[str, Any]) -> tuple[str, ...]:
        """Return a warning where somebody may have a group's mail that was made of other rows; no row is lost silently."""
        made: str | None = getattr(cells, "made_of", None)
        if made is None or not (known.accepted or known.state in _MAY_HAVE_GONE):
            return ()
        said = regrouped(known.outcome, *rows_and_marks(made))
        self.regrouped += bool(said)
        return (said,) if said else ()

    def _meant(self, known: Known, recipients: tuple[str, ...]) -> tuple[str, ...]:
        """Return a row's recipients but for those who were left out before and would be now."""
        if self.suppressions is None or not self.suppressions.concerns(recipients):
            return recipients
        had = {a.casefold() for a in known.outcome.to}
        return tuple(r for r in recipients if r.casefold() in had or self.suppressions.listed(r) is None)

    def _named(self, cells: Mapping[str, Any]) -> tuple[str, ...]:
        """Return whom a row's To names; () when that is unclear, which its mail will say better."""
        try:
            return self.press.addressees(cells)
        except MailError:
            return ()

    def _left_alone(
        self,
        suppressions: Suppressions,
        people: tuple[str, ...],
        cells: Mapping[str, Any],
        known: Known | None,
    ) -> Outcome | None:
        """Return the Outcome of a row of which nobody may be mailed, before anything is made for it; or None."""
        had = {a.casefold() for a in known.accepted} if known is not None else set()
        if not people or not all(a.casefold() in had or suppressions.listed(a) for a in people):
            return None
        everybody = self._recipients(cells)
        left, entries = spared(tuple(a for a in everybody if a.casefold() not in had), suppressions)
        if left or not entries:
            return None
        return all_suppressed(Outcome(state=State.SKIPPED, to=everybody), entries)

    def _finished(self, row: _Waiting) -> None:
        """Print a row that was begun, and put it into the roll."""
        position, known, begun = row.position, row.known, row.begun
        press = self.presses[row.variant]
        printed = checked(press.finish(begun), self._connection)
        while press.findings:
            self.findings.setdefault(press.findings.pop(0), position)
        if printed.link or printed.sender != self._sender:
            self._look_at(printed, position)
        if known is not None:
            meant = self._meant(known, printed.recipients)
            if (outcome := decided(known, meant, printed.digest)) is not None:
                self._settle(self._with_other_rows(outcome, known, begun.cells), position)
                return
        if row.span is not _ALWAYS and row.span.over(self._now):
            self._pass_over(position, row.key, printed.recipients, row.span, known)
            return
        if row.span is not _ALWAYS and row.span.waits(self._now):
            self._put_off(row, printed)
            return
        shared = self._shared_addresses(row.people or self.press.addressees(begun.cells), position)
        self._add(row, printed, shared)

    def _look_at(self, printed: Printed, position: int) -> None:
        """Look at what each row may have of its own, where `lint` sees the first mails alone."""
        self._sender = printed.sender
        domain = printed.sender.rpartition("@")[2]
        if domain not in self._senders and len(self._senders) < _MOST_SENDERS:
            self._senders.add(domain)
            for finding in alignment(domain, self._connection):
                self._find(finding, position)
        if not printed.link:
            return
        if reveals(printed.link, printed.recipients):
            self._find(open_link(), position)
        if (first := self.roll.first(f"link {printed.link}", position)) != position:
            self._shared = self._shared or (first, position)
            self._sharing += 1

    def _find(self, finding: Finding, position: int) -> None:
        self.findings.setdefault(str(finding), position)

    def _settle(self, outcome: Outcome, position: int, *, noted: bool = False) -> None:
        """Put a row into the roll that is as an earlier run left it, or that the journal shall have although it is not due."""
        self.settled += 1
        if noted:
            self.roll.add_noted(outcome.with_(row=position), record=0, seq=0)
        else:
            self.roll.add(outcome.with_(row=position))

    def _recipients(self, cells: Mapping[str, Any]) -> tuple[str, ...]:
        """Return whom a row goes to that will not be sent; () when that is unclear."""
        try:
            return self.press.recipients(cells)
        except MailError:
            return ()

    def _add(self, row: _Waiting, printed: Printed, shared: tuple[str, ...]) -> None:
        """Put a row that is due into the roll, and keep its mail where there is room."""
        position, known = row.position, row.known
        warnings = (*printed.warnings, *shared) if shared else printed.warnings
        recipients = printed.recipients
        if self.suppressions is not None and self.suppressions.concerns(recipients):
            recipients, left_out = spared(recipients, self.suppressions)
            warnings = with_left_out(warnings, left_out)
        same = known is not None and known.digest == printed.digest
        name = known.outcome.message_id if known is not None and same else ""
        if known is not None and (known.accepted or known.state == State.PARTIAL):
            self.partly[position] = known
        record, seq = (known.id, known.seq) if known is not None else (0, 0)
        if known is not None:
            warnings = (*warnings, *self._other_rows(known, row.begun.cells))
        made = getattr(row.begun.cells, "made_of", "") if self._folded else ""
        columns = planned(recipients, name, warnings, (row.variant, made))
        ends = None if row.span.ends is None else row.span.ends.timestamp()
        self.roll.add_due(position, row.key, printed.digest, columns, record=record, seq=seq, expires=ends)
        self.kept.keep(position, printed)
        self.due += 1

    def _shared_addresses(self, people: Sequence[str], position: int) -> tuple[str, ...]:
        """Return a warning for each address that an earlier row has too."""
        firsts = [(self.roll.first(f"to {a.casefold()}", position), a) for a in people]
        return tuple(
            f"row {position} goes to the same address as row {first} ({address})"
            for first, address in firsts
            if first != position
        )

    def _problem(self, position: int, cells: Mapping[str, Any], error: MailError) -> Outcome:
        key = ""
        if self._key is not None:
            key = ", ".join(_shown(cells.get(c)) for c in self._key)
        else:
            column = next((c for c in cells if c.casefold() in ADDRESS_COLUMNS), None)
            if column is not None:
                key = " ".join(_shown(cells[column]).split())[:80]
        key = key.encode("utf-8", "backslashreplace").decode()  # half of a character has no other form
        return Outcome(state=State.INVALID, row=position, key=key, reason=error.cause, fix=error.fix)


def _shown(cell: Any) -> str:
    """Return a cell as it is shown in a key that does not do; "" for one that is empty, or differs within its group."""
    return "" if type(cell) is Differing or is_missing(cell) else str(cell)


def expired(row: Planned) -> Outcome:
    """Return the Outcome of a row whose time is over before it went, or went to all."""
    assert row.expires is not None
    ends, last = times.from_seconds(row.expires), row.last
    if last is None and not row.accepted:
        return row.outcome(State.SKIPPED, reason=f"{EXPIRED}{in_words(ends)}.")
    if last is None:
        # Some have it, of an earlier run.
        return row.outcome(State.PARTIAL, reason=f"{EXPIRED}{in_words(ends)}: the others get it no more.")
    if last.state in {State.PARTIAL, State.IN_DOUBT}:
        return last.with_(reason=_ended(last, ends), warnings=row.warnings)
    reason = f"{EXPIRED}{in_words(ends)}, and was not tried again. Before: {last.reason}".strip()
    return last.with_(
        state=State.SKIPPED, status=0, code=None, enhanced="", reason=reason, fix="", warnings=row.warnings
    )


def _ended(before: Outcome, ends: dt.datetime) -> str:
    return f"{before.reason} It was not tried again: it expired at {in_words(ends)}.".strip()


def spared(
    recipients: tuple[str, ...], suppressions: Suppressions
) -> tuple[tuple[str, ...], list[Suppression]]:
    """Return those who may be mailed, and the entries that speak against the others; pure, in wire form."""
    entries = [entry for r in recipients if (entry := suppressions.listed(r)) is not None]
    if not entries:
        return recipients, entries
    return tuple(r for r in recipients if suppressions.listed(r) is None), entries


def all_suppressed(outcome: Outcome, entries: Sequence[Suppression]) -> Outcome:
    """Return the Outcome of a row that is skipped because of these entries."""
    named = [entry.said for entry in entries[:3]]
    rest = len(entries) - len(named)
    reason = "; ".join(dict.fromkeys(named)) + (f"; and {rest} more" if rest > 0 else "")
    fix = f'unsuppress("{entries[0].address}") lifts that.'
    return outcome.with_(state=State.SKIPPED, status=0, reason=f"{reason}.", fix=fix)


def with_left_out(warnings: tuple[str, ...], entries: Sequence[Suppression]) -> tuple[str, ...]:
    """Return a row's warnings with one for each recipient who is left out, each once."""
    if not entries:
        return warnings
    return tuple(dict.fromkeys([*warnings, *(f"left out: {entry.said}" for entry in entries)]))


#: Looks at a check while it is going on.
Watch = Callable[[Preflight], object]


# --------------------------------------------------------------------------------------------- feed


class Feed:
    """Gives the rows that are due, a claimed window at a time; on the calling thread.

    A row whose mail was not kept is printed again, and must come out as it was checked.

    Args:
        frame: The rows' cells.
        preflight: What was checked and kept.
        claims: Takes rows before they are given.
        divert: Where every mail goes instead of to its recipients, or "".
        signer: Signs each mail, on the calling thread; None for no signature.
        report: Takes the Outcome of a row that turns out not to be sent.
    """

    def __init__(
        self,
        frame: Rowed,
        preflight: Preflight,
        claims: Claims,
        *,
        divert: str = "",
        signer: Signer | None = None,
        report: Callable[[Outcome], object],
    ) -> None:
        self._frame = frame
        self._check = preflight
        self._claims = claims
        self._divert = divert
        self._signer = signer
        self._report = report
        self._cells: Iterator[tuple[int, dict[str, Any]]] | None = None
        self._last = -1

    def window(self, most: int = CLAIMED) -> list[Planned]:
        """Return the next rows, at most *most*, claimed; none when there are no more."""
        rows: list[Planned] = []
        size = 0
        self._reread()
        now = times.NOW().astimezone()
        while not rows:
            found = self._check.roll.due(self._last, most)
            if not found:
                return []
            for due in found:
                if size > WINDOW_BYTES:
                    break
                self._last = due.position
                row = self._row(due, now)
                if row is not None:
                    rows.append(row)
                    size += row.size
        self._claims.arm(rows)
        return rows

    def again(self, row: Planned) -> bool:
        """Claim a row that is to be tried once more, and print it where its mail was let go.

        Returns:
            Whether it may be tried; otherwise its Outcome has been reported.
        """
        self._reread()
        if row.last is not None and not self._divert and not self._spare(row):
            said = f"{row.last.reason} It was not tried again: {row.warnings[-1]}".strip()
            self._report(row.last.with_(reason=said, warnings=row.warnings))
            return False
        if row.over:
            self._pass_over(row)
            return False
        if not row.chunks:
            assert row.position is not None
            printed = self._print(row, self._frame.row(row.position), row.last)
            if printed is None:
                return False
            row.fill(printed, signer=self._signer)
        self._claims.arm([row])
        return True

    def _row(self, due: Due, now: dt.datetime) -> Planned | None:
        printed = self._check.kept.mails.pop(due.position, None)
        if printed is None:
            printed = self._print(due, self._next_cells(due.position))
        if printed is None:
            return None
        message_id = due.message_id or new_message_id(printed.sender.rpartition("@")[2])
        row = Planned(
            position=due.position,
            key=due.key,
            sender=self._check.envelope_sender(printed.sender, message_id),
            recipients=printed.recipients,
            digest=due.digest,
            smtputf8=printed.smtputf8 or not self._divert.isascii(),
            message_id=message_id,
            warnings=due.warnings,
            record=due.record,
            seq=due.seq,
            variant=due.variant,
            made_of=due.made_of,
            expires=due.expires,
        )
        row.fill(printed, now, signer=self._signer)
        if (known := self._check.partly.get(due.position)) is not None:
            _continue(row, known)
            if not row.recipients:
                reason = "Nobody of this row who does not have the mail is known to be somebody else."
                self._report(row.outcome(State.SKIPPED, reason=reason))
                return None
        if not self._spare(row):
            return None
        if row.over:
            self._pass_over(row)
            return None
        if self._divert:
            row.recipients = (self._divert,)
        return row

    def _pass_over(self, row: Planned) -> None:
        """Report a row whose time is over."""
        self._report(expired(row))

    def _reread(self) -> None:
        """Read the suppression list where it changed: an address that came meanwhile counts from now on."""
        if self._check.suppressions is not None:
            self._check.suppressions.refresh()

    def _spare(self, row: Planned) -> bool:
        """Leave out whoever is suppressed by now; report the row and return False when nobody is left."""
        suppressions = self._check.suppressions
        if suppressions is None or not suppressions.concerns(row.recipients):
            return True
        left, entries = spared(row.recipients, suppressions)
        row.warnings = with_left_out(row.warnings, entries)
        if left:
            row.recipients = left
        elif row.last is None:
            self._check.suppressed += 1
            self._report(all_suppressed(row.outcome(State.SKIPPED), entries))
        return bool(left)

    def _next_cells(self, position: int) -> dict[str, Any]:
        """Return the cells at *position*, which lies behind those that were asked for before."""
        if self._cells is None:
            self._cells = self._frame.numbered()
        for place, cells in self._cells:
            if place == position:
                return cells
        return self._frame.row(position)

    def _print(
        self, row: Planned | Due, cells: Mapping[str, Any], last: Outcome | None = None
    ) -> Printed | None:
        """Return the row's mail as it was checked, or report why not; a row that was tried keeps what came of it."""
        try:
            printed = self._check.presses[row.variant].print(cells)
            if printed.digest != row.digest:
                cause = "Rendered again, the mail differs from the one that was checked."
                raise MessageError(cause, "Make the template's functions return the same each time.")
        except MailError as error:
            if last is not None:
                outcome = last.with_(reason=f"{last.reason} It was not tried again: {error.cause}".strip())
            else:
                outcome = Outcome(
                    state=State.INVALID, row=row.position, key=row.key, reason=error.cause, fix=error.fix
                ).with_(variant=row.variant)
            self._report(outcome)
            return None
        return printed


def _continue(row: Planned, known: Known) -> None:
    """Have a row that some recipients have go to the others alone.

    An address that the row did not have before is one of the others, unless one that has the mail is gone: then it
    may be the same person's.
    """
    had = {a.casefold() for a in known.accepted}
    lost = {a.casefold(): said for a, said in known.outcome.refused if not said.startswith("4")}
    now = {a.casefold() for a in row.recipients}
    due = (now if had <= now else now & {a.casefold() for a in known.outcome.to}) - had - lost.keys()
    row.accepted = tuple(r for r in known.outcome.to if r.casefold() in had)
    row.refused = tuple((r, lost[r.casefold()]) for r in known.outcome.to if r.casefold() in lost)
    row.recipients = tuple(r for r in row.recipients if r.casefold() in due)


class Single:
    """Feeds one mail that is claimed already."""

    def __init__(self, row: Planned, claims: Claims) -> None:
        self._rows = [row]
        self._claims = claims

    def window(self, most: int = 1) -> list[Planned]:  # noqa: ARG002 - there is one
        """Return the mail, once."""
        rows, self._rows = self._rows, []
        return rows

    def again(self, row: Planned) -> bool:
        """Claim it for another try."""
        self._claims.arm([row])
        return True
