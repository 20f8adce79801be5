"""Signing in instead of a password: with whom, and the tokens that come of it.

`GoogleOAuth` and `MicrosoftOAuth` are frozen and hold no secret. What is secret is in two places: the refresh token
in the system's keyring (in this process's memory where there is none), the access token in memory alone.
A person is asked by `Tokens.sign_in` and nowhere else; `Tokens.token`, which a new connection asks in a worker
thread, never prompts.
"""

from __future__ import annotations

import dataclasses
import html
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from smtp_notebook import _html
from smtp_notebook.outcome import SecretError, SettingsError

if TYPE_CHECKING:
    # At run time it is imported where it is used: most connections have a password, and it brings a web server.
    from smtp_notebook.grants import Client, Granted, GrantError

__all__ = [
    "Bearer",
    "GoogleOAuth",
    "MicrosoftOAuth",
    "OAuth",
    "TokenFunction",
    "Tokens",
    "as_json",
    "as_oauth",
    "bearer",
]

#: Shows text where there is no notebook; exchanged where a test has to read along.
TELL: Callable[[str], object] = print
_SERVICE = "smtp-notebook"
#: A new connection gets a token that holds for so many seconds more.
_GOOD_FOR = 300.0
#: Windows keeps 2,560 octets, two for each letter (CRED_MAX_CREDENTIAL_BLOB_SIZE); Microsoft's tokens are longer.
_PIECE = 1000
#: What says that the sign-in itself is over, and no fault of the moment (RFC 6749, 5.2; Microsoft's two).
_OVER = frozenset({"invalid_grant", "interaction_required", "consent_required"})
_TOKEN = re.compile(r"[\x21-\x7e]+")
_AGAIN = "Run connect(…) with this oauth= in a cell again, and sign in."


# ---------------------------------------------------------------------------------------- with whom


@dataclass(frozen=True, slots=True, repr=False)
class GoogleOAuth:
    """Sign in with Google, in the browser; for ``oauth=`` of `connect()`.

    Attributes:
        client_file: The JSON file of a client of the type *Desktop app*, as the Google Cloud console gives it. Its
            endpoints are used, so a test may name its own.
        scope: What is asked for; Google has no narrower one for SMTP.
        paste: Paste the address to which the sign-in leads, instead of being led back by itself: for a notebook whose
            kernel is on another machine than the browser.
        ca_file: A PEM file with the authorities to trust instead of the system's, for Google's endpoints.

    Raises:
        SettingsError: When it is used: the file cannot be read or is of another type.
    """

    client_file: str
    scope: str = "https://mail.google.com/"
    paste: bool = False
    ca_file: str = ""

    title = "Google"

    def __post_init__(self) -> None:
        object.__setattr__(self, "client_file", os.fspath(self.client_file))

    def client(self) -> Client:
        """Return the client that the file describes.

        Raises:
            SettingsError: It cannot be read or is of another type.
        """
        fix = "Make a client of the type Desktop app in the Google Cloud console, and download its JSON."
        try:
            found = json.loads(Path(self.client_file).read_text(encoding="utf-8"))["installed"]
            ident, auth, token = (found[n] for n in ("client_id", "auth_uri", "token_uri"))
        except OSError as error:
            cause = f"The file {self.client_file!r} cannot be read: {error.strerror or error}."
            raise SettingsError(cause, fix) from None
        except (ValueError, KeyError, TypeError):
            raise SettingsError(
                f"The file {self.client_file!r} describes no client for a desktop app.", fix
            ) from None
        from smtp_notebook.grants import Client

        secret = found.get("client_secret", "")
        return Client(ident, secret, token, self.scope, auth_url=auth, ca_file=self.ca_file)

    def __repr__(self) -> str:
        return _written(self)


