"""Kill and count: a merge in a child process is killed at random moments, resumed, and its copies counted.

Run ``python tests/kill.py --seeds 200`` for a long run. The seed picks three kinds of moments:

- of the server's: the how-manieth MAIL, RCPT, DATA or dot of the run. It is left without an answer while the
  other connections go on for a few commands; then the child gets SIGKILL. At a dot the mail was kept (logs,
  then hangs) or not (hangs, then drops), so both kinds of doubt occur;
- of the clock's: so many milliseconds after a run's first MAIL, wherever the child is then;
- one dot without an answer in a child that lives on.

Besides, some answers come late: only after commands of other connections.

With ``--journal postgresql`` the journals are in a PostgreSQL of this run's own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from databases import running_postgres
from journals import fresh
from scripted import ACCEPT_DROP, DROP, Server

from smtp_notebook import Connection, Journal, State, mail_merge

ROWS = 1000
CONNECTIONS = 4
# Half of the server's moments are a dot, which is where doubt comes from.
_STAGES = ("dot", "dot", "dot", "data", "rcpt", "mail")
#: How many answers in a thousand come late.
_LATE = 20
#: The latest moment of the clock's kill, in seconds after the first MAIL; a run of 1,000 rows takes about this.
_LATEST = 0.5
#: When nothing else arrives, an answer that waits for other commands comes after so many seconds.
_QUIET = 0.1
#: What a child says when rows are left that another run has to send.
_UNFINISHED = 3
_CHILD = """
import sys
sys.path.insert(0, sys.argv[4])
from kill import merge
from smtp_notebook import State
report = merge(sys.argv[1], sys.argv[2], int(sys.argv[3]))
left = {o.state for o in report} - {State.SENT, State.SKIPPED, State.IN_DOUBT}
sys.exit(3 if left else 0)
"""


def child(url, journal, rows):
    """Return the command of a process that does `merge`; it ends with 3 when rows are left to send."""
    return [sys.executable, "-c", _CHILD, url, str(journal), str(rows), str(Path(__file__).parent)]


def merge(url, journal, rows):
    """The merge that is killed: so many rows, on several connections."""
    frame = [{"Email": f"u{i}@example.com", "n": i} for i in range(rows)]
    via = Connection.from_url(url, max_connections=CONNECTIONS)
    return mail_merge(
        frame,
        "Hello {{ n }}",
        subject="Hi {{ n }}",
        from_="me@example.com",
        via=via,
        campaign="kill",
        journal=journal,
        progress=False,
    )


@dataclass
class Count:
    """What one seed, or all of them, came to."""

    kills: int = 0
    drops: int = 0
    duplicates: int = 0
    unaccounted: int = 0
    doubt_delivered: int = 0
    doubt_undelivered: int = 0
    too_much_doubt: int = 0
    runs: int = 0
    late: int = 0
    stages: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other):
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


class _Killer:
    """Hooks of the scripted server: they count what arrives, answer late, and kill the child.

    All but the clock's kill happen on the server's loop.
    """

    def __init__(self, chance, rows):
        self._chance = chance
        self._lock = threading.Lock()
        self._seen = Counter()
        self._waiting = []
        self._begun = False
        self._timer = None
        self._loop = None
        self.child = None
        self.late = 0
        self.killed, self.dropped = Counter(), Counter()
        numbers = chance.sample(range(1, rows), 3)
        self._kills = {(chance.choice(_STAGES), n): chance.random() < 0.5 for n in numbers[:2]}
        self._drop, self._drop_kept = numbers[2], chance.random() < 0.5
        self._by_clock = chance.uniform(0, _LATEST)

    def hooks(self):
        return {stage: self._hook(stage) for stage in ("mail", "rcpt", "data", "dot")}

    def begin(self, child):
        """A new child runs; the clock starts with its first MAIL."""
        with self._lock:
            self.child = child
            self._begun = False

    def end(self):
        """The child is over; its clock with it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
            self._timer = None

    def kill(self, where):
        """Kill the child where it is not dead yet, and let every answer go that waits."""
        with self._lock:
            if self.child.poll() is None:
                self.child.kill()
                self.child.wait()
                self.killed[where] += 1
        self._loop.call_soon_threadsafe(self._release, True)

    def _hook(self, stage):
        def met(_argument):
            self._seen[stage] += 1
            self._release(False)
            if not self._begun:
                self._begun, self._loop = True, asyncio.get_running_loop()
                self._start_clock()
            moment = (stage, self._seen[stage])
            if moment in self._kills:
                return self._hang_and_kill(stage, kept=self._kills[moment])
            if moment == ("dot", self._drop):
                return self._hang_and_drop()
            if self._chance.randrange(1000) < _LATE:
                return self._late()
            return None

        return met

    def _start_clock(self):
        # Once in a seed: where something else was faster, the next run's clock starts again.
        if not self.killed["clock"]:
            self._timer = threading.Timer(self._by_clock, self.kill, ["clock"])
            self._timer.start()

    async def _others(self):
        """Wait until others have said a few commands, or the child is dead, or all is quiet."""
        event = asyncio.Event()
        self._waiting.append((sum(self._seen.values()) + self._chance.randint(1, 12), event))
        try:
            await asyncio.wait_for(event.wait(), _QUIET)
        except TimeoutError:
            self._waiting = [w for w in self._waiting if w[1] is not event]

    def _release(self, everyone):
        said = sum(self._seen.values())
        ready = [w for w in self._waiting if everyone or w[0] <= said]
        self._waiting = [w for w in self._waiting if w not in ready]
        for _, event in ready:
            event.set()

    async def _late(self):
        self.late += 1
        await self._others()

    async def _hang_and_kill(self, stage, *, kept):
        await self._others()
        self.kill(f"{stage}, kept" if kept and stage == "dot" else stage)
        return ACCEPT_DROP if kept and stage == "dot" else DROP

    async def _hang_and_drop(self):
        self.dropped["drop, kept" if self._drop_kept else "drop"] += 1
        await self._others()
        return ACCEPT_DROP if self._drop_kept else DROP


