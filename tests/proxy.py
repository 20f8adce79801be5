"""A proxy before a server on this machine, which loses connections when it is told."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Passes octets on, until it sees what it was told to cut at.

    Attributes:
        port: Where it listens on 127.0.0.1.
        cuts: How often it has cut.
    """

    def __init__(self, target):
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cuts = 0
        self._lock = threading.Lock()
        self._mark, self._passed, self._for_ever = None, False, False
        self._down = False
        self._held = None
        self._pairs = []
        self._threads = []

    def __enter__(self):
        self._start(self._accept)
        return self

    def __exit__(self, *_):
        self.let_go()
        # Closing alone does not wake who waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._pairs:
            _close(*pair)
        for thread in self._threads:
            thread.join(10)

    def cut_at(self, mark, *, passed, for_ever=False):
        """Cut the connection whose client next says *mark*: before that, or once the server has answered it.

        With *for_ever* nobody gets through afterwards, until `up`.
        """
        with self._lock:
            self._mark, self._passed, self._for_ever = mark, bool(passed), for_ever

    def up(self):
        """Let connections through again."""
        self._down = False

    def hold(self):
        """Tell the server nothing when a client ends its connection, until `let_go`."""
        self._held = []

    def let_go(self):
        held, self._held = self._held or [], None
        for upstream in held:
            _close(upstream)

    def _start(self, work, *args):
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._down:
                _close(client)
                continue
            upstream = socket.create_connection(("127.0.0.1", self._target))
            muted, answered = threading.Event(), threading.Event()
            self._pairs.append((client, upstream))
            self._start(self._forth, client, upstream, muted, answered)
            self._start(self._back, client, upstream, muted, answered)

    def _forth(self, client, upstream, muted, answered):
        while octets := _received(client):
            cut = None
            with self._lock:
                if self._mark is not None and self._mark in octets:
                    cut, self._mark, self._down = self._passed, None, self._for_ever
                    self.cuts += 1
            if cut is True:
                muted.set()  # what the server answers goes nowhere
                upstream.sendall(octets)
                answered.wait(10)
            if cut is not None:
                break
            with contextlib.suppress(OSError):
                upstream.sendall(octets)
        _close(client)
        if self._held is not None:
            self._held.append(upstream)
        else:
            _close(upstream)

    def _back(self, client, upstream, muted, answered):
        while octets := _received(upstream):
            if muted.is_set():
                answered.set()
                continue
            with contextlib.suppress(OSError):
                client.sendall(octets)
        if self._held is None:
            _close(client)


def _received(end):
    try:
        return end.recv(65536)
    except OSError:
        return b""


def _close(*ends):
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
