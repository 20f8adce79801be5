"""How a watch stands, as a value; and how a notebook shows that, live."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import enum
import html
import secrets
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from smtp_notebook import _html
from smtp_notebook.durations import spoken

__all__ = ["RESTING", "Phase", "Screen", "WatchStatus", "rows_said"]

#: What a display takes for the time, in seconds; only differences count.
CLOCK: Callable[[], float] = time.monotonic
#: A display is drawn anew at most so often, in seconds; what stays is always drawn.
PACE = 0.5


class Phase(enum.StrEnum):
    """Where a watch stands. The words are the whole vocabulary."""

    IDLE = "idle"
    READING = "reading"
    CHECKING = "checking"
    SENDING = "sending"
    TELLING = "telling"
    WAITING = "waiting"
    NEEDS_APPROVAL = "needs_approval"
    STOPPED = "stopped"
    FAILED = "failed"


RESTING = frozenset({Phase.IDLE, Phase.WAITING, Phase.NEEDS_APPROVAL, Phase.STOPPED, Phase.FAILED})
_COLOUR = {Phase.FAILED: "refused", Phase.NEEDS_APPROVAL: "in_doubt", Phase.SENDING: "sent"}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WatchStatus:
    """A picture of a watch at one moment; it never changes.

    Attributes:
        name: The watch's campaign.
        source: What it watches, in words.
        every: How long it waits between two polls, in seconds.
        phase: ``idle`` (not running), ``reading`` (the source is asked), ``checking``, ``sending``, ``telling`` (the source is
            told of what went), ``waiting`` (for the next poll), ``needs_approval`` (the same, and new rows wait for
            `Watch.approve`), ``stopped``, or ``failed``: *error* needs a person before it can go on.
        practice: Whether its mails count for nobody: the sandbox, ``test_to=`` or a redirect.
        last: When the last poll ended, with its time zone; None before the first one.
        next: When the next one is due; None where none is.
        polls: How many polls this watch has made.
        found: How many rows the source gave at the last poll, those of an overlap too.
        new: How many of these nothing was known of.
        waiting: How many of the new ones wait for approval.
        before: How many rows were there before the watch began, and are not mailed.
        sent: How many rows of the campaign went to all or some of their recipients.
        failed: How many are refused, failed or deferred.
        invalid: How many cannot be mailed as they are.
        in_doubt: How many may or may not have been delivered: only ``Journal().resolve(…)`` decides.
        planned: How many are to be tried by the next poll.
        done: While it sends: how many rows of this poll were tried.
        due: While it sends: how many there are.
        error: One line: what went wrong at the last poll, or "". A success clears it.
        fix: One line: what to do about it, or "".
        notes: What a person should hear of the last poll.
    """

    name: str = ""
    source: str = ""
    every: float = 0.0
    phase: Phase = Phase.IDLE
    practice: bool = False
    last: dt.datetime | None = None
    next: dt.datetime | None = None
    polls: int = 0
    found: int = 0
    new: int = 0
    waiting: int = 0
    before: int = 0
    sent: int = 0
    failed: int = 0
    invalid: int = 0
    in_doubt: int = 0
    planned: int = 0
    done: int = 0
    due: int = 0
    error: str = ""
    fix: str = ""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values; moments as ISO 8601 with their time zone."""
        found = dataclasses.asdict(self)
        moments = {
            name: found[name] and found[name].isoformat(timespec="seconds") for name in ("last", "next")
        }
        return {**found, **moments, "phase": self.phase.value, "notes": list(self.notes)}

    @property
    def _counts(self) -> list[tuple[str, str]]:
        """Return the numbers that are not 0: a state, which has a colour, and the words."""
        counted = (
            ("sent", self.sent, "sent"),
            ("planned", self.planned, "planned"),
            ("refused", self.failed, "failed"),
            ("invalid", self.invalid, "invalid"),
            ("in_doubt", self.in_doubt, "in doubt"),
            ("in_doubt", self.waiting, "waiting for approval"),
        )
        return [(state, f"{number:,} {words}") for state, number, words in counted if number]

    @property
    def _phase(self) -> str:
        words = self.phase.replace("_", " ")
        return f"{words} {self.done:,} of {self.due:,}" if self.phase is Phase.SENDING and self.due else words

    @property
    def _polled(self) -> str:
        """Return in words what the last poll found, and when the next one is."""
        said = []
        if self.last is not None:
            said.append(f"last poll {_clock(self.last)}: {rows_said(self.found)} found, {self.new:,} new")
        if self.next is not None and self.phase not in {Phase.STOPPED, Phase.FAILED, Phase.IDLE}:
            said.append(f"next {_clock(self.next)}")
        if self.polls:
            said.append("1 poll" if self.polls == 1 else f"{self.polls:,} polls")
        if self.before:
            said.append(f"{rows_said(self.before)} there before, not mailed")
        return "; ".join(said)

    @property
    def _approval(self) -> str:
        if not self.waiting:
            return ""
        return f"{rows_said(self.waiting)} came at once, and none of them is mailed yet. watch.approve() lets them go."

    @property
    def _doubt(self) -> str:
        if not self.in_doubt:
            return ""
        return "In doubt: watch.report.in_doubt lists them, and Journal().resolve(…) decides."

    @property
    def _practised(self) -> str:
        return (
            "Practice: its mails count for nobody, and nothing is written into the journal."
            if self.practice
            else ""
        )

    def __repr__(self) -> str:
        said = [self._phase, *(words for _, words in self._counts)]
        if self.next is not None and self.phase in {Phase.WAITING, Phase.NEEDS_APPROVAL}:
            said.append(f"next poll {_clock(self.next)}")
        if self.practice:
            said.append("practice")
        if self.error:
            said.append(self.error)
        return f"<WatchStatus {self.name}: {', '.join(said)}>"

    def text(self) -> str:
        """Return it as plain text."""
        counts = ", ".join(words for _, words in self._counts) or "nothing sent yet"
        head = f"{self.name}: {self._phase}; {counts}"
        what = f"{self.source}, every {spoken(self.every)}"
        error = " ".join(filter(None, [self.error, self.fix]))
        more = [what, self._polled, self._practised, self._approval, error, self._doubt, *self.notes]
        return "\n".join([head, *(f"  {line}" for line in more if line)])

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/plain": self.text(), "text/html": self._html()}

    def _html(self) -> str:
        phase = _html.badge(_COLOUR.get(self.phase, "planned"), self._phase)
        counts = "".join(_html.badge(state, words) for state, words in self._counts)
        what = _html.quiet(f"{self.source}, every {spoken(self.every)}")
        lines = [f"{phase}<strong>{html.escape(self.name)}</strong> {what}", counts]
        lines += [_html.quiet(line) for line in (self._polled, self._practised) if line]
        if self.error:
            lines.append(f"<strong>{html.escape(self.error)}</strong> {html.escape(self.fix)}")
        if self.waiting:
            said = html.escape(self._approval).replace(_APPROVE, f"<code>{_APPROVE}</code>")
            lines.append(said)
        if self._doubt:
            lines.append(html.escape(self._doubt))
        body = "".join(f'<div style="margin:3px 0">{line}</div>' for line in lines if line)
        return _html.card(body + (_html.items(self.notes) if self.notes else ""))


