"""Nobody who asked to be left alone is mailed by a merge: not by a trial, not by a capital letter, not by a broken file."""

from __future__ import annotations

import os
import pickle
import sqlite3
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Server

from smtp_notebook import (
    Address,
    AddressError,
    Connection,
    Journal,
    JournalError,
    MessageError,
    State,
    Suppressions,
    mail_merge,
    send,
    suppress,
    suppressions,
    unsuppress,
    wording,
)
from smtp_notebook.outcome import Outcome, Report
from smtp_notebook.replies import one_line
from smtp_notebook.suppressions import Suppression, gone, proposed

LETTER = "---\nsubject: Hi {{ n }}\n---\nDear **{{ n }}**"


def frame(count=4, **columns):
    return pd.DataFrame({"Email": [f"u{i}@example.com" for i in range(count)], "n": range(count)} | columns)


def merge(via, data, **options):
    options = {"from_": "me@example.com", "progress": False} | options
    return mail_merge(data, options.pop("template", LETTER), via=via, **options)


def reached(box):
    return sorted(r for m in box.messages for r in m.recipients)


@pytest.fixture
def server():
    with Server() as found:
        yield found


def named(server, data, **options):
    return merge(server.url(), data, campaign="c", **options)


# ---------------------------------------------------------------------------------------- in a merge


@pytest.mark.parametrize(
    "written", ["u1@example.com", "U1@Example.COM", "Ann <u1@EXAMPLE.com>", "@example.com"]
)
def test_a_suppressed_row_is_skipped_and_says_who_when_and_why(sandbox, written):
    suppress(Address.parse(written) if "<" in written else written, reason="asked by phone")
    report = merge(sandbox, frame(3))
    outcome = report[1]
    assert (outcome.state, outcome.status, outcome.key) == (State.SKIPPED, 202, "u1@example.com")
    entry = Suppressions().find("u1@example.com")
    assert entry.since[:10] in outcome.reason
    assert "asked by phone" in outcome.reason
    assert entry.address.removeprefix("@") in outcome.reason
    assert outcome.to == ("u1@example.com",)
    left = [] if written.startswith("@") else ["u0@example.com", "u2@example.com"]
    assert reached(sandbox) == left
    assert any("suppressed" in note for note in report.notes)


def test_capital_letters_of_the_row_help_nobody(sandbox):
    suppress("ann@example.com")
    assert merge(sandbox, frame(1, Email=["ANN@EXAMPLE.com"])).counts == {State.SKIPPED: 1}
    assert reached(sandbox) == []


def test_a_domain_counts_for_itself_and_not_for_those_below_it(sandbox):
    suppress("@Exämple.test")
    data = frame(3, Email=["a@xn--exmple-cua.test", "b@exämple.test", "a@sub.exämple.test"])
    assert [o.state for o in merge(sandbox, data)] == [State.SKIPPED, State.SKIPPED, State.SENT]


def test_a_dry_run_and_a_test_to_show_what_will_happen(sandbox):
    suppress("u1@example.com; u2@example.com")
    dry = merge(sandbox, frame(4), dry_run=True)
    assert dry.counts == {State.PLANNED: 2, State.SKIPPED: 2}
    test = merge(sandbox, frame(4), test_to="me@example.com")
    assert test.counts == {State.SENT: 2, State.SKIPPED: 2}
    assert reached(sandbox) == ["me@example.com"] * 2
    redirected = merge(sandbox.connection.with_(redirect_to="me@example.com"), frame(4))
    assert redirected.counts == test.counts


def test_some_of_a_rows_recipients_are_left_out_and_the_outcome_says_so(sandbox):
    suppress(["cc@example.com", "archive@example.org"], reason="left the firm")
    template = "---\nto: {{ Email }}\ncc: CC@example.com\nbcc: archive@example.org; kept@example.org\nsubject: S\n---\nHi"
    report = merge(sandbox, frame(1), template=template)
    assert reached(sandbox) == ["kept@example.org", "u0@example.com"]
    assert report[0].to == ("u0@example.com", "kept@example.org")
    assert len(report[0].warnings) == 2
    assert all("left the firm" in w for w in report[0].warnings)
    dry = merge(sandbox, frame(1), template=template, dry_run=True)
    assert (dry[0].to, dry[0].warnings) == (report[0].to, report[0].warnings)


