"""The public verbs: defaults resolved here, ports wired here, everything else below.

Each verb is written once, as a coroutine; its blocking twin renders on the calling thread and waits
for the background loop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from smtp_notebook import _sync, cluster, providers, times
from smtp_notebook import connection as connections
from smtp_notebook import merge as merges
from smtp_notebook import oauth as oauths
from smtp_notebook.cluster import ClusterRun, Spread
from smtp_notebook.connection import Connection
from smtp_notebook.fields import check_field_names
from smtp_notebook.frames import Frame, guess_address_column
from smtp_notebook.groups import Grouped, Groups
from smtp_notebook.journal import Journal, Ledger, PassingJournal, look
from smtp_notebook.merge import Run, Sending, Told
from smtp_notebook.message import Message
from smtp_notebook.outcome import (
    FAILURES,
    DeliveryError,
    JournalError,
    Listed,
    MailError,
    MergeRefusedError,
    MessageError,
    OptionError,
    Outcome,
    PreflightError,
    Report,
    SettingsError,
    State,
    Tuning,
)
from smtp_notebook.parcels import Mailing, RemotePress
from smtp_notebook.places import DatabaseURL, given
from smtp_notebook.preflight import Feed, Planned, Preflight, Printing, Single, Watch, checked
from smtp_notebook.press import Press, printed_once, with_sender
from smtp_notebook.rate import Limiter, parse_rates
from smtp_notebook.records import packed, unpacked
from smtp_notebook.roll import Roll
from smtp_notebook.sandbox import Sandbox, default_sandbox
from smtp_notebook.signing import Signer, signer_of
from smtp_notebook.standing import Known
from smtp_notebook.suppressions import Suppressions, among, proposed
from smtp_notebook.template import Template
from smtp_notebook.transport import SmtpTransport
from smtp_notebook.variants import Variants

__all__ = [
    "NOTHING_LEFT",
    "SHOWN",
    "Merge",
    "Options",
    "Order",
    "Server",
    "amail_merge",
    "asend",
    "carry_out",
    "complete_template",
    "compose",
    "connect",
    "find_server",
    "looked_at",
    "mail_merge",
    "named_connection",
    "prepare",
    "preview",
    "progress_bar",
    "row_message",
    "send",
]

NOTHING_LEFT = (
    "Nothing left this machine: the sandbox caught it (%inbox shows it, connect(…) names a server)."
)

Via = Connection | Sandbox | str | None


# ------------------------------------------------------------------------------------- which server


@dataclass(frozen=True, slots=True)
class Server:
    """A Connection whose secret is at hand.

    Attributes:
        connection: The settings.
        password: The resolved secret, or None.
        named: Whether a person named this server; False for the sandbox that stands in.
        signer: Signs mails (DKIM), or None.
    """

    connection: Connection
    password: str | None
    named: bool
    signer: Signer | None = None

    def __repr__(self) -> str:
        return f"<Server {self.connection!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # As a Secret does: a copy knows where from, never what.
        return Server, (self.connection, None, self.named)

    @property
    def counts(self) -> bool:
        """Whether what goes there counts as sent: it is no sandbox, no catcher, and no redirect."""
        return _counts(self.connection)

    @property
    def note(self) -> str:
        """What has to be said beside each result, or ""."""
        return NOTHING_LEFT if self.connection.sandbox else ""

    def say(self) -> None:
        """Print the note: where nobody named a server, the output itself has to say which it was."""
        if self.note:
            print(self.note)  # noqa: T201 - see above


def find_server(via: Via = None, *, login: bool = True) -> Server:
    """Return the server that a call uses: *via*, ``connect()``, the environment, else the sandbox.

    May prompt for a password, so it runs on the calling thread. Without *login* none is looked for: that is for a
    look at the settings, and nothing can be sent by what is returned.

    Raises:
        SettingsError: The URL or name is none, or a DKIM key cannot be read or does not do.
        SecretError: A login needs a password that cannot be had here.
    """
    connection = named_connection(via)
    if connection is None:
        return Server(default_sandbox().connection, None, named=False)
    password = connection.resolve_secret() if login and connection.user else None
    return Server(connection, password, named=True, signer=signer_of(connection.signers) if login else None)


def named_connection(via: Via = None) -> Connection | None:
    """Return the Connection that somebody named, or None: *via*, ``connect()``, the environment. Asks for no secret.

    Raises:
        SettingsError: The URL or name is none.
    """
    connection = _connection(via) if via is not None else connections.current()
    return connections.from_environment(os.environ) if connection is None else connection


def _connection(via: Via, **settings: Any) -> Connection:
    if isinstance(via, Sandbox):
        via.start()
        via = via.connection
    if isinstance(via, Connection):
        return via.with_(**settings) if settings else via
    if not isinstance(via, str):
        cause = f"A {type(via).__name__} is no server."
        raise SettingsError(
            cause, "Give a Connection, a Sandbox, a URL such as smtp://user@host, or a saved name."
        )
    if "://" in via:
        return Connection.from_url(via, **settings)
    if (provider := providers.named(via)) is not None:
        return connections.preset(provider, settings)
    found = (
        default_sandbox().connection if via.strip().lower() == "sandbox" else connections.saved(via.strip())
    )
    return found.with_(**settings) if settings else found


def connect(url_or_name: str | Connection | Sandbox = "sandbox", /, **settings: Any) -> Connection:
    """Name the server of this notebook, and return its Connection.

    Args:
        url_or_name: ``smtp://user@host`` (port 587, STARTTLS required), ``smtps://`` (465, TLS),
            ``smtp+plain://`` (25, neither), a provider's name such as ``"gmail"``, which needs ``user=``, a saved
            name, or ``"sandbox"``.
        **settings: Attributes of `Connection`, such as ``sender=`` or ``ca_file=``; ``password=``
            takes a function that returns the secret, ``oauth=`` a `GoogleOAuth`, a `MicrosoftOAuth` or a function
            that returns a token, ``region=`` the region of a provider that has many.

    A password is found now (environment, keyring, function or prompt), for nothing can prompt later; nothing is
    sent over the network. With ``oauth=`` the person signs in now, unless that happened before and still holds,
    and the cell waits for it, 10 minutes at most.

    Raises:
        SettingsError: No such name or setting, a password in clear, a provider that needs a user or a region, or a
            DKIM key that cannot be read.
        SecretError: The login needs a password or a sign-in that cannot be had here.
    """
    connection = _connection(url_or_name, **settings)
    signer_of(connection.signers)
    if connection.oauth is not None:
        oauths.bearer(connection.oauth, connection.user).sign_in(check=True)
    elif connection.user:
        connection.resolve_secret()
    connections.set_current(connection)
    return connection


# ---------------------------------------------------------------------------------------- one mail


def compose(message: Message | None = None, /, **fields: Any) -> Message:
    """Return the Message that `send` would send; *fields* win over the given one's.

    Strings are taken as they are (no Jinja2): a brace in a name stays a brace. A body that is no
    string, such as a DataFrame or a figure, is shown as the notebook shows it.
    """
    check_field_names(fields)
    for name, value in fields.items():
        if isinstance(value, Variants):
            raise OptionError(f"{name}: Variants are for many rows.", "Give one text, or use mail_merge.")
    body = fields.get("body", "")
    if isinstance(body, str):
        return message.with_(**fields) if message is not None else Message(**fields)
    shape = {k: fields.pop(k) for k in ("format", "inline") if fields.get(k) is not None}
    shown = Template(body=fields.pop("body"), **shape).fill()
    parts: dict[str, Any] = {
        name: getattr(shown, name) for name in ("body", "format", "text", "html", "inline")
    }
    return message.with_(**parts, **fields) if message is not None else Message(**parts, **fields)


def looked_at(message: Message, via: Connection | None = None) -> Message:
    """Return the message with what `lint` says of it among its warnings.

    Args:
        message: Any; it is not changed otherwise.
        via: The connection that it will go by.
    """
    from smtp_notebook.lint import lint

    found = [str(finding) for finding in lint(message, via=via)]
    return message.with_(warnings=[*message.warnings, *found]) if found else message


def _single(message: Message, server: Server) -> Planned:
    """Return one mail, checked and ready to be sent."""
    connection = server.connection
    stamped = looked_at(with_sender(message, connection), connection).stamped()
    printed = checked(printed_once(stamped), connection)
    row = Planned(
        position=None,
        key="",
        sender=connection.envelope_sender(printed.sender, stamped.message_id),
        recipients=(_wire(connection.redirect_to),) if connection.redirect_to else printed.recipients,
        digest=printed.digest,
        smtputf8=printed.smtputf8 or not connection.redirect_to.isascii(),
        message_id=stamped.message_id,
        date=stamped.date,
        warnings=(*stamped.warnings, *_against(printed.recipients)),
    )
    row.fill(printed, signer=server.signer)
    return row


def _against(recipients: Sequence[str]) -> list[str]:
    """Return what a single mail has to say of recipients whom no merge would mail; it goes all the same."""
    try:
        return [f"{entry.said}; send() mails all the same" for entry in among(recipients)]
    except JournalError as error:
        return [error.cause.rstrip(".")]


@dataclass(slots=True)
class _One:
    """One mail that is about to be sent."""

    row: Planned
    server: Server
    ledger: Ledger | PassingJournal
    known: Outcome | None = None
    limiter: Limiter | None = None
    outcome: Outcome | None = None

    def run(self) -> Run:
        return _run(Single(self.row, self.ledger), self.server, self.ledger, self.take, limiter=self.limiter)

    def take(self, key: str, position: int | None, columns: tuple[Any, ...]) -> None:
        self.outcome = unpacked(key, position, columns)

    def raise_unless_it_went(self) -> None:
        """Raise the journal's error again, unless the mail may have gone: that has to be said before all else."""
        if self.outcome is None or self.outcome.state not in {State.SENT, State.PARTIAL, State.IN_DOUBT}:
            raise  # noqa: PLE0704 - called where it is being handled

    def result(self, run: Run) -> Outcome:
        found = self.outcome or self.row.outcome(State.PLANNED, reason=run.stopped)
        return _delivered(found.with_(key=""), self.server)


