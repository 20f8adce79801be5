"""The definition of a workflow that mails new records, read: Logic Apps' and Power Automate's JSON. Pure but for a file.

"When a record is created" of the Salesforce connector and "Send Email" of the SMTP connector say the same as a
source, a template and how often to look. Each part of a definition is either mapped or named in one error, with its
path: nothing that a workflow does is left out silently. No secret is ever read from it.

Its form is documented in "Schema reference for the Workflow Definition Language" and in the reference pages of the
two connectors (learn.microsoft.com: azure/logic-apps/workflow-definition-language-schema, connectors/smtp,
connectors/salesforce).
"""

from __future__ import annotations

import datetime as dt
import html
import json
import re
import zoneinfo
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smtp_notebook import _html, expressions
from smtp_notebook.addresses import CONTROL, split_addresses
from smtp_notebook.attachments import Attachment
from smtp_notebook.expressions import ExpressionError, Printed, Scope
from smtp_notebook.fields import IMPORTANCES, mail_text
from smtp_notebook.outcome import MailError, TemplateError

__all__ = ["Definition", "read"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What a workflow says that mails each new record.

    Attributes:
        name: The workflow's name, or "".
        sobject: The object that it watches, such as ``Lead``.
        where: The trigger's filter as the condition of a SOQL query, or "".
        columns: The fields of the object that the mail uses, and ``Id``.
        every: How often it looks, in seconds; None where nothing says so.
        start: When it began to look at the earliest, or None.
        fields: The mail's fields as a `Template` takes them.
        connection: What it calls its connection to the SMTP server, or "".
        org: What it calls its connection to Salesforce, or "".
        trigger: The trigger's name.
        action: The action's name.
    """

    name: str = ""
    sobject: str
    where: str = ""
    columns: tuple[str, ...] = ("Id",)
    every: float | None = None
    start: dt.datetime | None = None
    fields: Mapping[str, Any]
    connection: str = ""
    org: str = ""
    trigger: str = ""
    action: str = ""

    def __repr__(self) -> str:
        often = "" if self.every is None else f", every {_often(self.every)}"
        return f"<Definition {self.name or 'workflow'}: when a {self.sobject} is created{often}, send email>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        rows = [(label, value) for label, value in self._told() if value]
        cells = "".join(
            f'<tr><td style="text-align:left;opacity:.72;white-space:nowrap">{html.escape(label)}</td>'
            f'<td style="text-align:left;overflow-wrap:anywhere">{html.escape(value)}</td></tr>'
            for label, value in rows
        )
        text = "\n".join([repr(self), *(f"  {label}: {value}" for label, value in rows)])
        table = f'<table style="margin:6px 0">{cells}</table>'
        return {"text/plain": text, "text/html": _html.card(f"{html.escape(repr(self)[1:-1])}{table}")}

    def _told(self) -> Iterator[tuple[str, str]]:
        yield "object", f"{self.sobject} ({', '.join(self.columns)})"
        yield "where", self.where
        yield "every", "" if self.every is None else _often(self.every)
        yield "start", "" if self.start is None else self.start.isoformat()
        yield "connection", self.connection
        for name, value in self.fields.items():
            if name not in {"body", "inline_css"}:
                yield name.strip("_"), "; ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        yield "body", str(self.fields.get("body", "")).strip().partition("\n")[0]


def _often(seconds: float) -> str:
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds % size == 0 and seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}s" if count > 1 else unit
    return f"{seconds:g} seconds"


def read(definition: Mapping[str, Any] | str | Path, *, ignore: Iterable[str] = ()) -> Definition:
    """Return what a workflow's definition says.

    Args:
        definition: The JSON as a dict, as text, or as the path of its file (UTF-8): an exported Logic App or flow
            (``properties.definition``), a template of Azure's resource manager with one Logic App, or the definition
            alone.
        ignore: Paths of parts that are left out knowingly, such as ``"actions.Send_Email.runtimeConfiguration"``.

    Raises:
        TemplateError: It is no such definition, or parts of it have no equal here; all of them are named, each
            with its path.
    """
    problems = _Problems()
    found = _read(_document(definition), problems)
    _refuse(problems, [str(path) for path in ignore])
    if found is None:
        raise TemplateError("What is left of this definition sends no mail.", _EXPORT)
    return found


_NO_DEFINITION = "This is no workflow definition."
_EXPORT = "Give the exported JSON of a Logic App or a flow: it has triggers and actions."
_MOST_NAMED = 20


class _Problems:
    """What has no equal here: paths, each with a few words."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def add(self, path: str, words: str) -> None:
        plain = CONTROL.sub("?", path.encode("utf-8", "replace").decode())
        shown = plain if len(plain) <= _LONGEST_PATH else f"{plain[:_LONGEST_PATH]}…"
        self.found.append((shown, words))


_LONGEST_PATH = 200


def _refuse(problems: _Problems, ignored: list[str]) -> None:
    def under(path: str, name: str) -> bool:
        return path == name or path.startswith((f"{name}.", f"{name}["))

    for name in ignored:
        if not any(under(path, name) for path, _ in problems.found):
            cause = f"ignore: {name[:80]!r} is nothing that this definition is refused for."
            raise TemplateError(cause, "Take it out of ignore=.")
    left = list(
        dict.fromkeys(
            (p, words) for p, words in problems.found if not any(under(p, name) for name in ignored)
        )
    )
    if not left:
        return
    said = "; ".join(f"{path}: {words}" for path, words in left[:_MOST_NAMED])
    more = f"; and {len(left) - _MOST_NAMED} more" if len(left) > _MOST_NAMED else ""
    raise TemplateError(
        f"This definition says what has no equal here: {said}{more}.",
        "Take that out of it, or name what can be left out in ignore=[…].",
    )


# ------------------------------------------------------------------------------------------- the document


def _document(given: Any) -> Mapping[Any, Any]:
    if isinstance(given, Path) or (
        isinstance(given, str) and not given.lstrip("\ufeff \t\r\n").startswith("{")
    ):
        given = _file_text(Path(given))
    if isinstance(given, str):
        try:
            given = json.loads(given.removeprefix("\ufeff"), object_pairs_hook=_once)
        except RecursionError:
            raise TemplateError("The definition is nested too deeply.", _EXPORT) from None
        except ValueError as error:
            where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
            raise TemplateError(f"The definition is no JSON{where}.", _EXPORT) from None
    if not isinstance(given, Mapping):
        raise TemplateError(f"A {type(given).__name__} is no workflow definition.", _EXPORT)
    return given


def _file_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise TemplateError("The definition's file is not UTF-8.", "Export it anew.") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no path"
        shown = str(path)
        shown = shown if len(shown) <= 80 else f"{shown[:80]}…"  # noqa: PLR2004 - a line's length
        raise TemplateError(f"The definition {shown!r} cannot be read: {why}.", "Check the path.") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise TemplateError("The definition names something twice in one object.", "Export it anew.")
    return made


class _Part:
    """An object of the JSON of which each property is taken, or named."""

    def __init__(self, given: Any, path: str, problems: _Problems) -> None:
        self.path = path
        self.problems = problems
        if not isinstance(given, Mapping):
            problems.add(path or "definition", "an object is needed")
            given = {}
        self._left = {str(name): value for name, value in given.items()}

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def problem(self, name: str, words: str) -> None:
        self.problems.add(self.at(name) if name else self.path or "definition", words)

    def names(self) -> list[str]:
        return list(self._left)

    def take(self, name: str) -> Any:
        """Return a property and count it as read; None where there is none."""
        return self._left.pop(name, None)

    def look(self, name: str) -> Any:
        """Return a property, which stays to be read."""
        return self._left.get(name)

    def within(self, name: str) -> _Part:
        """Return an object in this one; an empty one where there is none."""
        value = self.take(name)
        return _Part({} if value is None else value, self.at(name), self.problems)

    def text(self, name: str) -> str:
        """Return a property that is text, or ""."""
        value = self.take(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.problem(name, "text is needed")
            return ""
        return value

    def without(self, *names: str) -> None:
        """Leave properties out that do nothing."""
        for name in names:
            self._left.pop(name, None)

    def end(self) -> None:
        """Name what nobody took and is not empty."""
        for name, value in self._left.items():
            if value is not None and value not in ({}, []):
                self.problem(name, _HINTS.get(name, "not known here"))


#: What to say of properties that people meet.
_HINTS: Mapping[str, str] = {
    "runtimeConfiguration": "concurrency and secured data have no equal; a watch reads one batch at a time",
    "retryPolicy": "a watch tries temporary refusals again by its own rules",
    "conditions": "a trigger's condition has no equal; the trigger's filter has",
    "limit": "a time limit has no equal",
    "trackedProperties": "tracked properties have no equal",
    "operationOptions": "options of an operation have no equal",
    "schedule": "a schedule has no equal; run the notebook from cron",
    "else": "a condition has no equal",
    "DeliveryReceipt": "delivery reports are asked for by connect(…, notify=…)",
    "$top": "how many it reads at once is max_per_poll=",
    "correlation": "a correlation has no equal",
}


# ------------------------------------------------------------------------------------ around the definition

#: What describes a resource or a flow and does nothing.
_DESCRIBES = ("$schema", "contentVersion", "name", "id", "type", "location", "tags", "apiVersion", "kind", "etag",
              "comments", "dependsOn", "systemData", "schemaVersion", "description", "metadata")  # fmt: skip
_STANDS = ("provisioningState", "createdTime", "changedTime", "version", "accessEndpoint", "sku", "displayName",
           "apiId", "connectionReferences", "endpointsConfiguration", "templateName", "lastModifiedTime",
           "definitionSummary", "creator", "environment", "flowFailureAlertSubscribed", "isManaged",
           "installationStatus", "provisioningMethod", "flowSuspensionReason", "workflowEntityId")  # fmt: skip
_LOGIC_APP = "microsoft.logic/workflows"
_API_CONNECTION = "microsoft.web/connections"
_SECRETS = re.compile(
    r"(?:.*(?:password|passwd|secret|apikey|accesskey|accesstoken|securitytoken|refreshtoken|privatekey)|pwd|"
    r"authorization|connectionstring)",
    re.IGNORECASE,
)
_DEEPEST = 60


def _refuse_secrets(document: Any) -> None:
    """Refuse a file in which a secret stands; none is repeated."""
    waiting: list[tuple[Any, str, int]] = [(document, "", 0)]
    while waiting:
        value, path, depth = waiting.pop()
        if depth > _DEEPEST:
            raise TemplateError("The definition is nested too deeply.", _EXPORT)
        if isinstance(value, Mapping):
            secured = str(value.get("type", "")).lower().startswith("secure")
            for name, inner in value.items():
                below = f"{path}.{name}" if path else str(name)
                plain = re.sub(r"[^A-Za-z]", "", str(name))
                named = _SECRETS.fullmatch(plain) or (secured and name in {"value", "defaultValue"})
                if named and isinstance(inner, str) and inner.strip() and not _REFERS.match(inner):
                    raise _secret(below)
                waiting.append((inner, below, depth + 1))
        elif isinstance(value, list | tuple):
            waiting += [(inner, f"{path}[{number}]", depth + 1) for number, inner in enumerate(value)]


#: What only names a parameter: of the workflow, or of a resource manager's template.
_REFERS = re.compile(r"@\{?parameters\(|\[")


def _secret(path: str) -> TemplateError:
    shown = CONTROL.sub("?", path.encode("utf-8", "replace").decode())[:_LONGEST_PATH]
    return TemplateError(
        f"A secret stands in this definition, at {shown}, and is not read.",
        'Take it out and change it there; connect(…).save("name") keeps one safely.',
    )


def _read(document: Mapping[Any, Any], problems: _Problems) -> Definition | None:
    _refuse_secrets(document)
    outer = _Part(document, "", problems)
    managed = "resources" in outer.names()
    if managed:
        app = _resource(outer)
        if app is None:
            return None
        outer = app
    name = outer.take("name")
    name = name if isinstance(name, str) and not name.startswith("[") else ""
    properties = outer
    if "properties" in outer.names():
        properties = outer.within("properties")
        outer.without(*_DESCRIBES)
        outer.end()
    if "definition" not in properties.names():
        return _flow(properties, name, {}, {})
    definition = _Part(properties.take("definition"), "", problems)
    if managed:
        _name_templates(definition)
    shown = properties.take("displayName")
    name = shown if isinstance(shown, str) and shown else name
    state = properties.text("state")
    if state and state.lower() not in {"enabled", "started", "notspecified"}:
        properties.problem("state", "the workflow is switched off")
    properties.without(*_STANDS, *_DESCRIBES)
    given = properties.within("parameters")
    connections = given.take("$connections")
    given.without("$authentication")
    parameters = {each: _value_of(given, each, "value") for each in given.names()}
    given.end()
    properties.end()
    return _flow(definition, name, parameters, _names_of(connections))


def _resource(template: _Part) -> _Part | None:
    """Return the one Logic App of a resource manager's template; None where there is another number."""
    resources = template.take("resources")
    listed = list(resources.values()) if isinstance(resources, Mapping) else resources
    template.without(*_DESCRIBES, "parameters", "variables", "outputs")
    template.end()
    apps: list[Any] = []
    for number, each in enumerate(listed if isinstance(listed, list) else []):
        kind = str(each.get("type", "")).lower() if isinstance(each, Mapping) else ""
        if kind == _LOGIC_APP:
            apps.append((number, each))
        elif kind != _API_CONNECTION:
            template.problem(f"resources[{number}]", "a resource that is no Logic App")
    if len(apps) != 1:
        template.problem("resources", f"one Logic App is needed, there are {len(apps)}")
        return None
    number, app = apps[0]
    return _Part(app, f"resources[{number}]", template.problems)


def _name_templates(definition: _Part) -> None:
    """Name each text that the resource manager would replace: one in brackets."""
    waiting = [(definition.look(name), definition.at(name)) for name in ("triggers", "actions")]
    while waiting:
        value, path = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(inner, f"{path}.{name}") for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(inner, f"{path}[{number}]") for number, inner in enumerate(value)]
        elif isinstance(value, str) and value.startswith("[") and value.endswith("]"):
            definition.problems.add(path, "an expression of the resource manager has no equal")


def _value_of(parameters: _Part, name: str, key: str) -> Any:
    """Return the plain value of a parameter, or None; none of a secured one."""
    part = parameters.within(name)
    kind = part.text("type").lower()
    value = part.take(key)
    part.without("metadata", "allowedValues", "defaultValue", "value")
    part.end()
    if kind.startswith("secure") or not isinstance(value, str | int | float):
        return None
    return None if isinstance(value, str) and value.startswith(("@", "[")) else value


def _names_of(connections: Any) -> dict[str, str]:
    """Return what each reference to a connection is called."""
    value = connections.get("value") if isinstance(connections, Mapping) else None
    found = value if isinstance(value, Mapping) else {}
    names: dict[str, str] = {}
    for key, each in found.items():
        inner = each if isinstance(each, Mapping) else {}
        named = inner.get("connectionName")
        plain = isinstance(named, str) and _PLAIN_NAME.fullmatch(named) is not None
        names[str(key)] = str(named) if plain else str(key)
    return names


_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


# -------------------------------------------------------------------------------------- the definition itself


def _flow(
    definition: _Part, name: str, values: Mapping[str, Any], connections: Mapping[str, str]
) -> Definition | None:
    problems = definition.problems
    if not {"triggers", "actions"} & set(definition.names()):
        raise TemplateError(_NO_DEFINITION, _EXPORT)
    declared = definition.within("parameters")
    parameters: dict[str, Any] = {}
    declared.without("$connections", "$authentication")
    for each in declared.names():
        default = _value_of(declared, each, "defaultValue")
        value = values.get(each)
        parameters[each] = default if value is None else value
    known = {each: value for each, value in parameters.items() if value is not None}
    triggers, actions = definition.within("triggers"), definition.within("actions")
    definition.without("$schema", "contentVersion", "description", "metadata")
    definition.end()
    if len(triggers.names()) != 1:
        triggers.problem("", f"one trigger is needed, there are {len(triggers.names())}")
        return None
    trigger_name = triggers.names()[0]
    trigger = _trigger(triggers.within(trigger_name), Scope(known))
    mail = _action(actions, known, single=trigger.single)
    if mail is None:
        return None
    columns = ("Id", *sorted(mail.columns - {"Id"}))
    if trigger.selected:
        for column in sorted(mail.columns - set(trigger.selected)):
            problems.add(mail.path, f"it uses {column}, which the trigger's $select leaves out")
    server = connections.get(mail.connection, mail.connection)
    if "://" in server:
        # Whoever wrote the file would get the mails, and the password of the environment.
        problems.add(f"{mail.path}.host", "it names a server by its address, and no saved connection")
        server = ""
    return Definition(
        name=name,
        sobject=trigger.sobject,
        where=trigger.where,
        columns=columns,
        every=trigger.every,
        start=trigger.start,
        fields=mail.fields,
        connection=server,
        org=connections.get(trigger.org, trigger.org),
        trigger=trigger_name,
        action=mail.name,
    )


@dataclass(frozen=True, slots=True)
class _Trigger:
    sobject: str
    where: str
    every: float | None
    start: dt.datetime | None
    org: str
    single: bool
    selected: tuple[str, ...] = ()


_TABLE = re.compile(
    r"/(?:v\d/)?datasets/default/tables/@\{encodeURIComponent\((?:encodeURIComponent\()?'([A-Za-z0-9_]{1,80})'\)?\)\}"
    r"/(\w+)"
)
_CREATED = frozenset({"onnewitems", "getonnewitems", "getonnewitems_v2", "getonnewitemsv2"})
_SOBJECT = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}")
_NOT_CREATED = "only 'When a record is created' of Salesforce has an equal here"


