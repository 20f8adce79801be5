"""What a cell, or a piece of code, prints and shows: heard beside its way to the person, kept in bounds.

Nothing is swallowed or delayed: what was hooked does what it did, then the recording is told. Streams are
hooked at their ``write``, as IPython does, because ipykernel asks streams for their class and a logger may
hold one; displays at the publisher's ``publish``, because ipykernel's own hooks belong to one thread and a
terminal has none. A hook lives on the object that it hooks, and is gone with its last recording.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from smtp_notebook.screen import MAX_CHARACTERS, MAX_LINES, Screen, plain

__all__ = ["IMAGES", "Kind", "Printed", "Recording", "Shown", "listen", "origin"]

#: How many displays are kept, the newest, and how large they may be together and alone, in characters or bytes.
MAX_SHOWN = 50
MAX_SIZE = 8 * 2**20
MAX_ONE = 5 * 2**20
_MAX_PLAIN = 20_000
_MAX_STREAMS = 200

IMAGES = ("image/png", "image/jpeg", "image/gif")
_TEXTS = ("text/html", "text/markdown", "text/latex")
#: What is drawn when nothing else can be shown.
_DRAWN = ("image/svg+xml",)
#: What makes a display one that JavaScript draws; its HTML is only the place for it.
_LIVE = ("widget", "plotly", "vega", "bokeh", "javascript", "svg")

Kind = Literal["display", "value", "failure"]


# --------------------------------------------------------------------------------------- what is taken


@dataclass(frozen=True, slots=True)
class Printed:
    """Text of one stream, between two displays.

    Attributes:
        stream: ``stdout`` or ``stderr``.
        lines: The newest lines, as a terminal would show them.
        lost: How many older lines are left out in front of them.
        place: The recording's place when it was printed.
    """

    stream: str
    lines: tuple[str, ...]
    lost: int = 0
    place: int = 0


@dataclass(frozen=True, slots=True)
class Shown:
    """A display.

    Attributes:
        kind: Whether it is a display, the value of an expression, or a traceback.
        data: Its mimebundle, reduced to what a mail could hold.
        live: The media type that only JavaScript shows, or "".
        size: Its size where it is too large to be kept, else 0; in characters or bytes.
        lost: How many older displays are left out in front of it.
        error: The exception of a traceback.
        about: What is said of the data, by media type, such as an image's width.
        place: The recording's place when it was shown.
    """

    kind: Kind
    data: Mapping[str, Any]
    live: str = ""
    size: int = 0
    lost: int = 0
    error: BaseException | None = None
    about: Mapping[str, Any] | None = None
    place: int = 0


# ------------------------------------------------------------------------------------------- recording


@dataclass(slots=True)
class _Stream:
    number: int
    name: str
    screen: Screen
    place: int


@dataclass(slots=True)
class _Display:
    number: int
    kind: Kind
    ids: frozenset[str] = frozenset()
    error: BaseException | None = None
    place: int = 0
    about: Mapping[str, Any] | None = None
    data: dict[str, Any] = field(default_factory=dict)
    live: str = ""
    size: int = 0
    too_large: int = 0

    def show(self, data: Mapping[str, Any]) -> None:
        """Hold a mimebundle, reduced to what a mail could hold."""
        charts = (m for m in data if "vegalite" in m or "vega.v" in m)
        best = next((m for m in (*IMAGES, *charts, *_TEXTS, *_DRAWN) if data.get(m)), None)
        live = next((m for m in data if any(word in m for word in _LIVE)), "")
        kept = {"text/plain": _shortened(str(data["text/plain"]))} if data.get("text/plain") else {}
        self.live = "" if best in IMAGES or (best and ("svg" in live or "vega" in best)) else live
        self.too_large = 0
        if best is not None and not self.live:
            size = _size(data[best])
            self.too_large = size if size > MAX_ONE else 0
            if not self.too_large:
                kept[best] = data[best]
        self.data = kept
        self.size = sum(map(_size, kept.values()))


def _size(value: Any) -> int:
    """Return how large a display is, in characters or bytes; a chart's specification as JSON."""
    return len(value) if isinstance(value, str | bytes) else len(json.dumps(value, default=str))


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_PLAIN else f"{text[:_MAX_PLAIN]}…"


