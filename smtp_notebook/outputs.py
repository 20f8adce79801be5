"""Mail what a cell, a block or a function did: ``%email_output`` and `email_output`.

While it runs, a `recorder.Recording` hears what it prints and shows. When it is done, one mail is made by the
shared builder and handed to `api.send`. Nothing of this changes what the person sees or what the code raises,
and what goes wrong with the mail is one line on stderr.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal, Self, get_args

from smtp_notebook import api, servers
from smtp_notebook import connection as connections
from smtp_notebook.connection import Connection
from smtp_notebook.durations import seconds_of, spoken
from smtp_notebook.fields import check_field_names
from smtp_notebook.letters import LETTER
from smtp_notebook.message import Attachment, Message
from smtp_notebook.outcome import DeliveryError, MailError, OptionError, State
from smtp_notebook.pieces import FAILURE, as_piece, fit, monospace, note, reason, traceback_end
from smtp_notebook.recorder import Printed, Recording, Shown, listen, origin
from smtp_notebook.render import Fragment, render, shows_itself
from smtp_notebook.screen import plain
from smtp_notebook.template import Template

__all__ = ["WHEN", "OutputMail", "Settings", "arm", "disarm", "email_output", "seconds_of"]

#: What a run takes for the time, in seconds; only differences count. A test may exchange it.
CLOCK: Callable[[], float] = time.monotonic

When = Literal["always", "error", "success"]
WHEN: tuple[str, ...] = get_args(When)
CELL, BLOCK = "Cell", "Block"
_MAX_VALUE = 20_000


# -------------------------------------------------------------------------------------------- decisions


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How something ended.

    Attributes:
        what: What it was: ``Cell``, ``Block``, or a function's name.
        seconds: How long it took.
        error: What it raised, or None.
        place: Where it stands: the notebook and the cell's number, or "".
    """

    what: str
    seconds: float
    error: BaseException | None = None
    place: str = ""

    @property
    def state(self) -> Literal["finished", "failed", "interrupted"]:
        """In a word. An interrupt reaches a cell that awaits as a CancelledError."""
        if isinstance(self.error, KeyboardInterrupt | asyncio.CancelledError | GeneratorExit):
            return "interrupted"
        if self.error is None or (isinstance(self.error, SystemExit) and self.error.code in {None, 0}):
            return "finished"
        return "failed"

    @property
    def headline(self) -> str:
        """The outcome in one line."""
        took = spoken(self.seconds)
        match self.state:
            case "finished":
                return f"✓ {self.what} finished in {took}"
            case "interrupted":
                return f"✗ {self.what} interrupted after {took}"
            case _:
                return f"✗ {self.what} failed after {took}: {reason(self.error)}"

    @property
    def subject(self) -> str:
        """The subject where nobody gave one."""
        if self.state == "failed":
            return f"{self.what} failed: {reason(self.error)}"
        return self.headline[2:]


def is_due(ended: Ended, on: str, min_seconds: float) -> bool:
    """Tell whether it is to be mailed; what was interrupted counts as no success."""
    if ended.seconds < min_seconds:
        return False
    return on == "always" or (on == "success") == (ended.state == "finished")


