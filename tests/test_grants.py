"""OAuth 2.0 against a server on loopback, over https: both ways to a first token, and the refresh."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import trustme
from authority import CLIENT, SECRET, Authority
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp_notebook import SettingsError, grants
from smtp_notebook.grants import Client, GrantError, OfflineError

CA = trustme.CA()


@pytest.fixture
def authority(tmp_path):
    with Authority(CA, tmp_path) as found:
        yield found


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """What was waited for, in seconds; nobody waits."""
    found = []
    monkeypatch.setattr(grants, "WAIT", found.append)
    return found


def client(authority, **changes):
    given = {
        "ident": CLIENT,
        "secret": SECRET,
        "token_url": f"{authority.url}/token",
        "scope": "https://mail.example.com/",
        "auth_url": f"{authority.url}/auth",
        "device_url": f"{authority.url}/devicecode",
        "ca_file": authority.ca_file,
    }
    return Client(**(given | changes))


def signed_in(authority, **changes):
    """Sign in with a browser that does as it is told."""
    pages = []

    def show(address):
        def visit():
            pages.append(authority.visit(address, **changes))

        threading.Thread(target=visit, daemon=True).start()

    return grants.by_browser(client(authority), "ann@example.com", show, seconds=10), pages


# ----------------------------------------------------------------------------------------- the browser


def test_the_browser_leads_back_to_loopback_with_a_token(authority):
    granted, _ = signed_in(authority)
    assert authority.knows("", granted.access)
    assert granted.refresh in authority.refresh_tokens
    asked = authority.requests[0][2]
    assert asked["redirect_uri"].startswith("http://127.0.0.1:")
    assert (asked["code_challenge_method"], asked["access_type"]) == ("S256", "offline")
    assert (asked["login_hint"], asked["scope"]) == ("ann@example.com", "https://mail.example.com/")


def test_a_person_who_says_no_is_heard(authority):
    authority.script["page"] = ["access_denied"]
    with pytest.raises(GrantError, match="the person said no") as caught:
        signed_in(authority)
    assert caught.value.error == "access_denied"
    assert [r for r in authority.requests if r[0] == "POST"] == []


def knocked(port, path):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as caller:
        caller.request("GET", path)
        return caller.getresponse().status


def test_what_comes_with_another_state_is_turned_away_and_changes_nothing(authority):
    """Another page could send its own code here: the person would mail as somebody else (RFC 6749, 10.12)."""
    refused = []

    def show(address):
        asked = {k: v[0] for k, v in parse_qs(urlsplit(address).query).items()}
        back = asked["redirect_uri"]

        def visit():
            stranger = urlencode({"state": "other", "code": "theirs"})
            paths = ("/favicon.ico", f"/?{stranger}", "/?code=theirs")
            refused.extend(knocked(urlsplit(back).port, path) for path in paths)
            # This one says nothing, as browsers do in advance.
            with socket.create_connection(("127.0.0.1", urlsplit(back).port)):
                authority.visit(address)

        threading.Thread(target=visit, daemon=True).start()

    granted = grants.by_browser(client(authority), "ann@example.com", show, seconds=10)
    assert authority.knows("", granted.access)
    assert refused == [404, 404, 404]


def test_nobody_who_comes_ends_the_waiting(authority):
    with pytest.raises(GrantError, match="in time"):
        grants.by_browser(client(authority), "ann@example.com", lambda _: None, seconds=0.0)


def test_a_browser_elsewhere_gives_the_address_by_pasting(authority):
    granted = grants.by_pasting(client(authority), "ann@example.com", lambda a: f" {authority.led_to(a)}\n")
    assert authority.knows("", granted.access)
    with pytest.raises(GrantError, match="not the address"):
        grants.by_pasting(
            client(authority), "ann@example.com", lambda _: "https://example.com/?code=x&state=y"
        )


def test_a_code_is_worth_nothing_without_the_proof(authority):
    """RFC 7636: who reads the address over somebody's shoulder cannot redeem it."""
    address = []

    def paste(shown):
        address.append(authority.led_to(shown))
        return address[0]

    grants.by_pasting(client(authority), "ann@example.com", paste)
    theirs = grants._Page(client(authority), "ann@example.com")
    with pytest.raises(GrantError, match="invalid_grant"):
        theirs.redeemed({"code": parse_qs(urlsplit(address[0]).query)["code"][0]}, grants._NOWHERE)


# ------------------------------------------------------------------------------------------ the device


def test_a_code_is_typed_elsewhere_and_waited_for(authority, waits):
    authority.script["token"] = ["authorization_pending", "slow_down", "authorization_pending", None]
    shown = []
    granted = grants.by_device(client(authority, secret=""), lambda *what: shown.append(what))
    assert shown == [("ABCD-EFGH", f"{authority.url}/device", 600.0)]
    assert authority.knows("", granted.access)
    # RFC 8628, 3.5: five seconds more after each slow_down.
    assert waits == [5.0, 5.0, 10.0, 10.0]
    assert "client_secret" not in authority.requests[-1][2]


@pytest.mark.parametrize("error", ["access_denied", "expired_token", "invalid_client"])
def test_the_servers_no_ends_the_waiting(authority, error, waits):
    authority.script["token"] = ["authorization_pending", error]
    with pytest.raises(GrantError) as caught:
        grants.by_device(client(authority), lambda *_: None)
    assert caught.value.error == error
    assert caught.value.description == "words of the server"
    assert len(waits) == 2


def test_a_code_that_nobody_types_expires_here_too(authority, monkeypatch):
    authority.approved.clear()
    now = [0.0]
    monkeypatch.setattr(grants, "CLOCK", lambda: now[0])
    monkeypatch.setattr(grants, "WAIT", lambda seconds: now.__setitem__(0, now[0] + seconds * 60))
    with pytest.raises(GrantError, match="in time"):
        grants.by_device(client(authority), lambda *_: None)


