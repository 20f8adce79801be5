"""A merge from what was asked for to what is sent: defaults, campaign, preflight, plan, Report.

Whoever sends it (`api`, a job, a watch, the command line) prepares it here; nothing is sent before the one who prepared it
runs what `Merge.run` returns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from smtp_notebook import _sync, cluster, providers, times
from smtp_notebook import connection as connections
from smtp_notebook import merge as merges
from smtp_notebook import oauth as oauths
from smtp_notebook.addresses import wire_of
from smtp_notebook.cluster import ClusterRun, Spread
from smtp_notebook.connection import Connection
from smtp_notebook.fields import check_field_names
from smtp_notebook.frames import Frame, guess_address_column
from smtp_notebook.groups import Grouped, Groups
from smtp_notebook.journal import Journal, Ledger, PassingJournal, look
from smtp_notebook.merge import Sending, Told
from smtp_notebook.outcome import (
    Listed,
    MergeRefusedError,
    MessageError,
    OptionError,
    Outcome,
    PreflightError,
    Report,
    State,
    Tuning,
)
from smtp_notebook.parcels import Mailing, RemotePress
from smtp_notebook.places import DatabaseURL, given
from smtp_notebook.preflight import Feed, Preflight, Printing, Watch
from smtp_notebook.press import Press
from smtp_notebook.records import packed
from smtp_notebook.roll import Roll
from smtp_notebook.servers import Server, Via, find_server, limiter_of, run_of
from smtp_notebook.standing import Known
from smtp_notebook.suppressions import Suppressions, proposed
from smtp_notebook.template import Template

__all__ = ["Merge", "Options", "Order", "complete_template", "local_frame", "prepare"]


@dataclass(frozen=True, slots=True)
class Order:
    """What a merge is asked for, its server found. Nothing of it has been read yet: that may be another thread's work.

    Attributes:
        df: The rows, as in `mail_merge`.
        template: As in `mail_merge`.
        options: Everything else but the fields.
        fields: Fields that win over the template's.
        server: By which it goes. For a dry run it needs no password.
        watch: Looks at the check, row by row; what it raises ends it.
        expected: How many rows have to be due; None for any number.
        same: The `Merge.mark` that they have to have; "" for any.
        turn: Held while a row is rendered, by whoever renders with the same functions and figures in another thread.
        notes: Whether the journal shall have every row: those with a problem as invalid, suppressed ones as planned. It
            takes key columns.
    """

    df: Any
    template: Any
    options: Options
    fields: Mapping[str, Any]
    server: Server
    watch: Watch | None = None
    expected: int | None = None
    same: str = ""
    turn: _sync.Turn | None = None
    notes: bool = False

    @classmethod
    def of(cls, df: Any, template: Any, options: Options, fields: Mapping[str, Any]) -> Self:
        """Return an order after its server was found, which may prompt for a password."""
        check_field_names(fields)
        return cls(df, template, options, fields, find_server(options.via))


@dataclass(slots=True)
class Merge:
    """A merge after its preflight, ready to be sent. As a context it holds its campaign until it is left.

    Attributes:
        needs_campaign: The name that is suggested where one is missing; such a merge is a dry run.
        doubts: How many rows earlier runs left in doubt.
    """

    order: Order
    frame: Frame | Grouped | Spread
    check: Preflight
    diverted: str
    journal: Journal | None = None
    ledger: Ledger | None = None
    needs_campaign: str = ""
    doubts: int = 0
    _notes: list[str] = dataclasses.field(default_factory=list)
    _asked: _Ready | None = None
    _ready: _Ready | None = None
    _tried: int = 0
    _tuning: Tuning | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def options(self) -> Options:
        """What it was asked for."""
        return self.order.options

    @property
    def server(self) -> Server:
        """By which it goes."""
        return self.order.server

    @property
    def roll(self) -> Roll:
        """What is known of each row."""
        return self.check.roll

    @property
    def mark(self) -> str:
        """What tells whether the rows to be sent are those of another check, by a digest."""
        values = {
            **getattr(self.order.template, "values", {}),
            **(self.options.values or {}),
            **self.order.fields,
        }
        # A function may make another text each time; whom the rows go to is the same.
        return self.roll.mark(texts=not any(map(callable, values.values())))

    @property
    def _noun(self) -> str:
        return "row" if _groups(self.frame) is None else "mail"

    def note(self, sentence: str) -> None:
        """Have the Report say something above the rows."""
        self._notes.append(sentence)

    def early(self) -> Report | None:
        """Return the Report of a merge that sends nothing, or None when it goes on.

        Raises:
            PreflightError: Rows have problems, and that is to stop it.
        """
        if self.options.dry_run:
            return self.report("Nothing was sent.").remember()
        if self.check.problems and self.options.on_problem == "stop" and not self._again:
            report = self.report("Nothing was sent.").remember()
            text = _problem_text(self.check.problems, len(report), self._noun)
            raise PreflightError(*text, report=report)
        if not self.roll.count_due():
            if self._again:
                return self.report(tried=True).remember()
            why = "The frame has no rows." if not len(self.frame) else "No row is due."
            return self.report(f"{why} Nothing was sent.").remember()
        return None

    @property
    def _again(self) -> bool:
        """Whether some of its rows were due before, and others had to wait."""
        return self._ready is not None

    @property
    def next_at(self) -> dt.datetime | None:
        """When the first row is due that waits; None where none does."""
        count, first, _ = self.roll.waiting()
        return times.from_seconds(first) if count else None

    def wait(self) -> merges.Wait | None:
        """Let go of the campaign, and return what waits for the next row; None where nothing is to be waited for."""
        until = self.next_at
        if until is None or not self.options.wait or self.options.dry_run:
            return None
        self._tried += self.roll.count_due()
        self.roll.close_round()
        self._ready = self._ready or self._asked
        self._release()
        if isinstance(self.frame, Spread):
            self.frame.rest()
        if self.options.progress:
            print(f"{_waiting_text(self.roll)} An interrupt ends the waiting.")  # noqa: T201 - nothing else would say so
        return merges.Wait(until)

    def resume(self) -> None:
        """Hold the campaign again, and check the rows whose time has come.

        Raises:
            MergeRefusedError: It is being sent elsewhere, or has changed.
            JournalError: As from `mail_merge`.
        """
        assert self._ready is not None
        if self.check.suppressions is not None:
            self.check.suppressions.refresh()
        if not self._ready.counts:
            self.check.recheck(self.frame)
            _limit(self)
            return
        options = self.options
        self.journal = options.journal if isinstance(options.journal, Journal) else Journal(options.journal)
        self.ledger = self.journal.begin(options.campaign, **self._ready.terms)
        self.check.earlier = None if self.ledger.empty else self.ledger.known
        self.check.recheck(self.frame)
        _limit(self)
        _write(self, self.ledger)

    def run(self, report: Told) -> Sending:
        """Return what sends it; *report* has to put each Outcome into the roll, and may be called on any thread."""
        ledger = self.ledger or PassingJournal()
        mine = self.options.on_outcome

        def here(outcome: Outcome) -> None:
            report(outcome.key, outcome.row, packed(outcome))
            if mine is not None:
                mine(outcome)

        if isinstance(self.frame, Spread):
            return ClusterRun(
                self.frame,
                self.check,
                report=report,
                ledger=self.ledger,
                journal=self.journal,
                on_outcome=mine,
            )
        feed = Feed(
            self.frame,
            self.check,
            ledger,
            divert=wire_of(self.diverted),
            signer=self.server.signer,
            report=here,
        )
        limiter = limiter_of(self.server.connection, self.journal)
        return run_of(feed, self.server, ledger, report, on_outcome=mine, limiter=limiter)

    def finished(self, run: Sending) -> Report:
        """Return the Report of a run that is over, however it ended."""
        if run.stopped:
            self.roll.explain(run.stopped)
        self._tuning = run.tuning or self._tuning
        return self.report(run.stopped, tried=True).remember()

    def report(self, *notes: str, tried: bool = False) -> Report:
        """Return the Report as things stand."""
        said = [n for n in (*notes, self.server.note if tried and self.server.named else "") if n]
        said += self._notes
        said += _tuned_text(self._tuning, self.server.connection)
        if self.doubts:
            said.append(
                f"{self.doubts:,} from an earlier run in doubt; not sent again: Journal().resolve(…) decides."
            )
        said += [f"Look at row {row}: {finding}" for finding, row in self.check.findings.items()]
        if tried and not self.server.named:
            self.server.say()
        if self.diverted and tried:
            said.append(
                f"Every mail went to {self.diverted} instead of its recipients; none of them counts as sent."
            )
        if self.check.suppressed:
            said.append(_suppressed_text(self.check.suppressed))
        count, first, _ = self.roll.waiting()
        if count:
            said.append(_waiting_text(self.roll))
        moments = self.check.moments
        if moments is not None and (expired := self.roll.expired()):
            said.append(_expired_text(expired))
        if moments is not None and (local := moments.local) is not None:
            said.append(
                f"A moment without a time zone is one of this machine: the first was taken as {times.in_words(local)}."
            )
        if self.check.regrouped:
            said.append(_regrouped_text(self.check.regrouped))
        trial = self.options.dry_run or bool(self.diverted) or not self.server.counts
        if not trial and (sentence := proposed(self.roll.outcomes().where(_REFUSED))):
            said.append(sentence)
        where = "the sandbox" if self.server.connection.sandbox else self.server.connection.host
        title = "Dry run" if self.options.dry_run else f"Merge to {where}"
        outcomes = self.roll.outcomes()
        # A small one is held in memory: it can be copied, pickled and outlives everything.
        held = Listed(outcomes) if len(outcomes) <= _HELD_ROWS else outcomes
        return Report(
            held,
            title=title,
            index=self.frame.labels,
            notes=said,
            trial=trial,
            suppressed=self.check.suppressed,
            groups=_groups(self.frame),
            waiting=count,
            next_at=times.from_seconds(first) if count else None,
            tuning=self._tuning,
        )

    def _release(self) -> None:
        """Give the campaign back to others."""
        ledger, journal = self.ledger, self.journal
        self.ledger = self.journal = None
        try:
            if ledger is not None:
                ledger.close()
        finally:
            if journal is not None:
                _close(journal, self.options)

    def close(self) -> None:
        """Give the campaign back, and let go of everything."""
        try:
            self._release()
        finally:
            if isinstance(self.frame, Spread):
                self.frame.close()
        if self.check.suppressions is not None:
            self.check.suppressions.close()


def _groups(frame: Frame | Grouped | Spread) -> Groups | None:
    """Return where the rows of each mail stand; None where each row is one."""
    return None if isinstance(frame, Frame) else frame.groups


def _tuned_text(tuning: Tuning | None, connection: Connection) -> list[str]:
    """Return what to set by hand, where that would help; the provider's own limits are kept to."""
    if tuning is None:
        return []
    provider = providers.at(connection.host)
    note = tuning.note(provider.max_connections if provider is not None else None)
    return [note] if note else []