# ---------------------------------------------------------------------------------------- what is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is asked for, checked.

    Args:
        fields: Fields of the mail, the body's aside.
        fill: Makes a Message of fields: `Message`, or what fills templates. Called at the end, so that it
            sees what the code made.
        via: The server, as in `send`.
        on: ``always``, ``error`` or ``success``.
        min_duration: What took less is not mailed; see `seconds_of`.

    Raises:
        OptionError: A field or word that does not exist, or no recipient.
    """

    fields: Mapping[str, Any]
    fill: Callable[..., Message] = Message
    via: Any = None
    on: str = "always"
    min_duration: str | float | dt.timedelta = 0
    min_seconds: float = field(init=False)

    def __post_init__(self) -> None:
        check_field_names(self.fields)
        for name in ("body", "format", "inline"):
            if name in self.fields:
                raise OptionError(f"{name}: the mail's text is what the code did.", "Leave it out.")
        if not any(self.fields.get(name) for name in ("to", "cc", "bcc")):
            raise OptionError("Nobody is named who gets the mail.", "Give to= or --to.")
        if self.on not in WHEN:
            raise OptionError(f"on: {self.on!r} is none of {', '.join(WHEN)}.")
        object.__setattr__(self, "min_seconds", seconds_of(self.min_duration))

    def server(self) -> Connection | None:
        """Return the server as far as it is named now, its password found or asked for; None when it is not.

        Raises:
            MailError: It cannot be used as asked: said before the work begins, not after it.
        """
        named = connections.current() or connections.from_environment(os.environ)
        return servers.find_server(self.via).connection if self.via is not None or named is not None else None


# -------------------------------------------------------------------------------------------- the mail


_CONTENT = """\
<h2>{{ headline }}</h2>
{% if place %}
<p>{{ place }}</p>
{% endif %}
{% for part in parts %}
<p>{{ part }}</p>
{% endfor %}
"""


@functools.cache
def _letter() -> Template:
    return Template(body=LETTER.dress(_CONTENT), format="html")


def letter(
    settings: Settings, ended: Ended, pieces: Iterable[Printed | Shown], value: object = None
) -> Message:
    """Return the mail: the outcome first, then what was printed and shown, in order.

    Args:
        settings: Whom it goes to, and how.
        ended: The outcome.
        pieces: What was recorded.
        value: The object that the last expression gave: a table is mailed as it is, not as it was shown.

    What is only part of it never keeps the mail back: a display that cannot be shown, a file that the code
    did not make or a subject that cannot be filled is named in a line.
    """
    fields = {k: v for k, v in settings.fields.items() if v is not None}
    subject, files = fields.pop("subject", None), fields.pop("attach", None)
    message = settings.fill(**fields)
    notes: list[Fragment] = []
    attached: list[Attachment] = []
    for item in files if isinstance(files, list | tuple) else filter(None, [files]):
        try:
            attached += settings.fill(attach=[item]).attach
        except MailError as error:
            notes.append(note(f"Not attached: {error}"))
    title = ended.subject
    if subject:
        try:
            title = settings.fill(subject=subject).subject
        except MailError as error:
            notes.append(note(f"The subject could not be filled in: {error}"))
    parts = [fit(p) for p in (*notes, *_parts(list(pieces), ended.error, value))]
    shown = _letter().fill(values={"headline": ended.headline, "place": ended.place, "parts": parts})
    body = {name: getattr(shown, name) for name in ("body", "format", "html", "inline")}
    # The twin that is made of HTML would indent the first line of what is monospaced.
    text = "\n\n".join(filter(None, [ended.headline, ended.place, *(p.text for p in parts)]))
    return message.with_(subject=title, attach=attached, text=f"{text}\n", **body)


def _parts(pieces: list[Printed | Shown], error: BaseException | None, value: object) -> list[Fragment]:
    found: list[Fragment] = []
    last = next((p for p in reversed(pieces) if isinstance(p, Shown) and p.kind == "value"), None)
    for piece in pieces:
        found += as_piece(piece, value if piece is last else None)
    told = any(isinstance(p, Shown) and p.error is error for p in pieces)
    if error is not None and not told:
        found += _failure(_formatted(error))
    elif error is None and last is None and value is not None:
        found.append(_returned(value))
    return found


def _returned(value: object) -> Fragment:
    """Return what a function returned, as a notebook would show it."""
    try:
        if shows_itself(value) or any(hasattr(type(value), f"_repr_{k}_") for k in ("mimebundle", "html")):
            return render(value)
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - it is somebody's __repr__
        return note(f"What was returned cannot be shown: {reason(error)}")
    more = len(text) - _MAX_VALUE
    return monospace([*plain(text[:_MAX_VALUE]), *([f"… {more:,} characters left out"] if more > 0 else [])])


def _failure(text: str) -> list[Fragment]:
    return [monospace(traceback_end(plain(text)), FAILURE)]


def _formatted(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - an exception may break its own formatting
        return reason(error)


# -------------------------------------------------------------------------------------------- one run


class Job:
    """One run of something that is recorded, and mailed when it is done."""

    def __init__(
        self, settings: Settings, what: str, hears: Callable[[object], bool], shell: Any = None
    ) -> None:
        self.settings = settings
        self.what = what
        self._server = settings.server()
        self._recording = Recording(hears)
        self._started = CLOCK()
        self._stop = listen(self._recording, shell)

    def stop(self) -> None:
        """Hear nothing more."""
        self._stop()

    @property
    def via(self) -> Connection | None:
        """The server to use now: what was named for this, else what the notebook names by now."""
        return None if self.settings.via is None and connections.current() is not None else self._server

    def message(
        self, error: BaseException | None = None, value: object = None, place: str = ""
    ) -> Message | None:
        """Return the mail about what ended now, or None when there is none to be sent."""
        ended = Ended(what=self.what, seconds=CLOCK() - self._started, error=error, place=place)
        self.stop()
        if not is_due(ended, self.settings.on, self.settings.min_seconds):
            return None
        return letter(self.settings, ended, self._recording.take(), value)

    def mail(self, error: BaseException | None = None, value: object = None, place: str = "") -> None:
        """Send the mail; what goes wrong with it is told in one line."""
        try:
            message = self.message(error, value, place)
            if message is not None:
                api.send(message, via=self.via)
        except Exception as problem:  # noqa: BLE001 - the code's own result comes first, whatever this is
            self.tell(problem)

    async def amail(self, error: BaseException | None = None, value: object = None) -> None:
        """Do what `mail` does, awaited."""
        try:
            message = self.message(error, value)
            if message is not None:
                await api.asend(message, via=self.via)
        except Exception as problem:  # noqa: BLE001 - as in mail
            self.tell(problem)

    def tell(self, problem: BaseException) -> None:
        """Say in one line that the mail did not go, or may not have."""
        text = str(problem) if isinstance(problem, MailError) else reason(problem)
        outcome = problem.outcome if isinstance(problem, DeliveryError) else None
        maybe = outcome is not None and outcome.state in {State.PARTIAL, State.IN_DOUBT}
        sure = "may not have reached everybody" if maybe else "was not sent"
        what = f"this {self.what.lower()}" if self.what in {CELL, BLOCK} else self.what
        print(f"The mail about {what} {sure}: {' '.join(text.split())}", file=sys.stderr)  # noqa: T201 - the person has to know


# -------------------------------------------------------------------------------------- IPython's cells


class Armed:
    """A cell whose end is mailed."""

    def __init__(self, shell: Any, settings: Settings) -> None:
        self._shell = shell
        # IPython gives the running cell's result to the display hook; None outside a cell.
        cell = shell.displayhook.exec_result
        self._info = None if cell is None else cell.info
        if self._info is not None and self._info.silent:
            raise OptionError("This cell runs silently: there is no output to mail.")
        ours = origin(shell.displayhook)
        self._job = Job(settings, CELL, lambda source: origin(source) in {None, ours}, shell)
        shell.events.register("post_run_cell", self.over)

    def stop(self) -> None:
        """Mail nothing, and take every hook away."""
        self._job.stop()
        if self.over in self._shell.events.callbacks["post_run_cell"]:
            self._shell.events.unregister("post_run_cell", self.over)

    def over(self, result: Any) -> None:
        """Mail the cell that ended; figures were shown in post_execute, before."""
        if result is not None and self._info is not None and result.info.raw_cell != self._info.raw_cell:
            return  # a cell that was run inside this one
        self.stop()
        error = sys.exc_info()[1] if result is None else result.error_before_exec or result.error_in_exec
        number = getattr(result, "execution_count", None) if result and result.info.store_history else None
        try:
            self._job.mail(error, getattr(result, "result", None), place(notebook(self._shell), number))
        except KeyboardInterrupt as interrupt:
            self._job.tell(interrupt)


def arm(shell: Any, settings: Settings) -> None:
    """Have the rest of the running cell mailed when it is done."""
    Armed(shell, settings)


def disarm(shell: Any) -> None:
    """Mail nothing of what is armed in *shell*."""
    for callback in list(shell.events.callbacks["post_run_cell"]):
        armed = getattr(callback, "__self__", None)
        if isinstance(armed, Armed):
            armed.stop()


def notebook(shell: Any) -> str:
    """Return the running notebook's name where its server says it, or ""."""
    names = [os.environ.get("JPY_SESSION_NAME"), shell.user_ns.get("__vsc_ipynb_file__")]
    found = (PurePath(n).name for n in names if isinstance(n, str) and n.endswith(".ipynb"))
    return next(found, "")


