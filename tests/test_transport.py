"""The transport against a server that misbehaves on purpose; the server's own log is the judge."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace

import pytest
import trustme
from scripted import ACCEPT_DROP, DROP, RESET, STALL, Server, server_context

from smtp_notebook import Connection, DeliveryError, SettingsError, State, send
from smtp_notebook.replies import Stage
from smtp_notebook.transport import SmtpTransport

MAIL = b"Subject: x\r\n\r\nhello\r\n.dot\r\n..two\r\n"


@dataclass(frozen=True)
class Letter:
    """A mail as the transport wants it."""

    sender: str
    recipients: tuple[str, ...]
    smtputf8: bool = False
    chunks: tuple[bytes, ...] = (MAIL,)
    message_id: str = "<1@example.com>"

    @property
    def size(self):
        return sum(map(len, self.chunks))


def envelope(*recipients, **more):
    return Letter("me@example.com", recipients or ("ann@example.com",), **more)


def _ahead(mails, position, wanted):
    return {"ahead": lambda: mails[position + 1] if position + 1 < len(mails) else None} if wanted else {}


def deliver(
    server,
    *envelopes,
    password=None,
    scheme="smtp+plain",
    before_dot=None,
    content=MAIL,
    ahead=False,
    **settings,
):
    """Deliver one mail per envelope, one after another, and return the verdicts."""
    user = settings.pop("user", "")
    connection = Connection.from_url(
        server.url(scheme), user=user, **({"timeout": 5.0, "dot_timeout": 5.0} | settings)
    )

    async def permitted():
        if before_dot is not None:
            before_dot()

    async def work():
        transport = SmtpTransport(connection, password)
        lane = transport.lane()
        mails = [e if content is MAIL else replace(e, chunks=(content,)) for e in envelopes or (envelope(),)]
        try:
            return [
                await lane.deliver(mail, permitted, **_ahead(mails, i, ahead)) for i, mail in enumerate(mails)
            ]
        finally:
            await transport.aclose()

    return asyncio.run(work())


def test_a_mail_arrives_octet_for_octet_dots_included():
    with Server() as server:
        (verdict,) = deliver(server)
    assert (verdict.state, verdict.status, verdict.code) == (State.SENT, 200, 250)
    assert [m.content for m in server.log.mails] == [MAIL]
    assert server.log.commands[-1] == "QUIT"


def test_a_connection_carries_many_mails_and_is_replaced_after_its_share():
    with Server() as server:
        verdicts = deliver(
            server, *[envelope(f"u{i}@example.com") for i in range(7)], messages_per_connection=3
        )
    assert {v.state for v in verdicts} == {State.SENT}
    assert server.log.connections == 3
    assert [m.recipients for m in server.log.mails] == [[f"u{i}@example.com"] for i in range(7)]


# What the script does, what the verdict is, and how many copies the server kept.
FAULTS = [
    ("banner 554", {"banner": "554 5.3.2 no service"}, State.REFUSED, 403, 0),
    ("banner 421", {"banner": "421 4.3.2 busy"}, State.DEFERRED, 202, 0),
    ("banner garbage", {"banner": "HTTP/1.1 400 Bad Request"}, State.DEFERRED, 202, 0),
    ("banner drop", {"banner": DROP}, State.DEFERRED, 202, 0),
    ("ehlo 502, helo works", {"ehlo": "502 5.5.1 what?"}, State.SENT, 200, 1),
    ("ehlo drop", {"ehlo": DROP}, State.DEFERRED, 202, 0),
    ("mail 451", {"mail": "451 4.3.0 later"}, State.DEFERRED, 202, 0),
    ("mail 550", {"mail": "550 5.7.1 not you"}, State.REFUSED, 403, 0),
    ("mail 530", {"mail": "530 5.7.0 Authentication required"}, State.REFUSED, 401, 0),
    ("mail 530 tls", {"mail": "530 5.7.0 Must issue a STARTTLS command first"}, State.REFUSED, 403, 0),
    ("mail drop", {"mail": DROP}, State.DEFERRED, 202, 0),
    ("mail reset", {"mail": RESET}, State.DEFERRED, 202, 0),
    ("mail 421", {"mail": "421 4.7.0 closing"}, State.DEFERRED, 202, 0),
    ("rcpt 550", {"rcpt": "550 5.1.1 no such user"}, State.REFUSED, 404, 0),
    ("rcpt 550 bare", {"rcpt": "550 no"}, State.REFUSED, 404, 0),
    ("rcpt 450", {"rcpt": "450 4.7.1 greylisted"}, State.DEFERRED, 202, 0),
    ("rcpt 552", {"rcpt": "552 5.2.2 full"}, State.REFUSED, 400, 0),
    ("rcpt 251", {"rcpt": "251 will forward"}, State.SENT, 200, 1),
    ("rcpt drop", {"rcpt": DROP}, State.DEFERRED, 202, 0),
    ("data 451", {"data": "451 4.3.0 later"}, State.DEFERRED, 202, 0),
    ("data 554", {"data": "554 5.7.1 policy"}, State.REFUSED, 403, 0),
    ("data 250", {"data": "250 odd"}, State.DEFERRED, 202, 0),
    ("data drop", {"data": DROP}, State.DEFERRED, 202, 0),
    ("dot 250 bare", {"dot": "250"}, State.SENT, 200, 1),
    ("dot 252", {"dot": "252 maybe"}, State.SENT, 200, 1),
    ("dot 299", {"dot": "299 odd"}, State.SENT, 200, 1),
    ("dot 20 lines", {"dot": "".join("250-more\r\n" for _ in range(19)) + "250 done"}, State.SENT, 200, 1),
    ("dot 451", {"dot": "451 4.3.0 later"}, State.DEFERRED, 202, 0),
    ("dot 421", {"dot": "421 4.3.0 closing"}, State.DEFERRED, 202, 0),
    ("dot 552", {"dot": "552 5.3.4 too big"}, State.REFUSED, 400, 0),
    ("dot 554", {"dot": "554 5.7.1 spam"}, State.REFUSED, 403, 0),
    ("dot accepted, lost", {"dot": ACCEPT_DROP}, State.IN_DOUBT, 500, 1),
    ("dot lost", {"dot": DROP}, State.IN_DOUBT, 500, 0),
    ("dot reset", {"dot": RESET}, State.IN_DOUBT, 500, 0),
    ("dot garbage", {"dot": "what"}, State.IN_DOUBT, 500, 0),
    ("dot 354", {"dot": "354 go on"}, State.IN_DOUBT, 500, 0),
    ("quit drop", {"quit": DROP}, State.SENT, 200, 1),
]


@pytest.mark.parametrize(
    ("script", "state", "status", "copies"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_every_fault_has_its_outcome_and_its_number_of_copies(script, state, status, copies):
    with Server(script) as server:
        (verdict,) = deliver(server)
    assert (verdict.state, verdict.status) == (state, status)
    assert len(server.log.mails) == copies
    assert verdict.retry is (state is State.DEFERRED)
    assert "\n" not in verdict.reason


IN_A_MAIL = [f for f in FAULTS if f[0].partition(" ")[0] in {"mail", "rcpt", "data", "dot"}]


@pytest.mark.parametrize("careless", [False, True])
@pytest.mark.parametrize(
    ("script", "state", "status", "copies"), [f[1:] for f in IN_A_MAIL], ids=[f[0] for f in IN_A_MAIL]
)
def test_a_fault_means_the_same_when_commands_share_a_write(script, state, status, copies, careless):
    """The first mail earns pipelining, the second meets the fault; careless servers say 354 to nobody's DATA."""
    later = {stage: [None, action] for stage, action in script.items()}
    with Server(later, careless=careless) as server:
        first, second = deliver(server, envelope("first@example.com"), envelope("second@example.com"))
    assert first.state is State.SENT
    assert (second.state, second.status) == (state, status)
    assert [m.recipients[0] for m in server.log.mails] == [
        "first@example.com",
        *["second@example.com"] * copies,
    ]


