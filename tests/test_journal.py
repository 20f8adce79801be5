"""Running a merge again: what went is skipped, what is left goes, what is in doubt is listed."""

from __future__ import annotations

import asyncio
import json
import platform
import sqlite3
import zlib
from pathlib import Path

import pandas as pd
import pytest
from begun import begun
from journals import KINDS, changed, fresh
from scripted import ACCEPT_DROP, Server

from smtp_notebook import (
    Connection,
    DeliveryError,
    Journal,
    JournalError,
    MergeRefusedError,
    PreflightError,
    State,
    Template,
    mail_merge,
    schema,
    send,
    sqlite_store,
)
from smtp_notebook import journal as journals
from smtp_notebook.schema import checksum

LETTER = "---\nsubject: Hi {{ n }}\n---\nDear **{{ n }}**"


def frame(count=6, first=0, **columns):
    numbers = list(range(first, first + count))
    return pd.DataFrame({"Email": [f"u{i}@example.com" for i in numbers], "n": numbers} | columns)


def merge(server, data, template=LETTER, **options):
    options = {"campaign": "c", "from_": "me@example.com", "via": server.url(), "progress": False} | options
    return mail_merge(data, template, **options)


def copies(server):
    return sorted(m.recipients[0] for m in server.log.mails)


@pytest.fixture(
    autouse=True, params=[pytest.param("sqlite"), pytest.param("postgresql", marks=pytest.mark.slow)]
)
def kind(request, monkeypatch):
    """Every promise is kept by both kinds of journal, where nothing else is said."""
    if request.param == "postgresql":
        monkeypatch.setenv("SMTP_NOTEBOOK_JOURNAL", fresh(request.getfixturevalue("postgres")))
    return request.param


#: What is of a file alone.
of_a_file = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
#: What every run of the tests tries with both.
of_both = pytest.mark.parametrize("kind", KINDS, indirect=True)


@pytest.fixture
def server():
    with Server() as found:
        yield found


@of_both
def test_running_again_mails_nobody_twice_and_says_so(server):
    merge(server, frame(6))
    report = merge(server, frame(6))
    assert report.counts == {State.SKIPPED: 6}
    assert "had it already" in report[0].reason
    assert copies(server) == [f"u{i}@example.com" for i in range(6)]


def rewritten(data):
    return data.assign(n=data["n"] + 100)