def test_nothing_is_made_for_a_row_of_which_nobody_is_mailed(sandbox):
    suppress("u1@example.com")
    made = []

    def text(row):
        made.append(row["n"])
        return "x"

    merge(sandbox, frame(3), template="---\nsubject: S\n---\n{{ text(row) }}", values={"text": text})
    assert 1 not in made


def test_a_problem_of_a_suppressed_row_keeps_no_merge_back(sandbox):
    suppress("u1@example.com")
    data = frame(3).astype({"n": object})
    data.loc[1, "n"] = None
    assert merge(sandbox, data).counts == {State.SENT: 2, State.SKIPPED: 1}


def test_a_suppression_that_arrives_during_a_merge_counts_from_the_next_window(server):
    count = 400

    def on_outcome(outcome):
        if outcome.key == "u0@example.com":
            suppress([f"u{i}@example.com" for i in range(count - 20, count)], reason="just now")

    report = named(server, frame(count), on_outcome=on_outcome)
    assert report.counts == {State.SENT: count - 20, State.SKIPPED: 20}
    assert report.suppressed == 20
    assert len(server.log.mails) == count - 20
    assert "just now" in report[count - 1].reason
    # The journal never knew more than that they were planned: they are due again when that is lifted.
    for i in range(count - 20, count):
        unsuppress(f"u{i}@example.com")
    assert named(server, frame(count)).counts == {State.SENT: 20, State.SKIPPED: count - 20}


def test_a_row_that_waits_for_another_try_is_not_tried_once_it_is_suppressed(server):
    tried = []

    def rcpt(address):
        tried.append(address)
        suppress(address, reason="meanwhile")
        return "450 4.7.1 later"

    server.script["rcpt"] = rcpt
    report = named(server, frame(1))
    assert tried == ["u0@example.com"]
    assert report[0].state is State.DEFERRED
    assert "not tried again" in report[0].reason
    assert "meanwhile" in report[0].reason


def test_those_who_had_it_stay_so_and_a_lifted_suppression_is_due_again(server):
    named(server, frame(2))
    suppress("@example.com")
    report = named(server, frame(3))
    assert ["had it already" in o.reason for o in report] == [True, True, False]
    unsuppress("@example.com")
    assert named(server, frame(3)).counts == {State.SKIPPED: 2, State.SENT: 1}


def test_the_rest_of_a_partial_row_is_left_alone_when_it_is_suppressed(server):
    later = ["450 4.2.1 later"]
    server.script["rcpt"] = lambda a: later[0] if a.startswith("cc") and later else None
    template = "---\nto: {{ Email }}\ncc: cc@example.com\nsubject: S\n---\nHi"
    first = named(server, frame(1), template=template)
    assert first.counts == {State.PARTIAL: 1}
    later.clear()
    suppress("cc@example.com")
    for options in ({"dry_run": True}, {}):
        assert named(server, frame(1), template=template, **options).counts == {State.SKIPPED: 1}
    assert all("cc@example.com" not in m.recipients for m in server.log.mails)
    unsuppress("cc@example.com")
    assert named(server, frame(1), template=template).counts == {State.SENT: 1}


def test_the_form_does_not_say_that_they_had_it(sandbox):
    suppress("u1@example.com")
    report = merge(sandbox, frame(3), dry_run=True)

    class Progress:
        due, total = 2, 3

    assert wording.check_text(Progress, report) == "2 of 3 rows can be sent."
    assert "1 suppressed" in wording.pills(Progress, report)
    assert "had it already" not in wording.pills(Progress, report)


def test_a_single_mail_goes_and_warns(sandbox):
    suppress("ann@example.com", reason="asked")
    outcome = send(to="Ann@example.com", subject="S", body="B", via=sandbox)
    assert outcome.state is State.SENT
    assert "asked" in " ".join(outcome.warnings)
    assert reached(sandbox) == ["Ann@example.com"]


# ------------------------------------------------------------------------------- what a report proposes


