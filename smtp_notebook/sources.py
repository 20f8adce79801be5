"""Where a watch finds its rows: what a source is, and those that come with the package.

A source is asked in a thread of its own and never in two at once. It gives every row again until it is told, by a
later cursor, that those rows are in the journal: so a crash between the two forgets nobody, and the journal mails
nobody twice.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import datetime as dt
import fnmatch
import hashlib
import inspect
import json
import math
import os
import re
import stat
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, runtime_checkable

from smtp_notebook import database
from smtp_notebook.addresses import shortened
from smtp_notebook.outcome import MailError, OptionError, Outcome, SourceError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Batch", "Part", "Since", "Source", "Wanted", "as_source", "csv_folder", "sql"]

#: From when on rows count: ``"now"``, ``"all"``, or a moment with its time zone.
Since = Literal["now", "all"] | dt.datetime


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that came together, such as those of one file.

    Attributes:
        name: What they came in, for a person: a file's name, an object's; "" for nothing in particular.
        rows: What `mail_merge` takes as *df*: a DataFrame, or a list of dicts.
    """

    name: str
    rows: Any


@dataclass(frozen=True, slots=True)
class Batch:
    """What a source gives at one time.

    Attributes:
        parts: In the order in which they arrived. Where two parts have a row of the same key, the later one counts;
            two such rows in one part are a problem of those rows.
        cursor: JSON values; what `Source.read` is to be given next, once these rows are in the journal. None for a
            source that gives every row each time.
        notes: What a person should hear, such as a file that cannot be read. It keeps nothing else back.
    """

    parts: tuple[Part, ...] = ()
    cursor: Any = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Rows that an earlier poll left open and that have to be read again.

    Attributes:
        columns: The key columns.
        keys: The keys, in the canonical form of `frames.canonical_key`.
        key_of: Returns a row's key in that form, or "" where it has none.
    """

    columns: tuple[str, ...]
    keys: tuple[str, ...]
    key_of: Callable[[Mapping[str, Any]], str]


@runtime_checkable
class Source(Protocol):
    """Where a watch finds its rows. Whatever it raises is shown, and tried again later.

    Two further methods are called where a source has them: ``prepare()`` on the thread of the person's cell before
    anything is read, so that it may ask for a password; and ``for_template(template)``, which returns the source with
    what that template needs.

    Attributes:
        name: What it is, in a few words, for a person; without any secret.
        key: The columns that identify its rows where nobody says otherwise; () for none.
    """

    name: str
    key: tuple[str, ...]

    def begin(self, since: Since) -> Batch:
        """Return what a first start finds: rows that count as there already, and the cursor to go on from.

        With ``"all"`` there are none, and the cursor is where everything begins.

        Raises:
            OptionError: This source cannot tell what was there at that moment.
        """
        ...

    def read(self, cursor: Any) -> Batch:
        """Return the rows behind *cursor*, those of an overlap too, and the next cursor."""
        ...

    def again(self, wanted: Wanted) -> Batch:
        """Return those of the wanted rows that there are, as they are now; a row that is gone is left out."""
        ...

    def sent(self, outcomes: Sequence[Outcome], rows: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
        """Note at the source that rows were mailed, and return the keys for which that is done.

        Called with rows that went to all or some of their recipients, at least once for each, and again for those
        whose key it did not return. *rows* has each row's cells by its key, where they are at hand.
        """
        ...


# --------------------------------------------------------------------------------------- a function


def as_source(given: Any, template: Any = None) -> Source:
    """Return *given* where it is a source, or a function that returns rows as one.

    The rows of a function are a DataFrame, whatever else `mail_merge` takes, an iterator of dicts, or None for no
    rows; an ``async def`` is run to its end. It is asked for all of them each time.

    Args:
        given: The source, or the function.
        template: For whom the rows are: a source that can do so reads what this template needs
            (``given.for_template(template)``).

    Raises:
        OptionError: It is neither.
    """
    if not isinstance(given, type):
        if isinstance(given, Source):
            fitted = getattr(given, "for_template", None)
            return fitted(template) if template is not None and callable(fitted) else given
        if hasattr(given, "read") and hasattr(given, "begin"):
            lacking = [name for name in ("name", "key", "again", "sent") if not hasattr(given, name)]
            cause = f"The {type(given).__name__} is half a source: it has no {' and no '.join(lacking)}."
            raise OptionError(cause, "See smtp_notebook.sources.Source.")
        if callable(given):
            return _Function(given)
    raise OptionError(f"A {type(given).__name__} is no source of rows.", _remedy(given))


def _remedy(given: Any) -> str:
    if isinstance(given, str | os.PathLike):
        return (
            "Give csv_folder(…), sql(…), or a function that reads the rows, such as lambda: pd.read_csv(…)."
        )
    if inspect.iscoroutine(given):
        given.close()
        return "Give the async function itself, without calling it."
    if isinstance(given, list | tuple) or hasattr(given, "columns"):
        return "Its rows would stay the same: give a function that reads it, such as lambda: pd.read_csv('leads.csv')."
    return "Give a function that returns rows, or csv_folder(…), sql(…) or salesforce(…)."


class _Function:
    """Rows that a function gives: all of them, each time."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        name = getattr(function, "__name__", type(function).__name__)
        self.name = "a function" if name == "<lambda>" else f"{name}()"
        self.key: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<source {self.name}>"

    def begin(self, since: Since) -> Batch:
        if isinstance(since, dt.datetime):
            cause = f"{self.name} gives all its rows each time, and cannot tell which were there at a moment."
            raise OptionError(
                cause, 'Let it give the newer rows alone, with since="all"; or use since="now".'
            )
        return Batch() if since == "all" else self.read(None)

    def read(self, _: Any) -> Batch:
        rows = self._function()
        if inspect.isawaitable(rows):
            rows = asyncio.run(_awaited(rows))
        if rows is None:
            return Batch()
        return Batch((Part("", list(rows) if isinstance(rows, Iterator) else rows),))

    def again(self, _: Wanted) -> Batch:
        # They come with every read.
        return Batch()

    def sent(self, outcomes: Sequence[Outcome], _: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
        return [outcome.key for outcome in outcomes]


async def _awaited(rows: Awaitable[Any]) -> Any:
    return await rows


# ----------------------------------------------------------------------------------------- a folder


def csv_folder(
    path: str | Path,
    *,
    pattern: str | Sequence[str] = ("*.csv", "*.tsv"),
    quiet: float = 5.0,
    recursive: bool = False,
    key: str | Sequence[str] = (),
    delimiter: str | None = None,
    encoding: str | None = None,
    sheet: str | int = 0,
) -> Source:
    """Return a source of the files that are dropped into a folder, such as a CRM's exports.

    Each file is read once, and again whenever its size or its time of change is another. They count in the order of
    their times: where two have a row of the same key, the later file's is mailed. Reading and deciding what a cell is
    are those of `tabular.read_table`: no line is dropped, and a column becomes numbers only where nothing is lost.

    - A file that is still being written is left alone: it counts when nothing touched it for *quiet* seconds, or 12
      times as long where its last line has no end, and it came after the watch began. Hidden files, and names such as ``leads.csv.part``, ``~$leads.xlsx`` and ``.~lock.leads.csv#`` never count; the safest
      writer writes under such a name and renames the file when it is whole.
    - A file that cannot be read as a table is left out with a note, and read again when it changes. It keeps no other
      file back.
    - With ``since="now"`` the rows of all whole files were there already. A file that is being written at that moment
      is just arriving: its rows are new. So are those of a file that cannot be read then, once it is mended. With a
      moment, what changed last before it was there already.
    - A folder that is missing, or has become empty, is not taken for one whose files were deleted: what was read stays
      read when it comes back.

    Args:
        path: The folder.
        pattern: Which names count, as a shell writes it, in any case; one or several. The suffix says how a file is
            read: ``.csv``, ``.tsv``, ``.txt``, ``.xlsx``, ``.parquet``, ``.jsonl`` and the others of `read_table`.
        quiet: Seconds without a change after which a file is whole; 0 where it is always renamed into place.
        recursive: Whether the folders below count too; links to folders are not followed.
        key: The columns that identify a row where `watch` names none.
        delimiter: What separates the cells; None finds it in each file.
        encoding: That of the files; None finds it in each file.
        sheet: Which sheet of a spreadsheet.

    Raises:
        OptionError: A pattern with a folder in it or of files that cannot be read, *quiet* below 0, or a URL.
    """
    reading = {"delimiter": delimiter, "encoding": encoding, "sheet": sheet}
    return _Folder(
        Path(path).expanduser(), _patterns(pattern), quiet, columns_of(key), reading, recursive=recursive
    )


def columns_of(key: str | Sequence[str]) -> tuple[str, ...]:
    """Return the key columns that a person gave: one name, or several."""
    return ((key,) if key else ()) if isinstance(key, str) else tuple(map(str, key))


def _patterns(given: str | Sequence[str]) -> tuple[str, ...]:
    patterns = (given,) if isinstance(given, str) else tuple(given)
    for each in patterns:
        if not isinstance(each, str) or not each or "/" in each or os.sep in each:
            raise OptionError(
                f"pattern={each!r} is no pattern of names.", 'Write "*.csv", or recursive=True.'
            )
    if not patterns:
        raise OptionError("pattern= is empty, so that no file would count.", 'Write "*.csv".')
    return tuple(each.casefold() for each in patterns)


#: The time of day, in seconds since 1970, and seconds that only grow.
CLOCK: Callable[[], float] = time.time
TIMER: Callable[[], float] = time.monotonic
#: Names of what is not a file yet, or any more.
_PASSING = re.compile(
    r"[.~].*|.*~|.*\.(?:part|partial|tmp|temp|crdownload|download|filepart|swp|lock|lck|bak)", re.IGNORECASE
)
_LINES = frozenset({".csv", ".tsv", ".tab", ".txt", ".jsonl", ".ndjson"})
#: How many times as long as another a file is left alone that may have been cut off within its last line.
_UNENDED = 12
#: How many octets of files one poll reads; the rest follows with the next.
_MOST_AT_ONCE = 256 << 20
#: How many findings of `again` are remembered.
_MOST_KNOWN = 200_000


@dataclass(frozen=True, slots=True)
class _File:
    """A file at one moment.

    Attributes:
        name: Its path below the folder.
        path: Its path.
        size: In octets.
        mtime_ns: When its content changed last, as the file says: a copy may bring it along.
        touched: When the system changed it last, in seconds.
    """

    name: str
    path: str
    size: int
    mtime_ns: int
    touched: float

    @property
    def token(self) -> str:
        """Itself in 16 characters: another where its name, size or time is another."""
        text = b"%s\0%d\0%d" % (os.fsencode(self.name), self.size, self.mtime_ns)
        return base64.urlsafe_b64encode(hashlib.blake2b(text, digest_size=12).digest()).decode()


class _Folder:
    """The files of a folder; see `csv_folder`."""

    def __init__(
        self,
        path: Path,
        patterns: tuple[str, ...],
        quiet: float,
        key: tuple[str, ...],
        reading: Mapping[str, Any],
        *,
        recursive: bool,
    ) -> None:
        if "://" in str(path) or ":/" in path.as_posix()[2:]:
            raise OptionError("A URL is no folder on this machine, and nothing is fetched.", "Give a path.")
        if not isinstance(quiet, int | float) or not 0 <= quiet < math.inf:
            raise OptionError(f"quiet={quiet!r} is no number of seconds.", "Give 0 or more.")
        self._path = path.absolute()
        self._patterns = patterns
        self._quiet = float(quiet)
        self._reading = reading
        self._recursive = recursive
        self.name = f"folder {path.name or str(path)}"
        self.key = key
        #: When each file was first seen as it is, by its token.
        self._seen: dict[str, float] = {}
        #: What the last `read` made of files, by their tokens, for as long as nobody hands back a cursor behind them: a
        #: watch that waits for approval asks again and again.
        self._kept: dict[str, tuple[pd.DataFrame, Sequence[str]]] = {}
        #: What `again` found in each file, by its token: the keys that were looked for, and the rows of those there.
        self._known: dict[str, tuple[set[str], _Rows]] = {}

    def __repr__(self) -> str:
        return f"<source {self.name}>"

    # ------------------------------------------------------------------------------------- looking

    def _look(self) -> tuple[list[_File], list[_File], list[str]]:
        """Return the files that are whole, oldest first, those that are not, and what could not be looked at."""
        found: list[_File] = []
        notes: list[str] = []
        try:
            self._scan(str(self._path), "", found, notes)
        except OSError as error:
            cause = f"The folder {shortened(str(self._path))} cannot be read: {error.strerror or error}."
            raise SourceError(cause, "Check that it is there, and who may read it.") from None
        timer = TIMER()
        self._seen = {file.token: self._seen.get(file.token, timer) for file in found}
        found.sort(key=lambda file: (file.mtime_ns, file.name))
        whole: list[_File] = []
        growing: list[_File] = []
        for file in found:
            (whole if self._age(file) >= self._quiet else growing).append(file)
        return whole, growing, notes

    def _age(self, file: _File) -> float:
        """Return for how many seconds nothing touched a file, by the clock of its disk or since it was seen as it is."""
        return max(CLOCK() - file.touched, TIMER() - self._seen[file.token])

    def _scan(self, folder: str, below: str, found: list[_File], notes: list[str]) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _PASSING.fullmatch(entry.name):
                    continue
                try:
                    if self._recursive and entry.is_dir(follow_symlinks=False):
                        self._scan(entry.path, f"{below}{entry.name}/", found, notes)
                    elif self._counts(entry.name):
                        found.extend(_looked_at(entry, below))
                except FileNotFoundError:
                    continue  # gone meanwhile, or a link to nowhere
                except OSError as error:
                    notes.append(
                        f"{shortened(below + entry.name)} cannot be read: {error.strerror or error}."
                    )

    def _counts(self, name: str) -> bool:
        folded = name.casefold()
        return any(fnmatch.fnmatchcase(folded, pattern) for pattern in self._patterns)

    # ------------------------------------------------------------------------------------- reading

    def begin(self, since: Since) -> Batch:
        whole, growing, notes = self._look()
        if since == "all":
            return Batch(cursor={"read": []}, notes=tuple(notes))
        notes += _left_alone(growing, self._quiet)
        if isinstance(since, dt.datetime):
            moment = int(since.timestamp() * 1e9)
            whole = [file for file in whole if file.mtime_ns < moment]
        parts, read, unread = self._parts(whole, notes)
        if unread:
            cause = (
                f"{shortened(unread[0].name)} cannot be read yet, so nobody knows whether its rows are new."
            )
            raise SourceError(cause, "Wait until it is whole, check who may read it, or take it away.")
        return Batch(tuple(parts), {"read": sorted(read)}, tuple(notes))

    def read(self, cursor: Any) -> Batch:
        whole, growing, notes = self._look()
        known, blind = _tokens(cursor), bool(notes)
        if not whole and not growing:
            # An empty folder may be one whose disk is not there: what was read stays read.
            return Batch(cursor=cursor, notes=tuple(notes))
        fresh = _at_once([file for file in whole if file.token not in known], notes)
        asked = {file.token for file in fresh}
        self._kept = {token: kept for token, kept in self._kept.items() if token in asked}
        notes += _left_alone([file for file in growing if file.token not in known], self._quiet)
        parts, read, _ = self._parts(fresh, notes, keep=True)
        there = {file.token for file in (*whole, *growing)}
        if blind:
            # What stands where nobody could look is not gone.
            there |= known
        after = sorted((known & there) | read)
        return Batch(tuple(parts), {"read": after} if after != sorted(known) else cursor, tuple(notes))

    def _parts(
        self, files: Sequence[_File], notes: list[str], *, keep: bool = False
    ) -> tuple[list[Part], set[str], list[_File]]:
        """Read files; return their rows, the tokens of those that are done with, and those that nobody may read."""
        parts: list[Part] = []
        done: set[str] = set()
        left: list[_File] = []
        for file in files:
            try:
                rows, said = self._kept.get(file.token) or self._rows(file, patient=keep)
            except MailError as error:
                # It is as it is: it is read again when it changes.
                notes.append(_named(file, error))
            except _UnendedError:
                said = f"{shortened(file.name)} ends within a line"
                notes.append(
                    f"{said}: it is read once nothing has touched it for {_UNENDED * self._quiet:g} s."
                )
                continue
            except _LaterError as error:
                if str(error):
                    left.append(file)
                    notes.append(str(error))
                continue
            else:
                parts.append(Part(file.name, rows))
                notes += said
                if keep:
                    self._kept[file.token] = (rows, said)
            done.add(file.token)
        return parts, done, left

    def _rows(self, file: _File, *, patient: bool = False) -> tuple[pd.DataFrame, Sequence[str]]:
        """Return the rows of a file, and what is to be said of them; *patient* with one that ends within a line."""
        from smtp_notebook import tabular

        notes: list[str] = []
        try:
            with Path(file.path).open("rb") as opened:
                _same(opened.fileno(), file)
                if patient and self._age(file) < _UNENDED * self._quiet and _ends_within_a_line(opened):
                    raise _UnendedError
                frame = tabular.read_table(opened, name=file.name, note=notes.append, **self._reading)
                _same(opened.fileno(), file)
        except OSError as error:
            message = f"{shortened(file.name)} cannot be read: {error.strerror or error}."
            raise _LaterError(message) from None
        return frame, notes

    # --------------------------------------------------------------------------------------- again

    def again(self, wanted: Wanted) -> Batch:
        whole, _, notes = self._look()
        self._forget({file.token for file in whole})
        missing = set(wanted.keys)
        found: list[Part] = []
        octets = 0
        for file in reversed(whole):
            if not missing:
                break
            looked, rows = self._known.get(file.token, (set[str](), _Rows()))
            if missing - looked:
                if octets and octets + file.size > _MOST_AT_ONCE:
                    notes.append(f"{len(missing):,} rows are looked for in older files with the next poll.")
                    break
                octets += file.size
                looked, rows = self._searched(file, wanted, missing, notes)
            here = [row for key in wanted.keys if key in missing for row in rows.get(key, ())]
            missing -= rows.keys()
            if here:
                found.append(Part(file.name, here))
        return Batch(tuple(reversed(found)), notes=tuple(notes))

    def _searched(
        self, file: _File, wanted: Wanted, missing: set[str], notes: list[str]
    ) -> tuple[set[str], _Rows]:
        """Look for rows in a file, and remember what came of it."""
        before, rows = self._known.get(file.token, (set[str](), _Rows()))
        try:
            frame, _ = self._rows(file)
        except MailError as error:
            notes.append(_named(file, error))
            fresh = _Rows()
        except _LaterError:
            return before, rows
        else:
            fresh = _picked(frame, wanted, missing)
        known = (before | missing, _Rows(rows | fresh))
        self._known[file.token] = known
        return known

    def _forget(self, there: set[str]) -> None:
        self._known = {token: known for token, known in self._known.items() if token in there}
        if sum(len(looked) for looked, _ in self._known.values()) > _MOST_KNOWN:
            self._known.clear()

    def sent(self, outcomes: Sequence[Outcome], _: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
        return [outcome.key for outcome in outcomes]


class _Rows(dict[str, list[dict[str, Any]]]):
    """Rows by their keys."""


class _LaterError(Exception):
    """A file that cannot be read now, and may be at the next look."""


class _UnendedError(_LaterError):
    """A file whose last line has no end: it may have been cut off there."""


def _left_alone(files: Sequence[_File], quiet: float) -> list[str]:
    """Say that files are not read yet, because something may still be writing them."""
    if not files:
        return []
    more = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
    return [f"{shortened(files[0].name)}{more}: not read before nothing has touched it for {quiet:g} s."]


def _looked_at(entry: os.DirEntry[str], below: str) -> Iterator[_File]:
    facts = entry.stat()
    if stat.S_ISREG(facts.st_mode):
        # On Windows st_ctime is when the file was made.
        touched = facts.st_mtime if os.name == "nt" else facts.st_ctime
        yield _File(below + entry.name, entry.path, facts.st_size, facts.st_mtime_ns, touched)


def _same(number: int, file: _File) -> None:
    """Make sure that an open file is as it was when it was looked at."""
    facts = os.fstat(number)
    if (facts.st_size, facts.st_mtime_ns) != (file.size, file.mtime_ns):
        raise _LaterError


def _ends_within_a_line(file: BinaryIO) -> bool:
    """Tell whether a text file has no end of its last line; half an address may be an address."""
    if Path(file.name).suffix.lower() not in _LINES:
        return False
    octets = file.seek(0, os.SEEK_END)
    file.seek(max(0, octets - 2))
    last = file.read()
    file.seek(0)
    # The third is UTF-16's, the lower octet first.
    return not last.endswith((b"\n", b"\r", b"\n\0"))


def _at_once(files: Sequence[_File], notes: list[str]) -> Sequence[_File]:
    """Return as many files as one poll reads."""
    octets = 0
    for count, file in enumerate(files):
        octets += file.size
        if count and octets > _MOST_AT_ONCE:
            notes.append(f"{len(files) - count:,} more files are read with the next poll.")
            return files[:count]
    return files


def _tokens(cursor: Any) -> set[str]:
    read = cursor.get("read") if isinstance(cursor, Mapping) else None
    return {token for token in read if isinstance(token, str)} if isinstance(read, list) else set()


def _named(file: _File, error: MailError) -> str:
    text = str(error)
    return text if file.name in text else f"{shortened(file.name)}: {text}"


def _picked(frame: pd.DataFrame, wanted: Wanted, missing: set[str]) -> _Rows:
    """Return the wanted rows of a frame by their keys; two rows of one key are both there, and a problem still."""
    if any(column not in frame.columns for column in wanted.columns):
        return _Rows()
    cells = [frame[column].tolist() for column in wanted.columns]
    keys: list[str] = []
    places: list[int] = []
    for place, values in enumerate(zip(*cells, strict=True)):
        key = wanted.key_of(dict(zip(wanted.columns, values, strict=True)))
        if key in missing:
            keys.append(key)
            places.append(place)
    found = _Rows()
    for key, row in zip(keys, frame.iloc[places].astype(object).to_dict("records"), strict=True):
        found.setdefault(key, []).append({str(name): cell for name, cell in row.items()})
    return found


# --------------------------------------------------------------------------------------- a database


def sql(
    engine: Any,
    query: Any,
    *,
    cursor: str | None = None,
    overlap: float = 900.0,
    key: str | Sequence[str] = (),
    params: Mapping[str, Any] | Sequence[Any] | None = None,
    timeout: float = 60.0,
) -> Source:
    """Return a source of the rows of a query.

    The database is only read: nothing is committed, and PostgreSQL and SQLite are told to refuse whatever writes. Each
    poll opens a connection in its own thread and closes it, or gives it back to the engine's pool.

    Without *cursor* every poll reads every row, which is right for some thousands. With it only what came later is
    read: the rows from the greatest value so far on, less *overlap*, because a transaction that began earlier may be
    committed later. What is read twice is mailed once. A row that becomes visible later than *overlap* is missed; so
    is one whose value is changed to an earlier one.

    - With ``since="now"`` reading begins at the database's greatest value, not at this machine's clock; the rows of the
      overlap before it were there already.
    - A time that lies ahead of this machine's clock is somebody's typing error, and hides nothing: such a row counts as
      any other, and is read with every poll. Of times without a zone that is known from 14 hours on.
    - Times without a zone are taken as they are, and as UTC where ``since=`` is a moment. Where they follow a local
      clock, the hour that comes twice in autumn needs ``overlap=4000``.
    - Text sorts as text: such a column has to hold times as ``2026-11-29 10:00:00``, all of one form, as SQLite's do.
    - A row without a value there cannot be placed: with ``"now"`` or a moment it was there already; later it is read
      with every poll, which a note says, and mailed once.

    Args:
        engine: SQLAlchemy's Engine, a database's URL without a password, or a function that returns an Engine or opens
            a connection of PEP 249, such as ``lambda: sqlite3.connect("crm.db")``.
        query: Text, or what SQLAlchemy's ``select()`` returns; whatever may stand in a FROM in parentheses.
        cursor: The column of the result, a time or a growing number, that says what came later. The best is when the
            row was written, set by the database. With one that changes, such as ``updated_at``, a row that was there
            already is mailed when it is changed.
        overlap: Seconds; of a column of numbers, how far below the greatest one.
        key: The columns that identify a row where `watch` names none.
        params: Values for the places of the query: names of an Engine's ``:name``, or what the driver takes.
        timeout: Seconds until a query is given up, by PostgreSQL, or until a locked SQLite file is.

    Raises:
        OptionError: It is no engine, query or column that can be meant.
        SettingsError: SQLAlchemy or the driver is missing, or a password stands in the URL. When it is read: the
            database takes no such user or password; a watch ends then, for to try that again locks accounts.
    """
    for name, value in (("overlap", overlap), ("timeout", timeout)):
        if (
            not isinstance(value, int | float)
            or not 0 <= value < math.inf
            or (name == "timeout" and not value)
        ):
            raise OptionError(f"{name}={value!r} is no number of seconds.", "Give more than 0.")
    if cursor is not None and not (isinstance(cursor, str) and cursor):
        raise OptionError("cursor= is no name of a column.", 'Write cursor="created_at".')
    return _Query(database.opened(engine, query, params, timeout), cursor, overlap, columns_of(key))


#: How many rows beyond the last place one poll reads; the rest follows with the next.
_MOST_ROWS = 100_000
_IN = 200
#: How long a key that no row has is not looked for in every row again, in seconds.
_REST = 3600.0
_MANY = 100_000


class _Query:
    """The rows of a query; see `sql`."""

    def __init__(self, base: database.Database, by: str | None, overlap: float, key: tuple[str, ...]) -> None:
        self._base = base
        self._by = by
        self._overlap = overlap
        self.name = base.name
        self.key = key
        #: When each key was last looked for in every row and not found.
        self._absent: dict[str, float] = {}
        #: How the database writes a key that it did not know in its canonical form.
        self._spelled: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<source {self.name}>"

    def begin(self, since: Since) -> Batch:
        if self._by is None:
            if isinstance(since, dt.datetime):
                cause = "A query without cursor= cannot tell which rows were there at a moment."
                raise OptionError(cause, 'Name a column: cursor="created_at".')
            return Batch() if since == "all" else self.read(None)
        with self._base.session() as session:
            by = _found(session, self._by)
            latest = _first(session.cells(by, newest=True), _reached if since == "now" else iter)
            if since == "all" or latest is None:
                # In an empty table nothing was there: all that comes is new. What lies ahead was there, and says nothing.
                batch = Batch() if since == "all" else _batch(list(session.rows(order=by)), by)
                return dataclasses.replace(batch, cursor=self._place(None, None))
            database.pack(latest)
            at = latest if since == "now" else database.like(latest, since)
            floor = database.earlier(at, self._overlap)
            rows = list(session.rows(database.NotBelow(by, floor), by))
            if since != "now":
                rows = [row for row in rows if row[by] is None or row[by] < at]
            return _batch(rows, by, self._place(at, floor), _zone_note(latest, since, by))

    def read(self, cursor: Any) -> Batch:
        if self._by is None:
            if cursor is not None:
                raise _other(cursor)
            with self._base.session() as session:
                return Batch((Part("", list(session.rows())),))
        last, floor = self._unpacked(cursor)
        with self._base.session() as session:
            by = _found(session, self._by)
            start = last if last is None else database.earlier(last, self._overlap)
            if floor is not None and floor > start:
                start = floor
            where = None if start is None else database.NotBelow(by, start)
            rows, more = _some(session.rows(where, by), by, last)
        notes = ("There are more rows; they are read with the next poll.",) if more else ()
        newest = next(_reached(row[by] for row in reversed(rows)), None)
        moved = newest is not None and newest != last
        return _batch(rows, by, self._place(newest, floor) if moved else cursor, notes)

    def _place(self, last: Any, floor: Any) -> dict[str, Any]:
        """Return a cursor: how far was read, and what came before the watch and is never read."""
        packed = [None if value is None else database.pack(value) for value in (last, floor)]
        return {"by": self._by, "last": packed[0], "floor": packed[1]}

    def _unpacked(self, cursor: Any) -> tuple[Any, Any]:
        if cursor is None:
            return None, None
        if not isinstance(cursor, Mapping) or cursor.get("by") != self._by:
            raise _other(cursor)
        last, floor = (cursor.get(name) for name in ("last", "floor"))
        return (
            None if last is None else database.unpack(last),
            None if floor is None else database.unpack(floor),
        )

    # --------------------------------------------------------------------------------------- again

    def again(self, wanted: Wanted) -> Batch:
        if self._by is None:
            # They come with every read.
            return Batch()
        with self._base.session() as session:
            if not wanted.keys or any(column not in session.columns for column in wanted.columns):
                return Batch()
            found = self._asked_for(session, wanted)
            now = TIMER()
            rest = {key for key in wanted.keys if key not in found and not self._rests(key, now)}
            if rest:
                self._searched(session, wanted, rest, found)
                self._absent |= dict.fromkeys(rest - found.keys(), now)
        return (
            Batch((Part("", [row for key in wanted.keys for row in found.get(key, ())]),))
            if found
            else Batch()
        )

    def _rests(self, key: str, now: float) -> bool:
        return now - self._absent.get(key, -math.inf) < _REST

    def _asked_for(self, session: database.Session, wanted: Wanted) -> _Rows:
        """Return what the database finds by the first key column; it may have a key in another form."""
        found = _Rows()
        column = wanted.columns[0]
        sample = _first(session.cells(column))
        keys = set(wanted.keys)
        for start in range(0, len(wanted.keys), _IN):
            some = wanted.keys[start : start + _IN]
            forms = list(_forms([_first_key(key, wanted.columns) for key in some], sample))
            forms.append((False, tuple(self._spelled[key] for key in some if key in self._spelled)))
            for folded, values in forms:
                if values:
                    for row in session.rows(database.OneOf(column, values, folded), column):
                        _keep(found, row, keys, wanted)
        return found

    def _searched(self, session: database.Session, wanted: Wanted, rest: set[str], found: _Rows) -> None:
        """Look through every row, and remember how the database writes what is found."""
        if len(self._absent) + len(self._spelled) > _MANY:
            self._absent.clear()
            self._spelled.clear()
        for row in session.rows(order=wanted.columns[0]):
            key = _keep(found, row, rest, wanted)
            if key:
                self._spelled[key] = row[wanted.columns[0]]

    def sent(self, outcomes: Sequence[Outcome], _: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
        return [outcome.key for outcome in outcomes]


def _other(cursor: Any) -> OptionError:
    by = cursor.get("by") if isinstance(cursor, Mapping) else None
    cause = f"This campaign was begun with cursor={by!r}: nobody knows how far another column was read."
    return OptionError(cause, "Leave cursor= as it was, or give the campaign another name.")


def _found(session: database.Session, name: str) -> str:
    """Return a column by the name that a person wrote; a database may write it in another case."""
    if name in session.columns:
        return name
    near = [column for column in session.columns if column.casefold() == name.casefold()]
    if len(near) == 1:
        return near[0]
    known = ", ".join(map(repr, list(session.columns)[:20]))
    raise OptionError(f"The query has no column {name!r}.", f"There are {known}.")


def _first(cells: Iterator[Any], which: Callable[[Iterator[Any]], Iterator[Any]] = iter) -> Any:
    """Return the first cell of those that count, or None, and let the rest be."""
    try:
        return next(which(cells), None)
    finally:
        close = getattr(cells, "close", None)
        if close is not None:
            close()


def _some(rows: Iterator[dict[str, Any]], by: str, last: Any) -> tuple[list[dict[str, Any]], bool]:
    """Return the rows up to the last place and a bounded number beyond it, and whether there are more."""
    taken: list[dict[str, Any]] = []
    beyond = 0
    for row in rows:
        value = row[by]
        new = value is not None and (last is None or value > last)
        if new and beyond >= _MOST_ROWS and value != taken[-1][by]:
            rows.close()  # type: ignore[attr-defined]  # a generator
            return taken, True
        beyond += new
        taken.append(row)
    return taken, False


def _batch(rows: Sequence[dict[str, Any]], by: str, cursor: Any = None, notes: Sequence[str] = ()) -> Batch:
    placed = [row[by] for row in rows if row[by] is not None]
    lost, ahead = len(rows) - len(placed), len(placed) - sum(1 for _ in _reached(placed))
    if lost:
        notes = (*notes, f"{lost:,} rows have no {by}: they are read with every poll.")
    if ahead:
        notes = (*notes, f"{ahead:,} rows have a {by} that lies ahead: they are read with every poll.")
    return Batch((Part("", list(rows)),) if rows else (), cursor, tuple(notes))


def _reached(values: Iterable[Any]) -> Iterator[Any]:
    """Yield those of a column's values that time has reached."""
    end: Any = None
    for value in values:
        if value is None:
            continue
        if end is None:
            database.pack(value)
            end = database.latest_by(value, CLOCK())
        if end is None or value <= end:
            yield value


def _zone_note(latest: Any, since: Since, by: str) -> tuple[str, ...]:
    naive = isinstance(latest, dt.datetime) and latest.tzinfo is None
    naive = naive or (isinstance(latest, str) and latest[-1:] != "Z" and latest[-6:-5] not in {"+", "-"})
    if since == "now" or not naive:
        return ()
    return (f"{by} has no time zone; it was taken as UTC.",)


def _keep(found: _Rows, row: dict[str, Any], keys: Collection[str], wanted: Wanted) -> str:
    """Keep a row that is wanted, and return its key, or ""."""
    key = wanted.key_of(row)
    if key not in keys:
        return ""
    rows = found.setdefault(key, [])
    if row not in rows:
        rows.append(row)
    return key


def _first_key(key: str, columns: Sequence[str]) -> str:
    """Return the first part of a key, which is JSON where several columns make it."""
    if len(columns) == 1:
        return key
    try:
        parts = json.loads(key)
    except ValueError:
        return key
    return str(parts[0]) if isinstance(parts, list) and parts else key


def _forms(keys: Sequence[str], sample: Any) -> Iterator[tuple[bool, tuple[Any, ...]]]:
    """Yield the cells that may have these keys, and whether they are compared in small letters.

    A key is the canonical form of a cell (`frames.canonical_key`); *sample* is any cell of that column.
    """
    if isinstance(sample, str):
        addresses = tuple(key for key in keys if "@" in key)
        yield True, addresses
        yield False, tuple(key for key in keys if "@" not in key)
    elif isinstance(sample, int) and not isinstance(sample, bool):
        yield False, tuple(int(key) for key in keys if re.fullmatch(r"-?[0-9]{1,18}", key))
    elif isinstance(sample, Decimal):
        yield (
            False,
            tuple(Decimal(key) for key in keys if re.fullmatch(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?", key)),
        )
    elif isinstance(sample, uuid.UUID):
        yield False, tuple(uuid.UUID(key) for key in keys if re.fullmatch(r"[0-9a-fA-F-]{32,36}", key))
