"""A merge in a thread of its own: what a check knows, how it is stopped, what is told, and that each row goes once.

Nothing waits here for time to pass: a `Gate` holds the server, or a row's function, until the test opens it, and
tells when it was reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import platform
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from begun import begun
from hypothesis import given
from hypothesis import strategies as st
from scripted import ACCEPT_DROP, STALL, Gate, Server

from smtp_notebook import (
    Connection,
    Journal,
    JournalError,
    MergeRefusedError,
    OptionError,
    PreflightError,
    Report,
    SecretError,
    State,
    Template,
    holder,
    jobs,
    mail_merge,
    orders,
    schema,
    servers,
    sqlite_store,
)
from smtp_notebook import _sync as sync
from smtp_notebook import journal as journals
from smtp_notebook import merge as merges
from smtp_notebook.holder import boot_id, seen
from smtp_notebook.jobs import MergeJob, Phase, Progress, Speed

LETTER = "---\nsubject: Hi {{ n }}\n---\nDear **{{ n }}**"
CALLING = "---\nsubject: s\n---\n{{ f(n) }}"
LONG = 20.0  # seconds, where something has gone wrong if it takes them


def frame(count=6, first=0, **columns):
    numbers = list(range(first, first + count))
    return pd.DataFrame({"Email": [f"u{i}@example.com" for i in numbers], "n": numbers} | columns)


def everybody(count):
    return {f"u{i}@example.com": 1 for i in range(count)}


def bad_frame():
    data = frame(6)
    data.loc[[1, 4], "Email"] = ["a@", None]
    return data


def job_of(server, data, template=LETTER, **more):
    """Return a job for a campaign that counts."""
    one = Connection.from_url(server.url(), max_connections=1, timeout=LONG, dot_timeout=LONG)
    return MergeJob(data, template, **{"via": one, "from_": "me@example.com", "campaign": "c"} | more)


def merge(server, data, template=LETTER, **more):
    options = {"via": server.url(), "from_": "me@example.com", "campaign": "c", "progress": False}
    return mail_merge(data, template, **options | more)


def checked(job):
    job.check()
    return job.wait(LONG)


def sent(job, **more):
    job.send(**more)
    return job.wait(LONG)


def got(server):
    return Counter(r for m in server.log.mails for r in m.recipients)


def journal_path():
    return Path(os.environ["SMTP_NOTEBOOK_JOURNAL"])


def files(path=None):
    """Return everything in the journal's folder, with what is in it."""
    return {p.name: p.read_bytes() for p in sorted((path or journal_path()).parent.iterdir())}


@pytest.fixture
def server():
    with Server() as found:
        yield found


@pytest.fixture
def gate():
    found = Gate()
    yield found
    found.open()


@pytest.fixture(autouse=True)
def _own_limiters(monkeypatch):
    """Forget what this process sent before: the tests' servers may have one port."""
    monkeypatch.setattr(servers, "_LIMITERS", {})


class Told:
    """Takes what a job tells: in order, and from one thread at a time."""

    def __init__(self):
        self.all = []
        self.threads = set()
        self._busy = threading.Lock()

    def __call__(self, progress):
        assert self._busy.acquire(blocking=False), "told while it was being told"
        self.all.append(progress)
        self.threads.add(threading.current_thread())
        self._busy.release()

    @property
    def phases(self):
        return [str(p.phase) for p in self.all]


# ------------------------------------------------------------------------------------- check and send


def test_a_job_checks_sends_and_says_how_far_it_is(sandbox):
    told = Told()
    job = MergeJob(frame(40), LETTER, tell=told, via=sandbox)
    assert job.progress == Progress()
    found = checked(job)
    assert (found.phase, found.total, found.checked, found.due) == (Phase.CHECKED, 40, 40, 40)
    assert found.report.counts == {State.PLANNED: 40}
    assert sandbox.messages == ()
    found = sent(job, expected=found.due)
    assert (found.phase, found.done, found.sent, found.failures, found.error) == (Phase.DONE, 40, 40, 0, None)
    assert found.report.counts == {State.SENT: 40}
    assert Report.last() is found.report
    assert "Nothing left this machine" in found.report.text()
    assert len(sandbox.messages) == 40
    assert told.all[-1] == found == job.progress


def test_nothing_of_a_job_is_printed(capsys):
    assert sent(MergeJob(frame(2), LETTER)).report.notes[0] == servers.NOTHING_LEFT
    assert capsys.readouterr() == ("", "")