def test_after_a_refused_mail_command_no_text_goes_out_on_that_connection():
    """F73: a server that forgets to refuse RCPT and DATA would give it to the wrong person."""
    with Server({"mail": [None, "550 5.7.1 no", None]}, careless=True) as server:
        verdicts = deliver(server, *[envelope(f"u{i}@example.com") for i in range(3)])
    assert [v.state for v in verdicts] == [State.SENT, State.REFUSED, State.SENT]
    assert [m.recipients for m in server.log.mails] == [["u0@example.com"], ["u2@example.com"]]
    assert server.log.connections == 2


def test_a_server_that_hangs_up_on_grouped_commands_gets_them_one_by_one():
    """F63: it offers PIPELINING and does not mean it."""
    with Server({"mail": [None, DROP, None]}) as server:
        verdicts = deliver(server, *[envelope(f"u{i}@example.com") for i in range(3)])
    assert {v.state for v in verdicts} == {State.SENT}
    assert len(server.log.mails) == 3


@pytest.mark.parametrize("stage", ["banner", "ehlo", "mail", "rcpt", "data"])
def test_a_server_that_never_answers_before_the_dot_defers_the_mail(stage):
    with Server({stage: STALL}) as server:
        (verdict,) = deliver(server, timeout=0.2)
    assert verdict.state is State.DEFERRED
    assert verdict.retry
    assert server.log.mails == []


