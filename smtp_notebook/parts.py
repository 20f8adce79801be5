"""What forms are made of and ipywidgets lacks: chips, files, an editor, previews, lists, questions.

Each is an anywidget whose JavaScript is in ``static/``. It shows what the kernel gives it and passes on what a
person does; addresses are split and checked here by the library's own rules. What is typed as a password travels
as a message and is never a trait: traits are saved with the notebook.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anywidget
import traitlets as t

from smtp_notebook import _sync
from smtp_notebook.addresses import Address, split_addresses
from smtp_notebook.attachments import Attachment
from smtp_notebook.outcome import AddressError
from smtp_notebook.views import View

__all__ = [
    "Ask",
    "Chips",
    "Code",
    "Download",
    "Editor",
    "Facts",
    "Files",
    "Fold",
    "Grid",
    "Kept",
    "Pane",
    "Part",
    "Row",
    "Secret",
    "Status",
    "split_typed",
]

_STATIC = Path(__file__).parent / "static"
_LINES = re.compile(r"[\r\n\t]+")
_BLANKS = re.compile(r"\s+")
#: How many bytes of base64 stand for one of a file, line ends included (RFC 2045, 6.8).
ENCODED = 4 / 3 * 78 / 76


@functools.cache
def _text(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")


def _script(name: str) -> str:
    return f"{_text('common.js')}\n{_text(f'{name}.js')}"


class Part(anywidget.AnyWidget):
    """A piece of a form. What a person does arrives in ``heard``; its errors go to ``failed``."""

    _css = _text("parts.css")

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self.failed: Callable[[Exception], None] = self._unheard
        self.add_class("smtpnb-part")
        self.on_msg(self._took)

    def _unheard(self, error: Exception) -> None:
        raise error

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Show an error in the form: ipywidgets would swallow it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, the person has to see it
            self.failed(error)

    def _took(self, _: object, content: Mapping[str, Any], buffers: Sequence[Any]) -> None:
        with self.guarded():
            self.heard(content, buffers)

    def heard(self, content: Mapping[str, Any], buffers: Sequence[Any]) -> None:
        """Take what a person did; parts that are only looked at hear nothing."""


# --------------------------------------------------------------------------------------- recipients


def split_typed(text: str) -> list[str]:
    """Return the addresses in what a person typed or pasted: a line, a column of a sheet, a list."""
    pieces = split_addresses(_LINES.sub(";", text))
    return [part for piece in pieces for part in _apart(piece)]


def _apart(piece: str) -> list[str]:
    """Take addresses apart that only blanks separate; a name in front of one stays with it."""
    words = _BLANKS.split(piece)
    plain = len(words) > 1 and all("@" in word for word in words) and not re.search(r"[<\"]", piece)
    return words if plain else [piece]


def _problem(text: str) -> str:
    try:
        Address.parse(text)
    except AddressError as error:
        return str(error)
    return ""


class Chips(Part):
    """Addresses as chips, each checked when it is entered.

    Attributes:
        value: The addresses as text, separated by semicolons, what is still being typed included.
    """

    _esm = _script("chips")
    label = t.Unicode().tag(sync=True)
    hint = t.Unicode().tag(sync=True)
    chips = t.List(t.Dict()).tag(sync=True)
    typed = t.Unicode().tag(sync=True)
    problem = t.Unicode().tag(sync=True)
    value = t.Unicode()

    def __init__(self, label: str, value: str = "", *, hint: str = "") -> None:
        super().__init__(label=label, hint=hint)
        self.put(value)
        self.observe(self._retyped, names="typed")

    @property
    def good(self) -> str:
        """The addresses that are such, as text."""
        return "; ".join(chip["text"] for chip in self.chips if not chip["problem"])

    def put(self, text: str) -> None:
        """Show these addresses and no others, and nothing that is half typed."""
        self.send({"type": "set"})
        self.typed = ""
        self._set([])
        self.add(text)

    def add(self, text: str) -> None:
        """Add the addresses in *text*; one that is there already is not added again."""
        text = text.encode("utf-8", "replace").decode()  # half of a character cannot go back to the screen
        there = {chip["text"] for chip in self.chips}
        fresh = [one for one in dict.fromkeys(split_typed(text)) if one not in there]
        self._set([*self.chips, *({"text": one, "problem": _problem(one)} for one in fresh)])

    def heard(self, content: Mapping[str, Any], buffers: Sequence[Any]) -> None:  # noqa: ARG002
        """Take an address that was entered, or one that was removed."""
        if content["type"] == "add":
            self.add(str(content["text"]))
            self.send_state("chips")  # nothing new is an answer, too
        else:
            index, text = content["index"], content["text"]
            if index < len(self.chips) and self.chips[index]["text"] == text:
                self._set([*self.chips[:index], *self.chips[index + 1 :]])

    def _set(self, chips: list[dict[str, str]]) -> None:
        self.chips = chips
        self._retyped()

    def _retyped(self, _: object = None) -> None:
        self.problem = _problem(self.typed.strip()) if "@" in self.typed.rstrip("@") else ""
        self.value = "; ".join([*(chip["text"] for chip in self.chips), *split_typed(self.typed)])


# -------------------------------------------------------------------------------------------- files


@dataclass(slots=True, eq=False)
class _File:
    """One file on its way here, or here."""

    id: str
    name: str
    size: int
    kind: str = ""
    content: bytearray = field(default_factory=bytearray)
    attachment: Attachment | None = None
    problem: str = ""

    @property
    def shown(self) -> dict[str, Any]:
        received = self.size if self.attachment is not None else len(self.content)
        return {
            "id": self.id,
            "name": self.name,
            "size": self.size,
            "received": received,
            "problem": self.problem,
        }


class Files(Part):
    """Files that are dropped, chosen, or given by code.

    They arrive in pieces that are asked for one after another, so the limit of Jupyter's messages (10 MiB, Tornado's
    ``websocket_max_message_size``) is none of theirs.

    Attributes:
        value: Those that are here, as Attachments.
        limit: The largest mail that the server takes, in bytes as encoded; 0 for any.
    """

    _esm = _script("drop")
    label = t.Unicode("Attach").tag(sync=True)
    hint = t.Unicode().tag(sync=True)
    problem = t.Unicode().tag(sync=True)
    files = t.List(t.Dict()).tag(sync=True)
    value = t.Tuple()
    limit = t.Int()

    def __init__(self, attachments: Iterable[Attachment] = (), *, limit: int = 0) -> None:
        super().__init__()
        self._files: list[_File] = []
        self._numbers = 0
        self.limit = limit
        self.observe(lambda _: self._show(), names="limit")
        self.put(attachments)

    def add(self, attachment: Attachment) -> None:
        """Add a file that is here already."""
        self._numbers += 1
        self._files.append(
            _File(
                f"given-{self._numbers}",
                attachment.name,
                attachment.size,
                attachment.type,
                attachment=attachment,
            )
        )
        self._show()

    def put(self, attachments: Iterable[Attachment]) -> None:
        """Show these files and no others."""
        self._files = []
        for attachment in attachments:
            self.add(attachment)
        self._show()

    @property
    def unfinished(self) -> str:
        """Why these files cannot be sent as they are, or ""."""
        for file in self._files:
            if file.problem:
                return f"{file.name}: {file.problem}"
            if file.attachment is None:
                return f"{file.name} is still being loaded."
        return self.problem

    def heard(self, content: Mapping[str, Any], buffers: Sequence[Any]) -> None:
        """Take a file's announcement, its next piece, or its end."""
        kind, name = content["type"], str(content["id"])
        file = next((f for f in self._files if f.id == name), None)
        if kind == "begin" and file is None:
            self._begin(_File(name, str(content["name"]), int(content["size"]), str(content["kind"])))
        elif file is None:
            self.send({"type": "over", "id": name})
        elif kind == "piece":
            self._piece(file, int(content["at"]), buffers)
        elif kind == "remove":
            self._files.remove(file)
            self.send({"type": "over", "id": name})
        elif kind == "lost":
            file.problem = f"It could not be read: {content['why']}. Remove it and choose it again."
        self._show()

    def _begin(self, file: _File) -> None:
        self._files.append(file)
        if self.limit and file.size * ENCODED > self.limit:
            file.problem = self._too_large(file.size)
            self.send({"type": "over", "id": file.id})
        elif not file.size:
            self._finish(file)
        else:
            self.send({"type": "next", "id": file.id, "at": 0})

    def _piece(self, file: _File, at: int, buffers: Sequence[Any]) -> None:
        if at != len(file.content) or file.attachment is not None:
            return  # a second view of this form offered it, too
        file.content += b"".join(bytes(b) for b in buffers)
        if len(file.content) >= file.size:
            self._finish(file)
        elif buffers and len(buffers[0]):
            self.send({"type": "next", "id": file.id, "at": len(file.content)})
        else:
            file.problem = "It ended early. Remove it and choose it again."

    def _finish(self, file: _File) -> None:
        self.send({"type": "over", "id": file.id})
        try:
            file.attachment = Attachment(bytes(file.content), file.name, file.kind or None)
        except Exception as error:  # noqa: BLE001 - it is this file's problem
            file.problem = str(error)
        file.content = bytearray()

    def _too_large(self, size: int) -> str:
        return (
            f"Encoded it is {size * ENCODED / 2**20:,.1f} MB, and the server takes mails of "
            f"{self.limit / 2**20:,.0f} MB. Send a link instead."
        )

    def _show(self) -> None:
        here = [f.attachment for f in self._files if f.attachment is not None]
        whole = sum(a.size for a in here)
        said = f" (up to {self.limit / ENCODED / 2**20:,.0f} MB together)" if self.limit else ""
        self.hint = f"or drop them here{said}"
        self.problem = self._too_large(whole) if self.limit and whole * ENCODED > self.limit else ""
        self.files = [f.shown for f in self._files]
        if tuple(here) != self.value:
            self.value = tuple(here)


