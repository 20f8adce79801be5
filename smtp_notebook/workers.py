"""What a worker of a cluster does for a merge: print the rows of a part, and send batches of them.

A function of this module is a task; it is given frozen values of `parcels`, and gives such back. A task may be run again
on another worker when its own one was lost, or was thought to be. So a batch is taken from whoever had it before its first
row is looked at, and what that one left open is in doubt.

What tasks of one merge share on a worker (compiled templates, connections to the server, the session of the journal) is
its station.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import platform
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from smtp_notebook import _sync, times
from smtp_notebook import merge as merges
from smtp_notebook.connection import ASKED as ASKED_BY_DEFAULT
from smtp_notebook.frames import Frame, address_key, row_key
from smtp_notebook.groups import Cells, Grouped, keys_of
from smtp_notebook.journal import Journal
from smtp_notebook.ledger import Ledger, PassingJournal
from smtp_notebook.merge import Run
from smtp_notebook.outcome import (
    JournalError,
    MailError,
    MergeRefusedError,
    Outcome,
    SecretError,
    State,
    Tuning,
)
from smtp_notebook.pace import Granted, Pace
from smtp_notebook.parcels import (
    Batch,
    Came,
    Judged,
    Mailing,
    Part,
    Piece,
    Placed,
    Sealed,
    Told,
    rowed,
    without_text,
)
from smtp_notebook.preflight import Feed, Planned, Preflight
from smtp_notebook.press import Press, Printed
from smtp_notebook.rate import Limiter, parse_rates
from smtp_notebook.records import packed, planned
from smtp_notebook.roll import Due, Roll
from smtp_notebook.signing import signer_of
from smtp_notebook.standing import Known
from smtp_notebook.times import called
from smtp_notebook.transport import SmtpTransport

__all__ = ["ASKED", "check", "close", "dealt", "joined", "keyed", "opened", "send", "told_of"]

#: How often a worker asks whether the merge is to stop, in seconds.
LOOK_SECONDS = 0.5
#: How long nobody may hold the campaign until a worker stops by itself, in seconds: who holds it may be connecting anew.
ALONE_SECONDS = 10.0
#: Why a batch ended that was asked to.
ASKED = "The merge was asked to stop."
_GONE = "Whoever runs the merge is gone; this worker sends no more."
_LOST = "A worker was lost while it sent this row's batch; it may have been delivered."
_LOST_FIX = "It was a trial: look into the mailbox that it went to, and run it again."
#: How far ahead a worker reserves when its mails may leave, in seconds.
_AHEAD_SECONDS = 2.0
_ASKED_AT_ONCE = 500
#: A station that was not used for so long is given up where another merge begins, in seconds.
_OLD_SECONDS = 3600.0
#: Clocks that differ by less than this, in seconds, are taken for the same.
_SAME_TIME_SECONDS = 1.0
#: When a row is tried again that was put off by a worker that was lost, in seconds: how long it was to wait is not known.
_AGAIN_SECONDS = 60.0


# ------------------------------------------------------------------------------------------- tasks


def opened(piece: Sealed) -> Any:
    """Return the rows of a part."""
    return piece.opened()


def keyed(data: Any, by: Sequence[str]) -> tuple[list[str | None], bytes]:
    """Return by what each row of a partition is grouped, as `groups.keys_of` has that, and a digest of it all."""
    keys = list(keys_of(Frame(data), by))
    return keys, hashlib.blake2b(repr(keys).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def dealt(data: Any, by: Sequence[str], digest: bytes, places: Sequence[Any]) -> tuple[Any, ...]:
    """Return the rows of a partition, shared out among parts: those at some places, for each of them.

    Raises:
        MergeRefusedError: It was read again, after its worker was lost, and has other rows, or has them in another order.
    """
    if keyed(data, by)[1] != digest:
        cause = "A worker was lost, and what it had of the Dask DataFrame came out otherwise when it was made again."
        raise MergeRefusedError(
            cause, "Save it (df.to_parquet(…)), merge what that reads, and run the cell again."
        )
    frame = Frame(data)
    return tuple(frame.picked(each) for each in places)


def joined(found: Sequence[Any], order: Any, firsts: Any) -> Piece:
    """Return rows that were shared out as one part, in this order."""
    from dask.dataframe.dispatch import concat

    concatenated: Any = concat
    rows = found[0] if len(found) == 1 else concatenated(list(found))
    return Piece(Frame(rows).picked(order), firsts)


def check(mailing: Sealed, data: Any) -> Part:
    """Print the rows of a part of a frame.

    Raises:
        MailError: No row of the merge can be sent by this worker: its secret, its journal or its version.
    """
    with _at_work(mailing) as station:
        return station.check(data)


def told_of(part: Part) -> tuple[Judged, ...]:
    """Return what was found of each row of a part."""
    return part.judged


def send(mailing: Sealed, part: Part, batch: Batch) -> Came:
    """Send a batch of a part's rows, and return what came of it.

    Raises:
        MergeRefusedError: Another worker, or another run, has taken it over.
        JournalError: It cannot be read; where it cannot be written later on, what came of the batch says so.
    """
    with _at_work(mailing) as station:
        return station.send(part, batch)


def leave_interrupts(dask_worker: Any) -> None:
    """Leave interrupts to whoever runs a merge, until `close`; on the thread of the worker's loop."""
    if dask_worker.nanny:
        _Interrupts.exchange()


