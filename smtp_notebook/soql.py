"""New records in Salesforce as the rows of a watch, and what is written back to them.

The cursor is the newest `CreatedDate` that was seen, and each time the records of an overlap before it are read again:
a record can become visible later than one that was created after it, because its transaction took longer, or because a
search index lagged behind. Which of them were mailed is the journal's to say. The org's clock alone counts.
"""

from __future__ import annotations

import copy
import datetime as dt
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote_plus

from smtp_notebook.addresses import shortened
from smtp_notebook.org import Org, PageError, SalesforceLogin, org_login
from smtp_notebook.outcome import OptionError, Outcome, SettingsError, SourceError
from smtp_notebook.selects import Path, QueryError, check_condition
from smtp_notebook.sources import Batch, Part, Since, Source, Wanted

if TYPE_CHECKING:
    from smtp_notebook.template import Template

__all__ = ["SalesforceLogin", "salesforce"]

#: What may be set on a record, or on what is logged about it.
Fields = Mapping[str, Any] | Callable[[Outcome, Mapping[str, Any]], Mapping[str, Any]]

#: Records that one poll takes; what is left is read by the next one.
_MOST = 10_000
#: Octets of an encoded query. URI and header have 16,384 together, and a token may take a few thousand of them.
#: https://help.salesforce.com/s/articleView?id=000386264&type=1
_LONGEST = 10_000
#: How far a relationship is followed at most, as in SOQL.
_DEEPEST = 6
_MOST_NOTES = 50
_OBJECT = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}")
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}(?:\.[A-Za-z][A-Za-z0-9_]{0,79})*")
_ID = re.compile(r"[A-Za-z0-9]{15}(?:[A-Za-z0-9]{3})?")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:?\d\d)")
_NEXT = re.compile(r"/services/data/[A-Za-z0-9._/-]+")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
#: Beginnings of the ids of people, whom a task and a mail name otherwise than other records.
_PEOPLE = ("00Q", "003")
#: What no later try changes: the mail went, and the record cannot say so any more.
_GONE = frozenset({"ENTITY_IS_DELETED", "CANNOT_UPDATE_CONVERTED_LEAD"})
_LOGS = ("task", "email")
_MESSAGE_ID = re.compile(r"<[^<>\s]+>")


def salesforce(
    sobject: str = "Lead",
    fields: Iterable[str] | str | None = None,
    where: str = "",
    *,
    org: Any = None,
    on_sent: Fields | str | tuple[str, Fields] | None = None,
    overlap: float | dt.timedelta = 900,
) -> Source:
    """Return the new records of a Salesforce object as a source of rows for `watch`.

    Each record is a row with its fields as cells, ``Id`` and ``CreatedDate`` among them; those of related records are
    there as ``{{ Owner.Name }}`` and as the column ``Owner.Name``. Date-times are Python's, with their zone. ``Id`` is
    the key. A record that was deleted does not come.

    Args:
        sobject: The object's API name, such as ``Lead`` or ``Invitation__c``.
        fields: Which fields are read, such as ``["Email", "Owner.Name"]``; by default those that the template names
            and the object has, and ``Email``.
        where: Which records are meant, in SOQL: ``"LeadSource = 'Web' AND Email != null"``. It is looked at when a
            record is new, so not for one that only comes to meet it later.
        org: A `SalesforceLogin`, the name of a saved one, a `PracticeOrg`, or None for that of the environment.
        on_sent: What is written back when a row was mailed: fields to set on the record, as a mapping or as a function
            of the `Outcome` and the row; ``"task"`` or ``"email"`` for a Task or EmailMessage that says so, or
            ``("task", fields)`` with further fields of it. Written at least once; a Task or EmailMessage is looked for
            by its Message-ID first, so that there is one.
        overlap: Seconds before the newest record that are read again each time, for records that become visible late.
            One that becomes visible later than that is missed.

    Raises:
        OptionError: No such name, condition or way to write back.
        SettingsError: No org is named.
    """
    return _Records(sobject, fields, where, org_login(org), on_sent, overlap)


