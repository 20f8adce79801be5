"""A merge: check every row, then claim, send and record each one.

The decisions (`canonical_key`, `guess_address_column`, `backoff`, `Breaker`) are pure; `Preflight`
renders; `Run` sends through the two ports that are declared here, Transport and Journal, and knows no
concrete one.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import heapq
import json
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from smtp_notebook._sync import GRACE, Caller
from smtp_notebook.outcome import MailError, MergeRefusedError, MessageError, Outcome, State
from smtp_notebook.press import refuse_leftover, with_sender
from smtp_notebook.template import Template, is_missing
from smtp_notebook.transport import Envelope, Verdict

if TYPE_CHECKING:
    from smtp_notebook.connection import Connection
    from smtp_notebook.message import Message

__all__ = [
    "Breaker",
    "Frame",
    "Journal",
    "Plan",
    "Planned",
    "Preflight",
    "Run",
    "Transport",
    "backoff",
    "canonical_key",
    "digest",
    "guess_address_column",
    "merged",
    "with_sender",
]

ADDRESS_COLUMNS = frozenset({"email", "e-mail", "mail", "email address"})
#: Rendered mails are kept up to this many bytes; beyond it a row is rendered again when it is sent.
MEMORY_BUDGET = 256 * 1024 * 1024
#: How a run waits between attempts, in seconds; a test may exchange it for one that does not.
PAUSE: Callable[[float], Awaitable[None]] = asyncio.sleep
_EXACT_FLOAT = 2**53


# -------------------------------------------------------------------------------------------- ports


class Transport(Protocol):
    """Hands mails to a server."""

    async def deliver(
        self, envelope: Envelope, content: bytes, *, before_dot: Callable[[], Awaitable[None]]
    ) -> Verdict:
        """Try one transaction; await *before_dot* before the octets that make it final leave.

        Cancelled, it gives up the transaction and returns what is known.
        """
        ...

    async def aclose(self) -> None:
        """End the connections; bounded in time."""
        ...


class Journal(Protocol):
    """Remembers what was intended and what came of it.

    A durable journal keeps each promise across a killed process; `Run` awaits it at the three moments
    that matter and never sends when one of them fails.
    """

    durable: bool

    async def claim(self, row: Planned) -> Outcome | None:
        """Take a row; an Outcome says that it is not to be sent, and why."""
        ...

    async def intend(self, row: Planned) -> None:
        """Record that the final dot is about to leave."""
        ...

    async def record(self, row: Planned, outcome: Outcome) -> None:
        """Record what happened."""
        ...


# -------------------------------------------------------------------------------------------- frame


class Frame:
    """What `mail_merge` takes as *df*, as rows of names and cells. Never changed.

    Args:
        data: A pandas DataFrame, anything that narwhals reads (polars, pyarrow, DuckDB, …), or a
            list of dicts.

    Raises:
        MergeRefusedError: Something else, or a frame with two columns of one name.
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        self._dicts: Sequence[Mapping[Any, Any]] | None = None
        if isinstance(data, list | tuple):
            self._dicts = _checked_dicts(data)
            self.columns = list(dict.fromkeys(str(k) for row in self._dicts for k in row))
        else:
            self._table = _narwhals(data)
            self.columns = [str(c) for c in self._table.columns]

    def __len__(self) -> int:
        return len(self._dicts) if self._dicts is not None else len(self._table)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each row; a name that a dict lacks is a missing cell."""
        if self._dicts is not None:
            for row in self._dicts:
                cells = {str(k): v for k, v in row.items()}
                yield {name: cells.get(name) for name in self.columns}
            return
        for cells in self._table.iter_rows():
            yield dict(zip(self.columns, cells, strict=True))

    def row(self, position: int) -> dict[str, Any]:
        """Return one row by its position, counted from 0; negative counts from the end."""
        count = len(self)
        if not -count <= position < count:
            cause = f"There is no row {position}: the frame has {count:,} rows."
            raise MergeRefusedError(cause, "Rows are counted from 0.")
        position %= count
        if self._dicts is not None:
            return next(iter(Frame([self._dicts[position]]).rows()), {}) | {
                name: self._dicts[position].get(name) for name in self.columns
            }
        return dict(
            zip(self.columns, next(iter(self._table[position : position + 1].iter_rows())), strict=True)
        )

    def labels(self) -> Sequence[Any]:
        """Return the frame's own index: one label per row."""
        index = getattr(self._data, "index", None)
        if index is not None and not callable(index):
            return list(index)
        return range(len(self))


