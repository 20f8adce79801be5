"""SMTP to one server over a small pool of connections.

MAIL, RCPT and DATA are driven here, command by command, because only that tells "never sent" from "maybe
sent": every failure knows its stage, and a reply counts by its first digit.

Nothing can hand one row's text to another's recipient: after a transaction that did not end in a reply to its
dot the next one begins with RSET, and where the MAIL of commands in one write is not accepted, or RSET not answered,
no text goes out on that connection any more. Several servers answer the DATA behind a refused MAIL with 354 all the
same.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from smtp_notebook import advice
from smtp_notebook import pool as pools
from smtp_notebook.outcome import State, Tuning
from smtp_notebook.pool import Aim, Manner, Order, Pool, order
from smtp_notebook.replies import HaltedError, Reply, Stage, Verdict, classify, crowded, slower, too_many
from smtp_notebook.session import DialError, Dialler, Link, LostError, size_limit

if TYPE_CHECKING:
    from smtp_notebook.connection import Connection

__all__ = ["Ahead", "Lane", "Mail", "Permit", "SmtpTransport"]

_RESET_SECONDS = 5.0
_CLOSE_SECONDS = 2.0
_GO_AHEAD = 3
_START = 354
_DISCONNECTING = 421
#: A text longer than this waits until the server took it before its dot leaves.
_HIGH_WATER = 48 * 1024
#: After so many connections in a row that end at grouped commands they are given one by one.
_PATIENCE = 3
#: Seconds that must have passed since a run was slowed down before its speed means something.
_TELLING = 10.0


class Mail(Protocol):
    """One mail and its envelope.

    Attributes:
        sender: The reverse path in wire form; "" for the null one.
        recipients: The forward paths, each once.
        smtputf8: Whether an address or a header needs SMTPUTF8 (RFC 6531).
        chunks: The mail: CRLF lines, the last one ended. Parts that many mails share are the same object.
        size: Its octets together.
        message_id: Its Message-ID, with angle brackets.
    """

    sender: str
    recipients: tuple[str, ...]
    smtputf8: bool
    chunks: tuple[bytes, ...]
    size: int
    message_id: str


#: Awaited after the server's 354 and before the first octet of the mail.
Permit = Callable[[], Awaitable[None]]
#: Gives the mail that follows, when it may leave at once; never waits.
Ahead = Callable[[], "Mail | None"]


def _nothing() -> None:
    return None


@dataclass(slots=True)
class _Opened:
    """What came of an envelope.

    Attributes:
        refusal: Why no text may follow, or None when the server waits for it.
        answers: Each recipient's answer.
        stale: Whether the connection was too old to say anything of this mail; another one may be tried.
    """

    refusal: Verdict | None = None
    answers: list[tuple[str, Reply]] = field(default_factory=list)
    stale: bool = False


_READY = _Opened()


@dataclass(slots=True)
class _Pending:
    """An envelope that was sent ahead, and how many replies it will get."""

    link: Link
    mail: Mail
    count: int


class SmtpTransport:
    """Hands mails to one server; satisfies `merge.Transport`.

    Args:
        connection: The server and its limits.
        password: The secret, when the connection has a user.
        clock: What is taken for the time, in seconds; only differences count.

    How many connections are open follows what the server answers, as `pool` decides: `kept` is told for how long each mail
    kept its connection. Never are there more than the connection's ``max_connections``.

    Commands share a write where the server offers PIPELINING (RFC 2920) and one connection has shown that it
    works: first MAIL, RCPT and DATA of one mail, then also the dot of one mail with the envelope of the next.
    """

    def __init__(
        self,
        connection: Connection,
        password: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.connection = connection
        self.stuffed = _Stuffing()
        self._dialler = Dialler(connection, password)
        self._clock = clock
        self.aim = pools.begun(connection.max_connections)
        #: Whether more connections are open than are aimed at.
        self.over = False
        self._missing = self.aim.goal
        self._window: list[float] = []
        self._enough = pools.enough(self.aim)
        self._since = self._began = clock()
        self._ended: float | None = None
        self._went = 0
        self._slowed_at = 0.0, 0
        self._median: float | None = None
        self._latency: float | None = None
        self._stood = 0
        self._idle: list[Link] = []
        self._busy: set[Link] = set()
        self._leaving: dict[asyncio.Task[None], Link] = {}
        self._dialling = 0
        self._proven = False
        self._halted = False
        self._fatal: Verdict | None = None
        self._changed: list[asyncio.Future[None]] = []
        self._manner = Manner.IN_TURN
        self._earned = False
        self._trial: Link | None = None
        self._hangups = 0
        self.forbidden = False
        self.doubtful = False

    def __repr__(self) -> str:
        return f"<SmtpTransport {self.connection.url}: {len(self._busy)} busy, {len(self._idle)} idle>"

    def lane(self) -> Lane:
        """Return a lane: it carries one mail after another."""
        return Lane(self)

    def halt(self) -> None:
        """Give no connection to further mails; those that have one may finish."""
        self._halted = True
        self._tell()

    async def rest(self) -> None:
        """Close the connections that nobody uses: the next mail is further away than a server waits."""
        idle, self._idle = self._idle, []
        for link in idle:
            await link.close()

    async def aclose(self) -> None:
        """Close every connection; takes 2 s at most, whatever the server does."""
        self._ended = self._clock()
        links = [*self._idle, *self._busy, *self._leaving.values()]
        self._idle.clear()
        leaving = list(self._leaving)
        closing = [asyncio.ensure_future(link.close()) for link in links[: len(links) - len(leaving)]]
        closing += leaving
        if closing:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(closing, timeout=_CLOSE_SECONDS)
        for link, task in zip(links, closing, strict=True):
            task.cancel()
            link.abort()

    # ------------------------------------------------------------------------------------- the pool

    @property
    def pool(self) -> Pool:
        """The pool as it is now."""
        return Pool(
            self.aim.goal, len(self._idle), len(self._busy), self._dialling, self._proven, self.doubtful
        )

    async def acquire(self) -> Link:
        """Return a connection that can carry a mail.

        Raises:
            DialError: There is none to be had.
            HaltedError: There will be none.
        """
        while True:
            if self._fatal is not None:
                raise DialError(self._fatal)
            if self._halted:
                raise HaltedError
            match order(self.pool):
                case Order.REUSE:
                    link = self._idle.pop()
                    if link.alive and link.used < self.connection.messages_per_connection:
                        self._busy.add(link)
                        return link
                    self.retire(link)
                case Order.DIAL:
                    if (made := await self._dial()) is not None:
                        return made
                case Order.WAIT:
                    await self._change()

    async def _dial(self) -> Link | None:
        """Make a connection; None when the server has enough of them and others stand."""
        self._dialling += 1
        try:
            link = await self._dialler.dial()
        except DialError as error:
            self._dialling -= 1
            if error.verdict.stops_run:
                self._fatal = error.verdict
            self._tell()
            aim = pools.refused(self.aim, self.pool, self._clock()) if error.verdict.retry else None
            if aim is None:
                raise
            self._aim_at(aim)
            return None
        except BaseException:
            self._dialling -= 1
            self._tell()
            raise
        self._dialling -= 1
        self._proven = True
        self._busy.add(link)
        self._stood = max(self._stood, self._open)
        self._latency = link.latency if self._latency is None else min(self._latency, link.latency)
        if self._missing:
            self._missing -= 1
            self._measure_anew()  # before the last one stood, mails said nothing of how many there are
        self._tell()
        return link

    def release(self, link: Link) -> None:
        """Give a connection back."""
        if not link.alive or self._open > self.aim.goal:
            self.retire(link)
            return
        self.over = False
        self._busy.discard(link)
        self._idle.append(link)
        self._tell()

    def retire(self, link: Link) -> None:
        """Take leave of a connection that carries no more mails, without waiting for the answer."""
        self._busy.discard(link)
        self.over = self._open > self.aim.goal
        if link.alive:
            task = asyncio.create_task(link.close())
            self._leaving[task] = link
            task.add_done_callback(lambda done: self._leaving.pop(done, None))
        self._tell()

    async def _change(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed.append(future)
        await future

    def _tell(self) -> None:
        waiting, self._changed = self._changed, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def note(self, verdict: Verdict) -> None:
        """Learn from a verdict what holds for the whole server."""
        if verdict.state is State.SENT and not self.doubtful:
            return
        if verdict.stops_run:
            self._fatal = verdict
        elif slower(verdict):
            self.complain(crowded=False)
        if verdict.state is State.IN_DOUBT:
            self.doubtful = True
        elif self.doubtful and verdict.stage is Stage.DOT and verdict.state in {State.SENT, State.PARTIAL}:
            self.doubtful = False
            self._tell()

    # ------------------------------------------------------------------------ how many connections

    @property
    def _open(self) -> int:
        return len(self._busy) + len(self._idle)

    def kept(self, seconds: float) -> int:
        """Take in for how many seconds a mail that was accepted kept its connection; return how many are aimed at."""
        self._window.append(seconds)
        if len(self._window) >= self._enough:
            self._look()
        return self.aim.goal

    def _look(self) -> None:
        """Decide how many connections are worth having, by the mails of late."""
        now = self._clock()
        kept = pools.Kept(self._window, now - self._since)
        self._median = kept.median(self.aim.goal)
        missing = self._missing
        self._measure_anew(now)
        if not missing:
            self._aim_at(pools.measured(self.aim, kept, now))

    def _measure_anew(self, now: float | None = None) -> None:
        if self._window and self._median is None:
            self._median = pools.Kept(self._window, 0.0).median(0)
        self._went += len(self._window)
        self._window = []
        self._since = self._clock() if now is None else now

    def complain(self, *, crowded: bool) -> None:
        """Have fewer connections, or no more: the server asked for less in an answer to a mail."""
        now = self._clock()
        before = self.aim
        self._aim_at(pools.complained(before, self._open + self._dialling, now, crowded=crowded))
        if self.aim.slowed > before.slowed:
            self._slowed_at = now, self._went + len(self._window)

    def _aim_at(self, aim: Aim) -> None:
        if aim.goal != self.aim.goal:
            self._missing = max(0, aim.goal - self.aim.goal)
            self._measure_anew()
        self.aim = aim
        self._enough = pools.enough(aim)
        self.over = self._open > aim.goal

    @property
    def tuning(self) -> Tuning | None:
        """What it settled on; None where no mail was accepted."""
        went = self._went + len(self._window)
        if not went:
            return None
        now = self._clock() if self._ended is None else self._ended
        since, before = self._slowed_at
        return Tuning(
            connections=max(1, min(self.aim.goal, self._stood)),
            allowed=self.aim.most,
            refused=self.aim.refused,
            seconds=pools.Kept(self._window, 0.0).median(0) if self._median is None else self._median,
            latency=self._latency or 0.0,
            elapsed=now - self._began,
            mails_per_second=_speed(went, now - self._began),
            slowed=self.aim.slowed,
            rate=_speed(went - before, now - since) if self.aim.slowed and now - since >= _TELLING else None,
        )

    # ----------------------------------------------------------------------------------- pipelining

    def manner(self, link: Link) -> Manner:
        """Return how many commands may share a write on this connection now."""
        if self.forbidden or "pipelining" not in link.extensions or not self._earned:
            return Manner.IN_TURN
        if self._trial is None or not self._trial.alive:
            self._trial = link
        return Manner(min(self._manner + 1, Manner.AHEAD)) if link is self._trial else self._manner

    def worked(self, link: Link, manner: Manner) -> None:
        """A mail was accepted whose commands were written in this manner."""
        self._earned = True
        self._hangups = 0
        if link is self._trial and manner > self._manner:
            self._manner = manner

    def hung_up(self, *, fresh: bool) -> None:
        """The server closed at grouped commands: it may offer pipelining and not mean it.

        An old connection may have been closed for its age; a *fresh* one was not.
        """
        self._hangups += 1
        if fresh or self._manner < Manner.AHEAD or self._hangups >= _PATIENCE:
            self.forbidden = True


class Lane:
    """Carries one mail after another, each over a connection of the pool.

    When it was told of the next mail in time, that one's envelope has left with the dot of the one before.
    """

    def __init__(self, transport: SmtpTransport) -> None:
        self._transport = transport
        self._at = transport.connection
        self._provider = self._at.provider
        self._pending: _Pending | None = None
        self._link: Link | None = None
        self._dotted = False
        self._answer: Verdict | None = None

    async def deliver(self, mail: Mail, permit: Permit, ahead: Ahead = _nothing) -> Verdict:
        """Try one transaction and return what came of it.

        Args:
            mail: The mail.
            permit: Awaited after the server's 354 and before the mail's first octet. When it raises, the
                connection ends without a dot, and the error goes on.
            ahead: Asked once, when the dot is about to leave, for the mail that the next call will bring.

        Cancelled, it ends the connection and returns ``in_doubt`` when the final dot may have left, else
        ``deferred``.

        Raises:
            HaltedError: The run stops, and nothing of this mail was said.
            ValueError: The mail is not in the form in which one travels.
        """
        octets = self._transport.stuffed(mail.chunks)
        self._dotted, self._answer = False, None
        try:
            verdict = await self._deliver(mail, octets, permit, ahead)
        except asyncio.CancelledError:
            verdict = self._stopped()
            self.abandon()
        except DialError as error:
            verdict = error.verdict
        except BaseException:
            self.abandon()
            raise
        self._transport.note(verdict)
        self._free()
        return verdict

    def _stopped(self) -> Verdict:
        """Return what is known of the mail at this moment."""
        if self._answer is not None:
            return self._answer
        if self._dotted:
            return self._doubt("the run was stopped")
        return self._lost(Stage.CONNECT if self._link is None else Stage.DATA, "the run was stopped")

    def abandon(self) -> None:
        """End the connection at once: without a dot, nothing of an unfinished mail is delivered."""
        for link in (self._link, self._pending.link if self._pending else None):
            if link is not None:
                link.abort()
        self._pending = None
        self._free()

    def _free(self) -> None:
        """Give the connection back, unless it has the next mail's envelope already."""
        link, self._link = self._link, None
        if link is None:
            return
        if self._pending is None:
            self._transport.release(link)
        elif not link.alive:
            self._pending = None
            self._transport.release(link)

    async def _deliver(self, mail: Mail, octets: bytes, permit: Permit, ahead: Ahead) -> Verdict:
        while True:
            opened = self._opened_ahead(mail) or await self._open(mail)
            if opened.refusal is not None:
                return opened.refusal
            link = self._link
            assert link is not None
            if not self._crowded():
                break
            # Another mail fell in doubt meanwhile, and this one is not alone: it waits for its turn.
            link.abort()
            self._free()
        await permit()
        try:
            if len(octets) > _HIGH_WATER:
                await link.dialogue.write(octets, self._at.timeout)
                octets = b""
            following, count = self._say_dot(link, octets, ahead)
        except LostError as error:
            return self._lost(Stage.DATA, str(error))
        replies = await link.dialogue.hear(1, self._at.dot_timeout)
        if not replies:
            if following is not None:
                self._transport.hung_up(fresh=False)
            return self._doubt(link.dialogue.lost)
        if following is not None and not replies[0].good:
            # It would be tried again: that must not be on account of a reply that was one too many.
            await link.dialogue.arrive(count, self._at.timeout)
        if link.dialogue.confused or not (replies[0].good or _fits(link.dialogue.peek(count))):
            # More came than was asked for: which of it answers the dot is anybody's guess.
            return self._doubt("the server's replies do not fit what it was asked")
        return self._answered(link, replies[0], opened.answers, following, count)

    # ------------------------------------------------------------------------------------ the envelope

    def _opened_ahead(self, mail: Mail) -> _Opened | None:
        """Return what came of an envelope that left with the dot before, if all of it is here and good."""
        pending = self._pending
        if pending is None or pending.mail is not mail or self._transport.doubtful:
            return None
        replies = pending.link.dialogue.peek(pending.count)
        if replies is None or not _waits_for_text(replies):
            return None
        pending.link.dialogue.take(pending.count)
        self._pending, self._link = None, pending.link
        return _READY

    async def _open(self, mail: Mail) -> _Opened:
        """Have the server wait for the text of *mail*, or say why it does not."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._link = link = pending.link
            if pending.mail is mail and not self._crowded():
                opened = await self._heard(link, mail, pending.count)
                if not opened.stale:
                    return opened
            # Its 354 may be there: without a dot nothing is delivered (RFC 5321, 4.1.1.4).
            link.abort()
            self._free()
        while True:
            self._link = link = await self._transport.acquire()
            if (refusal := self._unfit(link, mail)) is not None:
                return _Opened(refusal)
            old = link.used > 0 or link.dirty
            grouped = bool(self._transport.manner(link))
            opened = await (self._together if grouped else self._in_turn)(link, mail)
            if not opened.stale:
                return opened
            if not old and not (grouped and self._transport.forbidden):
                return _Opened(opened.refusal or self._lost(Stage.MAIL, link.dialogue.lost))
            # What an old connection says or fails to say is about its age, not about this mail.
            self._link = None
            self._transport.retire(link)

    def _crowded(self) -> bool:
        return self._transport.doubtful and self._transport.pool.busy > 1

    def _unfit(self, link: Link, mail: Mail) -> Verdict | None:
        """Return why this server cannot take the mail at all, known from what it offers; or None."""
        limit = size_limit(link.extensions)
        if 0 < limit < mail.size:
            cause = f"The mail has {mail.size:,} octets; the server takes {limit:,}."
            return _unfit(cause, "Make it smaller: send a link instead of the attachment.")
        if mail.smtputf8 and "smtputf8" not in link.extensions:
            cause = "An address has non-ASCII letters before the @, and the server does not offer SMTPUTF8."
            return _unfit(cause, "Use the person's ASCII address, or another relay.")
        return None

    async def _in_turn(self, link: Link, mail: Mail) -> _Opened:
        """Say MAIL, RCPT and DATA one after another."""
        commands = _commands(link, mail, self._at.notify)
        timeout = self._at.timeout
        answers: list[tuple[str, Reply]] = []
        try:
            if link.dirty and not await self._reset(link):
                return _Opened(stale=True)
            reply = await link.dialogue.ask(commands[0], timeout)
        except LostError:
            return _Opened(stale=True)
        link.dirty = True
        if not reply.good:
            refusal = self._judged(link, Stage.MAIL, reply)
            return _Opened(refusal, stale=link.used > 0 and refusal.retry)
        stage = Stage.RCPT
        try:
            for recipient, command in zip(mail.recipients, commands[1:], strict=False):
                reply = await link.dialogue.ask(command, timeout)
                answers.append((recipient, reply))
                if reply.code == _DISCONNECTING:
                    return _Opened(self._judged(link, stage, reply), answers, stale=link.used > 0)
            if not any(answer.good for _, answer in answers):
                return _Opened(self._judged(link, stage, _worst(answers)), answers)
            stage = Stage.DATA
            reply = await link.dialogue.ask(commands[-1], timeout)
        except LostError as error:
            return _Opened(self._lost(stage, str(error)), answers, stale=link.used > 0)
        if reply.digit == _GO_AHEAD:
            return _Opened(answers=answers)
        stale = link.used > 0 and reply.code == _DISCONNECTING
        return _Opened(_with_refused(self._judged(link, stage, reply), answers), answers, stale=stale)

    async def _reset(self, link: Link) -> bool:
        """Forget an unfinished transaction; False when the connection can carry no other mail."""
        reply = await link.dialogue.ask(b"RSET\r\n", _RESET_SECONDS)
        link.dirty = not reply.good
        return reply.good

    async def _together(self, link: Link, mail: Mail) -> _Opened:
        """Say MAIL, RCPT and DATA in one write."""
        reset = link.dirty
        commands = _commands(link, mail, self._at.notify)
        try:
            link.dialogue.say(
                b"".join([b"RSET\r\n", *commands] if reset else commands), len(commands) + reset
            )
        except LostError:
            return _Opened(stale=True)
        if reset:
            answer = await link.dialogue.hear(1, _RESET_SECONDS)
            if not answer or not answer[0].good:
                link.abort()
                return _Opened(stale=True)
        opened = await self._heard(link, mail, len(commands))
        if opened.stale and opened.refusal is None:
            self._transport.hung_up(fresh=link.used == 0)
        return opened

    async def _heard(self, link: Link, mail: Mail, count: int) -> _Opened:
        """Judge the replies to an envelope that was said in one write."""
        link.dirty = True
        replies = await link.dialogue.hear(count, self._at.timeout)
        if not replies:
            return _Opened(stale=True)
        if not replies[0].good:
            refusal = self._judged(link, Stage.MAIL, replies[0])
            # No text goes out here any more: a 354 behind this would be for nobody, or for somebody else.
            link.abort()
            return _Opened(refusal, stale=link.used > 0 and refusal.retry)
        answers = list(zip(mail.recipients, replies[1:], strict=False))
        closing = next((r for r in replies[1:] if r.code == _DISCONNECTING), None)
        if closing or len(replies) < count:
            stage = Stage.RCPT if len(answers) < len(mail.recipients) else Stage.DATA
            lost = self._judged(link, stage, closing) if closing else self._lost(stage, link.dialogue.lost)
            return _Opened(lost, answers, stale=link.used > 0)
        data = replies[-1]
        if data.good or any(answer.digit == _GO_AHEAD for _, answer in answers):
            refusal = self._judged(link, Stage.DATA, data if data.good else Reply(354, "out of place"))
            link.abort()
            return _Opened(refusal, answers)
        if not any(answer.good for _, answer in answers):
            if data.digit == _GO_AHEAD:
                # RFC 2920, 3.1: the client ends the empty mail itself; it has no recipient.
                with contextlib.suppress(LostError):
                    link.dialogue.say(b".\r\n", 1)
                await link.dialogue.hear(1, self._at.timeout)
            return _Opened(self._judged(link, Stage.RCPT, _worst(answers)), answers)
        if data.digit == _GO_AHEAD:
            return _Opened(answers=answers)
        return _Opened(_with_refused(self._judged(link, Stage.DATA, data), answers), answers)

    # ---------------------------------------------------------------------------------------- the text

    def _say_dot(self, link: Link, octets: bytes, ahead: Ahead) -> tuple[Mail | None, int]:
        """Write the text's dot, and the next envelope with it where that is earned; return it and its length."""
        following = self._next(link, ahead)
        commands = _commands(link, following, self._at.notify) if following is not None else []
        link.dialogue.say(b"".join([octets, b".\r\n", *commands]), 1 + len(commands))
        self._dotted = True
        return following, len(commands)

    def _answered(
        self, link: Link, reply: Reply, answers: list[tuple[str, Reply]], following: Mail | None, count: int
    ) -> Verdict:
        """Judge the reply to a dot."""
        manner = Manner.AHEAD if following is not None else min(self._transport.manner(link), Manner.GROUPED)
        link.used += 1
        link.dirty = following is not None
        verdict = _with_refused(self._judged(link, Stage.DOT, reply), answers)
        self._answer = verdict
        if following is not None:
            # A dot counts by the reply in its place; what its followers get is heard when they are due.
            self._pending = _Pending(link, following, count)
        if reply.good:
            self._transport.worked(link, manner)
        return verdict

    def _next(self, link: Link, ahead: Ahead) -> Mail | None:
        """Return the mail whose envelope may leave together with this dot, or None."""
        if (
            self._transport.doubtful
            or self._transport.over  # this connection may be the one to go
            or self._transport.manner(link) is not Manner.AHEAD
        ):
            return None
        if link.used + 1 >= self._at.messages_per_connection:
            return None
        following = ahead()
        return following if following is not None and self._unfit(link, following) is None else None

    # ------------------------------------------------------------------------------------- verdicts

    def _judged(self, link: Link, stage: Stage, reply: Reply) -> Verdict:
        verdict = classify(stage, reply, self._provider)
        if stage is Stage.DOT and reply.good:
            return verdict
        if crowded(verdict):
            self._transport.complain(crowded=True)
        if (
            reply.code == _DISCONNECTING
            or verdict.state is State.IN_DOUBT
            or reply.digit not in {2, 4, 5}
            or reply.good  # where nothing good was to be had: the two sides disagree
        ):
            link.abort()
        return verdict

    def _lost(self, stage: Stage, why: str) -> Verdict:
        where = f"{self._at.host}:{self._at.port}"
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