def close(mailing_id: str) -> None:
    """Let go of what this worker has of a merge that is over."""
    with _STATIONS_LOCK:
        _OVER.append(mailing_id)
        station = _STATIONS.pop(mailing_id, None)
        last = not _STATIONS
    if station is not None:
        station.close()
    if last:
        _Interrupts.hear()


def rest(mailing_id: str) -> None:
    """Close this worker's connections to the server: another batch may have fewer."""
    with _STATIONS_LOCK:
        station = _STATIONS.get(mailing_id)
    if station is not None:
        station.rest()


# ----------------------------------------------------------------------------------------- stations

_STATIONS: dict[str, _Station] = {}
_STATIONS_LOCK = threading.Lock()
#: The newest mailings that are over: a task of one may be begun yet, before the cluster has heard that nobody wants it.
_OVER: deque[str] = deque(maxlen=1000)
#: One task at a time: pyplot, and much else that a template may call, is not made for threads.
_TURN = _sync.Turn()


@contextlib.contextmanager
def _at_work(mailing: Sealed) -> Iterator[_Station]:
    with _TURN:
        station = _known(mailing.id)
        if station is None:
            _close_old()
            _Interrupts.leave()
            station = _Station(mailing.opened())
            try:
                _known(mailing.id, station)
            except BaseException:
                station.close()
                raise
        yield station
        station.used = time.monotonic()


def _known(mailing_id: str, made: _Station | None = None) -> _Station | None:
    """Return the station of a mailing, which may have been made just now.

    Raises:
        MergeRefusedError: The mailing is over.
    """
    with _STATIONS_LOCK:
        if mailing_id in _OVER:
            raise _nobody_waits()
        if made is not None:
            _STATIONS[mailing_id] = made
        return _STATIONS.get(mailing_id)


def _nobody_waits() -> MergeRefusedError:
    return MergeRefusedError("The merge is over: nobody waits for these rows.", "")


def _close_old() -> None:
    """Let go of merges whose client never said that they are over."""
    now = time.monotonic()
    with _STATIONS_LOCK:
        old = [name for name, station in _STATIONS.items() if now - station.used > _OLD_SECONDS]
        gone = [_STATIONS.pop(name) for name in old]
    for station in gone:
        station.close()


class _Interrupts:
    """Interrupts of this process: while it has a merge to do, they are for the notebook alone.

    Jupyter, and a terminal, interrupt a whole group of processes, the workers of a `LocalCluster` too. These would end in
    the middle of a mail, which is then in doubt, although whoever runs the merge ends it in order. A nanny ends its worker
    by other means; a worker without one keeps to what it is told.
    """

    _before: Any = None

    @classmethod
    def leave(cls) -> None:
        """Leave interrupts to whoever runs the merge; from a task."""
        worker = _this_worker()
        if worker is not None and worker.nanny:
            worker.loop.add_callback(cls.exchange)

    @classmethod
    def exchange(cls) -> None:
        """Do it, on the thread of the worker's loop."""
        if cls._before is None and threading.current_thread() is threading.main_thread():
            cls._before = signal.signal(signal.SIGINT, _not_for_us)

    @classmethod
    def hear(cls) -> None:
        """Be as before; on the thread of the worker's loop."""
        if cls._before is not None and threading.current_thread() is threading.main_thread():
            before, cls._before = cls._before, None
            if signal.getsignal(signal.SIGINT) is _not_for_us:
                signal.signal(signal.SIGINT, before)


