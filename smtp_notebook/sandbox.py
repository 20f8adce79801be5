"""A real SMTP server on this machine that keeps what it gets.

It is the default server of a notebook, the inbox of a demo, and the fixture of the tests. It listens on
loopback alone, on a port that the system chooses, in a daemon thread that ends with the kernel.
"""

from __future__ import annotations

import asyncio
import atexit
import collections
import datetime as dt
import html
import logging
import os
import re
import threading
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from smtp_notebook import _html
from smtp_notebook.connection import Connection
from smtp_notebook.outcome import SettingsError
from smtp_notebook.received import Received
from smtp_notebook.views import still

if TYPE_CHECKING:
    from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

__all__ = ["Received", "Sandbox", "default_sandbox"]

_HOST = "127.0.0.1"
_SIZE = 64 * 2**20
_LAST_PORT = 65_535
_SHOWN = 20
_LOG = logging.getLogger("smtp_notebook")


@dataclass(frozen=True, slots=True, eq=False)
class _Watcher:
    """Who wants to know of changes, and the process that does."""

    pid: int
    found: Callable[[], Callable[[], object] | None]


class Sandbox:
    """An SMTP server on loopback with its mailbox.

    Args:
        max_messages: How many mails are kept; the oldest go first.
        port: The port on loopback; 0 has the system choose one.

    Use it as a context manager, or call `start`; starting twice is harmless. Any login is accepted.

    Raises:
        SettingsError: From here, no mail would be kept, or there is no such port; from `start`, the port is taken.
    """

    def __init__(self, max_messages: int = 10_000, *, port: int = 0) -> None:
        if max_messages < 1:
            raise SettingsError(f"max_messages={max_messages} keeps nothing.", "Give 1 or more.")
        if not 0 <= port <= _LAST_PORT:
            raise SettingsError(f"port={port} is no port.", "Give 1 to 65535, or 0 to have one chosen.")
        self._wanted = port
        self._messages: collections.deque[Received] = collections.deque(maxlen=max_messages)
        self._count = 0
        self._watchers: tuple[_Watcher, ...] = ()
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._server: asyncio.Server | None = None
        self._port = 0
        self._pid = 0

    # ------------------------------------------------------------------------------------ running

    def start(self) -> Self:
        """Start listening, if it does not already, and return self. From any thread."""
        with self._lock:
            if self.running:
                return self
            self._pid = os.getpid()
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="smtp_notebook sandbox", daemon=True
            )
            self._thread.start()
            try:
                self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(timeout=10)
            except OSError as error:
                self.stop()
                cause = f"Port {self._wanted} on this machine cannot be used: {_why(error)}."
                raise SettingsError(cause, "Give another, or 0 to have one chosen.") from None
            self._port = self._server.sockets[0].getsockname()[1]
            atexit.register(self.stop)
        return self

    @property
    def running(self) -> bool:
        """Whether it listens; False in a forked child, whose threads are gone."""
        return self._thread is not None and self._thread.is_alive() and self._pid == os.getpid()

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _protocol(self._keep, loop), _HOST, self._wanted)

    def stop(self) -> None:
        """Stop listening; what arrived stays. Stopping twice is harmless."""
        with self._lock:
            loop, thread, running = self._loop, self._thread, self.running
            self._loop = self._thread = None
            atexit.unregister(self.stop)
            if not running or loop is None or thread is None:
                return
            asyncio.run_coroutine_threadsafe(self._close(), loop).result(timeout=5)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout=5)
            loop.close()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ------------------------------------------------------------------------------------ mailbox

    def _keep(self, raw: bytes, sender: str, recipients: tuple[str, ...]) -> None:
        now = dt.datetime.now(dt.UTC)
        with self._lock:
            self._count += 1
            self._messages.append(Received(raw, sender, recipients, now, self._count))
        self._tell()

    def watch(self, changed: Callable[[], object]) -> Callable[[], None]:
        """Call *changed* after each arrival and after `clear`, until what is returned is called.

        Args:
            changed: Called without arguments, on the server's thread or on that of `clear`, while nothing is locked.
                The server waits for it, so it should only note that there is something to look at. Its errors are
                logged and harm neither the server nor anybody else who watches.

        A bound method is held weakly: whoever it belongs to may go without a word. A forked child is told nothing.
        """
        bound = isinstance(changed, types.MethodType)
        watcher = _Watcher(os.getpid(), weakref.WeakMethod(changed) if bound else lambda: changed)
        with self._lock:
            alive = (w for w in self._watchers if w.found() is not None)
            self._watchers = (*alive, watcher)

        def end() -> None:
            with self._lock:
                self._watchers = tuple(w for w in self._watchers if w is not watcher)

        return end

    def _tell(self) -> None:
        for watcher in self._watchers:
            changed = watcher.found() if watcher.pid == os.getpid() else None
            try:
                if changed is not None:
                    changed()
            except Exception:  # noqa: BLE001 - the server goes on whatever it is
                _LOG.exception("What watches the sandbox failed; the mail is kept all the same.")

    @property
    def messages(self) -> tuple[Received, ...]:
        """What arrived, oldest first."""
        with self._lock:
            return tuple(self._messages)

    def clear(self) -> None:
        """Forget what arrived."""
        with self._lock:
            self._messages.clear()
        self._tell()

    @property
    def max_messages(self) -> int:
        """How many mails are kept; the oldest go first."""
        return self._messages.maxlen or 0

    @property
    def connection(self) -> Connection:
        """How to reach it; starts it."""
        self.start()
        return Connection(
            host=_HOST,
            port=self._port,
            security="plain",
            sender="you@example.com",
            practice=True,
            sandbox=True,
        )

    # ------------------------------------------------------------------------------------ display

    def __repr__(self) -> str:
        where = f"{_HOST}:{self._port}" if self.running else "stopped"
        count = len(self._messages)
        return f"<Sandbox {where}, {count:,} message{'' if count == 1 else 's'}>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        newest = self.messages[::-1]
        lines = [f"  {m.subject} | to {', '.join(m.recipients)}" for m in newest[:_SHOWN]]
        rest = len(newest) - _SHOWN
        lines += [f"  … and {rest:,} more: sandbox.messages"] if rest > 0 else []
        return {"text/plain": "\n".join([repr(self), *lines]), "text/html": _inbox(newest)}