# ---------------------------------------------------------------------------------------- pure pieces


def _speed(mails: int, seconds: float) -> float:
    """Return how many mails a second that is, as far as a millisecond or more tells."""
    return mails / max(seconds, 1e-3)


class _Stuffing:
    """Joins a mail's chunks with every leading dot doubled (RFC 5321, 4.5.2).

    A chunk that many mails share, such as an attachment, is looked through once.
    """

    _SHARED = 16 * 1024
    _MOST = 16

    def __init__(self) -> None:
        self._known: dict[int, tuple[bytes, bytes]] = {}

    def __call__(self, chunks: Sequence[bytes]) -> bytes:
        """Return the octets of the DATA command's text.

        Raises:
            ValueError: They are not in the form in which a mail travels.
        """
        if all(len(chunk) <= self._SHARED for chunk in chunks):
            return _stuffed(b"".join(chunks))
        return b"".join([self._shared(c) if len(c) > self._SHARED else _stuffed(c) for c in chunks])

    def _shared(self, chunk: bytes) -> bytes:
        known = self._known.get(id(chunk))
        if known is None or known[0] is not chunk:
            while len(self._known) >= self._MOST:
                del self._known[next(iter(self._known))]
            known = self._known[id(chunk)] = (chunk, _stuffed(chunk))
        return known[1]