# G1 to G4, G6, G8: whatever happens to the frame, identity is the key.
CHANGES = {
    "reordered": lambda data: data.iloc[::-1],
    "a row before": lambda data: pd.concat([frame(1, 50), data]),
    "a row less": lambda data: data.drop(index=2),
    "another index": lambda data: data.set_index(pd.Index(range(100, 100 + len(data)))),
    "other text": rewritten,
    "other case": lambda data: data.assign(
        Email=data["Email"].str.upper().str.replace("EXAMPLE.COM", "Example.com")
    ),
    "next week's export": lambda data: pd.concat([data, frame(3, 60)]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_frame_mails_the_new_rows_alone(server, name):
    merge(server, frame(5))
    data = CHANGES[name](frame(5))
    report = merge(server, data)
    assert len(copies(server)) == len({a.casefold() for a in copies(server)})
    assert len(report.sent) == len(copies(server)) - 5
    assert len(report) == len(data)


def test_a_sent_row_whose_address_changed_is_reported_and_not_resent(server):
    merge(server, frame(3, Id=["a", "b", "c"]), key="Id")
    data = frame(3, Id=["a", "b", "c"])
    data.loc[1, "Email"] = "new@example.com"
    report = merge(server, data, key="Id")
    assert report.counts == {State.SKIPPED: 3}
    assert "new@example.com" in report[1].warnings[0]
    assert len(server.log.mails) == 3


def test_an_unsent_row_whose_address_changed_goes_to_the_new_one(server):
    server.script["rcpt"] = lambda a: "550 5.1.1 no" if a.startswith("u1") else None
    merge(server, frame(3, Id=["a", "b", "c"]), key="Id")
    again = merge(server, frame(3, Id=["a", "b", "c"]), key="Id")
    assert [o.state for o in again] == [State.SKIPPED, State.REFUSED, State.SKIPPED]
    assert "unchanged" in again[1].reason
    data = frame(3, Id=["a", "b", "c"])
    data.loc[1, "Email"] = "new@example.com"
    assert merge(server, data, key="Id").counts == {State.SENT: 1, State.SKIPPED: 2}
    assert copies(server) == ["new@example.com", "u0@example.com", "u2@example.com"]


@pytest.mark.parametrize("kinds", [(1, 1.0), (1, "1"), (1.0, "1")])
def test_a_key_that_changed_its_type_is_the_same_row(server, kinds):
    for kind in kinds:
        data = frame(1).assign(Id=pd.Series([kind], dtype=object if isinstance(kind, str) else None))
        merge(server, data, key="Id")
    assert len(server.log.mails) == 1


@pytest.mark.parametrize("cell", [None, float("nan"), "", True])
def test_a_key_that_tells_nothing_apart_is_refused(server, cell):
    with pytest.raises(PreflightError):
        merge(server, frame(1).assign(Id=pd.Series([cell], dtype=object)), key="Id")
    assert server.log.mails == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"template": LETTER + " and more"}, "template"),
        ({"subject": "Another"}, "template"),
        ({"from_": "other@example.com"}, "From"),
        ({"via": "elsewhere"}, "localhost"),
    ],
)
def test_a_changed_campaign_stops_and_goes_on_with_the_rest_when_told(server, change, word):
    merge(server, frame(2))
    if "via" in change:
        change = {"via": server.url().replace("127.0.0.1", "localhost")}
    with pytest.raises(MergeRefusedError, match=word):
        merge(server, frame(4), **change)
    assert len(server.log.mails) == 2
    report = merge(server, frame(4), changed="send-rest", **change)
    assert report.counts == {State.SENT: 2, State.SKIPPED: 2}
    assert "version 1" in report[0].reason
    assert len(server.log.mails) == 4


def test_a_changed_attachment_is_a_changed_campaign(server, tmp_path):
    (tmp_path / "offer.txt").write_text("1")
    fields = {"attach": "offer.txt", "attach_root": tmp_path}
    from smtp_notebook import Template

    def template():
        return Template(LETTER, **fields)

    merge(server, frame(1), template())
    (tmp_path / "offer.txt").write_text("2")
    with pytest.raises(MergeRefusedError, match="template"):
        merge(server, frame(2), template())


@of_both
def test_a_row_in_doubt_is_listed_until_a_person_decides():
    with Server({"dot": [ACCEPT_DROP, None]}) as server:
        first = merge(server, frame(3))
        assert first.counts == {State.SENT: 2, State.IN_DOUBT: 1}
        again = merge(server, frame(3))
        assert again.counts == {State.SKIPPED: 2, State.IN_DOUBT: 1}
        assert "in doubt" in again.text()
        assert len(server.log.mails) == 3
        key = again.in_doubt[0].key
        Journal().resolve("c", key, delivered=False)
        assert merge(server, frame(3)).counts == {State.SENT: 1, State.SKIPPED: 2}
        with pytest.raises(JournalError, match="not in doubt"):
            Journal().resolve("c", key, delivered=True)


@of_both
def test_a_partly_accepted_row_goes_to_the_rest_alone(server):
    answers = {"b@example.com": ["450 4.2.1 later"], "c@example.com": ["550 5.1.1 no"]}
    server.script["rcpt"] = lambda a: answers.get(a, [None])[-1]
    row = pd.DataFrame({"Email": ["a@example.com"], "n": [1]})
    options = {"cc": "b@example.com; c@example.com"}
    assert merge(server, row, **options)[0].state is State.PARTIAL
    answers.clear()
    rest = merge(server, row, **options)[0]
    assert (rest.state, rest.refused) == (State.PARTIAL, (("c@example.com", "550 5.1.1 no"),))
    assert [m.recipients for m in server.log.mails] == [["a@example.com"], ["b@example.com"]]
    report = merge(server, row, **options)
    assert report.counts == {State.SKIPPED: 1}
    assert len(server.log.mails) == 2