def _trigger(part: _Part, scope: Scope) -> _Trigger:
    kind = part.text("type")
    part.without("metadata", "description", "evaluatedRecurrence", "kind")
    split = part.take("splitOn")
    single = isinstance(split, str) and expressions.record_list(split)
    if split is not None and not single:
        part.problem("splitOn", "it is not the list of records that the trigger found")
    every, start = _recurrence(part)
    inputs = part.within("inputs")
    host = inputs.within("host")
    org, operation, api = _host(host)
    inputs.without("authentication")
    if kind not in {"ApiConnection", "OpenApiConnection"} or (api and "salesforce" not in api.lower()):
        part.problem("type", _NOT_CREATED)
        inputs.without(*inputs.names())
        return _Trigger("", "", every, start, org, single)
    sobject, options = _table(inputs, operation)
    where = _where(options, scope)
    selected = tuple(filter(None, (each.strip() for each in options.text("$select").split(","))))
    order = options.text("$orderby")
    if order and not re.fullmatch(r"\s*(?:CreatedDate|Id)(?:\s+asc)?\s*", order, re.IGNORECASE):
        options.problem("$orderby", "records are taken in the order in which they were created")
    options.end()
    inputs.end()
    part.end()
    return _Trigger(sobject, where, every, start, org, single, selected)


