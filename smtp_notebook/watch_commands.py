"""``smtp-notebook watch``: new rows of a folder, a database or Salesforce mail themselves."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import queue
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from smtp_notebook import flags
from smtp_notebook.outcome import MailError, OptionError, Report
from smtp_notebook.terminal import (
    DRY,
    FAILED,
    OK,
    UNAPPROVED,
    MailCommand,
    as_options,
    field_options,
    finish,
    header_option,
    headers,
    json_option,
    json_text,
    printable,
    put,
    refuse_password,
    report_lines,
    say,
    server_of,
    tell,
    width,
)

if TYPE_CHECKING:
    from smtp_notebook.triggers import Watch, WatchStatus

__all__ = ["watch"]

_SQL_VARIABLE = "SMTP_NOTEBOOK_SQL"
#: How often a waiting command looks whether it was interrupted, in seconds.
_LOOK = 0.5
#: The options that name a source, and those that belong to each.
_SOURCES: Mapping[str, tuple[str, ...]] = {
    "csv_folder": ("quiet", "delimiter", "encoding"),
    "sql": ("query", "cursor"),
    "salesforce": ("where", "field", "org"),
}
_DEFINITIONS = ("org", "ignore")

_WATCH = """
\b
Examples:
  smtp-notebook watch welcome.md --csv-folder exports --campaign hello \\
    --key Id --since all
  smtp-notebook watch welcome.md --csv-folder exports --campaign hello \\
    --key Id --every 5m --send
  smtp-notebook watch welcome.md --sql sqlite:///crm.db --campaign hello \\
    --query "SELECT * FROM leads" --cursor created --key id --once --send
  smtp-notebook watch welcome.md --salesforce Lead --campaign hello --send
  smtp-notebook watch --definition flow.json --campaign hello --once --send
