"""A merge over a Dask cluster: what it promises of mails, rows and secrets, with real workers, servers and PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import email.utils
import gc
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import databases
import psycopg
import pytest
from begun import begun, cut
from databases import running_postgres
from distributed import Client, Future, LocalCluster
from journals import fresh
from mailservers import until
from scripted import ACCEPT_DROP, Gate, Server

from smtp_notebook import (
    Connection,
    Dkim,
    Journal,
    JournalError,
    MergeRefusedError,
    PreflightError,
    Report,
    SecretError,
    State,
    Variants,
    amail_merge,
    cluster,
    mail_merge,
    parcels,
    postgres_store,
    showing,
    suppress,
    times,
    workers,
)
from smtp_notebook import merge as merges
from smtp_notebook.connection import keep_secret
from smtp_notebook.jobs import MergeJob
from smtp_notebook.merge import Run
from smtp_notebook.places import given

ROWS = [{"Email": f"u{i}@example.com", "n": i} for i in range(60)]
#: What repeats another test, or needs a while.
SLOW = pytest.mark.slow
#: How much quicker than a clock the client's time runs where something waits.
QUICK = 100.0


#: Of connections to processes that were killed, Dask leaves sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def running():
    """A cluster of two processes."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL
    ) as found:
        yield found
    gc.collect()  # what it left is met here, and not in another file's test


@pytest.fixture(scope="module")
def client(running):
    """The client of the cluster, which has both workers."""
    with Client(running) as found:
        found.wait_for_workers(2, timeout=60)
        yield found


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Have the client's time run faster: nobody waits for another try."""

    async def pause(seconds):
        await asyncio.sleep(seconds / QUICK)

    monkeypatch.setattr(merges, "PAUSE", pause)
    monkeypatch.setattr(merges, "CLOCK", lambda: time.monotonic() * QUICK)


@pytest.fixture
def place(postgres):
    """The URL of a journal that is not there yet."""
    return fresh(postgres)


@contextlib.contextmanager
def raw(where):
    """A connection to the schema of a journal, beside it."""
    found = given(where)
    with psycopg.connect(**found.settings(), autocommit=True) as db:
        db.execute(f"SET search_path = {found.schema}")
        yield db


def merge(frame, server, place, client, **more):
    """Merge over the cluster, as a test wants it different."""
    settings = more.pop("settings", {})
    options = {
        "subject": "Hi {{ n }}",
        "from_": "me@example.com",
        "campaign": "c",
        "progress": False,
        "via": Connection.from_url(server.url(), **settings),
        "journal": place,
        "executor": client,
    }
    options |= more
    return mail_merge(frame, options.pop("template", "Hello {{ n }}"), **options)


def went(server):
    """Return how many mails each address got."""
    return Counter(r for mail in server.log.mails for r in mail.recipients)


def once(rows):
    return Counter(row["Email"] for row in rows)


def states(report):
    return Counter(outcome.state for outcome in report)


def bodies(server):
    """Return the mails without what is each one's own: its time and its number."""
    own = (b"Date:", b"Message-ID:")
    return sorted(
        b"\n".join(line for line in mail.content.splitlines() if not line.startswith(own))
        for mail in server.log.mails
    )


# ------------------------------------------------------------------------------------------- frames


def pandas_frame(rows):
    import pandas as pd

    return pd.DataFrame(rows, index=[f"r{i}" for i in range(len(rows))])


def polars_frame(rows):
    import polars

    return polars.DataFrame(rows)


def dask_frame(rows):
    """Partitions of several lengths, one of them empty, with an index that begins anew in each."""
    import dask.dataframe as dd
    import pandas as pd

    whole = pd.DataFrame(rows)
    pieces = [whole.iloc[:7], whole.iloc[7:7], whole.iloc[7:50], whole.iloc[50:]]
    return dd.from_map(lambda piece: piece.reset_index(drop=True), pieces, meta=whole.iloc[:0])


@pytest.mark.parametrize(
    "made", [list, dask_frame, pytest.param(pandas_frame, marks=SLOW), pytest.param(polars_frame, marks=SLOW)]
)
def test_of_every_frame_each_row_is_mailed_once_and_reported_in_order(client, place, made):
    with Server() as server:
        report = merge(made(ROWS), server, place, client)
    assert went(server) == once(ROWS)
    assert [o.row for o in report] == list(range(60))
    assert [o.key for o in report] == [row["Email"] for row in ROWS]
    assert states(report) == {State.SENT: 60}
    assert report.notes == ()
    if made is pandas_frame:
        assert list(report.to_frame().index)[-1] == "r59"


def test_the_mails_are_those_that_leave_without_a_cluster(client, place, postgres):
    with Server() as here, Server() as there:
        merge(ROWS, there, place, client, format="text")
        merge(ROWS, here, fresh(postgres), None, format="text")
    assert bodies(here) == bodies(there)


def test_what_another_run_finds_is_the_same_mail_with_and_without_a_cluster(client, place):
    with Server() as server:
        merge(ROWS[:30], server, place, client)
        report = merge(ROWS, server, place, None)
        again = merge(ROWS, server, place, client)
    assert went(server) == once(ROWS)
    assert states(report) == {State.SKIPPED: 30, State.SENT: 30}
    assert states(again) == {State.SKIPPED: 60}
    assert not [o.warnings for o in (*report, *again) if o.warnings]


@SLOW
def test_a_dask_frame_without_rows_sends_nothing(client, place):
    with Server() as server:
        report = merge(dask_frame(ROWS).query("n > 99"), server, place, client)
    assert len(report) == 0
    assert not server.log.mails


# -------------------------------------------------------------------------------------------- check

BAD = [
    *ROWS[:30],
    {"Email": "nobody", "n": 30},
    *ROWS[31:58],
    {"Email": "u2@EXAMPLE.com", "n": 58},
    {"Email": None, "n": 59},
]


def said(report):
    return [(o.row, o.key, o.state, o.reason, o.fix, o.warnings) for o in report]


def test_every_row_is_checked_before_the_first_leaves_and_problems_read_as_without_a_cluster(
    client, place, postgres
):
    with Server() as server:
        with pytest.raises(PreflightError) as there:
            merge(BAD, server, place, client)
        with pytest.raises(PreflightError) as here:
            merge(BAD, server, fresh(postgres), None)
    assert not server.log.mails
    assert str(there.value) == str(here.value)
    assert said(there.value.report) == said(here.value.report)
    assert len(there.value.report.failures) == 3


@SLOW
def test_with_on_problem_skip_the_good_rows_leave(client, place):
    with Server() as server:
        report = merge(BAD, server, place, client, on_problem="skip")
    assert states(report) == {State.SENT: 57, State.INVALID: 3}
    assert went(server).total() == 57


@pytest.mark.parametrize("campaign", [pytest.param("", marks=SLOW), "c"])
def test_a_dry_run_sends_nothing_and_makes_no_journal(client, place, campaign):
    with Server() as server:
        report = merge(ROWS, server, place, client, campaign=campaign, dry_run=True)
        assert states(report) == {State.PLANNED: 60}
        assert not server.log.connections
        assert states(merge(ROWS, server, place, client)) == {State.SENT: 60}