def test_calls_return_at_once_and_rows_are_rendered_in_the_jobs_thread(sandbox):
    threads, gates = set(), []

    def f(value):
        threads.add(threading.current_thread())
        gates[-1]()
        return value

    job = MergeJob(frame(3), CALLING, via=sandbox, values={"f": f}, on_outcome=lambda _: f(0))
    for call in (job.check, job.send):
        gates.append(Gate())
        call()
        assert gates[-1].reached.wait(LONG)
        assert job.progress.phase is Phase.CHECKING
        gates[-1].open()
        job.wait(LONG)
    assert len(sandbox.messages) == 3
    assert threading.current_thread() not in threads
    for thread in threads:
        thread.join(LONG)
        assert thread.daemon
        assert not thread.is_alive()


def test_a_progress_is_one_line_and_never_changes(server):
    job = job_of(server, bad_frame(), on_problem="skip")
    before = checked(job)
    assert repr(before) == "<Progress checked: 6 of 6 rows checked, 4 due, 2 invalid>"
    sent(job)
    assert before.phase is Phase.CHECKED
    assert repr(job) == "<MergeJob done: 4 of 4 tried, 4 sent, 2 invalid>"
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.done = 1


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"subjct": "x"}, "'subject'"),
        ({"on_problem": "go"}, "skip"),
        ({"limit": -1}, "limit"),
        ({"dry_run": True}, "check"),
    ],
)
def test_what_no_merge_takes_is_refused_where_it_is_typed(options, word):
    with pytest.raises(OptionError, match=word):
        MergeJob(frame(1), LETTER, **options)
    job = MergeJob(frame(1), LETTER)
    with pytest.raises(OptionError, match=word):
        job.change(**options)
    for number in (-1, True, 1.0):
        with pytest.raises(OptionError, match="expected"):
            job.send(expected=number)


def test_what_ends_a_job_is_its_error_with_cause_and_fix(server):
    for data, template, word in [
        (pd.DataFrame({"a": [1]}), "x", "No column is called email"),
        (frame(1), "{% if %}", "line 1"),
        (5, "x", "int is no frame"),
    ]:
        for run in (checked, sent):
            found = run(job_of(server, data, template))
            assert (found.phase, found.report) == (Phase.FAILED, None)
            assert word in found.error.cause
            assert found.error.__traceback__ is None, "it would hold mails, and the server with its password"
    assert server.log.connections == 0


def test_a_bug_in_a_callback_ends_the_job_and_keeps_its_traceback(server):
    def fail(_):
        msg = "my callback"
        raise RuntimeError(msg)

    found = sent(job_of(server, frame(50), on_outcome=fail))
    assert (found.phase, str(found.error)) == (Phase.FAILED, "my callback")
    assert found.error.__traceback__ is not None
    assert found.report.counts[State.SENT] == len(server.log.mails) < 50
    assert sent(job_of(server, frame(50))).phase is Phase.DONE
    assert got(server) == everybody(50)


def test_a_run_that_stops_by_itself_has_failed_and_the_rest_goes_later(server):
    server.script["rcpt"] = "550 5.7.1 no"
    job = job_of(server, frame(30))
    found = sent(job)
    assert found.phase is Phase.FAILED
    assert "refused the first" in found.error.cause
    assert (found.sent, found.failures) == (0, found.done)
    assert found.report.counts[State.PLANNED] == 30 - found.done
    server.heal()
    job.change(subject="Hello {{ n }}", changed="send-rest")
    assert sent(job).phase is Phase.DONE
    assert got(server) == everybody(30)


def test_rows_with_problems_stop_a_send_until_the_person_says_skip(server):
    job = job_of(server, bad_frame())
    found = checked(job)
    assert (found.phase, found.problems, found.due, found.error) == (Phase.CHECKED, 2, 4, None)
    assert [o.row for o in found.report.failures] == [1, 4]
    found = sent(job)
    assert (found.phase, type(found.error)) == (Phase.FAILED, PreflightError)
    assert found.report is found.error.report
    assert "2 of 6 rows have problems" in found.error.cause
    assert server.log.mails == []
    job.change(on_problem="skip")
    assert sent(job, expected=4).report.counts == {State.SENT: 4, State.INVALID: 2}


def test_a_report_of_many_rows_outlives_the_job(sandbox):
    report = sent(MergeJob(frame(1200), LETTER, via=sandbox)).report
    assert report.counts == {State.SENT: 1200}
    assert report[1199].to == ("u1199@example.com",)


