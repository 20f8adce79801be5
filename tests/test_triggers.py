"""A watch: each new lead is mailed once, whatever happens between two steps, and whoever it belongs to hears of it.

Nothing waits here for time to pass: a `Clock` stands in for the waiting between two polls, and a `Gate` holds a source or
the server until the test opens it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from leads import Leads, lead
from scripted import ACCEPT_DROP, DROP, Gate, Server

from smtp_notebook import (
    Connection,
    Journal,
    MailError,
    MergeRefusedError,
    MessageError,
    OptionError,
    Report,
    SecretError,
    SettingsError,
    State,
    TemplateError,
    Watch,
    connect,
    csv_folder,
    mail_merge,
    servers,
    suppress,
    times,
    triggers,
    unsuppress,
    watch,
)
from smtp_notebook.holder import Holder
from smtp_notebook.sources import Batch, Part
from smtp_notebook.triggers import Phase

LETTER = "---\nsubject: Welcome {{ Id }}\n---\nDear **{{ Id }}**"
LONG = 20.0  # seconds, where something has gone wrong if it takes them
TESTS = Path(__file__).parent


class Clock:
    """Stands in for the waiting between two polls: says how long, and waits until the test says that it is over."""

    def __init__(self):
        self.now = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)
        self.ticks = 0.0
        self._asked = queue.Queue()
        self._event = None

    def __call__(self, event, seconds):
        self._event = event
        self._asked.put(seconds)
        assert event.wait(LONG)

    def waits(self):
        """Return how long the watch waits now; it has polled then."""
        return self._asked.get(timeout=LONG)

    def elapse(self):
        """Let it poll, and return how long it waits then."""
        self._event.set()
        return self.waits()


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(triggers, "WAIT", found)
    monkeypatch.setattr(triggers, "CHANCE", lambda: 0.0)
    return found


@pytest.fixture(autouse=True)
def _own_process(monkeypatch):
    """Forget what this process watched and sent before, and leave nothing running."""
    monkeypatch.setattr(servers, "_LIMITERS", {})
    monkeypatch.setattr(triggers, "_PRACTICE", {})
    yield
    for found, _ in list(triggers._RUNNING.values()):
        found.stop(LONG)


@pytest.fixture
def server():
    with Server() as found:
        yield found


@pytest.fixture
def gate():
    found = Gate()
    yield found
    found.open()


def watching(source, server, template=LETTER, **more):
    one = Connection.from_url(server.url(), max_connections=1, timeout=LONG, dot_timeout=LONG)
    options = {"via": one, "from_": "me@example.com", "campaign": "c", "every": "5m"}
    return watch(source, template, **options | more)


def got(server):
    return Counter(r for m in server.log.mails for r in m.recipients)


def everybody(*numbers):
    return {f"u{n}@example.com": 1 for n in numbers}


def journal_path():
    return Path(os.environ["SMTP_NOTEBOOK_JOURNAL"])


def files():
    """Return everything in the journal's folder, with what is in it."""
    folder = journal_path().parent
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())} if folder.exists() else {}


def states(found):
    return {o.key: o.state.value for o in found.report}


# ------------------------------------------------------------------------------------------- what is mailed


def test_since_now_mails_those_who_come_later_and_says_how_many_were_there(server):
    leads = Leads(3)
    found = watching(leads, server)
    first = found.poll()
    assert "3 rows were there already" in first.notes[0]
    leads.add(3, 4)
    assert found.poll().summary == "2 sent"
    assert found.poll().summary == "no rows"
    assert got(server) == everybody(3, 4)
    status = found.status
    assert (status.before, status.sent, status.polls, status.new) == (3, 2, 3, 0)
    assert leads.told[0][0] == ["L3", "L4"]
    assert leads.told[0][1]["L3"]["Email"] == "u3@example.com"
    assert len(leads.told) == 1


def test_since_all_mails_everybody_at_the_first_poll(server):
    assert watching(Leads(3), server, since="all").poll().summary == "3 sent"


def test_since_a_moment_mails_those_who_came_after_it_at_once(server):
    leads = Leads(3)
    moment = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)
    leads.begin = lambda since: Batch((Part("", leads.rows[:1]),), 1) if since == moment else None
    found = watching(leads, server, since=moment)
    assert found.poll().summary == "2 sent"
    assert got(server) == everybody(1, 2)
    assert found.status.before == 1


def test_where_another_process_begins_meanwhile_its_beginning_counts(server):
    leads, others = Leads(3), Leads(2)
    leads.at["begin"] = watching(others, server).poll
    found = watching(leads, server)
    found.poll()
    assert found.status.before == 2
    found.poll()
    assert got(server) == everybody(2), "it came after the other's beginning"


