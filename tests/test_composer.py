"""The form without a browser: its widgets are real, its clicks send real mail."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from ipywidgets import Widget
from scripted import Server

from smtp_notebook import Attachment, Event, MailError, Message, OptionError, connect, email_form
from smtp_notebook.fields import FIELDS


def form(**fields):
    return email_form(**({"to": "Ann <ann@example.com>", "subject": "S", "body": "**hi**"} | fields))


def hears(part, **content):
    part._handle_custom_msg(content, [])


def press_send(found):
    """Press Send, and say yes."""
    found._send_button.click()
    assert found.ask.opened, found.status.text
    hears(found.ask, type="answer", yes=True)


def sent(found):
    press_send(found)
    return found._sending.exception(10) or found._sending.result(10)


def told(found):
    """Return what the status line says once nothing is being sent any more."""
    found._sending.exception(10)
    return f"{found.status.state} {found.status.text} {found.status.fix}"


def test_send_sends_exactly_what_the_form_holds(sandbox, tmp_path):
    (tmp_path / "note.txt").write_text("n")
    found = form(via=sandbox, cc="c@example.com", importance="high", from_="me@example.com")
    found._path.value = str(tmp_path / "note.txt")
    found._attach.click()
    assert sent(found).state == "sent"
    (mail,) = sandbox.messages
    assert mail.recipients == ("ann@example.com", "c@example.com")
    assert (mail.email["subject"], mail.email["importance"]) == ("S", "high")
    assert [p.get_filename() for p in mail.email.iter_attachments()] == ["note.txt"]


def test_send_asks_once_and_says_subject_recipients_server_and_files(sandbox):
    found = form(via=sandbox, cc=[f"c{n}@example.com" for n in range(5)], attach=[Attachment(b"x", "a.txt")])
    found._send_button.click()
    assert found.ask.question == "Send this mail to 6 recipients?"
    assert dict(map(tuple, found.ask.facts)) == {
        "Subject": "S",
        "To": "ann@example.com, c0@example.com, c1@example.com and 3 more",
        "Server": "sandbox: nothing leaves this machine",
        "Files": "a.txt",
    }
    hears(found.ask, type="answer", yes=False)
    assert (sandbox.messages, found.outcome) == ((), None)


def edits(found):
    found._subject.value = "another"


def chooses(found):
    found._server.dropdown.index = 1


def fills(found):
    found.message = Message(to="eve@example.com", body="x")


@pytest.mark.parametrize("change", [edits, chooses, fills])
def test_the_answer_to_a_question_from_before_a_change_sends_nothing(sandbox, change):
    found = form(via=sandbox.connection.with_(name="mine"))
    found._send_button.click()
    asked = found.ask.number
    change(found)
    hears(found.ask, type="answer", yes=True, number=asked)
    assert (found._sending, sandbox.messages) == (None, ())


def test_a_mail_that_went_before_is_said_to_have_gone_when_it_is_asked_for_again(sandbox):
    found = form(via=sandbox)
    sent(found)
    told(found)
    found._send_button.click()
    assert ["Before", "this mail went already"] in found.ask.facts
    found._subject.value = "another"
    found._send_button.click()
    assert "Before" not in dict(found.ask.facts)


def test_another_server_that_is_chosen_meanwhile_stays_what_it_is(sandbox):
    found = form(via=login(sandbox), from_="me@example.com")
    press_send(found)
    found.secret.ask(found.secret.label, found.secret._then)  # as it stands on a slow screen
    then = found.secret._then
    found._server.dropdown.index = 1
    then("right")
    found._sending.result(10)
    told(found)
    assert found._server.dropdown.label == "sandbox: nothing leaves this machine"
    assert found.connection.sandbox
    found._server.dropdown.index = 0
    assert (found.connection.user, found.connection.knows_secret()) == ("ann", True)


def test_a_closed_form_sends_nothing(sandbox):
    found = form(via=sandbox)
    found._send_button.click()
    found.close()
    hears(found.ask, type="answer", yes=True)
    assert sandbox.messages == ()


def test_every_field_of_a_message_goes_into_the_form_and_comes_back():
    message = Message(
        to="Ann <ann@example.com>; b@example.com",
        cc="c@example.com",
        bcc="d@example.com",
        reply_to="r@example.com",
        from_="me@example.com",
        subject="S",
        body='<p><img src="cid:pic" alt="x"></p>',
        format="html",
        importance="low",
        attach=[Attachment(b"1", "a.txt")],
        inline=[Attachment(b"\x89PNG", "pic.png", content_id="pic")],
        headers={"References": "<x@example.com>", "X-A": "b"},
        read_receipt="receipts@example.com",
        unsubscribe="https://example.com/u, mailto:u@example.com",
        bulk=True,
        list_id="News <news.example.com>",
        feedback_id="c:u:news:sender",
        postal_address="1 High Street",
        preheader="look",
        theme="<main>{{ content }}</main>",
        inline_css=False,
        event=Event("K", dt.datetime(2026, 12, 1, 9, tzinfo=dt.UTC), duration=60),
    )
    found = email_form(**{name: getattr(message, name) for name in FIELDS})
    assert found.message == message
    found.message = Message(to="z@example.com", body="new")
    assert found.message == Message(to="z@example.com", body="new")
    found.message = message
    assert found.message == message


def test_an_invitation_is_made_in_the_form():
    found = form(from_="me@example.com")
    found._title.value = "Kick-off"
    assert "has no start" in found._preview.empty
    found._start.value = dt.datetime(2026, 12, 1, 9, 0)
    found._minutes.value = 90
    found._place.value = "Room 1"
    event = found.message.event
    assert (event.summary, event.duration, event.location) == ("Kick-off", dt.timedelta(minutes=90), "Room 1")
    assert event.start.astimezone().replace(tzinfo=None) == dt.datetime(2026, 12, 1, 9, 0)
    assert found.message.event.uid == event.uid, "one meeting, however often the form is read"


def test_an_invitation_of_the_code_can_be_removed():
    found = form(event=Event("K", dt.datetime(2026, 12, 1, 9, tzinfo=dt.UTC), duration=60))
    assert "K, 2026-12-01" in found._given.value
    found._uninvite.click()
    assert found.message.event is None


def test_the_preview_follows_and_a_bad_address_does_not_hide_it(sandbox):
    found = form(via=sandbox)
    assert "<strong" in found._preview.page
    hears(found._chips["to"], type="add", text="a@")
    found._body.value = "## Big news"
    assert "Big news</h2>" in found._preview.page
    assert "no e-mail address" in found._chips["to"].chips[1]["problem"]
    found._send_button.click()
    assert (found.status.state, "no e-mail address" in found.status.text) == ("failed", True)
    assert (sandbox.messages, found.ask.opened) == ((), False)


def test_what_no_mail_can_hold_is_said_in_place_of_the_preview():
    found = form()
    found._headers.value = "no colon here"
    assert "has no colon" in found._preview.empty
    found._headers.value = "References: <x@example.com>"
    assert found._preview.empty == ""
    assert found.message.headers == (("References", "<x@example.com>"),)


def test_the_source_is_the_mail_as_it_travels():
    found = form(from_="me@example.com")
    found._preview.tab = "source"
    assert "Subject: S\n" in found._preview.source
    found._subject.value = "T"
    assert "Subject: T\n" in found._preview.source


def test_lint_stands_beside_the_preview():
    found = form(subject="")
    assert any("subject-missing" in note for note in found._preview.notes)


def test_html_is_html_unless_the_format_says_otherwise():
    found = form(body="<html><body><p>x</p></body></html>")
    assert (found._format.value, found._body.format, found.message.format) == ("html", "html", "html")
    found._format.value = "text"
    assert (found._preview.page, found._body.format) == ("", "text")
    assert form(body="<p>x</p>", format="markdown").message.format == "markdown"


def test_a_body_that_is_no_text_is_refused():
    with pytest.raises(MailError, match="not text"):
        form(body=[1])


def test_a_refusal_is_shown_with_its_fix(sandbox):
    found = form(via="smtp+plain://127.0.0.1:1", from_="me@example.com")
    with pytest.raises(MailError):
        raise sent(found)
    assert "cannot be reached" in told(found)
    assert found.status.fix
    assert not found._send_button.disabled


def test_nobody_is_mailed_without_recipients_or_while_a_file_is_loading(sandbox):
    found = form(via=sandbox, to="")
    found._send_button.click()
    assert "no recipients" in found.status.text
    found = form(via=sandbox)
    hears(found._files, type="begin", id="1", name="a", kind="", size=9)
    found._send_button.click()
    assert "a is still being loaded" in found.status.text
    assert sandbox.messages == ()


def test_a_file_may_be_as_large_as_the_chosen_server_takes(sandbox):
    found = form(via=sandbox.connection.with_(max_message_bytes=2**20))
    hears(found._files, type="begin", id="1", name="big", kind="", size=2**20)
    assert "the server takes mails of 1 MB" in found._files.files[0]["problem"]


def test_two_clicks_send_one_mail(sandbox):
    found = form(via=sandbox)
    press_send(found)
    found._send_button.click()
    hears(found.ask, type="answer", yes=True)
    found._sending.result(10)
    assert len(sandbox.messages) == 1


# ------------------------------------------------------------------------------------------ passwords


def login(sandbox):
    """Return a server that wants a login, and takes any."""
    return f"smtp+plain://ann@127.0.0.1:{sandbox.connection.port}"


def test_the_form_asks_for_a_password_that_nobody_knows_and_keeps_it_for_the_next_mail(sandbox):
    found = form(via=login(sandbox), from_="me@example.com")
    press_send(found)
    assert (found.secret.opened, sandbox.messages) == (True, ())
    assert found.secret.label == "Password of ann at 127.0.0.1"
    hears(found.secret, type="secret", text="correct-horse")
    assert found._sending.result(10).state == "sent"
    told(found)
    assert sent(found).state == "sent"
    assert "correct-horse" not in json.dumps(Widget.get_manager_state(), default=str)
    assert "correct-horse" not in found.code() + repr(found) + repr(found.connection) + repr(vars(found))


def test_a_password_that_is_refused_is_asked_for_again():
    with Server(login=("ann", "right"), offers=["AUTH PLAIN"]) as server:
        found = form(via=f"smtp+plain://ann@127.0.0.1:{server.port}", from_="me@example.com")
        press_send(found)
        hears(found.secret, type="secret", text="wrong")
        assert "535" in told(found)
        press_send(found)
        assert found.secret.opened
        hears(found.secret, type="secret", text="right")
        assert told(found).startswith("sent")


def test_a_password_that_no_server_has_taken_is_not_kept():
    found = form(via="smtp+plain://ann@127.0.0.1:1", from_="me@example.com")
    press_send(found)
    hears(found.secret, type="secret", text="perhaps")
    assert "cannot be reached" in told(found)
    assert not found.connection.knows_secret()


def test_an_edit_that_comes_after_the_question_changes_what_is_asked(sandbox):
    """A click can overtake what was typed before it: ipywidgets keeps text back while the kernel works, and no click."""
    found = form(via=sandbox, from_="me@example.com")
    found._send_button.click()
    first = found.ask.number
    found._subject.value = "Changed"
    assert found.ask.opened
    assert ["Subject", "Changed"] in found.ask.facts
    hears(found.ask, type="answer", yes=True, number=first)
    assert (sandbox.messages, found.ask.opened) == ((), True), "what was asked first is not so any more"
    hears(found.ask, type="answer", yes=True, number=found.ask.number)
    assert found._sending.result(10).state == "sent"
    assert [m.header("subject") for m in sandbox.messages] == ["Changed"]


def test_an_edit_that_makes_it_no_mail_takes_the_question_back():
    found = form(from_="me@example.com")
    found._send_button.click()
    found._chips["to"].put("")
    assert (found.ask.opened, found.status.state) == (False, "failed")
    assert found.status.text == "The mail has no recipients."


def test_no_password_is_asked_for_that_is_known(sandbox, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", "correct-horse")
    found = form(via=login(sandbox), from_="me@example.com")
    assert sent(found).state == "sent"
    assert "correct-horse" not in json.dumps(Widget.get_manager_state(), default=str)


def test_the_form_has_no_password_and_its_state_no_secret(sandbox, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", "correct-horse")
    connect("smtp+plain://ann@127.0.0.1:2525", sender="me@example.com")
    found = form()
    assert found.connection.resolve_secret() == "correct-horse"
    assert "correct-horse" not in json.dumps(Widget.get_manager_state(), default=str)


# --------------------------------------------------------------------------------------------- others


def test_the_state_is_a_message_and_unknown_fields_are_refused():
    assert form(from_="me@example.com").message.recipients == ("ann@example.com",)
    with pytest.raises(OptionError, match="'subject'"):
        email_form(subjct="x")


def test_a_server_is_chosen_from_the_start_and_can_be_another(sandbox):
    found = form()
    server = found._server.dropdown
    assert server.label == "sandbox: nothing leaves this machine"
    connect(sandbox.connection.with_(name="mine"))
    found = form()
    server = found._server.dropdown
    assert server.options[0][1] == found.connection == sandbox.connection.with_(name="mine")
    server.index = 1
    assert found.connection.sandbox
    assert found.connection != sandbox.connection


def test_a_server_and_its_limits_are_said_in_plain_words():
    found = form(
        via=connect(
            "smtp://ann@mail.example.com", password=lambda: "x", rate="30/min", allow=("example.com",)
        )
    )
    assert found._server._words.value == (
        "mail.example.com:587 as ann, encrypted (STARTTLS); only to example.com; at most 30/min; mails up to 25 MB"
    )


def test_the_form_is_one_line_where_no_front_end_shows_it():
    assert repr(form()) == "<EmailForm to Ann <ann@example.com>: 'S', sandbox: nothing leaves this machine>"


def test_the_code_of_the_form_is_shown_to_be_copied():
    found = form()
    found._copy_button.click()
    assert 'subject="S"' in found._code.code


def test_an_error_of_any_callback_is_shown():
    found = form()
    hears(found._chips["to"], type="add")
    assert found.status.text == "KeyError: 'text'"
    found._attach.click()
    assert found.status.text == "No path is typed."