_APPROVE = "watch.approve()"


def rows_said(count: int) -> str:
    """Return how many rows, in words."""
    return "1 row" if count == 1 else f"{count:,} rows"


def _clock(moment: dt.datetime) -> str:
    """Return a moment as people say it: the time, and the day where it is not today's."""
    now = dt.datetime.now().astimezone()
    here = moment.astimezone(now.tzinfo)
    return f"{here:%H:%M:%S}" if here.date() == now.date() else f"{here:%Y-%m-%d %H:%M}"


class Screen:
    """Shows a status in a kernel, and changes what it shows, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._id = ""
        self._drawn = -PACE

    def show(self, status: WatchStatus) -> bool:
        """Show it in the cell that runs; False where this is no kernel."""
        shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        if getattr(shell, "kernel", None) is None:
            return False
        from IPython.display import display

        with self._lock:
            self._id = self._id or secrets.token_hex(8)
            display(status._repr_mimebundle_(), raw=True, display_id=self._id)  # type: ignore[no-untyped-call]
        return True

    def draw(self, status: WatchStatus, *, lasting: bool) -> None:
        """Show it where an earlier one was shown; what does not last only where it is time."""
        if not self._id or (not lasting and CLOCK() - self._drawn < PACE):
            return
        from IPython.display import update_display

        with self._lock, contextlib.suppress(Exception):  # a kernel that ends takes no display any more
            self._drawn = CLOCK()
            update_display(status._repr_mimebundle_(), raw=True, display_id=self._id)  # type: ignore[no-untyped-call]
