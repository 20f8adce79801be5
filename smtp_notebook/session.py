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
import dataclasses
import functools
import ipaddress
import itertools
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from smtp_notebook import oauth as oauths
from smtp_notebook import sasl
from smtp_notebook.outcome import MailError, SecretError, State
from smtp_notebook.replies import Reply, ReplyError, ReplyReader, Stage, Verdict, classify, one_line

if TYPE_CHECKING:
    import aiosmtplib

    from smtp_notebook.connection import Connection

__all__ = ["DialError", "Dialler", "Dialogue", "Link", "LostError", "Told", "size_limit"]

_QUIT_SECONDS = 2.0
#: RFC 1870, 3: SIZE has at most so many.
_SIZE_DIGITS = 20
_DISCONNECTING = 421
_SHORTEST = 4
_MECHANISMS = ("plain", "login", "cram-md5")
#: The server does not know the mechanism; 534 is also said of a password that will not do, which counts as a try.
_ANOTHER_MECHANISM = frozenset({504})
_LOGGED_IN, _CHALLENGE = 235, 334
#: What aiosmtplib writes before a reason; where is said by us.
_PREAMBLE = re.compile(r"^(?:Error|Timed out) connecting to \S+ on port None(?:: )?")

#: Is told of each step of a dial when it is done, by name, and of what was found: ``resolve`` (addresses), ``try``
#: (an address and why it failed, or ""), ``connect`` (None), ``banner`` (text), ``ehlo``, ``tls`` and ``login``
#: (aiosmtplib's client). Must not raise.
Told = Callable[[str, Any], None]


def _unheard(step: str, found: Any) -> None:
    """Listen to nothing: who sends wants no story."""


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

    def __init__(self, inner: Any, transport: Any, secrets: Sequence[str] = ()) -> None:
        self._secrets = secrets
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
            replies, garbage = error.before, censored(str(error), self._secrets)
        if self._secrets:
            replies = [_censored_reply(reply, self._secrets) for reply in replies]
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


def size_limit(extensions: Mapping[str, str]) -> int:
    """Return how many octets a mail may have, by what a server offers; 0 where it names no limit (RFC 1870, 3)."""
    said = extensions.get("size", "").strip()
    return int(said) if said.isdecimal() and len(said) <= _SIZE_DIGITS else 0


