"""What a merge promises where two things meet: a row and its key, two runs, a stop in a wait, a callback.

Each test is of a bug that a review found. Nothing waits here: `conftest` has no retry wait, the server tells when
it has got to a place (`Gate`), and an interrupt is raised where it is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pandas as pd
import pytest
from begun import begun
from conftest import ROOT
from journals import KINDS, fresh
from scripted import KEPT, PIPELINING, PLAIN, STALL, Server

from smtp_notebook import (
    Connection,
    DeliveryError,
    Journal,
    JournalError,
    MergeRefusedError,
    OptionError,
    Outcome,
    PreflightError,
    Report,
    State,
    amail_merge,
    asend,
    mail_merge,
    orders,
    preflight,
    send,
    servers,
)
from smtp_notebook import _sync as sync
from smtp_notebook import journal as journals
from smtp_notebook import ledger as ledgers
from smtp_notebook import merge as merges
from smtp_notebook.preflight import Feed
from smtp_notebook.rate import Limiter
from smtp_notebook.records import planned
from smtp_notebook.roll import Roll
from smtp_notebook.standing import spread

BODY = "---\nsubject: s\n---\nhello\n"
GREETING = "---\nsubject: s\n---\nDear {{ Name }}\n"
ANN = [{"Email": "ann@example.com"}]
PAIR = [{"To": "a@example.com; b@example.com"}]
SHORT = 0.2  # seconds, where a timeout is the point
LONG = 10.0  # seconds, where it is not
FACES = ["blocking", "awaited"]


# ------------------------------------------------------------------------------------------- helpers


def people(count, name="a"):
    """Return so many rows, an address each."""
    return [{"Email": f"{name}{i}@example.com"} for i in range(count)]


def options(server, journal, **more):
    """Return what every merge here has; *settings* are the connection's."""
    settings = {"timeout": LONG, "dot_timeout": LONG} | more.pop("settings", {})
    return {
        "from_": "me@example.com",
        "format": "text",
        "via": Connection.from_url(server.url(), **settings),
        "campaign": "c",
        "journal": journal,
        "progress": False,
    } | more


def merge(server, data, journal, template=BODY, **more):
    """Run the merge; rows with a To go to all of its addresses."""
    if "To" in data[0]:
        more = {"to": "{{ To | addresses }}"} | more
    return mail_merge(data, template, **options(server, journal, **more))


async def amerge(server, data, journal, **more):
    """Do what `merge` does, awaited."""
    if "To" in data[0]:
        more = {"to": "{{ To | addresses }}"} | more
    return await amail_merge(data, BODY, **options(server, journal, **more))


def mail(server, **more):
    """Return the arguments of a single mail."""
    fields = {"to": "ann@example.com", "from_": "me@example.com", "subject": "s", "body": "b"}
    return fields | {"via": server.url()} | more


def got(server):
    """Return how often each address got a mail."""
    return Counter(r for m in server.log.mails for r in m.recipients)


def asked(server, address):
    """Return how often the server was asked to take a mail for the address."""
    return sum(command.startswith(f"RCPT TO:<{address}>") for command in server.log.commands)


def recorded(journal, campaign="c"):
    """Return the Outcomes that the journal has of a campaign."""
    with contextlib.closing(Journal(journal)) as found:
        return list(found.report(campaign))


def states(outcomes):
    return [o.state for o in outcomes]


def put_off(*names):
    """Return a script in which the addresses that begin with these names are put off each time."""
    return {"rcpt": lambda a: "450 4.2.1 later" if a.startswith(names) else None}


class Gate:
    """Holds a stage of the server until the test opens it, and tells when it was reached."""

    def __init__(self):
        self.reached = threading.Event()
        self._open = threading.Event()

    async def __call__(self, _met):
        self.reached.set()
        await asyncio.to_thread(self._open.wait, LONG)

    def open(self):
        self._open.set()


@contextlib.contextmanager
def meanwhile(gate, function, *args, **more):
    """Run *function* on another thread until it has reached the gate; give its Future, and open the gate at the end."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function, *args, **more)
        try:
            assert gate.reached.wait(LONG)
            yield future
        finally:
            gate.open()


def together(count):
    """Return what answers the first so many dots in one moment."""
    barrier, met = asyncio.Barrier(count), []

    async def dot(first):
        met.append(first)
        if len(met) <= count:
            await barrier.wait()

    return dot


def left_behind():
    """Return what runs on the background loop."""

    async def others():
        await asyncio.sleep(0)  # what was cancelled last ends in this turn
        return asyncio.all_tasks() - {asyncio.current_task()}

    return sync.spawn(others()).result(LONG)


def interrupt(*_):
    """Do what the kernel's stop button does."""
    os.kill(os.getpid(), signal.SIGINT)