def _stuffed(lines: bytes) -> bytes:
    """Return lines with leading dots doubled; refuse a bare line end, which could end the mail early at some servers."""
    ends = lines.count(b"\r\n")
    if not (lines.endswith(b"\r\n") and ends == lines.count(b"\n") == lines.count(b"\r")) or b"\0" in lines:
        msg = "a mail's lines end in CRLF, the last one too, and it has no NUL"
        raise ValueError(msg)
    if b"\r\n." in lines:
        lines = lines.replace(b"\r\n.", b"\r\n..")
    return b"." + lines if lines.startswith(b".") else lines


def _commands(link: Link, mail: Mail, notify: str) -> list[bytes]:
    """Return MAIL, a RCPT for each recipient, and DATA."""
    dsn = notify if "dsn" in link.extensions else ""
    options = f" SIZE={mail.size}" if "size" in link.extensions else ""
    if mail.smtputf8:
        # Header fields are raw UTF-8 then, which is 8-bit data (RFC 6531, 3.6).
        options += " SMTPUTF8" + (" BODY=8BITMIME" if "8bitmime" in link.extensions else "")
    if dsn:
        # RFC 3461, 4.3 and 4.4: headers alone come back, under the name that the sender knows.
        options += f" RET=HDRS ENVID={_xtext(mail.message_id.strip('<>'))}"
    ask = f" NOTIFY={dsn}" if dsn else ""
    recipients = [f"RCPT TO:<{r}>{ask}\r\n".encode() for r in mail.recipients]
    return [f"MAIL FROM:<{mail.sender}>{options}\r\n".encode(), *recipients, b"DATA\r\n"]


