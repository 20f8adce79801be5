"""Who asked to be left alone, or cannot be reached: the addresses that no merge mails.

The list is one SQLite file of one person, beside the journal and apart from it: it counts for every campaign, and a
campaign that is forgotten does not take it along. Addresses are compared in their wire form and with their case
folded, the local part too: RFC 5321, 2.4, lets a server tell ``Ann`` from ``ann``, and nobody who asked to be left
alone shall be mailed because of a capital letter.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime as dt
import html
import io
import os
import re
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self, runtime_checkable

from smtp_notebook import _html
from smtp_notebook.addresses import Address, shortened, split_addresses
from smtp_notebook.holder import publish, stamp
from smtp_notebook.outcome import AddressError, JournalError, MessageError, Outcome, Report, State
from smtp_notebook.replies import one_line
from smtp_notebook.schema import checksum

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "GONE",
    "Proposal",
    "Suppression",
    "Suppressions",
    "among",
    "gone",
    "proposed",
    "suppress",
    "unsuppress",
]

PATH_VARIABLE = "SMTP_NOTEBOOK_SUPPRESSIONS"
#: What says for good that an address takes no mail, as IANA's registry of enhanced status codes describes it
#: (https://www.iana.org/assignments/smtp-enhanced-status-codes): no such mailbox (5.1.1), moved and not forwarded
#: (5.1.6), a domain that takes no mail (5.1.10, RFC 7505), a mailbox that is switched off (5.2.1). RFC 3463, 3.2 and
#: 3.3. A domain that does not resolve (5.1.2) may be a fault of the day, and a policy (5.7.x) says nothing of the address.
GONE = frozenset({"5.1.1", "5.1.6", "5.1.10", "5.2.1"})
_NOT_THERE = frozenset({"5.1.1", "5.1.6", "5.1.10"})
#: An answer of a server to one recipient, as an Outcome has it.
_ANSWER = re.compile(r"5\d\d (?:The server refused the (?:recipient|mail): 5\d\d )?(5\.\d{1,3}\.\d{1,3})\b")
_FORM = 1
_BUSY_SECONDS = 10.0
_REASON = 300
_SHOWN = 20
_COLUMNS = ("address", "reason", "since", "source")
_EVERYTHING = "folded, address, reason, since, source, sum"
_TABLE = (
    "CREATE TABLE suppression (folded TEXT PRIMARY KEY, address TEXT NOT NULL, reason TEXT NOT NULL, "
    "since TEXT NOT NULL, source TEXT NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID"
)
#: What a table's column of addresses may be called.
_ADDRESS_COLUMNS = frozenset({"address", "email", "e-mail", "mail", "email address", "e-mail address"})
#: What makes a spreadsheet run a cell (CWE-1236).
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


#: Whom `suppress` takes.
Who = str | Address | Report | Iterable[str | Address]


class Proposal(NamedTuple):
    """An address that might be suppressed.

    Attributes:
        address: As a person or a server wrote it.
        reason: One sentence: why; may be "".
        source: Who says so: ``person``, ``refusal``, ``bounce``, ``complaint`` or ``import``.
    """

    address: str
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class Suppression:
    """One entry of the list.

    Attributes:
        address: The address in its wire form, or a whole domain as ``@example.com``.
        reason: Why, or "".
        since: Since when (UTC, ISO 8601).
        source: Who said so: ``person``, ``refusal``, ``bounce``, ``complaint`` or ``import``.
    """

    address: str
    reason: str
    since: str
    source: str

    @property
    def said(self) -> str:
        """The entry in words, for an Outcome."""
        who = f"everybody at {self.address[1:]}" if self.address.startswith("@") else self.address
        why = self.reason or {"complaint": "reported a mail as spam"}.get(self.source, "")
        return f"{who} is suppressed since {self.since[:10]}" + (f" ({why.rstrip('.')})" if why else "")


@runtime_checkable
class _Proposing(Protocol):
    """A report that knows by itself whom it speaks against; see `returns.Bounces`."""

    def proposals(self) -> list[Proposal]: ...


class Suppressions:
    """The list of those whom no merge mails: people who asked, and addresses that take no mail.

    Args:
        path: The file; by default what ``SMTP_NOTEBOOK_SUPPRESSIONS`` names, else ``suppressions.sqlite3`` in
            the user's state folder. It is made with the first address.

    It is iterated in the order of its addresses, as `Suppression`; ``"ann@example.com" in Suppressions()`` asks for
    one. What other processes change is seen with the next question. `mail_merge` always asks the default file.

    Raises:
        JournalError: The file cannot be read, or is damaged. A merge raises it too, and sends nothing: nobody who
            opted out is mailed because a file was broken.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = _given(path)
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._version: int | None = None
        self._entries: dict[str, tuple[str, ...]] = {}
        self._domains = False
        self.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the next question opens it again."""
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db, self._version = None, None

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, sqlite3.Error):
            if self._db is not None:
                self._db.close()

    # ----------------------------------------------------------------------------------------- reading

    def refresh(self) -> None:
        """Read the file where it changed since; costs microseconds where it did not.

        Raises:
            JournalError: It cannot be read, is damaged, or is not there any more.
        """
        with self._lock, self._explained():
            found = self._identity()
            if found is None:
                if self._file is not None:
                    cause = f"The suppression list {str(self.path)!r} is gone since it was last read."
                    raise JournalError(cause, "Put it back: without it nobody knows who is not to be mailed.")
                return
            if found != self._file or self._db is None:
                self.close()
                self._open()
                self._file = found
            assert self._db is not None
            version = int(self._db.execute("PRAGMA data_version").fetchone()[0])
            if version != self._version:
                self._load(self._db)
                self._version = version

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        if not found.st_size:
            raise self._damaged("it is empty, which such a file never is")
        return found.st_dev, found.st_ino

    def _open(self) -> None:
        self._db = _connected(self.path)
        checked = self._db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if checked != "ok":
            raise self._damaged(str(checked))
        form = self._db.execute("PRAGMA user_version").fetchone()[0]
        if form > _FORM:
            cause = f"The suppression list {str(self.path)!r} was written by a newer smtp_notebook."
            raise JournalError(cause, f"Upgrade this one, or name another file in {PATH_VARIABLE}.")
        if form < _FORM:
            raise self._damaged("it is another kind of file")

    def _load(self, db: sqlite3.Connection) -> None:
        entries: dict[str, tuple[str, ...]] = {}
        for folded, *values, total in db.execute(f"SELECT {_EVERYTHING} FROM suppression"):
            if checksum((folded, *values)) != total:
                raise self._damaged(f"the record of {folded!r} does not fit its checksum")
            entries[folded] = tuple(values)
        self._entries = entries
        self._domains = any(folded.startswith("@") for folded in entries)

    @property
    def empty(self) -> bool:
        """Whether it has no entries, as far as was read."""
        return not self._entries

    def concerns(self, recipients: Iterable[str]) -> bool:
        """Tell whether any of these addresses, in wire form, is listed, as far as was read; for every row of a merge."""
        entries, domains = self._entries, self._domains
        if entries:
            for recipient in recipients:
                folded = recipient.casefold()
                if folded in entries or (domains and folded[folded.rfind("@") :] in entries):
                    return True
        return False

    def listed(self, wire: str) -> Suppression | None:
        """Return the entry that speaks against an address in its wire form, as far as was read; or None.

        Nothing is parsed, and the file is not looked at.
        """
        folded = wire.casefold()
        values = self._entries.get(folded) or self._entries.get(folded[folded.rfind("@") :])
        return None if values is None else Suppression(*values)

    def find(self, address: str | Address) -> Suppression | None:
        """Return the entry that speaks against an address: its own, or its domain's; None when there is none.

        Raises:
            AddressError: It is no address.
        """
        self.refresh()
        return self.listed(_target(address))

    def __contains__(self, address: str | Address) -> bool:
        return self.find(address) is not None

    def __len__(self) -> int:
        self.refresh()
        return len(self._entries)

    def __iter__(self) -> Iterator[Suppression]:
        self.refresh()
        return iter([Suppression(*values) for _, values in sorted(self._entries.items())])

    def to_frame(self) -> pd.DataFrame:
        """Return the list as a DataFrame: address, reason, since (UTC) and source."""
        import pandas as pd

        rows = [(e.address, e.reason, e.since, e.source) for e in self]
        frame = pd.DataFrame(rows, columns=list(_COLUMNS), dtype=object)
        return frame.assign(since=pd.to_datetime(frame["since"], utc=True, format="ISO8601"))

    # ----------------------------------------------------------------------------------------- writing

    def add(self, who: Who, reason: str = "") -> tuple[str, ...]:
        """Put addresses on the list, all or none; return those that were not on it. See `suppress`.

        An entry that is there keeps its date. What a person says replaces its reason; what a machine found does not.

        Raises:
            AddressError: One of them is no address; nothing was changed.
            JournalError: The file cannot be read or written.
        """
        now = stamp()
        return self._put(
            [
                Suppression(_target(p.address), one_line(p.reason, _REASON), now, p.source)
                for p in _proposals(who, reason)
            ]
        )

    def _put(self, entries: Sequence[Suppression]) -> tuple[str, ...]:
        if not entries:
            return ()
        added: list[str] = []
        with self._writing() as db:
            for given in entries:
                folded, entry = given.address.casefold(), given
                before = self._entries.get(folded)
                if before is None:
                    added.append(given.address)
                elif given.source == "person" and given.reason:
                    entry = dataclasses.replace(given, address=before[0], since=before[2])
                else:
                    continue
                values = (folded, entry.address, entry.reason, entry.since, entry.source)
                db.execute(
                    "INSERT OR REPLACE INTO suppression VALUES (?, ?, ?, ?, ?, ?)",
                    (*values, checksum(values)),
                )
                self._entries[folded] = values[1:]
        return tuple(added)

    def remove(self, address: str | Address) -> bool:
        """Take an address, or a domain as ``@example.com``, off the list; return whether it was on it.

        Raises:
            AddressError: It is no address.
            MessageError: It stays suppressed, because its whole domain is.
        """
        wire = _target(address)
        folded = wire.casefold()
        self.refresh()
        was = folded in self._entries
        if was:
            with self._writing() as db:
                db.execute("DELETE FROM suppression WHERE folded=?", (folded,))
        domain = folded[folded.rfind("@") :]
        if domain != folded and domain in self._entries:
            cause = f"{wire} is suppressed still: everybody at {domain[1:]} is."
            raise MessageError(cause, f'unsuppress("{domain}") lifts that for all of them.')
        return was

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Run one transaction, synced, with the entries as they are in it."""
        with self._lock, self._explained():
            if self._identity() is None and self._file is None:
                self._make()
            self.refresh()
            assert self._db is not None
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._load(self._db)
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._version = None  # the own writes do not count as a change: read anew
        self.refresh()

    def _make(self) -> None:
        """Make the file under another name, so that nobody ever sees half of one; whoever is first wins."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        try:
            with contextlib.closing(_connected(draft)) as db:
                db.execute(_TABLE)
                db.execute(f"PRAGMA user_version={_FORM}")
            with contextlib.suppress(FileExistsError):
                publish(draft, self.path)
        finally:
            draft.unlink(missing_ok=True)

    def _damaged(self, what: str) -> JournalError:
        return JournalError(
            f"The suppression list {str(self.path)!r} is damaged: {what}.",
            "No merge starts without it: restore it from a backup, or from a CSV file that to_csv() wrote.",
        )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        fix = f"No merge starts without it: mend that, or name another file in {PATH_VARIABLE}."
        try:
            yield
        except sqlite3.OperationalError as error:
            cause = f"The suppression list {str(self.path)!r} cannot be used: {error}."
            raise JournalError(cause, fix) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error
        except OSError as error:
            cause = f"The suppression list {str(self.path)!r} cannot be used: {error.strerror or error}."
            raise JournalError(cause, fix) from error

    # --------------------------------------------------------------------------------------------- CSV

    def to_csv(self, path: str | Path) -> int:
        """Write the list as a CSV file (UTF-8) with the columns address, reason, since, source; return how many rows.

        A cell that a spreadsheet would run as a formula begins with an apostrophe; `read_csv` takes that away again.
        """
        entries = list(self)
        try:
            Path(path).write_text(_written(entries), encoding="utf-8", newline="")
        except OSError as error:
            raise JournalError(f"{str(path)!r} cannot be written: {error.strerror or error}.") from None
        return len(entries)

    def read_csv(self, path: str | Path) -> tuple[str, ...]:
        """Add the addresses of a CSV file, all or none; return those that were not on the list.

        Args:
            path: UTF-8, separated by commas or semicolons, the first line with names: ``address`` (or ``email``)
                is needed; ``reason``, ``since`` (ISO 8601, UTC unless it says otherwise) and ``source`` are taken
                where they are. Rows without an address are left out.

        Raises:
            MessageError: It has no such column, or a row that is no address or date; nothing was changed.
            JournalError: It cannot be read.
        """
        if not isinstance(path, str | Path):
            raise MessageError(f"A {type(path).__name__} is no CSV file.", "Give its path.")
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeError) as error:
            raise JournalError(
                f"{str(path)!r} cannot be read: {error}.", "Give a CSV file in UTF-8."
            ) from None
        return self._put(_entries(text, str(path)))

    # ----------------------------------------------------------------------------------------- display

    def __repr__(self) -> str:
        count = len(self)
        return f"<Suppressions {str(self.path)!r}: {count:,} address{'' if count == 1 else 'es'}>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        entries = sorted(self, key=lambda e: e.since, reverse=True)
        rows = [(e.address, e.since[:10], e.source, e.reason) for e in entries[:_SHOWN]]
        rest = len(entries) - len(rows)
        text = "\n".join(
            [
                repr(self),
                *(f"  {e.said}" for e in entries[:_SHOWN]),
                *([f"  … and {rest:,} more"] if rest else []),
            ]
        )
        table = (
            _html.table(("address", "since (UTC)", "source", "reason"), rows) if rows else "<p>nobody yet</p>"
        )
        more = f"<p>… and {rest:,} more: <code>to_frame()</code></p>" if rest else ""
        head = f"<p><strong>Suppressed</strong> {len(entries):,}, {html.escape(str(self.path))}</p>"
        return {"text/plain": text, "text/html": _html.card(head + table + more)}


# ------------------------------------------------------------------------------------------- the verbs


def suppress(who: Who, reason: str = "") -> tuple[str, ...]:
    """Have no merge mail these addresses any more; return those that were not on the list before.

    Args:
        who: One address or several, as a string or any iterable of them; a whole domain as ``"@example.com"``, which
            does not count for domains below it. Or the `Report` of a merge: then those whom the server refused
            because the address does not exist or takes no mail (5.1.1, 5.1.6, 5.1.10, 5.2.1), and nobody else: not who
            was refused by a policy or with a full mailbox, and nobody of a trial (sandbox, dry run, ``test_to``,
            ``redirect_to``). Or what `read_bounces` returned: those, and who complained.
        reason: Why; with a Report the server's own words stand where this is empty.

    It counts for every campaign, from the next window of rows of a merge that is running. `send` sends all the same,
    and says so in its Outcome: that is one mail that a person writes.

    Raises:
        AddressError: One of them is no address; nothing was changed.
        JournalError: The list cannot be read or written.
    """
    with Suppressions() as suppressions:
        return suppressions.add(who, reason)


def unsuppress(address: str | Address) -> bool:
    """Let merges mail an address, or a domain as ``"@example.com"``, again; return whether it was on the list.

    Raises:
        AddressError: It is no address.
        MessageError: It stays suppressed, because its whole domain is.
        JournalError: The list cannot be read or written.
    """
    with Suppressions() as suppressions:
        return suppressions.remove(address)


def among(recipients: Sequence[str], path: str | Path | None = None) -> list[Suppression]:
    """Return the entries that speak against these addresses, in wire form, without reading the whole list.

    Raises:
        JournalError: The list cannot be read.
    """
    place = _given(path)
    folded = [r.casefold() for r in recipients]
    asked = list(dict.fromkeys([*folded, *(f[f.rfind("@") :] for f in folded)]))
    query = "SELECT address, reason, since, source FROM suppression WHERE folded=?"
    try:
        if not place.exists():
            return []
        with contextlib.closing(_connected(place)) as db:
            found = [db.execute(query, (one,)).fetchone() for one in asked]
    except (sqlite3.Error, OSError) as error:
        cause = f"The suppression list {str(place)!r} cannot be used: {error}."
        raise JournalError(cause, f"Mend that, or name another file in {PATH_VARIABLE}.") from error
    return [Suppression(*values) for values in found if values is not None]


def _proposals(who: Who, reason: str) -> list[Proposal]:
    if isinstance(who, Report):
        found = who.proposals() if isinstance(who, _Proposing) else ([] if who.trial else gone(who))
        return [p._replace(reason=reason) if reason else p for p in found]
    if isinstance(who, str):
        who = _parts(who)
    items = [who] if isinstance(who, Address) else who
    if not isinstance(items, Iterable):
        cause = f"{shortened(str(who))} is no address: it is of type {type(who).__name__}."
        raise AddressError(cause, "Give an address, several, or a Report.")
    return [
        Proposal(str(part) if isinstance(part, str) else part.addr_spec, reason, "person")
        for item in items
        for part in _parts(item)
    ]


def _parts(item: object) -> Sequence[str | Address]:
    if isinstance(item, Address):
        return [item]
    if not isinstance(item, str):
        cause = f"{shortened(str(item))} is no address: it is of type {type(item).__name__}."
        raise AddressError(cause, "Fill it in, or leave it out.")
    return split_addresses(item) or [item]


def gone(outcomes: Iterable[Outcome]) -> list[Proposal]:
    """Return the addresses that a server refused as ones that do not exist or take no mail, each once. See `GONE`.

    A row with several recipients counts where each one's answer is known.
    """
    return [proposal for proposal, _ in _gone(outcomes)]


def _gone(outcomes: Iterable[Outcome]) -> list[tuple[Proposal, str]]:
    """Return them with the codes that say so."""
    found: dict[str, tuple[Proposal, str]] = {}
    for outcome in outcomes:
        if outcome.state not in {State.REFUSED, State.PARTIAL}:
            continue
        told = [(a, said, m[1]) for a, said in outcome.refused if (m := _ANSWER.match(said))]
        if outcome.state is State.REFUSED and len(outcome.to) == 1:
            said = outcome.reason.removeprefix("Refused before, unchanged since: ")
            told = [(outcome.to[0], said, outcome.enhanced)]
        for address, said, code in told:
            if code in GONE:
                found.setdefault(address.casefold(), (Proposal(address, said, "refusal"), code))
    return list(found.values())


def proposed(outcomes: Iterable[Outcome]) -> str:
    """Return what a Report says of addresses that are gone, or "" when there are none."""
    found = _gone(outcomes)
    if not found:
        return ""
    one = len(found) == 1
    what = "1 address does" if one else f"{len(found):,} addresses do"
    also = "" if _NOT_THERE.issuperset(code for _, code in found) else f" or take{'s' if one else ''} no mail"
    return (
        f"{what} not exist{also}: suppress(report) keeps later merges from trying {'it' if one else 'them'}."
    )


# ---------------------------------------------------------------------------------------------- pieces


def _given(path: str | Path | None) -> Path:
    """Return where the list is to be: as named, else what the environment says, else the user's own."""
    return Path(path or os.environ.get(PATH_VARIABLE) or _default_path()).expanduser().absolute()


