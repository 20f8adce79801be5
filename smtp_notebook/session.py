"""One SMTP connection: made, secured, logged in, and then ours.

aiosmtplib connects, secures and logs in. Then a protocol of ours takes over its public transport
(``transport.set_protocol``): it writes several commands at once, pairs replies with them in order, and knows
at every moment whether a final dot may have left.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import itertools
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smtp_notebook.outcome import MailError, State
from smtp_notebook.replies import Reply, ReplyError, ReplyReader, Stage, Verdict, classify, one_line

if TYPE_CHECKING:
    import aiosmtplib

    from smtp_notebook.connection import Connection

__all__ = ["DialError", "Dialler", "Dialogue", "Link", "LostError"]

_QUIT_SECONDS = 2.0
_DISCONNECTING = 421
_MECHANISMS = ("plain", "login", "cram-md5")
_ANOTHER_MECHANISM = frozenset({504, 534})


class LostError(ConnectionError):
    """The connection ended, or the server stopped answering."""


class DialError(Exception):
    """No connection can be had; carries why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


# ------------------------------------------------------------------------------------------ protocol


class Dialogue(asyncio.Protocol):
    """Our end of a connection that aiosmtplib has made.

    Replies are read in the order of the commands. One that answers nothing, or is no reply, ends the
    connection: what follows could be taken for the answer to something else.
    """

    def __init__(self, inner: Any, transport: Any) -> None:
        self._inner = inner
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._reader = ReplyReader()
        self._inbox: collections.deque[Reply] = collections.deque()
        self._unanswered = 0
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._seconds = 0.0
        self._writable = asyncio.Event()
        self._writable.set()
        self.confused = False
        self.lost = ""

    def take_over(self) -> None:
        """Become the protocol of the connection."""
        self._transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        """Take octets of the server in."""
        garbage = ""
        try:
            replies: Sequence[Reply] = self._reader.feed(data)
        except ReplyError as error:
            replies, garbage = error.before, str(error)
        expected = replies[: self._unanswered]
        self._inbox.extend(expected)
        self._unanswered -= len(expected)
        if len(expected) < len(replies):
            extra = replies[len(expected)]
            closing = extra.code == _DISCONNECTING
            self.confused = not closing
            self._fail(
                f"the server closed: {extra.line}" if closing else "the server answered without being asked"
            )
        elif garbage:
            self._fail(f"the server answered with no SMTP reply: {garbage}")
        elif self._waiter is not None and len(self._inbox) >= self._wanted:
            self._wake()

    def eof_received(self) -> bool:
        """Close our side too."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end, and let aiosmtplib know of it."""
        self._fail("the server closed the connection" if exc is None else f"the connection broke: {exc}")
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Stop: the kernel's buffers are full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._writable.set()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, why: str) -> None:
        self.lost = self.lost or one_line(why)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._writable.set()
        self._wake()
        self._transport.abort()

    def _expire_in(self, seconds: float) -> None:
        """Set when the server must have answered; one timer serves many mails."""
        self._seconds = seconds
        self._deadline = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._expired)

    def _expired(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._expired)
            return
        self._fail(f"the server did not answer within {self._seconds:g} s")

    def say(self, octets: bytes, replies: int) -> None:
        """Write commands that *replies* replies will answer.

        Raises:
            LostError: The connection has ended.
        """
        self._check()
        self._unanswered += replies
        self._transport.write(octets)

    async def hear(self, count: int, seconds: float) -> list[Reply]:
        """Return the next *count* replies; fewer when the connection ended or *seconds* passed before."""
        await self.arrive(count, seconds)
        return [self._inbox.popleft() for _ in range(min(count, len(self._inbox)))]

    async def arrive(self, count: int, seconds: float) -> None:
        """Wait until *count* replies have come, or the connection ended; it ends when *seconds* pass before."""
        if len(self._inbox) < count and not self.lost:
            self._wanted = count
            self._waiter = self._loop.create_future()
            self._expire_in(seconds)
            try:
                await self._waiter
            finally:
                self._waiter = None

    def peek(self, count: int) -> list[Reply] | None:
        """Return the next *count* replies if they have come already and the connection stands, else None."""
        return (
            list(itertools.islice(self._inbox, count))
            if len(self._inbox) >= count and not self.lost
            else None
        )

    def take(self, count: int) -> None:
        """Take so many replies away."""
        for _ in range(count):
            self._inbox.popleft()

    async def ask(self, octets: bytes, seconds: float) -> Reply:
        """Write one command and return its reply.

        Raises:
            LostError: None came within *seconds*, or the connection ended.
        """
        self.say(octets, 1)
        found = await self.hear(1, seconds)
        if not found:
            raise LostError(self.lost)
        return found[0]

    async def write(self, octets: bytes, seconds: float) -> None:
        """Write *octets* and wait until they have left our buffer for the most part.

        Raises:
            LostError: The server took nothing for *seconds*, or the connection ended.
        """
        self._check()
        self._transport.write(octets)
        try:
            await asyncio.wait_for(self._writable.wait(), seconds)
        except TimeoutError:
            self._fail(f"the server took no data for {seconds:g} s")
        self._check()

    def _check(self) -> None:
        if self.lost:
            raise LostError(self.lost)

    def abort(self) -> None:
        """Close at once; what is not written yet stays unwritten."""
        self._fail("we closed the connection")