def place(name: str, number: int | None) -> str:
    """Return where a cell stands: the notebook's name and the cell's number, as far as they are known."""
    return ", ".join(filter(None, [name, f"cell [{number}]" if number else ""]))


# ------------------------------------------------------------------------------- blocks and functions


_RUNNING: ContextVar[tuple[_Block, ...]] = ContextVar("smtp_notebook_blocks", default=())


class _Block:
    """One run of a block or function. What other tasks and threads print meanwhile is none of its."""

    def __init__(self, settings: Settings, what: str) -> None:
        self._settings = settings
        self._what = what
        self.value: object = None

    def begin(self) -> None:
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython is not None else None
        self._job = Job(self._settings, self._what, lambda _: self in _RUNNING.get(), shell)
        _RUNNING.set((*_RUNNING.get(), self))

    def _leave(self) -> None:
        self._job.stop()
        _RUNNING.set(tuple(b for b in _RUNNING.get() if b is not self))

    def end(self, error: BaseException | None) -> None:
        self._leave()
        self._job.mail(error, self.value)

    async def aend(self, error: BaseException | None) -> None:
        self._leave()
        await self._job.amail(error, self.value)

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.end(error)

    async def __aenter__(self) -> Self:
        self.begin()
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        await self.aend(error)


class OutputMail:
    """What `email_output` gives: a context manager and a decorator; each use of it is one mail."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: list[_Block] = []

    def _begin(self) -> Self:
        block = _Block(self._settings, BLOCK)
        block.begin()
        self._open.append(block)
        return self

    def _newest(self) -> _Block:
        """Return the block that ends: tasks may share one of these, so each looks among its own first."""
        mine = [b for b in _RUNNING.get() if b in self._open] or self._open
        self._open.remove(mine[-1])
        return mine[-1]

    def __enter__(self) -> Self:
        return self._begin()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._newest().end(error)

    async def __aenter__(self) -> Self:
        return self._begin()

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        await self._newest().aend(error)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return *function*, each call of which is mailed with what it returned.

        Raises:
            OptionError: It is no function, or one that yields: it would be over before it began.
        """
        yields = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        if yields or inspect.isclass(function) or not callable(function):
            cause = f"@email_output(…) cannot stand above {'what yields' if yields else 'this'}."
            raise OptionError(cause, "Decorate a function, or write with email_output(…): around the code.")
        what = getattr(function, "__name__", "Call")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                async with _Block(self._settings, what) as block:
                    block.value = await function(*args, **kwargs)
                return block.value

            return awaited

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with _Block(self._settings, what) as block:
                block.value = function(*args, **kwargs)
            return block.value

        return called


