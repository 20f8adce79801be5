"""What all forms share: a status line, visible errors, one question at a time, and the choice of a server.

A form holds no rule. What blocks runs elsewhere: a click returns at once, and nothing prompts.
"""

from __future__ import annotations

import contextlib
import functools
import html
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import ipywidgets as w

from smtp_notebook import connection as connections
from smtp_notebook import servers
from smtp_notebook.cells import connecting
from smtp_notebook.connection import Connection
from smtp_notebook.outcome import MailError, SecretError
from smtp_notebook.parts import Ask, Part, Secret, Status
from smtp_notebook.sandbox import default_sandbox

__all__ = ["Form", "Latest", "ServerChoice", "columns", "heading", "in_words", "indented", "row_of"]

_PORTS = {"starttls": "encrypted (STARTTLS)", "tls": "encrypted (TLS)", "plain": "not encrypted"}


class Form(w.VBox):  # type: ignore[misc]  # ipywidgets ships no types
    """A form. Its errors and outcomes stand in ``status``, its one open question in ``ask`` or ``secret``."""

    def __init__(self) -> None:
        super().__init__()
        self.status = Status()
        self.ask = Ask()
        self.secret = Secret()
        self.add_class("smtpnb-form")

    def fill(self, children: Iterable[Any]) -> None:
        """Show these, and take the errors of every `Part` among them."""
        self.children = tuple(children)
        for part in _parts(self):
            part.failed = self.failed

    def failed(self, error: BaseException) -> None:
        """Show an error, whatever it is."""
        if isinstance(error, MailError):
            self.status.say("failed", error.cause, error.fix)
        else:
            self.status.say("failed", f"{type(error).__name__}: {error}")

    def guard(self, action: Callable[[Any], object]) -> Callable[[Any], None]:
        """Return a callback for ipywidgets that shows its errors in the form: they would be swallowed."""

        def call(event: Any) -> None:
            try:
                action(event)
            except Exception as error:  # noqa: BLE001 - whatever it is, the person has to see it
                self.failed(error)

        return call

    def take_back(self) -> None:
        """Take an open question back: what it asked is not so any more."""
        if self.ask.opened:
            self.ask.answer(yes=False)
        if self.secret.opened:
            self.secret.cancel()

    def close(self) -> None:
        """Take the form away with everything in it: ipywidgets would keep what is inside, and so the form."""
        if "ask" in vars(self) and "secret" in vars(self):
            self.take_back()
        own = [each for each in vars(self).values() if isinstance(each, w.Widget)]
        for widget in [self, *(each for top in (*self.children, *own) for each in _inside(top))]:
            for looks in (widget.layout, getattr(widget, "style", None)):
                if isinstance(looks, w.Widget):
                    looks.close()
            if widget is not self:
                widget.close()
        super().close()

    def with_secret(self, connection: Connection, then: Callable[[Connection], None]) -> None:
        """Call *then* with the connection once its password is known; the form asks for it where it is not."""
        if connection.knows_secret():
            then(connection)
            return
        if connection.oauth is not None:
            # A sign-in waits for a person at another page, and a click must not wait.
            raise SecretError(
                f"Nobody is signed in as {connection.user} at {connection.host}; nothing was sent.",
                f"Run this in a cell, sign in, and send again: {connecting(connection)}",
            )

        def typed(password: str) -> None:
            known = connection.with_(password=functools.partial(str, password))
            del password  # a traceback may show the variables of its frames
            then(known)

        self.secret.ask(connection.asks_for, typed)


def _inside(widget: Any) -> Iterable[Any]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from _inside(child)


def _parts(widget: Any) -> Iterable[Part]:
    return (each for each in _inside(widget) if isinstance(each, Part))


