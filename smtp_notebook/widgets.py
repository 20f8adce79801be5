"""A form that writes one mail, shows it while it is written, and sends it.

It holds no rule: its state is a Message, and Send is `api.asend` on the background loop, so a click never
blocks the kernel. It has no password field, because a widget's value is saved with the notebook.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ipywidgets as w

from smtp_notebook import _html, _sync, api
from smtp_notebook import connection as connections
from smtp_notebook.connection import Connection
from smtp_notebook.fields import IMPORTANCES, check_field_names
from smtp_notebook.message import Attachment, Message, preview_html
from smtp_notebook.outcome import DeliveryError, MailError, Outcome, SettingsError
from smtp_notebook.sandbox import default_sandbox

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["EmailForm", "email_form"]

_FORMATS = (("Markdown", "markdown"), ("HTML", "html"), ("Text", "text"))
_LABEL = {"description_width": "84px"}
_WIDE = w.Layout(width="auto", min_width="0")
_TEXTS = ("to", "cc", "bcc", "from_", "subject")
# JupyterLab drops larger messages without a word (Tornado's websocket_max_message_size).
_UPLOAD_LIMIT = "up to 10 MB; type a path for more"


def email_form(*, via: Any = None, **fields: Any) -> EmailForm:
    """Return a form that writes, previews and sends one mail; it displays itself.

    Args:
        via: The server that is chosen at first, as in `send`.
        **fields: What the form is filled in with: ``to cc bcc from_ subject body format importance
            attach``; the others of `send`, such as ``event``, go along.

    Raises:
        OptionError: A field that does not exist.
    """
    return EmailForm(via=via, **fields)


class EmailForm(w.VBox):  # type: ignore[misc]  # ipywidgets ships no types
    """The form. ``form.message`` is what it holds, ``form.outcome`` what became of the last Send."""

    def __init__(self, *, via: Any = None, **fields: Any) -> None:
        check_field_names(fields)
        self.outcome: Outcome | None = None
        self._more = {
            k: v
            for k, v in fields.items()
            if k in {"reply_to", "headers", "read_receipt", "unsubscribe", "inline", "event"}
        }
        self._files: list[Attachment] = list(Message(attach=fields.get("attach")).attach)
        self._sending: Future[Outcome] | None = None
        self._build(fields, via)
        super().__init__([self._columns()])
        self._observe()
        self._refresh()

    # ------------------------------------------------------------------------------------- pieces

    def _build(self, fields: dict[str, Any], via: Any) -> None:
        hints = {
            "to": ("To", "ann@example.com; bob@example.com"),
            "cc": ("Cc", ""),
            "bcc": ("Bcc", "seen by nobody else"),
            "from_": ("From", "the connection's own when empty"),
            "subject": ("Subject", ""),
        }
        self._texts = {
            name: w.Text(
                value=_typed(fields.get(name)),
                description=label,
                placeholder=hint,
                style=_LABEL,
                layout=_WIDE,
            )
            for name, (label, hint) in hints.items()
        }
        self._format = w.ToggleButtons(
            options=_FORMATS,
            value=str(fields.get("format") or "markdown").lower(),
            style={"button_width": "92px"},
        )
        self._body = w.Textarea(
            value=str(fields.get("body") or ""),
            description="Body",
            placeholder="Dear Ann, …",
            rows=12,
            style=_LABEL,
            layout=_WIDE,
        )
        self._importance = w.Dropdown(
            options=[(i.capitalize(), i) for i in IMPORTANCES],
            value=str(fields.get("importance") or "normal").lower(),
            description="Importance",
            style=_LABEL,
            layout=_WIDE,
        )
        self._server = w.Dropdown(options=_servers(via), description="Server", style=_LABEL, layout=_WIDE)
        self._upload = w.FileUpload(multiple=True, layout=w.Layout(width="auto"))
        self._path = w.Text(
            description="or a path",
            placeholder="reports/june.pdf",
            style=_LABEL,
            layout=w.Layout(flex="1 1 auto", width="auto", min_width="0"),
        )
        self._add = w.Button(description="Attach", layout=w.Layout(width="84px"))
        self._listed = w.VBox([])
        self._send = w.Button(
            description="Send", button_style="primary", icon="paper-plane", layout=w.Layout(width="140px")
        )
        self._status = w.HTML(layout=_WIDE)
        self._preview = w.HTML(layout=_WIDE)

    def _columns(self) -> Any:
        path = w.HBox([self._path, self._add], layout=_WIDE)
        upload = _labelled("Attach", self._upload, w.HTML(_html.quiet(_UPLOAD_LIMIT)))
        left = w.VBox(
            [
                *self._texts.values(),
                _labelled("Format", self._format),
                self._body,
                self._importance,
                upload,
                path,
                self._listed,
                self._server,
                w.VBox([self._send, self._status], layout=w.Layout(margin="6px 0 0 94px")),
            ],
            layout=w.Layout(flex="1 1 420px", min_width="300px"),
        )
        right = w.VBox([self._preview], layout=w.Layout(flex="1 1 420px", min_width="300px"))
        return w.Box(
            [left, right],
            layout=w.Layout(display="flex", flex_flow="row wrap", width="100%", grid_gap="16px"),
        )

    def _observe(self) -> None:
        for widget in (*self._texts.values(), self._body, self._format, self._importance, self._server):
            widget.observe(self._guarded(lambda _: self._refresh()), names="value")
        self._upload.observe(self._guarded(lambda _: self._uploaded()), names="value")
        self._add.on_click(self._guarded(lambda _: self._attach_path()))
        self._send.on_click(self._guarded(lambda _: self._send_now()))
        self._list_files()

    def _guarded(self, action: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return the callback with its errors shown in the form: ipywidgets would swallow them."""

        def call(event: Any) -> None:
            try:
                action(event)
            except MailError as error:
                self._say("failed", str(error))
            except Exception as error:  # noqa: BLE001 - whatever it is, the person has to see it
                self._say("failed", f"{type(error).__name__}: {error}")

        return call

    def _say(self, state: str, text: str) -> None:
        self._status.value = _html.outcome(state, text)

    # -------------------------------------------------------------------------------------- state

    @property
    def message(self) -> Message:
        """The Message that the form holds.

        Raises:
            MailError: What is typed so far is no mail; says why.
        """
        typed = {name: self._texts[name].value for name in _TEXTS}
        return Message(
            **{k: v for k, v in typed.items() if v.strip()},
            **self._more,
            body=self._body.value,
            format=self._format.value,
            importance=self._importance.value,
            attach=self._files,
        )

    @property
    def connection(self) -> Connection:
        """The server that is chosen."""
        chosen = self._server.value
        return chosen or default_sandbox().connection

    def _refresh(self) -> None:
        try:
            message = self.message
        except MailError as error:
            self._preview.value = _html.card(f"<p>{html.escape(str(error))}</p>")
            return
        sender = self._texts["from_"].value.strip() or _sender(self._server.value)
        shown = message.with_(from_=sender) if sender else message
        self._preview.value = preview_html(api.looked_at(shown), height=460)

    # -------------------------------------------------------------------------------------- files

    def _uploaded(self) -> None:
        for file in self._upload.value:
            self._files.append(Attachment(bytes(file["content"]), file["name"], file["type"] or None))
        if self._upload.value:
            self._upload.value = ()
            self._list_files()

    def _attach_path(self) -> None:
        path = self._path.value.strip()
        if not path:
            raise SettingsError("No path is typed.", "Type a file's path, as the kernel sees it.")
        self._files.append(Attachment.from_path(Path(path)))
        self._path.value = ""
        self._list_files()

    def _list_files(self) -> None:
        self._listed.children = [self._file_row(file) for file in self._files]
        self._refresh()

    def _file_row(self, file: Attachment) -> Any:
        remove = w.Button(icon="times", tooltip=f"Remove {file.name}", layout=w.Layout(width="34px"))

        def drop(_: Any) -> None:
            self._files = [f for f in self._files if f is not file]
            self._list_files()

        remove.on_click(self._guarded(drop))
        name = w.HTML(f"{html.escape(file.name)} {_html.quiet(f'{file.size:,} bytes')}")
        return w.HBox([remove, name], layout=w.Layout(margin="0 0 0 90px"))

    # --------------------------------------------------------------------------------------- send

    def _send_now(self) -> None:
        """Check everything here, then send on the background loop."""
        if self._sending is not None and not self._sending.done():
            return
        server = api.find_server(self.connection)
        message = self.message
        self._send.disabled = True
        self._say("planned", f"Sending to {len(message.recipients)} …")
        try:
            self._sending = _sync.spawn(api.asend(message, via=server.connection))
        except BaseException:
            self._send.disabled = False
            raise
        self._sending.add_done_callback(self._guarded(self._done))

    def _done(self, future: Future[Outcome]) -> None:
        self._send.disabled = False
        try:
            self.outcome = future.result()
        except DeliveryError as error:
            self.outcome = error.outcome
        self._say(self.outcome.state, self.outcome.line)