def _suppressed_text(count: int) -> str:
    rows = "1 row is" if count == 1 else f"{count:,} rows are"
    return f"{rows} suppressed: nobody of {'it' if count == 1 else 'them'} is mailed. Suppressions() lists whom and why."


def _waiting_text(roll: Roll) -> str:
    count, first, last = roll.waiting()
    rows = "1 row waits" if count == 1 else f"{count:,} rows wait"
    until = times.in_words(times.from_seconds(first))
    more = f", the last one until {times.in_words(times.from_seconds(last))}" if last > first else ""
    return f"{rows} until {until}{more}: the merge sends what is due when it is run then."


def _expired_text(count: int) -> str:
    return f"{'1 row has' if count == 1 else f'{count:,} rows have'} expired: nobody of {'it' if count == 1 else 'them'} is mailed."


def _regrouped_text(count: int) -> str:
    groups = "1 group has" if count == 1 else f"{count:,} groups have"
    return f"{groups} other rows now than the mail that went; nobody is mailed twice, and the warnings say how many."


_REFUSED = (State.REFUSED.value, State.PARTIAL.value)


#: A Report of more rows reads them from its table.
_HELD_ROWS = 1_000


#: How many rows one transaction of a plan holds, so that nobody else has to wait long.
_PLANNED_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class _Ready:
    """An order whose frame and template do; no row has been looked at."""

    order: Order
    frame: Frame | Grouped | Spread
    template: Template
    key: tuple[str, ...] | None
    diverted: str
    suppressions: Suppressions
    counts: bool = False

    @property
    def terms(self) -> dict[str, Any]:
        """What a campaign has to agree with, as the journal asks for it."""
        connection = self.order.server.connection
        return {
            "scope": connection.scope,
            "sender": self.template.sender or connection.sender or connection.user,
            "fingerprint": self._fingerprint,
            "key": self.key,
            "changed": self.order.options.changed,
        }

    @property
    def _fingerprint(self) -> str:
        """What the rows share: the template, and by what they are folded."""
        if isinstance(self.frame, Frame) or not self.frame.by:
            return self.template.fingerprint
        said = json.dumps([self.template.fingerprint, *self.frame.by])
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()

    def _taking_turns(self, check: Preflight) -> None:
        """Let others render between two rows, never within one: they may draw into the same figure."""
        if self.order.watch is not None:
            self.order.watch(check)
        if self.order.turn is not None:
            self.order.turn.let()

    def checked(
        self, earlier: Callable[[str], Known | None] | None = None, limit: int | None = None
    ) -> Merge:
        """Check the rows, at most *limit* good ones."""
        options, connection = self.order.options, self.order.server.connection
        turn = self.order.turn
        choice = self.template.choice
        spread = self.frame if isinstance(self.frame, Spread) else None
        presses = self._presses() if spread is None else self._remote()
        moments = self._moments() if spread is None else self._spread(spread, known=earlier is not None)
        check = Preflight(
            next(iter(presses.values())),
            connection,
            Roll(),
            variants=presses,
            moments=moments,
            choose=None if choice is None else functools.partial(choice.choose, options.campaign),
            key=self.key,
            earlier=earlier,
            suppressions=self.suppressions,
            notes=self.order.notes,
        )
        each = self.order.watch if turn is None else self._taking_turns
        if spread is not None and each is not None:
            spread.waits = functools.partial(_held_up, check, each)
        try:
            with turn or contextlib.nullcontext():
                check.check(self.frame, limit, each=each)
        except BaseException:
            if spread is not None:
                spread.close()
            raise
        return Merge(self.order, self.frame, check, self.diverted, _asked=self)

    def _presses(self) -> Mapping[str, Printing]:
        """Return what prints the rows, by the name of their text."""
        options, connection = self.order.options, self.order.server.connection
        executor = None if isinstance(self.frame, Spread) else options.executor
        made = self.template.variants or {"": self.template}
        return {
            name: Press(each, connection, values=options.values, executor=executor, turn=self.order.turn)
            for name, each in made.items()
        }

    def _remote(self) -> Mapping[str, Printing]:
        """Return what tells what workers printed; one for all texts, because they chose among those."""
        return dict.fromkeys(self.template.variants or [""], RemotePress())

    def _spread(self, spread: Spread, *, known: bool) -> times.Moments | None:
        """Have workers print the rows, and return when they may be sent as far as their cells come back."""
        options = self.order.options
        shown, read = cluster.shown_columns(
            spread.columns, self.key, send_at=options.send_at, expires=options.expires
        )
        url = given(_where(options)) if self.counts and not options.dry_run else None
        mailing = Mailing(
            id=cluster.mailing_id(),
            template=self.template,
            connection=self.order.server.connection,
            values=dict(options.values or {}),
            key=self.key or (),
            shown=shown,
            campaign=options.campaign,
            divert=wire_of(self.diverted),
            journal=url if isinstance(url, DatabaseURL) else None,
            earlier=known,
        )
        spread.begin(mailing)
        return self._moments(**read, columns=(*spread.columns, *shown))

    def _moments(
        self, send_at: times.Moment = None, expires: times.Moment = None, columns: Sequence[str] = ()
    ) -> times.Moments | None:
        options = self.order.options
        if options.send_at is None and options.expires is None:
            return None
        return times.Moments(
            send_at or options.send_at, expires or options.expires, columns or self.frame.columns
        )