def _one(row: Planned, server: Server, *, once: bool) -> _One:
    """Open the mail's Ledger; with *once* an Outcome says that it went before."""
    if not _counts(server.connection):
        return _One(row, server, PassingJournal(), limiter=_limiter(server.connection))
    journal = Journal()
    ledger, known, said = journal.single(row, once=once)
    row.warnings = (*row.warnings, *([said] if said else []))
    return _One(row, server, ledger, known, _limiter(server.connection, journal))


def _counts(connection: Connection) -> bool:
    """Tell whether what goes there counts as sent: it is no sandbox, no catcher, and no redirect."""
    return not (connection.sandbox or connection.practice or connection.redirect_to)


def _limiter(connection: Connection, journal: Journal | None = None) -> Limiter | None:
    """Return what holds the connection's rate, beginning with what the journal says went before; or None."""
    rates = parse_rates(connection.rate)
    if not rates:
        return None
    # One for everything that this process sends there with this login.
    login = (connection.host, connection.port, connection.user, rates)
    with _LIMITERS_LOCK:
        if login not in _LIMITERS:
            longest = max(rate.seconds for rate in rates)
            past = journal.past(connection.scope, longest) if journal is not None else ()
            _LIMITERS[login] = Limiter(rates, merges.CLOCK(), past)
        return _LIMITERS[login]