def _not_for_us(*_: object) -> None:
    """Do nothing. A function, and not SIG_IGN, which what a worker starts would inherit."""


class _Station:
    """What this process has of one merge."""

    def __init__(self, mailing: Mailing) -> None:
        self._mailing = mailing
        connection, template = mailing.connection, mailing.template
        self._presses = {
            name: Press(made, connection, values=mailing.values)
            for name, made in (template.variants or {"": template}).items()
        }
        self._press = next(iter(self._presses.values()))
        self._password = _password(mailing)
        self._signer = signer_of(connection.signers)
        self._journal = Journal(mailing.journal) if mailing.journal is not None else None
        self._transport: SmtpTransport | None = None
        self._pace = self._paced()
        self._limiter = self._own_limiter()
        self._over = False
        self.used = time.monotonic()

    def __repr__(self) -> str:
        return f"<Station for {self._mailing.campaign or 'a trial'}>"

    def close(self) -> None:
        """End connections and session; who prints rows at this moment ends before the next one."""
        self._over = True
        self.rest()
        if self._journal is not None:
            self._journal.close()

    def rest(self) -> None:
        """Close the connections to the server."""
        transport, self._transport = self._transport, None
        if transport is not None:
            _sync.spawn(transport.aclose())

    def _paced(self) -> Pace | None:
        rates = parse_rates(self._mailing.connection.rate)
        if not rates or self._journal is None:
            return None
        return self._journal.pace(self._mailing.connection, rates)

    def _own_limiter(self) -> Limiter | None:
        """Return what holds the rate of a trial, which one worker sends at a time."""
        rates = parse_rates(self._mailing.connection.rate)
        return Limiter(rates, merges.CLOCK()) if rates and self._journal is None else None

    # -------------------------------------------------------------------------------------- checking

    def check(self, data: Any) -> Part:
        frame = rowed(data, self._mailing.by, marked=self._mailing.marked)
        judged: list[Judged] = []
        mails: dict[int, Printed] = {}
        room = self._mailing.kept
        for place, found in self._each_judged(frame):
            if found.printed is not None and found.printed.size <= room:
                room -= found.printed.size
                mails[place] = found.printed
            judged.append(found._replace(printed=found.printed and without_text(found.printed)))
        return Part(frame, tuple(judged), mails)

    def _each_judged(self, frame: Frame | Grouped) -> Iterator[tuple[int, Judged]]:
        """Yield what is found of each row, with its place; the journal is asked of some hundred at once."""
        rows = frame.numbered()
        while some := list(islice(rows, _ASKED_AT_ONCE)):
            had = self._had([cells for _, cells in some])
            for place, cells in some:
                if self._over:
                    raise _nobody_waits()
                found = self._judged(cells, had)
                yield place, found if not isinstance(cells, Cells) else found._replace(made_of=cells.made_of)

    def _had(self, rows: Sequence[dict[str, Any]]) -> frozenset[str]:
        """Return the keys whose rows the campaign has already, so that nothing is made for them."""
        if not self._mailing.earlier or self._journal is None:
            return frozenset()
        keys = []
        for cells in rows:
            with contextlib.suppress(MailError):  # told of when the row is judged
                keys.append(self._key(cells))
        return frozenset(self._journal.gone(self._mailing.campaign, keys))

    def _key(self, cells: dict[str, Any]) -> str:
        if self._mailing.key:
            return row_key(self._mailing.key, cells)
        return address_key(self._press.addressees(cells))

    def _judged(self, cells: dict[str, Any], had: frozenset[str]) -> Judged:
        shown: dict[str, Any] = {}
        people: tuple[str, ...] = ()
        if isinstance(cells, Cells) and (fault := cells.fault) is not None:
            shown = {name: cells.get(name) for name, of in self._mailing.shown.items() if of is None}
            return Judged(shown, fault=(fault.cause, fault.fix))
        try:
            for name, of in self._mailing.shown.items():
                shown[name] = cells.get(name) if of is None else called(name.removesuffix("()"), of, cells)
            people = self._press.addressees(cells)
            key = self._key(cells)
            if key in had:
                return Judged(shown, people, self._press.recipients(cells))
            choice = self._mailing.template.choice
            press = self._presses[choice.choose(self._mailing.campaign, key) if choice is not None else ""]
            printed = press.print(cells)
        except JournalError:
            raise
        except MailError as error:
            return Judged(shown, people, problem=(error.cause, error.fix))
        findings, press.findings[:] = tuple(press.findings), []
        return Judged(shown, people, printed.recipients, printed, findings=findings)

    # --------------------------------------------------------------------------------------- sending

    def send(self, part: Part, batch: Batch) -> Came:
        began = time.perf_counter()
        sending = _Sending(self._mailing, batch)
        ledger = self._ledger(batch, sending)
        try:
            try:
                self._sent(part, batch, sending, ledger)
            finally:
                ledger.close()
                if sending.stopped or not batch.keep:
                    self.rest()
        except JournalError as error:
            # What came of rows before that is known, here alone where the journal cannot be read.
            sending.failure = error
        return sending.came(time.perf_counter() - began, _my_address())

    def _ledger(self, batch: Batch, sending: _Sending) -> Ledger | PassingJournal:
        """Take the batch, and tell of those of its rows that are not to be sent."""
        if self._journal is None:
            if _begun_before(self._mailing, batch):
                sending.leave({row.record: None for row in batch.rows})
            return PassingJournal()
        ledger = self._journal.join(self._mailing.campaign, batch.run, batch.number)
        try:
            found = {known.id: known for known in self._journal.known_at([r.record for r in batch.rows])}
            sending.leave(
                {row.record: found.get(row.record) for row in batch.rows if not _as_planned(row, found)}
            )
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _sent(self, part: Part, batch: Batch, sending: _Sending, ledger: Ledger | PassingJournal) -> None:
        rows = sending.rows
        if not rows:
            return
        connection = self._mailing.connection
        check = Preflight(self._press, connection, Roll(), variants=self._presses)
        for row in rows:
            place = batch.places[row.position]
            check.roll.add_due(
                row.position,
                row.key,
                row.digest,
                _columns(row),
                record=row.record,
                seq=row.seq,
                expires=row.expires,
            )
            mail = part.mails.get(place)
            # Printed anew after its worker was lost, it may be another; then the feed finds that.
            if mail is not None and mail.digest == row.digest:
                check.kept.mails[row.position] = mail
        check.partly = dict(batch.partly)
        pacing = _Pacing(self._pace)
        # All at once, so that not each window costs the database another commit.
        pacing.want(len(row.recipients) for row in rows)
        limiter = self._limiter or pacing.granted
        feed = _Feed(
            Placed(part.frame, {row.position: batch.places[row.position] for row in rows}),
            check,
            _Claims(ledger, pacing),
            divert=self._mailing.divert,
            signer=self._signer,
            report=lambda outcome: sending.take(outcome.key, outcome.row, packed(outcome)),
        )
        feed.tried = dict(batch.tried)
        transport = self._connected(batch)
        run = Run(
            feed,
            _Lasting(transport),
            ledger,
            report=sending.take,
            workers=transport.aim.goal,
            attempts=connection.attempts,
            limiter=limiter,
            again=sending.once_more if isinstance(ledger, Ledger) else None,
        )
        look = _Look(self._mailing, ledger, run, pacing)
        try:
            with self._same_time(batch):
                _sync.run(run.send, stop=run.stop, between=look)
        finally:
            sending.stopped, sending.unreachable, sending.tuning = run.stopped, run.unreachable, run.tuning
            pacing.close()

    @contextlib.contextmanager
    def _same_time(self, batch: Batch) -> Iterator[None]:
        """Have this process go by the time of whoever runs the merge: it says when a row is too late, and is written into mails."""
        here = times.NOW
        off = 0.0 if self._journal is None else self._journal.ahead(times.NOW) - batch.ahead
        if abs(off) < _SAME_TIME_SECONDS:
            yield
            return
        times.NOW = lambda: here() + dt.timedelta(seconds=off)
        try:
            yield
        finally:
            times.NOW = here

    def _connected(self, batch: Batch) -> SmtpTransport:
        """Return what the batch goes through: the last one's, where that has as many connections."""
        transport = self._transport
        if transport is None or transport.connection.max_connections != batch.connections:
            self.rest()
            settings = self._mailing.connection.with_(max_connections=batch.connections)
            self._transport = transport = SmtpTransport(settings, self._password, clock=merges.CLOCK)
        return transport