def test_a_server_that_stops_reading_in_the_text_defers_the_mail():
    """F42: the window never drains, so the dot never left."""
    content = b"x" * 60 + b"\r\n"
    with Server({"body": [STALL, None]}, offers=["PIPELINING"], window=4096) as server:
        first, second = deliver(server, envelope(), envelope(), content=content * 8_000, timeout=1.0)
    assert (first.state, first.stage, first.retry) == (State.DEFERRED, Stage.DATA, True)
    assert "took no data" in first.reason
    assert second.state is State.SENT
    assert len(server.log.mails) == 1


def test_a_server_that_never_answers_the_dot_leaves_the_mail_in_doubt():
    with Server({"dot": STALL + "kept"}) as server:
        (verdict,) = deliver(server, dot_timeout=0.2)
    assert (verdict.state, verdict.stage) == (State.IN_DOUBT, Stage.DOT)
    assert not verdict.retry
    assert len(server.log.mails) == 1


def test_a_server_that_is_not_there_is_named_with_what_to_do():
    with Server() as server:
        pass
    (verdict,) = deliver(server)
    assert verdict.state is State.DEFERRED
    assert f"127.0.0.1:{server.port}" in verdict.reason
    assert verdict.fix


def test_one_refused_recipient_does_not_hold_up_the_others():
    refuse = {"rcpt": lambda a: "550 5.1.1 no such user" if a.startswith("bad") else None}
    with Server(refuse) as server:
        (verdict,) = deliver(server, envelope("a@example.com", "bad@example.com", "c@example.com"))
    assert (verdict.state, verdict.status) == (State.PARTIAL, 202)
    assert verdict.refused == (("bad@example.com", "550 5.1.1 no such user"),)
    assert server.log.mails[0].recipients == ["a@example.com", "c@example.com"]


def test_when_all_are_refused_no_data_is_asked_for_and_a_temporary_answer_decides():
    answers = {"rcpt": ["550 5.1.1 no", "450 4.2.1 later"]}
    with Server(answers) as server:
        (verdict,) = deliver(server, envelope("a@example.com", "b@example.com"))
    assert verdict.state is State.DEFERRED
    assert "DATA" not in server.log.commands


@pytest.mark.parametrize(
    "script", [{"mail": ["550 5.1.8 no", None]}, {"rcpt": ["550 5.1.1 no", None]}, {"data": ["554 no", None]}]
)
def test_after_an_unfinished_transaction_the_next_mail_begins_with_a_reset(script):
    with Server(script) as server:
        first, second = deliver(server, envelope("a@example.com"), envelope("b@example.com"))
    assert (first.state, second.state) == (State.REFUSED, State.SENT)
    assert [m.recipients for m in server.log.mails] == [["b@example.com"]]
    assert server.log.commands.index("RSET") < len(server.log.commands) - 3
    assert server.log.connections == 1