@dataclass(slots=True, eq=False)
class Link:
    """One connection that is secured and logged in, between two mails.

    Attributes:
        extensions: What the server offers, by its EHLO keyword in lower case.
        used: How many mails it has carried to a reply.
        dirty: Whether the last transaction did not end in a reply to its dot.
        latency: How long the server took to answer EHLO, in seconds.
    """

    dialogue: Dialogue
    extensions: dict[str, str]
    latency: float = 0.0
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
        password: The secret, when the connection has a user and no ``oauth``.
        told: Is told of each step; a check watches so what a send does.
    """

    def __init__(self, connection: Connection, password: str | None, told: Told = _unheard) -> None:
        self._connection = connection
        self._password = password
        self._tokens: collections.deque[str] = collections.deque(maxlen=16)
        self._told = told

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
            tls_context = None if at.security == "plain" else at.tls_context()
            client = aiosmtplib.SMTP(
                hostname=at.host,
                sock=await self._reached(),
                timeout=at.timeout,
                start_tls=False,
                use_tls=at.security == "tls",
                tls_context=tls_context,
                local_hostname=at.local_hostname or "[127.0.0.1]",
            )
            greeting = await client.connect()
            if at.security == "tls":
                self._told("tls", client)
            self._told("banner", greeting.message)
            name = at.local_hostname or _literal(client)
            latency = await _hello(client, name)
            self._told("ehlo", client)
            if at.security == "starttls":
                stage = Stage.TLS
                await self._secure(client)
                self._told("tls", client)
                # What was offered in clear counts no more (RFC 3207, 4.2).
                latency = await _hello(client, name)
                self._told("ehlo", client)
            if at.user:
                stage = Stage.LOGIN
                await (self._login(client) if at.oauth is None else self._bear(client))
                self._told("login", client)
        except asyncio.CancelledError:
            _close(client)
            raise
        except DialError:
            _close(client)
            raise
        except (aiosmtplib.SMTPException, OSError, MailError, ValueError) as error:
            _close(client)
            raise DialError(self._failed(stage, error)) from None
        dialogue = Dialogue(client.protocol, client.transport, self._forms())
        dialogue.take_over()
        return Link(dialogue, dict(client.esmtp_extensions), latency)

    async def _reached(self) -> socket.socket:
        """Return a socket that is connected to the first of the server's addresses that answers.

        Looking the name up may take the connection's timeout, connecting too; the addresses share it, so that one
        that never answers does not keep the next from being tried.

        Raises:
            DialError: The name has no address, or none of them answers.
        """
        at = self._connection
        try:
            async with asyncio.timeout(at.timeout):
                found = await _addresses(at.host, at.port)
        except TimeoutError:
            raise DialError(self._unreachable(f"its name was not found within {at.timeout:g} s")) from None
        except (OSError, UnicodeError) as error:
            why = f"its name is not known ({getattr(error, 'strerror', None) or error})"
            raise DialError(self._unreachable(why)) from None
        self._told("resolve", [address[0] for *_, address in found])
        why = "it has no address"
        for family, kind, protocol, _, address in found:
            try:
                sock = await _connected(family, kind, protocol, address, at.timeout / len(found))
            except TimeoutError:
                why = f"{address[0]} did not answer within {at.timeout / len(found):g} s"
            except OSError as error:
                # asyncio's own text repeats the address.
                said = os.strerror(error.errno) if error.errno else str(error)
                why = f"{address[0]} cannot be connected to ({said.lower()})"
            else:
                self._told("try", (address[0], ""))
                self._told("connect", None)
                return sock
            self._told("try", (address[0], why.removeprefix(f"{address[0]} ")))
        raise DialError(self._unreachable(why))

    def _unreachable(self, why: str) -> Verdict:
        where = f"{self._connection.host}:{self._connection.port}"
        return Verdict(
            state=State.DEFERRED,
            status=202,
            reason=f"The server {where} cannot be reached: {one_line(why)}.",
            fix="Check the server's name and port, and that this machine may reach it.",
            retry=True,
        )

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
            fix = f"It offers: {names}. Leave the user out for a server without login."
            if sasl.chosen(client.server_auth_methods):
                fix = f"It offers: {names}. Sign in with oauth= instead of a password."
            raise DialError(_no_login(cause, fix))
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

    async def _bear(self, client: aiosmtplib.SMTP) -> None:
        """Log in once, with a token that holds for some minutes more."""
        at = self._connection
        mechanism = sasl.chosen(client.server_auth_methods)
        if not mechanism:
            names = ", ".join(client.server_auth_methods) or "none"
            cause = (
                f"{at.host} offers no login by token (XOAUTH2 or OAUTHBEARER), but the connection has oauth=."
            )
            raise DialError(
                _no_login(cause, f"It offers: {names}. Leave oauth= out to log in with a password.")
            )
        # It may be renewed, and that takes a server elsewhere and its time.
        token = await asyncio.to_thread(self._new_token)
        self._tokens.append(token)
        said = sasl.response(mechanism, at.user, token, at.host, at.port)
        answer = await client.execute_command(b"AUTH", mechanism.upper().encode(), said)
        objection = ""
        if answer.code == _CHALLENGE:
            objection = sasl.objection(answer.message)
            answer = await client.execute_command(sasl.GIVE_UP[mechanism])
        if answer.code != _LOGGED_IN:
            raise DialError(
                self._token_refused(Reply(answer.code, self._censored(answer.message)), objection, token)
            )

    def _new_token(self) -> str:
        from smtp_notebook.grants import OfflineError

        oauth = self._connection.oauth
        assert oauth is not None
        try:
            return oauths.bearer(oauth, self._connection.user).token()
        except SecretError as error:
            raise DialError(_no_login(error.cause, error.fix)) from None
        except OfflineError as error:
            verdict = Verdict(
                state=State.DEFERRED,
                status=202,
                reason=f"No new token for {self._connection.user}: {one_line(str(error))}.",
                fix="Nothing was sent; it is tried again, or with the next run.",
                retry=True,
                stage=Stage.LOGIN,
            )
            raise DialError(verdict) from None

    def _token_refused(self, reply: Reply, objection: str, token: str) -> Verdict:
        """Return what it means that a token is not taken, and have the next one asked for anew."""
        at = self._connection
        verdict = classify(Stage.LOGIN, reply, at.provider)
        if verdict.state is not State.REFUSED:
            return verdict
        assert at.oauth is not None
        oauths.bearer(at.oauth, at.user).spoil(token)
        told = f" (of the token it says: {self._censored(objection)})" if objection else ""
        fix = (
            f"The token has to be for {at.user} and for SMTP: run connect(…) again and sign in as that user; an "
            "administrator may have to allow SMTP for the mailbox."
        )
        specific = verdict.enhanced in {"5.7.139", "5.7.30"} and verdict.fix
        return dataclasses.replace(verdict, reason=verdict.reason + told, fix=specific or fix)

    def _failed(self, stage: Stage, error: BaseException) -> Verdict:
        """Return what a failed connection means."""
        import aiosmtplib

        tls = _tls_error(error)
        if (
            tls is not None
            or (stage is Stage.TLS and not isinstance(error, aiosmtplib.SMTPResponseException))
            or (self._connection.security == "tls" and _in_handshake(error))
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
            return classify(
                stage, Reply(error.code, self._censored(error.message)), self._connection.provider
            )
        text = _PREAMBLE.sub("", self._censored(str(getattr(error, "message", "") or error)))
        return dataclasses.replace(self._unreachable(text), stage=stage)

    def _tls_failed(self, error: BaseException) -> Verdict:
        host = self._connection.host
        if isinstance(error, ssl.SSLCertVerificationError):
            why = one_line(error.verify_message or str(error)).rstrip(".")
            plain, fix = _CERTIFICATE.get(error.verify_code, ("", _CERTIFICATE_FIX))
            said = f"{plain} ({why})" if plain else why
            return _tls_verdict(f"The certificate of {host} is not valid: {said}. Nothing was sent.", fix)
        why = one_line(_PREAMBLE.sub("", str(error))) or "it closed in the handshake"
        if isinstance(error, TimeoutError) or isinstance(
            error.__cause__, TimeoutError | ConnectionAbortedError
        ):
            # asyncio ends a handshake that takes too long with ConnectionAbortedError.
            why = f"the handshake did not end within {self._connection.timeout:g} s"
        return _tls_verdict(
            f"No secure connection to {host}: {why.rstrip('.')}. Nothing was sent.",
            "Check port and scheme: smtp:// is STARTTLS (587), smtps:// is TLS (465). TLS has to be 1.2 or newer.",
        )

    def censored(self, text: str) -> str:
        """Return what the server said without the secret, should it echo what it was told."""
        return self._censored(text)

    def _censored(self, text: str) -> str:
        """Return a server's text without the secret, should it echo what it was told."""
        return censored(text, self._forms())

    def _forms(self) -> tuple[str, ...]:
        """Return the secret in every form in which a server may have heard it, or could write it."""
        at = self._connection
        # Connections are made at once, each with its token.
        said = [f for t in dict.fromkeys(self._tokens) for f in sasl.forms(at.user, t, at.host, at.port)]
        return (*said, *(forms_of(at.user, self._password) if self._password else ()))


