"""Kill and count: a watch in a child process is killed at random moments, started again, and its copies counted.

Run ``python tests/kill_watch.py --seeds 20`` for a long run. Its source is a table that grows while it is polled, in
chunks: several leads have one time of creation, some are seen late, inside the overlap, some have a bad address or no
key, and some come again with another address. Leads that were there before must not be mailed at all.

The seed picks moments of four kinds:

- the server's, as in `kill`: the how-manieth MAIL, RCPT, DATA or dot; and one dot without an answer in a child that
  lives on;
- the clock's: so many milliseconds after a child's first MAIL;
- the watch's own: the how-manieth time that it has read, has planned and not moved its cursor, has moved it and not
  sent, or is about to tell the source;
- in every fourth seed a second process polls the same campaign all the time.

Odd seeds poll in the watch's own thread, even ones by hand.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import kill
from scripted import Server

from smtp_notebook import Connection, Journal, MergeRefusedError, State, triggers, watch
from smtp_notebook.sources import Batch, Part
from smtp_notebook.watchbook import Watchbook

LEADS, POLLS, BEFORE = 500, 50, 20
CONNECTIONS = 4
#: A lead is seen at most so many units of its table's clock after it was created.
OVERLAP = 20
#: The watch's own moments.
MOMENTS = ("begin", "read", "planned", "moved", "telling")
_DONE, _FAILED = 0, 4
_TABLES = """
CREATE TABLE lead (id TEXT, email TEXT, created INTEGER, seen INTEGER);
CREATE TABLE world (polls INTEGER, last INTEGER);
CREATE TABLE moment (name TEXT PRIMARY KEY, times INTEGER);
CREATE TABLE told (key TEXT);
"""


# ------------------------------------------------------------------------------------------------ the child


class Table:
    """A table of leads, as a source. Each read is a tick of its world's clock."""

    name, key = "leads", ("Id",)

    def __init__(self, path, deadly):
        self._path = path
        self._deadly = deadly

    def _db(self):
        return closing(sqlite3.connect(self._path, timeout=30, isolation_level=None))

    def met(self, name):
        """Count a moment, and die where it is the one; a rival never dies, and counts none."""
        if not self._deadly:
            return
        with self._db() as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT OR IGNORE INTO moment VALUES (?, 0)", (name,))
            db.execute("UPDATE moment SET times = times + 1 WHERE name=?", (name,))
            times = db.execute("SELECT times FROM moment WHERE name=?", (name,)).fetchone()[0]
            db.execute("COMMIT")
        if times == self._deadly.get(name):
            os.kill(os.getpid(), signal.SIGKILL)

    def _rows(self, condition, *values):
        with self._db() as db:
            query = f"SELECT id, email FROM lead WHERE seen <= (SELECT polls FROM world) AND {condition} ORDER BY created, rowid"
            return [{"Id": i, "Email": e} for i, e in db.execute(query, values)]

    def _newest(self):
        with self._db() as db:
            return db.execute(
                "SELECT max(created) FROM lead WHERE seen <= (SELECT polls FROM world)"
            ).fetchone()[0]

    def begin(self, _since):
        found = Batch((Part("", self._rows("1")),), self._newest())
        self.met("begin")
        return found

    def read(self, cursor):
        with self._db() as db:
            db.execute("UPDATE world SET polls = polls + 1")
        newest = self._newest()
        rows = self._rows("created >= ?", cursor - OVERLAP)
        self.met("read")
        return Batch((Part("", rows),) if rows else (), newest)

    def again(self, wanted):
        rows = [row for row in self._rows("1") if wanted.key_of(row) in wanted.keys]
        return Batch((Part("", rows),) if rows else ())

    def sent(self, outcomes, _rows):
        self.met("telling")
        keys = [outcome.key for outcome in outcomes]
        with self._db() as db:
            db.executemany("INSERT INTO told VALUES (?)", [(key,) for key in keys])
        return keys

    @property
    def over(self):
        """Whether all leads have been seen."""
        with self._db() as db:
            return db.execute("SELECT polls >= last FROM world").fetchone()[0] == 1