_LIMITERS: dict[tuple[object, ...], Limiter] = {}
_LIMITERS_LOCK = threading.Lock()


def send(
    message: Message | None = None,
    /,
    *,
    via: Via = None,
    once: bool = False,
    dry_run: bool = False,
    **fields: Any,
) -> Outcome:
    """Send one mail and return its Outcome.

    Args:
        message: A Message; None makes one from *fields*.
        via: The server; by default the one of ``connect()``, the environment, else the sandbox.
        once: Skip a mail that went before: the same addresses, subject, text and files. Outside the
            sandbox each mail is journaled, and a repeated one says so in its Outcome's ``warnings``.
        dry_run: Check everything and send nothing; the Outcome is ``planned``.
        **fields: ``to cc bcc reply_to from_ subject body format importance attach inline headers
            read_receipt unsubscribe bulk list_id feedback_id postal_address event``. Strings are taken as they are, not as templates.

    Raises:
        MessageError: The message cannot be built; nothing was sent.
        DeliveryError: It was not accepted for every recipient; ``.outcome`` says what happened.
            A state of ``in_doubt`` means that it may have arrived: look before sending it again.
    """
    server = find_server(via)
    row = _single(compose(message, **fields), server)
    if dry_run:
        return row.outcome(State.PLANNED, reason="Dry run: checked, not sent.")
    one = _one(row, server, once=once)
    try:
        if one.known is not None:
            return _repeated(one.known)
        run = one.run()
        try:
            _sync.run(run.send, stop=run.stop)
        except JournalError:
            one.raise_unless_it_went()
        return one.result(run)
    finally:
        one.ledger.close()


