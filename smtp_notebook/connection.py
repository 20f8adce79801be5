"""Which server, how secured, who logs in, within which limits; and the secret, apart from all that.

`Connection` is frozen and holds no secret, only a `Secret`: where it comes from. The notebook's default
connection is the one piece of state in a module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import ipaddress
import json
import os
import re
import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args
from urllib.parse import quote, unquote, urlsplit

from smtp_notebook.addresses import Address, shortened
from smtp_notebook.outcome import AddressError, OptionError, SecretError, SettingsError
from smtp_notebook.rate import parse_rates

__all__ = [
    "Connection",
    "Secret",
    "current",
    "forget",
    "from_environment",
    "saved",
    "saved_names",
    "set_current",
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
RESERVED = frozenset(
    [
        "sandbox",
        "gmail",
        "google",
        "outlook",
        "office365",
        "microsoft365",
        "yahoo",
        "icloud",
        "fastmail",
        "ses",
        "sendgrid",
        "mailgun",
        "postmark",
        "mailjet",
        "brevo",
    ]
)
_SAVED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MAX_PORT = 65535
_SAFE_WAYS = (
    f"Set {PASSWORD_VARIABLE} in the environment, save the connection once (its password then lies in the "
    "system's keyring), or give a function: password=lambda: ….."
).replace("…..", "….")


_ASKED = "the keyring or a prompt"


# -------------------------------------------------------------------------------------------- secret


class Secret:
    """Where a password comes from; shows it nowhere.

    It is absent from ``repr``, ``str``, copies and pickles; `Connection.resolve_secret` reads it.
    """

    __slots__ = ("_source", "_value", "origin")

    def __init__(self, source: Callable[[], str], origin: str) -> None:
        self._source: Callable[[], str] | None = source
        self._value: str | None = None
        self.origin = origin

    def reveal(self) -> str:
        """Return the password; found once, then kept in this object alone.

        Raises:
            SecretError: It cannot be had here.
        """
        if self._value is None:
            if self._source is None:
                raise SecretError(
                    "This connection was copied to where its password is not known.", _SAFE_WAYS
                )
            value = self._source()
            if not isinstance(value, str) or not value:
                raise SecretError(f"The password from {self.origin} is empty or no text.", _SAFE_WAYS)
            self._value = value
        return self._value

    @property
    def known(self) -> bool:
        """Whether it was found already."""
        return self._value is not None

    def __repr__(self) -> str:
        return f"<Secret from {self.origin}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle may lie on a disk or cross a network: it carries where, never what.
        return (_unknown_secret, (self.origin,))


def _unknown_secret(origin: str) -> Secret:
    secret = Secret(str, origin)
    secret._source = None  # noqa: SLF001 - the same module's object
    return secret


def _environment_secret() -> Secret | None:
    if not os.environ.get(PASSWORD_VARIABLE):
        return None
    return Secret(
        lambda: os.environ.get(PASSWORD_VARIABLE, ""), f"the environment variable {PASSWORD_VARIABLE}"
    )


def _keyring_user(connection: Connection) -> str:
    return f"{connection.user}@{connection.host}:{connection.port}"


def _from_keyring(connection: Connection) -> str | None:
    """Return the keyring's password for this login, or None when there is none or no keyring."""
    import keyring
    from keyring.errors import KeyringError

    try:
        return keyring.get_password(_SERVICE, _keyring_user(connection))
    except KeyringError:
        return None


def _to_keyring(connection: Connection, password: str) -> None:
    import keyring
    from keyring.errors import KeyringError

    try:
        keyring.set_password(_SERVICE, _keyring_user(connection), password)
        kept = keyring.get_password(_SERVICE, _keyring_user(connection)) == password
    except KeyringError:
        kept = False
    if not kept:
        cause = "The password could not be saved: this system has no keyring that keeps one."
        raise SecretError(
            cause, f"Set {PASSWORD_VARIABLE} in the environment where the notebook runs instead."
        )


