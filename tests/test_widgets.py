"""The form without a browser: its widgets are real, its clicks send real mail."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from ipywidgets import Widget

from smtp_notebook import MailError, OptionError, connect, email_form


def form(**fields):
    return email_form(**({"to": "Ann <ann@example.com>", "subject": "S", "body": "**hi**"} | fields))


def sent(found):
    found._send.click()
    return found._sending.exception(10) or found._sending.result(10)


def test_send_sends_exactly_what_the_form_holds(sandbox, tmp_path):
    (tmp_path / "note.txt").write_text("n")
    found = form(via=sandbox, cc="c@example.com", importance="high", from_="me@example.com")
    found._path.value = str(tmp_path / "note.txt")
    found._add.click()
    assert sent(found).state == "sent"
    (mail,) = sandbox.messages
    assert mail.recipients == ("ann@example.com", "c@example.com")
    assert (mail.email["subject"], mail.email["importance"]) == ("S", "high")
    assert [p.get_filename() for p in mail.email.iter_attachments()] == ["note.txt"]


def test_an_upload_becomes_an_attachment_and_can_be_removed(sandbox):
    found = form(via=sandbox)
    found._upload.value = (
        {
            "name": "a.csv",
            "type": "text/csv",
            "size": 1,
            "content": memoryview(b"x"),
            "last_modified": dt.datetime.now(dt.UTC),
        },
    )
    assert [a.name for a in found.message.attach] == ["a.csv"]
    found._listed.children[0].children[0].click()
    assert found.message.attach == ()


def test_the_preview_follows_and_says_what_is_wrong(sandbox):
    found = form(via=sandbox)
    assert "<iframe" in found._preview.value
    found._texts["to"].value = "a@"
    assert "no e-mail address" in found._preview.value
    found._send.click()
    assert "no e-mail address" in found._status.value
    assert sandbox.messages == ()


def test_a_refusal_is_shown_with_its_fix(sandbox):
    found = form(via="smtp+plain://127.0.0.1:1", from_="me@example.com")
    with pytest.raises(MailError):
        raise sent(found)
    assert "cannot be reached" in found._status.value
    assert not found._send.disabled


def test_the_form_has_no_password_and_its_state_no_secret(sandbox, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", "correct-horse")
    connect("smtp+plain://ann@127.0.0.1:2525", sender="me@example.com")
    found = form()
    assert found.connection.resolve_secret() == "correct-horse"
    assert "correct-horse" not in json.dumps(Widget.get_manager_state(), default=str)


def test_the_state_is_a_message_and_unknown_fields_are_refused():
    assert form(from_="me@example.com").message.recipients == ("ann@example.com",)
    with pytest.raises(OptionError, match="'subject'"):
        email_form(subjct="x")


def test_a_server_is_chosen_from_the_start_and_can_be_another(sandbox):
    found = form()
    assert found._server.label == "sandbox: nothing leaves this machine"
    connect(sandbox.connection.with_(name="mine"))
    found = form()
    assert found._server.options[0][1] == found.connection == sandbox.connection.with_(name="mine")
    found._server.index = 1
    assert found.connection.sandbox
    assert found.connection != sandbox.connection
