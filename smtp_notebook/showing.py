"""What a person sees while a merge runs: a bar of one line, and the report where an exception follows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Self

from smtp_notebook.merge import Sending
from smtp_notebook.outcome import FAILURES, Report
from smtp_notebook.preflight import Preflight
from smtp_notebook.roll import Roll

__all__ = ["PROGRESS_DELAY", "SHOWN", "Checking", "Line", "Progress"]


def _show(report: Report) -> None:
    """Show a report although an exception follows: richly in IPython, as text elsewhere."""
    import sys

    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        from IPython.display import display

        display(report)
    else:
        print(report.text())  # noqa: T201 - the person has to see how far it went


#: Shows a report although an exception follows; the command line has its own way.
SHOWN: ContextVar[Callable[[Report], object]] = ContextVar("SHOWN", default=_show)


#: A merge shows a bar when it takes longer than this, in seconds.
PROGRESS_DELAY = 1.0


class Checking:
    """A bar that tells how many rows have been checked."""

    def __init__(self) -> None:
        self._bar = _Bar("row", said="checked")
        self._check: Preflight | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._check is not None:
            self.look(self._check)
        self._bar.close()

    @property
    def line(self) -> Line:
        """Where it was shown, if it was."""
        return self._bar.line

    def look(self, check: Preflight) -> None:
        """Look at a check before its next row, or while that is waited for."""
        self._check = check
        self._bar.reach(check.problems + check.due + check.settled, check.total, check.held_up)


class Progress:
    """What is told while a merge runs: the roll, and a bar with rate, failures and what remains.

    One line of it stays, in a saved notebook too: a widget would be dead there. It is written where the check was told of.

    Args:
        roll: Of the rows that are due.
        shown: Whether there is a bar.
        line: Where the check was told of.
    """

    def __init__(self, roll: Roll, *, shown: bool, line: Line | None = None) -> None:
        self._put = roll.put
        self._failures = 0
        self._bar = _Bar("mail", roll.count_due(), line=line) if shown else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, _: str, position: int | None, columns: tuple[Any, ...]) -> None:
        """Put down what came of a row, and move on; what `merge.Told` is."""
        self._put(position, columns)
        if self._bar is not None:
            self._failures += columns[0] in FAILURES
            self._bar.step(f"failures={self._failures}" if self._failures else "")

    def tick(self, run: Sending, then: Callable[[], object] | None = None) -> None:
        """Show that time goes by although no row is done, and why nothing is sent; then call *then*."""
        if self._bar is not None:
            self._bar.tick(run.held_up)
        if then is not None:
            then()


#: A bar shows about so often that time goes by, in seconds.
_TICK_SECONDS = 1.0


class _Bar:
    """A bar of tqdm that knows why it stands still. From any thread."""

    def __init__(
        self, unit: str, total: int | None = None, *, said: str = "", line: Line | None = None
    ) -> None:
        #: Where it is shown, in a kernel.
        self.line = line or Line()
        self._bar = _tqdm(unit, total, said, self.line)
        self._began = self._shown = time.monotonic()
        self._lock = threading.Lock()
        self._words = self._held_up = ""

    def close(self) -> None:
        self._say("")
        self._bar.close()

    def step(self, words: str = "") -> None:
        """Go on by one; *words* stand behind it."""
        self._words = words
        self._say(self._held_up)
        self._bar.update()

    def reach(self, count: int, total: int, held_up: str) -> None:
        """Go on to *count* of *total*; 0 for an unknown one."""
        self._bar.total = total or None
        if count > self._bar.n:
            self._bar.update(count - self._bar.n)
        self.tick(held_up)

    def tick(self, held_up: str) -> None:
        """Show it again, where that was not done for a second, or something else holds it up."""
        with self._lock:
            now = time.monotonic()
            other = held_up != self._held_up
            if now - self._began < PROGRESS_DELAY or not (other or now - self._shown >= _TICK_SECONDS):
                return
            self._shown = now
        self._say(held_up)
        self._bar.refresh()

    def _say(self, held_up: str) -> None:
        self._held_up = held_up
        self._bar.set_postfix_str(", ".join(filter(None, [self._words, held_up])), refresh=False)


def _tqdm(unit: str, total: int | None, said: str, line: Line) -> Any:
    """Return tqdm's bar, which shows itself after `PROGRESS_DELAY`; in a kernel as one line that stays."""
    from tqdm import tqdm

    look = {"file": line, "ascii": False, "ncols": 80, "mininterval": 0.5} if _kernel() else {}
    return tqdm(total=total, unit=unit, desc=said or None, delay=PROGRESS_DELAY, **look)


def _kernel() -> Any:
    """Return IPython where it runs as a notebook's kernel, or None."""
    import sys

    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if getattr(shell, "kernel", None) is not None else None


class Line:
    """One line of output that is written over and over, in whatever shows the notebook."""

    def __init__(self) -> None:
        self._handle: Any = None

    def write(self, text: str) -> None:
        """Show *text* where the last one stood."""
        from IPython.display import display

        line = text.strip("\r\n ")
        if not line:
            return
        shown = {"text/plain": line}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    def flush(self) -> None:
        """Do nothing: each line is shown at once."""
