"""F15 to F23: what a person between us and the server, or a server that is not what it says, may do to TLS.

Each meets a merge of several rows, and a single mail, with a login. Whatever happens: the octets that travelled in
clear hold no AUTH and no MAIL, nobody gets a copy, no further row is tried, it is over in time, and with a server that
is in order the next run sends everything once.
"""

from __future__ import annotations

import datetime as dt
import itertools
import time
import warnings
from dataclasses import dataclass, field
from ssl import TLSVersion

import pytest
import trustme
from scripted import DROP, RESET, SLOWLY, STALL, Server, server_context
from tables import Table
from test_faults import LONG, ROWS, copies, frame, once

from smtp_notebook import Connection, DeliveryError, State, mail_merge, send

TABLE = Table("explanation/faults.md", "tls", "Fault", "With", "What becomes of it", "Copies")
LOGIN = ("ann", "correct-horse-battery")
#: What a server says in clear; a login or an envelope is not among it.
IN_CLEAR = {b"EHLO", b"STARTTLS", b"QUIT"}
PAST = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
AUTHORITY, STRANGER = trustme.CA(), trustme.CA()


def expired():
    return server_context(AUTHORITY, "127.0.0.1", not_before=PAST, not_after=PAST + dt.timedelta(days=90))


def not_yet():
    now = dt.datetime.now(dt.UTC)
    days = dt.timedelta(days=30)
    return server_context(AUTHORITY, "127.0.0.1", not_before=now + days, not_after=now + 2 * days)


def only(version):
    """Return the settings of a server that speaks that version at most; OpenSSL wants to be asked twice."""

    def make():
        context = good()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = TLSVersion.TLSv1
            context.maximum_version = version
        context.set_ciphers("ALL:@SECLEVEL=0")
        return context

    return make


def good():
    return server_context(AUTHORITY, "127.0.0.1")


@dataclass(frozen=True)
class Fault:
    """What happens between EHLO and TLS.

    Attributes:
        name: Its number in the matrix, and what happens.
        words: What the reason says.
        context: Makes the server's TLS settings; None where it has none.
        script: What it does besides.
        schemes: By which schemes.
        settings: The connection's.
    """

    name: str
    words: str
    context: object = good
    script: dict = field(default_factory=dict)
    schemes: tuple[str, ...] = ("smtp", "smtps")
    settings: dict = field(default_factory=dict)

    def in_time(self, met, ended):
        """Tell whether it was over within the timeout and a tenth; a loaded machine gets a second."""
        return all(ended - at <= self.settings.get("timeout", LONG) * 1.1 + 1.0 for at in met)

    def server(self, scheme, met):
        """Return the server; *met* gets the moment at which it begins to do what it does."""

        def noted(action):
            return lambda _: met.append(time.monotonic()) or action

        script = {stage: noted(action) for stage, action in self.script.items()}
        context = self.context() if self.context else None
        sides = {"starttls": context} if scheme == "smtp" else {"tls": context}
        # Without TLS where TLS comes first it waits for the client's hello, or it might be gone before that.
        return Server(script, login=LOGIN, patient=scheme == "smtps" and context is None, **sides)


