"""Invitations: what calendars read is what was meant, whoever reads it.

Two readers judge the files: a strict one of this module, which knows RFC 5545 and 6868 and nothing else, and
the icalendar package. Time zones are judged by what dateutil makes of their rules, moment by moment.
"""

from __future__ import annotations

import copy
import datetime as dt
import email
import pickle
import re
import subprocess
import sys
import zoneinfo
from email import policy
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from conftest import missing
from dateutil.rrule import rrulestr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtp_notebook import (
    Address,
    Attachment,
    Connection,
    Event,
    Message,
    MessageError,
    OptionError,
    PreflightError,
    Template,
    TemplateError,
    mail_merge,
    preview,
    send,
)
from smtp_notebook.ical import escaped, folded, recurrence, timezone_lines
from smtp_notebook.message import preview_html
from smtp_notebook.press import Press, with_sender

BERLIN = ZoneInfo("Europe/Berlin")
START = dt.datetime(2026, 5, 4, 9, 0, tzinfo=BERLIN)
STAMP = dt.datetime(2026, 4, 1, 12, 0, tzinfo=dt.UTC)
ME = Address("me@example.com", "Me, Myself")
ANN = Address("ann@example.com", "Ann")
BOB = Address("bob@example.org")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


# ------------------------------------------------------------------------------------------ readers


def lines_of(content):
    """The content lines of a file, unfolded, each as name, parameters and value; strict (RFC 5545, 3.1)."""
    assert content.endswith(b"\r\n")
    physical = content.removesuffix(b"\r\n").split(b"\r\n")
    for line in physical:
        line.decode()  # no fold inside a character
        assert len(line) <= 75
        assert not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", line)
    found = []
    for line in content.replace(b"\r\n ", b"").decode().removesuffix("\r\n").split("\r\n"):
        match = re.fullmatch(r'([A-Z-]+)((?:;[A-Z-]+=(?:"[^"]*"|[^";:,]*))*):(.*)', line)
        assert match, line
        parameters = re.findall(r';([A-Z-]+)=(?:"([^"]*)"|([^";:,]*))', match[2])
        undone = {
            n: re.sub(r"\^(.)", lambda m: {"^": "^", "'": '"', "n": "\n"}[m[1]], q or p)
            for n, q, p in parameters
        }
        found.append((match[1], undone, match[3]))
    return found


def text_of(value):
    """A TEXT value, unescaped; strict (RFC 5545, 3.3.11)."""
    assert re.fullmatch(r"(?:[^\\;,]|\\[\\;,n])*", value)
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], value)


def read(content):
    """The properties of a file by name; what a name has several of, as a list."""
    assert [line[0] for line in lines_of(content)].count("BEGIN") == [
        line[0] for line in lines_of(content)
    ].count("END")
    inside, found = [], {}
    for name, parameters, value in lines_of(content):
        if name == "BEGIN":
            inside.append(value)
        elif name == "END":
            assert inside.pop() == value
        elif inside in (["VCALENDAR"], ["VCALENDAR", "VEVENT"]):
            found.setdefault(name, []).append((parameters, value))
    assert not inside
    return found


def other_reader():
    """The icalendar package."""
    try:
        import icalendar
    except ImportError:
        missing("no icalendar here: pip install icalendar")
    return icalendar


def make(**fields):
    return Event(**({"summary": "Kick-off", "start": START, "duration": 60, "stamp": STAMP} | fields))


def ics(event, to=(ANN,), cc=()):
    return event.as_ics(organizer=ME, to=to, cc=cc)


def prop(event, name):
    return read(ics(event))[name][0]


def message(**fields):
    defaults = {"to": "Ann <ann@example.com>", "from_": "Me <me@example.com>", "body": "hi", "event": make()}
    return Message(**(defaults | fields))


def parsed(mail):
    return email.message_from_bytes(mail.as_bytes(), policy=policy.default)


def tree(part):
    """The types of a mail's parts, as nested lists."""
    if not part.is_multipart():
        return part.get_content_type()
    return [part.get_content_type(), *map(tree, part.iter_parts())]


# ------------------------------------------------------------------------------------ what is written