def _host(host: _Part) -> tuple[str, str, str]:
    """Return the reference of a connection, the operation and the API that it is of."""
    operation, api = host.text("operationId"), host.text("apiId")
    connection = host.take("connection")
    name = host.text("connectionName") or host.text("connectionReferenceName")
    if isinstance(connection, str):
        name = name or connection
    elif connection is not None:
        inner = _Part(connection, host.at("connection"), host.problems)
        named = inner.text("name")
        name = inner.text("referenceName")
        if named:
            found = _CONNECTION.fullmatch(named)
            name = found[1] if found else ""
            if found is None:
                inner.problem("name", "it names no connection of $connections")
        inner.end()
    host.without("api")
    host.end()
    return name, operation, api


_CONNECTION = re.compile(r"@\{?parameters\('\$connections'\)\['([^']{1,80})'\]\['connectionId'\]\}?")


def _table(inputs: _Part, operation: str) -> tuple[str, _Part]:
    """Return the object of a trigger, and its further options."""
    path = inputs.text("path")
    method = inputs.text("method")
    if path or method:
        found = _TABLE.fullmatch(path)
        if method.lower() != "get" or found is None or found[2].lower() not in _CREATED:
            inputs.problem("path", _NOT_CREATED)
        return (found[1] if found else ""), inputs.within("queries")
    options = inputs.within("parameters")
    sobject, dataset = options.text("table"), options.text("dataset")
    if sobject and not _SOBJECT.fullmatch(sobject):
        options.problem("table", "it is no object's name")
    if operation.lower() not in _CREATED or not sobject or dataset not in {"", "default"}:
        inputs.problem("host.operationId", _NOT_CREATED)
    return sobject, options


