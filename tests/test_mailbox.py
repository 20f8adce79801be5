"""The inbox without a browser: real mails reach a real sandbox, and the widgets show them."""

from __future__ import annotations

import gc
import json
import smtplib
import threading
import weakref

import pytest
from ipywidgets import Widget

from smtp_notebook import Attachment, MessageError, OptionError, Sandbox, inbox, mail_merge, send
from smtp_notebook import connection as connections
from smtp_notebook.mailbox import EMPTY, WINDOW
from smtp_notebook.received import Received
from smtp_notebook.sandbox import default_sandbox


@pytest.fixture
def box(sandbox):
    """An open inbox of the test's own sandbox."""
    found = inbox(sandbox)
    yield found
    found.close()


def until(widget, check, names="rows"):
    """Wait until *check* holds, each time that one of the widget's traits changes."""
    changed = threading.Event()

    def look(_=None):
        if check():
            changed.set()

    widget.observe(look, names=names)
    look()
    assert changed.wait(20), check
    widget.unobserve(look, names=names)


def subjects(box):
    return [row["cells"][0] for row in box._grid.rows]


def lists(box, *expected):
    until(box._grid, lambda: subjects(box) == list(expected))


def shows(box, text):
    until(box._pane, lambda: text in box._pane.text, ("text", "empty"))


def post(sandbox, subject, **fields):
    send(
        **{"to": "ann@example.com", "subject": subject, "body": f"text of {subject}", "via": sandbox} | fields
    )


def put(sandbox, raw):
    with smtplib.SMTP("127.0.0.1", sandbox.connection.port) as client:
        client.sendmail("a@example.com", ["b@example.com"], raw)


def press(box, name):
    """Choose a row as the front end does."""
    box._grid._handle_custom_msg({"type": "choose", "id": name}, [])


# ------------------------------------------------------------------------------------------- live


def test_mails_are_listed_newest_first_while_they_arrive(box, sandbox):
    assert (subjects(box), box._grid.empty) == ([], EMPTY)
    post(sandbox, "one")
    lists(box, "one")
    post(sandbox, "two", to="a@example.com; b@example.com; c@example.com; d@example.com")
    lists(box, "two", "one")
    assert box._grid.rows[0]["cells"][1] == "a@example.com, b@example.com, c@example.com and 1 more"
    assert box._words.value == "2 messages; nothing left this machine"


def test_what_was_there_before_is_listed_at_once(sandbox):
    post(sandbox, "before")
    box = inbox(sandbox)
    assert subjects(box) == ["before"]
    shows(box, "text of before")
    box.close()


def test_the_newest_is_shown_until_one_is_chosen_which_then_stays(box, sandbox):
    post(sandbox, "one")
    shows(box, "text of one")
    post(sandbox, "two")
    shows(box, "text of two")
    press(box, "1")
    shows(box, "text of one")
    assert (box.message.subject, box._follow.value) == ("one", False)
    post(sandbox, "three")
    lists(box, "three", "two", "one")
    assert box._grid.selected == "1"
    assert "text of one" in box._pane.text
    box._follow.value = True
    shows(box, "text of three")


def test_the_one_that_is_shown_can_be_chosen_so_that_it_stays(box, sandbox):
    post(sandbox, "one")
    shows(box, "text of one")
    press(box, "1")
    post(sandbox, "two")
    lists(box, "two", "one")
    assert box._grid.selected == "1"


def test_a_merge_is_listed_in_windows_and_its_oldest_can_be_reached(box, sandbox):
    rows = [{"email": f"u{i}@example.com", "n": i} for i in range(250)]
    mail_merge(
        rows, "Hello {{ n }}", subject="mail {{ n }}", from_="me@example.com", via=sandbox, progress=False
    )
    until(box._grid, lambda: box._grid.total == 250, "total")
    assert len(box._grid.rows) == WINDOW
    for count in (200, 250):
        box._grid._handle_custom_msg({"type": "more"}, [])
        until(box._grid, lambda: len(box._grid.rows) == count)  # noqa: B023 - it is looked at here
    assert sorted(subjects(box)) == sorted(f"mail {i}" for i in range(250))


def test_a_full_sandbox_says_that_the_oldest_go():
    with Sandbox(max_messages=2) as sandbox:
        box = inbox(sandbox)
        for name in ("one", "two", "three"):
            post(sandbox, name)
        lists(box, "three", "two")
        until(box._words, lambda: "the most that are kept" in box._words.value, "value")
        box.close()


def test_a_chosen_message_that_is_dropped_makes_way_for_the_newest():
    with Sandbox(max_messages=2) as sandbox:
        box = inbox(sandbox)
        post(sandbox, "one")
        lists(box, "one")
        box.choose(1)
        for name in ("two", "three"):
            post(sandbox, name)
        shows(box, "text of three")
        assert box._follow.value
        box.close()