STARTTLS = {"schemes": ("smtp",)}
IMPLICIT = {"schemes": ("smtps",)}
FAULTS = [
    Fault("F15 STARTTLS is not offered", "does not offer STARTTLS", context=None, **STARTTLS),
    Fault("F16 454 to STARTTLS", "454", script={"starttls": "454 4.7.0 not now"}, **STARTTLS),
    Fault("F16 502 to STARTTLS", "502", script={"starttls": "502 5.5.1 what?"}, **STARTTLS),
    Fault("F18 a certificate for another host", "another name", lambda: server_context(AUTHORITY, "other.example.com")),
    Fault("F18 a certificate for another address", "another name", lambda: server_context(AUTHORITY, "127.0.0.9")),
    Fault("F19 an expired certificate", "has expired", expired),
    Fault("F19 a certificate whose time has not begun", "has not begun", not_yet),
    Fault("F20 a certificate of an unknown authority", "nobody that this machine trusts", lambda: server_context(STRANGER, "127.0.0.1")),
    Fault("F21 TLS 1.0 alone", "No secure connection", only(TLSVersion.TLSv1)),
    Fault("F21 TLS 1.1 alone", "No secure connection", only(TLSVersion.TLSv1_1)),
    Fault("F22 reset in the handshake", "No secure connection", script={"starttls": "220 go ahead\r\n" + RESET}, **STARTTLS),
    Fault("F22 closed in the handshake", "No secure connection", script={"starttls": "220 go ahead\r\n" + DROP}, **STARTTLS),
    Fault("F22 closed behind the handshake's first octets", "No secure connection", script={"starttls": "220 go ahead\r\n\x16\x03\x03" + DROP}, **STARTTLS),
    Fault("F22 an answer in clear to the handshake", "No secure connection", context=None, script={"banner": "220 in clear\r\n" + DROP}, **IMPLICIT),
    Fault("F22 reset in the handshake", "No secure connection", context=None, script={"banner": RESET}, **IMPLICIT),
    Fault("F22 closed in the handshake", "No secure connection", context=None, script={"banner": DROP}, **IMPLICIT),
    Fault("F23 a handshake that stalls", "No secure connection", script={"starttls": "220 go ahead\r\n" + STALL}, settings={"timeout": 0.5}, **STARTTLS),
    Fault("F23 a handshake that stalls", "No secure connection", context=None, script={"banner": STALL}, settings={"timeout": 0.5}, **IMPLICIT),
]  # fmt: skip
NAMES = {"smtp": "STARTTLS", "smtps": "TLS from the first octet"}


def _named(name):
    """Return a fault with the ways of TLS in which it is tested."""
    schemes = {scheme for fault in FAULTS if fault.name == name for scheme in fault.schemes}
    return name, ", ".join(NAMES[scheme] for scheme in sorted(schemes))


CASES = [
    pytest.param(fault, scheme, id=f"{fault.name}-{scheme}") for fault in FAULTS for scheme in fault.schemes
]


