"""What everybody sends to, and what nobody beats: Postfix's smtp-sink and smtp-source, and the slow network.

All of it listens on 127.0.0.1 alone, and each is a process of this run that ends with it.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BACKLOG = 256
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
_COUNTS = re.compile(rb"mesg=(\d+)")
_TRIES = 5


def tool(name: str) -> str:
    """Return the path of one of Postfix's programs, which are not on a user's PATH."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        sys.exit(
            f"{name} is missing, it comes with Postfix: sudo apt-get install -y --no-install-recommends postfix"
        )
    return found


def free_port() -> int:
    """Return a port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Sink:
    """A running smtp-sink.

    Attributes:
        port: Where it listens.
        log: Where it writes its counters, after every mail.
    """

    port: int
    log: Path

    def count(self) -> int:
        """Return how many mails it took; its own figure, not the peer's."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 200))
            found = _COUNTS.findall(file.read())
        return int(found[-1]) if found else 0


@contextlib.contextmanager
def sink(folder: Path, *options: str) -> Iterator[Sink]:
    """Run a new smtp-sink; *options* are more of its own."""
    for _ in range(_TRIES):
        port, log = free_port(), folder / f"sink-{time.monotonic_ns()}.log"
        command = [tool("smtp-sink"), *_user(), "-c", *options, f"127.0.0.1:{port}", str(BACKLOG)]
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            if _answers(process, port):
                yield Sink(port, log)
                return
        finally:
            process.terminate()
            process.wait()
            said = log.read_bytes()[-200:]
            log.unlink()
    sys.exit(f"smtp-sink does not start: {said.decode(errors='replace')}")


def _user() -> list[str]:
    """As root it insists on a user to become."""
    return ["-u", "nobody"] if os.geteuid() == 0 else []


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the server greets; False when it ended, as when somebody else took the port."""
    for _ in range(200):
        if process.poll() is not None:
            return False
        try:
            smtplib.SMTP("127.0.0.1", port, local_hostname="localhost", timeout=5).quit()
        except (OSError, smtplib.SMTPException):
            time.sleep(0.02)
        else:
            return True
    return False


@contextlib.contextmanager
def slow(port: int, seconds: float) -> Iterator[int]:
    """Run the proxy in front of *port*; give its own port."""
    command = [sys.executable, str(HERE / "proxy.py"), str(port), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        if not select.select([process.stdout], [], [], 10)[0]:
            sys.exit("The delaying proxy does not start.")
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def round_trip(port: int, times: int = 15) -> float:
    """Return how long one reply takes there: the median of some NOOPs, in seconds."""
    took = []
    with smtplib.SMTP("127.0.0.1", port, local_hostname="localhost") as server:
        server.ehlo()
        for _ in range(times):
            start = time.perf_counter()
            server.noop()
            took.append(time.perf_counter() - start)
    return sorted(took)[times // 2]


def smtp_source(port: int, mails: int, size: int, sessions: int) -> float:
    """Send *mails* of *size* bytes with Postfix's generator; return the seconds it took.

    ``-d`` keeps each connection; one recipient per mail. It builds nothing: the same bytes go every time.
    """
    command = [tool("smtp-source"), "-d", "-s", str(sessions), "-m", str(mails), "-l", str(size)]
    command += ["-M", "localhost", "-f", "news@example.com", "-t", "person@example.com", f"127.0.0.1:{port}"]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=600)
    return time.perf_counter() - start