def _checked_dicts(data: Sequence[Any]) -> Sequence[Mapping[Any, Any]]:
    for position, row in enumerate(data):
        if not isinstance(row, Mapping):
            cause = f"Row {position} of the list is a {type(row).__name__}, not a dict."
            raise MergeRefusedError(cause, "Pass a DataFrame or a list of dicts.")
    return data


def _narwhals(data: Any) -> Any:
    import narwhals as nw

    names = getattr(data, "columns", None)
    if names is not None and not callable(names):
        seen: set[str] = set()
        twice = [str(n) for n in names if str(n) in seen or seen.add(str(n))]  # type: ignore[func-returns-value]  # add() is the point
        if twice:
            cause = f"The frame has more than one column called {twice[0]!r}."
            raise MergeRefusedError(cause, "Rename one: a template could not tell them apart.")
    try:
        table = nw.from_native(data)
    except TypeError:
        cause = f"A {type(data).__name__} is no frame."
        raise MergeRefusedError(cause, "Pass a DataFrame or a list of dicts.") from None
    return table.collect() if isinstance(table, nw.LazyFrame) else table


def guess_address_column(columns: Iterable[str]) -> str:
    """Return the one column that holds the addresses, by its name.

    Raises:
        MergeRefusedError: None or several are called email, e-mail, mail or email address.
    """
    names = list(columns)
    found = [c for c in names if c.strip().lstrip("\ufeff").casefold() in ADDRESS_COLUMNS]
    if len(found) == 1:
        return found[0]
    if found:
        cause = f"Several columns could hold the address: {', '.join(map(repr, found))}."
        raise MergeRefusedError(cause, f"Say which: to='{{{{ {found[0]} }}}}'.")
    cause = f"No column is called email; there are: {', '.join(map(repr, names[:20])) or 'none'}."
    raise MergeRefusedError(cause, "Say where to send: to='{{ ColumnName }}' here or in the template's head.")


# --------------------------------------------------------------------------------------------- keys


def canonical_key(value: object) -> str:
    """Return the one form of a key: 1, 1.0 and "1" are the same row, as are Salesforce's two ids.

    Raises:
        MessageError: The cell is missing, empty, a boolean, or a float that cannot be exact.
    """
    if is_missing(value) or value == "":
        cause = "The key is empty."
        raise MessageError(cause, "Fill the cell, or choose a key column that is never empty.")
    if isinstance(value, bool):
        cause = f"The key is {value}, which cannot tell rows apart."
        raise MessageError(cause, "Choose another key column.")
    if isinstance(value, float | Decimal):
        if abs(float(value)) > _EXACT_FLOAT:
            cause = f"The key {value} is a float beyond 2**53, which is not exact."
            raise MessageError(cause, "Read that column as text (dtype=str).")
        return str(int(value)) if value == int(value) else str(value)
    text = str(value).strip()
    if re.fullmatch(r"-?[0-9]+\.0+", text):
        return text.partition(".")[0]
    if re.fullmatch(r"[0-9A-Za-z]{18}", text) and text[15:] == _salesforce_suffix(text[:15]):
        return text[:15]
    return text