@dataclass(frozen=True, slots=True, repr=False)
class MicrosoftOAuth:
    """Sign in with Microsoft, by a code that is typed at an address; for ``oauth=`` of `connect()`.

    Attributes:
        client_id: The application's identifier in Entra ID; its public client flows have to be allowed.
        tenant: The organisation's identifier or domain, ``organizations`` for any, ``consumers`` for Outlook.com.
        authority: Where one signs in; another for a national cloud.
        scope: What is asked for; a national cloud has another host in it.
        ca_file: A PEM file with the authorities to trust instead of the system's, for that address.
    """

    client_id: str
    tenant: str = "organizations"
    authority: str = "https://login.microsoftonline.com"
    scope: str = "https://outlook.office.com/SMTP.Send"
    ca_file: str = ""

    title = "Microsoft"

    def __post_init__(self) -> None:
        for name in ("client_id", "tenant"):
            value = getattr(self, name)
            if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
                raise SettingsError(
                    f"{name}={value!r} is no identifier.", "Copy it from the app's page in Entra ID."
                )

    def client(self) -> Client:
        """Return the client, with its endpoints below the authority."""
        from smtp_notebook.grants import Client

        base = f"{self.authority.rstrip('/')}/{self.tenant}/oauth2/v2.0"
        # Without this scope there is no refresh token.
        scope = f"{self.scope} offline_access"
        return Client(
            self.client_id,
            "",
            f"{base}/token",
            scope,
            device_url=f"{base}/devicecode",
            ca_file=self.ca_file,
        )

    def __repr__(self) -> str:
        return _written(self)


class TokenFunction:
    """A person's own function that returns an access token; it sees to it that the token is fresh.

    Called for each new connection, in a worker thread, one call at a time.
    """

    __slots__ = ("_lock", "_source")

    title = "the function given as oauth="
    known = True

    def __init__(self, source: Callable[[], str] | None) -> None:
        self._source = source
        self._lock = threading.Lock()

    def token(self) -> str:
        """Return the token.

        Raises:
            SecretError: The function fails, or gives none.
        """
        if self._source is None:
            raise SecretError("This connection was copied to where its token is not known.", "Connect there.")
        fix = "It has to return an access token for SMTP, as text."
        with self._lock:
            try:
                found = self._source()
            except BaseException as error:  # noqa: BLE001 - a person's words may hold a secret; SystemExit would end the loop
                kind = type(error).__name__
                raise SecretError(f"The function given as oauth= failed with {kind}.", fix) from None
        if not isinstance(found, str) or not _TOKEN.fullmatch(found):
            raise SecretError("The function given as oauth= returned no access token.", fix)
        return found

    def sign_in(self, *, check: bool = False) -> None:
        """Ask nobody: the function is asked when a connection is made."""

    def spoil(self, token: str) -> None:
        """Keep nothing, so there is nothing to forget."""

    def forget(self) -> None:
        """Keep nothing, so there is nothing to forget."""

    def __repr__(self) -> str:
        return "<token from a function>"

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle carries where, never what.
        return (TokenFunction, (None,))


OAuth = GoogleOAuth | MicrosoftOAuth | TokenFunction
_KINDS: Mapping[str, type[GoogleOAuth | MicrosoftOAuth]] = {
    "google": GoogleOAuth,
    "microsoft": MicrosoftOAuth,
}


def _written(value: GoogleOAuth | MicrosoftOAuth) -> str:
    """Return a value as the Python that makes it."""
    given = (
        (f.name, getattr(value, f.name))
        for f in dataclasses.fields(value)
        if getattr(value, f.name) != f.default
    )
    return f"{type(value).__name__}({', '.join(f'{name}={v!r}' for name, v in given)})"


def as_oauth(value: Any) -> OAuth | None:
    """Return what ``oauth=`` was given as a value: a function is wrapped, a saved one made again.

    Raises:
        SettingsError: It is a token in clear, or none of these.
    """
    if value is None or isinstance(value, OAuth):
        return value
    if isinstance(value, Mapping) and value.get("kind") in _KINDS:
        cls = _KINDS[value["kind"]]
        names = {f.name for f in dataclasses.fields(cls)}
        # A newer version may have saved more.
        return cls(**{name: kept for name, kept in value.items() if name in names})
    if callable(value) and not isinstance(value, type):
        return TokenFunction(value)
    fix = "Give GoogleOAuth(client_file), MicrosoftOAuth(client_id), or a function: oauth=lambda: …."
    if isinstance(value, str):
        raise SettingsError(
            "A token stands in the cell, where every reader of the notebook would see it.", fix
        )
    raise SettingsError(f"A {type(value).__name__} is no way to sign in.", fix)