def _prompt(connection: Connection) -> str:
    """Ask the person, where somebody can answer."""
    import getpass
    import sys

    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    asks = getattr(shell, "kernel", None) is not None or (sys.stdin is not None and sys.stdin.isatty())
    if asks:
        # A kernel that nobody can type to (nbclient, papermill) raises StdinNotImplementedError.
        with contextlib.suppress(EOFError, OSError, RuntimeError, NotImplementedError):
            return getpass.getpass(f"Password of {connection.user} at {connection.host}: ")
    cause = (
        f"The login of {connection.user} at {connection.host} needs a password, and nobody can be asked here."
    )
    raise SecretError(cause, _SAFE_WAYS)


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
        name: The name it is saved under, or "".
        sender: The From of mails that name none.
        ca_file: A PEM file with the authorities to trust instead of the system's.
        timeout: Seconds that a command may take.
        dot_timeout: Seconds that the reply to a whole mail may take (RFC 5321, 4.5.3.2.6).
        local_hostname: What EHLO says; an address literal by default.
        max_connections: How many are open at once.
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
        practice: Whether the server catches mail instead of delivering it.
        sandbox: Whether it is the sandbox of this process.
    """

    host: str
    port: int
    security: Security = "starttls"
    user: str = ""
    secret: Secret | None = dataclasses.field(default=None, compare=False)
    name: str = ""
    sender: str = ""
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
    practice: bool = False
    sandbox: bool = False

    def __post_init__(self) -> None:
        allow = (self.allow,) if isinstance(self.allow, str) else tuple(self.allow)
        object.__setattr__(self, "allow", tuple(a.strip() for a in allow))
        object.__setattr__(self, "rate", tuple(map(str, parse_rates(self.rate))))
        _check_host(self.host)
        if self.security not in get_args(Security):
            raise SettingsError(f"security={self.security!r} is none of {', '.join(get_args(Security))}.")
        _check_number("port", self.port, 1, _MAX_PORT)
        for name in ("max_connections", "messages_per_connection", "attempts", "max_message_bytes"):
            _check_number(name, getattr(self, name), 1, 2**40)
        for name in ("timeout", "dot_timeout"):
            _check_seconds(name, getattr(self, name))
        object.__setattr__(self, "notify", _notify(self.notify))
        for name in ("sender", "redirect_to"):
            _check_address(name, getattr(self, name))
        if re.search(r"[\x00-\x20\x7f]", self.user):
            raise SettingsError(
                f"The user {shortened(self.user)} has a blank or control character in it.", "Check the URL."
            )
        if self.user and self.security == "plain" and not self.is_loopback:
            cause = f"A login over smtp+plain would send the password of {self.user} to {self.host} in clear."
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

        May prompt, so it runs on the thread of the person's cell. Found once, then kept in memory.

        Raises:
            SecretError: There is none to be had here; says which ways there are.
        """
        if self.secret is None:
            secret = _environment_secret() or Secret(lambda: _from_keyring(self) or _prompt(self), _ASKED)
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
        asks = self.secret is None or (self.secret.origin == _ASKED and not self.secret.known)
        if not self.user or not asks:
            return True
        found = _environment_secret()
        if found is None and (kept := _from_keyring(self)):
            found = Secret(lambda: kept, "the keyring")
        if found is not None:
            object.__setattr__(self, "secret", found)  # as in resolve_secret
        return found is not None

    def save(self, name: str) -> Connection:
        """Keep these settings under *name*, and the password in the system's keyring alone.

        Returns:
            The saved Connection, which `connect(name)` finds again.

        Raises:
            SettingsError: The name is taken by a provider or the sandbox, or is no name.
            SecretError: There is a password and no keyring to keep it; nothing was saved.
        """
        if name.lower() in RESERVED:
            raise SettingsError(f"The name {name!r} is reserved.", "Choose another, such as 'work'.")
        if not _SAVED_NAME.fullmatch(name):
            raise SettingsError(
                f"{shortened(name)} is no name for a connection.", "Use letters, digits, - _ and dots."
            )
        if self.sandbox:
            raise SettingsError(
                "The sandbox ends with this process, so it cannot be saved.",
                'connect("sandbox") always works.',
            )
        if self.user:
            _to_keyring(self, self.resolve_secret())
        kept = self.with_(name=name)
        everything = _read_saved()
        everything[name] = _settings(kept)
        _write_saved(everything)
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
    authority, slash, path = rest.partition("/")
    login, _, place = authority.rpartition("@")
    user, colon, password = login.partition(":")
    if colon and password and secret is None:
        _refuse_password("A password stands in the URL")
    if (slash and path) or re.search(r"[?#\s]", rest):
        raise SettingsError(
            "A server's URL ends with the port.", "Give settings by name: connect(url, timeout=30)."
        )
    security, port = _SCHEMES[scheme.lower()]
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname or "", parts.port or port
    except ValueError:
        raise SettingsError(
            f"{shortened(place)} is no host and port.", "Write mail.example.com:587."
        ) from None
    base = {"host": host, "port": port, "security": security, "user": unquote(user), "secret": secret}
    return _built(base, settings)


