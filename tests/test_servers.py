"""Servers that nobody here wrote: what each of them offers is used, and what it refuses is said.

Postfix with Dovecot, and npm's smtp-server. Every connection goes through a `wire.Wire`, which remembers what was
said. At the end everything that lies with anybody is compared with everything that was meant, and the table in
docs/explanation/servers.md with what was found.
"""

from __future__ import annotations

import base64
import contextlib
import socket
from collections import Counter

import fast_mail_parser
import pytest
from mailservers import PASSWORD, copies, running_servers, token, until
from smtpserver import running_smtpserver
from tables import Table
from wire import Wire, in_clear

from smtp_notebook import Attachment, Connection, DeliveryError, MailError, State, mail_merge, send

TABLE = Table("explanation/servers.md", "servers", "Server", "Feature", "Result")
POSTFIX, NODE = "Postfix and Dovecot", "smtp-server"
LETTER = """---
subject: Grüße, Nr. {{ n }}
---
Dear **reader** {{ n }}, voilà.

.a line that begins with a dot
"""
ME = "Çelik <me@example.test>"
BIG = "a line of some forty letters, all alike\n" * 2000
SECURE = {"starttls": "smtp", "tls": "smtps"}


class Voice:
    """One server: how to reach it, and what was meant to arrive there.

    Attributes:
        name: What the table calls it.
        meant: Each recipient and Message-ID that one copy of is due.
        reports: How many delivery reports were asked for.
    """

    def __init__(self, name, server, ports, stack):
        self.name = name
        self.server = server
        self.ports = ports
        self.meant = set()
        self.reports = 0
        self._wires = {}
        self._stack = stack

    def wire(self, port, scheme="smtp+plain"):
        """Return the wire to a port for connections of a scheme."""
        if (port, scheme) not in self._wires:
            self._wires[port, scheme] = self._stack.enter_context(Wire(self.ports[port]))
        return self._wires[port, scheme]

    def wires(self):
        """Return each port and scheme that were used, and the wire."""
        return dict(self._wires)

    def via(self, port, scheme="smtp+plain", user="", password=PASSWORD, **settings):
        """Return a Connection to a port."""
        if scheme != "smtp+plain":
            settings["ca_file"] = self.server.ca_file
        if user:
            settings["password"] = lambda: password
        url = f"{scheme}://{user}{'@' if user else ''}127.0.0.1:{self.wire(port, scheme).port}"
        return Connection.from_url(url, **({"timeout": 30, "dot_timeout": 30} | settings))

    def merge(self, addresses, via, campaign):
        """Send a letter to each of the rows, and remember who was to have it."""
        rows = [{"Email": a, "n": i} for i, a in enumerate(addresses)]
        to = "{{ Email | addresses }}"
        report = mail_merge(
            rows, LETTER, to=to, key="Email", from_=ME, via=via, campaign=campaign, progress=False
        )
        for outcome in report.sent:
            given = addresses[outcome.row].split("; ")
            assert set(outcome.to) == set(given)
            self._mean(outcome, given)
        return report

    def send(self, via, *given, **fields):
        """Send one mail, and remember who was to have it."""
        outcome = send(via=via, **({"from_": ME} | fields))
        self._mean(outcome, given)
        return outcome

    def _mean(self, outcome, given):
        refused = {address for address, _ in outcome.refused}
        self.meant |= {(a, outcome.message_id) for a in given if a not in refused}

    def note(self, feature, result):
        """Note a row of the table."""
        TABLE.note(self.name, feature, result)

    def of(self, report):
        """Return the copies that arrived of the mails of a report, or of one Outcome."""
        ids = {o.message_id for o in (report if hasattr(report, "counts") else [report])}
        return [a for a in self.server.arrived() if a.message_id in ids]

    def commands(self, port, since=0):
        """Return the pieces in which clients that want no TLS talked to a port, from a connection on."""
        return [piece for pieces in self.wire(port).said[since:] for piece in pieces]

    def verbs_in_clear(self, port, scheme):
        """Return the commands that clients of a scheme said to a port outside of TLS."""
        return {
            line.split()[0] for clear in self.wire(port, scheme).in_clear() for line in clear.splitlines()
        }


