"""The command line: ``smtp-notebook doctor``. A thin adapter: each command is a call of the library.

Exit codes: 0 all well, 1 it was tried and failed, 2 wrong usage. What went wrong is one sentence on stderr; no
command takes a password, because a command line stands in the shell's history and in every list of processes.
"""

from __future__ import annotations

import json
import re
from typing import Any

import click

from smtp_notebook.outcome import AddressError, MailError, OptionError, SettingsError

__all__ = ["main"]

_PASSWORD_IN_URL = re.compile(r"(?:^|://)[^/@:]*:[^/]+@")
_USAGE = 2
_FAILED = 1


class _Mistake(click.ClickException):
    """What was asked for cannot be understood."""

    exit_code = _USAGE


def _told(error: MailError) -> click.ClickException:
    """Return a person's mistake as one line for stderr."""
    usage = isinstance(error, SettingsError | OptionError | AddressError)
    return (_Mistake if usage else click.ClickException)(str(error))


class _Commands(click.Group):
    """Commands whose MailErrors are one line: cause and fix, and no traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MailError as error:
            raise _told(error) from None


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="smtp_notebook")
def main() -> None:
    """Send mail from Jupyter notebooks: what can be done without one."""


_EXAMPLES = """
\b
Examples:
  smtp-notebook doctor
  smtp-notebook doctor smtp://ann%40example.com@mail.example.com
  smtp-notebook doctor work --sender reports@example.com
  smtp-notebook doctor --json > checkup.json
"""


@main.command(epilog=_EXAMPLES)
@click.argument("server", required=False)
@click.option("--sender", default="", metavar="ADDRESS", help="Ask the server whether this address may send.")
@click.option("--timeout", type=float, metavar="SECONDS", help="How long each step may take; 60 by default.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def doctor(
    ctx: click.Context, server: str | None, sender: str, timeout: float | None, *, as_json: bool
) -> None:
    """Check this machine, and a server up to its recipients; no mail is sent.

    SERVER is a URL such as smtp://ann@mail.example.com, the name of a saved connection, or "sandbox". Without it the
    server is the one that SMTP_NOTEBOOK_URL names; without that, the sandbox on this machine. A password comes from
    SMTP_NOTEBOOK_PASSWORD, the system's keyring or a prompt.

    The exit code is 0 when all is well, 1 when a step failed, 2 when the command was not understood.
    """
    from smtp_notebook import api
    from smtp_notebook.machine import machine

    if server is not None and _PASSWORD_IN_URL.search(server):
        cause = "A password stands in the URL, where the shell's history keeps it and every list of processes shows it."
        raise SettingsError(
            cause, "Change it, and set the new one in SMTP_NOTEBOOK_PASSWORD or save the connection."
        )
    connection = api.named_connection(server)
    if connection is None:
        click.echo("No server is named: SERVER or SMTP_NOTEBOOK_URL would. The sandbox is checked.", err=True)
        connection = api.named_connection("sandbox")
    assert connection is not None
    if timeout is not None:
        connection = connection.with_(timeout=timeout)
    here = machine()
    if not as_json:
        click.echo(f"{here.text()}\n")
    there = connection.check(sender)
    if as_json:
        found = {"ok": here.ok and there.ok, "machine": here.to_dict(), "server": there.to_dict()}
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        click.echo(there.text())
    ctx.exit(0 if here.ok and there.ok else _FAILED)
