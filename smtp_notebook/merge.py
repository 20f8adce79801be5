"""A merge: send the rows that are due, one transaction each, and record what comes of it.

`Run` sends through the two ports that are declared here, Transport and Journal, and knows no concrete one. The
decisions (`backoff`, `Breaker`, `settled`) are pure. What a row is, and how it is checked and claimed, is
`preflight`'s.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import heapq
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from smtp_notebook import preflight, times
from smtp_notebook._sync import GRACE, Caller, CallInterruptedError
from smtp_notebook.outcome import Outcome, State
from smtp_notebook.preflight import Planned, expired
from smtp_notebook.rate import Limiter, Limits, Rate
from smtp_notebook.records import packed, unpacked
from smtp_notebook.replies import BEFORE_ANY_MAIL, HaltedError

if TYPE_CHECKING:
    from smtp_notebook.outcome import Tuning
    from smtp_notebook.replies import Verdict

__all__ = [
    "Breaker",
    "Feed",
    "Journal",
    "Lane",
    "Run",
    "Sending",
    "Told",
    "Transport",
    "Wait",
    "backoff",
    "insist",
    "settled",
]

#: How many rows may wait for another try before no fresh one is begun.
MOST_WAITING = 4096
#: The mails of waiting rows are kept up to this many bytes, about.
WAITING_BYTES = 16 * 1024 * 1024
#: A window of claimed rows lasts about so long, and is never smaller than so many rows.
_WINDOW_SECONDS = 0.1
_LEAST_CLAIMED = 16
#: An unused connection is closed when the next mail is further away than this, in seconds.
IDLE_SECONDS = 30.0
#: How a run waits between attempts, in seconds; a test may exchange it for one that does not.
PAUSE: Callable[[float], Awaitable[None]] = asyncio.sleep
#: What a run takes for the time, in seconds; only differences count.
CLOCK: Callable[[], float] = time.monotonic
#: By what it measures for how long a mail keeps its connection, in seconds; only differences count.
TIMER: Callable[[], float] = time.perf_counter
#: While nothing is due, the wall clock is asked so often, in seconds.
LOOK_SECONDS = 30.0
#: Takes a row's key, its position, and its Outcome as `records.packed` has it.
Told = Callable[[str, int | None, tuple[Any, ...]], object]


# -------------------------------------------------------------------------------------------- ports


class Lane(Protocol):
    """Carries one mail after another; see `transport.Lane`."""

    async def deliver(
        self, mail: Planned, permit: Callable[[], Awaitable[None]], ahead: Callable[[], Planned | None]
    ) -> Verdict:
        """Try one transaction; await *permit* before the octets that make it final leave.

        *ahead* is asked for the mail that the next call will bring. Cancelled, it gives up the transaction and
        returns what is known.
        """
        ...

    def abandon(self) -> None:
        """End what is unfinished; nothing of it is delivered."""
        ...


class Transport(Protocol):
    """Hands mails to a server."""

    @property
    def tuning(self) -> Tuning | None:
        """What it settled on; None where no mail was accepted."""
        ...

    def lane(self) -> Lane:
        """Return a new lane."""
        ...

    def kept(self, seconds: float) -> int:
        """Take in for how many seconds an accepted mail kept its connection; return how many there should be."""
        ...

    def halt(self) -> None:
        """Give no connection to further mails; `Lane.deliver` raises HaltedError for them."""
        ...

    async def rest(self) -> None:
        """End the connections that nobody uses: the next mail is far away."""
        ...

    async def aclose(self) -> None:
        """End the connections; bounded in time."""
        ...


class Journal(Protocol):
    """Remembers what was intended and what came of it.

    Called on the loop of the run.
    """

    def intend(self, row: Planned) -> Awaitable[None]:
        """Record that the final dot is about to leave; done when it has been awaited."""
        ...

    def record(
        self, row: Planned, columns: tuple[Any, ...], then: Callable[[BaseException | None], None]
    ) -> None:
        """Record an Outcome, `records.packed`, then call *then*, with the error when it could not be recorded."""
        ...


class Sending(Protocol):
    """What sends the rows of a merge: a `Run`, or what hands them to others who do.

    Attributes:
        stopped: Why it ended before its last row, or "".
        held_up: Why nothing is sent at this moment, in a few words, or "".
    """

    stopped: str
    held_up: str

    @property
    def unreachable(self) -> bool:
        """Whether it ended because the server could not be reached."""
        ...

    @property
    def tuning(self) -> Tuning | None:
        """What it settled on; None where no mail was accepted."""
        ...

    def stop(self, why: str = ...) -> None:
        """Begin no further row; those in flight may finish for some seconds. From any thread."""
        ...

    async def send(self, caller: Caller) -> None:
        """Send until every row has its Outcome, or it is stopped."""
        ...


class Feed(Protocol):
    """Gives rows that are claimed; called on the calling thread."""

    def window(self, most: int) -> list[Planned]:
        """Return the next rows, at most *most*; none when there are no more."""
        ...

    def again(self, row: Planned) -> bool:
        """Claim a row for another try, its mail in it; False when it may not be tried."""
        ...


# ---------------------------------------------------------------------------------------- decisions


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
        if verdict.state is State.SENT or verdict.state is State.PARTIAL:
            self.accepted += 1
            self.doubts = self.unreachable = self.refusals = 0
            return ""
        self.doubts = self.doubts + 1 if verdict.state is State.IN_DOUBT else 0
        lost = verdict.state is State.DEFERRED and (verdict.code is None or verdict.stage in BEFORE_ANY_MAIL)
        self.unreachable = self.unreachable + 1 if lost else 0
        self.refusals = self.refusals + 1 if verdict.state is State.REFUSED else 0
        if self.doubts >= 2:  # noqa: PLR2004 - see the class
            return "Two mails in a row fell in doubt: the server takes mail and does not answer."
        if self.unreachable >= 3:  # noqa: PLR2004
            return f"The server could not be reached three times in a row: {verdict.reason}"
        if self.refusals >= 10 and not self.accepted:  # noqa: PLR2004
            return f"The server refused the first {self.refusals} mails: {verdict.reason}"
        return ""


@dataclass(frozen=True, slots=True)
class Settled:
    """What a verdict makes of a row.

    Attributes:
        outcome: How the row stands now.
        rest: Recipients for another transaction; () when there will be none.
        at_once: Whether that one need not wait.
        accepted: Recipients who have the mail.
        refused: Recipients who were refused for good, with the answers.
    """

    outcome: Outcome
    rest: tuple[str, ...]
    at_once: bool
    accepted: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]


def settled(row: Planned, verdict: Verdict, *, left: bool) -> Settled:
    """Decide how a row stands after a transaction.

    Args:
        row: The row, as it was tried.
        verdict: What came of it.
        left: Whether there are attempts left for it in this run.
    """
    if verdict.state is State.SENT and not row.accepted and not row.refused:
        return Settled(_plain(row, verdict, verdict.status), (), at_once=False, accepted=(), refused=())
    answers = _answers(row, verdict)
    accepted = (*row.accepted, *(r for r in row.recipients if r not in answers))
    put_off = tuple(r for r, said in answers.items() if said.startswith("4"))
    refused = (*row.refused, *((r, said) for r, said in answers.items() if r not in put_off))
    at_once = bool(verdict.later) and set(put_off) <= set(verdict.later)
    may = verdict.state is State.PARTIAL or verdict.retry
    rest = put_off if may and (left or at_once) else ()
    if not accepted or verdict.state is State.IN_DOUBT:
        status = 500 if verdict.state is State.DEFERRED and not left else verdict.status
        kept = row.refused if verdict.state is State.IN_DOUBT or not rest else refused
        return Settled(_plain(row, verdict, status), rest, at_once, row.accepted, kept)
    known = {"code": verdict.code, "enhanced": verdict.enhanced}
    open_ = (*refused, *((r, answers[r]) for r in put_off))
    if not open_:
        return Settled(row.outcome(State.SENT, **known), (), at_once=False, accepted=accepted, refused=())
    outcome = row.outcome(
        State.PARTIAL,
        reason=f"Accepted, but not for {', '.join(r for r, _ in open_)}: {open_[0][1]}",
        fix="The others have it; do not send it to them again.",
        refused=open_,
        **known,
    )
    return Settled(outcome, rest, at_once, accepted, refused)


def _answers(row: Planned, verdict: Verdict) -> dict[str, str]:
    """Return what each recipient was answered who was tried and does not have the mail."""
    if verdict.state in {State.SENT, State.PARTIAL}:
        # "Too many" is no refusal of the person, whatever its code.
        return {r: f"452 {said[4:]}" if r in verdict.later else said for r, said in verdict.refused}
    # What ends the run is no answer to a recipient.
    final = verdict.state is State.REFUSED and not verdict.stops_run
    code = (verdict.code or 550) if final else 451
    return dict.fromkeys(row.recipients, f"{code} {verdict.reason}") | dict(verdict.refused)


def _plain(row: Planned, verdict: Verdict, status: int) -> Outcome:
    return row.outcome(
        verdict.state,
        status=status,
        code=verdict.code,
        enhanced=verdict.enhanced,
        reason=verdict.reason,
        fix=verdict.fix,
        refused=verdict.refused,
    )


# ---------------------------------------------------------------------------------------------- run


class Run:
    """Sends rows, several at a time, and stops in order when asked to.

    Args:
        feed: Gives claimed rows; called on the calling thread.
        transport: Where to.
        journal: What remembers.
        report: Called once per row, after its Outcome was recorded; on the run's loop.
        on_outcome: The person's own; called after *report*, on the calling thread.
        workers: With how many rows in flight it begins; then there are as many as the transport wants connections, and
            the window of claimed rows follows both them and the speed.
        attempts: Transactions per row before a temporary refusal is final for this run.
        limiter: How many mails may leave when; None for as many as can.
        again: Takes each row that is due for another try, how it stands, and in how many seconds that may be, on the
            run's loop; whoever gave the row sees to it. None: the run waits for it itself.
    """

    def __init__(
        self,
        feed: Feed,
        transport: Transport,
        journal: Journal,
        *,
        report: Told,
        on_outcome: Callable[[Outcome], object] | None = None,
        workers: int = 4,
        attempts: int = 3,
        limiter: Limits | None = None,
        again: Callable[[Planned, Outcome, float], object] | None = None,
    ) -> None:
        self.stopped = ""
        self.held_up = ""
        self._again = again
        self._feed = feed
        self._transport = transport
        self._journal = journal
        self._report = report
        self._on_outcome = on_outcome
        self._called = 0
        self._workers = self._wanted = workers
        self._hands: list[asyncio.Future[None]] = []
        self._attempts = attempts
        self._limiter = limiter
        self._pause = PAUSE
        self._clock = CLOCK
        self._breaker = Breaker()
        self._tried = 0
        self._began = CLOCK()
        self._ready: deque[Planned] = deque()
        self._later: list[tuple[float, int, Planned]] = []
        self._turn = 0
        self._exhausted = False
        self._fetching: asyncio.Task[None] | None = None
        self._in_flight = 0
        self._unrecorded = 0
        self._stop = False
        self._stopping = asyncio.Event()
        self._changes: list[asyncio.Future[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._caller: Caller | None = None
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        state = ", stopping" if self._stop else ""
        return f"<Run {self._in_flight} rows in flight, {len(self._later)} waiting{state}>"

    @property
    def tuning(self) -> Tuning | None:
        """What it settled on; None where no mail was accepted."""
        return self._transport.tuning

    @property
    def unreachable(self) -> bool:
        """Whether it ended because the server could not be reached."""
        return bool(self.stopped) and self._breaker.unreachable >= 3  # noqa: PLR2004 - see Breaker

    def stop(self, why: str = "Stopped by the person at the notebook.") -> None:
        """Stop claiming rows; those in flight may finish for up to 5 s. From any thread."""
        self.stopped = self.stopped or why
        self._stop = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._note_stop)

    def _note_stop(self) -> None:
        self._stopping.set()
        self._transport.halt()
        self._tell()

    async def send(self, caller: Caller) -> None:
        """Send until every row has its Outcome, or the run is stopped.

        Rows without an Outcome afterwards were not tried.

        Raises:
            MailError: The journal, or *report*, failed; rows in flight were finished first.
        """
        self._loop = asyncio.get_running_loop()
        self._caller = caller
        if self._stop:
            self._stopping.set()
        workers = self._hands  # grows
        workers += [asyncio.ensure_future(_Worker(self).work()) for _ in range(self._workers)]
        try:
            await self._until_done(workers)
        except asyncio.CancelledError:
            self.stop()
            self._note_stop()
            raise
        finally:
            await insist(self._unwound(workers))
        if self._failure is not None:
            raise self._failure

    async def _unwound(self, workers: Sequence[asyncio.Future[None]]) -> None:
        """End what is left: nothing goes on behind the person's back, and what is known is recorded."""
        if self._fetching is not None:
            self._fetching.cancel()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        while self._unrecorded:
            await self._change()
        self._end_waiting()
        while self._called:
            await self._change()
        await self._transport.aclose()

    async def _until_done(self, workers: Sequence[asyncio.Future[None]]) -> None:
        stopping = asyncio.ensure_future(self._stopping.wait())
        everyone = asyncio.ensure_future(_all_done(workers))
        try:
            either: set[asyncio.Future[Any]] = {everyone, stopping}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not everyone.done():
                await asyncio.wait({everyone}, timeout=GRACE)
            if not everyone.done():
                for worker in workers:
                    worker.cancel()
            for error in await everyone:
                if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
                    self.fail(error)
        finally:
            stopping.cancel()

    def _end_waiting(self) -> None:
        """Report the rows that wait for another try: they stay as they are."""
        while self._later:
            self._drop(heapq.heappop(self._later)[2])

    def _drop(self, row: Planned) -> None:
        """Let a row go that is not tried any more: one that was tried keeps what came of it, others stay planned."""
        if row.last is not None:
            self._tell_outcome(row.last)

    def fail(self, error: BaseException) -> None:
        """End the run because something of ours failed; `send` raises it."""
        self._failure = self._failure or error
        self.stop(f"{type(error).__name__}: {error}")

    def went(self, seconds: float) -> None:
        """Take in for how long an accepted mail kept its connection, and have as many workers as connections."""
        self._wanted = self._transport.kept(seconds)
        while self._workers < self._wanted and not self._stop:
            self._workers += 1
            self._hands.append(asyncio.ensure_future(_Worker(self).work()))

    def spare(self) -> bool:
        """Tell a worker that holds no row whether it is one too many; then it has to go."""
        if self._workers <= self._wanted:
            return False
        self._workers -= 1
        return True

    # ------------------------------------------------------------------------------------- which row

    @property
    def stopping(self) -> bool:
        """Whether no further row may be begun."""
        return self._stop

    async def take(self) -> Planned | None:
        """Return the next row, with its permission to leave; None when there is none, or the run stops."""
        while not self._stop:
            if self._later and self._later[0][0] <= self._clock():
                row = await self._retried(heapq.heappop(self._later)[2])
            elif self._ready and len(self._later) < MOST_WAITING:
                row = self._ready.popleft()
                self._in_flight += 1
                self._fetch_more()
                self._in_flight -= 1
            elif not self._exhausted and len(self._later) < MOST_WAITING:
                self._fetch_more()
                await self._change()
                continue
            elif self._later:
                row = await self._wait_for_first()
            elif self._in_flight or self._unrecorded or self._fetching is not None:
                await self._change()
                continue
            else:
                return None
            if row is None:
                continue
            if await self._paced(row):
                if not row.over:
                    self._in_flight += 1
                    return row
                self._pass_over(row)  # its time ended while the rate, or another row, had it wait
                continue
            self._drop(row)
        return None

    def take_ahead(self) -> Planned | None:
        """Return the next row when it may leave at this very moment."""
        if self._stop or not self._ready or len(self._later) >= MOST_WAITING:
            return None
        if self._later and self._later[0][0] <= self._clock():
            return None
        row = self._ready[0]
        if row.over:
            return None
        if self._limiter is not None:
            now = self._clock()
            if self._limiter.due(now, len(row.recipients)) > 0:
                return None
            row.token = self._limiter.take(now, len(row.recipients))
        self._ready.popleft()
        self._in_flight += 1
        self._fetch_more()
        return row

    def _pass_over(self, row: Planned) -> None:
        """Report a row whose time is over."""
        if self._limiter is not None and row.token is not None:
            self._limiter.give_back(row.token)
        self._tell_outcome(expired(row))
        self._tell()

    def give_back(self, row: Planned) -> None:
        """Take a row back that was not tried; it stays as it was."""
        self._in_flight -= 1
        self._drop(row)
        self._tell()
        if self._limiter is not None and row.token is not None:
            self._limiter.give_back(row.token)

    def _fetch_more(self) -> None:
        """Have the next rows claimed while these are being sent; a window holds both."""
        if self._fetching is not None or self._exhausted:
            return
        window = self._window()
        room = window - len(self._ready) - self._in_flight - self._unrecorded
        # A claim waits for the disk, so it is for many rows; but each worker finds one that may leave ahead.
        if len(self._ready) <= self._workers or room >= window // 2:
            self._fetching = asyncio.ensure_future(self._fetch(max(1, min(room, window // 2))))

    def _window(self) -> int:
        """Return how many rows may be claimed: what goes in a tenth of a second, as far as is known.

        Each worker has one in flight and one that leaves ahead; as many again keep them from waiting. So it follows
        the server's latency, by the speed, and the number of connections, by the workers.
        """
        least = max(_LEAST_CLAIMED, 4 * self._workers)
        if self._tried < preflight.CLAIMED:
            return max(preflight.CLAIMED, least)
        speed = self._tried / max(self._clock() - self._began, 1e-3)
        return min(max(int(speed * _WINDOW_SECONDS), least), max(preflight.WINDOW, least))

    async def _fetch(self, most: int) -> None:
        assert self._caller is not None
        try:
            rows = await self._caller.call(functools.partial(self._feed.window, most))
            self._ready.extend(rows)
            self._exhausted = not rows
        except CallInterruptedError:
            self.stop()
        except Exception as error:  # noqa: BLE001 - raised by send()
            self._exhausted = True
            self.fail(error)
        finally:
            self._fetching = None
            self._tell()

    async def _wait_for_first(self) -> Planned | None:
        """Wait until the row that is due first may be tried again."""
        due, turn, row = heapq.heappop(self._later)
        wait = max(0.0, due - self._clock())
        if wait > IDLE_SECONDS and not self._in_flight:
            await self._transport.rest()
        if not await self._unless_stopped(self._pause(wait)):
            heapq.heappush(self._later, (due, turn, row))
            return None
        return await self._retried(row)

    async def _retried(self, row: Planned) -> Planned | None:
        assert self._caller is not None
        self._in_flight += 1  # so that nobody takes this for the end
        try:
            return row if await self._caller.call(lambda: self._feed.again(row)) else None
        except asyncio.CancelledError:
            self._drop(row)
            raise
        except CallInterruptedError:
            self._drop(row)
            self.stop()
            return None
        except Exception as error:  # noqa: BLE001 - raised by send()
            self._drop(row)
            self.fail(error)
            return None
        finally:
            self._in_flight -= 1
            self._tell()

    async def _paced(self, row: Planned) -> bool:
        """Wait until the rate lets the row leave; False when the run stops meanwhile."""
        if self._limiter is None:
            return True
        count = len(row.recipients)
        self._in_flight += 1
        try:
            while (wait := self._limiter.due(self._clock(), count)) > 0:
                if wait > IDLE_SECONDS:
                    await self._transport.rest()
                if not await self._unless_stopped(self._pause(wait)):
                    return False
            row.token = self._limiter.take(self._clock(), count)
        finally:
            self._in_flight -= 1
        return True

    async def _unless_stopped(self, waiting: Awaitable[None]) -> bool:
        """Wait; return False at once when the run stops."""
        tasks = {asyncio.ensure_future(waiting), asyncio.ensure_future(self._stopping.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if not self._stop:
                raise
        finally:
            for task in tasks:
                task.cancel()
        return not self._stop

    async def _change(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changes.append(future)
        await future

    def _tell(self) -> None:
        if self._changes:
            waiting, self._changes = self._changes, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    # -------------------------------------------------------------------------------- what came of it

    def permit(self, row: Planned) -> Awaitable[None]:
        """Return what must be awaited before the row's text may leave."""
        return self._journal.intend(row)

    def settle(self, row: Planned, verdict: Verdict) -> None:
        """Take the verdict of a row in: record it, and have it tried again where that may help."""
        if why := self._breaker.note(verdict):
            self.stop(why)
            self._note_stop()
        self._tried += 1
        if verdict.enhanced == "4.7.28":
            self._slow_down()
        self._in_flight -= 1
        self._unrecorded += 1
        if verdict.state is State.SENT and not row.accepted and not row.refused:
            # What nearly every row comes to: there is nothing to decide.
            columns = row.sent(verdict.code, verdict.enhanced)
            self._journal.record(row, columns, functools.partial(self._went, row, verdict, columns))
            return
        found = settled(row, verdict, left=row.attempts < self._attempts)
        row.accepted, row.refused = found.accepted, found.refused
        # What ends the run is no fault of this row: the next run tries it like those behind it.
        noted = found.outcome.with_(state=State.DEFERRED) if verdict.stops_run else found.outcome
        self._journal.record(row, packed(noted), functools.partial(self._recorded, row, verdict, found))

    def _slow_down(self) -> None:
        """Halve the rate: the one that was given, or the one that has been reached so far."""
        now = self._clock()
        if self._limiter is None:
            reached = max(1, round(self._tried / max(1.0, now - self._began)))
            self._limiter = Limiter([Rate(reached, 1)], now)
        self._limiter.slow_down(now)

    def _put_back(self, row: Planned, delay: float) -> None:
        self._turn += 1
        if len(self._later) * row.size > WAITING_BYTES:
            row.chunks = ()  # printed again when it is due
        heapq.heappush(self._later, (self._clock() + delay, self._turn, row))

    def _went(
        self, row: Planned, verdict: Verdict, columns: tuple[Any, ...], error: BaseException | None
    ) -> None:
        """Let go of a row that everybody has, as is in the journal now."""
        if error is not None:
            self._recorded(row, verdict, settled(row, verdict, left=False), error)
            return
        self._unrecorded -= 1
        row.chunks = ()
        self._say(row.key, row.position, columns)
        self._tell()

    def _recorded(self, row: Planned, verdict: Verdict, found: Settled, error: BaseException | None) -> None:
        """Go on with a row whose answer is in the journal: it waits for another try, or that was all."""
        self._unrecorded -= 1
        outcome = found.outcome
        if error is not None:
            self.fail(error)
            outcome = outcome.with_(warnings=(*outcome.warnings, f"this could not be recorded: {error}"))
        if found.rest and error is None and not self._stop:
            row.recipients, row.last = found.rest, outcome
            delay = 0.0 if found.at_once else backoff(row.attempts, verdict, random.random())  # noqa: S311 - spreads retries, guards nothing
            row.attempts -= found.at_once
            if self._again is not None and not found.at_once:
                row.chunks = ()
                self._again(row, outcome, delay)
            else:
                self._put_back(row, delay)
        else:
            row.chunks = ()
            self._tell_outcome(outcome)
        self._tell()

    def _tell_outcome(self, outcome: Outcome) -> None:
        self._say(outcome.key, outcome.row, packed(outcome))

    def _say(self, key: str, position: int | None, columns: tuple[Any, ...]) -> None:
        try:
            self._report(key, position, columns)
        except Exception as error:  # noqa: BLE001 - raised by send()
            self.fail(error)
        if self._on_outcome is not None:
            self._called += 1
            outcome = unpacked(key, position, columns)
            asyncio.ensure_future(self._call(outcome)).add_done_callback(lambda _: self._tell())

    async def _call(self, outcome: Outcome) -> None:
        """Have the person's own function called, on the person's own thread: it may send mails itself."""
        assert self._caller is not None
        assert self._on_outcome is not None
        try:
            await self._caller.call(functools.partial(self._on_outcome, outcome))
        except CallInterruptedError:
            self.stop()
        except Exception as error:  # noqa: BLE001 - a callback's error ends the run, and is raised by send()
            self.fail(error)
        finally:
            self._called -= 1


class Wait:
    """Waits until a moment of the wall clock; from any thread it can be stopped.

    It waits by the monotonic clock, some seconds at a time, and asks the wall clock in between: so it ends in time
    although somebody set the clock, or the machine slept.
    """

    def __init__(self, until: dt.datetime) -> None:
        self._until = until
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._stop = False

    def stop(self) -> None:
        """End it at once."""
        self._stop = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def wait(self, _: Caller | None = None) -> bool:
        """Wait; return whether the moment has come."""
        self._loop = asyncio.get_running_loop()
        while not self._stop:
            left = (self._until - times.NOW()).total_seconds()
            if left <= 0:
                return True
            tasks = {
                asyncio.ensure_future(PAUSE(min(left, LOOK_SECONDS))),
                asyncio.ensure_future(self._stopping.wait()),
            }
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
        return False


async def insist(work: Coroutine[Any, Any, None]) -> None:
    """Await *work* to its end, however often somebody cancels; it is bounded in time."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = not task.done() or cancelled
    task.result()
    if cancelled:
        raise asyncio.CancelledError


async def _all_done(workers: Sequence[asyncio.Future[None]]) -> list[BaseException | None]:
    """Return how each worker ended, when all have, those too that were begun meanwhile."""
    found: list[BaseException | None] = []
    while len(found) < len(workers):
        found += await asyncio.gather(*workers[len(found) :], return_exceptions=True)
    return found


class _Worker:
    """Takes one row after another and has a lane carry it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lane = run._transport.lane()  # noqa: SLF001 - a worker is its run's hand
        self._following: Planned | None = None

    def _ahead(self) -> Planned | None:
        self._following = self._run.take_ahead()
        return self._following

    async def work(self) -> None:
        """Work until there is nothing left, or the run stops."""
        run = self._run
        try:
            while True:
                row, self._following = self._following, None
                if row is not None and run.stopping:
                    run.give_back(row)
                    return
                if row is None and run.spare():
                    return
                row = row or await run.take()
                if row is None:
                    return
                await self._one(row)
        finally:
            if self._following is not None:
                run.give_back(self._following)
            self._lane.abandon()

    async def _one(self, row: Planned) -> None:
        run = self._run
        row.attempts += 1
        row.began = row.began or times.NOW()
        begun = TIMER()
        try:
            verdict = await self._lane.deliver(row, functools.partial(run.permit, row), self._ahead)
        except Exception as error:  # noqa: BLE001 - whatever the journal raised ends the run, and is raised by send()
            row.attempts -= 1
            run.give_back(row)
            if not isinstance(error, HaltedError):
                run.fail(error)
            return
        took = TIMER() - begun
        row.seconds += took
        run.settle(row, verdict)
        if verdict.state is State.SENT or verdict.state is State.PARTIAL:
            run.went(took)