# ------------------------------------------------------------------------------- what a check knows


def test_a_check_makes_no_journal_and_needs_none(server):
    assert checked(job_of(server, frame(3))).due == 3
    assert mail_merge(frame(3), LETTER, via=server.url(), from_="me@example.com", campaign="c", dry_run=True)
    assert not journal_path().parent.exists()
    far = {"via": "smtp://mail.example.com", "from_": "me@example.com", "campaign": "c"}
    report = checked(MergeJob(frame(1), LETTER, **far)).report
    assert any("is new: nothing is known of earlier sends" in note for note in report.notes)


def test_a_check_says_which_rows_are_due_which_went_and_which_are_in_doubt():
    with Server(
        {"dot": [None, ACCEPT_DROP, None], "rcpt": lambda a: "550 5.1.1 no" if "u2" in a else None}
    ) as server:
        merge(server, frame(5, Id=list("abcde")), key="Id", via=server.url())
        before = files()
        data = frame(7, Id=list("abcdefg"))
        job = job_of(server, data, key="Id", via=server.url())
        found = checked(job)
        assert files() == before
        assert (found.total, found.checked, found.due, found.skipped, found.problems) == (7, 7, 2, 5, 0)
        assert any("1 from an earlier run in doubt" in note for note in found.report.notes)
        dry = merge(server, data, key="Id", dry_run=True)
        real = sent(job, expected=2).report
        for report in (found.report, dry):
            assert [o.key for o in report] == [o.key for o in real]
            now = {State.SENT: State.PLANNED}
            assert [o.state for o in report] == [
                now.get(o.state, o.state) if o.row > 4 else o.state for o in real
            ]
        counts = {State.PLANNED: 2, State.SKIPPED: 3, State.REFUSED: 1, State.IN_DOUBT: 1}
        assert found.report.counts == dry.counts == counts


def test_a_check_leaves_the_last_report_and_never_raises_for_a_row(server):
    report = merge(server, frame(1))
    assert checked(job_of(server, frame(2))).report.counts == {State.PLANNED: 1, State.SKIPPED: 1}
    assert Report.last() is report
    report = merge(server, bad_frame(), dry_run=True)
    assert report.counts == {State.PLANNED: 3, State.SKIPPED: 1, State.INVALID: 2}


def test_a_limit_counts_the_rows_that_are_due(server):
    merge(server, frame(3))
    job = job_of(server, frame(9), limit=2)
    found = checked(job)
    assert (found.due, found.skipped) == (2, 7)
    assert merge(server, frame(9), limit=2, dry_run=True).counts == found.report.counts
    assert sent(job, expected=2).sent == 2
    assert got(server) == everybody(5)


def test_a_check_does_not_hold_the_campaign_while_it_looks(server, gate):
    merge(server, frame(2))
    job = job_of(
        server, frame(4), "---\nsubject: Hi {{ n }}\n---\nDear **{{ n }}**{{ f(n) }}", values={"f": gate}
    )
    job.change(changed="send-rest")
    job.check()
    assert gate.reached.wait(LONG)
    assert merge(server, frame(4)).counts == {State.SENT: 2, State.SKIPPED: 2}
    gate.open()
    assert job.wait(LONG).phase is Phase.CHECKED
    assert got(server) == everybody(4)


def test_a_campaign_that_is_being_sent_is_checked_and_that_is_said(server, gate):
    server.script["dot"] = lambda met: gate.held() if met == "u1@example.com" else None
    first = job_of(server, frame(4))
    first.send()
    assert gate.reached.wait(LONG)
    found = checked(job_of(server, frame(4)))
    assert found.phase is Phase.CHECKED
    assert found.report[0].state is State.SKIPPED
    assert found.report[1].state is State.IN_DOUBT, "its dot is out, and not answered yet"
    assert any(f"process {os.getpid()}" in note for note in found.report.notes)
    refused = sent(job_of(server, frame(4)))
    assert (refused.phase, type(refused.error)) == (Phase.FAILED, MergeRefusedError)
    gate.open()
    assert first.wait(LONG).sent == 4
    assert checked(job_of(server, frame(4))).report.notes == ("Nothing was sent.",)
    assert got(server) == everybody(4)


