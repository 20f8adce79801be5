"""What arrived in the sandbox, live: a list, a search, each message as its readers see it, its files.

It holds no rule: a message is read by `received` and shown by `views`. The sandbox only says that something changed;
one task on the background loop then looks, at most five times a second, so a merge of thousands costs a few lists.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import ipywidgets as w

from smtp_notebook import _sync
from smtp_notebook.outcome import MessageError, OptionError
from smtp_notebook.parts import Download, Grid, Kept, Pane, Row
from smtp_notebook.received import Received, bare_name
from smtp_notebook.sandbox import Sandbox, default_sandbox
from smtp_notebook.views import View, source_text
from smtp_notebook.widgets import Form, columns, row_of

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Inbox", "inbox"]

#: How long the list stands still after it changed, in seconds.
PERIOD = 0.2
#: How long a search reads before it shows what it has, in seconds.
READING = 0.05
#: How many messages are listed at first, and how many more at each wish.
WINDOW = 100
_NAMED = 3
_FILES = 100
_HEIGHT = 480
_LONGEST = 200
EMPTY = "Nothing has arrived yet. Mails sent to the sandbox never leave this machine."
WAITING = "A message is shown here when it arrives."


def inbox(sandbox: Sandbox | None = None) -> Inbox:
    """Return what arrived in a sandbox, newest first, live while more arrives; it displays itself.

    Args:
        sandbox: Whose mailbox; by default that of the sandbox which stands in while no server is named.

    Each message is shown as its readers see it, as text, as source, and by its headers; nothing in it runs or loads
    anything. Its files and the message itself (``.eml``) can be saved. The search looks for every word in subject,
    addresses and text, in all messages that are kept. Clear asks once.

    Raises:
        OptionError: *sandbox* is something else.
    """
    if sandbox is not None and not isinstance(sandbox, Sandbox):
        cause = f"inbox() shows a Sandbox, not a {type(sandbox).__name__}."
        raise OptionError(cause, "Give the Sandbox that the mails went to, or nothing for the default one.")
    return Inbox(default_sandbox() if sandbox is None else sandbox)


class _Search:
    """Which messages have every word; what was looked at once is not looked at again."""

    def __init__(self, query: str) -> None:
        self.query = query
        self._words = tuple(query.casefold().split())
        #: The ones found, newest first.
        self.hits: list[Received] = []
        self._seen = 0

    def left(self, messages: Sequence[Received]) -> list[Received]:
        """Forget what is no longer kept, and return what has to be looked at, newest first."""
        oldest = messages[0].number if messages else self._seen + 1
        self.hits = [m for m in self.hits if m.number >= oldest]
        return list(itertools.takewhile(lambda m: m.number > self._seen, reversed(messages)))

    def read(self, waiting: Iterator[Received], seconds: float) -> tuple[list[Received], int]:
        """Return what is found within so many seconds, and how many messages were read for it."""
        found, count, end = [], 0, time.monotonic() + seconds
        for message in waiting:
            count += 1
            if all(word in message.searched for word in self._words):
                found.append(message)
            if time.monotonic() > end:
                break
        return found, count

    def done(self, found: list[Received], newest: int) -> None:
        """Keep what was found among those up to number *newest*."""
        self.hits = [*found, *self.hits]
        self._seen = newest


class Inbox(Form):
    """The mailbox of a `Sandbox`. ``inbox.message`` is the message that is shown; `close` ends it."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__()
        self.sandbox = sandbox
        self.message: Received | None = None
        self._chosen: int | None = None
        self._shown: int | None = None
        self._limit = WINDOW
        self._searched: _Search | None = None
        self._lock = threading.Lock()
        self._stale = self._closed = False
        self._work: Future[None] | None = None
        self._build()
        self._list(sandbox.messages[::-1], sandbox.messages)
        self._end = sandbox.watch(self._changed)
        self._changed()

    def __repr__(self) -> str:
        messages = self.sandbox.messages
        newest = ", ".join(repr(_cut(m.subject or "(no subject)")) for m in messages[: -_NAMED - 1 : -1])
        return f"<Inbox {_count(len(messages))}{': ' if newest else ''}{newest}>"

    def close(self) -> None:
        """Take it away; the sandbox and its messages stay."""
        end = vars(self).get("_end")
        if end is not None:
            self._closed = True
            end()
        super().close()

    # ------------------------------------------------------------------------------------- pieces

    def _build(self) -> None:
        self._search = w.Text(description="Search", placeholder="subject, address or text")
        self._words = w.Label()
        self._words.add_class("smtpnb-words")
        self._grid = Grid("Messages", ("Subject", "To", "Time"), more=self._more, chosen=self._picked)
        self._grid.height, self._grid.empty = _HEIGHT, EMPTY
        self._grid.add_class("smtpnb-mails")
        self._follow = w.Checkbox(value=True, description="Show each message as it arrives", indent=False)
        self._clear = w.Button(description="Clear", disabled=True)
        self._pane = Pane(empty=WAITING)
        self._files = Download("The message and its files", self.file)
        self._search.observe(self.guard(lambda _: self._changed()), names="value")
        self._follow.observe(self.guard(lambda change: self._followed(on=change.new)), names="value")
        self._clear.on_click(self.guard(lambda _: self._ask_to_clear()))
        left = [
            self._search,
            self._words,
            self._grid,
            row_of(self._follow, self._clear),
            self.ask,
            self.status,
        ]
        self.fill([columns(left, [self._pane, self._files])])
        self.add_class("smtpnb-inbox")

    # ------------------------------------------------------------------------------ what a person does

    def choose(self, number: int) -> None:
        """Show the message of this number, and keep showing it while others arrive.

        Raises:
            MessageError: It is not, or no longer, in the mailbox.
        """
        self._numbered(number)
        self._picked(str(number))

    def _picked(self, name: str) -> None:
        self._chosen = int(name)
        self._grid.selected = name
        self._grid.send_state("selected")  # while a cell ran, the browser was told of others after the click
        self._follow.value = False
        self._changed()

    def _followed(self, *, on: bool) -> None:
        if on:
            self._chosen = None
        elif self._chosen is None and self.message is not None:
            self._chosen = self.message.number
        self._changed()

    def _more(self) -> None:
        self._limit += WINDOW
        self._changed()

    def _ask_to_clear(self) -> None:
        count = _count(len(self.sandbox.messages))
        self.ask.ask(
            f"Forget {count}?", [("Mailbox", "the sandbox on this machine")], "Clear", self.sandbox.clear
        )

    def file(self, name: str) -> tuple[str, bytes]:
        """Return name and octets of a file: ``"7"`` is message 7 itself, ``"7:0"`` its first file.

        Raises:
            MessageError: The message is no longer in the mailbox.
        """
        number, _, index = name.partition(":")
        message = self._numbered(int(number))
        if not index:
            return bare_name(
                f"{message.subject or 'message'}.eml".replace("/", "-").replace("\\", "-")
            ), message.raw
        called, _, content, _ = message.files()[int(index)]
        return called, content

    def _numbered(self, number: int) -> Received:
        found = _by_number(self.sandbox.messages, number)
        if found is None:
            raise MessageError("That message is no longer in the mailbox.", "Choose one that is listed.")
        return found

    # ------------------------------------------------------------------------------- what happens here

    def _changed(self) -> None:
        """Have it looked at soon. From any thread, and quick: the server waits for it."""
        with self._lock:
            self._stale = True
            if not self._closed and (self._work is None or self._work.done()):
                self._work = _sync.spawn(self._live())

    async def _live(self) -> None:
        """Show what there is until nothing changes any more."""
        while self._again():
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - whatever it is, the person has to see it
                self.failed(error)
            await asyncio.sleep(PERIOD)

    def _again(self) -> bool:
        with self._lock:
            stale, self._stale = self._stale and not self._closed, False
            if not stale:
                self._work = None
            return stale

    async def _look(self) -> None:
        messages = self.sandbox.messages
        found = await self._found(messages)
        if found is None:
            return
        self._list(found, messages)
        await self._show()

    async def _found(self, messages: Sequence[Received]) -> Sequence[Received] | None:
        """Return what the search finds, newest first; None when it was changed meanwhile."""
        query = self._search.value
        if not query.strip():
            self._searched = None
            return messages[::-1]
        if self._searched is None or self._searched.query != query:
            self._searched = _Search(query)
        search = self._searched
        left = search.left(messages)
        waiting, found, read = iter(left), list[Received](), 0
        while read < len(left):
            more, count = await asyncio.to_thread(search.read, waiting, READING)
            found, read = [*found, *more], read + count
            if self._closed or self._search.value != query:
                return None
            if read < len(left):
                self._list([*found, *search.hits], messages, reading=f"{read:,} of {len(left):,} read")
                await asyncio.sleep(READING / 4)
        if left:
            search.done(found, left[0].number)
        return search.hits

    def _list(self, found: Sequence[Received], messages: Sequence[Received], reading: str = "") -> None:
        """Show the newest of these, and how many there are."""
        if self._chosen is not None and _by_number(messages, self._chosen) is None:
            self._chosen, self._follow.value = None, True
        current = _by_number(messages, self._chosen) if self._chosen is not None else next(iter(found), None)
        if current is not None and not self._follow.value:
            self._chosen = current.number
        self.message = current
        query = self._search.value.strip()
        today = dt.datetime.now(dt.UTC).astimezone().date()
        rows = [_row(message, today) for message in found[: self._limit]]
        with self._grid.hold_sync():
            self._grid.empty = _nothing(query, reading) if messages else EMPTY
            self._grid.show(rows, len(found))
            self._grid.selected = str(current.number) if current is not None else ""
        self._words.value = _said(
            len(found) if query else None, len(messages), self.sandbox.max_messages, reading
        )
        self._clear.disabled = not messages

    async def _show(self) -> None:
        """Show the message that is chosen, unless it is shown already; a large one is read on another thread."""
        message = self.message
        if message is None:
            self._shown = None
            self._pane.say("No message is chosen." if self.sandbox.messages else WAITING)
            self._files.show([])
        elif message.number != self._shown:
            view, files = await asyncio.to_thread(_read, message)
            self._pane.show(view, lambda: source_text(message.raw))
            self._files.show(files)
            self._shown = message.number