def _labelled(label: str, *widgets: Any) -> Any:
    """Return widgets in a row, behind a label that stands where the other fields have theirs."""
    layout = w.Layout(
        width="84px", flex="0 0 84px", display="flex", justify_content="flex-end", margin="2px 8px 2px 2px"
    )
    return w.HBox([w.Label(label, layout=layout), *widgets], layout=_WIDE)


def _typed(value: Any) -> str:
    """Return an address field or text as a person would type it."""
    if value is None:
        return ""
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _servers(via: Any) -> list[tuple[str, Connection | Literal[""]]]:
    """Return the servers to choose from, the one in use first; "" is the sandbox (None chooses nothing)."""
    sandbox: tuple[str, Connection | Literal[""]] = ("sandbox: nothing leaves this machine", "")
    found: list[tuple[str, Connection | Literal[""]]] = []
    chosen = api.find_server(via) if via is not None else None
    current = chosen.connection if chosen is not None else connections.current()
    if current is None:
        import os

        current = connections.from_environment(os.environ)
    if current is not None and not (current.sandbox and current == default_sandbox().connection):
        label = (
            "this sandbox: nothing leaves this machine" if current.sandbox else current.name or current.url
        )
        found.append((label, current))
    saved = [(name, connections.saved(name)) for name in connections.saved_names()]
    return [*found, sandbox, *saved]


def _sender(connection: Connection | Literal[""]) -> str:
    if not connection:
        return default_sandbox().connection.sender
    return connection.sender or (connection.user if "@" in connection.user else "")