class _Records:
    """The records of one object; see `salesforce`."""

    def __init__(
        self,
        sobject: str,
        fields: Iterable[str] | str | None,
        where: str,
        login: SalesforceLogin,
        on_sent: Any,
        overlap: float | dt.timedelta,
    ) -> None:
        if not isinstance(sobject, str) or not _OBJECT.fullmatch(sobject):
            raise OptionError(
                f"{shortened(str(sobject))} is no object.", 'Give its API name, such as "Lead".'
            )
        self.sobject = sobject
        self._given = None if fields is None else _checked_fields(fields)
        self._where = _checked_where(where)
        self._on_sent = _checked_on_sent(on_sent)
        self._overlap = _checked_overlap(overlap)
        self._org = Org(login)
        self._template: Template | None = None
        self._selected: tuple[Path, ...] | None = None
        self._kinds: dict[str, str] | None = None
        self._notes: list[str] = []
        self._unknown: set[str] = set()
        self.name = f"{sobject} in {login.host}"
        self.key: tuple[str, ...] = ("Id",)

    def for_template(self, template: Template) -> Self:
        """Return this source with the fields that a template needs, where none were named."""
        if self._given is not None:
            return self
        fitted = copy.copy(self)
        fitted._template, fitted._selected, fitted._notes = template, None, []  # noqa: SLF001 - one of our own
        return fitted

    def prepare(self) -> None:
        """Find the secrets, on the thread of the person's cell."""
        self._org.prepare()

    # ----------------------------------------------------------------------------------------- read

    def begin(self, since: Since) -> Batch:
        """Return the records of the overlap as there already, and the cursor; see `sources.Source`."""
        if since == "all":
            return Batch(cursor={"newest": "", "floor": "", "at": None})
        if isinstance(since, dt.datetime):
            if since.tzinfo is None:
                raise OptionError(
                    f"since={since} has no time zone.", "Give one: datetime.now(UTC), for example."
                )
            floor = _text(since)
            return Batch(cursor={"newest": floor, "floor": floor, "at": None})
        newest = self._past(self._newest())
        floor = _text(newest - self._overlap)
        # Whatever was there is left alone, whether it meets `where` or only comes to meet it.
        found, _ = self._from([f"CreatedDate >= {floor}"], None, None)
        rows = self._rows(found)
        newest = self._past(max([newest, *(row["CreatedDate"] for row in rows)]))
        cursor = {"newest": _text(newest), "floor": floor, "at": None}
        return Batch(self._parts(rows), cursor, self._told())

    def _newest(self) -> dt.datetime:
        soql = f"SELECT Id, CreatedDate FROM {self.sobject} ORDER BY CreatedDate DESC LIMIT 1"  # noqa: S608 - a checked name
        records, _ = _page(self._org.query(soql))
        if records:
            return _moment(records[0])
        if self._org.now is None:
            raise SourceError(
                "The org did not say what time it is.", "Look at what is between it and this machine."
            )
        return self._org.now

    def _past(self, moment: dt.datetime) -> dt.datetime:
        """Return a moment, or the org's now where that is earlier.

        A clock that ran ahead when a record was made must not hide those that follow.
        """
        return moment if self._org.now is None else min(moment, self._org.now)

    def read(self, cursor: Any) -> Batch:
        """Return the records from the overlap on, or from where the last reading had to end; see `sources.Source`."""
        newest, floor, at = _opened(cursor)
        lowest = max(filter(None, (floor, newest - self._overlap if newest else None)), default=None)
        conditions = [f"({self._where})"] if self._where else []
        if at is None and lowest is not None:
            conditions.append(f"CreatedDate >= {_text(lowest)}")
        found, at = self._from(conditions, at, _MOST)
        rows = self._rows(found)
        latest = [self._past(max(r["CreatedDate"] for r in rows))] if rows else []
        newest = max(filter(None, (newest, *latest)), default=None)
        after = {
            "newest": _text(newest) if newest else "",
            "floor": _text(floor) if floor else "",
            "at": [_text(at[0]), at[1]] if at else None,
        }
        return Batch(self._parts(rows), after, self._told())

    def again(self, wanted: Wanted) -> Batch:
        """Return those of the wanted records that are there and still meet ``where``; see `sources.Source`."""
        keys, rows = frozenset(wanted.keys), []
        for condition in self._wanted(wanted):
            conditions = [f"({self._where})"] if self._where else []
            found, _ = self._from([*conditions, condition], None, None)
            rows += [row for row in self._rows(found) if wanted.key_of(row) in keys]
        return Batch(self._parts(rows), None, self._told())

    def _parts(self, rows: list[dict[str, Any]]) -> tuple[Part, ...]:
        return (Part(self.sobject, rows),) if rows else ()

    def _told(self) -> tuple[str, ...]:
        notes, self._notes[:] = tuple(self._notes), []
        nearly = self._org.nearly
        return (*notes, f"{nearly} It is asked again in 15 min.") if nearly else notes

    def _note(self, text: str) -> None:
        if len(self._notes) < _MOST_NOTES and text not in self._notes:
            self._notes.append(text)

    def _from(
        self, conditions: Sequence[str], at: tuple[dt.datetime, str] | None, most: int | None
    ) -> tuple[list[Mapping[str, Any]], tuple[dt.datetime, str] | None]:
        """Return records in their order, and where to go on: after which one, or None where that was all.

        Where the org has forgotten the rest of an answer, it is asked anew for what stands behind the last record.
        """
        found: list[Mapping[str, Any]] = []
        lost: tuple[dt.datetime, str] | None = None
        while True:
            behind = [] if at is None else [_behind(at)]
            soql = self._soql([*conditions, *behind])
            try:
                records, place = _page(self._org.query(soql))
                while True:
                    found += records
                    at = (_moment(records[-1]), _identifier(records[-1])) if records else at
                    if place is None:
                        return found, None
                    if most is not None and (len(found) >= most or self._org.nearly):
                        return found, at
                    records, place = _page(self._org.more(place))
            except PageError:
                if at is None or at == lost:
                    raise
                lost = at

    def _soql(self, conditions: Sequence[str]) -> str:
        selected: dict[str, str] = {}
        for path in (("Id",), ("CreatedDate",), *self._fields()):
            selected.setdefault(".".join(path).lower(), ".".join(path))
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        soql = f"SELECT {', '.join(selected.values())} FROM {self.sobject}{where} ORDER BY CreatedDate, Id"  # noqa: S608 - names are checked, values quoted
        if len(quote_plus(soql)) > _LONGEST:
            cause = f"The query of {len(selected)} fields is longer than Salesforce takes."
            raise SettingsError(cause, "Name fewer fields in fields=, or shorten where=.")
        return soql

    def _rows(self, records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        fields = tuple(dict.fromkeys((("Id",), ("CreatedDate",), *self._fields())))
        return [_row(record, fields) for record in records]

    # --------------------------------------------------------------------------------------- fields

    def _fields(self) -> tuple[Path, ...]:
        if self._selected is None:
            self._selected = self._given if self._given is not None else self._derived()
        return self._selected

    def _derived(self) -> tuple[Path, ...]:
        """Return those of the names in the template that the object has; the merge says what is wrong with others."""
        if self._template is None:
            raise OptionError(
                "No fields are named.", 'Give fields=["Email", "FirstName"], or a template to watch().'
            )
        described = self._described()
        own = {name.lower() for name, kind in described.items() if not kind.startswith(">")}
        related = {name.lower() for name, kind in described.items() if kind.startswith(">")}
        found: list[Path] = []
        for path in sorted(self._template.paths):
            if not _FIELD.fullmatch(".".join(path)):
                continue
            if len(path) > 1 and path[0].lower() in related:
                found.append(path[:_DEEPEST])
            elif path[0].lower() in own:
                # What is asked of a value is no field: CreatedDate.year.
                found.append(path[:1])
        return tuple(dict.fromkeys([*found, *([("Email",)] if "email" in own else [])]))

    def _described(self) -> dict[str, str]:
        """Return the types of the object's fields by their names, and those of its relationships as ``>``."""
        if self._kinds is None:
            kinds: dict[str, str] = {}
            for each in self._org.describe(self.sobject).get("fields") or ():
                if isinstance(each, Mapping):
                    kinds[str(each.get("name"))] = str(each.get("type"))
                    if each.get("relationshipName"):
                        kinds[str(each["relationshipName"])] = ">"
            self._kinds = kinds
        return self._kinds

    def _wanted(self, wanted: Wanted) -> Iterator[str]:
        """Yield conditions that the wanted records meet, each short enough for one query."""
        columns = wanted.columns
        if columns == ("Id",):
            keys: list[Any] = [key for key in wanted.keys if _ID.fullmatch(key)]
            kinds: Sequence[str] = ("id",)
        else:
            for column in columns:
                if not _FIELD.fullmatch(column):
                    raise OptionError(
                        f"{column!r} is no field of {self.sobject}.", "Give key= a field of the object."
                    )
            described = {name.lower(): kind for name, kind in self._described().items()}
            kinds = [described.get(column.lower(), "string") for column in columns]
            keys = [key for key in wanted.keys if len(columns) == 1 or _is_list(key, len(columns))]
        space = _LONGEST - len(quote_plus(self._soql([f"({self._where})"] if self._where else []))) - 200
        piece: list[str] = []
        for key in keys:
            values = [key] if len(columns) == 1 else json.loads(key)
            literals = [_quoted(value, kind) for value, kind in zip(values, kinds, strict=True)]
            if None in literals:
                continue  # no value of that type: no record has it
            test = " AND ".join(f"{c} = {v}" for c, v in zip(columns, literals, strict=True))
            text = str(literals[0]) if len(columns) == 1 else f"({test})"
            if piece and len(quote_plus(", OR ".join([*piece, text]))) > max(space, 500):
                yield _one_of(columns, piece)
                piece = []
            piece.append(text)
        if piece:
            yield _one_of(columns, piece)

    # ------------------------------------------------------------------------------------ write back

    def sent(self, outcomes: Sequence[Outcome], rows: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
        """Write back that rows were mailed, and return the keys for which that is done; see `sources.Source`."""
        if self._on_sent is None:
            return [outcome.key for outcome in outcomes]
        what, fields = self._on_sent
        due: list[tuple[Outcome, str, dict[str, Any]]] = []
        done: list[str] = []
        for outcome in outcomes:
            row = rows.get(outcome.key, {})
            identifier = str(row.get("Id") or (outcome.key if _ID.fullmatch(outcome.key) else ""))
            if not _ID.fullmatch(identifier):
                if outcome.key not in self._unknown:
                    self._unknown.add(outcome.key)
                    self._note(
                        f"{outcome.key} was mailed, and which {self.sobject} it is is not known any more."
                    )
                continue
            try:
                due.append((outcome, identifier, _values(fields, outcome, row)))
            except Exception as error:  # noqa: BLE001 - a person's function; the others are written all the same
                self._note(f"{identifier} was mailed; on_sent= failed with {type(error).__name__}: {error}")
        try:
            done += self._updated(due) if what == "" else self._logged(what, due)
        except SourceError as error:
            self._note(f"Rows were mailed, and {self.sobject} does not say so yet. {error}")
        return done

    def _updated(self, due: Sequence[tuple[Outcome, str, dict[str, Any]]]) -> list[str]:
        records = [
            {"attributes": {"type": self.sobject}, "Id": identifier, **fields}
            for _, identifier, fields in due
        ]
        return self._written([(outcome, identifier) for outcome, identifier, _ in due], records, create=False)

    def _logged(self, what: str, due: Sequence[tuple[Outcome, str, dict[str, Any]]]) -> list[str]:
        """Write a Task or EmailMessage for each that has none: a crash may have come between writing and recording."""
        there = self._there(what, due)
        done = [outcome.key for outcome, _, _ in due if outcome.message_id in there]
        new = [each for each in due if each[0].message_id not in there]
        make = _task if what == "task" else _email
        records = [make(outcome, identifier) | fields for outcome, identifier, fields in new]
        return done + self._written(
            [(outcome, identifier) for outcome, identifier, _ in new], records, create=True
        )

    def _there(self, what: str, due: Sequence[tuple[Outcome, str, Any]]) -> set[str]:
        """Return the Message-IDs of which there is a Task or EmailMessage already."""
        found: set[str] = set()
        if what == "email":
            named = [
                _quoted(outcome.message_id, "string") or "" for outcome, _, _ in due if outcome.message_id
            ]
            for piece in _pieces(named):
                soql = f"SELECT Id, MessageIdentifier FROM EmailMessage WHERE MessageIdentifier IN ({', '.join(piece)})"  # noqa: S608 - quoted
                found |= {str(record.get("MessageIdentifier")) for record in self._all(soql)}
            return found
        # A long text such as Description cannot be searched, so the tasks of these people are looked through.
        for column, people in (("WhoId", True), ("WhatId", False)):
            ids = [f"'{i}'" for _, i, _ in due if i.startswith(_PEOPLE) == people]
            for piece in _pieces(ids):
                soql = f"SELECT Id, Description FROM Task WHERE {column} IN ({', '.join(piece)}) AND TaskSubtype = 'Email'"  # noqa: S608 - checked ids
                for record in self._all(soql):
                    found |= set(_MESSAGE_ID.findall(str(record.get("Description") or "")))
        return found

    def _all(self, soql: str) -> Iterator[Mapping[str, Any]]:
        records, place = _page(self._org.query(soql))
        yield from records
        while place is not None:
            records, place = _page(self._org.more(place))
            yield from records

    def _written(
        self, due: Sequence[tuple[Outcome, str]], records: Sequence[Mapping[str, Any]], *, create: bool
    ) -> list[str]:
        """Write records, and return the keys of those that need no other try."""
        if not records:
            return []
        answers = self._org.write(records, create=create)
        done: list[str] = []
        failed: list[tuple[Outcome, str, str, str]] = []
        for (outcome, identifier), answer in zip(due, answers, strict=False):
            if isinstance(answer, Mapping) and answer.get("success") is True:
                done.append(outcome.key)
            else:
                failed.append((outcome, identifier, *_why(answer)))
        alive = self._alive([identifier for _, identifier, code, _ in failed if code not in _GONE])
        for outcome, identifier, code, words in failed:
            if code in _GONE or identifier[:15] not in alive:
                why = "was converted" if code == "CANNOT_UPDATE_CONVERTED_LEAD" else "was deleted"
                self._note(
                    f"{self.sobject} {identifier} was mailed and {why} meanwhile: nothing is written to it."
                )
                done.append(outcome.key)
            else:
                self._note(f"{self.sobject} {identifier} was mailed, and does not say so yet: {words}.")
        return done

    def _alive(self, identifiers: Sequence[str]) -> set[str]:
        """Return which of the records are there, by the first 15 characters of their ids."""
        found: set[str] = set()
        for piece in _pieces([f"'{i}'" for i in identifiers]):
            soql = f"SELECT Id FROM {self.sobject} WHERE Id IN ({', '.join(piece)})"  # noqa: S608 - checked names and ids
            found |= {_identifier(record)[:15] for record in self._all(soql)}
        return found

    def __repr__(self) -> str:
        where = f" where {self._where}" if self._where else ""
        return f"<salesforce {self.name}{where}>"


# -------------------------------------------------------------------------------------- what is asked


def _checked_fields(given: Iterable[str] | str) -> tuple[Path, ...]:
    names = [each.strip() for each in given.split(",")] if isinstance(given, str) else list(given)
    for name in names:
        if not isinstance(name, str) or not _FIELD.fullmatch(name) or name.count(".") >= _DEEPEST:
            raise OptionError(
                f"{shortened(str(name))} is no field.", 'Give API names, such as ["Email", "Owner.Name"].'
            )
    if not names:
        raise OptionError("fields= is empty.", "Leave it out, and those that the template names are read.")
    return tuple(dict.fromkeys(tuple(name.split(".")) for name in names))


def _checked_where(given: str) -> str:
    if not isinstance(given, str):
        raise OptionError(f"where= is a {type(given).__name__}, no text.", "Give the condition in SOQL.")
    if not given.strip():
        return ""
    try:
        return check_condition(given)
    except QueryError as error:
        raise OptionError(
            f"where=: {error.message}.", "Write it as it stands behind WHERE in SOQL."
        ) from None


def _checked_overlap(given: float | dt.timedelta) -> dt.timedelta:
    if isinstance(given, dt.timedelta) and given >= dt.timedelta():
        return given
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 10**8:
        raise OptionError(f"overlap={given!r} is no number of seconds, 0 or more.", "900 is usual.")
    return dt.timedelta(seconds=given)


def _checked_on_sent(given: Any) -> tuple[str, Fields] | None:
    """Return what is written, "" for the record itself, and with which fields."""
    fix = 'Give fields such as {"Status": "Contacted"}, a function of outcome and row, "task" or "email".'
    if given is None:
        return None
    what, fields = given if isinstance(given, tuple) and len(given) == 2 else ("", given)  # noqa: PLR2004 - a pair
    if isinstance(fields, str) and what == "":
        what, fields = fields, {}
    if (what and what not in _LOGS) or not (isinstance(fields, Mapping) or callable(fields)):
        raise OptionError("on_sent= is nothing that could be written back.", fix)
    if isinstance(fields, Mapping):
        if not fields and not what:
            raise OptionError("on_sent= sets no field.", fix)
        _checked_values(fields)
    return what, fields


def _checked_values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields as JSON takes them."""
    made: dict[str, Any] = {}
    for name, value in fields.items():
        if not isinstance(name, str) or not _OBJECT.fullmatch(name):
            raise OptionError(f"on_sent=: {shortened(str(name))} is no field.", "Give its API name.")
        if isinstance(value, dt.datetime) and value.tzinfo is None:
            raise OptionError(
                f"on_sent=: {name} has no time zone.", "Give one: datetime.now(UTC), for example."
            )
        made[name] = value.isoformat() if isinstance(value, dt.date) else value
    try:
        json.dumps(made)
    except (TypeError, ValueError):
        raise OptionError(
            "on_sent=: a value is none that a field could have.", "Give text, numbers, dates."
        ) from None
    return made


def _values(fields: Fields, outcome: Outcome, row: Mapping[str, Any]) -> dict[str, Any]:
    return _checked_values(fields(outcome, row) if callable(fields) else fields)


def _quoted(value: str, kind: str) -> str | None:
    """Return a key as a literal of its field's type, or None where it cannot be one."""
    from simple_salesforce.format import format_soql

    if kind in {"double", "int", "currency", "percent", "long"}:
        return value if _NUMBER.fullmatch(value) else None
    if kind in {"date", "datetime"}:
        try:
            moment = dt.datetime.fromisoformat(value)
        except ValueError:
            return None
        if kind == "date":
            return moment.date().isoformat()
        return _text(moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC))
    return str(format_soql("{}", value))


def _is_list(key: str, length: int) -> bool:
    try:
        found = json.loads(key)
    except ValueError:
        return False
    return isinstance(found, list) and len(found) == length and all(isinstance(each, str) for each in found)


def _one_of(columns: Sequence[str], pieces: Sequence[str]) -> str:
    return f"{columns[0]} IN ({', '.join(pieces)})" if len(columns) == 1 else f"({' OR '.join(pieces)})"


def _pieces(literals: Sequence[str]) -> Iterator[list[str]]:
    """Yield literals in lists that are short enough for one query."""
    piece: list[str] = []
    length = 0
    for each in dict.fromkeys(literals):
        size = len(quote_plus(f"{each}, "))
        if piece and length + size > _LONGEST - 1000:
            yield piece
            piece, length = [], 0
        piece.append(each)
        length += size
    if piece:
        yield piece


def _behind(at: tuple[dt.datetime, str]) -> str:
    moment = _text(at[0])
    return f"(CreatedDate > {moment} OR (CreatedDate = {moment} AND Id > '{at[1]}'))"


def _text(moment: dt.datetime) -> str:
    """Return a moment as SOQL and the cursor have it: in UTC, with milliseconds where it has any."""
    inside = moment.astimezone(dt.UTC)
    fraction = f".{inside.microsecond // 1000:03d}" if inside.microsecond >= 1000 else ""  # noqa: PLR2004 - a millisecond
    return f"{inside:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def _opened(cursor: Any) -> tuple[dt.datetime | None, dt.datetime | None, tuple[dt.datetime, str] | None]:
    """Return what a cursor says: the newest that was seen, since when records count, and where to go on."""
    try:
        newest, floor, at = (cursor.get(name) for name in ("newest", "floor", "at"))
        place = (dt.datetime.fromisoformat(at[0]), str(at[1])) if at else None
        if place is not None:
            place = place[0], _ID.fullmatch(place[1])[0]  # type: ignore[index]  # None is the error below
        return (
            dt.datetime.fromisoformat(newest) if newest else None,
            dt.datetime.fromisoformat(floor) if floor else None,
            place,
        )
    except (AttributeError, TypeError, ValueError, LookupError):
        cause = "What the campaign remembers is no place in Salesforce; another source wrote it."
        raise SettingsError(cause, "Give this source a campaign of its own.") from None


# ------------------------------------------------------------------------------------ what is answered


def _page(answer: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], str | None]:
    """Return the records of a page, and where the next one is; the answer is somebody else's, so it is checked."""
    records, done, place = answer.get("records"), answer.get("done"), answer.get("nextRecordsUrl")
    good = (
        isinstance(records, list) and all(isinstance(r, Mapping) for r in records) and isinstance(done, bool)
    )
    if good and done:
        return list(records or ()), None
    # It is put behind the server's name, and the session goes where it leads.
    if good and isinstance(place, str) and _NEXT.fullmatch(place):
        return list(records or ()), place
    raise SourceError("The org answered with something else than records.", "It may be under maintenance.")