def _where(options: _Part, scope: Scope) -> str:
    text = options.text("$filter")
    if not text.strip():
        return ""
    try:
        made = expressions.pieces(text, scope)
        plain = "".join(piece for piece in made if isinstance(piece, str))
        if any(isinstance(piece, Printed) for piece in made):
            options.problem("$filter", "an expression in the filter has no equal")
            return ""
        return expressions.soql(plain)
    except ExpressionError as error:
        options.problem("$filter", str(error))
        return ""


#: What a start is compared with.
NOW: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)  # noqa: E731 - exchanged by tests
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
_MOST_TIMES = 1000


def _recurrence(part: _Part) -> tuple[float | None, dt.datetime | None]:
    recurrence = part.within("recurrence")
    if not recurrence.names():
        return None, None
    unit, count = recurrence.text("frequency"), recurrence.take("interval")
    every: float | None = None
    if unit.lower() not in _UNITS:
        recurrence.problem("frequency", "it is one of Second, Minute, Hour, Day and Week here")
    elif isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= _MOST_TIMES:
        recurrence.problem("interval", "a whole number is needed")
    else:
        every = float(_UNITS[unit.lower()] * count)
    start = _start(recurrence)
    if start is not None and start > NOW():
        recurrence.problem("startTime", "it is still to come, and a watch begins when it is started")
    recurrence.end()
    return every, start


