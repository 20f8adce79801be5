"""One rate of a login, kept in a journal's database for all who send by it, on whatever machine.

`Pace` reserves moments at which mails may leave, some seconds ahead, in one transaction on the state of a `rate.Limiter`;
`Granted` has them for a run, and lets each mail go at one of them. What a process that died had reserved is lost: those
who are left are slower by it, never faster.

The clock is the database server's, so no machine's clock matters; only differences of a machine's own are used. A moment
that is used late would crowd what another machine reserved behind it. So each window is a little longer than its rate
says, and whatever is later than that is given back unused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from smtp_notebook.rate import SAME_COMPLAINT, Limiter, Rate, Token
from smtp_notebook.store import Database, Store

__all__ = ["Grant", "Granted", "Pace"]

#: How late a mail may leave, in seconds, and by which part of the shortest window at most: a loop that is busy is late.
_LATE_SECONDS = 0.05
_LATE_SHARE = 1 / 50
#: The same where no rate is paced: a cap lets many mails go at one moment, and few connections take a while for them.
_LATE_UNPACED_SECONDS = 5.0
#: For how long a moment is usable at least, in seconds, however little is known of the database's clock.
_USABLE_SECONDS = 0.01
#: In steps of which windows become longer, so that not each answer of the clock changes them.
_STEP = 0.01
#: No moment is granted that is nearer than this, in seconds, or than so many times what an answer took of late: it would
#: be over when the answer is there.
_SOON_SECONDS = 0.03
_SOON_ANSWERS = 1.5
#: Which part of the longest answer's time counts after each that was quicker.
_FADING = 0.7
#: How often the clock is read at first: the quickest answer tells most.
_FIRST_READINGS = 5
#: By which part two clocks may differ in speed.
_DRIFT = 2e-4
#: How often a run asks again that has nothing granted, in seconds.
_ASK_SECONDS = 0.02
_EARLY = 1e-6
#: How many recipients a grant is for where no rate counts those.
_ANY = 1 << 60

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Grant:
    """Leave to send one mail at a moment that is still to come.

    Attributes:
        seconds: In how many seconds from `told` on it may start.
        token: What the rate's Limiter gave; its moment is by the database's clock.
        room: For how many recipients it may be used.
        grace: How many seconds after its moment it may still be used.
        told: When the answer was there, by `time.monotonic`.
    """

    seconds: float
    token: Token
    room: int = _ANY
    grace: float = _LATE_SECONDS
    told: float = dataclasses.field(default_factory=time.monotonic)


class Pace:
    """One rate, kept in a journal's database for all who send by it.

    Each method is one transaction, which others wait for; it blocks for the database, and belongs on the calling thread.

    Args:
        store: The journal's.
        name: Whose rate it is: made of scope, host, port and user, never of a password.
        rates: What holds, all of them at once.
    """

    def __init__(self, store: Store, name: str, rates: tuple[Rate, ...]) -> None:
        self.name = name
        self.rates = rates
        self._store = store
        most = _LATE_SECONDS if any(rate.paced for rate in rates) else _LATE_UNPACED_SECONDS
        self._late = min([most, *(rate.seconds * _LATE_SHARE for rate in rates)])
        self._ahead_of_here: _Between | None = None
        self._answer = 0.0
        self._any_size = all(rate.unit == "mails" for rate in rates)

    def __repr__(self) -> str:
        return f"<Pace {self.name}: {', '.join(map(str, self.rates)) or 'without limits'}>"

    def open(self, past: Iterable[tuple[float, int, int]] = ()) -> None:
        """Write down what went before, where that is not known; call it before a run begins.

        What is known of this login is never forgotten: a state of other rates becomes one of these, and of *past* only
        what the state does not have is added.

        Args:
            past: As `rate.Limiter` takes it.

        Raises:
            JournalError: The database cannot be used.
        """
        entries = tuple(past)
        self._changed(lambda limiter, now: limiter.learn(now, entries), make=True)

    def reserve(
        self, recipients: Sequence[int], ahead: float, unused: Iterable[Grant] = (), *, slower: bool = False
    ) -> list[Grant]:
        """Reserve moments for mails, in their order; at least one, where there is a mail.

        Args:
            recipients: For how many recipients each of them is.
            ahead: How many seconds ahead moments are wanted; the first mail gets one whenever that is.
            unused: What is given back before, in the same transaction.
            slower: Whether the server complained: see `slow_down`.

        Raises:
            JournalError: The database cannot be used.
        """
        back = [grant.token for grant in unused if not grant.token.returned]

        def change(limiter: Limiter, now: float) -> list[Token]:
            _give_back(limiter, back)
            if slower:
                limiter.slow_down(now)
            soon = now + max(_SOON_SECONDS, _SOON_ANSWERS * self._answer)
            return limiter.reserve(soon, recipients, max(soon, now + ahead))

        tokens, between, late = self._changed(change)
        for token in back:
            token.returned = True
        told = time.monotonic()
        # By the least that the server's clock may be ahead, a moment here is never early; so it may be late already by
        # all that is not known of it.
        grace = late - (between.most - between.least)
        return [
            Grant(t.moment - between.least - told, t, _ANY if self._any_size else t.recipients, grace, told)
            for t in tokens
        ]

    def give_back(self, grants: Iterable[Grant]) -> None:
        """Give back what was granted and not used; what was given back already is left.

        Raises:
            JournalError: The database cannot be used; they count as used.
        """
        found = [grant for grant in grants if not grant.token.returned]
        if found:
            self.reserve((), 0.0, found)

    def slow_down(self) -> None:
        """Halve the rate for all, as `rate.Limiter.slow_down` does.

        Raises:
            JournalError: The database cannot be used.
        """
        self.reserve((), 0.0, slower=True)

    def serve(self, granted: Granted, ahead: float) -> None:
        """Do what a run's `Granted` needs of the database, if anything: call it a few times a second.

        Tells of a complaint, gives back what came too late, and reserves for the mails that wait, up to *ahead* seconds
        ahead, where what is granted lasts for less than half of that.

        Raises:
            JournalError: The database cannot be used; what was asked for can be asked for again.
        """
        with granted.asking(ahead) as asked:
            if asked is not None:
                asked.grants = self.reserve(asked.recipients, ahead, asked.unused, slower=asked.slower)

    def _changed(
        self, work: Callable[[Limiter, float], T], *, make: bool = False
    ) -> tuple[T, _Between, float]:
        """Change the state in one transaction.

        Returns:
            What *work* returns; how far the database's clock is ahead of this process's; and how many seconds after its
            moment a mail may leave.
        """

        def change(db: Database) -> tuple[T, _Between, float, float]:
            if make and self._store.inline:
                # A file needs it only here: it is no reason for another form, which older versions could not read.
                db.execute("CREATE TABLE IF NOT EXISTS pace (name TEXT PRIMARY KEY, state TEXT NOT NULL)")
            self._store.alone(db, f"\n the pace of {self.name}")
            found = db.execute("SELECT state FROM pace WHERE name=?", (self.name,)).fetchone()
            now, between = self._read_clock(db)
            read = time.monotonic()
            late = _late(self._late, between.most - between.least)
            limiter = self._limiter(found[0] if found is not None else None, now, late)
            result = work(limiter, now)
            db.execute(
                "INSERT INTO pace (name, state) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET state=excluded.state",
                (self.name, limiter.state()),
            )
            return result, between, limiter.late, read

        result, between, late, read = self._store.write(change, synced=True)
        self._ahead_of_here = between
        self._answer = max(time.monotonic() - read, self._answer * _FADING)
        return result, between, late

    def _read_clock(self, db: Database) -> tuple[float, _Between]:
        """Return the moment by the database's clock, and how far that is ahead of this process's."""
        known = self._ahead_of_here
        for _ in range(1 if known is not None else _FIRST_READINGS):
            before = time.monotonic()
            now = self._store.clock(db)
            after = time.monotonic()
            seen = _Between(now - after, now - before, after)
            known = seen if known is None else known.narrowed(seen)
        assert known is not None
        return now, known

    def _limiter(self, state: str | None, now: float, late: float) -> Limiter:
        if state is None:
            return Limiter(self.rates, now, late=late)
        try:
            return Limiter.restored(self.rates, state, late=late)
        except ValueError as error:
            raise self._store.damaged(f"the rate of {self.name} ({error})") from None


@dataclass(frozen=True, slots=True)
class _Between:
    """How many seconds one clock is ahead of another, *least* to *most*, as it was known *at* a moment of the other."""

    least: float
    most: float
    at: float

    def narrowed(self, seen: _Between) -> _Between:
        """Return what is known after it was seen once more; only the last, where the clock was set meanwhile."""
        apart = _DRIFT * (seen.at - self.at)
        least, most = max(self.least - apart, seen.least), min(self.most + apart, seen.most)
        return _Between(least, most, seen.at) if least <= most else seen


def _late(least: float, unsure: float) -> float:
    """Return how many seconds after its moment a mail may leave, where a clock is known but for so many.

    Where the database is far away all windows have to be longer: rather slower than too fast.
    """
    if least - unsure >= _USABLE_SECONDS:
        return least
    return (math.ceil((unsure + _USABLE_SECONDS) / _STEP) + 1) * _STEP


def _give_back(limiter: Limiter, tokens: Iterable[Token]) -> None:
    """Give back copies: the transaction may come to nothing, and be run again."""
    for token in sorted(tokens, key=lambda t: t.number, reverse=True):
        limiter.give_back(dataclasses.replace(token))


# ------------------------------------------------------------------------------------------ granted


@dataclass(slots=True)
class Asked:
    """What a `Granted` needs of the database, and what it got.

    Attributes:
        recipients: For how many recipients each of the mails is that a moment is wanted for.
        unused: What is given back.
        slower: Whether the server complained.
        grants: What was reserved.
    """

    recipients: list[int]
    unused: list[Grant]
    slower: bool
    grants: list[Grant] = dataclasses.field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A grant, by this process's clock: usable from *moment* until *end*."""

    moment: float
    end: float
    grant: Grant