def test_a_function_that_returns_rows_is_a_source(server):
    rows = [lead(0)]
    found = watching(lambda: rows, server, key="Id")
    found.poll()
    rows.append(lead(1))
    found.poll()
    assert got(server) == everybody(1)


def test_without_a_key_the_address_identifies_a_row(server):
    rows = [{"Email": "ann@example.com", "n": 1}]
    found = watching(lambda: rows, server, "hi {{ n }}", subject="s", since="all")
    found.poll()
    rows[:] = [{"Email": "ANN@example.com", "n": 2}, {"Email": "bob@example.com", "n": 3}]
    found.poll()
    assert got(server) == {"ann@example.com": 1, "bob@example.com": 1}


def test_a_poll_that_finds_nothing_writes_nothing_and_holds_nothing(server):
    leads = Leads(2)
    found = watching(leads, server, since="all")
    found.poll()
    before = files()
    assert found.poll().summary == "no rows"
    assert files() == before
    Holder(journal_path(), "c").release()


def test_a_row_that_cannot_be_mailed_stays_in_the_list_and_goes_once_it_is_mended(server):
    leads = Leads()
    leads.add(0, 1)
    leads.rows[1]["Email"] = "u1@"
    found = watching(leads, server, since="all")
    assert found.poll().summary == "1 sent, 1 invalid"
    leads.add(2, 3, 4)  # it lies behind the overlap now
    found.poll()
    assert (found.status.invalid, found.status.sent) == (1, 4)
    before = files()
    found.poll()
    assert files() == before, "it was looked at, and is as it was"
    leads.rows[1]["Email"] = "u1@example.com"
    found.poll()
    assert got(server) == everybody(0, 1, 2, 3, 4)
    assert found.status.invalid == 0


def test_rows_without_a_key_are_listed_once_and_none_is_lost(server):
    leads = Leads(1)
    leads.rows += [{"Id": "", "Email": "x@example.com"}, {"Id": None, "Email": "y@example.com"}]
    found = watching(leads, server, since="all")
    assert found.poll().summary == "1 sent, 2 invalid"
    assert found.poll().summary == "no rows"
    assert sorted(states(found).values()) == ["invalid", "invalid", "sent"]
    assert all(key.startswith("no key") for key in states(found) if key != "L0")


def test_two_rows_of_one_key_in_one_part_mail_one_and_report_the_other(server):
    leads = Leads(1)
    leads.rows.append({**lead(0), "Email": "other@example.com"})
    found = watching(leads, server, since="all")
    report = found.poll()
    assert report.summary == "1 sent, 1 invalid"
    assert "same key" in report.failures[0].reason
    assert found.poll().summary == "no rows"
    assert got(server) == everybody(0)


def test_a_suppressed_row_goes_once_that_is_lifted_however_long_ago_it_came(server):
    suppress("u0@example.com")
    leads = Leads(1)
    found = watching(leads, server, since="all")
    found.poll()
    leads.add(1, 2, 3, 4)
    found.poll()
    before = files()
    found.poll()
    assert files() == before
    unsuppress("u0@example.com")
    found.poll()
    assert got(server) == everybody(0, 1, 2, 3, 4)


def test_a_row_that_is_for_later_goes_when_its_time_has_come_and_one_that_is_too_late_never(
    server, monkeypatch
):
    noon = dt.datetime(2026, 12, 1, 12, tzinfo=dt.UTC)
    now = [noon]
    monkeypatch.setattr(times, "NOW", lambda: now[0])
    leads = Leads()
    for number, (after, until) in enumerate([(2, 9), (0, 9), (2, 3), (4, None)]):
        hour = dt.timedelta(hours=1)
        leads.add(number, At=noon + after * hour, Until=None if until is None else noon + until * hour)
    found = watching(leads, server, since="all", send_at="At", expires="Until")
    found.poll()
    assert (got(server), found.status.planned) == (everybody(1), 3)
    leads.add(*range(4, 9), At=None, Until=None)  # the first ones are beyond the overlap now
    found.poll()
    assert got(server) == everybody(1, 4, 5, 6, 7, 8)
    now[0] = noon + dt.timedelta(hours=3)
    found.poll()
    assert got(server) == everybody(0, 1, 4, 5, 6, 7, 8)
    now[0] = noon + dt.timedelta(hours=5)
    found.poll()
    found.poll()
    assert got(server) == everybody(0, 1, 3, 4, 5, 6, 7, 8)


