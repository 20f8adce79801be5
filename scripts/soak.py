"""Send many mails to a Postfix that fails in every way, and count the copies.

``soak.py --count 100000 --minutes 30``. A merge runs in a process of its own, with a journal, and is run again
until nothing is left. Meanwhile, at moments that the seed picks, Postfix is stopped or aborted and started again,
and the network between passes nothing on for a while, drops every connection or resets it. Some recipients are
refused for good, some are greylisted, and some have no room until the faults are over. At the end each row must
be in one known state, with as many copies as that state says, and the memory of the merge must not have grown.

A copy is counted where Postfix delivers: by recipient and by Postfix's own name for the mail, so that what Postfix
delivers again after it was aborted is not taken for a mail that was sent twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

CAMPAIGN = "soak"
CONNECTIONS = 4
#: Seconds that a command and the answer to a mail may take; a long stall lasts longer.
TIMEOUT = 5.0
#: Of so many rows one is of that kind.
KINDS = {"never": 211, "full": 101, "grey": 499}
_NEVER = "/^never/ 550 5.7.1 not wanted here\n"
_FULL = "/^full/ 452 4.2.2 no room\n"
_GREY = "/^grey/ greylist\n"
#: States that no further run changes by itself.
_SETTLED = ("sent", "refused", "in_doubt")
#: How much the memory of the last third of a run may be above that of the first.
_GROWTH = 0.10
#: In a shorter time, in seconds, memory still settles, and is only said.
_JUDGED = 120


# ------------------------------------------------------------------------------------------- the merge


def address(number: int) -> str:
    """Return whom a row is for: its name says how the server treats it."""
    kind = next((kind for kind, every in KINDS.items() if number % every == every - 1), "u")
    return f"{kind}{number}@example.test"


def child(url: str, journal: str, count: int, rate: str) -> None:
    """Run the merge until nothing is left that another run would send; tell of each run on stdout."""
    from smtp_notebook import Connection, mail_merge

    rows = [{"Email": address(n), "n": n} for n in range(count)]
    via = Connection.from_url(
        url, max_connections=CONNECTIONS, timeout=TIMEOUT, dot_timeout=TIMEOUT, rate=rate
    )
    for run in range(1, 10_000):
        _wait_for(via.port)
        report = mail_merge(
            rows,
            "Dear reader {{ n }}, this is a **soak**.",
            subject="Soak {{ n }}",
            from_="me@example.test",
            via=via,
            campaign=CAMPAIGN,
            journal=journal,
            progress=False,
        )
        counts = {str(state): n for state, n in report.counts.items()}
        print(json.dumps({"run": run, "counts": counts}), flush=True)
        if not set(counts) - {*_SETTLED, "skipped"}:
            return


def _wait_for(port: int) -> None:
    """Wait until the server greets again, as a person would before running the cell again."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as peer:
            peer.settimeout(2)
            if peer.recv(3) == b"220":
                return
        time.sleep(0.2)


# -------------------------------------------------------------------------------------------- delivery


class Sink:
    """Where Postfix delivers by LMTP (RFC 2033): notes each copy, and keeps none of the text.

    Attributes:
        copies: How often each mail was delivered to each recipient, by recipient and Postfix's name for the mail.
    """

    def __init__(self) -> None:
        self.copies: Counter[tuple[str, str]] = Counter()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, daemon=True).start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 sink LMTP\r\n")
        to: list[str] = []
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                verb = line[:4].upper()
                if verb == b"RCPT":
                    to.append(line.decode().partition("<")[2].partition(">")[0])
                if verb == b"DATA":
                    writer.write(b"354 go ahead\r\n")
                    name = _queue_name(await reader.readuntil(b"\r\n.\r\n"))
                    self.copies.update((who, name) for who in to)
                    writer.write(b"250 2.0.0 kept\r\n" * len(to))
                    to = []
                elif verb == b"QUIT":
                    break
                else:
                    writer.write(b"250 2.0.0 ok\r\n")
                await writer.drain()
        writer.close()


def _queue_name(mail: bytes) -> str:
    """Return Postfix's own name for a mail, which never occurs twice with enable_long_queue_ids."""
    found = re.search(rb"with E?SMTPS?A? id ([0-9A-Za-z]+)", mail)
    return found[1].decode() if found else ""


# ---------------------------------------------------------------------------------------------- faults