def _this_worker() -> Any:
    """Return the cluster's worker that runs this task; None outside of one."""
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


def _my_address() -> str:
    """Return by what the cluster knows this worker."""
    worker = _this_worker()
    return f"{platform.node()}, process {os.getpid()}" if worker is None else str(worker.address)


def _password(mailing: Mailing) -> str | None:
    """Return the server's password as this machine knows it; nobody is asked for one.

    Raises:
        SecretError: It is not known here.
    """
    connection = mailing.connection
    if not connection.user:
        return None
    if connection.oauth is not None and not connection.knows_secret():
        cause = f"Nobody is signed in as {connection.user} on the worker {platform.node()}."
        raise SecretError(cause, "Sign in once where the workers run, or log in with a password there.")
    try:
        return connection.resolve_secret()
    except SecretError as error:
        # What else a person may do at the notebook does not help here.
        origin = connection.secret.origin if connection.secret is not None else ASKED_BY_DEFAULT
        where = "the keyring" if origin == ASKED_BY_DEFAULT else origin
        fix = f"A worker looks into {where} of its own, and asks nobody: set it there, as it is set here."
        raise SecretError(f"On the worker {platform.node()}: {error.cause}", fix) from None


def _as_planned(row: Due, found: dict[int, Known]) -> bool:
    """Tell whether a row is still as it was when the batch was made: nobody tried it since."""
    known = found.get(row.record)
    return known is not None and known.seq == row.seq and known.state is not State.IN_DOUBT


