"""What a pool of connections does next: pure decisions, taken over a frozen picture of the whole pool."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Manner", "Order", "Pool", "order", "shrunk"]


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
        limit: How many may be open; shrinks when the server says that there are too many.
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
