"""A Salesforce org on this machine: its REST API over https on loopback, its records in memory.

What `Sandbox` is for mail, `PracticeOrg` is for leads: the thing to try a watch with, and the fixture of the tests.
It speaks what a watch needs: logins (SOAP, OAuth's client credentials and JWT bearer), queries in a part of SOQL
(`selects`) with pages, one record and collections of them, descriptions, and the header of the API's usage. It knows
no triggers, no sharing and no rights: whoever logs in may do everything.
"""

from __future__ import annotations

import atexit
import base64
import datetime as dt
import html
import http.server
import itertools
import json
import os
import re
import secrets
import ssl
import tempfile
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from smtp_notebook import _html, selects
from smtp_notebook.connection import Secret
from smtp_notebook.org import SalesforceLogin
from smtp_notebook.outcome import OptionError, SettingsError
from smtp_notebook.selects import Kind, Path, Query, QueryError

__all__ = ["Answer", "Asked", "PracticeOrg"]

_HOST = "127.0.0.1"
_USER = "practice@example.com"
_APP = "practice-app"
_SHOWN = 10
_MOST_OCTETS = 2**24
_MOST_PAGE = 2000
_MOST_TOGETHER = 200
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}")

#: What kinds Salesforce's types are compared as.
_KINDS: Mapping[str, Kind] = {
    "id": "id",
    "reference": "id",
    "double": "number",
    "int": "number",
    "boolean": "boolean",
    "date": "date",
    "datetime": "datetime",
}
_SYSTEM = {
    "Id": "id",
    "CreatedDate": "datetime",
    "CreatedById": "reference:User",
    "LastModifiedDate": "datetime",
    "SystemModstamp": "datetime",
    "IsDeleted": "boolean",
}
_PERSON = {
    "FirstName": "string",
    "LastName": "string",
    "Name": "string",
    "Salutation": "picklist",
    "Title": "string",
    "Email": "email",
    "Phone": "phone",
    "HasOptedOutOfEmail": "boolean",
    "LeadSource": "picklist",
    "Description": "textarea",
    "OwnerId": "reference:User",
}
_PLACE = {
    "Street": "textarea",
    "City": "string",
    "State": "string",
    "PostalCode": "string",
    "Country": "string",
}


@dataclass(frozen=True, slots=True)
class _Model:
    """What an object is like: the beginning of its ids, its fields' types, what a new record needs, and has."""

    prefix: str
    fields: dict[str, str]
    needs: tuple[str, ...] = ()
    usual: Mapping[str, Any] = field(default_factory=dict)