def at_each(monkeypatch, owner, name, before):
    """Have *before* called with the arguments of each call of a method, before it."""
    real = getattr(owner, name)

    def both(self, *args, **more):
        before(self, *args, **more)
        return real(self, *args, **more)

    monkeypatch.setattr(owner, name, both)


def once_stopped(monkeypatch, act):
    """Have *act* called when the run has been told to stop, the first time."""
    real, calls = merges.Run.stop, []

    def stop(self, *args):
        real(self, *args)
        calls.append(args)
        if len(calls) == 1:
            act()

    monkeypatch.setattr(merges.Run, "stop", stop)


@pytest.fixture
def journal(request, tmp_path):
    """Return where the journal goes: a file, where nothing else is said."""
    if getattr(request, "param", "sqlite") == "postgresql":
        return fresh(request.getfixturevalue("postgres"))
    return tmp_path / "j.sqlite3"


#: A promise of a file, and of PostgreSQL.
of_both = pytest.mark.parametrize("journal", KINDS, indirect=True)


@pytest.fixture(autouse=True)
def _own_limiters(monkeypatch):
    """Forget what this process sent before: the tests' servers may have one port."""
    monkeypatch.setattr(servers, "_LIMITERS", {})


@pytest.fixture
def real_pauses(monkeypatch):
    """Let the run wait as it does for a person."""
    monkeypatch.setattr(merges, "PAUSE", asyncio.sleep)


# ------------------------------------------------------------------------------------- who is a row


@of_both
@pytest.mark.parametrize(("first", "then"), [(None, "Id"), ("Id", None), ("Id", ["Id", "Email"])])
def test_a_campaign_keeps_its_key_columns(first, then, journal):
    data = [{"Id": 1, "Email": "ann@example.com"}]
    with Server() as server:
        merge(server, data, journal, key=first)
        with pytest.raises(MergeRefusedError, match="knows its rows by"):
            merge(server, data, journal, key=then)
        assert merge(server, data, journal, key=first).counts == {State.SKIPPED: 1}
        assert got(server) == {"ann@example.com": 1}


@pytest.mark.parametrize("key", [None, "Email"])
def test_an_address_in_other_letters_is_the_same_row(key, journal):
    with Server() as server:
        merge(server, [{"Email": "Ann@Example.com"}], journal, key=key)
        again = merge(server, [{"Email": " ann@example.COM"}], journal, key=key)
        assert again.counts == {State.SKIPPED: 1}
        assert sum(got(server).values()) == 1


def test_recipients_in_another_order_are_the_same_row(journal):
    with Server() as server:
        merge(server, [{"To": "a@example.com; B@example.com"}], journal)
        again = merge(server, [{"To": "b@example.com; a@example.com"}], journal)
        assert again.counts == {State.SKIPPED: 1}
        assert again[0].key == "a@example.com, b@example.com"
        assert max(got(server).values()) == 1


def test_a_recipient_of_two_rows_is_warned_of(journal):
    with Server() as server:
        report = merge(server, [*PAIR, {"To": "b@example.com"}], journal)
        assert report.counts == {State.SENT: 2}
        assert "same address as row 0 (b@example.com)" in report.warnings[0]


HALF = "\ud800"


@of_both
@pytest.mark.parametrize(
    ("cells", "key"),
    [
        ({"Id": HALF, "Email": "a@example.com"}, "Id"),
        ({"Id": "1", "Email": f"{HALF}@example.com"}, "Id"),
        ({"Id": "1", "Email": f"{HALF}@example.com"}, None),
        ({"Id": "1", "Email": HALF}, "Email"),
    ],
    ids=["key", "address", "address as key", "key column of addresses"],
)
def test_half_a_character_in_key_or_address_is_a_problem_of_its_row(cells, key, journal):
    with Server() as server:
        data = [cells, {"Id": "2", "Email": "b@example.com"}]
        report = merge(server, data, journal, key=key, on_problem="skip")
        assert states(report) == [State.INVALID, State.SENT]
        assert got(server) == {"b@example.com": 1}
        assert report.text()


# ------------------------------------------------------------------------------------- two at a time


