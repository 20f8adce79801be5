"""A merge that is steered from elsewhere: checked and sent in a thread of its own, watched and stopped from any.

A form cannot call `mail_merge`: a click would block the kernel until the last mail has left. A `MergeJob` does the
same work, through the same functions of `orders`, while the kernel goes on, and paints a `Progress` of it::

    job = MergeJob(leads, template, campaign="spring", tell=show)
    job.check()                             # returns at once; show(progress) follows
    job.send(expected=job.wait().due)       # the rows that the person confirmed, or none
    job.stop()                              # rows in flight may finish; the rest goes with the next send()

**Threads.** Each check and each send has a daemon thread, which ends with it, and no two of one job run at the same
time. Rows are rendered there: functions of ``values``, ``event`` and ``on_outcome`` are called in it, one at a time, and not on
the thread of the person's cell. What belongs to one thread (a handle of a SQLite database, pyplot's current figure)
has to be made in the function itself. A function that is running is not broken off: a stop waits for it.

**Nothing is asked there.** The server is found on the thread that calls `check` or `send`; only `send` looks for a
password, which may prompt.

**When the kernel ends** the thread ends with it, wherever it is, as any killed run does: the journal says which rows
went, and which are in doubt.
"""

from __future__ import annotations

import dataclasses
import enum
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smtp_notebook import _sync, orders, servers
from smtp_notebook.fields import check_field_names
from smtp_notebook.outcome import (
    FAILURES,
    MailError,
    MergeRefusedError,
    OptionError,
    PreflightError,
    Report,
    State,
)

if TYPE_CHECKING:
    from smtp_notebook.merge import Sending
    from smtp_notebook.preflight import Preflight

__all__ = ["MergeJob", "Phase", "Progress", "Speed"]

#: What a job takes for the time, in seconds; only differences count.
CLOCK: Callable[[], float] = time.monotonic
#: A Progress is told at most so often, in seconds; the first and the last of a check or send always.
PACE = 0.2
#: The speed is that of the last so many seconds, and unknown in the first moment.
_MEASURED = 8.0
_LEAST_MEASURED = 0.5
_WENT = frozenset({State.SENT, State.PARTIAL})
_AGAIN = "Mend that, then send again: it goes on with the rows that were not tried."


class Phase(enum.StrEnum):
    """Where a job stands. The words are the whole vocabulary."""

    IDLE = "idle"
    CHECKING = "checking"
    CHECKED = "checked"
    SENDING = "sending"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


_OVER = frozenset({Phase.CHECKED, Phase.DONE, Phase.STOPPED, Phase.FAILED})