# ----------------------------------------------------------------------------------------- search


def test_a_search_finds_every_word_anywhere_and_counts(box, sandbox):
    post(sandbox, "Invoice", to="ann@example.com", body="for **Straße** 7")
    post(
        sandbox,
        "Invoice",
        to="bob@example.org",
        bcc="carl@example.org",
        body="<p>for Ünal</p>",
        format="html",
    )
    post(sandbox, "Other", body="invoice inside")
    lists(box, "Other", "Invoice", "Invoice")
    for typed, expected in [
        ("invoice", ["Other", "Invoice", "Invoice"]),
        ("INVOICE ann@ ", ["Other", "Invoice"]),
        ("carl", ["Invoice"]),
        ("strasse", ["Invoice"]),
        ("ünal bob", ["Invoice"]),
        ("ünal ann", []),
    ]:
        box._search.value = typed
        until(box._words, lambda: box._words.value == f"{len(expected)} of 3 messages", "value")  # noqa: B023
        lists(box, *expected)
    assert box._grid.empty == "Nothing here has “ünal ann” in it."
    box._search.value = ""
    lists(box, "Other", "Invoice", "Invoice")


def test_a_search_goes_on_while_mails_arrive_and_go(box, sandbox):
    box._search.value = "yes"
    for name in ("yes 1", "no", "yes 2"):
        post(sandbox, name)
    lists(box, "yes 2", "yes 1")
    shows(box, "text of yes 2")
    post(sandbox, "yes 3")
    lists(box, "yes 3", "yes 2", "yes 1")
    sandbox.clear()
    lists(box)
    post(sandbox, "yes 4")
    lists(box, "yes 4")


def test_a_search_reads_thousands_and_shows_what_it_has_so_far(sandbox):
    for number in range(3000):
        raw = f"Subject: mail {number}\r\n\r\n{'word ' * 50}{number % 7}seven".encode()
        sandbox._keep(raw, "a@example.com", ("b@example.com",))
    box = inbox(sandbox)
    said = []
    box._words.observe(lambda change: said.append(change.new), names="value")
    box._search.value = "3seven"
    until(box._words, lambda: box._words.value == "429 of 3,000 messages", "value")
    assert all("found" in words for words in said[:-1])
    assert len(box._grid.rows) == WINDOW
    box.close()


# ------------------------------------------------------------------------------- a message's view


def test_every_tab_has_the_message(box, sandbox):
    post(sandbox, "Grüße", body="**bold**", bcc="hidden@example.org")
    shows(box, "bold")
    assert "<strong" in box._pane.page
    assert ["Subject", "Grüße"] in box._pane.headers
    assert ["Envelope to", "ann@example.com, hidden@example.org"] in box._pane.headers
    assert box._pane.source == ""
    box._pane.tab = "source"
    assert box._pane.source.startswith("Date:")


SCRIPT = "<script>window.__canary=1</script>"


def test_a_hostile_mail_is_text_everywhere_but_in_the_locked_frame(box, sandbox):
    put(sandbox, f"Subject: {SCRIPT}\r\nContent-Type: text/html\r\n\r\n{SCRIPT}<p>after".encode())
    lists(box, SCRIPT)
    shows(box, "after")
    assert box._pane.page.startswith('<!doctype html><meta http-equiv="Content-Security-Policy"')
    assert ["Subject", SCRIPT] in box._pane.headers
    state = json.dumps({k: v["state"] for k, v in Widget.get_manager_state()["state"].items()}, default=str)
    assert state.count(SCRIPT) == state.count(SCRIPT.replace('"', "")) > 0


def test_a_mail_that_cannot_be_read_is_shown_by_its_source(box, sandbox):
    nested = "".join(f"Content-Type: multipart/mixed; boundary=b{i}\r\n\r\n--b{i}\r\n" for i in range(2000))
    put(sandbox, nested.encode() + b"\r\nend\r\n")
    shows(box, "boundary=b1999")
    assert "cannot be read" in box._pane.notes[0]
    assert box.status.text == ""


def test_several_hundred_files_are_listed_in_part_and_all_are_in_the_eml(box, sandbox):
    post(sandbox, "many", attach=[Attachment(b"x", f"{i}.txt") for i in range(103)])
    until(box._files, lambda: len(box._files.files) == 102, "files")
    assert box._files.files[-2]["name"] == "and 3 more files, which are in the .eml"


# ------------------------------------------------------------------------------------------ files


def taken(box, monkeypatch, name):
    """Ask for a file as the front end does, and return what comes back."""
    came, found = threading.Event(), []
    monkeypatch.setattr(box._files, "send", lambda *sent: (found.append(sent), came.set()))
    box._files._handle_custom_msg({"type": "get", "id": name, "token": "t"}, [])
    assert came.wait(10)
    return found[0]


