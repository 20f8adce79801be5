"""A network that takes its time: ``proxy.py UPSTREAM_PORT SECONDS``; prints the port it listens on.

Each piece is passed on SECONDS/2 after it arrived, in both directions, so that every reply comes SECONDS
after its command, however many commands are under way: latency, not a limit of the rate. (The kernel's own
handshake on loopback is not slowed down, which favours peers that connect anew for every mail.)
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import cast


class Side(asyncio.Protocol):
    """One end of a connection; what arrives here leaves at the other end, later."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.other: Side | None = None
        self.transport: asyncio.Transport | None = None
        self.late: deque[bytes | None] = deque()  # timers that are due together may fire in any order

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hold a piece back."""
        self._later(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio gives it
        """Close the other end, after what is still under way."""
        self._later(None)

    def _later(self, piece: bytes | None) -> None:
        self.late.append(piece)
        asyncio.get_running_loop().call_later(self.delay, self._now)

    def _now(self) -> None:
        piece = self.late.popleft()
        if self.other is None or self.other.transport is None:
            return
        if piece is None:
            self.other.transport.close()
        else:
            self.other.transport.write(piece)


class Front(Side):
    """The client's end: connects to the server on its behalf."""

    def __init__(self, upstream: int, delay: float) -> None:
        super().__init__(delay)
        self.upstream = upstream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the server's greeting take as long as any other reply."""
        super().connection_made(transport)
        self.task = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        await asyncio.sleep(self.delay)
        back = Side(self.delay)
        back.other, self.other = self, back
        try:
            await asyncio.get_running_loop().create_connection(lambda: back, "127.0.0.1", self.upstream)
        except OSError:
            cast("asyncio.Transport", self.transport).close()


async def main(upstream: int, seconds: float) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Front(upstream, seconds / 2), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
