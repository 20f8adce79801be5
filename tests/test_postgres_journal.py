"""What is of a journal in PostgreSQL alone: lost connections and answers, another server, rights, passwords, text."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import os
import pickle
import platform
import re
import shutil
import sys
import tempfile
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import mailservers
import psycopg
import pytest
from begun import begun, cut
from hypothesis import given as drawn
from hypothesis import strategies as st
from journals import fresh, url
from kill import run_seed
from proxy import Proxy
from scripted import Server

from smtp_notebook import (
    Connection,
    DeliveryError,
    Journal,
    JournalError,
    MergeRefusedError,
    SettingsError,
    State,
    machine,
    mail_merge,
    postgres_store,
    send,
)
from smtp_notebook.outcome import Outcome
from smtp_notebook.places import DatabaseURL, given
from smtp_notebook.postgres_store import escaped, unescaped
from smtp_notebook.records import packed, planned
from smtp_notebook.watchbook import BEFORE, Watchbook

ROWS = [{"Email": f"u{i}@example.com"} for i in range(5)]


@pytest.fixture
def place(postgres, monkeypatch):
    """The URL of a journal that is not there yet; the one that nobody needs to name."""
    found = fresh(postgres)
    monkeypatch.setenv("SMTP_NOTEBOOK_JOURNAL", found)
    return found


@pytest.fixture
def proxy(postgres):
    with Proxy(postgres.port) as found:
        yield found


@pytest.fixture
def through(postgres, proxy, monkeypatch):
    """The URL of a journal behind the proxy; its password is in the environment."""
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    schema = fresh(postgres).rpartition("=")[2]
    return f"postgresql://tester@127.0.0.1:{proxy.port}/postgres?schema={schema}"


@contextlib.contextmanager
def raw(where):
    """A connection to the schema of a journal, beside it."""
    found = given(where)
    with psycopg.connect(**found.settings(), autocommit=True) as db:
        db.execute(f"SET search_path = {found.schema}")
        yield db


def merge(server, where=None, rows=ROWS, **more):
    options = {
        "campaign": "c",
        "via": server.url(),
        "journal": where,
        "from_": "me@example.com",
        "progress": False,
    }
    return mail_merge(rows, "Hello", subject="Hi", **(options | more))


def mailed(server):
    return sorted(m.recipients[0] for m in server.log.mails)


EVERYONE = [row["Email"] for row in ROWS]


# ------------------------------------------------------------------------------ connections that are lost


def step(run, verb):
    """Take one step of a run, each with its own commit."""
    row = run.rows[0]

    async def intend():
        await run.ledger.intend(row)

    async def record():
        done = asyncio.get_running_loop().create_future()
        run.ledger.record(row, row.columns(State.SENT), done.set_result)
        assert await done is None

    if verb == "plan":
        planned = Outcome(state=State.PLANNED, key="new", to=("new@example.com",))
        run.ledger.plan([("new", 9, b"d" * 32, *packed(planned))])
    elif verb == "arm":
        run.ledger.arm([row])
    else:
        asyncio.run({"intend": intend, "record": record}[verb]())


@pytest.mark.parametrize("answered", [False, True], ids=["before it", "before its answer"])
@pytest.mark.parametrize("verb", ["plan", pytest.param("arm", marks=pytest.mark.slow), "intend", "record"])
def test_a_connection_that_is_lost_at_a_commit_changes_nothing_of_what_comes(through, proxy, verb, answered):
    run = begun(Journal(through), ROWS)
    if verb == "record":
        step(run, "intend")
    with raw(through) as db:
        claims = db.execute("SELECT count(*) FROM claim").fetchone()[0]
        proxy.cut_at(b"COMMIT", passed=answered)
        step(run, verb)
        assert proxy.cuts == 1
        count = {
            name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            for name in ("record", "claim", "intent")
        }
        assert count == {
            "record": 5 + (verb == "plan"),
            "claim": claims + (verb == "arm"),
            "intent": int(verb in {"intend", "record"}),
        }
        assert db.execute("SELECT rows FROM campaign").fetchone()[0] == count["record"]
    assert run.journal.known(1, "u0@example.com").state is {
        "intend": State.IN_DOUBT, "record": State.SENT
    }.get(verb, State.PLANNED)  # fmt: skip
    if verb == "intend":
        # It holds its campaign again, too.
        with contextlib.closing(Journal(through)) as other, pytest.raises(MergeRefusedError, match="sent"):
            begun(other, ROWS)
    run.ledger.close()
    run.journal.close()


def test_a_merge_whose_connection_is_lost_again_and_again_mails_everybody_once(through, proxy):
    def lose(_):
        proxy.cut_at(b"COMMIT", passed=len(done) % 2)
        done.append(_)

    done = []
    with Server() as server:
        report = merge(server, through, on_outcome=lose)
        assert report.counts == {State.SENT: 5}
        assert mailed(server) == EVERYONE
        assert merge(server, through).counts == {State.SKIPPED: 5}
    assert proxy.cuts >= 2


def test_no_dot_leaves_while_the_journal_cannot_be_reached(through, proxy, monkeypatch):
    monkeypatch.setattr(postgres_store, "RECONNECT_SECONDS", 0.05)
    with Server() as server:
        # The first INSERT of an intent never arrives, and nobody answers any more.
        proxy.cut_at(b"INSERT INTO intent", passed=False, for_ever=True)
        with pytest.raises(JournalError, match="cannot be used"):
            merge(server, through)
        assert server.log.mails == []
        proxy.up()
        assert merge(server, through).counts == {State.SENT: 5}
        assert mailed(server) == EVERYONE


def test_what_went_before_the_journal_went_away_is_in_doubt_and_not_sent_again(through, proxy, monkeypatch):
    monkeypatch.setattr(postgres_store, "RECONNECT_SECONDS", 0.05)
    with Server() as server:
        proxy.cut_at(b"UPDATE record", passed=False, for_ever=True)
        with pytest.raises(JournalError, match="cannot be used"):
            merge(server, through, via=Connection.from_url(server.url(), max_connections=1))
        gone = mailed(server)
        assert len(gone) == 1
        proxy.up()
        report = merge(server, through)
        assert [o.key for o in report.in_doubt] == gone
        assert mailed(server) == EVERYONE


def test_a_run_that_lost_its_campaign_changes_nothing_any_more(through, proxy):
    """Its session ended unseen, another run began, and then it comes back."""
    first = begun(Journal(through), ROWS)
    step(first, "intend")
    cut(first.journal)
    second = begun(Journal(through), ROWS)
    assert [o.key for o in second.known] == ["u0@example.com"]
    for verb in ("intend", "record", "arm", "plan"):
        with pytest.raises((MergeRefusedError, AssertionError), match="taken over"):
            step(first, verb)
    first.ledger.close()
    first.journal.close()
    step(second, "intend")
    step(second, "record")
    second.ledger.close()
    assert second.journal.report("c").counts == {State.IN_DOUBT: 1, State.SENT: 1, State.PLANNED: 3}
    second.journal.close()


def test_a_run_that_another_ended_before_it_came_back_changes_nothing(through):
    first = begun(Journal(through), ROWS)
    cut(first.journal)
    with Server() as server:
        assert merge(server, through, from_="x@example.com", changed="send-rest").counts == {State.SENT: 5}
    with pytest.raises(MergeRefusedError, match="taken over"):
        step(first, "intend")
    first.ledger.close()
    first.journal.close()


def test_a_run_whose_lock_was_given_away_under_it_changes_nothing(place):
    """A pooler may hand a session to another client, who then takes the campaign."""
    run = begun(Journal(place), ROWS)
    with raw(place) as db:
        db.execute("UPDATE holder SET run = run + 1")
        for verb in ("intend", "arm", "plan"):
            with pytest.raises(MergeRefusedError, match="taken over"):
                step(run, verb)
        assert db.execute("SELECT count(*) FROM intent").fetchone() == (0,)
        run.ledger.close()
        # It is not this run's to end.
        assert db.execute("SELECT count(*) FROM claim").fetchone() == (1,)
    run.journal.close()


def test_a_session_that_the_server_still_believes_in_is_ended_by_its_own_client(through, proxy):
    """The network swallowed the connection: the server has heard of nothing, and its lock stands."""
    run = begun(Journal(through), ROWS)
    proxy.hold()
    cut(run.journal)
    step(run, "arm")
    step(run, "intend")
    run.ledger.close()
    run.journal.close()
    proxy.let_go()


@pytest.mark.parametrize("busy", [False, True], ids=["while it is idle", "while it waits"])
def test_a_session_that_the_server_ends_is_made_anew(place, busy):
    run = begun(Journal(place), ROWS)
    process = run.journal._store.me
    with raw(place) as db, raw(place) as other, ThreadPoolExecutor(1) as pool:
        if busy:
            other.execute("BEGIN; LOCK TABLE claim")
            waiting = pool.submit(run.ledger.arm, run.rows)
            query = "SELECT 1 FROM pg_stat_activity WHERE pid=%s AND wait_event_type='Lock'"
            mailservers.until(lambda: db.execute(query, (process,)).fetchone(), 10, "it waits")
        assert db.execute("SELECT pg_terminate_backend(%s)", (process,)).fetchone()[0]
        if busy:
            other.execute("COMMIT")
            waiting.result(20)
        step(run, "arm")
        assert db.execute("SELECT count(*) FROM claim").fetchone()[0] == 2 + busy
    assert run.journal._store.me != process
    step(run, "intend")
    run.ledger.close()
    run.journal.close()


def test_a_server_that_was_replaced_stops_the_run_and_its_window_is_in_doubt(place, monkeypatch):
    first = begun(Journal(place), ROWS)
    step(first, "intend")
    step(first, "record")
    real = postgres_store._era
    monkeypatch.setattr(postgres_store, "_era", lambda connection: f"{real(connection)} promoted")
    cut(first.journal)
    with pytest.raises(JournalError, match="replaced"):
        step(first, "arm")
    with pytest.raises(JournalError, match="replaced"):
        first.ledger.close()
    first.journal.close()
    again = begun(Journal(place), ROWS)
    assert sorted(o.state for o in again.known) == [State.IN_DOUBT] * 4 + [State.SKIPPED]
    again.ledger.close()
    again.journal.close()


def test_a_single_mail_whose_session_was_lost_is_not_sent(through, proxy):
    """Others take it for dead, and may send it."""
    with Server() as server:
        proxy.cut_at(b"INSERT INTO intent", passed=False)
        os.environ["SMTP_NOTEBOOK_JOURNAL"] = through
        with pytest.raises(JournalError, match="not sent"):
            send(via=server.url(), to="ann@example.com", from_="me@example.com", body="hi", once=True)
        assert server.log.mails == []
        sent = send(via=server.url(), to="ann@example.com", from_="me@example.com", body="hi", once=True)
        assert sent.state is State.SENT
        assert len(server.log.mails) == 1


@pytest.mark.slow
def test_a_server_that_crashes_and_starts_anew_in_the_middle_costs_no_row(monkeypatch):
    import databases

    # One that keeps what it confirmed, and whose owner asked it to confirm more than it keeps.
    monkeypatch.setitem(databases._SETTINGS, "fsync", "on")
    monkeypatch.setitem(databases._SETTINGS, "synchronous_commit", "off")
    with databases.running_postgres() as postgres, Server() as server:
        where = fresh(postgres)
        seen = []

        def crash(outcome):
            seen.append(outcome)
            if len(seen) in {1, 3}:
                postgres.stop(kill=True)
                postgres.start()

        assert merge(server, where, on_outcome=crash).counts == {State.SENT: 5}
        assert mailed(server) == EVERYONE
        # What was recorded last is there after a crash.
        postgres.stop(kill=True)
        postgres.start()
        assert merge(server, where).counts == {State.SKIPPED: 5}


def standby(primary, folder):
    """Return a server that follows *primary* and is one of its own, in a folder of its own."""
    shutil.chown(folder, primary.folder.owner())
    found = copy.copy(primary)
    found.folder, found._data, found.port = folder, folder / "data", mailservers.free_ports(1)[0]
    found._process = None
    where = ("-h", primary.folder, "-p", primary.port, "-U", "tester")
    primary._run("pg_basebackup", "-D", found._data, *where, "-R", "-X", "stream", "--checkpoint=fast")
    found.start()
    return found


def follows(standby, primary):
    """Tell whether a standby has all that was written."""
    with primary.connect() as db:
        (written,) = db.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
    with standby.connect() as db:
        return db.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (written,)).fetchone()[0]


@pytest.mark.slow
def test_a_standby_that_takes_over_and_lacks_the_last_answers_mails_nobody_twice(monkeypatch):
    import databases

    monkeypatch.setitem(databases._SETTINGS, "fsync", "on")
    with (
        databases.running_postgres() as primary,
        tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder,
    ):
        second = standby(primary, Path(folder))
        try:
            hosts = ",".join(quote(str(server.folder), safe="") for server in (primary, second))
            where = f"postgresql://tester@/postgres?host={hosts}&port={primary.port},{second.port}"
            run = begun(Journal(where), ROWS)
            step(run, "intend")
            step(run, "record")
            mailservers.until(lambda: follows(second, primary), 20, "the standby has it all")
            second.stop(kill=True)
            # One more leaves, of which the standby never hears.
            run.rows.pop(0)
            step(run, "intend")
            step(run, "record")
            primary.stop(kill=True)
            second.start()
            with second.connect() as db:
                assert db.execute("SELECT pg_promote()").fetchone() == (True,)
            with pytest.raises(JournalError, match="replaced"):
                run.ledger.arm(run.rows)
            with pytest.raises(JournalError, match="replaced"):
                run.ledger.close()
            run.journal.close()
            again = begun(Journal(where), ROWS)
            assert [o.state for o in again.known] == [State.SKIPPED] + [State.IN_DOUBT] * 4
            assert again.rows == []
            again.ledger.close()
            again.journal.close()
        finally:
            second.stop(kill=True)


def test_a_commit_is_confirmed_when_it_is_kept_whatever_the_database_is_set_to(postgres):
    name = postgres.fresh()
    with postgres.connect() as db:
        db.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    with contextlib.closing(Journal(url(postgres, "s", name))) as journal:
        assert journal._all("SHOW synchronous_commit") == [("on",)]
        assert [journal._all(f"SHOW {s}")[0][0] for s in ("statement_timeout", "lock_timeout")] == [
            "1min",
            "20s",
        ]


def test_the_server_soon_notices_that_a_machine_is_gone(through):
    with contextlib.closing(Journal(through)) as journal:
        said = [journal._all(f"SHOW tcp_keepalives_{name}")[0][0] for name in ("idle", "interval", "count")]
    assert said == ["30", "10", "3"]


# ---------------------------------------------------------------------------------------- several at once


def test_of_many_that_begin_a_campaign_in_a_new_journal_one_gets_it(place):
    barrier = threading.Barrier(6)

    def attempt(_):
        barrier.wait()
        journal = Journal(place)
        try:
            return journal, journal.begin("c", scope="s", sender="x", fingerprint="y")
        except MergeRefusedError as error:
            return journal, error

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(attempt, range(6)))
    refused = [ledger for _, ledger in found if isinstance(ledger, MergeRefusedError)]
    assert len(refused) == 5
    assert all(re.search(rf"process {os.getpid()} on {platform.node()}", str(error)) for error in refused)
    for journal, ledger in found:
        if ledger not in refused:
            ledger.close()
        journal.close()


def test_one_journal_begins_a_campaign_once(place):
    with contextlib.closing(Journal(place)) as journal:
        ledger = journal.begin("c", scope="s", sender="x", fingerprint="y")
        with pytest.raises(MergeRefusedError, match="being sent already"):
            journal.begin("c", scope="s", sender="x", fingerprint="y")
        ledger.close()
        journal.begin("c", scope="s", sender="x", fingerprint="y").close()


def test_campaigns_of_several_machines_are_planned_at_once_and_share_no_number(place):
    def plan(name):
        with contextlib.closing(Journal(place)) as journal:
            run = begun(journal, [{"Email": f"u{i}@example.com"} for i in range(300)], name)
            run.ledger.close()
            return len(journal.report(name))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(plan, "abcd")) == [300] * 4
    with raw(place) as db:
        assert db.execute("SELECT count(*), max(id) FROM record").fetchone() == (1200, 1200)


def test_the_same_mail_that_goes_once_is_sent_by_one_of_many(place):
    def attempt(_):
        try:
            return send(via=via, to="ann@example.com", from_="me@example.com", body="hi", once=True).state
        except MergeRefusedError:
            return "refused"
        except DeliveryError as error:
            # While another's dot is on its way nobody knows whether the mail arrived.
            return error.outcome.state

    with Server() as server, ThreadPoolExecutor(4) as pool:
        via = server.url()
        found = list(pool.map(attempt, range(4)))
        assert found.count(State.SENT) == 1
        assert set(found) <= {State.SENT, State.SKIPPED, State.IN_DOUBT, "refused"}
        assert len(server.log.mails) == 1


@pytest.mark.parametrize("moment", range(8))
def test_a_mail_that_goes_once_goes_once_whenever_another_of_it_ends_while_it_is_looked_for(
    place, monkeypatch, moment
):
    reached, released = threading.Event(), threading.Event()
    numbers = itertools.count()
    reads = postgres_store.PostgresStore.all

    async def first_waits(_):
        if not reached.is_set():
            reached.set()
            await asyncio.to_thread(released.wait, 30)

    def attempt():
        try:
            return send(via=via, to="ann@example.com", from_="me@example.com", body="hi", once=True).state
        except MergeRefusedError:
            return "refused"

    def ended_before(store, *query):
        if threading.current_thread() is threading.main_thread() and next(numbers) == moment:
            released.set()
            assert other.result(30) is State.SENT
        return reads(store, *query)

    with Server({"mail": first_waits}) as server, ThreadPoolExecutor(1) as pool:
        via = server.url()
        other = pool.submit(attempt)
        assert reached.wait(30)
        monkeypatch.setattr(postgres_store.PostgresStore, "all", ended_before)
        found = attempt()
        released.set()
        assert other.result(30) is State.SENT
        assert found in {State.SKIPPED, "refused"}
        assert len(server.log.mails) == 1


def test_a_look_says_who_sends_and_keeps_nobody_from_it(place):
    texts = []
    with Server() as server:
        merge(server, on_outcome=lambda _: texts.append(merge(server, dry_run=True).text()))
        assert all(f"process {os.getpid()} on {platform.node()}" in text for text in texts)
        assert "seems to be sent" not in merge(server, dry_run=True).text()
        assert mailed(server) == EVERYONE


def test_nothing_waits_for_ever_for_what_somebody_else_holds(place):
    run = begun(Journal(place), ROWS)
    run.journal._store._session.connection.execute("SET lock_timeout = 50")
    with raw(place) as other, other.transaction():
        other.execute("LOCK TABLE claim")
        with pytest.raises(JournalError, match=r"cannot be used.*try again"):
            run.ledger.arm(run.rows)
    run.ledger.arm(run.rows)
    run.ledger.close()
    run.journal.close()


def test_a_child_that_was_forked_holds_nothing_and_ends_nothing(place):
    run = begun(Journal(place), ROWS)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(MergeRefusedError):
            run.ledger.arm(run.rows)
            os._exit(1)
        run.journal.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    run.ledger.arm(run.rows)
    step(run, "intend")
    run.ledger.close()
    run.journal.close()


# ------------------------------------------------------------------------------------------------- a place


def shown_with_variables(error):
    """Return what a traceback of an error shows that shows the variables of our frames."""
    made = traceback.TracebackException.from_exception(error, capture_locals=True)
    made.stack = [frame for frame in made.stack if f"{os.sep}smtp_notebook{os.sep}" in frame.filename]
    assert made.stack
    return f"{error} {[(frame.name, frame.locals) for frame in made.stack]}"


@pytest.mark.parametrize(
    "typed",
    [
        "postgresql://ann:correct-horse@db.example.com/mail",
        "postgres://db.example.com/mail?password=correct-horse",
        "postgresql://ann@db.example.com/mail?sslpassword=correct-horse",
    ],
)
def test_a_password_is_not_typed_into_a_url(typed):
    for way in (Journal, Journal.to_read):
        with pytest.raises(SettingsError) as caught:
            way(typed)
        assert "correct-horse" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        "postgresql://ann:correct-horse@db.example.com:correct-horse/mail",
        "postgresql://ann:correct-horse%zz@db.example.com/mail",
        "postgresql://ann@db.example.com/mail?correct-horse=1",
    ],
)
def test_a_url_that_is_none_is_not_repeated(wrong, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_JOURNAL", wrong)
    with pytest.raises(JournalError, match="understands") as caught:
        Journal()
    assert "correct-horse" not in shown_with_variables(caught.value)


def test_a_password_of_the_environment_is_used_and_never_shown(postgres, monkeypatch):
    schema = fresh(postgres).rpartition("=")[2]
    host = f"127.0.0.1:{postgres.port}"
    whole = f"postgresql://tester:{postgres.password}@{host}/postgres?schema={schema}"
    monkeypatch.setenv("SMTP_NOTEBOOK_JOURNAL", whole)
    journal = Journal()
    shown = [repr(journal), str(journal.path), repr(journal.path), journal._repr_mimebundle_()["text/html"]]
    assert not any(postgres.password in text for text in shown)
    assert str(journal.path) == f"postgresql://tester@{host}/postgres?schema={schema}"
    assert postgres.password.encode() not in pickle.dumps(journal.path)
    # What it shows leads to the same journal, where the password comes from elsewhere.
    Journal(journal.path).close()
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    Journal(str(journal.path)).close()
    journal.close()


def test_a_wrong_password_is_said_and_not_repeated(postgres, monkeypatch):
    monkeypatch.setenv(
        "SMTP_NOTEBOOK_JOURNAL", f"postgresql://tester:correct-horse@127.0.0.1:{postgres.port}/postgres"
    )
    with Server() as server, pytest.raises(JournalError, match="password authentication failed") as caught:
        merge(server)
    assert "correct-horse" not in shown_with_variables(caught.value)
    assert "PGPASSWORD" in caught.value.fix
    assert server.log.mails == []


def test_a_password_file_and_a_service_file_are_used(postgres, monkeypatch, tmp_path):
    words = tmp_path / "pgpass"
    words.write_text(f"127.0.0.1:*:*:tester:{postgres.password}\n")
    words.chmod(0o600)
    services = tmp_path / "services"
    services.write_text(f"[mails]\nhost=127.0.0.1\nport={postgres.port}\nuser=tester\ndbname=postgres\n")
    monkeypatch.setenv("PGPASSFILE", str(words))
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    schema = fresh(postgres).rpartition("=")[2]
    with contextlib.closing(Journal(f"postgresql://?service=mails&schema={schema}")) as journal:
        assert journal.new
        assert "service=mails" in str(journal.path)
        Journal(journal.path).close()


def test_without_psycopg_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(JournalError, match=r"psycopg.*smtp_notebook\[cluster\]"):
        Journal("postgresql://db.example.com/mail")


@pytest.mark.parametrize("other", ["mysql://host/db", "sqlite:///x", "postgresql+psycopg://host/db"])
def test_another_kind_of_database_is_refused_and_no_file_is_made(other, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JournalError, match="PostgreSQL"):
        Journal(other)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["Mine", "pg_x", "a%20b", "a;drop", "x" * 64])
def test_a_schema_has_a_plain_name(name):
    with pytest.raises(JournalError, match="schema"):
        Journal(f"postgresql:///postgres?schema={name}")


def test_schemas_are_journals_of_their_own(postgres):
    name = postgres.fresh()
    one, other = Journal(url(postgres, "smtp_notebook", name)), Journal(url(postgres, "team_b", name))
    one.begin("c", scope="s", sender="x", fingerprint="y").close()
    ledger = one.begin("c", scope="s", sender="x", fingerprint="y")
    other.begin("d", scope="s", sender="x", fingerprint="y").close()
    assert (one.campaign_names(), other.campaign_names()) == (["c"], ["d"])
    assert "schema" not in str(one.path)
    other.begin("c", scope="s", sender="x", fingerprint="y").close()
    ledger.close()
    one.close()
    other.close()


def test_a_look_makes_no_journal_and_changes_none(place):
    assert Journal.to_read(place) is None
    with Server() as server:
        assert "is new" not in merge(server, dry_run=True).text()
        assert Journal.to_read(place) is None
        merge(server)
    with contextlib.closing(Journal.to_read(place)) as journal:
        assert journal.report("c").counts == {State.SENT: 5}
        with pytest.raises(JournalError, match="read-only"):
            journal.forget("c")


def test_a_newer_journal_is_refused_and_an_older_one_is_not_read(place):
    Journal(place).close()
    with raw(place) as db:
        db.execute("INSERT INTO form VALUES (99)")
        for way in (Journal, Journal.to_read):
            with pytest.raises(JournalError, match="newer"):
                way(place)
        db.execute("DELETE FROM form")
        with pytest.raises(JournalError, match="older"):
            Journal.to_read(place)


def test_who_may_not_make_it_is_told_what_to_ask_for(postgres):
    name = postgres.fresh()
    with postgres.connect() as db:
        db.execute("DROP ROLE IF EXISTS guest")
        db.execute("CREATE ROLE guest LOGIN")
    as_guest = url(postgres, "smtp_notebook", name).replace("tester@", "guest@")
    with pytest.raises(JournalError, match=r"permission denied.*schema 'smtp_notebook'"):
        Journal(as_guest)
    Journal(url(postgres, "smtp_notebook", name)).close()
    with postgres.connect(name) as db:
        # It needs no right to make a schema that is there.
        db.execute("GRANT USAGE ON SCHEMA smtp_notebook TO guest")
        db.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA smtp_notebook TO guest")
    run = begun(Journal(as_guest), ROWS)
    step(run, "intend")
    step(run, "record")
    run.ledger.close()
    run.journal.close()


def test_a_database_that_cannot_hold_every_letter_is_refused(postgres):
    with postgres.connect() as db:
        db.execute("CREATE DATABASE narrow ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    with pytest.raises(JournalError, match="LATIN1"):
        Journal(url(postgres, "smtp_notebook", "narrow"))


def test_the_doctor_looks_at_it(place):
    def said():
        return next(step for step in machine.machine().steps if step.name == "journal").text

    assert "none yet" in said()
    Journal(place).close()
    assert "intact, 0 mailings" in said()


@pytest.mark.parametrize("order", [1, -1, 7], ids=["planned", "reversed", "mixed"])
def test_what_is_known_is_the_same_in_any_order_and_read_ahead_in_that_of_the_plan(place, monkeypatch, order):
    with contextlib.closing(Journal(place)) as journal:
        ledger = journal.begin("c", scope="s", sender="x", fingerprint="y")
        keys = [f"k{n}" for n in range(600)]
        ledger.plan([(key, n, b"d", *planned((f"{key}@example.com",), "", ())) for n, key in enumerate(keys)])
        ledger.close()
        ledger = journal.begin("c", scope="s", sender="x", fingerprint="y")
        asked = []
        real = postgres_store.PostgresStore.all
        monkeypatch.setattr(postgres_store.PostgresStore, "all", lambda *a: asked.append(a[1]) or real(*a))
        for n in range(600):
            number = n * order % 600
            known = ledger.known(keys[number])
            assert (known.key, known.outcome.row, known.state) == (keys[number], number, State.PLANNED)
        assert ledger.known("nobody") is None
        assert (len(asked) < 20) == (order == 1)
        ledger.close()


def test_a_damaged_record_that_was_read_ahead_stops_no_one_who_does_not_ask_for_it(place):
    with Server() as server:
        merge(server)
        with raw(place) as db:
            db.execute("UPDATE record SET status=201 WHERE key='u3@example.com'")
        assert merge(server, rows=ROWS[:3]).counts == {State.SKIPPED: 3}
        with pytest.raises(JournalError, match="checksum"):
            merge(server)


# --------------------------------------------------------------------------------------------------- text


@drawn(st.text(st.characters(codec=None) | st.sampled_from("\x00\x1a\ud800\udfff0a")))
def test_text_that_postgresql_does_not_take_comes_back_as_it_was(text):
    written = escaped(text)
    written.encode()
    assert "\x00" not in written
    assert unescaped(written) == text


def test_keys_and_reasons_of_any_letters_break_no_run(place):
    odd = [
        "nul \x00 in it",
        "half \ud83d of it",
        "\x1a001a",
        "ä\U0001f600",
        "%s ? %(x)s",
        "'; DROP TABLE record; --",
    ]
    with contextlib.closing(Journal(place)) as journal:
        ledger = journal.begin("odd \x00 one", scope="s", sender="x", fingerprint="y")
        rows = [
            (key, n, b"\x00\xff", *packed(Outcome(state=State.INVALID, key=key, reason=key)))
            for n, key in enumerate(odd)
        ]
        ledger.plan(rows)
        ledger.close()
        assert [(o.key, o.reason) for o in journal.report("odd \x00 one")] == [(key, key) for key in odd]
        assert all(journal.known(1, key).key == key for key in odd)
        assert [c.name for c in journal.campaigns()] == ["odd \x00 one"]
        book = Watchbook(journal, "w")
        book.begin({"at": "\x00"}, odd, "now")
        assert book.standing(odd) == dict.fromkeys(odd, BEFORE)
        assert book.cursor == {"at": "\x00"}


# --------------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize(
    ("seeds", "rows"), [(1, 150), pytest.param(8, 1000, marks=[pytest.mark.slow, pytest.mark.timeout(400)])]
)
def test_killed_merges_mail_nobody_twice_and_lose_no_row(postgres, seeds, rows):
    for seed in range(seeds):
        count = run_seed(seed, rows, postgres)
        assert (count.duplicates, count.unaccounted, count.too_much_doubt) == (0, 0, 0), count
        assert count.kills >= 1, count


def test_a_url_is_equal_to_another_of_the_same_place():
    one, other = (
        DatabaseURL(f"postgresql://ann{p}@db.example.com:5432/mail", typed=False) for p in ("", ":x")
    )
    assert one == other
    assert len({one, other}) == 1
    assert other.settings()["password"] == "x"