@SLOW
def test_a_dry_run_tells_what_a_campaign_has_already(client, place):
    with Server() as server:
        merge(ROWS[:20], server, place, client)
        report = merge(ROWS, server, place, client, dry_run=True)
    assert states(report) == {State.PLANNED: 40, State.SKIPPED: 20}


@SLOW
def test_limit_sends_so_many_and_the_next_run_the_others(client, place):
    with Server() as server:
        assert states(merge(ROWS, server, place, client, limit=13)) == {State.SENT: 13, State.PLANNED: 47}
        assert states(merge(ROWS, server, place, client)) == {State.SENT: 47, State.SKIPPED: 13}
    assert went(server) == once(ROWS)


@pytest.mark.parametrize("limit", [3, pytest.param(45, marks=SLOW)])
def test_a_trial_of_some_rows_looks_at_no_part_beyond_them(client, place, limit):
    with Server() as server:
        report = merge(ROWS, server, place, client, test_to="me@example.org", limit=limit)
    assert states(report) == {State.SENT: limit}
    assert went(server) == {"me@example.org": limit}


@pytest.mark.parametrize("where", ["test_to", pytest.param("redirect_to", marks=SLOW)])
def test_a_trial_goes_to_one_address_and_counts_for_nobody(client, place, where):
    more = (
        {"test_to": "me@example.org"}
        if where == "test_to"
        else {"settings": {"redirect_to": "me@example.org"}}
    )
    with Server() as server:
        report = merge(ROWS, server, place, client, **more)
        assert went(server) == {"me@example.org": 60}
        assert states(report) == {State.SENT: 60}
        assert report.trial
        assert states(merge(ROWS, server, place, client)) == {State.SENT: 60}


@SLOW
def test_a_crash_of_a_function_of_the_template_is_that_rows_problem(client, place):
    def odd(n):
        if n == 37:
            raise RuntimeError("no such thing")
        return n

    with Server() as server, pytest.raises(PreflightError) as caught:
        merge(ROWS, server, place, client, template="{{ odd(n) }}", values={"odd": odd})
    assert [o.row for o in caught.value.report.failures] == [37]
    assert "no such thing" in caught.value.report.failures[0].reason


# -------------------------------------------------------------------------------------------- again


def test_run_again_nothing_goes_twice_and_no_row_is_printed_again(client, place, tmp_path):
    log = tmp_path / "printed"

    def noted(n):
        with log.open("a") as file:
            file.write(f"{n}\n")
        return n

    more = {"template": "Hello {{ noted(n) }}", "values": {"noted": noted}}
    with Server() as server:
        merge(ROWS[:40], server, place, client, **more)
        log.unlink()
        report = merge(ROWS, server, place, client, **more)
    assert states(report) == {State.SKIPPED: 40, State.SENT: 20}
    assert went(server) == once(ROWS)
    assert set(map(int, log.read_text().split())) == set(range(40, 60))


@SLOW
def test_another_text_is_refused_unless_the_rest_is_to_have_it(client, place):
    with Server() as server:
        merge(ROWS[:40], server, place, client)
        with pytest.raises(MergeRefusedError, match="changed"):
            merge(ROWS, server, place, client, template="Bye {{ n }}")
        report = merge(ROWS, server, place, client, template="Bye {{ n }}", changed="send-rest")
    assert states(report) == {State.SKIPPED: 40, State.SENT: 20}
    assert went(server) == once(ROWS)


@SLOW
def test_key_columns_tell_rows_of_one_address_apart(client, place):
    rows = [{"Email": "a@example.com", "n": i} for i in range(60)]
    with Server() as server:
        report = merge(rows, server, place, client, key=["n"])
        assert states(report) == {State.SENT: 60}
        assert states(merge(rows, server, place, client, key=["n"])) == {State.SKIPPED: 60}
    assert went(server) == {"a@example.com": 60}


def test_what_a_partial_row_lacks_goes_to_those_alone_who_lack_it(client, place):
    rows = [{"Email": f"u{i}@example.com", "n": i} for i in range(30)]
    both = {"cc": "v{{ n }}@example.com"}

    def refuse(argument):
        return "452 4.2.2 full" if "v7@" in argument else None

    with Server({"rcpt": refuse}) as server:
        first = merge(rows, server, place, client, **both)
        assert states(first) == {State.SENT: 29, State.PARTIAL: 1}
        server.heal()
        second = merge(rows, server, place, client, **both)
    assert states(second) == {State.SENT: 1, State.SKIPPED: 29}
    assert set(went(server).values()) == {1}
    assert went(server)["v7@example.com"] == 1


def test_a_refused_row_is_not_sent_unchanged_and_one_in_doubt_stays(client, place):
    def answer(met):
        return {"u3@example.com": "550 5.1.1 nobody", "u5@example.com": ACCEPT_DROP}.get(met.strip("<>"))

    with Server({"dot": answer}) as server:
        first = merge(ROWS, server, place, client)
        server.heal()
        second = merge(ROWS, server, place, client)
    assert [o.row for o in first if o.state is State.REFUSED] == [3]
    assert 5 in [o.row for o in first if o.state is State.IN_DOUBT]
    doubts = [o.row for o in second if o.state is State.IN_DOUBT]
    assert doubts == [o.row for o in first if o.state is State.IN_DOUBT]
    assert max(went(server).values()) == 1


# ------------------------------------------------------------------------------------------- retries


def greylisting():
    seen = set()

    def answer(argument):
        if argument in seen:
            return None
        seen.add(argument)
        return "451 4.7.1 come back"

    return answer


def test_a_greylisted_row_is_tried_again_and_sent_once(client, place):
    with Server({"rcpt": greylisting()}) as server:
        report = merge(ROWS, server, place, client)
    assert states(report) == {State.SENT: 60}
    assert {o.attempts for o in report} == {2}
    assert went(server) == once(ROWS)


@SLOW
def test_attempts_holds_over_all_workers(client, place):
    with Server({"rcpt": "451 4.7.1 come back"}) as server:
        report = merge(ROWS[:6], server, place, client, settings={"attempts": 2})
        asked = Counter(c for c in server.log.commands if c.startswith("RCPT"))
    assert {(o.state, o.attempts) for o in report} == {(State.DEFERRED, 2)}
    assert set(asked.values()) == {2}


@pytest.fixture
def quick_workers(client):
    """Have no worker wait for another try either."""

    def exchange(pause):
        from smtp_notebook import merge

        before, merge.PAUSE = merge.PAUSE, pause or merge.BEFORE
        merge.BEFORE = before

    async def at_once(_seconds):
        return None

    client.run(exchange, at_once)
    yield
    client.run(exchange, None)


@SLOW
def test_a_trial_waits_for_its_retries_itself(client, place, quick_workers):
    with Server({"rcpt": greylisting()}) as server:
        report = merge(ROWS[:4], server, place, client, test_to="me@example.org", settings={"attempts": 2})
    assert Counter(o.state for o in report)[State.SENT] == 4


def test_a_server_that_is_down_is_said_once_and_no_row_is_lost(client, place):
    with Server() as server:
        url = server.url()
    report = merge(ROWS, server, place, client, via=Connection.from_url(url, attempts=2))
    assert set(states(report)) == {State.PLANNED, State.DEFERRED}
    assert len(report) == 60
    assert len([n for n in report.notes if "could not be reached" in n]) == 1
    with Server() as server:
        assert states(merge(ROWS, server, place, client)) == {State.SENT: 60}