def test_a_row_that_the_server_put_off_is_tried_again_after_half_an_hour(server, monkeypatch):
    moment = [dt.datetime.now(dt.UTC)]
    monkeypatch.setattr(triggers, "NOW", lambda: moment[0])
    server.script["rcpt"] = "450 4.2.0 come back later"
    leads = Leads(1)
    found = watching(leads, server, since="all")
    assert found.poll().summary == "1 deferred"
    server.script.clear()
    leads.add(1, 2, 3)
    found.poll()
    moment[0] += dt.timedelta(minutes=29)
    found.poll()
    assert got(server) == everybody(1, 2, 3)
    assert found.status.failed == 1
    moment[0] += dt.timedelta(minutes=2)
    found.poll()
    assert got(server) == everybody(0, 1, 2, 3)


def test_a_refused_row_is_tried_again_only_when_it_was_changed(server):
    leads = Leads(1)
    server.script["rcpt"] = lambda said: "550 5.1.1 nobody" if said.startswith("u0@") else None
    found = watching(leads, server, since="all")
    found.poll()
    before, commands = files(), len(server.log.commands)
    found.poll()
    assert files() == before
    assert len(server.log.commands) == commands
    leads.rows[0]["Email"] = "right@example.com"
    found.poll()
    assert got(server) == {"right@example.com": 1}


def test_a_row_in_doubt_is_announced_and_never_sent_again(server, caplog):
    server.script["dot"] = ACCEPT_DROP
    found = watching(Leads(1), server, since="all")
    with caplog.at_level(logging.WARNING, "smtp_notebook"):
        found.poll()
        server.script.clear()
        found.poll()
    assert [r.getMessage() for r in caplog.records if "in doubt" in r.getMessage()] == [
        "the watch of 'c': 'L0' is in doubt; only a person can say whether it arrived"
    ]
    assert found.status.in_doubt == 1
    assert "in doubt" in repr(found)
    assert ".resolve(" in found.status.text()
    assert got(server) == everybody(0)
    Journal().resolve("c", "L0", delivered=False)
    found.poll()
    assert got(server) == {"u0@example.com": 2}, "a person said that it did not arrive"


def test_a_later_part_of_one_batch_replaces_an_earlier_one(server):
    leads = Leads()
    parts = Batch(
        (Part("1", [lead(0, Email="old@example.com")]), Part("2", [lead(0, Email="new@example.com")]))
    )
    leads.read = lambda _cursor: parts
    watching(leads, server, since="all").poll()
    assert got(server) == {"new@example.com": 1}


def test_exports_that_are_dropped_into_a_folder_mail_each_lead_once(server, tmp_path):
    folder = tmp_path / "exports"
    folder.mkdir()
    (folder / "monday.csv").write_text("Id,Email\nL0,u0@example.com\nL1,u1@example.com\n")
    found = watching(csv_folder(folder, quiet=0, key="Id"), server)
    found.poll()
    (folder / "tuesday.csv").write_text("Id,Email,City\nL1,u1@example.com,Bern\nL2,u2@example.com,\n")
    found.poll()
    (folder / "wednesday.csv").write_text("Id,Email\nL2,u2@example.com\nL3,u3@\nL4,u4@example.com\n")
    assert found.poll().summary == "1 sent, 1 invalid"
    (folder / "thursday.csv").write_text("Id,Email\nL3,u3@example.com\n")
    found.poll()
    assert got(server) == everybody(2, 3, 4)
    assert found.status.invalid == 0


# ---------------------------------------------------------------------------------------------- approval


def test_more_new_rows_than_allowed_wait_and_approve_lets_exactly_those_go(server):
    leads = Leads(1)
    found = watching(leads, server, since="all", max_per_poll=3)
    found.poll()
    leads.add(1, 2, 3, 4)
    before = files()
    report = found.poll()
    assert report.summary == "no rows"
    assert "watch.approve()" in report.notes[0]
    assert (found.status.phase, found.status.waiting) == (Phase.NEEDS_APPROVAL, 4)
    assert files() == before
    leads.add(5, 6, 7, 8)
    assert found.approve().summary == "4 sent"
    assert got(server) == everybody(0, 1, 2, 3, 4)
    assert found.status.waiting == 4
    found.approve()
    assert got(server) == everybody(*range(9))
    assert found.approve() is None


def test_open_rows_are_tried_while_new_ones_wait_for_approval(server):
    leads = Leads(5)
    server.script["banner"] = DROP
    found = watching(leads, server, since="all", max_per_poll=5)
    planned = {o.key for o in found.poll() if o.state is State.PLANNED}
    assert planned
    server.script.clear()
    leads.add(*range(5, 11))
    found.poll()
    assert found.status.waiting == 6
    assert set(got(server)) == {f"u{key[1:]}@example.com" for key in planned}


def test_what_was_approved_is_asked_again_after_a_restart(server):
    leads = Leads(5)
    first = watching(leads, server, since="all", max_per_poll=3)
    first.poll()
    second = watching(leads, server, since="all", max_per_poll=3)
    second.poll()
    assert second.status.waiting == 5
    assert not got(server)