def _identifier(record: Mapping[str, Any]) -> str:
    found = record.get("Id")
    if not isinstance(found, str) or not _ID.fullmatch(found):
        raise SourceError("The org gave a record without an id.")
    return found


def _moment(record: Mapping[str, Any]) -> dt.datetime:
    found = record.get("CreatedDate")
    if not isinstance(found, str) or not _MOMENT.fullmatch(found):
        raise SourceError("The org gave a record without the time when it was created.")
    return dt.datetime.fromisoformat(found).astimezone(dt.UTC)


def _row(record: Mapping[str, Any], fields: Iterable[Path]) -> dict[str, Any]:
    """Return a record as cells, by the names that were asked for; those of related records also one in the other."""
    _identifier(record)
    row: dict[str, Any] = {}
    for path in fields:
        value = row[".".join(path)] = _cell(_inside(record, path))
        inner = row
        for name in path[:-1]:
            if not isinstance(inner.get(name), dict):
                inner[name] = {}
            inner = inner[name]
        inner[path[-1]] = value
    row["CreatedDate"] = _moment(record)
    return row


def _inside(record: Any, path: Path) -> Any:
    """Return what a record has under a path; names are the same in any case, as in SOQL."""
    for name in path:
        if not isinstance(record, Mapping):
            return None
        found = record.get(name)
        if found is None:
            found = next((v for k, v in record.items() if k.lower() == name.lower()), None)
        record = found
    return record