CHANGES = [
    ({"template": LETTER + "!"}, "its template is another"),
    ({"from_": "other@example.com"}, "its From was me@example.com"),
    ({"key": "n"}, "knows its rows by"),
    ({"campaign": "single mails"}, "is taken by"),
]


@pytest.mark.parametrize(("change", "word"), CHANGES)
def test_a_check_is_refused_what_the_merge_would_be_refused(server, change, word):
    merge(server, frame(2))
    before = files()
    job = job_of(server, frame(4))
    job.change(**change)
    found = checked(job)
    assert (found.phase, type(found.error)) == (Phase.FAILED, MergeRefusedError)
    with pytest.raises(MergeRefusedError, match=word) as dry:
        merge(server, frame(4), **{"dry_run": True} | change)
    with pytest.raises(MergeRefusedError, match=word) as real:
        merge(server, frame(4), **change)
    assert str(found.error) == str(dry.value) == str(real.value)
    assert files() == before
    assert len(server.log.mails) == 2


def test_a_changed_campaign_that_sends_the_rest_is_checked_and_stays_as_it_was(server):
    merge(server, frame(2))
    before = files()
    job = job_of(server, frame(4), LETTER + "!", changed="send-rest")
    assert checked(job).report.counts == {State.PLANNED: 2, State.SKIPPED: 2}
    assert files() == before
    assert sent(job, expected=2).sent == 2


def test_a_name_that_no_journal_may_have_is_refused_before_there_is_one(server):
    found = checked(job_of(server, frame(1), campaign="single mails"))
    assert "taken" in found.error.cause


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"not a database at all" * 100), "damaged"),
        (
            lambda path: changed(path, "UPDATE record SET state='planned' WHERE key='u1@example.com'"),
            "checksum",
        ),
        (lambda path: changed(path, "DELETE FROM record WHERE key='u1@example.com'"), "records"),
        (lambda path: changed(path, "PRAGMA user_version=99"), "newer"),
    ],
)
def test_a_damaged_journal_ends_a_check_and_is_left_as_it_is(server, spoil, word):
    merge(server, frame(3))
    path = journal_path()
    spoil(path)
    before = files(path)
    found = checked(job_of(server, frame(4)))
    assert (found.phase, type(found.error)) == (Phase.FAILED, JournalError)
    assert word in str(found.error)
    assert files(path) == before


def changed(path, statement):
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