def test_a_running_watch_polls_at_once_when_it_is_approved(server, clock):
    found = watching(Leads(5), server, since="all", max_per_poll=3).start()
    assert clock.waits() == 300
    assert found.status.phase is Phase.NEEDS_APPROVAL
    assert found.approve() is None
    clock.waits()
    assert got(server) == everybody(*range(5))
    assert found.status.phase is Phase.WAITING


# ------------------------------------------------------------------------------------------ in the background


def test_a_running_watch_polls_at_once_and_then_again_and_again(server, clock):
    leads = Leads(1)
    told = []
    found = watching(leads, server, since="all", on_poll=told.append)
    assert found.start() is found
    assert clock.waits() == 300
    assert found.running
    assert found.start() is found
    leads.add(1)
    assert clock.elapse() == 300
    assert got(server) == everybody(0, 1)
    assert [status.polls for status in told] == [1, 2]
    assert told[0].phase is Phase.WAITING
    assert told[0].next - told[0].last >= dt.timedelta(seconds=299)
    found.stop(LONG)
    assert not found.running
    assert found.status.phase is Phase.STOPPED
    assert found.status.next is None


def test_a_source_that_fails_is_asked_again_later_and_a_success_clears_the_error(server, clock):
    leads = Leads(1)
    leads.at["read"] = lambda: 1 / 0
    found = watching(leads, server, since="all").start()
    assert [clock.waits(), clock.elapse(), clock.elapse()] == [60, 120, 240]
    assert found.status.error == "ZeroDivisionError: division by zero"
    assert found.status.phase is Phase.WAITING
    leads.at.clear()
    assert clock.elapse() == 300
    assert (found.status.error, found.status.sent) == ("", 1)


def test_what_would_end_a_process_is_an_error_of_the_source(server, clock):
    leads = Leads(1)
    leads.at["read"] = sys.exit
    found = watching(leads, server, since="all").start()
    assert clock.waits() == 60
    assert "SystemExit" in found.status.error
    found.stop(LONG)
    with pytest.raises(MailError, match="SystemExit"):
        found.poll()


@pytest.mark.parametrize(
    "error", [SecretError("The org refuses the login.", "Sign in again."), OptionError("no such object")]
)
def test_a_source_that_refuses_a_login_or_an_option_is_not_asked_again(server, error):
    leads = Leads(1)

    def refuse():
        raise error

    leads.at["read"] = refuse
    found = watching(leads, server, since="all").start()
    status = found.wait(LONG)
    assert (status.phase, status.error, status.fix) == (Phase.FAILED, error.cause, error.fix)
    assert leads.calls.count("read") == 1
    leads.at.clear()
    found.start()
    while not found.status.sent and found.running:
        pass
    assert found.status.sent == 1, "it can be started again"


def test_a_slow_source_keeps_neither_stop_nor_another_watch_and_is_not_called_twice(server, clock, gate):
    leads = Leads(1)
    leads.at["read"] = gate
    slow = watching(leads, server, since="all").start()
    assert gate.reached.wait(LONG)
    assert slow.status.phase is Phase.READING
    other = watching(Leads(1, name="others"), server, since="all", campaign="d")
    assert other.poll().summary == "1 sent"
    slow.stop(LONG)
    assert slow.status.phase is Phase.STOPPED
    with pytest.raises(MailError, match="still busy"):
        slow.poll()
    slow.start()
    assert clock.waits() == 60
    assert "still busy" in slow.status.error
    assert leads.calls == ["begin", "read"]
    gate.open()
    # The call that was left behind comes back by itself.
    while "still busy" in slow.status.error:
        clock.elapse()
    assert slow.status.sent == 1


def test_two_watches_of_one_source_ask_it_one_after_the_other(server, clock, gate):
    leads = Leads(1)
    leads.at["read"] = gate
    first = watching(leads, server, since="all").start()
    assert gate.reached.wait(LONG)
    second = watching(leads, server, since="all", campaign="d")
    polled = []
    thread = threading.Thread(target=lambda: polled.append(second.poll().summary))
    thread.start()
    while second.status.phase is not Phase.READING:
        pass
    assert leads.calls == ["begin", "read"], "it waits for its turn"
    leads.at.clear()
    gate.open()
    thread.join(LONG)
    clock.waits()
    assert polled == ["1 sent"]
    assert first.status.sent == 1


def test_a_poll_in_the_background_that_finds_nothing_leaves_the_last_report_to_the_person(server, clock):
    watching(Leads(1), server).start()
    clock.waits()
    mine = mail_merge([lead(7)], LETTER, via=server.url(), from_="me@example.com", campaign="mine")
    clock.elapse()
    assert Report.last() is mine