def test_tests_redirects_and_practice_count_for_nobody(server):
    merge(server, frame(3), test_to="me@example.com", limit=1, campaign="")
    merge(server, frame(3), test_to="me@example.com", limit=1)
    assert merge(server, frame(3)).counts == {State.SENT: 3}


def test_limit_counts_the_rows_that_are_tried(server):
    for _ in range(3):
        merge(server, frame(5), limit=2)
    assert copies(server) == [f"u{i}@example.com" for i in range(5)]


@of_both
def test_a_second_run_of_a_campaign_is_refused_and_names_the_holder(server):
    journal = Journal()
    ledger = journal.begin("c", scope="loopback:127.0.0.1", sender="x", fingerprint="y")
    with pytest.raises(MergeRefusedError, match=f"process [0-9]+ on {platform.node()}"):
        merge(server, frame(1))
    ledger.close()
    journal.begin("other", scope="s", sender="x", fingerprint="y").close()
    assert server.log.mails == []


@of_a_file
def test_a_lock_of_another_host_is_never_taken_over(server):
    merge(server, frame(1))
    (lock,) = Journal().path.parent.glob("*.lock")
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": "x"}))
    with pytest.raises(MergeRefusedError, match="elsewhere"):
        merge(server, frame(2))
    lock.write_text(json.dumps({"host": platform.node(), "pid": 1, "since": "x"}))
    assert merge(server, frame(2)).counts == {State.SENT: 1, State.SKIPPED: 1}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("UPDATE record SET state='planned' WHERE key='u1@example.com'", "checksum"),
        ("DELETE FROM record WHERE key='u1@example.com'", "records"),
    ],
)
def test_a_damaged_record_stops_the_merge_and_keeps_what_is_good(server, change, word):
    merge(server, frame(3))
    changed(change)
    with pytest.raises(JournalError, match=word):
        merge(server, frame(4))
    assert len(server.log.mails) == 3
    assert len(Journal().export()) == 2


@of_a_file
def test_a_file_that_is_no_journal_is_refused(server, tmp_path):
    (tmp_path / "j").write_bytes(b"not a database at all" * 100)
    with pytest.raises(JournalError, match="damaged"):
        merge(server, frame(1), journal=tmp_path / "j")
    assert server.log.mails == []


@of_a_file
def test_a_newer_journal_is_refused(tmp_path):
    Journal(tmp_path / "j").close()
    with sqlite3.connect(tmp_path / "j") as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(JournalError, match="newer"):
        Journal(tmp_path / "j")


@of_a_file
def test_no_dot_leaves_when_the_journal_cannot_be_written(server, monkeypatch):
    """F66: the disk is full at the intent."""
    real = journals.Ledger._commit

    def full(self):
        self._store._db.execute("PRAGMA query_only=1")
        real(self)

    monkeypatch.setattr(journals.Ledger, "_commit", full)
    monkeypatch.setattr(journals.Ledger, "close", lambda self: self._holder.release())
    with pytest.raises(JournalError, match="cannot be used"):
        merge(server, frame(5))
    assert server.log.mails == []


@of_a_file
def test_no_secret_and_no_text_is_in_the_file(server, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", "correct-horse")
    with Server(login=("ann", "correct-horse")) as with_login:
        merge(
            with_login,
            frame(2),
            "---\nsubject: quiet subject\n---\nloud body",
            via=with_login.url(user="ann"),
        )
    kept = b"".join(p.read_bytes() for p in Path(Journal().path.parent).iterdir())
    assert b"u1@example.com" in kept
    for word in (b"correct-horse", b"loud body", b"quiet subject"):
        assert word not in kept


def single(server, **fields):
    fields = {"to": "ann@example.com", "from_": "me@example.com", "body": "hi"} | fields
    return send(via=server.url(), **fields)


@of_both
def test_a_single_mail_that_went_before_says_so_and_goes_only_once_when_asked(server):
    assert "went before" not in repr(single(server))
    assert "went before" in repr(single(server))
    assert len(server.log.mails) == 2
    skipped = single(server, once=True)
    assert (skipped.state, len(server.log.mails)) == (State.SKIPPED, 2)
    assert single(server, once=True, subject="another").state is State.SENT
    assert single(server, once=True, subject="another").state is State.SKIPPED
    assert Journal().report("single mails").counts == {State.SENT: 3}


def test_a_single_mail_that_failed_is_not_taken_for_sent(server):
    server.script["rcpt"] = ["550 5.1.1 no", None]
    with pytest.raises(DeliveryError):
        single(server, once=True)
    assert single(server, once=True).state is State.SENT


def test_a_single_mail_in_doubt_is_not_repeated_with_once(server):
    server.script["dot"] = [ACCEPT_DROP, None]
    for _ in range(2):
        with pytest.raises(DeliveryError) as caught:
            single(server, once=True)
        assert caught.value.outcome.state is State.IN_DOUBT
    assert len(server.log.mails) == 1


def test_the_magics_once_is_sends_once(server):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "smtp_notebook")
    line = f"--to ann@example.com --from me@example.com --via {server.url()} --once"
    states = [shell.run_cell_magic("send_email", line, "hello").state for _ in range(2)]
    assert states == [State.SENT, State.SKIPPED]