def as_json(oauth: OAuth) -> dict[str, Any]:
    """Return what is saved of a way to sign in; never a secret.

    Raises:
        SettingsError: A function cannot be saved.
    """
    if isinstance(oauth, TokenFunction):
        raise SettingsError(
            "A function that returns a token cannot be saved.", "Give oauth= again in each notebook."
        )
    kind = next(name for name, cls in _KINDS.items() if isinstance(oauth, cls))
    kept = {f.name: getattr(oauth, f.name) for f in dataclasses.fields(oauth)}
    if isinstance(oauth, GoogleOAuth):
        # Another notebook may lie in another folder.
        kept["client_file"] = str(Path(oauth.client_file).absolute())
    return {"kind": kind, **kept}


# -------------------------------------------------------------------------------------------- tokens


class Bearer(Protocol):
    """Gives a token for one login."""

    @property
    def known(self) -> bool:
        """Whether `token` answers without a person having to sign in."""

    def token(self) -> str:
        """Return an access token; never prompts, may wait for the network."""

    def sign_in(self, *, check: bool = False) -> None:
        """Have the person sign in, unless that is known."""

    def spoil(self, token: str) -> None:
        """Learn that the server does not take this token."""

    def forget(self) -> None:
        """Forget the sign-in."""


class Tokens:
    """The tokens of one login in this process: found, renewed before they expire, and forgotten.

    Args:
        oauth: With whom.
        user: Who signs in.
    """

    def __init__(self, oauth: GoogleOAuth | MicrosoftOAuth, user: str) -> None:
        self._oauth, self._user = oauth, user
        self._client = oauth.client()
        self._lock = threading.Lock()
        self._granted: Granted | None = None
        self._refresh: str | None = None
        self._spoilt = ""

    def __repr__(self) -> str:
        return f"<Tokens of {self._user} with {self._oauth.title}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (bearer, (self._oauth, self._user))

    @property
    def known(self) -> bool:
        """Whether somebody signed in before, as far as is known here. Asks nobody, and no network.

        It waits for no renewal that is going on in another thread: a form asks this while a click is handled.
        """
        refresh = self._refresh
        return self._left() > 0 or bool(_from_keyring(self._account) if refresh is None else refresh)

    def token(self) -> str:
        """Return an access token that holds for 5 minutes more, renewed where it would not.

        Raises:
            SecretError: The sign-in is over; the person has to sign in again.
            OfflineError: It cannot be renewed at present.
        """
        with self._lock:
            if self._granted is not None and self._left() > _GOOD_FOR:
                return self._granted.access
            refresh = self._found()
            if refresh:
                self._granted = self._renewed(refresh)
            if self._granted is None or not (refresh or self._left() > 0):
                raise SecretError(f"Nobody is signed in with {self._oauth.title} as {self._user}.", _AGAIN)
            return self._granted.access

    def sign_in(self, *, check: bool = False) -> None:
        """Have the person sign in, unless that happened before; on the thread of the person's cell.

        Args:
            check: Look whether what was kept still holds, and sign in anew where it does not.

        Raises:
            SecretError: Nobody can be asked here, the person refused, or nobody came.
            SettingsError: An endpoint or a file is none.
        """
        if self.known and (not check or self._still_good()):
            return
        if not _somebody():
            cause = f"The sign-in of {self._user} with {self._oauth.title} needs a person, and nobody can be asked here."
            raise SecretError(
                cause, "Sign in once where a notebook can show a page, with a keyring; or give a function."
            )
        from smtp_notebook.grants import GrantError, OfflineError

        show = _Showing(self._user, self._oauth.title)
        try:
            granted = self._flow(show)
        except GrantError as error:
            show.end("That did not work.")
            raise SecretError(f"The sign-in with {self._oauth.title} failed: {error}.", _fix(error)) from None
        except OfflineError as error:
            show.end("That did not work.")
            raise SecretError(
                f"The sign-in with {self._oauth.title} failed: {error}.", "Check the network, and try again."
            ) from None
        except BaseException:
            show.end("That was stopped.")
            raise
        show.end(f"Signed in as {self._user}. {self._keep(granted)}")

    def _still_good(self) -> bool:
        """Tell whether what was kept still holds; when that cannot be learned now, whoever sends will say so."""
        from smtp_notebook.grants import OfflineError

        try:
            self.token()
        except OfflineError:
            return True
        except SecretError:
            if self.known:
                raise  # another sign-in would meet the same
            return False
        return True

    def _flow(self, show: _Showing) -> Granted:
        from smtp_notebook import grants

        if isinstance(self._oauth, MicrosoftOAuth):
            return grants.by_device(self._client, show.code)
        if self._oauth.paste:
            return grants.by_pasting(self._client, self._user, show.paste)
        return grants.by_browser(self._client, self._user, show.page)

    def _keep(self, granted: Granted) -> str:
        """Keep what was granted; return where, in words."""
        with self._lock:
            self._granted, self._refresh = granted, granted.refresh
            if not granted.refresh:
                return "It holds for one token's life only: no refresh token was given."
            if _to_keyring(self._account, granted.refresh):
                return "The sign-in is kept in the system's keyring."
            return (
                "This system has no keyring, so the sign-in is kept in this process's memory alone: "
                "the next kernel asks again."
            )

    def spoil(self, token: str) -> None:
        """Learn that the server does not take this token: the next one is asked for anew.

        Called on the event loop, so it waits for nobody: it only notes the token.
        """
        self._spoilt = token

    def forget(self) -> None:
        """Forget the sign-in, in memory and in the keyring. The provider is not told."""
        with self._lock:
            self._drop()

    @property
    def _account(self) -> str:
        return f"oauth {self._user} {self._client.ident} {self._client.token_url}"

    def _left(self) -> float:
        from smtp_notebook import grants

        granted = self._granted
        if granted is None or granted.access == self._spoilt:
            return 0.0
        return granted.until - grants.CLOCK()

    def _found(self) -> str:
        if self._refresh is None:
            self._refresh = _from_keyring(self._account)
        return self._refresh

    def _renewed(self, refresh: str) -> Granted:
        from smtp_notebook import grants

        try:
            granted = grants.refreshed(self._client, refresh)
        except grants.GrantError as error:
            title = self._oauth.title
            if error.error not in _OVER:
                raise SecretError(f"{title} gives {self._user} no token: {error}.", _fix(error)) from None
            newer = _from_keyring(self._account)
            if newer not in {"", refresh}:
                # Another process renewed it, or the person signed in there.
                self._refresh = newer
                return self._renewed(newer)
            self._drop()
            cause = f"{title} does not take the kept sign-in of {self._user} any more: {error}."
            raise SecretError(cause, _AGAIN) from None
        if granted.refresh and granted.refresh != refresh:
            # Microsoft replaces it each time; without a keyring the new one lives in memory as the old one did.
            self._refresh = granted.refresh
            _to_keyring(self._account, granted.refresh)
        return granted

    def _drop(self) -> None:
        self._granted, self._refresh = None, ""
        _out_of_keyring(self._account)