def _held_up(check: Preflight, watch: Watch, why: str) -> None:
    check.held_up = why
    watch(check)


def prepare(order: Order) -> Merge:
    """Resolve defaults, look at the campaign, hold it unless it is a dry run, and check every row; on the calling thread.

    Raises:
        MergeRefusedError: As from `mail_merge`; or other rows are due than the order expects.
        JournalError: As from `mail_merge`.
    """
    options, connection = order.options, order.server.connection
    diverted = options.test_to or connection.redirect_to
    counts = order.server.counts and not diverted
    # What counts for nobody is compared with nothing, so its rows need no marks.
    frame = _frame(order, marked=counts)
    made = complete_template(order.template, order.fields, frame, connection)
    unnamed = _unnamed(connection, made) if counts and not options.campaign else None
    if unnamed is not None and not options.dry_run:
        raise unnamed.error
    if diverted and not connection.allows(wire_of(diverted)):
        cause = f"{diverted} is not among the addresses that this connection allows."
        raise MergeRefusedError(cause, f"It allows: {', '.join(connection.allow)}.")
    key = _key_columns(options.group_by if options.key is None else options.key, frame)
    named = counts and bool(options.campaign)
    ready = _Ready(order, frame, made, key, diverted, Suppressions(), named)
    if named:
        return _looked(ready) if options.dry_run else _held(ready)
    merge = ready.checked(limit=options.limit)
    if unnamed is not None:
        merge.needs_campaign = unnamed.name
        merge.note(str(unnamed.error))
    _say_unshared(merge)
    _refuse_unexpected(merge)
    return merge