def _xtext(text: str) -> str:
    """Return *text* as RFC 3461, 4 wants it in a parameter."""
    return "".join(c if "!" <= c <= "~" and c not in "+=" else f"+{ord(c):02X}" for c in text)


def _waits_for_text(replies: Sequence[Reply]) -> bool:
    """Tell whether MAIL and every RCPT were accepted, and DATA waits."""
    return replies[-1].code == _START and all(reply.good for reply in replies[:-1])


def _fits(replies: Sequence[Reply] | None) -> bool:
    """Tell whether replies to MAIL, RCPT and DATA can be what they seem; those that never came can."""
    if not replies:
        return True
    return not replies[-1].good and all(reply.digit != _GO_AHEAD for reply in replies[:-1])


def _worst(answers: list[tuple[str, Reply]]) -> Reply:
    """Return the answer that decides when nobody was accepted: a temporary one, for it may yet change."""
    replies = [reply for _, reply in answers]
    spent = (r for r in replies if advice.spent(r.code, r.text))  # ends the run, and no row
    return next(spent, None) or next((r for r in replies if r.digit == 4), replies[0])  # noqa: PLR2004 - temporary


def _with_refused(verdict: Verdict, answers: list[tuple[str, Reply]]) -> Verdict:
    """Return the verdict of a mail that some recipients may have been refused, and say so."""
    # The account's limit is no answer to a person: it is tried again.
    refused = tuple(
        (r, f"451 {reply.line}" if advice.spent(reply.code, reply.text) else reply.line)
        for r, reply in answers
        if not reply.good
    )
    if not refused:
        return verdict
    if verdict.state is State.DEFERRED:
        final = tuple((r, said) for r, said in refused if said.startswith("5"))
        return dataclasses.replace(verdict, refused=final) if final else verdict
    if verdict.state is not State.SENT:
        return verdict
    named = ", ".join(r for r, _ in refused)
    return dataclasses.replace(
        verdict,
        state=State.PARTIAL,
        status=202,
        reason=f"Accepted, but not for {named}: {refused[0][1]}",
        fix="The others have it; do not send it to them again.",
        refused=refused,
        later=tuple(r for r, reply in answers if too_many(reply)),
    )


def _unfit(cause: str, fix: str) -> Verdict:
    return Verdict(state=State.REFUSED, status=400, reason=cause, fix=fix, stage=Stage.MAIL)
