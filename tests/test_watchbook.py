"""What a watch remembers: in the journal and in memory alike, whatever crashes in between."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from journals import KINDS, changed, fresh
from scripted import Server

from smtp_notebook import Connection, Journal, JournalError, Outcome, State, mail_merge, orders, suppress
from smtp_notebook._sync import run
from smtp_notebook.frames import own_key
from smtp_notebook.watchbook import BEFORE, PracticeBook, Watchbook

LETTER = "---\nto: {{ Email }}\nfrom: me@example.com\nsubject: Hi\n---\nHello {{ Name }}"


def row(number, email=None, name="Ann"):
    return {"Id": f"L{number}", "Email": f"u{number}@example.com" if email is None else email, "Name": name}


@pytest.fixture
def server():
    with Server() as it:
        yield it


def _named(request, monkeypatch, kind):
    if kind == "postgresql":
        monkeypatch.setenv("SMTP_NOTEBOOK_JOURNAL", fresh(request.getfixturevalue("postgres")))
    return Journal()


@pytest.fixture(params=KINDS)
def journal(request, monkeypatch):
    with contextlib.closing(_named(request, monkeypatch, request.param)) as found:
        yield found


@pytest.fixture(params=[*KINDS, "memory"])
def book(request, monkeypatch):
    if request.param == "memory":
        yield PracticeBook()
        return
    with contextlib.closing(_named(request, monkeypatch, request.param)) as found:
        yield Watchbook(found, "welcome")


def order(rows, server, **more):
    options = orders.Options(campaign="welcome", key="Id", on_problem="skip", progress=False)
    via = Connection.from_url(server.url())
    found = orders.Order.of(rows, LETTER, dataclasses.replace(options, via=via), {})
    return dataclasses.replace(found, notes=True, **more)


def merged(rows, server):
    """What a watch does with rows: every one of them into the journal, then the mails."""
    with orders.prepare(order(rows, server)) as merge:
        if merge.roll.count_due():
            it = merge.run(lambda _, position, columns: merge.roll.put(position, columns))
            run(it.send, stop=it.stop)
        return merge.report(tried=True)


# ----------------------------------------------------------------------------------------- the cursor


def test_a_first_start_is_recorded_once(book):
    assert not book.begun
    assert book.cursor is None
    assert book.begin({"at": 1}, ["a", "b", "a"], "now")
    assert not book.begin({"at": 2}, ["c"], "now")
    assert book.begun
    assert book.cursor == {"at": 1}
    assert book.standing(["a", "b", "c"]) == {"a": BEFORE, "b": BEFORE}
    assert book.counts() == {BEFORE: 2}


def test_a_cursor_moves_only_from_where_it_is(book):
    assert not book.advance(None, 5), "it has not begun"
    book.begin(None, [], "all")
    assert book.advance(None, [1, "ä"])
    assert not book.advance(None, 7)
    assert book.cursor == [1, "ä"]


def test_more_keys_than_a_query_takes_are_looked_up(book):
    keys = [f"k{n}" for n in range(1_700)]
    book.begin(None, keys[::2], "now")
    assert set(book.standing(keys)) == set(keys[::2])


def test_what_is_remembered_outlives_the_process(journal):
    Watchbook(journal, "welcome").begin([3], ["a"], "now")
    again = Watchbook(Journal(journal.path), "welcome")
    assert (again.begun, again.cursor, again.standing(["a"])) == (True, [3], {"a": BEFORE})
    assert not Watchbook(journal, "another").begun


def test_a_journal_that_is_open_for_reading_alone_does_for_a_look(journal):
    Watchbook(journal, "welcome").begin([3], ["a"], "now")
    glance = Journal.to_read(journal.path)
    assert Watchbook(glance, "welcome").cursor == [3]
    glance.close()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("UPDATE watch SET cursor='[9]'", "how far"),
        ("UPDATE watch_before SET key='b'", "there before"),
    ],
)
def test_what_a_disk_changed_is_found(journal, change, what):
    book = Watchbook(journal, "welcome")
    book.begin([3], ["a"], "now")
    changed(change)
    # A row that is not known would be mailed.
    with pytest.raises(JournalError, match=what):
        book.standing(["a"])
        book.cursor  # noqa: B018 - a property that reads


# -------------------------------------------------------------------------------------------- the rows


def test_every_row_of_a_watch_is_in_the_journal(journal, server):
    suppress("u3@example.com")
    rows = [row(1), row(2, email="no address"), row(3), row(4) | {"Id": None}, row(5)]
    report = merged(rows, server)
    assert [o.state for o in report] == ["sent", "invalid", "skipped", "invalid", "sent"]
    book = Watchbook(journal, "welcome")
    nobody = own_key(("Id",), rows[3])
    stands = book.standing(["L1", "L2", "L3", nobody, "L5", "L6"])
    assert {k: o.state for k, o in stands.items()} == {
        "L1": "sent", "L2": "invalid", "L3": "planned", nobody: "invalid", "L5": "sent",
    }  # fmt: skip
    assert [o.key for o in book.open()] == ["L2", "L3", nobody]
    assert "u3@example.com" in stands["L3"].reason
    assert book.counts() == {"sent": 2, "planned": 1, "invalid": 2}


def test_a_row_that_was_mended_or_is_not_suppressed_any_more_is_mailed(journal, server):
    from smtp_notebook import unsuppress

    suppress("u3@example.com")
    merged([row(2, email="no address"), row(3)], server)
    merged([row(2, email="still none"), row(3)], server)
    unsuppress("u3@example.com")
    merged([row(2), row(3)], server)
    assert sorted(m.recipients[0] for m in server.log.mails) == ["u2@example.com", "u3@example.com"]
    assert Watchbook(journal, "welcome").open() == []


def test_a_problem_that_stays_the_same_is_not_written_again(journal, server):
    def seqs():
        return journal._all("SELECT key, seq, reason FROM record ORDER BY id")

    merged([row(2, email="no address")], server)
    first = seqs()
    merged([row(2, email="no address")], server)
    assert seqs() == first
    merged([row(2, name=None)], server)
    ((key, seq, reason),) = seqs()
    assert (key, seq) == ("L2", 2)
    assert "Name" in reason


def test_a_second_row_of_one_key_changes_nothing_of_the_first(journal, server):
    merged([row(1), row(1, email="no address")], server)
    assert Watchbook(journal, "welcome").standing(["L1"])["L1"].state is State.SENT
    assert len(server.log.mails) == 1


def test_a_row_that_somebody_has_stays_so_whatever_it_says_later(journal, server):
    merged([row(1)], server)
    merged([row(1, email="no address")], server)
    assert Watchbook(journal, "welcome").standing(["L1"])["L1"].state is State.SENT


def test_a_merge_without_a_watch_writes_no_row_with_a_problem(journal, server):
    mail_merge(
        [row(1), row(2, email="no")], LETTER, campaign="plain", key="Id", on_problem="skip", via=server.url(), progress=False
    )  # fmt: skip
    assert [o.key for o in journal.report("plain")] == ["L1"]


# ---------------------------------------------------------------------------------------- the source


def test_the_source_is_owed_each_row_that_went_until_it_was_told(journal, server):
    book = Watchbook(journal, "welcome")
    book.begin(None, [], "all")
    merged([row(n) for n in range(5)], server)
    assert [o.key for o in book.owed(3)] == ["L0", "L1", "L2"]
    book.told(["L0", "L2", "unknown"])
    assert [o.key for o in book.owed()] == ["L1", "L3", "L4"]
    book.told([])


def test_rows_that_went_before_a_watch_began_are_not_owed(journal, server):
    merged([row(1)], server)
    book = Watchbook(journal, "welcome")
    book.begin(None, [], "all")
    merged([row(2)], server)
    assert [o.key for o in book.owed()] == ["L2"]


def test_forgetting_a_campaign_forgets_its_watch(journal, server):
    book = Watchbook(journal, "welcome")
    book.begin([1], ["a"], "now")
    journal.forget("welcome")
    assert not book.begun
    assert book.counts() == {}
    book.begin([1], ["a"], "now")
    merged([row(1)], server)
    book.told(["L1"])
    journal.forget("welcome")
    assert journal._all("SELECT * FROM watch_told") == journal._all("SELECT * FROM watch_before") == []
    with pytest.raises(JournalError, match="no campaign"):
        journal.forget("welcome")


def test_a_trial_remembers_what_it_did():
    book = PracticeBook()
    book.begin(None, ["old"], "now")
    partly = {"to": ("a@example.com", "b@example.com"), "refused": (("b@example.com", "450 later"),)}
    book.note(
        [
            Outcome(state=State.SENT, key="a"),
            Outcome(state=State.PARTIAL, key="b", **partly),
            Outcome(state=State.INVALID, key="c"),
            Outcome(state=State.SKIPPED, key="d"),
            Outcome(state=State.IN_DOUBT, key="e"),
        ]
    )
    assert {k: getattr(o, "state", o) for k, o in book.standing("abcdex").items()} == {
        "a": "sent", "b": "partial", "c": "invalid", "e": "in_doubt",
    }  # fmt: skip
    assert [o.key for o in book.open()] == ["b", "c"]
    assert [o.key for o in book.in_doubt()] == ["e"]
    assert [o.key for o in book.owed()] == ["a", "b"]
    book.told(["a"])
    assert [o.key for o in book.owed()] == ["b"]