def _looked(ready: _Ready) -> Merge:
    """Check the rows as the campaign stands, without holding it and without writing."""
    options = ready.order.options
    where = _where(options)
    with look(where, options.campaign, **ready.terms) as glance:
        merge = ready.checked(None if glance.number is None else glance.known)
    if glance.journal is None:
        _say_new(merge, glance.path)
    if glance.holder:
        merge.note(
            f"The campaign seems to be sent at this moment, by {glance.holder}: rows will have changed."
        )
    _say_unshared(merge)
    _limit(merge)
    return merge


def _held(ready: _Ready) -> Merge:
    """Open the campaign, check the rows as it stands, and write down those that are due."""
    options = ready.order.options
    journal = options.journal if isinstance(options.journal, Journal) else Journal(options.journal)
    ledger: Ledger | None = None
    try:
        ledger = journal.begin(options.campaign, **ready.terms)
        merge = ready.checked(None if ledger.empty else ledger.known)
        merge.journal, merge.ledger = journal, ledger
        if journal.new:
            _say_new(merge, journal.path)
        _plan(merge, ledger)
    except BaseException:
        if ledger is not None:
            ledger.close()
        _close(journal, options)
        raise
    return merge


def _say_unshared(merge: Merge) -> None:
    """Have a dry run say that its workers could not send, where that is so."""
    counts = merge.server.counts and not merge.diverted
    if counts and isinstance(merge.frame, Spread) and (missing := _no_shared_journal(merge.options)):
        merge.note(f"To send it: {missing}")