def _start(recurrence: _Part) -> dt.datetime | None:
    text, zone = recurrence.text("startTime"), recurrence.text("timeZone")
    if not text:
        return None  # without it a zone does nothing
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        recurrence.problem("startTime", "it is no moment as ISO 8601 writes one")
        return None
    if moment.tzinfo is not None:
        return moment
    try:
        return moment.replace(tzinfo=dt.UTC if zone in {"", "UTC"} else zoneinfo.ZoneInfo(zone))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        recurrence.problem("timeZone", "write the start with its offset: the zone is none of the IANA's")
        return None


# ------------------------------------------------------------------------------------------------ the mail


@dataclass(frozen=True, slots=True)
class _Mail:
    name: str
    path: str
    fields: Mapping[str, Any]
    columns: frozenset[str]
    connection: str


_SEND = re.compile(r"sendemail(?:_?v[23])?", re.IGNORECASE)
_NOT_SEND = "only 'Send Email' of SMTP has an equal here"
_LOOPS = frozenset({"foreach"})


def _action(actions: _Part, parameters: Mapping[str, Any], *, single: bool) -> _Mail | None:
    """Return the one mail of a workflow; every other action is named."""
    names = actions.names()
    loop = ""
    if not single:
        # Without splitOn a loop over the records stands around the mail.
        if len(names) != 1:
            actions.problem(
                "", "the trigger gives all records at once, and no loop over them is the one action"
            )
            return None
        loop = names[0]
        around = actions.within(loop)
        over = around.text("foreach")
        if around.text("type").lower() not in _LOOPS or not expressions.record_list(over):
            around.problem("", "a loop over the trigger's records is needed where it has no splitOn")
            return None
        _after(around)
        around.without("metadata", "description")
        actions = around.within("actions")
        around.end()
        names = actions.names()
    scope = Scope(parameters, loop)
    mails: list[_Mail] = []
    for name in names:
        part = actions.within(name)
        kind = part.text("type")
        if kind in {"ApiConnection", "OpenApiConnection"} and _sends(part):
            mails.append(_mail(part, name, scope))
        else:
            # What is in it is not looked at: the whole action is what is named.
            part.problem("", f"an action of type {kind[:40] or '?'}; {_NOT_SEND}")
    if len(mails) > 1:
        actions.problem("", f"{len(mails)} mails for each record; make a watch of each")
    elif not mails:
        actions.problem("", f"no mail is among them; {_NOT_SEND}")
    return mails[0] if mails else None


