"""OAuth 2.0 for a program on somebody's own machine: how a token is asked for, and nothing of where it is kept.

Two ways to a first token: a page that the person opens and that leads back to loopback (RFC 8252 with PKCE,
RFC 7636), and a code that is typed at an address (RFC 8628). Then the refresh (RFC 6749, 6).

The endpoints are spoken to over https with a verified certificate alone, and a redirect of theirs is not followed:
what is sent there is worth a password. Everything here blocks; nothing here is for an event loop.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import http.client
import http.server
import json
import queue
import re
import secrets
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Never
from urllib.parse import parse_qs, quote_plus, urlencode, urlsplit

from smtp_notebook.outcome import SettingsError

__all__ = [
    "Client",
    "GrantError",
    "Granted",
    "OfflineError",
    "by_browser",
    "by_device",
    "by_pasting",
    "refreshed",
]

#: What waits between two questions; exchanged where a test must not wait.
WAIT: Callable[[float], None] = time.sleep
#: Seconds since the epoch: a machine that slept has to know that a token is too old.
CLOCK: Callable[[], float] = time.time

_SECONDS = 20.0
_SIGN_IN_SECONDS = 600.0
_USUAL_LIFE = 3600.0
_INTERVAL = 5.0
_SLOWER = 5.0
_LONGEST_ANSWER = 2**20
#: Fields of a form that are worth a password; a server that repeats one is not quoted.
_SECRET_FIELDS = ("refresh_token", "code", "code_verifier", "device_code", "client_secret")
_SHORTEST = 4
_DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
#: Where a pasted address seems to lead; nothing listens there, so that the browser keeps showing the address.
_NOWHERE = "http://127.0.0.1:48217/"
#: RFC 6750, 2.1, and a little more: what may stand in a login without ending a part of it.
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")


class GrantError(Exception):
    """The authorisation server said no.

    Attributes:
        error: Its code, such as ``invalid_grant`` (RFC 6749, 5.2).
        description: Its sentence, or "".
    """

    def __init__(self, error: str, description: str = "") -> None:
        self.error, self.description = _one_line(error), _one_line(description)
        super().__init__(f"{self.error}: {self.description}" if self.description else self.error)


class OfflineError(OSError):
    """The authorisation server cannot be reached, or is out of order at present."""


@dataclass(frozen=True, slots=True, repr=False)
class Client:
    """A program as the authorisation server knows it, and where that server is.

    Attributes:
        ident: The client's identifier.
        secret: What an installed program is given and cannot keep secret (RFC 8252, 8.5), or "".
        token_url: The token endpoint.
        scope: What is asked for.
        auth_url: The page on which the person agrees, or "".
        device_url: The endpoint of the device flow, or "".
        ca_file: A PEM file with the authorities to trust instead of the system's, or "".
    """

    ident: str
    secret: str
    token_url: str
    scope: str
    auth_url: str = ""
    device_url: str = ""
    ca_file: str = ""

    def __repr__(self) -> str:
        return f"<Client {self.ident}>"


@dataclass(frozen=True, slots=True, repr=False)
class Granted:
    """What was granted.

    Attributes:
        access: The access token.
        until: When it expires, in seconds since the epoch.
        refresh: The refresh token, or "" when none was given.
    """

    access: str
    until: float
    refresh: str = ""

    def __repr__(self) -> str:
        return "<Granted>"


# ------------------------------------------------------------------------------------------- the flows


def refreshed(client: Client, refresh: str) -> Granted:
    """Return a new access token for a refresh token, which may be replaced too (RFC 6749, 6).

    Raises:
        GrantError: It is refused; ``invalid_grant`` means that the person has to sign in again.
        OfflineError: The server cannot be reached.
    """
    return _granted(
        _asked(client, client.token_url, {"grant_type": "refresh_token", "refresh_token": refresh})
    )


def by_device(client: Client, show: Callable[[str, str, float], None]) -> Granted:
    """Have the person type a code at an address, on any device, and wait for it (RFC 8628).

    Args:
        client: With ``device_url``.
        show: Shows the code, the address, and for how many seconds they hold.

    Raises:
        GrantError: ``access_denied``, ``expired_token``, or whatever else the server said.
        OfflineError: The server cannot be reached to begin with.
    """
    answer = _answer(client, client.device_url, {"client_id": client.ident, "scope": client.scope})
    code = answer.get("device_code")
    address = answer.get("verification_uri", answer.get("verification_url"))
    if not isinstance(code, str) or not isinstance(address, str):
        raise GrantError("invalid_response", "the server gave no code and no address")
    interval = _number(answer.get("interval"), _INTERVAL)
    life = min(_number(answer.get("expires_in"), 900.0), _SIGN_IN_SECONDS)
    ends = CLOCK() + life
    show(str(answer.get("user_code", "")), address, life)
    while CLOCK() < ends:
        WAIT(max(1.0, min(interval, ends - CLOCK())))
        try:
            return _granted(_asked(client, client.token_url, {"grant_type": _DEVICE, "device_code": code}))
        except GrantError as error:
            if error.error == "slow_down":
                interval += _SLOWER
            elif error.error != "authorization_pending":
                raise
        except OfflineError:
            # RFC 8628, 3.5: after a timeout, ask less often.
            interval *= 2
    raise GrantError("expired_token", "nobody signed in in time")


def by_browser(
    client: Client, user: str, show: Callable[[str], None], seconds: float = _SIGN_IN_SECONDS
) -> Granted:
    """Have the person open a page that leads back to this machine's loopback (RFC 8252, 7.3), and wait for that.

    Args:
        client: With ``auth_url``.
        user: Who is to sign in.
        show: Shows the page's address.
        seconds: How long to wait.

    Raises:
        GrantError: Refused, or nobody came in time.
        OfflineError: The token endpoint cannot be reached.
    """
    came: queue.Queue[Mapping[str, str]] = queue.Queue()
    page = _Page(client, user)
    with _Door(page.state, came) as door:
        redirect = f"http://127.0.0.1:{door.server_port}/"
        show(page.address(redirect))
        ends = time.monotonic() + seconds
        while came.empty() and time.monotonic() < ends:
            door.handle_request()
        if came.empty():
            raise GrantError("expired_token", "nobody signed in in time")
    return page.redeemed(came.get(), redirect)


def by_pasting(client: Client, user: str, ask: Callable[[str], str]) -> Granted:
    """Have the person open a page, and paste the address to which it led: where this machine is not the browser's.

    Args:
        client: With ``auth_url``.
        user: Who is to sign in.
        ask: Shows the page's address and returns what was pasted.

    Raises:
        GrantError: Refused, or something else was pasted.
        OfflineError: The token endpoint cannot be reached.
    """
    page = _Page(client, user)
    try:
        pasted = _query(urlsplit(ask(page.address(_NOWHERE)).strip()).query)
    except ValueError:
        pasted = {}
    if not _same(pasted.get("state", ""), page.state):
        raise GrantError("invalid_response", "that is not the address to which this sign-in led")
    return page.redeemed(pasted, _NOWHERE)


class _Page:
    """One request for authorisation: its state, and the proof that the code came to who asked for it."""

    def __init__(self, client: Client, user: str) -> None:
        self._client, self._user = client, user
        self.state = secrets.token_urlsafe(24)
        self._verifier = secrets.token_urlsafe(48)

    def address(self, redirect: str) -> str:
        digest = hashlib.sha256(self._verifier.encode()).digest()
        asked = {
            "response_type": "code",
            "client_id": self._client.ident,
            "redirect_uri": redirect,
            "scope": self._client.scope,
            "state": self.state,
            "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
            # Google gives a refresh token for these two alone.
            "access_type": "offline",
            "prompt": "consent",
            "login_hint": self._user,
        }
        joint = "&" if urlsplit(self._client.auth_url).query else "?"
        return f"{self._client.auth_url}{joint}{urlencode(asked)}"

    def redeemed(self, came: Mapping[str, str], redirect: str) -> Granted:
        if "code" not in came:
            raise GrantError(came.get("error", "invalid_response"), came.get("error_description", ""))
        asked = {
            "grant_type": "authorization_code",
            "code": came["code"],
            "redirect_uri": redirect,
            "code_verifier": self._verifier,
        }
        return _granted(_asked(self._client, self._client.token_url, asked))


class _Door(http.server.ThreadingHTTPServer):
    """Takes the browser's visit on loopback: that with the right state; others are turned away and change nothing."""

    daemon_threads = True
    #: A browser connects in advance and says nothing: each has a thread, and nobody waits for it.
    block_on_close = False
    timeout = 0.2

    def __init__(self, state: str, came: queue.Queue[Mapping[str, str]]) -> None:
        super().__init__(("127.0.0.1", 0), _Visit)
        self.state, self.came = state, came

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a broken visit be; the next one may be the browser's."""


