"""SMTP to one server over a small pool of connections.

aiosmtplib connects, secures and logs in. Then a protocol of ours takes over its public transport and drives
MAIL, RCPT and DATA itself, because only that tells "never sent" from "maybe sent": every failure knows its
stage, and a reply counts by its first digit.

A connection whose transaction did not end in a reply to its final dot is reset before it carries another
mail, and closed when that fails: otherwise a late reply could hand one row's text to another's recipient.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import dataclasses
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from smtp_notebook.outcome import MailError, State
from smtp_notebook.replies import Envelope, Reply, ReplyError, ReplyReader, Stage, Verdict, classify, one_line

if TYPE_CHECKING:
    import aiosmtplib

    from smtp_notebook.connection import Connection

__all__ = ["Envelope", "SmtpTransport", "Verdict"]

_RESET_SECONDS = 5.0
_QUIT_SECONDS = 2.0
_READY = 354
_DISCONNECTING = 421
_SERVICE_READY = 220
_MECHANISMS = ("plain", "login", "cram-md5")
_ANOTHER_MECHANISM = frozenset({504, 534})
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\0")

BeforeDot = Callable[[], Awaitable[None]]


#: A refusal, or None when the server waits for the mail; and each recipient's answer.
_Opened = tuple[Verdict | None, list[tuple[str, Reply]]]


class _LostError(ConnectionError):
    """The connection ended, or the server stopped answering."""


class _FatalError(Exception):
    """No connection can be had; carries why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


# ------------------------------------------------------------------------------------------ protocol


class _Dialogue(asyncio.Protocol):
    """Our end of a connection that aiosmtplib has made."""

    def __init__(self, inner: Any, transport: Any) -> None:
        self._inner = inner
        self._transport = transport
        self._reader = ReplyReader()
        self._waiting: collections.deque[asyncio.Future[Reply]] = collections.deque()
        self._writable = asyncio.Event()
        self._writable.set()
        self.lost = ""

    def take_over(self) -> None:
        self._transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        try:
            replies = self._reader.feed(data)
        except ReplyError as error:
            self._fail(f"the server answered with no SMTP reply: {error}")
            return
        for reply in replies:
            if not self._waiting:
                if reply.code == _DISCONNECTING:
                    self._fail(f"the server closed: {reply.line}")
                else:
                    # Replies to nothing would be taken for replies to the next command.
                    self._fail("the server answered without being asked")
                return
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(reply)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the server closed the connection" if exc is None else f"the connection broke: {exc}")
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _fail(self, why: str) -> None:
        self.lost = self.lost or one_line(why)
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(_LostError(self.lost))
        self._writable.set()
        self._transport.abort()

    async def ask(self, octets: bytes, seconds: float) -> Reply:
        """Write *octets* and wait at most *seconds* for one reply."""
        replies, why = await self.ask_all([octets], seconds)
        if not replies:
            raise _LostError(why)
        return replies[0]

    async def ask_all(self, commands: Sequence[bytes], seconds: float) -> tuple[list[Reply], str]:
        """Write *commands* at once and wait for the reply to each, at most *seconds* for one.

        Returns:
            The replies, in order; and, when there are fewer than commands, why.
        """
        self._check()
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[Reply]] = [loop.create_future() for _ in commands]
        self._waiting.extend(waiting)
        self._transport.write(b"".join(commands))
        replies: list[Reply] = []
        try:
            for future in waiting:
                replies.append(await asyncio.wait_for(future, seconds))  # noqa: PERF401 - those before an error are kept
        except TimeoutError:
            self._fail(f"the server did not answer within {seconds:g} s")
            return replies, self.lost
        except _LostError as error:
            return replies, str(error)
        finally:
            for future in waiting:
                if future.done() and not future.cancelled():
                    future.exception()  # seen, so that nothing is reported as never retrieved
        return replies, ""

    async def write(self, octets: bytes, seconds: float) -> None:
        """Write *octets* and wait until they have left our buffer for the most part."""
        self._check()
        self._transport.write(octets)
        try:
            await asyncio.wait_for(self._writable.wait(), seconds)
        except TimeoutError:
            self._fail(f"the server took no data for {seconds:g} s")
        self._check()

    def _check(self) -> None:
        if self.lost:
            raise _LostError(self.lost)

    def abort(self) -> None:
        self._fail("we closed the connection")