def _sends(part: _Part) -> bool:
    """Tell whether an action is Send Email of the SMTP connector."""
    inputs = part.look("inputs")
    if not isinstance(inputs, Mapping):
        return False
    host = inputs.get("host")
    host = host if isinstance(host, Mapping) else {}
    api, operation, path = host.get("apiId"), host.get("operationId"), inputs.get("path")
    if isinstance(api, str):
        return api.lower().endswith("shared_smtp") and _SEND.fullmatch(str(operation)) is not None
    return isinstance(path, str) and _SEND.fullmatch(path.removeprefix("/")) is not None


def _after(part: _Part) -> None:
    """Name what a mail waits for, other than that a step before it succeeded."""
    after = part.within("runAfter")
    for name in after.names():
        states = after.take(name)
        if not isinstance(states, list) or [str(state).lower() for state in states] != ["succeeded"]:
            after.problem(name, "a mail that depends on how another step ended has no equal")


_PROPERTIES = {
    "to": "to",
    "cc": "cc",
    "bcc": "bcc",
    "from": "from_",
    "subject": "subject",
    "body": "body",
    "ishtml": "format",
    "importance": "importance",
    "attachments": "attach",
    "readreceipt": "read_receipt",
}


def _mail(part: _Part, name: str, scope: Scope) -> _Mail:
    part.without("metadata", "description", "kind")
    _after(part)
    inputs = part.within("inputs")
    connection, operation, _ = _host(inputs.within("host"))
    inputs.without("authentication")
    path, method = inputs.text("path"), inputs.text("method")
    if method and method.lower() != "post":
        inputs.problem("method", _NOT_SEND)
    version = operation or path
    modern = version.lower().endswith("v3")
    given = _given(inputs)
    made = _Fields(given, scope, modern=modern)
    fields = made.all()
    inputs.end()
    part.end()
    return _Mail(name, inputs.path, fields, frozenset(made.columns), connection)