def test_a_mail_that_goes_once_is_refused_while_the_same_one_is_being_sent():
    gate = Gate()
    with Server({"mail": gate}) as server:
        one = mail(server, once=True)
        with (
            meanwhile(gate, send, **one) as first,
            pytest.raises(MergeRefusedError, match="being sent at this moment"),
        ):
            send(**one)
        assert first.result().state is State.SENT
        assert send(**one).state is State.SKIPPED
        assert got(server) == {"ann@example.com": 1}


def decisions(journal):
    """Return what a person may decide of the row of `ANN`."""
    return {
        "resolve": lambda: journal.resolve("c", "ann@example.com", delivered=False),
        "forget": lambda: journal.forget("c"),
    }


@of_both
@pytest.mark.parametrize("verb", ["resolve", "forget"])
def test_nobody_decides_on_a_campaign_that_is_being_sent(verb, journal):
    """A row whose dot is out shows as in doubt; its answer may come between reading and writing."""
    gate = Gate()
    with Server({"dot": gate}) as server, contextlib.closing(Journal(journal)) as other:
        with meanwhile(gate, merge, server, ANN, journal) as run:
            assert states(other.report("c")) == [State.IN_DOUBT]
            with pytest.raises(MergeRefusedError, match="being sent already"):
                decisions(other)[verb]()
        assert run.result().counts == {State.SENT: 1}
        assert merge(server, ANN, journal).counts == {State.SKIPPED: 1}
        assert got(server) == {"ann@example.com": 1}


_CHILD = """
import json, sys
from smtp_notebook import mail_merge
url, data, letter, journal = json.loads(sys.argv[1])
mail_merge(data, letter, from_="me@example.com", format="text", via=url, campaign="c", journal=journal, progress=False)
"""


@of_both
def test_a_row_in_doubt_is_decided_when_the_process_that_sends_it_is_dead(journal):
    reached = threading.Event()

    def hold(_):
        reached.set()
        return KEPT + STALL

    with Server({"dot": hold}) as server, contextlib.ExitStack() as stack:
        ask = json.dumps([server.url(), ANN, BODY, str(journal)])
        child = stack.enter_context(subprocess.Popen([sys.executable, "-c", _CHILD, ask], cwd=ROOT))
        stack.callback(child.kill)
        assert reached.wait(LONG)
        with contextlib.closing(Journal(journal)) as other:
            with pytest.raises(MergeRefusedError, match=f"process {child.pid} "):
                decisions(other)["resolve"]()
            child.kill()
            child.wait()
            server.heal()
            assert merge(server, ANN, journal).counts == {State.IN_DOUBT: 1}
            other.resolve("c", "ann@example.com", delivered=True)
        assert merge(server, ANN, journal).counts == {State.SKIPPED: 1}
        assert got(server) == {"ann@example.com": 1}


@of_both
def test_one_journal_object_serves_campaigns_on_several_threads(journal):
    with Server() as server, contextlib.closing(Journal(journal)) as shared, ThreadPoolExecutor(3) as pool:
        runs = {c: pool.submit(merge, server, people(100, c), shared, campaign=c) for c in "pqr"}
        for name, run in runs.items():
            assert run.result().counts == {State.SENT: 100}
            assert shared.report(name).counts == {State.SENT: 100}
        assert max(got(server).values()) == 1


@of_both
def test_two_campaigns_share_a_loop_and_one_is_not_sent_twice(journal):
    async def cell(server, shared):
        merged = (amerge(server, people(100), shared, campaign=c) for c in ("p", "q", "p"))
        return await asyncio.gather(*merged, return_exceptions=True)

    with Server() as server, contextlib.closing(Journal(journal)) as shared:
        first, second, again = asyncio.run(cell(server, shared))
        assert first.counts == second.counts == {State.SENT: 100}
        assert isinstance(again, MergeRefusedError)
        assert set(got(server).values()) == {2}


def begin(journal, campaign="c"):
    """Return the Ledger of a run that has only begun."""
    return journal.begin(campaign, scope="s", sender="x", fingerprint="y")


def test_a_journal_has_one_lock_whatever_path_leads_to_it(journal, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "link").symlink_to(journal)
    with (
        contextlib.closing(Journal(journal)) as mine,
        contextlib.closing(begin(mine)),
        contextlib.closing(Journal(folder / "link")) as linked,
        pytest.raises(MergeRefusedError),
    ):
        begin(linked)