@pytest.fixture(autouse=True)
def _password(monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", LOGIN[1])


@pytest.fixture
def ca_file(tmp_path):
    path = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "journal.sqlite3"


def connection(server, scheme, ca_file, **settings):
    settings = {"timeout": LONG, "dot_timeout": LONG, "max_connections": 1, "ca_file": ca_file} | settings
    return Connection.from_url(server.url(scheme, user="ann"), **settings)


def merge(via, journal):
    return mail_merge(
        frame(),
        "---\nsubject: row {{ n }}\n---\nkey-{{ n }}-key\n",
        to="{{ To }}",
        from_="me@example.com",
        format="text",
        key="n",
        campaign="tls",
        via=via,
        journal=journal,
        progress=False,
    )


def nothing_in_clear(server):
    """Check that what came in clear asks for TLS and nothing else."""
    verbs = {line.split(b" ")[0] for line in server.log.plain_octets.splitlines()}
    # With TLS from the first octet a server without TLS is sent the handshake itself.
    assert verbs <= IN_CLEAR or not any(v in server.log.plain_octets for v in (b"AUTH", b"MAIL", b"key-"))
    for told in (LOGIN[1].encode(), b"AUTH", b"MAIL FROM", b"RCPT", b"key-"):
        assert told not in server.log.plain_octets
    assert server.log.logins == 0
    assert not server.log.mails
    assert not {c.split(" ")[0] for c in server.log.commands} & {"AUTH", "MAIL", "RCPT", "DATA"}


@pytest.mark.parametrize(("fault", "scheme"), CASES)
def test_a_merge_says_nothing_in_clear_mails_nobody_and_can_be_run_again(fault, scheme, journal, ca_file):
    met_at = []
    with fault.server(scheme, met_at) as server:
        report = merge(connection(server, scheme, ca_file, **fault.settings), journal)
        ended = time.monotonic()
    nothing_in_clear(server)
    met = [o for o in report if o.state is not State.PLANNED]
    # The whole server is meant: one connection, and no row behind the first is begun.
    assert [(o.row, o.state, o.status) for o in met] == [(0, State.REFUSED, 403)]
    assert fault.words in report.notes[0]
    assert server.log.connections <= 1
    assert fault.in_time(met_at, ended)
    with Server(login=LOGIN, **({"starttls": good()} if scheme == "smtp" else {"tls": good()})) as healthy:
        again = merge(connection(healthy, scheme, ca_file), journal)
    assert again.counts == {State.SENT: ROWS}
    assert copies(healthy) == once(frame())


@pytest.mark.parametrize(("fault", "scheme"), CASES)
def test_a_single_mail_says_nothing_in_clear_and_is_not_sent(fault, scheme, ca_file):
    met_at = []
    with fault.server(scheme, met_at) as server:
        via = connection(server, scheme, ca_file, **fault.settings)
        with pytest.raises(DeliveryError, match=fault.words) as caught:
            send(to="ann@example.com", from_="me@example.com", subject="key-0-key", body="x", via=via)
        ended = time.monotonic()
    nothing_in_clear(server)
    outcome = caught.value.outcome
    assert (outcome.state, outcome.status) == (State.REFUSED, 403)
    assert outcome.fix
    assert fault.in_time(met_at, ended)
    TABLE.note(*_named(fault.name), "refused, 403, and the run ends", "0")


#: What comes in clear behind the 220, as somebody between could put it there.
INJECTED = ["250 injected", "250-scripted\r\n250 AUTH PLAIN", "535 5.7.8 injected"]


@pytest.mark.parametrize("face", ["merge", "send"])
@pytest.mark.parametrize("text", INJECTED)
def test_what_is_put_behind_the_220_in_clear_is_taken_for_no_reply(text, face, journal, ca_file):
    """F17, CVE-2021-38371 and GHSA-vxj7-4xrp-5vr4: it is thrown away, or the handshake fails; RFC 3207, 4.2."""
    script = {"starttls": f"220 go ahead\r\n{text}"}
    with Server(script, starttls=good(), login=LOGIN) as server:
        via = connection(server, "smtp", ca_file)
        if face == "merge":
            report = merge(via, journal)
            assert report.counts == {State.SENT: ROWS}, report.text()
            assert copies(server) == once(frame())
        else:
            send(to="ann@example.com", from_="me@example.com", subject="x", body="x", via=via)
            assert len(server.log.mails) == 1
        assert server.log.logins == 1
    for told in (b"AUTH", b"MAIL", LOGIN[1].encode()):
        assert told not in server.log.plain_octets
    TABLE.note("F17 more text in clear behind the 220", NAMES["smtp"], "thrown away; sent by TLS", "1")


@pytest.mark.parametrize("face", ["merge", "send"])
def test_what_is_put_into_the_handshake_in_clear_ends_it(face, journal, ca_file):
    """F17: it comes a moment behind the 220, so it is read as a part of the handshake, which it is not."""
    script = {"starttls": SLOWLY + "220 go ahead\r\n250 injected\r\n"}
    with Server(script, starttls=good(), login=LOGIN, pace=0.01) as server:
        via = connection(server, "smtp", ca_file)
        if face == "merge":
            assert merge(via, journal).counts == {State.REFUSED: 1, State.PLANNED: ROWS - 1}
        else:
            with pytest.raises(DeliveryError, match="No secure connection") as caught:
                send(to="ann@example.com", from_="me@example.com", subject="x", body="x", via=via)
            assert caught.value.outcome.status == 403
    nothing_in_clear(server)
    TABLE.note(
        "F17 more text in clear into the handshake", NAMES["smtp"], "refused, 403, and the run ends", "0"
    )


def test_what_was_offered_in_clear_counts_no_more_after_tls(ca_file):
    """C5, RFC 3207, 4.2: another EHLO, and its list alone. What was offered before may have been somebody's bait."""
    bait = "250-scripted\r\n250-STARTTLS\r\n250-SIZE 10\r\n250-DSN\r\n250 AUTH CRAM-MD5"
    hellos = itertools.count()
    script = {"ehlo": lambda _: None if next(hellos) else bait}
    with Server(script, starttls=good(), login=LOGIN, offers=["SMTPUTF8"]) as server:
        via = connection(server, "smtp", ca_file, notify="failure")
        assert (
            send(to="a@example.com", from_="me@example.com", subject="x" * 50, body="x", via=via).status
            == 200
        )
    said = server.log.commands
    assert [c.split(" ")[0] for c in said][:4] == ["EHLO", "STARTTLS", "EHLO", "AUTH"]
    assert said[3].startswith("AUTH PLAIN")
    assert "MAIL FROM:<me@example.com>" in said
    assert not any("NOTIFY" in c or "SIZE=" in c for c in said)


def test_the_table_says_what_was_found(request):
    expected = {fault.name for fault in FAULTS}
    if expected - {row[0] for row in TABLE.rows} or request.session.testsfailed:
        pytest.skip("only all tests of this file together make the table")
    if request.config.option.tables:
        TABLE.write()
    TABLE.check()