@pytest.fixture(scope="module")
def postfix():
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(running_servers())
        yield Voice(POSTFIX, servers, servers.postfix.ports, stack)


@pytest.fixture(scope="module")
def node():
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running_smtpserver())
        yield Voice(NODE, server, server.ports, stack)


@pytest.fixture(params=["postfix", "node"])
def voice(request):
    return request.getfixturevalue(request.param)


def people(count, first=0):
    return [f"u{i}@example.test" for i in range(first, first + count)]


def said(outcome):
    """Return what came of a mail, for the table."""
    code = f", {outcome.code}" if outcome.code else ""
    return f"{outcome.state}{code} → {outcome.status}"


# ---------------------------------------------------------------------------------------------- content


def test_a_mail_arrives_with_the_recipients_headers_texts_and_files_that_were_meant(voice):
    content = bytes(range(256)) * 50
    outcome = voice.send(
        voice.via("relay"),
        "ann@example.test",
        "bob@example.test",
        "u1@example.test",
        to="Ann O'Neil <ann@example.test>",
        cc="Jörg Müßig <bob@example.test>",
        bcc="u1@example.test",
        subject="Grüße aus Łódź – 王小明",
        body="<p>Dear <b>Ann</b>, 5 € für Sie</p>\n<p>.a dot</p>",
        format="html",
        attach=[Attachment(content, name="Übersicht.bin"), Attachment("a;b\r\n1;2\r\n", name="table.csv")],
    )
    assert outcome.state is State.SENT
    arrived = voice.of(outcome)
    assert Counter(a.to for a in arrived) == dict.fromkeys(outcome.to, 1)
    for copy in arrived:
        mail = copy.mail
        assert mail["Subject"] == "Grüße aus Łódź – 王小明"
        assert [a.addr_spec for a in mail["To"].addresses] == ["ann@example.test"]
        assert [(a.display_name, a.addr_spec) for a in mail["Cc"].addresses] == [
            ("Jörg Müßig", "bob@example.test")
        ]
        assert mail["From"].addresses[0].display_name == "Çelik"
        assert mail["Bcc"] is None
        assert b"u1@" not in copy.raw.partition(b"Message-ID:")[2]
        assert "5 € für Sie" in mail.get_body(("html",)).get_content()
        assert "\n.a dot" in mail.get_body(("plain",)).get_content()
        files = {p.get_filename(): p.get_payload(decode=True) for p in mail.iter_attachments()}
        assert files == {"Übersicht.bin": content, "table.csv": b"a;b\r\n1;2\r\n"}
        other = fast_mail_parser.parse_email(copy.raw)
        assert other.subject == mail["Subject"]
        assert "5 € für Sie" in other.text_html[0]
        assert sorted(a.content for a in other.attachments) == sorted(files.values())
    voice.note("text, HTML, attachments, blind copy", "each copy read back as it was meant")


# --------------------------------------------------------------------------------------------- security


@pytest.mark.parametrize("security", SECURE)
def test_where_tls_is_asked_everything_but_the_wish_for_it_is_encrypted(voice, security):
    via = voice.via(security, SECURE[security], "ann", max_connections=2)
    report = voice.merge(people(6), via, f"tls-{security}")
    assert report.counts == {State.SENT: 6}
    arrived = voice.of(report)
    assert len(arrived) == 6
    if voice.name == POSTFIX:
        # RFC 3848: S for TLS, A for a login.
        assert all("with ESMTPSA id" in " ".join(a.mail.get_all("Received")) for a in arrived)
    else:
        mails = [m for m in voice.server.events("mail") if m["port"] == security]
        assert {(m["secure"], m["user"]) for m in mails} == {(True, "ann")}
    verbs = voice.verbs_in_clear(security, SECURE[security])
    assert verbs == ({b"EHLO", b"STARTTLS"} if security == "starttls" else set())
    feature = "STARTTLS, required" if security == "starttls" else "TLS from the first octet"
    voice.note(
        feature,
        f"{said(report[0])}; in clear: {' '.join(sorted(v.decode() for v in verbs)) or 'nothing'}",
    )