def test_an_invitation_has_what_itip_asks_for_and_the_people_of_the_mail():
    found = read(ics(make(location="Room 1", url="https://example.com/k", alarm=15), to=(ANN,), cc=(BOB,)))
    assert {n: v[0][1] for n, v in found.items() if n in {"VERSION", "METHOD", "SEQUENCE", "STATUS", "DTSTAMP"}} == {
        "VERSION": "2.0", "METHOD": "REQUEST", "SEQUENCE": "0", "STATUS": "CONFIRMED", "DTSTAMP": "20260401T120000Z",
    }  # fmt: skip
    assert found["PRODID"][0][1]
    assert found["ORGANIZER"] == [({"CN": "Me, Myself"}, "mailto:me@example.com")]
    asked = {"PARTSTAT": "NEEDS-ACTION", "RSVP": "TRUE"}
    assert found["ATTENDEE"] == [
        ({"ROLE": "REQ-PARTICIPANT", **asked, "CN": "Ann"}, "mailto:ann@example.com"),
        ({"ROLE": "OPT-PARTICIPANT", **asked}, "mailto:bob@example.org"),
    ]
    assert found["LOCATION"][0][1] == "Room 1"
    assert found["URL"][0][1] == "https://example.com/k"
    lines = lines_of(ics(make(alarm=dt.timedelta(hours=2))))
    assert ("TRIGGER", {}, "-PT120M") in lines
    assert ("ACTION", {}, "DISPLAY") in lines


def test_another_reader_reads_the_same():
    icalendar = other_reader()
    event = make(description="a\n\nb; c, d", location="Größe, Raum 1", rrule="FREQ=WEEKLY;COUNT=3", alarm=5)
    calendar = icalendar.Calendar.from_ical(ics(event, cc=(BOB,)))
    (found,) = calendar.events
    assert (str(calendar["METHOD"]), str(found["SUMMARY"]), str(found["UID"])) == (
        "REQUEST",
        "Kick-off",
        event.uid,
    )
    assert (str(found["DESCRIPTION"]), str(found["LOCATION"])) == (event.description, event.location)
    assert (found.start, found.end) == (START, START + dt.timedelta(hours=1))
    assert found["RRULE"] == {"FREQ": ["WEEKLY"], "COUNT": [3]}
    assert [str(a) for a in found["ATTENDEE"]] == ["mailto:ann@example.com", "mailto:bob@example.org"]
    assert found["ORGANIZER"].params["CN"] == "Me, Myself"
    assert not found.errors


def test_attendees_that_the_event_names_win_over_the_mails_and_each_is_there_once():
    event = make(attendees=["Cy <cy@example.com>", "CY@example.com"], organizer="Boss <boss@example.com>")
    found = read(ics(event, to=(ANN,), cc=(BOB,)))
    assert [value for _, value in found["ATTENDEE"]] == ["mailto:cy@example.com"]
    assert found["ORGANIZER"] == [({"CN": "Boss"}, "mailto:boss@example.com")]
    both = read(ics(make(), to=(ANN, BOB), cc=(BOB,)))
    assert [(p["ROLE"], v) for p, v in both["ATTENDEE"]][1:] == [
        ("REQ-PARTICIPANT", "mailto:bob@example.org")
    ]


@pytest.mark.parametrize(
    ("spec", "uri"),
    [
        ("o'neil+x@example.com", "mailto:o'neil+x@example.com"),
        ("50%/a?b@example.com", "mailto:50%25%2Fa%3Fb@example.com"),
        ("zoë@exämple.test", "mailto:zo%C3%AB@xn--exmple-cua.test"),
        ('"a b"@example.com', "mailto:%22a%20b%22@example.com"),
    ],
)
def test_an_address_becomes_a_uri_that_has_nothing_but_ascii(spec, uri):
    assert read(ics(make(), to=(Address(spec),)))["ATTENDEE"][0][1] == uri


def test_a_cancellation_keeps_the_uid_raises_the_sequence_and_asks_nobody():
    event = make(sequence=3, alarm=10)
    off = event.cancelled()
    found = read(ics(off))
    assert {n: found[n][0][1] for n in ("METHOD", "STATUS", "SEQUENCE", "UID")} == {
        "METHOD": "CANCEL", "STATUS": "CANCELLED", "SEQUENCE": "4", "UID": event.uid,
    }  # fmt: skip
    assert found["ATTENDEE"] == [({"ROLE": "REQ-PARTICIPANT", "CN": "Ann"}, "mailto:ann@example.com")]
    assert b"VALARM" not in ics(off)
    assert off.line.startswith("Cancelled: Kick-off")
    assert event.cancelled(9).sequence == 9
    assert off.with_(method="REQUEST").status == "CONFIRMED"


def test_what_is_published_has_no_attendees_and_needs_none():
    found = read(make(method="publish").as_ics(organizer=ME))
    assert found["METHOD"][0][1] == "PUBLISH"
    assert "ATTENDEE" not in found


def test_an_update_keeps_the_uid_and_two_events_have_two():
    event = make()
    later = event.with_(start=START + dt.timedelta(days=1), sequence=1)
    assert later.uid == event.uid
    assert (later.finish, later.sequence) == (later.start + dt.timedelta(hours=1), 1)
    assert later.stamp > event.stamp
    assert make().uid != event.uid
    assert make(organizer="boss@Exämple.test").uid.endswith("@xn--exmple-cua.test")
    assert make(uid="x@example.com").uid == "x@example.com"
    assert text_of(prop(make(uid="a;b,c\\d"), "UID")[1]) == "a;b,c\\d"
    assert event.with_(end=START + dt.timedelta(hours=3)).duration is None
    assert event.with_(duration=30).finish == START + dt.timedelta(minutes=30)


