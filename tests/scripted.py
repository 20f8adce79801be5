"""An SMTP server on loopback that does what a test tells it, and remembers what it was told.

``script`` maps a stage to what happens there: ``banner ehlo helo starttls auth mail rcpt data body dot rset quit``.
What happens is a reply (``"550 5.1.1 no"``), one of ``DROP`` (close), ``RESET`` (RST), ``STALL`` (never
answer), ``ACCEPT_DROP`` (at dot: keep the mail, close without a reply), or a list of these, one for each time,
the last for all further times. A function gets the argument and returns one of them, an awaitable of one, or
None for the usual.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import socket
import ssl
import struct
import threading
from dataclasses import dataclass, field

DROP, RESET, STALL, ACCEPT_DROP = "<drop>", "<reset>", "<stall>", "<accept, drop>"


@dataclass
class Mail:
    sender: str
    recipients: list[str]
    content: bytes


@dataclass
class Log:
    commands: list[str] = field(default_factory=list)
    mails: list[Mail] = field(default_factory=list)
    connections: int = 0
    logins: int = 0
    plain_octets: bytes = b""


class Server:
    """Use as a context manager; ``port`` and ``log`` are what tests look at."""

    def __init__(self, script=None, *, offers=("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 1000000", "ENHANCEDSTATUSCODES"),
                 tls=None, starttls=None, login=None, mechanisms="PLAIN LOGIN", careless=False):  # fmt: skip
        self.script = dict(script or {})
        self.offers = list(offers)
        self.tls, self.starttls, self.login, self.mechanisms = tls, starttls, login, mechanisms
        self.careless = careless
        self.log = Log()
        self._times = {}
        self._writers = set()

    # ------------------------------------------------------------------------------------ running

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._client, "127.0.0.1", 0, ssl=self.tls))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def __exit__(self, *_):
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _close(self):
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def url(self, scheme="smtp+plain", user=""):
        return f"{scheme}://{user + '@' if user else ''}127.0.0.1:{self.port}"

    # ----------------------------------------------------------------------------------- dialogue

    async def _action(self, stage, argument=""):
        planned = self.script.get(stage)
        if callable(planned):
            found = planned(argument)
            return await found if inspect.isawaitable(found) else found
        if isinstance(planned, list):
            count = self._times.get(stage, 0)
            self._times[stage] = count + 1
            return planned[min(count, len(planned) - 1)]
        return planned

    async def _client(self, reader, writer):
        self._writers.add(writer)
        self.log.connections += 1
        try:
            await self._talk(reader, writer)
        except (_Ended, ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            pass  # cancelled when the server closes; asyncio would log it
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _answer(self, writer, stage, usual, argument=""):
        action = await self._action(stage, argument) or usual
        if action in {DROP, ACCEPT_DROP}:
            await self._end(writer)
        if action == RESET:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            raise _Ended
        if action == STALL:
            await asyncio.Event().wait()
        writer.write(action.encode() + (b"" if action.endswith("\n") else b"\r\n"))
        await writer.drain()
        if action.startswith("421"):
            await self._end(writer)
        return action

    async def _end(self, writer):
        writer.close()
        raise _Ended

    async def _talk(self, reader, writer):
        secure = self.tls is not None
        envelope = Mail("", [], b"")
        await self._answer(writer, "banner", "220 scripted ESMTP")
        while line := await reader.readline():
            if not secure:
                self.log.plain_octets += line
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            self.log.commands.append(text)
            verb, _, argument = text.partition(" ")
            verb = verb.upper()
            if verb in {"EHLO", "HELO"}:
                await self._answer(
                    writer, verb.lower(), self._greeting(secure=secure) if verb == "EHLO" else "250 scripted"
                )
            elif verb == "STARTTLS":
                said = await self._answer(writer, "starttls", "220 go ahead")
                if said.startswith("220"):
                    await writer.start_tls(self.starttls)
                    secure = True
            elif verb == "AUTH":
                await self._auth(reader, writer, argument)
            elif verb == "MAIL":
                envelope = Mail(argument.partition("<")[2].partition(">")[0], [], b"")
                await self._answer(writer, "mail", "250 2.1.0 ok", argument)
            elif verb == "RCPT":
                address = argument.partition("<")[2].partition(">")[0]
                said = await self._answer(writer, "rcpt", "250 2.1.5 ok", address)
                if said.startswith("2"):
                    envelope.recipients.append(address)
            elif verb == "DATA":
                usual = "354 go ahead" if envelope.recipients or self.careless else "503 5.5.1 no recipients"
                said = await self._answer(writer, "data", usual)
                if said.startswith("354"):
                    if await self._action("body") == STALL:
                        await asyncio.Event().wait()
                    envelope.content = await self._body(reader)
                    await self._dot(writer, envelope)
            elif verb == "RSET":
                await self._answer(writer, "rset", "250 2.0.0 ok")
            elif verb == "QUIT":
                await self._answer(writer, "quit", "221 2.0.0 bye")
                return
            else:
                await self._answer(writer, "other", "502 5.5.1 what?")

    async def _dot(self, writer, envelope):
        if not envelope.recipients:
            writer.write(b"554 5.5.1 no recipients\r\n")
            return
        action = await self._action("dot", envelope.recipients[0]) or "250 2.0.0 queued"
        if action == ACCEPT_DROP or action[:1] == "2" or action == STALL + "kept":
            self.log.mails.append(envelope)
        if action == STALL + "kept":
            action = STALL
        self.script["now"] = lambda _: action
        await self._answer(writer, "now", action)

    async def _body(self, reader):
        lines = []
        while (line := await reader.readuntil(b"\r\n")) != b".\r\n":
            lines.append(line[1:] if line.startswith(b"..") else line)
        return b"".join(lines)

    def _greeting(self, *, secure):
        offers = list(self.offers)
        if self.starttls is not None and not secure:
            offers.append("STARTTLS")
        if self.login is not None:
            offers.append(f"AUTH {self.mechanisms}")
        lines = ["scripted", *offers]
        return "".join(f"250{'-' if i < len(lines) - 1 else ' '}{o}\r\n" for i, o in enumerate(lines))

    async def _auth(self, reader, writer, argument):
        self.log.logins += 1
        mechanism, _, initial = argument.partition(" ")
        if mechanism == "LOGIN":
            given = []
            for prompt in ("VXNlcm5hbWU6", "UGFzc3dvcmQ6"):
                if initial and not given:
                    given.append(base64.b64decode(initial).decode())
                    continue
                writer.write(f"334 {prompt}\r\n".encode())
                given.append(base64.b64decode(await reader.readline()).decode())
            right = tuple(given) == self.login
        else:
            right = tuple(base64.b64decode(initial).decode().split("\0")[1:]) == self.login
        usual = "235 2.7.0 welcome" if right else "535 5.7.8 wrong user or password"
        await self._answer(writer, "auth", usual, mechanism)


class _Ended(Exception):
    """The connection is over."""


def server_context(authority, *names):
    """Return a server's TLS settings with a certificate for *names* of a throw-away authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context
