import dataclasses
import datetime as dt
import json
import sys
import threading
from pathlib import Path

import pytest

from smtp_notebook import (
    OptionError,
    Outcome,
    PracticeOrg,
    SalesforceLogin,
    SecretError,
    SettingsError,
    SourceError,
    State,
    Template,
    salesforce,
    watch,
)
from smtp_notebook import org as orgs
from smtp_notebook.frames import row_key
from smtp_notebook.practice import Answer
from smtp_notebook.sources import Source, Wanted, as_source

NOON = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)


class Clock:
    def __init__(self):
        self.now = NOON

    def __call__(self):
        return self.now

    def later(self, **spans):
        self.now += dt.timedelta(**spans)
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="module")
def served():
    with PracticeOrg() as started:
        yield started


@pytest.fixture
def org(served, clock):
    """An org as if nobody had used it, with pages of four records."""
    served.clear()
    served.end_sessions()
    served.clock, served.hook, served.page_size = clock, None, 4
    served.calls, served.logins, served.calls_per_day = 0, 0, 15_000
    return served


def lead(org, name, **fields):
    return org.add("Lead", FirstName=name, LastName="Lee", Email=f"{name.lower()}@example.com", **fields)


def leads(org, **more):
    source = salesforce("Lead", ["Email", "FirstName"], org=org, **more)
    source.prepare()
    return source


def with_(login, **changes):
    return dataclasses.replace(login, **changes)


def rows(batch):
    return [row for part in batch.parts for row in part.rows]


def names(batch):
    return [row["FirstName"] for row in rows(batch)]


def sent(identifier, name="ann", **more):
    made = {"state": State.SENT, "to": (f"{name}@example.com",), "message_id": f"<{name}@example.org>"}
    return Outcome(**made | {"key": identifier[:15], "started": NOON} | more)


def fails(org, *answers):
    """Have the org answer so to the next requests of its data, then as usual; return what was asked."""
    left, asked = list(answers), []

    def hook(request):
        asked.append(request)
        if not left or not request.path.startswith("/services/data/"):
            return None
        answer = left.pop(0)
        return answer() if callable(answer) else answer

    org.hook = hook
    return asked


# ------------------------------------------------------------------------------------------ the cursor


def test_it_is_a_source_whose_key_is_the_id(org):
    source = leads(org)
    assert isinstance(source, Source)
    assert source.key == ("Id",)
    assert as_source(source) is source


def test_a_start_now_leaves_those_alone_who_are_there_and_finds_who_comes(org, clock):
    lead(org, "Old", CreatedDate=NOON - dt.timedelta(hours=3))
    there = lead(org, "There")
    source = leads(org)
    begun = source.begin("now")
    assert [row["Id"] for row in rows(begun)] == [there]
    clock.later(minutes=1)
    new = lead(org, "New")
    found = source.read(begun.cursor)
    assert names(found) == ["There", "New"]
    assert rows(found)[1]["Id"] == new
    assert names(source.read(found.cursor)) == ["There", "New"]


def test_an_idle_org_leaves_the_cursor_as_it_is(org, clock):
    lead(org, "There")
    source = leads(org)
    cursor = source.begin("now").cursor
    for _ in range(3):
        clock.later(hours=5)
        assert source.read(cursor).cursor == cursor


def test_an_empty_org_begins_at_its_own_clock(org, clock):
    source = leads(org)
    begun = source.begin("now")
    assert begun.cursor == {"newest": "2026-11-29T12:00:00Z", "floor": "2026-11-29T11:45:00Z", "at": None}
    assert rows(begun) == []
    assert rows(source.read(begun.cursor)) == []


def test_a_start_with_all_finds_everybody_and_one_with_a_moment_those_since(org):
    lead(org, "Old", CreatedDate=NOON - dt.timedelta(hours=3))
    lead(org, "Young", CreatedDate=NOON - dt.timedelta(minutes=5))
    source = leads(org)
    begun = source.begin("all")
    assert rows(begun) == []
    assert names(source.read(begun.cursor)) == ["Old", "Young"]
    since = source.begin(NOON - dt.timedelta(minutes=5))
    assert rows(since) == []
    assert names(source.read(since.cursor)) == ["Young"]
    # Nor do those of the overlap before that moment count.
    assert names(source.read(source.begin(NOON - dt.timedelta(minutes=4)).cursor)) == []
    with pytest.raises(OptionError, match="time zone"):
        source.begin(dt.datetime(2026, 11, 29))