def test_a_journal_of_the_first_form_is_read_and_not_moved(server, tmp_path):
    path = tmp_path / "old" / "j.sqlite3"
    path.parent.mkdir()
    template = Template(LETTER, to="{{ row['Email'] }}", from_="me@example.com")
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        schema.MIGRATIONS[0].apply(db)
        db.execute("PRAGMA user_version=1")
        values = (1, "c", "loopback:127.0.0.1", "me@example.com", template.fingerprint, 1, "2026-11-01", 2)
        db.execute("INSERT INTO campaign VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        for number, state in enumerate(("sent", "intended")):
            key = f"u{number}@example.com"
            text = json.dumps({"state": state.replace("intended", "planned"), "to": [key], "row": number})
            row = [1, key, 1, state, "r", "b", b"d", 1, text, 0]
            db.execute("INSERT INTO row VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    before = files(path)
    report = checked(job_of(server, frame(3), journal=path)).report
    assert [o.state for o in report] == [State.SKIPPED, State.IN_DOUBT, State.PLANNED]
    assert files(path) == before


@pytest.mark.parametrize(("power", "doubtful"), [(False, 1), (True, 5)])
def test_what_a_dead_run_left_open_is_in_doubt_for_a_look_as_for_the_next_run(
    tmp_path, monkeypatch, power, doubtful
):
    path = tmp_path / "j"
    first = begun(Journal(path), frame(5))

    async def intend():
        await first.ledger.intend(first.rows[0])

    asyncio.run(intend())
    first.die()
    if power:
        monkeypatch.setattr(sqlite_store, "boot_id", lambda: "another")
        monkeypatch.setattr(holder, "boot_id", lambda: "another")
    with journals.look(path, "c", scope="s", sender="x", fingerprint="y") as glance:
        looked = [glance.known(f"u{i}@example.com").outcome for i in range(5)]
    assert [o.state for o in looked].count(State.IN_DOUBT) == doubtful
    again = begun(Journal(path), frame(5))
    assert [o.state for o in looked[:doubtful]] == [o.state for o in again.known]
    assert [o.fix for o in looked[:doubtful]] == [o.fix for o in again.known]
    again.ledger.close()


def test_a_journal_that_is_open_to_read_cannot_be_written(server):
    merge(server, frame(1))
    assert Journal.to_read(journal_path().with_name("none")) is None
    with contextlib.closing(Journal.to_read()) as journal:
        assert journal.report("c").counts == {State.SENT: 1}
        with pytest.raises(JournalError, match="cannot be used"):
            journal.forget("c")
    assert Journal().report("c").counts == {State.SENT: 1}


WHO = {"host": platform.node(), "boot": boot_id(), "pid": os.getpid(), "since": "2026-11-01"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (json.dumps(WHO), f"process {os.getpid()} on"),
        (json.dumps(WHO | {"host": "elsewhere", "boot": "x"}), "on elsewhere"),
        (json.dumps(WHO | {"boot": "x"}), ""),
        (json.dumps(WHO | {"pid": 2**22 + 1}), ""),
        (json.dumps(WHO | {"pid": None}), ""),
        ("", ""),
        ("[]", ""),
        ("{", ""),
        (b"\xff", ""),
        (None, ""),
    ],
    ids=[
        "here",
        "elsewhere",
        "before-a-start",
        "gone",
        "no-pid",
        "empty",
        "a-list",
        "cut",
        "no-text",
        "none",
    ],
)
def test_who_sends_a_campaign_is_read_from_the_lock_without_touching_it(tmp_path, text, word):
    path = tmp_path / "j"
    lock = holder.Holder(path, "c")
    name = next(tmp_path.glob("*.lock"))
    lock.release()
    name.unlink()
    if text is not None:
        name.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert word in seen(path, "c")
    assert bool(seen(path, "c")) == bool(word)


def test_a_mailing_without_a_name_is_checked_and_a_name_is_suggested(server):
    merge(server, frame(2))
    job = job_of(server, frame(3), campaign="")
    found = checked(job)
    assert (found.phase, found.due) == (Phase.CHECKED, 3)
    assert found.needs_campaign.startswith("mailing-")
    assert any(f'campaign="{found.needs_campaign}"' in note for note in found.report.notes)
    refused = sent(job, expected=3)
    assert (refused.phase, type(refused.error)) == (Phase.FAILED, MergeRefusedError)
    job.change(campaign="c")
    found = checked(job)
    assert (found.due, found.needs_campaign) == (1, "")


def test_what_counts_for_nobody_needs_no_name_and_knows_no_journal(server, sandbox):
    merge(server, frame(2))
    for options in ({"test_to": "me@example.com"}, {"via": sandbox}):
        found = checked(job_of(server, frame(3), campaign="", **options))
        assert (found.due, found.needs_campaign) == (3, "")
    assert checked(job_of(server, frame(3), test_to="me@example.com")).due == 3


# --------------------------------------------------------------------------------------- what was confirmed


@pytest.mark.parametrize("kind", ["campaign", "sandbox"])
def test_nothing_is_sent_when_another_number_of_rows_is_due_than_was_confirmed(server, sandbox, kind):
    via = {"via": sandbox, "campaign": ""} if kind == "sandbox" else {}
    data = frame(3).to_dict("records")
    job = job_of(server, data, **via)
    confirmed = checked(job).due
    data.append({"Email": "u3@example.com", "n": 3})
    found = sent(job, expected=confirmed)
    assert (found.phase, type(found.error)) == (Phase.FAILED, MergeRefusedError)
    assert found.error.cause == "4 rows are due now, not the 3 that were confirmed; nothing was sent."
    assert server.log.connections == len(sandbox.messages) == 0
    if kind == "campaign":
        assert len(Journal().report("c")) == 0, "no row was planned"
    assert sent(job, expected=checked(job).due).sent == 4


def test_rows_that_another_run_sent_meanwhile_are_not_those_that_were_confirmed(server):
    job = job_of(server, frame(4))
    assert checked(job).due == 4
    merge(server, frame(3))
    found = sent(job, expected=4)
    assert found.error.cause == "1 row is due now, not the 4 that were confirmed; nothing was sent."
    assert sent(job).report.counts == {State.SENT: 1, State.SKIPPED: 3}
    found = sent(job, expected=0)
    assert (found.phase, found.due, found.skipped) == (Phase.DONE, 0, 4)
    assert "No row is due" in found.report.notes[0]
    assert got(server) == everybody(4)


# ------------------------------------------------------------------------------------------------ stopping


@pytest.mark.parametrize("again", ["the same job", "a new job"])
def test_a_stop_lets_rows_in_flight_finish_and_the_rest_goes_with_the_next_send(server, gate, again):
    server.script["dot"] = lambda met: gate.held() if met == "u3@example.com" else None
    job = job_of(server, frame(50))
    job.send()
    assert gate.reached.wait(LONG)
    before = job.progress
    assert (before.phase, before.sent, before.due, before.report) == (Phase.SENDING, 3, 50, None)
    job.stop()
    job.stop()
    gate.open()
    found = job.wait(LONG)
    assert (found.phase, found.sent, found.failures, found.error) == (Phase.STOPPED, 4, 0, None)
    assert found.report.counts == {State.SENT: 4, State.PLANNED: 46}
    assert "Stopped by the person" in found.report.notes[0]
    assert got(server) == everybody(4)
    rest = job if again == "the same job" else job_of(server, frame(50))
    assert checked(rest).due == 46
    assert sent(rest, expected=46).report.counts == {State.SENT: 46, State.SKIPPED: 4}
    assert got(server) == everybody(50)


def test_a_row_whose_reply_does_not_come_in_time_is_in_doubt_after_a_stop(monkeypatch):
    monkeypatch.setattr(merges, "GRACE", 0.05)
    reached = threading.Event()

    def dot(met):
        if met == "u1@example.com":
            reached.set()
            return STALL + "kept"
        return None

    with Server({"dot": dot}) as server:
        job = job_of(server, frame(5))
        job.send()
        assert reached.wait(LONG)
        job.stop()
        found = job.wait(LONG)
        assert found.phase is Phase.STOPPED
        assert found.report.counts == {State.SENT: 1, State.PLANNED: 3, State.IN_DOUBT: 1}
        server.heal()
        assert sent(job).report.counts == {State.SENT: 3, State.SKIPPED: 1, State.IN_DOUBT: 1}
        assert got(server) == everybody(5)


@pytest.mark.parametrize("verb", ["check", "send"])
def test_a_check_ends_before_its_next_row_and_leaves_nothing_behind(server, gate, verb):
    calls = []

    def f(value):
        calls.append(value)
        gate()
        return value

    job = job_of(server, frame(50), CALLING, values={"f": f})
    getattr(job, verb)()
    assert gate.reached.wait(LONG)
    job.stop()
    gate.open()
    found = job.wait(LONG)
    assert (found.phase, found.total, found.checked, found.report) == (Phase.STOPPED, 50, 0, None)
    assert calls == [0]
    assert server.log.connections == 0
    assert sent(job).sent == 50, "the campaign was given back"
    assert got(server) == everybody(50)


def test_a_stop_between_the_check_and_the_first_mail_sends_nothing(server, monkeypatch):
    real = merges.Run.__init__

    def stopped(self, *args, **more):
        real(self, *args, **more)
        job.stop()

    monkeypatch.setattr(merges.Run, "__init__", stopped)
    job = job_of(server, frame(5))
    assert sent(job).report.counts == {State.PLANNED: 5}
    assert job.progress.phase is Phase.STOPPED
    assert server.log.mails == []


def test_a_stop_with_nothing_going_on_is_nothing(sandbox):
    job = MergeJob(frame(2), LETTER, via=sandbox)
    job.stop()
    assert job.wait(LONG).phase is Phase.IDLE
    assert sent(job).phase is Phase.DONE
    job.stop()
    assert job.progress.phase is Phase.DONE
    assert sent(job).phase is Phase.DONE


def test_another_check_ends_the_one_that_is_going_on(server, gate):
    told, calls = Told(), []

    def f(value):
        calls.append(value)
        gate()
        return value

    job = job_of(server, frame(50), CALLING, tell=told, values={"f": f})
    job.check()
    assert gate.reached.wait(LONG)
    job.change(template=LETTER, df=frame(7))
    job.check()
    job.check()
    assert job.progress.phase is Phase.CHECKING
    gate.open()
    found = job.wait(LONG)
    assert (found.phase, found.total) == (Phase.CHECKED, 7)
    assert calls == [0]
    assert "stopped" not in told.phases
    assert told.all[-1] == found


def test_a_send_ends_a_check_that_is_going_on(server, gate):
    job = job_of(server, frame(3), CALLING, values={"f": lambda n: gate() or n})
    job.check()
    assert gate.reached.wait(LONG)
    job.send()
    gate.open()
    assert job.wait(LONG).phase is Phase.DONE
    assert got(server) == everybody(3)


def test_a_job_that_sends_takes_neither_a_second_send_nor_a_check(server, gate):
    server.script["dot"] = lambda _: gate.held()
    job = job_of(server, frame(3))
    job.send()
    assert gate.reached.wait(LONG)
    for verb in (job.send, job.check):
        with pytest.raises(MergeRefusedError, match="being sent already"):
            verb()
    assert job.wait(0).phase is Phase.SENDING
    gate.open()
    assert job.wait(LONG).sent == 3
    assert got(server) == everybody(3)


_CHILD = """
import json, sys, threading
from smtp_notebook import mail_merge
from smtp_notebook.jobs import MergeJob
url, data = json.loads(sys.argv[1])
job = MergeJob(data, "hi", via=url, from_="me@example.com", campaign="c")
job.send()
input()
"""


def test_a_kernel_that_ends_with_a_running_job_leaves_a_row_in_doubt_at_most(server, gate):
    server.script["dot"] = lambda met: gate.held() if met == "u2@example.com" else None
    data = frame(6).to_dict("records")
    argument = json.dumps([server.url(), data])
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, argument], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert gate.reached.wait(LONG)
    _, said = child.communicate("\n", timeout=LONG)
    assert (child.returncode, said) == (0, "")
    gate.open()
    server.heal()
    left = checked(job_of(server, data, "hi"))
    assert 1 <= left.report.counts[State.IN_DOUBT] <= 4, "one for each connection"
    found = sent(job_of(server, data, "hi"), expected=left.due)
    assert found.sent == left.due
    assert found.report.counts[State.IN_DOUBT] == left.report.counts[State.IN_DOUBT]
    assert max(got(server).values()) == 1