"""


@click.command(
    cls=MailCommand, epilog=_WATCH, short_help="Mail each new row of a folder, database or Salesforce."
)
@click.argument("template", required=False, type=click.Path(path_type=Path))
@click.option("--csv-folder", metavar="DIR", help="Watch a folder that CSV or TSV files are put into.")
@click.option(
    "--quiet",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="A file counts when nothing touched it for so long; 5 by default.",
)
@click.option(
    "--delimiter", metavar="TEXT", help="What separates the columns of these files; found out by default."
)
@click.option("--encoding", metavar="NAME", help="The encoding of these files; found out by default.")
@click.option(
    "--sql",
    metavar="URL",
    help=f"Watch a database; a URL with a password belongs in {_SQL_VARIABLE}, and --sql - takes it from there.",
)
@click.option("--query", metavar="SQL", help="What is read from the database.")
@click.option(
    "--cursor",
    metavar="COLUMN",
    help="The column of the query that grows, such as created_at; without one every row is read each time.",
)
@click.option("--salesforce", metavar="OBJECT", help="Watch the records of an object, such as Lead.")
@click.option("--where", default="", metavar="SOQL", help="Only the records for which this holds.")
@click.option(
    "--field",
    multiple=True,
    metavar="NAME",
    help="A field that is read; those of the template by default. May be repeated.",
)
@click.option("--org", metavar="NAME", help="The saved Salesforce login; that of the environment by default.")
@click.option(
    "--definition",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Source and mail of a workflow connector's definition, instead of TEMPLATE.",
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="PATH",
    help="A part of the definition to leave out, as an error names it; may be repeated.",
)
@click.option(
    "--send",
    "really",
    is_flag=True,
    help="Send. Without it the source is read once, every row is checked, and nothing leaves.",
)
@click.option(
    "--once", is_flag=True, help="Poll once and end: for cron. Otherwise it polls until it is stopped."
)
@click.option(
    "--campaign",
    metavar="NAME",
    default="",
    help="The mailing's name, by which the journal knows who was mailed; the definition's own by default.",
)
@click.option(
    "--key",
    multiple=True,
    metavar="COLUMN",
    help="What identifies a row; the source's own, else its address. May be repeated.",
)
@click.option(
    "--every",
    metavar="TIME",
    help="How long to wait between two polls, such as 30s, 5m or 1h; 5m by default.",
)
@click.option(
    "--since",
    metavar="WHEN",
    help="At the first start: now mails nobody who is there already, all mails everybody; or a moment, such as 2026-11-29T08:00+01:00. now by default.",
)
@click.option(
    "--max-per-poll",
    type=click.IntRange(min=1),
    metavar="N",
    help="More new rows than this wait for --approve; 100 by default.",
)
@click.option("--approve", is_flag=True, help="Let the rows go that are found to wait for it.")
@click.option(
    "--via", metavar="SERVER", help="A URL, a saved name, or sandbox; SMTP_NOTEBOOK_URL by default."
)
@click.option(
    "--test-to", default="", metavar="ADDRESS", help="Send every mail there instead; it counts for nobody."
)
@click.option(
    "--changed",
    type=click.Choice(["stop", "send-rest"]),
    help="What to do when the campaign's template, From or server is another than it was; stop by default.",
)
@click.option(
    "--journal",
    metavar="PLACE",
    help="The journal, a file or postgresql://host/database; SMTP_NOTEBOOK_JOURNAL or the user's own by default.",
)
@json_option
@field_options()
@header_option
def watch(
    template: Path | None, *, really: bool, once: bool, approve: bool, as_json: bool, **options: Any
) -> None:
    """Mail each new row once, filled into TEMPLATE.

    The rows come from a folder (--csv-folder), a database (--sql), Salesforce (--salesforce), or from where a
    connector's definition says (--definition). The journal knows who was mailed: nobody is mailed twice, whatever
    stops the watch, and whatever came meanwhile is mailed after the next start.

    Without --send it is a dry run: the source is read once, and nothing is sent or written. With it, the watch polls
    until Ctrl-C or SIGTERM, and says on standard error what each poll found; with --json as a line of JSON on standard output.
    The passwords come from the environment, the system's keyring or a prompt.

    The exit code is 0 when all is well or the watch was stopped, 1 when a row failed or the watch did, 2 when the
    command was not understood, 3 when --once found rows that wait for --approve, 130 when --once was interrupted.
    """
    made = _made(template, options, sends=really)
    if not really and not as_json:
        say(DRY)
    if once or not really:
        _once(made, dry_run=not really, approve=approve, as_json=as_json)
    _on_and_on(made, approve=approve, as_json=as_json)


def _made(template: Path | None, options: Mapping[str, Any], *, sends: bool) -> Callable[..., Watch]:
    """Return what makes the watch, once somebody says who wants to hear of its polls."""
    definition: Path | None = options["definition"]
    kind = _kind(options, needed=definition is None)
    if (template is None) is (definition is None):
        cause = "No TEMPLATE is named." if template is None else "The definition has the mail's text."
        raise OptionError(cause, "Give TEMPLATE or --definition.")
    for file in filter(None, (template, definition)):
        if not file.is_file():
            raise OptionError(f"There is no file {str(file)!r}.", "Give the path of one.")
    if definition is None and not options["campaign"]:
        raise OptionError(
            "The mailing has no name.", "Add --campaign NAME: the journal knows by it who was mailed."
        )
    more = _options(options) | {
        "via": server_of(options["via"] or _named_by(definition, options["ignore"]), sends=sends)
    }

    def make(**hooks: Any) -> Watch:
        from smtp_notebook import triggers

        source = _source(kind, options) if kind else None
        if template is not None:
            return triggers.watch(source, template, **{"every": "5m"} | more, **hooks)
        assert definition is not None
        theirs = {"source": source, "org": options["org"], "ignore": options["ignore"]}
        return triggers.Watch.from_definition(definition, **theirs, **more, **hooks)

    return make


def _kind(options: Mapping[str, Any], *, needed: bool) -> str:
    """Return the option that names the source, or "" where none has to."""
    named = [name for name in _SOURCES if options[name]]
    if len(named) > 1 or (needed and not named):
        cause = f"{' and '.join(map(_flag, named))} are two sources." if named else "No source is named."
        raise OptionError(cause, f"Give one of {', '.join(map(_flag, (*_SOURCES, 'definition')))}.")
    kind = named[0] if named else ""
    own = {*_SOURCES.get(kind, ()), *(() if needed else _DEFINITIONS)}
    for other, belonging in {**_SOURCES, "definition": _DEFINITIONS}.items():
        for name in belonging:
            if name not in own and options[name] not in {None, "", ()}:
                raise OptionError(f"{_flag(name)} belongs to {_flag(other)}.", "Leave it out.")
    return kind


def _named_by(definition: Path | None, ignore: Sequence[str]) -> str | None:
    """Return the saved connection that a definition names, or None."""
    if definition is None:
        return None
    from smtp_notebook import definitions

    return definitions.read(definition, ignore=ignore).connection or None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `watch` is to be given beside its source and template, as far as somebody said it."""
    fields = flags.given(options)
    if lines := options["header"]:
        fields["headers"] = headers(lines)
    names = ("campaign", "every", "max_per_poll", "test_to", "changed", "journal")
    found = {name: options[name] for name in names if options[name]}
    found |= {"key": list(options["key"])} if options["key"] else {}
    found |= {"since": _since(options["since"])} if options["since"] else {}
    return found | fields


