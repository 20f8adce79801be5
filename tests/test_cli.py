"""The command line, as a real process: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import tomllib
from importlib import import_module

import keyring
import pytest
import trustme
from conftest import ROOT
from scripted import Server, server_context

from smtp_notebook import Connection, Journal, suppress
from smtp_notebook import machine as machines
from smtp_notebook.checkup import Mark

PASSWORD = "correct-horse-battery"


def test_without_a_server_the_doctor_says_so_and_checks_the_sandbox(smtp_notebook):
    done = smtp_notebook("doctor")
    assert done.returncode == 0, done.stdout
    assert "No server is named" in done.stderr
    assert "sandbox at 127.0.0.1" in done.stdout
    for name in ("Python", "packages", "extras", "keyring", "journal", "suppressions", "clock", "sender"):
        assert name in done.stdout


def test_the_doctor_checks_a_server_with_its_login_and_shows_no_secret(smtp_notebook, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with Server(starttls=server_context(authority, "127.0.0.1"), login=("ann", PASSWORD)) as server:
        url = server.url("smtp", "ann")
        done = smtp_notebook(
            "doctor", url, "--sender", "ann@example.com", "--json",
            SSL_CERT_FILE=str(tmp_path / "ca.pem"), SMTP_NOTEBOOK_PASSWORD=PASSWORD,
        )  # fmt: skip
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert found["ok"] is True
    assert found["server"]["subject"] == url
    assert [s["mark"] for s in found["server"]["steps"] if s["name"] == "login"] == ["ok"]
    assert "MAIL FROM:<ann@example.com>" in server.log.commands
    assert not server.log.mails
    assert PASSWORD not in done.stdout


@pytest.mark.parametrize("way", ["environment", "saved"])
def test_a_failed_step_is_exit_code_1_and_says_what_to_do(smtp_notebook, way, tmp_path, monkeypatch):
    with Server({"auth": f"535 5.7.8 {PASSWORD} is wrong"}, login=("ann", "x")) as server:
        variables = {"SMTP_NOTEBOOK_PASSWORD": PASSWORD}
        if way == "saved":
            monkeypatch.setenv("SMTP_NOTEBOOK_CONFIG", str(tmp_path / "config"))
            Connection.from_url(server.url()).save("work")
            server.script = {"mail": "550 5.7.1 not you"}
            done = smtp_notebook(
                "doctor", "work", "--sender", "me@example.com", "--timeout", "5", **variables
            )
        else:
            done = smtp_notebook("doctor", SMTP_NOTEBOOK_URL=server.url(user="ann"), **variables)
    assert done.returncode == 1
    failing = "sender" if way == "saved" else "login"
    assert f"failed  {failing}" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["doctor", f"smtp://ann:{PASSWORD}@mail.example.com"], "shell's history"),
        (["doctor", f"ann:{PASSWORD}@mail.example.com"], "shell's history"),
        (["doctor", "nobody"], "No connection is saved as 'nobody'"),
        (["doctor", "sandbox", "--timeout", "-1"], "timeout=-1.0"),
        (["doctor", "sandbox", "--sender", "nobody"], "nobody"),
        (["doctor", "--password", "x"], "No such option"),
        (["doctr"], "No such command"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_sentence_on_stderr(smtp_notebook, arguments, words):
    done = smtp_notebook(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_a_journal_that_is_damaged_fails_the_machines_check(smtp_notebook, tmp_path):
    journal = tmp_path / "j.sqlite3"
    journal.write_bytes(b"no journal at all" * 1000)
    done = smtp_notebook("doctor", "sandbox", "--json", SMTP_NOTEBOOK_JOURNAL=str(journal))
    found = json.loads(done.stdout)
    (step,) = (s for s in found["machine"]["steps"] if s["mark"] == "failed")
    assert done.returncode == 1
    assert step["name"] == "journal"
    assert str(journal) in step["text"]
    assert step["fix"]
    assert found["server"]["ok"]
    assert journal.read_bytes() == b"no journal at all" * 1000


def test_help_has_examples_that_can_be_typed(smtp_notebook):
    shown = smtp_notebook("doctor", "--help").stdout
    assert "smtp-notebook doctor smtp://ann%40example.com@mail.example.com" in shown
    assert "exit code" in shown
    assert smtp_notebook("--version").stdout.strip().endswith("0.1.0")


def test_the_script_of_the_package_is_the_command():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["smtp-notebook"].partition(":")
    assert callable(getattr(import_module(module), name))


# ----------------------------------------------------------------------------------------- the machine


def step(name):
    return next(s for s in machines.machine().steps if s.name == name)


def test_looking_at_the_machine_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_JOURNAL", str(tmp_path / "deep" / "j.sqlite3"))
    assert step("journal").mark is Mark.OK
    assert not list(tmp_path.iterdir())


def test_the_journals_mailings_are_counted_and_it_stays_as_it_is(tmp_path, monkeypatch):
    path = tmp_path / "j.sqlite3"
    Journal(path).close()
    before = path.read_bytes()
    monkeypatch.setenv("SMTP_NOTEBOOK_JOURNAL", str(path))
    assert "intact, 0 mailings" in step("journal").text
    assert path.read_bytes() == before


def test_a_journal_that_cannot_be_written_is_a_failure(tmp_path, monkeypatch):
    folder = tmp_path / "file"
    folder.write_text("no folder")
    monkeypatch.setenv("SMTP_NOTEBOOK_JOURNAL", str(folder / "j.sqlite3"))
    assert step("journal").mark is Mark.FAILED
    assert "SMTP_NOTEBOOK_JOURNAL" in step("journal").fix or step("journal").fix


def test_a_suppression_list_that_is_damaged_is_a_failure_for_no_merge_would_start(tmp_path, monkeypatch):
    assert "0 on the list" in step("suppressions").text
    suppress(["ann@example.com", "@example.org"])
    assert "2 on the list" in step("suppressions").text
    damaged = tmp_path / "s.sqlite3"
    damaged.write_bytes(b"no list at all" * 1000)
    monkeypatch.setenv("SMTP_NOTEBOOK_SUPPRESSIONS", str(damaged))
    assert step("suppressions").mark is Mark.FAILED
    assert str(damaged) in step("suppressions").text


def test_a_keyring_that_keeps_nothing_is_warned_of():
    """The tests' own is the null one."""
    assert step("keyring").mark is Mark.WARNING
    assert "SMTP_NOTEBOOK_PASSWORD" in step("keyring").fix