def test_a_report_names_the_addresses_that_do_not_exist_and_suppress_takes_exactly_those(server):
    answers = {
        "u0": "550 5.1.1 no such user",
        "u1": "550 5.7.1 we do not like you",
        "u2": "550 5.1.10 null MX",
        "u3": "552 5.2.2 mailbox full",
        "u4": "550 mailbox unavailable",
    }
    server.script["rcpt"] = lambda a: answers.get(a.partition("@")[0])
    report = named(server, frame(6))
    assert (
        report.notes[-1] == "2 addresses do not exist: suppress(report) keeps later merges from trying them."
    )
    assert suppress(report) == ("u0@example.com", "u2@example.com")
    again = named(server, frame(6))
    assert [o.state for o in again][:3] == [State.SKIPPED, State.REFUSED, State.SKIPPED]
    assert "no such user" in again[0].reason
    assert not any("do not exist" in note for note in again.notes)
    assert suppress(report) == ()


@pytest.mark.parametrize("how", ["test_to", "redirect", "practice"])
def test_a_trial_speaks_against_nobody(server, how):
    server.script["rcpt"] = lambda _: "550 5.1.1 no"
    via = Connection.from_url(server.url())
    options = {"test_to": "me@example.com"} if how == "test_to" else {}
    via = {"redirect": via.with_(redirect_to="me@example.com"), "practice": via.with_(practice=True)}.get(
        how, via
    )
    report = merge(via, frame(2), **options)
    assert report.counts == {State.REFUSED: 2}
    assert report.trial
    assert pickle.loads(pickle.dumps(report)).trial
    assert suppress(report) == suppress(report.failures) == ()
    assert not any("exist" in note for note in report.notes)


REFUSED = [
    (Outcome(state=State.REFUSED, to=("a@example.com",), enhanced="5.1.1", reason="x"), ["a@example.com"]),
    (Outcome(state=State.REFUSED, to=("a@example.com",), enhanced="5.2.1", reason="x"), ["a@example.com"]),
    (Outcome(state=State.REFUSED, to=("a@example.com",), enhanced="", reason="for 5.1.1 see there"), []),
    (Outcome(state=State.REFUSED, to=("a@example.com", "b@example.com"), enhanced="5.1.1", reason="x"), []),
    (Outcome(state=State.DEFERRED, to=("a@example.com",), enhanced="5.1.1", reason="x"), []),
    (
        Outcome(
            state=State.PARTIAL,
            to=("a@example.com", "b@example.com", "c@example.com"),
            refused=(("b@example.com", "550 5.1.1 no"), ("c@example.com", "550 5.7.1 see 5.1.1")),
        ),
        ["b@example.com"],
    ),
]


@pytest.mark.parametrize(("outcome", "found"), REFUSED)
def test_only_a_permanent_failure_of_the_address_itself_counts(outcome, found):
    assert [p.address for p in gone([outcome])] == found


def test_a_mailbox_that_is_switched_off_is_not_said_to_be_missing():
    report = Report([REFUSED[1][0]])
    assert proposed(report) == (
        "1 address does not exist or takes no mail: suppress(report) keeps later merges from trying it."
    )


# ------------------------------------------------------------------------------------------- the list


def test_the_list_can_be_read_asked_and_shown():
    assert len(Suppressions()) == 0
    suppress("b@example.com", reason="asked")
    suppress(pd.Series(["a@example.com", "b@example.com", "@example.org"]))
    found = Suppressions()
    assert [e.address for e in found] == ["@example.org", "a@example.com", "b@example.com"]
    assert "B@example.com" in found
    assert "anybody@example.org" in found
    assert "c@example.com" not in found
    frame = found.to_frame()
    assert list(frame.columns) == ["address", "reason", "since", "source"]
    assert str(frame["since"].dt.tz) == "UTC"
    shown = found._repr_mimebundle_()
    assert "3 addresses" in shown["text/plain"]
    assert "asked" in shown["text/html"]


def test_an_entry_keeps_its_date_and_a_person_has_the_last_word():
    listed = Suppressions()
    refused = Report([Outcome(state=State.REFUSED, to=("a@example.com",), enhanced="5.1.1", reason="550 no")])
    assert listed.add(refused) == ("a@example.com",)
    before = listed.find("a@example.com")
    assert suppress("A@example.com", reason="asked, too") == ()
    assert listed.add(refused) == ()
    after = listed.find("a@example.com")
    assert (after.reason, after.source, after.since) == ("asked, too", "person", before.since)