class _Visit(http.server.BaseHTTPRequestHandler):
    timeout = 5
    server: _Door

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        came = _query(parts.query)
        if parts.path != "/" or not _same(came.get("state", ""), self.server.state):
            self.send_error(404)
            return
        said = (
            "You are signed in. Close this page and go back to the notebook."
            if "code" in came
            else f"It did not work: {came.get('error', 'no code came')}. The notebook says more."
        )
        body = f"<!doctype html><meta charset=utf-8><title>Sign-in</title><p>{html.escape(said)}".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.server.came.put(came)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Write nothing: the line would hold the code."""


def _query(text: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(text).items()}


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


# ---------------------------------------------------------------------------------------- the endpoint


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none."""


def _asked(client: Client, url: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the token endpoint's answer; a public client says who it is in the form (RFC 6749, 2.3.1 and 3.2.1)."""
    who = {"client_id": client.ident} | ({"client_secret": client.secret} if client.secret else {})
    return _answer(client, url, {**fields, **who})


def _answer(client: Client, url: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """Post a form and return the JSON that comes back.

    Raises:
        SettingsError: The address is none for secrets, or ``ca_file`` cannot be read.
        GrantError: The server refuses.
        OfflineError: It cannot be reached, its certificate is not valid, or it is out of order.
    """
    try:
        https = urlsplit(url).scheme == "https" and url.isascii()
    except ValueError:
        https = False
    if not https:
        raise SettingsError(f"{url!r} is no https address; a sign-in needs one.", "Check the endpoints.")
    try:
        context = ssl.create_default_context(cafile=client.ca_file or None)
    except OSError as error:
        cause = (
            f"The file {client.ca_file!r} holds no certificates that can be read: {error.strerror or error}."
        )
        raise SettingsError(cause, "ca_file= names a PEM file.") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirect())
    request = urllib.request.Request(  # noqa: S310 - https, see above
        url, data=urlencode(fields).encode(), headers={"Accept": "application/json"}
    )
    try:
        with opener.open(request, timeout=_SECONDS) as response:
            return _parsed(response.read(_LONGEST_ANSWER))
    except urllib.error.HTTPError as error:
        with error:
            _refused(
                error.code, error.read(_LONGEST_ANSWER), [fields.get(name, "") for name in _SECRET_FIELDS]
            )
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise OfflineError(f"{urlsplit(url).hostname} cannot be reached: {reason}") from None


def _refused(status: int, body: bytes, hidden: Iterable[str] = ()) -> Never:
    try:
        answer = _parsed(body)
    except GrantError:
        answer = {}
    found, said = answer.get("error"), answer.get("error_description", "")
    code = found if isinstance(found, str) else ""
    if status >= 500 or status == 429 or code in {"temporarily_unavailable", "server_error"}:  # noqa: PLR2004
        raise OfflineError(f"the sign-in server is out of order (HTTP {status})")
    told = [code or f"HTTP {status}", str(said or "")]
    for secret in hidden:
        if len(secret) >= _SHORTEST:
            told = [text.replace(secret, "•••").replace(quote_plus(secret), "•••") for text in told]
    raise GrantError(*told)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise GrantError("invalid_response", "the server answered with no JSON object")
    return found


def _granted(answer: Mapping[str, Any]) -> Granted:
    access, refresh = answer.get("access_token"), answer.get("refresh_token", "")
    if not isinstance(access, str) or not _TOKEN.fullmatch(access):
        raise GrantError("invalid_response", "the server gave no access token")
    kept = refresh if isinstance(refresh, str) else ""
    return Granted(access, CLOCK() + _number(answer.get("expires_in"), _USUAL_LIFE), kept)


def _number(value: Any, usual: float) -> float:
    """Return a number of seconds; some servers write it as text."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return usual
    return found if 0 <= found < 10**9 else usual


def _one_line(text: str) -> str:
    """Return a server's sentence on one line, without what Microsoft adds for its support."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words.partition(" Trace ID:")[0][:300]