def child(url, folder, deadly, threaded):
    """Watch until every lead is settled; return what the process ends with."""
    source = Table(Path(folder) / "leads.sqlite3", deadly)

    class Book(Watchbook):
        def advance(self, before, after):
            source.met("planned")
            done = super().advance(before, after)
            source.met("moved")
            return done

    triggers.Watchbook = Book
    # A row that was put off may be tried again at once.
    triggers.NOW = lambda: dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    triggers.WAIT = lambda event, _seconds: event.wait(0.001)
    found = watch(
        source,
        "---\nsubject: Hi {{ Id }}\n---\nHello {{ Id }}",
        every=60,
        campaign="kill",
        max_per_poll=LEADS,
        journal=Path(folder) / "journal.sqlite3",
        via=Connection.from_url(url, max_connections=CONNECTIONS),
        from_="me@example.com",
    )

    def settled(status):
        return source.over and not (status.new or status.planned or status.failed or status.error)

    if threaded:
        found._asked = triggers.dataclasses.replace(
            found._asked, on_poll=lambda status: settled(status) and found.stop(0)
        )
        status = found.start().wait()
        return _FAILED if status.phase is triggers.Phase.FAILED else _DONE
    while True:
        try:
            found.poll()
        except MergeRefusedError as error:
            if not error.passing:
                raise
            continue
        if settled(found.status):
            return _DONE


def zygote():
    """Fork a child for each line of the input: what Python and the package need to start is done once."""
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                code = child(**json.loads(line))
            finally:
                os._exit(code)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


class Nursery:
    """A process that forks children, one after another."""

    def __init__(self):
        command = [sys.executable, __file__, "--zygote"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def child(self, **arguments):
        self._process.stdin.write(json.dumps(arguments) + "\n")
        return Child(self._process.stdout)


class Child:
    """A child of the nursery; what `kill` knows of a Popen."""

    def __init__(self, said):
        self._pid = int(said.readline())
        self._over = threading.Event()
        self._code = None
        threading.Thread(target=self._wait, args=(said,), daemon=True).start()

    def _wait(self, said):
        self._code = int(said.readline() or "99")
        self._over.set()

    def poll(self):
        return self._code

    def kill(self):
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(self._pid, signal.SIGKILL)

    def wait(self, timeout=60):
        assert self._over.wait(timeout), "the child hangs"
        return self._code


# --------------------------------------------------------------------------------------------- the judge


@dataclass
class Count:
    """What one seed, or all of them, came to."""

    leads: int = 0
    mailed: int = 0
    kills: int = 0
    drops: int = 0
    duplicates: int = 0
    early: int = 0
    unaccounted: int = 0
    untold: int = 0
    doubt_delivered: int = 0
    doubt_undelivered: int = 0
    too_much_doubt: int = 0
    invalid: int = 0
    runs: int = 0
    stages: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other):
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self

    @property
    def broken(self):
        return self.duplicates + self.early + self.unaccounted + self.untold + self.too_much_doubt


@dataclass
class World:
    """The leads of a seed.

    Attributes:
        good: Keys of those who are to be mailed, each with its addresses: the first, and those of later rows.
        bad: Keys of those whose address is none.
        nameless: How many rows have no key.
        early: Addresses of those who were there before.
    """

    good: dict[str, list[str]] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    nameless: int = 0
    early: list[str] = field(default_factory=list)


def populate(path, chance, leads, polls):
    """Fill the table: whom a watch will see at which poll."""
    world, rows = World(), []
    for number in range(BEFORE):
        address = f"early{number}@example.com"
        world.early.append(address)
        rows.append((f"E{number}", address, 0, 0))
    steps = sorted(chance.choices(range(1, polls), k=leads))
    for number, step in enumerate(steps):
        # Ten units of the table's clock are one poll; leads of a poll share a few of them.
        created = step * 10 + chance.randrange(3)
        late = chance.random() < 0.1
        seen = min(polls - 1, step + 1) if late else step
        kind, key, address = chance.random(), f"L{number}", f"u{number}@example.com"
        if kind < 0.01:
            world.bad.append(key)
            rows.append((key, f"u{number}@", created, seen))
        elif kind < 0.02:
            world.nameless += 1
            rows.append(("", f"nameless{number}@example.com", created, seen))
        else:
            world.good[key] = [address]
            rows.append((key, address, created, seen))
            if kind < 0.06:
                world.good[key].append(f"again{number}@example.com")
                later = min(polls - 1, seen + chance.randrange(3))
                rows.append((key, f"again{number}@example.com", later * 10 + 5, later))
    with closing(sqlite3.connect(path)) as db:
        db.executescript(_TABLES)
        db.executemany("INSERT INTO lead VALUES (?, ?, ?, ?)", rows)
        db.execute("INSERT INTO world VALUES (0, ?)", (polls,))
        db.commit()
    return world