@pytest.mark.parametrize(("installed", "mark"), [("1.0", Mark.FAILED), ("", Mark.FAILED), ("99.1", Mark.OK)])
def test_a_package_that_is_too_old_or_missing_is_a_failure(installed, mark, monkeypatch):
    monkeypatch.setattr(machines, "_requirements", lambda: [("aiosmtplib", "5.1.3", "")])
    monkeypatch.setattr(machines, "_version", lambda _name: installed)
    assert step("packages").mark is mark


def test_a_requirement_is_read_with_its_least_version_and_extra(monkeypatch):
    lines = [
        "jinja2>=3.1.6",
        "psycopg[binary]>=3.2; extra == 'cluster'",
        'dkimpy>=1.1.8 ; extra == "dkim"',
        "tqdm",
    ]
    monkeypatch.setattr(machines.metadata, "requires", lambda _name: lines)
    assert list(machines._requirements()) == [
        ("jinja2", "3.1.6", ""),
        ("psycopg", "3.2", "cluster"),
        ("dkimpy", "1.1.8", "dkim"),
        ("tqdm", "", ""),
    ]


def test_a_clock_from_before_the_package_was_installed_is_a_failure(monkeypatch):
    real = machines.dt.datetime

    class Early(real):
        @classmethod
        def now(cls, tz=None):
            return real(2001, 1, 1, tzinfo=tz)

    monkeypatch.setattr(
        machines,
        "dt",
        type("dt", (), {**vars(machines.dt), "datetime": Early, "timedelta": machines.dt.timedelta}),
    )
    assert step("clock").mark is Mark.FAILED


def test_a_keyring_that_does_not_exist_is_warned_of(monkeypatch):
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.nope.Keyring")
    before = keyring.core._keyring_backend
    keyring.core._keyring_backend = None
    try:
        assert step("keyring").mark is Mark.WARNING
    finally:
        keyring.core._keyring_backend = before
