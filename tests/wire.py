"""A wire between a client and a server on loopback: it passes octets on, remembers the client's, and fails on request.

What a client said in clear is what is no record of TLS: see `in_clear`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading


def in_clear(octets):
    """Return those of a client's octets that are outside of records of TLS.

    From the first octet that can begin a record after the line STARTTLS, or from the very first, there must be whole
    records (RFC 8446, 5.1), the last one may be cut off; what is none is in clear.
    """
    command = b"STARTTLS\r\n"
    begin = 0 if octets[:1] == b"\x16" else octets.upper().find(command) + len(command)
    if begin < len(command) and octets[:1] != b"\x16":
        return octets
    rest = octets[begin:]
    while rest:
        kind, major, length = rest[0], *struct.unpack("!xBxH", rest[:5].ljust(5, b"\0"))[:2]
        if not (20 <= kind <= 23 and (major == 3 or len(rest) < 2) and length <= 2**14 + 256):
            return octets[:begin] + rest
        rest = rest[5 + length :]
    return octets[:begin]


def is_stranger(octets):
    """Tell whether a client speaks ZeroMQ (ZMTP, RFC 23: its greeting begins with FF), as no client of mail does.

    A Jupyter server or client goes on to knock where a kernel was that is gone, and its port may be another's by now.
    """
    return octets[:1] == b"\xff"


class Wire:
    """A proxy to a port of this machine; a context manager.

    Args:
        upstream: The server's port.
        keep: Whether to remember what clients say.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, upstream, *, keep=True):
        self.upstream = upstream
        self.keep = keep
        self._said = []
        self._open = set()

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _run(self):
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self):
        self._over, self._flowing = asyncio.Event(), asyncio.Event()
        self._flowing.set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        self._flowing.set()
        self._cut(reset=False)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader, writer):
        pieces = []
        if self.keep:
            self._said.append(pieces)
        try:
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        except OSError:
            writer.close()
            return
        ends = {writer, back_writer}
        self._open |= ends
        try:
            await asyncio.wait(
                [
                    asyncio.ensure_future(self._pass_on(reader, back_writer, pieces)),
                    asyncio.ensure_future(self._pass_on(back_reader, writer, None)),
                ]
            )
        finally:
            self._open -= ends
            for end in ends:
                end.close()

    async def _pass_on(self, reader, writer, pieces):
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                if pieces is not None and self.keep:
                    pieces.append(piece)
                await self._flowing.wait()
                writer.write(piece)
                await writer.drain()
        writer.close()

    def _cut(self, *, reset):
        for writer in self._open:
            if reset:
                # Closed with nothing to linger for, a socket sends RST.
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def stall(self):
        """Pass nothing on any more."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def flow(self):
        """Pass on again."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def cut(self, *, reset=False):
        """End every connection, at both ends; *reset*: without a farewell."""
        self._loop.call_soon_threadsafe(lambda: self._cut(reset=reset))

    @property
    def said(self):
        """For each connection the pieces in which the client's octets came; without strangers: see `is_stranger`."""
        return [pieces for pieces in self._said if not is_stranger(b"".join(pieces[:1]))]

    def in_clear(self):
        """Return what each connection's client said outside of TLS."""
        return [in_clear(b"".join(pieces)) for pieces in self.said]