# -------------------------------------------------------------------------------------------- what is told


class Clock:
    """A clock that goes on by *step* whenever it is read."""

    def __init__(self, step):
        self.now, self.step = 100.0, step

    def __call__(self):
        self.now += self.step
        return self.now


@pytest.mark.parametrize("verb", ["check", "send"])
def test_while_the_clock_stands_the_first_and_the_last_are_told_alone(sandbox, monkeypatch, verb):
    monkeypatch.setattr(jobs, "CLOCK", Clock(0.0))
    told = Told()
    job = MergeJob(frame(300), LETTER, tell=told, via=sandbox)
    getattr(job, verb)()
    last = job.wait(LONG)
    assert told.phases == ["checking", {"check": "checked", "send": "done"}[verb]]
    assert told.all[-1] == last
    assert {t.name for t in told.threads} == {"smtp_notebook job"}


def test_what_is_told_is_in_order_and_at_most_five_times_a_second(sandbox, monkeypatch):
    clock = Clock(0.01)
    monkeypatch.setattr(jobs, "CLOCK", clock)
    told, moments = Told(), []
    job = MergeJob(
        frame(300),
        LETTER,
        tell=lambda p: (told(p), moments.append(clock.now)),
        via=sandbox,
        on_outcome=lambda _: None,
    )
    checked(job)
    seen_ = [p.checked for p in told.all]
    assert seen_ == sorted(seen_)
    assert 3 < len(told.all) < 40
    sent(job)
    gaps = [
        b - a for a, b, p in zip(moments, moments[1:], told.all[1:], strict=False) if not p.over and p.checked
    ]
    assert min(gaps) >= jobs.PACE - 1e-9
    assert "sending" in told.phases
    done = [p.done for p in told.all if p.phase is not Phase.CHECKED]
    assert done == sorted(done)
    order = [str(p) for p in Phase]
    phases = told.phases[told.phases.index("checked") + 1 :]
    assert phases == sorted(phases, key=order.index)


