"""The pieces of the forms, as the front end uses them: what it sends is given to them, what they show is read."""

from __future__ import annotations

import pytest

from smtp_notebook import Attachment
from smtp_notebook.parts import Ask, Chips, Editor, Files, Fold, Grid, Pane, Row, Secret, split_typed
from smtp_notebook.views import View


def hears(part, buffers=(), **content):
    """Give a part what its front end would send."""
    part._handle_custom_msg(content, list(buffers))


def answers(part, monkeypatch):
    """Return the list into which everything goes that the part sends to its front end."""
    found = []
    monkeypatch.setattr(part, "send", lambda content, _buffers=None: found.append(content))
    return found


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("ann@example.com", ["ann@example.com"]),
        ("a@example.com, b@example.com; c@example.com", ["a@example.com", "b@example.com", "c@example.com"]),
        (
            "a@example.com\nb@example.com\r\n\r\nc@example.com\n",
            ["a@example.com", "b@example.com", "c@example.com"],
        ),
        ("a@example.com\tb@example.com", ["a@example.com", "b@example.com"]),
        ("a@example.com b@example.com", ["a@example.com", "b@example.com"]),
        ('"Smith, Ann" <a@example.com>; b@example.com', ['"Smith, Ann" <a@example.com>', "b@example.com"]),
        ("Ann Smith <a@example.com>", ["Ann Smith <a@example.com>"]),
        ("no address here", ["no address here"]),
        (" ;, \n", []),
    ],
)
def test_a_pasted_list_is_split_where_its_addresses_end(typed, expected):
    assert split_typed(typed) == expected


def test_a_chip_says_what_is_wrong_with_it_and_can_go():
    chips = Chips("To")
    hears(chips, type="add", text="ann@example.com; bob@")
    assert [bool(c["problem"]) for c in chips.chips] == [False, True]
    assert "nothing stands after the @" in chips.chips[1]["problem"]
    assert (chips.value, chips.good) == ("ann@example.com; bob@", "ann@example.com")
    hears(chips, type="remove", index=1, text="bob@")
    assert chips.value == "ann@example.com"


def test_a_chip_that_is_not_there_any_more_takes_no_other_away():
    chips = Chips("To", "a@example.com; b@example.com")
    hears(chips, type="remove", index=0, text="b@example.com")
    hears(chips, type="remove", index=7, text="a@example.com")
    assert chips.value == "a@example.com; b@example.com"


def test_an_address_that_is_there_is_not_added_again():
    chips = Chips("To", "a@example.com")
    hears(chips, type="add", text="a@example.com, b@example.com, b@example.com")
    assert chips.value == "a@example.com; b@example.com"


def test_what_is_typed_counts_and_is_checked_before_it_is_entered():
    chips = Chips("To", "a@example.com")
    chips.typed = "bob@exam ple.com"
    assert chips.value == "a@example.com; bob@exam ple.com"
    assert chips.problem
    chips.typed = "bob"
    assert not chips.problem, "somebody who has not finished is left alone"


def upload(files, content, *, name="a.bin", kind="", size=None, monkeypatch):
    told = answers(files, monkeypatch)
    hears(files, type="begin", id="1", name=name, kind=kind, size=len(content) if size is None else size)
    pieces = 0
    while told and told[-1]["type"] == "next":
        at = told[-1]["at"]
        hears(files, [memoryview(content[at : at + 1000])], type="piece", id="1", at=at)
        pieces += 1
    return told, pieces


def test_a_file_arrives_in_pieces_that_are_asked_for_one_by_one(monkeypatch):
    files = Files()
    content = bytes(range(256)) * 14
    told, pieces = upload(files, content, monkeypatch=monkeypatch)
    assert pieces == 4
    assert told[-1] == {"type": "over", "id": "1"}
    assert [(a.name, a.content) for a in files.value] == [("a.bin", content)]
    assert files.unfinished == ""


def test_an_empty_file_is_a_file(monkeypatch):
    files = Files()
    upload(files, b"", name="empty.txt", monkeypatch=monkeypatch)
    assert [(a.name, a.content) for a in files.value] == [("empty.txt", b"")]


def test_a_file_that_the_server_would_refuse_is_not_loaded_and_says_so(monkeypatch):
    files = Files(limit=10 * 2**20)
    told, pieces = upload(files, b"", size=9 * 2**20, monkeypatch=monkeypatch)
    assert (pieces, files.value, told[-1]["type"]) == (0, (), "over")
    assert "Encoded it is 12.3 MB, and the server takes mails of 10 MB" in files.files[0]["problem"]
    assert "a.bin: Encoded" in files.unfinished
    hears(files, type="remove", id="1", index=0)
    assert (files.files, files.unfinished) == ([], "")


def test_files_that_are_too_much_together_say_so_and_a_larger_server_takes_them():
    files = Files([Attachment(bytes(600_000), "a"), Attachment(bytes(600_000), "b")], limit=2**20)
    assert "the server takes mails of 1 MB" in files.problem
    files.limit = 2**21
    assert files.problem == ""


def test_a_file_that_ends_early_or_cannot_be_read_is_named(monkeypatch):
    files = Files()
    answers(files, monkeypatch)
    hears(files, type="begin", id="1", name="a.bin", kind="", size=900)
    assert files.unfinished == "a.bin is still being loaded."
    hears(files, [bytes(500)], type="piece", id="1", at=0)
    hears(files, [b""], type="piece", id="1", at=500)
    assert files.unfinished == "a.bin: It ended early. Remove it and choose it again."
    hears(files, type="begin", id="2", name="b", kind="", size=5)
    hears(files, type="lost", id="2", why="gone")
    assert "gone" in files.files[1]["problem"]


