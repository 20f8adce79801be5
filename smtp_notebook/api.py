"""The public verbs; what they do lies below: a server in `servers`, a merge in `orders`.

Each verb is written once, as a coroutine; its blocking twin renders on the calling thread and waits
for the background loop.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from smtp_notebook import _sync, times
from smtp_notebook import connection as connections
from smtp_notebook import oauth as oauths
from smtp_notebook.addresses import wire_of
from smtp_notebook.connection import Connection
from smtp_notebook.fields import check_field_names
from smtp_notebook.frames import Frame
from smtp_notebook.groups import Grouped
from smtp_notebook.journal import Journal, Ledger, PassingJournal
from smtp_notebook.merge import Run, Sending
from smtp_notebook.message import Message
from smtp_notebook.orders import Merge, Options, Order, complete_template, local_frame, prepare
from smtp_notebook.outcome import (
    DeliveryError,
    JournalError,
    MailError,
    OptionError,
    Outcome,
    Report,
    State,
)
from smtp_notebook.preflight import Planned, Single, checked
from smtp_notebook.press import printed_once, with_sender
from smtp_notebook.rate import Limiter
from smtp_notebook.records import unpacked
from smtp_notebook.sandbox import Sandbox
from smtp_notebook.servers import (
    Server,
    Via,
    connection_of,
    find_server,
    limiter_of,
    run_of,
)
from smtp_notebook.showing import SHOWN, Checking, Line, Progress
from smtp_notebook.signing import signer_of
from smtp_notebook.suppressions import among
from smtp_notebook.template import Template
from smtp_notebook.variants import Variants

__all__ = [
    "amail_merge",
    "asend",
    "carry_out",
    "compose",
    "connect",
    "looked_at",
    "mail_merge",
    "preview",
    "row_message",
    "send",
]


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
    connection = connection_of(url_or_name, **settings)
    signer_of(connection.signers)
    if connection.oauth is not None:
        oauths.bearer(connection.oauth, connection.user).sign_in(check=True)
    elif connection.user:
        connection.resolve_secret()
    connections.set_current(connection)
    return connection


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
        recipients=(wire_of(connection.redirect_to),) if connection.redirect_to else printed.recipients,
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
        return run_of(
            Single(self.row, self.ledger), self.server, self.ledger, self.take, limiter=self.limiter
        )

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
    if not server.counts:
        return _One(row, server, PassingJournal(), limiter=limiter_of(server.connection))
    journal = Journal()
    ledger, known, said = journal.single(row, once=once)
    row.warnings = (*row.warnings, *([said] if said else []))
    return _One(row, server, ledger, known, limiter_of(server.connection, journal))


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
    merge, line = _prepared(Order.of(df, template, options, fields))
    with merge:
        return carry_out(merge, line=line)


def _prepared(order: Order) -> tuple[Merge, Line | None]:
    """Prepare a merge, and show how far its check is; return where that was shown, too."""
    if not order.options.progress:
        return prepare(order), None
    with Checking() as bar:
        return prepare(dataclasses.replace(order, watch=bar.look)), bar.line


def carry_out(
    merge: Merge,
    *,
    begun: Callable[[Sending], object] | None = None,
    between: Callable[[], object] | None = None,
    quiet: bool = False,
    line: Line | None = None,
) -> Report:
    """Send what was prepared, on the calling thread, as `mail_merge` does; return the Report.

    Args:
        merge: Checked, and held by whoever calls this.
        begun: Is given what sends it, before the first row leaves; it may stop that, then or later.
        between: Called again and again while it waits; see `_sync.run`.
        quiet: Show nothing when it is broken off: nobody looks.
        line: Where its check was shown, and its progress is to be.

    Raises:
        PreflightError: As from `mail_merge`; like whatever else that may raise while it sends.
    """
    show = (lambda _: None) if quiet else SHOWN.get()
    while True:
        if (report := merge.early()) is None:
            with Progress(merge.roll, shown=merge.options.progress, line=line) as bar:
                run = merge.run(bar.step)
                if begun is not None:
                    begun(run)
                try:
                    _sync.run(run.send, stop=run.stop, between=functools.partial(bar.tick, run, between))
                except BaseException:
                    show(merge.finished(run))
                    raise
            report, line = merge.finished(run), None  # what goes after a wait has a line of its own
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
    merge, line = _prepared(Order.of(df, template, chosen, fields))
    with merge:
        while True:
            if (report := merge.early()) is None:
                with Progress(merge.roll, shown=merge.options.progress, line=line) as bar:
                    run = merge.run(bar.step)
                    try:
                        await _sync.ticking(run.send(_sync.Inline()), functools.partial(bar.tick, run))
                    except BaseException:
                        SHOWN.get()(merge.finished(run))
                        raise
                report, line = merge.finished(run), None
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
        local_frame(df, Options(group_by=group_by).group_by),
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
