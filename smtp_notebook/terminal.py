"""What all commands share: a report as text and as JSON, exit codes, and how a command ends.

Results are on standard output, all else on standard error. Where nobody reads standard output any more, as in
``… | head``, a command goes on without a word: mails that are on their way are worth more than a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from smtp_notebook import flags
from smtp_notebook.outcome import (
    DeliveryError,
    MailError,
    MessageError,
    OptionError,
    Outcome,
    PreflightError,
    Report,
    SettingsError,
    TemplateError,
)

if TYPE_CHECKING:
    from smtp_notebook.connection import Connection

__all__ = [
    "DRY",
    "FAILED",
    "INTERRUPTED",
    "OK",
    "UNAPPROVED",
    "USAGE",
    "Commands",
    "MailCommand",
    "as_options",
    "exit_code",
    "field_options",
    "finish",
    "header_option",
    "headers",
    "is_terminal",
    "json_option",
    "json_text",
    "outcome_dict",
    "printable",
    "printable_text",
    "put",
    "refuse_password",
    "report_json",
    "report_lines",
    "say",
    "server_of",
    "tell",
    "width",
]

OK, FAILED, USAGE, UNAPPROVED, INTERRUPTED = 0, 1, 2, 3, 130

#: Seconds that pass; exchanged where a test must not wait.
CLOCK: Callable[[], float] = time.monotonic
#: SIGTERMs within so many seconds are one request.
_ONE_REQUEST = 1.0
#: The first line of what sends nothing.
DRY = "Dry run: nothing is sent. Add --send to send."
_PASSWORD_IN_URL = re.compile(r"(?:^|://)[^/@:]*:[^/]+@")
_SHOWN = 20
_NARROWEST = 30
_JSON = "smtp_notebook.json"
#: What is told where the library's own words speak to a notebook.
_WORDS = (
    ("(%inbox shows it, connect(…) names a server)", "(--via names a server)"),
    (", a from: line in the head, or connect(…, sender='you@example.com')", " or a from: line in the head"),
    ("Report.last() has them all.", "--json has them all."),
    ("Journal().resolve(…) decides", "'smtp-notebook journal resolve' decides"),
    ("Suppressions() lists whom and why.", "Python's Suppressions() lists whom and why."),
    ("Look at Journal() for", "'smtp-notebook journal' says"),
    ('on_problem="skip"', "--skip-problems"),
    ("watch.approve()", "--approve"),
)
_OPTION = re.compile(
    r"(?<![\w?&;./])(campaign|key|changed|limit|test_to|max_per_poll|since|every|via|journal|from_|reply_to|subject|format|importance|bulk|list_id"
    r"|unsubscribe|postal_address)=(?:\"([^\"\n]*)\"|'([^'\n]*)'|(…|\d+))?"
)
_DOUBTS = re.compile(r"report\('([^'\n]*)'\)\.in_doubt lists")
_FORGET = re.compile(r"Journal\(\)\.forget\('([^'\n]*)'\)")

T = TypeVar("T")


# ---------------------------------------------------------------------------------------------- ends


class _Mistake(click.ClickException):
    """What was asked for cannot be understood."""

    exit_code = USAGE


def exit_code(error: BaseException) -> int:
    """Return 2 for what was asked for wrongly, 130 for an interrupt, 1 for what was tried and failed."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return USAGE if isinstance(error, SettingsError | OptionError | MessageError | TemplateError) else FAILED


class Commands(click.Group):
    """Commands whose MailErrors are one line: cause and fix, and no traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's call
        """Return them in the order in which they were added: what is needed most comes first."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for; click calls it."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                # Not every terminal has all letters, and no letter is worth a lost report.
                stream.reconfigure(errors="backslashreplace")
        try:
            with _stopping():
                return super().invoke(ctx)
        except MailError as error:
            if ctx.meta.get(_JSON):
                say(json_text({"ok": False, "error": _error_dict(error)}))
            kind = _Mistake if exit_code(error) == USAGE else click.ClickException
            raise kind(as_options(str(error))) from None
        except KeyboardInterrupt:
            if ctx.meta.get(_JSON):
                say(json_text({"ok": False, "interrupted": True}))
            tell("Interrupted.")
            raise click.exceptions.Exit(INTERRUPTED) from None