def test_what_is_refused_for_the_whole_merge_is_met_by_one_worker(client, place):
    with Server({"mail": "550 5.7.1 you are blocked"}) as server:
        report = merge(ROWS, server, place, client)
    assert len([c for c in server.log.commands if c.startswith("MAIL")]) <= 14
    assert states(report) == {State.REFUSED: 10, State.PLANNED: 50}
    assert report.notes[0].startswith("The server refused the first 10 mails")


@SLOW
def test_a_server_that_closes_after_some_mails_loses_no_row(client, place):
    with Server(most_mails=(5, "421 4.7.0 enough on this connection")) as server:
        report = merge(ROWS, server, place, client)
    assert states(report) == {State.SENT: 60}
    assert went(server) == once(ROWS)


# ------------------------------------------------------------------------------------------- secrets


@pytest.fixture
def handed(client, monkeypatch):
    """What the cluster is given, as it crosses to it."""
    from distributed.protocol.pickle import dumps

    found = []
    submit = client.submit

    def noted(function, *args, **more):
        found.append(dumps((function, [a for a in args if not isinstance(a, Future)], more)))
        return submit(function, *args, **more)

    monkeypatch.setattr(client, "submit", noted)
    return found


PASSWORD = "correct-horse"


def variable(client, name, value):
    def change():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value

    client.run(change)


def test_a_password_of_the_environment_is_looked_up_by_each_worker_and_crosses_nowhere(
    client, place, handed, monkeypatch
):
    monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", PASSWORD)
    variable(client, "SMTP_NOTEBOOK_PASSWORD", PASSWORD)
    try:
        with Server(login=("me", PASSWORD)) as server:
            report = merge(ROWS, server, place, client, via=Connection.from_url(server.url(user="me")))
    finally:
        variable(client, "SMTP_NOTEBOOK_PASSWORD", None)
    assert states(report) == {State.SENT: 60}
    assert len(handed) > 3
    assert not [each for each in handed if PASSWORD.encode() in each]


def test_a_password_that_only_this_process_has_is_refused_before_a_mail_leaves(client, place, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", PASSWORD)
    with (
        Server(login=("me", PASSWORD)) as server,
        pytest.raises(SecretError, match="On the worker") as caught,
    ):
        merge(ROWS, server, place, client, via=Connection.from_url(server.url(user="me")))
    assert "SMTP_NOTEBOOK_PASSWORD of its own" in caught.value.fix
    assert not server.log.connections


def test_a_password_that_is_nowhere_a_worker_could_look_is_refused_by_name(client, place, handed):
    with Server(login=("me", PASSWORD)) as server:
        via = Connection.from_url(server.url(user="me"), password=lambda: PASSWORD)
        with pytest.raises(MergeRefusedError, match="The password comes from"):
            merge(ROWS, server, place, client, via=via)
    assert not handed


def test_a_wrong_password_is_tried_once_and_not_by_each_worker(client, place, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", PASSWORD)
    variable(client, "SMTP_NOTEBOOK_PASSWORD", "another")
    try:
        with Server(login=("me", PASSWORD)) as server:
            report = merge(ROWS, server, place, client, via=Connection.from_url(server.url(user="me")))
    finally:
        variable(client, "SMTP_NOTEBOOK_PASSWORD", None)
    assert len([c for c in server.log.commands if c.startswith("AUTH")]) == 1
    assert report.notes == ("The login failed: 535 5.7.8 wrong user or password",)
    assert len(report.failures) <= 10


@pytest.mark.parametrize("same", [True, False])
def test_the_password_of_a_url_is_looked_up_where_the_url_is_the_same(
    client, place, handed, monkeypatch, same
):
    with Server(login=("me", PASSWORD)) as server:
        url = f"smtp+plain://me:{PASSWORD}@127.0.0.1:{server.port}"
        monkeypatch.setenv("SMTP_NOTEBOOK_URL", url)
        variable(client, "SMTP_NOTEBOOK_URL", url if same else "smtp+plain://me:another@mail.example.com")
        try:
            if same:
                assert states(merge(ROWS, server, place, client, via=None)) == {State.SENT: 60}
            else:
                with pytest.raises(SecretError, match="SMTP_NOTEBOOK_URL"):
                    merge(ROWS, server, place, client, via=None)
                assert not server.log.connections
        finally:
            variable(client, "SMTP_NOTEBOOK_URL", None)
    assert not [each for each in handed if PASSWORD.encode() in each]


@SLOW
def test_workers_sign_with_a_key_that_they_read_themselves(client, place, handed, tmp_path):
    path = tmp_path / "key.pem"
    made = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)]
    subprocess.run(made, check=True, capture_output=True)
    key = Dkim(domain="example.com", selector="s1", key_file=str(path))
    with Server() as server:
        report = merge(ROWS[:30], server, place, client, settings={"dkim": key})
        assert states(report) == {State.SENT: 30}
        assert all(b"DKIM-Signature:" in mail.content for mail in server.log.mails)
    secret = path.read_text(encoding="ascii").splitlines()[1].encode()
    assert not [each for each in handed if secret in each]


def test_a_token_of_a_function_is_refused_by_name(client, place, handed):
    with Server(login=("me", PASSWORD)) as server, pytest.raises(MergeRefusedError, match="oauth") as caught:
        merge(
            ROWS,
            server,
            place,
            client,
            via=Connection.from_url(server.url(user="me"), oauth=lambda: "token-of-me"),
        )
    assert not handed
    assert "token-of-me" not in str(caught.value)


def test_the_journals_password_crosses_nowhere_and_no_scheduler_looks_it_up(
    client, postgres, handed, monkeypatch
):
    schema = fresh(postgres).rpartition("=")[2]
    url = f"postgresql://tester:{postgres.password}@127.0.0.1:{postgres.port}/postgres?schema={schema}"
    monkeypatch.setenv("SMTP_NOTEBOOK_JOURNAL", url)
    variable(client, "SMTP_NOTEBOOK_JOURNAL", url)
    try:
        with Server() as server:
            report = merge(ROWS, server, None, client)
    finally:
        variable(client, "SMTP_NOTEBOOK_JOURNAL", None)
    assert states(report) == {State.SENT: 60}
    assert not [each for each in handed if postgres.password.encode() in each]
    # A scheduler unpickles what it passes on, and has none of the variables that workers have.
    monkeypatch.delenv("SMTP_NOTEBOOK_JOURNAL")
    for each in handed:
        pickle.loads(each)


def test_a_worker_that_lacks_the_journals_variable_is_said_in_a_sentence(client, postgres, monkeypatch):
    url = f"postgresql://tester:{postgres.password}@127.0.0.1:{postgres.port}/postgres?schema=none"
    monkeypatch.setenv("SMTP_NOTEBOOK_JOURNAL", url)
    with (
        Server() as server,
        pytest.raises(JournalError, match="SMTP_NOTEBOOK_JOURNAL of this process") as caught,
    ):
        merge(ROWS, server, None, client)
    assert postgres.password not in str(caught.value)
    assert not server.log.connections


# ------------------------------------------------------------------------------------------ refusals


