"""The press of a merge: a row in, a mail out that lacks only its Date and Message-ID.

A merge prints thousands of mails that differ in a few words. Everything they share is made once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from smtp_notebook import mime
from smtp_notebook._sync import Turn
from smtp_notebook.attachments import inside
from smtp_notebook.charts import loaded
from smtp_notebook.connection import Connection
from smtp_notebook.fields import one_click
from smtp_notebook.lint import lint, personal
from smtp_notebook.message import Attachment, Message, each_once, part_of
from smtp_notebook.mold import Filling, Form, Leaf, Mailbox, Mold, UnusualError, addressees, texts_of
from smtp_notebook.outcome import MailError, MessageError
from smtp_notebook.pictures import figure_of
from smtp_notebook.render import Fragment, render, shows_itself
from smtp_notebook.template import (
    Field,
    Filled,
    Later,
    Row,
    Runner,
    Slot,
    Submit,
    Template,
    refuse_unprintable,
)

__all__ = ["Begun", "Press", "Printed", "printed_once", "refuse_leftover", "with_sender"]

_LEFTOVER = re.compile(r"\{\{.{0,200}?\}\}|\{%.{0,200}?%\}", re.DOTALL)
#: Files and molds are kept up to this many bytes each.
CACHE_BYTES = 64 * 2**20
#: A skeleton of which no mold can be made is not tried for ever.
_TRIES = 8
#: So many rows are begun before the first of them is finished, where an executor works for them.
_AHEAD = 64
#: So many skeletons are linted.
_LINTED = 8

Value = TypeVar("Value")


class Printed(NamedTuple):
    """One row as a mail, all but its stamp (Date and Message-ID), ready for the wire.

    Attributes:
        recipients: The envelope's, as written on the wire; each once.
        sender: From's address, as written on the wire.
        smtputf8: Whether only a server with SMTPUTF8 can take it.
        chunks: The mail after its stamp: CRLF lines, the last one ended. A file that every row carries
            is the same object in each.
        size: Octets of the chunks together.
        digest: 16 bytes that tell mails apart: whatever a recipient would see, and the recipients;
            the same in every process.
        warnings: What a person may want to look at.
        link: Its address for one-click unsubscribing (RFC 8058), or "".
    """

    recipients: tuple[str, ...]
    sender: str
    smtputf8: bool
    chunks: tuple[bytes, ...]
    size: int
    digest: bytes
    warnings: tuple[str, ...]
    link: str = ""


class _Cache(Generic[Value]):
    """Keeps what was used last, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self.size = 0

    def get(self, key: Hashable) -> Value | None:
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: Value, size: int) -> Value:
        """Keep a value, which is returned, unless it alone is too big."""
        if key in self._kept:
            self.size -= self._kept.pop(key)[1]
        if size <= self._limit:
            self._kept[key] = (value, size)
            self.size += size
        while self.size > self._limit:
            self.size -= self._kept.popitem(last=False)[1][1]
        return value