def test_a_download_is_the_files_octets_and_the_eml_the_message(box, sandbox, monkeypatch):
    data = bytes(range(256)) * 5000
    post(sandbox, "a/b: files", attach=[Attachment(data, "data.bin"), Attachment("x,y\n", "Größe.csv")])
    until(box._files, lambda: len(box._files.files) == 3, "files")
    assert [(f["name"], f["face"]) for f in box._files.files] == [
        ("data.bin", "Download"),
        ("Größe.csv", "Download"),
        ("The whole message", "Save .eml"),
    ]
    first, second, whole = (f["id"] for f in box._files.files)
    told, (octets,) = taken(box, monkeypatch, first)
    assert (told, octets) == ({"type": "file", "token": "t", "name": "data.bin"}, data)
    assert taken(box, monkeypatch, second)[1] == [b"x,y\n"]
    told, (octets,) = taken(box, monkeypatch, whole)
    assert (told["name"], octets) == ("a-b: files.eml", sandbox.messages[0].raw)


def test_no_octets_of_a_file_are_in_the_widgets_state(box, sandbox):
    post(sandbox, "s", attach=[Attachment(b"correct-horse" * 9, "a.bin")])
    until(box._files, lambda: len(box._files.files) == 2, "files")
    assert "correct-horse" not in json.dumps(box._files.get_state(), default=str)


def test_a_strangers_file_name_is_bare_when_it_is_saved(box, sandbox, monkeypatch):
    head = "Subject: x\r\nContent-Type: application/pdf\r\n"
    put(
        sandbox,
        (head + 'Content-Disposition: attachment; filename="../../a\tb/..\\\\evil.pdf"\r\n\r\nx').encode(),
    )
    until(box._files, lambda: len(box._files.files) == 2, "files")
    assert taken(box, monkeypatch, "1:0")[0]["name"] == "evil.pdf"


def test_a_file_of_a_message_that_is_gone_is_an_error_that_is_seen(box, sandbox, monkeypatch):
    post(sandbox, "one")
    lists(box, "one")
    sandbox.clear()
    assert taken(box, monkeypatch, "1") == ({"type": "over", "token": "t"},)
    until(box.status, lambda: "no longer in the mailbox" in box.status.text, "text")
    with pytest.raises(MessageError, match="no longer"):
        box.choose(1)


# ------------------------------------------------------------------------------- clear, errors, end


def test_clear_asks_once_and_forgets_everything(box, sandbox):
    post(sandbox, "one")
    lists(box, "one")
    until(box._clear, lambda: not box._clear.disabled, "disabled")
    box._clear.click()
    assert (box.ask.opened, box.ask.question) == (True, "Forget 1 message?")
    box.ask.answer(yes=False)
    assert len(sandbox.messages) == 1
    box._clear.click()
    box.ask.answer(yes=True)
    lists(box)
    until(box._pane, lambda: "shown here when it arrives" in box._pane.empty, "empty")
    until(box._files, lambda: box._files.files == [], "files")
    assert sandbox.messages == ()
    assert box._grid.empty == EMPTY
    assert box._clear.disabled
    assert box.message is None


def test_an_error_while_it_looks_is_seen_and_ends_nothing(box, sandbox, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("no view")

    with monkeypatch.context() as changed:
        changed.setattr(Received, "view", broken)
        post(sandbox, "one")
        until(box.status, lambda: "ZeroDivisionError: no view" in box.status.text, "text")
    post(sandbox, "two")
    shows(box, "text of two")


def test_a_closed_inbox_watches_nothing_and_is_kept_by_nobody(sandbox):
    post(sandbox, "one")
    before = set(Widget.get_manager_state()["state"])
    box = inbox(sandbox)
    shows(box, "text of one")
    box.close()
    assert sandbox._watchers == ()
    work = box._work
    if work is not None:
        work.result(10)
    rows = box._grid.rows
    post(sandbox, "two")
    assert box._grid.rows == rows
    gone = weakref.ref(box)
    del box, work
    gc.collect()
    assert gone() is None
    assert set(Widget.get_manager_state()["state"]) <= before


# --------------------------------------------------------------------------------------- the verb


def test_it_shows_the_sandbox_that_stands_in_unless_another_is_given(sandbox):
    box = inbox()
    assert box.sandbox is default_sandbox()
    assert connections.current() is None
    box.close()


@pytest.mark.parametrize("other", ["sandbox", 7, object()])
def test_something_else_than_a_sandbox_is_refused_with_its_fix(other):
    with pytest.raises(OptionError, match="Give the Sandbox"):
        inbox(other)


def test_it_has_a_text_twin_of_one_line(box, sandbox):
    assert repr(box) == "<Inbox 0 messages>"
    for name in ("one", "two\\n", "three", "four"):
        post(sandbox, name)
    assert repr(box) == r"<Inbox 4 messages: 'four', 'three', 'two\\n'>"