def _given(inputs: _Part) -> _Part:
    """Return the mail's properties: ``body`` of a Logic App, ``parameters`` of a flow."""
    if "body" in inputs.names():
        return inputs.within("body")
    parameters = inputs.take("parameters")
    path = inputs.at("parameters")
    if isinstance(parameters, Mapping) and isinstance(parameters.get("emailMessage"), Mapping):
        nested = parameters["emailMessage"]
        rest = {f"{name}": value for name, value in parameters.items() if name != "emailMessage"}
        parameters = {**rest, **{f"emailMessage/{name}": value for name, value in nested.items()}}
    return _Part({} if parameters is None else parameters, path, inputs.problems)


class _Fields:
    """A mail's properties, each turned into the field of a template."""

    def __init__(self, given: _Part, scope: Scope, *, modern: bool) -> None:
        self._given = given
        self._scope = scope
        self._modern = modern
        self.columns: set[str] = set()

    def all(self) -> dict[str, Any]:
        """Return the fields; what has no equal is a problem."""
        values = self._values()
        # The newest Send Email has no IsHtml: its body is HTML. Of the older ones it is false where nothing is said.
        is_html = self._truth(values["format"]) if "format" in values else self._modern
        fields: dict[str, Any] = {}
        for name in ("to", "cc", "bcc"):
            if name in values and (items := self._addresses(*values[name])):
                fields[name] = items
        if "to" not in values or not str(values["to"][1]).strip():
            self._given.problem("To", "a recipient is needed")
        for name in ("from_", "subject", "importance", "read_receipt"):
            if name in values and (text := self._line(*values[name])):
                fields[name] = text
        self._check_importance(values, fields)
        fields["body"] = self._text(*values["body"]) if "body" in values else ""
        fields["format"] = "html" if is_html else "text"
        if is_html:
            fields["inline_css"] = False  # the connector leaves HTML as it is written
        if "attach" in values:
            fields |= self._files(*values["attach"], shown=_html.cids(fields["body"]) if is_html else set())
        return fields

    def _values(self) -> dict[str, tuple[str, Any]]:
        found: dict[str, tuple[str, Any]] = {}
        for name in self._given.names():
            plain = name.removeprefix("emailMessage/")
            own = _PROPERTIES.get(plain.lower())
            if own is None:
                words = _HINTS.get(plain, f"Send Email has {', '.join(_CONNECTORS)}")
                self._given.take(name)
                self._given.problem(name, words)
                continue
            value = self._given.take(name)
            if own in found:
                self._given.problem(name, "it is there twice")
            elif value is not None:
                found[own] = (name, value)
        return found

    def _truth(self, given: tuple[str, Any]) -> bool:
        name, value = given
        word = str(value).strip().lower()
        if word not in {"true", "false", ""}:
            self._given.problem(name, "true or false is needed")
        return word == "true"

    def _pieces(self, name: str, value: Any) -> list[str | Printed]:
        if isinstance(value, bool | int | float):
            value = str(value)
        if not isinstance(value, str):
            self._given.problem(name, "text is needed")
            return []
        try:
            mail_text(name, value)
            found = expressions.pieces(value, self._scope)
        except ExpressionError as error:
            self._given.problem(name, str(error))
            return []
        except MailError:
            self._given.problem(name, "no mail can hold this text")
            return []
        self.columns |= {c for piece in found if isinstance(piece, Printed) for c in piece.columns}
        return found

    def _text(self, name: str, value: Any) -> str:
        found = self._pieces(name, value)
        # What follows a literal decides what ends in a brace, so neighbours are escaped together with it.
        return "".join(
            expressions.literal(piece) if isinstance(piece, str) else f"{{{{ {piece.text} }}}}"
            for piece in found
        )

    def _line(self, name: str, value: Any) -> str:
        if isinstance(value, str) and CONTROL.search(value):
            self._given.problem(name, "there is a line break or another control character in it")
            return ""
        return self._text(name, value)

    def _addresses(self, name: str, value: Any) -> tuple[str, ...]:
        """Return the addresses of a field: split as the connector does, at semicolons of its cells too."""
        if isinstance(value, str) and CONTROL.search(value):
            self._given.problem(name, "there is a line break or another control character in it")
            return ()
        found = self._pieces(name, value)
        printed = [piece for piece in found if isinstance(piece, Printed)]
        numbers = iter(range(len(printed)))
        skeleton = "".join(piece if isinstance(piece, str) else f"\0{next(numbers)}\0" for piece in found)
        return tuple(_address(item, printed) for item in split_addresses(skeleton))

    def _check_importance(self, values: Mapping[str, tuple[str, Any]], fields: Mapping[str, Any]) -> None:
        text = str(fields.get("importance", "normal")).strip().lower()
        if "{" not in text and text not in IMPORTANCES:
            self._given.problem(values["importance"][0], "it is one of Low, Normal and High")

    def _files(self, name: str, value: Any, *, shown: set[str]) -> dict[str, Any]:
        given = [value] if isinstance(value, Mapping) else value
        if not isinstance(given, list):
            self._given.problem(
                name, "a list of files is needed; one that is made by an expression has no equal"
            )
            return {}
        files = [file for number, each in enumerate(given) if (file := self._file(f"{name}[{number}]", each))]
        inline = tuple(file for file in files if file.content_id and file.content_id in shown)
        attach = tuple(file for file in files if file not in inline)
        return ({"attach": attach} if attach else {}) | ({"inline": inline} if inline else {})

    def _file(self, name: str, given: Any) -> Attachment | None:
        if not isinstance(given, Mapping):
            self._given.problem(name, "an object is needed")
            return None
        plain = dict(given)
        content = plain.get("ContentData")
        if isinstance(content, Mapping) and set(content) <= {"$content", "$content-type"}:
            plain["ContentData"] = content.get("$content")
        for key, each in plain.items():
            if each is not None and not isinstance(each, str):
                self._given.problem(f"{name}.{key}", "text is needed")
                return None
            try:
                made = expressions.pieces(each or "", self._scope)
            except ExpressionError:
                made = [Printed("", frozenset())]
            if any(isinstance(piece, Printed) for piece in made):
                self._given.problem(f"{name}.{key}", "a file that differs from record to record has no equal")
                return None
            plain[key] = "".join(map(str, made)) if each is not None else None
        try:
            return Attachment.from_connector(plain)
        except MailError as error:
            self._given.problem(name, error.cause.rstrip(".")[:200])
            return None


_CONNECTORS = (
    "To",
    "CC",
    "Bcc",
    "Subject",
    "Body",
    "From",
    "IsHtml",
    "Importance",
    "Attachments",
    "ReadReceipt",
)
_SLOT = re.compile("\0([0-9]+)\0")


def _address(item: str, printed: list[Printed]) -> str:
    """Return one address of a field as Jinja2; one that is an expression alone may hold several."""
    if sole := _SLOT.fullmatch(item):
        return f"{{{{ {printed[int(sole[1])].text} | addresses }}}}"
    parts = _SLOT.split(item)
    return "".join(
        f"{{{{ {printed[int(part)].text} }}}}" if place % 2 else expressions.literal(part)
        for place, part in enumerate(parts)
    )