def _refuse_password(what: str) -> NoReturn:
    raise SettingsError(f"{what}, where every reader of the notebook would see it.", _SAFE_WAYS)


def _built(base: dict[str, Any], settings: Mapping[str, Any]) -> Connection:
    """Return a Connection of *base* and *settings*, which a person typed."""
    names = {f.name for f in dataclasses.fields(Connection)}
    given = dict(settings)
    if "password" in given:
        source = given.pop("password")
        if not callable(source):
            del source
            _refuse_password("A password stands in the cell")
        base = base | {"secret": Secret(source, "the function given as password=")}
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, [*names, "password"], n=1, cutoff=0.4)
            fix = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(sorted(names))}."
            raise OptionError(f"A connection has no setting {name!r}.", fix)
    return Connection(**(base | given))


# --------------------------------------------------------------------------------------- the checks


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
    return {
        k: list(v) if isinstance(v, tuple) else v
        for k, v in every.items()
        if k not in {"secret", "sandbox", "name"}
    }


def differing(connection: Connection) -> dict[str, Any]:
    """Return the settings that the connection's URL does not say and that are not the usual ones; never a secret."""
    usual = {f.name: f.default for f in dataclasses.fields(connection)}
    told = {"secret", "sandbox", "name", "host", "port", "security", "user"}
    every = {name: getattr(connection, name) for name in usual}
    return {name: value for name, value in every.items() if name not in told and value != usual[name]}


def _read_saved() -> dict[str, Any]:
    path = _folder() / "connections.json"
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


def _write_saved(everything: Mapping[str, Any]) -> None:
    """Replace the file in one step, readable by its owner alone."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".connections-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(everything, file, indent=2, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(folder / "connections.json")


def saved(name: str) -> Connection:
    """Return the Connection saved under *name*; its password is looked up when it is needed.

    Raises:
        SettingsError: There is none; names those that there are.
    """
    everything = _read_saved()
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


def saved_names() -> list[str]:
    """Return the names of the saved connections."""
    return sorted(_read_saved())


def forget(name: str) -> None:
    """Remove a saved connection and its password; nothing happens when there is none."""
    everything = _read_saved()
    if name not in everything:
        return
    connection = saved(name)
    if connection.user:
        import keyring
        from keyring.errors import KeyringError

        with contextlib.suppress(KeyringError):
            keyring.delete_password(_SERVICE, _keyring_user(connection))
    del everything[name]
    _write_saved(everything)


def from_environment(environ: Mapping[str, str]) -> Connection | None:
    """Return the Connection of ``SMTP_NOTEBOOK_URL``, or None.

    The environment is no notebook: its URL may hold a password.
    """
    url = environ.get(URL_VARIABLE, "").strip()
    if not url:
        return None
    login = url.partition("://")[2].rpartition("@")[0]
    password = unquote(login.partition(":")[2])
    secret = Secret(lambda: password, f"the environment variable {URL_VARIABLE}") if password else None
    try:
        return _from_url(url, {}, secret)
    except SettingsError as error:
        raise SettingsError(f"{URL_VARIABLE}: {error.cause}", error.fix) from None


_current: Connection | None = None


def current() -> Connection | None:
    """Return the notebook's default, which `connect()` named, or None."""
    return _current


def set_current(connection: Connection | None) -> None:
    """Make *connection* the notebook's default; None takes it away."""
    global _current  # noqa: PLW0603 - the one piece of module state, see ARCHITECTURE.md
    _current = connection