def _say_new(merge: Merge, path: Path | DatabaseURL) -> None:
    if not merge.server.connection.is_loopback:
        merge.note(f"The journal {str(path)!r} is new: nothing is known of earlier sends.")


def _plan(merge: Merge, ledger: Ledger) -> None:
    """Write the rows that are due into the journal, where the merge is not refused."""
    if merge.check.problems and merge.options.on_problem == "stop":
        return  # it is refused before a row is written
    _limit(merge)
    _refuse_unexpected(merge)
    _write(merge, ledger)


def _write(merge: Merge, ledger: Ledger) -> None:
    """Write the rows that are due, and those that the journal is to have besides."""
    ledger.adopt()
    for rows in merge.roll.unplanned(_PLANNED_AT_ONCE):
        merge.roll.note_records(ledger.plan(rows), rows)
    for rows in merge.roll.noted(_PLANNED_AT_ONCE):
        ledger.note(rows)


def _limit(merge: Merge) -> None:
    """Have only so many of the due rows sent as were asked for, and count those in doubt."""
    if merge.options.limit is not None:
        merge.roll.hold_back(max(0, merge.options.limit - merge._tried), "Beyond limit=.")  # noqa: SLF001 - its own half
    merge.doubts = merge.roll.outcomes().counts().get(State.IN_DOUBT.value, 0)