@dataclass(slots=True, eq=False)
class Link:
    """One connection that is secured and logged in, between two mails.

    Attributes:
        extensions: What the server offers, by its EHLO keyword in lower case.
        used: How many mails it has carried to a reply.
        dirty: Whether the last transaction did not end in a reply to its dot.
    """

    dialogue: Dialogue
    extensions: dict[str, str]
    used: int = 0
    dirty: bool = False

    @property
    def alive(self) -> bool:
        """Whether the connection still stands, as far as is known."""
        return not self.dialogue.lost

    def abort(self) -> None:
        """End it at once."""
        self.dialogue.abort()

    async def close(self) -> None:
        """Say QUIT where somebody listens, and close; takes 2 s at most."""
        if self.alive:
            with contextlib.suppress(LostError):
                await self.dialogue.ask(b"QUIT\r\n", _QUIT_SECONDS)
        self.dialogue.abort()


# ---------------------------------------------------------------------------------------- connecting


class Dialler:
    """Makes connections to one server.

    Args:
        connection: The server.
        password: The secret, when the connection has a user.
    """

    def __init__(self, connection: Connection, password: str | None) -> None:
        self._connection = connection
        self._password = password

    async def dial(self) -> Link:
        """Connect, secure and log in.

        Raises:
            DialError: It could not be done; the verdict says whether another try has a chance.
        """
        import aiosmtplib

        at = self._connection
        client: Any = None
        stage = Stage.CONNECT
        try:
            client = aiosmtplib.SMTP(
                hostname=at.host,
                port=at.port,
                timeout=at.timeout,
                start_tls=False,
                use_tls=at.security == "tls",
                tls_context=None if at.security == "plain" else at.tls_context(),
                local_hostname=at.local_hostname or "[127.0.0.1]",
            )
            await client.connect()
            name = at.local_hostname or _literal(client)
            await _hello(client, name)
            if at.security == "starttls":
                stage = Stage.TLS
                await self._secure(client)
                await _hello(client, name)
            if at.user:
                stage = Stage.LOGIN
                await self._login(client)
        except asyncio.CancelledError:
            _close(client)
            raise
        except DialError:
            _close(client)
            raise
        except (aiosmtplib.SMTPException, OSError, MailError, ValueError) as error:
            _close(client)
            raise DialError(self._failed(stage, error)) from None
        dialogue = Dialogue(client.protocol, client.transport)
        dialogue.take_over()
        return Link(dialogue, dict(client.esmtp_extensions))

    async def _secure(self, client: aiosmtplib.SMTP) -> None:
        if not client.supports_extension("starttls"):
            cause = f"{self._connection.host} does not offer STARTTLS, so nothing was sent."
            raise DialError(
                _tls_verdict(
                    cause,
                    "Try smtps:// (port 465). Someone between you and the server may have removed the offer.",
                )
            )
        await client.starttls()

    async def _login(self, client: aiosmtplib.SMTP) -> None:
        """Log in once, with one mechanism; another only when the server says that this one will not do."""
        import aiosmtplib

        offered = [m for m in _MECHANISMS if m in client.server_auth_methods]
        if not offered:
            cause = f"{self._connection.host} offers no login that is known here, but the connection names a user."
            names = ", ".join(client.server_auth_methods) or "none"
            verdict = Verdict(
                state=State.REFUSED,
                status=401,
                reason=cause,
                fix=f"It offers: {names}. Leave the user out for a server without login.",
                stops_run=True,
                stage=Stage.LOGIN,
            )
            raise DialError(verdict)
        methods = {"plain": client.auth_plain, "login": client.auth_login, "cram-md5": client.auth_crammd5}
        for position, name in enumerate(offered):
            try:
                await methods[name](self._connection.user, self._password or "")
            except aiosmtplib.SMTPAuthenticationError as error:
                last = position == len(offered) - 1
                if error.code in _ANOTHER_MECHANISM and not last:
                    continue
                raise
            return

    def _failed(self, stage: Stage, error: BaseException) -> Verdict:
        """Return what a failed connection means."""
        import aiosmtplib

        tls = _tls_error(error)
        if tls is not None or (
            stage is Stage.TLS and not isinstance(error, aiosmtplib.SMTPResponseException)
        ):
            return self._tls_failed(tls or error)
        if isinstance(error, MailError):
            return Verdict(
                state=State.REFUSED,
                status=403,
                reason=error.cause,
                fix=error.fix,
                stops_run=True,
                stage=stage,
            )
        if isinstance(error, aiosmtplib.SMTPResponseException) and error.code > 0:
            return classify(stage, Reply(error.code, self._censored(error.message)))
        text = one_line(self._censored(str(getattr(error, "message", "") or error)))
        where = f"{self._connection.host}:{self._connection.port}"
        return Verdict(
            state=State.DEFERRED,
            status=202,
            reason=f"The server {where} cannot be reached: {text}.",
            fix="Check the server's name and port, and that this machine may reach it.",
            retry=True,
            stage=stage,
        )

    def _tls_failed(self, error: BaseException) -> Verdict:
        host = self._connection.host
        if isinstance(error, ssl.SSLCertVerificationError):
            why = one_line(error.verify_message or str(error))
            cause = f"The certificate of {host} is not valid: {why}. Nothing was sent."
            return _tls_verdict(
                cause,
                "If it is your own authority's, name its file: ca_file='ca.pem'. Check the host name in the URL.",
            )
        cause = f"No secure connection to {host}: {one_line(str(error)) or type(error).__name__}. Nothing was sent."
        return _tls_verdict(cause, "Check port and scheme: smtp:// is STARTTLS (587), smtps:// is TLS (465).")

    def _censored(self, text: str) -> str:
        """Return a server's text without the secret, should it echo what it was told."""
        if not self._password:
            return text
        user, password = self._connection.user, self._password
        forms = [
            password,
            *(base64.b64encode(p.encode()).decode() for p in (password, f"\0{user}\0{password}")),
        ]
        for form in forms:
            text = text.replace(form, "•••")
        return text


# ---------------------------------------------------------------------------------------- pure pieces


def _tls_verdict(cause: str, fix: str) -> Verdict:
    return Verdict(state=State.REFUSED, status=403, reason=cause, fix=fix, stops_run=True, stage=Stage.TLS)


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """Return the TLS failure behind an error, if there is one."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _literal(client: aiosmtplib.SMTP) -> str:
    """Return this end's address as EHLO's argument (RFC 5321, 4.1.3); needs no name service."""
    address = (client.get_transport_info("sockname") or ("127.0.0.1",))[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


async def _hello(client: aiosmtplib.SMTP, name: str) -> None:
    import aiosmtplib

    try:
        await client.ehlo(hostname=name)
    except aiosmtplib.SMTPHeloError as error:
        # RFC 5321, 3.2: a server that does not know EHLO gets HELO.
        if error.code not in {500, 502, 504}:
            raise
        await client.helo(hostname=name)


def _close(client: Any) -> None:
    if client is not None:
        with contextlib.suppress(Exception):
            client.close()