def _cell(value: Any) -> Any:
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        try:
            return dt.datetime.fromisoformat(value)
        except ValueError:
            return value
    if isinstance(value, Mapping):
        return {k: _cell(v) for k, v in value.items() if k != "attributes"}
    return value


def _why(answer: Any) -> tuple[str, str]:
    """Return the code and the words of what came of one record."""
    errors = answer.get("errors") if isinstance(answer, Mapping) else None
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], Mapping) else {}
    code, said = str(first.get("statusCode") or "no answer"), str(first.get("message") or "")
    words = " ".join(f"{code}: {said}".split())[:200].rstrip(".: ")
    return code, words


# ------------------------------------------------------------------------------------- what is logged


def _task(outcome: Outcome, identifier: str) -> dict[str, Any]:
    """Return the Task that says that a mail went.

    https://developer.salesforce.com/docs/platform/object-reference/references/standard-objects/object-task.html
    """
    lines = [f"Mailed to {', '.join(outcome.to)}", f"Message-ID: {outcome.message_id}"]
    made: dict[str, Any] = {
        "attributes": {"type": "Task"},
        "Subject": "Email sent",
        "Status": "Completed",
        "TaskSubtype": "Email",
        "Description": "\n".join(lines),
        "WhoId" if identifier.startswith(_PEOPLE) else "WhatId": identifier,
    }
    if outcome.started is not None:
        made["ActivityDate"] = outcome.started.date().isoformat()
    return made


def _email(outcome: Outcome, identifier: str) -> dict[str, Any]:
    """Return the EmailMessage that says that a mail went; its status 3 is Sent.

    https://developer.salesforce.com/docs/atlas.en-us.object_reference.meta/object_reference/sforce_api_objects_emailmessage.htm
    """
    made: dict[str, Any] = {
        "attributes": {"type": "EmailMessage"},
        "Subject": "Email sent",
        "Status": "3",
        "Incoming": False,
        "ToAddress": "; ".join(outcome.to),
        "MessageIdentifier": outcome.message_id,
    }
    made |= {"ToIds": [identifier]} if identifier.startswith(_PEOPLE) else {"RelatedToId": identifier}
    if outcome.started is not None:
        made["MessageDate"] = outcome.started.astimezone(dt.UTC).isoformat()
    return made