def test_a_server_without_starttls_gets_nothing_where_tls_is_asked(voice):
    report = voice.merge(people(3), voice.via("relay", "smtp"), "no-starttls")
    assert {o.status for o in report.where(State.REFUSED)} == {403}
    assert not report.sent
    assert voice.verbs_in_clear("relay", "smtp") == {b"EHLO"}
    voice.note("STARTTLS not offered", f"{said(report.failures[0])}; nothing sent")


@pytest.mark.parametrize("fault", ["expired", "stranger"])
@pytest.mark.parametrize("security", SECURE)
def test_a_certificate_that_is_expired_or_anothers_ends_the_run_and_nothing_is_sent(voice, fault, security):
    port = f"{fault}-{security}"
    report = voice.merge(people(5), voice.via(port, SECURE[security], "ann"), port)
    assert not report.sent
    failed = report.where(State.REFUSED)
    assert failed
    assert {o.status for o in failed} == {403}
    wanted = "expired" if fault == "expired" else "not valid for '127.0.0.1'"
    assert all(wanted in o.reason for o in failed)
    assert voice.verbs_in_clear(port, SECURE[security]) <= {b"EHLO", b"STARTTLS"}
    what = "expired certificate" if fault == "expired" else "certificate of another host"
    voice.note(what, f"{said(failed[0])}; nothing sent")


def test_no_password_is_said_before_tls(postfix):
    with pytest.raises(MailError, match="in clear"):
        Connection.from_url("smtp+plain://ann@mail.example.test")
    since = len(postfix.wire("starttls").said)
    report = postfix.merge(people(2), postfix.via("starttls", "smtp+plain", "ann"), "early-login")
    assert not report.sent
    assert report.failures[0].status == 401
    assert not any(b"AUTH" in piece.upper() for piece in postfix.commands("starttls", since))
    postfix.note("login before TLS", f"{said(report.failures[0])}; no AUTH was said")


# ------------------------------------------------------------------------------------------------ login

#: Which mechanisms a port offers; ``starttls`` offers all that there are.
LOGINS = [
    *[("postfix", f"login-{m}") for m in ("plain", "login", "cram-md5")],
    *[("node", f"login-{m}") for m in ("plain", "login")],
    ("postfix", "starttls"),
    ("node", "starttls"),
]


def failed_logins(voice, port):
    if voice.name == POSTFIX:
        return voice.server.postfix.said(port, "authentication failed")
    return sum(e["port"] == port and not e["right"] for e in voice.server.events("login"))


@pytest.mark.parametrize(("name", "port"), LOGINS)
def test_a_wrong_password_is_tried_once_and_the_right_one_sends_every_row(request, name, port):
    voice, mechanism = request.getfixturevalue(name), port.removeprefix("login-").upper()
    wrong = voice.via(port, "smtp", "ann", "not the password", max_connections=3)
    report = voice.merge(people(6), wrong, port)
    assert not report.sent
    assert report.failures[0].status == 401
    assert report.failures[0].code == 535
    assert {o.state for o in report} <= {State.REFUSED, State.PLANNED}
    until(lambda: failed_logins(voice, port), 10, "the failed login is in the log")
    right = voice.merge(people(6), voice.via(port, "smtp", "ann", max_connections=3), port)
    assert right.counts == {State.SENT: 6}
    assert failed_logins(voice, port) == 1
    if port == "starttls":
        voice.note(
            "wrong password where many mechanisms are offered", f"{said(report.failures[0])}; one attempt"
        )
    else:
        voice.note(f"login with {mechanism}", said(right[0]))
        voice.note(f"wrong password with {mechanism}", f"{said(report.failures[0])}; one attempt")


def test_a_server_that_wants_a_login_says_so(postfix):
    report = postfix.merge(people(2), postfix.via("starttls", "smtp"), "no-login")
    assert report.counts == {State.REFUSED: 2}
    assert report[0].code == 554
    postfix.note("no login where one is wanted", said(report[0]))


