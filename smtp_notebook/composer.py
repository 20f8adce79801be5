"""A form that writes one mail, shows it while it is written, and sends it.

It holds no rule: its state is a Message, and Send is `api.asend` on the background loop, so a click never
blocks the kernel. It has no password field: where one is needed it is asked for, and kept in memory alone.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as w

from smtp_notebook import _sync, api
from smtp_notebook.bodies import looks_like_html
from smtp_notebook.cells import cell_of
from smtp_notebook.connection import Connection
from smtp_notebook.event import Event
from smtp_notebook.fields import FIELDS, IMPORTANCES, body_format, check_field_names
from smtp_notebook.letters import Theme
from smtp_notebook.message import Attachment, Message
from smtp_notebook.outcome import DeliveryError, MailError, MessageError, Outcome, SettingsError, State
from smtp_notebook.parts import Chips, Code, Editor, Files, Fold, Pane
from smtp_notebook.views import source_text, view_of
from smtp_notebook.widgets import Form, ServerChoice, columns, in_words, indented, row_of

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["EmailForm", "email_form"]

_FORMATS = (("Markdown", "markdown"), ("HTML", "html"), ("Text", "text"))
_CHIPS = {
    "to": ("To", "ann@example.com; bob@example.com"),
    "cc": ("Cc", ""),
    "bcc": ("Bcc", "seen by nobody else"),
    "reply_to": ("Reply-To", "where answers go"),
}
_BULK = (("If it has a list's headers", None), ("Yes", True), ("No", False))
_NAMED = 3
_ARRIVED = frozenset({State.SENT, State.PARTIAL, State.IN_DOUBT})


def email_form(*, via: Any = None, **fields: Any) -> EmailForm:
    """Return a form that writes, previews and sends one mail; it displays itself.

    Args:
        via: The server that is chosen at first, as in `send`.
        **fields: What the form is filled in with: the fields of `send`. ``form.message`` gives them back, and
            ``form.message = Message(…)`` fills the form anew.

    Send asks once, with the subject, the recipients and the server, and sends in the background. A password that is
    needed and not known is asked for in the form; it is kept in memory alone, never in the widget's state.

    Raises:
        OptionError: A field that does not exist.
        MessageError: A field that holds what no mail can.
    """
    return EmailForm(via=via, **fields)


class EmailForm(Form):
    """The form. ``form.message`` is what it holds, ``form.outcome`` what became of the last Send."""

    def __init__(self, *, via: Any = None, **fields: Any) -> None:
        check_field_names(fields)
        self._ready = False
        super().__init__()
        self.outcome: Outcome | None = None
        self._sending: Future[Outcome] | None = None
        self._event: Event | None = None
        self._uid = str(uuid.uuid4())
        self._theme: Theme | None = None
        self._before: tuple[Message, State] | None = None
        self._build(via)
        self._fill(fields)
        self._observe()
        self._arrange()
        self._ready = True
        self._server_changed()

    def __repr__(self) -> str:
        to = self._chips["to"].value or "nobody yet"
        return f"<EmailForm to {to}: {self._subject.value!r}, {in_words(self.connection)}>"

    # ------------------------------------------------------------------------------------- pieces

    def _build(self, via: Any) -> None:
        self._chips = {name: Chips(label, hint=hint) for name, (label, hint) in _CHIPS.items()}
        self._from = w.Text(description="From", placeholder="the server's own")
        self._subject = w.Text(description="Subject")
        self._format = w.Dropdown(options=_FORMATS, description="Format")
        self._body = Editor(hint="Dear Ann, …")
        self._files = Files()
        self._path = w.Text(description="or a path", placeholder="reports/june.pdf")
        self._attach = w.Button(description="Attach")
        self._importance = w.Dropdown(
            options=[(i.capitalize(), i) for i in IMPORTANCES], value="normal", description="Importance"
        )
        self._preheader = w.Text(description="Preheader", placeholder="shown beside the subject")
        self._look = w.Dropdown(options=[("Letter", ""), ("None", "none")], value="", description="Theme")
        self._inlined = w.Checkbox(value=True, description="Move CSS into style attributes", indent=False)
        self._unsubscribe = w.Text(description="Unsubscribe", placeholder="https://… or mailto:…")
        self._bulk = w.Dropdown(options=_BULK, value=None, description="Bulk mail")
        self._list = w.Text(description="List", placeholder="News <news.example.com>")
        self._feedback = w.Text(description="Feedback-ID", placeholder="campaign:customer:kind:sender")
        self._postal = w.Text(description="Postal address", placeholder="of the sender, for the footer")
        self._receipt = w.Checkbox(description="Ask for a read receipt", indent=False)
        self._headers = w.Textarea(description="Headers", placeholder="References: <id@example.com>", rows=2)
        self._inline = Files()
        self._inline.label = "Images inside"
        self._build_event()
        self._server = ServerChoice(via, changed=self._server_changed)
        self._send_button = w.Button(description="Send", button_style="primary")
        self._copy_button = w.Button(description="Copy as code")
        self._code = Code()
        self._preview = Pane()

    def _build_event(self) -> None:
        self._title = w.Text(description="Invitation", placeholder="a meeting's title")
        self._start = w.NaiveDatetimePicker(description="Starts")
        self._minutes = w.BoundedIntText(value=60, min=1, max=100_000, description="Minutes")
        self._place = w.Text(description="Place")
        self._meeting = w.VBox([self._start, self._minutes, self._place])
        self._given = w.Label()
        self._given.add_class("smtpnb-words")
        self._uninvite = w.Button(description="Remove the invitation")
        self._kept = indented(self._given, self._uninvite)

    def _arrange(self) -> None:
        first = ("to", "cc", "bcc")
        more = w.VBox(
            [
                *(c for name, c in self._chips.items() if name not in first),
                *(self._importance, self._preheader, self._look),
                indented(self._inlined, self._receipt),
                *(self._unsubscribe, self._bulk, self._list, self._feedback, self._postal),
                *(self._headers, self._inline, self._title, self._meeting, self._kept),
            ]
        )
        texts = (self._preheader, self._unsubscribe, *self._of_lists, self._headers, self._title)
        used = any(text.value for text in texts)
        opened = (
            used
            or self._bulk.value is not None
            or self._event is not None
            or bool(self._chips["reply_to"].value or self._inline.value)
        )
        left = [
            *(self._chips[name] for name in first),
            *(self._from, self._subject, self._format, self._body, self._files),
            row_of(self._path, self._attach),
            *(indented(Fold("More fields", more, shown=opened)), more, self._server),
            indented(
                row_of(self._send_button, self._copy_button), self.ask, self.secret, self.status, self._code
            ),
        ]
        self.fill([columns(left, [self._preview])])

    def _observe(self) -> None:
        values = (
            *self._chips.values(),
            *(self._from, self._subject, self._body, self._files, self._importance, self._preheader),
            *(self._look, self._inlined, self._unsubscribe, self._receipt, self._headers, self._inline),
            *(self._bulk, *self._of_lists),
            *(self._start, self._minutes, self._place),
        )
        for widget in values:
            widget.observe(self.guard(lambda _: self._edited()), names="value")
        self._format.observe(self.guard(lambda _: self._format_changed()), names="value")
        self._title.observe(self.guard(lambda _: self._event_changed()), names="value")
        self._preview.observe(self.guard(lambda _: self._refresh()), names="tab")
        self._attach.on_click(self.guard(lambda _: self._attach_path()))
        self._uninvite.on_click(self.guard(lambda _: self._drop_event()))
        self._send_button.on_click(self.guard(lambda _: self._ask_to_send()))
        self._copy_button.on_click(self.guard(lambda _: self._show_code()))

    # -------------------------------------------------------------------------------------- state

    @property
    def _of_lists(self) -> tuple[w.Text, ...]:
        return self._list, self._feedback, self._postal

    def _fill(self, fields: Mapping[str, Any]) -> None:
        """Show these fields, and nothing in the others."""
        given = Message(**{k: v for k, v in fields.items() if k not in {*_CHIPS, "body", "format"}})
        for name, chips in self._chips.items():
            chips.put(_typed(fields.get(name)))
        self._from.value = _typed(given.from_)
        self._subject.value = given.subject
        body = fields.get("body") or ""
        # HTML that code gives without a word is HTML: the person sees the format, and can change it.
        kind = fields.get("format") or ("html" if looks_like_html(str(body)) else None)
        self._format.value = self._body.format = body_format(kind, body)
        self._body.put(body)
        self._files.put(given.attach)
        self._inline.put(given.inline)
        self._importance.value = given.importance
        self._preheader.value = given.preheader
        self._theme = given.theme
        named = given.theme.name in {"letter", "none"}
        self._look.options = [
            *(("Letter", ""), ("None", "none")),
            *([] if named else [(given.theme.name, "given")]),
        ]
        self._look.value = "given" if not named else "none" if given.theme.name == "none" else ""
        self._inlined.value = given.inline_css
        self._unsubscribe.value = ", ".join(given.unsubscribe)
        self._bulk.value = given.bulk
        self._list.value = given.list_id
        self._feedback.value = given.feedback_id
        self._postal.value = given.postal_address
        self._receipt.value = bool(given.read_receipt)
        self._receipt_to = given.read_receipt
        self._headers.value = "\n".join(f"{name}: {value}" for name, value in given.headers)
        self._event = given.event
        self._title.value = ""
        self._event_changed()

    @property
    def message(self) -> Message:
        """The Message that the form holds.

        Setting it fills the form anew.

        Raises:
            MailError: What is typed so far is no mail; says why.
        """
        return self._message(**{name: chips.value for name, chips in self._chips.items()})

    @message.setter
    def message(self, message: Message) -> None:
        ready, self._ready = self._ready, False
        try:
            self._fill({name: getattr(message, name) for name in FIELDS})
        finally:
            self._ready = ready
        self._edited()

    def _message(self, **people: Any) -> Message:
        return Message(
            **people,
            from_=self._from.value.strip() or None,
            subject=self._subject.value,
            body=self._body.value,
            format=self._format.value,
            importance=self._importance.value,
            attach=self._files.value,
            inline=self._inline.value,
            headers=_header_lines(self._headers.value),
            read_receipt=(self._receipt_to or True) if self._receipt.value else False,
            unsubscribe=self._unsubscribe.value.strip() or None,
            bulk=self._bulk.value,
            list_id=self._list.value,
            feedback_id=self._feedback.value,
            postal_address=self._postal.value,
            preheader=self._preheader.value,
            theme=self._theme if self._look.value == "given" else self._look.value,
            inline_css=self._inlined.value,
            event=self._meeting_now(),
        )

    def _meeting_now(self) -> Event | None:
        if self._event is not None or not self._title.value.strip():
            return self._event
        if self._start.value is None:
            raise MessageError("The invitation has no start.", "Choose when it begins, or remove its title.")
        return Event(
            self._title.value.strip(),
            self._start.value.astimezone(),
            duration=self._minutes.value,
            location=self._place.value.strip(),
            uid=self._uid,
        )

    @property
    def connection(self) -> Connection:
        """The server that is chosen."""
        return self._server.connection

    def _edited(self) -> None:
        """Show the mail anew; what was asked of the older one is asked of this one, and no older answer counts.

        A click overtakes what was typed before it, which ipywidgets keeps back while the kernel works.
        """
        if self._ready:
            self.secret.cancel()
            if self.ask.opened:
                self._ask_anew()
        self._refresh()

    def _ask_anew(self) -> None:
        try:
            self._ask_to_send()
        except MailError as error:
            self.take_back()
            self.failed(error)

    def _refresh(self) -> None:
        """Show the mail as it stands; an address that is none keeps nobody from seeing it."""
        if not self._ready:
            return
        try:
            message = self._message(**{name: chips.good for name, chips in self._chips.items()})
        except MailError as error:
            self._preview.say(str(error))
            return
        sender = self._from.value.strip() or _sender(self.connection)
        shown = message.with_(from_=sender) if sender else message
        self._preview.show(
            view_of(shown),
            lambda: source_text(shown.as_bytes()),
            notes=lambda: api.looked_at(shown, self.connection).warnings,
        )

    def _format_changed(self) -> None:
        self._body.format = self._format.value
        self._edited()

    def _server_changed(self) -> None:
        for files in (self._files, self._inline):
            files.limit = self.connection.max_message_bytes
        self._edited()

    def _event_changed(self) -> None:
        typed = bool(self._title.value.strip())
        self._meeting.layout.display = None if typed and self._event is None else "none"
        self._title.layout.display = None if self._event is None else "none"
        self._kept.layout.display = None if self._event is not None else "none"
        self._given.value = f"Invitation: {self._event.line}" if self._event is not None else ""
        self._edited()

    def _drop_event(self) -> None:
        self._event = None
        self._event_changed()

    def _attach_path(self) -> None:
        path = self._path.value.strip()
        if not path:
            raise SettingsError("No path is typed.", "Type a file's path, as the kernel sees it.")
        self._files.add(Attachment.from_path(Path(path)))
        self._path.value = ""

    # --------------------------------------------------------------------------------------- code

    def code(self) -> str:
        """Return a cell that sends what the form holds, to the server that is chosen.

        Files that were dropped into the form are named, and have to lie beside the notebook.
        """
        return cell_of(self.message, self.connection)

    def _show_code(self) -> None:
        self._code.code = self.code()

    # --------------------------------------------------------------------------------------- send

    def _ask_to_send(self) -> None:
        """Check everything, then ask once."""
        if self._sending is not None and not self._sending.done():
            return
        if waiting := self._files.unfinished or self._inline.unfinished:
            raise MessageError(waiting)
        message, server = self.message, self.connection
        people = message.recipients
        if not people:
            raise MessageError("The mail has no recipients.", "Fill in To, Cc or Bcc.")
        self.status.say("", "")
        count = f"{len(people):,} recipient{'' if len(people) == 1 else 's'}"
        named = ", ".join(people[:_NAMED]) + (
            f" and {len(people) - _NAMED:,} more" if len(people) > _NAMED else ""
        )
        files = ", ".join(f.name for f in (*message.attach, *message.inline))
        facts = [
            ("Subject", message.subject or "(none)"),
            ("To", named),
            ("Server", in_words(server)),
            *self._went_before(message),
            *([("Files", files)] if files else []),
        ]
        self.ask.ask(
            f"Send this mail to {count}?", facts, f"Send to {count}", lambda: self._go(message, server)
        )

    def _went_before(self, message: Message) -> list[tuple[str, str]]:
        """Say that this very mail went already: nobody is to get it twice unnoticed."""
        if self._before is None or self._before[0] != message:
            return []
        doubt = self._before[1] is State.IN_DOUBT
        return [("Before", "this mail may have arrived already" if doubt else "this mail went already")]

    def _go(self, message: Message, server: Connection) -> None:
        self.with_secret(server, lambda connection: self._send_by(message, server, connection))

    def _send_by(self, message: Message, server: Connection, connection: Connection) -> None:
        """Send on the background loop, by *connection*, which is *server* with its password."""
        if self._sending is not None and not self._sending.done():
            return
        self._send_button.disabled = True
        self.status.say("sending", f"Sending to {len(message.recipients):,} …")
        try:
            self._sending = _sync.spawn(api.asend(message, via=connection))
        except BaseException:
            self._send_button.disabled = False
            raise
        self._sending.add_done_callback(
            self.guard(lambda future: self._done(future, message, server, connection))
        )

    def _done(
        self, future: Future[Outcome], message: Message, server: Connection, connection: Connection
    ) -> None:
        self._send_button.disabled = False
        try:
            self.outcome = future.result()
        except DeliveryError as error:
            self.outcome = error.outcome
        if self.outcome.state in _ARRIVED:
            self._before = (message, self.outcome.state)
        if connection is not server and self.outcome.state in {State.SENT, State.PARTIAL}:
            self._server.learn(server, connection)  # the password that was typed is right
        notes = " ".join(f"Note: {said.rstrip('.')}." for said in self.outcome.warnings)
        text = " ".join(
            filter(None, [", ".join(self.outcome.to) + ":", self.outcome.reason or "accepted.", notes])
        )
        self.status.say(self.outcome.state, text, self.outcome.fix)


def _typed(value: Any) -> str:
    """Return an address field as a person would type it."""
    if value is None:
        return ""
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _header_lines(text: str) -> list[tuple[str, str]]:
    found = []
    for line in filter(str.strip, text.splitlines()):
        name, colon, value = line.partition(":")
        if not colon:
            raise MessageError(f"The header line {line.strip()!r} has no colon.", "Write Name: value.")
        found.append((name.strip(), value.strip()))
    return found


def _sender(connection: Connection) -> str:
    return connection.sender or (connection.user if "@" in connection.user else "")
