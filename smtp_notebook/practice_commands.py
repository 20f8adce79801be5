"""``smtp-notebook sandbox`` and ``smtp-notebook demo``: real SMTP that never leaves this machine."""

from __future__ import annotations

import contextlib
import csv
import queue
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smtp_notebook.outcome import OptionError
from smtp_notebook.terminal import (
    FAILED,
    OK,
    json_option,
    json_text,
    printable,
    printable_text,
    put,
    report_json,
    report_lines,
    say,
    tell,
    width,
)

if TYPE_CHECKING:
    from smtp_notebook.received import Received
    from smtp_notebook.sandbox import Sandbox

__all__ = ["demo", "sandbox"]

#: How often a waiting command looks whether it was interrupted, in seconds.
_LOOK = 0.5

_SANDBOX = """
\b
Examples:
  smtp-notebook sandbox
  smtp-notebook sandbox --port 2525 --save mails
  smtp-notebook sandbox --json | jq -r .subject
\b
In another terminal:
  smtp-notebook send -t ann@example.com --from me@example.com -s Hello hi \\
    --via smtp+plain://127.0.0.1:2525 --send
"""


@click.command(epilog=_SANDBOX, short_help="Run an SMTP server that catches every mail.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="The port; by default the system chooses one.",
)
@click.option(
    "--save",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Save each mail there as .eml.",
)
@json_option
def sandbox(*, port: int, folder: Path | None, as_json: bool) -> None:
    """Run an SMTP server that catches every mail, until Ctrl-C.

    It listens on this machine alone and delivers nothing. Its URL is printed first, then a line for each mail; with
    --json each line is a JSON object. Any login is accepted.

    The exit code is 0 when it was stopped, 2 when the port cannot be used.
    """
    from smtp_notebook.sandbox import Sandbox

    if folder is not None:
        _make(folder)
    with Sandbox(port=port) as box, contextlib.suppress(KeyboardInterrupt):
        arrived: queue.SimpleQueue[None] = queue.SimpleQueue()
        box.watch(lambda: arrived.put(None))
        url = box.connection.url
        say(json_text({"event": "started", "url": url}) if as_json else url)
        if not as_json:
            tell("Every mail that is sent there stays on this machine. Ctrl-C ends it.")
        _print_arrivals(box, arrived, folder, as_json=as_json)


def _print_arrivals(
    box: Sandbox, arrived: queue.SimpleQueue[None], folder: Path | None, *, as_json: bool
) -> None:
    """Print a line for each mail, until nobody reads them."""
    last = 0
    while True:
        with contextlib.suppress(queue.Empty):
            arrived.get(timeout=_LOOK)
        new = [mail for mail in box.messages if mail.number > last]
        for mail in new:
            file = folder / f"{mail.number:05}.eml" if folder is not None else None
            if file is not None:
                _write(file, mail.raw)
            if not put(_arrival(mail, file, as_json=as_json)):
                return
            last = mail.number


def _arrival(mail: Received, file: Path | None, *, as_json: bool) -> str:
    if as_json:
        return json_text({
            "event": "mail", "number": mail.number, "received": mail.received.isoformat(timespec="milliseconds"),
            "sender": mail.sender, "recipients": list(mail.recipients), "subject": mail.subject,
            "bytes": len(mail.raw), "file": None if file is None else str(file),
        })  # fmt: skip
    time = mail.received.astimezone().strftime("%H:%M:%S")
    where = f"  ({file})" if file is not None else ""
    return (
        f"{time}  {printable(', '.join(mail.recipients))}  {printable(mail.subject) or '(no subject)'}{where}"
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{str(folder)!r}: {error.strerror or error}.", "Name another folder.") from None


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise OptionError(f"{str(file)!r} cannot be written: {error.strerror or error}.") from None


# ---------------------------------------------------------------------------------------------- demo

_DEMO = """
\b
Examples:
  smtp-notebook demo
  smtp-notebook demo --out demo
  cd demo && smtp-notebook merge leads.csv welcome.md
"""


@click.command(epilog=_DEMO, short_help="Mail six invented leads to the sandbox.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Save leads, template and mails there.",
)
@json_option
@click.pass_context
def demo(ctx: click.Context, *, out: Path | None, as_json: bool) -> None:
    """Mail six invented leads to the sandbox, and show what came of it.

    Real SMTP on this machine; nothing leaves it, and no journal is touched. One of the leads has no e-mail address, so that the
    report has something to say.

    The exit code is 0 when the five others were mailed.
    """
    from smtp_notebook import api
    from smtp_notebook.sandbox import Sandbox

    leads = list(csv.DictReader(_sample("leads.csv").splitlines()))
    with Sandbox() as box:
        report = api.mail_merge(leads, _sample("welcome.md"), via=box, on_problem="skip", progress=False)
        mails = box.messages
    files = _kept(out, mails) if out is not None else []
    ok = len(mails) == len(report.sent) == len(leads) - 1
    if as_json:
        said = {"dry_run": False, "interrupted": False, "error": None, "files": list(map(str, files))}
        for line in report_json(report, ok=ok, **said):
            say(line)
    else:
        for line in (*report_lines(report, columns=width()), *_looked(mails[0], out)):
            say(line)
    ctx.exit(OK if ok else FAILED)


def _sample(name: str) -> str:
    return (resources.files("smtp_notebook") / "samples" / name).read_text(encoding="utf-8")


def _kept(out: Path, mails: Sequence[Received]) -> list[Path]:
    """Write what the demo used and what came of it; return the files."""
    from smtp_notebook.views import still

    _make(out)
    files = {out / name: _sample(name).encode("utf-8") for name in ("leads.csv", "welcome.md")}
    for mail in mails:
        files[out / f"mail-{mail.number}.eml"] = mail.raw
        files[out / f"mail-{mail.number}.html"] = still(mail.view().page).encode("utf-8")
    for file, content in files.items():
        _write(file, content)
    return list(files)


def _looked(mail: Received, out: Path | None) -> list[str]:
    """Return the first mail as text, and where to look next."""
    view = mail.view()
    head = [f"  {name}: {printable(mail.header(name))}" for name in ("From", "To", "Subject")]
    body = [f"  {line}".rstrip() for line in printable_text(view.text).splitlines()]
    if out is None:
        more = ["smtp-notebook demo --out DIR saves leads, template and mails."]
    else:
        more = [
            f"Saved in {out}: open mail-{mail.number}.html in a browser, mail-{mail.number}.eml in a mail program.",
            f"Now change {out / 'welcome.md'}, and look at what it makes:",
            f"  smtp-notebook merge {out / 'leads.csv'} {out / 'welcome.md'} --preview 0",
        ]
    return ["", "The first mail:", "", *head, "", *body, "", *more]
