"""Times: no row goes before its moment or from its end on, whatever delays it, and none is forgotten.

No test waits: the clock of the day is one that the test sets, and each wait moves it on.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import re
import signal
import threading
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Server

from smtp_notebook import (
    Connection,
    Journal,
    MergeRefusedError,
    OptionError,
    PreflightError,
    Report,
    State,
    amail_merge,
    mail_merge,
    merge_form,
    suppress,
    times,
)
from smtp_notebook import merge as merges
from smtp_notebook.jobs import MergeJob
from smtp_notebook.times import Moments, Span, in_words
from smtp_notebook.watchbook import Watchbook

LETTER = "---\nsubject: Hi {{ n }}\nfrom: me@example.com\n---\nDear **{{ n }}**"
CET = dt.timezone(dt.timedelta(hours=1))
NOON = dt.datetime(2026, 12, 1, 12, 0, tzinfo=CET)


def at(hour, minute=0):
    return NOON.replace(hour=hour, minute=minute)


def frame(count=4, **columns):
    return pd.DataFrame({"Email": [f"u{i}@example.com" for i in range(count)], "n": range(count)} | columns)


def merge(server, data, **more):
    options = {"via": server.url(), "campaign": "c", "progress": False}
    return mail_merge(data, LETTER, **options | more)


def went(server):
    return sorted(m.recipients[0][:2] for m in server.log.mails)


class Clock:
    """The time of day: noon, until it is moved; a wait moves it on."""

    def __init__(self):
        self.now = NOON
        self.waits = []
        self.while_waiting = []

    def __call__(self):
        return self.now

    def seconds(self):
        return self.now.timestamp()

    async def pause(self, seconds):
        self.waits.append(seconds)
        self.now += dt.timedelta(seconds=seconds)
        for look in self.while_waiting:
            await asyncio.to_thread(look)


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(times, "NOW", made)
    monkeypatch.setattr(merges, "PAUSE", made.pause)
    return made


@pytest.fixture
def server():
    with Server() as found:
        yield found


# ------------------------------------------------------------------------------------------ send_at


def test_a_row_whose_time_has_not_come_stays_planned_and_goes_when_it_is_run_then(server, clock):
    data = frame(When=[None, at(12), at(13), at(14, 30)])
    report = merge(server, data, send_at="When")
    assert [o.state for o in report] == [State.SENT, State.SENT, State.PLANNED, State.PLANNED]
    assert report[2].reason == "Not before 2026-12-01 13:00 +01:00."
    assert (report.waiting, report.next_at) == (2, at(13))
    assert any(note.startswith("2 rows wait until ") for note in report.notes)
    assert went(server) == ["u0", "u1"]
    assert [o.state for o in Journal().report("c")] == [State.SENT, State.SENT, State.PLANNED, State.PLANNED]
    assert Journal().report("c")[2].reason == report[2].reason
    # A watch finds them there, and tries them at its next poll.
    assert [o.key for o in Watchbook(Journal(), "c").open()] == ["u2@example.com", "u3@example.com"]
    clock.now = at(13)
    report = merge(server, data, send_at="When")
    assert report.counts == {State.PLANNED: 1, State.SENT: 1, State.SKIPPED: 2}
    clock.now = at(15)
    assert merge(server, data, send_at="When").counts == {State.SENT: 1, State.SKIPPED: 3}
    report = merge(server, data, send_at="When")
    assert (report.waiting, report.next_at) == (0, None)
    assert went(server) == ["u0", "u1", "u2", "u3"]


def test_one_moment_for_all_and_another_in_the_next_run_is_no_other_campaign(server, clock):
    report = merge(server, frame(), send_at=at(18))
    assert report.counts == {State.PLANNED: 4}
    assert "No row is due" in report.notes[0]
    assert server.log.mails == []
    assert merge(server, frame(), send_at=at(11), expires=at(20)).counts == {State.SENT: 4}


def test_a_function_of_the_row_says_when_and_is_given_none_for_an_empty_cell(server, clock):
    data = frame(Hour=[None, 11.0, 13.0, 14.0])
    report = merge(server, data, send_at=lambda row: None if row["Hour"] is None else at(int(row["Hour"])))
    assert [o.state for o in report] == [State.SENT, State.SENT, State.PLANNED, State.PLANNED]


def test_what_waits_was_checked_so_that_a_problem_is_known_now(server, clock):
    data = frame(When=[at(13)] * 4)
    data.loc[2, "Email"] = "nobody"
    with pytest.raises(PreflightError, match="1 of 4"):
        merge(server, data, send_at="When")


def test_a_trial_and_a_dry_run_show_who_would_wait(sandbox, clock):
    data = frame(When=[None, at(13), None, None])
    assert mail_merge(data, LETTER, via=sandbox, send_at="When").counts == {State.PLANNED: 1, State.SENT: 3}
    report = mail_merge(data, LETTER, via=sandbox, send_at="When", dry_run=True, wait=True)
    assert report.waiting == 1
    assert clock.waits == []


def test_a_row_that_was_put_off_by_the_server_is_not_tried_before_its_new_time(clock):
    with Server({"rcpt": lambda a: "450 later" if a.startswith("u0") else None}) as server:
        one = merge(server, frame(2), via=Connection.from_url(server.url(), attempts=1))
        assert [o.state for o in one] == [State.DEFERRED, State.SENT]
        server.heal()
        two = merge(server, frame(2), send_at=at(15))
        assert [o.state for o in two] == [State.PLANNED, State.SKIPPED]
        # What the server said stays in the journal.
        assert Journal().report("c")[0].state is State.DEFERRED
        clock.now = at(15)
        assert merge(server, frame(2), send_at=at(15)).counts == {State.SENT: 1, State.SKIPPED: 1}


def test_the_others_of_a_partial_mail_wait_and_those_who_have_it_stay(clock):
    with Server({"rcpt": lambda a: "450 later" if a.startswith("x") else None}) as server:
        assert merge(server, frame(1), cc="x@example.com").counts == {State.PARTIAL: 1}
        server.heal()
        report = merge(server, frame(1), cc="x@example.com", send_at=at(15))
        assert report.counts == {State.PARTIAL: 1}
        assert "not before" in report[0].reason
        report = merge(server, frame(1), cc="x@example.com", expires=at(11))
        assert report.counts == {State.PARTIAL: 1}
        assert "expired" in report[0].reason
        assert merge(server, frame(1), cc="x@example.com").counts == {State.SENT: 1}
    assert [m.recipients for m in server.log.mails] == [["u0@example.com"], ["x@example.com"]]


def test_limit_counts_what_is_sent_and_not_what_waits(server, clock):
    report = merge(server, frame(6, When=[at(13), None, at(13), None, None, None]), send_at="When", limit=2)
    assert went(server) == ["u1", "u3"]
    assert report.waiting == 2


# ------------------------------------------------------------------------------------------ expires


def test_from_its_end_on_a_row_is_skipped_and_is_due_again_when_the_end_is_lifted(server, clock):
    data = frame(End=[at(11), at(12), at(12, 1), None])
    report = merge(server, data, expires="End")
    assert [o.state for o in report] == [State.SKIPPED, State.SKIPPED, State.SENT, State.SENT]
    assert report[1].reason == "Expired at 2026-12-01 12:00 +01:00."
    assert "2 rows have expired: nobody of them is mailed." in report.notes
    assert merge(server, data, expires="End").counts == {State.SKIPPED: 4}
    assert merge(server, data).counts == {State.SENT: 2, State.SKIPPED: 2}
    assert len(server.log.mails) == 4


def test_an_expired_row_is_not_made_so_its_problems_stop_nothing(server, clock):
    data = frame(End=[at(11), None, None, None]).astype({"n": object})
    data.loc[0, "n"] = None
    assert merge(server, data, expires="End").counts == {State.SKIPPED: 1, State.SENT: 3}


def test_what_expires_while_the_rate_has_it_wait_is_not_sent(server, clock, monkeypatch):
    from smtp_notebook import servers

    servers._LIMITERS.clear()
    monkeypatch.setattr(merges, "CLOCK", clock.seconds)
    slow = Connection.from_url(server.url(), rate="1/min", max_connections=1)
    report = merge(server, frame(6), via=slow, expires=at(12, 3))
    assert report.counts == {State.SENT: 3, State.SKIPPED: 3}
    assert all(o.reason.startswith("Expired at") for o in report.skipped)
    assert "3 rows have expired: nobody of them is mailed." in report.notes
    assert len(server.log.mails) == 3
    # None of them is lost.
    assert merge(server, frame(6)).counts == {State.SENT: 3, State.SKIPPED: 3}


def test_a_greylisted_mail_is_not_tried_again_once_it_has_expired(clock, monkeypatch):
    monkeypatch.setattr(merges, "CLOCK", clock.seconds)
    with Server({"rcpt": ["450 4.7.1 greylisted", None]}) as server:
        report = merge(server, frame(1), expires=NOON + dt.timedelta(seconds=30))
        assert report.counts == {State.SKIPPED: 1}
        assert "450" in report[0].reason or "greylisted" in report[0].reason
        assert report[0].code is None
        assert report[0].attempts == 1
        assert server.log.mails == []
        assert merge(server, frame(1)).counts == {State.SENT: 1}


def test_some_who_have_it_stay_partial_when_the_rest_expires(clock, monkeypatch):
    monkeypatch.setattr(merges, "CLOCK", clock.seconds)
    with Server({"rcpt": lambda a: "450 later" if a.startswith("x") else None}) as server:
        report = merge(server, frame(1), cc="x@example.com", expires=NOON + dt.timedelta(milliseconds=500))
    assert report.counts == {State.PARTIAL: 1}
    assert "expired" in report[0].reason


def test_what_expires_between_the_check_and_its_window_is_not_sent(server, clock):
    def later(outcome):
        clock.now = at(13)

    via = Connection.from_url(server.url(), max_connections=1)
    report = merge(server, frame(40), via=via, expires=at(12, 30), on_outcome=later)
    assert report.counts[State.SKIPPED] > 0
    assert report.counts[State.SENT] == len(server.log.mails) < 40
    assert sum(report.counts.values()) == 40


# --------------------------------------------------------------------------------------------- wait


def test_waiting_sends_each_row_at_its_time_once_and_holds_no_campaign_meanwhile(server, clock):
    data = frame(When=[at(14), None, at(13), at(14)])
    held = []

    def look():
        # Another run could have the campaign now, and none of its rows is claimed.
        journal = Journal()
        with journal._held("c"):
            held.append((len(server.log.mails), journal._all("SELECT count(*) FROM claim")[0][0]))
        journal.close()

    clock.while_waiting.append(look)
    report = merge(server, data, send_at="When", wait=True)
    assert report.counts == {State.SENT: 4}
    assert [m.recipients[0][:2] for m in server.log.mails][:2] == ["u1", "u2"]
    assert went(server) == ["u0", "u1", "u2", "u3"]
    assert sorted(set(held)) == [(1, 0), (2, 0)]
    # It asks the clock now and then, and is not busy with it.
    assert all(0 < seconds <= merges.LOOK_SECONDS for seconds in clock.waits)
    assert len(clock.waits) == 2 * 3600 / merges.LOOK_SECONDS
    assert (report.waiting, report.next_at) == (0, None)
    assert Journal().report("c").counts == {State.SENT: 4}


def test_another_run_may_send_it_while_this_one_waits_and_nobody_gets_it_twice(server, clock):
    data = frame(2, When=[None, at(13)])
    others = []

    def other():
        if not others:
            clock.while_waiting.clear()
            others.append(merge(server, data))

    clock.while_waiting.append(other)
    report = merge(server, data, send_at="When", wait=True)
    assert others[0].counts == {State.SENT: 1, State.SKIPPED: 1}
    assert report.counts == {State.SENT: 1, State.SKIPPED: 1}
    assert went(server) == ["u0", "u1"]


def test_waiting_works_where_there_is_no_journal_and_sends_nothing_again(sandbox, clock):
    data = frame(When=[None, at(13), None, at(14)])
    report = mail_merge(data, LETTER, via=sandbox, send_at="When", wait=True, progress=False)
    assert report.counts == {State.SENT: 4}
    assert sorted(m.recipients[0] for m in sandbox.messages) == sorted(data["Email"])


def test_what_changes_while_it_waits_counts(server, clock):
    data = frame(When=[None, at(13), at(13), at(14)], End=[None, None, at(18), at(18)])
    clock.while_waiting.append(lambda: suppress("u1@example.com"))
    report = merge(server, data, send_at="When", expires="End", wait=True)
    assert [o.state for o in report] == [State.SENT, State.SKIPPED, State.SENT, State.SENT]


def test_a_clock_that_jumps_over_the_moment_and_the_end_sends_nothing_late(server, clock):
    """The machine slept: what should have gone at one has expired by three."""
    data = frame(1, When=[at(13)], End=[at(14)])

    def sleep():
        clock.now = at(15)

    clock.while_waiting.append(sleep)
    report = merge(server, data, send_at="When", expires="End", wait=True)
    assert report.counts == {State.SKIPPED: 1}
    assert report[0].reason.startswith("Expired")
    assert len(clock.waits) == 1


def test_limit_holds_over_all_that_a_waiting_merge_sends(server, clock):
    data = frame(6, When=[None, at(13), at(13), at(13), None, at(14)])
    report = merge(server, data, send_at="When", wait=True, limit=3)
    assert len(server.log.mails) == 3
    assert report.counts == {State.SENT: 3, State.PLANNED: 3}


def test_groups_and_variants_wait_as_rows_do(server, clock):
    from smtp_notebook import Variants

    data = pd.concat([frame(When=[None, at(13), at(14), None])] * 2)
    options = {"group_by": "Email", "send_at": "When", "subject": Variants("a", "b"), "wait": True}
    report = merge(server, data, **options)
    assert report.counts == {State.SENT: 4}
    assert {o.rows for o in report} == {2}
    assert [o.variant for o in report] == [Variants("a", "b").choose("c", o.key) for o in report]
    assert [o.rows for o in Journal().report("c")] == [2] * 4


def test_awaited_it_waits_as_well(sandbox, clock):
    data = frame(2, When=[None, at(13)])

    async def go():
        return await amail_merge(data, LETTER, via=sandbox, send_at="When", wait=True, progress=False)

    assert asyncio.run(go()).counts == {State.SENT: 2}


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_waiting_at_once_and_the_rest_is_still_planned(server, monkeypatch, capsys):
    """With the real wait: it is a day, and the interrupt ends it in moments."""
    monkeypatch.setattr(merges, "PAUSE", asyncio.sleep)
    gate = threading.Event()
    real = merges.Wait.wait

    async def reached(self, *args):
        asyncio.get_running_loop().call_later(0.05, gate.set)
        return await real(self, *args)

    monkeypatch.setattr(merges.Wait, "wait", reached)

    def interrupt():
        assert gate.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    tomorrow = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        merge(server, frame(2, When=[None, tomorrow]), send_at="When", wait=True, progress=True)
    assert time.monotonic() - began < 5
    thread.join()
    assert Report.last().counts == {State.SENT: 1, State.PLANNED: 1}
    said = capsys.readouterr().out
    assert "1 row waits until" in said
    assert "1 sent" in said
    assert merge(server, frame(2)).counts == {State.SENT: 1, State.SKIPPED: 1}


def test_a_run_that_was_stopped_does_not_wait(clock):
    with Server({"mail": "550 5.7.1 go away"}) as server:
        data = frame(12, When=[None] * 11 + [at(13)])
        report = merge(
            server, data, send_at="When", wait=True, via=Connection.from_url(server.url(), max_connections=1)
        )
    assert report.waiting == 1
    assert clock.waits == []


# ------------------------------------------------------------------------------------------ moments


@pytest.mark.parametrize(
    "given",
    [
        at(13),
        pd.Timestamp("2026-12-01 13:00:00+01:00"),
        "2026-12-01T12:00:00Z",
        " 2026-12-01 13:00+01:00 ",
        at(13).astimezone(dt.UTC),
    ],
)
def test_a_cell_says_a_moment_in_any_of_these_ways(given):
    assert Moments("When", None, ["When"]).span({"When": given}).begins == at(13)


@pytest.mark.parametrize("empty", [None, float("nan"), pd.NaT, pd.NA, "", np.datetime64("NaT")])
def test_an_empty_cell_is_no_limit(empty):
    assert Moments("When", "When", ["When"]).span({"When": empty}) == Span()


@pytest.mark.parametrize(
    "given",
    [
        dt.datetime(2026, 7, 1, 13),
        pd.Timestamp("2026-07-01 13:00"),
        np.datetime64("2026-07-01T13:00"),
        "2026-07-01 13:00",
    ],
)
def test_a_moment_without_a_time_zone_is_this_machines_and_the_report_says_so(given, sandbox, monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        moments = Moments(None, "End", ["End"])
        assert moments.span({"End": given}).ends == dt.datetime(2026, 7, 1, 17, tzinfo=dt.UTC)
        report = mail_merge(frame(1, End=[given]), LETTER, via=sandbox, expires="End", dry_run=True)
        assert any("taken as 2026-07-01 13:00 -04:00" in note for note in report.notes)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("zone", ["Pacific/Auckland", "UTC", "America/New_York"])
def test_the_last_day_of_all_is_an_end_that_never_comes(zone, sandbox, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        never = dt.datetime(9999, 12, 31, 18, tzinfo=dt.UTC)
        assert mail_merge(frame(1), LETTER, via=sandbox, expires=never).counts == {State.SENT: 1}
        assert mail_merge(frame(1), LETTER, via=sandbox, send_at=never).waiting == 1
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_date_is_its_beginning():
    moments = Moments(dt.date(2026, 12, 1), None, [])
    assert moments.span({}).begins == dt.datetime(2026, 12, 1).astimezone()


@given(
    st.datetimes(min_value=dt.datetime(1990, 1, 1), max_value=dt.datetime(2100, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
)
def test_a_moment_is_said_so_that_it_can_be_read_again(moment, minutes):
    given = moment.replace(microsecond=0, tzinfo=dt.timezone(dt.timedelta(minutes=minutes)))
    assert dt.datetime.fromisoformat(in_words(given).replace(" ", "T", 1).replace(" ", "")) == given


@pytest.mark.parametrize(
    ("cells", "word"),
    [
        ({"When": "soon"}, "'soon' is no moment"),
        ({"When": 7}, "is no moment"),
        ({"When": at(15), "End": at(15)}, "is not before expires"),
        ({"When": at(16), "End": at(15)}, "is not before expires"),
        ({"When": dt.datetime(1, 1, 1)}, "too far away"),
    ],
)
def test_what_says_no_moment_is_a_problem_of_its_row_alone(server, clock, cells, word):
    data = pd.DataFrame(
        [
            {"Email": f"u{i}@example.com", "n": i, "When": None, "End": None} | (cells if i == 1 else {})
            for i in range(3)
        ]
    )
    report = merge(server, data, send_at="When", expires="End", on_problem="skip")
    assert [o.state for o in report] == [State.SENT, State.INVALID, State.SENT]
    assert word in report[1].reason
    assert report[1].fix


def test_a_function_that_fails_is_a_problem_of_its_row():
    def when(row):
        return {0: at(13)}[row["n"]]

    with pytest.raises(PreflightError) as caught:
        mail_merge(frame(2), LETTER, send_at=when)
    assert re.search("send_at: the function failed with KeyError: 1", caught.value.report[1].reason)


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"send_at": "Whne"}, MergeRefusedError, "send_at: there is no column 'Whne'"),
        ({"expires": 5}, OptionError, "expires=5 is no moment"),
        ({"send_at": True}, OptionError, "send_at=True"),
    ],
)
def test_what_can_say_no_moment_is_refused_by_name(sandbox, options, error, word):
    with pytest.raises(error, match=word):
        mail_merge(frame(1), LETTER, via=sandbox, **options)


def test_a_job_takes_times_and_refuses_to_wait_by_name(server, clock):
    job = MergeJob(frame(2, When=[None, at(13)]), LETTER, via=server.url(), campaign="c", send_at="When")
    job.check()
    progress = job.wait(20)
    assert (progress.due, progress.skipped, progress.report.waiting) == (1, 1, 1)
    job.send()
    assert job.wait(20).report.counts == {State.SENT: 1, State.PLANNED: 1}
    clock.now = at(13)
    job.send()
    assert job.wait(20).report.counts == {State.SENT: 1, State.SKIPPED: 1}
    with pytest.raises(OptionError, match="wait"):
        MergeJob(frame(2), LETTER, wait=True)
    with pytest.raises(OptionError, match="send_at"):
        merge_form(frame(2), LETTER, send_at=at(13))