def test_what_a_cluster_cannot_do_is_refused_by_name(client, place, tmp_path):
    with Server() as server:
        with pytest.raises(MergeRefusedError, match="is a file"):
            merge(ROWS, server, tmp_path / "j.sqlite3", client)
        with pytest.raises(MergeRefusedError, match="executor=client"):
            merge(dask_frame(ROWS), server, place, None)
    assert not server.log.connections


@pytest.mark.parametrize("campaign", ["big", ""])
def test_a_dry_run_needs_no_database_and_says_that_sending_does(client, tmp_path, campaign):
    with Server() as server:
        report = merge(ROWS, server, tmp_path / "j.sqlite3", client, dry_run=True, campaign=campaign)
    assert report.counts == {State.PLANNED: 60}
    assert any("share a journal in PostgreSQL" in note for note in report.notes)
    assert not server.log.connections


def test_what_cannot_cross_to_a_worker_is_named(client, place):
    lock = threading.Lock()
    odd = [{"Email": "a@example.com", "n": lock}]
    with Server() as server:
        with pytest.raises(
            MergeRefusedError, match=r"^values\['lock'\] cannot be sent to the workers: TypeError"
        ):
            merge(ROWS, server, place, client, values={"fine": 1, "lock": lock})
        with pytest.raises(MergeRefusedError, match=r"^send_at= cannot be sent"):
            merge(ROWS, server, place, client, send_at=lambda _: lock)
        with pytest.raises(MergeRefusedError, match=r"^The frame cannot be sent"):
            merge(odd, server, place, client)
        # The campaign is free again.
        assert states(merge(ROWS, server, place, client)) == {State.SENT: 60}


def test_an_executor_that_is_no_client_works_as_before(client, place, postgres):
    with Server() as server, ThreadPoolExecutor(2) as pool:
        for executor in (pool, client.get_executor()):
            report = merge(
                ROWS[:10],
                server,
                fresh(postgres),
                executor,
                template="Hello {{ twice(n) }}",
                values={"twice": lambda n: 2 * n},
            )
            assert states(report) == {State.SENT: 10}


def test_nobody_is_asked_by_a_worker_and_what_the_keyring_here_has_is_no_password_there(
    client, place, drawer, handed
):
    with Server(login=("me", PASSWORD)) as server:
        via = Connection.from_url(server.url(user="me"))
        keep_secret(f"me@127.0.0.1:{server.port}", PASSWORD, "SMTP_NOTEBOOK_PASSWORD")
        with pytest.raises(SecretError, match="the keyring of its own, and asks nobody"):
            merge(ROWS, server, place, client, via=via)
    assert handed
    assert not server.log.connections
    assert not [each for each in handed if PASSWORD.encode() in each]


# ----------------------------------------------------------------------------------- while it is sent


@SLOW
def test_on_outcome_is_called_here_once_for_each_row(client, place):
    told = []
    with Server() as server:
        merge(
            ROWS,
            server,
            place,
            client,
            on_outcome=lambda o: told.append((o.key, o.state, threading.current_thread())),
        )
    assert Counter(key for key, *_ in told) == once(ROWS)
    assert {state for _, state, _ in told} == {State.SENT}
    assert {thread for *_, thread in told} == {threading.current_thread()}


def test_an_error_of_on_outcome_ends_the_run_in_order(client, place):
    def crash(_):
        raise ZeroDivisionError("mine")

    with Server() as server:
        with pytest.raises(ZeroDivisionError, match="mine"):
            merge(ROWS, server, place, client, on_outcome=crash)
        first = Report.last()
        second = merge(ROWS, server, place, client)
    assert went(server) == once(ROWS)
    assert not states(first)[State.IN_DOUBT]
    assert states(second) == {
        State.SKIPPED: states(first)[State.SENT],
        State.SENT: states(first)[State.PLANNED],
    }


def test_an_interrupt_ends_it_in_order_and_the_report_is_right(client, place, interruptible):
    def interrupt(_):
        os.kill(os.getpid(), signal.SIGINT)

    with Server() as server:
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            merge(ROWS, server, place, client, on_outcome=interrupt)
        took = time.monotonic() - began
        first = Report.last()
        sent = {o.key for o in first if o.state is State.SENT}
        assert sent == set(went(server))
        merge(ROWS, server, place, client)
    assert took < 8
    assert went(server) == once(ROWS)


@pytest.fixture
def mortal(client):
    """Have an interrupt end workers, as it does where the tests' own shell does not have them ignore it."""

    def exchange():
        before, signal.before = signal.before, None
        signal.signal(signal.SIGINT, before)

    def keep():
        signal.before = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    client.run(keep)
    yield lambda: set(client.run(lambda: signal.getsignal(signal.SIGINT).__qualname__).values())
    client.run(exchange, on_error="ignore")