class _Files:
    """Reads and encodes each file once.

    The files that the template itself names are read when a row first needs them, and stay what they
    were then. One whose path is a row's is read again when it has changed.
    """

    def __init__(self, template: Template, limit: int) -> None:
        self._root = template.attach_root
        given = [item for key in ("attach", "inline") for item in template.parts.fields.get(key, ())]
        # No path begins with a NUL.
        self._fixed = {f"\0{i}": item for i, item in enumerate(given) if isinstance(item, Attachment)}
        self._fixed_leaves: dict[Hashable, tuple[bytes, Leaf]] = {}
        self._read: _Cache[tuple[Path, tuple[int, int], Attachment]] = _Cache(limit)
        self._leaves: _Cache[tuple[bytes, Leaf]] = _Cache(limit)

    def attachment(self, path: str, fixed: bool) -> Attachment | str:  # noqa: FBT001 - Row.file's second argument
        """Return the file at a path, or the path when there is none: the Message says what is wrong."""
        try:
            return self._found(path, fixed=fixed)
        except (MailError, OSError):
            return path

    def _found(self, path: str, *, fixed: bool) -> Attachment:
        if fixed:
            if path not in self._fixed:
                self._fixed[path] = inside(path, self._root)
            return self._fixed[path]
        known = self._read.get(path)
        if known is not None and _version(known[0]) == known[1]:
            return known[2]
        place = (self._root / Path(path).expanduser()).resolve()
        version = _version(place)
        file = inside(path, self._root)
        self._read.put(path, (place, version, file), file.size)
        return file

    def leaf_at(self, path: str) -> Leaf:
        """Return the file at a row's path, encoded.

        Raises:
            MailError: There is none.
        """
        found = self.attachment(path, fixed=False)
        if isinstance(found, str):
            raise MessageError("The file cannot be read.", "See what the Message says of it.")
        return self.leaf(part_of(found), "attachment")

    def leaf(self, part: mime.Part, disposition: str) -> Leaf:
        """Return a file encoded: the same object for the same content."""
        if part.identity:
            return Leaf.of(part, disposition)  # a row's own: kept, it would push out what many rows share
        key = (
            id(part.content),
            disposition,
            part.type,
            part.filename,
            part.content_id,
            part.transfer_encoding,
        )
        known = self._leaves.get(key) or self._fixed_leaves.get(key)
        if known is not None and known[0] is part.content:
            return known[1]
        made = Leaf.of(part, disposition)
        if any(part.content is file.content for file in self._fixed.values()):
            self._fixed_leaves[key] = (part.content, made)
        else:
            self._leaves.put(key, (part.content, made), len(made.content))
        return made


class Begun(NamedTuple):
    """A row whose template has run.

    Attributes:
        key: The pieces of its skeletons; None when it could not be run.
        slots: Each field's values.
    """

    cells: Mapping[str, Any]
    key: tuple[str | None, ...] | None
    slots: Sequence[Sequence[Slot]]

    def cancel(self) -> None:
        """Let go of what an executor has not begun to make."""
        for found in self.slots:
            for slot in found:
                if type(slot.value) is Later:
                    slot.value.future.cancel()