def _salesforce_suffix(identifier: str) -> str:
    """Return the check characters of a 15-character id: which of each five letters are capitals."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
    chunks = (identifier[i : i + 5] for i in (0, 5, 10))
    return "".join(alphabet[sum(1 << i for i, c in enumerate(chunk) if c.isupper())] for chunk in chunks)


def _row_key(columns: Sequence[str] | None, cells: Mapping[str, Any], message: Message | None) -> str:
    if columns is None:
        return message.recipients[0].casefold() if message is not None and message.recipients else ""
    parts = [canonical_key(cells[c]) for c in columns]
    return parts[0] if len(parts) == 1 else json.dumps(parts, ensure_ascii=False)


# ---------------------------------------------------------------------------------------- preflight


@dataclass(slots=True)
class Planned:
    """One row that may be sent: its envelope, and its mail or what the mail must be again.

    Attributes:
        content: The mail's bytes, or None when the memory budget made it go.
        digest: What the mail says, as a hash; a mail that is rendered again must have the same.
    """

    position: int | None
    key: str
    envelope: Envelope
    message_id: str
    date: dt.datetime
    digest: bytes
    content: bytes | None
    warnings: tuple[str, ...] = ()
    attempts: int = 0
    started: dt.datetime | None = None
    seconds: float = 0.0

    def outcome(self, state: State, **more: Any) -> Outcome:
        """Return an Outcome of this row."""
        known: dict[str, Any] = {
            "key": self.key,
            "row": self.position,
            "to": self.envelope.recipients,
            "message_id": self.message_id,
            "attempts": self.attempts,
            "started": self.started,
            "seconds": round(self.seconds, 6),
            "warnings": self.warnings,
        }
        return Outcome(state=state, **(known | more))


@dataclass(frozen=True, slots=True)
class Plan:
    """What the preflight found: the good rows, and an Outcome for each bad one."""

    rows: tuple[Planned, ...]
    problems: tuple[Outcome, ...]

    @property
    def outcomes(self) -> list[Outcome]:
        """Every row as an Outcome, in order, as before anything was sent."""
        planned = [row.outcome(State.PLANNED) for row in self.rows]
        return sorted([*planned, *self.problems], key=lambda o: o.row or 0)


@dataclass(slots=True)
class Preflight:
    """Renders and checks rows; on the calling thread, where figures and handles belong.

    Attributes:
        template: What each row fills.
        connection: Whose limits count, and whose sender stands in for a missing From.
        key: The columns that identify a row; None for the address.
        divert: Where every mail goes instead of to its recipients, or "".
    """

    template: Template
    connection: Connection
    key: tuple[str, ...] | None = None
    values: Mapping[str, Any] | None = None
    divert: str = ""
    budget: int = MEMORY_BUDGET
    _kept: int = 0
    _keys: dict[str, int] = field(default_factory=dict)
    _addresses: dict[str, int] = field(default_factory=dict)

    def plan(self, frame: Frame, limit: int | None = None) -> Plan:
        """Check the rows, at most *limit* good ones, and return the Plan."""
        rows: list[Planned] = []
        problems: list[Outcome] = []
        for position, cells in enumerate(frame.rows()):
            if limit is not None and len(rows) >= limit:
                break
            try:
                rows.append(self.row(position, cells))
            except MailError as error:
                problems.append(self._problem(position, cells, error))
        return Plan(tuple(rows), tuple(problems))

    def row(self, position: int, cells: Mapping[str, Any]) -> Planned:
        """Check one row.

        Raises:
            MailError: The row must not be sent, and why.
        """
        message = self.message(cells)
        key = _row_key(self.key, cells, message)
        if (first := self._keys.setdefault(key, position)) != position:
            cause = f"Row {first} has the same key, {key!r}."
            raise MessageError(
                cause, "Remove one of them, or name a key column that tells them apart: key=…."
            )
        refuse_leftover(message, self.template)
        shared = self._shared_address(message, position)
        return self.planned(message, position, key, shared)

    def message(self, cells: Mapping[str, Any]) -> Message:
        """Return the Message that a row makes, with a sender."""
        message = self.template.fill(cells, values=self.values)
        if not message.recipients:
            cause = "There is no recipient."
            raise MessageError(cause, "Fill the address cell, or leave the row out.")
        return with_sender(message, self.connection)

    def planned(
        self, message: Message, position: int | None, key: str, warnings: tuple[str, ...] = ()
    ) -> Planned:
        """Check a Message against the connection's limits and return it ready to be sent."""
        recipients = message.recipients
        if not recipients:
            cause = "The mail has no recipient."
            raise MessageError(cause, "Give to=, cc= or bcc=.")
        for address in recipients:
            if not self.connection.allows(address):
                cause = f"{address} is not among the addresses that this connection allows."
                raise MessageError(cause, f"It allows: {', '.join(self.connection.allow)}.")
        message = message.stamped()
        content = message.as_bytes()
        if len(content) > self.connection.max_message_bytes:
            cause = (
                f"The mail is {len(content) / 2**20:,.1f} MB, attachments encoded; "
                f"the connection takes {self.connection.max_message_bytes / 2**20:,.0f} MB."
            )
            raise MessageError(
                cause, "Send a link instead, or raise max_message_bytes= if the server takes more."
            )
        return Planned(
            position=position,
            key=key,
            envelope=self._envelope(message),
            message_id=message.message_id,
            date=message.date or dt.datetime.now(dt.UTC),
            digest=digest(message),
            content=self._keep(content),
            warnings=(*message.warnings, *warnings),
        )

    def again(self, planned: Planned, cells: Mapping[str, Any]) -> bytes:
        """Render a row again that was let go.

        Raises:
            MessageError: It does not come out as it was checked.
        """
        message = self.message(cells).with_(date=planned.date, message_id=planned.message_id)
        if digest(message) != planned.digest:
            cause = "Rendered again, the mail differs from the one that was checked."
            raise MessageError(cause, "Make the template's functions return the same each time.")
        return message.as_bytes()

    def _keep(self, content: bytes) -> bytes | None:
        if self._kept + len(content) > self.budget:
            return None
        self._kept += len(content)
        return content

    def _envelope(self, message: Message) -> Envelope:
        sender = message.from_.wire if message.from_ is not None else ""
        recipients = (self.divert,) if self.divert else message.recipients
        return Envelope(sender=sender, recipients=recipients, smtputf8=message.smtputf8)

    def _shared_address(self, message: Message, position: int) -> tuple[str, ...]:
        found = []
        for address in message.recipients[:1]:
            first = self._addresses.setdefault(address.casefold(), position)
            if first != position:
                found.append(f"row {position} goes to the same address as row {first} ({address})")
        return tuple(found)

    def _problem(self, position: int, cells: Mapping[str, Any], error: MailError) -> Outcome:
        key = ""
        if self.key is not None:
            key = ", ".join("" if is_missing(cells.get(c)) else str(cells.get(c)) for c in self.key)
        else:
            column = next((c for c in cells if c.casefold() in ADDRESS_COLUMNS), None)
            key = (
                ""
                if column is None or is_missing(cells[column])
                else " ".join(str(cells[column]).split())[:80]
            )
        return Outcome(state=State.INVALID, row=position, key=key, reason=error.cause, fix=error.fix)


