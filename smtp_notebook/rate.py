"""How fast a server may be sent to: what a person wrote, and the decision when the next mail may start.

Windows up to a minute are paced evenly, because a burst at a window's boundary is what large providers
refuse ("30/min" is one mail each 2 s). Longer windows are sliding caps: at most so many in any window of that
length. Nothing here sleeps or reads a clock; moments are seconds of one monotonic clock that callers pass in.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from smtp_notebook.outcome import SettingsError

__all__ = ["Limiter", "Rate", "Token", "least_seconds", "parse_rates"]

Unit = Literal["mails", "recipients"]
_LONGEST = 31 * 86400
_MOST = 10**9
#: Up to this window a rate is paced; above, it is a sliding cap.
_PACED_SECONDS = 60
_FIX = 'Write "30/min", "10/s", "50/5 min", "2000/day" or "100 recipients/min".'
_SECONDS: Mapping[str, int] = {"week": 7 * 86400, "day": 86400, "hour": 3600, "min": 60, "s": 1}
_SHORT = {
    "sec": "s", "second": "s", "seconds": "s", "minute": "min", "minutes": "min", "h": "hour",
    "hours": "hour", "d": "day", "days": "day", "weeks": "week",
}  # fmt: skip
_UNITS: Mapping[str, Unit] = {
    "": "mails", "mail": "mails", "mails": "mails", "message": "mails", "messages": "mails",
    "recipient": "recipients", "recipients": "recipients",
}  # fmt: skip
_RATE = re.compile(
    r"(?P<count>[0-9]{1,12}) ?(?P<unit>[a-z]*) ?(?:/|per) ?(?P<factor>[0-9]{0,9}) ?(?P<time>[a-z]+)"
)

#: How many buckets a sliding cap keeps; one bucket's width is how much later than possible it may let go.
_BUCKETS = 1024
#: A timer may wake this much early, in seconds.
_EARLY = 1e-6
#: After a halving, the seconds in which further complaints are taken for the same one.
_SAME_COMPLAINT = 10.0
#: The seconds in which a rate climbs back from nothing to all of it.
_RAMP = 600.0
_LEAST_SHARE = 1 / 64
#: Over how many seconds the speed of an unlimited connection is measured.
_MEASURED = 10.0


@dataclass(frozen=True, slots=True)
class Rate:
    """At most *count* mails, or recipients, in *seconds*.

    Attributes:
        count: How many.
        seconds: The length of the window, whole seconds; up to 60 it is paced, above a sliding cap.
        unit: Whether mails or recipients are counted.

    Raises:
        SettingsError: A number out of range, or another unit.
    """

    count: int
    seconds: int
    unit: Unit = "mails"

    def __post_init__(self) -> None:
        if not 1 <= self.count <= _MOST or not 1 <= self.seconds <= _LONGEST:
            cause = f"A rate of {self.count} in {self.seconds} s is out of range."
            raise SettingsError(cause, f"Count from 1 to {_MOST:,}, in a window of 1 s to 31 days.")
        if self.unit not in get_args(Unit):
            raise SettingsError(f"A rate counts mails or recipients, not {self.unit!r}.", _FIX)

    @property
    def paced(self) -> bool:
        """Whether it is spread evenly, rather than a cap on any window."""
        return self.seconds <= _PACED_SECONDS

    def __str__(self) -> str:
        name = next(name for name, length in _SECONDS.items() if self.seconds % length == 0)
        factor = self.seconds // _SECONDS[name]
        what = "" if self.unit == "mails" else f" {self.unit}"
        return f"{self.count}{what}/{'' if factor == 1 else f'{factor} '}{name}"


def parse_rates(given: str | Iterable[str | Rate]) -> tuple[Rate, ...]:
    """Return the Rates of ``"30/min, 2000/day"``, or of several such texts; none for "" and ().

    Raises:
        SettingsError: A text that is no rate; names it.
    """
    if not isinstance(given, str | list | tuple):
        raise SettingsError(f"rate={_shown(given)} is no rate.", _FIX)
    found: list[Rate] = []
    for each in (given,) if isinstance(given, str) else given:
        if isinstance(each, Rate):
            found.append(each)
        elif not isinstance(each, str):
            raise SettingsError(f"{_shown(each)} is no rate.", _FIX)
        elif each.strip():
            found.extend(map(_parse, each.split(",")))
    return tuple(dict.fromkeys(found))


def least_seconds(rates: Iterable[Rate], mails: int) -> float:
    """Return how long so many mails of one recipient take at least, in seconds, when nothing went before.

    A paced rate spreads them; a cap lets its number go at once, and makes the next ones wait for its window.
    """
    waits = [
        (mails - 1) * rate.seconds / rate.count if rate.paced else (mails - 1) // rate.count * rate.seconds
        for rate in rates
    ]
    return max([0.0, *waits])


def _parse(text: str) -> Rate:
    found = _RATE.fullmatch(" ".join(text.lower().split()))
    if found is None:
        raise SettingsError(f"{_shown(text)} is no rate.", _FIX)
    if found["unit"] not in _UNITS:
        raise SettingsError(f"{_shown(text)} counts neither mails nor recipients.", _FIX)
    name = _SHORT.get(found["time"], found["time"])
    if name not in _SECONDS:
        fix = f"There are {', '.join(reversed(list(_SECONDS)))}."
        raise SettingsError(f"{_shown(text)} has an unknown time {found['time']!r}.", fix)
    return Rate(int(found["count"]), int(found["factor"] or 1) * _SECONDS[name], _UNITS[found["unit"]])


def _shown(text: object, most: int = 60) -> str:
    whole = repr(text)
    return whole if len(whole) <= most else f"{whole[:most]}…"


# ------------------------------------------------------------------------------------------- limiter


@dataclass(slots=True, eq=False)
class Token:
    """Leave to send one mail, from `Limiter.take`.

    Attributes:
        moment: When it was taken.
        recipients: For how many recipients.
        returned: Whether it was given back.
    """

    moment: float
    recipients: int
    returned: bool = False

    def amount(self, unit: Unit) -> int:
        """Return what it counts for in a rate of *unit*."""
        return 1 if unit == "mails" else self.recipients


class Limiter:
    """Decides when the next mail may start; one is shared by all connections of a login.

    Whoever wants to send asks `due`, waits that long, asks again, and takes the token when nothing is left to
    wait for. Nobody holds a token before its moment, so a cancelled wait leaves nothing behind, a slow-down
    counts at once for everyone, and a mail that holds its token may have its envelope sent ahead. Waiting in
    one queue keeps the order::

        async with turn:  # an asyncio.Lock wakes in order
            while wait := limiter.due(clock(), recipients):
                await pause(wait)
            token = limiter.take(clock(), recipients)

    Args:
        rates: What holds; all of them at once. None: no limit, and only `slow_down` has an effect.
        now: The present moment.
        past: What went before by this login to this host, as ``(age in seconds, mails, recipients)`` in any
            order, so that a new process does not begin a new day. Entries may be sums of several mails: give
            the age of the last one.
    """

    def __init__(
        self, rates: Iterable[Rate], now: float = 0.0, past: Iterable[tuple[float, int, int]] = ()
    ) -> None:
        self.rates = tuple(rates)
        self._paces = [_Pace(r.seconds / r.count, r.unit) for r in self.rates if r.paced]
        # Mails of one size cannot crowd a paced window; those of several recipients can, by rounding.
        self._caps = [_Cap(r) for r in self.rates if not r.paced or r.unit == "recipients"]
        self._measured = _Cap(Rate(_MOST, int(_MEASURED)))
        self._learnt: _Pace | None = None
        self._share, self._slowed = 1.0, float("-inf")
        self._undo: tuple[Token, list[tuple[_Pace, float, int]]] | None = None
        for age, mails, recipients in sorted(past, reverse=True):
            self._remember(now - max(age, 0.0), mails, recipients)

    def __repr__(self) -> str:
        return f"<Limiter {', '.join(map(str, self.rates)) or 'without limits'}>"

    def _remember(self, moment: float, mails: int, recipients: int) -> None:
        for cap in self._caps:
            cap.add(moment, mails if cap.rate.unit == "mails" else recipients)
        for pace in self._paces:
            pace.last, pace.amount = (
                moment,
                1 if pace.unit == "mails" else max(1, recipients // max(mails, 1)),
            )

    def due(self, now: float, recipients: int = 1) -> float:
        """Return for how many seconds from *now* a mail to so many recipients has to wait; 0.0 when it may go.

        A mail to more recipients than a whole window holds goes when that window is empty.
        """
        asked = Token(now, recipients)
        share = self._share_at(now)
        moments = [
            *(p.free_at(share) for p in self._all_paces(now)),
            *(c.free_at(now, asked.amount(c.rate.unit)) for c in self._caps),
        ]
        wait = max(moments, default=now) - now
        return wait if wait > _EARLY else 0.0

    def take(self, now: float, recipients: int = 1) -> Token:
        """Take the token of a mail that is due.

        Raises:
            ValueError: It is not due; ask `due` first.
        """
        wait = self.due(now, recipients)
        if wait:
            message = f"a mail was to start {wait:g} s before its time"
            raise ValueError(message)
        token = Token(now, recipients)
        paces = self._all_paces(now)
        self._undo = (token, [(p, p.last, p.amount) for p in paces])
        for pace in paces:
            # A timer that woke early must not make the next one earlier still.
            pace.last = max(now, pace.free_at(self._share_at(now)))
            pace.amount = token.amount(pace.unit)
        for cap in (*self._caps, self._measured):
            cap.add(now, token.amount(cap.rate.unit))
        return token

    def give_back(self, token: Token) -> None:
        """Take back a token with which nothing was sent; a second time does nothing.

        Caps count it no more. Its place in the pace is free again when nobody took one since.
        """
        if token.returned:
            return
        token.returned = True
        for cap in (*self._caps, self._measured):
            cap.remove(token.moment, token.amount(cap.rate.unit))
        if self._undo is not None and self._undo[0] is token:
            for pace, last, amount in self._undo[1]:
                pace.last, pace.amount = last, amount
            self._undo = None

    def slow_down(self, now: float) -> None:
        """Halve the pace, as after a ``421 4.7.28``; it climbs back within ten minutes.

        Complaints that come close together (one for each connection) count as one. Without a pace, half of the
        speed of the last seconds becomes one until it has climbed back.
        """
        if now - self._slowed < _SAME_COMPLAINT:
            return
        if not any(p.unit == "mails" for p in self._all_paces(now)):
            self._learnt = _Pace(1 / self._measured.speed(now), "mails", last=now)
        self._share = max(self._share_at(now) / 2, _LEAST_SHARE)
        self._slowed = now

    def _share_at(self, now: float) -> float:
        """Return which part of the pace holds at a moment."""
        return min(1.0, self._share + max(0.0, now - self._slowed) / _RAMP)

    def _all_paces(self, now: float) -> list[_Pace]:
        if self._learnt is not None and self._share_at(now) >= 1:
            self._learnt = None
        return [*self._paces, *([self._learnt] if self._learnt is not None else [])]


@dataclass(slots=True, eq=False)
class _Pace:
    """An even rhythm: after *amount* of something, the next has to wait *amount* intervals."""

    interval: float
    unit: Unit
    last: float = float("-inf")
    amount: int = 1

    def free_at(self, share: float) -> float:
        return self.last + self.amount * self.interval / share


class _Cap:
    """At most so many in any window, in buckets: each counts until its last moment is a window ago.

    So a hundred thousand mails take no more memory than a thousand, and the error is on the safe side.
    """

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._width = rate.seconds / _BUCKETS
        self._buckets: deque[_Bucket] = deque()
        self._total = 0

    def total(self, now: float) -> int:
        """Return how many count at a moment, and forget what does not any more."""
        while self._buckets and self._buckets[0].last + self.rate.seconds <= now + _EARLY:
            self._total -= self._buckets.popleft().amount
        return self._total

    def speed(self, now: float) -> float:
        """Return how many a second there were of late, as far as a second or more tells."""
        seen = max(1, self.total(now))
        since = self._buckets[0].first if self._buckets else now
        return seen / min(max(now - since, 1.0), self.rate.seconds)

    def free_at(self, now: float, amount: int) -> float:
        """Return the moment from which on *amount* more fit."""
        over = self.total(now) + min(amount, self.rate.count) - self.rate.count
        moment = now
        for bucket in self._buckets:
            if over <= 0:
                break
            over -= bucket.amount
            moment = bucket.last + self.rate.seconds
        return moment

    def add(self, now: float, amount: int) -> None:
        self._total += amount
        newest = self._buckets[-1] if self._buckets else None
        if newest is not None and now < newest.first + self._width:
            newest.last = max(newest.last, now)
            newest.amount += amount
        else:
            self._buckets.append(_Bucket(now, now, amount))
        self.total(now)

    def remove(self, moment: float, amount: int) -> None:
        """Count *amount* of that moment no more; one that has left its window counted for nothing."""
        for bucket in reversed(self._buckets):
            if bucket.first <= moment <= bucket.last:
                bucket.amount -= amount
                self._total -= amount
                return


@dataclass(slots=True, eq=False)
class _Bucket:
    first: float
    last: float
    amount: int