def test_a_stop_while_rows_are_checked_sends_nothing_and_forgets_nothing(server, gate):
    seen = []

    def slow(key):
        seen.append(key)
        gate()
        return key

    leads = Leads(3)
    options = {"template": "---\nsubject: s\n---\n{{ f(Id) }}", "values": {"f": slow}, "since": "all"}
    found = watching(leads, server, **options).start()
    assert gate.reached.wait(LONG)
    found.stop(0)
    gate.open()
    assert found.wait(LONG).phase is Phase.STOPPED
    assert len(seen) == 1
    assert not got(server)
    found.poll()
    assert got(server) == everybody(0, 1, 2)


def test_a_stop_while_mails_leave_lets_the_one_in_flight_finish_and_the_rest_go_later(server, gate):
    async def hold(_):
        await gate.held()

    server.script["dot"] = hold
    found = watching(Leads(5), server, since="all").start()
    assert gate.reached.wait(LONG)
    assert found.status.phase is Phase.SENDING
    found.stop(0)
    gate.open()
    found.wait(LONG)
    assert 1 <= len(server.log.mails) < 5
    assert Counter(states(found).values())["planned"] >= 1
    found.poll()
    assert got(server) == everybody(*range(5))


def test_a_stop_while_the_source_is_told_leaves_that_for_the_next_poll(server, gate):
    leads = Leads(1)
    leads.at["sent"] = gate
    found = watching(leads, server, since="all").start()
    assert gate.reached.wait(LONG)
    found.stop(LONG)
    gate.open()
    assert states(found) == {"L0": "sent"}
    leads.at.clear()
    again = watching(Leads(1), server, since="all")
    again.poll()
    assert again.source.told[0][0] == ["L0"]
    assert got(server) == everybody(0)


def test_what_the_source_says_when_it_is_told_is_a_note_and_costs_no_second_mail(server):
    leads = Leads(1)

    def refuse():
        raise OSError("the org is away")

    leads.at["sent"] = refuse
    found = watching(leads, server, since="all")
    found.poll()
    assert any("the org is away" in note for note in found.status.notes)
    leads.at.clear()
    found.poll()
    assert [keys for keys, _ in leads.told] == [["L0"], ["L0"]]
    assert got(server) == everybody(0)


def test_a_server_that_cannot_be_reached_is_tried_again_and_no_row_is_lost(server, clock):
    server.script["banner"] = DROP
    found = watching(Leads(5), server, since="all").start()
    assert [clock.waits(), clock.elapse()] == [60, 120]
    assert "could not be reached" in found.status.error
    server.script.clear()
    assert clock.elapse() == 300
    assert found.status.error == ""
    assert set(got(server)) | {f"u{o.key[1:]}@example.com" for o in found.report.failures} == set(
        everybody(*range(5))
    )


def test_a_wrong_password_stops_the_watch_after_one_login(clock):
    with Server(login=("ann", "right")) as server:
        via = Connection.from_url(server.url(user="ann"), password=lambda: "wrong", max_connections=1)
        found = watching(Leads(3), server, since="all", via=via).start()
        status = found.wait(LONG)
        assert status.phase is Phase.FAILED
        assert "login" in status.error.lower()
        assert status.fix
        assert sum(c.startswith("AUTH") for c in server.log.commands) == 1
        assert "wrong" not in repr(found) + status.text()
        right = Connection.from_url(server.url(user="ann"), password=lambda: "right", max_connections=1)
        again = watching(Leads(3), server, since="all", via=right)
        again.poll()
        assert got(server) == everybody(0, 1, 2)


@pytest.mark.parametrize("answers", [{"dot": ACCEPT_DROP}, {"rcpt": "550 5.7.1 you are blocked"}])
def test_a_server_that_takes_or_refuses_everybody_is_not_given_the_next_rows(server, answers):
    server.script.update(answers)
    found = watching(Leads(30), server, since="all").start()
    status = found.wait(LONG)
    assert status.phase is Phase.FAILED
    assert status.error
    assert status.planned >= 15


def test_a_changed_template_stops_the_watch_and_send_rest_lets_it_go_on(server, tmp_path):
    letter = tmp_path / "welcome.md"
    letter.write_text(LETTER)
    leads = Leads(1)
    watching(leads, server, letter, since="all").poll()
    letter.write_text(LETTER + "!")
    leads.add(1)
    found = watching(leads, server, letter).start()
    status = found.wait(LONG)
    assert status.phase is Phase.FAILED
    assert "template is another" in status.error
    assert "send-rest" in status.fix
    with pytest.raises(MergeRefusedError, match="template is another"):
        found.poll()
    watching(leads, server, letter, changed="send-rest").poll()
    assert got(server) == everybody(0, 1)


