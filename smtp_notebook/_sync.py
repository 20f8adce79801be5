"""One background event loop, and a way to wait for it that a kernel interrupt can end.

A notebook's own loop is running already, so blocking calls cannot use it. They hand a coroutine to
this loop and wait; what must happen on the calling thread (rendering: figures, database handles) is
sent back to it while it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

__all__ = ["CallInterruptedError", "Caller", "Inline", "Turn", "run", "spawn", "ticking"]

T = TypeVar("T")

#: How long a stopped run may finish what it began, in seconds.
GRACE = 5.0
_UNWIND = 6.0
_POLL = 0.25
_TICK = 0.2


class CallInterruptedError(Exception):
    """What was asked of the calling thread was interrupted there."""


class Caller(Protocol):
    """Runs a function where the values of the person's notebook belong."""

    async def call(self, function: Callable[[], T]) -> T:
        """Run *function* on the calling thread and return what it returns."""
        ...


class Inline:
    """A Caller for coroutines that run on the person's own loop: calls at once."""

    async def call(self, function: Callable[[], T]) -> T:
        """Run *function* here and now."""
        return function()


class _Loop:
    """The background loop of this process; made on first use, made anew after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

    def get(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            dead = self._thread is None or not self._thread.is_alive()
            if self._loop is None or self._loop.is_closed() or dead or self._pid != os.getpid():
                self._loop = asyncio.new_event_loop()
                self._pid = os.getpid()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="smtp_notebook", daemon=True
                )
                self._thread.start()
            return self._loop


_LOOP = _Loop()


def spawn(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Start *work* on the background loop and return at once."""
    return asyncio.run_coroutine_threadsafe(work, _LOOP.get())


class _Back:
    """A Caller whose functions run on the thread that waits in `run`."""

    def __init__(self) -> None:
        self.requests: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()

    async def call(self, function: Callable[[], T]) -> T:
        answer: Future[T] = Future()
        self.requests.put((function, answer))
        return await asyncio.wrap_future(answer)

    def refuse(self, timeout: float) -> None:
        """Answer what was asked for with CallInterruptedError, or return after *timeout* seconds."""
        with contextlib.suppress(queue.Empty):
            request = self.requests.get(timeout=timeout)
            if request is not None and request[1].set_running_or_notify_cancel():
                request[1].set_exception(CallInterruptedError("the run is over"))

    def serve(self, timeout: float) -> None:
        """Run what was asked for, or return after *timeout* seconds."""
        try:
            request = self.requests.get(timeout=timeout)
        except queue.Empty:
            return
        if request is None:
            return
        function, answer = request
        if not answer.set_running_or_notify_cancel():
            return
        try:
            result = function()
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            answer.set_exception(error)
        except BaseException as error:
            # A KeyboardInterrupt inside a task would end the loop itself.
            answer.set_exception(CallInterruptedError(type(error).__name__))
            raise
        else:
            answer.set_result(result)


def run(
    work: Callable[[Caller], Coroutine[Any, Any, T]],
    *,
    stop: Callable[[], None] | None = None,
    between: Callable[[], object] | None = None,
) -> T:
    """Run a coroutine on the background loop and wait for it here.

    Args:
        work: Makes the coroutine; what it gets calls functions on this thread.
        stop: Asks the work to end by itself; called from this thread at the first interrupt. Without
            it, or 5 s later, or at a second interrupt, the work is cancelled. In each case it has
            unwound before KeyboardInterrupt goes on: nothing is sent behind a person's back.
        between: Called on this thread while it waits, at least four times a second unless it is busy with what was
            asked of it.
    """
    back = _Back()
    unwound = threading.Event()
    future = spawn(_noted(work(back), unwound))
    future.add_done_callback(lambda _: back.requests.put(None))
    try:
        while not future.done():
            back.serve(_POLL)
            if between is not None:
                between()
        return future.result()
    except BaseException:
        if not future.done():
            _end(future, back, stop, unwound)
        raise


async def _noted(work: Coroutine[Any, Any, T], unwound: threading.Event) -> T:
    try:
        return await work
    finally:
        unwound.set()


def _end(future: Future[Any], back: _Back, stop: Callable[[], None] | None, unwound: threading.Event) -> None:
    """Let the work end in order, then make it end."""
    with contextlib.suppress(BaseException):  # a second interrupt, or what a callback raised once more
        if stop is not None:
            stop()
            _wait(future, back, GRACE + 0.5)
    if future.done():
        return
    future.cancel()
    # The future is done at once, the coroutine only when it has unwound; it may still ask for something here.
    deadline = time.monotonic() + _UNWIND
    while not unwound.is_set() and time.monotonic() < deadline:
        with contextlib.suppress(KeyboardInterrupt):
            back.refuse(_POLL)


def _wait(future: Future[Any], back: _Back, seconds: float) -> None:
    rounds = max(1, round(seconds / _POLL))
    for _ in range(rounds):
        if future.done():
            return
        back.serve(_POLL)


async def ticking(work: Awaitable[T], each: Callable[[], object] | None = None) -> T:
    """Await *work* while waking the loop five times a second, and calling *each* then.

    An interrupt reaches a cell that awaits only when the kernel's loop next wakes.
    """
    ticker = asyncio.ensure_future(_tick(each))
    try:
        return await work
    finally:
        ticker.cancel()


async def _tick(each: Callable[[], object] | None) -> None:
    while True:
        await asyncio.sleep(_TICK)
        if each is not None:
            each()


class Turn:
    """A lock that threads get in the order in which they asked; the one that has it may take it again.

    Python's own goes to whoever is quickest: a thread that gives it back only to take it again keeps it for good.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked: deque[int] = deque()
        self._depth = 0

    def __enter__(self) -> None:
        with self._changed:
            if not (self._depth and self._asked[0] == threading.get_ident()):
                self._wait()
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._depth -= 1
            if not self._depth:
                self._end()

    def let(self) -> None:
        """Let those who wait go first, and return when this thread has its turn again; it has to have it now."""
        if len(self._asked) > 1:
            with self._changed:
                depth, self._depth = self._depth, 0
                self._end()
                self._wait()
                self._depth = depth

    def _wait(self) -> None:
        mine = threading.get_ident()
        self._asked.append(mine)
        try:
            self._changed.wait_for(lambda: self._asked[0] == mine)
        except BaseException:  # an interrupt
            self._asked.remove(mine)
            self._changed.notify_all()
            raise

    def _end(self) -> None:
        self._asked.popleft()
        self._changed.notify_all()