def _columns(row: Due) -> tuple[Any, ...]:
    return planned(row.recipients, row.message_id, row.warnings, (row.variant, row.made_of))


def _begun_before(mailing: Mailing, batch: Batch) -> bool:
    """Tell whether a batch of a trial was begun before, by a worker that was lost; no journal knows."""
    begun = begun_event(mailing.id, batch.number)
    if begun.is_set():
        return True
    begun.set()
    return False


class _Sending:
    """A batch on its way: which of its rows are sent, and what comes of them. Written from the loop."""

    def __init__(self, mailing: Mailing, batch: Batch) -> None:
        self._mailing = mailing
        self.rows = batch.rows
        self.stopped = ""
        self.unreachable = False
        self.tuning: Tuning | None = None
        self.failure: JournalError | None = None
        self._told: list[Told] = []
        self._again: list[tuple[Told, float]] = []

    def leave(self, records: dict[int, Known | None]) -> None:
        """Leave rows as they are; of those without a record nobody knows what became."""
        for row in self.rows:
            if row.record not in records:
                continue
            known = records[row.record]
            if known is None:
                outcome = row.outcome(State.IN_DOUBT, reason=_LOST, fix=_LOST_FIX)
            else:
                outcome = known.outcome.with_(row=row.position)
            told = (row.position, packed(outcome))
            if outcome.state is State.DEFERRED and outcome.attempts < self._mailing.connection.attempts:
                self._again.append((told, _AGAIN_SECONDS))  # of whoever had the batch before
            else:
                self._told.append(told)
        self.rows = tuple(row for row in self.rows if row.record not in records)

    def take(self, key: str, position: int | None, columns: tuple[Any, ...]) -> None:  # noqa: ARG002 - as `merge.Told`
        assert position is not None
        self._told.append((position, columns))

    def once_more(self, row: Planned, outcome: Outcome, delay: float) -> None:
        """Note a row that is to be tried again, in so many seconds."""
        assert row.position is not None
        self._again.append(((row.position, packed(outcome)), delay))

    def came(self, seconds: float, worker: str) -> Came:
        """Return what came of it."""
        told, again = tuple(self._told), tuple(self._again)
        return Came(told, again, self.stopped, self.unreachable, seconds, worker, self.tuning, self.failure)