def test_an_interrupt_that_reaches_the_workers_too_as_jupyters_does_ends_none_of_them(
    client, running, place, interruptible, mortal
):
    def interrupt(outcome):
        if outcome.row == 0:
            for worker in running.workers.values():
                os.kill(worker.pid, signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    had = {worker.pid for worker in running.workers.values()}
    with Server() as server:
        with pytest.raises(KeyboardInterrupt):
            merge(ROWS, server, place, client, on_outcome=interrupt)
        first = Report.last()
        assert {o.key for o in first if o.state is State.SENT} == set(went(server))
        merge(ROWS, server, place, client)
    assert not first.in_doubt
    assert went(server) == once(ROWS)
    assert {worker.pid for worker in running.workers.values()} == had
    assert mortal() == {"default_int_handler"}


def test_who_is_suppressed_during_the_run_is_left_out_of_the_batches_to_come(client, place):
    def asked(outcome):
        if outcome.row == 0:
            suppress("u59@example.com")

    with Server() as server:
        report = merge(ROWS, server, place, client, on_outcome=asked)
    assert states(report) == {State.SENT: 59, State.SKIPPED: 1}
    assert "u59@example.com" not in went(server)
    assert report.suppressed == 1


@SLOW
def test_awaited_it_sends_the_same(client, place):
    async def run(server):
        return await amail_merge(
            ROWS, "Hello {{ n }}", subject="Hi", from_="me@example.com", campaign="c", progress=False,
            via=Connection.from_url(server.url()), journal=place, executor=client,
        )  # fmt: skip

    with Server() as server:
        assert states(asyncio.run(run(server))) == {State.SENT: 60}
    assert went(server) == once(ROWS)


@pytest.mark.parametrize("most", [1, pytest.param(2, marks=SLOW), pytest.param(3, marks=SLOW)])
def test_all_workers_together_never_have_more_connections_than_the_server_allows(client, place, most):
    with Server(most_connections=most) as server:
        report = merge(ROWS, server, place, client, settings={"max_connections": most})
    assert states(report) == {State.SENT: 60}
    assert server.log.turned_away == 0
    assert server.log.connections >= min(most, 2) or most == 1


def test_a_job_sends_over_a_cluster_and_can_be_stopped(client, place):
    gate = Gate()

    async def hold(met):
        if met.strip("<>") == "u20@example.com":
            await gate.held()

    with Server({"dot": hold}) as server:
        job = MergeJob(
            ROWS, "Hello {{ n }}", subject="Hi", from_="me@example.com", campaign="c",
            via=Connection.from_url(server.url()), journal=place, executor=client,
        )  # fmt: skip
        job.send()
        assert gate.reached.wait(30)
        job.stop()
        gate.open()
        job.wait(30)
        report = job.progress.report
        assert set(went(server)) == {o.key for o in report if o.state is State.SENT}
        merge(ROWS, server, place, client, template="Hello {{ n }}", subject="Hi")
    assert went(server) == once(ROWS)


def printing(log, seconds):
    """Return a function for a template that takes its time, and notes each row that it was called for."""

    def slow(n):
        with log.open("a") as file:
            file.write(f"{n}\n")
        time.sleep(seconds)
        return n

    return slow


def test_a_job_that_is_stopped_while_workers_print_ends_at_once_and_so_do_they(client, place, tmp_path):
    log = tmp_path / "printed"
    with Server() as server:
        job = MergeJob(
            [row | {"n": i} for i, row in enumerate(ROWS * 3)], "{{ slow(n) }}", subject="Hi", from_="me@example.com", campaign="c", key="n",
            via=Connection.from_url(server.url()), journal=place, executor=client,
            values={"slow": printing(log, 0.2)},
        )  # fmt: skip
        job.send()
        until(log.exists, 30, "a row is printed")
        job.stop()
        began = time.monotonic()
        assert job.wait(30).phase == "stopped"
        # Whoever comes next does not wait for rows that nobody wants any more.
        client.run(int)
        client.submit(int, pure=False).result(timeout=30)
        assert time.monotonic() - began < 1.5
        assert not server.log.connections
    assert len(log.read_text().split()) < 100


def test_a_task_that_begins_when_its_merge_is_over_does_nothing():
    workers.close("a merge")
    with pytest.raises(MergeRefusedError, match="is over"):
        workers.check(parcels.Sealed("a merge", b""), [])
    assert not workers._STATIONS


@SLOW
def test_a_job_tells_how_far_it_is_and_a_second_send_goes_on(client, place):
    told = []
    with Server() as server:
        job = MergeJob(
            ROWS, "Hello {{ n }}", subject="Hi", from_="me@example.com", campaign="c", limit=20, tell=told.append,
            via=Connection.from_url(server.url()), journal=place, executor=client,
        )  # fmt: skip
        job.check()
        assert (job.wait(30).due, job.progress.phase) == (20, "checked")
        job.send(expected=20)
        assert (job.wait(30).sent, job.progress.phase) == (20, "done")
        job.change(limit=None)
        job.send()
        assert (job.wait(30).sent, job.progress.skipped) == (40, 20)
    assert went(server) == once(ROWS)
    assert {"checking", "checked", "sending", "done"} <= {str(p.phase) for p in told}


@SLOW
def test_awaited_and_cancelled_it_ends_in_order(client, place):
    gate = Gate()

    async def hold(met):
        if met.strip("<>") == "u20@example.com":
            await gate.held()

    async def run(server):
        work = asyncio.ensure_future(
            amail_merge(
                ROWS, "Hello {{ n }}", subject="Hi {{ n }}", from_="me@example.com", campaign="c", progress=False,
                via=Connection.from_url(server.url()), journal=place, executor=client,
            )
        )  # fmt: skip
        await asyncio.to_thread(gate.reached.wait, 30)
        work.cancel()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await work

    with Server({"dot": hold}) as server:
        asyncio.run(run(server))
        first = Report.last()
        assert {o.key for o in first.sent} == set(went(server))
        merge(ROWS, server, place, client)
    assert len(first) == 60
    assert went(server) == once(ROWS)


@pytest.mark.parametrize(
    "kind", [pytest.param("fixed", marks=SLOW), pytest.param("column", marks=SLOW), "function"]
)
def test_rows_whose_time_has_not_come_wait(client, place, kind):
    later, now = dt.datetime(2999, 1, 1, tzinfo=dt.UTC), dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
    rows = [row | {"when": later if row["n"] < 20 else now} for row in ROWS]
    given = {"fixed": later, "column": "when", "function": lambda row: row["when"]}[kind]
    with Server() as server:
        report = merge(rows, server, place, client, send_at=given)
    waiting = 60 if kind == "fixed" else 20
    assert report.waiting == waiting
    assert states(report)[State.SENT] == 60 - waiting


@SLOW
def test_rows_that_have_expired_are_not_sent(client, place):
    past = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
    rows = [row | {"until": past if row["n"] < 20 else None} for row in ROWS]
    with Server() as server:
        report = merge(rows, server, place, client, expires="until")
    assert went(server).total() == 40
    assert states(report)[State.SENT] == 40


@SLOW
def test_a_row_gets_the_same_variant_as_without_a_cluster(client, place, postgres):
    texts = Variants("A {{ n }}", "B {{ n }}")
    with Server() as server:
        there = merge(ROWS, server, place, client, subject=texts)
        here = merge(ROWS, server, fresh(postgres), None, subject=texts)
    assert [o.variant for o in there] == [o.variant for o in here]
    assert len({o.variant for o in there}) == 2


def test_nothing_is_left_behind(client, running, place, postgres):
    with Server() as server:
        merge(ROWS, server, place, client)
        merge(ROWS, server, place, client, test_to="me@example.org")
        stations = client.run(lambda: len(__import__("smtp_notebook.workers").workers._STATIONS))
        assert set(stations.values()) == {0}
        with contextlib.suppress(AssertionError):
            until(lambda: not running.scheduler.tasks, 10, "the cluster has forgotten the rows")
        assert not running.scheduler.tasks
        until(
            lambda: all(w.transport.is_closing() for w in server._writers), 10, "the connections are closed"
        )
        assert not running.scheduler.extensions["events"]._events
    with raw(place) as db:
        assert db.execute("SELECT count(*) FROM lease").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM claim").fetchone() == (0,)


# ----------------------------------------------------------------------------------------- what is lost


def sender(running):
    """Return the process of the worker that sends at this moment; the first batch goes alone."""
    for worker in running.scheduler.workers.values():
        if any(str(task.key).startswith("send") for task in worker.processing):
            return running.workers[worker.name].pid
    raise LookupError("nobody sends")


def at(address, act):
    """Return what does something once when the server has a mail for somebody, before it answers."""
    done = []

    async def hook(met):
        if met.strip("<>") == address and not done:
            done.append(met)
            await asyncio.to_thread(act)

    return hook


@pytest.fixture
def whole(client):
    """Have the cluster whole again afterwards."""
    yield
    client.wait_for_workers(2, timeout=60)


def test_what_a_killed_worker_had_done_is_reported_and_another_goes_on(client, running, place, whole):
    with Server({"dot": at("u5@example.com", lambda: os.kill(sender(running), signal.SIGKILL))}) as server:
        report = merge(ROWS, server, place, client, settings={"max_connections": 1})
    assert went(server) == once(ROWS)
    assert [o.row for o in report if o.state is State.IN_DOUBT] == [5]
    assert states(report)[State.SENT] == 59


def test_a_trials_batch_whose_worker_was_killed_is_in_doubt_and_not_sent_again(client, running, place, whole):
    with Server({"dot": at("me@example.org", lambda: os.kill(sender(running), signal.SIGKILL))}) as server:
        report = merge(ROWS, server, place, client, test_to="me@example.org", settings={"max_connections": 1})
    assert states(report) == {State.IN_DOUBT: 10, State.SENT: 50}
    assert len(server.log.mails) <= 60
    assert {o.row for o in report if o.state is State.IN_DOUBT} == set(range(10))


@SLOW
def test_a_worker_that_is_killed_while_it_prints_costs_nothing(client, place, tmp_path, whole):
    mark = tmp_path / "died"

    def die(n):
        if n == 7 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    with Server() as server:
        report = merge(ROWS, server, place, client, template="{{ die(n) }}", values={"die": die})
    assert states(report) == {State.SENT: 60}
    assert went(server) == once(ROWS)


@SLOW
def test_a_row_that_kills_every_worker_is_said_in_a_sentence_and_nothing_was_sent(client, place, whole):
    def die(n):
        if n == 37:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    with Server() as server, pytest.raises(MergeRefusedError, match="^Several workers ended"):
        merge(ROWS, server, place, client, template="{{ die(n) }}", values={"die": die})
    assert not server.log.connections


def once_at(row, act):
    """Return an on_outcome that does something once, when a row is told of."""
    done = []

    def told(outcome):
        if outcome.row == row and not done:
            done.append(row)
            act()

    return told


@SLOW
def test_a_database_that_begins_anew_ends_the_run_and_the_next_one_mails_nobody_twice(
    client, postgres, place
):
    def again():
        postgres.stop(kill=True)
        postgres.start()

    with Server() as server:
        # A server that does not sync, as the tests' own, may have lost something.
        with pytest.raises(JournalError, match="may lack what was written last"):
            merge(ROWS, server, place, client, on_outcome=once_at(3, again))
        first = Report.last()
        assert {o.key for o in first if o.state is State.SENT} <= set(went(server))
        report = merge(ROWS, server, place, client)
    assert len(report) == 60
    assert max(went(server).values()) == 1
    missed = set(once(ROWS)) - set(went(server))
    assert missed <= {o.key for o in report if o.state is State.IN_DOUBT}


@pytest.fixture
def impatient(client, monkeypatch):
    """Have nobody wait long for a database that is away."""

    def change(seconds):
        from smtp_notebook import postgres_store

        postgres_store.RECONNECT_SECONDS = seconds

    monkeypatch.setattr(postgres_store, "RECONNECT_SECONDS", 2.0)
    client.run(change, 2.0)
    yield
    client.run(change, 20.0)


@pytest.fixture(scope="module")
def durable():
    """A PostgreSQL that keeps what was committed, as a real one does."""
    unsafe = {"fsync", "full_page_writes"}
    with running_postgres({k: v for k, v in databases._SETTINGS.items() if k not in unsafe}) as found:
        yield found


@SLOW
def test_a_database_that_crashes_and_is_back_in_time_costs_no_row(client, durable):
    def again():
        durable.stop(kill=True)
        durable.start()

    place = fresh(durable)
    with Server() as server:
        report = merge(ROWS, server, place, client, on_outcome=once_at(3, again))
    assert states(report) == {State.SENT: 60}
    assert went(server) == once(ROWS)


@SLOW
def test_a_database_that_stays_away_ends_the_run_and_its_report_tells_what_went(client, durable, impatient):
    place, met = fresh(durable), []

    async def crash(_):
        met.append(None)
        if len(met) == 25:
            await asyncio.to_thread(durable.stop, kill=True)

    with Server({"dot": crash}) as server:
        with pytest.raises(JournalError):
            merge(ROWS, server, place, client)
        first = Report.last()
        assert {o.key for o in first.sent} == set(went(server))
        assert len(first) == 60
        server.heal()
        durable.start()
        report = merge(ROWS, server, place, client)
    assert max(went(server).values()) == 1
    doubts = {o.key for o in report.in_doubt}
    assert set(once(ROWS)) - set(went(server)) <= doubts
    assert len(doubts) <= 4


def test_sessions_that_are_ended_for_a_moment_cost_no_row(client, postgres, place):
    def end():
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid<>pg_backend_pid() AND usename='tester'"
        with postgres.connect() as db:
            db.execute(query)

    with Server() as server:
        report = merge(ROWS, server, place, client, on_outcome=once_at(3, end))
    assert went(server) == once(ROWS)
    assert states(report) == {State.SENT: 60}


@SLOW
def test_an_interrupt_while_rows_are_printed_ends_it_at_once(client, place, interruptible, tmp_path):
    mark = tmp_path / "printing"

    def interrupt():
        while not mark.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    with Server() as server:
        thread = threading.Thread(target=interrupt, daemon=True)
        thread.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            merge(ROWS, server, place, client, template="{{ slow(n) }}", values={"slow": slowly(mark, 0.05)})
        took = time.monotonic() - began
        thread.join()
        assert took < 8
        assert states(merge(ROWS, server, place, client)) == {State.SENT: 60}


@SLOW
def test_a_client_that_is_closed_while_mails_leave_ends_the_run_in_a_sentence(running, place):
    own = Client(running)
    with Server() as server:
        with pytest.raises(MergeRefusedError, match="client was closed"):
            merge(ROWS, server, place, own, on_outcome=once_at(3, own.close))
        sent = {o.key for o in Report.last() if o.state is State.SENT}
        assert sent == set(went(server))
        assert states(merge(ROWS, server, place, None)) == {
            State.SENT: 60 - len(sent),
            State.SKIPPED: len(sent),
        }


def test_rows_of_a_trial_whose_batches_did_not_come_back_are_in_doubt(running, place):
    own, gate, met = Client(running), Gate(), []

    async def hold(_):
        met.append(None)
        if len(met) > 10:
            await gate.held()

    def close():
        gate.reached.wait(30)
        own.close()
        gate.open()

    threading.Thread(target=close, daemon=True).start()
    with Server({"dot": hold}) as server, pytest.raises(MergeRefusedError, match="client was closed"):
        merge(ROWS, server, place, own, test_to="me@example.org")
    found = states(Report.last())
    # No journal knows which of them went.
    assert found[State.SENT] == 10
    assert found[State.IN_DOUBT] >= 10


@SLOW
@pytest.mark.parametrize("when", ["check", "send"])
def test_a_scheduler_that_dies_ends_the_run_in_a_sentence_and_another_goes_on(place, tmp_path, when):
    with apart(tmp_path) as (scheduler, own), Server() as server:
        began = time.monotonic()
        more = {"on_outcome": once_at(3, scheduler.kill)}
        if when == "check":
            mark = tmp_path / "printing"
            more = {"template": "{{ slow(n) }}", "values": {"slow": slowly(mark, 0.2)}}
            threading.Thread(
                target=lambda: (until(mark.exists, 60, "a row is printed"), scheduler.kill())
            ).start()
        with pytest.raises(MergeRefusedError, match=r"scheduler was lost|lost its scheduler"):
            merge(ROWS, server, place, own, **more)
        assert time.monotonic() - began < 25
        before = set(went(server))
        report = merge(ROWS, server, place, None, **({} if when == "send" else {"template": "Hello"}))
        assert states(report) == Counter({State.SENT: 60 - len(before)}) + Counter(
            {State.SKIPPED: len(before)}
        )
        assert went(server) == once(ROWS)


@contextlib.contextmanager
def apart(folder, count=2):
    """A scheduler in a process of its own with some workers, and a client."""
    file = folder / "scheduler.json"
    words = [
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--dashboard-address",
        "127.0.0.1:0",
        "--scheduler-file",
        str(file),
    ]
    cli = [sys.executable, "-m", "distributed.cli.dask_scheduler", *words]
    worker = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        "--scheduler-file",
        str(file),
        "--no-nanny",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    processes = [subprocess.Popen(cli, **quiet)]
    processes += [
        subprocess.Popen([*worker, "--nthreads", "1", "--no-dashboard"], **quiet) for _ in range(count)
    ]
    try:
        until(file.exists, 60, "the scheduler runs")
        own = Client(scheduler_file=str(file))
        if count:
            own.wait_for_workers(count, timeout=60)
        yield processes[0], own
        with contextlib.suppress(Exception):
            own.close(timeout=1)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def slowly(mark, seconds):
    """Return a function for a template that takes its time."""

    def slow(n):
        mark.touch()
        time.sleep(seconds)
        return n

    return slow


# ------------------------------------------------------------------------------------ rows that wait

NOON = dt.datetime(2026, 12, 1, 12, tzinfo=dt.UTC)


@pytest.fixture
def calendar(monkeypatch):
    """A time of day that is noon now, and goes as fast as the client's clock."""
    began = time.monotonic()
    monkeypatch.setattr(times, "NOW", lambda: NOON + dt.timedelta(seconds=QUICK * (time.monotonic() - began)))


def at_first_wait(monkeypatch, act):
    """Do something when rows are waited for the first time."""
    pause, done = merges.PAUSE, []

    async def paused(seconds):
        if seconds > cluster._LOOK_SECONDS and not done:
            done.append(seconds)
            await asyncio.to_thread(act)
        await pause(seconds)

    monkeypatch.setattr(merges, "PAUSE", paused)


def waiting(rows, *seconds):
    """Return rows that wait for so many seconds, in turn."""
    return [row | {"when": NOON + dt.timedelta(seconds=seconds[row["n"] % len(seconds)])} for row in rows]


def noting(came):
    """Return a hook that notes when each address had its mail, by the time of day."""

    def hook(met):
        came[met.strip("<>")] = times.NOW()

    return hook


@pytest.mark.parametrize("kind", ["column", pytest.param("fixed", marks=SLOW)])
def test_with_wait_nobody_is_early_and_each_row_goes_once(client, place, calendar, kind):
    came, rows = {}, waiting(ROWS, 0, 150)
    given = "when" if kind == "column" else NOON + dt.timedelta(seconds=150)
    with Server({"dot": noting(came)}) as server:
        report = merge(rows, server, place, client, send_at=given, wait=True)
    assert went(server) == once(ROWS)
    assert states(report) == {State.SENT: 60}
    due = {row["Email"]: row["when"] if kind == "column" else given for row in rows}
    assert [address for address, moment in came.items() if moment < due[address]] == []


def test_an_interrupt_of_the_wait_ends_it_in_order_and_the_rest_goes_later(
    client, place, calendar, interruptible, monkeypatch
):
    def interrupt():
        # A connection that nobody uses for hours is none of the server's friends.
        until(
            lambda: all(w.transport.is_closing() for w in server._writers), 10, "the connections are closed"
        )
        os.kill(os.getpid(), signal.SIGINT)

    at_first_wait(monkeypatch, interrupt)
    rows = waiting(ROWS, 0, 3_000, 6_000)
    with Server() as server:
        with pytest.raises(KeyboardInterrupt):
            merge(rows, server, place, client, send_at="when", wait=True)
        assert states(Report.last()) == {State.SENT: 20, State.PLANNED: 40}
        assert Report.last().waiting == 40
        monkeypatch.setattr(times, "NOW", lambda: NOON + dt.timedelta(days=1))
        report = merge(rows, server, place, client, send_at="when")
    assert states(report) == {State.SENT: 40, State.SKIPPED: 20}
    assert went(server) == once(ROWS)


@SLOW
def test_a_trial_waits_too(client, place, calendar):
    rows = waiting(ROWS, 0, 150, 300)
    with Server() as server:
        report = merge(rows, server, place, client, send_at="when", wait=True, test_to="me@example.org")
        assert went(server) == {"me@example.org": 60}
    assert states(report) == {State.SENT: 60}


@SLOW
def test_a_worker_that_dies_while_rows_wait_costs_nothing(
    client, running, place, calendar, monkeypatch, whole
):
    def kill():
        os.kill(next(iter(running.workers.values())).pid, signal.SIGKILL)

    came = {}
    at_first_wait(monkeypatch, kill)
    rows = waiting(ROWS, 0, 300, 600)
    with Server({"dot": noting(came)}) as server:
        report = merge(rows, server, place, client, send_at="when", wait=True)
    assert states(report) == {State.SENT: 60}
    assert went(server) == once(ROWS)
    assert [row["n"] for row in rows if came[row["Email"]] < row["when"]] == []


# ------------------------------------------------------------------------- workers that are not alike


@pytest.fixture
def hour_ahead(client):
    """Have the workers' clocks be an hour ahead."""

    def change():
        from smtp_notebook import times

        times.NOW = lambda: dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)

    def back():
        from smtp_notebook import times

        times.NOW = times._now

    client.run(change)
    yield
    client.run(back)