@of_both
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_was_forked_meanwhile_does_not_keep_the_campaign(journal):
    with contextlib.closing(Journal(journal)) as mine:
        ledger = begin(mine)
        child = os.fork()
        if not child:
            signal.pause()
            os._exit(0)
        try:
            ledger.close()
            begin(mine).close()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_the_number_of_a_forgotten_record_is_never_another_ones(journal):
    """A run that does not know that it was forgotten must not claim, or answer for, somebody else's row."""

    async def intend(run):
        await run.ledger.intend(run.rows[0])

    data = people(40)
    with contextlib.closing(Journal(journal)) as other:
        run = begun(Journal(journal), data)
        with pytest.raises(MergeRefusedError):
            other.forget("c")
        run.ledger._holder.release()
        other.forget("c")
        with contextlib.closing(begin(other, "d")) as ledger:
            names = [f"b{i}@example.com" for i in range(40)]
            new = [(name, i, b"", *planned((name,), "", ())) for i, name in enumerate(names)]
            assert ledger.plan(new) > len(data)
            run.ledger.arm(run.rows)
            with pytest.raises(MergeRefusedError, match="taken over"):
                asyncio.run(intend(run))
            assert other.report("d").counts == {State.PLANNED: 40}
        run.die()


# ------------------------------------------------------------------------- some of a row's recipients


@pytest.mark.usefixtures("real_pauses")
@pytest.mark.parametrize("face", FACES)
def test_a_row_with_too_many_recipients_for_a_mail_goes_in_several(face, journal):
    data = [{"To": f"a{i}@example.com; b{i}@example.com"} for i in range(100)]
    with Server(most_recipients=(1, "452 4.5.3 too many recipients")) as server:
        if face == "blocking":
            report = merge(server, data, journal)
        else:
            report = asyncio.run(amerge(server, data, journal))
        assert report.counts == {State.SENT: 100}
        assert merge(server, data, journal).counts == {State.SKIPPED: 100}
        assert set(got(server).values()) == {1}
        assert len(got(server)) == 200