def test_a_row_that_becomes_visible_late_is_found_within_the_overlap_and_missed_beyond(org, clock):
    lead(org, "There")
    source = leads(org)
    cursor = source.begin("now").cursor
    clock.later(minutes=20)
    lead(org, "New")
    cursor = source.read(cursor).cursor
    lead(org, "Late", CreatedDate=clock.now - dt.timedelta(minutes=14))
    lead(org, "TooLate", CreatedDate=clock.now - dt.timedelta(minutes=16))
    assert names(source.read(cursor)) == ["Late", "New"]
    assert names(leads(org, overlap=dt.timedelta(minutes=17)).read(cursor)) == ["TooLate", "Late", "New"]


def test_a_longer_overlap_than_before_brings_nobody_who_was_there_before_the_start(org):
    lead(org, "Old", CreatedDate=NOON - dt.timedelta(hours=1))
    lead(org, "There")
    cursor = leads(org).begin("now").cursor
    assert names(leads(org, overlap=7200).read(cursor)) == ["There"]


def test_equal_times_across_the_end_of_a_page_lose_and_repeat_nobody(org):
    made = [lead(org, f"L{n}") for n in range(11)]
    found = leads(org).read(leads(org).begin("all").cursor)
    assert [row["Id"] for row in rows(found)] == made


def test_more_rows_than_one_poll_takes_are_read_by_the_next_ones(org, monkeypatch):
    monkeypatch.setattr("smtp_notebook.soql._MOST", 4)
    made = [lead(org, f"L{n}") for n in range(11)]
    source, found, cursors = leads(org), [], []
    cursor = source.begin("all").cursor
    for _ in range(3):
        batch = source.read(cursor)
        found += [row["Id"] for row in rows(batch)]
        cursor = json.loads(json.dumps(batch.cursor))
        cursors.append(cursor["at"])
    assert found == made
    assert cursors == [["2026-11-29T12:00:00Z", made[3]], ["2026-11-29T12:00:00Z", made[7]], None]
    assert [row["Id"] for row in rows(source.read(cursor))] == made[:4]


