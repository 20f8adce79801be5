"""One query of a database, read and never written to: through SQLAlchemy, or through a driver of PEP 249 alone.

The query is a table to what reads it: it stands in parentheses, and conditions and order are put around it. So it may
be anything that a FROM takes. Values are bound, never written into the text.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import inspect
import math
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal
from pathlib import Path
from typing import Any, Protocol

from smtp_notebook.addresses import shortened
from smtp_notebook.outcome import (
    MailError,
    MergeRefusedError,
    OptionError,
    SecretError,
    SettingsError,
    SourceError,
)

__all__ = [
    "Database",
    "NotBelow",
    "OneOf",
    "Session",
    "earlier",
    "latest_by",
    "like",
    "opened",
    "pack",
    "unpack",
]

Params = Mapping[str, Any] | Sequence[Any] | None

_INSTALL = 'pip install "smtp_notebook[sql]"'
_CONNECT_SECONDS = 15
_SAID = 300
#: What a driver's message may hold of a connection string.
_SECRET = re.compile(r"(?<=://)[^/\s@]*:[^\s@]*(?=@)|(?i:(?<=password=)|(?<=passwd=)|(?<=pwd=))[^\s;&'\"]+")
_SECRET_WORDS = re.compile(r"(?i:\b(?:password|passwd|pwd|sslpassword)\s*=)")
#: What PostgreSQL, MySQL, Oracle and SQL Server say of a wrong password.
_REFUSED = re.compile(
    r"password authentication failed|no password supplied|Access denied for user|ORA-01017|ORA-28000|Login failed for user",
    re.IGNORECASE,
)
_SECRET_NAMES = frozenset({"password", "passwd", "pwd", "sslpassword"})


@dataclass(frozen=True, slots=True)
class NotBelow:
    """Rows whose cell in a column is *value* or more, or is missing.

    Attributes:
        column: Its name.
        value: The least.
    """

    column: str
    value: Any


@dataclass(frozen=True, slots=True)
class OneOf:
    """Rows whose cell in a column is one of some values.

    Attributes:
        column: Its name.
        values: At most some hundreds.
        folded: Whether the database's ``lower()`` of the cell is compared, not the cell.
    """

    column: str
    values: tuple[Any, ...]
    folded: bool = False


class Session(Protocol):
    """An open connection with one query.

    Attributes:
        columns: The names that the query gives, as the database writes them.
    """

    columns: Sequence[str]

    def rows(self, where: NotBelow | OneOf | None = None, order: str = "") -> Iterator[dict[str, Any]]:
        """Yield rows; in the order of a column where one is named. Without either, the query runs as it stands."""
        ...

    def cells(self, column: str, *, newest: bool = False) -> Iterator[Any]:
        """Yield cells of a column that are not missing; the greatest first where *newest* says so."""
        ...


class Database(Protocol):
    """Where a query is asked.

    Attributes:
        name: What it is, in a few words, without any secret.
    """

    name: str

    def session(self) -> contextlib.AbstractContextManager[Session]:
        """Connect, and let go again; nothing is ever committed.

        Raises:
            SecretError: The database does not take the user or the password.
            SourceError: Whatever else the database or its driver says, in one sentence.
        """
        ...


def opened(engine: Any, query: Any, params: Params, timeout: float) -> Database:
    """Return the database that *engine* names, for one query; nothing is connected yet.

    Raises:
        OptionError: It is no engine, URL or function, or the query is no query.
        SettingsError: A library is missing, or a password stands in a URL.
    """
    if isinstance(query, str):
        query = query.strip().rstrip(";").rstrip()
        if not query:
            raise OptionError("The query is empty.", "Write SELECT … FROM ….")
    elif not hasattr(query, "subquery") and not hasattr(query, "select"):
        cause = f"A {type(query).__name__} is no query."
        raise OptionError(cause, "Give text, or what SQLAlchemy's select() returns.")
    if hasattr(engine, "sync_engine"):
        raise OptionError(
            "An asynchronous engine cannot be asked here.", "Give what create_engine() returns."
        )
    if isinstance(engine, str) or type(engine).__name__ == "URL":
        return _Alchemy(_of_url(engine, timeout), query, params, timeout, makes_none=True)
    if _is_engine(engine):
        return _Alchemy(engine, query, params, timeout)
    if callable(engine) and not hasattr(engine, "cursor"):
        return _Opening(engine, query, params, timeout)
    cause = f"A {type(engine).__name__} is no engine, URL or function that opens a connection."
    raise OptionError(
        cause, "Give a function that opens a new one, such as lambda: sqlite3.connect('crm.db')."
    )


def _is_engine(engine: Any) -> bool:
    alchemy = sys.modules.get("sqlalchemy")
    return alchemy is not None and isinstance(engine, alchemy.Engine)


def _alchemy() -> Any:
    try:
        import sqlalchemy
    except ImportError:
        raise SettingsError("A database's URL, or a select(), needs SQLAlchemy.", f"{_INSTALL}.") from None
    return sqlalchemy


def _of_url(given: Any, timeout: float) -> Any:
    sa = _alchemy()
    typed = isinstance(given, str)
    try:
        url = sa.make_url(given)
    except Exception:  # noqa: BLE001 - its message may hold the URL, and that a password
        url = None
    if url is None:
        raise OptionError(
            "That is no URL of a database.", 'Write "postgresql+psycopg://ann@db.example.com/crm".'
        )
    query = {k.lower(): v if isinstance(v, str) else " ".join(v) for k, v in url.query.items()}
    spelled = _SECRET_NAMES & query.keys() or any(map(_SECRET_WORDS.search, query.values()))
    if typed and (url.password is not None or spelled):
        del given, url, query
        cause = "A password stands in the URL, where every reader of the notebook would see it."
        fix = (
            "Let the driver find it (PGPASSFILE, MYSQL_PWD), or give a function that opens the connection. Change that "
            "password too: what was typed stands in the notebook and in its history already."
        )
        raise SettingsError(cause, fix)
    try:
        # Each poll has a connection of its own: one that is kept would be dead after a night.
        return sa.create_engine(url, poolclass=sa.pool.NullPool, connect_args=_patience(url, timeout))
    except ImportError as error:
        driver = getattr(error, "name", None) or "its driver"
        fix = f"pip install {driver}, or name another driver, such as postgresql+psycopg://."
        raise SettingsError(f"The driver {driver} is not installed.", fix) from None
    except sa.exc.SQLAlchemyError as error:
        raise OptionError(
            f"That is no URL of a database: {_said(error, '')}", "Check its first word."
        ) from None


def _patience(url: Any, timeout: float) -> dict[str, Any]:
    """Return how long a driver waits for its server, where it can be told."""
    driver = url.drivername
    if driver in {"sqlite", "sqlite+pysqlite"}:
        return {"timeout": timeout}
    known = ("postgresql+psycopg", "postgresql+psycopg2", "mysql+pymysql", "mariadb+pymysql", "mysql+mysqldb")
    if (driver in known or driver == "postgresql") and "connect_timeout" not in url.query:
        return {"connect_timeout": min(_CONNECT_SECONDS, math.ceil(timeout))}
    return {}


# ------------------------------------------------------------------------------------------ errors


@contextlib.contextmanager
def _explained(name: str, secret: Any = None) -> Iterator[None]:
    """Say in one sentence, and without a secret, whatever a database or its driver raises."""
    try:
        yield
    except MailError:
        raise
    except Exception as error:  # noqa: BLE001 - each driver has errors of its own
        cause = f"{name[0].upper()}{name[1:]}: {_said(error, secret)}"
        if _login_refused(error):
            # To try it again and again may lock the account.
            fix = "Check the user and the password, and start it again."
            raise SecretError(cause, fix) from None
        fix = "Check the query, the server and who may read it."
        if "same thread" in cause or "closed database" in cause:
            fix = "Let the function open a new connection each time that it is called."
        raise SourceError(cause, fix) from None


def _login_refused(error: Exception) -> bool:
    """Tell whether a database does not take the user or the password, which time does not change."""
    original = getattr(error, "orig", None) or error
    code = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None) or ""
    return str(code).startswith("28") or _REFUSED.search(str(original)) is not None


def _said(error: Exception, secret: Any) -> str:
    """Return the first line of what a driver said: what follows may be the row or the whole statement."""
    original = getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(original).splitlines() if line.strip()]
    text = lines[0] if lines else type(original).__name__
    if not isinstance(original, Exception) or type(original).__module__ == "builtins":
        text = f"{type(original).__name__}: {text}"
    if secret:
        text = text.replace(str(secret), "…")
    text = _SECRET.sub("…", text)[:_SAID].rstrip(".")
    return f"{text}."


def _unique(names: Sequence[str]) -> Sequence[str]:
    """Return the names of the columns; SQLite calls the second of one name ``Id:1``."""
    seen: set[str] = set()
    for name in names:
        plain = re.sub(r":[0-9]+$", "", name)
        if name in seen or (plain != name and plain in seen):
            cause = f"The query has more than one column called {shortened(plain)}."
            raise MergeRefusedError(cause, "Name the columns: a template could not tell them apart.")
        seen.add(name)
    return names


# -------------------------------------------------------------------------------------- SQLAlchemy


class _Alchemy:
    """A database behind an Engine."""

    def __init__(
        self, engine: Any, query: Any, params: Params, timeout: float, *, makes_none: bool = False
    ) -> None:
        if params is not None and not isinstance(params, Mapping):
            raise OptionError(
                "params= of an engine is a mapping of names.", 'Write :name, and {"name": value}.'
            )
        self._engine = engine
        self._query = query
        self._params = dict(params or {})
        self._timeout = timeout
        self._makes_none = makes_none
        place = re.split(r"[/\\]", engine.url.database or "")[-1]
        self.name = f"the {engine.dialect.name} database {place}".rstrip()

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        with _explained(self.name, self._engine.url.password):
            if self._makes_none:
                self._check_file()
            try:
                connection = self._connected()
            except _alchemy().exc.DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                # A pool that has slept too long: its connections are thrown away by now.
                connection = self._connected()
            with connection, self._read_only(connection):
                yield _AlchemySession(connection, self._query, self._params)

    def _check_file(self) -> None:
        """Refuse a file of SQLite that is not there: connecting would make an empty one."""
        url = self._engine.url
        file = url.database or ""
        if url.get_backend_name() != "sqlite" or not file or file == ":memory:" or file.startswith("file:"):
            return
        if not Path(file).exists():
            raise SourceError(f"There is no file {shortened(file)}.", "Check the path in the database's URL.")

    def _connected(self) -> Any:
        sa = _alchemy()
        connection = self._engine.connect()
        try:
            if self._engine.dialect.name == "postgresql":
                # One picture of the rows for all that is asked, whatever the engine's own level is.
                connection = connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
                connection.execute(sa.text(_timeout_of(self._timeout)))
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _read_only(self, connection: Any) -> Iterator[None]:
        sa = _alchemy()
        lite = self._engine.dialect.name == "sqlite"
        before = lite and connection.execute(sa.text("PRAGMA query_only")).scalar()
        if lite:
            connection.execute(sa.text("PRAGMA query_only = ON"))
        try:
            yield
        finally:
            if lite and not before:
                # The connection goes back to whoever owns the engine.
                connection.execute(sa.text("PRAGMA query_only = OFF"))


def _timeout_of(seconds: float) -> str:
    return f"SET LOCAL statement_timeout = {math.ceil(seconds * 1000)}"


class _AlchemySession:
    """A connection of an Engine."""

    def __init__(self, connection: Any, query: Any, params: Mapping[str, Any]) -> None:
        sa = _alchemy()
        self._connection = connection
        self._params = params
        if not isinstance(query, str):
            self._plain = query.select() if not hasattr(query, "subquery") else query
            self._table = self._plain.subquery("q")
            self.columns = _unique([str(name) for name in self._table.c.keys()])  # noqa: SIM118 - no mapping
            return
        self._plain = sa.text(query)
        # On a line of its own: the query may end with a comment.
        none = connection.execute(sa.text(f"SELECT * FROM (\n{query}\n) q WHERE 1 = 0"), params)  # noqa: S608 - the query is what a person asks
        self.columns = _unique([str(name) for name in none.keys()])  # noqa: SIM118 - the same
        none.close()
        self._table = sa.text(f"{query}\n").columns(*[sa.column(name) for name in self.columns]).subquery("q")

    def _streamed(self, statement: Any) -> Generator[Any]:
        options = {"stream_results": True, "max_row_buffer": 1000}
        with contextlib.closing(
            self._connection.execute(statement, self._params, execution_options=options)
        ) as result:
            yield from result

    def rows(self, where: NotBelow | OneOf | None = None, order: str = "") -> Iterator[dict[str, Any]]:
        sa = _alchemy()
        names = self.columns
        if where is None and not order:
            result = self._connection.execute(self._plain, self._params)
            names = _unique([str(name) for name in result.keys()])  # noqa: SIM118 - no mapping
            found = iter(result)
        else:
            statement = sa.select(self._table)
            if where is not None:
                statement = statement.where(self._condition(where))
            if order:
                statement = statement.order_by(self._table.c[order])
            found = self._streamed(statement)
        for row in found:
            yield dict(zip(names, row, strict=True))

    def _condition(self, where: NotBelow | OneOf) -> Any:
        sa = _alchemy()
        column = self._table.c[where.column]
        if isinstance(where, NotBelow):
            return sa.or_(column >= where.value, column.is_(None))
        return (sa.func.lower(column) if where.folded else column).in_(where.values)

    def cells(self, column: str, *, newest: bool = False) -> Iterator[Any]:
        sa = _alchemy()
        cell = self._table.c[column]
        statement = sa.select(cell).where(cell.is_not(None))
        if newest:
            statement = statement.order_by(cell.desc())
        with contextlib.closing(self._streamed(statement)) as found:
            for row in found:
                yield row[0]


# ------------------------------------------------------------------------------------------ drivers


class _Opening:
    """A database behind a function, which opens a connection of PEP 249 or gives an Engine."""

    def __init__(self, function: Callable[[], Any], query: Any, params: Params, timeout: float) -> None:
        self._function = function
        self._query = query
        self._params = params
        self._timeout = timeout
        self._engine: Any = None
        self.name = "the database"

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        with _explained(self.name):
            connection = self._function()
            if inspect.iscoroutine(connection):
                connection.close()
                raise OptionError("An async function opens no connection here.", "Give a plain one.")
            if _is_engine(connection):
                if self._engine is not None and self._engine is not connection:
                    self._engine.dispose()
                self._engine = connection
                with _Alchemy(connection, self._query, self._params, self._timeout).session() as session:
                    yield session
                return
            if not hasattr(connection, "cursor"):
                cause = f"The function gave a {type(connection).__name__}, not a connection."
                raise OptionError(cause, "Let it return what the driver's connect() returns, or an Engine.")
            with contextlib.closing(connection):
                try:
                    _prepare(connection, self._timeout)
                    yield _DriverSession(connection, self._query, self._params)
                finally:
                    with contextlib.suppress(Exception):
                        connection.rollback()


def _driver(connection: Any) -> str:
    return type(connection).__module__.partition(".")[0]


def _prepare(connection: Any, timeout: float) -> None:
    """Let the connection refuse to write, where it can."""
    driver = _driver(connection)
    if driver == "sqlite3":
        connection.execute("PRAGMA query_only = ON")
    elif driver in {"psycopg", "psycopg2"}:
        connection.rollback()
        if driver == "psycopg":
            connection.autocommit = False
            connection.read_only = True
        else:
            connection.set_session(readonly=True, autocommit=False)
        connection.cursor().execute(_timeout_of(timeout))


class _DriverSession:
    """A connection of PEP 249."""

    def __init__(self, connection: Any, query: Any, params: Params) -> None:
        if not isinstance(query, str):
            raise OptionError(
                "A select() needs an Engine.", "Give create_engine(…), or write the query as text."
            )
        self._connection = connection
        driver = sys.modules.get(_driver(connection))
        self._style = getattr(driver, "paramstyle", "qmark")
        self._quote = "`" if _driver(connection) in {"pymysql", "MySQLdb", "mysql", "mariadb"} else '"'
        # Something is always bound, if only nothing: then %% is one % in every text of such a driver.
        self._percent = "%%" if self._style in {"format", "pyformat"} else "%"
        self._query = query.replace("%", self._percent) if params is None else query
        self._params: dict[str, Any] | tuple[Any, ...]
        self._params = dict(params) if isinstance(params, Mapping) else tuple(params or ())
        with contextlib.closing(self._executed("WHERE 1 = 0")) as cursor:
            self.columns: Sequence[str] = _unique(_names(cursor))

    def _place(self, values: list[Any], value: Any) -> str:
        """Bind a value, and return what stands for it in the text."""
        values.append(_bound(value) if _driver(self._connection) == "sqlite3" else value)
        if isinstance(self._params, dict):
            name = f"smtp_notebook_{len(values)}"
            return f"%({name})s" if self._style == "pyformat" else f":{name}"
        if self._style == "qmark":
            return "?"
        if self._style in {"format", "pyformat"}:
            return "%s"
        raise OptionError(
            f"A driver that binds values by {self._style} cannot be asked so.", "Give an Engine."
        )

    def _column(self, name: str) -> str:
        doubled = name.replace(self._quote, self._quote * 2).replace("%", self._percent)
        return f"q.{self._quote}{doubled}{self._quote}"

    def _executed(self, rest: str, values: Sequence[Any] = (), what: str = "*") -> Any:
        # On lines of its own: the query may end with a comment.
        return self._asked(f"SELECT {what} FROM (\n{self._query}\n) q {rest}", values)  # noqa: S608 - the query is what a person asks

    def _asked(self, text: str, values: Sequence[Any] = ()) -> Any:
        cursor = self._connection.cursor()
        if isinstance(self._params, dict):
            more = {f"smtp_notebook_{at}": value for at, value in enumerate(values, 1)}
            cursor.execute(text, self._params | more)
        else:
            cursor.execute(text, (*self._params, *values))
        return cursor

    def rows(self, where: NotBelow | OneOf | None = None, order: str = "") -> Iterator[dict[str, Any]]:
        if where is None and not order:
            asked = self._asked(self._query)
        else:
            values: list[Any] = []
            text = f"WHERE {self._condition(where, values)}" if where is not None else ""
            asked = self._executed(f"{text} ORDER BY {self._column(order)}" if order else text, values)
        with contextlib.closing(asked) as cursor:
            names = _unique(_names(cursor))
            for row in iter(cursor.fetchone, None):
                yield dict(zip(names, row, strict=True))

    def _condition(self, where: NotBelow | OneOf, values: list[Any]) -> str:
        column = self._column(where.column)
        if isinstance(where, NotBelow):
            return f"({column} >= {self._place(values, where.value)} OR {column} IS NULL)"
        places = ", ".join([self._place(values, value) for value in where.values])
        return f"{f'lower({column})' if where.folded else column} IN ({places})"

    def cells(self, column: str, *, newest: bool = False) -> Iterator[Any]:
        name = self._column(column)
        order = f" ORDER BY {name} DESC" if newest else ""
        with contextlib.closing(self._executed(f"WHERE {name} IS NOT NULL{order}", what=name)) as cursor:
            for row in iter(cursor.fetchone, None):
                yield row[0]


def _names(cursor: Any) -> list[str]:
    if cursor.description is None:
        raise OptionError("The query gives no rows.", "Write SELECT … FROM ….")
    return [str(column[0]) for column in cursor.description]


def _bound(value: Any) -> Any:
    """Return a value as sqlite3 keeps it: its own adapters of dates are deprecated, and it has none of Decimal."""
    if isinstance(value, dt.datetime):
        return value.isoformat(" ")
    if isinstance(value, dt.date):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


# -------------------------------------------------------------------------------- places in a column

#: A time as text that sorts as it passes: ISO 8601, with a blank or a T.
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:([T ])([0-9]{2}:[0-9]{2})(:[0-9]{2})?(\.[0-9]+)?(Z|[+-][0-9]{2}:?[0-9]{2}|))?"
)


#: A number of more digits than this becomes a little less.
_DOWN = Context(prec=60, rounding=ROUND_FLOOR)
_UNPACKED: Mapping[str, Callable[[str], Any]] = {
    "datetime": dt.datetime.fromisoformat,
    "date": dt.date.fromisoformat,
    "decimal": Decimal,
}


def pack(value: Any) -> Any:
    """Return a place in a column as JSON; `unpack` gives the very same value back.

    Raises:
        OptionError: Rows cannot be followed by such values.
    """
    kind = type(value)
    if kind is int or (kind is float and math.isfinite(value)) or (kind is str and _TIME.fullmatch(value)):
        return value
    if isinstance(value, dt.datetime):
        return {"datetime": value.isoformat()}
    if isinstance(value, dt.date):
        return {"date": value.isoformat()}
    if isinstance(value, Decimal) and value.is_finite():
        return {"decimal": str(value)}
    cause = f"cursor= names a column of {'other text' if kind is str else kind.__name__}, which does not say what came later."
    raise OptionError(
        cause, "Name a column of times or of growing numbers; text has to be 2026-11-29 10:00:00."
    )


def unpack(stored: Any) -> Any:
    """Return what `pack` was given.

    Raises:
        MergeRefusedError: It was never packed.
    """
    try:
        if isinstance(stored, int | float | str) and not isinstance(stored, bool):
            return stored
        ((kind, text),) = stored.items()
        return _UNPACKED[kind](text)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        cause = "How far the database was read is not written in a way that this version knows."
        raise MergeRefusedError(cause, "Upgrade smtp_notebook, or give the campaign another name.") from None


def earlier(value: Any, by: float) -> Any:
    """Return a place so much earlier: seconds of a time, and of a number its own unit; never later than that."""
    try:
        if isinstance(value, str):
            return _earlier_text(value, by)
        if isinstance(value, dt.datetime):
            # In UTC: a zone's own clock goes back and forth.
            plain = value if value.tzinfo is None else value.astimezone(dt.UTC)
            return plain - dt.timedelta(seconds=by)
        if isinstance(value, dt.date):
            return value - dt.timedelta(days=math.ceil(by / 86_400))
        if isinstance(value, Decimal):
            return _DOWN.subtract(value, Decimal(str(by)))
        return value - math.ceil(by) if isinstance(value, int) else value - by
    except OverflowError:
        # Before the first day that there is.
        return value


def _earlier_text(text: str, by: float) -> str:
    found = _TIME.fullmatch(text)
    assert found is not None
    day, between, minute, second, fraction, zone = found.groups()
    if between is None:
        return (dt.date.fromisoformat(day) - dt.timedelta(days=math.ceil(by / 86_400))).isoformat()
    step = math.ceil(by) if second else 60 * math.ceil(by / 60)
    moment = dt.datetime.fromisoformat(f"{day}T{minute}{second or ':00'}") - dt.timedelta(seconds=step)
    # Not %Y, which gives the year 999 three digits.
    there = moment.strftime(f"-%m-%d{between}%H:%M{':%S' if second else ''}")
    return f"{moment.year:04}{there}{fraction or ''}{zone}"


def like(value: Any, moment: dt.datetime) -> Any:
    """Return a moment as a column of such values would have it, or a little earlier.

    Raises:
        OptionError: They are no times.
    """
    zone: dt.tzinfo | None = dt.UTC
    if isinstance(value, dt.datetime):
        return moment.astimezone(dt.UTC) if value.tzinfo else moment.astimezone(dt.UTC).replace(tzinfo=None)
    if isinstance(value, dt.date):
        return moment.astimezone(dt.UTC).date()
    if not isinstance(value, str):
        raise OptionError(
            "A column of numbers does not say when a row came.", 'Use since="now", or a column of times.'
        )
    found = _TIME.fullmatch(value)
    assert found is not None
    _, between, _, second, fraction, offset = found.groups()
    if offset and offset != "Z":
        zone = dt.datetime.fromisoformat(f"2026-01-01T00:00:00{offset}").tzinfo
    there = moment.astimezone(zone)
    if between is None:
        return there.date().isoformat()
    digits = f"{there.microsecond:06}".ljust(len(fraction or ""), "0")[: len(fraction or "") - 1]
    text = there.strftime(f"%Y-%m-%d{between}%H:%M{':%S' if second else ''}")
    return text + (f".{digits}" if fraction else "") + (offset or "")


#: A server's clock may be ahead of ours by so much; the easternmost zone is ahead of UTC by 14 hours.
_SKEW = dt.timedelta(minutes=5)
_EASTERNMOST = dt.timedelta(hours=14)


def latest_by(value: Any, clock: float) -> Any:
    """Return the latest place that a column of such values can have reached by now; None where that is unknown.

    What is beyond it lies ahead: somebody's typing error, which must not hide what comes before it.

    Args:
        value: Any place in the column.
        clock: The time, in seconds since 1970.
    """
    zoned = value.tzinfo is not None if isinstance(value, dt.datetime) else _has_zone(value)
    moment = dt.datetime.fromtimestamp(clock, dt.UTC) + (_SKEW if zoned else _EASTERNMOST)
    return like(value, moment) if isinstance(value, dt.date | str) else None


def _has_zone(value: Any) -> bool:
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    return bool(found is not None and found[6])
