"""``smtp-notebook watch``: what it sends, what it says, and how it ends."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
from email import message_from_bytes, policy
from urllib.parse import quote

import pytest
from commands import invoke
from scripted import Server

from smtp_notebook import Connection, PracticeOrg

TEMPLATE = "---\nto: {{ Email }}\nfrom: me@example.com\nsubject: Hello {{ Name }}\n---\nDear {{ Name }}\n"
WATCH = (
    "watch",
    "welcome.md",
    "--csv-folder",
    "exports",
    "--quiet",
    "0",
    "--campaign",
    "hello",
    "--key",
    "Id",
)

FLOW = {
    "definition": {
        "triggers": {
            "When_a_record_is_created": {
                "type": "ApiConnection",
                "recurrence": {"frequency": "Minute", "interval": 3},
                "splitOn": "@triggerBody()?['value']",
                "inputs": {
                    "host": {
                        "connection": {"name": "@parameters('$connections')['salesforce']['connectionId']"}
                    },
                    "method": "get",
                    "path": "/datasets/default/tables/@{encodeURIComponent(encodeURIComponent('Lead'))}/onnewitems",
                },
            }
        },
        "actions": {
            "Send_Email": {
                "type": "ApiConnection",
                "runAfter": {},
                "inputs": {
                    "host": {"connection": {"name": "@parameters('$connections')['smtp']['connectionId']"}},
                    "method": "post",
                    "path": "/SendEmail",
                    "body": {
                        "To": "@triggerBody()?['Email']",
                        "Subject": "Welcome @{triggerBody()?['FirstName']}",
                        "Body": "Hello",
                    },
                },
            }
        },
    }
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a template and a folder of exports, where the commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMTP_NOTEBOOK_CONFIG", str(tmp_path / "config"))
    (tmp_path / "exports").mkdir()
    (tmp_path / "welcome.md").write_text(TEMPLATE, encoding="utf-8")
    export(tmp_path, "monday", "ann", "bo")
    return tmp_path


def export(folder, name, *people, bad=()):
    rows = [f"{n},{n},{n}@example.com" for n in people] + [f"{n},{n},nowhere" for n in bad]
    (folder / "exports" / f"{name}.csv").write_text("\n".join(["Id,Name,Email", *rows]) + "\n")


def subjects(server):
    return sorted(message_from_bytes(m.content, policy=policy.default)["subject"] for m in server.log.mails)


def test_without_send_a_watch_reads_once_and_changes_nothing(place):
    with Server() as server:
        done = invoke(*WATCH, "--since", "all", "--via", server.url())
        assert server.log.connections == 0
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0].startswith("Dry run: nothing is sent.")
    assert "2 planned" in done.stdout
    assert not (place / "state" / "journal.sqlite3").exists()


def test_once_mails_each_new_row_once_over_several_runs(place):
    with Server() as server:
        options = (*WATCH, "--since", "all", "--once", "--send", "--via", server.url())
        first = invoke(*options, "--json")
        again = invoke(*options)
        export(place, "tuesday", "bo", "cy")
        third = invoke(*options)
        assert subjects(server) == ["Hello ann", "Hello bo", "Hello cy"]
    found = json.loads(first.stdout)
    assert (first.exit_code, again.exit_code, third.exit_code) == (0, 0, 0)
    assert (found["ok"], found["dry_run"], found["counts"]) == (True, False, {"sent": 2})
    assert (found["status"]["sent"], found["status"]["waiting"]) == (2, 0)
    assert "Nothing is due" in again.stdout


def test_who_is_there_already_is_not_mailed_unless_somebody_says_so(place):
    with Server() as server:
        options = (*WATCH, "--once", "--send", "--via", server.url())
        first = invoke(*options)
        export(place, "tuesday", "cy")
        invoke(*options)
        assert subjects(server) == ["Hello cy"]
    assert "2 rows were there already" in first.stdout


def test_more_new_rows_than_usual_wait_for_approval_with_an_exit_code_of_their_own(place):
    with Server() as server:
        options = (*WATCH, "--since", "all", "--once", "--send", "--max-per-poll", "1", "--via", server.url())
        waits = invoke(*options)
        assert not server.log.mails
        approved = invoke(*options, "--approve")
        assert subjects(server) == ["Hello ann", "Hello bo"]
    assert (waits.exit_code, approved.exit_code) == (3, 0)
    assert "--approve" in waits.stderr
    assert "approve()" not in waits.output


def test_a_bad_row_fails_the_poll_and_keeps_no_other_back(place):
    export(place, "tuesday", "cy", bad=("di",))
    with Server() as server:
        done = invoke(*WATCH, "--since", "all", "--once", "--send", "--via", server.url())
        assert subjects(server) == ["Hello ann", "Hello bo", "Hello cy"]
    assert done.exit_code == 1
    assert "nowhere" in done.stdout


def test_a_source_that_cannot_be_read_is_one_sentence(place):
    (place / "exports" / "monday.csv").unlink()
    (place / "exports").rmdir()
    done = invoke(*WATCH, "--once", "--send", "--via", "smtp+plain://127.0.0.1:9")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_new_leads_of_salesforce_are_mailed_once(place, monkeypatch):
    (place / "lead.md").write_text(TEMPLATE.replace("Name }}", "FirstName }}"))
    with PracticeOrg() as org, Server() as server:
        login = org.login
        monkeypatch.setenv("SMTP_NOTEBOOK_SALESFORCE_URL", f"salesforce://{quote(login.user)}@{login.host}")
        monkeypatch.setenv("SMTP_NOTEBOOK_SALESFORCE_PASSWORD", login.password.reveal())
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(org.ca_file))
        org.add("Lead", FirstName="Ann", LastName="A", Company="C", Email="ann@example.com")
        options = ("watch", "lead.md", "--salesforce", "Lead", "--where", "FirstName <> 'Bo'", "--campaign", "c",
                   "--since", "all", "--once", "--send", "--via", server.url())  # fmt: skip
        first = invoke(*options)
        org.add("Lead", FirstName="Bo", LastName="B", Company="C", Email="bo@example.com")
        org.add("Lead", FirstName="Cy", LastName="C", Company="C", Email="cy@example.com")
        second = invoke(*options)
        assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
        assert subjects(server) == ["Hello Ann", "Hello Cy"]
        assert login.password.reveal() not in first.output + second.output


@pytest.mark.parametrize("way", ["typed", "environment"])
def test_new_rows_of_a_database_are_mailed_once(place, way, monkeypatch):
    url = f"sqlite:///{place}/crm.db"
    monkeypatch.setenv("SMTP_NOTEBOOK_SQL", url)
    with contextlib.closing(sqlite3.connect(place / "crm.db")) as database, Server() as server:
        database.execute("CREATE TABLE lead (Id INTEGER PRIMARY KEY, Name TEXT, Email TEXT)")
        options = ("watch", "welcome.md", "--sql", url if way == "typed" else "-", "--query", "SELECT * FROM lead",
                   "--cursor", "Id", "--key", "Id", "--campaign", "c", "--once", "--send", "--via", server.url())  # fmt: skip
        for name in ("ann", "bo", "cy"):
            database.execute("INSERT INTO lead (Name, Email) VALUES (?, ?)", (name, f"{name}@example.com"))
            database.commit()
            done = invoke(*options)
            assert done.exit_code == 0, done.output
        assert subjects(server) == ["Hello bo", "Hello cy"]
    (place / "crm.db").unlink()
    lost = invoke(*options)
    assert (lost.exit_code, "Traceback" in lost.output) == (1, False)


def test_a_connectors_definition_names_mail_and_server_and_its_source_may_be_another(place):
    with Server() as server:
        Connection.from_url(server.url(), sender="me@example.com").save("smtp")
        (place / "flow.json").write_text(json.dumps(FLOW))
        (place / "exports" / "lead.csv").write_text("Id,FirstName,Email\n1,Ann,ann@example.com\n")
        (place / "exports" / "monday.csv").unlink()
        options = ("watch", "--definition", "flow.json", "--csv-folder", "exports", "--quiet", "0",
                   "--campaign", "flow", "--since", "all", "--once", "--send")  # fmt: skip
        done = [invoke(*options), invoke(*options)]
        assert [d.exit_code for d in done] == [0, 0], [d.output for d in done]
        assert subjects(server) == ["Welcome Ann"]
    broken = json.dumps(FLOW).replace("Subject", "Sbject")
    (place / "flow.json").write_text(broken)
    refused = invoke(*options)
    assert (refused.exit_code, "Sbject" in refused.stderr) == (2, True)


def test_a_watch_polls_until_it_is_stopped_and_stops_in_order(smtp_notebook, place):
    with Server() as server:
        process = smtp_notebook.start(
            *WATCH, "--since", "all", "--every", "1s", "--send", "--json", "--via", server.url()
        )
        polled = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        assert len(server.log.mails) == 2
    assert (process.returncode, err) == (0, "")
    assert (polled["event"], polled["new"], polled["sent"], polled["next"] is None) == ("poll", 2, 2, False)
    assert json.loads(out.splitlines()[-1])["event"] == "stopped"


def test_a_watch_that_needs_a_person_ends_by_itself(place, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", "wrong-horse")
    with Server(login=("ann", "right-horse")) as server:
        done = invoke(*WATCH, "--since", "all", "--send", "--via", server.url(user="ann"))
        assert server.log.logins <= 1
    assert done.exit_code == 1
    assert "Error:" in done.stderr
    assert "wrong-horse" not in done.output
    assert "2 planned" in done.stdout or "deferred" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["watch", "welcome.md", "--campaign", "c"], "No source is named"),
        (["watch", "welcome.md", "--campaign", "c", "--csv-folder", "x", "--salesforce", "Lead"], "two sources"),
        (["watch", "--campaign", "c", "--csv-folder", "exports"], "No TEMPLATE"),
        (["watch", "welcome.md", "--campaign", "c", "--definition", "x.json"], "definition has the mail's text"),
        (["watch", "welcome.md", "--csv-folder", "exports"], "--campaign NAME"),
        (["watch", "--definition", "nothing.json"], "There is no file 'nothing.json'"),
        (["watch", "welcome.md", "--campaign", "c", "--csv-folder", "exports", "--ignore", "x"], "belongs to --definition"),
        (["watch", "welcome.md", "--campaign", "c", "--csv-folder", "exports", "--query", "x"], "belongs to --sql"),
        (["watch", "nothing.md", "--campaign", "c", "--csv-folder", "exports"], "There is no file 'nothing.md'"),
        ([*WATCH, "--since", "yesterday"], "is no moment"),
        ([*WATCH, "--every", "soon"], "every"),
        ([*WATCH, "--once", "--send"], "No server is named"),
        ([*WATCH, "--via", "smtp://ann:s3cret@mail.example.com"], "shell's history"),
        (["watch", "welcome.md", "--campaign", "c", "--sql", "postgresql://ann:s3cret@db.example.com/crm", "--query", "x"], "SMTP_NOTEBOOK_SQL"),
        (["watch", "welcome.md", "--campaign", "c", "--sql", "-", "--query", "x"], "SMTP_NOTEBOOK_SQL"),
        (["watch", "welcome.md", "--campaign", "c", "--sql", "sqlite:///crm.db"], "--query"),
    ],
)  # fmt: skip
def test_what_cannot_be_watched_as_asked_is_exit_code_2(place, arguments, words):
    done = invoke(*arguments)
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "s3cret" not in done.output


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:s3@cret:w0rd@db.example.com/crm",  # an @ that nobody encoded
        "postgresql://ann:s3cret@db.example.com:port/crm",
        "nothing://ann:s3cret@db.example.com/crm",
    ],
)
def test_a_database_url_that_is_none_shows_nothing_of_its_password(place, monkeypatch, url):
    monkeypatch.setenv("SMTP_NOTEBOOK_SQL", url)
    done = invoke("watch", "welcome.md", "--sql", "-", "--query", "SELECT 1", "--campaign", "c")
    assert done.exit_code == 2, done.output
    assert "is no URL of a database" in done.stderr
    assert not any(word in f"{done.output}{done.exception!r}" for word in ("s3@", "s3cret", "w0rd"))


@pytest.mark.parametrize("typed", ["sqlite:///typo.db", "-"])
def test_a_dry_run_makes_no_database_where_there_is_none(place, monkeypatch, typed):
    monkeypatch.setenv("SMTP_NOTEBOOK_SQL", "sqlite:///typo.db")
    done = invoke("watch", "welcome.md", "--sql", typed, "--query", "SELECT 1", "--campaign", "c")
    assert done.exit_code == 1, done.output
    assert "There is no file 'typo.db'" in done.stderr
    assert not (place / "typo.db").exists()