@dataclass(frozen=True, slots=True, repr=False)
class Progress:
    """A picture of a job at one moment; it never changes.

    Attributes:
        phase: ``idle``, then ``checking`` (a send begins with it, too); at the end of a check ``checked``; after
            ``sending`` either ``done`` (each due row was tried), ``stopped`` (by `MergeJob.stop`), or ``failed``
            (*error* says why).
        total: How many rows the frame has; 0 until it has been read.
        checked: How many of them have been looked at.
        due: How many are to be sent, as far as has been looked.
        skipped: How many are not due: this campaign had them already, they are in doubt, suppressed, or beyond
            ``limit=``.
        problems: How many are invalid.
        done: How many have been tried, and have an outcome.
        sent: How many of these went to all of their recipients, or to some.
        failures: How many of these are failed, refused, deferred, invalid after all, or in doubt.
        rate: Mails per second over the last seconds; 0.0 while that is unknown.
        remaining: How many seconds the rest will take at that speed; None while that is unknown.
        error: What ended it. Of a `MailError` ``cause`` and ``fix`` are for the person; anything else is a bug, of
            the package or of a function that the merge calls, and has its traceback.
        report: The Report of a finished check, or of a send that was begun, also when it was stopped or failed.
        mark: After a check, a digest of the rows that are due: whom they go to, and what they say as far as no
            function makes it. `MergeJob.send` can be told to send these rows and no others.
        needs_campaign: A name for the mailing, when it has none and needs one before it can be sent, else "".
    """

    phase: Phase = Phase.IDLE
    total: int = 0
    checked: int = 0
    due: int = 0
    skipped: int = 0
    problems: int = 0
    done: int = 0
    sent: int = 0
    failures: int = 0
    rate: float = 0.0
    remaining: float | None = None
    error: BaseException | None = None
    report: Report | None = None
    needs_campaign: str = ""
    mark: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing is going on any more: nothing else is told before the next check or send."""
        return self.phase in _OVER

    def __repr__(self) -> str:
        parts = [f"{self.checked:,} of {self.total:,} rows checked, {self.due:,} due"]
        if self.phase is Phase.SENDING or self.done:
            parts = [f"{self.done:,} of {self.due:,} tried", f"{self.sent:,} sent"]
        parts += [f"{n:,} {word}" for n, word in ((self.problems, "invalid"), (self.failures, "failed")) if n]
        if self.remaining is not None:
            parts.append(f"{self.rate:,.1f} a second, {self.remaining:,.0f} s left")
        if self.error is not None:
            parts.append(f"{type(self.error).__name__}: {self.error}")
        return f"<Progress {self.phase}: {', '.join(parts)}>"


class Speed:
    """How fast mails go, over the last seconds. Reads no clock."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, done: int) -> None:
        """Take in how many mails were done at a moment, in seconds; the first tells when it began."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _MEASURED:  # noqa: PLR2004 - two make a difference
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """Mails per second; 0.0 while that is unknown."""
        if not self._seen:
            return 0.0
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        return (last - first) / (now - began) if now - began >= _LEAST_MEASURED else 0.0


class MergeJob:
    """A merge that runs in a thread of its own; see the module for what that means.

    Args:
        df: The rows, as in `mail_merge`. They are read anew by each check and send.
        template: As in `mail_merge`; a file is read anew each time, too.
        tell: Called with a `Progress` when something has changed: at most about five times a second, the first and
            the last one of each check and send always, never two at a time and never an older one after a newer
            one. It is called in the job's thread, which waits for it, and must not wait for the job. What it raises
            is kept in ``tell_error`` and changes nothing else.
        turn: Held while a row is rendered, and let go between rows, so that somebody else may render with the same
            functions and figures in another thread. Whoever holds it must not wait for the job.
        **options: The options and fields of `mail_merge`, except ``dry_run``; ``progress`` shows no bar here.

    Attributes:
        tell_error: The first exception that *tell* raised, or None.

    Raises:
        OptionError: An option or field that does not exist.
    """

    def __init__(
        self,
        df: Any,
        template: Any,
        *,
        tell: Callable[[Progress], object] | None = None,
        turn: _sync.Turn | None = None,
        **options: Any,
    ) -> None:
        self.tell_error: BaseException | None = None
        self._lock = threading.Lock()
        self._tell = tell
        self._turn = turn
        self._task: _Task | None = None
        self._asked = _Asked(df, template, options)

    def __repr__(self) -> str:
        return f"<MergeJob {repr(self.progress).removeprefix('<Progress ')}"

    @property
    def progress(self) -> Progress:
        """How far the newest check or send is. From any thread; costs next to nothing."""
        task = self._task
        return task.progress if task is not None else Progress()

    def change(self, *, df: Any = None, template: Any = None, **options: Any) -> None:
        """Have the next check or send use another frame or template, or other options; what runs goes on as it is.

        Args:
            df: Another frame; None keeps the one there is.
            template: Another template; None keeps it.
            **options: As in `MergeJob`; those that are not named stay as they are.

        Raises:
            OptionError: An option or field that does not exist; nothing was changed.
        """
        with self._lock:
            self._asked = self._asked.but(df, template, options)

    def check(self) -> None:
        """Begin to check every row, and return at once; a check that is going on is ended for this one.

        It says what a send would do now: with a campaign which rows are due, which it had already, and which are in
        doubt. Nothing is sent, nothing is written, no journal is made, and the campaign is not held: another
        notebook may be sending it, which ``report.notes`` say. Where the campaign has no name and needs one, the
        check does without what is known, and ``needs_campaign`` suggests a name. What a send would be refused for
        as a whole (the campaign's template has changed, say) ends it as ``failed``; problems of rows do not.

        Raises:
            SettingsError: As from `mail_merge`; no password is looked for.
            MergeRefusedError: This job is sending.
        """
        self._refuse_while_sending()
        asked = self._asked
        options = dataclasses.replace(asked.options, dry_run=True)
        server = servers.find_server(options.via, login=False)
        self._start(asked.order(options, server), sends=False)

    def send(self, *, expected: int | None = None, same: str = "") -> None:
        """Begin to send the rows that are due, and return at once; a check that is going on is ended.

        Every row is checked again first, as `mail_merge` does: the frame, the template and the campaign may have
        changed. It may be called again when it is over: then it sends what is left, and each row once.

        Args:
            expected: How many rows the person confirmed. When another number is due it ends as ``failed``, and
                nothing is sent. None sends what is due.
            same: The `Progress.mark` of the check that was confirmed; other rows, as many as they be, are not sent.

        May prompt for a password, on the calling thread.

        Raises:
            SettingsError: As from `mail_merge`.
            SecretError: The login needs a password that cannot be had here.
            OptionError: *expected* is no number of rows.
            MergeRefusedError: This job is sending already. Whatever else `mail_merge` would raise ends the send as
                ``failed``, with that as its ``error``; rows with problems too, unless ``on_problem="skip"``.
        """
        if expected is not None and (
            isinstance(expected, bool) or not isinstance(expected, int) or expected < 0
        ):
            raise OptionError(
                f"expected={expected!r} is no number of rows.", "Give a whole number, 0 or more."
            )
        self._refuse_while_sending()
        asked = self._asked
        server = servers.find_server(asked.options.via)
        order = asked.order(asked.options, server, expected)
        self._start(dataclasses.replace(order, same=same), sends=True)

    def stop(self) -> None:
        """End what is going on, in order; returns at once, from any thread.

        A check, also the one that a send begins with, ends before its next row. A send claims no more rows, and
        those in flight may finish for up to 5 s, as after an interrupt of the kernel; then the campaign is given
        back, and the Report says which rows were not tried. Nothing happens when nothing is going on.
        """
        with self._lock:
            if self._task is not None:
                self._task.stop()

    def wait(self, timeout: float | None = None) -> Progress:
        """Wait until nothing is going on, the last Progress has been told too, and return that.

        Args:
            timeout: How long, in seconds; None for as long as it takes. Afterwards the Progress may be another than
                the last one.

        An interrupt ends the waiting, and not the job. In the job's own thread (in *tell* or in a function of the
        merge), which would wait for itself, it returns at once.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (task := self._task) is not None and not task.mine:
            left = None if deadline is None else deadline - time.monotonic()
            if not task.over.wait(left) or self._task is task:
                break
        return self.progress

    # ------------------------------------------------------------------------------------------ its thread

    def _refuse_while_sending(self) -> None:
        task = self._task
        if task is not None and task.sends and not task.progress.over:
            raise MergeRefusedError("This merge is being sent already.", "Wait for it, or stop it.")

    def _start(self, order: orders.Order, *, sends: bool) -> None:
        order = dataclasses.replace(order, turn=self._turn)
        with self._lock:
            self._refuse_while_sending()  # another thread may have begun meanwhile
            before, task = self._task, _Task(self._say, sends=sends)
            task.thread = threading.Thread(
                target=task.work, args=(order, before), name="smtp_notebook job", daemon=True
            )
            # Before the other ends and the thread begins: whoever hears of either finds this one.
            self._task = task
            if before is not None:
                before.give_way()
            try:
                task.thread.start()
            except BaseException:
                self._task = before
                raise

    def _say(self, progress: Progress) -> None:
        """Tell, in the thread of a task; tasks follow each other."""
        if self._tell is None:
            return
        try:
            self._tell(progress)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is no reason to lose a merge
            self.tell_error = self.tell_error or error