@pytest.mark.parametrize(
    ("name", "mechanism"), [("postfix", "xoauth2"), ("postfix", "oauthbearer"), ("node", "xoauth2")]
)
def test_an_access_token_logs_in_and_one_that_expired_is_tried_once(request, name, mechanism):
    voice, port = request.getfixturevalue(name), f"login-{mechanism}"
    good = voice.server.token if voice.name == NODE else token("ann")
    asked = []

    def given(access):
        return voice.via(port, "smtp", max_connections=3).with_(
            user="ann", oauth=lambda: asked.append(1) or access
        )

    report = voice.merge(people(6), given(token("ann", seconds=-60)), f"{port}-expired")
    assert not report.sent
    assert (report.failures[0].status, report.failures[0].code) == (401, 535)
    assert asked == [1]
    right = voice.merge(people(6), given(good), f"{port}-good")
    assert right.counts == {State.SENT: 6}
    voice.note(f"login with {mechanism.upper()}", said(right[0]))
    voice.note(f"expired token with {mechanism.upper()}", f"{said(report.failures[0])}; one attempt")


# ---------------------------------------------------------------------------------------------- refusals


def test_a_mail_larger_than_is_announced_is_never_begun(voice):
    with pytest.raises(DeliveryError) as caught:
        send(to="ann@example.test", subject="s", body=BIG, from_=ME, via=voice.via("small"))
    outcome = caught.value.outcome
    assert (outcome.state, outcome.status, outcome.code) == (State.REFUSED, 400, None)
    assert not any(b"MAIL FROM" in piece for piece in voice.commands("small"))
    voice.note("larger than the announced SIZE", f"{said(outcome)}; no MAIL was said")


def test_a_mail_that_is_too_large_unannounced_is_refused_as_a_bad_request(voice):
    with pytest.raises(DeliveryError) as caught:
        send(to="ann@example.test", subject="s", body=BIG, from_=ME, via=voice.via("bare"))
    outcome = caught.value.outcome
    assert (outcome.state, outcome.status, outcome.code) == (State.REFUSED, 400, 552)
    voice.note("too large, unannounced", said(outcome))


def test_an_unknown_person_is_not_found_and_the_others_get_theirs(voice):
    report = voice.merge(
        ["ann@example.test", "nobody@example.test", "u2@example.test"], voice.via("relay"), "unknown"
    )
    assert [o.state for o in report] == [State.SENT, State.REFUSED, State.SENT]
    assert (report[1].status, report[1].code, report[1].enhanced) == (404, 550, "5.1.1")
    assert len(voice.of(report)) == 2
    voice.note("unknown user", said(report[1]))


@pytest.mark.parametrize(("who", "code"), [("nobody", "550"), ("later", "451")])
def test_where_one_of_two_is_refused_the_other_gets_one_copy(voice, who, code):
    both = f"ann@example.test; {who}@example.test"
    report = voice.merge([both], voice.via("relay"), f"partly-{who}")
    (outcome,) = report
    assert (outcome.state, outcome.status) == (State.PARTIAL, 202)
    ((refused, answer),) = outcome.refused
    assert refused == f"{who}@example.test"
    assert answer.startswith(code)
    assert [a.to for a in voice.of(report)] == ["ann@example.test"]
    voice.note(f"one of two recipients refused, {code}", f"{said(outcome)}; the other has one copy")


def test_greylisting_is_waited_out(postfix):
    report = postfix.merge(["grey7@example.test", "u3@example.test"], postfix.via("relay"), "grey")
    assert report.counts == {State.SENT: 2}
    assert [o.attempts for o in report] == [2, 1]
    postfix.note("greylisting, 450", f"{said(report[0])}; second attempt")


# ------------------------------------------------------------------------------------------------ limits


def test_fewer_connections_than_wished_lose_no_row(voice):
    report = voice.merge(people(60), voice.via("connections", max_connections=6), "connections")
    assert report.counts == {State.SENT: 60}
    assert len(voice.wire("connections").said) > 2
    voice.note("two connections at most, 421", f"{said(report[0])}; no row lost")


def test_a_limit_of_mails_in_a_window_loses_no_row(postfix):
    via = postfix.via("rate")
    first = postfix.merge(people(8), via, "rate")
    assert first.counts[State.DEFERRED] >= 1
    assert {(o.code, o.enhanced) for o in first.where(State.DEFERRED)} == {(450, "4.7.1")}

    def left():
        return set(postfix.merge(people(8), via, "rate").counts) - {State.SENT, State.SKIPPED}

    until(lambda: not left(), 30, "the window is over")
    postfix.note("five mails in a window, 450", f"{said(first.where(State.DEFERRED)[0])}, later sent")