def test_a_workers_wrong_clock_makes_no_row_too_late_and_stands_in_no_mail(client, place, hour_ahead):
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=30)
    late = soon + dt.timedelta(minutes=1)
    rows = [row | {"when": soon - dt.timedelta(hours=row["n"] % 2)} for row in ROWS]
    with Server() as server:
        report = merge(rows, server, place, client, send_at="when", expires=late, settings={"rate": "200/s"})
    assert states(report) == {State.SENT: 30, State.PLANNED: 30}
    dates = [email.message_from_bytes(mail.content)["Date"] for mail in server.log.mails]
    found = [email.utils.parsedate_to_datetime(date) for date in dates]
    found += [o.started for o in report if o.state is State.SENT]
    assert [date for date in found if not is_about_now(date)] == []


def is_about_now(moment):
    """Tell whether a moment is now, as far as that has to be known."""
    return abs((dt.datetime.now(dt.UTC) - moment).total_seconds()) < 300


def test_workers_of_another_version_are_refused_by_name(client, place):
    def exchange(version):
        from importlib import metadata

        before, metadata.version = metadata.version, version or metadata.before
        metadata.before = before

    address = next(iter(client.nthreads()))
    client.run(exchange, lambda _: "0.0.1", workers=[address])
    try:
        with (
            Server() as server,
            pytest.raises(MergeRefusedError, match=r"has smtp_notebook 0\.0\.1, and") as caught,
        ):
            merge(ROWS, server, place, client)
    finally:
        client.run(exchange, None, workers=[address])
    assert address in str(caught.value)
    assert not server.log.connections