class Recording:
    """Keeps what was printed and shown, in order and in bounds; from any thread.

    Args:
        hears: Tells of a stream, publisher or display hook whether what it is given now belongs here.

    Attributes:
        place: Where what comes next belongs, by numbers of the caller's own, such as a notebook's cells.
    """

    def __init__(self, hears: Callable[[object], bool] = lambda _: True) -> None:
        self.hears = hears
        self.place = 0
        self._lock = threading.RLock()
        self._number = 0
        self._forget()

    def _forget(self) -> None:
        self._streams: deque[_Stream] = deque()
        self._displays: deque[_Display] = deque()
        self._last: _Stream | None = None
        self._lost_lines = self._lost_displays = self._size = 0
        self._clearing = False

    def _next(self) -> int:
        if self._clearing:
            self._forget()
        self._number += 1
        return self._number

    def printed(self, stream: str, text: str) -> None:
        """Take a piece of what a stream was given."""
        with self._lock:
            same = self._last is not None and (self._last.name, self._last.place) == (stream, self.place)
            if self._last is None or not same or self._clearing:
                self._last = _Stream(self._next(), stream, Screen(), self.place)
                self._streams.append(self._last)
                if len(self._streams) > _MAX_STREAMS:
                    oldest = self._streams.popleft().screen
                    self._lost_lines += len(oldest.lines()) + oldest.lost
            self._last.screen.write(text)

    def shown(
        self,
        data: Mapping[str, Any],
        kind: Kind = "display",
        *,
        display_id: str = "",
        error: BaseException | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Take a display: its mimebundle, and what is said of it."""
        with self._lock:
            ids = frozenset([display_id] if display_id else ())
            found = _Display(self._next(), kind, ids, error, self.place, about)
            found.show(data)
            self._last = None
            self._displays.append(found)
            self._size += found.size
            self._fit()

    def updated(self, data: Mapping[str, Any], display_id: str) -> None:
        """Take a newer state of displays; those of earlier cells are none of ours."""
        with self._lock:
            for found in self._displays:
                if display_id in found.ids:
                    self._size -= found.size
                    found.show(data)
                    self._size += found.size
            self._fit()

    def clear(self, *, wait: bool = False) -> None:
        """Forget everything so far; with *wait* when the next output comes."""
        with self._lock:
            self._clearing = True
            if not wait:
                self._forget()

    def _fit(self) -> None:
        while len(self._displays) > MAX_SHOWN or (self._size > MAX_SIZE and len(self._displays) > 1):
            self._size -= self._displays.popleft().size
            self._lost_displays += 1

    def take(self) -> tuple[Printed | Shown, ...]:
        """Return what there is, in order."""
        with self._lock:
            found: list[Printed | Shown] = []
            lost_displays = self._lost_displays
            pieces: list[_Kept | _Display] = [*self._bounded(), *self._displays]
            for piece in sorted(pieces, key=lambda p: p.number):
                if isinstance(piece, _Display):
                    shown = Shown(
                        piece.kind, piece.data, piece.live, piece.too_large, lost_displays, piece.error,
                        piece.about, piece.place,
                    )  # fmt: skip
                    found.append(shown)
                    lost_displays = 0
                else:
                    found.append(Printed(piece.name, tuple(piece.lines), piece.lost, piece.place))
            return tuple(_joined(found))

    def _bounded(self) -> list[_Kept]:
        """Return the streams' texts, of all of them together the newest lines."""
        room, lines = MAX_CHARACTERS, MAX_LINES
        lost = self._lost_lines
        kept: list[_Kept] = []
        for stream in reversed(self._streams):
            whole = stream.screen.lines()
            some: list[str] = []
            while whole and lines and room > 0:
                room -= len(whole[-1]) + 1
                lines -= 1
                some.append(whole.pop())
            lost += len(whole) + stream.screen.lost
            if some:
                kept.append(_Kept(stream.number, stream.name, some[::-1], stream.place))
        if kept:
            kept[-1].lost = lost
        return kept


@dataclass(slots=True)
class _Kept:
    number: int
    name: str
    lines: list[str]
    place: int = 0
    lost: int = 0


def _joined(pieces: list[Printed | Shown]) -> Iterator[Printed | Shown]:
    """Join neighbours of one stream: what stood between them is left out."""
    last: Printed | None = None
    for piece in pieces:
        if (
            isinstance(piece, Printed)
            and last is not None
            and (last.stream, last.place) == (piece.stream, piece.place)
        ):
            last = Printed(last.stream, (*last.lines, *piece.lines), last.lost + piece.lost, last.place)
            continue
        if last is not None:
            yield last
        last = piece if isinstance(piece, Printed) else None
        if isinstance(piece, Shown):
            yield piece
    if last is not None:
        yield last


# ----------------------------------------------------------------------------------------------- hooks


def origin(source: object) -> str | None:
    """Return which request a kernel's stream, publisher or hook works for just now, or None.

    In ipykernel that depends on the asking task or thread; what it says decides in which cell output appears.
    """
    header = getattr(source, "parent_header", None)
    return header.get("msg_id") if isinstance(header, Mapping) else None


_QUIET: ContextVar[bool] = ContextVar("smtp_notebook_quiet", default=False)
_LOCK = threading.Lock()
_MARK = "_smtp_notebook_tap"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hear no text: in a terminal, displays and tracebacks are printed, and they are heard already."""
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)


class _Tap:
    """One hooked method of one object, and the recordings that hear it."""

    __slots__ = ("before", "ears", "mine", "name", "own", "owner", "pid")

    def __init__(self, owner: Any, name: str, make: _Make) -> None:
        self.owner = owner
        self.name = name
        self.ears: tuple[Recording, ...] = ()
        self.pid = os.getpid()
        self.before = getattr(owner, name)
        self.own = name in vars(owner)
        self.mine = make(self.before, self)
        setattr(self.mine, _MARK, self)
        setattr(owner, name, self.mine)

    def tell(self, note: Callable[[Recording], None], source: object = None) -> None:
        """Tell the recordings that hear *source*; a bug of theirs never reaches who prints."""
        if os.getpid() != self.pid:
            return  # a forked child, where a lock of the parent's other threads may be held for ever
        for ear in self.ears:
            with contextlib.suppress(Exception):
                if ear.hears(self.owner if source is None else source):
                    note(ear)

    def leave(self, ear: Recording) -> None:
        """Tell a recording nothing more; the last one takes the hook away.

        Where somebody hooked the same method after us, ours stays below, hears nothing, and goes the next time.
        """
        with _LOCK:
            self.ears = tuple(e for e in self.ears if e is not ear)
            if self.ears or vars(self.owner).get(self.name) is not self.mine:
                return
            if self.own:
                setattr(self.owner, self.name, self.before)
            else:
                delattr(self.owner, self.name)


_Make = Callable[[Callable[..., Any], _Tap], Callable[..., Any]]


def _attach(owner: Any, name: str, make: _Make, ear: Recording) -> _Tap | None:
    """Hook a method, or join the hook that is there; None where the object lets nobody."""
    with _LOCK:
        try:
            found: _Tap = getattr(vars(owner).get(name), _MARK, None) or _Tap(owner, name, make)
        except (AttributeError, TypeError):
            return None
        found.ears = (*found.ears, ear)
        return found


def _first(args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str = "") -> Any:
    """Return the first argument, however a caller called it."""
    return args[0] if args else kwargs.get(name) if name else next(iter(kwargs.values()), None)


def _write(stream: str) -> _Make:
    def make(before: Callable[..., Any], tap: _Tap) -> Callable[..., Any]:
        def write(*args: Any, **kwargs: Any) -> Any:
            done = before(*args, **kwargs)
            if not _QUIET.get():
                text = _first(args, kwargs)
                tap.tell(lambda ear: ear.printed(stream, text))
            return done

        return write

    return make


def _publish(before: Callable[..., Any], tap: _Tap) -> Callable[..., Any]:
    def publish(*args: Any, **kwargs: Any) -> Any:
        with _quiet():
            done = before(*args, **kwargs)
        data = _first(args, kwargs, "data") or {}
        identifier = str((kwargs.get("transient") or {}).get("display_id") or "")
        if kwargs.get("update"):
            tap.tell(lambda ear: ear.updated(data, identifier))
        else:
            tap.tell(lambda ear: ear.shown(data, display_id=identifier))
        return done

    return publish


def _clear_output(before: Callable[..., Any], tap: _Tap) -> Callable[..., Any]:
    def clear_output(*args: Any, **kwargs: Any) -> Any:
        done = before(*args, **kwargs)
        wait = bool(_first(args, kwargs, "wait"))
        tap.tell(lambda ear: ear.clear(wait=wait))
        return done

    return clear_output


def _value(before: Callable[..., Any], tap: _Tap) -> Callable[..., Any]:
    def write_format_data(*args: Any, **kwargs: Any) -> Any:
        with _quiet():
            done = before(*args, **kwargs)
        data = _first(args, kwargs, "format_dict")
        tap.tell(lambda ear: ear.shown(data, "value"))
        return done

    return write_format_data


def _unheard(before: Callable[..., Any], _: _Tap) -> Callable[..., Any]:
    def unheard(*args: Any, **kwargs: Any) -> Any:
        with _quiet():
            return before(*args, **kwargs)

    return unheard


def _traceback(before: Callable[..., Any], tap: _Tap) -> Callable[..., Any]:
    def show(kind: Any, error: Any, lines: Any, *args: Any, **kwargs: Any) -> Any:
        with _quiet():
            done = before(kind, error, lines, *args, **kwargs)
        text = "\n".join(plain("\n".join(map(str, lines)), _MAX_PLAIN))
        source = tap.owner.displayhook
        tap.tell(lambda ear: ear.shown({"text/plain": text}, "failure", error=error), source)
        return done

    return show


def listen(recording: Recording, shell: Any = None) -> Callable[[], None]:
    """Have *recording* hear the process's streams and, with a *shell*, IPython's displays.

    What a subprocess writes to the terminal itself is not heard, nor is a stream that lets nobody hook it.

    Returns:
        What ends it, and takes every hook away; calling it twice is harmless.
    """
    taps = [
        _attach(stream, "write", _write(name), recording)
        for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr))
        if stream is not None and not (name == "stderr" and stream is sys.stdout)
    ]
    if shell is not None:
        publisher, hook = shell.display_pub, shell.displayhook
        taps += [
            _attach(publisher, "publish", _publish, recording),
            _attach(hook, "write_output_prompt", _unheard, recording),
            _attach(hook, "write_format_data", _value, recording),
            _attach(hook, "finish_displayhook", _unheard, recording),
            _attach(shell, "_showtraceback", _traceback, recording),
        ]
        if hasattr(publisher, "parent_header"):
            # A terminal only erases its line, by codes that its stream is given.
            taps.append(_attach(publisher, "clear_output", _clear_output, recording))
    left = [tap for tap in taps if tap is not None]

    def hang_up() -> None:
        while left:
            left.pop().leave(recording)

    return hang_up
