"""An SMTP server on loopback that does what a test tells it, and remembers what it was told.

``script`` maps a stage to what happens there: ``banner ehlo helo starttls auth mail rcpt data body dot rset quit``.
What happens is a reply (``"550 5.1.1 no"``), one of ``DROP`` (close), ``RESET`` (RST), ``STALL`` (never
answer), ``ACCEPT_DROP`` (at dot: keep the mail, close without a reply), or a list of these, one for each time,
the last for all further times. A function gets what was `Met` and returns one of them, an awaitable of one, or
None for the usual.

Two more forms: text before ``DROP``, ``RESET`` or ``STALL`` leaves octet for octet first (``"2" + DROP``), and
``SLOWLY`` before a reply sends each octet by itself, ``pace`` seconds apart. At dot, ``KEPT`` before anything
keeps the mail, whatever the client hears.

Otherwise it is a server as RFC 5321 and RFC 2920 want one: it takes any segmentation, a body with its dot and the
next mail's commands in one segment too, and a MAIL inside a transaction is refused and changes nothing. A
*careless* one takes RCPT and DATA without asking whether MAIL or any RCPT was accepted.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import re
import socket
import ssl
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field

DROP, RESET, STALL, KEPT, SLOWLY = "<drop>", "<reset>", "<stall>", "<kept>", "<slowly>"
ACCEPT_DROP = KEPT + DROP
_ENDINGS = (DROP, RESET, STALL)
PIPELINING = ("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 100000000", "ENHANCEDSTATUSCODES")
PLAIN = PIPELINING[1:]


class Met(str):
    """What a function of the script gets: the command's argument, and where it stands.

    At ``mail`` and ``rcpt`` it is the argument, at ``data``, ``body`` and ``dot`` the first recipient.

    Attributes:
        connection: Which connection it is, counted from 1.
        mail: Which mail of that connection it is about, counted from 1.
        grouped: Whether more commands had arrived behind this one before it was answered.
    """

    __slots__ = ("connection", "grouped", "mail")

    def __new__(cls, text="", *, connection=0, mail=0, grouped=False):
        """Return the argument with its place."""
        met = super().__new__(cls, text)
        met.connection, met.mail, met.grouped = connection, mail, grouped
        return met


@dataclass
class Mail:
    """A mail that was handed over: ``ahead`` tells that the next MAIL was here before the dot was answered."""

    sender: str
    recipients: list[str]
    content: bytes
    ahead: bool = False
    connection: int = 0


@dataclass
class Log:
    """What arrived.

    Attributes:
        mails: What was kept.
        nobodys: Texts that came to a dot without a recipient.
        texts: The first recipient of each text of which a line arrived.
        reads: The octets of each read, with the number of their connection.
        grouped: How many MAILs had further commands in their read.
        ahead: How many dots had the next MAIL behind them before they were answered.
        turned_away: How many connections were one too many.
    """

    commands: list[str] = field(default_factory=list)
    mails: list[Mail] = field(default_factory=list)
    nobodys: list[Mail] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    reads: list[tuple[int, bytes]] = field(default_factory=list)
    connections: int = 0
    logins: int = 0
    tokens: list[str] = field(default_factory=list)
    grouped: int = 0
    ahead: int = 0
    turned_away: int = 0
    plain_octets: bytes = b""


class _Reader(asyncio.StreamReader):
    """A reader that notes what came in one piece, and tells whether there is more."""

    def __init__(self, log, limit):
        super().__init__(limit=limit)
        self._log = log
        self.number = 0

    def feed_data(self, data):
        self._log.reads.append((self.number, bytes(data)))
        super().feed_data(data)

    @property
    def more(self):
        return bytes(self._buffer)


class _Place:
    """One connection: its number, its transaction, and how many there were."""

    def __init__(self, number):
        self.number = number
        self.mails = 0
        self.envelope = None
        self.secure = False


class Server:
    """Use as a context manager; ``port`` and ``log`` are what tests look at.

    Args:
        script: What happens at which stage.
        offers: The extensions.
        tls: TLS from the first octet.
        starttls: TLS on request.
        login: The right user and password.
        mechanisms: What AUTH offers.
        tokens: Tells whether a user's token is right; with it XOAUTH2 and OAUTHBEARER are understood.
        careless: Whether RCPT and DATA are taken where none belongs.
        most_connections: How many may be open at once; one more hears 421 instead of a banner.
        most_mails: How many mails a connection carries, and what the next MAIL hears.
        most_recipients: How many recipients a transaction has, and what the next RCPT hears.
        window: The size of the socket's receive buffer, in octets, and of the reader's.
        pace: Seconds between the octets of a reply that is said SLOWLY.
        patient: Whether it says nothing before it has heard something, as where TLS comes first.
    """

    def __init__(self, script=None, *, offers=("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 1000000", "ENHANCEDSTATUSCODES"),
                 tls=None, starttls=None, login=None, mechanisms="PLAIN LOGIN", tokens=None, careless=False,
                 most_connections=0, most_mails=(), most_recipients=(), window=0, pace=0.0, patient=False):  # fmt: skip
        self.script = dict(script or {})
        self.offers = list(offers)
        self.tls, self.starttls, self.login, self.mechanisms = tls, starttls, login, mechanisms
        self.tokens = tokens
        self.careless = careless
        self.most_connections, self.most_mails, self.most_recipients = (
            most_connections,
            most_mails,
            most_recipients,
        )
        self.window, self.pace, self.patient = window, pace, patient
        self.log = Log()
        self._times = Counter()
        self._writers = set()

    def heal(self):
        """Behave from now on."""
        self.script = {}
        self.careless = False
        self.most_connections, self.most_mails, self.most_recipients = 0, (), ()

    # ------------------------------------------------------------------------------------ running

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(self._listen())
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _listen(self):
        # asyncio switches Nagle's algorithm off where the protocol is named.
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.window:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.window)
            # The client's send buffer grows with the segment size, which on loopback is 64 KB.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        sock.bind(("127.0.0.1", 0))
        loop = asyncio.get_running_loop()

        def protocol():
            reader = _Reader(self.log, self.window or 2**16)
            return asyncio.StreamReaderProtocol(reader, self._client)

        return await loop.create_server(protocol, sock=sock, ssl=self.tls)

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
            self._times[stage] += 1
            return planned[min(self._times[stage], len(planned)) - 1]
        return planned

    async def _client(self, reader, writer):
        self._writers.add(writer)
        self.log.connections += 1
        reader.number = self.log.connections
        try:
            if self.most_connections and len(self._writers) > self.most_connections:
                self.log.turned_away += 1
                await self._say(writer, "421 4.7.0 too many connections from you")
            await self._talk(reader, writer, _Place(reader.number))
        except (_Ended, ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            pass  # cancelled when the server closes; asyncio would log it
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _answer(self, writer, stage, usual, argument=""):
        return await self._say(writer, await self._action(stage, argument) or usual)

    async def _say(self, writer, action):
        action = action.removeprefix(KEPT)
        if action == STALL + "kept":
            action = STALL
        ending = next((e for e in _ENDINGS if action.endswith(e)), "")
        text = action.removesuffix(ending) if ending else action.rstrip("\r\n") + "\r\n"
        if text.startswith(SLOWLY):
            await self._slowly(writer, text.removeprefix(SLOWLY).encode())
        else:
            writer.write(text.encode())
            await writer.drain()
        if ending == STALL:
            await asyncio.Event().wait()
        if ending == RESET:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            raise _Ended
        if ending == DROP or action.startswith("421"):
            await self._end(writer)
        return action

    async def _slowly(self, writer, octets):
        for octet in octets:
            writer.write(bytes([octet]))
            await writer.drain()
            await asyncio.sleep(self.pace)  # being slow is the fault itself

    async def _end(self, writer):
        writer.close()
        raise _Ended

    async def _talk(self, reader, writer, at):
        at.secure = self.tls is not None

        def met(text=""):
            return Met(text, connection=at.number, mail=at.mails, grouped=bool(reader.more))

        def first():
            return met(at.envelope.recipients[0] if at.envelope and at.envelope.recipients else "")

        if self.patient:
            await reader.read(1)
        await self._answer(writer, "banner", "220 scripted ESMTP", met())
        while line := await reader.readline():
            if not at.secure:
                self.log.plain_octets += line
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            self.log.commands.append(text)
            verb, _, argument = text.partition(" ")
            verb = verb.upper()
            if verb in {"EHLO", "HELO"}:
                at.envelope = None
                usual = self._greeting(secure=at.secure) if verb == "EHLO" else "250 scripted"
                await self._answer(writer, verb.lower(), usual, met(argument))
            elif verb == "STARTTLS":
                said = await self._answer(writer, "starttls", "220 go ahead")
                if said.startswith("220"):
                    await writer.start_tls(self.starttls)
                    at.secure = True
            elif verb == "AUTH":
                await self._auth(reader, writer, argument)
            elif verb == "MAIL":
                await self._mail(writer, at, argument, met)
            elif verb == "RCPT":
                await self._rcpt(writer, at, argument, met)
            elif verb == "DATA":
                await self._data(reader, writer, at, first)
            elif verb == "RSET":
                at.envelope = None
                await self._answer(writer, "rset", "250 2.0.0 ok", met())
            elif verb == "QUIT":
                await self._answer(writer, "quit", "221 2.0.0 bye", met())
                return
            else:
                await self._answer(writer, "other", "502 5.5.1 what?", met(argument))

    async def _mail(self, writer, at, argument, met):
        self.log.grouped += met().grouped
        if at.envelope is not None:
            await self._say(writer, "503 5.5.1 nested MAIL command")
            return
        at.mails += 1
        if self.most_mails and at.mails > self.most_mails[0]:
            await self._say(writer, self.most_mails[1])
            return
        said = await self._answer(writer, "mail", "250 2.1.0 ok", met(argument))
        if said.startswith("2"):
            at.envelope = Mail(argument.partition("<")[2].partition(">")[0], [], b"", connection=at.number)

    async def _rcpt(self, writer, at, argument, met):
        if at.envelope is None and not self.careless:
            await self._say(writer, "503 5.5.1 need MAIL before RCPT")
            return
        if at.envelope is None:
            at.envelope = Mail("", [], b"", connection=at.number)
        address = argument.partition("<")[2].partition(">")[0]
        if self.most_recipients and len(at.envelope.recipients) >= self.most_recipients[0]:
            await self._say(writer, self.most_recipients[1])
            return
        said = await self._answer(writer, "rcpt", "250 2.1.5 ok", met(address))
        if said.startswith("2"):
            at.envelope.recipients.append(address)

    async def _data(self, reader, writer, at, first):
        if at.envelope is None and self.careless:
            at.envelope = Mail("", [], b"", connection=at.number)
        if at.envelope is None or not (at.envelope.recipients or self.careless):
            await self._say(writer, "503 5.5.1 no recipients")
            return
        said = await self._answer(writer, "data", "354 go ahead", first())
        if not said.startswith("354"):
            return  # the transaction stays open, as with Postfix: only RSET ends it
        envelope = at.envelope
        body = await self._action("body", first())
        if body is not None:
            if body != STALL:
                await reader.readline()  # in the middle of the text
            await self._say(writer, body)
        envelope.content = await self._body(reader, envelope)
        envelope.ahead = b"MAIL FROM" in reader.more.upper()
        self.log.ahead += envelope.ahead
        at.envelope = None
        await self._dot(writer, envelope, Met(*envelope.recipients[:1], connection=at.number, mail=at.mails))

    async def _dot(self, writer, envelope, met):
        if not envelope.recipients:
            self.log.nobodys.append(envelope)
            await self._say(writer, "554 5.5.1 no recipients")
            return
        action = await self._action("dot", met) or "250 2.0.0 queued"
        if action.startswith(KEPT) or action == STALL + "kept" or re.match(r"2\d\d(?!\d)", action):
            self.log.mails.append(envelope)
        await self._say(writer, action)

    async def _body(self, reader, envelope):
        lines = []
        while (line := await reader.readuntil(b"\r\n")) != b".\r\n":
            if not lines:
                self.log.texts.append(*envelope.recipients[:1] or [""])
            lines.append(line[1:] if line.startswith(b"..") else line)
        return b"".join(lines)

    def _greeting(self, *, secure):
        offers = list(self.offers)
        if self.starttls is not None and not secure:
            offers.append("STARTTLS")
        if self.login is not None or self.tokens is not None:
            offers.append(f"AUTH {self.mechanisms}")
        lines = ["scripted", *offers]
        return "".join(f"250{'-' if i < len(lines) - 1 else ' '}{o}\r\n" for i, o in enumerate(lines))

    async def _auth(self, reader, writer, argument):
        self.log.logins += 1
        mechanism, _, initial = argument.partition(" ")
        if mechanism in {"XOAUTH2", "OAUTHBEARER"}:
            await self._bearer(reader, writer, mechanism, base64.b64decode(initial).decode())
            return
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

    async def _bearer(self, reader, writer, mechanism, said):
        """Take a token, or explain in a challenge why not, and refuse when that was answered (RFC 7628, 3.2.2)."""
        if mechanism == "XOAUTH2":
            found = re.fullmatch(r"user=([^\x01]*)\x01auth=Bearer ([^\x01]+)\x01\x01", said)
            why, answer = {"status": "400", "schemes": "Bearer", "scope": "https://mail.example.com/"}, ""
        else:
            found = re.fullmatch(
                r"n,a=([^\x01,]*),\x01host=[^\x01]+\x01port=\d+\x01auth=Bearer ([^\x01]+)\x01\x01", said
            )
            why, answer = {"status": "invalid_token", "scope": "https://mail.example.com/"}, "AQ=="
        self.log.tokens.append(found[2] if found else said)
        if found and self.tokens(found[1].replace("=2C", ",").replace("=3D", "="), found[2]):
            await self._answer(writer, "auth", "235 2.7.0 welcome", mechanism)
            return
        writer.write(f"334 {base64.b64encode(json.dumps(why).encode()).decode()}\r\n".encode())
        given = (await reader.readline()).decode().rstrip("\r\n")
        self.log.commands.append(given)
        right = "535 5.7.8 the token is not accepted"
        await self._answer(writer, "auth", right if given == answer else "501 5.5.2 what?", mechanism)


class _Ended(Exception):
    """The connection is over."""


class Gate:
    """Holds whoever comes to it until it is opened, on the server's loop or on a thread."""

    #: Seconds; something has gone wrong if it takes them.
    LONG = 20.0

    def __init__(self):
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self, *_):
        self.reached.set()
        assert self._open.wait(self.LONG)

    async def held(self):
        await asyncio.to_thread(self)

    def open(self):
        self._open.set()


def server_context(authority, *names, **more):
    """Return a server's TLS settings with a certificate for *names* of a throw-away authority.

    *more* is what `trustme.CA.issue_cert` takes, such as ``not_after``.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **more).configure_cert(context)
    return context
