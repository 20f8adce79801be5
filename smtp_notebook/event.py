"""A meeting as a frozen value, and the calendar text that invites to it.

The text follows RFC 5545 (iCalendar), what it means between people RFC 5546 (iTIP). How a mail carries it,
RFC 6047 (iMIP), is the Message's business. Nothing here touches a network, and no reply is read.
"""

from __future__ import annotations

import datetime as dt
import difflib
import functools
import numbers
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote
from zoneinfo import ZoneInfo

from smtp_notebook import fields, ical
from smtp_notebook.addresses import CONTROL, Address, shortened
from smtp_notebook.outcome import MessageError, OptionError

__all__ = ["FILE_NAME", "METHODS", "Event", "Invitation", "checked_event"]

#: What the attached copy is called.
FILE_NAME = "invite.ics"
METHODS = ("REQUEST", "CANCEL", "PUBLISH")
_STATUSES = {
    "REQUEST": ("CONFIRMED", "TENTATIVE"),
    "CANCEL": ("CANCELLED",),
    "PUBLISH": ("CONFIRMED", "TENTATIVE", "CANCELLED"),
}
_PRODUCT = "-//smtp_notebook//EN"
_UID_DOMAIN = "smtp-notebook"
_UID = re.compile(r"[\x21-\x7e]{1,255}")
#: Names of events that a function makes, from what they are and who is invited.
_NAMESPACE = uuid.UUID("6c0f3c2e-5d5b-5b5e-9d0a-3f1f1c7f4f11")
_URL = re.compile(r"(?:https?://[A-Za-z0-9\[][\x21-\x7e]*|(?:mailto|tel):[\x21-\x7e]+)", re.IGNORECASE)
_LINE_ENDS = re.compile("\r\n|[\r\x85\u2028\u2029]")
_YEARS = range(1970, 9000)
_LARGEST = 2**31 - 1  # RFC 5545, 3.3.8
_DAY = dt.timedelta(days=1)
_MINUTE = dt.timedelta(minutes=1)
_UTC_NAMES = frozenset({"UTC", "Etc/UTC", "Etc/UCT", "UCT", "Zulu", "Etc/Zulu", "Universal", "Etc/Universal"})
#: How many years of a zone without rules a repeated event that never ends gets.
_YEARS_AHEAD = 10
_TEXTS = ("summary", "location", "description", "url", "uid", "method", "status", "rrule")


class Invitation(NamedTuple):
    """An event as one mail carries it.

    Attributes:
        content: The iCalendar file.
        method: Its METHOD, which the mail's ``method=`` has to repeat (RFC 6047, 2.4).
        identity: The same without the moment when it was made and without a UID that nobody chose: what
            tells two invitations apart.
    """

    content: bytes
    method: str
    identity: bytes