async def asend(
    message: Message | None = None,
    /,
    *,
    via: Via = None,
    once: bool = False,
    dry_run: bool = False,
    **fields: Any,
) -> Outcome:
    """Do what `send` does, awaited; rendering happens on the awaiting loop."""
    server = find_server(via)
    row = _single(compose(message, **fields), server)
    if dry_run:
        return row.outcome(State.PLANNED, reason="Dry run: checked, not sent.")
    one = _one(row, server, once=once)
    try:
        if one.known is not None:
            return _repeated(one.known)
        run = one.run()
        try:
            await _sync.ticking(run.send(_sync.Inline()))
        except JournalError:
            one.raise_unless_it_went()
        return one.result(run)
    finally:
        one.ledger.close()


def _repeated(outcome: Outcome) -> Outcome:
    if outcome.state is State.IN_DOUBT:
        raise DeliveryError(outcome)
    return outcome


def _delivered(outcome: Outcome, server: Server) -> Outcome:
    if outcome.state is not State.SENT:
        raise DeliveryError(outcome)
    if not server.named:
        server.say()
        return outcome
    return outcome.with_(reason=outcome.reason or server.note)


# ------------------------------------------------------------------------------------------- merge


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
    _line: _Line | None = None

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
            divert=_wire(self.diverted),
            signer=self.server.signer,
            report=here,
        )
        limiter = _limiter(self.server.connection, self.journal)
        return _run(feed, self.server, ledger, report, on_outcome=mine, limiter=limiter)

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
        trial = self.options.dry_run or bool(self.diverted) or not _counts(self.server.connection)
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

    def show_after(self, checking: _Checking) -> None:
        """Have its progress be shown where that of its check was."""
        self._line = checking.line

    def taken_line(self) -> _Line | None:
        """Return where its progress is to be shown; once."""
        line, self._line = self._line, None
        return line

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
            divert=_wire(self.diverted),
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
    counts = _counts(connection) and not diverted
    # What counts for nobody is compared with nothing, so its rows need no marks.
    frame = _frame(order, marked=counts)
    made = complete_template(order.template, order.fields, frame, connection)
    unnamed = _unnamed(connection, made) if counts and not options.campaign else None
    if unnamed is not None and not options.dry_run:
        raise unnamed.error
    if diverted and not connection.allows(_wire(diverted)):
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
    counts = _counts(merge.server.connection) and not merge.diverted
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


def _wire(address: str) -> str:
    from smtp_notebook.addresses import Address

    return Address.parse(address).wire if address else ""


def _frame(order: Order, *, marked: bool = False) -> Frame | Grouped | Spread:
    """Return the rows of a merge, folded where that is asked for, or spread over a cluster."""
    df, group_by = order.df, order.options.group_by
    if (client := cluster.client_of(order.options.executor)) is not None:
        _refuse_on_a_cluster(order, counts=marked)
        return Spread(df, client, by=_columns(group_by), marked=marked)
    return _local_frame(df, group_by, marked=marked)