@dataclass
class Faults:
    """What goes wrong, one after another, at moments that the seed picks.

    Args:
        postfix: The server.
        wire: The network between.
        chance: The seed's.
        gap: How many seconds lie between two faults, on the average.
    """

    postfix: Any
    wire: Any
    chance: random.Random
    gap: float
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._kinds: dict[str, Callable[[], None]] = {
            "Postfix stopped": lambda: self._restart("stop"),
            "Postfix aborted": lambda: self._restart("abort"),
            "short stall": lambda: self._stall(0.2, 0.8 * TIMEOUT),
            "long stall": lambda: self._stall(1.1 * TIMEOUT, 1.6 * TIMEOUT),
            "connections dropped": self.wire.cut,
            "connections reset": lambda: self.wire.cut(reset=True),
        }

    def until(self, over: Callable[[], bool], seconds: float) -> None:
        """Let things go wrong for so many seconds, or until it is *over*."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not over():
            pause = time.monotonic() + self.chance.uniform(0.5, 1.5) * self.gap
            while time.monotonic() < min(pause, deadline) and not over():
                time.sleep(0.2)
            kind = self.chance.choice(list(self._kinds))
            self._kinds[kind]()
            self.done[kind] += 1

    def _restart(self, how: str) -> None:
        self.postfix.stop(how)
        time.sleep(self.chance.uniform(0.1, 3.0))
        self.postfix.resume()

    def _stall(self, least: float, most: float) -> None:
        self.wire.stall()
        time.sleep(self.chance.uniform(least, most))
        self.wire.flow()


# --------------------------------------------------------------------------------------------- the run


class Merge:
    """The child process: what it told, and its memory after the first run, a sample each second in MB."""

    def __init__(self, url: str, journal: Path, count: int, rate: str) -> None:
        words = [sys.executable, __file__, "--child", url, str(journal), str(count), rate]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.runs: list[Mapping[str, int]] = []
        self.memory: list[float] = []
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._sample, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = json.loads(line)
            self.runs.append(told["counts"])
            print(f"  run {told['run']}: {told['counts']}", flush=True)

    def _sample(self) -> None:
        status = Path(f"/proc/{self.process.pid}/status")
        while self.process.poll() is None:
            with contextlib.suppress(OSError):
                found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text(encoding="ascii"))
                # What the first run loads and checks is there to stay.
                if found and self.runs:
                    self.memory.append(int(found[1]) / 1024)
            time.sleep(1)

    def finish(self, seconds: float) -> None:
        """Wait for its end; fail when that takes longer than so many seconds, or is none in order."""
        if self.process.wait(seconds):
            raise RuntimeError(f"the merge ended with {self.process.returncode}")

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    @property
    def only_waits(self) -> bool:
        """Whether what is left are rows whose recipients have no room."""
        last = self.runs[-1] if self.runs else {"planned": 1}
        return not {"planned", "failed"} & set(last) and last.get("deferred", 0) > 0


@dataclass
class Count:
    """What came of all rows; the names are the figures that are printed."""

    rows: int
    states: Counter[str] = field(default_factory=Counter)
    doubt_delivered: int = 0
    doubt_undelivered: int = 0
    unknown: int = 0
    lost: int = 0
    refused_but_delivered: int = 0
    sent_twice: int = 0
    to_strangers: int = 0
    again_by_postfix: int = 0

    @property
    def good(self) -> bool:
        """Whether everything is as promised."""
        wrong = (self.unknown, self.lost, self.refused_but_delivered, self.sent_twice, self.to_strangers)
        return not any(wrong) and self.states.total() == self.rows


def judged(rows: int, states: Mapping[str, str], copies: Mapping[tuple[str, str], int]) -> Count:
    """Compare what the journal says of each row with what was delivered.

    Args:
        rows: How many rows there were; each one's key is its `address`.
        states: What the journal says of each key.
        copies: How often each mail of Postfix's was delivered to each recipient.
    """
    mails = Counter(who for who, _ in copies)
    count = Count(rows, Counter(states.values()))
    count.again_by_postfix = sum(n - 1 for n in copies.values())
    count.sent_twice = sum(n > 1 for n in mails.values())
    expected = {address(n) for n in range(rows)}
    count.to_strangers = len((set(mails) | set(states)) - expected)
    for key in expected:
        match states.get(key), mails[key]:
            case "in_doubt", 0:
                count.doubt_undelivered += 1
            case "in_doubt", _:
                count.doubt_delivered += 1
            case "sent", 0:
                count.lost += 1
            case "refused", 0 | 1 as there:
                count.refused_but_delivered += there
            case "sent" | "refused", _:
                pass
            case _:
                count.unknown += 1
    return count


def grown(memory: list[float]) -> tuple[float, float]:
    """Return the mean memory of the first and of the last third, in MB; 0 where there are no samples."""
    if not memory:
        return 0.0, 0.0
    third = max(1, len(memory) // 3)
    return sum(memory[:third]) / third, sum(memory[-third:]) / third


def _states(journal: Path) -> dict[str, str]:
    from smtp_notebook import Journal

    return {o.key: str(o.state) for o in Journal(journal).report(CAMPAIGN)}


def _settle(journal: Path, doubtful: set[str], sink: Sink) -> None:
    """Say what became of each row in doubt, as a person does who has looked."""
    from smtp_notebook import Journal

    delivered = {who for who, _ in sink.copies}
    book = Journal(journal)
    for key in sorted(doubtful):
        print(f"  in doubt: {key}, {'delivered' if key in delivered else 'not delivered'}")
        book.resolve(CAMPAIGN, key, delivered=key in delivered)


@contextlib.contextmanager
def servers() -> Iterator[tuple[Any, Any, Sink]]:
    """Start the sink, Postfix, and the network before it."""
    from mailservers import running_postfix
    from wire import Wire

    with Sink() as sink:
        settings = {
            "transport": f"lmtp:inet:127.0.0.1:{sink.port}",
            "more": "enable_long_queue_ids = yes\n",
        }
        with running_postfix(**settings) as postfix, Wire(postfix.port, keep=False) as wire:
            postfix.refuse(_NEVER + _FULL + _GREY)
            yield postfix, wire, sink


def soak(count: int, minutes: float, seed: int) -> tuple[Count, Count, list[float]]:
    """Send, fail, send again, and return the Counts before and after doubt was settled, and the memory."""
    from mailservers import until

    with servers() as (postfix, wire, sink), tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal.sqlite3"
        seconds = minutes * 60
        # About half of the time goes by while nothing can be sent, or all rows are being checked again.
        rate = f"{max(1, round(2 * count / seconds))}/s"
        url = f"smtp+plain://127.0.0.1:{wire.port}"
        with Merge(url, journal, count, rate) as merge:
            chance = random.Random(seed)  # noqa: S311 - the same faults again, nothing secret
            faults = Faults(postfix, wire, chance, gap=min(20.0, max(2.0, seconds / 20)))
            begun = time.monotonic()
            while not (merge.over or (merge.only_waits and time.monotonic() > begun + seconds)):
                faults.until(lambda: merge.over or merge.only_waits, seconds / 10)
                time.sleep(0.2)
            print(f"Faults in {time.monotonic() - begun:.0f} s: {dict(faults.done)}", flush=True)
            postfix.refuse(_NEVER + _GREY)
            merge.finish(600 + seconds)
        until(lambda: not postfix.queued(), 300, "the queue is empty")
        states = _states(journal)
        doubtful = judged(count, states, sink.copies)
        _settle(journal, {k for k, state in states.items() if state == "in_doubt"}, sink)
        with Merge(url, journal, count, rate) as last:
            last.finish(600)
        until(lambda: not postfix.queued(), 300, "the queue is empty")
        return doubtful, judged(count, _states(journal), sink.copies), merge.memory


def _ended(*_: object) -> NoReturn:
    """End in order: the servers with us."""
    sys.exit("Stopped.")


def main() -> int:
    """Run it, and print the figures; 1 when a promise was broken."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--count", type=int, default=100_000, help="how many mails")
    options.add_argument("--minutes", type=float, default=30, help="over about how many minutes")
    options.add_argument("--seed", type=int, default=1, help="of the faults")
    options.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        url, journal, count, rate = chosen.child
        child(url, journal, int(count), rate)
        return 0
    from mailservers import lacking

    if why := lacking("postfix"):
        print(why)
        return 1
    signal.signal(signal.SIGTERM, _ended)
    begun = time.monotonic()
    doubtful, settled, memory = soak(chosen.count, chosen.minutes, chosen.seed)
    first, last = grown(memory)
    flat = len(memory) < _JUDGED or last <= first * (1 + _GROWTH)
    print(f"{chosen.count} mails, seed {chosen.seed}, {(time.monotonic() - begun) / 60:.1f} minutes")
    print(f"  after the faults:        {doubtful}")
    print(f"  after doubt was settled: {settled}")
    print(
        f"  memory: {first:.0f} MB in the first third, {last:.0f} MB in the last, most {max(memory, default=0):.0f} MB"
    )
    good = doubtful.good and settled.good and flat and not settled.states["in_doubt"]
    print("Everything is as promised." if good else "A PROMISE IS BROKEN.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
