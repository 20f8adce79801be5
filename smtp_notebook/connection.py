"""Which server, how secured, who logs in, within which limits; and the secret, apart from all that.

`Connection` is frozen and holds no secret, only a `Secret`: where it comes from. The notebook's default
connection is the one piece of state in a module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import ipaddress
import json
import os
import re
import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import quote, unquote, urlsplit

from smtp_notebook import oauth as oauths
from smtp_notebook import providers
from smtp_notebook.addresses import Address, shortened
from smtp_notebook.mime import tag
from smtp_notebook.oauth import OAuth
from smtp_notebook.outcome import AddressError, OptionError, SecretError, SettingsError
from smtp_notebook.rate import parse_rates
from smtp_notebook.signing import ROOM, Dkim, dkims

if TYPE_CHECKING:
    from smtp_notebook.checkup import Checkup

__all__ = [
    "ASKED",
    "Connection",
    "Secret",
    "asked_secret",
    "check_name",
    "current",
    "drop_secret",
    "environment_secret",
    "forget",
    "from_environment",
    "keep_secret",
    "kept_secret",
    "preset",
    "read_saved",
    "saved",
    "saved_names",
    "set_current",
    "typed_password",
    "without_password",
    "write_saved",
]

Security = Literal["starttls", "tls", "plain"]
PASSWORD_VARIABLE = "SMTP_NOTEBOOK_PASSWORD"  # noqa: S105 - a variable's name
URL_VARIABLE = "SMTP_NOTEBOOK_URL"
_SCHEMES: Mapping[str, tuple[Security, int]] = {
    "smtp": ("starttls", 587),
    "smtps": ("tls", 465),
    "smtp+plain": ("plain", 25),
}
_SERVICE = "smtp-notebook"
#: Names that a saved connection may not hide: the sandbox, and the large providers.
RESERVED = frozenset({"sandbox", *providers.NAMES})
_FILE = "connections.json"
_TAG = "{id}"
_SAVED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MAX_PORT = 65535
_SAFE_WAYS = (
    f"Set {PASSWORD_VARIABLE} in the environment, save the connection once (its password then lies in the "
    "system's keyring), or give a function: password=lambda: ….."
).replace("…..", "….")


#: What was typed is kept by the notebook, by IPython's history and by the front end's undo.
_CHANGE_IT = "Change that password too: what was typed stands in the notebook and in its history already."
#: Where a secret comes from that nobody named.
ASKED = "the keyring or a prompt"


# -------------------------------------------------------------------------------------------- secret

#: Where a secret lies, for another process: a variable, a variable that holds a URL, or the keyring's account. Of a URL
#: also what it says besides: the password of another server is none of this one's.
Reference = tuple[Literal["environment", "url", "keyring"], str, str]


class Secret:
    """Where a password comes from; shows it nowhere.

    It is absent from ``repr``, ``str``, copies and pickles; `Connection.resolve_secret` reads it. A copy of one that lies
    in the environment or in the keyring knows where, and looks there in its own process.
    """

    __slots__ = ("_source", "_value", "origin", "reference", "ways")

    def __init__(
        self,
        source: Callable[[], str],
        origin: str,
        ways: str = _SAFE_WAYS,
        reference: Reference | None = None,
    ) -> None:
        self._source: Callable[[], str] | None = source
        self._value: str | None = None
        self.origin = origin
        self.ways = ways
        #: Where another process finds it, which a copy looks up there; None where there is no such place.
        self.reference = reference

    def reveal(self) -> str:
        """Return the password; found once, then kept in this object alone.

        Raises:
            SecretError: It cannot be had here.
        """
        if self._value is None:
            if self._source is None:
                raise SecretError("This connection was copied to where its password is not known.", self.ways)
            value = self._source()
            if not isinstance(value, str) or not value:
                del value  # a traceback may show the variables of its frames
                raise SecretError(f"The password from {self.origin} is empty or no text.", self.ways)
            self._value = value
        return self._value

    def renewed(self) -> str:
        """Ask the source again, as for a token that expires, and return what it gives now.

        Raises:
            SecretError: It cannot be had here.
        """
        if self._source is not None:
            self._value = None
        return self.reveal()

    @property
    def known(self) -> bool:
        """Whether it was found already."""
        return self._value is not None

    def __repr__(self) -> str:
        return f"<Secret from {self.origin}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle may lie on a disk or cross a network: it carries where, never what.
        return (_copied_secret, (self.origin, self.ways, self.reference))


def _copied_secret(origin: str, ways: str = _SAFE_WAYS, reference: Reference | None = None) -> Secret:
    """Return the copy of a Secret, which is looked up anew, where this process can."""
    secret = Secret(str, origin, ways, reference)
    secret._source = None if reference is None else functools.partial(_looked_up, reference)  # noqa: SLF001 - the same module's object
    return secret


def _looked_up(reference: Reference) -> str:
    kind, name, shown = reference
    if kind == "keyring":
        return kept_secret(name) or ""
    value = os.environ.get(name, "")
    if kind == "url":
        bare, secret = without_password(value.strip(), name)
        return secret.reveal() if secret is not None and bare == shown else ""
    return value


def environment_secret(variable: str, ways: str = _SAFE_WAYS) -> Secret | None:
    """Return what an environment variable holds as a Secret, or None where it is not set."""
    if not os.environ.get(variable):
        return None
    reference: Reference = ("environment", variable, "")
    return Secret(
        lambda: os.environ.get(variable, ""), f"the environment variable {variable}", ways, reference
    )


def _keyring_user(connection: Connection) -> str:
    return f"{connection.user}@{connection.host}:{connection.port}"


def kept_secret(account: str) -> str | None:
    """Return what the keyring keeps for an account of this package, or None when there is none or no keyring."""
    import keyring
    from keyring.errors import KeyringError

    try:
        return keyring.get_password(_SERVICE, account)
    except KeyringError:
        return None


def keep_secret(account: str, secret: str, variable: str) -> None:
    """Keep a secret in the keyring.

    Raises:
        SecretError: There is no keyring that keeps one; names *variable* as another way.
    """
    import keyring
    from keyring.errors import KeyringError

    try:
        keyring.set_password(_SERVICE, account, secret)
        kept = keyring.get_password(_SERVICE, account) == secret
    except KeyringError:
        kept = False
    if not kept:
        del secret
        cause = "The password could not be saved: this system has no keyring that keeps one."
        raise SecretError(cause, f"Set {variable} in the environment where the notebook runs instead.")


def drop_secret(account: str) -> None:
    """Remove what the keyring keeps for an account; nothing happens when there is nothing."""
    import keyring
    from keyring.errors import KeyringError

    with contextlib.suppress(KeyringError):
        keyring.delete_password(_SERVICE, account)


def asked_secret(question: str, cause: str, ways: str = _SAFE_WAYS) -> str:
    """Ask the person, where somebody can answer.

    Raises:
        SecretError: Nobody can: *cause* says what for, *ways* what to do instead.
    """
    import getpass
    import sys

    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    asks = getattr(shell, "kernel", None) is not None or (sys.stdin is not None and sys.stdin.isatty())
    if asks:
        # A kernel that nobody can type to (nbclient, papermill) raises StdinNotImplementedError.
        with contextlib.suppress(EOFError, OSError, RuntimeError, NotImplementedError):
            return getpass.getpass(f"{question}: ")
    raise SecretError(cause, ways)


def _prompt(connection: Connection) -> str:
    cause = (
        f"The login of {connection.user} at {connection.host} needs a password, and nobody can be asked here."
    )
    return asked_secret(connection.asks_for, cause)


# ---------------------------------------------------------------------------------------- connection


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Connection:
    """One SMTP server and how it is used. Frozen, and without its secret.

    Attributes:
        host: Its name or address.
        port: Its port.
        security: ``starttls`` (required, port 587), ``tls`` (from the first byte, 465) or ``plain``
            (neither, 25; login refused except to loopback). RFC 8314.
        user: Who logs in; "" for no login.
        secret: Where the password comes from.
        oauth: How the user signs in instead of with a password: a `GoogleOAuth`, a `MicrosoftOAuth`, or a function
            that returns an access token and is called for each new connection, in a worker thread.
        name: The name it is saved under, or "".
        sender: The From of mails that name none.
        envelope_from: Where bounces go (MAIL FROM): an address instead of From's, or "". ``{id}`` in its local part,
            as in ``bounces+{id}@example.org``, becomes a tag of the mail, so that each bounce says which one it is
            about (VERP); the mailbox has to take such addresses. `read_bounces` finds the mail again by it.
        ca_file: A PEM file with the authorities to trust instead of the system's.
        timeout: Seconds that a command may take.
        dot_timeout: Seconds that the reply to a whole mail may take (RFC 5321, 4.5.3.2.6).
        local_hostname: What EHLO says; an address literal by default.
        max_connections: How many are open at once, at most. A merge begins with four and takes more where mails are not
            held up by it, fewer where the server refuses some; `Report.tuning` says what it came to.
        messages_per_connection: After how many mails a connection is replaced.
        rate: At most how fast, shared by all connections: ``"30/min"``, ``"100 recipients/min"``, or several as
            ``"30/min, 2000/day"`` or a tuple; windows up to a minute are paced evenly, longer ones are
            sliding caps; empty for no limit.
        attempts: Transactions per mail before a temporary refusal is final for this run.
        notify: When the servers on the way shall report, where this one can pass that on (RFC 3461): ``failure``,
            ``delay``, ``success`` in any combination, separated by commas, or ``never``; "" leaves it to them.
        max_message_bytes: The largest mail that is tried, in bytes as encoded; 25 MiB by default.
        redirect_to: Where every mail goes instead of to its recipients, or "".
        allow: Domains and addresses that may be mailed; empty for all.
        dkim: One `Dkim` or several: each mail is signed with these keys here (RFC 6376). Leave it empty where the server
            signs, as those of mailbox providers do.
        practice: Whether the server catches mail instead of delivering it.
        sandbox: Whether it is the sandbox of this process.
    """

    host: str
    port: int
    security: Security = "starttls"
    user: str = ""
    secret: Secret | None = dataclasses.field(default=None, compare=False)
    oauth: OAuth | None = None
    name: str = ""
    sender: str = ""
    envelope_from: str = ""
    ca_file: str = ""
    timeout: float = 60.0
    dot_timeout: float = 600.0
    local_hostname: str = ""
    max_connections: int = 4
    messages_per_connection: int = 100
    rate: str | tuple[str, ...] = ()
    attempts: int = 3
    notify: str = ""
    max_message_bytes: int = 25 * 2**20
    redirect_to: str = ""
    allow: tuple[str, ...] = ()
    dkim: Dkim | tuple[Dkim, ...] = ()
    practice: bool = False
    sandbox: bool = False

    def __post_init__(self) -> None:
        allow = (self.allow,) if isinstance(self.allow, str) else tuple(self.allow)
        object.__setattr__(self, "allow", tuple(a.strip() for a in allow))
        object.__setattr__(self, "dkim", dkims(self.dkim))
        object.__setattr__(self, "rate", tuple(map(str, parse_rates(self.rate))))
        _check_host(self.host)
        if self.security not in get_args(Security):
            raise SettingsError(f"security={self.security!r} is none of {', '.join(get_args(Security))}.")
        _check_number("port", self.port, 1, _MAX_PORT)
        if self.secret is not None and not isinstance(self.secret, Secret):
            raise typed_password("A password stands in the cell")
        for name in ("max_connections", "messages_per_connection", "attempts", "max_message_bytes"):
            _check_number(name, getattr(self, name), 1, 2**40)
        for name in ("timeout", "dot_timeout"):
            _check_seconds(name, getattr(self, name))
        object.__setattr__(self, "notify", _notify(self.notify))
        for name in ("sender", "redirect_to"):
            _check_address(name, getattr(self, name))
        object.__setattr__(self, "envelope_from", _envelope_from(self.envelope_from))
        if not re.fullmatch(r"[!-~]*", self.local_hostname):
            cause = f"local_hostname={shortened(self.local_hostname)} is no name that EHLO could say."
            raise SettingsError(cause, "Leave it out, or give this machine's name in ASCII.")
        if re.search(r"[\x00-\x20\x7f]", self.user):
            raise SettingsError(
                f"The user {shortened(self.user)} has a blank or control character in it.", "Check the URL."
            )
        object.__setattr__(self, "oauth", oauths.as_oauth(self.oauth))
        if self.oauth is not None and not self.user:
            raise SettingsError(
                "oauth= signs a user in, and none is named.", "Give user= or smtp://user@host."
            )
        if self.user and self.security == "plain" and not self.is_loopback:
            what = "password" if self.oauth is None else "token"
            cause = f"A login over smtp+plain would send the {what} of {self.user} to {self.host} in clear."
            raise SettingsError(cause, "Use smtp:// (STARTTLS) or smtps://.")

    @classmethod
    def from_url(cls, url: str, **settings: Any) -> Connection:
        """Return the Connection of a URL such as ``smtp://ann%40example.com@mail.example.com:587``.

        Args:
            url: Scheme ``smtp``, ``smtps`` or ``smtp+plain``; the user percent-encoded where it has an @.
            **settings: Further attributes; ``password=`` takes a function.

        Raises:
            SettingsError: An unknown scheme or setting, no host, a bad port, or a password in clear.
        """
        return _from_url(url, settings, secret=None)

    def with_(self, **changes: Any) -> Connection:
        """Return a copy with some attributes changed."""
        return _built({f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, changes)

    @property
    def url(self) -> str:
        """Its URL, without a secret."""
        scheme = next(s for s, (security, _) in _SCHEMES.items() if security == self.security)
        user = f"{quote(self.user, safe='@')}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{user}{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine: ``localhost`` or a loopback address."""
        if self.host.lower().rstrip(".") == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def scope(self) -> str:
        """Where mails go by it, as a journal tells servers apart: ``real:host`` or ``loopback:host``."""
        return f"{'loopback' if self.is_loopback else 'real'}:{self.host}"

    @property
    def provider(self) -> str:
        """The provider whose server it is, as `connect()` names it, or ""."""
        found = providers.at(self.host)
        return found.name if found is not None else ""

    @property
    def asks_for(self) -> str:
        """What a person is asked for: whose password, where, and what that means at a provider."""
        found = providers.at(self.host)
        meant = f" ({found.password})" if found is not None else ""
        return f"Password of {self.user} at {self.host}{meant}"

    @property
    def signers(self) -> tuple[Dkim, ...]:
        """Who signs each mail here; see *dkim*."""
        return dkims(self.dkim)

    @property
    def signature_bytes(self) -> int:
        """How many octets of a mail its signatures take at most."""
        return ROOM * len(self.signers)

    @property
    def envelope_domain(self) -> str:
        """The domain of ``envelope_from`` as an A-label, which SPF is asked about (RFC 7208, 2.4); "" where From's is used."""
        return self.envelope_from.rpartition("@")[2]

    def envelope_sender(self, sender: str, message_id: str) -> str:
        """Return MAIL FROM of a mail: *sender*, From's address, unless ``envelope_from`` names another.

        Both are in wire form, *message_id* with its angle brackets.
        """
        if not self.envelope_from:
            return sender
        return (
            self.envelope_from.replace(_TAG, tag(message_id))
            if _TAG in self.envelope_from
            else self.envelope_from
        )

    def allows(self, address: str) -> bool:
        """Tell whether *address*, in its wire form, may be mailed."""
        if not self.allow:
            return True
        wanted = _folded(address)
        return any(
            wanted == _folded(entry)
            or ("@" not in entry.lstrip("@") and wanted.endswith(f"@{_domain(entry)}"))
            for entry in self.allow
        )

    def tls_context(self) -> ssl.SSLContext:
        """Return the TLS settings: certificate and name verified, TLS 1.2 or newer (RFC 8314).

        Raises:
            SettingsError: ``ca_file`` cannot be read.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
        except OSError as error:
            cause = f"The file {self.ca_file!r} holds no certificates that can be read: {error.strerror or error}."
            raise SettingsError(cause, "ca_file= names a PEM file.") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def resolve_secret(self) -> str:
        """Return the password: the given function's, the environment's, the keyring's, or a typed one.

        May prompt, so it runs on the thread of the person's cell. Found once, then kept in memory. With ``oauth`` it
        is "", once somebody is signed in: each new connection asks for a token of its own.

        Raises:
            SecretError: There is none to be had here; says which ways there are.
        """
        if self.oauth is not None:
            oauths.bearer(self.oauth, self.user).sign_in()
            return ""
        if self.secret is None:
            account = _keyring_user(self)
            secret = environment_secret(PASSWORD_VARIABLE) or Secret(
                lambda: kept_secret(account) or _prompt(self), ASKED, reference=("keyring", account, "")
            )
            object.__setattr__(
                self, "secret", secret
            )  # where it comes from, found late; equality and repr ignore it
        assert self.secret is not None
        return self.secret.reveal()

    def knows_secret(self) -> bool:
        """Tell whether `resolve_secret` answers without asking a person, or no login is wanted.

        What the environment or the keyring says is kept, as there. A form asks this before it sends: nothing can
        prompt while a click is handled.
        """
        if self.oauth is not None:
            return oauths.bearer(self.oauth, self.user).known
        asks = self.secret is None or (self.secret.origin == ASKED and not self.secret.known)
        if not self.user or not asks:
            return True
        found = environment_secret(PASSWORD_VARIABLE)
        if found is None and (kept := kept_secret(_keyring_user(self))):
            found = Secret(lambda: kept, "the keyring", reference=("keyring", _keyring_user(self), ""))
        if found is not None:
            object.__setattr__(self, "secret", found)  # as in resolve_secret
        return found is not None

    def check(self, sender: str = "") -> Checkup:
        """Try the server as a send would, up to its recipients, and return each step; nobody is mailed.

        Args:
            sender: Whose mail it would be; by default `sender`, or the user where that is an address.

        Looks the name up, connects, secures, logs in once, and asks whether the sender may send (MAIL, then RSET). A
        password is found as by `connect`, so this may prompt. Each step takes at most `timeout` seconds. What fails is
        a step of the result, with its fix; `Checkup.raise_for_failure` makes it an error.

        Raises:
            AddressError: *sender* is none.
        """
        from smtp_notebook import checkup

        return checkup.check(self, sender)

    async def acheck(self, sender: str = "") -> Checkup:
        """Do what `check` does, awaited."""
        from smtp_notebook import checkup

        return await checkup.acheck(self, sender)

    def save(self, name: str) -> Connection:
        """Keep these settings under *name*, and the password in the system's keyring alone.

        With ``oauth`` the person is signed in first; the sign-in is kept in the keyring where there is one, and
        asked for again in each new process where there is none.

        Returns:
            The saved Connection, which `connect(name)` finds again.

        Raises:
            SettingsError: The name is taken by a provider or the sandbox, or is no name; or ``oauth`` is a function.
            SecretError: There is a password and no keyring to keep it; nothing was saved.
        """
        if name.lower() in RESERVED:
            raise SettingsError(f"The name {name!r} is reserved.", "Choose another, such as 'work'.")
        check_name(name)
        if self.sandbox:
            raise SettingsError(
                "The sandbox ends with this process, so it cannot be saved.",
                'connect("sandbox") always works.',
            )
        kept = self.with_(name=name)
        settings = _settings(kept)
        if self.user:
            password = self.resolve_secret()
            if self.oauth is None:
                keep_secret(_keyring_user(self), password, PASSWORD_VARIABLE)
        everything = read_saved()
        everything[name] = settings
        write_saved(everything)
        return kept

    def __repr__(self) -> str:
        if self.sandbox:
            return f"<Connection sandbox at {self.host}:{self.port}: nothing leaves this machine>"
        return f"<Connection {self.name + ': ' if self.name else ''}{self.url}>"


def _from_url(url: str, settings: Mapping[str, Any], secret: Secret | None) -> Connection:
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        raise SettingsError(
            f"A server's URL begins with {', '.join(s + '://' for s in _SCHEMES)}.",
            "smtp://user@mail.example.com is one.",
        )
    # The login first: a slash or a hash in a password that nobody encoded must not show it in an error.
    login, _, place = rest.rpartition("@")
    user, colon, password = login.partition(":")
    if colon and password and secret is None:
        raise typed_password("A password stands in the URL")
    place, slash, path = place.partition("/")
    if (slash and path) or re.search(r"[?#\s]", place) or re.search(r"[/?#\s]", user):
        raise SettingsError(
            "A server's URL ends with the port.", "Give settings by name: connect(url, timeout=30)."
        )
    security, port = _SCHEMES[scheme.lower()]
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname or "", parts.port or port
    except ValueError:
        # What stands behind a colon may be a password whose @ was encoded: it is not repeated.
        raise SettingsError(
            f"{shortened(place.partition(':')[0])} is followed by no port.", "Write mail.example.com:587."
        ) from None
    base = {"host": host, "port": port, "security": security, "user": unquote(user), "secret": secret}
    return _built(base, settings)


def typed_password(what: str, ways: str = _SAFE_WAYS) -> SettingsError:
    """Return what is said wherever somebody typed a password; it never repeats what was typed."""
    return SettingsError(f"{what}, where every reader of the notebook would see it.", f"{ways} {_CHANGE_IT}")


def _built(base: dict[str, Any], settings: Mapping[str, Any]) -> Connection:
    """Return a Connection of *base* and *settings*, which a person typed."""
    names = {f.name for f in dataclasses.fields(Connection)}
    given = dict(settings)
    if "password" in given:
        source = given.pop("password")
        if not callable(source):
            del source, given, settings
            raise typed_password("A password stands in the cell")
        if (base | given).get("oauth") is not None:
            raise SettingsError("password= and oauth= are two ways to log in.", "Give one of them.")
        base = base | {"secret": Secret(source, "the function given as password=")}
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, [*names, "password"], n=1, cutoff=0.4)
            fix = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(sorted(names))}."
            raise OptionError(f"A connection has no setting {name!r}.", fix)
    return Connection(**(base | given))


# --------------------------------------------------------------------------------------- the checks


def check_name(name: str) -> None:
    """Refuse what is no name under which settings could be saved."""
    if not _SAVED_NAME.fullmatch(name):
        raise SettingsError(
            f"{shortened(name)} is no name for a connection.", "Use letters, digits, - _ and dots."
        )


def _check_host(host: str) -> None:
    if not host or re.search(r"[\x00-\x20\x7f/@]", host):
        raise SettingsError(
            f"{shortened(host)} is no host." if host else "The URL names no host.",
            "Write smtp://mail.example.com.",
        )


def _check_number(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise SettingsError(f"{name}={value!r} is no whole number from {least} to {most:,}.")


def _check_seconds(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise SettingsError(f"{name}={value!r} is no number of seconds above 0.")


def _notify(value: str) -> str:
    """Return the parameter NOTIFY of RFC 3461, 4.1; never stands alone."""
    words = [w.strip().upper() for w in value.split(",") if w.strip()]
    if not set(words) <= {"NEVER", "SUCCESS", "FAILURE", "DELAY"} or ("NEVER" in words and len(words) > 1):
        cause = f"notify={shortened(value)} is no wish for reports."
        raise SettingsError(cause, 'Give "failure, delay", "success", or "never" alone.')
    return ",".join(dict.fromkeys(words))


def _check_address(name: str, value: str) -> None:
    if value:
        try:
            Address.parse(value)
        except AddressError as error:
            raise SettingsError(f"{name}: {error.cause}", error.fix) from None


def _envelope_from(value: str) -> str:
    """Return where bounces go, in wire form but for its ``{id}``.

    The tag is 33 characters long, and a local part has at most 64 octets (RFC 5321, 4.5.3.1.1).
    """
    text = value.strip()
    if not text:
        return ""
    example = 'Give "bounces@example.org", or "bounces+{id}@example.org".'
    local, _, domain = text.rpartition("@")
    if local.count(_TAG) > 1 or re.search(r"[{}]", local.replace(_TAG, "") + domain):
        raise SettingsError(
            f"envelope_from: in {shortened(text)} only one {_TAG} may stand, before the @.", example
        )
    try:
        made = Address.parse(f"{local.replace(_TAG, tag('<x@example.org>'))}@{domain}")
    except AddressError as error:
        raise SettingsError(f"envelope_from: {error.cause}", f"{error.fix} {example}".strip()) from None
    if made.display_name or not made.local.isascii():
        cause = f"envelope_from: {shortened(text)} is no address that every server can send to."
        raise SettingsError(cause, example)
    return f"{local}@{made.wire.rpartition('@')[2]}"


def _folded(address: str) -> str:
    """Return an address for comparing: its wire form, case folded."""
    try:
        return Address.parse(address).wire.casefold()
    except AddressError:
        return address.casefold()


def _domain(entry: str) -> str:
    return _folded(f"x@{entry.lstrip('@')}").partition("@")[2]


# ---------------------------------------------------------------------------------- saved and default


def _folder() -> Path:
    import platformdirs

    return Path(
        os.environ.get("SMTP_NOTEBOOK_CONFIG")
        or platformdirs.user_config_dir("smtp-notebook", appauthor=False)
    )


def _settings(connection: Connection) -> dict[str, Any]:
    """Return what is saved: every setting but the secret."""
    every = {f.name: getattr(connection, f.name) for f in dataclasses.fields(connection)}
    every["oauth"] = None if connection.oauth is None else oauths.as_json(connection.oauth)
    every["dkim"] = [_saved_dkim(each) for each in connection.signers]
    return {
        k: list(v) if isinstance(v, tuple) else v
        for k, v in every.items()
        if k not in {"secret", "sandbox", "name"}
    }


def _saved_dkim(settings: Dkim) -> dict[str, str]:
    """Return what is saved: where the key lies, whatever folder it is read from; never the key."""
    path = str(Path(settings.key_file).expanduser().absolute())
    return {"domain": settings.domain, "selector": settings.selector, "key_file": path}


def differing(connection: Connection) -> dict[str, Any]:
    """Return the settings that the connection's URL does not say and that are not the usual ones; never a secret."""
    usual = {f.name: f.default for f in dataclasses.fields(connection)}
    told = {"secret", "sandbox", "name", "host", "port", "security", "user"}
    every = {name: getattr(connection, name) for name in usual}
    return {name: value for name, value in every.items() if name not in told and value != usual[name]}