def test_too_many_recipients_for_one_transaction_get_several(voice):
    everybody = people(7)
    report = voice.merge(["; ".join(everybody)], voice.via("recipients"), "recipients")
    assert report.counts == {State.SENT: 1}
    assert Counter(a.to for a in voice.of(report)) == dict.fromkeys(everybody, 1)
    voice.note("three recipients at most, 452", f"{said(report[0])}; seven have one copy each")


# -------------------------------------------------------------------------------------------- extensions


def test_an_address_beyond_ascii_goes_where_smtputf8_is_offered(voice):
    since = len(voice.wire("relay").said)
    report = voice.merge(["jörg@example.test"], voice.via("relay"), "utf8")
    assert report.counts == {State.SENT: 1}
    (mail,) = [c for c in b"".join(voice.commands("relay", since)).splitlines() if c.startswith(b"MAIL")]
    assert mail.endswith(b" SMTPUTF8 BODY=8BITMIME")
    (copy,) = voice.of(report)
    assert copy.to == "jörg@example.test"
    assert "\r\nTo: jörg@example.test\r\n" in copy.raw.decode()
    voice.note("SMTPUTF8", f"{said(report[0])}; with BODY=8BITMIME")


def test_an_address_beyond_ascii_is_refused_where_smtputf8_is_not_offered(voice):
    since = len(voice.wire("bare").said)
    report = voice.merge(["jörg@example.test"], voice.via("bare"), "utf8-bare")
    assert (report[0].state, report[0].status) == (State.REFUSED, 400)
    assert not any(b"MAIL FROM" in piece for piece in voice.commands("bare", since))
    voice.note("SMTPUTF8 not offered", f"{said(report[0])}; no MAIL was said")


def test_without_8bitmime_only_seven_bits_leave_and_the_text_arrives_as_it_was(voice):
    since = len(voice.wire("bare").said)
    outcome = voice.send(
        voice.via("bare"), "ann@example.test", to="ann@example.test", subject="Grüße", body="Łódź – voilà"
    )
    assert all(piece.isascii() for piece in voice.commands("bare", since))
    (copy,) = voice.of(outcome)
    assert copy.mail["Subject"] == "Grüße"
    assert "Łódź – voilà" in copy.mail.get_body(("plain",)).get_content()
    voice.note("8BITMIME not offered", f"{said(outcome)}; seven bits, read back as it was")


def test_a_report_of_success_is_asked_for_and_comes_back(postfix):
    notify = "success,failure,delay"
    outcome = postfix.send(
        postfix.via("relay", notify=notify),
        "u5@example.test",
        to="u5@example.test",
        subject="s",
        body="b",
        from_="bob@example.test",
    )
    postfix.reports += 1
    wanted = outcome.message_id.strip("<>")

    def reported():
        mails = [a for a in postfix.server.arrived() if a.mail.get_content_type() == "multipart/report"]
        return [a for a in mails if wanted in str(a.mail)]

    (report,) = until(reported, 20, "the report comes")
    assert report.to == "bob@example.test"
    whole, about = next(
        p for p in report.mail.walk() if p.get_content_type() == "message/delivery-status"
    ).get_payload()
    assert whole["Original-Envelope-Id"] == wanted
    assert about["Final-Recipient"] == "rfc822; u5@example.test"
    postfix.note("DSN", f"{said(outcome)}; the report says {about['Action']}")


def test_the_wish_for_a_report_arrives_with_the_name_that_the_sender_knows(node):
    via = node.via("relay", notify="success,failure")
    outcome = node.send(via, "u6@example.test", to="u6@example.test", subject="s", body="b")
    mails = node.server.events("mail")
    (mail,) = [m for m in mails if outcome.message_id.encode() in base64.b64decode(m["raw"])]
    assert mail["notify"] == [["SUCCESS", "FAILURE"]]
    assert mail["envid"] == outcome.message_id.strip("<>")
    node.note("DSN", f"{said(outcome)}; NOTIFY and ENVID arrive")