def test_a_campaign_that_is_sent_elsewhere_is_waited_for(server, clock):
    found = watching(Leads(1), server, since="all")
    journal_path().parent.mkdir(parents=True)
    elsewhere = Holder(journal_path(), "c")
    found.start()
    assert clock.waits() == 60
    assert "is being sent already" in found.status.error
    elsewhere.release()
    assert clock.elapse() == 300
    assert got(server) == everybody(0)


def test_a_journal_that_was_deleted_stops_the_watch_so_that_nobody_is_mailed_again(server, clock):
    found = watching(Leads(2), server, since="all").start()
    clock.waits()
    for each in journal_path().parent.iterdir():
        each.unlink()
    clock._event.set()
    status = found.wait(LONG)
    assert status.phase is Phase.FAILED
    assert "does not know the watch" in status.error
    assert got(server) == everybody(0, 1)


# ----------------------------------------------------------------------------------------- again, and twice


def test_a_cell_that_is_run_again_takes_over_and_mails_nobody_twice(server, clock):
    leads = Leads(2)
    first = watching(leads, server, since="all").start()
    clock.waits()
    second = watching(leads, server, since="all").start()
    clock.waits()
    assert not first.running
    assert second.running
    assert got(server) == everybody(0, 1)


def test_a_cell_that_is_run_again_while_the_first_one_polls_never_polls_beside_it(server, clock, gate):
    leads = Leads(2)
    leads.at["read"] = gate
    first = watching(leads, server, since="all").start()
    assert gate.reached.wait(LONG)
    second = watching(leads, server, since="all").start()
    first.wait(LONG)
    clock.waits()
    assert "still busy" in second.status.error
    gate.open()
    while "still busy" in second.status.error:
        clock.elapse()
    assert got(server) == everybody(0, 1)


def test_two_sources_for_one_campaign_are_refused_with_the_first_ones_name(server, clock):
    watching(Leads(1, name="contacts"), server).start()
    clock.waits()
    with pytest.raises(MergeRefusedError, match="contacts"):
        watching(Leads(1, name="leads"), server).start()
    other = watching(Leads(1, name="leads"), server, campaign="d").start()
    assert other.running


def test_after_a_restart_a_watch_goes_on_where_it_was(server):
    leads = Leads(2)
    watching(leads, server).poll()
    leads.add(2)
    watching(leads, server).poll()
    leads.add(3)
    restarted = watching(leads, server)
    assert restarted.poll().summary == "1 sent"
    assert got(server) == everybody(2, 3)
    assert (restarted.status.before, restarted.status.sent) == (2, 2)


def test_rows_that_an_earlier_watch_left_are_read_again_by_their_keys(server):
    """Planned, and the cursor moved on: the source has to be asked for them."""
    leads = Leads(5, overlap=0)
    server.script["banner"] = DROP
    left = watching(leads, server, since="all").poll()
    planned = [o.key for o in left if o.state is State.PLANNED]
    server.script.clear()
    found = watching(leads, server, since="all")
    found.poll()
    assert leads.wanted == [tuple(planned)]
    assert list(states(found).values()) == ["deferred"] * (5 - len(planned)) + ["sent"] * len(planned)


def test_an_open_row_that_is_gone_at_the_source_is_said_and_stays_listed(server):
    leads = Leads(5, overlap=0)
    server.script["banner"] = DROP
    watching(leads, server, since="all").poll()
    server.script.clear()
    leads.rows.pop()
    found = watching(leads, server, since="all")
    found.poll()
    assert "1 row of earlier polls is not at the source any more" in found.status.notes[0]
    assert states(found)["L4"] == "planned"
    assert not any(r.startswith("u4@") for r in got(server))


def test_a_poll_inside_a_poll_is_refused(server):
    found = watching(Leads(1), server, since="all", on_outcome=lambda _: found.poll())
    with pytest.raises(MergeRefusedError, match="inside another"):
        found.poll()


# ---------------------------------------------------------------------------------------- practice, a look


def test_practice_counts_for_nobody_and_a_cell_that_is_run_again_does_not_begin_anew(sandbox):
    leads = Leads(2)
    options = {"via": sandbox, "from_": "me@example.com", "campaign": "c", "every": 60}
    first = watch(leads, LETTER, since="all", **options)
    first.poll()
    leads.add(2)
    again = watch(leads, LETTER, since="all", **options)
    again.poll()
    assert Counter(r for m in sandbox.messages for r in m.recipients) == everybody(0, 1, 2)
    assert not journal_path().exists()
    assert again.status.practice
    assert "practice" in repr(again)
    assert "Practice" in again.status.text()
    assert again.report.summary == "3 sent"


def test_a_practice_with_test_to_writes_no_journal_either(server):
    found = watching(Leads(2), server, since="all", test_to="me@example.com")
    found.poll()
    found.poll()
    assert got(server) == {"me@example.com": 2}
    assert not journal_path().exists()
    assert found.status.practice