def _since(text: str) -> Literal["now", "all"] | dt.datetime:
    """Return from when on rows count; a moment without a time zone is of this machine's."""
    if text == "now":
        return "now"
    if text == "all":
        return "all"
    try:
        return dt.datetime.fromisoformat(text).astimezone()
    except ValueError:
        cause = f"--since {text!r} is no moment."
        raise OptionError(cause, "Write now, all, or a moment such as 2026-11-29T08:00+01:00.") from None


def _source(kind: str, options: Mapping[str, Any]) -> Any:
    """Return the source that the options name."""
    if kind == "csv_folder":
        from smtp_notebook.sources import csv_folder

        names = ("quiet", "delimiter", "encoding")
        how = {name: options[name] for name in names if options[name] is not None}
        return csv_folder(options["csv_folder"], **how)
    if kind == "sql":
        return _database(options)
    from smtp_notebook.soql import salesforce

    refuse_password(options["org"], "SMTP_NOTEBOOK_SALESFORCE_PASSWORD")
    org = {"org": options["org"]} if options["org"] else {}
    return salesforce(options["salesforce"], list(options["field"]) or None, options["where"], **org)


def _database(options: Mapping[str, Any]) -> Any:
    url, query = options["sql"], options["query"]
    if not query:
        raise OptionError("--sql has no query.", 'Add --query "SELECT …".')
    refuse_password(url, f"{_SQL_VARIABLE} as a URL, with --sql -,")
    from_environment = url == "-"
    if from_environment and not os.environ.get(_SQL_VARIABLE):
        cause = f"--sql - takes the URL from {_SQL_VARIABLE}, which is not set."
        raise OptionError(cause, "Set it, or give the URL.")
    from smtp_notebook.sources import sql

    place = _place(os.environ[_SQL_VARIABLE]) if from_environment else url
    return sql(place, query, cursor=options["cursor"])


def _place(url: str) -> Any:
    """Return a URL that may hold a password as SQLAlchemy's: nobody typed it into a command."""
    try:
        import sqlalchemy
    except ImportError:
        raise OptionError("--sql needs SQLAlchemy.", 'pip install "smtp_notebook[sql]"') from None
    try:
        return sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        # A ValueError repeats what stands where the port should: a piece of a password with an @ in it.
        del url
        cause = f"{_SQL_VARIABLE} is no URL of a database."
        raise OptionError(cause, "Write it as dialect+driver://user:password@host/name.") from None


# ---------------------------------------------------------------------------------------------- once