def _default_path() -> Path:
    import platformdirs

    return Path(platformdirs.user_state_dir("smtp_notebook", appauthor=False)) / "suppressions.sqlite3"


def _connected(path: Path) -> sqlite3.Connection:
    # No write-ahead log: it is written rarely, and one file is easier to copy. Each commit is synced.
    return sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _target(address: object) -> str:
    """Return an address in its wire form, or a domain as ``@example.com``.

    Raises:
        AddressError: It is neither.
    """
    if isinstance(address, Address):
        return address.wire
    if not isinstance(address, str):
        cause = f"{shortened(str(address))} is no address: it is of type {type(address).__name__}."
        raise AddressError(cause, 'Give text such as "ann@example.com" or "@example.com".')
    text = address.strip()
    if text.startswith("*@"):
        raise AddressError(f"{shortened(text)} is no address.", f'A whole domain is written "{text[1:]}".')
    if not text.startswith("@"):
        return Address.parse(text).wire
    return "@" + Address.parse(f"x{text}").wire.partition("@")[2]


def _guarded(cell: str) -> str:
    return f"'{cell}" if _FORMULA.match(cell) else cell


def _bared(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _written(entries: Iterable[Suppression]) -> str:
    """Return entries as the text of a CSV file."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(_COLUMNS)
    for e in entries:
        writer.writerow(map(_guarded, (e.address, e.reason, e.since, e.source)))
    return out.getvalue()


def _entries(text: str, name: str) -> list[Suppression]:
    """Return the entries of a CSV file; *name* is for the error."""
    head = text.partition("\n")[0]
    lines = csv.reader(
        io.StringIO(text, newline=""), delimiter=";" if ";" in head and "," not in head else ","
    )
    try:
        rows = list(lines)
    except csv.Error as error:
        raise MessageError(f"{name!r} is no CSV file: {error}.", "Save it as CSV, in UTF-8.") from None
    names = [cell.strip().casefold() for cell in rows[0]] if rows else []
    columns = [i for i, n in enumerate(names) if n in _ADDRESS_COLUMNS]
    if len(columns) > 1:
        cause = f"{name!r} has several columns of addresses: {', '.join(names[i] for i in columns)}."
        raise MessageError(cause, "Keep one of them; nothing was added.")
    column = columns[0] if columns else None
    if column is None:
        raise MessageError(f"{name!r} has no column 'address'.", "Name the columns in its first line.")
    now = stamp()
    found = []
    for number, row in enumerate(rows[1:], 2):
        cells = {n: _bared(cell.strip()) for n, cell in zip(names, row, strict=False)}
        address = _bared(row[column].strip()) if column < len(row) else ""
        if not address:
            continue
        try:
            since = _moment(cells.get("since", "")) or now
            found.append(
                Suppression(
                    _target(address),
                    one_line(cells.get("reason", ""), _REASON),
                    since,
                    one_line(cells.get("source", ""), _REASON) or "import",
                )
            )
        except (AddressError, ValueError, OverflowError) as error:
            cause = error.cause if isinstance(error, AddressError) else f"{cells['since']!r} is no date."
            raise MessageError(
                f"Line {number} of {name!r}: {cause}", "Mend or remove it; nothing was added."
            ) from None
    return found


def _moment(text: str) -> str:
    """Return an ISO 8601 date and time in UTC, to the second; "" for none."""
    if not text:
        return ""
    found = dt.datetime.fromisoformat(text)
    return found.replace(tzinfo=found.tzinfo or dt.UTC).astimezone(dt.UTC).isoformat(timespec="seconds")
