"""A mail as the Python that sends it, for a cell of its own. Pure; a secret is never part of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from smtp_notebook.attachments import Attachment
from smtp_notebook.connection import Connection, differing
from smtp_notebook.event import Event
from smtp_notebook.fields import FIELDS
from smtp_notebook.message import Message
from smtp_notebook.oauth import TokenFunction

__all__ = ["cell_of", "connecting", "merge_cell", "quoted"]

#: What an Event is made of, in the order of its arguments; when it was made is not one of them.
_EVENT = (
    "end", "duration", "location", "description", "url", "organizer", "attendees", "uid", "sequence", "method", "status",
    "alarm", "rrule",
)  # fmt: skip


_WRITTEN = frozenset({bool, bytes, float, int, type(None)})


def cell_of(message: Message, connection: Connection) -> str:
    """Return Python that sends *message* by *connection*.

    Files are named, and have to lie beside the notebook.
    """
    usual = Message()
    lines = [
        f"    {name}={_literal(name, value)},"
        for name in FIELDS
        if (value := getattr(message, name)) != getattr(usual, name)
    ]
    return _cell("send", ["send(", *lines, ")"], connection)


def merge_cell(
    frame: str,
    template: str | Path,
    options: Mapping[str, Any],
    connection: Connection,
    *,
    shaped: Mapping[str, Any] | None = None,
) -> str:
    """Return Python that does a merge and shows its Report.

    Args:
        frame: The name of the frame's variable.
        template: A template's text, or the Path of its file.
        options: What `mail_merge` is given beside them, fields too; what cannot be written stands as a name that the
            cell has to find.
        connection: The server.
        shaped: What `Template` is given beside a text; None where the text says all.
    """
    wanted = {name: value for name, value in (shaped or {}).items() if value}
    lines = [f"    {frame},", f"    {_template(template, wanted)},"]
    lines += [f"    {name}={_value(name, value)}," for name, value in options.items()]
    return _cell("mail_merge", ["report = mail_merge(", *lines, ")", "report"], connection)


def _cell(verb: str, lines: Iterable[str], connection: Connection) -> str:
    """Return a whole cell: what its lines need is imported, and the server is named before them."""
    body = "\n".join(lines)
    server = connecting(connection)
    named = ("Attachment", "Dkim", "Event", "GoogleOAuth", "MicrosoftOAuth", "Template")
    names = [n for n in named if re.search(rf"\b{n}(?:\.from_path)?\(", f"{body}\n{server}")]
    modules = [f"import {m}\n" for m in ("datetime", "zoneinfo") if f"{m}." in body]
    imports = f"from smtp_notebook import {', '.join([*names, 'connect', verb])}"
    head = "".join(modules) + ("\n" if modules else "") + imports
    return f"{head}\n\n{server}\n{body}\n"


def _template(template: str | Path, shaped: Mapping[str, Any]) -> str:
    if isinstance(template, Path):
        return quoted(str(template))
    # One line that ends like a template file would be taken for the name of one.
    text = template if "\n" in template else f"{template}\n"
    more = "".join(f", {name}={quoted(str(value))}" for name, value in shaped.items())
    return f"Template({quoted(text)}{more})" if more else quoted(text)


def _value(name: str, value: Any) -> str:
    """Return a value as Python; one that has no such form as a name."""
    written = _written(value)
    return name if written is None else written


def _written(value: Any) -> str | None:
    if isinstance(value, str | Path):
        return quoted(str(value))
    if isinstance(value, Event):
        return _event(value)
    if isinstance(value, Attachment):
        return _file(value)
    if isinstance(value, list | tuple):
        return _joined("[", map(_written, value), "]")
    if isinstance(value, dict):
        pairs = ((_written(k), _written(v)) for k, v in value.items())
        return _joined("{", (f"{k}: {v}" if k and v else None for k, v in pairs), "}")
    return repr(value) if type(value) in _WRITTEN or type(value).__module__ == "datetime" else None


def _joined(before: str, parts: Iterable[str | None], after: str) -> str | None:
    found = list(parts)
    return None if None in found else f"{before}{', '.join(map(str, found))}{after}"


def connecting(connection: Connection) -> str:
    """Return the call that names this server; a function that gives a token stands as a name to be found."""
    if connection.sandbox:
        return 'connect("sandbox")'
    if connection.name:
        return f"connect({quoted(connection.name)})"
    more = "".join(f", {name}={_setting(value)}" for name, value in differing(connection).items())
    return f"connect({quoted(connection.url)}{more})"


def _setting(value: Any) -> str:
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, TokenFunction):
        return "token"
    return quoted(value) if isinstance(value, str) else repr(value)


def quoted(text: str) -> str:
    """Return text as a literal; one of several lines stands as it is read, where that is exact."""
    plain = all(line.isprintable() for line in text.split("\n")) and "\\" not in text
    if "\n" in text and plain and '"""' not in text and not text.endswith('"'):
        return f'"""{text}"""'
    return repr(text) if "'" in text or '"' in text else f'"{repr(text)[1:-1]}"'


def _literal(name: str, value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return repr(value)
    if isinstance(value, Event):
        return _event(value)
    if name in {"attach", "inline"}:
        return f"[{', '.join(map(_file, value))}]"
    if name == "headers":
        return repr(list(value))
    if name == "theme":
        return repr(value.source or value.name)
    if isinstance(value, tuple):
        return quoted(("; " if name != "unsubscribe" else ", ").join(map(str, value)))
    return quoted(str(value))


def _file(file: Attachment) -> str:
    named, identity = Attachment(file.content, file.name), file.content_id or ""
    more = f", type={quoted(file.type)}" if named.type != file.type else ""
    more += f", content_id={quoted(identity)}" if named.content_id != file.content_id else ""
    return f"Attachment.from_path({quoted(file.name)}{more})"


def _event(event: Event) -> str:
    usual = Event(event.summary, event.start, end=event.end, duration=event.duration)
    given = {name: getattr(event, name) for name in _EVENT if name in {"end", "duration", "uid"}}
    others = {name: getattr(event, name) for name in _EVENT if name not in given}
    given |= {name: value for name, value in others.items() if value != getattr(usual, name)}
    said = "".join(f", {name}={_part(value)}" for name, value in given.items() if value is not None)
    return f"Event({quoted(event.summary)}, {event.start!r}{said})"


def _part(value: Any) -> str:
    if isinstance(value, tuple):
        return repr(list(map(str, value)))
    return (
        repr(value) if type(value).__module__ == "datetime" or isinstance(value, int) else quoted(str(value))
    )
