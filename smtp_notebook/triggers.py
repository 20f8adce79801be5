"""New rows mail themselves: a source is polled, and each row that was not there before goes through the merge once.

    welcome = watch(salesforce("Lead"), "welcome.md", every="5m", campaign="welcome")
    welcome.start()                          # from a notebook: polls in the background
    welcome.poll()                           # or, from cron and papermill: once, now

One poll is *decided* by `arrivals`, which is pure, and done here in an order that no crash can hurt: what the source
gives is written into the journal by the merge's own plan, then the source's cursor is moved, then the mails leave. Before the
cursor moves every row comes again; after it each one is in the journal, and known to nobody twice.

**Threads.** A running watch has one daemon thread, in which its rows are rendered and its callbacks called, as in a
`jobs.MergeJob`. The source is called in a further one, one call at a time, so that a slow source keeps nobody: neither
the kernel nor `Watch.stop` nor another watch. The server is found, and a password asked for, on the thread that calls
`Watch.start` or `Watch.poll`.

**When the kernel ends** all that ends with it, wherever it is: the journal says which rows went, and the next watch of
the same campaign goes on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from smtp_notebook import advice, api, orders, places, servers, times
from smtp_notebook.addresses import shortened
from smtp_notebook.arrivals import (
    MOST_REREAD,
    Due,
    Row,
    Sorted,
    backoff,
    due_rows,
    key_columns,
    key_or_none,
    keyed,
    sort,
)
from smtp_notebook.durations import seconds_of
from smtp_notebook.fields import check_field_names
from smtp_notebook.frames import Frame
from smtp_notebook.hands import POLL, AskedError, Hand, LeftError, Life, StoppedError, named_error
from smtp_notebook.journal import Journal
from smtp_notebook.outcome import (
    JournalError,
    MailError,
    MergeRefusedError,
    MessageError,
    OptionError,
    Outcome,
    Report,
    SettingsError,
    State,
)
from smtp_notebook.sources import Batch, Since, Source, Wanted, as_source
from smtp_notebook.template import Template
from smtp_notebook.watchbook import BEFORE, Book, PracticeBook, Watchbook
from smtp_notebook.watchstatus import RESTING, Phase, Screen, WatchStatus, rows_said

if TYPE_CHECKING:
    from smtp_notebook.merge import Sending

__all__ = ["Phase", "Watch", "WatchStatus", "watch"]

T = TypeVar("T")

#: What a watch takes for the time that passes, in seconds; only differences count.
CLOCK: Callable[[], float] = time.monotonic
#: What a watch takes for the time of day.
NOW: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC).astimezone()  # noqa: E731 - exchanged like the others
#: How a watch waits for its next poll: for so many seconds, or until the event is set. A test may exchange it.
WAIT: Callable[[threading.Event, float], object] = lambda event, seconds: event.wait(seconds)  # noqa: E731
#: From 0 to 1: how much sooner than the others a watch comes back after a failure.
CHANCE: Callable[[], float] = random.random
#: A running watch reads rows again that are invalid or refused at most so often, in seconds.
REREAD_SECONDS = 300.0
#: The shortest interval, in seconds.
LEAST_EVERY = 1.0
#: The longest one: no system waits for more than some weeks at a time.
MOST_EVERY = 30 * 86_400.0
_MOST_NOTES = 20
_MOST_NAMES = 3
# A handler of its own, so that Python does not print what it logs where nobody has set up logging.
_LOG = logging.getLogger("smtp_notebook.watch")
_LOG.addHandler(logging.NullHandler())


# ------------------------------------------------------------------------------------------ what went wrong


class Hindrance(NamedTuple):
    """Why a poll did not end well.

    Attributes:
        cause: One line.
        fix: One line, or "".
        person: Whether trying again would change nothing, or do harm.
    """

    cause: str
    fix: str
    person: bool


def _of_error(error: BaseException) -> Hindrance:
    """Return what an exception means for a watch."""
    asked = isinstance(error, AskedError)
    what = error.error if isinstance(error, AskedError) else error
    if not isinstance(what, MailError):
        # What a source cannot reach now it may reach later; a fault of a template's function stays one.
        return Hindrance(named_error(what), "", person=not asked and not isinstance(what, OSError))
    if asked:
        # A wrong password among them: to try that again and again locks accounts.
        person = isinstance(what, OptionError | SettingsError)
    elif isinstance(what, MergeRefusedError):
        person = not what.passing
    else:
        person = not isinstance(what, JournalError)
    return Hindrance(what.cause, what.fix, person)


def _of_run(run: Sending | None, report: Report) -> Hindrance | None:
    """Return why a run ended before its time; None where it did not."""
    if run is None or not run.stopped:
        return None
    for outcome in report.where(State.DEFERRED):
        if outcome.status not in {202, 500}:  # it ended the run: login, TLS, or nothing more for today
            spent = advice.spent(outcome.code or 0, outcome.reason)
            return Hindrance(outcome.reason, outcome.fix, person=not spent)
    fix = "" if run.unreachable else "Look at watch.report, then start it again."
    return Hindrance(run.stopped, fix, person=not run.unreachable)


# --------------------------------------------------------------------------------------------- the watch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a watch was asked for."""

    template: Any
    made: Template
    options: orders.Options
    fields: Mapping[str, Any]
    every: float
    key: tuple[str, ...]
    since: Since
    most: int
    on_poll: Callable[[WatchStatus], object] | None