class Granted:
    """What a run takes as its limiter: the moments that were reserved for it; satisfies `rate.Limits`.

    `due`, `take`, `give_back` and `slow_down` are used on the loop of the run; the others on the thread that calls
    `Pace`. No method waits for anything but a few steps of another.

    A mail goes at the first moment that has room for it. One that passes unused, by more than its grace, is given back,
    and another is asked for if there is still a mail that waits.

    Args:
        clock: The run's, in seconds; only differences count.

    Attributes:
        complained: Whether the server complained, and `Pace` has not been told.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.complained = False
        self._clock = clock
        self._lock = threading.Lock()
        self._held: list[_Held] = []
        #: Of late given to mails, by token; a mail that is not tried gives it back.
        self._out: dict[int, _Held] = {}
        #: For how many recipients each of the mails is that nothing was reserved for yet.
        self._wanted: deque[int] = deque()
        #: Of what passed unused; asked for again when a mail finds nothing.
        self._lapsed: list[int] = []
        self._back: list[Grant] = []
        self._asking = False
        #: Whether a mail found nothing that it could use.
        self._short = False
        self._heard = float("-inf")

    def __repr__(self) -> str:
        return f"<Granted {len(self._held)} mails; {len(self._wanted)} wait to be>"

    # ------------------------------------------------------------------------------ the calling thread

    def want(self, recipients: Iterable[int]) -> None:
        """Have moments reserved for mails that were claimed: for how many recipients each of them is."""
        with self._lock:
            self._wanted.extend(recipients)

    def lasts(self, now: float) -> float:
        """Return how many seconds from *now* the last moment is that is granted; 0.0 where there is none."""
        with self._lock:
            return max([0.0, *(held.moment - now for held in self._held[-1:])])

    def add(self, grants: Iterable[Grant]) -> None:
        """Take grants, whose moments are as many seconds from now as they say."""
        with self._lock:
            self._add(grants)

    def _add(self, grants: Iterable[Grant]) -> None:
        now, told = self._clock(), time.monotonic()
        for grant in grants:
            moment = now + grant.seconds - (told - grant.told)
            self._held.append(_Held(moment, moment + grant.grace, grant))
        self._held.sort(key=lambda held: held.moment)

    def unused(self) -> list[Grant]:
        """Return what was granted and will not be used, to give it back; nothing is granted any more."""
        with self._lock:
            found = [*self._back, *(held.grant for held in self._held)]
            self._back, self._held = [], []
            self._wanted.clear()
            self._lapsed.clear()
            return found

    @contextlib.contextmanager
    def asking(self, ahead: float) -> Iterator[Asked | None]:
        """Give what is needed of the database, or None; what the block puts there as grants is added.

        Where the block raises, all is needed as before.
        """
        asked = self._ask(ahead)
        if asked is None:
            yield None
            return
        try:
            yield asked
        except BaseException:
            with self._lock:
                self._asking = False
                self._wanted.extendleft(reversed(asked.recipients))
                self._back += asked.unused
                self.complained = self.complained or asked.slower
            raise
        with self._lock:
            self._asking = False
            self._wanted.extendleft(reversed(asked.recipients[len(asked.grants) :]))
            self._add(asked.grants)

    def _ask(self, ahead: float) -> Asked | None:
        with self._lock:
            lasts = max([0.0, *(held.moment - self._clock() for held in self._held[-1:])])
            wants = bool(self._wanted) and (self._short or lasts < ahead / 2)
            if not wants and not self.complained:
                return None
            asked = Asked(list(self._wanted) if wants else [], self._back, self.complained)
            if wants:
                self._wanted.clear()
                self._short = False
            self._back, self.complained, self._asking = [], False, True
            return asked

    # -------------------------------------------------------------------------------- the run's loop

    def due(self, now: float, recipients: int = 1) -> float:
        """Return for how many seconds from *now* a mail has to wait; a moment, where nothing is granted yet."""
        with self._lock:
            self._lapse(now)
            for held in self._held:
                if held.grant.room >= recipients:
                    wait = held.moment - now
                    return wait if wait > _EARLY else 0.0
            self._want_more(recipients)
            return _ASK_SECONDS

    def _lapse(self, now: float) -> None:
        """Let go of what is too late by now."""
        while self._held and self._held[0].end < now:
            self._lose(self._held.pop(0))
        while self._out and (first := next(iter(self._out.items())))[1].end < now:
            del self._out[first[0]]

    def _lose(self, held: _Held) -> None:
        self._back.append(held.grant)
        self._lapsed.append(held.grant.token.recipients)

    def _want_more(self, recipients: int) -> None:
        """Ask for a moment for a mail that has none: what it was granted is over, or it is tried again."""
        self._short = True
        if self._asking:
            return
        # Mails that were stopped or put off want nothing: so what is over is asked for when a mail is short of it.
        self._wanted.extendleft(reversed(self._lapsed))
        self._lapsed.clear()
        if not any(size >= recipients for size in self._wanted):
            self._wanted.appendleft(recipients)

    def take(self, now: float, recipients: int = 1) -> Token:
        """Take the token of a mail that is due.

        Raises:
            ValueError: It is not due; ask `due` first.
        """
        with self._lock:
            for number, held in enumerate(self._held):
                if held.grant.room >= recipients and held.moment <= now + _EARLY:
                    del self._held[number]
                    self._out[held.grant.token.number] = held
                    return held.grant.token
        message = "a mail was to start before its time"
        raise ValueError(message)

    def give_back(self, token: Token) -> None:
        """Take back a token with which nothing was sent: another mail may use it as long as it is not too late."""
        with self._lock:
            if token.returned:
                return
            token.returned = True
            # A copy: whoever had this one has it no more.
            again = dataclasses.replace(token, returned=False)
            held = self._out.pop(token.number, None)
            if held is None or held.end < self._clock():
                self._back.append(Grant(0.0, again))
                return
            grant = dataclasses.replace(held.grant, token=again)
            self._held.append(dataclasses.replace(held, grant=grant))
            self._held.sort(key=lambda each: each.moment)

    def slow_down(self, now: float) -> None:
        """Note that the server complained; what was granted at the old speed is given up."""
        with self._lock:
            if now - self._heard < SAME_COMPLAINT:
                return
            self._heard, self.complained = now, True
            for held in self._held:
                self._lose(held)
            self._held = []
            self._short = True
            self._wanted.extendleft(reversed(self._lapsed))
            self._lapsed.clear()