def test_equal_events_show_the_same_and_they_can_be_copied_and_pickled():
    event = make(uid="x@example.com", attendees=["ann@example.com"])
    assert event == make(uid="x@example.com", attendees=["ann@example.com"], stamp=STAMP + dt.timedelta(1))
    assert event != event.with_(location="elsewhere")
    assert len({event, copy.copy(event), pickle.loads(pickle.dumps(event))}) == 1
    with pytest.raises(AttributeError):
        event.summary = "other"


# ------------------------------------------------------------------------------------------- moments


@pytest.mark.parametrize(
    ("start", "end", "written"),
    [
        (START, None, (";TZID=Europe/Berlin:20260504T090000", ";TZID=Europe/Berlin:20260504T100000")),
        (START.astimezone(dt.UTC), None, (":20260504T070000Z", ":20260504T080000Z")),
        (START.replace(tzinfo=ZoneInfo("UTC")), None, (":20260504T090000Z", ":20260504T100000Z")),
        (
            START.replace(tzinfo=dt.timezone(dt.timedelta(hours=-5))),
            None,
            (":20260504T140000Z", ":20260504T150000Z"),
        ),
        (pd.Timestamp(START), None, (";TZID=Europe/Berlin:20260504T090000", ";TZID=Europe/Berlin:20260504T100000")),
        (
            START,
            dt.datetime(2026, 5, 4, 12, tzinfo=ZoneInfo("Asia/Tokyo")) + dt.timedelta(hours=8),
            (";TZID=Europe/Berlin:20260504T090000", ";TZID=Asia/Tokyo:20260504T200000"),
        ),
        # The hour that the clocks show twice: the first time by name, the second one in UTC.
        (
            dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN),
            None,
            (";TZID=Europe/Berlin:20261025T023000", ":20261025T013000Z"),
        ),
        # An hour's length in the night in which one is left out.
        (
            dt.datetime(2026, 3, 29, 1, 30, tzinfo=BERLIN),
            None,
            (";TZID=Europe/Berlin:20260329T013000", ";TZID=Europe/Berlin:20260329T033000"),
        ),
        (dt.date(2026, 5, 4), None, (";VALUE=DATE:20260504", ";VALUE=DATE:20260505")),
        (dt.date(2026, 5, 4), dt.date(2026, 5, 6), (";VALUE=DATE:20260504", ";VALUE=DATE:20260507")),
    ],
)  # fmt: skip
def test_moments_are_written_so_that_they_mean_the_same_everywhere(start, end, written):
    length = {"end": end} if end or not isinstance(start, dt.datetime) else {"duration": 60}
    event = Event("x", start, **length)
    lines = ics(event).decode().split("\r\n")
    first = [
        line.removeprefix("DTSTART")
        for line in lines[lines.index("BEGIN:VEVENT") :]
        if line.startswith("DTSTART")
    ]
    last = [line.removeprefix("DTEND") for line in lines if line.startswith("DTEND")]
    assert (*first, *last) == written
    named = set(re.findall(r"TZID=([^:]+):", "\n".join(lines)))
    assert {line.removeprefix("TZID:") for line in lines if line.startswith("TZID:")} == named


def test_whole_days_of_a_duration_are_counted_from_the_first():
    event = Event("Fair", dt.date(2026, 5, 4), duration=dt.timedelta(days=3))
    assert event.all_day
    assert event.finish == dt.date(2026, 5, 6)
    assert event.line == "Fair, 2026-05-04 – 2026-05-06"


def test_a_zone_that_nobody_can_name_goes_in_utc():
    class Own(dt.tzinfo):
        def utcoffset(self, _):
            return dt.timedelta(hours=3)

        def dst(self, _):
            return None

    assert prop(make(start=START.replace(tzinfo=Own())), "DTSTART") == ({}, "20260504T060000Z")
    with pytest.raises(MessageError, match="without a name"):
        make(start=START.replace(tzinfo=Own()), rrule="FREQ=DAILY")


ZONES = [
    "Europe/Berlin", "Europe/Dublin", "America/New_York", "America/Santiago", "America/Nuuk", "Asia/Jerusalem",
    "Asia/Tokyo", "Asia/Gaza", "Australia/Lord_Howe", "Africa/Casablanca", "Africa/Cairo", "America/Sao_Paulo",
    "Antarctica/Troll",
]  # fmt: skip


