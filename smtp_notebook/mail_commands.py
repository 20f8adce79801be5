"""``smtp-notebook merge`` and ``smtp-notebook send``: dry runs, unless ``--send`` says otherwise."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from smtp_notebook import flags
from smtp_notebook.outcome import MailError, OptionError, Outcome, Report
from smtp_notebook.terminal import (
    DRY,
    FAILED,
    OK,
    MailCommand,
    as_options,
    field_options,
    finish,
    header_option,
    headers,
    is_terminal,
    json_option,
    json_text,
    printable,
    printable_text,
    say,
    server_of,
    tell,
)

if TYPE_CHECKING:
    from smtp_notebook.connection import Connection
    from smtp_notebook.frames import Frame
    from smtp_notebook.message import Message

__all__ = ["merge", "send"]

_STDIN = "-"

_MERGE = """
\b
Examples:
  smtp-notebook merge leads.csv welcome.md
  smtp-notebook merge leads.csv welcome.md --preview 0
  smtp-notebook merge leads.csv welcome.md --test-to me@example.com --send
  smtp-notebook merge leads.xlsx welcome.md --campaign may --key Id --send
  export-leads | smtp-notebook merge - welcome.md --json > report.json
"""


@click.command(cls=MailCommand, epilog=_MERGE)
@click.argument("data", type=click.Path(path_type=str))
@click.argument("template", type=click.Path(path_type=Path))
@click.option(
    "--send", "really", is_flag=True, help="Send. Without it every row is checked and nothing leaves."
)
@click.option(
    "--campaign", default="", metavar="NAME", help="The mailing's name: with it nobody is mailed twice."
)
@click.option(
    "--key",
    multiple=True,
    metavar="COLUMN",
    help="What identifies a row; its address by default. May be repeated.",
)
@click.option(
    "--via", metavar="SERVER", help="A URL, a saved name, or sandbox; SMTP_NOTEBOOK_URL by default."
)
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Send only this many rows.")
@click.option(
    "--test-to", default="", metavar="ADDRESS", help="Send every mail there instead; it counts for nobody."
)
@click.option(
    "--changed",
    type=click.Choice(["stop", "send-rest"]),
    default="stop",
    help="What to do when the campaign's template, From or server is another than it was; stop by default.",
)
@click.option("--skip-problems", is_flag=True, help="Send the good rows although others have problems.")
@click.option(
    "--journal",
    metavar="PLACE",
    help="The journal, a file or postgresql://host/database; SMTP_NOTEBOOK_JOURNAL or the user's own by default.",
)
@click.option(
    "--preview", type=int, metavar="ROW", help="Print this row's mail, counted from 0, and send nothing."
)
@click.option(
    "--eml",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Save the mail of --preview.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Save each row's mail as .eml, and send nothing.",
)
@click.option("--sheet", metavar="NAME", help="The sheet of an Excel file; the first by default.")
@click.option(
    "--delimiter", metavar="TEXT", help="What separates the columns of a text file; found out by default."
)
@click.option("--encoding", metavar="NAME", help="The encoding of a text file; found out by default.")
@json_option
@field_options()
@header_option
def merge(data: str, template: Path, *, really: bool, preview: int | None, as_json: bool, **options: Any) -> None:  # fmt: skip
    """Send one mail per row of DATA, filled into TEMPLATE.

    DATA is a CSV, TSV, Excel or Parquet file, or - for CSV on standard input. TEMPLATE is a .md, .html or .txt file,
    with the mail's fields between --- lines at its top. Options win over these; Jinja2 works in both.
    Files to attach are looked for in the template's folder.

    Without --send it is a dry run: every row is checked, and nothing is sent. The server's password comes from
    SMTP_NOTEBOOK_PASSWORD, the system's keyring or a prompt.

    The exit code is 0 when all is well, 1 when a row failed or the merge did, 2 when the command was not understood, 130
    when it was interrupted; running it again goes on with the rest.
    """
    for file in (Path(data), template):
        if str(file) != _STDIN and not file.is_file():
            raise OptionError(f"There is no file {str(file)!r}.", "Give DATA, then TEMPLATE.")
    one_look = _one_look(really=really, preview=preview, **options)
    fields = flags.given(options)
    if lines := options["header"]:
        fields["headers"] = headers(lines)
    connection = server_of(options["via"], sends=really)
    if one_look:
        job = _Looks(_table(data, options), template, connection, fields, as_json=as_json)
        job.run(preview, options["eml"], options["out"], options["limit"])
    if not really and not as_json:
        say(DRY)

    def call() -> Report:
        from smtp_notebook import api

        return api.mail_merge(
            _table(data, options), template,
            via=connection, dry_run=not really, campaign=options["campaign"], key=options["key"] or None,
            limit=options["limit"], test_to=options["test_to"], changed=options["changed"], journal=options["journal"],
            on_problem="skip" if options["skip_problems"] else "stop", progress=is_terminal(sys.stderr), **fields,
        )  # fmt: skip

    finish(call, as_json=as_json, dry_run=not really)


def _one_look(*, really: bool, preview: int | None, eml: Path | None, out: Path | None, **_: Any) -> bool:
    """Tell whether mails are to be looked at instead of sent; refuse what contradicts itself."""
    if eml is not None and preview is None:
        raise OptionError("--eml saves the mail of --preview, and no row is named.", "Add --preview 0.")
    looked = preview is not None or out is not None
    if looked and really:
        raise OptionError("--preview and --out send nothing, and --send does.", "Give one of them.")
    return looked


def _table(data: str, options: Mapping[str, Any]) -> Any:
    from smtp_notebook.tabular import read_table

    how = {name: options[name] for name in ("sheet", "delimiter", "encoding") if options[name] is not None}
    if data == _STDIN:
        return read_table(_piped(), name="standard input.csv", note=tell, **how)
    return read_table(data, note=tell, **how)


def _piped() -> Any:
    """Return standard input, as octets."""
    if sys.stdin is None:
        raise OptionError("Standard input is closed.", "Pipe the data in, or name a file.")
    return sys.stdin.buffer


class _Looks:
    """Mails that are looked at or saved, and not sent."""

    def __init__(self, df: Any, template: Path, connection: Connection, fields: dict[str, Any], *, as_json: bool) -> None:  # fmt: skip
        from smtp_notebook import orders
        from smtp_notebook.frames import Frame

        self.frame: Frame = Frame(df)
        self.template = orders.complete_template(template, fields, self.frame, connection)
        self.connection = connection
        self.as_json = as_json

    def message(self, row: int) -> Message:
        from smtp_notebook import api

        return api.row_message(self.frame, self.template, row, self.connection)

    def run(self, row: int | None, eml: Path | None, out: Path | None, limit: int | None) -> NoReturn:
        """Show one row's mail, save it, save them all: whatever was asked for."""
        if row is not None:
            message = self.message(row)
            if eml is not None:
                _write(message.as_bytes(), eml)
            say(json_text(_message_dict(row, message)) if self.as_json else _text(message))
        failed = self._save(out, limit) if out is not None else False
        raise click.exceptions.Exit(FAILED if failed else OK)

    def _save(self, out: Path, limit: int | None) -> bool:
        """Save each row's mail; return whether one cannot be made, which keeps no other back."""
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(
                f"--out {str(out)!r}: {error.strerror or error}.", "Name another folder."
            ) from None
        count = len(self.frame) if limit is None else min(limit, len(self.frame))
        places = max(3, len(str(count - 1)))
        failed = 0
        for row in range(count):
            try:
                content = self.message(row).as_bytes()
            except MailError as error:
                failed += 1
                tell(f"Error: {as_options(str(error))}")
            else:
                _write(content, out / f"{row:0{places}}.eml")
        rows = f"{count - failed:,} of {count:,} mails"
        tell(f"Saved {rows} in {out}, named by their rows. Nothing was sent.")
        return bool(failed)