def test_the_name_of_single_mails_is_no_campaign(server):
    with pytest.raises(MergeRefusedError, match="taken"):
        merge(server, frame(1), campaign="single mails")


@of_both
def test_a_journal_shows_itself_and_gives_a_report_back(server):
    merge(server, frame(3))
    journal = Journal()
    assert journal.report("c").counts == {State.SENT: 3}
    assert "3 sent" in journal._repr_mimebundle_()["text/html"]
    assert repr(journal).endswith("1 campaign>")
    journal.forget("c")
    assert journal.campaigns() == []
    with pytest.raises(JournalError, match="no campaign"):
        journal.report("c")


@of_a_file
def test_on_a_network_file_system_there_is_no_wal(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_store, "on_network", lambda _: True)
    journal = Journal(tmp_path / "j")
    assert journal._store._db.execute("PRAGMA journal_mode").fetchone()[0] == "delete"


@of_both
@pytest.mark.parametrize(("power", "doubtful"), [(False, 1), (True, 5)])
def test_after_a_power_loss_the_whole_window_is_in_doubt_and_after_a_kill_only_what_was_intended(
    kind, monkeypatch, power, doubtful
):
    first = begun(Journal(), frame(5))

    async def intend():
        await first.ledger.intend(first.rows[0])

    asyncio.run(intend())
    first.die()
    if power and kind == "sqlite":
        monkeypatch.setattr(sqlite_store, "boot_id", lambda: "another")
    elif power:
        # Of a server that was replaced by its copy.
        changed("UPDATE claim SET boot='another'")
    again = begun(Journal(), frame(5))
    assert len(again.rows) == 5 - doubtful
    assert {o.state for o in again.known} == {State.IN_DOUBT}
    assert len(again.known) == doubtful
    again.ledger.close()