def offset_by(lines, moment):
    """The offset that a VTIMEZONE gives for a moment in UTC; by dateutil's rules."""
    component, onsets = {}, []
    for line in lines:
        name, _, value = line.partition(":")
        component = {} if name == "BEGIN" else component | {name: value}
        if name == "END" and value in {"STANDARD", "DAYLIGHT"}:
            before, after = (
                dt.timedelta(hours=int(v[:3]), minutes=int(v[0] + v[3:5]))
                for v in (component["TZOFFSETFROM"], component["TZOFFSETTO"])
            )
            first = dt.datetime.fromisoformat(component["DTSTART"])
            until = moment.replace(tzinfo=None) + dt.timedelta(days=2)
            every = [first]
            if "RRULE" in component:
                every = rrulestr(component["RRULE"], dtstart=first).between(first, until, inc=True)
                assert every[0] == first
            onsets += [(onset - before, after) for onset in every]
    return max(o for o in onsets if o[0] <= moment.replace(tzinfo=None))[1]


@settings(max_examples=150, deadline=None)
@given(
    zone=st.one_of(st.sampled_from(ZONES), st.sampled_from(sorted(zoneinfo.available_timezones()))),
    year=st.integers(1975, 2060),
    part=st.floats(0, 1, exclude_max=True),
)
@example("Europe/Berlin", 2026, 0.24)
@example("Asia/Gaza", 2026, 0.24)
@example("Africa/Casablanca", 2026, 0.13)
def test_a_time_zone_is_right_in_its_year(zone, year, part):
    lines = timezone_lines(zone, year, year)
    moment = dt.datetime(year, 1, 2, tzinfo=dt.UTC) + dt.timedelta(days=363 * part)
    meant = moment.astimezone(ZoneInfo(zone)).utcoffset()
    if meant % dt.timedelta(minutes=1):
        return  # seconds of local mean time
    assert offset_by(lines, moment) == meant


@pytest.mark.parametrize("zone", ZONES)
def test_a_time_zone_stays_right_for_years_where_its_clocks_follow_a_rule(zone):
    lines = timezone_lines(zone, 2026, 2030)
    assert not any(line.startswith("RDATE") for line in lines)
    last = 2050 if any(line.startswith("RRULE") for line in lines) else 2030
    for days in range(0, 365 * (last - 2026), 11):
        moment = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC) + dt.timedelta(days=days)
        assert offset_by(lines, moment) == moment.astimezone(ZoneInfo(zone)).utcoffset(), moment


def test_a_repeated_meeting_stays_at_its_hour_when_the_clocks_are_set():
    content = ics(make(start=dt.datetime(2026, 3, 24, 9, tzinfo=BERLIN), rrule="FREQ=WEEKLY;COUNT=2"))
    assert b"RRULE:FREQ=YEARLY;BYMONTH=3;BYDAY=-1SU" in content
    assert b"DTSTART;TZID=Europe/Berlin:20260324T090000" in content


# ----------------------------------------------------------------------------------------- any text

NASTY = [
    "C:\\New\\notes", "a;b,c:d\"e'f^g", "\\n", "\\\\", "\\" * 200, "^" * 200, "ü" * 100, "日本語" * 60, "👩\u200d👩\u200d👧" * 20,
    "x" * 75, "x" * 66 + "\\;", "BEGIN:VEVENT", "END:VCALENDAR", " lead", "\u202eexe", "a" * 64 + "\\\\" * 9,
]  # fmt: skip
plain_text = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=200),
    st.text(st.sampled_from('ab\\;,:^"é日👩 '), max_size=300),
)
broken_text = st.lists(plain_text, min_size=1, max_size=4).map("\n".join)


@given(plain_text)
def test_any_line_folds_at_75_octets_into_whole_characters_and_unfolds_to_itself(text):
    line = f"SUMMARY:{escaped(text)}"
    content = folded(line)
    assert content.endswith(b"\r\n")
    assert content.replace(b"\r\n ", b"").decode() == f"{line}\r\n"
    for piece in content.removesuffix(b"\r\n").split(b"\r\n"):
        assert 0 < len(piece) <= 75
        piece.decode()
        assert (len(piece) - len(piece.rstrip(b"\\"))) % 2 == 0  # no escape is cut


@given(summary=plain_text, location=plain_text, description=broken_text, name=plain_text)
def test_any_text_round_trips_and_begins_no_property_of_its_own(summary, location, description, name):
    name = name[:300]
    event = make(
        summary=f"s{summary}s", location=f"l{location}l", description=description, uid="u@example.com",
        rrule="FREQ=DAILY;COUNT=2",
    )  # fmt: skip
    person = Address("ann@example.com", name)
    content = ics(event, to=(person,))
    plain = ics(make(location="l", description="d", uid="u@example.com", rrule="FREQ=DAILY;COUNT=2"))
    assert [line[0] for line in lines_of(content) if line[0] != "DESCRIPTION"] == [
        line[0] for line in lines_of(plain) if line[0] != "DESCRIPTION"
    ]
    found = read(content)
    assert text_of(found["SUMMARY"][0][1]) == event.summary == f"s{summary}s"
    assert text_of(found["LOCATION"][0][1]) == f"l{location}l"
    assert text_of(found.get("DESCRIPTION", [({}, "")])[0][1]) == description
    assert found["ATTENDEE"][0][0].get("CN", "") == person.display_name
    assert content.decode().splitlines() == content.decode().removesuffix("\r\n").split("\r\n")


