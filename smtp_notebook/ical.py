"""iCalendar text (RFC 5545): content lines, recurrence rules, and time zones as VTIMEZONE.

Pure: text and moments in, lines out. The icalendar package does not do this job: it writes time zones as
lists of dates, which Outlook reads an hour off (https://github.com/iCalcreator/iCalcreator/issues/86), and
of a text such as a Windows path it makes one with a line break in it.
"""

from __future__ import annotations

import calendar
import datetime as dt
import functools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from zoneinfo import ZoneInfo

from smtp_notebook.addresses import shortened
from smtp_notebook.outcome import MessageError

__all__ = ["escaped", "folded", "parameter", "recurrence", "timezone_lines", "until_of", "utc"]

_LINE = 75
_ESCAPES = str.maketrans({"\\": "\\\\", ";": "\\;", ",": "\\,", "\n": "\\n"})
#: RFC 6868, 3.1: a quoted parameter value has no other way to hold a quote.
_PARAMETER_ESCAPES = str.maketrans({"^": "^^", '"': "^'", "\n": "^n"})
_UTF8_CONTINUED = 0x80, 0xC0


# ------------------------------------------------------------------------------------- content lines


def escaped(text: str) -> str:
    """Return a TEXT value of a text whose line ends are line feeds (RFC 5545, 3.3.11)."""
    return text.translate(_ESCAPES)


def parameter(text: str) -> str:
    """Return a parameter's value in quotes (RFC 5545, 3.2, and RFC 6868)."""
    return f'"{text.translate(_PARAMETER_ESCAPES)}"'


def folded(line: str) -> bytes:
    """Return one content line, ended by CRLF, in lines of at most 75 octets (RFC 5545, 3.1).

    No fold stands inside a character, which the standard allows and readers get wrong, nor inside an
    escape, which some readers undo before they unfold.
    """
    data = line.encode()
    pieces: list[bytes] = []
    start, room = 0, _LINE
    while len(data) - start > room:
        end = _cut(data, start + room)
        pieces.append(data[start:end])
        start, room = end, _LINE - 1  # the blank that continues a line counts
    return b"\r\n ".join([*pieces, data[start:]]) + b"\r\n"


def _cut(data: bytes, end: int) -> int:
    mark, mask = _UTF8_CONTINUED
    while data[end] & mask == mark:
        end -= 1
    for sign in (b"\\", b"^"):
        # One of an odd number of these begins an escape.
        run = end - len(data[:end].rstrip(sign)) if data[end - 1 : end] == sign else 0
        end -= run % 2
    return end


def utc(moment: dt.datetime) -> str:
    """Return a moment in UTC, such as ``20260504T070000Z``."""
    return f"{moment.astimezone(dt.UTC):%Y%m%dT%H%M%SZ}"


# ---------------------------------------------------------------------------------- recurrence rules

_FREQUENCIES = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")
_WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
#: How large the numbers of a part may be, and whether they may count from the end.
_NUMBERS = {
    "INTERVAL": (999, False),
    "COUNT": (9999, False),
    "BYMONTH": (12, False),
    "BYMONTHDAY": (31, True),
    "BYYEARDAY": (366, True),
    "BYWEEKNO": (53, True),
    "BYSETPOS": (366, True),
}
_SINGLE = frozenset({"INTERVAL", "COUNT"})
_PARTS = ("FREQ", "UNTIL", "WKST", "BYDAY", *_NUMBERS)
_BYDAY = re.compile(rf"(?:[+-]?(?:[1-9]|[1-4][0-9]|5[0-3]))?(?:{'|'.join(_WEEKDAYS)})")
_NUMBER = re.compile(r"[+-]?[0-9]{1,4}")
#: RFC 5545, 3.3.10: what a frequency does not go with.
_NEVER = {
    "BYWEEKNO": frozenset({"DAILY", "WEEKLY", "MONTHLY"}),
    "BYYEARDAY": frozenset({"DAILY", "WEEKLY", "MONTHLY"}),
    "BYMONTHDAY": frozenset({"WEEKLY"}),
}


def recurrence(rule: str, *, all_day: bool) -> str:
    """Return a recurrence rule in upper case, checked (RFC 5545, 3.3.10).

    Args:
        rule: Such as ``FREQ=WEEKLY;BYDAY=MO,WE;COUNT=10``. Days and longer alone, as calendars have them:
            no BYHOUR, BYMINUTE or BYSECOND.
        all_day: Whether the event has days and no times; its UNTIL is a date then, otherwise in UTC.

    Raises:
        MessageError: The part that is wrong, and why.
    """
    text = str(rule).strip().upper().removeprefix("RRULE:")
    parts: dict[str, str] = {}
    for piece in text.split(";"):
        name, _, value = piece.partition("=")
        if name not in _PARTS or not value:
            raise _refused(rule, f"{shortened(piece)} is none of its parts", f"It has {', '.join(_PARTS)}.")
        if name in parts:
            raise _refused(rule, f"{name} is there twice")
        parts[name] = value
        _check_part(rule, name, value)
    _check_together(rule, parts)
    if "UNTIL" in parts:
        _check_until(rule, parts["UNTIL"], all_day=all_day)
    return text