def test_no_report_is_asked_for_where_dsn_is_not_offered(voice):
    since = len(voice.wire("bare").said)
    via = voice.via("bare", notify="success,failure")
    outcome = voice.send(via, "u6@example.test", to="u6@example.test", subject="s", body="b")
    said_there = b"".join(voice.commands("bare", since))
    assert b"NOTIFY" not in said_there
    assert b"ENVID" not in said_there
    voice.note("DSN not offered", f"{said(outcome)}; NOTIFY is not said")


@pytest.mark.parametrize("port", ["relay", "bare"])
def test_commands_share_a_write_only_where_pipelining_is_offered(voice, port):
    since = len(voice.wire(port).said)
    report = voice.merge(people(40), voice.via(port, max_connections=1), f"pipelining-{port}")
    assert report.counts == {State.SENT: 40}
    pieces = voice.commands(port, since)
    grouped = [p for p in pieces if b"RCPT TO" in p and b"MAIL FROM" in p]
    ahead = [p for p in pieces if b"\r\n.\r\nMAIL FROM" in p]
    if port == "bare":
        assert not grouped
        voice.note("PIPELINING not offered", f"{said(report[0])}; one command at a time")
    else:
        assert grouped
        assert ahead
        voice.note("PIPELINING", f"{said(report[0])}; the dot shares a write with the next envelope")
    assert len(voice.of(report)) == 40


# ------------------------------------------------------------------------------------------- all of it


def test_what_is_no_record_of_tls_is_in_clear():
    record = b"\x16\x03\x01\x00\x02ab"
    assert in_clear(record * 3) == b""
    assert in_clear(record + record[:-1]) == b""
    assert in_clear(b"EHLO x\r\nSTARTTLS\r\n" + record) == b"EHLO x\r\nSTARTTLS\r\n"
    assert b"MAIL FROM" in in_clear(record + b"MAIL FROM:<a@example.com>\r\n")
    assert b"AUTH" in in_clear(b"EHLO x\r\nSTARTTLS\r\nAUTH PLAIN\r\n")
    assert in_clear(b"EHLO x\r\nMAIL\r\n") == b"EHLO x\r\nMAIL\r\n"


def test_who_looks_for_a_kernel_at_its_former_port_is_no_client_of_mail(postfix):
    with Wire(postfix.ports["starttls"]) as wire:
        for first in (b"\xff\0\0\0\0\0\0\0%\x7f", b"EHLO me\r\n"):
            with socket.create_connection(("127.0.0.1", wire.port), timeout=10) as client:
                client.recv(1)
                client.sendall(first)
                client.shutdown(socket.SHUT_WR)
                while client.recv(4096):
                    pass
        assert wire.in_clear() == [b"EHLO me\r\n"]


def test_everybody_has_one_copy_of_what_was_meant_and_nobody_anything_else(voice):
    arrived = voice.server.arrived()
    reports = [a for a in arrived if a.mail.get_content_type() == "multipart/report"]
    assert len(reports) == voice.reports
    found = copies(a for a in arrived if a not in reports)
    assert found.keys() - voice.meant == set(), "sent to somebody who was not meant"
    assert voice.meant - found.keys() == set(), "said to be sent, and did not arrive"
    assert set(found.values()) <= {1}, "sent twice"
    if found:
        voice.note("all of the above together", "0 copies too many, 0 missing, 0 to anybody else")


def test_nothing_is_in_clear_on_any_connection_where_tls_was_asked(voice):
    secure = [wire for wire in voice.wires() if wire[1] != "smtp+plain"]
    for port, scheme in secure:
        assert voice.verbs_in_clear(port, scheme) <= {b"EHLO", b"STARTTLS"}
    if secure:
        voice.note("every connection with TLS together", "0 octets in clear of logins and mails")


def test_the_table_says_what_was_found(request, postfix, node):
    option = request.config.option
    some = option.keyword or option.deselect or getattr(option, "lf", False)
    if some or any("::" in a for a in request.config.args) or request.session.testsfailed:
        pytest.skip("only all tests of this file together make the table")
    if option.tables:
        TABLE.write()
    TABLE.check()
