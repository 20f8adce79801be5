"""How many connections a merge settles on, over real sockets, and what its Report says of that.

What `pool` decides is tested there, case by case. Here the loop is judged by bounds alone, since nobody knows in
which order sockets are read.
"""

from __future__ import annotations

import pickle
import threading
from collections import Counter

import pandas as pd
import pytest
from scripted import Server

from smtp_notebook import Connection, Journal, State, mail_merge, merge
from smtp_notebook.outcome import Tuning
from smtp_notebook.transport import SmtpTransport

LETTER = "Dear {{ n }}"


def frame(count):
    return pd.DataFrame({"Email": [f"u{i}@example.com" for i in range(count)], "n": range(count)})


def merged(server, count, **settings):
    options = settings.pop("options", {})
    settings = {"messages_per_connection": 10_000} | settings
    return mail_merge(
        frame(count),
        LETTER,
        subject="Hi",
        format="text",
        via=Connection.from_url(server.url(), **settings),
        campaign="tuning",
        from_="me@example.com",
        progress=False,
        **options,
    )


def everyone_once(server, count):
    got = Counter(r for mail in server.log.mails for r in mail.recipients)
    return got == Counter(f"u{i}@example.com" for i in range(count))


class Seconds:
    """A clock that goes on when a mail has arrived, so many seconds each."""

    def __init__(self, monkeypatch, each):
        self.now, self.each, self.lock = 0.0, each, threading.Lock()
        monkeypatch.setattr(merge, "CLOCK", lambda: self.now)
        monkeypatch.setattr(merge, "TIMER", lambda: self.now)
        monkeypatch.setattr(merge, "PAUSE", self.pause)

    async def pause(self, seconds):
        with self.lock:
            self.now += seconds

    def arrived(self, *_):
        with self.lock:
            self.now += self.each


class Crowd:
    """How many connections stood at once."""

    def __init__(self):
        self.most = 0
        self.server = None

    def greeted(self, _):
        self.most = max(self.most, len(self.server._writers))


def test_where_mails_wait_no_longer_for_it_more_connections_are_used_up_to_the_most(monkeypatch):
    Seconds(monkeypatch, 0.0)  # no mail takes any time
    crowd = Crowd()
    with Server({"ehlo": crowd.greeted}) as crowd.server:
        report = merged(crowd.server, 240, max_connections=10)
        assert everyone_once(crowd.server, 240)
    assert report.counts == {State.SENT: 240}
    assert 4 < report.tuning.connections <= crowd.most <= 10
    assert (report.tuning.allowed, report.tuning.refused, report.tuning.slowed) == (10, 0, 0)


def test_no_more_than_four_are_opened_where_nobody_said_so(monkeypatch):
    Seconds(monkeypatch, 0.0)
    crowd = Crowd()
    with Server({"ehlo": crowd.greeted}) as crowd.server:
        report = merged(crowd.server, 120)
        assert everyone_once(crowd.server, 120)
    assert 1 <= report.tuning.connections <= crowd.most <= 4
    assert report.tuning.allowed == 4
    assert len(report.notes) == 0


@pytest.mark.parametrize("taken", [1, 2])
def test_a_server_that_takes_fewer_is_asked_for_one_more_now_and_then_and_no_row_is_lost(taken, monkeypatch):
    """200 mails of 2 s each: seven minutes, in which there is time for trials."""
    seconds = Seconds(monkeypatch, 2.0)
    with Server({"dot": seconds.arrived}, most_connections=taken) as server:
        report = merged(server, 200, max_connections=8, attempts=1)
        assert everyone_once(server, 200)
        # Four at first, and trials after 2 and 4 minutes more; a connection that takes leave may be in the way.
        assert 1 <= server.log.turned_away <= 10
    assert report.counts == {State.SENT: 200}
    assert 1 <= report.tuning.connections <= taken
    assert 1 <= report.tuning.refused <= 10
    (note,) = report.notes
    assert f"max_connections={report.tuning.connections} " in note


def test_a_server_that_takes_one_mail_at_a_time_gets_all_of_them_once(monkeypatch):
    """What a mail takes grows with the number of connections."""
    seconds = Seconds(monkeypatch, 0.01)
    crowd = Crowd()
    with Server({"dot": seconds.arrived, "ehlo": crowd.greeted}) as crowd.server:
        report = merged(crowd.server, 200, max_connections=16)
        assert everyone_once(crowd.server, 200)
    assert report.counts == {State.SENT: 200}
    assert 1 <= report.tuning.connections <= crowd.most <= 16
    assert report.tuning.seconds > 0