def test_whoever_is_told_may_raise_stop_or_ask_and_harms_nothing(sandbox):
    def fail(progress):
        assert job.wait() == progress == job.progress, "it does not wait for itself"
        msg = "my form"
        raise SystemExit(msg)

    job = MergeJob(frame(30), LETTER, tell=fail, via=sandbox)
    assert sent(job).sent == 30
    assert str(job.tell_error) == "my form"
    job = MergeJob(frame(30), LETTER, tell=lambda _: job.stop(), via=sandbox)
    assert sent(job).phase is Phase.STOPPED
    assert job.tell_error is None


def test_whoever_is_told_may_begin_another_check(sandbox):
    def again(progress):
        if progress.over and progress.total == 3:
            job.change(df=frame(4))
            job.check()

    job = MergeJob(frame(3), LETTER, tell=again, via=sandbox)
    job.check()
    assert job.wait(LONG).total == 4


def test_whoever_hears_that_a_send_is_over_may_check_or_send_at_once(server):
    def next_one(progress):
        if progress.phase is Phase.DONE and progress.sent:
            job.send()
        elif progress.phase is Phase.DONE:
            job.check()

    told = Told()
    job = job_of(server, frame(3), tell=lambda p: (told(p), next_one(p)))
    job.send()
    found = job.wait(LONG)
    assert job.tell_error is None
    assert (found.phase, found.skipped) == (Phase.CHECKED, 3)
    assert [p for p in told.phases if p in {"done", "checked"}] == ["done", "done", "checked"]
    assert got(server) == everybody(3)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 50)), min_size=1))