def _columns(group_by: str | Sequence[str] | None) -> tuple[str, ...]:
    return (group_by,) if isinstance(group_by, str) else tuple(group_by or ())


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


def _local_frame(df: Any, group_by: str | Sequence[str] | None, *, marked: bool = False) -> Frame | Grouped:
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
    names = (key,) if isinstance(key, str) else tuple(key)
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


def mail_merge(
    df: Any,
    template: Template | str | Path,
    *,
    campaign: str = "",
    key: str | Sequence[str] | None = None,
    group_by: str | Sequence[str] | None = None,
    via: Via = None,
    values: Mapping[str, Any] | None = None,
    executor: Executor | Any = None,
    limit: int | None = None,
    test_to: str = "",
    dry_run: bool = False,
    changed: Literal["stop", "send-rest"] = "stop",
    on_problem: Literal["stop", "skip"] = "stop",
    send_at: times.Moment = None,
    expires: times.Moment = None,
    wait: bool = False,
    journal: Journal | str | Path | None = None,
    progress: bool = True,
    on_outcome: Callable[[Outcome], object] | None = None,
    **fields: Any,
) -> Report:
    """Send one mail per row, after every row was checked; return the Report.

    Nobody on the list of `Suppressions` is mailed, in a trial either: such a recipient is left out, with a warning,
    and a row that has no other one is skipped.

    Args:
        df: A pandas DataFrame, anything narwhals reads, or a list of dicts; with a cluster as *executor* a Dask DataFrame,
            too. Never changed.
        template: A Template, the path of a template file, or its text.
        campaign: The mailing's name; needed outside the sandbox. Running it again sends what is left and
            skips what went; mailing everyone again takes a new name.
        key: The column or columns that identify a row; by default its address. Two rows with one key
            are a problem.
        group_by: The column or columns by which rows belong into one mail; None for a mail per row. In the template
            ``rows`` are the rows of the mail, and a column stands for its value where that is the same in all of them.
            The key is then by default what the rows are grouped by, in its one form: addresses that differ in case are
            one group. A row with an empty cell there is a problem. A group whose mail went is not mailed again when it
            has other rows by then: its Outcome says so. Rows of a Dask DataFrame stand in a mail in the order of its
            partitions.
        via: The server; by default the one of ``connect()``, the environment, else the sandbox.
        values: More names for the template, functions too; the row's columns win over them.
        executor: Where those functions are called whose results the body prints as they are, such as
            ``{{ chart(row) }}``; some rows ahead, so that slow ones share its threads or processes. None calls
            them on this thread. pyplot is not made for threads: there a function makes its own
            ``matplotlib.figure.Figure``. Or the ``Client`` of a Dask cluster: its workers print all rows, and then send
            them. What counts as sent there needs a *journal* in PostgreSQL, which the workers share; the connection's
            limits hold over all of them together; and a password has to come from the environment or the keyring of the
            machines where the workers run, since none is passed on. Functions, and paths of files, are the workers'.
        limit: Send only this many mails; those that the campaign had already do not count.
        test_to: Send every mail to this address instead; nobody counts as mailed.
        dry_run: Check every row and send nothing; never raises for a row. With a *campaign* it says which rows are
            due and which the campaign had already, as the merge itself would find it now, and raises what that
            would be refused for; nothing is written, and the campaign may be sent elsewhere meanwhile.
        changed: What to do when the campaign's template, From or server is not what it began with:
            ``"stop"`` refuses and says what changed, ``"send-rest"`` goes on with the rest.
        on_problem: ``"stop"`` sends nothing when a row has a problem; ``"skip"`` sends the good rows
            and reports the others.
        send_at: Not before this moment: a datetime, the name of a column that has each row's, or a function that is given
            a row as a dict of its cells and returns it. A row without one may go at once. One without a time zone is of
            this machine. A row whose time has not come stays ``planned``; the merge does not wait for it, and sends it
            when it is run again then.
        expires: From this moment on a row is not sent any more, given as *send_at*; it is ``skipped``. That is asked
            before each try, so that no slow rate and no retry sends it late. Neither is a part of the campaign: both
            may be another in the next run.
        wait: Wait for the rows whose time has not come, and send them then. The campaign is not held meanwhile, and an
            interrupt ends the waiting.
        journal: A Journal, its file, or ``postgresql://host/database``; by default the user's own.
        progress: Show a progress bar when it takes longer than a second.
        on_outcome: Called once per row, on this thread, after the row was recorded; it may send mails itself.
        **fields: Fields that win over the template's, as templates themselves. ``event`` is an `Event`, one
            meeting for everybody, or a function that is given a row as a dict of its cells (None where one
            is empty) and returns that row's Event, or None. It may be called more than once for a row, and
            has to return the same each time; an Event without a uid gets one that depends on what it is and
            whom the row mails, so that it is one meeting however often it is made. ``subject``, ``preheader`` and
            ``body`` may be `Variants`: several texts, of which each row gets one.

    Raises:
        PreflightError: Rows have problems and *on_problem* is "stop"; nothing was sent, and
            ``.report`` has them all.
        MergeRefusedError: The frame or the address column does not do, the campaign has no name, has
            changed or is being sent elsewhere; nothing was sent. Or a cluster cannot do what was asked for, or was
            lost; then ``Report.last()`` says how far it went.
        JournalError: The journal, or the list of those who are suppressed, cannot be read or written; no mail
            leaves without them.
        KeyboardInterrupt: The kernel was interrupted; rows in flight had up to 5 s, and
            ``Report.last()`` says how far it went.
    """
    options = Options(
        campaign=campaign, key=key, group_by=group_by, via=via, values=values, executor=executor, limit=limit, test_to=test_to, dry_run=dry_run,
        changed=changed, on_problem=on_problem, journal=journal, on_outcome=on_outcome, progress=progress,
        send_at=send_at, expires=expires, wait=wait,
    )  # fmt: skip
    with _prepared(Order.of(df, template, options, fields)) as merge:
        return carry_out(merge)