@of_a_file
def test_a_journal_of_the_first_form_is_moved_and_knows_who_had_the_mail(server, tmp_path):
    path = tmp_path / "old.sqlite3"
    with sqlite3.connect(path) as db:
        schema.MIGRATIONS[0].apply(db)
        db.execute("PRAGMA user_version=1")
        template = Template(LETTER, to="{{ row['Email'] }}", from_="me@example.com")
        values = (1, "c", "loopback:127.0.0.1", "me@example.com", template.fingerprint, 1, "2026-11-01", 3)
        db.execute("INSERT INTO campaign VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        for number, state in enumerate(("sent", "intended", "partial")):
            to = (
                [f"u{number}@example.com", "x@example.com"]
                if state == "partial"
                else [f"u{number}@example.com"]
            )
            refused = [["x@example.com", "450 later"]] if state == "partial" else []
            outcome = {"state": state.replace("intended", "planned"), "to": to, "status": 200, "row": number}
            text = json.dumps(outcome | {"refused": refused})
            record = (1, to[0], 1, state, "run", "boot", b"d" * 32, 1, text, 0)
            db.execute("INSERT INTO row VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", record)
    db.close()
    report = merge(server, frame(4), journal=path)
    assert [o.state for o in report] == [State.SKIPPED, State.IN_DOUBT, State.SKIPPED, State.SENT]
    assert copies(server) == ["u3@example.com"]


@pytest.mark.parametrize("kept", [True, False])
def test_a_frame_that_changes_during_the_run_sends_what_was_checked_or_nothing(server, monkeypatch, kept):
    """G14: a mail that was kept goes as checked; one that is rendered again must come out the same."""
    from smtp_notebook import preflight

    if not kept:
        monkeypatch.setattr(preflight, "MEMORY_BUDGET", 0)
        monkeypatch.setattr(preflight, "CLAIMED", 1)
    data = frame(5)

    def change(_outcome):
        data["n"] = "CHANGED"

    via = Connection.from_url(server.url(), max_connections=1)
    report = merge(server, data, via=via, on_outcome=change)
    assert not any(b"CHANGED" in mail.content for mail in server.log.mails)
    assert set(report.counts) <= {State.SENT, State.INVALID}
    assert len(report) == 5
    assert len(report.sent) == 5 or not kept
    assert len(server.log.mails) == len(report.sent)


def test_a_mail_that_comes_out_differently_the_second_time_is_refused(server, monkeypatch):
    from smtp_notebook import preflight

    monkeypatch.setattr(preflight, "MEMORY_BUDGET", 0)
    turns = iter(range(100))
    report = merge(server, frame(3), "{{ n }} {{ turn() }}", values={"turn": lambda: next(turns)})
    assert report.counts == {State.INVALID: 3}
    assert "differs from the one that was checked" in report[0].reason
    assert server.log.mails == []


@of_a_file
def test_a_checksum_stays_what_it_was():
    """Records that an earlier version wrote have to fit."""
    values = (7, "ä@example.com", 2, 1, b"\x00\xff", "", None, "sent", 0.1, 1e20)
    assert checksum(values) == zlib.crc32(
        "7\x1fä@example.com\x1f2\x1f1\x1fb'\\x00\\xff'\x1f\x1fNone\x1fsent\x1f0.1\x1f1e+20".encode()
    )


@of_both
def test_what_went_of_late_is_counted_by_age_mails_and_people(server):
    server.script["rcpt"] = lambda a: "450 4.2.1 later" if a == "u1@example.com" else None
    via = Connection.from_url(server.url(), attempts=1)
    merge(server, frame(3), cc="x@example.com", via=via)
    single(server)
    journal = Journal()
    past = journal.past("loopback:127.0.0.1", 3600)
    assert sum(mails for _, mails, _ in past) == 4
    assert sum(people for _, _, people in past) == 7
    assert all(0 <= age < 60 for age, _, _ in past)
    assert sum(mails for _, mails, _ in journal.past("real:elsewhere", 3600)) == 1, "the single mail"
    assert journal.past("loopback:127.0.0.1", 0) == []


@of_both
def test_mails_are_found_by_their_ids_and_every_record_is_exported(server):
    ids = [o.message_id for o in merge(server, frame(3))]
    merge(server, frame(1, 9), campaign="d")
    journal = Journal()
    assert [(name, o.key) for name, o in journal.mails(lambda name: name in ids[1:])] == [
        ("c", "u1@example.com"), ("c", "u2@example.com")
    ]  # fmt: skip
    table = journal.export()
    assert list(table["campaign"]) == ["c", "c", "c", "d"]
    assert set(table["state"]) == {"sent"}
    assert journal.campaign_names() == ["d", "c"]


@of_both
def test_the_numbers_of_forgotten_records_are_not_given_again(server):
    merge(server, frame(3))
    journal = Journal()
    before = journal._all("SELECT max(id) FROM record")[0][0]
    journal.forget("c")
    assert (
        journal._all("SELECT count(*) FROM intent") == journal._all("SELECT count(*) FROM record") == [(0,)]
    )
    merge(server, frame(1))
    assert journal._all("SELECT min(id) FROM record")[0][0] > before


@of_both
def test_a_report_of_many_rows_is_read_a_few_at_a_time_and_by_place(server):
    merge(server, frame(25))
    report = Journal().report("c")
    assert (len(report), report[24].key, report[-1].key) == (25, "u24@example.com", "u24@example.com")
    assert [o.key for o in report[3:5]] == ["u3@example.com", "u4@example.com"]
    assert len(report.sent) == 25
    with pytest.raises(IndexError):
        report[25]