@dataclass(frozen=True, init=False, repr=False, slots=True)
class Event:
    """A meeting that a mail invites to. Frozen: `with_` returns a changed copy.

    ``Message(…, event=Event("Kick-off", start, duration=60))`` is written so that Gmail, Outlook and Apple Mail
    show the invitation with its buttons. Answers go to the organizer's mailbox; nothing here reads them. Let
    From be the organizer: readers may distrust an invitation where the two differ (RFC 6047, 3).

    Args:
        summary: Its title, one line.
        start: When it begins: a datetime with its time zone, or a date for whole days. With a zone such as
            ``ZoneInfo("Europe/Berlin")`` it stays at that hour there whatever the clocks do; UTC, fixed
            offsets and zones without a name are written in UTC.
        end: When it ends. For whole days it is the last day, which is part of it.
        duration: Instead of *end*: a timedelta, or minutes as a number. One of the two is needed, but for
            whole days, of which there is one by default.
        location: The place, one line.
        description: More text; line breaks are kept.
        url: A page about it: ``https:``, ``http:``, ``mailto:`` or ``tel:``.
        organizer: Who invites; the mail's From by default.
        attendees: Who is invited. By default the mail's To, and its Cc as optional; never its Bcc.
        uid: What identifies the meeting in calendars. By default a random UUID, at the organizer's domain
            when one is given, made here and now: `with_` keeps it, so that an update changes the meeting
            instead of adding another. Where the notebook may run again, name it yourself and keep it.
        sequence: 0 for the first mail, and a higher number with each change that people have to look at
            (RFC 5546, 2.1.4); calendars ignore what has a lower one than they know.
        method: ``REQUEST`` invites, ``CANCEL`` calls off (see `cancelled`), ``PUBLISH`` only tells, and
            has no attendees.
        status: ``CONFIRMED`` (default) or ``TENTATIVE``; a cancellation's is ``CANCELLED``.
        alarm: Remind so long before the start: minutes or a timedelta. Several calendars, Google's among
            them, use their owner's own reminders instead.
        rrule: How it repeats (RFC 5545, 3.3.10), such as ``FREQ=WEEKLY;COUNT=10``; by days, weeks, months
            or years.
        stamp: When this version was made; now by default. Of two with one sequence the later one counts.

    Raises:
        MessageError: What no calendar can hold: a moment without a zone, an end before the start, both
            *end* and *duration* or neither, a control character, a wrong method, status or rule.
        AddressError: The organizer or an attendee is no address.

    In a merge one Event serves every row: it is one meeting, with one UID. Each row's mail names that
    row's own recipients as its attendees, so they do not see each other; pass *attendees* to show all.
    Where each row has a meeting of its own, pass a function: see `mail_merge`.

    Two Events are equal when calendars would show the same; *stamp* does not count.
    """

    summary: str
    start: dt.datetime | dt.date
    end: dt.datetime | dt.date | None
    duration: dt.timedelta | None
    location: str
    description: str
    url: str
    organizer: Address | None
    attendees: tuple[Address, ...] | None
    uid: str
    sequence: int
    method: str
    status: str
    alarm: dt.timedelta | None
    rrule: str
    stamp: dt.datetime = field(compare=False)
    _made_uid: bool = field(compare=False)

    def __init__(
        self,
        summary: str,
        start: dt.datetime | dt.date,
        end: dt.datetime | dt.date | None = None,
        *,
        duration: dt.timedelta | float | None = None,
        location: str = "",
        description: str = "",
        url: str = "",
        organizer: str | Address | None = None,
        attendees: str | Address | Iterable[str | Address] | None = None,
        uid: str = "",
        sequence: int = 0,
        method: str = "REQUEST",
        status: str = "",
        alarm: dt.timedelta | float | None = None,
        rrule: str = "",
        stamp: dt.datetime | None = None,
    ) -> None:
        begin = _moment("start", start)
        kind = _word("method", method, METHODS)
        inviter = fields.addresses("event: organizer", organizer)
        if len(inviter) > 1:
            raise MessageError(
                "event: there are several organizers.", "An event has one (RFC 5545, 3.8.4.3)."
            )
        values: dict[str, Any] = {
            "summary": _line("summary", summary),
            "start": begin,
            "end": None if end is None else _moment("end", end),
            "duration": None if duration is None else _span("duration", duration),
            "location": _line("location", location),
            "description": _description(description),
            "url": _checked_url(url),
            "organizer": inviter[0] if inviter else None,
            "attendees": None if attendees is None else fields.addresses("event: attendees", attendees),
            "uid": _checked_uid(uid) or _new_uid(inviter[0] if inviter else None),
            "sequence": _checked_sequence(sequence, kind),
            "method": kind,
            "status": _word("status", status or _STATUSES[kind][0], _STATUSES[kind]),
            "alarm": None if alarm is None else _span("alarm", alarm),
            "rrule": ical.recurrence(rrule, all_day=not _timed(begin)) if _text("rrule", rrule) else "",
            "stamp": _checked_stamp(stamp),
            "_made_uid": not uid,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        _check_together(self)

    # -------------------------------------------------------------------------------- copies

    def with_(self, **changes: Any) -> Event:
        """Return a copy with some fields changed, made now, with the same UID.

        People are told of a change by a higher sequence: ``event.with_(start=later, sequence=1)``. A new
        *end* replaces a duration, and the other way round.

        Raises:
            OptionError: A field that does not exist, with the nearest one that does.
        """
        for name in changes:
            if name not in _FIELDS:
                near = difflib.get_close_matches(name, _FIELDS, n=1, cutoff=0.4)
                fix = f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(_FIELDS)}."
                raise OptionError(f"An event has no field {name!r}.", fix)
        known = {name: getattr(self, name) for name in _FIELDS if name != "stamp"}
        if {"end", "duration"} & changes.keys():
            known |= {"end": None, "duration": None}
        if "method" in changes:
            known["status"] = ""
        made = Event(**(known | changes))
        if "uid" not in changes:
            object.__setattr__(made, "_made_uid", self._made_uid)
        return made

    def cancelled(self, sequence: int | None = None) -> Event:
        """Return what calls the meeting off: the same UID, ``CANCEL``, and a higher sequence (RFC 5546, 3.2.5).

        Args:
            sequence: One more than this one's by default; it has to be above that of every mail that went.
        """
        return self.with_(method="CANCEL", sequence=self.sequence + 1 if sequence is None else sequence)

    def named_for(self, people: Iterable[str]) -> Event:
        """Return the event with a UID that depends on what it is and on *people*, unless one was given.

        A function that is called twice for a row makes the same meeting both times.
        """
        if not self._made_uid:
            return self
        text = "\n".join([self.identity, *sorted(people)])
        domain = self.uid.rpartition("@")[2]
        made = self.with_(uid=f"{uuid.uuid5(_NAMESPACE, text)}@{domain}", stamp=self.stamp)
        object.__setattr__(made, "_made_uid", True)
        return made

    # ------------------------------------------------------------------------------- derived

    @property
    def all_day(self) -> bool:
        """Whether it takes whole days: its start is a date."""
        return not _timed(self.start)

    @property
    def finish(self) -> dt.datetime | dt.date:
        """When it ends, whether that was given or follows from the duration; of whole days the last one."""
        if self.end is not None:
            return self.end
        if not isinstance(self.start, dt.datetime):
            return self.start + (self.duration or _DAY) - _DAY
        # An hour is an hour, also in the night in which the clocks are set.
        ends = self.start.astimezone(dt.UTC) + (self.duration or dt.timedelta())
        zone = self.start.tzinfo if _zone_name(self.start.tzinfo) else dt.timezone(_offset(self.start))
        return ends.astimezone(zone)

    @property
    def identity(self) -> str:
        """Everything that calendars would show, and the UID when somebody chose it, as one text."""
        kept = [n for n in _FIELDS if n != "stamp" and not (n == "uid" and self._made_uid)]
        return repr([getattr(self, name) for name in kept])

    @property
    def line(self) -> str:
        """The event in one line: title, when, where."""
        what = f"Cancelled: {self.summary}" if self.method == "CANCEL" else self.summary
        when = f"{_when(self.start, self.finish)}{', repeated' if self.rrule else ''}"
        return ", ".join(filter(None, [what, when, self.location]))

    def __repr__(self) -> str:
        return f"<Event {self.line}>"

    # ------------------------------------------------------------------------------- written

    def as_ics(
        self, *, organizer: Address | None = None, to: Iterable[Address] = (), cc: Iterable[Address] = ()
    ) -> bytes:
        """Return the event as an iCalendar file: UTF-8, CRLF line ends, lines of at most 75 octets.

        Args:
            organizer: Who invites where the event does not say.
            to: Who is invited where the event does not say.
            cc: Who is invited too, as optional.

        Raises:
            MessageError: It has no organizer, or it invites and has no attendee (RFC 5546, 3.2).
        """
        return self.invitation(organizer=organizer, to=to, cc=cc).content

    def invitation(
        self, *, organizer: Address | None = None, to: Iterable[Address] = (), cc: Iterable[Address] = ()
    ) -> Invitation:
        """Return the event as a mail carries it; see `as_ics`."""
        inviter = self.organizer or organizer
        if inviter is None:
            raise MessageError(
                "event: it has no organizer.", "Give the mail a From, or organizer='you@example.com'."
            )
        people = _Invited.of(self.attendees, to, cc) if self.method != "PUBLISH" else []
        if self.method != "PUBLISH" and not people:
            cause = "event: it has nobody to invite; attendees are the mail's To and Cc, never its Bcc."
            raise MessageError(cause, "Give to=, attendees=[…], or method='PUBLISH' for one without answers.")
        stamp, uid = f"DTSTAMP:{ical.utc(self.stamp)}", f"UID:{ical.escaped(self.uid)}"
        lines = [
            "BEGIN:VCALENDAR",
            f"PRODID:{_PRODUCT}",
            "VERSION:2.0",
            f"METHOD:{self.method}",
            *self._zones(),
            "BEGIN:VEVENT",
            uid,
            stamp,
            *self._what_and_when(),
            f"ORGANIZER{_common_name(inviter)}:{_mailto(inviter)}",
            *(person.line(answer=self.method == "REQUEST") for person in people),
            *self._alarm(),
            "END:VEVENT",
            "END:VCALENDAR",
        ]
        without = {stamp, uid} if self._made_uid else {stamp}
        pieces = [(line, ical.folded(line)) for line in lines]
        identity = b"".join(piece for line, piece in pieces if line not in without)
        return Invitation(b"".join(piece for _, piece in pieces), self.method, identity)

    def _what_and_when(self) -> list[str]:
        texts = {"LOCATION": self.location, "DESCRIPTION": self.description}
        finish = self.finish
        if not isinstance(finish, dt.datetime):
            finish += _DAY  # RFC 5545, 3.6.1: DTEND is the first day that is not part of it
        return [
            f"SEQUENCE:{self.sequence}",
            f"STATUS:{self.status}",
            f"DTSTART{self._time(self.start)}",
            f"DTEND{self._time(finish)}",
            *([f"RRULE:{self.rrule}"] if self.rrule else []),
            f"SUMMARY:{ical.escaped(self.summary)}",
            *(f"{name}:{ical.escaped(text)}" for name, text in texts.items() if text),
            *([f"URL:{self.url}"] if self.url else []),
        ]

    def _time(self, moment: dt.datetime | dt.date) -> str:
        """Return a moment as a property's parameters and value (RFC 5545, 3.3.4 and 3.3.5)."""
        if not isinstance(moment, dt.datetime):
            return f";VALUE=DATE:{moment:%Y%m%d}"
        key = _zone_key(moment)
        return f";TZID={key}:{moment:%Y%m%dT%H%M%S}" if key else f":{ical.utc(moment)}"

    def _zones(self) -> list[str]:
        moments = [m for m in (self.start, self.finish) if isinstance(m, dt.datetime)]
        keys = dict.fromkeys(filter(None, map(_zone_key, moments)))
        years = [m.year for m in moments]
        if self.rrule and years:
            until = ical.until_of(self.rrule)
            ahead = years[0] + _YEARS_AHEAD
            years.append(min(until.year + 1, ahead) if until else ahead)
        return [line for key in keys for line in ical.timezone_lines(key, min(years), max(years))]

    def _alarm(self) -> list[str]:
        # RFC 5546, 3.2.5: a cancellation has none.
        if self.alarm is None or self.method == "CANCEL":
            return []
        return [
            "BEGIN:VALARM",
            "ACTION:DISPLAY",
            f"DESCRIPTION:{ical.escaped(self.summary)}",
            f"TRIGGER:-PT{self.alarm // _MINUTE}M",
            "END:VALARM",
        ]