def _submitter(executor: Executor | None, values: Mapping[str, Any]) -> Submit | None:
    """Return what has functions among the values called by an executor; one that wants Jinja's context is not."""
    if executor is None:
        return None
    ours = {id(v) for v in values.values() if callable(v) and not hasattr(v, "jinja_pass_arg")}

    def submit(function: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> Later | None:
        return Later(executor.submit(function, *args, **options)) if id(function) in ours else None

    return submit


class _Shown:
    """Renders the objects of a merge: one that every row shares once, where nothing can change it meanwhile.

    Args:
        values: The names that every row has.
        still: Whether the template calls nothing.
    """

    def __init__(self, values: Mapping[str, Any], *, still: bool) -> None:
        still = still and not any(map(callable, values.values()))
        # Kept by the object, so that no other one can get its number.
        self._shared = {id(v): v for v in values.values()} if still else {}
        self._fragments: dict[int, Fragment] = {}
        self._open = _open_figures()

    def __call__(self, value: object) -> Fragment:
        """Return an object as mail."""
        number = id(value)
        if number in self._shared:
            if number not in self._fragments:
                self._fragments[number] = render(value)
            return self._fragments[number]
        made = render(value)
        if not shows_itself(value):
            self._fragments.clear()  # its display is code of its own, which may have changed a shared object
        self._close(value)
        return made

    def _close(self, value: object) -> None:
        """Close a figure that a row's function opened: ten thousand of them would fill the memory, and the notebook."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None:
            return
        for figure in _figures(value):
            if getattr(figure, "number", None) not in self._open:
                pyplot.close(figure)  # does nothing to one that is not pyplot's


def _figures(value: Any) -> Iterator[Any]:
    """Yield the figures that an object was drawn as: its own, or those of what is in it."""
    artist = loaded("matplotlib.artist", "Artist")
    grid = loaded("seaborn.axisgrid", "Grid")
    array = loaded("numpy", "ndarray")
    if isinstance(value, artist):
        yield figure_of(value)
    elif isinstance(value, grid):
        yield value.figure
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from _figures(each)
    elif isinstance(value, array) and value.dtype == object:
        for each in value.flat:
            yield from _figures(each)


def _open_figures() -> frozenset[object]:
    pyplot = sys.modules.get("matplotlib.pyplot")
    return frozenset(pyplot.get_fignums()) if pyplot is not None else frozenset()


def _version(place: Path) -> tuple[int, int]:
    found = os.stat(place)  # noqa: PTH116 - Path.stat() costs as much again
    return found.st_mtime_ns, found.st_size


class _Shape:
    """What is known of a skeleton: its mold, and the forms in which that filled a row as the whole way did."""

    __slots__ = ("forms", "mold", "tries")

    def __init__(self) -> None:
        self.mold: Mold | None = None
        self.forms: set[Form] = set()
        self.tries = 0


class Press:
    """Prints the mails of one merge: compiled once, per row only what varies.

    The first row of each skeleton goes the whole way: a Message, its bytes, the gate. What comes of it makes
    a mold, and the mold must fill that row to the same bytes before it may fill another. Rows that a
    mold does not vouch for go the whole way too.

    Args:
        template: What each row fills.
        connection: Whose sender stands in for a missing From.
        values: More names for every row.
        executor: Where functions of the values are called whose results the body prints; None for here.
        cache_bytes: How much may be kept of rows' files, and of molds.
        turn: Held while a row is printed; None where nobody else renders with the same objects.

    Attributes:
        slow_rows: How many rows went the whole way.
        findings: What is odd about the mails, from the first of each skeleton; whoever reads them empties the list.

    It is used from one thread at a time.
    """

    def __init__(
        self,
        template: Template,
        connection: Connection,
        *,
        values: Mapping[str, Any] | None = None,
        executor: Executor | None = None,
        cache_bytes: int = CACHE_BYTES,
        turn: Turn | None = None,
    ) -> None:
        self.slow_rows = 0
        self._turn = turn
        self.ahead = _AHEAD if executor is not None else 0
        self._template = template
        self._connection = connection
        self._values = values
        parts = template.parts
        self._fields = parts.dynamic
        every = {**template.values, **(values or {})}
        self._runner = Runner(template, self._fields, values, _submitter(executor, every))
        self._shapes: _Cache[_Shape] = _Cache(cache_bytes)
        self._files = _Files(template, cache_bytes)
        self._show = _Shown(every, still=not any(f.calls for f in self._fields))
        self.findings: list[str] = []
        self._linted = 0
        self._keys = [key for key in parts.fields if key in {"to", "cc", "bcc"}]
        named = [item for key in self._keys for item in parts.fields[key]]
        self._address_fields = tuple(f for f in self._fields if f in named)
        self._address_runner = Runner(template, self._address_fields, values)
        self._addressees: _Cache[list[str | Mailbox]] = _Cache(cache_bytes // 8)

    def recipients(self, cells: Mapping[str, Any]) -> tuple[str, ...]:
        """Return whom the row's mail goes to, as written on the wire; no other field is run.

        Raises:
            MailError: As from `print`.
        """
        return self._reached(cells, ("to", "cc", "bcc")) or self._nobody()

    def addressees(self, cells: Mapping[str, Any]) -> tuple[str, ...]:
        """Return whom the row's To names, as written on the wire; whom Cc and Bcc name where there is no To.

        Raises:
            MailError: As from `print`.
        """
        return self._reached(cells, ("to",)) or self.recipients(cells)

    def _nobody(self) -> NoReturn:
        raise _no_recipient()

    def _reached(self, cells: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the addresses of some fields."""
        try:
            key, slots = self._address_runner.run(cells)
            known = self._addressees.get((names, key))
            if known is None:
                known = self._addressed(key, slots, names)
            texts = [texts_of(found) for found in slots]
            return each_once(a if isinstance(a, str) else a.fill(texts)[1] for a in known)
        except Exception:  # noqa: BLE001 - the whole way finds it again, and explains it
            row = Row(self._template.names(cells, self._values))
            found = {key: self._template.addresses(key, row) for key in self._keys}
            return each_once(a.wire for key in names for a in found.get(key, ()))

    def _addressed(
        self, key: tuple[str | None, ...], slots: Sequence[Sequence[Slot]], names: tuple[str, ...]
    ) -> list[str | Mailbox]:
        filled = _filled(self._address_fields, key, slots)
        parts = self._template.parts
        made = [a for name in names for a in addressees(parts, name, filled)]
        return self._addressees.put((names, key), made, 1000)

    def print(self, cells: Mapping[str, Any]) -> Printed:
        """Return the row's mail.

        Raises:
            MailError: The row makes no mail that may be sent, and why.
        """
        with self._turn or contextlib.nullcontext():
            return self.finish(self.begin(cells))

    def begin(self, cells: Mapping[str, Any]) -> Begun:
        """Run a row's template; what an executor makes for it may take until it is finished."""
        try:
            return Begun(cells, *self._runner.run(cells))
        except Exception:  # noqa: BLE001 - the whole way finds it again, and explains it
            return Begun(cells, None, ())

    def _arrived(self, begun: Begun) -> Sequence[Sequence[Slot]]:
        """Return a row's values, with what the executor made of some."""
        return [
            [s if type(s.value) is not Later else s._replace(value=self._result(f, s)) for s in found]
            for f, found in zip(self._fields, begun.slots, strict=True)
        ]

    def _result(self, field: Field, slot: Slot) -> Any:
        try:
            value = slot.value.future.result()
            refuse_unprintable(value, slot.label)
        except Exception as error:
            raise self._template.located(field.failed(slot, error)) from error
        return value

    def finish(self, begun: Begun) -> Printed:
        """Return the mail of a row that was begun; see `print`."""
        cells, key, slots = begun
        if key is None:
            return self._whole(cells, {})[1]
        if self.ahead:
            slots = self._arrived(begun)
        shape = self._shapes.get(key)
        filling = None
        if shape is not None and shape.mold is not None:
            try:
                filling = shape.mold.fill(slots)
                if filling.form in shape.forms:
                    return _sealed(filling, shape.mold.boundaries)
            except UnusualError:
                pass
        known = _filled(self._fields, key, slots)
        message, printed = self._whole(cells, known)
        if shape is None:
            self._lint(message)
        if shape is None or filling is not None or (shape.mold is None and shape.tries < _TRIES):
            self._prove(key, slots, known, message, printed)
        return printed

    def _lint(self, message: Message) -> None:
        """Look at the first mails of a few skeletons: what is odd about one is odd about all of its kind."""
        if self._linted < _LINTED:
            self._linted += 1
            self.findings += map(str, lint(message, via=self._connection))

    def _whole(self, cells: Mapping[str, Any], known: Mapping[Field, Filled]) -> tuple[Message, Printed]:
        """Print a row as the one-message builder does."""
        self.slow_rows += 1
        message = self._message(cells, known)
        refuse_leftover(message, self._template)
        self.findings += map(str, personal(message))
        return message, _built(message, self._files.leaf)

    def _prove(
        self,
        key: Hashable,
        slots: Sequence[Sequence[Slot]],
        known: Mapping[Field, Filled],
        message: Message,
        printed: Printed,
    ) -> None:
        """Make a mold, and keep it and the row's form when it fills the row as it was printed."""
        shape = self._shapes.get(key) or _Shape()
        fresh = shape.mold is None
        try:
            mold = shape.mold or Mold(self._template, known, message, self._files.leaf, self._files.leaf_at)
            shape.mold = mold
            filling = mold.fill(slots)
        except UnusualError:
            shape.tries += shape.mold is None
        else:
            if _same(_sealed(filling, mold.boundaries), printed):
                shape.forms.add(filling.form)
            else:
                # A mold that differs from its own row, or from one of a form it knows, is never right; one
                # that was made from a row with less in it may be made again.
                shape.tries = _TRIES if fresh or shape.forms else shape.tries + 1
                shape.mold, shape.forms = None, set()
        self._shapes.put(key, shape, 1000 + (shape.mold.size if shape.mold is not None else 0))

    def message(self, cells: Mapping[str, Any]) -> Message:
        """Return the Message that a row makes, with a sender; for a look at it.

        Raises:
            MailError: The row makes no message, or one without recipient or sender.
        """
        return self._message(cells, {})

    def _message(self, cells: Mapping[str, Any], known: Mapping[Field, Filled]) -> Message:
        names = self._template.names(cells, self._values)
        message = self._template.fill_row(Row(names, known, self._files.attachment, self._show))
        if not message.recipients:
            raise _no_recipient()
        return with_sender(message, self._connection)


def printed_once(message: Message) -> Printed:
    """Return one Message, which has a sender, as a server gets it.

    Raises:
        MessageError: It has no recipient, or cannot be written so that it reads back the same.
    """
    if not message.recipients:
        raise MessageError("The mail has no recipient.", "Give to=, cc= or bcc=.")
    return _built(message, Leaf.of)


def _built(message: Message, leaf: Callable[[mime.Part, str], Leaf]) -> Printed:
    """Print a Message as the one-message builder does; *leaf* encodes its files."""
    draft = message.draft()
    content = mime.to_bytes(draft).split(b"\r\n", 2)[2]
    leaves = [leaf(part, disposition) for part, disposition in draft.files]
    boundaries = mime.boundaries(content)
    chunks: list[bytes | Leaf] = []
    for each in leaves:
        before, _, content = content.partition(each.content)
        chunks += [before, each]
    chunks.append(content)
    sender = message.from_.wire if message.from_ is not None else ""
    link = next(iter(one_click(message.unsubscribe)), "")
    filling = Filling(message.recipients, sender, chunks, message.warnings, link=link)
    return _sealed(filling, boundaries, smtputf8=message.smtputf8)


def _no_recipient() -> MessageError:
    return MessageError("There is no recipient.", "Fill the address cell, or leave the row out.")


def _filled(
    fields: Sequence[Field], pieces: Sequence[str | None], slots: Sequence[Sequence[Slot]]
) -> dict[Field, Filled]:
    """Return each field with its skeleton, of which *pieces* has one after each None."""
    skeletons: list[list[str]] = []
    for piece in pieces:
        if piece is None:
            skeletons.append([])
        else:
            skeletons[-1].append(piece)
    # Joined, for tokens are Markup, and adding those would escape what they are added to.
    return {f: Filled("".join(s), tuple(v)) for f, s, v in zip(fields, skeletons, slots, strict=True)}


def _sealed(filling: Filling, boundaries: Sequence[bytes], *, smtputf8: bool = False) -> Printed:
    recipients, sender, pieces, warnings, _, link = filling
    state = hashlib.sha256("\n".join((*recipients, "", "")).encode())
    chunks: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, Leaf):
            state.update(piece.digest)
            chunks.append(piece.content)
            continue
        chunks.append(piece)
        state.update(_without(piece, boundaries))
    size = sum(map(len, chunks))
    return Printed(recipients, sender, smtputf8, tuple(chunks), size, state.digest()[:16], warnings, link)