@given(st.text(max_size=40), st.sampled_from(["summary", "location", "description"]))
@example("a\r\nATTENDEE:mailto:evil@example.com", "summary")
@example("a\rEND:VEVENT", "description")
@example("a\u2028b", "description")
@example("nul\0", "description")
@example("half \ud800", "location")
def test_a_text_is_written_as_it_was_given_or_refused(text, name):
    try:
        event = make(**{"summary": "x", name: text})
    except MessageError as error:
        assert name in error.cause
        assert error.fix
        return
    found = read(ics(event))
    lines = re.sub("\r\n|[\r\x85\u2028\u2029]", "\n", text)
    meant = lines if name == "description" else lines.strip()
    assert text_of(found.get(name.upper(), [({}, "")])[0][1]) == meant


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"summary": " "}, "summary is empty"),
        ({"summary": None}, "of type NoneType"),
        ({"summary": "a\nATTENDEE:x"}, "line break"),
        ({"location": "a\0"}, "U+0000"),
        ({"description": "a\x07"}, "U+0007"),
        ({"start": dt.datetime(2026, 5, 4, 9)}, "which one is meant"),
        ({"duration": None, "end": dt.datetime(2026, 5, 4, 10)}, "end is 2026-05-04 10:00 without a time zone"),
        ({"start": "2026-05-04"}, "of type str"),
        ({"start": pd.NaT}, "missing"),
        ({"start": dt.datetime(1, 1, 1, tzinfo=dt.UTC)}, "year 1"),
        ({"duration": None}, "neither an end nor a duration"),
        ({"duration": 0}, "neither an end nor a duration"),
        ({"end": START + dt.timedelta(hours=1)}, "both an end and a duration"),
        ({"duration": None, "end": START}, "not after its start"),
        ({"duration": None, "end": START.astimezone(ZoneInfo("Asia/Tokyo")) - dt.timedelta(minutes=1)}, "not after its start"),
        ({"duration": None, "end": dt.date(2026, 5, 4)}, "one of start and end is a date"),
        ({"start": dt.date(2026, 5, 4), "duration": 90}, "whole days"),
        ({"start": dt.date(2026, 5, 4), "duration": None, "end": dt.date(2026, 5, 3)}, "before it starts"),
        ({"duration": -5}, "not between"),
        ({"duration": float("nan")}, "no length of time"),
        ({"duration": "1h"}, "of type str"),
        ({"alarm": -1}, "not between"),
        ({"alarm": True}, "of type bool"),
        ({"method": "REPLY"}, "'REPLY' is no method"),
        ({"method": "CANCEL"}, "ignored as old"),
        ({"status": "CANCELLED"}, "'CANCELLED' is no status"),
        ({"method": "PUBLISH", "attendees": ["a@example.com"]}, "no attendees"),
        ({"sequence": -1}, "sequence=-1"),
        ({"sequence": True}, "sequence=True"),
        ({"uid": "a b"}, "no uid"),
        ({"uid": "a\r\nX:y"}, "no uid"),
        ({"url": "javascript:alert(1)"}, "no https:"),
        ({"url": "https://"}, "no https:"),
        ({"url": "https://example.com/\r\nX:y"}, "no https:"),
        ({"organizer": "a@"}, "organizer"),
        ({"organizer": "a@example.com; b@example.com"}, "several organizers"),
        ({"attendees": ["a@example.com", "x"]}, "attendees"),
        ({"stamp": dt.date(2026, 1, 1)}, "stamp is a date"),
        ({"rrule": "FREQ=DAILY;UNTIL=20260101T000000Z"}, "UNTIL is before the start"),
        ({"start": dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1), "rrule": "FREQ=DAILY"}, "twice"),
    ],
)  # fmt: skip
def test_what_no_calendar_can_hold_is_refused_with_cause_and_fix(fields, names):
    with pytest.raises(MessageError) as caught:
        make(**fields)
    assert names in caught.value.cause
    assert caught.value.fix