def digest(message: Message) -> bytes:
    """Return a hash of everything that a recipient would see, Date and Message-ID aside."""
    state = hashlib.sha256()
    for part in (
        message.recipients,
        str(message.from_),
        message.subject,
        message.text,
        message.html,
        message.headers,
    ):
        state.update(repr(part).encode("utf-8", "surrogatepass") + b"\0")
    for file in (*message.inline, *message.attach):
        state.update(repr((file.name, file.type, file.content_id)).encode())
        state.update(hashlib.sha256(file.content).digest())
    return state.digest()


# ---------------------------------------------------------------------------------------------- run


def backoff(attempt: int, verdict: Verdict, jitter: float = 1.0) -> float:
    """Return how long to wait before the next attempt, in seconds; never zero.

    Doubles from 1 s up to 300 s; greylisting waits at least 60 s (RFC 6647, 4.7). *jitter* is a
    number from 0 to 1.
    """
    base = min(300.0, 2.0 ** (attempt - 1))
    if verdict.code == 450 or verdict.enhanced == "4.7.1":  # noqa: PLR2004 - the reply code of greylisting
        base = max(base, 60.0)
    return base * (1.0 + 0.25 * jitter)


@dataclass(slots=True)
class Breaker:
    """Decides when a run has to stop by itself.

    Two rows in doubt in a row, three failures in a row to reach the server, or ten refusals in a row
    before anything was accepted mean that going on does harm.
    """

    doubts: int = 0
    unreachable: int = 0
    refusals: int = 0
    accepted: int = 0

    def note(self, verdict: Verdict) -> str:
        """Take one verdict in; return why the run must stop, or ""."""
        if verdict.stops_run:
            return verdict.reason
        good = verdict.state in {State.SENT, State.PARTIAL}
        self.accepted += good
        self.doubts = self.doubts + 1 if verdict.state is State.IN_DOUBT else 0
        lost = verdict.state in {State.DEFERRED, State.FAILED} and verdict.code is None
        self.unreachable = self.unreachable + 1 if lost else 0
        self.refusals = self.refusals + 1 if verdict.state is State.REFUSED else 0
        if self.doubts >= 2:  # noqa: PLR2004 - see the class
            return "Two mails in a row fell in doubt: the server takes mail and does not answer."
        if self.unreachable >= 3:  # noqa: PLR2004
            return f"The server could not be reached three times in a row: {verdict.reason}"
        if self.refusals >= 10 and not self.accepted:  # noqa: PLR2004
            return f"The server refused the first {self.refusals} mails: {verdict.reason}"
        return ""