def _write(content: bytes, path: Path) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OptionError(f"{str(path)!r} cannot be written: {error.strerror or error}.") from None


def _text(message: Message) -> str:
    from smtp_notebook.message import header_block

    head = [f"{name}: {printable(value)}" for name, value in header_block(message)]
    notes = [f"Look at: {printable(as_options(warning))}" for warning in message.warnings]
    return "\n".join([*head, "", printable_text(message.text or ""), *([""] if notes else []), *notes])


def _message_dict(row: int, message: Message) -> dict[str, Any]:
    from smtp_notebook.message import header_block

    return {
        "ok": True, "row": row, "headers": [[name, value] for name, value in header_block(message)],
        "text": message.text, "html": message.html, "warnings": list(message.warnings),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- send

_SEND = """
\b
Examples:
  smtp-notebook send -t ann@example.com -s Lunch "At **12:30**?"
  smtp-notebook send -t ann@example.com -s Lunch "At **12:30**?" --send
  df -h | smtp-notebook send -t ops@example.com -s Disks -f text - --send
  smtp-notebook send -t ann@example.com -s Report --body report.html \\
    --attach report.pdf --once --send
"""


@click.command(cls=MailCommand, epilog=_SEND)
@click.argument("text", required=False)
@click.option(
    "--send", "really", is_flag=True, help="Send. Without it the mail is checked and nothing leaves."
)
@click.option(
    "--body",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file with the text (.md, .html or .txt) instead of TEXT.",
)
@click.option("--once", is_flag=True, help="Skip a mail that went before.")
@click.option(
    "--via", metavar="SERVER", help="A URL, a saved name, or sandbox; SMTP_NOTEBOOK_URL by default."
)
@json_option
@field_options()
@header_option
def send(text: str | None, *, really: bool, file: Path | None, once: bool, via: str | None, as_json: bool, **options: Any) -> None:  # fmt: skip
    """Send one mail.

    TEXT is what it says, in Markdown unless --format says otherwise; - reads it from standard input. Here no Jinja2
    works: text is taken as it is. Files to attach are looked for in the working folder.

    Without --send it is a dry run: the mail is checked, and nothing is sent. The server's password comes from
    SMTP_NOTEBOOK_PASSWORD, the system's keyring or a prompt.

    The exit code is 0 when all is well, 1 when the mail was not accepted for every recipient, 2 when the command was
    not understood, 130 when it was interrupted.
    """
    fields = flags.given(options)
    if lines := options["header"]:
        fields["headers"] = headers(lines)
    fields |= _body(text, file, fields)
    connection = server_of(via, sends=really)
    if not really and not as_json:
        say(DRY)

    def call() -> Report:
        from smtp_notebook import api

        outcome: Outcome = api.send(via=connection, once=once, dry_run=not really, **fields)
        where = "the sandbox" if connection.sandbox else connection.host
        title = f"Mail to {where}" if really else "Dry run"
        noted = [outcome.reason] if outcome.reason and really else []
        return Report([outcome], title=title, notes=noted)

    finish(call, as_json=as_json, dry_run=not really)


def _body(text: str | None, file: Path | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the text, and its format where the file's name tells it and nobody said otherwise."""
    if (text is None) == (file is None):
        raise OptionError(
            "The mail's text is TEXT, - for standard input, or --body FILE.", "Give one of them."
        )
    if text is not None and text != _STDIN:
        return {"body": text}
    try:
        if file is None:
            return {"body": _piped().read().decode("utf-8-sig")}
        read = {"body": file.read_text(encoding="utf-8-sig")}
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        where = "Standard input" if file is None else f"--body {str(file)!r}"
        raise OptionError(f"{where}: {why}.", "Give text in UTF-8.") from None
    from smtp_notebook.template import SUFFIXES

    kind = SUFFIXES.get(file.suffix.lower())
    return read if "format" in fields or kind is None else {**read, "format": kind}