def _fix(error: GrantError) -> str:
    if "AADSTS7000218" in error.description:
        # learn.microsoft.com, "Microsoft Entra authentication and authorization error codes".
        return "Allow public client flows in the app's registration in Entra ID, under Authentication."
    if error.error in {"invalid_client", "unauthorized_client"}:
        return "Check the client and its settings in the provider's console."
    if error.error == "access_denied":
        return "Run the cell again and agree; an administrator may have to allow the app first."
    return "Run the cell again, and sign in."


#: One for each login, so that a cell that is run again does not ask again where there is no keyring.
_TOKENS: dict[tuple[Any, ...], Tokens] = {}
_TOKENS_LOCK = threading.Lock()


def bearer(oauth: OAuth, user: str) -> Bearer:
    """Return what gives tokens for a login; the same object each time in this process.

    Raises:
        SettingsError: The client's file cannot be read.
    """
    if isinstance(oauth, TokenFunction):
        return oauth
    # The file may have been mended since.
    login = (oauth, oauth.client(), user)
    with _TOKENS_LOCK:
        if login not in _TOKENS:
            _TOKENS[login] = Tokens(oauth, user)
        return _TOKENS[login]


# ------------------------------------------------------------------------------------------- keyring


def _to_keyring(account: str, token: str) -> bool:
    """Keep a token in pieces that every keyring takes; return whether it is kept."""
    import keyring
    from keyring.errors import KeyringError

    first, *others = [token[i : i + _PIECE] for i in range(0, len(token), _PIECE)]
    try:
        if _pieces(account) > 1 + len(others):
            _out_of_keyring(account)
        for number, piece in enumerate(others, 2):
            keyring.set_password(_SERVICE, f"{account} {number}", piece)
        keyring.set_password(_SERVICE, account, f"{1 + len(others)}:{first}")
    except (KeyringError, OSError):
        return False
    return _from_keyring(account) == token


