"""What the form of a merge says: counts, times, problems, and what is asked before a send. Pure: text from values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smtp_notebook import _html
from smtp_notebook.connection import Connection
from smtp_notebook.jobs import Phase, Progress
from smtp_notebook.outcome import MailError, Report, State
from smtp_notebook.parts import Row
from smtp_notebook.rate import least_seconds, parse_rates
from smtp_notebook.template import is_missing
from smtp_notebook.widgets import in_words

__all__ = [
    "cell_text",
    "check_text",
    "end_text",
    "far_text",
    "in_time",
    "listed",
    "mails",
    "pills",
    "problem_rows",
    "rows",
    "said",
    "sending_facts",
]

#: A cell is shown up to so many characters.
_CELL = 400
_NOTES = 8
#: How a row that was tried can fail.
_TRIED = (State.REFUSED, State.FAILED, State.DEFERRED, State.IN_DOUBT)
_WORDS = {
    State.SKIPPED: "had it already",
    State.INVALID: "with a problem",
    State.IN_DOUBT: "in doubt",
    State.REFUSED: "refused before",
}


def in_time(seconds: float) -> str:
    """Return a length of time in words: 4 s, 3 min, 2 h 5 min."""
    if seconds < 90:  # noqa: PLR2004 - a minute and a half reads better in seconds
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def far_text(progress: Progress) -> str:
    """Return how far a send is: ``120 of 249, 31/s, 4 s left, 1 failed``."""
    said = [f"{progress.done:,} of {progress.due:,}"]
    if progress.phase is Phase.SENDING and progress.rate:
        slow = progress.rate < 1
        said.append(f"{progress.rate * 60:,.0f}/min" if slow else f"{progress.rate:,.0f}/s")
    if progress.phase is Phase.SENDING and progress.remaining is not None:
        said.append(f"{in_time(progress.remaining)} left")
    if progress.failures:
        said.append(f"{progress.failures:,} failed")
    return ", ".join(said)


def rows(count: int) -> str:
    """Return a number of rows in words."""
    return f"{count:,} row{'' if count == 1 else 's'}"


def mails(count: int) -> str:
    """Return a number of mails in words."""
    return f"{count:,} mail{'' if count == 1 else 's'}"


def cell_text(value: Any) -> str | None:
    """Return a cell as text, or None for an empty one."""
    if (type(value) is not str and is_missing(value)) or value == "":
        return None
    text = str(value)
    return text if len(text) <= _CELL else f"{text[:_CELL]}…"


def check_text(progress: Progress, report: Report) -> str:
    """Return in one sentence what a check found."""
    had = report.counts.get(State.SKIPPED, 0) - report.suppressed
    if had > 0:
        left = "nothing is left" if not progress.due else f"{progress.due:,} {_are(progress.due)} left"
        return f"{rows(had)} had it already; {left}."
    if not progress.total:
        return "The frame has no rows."
    return f"{progress.due:,} of {rows(progress.total)} can be sent."


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def pills(progress: Progress, report: Report) -> str:
    """Return the counts of a check as badges."""
    counts = report.counts
    if report.suppressed:
        counts[State.SKIPPED] -= report.suppressed
    beyond = counts.get(State.PLANNED, 0) - progress.due
    said = [_html.badge("planned", f"{progress.due:,} to send")]
    said += [_html.badge("planned", f"{beyond:,} beyond the limit")] if beyond > 0 else []
    said += [
        _html.badge(state, f"{count:,} {_WORDS.get(state, str(state).replace('_', ' '))}")
        for state, count in counts.items()
        if state is not State.PLANNED and count
    ]
    said += [_html.badge("skipped", f"{report.suppressed:,} suppressed")] if report.suppressed else []
    return _html.card("".join(said))


def listed(lines: Sequence[str]) -> str:
    """Return lines as a list in HTML, or ""."""
    shown = [*lines[:_NOTES], *([f"… and {len(lines) - _NOTES:,} more"] if len(lines) > _NOTES else [])]
    return _html.card(_html.items(shown)) if shown else ""


def said(error: BaseException) -> tuple[str, str]:
    """Return an error as cause and fix."""
    if isinstance(error, MailError):
        return error.cause, error.fix
    return f"{type(error).__name__}: {error}", ""


def problem_rows(found: Report | None, first: int, last: int) -> list[Row]:
    """Return problems as rows of a Grid that are named by their position in the frame."""
    return [
        Row(
            str(outcome.row),
            (str(outcome.row), outcome.key, outcome.reason, outcome.fix),
            mark="bad" if outcome.state is State.INVALID else "",
        )
        for outcome in (found[first:last] if found is not None else ())
    ]


def sending_facts(
    progress: Progress,
    frame: str,
    sender: str,
    campaign: str,
    connection: Connection,
    *,
    key: str | Sequence[str] | None = None,
) -> list[tuple[str, str]]:
    """Return what a person has to know before a merge is sent: which rows, as whom, by which server, how fast."""
    counts = progress.report.counts if progress.report is not None else {}
    suppressed = progress.report.suppressed if progress.report is not None else 0
    left = [
        (counts.get(State.SKIPPED, 0) - suppressed, "had it already"),
        (suppressed, "suppressed"),
        (progress.problems, "with a problem, left out"),
        (counts.get(State.IN_DOUBT, 0), "in doubt, not sent again"),
        (counts.get(State.PLANNED, 0) - progress.due, "beyond the limit"),
    ]
    facts = [
        ("Rows", f"{progress.due:,} of {progress.total:,} in {frame}"),
        ("Not sent", "; ".join(f"{count:,} {words}" for count, words in left if count > 0)),
        ("From", sender or connection.sender or connection.user),
        ("Campaign", campaign),
        ("Key", key if isinstance(key, str) else ", ".join(key or ()) or "the address"),
        ("Server", in_words(connection)),
        ("Speed", _speed(connection, progress.due)),
    ]
    return [(name, value) for name, value in facts if value]


def _speed(connection: Connection, count: int) -> str:
    rates = parse_rates(connection.rate)
    if not rates:
        return "as fast as the server takes them"
    return f"{', '.join(map(str, rates))}: {in_time(least_seconds(rates, count))} or more"


def end_text(progress: Progress) -> tuple[str, str, str]:
    """Return how a send ended: its state, what happened, and what to do."""
    if progress.phase is Phase.FAILED and progress.error is not None:
        return "failed", *said(progress.error)
    left = progress.due - progress.done
    if progress.phase is Phase.STOPPED and progress.report is None:
        return "stopped", "Nothing was sent: it was stopped while the rows were checked once more.", ""
    if progress.phase is Phase.STOPPED:
        return (
            "stopped",
            f"{mails(progress.sent)} went, {rows(left)} {'was' if left == 1 else 'were'} not tried.",
            "",
        )
    first = next(iter(progress.report.failures.where(*_TRIED)), None) if progress.report is not None else None
    if not progress.failures or first is None:
        return "done", f"{mails(progress.sent)} went.", ""
    what = f"{mails(progress.sent)} went, {progress.failures:,} failed. Row {first.row}: {first.reason}"
    return "done" if progress.sent else "failed", what, first.fix