_FIELDS = tuple(name for name in Event.__slots__ if not name.startswith("_"))


def checked_event(value: Any) -> Event | None:
    """Return what ``event=`` was given, when it is an Event or None.

    Raises:
        MessageError: It is something else.
    """
    if value is None or isinstance(value, Event):
        return value
    cause = f"event: this is of type {type(value).__name__}, not an Event."
    raise MessageError(cause, 'Give event=Event("Kick-off", start, duration=60).')


# -------------------------------------------------------------------------------------- the checks


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise MessageError(f"event: {name} is of type {type(value).__name__}, not text.", "Give text.")
    return value


def _line(name: str, value: Any) -> str:
    text = fields.one_line(f"event: {name}", _text(name, value)).strip()
    if name == "summary" and not text:
        raise MessageError("event: the summary is empty.", "Calendars show it as the title; give one.")
    return text


def _description(value: Any) -> str:
    """Return the text with line feeds alone; no other control character but a tab (RFC 5545, 3.3.11)."""
    text = _LINE_ENDS.sub("\n", _text("description", value))
    if found := CONTROL.search(text.replace("\n", "").replace("\t", "")):
        cause = f"event: the description has the character U+{ord(found[0]):04X} in it, which no calendar can hold."
        raise MessageError(cause, "Clean the text.")
    return text