class _Link:
    """One connection: secured, logged in, between two mails."""

    def __init__(self, client: aiosmtplib.SMTP, dialogue: _Dialogue) -> None:
        self.client = client
        self.dialogue = dialogue
        self.used = 0
        self.dirty = False
        self.dotted = False

    @property
    def extensions(self) -> dict[str, str]:
        return self.client.esmtp_extensions

    @property
    def alive(self) -> bool:
        return not self.dialogue.lost

    async def reset(self) -> bool:
        """Forget an unfinished transaction; False when the connection can carry no other mail."""
        if not self.dirty:
            return self.alive
        try:
            reply = await self.dialogue.ask(b"RSET\r\n", _RESET_SECONDS)
        except _LostError:
            return False
        self.dirty = reply.digit != 2  # noqa: PLR2004 - success
        return not self.dirty

    async def close(self) -> None:
        """Say QUIT where somebody listens, and close."""
        if self.alive:
            with contextlib.suppress(_LostError):
                await self.dialogue.ask(b"QUIT\r\n", _QUIT_SECONDS)
        self.dialogue.abort()


# ----------------------------------------------------------------------------------------- transport


class SmtpTransport:
    """Hands mails to one server; satisfies `merge.Transport`.

    Args:
        connection: The server and its limits.
        password: The secret, when the connection has a user.

    At most ``max_connections`` transactions run at once. The first connection logs in alone, so that a
    wrong password is one failed login and not one for each connection. Commands share a write where the server
    offers PIPELINING (RFC 2920) and has accepted a mail before.
    """

    def __init__(self, connection: Connection, password: str | None = None) -> None:
        self._connection = connection
        self._password = password
        self._slots = asyncio.Semaphore(connection.max_connections)
        self._first = asyncio.Lock()
        self._proven = False
        self._earned = False
        self._ungrouped = False
        self._fatal: Verdict | None = None
        self._idle: list[_Link] = []
        self._busy: set[_Link] = set()

    def __repr__(self) -> str:
        return f"<SmtpTransport {self._connection.url}: {len(self._busy)} busy, {len(self._idle)} idle>"

    async def deliver(self, envelope: Envelope, content: bytes, *, before_dot: BeforeDot) -> Verdict:
        """Try one transaction and return what came of it.

        Args:
            envelope: Who sends to whom.
            content: The mail: CRLF lines, the last one ended.
            before_dot: Awaited after the server's 354 and before the mail's first octet. When it
                raises, the connection ends without a dot, and the error goes on.

        Cancelled, it ends the connection and returns ``in_doubt`` when the final dot may have left,
        else ``deferred``.

        Raises:
            ValueError: *content* is not in the form that a mail travels in.
        """
        if _BARE.search(content) or not content.endswith(b"\r\n"):
            msg = "a mail's lines end in CRLF, the last one too, and it has no NUL"
            raise ValueError(msg)
        link: _Link | None = None
        try:
            async with self._slots:
                for again in (True, False):
                    link = await self._acquire()
                    self._busy.add(link)
                    stale = link.used > 0
                    try:
                        return await self._transact(link, envelope, content, before_dot)
                    except _StaleError as error:
                        # An idle connection that the server closed meanwhile says nothing about this mail.
                        if not (stale and again):
                            return self._lost(Stage.MAIL, str(error))
                    finally:
                        await self._release(link)
        except asyncio.CancelledError:
            if link is not None:
                link.dialogue.abort()
            return self._cancelled(link)
        except _FatalError as error:
            return error.verdict
        msg = "a fresh connection is never stale"
        raise AssertionError(msg)

    async def aclose(self) -> None:
        """Close every connection; takes 2 s at most, whatever the server does."""
        links = [*self._idle, *self._busy]
        self._idle.clear()
        closing = [asyncio.ensure_future(link.close()) for link in links]
        if closing:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(closing, timeout=_QUIT_SECONDS)
        for link, task in zip(links, closing, strict=True):
            task.cancel()
            link.dialogue.abort()

    # ------------------------------------------------------------------------------------- the pool

    async def _acquire(self) -> _Link:
        while self._idle:
            link = self._idle.pop()
            if link.used >= self._connection.messages_per_connection or not await link.reset():
                await link.close()
                continue
            return link
        if self._proven:
            return await self._connect()
        async with self._first:
            if self._fatal is not None:
                raise _FatalError(self._fatal)
            link = await self._connect()
            self._proven = True
            return link

    async def _release(self, link: _Link) -> None:
        self._busy.discard(link)
        if link.alive:
            self._idle.append(link)

    def _lost(self, stage: Stage, why: str) -> Verdict:
        where = f"{self._connection.host}:{self._connection.port}"
        return Verdict(
            state=State.DEFERRED,
            status=202,
            reason=f"The connection to {where} failed before the mail was handed over: {why}.",
            fix="Nothing was delivered; it is tried again, or with the next run.",
            retry=True,
            stage=stage,
        )

    def _doubt(self, why: str) -> Verdict:
        return Verdict(
            state=State.IN_DOUBT,
            status=500,
            reason=f"The mail was handed over, but no answer came: {why}. It may or may not have been delivered.",
            fix="Look into the recipient's mailbox or the server's log before sending it again.",
            stage=Stage.DOT,
        )

    def _cancelled(self, link: _Link | None) -> Verdict:
        if link is not None and link.dotted:
            return self._doubt("the run was stopped")
        return self._lost(Stage.CONNECT if link is None else Stage.DATA, "the run was stopped")

    # ----------------------------------------------------------------------------- one transaction

    async def _transact(
        self, link: _Link, envelope: Envelope, content: bytes, before_dot: BeforeDot
    ) -> Verdict:
        refusal = self._unfit(link, envelope, content)
        if refusal is not None:
            return refusal
        link.dotted = False
        timeout = self._connection.timeout
        stage = Stage.MAIL
        try:
            opened = self._opened_at_once if self._groups(link) else self._opened_in_turn
            refusal, answers = await opened(link, envelope, _mail(link, envelope, content))
            if refusal is not None:
                return refusal
            stage = Stage.DATA
            await self._permitted(link, before_dot)
            await link.dialogue.write(_stuffed(content), timeout)
            link.dotted = True
            stage = Stage.DOT
            reply = await link.dialogue.ask(b".\r\n", self._connection.dot_timeout)
        except _LostError as error:
            if stage is Stage.DOT:
                return self._doubt(str(error))
            return self._lost(stage, str(error))
        link.used += 1
        link.dirty = False
        self._earned = self._earned or reply.digit == 2  # noqa: PLR2004 - success
        return _partial(self._judged(link, Stage.DOT, reply), answers)

    def _groups(self, link: _Link) -> bool:
        """Tell whether MAIL, RCPT and DATA may share a write (RFC 2920): offered, and earned by a mail."""
        return self._earned and "pipelining" in link.extensions and not self._ungrouped

    async def _opened_in_turn(self, link: _Link, envelope: Envelope, mail: bytes) -> _Opened:
        """Say MAIL, RCPT and DATA one after another.

        Raises:
            _StaleError: The connection was lost before the server knew anything of this mail.
        """
        timeout = self._connection.timeout
        try:
            reply = await link.dialogue.ask(mail, timeout)
        except _LostError as error:
            raise _StaleError(str(error)) from None
        link.dirty = True
        if reply.digit != 2:  # noqa: PLR2004 - success
            return self._judged(link, Stage.MAIL, reply), []
        answers: list[tuple[str, Reply]] = []
        stage = Stage.RCPT
        try:
            for recipient in envelope.recipients:
                reply = await link.dialogue.ask(_rcpt(recipient), timeout)
                answers.append((recipient, reply))
            if all(answer.digit != 2 for _, answer in answers):  # noqa: PLR2004 - success
                return self._judged(link, stage, _worst(answers)), answers
            stage = Stage.DATA
            reply = await link.dialogue.ask(b"DATA\r\n", timeout)
        except _LostError as error:
            return self._lost(stage, str(error)), answers
        return (None if reply.digit == 3 else self._judged(link, stage, reply)), answers  # noqa: PLR2004 - go ahead

    async def _opened_at_once(self, link: _Link, envelope: Envelope, mail: bytes) -> _Opened:
        """Say MAIL, RCPT and DATA in one write, and judge the replies together.

        Where MAIL was not accepted no text goes out on this connection any more: several servers answer
        the DATA behind it with 354 all the same, and would hand the text to somebody else's recipient.

        Raises:
            _StaleError: The connection was lost before the server answered anything.
        """
        commands = [mail, *map(_rcpt, envelope.recipients), b"DATA\r\n"]
        link.dirty = True
        replies, why = await link.dialogue.ask_all(commands, self._connection.timeout)
        if not replies:
            # A server that offers pipelining and hangs up on it is not asked for it again.
            self._ungrouped = True
            raise _StaleError(why)
        if replies[0].digit != 2:  # noqa: PLR2004 - success
            verdict = self._judged(link, Stage.MAIL, replies[0])
            link.dialogue.abort()
            return verdict, []
        answers = list(zip(envelope.recipients, replies[1:], strict=False))
        if len(replies) < len(commands):
            closing = next((r for r in replies[1:] if r.code == _DISCONNECTING), None)
            if closing is not None:
                return self._judged(link, Stage.RCPT, closing), answers
            stage = Stage.RCPT if len(answers) < len(envelope.recipients) else Stage.DATA
            return self._lost(stage, why), answers
        data = replies[-1]
        if all(answer.digit != 2 for _, answer in answers):  # noqa: PLR2004 - success
            if data.digit == 3:  # noqa: PLR2004 - go ahead, for nobody
                # RFC 2920, 3.1: the client ends the empty mail itself; it has no recipient.
                await link.dialogue.ask_all([b".\r\n"], self._connection.timeout)
            return self._judged(link, Stage.RCPT, _worst(answers)), answers
        return (None if data.digit == 3 else self._judged(link, Stage.DATA, data)), answers  # noqa: PLR2004 - go ahead

    def _unfit(self, link: _Link, envelope: Envelope, content: bytes) -> Verdict | None:
        """Return why this server cannot take the mail at all, known from what it offers; or None."""
        limit = link.extensions.get("size", "").strip()
        if limit.isdigit() and 0 < int(limit) < len(content):
            cause = f"The mail has {len(content):,} octets; the server takes {int(limit):,}."
            return _unfit(cause, "Make it smaller: send a link instead of the attachment.")
        if envelope.smtputf8 and "smtputf8" not in link.extensions:
            cause = "An address has non-ASCII letters before the @, and the server does not offer SMTPUTF8."
            return _unfit(cause, "Use the person's ASCII address, or another relay.")
        return None

    def _judged(self, link: _Link, stage: Stage, reply: Reply) -> Verdict:
        verdict = classify(stage, reply)
        if reply.code == _DISCONNECTING or verdict.state is State.IN_DOUBT or reply.digit not in {2, 4, 5}:
            link.dialogue.abort()
        if verdict.stops_run:
            self._fatal = verdict
        return verdict

    async def _permitted(self, link: _Link, before_dot: BeforeDot) -> None:
        try:
            await before_dot()
        except BaseException:
            # The server waits for a mail: a dot now would deliver an empty one.
            link.dialogue.abort()
            raise

    # ------------------------------------------------------------------------------------ connecting

    async def _connect(self) -> _Link:
        """Connect, secure and log in.

        Raises:
            _FatalError: It could not be done; the verdict says whether another try has a chance.
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
        except _FatalError as error:
            _close(client)
            self._note(error.verdict)
            raise
        except (aiosmtplib.SMTPException, OSError, MailError, ValueError) as error:
            _close(client)
            verdict = self._failed(stage, error)
            self._note(verdict)
            raise _FatalError(verdict) from None
        dialogue = _Dialogue(client.protocol, client.transport)
        dialogue.take_over()
        return _Link(client, dialogue)

    def _note(self, verdict: Verdict) -> None:
        if verdict.stops_run:
            self._fatal = verdict

    async def _secure(self, client: aiosmtplib.SMTP) -> None:
        if not client.supports_extension("starttls"):
            cause = f"{self._connection.host} does not offer STARTTLS, so nothing was sent."
            raise _FatalError(
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
            raise _FatalError(verdict)
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
        if isinstance(error, aiosmtplib.SMTPResponseException):
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


class _StaleError(Exception):
    """The connection was lost at MAIL: before the server knew anything of this mail."""


# ---------------------------------------------------------------------------------------- pure pieces


def _mail(link: _Link, envelope: Envelope, content: bytes) -> bytes:
    options = ""
    if "size" in link.extensions:
        options += f" SIZE={len(content)}"
    if envelope.smtputf8:
        # Header fields are raw UTF-8 then, which is 8-bit data (RFC 6531, 3.6).
        options += " SMTPUTF8" + (" BODY=8BITMIME" if "8bitmime" in link.extensions else "")
    return f"MAIL FROM:<{envelope.sender}>{options}\r\n".encode()


def _rcpt(recipient: str) -> bytes:
    return f"RCPT TO:<{recipient}>\r\n".encode()


def _stuffed(content: bytes) -> bytes:
    """Return *content* with every leading dot doubled (RFC 5321, 4.5.2)."""
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if stuffed.startswith(b".") else stuffed


def _worst(answers: list[tuple[str, Reply]]) -> Reply:
    """Return the answer that decides when nobody was accepted: a temporary one, for it may yet change."""
    replies = [reply for _, reply in answers]
    return next((r for r in replies if r.digit == 4), replies[0])  # noqa: PLR2004 - temporary


def _partial(verdict: Verdict, answers: list[tuple[str, Reply]]) -> Verdict:
    """Return the verdict of a mail that some recipients were refused."""
    refused = tuple((r, reply.line) for r, reply in answers if reply.digit != 2)  # noqa: PLR2004 - success
    if not refused or verdict.state is not State.SENT:
        return verdict
    named = ", ".join(r for r, _ in refused)
    return dataclasses.replace(
        verdict,
        state=State.PARTIAL,
        status=202,
        reason=f"Accepted, but not for {named}: {refused[0][1]}",
        fix="The others have it; do not send it to them again.",
        refused=refused,
    )


def _unfit(cause: str, fix: str) -> Verdict:
    return Verdict(state=State.REFUSED, status=400, reason=cause, fix=fix, stage=Stage.MAIL)


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
