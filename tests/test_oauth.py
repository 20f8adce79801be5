"""A connection that signs in: once, by a person, in the cell; then with tokens that are renewed in time."""

from __future__ import annotations

import asyncio
import base64
import copy
import itertools
import json
import logging
import os
import pickle
import pty
import re
import socket
import sys
import threading

import keyring
import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from authority import CLIENT, Authority
from scripted import PLAIN, Gate, Server, server_context

from smtp_notebook import (
    Connection,
    DeliveryError,
    GoogleOAuth,
    MergeRefusedError,
    Message,
    MicrosoftOAuth,
    OptionError,
    Sandbox,
    SecretError,
    SettingsError,
    State,
    api,
    connect,
    grants,
    mail_merge,
    send,
)
from smtp_notebook import oauth as oauths
from smtp_notebook.cells import cell_of, connecting
from smtp_notebook.connection import current, forget, saved
from smtp_notebook.grants import OfflineError
from smtp_notebook.session import Dialler

CA = trustme.CA()
ANN = "ann@example.com"
TOKEN = "canary-token-5Zq"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    """Nobody is signed in, and nobody waits."""
    monkeypatch.setenv("SMTP_NOTEBOOK_CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(grants, "WAIT", lambda _: None)
    monkeypatch.setattr(oauths, "_TOKENS", {})


@pytest.fixture
def authority(tmp_path):
    with Authority(CA, tmp_path) as found:
        yield found


class Screen:
    """What a terminal shows, and the person before it, who opens in a browser what it names."""

    def __init__(self, opens):
        self._opens = opens
        self.text = ""
        self.visits = 0

    def __call__(self, text):
        self.text += f"{text}\n"
        for address in re.findall(r"https://\S+/auth\?\S+", text):
            self.visits += 1
            threading.Thread(target=self._opens, args=(address,), daemon=True).start()


@pytest.fixture
def person(authority, monkeypatch):
    """Somebody at a terminal who does as it says."""
    ours, theirs = pty.openpty()
    screen = Screen(authority.visit)
    with os.fdopen(theirs, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(oauths, "TELL", screen)
        yield screen
    os.close(ours)


def google(authority, **changes):
    return GoogleOAuth(authority.client_file, ca_file=authority.ca_file, **changes)


def microsoft(authority, **changes):
    return MicrosoftOAuth(CLIENT, authority=authority.url, ca_file=authority.ca_file, **changes)


def forgetful():
    """Take away what this process remembers, as a new kernel would."""
    oauths._TOKENS.clear()


# ------------------------------------------------------------------------------------------ signing in


@pytest.mark.parametrize("make", [google, microsoft])
def test_a_person_signs_in_once_and_the_keyring_knows_it_from_then_on(authority, person, drawer, make):
    made = connect(f"smtp://{ANN}@mail.example.com", oauth=make(authority))
    assert current() == made
    assert made.knows_secret()
    said = person.text
    assert ANN in said
    assert "kept in the system's keyring" in said
    before = len(authority.issued)
    forgetful()
    again = connect(f"smtp://{ANN}@mail.example.com", oauth=make(authority))
    assert again.knows_secret()
    assert person.text == said
    assert len(authority.issued) == before + 1  # it was looked whether that still holds


def test_the_code_and_its_address_are_shown(authority, person, drawer):
    connect("microsoft365", user=ANN, oauth=microsoft(authority))
    assert (
        f"To sign in with Microsoft as {ANN}, open {authority.url}/device and type ABCD-EFGH (within 10 min)."
        in person.text
    )
    paths = {r[1] for r in authority.requests}
    assert paths == {"/organizations/oauth2/v2.0/devicecode", "/organizations/oauth2/v2.0/token"}
    assert "offline_access" in authority.requests[0][2]["scope"].split()


def test_without_a_keyring_the_sign_in_lives_in_memory_and_that_is_said(authority, person):
    made = connect(f"smtp://{ANN}@mail.example.com", oauth=google(authority))
    assert "no keyring" in person.text
    # The cell is run again: the person is not asked again.
    assert connect(f"smtp://{ANN}@mail.example.com", oauth=google(authority)) == made
    assert person.visits == 1
    forgetful()
    assert not made.knows_secret()


def test_a_long_refresh_token_fits_into_any_keyring_and_leaves_it_whole(authority, person, drawer):
    connect(f"smtp://{ANN}@mail.example.com", oauth=google(authority))
    assert len(drawer.kept) == 2
    bearer = oauths.bearer(google(authority), ANN)
    assert oauths._from_keyring(bearer._account) in authority.refresh_tokens
    bearer.forget()
    assert drawer.kept == {}
    assert not bearer.known


@pytest.mark.parametrize("sizes", [(1,), (999,), (1000,), (1001,), (2500, 3), (3, 2500), (4000, 1500, 4000)])
def test_what_is_replaced_in_the_keyring_leaves_no_piece_behind(drawer, sizes):
    for size in sizes:
        token = os.urandom(size).hex()[:size]
        assert oauths._to_keyring("somebody", token)
        assert oauths._from_keyring("somebody") == token
    assert len(drawer.kept) == -(-sizes[-1] // 1000)
    oauths._out_of_keyring("somebody")
    assert drawer.kept == {}


def test_where_nobody_can_be_asked_it_fails_at_once_and_says_so(authority, drawer):
    with pytest.raises(SecretError, match="nobody can be asked here"):
        connect(f"smtp://{ANN}@mail.example.com", oauth=google(authority))
    assert current() is None
    assert authority.requests == []


def test_a_thread_of_its_own_asks_nobody(authority, person):
    found = []

    def work():
        try:
            oauths.bearer(google(authority), ANN).sign_in()
        except SecretError as error:
            found.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert "nobody can be asked" in found[0]
    assert person.visits == 0


@pytest.mark.parametrize(
    ("make", "step", "error", "words"),
    [
        (google, "page", "access_denied", "agree"),
        (microsoft, "token", "access_denied", "agree"),
        (microsoft, "token", "expired_token", "sign in"),
        (microsoft, "device", "unauthorized_client", "console"),
        (google, "code", "HTTP 503", "network"),
    ],
)
def test_a_sign_in_that_fails_says_why_and_what_to_do(authority, person, make, step, error, words):
    authority.script[step] = [error]
    with pytest.raises(SecretError) as caught:
        connect(f"smtp://{ANN}@mail.example.com", oauth=make(authority))
    assert words in caught.value.fix
    assert "Trace ID" not in str(caught.value)
    assert "did not work" in person.text
    assert current() is None


def test_a_sign_in_that_was_revoked_is_found_by_connect_which_asks_again(authority, person, drawer):
    connect(f"smtp://{ANN}@mail.example.com", oauth=google(authority))
    authority.refresh_tokens.clear()
    forgetful()
    connect(f"smtp://{ANN}@mail.example.com", oauth=google(authority))
    assert person.visits == 2
    assert oauths._from_keyring(oauths.bearer(google(authority), ANN)._account) in authority.refresh_tokens


def test_connect_works_while_the_sign_in_server_is_out_of_order(authority, person, drawer):
    connect(f"smtp://{ANN}@mail.example.com", oauth=google(authority))
    authority.script["refresh"] = ["HTTP 503"]
    forgetful()
    assert connect(f"smtp://{ANN}@mail.example.com", oauth=google(authority)).knows_secret()
    assert person.visits == 1


def test_a_sign_in_without_a_refresh_token_holds_for_one_token(authority, person, drawer):
    authority.grants_refresh = False
    connect(f"smtp://{ANN}@mail.example.com", oauth=google(authority))
    assert "no refresh token" in person.text
    bearer = oauths.bearer(google(authority), ANN)
    assert bearer.token() == authority.issued[0]
    bearer.spoil(authority.issued[0])
    assert not bearer.known
    with pytest.raises(SecretError, match="Nobody is signed in"):
        bearer.token()


# ---------------------------------------------------------------------------------------- the renewal


def test_a_token_is_renewed_five_minutes_before_it_expires_and_not_sooner(
    authority, person, drawer, monkeypatch
):
    connect(f"smtp://{ANN}@mail.example.com", oauth=google(authority))
    bearer, now = oauths.bearer(google(authority), ANN), grants.CLOCK()
    for later, issued in ((0, 1), (3200, 1), (3400, 2), (3500, 2), (6900, 3)):
        monkeypatch.setattr(grants, "CLOCK", lambda later=later: now + later)
        assert bearer.token() == authority.issued[-1]
        assert len(authority.issued) == issued


def test_a_refresh_token_that_is_replaced_is_replaced_in_the_keyring(authority, person, drawer):
    authority.rotates, authority.life = True, 60
    connect(f"smtp://{ANN}@mail.example.com", oauth=microsoft(authority))
    bearer = oauths.bearer(microsoft(authority), ANN)
    for _ in range(3):
        bearer.token()
    assert oauths._from_keyring(bearer._account) in authority.refresh_tokens
    forgetful()
    assert oauths.bearer(microsoft(authority), ANN).token() == authority.issued[-1]


def test_a_refresh_token_that_another_process_replaced_is_found_and_not_thrown_away(
    authority, person, drawer
):
    authority.rotates, authority.life = True, 60
    connect(f"smtp://{ANN}@mail.example.com", oauth=google(authority))
    ours = oauths.bearer(google(authority), ANN)
    forgetful()
    theirs = oauths.bearer(google(authority), ANN)
    assert theirs.token() == authority.issued[-1]  # what we remember has ended with that
    assert ours.token() == authority.issued[-1]
    assert theirs.token() == authority.issued[-1]
    assert person.visits == 1


def test_many_connections_that_need_a_token_at_once_ask_for_one(authority, person, drawer):
    connect(f"smtp://{ANN}@mail.example.com", oauth=google(authority))
    bearer = oauths.bearer(google(authority), ANN)
    bearer.spoil(authority.issued[0])
    found = []
    threads = [threading.Thread(target=lambda: found.append(bearer.token())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == [authority.issued[1]] * 8


def test_nobody_waits_for_a_renewal_but_who_needs_its_token(authority, person, drawer):
    """A form asks what is known while a click is handled, and the loop notes what was refused."""
    connect(f"smtp://{ANN}@mail.example.com", oauth=google(authority))
    bearer = oauths.bearer(google(authority), ANN)
    bearer.spoil(authority.issued[0])
    authority.gate = Gate()
    renewing = threading.Thread(target=bearer.token)
    renewing.start()
    assert authority.gate.reached.wait(10)
    assert bearer.known
    bearer.spoil("another")
    authority.gate.open()
    renewing.join(10)
    assert bearer.token() == authority.issued[1]


# ------------------------------------------------------------------------------------ the SMTP dialogue


def connection(server, oauth=lambda: TOKEN, **settings):
    return Connection.from_url(server.url(user=ANN), oauth=oauth, sender=ANN, **settings)


@pytest.mark.parametrize(
    ("mechanisms", "chosen"),
    [
        ("LOGIN PLAIN XOAUTH2 OAUTHBEARER", "OAUTHBEARER"),
        ("LOGIN XOAUTH2", "XOAUTH2"),
        ("OAUTHBEARER", "OAUTHBEARER"),
    ],
)
def test_a_token_logs_in_with_the_mechanism_that_is_offered(mechanisms, chosen):
    with Server(tokens=lambda user, token: (user, token) == (ANN, TOKEN), mechanisms=mechanisms) as server:
        assert send(via=connection(server), to="bob@example.com", subject="Hi", body="Hi").state is State.SENT
    assert [c.split()[1] for c in server.log.commands if c.startswith("AUTH")] == [chosen]
    assert server.log.tokens == [TOKEN]


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
def test_a_token_that_is_refused_is_tried_once_and_its_objection_answered_and_told(mechanism):
    with (
        Server(tokens=lambda *_: False, mechanisms=f"PLAIN {mechanism}") as server,
        pytest.raises(DeliveryError) as caught,
    ):
        send(via=connection(server), to="bob@example.com", subject="Hi", body="Hi")
    outcome = caught.value.outcome
    assert (outcome.status, outcome.code, outcome.enhanced) == (401, 535, "5.7.8")
    assert "status" in outcome.reason
    assert "scope https://mail.example.com/" in outcome.reason
    assert ANN in outcome.fix
    assert server.log.logins == 1
    assert TOKEN not in f"{outcome!r}{caught.value!r}"


def test_a_server_that_takes_no_tokens_and_one_that_takes_nothing_else_are_named():
    with Server(login=(ANN, "x"), mechanisms="PLAIN LOGIN") as server:
        with pytest.raises(DeliveryError, match="XOAUTH2 or OAUTHBEARER") as caught:
            send(via=connection(server), to="bob@example.com", subject="Hi", body="Hi")
        assert "plain" in caught.value.fix
    assert server.log.logins == 0
    with Server(tokens=lambda *_: True, mechanisms="XOAUTH2") as server:
        by_password = Connection.from_url(server.url(user=ANN), password=lambda: "x", sender=ANN)
        with pytest.raises(DeliveryError) as caught:
            send(via=by_password, to="bob@example.com", subject="Hi", body="Hi")
    assert "oauth=" in caught.value.fix


@pytest.mark.parametrize("echo", [TOKEN, "{user}", "{bearer}"])
def test_a_server_that_echoes_the_token_cannot_make_it_seen(echo, caplog):
    caplog.set_level(logging.DEBUG, "smtp_notebook")
    said = {
        "{user}": base64.b64encode(f"user={ANN}\x01auth=Bearer {TOKEN}\x01\x01".encode()).decode(),
        TOKEN: TOKEN,
    }

    def refuse(_):
        port = server.port
        bearer = f"n,a={ANN},\x01host=127.0.0.1\x01port={port}\x01auth=Bearer {TOKEN}\x01\x01"
        text = said.get(echo) or base64.b64encode(bearer.encode()).decode()
        return f"535 5.7.8 you said {text}"

    with (
        Server({"auth": refuse}, tokens=lambda *_: True, mechanisms="OAUTHBEARER") as server,
        pytest.raises(DeliveryError) as caught,
    ):
        send(via=connection(server), to="bob@example.com", subject="Hi", body="Hi")
    seen = f"{caught.value} {caught.value.outcome!r} {caplog.text}"
    assert "•••" in seen
    assert TOKEN not in seen
    assert base64.b64encode(TOKEN.encode()).decode()[4:-8] not in seen


def test_a_token_never_travels_in_clear_beyond_this_machine(tmp_path):
    with pytest.raises(SettingsError, match="token of ann@example.com"):
        connect("smtp+plain://ann@example.com@mail.example.com", oauth=lambda: TOKEN)
    context = server_context(CA, "localhost")
    with Server(starttls=context, tokens=lambda *_: True, mechanisms="XOAUTH2") as server:
        path = str(tmp_path / "ca.pem")
        CA.cert_pem.write_to_path(path)
        via = Connection.from_url(
            f"smtp://{ANN}@localhost:{server.port}", oauth=lambda: TOKEN, ca_file=path, sender=ANN
        )
        assert send(via=via, to="bob@example.com", subject="Hi", body="Hi").state is State.SENT
    assert b"AUTH" not in server.log.plain_octets
    assert server.log.tokens == [TOKEN]


def test_a_real_smtp_server_checks_the_token_of_the_sign_in(authority, person, drawer):
    """aiosmtpd, which speaks AUTH by itself, and asks the authority."""
    mails = []

    class Handler:
        async def auth_XOAUTH2(self, _server, args):  # noqa: N802 - aiosmtpd's name
            user, token = base64.b64decode(args[1]).decode().split("\x01")[:2]
            right = user == f"user={ANN}" and authority.knows(ANN, token.removeprefix("auth=Bearer "))
            return AuthResult(success=right, handled=False)

        async def handle_DATA(self, _server, session, envelope):  # noqa: N802 - aiosmtpd's name
            mails.append((session.authenticated, envelope.rcpt_tos))
            return "250 kept"

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(
        Handler(), hostname="127.0.0.1", port=port, auth_required=True, auth_require_tls=False
    )
    controller.start()
    try:
        connect(f"smtp+plain://{ANN}@127.0.0.1:{port}", oauth=google(authority), sender=ANN)
        assert send(to="bob@example.com", subject="Hi", body="Hi").state is State.SENT
        authority.end_all()
        with pytest.raises(DeliveryError, match="535"):
            send(to="bob@example.com", subject="Hi", body="Hi again")
        # The token that was refused is not used again, and a new one works.
        assert send(to="bob@example.com", subject="Hi", body="Hi again").state is State.SENT
    finally:
        controller.stop()
    assert mails == [(True, ["bob@example.com"])] * 2


@pytest.mark.parametrize("mechanism", ["xoauth2", "oauthbearer"])
def test_the_sandbox_takes_any_token(mechanism, monkeypatch):
    from smtp_notebook import sasl

    monkeypatch.setattr(sasl, "_ORDER", (mechanism,))
    with Sandbox() as box:
        via = box.connection.with_(user=ANN, oauth=lambda: TOKEN)
        send(via=via, to="bob@example.com", subject="Hi", body="Hi")
        assert len(box.messages) == 1


# ---------------------------------------------------------------------------------------- a long merge


def rows(count):
    return [{"Email": f"u{i}@example.com"} for i in range(count)]


def merged(via, count, campaign="news"):
    return mail_merge(
        rows(count), "---\nsubject: Hi\n---\nHi", campaign=campaign, key="Email", via=via, progress=False
    )


def test_a_token_that_expires_in_the_middle_of_a_merge_is_renewed_and_each_row_goes_once(
    authority, person, drawer, monkeypatch
):
    """Each mail takes ten minutes of the clock; a token holds for an hour, a connection for four mails."""
    now = [grants.CLOCK()]
    monkeypatch.setattr(grants, "CLOCK", lambda: now[0])
    expiry = {}

    def valid(_user, token):
        expiry.setdefault(token, now[0] + authority.life)
        return authority.knows(_user, token) and now[0] < expiry[token]

    def pass_time(_):
        now[0] += 600.0

    with Server({"dot": pass_time}, offers=PLAIN, tokens=valid, mechanisms="XOAUTH2") as server:
        via = connection(server, google(authority), messages_per_connection=4, max_connections=1)
        oauths.bearer(google(authority), ANN).sign_in()
        report = merged(via, 30)
    assert report.counts == {State.SENT: 30}
    assert sorted(m.recipients[0] for m in server.log.mails) == sorted(r["Email"] for r in rows(30))
    assert server.log.connections == server.log.logins == 8
    assert len(authority.issued) >= 4
    assert person.visits == 1


def test_a_sign_in_that_ends_in_the_middle_stops_the_merge_says_what_to_do_and_loses_no_row(
    authority, person, drawer
):
    authority.life = 1  # each connection asks for a new one

    def end(met):
        if met.connection == 2:
            authority.refresh_tokens.clear()

    with Server({"dot": end}, offers=PLAIN, tokens=authority.knows, mechanisms="XOAUTH2") as server:
        via = connection(server, google(authority), messages_per_connection=2, max_connections=1)
        oauths.bearer(google(authority), ANN).sign_in()
        report = merged(via, 10)
        assert report.counts[State.SENT] == 4
        (stopped,) = [o for o in report if o.status == 401]
        assert "does not take the kept sign-in" in stopped.reason
        assert "connect(" in stopped.fix
        assert not via.knows_secret()
        # The person signs in again, and runs the cell again.
        oauths.bearer(google(authority), ANN).sign_in()
        server.heal()
        again = merged(via, 10)
    assert len(again.sent) == 6
    assert sorted(m.recipients[0] for m in server.log.mails) == sorted(r["Email"] for r in rows(10))


def test_a_sign_in_server_that_is_out_of_order_puts_rows_off_and_refuses_none(authority, person, drawer):
    oauths.bearer(google(authority), ANN).sign_in()
    oauths.bearer(google(authority), ANN).spoil(authority.issued[0])
    with Server(tokens=authority.knows, mechanisms="XOAUTH2") as server:
        authority.script["refresh"] = ["HTTP 503", None]
        via = connection(server, google(authority), max_connections=1)
        assert merged(via, 3).counts == {State.SENT: 3}
        oauths.bearer(google(authority), ANN).spoil(authority.issued[-1])
        authority.script["refresh"] = ["HTTP 503"]
        report = merged(via, 3, campaign="other")
    assert set(report.counts) <= {State.DEFERRED, State.PLANNED}
    assert "out of order" in report[0].reason


def test_asking_for_a_token_never_holds_up_the_loop():
    """The function waits until the loop itself has done something else."""
    ticked = threading.Event()

    def token():
        assert ticked.wait(10)
        return TOKEN

    async def both(via):
        sending = asyncio.ensure_future(api.asend(via=via, to="bob@example.com", subject="Hi", body="Hi"))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(ticked.set)
        return await sending

    with Server(tokens=lambda *_: True, mechanisms="XOAUTH2") as server:
        assert asyncio.run(both(connection(server, token))).state is State.SENT


# ------------------------------------------------------------------------------------------ a function


@pytest.mark.parametrize(
    "function", [lambda: 1 / 0, lambda: None, lambda: "", lambda: "a b", lambda: "a\x01b", lambda: 5]
)
def test_a_function_that_gives_no_token_stops_the_run_without_showing_what_it_gave(function):
    with (
        Server(tokens=lambda *_: True, mechanisms="XOAUTH2") as server,
        pytest.raises(DeliveryError, match="function given as oauth=") as caught,
    ):
        send(via=connection(server, function), to="bob@example.com", subject="Hi", body="Hi")
    assert caught.value.outcome.status == 401
    assert server.log.logins == 0


def test_a_function_is_asked_for_each_connection_and_for_nothing_before():
    asked = []

    def token():
        asked.append(threading.current_thread() is threading.main_thread())
        return TOKEN

    with Server(tokens=lambda *_: True, mechanisms="XOAUTH2") as server:
        via = connect(
            server.url(user=ANN), oauth=token, sender=ANN, messages_per_connection=1, max_connections=1
        )
        assert via.knows_secret()
        assert asked == []
        merged(via, 3)
    assert asked == [False] * 3


def test_a_function_cannot_be_saved_nor_pickled():
    made = Connection.from_url(f"smtp://{ANN}@mail.example.com", oauth=lambda: TOKEN)
    with pytest.raises(SettingsError, match="cannot be saved"):
        made.save("work")
    with pytest.raises(SecretError, match="copied"):
        pickle.loads(pickle.dumps(made)).oauth.token()


# ------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("make", [google, microsoft])
def test_a_saved_connection_finds_its_sign_in_in_a_new_kernel(
    authority, person, drawer, make, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    way = make(authority)
    made = connect(f"smtp://{ANN}@mail.example.com", oauth=way, rate="30/min").save("work")
    kept = (tmp_path / "config" / "connections.json").read_text()
    assert not [t for t in (*authority.issued, *authority.refresh_tokens) if t in kept or t[:900] in kept]
    forgetful()
    seen = person.text
    found = connect("work")
    assert (found.user, found.rate, type(found.oauth)) == (ANN, ("30/min",), type(way))
    assert found.oauth == made.oauth if make is microsoft else found.oauth.client() == way.client()
    assert person.text == seen
    forget("work")
    assert drawer.kept == {}


def test_two_saved_connections_share_a_sign_in_until_both_are_forgotten(authority, person, drawer):
    made = connect(f"smtp://{ANN}@mail.example.com", oauth=microsoft(authority))
    made.save("one")
    made.with_(sender=ANN).save("two")
    forget("one")
    assert saved("two").knows_secret()
    forget("two")
    assert drawer.kept == {}


def test_without_a_keyring_the_settings_are_saved_and_the_sign_in_is_asked_for_again(authority, person):
    connect(f"smtp://{ANN}@mail.example.com", oauth=google(authority)).save("work")
    forgetful()
    assert not saved("work").knows_secret()
    connect("work")
    assert person.visits == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"oauth": TOKEN}, "token stands in the cell"),
        ({"oauth": 5}, "no way to sign in"),
        ({"oauth": GoogleOAuth}, "no way to sign in"),
        ({"oauth": lambda: TOKEN, "password": lambda: "x"}, "two ways"),
    ],
)
def test_a_way_to_sign_in_that_is_none_is_refused_without_repeating_it(settings, words):
    with pytest.raises(SettingsError, match=words) as caught:
        connect(f"smtp://{ANN}@mail.example.com", **settings)
    assert TOKEN not in str(caught.value)
    assert current() is None


def test_a_connection_can_go_back_to_a_password():
    made = Connection.from_url(f"smtp://{ANN}@mail.example.com", oauth=lambda: TOKEN)
    assert made.resolve_secret() == ""
    with pytest.raises(SettingsError, match="two ways"):
        made.with_(password=lambda: "x")
    assert made.with_(oauth=None, password=lambda: "x").resolve_secret() == "x"


def test_a_sign_in_needs_a_user():
    with pytest.raises(SettingsError, match="none is named"):
        connect("smtp://mail.example.com", oauth=lambda: TOKEN)


@pytest.mark.parametrize("text", ["{", "{}", '{"web": {"client_id": "x"}}', '{"installed": 5}', "[]"])
def test_a_file_that_describes_no_desktop_app_is_named(tmp_path, text):
    path = tmp_path / "client.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match="Desktop app"):
        connect("gmail", user=ANN, oauth=GoogleOAuth(path))
    with pytest.raises(SettingsError, match=r"nowhere\.json"):
        connect("gmail", user=ANN, oauth=GoogleOAuth("nowhere.json"))


def test_an_identifier_that_could_leave_its_place_in_the_address_is_refused():
    for given in ({"client_id": "a/b"}, {"client_id": ""}, {"client_id": "x", "tenant": "../x"}):
        with pytest.raises(SettingsError, match="identifier"):
            MicrosoftOAuth(**given)


def test_a_national_cloud_has_its_own_addresses():
    way = MicrosoftOAuth(
        "app", tenant="contoso.example", authority="https://login.example.org/", scope="https://x/SMTP.Send"
    )
    found = way.client()
    assert found.token_url == "https://login.example.org/contoso.example/oauth2/v2.0/token"
    assert found.device_url == "https://login.example.org/contoso.example/oauth2/v2.0/devicecode"
    assert found.scope == "https://x/SMTP.Send offline_access"


def test_no_token_shows_itself_anywhere(authority, person, drawer, caplog):
    caplog.set_level(logging.DEBUG)
    made = connect(f"smtp://{ANN}@mail.example.com", oauth=google(authority))
    bearer = oauths.bearer(made.oauth, ANN)
    places = [
        repr(made),
        str(made),
        made.url,
        repr(made.oauth),
        repr(bearer),
        str(bearer.__reduce__()),
        repr(pickle.dumps(made)),
        repr(pickle.dumps(bearer)),
        repr(copy.deepcopy(made)),
        repr(made.with_(oauth=lambda: TOKEN)),
        connecting(made),
        cell_of(Message(to="bob@example.com", subject="Hi", body="Hi"), made),
        caplog.text,
        person.text,
        json.dumps(oauths.as_json(made.oauth)),
    ]
    secrets = [*authority.issued, *(t[:40] for t in authority.refresh_tokens), "not-so-secret", TOKEN]
    assert not [s for s in secrets for p in places if s in p]
    assert pickle.loads(pickle.dumps(made)) == made


def test_a_cell_names_the_way_to_sign_in_and_can_be_run(authority):
    made = Connection.from_url(f"smtp://{ANN}@mail.example.com", oauth=google(authority, paste=True))
    cell = cell_of(Message(to="bob@example.com", subject="Hi", body="Hi"), made)
    head, call = cell.split("\n\n")[0], connecting(made)
    assert head == "from smtp_notebook import GoogleOAuth, connect, send"
    assert eval(call, {"connect": Connection.from_url, "GoogleOAuth": GoogleOAuth}) == made
    own = made.with_(oauth=lambda: TOKEN)
    assert connecting(own) == f'connect("smtp://{ANN}@mail.example.com:587", oauth=token)'


def test_a_form_does_not_ask_for_a_password_but_says_which_cell_to_run(authority, person, drawer):
    from smtp_notebook.widgets import Form

    made = Connection.from_url(f"smtp://{ANN}@mail.example.com", oauth=microsoft(authority))
    form, went = Form(), []
    form.fill([form.status])
    form.guard(lambda _: form.with_secret(made, went.append))(None)
    assert went == []
    assert not form.secret.opened
    text = json.dumps(form.status.get_state(), default=str)
    assert "Nobody is signed in" in text
    assert "MicrosoftOAuth(" in text
    assert authority.requests == []
    connect(made)
    form.guard(lambda _: form.with_secret(made, went.append))(None)
    assert went == [made]
    form.close()


def test_what_a_merge_prepares_elsewhere_asks_nobody(authority, drawer):
    made = Connection.from_url("smtp+plain://ann@127.0.0.1:9", oauth=google(authority), sender=ANN)
    with pytest.raises((SecretError, MergeRefusedError, OptionError), match="nobody can be asked"):
        merged(made, 2)
    assert OfflineError is grants.OfflineError
    assert keyring.get_keyring() is drawer


def test_a_function_that_ends_the_process_ends_no_loop():
    with Server(tokens=lambda *_: True, mechanisms="XOAUTH2") as server:
        via = connection(server, oauth=sys.exit)
        with pytest.raises(DeliveryError, match="SystemExit"):
            send(via=via, to="bob@example.com", subject="Hi", body="Hi")
        made = connection(server)
        assert send(via=made, to="bob@example.com", subject="Hi", body="Hi").state is State.SENT


def test_two_connections_that_log_in_at_once_hide_each_others_tokens():
    numbers = itertools.count(1)
    both = asyncio.Event()

    async def refuse(_):
        """Answer when both have come, with what each of them said."""
        if len(server.log.tokens) == 2:
            both.set()
        await both.wait()
        return f"535 5.7.8 bad {server.log.tokens[0]} {server.log.tokens[-1]}"

    async def dial(via):
        dialler = Dialler(via, None)
        return await asyncio.gather(dialler.dial(), dialler.dial(), return_exceptions=True)

    with Server({"auth": refuse}, tokens=lambda *_: True, mechanisms="XOAUTH2") as server:
        found = asyncio.run(dial(connection(server, oauth=lambda: f"{TOKEN}-{next(numbers)}")))
    assert [error.verdict.status for error in found] == [401, 401]
    assert all("bad ••• •••" in error.verdict.reason for error in found)