def test_an_unknown_field_is_refused_with_the_nearest_one():
    with pytest.raises(OptionError, match="'location'"):
        make().with_(loction="x")


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=WEEKLY;BYDAY=MO,WE;COUNT=10",
        "freq=monthly;byday=-1fr",
        "RRULE:FREQ=YEARLY;BYMONTH=3;BYMONTHDAY=-1;UNTIL=20301231T000000Z",
        "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1;WKST=SU;INTERVAL=2",
    ],
)
def test_a_rule_that_is_one_is_kept_and_another_library_takes_it(rule):
    found = recurrence(rule, all_day=False)
    assert found == rule.upper().removeprefix("RRULE:")
    rrulestr(found, dtstart=dt.datetime(2026, 5, 4, 9, tzinfo=dt.UTC))
    assert prop(make(rrule=rule), "RRULE") == ({}, found)


@pytest.mark.parametrize(
    ("rule", "all_day", "names"),
    [
        ("WEEKLY", False, "'WEEKLY' is none"),
        ("COUNT=3", False, "no FREQ"),
        ("FREQ=HOURLY", False, "FREQ="),
        ("FREQ=DAILY;BYHOUR=9", False, "'BYHOUR=9' is none"),
        ("FREQ=DAILY;COUNT=0", False, "COUNT="),
        ("FREQ=DAILY;COUNT=1,2", False, "COUNT="),
        ("FREQ=DAILY;COUNT=3;UNTIL=20270101T000000Z", False, "both"),
        ("FREQ=DAILY;COUNT=3;COUNT=4", False, "twice"),
        ("FREQ=WEEKLY;BYDAY=XX", False, "BYDAY="),
        ("FREQ=WEEKLY;BYDAY=1MO", False, "counted"),
        ("FREQ=WEEKLY;BYMONTHDAY=3", False, "does not go with"),
        ("FREQ=MONTHLY;BYMONTHDAY=32", False, "BYMONTHDAY="),
        ("FREQ=MONTHLY;BYMONTHDAY=0", False, "BYMONTHDAY="),
        ("FREQ=YEARLY;BYMONTH=-1", False, "BYMONTH="),
        ("FREQ=MONTHLY;BYSETPOS=1", False, "BYSETPOS"),
        ("FREQ=DAILY;UNTIL=20270101", False, "moment in UTC"),
        ("FREQ=DAILY;UNTIL=20270101T000000Z", True, "a date"),
        ("FREQ=DAILY;UNTIL=2027", True, "a date"),
        ("FREQ=DAILY\r\nATTENDEE:mailto:evil@example.com", False, "FREQ="),
        ("FREQ=DAILY;", False, "none of its parts"),
    ],
)
def test_a_rule_that_is_none_is_refused_with_its_part(rule, all_day, names):
    with pytest.raises(MessageError) as caught:
        recurrence(rule, all_day=all_day)
    assert names in caught.value.cause
    assert caught.value.fix


@given(st.text(st.sampled_from("FREQ=DAILYWK;BMOTHUCN0123,-\r\n:"), max_size=40))
def test_whatever_passes_as_a_rule_is_one_line(text):
    try:
        found = recurrence(text, all_day=True)
    except MessageError:
        return
    assert re.fullmatch(r"[A-Z0-9=;,+-]+", found)


# ------------------------------------------------------------------------------------------ the mail


def test_the_invitation_is_the_last_alternative_and_attached_besides():
    found = parsed(message())
    assert tree(found) == [
        "multipart/mixed",
        ["multipart/alternative", "text/plain", "text/html", "text/calendar"],
        "application/ics",
    ]
    alternative, copied = found.iter_parts()
    shown = list(alternative.iter_parts())[-1]
    assert (shown.get_param("method"), shown.get_content_charset()) == ("REQUEST", "utf-8")
    assert shown.get_content_disposition() is None
    assert (copied.get_content_disposition(), copied.get_filename()) == ("attachment", "invite.ics")
    assert shown.get_payload(decode=True) == copied.get_payload(decode=True)
    event = read(copied.get_payload(decode=True))
    assert event["METHOD"][0][1] == "REQUEST"
    assert event["ORGANIZER"] == [({"CN": "Me"}, "mailto:me@example.com")]


def test_images_stay_beside_their_html_and_attachments_beside_the_invitation():
    mail = message(
        body='<p><img src="cid:logo"></p>', format="html", cc="bob@example.org", bcc="cy@example.com",
        inline=[Attachment(PNG, "l.png", content_id="logo")], attach=[Attachment(b"%PDF", "a.pdf")],
    )  # fmt: skip
    assert tree(parsed(mail)) == [
        "multipart/mixed",
        [
            "multipart/alternative",
            "text/plain",
            ["multipart/related", "text/html", "image/png"],
            "text/calendar",
        ],
        "application/pdf",
        "application/ics",
    ]
    assert mail.as_bytes().isascii()
    file = read(list(parsed(mail).walk())[-1].get_payload(decode=True))
    assert [value for _, value in file["ATTENDEE"]] == ["mailto:ann@example.com", "mailto:bob@example.org"]


def test_a_text_mail_has_two_alternatives():
    assert tree(parsed(message(format="text")))[1] == ["multipart/alternative", "text/plain", "text/calendar"]