def _prepared(order: Order) -> Merge:
    """Prepare a merge, and show how far its check is."""
    if not order.options.progress:
        return prepare(order)
    with _Checking() as bar:
        merge = prepare(dataclasses.replace(order, watch=bar.look))
    merge.show_after(bar)
    return merge


def carry_out(
    merge: Merge,
    *,
    begun: Callable[[Sending], object] | None = None,
    between: Callable[[], object] | None = None,
    quiet: bool = False,
) -> Report:
    """Send what was prepared, on the calling thread, as `mail_merge` does; return the Report.

    Args:
        merge: Checked, and held by whoever calls this.
        begun: Is given what sends it, before the first row leaves; it may stop that, then or later.
        between: Called again and again while it waits; see `_sync.run`.
        quiet: Show nothing when it is broken off: nobody looks.

    Raises:
        PreflightError: As from `mail_merge`; like whatever else that may raise while it sends.
    """
    show = (lambda _: None) if quiet else SHOWN.get()
    while True:
        if (report := merge.early()) is None:
            with _Progress(merge) as bar:
                run = merge.run(bar.step)
                if begun is not None:
                    begun(run)
                try:
                    _sync.run(run.send, stop=run.stop, between=functools.partial(bar.tick, run, between))
                except BaseException:
                    show(merge.finished(run))
                    raise
            report = merge.finished(run)
            if run.stopped:
                return report
        if (waiting := merge.wait()) is None:
            return report
        try:
            _sync.run(waiting.wait, stop=waiting.stop, between=between)
        except BaseException:
            show(report)
            raise
        merge.resume()


async def amail_merge(df: Any, template: Template | str | Path, **options: Any) -> Report:
    """Do what `mail_merge` does, awaited, with the same arguments; rendering happens on this loop."""
    chosen, fields = Options.split(options)
    with _prepared(Order.of(df, template, chosen, fields)) as merge:
        while True:
            if (report := merge.early()) is None:
                with _Progress(merge) as bar:
                    run = merge.run(bar.step)
                    try:
                        await _sync.ticking(run.send(_sync.Inline()), functools.partial(bar.tick, run))
                    except BaseException:
                        SHOWN.get()(merge.finished(run))
                        raise
                report = merge.finished(run)
                if run.stopped:
                    return report
            if (waiting := merge.wait()) is None:
                return report
            try:
                await _sync.ticking(waiting.wait())
            except BaseException:
                SHOWN.get()(report)
                raise
            merge.resume()


