"""Where a journal is: a file, or a PostgreSQL database by its URL."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from smtp_notebook.connection import Secret, typed_password
from smtp_notebook.outcome import JournalError, MailError

__all__ = ["PATH_VARIABLE", "SCHEMA", "DatabaseURL", "given"]

PATH_VARIABLE = "SMTP_NOTEBOOK_JOURNAL"
#: Where the tables are in a database, unless its URL says ``schema=``.
SCHEMA = "smtp_notebook"
_SCHEMES = ("postgresql", "postgres")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://?")
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SECRET = ("password", "sslpassword")


class DatabaseURL:
    """A journal in PostgreSQL: ``postgresql://host/database``; what it shows of itself holds no password.

    Args:
        text: As libpq takes it, and ``schema=`` for another schema than ``smtp_notebook``.
        typed: Whether a person wrote it where others read, so that no password may be in it.

    Raises:
        SettingsError: A password was typed.
        JournalError: It is no such URL, or psycopg is not installed.
    """

    __slots__ = ("_secrets", "_shown", "schema")

    def __init__(self, text: str, *, typed: bool) -> None:
        settings, self.schema = _parsed(text)
        secrets = {name: settings.pop(name) for name in _SECRET if name in settings}
        if secrets and typed:
            del text, secrets, settings
            raise typed_password("A password stands in the journal's URL")
        self._shown = _written(settings, self.schema)
        self._secrets = (
            Secret(lambda: json.dumps(secrets), f"the URL in {PATH_VARIABLE}") if secrets else None
        )

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return repr(self._shown)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DatabaseURL) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(self._shown)

    def __reduce__(self) -> tuple[Any, ...]:
        # As a Secret does: a copy knows where from, never what.
        return _copied, (self._shown, self._secrets is not None)

    def settings(self) -> dict[str, Any]:
        """Return what libpq is told, the password too where the URL had it."""
        return _parsed(self._shown)[0] | self._hidden()

    def without_secrets(self, text: str) -> str:
        """Return a text in which no password of this URL stands."""
        for secret in self._hidden().values():
            text = text.replace(secret, "…")
        return text

    def _hidden(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self._secrets.reveal()) if self._secrets is not None else {}
        return found


def _copied(shown: str, secret: bool) -> DatabaseURL:  # noqa: FBT001 - of a pickle
    """Return the copy of a URL; one whose password is in the environment takes that of this process."""
    if not secret:
        return DatabaseURL(shown, typed=False)
    found = given(None)
    if isinstance(found, DatabaseURL) and str(found) == shown:
        return found
    cause = f"The environment variable {PATH_VARIABLE} of this process does not name the journal {shown!r}."
    raise JournalError(cause, f"Set {PATH_VARIABLE} to the same URL wherever mails of this merge are sent.")


def given(path: str | Path | DatabaseURL | None) -> Path | DatabaseURL:
    """Return where the journal is to be: as named, else what the environment says, else the user's own."""
    if isinstance(path, DatabaseURL):
        return path
    text = str(path or os.environ.get(PATH_VARIABLE) or _default_path())
    # A Path has made one slash of two.
    found = _SCHEME.match(text)
    if found is None or (os.name == "nt" and len(found[1]) == 1):
        return Path(text).expanduser().absolute()
    if found[1] in _SCHEMES and not isinstance(path, Path):
        try:
            return DatabaseURL(text, typed=bool(path))
        except MailError as caught:
            error = caught
        # A traceback may show the variables of its frames: what the environment said is in none of them.
        del text, found
        raise error.with_traceback(None) from None
    if found[0].endswith("//") or found[1] in _SCHEMES:
        cause = f"A journal is a file or a database of PostgreSQL, not {found[1]}:."
        raise JournalError(cause, "Write the URL as text: postgresql://host/database.")
    return Path(text).expanduser().absolute()


def _default_path() -> Path:
    import platformdirs

    return Path(platformdirs.user_state_dir("smtp_notebook", appauthor=False)) / "journal.sqlite3"


def _parsed(text: str) -> tuple[dict[str, Any], str]:
    """Return what libpq makes of a URL, and the schema."""
    try:
        from psycopg import Error
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        cause = "A journal in PostgreSQL needs psycopg, which is not installed."
        raise JournalError(cause, 'Install it: pip install "smtp_notebook[cluster]".') from None
    head, _, query = text.partition("?")
    parts = [part for part in query.split("&") if part]
    schemas = [unquote(part.partition("=")[2]) for part in parts if part.startswith("schema=")]
    rest = "&".join(part for part in parts if not part.startswith("schema="))
    try:
        settings = conninfo_to_dict(f"{head}?{rest}" if rest else head)
    except (Error, UnicodeError, ValueError):
        # What libpq says may repeat a part of the password.
        del text, head, query, parts, rest
        raise _not_understood() from None
    # A password with a letter that nobody encoded ends up in the parts behind it, and must not be shown there.
    shown = "".join(str(settings.get(name, "")) for name in ("host", "dbname"))
    if "@" in shown or not re.fullmatch(r"[0-9,]*", str(settings.get("port", ""))):
        del text, head, query, parts, rest, settings, shown
        raise _not_understood()
    schema = schemas[-1] if schemas else SCHEMA
    if not _NAME.fullmatch(schema) or schema.startswith("pg_"):
        cause = f"schema={schema!r} is no name for the journal's schema."
        raise JournalError(cause, "Use small letters, digits and _; none begins with pg_.")
    return settings, schema


def _not_understood() -> JournalError:
    cause = "The journal's URL is none that PostgreSQL understands."
    return JournalError(
        cause, "Write postgresql://user@host:5432/database; letters such as @ / ? % as %40 %2F %3F %25."
    )


def _written(settings: Mapping[str, Any], schema: str) -> str:
    """Return settings as a URL."""
    left = {name: str(value) for name, value in settings.items()}
    user, host, port, name = (left.pop(part, "") for part in ("user", "host", "port", "dbname"))
    where = ""
    if host.startswith("/") or "," in host or "," in port or ":" in host:
        # A folder of sockets, several servers, or IPv6: these are plainer among the parameters.
        left |= {"host": host} | ({"port": port} if port else {})
    else:
        where = f"{host}:{port}" if port else host
    left |= {"schema": schema} if schema != SCHEMA else {}
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in left.items())
    person = f"{quote(user, safe='')}@" if user else ""
    return f"postgresql://{person}{where}/{quote(name, safe='')}" + (f"?{query}" if query else "")
