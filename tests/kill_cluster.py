"""Kill and count over a cluster: workers and the client of a merge are killed at random moments, and copies counted.

Run ``python tests/kill_cluster.py --seeds 20`` for a long run. A seed kills at the moments that `kill` describes, of the
server's and of the clock's; each time it is a worker, both of them, or the client, that gets SIGKILL. The cluster is
made of processes of its own (two workers, each with its nanny, which starts a dead one anew), so that it outlives the
client. A client that was killed is followed by another, which goes on with the campaign at once, while the workers of
the first one may still be sending. The journal is in a PostgreSQL of this run's own.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
from databases import running_postgres
from distributed import Client, LocalCluster
from journals import fresh
from kill import CONNECTIONS, ROWS, Count, _judge, _Killer
from scripted import Server

from smtp_notebook import Connection, Journal, State, mail_merge

WORKERS = 2
#: The latest moment of the clock's kill, in seconds after the first MAIL.
_LATEST = 1.5
#: How old a worker's process is that has begun, in seconds.
_GROWN = 2.0
_UNFINISHED = 3
_MOST_RUNS = 12
_CHILD = """
import sys
sys.path.insert(0, sys.argv[5])
from kill_cluster import unfinished
sys.exit(3 if unfinished(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]) else 0)
"""


@contextlib.contextmanager
def running_cluster():
    """Start a cluster of processes of their own, and give it."""
    with LocalCluster(
        n_workers=WORKERS,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster


def unfinished(url, journal, rows, address):
    """Do the merge that is killed; tell whether rows are left that another run has to send."""
    with Client(address) as client:
        client.wait_for_workers(1, timeout=60)
        report = merge(url, journal, rows, client)
    return bool({o.state for o in report} - {State.SENT, State.SKIPPED, State.IN_DOUBT})


def merge(url, journal, rows, client, **more):
    """The merge that is killed: so many rows, over the workers of a cluster."""
    frame = [{"Email": f"u{i}@example.com", "n": i} for i in range(rows)]
    via = Connection.from_url(url, max_connections=CONNECTIONS)
    options = {"subject": "Hi {{ n }}", "from_": "me@example.com", "campaign": "kill", "progress": False}
    return mail_merge(frame, "Hello {{ n }}", via=via, journal=journal, executor=client, **(options | more))


class _ClusterKiller(_Killer):
    """Kills a worker, all of them, or the client."""

    def __init__(self, chance, rows, cluster):
        super().__init__(chance, rows)
        self._cluster = cluster
        self._by_clock = chance.uniform(0, _LATEST)
        #: How many connections those had who were killed, and how many were cut beside them.
        self.open_connections = 0

    def kill(self, where):
        with self._lock:
            victim = self._chance.choice(("worker", "worker", "workers", "client"))
            pids = self._grown()
            if not pids:
                victim = "client"
            if self.child.poll() is None:
                self.killed[f"{victim}: {where}"] += 1
                self.open_connections += CONNECTIONS // WORKERS if victim == "worker" else CONNECTIONS
                # The dot that it hung at is dropped, and may be of a worker who lives.
                self.open_connections += victim == "worker" and where.startswith("dot")
                if victim == "client":
                    self.child.kill()
                    self.child.wait()
                else:
                    for pid in pids if victim == "workers" else [self._chance.choice(pids)]:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
        self._loop.call_soon_threadsafe(self._release, True)

    def _start_clock(self):
        if not any(where.endswith("clock") for where in self.killed):
            super()._start_clock()

    def _grown(self):
        """Return the workers' processes that are no longer starting; one that dies then takes its nanny along."""
        found = []
        for nanny in self._cluster.workers.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                if nanny.pid and time.time() - psutil.Process(nanny.pid).create_time() > _GROWN:
                    found.append(nanny.pid)
        return found


def run_seed(seed, postgres, cluster, rows=ROWS):
    """Kill as the seed says, resume until the merge is done, and return the Count."""
    killer = _ClusterKiller(random.Random(seed), rows, cluster)
    count = Count()
    with Server(killer.hooks()) as server:
        journal = fresh(postgres)
        words = [server.url(), journal, str(rows), cluster.scheduler_address, str(Path(__file__).parent)]
        while True:
            killer.begin(subprocess.Popen([sys.executable, "-c", _CHILD, *words]))
            count.runs += 1
            ended = killer.child.wait(180)
            killer.end()
            if ended == 0:
                break
            if ended not in {-signal.SIGKILL, _UNFINISHED}:
                raise RuntimeError(f"seed {seed}: the child ended with {ended}")
            if count.runs > _MOST_RUNS:
                raise RuntimeError(f"seed {seed}: it never ends")
        copies = Counter(mail.recipients[0] for mail in server.log.mails)
        report = Journal(journal).report("kill")
    count.stages, count.late = killer.killed + killer.dropped, killer.late
    count.kills, count.drops = killer.killed.total(), killer.dropped.total()
    _judge(count, copies, {o.key: o.state for o in report}, rows)
    count.too_much_doubt = max(
        0, count.doubt_delivered + count.doubt_undelivered - killer.open_connections - count.drops
    )
    return count


def run_seeds(seeds, rows=ROWS, first=0):
    """Run as many seeds one after another, and return their Counts as one."""
    total = Count()
    with running_postgres() as postgres:
        for seed in range(first, first + seeds):
            # A nanny may be lost with a worker that had only just begun.
            with running_cluster() as cluster:
                count = run_seed(seed, postgres, cluster, rows)
            print(seed, count, flush=True)  # noqa: T201 - the figures are the point
            total += count
    return total


def main():
    """Run many seeds and print what they came to."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=20)
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--rows", type=int, default=ROWS)
    chosen = options.parse_args()
    begun = time.monotonic()
    total = run_seeds(chosen.seeds, chosen.rows, chosen.first)
    print(f"{chosen.seeds} seeds x {chosen.rows} rows, {time.monotonic() - begun:.0f} s: {total}")  # noqa: T201
    return 1 if total.duplicates or total.unaccounted or total.too_much_doubt else 0


if __name__ == "__main__":
    raise SystemExit(main())