def test_a_speed_is_never_negative_and_is_that_of_the_last_seconds(steps):
    speed, now, done = Speed(), 0.0, 0
    for seconds, mails in steps:
        now, done = now + seconds, done + mails
        speed.note(now, done)
        assert speed.rate >= 0
    for second in range(60):
        speed.note(now + second, done + 10 * second)
    assert speed.rate == pytest.approx(10)


def test_a_speed_is_unknown_in_the_first_moment_and_then_says_what_remains(sandbox, monkeypatch):
    speed = Speed()
    assert speed.rate == 0
    speed.note(5.0, 0)
    speed.note(5.2, 9)
    assert speed.rate == 0
    speed.note(6.0, 20)
    assert speed.rate == 20
    monkeypatch.setattr(jobs, "CLOCK", Clock(0.2))
    told = Told()
    sent(MergeJob(frame(200), LETTER, tell=told, via=sandbox, on_outcome=lambda _: None))
    known = [p for p in told.all if p.remaining is not None]
    assert known
    assert all(p.remaining == pytest.approx((p.due - p.done) / p.rate) for p in known)
    assert all("a second" in repr(p) for p in known)


# ------------------------------------------------------------------------------------------------- secrets


def test_a_password_is_asked_for_by_send_alone_and_on_the_calling_thread():
    asked = []

    def password():
        asked.append(threading.current_thread())
        return "correct-horse"

    with Server(login=("ann", "correct-horse")) as server:
        via = Connection.from_url(server.url(user="ann"), password=password)
        job = job_of(server, frame(3), via=via)
        assert checked(job).due == 3
        assert asked == []
        assert sent(job).sent == 3
        assert asked == [threading.current_thread()]
        assert "correct-horse" not in repr([job, job.progress, vars(job)])


def test_a_password_that_cannot_be_had_is_an_error_of_the_call(server, monkeypatch):
    from smtp_notebook import connection

    monkeypatch.setattr(connection, "kept_secret", lambda _: None)
    monkeypatch.setattr(sys, "stdin", None)
    job = job_of(server, frame(3), via=server.url(user="ann"))
    assert checked(job).due == 3
    with pytest.raises(SecretError):
        job.send()
    assert job.progress.phase is Phase.CHECKED


def test_a_wrong_password_fails_with_one_login(monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", "wrong")
    with Server(login=("ann", "right")) as server:
        found = sent(job_of(server, frame(30), via=server.url(user="ann")))
        assert server.log.logins == 1
    assert found.phase is Phase.FAILED
    assert "login" in found.error.cause


# ---------------------------------------------------------------------------------------------- beneath it


def test_whoever_waits_for_the_loop_is_called_between():
    calls = []

    async def work(caller):
        for _ in range(3):
            await caller.call(lambda: None)

    sync.run(work, between=lambda: calls.append(threading.current_thread()))
    assert len(calls) >= 3
    assert set(calls) == {threading.current_thread()}


def test_rows_count_as_settled_where_an_earlier_run_left_them(server):
    counts = []

    def look(check):
        counts.append((check.total, check.problems, check.due, check.settled))

    merge(server, frame(2))
    options = orders.Options(campaign="c", via=server.url(), dry_run=True)
    order = dataclasses.replace(
        orders.Order.of(bad_frame(), LETTER, options, {"from_": "me@example.com"}), watch=look
    )
    with orders.prepare(order) as found:
        assert len(counts) == 6
        check = found.check
        assert (check.total, check.problems, check.due, check.settled) == (6, 2, 3, 1)