# --------------------------------------------------------------------------------------------- words


def _by_number(messages: Sequence[Received], number: int) -> Received | None:
    """Return a message by its number: they are counted without a gap."""
    place = number - messages[0].number if messages else -1
    return messages[place] if 0 <= place < len(messages) else None


def _read(message: Received) -> tuple[View, list[Kept]]:
    files = message.files()
    number = message.number
    kept = [
        Kept(f"{number}:{index}", name, f"{kind}, {_size(len(content))}{', in the text' if cid else ''}")
        for index, (name, kind, content, cid) in enumerate(files[:_FILES])
    ]
    if len(files) > _FILES:
        kept.append(Kept("", f"and {len(files) - _FILES:,} more files, which are in the .eml"))
    whole = Kept(str(number), "The whole message", _size(len(message.raw)), "Save .eml")
    return message.view(), [*kept, whole]


def _row(message: Received, today: dt.date) -> Row:
    to = ", ".join(message.recipients[:_NAMED])
    rest = len(message.recipients) - _NAMED
    more = f" and {rest:,} more" if rest > 0 else ""
    return Row(
        str(message.number),
        (_cut(message.subject) or "(no subject)", to + more, _when(message.received, today)),
    )


def _when(time: dt.datetime, today: dt.date) -> str:
    """Return a time as a clock here shows it, with its day where that is another."""
    here = time.astimezone()
    return here.strftime("%H:%M:%S" if here.date() == today else "%Y-%m-%d %H:%M")


def _said(found: int | None, count: int, most: int, reading: str) -> str:
    if not count:
        return ""
    kept = f"{_count(count)}, the most that are kept" if count == most else _count(count)
    if found is None:
        return f"{kept}; nothing left this machine"
    return f"{found:,} found, {reading}" if reading else f"{found:,} of {kept}"


def _nothing(query: str, reading: str) -> str:
    return "Searching …" if reading else f"Nothing here has “{query}” in it."


def _count(count: int) -> str:
    return f"{count:,} message{'' if count == 1 else 's'}"


def _size(count: int) -> str:
    if count < 1024:  # noqa: PLR2004 - one kB
        return f"{count} B"
    return f"{count / 1024:,.0f} kB" if count < 2**20 else f"{count / 2**20:,.1f} MB"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