def _problem_text(count: int, total: int, noun: str = "row") -> tuple[str, str]:
    rows = f"{noun} has a problem" if count == 1 else f"{noun}s have problems"
    cause = f"{count:,} of {total:,} {rows}; nothing was sent."
    return cause, 'Mend the rows, or send the others with on_problem="skip". Report.last() has them all.'


def _run(
    feed: Feed | Single,
    server: Server,
    journal: Ledger | PassingJournal,
    report: Told,
    *,
    on_outcome: Callable[[Outcome], object] | None = None,
    limiter: Limiter | None = None,
) -> Run:
    """Wire the ports: the one place that names a concrete transport."""
    connection = server.connection
    transport = SmtpTransport(connection, server.password, clock=merges.CLOCK)
    return Run(
        feed,
        transport,
        journal,
        report=report,
        on_outcome=on_outcome,
        workers=transport.aim.goal,
        attempts=connection.attempts,
        limiter=limiter,
    )


def _show(report: Report) -> None:
    """Show a report although an exception follows: richly in IPython, as text elsewhere."""
    import sys

    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        from IPython.display import display

        display(report)
    else:
        print(report.text())  # noqa: T201 - the person has to see how far it went


#: Shows a report although an exception follows; the command line has its own way.
SHOWN: ContextVar[Callable[[Report], object]] = ContextVar("SHOWN", default=_show)

#: A merge shows a bar when it takes longer than this, in seconds.
PROGRESS_DELAY = 1.0


class _Checking:
    """A bar that tells how many rows have been checked."""

    def __init__(self) -> None:
        self._bar = _Bar("row", said="checked")
        self._check: Preflight | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._check is not None:
            self.look(self._check)
        self._bar.close()

    @property
    def line(self) -> _Line:
        """Where it was shown, if it was."""
        return self._bar.line

    def look(self, check: Preflight) -> None:
        """Look at a check before its next row, or while that is waited for."""
        self._check = check
        self._bar.reach(check.problems + check.due + check.settled, check.total, check.held_up)


class _Progress:
    """What is told while a merge runs: the roll, and a bar with rate, failures and what remains.

    One line of it stays, in a saved notebook too: a widget would be dead there. It is written where the check was told of.
    """

    def __init__(self, merge: Merge) -> None:
        self._put = merge.roll.put
        self._failures = 0
        self._bar: _Bar | None = None
        if merge.options.progress:
            self._bar = _Bar("mail", merge.roll.count_due(), line=merge.taken_line())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, _: str, position: int | None, columns: tuple[Any, ...]) -> None:
        self._put(position, columns)
        if self._bar is not None:
            self._failures += columns[0] in FAILURES
            self._bar.step(f"failures={self._failures}" if self._failures else "")

    def tick(self, run: Sending, then: Callable[[], object] | None = None) -> None:
        """Show that time goes by although no row is done, and why nothing is sent; then call *then*."""
        if self._bar is not None:
            self._bar.tick(run.held_up)
        if then is not None:
            then()


#: A bar shows about so often that time goes by, in seconds.
_TICK_SECONDS = 1.0