def _word(name: str, value: Any, words: tuple[str, ...]) -> str:
    word = _text(name, value).strip().upper()
    if word not in words:
        fix = f"It is {', '.join(words[:-1])} or {words[-1]}." if len(words) > 1 else f"It is {words[0]}."
        raise MessageError(f"event: {shortened(word)} is no {name} here.", fix)
    return word


def _moment(name: str, value: Any) -> dt.datetime | dt.date:
    """Return a date, or a moment with its zone in whole seconds."""
    if not isinstance(value, dt.date) or value != value:  # noqa: PLR0124 - pandas' missing moment differs from itself
        kind = "missing" if isinstance(value, dt.date) else f"of type {type(value).__name__}, not a moment"
        raise MessageError(f"event: {name} is {kind}.", "Give a datetime with its zone, or a date.")
    if value.year not in _YEARS:
        cause = f"event: {name} is in the year {value.year}, which calendars do not know."
        raise MessageError(cause, "Check it.")
    if not isinstance(value, dt.datetime):
        return dt.date(value.year, value.month, value.day)
    if value.utcoffset() is None:
        cause = f"event: {name} is {value:%Y-%m-%d %H:%M} without a time zone; which one is meant?"
        fix = 'Add it: tzinfo=ZoneInfo("Europe/Berlin"), or .tz_localize("Europe/Berlin") on a column.'
        raise MessageError(cause, fix)
    return dt.datetime(
        value.year,
        value.month,
        value.day,
        value.hour,
        value.minute,
        value.second,
        tzinfo=value.tzinfo,
        fold=value.fold,
    )


