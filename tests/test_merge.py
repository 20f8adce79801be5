"""A merge: checked first, sent once, stopped in order, reported row by row."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading

import pandas as pd
import polars
import pytest
import trustme
from scripted import ACCEPT_DROP, STALL, Server, server_context

from smtp_notebook import (
    Connection,
    DeliveryError,
    MergeRefusedError,
    MessageError,
    OptionError,
    PreflightError,
    Report,
    State,
    TemplateError,
    amail_merge,
    asend,
    connect,
    mail_merge,
    preview,
    send,
)
from smtp_notebook.frames import canonical_key, guess_address_column
from smtp_notebook.rate import Limiter

LETTER = "---\nsubject: Hi {{ n }}\n---\nDear **{{ n }}**"


def frame(count=6, **columns):
    return pd.DataFrame({"Email": [f"u{i}@example.com" for i in range(count)], "n": range(count)} | columns)


def recipients(box):
    return sorted(m.recipients[0] for m in box.messages)


def test_every_row_goes_once_to_its_own_address_alone(sandbox):
    report = mail_merge(frame(40), LETTER, via=sandbox)
    assert report.counts == {State.SENT: 40}
    assert len(sandbox.messages) == 40
    for mail in sandbox.messages:
        number = mail.recipients[0][1 : mail.recipients[0].index("@")]
        assert mail.email["subject"] == f"Hi {number}"
        assert str(mail.email["to"]) == mail.recipients[0]


@pytest.mark.parametrize("kind", ["pandas", "polars", "dicts"])
def test_any_kind_of_frame_is_read_and_left_as_it_was(sandbox, kind):
    data = {
        "pandas": frame(3),
        "polars": polars.DataFrame({"Email": ["u0@example.com"], "n": [0]}),
        "dicts": frame(3).to_dict("records"),
    }[kind]
    before = data.copy() if kind == "pandas" else None
    report = mail_merge(data, LETTER, via=sandbox)
    assert len(report.sent) == len(data)
    if before is not None:
        pd.testing.assert_frame_equal(data, before)


def test_the_report_joins_back_to_the_frames_own_index(sandbox):
    data = frame(3).set_index(pd.Index(["x", "y", "z"]))
    found = mail_merge(data, LETTER, via=sandbox).to_frame()
    assert list(found.index) == ["x", "y", "z"]
    assert list(found["state"]) == ["sent"] * 3


BAD = {1: "a@", 2: None, 4: "u3@example.com"}


def bad_frame():
    data = frame(6)
    for row, cell in BAD.items():
        data.loc[row, "Email"] = cell
    return data


def test_a_row_with_a_problem_stops_everything_and_all_are_listed(sandbox):
    with pytest.raises(PreflightError) as caught:
        mail_merge(bad_frame(), LETTER, via=sandbox)
    assert sandbox.messages == ()
    assert [o.row for o in caught.value.report.failures] == list(BAD)
    assert {o.state for o in caught.value.report.failures} == {State.INVALID}
    assert all(o.fix and o.status == 400 for o in caught.value.report.failures)
    assert Report.last() is caught.value.report


def test_skip_sends_the_good_rows_and_reports_the_others(sandbox):
    report = mail_merge(bad_frame(), LETTER, via=sandbox, on_problem="skip")
    assert report.counts == {State.SENT: 3, State.INVALID: 3}
    assert recipients(sandbox) == ["u0@example.com", "u3@example.com", "u5@example.com"]


def test_a_dry_run_sends_nothing_and_never_raises_for_a_row(sandbox):
    report = mail_merge(bad_frame(), LETTER, via=sandbox, dry_run=True)
    assert report.counts == {State.PLANNED: 3, State.INVALID: 3}
    assert sandbox.messages == ()


def test_limit_counts_good_rows_and_test_to_sends_them_to_me(sandbox):
    report = mail_merge(frame(6), LETTER, via=sandbox, limit=2, test_to="me@example.com")
    assert [m.recipients for m in sandbox.messages] == [("me@example.com",)] * 2
    assert len(report) == 2
    assert any("me@example.com" in note for note in report.notes)


def test_redirect_and_allow_are_the_connections(sandbox):
    mail_merge(frame(2), LETTER, via=sandbox.connection.with_(redirect_to="me@example.com"))
    assert {m.recipients for m in sandbox.messages} == {("me@example.com",)}
    with pytest.raises(PreflightError):
        mail_merge(frame(2), LETTER, via=sandbox.connection.with_(allow=["example.org"]))


def test_a_key_column_tells_rows_apart_that_share_an_address(sandbox):
    data = frame(2, Id=["00Q1", "00Q2"])
    data["Email"] = "shared@example.com"
    report = mail_merge(data, LETTER, via=sandbox, key="Id")
    assert [o.key for o in report] == ["00Q1", "00Q2"]
    assert "same address" in report.warnings[0]


@pytest.mark.parametrize(
    ("data", "options", "error", "word"),
    [
        (pd.DataFrame({"a": ["x@example.com"]}), {}, MergeRefusedError, "'a'"),
        (
            pd.DataFrame({"Email": ["x@example.com"], "E-Mail": ["y@example.com"]}),
            {},
            MergeRefusedError,
            "'E-Mail'",
        ),
        (
            pd.DataFrame([["x@example.com", 1]], columns=["Email", "Email"]),
            {},
            MergeRefusedError,
            "more than one",
        ),
        (frame(1), {"key": "Id"}, MergeRefusedError, "'Id'"),
        (frame(1), {"subjct": "x"}, OptionError, "'subject'"),
        (frame(1), {"on_problem": "go"}, OptionError, "skip"),
        (frame(1), {"limit": -1}, OptionError, "limit"),
        ([1], {}, MergeRefusedError, "dict"),
        (5, {}, MergeRefusedError, "int"),
    ],
)
def test_what_cannot_be_merged_is_refused_before_anything(sandbox, data, options, error, word):
    with pytest.raises(error) as caught:
        mail_merge(data, "hi", via=sandbox, **options)
    assert word in str(caught.value)
    assert sandbox.messages == ()


def test_an_empty_frame_says_so_and_is_no_error(sandbox):
    report = mail_merge(frame(0), LETTER, via=sandbox)
    assert (len(report), "no rows" in report.text()) == (0, True)


def test_a_merge_outside_the_sandbox_names_its_campaign():
    with pytest.raises(MergeRefusedError, match='campaign="mailing-') as caught:
        mail_merge(frame(1), LETTER, via="smtp://mail.example.com", from_="me@example.com")
    assert "mail.example.com" in caught.value.cause
    report = mail_merge(frame(1), LETTER, via="smtp://mail.example.com", from_="me@example.com", dry_run=True)
    assert report.counts == {State.PLANNED: 1}


def test_a_cell_with_template_text_and_a_mail_that_is_too_big_are_problems(sandbox):
    small = sandbox.connection.with_(max_message_bytes=3000)
    report = mail_merge(frame(2, t=["{{ 7*7 }}", "x" * 9000]), "{{ t }}", via=small, dry_run=True)
    assert ["{{ 7*7 }}" in o.reason or "MB" in o.reason for o in report] == [True, True]


@pytest.mark.parametrize("megabytes", [20, pytest.param(60, marks=pytest.mark.slow)])
def test_a_file_that_is_too_large_once_encoded_is_refused_before_it_is_sent(sandbox, megabytes):
    from smtp_notebook import Attachment

    with pytest.raises(MessageError, match="MB"):
        send(
            to="ann@example.com",
            body="x",
            attach=[Attachment(bytes(megabytes * 2**20), "big.bin")],
            via=sandbox,
        )
    assert sandbox.messages == ()


def test_rows_beyond_the_memory_budget_are_rendered_again_the_same(sandbox, monkeypatch):
    from smtp_notebook import preflight

    monkeypatch.setattr(preflight, "MEMORY_BUDGET", 0)
    threads = set()

    def noted(value):
        threads.add(threading.current_thread())
        return value

    big = "x" * 200_000
    report = mail_merge(frame(2), "{{ f(n) }} " + big, via=sandbox, values={"f": noted})
    assert len(report.sent) == 2
    assert threads == {threading.current_thread()}


# ---------------------------------------------------------------------------------------- outcomes


def test_temporary_refusals_are_tried_again_and_permanent_ones_are_not():
    script = {"rcpt": lambda a: "550 5.1.1 no" if a.startswith("u1") else None, "data": ["451 later", None]}
    with Server(script) as server:
        report = mail_merge(frame(3), LETTER, via=server.url(), campaign="t", from_="me@example.com", key="n")
    assert [o.state for o in report] == [State.SENT, State.REFUSED, State.SENT]
    assert report[1].status == 404
    assert sorted(o.attempts for o in report) == [1, 1, 2]
    assert sorted(m.recipients[0] for m in server.log.mails) == ["u0@example.com", "u2@example.com"]


def test_attempts_are_spent_and_then_the_row_is_deferred():
    with Server({"mail": "451 4.3.0 later"}) as server, pytest.raises(DeliveryError) as caught:
        send(to="ann@example.com", from_="me@example.com", body="x", via=server.url())
    assert (caught.value.outcome.state, caught.value.outcome.status, caught.value.outcome.attempts) == (
        State.DEFERRED,
        500,
        3,
    )


def test_a_mail_in_doubt_is_never_sent_again_by_itself():
    with Server({"dot": ACCEPT_DROP}) as server:
        report = mail_merge(
            frame(5),
            LETTER,
            via=Connection.from_url(server.url(), max_connections=1),
            from_="me@example.com",
            campaign="t",
        )
    assert len(report.in_doubt) == 2
    assert len(server.log.mails) == 2
    assert report.counts[State.PLANNED] == 3
    assert "in doubt" in report.notes[0]


def test_a_wrong_password_stops_the_run_after_one_login(monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", "wrong")
    with Server(login=("ann", "right")) as server:
        report = mail_merge(
            frame(30), LETTER, via=server.url(user="ann"), campaign="t", from_="me@example.com"
        )
    assert server.log.logins == 1
    assert report.counts[State.PLANNED] >= 26
    assert {o.status for o in report.failures} == {401}


def test_a_certificate_that_nobody_vouches_for_stops_the_run_before_any_mail():
    with Server(tls=server_context(trustme.CA(), "127.0.0.1")) as server:
        report = mail_merge(frame(9), LETTER, via=server.url("smtps"), campaign="t", from_="me@example.com")
    assert server.log.mails == []
    assert {o.status for o in report.failures} == {403}
    assert report.counts[State.PLANNED] >= 5
    assert "ca_file=" in report.failures[0].fix


def test_the_longest_address_makes_no_command_line_longer_than_its_limit():
    longest = f"{'l' * 64}@{'.'.join(['d' * 60] * 3)[:-2]}.example"
    with Server() as server:
        send(to=longest, from_=longest, body="x", via=server.url())
    assert max(len(c.encode()) + 2 for c in server.log.commands) <= 512
    assert server.log.mails[0].recipients == [longest]


def test_a_server_that_refuses_everyone_stops_the_run_early():
    with Server({"rcpt": "550 5.7.1 no"}) as server:
        report = mail_merge(frame(60), LETTER, via=server.url(), campaign="t", from_="me@example.com")
    assert report.counts[State.PLANNED] > 30
    assert "refused the first" in report.notes[0]


def test_a_server_that_is_not_there_ends_the_run_without_losing_a_row():
    with Server() as server:
        pass
    report = mail_merge(frame(20), LETTER, via=server.url(), campaign="t", from_="me@example.com")
    assert len(report) == 20
    assert set(report.counts) <= {State.PLANNED, State.DEFERRED}


def test_on_outcome_is_called_once_per_row(sandbox):
    seen = []
    mail_merge(frame(7), LETTER, via=sandbox, on_outcome=seen.append)
    assert sorted(o.row for o in seen) == list(range(7))


def test_a_failing_callback_ends_the_run_and_is_seen(sandbox):
    def fail(_):
        msg = "my callback"
        raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="my callback"):
        mail_merge(frame(50), LETTER, via=sandbox, on_outcome=fail)
    assert len(sandbox.messages) < 50


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_stops_in_order_keeps_the_report_and_sends_nothing_later():
    def interrupt(_):
        os.kill(os.getpid(), signal.SIGINT)
        return STALL

    with Server({"rcpt": lambda a: interrupt(a) if a.startswith("u3") else None}) as server:
        connection = Connection.from_url(server.url(), max_connections=1, timeout=0.5)
        with pytest.raises(KeyboardInterrupt):
            mail_merge(frame(50), LETTER, via=connection, from_="me@example.com", campaign="t")
        sent = len(server.log.mails)
        report = Report.last()
        assert len(report) == 50
        assert len(report.sent) == sent == 3
        assert len(server.log.mails) == sent


# ------------------------------------------------------------------------------------ send and async


def test_send_says_where_it_went_and_raises_unless_it_was_sent(sandbox, capsys):
    outcome = send(to="ann@example.com", body="hi", via=sandbox)
    assert (outcome.state, outcome.status) == (State.SENT, 200)
    assert "Nothing left this machine" in outcome.reason
    send(to="ann@example.com", body="hi")
    assert "Nothing left this machine" in capsys.readouterr().out
    assert send(to="ann@example.com", body="hi", via=sandbox, dry_run=True).state is State.PLANNED
    with Server({"rcpt": "550 5.1.1 no"}) as server, pytest.raises(DeliveryError, match=r"5\.1\.1"):
        send(to="ann@example.com", from_="me@example.com", body="hi", via=server.url())


def test_braces_in_send_are_just_braces(sandbox):
    send(to="ann@example.com", subject="{{ x }}", body="{% y %}", via=sandbox)
    assert sandbox.messages[0].email["subject"] == "{{ x }}"


def test_an_object_can_be_the_body(sandbox):
    send(to="ann@example.com", body=frame(2), via=sandbox)
    assert "<table" in sandbox.messages[0].email.get_body(("html",)).get_content()


def test_the_async_face_does_the_same_on_the_callers_loop(sandbox):
    async def work():
        outcome = await asend(to="ann@example.com", body="hi", via=sandbox)
        return outcome, await amail_merge(frame(5), LETTER, via=sandbox)

    outcome, report = asyncio.run(work())
    assert (outcome.state, report.counts) == (State.SENT, {State.SENT: 5})
    assert len(sandbox.messages) == 6


def test_the_server_is_via_then_connect_then_environment_then_sandbox(sandbox, monkeypatch):
    from smtp_notebook.servers import find_server

    assert find_server().connection.sandbox
    monkeypatch.setenv("SMTP_NOTEBOOK_URL", "smtp+plain://127.0.0.1:2526")
    assert find_server().connection.port == 2526
    connect("smtp+plain://127.0.0.1:2527")
    assert find_server().connection.port == 2527
    assert find_server(sandbox).connection.port == sandbox.connection.port


def test_preview_shows_a_row_and_touches_no_server():
    message = preview(frame(3), LETTER, row=-1)
    assert (message.subject, message.recipients) == ("Hi 2", ("u2@example.com",))
    with pytest.raises(TemplateError, match="Row 1"):
        preview(frame(3, x=["a", None, "c"]), "{{ x }}", row=1)
    with pytest.raises(MergeRefusedError, match="no row 9"):
        preview(frame(3), LETTER, row=9)


@pytest.mark.parametrize("same", [(1, 1.0, "1", "1.0", " 1 "), ("00Q5g0000108yvF", "00Q5g0000108yvFEAQ")])
def test_one_row_has_one_key_however_it_is_read(same):
    assert len({canonical_key(v) for v in same}) == 1


@pytest.mark.parametrize("value", [None, float("nan"), "", " \t", True, 2.0**60, pd.NA])
def test_what_cannot_be_a_key_is_refused(value):
    with pytest.raises(MessageError):
        canonical_key(value)


@pytest.mark.parametrize("name", ["Email", "e-mail", "MAIL", "Email Address", " email "])
def test_the_address_column_is_known_by_its_name(name):
    assert guess_address_column(["Id", name, "Phone"]) == name


# ------------------------------------------------------------------------------------- rate, and many rows


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when somebody waits, and not otherwise."""
    from smtp_notebook import merge, servers

    now = [1000.0]

    async def pause(seconds):
        now[0] += seconds
        await asyncio.sleep(0)

    monkeypatch.setattr(merge, "CLOCK", lambda: now[0])
    monkeypatch.setattr(merge, "PAUSE", pause)
    monkeypatch.setattr(servers, "_LIMITERS", {})
    return now