def run_seed(seed, rows=ROWS, postgres=None):
    """Kill, drop and delay as the seed says, resume until the merge is done, and return the Count.

    The journal is a file, or in *postgres*, a `databases.Postgres`.
    """
    killer = _Killer(random.Random(seed), rows)
    count = Count()
    with tempfile.TemporaryDirectory() as folder, Server(killer.hooks()) as server:
        journal = fresh(postgres) if postgres is not None else Path(folder) / "journal.sqlite3"
        while True:
            killer.begin(subprocess.Popen(child(server.url(), journal, rows)))
            count.runs += 1
            ended = killer.child.wait(120)
            killer.end()
            if ended == 0:
                break
            if ended not in {-signal.SIGKILL, _UNFINISHED}:
                raise RuntimeError(f"seed {seed}: the child ended with {ended}")
            if count.runs > 8:
                raise RuntimeError(f"seed {seed}: it never ends")
        copies = Counter(mail.recipients[0] for mail in server.log.mails)
        report = Journal(journal).report("kill")
    count.stages, count.late = killer.killed + killer.dropped, killer.late
    count.kills, count.drops = killer.killed.total(), killer.dropped.total()
    _judge(count, copies, {o.key: o.state for o in report}, rows)
    return count


def _judge(count, copies, known, rows):
    """Compare what the journal says of each row with the copies that the server kept."""
    count.duplicates = sum(n > 1 for n in copies.values())
    for number in range(rows):
        key = f"u{number}@example.com"
        state = known.get(key)
        if state is State.IN_DOUBT:
            count.doubt_delivered += copies[key] == 1
            count.doubt_undelivered += copies[key] == 0
        elif state is not State.SENT or copies[key] != 1:
            count.unaccounted += 1
    doubts = count.doubt_delivered + count.doubt_undelivered
    count.too_much_doubt = max(0, doubts - CONNECTIONS * count.kills - count.drops)


def run_seeds(seeds, rows=ROWS, postgres=None):
    """Run as many seeds, two at a time, and return their Counts as one."""
    total = Count()
    with ThreadPoolExecutor(2) as pool:
        for count in pool.map(lambda seed: run_seed(seed, rows, postgres), range(seeds)):
            total += count
    return total


def main():
    """Run many seeds and print what they came to."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=20)
    options.add_argument("--rows", type=int, default=ROWS)
    options.add_argument("--journal", choices=("sqlite", "postgresql"), default="sqlite")
    chosen = options.parse_args()
    begun = time.monotonic()
    with running_postgres() if chosen.journal == "postgresql" else contextlib.nullcontext() as postgres:
        total = run_seeds(chosen.seeds, chosen.rows, postgres)
    print(f"{chosen.seeds} seeds x {chosen.rows} rows, {time.monotonic() - begun:.0f} s: {total}")
    return 1 if total.duplicates or total.unaccounted or total.too_much_doubt else 0


if __name__ == "__main__":
    raise SystemExit(main())