def _timed(moment: dt.datetime | dt.date) -> bool:
    return isinstance(moment, dt.datetime)


def _span(name: str, value: Any) -> dt.timedelta:
    """Return a length of time: a timedelta, or a number of minutes."""
    fix = "Give minutes, or a timedelta."
    if isinstance(value, dt.timedelta):
        found = value
    elif isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise MessageError(f"event: {name} is of type {type(value).__name__}, not a length of time.", fix)
    else:
        try:
            found = dt.timedelta(minutes=float(value))
        except (OverflowError, ValueError):
            raise MessageError(f"event: {name}={value} is no length of time.", fix) from None
    # Missing ones of pandas differ from themselves; its others are timedeltas with more to them.
    if found != found or found < dt.timedelta() or found > 366 * _DAY:  # noqa: PLR0124
        raise MessageError(f"event: {name}={found} is not between nothing and a year.", fix)
    return dt.timedelta(days=found.days, seconds=found.seconds)


def _checked_url(value: Any) -> str:
    text = _text("url", value).strip()
    if text and not _URL.fullmatch(text):
        cause = f"event: {shortened(text)} is no https:, http:, mailto: or tel: URL in plain ASCII."
        raise MessageError(cause, "Percent-encode what is not ASCII.")
    return text


def _checked_uid(value: Any) -> str:
    text = _text("uid", value)
    if text and not _UID.fullmatch(text):
        cause = f"event: {shortened(text)} is no uid."
        raise MessageError(
            cause, "It has 1 to 255 characters of plain ASCII, no blanks: kickoff-2026@example.com."
        )
    return text


def _new_uid(organizer: Address | None) -> str:
    domain = organizer.wire.rpartition("@")[2] if organizer is not None else _UID_DOMAIN
    return f"{uuid.uuid4()}@{domain}"


def _checked_sequence(value: Any, method: str) -> int:
    number = int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else -1
    if not 0 <= number <= _LARGEST:
        raise MessageError(f"event: sequence={value!r} is no number of a version.", "It is 0, 1, 2, …")
    if method == "CANCEL" and not number:
        cause = "event: a cancellation with the sequence 0 would be ignored as old (RFC 5546, 3.2.5)."
        raise MessageError(cause, "Use event.cancelled(), or give a sequence above the last mail's.")
    return number


def _checked_stamp(value: Any) -> dt.datetime:
    found = _moment("stamp", value if value is not None else dt.datetime.now(dt.UTC))
    if not isinstance(found, dt.datetime):
        raise MessageError("event: stamp is a date, not a moment.", "Give a datetime, or leave it out.")
    return found.astimezone(dt.UTC)


def _check_together(event: Event) -> None:
    """Refuse fields that do not go with each other."""
    start, end, duration = event.start, event.end, event.duration
    if end is not None and duration is not None:
        raise MessageError("event: it has both an end and a duration.", "Give one of them.")
    if end is not None and _timed(end) != _timed(start):
        raise MessageError(
            "event: one of start and end is a date, the other a moment.", "Give two of one kind."
        )
    if not isinstance(start, dt.datetime):
        if duration is not None and (not duration or duration % _DAY):
            raise MessageError(
                "event: a duration from a date on is in whole days.", "Give a start with its time."
            )
        if end is not None and end < start:
            raise MessageError(f"event: it ends on {end}, before it starts on {start}.", _SWAP)
    elif end is None and not duration:
        raise MessageError(
            "event: it has neither an end nor a duration.", "Give end=…, or duration=60 (minutes)."
        )
    elif isinstance(end, dt.datetime) and end.astimezone(dt.UTC) <= start.astimezone(dt.UTC):
        raise MessageError(f"event: it ends at {end}, not after its start at {start}.", _SWAP)
    if event.method == "PUBLISH" and event.attendees:
        cause = "event: what is published has no attendees (RFC 5546, 3.2.1)."
        raise MessageError(cause, "Leave them out, or use method='REQUEST'.")
    if event.rrule:
        _check_repeated(event)


