"""Kill and count: a merge in a child process is killed at random moments, resumed, and its copies counted.

Run ``python tests/kill.py --seeds 200`` for a long run. The moment is one of the server's: the seed picks the
how-manieth MAIL, RCPT, DATA or dot of the run gets SIGKILL instead of an answer, and at a dot whether the
mail was kept before. So both kinds of doubt occur, the delivered and the undelivered one.
"""

from __future__ import annotations

import argparse
import os
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

from scripted import ACCEPT_DROP, DROP, Server

from smtp_notebook import Journal, State

ROWS = 1000
CONNECTIONS = 4
_STAGES = ("dot", "dot", "dot", "data", "rcpt", "mail")
_CHILD = """
import sys
from smtp_notebook import Connection, mail_merge
url, journal, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
frame = [{"Email": f"u{i}@example.com", "n": i} for i in range(rows)]
via = Connection.from_url(url, max_connections=4)
mail_merge(frame, "Hello {{ n }}", subject="Hi {{ n }}", from_="me@example.com", via=via, campaign="kill",
           journal=journal, progress=False)
"""


@dataclass
class Count:
    """What one seed, or all of them, came to."""

    kills: int = 0
    duplicates: int = 0
    unaccounted: int = 0
    doubt_delivered: int = 0
    doubt_undelivered: int = 0
    too_much_doubt: int = 0
    runs: int = 0
    stages: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other):
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


class _Killer:
    """Hooks of the scripted server: counts what arrives, and kills the child at the chosen counts."""

    def __init__(self, chance, moments):
        self._chance = chance
        self._moments = set(moments)
        self._seen = Counter()
        self._lock = threading.Lock()
        self.child = None
        self.killed = Counter()

    def hooks(self):
        return {stage: self._hook(stage) for stage in ("mail", "rcpt", "data", "dot")}

    def _hook(self, stage):
        def met(_argument):
            with self._lock:
                self._seen[stage] += 1
                if (stage, self._seen[stage]) not in self._moments or self.child.poll() is not None:
                    return None
                os.kill(self.child.pid, signal.SIGKILL)
                kept = stage == "dot" and self._chance.random() < 0.5
                self.killed[f"{stage}, kept" if kept else stage] += 1
            self.child.wait()
            return ACCEPT_DROP if kept else DROP

        return met


def run_seed(seed, rows=ROWS, kills=2):
    """Kill *kills* times, resume until the merge is done, and return the Count."""
    chance = random.Random(seed)
    # Half of the kills hit a dot, which is where doubt comes from.
    killer = _Killer(chance, [(chance.choice(_STAGES), n) for n in chance.sample(range(1, rows), kills)])
    count = Count()
    with tempfile.TemporaryDirectory() as folder, Server(killer.hooks()) as server:
        journal = Path(folder) / "journal.sqlite3"
        while True:
            command = [sys.executable, "-c", _CHILD, server.url(), str(journal), str(rows)]
            killer.child = subprocess.Popen(command)
            count.runs += 1
            ended = killer.child.wait(120)
            if ended == 0:
                break
            if ended != -signal.SIGKILL:
                raise RuntimeError(f"seed {seed}: the child ended with {ended}")
            if count.runs > kills + 1:
                raise RuntimeError(f"seed {seed}: killed more often than asked")
        copies = Counter(mail.recipients[0] for mail in server.log.mails)
        report = Journal(journal).report("kill")
    count.stages = killer.killed
    count.kills = sum(killer.killed.values())
    count.duplicates = sum(n > 1 for n in copies.values())
    known = {o.key: o.state for o in report}
    for number in range(rows):
        key = f"u{number}@example.com"
        state = known.get(key)
        if state is State.IN_DOUBT:
            count.doubt_delivered += copies[key] == 1
            count.doubt_undelivered += copies[key] == 0
        elif state is not State.SENT or copies[key] != 1:
            count.unaccounted += 1
    doubts = count.doubt_delivered + count.doubt_undelivered
    count.too_much_doubt = max(0, doubts - CONNECTIONS * count.kills)
    return count


def run_seeds(seeds, rows=ROWS):
    """Run as many seeds, two at a time, and return their Counts as one."""
    total = Count()
    with ThreadPoolExecutor(2) as pool:
        for count in pool.map(lambda seed: run_seed(seed, rows), range(seeds)):
            total += count
    return total


def main():
    """Run many seeds and print what they came to."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=20)
    options.add_argument("--rows", type=int, default=ROWS)
    chosen = options.parse_args()
    begun = time.monotonic()
    total = run_seeds(chosen.seeds, chosen.rows)
    print(f"{chosen.seeds} seeds x {chosen.rows} rows, {time.monotonic() - begun:.0f} s: {total}")
    return 1 if total.duplicates or total.unaccounted or total.too_much_doubt else 0


if __name__ == "__main__":
    raise SystemExit(main())