def test_what_another_version_sealed_is_not_opened():
    with pytest.raises(MergeRefusedError, match=r"this notebook has 0\.0\.1"):
        dataclasses.replace(parcels.sealed([1], "The rows"), version="0.0.1").opened()


@SLOW
def test_a_worker_that_lacks_the_package_is_refused_by_name(place, tmp_path):
    # Its folder of packages has all but what is installed by a path.
    bare = {"PYTHONPATH": str(Path(psycopg.__file__).parent.parent)}
    with apart(tmp_path, count=0) as (_, own):
        before = [
            "-S",
            "-m",
            "distributed.cli.dask_worker",
            own.scheduler_info()["address"],
            "--no-nanny",
            "--no-dashboard",
        ]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
        worker = subprocess.Popen([sys.executable, *before], env=bare, **quiet)
        try:
            own.wait_for_workers(1, timeout=60)
            with (
                Server() as server,
                pytest.raises(MergeRefusedError, match="cannot load smtp_notebook") as caught,
            ):
                merge(ROWS, server, place, own)
        finally:
            worker.kill()
            worker.wait()
    assert "pip install" in caught.value.fix
    assert not server.log.connections


def test_a_server_that_one_worker_does_not_reach_is_said_with_its_name_and_no_row_is_lost(client, place):
    def cut(_):
        import asyncio

        async def refused(*_args, **_more):
            raise ConnectionRefusedError(111, "Connection refused")

        asyncio.BaseEventLoop.before = asyncio.BaseEventLoop.create_connection
        asyncio.BaseEventLoop.create_connection = refused

    def mend():
        import asyncio

        asyncio.BaseEventLoop.create_connection = asyncio.BaseEventLoop.before

    address = list(client.nthreads())[-1]
    client.run(cut, None, workers=[address])
    try:
        with Server() as server:
            first = merge(ROWS, server, place, client)
            assert sum(states(first).values()) == 60
            assert set(went(server)) == {o.key for o in first.sent}
            assert [
                n
                for n in first.notes
                if "could not be reached" in n and f"client.retire_workers([{address!r}])" in n
            ]
            client.run(mend, workers=[address])
            merge(ROWS, server, place, client)
            assert went(server) == once(ROWS)
    finally:
        client.run(mend, workers=[address])


