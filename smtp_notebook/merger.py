"""A form for a whole merge: choose the rows, write the template, look at each mail, check all, send, stop, resume.

It holds no rule. A row is shown by what `api.preview` does, checked and sent by a `MergeJob`, and what the form asks
for is written as the same `mail_merge` call by `form.code()`. Clicks return at once: rows are rendered, checked and
sent in other threads, and nothing prompts there.

A check belongs to one state of the form. Each edit makes another, so what a check says of an older one is dropped,
and only what was checked as it stands can be confirmed and sent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets as w

from smtp_notebook import _sync, api, orders, servers
from smtp_notebook.cells import merge_cell
from smtp_notebook.connection import Connection
from smtp_notebook.fields import check_field_names
from smtp_notebook.frames import Frame, guess_address_column, guess_key_column
from smtp_notebook.jobs import MergeJob, Phase, Progress
from smtp_notebook.journal import Journal
from smtp_notebook.message import Message
from smtp_notebook.outcome import (
    MailError,
    MergeRefusedError,
    MessageError,
    OptionError,
    PreflightError,
    Report,
    State,
    TemplateError,
)
from smtp_notebook.parts import Code, Editor, Facts, Grid, Pane, Status
from smtp_notebook.picker import FrameChoice, pasted, size_of
from smtp_notebook.template import Template
from smtp_notebook.views import source_text, view_of
from smtp_notebook.widgets import Form, Latest, ServerChoice, columns, heading, in_words, indented, row_of
from smtp_notebook.wording import (
    cell_text,
    check_text,
    end_text,
    far_text,
    listed,
    mails,
    pills,
    problem_rows,
    rows,
    said,
    sending_facts,
)

__all__ = ["MergeForm", "merge_form"]

#: A check begins so many seconds after the last edit.
SETTLE = 0.5
#: So many problems are shown at first, and again each time that more are asked for.
PROBLEMS = 100
_FORMATS = (
    ("as the template says", ""),
    ("Markdown", "markdown"),
    ("HTML", "html"),
    ("Text", "text"),
)
_OWN = ("subject", "from_", "format")
#: The forms that are sending: the cell of a form may run again, and take its Stop off the screen.
_SENDING: weakref.WeakSet[MergeForm] = weakref.WeakSet()


def merge_form(
    df: Any = None,
    template: Template | str | Path | None = None,
    *,
    campaign: str = "",
    key: str | Sequence[str] | None = None,
    via: Any = None,
    values: Mapping[str, Any] | None = None,
    journal: Journal | str | Path | None = None,
    test_to: str = "",
    limit: int | None = None,
    **fields: Any,
) -> MergeForm:
    """Return a form for a whole merge; it displays itself.

    Args:
        df: The rows that are chosen at first, as in `mail_merge`; every other frame of the notebook can be chosen too.
        template: As in `mail_merge`. A file is read once, and again when Reload is pressed; the form never writes it.
        campaign: The mailing's name. Given here, it is there again after a restart: then the form says how many rows
            went already, and its button sends the rest.
        key: The column or columns that identify a row. By default one that is called id, key or the like and has
            no value twice, else the address.
        via: The server that is chosen at first, as in `send`.
        values: More names for the template, functions too. Those are called in other threads than the cell's, one at
            a time, for the row that is shown and for every row that is checked; where there are any, a check runs
            only when it is asked for.
        journal: As in `mail_merge`.
        test_to: Where "Send this one to me" sends; by default the server's sender.
        limit: Send only this many rows; None for all.
        **fields: Fields that win over the template's, as in `mail_merge`.

    ``form.report`` is the last Report, ``form.message`` the mail of the row that is shown, ``form.template`` the
    Template as edited, ``form.code()`` the cell that does the same, and ``form.wait()`` waits until all is done.

    Raises:
        OptionError: A field that does not exist.
        TemplateError: The template has an error, or its file cannot be read.
        MergeRefusedError: *df* is no frame.
    """
    return MergeForm(
        df, template, campaign=campaign, key=key, via=via, values=values, journal=journal, test_to=test_to,
        limit=limit, **fields,
    )  # fmt: skip


# ------------------------------------------------------------------------------------ what is checked


@dataclass(frozen=True, slots=True)
class _Order:
    """What is checked and then sent, as the form held it after so many edits."""

    edit: int
    df: Any
    template: Template
    options: Mapping[str, Any]
    connection: Connection
    turn: _sync.Turn

    def job(self, tell: Callable[[Progress], object], **more: Any) -> MergeJob:
        options = {**self.options, "via": self.connection, **more}
        return MergeJob(self.df, self.template, tell=tell, turn=self.turn, **options)


@dataclass(frozen=True, slots=True)
class _Checked:
    """An order, and what its check found."""

    order: _Order
    progress: Progress


# ------------------------------------------------------------------------------------------ the form


class MergeForm(Form):
    """The form; see `merge_form`.

    Attributes:
        report: The Report of the last send; before the first one, of the last check; None before that.
    """

    def __init__(
        self,
        df: Any = None,
        template: Template | str | Path | None = None,
        *,
        campaign: str = "",
        key: str | Sequence[str] | None = None,
        via: Any = None,
        values: Mapping[str, Any] | None = None,
        journal: Journal | str | Path | None = None,
        test_to: str = "",
        limit: int | None = None,
        **fields: Any,
    ) -> None:
        check_field_names(fields)
        orders.Options(campaign=campaign, limit=limit)
        if df is not None:
            Frame(df)
        self._ready = False
        super().__init__()
        self.add_class("smtpnb-merge")
        self.report: Report | None = None
        self._lock = threading.RLock()
        self._turn = _sync.Turn()
        self._edits = 0
        self._busy = self._closed = False
        self._checked: _Checked | None = None
        self._checker: MergeJob | None = None
        self._sender: MergeJob | None = None
        self._tester: MergeJob | None = None
        self._problem_report: Report | None = None
        self._made: tuple[Any, Template, bool] | None = None
        self._frame: Frame | None = None
        self._keyed = self._stopping = False
        self._key_given = key if isinstance(key, str | None) else tuple(key)
        self._values = dict(values or {})
        self._journal = journal
        self._looks, self._checks, self._watch = (Latest(self.failed) for _ in range(3))
        self._build(df, via, campaign, limit, test_to)
        self._fill(template, fields)
        # Functions may be slow, or cost something: they are called for every row when a person wants that.
        self._auto.value = not any(map(callable, (*self._all_values.values(), self._base.event)))
        self._frame_changed()
        self._show_problems(None)
        self._suggest("")
        self._rest.layout.display = self._skip.layout.display = "none"
        self._me.value = self._me.value or self.connection.sender
        self._observe()
        self._arrange()
        self._ready = True
        self._say_who_sends()
        self._edited(settle=0.0)

    def __repr__(self) -> str:
        name = f"{self._frames.name}: {size_of(self._frames.data)}" if self._frame is not None else "no frame"
        with self._lock:
            found = self._checked
        counts = ""
        if found is not None:
            progress = found.progress
            counts = f", {progress.due:,} to send"
            counts += f", {progress.problems:,} with a problem" if progress.problems else ""
        sent = f", {self.report.summary}" if self.report is not None and self._sender is not None else ""
        return f"<MergeForm {name}{counts}{sent}; {in_words(self.connection)}>"

    # ------------------------------------------------------------------------------------- pieces

    def _build(self, df: Any, via: Any, campaign: str, limit: int | None, test_to: str) -> None:
        self._frames = FrameChoice(df)
        self._path = w.Text(description="File", placeholder="letters/welcome.md")
        self._load = w.Button(description="Load", tooltip="Read the template file into the editor")
        self._subject = w.Text(description="Subject", placeholder="as the template says")
        self._from = w.Text(description="From", placeholder="as the template or the server says")
        self._format = w.Dropdown(options=_FORMATS, description="Format")
        self._editor = Editor(label="Template", hint="Dear {{ FirstName }}, …", rows=16)
        self._also = Status()
        self._to = w.Dropdown(description="To")
        self._to_said = Status()
        self._key = w.Dropdown(description="Key")
        self._previous = w.Button(description="Previous", tooltip="Show the row before")
        self._next = w.Button(description="Next", tooltip="Show the next row")
        self._row = w.BoundedIntText(description="Row", min=0, max=0)
        self._of = w.Label()
        self._cells = Facts(label="Cells of the row", empty="No row is here.", height=180)
        self._preview = Pane()
        self._me = w.Text(description="My address", value=test_to, placeholder="me@example.com")
        self._me_button = w.Button(description="Send this one to me")
        self._me_status = Status()
        self._auto = w.Checkbox(value=True, description="Check after each change", indent=False)
        self._check_button = w.Button(description="Check all rows")
        self._check_status = Status()
        self._counts = w.HTML()
        self._problems = Grid(
            "Rows with a problem", ("row", "key", "what is wrong", "what to do"), more=self._more, height=260
        )
        self._problems.empty = ""
        self._notes = w.HTML()
        self._server = ServerChoice(via, changed=self._server_changed)
        self._campaign = w.Combobox(
            description="Campaign", value=campaign, placeholder="a name for this mailing", ensure_option=False
        )
        self._named = Status()
        self._name_button = w.Button(description="Use this name")
        self._limit = w.Text(
            description="Limit", value="" if limit is None else str(limit), placeholder="all rows"
        )
        self._skip = w.Checkbox(description="Send the good rows and leave the others out", indent=False)
        self._rest = w.Checkbox(
            description="Send the rest although this has changed since the campaign began", indent=False
        )
        self._send_button = w.Button(description="Send", button_style="primary", disabled=True)
        self._stop_button = w.Button(description="Stop", button_style="danger", disabled=True)
        self._copy_button = w.Button(description="Copy as code")
        self._code = Code()
        self._shown_report = w.HTML()
        self._other = Status()
        self._other_stop = w.Button(description="Stop that one", button_style="danger")
        self._other_box = w.VBox([self._other, self._other_stop])

    def _arrange(self) -> None:
        left = [
            heading("Rows and template"),
            *(self._frames, row_of(self._path, self._load), self._subject, self._from, self._format),
            *(self._editor, indented(self._also), self._to, indented(self._to_said), self._key),
        ]
        steps = row_of(self._previous, self._row, self._of, self._next)
        steps.add_class("smtpnb-steps")
        right = [
            heading("One row and its mail"),
            steps,
            *(self._cells, self._preview, self._me, indented(self._me_button, self._me_status)),
        ]
        check = [
            heading("Check"),
            row_of(self._check_button, self._auto),
            *(self._check_status, self._counts, self._problems, self._notes),
        ]
        chosen = [
            *(self._server, self._campaign, indented(row_of(self._named, self._name_button)), self._limit),
        ]
        done = [
            *(self._skip, self._rest, row_of(self._send_button, self._stop_button, self._copy_button)),
            *(self.ask, self.secret, self.status, self._other_box),
        ]
        self.fill(
            [
                columns(left, right),
                *check,
                heading("Send"),
                columns(chosen, done),
                self._code,
                self._shown_report,
            ],
        )

    def _observe(self) -> None:
        changed = self.guard(lambda _: self._frame_changed())
        self._frames.changed = lambda: changed(None)
        for widget in (
            *(self._subject, self._from, self._format, self._editor, self._to, self._key),
            *(self._campaign, self._limit, self._rest),
        ):
            widget.observe(self.guard(lambda _: self._edited()), names="value")
        self._row.observe(self.guard(lambda _: self._step(0)), names="value")
        self._skip.observe(self.guard(lambda _: self._buttons()), names="value")
        self._auto.observe(self.guard(lambda _: self._auto_changed()), names="value")
        self._problems.observe(self.guard(lambda change: self._jump(change["new"])), names="selected")
        self._path.observe(self.guard(lambda _: self._name_load()), names="value")
        presses: tuple[tuple[Any, Callable[[], object]], ...] = (
            (self._frames.button, lambda: self._frames.look(anew=True)),
            (self._load, self._ask_to_load),
            (self._previous, lambda: self._step(-1)),
            (self._next, lambda: self._step(1)),
            (self._me_button, self._send_one),
            (self._check_button, self._check_soon),
            (self._name_button, self._use_name),
            (self._send_button, self._ask_to_send),
            (self._stop_button, self.stop),
            (self._copy_button, self._show_code),
            (self._other_stop, self._stop_others),
        )
        for button, action in presses:
            button.on_click(self._pressed(action))

    def _pressed(self, action: Callable[[], object]) -> Callable[[Any], None]:
        return self.guard(lambda _: action())

    # ----------------------------------------------------------------------------------- template

    def _fill(self, template: Template | str | Path | None, fields: Mapping[str, Any]) -> None:
        """Show a template, and the fields of it that have a place of their own."""
        given = {name: value for name, value in fields.items() if value is not None}
        own = {
            name: str(given.pop(name)) for name in ("subject", "from_") if isinstance(given.get(name), str)
        }
        kind = str(given.pop("format", "")).strip().lower()
        if kind not in {value for _, value in _FORMATS}:
            raise OptionError(f"format: {kind!r} is no format.", "It is markdown, html or text.")
        if template is None and isinstance(given.get("body"), str):
            template = str(given.pop("body"))
        self._given = given
        self._subject.value, self._from.value = own.get("subject", ""), own.get("from_", "")
        self._format.value = kind
        self._base = Template()
        self._shown = ""
        self._file: Path | None = None
        if template is not None:
            self._show_template(template)

    def _show_template(self, template: Template | str | Path) -> None:
        """Show a Template, a file or a text in the editor."""
        made = self._read(template)
        self._base = made
        # A file's carriage returns do not survive a browser; what nobody edited stays as it was read.
        self._shown = made.source.replace("\r\n", "\n").replace("\r", "\n")
        self._file = made.parsed.root / made.parsed.name if made.parsed.root is not None else None
        if self._file is not None:
            self._path.value = str(self._file)
        self._name_load()
        self._editor.put(self._shown)
        also = sorted(set(made.parsed.given) - {"format"})
        said = f"Given in Python: {', '.join(name.rstrip('_') for name in also)}." if also else ""
        self._also.say("", said, "The body is not this text." if "body" in also else "")

    def _read(self, template: Template | str | Path) -> Template:
        def read(**more: Any) -> Template:
            if isinstance(template, Template):
                return template.with_(**self._given, **more)
            return Template(template, **self._given, **more)

        try:
            return read()
        except TemplateError:
            if not self._format.value:
                raise
            return read(format=self._format.value)

    def _name_load(self) -> None:
        same = self._file is not None and self._path.value.strip() == str(self._file)
        self._load.description = "Reload" if same else "Load"

    def _ask_to_load(self) -> None:
        path = self._path.value.strip()
        if not path:
            raise TemplateError("No file is named.", "Type a template file's path, as the kernel sees it.")
        if self._editor.value.strip() in {"", self._shown.strip()}:
            self._load_file(path)
            return
        self.ask.ask(
            f"Load {path}? What was typed into the template is lost.",
            (),
            "Load it",
            lambda: self._load_file(path),
        )

    def _load_file(self, path: str) -> None:
        self._show_template(Path(path))
        self._edited()

    def _compiled(self) -> tuple[Template, bool]:
        """Return the Template as edited, and whether it has a To of its own; compiled once for each edit."""
        own = (self._subject.value, self._from.value.strip(), self._format.value)
        state = (self._base, self._editor.value, own, self._to.value)
        with self._lock:
            if self._made is not None and self._made[0] == state:
                return self._made[1:]
        base, text, _, column = state
        filled = {name: value for name, value in zip(_OWN, own, strict=True) if value}
        if text != self._shown:
            made = base.with_source(text, **filled)
        else:
            made = base.with_(**filled) if filled else base
        has_to = "to" in made.fields
        if not has_to and column:
            made = made.with_(to=_address_in(column))
        with self._lock:
            self._made = (state, made, has_to)
        return made, has_to

    @property
    def template(self) -> Template:
        """The Template as edited, with the To that is chosen.

        Raises:
            TemplateError: It has an error; says the line.
            MergeRefusedError: Nothing says whom the mails go to.
        """
        made, _ = self._compiled()
        if "to" not in made.fields:
            cause = "Nothing says which column has the addresses."
            raise MergeRefusedError(cause, "Choose it under To, or write to: in the template's head.")
        return made

    @property
    def _all_values(self) -> dict[str, Any]:
        return {**self._base.values, **self._values}

    # -------------------------------------------------------------------------------------- frame

    def _frame_changed(self) -> None:
        data = self._frames.data
        try:
            self._frame = Frame(data) if data is not None else None
        except MailError:
            self._frame = None
            raise
        finally:
            self._show_columns()
            self._edited()

    def _show_columns(self) -> None:
        names = self._frame.columns if self._frame is not None else []
        try:
            to, why = guess_address_column(names), ""
        except MergeRefusedError as error:
            to, why = "", error.cause if names else ""
        before = self._to.value
        to = before if before in names else to
        self._guessed, self._unguessed = to, why
        self._to.options = [*([] if to else [("choose a column", "")]), *((n, n) for n in names)]
        self._to.value = to
        given = self._key_given
        more = [(given if isinstance(given, str) else ", ".join(given), given)] if given else []
        # "" is a choice, too: the address. Only where nobody has chosen yet is there a guess.
        chosen = self._key.value if self._keyed and self._key.value in {"", given, *names} else None
        guess = guess_key_column(self._frame) if self._frame is not None else ""
        key = (given or guess) if chosen is None else chosen
        self._keyed = self._keyed or self._frame is not None
        options = [("the address", ""), *((n, n) for n in names if n != given), *more]
        self._key.options = options
        self._key.value = key if key in [value for _, value in options] else ""
        self._editor.inserts = [[name, pasted(name)] for name in names]
        last = max(0, len(self._frame) - 1) if self._frame is not None else 0
        self._row.value = min(self._row.value, last)
        self._row.max = last
        self._of.value = f"of {len(self._frame):,}" if self._frame is not None else ""

    # ---------------------------------------------------------------------------------------- row

    def _step(self, by: int) -> None:
        """Show another row, or the same anew."""
        self._row.value = min(max(self._row.value + by, 0), self._row.max)
        frame, row = self._frame, self._row.value
        self._previous.disabled = row <= 0
        self._next.disabled = row >= self._row.max
        cells = frame.row(row) if frame is not None and len(frame) else {}
        self._cells.show((name, cell_text(value)) for name, value in cells.items())
        self._looks.ask(self._look)

    def _jump(self, chosen: str) -> None:
        if chosen:
            self._row.value = int(chosen)

    def _look(self) -> None:
        """Show the mail of the row; in a thread of its own."""
        if self._frame is None:
            self._preview.say("Choose a frame: each of its rows makes a mail.")
            return
        try:
            made, own = self._compiled()
        except MailError as error:
            self._editor.problem = str(error)
            self._preview.say(str(error))
            return
        self._editor.problem, self._editor.format = "", made.format
        self._say_to(own=own)
        if not len(self._frame):
            self._preview.say("The frame has no rows.")
            return
        try:
            message = self.message
        except MailError as error:
            self._preview.say(str(error))
        except Exception as error:
            self._preview.say(f"Row {self._row.value}: {type(error).__name__}: {error}")
            raise
        else:
            self._preview.show(view_of(message), lambda: source_text(message.as_bytes()))

    def _say_to(self, *, own: bool) -> None:
        """Say where the addresses come from: the template's own To wins over a column."""
        self._to.layout.display = "none" if own else None
        self._to_said.say(
            "", "To: from the template." if own else self._unguessed if not self._to.value else ""
        )

    @property
    def message(self) -> Message:
        """The mail of the row that is shown, rendered now.

        Raises:
            MailError: There is none; says why.
        """
        if self._frame is None:
            raise MergeRefusedError("No frame is chosen.", "Choose one under Frame.")
        connection = self.connection
        # The rows that are checked or sent meanwhile may draw into the same figure.
        with self._turn:
            message = api.row_message(
                self._frame, self.template, self._row.value, connection, values=self._all_values
            )
        sender = connection.sender or (connection.user if "@" in connection.user else "")
        return message if message.from_ is not None or not sender else message.with_(from_=sender)

    @property
    def connection(self) -> Connection:
        """The server that is chosen."""
        return self._server.connection

    # -------------------------------------------------------------------------------------- check

    def _edited(self, *, settle: float | None = None) -> None:
        """Take in that the form holds something else now: no check is about it, and nothing can be sent."""
        if not self._ready:
            return
        with self._lock:
            self._edits += 1
            self._checked = None
            self.ask.answer(yes=False)
            self.secret.cancel()
            if not self._auto.value and not self._busy:
                self._check_status.say("note", "Not checked since the last change.")
                self._check_status.far_is(0, 0, "")
            if self._checker is not None:
                self._checker.stop()
            self._buttons()
        self._step(0)
        if self._auto.value:
            self._checks.ask(self._check, after=SETTLE if settle is None else settle)

    def _auto_changed(self) -> None:
        if self._auto.value:
            self._check_soon()

    def _check_soon(self) -> None:
        self._checks.ask(self._check)

    def _server_changed(self) -> None:
        if not self._ready:
            return
        if not self._me.value:
            self._me.value = self.connection.sender
        self._edited()

    def _missing(self) -> tuple[str, str] | None:
        """Return what has to be there before anything can be checked, and what to do; or None."""
        if self._frames.data is None or self._frame is None:
            return "No frame is chosen.", "Choose one under Frame."
        if not self._editor.value.strip() and "body" not in self._base.parsed.given:
            return "There is no template yet.", "Write one, or load a file."
        return None

    def _order(self, edit: int) -> _Order:
        """Return what the form asks for.

        Raises:
            MailError: It does not yet; says what is missing.
        """
        if missing := self._missing():
            raise MergeRefusedError(*missing)
        options = {**self._options(), "values": self._all_values, "journal": self._journal}
        return _Order(edit, self._frames.data, self.template, options, self.connection, self._turn)

    def _options(self) -> dict[str, Any]:
        """Return the options of `mail_merge` that are chosen and can be written down."""
        limit = self._limit.value.strip()
        if limit and not limit.isdecimal():
            raise OptionError(
                f"The limit {limit!r} is no number of rows.", "Type a whole number, or nothing."
            )
        return {
            "campaign": self._campaign.value.strip(),
            "key": self._key.value or None,
            "limit": int(limit) if limit else None,
            "changed": "send-rest" if self._rest.value else "stop",
        }

    def _check(self) -> None:
        """Begin to check what the form asks for now; in a thread of its own."""
        with self._lock:
            if self._busy or self._closed:
                return  # when it is over, it is checked again
            edit, before = self._edits, self._checker
        try:
            order = self._order(edit)
            job = order.job(self.guard(lambda progress: self._told_check(order, progress)))
            if before is not None:
                before.stop()
            self._checker = job
            job.check()
        except Exception as error:
            with self._lock:
                if edit == self._edits:
                    self._not_checked(error)
            if not isinstance(error, MailError):
                raise

    def _told_check(self, order: _Order, progress: Progress) -> None:
        with self._lock:
            if order.edit != self._edits or self._busy or self._closed:
                return
            if progress.phase is Phase.CHECKING:
                self._check_status.say("checking", "Every row is being checked.")
                said = f"{progress.checked:,} of {progress.total:,}"
                self._check_status.far_is(progress.checked, progress.total, said)
            elif progress.phase is Phase.CHECKED and progress.report is not None:
                self._checked = _Checked(order, progress)
                if self._sender is None:
                    self.report = progress.report
                self._show_checked(progress, progress.report)
            elif progress.phase is Phase.STOPPED:
                self._check_status.say("stopped", "The check was stopped.", "Check all rows begins anew.")
                self._check_status.far_is(0, 0, "")
            elif progress.error is not None:
                self._not_checked(progress.error)
            self._buttons()

    def _not_checked(self, error: BaseException) -> None:
        """Show why there is no check."""
        # What nobody has done yet is no failure.
        self._check_status.say("note" if self._missing() else "failed", *said(error))
        self._check_status.far_is(0, 0, "")
        self._counts.value = self._notes.value = ""
        self._show_problems(None)
        changed = isinstance(error, MergeRefusedError) and "send-rest" in error.fix
        if changed:
            self._rest.layout.display = None
        self._buttons()

    def _show_checked(self, progress: Progress, report: Report) -> None:
        self._check_status.say("checked", check_text(progress, report))
        self._check_status.far_is(0, 0, "")
        self._counts.value = pills(progress, report)
        name = progress.needs_campaign
        notes = [
            note for note in report.notes[1:] if not (name and name in note)
        ]  # that is asked for beside the field
        self._notes.value = listed([*notes, *report.warnings])
        self._show_problems(report.failures)
        self._suggest(name)

    def _show_problems(self, found: Report | None) -> None:
        self._problem_report = found
        self._problems.selected = ""
        self._problems.layout.display = None if found else "none"
        self._problems.show(problem_rows(found, 0, PROBLEMS), len(found or ()))

    def _more(self) -> None:
        found = self._problem_report
        shown = len(self._problems.rows)
        if found is not None:
            self._problems.show(problem_rows(found, 0, shown + PROBLEMS), len(found))

    def _suggest(self, name: str) -> None:
        """Offer a name for a mailing that needs one, and the names of those that can go on."""
        self._suggested = name
        for widget in (self._named, self._name_button):
            widget.layout.display = None if name else "none"
        if name:
            self._named.say("note", f"A merge to {self.connection.host} needs a name. One is {name}.")
            self._campaign.options = [name, *_campaigns(self._journal)]

    def _use_name(self) -> None:
        self._campaign.value = self._suggested

    def _buttons(self) -> None:
        """Say by the buttons what can be done now."""
        with self._lock:
            found, busy = self._checked, self._busy
            due = found.progress.due if found is not None else 0
            report = found.progress.report if found is not None else None
            rest = report is not None and len(report.skipped) > report.suppressed
            self._send_button.disabled = busy or not due
            word = f"Send the rest ({due:,})" if rest else f"Send {mails(due)}"
            self._send_button.description = word if due else "Send"
            checking = self._checker is not None and self._checker.progress.phase is Phase.CHECKING
            self._stop_button.disabled = not (busy or checking)
            self._check_button.disabled = busy
            self._me_button.disabled = self._tester is not None and not self._tester.progress.over
            problems = found.progress.problems if found is not None else 0
            if problems:
                self._skip.description = f"Send the good rows and leave {rows(problems)} with a problem out"
            self._skip.layout.display = None if problems or (busy and self._skip.value) else "none"
            if not self._rest.value and found is not None:
                self._rest.layout.display = "none"

    # --------------------------------------------------------------------------------------- send

    def _send_one(self) -> None:
        """Send the row that is shown to the person's own address."""
        address, row = self._me.value.strip(), self._row.value
        if not address:
            raise MessageError("No address is given.", "Type yours beside Send this one to me.")
        order = self._order(self._edits)
        cells = Frame(order.df).row(row)
        self.with_secret(
            order.connection, lambda connection: self._send_to_me(order, connection, cells, row, address)
        )

    def _send_to_me(
        self, order: _Order, connection: Connection, cells: Mapping[str, Any], row: int, address: str
    ) -> None:
        def told(progress: Progress) -> None:
            if progress.over:
                self._told_one(progress, f"Row {row} to {address}", order.connection, connection)

        if self._tester is not None and not self._tester.progress.over:
            return
        self._me_status.say("sending", f"Row {row} to {address} …")
        only = dataclasses.replace(order, df=[cells], options={"values": order.options["values"]})
        job = only.job(self.guard(told), via=connection, test_to=address)
        self._tester = job
        self._buttons()
        try:
            job.send()
        except BaseException:
            self._tester = None
            self._me_status.say("", "")
            self._buttons()
            raise

    def _told_one(self, progress: Progress, what: str, asked: Connection, connection: Connection) -> None:
        report = progress.error.report if isinstance(progress.error, PreflightError) else progress.report
        if report:
            outcome = report[0]
            became = outcome.reason or "accepted; it counts for nobody."
            where = f" {servers.NOTHING_LEFT}" if connection.sandbox and outcome.state is State.SENT else ""
            self._me_status.say(outcome.state, f"{what}: {became}{where}", outcome.fix)
        elif progress.error is not None:
            self._me_status.say("failed", *said(progress.error))
        if progress.sent:
            self._keep(asked, connection)
        self._buttons()

    def _keep(self, asked: Connection, connection: Connection) -> None:
        """Keep the password that was typed, and that was right."""
        if connection is not asked:
            self._server.learn(asked, connection)

    def _ask_to_send(self) -> None:
        """Say what would be sent, by which server and how fast, and ask once."""
        with self._lock:
            found = self._checked
        if self._busy or found is None:
            return
        progress, order = found.progress, found.order
        if progress.needs_campaign:
            cause = f"A merge to {order.connection.host} needs a name, so that nobody is mailed twice."
            raise MergeRefusedError(cause, f"Type one under Campaign, such as {progress.needs_campaign}.")
        if progress.problems and not self._skip.value:
            cause = f"{rows(progress.problems)} of {progress.total:,} cannot be sent; nothing was sent."
            raise MergeRefusedError(cause, "Mend them, or tick that they are left out.")
        self.status.say("", "")
        self.status.far_is(0, 0, "")
        facts = sending_facts(
            progress, self._frames.name, order.template.sender, order.options["campaign"], order.connection,
            key=order.options["key"],
        )  # fmt: skip
        count = mails(progress.due)
        self.ask.ask(f"Send {count} now?", facts, f"Send {count}", lambda: self._confirmed(found))

    def _confirmed(self, found: _Checked) -> None:
        self.with_secret(found.order.connection, lambda connection: self._begin(found, connection))

    def _begin(self, found: _Checked, connection: Connection) -> None:
        """Begin to send what was confirmed."""
        order = found.order
        with self._lock:
            if self._closed:
                raise MergeRefusedError("This form was closed; nothing was sent.", "Run its cell again.")
            if self._busy:
                raise MergeRefusedError("This merge is being sent already.", "Wait for it, or stop it.")
            if order.edit != self._edits:
                cause = "The form has changed since that was confirmed; nothing was sent."
                raise MergeRefusedError(cause, "Check, and send again.")
            self._busy, self._stopping = True, False
            _SENDING.add(self)
        try:
            job = order.job(
                self.guard(lambda progress: self._told_send(order.connection, connection, progress)),
                via=connection,
                on_problem="skip" if self._skip.value else "stop",
            )
            if self._checker is not None:
                self._checker.stop()
            self._sender = job
            self._shown_report.value = ""
            self.status.say("checking", "Every row is checked once more.")
            job.send(expected=found.progress.due, same=found.progress.mark)
        except BaseException:
            self._not_busy()
            raise
        self._buttons()

    def _not_busy(self) -> None:
        with self._lock:
            self._busy = False
            _SENDING.discard(self)
            self._buttons()

    def _told_send(self, asked: Connection, connection: Connection, progress: Progress) -> None:
        if progress.over:
            self._sent(asked, connection, progress)
        elif progress.phase is Phase.SENDING:
            if not self._stopping:
                self.status.say("sending", f"{mails(progress.due)} are being sent.")
            self.status.far_is(progress.done, progress.due, far_text(progress))
        else:
            said = f"{progress.checked:,} of {progress.total:,} checked"
            self.status.far_is(progress.checked, progress.total, said)

    def _sent(self, asked: Connection, connection: Connection, progress: Progress) -> None:
        """Show how a send ended, and check what is left."""
        with self._lock:
            self._busy = False
            _SENDING.discard(self)
            self._checked = None
            self._edits += 1  # what was checked before it is not so any more
            if progress.report is not None:
                self.report = progress.report
                self._shown_report.value = progress.report._repr_mimebundle_()["text/html"]
        self.status.say(*end_text(progress))
        self.status.far_is(progress.done, progress.due if progress.done else 0, far_text(progress))
        self._buttons()
        if progress.sent:
            self._keep(asked, connection)
        if not self._closed:
            self._checks.ask(self._check_again)

    def _check_again(self) -> None:
        """Check what a send has left; it tells its end before it is over."""
        if self._sender is not None:
            self._sender.wait()
        self._check()

    def stop(self) -> None:
        """Stop what is going on: a check at once, a send in order; returns at once.

        Rows in flight may finish for up to 5 s, no further one begins, and a later Send goes on with the rest.
        """
        with self._lock:
            job = self._sender if self._busy else self._checker
            if self._busy:
                self._stopping = True
                self.status.say("sending", "Stopping: mails in flight may still arrive.")
                self._stop_button.disabled = True
        if job is not None:
            job.stop()

    def wait(self, timeout: float | None = None) -> MergeForm:
        """Wait until nothing is going on any more, and return the form.

        Args:
            timeout: How long, in seconds; None for as long as it takes.

        An interrupt ends the waiting, and not what goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return None if deadline is None else max(0.0, deadline - time.monotonic())

        while True:
            for worker in (self._looks, self._checks):
                worker.wait(left())
            for job in (self._checker, self._sender, self._tester):
                if job is not None:
                    job.wait(left())
            if self._quiet or left() == 0.0:
                return self

    @property
    def _quiet(self) -> bool:
        jobs = (self._checker, self._sender, self._tester)
        moving = any(job is not None and job.progress.phase in _MOVING for job in jobs)
        return not moving and all(worker.wait(0) for worker in (self._looks, self._checks))

    def close(self) -> None:
        """Take the form away; what it does is stopped in order."""
        if getattr(self, "_ready", False) and not self._closed:
            self._closed = True
            for worker in (self._looks, self._checks, self._watch):
                worker.close()
            for job in (self._checker, self._sender, self._tester):
                if job is not None:
                    job.stop()
        super().close()

    # ------------------------------------------------------------------------------- other forms

    def _others(self) -> list[MergeForm]:
        return [form for form in list(_SENDING) if form is not self and form._busy]  # noqa: SLF001 - the same class

    def _say_who_sends(self) -> None:
        """Say when a form whose cell ran before still sends: its own Stop may be gone from the screen."""
        others = self._others()
        self._other_box.layout.display = None if others else "none"
        if others:
            names = ", ".join(form._campaign.value or form._frames.name for form in others)  # noqa: SLF001 - as above
            self._other.say("sending", f"A form that was shown before is still sending: {names}.")
            self._watch.ask(lambda: self._await(others))

    def _await(self, others: Sequence[MergeForm]) -> None:
        for form in others:
            if (job := form._sender) is not None:  # noqa: SLF001 - as above
                job.wait()
        self._say_who_sends()
        self._check_soon()

    def _stop_others(self) -> None:
        for form in self._others():
            form.stop()

    # --------------------------------------------------------------------------------------- code

    def code(self) -> str:
        """Return a cell that does this merge with `mail_merge`, by the server that is chosen.

        A template file that was not edited is named, an edited text is written out. What has no form as code, such
        as functions, stands as a variable that the notebook has to have.
        """
        base, text = self._base, self._editor.value
        edited = text != self._shown
        shaped: dict[str, Any] = {}
        template: str | Path = text if edited else base.source
        if self._file is not None and not edited:
            template = self._file
        elif self._file is not None or base.attach_root != Path().absolute():
            shaped = {"attach_root": _near(base.attach_root), "format": base.parsed.format}
        if base.name and not isinstance(template, Path) and base.name != (self._file and self._file.name):
            shaped["name"] = base.name
        options = {
            name: value
            for name, value in self._options().items()
            if value and (name, value) != ("changed", "stop")
        }
        values = {**base.values, **self._values}
        values.pop("__body__", None)
        options |= {"values": values} if values else {}
        options |= {"journal": _named(self._journal)} if self._journal else {}
        options |= {"on_problem": "skip"} if self._skip.value else {}
        own = (self._subject.value, self._from.value.strip(), self._format.value)
        fields = dict(base.parsed.given)
        fields |= {name: value for name, value in zip(_OWN, own, strict=True) if value}
        if shaped.get("format"):
            shaped["format"] = fields.pop("format", shaped["format"])
        if not self._compiled()[1] and self._to.value != self._guessed:
            fields["to"] = _address_in(self._to.value)
        return merge_cell(self._frames.name, template, {**options, **fields}, self.connection, shaped=shaped)

    def _show_code(self) -> None:
        self._code.code = self.code()


_MOVING = frozenset({Phase.CHECKING, Phase.SENDING})


def _address_in(column: str) -> str:
    """Return the To that takes a column's addresses, as `mail_merge` itself writes it: the campaign knows it."""
    return f"{{{{ row[{column!r}] }}}}"


def _campaigns(journal: Journal | str | Path | None) -> list[str]:
    """Return the names of the mailings that the journal knows, the newest first; no journal is made."""
    if isinstance(journal, Journal):
        return journal.campaign_names()
    found = Journal.to_read(journal)
    if found is None:
        return []
    with contextlib.closing(found):
        return found.campaign_names()


def _named(journal: Journal | str | Path) -> str | Path:
    """Return where a journal is, as one would write it in the notebook; a URL without its password."""
    where = journal.path if isinstance(journal, Journal) else journal
    return where if isinstance(where, str | Path) else str(where)


def _near(folder: Path) -> str:
    """Return a folder as one would write it in the notebook."""
    here = Path().absolute()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)