def _without(content: bytes, boundaries: Sequence[bytes]) -> bytes:
    """Take the boundaries out: the one thing that two presses write differently."""
    for boundary in boundaries:
        content = content.replace(boundary, b"")
    return content


def _same(one: Printed, other: Printed) -> bool:
    """Compare all but the boundaries, which the digest leaves out."""
    return one._replace(chunks=()) == other._replace(chunks=())


def with_sender(message: Message, connection: Connection) -> Message:
    """Return the message with the connection's sender when it names none.

    Raises:
        MessageError: Neither names one.
    """
    if message.from_ is not None:
        return message
    sender = connection.sender or (connection.user if "@" in connection.user else "")
    if not sender:
        cause = "The mail has no From address."
        raise MessageError(
            cause, "Give from_=, a from: line in the head, or connect(…, sender='you@example.com')."
        )
    return message.with_(from_=sender)


def refuse_leftover(message: Message, template: Template) -> None:
    """Refuse a mail that still has template text in it, which a cell brought along.

    Raises:
        MessageError: Where it stands.
    """
    if "{% raw %}" in template.source:
        return  # the author wants braces to arrive
    event = message.event
    for name, text in (
        ("subject", message.subject),
        ("body", message.text or ""),
        ("body", message.html or ""),
        *([] if event is None else [("event", f"{event.summary} {event.location} {event.description}")]),
    ):
        if found := _LEFTOVER.search(text):
            cause = f"The {name} still has {found[0][:60]!r} in it after the row filled it."
            raise MessageError(cause, "A cell holds template text; clean it.")