# ---------------------------------------------------------------------------------------- pure pieces


def _no_login(cause: str, fix: str) -> Verdict:
    return Verdict(state=State.REFUSED, status=401, reason=cause, fix=fix, stops_run=True, stage=Stage.LOGIN)


_CERTIFICATE_FIX = (
    "If it is your own authority's, name its file: ca_file='ca.pem'. Check the host name in the URL."
)
_OTHER_NAME = (
    "it is for another name",
    "Write the name that the certificate is for into the URL; a ca_file= does not help. Else it is another server.",
)
_UNKNOWN_AUTHORITY = (
    "nobody that this machine trusts vouches for it",
    "If it is your own authority's, name its file: ca_file='ca.pem'. If not, do not send: it may be another server.",
)
#: In plain words what OpenSSL's numbers say, and what to do:
#: https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/#error-codes.
_CERTIFICATE: Mapping[int, tuple[str, str]] = {
    9: ("its time has not begun", "Check this machine's clock. If it is right, only the server's owner can help."),
    10: ("it has expired", "Tell whoever runs the server. Check this machine's clock, too: it may be wrong."),
    18: _UNKNOWN_AUTHORITY,
    19: _UNKNOWN_AUTHORITY,
    20: _UNKNOWN_AUTHORITY,
    21: _UNKNOWN_AUTHORITY,
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}  # fmt: skip