class _Bar:
    """A bar of tqdm that knows why it stands still. From any thread."""

    def __init__(
        self, unit: str, total: int | None = None, *, said: str = "", line: _Line | None = None
    ) -> None:
        #: Where it is shown, in a kernel.
        self.line = line or _Line()
        self._bar = progress_bar(unit, total, said=said, line=self.line)
        self._began = self._shown = time.monotonic()
        self._lock = threading.Lock()
        self._words = self._held_up = ""

    def close(self) -> None:
        self._say("")
        self._bar.close()

    def step(self, words: str = "") -> None:
        """Go on by one; *words* stand behind it."""
        self._words = words
        self._say(self._held_up)
        self._bar.update()

    def reach(self, count: int, total: int, held_up: str) -> None:
        """Go on to *count* of *total*; 0 for an unknown one."""
        self._bar.total = total or None
        if count > self._bar.n:
            self._bar.update(count - self._bar.n)
        self.tick(held_up)

    def tick(self, held_up: str) -> None:
        """Show it again, where that was not done for a second, or something else holds it up."""
        with self._lock:
            now = time.monotonic()
            other = held_up != self._held_up
            if now - self._began < PROGRESS_DELAY or not (other or now - self._shown >= _TICK_SECONDS):
                return
            self._shown = now
        self._say(held_up)
        self._bar.refresh()

    def _say(self, held_up: str) -> None:
        self._held_up = held_up
        self._bar.set_postfix_str(", ".join(filter(None, [self._words, held_up])), refresh=False)


def progress_bar(unit: str, total: int | None = None, *, said: str = "", line: _Line | None = None) -> Any:
    """Return tqdm's bar, which shows itself after `PROGRESS_DELAY`; in a kernel as one line that stays.

    Args:
        unit: What is counted.
        total: How many there are; None where that is unknown.
        said: What stands before it.
        line: A line to write over.
    """
    from tqdm import tqdm

    look = {"file": line or _Line(), "ascii": False, "ncols": 80, "mininterval": 0.5} if _kernel() else {}
    return tqdm(total=total, unit=unit, desc=said or None, delay=PROGRESS_DELAY, **look)


def _kernel() -> Any:
    """Return IPython where it runs as a notebook's kernel, or None."""
    import sys

    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if getattr(shell, "kernel", None) is not None else None


class _Line:
    """One line of output that is written over and over, in whatever shows the notebook."""

    def __init__(self) -> None:
        self._handle: Any = None

    def write(self, text: str) -> None:
        from IPython.display import display

        line = text.strip("\r\n ")
        if not line:
            return
        shown = {"text/plain": line}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    def flush(self) -> None:
        """Do nothing: each line is shown at once."""


def preview(
    df: Any,
    template: Template | str | Path,
    row: int = 0,
    *,
    group_by: str | Sequence[str] | None = None,
    variant: str = "",
    **fields: Any,
) -> Message:
    """Return the Message that one row makes; it displays itself. No server is touched.

    Args:
        df: As in `mail_merge`.
        template: As in `mail_merge`.
        row: The row's position, counted from 0; with *group_by* that of any row of the group.
        group_by: As in `mail_merge`.
        variant: Which of several texts is shown, such as ``"B"``, where a field has `Variants`; the first by default.
        **fields: As in `mail_merge`; ``values=`` too.

    Raises:
        TemplateError: The row does not fill the template; says which column and line.
        OptionError: There is no such variant.
    """
    values = fields.pop("values", None)
    check_field_names(fields)
    return row_message(
        _local_frame(df, Options(group_by=group_by).group_by),
        template,
        row,
        connections.current() or _NOWHERE,
        values=values,
        fields=fields,
        variant=variant,
    )


def row_message(
    frame: Frame | Grouped,
    template: Template | str | Path,
    row: int,
    connection: Connection,
    *,
    values: Mapping[str, Any] | None = None,
    fields: Mapping[str, Any] | None = None,
    variant: str = "",
) -> Message:
    """Return the Message that one row makes, for a frame that is read already and any server; see `preview`."""
    made = complete_template(template, fields or {}, frame, connection)
    if variant:
        if variant not in made.variants:
            named = ", ".join(made.variants)
            fix = f"There are: {named}." if named else "Give one: subject=Variants(…)."
            raise OptionError(f"The template has no variant {variant!r}.", fix)
        made = made.variants[variant]
    try:
        cells = frame.row(row)
        if (fault := getattr(cells, "fault", None)) is not None:
            raise fault
        return looked_at(made.fill(cells, values=values), connection)
    except MailError as error:
        error.cause = f"Row {row}: {error.cause}"
        error.args = (f"{error.cause} {error.fix}".strip(),)
        raise


_NOWHERE = Connection(host="localhost", port=25, security="plain")
