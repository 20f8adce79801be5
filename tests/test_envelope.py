"""Where bounces go: the envelope's sender is named apart from From, tells which mail it was, and gives nobody away."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Server

from smtp_notebook import (
    Address,
    Connection,
    Message,
    SettingsError,
    State,
    connect,
    connection,
    mail_merge,
    send,
)
from smtp_notebook.mime import new_message_id, tag

LETTER = "---\nsubject: Hi {{ n }}\n---\nDear **{{ n }}**"
VERP = "bounces+{id}@example.org"
TAG = re.compile(r"[0-9a-f]{16}\.[0-9a-f]{16}")


def frame(count=40):
    # One row whose values no mold vouches for goes the whole way.
    names = ["=?utf-8?q?x?= 王小明" if i == count - 1 else str(i) for i in range(count)]
    return pd.DataFrame({"Email": [f"u{i}@example.com" for i in range(count)], "n": names})


def test_bounces_go_where_it_says_and_from_stays(sandbox):
    via = sandbox.connection.with_(envelope_from="bounces@Exämple.test")
    mail_merge(frame(), LETTER, via=via, from_="me@example.org")
    send(to="ann@example.com", subject="S", body="B", from_="me@example.org", via=via)
    assert {m.sender for m in sandbox.messages} == {"bounces@xn--exmple-cua.test"}
    assert {m.header("from") for m in sandbox.messages} == {"me@example.org"}
    assert via.envelope_domain == "xn--exmple-cua.test"
    assert sandbox.connection.envelope_domain == ""


def test_each_mail_has_a_tag_of_its_own_by_which_it_is_known(sandbox):
    via = sandbox.connection.with_(envelope_from=VERP)
    report = mail_merge(frame(), LETTER, via=via)
    one = send(to="ann@example.com", subject="S", body="B", via=via)
    known = {f"bounces+{tag(o.message_id)}@example.org" for o in [*report, one]}
    assert {m.sender for m in sandbox.messages} == known
    assert len(known) == 41
    for mail in sandbox.messages:
        assert mail.header("message-id").strip("<>").partition("@")[0] in mail.sender
        assert not re.search(r"u\d+@|example\.com|ann", mail.sender)


def test_without_it_from_is_the_envelopes_sender(sandbox):
    mail_merge(frame(2), LETTER, via=sandbox, from_="Me <me@example.org>")
    assert {m.sender for m in sandbox.messages} == {"me@example.org"}


@pytest.mark.parametrize("how", ["test_to", "redirect_to"])
def test_a_trial_shows_it_too_and_no_journal_knows_its_tags(sandbox, how):
    via = sandbox.connection.with_(
        envelope_from=VERP, **({how: "me@example.org"} if how == "redirect_to" else {})
    )
    options = {how: "me@example.org"} if how == "test_to" else {}
    mail_merge(frame(3), LETTER, via=via, **options)
    assert {m.recipients for m in sandbox.messages} == {("me@example.org",)}
    assert all(TAG.search(m.sender) for m in sandbox.messages)


def test_another_try_has_the_same_tag():
    with Server() as server:
        answers = iter(["450 4.2.1 later"])
        server.script["rcpt"] = lambda _: next(answers, None)
        via = Connection.from_url(server.url(), envelope_from=VERP, sender="me@example.org")
        report = mail_merge(frame(1), LETTER, campaign="c", via=via, progress=False)
        assert report[0].attempts == 2
        (mail,) = server.log.mails
        assert mail.sender == f"bounces+{tag(report[0].message_id)}@example.org"


def test_another_place_for_bounces_is_no_change_of_the_campaign():
    with Server() as server:
        via = Connection.from_url(server.url(), sender="me@example.org")
        mail_merge(frame(2), LETTER, campaign="c", via=via, progress=False)
        again = mail_merge(frame(3), LETTER, campaign="c", via=via.with_(envelope_from=VERP), progress=False)
        assert again.counts == {State.SENT: 1, State.SKIPPED: 2}


def test_the_inbox_says_where_bounces_would_go(sandbox):
    send(
        to="a@example.com", subject="S", body="B", via=sandbox.connection.with_(envelope_from="b@example.org")
    )
    assert "b@example.org" in sandbox._repr_mimebundle_()["text/html"]
    sandbox.clear()
    send(to="a@example.com", subject="S", body="B", via=sandbox)
    assert "Bounces to" not in sandbox._repr_mimebundle_()["text/html"]


def test_it_is_saved_with_a_connection(monkeypatch, tmp_path):
    monkeypatch.setenv("SMTP_NOTEBOOK_CONFIG", str(tmp_path))
    connect("smtp+plain://localhost", envelope_from=VERP).save("mine")
    assert connection.saved("mine").envelope_from == VERP


@pytest.mark.parametrize(
    "wrong",
    [
        "nonsense",
        "bounces@{id}.example.org",
        "{id}{id}@example.org",
        "bounces+{key}@example.org",
        "Name <bounces@example.org>",
        "jörg@example.org",
        "a@example.org, b@example.org",
        "bounces@example.org\r\nRCPT TO:<x@example.org>",
        "<>",
        "x" * 32 + "{id}@example.org",
    ],
)
def test_what_no_server_could_send_a_bounce_to_is_refused(wrong):
    with pytest.raises(SettingsError, match="envelope_from") as caught:
        Connection.from_url("smtp+plain://localhost", envelope_from=wrong)
    assert caught.value.fix


def test_the_longest_that_fits_is_taken():
    found = Connection.from_url("smtp+plain://localhost", envelope_from="x" * 31 + "{id}@example.org")
    local = found.envelope_sender("", new_message_id("example.org")).partition("@")[0]
    assert len(local) == 64


def test_an_id_that_a_person_wrote_is_not_shown_to_strangers(sandbox):
    message = Message(
        to="ann@example.com", subject="S", body="B", message_id="<ann.at.example.com.42@example.org>"
    )
    outcome = send(message, via=sandbox.connection.with_(envelope_from=VERP))
    (mail,) = sandbox.messages
    assert "ann" not in mail.sender
    assert tag(outcome.message_id) in mail.sender


@given(st.text())
def test_a_tag_is_always_one(text):
    assert TAG.fullmatch(tag(f"<{text}>"))
    assert Address.parse(f"bounces+{tag(text)}@example.org")
