"""Calls of a source that whoever waits may leave, and what ends them: a slow source keeps nobody."""

from __future__ import annotations

import datetime as dt
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from smtp_notebook.outcome import MailError
from smtp_notebook.replies import one_line

__all__ = ["POLL", "AskedError", "Hand", "LeftError", "Life", "StoppedError", "named_error"]

T = TypeVar("T")

#: Whoever waits looks at least so often whether it was stopped, in seconds; Windows interrupts no longer wait.
POLL = 0.25


class Stoppable(Protocol):
    """What sends mails, and can be told to end."""

    def stop(self) -> None:
        """End it, in order."""
        ...


class StoppedError(Exception):
    """The check was told to end."""


class Life:
    """One time that a watch runs, from its start to its end; or one poll."""

    def __init__(self) -> None:
        self.stopping = False
        self.wake = threading.Event()
        self.over = threading.Event()
        self.pulse: threading.Event | None = None
        self.thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._run: Stoppable | None = None

    def stop(self) -> None:
        """End it, in order; from any thread."""
        with self._lock:
            self.stopping = True
            run = self._run
        self.wake.set()
        if (pulse := self.pulse) is not None:
            pulse.set()
        if run is not None:
            run.stop()

    def sends(self, run: Stoppable | None) -> None:
        """Take what sends mails now."""
        with self._lock:
            self._run = run
            stopping = self.stopping
        if run is not None and stopping:
            run.stop()

    def look(self, _check: object) -> None:
        """Look at a check before its next row."""
        if self.stopping:
            raise StoppedError


class LeftError(Exception):
    """Whoever asked was told to stop, and does not wait any more."""


class AskedError(Exception):
    """What a source raised."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Hand:
    """Calls a source: one call at a time, each in a thread of its own, which whoever waits may leave behind."""

    def __init__(self, given: Any) -> None:
        self._given = given  # as long as this lives nothing else can have its id
        self._changed = threading.Condition()
        self._busy: dt.datetime | None = None
        self._left = False

    @classmethod
    def of(cls, given: Any) -> Hand:
        """Return the one hand of this source, whoever watches it."""
        with _HANDS_LOCK:
            found = _HANDS.get(id(given))
            if found is None:
                found = _HANDS[id(given)] = cls(given)
            return found

    def ask(self, function: Callable[[], T], life: Life) -> T:
        """Return what the function returns; where somebody else has the source called, after that.

        Raises:
            AskedError: It raised something, or a call that was left behind has not come back yet.
            LeftError: The watch was stopped.
        """
        self._take(life)
        future: Future[T] = Future()
        came = life.pulse = threading.Event()
        thread = threading.Thread(
            target=self._call, args=(function, future, came), name="smtp_notebook source", daemon=True
        )
        try:
            try:
                thread.start()
            except RuntimeError:
                # No thread can be had; who comes next may have one.
                self._free()
                raise
            while not future.done():
                if life.stopping:
                    raise LeftError
                came.wait(POLL)
        finally:
            self._left = thread.ident is not None and not future.done()
        if (error := future.exception()) is not None:
            raise AskedError(_as_exception(error)) from None
        return future.result()

    def _take(self, life: Life) -> None:
        with self._changed:
            while self._busy is not None:
                if self._left:
                    cause = f"The source is still busy with a call that began at {self._busy:%H:%M:%S}."
                    raise AskedError(MailError(cause, "Nothing is read meanwhile; it is asked again later."))
                if life.stopping:
                    raise LeftError
                self._changed.wait(POLL)
            self._busy, self._left = dt.datetime.now().astimezone(), False

    def _call(self, function: Callable[[], T], future: Future[T], came: threading.Event) -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = function()
        except BaseException as raised:  # noqa: BLE001 - whoever asked gets it, sys.exit() too
            error = raised
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
        self._free()
        came.set()

    def _free(self) -> None:
        with self._changed:
            self._busy = None
            self._changed.notify_all()


def _as_exception(error: BaseException) -> Exception:
    """Return what a source raised; what would end a thread, or the kernel, is only told of."""
    if isinstance(error, Exception):
        return error
    return MailError(
        f"The source ended with {named_error(error)}.", "A source returns rows, or raises an Exception."
    )


def named_error(error: BaseException) -> str:
    """Return an exception that is no `MailError`, on one line."""
    return one_line(": ".join(filter(None, [type(error).__name__, str(error)])))


_HANDS: weakref.WeakValueDictionary[int, Hand] = weakref.WeakValueDictionary()
_HANDS_LOCK = threading.Lock()