def _from_keyring(account: str) -> str:
    import keyring
    from keyring.errors import KeyringError

    try:
        count, _, first = (keyring.get_password(_SERVICE, account) or "").partition(":")
        if not count.isdecimal():
            return ""
        others = [keyring.get_password(_SERVICE, f"{account} {n}") for n in range(2, int(count) + 1)]
    except (KeyringError, OSError):
        return ""
    return "" if None in others else first + "".join(map(str, others))


def _out_of_keyring(account: str) -> None:
    import keyring
    from keyring.errors import KeyringError

    try:
        count = _pieces(account)
        for name in [account, *(f"{account} {n}" for n in range(2, count + 1))] if count else ():
            keyring.delete_password(_SERVICE, name)
    except (KeyringError, OSError):
        return


def _pieces(account: str) -> int:
    """Return in how many entries a token lies."""
    import keyring

    count = (keyring.get_password(_SERVICE, account) or "").partition(":")[0]
    return int(count) if count.isdecimal() else 0


# ------------------------------------------------------------------------------------ what is shown


def _somebody() -> bool:
    """Tell whether a person sees what is shown here and may be waited for: a cell that may ask, or a terminal.

    A widget's callback, the background loop and a thread of one's own may not: nothing would answer meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    kernel = _kernel()
    if kernel is None:
        return sys.stdin is not None and sys.stdin.isatty()
    # nbclient, papermill and the like say with each request that nobody is there; a click is no such request.
    request = kernel.get_parent("shell") or {}
    runs_a_cell = request.get("header", {}).get("msg_type") == "execute_request"
    return runs_a_cell and bool(request.get("content", {}).get("allow_stdin", False))


def _kernel() -> Any:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None)


class _Showing:
    """What the person sees of a sign-in: one output that is written over at its end."""

    def __init__(self, user: str, title: str) -> None:
        self._head = f"To sign in with {title} as {user}"
        self._handle: Any = None

    def code(self, code: str, address: str, seconds: float) -> None:
        """Show where to type which code."""
        minutes = max(1, round(seconds / 60))
        self._say(
            f"{self._head}, open {address} and type {code} (within {minutes} min).",
            f"{html.escape(self._head)}, open {_link(address)} and type "
            f'<strong style="font-family:monospace;font-size:1.3em">{html.escape(code)}</strong> '
            f"{_html.quiet(f'within {minutes} min')}",
        )

    def page(self, address: str) -> None:
        """Show which page to open."""
        hint = "Is the kernel on another machine than the browser? Stop, and give paste=True."
        self._say(
            f"{self._head}, open {address}\n{hint}",
            f"{html.escape(self._head)}, open {_link(address, 'this page')}. {_html.quiet(hint)}",
        )

    def paste(self, address: str) -> str:
        """Show which page to open, and ask for the address to which it leads."""
        import getpass

        hint = "At its end the browser shows a page that it cannot load: copy that page's address, and paste it below."
        self._say(
            f"{self._head}, open {address}\n{hint}",
            f"{html.escape(self._head)}, open {_link(address, 'this page')}. {html.escape(hint)}",
        )
        try:
            # It holds a code; what is typed here is not echoed and not saved with the notebook.
            return getpass.getpass("The address: ")
        except (EOFError, OSError, RuntimeError, NotImplementedError):
            from smtp_notebook.grants import GrantError

            raise GrantError("expired_token", "nobody could be asked for the address") from None

    def end(self, text: str) -> None:
        """Say how it ended."""
        self._say(text, html.escape(text))

    def _say(self, text: str, page: str) -> None:
        if _kernel() is None:
            TELL(text)
            return
        from IPython.display import display

        bundle = {"text/plain": text, "text/html": _html.card(f"<p>{page}</p>")}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def _link(address: str, words: str = "") -> str:
    """Return a link, if the address is one that a browser may be sent to."""
    if urlsplit(address).scheme != "https":
        return html.escape(address)
    where = html.escape(address, quote=True)
    return f'<a href="{where}" target="_blank" rel="noopener noreferrer">{html.escape(words or address)}</a>'