def test_a_dry_run_begins_nothing_writes_nothing_and_says_what_would_go(server):
    leads = Leads(3)
    found = watching(leads, server, since="all", max_per_poll=2)
    report = found.poll(dry_run=True)
    assert report.summary == "3 planned"
    assert any("max_per_poll=2" in note for note in report.notes)
    assert files() == {}
    now = watching(leads, server)
    assert "3 rows are there already" in now.poll(dry_run=True).notes[0]
    assert files() == {}
    now.poll()
    before = files()
    leads.add(3)
    assert now.poll(dry_run=True).summary == "1 planned"
    assert files() == before
    assert not got(server)
    now.poll()
    assert got(server) == everybody(3)


def test_a_poll_from_cron_is_all_that_a_job_needs(server, tmp_path):
    """One process for each poll: the journal is what they share."""
    watching(Leads(1), server).poll()
    job = tmp_path / "job.py"
    job.write_text(f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from leads import Leads
from smtp_notebook import watch
print(watch(Leads(2), {LETTER!r}, every="5m", campaign="c", via={server.url()!r}, from_="me@example.com").poll().summary)
""")
    said = subprocess.run([sys.executable, job], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "1 sent"
    assert got(server) == everybody(1)


# ------------------------------------------------------------------------------------------- a crash

CRASH = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from leads import Leads
from smtp_notebook import triggers, watch
from smtp_notebook.watchbook import Watchbook


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


class Dying(Watchbook):
    def advance(self, before, after):
        if point == "planned":
            die()
        super().advance(before, after)
        if point == "moved":
            die()


triggers.Watchbook = Dying
for number, point in enumerate(sys.argv[1:]):
    child = os.fork()
    if not child:
        leads = Leads(6)
        if point in leads.key + ("begin", "read", "sent"):
            leads.at[point] = die
        watch(leads, {letter!r}, every="5m", campaign=point, since="all", via={url!r}, from_="me@example.com").poll()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
POINTS = ("begin", "read", "planned", "moved", "sent")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a child that dies at a named point is a fork")
def test_a_crash_between_any_two_steps_mails_nobody_twice_and_loses_nobody(server):
    code = CRASH.format(tests=str(TESTS), letter=LETTER, url=server.url())
    died = subprocess.run([sys.executable, "-c", code, *POINTS], capture_output=True, text=True, check=True)
    assert died.stdout.split() == [str(-signal.SIGKILL)] * len(POINTS), died.stderr
    assert got(server) == everybody(*range(6)), "those who died behind the last mail"
    for done, point in enumerate(POINTS[:-1], 2):
        leads = Leads(6)
        found = watching(leads, server, since="all", campaign=point)
        assert found.poll().summary == "6 sent", point
        assert set(got(server).values()) == {done}, point
        assert found.poll().summary == "no rows"
    last = watching(Leads(6), server, since="all", campaign="sent")
    last.poll()
    assert last.source.told[0][0] == [f"L{n}" for n in range(6)]
    assert set(got(server).values()) == {5}


# ------------------------------------------------------------------------------------------- options, display


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"every": "soon"}, OptionError),
        ({"every": 0}, OptionError),
        ({"every": 1e12}, OptionError),
        ({"campaign": ""}, OptionError),
        ({"since": "yesterday"}, OptionError),
        ({"since": dt.datetime(2026, 11, 29)}, OptionError),
        ({"max_per_poll": 0}, OptionError),
        ({"max_per_poll": True}, OptionError),
        ({"changed": "x"}, OptionError),
        ({"subjct": "x"}, OptionError),
        ({"limit": 3}, OptionError),
        ({"template": "{% if %}"}, TemplateError),
        ({"template": 3}, MessageError),
        ({"source": 3}, OptionError),
        ({"source": [lead(0)]}, OptionError),
    ],
)
def test_a_mistake_in_the_options_is_named_at_once(server, options, error):
    given = {"source": Leads(), "template": LETTER} | options
    with pytest.raises(error):
        watching(given.pop("source"), server, given.pop("template"), **given)


def test_a_url_that_is_none_is_named_when_the_watch_begins():
    with pytest.raises(SettingsError):
        watch(Leads(), LETTER, every=60, campaign="c", via="no-such-name").start()


def test_what_on_poll_raises_is_a_note(server, clock):
    found = watching(Leads(1), server, since="all", on_poll=lambda _: 1 / 0).start()
    assert clock.waits() == 300
    while not any("division by zero" in note for note in found.status.notes):
        assert found.running
    assert found.status.sent == 1


def test_on_outcome_is_called_in_the_watchs_own_thread_and_its_error_ends_the_watch(server):
    threads = []

    def note(_):
        threads.append(threading.current_thread().name)
        raise ValueError("mine")

    found = watching(Leads(60), server, since="all", on_outcome=note).start()
    status = found.wait(LONG)
    assert threads[0] == "smtp_notebook watch"
    assert (status.phase, status.error) == (Phase.FAILED, "ValueError: mine")
    assert 1 <= status.sent < 60


def test_a_status_is_one_line_plain_text_html_and_json(server):
    leads = Leads(3, name="<leads & more>")
    found = watching(leads, server, since="all", max_per_poll=2, campaign="a<b>")
    assert isinstance(found, Watch)
    assert "\n" not in repr(found)
    found.poll()
    shown = found._repr_mimebundle_()
    assert "<leads" not in shown["text/html"]
    assert "a&lt;b&gt;" in shown["text/html"]
    assert "<code>watch.approve()</code>" in shown["text/html"]
    assert "3 waiting for approval" in shown["text/plain"]
    told = json.loads(json.dumps(found.status.to_dict()))
    assert (told["phase"], told["waiting"]) == ("needs_approval", 3)
    assert dt.datetime.fromisoformat(told["last"]).tzinfo
    with contextlib.suppress(NotImplementedError):
        found._ipython_display_()
        pytest.fail("outside a kernel it has no live display")


def test_a_start_right_after_a_stop_that_was_not_waited_for_runs_on(server, clock, gate):
    leads = Leads(1)
    leads.at["read"] = gate
    found = watching(leads, server, since="all").start()
    assert gate.reached.wait(LONG)
    found.stop(0)
    found.start()
    leads.at.clear()
    gate.open()
    clock.waits()
    while "still busy" in found.status.error:
        clock.elapse()
    assert found.running
    assert got(server) == everybody(0)


def test_a_thread_that_cannot_be_had_is_an_error_and_the_next_poll_has_one(server):
    found = watching(Leads(1), server, since="all")
    before = threading.stack_size(1 << 46)
    try:
        with pytest.raises(RuntimeError, match="thread"):
            found.poll()
        with pytest.raises(RuntimeError, match="thread"):
            found.start()
    finally:
        threading.stack_size(before)
    assert not found.running
    assert found.poll().summary == "1 sent"


@pytest.mark.parametrize("named", [{}, {"key": "Email"}])
def test_another_key_than_at_the_first_start_is_refused_since_everybody_would_be_new(server, named):
    rows = [lead(0), lead(1)]
    watching(lambda: rows, server, **named).poll()
    with pytest.raises(MergeRefusedError, match="Email"):
        watching(lambda: rows, server, key="Id").poll()
    assert not got(server)


def test_without_a_key_that_of_the_first_start_counts(server):
    rows = [lead(0), lead(1)]
    watching(lambda: rows, server, key="Id").poll()
    rows.append(lead(2))
    assert watching(lambda: rows, server).poll().summary == "1 sent"
    assert got(server) == everybody(2)


def test_an_export_without_the_key_column_is_named_and_none_of_its_rows_is_lost(server, tmp_path):
    (tmp_path / "a.csv").write_text("Id,Email\nL0,u0@example.com\n")
    found = watching(csv_folder(tmp_path, quiet=0), server, since="all", key="Id")
    found.poll()
    (tmp_path / "odd.csv").write_text("Lead,Email\nL1,u1@example.com\n")
    with pytest.raises(MergeRefusedError, match=r"odd\.csv': There is no key column 'Id'"):
        found.poll()
    (tmp_path / "odd.csv").write_text("Id,Email\nL1,u1@example.com\n")
    assert found.poll().summary == "1 sent"


def test_what_was_practised_is_no_beginning_and_no_approval_where_it_counts(server, sandbox):
    """The same watch, rehearsed at the sandbox; then `connect` names the real server."""
    leads = Leads(5)
    found = watching(leads, server, via=None, since="all", max_per_poll=3)
    connect(sandbox.connection)
    found.poll()
    assert (found.status.practice, found.status.waiting) == (True, 5)
    connect(server.url())
    assert found.approve().summary == "no rows"
    assert (found.status.practice, found.status.waiting) == (False, 5)
    assert not got(server)
    found.approve()
    assert got(server) == everybody(*range(5))


@pytest.mark.parametrize("error", [ValueError("no"), ConnectionError("no")])
def test_whatever_on_outcome_raises_ends_the_watch_and_no_row_is_lost(server, clock, error):
    def log(_outcome):
        raise error

    found = watching(Leads(3), server, since="all", on_outcome=log).start()
    status = found.wait(LONG)
    assert status.phase is Phase.FAILED
    assert "no" in status.error
    watching(Leads(3), server, since="all").poll()
    assert got(server) == everybody(0, 1, 2)