def test_what_is_no_address_changes_nothing():
    for wrong in (
        ["a@example.com", "nonsense"],
        ["a@example.com", float("nan")],
        "",
        5,
        "@",
        "a@example.com; x",
    ):
        with pytest.raises(AddressError):
            suppress(wrong)
    assert len(Suppressions()) == 0


def test_unsuppress_says_whether_it_was_there_and_what_still_holds():
    suppress("a@example.com; @example.com")
    with pytest.raises(MessageError, match="everybody at example.com"):
        unsuppress("a@example.com")
    assert unsuppress("@example.com")
    assert not unsuppress("A@example.com")


def test_no_file_is_made_before_there_is_an_address(sandbox):
    merge(sandbox, frame(1))
    send(to="a@example.com", subject="S", body="B", via=sandbox)
    assert "a@example.com" not in Suppressions()
    assert not Path(os.environ["SMTP_NOTEBOOK_SUPPRESSIONS"]).exists()


def test_two_lists_of_one_file_see_each_others_changes():
    one, other = Suppressions(), Suppressions()
    one.add("a@example.com")
    assert "a@example.com" in other
    other.remove("a@example.com")
    assert "a@example.com" not in one


# ---------------------------------------------------------------------------------------- damaged files


def flipped(path):
    with sqlite3.connect(path) as db:
        db.execute(
            "UPDATE suppression SET address='x@example.com', folded='x@example.com' WHERE folded LIKE 'u1@%'"
        )
    db.close()


def torn(path):
    content = bytearray(path.read_bytes())
    content[4096 : 4096 + 64] = b"\xff" * 64
    path.write_bytes(content)