def test_the_method_of_the_mail_is_the_one_inside():
    for event in (make().cancelled(), make(method="PUBLISH")):
        *_, shown, copied = parsed(message(event=event)).walk()
        assert shown.get_param("method") == event.method
        assert read(copied.get_payload(decode=True))["METHOD"][0][1] == event.method


def test_a_mail_to_nobody_but_bcc_invites_nobody_and_says_so():
    mail = message(to=None, bcc="ann@example.com")
    with pytest.raises(MessageError, match="never its Bcc"):
        mail.as_bytes()
    message(to=None, bcc="ann@example.com", event=make(method="PUBLISH")).as_bytes()


def test_an_event_is_a_field_like_the_others():
    event = make()
    mail = message(event=event)
    assert mail.event is event
    assert mail == message(event=event)
    assert mail != message(event=None)
    assert mail.with_(event=None).event is None
    assert repr(mail).endswith(", an event>")
    assert repr(event) == "<Event Kick-off, 2026-05-04 09:00 – 10:00 Europe/Berlin>"
    with pytest.raises(MessageError, match="of type dict"):
        message(event={"summary": "x"})


def test_a_preview_shows_the_event_in_one_line_and_escaped():
    mail = message(event=make(summary="A <b>", location="Room 1"))
    line = "Event: A <b>, 2026-05-04 09:00 – 10:00 Europe/Berlin, Room 1"
    assert line in mail._repr_mimebundle_()["text/plain"]
    assert "A &lt;b&gt;, 2026-05-04 09:00" in preview_html(mail)


def test_the_connector_gets_the_invitation_as_an_attachment():
    (found,) = message().to_connector()["Attachments"]
    assert (found["FileName"], found["ContentType"]) == (
        "invite.ics",
        "text/calendar; method=REQUEST; charset=utf-8",
    )
    again = Message.from_connector(message().to_connector())
    assert read(again.attach[0].content)["SUMMARY"][0][1] == "Kick-off"


def test_a_mail_through_the_sandbox_arrives_with_its_invitation(sandbox):
    send(to="ann@example.com", from_="me@example.com", subject="s", body="hi", event=make(), via=sandbox)
    (got,) = sandbox.messages
    assert tree(got.email)[1][-1] == "text/calendar"
    assert read(list(got.email.walk())[-1].get_payload(decode=True))["SUMMARY"][0][1] == "Kick-off"


def test_importing_an_event_imports_nothing_heavy():
    heavy = "{'pandas', 'ipywidgets', 'aiosmtplib', 'IPython', 'jinja2', 'icalendar', 'dateutil'}"
    code = f"import sys; from smtp_notebook import Event; found = {heavy} & set(sys.modules); sys.exit(repr(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------------------------- merges

TEMPLATE = (
    "---\nto: {{ Name }} <{{ Email }}>\nfrom: me@example.com\nsubject: For {{ Name }}\n---\nDear {{ Name }}\n"
)
ROWS = [{"Name": n, "Email": f"{n.lower()}@example.com", "Start": START} for n in ("Ann", "Bob", "Cy")]


def invited(sandbox):
    return {
        m.recipients[0]: read(list(m.email.walk())[-1].get_payload(decode=True)) for m in sandbox.messages
    }


def test_one_event_serves_every_row_and_each_mail_names_its_own_recipients(sandbox):
    event = make()
    report = mail_merge(ROWS, TEMPLATE, event=event, via=sandbox, progress=False)
    assert len(report.sent) == 3
    found = invited(sandbox)
    assert {f["UID"][0][1] for f in found.values()} == {event.uid}
    for person, file in found.items():
        assert [value for _, value in file["ATTENDEE"]] == [f"mailto:{person}"]


def test_a_function_makes_each_rows_own_event_or_none(sandbox):
    def event_of(row):
        return Event(f"With {row['Name']}", row["Start"], duration=30) if row["Start"] is not None else None

    rows = [*ROWS, {"Name": "Di", "Email": "di@example.com", "Start": float("nan")}]
    report = mail_merge(rows, TEMPLATE, event=event_of, via=sandbox, progress=False)
    assert len(report.sent) == 4
    *invitations, without = sorted(sandbox.messages, key=lambda m: m.recipients)
    assert tree(without.email) == ["multipart/alternative", "text/plain", "text/html"]
    found = [read(list(m.email.walk())[-1].get_payload(decode=True)) for m in invitations]
    assert [f["SUMMARY"][0][1] for f in found] == ["With Ann", "With Bob", "With Cy"]
    assert len({f["UID"][0][1] for f in found}) == 3


