"""The command line: ``smtp-notebook``. A thin adapter: each command is a call of the library.

Exit codes: 0 all well, 1 it was tried and failed, 2 wrong usage, 3 rows of a watch wait for approval, 130 interrupted.
What went wrong is one sentence on stderr; no command takes a password, because a command line stands in the shell's
history and in every list of processes.
"""

from __future__ import annotations

import json

import click

from smtp_notebook import journal_commands, mail_commands, practice_commands, terminal, watch_commands

__all__ = ["main"]


@click.group(
    cls=terminal.Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="smtp_notebook")
def main() -> None:
    """Send mail, one for each row of a table, and nobody gets it twice.

    merge, send and watch are dry runs until --send is added. Each command has examples: smtp-notebook merge --help.
    """


_EXAMPLES = """
\b
Examples:
  smtp-notebook doctor
  smtp-notebook doctor smtp://ann%40example.com@mail.example.com
  smtp-notebook doctor work --sender reports@example.com
  smtp-notebook doctor --json > checkup.json
"""


@click.command(epilog=_EXAMPLES, short_help="Check this machine and a server; no mail is sent.")
@click.argument("server", required=False)
@click.option("--sender", default="", metavar="ADDRESS", help="Ask the server whether this address may send.")
@click.option("--timeout", type=float, metavar="SECONDS", help="How long each step may take; 60 by default.")
@terminal.json_option
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
    from smtp_notebook import servers
    from smtp_notebook.machine import machine

    terminal.refuse_password(server)
    connection = servers.named_connection(server)
    if connection is None:
        terminal.tell("No server is named: SERVER or SMTP_NOTEBOOK_URL would. The sandbox is checked.")
        connection = servers.named_connection("sandbox")
    assert connection is not None
    if timeout is not None:
        connection = connection.with_(timeout=timeout)
    here = machine()
    if not as_json:
        terminal.say(f"{here.text()}\n")
    there = connection.check(sender)
    if as_json:
        found = {"ok": here.ok and there.ok, "machine": here.to_dict(), "server": there.to_dict()}
        terminal.say(json.dumps(found, indent=2))
    else:
        terminal.say(there.text())
    ctx.exit(terminal.OK if here.ok and there.ok else terminal.FAILED)


_COMMANDS = (
    mail_commands.merge,
    mail_commands.send,
    watch_commands.watch,
    journal_commands.journal,
    practice_commands.sandbox,
    doctor,
    practice_commands.demo,
)
for _command in _COMMANDS:
    main.add_command(_command)