def test_one_connection_too_many_that_is_told_so_in_a_mail_goes_and_its_row_does_not(monkeypatch):
    Seconds(monkeypatch, 0.0)
    told = []

    def mail(met):
        if met.mail > 3 and not told:
            told.append(met.connection)
            return "421 4.7.0 too many concurrent connections"
        return None

    with Server({"mail": mail}) as server:
        report = merged(server, 60, attempts=1)
        assert everyone_once(server, 60)
    assert report.counts == {State.SENT: 60}
    assert 1 <= report.tuning.connections <= 3
    assert report.tuning.refused == 1


def test_a_server_that_wants_fewer_mails_is_named_with_a_rate_that_it_took(monkeypatch):
    seconds = Seconds(monkeypatch, 0.5)
    told = []

    def dot(met):
        seconds.arrived()
        if met.mail > 2 and not told:
            told.append(met)
            return "450 4.7.28 Our system has detected an unusual rate"
        return None

    with Server({"dot": dot}) as server:
        report = merged(server, 80)
        assert everyone_once(server, 80)
    assert report.counts == {State.SENT: 80}
    assert report.tuning.slowed == 1
    assert 0 < report.tuning.rate <= 2.0
    (note,) = report.notes
    assert note.startswith("The server asked for fewer mails (4.7.28), and it was slowed down; rate='")


def test_a_report_has_it_where_something_went_and_keeps_it_when_it_is_copied(tmp_path):
    journal = tmp_path / "journal.sqlite3"
    options = {"journal": journal}
    with Server() as server:
        assert merged(server, 3, options=options | {"dry_run": True}).tuning is None
        report = merged(server, 3, options=options)
        again = merged(server, 3, options=options)
    assert report.notes == ()
    assert 1 <= report.tuning.connections <= 3
    assert report.tuning.mails_per_second > 0
    assert pickle.loads(pickle.dumps(report)).tuning == report.tuning
    assert again.tuning is None
    assert Journal(journal).report("tuning").tuning is None


# ------------------------------------------------------------------------------------------- the note

LONG = Tuning(
    connections=4, allowed=4, refused=0, seconds=0.2, latency=0.1, elapsed=60.0, mails_per_second=20.0
)
NOTES = {
    "latency took the time: more connections would help": ({}, None, "max_connections=8 would be faster"),
    "as many as the provider says": ({}, 6, "max_connections=6 would"),
    "and no more": ({}, 4, ""),
    "a short run is left alone": ({"elapsed": 29.0}, None, ""),
    "one that was not at its limit": ({"connections": 3}, None, ""),
    "a server that takes long by itself": ({"latency": 0.05}, None, ""),
    "connections that wait for the rate": ({"mails_per_second": 5.0}, None, ""),
    "refused": (
        {"connections": 3, "refused": 2},
        None,
        "3 were used of the 4 allowed; max_connections=3 asks for no more.",
    ),
    "refused all but one": ({"connections": 1, "refused": 3}, None, "1 was used of the 4 allowed"),
    "refused once, and taken later": ({"refused": 1, "elapsed": 1.0}, None, ""),
    "slowed down": ({"slowed": 1, "rate": 0.99}, None, "it was slowed down; rate='59/min' keeps to what it took."),
    "more than once": ({"slowed": 3, "rate": 12.7}, None, "it was slowed down 3 times; rate='12/s' keeps"),
    "just now": ({"slowed": 1}, None, "(4.7.28), and it was slowed down."),
    "nearly to nothing": ({"slowed": 1, "rate": 0.001}, None, "rate='1/min'"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOTES)
def test_only_what_a_person_can_use_is_said(name):
    changes, documented, said = NOTES[name]
    fields = {n: getattr(LONG, n) for n in Tuning.__dataclass_fields__} | changes
    note = Tuning(**fields).note(documented)
    assert (said in note) if said else not note


def test_a_complaint_about_the_first_mails_leaves_known_how_long_they_took():
    transport = SmtpTransport(Connection(host="mail.example.com", port=25, security="plain"))
    transport.kept(0.5)
    transport.complain(crowded=True)
    assert transport.tuning.seconds == 0.5