@dataclass(slots=True)
class _Pass:
    """One poll on its way: what it found, and what came of it."""

    life: Life
    server: servers.Server
    book: Book
    journal: Journal | None
    by_hand: bool
    notes: list[str] = dataclasses.field(default_factory=list)
    trial: bool = False
    columns: tuple[str, ...] = ()
    run: Sending | None = None


class Watch:
    """A source that is polled, and whose new rows are mailed; `watch` makes one.

    Nothing happens before `start` or `poll`. Shown in a notebook it is live: the display changes as the watch goes on,
    and a saved notebook keeps what it showed last.

    Attributes:
        source: What it watches.
    """

    def __init__(self, source: Any, asked: _Asked) -> None:
        self.source: Source = as_source(source, asked.made)
        self._hand = Hand.of(source)
        self._asked = asked
        self._lock = threading.RLock()
        self._turn = threading.Lock()
        self._polling: int | None = None
        self._life: Life | None = None
        self._by_hand: Life | None = None
        self._at: tuple[str, ...] = ()
        self._raised: Exception | None = None
        self._know_nothing()
        self._status = WatchStatus(
            name=asked.options.campaign,
            source=self.source.name,
            every=asked.every,
            practice=bool(asked.options.test_to),
        )
        self._screen = Screen()

    def _know_nothing(self) -> None:
        self._begun = False
        self._columns: tuple[str, ...] = ()
        self._reread_at: float | None = None
        self._times: dict[str, int] = {}
        self._spared: set[str] = set()
        self._doubts: frozenset[str] = frozenset()
        self._waiting: frozenset[str] = frozenset()
        self._approved: frozenset[str] = frozenset()

    def _move_to(self, place: tuple[str, ...]) -> None:
        """Forget what was elsewhere: what was practised, or approved there, says nothing of where it counts."""
        with self._lock:
            if place != self._at:
                self._know_nothing()
            self._at = place

    @classmethod
    def from_definition(
        cls,
        definition: Mapping[str, Any] | str | Path,
        *,
        source: Any = None,
        org: Any = None,
        via: servers.Via = None,
        campaign: str = "",
        every: float | str | dt.timedelta | None = None,
        ignore: Sequence[str] = (),
        **options: Any,
    ) -> Watch:
        """Return the watch that says what a workflow's definition says: when a record is created, send an email.

        What the definition says that has no equal is named, never left out. Two things differ, both on purpose: a
        value in an HTML body is text there and no markup, and a record that a mail cannot be made of is listed as
        invalid and tried again once it was mended. No secret is read from the definition.

        Args:
            definition: The JSON of a Logic App or a flow of Power Automate, as a dict, as text, or as the path of
                its file: what the service exports, or the definition alone.
            source: What it watches instead of the definition's object of Salesforce; the trigger's filter is that
                source's own matter then.
            org: As in `salesforce`.
            via: As in `watch`; by default the saved connection that the definition names.
            campaign: As in `watch`; by default the workflow's name.
            every: As in `watch`; by default the trigger's recurrence.
            ignore: Paths of parts that are left out knowingly, as an error names them.
            **options: As in `watch`.

        Raises:
            TemplateError: It is no such definition, or parts of it have no equal; all of them are named.
            OptionError: It has no name, or does not say how often, and neither is given; or as in `watch`.
        """
        from smtp_notebook import definitions

        found = definitions.read(definition, ignore=ignore)
        if not (name := campaign or found.name):
            raise OptionError("campaign: the definition has no name.", 'Give one: campaign="welcome-leads".')
        often = every if every is not None else found.every
        if often is None:
            raise OptionError("every: the definition does not say how often.", 'Say it: every="5m".')
        if source is None:
            from smtp_notebook.soql import salesforce

            source = salesforce(found.sobject, found.columns, found.where, org=org)
        template = Template("", name=found.name, **found.fields)
        server = via if via is not None else found.connection or None
        return watch(source, template, every=often, campaign=name, via=server, **options)

    @property
    def status(self) -> WatchStatus:
        """How it stands. From any thread; costs next to nothing."""
        return self._status

    @property
    def running(self) -> bool:
        """Whether it polls in the background."""
        life = self._life
        return life is not None and not life.over.is_set()

    @property
    def report(self) -> Report:
        """Everything that the campaign has, from the journal; what was practised, from memory."""
        title = f"Campaign {self._asked.options.campaign}"
        server = servers.find_server(self._asked.options.via, login=False)
        if not self._counts(server):
            practised = _PRACTICE.get(self._place(server))
            return Report(practised.outcomes() if practised else (), title=title, trial=True)
        given = self._asked.options.journal
        journal = given if isinstance(given, Journal) else Journal.to_read(given)
        if journal is None or self._asked.options.campaign not in journal.campaign_names():
            return Report((), title=title)
        return journal.report(self._asked.options.campaign)

    def __repr__(self) -> str:
        return f"<Watch {repr(self._status).removeprefix('<WatchStatus ')}"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return self._status._repr_mimebundle_()

    def _ipython_display_(self) -> None:
        # In a kernel alone: what a terminal printed stays as it is.
        if not self._screen.show(self._status):
            raise NotImplementedError

    # --------------------------------------------------------------------------------------- steering

    def start(self) -> Watch:
        """Begin to poll in the background, and return at once; the first poll follows at once.

        Where it runs already nothing happens. A watch of the same campaign and the same source that runs in this
        kernel ends for this one, so that a cell can be run again.

        May prompt for a password, on the calling thread. After a `stop` that was not waited for it polls on, once the
        earlier polling has ended.

        Raises:
            SettingsError: The server's URL or name is none, or a DKIM key cannot be read.
            SecretError: The login needs a password that cannot be had here.
            MergeRefusedError: Another watch, of another source, runs with the same campaign.
        """
        if self._goes_on:
            return self
        self._prepare()
        server = dataclasses.replace(servers.find_server(self._asked.options.via), named=True)
        place = self._place(server)
        with _RUNNING_LOCK:
            if self._goes_on:
                return self
            earlier = self._earlier(place)
            life = Life()
            life.thread = threading.Thread(
                target=self._work,
                args=(life, server, place, earlier),
                name="smtp_notebook watch",
                daemon=True,
            )
            mine, self._life = self._life, life
            try:
                life.thread.start()
            except BaseException:
                # There is no thread, or an interrupt came before anybody knew of it.
                life.stop()
                self._life = mine
                raise
            _RUNNING[place] = (self, life)
            if earlier is not None:
                earlier.stop()
                _LOG.info("the watch of %r gives way to a newer one", place[-1])
        return self

    @property
    def _goes_on(self) -> bool:
        """Whether it runs, and nobody has told it to end."""
        life = self._life
        return life is not None and not life.over.is_set() and not life.stopping

    def _prepare(self) -> None:
        """Let the source ask for its secrets, where it has any: nobody can be asked in its own thread."""
        prepare = getattr(self.source, "prepare", None)
        if callable(prepare):
            prepare()

    def _earlier(self, place: tuple[str, ...]) -> Life | None:
        """Return what runs there, and gives way to this watch."""
        found, life = _RUNNING.get(place, (None, None))
        if found is not None and found is not self and found.source.name != self.source.name:
            cause = f"The campaign {place[-1]!r} is watched already: {found!r} polls {found.source.name}."
            raise MergeRefusedError(cause, "Stop that one, or name this one another campaign=.")
        return life

    def stop(self, timeout: float | None = None) -> None:
        """End the polling, in order, and wait for that; from any thread.

        No further row is claimed, and rows in flight may finish for up to 5 s; a source that does not answer is left
        behind. What was not sent goes at the next start: nothing is lost. Nothing happens where it does not run.

        Args:
            timeout: How long to wait for the end, in seconds; None for as long as it takes, 0 not to wait.
        """
        if (poll := self._by_hand) is not None:
            poll.stop()
        if (life := self._life) is not None:
            life.stop()
            if threading.current_thread() is not life.thread:
                life.over.wait(timeout)

    def wait(self, timeout: float | None = None) -> WatchStatus:
        """Wait until it does not run any more, and return how it stands.

        Args:
            timeout: How long, in seconds; None for as long as it takes. An interrupt ends the waiting, and not the
                watch. In its own thread it returns at once.
        """
        life = self._life
        if life is not None and threading.current_thread() is not life.thread:
            life.over.wait(timeout)
        return self._status

    def poll(self, *, dry_run: bool = False) -> Report:
        """Poll once, now, and return the Report of what this poll tried; for cron and papermill, and to try a watch.

        Rows are rendered, and mails sent, as `mail_merge` does, on the calling thread. Where the watch runs in the
        background, this poll is one more. What waits for approval stays: ``status.waiting`` says how much.

        Args:
            dry_run: Read and check, and send nothing. Nothing is written, and nothing begins: the first start is still
                to come.

        Raises:
            KeyboardInterrupt: The kernel was interrupted; while the source was asked it is left behind, and rows in flight
                had up to 5 s.
            Exception: Whatever the source raises, or `mail_merge` would.
        """
        if self._polling == threading.get_ident():
            cause = "This poll would begin inside another one."
            raise MergeRefusedError(cause, "Call poll() elsewhere than in a function that the watch calls.")
        self._prepare()
        server = servers.find_server(self._asked.options.via, login=not dry_run)
        life = Life()
        with self._polls(life):
            if dry_run:
                return self._unwrapped(functools.partial(self._tried, life, server))
            self._by_hand = life
            try:
                return self._polled_by_hand(life, server)
            finally:
                self._by_hand = None

    def _polled_by_hand(self, life: Life, server: servers.Server) -> Report:
        resting = self._status.next
        try:
            report, hindrance = self._unwrapped(functools.partial(self._poll, life, server, by_hand=True))
        except (LeftError, StoppedError):
            self._rest(self._resting, None, next=resting)
            return Report((), title=self._title, notes=["The poll was stopped."])
        except BaseException as error:
            hindrance = _of_error(error) if isinstance(error, Exception) else _INTERRUPTED
            self._rest(self._resting, hindrance, next=resting)
            raise
        self._rest(self._resting, hindrance, next=resting)
        return report

    def _unwrapped(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except AskedError as asked:
            raise asked.error from None

    def approve(self) -> Report | None:
        """Let the new rows go that wait for it: exactly those that were found, and however many.

        Where the watch runs it polls at once, and None is returned. Elsewhere this is a poll on the calling thread, whose Report
        is returned. None, too, where nothing waits. What is approved is forgotten with the process: after a
        restart it is asked again.
        """
        with self._lock:
            found, self._waiting = self._waiting, frozenset()
            self._approved |= found
        if not found:
            return None
        life = self._life
        if life is None or life.over.is_set():
            return self.poll()
        self._update(
            waiting=0,
            phase=Phase.WAITING if self._status.phase is Phase.NEEDS_APPROVAL else self._status.phase,
        )
        life.wake.set()
        return None

    # --------------------------------------------------------------------------------------- its thread

    def _work(self, life: Life, server: servers.Server, place: tuple[str, ...], before: Life | None) -> None:
        """Poll until somebody stops it, or a person is needed."""
        phase, hindrance = Phase.STOPPED, None
        try:
            while before is not None and not before.over.wait(POLL) and not life.stopping:
                pass
            failures = 0
            while not life.stopping:
                life.wake.clear()
                hindrance = self._attempt(life, server)
                if life.stopping:
                    break
                if hindrance is not None and hindrance.person:
                    phase = Phase.FAILED
                    break
                failures = failures + 1 if hindrance is not None else 0
                every = self._asked.every
                delay = backoff(every, failures, CHANCE()) if failures else every
                self._rest(self._resting, hindrance, next=NOW() + dt.timedelta(seconds=delay))
                if not life.stopping:
                    WAIT(life.wake, delay)
        except BaseException as error:  # noqa: BLE001 - a thread that ends without a word would be a watch that nobody misses
            _LOG.exception("the watch of %r ended by a fault of its own", self._status.name)
            phase, hindrance = Phase.FAILED, Hindrance(named_error(error), "", person=True)
        finally:
            with _RUNNING_LOCK:
                if _RUNNING.get(place) == (self, life):
                    del _RUNNING[place]
            with contextlib.suppress(Exception):
                if phase is Phase.FAILED:
                    self._rest(phase, hindrance)
                else:
                    self._update(phase=phase, next=None, done=0, due=0)
            life.over.set()

    @property
    def _resting(self) -> Phase:
        """Return where it stands between two polls."""
        if self._waiting:
            return Phase.NEEDS_APPROVAL
        return Phase.WAITING if self.running else Phase.IDLE

    def _attempt(self, life: Life, server: servers.Server) -> Hindrance | None:
        """Poll once, and return what hindered it."""
        try:
            with self._polls(life):
                return self._poll(life, server, by_hand=False)[1]
        except (LeftError, StoppedError):
            return None
        except Exception as error:  # noqa: BLE001 - whatever it is, the watch says it, and survives it where it can
            hindrance = _of_error(error)
            if error is self._raised:
                # Of a person's own function it is for the person, whatever kind it is: mails would go unheard.
                hindrance = hindrance._replace(person=True)
            self._raised = None
            _LOG.warning("the watch of %r: %s", self._status.name, hindrance.cause)
            if not isinstance(error, AskedError | MailError | OSError):
                _LOG.warning("its traceback", exc_info=error)
            return hindrance

    @contextlib.contextmanager
    def _polls(self, life: Life) -> Iterator[None]:
        """Have this thread poll, and no other one."""
        while not self._turn.acquire(timeout=POLL):
            if life.stopping:
                raise LeftError
        self._polling = threading.get_ident()
        try:
            yield
        finally:
            self._polling = None
            self._turn.release()

    # ---------------------------------------------------------------------------------------- one poll

    @property
    def _title(self) -> str:
        return f"Watch {self._asked.options.campaign}"

    def _counts(self, server: servers.Server) -> bool:
        return server.counts and not self._asked.options.test_to

    def _place(self, server: servers.Server) -> tuple[str, ...]:
        """Return what a watch must have alone: its campaign in this journal, or at this server."""
        options = self._asked.options
        if not self._counts(server):
            return ("practice", server.connection.host, str(server.connection.port), options.campaign)
        given = options.journal
        place = given.path if isinstance(given, Journal) else places.given(given)
        where = place.resolve() if isinstance(place, Path) else place
        return ("journal", str(where), options.campaign)

    @contextlib.contextmanager
    def _open(self, life: Life, server: servers.Server, *, by_hand: bool) -> Iterator[_Pass]:
        """Open what remembers this watch."""
        options = self._asked.options
        self._move_to(self._place(server))
        if not self._counts(server):
            with _RUNNING_LOCK:
                book = _PRACTICE.setdefault(self._place(server), PracticeBook())
            self._update(practice=True)
            yield _Pass(life, server, book, None, by_hand)
            return
        mine = not isinstance(options.journal, Journal)
        journal = options.journal if isinstance(options.journal, Journal) else Journal(options.journal)
        try:
            self._update(practice=False)
            yield _Pass(life, server, Watchbook(journal, options.campaign), journal, by_hand)
        finally:
            if mine:
                journal.close()

    def _poll(self, life: Life, server: servers.Server, *, by_hand: bool) -> tuple[Report, Hindrance | None]:
        """Poll once: read, write down, move the cursor, send, tell the source."""
        with self._open(life, server, by_hand=by_hand) as poll:
            try:
                if not poll.book.begun and self._first(poll):
                    return self._report(poll), None
                self._begun = True
                rows, found, cursor = self._read(poll)
                report = self._mailed(poll, found, cursor)
                self._tell(poll, rows)
            finally:
                self._count(poll)
            return report, None if life.stopping else _of_run(poll.run, report)

    def _report(self, poll: _Pass, *said: str) -> Report:
        """Return the Report of a poll that tried nothing."""
        trial = not self._counts(poll.server)
        report = Report((), title=self._title, notes=[*said, *poll.notes], trial=trial)
        # Report.last() is the person's own: a poll in the background that found nothing is no news.
        return report.remember() if poll.by_hand else report

    def _ask(self, poll: _Pass, phase: Phase, function: Callable[[], T]) -> T:
        if not poll.trial:
            self._update(phase=phase)
        return self._hand.ask(function, poll.life)

    def _first(self, poll: _Pass) -> bool:
        """Record a first start, and return whether that was all of this poll."""
        since = self._asked.since
        if self._begun:
            cause = f"The journal does not know the watch {self._status.name!r} any more: it was deleted or forgotten."
            raise MergeRefusedError(cause, "Make a new watch to begin anew; since= says who counts as new.")
        batch = self._ask(poll, Phase.READING, functools.partial(self.source.begin, since))
        poll.notes += batch.notes
        rows = self._keyed(poll, batch)
        there = list(dict.fromkeys(row.key for row in rows))
        said = since if isinstance(since, str) else since.isoformat()
        begun = poll.book.begin(batch.cursor, there, said, poll.columns)
        self._begun = True
        self._update(found=len(rows), new=0)
        if not begun or since != "now":
            return False
        poll.notes.append(
            f"The watch has begun: {rows_said(len(there))} {'was' if len(there) == 1 else 'were'} there already, "
            "and nobody of them is mailed; what comes from now on is."
        )
        return True

    def _keyed(self, poll: _Pass, batch: Batch, first: int = 0) -> list[Row]:
        """Return the rows of a batch with their keys."""
        frames = [Frame(part.rows) for part in batch.parts]
        if not any(map(len, frames)):
            return []
        try:
            poll.columns = self._columns = key_columns(frames, self._named_columns(poll))
        except MergeRefusedError as error:
            # One file among thousands: which?
            raise MergeRefusedError(f"{_named_parts(batch)}{error.cause}", error.fix) from None
        return keyed(frames, poll.columns, first)

    def _named_columns(self, poll: _Pass) -> tuple[str, ...]:
        """Return the key columns, as far as somebody named them or the campaign knows them; () for none.

        Raises:
            MergeRefusedError: Others are named than at the first start: whoever was there then would be new.
        """
        began = poll.book.columns
        named = self._asked.key or tuple(self.source.key)
        if named and began and named != began:
            was, now = (" and ".join(map(repr, columns)) for columns in (began, named))
            cause = f"The watch {self._status.name!r} knows who was there by {was}, not by {now}."
            raise MergeRefusedError(cause, f"Name {was} as key=, or give the campaign another name.")
        known = poll.journal.key_columns(self._asked.options.campaign) if poll.journal is not None else ()
        return named or began or self._columns or known

    def _read(self, poll: _Pass) -> tuple[list[Row], Sorted, tuple[Any, Any]]:
        """Read what came, and decide what becomes of it; return the rows, that, and the cursor before and after."""
        before = poll.book.cursor
        batch = self._ask(poll, Phase.READING, functools.partial(self.source.read, before))
        poll.notes += batch.notes
        came = self._keyed(poll, batch, first=1)
        rows, due = self._with_open(poll, came)
        standing = poll.book.standing(dict.fromkeys(row.key for row in rows))
        found = sort(rows, standing, due, approved=self._approved, most=self._asked.most)
        with self._lock:
            self._waiting = frozenset(found.waiting)
        self._update(found=len(came), new=len(found.new) + len(found.waiting), waiting=len(found.waiting))
        return rows, found, (before, batch.cursor)

    def _with_open(self, poll: _Pass, came: list[Row]) -> tuple[list[Row], Due]:
        """Return the rows that came, in front of them those that earlier polls left open and that are due."""
        practice = poll.journal is None
        due = due_rows(poll.book.open(), NOW(), times=self._times, spared=self._spared, practice=practice)
        columns = poll.columns or self._named_columns(poll)
        here = {row.key for row in came}
        wanted = [*due.tried, *(due.looked_at[:MOST_REREAD] if self._rereads(poll) else ())]
        missing = tuple(key for key in wanted if key not in here)
        if not missing or not columns:
            return came, due
        asked = Wanted(columns, missing, functools.partial(key_or_none, columns))
        batch = self._ask(poll, Phase.READING, functools.partial(self.source.again, asked))
        poll.notes += batch.notes
        asked_for = frozenset(missing)
        found = [row for row in self._keyed(poll, batch) if row.key in asked_for]
        if gone := len(asked_for.intersection(due.tried) - {row.key for row in found}):
            poll.notes.append(
                f"{rows_said(gone)} of earlier polls {'is' if gone == 1 else 'are'} not at the source any more, "
                "and cannot be mailed; watch.report lists what is open."
            )
        # Where both have a row, what was just read counts.
        return [*(row._replace(part=0) for row in found), *came], due

    def _rereads(self, poll: _Pass) -> bool:
        """Decide whether rows that a person may have mended are read again at this poll."""
        now = CLOCK()
        if poll.trial:
            return True
        if not poll.by_hand and self._reread_at is not None and now - self._reread_at < REREAD_SECONDS:
            return False
        self._reread_at = now
        return True

    def _called_back(self, outcome: Outcome) -> object:
        assert self._asked.options.on_outcome is not None
        try:
            return self._asked.options.on_outcome(outcome)
        except Exception as error:
            self._raised = error
            raise

    def _order(self, poll: _Pass, rows: Sequence[Row], *, dry_run: bool = False) -> orders.Order:
        options = dataclasses.replace(
            self._asked.options,
            # A look leaves the journal as it is, and opens it for itself.
            journal=self._asked.options.journal if dry_run else poll.journal,
            key=poll.columns,
            dry_run=dry_run,
            on_outcome=self._called_back if self._asked.options.on_outcome is not None else None,
        )
        cells = [row.cells for row in rows]
        return orders.Order(
            cells,
            self._asked.template,
            options,
            self._asked.fields,
            poll.server,
            watch=poll.life.look,
            notes=True,
        )

    def _mailed(self, poll: _Pass, found: Sorted, cursor: tuple[Any, Any]) -> Report:
        """Write what goes into the journal, move the cursor, then send."""
        said = []
        if found.waiting:
            said.append(
                f"{rows_said(len(found.waiting))} came at once, more than max_per_poll={self._asked.most}: "
                "none of them was mailed. watch.approve() lets them go."
            )
        poll.columns = poll.columns or self._named_columns(poll)
        self._update(phase=Phase.CHECKING)
        if not found.rows or not (found.sure or self._mended(poll, found)):
            self._move(poll, found, cursor)
            return self._report(poll, *(said or ["Nothing is due."]))
        with orders.prepare(self._order(poll, found.rows)) as merge:
            # Every row is in the journal now.
            self._move(poll, found, cursor)
            with self._lock:
                self._approved -= set(found.new)
            for note in (*said, *poll.notes):
                merge.note(note)
            try:
                return self._noted(
                    api.carry_out(
                        merge,
                        begun=functools.partial(self._sends, poll, merge),
                        between=functools.partial(self._progress, merge),
                        quiet=not poll.by_hand,
                    ),
                )
            finally:
                poll.life.sends(None)
                poll.book.note(_first_of_each(merge.roll.outcomes()))

    def _mended(self, poll: _Pass, found: Sorted) -> bool:
        """Look whether one of the rows can be mailed by now, or is wrong in another way, and write nothing."""
        if poll.journal is None:
            return True
        known = poll.book.standing([row.key for row in found.rows])
        with orders.prepare(self._order(poll, found.rows, dry_run=True)) as merge:
            return merge.roll.count_due() > 0 or any(
                outcome.reason != getattr(known.get(outcome.key), "reason", "")
                for outcome in merge.roll.outcomes().where([State.INVALID.value])
                if outcome.key in known
            )

    def _move(self, poll: _Pass, found: Sorted, cursor: tuple[Any, Any]) -> None:
        """Have the source go on from where it is: unless there are rows that are in no journal."""
        before, after = cursor
        if not found.waiting and _text(before) != _text(after):
            poll.book.advance(before, after)

    def _sends(self, poll: _Pass, merge: orders.Merge, run: Sending) -> None:
        poll.run = run
        poll.life.sends(run)
        self._update(phase=Phase.SENDING, done=0, due=merge.roll.count_due())

    def _progress(self, merge: orders.Merge) -> None:
        counts = merge.roll.outcomes().counts()
        done = self._status.due - counts.get(State.PLANNED.value, 0)
        if done != self._status.done:
            self._update(done=max(0, done))

    def _noted(self, report: Report) -> Report:
        """Remember how often rows were put off, and whose recipients no merge mails."""
        for outcome in report:
            if outcome.state in {State.DEFERRED, State.PARTIAL}:
                self._times[outcome.key] = self._times.get(outcome.key, 0) + 1
            else:
                self._times.pop(outcome.key, None)
            if outcome.state is State.SKIPPED:
                self._spared.add(outcome.key)
            else:
                self._spared.discard(outcome.key)
        return report

    def _tell(self, poll: _Pass, rows: Sequence[Row]) -> None:
        """Tell the source of the mails that went; what hinders that hinders no mail."""
        while not poll.life.stopping and (owed := poll.book.owed()):
            wanted = {outcome.key for outcome in owed}
            cells = {row.key: row.cells for row in rows if row.key in wanted}
            try:
                told = self._ask(poll, Phase.TELLING, functools.partial(self.source.sent, owed, cells))
            except AskedError as asked:
                said = _of_error(asked).cause
                poll.notes.append(
                    f"{self.source.name} could not be told of {rows_said(len(owed))} that went: {said}"
                )
                return
            poll.book.told([key for key in told if key in wanted])
            if not wanted <= set(told):
                return  # the others are told again by the next poll

    def _announce(self, poll: _Pass) -> None:
        """Say which rows are in doubt, those that this watch did not say before in the log, too."""
        doubts = [outcome.key for outcome in poll.book.in_doubt()]
        for key in doubts:
            if key not in self._doubts:
                _LOG.warning(
                    "the watch of %r: %r is in doubt; only a person can say whether it arrived",
                    self._status.name,
                    key,
                )
        self._doubts = frozenset(doubts)

    def _count(self, poll: _Pass) -> None:
        """Count how the campaign stands, for the status."""
        with contextlib.suppress(JournalError):
            self._announce(poll)
            counts = poll.book.counts()
            number = functools.partial(_sum, counts)
            self._update(
                before=number(BEFORE),
                sent=number(State.SENT, State.PARTIAL),
                failed=number(State.REFUSED, State.FAILED, State.DEFERRED),
                invalid=number(State.INVALID),
                in_doubt=number(State.IN_DOUBT),
                planned=number(State.PLANNED),
                notes=tuple(dict.fromkeys(poll.notes))[:_MOST_NOTES],
            )

    # ------------------------------------------------------------------------------------------- a trial

    def _tried(self, life: Life, server: servers.Server) -> Report:
        """Read and check as a poll would, and leave everything as it is."""
        with self._looked(life, server) as poll:
            cursor, there = poll.book.cursor, frozenset[str]()
            if not poll.book.begun:
                batch = self._ask(
                    poll, Phase.READING, functools.partial(self.source.begin, self._asked.since)
                )
                poll.notes += batch.notes
                cursor, there = batch.cursor, frozenset(row.key for row in self._keyed(poll, batch))
                if self._asked.since == "now":
                    count = f"{rows_said(len(there))} {'is' if len(there) == 1 else 'are'}"
                    said = (
                        f"The first poll sends nothing: {count} there already, and nobody of them is mailed."
                    )
                    return Report((), title=self._title, notes=[said, *poll.notes], trial=True)
            batch = self._ask(poll, Phase.READING, functools.partial(self.source.read, cursor))
            poll.notes += batch.notes
            rows, due = self._with_open(poll, self._keyed(poll, batch, first=1))
            known = poll.book.standing(dict.fromkeys(row.key for row in rows))
            standing = {**dict.fromkeys(there, BEFORE), **known}
            found = sort(rows, standing, due, most=len(rows))
            asking = len(set(found.new) - self._approved)
            if asking > self._asked.most:
                said = f"{rows_said(asking)} are new, more than max_per_poll={self._asked.most}: they would wait for watch.approve()."
                poll.notes.append(said)
            if not found.rows:
                notes = ["Nothing is due. Nothing was sent.", *poll.notes]
                return Report((), title=self._title, notes=notes, trial=True)
            poll.columns = poll.columns or self._named_columns(poll)
            with orders.prepare(self._order(poll, found.rows, dry_run=True)) as merge:
                for note in poll.notes:
                    merge.note(note)
                return api.carry_out(merge)

    @contextlib.contextmanager
    def _looked(self, life: Life, server: servers.Server) -> Iterator[_Pass]:
        """Open what remembers this watch for reading alone; what is not there is not made."""
        given = self._asked.options.journal
        if not self._counts(server):
            book: Book = _PRACTICE.get(self._place(server)) or PracticeBook()
            yield _Pass(life, server, book, None, by_hand=True, trial=True)
            return
        journal = given if isinstance(given, Journal) else Journal.to_read(given)
        if journal is None:
            yield _Pass(life, server, PracticeBook(), None, by_hand=True, trial=True)
            return
        try:
            book = Watchbook(journal, self._asked.options.campaign)
            yield _Pass(life, server, book, journal, by_hand=True, trial=True)
        finally:
            if journal is not given:
                journal.close()

    # ----------------------------------------------------------------------------------- what is seen

    def _update(self, **changes: Any) -> None:
        """Change the status, and what shows it."""
        with self._lock:
            self._status = dataclasses.replace(self._status, **changes)
            status = self._status
        self._screen.draw(status, lasting=status.phase in RESTING)

    def _rest(self, phase: Phase, hindrance: Hindrance | None, *, next: dt.datetime | None = None) -> None:  # noqa: A002 - as the status has it
        """Note that a poll is over."""
        cause, fix, _ = hindrance or ("", "", False)
        self._update(
            phase=phase,
            last=NOW(),
            polls=self._status.polls + 1,
            error=cause,
            fix=fix,
            next=next,
            done=0,
            due=0,
        )
        if self._asked.on_poll is None:
            return
        try:
            self._asked.on_poll(self._status)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no reason to lose a watch
            self._update(notes=(*self._status.notes, f"on_poll raised {named_error(error)}"))


def _first_of_each(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the outcomes but for further rows of one key, which only say that they are too many."""
    found: dict[str, Outcome] = {}
    for outcome in outcomes:
        found.setdefault(outcome.key, outcome)
    return list(found.values())


def _named_parts(batch: Batch) -> str:
    """Return the names of the parts that rows came in, for an error; "" where they have none."""
    names = [part.name for part in batch.parts if part.name]
    more = ", …" if len(names) > _MOST_NAMES else ""
    return f"{', '.join(map(shortened, names[:_MOST_NAMES]))}{more}: " if names else ""


def _sum(counts: Mapping[str, int], *names: str) -> int:
    return sum(counts.get(str(name), 0) for name in names)


def _text(cursor: Any) -> str:
    """Return a cursor as it is written: a tuple is a list there."""
    return json.dumps(cursor, sort_keys=True)


_INTERRUPTED = Hindrance("The poll was interrupted.", "", person=False)
_RUNNING: dict[tuple[str, ...], tuple[Watch, Life]] = {}
_RUNNING_LOCK = threading.Lock()
#: What was practised in this process, so that a cell that is run again does not begin anew.
_PRACTICE: dict[tuple[str, ...], PracticeBook] = {}


# ------------------------------------------------------------------------------------------- the verb


def watch(
    source: Any,
    template: Template | str | Path,
    *,
    every: float | str | dt.timedelta,
    campaign: str,
    key: str | Sequence[str] | None = None,
    since: Since = "now",
    max_per_poll: int = 100,
    via: servers.Via = None,
    journal: Journal | str | Path | None = None,
    changed: Literal["stop", "send-rest"] = "stop",
    values: Mapping[str, Any] | None = None,
    test_to: str = "",
    send_at: times.Moment = None,
    expires: times.Moment = None,
    on_outcome: Callable[[Outcome], object] | None = None,
    on_poll: Callable[[WatchStatus], object] | None = None,
    **fields: Any,
) -> Watch:
    """Return a watch, which mails each new row of a source once; it does nothing before `Watch.start` or `Watch.poll`.

    A row is sent as `mail_merge` sends it: checked first, journaled under its key, never twice. A row that is
    invalid or refused is listed, and tried again when it was changed at the source; one that was put off by the server is tried again
    after 30 minutes, then after longer; one in doubt is listed, and only a person decides.

    To the sandbox, with *test_to*, or with a redirect it is practice: the rows count for nobody, and what was mailed
    is remembered in this process alone.

    Args:
        source: A source such as `salesforce`, `csv_folder` or `sql` make, or a function that returns rows: a DataFrame, or a
            list of dicts. It is called in a thread of its own.
        template: As in `mail_merge`; a file is read anew at each poll.
        every: How long to wait after a poll: seconds, a timedelta, or text such as ``"5m"``; from a second to 30 days.
        campaign: The mailing's name. The journal knows by it which rows had the mail, also after a restart.
        key: The column or columns that identify a row; by default what the source says, else what the first start
            had, else the column with the addresses. Other ones than at the first start are refused.
        since: Which rows count as new at the first start: those that come later (``"now"``), all of them
            (``"all"``), or those since a moment, which needs a time zone. Later starts go on where the last
            one ended.
        max_per_poll: Where more rows than this are new at one time, none of them is mailed before `Watch.approve`.
        via: As in `mail_merge`.
        journal: As in `mail_merge`.
        changed: As in `mail_merge`: with ``"stop"`` another template, From or server ends the watch as ``failed``.
        values: As in `mail_merge`.
        test_to: As in `mail_merge`.
        send_at: As in `mail_merge`; a row whose time has not come is listed as planned, and goes at a poll after that.
        expires: As in `mail_merge`.
        on_outcome: As in `mail_merge`; of a running watch it is called in its thread. What it raises ends the watch.
        on_poll: Called with the `WatchStatus` after each poll, in the same thread. What it raises becomes a note.
        **fields: As in `mail_merge`.

    Raises:
        OptionError: An option or field does not exist, or cannot be so.
        TemplateError: The template does not compile.
    """
    check_field_names(fields)
    options = orders.Options(
        campaign=campaign, via=via, journal=journal, changed=changed, values=values, test_to=test_to,
        send_at=send_at, expires=expires, on_problem="skip", on_outcome=on_outcome, progress=False,
    )  # fmt: skip
    if not campaign:
        raise OptionError("campaign: a watch needs a name.", 'Name it after the mailing: campaign="welcome".')
    seconds = seconds_of(every, "every")
    if not LEAST_EVERY <= seconds <= MOST_EVERY:
        often = "often" if seconds < LEAST_EVERY else "seldom"
        raise OptionError(
            f"every={every!r} is too {often}.", "Wait for a second at least, and 30 days at most."
        )
    if isinstance(max_per_poll, bool) or not isinstance(max_per_poll, int) or max_per_poll < 1:
        raise OptionError(
            f"max_per_poll={max_per_poll!r} is no number of rows.", "Give a whole number, 1 or more."
        )
    asked = _Asked(
        template=template,
        made=_compiled(template, fields),
        options=options,
        fields=fields,
        every=seconds,
        key=(key,) if isinstance(key, str) else tuple(key or ()),
        since=_checked_since(since),
        most=max_per_poll,
        on_poll=on_poll,
    )
    return Watch(source, asked)


def _checked_since(since: Since) -> Since:
    if isinstance(since, dt.datetime):
        if since.tzinfo is None:
            raise OptionError(
                "since: the moment has no time zone.", "Give one: datetime(…).astimezone() is yours."
            )
        return since
    if since not in {"now", "all"}:
        raise OptionError(f"since={since!r} is neither 'now', 'all' nor a moment.", "A moment is a datetime.")
    return since


def _compiled(template: Any, fields: Mapping[str, Any]) -> Template:
    """Compile it before it is needed: a person who is there can mend it, and at night nobody can."""
    if isinstance(template, Template):
        return template.with_(**fields)
    if isinstance(template, str | Path):
        return Template(template, **fields)
    cause = f"A {type(template).__name__} is no template."
    raise MessageError(cause, "Give a Template, the path of a template file, or its text.")