def _check_part(rule: str, name: str, value: str) -> None:
    values = value.split(",")
    if name == "FREQ" and value not in _FREQUENCIES:
        raise _refused(rule, f"FREQ={shortened(value)} is not how often an event is", _or(_FREQUENCIES))
    if name == "WKST" and value not in _WEEKDAYS:
        raise _refused(rule, f"WKST={shortened(value)} is no day of the week", _or(_WEEKDAYS))
    if name == "BYDAY" and not all(map(_BYDAY.fullmatch, values)):
        raise _refused(rule, f"BYDAY={shortened(value)} names no days of the week", "Write MO, 1MO or -1FR.")
    if name in _NUMBERS:
        most, signed = _NUMBERS[name]
        if (name in _SINGLE and len(values) > 1) or not all(_fits(v, most, signed=signed) for v in values):
            fix = f"Its numbers go from 1 to {most}{', or from the end: -1' if signed else ''}."
            raise _refused(rule, f"{name}={shortened(value)} is out of its range", fix)


def _fits(value: str, most: int, *, signed: bool) -> bool:
    if not _NUMBER.fullmatch(value) or (value[0] in "+-" and not signed):
        return False
    return 1 <= abs(int(value)) <= most


def _check_together(rule: str, parts: dict[str, str]) -> None:
    frequency = parts.get("FREQ")
    if frequency is None:
        raise _refused(rule, "it has no FREQ", "Write FREQ=WEEKLY, for example.")
    if {"COUNT", "UNTIL"} <= parts.keys():
        raise _refused(rule, "it has both COUNT and UNTIL", "Keep one of them.")
    for name, frequencies in _NEVER.items():
        if name in parts and frequency in frequencies:
            raise _refused(rule, f"{name} does not go with FREQ={frequency}")
    counted = any(day[0] not in "MTWFS" for day in parts.get("BYDAY", "").split(",") if day)
    if counted and (frequency not in {"MONTHLY", "YEARLY"} or "BYWEEKNO" in parts):
        raise _refused(rule, "a counted BYDAY, such as 1MO, goes with months and years alone")
    if "BYSETPOS" in parts and not any(n.startswith("BY") and n != "BYSETPOS" for n in parts):
        raise _refused(rule, "BYSETPOS chooses among what another BY… part names, and there is none")


def _check_until(rule: str, value: str, *, all_day: bool) -> None:
    shape = "20261231" if all_day else "20261231T225900Z"
    try:
        dt.datetime.strptime(value, "%Y%m%d" if all_day else "%Y%m%dT%H%M%SZ")  # noqa: DTZ007 - the shape is all that counts
    except ValueError:
        value_length = -1
    else:
        value_length = len(value)
    if value_length != len(shape):
        kind = "a date, for the event has no times" if all_day else "a moment in UTC, for the event has times"
        raise _refused(rule, f"UNTIL={shortened(value)} is not {kind}", f"Write it as UNTIL={shape}.")


def until_of(rule: str) -> dt.datetime | None:
    """Return when a checked rule ends: a moment in UTC, or the midnight of a date; None when it says not."""
    found = re.search(r"UNTIL=(\d{8})(?:T(\d{6})Z)?", rule)
    if found is None:
        return None
    text = f"{found[1]}{found[2] or '000000'}"
    return dt.datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=dt.UTC)


def _refused(rule: str, why: str, fix: str = "See RFC 5545, 3.3.10.") -> MessageError:
    return MessageError(f"event: the rrule {shortened(str(rule))} is no recurrence rule: {why}.", fix)


def _or(words: Sequence[str]) -> str:
    return f"It is {', '.join(words[:-1])} or {words[-1]}."


# --------------------------------------------------------------------------------------- time zones

#: All weekdays on which a month can begin, leap years too, come about within so many years.
_CYCLE = 28
_STEP = dt.timedelta(days=7)
_SECOND = dt.timedelta(seconds=1)
_DAYS_OF_WEEK = 7


class _Change(NamedTuple):
    """A moment from which a zone's clocks are set otherwise.

    Attributes:
        onset: What the clocks show until then.
        before: Their offset from UTC until then.
        after: And from then on.
        name: What the zone calls its time from then on.
    """

    onset: dt.datetime
    before: dt.timedelta
    after: dt.timedelta
    name: str

    @property
    def pattern(self) -> tuple[object, ...]:
        """What is the same each year where a rule sets the clocks."""
        onset = self.onset
        return onset.month, onset.weekday(), onset.time(), self.before, self.after, self.name