@pytest.mark.parametrize("connections", [1, 4])
def test_the_rate_holds_over_all_connections_and_at_every_boundary(clock, connections, monkeypatch):
    """D7: no second has more than its share, none begins with a burst; judged at the server where that can be."""
    taken, arrived = [], []
    real = Limiter.take
    monkeypatch.setattr(Limiter, "take", lambda self, now, n: taken.append(now) or real(self, now, n))
    with Server({"mail": lambda _: arrived.append(clock[0])}) as server:
        via = Connection.from_url(server.url(), max_connections=connections, rate="10/s")
        report = mail_merge(frame(35), LETTER, via=via, campaign="t", from_="me@example.com", progress=False)
    assert report.counts == {State.SENT: 35}
    # With several connections the clock may move while a mail is on its way.
    for moments in (taken, arrived) if connections == 1 else (taken,):
        assert len(moments) == 35
        assert moments[-1] - moments[0] >= 3.39
        assert all(later - earlier >= 0.099 for earlier, later in itertools.pairwise(moments))
        assert max(sum(m <= other < m + 0.999 for other in moments) for m in moments) <= 10


def test_a_second_merge_to_the_same_login_shares_the_rate_of_the_first(clock):
    with Server() as server:
        via = Connection.from_url(server.url(), rate="3/hour")
        options = {"via": via, "from_": "me@example.com", "progress": False}
        mail_merge(frame(2), LETTER, campaign="one", **options)
        begun = clock[0]
        mail_merge(frame(2), LETTER, campaign="two", **options)
    assert 3500 <= clock[0] - begun <= 3700


def test_a_report_of_many_rows_reads_them_when_asked(sandbox, monkeypatch):
    from smtp_notebook import orders

    monkeypatch.setattr(orders, "_HELD_ROWS", 5)
    data = bad_frame().assign(x=1.0)
    report = mail_merge(data, LETTER + " {{ x }}", via=sandbox, on_problem="skip")
    assert report.counts == {State.SENT: 3, State.INVALID: 3}
    assert [o.row for o in report] == list(range(6))
    assert [o.row for o in report.failures] == list(BAD)
    assert [o.row for o in report[1:3]] == [1, 2]
    assert (report[-1].row, report[0].key) == (5, "u0@example.com")
    assert list(report.to_frame()["state"]) == [str(o.state) for o in report]
    assert "prints as 1.0" in report.warnings[0]
    assert "… and" not in report.text()
    with pytest.raises(IndexError):
        report[6]