class _Asked:
    """What a job was asked for, its options told from the fields, and those known."""

    def __init__(self, df: Any, template: Any, given: dict[str, Any]) -> None:
        if given.get("dry_run"):
            raise OptionError("dry_run: a job does not send until it is told to.", "Call check().")
        self._df, self._template, self._given = df, template, given
        if given.get("wait"):
            raise OptionError(
                "wait: a job does not wait for the time of its rows.", "Call send() again then."
            )
        options, self._fields = orders.Options.split(given)
        check_field_names(self._fields)
        self.options = dataclasses.replace(options, progress=False, dry_run=False)

    def but(self, df: Any, template: Any, more: dict[str, Any]) -> _Asked:
        """Return this with something else in it."""
        return _Asked(
            self._df if df is None else df,
            self._template if template is None else template,
            {**self._given, **more},
        )

    def order(
        self, options: orders.Options, server: servers.Server, expected: int | None = None
    ) -> orders.Order:
        """Return it as `api` takes it."""
        # Nobody reads what a thread prints: that nothing left this machine is said in the Report.
        named = dataclasses.replace(server, named=True)
        return orders.Order(self._df, self._template, options, self._fields, named, expected=expected)


class _StoppedError(Exception):
    """The check was asked to end."""


class _Task:
    """One check or one send: its thread, and what is counted there.

    Args:
        say: Takes a Progress; called in the task's thread.
        sends: Whether it is a send.

    Attributes:
        over: Set when all is done and told.
    """

    def __init__(self, say: Callable[[Progress], object], *, sends: bool) -> None:
        self.sends = sends
        self.over = threading.Event()
        self.thread: threading.Thread | None = None
        self._say = say
        self._told_at = 0.0
        # From here on: written in the task's thread or in the background loop, read in any.
        self._lock = threading.Lock()
        self._stop = False
        self._silent = False
        self._run: Sending | None = None
        self._phase = Phase.CHECKING
        self._rows = (0, 0, 0, 0)
        self._done = self._sent = self._failures = 0
        self._speed = Speed()
        self._rate = 0.0
        self._error: BaseException | None = None
        self._report: Report | None = None
        self._needs = self._mark = ""

    @property
    def mine(self) -> bool:
        """Whether this is the task's own thread."""
        return threading.current_thread() is self.thread

    @property
    def progress(self) -> Progress:
        """How far it is."""
        with self._lock:
            total, checked, due, problems = self._rows
            sending = self._phase is Phase.SENDING and self._rate > 0
            over = self._phase in _OVER
            return Progress(
                phase=self._phase,
                total=total,
                checked=checked,
                due=due,
                skipped=max(0, checked - due - problems),
                problems=problems,
                done=self._done,
                sent=self._sent,
                failures=self._failures,
                rate=self._rate,
                remaining=max(0, due - self._done) / self._rate if sending else None,
                error=self._error if over else None,
                report=self._report if over else None,
                needs_campaign=self._needs,
                mark=self._mark,
            )

    def stop(self) -> None:
        """Ask it to end; from any thread."""
        with self._lock:
            self._stop = True
            run = self._run
        if run is not None:
            run.stop()

    def give_way(self) -> None:
        """End for another task; a check without a word more of it."""
        self._silent = not self.sends  # a send that gives way is over, and may be about to say so
        self.stop()

    # ---------------------------------------------------------------------------------- in its own thread

    def work(self, order: orders.Order, before: _Task | None) -> None:
        """Do it, from the first Progress to the last."""
        try:
            if before is not None:
                before.over.wait()
            self._tell()
            try:
                if self._stop:
                    raise _StoppedError  # noqa: TRY301 - one way to end a check
                phase = self._merge(dataclasses.replace(order, watch=self._watch))
            except _StoppedError:
                phase = Phase.STOPPED
            except BaseException as error:  # noqa: BLE001 - it is the Progress that says what it was
                phase = self._failed(error)
            with self._lock:
                self._phase, self._run = phase, None
            self._tell()
        finally:
            self.over.set()

    def _failed(self, error: BaseException) -> Phase:
        if isinstance(error, PreflightError):
            self._report = error.report
        if isinstance(error, MailError):
            # For a person; what its frames hold (mails, a server with its password) shall not stay for it.
            error = error.with_traceback(None)
        self._error = error
        return Phase.FAILED

    def _merge(self, order: orders.Order) -> Phase:
        """Check and send, as `api.mail_merge` does; return how that ended, the campaign given back."""
        with orders.prepare(order) as merge:
            check, due = merge.check, merge.roll.count_due()
            with self._lock:
                self._rows = (check.total, _looked_at(check), due, check.problems)
                self._needs = merge.needs_campaign
            if not self.sends:
                self._mark = merge.mark
                self._report = merge.report("Nothing was sent.")
                return Phase.CHECKED
            if (early := merge.early()) is not None:
                self._report = early
                return Phase.DONE
            run = merge.run(self._counted(merge.roll.put))
            self._begin_sending(run)
            try:
                _sync.run(run.send, stop=run.stop, between=self._tick)
            finally:
                self._report = merge.finished(run)
        return self._ended(run)

    def _begin_sending(self, run: Sending) -> None:
        with self._lock:
            self._phase, self._run = Phase.SENDING, run
            self._speed.note(CLOCK(), 0)
            stopped = self._stop
        if stopped:
            run.stop()

    def _ended(self, run: Sending) -> Phase:
        """Return how a run ended that raised nothing."""
        if not run.stopped or self._done >= self._rows[2]:
            return Phase.DONE
        if self._stop:
            return Phase.STOPPED
        return self._failed(MailError(run.stopped, _AGAIN))

    def _counted(
        self, put: Callable[[int | None, tuple[Any, ...]], None]
    ) -> Callable[[str, int | None, tuple[Any, ...]], None]:
        """Return what takes each row's Outcome; it is called in the background loop, and in this thread."""

        def count(_: str, position: int | None, columns: tuple[Any, ...]) -> None:
            put(position, columns)
            state = columns[0]
            with self._lock:
                self._done += 1
                if state in _WENT:
                    self._sent += 1
                elif state in FAILURES:
                    self._failures += 1

        return count

    def _watch(self, check: Preflight) -> None:
        """Look at a check before its next row."""
        if self._stop:
            raise _StoppedError
        self._rows = (check.total, _looked_at(check), check.due, check.problems)
        self._tick()

    def _tick(self) -> None:
        """Tell, where it is time."""
        if CLOCK() - self._told_at >= PACE:
            self._tell()

    def _tell(self) -> None:
        if self._silent:
            return
        self._told_at = CLOCK()
        with self._lock:
            if self._phase is Phase.SENDING:
                self._speed.note(self._told_at, self._done)
                self._rate = self._speed.rate
        self._say(self.progress)


def _looked_at(check: Preflight) -> int:
    return check.problems + check.due + check.settled