def email_output(
    to: Any = None,
    *,
    via: Any = None,
    on: When = "always",
    min_duration: str | float | dt.timedelta = 0,
    attach_root: Any = None,
    **fields: Any,
) -> OutputMail:
    """Mail what a block or a function printed, showed and returned, or its traceback, when it is done.

    ::

        with email_output(to="me@example.com", min_duration="10m"):
            train()

        @email_output(to="me@example.com", on="error")
        async def nightly(): ...

    Args:
        to: Who gets the mail.
        via: The server, as in `send`; found when the work begins, so that no password is asked for at its end.
        on: ``always``, only on an ``error`` (an interrupt too), or only on ``success``.
        min_duration: What took less is not mailed: ``90s``, ``10m``, ``1h30m``, or seconds.
        attach_root: The folder that paths in ``attach=`` must stay in; the working one by default.
        **fields: ``cc bcc reply_to from_ subject importance attach headers …``, as in `send`. Files are read
            at the end; one that is not there then is named in the mail.

    The mail has the newest 500 lines or 40,000 characters, and the newest 50 displays or 8 MB of them; what is
    left out is counted. In a notebook displays are mailed too: show a figure inside the block. What other tasks
    and threads print is not the block's. Everything still appears where it did, exceptions go on as they are,
    and a mail that cannot be sent is told in one line on stderr. The exit waits until the server has answered;
    ``async with`` and decorated coroutines await it.

    Raises:
        OptionError: An option that does not exist, or nobody to mail.
        MailError: An address, or when it begins the server, cannot be used as asked; nothing was run.
    """
    if callable(to):
        raise OptionError("email_output needs an address.", 'Write @email_output(to="me@example.com").')
    fill = functools.partial(Message, attach_root=attach_root)
    settings = Settings(fields={"to": to, **fields}, fill=fill, via=via, on=on, min_duration=min_duration)
    fill(**{k: v for k, v in settings.fields.items() if k != "attach" and v is not None})
    return OutputMail(settings)