def read_saved(file: str = _FILE) -> dict[str, Any]:
    """Return what is saved in one of the files of this person's settings, by name.

    Raises:
        SettingsError: The file cannot be read.
    """
    path = _folder() / file
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"The saved connections in {str(path)!r} cannot be read: {error}.", "Mend or remove that file."
        ) from None
    if not isinstance(found, dict):
        raise SettingsError(
            f"The file {str(path)!r} holds no saved connections.", "Mend or remove that file."
        )
    return found


def write_saved(everything: Mapping[str, Any], file: str = _FILE) -> None:
    """Replace the file in one step, readable by its owner alone."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".connections-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as written:
        json.dump(everything, written, indent=2, ensure_ascii=False)
        written.flush()
        os.fsync(written.fileno())
    Path(temporary).replace(folder / file)


def saved(name: str) -> Connection:
    """Return the Connection saved under *name*; its password is looked up when it is needed.

    Raises:
        SettingsError: There is none; names those that there are.
    """
    # It must not be repeated by the sentence below.
    if re.search(r":[^@]+@", name):
        raise typed_password("This looks like a server's URL without its scheme, and a password stands in it")
    everything = read_saved()
    if name not in everything:
        known = ", ".join(map(repr, sorted(everything))) or "none"
        near = difflib.get_close_matches(name, everything, n=1)
        fix = (
            f"Did you mean {near[0]!r}?"
            if near
            else 'Give a URL such as smtp://user@mail.example.com, or "sandbox".'
        )
        raise SettingsError(f"No connection is saved as {shortened(name)}; saved are: {known}.", fix)
    return _built({"name": name}, everything[name])


def preset(provider: providers.Provider, settings: Mapping[str, Any]) -> Connection:
    """Return the Connection of a provider; *settings* win over what the provider documents.

    Raises:
        SettingsError: The user or the region is missing, or no such region; says what goes there.
        OptionError: A setting that does not exist.
    """
    given = dict(settings)
    region = given.pop("region", "") if provider.has_regions else ""
    host = provider.host_in(region) if isinstance(region, str) else ""
    name = provider.name
    if not host:
        known = " or ".join(f"region={r!r}" for r in provider.regions) or "region='eu-central-1'"
        raise SettingsError(
            f"{provider.title} has another server in each region.", f"Give {known}, or another."
        )
    user = given.get("user") or provider.fixed_user
    if not user:
        raise SettingsError(
            f"{provider.title} needs a user: {provider.user}.", f'connect("{name}", user="…") names it.'
        )
    limits = {
        setting: value
        for setting in ("max_connections", "messages_per_connection", "max_message_bytes")
        if (value := getattr(provider, setting)) is not None
    }
    base = {"host": host, "port": provider.port, "security": provider.security, "user": user, **limits}
    base["rate"] = provider.rate_of(user)
    if provider.user_is_sender and "@" in user:
        base["sender"] = user
    return _built(base, given)


def saved_names() -> list[str]:
    """Return the names of the saved connections."""
    return sorted(read_saved())


def forget(name: str) -> None:
    """Remove a saved connection and its password; nothing happens when there is none."""
    everything = read_saved()
    if name not in everything:
        return
    kept = everything.pop(name)
    try:
        connection = _built({"name": name}, kept)
    except (SettingsError, OptionError, TypeError):
        write_saved(everything)  # whatever it was, it can be removed
        return
    if connection.oauth is not None:
        own = (kept.get("oauth"), connection.user)
        others = [
            (each.get("oauth"), each.get("user")) for each in everything.values() if isinstance(each, dict)
        ]
        if own not in others:
            with contextlib.suppress(SettingsError):  # the client's file may be gone
                oauths.bearer(connection.oauth, connection.user).forget()
    elif connection.user:
        drop_secret(_keyring_user(connection))
    write_saved(everything)


def from_environment(environ: Mapping[str, str]) -> Connection | None:
    """Return the Connection of ``SMTP_NOTEBOOK_URL``, or None.

    The environment is no notebook: its URL may hold a password.
    """
    bare, secret = without_password(environ.get(URL_VARIABLE, "").strip(), URL_VARIABLE)
    del environ  # a traceback may show the variables of its frames
    if not bare:
        return None
    try:
        return _from_url(bare, {}, secret)
    except SettingsError as error:
        raise SettingsError(f"{URL_VARIABLE}: {error.cause}", error.fix) from None


def without_password(url: str, variable: str, ways: str = _SAFE_WAYS) -> tuple[str, Secret | None]:
    """Return the URL of an environment variable without its password, and that as a Secret."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    login, at, place = rest.rpartition("@")
    user, _, password = login.partition(":")
    if not password:
        return url, None
    known = functools.partial(unquote, password)
    bare = f"{scheme}{separator}{user}{at}{place}"
    return bare, Secret(known, f"the environment variable {variable}", ways, ("url", variable, bare))


_current: Connection | None = None


def current() -> Connection | None:
    """Return the notebook's default, which `connect()` named, or None."""
    return _current


def set_current(connection: Connection | None) -> None:
    """Make *connection* the notebook's default; None takes it away."""
    global _current  # noqa: PLW0603 - the one piece of module state, see ARCHITECTURE.md
    _current = connection
