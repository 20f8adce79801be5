"""A check of a server: what a send does up to the recipients, told step by step; and no mail."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import pickle
import signal
import threading
import time
import types

import pytest
import trustme
from scripted import DROP, RESET, STALL, Server, server_context

from smtp_notebook import (
    AddressError,
    Checkup,
    Connection,
    DeliveryError,
    SecretError,
    checkup,
    send,
    session,
)
from smtp_notebook import _sync as sync
from smtp_notebook.checkup import Mark, Step
from smtp_notebook.mime import tag

PASSWORD = "correct-horse-battery"
LOGIN = ("ann", PASSWORD)
SHORT = 0.5
LEAST = ["settings", "name", "connect", "banner", "EHLO", "offers", "login", "sender", "quit"]
STARTTLS = [*LEAST[:5], "TLS", "EHLO by TLS", *LEAST[5:]]
IMPLICIT = [*LEAST[:3], "TLS", *LEAST[3:]]


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def ca_file(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def connection(server, scheme="smtp+plain", **settings):
    settings = {"timeout": 10.0, "sender": "me@example.com"} | settings
    if settings.get("user"):
        settings = {"password": lambda: PASSWORD} | settings
    return Connection.from_url(server.url(scheme), **settings)


def marks(found):
    return {step.name: step.mark for step in found.steps}


def names(found):
    return [step.name for step in found.steps]


def step(found, name):
    return next(s for s in found.steps if s.name == name)


# ------------------------------------------------------------------------------------------- all well


@pytest.mark.parametrize(
    ("scheme", "expected"), [("smtp+plain", LEAST), ("smtp", STARTTLS), ("smtps", IMPLICIT)]
)
def test_a_check_says_what_a_mail_says_up_to_its_recipients_and_mails_nobody(
    scheme, expected, authority, ca_file
):
    context = server_context(authority, "127.0.0.1")
    sides = {"smtp+plain": {}, "smtp": {"starttls": context}, "smtps": {"tls": context}}[scheme]
    more = {} if scheme == "smtp+plain" else {"ca_file": ca_file}
    with Server(login=LOGIN, **sides) as server:
        found = connection(server, scheme, user="ann", **more).check()
    assert names(found) == expected
    assert found.ok, found.text()
    assert server.log.logins == 1
    verbs = [command.partition(" ")[0] for command in server.log.commands]
    hello = ["EHLO", "STARTTLS", "EHLO"] if scheme == "smtp" else ["EHLO"]
    assert verbs == [*hello, "AUTH", "MAIL", "RSET", "QUIT"]
    assert server.log.connections == 1
    assert not server.log.mails
    if scheme != "smtp+plain":
        facts = step(found, "TLS").facts
        assert facts["version"] in {"TLSv1.2", "TLSv1.3"}
        assert facts["names"] == ["127.0.0.1"]
        assert facts["issuer"]
        assert facts["days_left"] > checkup.FEW_DAYS
        assert b"AUTH" not in server.log.plain_octets


def test_the_sandbox_is_checked_as_any_server_is(sandbox):
    found = sandbox.connection.check()
    assert found.ok
    assert marks(found)["login"] is Mark.NOT_TRIED
    assert not sandbox.messages


def test_an_awaited_check_is_the_same_on_a_running_loop(sandbox):
    async def cell():
        return await sandbox.connection.acheck(), sandbox.connection.check()

    awaited, blocking = asyncio.run(cell())
    assert marks(awaited) == marks(blocking)


def test_what_a_server_offers_is_said_in_words_for_a_mail():
    offers = ["SIZE 35882577", "8BITMIME", "DSN"]
    with Server(offers=offers, login=LOGIN, mechanisms="PLAIN XOAUTH2") as server:
        said = step(connection(server).check(), "offers")
    assert "35.9 MB" in said.text
    assert "PLAIN, XOAUTH2" in said.text
    assert "not offered: SMTPUTF8, PIPELINING" in said.text
    assert said.facts["max_message_bytes"] == 35_882_577


def test_a_server_that_takes_small_mails_alone_is_warned_of():
    with Server(offers=["SIZE 2000000"]) as server:
        found = connection(server).check()
    assert found.ok
    assert found.warnings == ("offers: A mail may have 2.0 MB here: send a link in place of a large file.",)


def test_a_server_without_ehlo_is_no_failure():
    with Server({"ehlo": "502 5.5.1 what?"}) as server:
        found = connection(server).check()
    assert found.ok
    assert "HELO" in step(found, "EHLO").text


@pytest.mark.parametrize(
    ("days", "mark"), [(400, Mark.OK), (31, Mark.OK), (29, Mark.WARNING), (1, Mark.WARNING)]
)
def test_a_certificate_that_ends_soon_is_warned_of(days, mark, authority, ca_file):
    until = dt.datetime.now(dt.UTC) + dt.timedelta(days=days, hours=1)
    context = server_context(authority, "127.0.0.1", not_after=until)
    with Server(starttls=context) as server:
        found = connection(server, "smtp", ca_file=ca_file).check()
    assert found.ok
    assert step(found, "TLS").mark is mark
    assert step(found, "TLS").facts["days_left"] == days
    said = "tomorrow" if days == 1 else f"in {days} days"
    assert bool(found.warnings and f"ends {said}" in found.warnings[0]) is (mark is Mark.WARNING)


def test_another_address_is_tried_when_the_first_does_not_answer(monkeypatch):
    """The name service is the test's; both addresses are this machine's."""

    async def both(host, port):
        real = await plain(host, port)
        return [(*entry[:4], ("127.0.0.2", port)) for entry in real] + real

    plain = session._addresses
    monkeypatch.setattr(session, "_addresses", both)
    with Server() as server:
        found = connection(server).check()
        sent = send(to="a@example.com", from_="me@example.com", body="x", via=connection(server))
    assert found.ok
    assert sent.status == 200
    assert step(found, "connect").mark is Mark.WARNING
    assert "127.0.0.2 cannot be connected to (connection refused)" in found.warnings[0]
    assert step(found, "name").facts["addresses"] == ["127.0.0.2", "127.0.0.1"]


# ----------------------------------------------------------------------------------------- what fails

#: What the server does, the step at which the check fails, and the connector's status that a mail would get.
FAULTS = {
    "banner 554": ({"banner": "554 5.3.2 no service"}, "banner", 403),
    "banner 421": ({"banner": "421 4.3.2 busy"}, "banner", 202),
    "banner dropped": ({"banner": DROP}, "banner", 202),
    "banner garbage": ({"banner": "HTTP/1.1 400 Bad Request"}, "banner", 202),
    "EHLO dropped": ({"ehlo": DROP}, "EHLO", 202),
    "EHLO 550": ({"ehlo": "550 5.7.1 not you"}, "EHLO", 403),
    "login 535": ({"auth": "535 5.7.8 wrong"}, "login", 401),
    "login 454": ({"auth": "454 4.7.0 later"}, "login", 202),
    "login dropped": ({"auth": DROP}, "login", 202),
    "MAIL 550": ({"mail": "550 5.7.60 not as that From"}, "sender", 403),
    "MAIL 530": ({"mail": "530 5.7.0 Authentication required"}, "sender", 401),
    "MAIL 451": ({"mail": "451 4.3.0 later"}, "sender", 202),
    "MAIL dropped": ({"mail": DROP}, "sender", 202),
    "MAIL reset": ({"mail": RESET}, "sender", 202),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_check_fails_where_and_as_a_mail_would(name):
    script, failing, status = FAULTS[name]
    with Server(script, login=LOGIN) as server:
        at = connection(server, user="ann", attempts=1)
        found = at.check()
        logins = server.log.logins
        with pytest.raises(DeliveryError) as caught:
            send(to="a@example.com", from_="me@example.com", body="x", via=at)
        assert not server.log.mails
    assert found.failed.name == failing
    assert found.failed.status == status
    assert logins <= 1
    assert found.failed.text
    assert found.failed.fix or found.failed.code
    # Spent attempts make a mail's 202 a 500.
    assert caught.value.outcome.status in {status, 500 if status == 202 else status}
    with pytest.raises(DeliveryError) as raised:
        found.raise_for_failure()
    assert raised.value.outcome.status == status
    behind = names(found)[names(found).index(failing) + 1 :]
    assert all(marks(found)[n] is Mark.NOT_TRIED for n in behind if n != "quit")


@pytest.mark.parametrize(
    ("stage", "failing"), [("banner", "banner"), ("ehlo", "EHLO"), ("auth", "login"), ("mail", "sender")]
)
def test_each_step_takes_the_timeout_at_most(stage, failing):
    with Server({stage: STALL}, login=LOGIN) as server:
        begun = time.monotonic()
        found = connection(server, user="ann", timeout=SHORT).check()
        took = time.monotonic() - begun
    assert found.failed.name == failing
    assert found.failed.seconds >= SHORT
    assert took <= SHORT * 1.1 + 1.0  # a loaded machine gets a second


def test_a_server_that_hangs_at_quit_is_a_warning(monkeypatch):
    monkeypatch.setattr(checkup, "_QUIT_SECONDS", SHORT)
    with Server({"quit": STALL}, offers=[]) as server:
        found = connection(server).check()
    assert found.ok
    assert "did not answer" in found.warnings[0]


@pytest.mark.parametrize(
    ("host", "failing", "words"),
    [
        ("nowhere.invalid", "name", "its name is not known"),
        ("127.0.0.1", "connect", "connection refused"),
    ],
)
def test_a_server_that_is_not_there_is_named_with_what_to_do(host, failing, words):
    with Server() as server:
        pass
    found = Connection.from_url(f"smtp+plain://{host}:{server.port}").check()
    assert found.failed.name == failing
    assert words in found.failed.text
    assert f"{host}:{server.port}" in found.failed.text
    assert found.failed.fix


def test_a_missing_ca_file_ends_the_check_before_any_connection():
    with Server() as server:
        found = connection(server, "smtp", ca_file="nowhere.pem").check()
    assert names(found) == ["settings"]
    assert found.failed.status == 403
    assert server.log.connections == 0


def test_without_a_password_all_but_the_login_is_checked_and_nobody_logs_in():
    def none():
        raise SecretError("There is no password.", "Set one.")

    with Server(login=LOGIN) as server:
        found = connection(server, user="ann", password=none).check()
    assert (found.failed.name, found.failed.status) == ("settings", 401)
    assert marks(found)["offers"] is not Mark.NOT_TRIED
    assert marks(found)["login"] is Mark.NOT_TRIED
    assert marks(found)["sender"] is Mark.NOT_TRIED
    assert server.log.logins == 0
    assert not any(c.startswith("MAIL") for c in server.log.commands)


def test_the_password_is_asked_for_on_the_calling_thread():
    asked = []

    def ask():
        asked.append(threading.current_thread())
        return PASSWORD

    with Server(login=LOGIN) as server:
        assert connection(server, user="ann", password=ask).check().ok
    assert asked == [threading.current_thread()]


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_a_check_and_leaves_nothing_behind():
    async def others():
        await asyncio.sleep(0)  # what was cancelled last ends in this turn
        return asyncio.all_tasks() - {asyncio.current_task()}

    def interrupt(_):
        os.kill(os.getpid(), signal.SIGINT)
        return STALL

    with Server({"mail": interrupt}) as server:
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            connection(server, timeout=30.0).check()
        assert time.monotonic() - begun < 10
        assert not sync.spawn(others()).result(10)


# ------------------------------------------------------------------------------------------- the sender


@pytest.mark.parametrize(
    ("settings", "given", "said"),
    [
        ({"sender": "me@example.com"}, "", "me@example.com"),
        ({"sender": "me@example.com"}, "You <you@example.com>", "you@example.com"),
        ({"sender": "", "user": "ann@example.com"}, "", "ann@example.com"),
        ({"sender": "", "user": "ann"}, "", None),
        ({"sender": "me@example.com", "envelope_from": "bounces@example.org"}, "", "bounces@example.org"),
        (
            {"sender": "me@example.com", "envelope_from": "b+{id}@example.org"},
            "",
            f"b+{tag('<check@localhost>')}@example.org",
        ),
    ],
)
def test_the_sender_is_the_one_that_a_mail_would_have(settings, given, said):
    user = settings.get("user", "")
    with Server(login=(user, PASSWORD) if user else None) as server:
        found = connection(server, **settings).check(given)
    asked = [c for c in server.log.commands if c.startswith("MAIL")]
    assert asked == ([f"MAIL FROM:<{said}>"] if said else [])
    assert marks(found)["sender"] is (Mark.OK if said else Mark.NOT_TRIED)


def test_a_sender_that_is_no_address_is_an_error_of_the_call():
    with Server() as server, pytest.raises(AddressError):
        connection(server).check("nobody")
    assert server.log.connections == 0


@pytest.mark.parametrize("offers", [["SMTPUTF8"], []])
def test_a_sender_with_letters_needs_a_server_that_takes_them(offers):
    with Server(offers=offers) as server:
        found = connection(server).check("jörg@example.com")
    asked = [c for c in server.log.commands if c.startswith("MAIL")]
    assert asked == (["MAIL FROM:<jörg@example.com> SMTPUTF8"] if offers else [])
    assert found.ok is bool(offers)


def test_after_a_refused_sender_the_transaction_is_left_as_it_was_found():
    with Server({"mail": "550 5.1.8 no such domain"}) as server:
        connection(server).check()
    assert server.log.commands[-2:] == ["RSET", "QUIT"]


# ------------------------------------------------------------------------------------------ what is shown


@pytest.mark.parametrize("fails", [False, True])
def test_no_secret_is_anywhere_in_a_checkup(fails, caplog):
    caplog.set_level("DEBUG")
    echo = {"mail": f"250 hello {PASSWORD}"}
    if fails:
        echo = {"auth": f"535 5.7.8 {PASSWORD} is wrong"}
    with Server(echo, login=LOGIN) as server:
        found = connection(server, user="ann").check()
    shown = found._repr_mimebundle_()
    places = [repr(found), str(found), found.text(), json.dumps(found.to_dict()), *shown.values()]
    places += [repr(pickle.dumps(found.to_dict())), repr(found.steps), caplog.text]
    assert found.ok is not fails
    assert not [place for place in places if PASSWORD in place]


def test_a_servers_text_is_shown_as_text():
    with Server({"banner": "220 <img src=x onerror=alert(1)>\x1b[31m"}) as server:
        found = connection(server).check()
    shown = found._repr_mimebundle_()
    assert "<img" not in shown["text/html"]
    assert "&lt;img" in shown["text/html"]
    assert "\x1b" not in shown["text/plain"]


def test_a_checkup_is_one_line_and_json_and_frozen(sandbox):
    found = sandbox.connection.check()
    assert "\n" not in repr(found)
    back = json.loads(json.dumps(found.to_dict()))
    assert back["ok"] is True
    assert [s["name"] for s in back["steps"]] == names(found)
    assert all(s["seconds"] >= 0 for s in back["steps"])
    with pytest.raises(AttributeError):
        found.subject = "x"
    assert found.raise_for_failure() is None


def test_lines_of_text_are_no_wider_than_a_terminal():
    long = "word " * 100
    found = Checkup("x", (Step(name="offers", text=long, fix=long), Step(name="quit")))
    assert max(map(len, found.text().splitlines())) <= 120
    assert found.text().count("word") == 200


def test_a_certificate_of_bare_names_is_described():
    socket = types.SimpleNamespace(version=lambda: "TLSv1.2", cipher=lambda: ("AES", "TLSv1.2", 128))
    certificate = {
        "subject": ((("commonName", "mail.example.com"),),),
        "issuer": ((("organizationName", "Example"),), (("commonName", "R3"),)),
        "notBefore": "Jan  1 00:00:00 2026 GMT",
        "notAfter": "Jan 11 00:00:00 2026 GMT",
        "subjectAltName": (("DNS", "mail.example.com"), ("DNS", "smtp.example.com")),
    }
    client = types.SimpleNamespace(
        get_transport_info={"ssl_object": socket, "peercert": certificate}.__getitem__
    )
    found = checkup._secured(client, dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    assert "certificate of mail.example.com by R3, Example, valid until 2026-01-11 (10 days)" in found["text"]
    assert found["mark"] is Mark.WARNING


def test_a_login_by_token_is_said_to_be_one():
    with Server(tokens=lambda *_: True) as server:
        found = Connection.from_url(server.url(user="ann"), oauth=lambda: "tok").check()
    assert "password" not in found.steps[0].text
    assert "token" in found.steps[0].text