# ------------------------------------------------------------------------------------- without workers


@pytest.fixture
def lonely():
    """A cluster whose one worker is a thread, which comes and goes quickly, and its client."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as found,
        Client(found) as own,
    ):
        yield found, own


def test_a_cluster_that_has_lost_its_workers_for_too_long_ends_the_run_in_a_sentence(
    lonely, place, monkeypatch, capsys
):
    few, own = lonely
    monkeypatch.setattr(cluster, "_STOP_SECONDS", 0.1)
    monkeypatch.setattr(showing, "PROGRESS_DELAY", 0.0)
    with Server() as server:
        with pytest.raises(MergeRefusedError, match="has had no workers for 60 s") as caught:
            merge(ROWS, server, place, own, on_outcome=once_at(3, lambda: few.scale(0)), progress=True)
        first = Report.last()
        assert set(went(server)) == {o.key for o in first.sent}
        assert len(first) == 60
        assert not first.in_doubt
        assert "it goes on where it stopped" in caught.value.fix
        assert "no workers" in capsys.readouterr().err
        few.scale(1)
        own.wait_for_workers(1, timeout=60)
        report = merge(ROWS, server, place, own)
    assert went(server) == once(ROWS)
    assert states(report) == {State.SKIPPED: len(first.sent), State.SENT: 60 - len(first.sent)}


def test_workers_that_come_back_in_time_go_on(lonely, place, monkeypatch):
    few, own = lonely
    monkeypatch.setattr(cluster, "ALONE_SECONDS", 60.0 * QUICK)

    def gone_for_a_while():
        few.scale(0)
        until(lambda: not own.nthreads(), 30, "the worker is gone")
        few.scale(1)

    with Server() as server:
        report = merge(ROWS, server, place, own, on_outcome=once_at(3, gone_for_a_while))
    assert states(report) == {State.SENT: 60}
    assert went(server) == once(ROWS)


@SLOW
def test_a_check_without_workers_ends_in_a_sentence_too(lonely, place, monkeypatch, capsys, tmp_path):
    few, own = lonely
    mark = tmp_path / "printing"
    for name, seconds in {"_LOOK_SECONDS": 0.25, "ALONE_SECONDS": 1.0}.items():
        monkeypatch.setattr(cluster, name, seconds)
    monkeypatch.setattr(showing, "PROGRESS_DELAY", 0.0)
    threading.Thread(target=lambda: (until(mark.exists, 30, "a row is printed"), few.scale(0))).start()
    more = {"template": "{{ slow(n) }}", "values": {"slow": slowly(mark, 0.2)}}
    with Server() as server:
        with pytest.raises(MergeRefusedError, match="has had no workers for 1 s"):
            merge(ROWS, server, place, own, progress=True, **more)
        assert not server.log.connections
    assert "no workers" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------- leases


@pytest.fixture
def run(place):
    """A campaign that was begun, and whose rows are planned."""
    journal = Journal(place)
    found = begun(journal, ROWS[:4])
    yield found
    with contextlib.suppress(Exception):
        found.ledger.close()
    journal.close()


@pytest.mark.parametrize("shared", [True, False])
def test_who_had_a_batch_that_another_took_writes_nothing_any_more(place, run, shared):
    first, second = Journal(place), Journal(place)
    second = first if shared else second
    had = first.join("c", run.ledger.run, 1)
    other = first.join("c", run.ledger.run, 2)
    taken = second.join("c", run.ledger.run, 1)
    with pytest.raises(MergeRefusedError):
        had.arm(run.rows[:1])
    other.arm(run.rows[1:2])
    taken.arm(run.rows[:1])
    for ledger in (had, other, taken):
        ledger.close()
    first.close()
    second.close()


def test_nobody_who_joined_a_run_writes_after_it_was_fenced_off(place, run):
    journal = Journal(place)
    joined = journal.join("c", run.ledger.run, 1)
    run.journal.end_joined(run.ledger)
    with pytest.raises(MergeRefusedError):
        joined.arm(run.rows[:1])
    with pytest.raises(MergeRefusedError):
        journal.join("c", run.ledger.run, 1)
    run.ledger.hold_on()
    joined.close()
    journal.close()


def test_workers_hear_that_they_are_to_stop_and_that_the_client_is_gone(place, run):
    journal = Journal(place)
    joined = journal.join("c", run.ledger.run, 1)
    assert joined.stopping() is False
    cut(run.journal)
    until(lambda: joined.stopping() is None, 10, "the server has noticed")
    run.ledger.hold_on()
    assert joined.stopping() is False
    run.ledger.ask_to_stop()
    assert joined.stopping() is True
    joined.close()
    journal.close()


def test_a_worker_stops_when_nobody_has_held_the_campaign_for_ten_seconds(place, run, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(merges, "CLOCK", lambda: now[0])
    journal = Journal(place)
    joined = journal.join("c", run.ledger.run, 1)
    sends = Run(None, None, joined, report=lambda *_: None)
    look = workers._Look(None, joined, sends, workers._Pacing(None))
    cut(run.journal)
    until(lambda: joined.stopping() is None, 10, "the server has noticed")
    for now[0] in (1.0, 9.0, 10.0):
        look()
        assert not sends.stopped
    now[0] = 11.0
    look()
    assert "is gone" in sends.stopped
    joined.close()
    journal.close()


@SLOW
def test_a_second_run_of_the_campaign_is_refused_while_a_first_one_is_sent(client, place):
    refused = []

    def second(_):
        if not refused:
            with pytest.raises(MergeRefusedError) as caught:
                merge(ROWS, server, place, client)
            refused.append(caught.value.passing)

    with Server() as server:
        merge(ROWS, server, place, client, on_outcome=second)
    assert refused == [True]
    assert went(server) == once(ROWS)