def test_a_thousand_rows_come_in_pages(clock):
    with PracticeOrg(page_size=400, clock=clock) as org:
        made = [lead(org, f"L{n}", CreatedDate=NOON + dt.timedelta(seconds=n // 7)) for n in range(1_003)]
        source = leads(org)
        clock.later(hours=1)
        found = source.read(source.begin("all").cursor)
        assert [row["Id"] for row in rows(found)] == made
        assert org.calls == 3
        assert found.cursor["at"] is None


def test_a_record_from_a_clock_that_runs_ahead_does_not_hide_those_that_follow(org, clock):
    lead(org, "Ahead", CreatedDate=NOON + dt.timedelta(days=1))
    source = leads(org)
    cursor = source.read(source.begin("all").cursor).cursor
    assert cursor["newest"] == "2026-11-29T12:00:00Z"
    lead(org, "New")
    assert sorted(names(source.read(cursor))) == ["Ahead", "New"]


def test_one_that_was_there_already_does_not_hide_them_either(org, clock):
    lead(org, "Ann", CreatedDate=clock.now + dt.timedelta(days=1))  # an import may set it
    source = leads(org)
    begun = source.begin("now")
    assert names(begun) == ["Ann"]
    clock.later(minutes=1)
    lead(org, "Bob")
    assert "Bob" in names(source.read(begun.cursor))


def test_a_cursor_of_another_source_is_refused(org):
    for cursor in (
        {"files": {}, "newest": 3},
        "x",
        None,
        {"newest": "", "floor": "", "at": ["x", "' OR Id != '"]},
    ):
        with pytest.raises(SettingsError, match="campaign of its own"):
            leads(org).read(cursor)


# --------------------------------------------------------------------------------------------- the rows


def test_deleted_rows_do_not_come(org):
    gone = lead(org, "Gone")
    lead(org, "Here")
    org.delete("Lead", gone)
    source = leads(org)
    assert names(source.read(source.begin("all").cursor)) == ["Here"]
    assert rows(source.again(wanted(gone))) == []


def test_a_row_has_python_values_and_its_relations_both_ways(org):
    account = org.add("Account", Name="Acme")
    org.add(
        "Contact",
        LastName="O'Neil",
        Email="o@example.com",
        AccountId=account,
        When__c=NOON,
        Day__c=NOON.date(),
    )
    org.add("Contact", LastName="Low")
    source = salesforce("Contact", "Account.Name, Account.Owner.Name, lastname, When__c, Day__c", org=org)
    source.prepare()
    first, second = rows(source.read(source.begin("all").cursor))
    assert first["Account"] == {"Name": "Acme", "Owner": {"Name": "Practice User"}}
    assert (first["Account.Name"], first["Account.Owner.Name"], first["lastname"]) == (
        "Acme",
        "Practice User",
        "O'Neil",
    )
    assert first["When__c"] == first["CreatedDate"] == NOON
    assert first["Day__c"] == "2026-11-29"
    assert not any("attributes" in str(row) for row in (first, second))
    assert second["Account.Name"] is None
    assert second["Account"] == {"Name": None, "Owner": {"Name": None}}


def test_without_fields_those_are_read_that_the_template_names_and_the_object_has(org):
    lead(org, "Ann", Title="Dr")
    template = Template(
        "---\nsubject: Hi {{ FirstName.title() }}\n---\n{{ greeting }} {{ row['Owner.Name'] }} {{ Owner.Email }}"
        "{{ CreatedDate | date }} {{ CreatedDate.year }} {{ row.Title }} {% for x in things %}{{ x.y }}{% endfor %}",
        values={"Company": "ours"},
    )
    source = salesforce("Lead", org=org)
    with pytest.raises(OptionError, match="No fields"):
        source.read(source.begin("all").cursor)
    fitted = as_source(source, template)
    (row,) = rows(fitted.read(fitted.begin("all").cursor))
    assert set(row) == {
        "Id",
        "CreatedDate",
        "Email",
        "FirstName",
        "Title",
        "Owner",
        "Owner.Name",
        "Owner.Email",
    }
    message = template.fill({**row, "greeting": "Dear", "things": []})
    assert message.subject == "Hi Ann"
    assert "Dear Practice User practice@example.com29 November 2026 2026 Dr" in message.text


def test_the_condition_is_the_persons_and_a_quote_stays_in_its_text(org):
    org.add("Lead", FirstName="A", LastName="O'Neil")
    org.add("Lead", FirstName="B", LastName="Lee")
    source = leads(org, where=r"LastName = 'O\'Neil' OR LastName = 'x'")
    assert names(source.read(source.begin("all").cursor)) == ["A"]
    for where in ("LastName = 'O'Neil'", "Id != null) OR (Id != null", "(Id != null"):
        with pytest.raises(OptionError, match="where="):
            leads(org, where=where)


def test_who_only_comes_to_meet_the_condition_after_the_start_was_there(org):
    there = lead(org, "There", Status="x")
    source = leads(org, where="Status = 'y'")
    assert names(source.begin("now")) == ["There"]
    org.update("Lead", there, Status="y")
    assert names(source.read(source.begin("now").cursor)) == ["There"]


@pytest.mark.parametrize(
    "given",
    [
        {"sobject": "Lead; DROP"},
        {"fields": ["Email FROM User"]},
        {"fields": []},
        {"fields": [3]},
        {"where": 3},
        {"overlap": -1},
        {"overlap": True},
        {"on_sent": "letter"},
        {"on_sent": {}},
        {"on_sent": {"A B": 1}},
        {"on_sent": {"A": object()}},
        {"on_sent": {"A": dt.datetime(2026, 1, 1)}},
        {"on_sent": ("task", 3)},
        {"org": 3},
    ],
)
def test_what_cannot_be_asked_is_refused_before_the_org_is(org, given):
    with pytest.raises(OptionError):
        salesforce(**{"sobject": "Lead", "org": org, **given})
    assert org.calls == 0


def test_names_that_the_org_does_not_have_are_a_persons_to_mend(org):
    for source, words in (
        (salesforce("Lead", ["Nope"], org=org), "No such column 'Nope'"),
        (salesforce("Led", ["Id"], org=org), "'Led' is not supported"),
        (leads(org, where="Nope = 3"), "No such column 'Nope'"),
    ):
        with pytest.raises(SettingsError, match=words):
            source.read(source.begin("all").cursor)
    with pytest.raises(SettingsError, match="longer than Salesforce takes"):
        source = salesforce("Lead", [f"Field_{n:04}__c" for n in range(900)], org=org)
        source.read(source.begin("all").cursor)


# -------------------------------------------------------------------------------------------- again


def wanted(*keys, columns=("Id",)):
    canonical = tuple(key[:15] if columns == ("Id",) else key for key in keys)
    return Wanted(columns, canonical, lambda row: row_key(columns, row))


def test_rows_are_read_again_by_their_ids_as_they_are_now(org):
    made = [lead(org, f"L{n}") for n in range(6)]
    source = leads(org, where="HasOptedOutOfEmail = false")
    org.update("Lead", made[1], FirstName="Changed")
    org.update("Lead", made[2], HasOptedOutOfEmail=True)
    org.delete("Lead", made[3])
    found = source.again(wanted(made[1], made[2], made[3], made[4], "no key: 12ab"))
    assert names(found) == ["Changed", "L4"]
    assert found.cursor is None
    assert rows(source.again(wanted())) == []


def test_two_thousand_ids_are_asked_for_in_pieces_that_fit_into_an_address(clock):
    with PracticeOrg(clock=clock) as org:
        made = [lead(org, f"L{n}") for n in range(2_000)]
        source = leads(org)
        asked = fails(org)
        assert sorted(row["Id"] for row in rows(source.again(wanted(*made)))) == made
        assert 1 < sum("/query" in each.path for each in asked) < 10


@pytest.mark.parametrize(
    ("columns", "keys", "found"),
    [
        (("Email",), ["ann@example.com", "x'y@example.com"], ["Ann"]),
        (("Score__c",), ["2", "x"], ["Bob"]),
        (("CreatedDate",), ["2026-11-29 12:00:00+00:00", "never"], ["Ann", "Bob"]),
        (("Email", "Score__c"), ['["bob@example.com", "2"]', '["ann@example.com", "2"]', "broken"], ["Bob"]),
    ],
)
def test_rows_are_read_again_by_other_keys_of_any_type(org, columns, keys, found):
    lead(org, "Ann", Score__c=1)
    lead(org, "Bob", Score__c=2)
    source = salesforce("Lead", ["Email", "FirstName", "Score__c"], org=org)
    assert names(source.again(wanted(*keys, columns=columns))) == found


# -------------------------------------------------------------------------------------------- faults


def test_a_session_that_ends_between_pages_is_renewed_once_and_the_reading_goes_on(org):
    made = [lead(org, f"L{n}") for n in range(10)]
    source = leads(org)
    asked = fails(org, None, org.end_sessions)
    assert [row["Id"] for row in rows(source.read(source.begin("all").cursor))] == made
    assert org.logins == 2
    assert sum("/query/" in each.path for each in asked) == 4  # three pages, one of them twice


def test_a_session_that_ends_each_time_is_not_renewed_in_a_loop(org):
    lead(org, "Ann")
    source = leads(org)
    fails(org, *[org.end_sessions] * 20)
    with pytest.raises(SourceError, match="as soon as it had begun"):
        source.read(source.begin("all").cursor)
    assert org.logins == 2


def test_pages_that_the_org_forgot_are_asked_for_behind_the_last_row(org):
    made = [lead(org, f"L{n}") for n in range(11)]
    source = leads(org)
    fails(org, None, org.forget_pages, None, None, org.forget_pages)
    assert [row["Id"] for row in rows(source.read(source.begin("all").cursor))] == made
    fails(org, None, *[org.forget_pages] * 20)
    org.page_size = 11
    assert len(rows(source.read(source.begin("all").cursor))) == 11


def refusal(status, code, message="words of the server"):
    return Answer(status, [{"errorCode": code, "message": message}])


HTML = Answer(200, b"<html>We are under maintenance</html>", {"Content-Type": "text/html"})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refusal(503, "SERVER_UNAVAILABLE"), "out of order"),
        (Answer(503, b"<html>down</html>"), "out of order"),
        (Answer(500, b""), "out of order"),
        (Answer(429, b""), "out of order"),
        (refusal(500, "UNKNOWN_EXCEPTION"), "out of order"),
        (refusal(400, "QUERY_TIMEOUT"), "took too long"),
        (Answer(200, b'{"records": [{'), "something else than data"),
        (HTML, "something else than data"),
        (Answer(200, []), "something else than data"),
        (Answer(200, {"totalSize": 1}), "something else than records"),
        (Answer(200, {"done": True, "records": [3]}), "something else than records"),
        (Answer(200, {"done": True, "records": [{"Id": "x", "CreatedDate": "2026-11-29T12:00:00Z"}]}), "without an id"),
        (Answer(200, {"done": True, "records": [{"Id": "0" * 18}]}), "without the time"),
        (Answer(200, {"done": False, "records": [], "nextRecordsUrl": "@evil.example.org/x"}), "something else than records"),
        (Answer(302, b"", {"Location": "https://evil.example.org/maintenance"}), "sends elsewhere"),
        (Answer(200, {"done": True, "records": []}, {"Content-Length": "9999"}), "ended the answer early"),
        (refusal(403, "TXN_SECURITY_METERING_ERROR"), "refused"),
        (refusal(404, "NOT_FOUND"), "refused"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_one_sentence_and_the_next_poll_reads_on(org, answer, words):
    lead(org, "Ann")
    source = leads(org)
    cursor = source.begin("all").cursor
    fails(org, answer)
    with pytest.raises(SourceError, match=words) as caught:
        source.read(cursor)
    assert str(caught.value).count("\n") == 0
    assert names(source.read(cursor)) == ["Ann"]


def test_a_silent_org_is_left_after_the_timeout(org):
    lead(org, "Ann")
    source = salesforce("Lead", ["FirstName"], org=with_(org.login, timeout=0.3))
    source.prepare()
    cursor, go = source.begin("all").cursor, threading.Event()
    fails(org, lambda: go.wait(10) and None)
    with pytest.raises(SourceError, match=r"did not answer within 0\.3 s"):
        source.read(cursor)
    go.set()
    assert names(source.read(cursor)) == ["Ann"]


def test_an_org_that_is_not_there_and_one_with_another_certificate_are_one_sentence(org, tmp_path):
    with PracticeOrg() as other:
        stranger = with_(org.login, ca_file=other.ca_file)
        gone = other.login
        kept = tmp_path / "ca.pem"
        kept.write_bytes(Path(other.ca_file).read_bytes())
    for login, words in ((stranger, "certificate"), (gone, "cannot be reached")):
        source = leads(with_(login, ca_file=str(kept)))
        with pytest.raises(SourceError, match=words):
            source.read(source.begin("all").cursor)
    source = leads(with_(org.login, ca_file=str(tmp_path / "none.pem")))
    with pytest.raises(SettingsError, match="certificates"):
        source.read(source.begin("all").cursor)


def test_the_environments_certificates_and_logins_do_not_win_over_the_persons(org, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login eve password wrong\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    lead(org, "Ann")
    source = leads(org)
    assert names(source.read(source.begin("all").cursor)) == ["Ann"]


def test_an_org_whose_calls_are_nearly_used_is_left_alone_for_a_while(org, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(orgs, "CLOCK", lambda: now[0])
    made = [lead(org, f"L{n}") for n in range(10)]
    source = leads(org)
    cursor = source.begin("all").cursor
    org.calls_per_day, org.calls = 100, 94
    batch = source.read(cursor)
    assert len(rows(batch)) == 4  # the rest of the answer is left for later, too
    assert batch.notes == (
        "The org has used 95 of the 100 calls that its API takes in 24 hours. It is asked again in 15 min.",
    )
    for _ in range(3):
        with pytest.raises(SourceError, match="asked again in 15 min"):
            source.read(batch.cursor)
    assert org.calls == 95
    now[0] += 901
    assert [row["Id"] for row in rows(batch)] + [
        row["Id"] for row in rows(source.read(batch.cursor))
    ] == made[:8]


def test_an_org_that_takes_no_more_calls_is_not_hammered(org, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(orgs, "CLOCK", lambda: now[0])
    source = leads(org)
    cursor = source.begin("all").cursor
    asked = fails(org, refusal(403, "REQUEST_LIMIT_EXCEEDED"))
    for _ in range(3):
        with pytest.raises(SourceError, match="asked again in 15 min"):
            source.read(cursor)
    assert sum("/query" in each.path for each in asked) == 1
    now[0] += 901
    assert source.read(cursor).notes == ()


# --------------------------------------------------------------------------------------- write back


def test_fields_are_set_on_the_records_that_were_mailed_in_one_call_for_200(org):
    org.add_field("Lead", "Welcome_Sent__c", "boolean")
    made = [lead(org, f"L{n}") for n in range(250)]
    source = leads(org, on_sent={"Welcome_Sent__c": True, "Status": "Contacted"})
    outcomes = [sent(i) for i in made]
    for _ in range(2):  # at least once: a second time changes nothing
        before = org.calls
        assert list(source.sent(outcomes, {})) == [o.key for o in outcomes]
        assert org.calls - before == 2
    assert {(r["Welcome_Sent__c"], r["Status"]) for r in org.records("Lead")} == {(True, "Contacted")}


def test_a_function_says_what_is_set_and_its_failure_keeps_no_other_back(org):
    ann, bob = lead(org, "Ann"), lead(org, "Bob")

    def fields(outcome, row):
        return {"Description": f"{row['FirstName']} {outcome.message_id}", "Title": outcome.started}

    source = leads(org, on_sent=fields)
    done = source.sent([sent(ann), sent(bob)], {ann[:15]: {"Id": ann, "FirstName": "Ann"}})
    assert list(done) == [ann[:15]]
    assert org.records("Lead")[0]["Description"] == "Ann <ann@example.org>"
    assert "KeyError" in source.read(source.begin("all").cursor).notes[0]


@pytest.mark.parametrize("what", ["task", "email"])
def test_a_log_is_written_once_whatever_is_asked_again(org, what):
    ann, bob = lead(org, "Ann"), lead(org, "Bob")
    source = leads(org, on_sent=(what, {"Subject": "Welcome"}))
    assert list(source.sent([sent(ann)], {})) == [ann[:15]]
    # As after a crash between writing and recording: a new process is asked for both.
    again = leads(org, on_sent=(what, {"Subject": "Welcome"}))
    assert sorted(again.sent([sent(ann), sent(bob, "bob")], {})) == [ann[:15], bob[:15]]
    logs = org.records("Task" if what == "task" else "EmailMessage")
    assert [log["Subject"] for log in logs] == ["Welcome"] * 2
    if what == "task":
        assert [(log["WhoId"], log["Status"]) for log in logs] == [
            (ann[:15], "Completed"),
            (bob[:15], "Completed"),
        ]
        assert "<ann@example.org>" in logs[0]["Description"]
    else:
        assert [log["MessageIdentifier"] for log in logs] == ["<ann@example.org>", "<bob@example.org>"]
        assert (logs[0]["Status"], logs[0]["ToAddress"], logs[0]["ToIds"]) == (
            "3",
            "ann@example.com",
            [ann[:15]],
        )


def test_a_second_mail_to_the_same_person_has_a_log_of_its_own(org):
    ann = lead(org, "Ann")
    source = leads(org, on_sent="task")
    source.sent([sent(ann)], {})
    source.sent([sent(ann, message_id="<second@example.org>")], {})
    assert len(org.records("Task")) == 2


def test_a_mail_about_another_object_is_logged_as_related_to_it(org):
    org.add("Invitation__c", Name="x")
    made = org.records("Invitation__c")[0]["Id"]
    for what, sobject, field in (("task", "Task", "WhatId"), ("email", "EmailMessage", "RelatedToId")):
        source = salesforce("Invitation__c", ["Name"], org=org, on_sent=what)
        for _ in range(2):
            assert list(source.sent([sent(made)], {})) == [made[:15]]
        assert [log[field] for log in org.records(sobject)] == [made[:15]]


@pytest.mark.parametrize("on_sent", [{"Status": "Contacted"}, "task"])
def test_a_record_that_is_gone_counts_as_told_with_a_note(org, on_sent):
    gone, here = lead(org, "Gone"), lead(org, "Here")
    org.delete("Lead", gone)
    source = leads(org, on_sent=on_sent)
    if on_sent == "task":
        wrong = {
            "success": False,
            "errors": [{"statusCode": "INVALID_CROSS_REFERENCE_KEY", "message": "invalid id"}],
        }
        fails(org, None, Answer(201, [wrong, {"success": True, "id": "x", "errors": []}]))
    assert list(source.sent([sent(gone), sent(here, "here")], {})) in (
        [gone[:15], here[:15]],
        [here[:15], gone[:15]],
    )
    assert "was deleted" in source.read(source.begin("all").cursor).notes[0]


def test_what_cannot_be_written_yet_is_a_note_and_tried_again(org):
    ann, bob = lead(org, "Ann"), lead(org, "Bob")
    source = leads(org, on_sent={"Status": "Contacted"})
    locked = {
        "success": False,
        "errors": [{"statusCode": "UNABLE_TO_LOCK_ROW", "message": "unable to obtain lock"}],
    }
    fails(org, Answer(200, [{"success": True}, locked]))
    assert list(source.sent([sent(ann), sent(bob)], {})) == [ann[:15]]
    fails(org, Answer(503, b""))
    assert list(source.sent([sent(bob)], {})) == []
    fails(org)
    first, second = source.read(source.begin("all").cursor).notes
    assert "UNABLE_TO_LOCK_ROW: unable to obtain lock" in first
    assert "out of order" in second
    assert list(source.sent([sent(bob)], {})) == [bob[:15]]


def test_a_row_whose_record_nobody_knows_is_a_note_once_and_stays_owed(org):
    source = leads(org, on_sent={"Status": "x"})
    for _ in range(3):
        assert list(source.sent([sent("x", key="ann@example.com")], {})) == []
    assert len(source.read(source.begin("all").cursor).notes) == 1
    assert list(leads(org).sent([sent("x", key="ann@example.com")], {})) == ["ann@example.com"]


# ----------------------------------------------------------------------------------------- the watch


def test_each_lead_is_mailed_once_and_the_org_says_so(org, clock, sandbox, tmp_path):
    """Over polls, a crash's repetition, a session that ends, and an org that is out of order for a while."""
    lead(org, "Old")
    via = with_(sandbox.connection, sandbox=False, practice=False)  # so that it counts, and is journaled

    def started():
        source = salesforce("Lead", org=org, on_sent="task", where="Email != null")
        letter = "---\nsubject: Welcome\nfrom: us@example.org\n---\nDear {{ FirstName }}, {{ Owner.Name }} is yours."
        return watch(source, letter, every="1m", campaign="welcome", via=via, journal=tmp_path / "j.sqlite3")

    first = started()
    assert list(first.poll()) == []
    for number in range(12):
        clock.later(seconds=20)
        lead(org, f"New{number}")
        if number % 4 == 1:
            org.end_sessions()
        if number == 6:
            fails(org, Answer(503, b""))
            with pytest.raises(SourceError, match="out of order"):
                first.poll()
        if number == 8:
            first = started()  # as after a restart of the kernel
        if number % 3 == 2:
            first.poll()
    lead(org, "Late", CreatedDate=clock.now - dt.timedelta(minutes=2))
    org.add("Lead", FirstName="Nowhere", LastName="x")
    first.poll()
    first.poll()
    arrived = [m.recipients for m in sandbox.messages]
    assert sorted(arrived) == sorted([(f"new{n}@example.com",) for n in range(12)] + [("late@example.com",)])
    assert "Practice User is yours" in sandbox.messages[0].view().text
    people = {r["Id"][:15]: r["FirstName"] for r in org.records("Lead")}
    assert sorted(people[t["WhoId"][:15]] for t in org.records("Task")) == sorted(
        [*(f"New{n}" for n in range(12)), "Late"]
    )


# -------------------------------------------------------------------------------------------- logins


def refused(login):
    source = leads(login)
    with pytest.raises(SecretError) as caught:
        source.read(source.begin("all").cursor)
    return source, caught.value


def test_each_way_of_logging_in_works(org, tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    lead(org, "Ann")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file = tmp_path / "key.pem"
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    org.keys["signer"] = key.public_key().public_bytes(pem, info).decode()
    signed = SalesforceLogin(
        org.url, user=org.login.user, consumer_key="signer", key_file=file, ca_file=org.ca_file
    )
    asked = []

    def session():
        asked.append(threading.current_thread())
        return org._new_session()

    given = SalesforceLogin(org.url, session=session, ca_file=org.ca_file)
    for login in (org.login, org.app_login, signed, given):
        source = leads(login)
        assert names(source.read(source.begin("all").cursor)) == ["Ann"]
        org.end_sessions()
        assert names(source.read(source.begin("all").cursor)) == ["Ann"]
    assert len(asked) == 2  # once to begin with, once when it had ended
    stranger = with_(signed, user="eve@example.com")
    _, error = refused(stranger)
    assert "invalid_grant: invalid assertion" in error.cause


def test_a_refusal_that_repeats_the_signed_token_is_not_repeated(org, tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file = tmp_path / "key.pem"
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(key.private_bytes(*pem))
    org.hook = lambda asked: Answer(
        400, {"error": "invalid_grant", "error_description": f"not good: {asked.form['assertion']}"}
    )
    signed = SalesforceLogin(
        org.url, user="ann@example.com", consumer_key="app", key_file=file, ca_file=org.ca_file
    )
    _, error = refused(signed)
    assert "invalid_grant" in error.cause
    assert "eyJ" not in str(error)


def test_a_refused_login_is_not_tried_again_before_a_person_comes(org):
    wrong = with_(org.login, password=lambda: "nope")
    source, error = refused(wrong)
    assert error.cause.startswith(f"{wrong.host} refuses the login of practice@example.com: INVALID_LOGIN")
    asked = fails(org)
    for _ in range(3):
        with pytest.raises(SecretError, match="INVALID_LOGIN"):
            source.read(source.begin("all").cursor)
    assert asked == []
    source.prepare()
    with pytest.raises(SecretError, match="INVALID_LOGIN"):
        source.read(source.begin("all").cursor)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(503, b"<html>"),
        Answer(500, b""),
        HTML,
        Answer(302, b"", {"Location": "/x"}),
        Answer(200, b"<a/>"),
    ],
)
@pytest.mark.parametrize("way", ["login", "app_login"])
def test_a_login_server_that_is_out_of_order_is_asked_again(org, way, answer):
    lead(org, "Ann")
    source = leads(getattr(org, way))
    cursor = source.begin("all").cursor
    org.hook = lambda asked: None if asked.path.startswith("/services/data") else answer
    with pytest.raises(SourceError):
        source.read(cursor)
    org.hook = None
    assert names(source.read(cursor)) == ["Ann"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"url": "http://acme.my.salesforce.com"}, "https alone"),
        ({"url": "ftp://acme.my.salesforce.com"}, "https alone"),
        ({"url": "acme.lightning.force.com"}, "Give acme.my.salesforce.com"),
        ({"url": "acme my"}, "is no host"),
        ({"url": "https://"}, "names no host"),
        ({"url": 3}, "is no address"),
        ({"url": "acme.my.salesforce.com"}, "names no user"),
        ({"url": "login.salesforce.com", "consumer_key": "k"}, "My Domain"),
        ({"url": "a.my.salesforce.com", "key_file": "k.pem", "user": "u"}, "consumer key"),
        ({"url": "salesforce://ann@a.my.salesforce.com", "user": "bob"}, "one user"),
        ({"url": "a.my.salesforce.com", "user": "u", "timeout": 0}, "timeout"),
        ({"url": "a.my.salesforce.com", "user": "u v"}, "blank"),
    ],
)
def test_a_login_that_cannot_be_meant_is_refused(given, words):
    with pytest.raises(SettingsError, match=words):
        SalesforceLogin(**given)


def test_a_url_names_the_user_and_the_org():
    login = SalesforceLogin("salesforce://ann@example.com@Acme.my.salesforce.com/")
    assert (login.url, login.user, login.way) == (
        "https://acme.my.salesforce.com",
        "ann@example.com",
        "password",
    )
    assert repr(login) == "<SalesforceLogin ann@example.com at acme.my.salesforce.com, by a password>"


def test_the_environment_names_the_org_for_what_runs_by_itself(org, monkeypatch):
    lead(org, "Ann")
    with pytest.raises(SettingsError, match="No Salesforce org is named"):
        salesforce("Lead")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", org.ca_file)
    host = org.url.removeprefix("https://")
    monkeypatch.setenv("SMTP_NOTEBOOK_SALESFORCE_URL", f"salesforce://practice@example.com@{host}")
    monkeypatch.setenv("SMTP_NOTEBOOK_SALESFORCE_PASSWORD", org.login.password.reveal())
    source = leads(None)
    assert names(source.read(source.begin("all").cursor)) == ["Ann"]
    monkeypatch.delenv("SMTP_NOTEBOOK_SALESFORCE_PASSWORD")
    with pytest.raises(SecretError, match="SMTP_NOTEBOOK_SALESFORCE_PASSWORD"):
        leads(None)


def test_the_files_of_a_saved_login_are_found_from_any_folder(drawer, tmp_path, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_CONFIG", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    given = SalesforceLogin(
        "acme.my.salesforce.com", consumer_key="app", consumer_secret=lambda: "x" * 9, ca_file="authority.pem"
    )
    given.save("acme")
    assert SalesforceLogin.saved("acme").ca_file == str(tmp_path / "authority.pem")


def test_a_saved_login_keeps_its_secrets_in_the_keyring_alone(org, drawer, tmp_path, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_CONFIG", str(tmp_path))
    lead(org, "Ann")
    given = SalesforceLogin(
        org.url, consumer_key="practice-app", consumer_secret=lambda: org._secret, ca_file=org.ca_file
    )
    saved = given.save("acme")
    assert saved == SalesforceLogin.saved("acme")
    text = (tmp_path / "salesforce.json").read_text(encoding="utf-8")
    assert org._secret not in text
    assert list(drawer.kept.values()) == [org._secret]
    source = leads("acme")
    assert names(source.read(source.begin("all").cursor)) == ["Ann"]
    with pytest.raises(SettingsError, match="Did you mean 'acme'"):
        leads("acne")
    SalesforceLogin.forget("acme")
    SalesforceLogin.forget("acme")
    assert drawer.kept == {}
    with pytest.raises(SettingsError, match="saved are: none"):
        leads("acme")
    for login, name in ((org.login, "practice"), (given, "no name")):
        with pytest.raises(SettingsError):
            login.save(name)


def test_a_secret_that_nobody_gave_is_asked_for_on_the_persons_thread_alone(org):
    login = SalesforceLogin(org.url, user="ann@example.com", ca_file=org.ca_file)
    source = salesforce("Lead", ["Email"], org=login)
    for ask in (source.prepare, lambda: source.read(source.begin("all").cursor)):
        with pytest.raises(SecretError, match="needs a password, and nobody can be asked here"):
            ask()


def test_what_is_missing_says_how_to_install_it(org, monkeypatch):
    for module, call in (
        ("simple_salesforce.api", leads),
        ("cryptography.hazmat.primitives", lambda _: PracticeOrg().start()),
    ):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            with pytest.raises(SettingsError, match=r'pip install "smtp_notebook\[salesforce\]"'):
                call(org)


def test_the_data_is_asked_for_where_the_person_said_whatever_a_login_names(org):
    """The library takes -api out of the name that SOAP's login gives."""
    source = leads(org)
    assert orgs._instance(SalesforceLogin("acme-api.my.salesforce.com", user="u"), "acme.my.salesforce.com") == "acme-api.my.salesforce.com"  # fmt: skip
    common = SalesforceLogin(user="u")
    assert orgs._instance(common, "Acme.my.salesforce.com") == "acme.my.salesforce.com"
    for host in ("evil.example.org", "salesforce.com@evil.example.org", "evilsalesforce.com/x", ""):
        with pytest.raises(SourceError):
            orgs._instance(common, host)
    assert source.name == f"Lead in {org.login.host}"
