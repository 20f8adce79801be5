"""Where mails lie that arrived: an mbox file, a Maildir, a folder of ``.eml`` files, a mailbox on an IMAP server.

They are read one at a time, the beginning of each, and left as they are: files are opened for reading, and IMAP is
asked to peek (RFC 3501, 6.4.5), in a mailbox that was opened for reading (6.3.2).
"""

from __future__ import annotations

import binascii
import contextlib
import datetime as dt
import imaplib
import re
import ssl
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from smtp_notebook.addresses import CONTROL, shortened
from smtp_notebook.connection import Connection, Secret, Security, typed_password
from smtp_notebook.outcome import SettingsError
from smtp_notebook.replies import one_line

__all__ = ["Access", "Mail", "is_url", "mails", "named"]

_SCHEMES: dict[str, tuple[Security, int]] = {
    "imaps": ("tls", 993),
    "imap": ("starttls", 143),
    "imap+plain": ("plain", 143),
}
_SEPARATOR = b"From "
_QUOTED = re.compile(rb"^>(?=>*From )")
_LINE = 1 << 16
_FORMS = "Give an mbox file, a Maildir, a folder of .eml files, or imaps://user@mail.example.com/INBOX."
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Mail(NamedTuple):
    """One mail, or its beginning.

    Attributes:
        raw: Its octets.
        mark: Marks it as read where it lies; does nothing where that was not asked for.
    """

    raw: bytes
    mark: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True)
class Access:
    """How a mailbox is read.

    Attributes:
        most: So many octets of each mail.
        since: On an IMAP server, only mails that arrived on this day or later.
        password: Gives the secret; None for the environment, the keyring or a prompt.
        ca_file: A PEM file with the authorities to trust instead of the system's.
        mark_seen: Whether `Mail.mark` marks mails, on an IMAP server.
    """

    most: int
    since: dt.date | None = None
    password: Callable[[], str] | None = field(default=None, repr=False)
    ca_file: str = ""
    mark_seen: bool = False


def is_url(source: object) -> bool:
    """Tell whether a source is named by a URL."""
    return isinstance(source, str) and "://" in source


def named(source: str | Path) -> str:
    """Return a source's name for a title, without a secret."""
    if is_url(source):
        place = urlsplit(str(source))
        return f"{place.hostname or ''}{unquote(place.path)}"
    return Path(source).name


def mails(source: str | Path, access: Access) -> Generator[Mail]:
    """Yield the mails of a source.

    Raises:
        SettingsError: It is none, or cannot be read.
        SecretError: The login needs a password that cannot be had here.
    """
    if not isinstance(source, str | Path):
        raise SettingsError(f"A {type(source).__name__} is no mailbox.", _FORMS)
    if is_url(source):
        yield from _imap(str(source), access)
        return
    path = Path(source).expanduser()
    try:
        yield from map(Mail, _files(path, access.most))
    except OSError as error:
        raise SettingsError(f"{str(path)!r} cannot be read: {error.strerror or error}.", _FORMS) from None


# ------------------------------------------------------------------------------------------------ files


def _files(path: Path, most: int) -> Iterator[bytes]:
    if path.is_file():
        yield from _file(path, most)
        return
    maildir = [path / name for name in ("cur", "new") if (path / name).is_dir()]
    if maildir:
        found = [p for folder in maildir for p in folder.iterdir() if p.is_file() and not _trashed(p)]
    elif path.is_dir():
        found = list(path.glob("*.eml"))
    else:
        raise SettingsError(f"There is no {str(path)!r}.", _FORMS)
    for each in sorted(found):
        with contextlib.suppress(FileNotFoundError), each.open("rb") as file:  # a mail program may move it
            yield file.read(most)


def _trashed(path: Path) -> bool:
    """Tell whether a Maildir's file is marked as one to be removed (https://cr.yp.to/proto/maildir.html)."""
    return "T" in path.name.partition(":2,")[2]


def _file(path: Path, most: int) -> Iterator[bytes]:
    """Yield the mails of an mbox file (RFC 4155), or the one that a file is."""
    with path.open("rb") as file:
        if file.read(len(_SEPARATOR)) != _SEPARATOR:
            file.seek(0)
            yield file.read(most)
            return
        file.seek(0)
        kept: list[bytes] = []
        size, blank, begins, any_yet = 0, True, True, False
        while line := file.readline(_LINE):
            if begins and blank and line.startswith(_SEPARATOR):
                if any_yet:
                    yield b"".join(kept)[:most]
                kept, size, any_yet = [], 0, True
            elif size < most:
                kept.append(_QUOTED.sub(b"", line) if begins else line)
                size += len(line)
            blank = begins and line in {b"\n", b"\r\n"}
            begins = line.endswith(b"\n")
        yield b"".join(kept)[:most]


# ------------------------------------------------------------------------------------------------- IMAP