def _why(error: OSError) -> str:
    """Return the system's own words; asyncio puts a sentence of its own around them."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _protocol(keep: Any, loop: asyncio.AbstractEventLoop) -> SMTP:
    from aiosmtpd.smtp import SMTP

    return SMTP(
        _Handler(keep),
        data_size_limit=_SIZE,
        enable_SMTPUTF8=True,
        hostname="sandbox.localhost",
        ident="smtp_notebook sandbox",
        loop=loop,
        auth_require_tls=False,
        authenticator=_anyone,
    )


def _anyone(*_: object) -> AuthResult:
    from aiosmtpd.smtp import AuthResult

    return AuthResult(success=True)


async def _any_token(server: SMTP, args: list[str]) -> AuthResult:
    if len(args) == 1:
        await server.challenge_auth("")
    return _anyone()


class _Handler:
    """What aiosmtpd calls, with arguments in its order."""

    def __init__(self, keep: Any) -> None:
        self._keep = keep

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        # aiosmtpd reads pipelined commands well, but does not say so.
        return [*responses[:-1], "250-PIPELINING", *responses[-1:]]

    async def auth_XOAUTH2(self, server: SMTP, args: list[str]) -> AuthResult:  # noqa: N802 - as above
        return await _any_token(server, args)

    async def auth_OAUTHBEARER(self, server: SMTP, args: list[str]) -> AuthResult:  # noqa: N802 - as above
        return await _any_token(server, args)

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - as above
        content = envelope.original_content or b""
        self._keep(content, envelope.mail_from or "", tuple(envelope.rcpt_tos))
        return "250 2.0.0 Kept in the sandbox"


# ------------------------------------------------------------------------------------------- inbox


def _inbox(messages: tuple[Received, ...]) -> str:
    """Return the mailbox as HTML, newest first; each mail folded, its body in an iframe that runs nothing."""
    if not messages:
        return _html.card(
            "<p><strong>Sandbox</strong> · nothing has arrived yet. Mails sent to it never leave this machine.</p>"
        )
    count = f"{len(messages):,} message{'' if len(messages) == 1 else 's'}"
    head = f"<p><strong>Sandbox</strong> · {count}, newest first. Nothing left this machine.</p>"
    shown = "".join(_entry(m, opened=i == 0) for i, m in enumerate(messages[:_SHOWN]))
    rest = len(messages) - _SHOWN
    more = f"<p>… and {rest:,} more: <code>sandbox.messages</code></p>" if rest > 0 else ""
    return _html.card(head + shown + more)


def _entry(message: Received, *, opened: bool) -> str:
    line = "border-bottom:1px solid var(--jp-border-color2,#d0d7de)"
    subject = html.escape(message.subject or "(no subject)")
    time = message.received.astimezone().strftime("%H:%M:%S")
    to = html.escape(message.header("to") or ", ".join(message.recipients))
    summary = (
        '<summary style="cursor:pointer;padding:6px 0">'
        f'<strong>{subject}</strong> <span style="opacity:.72">· to {to} · {time}</span></summary>'
    )
    named = re.findall(r"[^\s<>,;]+@[^\s<>,;]+", f"{message.header('to')} {message.header('cc')}")
    hidden = set(message.recipients) - set(named)
    rows = [
        ("From", message.header("from")),
        ("To", message.header("to")),
        ("Cc", message.header("cc")),
        ("Envelope", ", ".join(message.recipients) if hidden else ""),
        ("Bounces to", message.sender if message.sender not in message.header("from") else ""),
        ("Attached", ", ".join(f"{n} ({len(c):,} bytes)" for n, _, c, cid in message.files() if not cid)),
    ]
    block = "".join(
        f'<div style="display:flex;gap:8px"><span style="flex:0 0 84px;opacity:.72">{n}</span><span>{html.escape(v)}</span></div>'
        for n, v in rows
        if v
    )
    state = " open" if opened else ""
    body = f'<div style="padding:0 0 10px 16px">{block}<div style="height:8px"></div>{_html.frame(_document(message), title="The mail")}</div>'
    return f'<details{state} style="{line}">{summary}{body}</details>'


def _document(message: Received) -> str:
    """Return the mail's body as a document whose ``cid:`` images are inside it."""
    view = message.view()
    return still(view.page) if view.page else _html.plain(view.text)


# --------------------------------------------------------------------------------- the default one

_default = types.SimpleNamespace(sandbox=None, lock=threading.Lock())


def default_sandbox() -> Sandbox:
    """Return the sandbox that stands in while no server is named; starts it."""
    with _default.lock:
        if _default.sandbox is None:
            _default.sandbox = Sandbox()
        sandbox: Sandbox = _default.sandbox
    return sandbox.start()