@pytest.mark.parametrize("answer", [DROP, "502 5.5.1 no", RESET])
def test_a_failing_reset_closes_the_connection_and_never_changes_a_verdict(answer):
    with Server({"rcpt": ["550 5.1.1 no", None], "rset": answer}) as server:
        first, second = deliver(server, envelope("a@example.com"), envelope("b@example.com"))
    assert (first.status, second.status) == (404, 200)
    assert server.log.connections == 2
    assert [m.recipients for m in server.log.mails] == [["b@example.com"]]


def test_a_pooled_connection_that_the_server_closed_costs_the_next_mail_nothing():
    with Server({"mail": [None, DROP, None]}) as server:
        verdicts = deliver(server, envelope("a@example.com"), envelope("b@example.com"))
    assert [v.state for v in verdicts] == [State.SENT, State.SENT]
    assert [m.recipients for m in server.log.mails] == [["a@example.com"], ["b@example.com"]]


def test_a_reply_to_nothing_is_never_taken_for_the_next_one():
    # The 250 for MAIL comes with one too many behind it.
    with Server({"mail": ["250 ok\r\n250 extra\r\n", None]}) as server:
        first, second = deliver(server, envelope("a@example.com"), envelope("b@example.com"))
    assert first.state is State.DEFERRED
    assert second.state is State.SENT
    assert [m.recipients for m in server.log.mails] == [["b@example.com"]]


def test_no_octet_of_a_mail_leaves_when_its_intent_cannot_be_recorded():
    def full():
        msg = "no space left on device"
        raise OSError(28, msg)

    with Server() as server, pytest.raises(OSError, match="no space"):
        deliver(server, before_dot=full)
    assert server.log.mails == []
    assert server.log.commands[-1] == "DATA"


def test_the_intent_is_asked_for_after_354_and_before_the_body():
    seen = []
    with Server() as server:
        deliver(server, before_dot=lambda: seen.append((list(server.log.commands), len(server.log.mails))))
    assert seen[0][0][-1] == "DATA"
    assert seen[0][1] == 0


def test_a_mail_that_the_server_says_is_too_big_is_never_begun():
    with Server(offers=["SIZE 20"]) as server:
        (verdict,) = deliver(server)
    assert (verdict.state, verdict.status) == (State.REFUSED, 400)
    assert not any(c.startswith("MAIL") for c in server.log.commands)


def test_size_is_the_number_of_octets():
    with Server() as server:
        deliver(server)
    assert f"MAIL FROM:<me@example.com> SIZE={len(MAIL)}" in server.log.commands


def test_smtputf8_is_said_when_needed_and_offered_and_never_otherwise():
    with Server() as server:
        deliver(server, envelope("jörg@example.com", smtputf8=True), envelope())
    first, second = (c for c in server.log.commands if c.startswith("MAIL"))
    assert "SMTPUTF8" in first
    assert "SMTPUTF8" not in second
    with Server(offers=["SIZE 1000"]) as server:
        (verdict,) = deliver(server, envelope("jörg@example.com", smtputf8=True))
    assert (verdict.state, verdict.status) == (State.REFUSED, 400)
    assert not any(c.startswith("MAIL") for c in server.log.commands)


@pytest.mark.parametrize("content", [b"no end", b"bare\nline\r\n", b"bare\rline\r\n", b"nul\0\r\n"])
def test_content_in_another_form_is_a_programmers_error(content):
    with Server() as server, pytest.raises(ValueError, match="CRLF"):
        deliver(server, content=content)
    assert server.log.connections == 0


