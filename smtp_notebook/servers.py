"""Which server a call uses, and what sends by it: secrets, rates and ports are resolved here.

The concrete transport is named here, and in `workers` for the processes of a cluster.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from smtp_notebook import connection as connections
from smtp_notebook import merge as merges
from smtp_notebook import providers
from smtp_notebook.connection import Connection
from smtp_notebook.journal import Journal, Ledger, PassingJournal
from smtp_notebook.merge import Run, Told
from smtp_notebook.outcome import Outcome, SettingsError
from smtp_notebook.preflight import Feed, Single
from smtp_notebook.rate import Limiter, parse_rates
from smtp_notebook.sandbox import Sandbox, default_sandbox
from smtp_notebook.signing import Signer, signer_of
from smtp_notebook.transport import SmtpTransport

__all__ = [
    "NOTHING_LEFT",
    "Server",
    "Via",
    "connection_of",
    "find_server",
    "limiter_of",
    "named_connection",
    "run_of",
]

NOTHING_LEFT = (
    "Nothing left this machine: the sandbox caught it (%inbox shows it, connect(…) names a server)."
)


Via = Connection | Sandbox | str | None


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
        connection = self.connection
        return not (connection.sandbox or connection.practice or connection.redirect_to)

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
    connection = connection_of(via) if via is not None else connections.current()
    return connections.from_environment(os.environ) if connection is None else connection


def connection_of(via: Via, **settings: Any) -> Connection:
    """Return the Connection that is meant by a URL, a name, a Sandbox or a Connection, with some settings changed.

    Raises:
        SettingsError: It is none of these, or there is no such name or setting.
    """
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


def limiter_of(connection: Connection, journal: Journal | None = None) -> Limiter | None:
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


def run_of(
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