class _Feed(Feed):
    """Gives the rows of a batch: to those whom the merge found to be due, and with what was tried before."""

    tried: dict[int, int]

    def _row(self, due: Due, now: Any) -> Planned | None:
        row = super()._row(due, now)
        if row is None:
            return None
        row.attempts = self.tried.get(due.position, 0)
        if not self._divert:
            # Whoever is suppressed was left out by the merge.
            meant = frozenset(due.recipients)
            row.recipients = tuple(r for r in row.recipients if r in meant)
        return row


class _Claims:
    """Claims rows, and asks when they may leave."""

    def __init__(self, ledger: Ledger | PassingJournal, pacing: _Pacing) -> None:
        self._ledger = ledger
        self._pacing = pacing

    def arm(self, rows: Sequence[Planned]) -> None:
        """Claim rows, durably."""
        if rows:
            self._ledger.arm(rows)
            self._pacing.serve()


class _Pacing:
    """When the mails of a batch may leave: reserved on the calling thread, taken on the loop."""

    def __init__(self, pace: Pace | None) -> None:
        self._pace = pace
        self.granted = Granted(merges.CLOCK) if pace is not None else None

    def want(self, recipients: Iterable[int]) -> None:
        """Have moments reserved for some mails, when it is time for that."""
        if self.granted is not None:
            self.granted.want(recipients)

    def serve(self) -> None:
        """Reserve for those that wait for it, as far as that is not too far ahead."""
        if self._pace is not None and self.granted is not None:
            self._pace.serve(self.granted, _AHEAD_SECONDS)

    def close(self) -> None:
        """Give back what was reserved and not used."""
        if self._pace is not None and self.granted is not None:
            self._pace.reserve((), 0.0, self.granted.unused(), slower=self.granted.complained)


class _Lasting:
    """A transport that outlives a run; satisfies `merge.Transport`."""

    def __init__(self, transport: SmtpTransport) -> None:
        self._transport = transport
        self.lane = transport.lane
        self.halt = transport.halt
        self.rest = transport.rest
        self.kept = transport.kept

    @property
    def tuning(self) -> Tuning | None:
        """What it settled on."""
        return self._transport.tuning

    async def aclose(self) -> None:
        """Keep the connections for the next batch; a transport that was halted is closed by its station."""


class _Look:
    """Asks, while a batch is sent, whether the merge goes on; on the calling thread."""

    def __init__(self, mailing: Mailing, ledger: Ledger | PassingJournal, run: Run, pacing: _Pacing) -> None:
        self._mailing = mailing
        self._ledger = ledger
        self._run = run
        self._pacing = pacing
        self._last = self._seen = merges.CLOCK()

    def __call__(self) -> None:
        self._pacing.serve()
        now = merges.CLOCK()
        if now - self._last < LOOK_SECONDS:
            return
        self._last = now
        stopping = self._stopping()
        if stopping is not None:
            self._seen = now
        if stopping:
            self._run.stop(ASKED)
        elif now - self._seen > ALONE_SECONDS:
            self._run.stop(_GONE)

    def _stopping(self) -> bool | None:
        if isinstance(self._ledger, Ledger):
            return self._ledger.stopping()
        return bool(stop_event(self._mailing.id).is_set())


def begun_event(mailing_id: str, number: int, client: Any = None) -> Any:
    """Return what is set where a batch of a trial was begun."""
    return _event(f"{mailing_id} {number}", client)


def stop_event(mailing_id: str, client: Any = None) -> Any:
    """Return what is set where a trial is to stop: it has no journal."""
    return _event(f"{mailing_id} stop", client)


def _event(name: str, client: Any = None) -> Any:
    from distributed import Event

    made: Any = Event
    return made(f"smtp_notebook {name}", client=client)