_SWAP = "Swap them, or check the zone."


def _check_repeated(event: Event) -> None:
    start = event.start
    until = ical.until_of(event.rrule)
    first = start if isinstance(start, dt.datetime) else dt.datetime.combine(start, dt.time(), dt.UTC)
    if until is not None and until < first.astimezone(dt.UTC):
        raise MessageError("event: the rrule's UNTIL is before the start.", "Check the year.")
    if isinstance(start, dt.datetime) and not isinstance(start.tzinfo, dt.timezone):
        name = _zone_name(start.tzinfo)
        if name not in _UTC_NAMES and not _zone_key(start):
            cause = "event: its start is in a zone without a name, or at an hour that the clocks show twice; repeated, it would be at the wrong hour after the next change."
            raise MessageError(cause, 'Use ZoneInfo("Europe/Berlin"), and an hour that each day has once.')


# ----------------------------------------------------------------------------------- zones and people


def _zone_name(zone: dt.tzinfo | None) -> str:
    """Return what the zone database calls a zone; zoneinfo and pytz say it each in its own way."""
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    return name if isinstance(name, str) else ""


def _offset(moment: dt.datetime) -> dt.timedelta:
    return moment.utcoffset() or dt.timedelta()


@functools.lru_cache(maxsize=256)
def _known_zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError
        return None


def _zone_key(moment: dt.datetime) -> str:
    """Return the name of a moment's zone where the moment can be written with it, else "".

    An hour that the clocks show twice means the first time (RFC 5545, 3.3.5); the second one goes in UTC.
    """
    name = _zone_name(moment.tzinfo)
    if not name or name in _UTC_NAMES or not re.fullmatch(r"[A-Za-z0-9_+/-]+", name):
        return ""
    zone = _known_zone(name)
    if zone is None:
        return ""
    read = moment.replace(tzinfo=zone, fold=0).astimezone(dt.UTC)
    return name if read == moment.astimezone(dt.UTC) else ""


def _when(start: dt.datetime | dt.date, finish: dt.datetime | dt.date) -> str:
    if not isinstance(start, dt.datetime) or not isinstance(finish, dt.datetime):
        return f"{start}" if start == finish else f"{start} \u2013 {finish}"
    zone, other = _zone_text(start), _zone_text(finish)
    begins = f"{start:%Y-%m-%d %H:%M}" + (f" {zone}" if zone != other else "")
    same_day = start.date() == finish.date() and zone == other
    ends = f"{finish:%H:%M}" if same_day else f"{finish:%Y-%m-%d %H:%M}"
    return f"{begins} \u2013 {ends} {other}"


def _zone_text(moment: dt.datetime) -> str:
    name = _zone_name(moment.tzinfo)
    return name or (f"UTC{moment:%z}" if moment.utcoffset() else "UTC")


class _Invited(NamedTuple):
    """One attendee."""

    address: Address
    role: str

    @classmethod
    def of(
        cls, named: tuple[Address, ...] | None, to: Iterable[Address], cc: Iterable[Address]
    ) -> list[_Invited]:
        """Return each attendee once: those that the event names, else the mail's."""
        required, optional = (to, cc) if named is None else (named, ())
        both = [(required, "REQ-PARTICIPANT"), (optional, "OPT-PARTICIPANT")]
        found: dict[str, _Invited] = {}
        for addresses, role in both:
            for address in addresses:
                found.setdefault(address.wire.casefold(), cls(address, role))
        return list(found.values())

    def line(self, *, answer: bool) -> str:
        """Return the ATTENDEE property; only an invitation asks for an answer."""
        asked = ";PARTSTAT=NEEDS-ACTION;RSVP=TRUE" if answer else ""
        return f"ATTENDEE;ROLE={self.role}{asked}{_common_name(self.address)}:{_mailto(self.address)}"


def _common_name(address: Address) -> str:
    return f";CN={ical.parameter(address.display_name)}" if address.display_name else ""


def _mailto(address: Address) -> str:
    """Return an address as a URI (RFC 6068, 2)."""
    return "mailto:" + quote(address.wire, safe="!$&'()*+,;:=@._~-")