def _models() -> dict[str, _Model]:
    lead = {**_PERSON, **_PLACE, "Company": "string", "Status": "picklist", "Website": "url"}
    lead |= {
        "AnnualRevenue": "double",
        "NumberOfEmployees": "int",
        "IsConverted": "boolean",
        "Industry": "picklist",
    }
    task = {"Subject": "string", "Status": "picklist", "Priority": "picklist", "ActivityDate": "date"}
    task |= {
        "Description": "textarea",
        "TaskSubtype": "picklist",
        "Type": "picklist",
        "OwnerId": "reference:User",
    }
    mail = dict.fromkeys(
        ("Subject", "FromAddress", "FromName", "ToAddress", "CcAddress", "MessageIdentifier"), "string"
    )
    mail |= {
        "Status": "picklist",
        "Incoming": "boolean",
        "MessageDate": "datetime",
        "RelatedToId": "reference:Account",
    }
    mail |= {"ToIds": "junctionidlist", "TextBody": "textarea", "HtmlBody": "textarea"}
    people = {"HasOptedOutOfEmail": False}
    return {
        "User": _Model("005", {**_SYSTEM, "Name": "string", "Username": "string", "Email": "email", "Title": "string"}),
        "Account": _Model("001", {**_SYSTEM, "Name": "string", "Industry": "picklist", "OwnerId": "reference:User"}, ("Name",)),
        "Lead": _Model(
            "00Q",
            {**_SYSTEM, **lead},
            ("LastName", "Company"),
            {**people, "Status": "Open - Not Contacted", "IsConverted": False},
        ),
        "Contact": _Model("003", {**_SYSTEM, **_PERSON, "AccountId": "reference:Account"}, ("LastName",), people),
        "Task": _Model(
            "00T",
            {**_SYSTEM, **task, "WhoId": "reference:Lead", "WhatId": "reference:Account"},
            (),
            {"Status": "Not Started", "Priority": "Normal", "TaskSubtype": "Task"},
        ),
        "EmailMessage": _Model("02s", {**_SYSTEM, **mail}, (), {"Status": "0", "Incoming": False}),
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    Attributes:
        method: Such as ``GET``.
        path: Without the query.
        query: What stands behind the question mark.
        headers: The header's fields.
        body: The body.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        """The fields of a form."""
        return {name: values[0] for name, values in parse_qs(self.body.decode("utf-8", "replace")).items()}


@dataclass(frozen=True, slots=True)
class Answer:
    """One response.

    Attributes:
        status: The HTTP status.
        body: JSON values, or octets as they are; None for nothing.
        headers: Further fields of the header.
    """

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def octets(self) -> bytes:
        """The body as it leaves."""
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class _RefusedError(Exception):
    """A request that is refused, as Salesforce does it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.answer = Answer(status, [{"message": message, "errorCode": code}])
        self.code, self.message = code, message
        super().__init__(f"{code}: {message}")


class PracticeOrg:
    """A Salesforce org in this process, on loopback alone; nobody's real one.

    Args:
        page_size: How many records a page of an answer has, 2,000 at most as in Salesforce.
        calls_per_day: How many calls the API takes; it refuses those beyond.
        clock: Returns the org's time, with its zone; this machine's by default.

    Use it as a context manager, or call `start`; starting twice is harmless. ``salesforce("Lead", org=practice)``
    watches it. It has the objects Lead, Contact, Account, User, Task and EmailMessage with their usual fields; a field
    or an object whose name ends in ``__c`` begins with the first record that has it.

    Raises:
        SettingsError: A page of no record, or of more than Salesforce gives.
    """

    def __init__(
        self,
        *,
        page_size: int = _MOST_PAGE,
        calls_per_day: int = 15_000,
        clock: Callable[[], dt.datetime] | None = None,
    ) -> None:
        if not 1 <= page_size <= _MOST_PAGE:
            raise SettingsError(f"page_size={page_size!r} is no number from 1 to {_MOST_PAGE:,}.")
        self.page_size, self.calls_per_day = page_size, calls_per_day
        self.clock: Callable[[], dt.datetime] = clock or (lambda: dt.datetime.now(dt.UTC))
        #: What may answer instead: given each request, it returns an `Answer`, or None for the usual one.
        self.hook: Callable[[Asked], Answer | None] | None = None
        self.calls = self.logins = 0
        self._password = secrets.token_urlsafe(12)
        self._secret = secrets.token_urlsafe(24)
        #: The public keys in PEM of apps that sign their logins, by consumer key.
        self.keys: dict[str, str] = {}
        self._models = _models()
        self._records: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in self._models}
        self._counts: Iterator[int] = itertools.count(1)
        self._sessions: set[str] = set()
        self._rests: dict[str, tuple[Query, list[dict[str, Any]]]] = {}
        self._lock = threading.RLock()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._pid = 0
        self._user = self._kept("User", {"Name": "Practice User", "Username": _USER, "Email": _USER})

    @classmethod
    def with_leads(cls, count: int = 8, **settings: Any) -> Self:
        """Return an org with some leads that came in over the last day, the same ones each time.

        Args:
            count: How many.
            **settings: As for the class.
        """
        org = cls(**settings)
        start = org.now() - dt.timedelta(hours=24)
        for number in range(count):
            first, last, company, title = _PEOPLE[number % len(_PEOPLE)]
            again = number // len(_PEOPLE)
            address = re.sub(r"[^a-z]", "", last.lower().replace("ö", "oe")) + (f"{again}" if again else "")
            org.add(
                "Lead",
                FirstName=first,
                LastName=last,
                Company=company,
                Title=title,
                Email=f"{first[0].lower()}.{address}@example.com",
                LeadSource="Web",
                CreatedDate=start + dt.timedelta(hours=23) * (number + 1) / count,
            )
        return org

    # ------------------------------------------------------------------------------------ running

    def start(self) -> Self:
        """Start listening, if it does not already, and return self. From any thread.

        Raises:
            SettingsError: The package cryptography, which makes the certificate, is missing.
        """
        with self._lock:
            if self.running:
                return self
            folder = tempfile.TemporaryDirectory(prefix="practice-org-")
            try:
                self._server = _Server(self, _certified(FilePath(folder.name)))
            except BaseException:
                folder.cleanup()
                raise
            self._folder, self._pid = folder, os.getpid()
            self._thread = threading.Thread(
                target=self._server.serve_forever,
                args=(0.02,),
                name="smtp_notebook practice org",
                daemon=True,
            )
            self._thread.start()
            atexit.register(self.stop)
        return self

    @property
    def running(self) -> bool:
        """Whether it listens; False in a forked child, whose threads are gone."""
        return self._thread is not None and self._thread.is_alive() and self._pid == os.getpid()

    def stop(self) -> None:
        """Stop listening; the records stay. Stopping twice is harmless."""
        with self._lock:
            server, thread, folder, running = self._server, self._thread, self._folder, self.running
            self._server = self._thread = self._folder = None
            atexit.unregister(self.stop)
        if running and server is not None and thread is not None:
            server.shutdown()
            server.server_close()
            thread.join(timeout=5)
        if folder is not None and self._pid == os.getpid():
            folder.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it is; starts it."""
        self.start()
        assert self._server is not None
        return f"https://{_HOST}:{self._server.server_port}"

    @property
    def ca_file(self) -> str:
        """The PEM file with its certificate, which nobody else trusts; starts it."""
        self.start()
        assert self._folder is not None
        return str(FilePath(self._folder.name) / "certificate.pem")

    @property
    def login(self) -> SalesforceLogin:
        """How to log in to it, with a password; starts it."""
        return SalesforceLogin(
            self.url,
            user=_USER,
            password=Secret(lambda: self._password, "the practice org"),
            ca_file=self.ca_file,
            proxy=False,
            timeout=30.0,
            practice=True,
        )

    @property
    def app_login(self) -> SalesforceLogin:
        """How an app logs in to it, by client credentials; starts it."""
        return SalesforceLogin(
            self.url,
            consumer_key=_APP,
            consumer_secret=Secret(lambda: self._secret, "the practice org"),
            ca_file=self.ca_file,
            proxy=False,
            timeout=30.0,
            practice=True,
        )

    def end_sessions(self) -> None:
        """End every session, as a timeout does; whoever asks has to log in again."""
        with self._lock:
            self._sessions.clear()

    def forget_pages(self) -> None:
        """Forget the rest of every answer that has more pages."""
        with self._lock:
            self._rests.clear()

    # ------------------------------------------------------------------------------------ records

    def now(self) -> dt.datetime:
        """Return the org's time, in whole seconds as Salesforce keeps it."""
        return self.clock().astimezone(dt.UTC).replace(microsecond=0)

    def add(self, sobject: str, /, **fields: Any) -> str:
        """Add a record and return its id.

        Args:
            sobject: The object, such as ``"Lead"``; one that ends in ``__c`` begins with its first record.
            **fields: Its fields. ``CreatedDate`` is the org's time unless it is given, as an import may.

        Raises:
            OptionError: There is no such object, or no such field and its name does not end in ``__c``.
        """
        with self._lock:
            if sobject not in self._models and _is_custom(sobject):
                prefix = f"a{len(self._models):02d}"
                self._models[sobject] = _Model(
                    prefix, {**_SYSTEM, "Name": "string", "OwnerId": "reference:User"}
                )
                self._records[sobject] = {}
            self._checked(sobject, fields)
            return str(self._kept(sobject, fields)["Id"])

    def add_field(self, sobject: str, name: str, kind: str = "string") -> None:
        """Give an object a custom field, so that it can be asked for before a record has it.

        Args:
            sobject: The object.
            name: The field's name, which ends in ``__c``.
            kind: Its type: ``string``, ``double``, ``boolean``, ``date``, ``datetime`` or ``textarea``.
        """
        if not _is_custom(name):
            raise OptionError(f"A custom field is not called {name!r}.", "Its name ends in __c.")
        with self._lock:
            self._model(sobject).fields.setdefault(name, kind)

    def update(self, sobject: str, record: str, /, **fields: Any) -> None:
        """Change a record.

        Raises:
            OptionError: There is no such record or field.
        """
        with self._lock:
            self._checked(sobject, fields)
            try:
                self._change(sobject, record, fields)
            except _RefusedError as error:
                raise OptionError(f"{sobject} {record}: {error.message}.") from None

    def delete(self, sobject: str, record: str, /) -> None:
        """Delete a record: it is found by no query any more.

        Raises:
            OptionError: There is no such record.
        """
        with self._lock:
            try:
                self._find(sobject, record)["IsDeleted"] = True
            except _RefusedError as error:
                raise OptionError(f"{sobject} {record}: {error.message}.") from None

    def records(self, sobject: str) -> list[dict[str, Any]]:
        """Return copies of an object's records that are not deleted, in the order in which they were added."""
        with self._lock:
            return [dict(r) for r in self._records.get(sobject, {}).values() if not r["IsDeleted"]]

    def clear(self) -> None:
        """Forget every record but the user."""
        with self._lock:
            for name, held in self._records.items():
                if name != "User":
                    held.clear()

    def _model(self, sobject: str) -> _Model:
        if sobject not in self._models:
            raise OptionError(f"This org has no object {sobject!r}.", f"It has {', '.join(self._models)}.")
        return self._models[sobject]

    def _checked(self, sobject: str, fields: Mapping[str, Any]) -> None:
        model = self._model(sobject)
        for name, value in fields.items():
            if name not in model.fields:
                if not _is_custom(name):
                    raise OptionError(
                        f"{sobject} has no field {name!r}.", "A custom field's name ends in __c."
                    )
                model.fields[name] = _type_of(value)

    def _kept(self, sobject: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        model, now = self._models[sobject], self.now()
        record: dict[str, Any] = dict.fromkeys(model.fields)
        owner = self._user["Id"] if sobject != "User" else None
        record |= {"CreatedDate": now, "CreatedById": owner, "IsDeleted": False}
        record |= {"OwnerId": owner} if "OwnerId" in model.fields else {}
        record |= dict(model.usual) | {
            name: _read(value, model.fields[name]) for name, value in fields.items()
        }
        created = record["CreatedDate"]
        record["CreatedDate"] = created.astimezone(dt.UTC).replace(microsecond=0)
        record |= {"LastModifiedDate": now, "SystemModstamp": now, "Id": self._new_id(model.prefix)}
        _name(record)
        self._records[sobject][record["Id"][:15]] = record
        return record

    def _new_id(self, prefix: str) -> str:
        number, letters = next(self._counts), ""
        while number:
            number, digit = divmod(number, len(_DIGITS))
            letters = _DIGITS[digit] + letters
        short = f"{prefix}Wx00000{letters:0>5}"
        return short + selects.salesforce_suffix(short)

    def _find(self, sobject: str, record: str) -> dict[str, Any]:
        found = self._records.get(sobject, {}).get(record[:15])
        if found is None or record not in {found["Id"], found["Id"][:15]}:
            raise _RefusedError(
                404, "NOT_FOUND", "Provided external ID field does not exist or is not accessible"
            )
        if found["IsDeleted"]:
            raise _RefusedError(404, "ENTITY_IS_DELETED", "entity is deleted")
        return found

    def _change(self, sobject: str, record: str, fields: Mapping[str, Any]) -> None:
        found, model = self._find(sobject, record), self._models[sobject]
        found |= {name: _read(value, model.fields[name]) for name, value in fields.items()}
        found |= {"LastModifiedDate": self.now(), "SystemModstamp": self.now()}
        _name(found)

    # ------------------------------------------------------------------------------------ answers

    def answer(self, asked: Asked) -> Answer:
        """Return what is answered to a request."""
        found = self.hook(asked) if self.hook is not None else None
        if found is not None:
            return found
        try:
            with self._lock:
                return self._routed(asked)
        except _RefusedError as error:
            return error.answer
        except QueryError as error:
            return Answer(400, [{"message": error.message, "errorCode": error.code}])
        except (ValueError, TypeError, AttributeError, KeyError):
            return Answer(
                400, [{"message": "The request is not understood", "errorCode": "JSON_PARSER_ERROR"}]
            )

    def _routed(self, asked: Asked) -> Answer:
        if asked.path.startswith("/services/Soap/u/"):
            return self._soap(asked)
        if asked.path == "/services/oauth2/token":
            return self._token(asked)
        self._allowed(asked)
        used = {"Sforce-Limit-Info": f"api-usage={self.calls}/{self.calls_per_day}"}
        found = self._resource(asked)
        return Answer(found.status, found.body, {**used, **found.headers})

    def _allowed(self, asked: Asked) -> None:
        given = asked.headers.get("Authorization", "").partition(" ")[2]
        if given not in self._sessions:
            raise _RefusedError(401, "INVALID_SESSION_ID", "Session expired or invalid")
        if self.calls >= self.calls_per_day:
            raise _RefusedError(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
        self.calls += 1

    def _resource(self, asked: Asked) -> Answer:
        found = re.fullmatch(r"/services/data/v\d+\.\d/([A-Za-z0-9/_.-]+?)/?", asked.path)
        where = found[1].split("/") if found else [""]
        match asked.method, where:
            case "GET", ["query"]:
                return self._query(asked.query["q"])
            case "GET", ["query", place]:
                return self._more(place)
            case "POST" | "PATCH", ["composite", "sobjects"]:
                return self._together(json.loads(asked.body), create=asked.method == "POST")
            case "GET", ["sobjects", sobject, "describe"]:
                return Answer(200, self._description(sobject))
            case "POST", ["sobjects", sobject]:
                return Answer(201, self._created(sobject, json.loads(asked.body)))
            case "GET", ["sobjects", sobject, record]:
                return Answer(200, self._shown(sobject, self._find(sobject, record), ()))
            case "PATCH", ["sobjects", sobject, record]:
                fields = json.loads(asked.body)
                self._writable(sobject, fields)
                self._change(sobject, record, fields)
                return Answer(204)
            case "DELETE", ["sobjects", sobject, record]:
                self._find(sobject, record)["IsDeleted"] = True
                return Answer(204)
            case _:
                raise _RefusedError(404, "NOT_FOUND", "The requested resource does not exist")

    # -------------------------------------------------------------------------------------- login

    def _new_session(self) -> str:
        self.logins += 1
        session = f"00D{secrets.token_urlsafe(24)}"
        self._sessions.add(session)
        return session

    def _soap(self, asked: Asked) -> Answer:
        root = ET.fromstring(asked.body)  # noqa: S314 - loopback, and expat of today ends entities that grow
        said = {node.tag.rpartition("}")[2]: node.text or "" for node in root.iter()}
        if not (
            said.get("username") == _USER and secrets.compare_digest(said.get("password", ""), self._password)
        ):
            code, message = "INVALID_LOGIN", "Invalid username, password, security token; or user locked out."
            body = (
                "<soapenv:Fault><faultcode>INVALID_LOGIN</faultcode><detail>"
                f"<sf:exceptionCode>{code}</sf:exceptionCode><sf:exceptionMessage>{message}</sf:exceptionMessage>"
                "</detail></soapenv:Fault>"
            )
            return Answer(500, _enveloped(body), {"Content-Type": "text/xml"})
        place = f"{self.url}/services/Soap/u/59.0/00D"
        body = (
            f"<loginResponse><result><serverUrl>{place}</serverUrl>"
            f"<sessionId>{self._new_session()}</sessionId></result></loginResponse>"
        )
        return Answer(200, _enveloped(body), {"Content-Type": "text/xml"})

    def _token(self, asked: Asked) -> Answer:
        form = asked.form
        kind = form.get("grant_type", "")
        if kind == "client_credentials":
            given = asked.headers.get("Authorization", "").partition(" ")[2]
            if base64.b64decode(given) != f"{_APP}:{self._secret}".encode():
                return Answer(
                    400, {"error": "invalid_client", "error_description": "invalid client credentials"}
                )
        elif kind != "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return Answer(
                400, {"error": "unsupported_grant_type", "error_description": "grant type not supported"}
            )
        elif not self._signed(form.get("assertion", "")):
            return Answer(400, {"error": "invalid_grant", "error_description": "invalid assertion"})
        session = {"access_token": self._new_session(), "instance_url": self.url, "token_type": "Bearer"}
        return Answer(200, session)

    def _signed(self, assertion: str) -> bool:
        import jwt

        try:
            claims = jwt.decode(assertion, options={"verify_signature": False})
            key = self.keys.get(claims["iss"], "")
            checked = jwt.decode(assertion, key, algorithms=["RS256"], options={"verify_aud": False})
        except (jwt.PyJWTError, KeyError, ValueError):
            return False
        return bool(checked.get("sub") == _USER)

    # ------------------------------------------------------------------------------------ queries

    def _query(self, text: str) -> Answer:
        query = selects.parse(text)
        names = {name.lower(): name for name in self._models}
        sobject = names.get(query.sobject.lower())
        if sobject is None:
            message = f"sObject type '{query.sobject}' is not supported."
            raise QueryError(message, "INVALID_TYPE")

        def kind(path: Path) -> Kind:
            return self._kind(sobject, path, filters=True)

        held = [r for r in self._records[sobject].values() if not r["IsDeleted"]]
        found = query.run(held, kind, lambda r, path: self._value(sobject, r, path), self.now())
        if query.counts:
            return Answer(200, {"totalSize": len(found), "done": True, "records": []})
        for path in query.fields:
            if path != ("FIELDS(STANDARD)",):
                self._kind(sobject, path)
        rows = [self._shown(sobject, dict(r), query.fields) for r in found]
        return self._page(query, rows, len(rows), f"0r8{secrets.token_hex(6)}AAA", 0)

    def _page(self, query: Query, rows: list[dict[str, Any]], whole: int, locator: str, start: int) -> Answer:
        end = start + self.page_size
        body: dict[str, Any] = {"totalSize": whole, "done": end >= whole, "records": rows[start:end]}
        if end < whole:
            self._rests[locator] = query, rows
            body["nextRecordsUrl"] = f"/services/data/v59.0/query/{locator}-{end}"
        else:
            self._rests.pop(locator, None)
        return Answer(200, body)

    def _more(self, place: str) -> Answer:
        locator, _, start = place.rpartition("-")
        if locator not in self._rests or not start.isdigit():
            raise _RefusedError(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
        query, rows = self._rests[locator]
        return self._page(query, rows, len(rows), locator, int(start))

    def _kind(self, sobject: str, path: Path, *, filters: bool = False) -> Kind:
        """Return what a field holds, also that of a related record."""
        for name in path[:-1]:
            sobject = self._related(sobject, name)[1]
        named = self._field(sobject, path[-1])
        if named is None:
            message = f"No such column '{path[-1]}' on entity '{sobject}'"
            raise QueryError(message, "INVALID_FIELD")
        of = self._models[sobject].fields[named].partition(":")[0]
        if filters and of in {"textarea", "junctionidlist"}:
            raise QueryError(f"field '{named}' can not be filtered in a query call", "INVALID_FIELD")
        return _KINDS.get(of, "string")

    def _field(self, sobject: str, name: str) -> str | None:
        fields = self._models[sobject].fields
        return name if name in fields else next((f for f in fields if f.lower() == name.lower()), None)

    def _related(self, sobject: str, name: str) -> tuple[str, str]:
        """Return the field of a relationship, and the object that it leads to."""
        for own, of in self._models[sobject].fields.items():
            if of.startswith("reference:") and _relationship(own).lower() == name.lower():
                return own, of.partition(":")[2]
        message = f"Didn't understand relationship '{name}' in field path."
        raise QueryError(message, "INVALID_FIELD")

    def _value(self, sobject: str, record: Mapping[str, Any], path: Path) -> Any:
        for name in path[:-1]:
            own, sobject = self._related(sobject, name)
            found = self._records[sobject].get(str(record[own] or "")[:15])
            if found is None:
                return None
            record = found
        return record.get(self._field(sobject, path[-1]) or "")

    def _shown(self, sobject: str, record: Mapping[str, Any], fields: tuple[Path, ...]) -> dict[str, Any]:
        """Return a record as JSON, with the fields that were asked for, under their own names."""
        model = self._models[sobject]
        place = f"/services/data/v59.0/sobjects/{sobject}/{record['Id']}"
        shown: dict[str, Any] = {"attributes": {"type": sobject, "url": place}}
        plain: list[str] = [] if fields else list(model.fields)
        nested: dict[str, list[Path]] = {}
        for path in fields:
            if path == ("FIELDS(STANDARD)",):
                plain += [f for f in model.fields if not _is_custom(f)]
            elif len(path) == 1:
                plain.append(self._field(sobject, path[0]) or path[0])
            else:
                nested.setdefault(path[0], []).append(path[1:])
        shown |= {name: _written(record[name]) for name in plain if model.fields[name] != "junctionidlist"}
        for name, paths in nested.items():
            own, other = self._related(sobject, name)
            found = self._records[other].get(str(record[own] or "")[:15])
            shown[_relationship(own)] = self._shown(other, found, tuple(paths)) if found is not None else None
        return shown

    # ------------------------------------------------------------------------------------- writes

    def _writable(self, sobject: str, fields: Mapping[str, Any]) -> None:
        if sobject not in self._models:
            raise _RefusedError(404, "NOT_FOUND", "The requested resource does not exist")
        for name in fields:
            if self._models[sobject].fields.get(name) is None:
                raise _RefusedError(
                    400, "INVALID_FIELD", f"No such column '{name}' on sobject of type {sobject}"
                )
            if name in _SYSTEM:
                cause = f"Unable to create/update fields: {name}. Please check the security settings of this field"
                raise _RefusedError(400, "INVALID_FIELD_FOR_INSERT_UPDATE", cause)

    def _created(self, sobject: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        self._writable(sobject, fields)
        missing = [name for name in self._models[sobject].needs if not fields.get(name)]
        if missing:
            cause = f"Required fields are missing: [{', '.join(missing)}]"
            raise _RefusedError(400, "REQUIRED_FIELD_MISSING", cause)
        return {"id": self._kept(sobject, fields)["Id"], "success": True, "errors": []}

    def _together(self, given: Mapping[str, Any], *, create: bool) -> Answer:
        records = given["records"]
        if len(records) > _MOST_TOGETHER:
            raise _RefusedError(
                400, "EXCEEDED_ID_LIMIT", "record limit reached. cannot submit more than 200 records"
            )
        done: list[dict[str, Any]] = []
        for each in records:
            sobject = each["attributes"]["type"]
            fields = {name: value for name, value in each.items() if name not in {"attributes", "Id", "id"}}
            record = str(each.get("Id", each.get("id", "")))
            try:
                if create:
                    done.append(self._created(sobject, fields))
                    continue
                self._writable(sobject, fields)
                self._change(sobject, record, fields)
                done.append({"id": record, "success": True, "errors": []})
            except _RefusedError as error:
                # One record of many that is not there has another code than a resource that is not there.
                code = "INVALID_CROSS_REFERENCE_KEY" if error.code == "NOT_FOUND" else error.code
                done.append(
                    {
                        "success": False,
                        "errors": [{"statusCode": code, "message": error.message, "fields": []}],
                    }
                )
        return Answer(200, done)

    def _description(self, sobject: str) -> dict[str, Any]:
        if sobject not in self._models:
            raise _RefusedError(404, "NOT_FOUND", "The requested resource does not exist")
        fields = []
        for name, of in self._models[sobject].fields.items():
            kind, _, target = of.partition(":")
            fields.append(
                {
                    "name": name,
                    "type": kind,
                    "filterable": kind not in {"textarea", "junctionidlist"},
                    "relationshipName": _relationship(name) if target else None,
                    "referenceTo": [target] if target else [],
                }
            )
        return {
            "name": sobject,
            "keyPrefix": self._models[sobject].prefix,
            "queryable": True,
            "fields": fields,
        }

    # ------------------------------------------------------------------------------------ display

    def __repr__(self) -> str:
        where = f"{_HOST}:{self._server.server_port}" if self.running and self._server else "stopped"
        return f"<PracticeOrg {where}, {self._counted()}>"

    def _counted(self) -> str:
        counts = {name: len(self.records(name)) for name in self._models if name != "User"}
        return ", ".join(f"{n:,} {name}" for name, n in counts.items() if n) or "no records"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        leads = self.records("Lead")[::-1]
        columns = ("Name", "Company", "Email", "Status", "CreatedDate")
        rows = [tuple(_cell(lead[name]) for name in columns) for lead in leads[:_SHOWN]]
        lines = [f"  {' | '.join(row)}" for row in rows]
        rest = len(leads) - len(rows)
        more = f'… and {rest:,} more: org.records("Lead")' if rest > 0 else ""
        head = f"<p><strong>Practice org</strong> · {html.escape(self._counted())}. Nobody's real one.</p>"
        shown = _html.table(("Name", "Company", "Email", "Status", "Created (UTC)"), rows) if rows else ""
        return {
            "text/plain": "\n".join([repr(self), *lines, *([f"  {more}"] if more else [])]),
            "text/html": _html.card(head + shown + (f"<p>{html.escape(more)}</p>" if more else "")),
        }


#: Who comes in where nobody says otherwise; no such person exists.
_PEOPLE = (
    ("Aoife", "O'Neil", "Harbour Lights", "Head of Research"),
    ("Jörg", "Möller", "Nordwind Analytics", "Data Scientist"),
    ("Mei", "Tanaka", "Paper Crane Studio", "Founder"),
    ("Luis", "Ortega", "Cobalt Foods", "Analyst"),
    ("Ngozi", "Adeyemi", "Baobab Health", "Programme Manager"),
    ("Priya", "Raman", "Monsoon Maps", "Cartographer"),
    ("Tom", "Fletcher", "Fletcher & Daughters", "Owner"),
    ("Salma", "Haddad", "Atlas Energy", "Engineer"),
)


# ------------------------------------------------------------------------------------------ values


def _is_custom(name: str) -> bool:
    return name.endswith("__c") and _NAME.fullmatch(name) is not None


def _relationship(name: str) -> str:
    """Return the name of the relationship of a reference: ``OwnerId`` leads to ``Owner``."""
    return f"{name[:-1]}r" if name.endswith("__c") else name.removesuffix("Id")


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "double"
    if isinstance(value, dt.datetime):
        return "datetime"
    return "date" if isinstance(value, dt.date) else "string"


def _read(value: Any, of: str) -> Any:
    """Return a value as it is kept; datetimes and dates may come as text."""
    if value is None or value == "":
        return None
    try:
        if of == "datetime" and isinstance(value, str):
            value = dt.datetime.fromisoformat(value)
        if of == "date" and isinstance(value, str):
            return dt.date.fromisoformat(value)
    except ValueError:
        raise _RefusedError(400, "JSON_PARSER_ERROR", f"Cannot deserialize instance of {of}") from None
    if isinstance(value, dt.datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)
        return aware.astimezone(dt.UTC)
    if of == "boolean" and not isinstance(value, bool):
        raise _RefusedError(400, "JSON_PARSER_ERROR", "Cannot deserialize instance of boolean")
    return value


def _written(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%dT%H:%M:%S}.{value.microsecond // 1000:03d}+0000"
    return value.isoformat() if isinstance(value, dt.date) else value


def _name(record: dict[str, Any]) -> None:
    if "LastName" in record:
        record["Name"] = " ".join(filter(None, (record["FirstName"], record["LastName"]))) or None


def _cell(value: Any) -> str:
    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, dt.datetime) else str(value or "")


def _enveloped(body: str) -> bytes:
    spaces = (
        'xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns="urn:partner.soap.sforce.com" '
        'xmlns:sf="urn:fault.partner.soap.sforce.com"'
    )
    return f'<?xml version="1.0"?><soapenv:Envelope {spaces}><soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>'.encode()


# ------------------------------------------------------------------------------------------ server


def _certified(folder: FilePath) -> ssl.SSLContext:
    """Return the server's TLS settings, with a certificate of its own for loopback; leave that in *folder*."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID
    except ImportError:
        cause = "A practice org needs the package cryptography, which is not installed here."
        raise SettingsError(cause, 'Install it: pip install "smtp_notebook[salesforce]".') from None
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "smtp_notebook practice org")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(_HOST))]
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    public = key.public_key()
    # It vouches for itself alone: a path behind it may have no further certificate.
    uses = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + 365 * day)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, **uses), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    written, private = folder / "certificate.pem", folder / "key.pem"
    written.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(written, private)
    private.unlink()
    return context


class _Server(http.server.ThreadingHTTPServer):
    """Listens on loopback; each visit has a thread, where it also shakes hands."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, org: PracticeOrg, context: ssl.SSLContext) -> None:
        super().__init__((_HOST, 0), _Visit)
        self.org = org
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a broken visit be."""


class _Visit(http.server.BaseHTTPRequestHandler):
    timeout = 30
    server: _Server

    def _answered(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 <= length <= _MOST_OCTETS:
            self.send_error(413)
            return
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        asked = Asked(self.command, parts.path, query, dict(self.headers.items()), self.rfile.read(length))
        answer = self.server.org.answer(asked)
        octets = answer.octets
        headers = {"Content-Type": "application/json;charset=UTF-8", "Content-Length": str(len(octets))}
        self.send_response_only(answer.status)
        self.send_header("Date", _http_date(self.server.org.now()))
        for name, value in (headers | dict(answer.headers)).items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(octets)

    do_GET = do_POST = do_PATCH = do_DELETE = _answered  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Write nothing."""


def _http_date(moment: dt.datetime) -> str:
    import email.utils

    return email.utils.format_datetime(moment, usegmt=True)
