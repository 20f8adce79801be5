"""Send the workload with one peer, and print how long that took: ``drive.py JOB``, a JSON file.

Runs in the peer's own environment and process. Imports, reading the rows and a few mails to warm up come
before the clock; connecting, making each mail and taking leave are inside it, for everybody.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Row = dict[str, Any]
#: Makes a function that sends one row, over a connection of its own where the peer keeps one.
Opened = AbstractContextManager[Callable[[Row], None]]


@dataclass(frozen=True, slots=True)
class Job:
    """What one peer sends.

    Attributes:
        peer: The module below ``peers/``.
        port: The server's port on 127.0.0.1.
        rows: The file of the rows.
        warm_up: How many of them come before the clock.
        workers: Connections at once.
        attachment: A file that every mail carries, or "".
        folder: An empty folder for what the peer writes.
        option: What the peer's module knows, such as the kind of template.
    """

    peer: str
    port: int
    rows: str
    warm_up: int
    workers: int
    attachment: str
    folder: str
    option: str = ""

    def attached(self) -> bytes:
        """Return the attachment, or nothing."""
        return Path(self.attachment).read_bytes() if self.attachment else b""


def shared_out(rows: list[Row], workers: int, opened: Callable[[], Opened]) -> int:
    """Send *rows* with as many threads as *workers*, each with a sender of its own; return how many went."""
    left = iter(rows)

    def work() -> int:
        count = 0
        with opened() as send:
            for row in left:  # a list's iterator gives each row to one thread alone
                send(row)
                count += 1
        return count

    with ThreadPoolExecutor(workers) as pool:
        return sum(done.result() for done in [pool.submit(work) for _ in range(workers)])


def main(path: Path) -> None:
    """Run the job in *path*."""
    job = Job(**json.loads(path.read_text(encoding="utf-8")))
    peer = importlib.import_module(f"peers.{job.peer}")
    every: list[Row] = json.loads(Path(job.rows).read_text(encoding="utf-8"))
    prepared = getattr(peer, "prepared", list)
    warm_up, rows = prepared(every[: job.warm_up]), prepared(every[job.warm_up :])
    if job.warm_up:
        peer.send(replace(job, workers=1), warm_up)
    start, cpu = time.perf_counter(), time.process_time()
    sent = peer.send(job, rows)
    took = {"sent": sent, "seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    print(json.dumps(took))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