DAMAGES = {
    "flipped": flipped,
    "torn": torn,
    "empty": lambda path: path.write_bytes(b""),
    "another file": lambda path: path.write_text("Dear all, this is a letter and no database.\n" * 50),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "another database": lambda path: (path.unlink(), Journal(path).close()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_merge_starts_with_a_broken_list(server, sandbox, damage):
    suppress([f"u{i}@example.com" for i in range(3)])
    DAMAGES[damage](Path(os.environ["SMTP_NOTEBOOK_SUPPRESSIONS"]))
    for via, options in ((server.url(), {"campaign": "c"}), (sandbox, {}), (sandbox, {"dry_run": True})):
        with pytest.raises(JournalError) as caught:
            merge(via, frame(5), **options)
        assert caught.value.fix
    with pytest.raises(JournalError):
        suppress("a@example.com")
    assert server.log.mails == [] == list(sandbox.messages)


def test_a_single_mail_goes_and_says_that_the_list_is_broken(sandbox):
    suppress("u1@example.com")
    Path(os.environ["SMTP_NOTEBOOK_SUPPRESSIONS"]).write_bytes(b"nonsense" * 100)
    outcome = send(to="u1@example.com", subject="S", body="B", via=sandbox)
    assert "cannot be used" in " ".join(outcome.warnings)


def test_a_list_that_vanishes_stops_the_merge_that_read_it(server):
    suppress("u1@example.com")
    path = Path(os.environ["SMTP_NOTEBOOK_SUPPRESSIONS"])

    def on_outcome(outcome):
        path.unlink(missing_ok=True)

    with pytest.raises(JournalError, match="gone"):
        named(server, frame(400), on_outcome=on_outcome)
    assert len(server.log.mails) < 399


# ------------------------------------------------------------------------------------------------- CSV


def test_a_list_goes_through_csv_and_comes_back(tmp_path, monkeypatch):
    suppress("ann@example.com", reason='=HYPERLINK("x"), "quoted"; more')
    suppress("@example.org")
    suppress("+tag@example.com", reason="'=a")
    first = list(Suppressions())
    assert Suppressions().to_csv(tmp_path / "out.csv") == 3
    text = (tmp_path / "out.csv").read_text()
    assert not [line for line in text.splitlines() if line[0] in "=+-@"]
    monkeypatch.setenv("SMTP_NOTEBOOK_SUPPRESSIONS", str(tmp_path / "other.sqlite3"))
    assert len(Suppressions().read_csv(tmp_path / "out.csv")) == 3
    assert list(Suppressions()) == first
    assert Suppressions().read_csv(tmp_path / "out.csv") == ()


def test_a_csv_from_elsewhere_is_read_whole_or_not_at_all(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("\ufeffE-Mail;Since\nann@example.com;2026-01-02\n;\nbob@example.com;\n", encoding="utf-8")
    assert Suppressions().read_csv(path) == ("ann@example.com", "bob@example.com")
    entry = Suppressions().find("ann@example.com")
    assert (entry.since, entry.source) == ("2026-01-02T00:00:00+00:00", "import")
    for text, word in (
        ("name\nx@example.com\n", "no column"),
        ("", "no column"),
        ("address\nc@example.com\nnonsense\n", "Line 3"),
        ("address,since\nc@example.com,yesterday\n", "yesterday"),
    ):
        path.write_text(text)
        with pytest.raises(MessageError, match=word):
            Suppressions().read_csv(path)
    assert "c@example.com" not in Suppressions()
    with pytest.raises(JournalError):
        Suppressions().read_csv(tmp_path / "missing.csv")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_any_reason_survives_csv(reasons):
    since = "2026-11-24T12:00:00+00:00"
    entries = [
        Suppression(f"u{i}@example.com", one_line(reason), since, "person")
        for i, reason in enumerate(reasons)
    ]
    assert suppressions._entries(suppressions._written(entries), "x.csv") == entries


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="'=+-@\t\r ab", max_size=8))
def test_a_guarded_cell_is_no_formula_and_can_be_bared(cell):
    guarded = suppressions._guarded(cell)
    assert not guarded or guarded[0] not in "=+-@\t\r"
    assert suppressions._bared(guarded) == cell


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="abcäöüßAÖẞ019._+-", min_size=1, max_size=12), st.integers(0, 2**12))
def test_no_capital_letter_gets_past_the_list(local, bits):
    try:
        address = Address(f"{local}@example.com").wire
    except AddressError:
        return
    listed = Suppressions()
    listed._entries = {address.casefold(): (address, "", "2026-11-24", "person")}
    other = "".join(c.upper() if bits >> i & 1 else c.lower() for i, c in enumerate(address))
    assert listed.listed(other) is not None
    assert listed.listed(f"x{other}") is None


def test_a_table_with_two_columns_of_addresses_is_refused_whole(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("email,address\n,gone@example.com\nq@example.com,\n")
    with pytest.raises(MessageError, match="several columns"):
        Suppressions().read_csv(path)
    assert len(Suppressions()) == 0


def test_a_star_for_a_whole_domain_is_refused_with_how_it_is_written():
    with pytest.raises(AddressError, match='"@example.com"'):
        suppress("*@example.com")


@pytest.mark.parametrize("since", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:00-05:00", "soon"])
def test_a_date_that_cannot_be_is_said_to_be_none(tmp_path, since):
    path = tmp_path / "out.csv"
    path.write_text(f"address,since\nann@example.com,{since}\n")
    with pytest.raises(MessageError):
        Suppressions().read_csv(path)
    with pytest.raises(MessageError):
        Suppressions().read_csv(None)


def test_a_list_that_cannot_be_looked_at_keeps_no_single_mail_back(monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_SUPPRESSIONS", "/tmp/" + "x" * 300)
    with Server() as server:
        via = Connection.from_url(server.url(), sender="me@example.com")
        outcome = send(to="ann@example.com", subject="s", body="b", via=via)
    assert any("suppression list" in w for w in outcome.warnings)


def test_who_was_left_out_is_no_change_of_the_row():
    suppress("boss@example.com")
    with Server() as server:
        via = Connection.from_url(server.url(), sender="me@example.com")

        def again():
            return merge(via, frame(2), cc="boss@example.com", campaign="c", progress=False)

        assert all("left out" in " ".join(o.warnings) for o in again())
        assert not any("now says" in " ".join(o.warnings) for o in again())
        unsuppress("boss@example.com")
        assert all("now says" in " ".join(o.warnings) for o in again())
    assert len(server.log.mails) == 2
