"""A Salesforce org: who logs in there, and the calls of its REST API that a watch makes.

`SalesforceLogin` is frozen and holds no secret, only where each comes from (`connection.Secret`). `Org` logs in with
it, keeps the session in memory alone, renews it once when it expired, and asks nothing while the org's allowance is
nearly used. simple-salesforce builds the requests; the HTTP session below it is ours, because of four habits of
that library and of requests:

* a session that expired is logged in again up to three times, for some calls without an end: here once;
* there is no timeout, and a redirect is followed with the session's id in hand: here neither;
* with ``trust_env``, REQUESTS_CA_BUNDLE wins over the certificates that were asked for, and a login in ``.netrc`` over
  the session's: here the environment names a proxy, and nothing else;
* ``-api`` is cut out of the name of the server that a login names: here the person's own name of it counts.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import difflib
import email.utils
import html
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

from smtp_notebook.addresses import shortened
from smtp_notebook.connection import (
    ASKED,
    Secret,
    asked_secret,
    check_name,
    drop_secret,
    environment_secret,
    keep_secret,
    kept_secret,
    read_saved,
    typed_password,
    without_password,
    write_saved,
)
from smtp_notebook.outcome import MailError, OptionError, SecretError, SettingsError, SourceError

if TYPE_CHECKING:
    import requests
    from simple_salesforce.api import Salesforce

__all__ = ["Org", "PageError", "SalesforceLogin", "org_login"]

#: Seconds that pass; exchanged where a test must not wait.
CLOCK: Callable[[], float] = time.monotonic

URL_VARIABLE = "SMTP_NOTEBOOK_SALESFORCE_URL"
PASSWORD_VARIABLE = "SMTP_NOTEBOOK_SALESFORCE_PASSWORD"  # noqa: S105 - a variable's name
TOKEN_VARIABLE = "SMTP_NOTEBOOK_SALESFORCE_TOKEN"  # noqa: S105 - the same
KEY_VARIABLE = "SMTP_NOTEBOOK_SALESFORCE_CONSUMER_KEY"
SECRET_VARIABLE = "SMTP_NOTEBOOK_SALESFORCE_CONSUMER_SECRET"  # noqa: S105 - the same
FILE_VARIABLE = "SMTP_NOTEBOOK_SALESFORCE_KEY_FILE"
_FILE = "salesforce.json"
_COMMON = "login.salesforce.com"
#: Where anybody's login begins; they serve no org's data.
_COMMON_HOSTS = frozenset({_COMMON, "test.salesforce.com"})
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")
_SESSION = re.compile(r"[\x21-\x7e]{1,16384}")
_USAGE = re.compile(r"(?<![a-z-])api-usage=([0-9]{1,12})/([0-9]{1,12})")
#: How a token signed for one login begins; nobody keeps it, and it is good for some minutes.
_SIGNED = re.compile(r"eyJ[A-Za-z0-9_-]{8,}")
_CODE = re.compile(r"[A-Za-z0-9_. -]{1,60}")
#: From this share of the day's calls on, an org is asked at most every so many seconds: others need the rest.
_NEARLY = 0.95
_REST = 900.0
#: How many records one call of sObject Collections takes.
#: https://developer.salesforce.com/docs/platform/api-rest/guide/resources-composite-sobjects-collections-update.html
_COLLECTION = 200
_SHORTEST_SECRET = 4
_MOST_QUOTED = 300
_SERVER_ERROR = 500
_TOO_MANY = 429
_UNAUTHORIZED = 401
_REDIRECT = range(300, 400)
_EXTRA = 'pip install "smtp_notebook[salesforce]"'


def _ways(variable: str, field: str) -> str:
    return (
        f"Set {variable} in the environment, save the login once (its secrets then lie in the system's keyring), "
        f"or give a function: {field}=lambda: ….…."
    ).replace("….….", "….")


# ---------------------------------------------------------------------------------------------- login


@dataclass(frozen=True, slots=True, repr=False)
class SalesforceLogin:
    """Who logs in to which Salesforce org, and how. Frozen, and without its secrets.

    The ways in, by what is given:

    * ``session``: a function that returns the id of a session, or an access token, that somebody else takes care of;
    * ``consumer_key`` with ``key_file`` and ``user``: the OAuth 2.0 JWT bearer flow, for what runs by itself;
    * ``consumer_key`` alone: the OAuth 2.0 client credentials flow, with the consumer secret;
    * ``user`` alone: user name, password and security token, by SOAP's ``login()``. Salesforce ends it with the
      release Summer '27, and new orgs have it switched off
      (https://help.salesforce.com/s/articleView?id=005132110&type=1).

    ``password``, ``security_token``, ``consumer_secret`` and ``session`` take functions, never the words themselves.
    What is not given is looked for in the environment, then in the keyring; a password and a consumer secret are then
    asked for, where somebody can answer.

    Attributes:
        url: The org's My Domain, such as ``https://acme.my.salesforce.com``; a host alone and
            ``salesforce://user@host`` will do. The common ``https://login.salesforce.com`` serves passwords alone.
        user: The user name, which looks like an address; "" for the client credentials flow and a session.
        password: Where the password comes from.
        security_token: Where the security token comes from, which Salesforce wants from addresses it does not trust.
        consumer_key: The consumer key of the app; no secret.
        consumer_secret: Where the consumer secret comes from.
        key_file: A PEM file with the private key whose certificate the app has.
        session: Where a session comes from: asked for once on your thread, and again, in a worker thread, when it expired.
        name: The name that it is saved under, or "".
        ca_file: A PEM file with the authorities to trust; by default that which REQUESTS_CA_BUNDLE or SSL_CERT_FILE
            names, or those of the package certifi.
        proxy: Whether the proxy that the environment names is used (HTTPS_PROXY, NO_PROXY); never for loopback.
        timeout: Seconds that the org may be silent.
        practice: Whether it is a practice org, whose people do not exist.

    Raises:
        SettingsError: No such address, ways that do not go together, or a secret in clear.
    """

    url: str = f"https://{_COMMON}"
    user: str = dataclasses.field(default="", kw_only=True)
    password: Any = dataclasses.field(default=None, kw_only=True, compare=False)
    security_token: Any = dataclasses.field(default=None, kw_only=True, compare=False)
    consumer_key: str = dataclasses.field(default="", kw_only=True)
    consumer_secret: Any = dataclasses.field(default=None, kw_only=True, compare=False)
    key_file: str = dataclasses.field(default="", kw_only=True)
    session: Any = dataclasses.field(default=None, kw_only=True, compare=False)
    name: str = dataclasses.field(default="", kw_only=True)
    ca_file: str = dataclasses.field(default="", kw_only=True)
    proxy: bool = dataclasses.field(default=True, kw_only=True)
    timeout: float = dataclasses.field(default=60.0, kw_only=True)
    practice: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        for field, variable in _SECRETS.items():
            object.__setattr__(self, field, _as_secret(getattr(self, field), field, variable))
        url, user = _address(self.url)
        if user and self.user and user != self.user:
            raise SettingsError("The URL names one user and user= another.", "Give one of them.")
        object.__setattr__(self, "url", url)
        object.__setattr__(self, "user", self.user or user)
        for field in ("key_file", "ca_file"):
            object.__setattr__(self, field, os.fspath(getattr(self, field)))
        if re.search(r"[\x00-\x20\x7f]", self.user + self.consumer_key):
            raise SettingsError("The user or the consumer key has a blank or control character in it.")
        if (
            isinstance(self.timeout, bool)
            or not isinstance(self.timeout, int | float)
            or not self.timeout > 0
        ):
            raise SettingsError(f"timeout={self.timeout!r} is no number of seconds above 0.")
        self._check_way()

    def _check_way(self) -> None:
        way = self.way
        if way in {"client", "session"} and self.host in _COMMON_HOSTS:
            cause = f"{self.host} serves no org's data, and this login needs the org's own address."
            raise SettingsError(cause, "Give its My Domain, such as acme.my.salesforce.com.")
        if way in {"jwt", "password"} and not self.user:
            raise SettingsError(
                "This login names no user.", 'Give user="…", or salesforce://user@acme.my.salesforce.com.'
            )
        if self.key_file and not self.consumer_key:
            raise SettingsError("key_file= needs the consumer key of its app.", 'Give consumer_key="…" too.')

    @property
    def host(self) -> str:
        """The server's name, with its port where it has one."""
        return self.url.partition("://")[2]

    @property
    def way(self) -> str:
        """How it logs in: ``session``, ``jwt``, ``client`` or ``password``."""
        if self.session is not None:
            return "session"
        if self.key_file:
            return "jwt"
        return "client" if self.consumer_key else "password"

    @property
    def needs(self) -> tuple[str, ...]:
        """The secrets that this way of logging in needs, by the names of their fields."""
        return {
            "session": ("session",),
            "client": ("consumer_secret",),
            "password": ("password", "security_token"),
        }.get(self.way, ())

    def resolve(self, *, ask: bool = True) -> None:
        """Find every secret that this login needs, and ask for those that nobody named.

        May prompt, so it runs on the thread of the person's cell. Found once, then kept in memory.

        Args:
            ask: Whether a person may be asked.

        Raises:
            SecretError: There is one that cannot be had here; says which ways there are.
        """
        for field in self.needs:
            given = getattr(self, field)
            if given is None:
                given = _found(self, field, ask=ask)
                object.__setattr__(self, field, given)  # where it comes from; equality and repr ignore it
            if given is not None:
                given.reveal()
        if self.key_file:
            _private_key(self.key_file)

    def save(self, name: str) -> SalesforceLogin:
        """Keep this login under *name*, and its secrets in the system's keyring alone.

        Returns:
            The saved login, which ``salesforce(…, org=name)`` finds again.

        Raises:
            SettingsError: It is no name, or the session comes from a function.
            SecretError: There is a secret and no keyring to keep it; nothing was saved.
        """
        check_name(name)
        if self.way == "session" or self.practice:
            raise SettingsError(
                "A session that a function gives cannot be saved, nor can a practice org.",
                "Give session= again in each notebook.",
            )
        self.resolve()
        kept = dataclasses.replace(self, name=name)
        for field in self.needs:
            secret = getattr(self, field)
            if secret is not None:
                keep_secret(_account(self, field), secret.reveal(), _SECRETS[field])
        settings = {
            f.name: getattr(kept, f.name)
            for f in dataclasses.fields(kept)
            if f.name not in {*_SECRETS, "name", "practice"}
        }
        for file in ("key_file", "ca_file"):
            if settings[file]:
                # Another notebook may lie in another folder.
                settings[file] = str(Path(settings[file]).expanduser().absolute())
        everything = read_saved(_FILE)
        everything[name] = settings
        write_saved(everything, _FILE)
        return kept

    @staticmethod
    def saved(name: str) -> SalesforceLogin:
        """Return the login saved under *name*; its secrets are looked up when they are needed.

        Raises:
            SettingsError: There is none; names those that there are.
        """
        # It must not be repeated by the sentence below.
        if re.search(r":[^@]+@", name):
            what = "This looks like a URL without its scheme, and a password stands in it"
            raise typed_password(what, _ways(PASSWORD_VARIABLE, "password"))
        everything = read_saved(_FILE)
        if name not in everything:
            known = ", ".join(map(repr, sorted(everything))) or "none"
            near = difflib.get_close_matches(name, everything, n=1)
            fix = f"Did you mean {near[0]!r}?" if near else "SalesforceLogin(…).save(name) saves one."
            raise SettingsError(f"No login is saved as {shortened(name)}; saved are: {known}.", fix)
        # A newer version may have saved more.
        names = {f.name for f in dataclasses.fields(SalesforceLogin)} - {*_SECRETS, "name"}
        return SalesforceLogin(**{k: v for k, v in everything[name].items() if k in names}, name=name)

    @staticmethod
    def forget(name: str) -> None:
        """Remove a saved login and its secrets; nothing happens when there is none."""
        everything = read_saved(_FILE)
        if name not in everything:
            return
        with contextlib.suppress(SettingsError, TypeError):  # whatever it was, it can be removed
            login = SalesforceLogin.saved(name)
            for field in login.needs:
                drop_secret(_account(login, field))
        del everything[name]
        write_saved(everything, _FILE)

    @classmethod
    def from_environment(cls) -> SalesforceLogin:
        """Return the login that the environment names, for what runs without a person.

        Reads ``SMTP_NOTEBOOK_SALESFORCE_URL`` (``salesforce://user@acme.my.salesforce.com``), and with it
        ``…_PASSWORD`` and ``…_TOKEN``, or ``…_CONSUMER_KEY`` with ``…_CONSUMER_SECRET`` or ``…_KEY_FILE``. The
        environment is no notebook: there the URL may hold a password.

        Raises:
            SettingsError: There is no such URL, or it is none.
        """
        bare, password = without_password(
            os.environ.get(URL_VARIABLE, "").strip(), URL_VARIABLE, _ways(PASSWORD_VARIABLE, "password")
        )
        if not bare:
            cause = "No Salesforce org is named, and the environment names none either."
            raise SettingsError(
                cause,
                f"Give org=SalesforceLogin(…), or set {URL_VARIABLE}; PracticeOrg().login tries it out.",
            )
        key, file = os.environ.get(KEY_VARIABLE, "").strip(), os.environ.get(FILE_VARIABLE, "").strip()
        try:
            return cls(bare, password=password, consumer_key=key, key_file=file)
        except SettingsError as error:
            raise SettingsError(f"{URL_VARIABLE}: {error.cause}", error.fix) from None

    def __repr__(self) -> str:
        who = f"{self.user} at " if self.user else ""
        named = f"{self.name}: " if self.name else ""
        return f"<SalesforceLogin {named}{who}{self.host}, {_WAYS[self.way]}>"


_SECRETS: Mapping[str, str] = {
    "password": PASSWORD_VARIABLE,
    "security_token": TOKEN_VARIABLE,
    "consumer_secret": SECRET_VARIABLE,
    "session": "",
}
_WAYS: Mapping[str, str] = {
    "session": "by a given session",
    "jwt": "by a signed token (JWT)",
    "client": "by client credentials",
    "password": "by a password",
}
_CALLED: Mapping[str, str] = {"password": "password", "consumer_secret": "consumer secret"}


def org_login(given: Any) -> SalesforceLogin:
    """Return what ``org=`` was given as a login: itself, a saved name, a URL, a practice org, or the environment's."""
    if given is None:
        return SalesforceLogin.from_environment()
    if isinstance(given, SalesforceLogin):
        return given
    if isinstance(given, str):
        return SalesforceLogin(given) if "://" in given else SalesforceLogin.saved(given)
    login = getattr(given, "login", None)
    if isinstance(login, SalesforceLogin):
        return login
    raise OptionError(
        f"A {type(given).__name__} is no Salesforce org.", "Give org=SalesforceLogin(…) or a saved name."
    )


def _address(given: str) -> tuple[str, str]:
    """Return an org's address as ``https://host``, and the user that a URL names."""
    example = "Write https://acme.my.salesforce.com, or salesforce://user@acme.my.salesforce.com."
    if not isinstance(given, str):
        raise SettingsError(f"A {type(given).__name__} is no address of an org.", example)
    scheme, separator, rest = given.strip().partition("://")
    if not separator:
        scheme, rest = "https", given.strip()
    # The login first: a sign in a password that nobody encoded must not show it in an error.
    login, _, place = rest.rpartition("@")
    user, colon, typed = login.partition(":")
    if colon and typed:
        raise typed_password("A password stands in the URL", _ways(PASSWORD_VARIABLE, "password"))
    if scheme.lower() not in {"https", "salesforce"}:
        raise SettingsError("An org is spoken to over https alone.", example)
    host = place.partition("/")[0].lower()
    if not _HOST.fullmatch(host):
        raise SettingsError(f"{shortened(host)} is no host." if host else "The URL names no host.", example)
    if host.endswith(".lightning.force.com"):
        mine = host.replace(".lightning.force.com", ".my.salesforce.com")
        raise SettingsError(f"{host} is the address of pages, not of the API.", f"Give {mine}.")
    return f"https://{host}", unquote(user)


def _as_secret(given: Any, field: str, variable: str) -> Secret | None:
    if given is None or isinstance(given, Secret):
        return given
    ways = _ways(variable or PASSWORD_VARIABLE, field) if variable else f"Give a function: {field}=lambda: …."
    if not callable(given):
        del given
        raise typed_password(f"What {field}= takes is a secret, and it stands in the cell", ways)
    return Secret(given, f"the function given as {field}=", ways)


def _account(login: SalesforceLogin, field: str) -> str:
    return f"salesforce {field}:{login.user or login.consumer_key}@{login.host}"


def _found(login: SalesforceLogin, field: str, *, ask: bool) -> Secret | None:
    """Return where a secret comes from that nobody named, or None for a security token that there is not."""
    variable = _SECRETS[field]
    ways = _ways(variable, field)
    found = environment_secret(variable, ways)
    if found is not None:
        return found
    account = _account(login, field)
    if field == "security_token":
        # Empty where the network is trusted: nobody is asked.
        return (
            Secret(lambda: kept_secret(account) or "", "the keyring", ways) if kept_secret(account) else None
        )
    called, who = _CALLED[field], login.user or "the app"
    cause = f"The login of {who} at {login.host} needs a {called}, and nobody can be asked here."
    if not ask and not kept_secret(account):
        raise SecretError(cause, ways)
    question = f"Salesforce {called} of {who} at {login.host}"
    return Secret(lambda: kept_secret(account) or asked_secret(question, cause, ways), ASKED, ways)


def _private_key(path: str) -> bytes:
    """Return a private key's file.

    Raises:
        SettingsError: It cannot be read, or holds no private key.
    """
    fix = "key_file= names the PEM file of the private key whose certificate the app has."
    try:
        found = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise SettingsError(f"The file {path!r} cannot be read: {error.strerror or error}.", fix) from None
    if b"PRIVATE KEY-----" not in found:
        raise SettingsError(f"The file {path!r} holds no private key in PEM.", fix)
    return found


# ---------------------------------------------------------------------------------------------- calls


class PageError(SourceError):
    """The place in a long answer that was to be read next is not known to the org any more."""


class _ExpiredError(Exception):
    """The session is over."""


class Org:
    """The calls of one login. From one thread at a time.

    Args:
        login: Who logs in.

    Attributes:
        login: Who logs in.
        used: How many of the day's calls the org has used, and how many it has; None before the first answer.
        now: What the org's clock said in its newest answer, or None.
        calls: How many calls were made.
        logins: How often it was logged in.
    """

    def __init__(self, login: SalesforceLogin) -> None:
        self.login = login
        self.used: tuple[int, int] | None = None
        self.now: dt.datetime | None = None
        self.calls = self.logins = 0
        self._lock = threading.Lock()
        self._client: Salesforce | None = None
        self._again = 0.0
        self._rests = ""
        self._refused: MailError | None = None

    def prepare(self) -> None:
        """Find the secrets, on the thread of the person's cell, and let a refused login be tried again.

        Raises:
            SecretError: One cannot be had here.
            SettingsError: simple-salesforce is missing.
        """
        _library()
        self.login.resolve()
        self._refused = None

    def query(self, soql: str) -> dict[str, Any]:
        """Return the first page of an answer."""
        found: dict[str, Any] = self._asked(lambda client: client.query(soql))
        return found

    def more(self, place: str) -> dict[str, Any]:
        """Return the next page of an answer.

        Raises:
            PageError: The org has forgotten that answer.
        """
        found: dict[str, Any] = self._asked(lambda client: client.query_more(place, identifier_is_url=True))
        return found

    def describe(self, sobject: str) -> dict[str, Any]:
        """Return what the org says of an object."""
        found: dict[str, Any] = self._asked(lambda client: client.restful(f"sobjects/{sobject}/describe"))
        return found

    def write(self, records: Sequence[Mapping[str, Any]], *, create: bool) -> list[dict[str, Any]]:
        """Create or update records, up to 200 with each call, and return what became of each.

        Each record has ``attributes`` with its ``type``, and an ``Id`` unless it is created.
        """
        done: list[dict[str, Any]] = []
        method = "POST" if create else "PATCH"
        for start in range(0, len(records), _COLLECTION):
            body = json.dumps({"allOrNone": False, "records": records[start : start + _COLLECTION]})
            answer: Any = self._asked(
                lambda client, body=body: client.restful("composite/sobjects", method=method, data=body),  # type: ignore[misc]  # bound now
                kind=list,
            )
            done += answer
        return done

    @property
    def nearly(self) -> str:
        """One sentence where the org's allowance of calls is nearly used, or ""."""
        return self._rests if CLOCK() < self._again else ""

    # ------------------------------------------------------------------------------------ one call

    def _asked(self, ask: Callable[[Salesforce], Any], kind: type = dict) -> Any:
        with self._lock:
            self._may()
            for last in (False, True):
                answer = self._tried(ask, kind)
                if isinstance(answer, _ExpiredError) and not last:
                    self._client = None
                    continue
                break
            if isinstance(answer, _ExpiredError):
                self._client = None
                raise SourceError(
                    "The org ended the session as soon as it had begun it.",
                    "Look at the user's login hours and IP ranges in the org's Setup.",
                )
            if isinstance(answer, MailError):
                raise answer
            return answer

    def _may(self) -> None:
        if self._refused is not None:
            raise type(self._refused)(self._refused.cause, self._refused.fix)
        if CLOCK() < self._again:
            minutes = max(1, round((self._again - CLOCK()) / 60))
            raise SourceError(f"{self._rests} It is asked again in {minutes} min.")

    def _tried(self, ask: Callable[[Salesforce], Any], kind: type) -> Any:
        """Return an answer, or the error that it is."""
        client: Any = self._client or self._logged_in()
        if isinstance(client, MailError):
            return client
        self._client = client
        self.calls += 1
        problem: Exception
        try:
            found = ask(client)
            if isinstance(found, kind):
                return found
            problem = ValueError("another kind of answer")
        except Exception as error:  # noqa: BLE001 - the library raises of many kinds; see _unexpected for the rest
            problem = error
        finally:
            self._listen(client.session.seen)
        # Outside of except: what the library raises has the session's id in the variables of its frames.
        return self._explained(problem)

    def _listen(self, seen: Mapping[str, str]) -> None:
        """Read what an answer says of the org's clock and of its allowance.

        https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/headers_api_usage.htm
        """
        with contextlib.suppress(TypeError, ValueError, IndexError):
            self.now = email.utils.parsedate_to_datetime(seen.get("Date", "")).astimezone(dt.UTC)
        found = _USAGE.search(seen.get("Sforce-Limit-Info", "")[:1000])
        if found is None:
            return
        used, whole = int(found[1]), int(found[2])
        self.used = used, whole
        if whole and used >= whole * _NEARLY:
            self._rest(f"The org has used {used:,} of the {whole:,} calls that its API takes in 24 hours.")

    def _rest(self, why: str) -> None:
        self._again, self._rests = CLOCK() + _REST, why

    def _explained(self, problem: Exception) -> Exception:
        """Return what a failed call means: one sentence, and whether the session is over."""
        if not hasattr(problem, "status"):
            return _unreachable(problem, self.login)
        status, content = int(getattr(problem, "status", 0)), getattr(problem, "content", None)
        code, said = _first_error(content, _known(self.login, self._client))
        if code == "INVALID_SESSION_ID" or (status == _UNAUTHORIZED and not code):
            return _ExpiredError()
        if code == "REQUEST_LIMIT_EXCEEDED":
            why = f"The org takes no more calls at present ({code})."
            self._rest(why)
            return SourceError(why, f"It is asked again in {_REST / 60:.0f} min.")
        return _told(code, said, status)

    # --------------------------------------------------------------------------------------- login

    def _logged_in(self) -> Salesforce | MailError:
        """Return a client with a new session, or why there is none."""
        simple = _library()
        self.logins += 1
        login = self.login
        session = _session(login)
        try:
            login.resolve(ask=False)
            found = _new_session(simple, login, session, again=self.logins > 1)
        except MailError as error:
            found = error
        self._listen(session.seen)
        if isinstance(found, MailError):
            if isinstance(found, SettingsError):
                # Another try would be one more towards a locked user; `prepare` forgets it.
                self._refused = found
            return found
        identifier, host = found
        client: Salesforce = simple.Salesforce(
            session_id=identifier,
            instance_url=f"https://{_instance(login, host)}",
            session=_session(login),
            version=simple.api.DEFAULT_API_VERSION,
        )
        return client

    def __repr__(self) -> str:
        return f"<Org {self.login.host}, {self.calls:,} call{'' if self.calls == 1 else 's'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle carries who, never the session.
        return (Org, (self.login,))


def _library() -> Any:
    try:
        import simple_salesforce.api
    except ImportError:
        cause = "Salesforce needs the package simple-salesforce, which is not installed here."
        raise SettingsError(cause, f"Install it: {_EXTRA}.") from None
    return simple_salesforce


def _session(login: SalesforceLogin) -> Any:
    """Return an HTTP session with an end to each wait, that verifies, follows no redirect and believes no environment."""
    import requests
    from requests.utils import get_environ_proxies

    class Session(requests.Session):
        """Notes the headers of the newest answer."""

        def __init__(self) -> None:
            super().__init__()
            self.seen: Mapping[str, str] = {}
            self.status = 0
            #: Where a login is sent, whatever address the library makes of the domain.
            self.base = ""

        def request(self, method: Any, url: Any, *args: Any, **more: Any) -> requests.Response:
            target = f"{self.base}{urlsplit(url).path}" if self.base else url
            self.seen, self.status = {}, 0
            more |= {
                "stream": True,
                "allow_redirects": False,
                "timeout": (min(login.timeout, 30.0), login.timeout),
            }
            # What the library hands over here comes from the same place, and may be None.
            more["proxies"] = self.proxies or None
            response = super().request(method, target, *args, **more)
            self.seen, self.status = response.headers, response.status_code
            try:
                response.content  # noqa: B018 - read here, so that an answer that ends early leaves no connection open
            except BaseException:
                response.close()
                raise
            return response

        def get_redirect_target(self, resp: requests.Response) -> None:
            """Follow none, and do not even read where it would lead."""

    session = Session()
    session.trust_env = False
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    session.verify = login.ca_file or bundle or True
    if login.proxy and not _is_loopback(login.host):
        session.proxies = dict(get_environ_proxies(login.url))
    return session


def _is_loopback(host: str) -> bool:
    name = host.partition(":")[0]
    return name == "localhost" or re.fullmatch(r"127(?:\.[0-9]{1,3}){3}", name) is not None


def _instance(login: SalesforceLogin, host: str) -> str:
    """Return the server that has the org's data: that which the person named, or that which the common login names."""
    if login.host not in _COMMON_HOSTS:
        return login.host
    if not _HOST.fullmatch(host) or not host.lower().endswith(".salesforce.com"):
        raise SourceError(
            "The login named no server of Salesforce's.", "Give the org's My Domain as the URL."
        )
    return host.lower()


def _new_session(
    simple: Any, login: SalesforceLogin, session: Any, *, again: bool
) -> tuple[str, str] | MailError:
    """Log in, and return the session's id and its server, or why there is none.

    Raises:
        SecretError: A secret cannot be had here; nobody can be asked in a worker thread.
    """
    if login.way == "session":
        return _given_session(login, again=again)
    session.base = login.url
    known: list[str] = []
    given = _credentials(login, known)
    problem: Exception | None = None
    try:
        found = simple.SalesforceLogin(session=session, proxies=session.proxies or None, **given)
    except Exception as error:  # noqa: BLE001 - the library raises of many kinds, with the password in its frames
        problem, found = error, ("", "")
    given.clear()
    answer = _login_answer(problem, found, login, session.status, known)
    known.clear()
    return answer


def _given_session(login: SalesforceLogin, *, again: bool) -> tuple[str, str] | MailError:
    fix = "It has to return the id of a session, or an access token, as text."
    try:
        found = login.session.renewed() if again else login.session.reveal()
    except MailError as error:
        return SecretError(error.cause, error.fix)
    except Exception as error:  # noqa: BLE001 - a person's words may hold a secret
        return SecretError(f"The function given as session= failed with {type(error).__name__}.", fix)
    if not _SESSION.fullmatch(found):
        return SecretError("The function given as session= returned no session.", fix)
    return found, login.host


def _credentials(login: SalesforceLogin, known: list[str]) -> dict[str, Any]:
    """Return what the library logs in with; *known* gets the secrets among it."""
    host = login.host
    # The token's audience and the path of the login are made of this; where it is sent is the session's to say.
    domain = host.removesuffix(".salesforce.com") if host.endswith(".salesforce.com") else "login"
    given: dict[str, Any] = {"domain": domain}
    if login.way == "jwt":
        key = _private_key(login.key_file).decode("ascii", "replace")
        return given | {"username": login.user, "consumer_key": login.consumer_key, "privatekey": key}
    if login.way == "client":
        known.append(login.consumer_secret.reveal())
        known.append(_coded(f"{login.consumer_key}:{known[0]}"))
        # Elsewhere than at Salesforce's own hosts any name but the common two will do.
        named = domain if domain != "login" else "org"
        return {"domain": named, "consumer_key": login.consumer_key, "consumer_secret": known[0]}
    known.append(login.password.reveal())
    known.append(login.security_token.reveal() if login.security_token is not None else "")
    # The library escapes the password and forgets the token.
    token = html.escape(known[1])
    return given | {"username": login.user, "password": known[0], "security_token": token}


def _login_answer(
    problem: Exception | None, found: Any, login: SalesforceLogin, status: int, known: Iterable[str]
) -> tuple[str, str] | MailError:
    if problem is None:
        identifier, host = found if isinstance(found, tuple) else ("", "")
        if isinstance(identifier, str) and _SESSION.fullmatch(identifier) and isinstance(host, str):
            return identifier, host
        return SourceError(f"{login.host} answered the login with no session.")
    if not hasattr(problem, "auth_message"):
        return _unreachable(problem, login)
    code, said = str(getattr(problem, "code", "") or ""), str(getattr(problem, "auth_message", "") or "")
    if not _CODE.fullmatch(code):
        code = ""
    named = code and not code.isdigit()
    passing = not named or code in _PASSING or status == _TOO_MANY or status in _REDIRECT
    if passing:
        return SourceError(
            f"{login.host} takes no login at present (HTTP {status}{', ' + code if named else ''})."
        )
    words = _quotable(said, known)
    cause = (
        f"{login.host} refuses the login of {login.user or 'the app'}: {code}{': ' + words if words else ''}."
    )
    return SecretError(cause, _LOGIN_FIXES.get(code, _LOGIN_FIX[login.way]))


#: What passes by itself; everything else that a login is refused with is a person's to mend.
_PASSING = frozenset({
    "SERVER_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "UNKNOWN_EXCEPTION", "UNKNOWN_EXCEPTION_CODE",
    "temporarily_unavailable", "server_error", "unavailable", "unknown_error",
})  # fmt: skip
_LOGIN_FIX: Mapping[str, str] = {
    "password": "Check user, password and security token; a new password has a new token.",
    "jwt": "Check the consumer key, the user, that the app has the key's certificate, and that it may log this user in.",
    "client": "Check the consumer key and secret, and that the app's client credentials flow has a user to run as.",
    "session": "Give a session that holds.",
}
_LOGIN_FIXES: Mapping[str, str] = {
    "LOGIN_MUST_USE_SECURITY_TOKEN": f"Give the security token too: {TOKEN_VARIABLE} in the environment.",
    "PASSWORD_LOCKOUT": "Wait until the lock ends, or have an administrator unlock the user.",
    "INVALID_OPERATION": "SOAP's login() is switched off there: log in with a consumer key instead.",
    "API_DISABLED_FOR_ORG": "The org's edition has no API: ask Salesforce.",
}


# ----------------------------------------------------------------------------- what an error means


def _unreachable(problem: Exception, login: SalesforceLogin) -> MailError:
    """Return what went wrong on the way: one sentence, without the words of the library, which may hold the request."""
    import requests

    host = login.host
    if isinstance(problem, requests.exceptions.SSLError):
        fix = "Give ca_file= if the org, or a proxy on the way, has a certificate of your own authority."
        return SourceError(f"The certificate of {host} is not one that can be verified.", fix)
    if isinstance(problem, requests.exceptions.ProxyError):
        return SourceError(
            f"The proxy on the way to {host} does not let it through.",
            "Check HTTPS_PROXY, or give SalesforceLogin(…, proxy=False).",
        )
    if isinstance(problem, requests.exceptions.Timeout):
        return SourceError(f"{host} did not answer within {login.timeout:g} s.")
    if isinstance(problem, ValueError) and not isinstance(problem, requests.exceptions.InvalidURL):
        return SourceError(f"{host} answered with something else than data; it may be under maintenance.")
    if isinstance(problem, requests.exceptions.RequestException):
        return SourceError(f"{host} cannot be reached, or ended the answer early.")
    if isinstance(problem, OSError):
        return SettingsError(
            "The certificates to trust cannot be read.", "ca_file= or REQUESTS_CA_BUNDLE names a PEM file."
        )
    return SourceError(f"{host} answered in a way that is not understood ({type(problem).__name__}).")


def _first_error(content: Any, known: Iterable[str]) -> tuple[str, str]:
    """Return the code and the words of an answer that is an error; both are the server's, so neither is believed."""
    first = content[0] if isinstance(content, list) and content else content
    if not isinstance(first, Mapping):
        return "", ""
    code, said = first.get("errorCode"), first.get("message")
    return (
        code if isinstance(code, str) and _CODE.fullmatch(code) else "",
        _quotable(said, known) if isinstance(said, str) else "",
    )


def _told(code: str, said: str, status: int) -> MailError:
    """Return the error that an answer is: one that passes, or one that somebody has to mend."""
    words = f"{code}{': ' + said if said else ''}"
    if code == "INVALID_QUERY_LOCATOR":
        return PageError("The org has forgotten the rest of an answer.")
    if code == "QUERY_TIMEOUT":
        return SourceError(
            "The org gave the query up because it took too long.",
            "Narrow where= to fields that have an index.",
        )
    if status in _REDIRECT:
        return SourceError(f"The org sends elsewhere (HTTP {status}); it may be under maintenance.")
    if status >= _SERVER_ERROR or status == _TOO_MANY or code in _PASSING or not code:
        return SourceError(
            f"The org is out of order at present (HTTP {status}{', ' + code if code else ''})."
        )
    if code in _QUERY:
        return SettingsError(f"The org does not understand the query: {words.rstrip('.')}.", _QUERY[code])
    if code in _RIGHTS:
        return SettingsError(
            f"The org does not let this user do that: {words.rstrip('.')}.",
            "Ask an administrator for the right.",
        )
    return SourceError(f"The org refused: {words.rstrip('.')}.")


_QUERY: Mapping[str, str] = {
    "MALFORMED_QUERY": "Check where=.",
    "INVALID_FIELD": "Check fields=, where= and the template; the user also needs the right to see each field.",
    "INVALID_TYPE": "Check the object's API name; the user also needs the right to read it.",
    "QUERY_TOO_COMPLICATED": "Ask for fewer fields, or shorten where=.",
    "INVALID_QUERY_FILTER_OPERATOR": "Check where=.",
    "MALFORMED_ID": "Check where=.",
}
_RIGHTS = frozenset({
    "API_CURRENTLY_DISABLED", "API_DISABLED_FOR_ORG", "INSUFFICIENT_ACCESS", "INSUFFICIENT_ACCESS_OR_READONLY",
    "FORBIDDEN",
})  # fmt: skip


def _known(login: SalesforceLogin, client: Salesforce | None) -> list[str]:
    """Return the secrets that are known at present, so that no words of a server repeat one."""
    secrets = [getattr(login, field) for field in _SECRETS]
    found = [secret.reveal() for secret in secrets if secret is not None and secret.known]
    return [*found, str(getattr(client, "session_id", ""))]


def _coded(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "replace")).decode().rstrip("=")


def _quotable(text: str, known: Iterable[str]) -> str:
    """Return a server's words on one line, or "" where they repeat a secret in any form."""
    if _SIGNED.search(text):
        return ""
    for secret in known:
        forms = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), html.escape(secret)}
        forms |= {json.dumps(secret)[1:-1], repr(secret)[1:-1], _coded(secret)}
        if len(secret) >= _SHORTEST_SECRET and any(form in text for form in forms):
            return ""
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words[:_MOST_QUOTED].rstrip(".")