def _imap(url: str, access: Access) -> Iterator[Mail]:
    connection, mailbox = _settings(url, access)
    password = connection.resolve_secret()
    try:
        with _session(connection) as session:
            _log_in(session, connection.user, password)
            _expect(session.select(_wired(mailbox), readonly=not access.mark_seen), f"open {mailbox!r}")
            wish = ("SINCE", _day(access.since)) if access.since is not None else ("ALL",)
            found = _expect(session.uid("SEARCH", *wish), "search")
            for number in b" ".join(part for part in found if isinstance(part, bytes)).split():
                uid = number.decode("ascii")
                raw = _fetched(session, uid, access.most)
                if raw is not None:
                    yield Mail(raw, _marker(session, uid) if access.mark_seen else lambda: None)
    except imaplib.IMAP4.error as error:
        cause = f"The mailbox at {connection.host} cannot be read: {one_line(_said(error))}."
        raise SettingsError(cause, "Check the user, the password and the mailbox's name.") from None
    except ssl.SSLError as error:
        cause = f"The server {connection.host} could not show who it is: {one_line(str(error))}."
        raise SettingsError(cause, "ca_file= names the authority of a server of your own.") from None
    except OSError as error:
        cause = f"{connection.host}:{connection.port} cannot be reached: {one_line(str(error))}."
        raise SettingsError(cause, "Check the server's name; IMAP with TLS is imaps://, port 993.") from None


def _settings(url: str, access: Access) -> tuple[Connection, str]:
    """Return how to log in, by the rules of a `Connection`, and the mailbox's name."""
    scheme, _, rest = url.strip().partition("://")
    if scheme.lower() not in _SCHEMES:
        cause = f"{shortened(scheme)}:// is no mailbox that can be read."
        raise SettingsError(cause, "imaps://user@mail.example.com/INBOX is one.")
    security, port = _SCHEMES[scheme.lower()]
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname or "", parts.port or port
    except ValueError:
        # What stands there may be a password whose @ was encoded: it is not repeated.
        raise SettingsError(
            "What the URL names is no host and port.", "Write mail.example.com:993."
        ) from None
    if parts.password is not None:
        raise typed_password("A password stands in the URL")
    if not parts.username:
        raise SettingsError("The URL names no user.", "Write imaps://user@mail.example.com/INBOX.")
    if security == "plain" and not Connection(host=host, port=port, security="plain").is_loopback:
        cause = f"A login over imap+plain would send the password of {unquote(parts.username)} to {host} in clear."
        raise SettingsError(cause, "Use imaps://, or imap:// where the server offers STARTTLS.")
    secret = Secret(access.password, "the function given as password=") if access.password else None
    connection = Connection(
        host=host, port=port, security=security, user=unquote(parts.username), secret=secret, ca_file=access.ca_file
    )  # fmt: skip
    mailbox = unquote(parts.path.removeprefix("/")) or "INBOX"
    if CONTROL.search(mailbox):
        raise SettingsError(f"{shortened(mailbox)} is no mailbox's name.", "Remove the control character.")
    return connection, mailbox


@contextlib.contextmanager
def _session(connection: Connection) -> Iterator[imaplib.IMAP4]:
    """Open a connection, secured as asked, and end it whatever happens."""
    host, port, seconds = connection.host, connection.port, connection.timeout
    if connection.security == "tls":
        session: imaplib.IMAP4 = imaplib.IMAP4_SSL(
            host, port, ssl_context=connection.tls_context(), timeout=seconds
        )
    else:
        session = imaplib.IMAP4(host, port, timeout=seconds)
    try:
        if connection.security == "starttls":
            session.starttls(connection.tls_context())  # raises where the server does not offer it
        yield session
    finally:
        with contextlib.suppress(imaplib.IMAP4.error, OSError):
            session.logout()
        with contextlib.suppress(OSError):
            session.shutdown()


def _log_in(session: imaplib.IMAP4, user: str, password: str) -> None:
    """Log in once, with one mechanism; SASL PLAIN takes any letters (RFC 4616)."""
    if "AUTH=PLAIN" in session.capabilities:
        answer = f"\0{user}\0{password}".encode()
        session.authenticate("PLAIN", lambda _: answer)
    else:
        if not (user + password).isascii():
            # imaplib would put both into an error that is none of ours.
            raise imaplib.IMAP4.error(
                "it takes only ASCII in a user and password, for it offers no AUTH=PLAIN"
            )
        session.login(user, password)


def _fetched(session: imaplib.IMAP4, uid: str, most: int) -> bytes | None:
    """Return the beginning of a mail, which stays unread; None where it is gone meanwhile."""
    found = _expect(session.uid("FETCH", uid, f"(BODY.PEEK[]<0.{most}>)"), "read a mail")
    return next((part[1] for part in found if isinstance(part, tuple)), None)


def _marker(session: imaplib.IMAP4, uid: str) -> Callable[[], object]:
    return lambda: _expect(session.uid("STORE", uid, "+FLAGS.SILENT", r"(\Seen)"), "mark a mail")


def _expect(answer: tuple[str, Sequence[object]], what: str) -> list[object]:
    state, data = answer
    if state != "OK":
        said = data[0].decode("utf-8", "replace") if data and isinstance(data[0], bytes) else ""
        raise imaplib.IMAP4.error(f"it would not {what}: {said}")
    return list(data)


def _said(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return (said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)).rstrip(". ")


def _wired(mailbox: str) -> str:
    """Return a mailbox's name as IMAP has it: modified UTF-7 (RFC 3501, 5.1.3), quoted."""
    out = re.sub(r"[^\x20-\x7e]+", _shifted, mailbox.replace("&", "&-"))
    escaped = out.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _shifted(found: re.Match[str]) -> str:
    code = binascii.b2a_base64(found[0].encode("utf-16-be"), newline=False).rstrip(b"=")
    return f"&{code.decode('ascii').replace('/', ',')}-"


def _day(day: dt.date) -> str:
    return f"{day.day}-{_MONTHS[day.month - 1]}-{day.year:04d}"  # whatever the language of this machine