def test_a_server_that_is_out_of_order_for_a_while_is_asked_less_often(authority, waits):
    authority.script["token"] = ["HTTP 503", "HTTP 429", None]
    assert authority.knows("", grants.by_device(client(authority), lambda *_: None).access)
    assert waits == [5.0, 10.0, 20.0]


# ----------------------------------------------------------------------------------------- the refresh


def test_a_refresh_gives_a_new_token(authority):
    granted, _ = signed_in(authority)
    again = grants.refreshed(client(authority), granted.refresh)
    assert authority.knows("", again.access)
    assert again.access != granted.access
    assert again.refresh == ""


def test_a_refresh_that_is_refused_says_so_and_one_that_cannot_be_asked_says_that(authority):
    with pytest.raises(GrantError) as caught:
        grants.refreshed(client(authority), "never given")
    assert caught.value.error == "invalid_grant"
    authority.script["refresh"] = ["HTTP 500", "temporarily_unavailable"]
    for _ in range(2):
        with pytest.raises(OfflineError):
            grants.refreshed(client(authority), "never given")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(OfflineError, match="cannot be reached"):
        grants.refreshed(client(authority, token_url=f"https://localhost:{port}/token"), "x")


def test_nothing_secret_goes_to_a_server_that_cannot_show_who_it_is(authority):
    stranger = Client(CLIENT, SECRET, f"{authority.url}/token", "s")  # its authority is not the system's
    with pytest.raises(OfflineError, match="certificate"):
        grants.refreshed(stranger, "the-refresh-token")
    with pytest.raises(SettingsError, match="https"):
        grants.refreshed(
            client(authority, token_url=f"http://localhost:{urlsplit(authority.url).port}/token"), "x"
        )
    with pytest.raises(SettingsError, match=r"nowhere\.pem"):
        grants.refreshed(client(authority, ca_file="nowhere.pem"), "x")
    assert authority.requests == []


def test_a_redirect_of_the_endpoint_is_not_followed(authority):
    authority.script["refresh"] = ["HTTP 302"]
    with pytest.raises(GrantError, match="HTTP 302"):
        grants.refreshed(client(authority), "x")


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"access_token": 5},
        {"access_token": ""},
        {"access_token": "a\x01auth=Bearer b"},
        {"access_token": "a b"},
        {"access_token": "ä"},
    ],
)
def test_what_is_no_token_never_becomes_one(answer):
    with pytest.raises(GrantError, match="no access token"):
        grants._granted(answer)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(
    ["access_token", "refresh_token", "expires_in", "error", "error_description", "token_type"]
)


@settings(max_examples=50)
@given(st.dictionaries(NAMES, JSON))
def test_any_answer_is_a_token_that_can_be_said_or_an_error(answer):
    try:
        found = grants._granted(answer)
    except GrantError:
        return
    assert found.access.isascii()
    assert found.access.isprintable()
    assert " " not in found.access
    assert isinstance(found.refresh, str)
    assert 0 < found.until < 10**11


@settings(max_examples=50)
@given(
    st.integers(200, 599), st.binary() | st.dictionaries(NAMES, JSON).map(lambda v: json.dumps(v).encode())
)
def test_any_refusal_is_an_error_in_one_line(status, body):
    with pytest.raises((GrantError, OfflineError)) as caught:
        grants._refused(status, body)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("3599", 3599.0), (60, 60.0), (None, 5.0), ("nan", 5.0), ("inf", 5.0), (-1, 5.0), ([], 5.0)],
)
def test_a_life_that_makes_no_sense_is_the_usual_one(said, seconds):
    assert grants._number(said, 5.0) == seconds


def test_nothing_that_was_granted_shows_itself(authority):
    granted, _ = signed_in(authority)
    text = f"{granted!r} {granted} {client(authority)!r}"
    assert not [s for s in (granted.access, granted.refresh, SECRET) if s in text]


def test_a_server_that_repeats_what_it_was_given_does_not_show_it():
    hidden = ["REFRESH-secret/1", ""]
    body = json.dumps(
        {"error": "invalid_request", "error_description": "bad REFRESH-secret/1 and REFRESH-secret%2F1"}
    )
    with pytest.raises(GrantError) as caught:
        grants._refused(400, body.encode(), hidden)
    assert str(caught.value) == "invalid_request: bad ••• and •••"


def test_a_code_holds_no_longer_than_is_promised_whatever_the_server_says(authority, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(grants, "CLOCK", lambda: now[0])
    monkeypatch.setattr(grants, "WAIT", lambda seconds: now.__setitem__(0, now[0] + seconds))
    authority.script = {"token": ["authorization_pending"]}
    authority.interval = 7
    shown = []
    with pytest.raises(GrantError, match="in time"):
        grants.by_device(client(authority), lambda *said: shown.append(said))
    assert now[0] <= grants._SIGN_IN_SECONDS + 1


@pytest.mark.parametrize("pasted", ["http://[oops", "", "nothing"])
def test_what_is_no_address_is_not_taken_for_one(authority, pasted):
    with pytest.raises(GrantError, match="not the address"):
        grants.by_pasting(client(authority), "ann@example.com", lambda _: pasted)


@pytest.mark.parametrize("url", ["https://[x", "https://löcalhost..x/token", "http://localhost"])
def test_an_endpoint_that_is_none_is_a_mistake_of_the_settings(authority, url):
    with pytest.raises(SettingsError):
        grants.refreshed(client(authority, token_url=url), "token")