# ------------------------------------------------------------------------------------ body and views


class Editor(Part):
    """The body, with buttons for the marks of its format.

    Attributes:
        value: The text.
        format: ``markdown``, ``html`` or ``text``.
        inserts: Pairs of what a button says and what it writes at the cursor.
    """

    _esm = _script("editor")
    label = t.Unicode("Body").tag(sync=True)
    hint = t.Unicode().tag(sync=True)
    value = t.Unicode().tag(sync=True)
    format = t.Unicode("markdown").tag(sync=True)
    problem = t.Unicode().tag(sync=True)
    inserts: t.List[list[str]] = t.List().tag(sync=True)
    rows = t.Int(14).tag(sync=True)

    def put(self, text: str) -> None:
        """Show this text, also where the cursor stands in another."""
        self.value = text
        self.send({"type": "set"})


class Pane(Part):
    """A preview: the mail at several widths, dark, without images, as text, as source, and its headers.

    Attributes:
        tab: ``desktop phone dark images text source`` or ``headers``.
    """

    _esm = _script("pane")
    page = t.Unicode().tag(sync=True)
    text = t.Unicode().tag(sync=True)
    source = t.Unicode().tag(sync=True)
    headers: t.List[list[str]] = t.List().tag(sync=True)
    notes = t.List(t.Unicode()).tag(sync=True)
    empty = t.Unicode("There is nothing to show yet.").tag(sync=True)
    tab = t.Unicode("desktop").tag(sync=True)
    height = t.Int(460).tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._source: Callable[[], str] | None = None
        self.observe(self._asked, names="tab")

    def show(
        self,
        view: View,
        source: Callable[[], str] | None = None,
        *,
        notes: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        """Show a mail.

        Args:
            view: What there is to see.
            source: Gives its octets as text; asked only while that tab is looked at.
            notes: Gives more to look at than the view has; asked when the mail is on its way to the screen.
        """
        self._source = source
        with self.hold_sync():
            self.page, self.text = view.page, view.text
            self.headers = [list(pair) for pair in view.headers]
            if notes is None:
                self.notes = list(view.notes)
            self.empty = ""
            self._fill_source()
        if notes is not None:
            self.notes = [*view.notes, *notes()]

    def say(self, text: str) -> None:
        """Say why there is nothing to show."""
        self._source = None
        with self.hold_sync():
            self.empty = text
            self.page = self.text = self.source = ""
            self.headers, self.notes = [], []

    def _asked(self, _: object) -> None:
        with self.guarded():
            self._fill_source()

    def _fill_source(self) -> None:
        self.source = self._source() if self.tab == "source" and self._source is not None else ""


@dataclass(frozen=True, slots=True)
class Kept:
    """One file that a `Download` offers.

    Attributes:
        id: What it is asked for by; "" is none that can be.
        name: What it is called on the screen.
        said: What else there is to say of it.
        face: What its button says.
    """

    id: str
    name: str
    said: str = ""
    face: str = "Download"


class Download(Part):
    """Files to take along, each with a button. Their octets travel when they are asked for and are never a trait.

    Args:
        label: What they are, for a screen reader.
        give: Returns a file's name and octets by its id; called on a thread of its own, so that a large one keeps
            nothing waiting. What it raises is shown in the form.
    """

    _esm = _script("download")
    label = t.Unicode().tag(sync=True)
    files = t.List(t.Dict()).tag(sync=True)

    def __init__(self, label: str, give: Callable[[str], tuple[str, bytes]]) -> None:
        super().__init__(label=label)
        self._give = give

    def show(self, files: Iterable[Kept]) -> None:
        """Offer these files and no others."""
        self.files = [{"id": f.id, "name": f.name, "said": f.said, "face": f.face} for f in files]

    def heard(self, content: Mapping[str, Any], buffers: Sequence[Any]) -> None:  # noqa: ARG002
        """Take the wish for a file; whoever asked is told apart by a token, other views of it get nothing."""
        _sync.spawn(self._hand(str(content["id"]), str(content["token"])))

    async def _hand(self, name: str, token: str) -> None:
        with self.guarded():
            try:
                called, octets = await asyncio.to_thread(self._give, name)
            except BaseException:
                self.send({"type": "over", "token": token})
                raise
            self.send({"type": "file", "token": token, "name": called}, [octets])


# -------------------------------------------------------------------------------- lists and questions


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a `Grid`.

    Attributes:
        id: What it is called when it is chosen; "" is none.
        cells: One text per column.
        mark: ``bad``, or "".
    """

    id: str
    cells: tuple[str, ...]
    mark: str = ""


class Grid(Part):
    """A list of rows, one of which can be chosen; it holds those that are shown.

    Args:
        label: What is listed, for a screen reader.
        columns: Their names.
        more: Called for more rows.
        chosen: Called with a row's id when a person chooses it, the one that is selected already too; code that sets
            ``selected`` chooses nothing.

    Attributes:
        selected: The chosen row's id, or "".
        total: How many rows there are; where it is more than are shown, ``more`` is called for the rest.
    """

    _esm = _script("grid")
    label = t.Unicode().tag(sync=True)
    columns = t.List(t.Unicode()).tag(sync=True)
    rows = t.List(t.Dict()).tag(sync=True)
    total = t.Int().tag(sync=True)
    selected = t.Unicode().tag(sync=True)
    empty = t.Unicode("Nothing is here.").tag(sync=True)
    height = t.Int(0).tag(sync=True)

    def __init__(
        self,
        label: str,
        columns: Sequence[str],
        *,
        more: Callable[[], None] | None = None,
        chosen: Callable[[str], None] | None = None,
        **traits: Any,
    ) -> None:
        super().__init__(label=label, columns=list(columns), **traits)
        self._more, self._chosen = more, chosen
        self.add_class("smtpnb-stacked")

    def show(self, rows: Iterable[Row], total: int | None = None) -> None:
        """Show these rows, of *total*."""
        made = [{"id": row.id, "cells": list(row.cells), "mark": row.mark} for row in rows]
        with self.hold_sync():
            self.rows = made
            self.total = len(made) if total is None else total

    def heard(self, content: Mapping[str, Any], buffers: Sequence[Any]) -> None:  # noqa: ARG002
        """Take the wish for more rows, or that one was chosen."""
        if content["type"] == "more" and self._more is not None:
            self._more()
        elif content["type"] == "choose" and content["id"] and self._chosen is not None:
            self._chosen(str(content["id"]))


class Facts(Part):
    """Names with what they hold; of one thing, so nothing is chosen in it."""

    _esm = _script("facts")
    label = t.Unicode().tag(sync=True)
    facts: t.List[list[str]] = t.List().tag(sync=True)
    empty = t.Unicode("Nothing is here.").tag(sync=True)
    height = t.Int(0).tag(sync=True)

    def show(self, facts: Iterable[tuple[str, str | None]]) -> None:
        """Show these; None is an empty one."""
        self.facts = [[name, value or "", "" if value else "(empty)"] for name, value in facts]


class Ask(Part):
    """A question that is asked once: yes, no, or Escape."""

    _esm = _script("ask")
    opened = t.Bool(default_value=False).tag(sync=True)
    question = t.Unicode().tag(sync=True)
    facts: t.List[list[str]] = t.List().tag(sync=True)
    yes = t.Unicode("Yes").tag(sync=True)
    no = t.Unicode("Cancel").tag(sync=True)
    number = t.Int().tag(sync=True)

    def __init__(self) -> None:
        super().__init__()
        self._then: Callable[[], None] | None = None

    def ask(
        self, question: str, facts: Iterable[tuple[str, str]], yes: str, then: Callable[[], None]
    ) -> None:
        """Ask; *then* is called once, when the answer is yes."""
        self._then = then
        with self.hold_sync():
            self.number += 1
            self.question, self.yes = question, yes
            self.facts = [list(fact) for fact in facts]
            self.opened = True

    def answer(self, *, yes: bool) -> None:
        """Take the answer; a second one is none."""
        then, self._then = self._then, None
        self.opened = False
        if yes and then is not None:
            then()

    def heard(self, content: Mapping[str, Any], buffers: Sequence[Any]) -> None:  # noqa: ARG002
        """Take the person's answer."""
        yes = content["yes"] is True
        # A yes to an older question is no yes to this one; a no sends nothing, whichever it was meant for.
        if not yes or content.get("number", self.number) == self.number:
            self.answer(yes=yes)


class Secret(Part):
    """Asks for a password, which never becomes part of this widget's state."""

    _esm = _script("secret")
    opened = t.Bool(default_value=False).tag(sync=True)
    label = t.Unicode().tag(sync=True)
    number = t.Int().tag(sync=True)

    def __init__(self) -> None:
        super().__init__()
        self._then: Callable[[str], None] | None = None

    def ask(self, label: str, then: Callable[[str], None]) -> None:
        """Ask; *then* is called once with what was typed, or never."""
        self._then = then
        with self.hold_sync():
            self.number += 1
            self.label, self.opened = label, True

    def cancel(self) -> None:
        """Take the question back."""
        self._then, self.opened = None, False

    def heard(self, content: Mapping[str, Any], buffers: Sequence[Any]) -> None:  # noqa: ARG002
        """Take what was typed, or that nothing will be."""
        if content.get("number", self.number) != self.number:
            return  # it was typed for another server
        then, self._then = self._then, None
        self.opened = False
        if content["type"] == "secret" and then is not None:
            # Taken out: the message is held by frames that a traceback may show the variables of.
            then(str(content.pop("text") if isinstance(content, dict) else content["text"]))


class Code(Part):
    """Code to copy; nothing is shown while it is empty."""

    _esm = _script("code")
    code = t.Unicode().tag(sync=True)


class Fold(Part):
    """A heading that shows or hides *box* when it is pressed."""

    _esm = _script("fold")
    opened = t.Bool(default_value=False).tag(sync=True)
    label = t.Unicode().tag(sync=True)

    def __init__(self, label: str, box: Any, *, shown: bool = False) -> None:
        super().__init__(label=label, opened=shown)
        self._box = box
        self.observe(self._fold, names="opened")
        self._fold()

    def _fold(self, _: object = None) -> None:
        self._box.layout.display = None if self.opened else "none"


class Status(Part):
    """What happened last, and how far it is; a screen reader says it."""

    _esm = _script("status")
    state = t.Unicode().tag(sync=True)
    text = t.Unicode().tag(sync=True)
    fix = t.Unicode().tag(sync=True)
    value = t.Float().tag(sync=True)
    most = t.Float().tag(sync=True)
    far = t.Unicode().tag(sync=True)

    def say(self, state: str, text: str, fix: str = "") -> None:
        """Say what happened, and what to do about it.

        Args:
            state: A State, or ``note``; "" shows no badge.
            text: One sentence.
            fix: One sentence, or "".
        """
        with self.hold_sync():
            self.state, self.text, self.fix = state, text, fix

    def far_is(self, value: float, most: float, text: str) -> None:
        """Show how far it is; *most* of 0 shows no bar."""
        with self.hold_sync():
            self.value, self.most, self.far = value, most, text
