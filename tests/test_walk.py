"""The walk of the connector's page "Get started with the SMTP connector", step by step, from the notebook's own cells.

That page creates a connection, takes the trigger "Salesforce - When an object is created" for the object Lead, adds the
action "SMTP - Send Email", saves, and lists the response codes of a run: 200 202 400 401 403 404 500.
"""

from __future__ import annotations

import json

import nbformat
import pytest
from conftest import ROOT
from IPython.core.interactiveshell import InteractiveShell
from scripted import ACCEPT_DROP, Server

from smtp_notebook import OptionError, PracticeOrg, SettingsError, Watch, connect, suppress, watch

NOTEBOOK = ROOT / "notebooks" / "07-new-leads.ipynb"
DEFINITION = ROOT / "notebooks" / "data" / "welcome-leads.json"
LETTER = """
---
from: Nora Lind <nora.lind@example.com>
to: {{ Email }}
subject: Welcome
---
Hello
"""


def source(*names):
    """Return a function that gives leads; each is called as its address begins, and "" has none."""
    found = [{"Id": f"00Q-{name}", "Email": f"{name}@example.com" if name else None} for name in names]
    return lambda: found


def watching(server, *names, **options):
    """Return a watch of such leads."""
    options = {"campaign": "codes", "via": server.url(), **options}
    return watch(source(*names), LETTER, every="3m", key="Id", since="all", **options)


def statuses(report):
    """Return how each lead stands, by what its address begins with."""
    return {outcome.key.removeprefix("00Q-"): (str(outcome.state), outcome.status) for outcome in report}


# ------------------------------------------------------------------------------------------- the walk


@pytest.fixture
def shell():
    """An IPython that runs the notebook's cells where they lie."""
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


@pytest.fixture
def walk(shell, monkeypatch):
    """Return what runs the next cells of the notebook: those up to the last one with a tag; and gives their results."""
    monkeypatch.chdir(NOTEBOOK.parent)
    waiting = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]

    def to(tag):
        last = max(n for n, c in enumerate(waiting) if tag is None or tag in c.metadata.get("tags", []))
        found = []
        for cell in waiting[: last + 1]:
            done = shell.run_cell(cell.source)
            done.raise_error()
            found.append(done.result)
        del waiting[: last + 1]
        return found

    return to


def test_the_notebook_walks_the_connectors_page_and_each_step_shows_what_that_page_says(walk, shell, capsys):
    names = shell.user_ns
    # "Create a connection to SMTP": its server; nothing leaves this machine.
    *_, connection = walk("connection")
    assert connection.sandbox
    # "When an object is created", and "Lead" from the list of objects.
    (leads,) = walk("trigger")
    assert (leads.name.split()[0], leads.key) == ("Lead", ("Id",))
    # "SMTP - Send Email": To, Subject, Body.
    walk("action")
    # "Save your work, to activate the workflow": nothing is read or sent by that.
    (saved,) = walk("save")
    assert (saved.status.name, saved.status.phase, saved.status.polls) == ("welcome-leads", "idle", 0)
    assert not names["sandbox"].messages
    # What the service saves says the same.
    _, read, same = walk("definition")
    assert '"/datasets/default/tables/@{encodeURIComponent(' in capsys.readouterr().out
    assert (read.sobject, set(read.columns)) == ("Lead", {"Id", "FirstName", "LastName", "Company", "Email"})
    assert (same.status.name, same.status.every) == (saved.status.name, saved.status.every)
    # It runs: nobody who was there; then a lead that is planned, and one that is no mail.
    begun, rehearsed, report = walk("run")
    assert len(begun) == 0
    assert [(str(o.state), o.status) for o in rehearsed] == [("planned", 202), ("invalid", 400)]
    assert [(str(o.state), o.status, o.to) for o in report] == [
        ("sent", 200, ("ada@example.com",)),
        ("invalid", 400, ()),
    ]
    # Each outcome with its status, and what arrived.
    frame, box = walk("status")
    assert list(frame["status"]) == [200, 400]
    assert "Email" in frame["reason"].iloc[1]
    assert [m.subject for m in box.messages] == ["Welcome, Ada"]
    # Nobody twice, nobody forgotten.
    (mended,) = walk("again")
    assert not names["again"].sent
    assert [(o.status, o.to) for o in mended] == [(200, ("c.oneil@example.com",))]
    (nobody,) = walk("restart")
    assert len(nobody) == 0
    walk("start")
    (campaign,) = walk("stop")
    assert sorted(to for o in campaign.sent for to in o.to) == [
        "ada@example.com",
        "c.oneil@example.com",
        "grace@example.com",
    ]
    # The definition reads the same org, and makes the same mails of all eleven leads.
    org, sandbox = names["org"], names["sandbox"]
    made = []
    by_hand_ = watch(names["leads"], names["welcome"], every=60, campaign="all-1", since="all", via=sandbox)
    for each in (
        by_hand_,
        Watch.from_definition(DEFINITION, org=org, via=sandbox, campaign="all-2", since="all"),
    ):
        sandbox.clear()
        assert len(each.poll().sent) == 11
        made.append(mails(sandbox))
    assert made[0] == made[1]
    walk(None)
    assert not org.running