@functools.lru_cache(maxsize=16)
def forms_of(user: str, password: str) -> tuple[str, ...]:
    """Return what a text must not hold: the password, percent-encoded, in base64, and as AUTH PLAIN says it."""
    coded = {base64.b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")
             for text in (password, f"\0{user}\0{password}", f"{user}\0{user}\0{password}")}  # fmt: skip
    plain = {password, quote_plus(password, errors="replace")}
    plain |= {quote(password, safe=safe, errors="replace") for safe in ("", "/")}
    # The longest first: what is left of one must not hide another.
    return tuple(sorted(coded | plain, key=len, reverse=True))


def censored(text: str, forms: Sequence[str]) -> str:
    """Return a text without any of the *forms*; one of less than four characters stands in ordinary words."""
    for form in forms:
        if len(form) >= _SHORTEST and form in text:
            text = text.replace(form, "•••")
    return text


def _censored_reply(reply: Reply, forms: Sequence[str]) -> Reply:
    # The code in front decides, whatever the password is.
    head = len(reply.enhanced)
    text = reply.text[:head] + censored(reply.text[head:], forms)
    return reply if text == reply.text else Reply(reply.code, text)


def _tls_verdict(cause: str, fix: str) -> Verdict:
    return Verdict(state=State.REFUSED, status=403, reason=cause, fix=fix, stops_run=True, stage=Stage.TLS)


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """Return the TLS failure behind an error, if there is one."""
    while error is not None:
        # These two say that OpenSSL waits for octets, and are what asyncio was busy with when they never came.
        if isinstance(error, ssl.SSLError) and not isinstance(
            error, ssl.SSLWantReadError | ssl.SSLWantWriteError
        ):
            return error
        error = error.__cause__ or error.__context__
    return None


async def _addresses(host: str, port: int) -> list[Any]:
    """Return what ``getaddrinfo`` says of a host; an address is looked up nowhere, and needs no thread."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)


async def _connected(family: int, kind: int, protocol: int, address: Any, seconds: float) -> socket.socket:
    """Return a socket that is connected to *address*.

    Raises:
        TimeoutError: Nobody answered within so many seconds.
        OSError: It cannot be.
    """
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)  # noqa: FBT003 - the standard library's
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _in_handshake(error: BaseException) -> bool:
    """Tell whether a TCP connection stood and TLS from the first octet did not, nor any word of SMTP yet."""
    import aiosmtplib

    cause = error.__cause__
    return (
        isinstance(error, aiosmtplib.SMTPConnectError)
        and isinstance(cause, OSError)
        and not isinstance(cause, aiosmtplib.SMTPException)
    )


def _literal(client: aiosmtplib.SMTP) -> str:
    """Return this end's address as EHLO's argument (RFC 5321, 4.1.3); needs no name service."""
    address = (client.get_transport_info("sockname") or ("127.0.0.1",))[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


async def _hello(client: aiosmtplib.SMTP, name: str) -> float:
    """Say EHLO, and return after how many seconds the answer was there."""
    import aiosmtplib

    begun = time.perf_counter()
    try:
        await client.ehlo(hostname=name)
    except aiosmtplib.SMTPHeloError as error:
        # RFC 5321, 3.2: a server that does not know EHLO gets HELO.
        if error.code not in {500, 502, 504}:
            raise
        await client.helo(hostname=name)
    return time.perf_counter() - begun


def _close(client: Any) -> None:
    if client is not None:
        with contextlib.suppress(Exception):
            client.close()
