"""How fast a server may be sent to: what a person wrote, and the decision when the next mail may start.

Windows up to a minute are paced evenly, because a burst at a window's boundary is what large providers
refuse ("30/min" is one mail each 2 s). Longer windows are sliding caps: at most so many in any window of that
length. Nothing here sleeps or reads a clock; moments are seconds of one monotonic clock that callers pass in.

What a Limiter knows can be written down and taken up elsewhere (`Limiter.state`), and it can be asked for moments that
are still to come (`Limiter.reserve`): so `pace` keeps one for several machines.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from smtp_notebook.outcome import SettingsError

__all__ = ["SAME_COMPLAINT", "Limiter", "Limits", "Rate", "Token", "least_seconds", "parse_rates"]

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
SAME_COMPLAINT = 10.0
#: The seconds in which a rate climbs back from nothing to all of it.
_RAMP = 600.0
_LEAST_SHARE = 1 / 64
#: Over how many seconds the speed of an unlimited connection is measured.
_MEASURED = 10.0
#: By which part two machines' clocks may differ in speed: a mail that waits for a cap waits by one that is not its own.
_DRIFT = 2e-4


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


class Limits(Protocol):
    """What holds the rate of those who send: a `Limiter` of their own, or their part of one that several share."""

    def due(self, now: float, recipients: int = 1) -> float:
        """Return for how many seconds from *now* a mail has to wait before it is asked again; 0.0 when it may go."""
        ...

    def take(self, now: float, recipients: int = 1) -> Token:
        """Take the token of a mail that is due."""
        ...

    def give_back(self, token: Token) -> None:
        """Take back a token with which nothing was sent."""
        ...

    def slow_down(self, now: float) -> None:
        """Go slower: the server complained."""
        ...


@dataclass(slots=True, eq=False)
class Token:
    """Leave to send one mail, from `Limiter.take` or `Limiter.reserve`.

    Attributes:
        moment: From when on it may start; whole microseconds.
        recipients: For how many recipients.
        returned: Whether it was given back.
        number: Tells it from all others of its Limiter.
        before: How its Limiter stood before; the Limiter's own.
    """

    moment: float
    recipients: int
    returned: bool = False
    number: int = 0
    before: tuple[Any, ...] = ()

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

    Who cannot ask for each mail takes several tokens ahead with `reserve`, each with its moment.

    Args:
        rates: What holds; all of them at once. None: no limit, and only `slow_down` has an effect.
        now: The present moment.
        past: What went before by this login to this host, as ``(age in seconds, mails, recipients)`` in any
            order, so that a new process does not begin a new day. Entries may be sums of several mails: give
            the age of the last one.
        late: How many seconds after its moment a mail may leave. Every window is longer by so much, so that none
            holds too many whatever was late.

    Attributes:
        rates: What holds.
        late: As given; `restored` may have made it longer.
    """

    def __init__(
        self,
        rates: Iterable[Rate],
        now: float = 0.0,
        past: Iterable[tuple[float, int, int]] = (),
        *,
        late: float = 0.0,
    ) -> None:
        self.rates = tuple(rates)
        self.late = late
        self._paces = [_Pace((r.seconds + late) / r.count, r.unit) for r in self.rates if r.paced]
        # Mails of one size cannot crowd a paced window; those of several recipients can, by rounding.
        self._caps = [_Cap(r, late) for r in self.rates if not r.paced or r.unit == "recipients"]
        # A pace of mails is what is halved; where there is none, it is the speed that was seen.
        known = any(pace.unit == "mails" for pace in self._paces)
        self._measured = None if known else _Cap(Rate(_MOST, int(_MEASURED)))
        #: Windows that other rates of the same login have: they decide nothing here, but what goes counts there.
        self._kept: list[_Cap] = []
        self._learnt: _Pace | None = None
        self._share, self._slowed = 1.0, float("-inf")
        self._issued = 0
        #: The number of the token that has the last place in the paces; 0 where that cannot be undone.
        self._top = 0
        self.learn(now, past)

    def __repr__(self) -> str:
        return f"<Limiter {', '.join(map(str, self.rates)) or 'without limits'}>"

    def learn(self, now: float, past: Iterable[tuple[float, int, int]]) -> None:
        """Take in what went before, as far as it is not known: see the class. What is known is never forgotten."""
        entries = [(_tick(now - max(age, 0.0)), mails, people) for age, mails, people in sorted(past)]
        for cap in self._caps:
            cap.learn([(at, mails if cap.rate.unit == "mails" else people) for at, mails, people in entries])
            cap.forget(now)
        for pace in self._paces if entries else ():
            moment, mails, people = entries[0]
            if moment > pace.last:
                pace.last = moment
                pace.amount = 1 if pace.unit == "mails" else max(1, people // max(mails, 1))
                self._top = 0

    def due(self, now: float, recipients: int = 1) -> float:
        """Return for how many seconds from *now* a mail to so many recipients has to wait; 0.0 when it may go.

        A mail to more recipients than a whole window holds goes when that window is empty.
        """
        self._forget(now)
        wait = self._free_at(now, recipients) - now
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
        return self._taken(now, recipients)

    def reserve(self, now: float, recipients: Sequence[int], until: float) -> list[Token]:
        """Take tokens of mails that may start from *now* on, each at the earliest moment behind the one before.

        Args:
            now: The present moment; moments that are reserved may lie behind it, and count already.
            recipients: For how many recipients each of the mails is, in the order in which they are to go.
            until: The latest moment that is wanted. The first mail gets a token whenever its moment is; there are
                none behind the first that would be later.
        """
        self._forget(now)
        tokens: list[Token] = []
        moment = now
        for count in recipients:
            while (free := self._free_at(moment, count)) - moment > _EARLY:
                moment = free
            if tokens and moment > until:
                break
            tokens.append(self._taken(moment, count))
        return tokens

    def _free_at(self, moment: float, recipients: int) -> float:
        """Return from when on a mail may go, as far as is known at a moment: asked then, it may be later still."""
        asked = Token(moment, recipients)
        share = self._share_at(moment)
        return max(
            [
                moment,
                *(p.free_at(share) for p in self._paces_at(moment)),
                *(c.free_at(moment, asked.amount(c.rate.unit)) for c in self._caps),
            ]
        )

    def _taken(self, moment: float, recipients: int) -> Token:
        self._issued += 1
        before = (self._top, *((p.last, p.amount) for p in self._own_paces))
        token = Token(_tick(moment), recipients, number=self._issued, before=before)
        self._top = token.number
        share = self._share_at(moment)
        for pace in self._paces_at(moment):
            # A timer that woke early must not make the next one earlier still.
            pace.last = max(moment, pace.free_at(share))
            pace.amount = token.amount(pace.unit)
        for cap in self._counting:
            cap.add(token.moment, token.amount(cap.rate.unit))
        return token

    def give_back(self, token: Token) -> None:
        """Take back a token with which nothing was sent; a second time does nothing.

        Caps count it no more. Its place in the pace is free again when nobody took one since, or they were given back
        as well: give back the last one first.
        """
        if token.returned:
            return
        token.returned = True
        for cap in self._counting:
            cap.remove(token.moment, token.amount(cap.rate.unit))
        if self._top and self._top == token.number:
            self._top, *places = token.before
            for pace, (last, amount) in zip(self._own_paces, places, strict=False):
                pace.last, pace.amount = last, amount

    def slow_down(self, now: float) -> None:
        """Halve the pace, as after a ``421 4.7.28``; it climbs back within ten minutes.

        Complaints that come close together (one for each connection) count as one. Without a pace, half of the
        speed of the last seconds becomes one until it has climbed back.
        """
        if now - self._slowed < SAME_COMPLAINT:
            return
        self._forget(now)
        if self._measured is not None and self._learnt is None:
            self._learnt = _Pace(1 / self._measured.speed(now), "mails", last=now)
            self._top = 0
        self._share = max(self._share_at(now) / 2, _LEAST_SHARE)
        self._slowed = now

    def _share_at(self, now: float) -> float:
        """Return which part of the pace holds at a moment."""
        return min(1.0, self._share + max(0.0, now - self._slowed) / _RAMP)

    @property
    def _own_paces(self) -> list[_Pace]:
        return self._paces if self._learnt is None else [*self._paces, self._learnt]

    def _paces_at(self, moment: float) -> list[_Pace]:
        return self._own_paces if self._share_at(moment) < 1 else self._paces

    @property
    def _counting(self) -> list[_Cap]:
        caps = [*self._caps, *self._kept]
        return caps if self._measured is None else [*caps, self._measured]

    def _forget(self, now: float) -> None:
        """Forget what has no effect from *now* on; never by a moment that is still to come."""
        if self._share_at(now) >= 1:
            self._learnt = None
        for cap in self._counting:
            cap.forget(now)
        self._kept = [cap for cap in self._kept if not cap.empty]

    # ----------------------------------------------------------------------------------- written down

    def state(self) -> str:
        """Return all that it knows, as JSON; `restored` makes one of it that decides the same."""
        learnt = self._learnt
        found = {
            "rates": [str(rate) for rate in self.rates],
            "late": self.late,
            "paces": [pace.written() for pace in self._paces],
            "caps": [cap.written() for cap in self._caps],
            "kept": [[str(cap.rate), cap.written()] for cap in self._kept],
            "measured": None if self._measured is None else self._measured.written(),
            "learnt": None if learnt is None else [learnt.interval, *learnt.written()],
            "share": self._share,
            "slowed": _finite(self._slowed),
            "issued": self._issued,
            "top": self._top,
        }
        return json.dumps(found, separators=(",", ":"))

    @classmethod
    def restored(cls, rates: Iterable[Rate], state: str, *, late: float | None = None) -> Limiter:
        """Return one that knows what another's `state` says.

        Of the same rates it decides as that one. Of other rates it takes over what those tell: what went in a longer
        window counts in a shorter one, a longer one that is new knows only of what a shorter one had, and a slow-down
        goes on. The windows of the other rates are kept, so that two who have different rates forget nothing in turn.

        Args:
            rates: What holds from now on.
            state: What the other's `state` returned.
            late: As for a Limiter; of the same rates it only grows. None for as it was.

        Raises:
            ValueError: It is no state.
        """
        try:
            found = json.loads(state)
            written = cls(parse_rates(found["rates"]), late=found["late"])
            written._read(found)
        except (LookupError, TypeError, ValueError) as error:
            message = f"no state of a Limiter: {type(error).__name__}"
            raise ValueError(message) from error
        wanted, later = tuple(rates), written.late if late is None else late
        if written.rates != wanted:
            return written._adapted(wanted, later)
        if later > written.late:
            written._lengthen(later)
        return written

    def _read(self, found: Mapping[str, Any]) -> None:
        for pace, written in zip(self._paces, found["paces"], strict=True):
            pace.read(*written)
        for cap, numbers in zip(self._caps, found["caps"], strict=True):
            cap.read(numbers)
        for text, numbers in found["kept"]:
            (rate,) = parse_rates(text)
            self._kept.append(_Cap(rate, self.late))
            self._kept[-1].read(numbers)
        if self._measured is not None:
            self._measured.read(found["measured"])
        if found["learnt"] is not None:
            interval, *written = found["learnt"]
            self._learnt = _Pace(interval, "mails")
            self._learnt.read(*written)
        self._share, self._slowed = found["share"], _number(found["slowed"])
        self._issued, self._top = found["issued"], found["top"]

    def _lengthen(self, late: float) -> None:
        """Have mails leave later after their moments than before."""
        longer = Limiter(self.rates, late=late)
        for pace, other in zip(self._paces, longer._paces, strict=True):
            pace.interval = other.interval
        self._caps = [_Cap(cap.rate, late, cap) for cap in self._caps]
        self._kept = [_Cap(cap.rate, late, cap) for cap in self._kept]
        self.late = late

    def _adapted(self, rates: tuple[Rate, ...], late: float) -> Limiter:
        """Return one of other rates that knows what this one does."""
        other = Limiter(rates, late=late)
        other._share, other._slowed, other._issued = self._share, self._slowed, self._issued
        for pace in other._paces:
            newest = max((p for p in self._paces if p.unit == pace.unit), key=lambda p: p.last, default=None)
            if newest is not None:
                pace.last, pace.amount = newest.last, newest.amount
        for cap in other._counting:
            same = sorted(
                (c for c in self._counting if c.rate.unit == cap.rate.unit), key=lambda c: c.rate.seconds
            )
            # The shortest that is long enough is the finest.
            for source in [c for c in same if c.rate.seconds >= cap.rate.seconds][:1] or same[-1:]:
                cap.take_over(source)
        windows = {(cap.rate.unit, cap.rate.seconds) for cap in other._caps}
        for source in (*self._caps, *self._kept):
            if (source.rate.unit, source.rate.seconds) not in windows and not source.empty:
                windows.add((source.rate.unit, source.rate.seconds))
                other._kept.append(_Cap(source.rate, late, source))
        if other._measured is not None:
            other._learnt = self._learnt
        return other


def _tick(moment: float) -> float:
    """Return a moment in whole microseconds, as it can be written down."""
    return round(moment, 6)


def _finite(moment: float) -> float | None:
    return moment if math.isfinite(moment) else None


def _number(written: float | None) -> float:
    return float("-inf") if written is None else written


@dataclass(slots=True, eq=False)
class _Pace:
    """An even rhythm: after *amount* of something, the next has to wait *amount* intervals."""

    interval: float
    unit: Unit
    last: float = float("-inf")
    amount: int = 1

    def free_at(self, share: float) -> float:
        return self.last + self.amount * self.interval / share

    def written(self) -> list[float | None]:
        return [_finite(self.last), self.amount]

    def read(self, last: float | None, amount: int) -> None:
        self.last, self.amount = _number(last), amount


class _Cap:
    """At most so many in any window, in buckets: each counts until its last moment is a window ago.

    So a hundred thousand mails take no more memory than a thousand, and the error is on the safe side. Moments may be
    added in any order. One that is still to come counts at once: so whatever is added has its room in every window that
    it lies in, those behind it too.
    """

    def __init__(self, rate: Rate, late: float = 0.0, other: _Cap | None = None) -> None:
        self.rate = rate
        self.seconds = rate.seconds + (late + _DRIFT * rate.seconds if late else 0.0)
        self._width = self.seconds / _BUCKETS
        #: In their order; each has the moments of its own part of the time.
        self._buckets: deque[_Bucket] = deque()
        self._total = 0
        if other is not None:
            self.take_over(other)

    @property
    def empty(self) -> bool:
        """Whether nothing counts."""
        return not self._buckets

    def forget(self, now: float) -> None:
        """Forget what counts no more from now on."""
        while self._buckets and self._over(self._buckets[0], now):
            self._total -= self._buckets.popleft().amount

    def _over(self, bucket: _Bucket, moment: float) -> bool:
        return bucket.last + self.seconds <= moment + _EARLY

    def speed(self, now: float) -> float:
        """Return how many a second there were of late, as far as a second or more tells."""
        seen = [b for b in self._buckets if b.last <= now + _EARLY and not self._over(b, now)]
        since = seen[0].place * self._width if seen else now
        return max(1, sum(b.amount for b in seen)) / min(max(now - since, 1.0), self.seconds)

    def free_at(self, moment: float, amount: int) -> float:
        """Return the moment from which on *amount* more fit."""
        over = self._total + min(amount, self.rate.count) - self.rate.count
        found = moment
        for bucket in self._buckets:
            if over <= 0:
                break
            over -= bucket.amount
            found = max(moment, bucket.last + self.seconds)
        return found if found > moment + _EARLY else moment

    def add(self, moment: float, amount: int) -> None:
        self._total += amount
        place = math.floor(moment / self._width)
        behind = len(self._buckets)
        while behind and self._buckets[behind - 1].place > place:
            behind -= 1
        if behind and self._buckets[behind - 1].place == place:
            bucket = self._buckets[behind - 1]
            bucket.last = max(bucket.last, moment)
            bucket.amount += amount
        else:
            self._buckets.insert(behind, _Bucket(place, moment, amount))

    def remove(self, moment: float, amount: int) -> None:
        """Count *amount* of that moment no more; one that has left its window counted for nothing."""
        place = math.floor(moment / self._width)
        for bucket in reversed(self._buckets):
            if bucket.place <= place:
                if bucket.place == place:
                    bucket.amount -= amount
                    self._total -= amount
                    if not bucket.amount:
                        self._buckets.remove(bucket)
                return

    def learn(self, entries: Sequence[tuple[float, int]]) -> None:
        """Take in what went up to each moment since the next one, newest first, as far as it is not counted already.

        A mail may have begun a little later than its moment, and so be in another entry than its bucket: what one entry
        lacked and the next had too much of is not added once more.
        """
        known = deque((b.last, b.amount) for b in reversed(self._buckets))
        added = spare = 0
        for number, (moment, amount) in enumerate(entries):
            since = entries[number + 1][0] if number + 1 < len(entries) else float("-inf")
            missing = amount
            while known and known[0][0] > since:
                last, counted = known.popleft()
                missing -= counted if last <= moment else 0
            if missing > 0:
                used = min(missing, spare)
                spare, added = spare - used, added - used
                missing -= used
                added += missing
                if missing:
                    self.add(moment, missing)
            else:
                spare = min(spare - missing, added)

    def take_over(self, other: _Cap) -> None:
        """Count what another of the same unit does."""
        for bucket in other._buckets:
            self.add(bucket.last, bucket.amount)

    def written(self) -> list[int]:
        """Return its buckets, each as three numbers: how many places on, its last moment within, how many."""
        found: list[int] = []
        before = 0
        for bucket in self._buckets:
            found += (bucket.place - before, _micro(bucket.last) - self._begin(bucket.place), bucket.amount)
            before = bucket.place
        return found

    def read(self, numbers: Sequence[int]) -> None:
        """Take up what `written` returned."""
        place = 0
        for start in range(0, len(numbers), 3):
            step, last, amount = numbers[start : start + 3]
            place += step
            self._buckets.append(_Bucket(place, (self._begin(place) + last) / 1e6, amount))
            self._total += amount

    def _begin(self, place: int) -> int:
        return math.floor(place * self._width * 1e6)


def _micro(moment: float) -> int:
    return round(moment * 1e6)


@dataclass(slots=True, eq=False)
class _Bucket:
    place: int
    last: float
    amount: int
