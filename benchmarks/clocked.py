"""A server that notes when mails begin: ``clocked.py PATH``; prints the port it listens on.

When it is ended it writes into PATH, as JSON, the moment of each MAIL in seconds, and how many mails it took. It pipelines,
checks nothing and keeps nothing.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path


class Sink:
    """What arrived at all of its connections."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.taken = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take whatever comes on one connection."""
        writer.write(b"220 clocked\r\n")
        text = False
        while line := await reader.readline():
            if text:
                if line == b".\r\n":
                    text = False
                    self.taken += 1
                    writer.write(b"250 taken\r\n")
                continue
            verb = line[:4].upper()
            if verb == b"MAIL":
                self.begun.append(time.monotonic())
            text = verb == b"DATA"
            writer.write(_ANSWERS.get(verb, b"250 fine\r\n"))
            if verb == b"QUIT":
                break
        writer.close()


_ANSWERS = {
    b"EHLO": b"250-clocked\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
    b"DATA": b"354 go on\r\n",
    b"QUIT": b"221 bye\r\n",
}


async def main() -> Sink:
    """Serve until the process is ended, and return what arrived."""
    sink, ended = Sink(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    server = await asyncio.start_server(sink.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()
    return sink


if __name__ == "__main__":
    found = asyncio.run(main())
    said = json.dumps({"begun": found.begun, "taken": found.taken})
    Path(sys.argv[1]).write_text(said, encoding="utf-8")