@pytest.mark.parametrize(("stage", "state"), [("rcpt", State.DEFERRED), ("dot", State.IN_DOUBT)])
def test_stopping_a_delivery_returns_what_is_known(stage, state):
    reached = asyncio.Event()

    async def work(server):
        loop = asyncio.get_running_loop()

        def arrived(_):
            loop.call_soon_threadsafe(reached.set)
            return STALL

        server.script[stage] = arrived
        transport = SmtpTransport(Connection.from_url(server.url()))

        async def permitted():
            return None

        task = asyncio.ensure_future(transport.lane().deliver(envelope(), permitted))
        await reached.wait()
        task.cancel()
        verdict = await task
        await transport.aclose()
        return verdict

    with Server() as server:
        assert asyncio.run(work(server)).state is state


# --------------------------------------------------------------------------------------- TLS and login


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def ca_file(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_login_over_tls_with_a_verified_certificate(authority, ca_file, scheme):
    context = server_context(authority, "127.0.0.1")
    sides = {"starttls": context} if scheme == "smtp" else {"tls": context}
    with Server(login=("ann", "hunter2"), **sides) as server:
        (verdict,) = deliver(server, scheme=scheme, ca_file=ca_file, user="ann", password="hunter2")
    assert verdict.state is State.SENT
    assert b"AUTH" not in server.log.plain_octets
    assert b"MAIL" not in server.log.plain_octets


def bad_tls(kind, authority):
    if kind == "self-signed":
        return server_context(trustme.CA(), "127.0.0.1")
    return server_context(authority, "other.example")


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
@pytest.mark.parametrize("kind", ["self-signed", "wrong host"])
def test_an_unverified_certificate_gets_no_login_and_no_mail_and_ends_the_run(
    authority, ca_file, kind, scheme
):
    context = bad_tls(kind, authority)
    sides = {"starttls": context} if scheme == "smtp" else {"tls": context}
    with Server(login=("ann", "hunter2"), **sides) as server:
        verdicts = deliver(
            server, envelope(), envelope(), scheme=scheme, ca_file=ca_file, user="ann", password="hunter2"
        )
    assert {(v.state, v.status, v.stops_run) for v in verdicts} == {(State.REFUSED, 403, True)}
    assert "certificate" in verdicts[0].reason
    assert "ca_file" in verdicts[0].fix
    assert server.log.logins == 0
    assert server.log.mails == []
    assert server.log.connections <= 1


@pytest.mark.parametrize("script", [{}, {"starttls": "454 4.7.0 not now"}])
def test_without_starttls_nothing_is_said_in_clear(authority, ca_file, script):
    context = server_context(authority, "127.0.0.1") if script else None
    with Server(script, starttls=context, login=("ann", "hunter2")) as server:
        (verdict,) = deliver(server, scheme="smtp", ca_file=ca_file, user="ann", password="hunter2")
    assert (verdict.state, verdict.status, verdict.stops_run) == (State.REFUSED, 403, True)
    assert not {c.split()[0] for c in server.log.commands} & {"AUTH", "MAIL", "DATA"}


def test_a_wrong_password_is_one_login_whatever_the_number_of_mails_waiting():
    async def work(server):
        transport = SmtpTransport(Connection.from_url(server.url(), user="ann"), "wrong")

        async def permitted():
            return None

        mails = (transport.lane().deliver(envelope(f"u{i}@example.com"), permitted) for i in range(20))
        verdicts = await asyncio.gather(*mails)
        await transport.aclose()
        return verdicts

    with Server(login=("ann", "hunter2")) as server:
        verdicts = asyncio.run(work(server))
    assert {(v.state, v.status, v.stops_run) for v in verdicts} == {(State.REFUSED, 401, True)}
    assert "app password" in verdicts[0].fix
    assert server.log.logins == 1
    assert server.log.mails == []


def test_another_mechanism_is_tried_only_when_the_server_says_that_this_one_will_not_do():
    script = {"auth": lambda m: "504 5.5.4 not this one" if m == "PLAIN" else None}
    with Server(script, login=("ann", "hunter2")) as server:
        (verdict,) = deliver(server, user="ann", password="hunter2")
    assert verdict.state is State.SENT
    assert server.log.logins == 2


def test_a_temporary_login_failure_is_no_wrong_password():
    with Server({"auth": "454 4.7.0 try later"}, login=("ann", "hunter2")) as server:
        (verdict,) = deliver(server, user="ann", password="hunter2")
    assert (verdict.state, verdict.stops_run) == (State.DEFERRED, False)


def test_a_server_without_login_says_so():
    with Server() as server:
        (verdict,) = deliver(server, user="ann", password="hunter2")
    assert (verdict.status, verdict.stops_run) == (401, True)
    assert "offers no login" in verdict.reason


def test_a_password_that_the_server_echoes_is_not_repeated_anywhere(caplog):
    caplog.set_level(logging.DEBUG)
    echo = {"auth": "535 5.7.8 hunter2secret is wrong (AGFubgBodW50ZXIyc2VjcmV0)"}
    with Server(echo, login=("ann", "x")) as server:
        (verdict,) = deliver(server, user="ann", password="hunter2secret")
    assert "hunter2secret" not in repr(verdict)
    assert "AGFubgBodW50ZXIyc2VjcmV0" not in repr(verdict)
    assert "hunter2secret" not in caplog.text


# ----------------------------------------------------------------------------------------------- reports


def test_delivery_reports_are_asked_for_where_the_server_can_pass_that_on():
    """RFC 3461, 4: NOTIFY for each recipient, and whose mail it was."""
    mail = envelope("a@example.com", "b@example.com", message_id="<1+2=3@example.com>")
    with Server(offers=["DSN"]) as server:
        deliver(server, mail, notify="failure, delay")
    said = [c for c in server.log.commands if c.startswith(("MAIL", "RCPT"))]
    assert said == [
        "MAIL FROM:<me@example.com> RET=HDRS ENVID=1+2B2+3D3@example.com",
        "RCPT TO:<a@example.com> NOTIFY=FAILURE,DELAY",
        "RCPT TO:<b@example.com> NOTIFY=FAILURE,DELAY",
    ]


@pytest.mark.parametrize(("offers", "notify"), [([], "failure"), (["DSN"], "")])
def test_no_report_is_asked_for_where_nobody_could_or_should(offers, notify):
    with Server(offers=offers) as server:
        deliver(server, notify=notify)
    assert not any("NOTIFY" in c or "ENVID" in c for c in server.log.commands)


@pytest.mark.parametrize("wish", ["sometimes", "never, failure"])
def test_a_wish_for_reports_that_is_none_is_refused(wish):
    with pytest.raises(SettingsError, match="notify"):
        Connection(host="localhost", port=25, security="plain", notify=wish)


# ------------------------------------------------------------------------------------------------ ahead


def test_a_dot_and_the_next_envelope_share_a_write_once_both_steps_are_earned():
    mails = [envelope(f"u{i}@example.com") for i in range(6)]
    with Server() as server:
        verdicts = deliver(server, *mails, ahead=True)
    assert {v.state for v in verdicts} == {State.SENT}
    assert [m.recipients[0] for m in server.log.mails] == [m.recipients[0] for m in mails]
    writes = [octets for _, octets in server.log.reads]
    # The first goes command by command, the second proves the group; the third's dot is the first with company.
    assert sum(b"\r\n.\r\nMAIL FROM" in octets for octets in writes) == len(mails) - 3
    assert not any(b"DATA\r\nSubject" in octets for octets in writes), "no text before its 354"


def test_a_password_that_will_not_do_is_tried_with_one_mechanism_alone():
    """Gmail says 534 of one; a second try would be a second failed login."""
    script = {"auth": "534 5.7.9 Application-specific password required"}
    with Server(script, login=("ann", "x")) as server, pytest.raises(DeliveryError) as caught:
        via = Connection.from_url(server.url(user="ann"), password=lambda: "y", sender="me@example.com")
        send(to="bob@example.com", subject="s", body="b", via=via)
    assert (caught.value.outcome.status, server.log.logins) == (401, 1)


@pytest.mark.parametrize("size", ["9" * 5000, "²"])
def test_a_size_that_is_none_is_no_limit(size):
    with Server(offers=[f"SIZE {size}"]) as server:
        via = Connection.from_url(server.url(), sender="me@example.com")
        assert send(to="bob@example.com", subject="s", body="b", via=via).status == 200