def test_a_second_view_of_a_form_does_not_double_a_file(monkeypatch):
    files = Files()
    answers(files, monkeypatch)
    hears(files, type="begin", id="1", name="a", kind="", size=4)
    hears(files, [b"ab"], type="piece", id="1", at=0)
    hears(files, [b"ab"], type="piece", id="1", at=0)
    hears(files, [b"cd"], type="piece", id="1", at=2)
    hears(files, [b"cd"], type="piece", id="1", at=2)
    assert [a.content for a in files.value] == [b"abcd"]


def test_a_name_that_no_file_may_have_is_that_files_problem(monkeypatch):
    files = Files()
    upload(files, b"x", name="a\nb", kind="no type", monkeypatch=monkeypatch)
    assert (files.value, bool(files.files[0]["problem"])) == ((), True)


def test_what_code_writes_reaches_an_editor_that_has_the_focus(monkeypatch):
    editor = Editor()
    told = answers(editor, monkeypatch)
    editor.put("new")
    assert (editor.value, told) == ("new", [{"type": "set"}])


def test_a_preview_asks_for_the_source_only_while_it_is_looked_at():
    pane, asked = Pane(), []
    pane.show(View("<p>", "t", (("To", "a"),), ("look",)), lambda: asked.append(1) or "S")
    assert (asked, pane.source, pane.notes, pane.headers) == ([], "", ["look"], [["To", "a"]])
    pane.tab = "source"
    assert (asked, pane.source) == ([1], "S")
    pane.say("Nobody is mailed.")
    assert (pane.empty, pane.page, pane.source, pane.notes) == ("Nobody is mailed.", "", "", [])


def test_an_error_in_a_preview_is_given_to_its_form():
    pane, failed = Pane(), []
    pane.failed = failed.append
    pane.show(View("<p>", "t", ()), lambda: 1 / 0)
    pane.tab = "source"
    assert [type(e) for e in failed] == [ZeroDivisionError]


def test_a_question_is_answered_once():
    ask, done = Ask(), []
    ask.ask("Send?", [("To", "all")], "Send", lambda: done.append(1))
    assert (ask.opened, ask.facts) == (True, [["To", "all"]])
    hears(ask, type="answer", yes=True)
    hears(ask, type="answer", yes=True)
    assert (done, ask.opened) == ([1], False)


def test_a_no_counts_although_an_edit_changed_the_question_meanwhile():
    ask, answers = Ask(), []
    ask.ask("Send to one?", [], "Send", lambda: answers.append("yes"))
    older = ask.number
    ask.ask("Send to two?", [], "Send", lambda: answers.append("yes"))
    hears(ask, type="answer", yes=False, number=older)
    assert not ask.opened
    hears(ask, type="answer", yes=True, number=ask.number)
    assert answers == []


def test_an_answer_to_an_older_question_is_none():
    ask, secret, done = Ask(), Secret(), []
    ask.ask("Load?", [], "Load", lambda: done.append("loaded"))
    older = ask.number
    ask.ask("Send?", [], "Send", lambda: done.append("sent"))
    hears(ask, type="answer", yes=True, number=older)
    assert (done, ask.opened) == ([], True)
    secret.ask("Password of ann", done.append)
    secret.ask("Password of bob", done.append)
    hears(secret, type="secret", text="ann's", number=secret.number - 1)
    assert (done, secret.opened) == ([], True)


def test_half_a_character_does_not_stop_the_chips():
    chips = Chips("To")
    hears(chips, type="add", text="a\ud800@example.com")
    assert chips.chips[0]["text"].isprintable()
    chips.chips[0]["text"].encode()


@pytest.mark.parametrize("answer", [False, None, "yes"])
def test_whatever_is_not_a_plain_yes_is_a_no(answer):
    ask, done = Ask(), []
    ask.ask("Send?", [], "Send", lambda: done.append(1))
    hears(ask, type="answer", yes=answer)
    assert (done, ask.opened) == ([], False)


def test_a_password_is_given_on_and_is_in_no_trait():
    secret, got = Secret(), []
    secret.ask("Password of ann", got.append)
    hears(secret, type="secret", text="correct-horse")
    hears(secret, type="secret", text="again")
    assert got == ["correct-horse"]
    assert "correct-horse" not in repr(secret.get_state())


def test_a_password_that_is_not_given_does_nothing():
    secret, got = Secret(), []
    secret.ask("Password of ann", got.append)
    hears(secret, type="cancel")
    assert (got, secret.opened) == ([], False)


def test_a_list_shows_a_window_and_asks_for_more():
    asked = []
    grid = Grid("Rows", ["n"], more=lambda: asked.append(1))
    grid.show([Row("1", ("one",)), Row("2", ("two",), "bad")], total=5)
    assert grid.rows == [
        {"id": "1", "cells": ["one"], "mark": ""},
        {"id": "2", "cells": ["two"], "mark": "bad"},
    ]
    hears(grid, type="more")
    assert (asked, grid.total) == ([1], 5)


def test_a_fold_hides_its_box_until_it_is_opened():
    import ipywidgets as w

    box = w.VBox()
    fold = Fold("More", box)
    assert box.layout.display == "none"
    fold.opened = True
    assert box.layout.display is None