class Run:
    """Sends the rows of a Plan, several at a time, and stops in order when asked to.

    Args:
        rows: What to send, in this order.
        transport: Where to.
        journal: What remembers.
        render: Renders a row again that was let go; runs on the calling thread.
        workers: How many rows may be in flight.
        attempts: Transactions per row before a temporary refusal is final for this run.
        on_outcome: Called once per row, after it was recorded.
        pause: Waits between attempts; tests pass one that does not.
    """

    def __init__(
        self,
        rows: Sequence[Planned],
        transport: Transport,
        journal: Journal,
        *,
        render: Callable[[Planned], bytes],
        workers: int = 4,
        attempts: int = 3,
        on_outcome: Callable[[Outcome], object] | None = None,
        pause: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        self.outcomes: dict[int | None, Outcome] = {}
        self.stopped = ""
        self._rows = rows
        self._transport = transport
        self._journal = journal
        self._render = render
        self._workers = max(1, min(workers, len(rows)))
        self._attempts = attempts
        self._on_outcome = on_outcome
        self._pause = pause or PAUSE
        self._breaker = Breaker()
        self._fresh = iter(rows)
        self._later: list[tuple[float, int, Planned]] = []
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        return f"<Run {len(self.outcomes)} of {len(self._rows)} rows{', stopping' if self._stop.is_set() else ''}>"

    def stop(self, why: str = "Stopped by the person at the notebook.") -> None:
        """Stop claiming rows; those in flight may finish for up to 5 s. From any thread."""
        self.stopped = self.stopped or why
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    async def send(self, caller: Caller) -> None:
        """Send until every row has its Outcome, or the run is stopped.

        Rows without an Outcome afterwards were not tried.

        Raises:
            MailError: The journal, or *on_outcome*, failed; rows in flight were finished first.
        """
        self._loop = asyncio.get_running_loop()
        if self.stopped:
            self._stop.set()
        workers = [asyncio.ensure_future(self._work(caller)) for _ in range(self._workers)]
        try:
            await self._until_done(workers)
        except asyncio.CancelledError:
            self.stop()
            self._stop.set()
            await self._until_done(workers)
            raise
        finally:
            await self._transport.aclose()
        if self._failure is not None:
            raise self._failure

    async def _until_done(self, workers: Sequence[asyncio.Future[None]]) -> None:
        stopping = asyncio.ensure_future(self._stop.wait())
        everyone = asyncio.gather(*workers, return_exceptions=True)
        try:
            either: set[asyncio.Future[Any]] = {everyone, stopping}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not everyone.done():
                await asyncio.wait({everyone}, timeout=GRACE)
            if not everyone.done():
                for worker in workers:
                    worker.cancel()
            await everyone
        finally:
            stopping.cancel()

    async def _work(self, caller: Caller) -> None:
        """Take rows until there are none; one row at a time."""
        while not self._stop.is_set():
            row = await self._next()
            if row is None:
                return
            try:
                await self._one(row, caller)
            except Exception as error:  # noqa: BLE001 - whatever the journal or a callback raised ends the run, and is raised by send()
                self._failure = self._failure or error
                self.stop(f"{type(error).__name__}: {error}")

    async def _next(self) -> Planned | None:
        """Return a row that waited long enough, a fresh one, or wait for the first that is due."""
        if self._later and self._later[0][0] <= time.monotonic():
            return heapq.heappop(self._later)[2]
        if (row := next(self._fresh, None)) is not None:
            return row
        if not self._later:
            return None
        due, _, row = heapq.heappop(self._later)
        await self._unless_stopped(self._pause(max(0.0, due - time.monotonic())))
        if self._stop.is_set():
            heapq.heappush(self._later, (due, id(row), row))
            return None
        return row

    async def _unless_stopped(self, waiting: Awaitable[None]) -> None:
        tasks = {asyncio.ensure_future(waiting), asyncio.ensure_future(self._stop.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _one(self, row: Planned, caller: Caller) -> None:
        known = await self._journal.claim(row)
        if known is not None:
            self._done(row, known)
            return
        try:
            content = row.content if row.content is not None else await caller.call(lambda: self._render(row))
        except MailError as error:
            await self._finish(row, row.outcome(State.INVALID, reason=error.cause, fix=error.fix))
            return
        verdict = await self._attempt(row, content)
        if self._again(row, verdict):
            # Until it is tried again it is known not to have been delivered.
            await self._journal.record(row, _outcome(row, verdict, spent=False))
            self._put_back(row, verdict)
            return
        await self._finish(row, _outcome(row, verdict, spent=row.attempts >= self._attempts))

    async def _attempt(self, row: Planned, content: bytes) -> Verdict:
        row.attempts += 1
        row.started = row.started or dt.datetime.now(dt.UTC)
        begun = time.monotonic()
        try:
            return await self._transport.deliver(
                row.envelope, content, before_dot=lambda: self._journal.intend(row)
            )
        finally:
            row.seconds += time.monotonic() - begun

    def _again(self, row: Planned, verdict: Verdict) -> bool:
        """Tell whether the row may be tried again; note what the verdict says of the run."""
        why = self._breaker.note(verdict)
        if why:
            self.stop(why)
            self._stop.set()
        return not why and verdict.retry and row.attempts < self._attempts and not self._stop.is_set()

    def _put_back(self, row: Planned, verdict: Verdict) -> None:
        delay = backoff(row.attempts, verdict, random.random())  # noqa: S311 - spreads retries, guards nothing
        heapq.heappush(self._later, (time.monotonic() + delay, id(row), row))

    async def _finish(self, row: Planned, outcome: Outcome) -> None:
        self.outcomes[row.position] = outcome
        await self._journal.record(row, outcome)
        row.content = b""
        self._done(row, outcome)

    def _done(self, row: Planned, outcome: Outcome) -> None:
        self.outcomes[row.position] = outcome
        if self._on_outcome is not None:
            self._on_outcome(outcome)

    def report_rows(self) -> list[Outcome]:
        """Return an Outcome for every row; those that were not tried are planned or deferred."""
        waiting = {row.position for _, _, row in self._later}
        rows = []
        for row in self._rows:
            state = State.DEFERRED if row.position in waiting else State.PLANNED
            rows.append(self.outcomes.get(row.position) or row.outcome(state, reason=self.stopped))
        return rows


def _outcome(row: Planned, verdict: Verdict, *, spent: bool) -> Outcome:
    """Return the row's Outcome; a temporary refusal whose attempts are spent has status 500."""
    status = 500 if verdict.state is State.DEFERRED and spent else verdict.status
    return row.outcome(
        verdict.state,
        status=status,
        code=verdict.code,
        enhanced=verdict.enhanced,
        reason=verdict.reason,
        fix=verdict.fix,
        refused=verdict.refused,
    )


def merged(plan: Plan, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the Outcomes of sent rows and of bad ones together, in the frame's order."""
    return sorted([*outcomes, *plan.problems], key=lambda o: o.row if o.row is not None else -1)