def _refuse_unexpected(merge: Merge) -> None:
    expected, due = merge.order.expected, merge.roll.count_due()
    if expected is None or (merge.check.problems and merge.options.on_problem == "stop"):
        return
    if due == expected and merge.order.same not in {"", merge.mark}:
        cause = "The rows that are due now are not those that were checked and confirmed; nothing was sent."
        raise MergeRefusedError(cause, "The frame or what it is filled with has changed: check again.")
    if due == expected:
        return
    said = "1 row is" if due == 1 else f"{due:,} rows are"
    cause = f"{said} due now, not the {expected:,} that were confirmed; nothing was sent."
    raise MergeRefusedError(cause, "Check again, and confirm what is due then.")


def _close(journal: Journal, options: Options) -> None:
    if journal is not options.journal:
        journal.close()


def _frame(order: Order, *, marked: bool = False) -> Frame | Grouped | Spread:
    """Return the rows of a merge, folded where that is asked for, or spread over a cluster."""
    df, group_by = order.df, order.options.group_by
    if (client := cluster.client_of(order.options.executor)) is not None:
        _refuse_on_a_cluster(order, counts=marked)
        return Spread(df, client, by=_columns(group_by), marked=marked)
    return local_frame(df, group_by, marked=marked)


def _columns(named: str | Sequence[str] | None) -> tuple[str, ...]:
    if named is None:
        return ()
    return (named,) if isinstance(named, str) else tuple(named)


def _refuse_on_a_cluster(order: Order, *, counts: bool) -> None:
    """Refuse what a cluster cannot do, before a row is looked at."""
    options, connection = order.options, order.server.connection
    if counts and not options.dry_run and (missing := _no_shared_journal(options)) is not None:
        raise missing
    if isinstance(connection.oauth, oauths.TokenFunction):
        cause = "The tokens come from the function given as oauth=, which the workers do not have."
        raise MergeRefusedError(cause, "Sign in with GoogleOAuth or MicrosoftOAuth, or with a password.")
    if connection.secret is not None and connection.user and connection.secret.reference is None:
        cause = f"The password comes from {connection.secret.origin}, which the workers do not have."
        fix = f"Set {connections.PASSWORD_VARIABLE} where the workers run, and here, or save it in their keyrings."
        raise MergeRefusedError(cause, fix)


def _where(options: Options) -> str | Path | DatabaseURL | None:
    """Return where the journal of a merge is, as it was named."""
    journal = options.journal
    return journal.path if isinstance(journal, Journal) else journal


def _no_shared_journal(options: Options) -> MergeRefusedError | None:
    """Return the refusal of a journal that workers cannot share, or None."""
    where = _where(options)
    if isinstance(given(where), DatabaseURL):
        return None
    said = "the user's own" if where is None else repr(str(where))
    cause = f"The workers of a cluster share a journal in PostgreSQL, and this one is a file: {said}."
    return MergeRefusedError(cause, 'Name a database: journal="postgresql://host/database".')


def local_frame(df: Any, group_by: str | Sequence[str] | None, *, marked: bool = False) -> Frame | Grouped:
    """Return the rows of this process, folded where that is asked for."""
    cluster.refuse_unspread(df)
    frame = Frame(df)
    if group_by is None:
        return frame
    return Grouped(frame, _columns(group_by), marked=marked)


def complete_template(
    template: Any, fields: Mapping[str, Any], frame: Frame | Grouped | Spread, connection: Connection
) -> Template:
    """Return the template of a merge, with what the frame and the connection say where it says nothing.

    Args:
        template: A Template, the path of a template file, or its text.
        fields: Fields that win over the template's.
        frame: Its one column of addresses is the recipient where none is named.
        connection: Its sender is From where none is named.

    Raises:
        MessageError: It is no template.
        MergeRefusedError: No recipient is named, and the frame has no or more than one column of addresses.
    """
    if not isinstance(template, Template | str | Path):
        cause = f"A {type(template).__name__} is no template."
        raise MessageError(cause, "Give a Template, the path of a template file, or its text.")
    if not isinstance(template, Template):
        made = Template(template, **fields)
    else:
        made = template.with_(**fields) if fields else template  # a copy would be compiled anew
    if "to" not in made.fields:
        made = made.with_(to=f"{{{{ row[{guess_address_column(frame.columns)!r}] }}}}")
    if "from_" not in made.fields and connection.sender:
        made = made.with_(from_=_literal(connection.sender))
    return made