def run_seed(seed, leads=LEADS, polls=POLLS):
    """Kill, drop and delay as the seed says, start again until all is settled, and return the Count."""
    chance = random.Random(seed)
    killer = kill._Killer(chance, leads - leads // 10)
    deadly = {
        name: 1 if name == "begin" else chance.randint(1, polls - 2) for name in chance.sample(MOMENTS, 3)
    }
    count = Count(leads=leads)
    with tempfile.TemporaryDirectory() as folder, Server(killer.hooks()) as server, Nursery() as nursery:
        world = populate(Path(folder) / "leads.sqlite3", chance, leads, polls)
        given = {"url": server.url(), "folder": folder, "threaded": bool(seed % 2)}
        rival = threading.Thread(target=_rival, args=(given,))
        if not seed % 4:
            rival.start()
        while True:
            killer.begin(nursery.child(deadly=deadly, **given))
            count.runs += 1
            ended = killer.child.wait(120)
            killer.end()
            if ended == _DONE:
                break
            if ended != -signal.SIGKILL:
                raise RuntimeError(f"seed {seed}: the child ended with {ended}")
            if count.runs > 15:
                raise RuntimeError(f"seed {seed}: it never ends")
        if rival.ident is not None:
            rival.join()
        with closing(sqlite3.connect(Path(folder) / "leads.sqlite3")) as db:
            times = dict(db.execute("SELECT name, times FROM moment"))
            told = {key for (key,) in db.execute("SELECT key FROM told")}
        mine = Counter(name for name, number in deadly.items() if times.get(name, 0) >= number)
        report = Journal(Path(folder) / "journal.sqlite3").report("kill")
        _judge(count, world, Counter(mail.recipients[0] for mail in server.log.mails), report, told)
    count.stages = killer.killed + killer.dropped + mine
    count.kills, count.drops = killer.killed.total() + mine.total(), killer.dropped.total()
    doubts = count.doubt_delivered + count.doubt_undelivered
    count.too_much_doubt = max(0, doubts - CONNECTIONS * count.kills - count.drops)
    return count


def _rival(given):
    """Watch the same campaign in another process, all the time."""
    with Nursery() as nursery:
        ended = nursery.child(deadly={}, **{**given, "threaded": True}).wait(300)
        assert ended in {_DONE, _FAILED}, ended


def _judge(count, world, copies, report, told):
    """Compare what the journal says of each lead with the copies that the server kept."""
    known = {o.key: o.state for o in report}
    count.early = sum(copies[address] for address in world.early)
    for key, addresses in world.good.items():
        mails, state = sum(copies[a] for a in addresses), known.get(key)
        count.duplicates += mails > 1
        count.mailed += mails
        if state is State.IN_DOUBT:
            count.doubt_delivered += mails == 1
            count.doubt_undelivered += mails == 0
        elif state is not State.SENT or mails != 1:
            count.unaccounted += 1
        count.untold += state is State.SENT and key not in told
    count.unaccounted += sum(known.get(key) is not State.INVALID for key in world.bad)
    nameless = sum(key.startswith("no key") and state is State.INVALID for key, state in known.items())
    count.unaccounted += abs(world.nameless - nameless)
    count.invalid = len(world.bad) + nameless
    expected = set(world.good) | set(world.bad)
    count.unaccounted += sum(key not in expected and not key.startswith("no key") for key in known)


def run_seeds(seeds, leads=LEADS, polls=POLLS, first=0):
    """Run as many seeds, two at a time, and return their Counts as one."""
    total = Count()
    with ThreadPoolExecutor(2) as pool:
        for count in pool.map(lambda seed: run_seed(seed, leads, polls), range(first, first + seeds)):
            total += count
    return total


def main():
    """Run many seeds and print what they came to."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=20)
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--leads", type=int, default=LEADS)
    options.add_argument("--polls", type=int, default=POLLS)
    options.add_argument("--zygote", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.zygote:
        zygote()
        return 0
    begun = time.monotonic()
    total = run_seeds(chosen.seeds, chosen.leads, chosen.polls, chosen.first)
    print(f"{chosen.seeds} seeds x {chosen.leads} leads, {time.monotonic() - begun:.0f} s: {total}")
    return 1 if total.broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