def _once(make: Callable[..., Watch], *, dry_run: bool, approve: bool, as_json: bool) -> None:
    """Poll once, show the Report, and end."""
    made: list[Watch] = []

    def call() -> Report:
        watch = make()
        made.append(watch)
        with _told(watch):
            report = watch.poll(dry_run=dry_run)
            if approve and not dry_run and watch.status.waiting:
                report = watch.approve() or report
        return report

    def waiting() -> int:
        count = made[0].status.waiting if made else 0
        if count:
            rows = "1 new row waits" if count == 1 else f"{count:,} new rows wait"
            tell(f"{rows} for approval, and nobody of them was mailed: run it again with --approve.")
        return UNAPPROVED if count else OK

    def status() -> dict[str, Any]:
        return {"status": _dict(made[0].status) if made else None}

    finish(call, as_json=as_json, dry_run=dry_run, checked=waiting, more=status)


@contextlib.contextmanager
def _told(watch: Watch) -> Iterator[None]:
    """Make one sentence of what a network, a disk or a database raises: they are no fault of this program."""
    import sqlite3

    alchemy: Any = sys.modules.get("sqlalchemy.exc")
    theirs = (OSError, sqlite3.Error, *([alchemy.SQLAlchemyError] if alchemy is not None else []))
    try:
        yield
    except MailError:
        raise
    except theirs as error:
        status = watch.status
        raise MailError(status.error or f"{type(error).__name__}: {error}", status.fix) from error


# ------------------------------------------------------------------------------------------ on and on


def _on_and_on(make: Callable[..., Watch], *, approve: bool, as_json: bool) -> None:
    """Poll until somebody stops it, or a person is needed; say what each poll found."""
    polls: queue.SimpleQueue[WatchStatus] = queue.SimpleQueue()
    watch = make(on_poll=polls.put)
    watch.start()
    read = True
    with contextlib.suppress(KeyboardInterrupt):
        while read and watch.running:
            with contextlib.suppress(queue.Empty):
                status = polls.get(timeout=_LOOK)
                read = _line(status, as_json=as_json)
                if approve and status.waiting:
                    approve = False
                    watch.approve()
    _end(watch, polls, as_json=as_json)


def _line(status: WatchStatus, *, as_json: bool) -> bool:
    """Say what a poll found; return whether anybody reads it."""
    if as_json:
        return put(json_text({"event": "poll", **_dict(status)}))
    for line in _status_lines(status):
        tell(line)
    return True


def _dict(status: WatchStatus) -> dict[str, Any]:
    """Return it as values that JSON can hold, in the words of the command line."""
    said = {"error": as_options(status.error), "fix": as_options(status.fix)}
    return {**status.to_dict(), **said, "notes": [as_options(note) for note in status.notes]}


def _status_lines(status: WatchStatus) -> list[str]:
    """Return what a poll found in one line, then what a person should hear."""
    time = f"{status.last.astimezone():%Y-%m-%d %H:%M:%S}  " if status.last is not None else ""
    stand = {
        "sent": status.sent, "planned": status.planned, "failed": status.failed, "invalid": status.invalid,
        "in doubt": status.in_doubt, "waiting for approval": status.waiting,
    }  # fmt: skip
    counts = ", ".join(f"{count:,} {words}" for words, count in stand.items() if count)
    found = f"{status.found:,} found, {status.new:,} new"
    lines = [f"{time}{status.name}: {'; '.join(filter(None, [found, counts]))}"]
    more = [f"{status.error} {status.fix}".strip(), *status.notes]
    return [*lines, *(f"  {printable(as_options(line))}" for line in more if line)]


def _end(watch: Watch, polls: queue.SimpleQueue[WatchStatus], *, as_json: bool) -> None:
    """Stop it in order, and say how everything stands."""
    watch.stop()
    with contextlib.suppress(queue.Empty):
        while True:
            _line(polls.get_nowait(), as_json=as_json)
    status = watch.status
    failed = status.phase == "failed"
    if as_json:
        say(json_text({"event": "failed" if failed else "stopped", **_dict(status)}))
    else:
        for line in report_lines(watch.report, columns=width()):
            say(line)
    if failed:
        tell(f"Error: {as_options(f'{status.error} {status.fix}'.strip())}")
    raise click.exceptions.Exit(FAILED if failed else OK)