class MailCommand(click.Command):
    """A command whose help tells the fields of a mail from its other options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write two lists of options; click calls it."""
        lists: dict[str, list[tuple[str, str]]] = {"Options": [], "The mail": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                mails = parameter.name in flags.FLAGS or parameter.name == "header"
                lists["The mail" if mails else "Options"].append(record)
        for title, records in lists.items():
            with formatter.section(title):
                formatter.write_dl(records)


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """Have SIGTERM do what Ctrl-C does: stop in order, and say how far it went.

    timeout(1) sends it to the process and then to its group; a second one at once asks for nothing more.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    asked: list[float] = []

    def stop(_number: int, _frame: FrameType | None) -> None:
        now = CLOCK()
        if asked and now - asked[0] < _ONE_REQUEST:
            return
        asked[:] = [now]
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ------------------------------------------------------------------------------------------- streams


def put(text: str) -> bool:
    """Print to standard output at once; return False where nobody reads it any more."""
    try:
        click.echo(text)
    except BrokenPipeError:
        _leave_output()
        return False
    except OSError as error:  # a full disk
        _leave_output()
        tell(f"Error: Standard output cannot be written: {error.strerror or error}.")
        raise click.exceptions.Exit(FAILED) from None
    return True


def _leave_output() -> None:
    """Have what is left in the buffer go nowhere: it would fail again at the end of the process."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def say(text: str) -> None:
    """Print to standard output."""
    put(text)


def tell(text: str) -> None:
    """Print to standard error."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def is_terminal(stream: Any) -> bool:
    """Tell whether a person sees what is written there."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # closed, or something else altogether
        return False


def width() -> int:
    """Return how many characters fit beside each other on standard output; 0 where it is no terminal."""
    if not is_terminal(sys.stdout):
        return 0
    return max(_NARROWEST, shutil.get_terminal_size().columns)


def _wrapped(line: str, columns: int) -> str:
    if not columns or len(line) <= columns:
        return line
    indent = len(line) - len(line.lstrip())
    return textwrap.fill(
        line.strip(), columns, initial_indent=" " * indent, subsequent_indent=" " * (indent + 4),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def printable(text: str) -> str:
    """Return a stranger's text as one line that changes nothing on a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def printable_text(text: str) -> str:
    """Return a stranger's text of several lines without what would change something on a terminal."""
    keep = "".join(
        c if c.isprintable() or c in "\t\n" else "\N{REPLACEMENT CHARACTER}"
        for c in text.replace("\r\n", "\n")
    )
    return "\n".join(line.rstrip() for line in keep.rstrip().split("\n"))


def json_text(value: Any) -> str:
    """Return a value as one line of JSON, in ASCII: so it is the same in every locale."""
    return json.dumps(value)


# ----------------------------------------------------------------------------------------- what is said


def as_options(text: str) -> str:
    """Return a sentence of the library with options of the command line in it instead of Python's arguments."""
    text = _FORGET.sub(lambda m: f"smtp-notebook journal forget {_quoted(m[1])}", _without_notebook(text))
    text = _DOUBTS.sub(lambda m: f"'smtp-notebook journal show {_quoted(m[1])} --state in_doubt' lists", text)
    return _OPTION.sub(_as_option, text)


def _without_notebook(text: str) -> str:
    for theirs, ours in _WORDS:
        text = text.replace(theirs, ours)
    return text


def _as_option(found: re.Match[str]) -> str:
    name = f"--{found[1].strip('_').replace('_', '-')}"
    value = next((text for text in found.groups()[1:] if text is not None), None)
    return name if value is None else f"{name} {value if value == '…' else _quoted(value)}"


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w@%+=:,./-]+", word) else f'"{word}"'


def _worded(outcome: Outcome) -> Outcome:
    """Return it in the words of the command line; what a server said stays as it is."""
    reason = _without_notebook(outcome.reason) if outcome.code else as_options(outcome.reason)
    return outcome.with_(reason=reason, fix=as_options(outcome.fix))


def report_lines(report: Report, *, each: bool = False, columns: int = 0) -> list[str]:
    """Return a Report as a notebook shows it, in lines of text.

    Args:
        report: Any.
        each: Whether every row has a line; otherwise only those that failed, and not too many of these.
        columns: How wide a line may be; 0 for any width.
    """
    head = f"{report.title}: {report.summary}" if report.title else report.summary
    shown = report if each else report.failures
    lines = [head, *(printable(as_options(note)) for note in report.notes)]
    lines += [f"  {printable(_worded(o).line)}" for o in (shown if each else shown[:_SHOWN])]
    if not each and len(shown) > _SHOWN:
        lines.append(f"  … and {len(shown) - _SHOWN:,} more; --json has them all.")
    lines += [f"  note: {printable(as_options(w))}" for w in report.warnings[:_SHOWN]]
    return [_wrapped(line, columns) for line in lines]


def outcome_dict(outcome: Outcome) -> dict[str, Any]:
    """Return an Outcome as values that JSON can hold; the names are stable."""
    o = _worded(outcome)
    return {
        "key": o.key, "row": o.row, "to": list(o.to), "state": o.state.value, "status": o.status, "code": o.code,
        "enhanced": o.enhanced, "reason": o.reason, "fix": o.fix, "message_id": o.message_id,
        "refused": [list(pair) for pair in o.refused], "warnings": [as_options(w) for w in o.warnings],
    }  # fmt: skip


def _error_dict(error: MailError) -> dict[str, str]:
    return {"type": type(error).__name__, "cause": as_options(error.cause), "fix": as_options(error.fix)}


def report_json(report: Report, *, ok: bool | None = None, **more: Any) -> Iterator[str]:
    """Yield a Report as one JSON object, a line for each Outcome, so that no list of many is made.

    Args:
        report: Any.
        ok: Whether all is well; None for whether no row failed.
        **more: Further properties.
    """
    head = {
        "ok": not len(report.failures) if ok is None else ok,
        **more,
        "title": report.title,
        "counts": {state.value: count for state, count in report.counts.items()},
        "notes": [as_options(note) for note in report.notes],
        "warnings": [as_options(warning) for warning in report.warnings],
    }
    yield f'{json_text(head)[:-1]}, "outcomes": ['
    last = len(report) - 1
    for number, outcome in enumerate(report):
        yield f"  {json_text(outcome_dict(outcome))}{'' if number == last else ','}"
    yield "]}"


def finish(
    call: Callable[[], Report],
    *,
    as_json: bool,
    dry_run: bool,
    more: Callable[[], Mapping[str, Any]] = dict,
    checked: Callable[[], int] | None = None,
) -> NoReturn:
    """Do what a command is for, show the Report that comes of it, however it ends, and end the command.

    Args:
        call: Returns the Report, or raises.
        as_json: Whether it is shown as JSON.
        dry_run: What the JSON says of that.
        more: Returns further properties of the JSON.
        checked: Called where nothing was raised, after the Report was shown; returns an exit code that wins where it
            is not 0.
    """
    from smtp_notebook import showing

    shown: list[Report] = []
    token = showing.SHOWN.set(shown.append)
    ended: BaseException | None = None
    try:
        report: Report | None = call()
    except (MailError, KeyboardInterrupt) as error:
        ended, report = error, _report_of(error) or (shown[-1] if shown else None)
    finally:
        showing.SHOWN.reset(token)
    failed = isinstance(ended, MailError)
    if as_json:
        said = {
            "dry_run": dry_run,
            "interrupted": isinstance(ended, KeyboardInterrupt),
            "error": _error_dict(ended) if isinstance(ended, MailError) else None,
            **more(),
        }
        found = report if report is not None else Report()
        for line in report_json(found, ok=None if ended is None else False, **said):
            say(line)
    elif report is not None:
        for line in report_lines(report, columns=width()):
            say(line)
    if isinstance(ended, MailError) and not isinstance(ended, DeliveryError):
        tell(f"Error: {as_options(str(ended))}")
    elif ended is not None and not failed:
        tell("Interrupted." if report is not None else "Interrupted before anything was sent.")
    if ended is not None:
        raise click.exceptions.Exit(exit_code(ended))
    code = checked() if checked is not None else OK
    raise click.exceptions.Exit(code or (FAILED if report is not None and report.failures else OK))


def _report_of(error: BaseException) -> Report | None:
    if isinstance(error, PreflightError):
        return error.report
    if isinstance(error, DeliveryError):
        return Report([error.outcome], title="Mail")
    return None


# -------------------------------------------------------------------------------------------- options


def refuse_password(url: str | None, variable: str = "SMTP_NOTEBOOK_PASSWORD") -> None:
    """Refuse a URL with a password in it.

    Args:
        url: What was typed, a URL or not.
        variable: Where the password belongs.

    Raises:
        SettingsError: It has one; it is not repeated.
    """
    if url is not None and _PASSWORD_IN_URL.search(url):
        del url
        cause = "A password stands in the URL, where the shell's history keeps it and every list of processes shows it."
        raise SettingsError(cause, f"Change it, and set the new one in {variable} or save the connection.")


def server_of(via: str | None, *, sends: bool) -> Connection:
    """Return the server that was named, or the sandbox for a dry run.

    Raises:
        SettingsError: There is no such server; or none was named, and mails are to be sent.
    """
    from smtp_notebook import servers

    refuse_password(via)
    connection = servers.named_connection(via)
    if connection is not None:
        return connection
    if sends:
        fix = "Name one with --via or SMTP_NOTEBOOK_URL; --via sandbox sends to this machine alone."
        raise SettingsError("No server is named, so there is nothing to send by.", fix)
    tell("No server is named: --via or SMTP_NOTEBOOK_URL would. The sandbox stands in.")
    sandbox = servers.named_connection("sandbox")
    assert sandbox is not None
    return sandbox


def json_option(command: Callable[..., T]) -> Callable[..., T]:
    """Add ``--json``, which also makes an error JSON."""

    def note(ctx: click.Context, _parameter: click.Parameter, value: bool) -> bool:  # noqa: FBT001 - click's call
        ctx.meta[_JSON] = value
        return value

    add = click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=note, help="Print the result as JSON."
    )
    return add(command)


def field_options(*fields: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Add the options of `flags` to a command; all of them where none is named."""

    def add(command: Callable[..., T]) -> Callable[..., T]:
        for flag in reversed(flags.flags(*fields)):
            more: dict[str, Any] = (
                {"type": click.Choice(flag.choices)} if flag.choices else {"metavar": flag.what}
            )
            text = f"{flag.help[0].upper()}{flag.help[1:]}."
            command = click.option(*flag.names, flag.field, multiple=flag.many, help=text, **more)(command)
        return command

    return add


def header_option(command: Callable[..., T]) -> Callable[..., T]:
    """Add ``--header``."""
    text = "A further header, such as X-Tag:spring; may be repeated."
    return click.option("--header", "header", multiple=True, metavar="NAME:VALUE", help=text)(command)


def headers(lines: Iterable[str]) -> Mapping[str, str]:
    """Return what ``--header`` was given, by name.

    Raises:
        OptionError: One has no colon.
    """
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise OptionError(f"--header {line!r} has no value.", "Write it as NAME:VALUE.")
        if name.strip() in found:
            raise OptionError(f"--header {name.strip()} is there twice.", "Keep one of them.")
        found[name.strip()] = value.strip()
    return found