def test_a_function_that_is_called_again_makes_the_same_meeting_and_the_same_mail():
    template = Template(TEMPLATE, event=lambda row: Event("x", row["Start"], duration=30))
    first, second = (template.fill(ROWS[0]) for _ in range(2))
    assert first.event == second.event
    assert template.fill(ROWS[1]).event.uid != first.event.uid
    press = Press(template, SERVER)
    assert press.print(ROWS[0]).digest == press.print(ROWS[0]).digest
    named = Template(
        TEMPLATE, event=lambda row: Event("x", row["Start"], duration=30, uid=f"{row['Name']}@x")
    )
    assert named.fill(ROWS[0]).event.uid == "Ann@x"


def test_a_failing_function_is_the_rows_problem(sandbox):
    with pytest.raises(PreflightError) as caught:
        mail_merge(
            ROWS,
            TEMPLATE,
            event=lambda row: Event("x", row["Begin"], duration=30),
            via=sandbox,
            progress=False,
        )
    assert "KeyError" in caught.value.report[0].reason
    with pytest.raises(TemplateError, match="ZeroDivisionError"):
        preview(ROWS, TEMPLATE, event=lambda _: 1 / 0)
    with pytest.raises(MessageError, match="of type int"):
        preview(ROWS, TEMPLATE, event=lambda _: 1)
    assert not sandbox.messages


def test_template_text_in_an_event_is_refused_before_anybody_sees_it():
    with pytest.raises(TemplateError, match="lambda row"):
        Template(TEMPLATE, event=make(summary="With {{ Name }}"))
    press = Press(Template(TEMPLATE, event=lambda row: make(summary=row["Title"])), SERVER)
    with pytest.raises(MessageError, match="The event still has"):
        press.print(ROWS[0] | {"Title": "{{ x }}"})


def test_an_event_does_not_stand_in_a_head_nor_is_it_text():
    with pytest.raises(OptionError, match="in Python"):
        Template("---\nevent: Kick-off\n---\nhi")
    with pytest.raises(MessageError, match="of type str"):
        Template("hi", event="Kick-off")


def test_a_templates_fingerprint_knows_the_event_but_not_when_it_was_made():
    one, same, other = (
        Template(TEMPLATE, event=make(stamp=stamp, location=place)).fingerprint
        for stamp, place in ((STAMP, ""), (STAMP + dt.timedelta(1), ""), (STAMP, "elsewhere"))
    )
    assert one == same != other
    assert Template(TEMPLATE).fingerprint != one


SERVER = Connection(host="mail.example.com", port=587, sender="sender@example.com")


PEOPLE = [
    {},
    {"cc": ["Fix <fix@example.org>", "two@example.org"]},
    {"cc": "{{ Name }} <cc-{{ Email }}>", "bcc": "hidden@example.org"},
    {"from_": "{{ Name }} <{{ Email }}>"},
    {"to": ["{{ Email }}", "{{ Name }} <other-{{ Email }}>", "Zoë <fix@exämple.test>"]},
    {"to": "{{ Email }}; x@example.org"},
    {"attach": Attachment(b"%PDF", "a.pdf"), "inline": Attachment(PNG, "l.png", content_id="logo"),
     "body": '<img src="cid:logo">{{ Name }}', "format": "html"},
]  # fmt: skip
EVENTS = [
    make(),
    make().cancelled(),
    make(method="PUBLISH"),
    make(attendees=["Cy <cy@example.com>"], organizer="boss@example.com"),
    lambda row: make(summary=f"With {row['Name']}", uid="u@x"),
]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("fields", PEOPLE)
def test_a_merge_prints_what_the_one_message_builder_does(event, fields):
    from test_press import content_of, unbound, whole

    template = Template(TEMPLATE, **({"event": event} | fields))
    press = Press(template, SERVER)
    odd = {"Name": "Zoë, Ltd.", "Email": "zoe@example.com"}
    for row in [*ROWS, odd, {"Name": "Zoë", "Email": "zoë@example.com"}] * 2:
        printed = press.print(row)
        mail, content = whole(template, row)
        assert unbound(content_of(printed)) == unbound(content)
        assert printed.recipients == mail.recipients
        assert printed.size == sum(map(len, printed.chunks))


def test_the_rows_of_one_event_share_their_mold():
    press = Press(Template(TEMPLATE, event=make(), cc="Fix <fix@example.org>"), SERVER)
    for row in ROWS * 3:
        press.print(row)
    assert press.slow_rows == 1


def test_the_same_mail_is_known_again_although_its_event_was_made_anew():
    one, same, other = (
        Press(Template(TEMPLATE, event=event), SERVER).print(ROWS[0]).digest
        for event in (make(), make(stamp=STAMP + dt.timedelta(1)), make(location="elsewhere"))
    )
    assert one == same != other
    template = Template(TEMPLATE, event=make())
    message = with_sender(template.fill(ROWS[0]), SERVER)
    assert message.event.uid.endswith("@smtp-notebook")