@functools.lru_cache(maxsize=128)
def timezone_lines(key: str, first: int, last: int) -> tuple[str, ...]:
    """Return a zone's VTIMEZONE as content lines (RFC 5545, 3.6.5).

    Where the zone's clocks follow a rule the rule is written: Outlook takes no lists of dates, and shifts
    such events by an hour. Otherwise each change gets a component of its own.

    Args:
        key: Its name, such as ``Europe/Berlin``.
        first: The first year in which it has to be right.
        last: The last one, where no rule holds.

    Raises:
        ZoneInfoNotFoundError: There is no such zone.
    """
    zone = ZoneInfo(key)
    begin = dt.datetime(first - 1, 1, 1, tzinfo=dt.UTC)
    years = _by_year(_changes(zone, begin, first + _CYCLE))
    rules = _rules(years, range(first - 1, first + _CYCLE))
    lines = ["BEGIN:VTIMEZONE", f"TZID:{key}"]
    if rules:
        for change, rule in zip(years[first - 1], rules, strict=True):
            lines += _component(change, rule)
    else:
        here = begin.astimezone(zone)
        offset = here.utcoffset() or dt.timedelta()
        lines += _component(_Change(here.replace(tzinfo=None), offset, offset, here.tzname() or key))
        for change in _changes(zone, begin, last + 1):
            lines += _component(change)
    return (*lines, "END:VTIMEZONE")


def _changes(zone: ZoneInfo, begin: dt.datetime, end_year: int) -> list[_Change]:
    """Return the changes of a zone's clocks before a year."""
    found: list[_Change] = []
    end = dt.datetime(end_year, 1, 1, tzinfo=dt.UTC)
    at, offset = begin, _offset(zone, begin)
    while at < end:
        later = min(at + _STEP, end)
        after = _offset(zone, later)
        if after != offset:
            moment = _moment_of_change(zone, at, later, offset)
            name = moment.astimezone(zone).tzname() or ""
            found.append(_Change((moment + offset).replace(tzinfo=None), offset, after, name))
        at, offset = later, after
    return found


def _offset(zone: ZoneInfo, moment: dt.datetime) -> dt.timedelta:
    return moment.astimezone(zone).utcoffset() or dt.timedelta()


def _moment_of_change(
    zone: ZoneInfo, low: dt.datetime, high: dt.datetime, before: dt.timedelta
) -> dt.datetime:
    while high - low > _SECOND:
        middle = low + (high - low) // _SECOND // 2 * _SECOND
        if _offset(zone, middle) == before:
            low = middle
        else:
            high = middle
    return high


def _by_year(changes: Iterable[_Change]) -> dict[int, list[_Change]]:
    years: dict[int, list[_Change]] = {}
    for change in changes:
        years.setdefault(change.onset.year, []).append(change)
    return years


def _rules(years: dict[int, list[_Change]], wanted: range) -> list[str]:
    """Return a yearly rule for each change of a year, or nothing when not every year has the same ones."""
    each = [years.get(year, []) for year in wanted]
    if len({tuple(c.pattern for c in changes) for changes in each}) > 1:
        return []
    found = [_rule([c.onset for c in same]) for same in zip(*each, strict=True)]
    return [] if "" in found else found


def _rule(onsets: Sequence[dt.datetime]) -> str:
    """Return the rule by which a day is chosen that is of one month and one weekday in all years, or ""."""
    day = _WEEKDAYS[onsets[0].weekday()]
    month = f"FREQ=YEARLY;BYMONTH={onsets[0].month}"
    weeks = {(o.day - 1) // _DAYS_OF_WEEK + 1 for o in onsets}
    if len(weeks) == 1:
        return f"{month};BYDAY={weeks.pop()}{day}"
    if all(calendar.monthrange(o.year, o.month)[1] - o.day < _DAYS_OF_WEEK for o in onsets):
        return f"{month};BYDAY=-1{day}"
    days = sorted({o.day for o in onsets})
    if days[-1] - days[0] < _DAYS_OF_WEEK:
        numbers = ",".join(map(str, range(days[0], days[0] + _DAYS_OF_WEEK)))
        return f"{month};BYMONTHDAY={numbers};BYDAY={day}"
    return ""


def _component(change: _Change, rule: str = "") -> list[str]:
    # Forward is DAYLIGHT, whatever a zone's law calls its winter: readers want one of each.
    kind = "DAYLIGHT" if change.after > change.before else "STANDARD"
    return [
        f"BEGIN:{kind}",
        f"DTSTART:{change.onset:%Y%m%dT%H%M%S}",
        *([f"RRULE:{rule}"] if rule else []),
        f"TZOFFSETFROM:{_signed(change.before)}",
        f"TZOFFSETTO:{_signed(change.after)}",
        f"TZNAME:{escaped(change.name)}",
        f"END:{kind}",
    ]


def _signed(offset: dt.timedelta) -> str:
    sign = "-" if offset < dt.timedelta() else "+"
    minutes, seconds = divmod(abs(offset) // _SECOND, 60)
    return f"{sign}{minutes // 60:02}{minutes % 60:02}{f'{seconds:02}' if seconds else ''}"