def test_the_walk_leaves_nothing_in_the_journal_the_settings_or_the_list_of_the_person(
    walk, monkeypatch, tmp_path
):
    monkeypatch.setenv("SMTP_NOTEBOOK_CONFIG", str(tmp_path / "config"))
    walk(None)
    assert not list(tmp_path.rglob("*"))


# ------------------------------------------------------------------------------- each of the response codes


def refusing(to):
    """Return what the server says to a recipient."""
    said = {
        "nobody": "550 5.1.1 no such user",
        "stranger": "550 5.7.1 not allowed",
        "huge": "552 5.3.4 too big",
    }
    return next((reply for name, reply in said.items() if name in to), None)


def test_each_response_code_of_the_connector_but_401_is_seen_in_one_report_of_a_real_server():
    suppress("left@example.com")
    doubtful = {"rcpt": refusing, "dot": lambda first: ACCEPT_DROP if "doubt" in first else None}
    with Server(doubtful) as server:
        new = watching(server, "ann", "left", "huge", "", "stranger", "nobody", "doubt")
        report = new.poll()
        again = new.poll()
    assert statuses(report) == {
        "ann": ("sent", 200),
        "left": ("skipped", 202),
        "huge": ("refused", 400),
        "": ("invalid", 400),
        "stranger": ("refused", 403),
        "nobody": ("refused", 404),
        "doubt": ("in_doubt", 500),
    }
    assert sorted(mail.recipients for mail in server.log.mails) == [
        ["ann@example.com"],
        ["doubt@example.com"],
    ]
    # A second poll mails nobody, and what is open stands as it stood.
    assert not again.sent
    # Whom no merge mails stays planned, and is due once that is lifted.
    assert statuses(new.report) == {**statuses(report), "left": ("planned", 202)}