def _literal(text: str) -> str:
    """Return *text* so that Jinja2 prints it as it is."""
    return f"{{% raw %}}{text}{{% endraw %}}" if "{" in text else text


def _key_columns(key: str | Sequence[str] | None, frame: Frame | Grouped | Spread) -> tuple[str, ...] | None:
    if key is None:
        return None
    names = _columns(key)
    for name in names:
        if name not in frame.columns:
            cause = f"There is no key column {name!r}; the columns are: {', '.join(map(repr, frame.columns[:20]))}."
            raise MergeRefusedError(cause, "Name one that tells the rows apart.")
    return names


class _Unnamed(NamedTuple):
    """A name to copy, and the refusal that says it."""

    name: str
    error: MergeRefusedError


def _unnamed(connection: Connection, template: Template) -> _Unnamed:
    """Return the refusal of a merge that could mail everybody twice, with a name to copy."""
    word = re.sub(r"[^a-z0-9]+", "-", Path(template.name).stem.lower()).strip("-") or "mailing"
    name = f"{word}-{dt.date.today():%Y-%m}"  # noqa: DTZ011 - the person's own calendar
    cause = f"A merge to {connection.host} needs a name, so that running it again mails nobody twice."
    return _Unnamed(name, MergeRefusedError(cause, f'Add campaign="{name}"; a new mailing takes a new name.'))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `mail_merge` takes beside its rows, its template and the fields of a mail; see there."""

    campaign: str = ""
    journal: Journal | str | Path | None = None
    changed: Literal["stop", "send-rest"] = "stop"
    key: str | Sequence[str] | None = None
    group_by: str | Sequence[str] | None = None
    via: Via = None
    values: Mapping[str, Any] | None = None
    executor: Any = None
    limit: int | None = None
    test_to: str = ""
    dry_run: bool = False
    send_at: times.Moment = None
    expires: times.Moment = None
    wait: bool = False
    on_problem: str = "stop"
    on_outcome: Callable[[Outcome], object] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.on_problem not in {"stop", "skip"}:
            cause = f"on_problem={self.on_problem!r} is neither 'stop' nor 'skip'."
            raise OptionError(cause)
        if self.executor is not None and not callable(getattr(self.executor, "submit", None)):
            cause = f"executor={self.executor!r} is none."
            raise OptionError(
                cause, "Give one of concurrent.futures, such as ThreadPoolExecutor(), or Dask's Client."
            )
        if not isinstance(self.campaign, str):
            raise OptionError(f"campaign={self.campaign!r} is no name.", "Give text.")
        if self.changed not in {"stop", "send-rest"}:
            raise OptionError(f"changed={self.changed!r} is neither 'stop' nor 'send-rest'.")
        times.check_moment("send_at", self.send_at)
        times.check_moment("expires", self.expires)
        if self.group_by is not None and not _are_columns(self.group_by):
            cause = f"group_by={self.group_by!r} is no column."
            raise OptionError(cause, "Give a column's name, or a list of some.")
        if self.limit is not None and (not isinstance(self.limit, int) or self.limit < 0):
            cause = f"limit={self.limit!r} is no number of rows."
            raise OptionError(cause, "Give a whole number, 0 or more.")

    @classmethod
    def split(cls, given: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """Return the options among what a merge was given, and the fields."""
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in given.items() if k in names}), {
            k: v for k, v in given.items() if k not in names
        }


def _are_columns(given: Any) -> bool:
    names = [given] if isinstance(given, str) else given
    return isinstance(names, list | tuple) and bool(names) and all(isinstance(n, str) and n for n in names)


def _problem_text(count: int, total: int, noun: str = "row") -> tuple[str, str]:
    rows = f"{noun} has a problem" if count == 1 else f"{noun}s have problems"
    cause = f"{count:,} of {total:,} {rows}; nothing was sent."
    return cause, 'Mend the rows, or send the others with on_problem="skip". Report.last() has them all.'
