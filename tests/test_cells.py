"""Code that a form gives: run as a cell, it sends the very same mail."""

from __future__ import annotations

import datetime as dt
from email import message_from_bytes, policy
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtp_notebook import Attachment, Connection, Event, Message
from smtp_notebook.cells import cell_of, connecting, merge_cell, quoted
from smtp_notebook.connection import set_current
from smtp_notebook.outcome import MailError

START = dt.datetime(2026, 12, 1, 9, 0, tzinfo=ZoneInfo("Europe/Berlin"))


def gist(raw):
    """Return what a mail says, without what each mail has of its own."""
    mail = message_from_bytes(raw, policy=policy.default)
    own = {"date", "message-id"}
    heads = sorted(
        (k.lower(), str(v)) for k, v in mail.items() if k.lower() not in own and "boundary" not in str(v)
    )
    return heads, [
        (p.get_content_type(), p.get_filename(), p.get("content-id"), stampless(p.get_payload(decode=True)))
        for p in mail.walk()
        if not p.is_multipart()
    ]


def stampless(content):
    return b"\n".join(line for line in content.splitlines() if not line.startswith(b"DTSTAMP"))


@pytest.mark.parametrize(
    "fields",
    [
        {"to": "Ann <ann@example.com>; b@example.com", "subject": "S", "body": "**hi**\n\nthere"},
        {
            "to": "a@example.com",
            "subject": 'it\'s "so"',
            "body": 'a """quoted""" \\ thing\n\'x\'',
            "format": "text",
        },
        {"to": "a@example.com", "cc": "c@example.com", "bcc": "d@example.com", "reply_to": "r@example.com"},
        {
            "to": "a@example.com",
            "body": "<p>x</p>",
            "format": "html",
            "inline_css": False,
            "importance": "high",
        },
        {
            "to": "a@example.com",
            "headers": {"References": "<x@example.com>", "X-A": "b"},
            "read_receipt": True,
        },
        {
            "to": "a@example.com",
            "unsubscribe": "https://example.com/u, mailto:u@example.com",
            "preheader": "look",
            "bulk": True,
            "list_id": "News <news.example.com>",
            "feedback_id": "c:u:news:sender",
            "postal_address": "1 High Street",
        },
        {"to": "a@example.com", "bulk": False},
        {"to": "a@example.com", "body": "x", "theme": "<main>{{ content }}</main>"},
        {"to": "a@example.com", "body": "x", "theme": "none"},
        {"to": "a@example.com", "event": Event("K", START, duration=90, location="R 1", uid="u@example.com")},
        {
            "to": "a@example.com",
            "event": Event(
                "Days",
                dt.date(2026, 12, 1),
                uid="v@example.com",
                attendees=["x@example.com"],
                rrule="FREQ=DAILY;COUNT=2",
            ),
        },
    ],
)
def test_the_code_of_a_mail_sends_that_mail(sandbox, fields):
    message = Message(from_="me@example.com", **fields)
    code = cell_of(message, sandbox.connection.with_(name="")).replace('connect("sandbox")', "")
    set_current(sandbox.connection)
    exec(code, {})  # the code is what is tested
    (mail,) = sandbox.messages
    assert gist(mail.raw) == gist(message.as_bytes())
    assert mail.recipients == message.recipients


def test_files_are_named_with_what_their_name_does_not_say(tmp_path, monkeypatch, sandbox):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_bytes(b"1,2")
    (tmp_path / "pic").write_bytes(b"\x89PNG")
    files = [Attachment(b"1,2", "a.csv"), Attachment(b"\x89PNG", "pic", "image/png", content_id="pic")]
    message = Message(to="a@example.com", from_="me@example.com", body="x", attach=files)
    code = cell_of(message, sandbox.connection)
    assert 'Attachment.from_path("pic", type="image/png", content_id="pic")' in code
    set_current(sandbox.connection)
    exec(code.replace('connect("sandbox")', ""), {})
    assert gist(sandbox.messages[0].raw) == gist(message.as_bytes())


@pytest.mark.parametrize(
    ("connection", "code"),
    [
        (Connection(host="mail.example.com", port=587), 'connect("smtp://mail.example.com:587")'),
        (
            Connection(
                host="mail.example.com", port=465, security="tls", user="a@example.com", rate="30/min"
            ),
            'connect("smtps://a@example.com@mail.example.com:465", rate="30/min")',
        ),
        (Connection(host="mail.example.com", port=587, name="work"), 'connect("work")'),
    ],
)
def test_the_code_names_the_server_as_a_person_would(connection, code):
    assert connecting(connection) == code
    if not connection.name:
        assert eval(code.replace("connect", "from_url"), {"from_url": Connection.from_url}) == connection


def test_no_password_is_in_the_code():
    connection = Connection.from_url("smtp://a@mail.example.com").with_(password=lambda: "correct-horse")
    connection.resolve_secret()
    assert "correct-horse" not in cell_of(Message(to="a@example.com"), connection)


@given(st.text())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_literal_is_read_as_the_text_that_it_was_made_of(text):
    assert eval(quoted(text)) == text


@given(subject=st.text(max_size=40), body=st.text(max_size=80))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_mail_says_its_code_says_too(subject, body):
    try:
        message = Message(to="a@example.com", subject=subject, body=body, format="text")
    except MailError:
        return
    kept = {}
    code = cell_of(message, Connection(host="localhost", port=25)).partition("\n")[2]
    exec(code, {"connect": lambda *_: None, "send": lambda **fields: kept.update(fields)})
    assert (kept.get("subject", ""), kept.get("body", "")) == (message.subject, message.body)


def test_a_template_stays_readable_in_the_code_of_a_merge():
    text = '---\nsubject: {{ row["First Name"] }}\n---\nOn {{ When | date("%d %B") }}\n'
    code = merge_cell("leads", text, {"key": "Id", "limit": 3}, Connection(host="localhost", port=25))
    assert f'"""{text}"""' in code
    kept = {}
    exec(
        code.partition("\n")[2],
        {"connect": lambda *_: None, "leads": "L", "mail_merge": lambda *a, **k: kept.update(a=a, k=k)},
    )
    assert kept == {"a": ("L", text), "k": {"key": "Id", "limit": 3}}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (["a@example.com", "b@example.com"], '["a@example.com", "b@example.com"]'),
        ({"X-A": "b"}, '{"X-A": "b"}'),
        (True, "True"),
        (len, "thing"),
        ([1, len], "thing"),
        ({"a": object()}, "thing"),
    ],
)
def test_what_cannot_be_written_is_a_name_in_the_code(value, written):
    code = merge_cell("df", "x\n", {"thing": value}, Connection(host="localhost", port=25))
    assert f"    thing={written},\n" in code


def test_a_text_that_reads_like_a_files_name_is_no_file():
    code = merge_cell("df", "hello.md", {}, Connection(host="localhost", port=25))
    assert '"""hello.md\n"""' in code