def test_a_wrong_password_is_401_and_every_lead_goes_once_it_is_right(monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", "wrong")
    with Server(login=("nora", "right")) as server:
        found = statuses(watching(server, "ann", via=server.url(user="nora")).poll())
        assert found == {"ann": ("refused", 401)}
        assert not server.log.mails
        monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", "right")
        found = statuses(watching(server, "ann", via=server.url(user="nora")).poll())
    assert found == {"ann": ("sent", 200)}
    assert len(server.log.mails) == 1


# ------------------------------------------------------------------------ the definition and the watch by hand

LEADS = [
    {
        "Id": "1",
        "FirstName": "Ada",
        "LastName": "Byron",
        "Company": "Engines & Co",
        "Email": "ada@example.com",
    },
    {"Id": "2", "FirstName": None, "LastName": "O'Neil <b>", "Company": None, "Email": "o@example.com"},
    {"Id": "3", "FirstName": "Zoë", "LastName": "Müller", "Company": "", "Email": None},
    {"Id": "4", "FirstName": "{x}", "LastName": "X", "Company": "@{y} 100%", "Email": "x@example.com"},
]


def cells(tag):
    """Return the source of the notebook's cells that have a tag."""
    return [
        c.source for c in nbformat.read(NOTEBOOK, as_version=4).cells if tag in c.metadata.get("tags", [])
    ]


def by_hand():
    """Return the template of the notebook."""
    names = {}
    (cell,) = cells("action")
    exec(cell, names)
    return names["welcome"]


def mails(sandbox):
    """Return what arrived, by its recipient, without what differs between any two mails."""
    return sorted(
        (
            mail.sender,
            mail.recipients,
            str(mail.email["from"]),
            str(mail.email["to"]),
            str(mail.email["subject"]),
            mail.email.get_body(("html",)).get_content().strip(),
            mail.email.get_body(("plain",)).get_content().strip(),
        )
        for mail in sandbox.messages
    )


def test_a_definition_sends_the_mails_that_the_watch_written_by_hand_sends(sandbox):
    def leads():
        return LEADS

    options = {"via": sandbox, "since": "all", "key": "Id"}
    written = watch(leads, by_hand(), every="3m", campaign="by-hand", **options).poll()
    expected = mails(sandbox)
    sandbox.clear()
    read = Watch.from_definition(DEFINITION, source=leads, campaign="read", **options).poll()
    assert mails(sandbox) == expected
    assert [m[1] for m in expected] == [("ada@example.com",), ("o@example.com",), ("x@example.com",)]
    assert "Dear O&#x27;Neil &lt;b&gt;," in expected[1][5]
    assert statuses(read) == statuses(written)
    assert [str(o.state) for o in read] == ["sent", "sent", "invalid", "sent"]


def test_the_triggers_filter_chooses_the_same_records_in_the_org(sandbox):
    definition = json.loads(DEFINITION.read_text(encoding="utf-8"))
    trigger = definition["properties"]["definition"]["triggers"]["When_a_record_is_created"]
    trigger["inputs"]["queries"] = {
        "$filter": "LastName eq 'O''Neil' or (contains(Company, '50%') and not (Status eq 'Closed'))"
    }
    with PracticeOrg() as org:
        for last, company, status in (
            ("O'Neil", "A", "Closed"),
            ("B", "50% off", "New"),
            ("C", "50% off", "Closed"),
            ("D", "500 off", "New"),
        ):
            org.add(
                "Lead", LastName=last, Company=company, Status=status, Email=f"{last[0].lower()}@example.com"
            )
        Watch.from_definition(definition, org=org, via=sandbox, since="all").poll()
    assert [mail[1] for mail in mails(sandbox)] == [("b@example.com",), ("o@example.com",)]


def test_a_definition_brings_its_name_its_interval_and_its_connection(tmp_path, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_CONFIG", str(tmp_path))
    with Server() as server:
        connect(server.url()).save("smtp")
        found = Watch.from_definition(DEFINITION, source=lambda: LEADS, since="all", key="Id")
        assert (found.status.name, found.status.every) == ("welcome-leads", 180.0)
        assert len(found.poll().sent) == 3
        assert len(server.log.mails) == 3


def test_what_a_definition_lacks_is_asked_for():
    definition = json.loads(DEFINITION.read_text(encoding="utf-8"))
    bare = definition["properties"]["definition"]
    with pytest.raises(OptionError, match="campaign"):
        Watch.from_definition(bare, source=lambda: LEADS)
    del bare["triggers"]["When_a_record_is_created"]["recurrence"]
    with pytest.raises(OptionError, match="every"):
        Watch.from_definition(bare, source=lambda: LEADS, campaign="c")
    # Its connection names a saved one, and there is none.
    found = Watch.from_definition(bare, source=lambda: LEADS, campaign="c", every=60)
    with pytest.raises(SettingsError, match="'smtp'"):
        found.poll()