class Latest:
    """Does the newest of what it is asked for, in a thread of its own, so that a click returns at once.

    One thing is done at a time. What has not begun when something newer is asked for is dropped. The thread ends
    when there is nothing to do.

    Args:
        failed: Takes what the work raises, in that thread.
    """

    def __init__(self, failed: Callable[[BaseException], object]) -> None:
        self._failed = failed
        self._changed = threading.Condition()
        self._work: Callable[[], object] | None = None
        self._at = 0.0
        self._thread: threading.Thread | None = None
        self._closed = False

    def ask(self, work: Callable[[], object], *, after: float = 0.0) -> None:
        """Have *work* done, *after* so many seconds in which nothing newer was asked for."""
        with self._changed:
            if self._closed:
                return
            self._work, self._at = work, time.monotonic() + after
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="smtp_notebook form", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to do; return whether that is so. In its own thread it returns at once."""
        with self._changed:
            mine = threading.current_thread() is self._thread
            return mine or self._changed.wait_for(lambda: self._thread is None, timeout)

    def close(self) -> None:
        """Begin nothing more."""
        with self._changed:
            self._closed, self._work = True, None
            self._changed.notify_all()

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the person has to see it
                # The next wish needs this thread, whatever showing the error does.
                with contextlib.suppress(Exception):
                    self._failed(error)

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            while self._work is not None and (left := self._at - time.monotonic()) > 0:
                self._changed.wait(left)
            work, self._work = self._work, None
            if work is None:
                self._thread = None
                self._changed.notify_all()
            return work


def heading(text: str) -> Any:
    """Return a heading of a part of a form."""
    box = w.HTML(f"<h3>{html.escape(text)}</h3>")
    box.add_class("smtpnb-heading")
    return box


def columns(*boxes: Iterable[Any]) -> Any:
    """Return columns that stand beside each other where there is room."""
    box = w.Box([w.VBox(list(each)) for each in boxes])
    box.add_class("smtpnb-columns")
    return box


def row_of(*widgets: Any) -> Any:
    """Return widgets beside each other, below each other where it is narrow."""
    box = w.Box(list(widgets))
    box.add_class("smtpnb-row-of")
    return box


def indented(*widgets: Any) -> Any:
    """Return widgets below each other that stand where the fields do, behind the labels."""
    box = w.VBox(list(widgets))
    box.add_class("smtpnb-indent")
    return box


# --------------------------------------------------------------------------------------- the server


def in_words(connection: Connection) -> str:
    """Return a connection and its limits in plain words."""
    if connection.sandbox:
        return "sandbox: nothing leaves this machine"
    login = f" as {connection.user}" if connection.user else ""
    said = [f"{connection.host}:{connection.port}{login}, {_PORTS[connection.security]}"]
    if connection.redirect_to:
        said.append(f"every mail goes to {connection.redirect_to} instead")
    if connection.allow:
        said.append(f"only to {', '.join(connection.allow)}")
    if connection.rate:
        rates = connection.rate if isinstance(connection.rate, str) else ", ".join(connection.rate)
        said.append(f"at most {rates}")
    said.append(f"mails up to {connection.max_message_bytes / 2**20:,.0f} MB")
    return "; ".join(said)


class ServerChoice(w.VBox):  # type: ignore[misc]  # ipywidgets ships no types
    """Which server, and what is known of it, in words.

    Args:
        via: The one that is chosen at first, as in `send`.
        changed: Called when another is chosen.

    Attributes:
        connection: The one that is chosen.
    """

    def __init__(self, via: Any = None, *, changed: Callable[[], None] | None = None) -> None:
        self.dropdown = w.Dropdown(options=_servers(via), description="Server")
        self._words = w.Label()
        self._words.add_class("smtpnb-words")
        self._words.add_class("smtpnb-indent")
        super().__init__([self.dropdown, self._words])
        self._changed: Callable[[], None] | None = None
        self.dropdown.observe(self._chosen, names="value")
        self._chosen()
        self._changed = changed

    @property
    def connection(self) -> Connection:
        """The server that is chosen."""
        # Not the dropdown's value: that stays the older of two that are equal but for their password.
        found: Connection | Literal[""] = self.dropdown.options[self.dropdown.index][1]
        return found or default_sandbox().connection

    def learn(self, before: Connection, after: Connection) -> None:
        """Have *after*, which is *before* with its password, in its place; what is chosen stays chosen."""
        options = [(label, after if found is before else found) for label, found in self.dropdown.options]
        index = self.dropdown.index
        self.dropdown.options = options
        self.dropdown.index = index

    def _chosen(self, _: object = None) -> None:
        words = in_words(self.connection)
        self._words.value = "" if words == self.dropdown.label else words
        if self._changed is not None:
            self._changed()


def _servers(via: Any) -> list[tuple[str, Connection | Literal[""]]]:
    """Return the servers to choose from, the one in use first; "" is the sandbox (None chooses nothing)."""
    sandbox: tuple[str, Connection | Literal[""]] = ("sandbox: nothing leaves this machine", "")
    found: list[tuple[str, Connection | Literal[""]]] = []
    current = servers.named_connection(via)
    if current is not None and not (current.sandbox and current == default_sandbox().connection):
        label = (
            "this sandbox: nothing leaves this machine" if current.sandbox else current.name or current.url
        )
        found.append((label, current))
    saved = [(name, connections.saved(name)) for name in connections.saved_names()]
    return [*found, sandbox, *(one for one in saved if not found or one[1] != found[0][1])]