async def cancelled_on(server, data, journal, stop, **more):
    """Run the merge, awaited, until the function that *stop* is given is called."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(amerge(server, data, journal, **more))
    stop(lambda *_: loop.call_soon_threadsafe(task.cancel))
    with pytest.raises(asyncio.CancelledError):
        await task


def stopped_on(face, server, data, journal, stop, **more):
    """Run the merge until it is stopped: by an interrupt, or where it is awaited by what that does there."""
    if face == "awaited":
        asyncio.run(cancelled_on(server, data, journal, stop, **more))
        return
    stop(interrupt)
    with pytest.raises(KeyboardInterrupt):
        merge(server, data, journal, **more)


@pytest.fixture
def endless_wait(monkeypatch):
    """Return a function that has the run stopped in its wait of that number, which never ends; and the waits."""
    waits = []

    def stop_in(number):
        def stop(act):
            async def pause(seconds):
                waits.append(seconds)
                if len(waits) == number:
                    act()
                if len(waits) >= number:
                    await asyncio.Event().wait()

            monkeypatch.setattr(merges, "PAUSE", pause)

        return stop

    return stop_in


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("wait", [1, 2], ids=["for another try", "for the rate"])
@pytest.mark.parametrize("face", FACES)
def test_a_partial_row_that_is_stopped_in_a_wait_stays_partial_and_its_rest_goes_once(
    face, wait, journal, endless_wait
):
    def rcpt(address):
        replies = {"b@example.com": "450 4.2.1 later", "c@example.com": "550 5.1.1 no"}
        return replies.get(address)

    data = [{"To": "a@example.com; b@example.com; c@example.com"}]
    with Server({"rcpt": rcpt}) as server:
        stopped_on(face, server, data, journal, endless_wait(wait), settings={"rate": "1/min"})
        assert states(Report.last()) == states(recorded(journal)) == [State.PARTIAL]
        server.heal()
        merge(server, data, journal)
        assert got(server) == {"a@example.com": 1, "b@example.com": 1}
        assert asked(server, "c@example.com") == 1


@pytest.mark.usefixtures("interruptible")
def test_a_partial_row_that_is_stopped_while_it_is_claimed_again_stays_partial(journal, monkeypatch):
    """The interrupt comes on the calling thread, inside what the run asked of it."""

    def again(_self, _row):
        raise KeyboardInterrupt

    monkeypatch.setattr(Feed, "again", again)
    with Server(put_off("b")) as server:
        with pytest.raises(KeyboardInterrupt):
            merge(server, PAIR, journal)
        assert states(Report.last()) == states(recorded(journal)) == [State.PARTIAL]


@of_both
def test_a_partial_row_that_cannot_be_claimed_again_stays_partial(journal, monkeypatch):
    calls = []

    def full(_self, rows):
        calls.append(rows)
        if len(calls) > 1:
            raise JournalError("The disk is full.", "Make room.")

    at_each(monkeypatch, journals.Ledger, "arm", full)
    with Server(put_off("b")) as server:
        with pytest.raises(JournalError, match="disk is full"):
            merge(server, PAIR, journal)
        assert states(Report.last()) == states(recorded(journal)) == [State.PARTIAL]
        assert got(server) == {"a@example.com": 1}


def test_a_partial_row_that_comes_out_differently_later_stays_partial(journal, monkeypatch):
    monkeypatch.setattr(merges, "WAITING_BYTES", -1)  # printed again for each try
    numbers = iter(range(100))
    with Server(put_off("b")) as server:
        values = {"number": lambda: next(numbers)}
        report = merge(server, PAIR, journal, BODY + "{{ number() }}\n", values=values)
        assert states(report) == states(recorded(journal)) == [State.PARTIAL]
        assert "not tried again" in report[0].reason
        assert got(server) == {"a@example.com": 1}


def test_an_address_that_a_partial_row_gets_instead_is_mailed(journal):
    with Server(put_off("b")) as server:
        report = merge(server, [{"Id": 1} | PAIR[0]], journal, key="Id", settings={"attempts": 1})
        assert states(report) == [State.PARTIAL]
        report = merge(server, [{"Id": 1, "To": "a@example.com; c@example.com"}], journal, key="Id")
        assert got(server) == {"a@example.com": 1, "c@example.com": 1}


def test_what_ends_the_run_is_no_answer_to_the_rest_of_a_partial_row(journal):
    script = put_off("b") | {"mail": [None, "530 5.7.0 Authentication required"]}
    with Server(script) as server:
        assert states(merge(server, PAIR, journal)) == [State.PARTIAL]
        server.heal()
        assert states(merge(server, PAIR, journal)) == [State.SENT]
        assert got(server) == {"a@example.com": 1, "b@example.com": 1}


@of_both
def test_a_refused_recipient_is_not_asked_again_when_the_others_are(journal):
    script = {
        "rcpt": lambda a: "550 5.1.1 no" if a.startswith("b") else None,
        "dot": ["451 later", None],
    }
    with Server(script) as server:
        assert states(merge(server, PAIR, journal)) == [State.PARTIAL]
        assert (asked(server, "a@example.com"), asked(server, "b@example.com")) == (2, 1)


# ------------------------------------------------------------------------------------ what was said


TWO_REPLIES = {
    "refused first": KEPT + "451 4.3.0 noise\r\n250 2.0.0 queued",
    "accepted first": KEPT + "250 2.0.0 noise\r\n451 4.3.0 not taken",
}


@pytest.mark.parametrize(
    ("way", "said"),
    [
        *((way, said) for way in ("plain", "pipelined") for said in TWO_REPLIES),
        # A 2xx that comes by itself is believed: what follows is read as the answer to what left ahead.
        ("ahead", "refused first"),
    ],
)
def test_two_replies_to_one_dot_put_the_mail_in_doubt(way, said, journal):
    """Which of them answers the dot cannot be told: neither a second copy nor a lost mail is risked."""

    async def slow(met):
        if met.mail > 3:
            await asyncio.sleep(SHORT)  # so that both replies are read before those to what left ahead

    script = {"dot": [None, None, TWO_REPLIES[said], None]} | ({"mail": slow} if way == "ahead" else {})
    settings = {"max_connections": 1} | ({"messages_per_connection": 1} if way == "pipelined" else {})
    data = people(4)
    with Server(script, offers=PLAIN if way == "plain" else PIPELINING) as server:
        report = merge(server, data, journal, settings=settings)
        assert server.log.mails[2].ahead == (way == "ahead")
        assert max(got(server).values()) == 1
        assert [o.row for o in report.in_doubt] == [2]
        server.heal()
        assert [o.row for o in merge(server, data, journal).in_doubt] == [2]
        assert got(server) == {row["Email"]: 1 for row in data}


@pytest.fixture
def no_answers(monkeypatch):
    """Let the journal take intents and no answers: the disk is full just then. Undone by the patch that is given."""

    def full(_self, _db, pending):
        if any(write.change is not None for write in pending):
            raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        at_each(patch, journals.Ledger, "_change", full)
        yield patch


@pytest.mark.parametrize("face", FACES)
def test_a_single_mail_that_went_is_returned_although_it_could_not_be_recorded(face, no_answers):
    with Server() as server:
        one = mail(server)
        outcome = send(**one) if face == "blocking" else asyncio.run(asend(**one))
        assert outcome.state is State.SENT
        assert any("could not be recorded" in warning for warning in outcome.warnings)
        assert got(server) == {"ann@example.com": 1}


def test_a_single_mail_that_could_not_be_recorded_is_in_doubt_and_nobody_waits_for_it(no_answers):
    with Server() as server:
        send(**mail(server))
        no_answers.undo()
        with pytest.raises(DeliveryError) as caught:
            send(**mail(server, once=True))
        assert caught.value.outcome.state is State.IN_DOUBT
        assert got(server) == {"ann@example.com": 1}


# ------------------------------------------------------------------------- stopping, and the callback


@of_both
@pytest.mark.timeout(30)
def test_the_callback_may_send_mails_itself(journal):
    with Server() as server:
        report = merge(
            server,
            people(20),
            journal,
            on_outcome=lambda o: send(**mail(server, to="me@example.com", body=o.key)),
        )
        assert report.counts == {State.SENT: 20}
        assert got(server)["me@example.com"] == 20


@pytest.mark.timeout(30)
@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_callback_that_raises_each_time_ends_the_run_and_the_report_is_kept(error, journal):
    def fail(_):
        raise error

    data = people(8)
    before = left_behind()
    with Server({"dot": together(4)}) as server:
        Report([], title="an older one").remember()
        with pytest.raises(error):
            merge(server, data, journal, on_outcome=fail)
        assert left_behind() <= before
        report = Report.last()
        assert len(report) == len(data)
        assert {o.key for o in [*report.sent, *report.in_doubt]} == set(got(server))
        went = len(got(server))
        again = merge(server, data, journal)
        assert len(again.sent) == len(data) - went
        assert max(got(server).values()) == 1


def test_the_callback_is_called_once_for_a_row_that_could_not_be_recorded(journal, monkeypatch):
    def full(*_, pending):
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(journals.Ledger, "_change", full)
    seen = []
    with Server({"rcpt": "451 later"}) as server:
        with pytest.raises(JournalError):
            merge(server, ANN, journal, on_outcome=seen.append)
        assert len(seen) == 1


@pytest.mark.timeout(30)
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("callback", [None, lambda _: None], ids=["alone", "with a callback"])
@pytest.mark.parametrize("times", [1, 2])
def test_interrupts_give_up_what_is_in_flight_and_leave_nothing_behind(times, callback, journal, monkeypatch):
    for module in (sync, merges):
        monkeypatch.setattr(module, "GRACE", SHORT if times == 1 else LONG)

    def hold(_):
        interrupt()
        return KEPT + STALL

    if times > 1:
        once_stopped(monkeypatch, interrupt)
    before = left_behind()
    with Server({"dot": hold}) as server:
        with pytest.raises(KeyboardInterrupt):
            merge(server, ANN, journal, on_outcome=callback, settings={"dot_timeout": 60})
        assert left_behind() <= before
        assert states(Report.last()) == states(recorded(journal)) == [State.IN_DOUBT]
        server.heal()
        assert states(merge(server, ANN, journal)) == [State.IN_DOUBT]


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("face", FACES)
def test_rows_that_are_stopped_in_a_wait_for_another_try_are_left_for_the_next_run(
    face, times, journal, endless_wait, monkeypatch
):
    def stop(act):
        endless_wait(1)(act)
        if times > 1:
            once_stopped(monkeypatch, act)

    data = people(3)
    with Server({"rcpt": "450 4.7.1 grey"}) as server:
        stopped_on(face, server, data, journal, stop, settings={"max_connections": 1})
        assert states(Report.last()) == states(recorded(journal)) == [State.DEFERRED] * 3
        server.heal()
        assert merge(server, data, journal).counts == {State.SENT: 3}


@of_both
def test_a_merge_that_is_cancelled_twice_has_ended_and_knows_what_is_in_doubt(journal, monkeypatch):
    async def cell(server):
        def stop(cancel):
            def dot(_):
                cancel()
                return KEPT + STALL

            server.script["dot"] = dot
            once_stopped(monkeypatch, cancel)

        await cancelled_on(server, ANN, journal, stop, settings={"dot_timeout": 60})
        await asyncio.sleep(0)  # what was cancelled last ends in this turn
        return asyncio.all_tasks() - {asyncio.current_task()}

    with Server() as server:
        assert not asyncio.run(cell(server))
        assert states(Report.last()) == states(recorded(journal)) == [State.IN_DOUBT]


# --------------------------------------------------------------------------------- what a row is due


@of_both
def test_a_merge_that_its_preflight_refused_has_not_begun_a_campaign(journal):
    data = [ANN[0] | {"Name": None}]
    with Server() as server:
        with pytest.raises(PreflightError):
            merge(server, data, journal, GREETING)
        mended = GREETING.replace("Name", "Name | default('you')")
        assert merge(server, data, journal, mended).counts == {State.SENT: 1}


def test_a_rest_that_its_preflight_refused_leaves_the_campaign_as_it_was(journal):
    data = [ANN[0] | {"Name": None}]
    with Server() as server:
        merge(server, data, journal, limit=0)
        with pytest.raises(PreflightError):
            merge(server, data, journal, GREETING, changed="send-rest")
        assert merge(server, data, journal).counts == {State.SENT: 1}


@pytest.mark.parametrize("test_to", ["x@example.org", "ann@example.com.example.org"])
def test_what_a_connection_allows_holds_for_a_test_run_too(test_to, journal):
    with Server() as server:
        with pytest.raises(MergeRefusedError, match="allows"):
            merge(server, ANN, journal, test_to=test_to, settings={"allow": ("example.com",)})
        assert not server.log.mails


def test_a_test_run_to_an_address_with_other_letters_says_so_to_the_server(journal):
    with Server() as server:
        merge(server, ANN, journal, test_to="jörg@example.com")
        assert got(server) == {"jörg@example.com": 1}
        assert all("SMTPUTF8" in c for c in server.log.commands if c.startswith("MAIL"))


@of_both
@pytest.mark.parametrize("connections", [4, 32])
def test_no_more_than_a_window_of_rows_is_claimed_at_any_moment(connections, journal, monkeypatch):
    """An answer that waits for its commit, because a window is being claimed, counts as none."""
    monkeypatch.setattr(ledgers, "_MOMENT", SHORT)
    most = [0]
    real = journals.Ledger.arm

    def arm(self, rows):
        real(self, rows)
        number, mine = self._number, self._store
        standing = set(mine.all("SELECT id, seq FROM record WHERE campaign=?", number))
        claims = mine.all("SELECT rows FROM claim WHERE campaign=?", number)
        # What was claimed, and is as it was then.
        most[0] = max(most[0], len(standing & {row for (rows,) in claims for row in spread(rows)}))

    monkeypatch.setattr(journals.Ledger, "arm", arm)
    with Server() as server:
        report = merge(server, people(400), journal, settings={"max_connections": connections})
        assert report.counts == {State.SENT: 400}
    assert 0 < most[0] <= preflight.WINDOW


@of_both
def test_rows_that_wait_for_another_try_hold_back_others_and_all_go(journal, monkeypatch):
    monkeypatch.setattr(merges, "MOST_WAITING", 2)
    met = Counter()

    def grey(address):
        met[str(address)] += 1
        return "450 4.7.1 grey" if met[str(address)] == 1 else None

    with Server({"rcpt": grey}) as server:
        assert merge(server, people(100), journal).counts == {State.SENT: 100}
        assert set(got(server).values()) == {1}


# ------------------------------------------------------------------------------------------ the rate


@pytest.fixture
def paced(monkeypatch):
    """Return the moments at which mails were given leave, and the waits; the clock goes forward by each wait."""
    now, taken, waits = [0.0], [], []

    async def pause(seconds):
        waits.append(seconds)
        now[0] += seconds
        await asyncio.sleep(0)

    monkeypatch.setattr(merges, "PAUSE", pause)
    monkeypatch.setattr(merges, "CLOCK", lambda: now[0])
    at_each(monkeypatch, Limiter, "take", lambda _self, moment, _count=1: taken.append(moment))
    return taken, waits


def test_merges_at_the_same_time_share_the_rate(tmp_path, paced, monkeypatch):
    """Also when both are the first to ask what the rate is."""
    taken, _ = paced
    both = threading.Barrier(2)

    def meet(*_):
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(SHORT)  # in vain, where only one has to ask the journal

    at_each(monkeypatch, Journal, "past", meet)
    with Server() as server, ThreadPoolExecutor(2) as pool:
        more = {"settings": {"rate": "6/min"}}
        runs = [pool.submit(merge, server, people(5), tmp_path / c, campaign=c, **more) for c in "xy"]
        assert [run.result().counts for run in runs] == [{State.SENT: 5}] * 2
    assert len(taken) == 10
    assert all(later - earlier > 9.999 for earlier, later in pairwise(taken))


def test_the_rate_counts_test_runs_and_single_mails_too(journal, paced):
    taken, _ = paced
    settings = {"rate": "6/min"}
    with Server() as server:
        merge(server, people(2), journal, test_to="me@example.com", settings=settings)
        merge(server, people(2), journal, settings=settings)
        send(**mail(server, via=Connection.from_url(server.url(), **settings)))
    assert len(taken) == 5
    assert all(later - earlier > 9.999 for earlier, later in pairwise(taken))


@of_both
def test_a_new_process_waits_for_what_the_journal_says_went_today(journal, paced, monkeypatch):
    _, waits = paced
    settings = {"rate": "2/day"}
    with Server() as server:
        merge(server, people(2), journal, settings=settings)
        assert not waits
        monkeypatch.setattr(servers, "_LIMITERS", {})
        merge(server, people(3), journal, settings=settings)
        assert sum(waits) > 86_000
        assert len(server.log.mails) == 3


# --------------------------------------------------------------------------------- report and journal


def test_a_report_keeps_its_labels_when_the_frame_gets_others(journal):
    data = pd.DataFrame({"Email": ["a@example.com", "b@example.com"]}, index=["A", "B"])
    with Server() as server:
        report = mail_merge(data, BODY, **options(server, journal))
    data.index = ["B", "A"]
    assert dict(report.to_frame()["key"]) == {"A": "a@example.com", "B": "b@example.com"}


@pytest.mark.parametrize("held", [1, 100], ids=["from its table", "in memory"])
def test_a_report_can_be_pickled_whatever_the_cells_are(held, journal, monkeypatch):
    monkeypatch.setattr(orders, "_HELD_ROWS", held)
    data = [row | {"lock": threading.Lock()} for row in people(3)]
    with Server() as server:
        report = merge(server, data, journal)
        again = pickle.loads(pickle.dumps(report))
        assert list(again) == list(report)


def test_a_report_from_its_table_is_read_on_any_thread(journal, monkeypatch):
    monkeypatch.setattr(orders, "_HELD_ROWS", 1)
    with Server() as server:
        report = merge(server, people(50), journal)

    def read():
        return report.counts, len(list(report)), report[3:7].counts, report[-1].row, len(report.to_frame())

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(read).result() == ({State.SENT: 50}, 50, {State.SENT: 4}, 49, 50)


def test_a_frame_of_a_report_reads_its_table_once(monkeypatch):
    roll, reads = Roll(), []
    for i in range(3_000):
        roll.add(Outcome(state=State.SENT, key=str(i), row=i, to=(f"a{i}@example.com",)))
    at_each(monkeypatch, Roll, "_read", lambda *args: reads.append(args))
    report = Report(roll.outcomes())
    assert len(list(report)) == 3_000
    once = len(reads)
    assert len(report.to_frame()) == 3_000
    assert len(reads) <= 2 * once + 1


def test_the_table_of_a_run_goes_with_the_last_report_that_reads_it():
    roll = Roll()
    roll.add(Outcome(state=State.SENT, key="a", row=0))
    database, report = roll._db, Report(roll.outcomes())
    del roll
    assert len(report) == 1
    del report
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        database.execute("SELECT 1")


@of_both
def test_a_closed_journal_is_called_closed_and_not_damaged(journal):
    with Server() as server, contextlib.closing(Journal(journal)) as mine:
        merge(server, ANN, mine)
        report = mine.report("c")
    with pytest.raises(JournalError, match="is closed"):
        report.text()


def test_a_journals_name_that_is_too_long_is_said(tmp_path):
    with pytest.raises(JournalError, match="cannot be used"):
        Journal(tmp_path / ("x" * 300))


def test_a_campaigns_name_is_text(journal):
    with Server() as server, pytest.raises(OptionError, match="2026"):
        merge(server, ANN, journal, campaign=2026)
