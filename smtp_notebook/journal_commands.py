"""``smtp-notebook journal``: what was sent, and what a person decides about it. Looking makes no journal."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from smtp_notebook.outcome import JournalError, OptionError, Report, State
from smtp_notebook.terminal import (
    is_terminal,
    json_option,
    json_text,
    report_json,
    report_lines,
    say,
    tell,
    width,
)

if TYPE_CHECKING:
    from smtp_notebook.journal import Campaign, Journal
    from smtp_notebook.places import DatabaseURL

__all__ = ["journal"]

T = TypeVar("T")
_SINGLE_MAILS = "send()"


def _file(command: Callable[..., T]) -> Callable[..., T]:
    text = "The journal, a file or postgresql://host/database; SMTP_NOTEBOOK_JOURNAL or the user's own by default."
    return click.option("--journal", "path", metavar="PLACE", help=text)(command)


@contextlib.contextmanager
def _read(path: str | None) -> Iterator[Journal]:
    """Open the journal to read it.

    Raises:
        JournalError: There is none, or it cannot be read.
    """
    from smtp_notebook.journal import Journal

    found = Journal.to_read(path)
    if found is None:
        raise _missing(path)
    with contextlib.closing(found):
        yield found


@contextlib.contextmanager
def _written(path: str | None) -> Iterator[Journal]:
    """Open the journal to change it; one that is not there is not made."""
    from smtp_notebook.journal import Journal

    with _read(path):
        pass
    with contextlib.closing(Journal(path)) as found:
        yield found


def _missing(path: str | None) -> JournalError:
    return JournalError(f"There is no journal at {str(_place(path))!r} yet.", "The first mailing makes it.")


def _place(path: str | None) -> Path | DatabaseURL:
    from smtp_notebook.places import given

    return given(path)


_LIST = """
\b
Examples:
  smtp-notebook journal
  smtp-notebook journal show welcome-2026-11 --state in_doubt
  smtp-notebook journal resolve welcome-2026-11 ann@example.com --delivered
  smtp-notebook journal export journal.csv
"""


@click.group(
    invoke_without_command=True, epilog=_LIST, short_help="Show what was sent; settle what is in doubt."
)
@_file
@json_option
@click.pass_context
def journal(ctx: click.Context, path: str | None, *, as_json: bool) -> None:
    """Show what was sent: without a command, every mailing of the journal, the newest first.

    The exit code is 0 when all is well, 1 when the journal cannot be used or has no such mailing, 2 when the command
    was not understood.
    """
    ctx.obj = path
    if ctx.invoked_subcommand is None:
        _list(path, as_json=as_json)


def _list(path: str | None, *, as_json: bool) -> None:
    from smtp_notebook.journal import Journal

    found = Journal.to_read(path)
    campaigns: list[Campaign] = []
    if found is not None:
        with contextlib.closing(found):
            campaigns = found.campaigns()
    place = str(_place(path))
    if as_json:
        say(json_text({"ok": True, "journal": place, "campaigns": [_campaign(c) for c in campaigns]}))
        return
    if found is None:
        tell(f"There is no journal at {place} yet: the first mailing makes it.")
    for line in _lines(campaigns, width()):
        say(line)


def _campaign(campaign: Campaign) -> dict[str, Any]:
    return {
        "name": campaign.name, "scope": campaign.scope, "sender": campaign.sender, "version": campaign.version,
        "created": campaign.created, "counts": campaign.counts,
    }  # fmt: skip


def _lines(campaigns: list[Campaign], columns: int) -> Iterator[str]:
    """Yield a line for each mailing, or two where the terminal is narrow."""
    names = max((len(c.name) for c in campaigns), default=0)
    for c in campaigns:
        begun = c.created[:10]
        where = c.scope.partition(":")[2] or "single mails"
        line = f"{begun}  {c.name:<{names}}  {c.summary}  ({where})"
        if columns and len(line) > columns:
            yield f"{begun}  {c.name}  ({where})"
            yield f"    {c.summary}"
        else:
            yield line


@journal.command(short_help="Show how the rows of a mailing stand.")
@click.argument("campaign")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([s.value for s in State]),
    metavar="STATE",
    help="Show each row in this state, such as in_doubt; may be repeated.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print the rows as CSV.")
@_file
@json_option
@click.pass_obj
def show(above: str | None, campaign: str, *, states: tuple[str, ...], as_csv: bool, path: str | None, as_json: bool) -> None:  # fmt: skip
    """Show how the rows of CAMPAIGN stand: the counts and what failed, or each row in a --state."""
    if as_csv and as_json:
        raise OptionError("--csv and --json are two forms of the same.", "Give one of them.")
    with _read(path or above) as found:
        report: Report = found.report(campaign)
        chosen = report.where(*map(State, states)) if states else report
        if as_csv:
            say(_csv(chosen.to_frame()))
        elif as_json:
            for line in report_json(chosen, campaign=campaign):
                say(line)
        else:
            for line in report_lines(chosen, each=bool(states), columns=width()):
                say(line)


def _csv(frame: Any) -> str:
    text = io.StringIO()
    frame.to_csv(text, index=False, lineterminator="\n")
    return text.getvalue().rstrip("\n")


@journal.command(short_help="Say what became of a row in doubt.")
@click.argument("campaign")
@click.argument("key")
@click.option(
    "--delivered/--not-delivered",
    default=None,
    help="Whether it arrived: with --not-delivered the next run sends it.",
)
@_file
@click.pass_obj
def resolve(above: str | None, campaign: str, key: str, *, delivered: bool | None, path: str | None) -> None:
    """Say what became of a row in doubt: KEY, as `journal show CAMPAIGN --state in_doubt` shows it.

    Ask the recipient, or look into the server's log for the Message-ID.
    """
    if delivered is None:
        raise OptionError("What became of it is not said.", "Add --delivered or --not-delivered.")
    with _written(path or above) as found:
        found.resolve(campaign, key, delivered=delivered)
    said = "counts as sent" if delivered else "is due again: the next run sends it"
    say(f"{key} of {campaign} {said}.")


@journal.command(short_help="Forget a mailing, so that it may go again.")
@click.argument("campaign")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_file
@click.pass_obj
def forget(above: str | None, campaign: str, *, yes: bool, path: str | None) -> None:
    """Forget CAMPAIGN: whoever had it may get it again."""
    with _read(path or above) as found:
        report = found.report(campaign)
        what = f"{campaign}: {report.summary}. Whoever had it may get it again"
    if not yes:
        if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
            raise OptionError(f"{what}; nobody is here to be asked.", "Add --yes to forget it.")
        click.confirm(f"{what}. Forget it?", abort=True, err=True)
    with _written(path or above) as found:
        found.forget(campaign)
    say(f"Forgot {campaign}.")


@journal.command(short_help="Write every record to a CSV file.")
@click.argument("file")
@_file
@click.pass_obj
def export(above: str | None, file: str, *, path: str | None) -> None:
    """Write every good record of the journal to FILE as CSV; - is standard output."""
    with _read(path or above) as found:
        frame = found.export()
    if file == "-":
        say(_csv(frame))
        return
    try:
        frame.to_csv(file, index=False)
    except OSError as error:
        raise OptionError(f"{file!r} cannot be written: {error.strerror or error}.") from None
    tell(f"Wrote {len(frame):,} records to {file}.")
