"""What a pool of connections does next: pure decisions, taken over a frozen picture of the whole pool."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median_low

__all__ = [
    "Aim", "Kept", "Manner", "Order", "Pool", "begun", "complained", "enough", "measured", "order", "refused", "shrunk",
]  # fmt: skip

#: With so many connections a run begins, where the person allows as many.
FIRST = 4
#: Complaints that come within so many seconds, one for each connection, count as one.
SAME_COMPLAINT = 10.0
#: After how many seconds one more is tried where more did not help; twice as many after each trial that failed.
PAUSE = 120.0
#: How many trials may fail before there are no more.
TRIES = 4
#: For each connection, so many mails go by until all of them are used, and so many are measured then.
_SETTLING, _COUNTED = 2, 3
#: Where no step is being judged, so many mails at least are looked at together.
_AT_REST = 64
#: Connections that carry a mail for less than this part of the time are not what holds a run up.
_WORKED = 0.5


class Order(enum.Enum):
    """What a mail that wants a connection has to do."""

    REUSE = "take an idle one"
    DIAL = "make one"
    WAIT = "wait until the pool changes"


class Manner(enum.IntEnum):
    """How many commands may share a write; earned step by step, by one connection first (RFC 2920)."""

    IN_TURN = 0
    GROUPED = 1
    AHEAD = 2


@dataclass(frozen=True, slots=True)
class Pool:
    """All connections to one server, at one moment.

    Attributes:
        limit: How many may be open: what is aimed at, see `Aim`.
        idle: Those that stand between two mails.
        busy: Those that carry a mail.
        dialling: Those that are being made.
        proven: Whether one has been made and logged in.
        doubtful: Whether a mail fell in doubt, and none was accepted since.
    """

    limit: int
    idle: int = 0
    busy: int = 0
    dialling: int = 0
    proven: bool = False
    doubtful: bool = False


def order(pool: Pool) -> Order:
    """Decide what a mail that wants a connection does."""
    # 1. A server that lost an answer gets one mail at a time until it accepts one.
    if pool.doubtful and pool.busy + pool.dialling:
        return Order.WAIT
    # 2. A connection that stands costs nothing.
    if pool.idle:
        return Order.REUSE
    # 3. The first one logs in alone: a wrong password is one failed login, not one for each connection.
    if pool.dialling and not pool.proven:
        return Order.WAIT
    # 4. No more than the server, or the person, allows.
    if pool.busy + pool.dialling >= pool.limit:
        return Order.WAIT
    return Order.DIAL


def shrunk(pool: Pool) -> int | None:
    """Return the new limit after the server refused one connection more, or None when it refused the only one.

    *pool* no longer counts the refused one.
    """
    others = pool.idle + pool.busy + pool.dialling
    return min(pool.limit, others) if others else None


# ------------------------------------------------------------------- how many connections are worth having


@dataclass(frozen=True, slots=True)
class Aim:
    """How many connections are aimed at, and what is known about fewer.

    A run begins with four at most. More are opened where the person allows more and a mail keeps its connection about as
    long as with fewer: then most of that time is the server's latency, and mails can wait for it side by side. Where
    mails take longer for it, the server, or this machine, is what they wait for.

    Attributes:
        most: What the person allows.
        goal: How many are to be open.
        base: How many there were before the last step, while that is being judged; else 0.
        held: For how long a mail kept its connection when that was measured last, before the step that is being
            judged; the median, in seconds. None where it was not measured.
        capped: Whether more were refused, did not help or were complained of: one more has to wait for *until*.
        until: The moment from which one more may be tried.
        tries: How many trials failed, or are being judged.
        refused: How many connections the server refused.
        slowed: How often the server asked for fewer mails.
        complained: When it last asked for less.
    """

    most: int
    goal: int
    base: int = 0
    held: float | None = None
    capped: bool = False
    until: float = 0.0
    tries: int = 0
    refused: int = 0
    slowed: int = 0
    complained: float = -math.inf


@dataclass(frozen=True, slots=True)
class Kept:
    """For how long each of some mails kept its connection, one after another.

    Attributes:
        seconds: How long, in seconds; in the order in which they were done.
        elapsed: In how many seconds all of them went.
    """

    seconds: Sequence[float]
    elapsed: float

    def median(self, goal: int) -> float:
        """Return how long a mail kept its connection, in seconds, after *goal* connections had settled."""
        return median_low(self.seconds[_SETTLING * goal :] or self.seconds)

    def worked(self, goal: int) -> bool:
        """Tell whether *goal* connections carried a mail most of the time, and did not wait for rows or the rate."""
        return sum(self.seconds) >= _WORKED * goal * self.elapsed


def begun(most: int) -> Aim:
    """Return with how many connections a run begins, where the person allows *most*."""
    return Aim(most, min(most, FIRST))


def enough(aim: Aim) -> int:
    """Return after how many mails it is time to look at what is aimed at."""
    few = (_SETTLING + _COUNTED) * aim.goal
    return few if aim.base or (aim.goal < aim.most and not aim.capped) else max(few, _AT_REST)


def measured(aim: Aim, kept: Kept, now: float) -> Aim:
    """Return what to aim at after so many mails at `Aim.goal`.

    A step is judged by what it cost: with a third more connections a mail may take a third longer before nothing is won. A
    third of that is taken for nothing, and the next step follows; from two thirds on the step is taken back; between
    them it stays the last one. What connections that wait for rows or for the rate say decides nothing.
    """
    if not kept.worked(aim.goal):
        return aim
    held = kept.median(aim.goal)
    if aim.base and aim.held is not None:
        lost = held - aim.held
        breakeven = aim.held * (aim.goal / aim.base - 1)
        if 3 * lost > 2 * breakeven:
            return _capped(replace(aim, goal=aim.base, base=0), now)
        if 3 * lost > breakeven:
            return _capped(replace(aim, base=0, held=held), now)
        # It was worth having: the next trial, where there have to be trials, waits no longer than the first did.
        aim = replace(aim, base=0, tries=0, until=now + PAUSE)
    return _stepped(replace(aim, held=held), now)


def _stepped(aim: Aim, now: float) -> Aim:
    """Return *aim* with more, where more may be had now: twice as many, or one as a trial."""
    if aim.goal >= aim.most:
        return aim
    if not aim.capped:
        return replace(aim, goal=min(aim.most, 2 * aim.goal), base=aim.goal)
    if aim.tries < TRIES and now >= aim.until:
        return replace(aim, goal=aim.goal + 1, base=aim.goal, tries=aim.tries + 1)
    return aim


def _capped(aim: Aim, now: float) -> Aim:
    """Return *aim* with no more than it has for some minutes; for longer after each trial."""
    return replace(aim, capped=True, until=now + PAUSE * 2**aim.tries)


def refused(aim: Aim, pool: Pool, now: float) -> Aim | None:
    """Return what to aim at after the server refused one connection more; None when it refused the only one.

    *pool* no longer counts the refused one.
    """
    limit = shrunk(pool)
    if limit is None:
        return None
    return _capped(replace(aim, goal=min(aim.goal, limit), base=0, refused=aim.refused + 1), now)


def complained(aim: Aim, standing: int, now: float, *, crowded: bool) -> Aim:
    """Return what to aim at after the server asked for less, in the answer to a mail: no more than stand.

    Args:
        aim: What was aimed at.
        standing: How many connections stand, or are being made, with the one that was told.
        now: The present moment.
        crowded: Whether it spoke of connections, so that this one is one too many; else of mails.
    """
    if now - aim.complained < SAME_COMPLAINT:
        return aim
    goal = max(1, min(aim.goal, standing - crowded))
    counted = replace(aim, refused=aim.refused + crowded, slowed=aim.slowed + (not crowded), complained=now)
    return _capped(replace(counted, goal=goal, base=0), now)
