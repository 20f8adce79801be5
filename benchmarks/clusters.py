"""A merge over a Dask cluster: how much faster two workers are, what a rate over them lets through, what rows weigh.

The cluster is one of processes on this machine, and so are the server and PostgreSQL, which has its own defaults and syncs
to the disk: they share the processors with the workers.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from legs import FULL, MEGABYTE, Goal, Scale, Table
from measure import HERE, ROOT, Bench, Conditions, Sample, Sender, middle, say, times

#: Connections to the server that all workers have together.
CONNECTIONS = 4
WARM_UP = 50
RATE, RATE_SECONDS = 200, 1.0
_GOAL, _SHARE_GOAL = 1.7, 0.9
#: The kernel may deliver what left in time a little later, beside the next one.
_LATE = 1
_ALONE, _ALONE_FILE, _ONE, _TWO = "no cluster", "no cluster, journal in a file", "one worker", "two workers"
_MERGES = {
    _ALONE: "{kind} 0 postgresql",
    _ALONE_FILE: "{kind} 0 file",
    _ONE: "{kind} 1 postgresql",
    _TWO: "{kind} 2 postgresql",
}


def cluster(bench: Bench, scale: Scale, size: int) -> Table:  # noqa: ARG001 - every leg is called alike
    """Rows per second without a cluster, of one worker and of two; and a rate over two."""
    heads = ("mails", "sent by", "rows", "rows/s", "least to most", "CPU ms/row", "times one worker")
    table = Table("A merge over a Dask cluster", heads, [])
    charts, plain, limited = scale.heavy[0], scale.many // 2, scale.waiting[0]
    with _database(bench) as held:
        for what, kind, count in (("with a chart each", "chart", charts), ("plain", "plain", plain)):
            senders = [
                Sender(f"{what}, {name}", "spread", CONNECTIONS, count, option.format(kind=kind))
                for name, option in _MERGES.items()
            ]
            found = held.rounds_of(f"Over a cluster: {what}", senders, Conditions(warm_up=WARM_UP))
            one = found[f"{what}, {_ONE}"]
            table.rows += [_row(what, s, found[s.name], one) for s in senders]
            ratio = times(found[f"{what}, {_TWO}"], one)
            if kind == "chart":
                shown = "failed" if ratio is None else f"{ratio:.2f}"
                met = ratio is not None and ratio >= _GOAL
                table.goals.append(Goal("A chart each: two workers ÷ one", f"≥ {_GOAL}", shown, met if scale is FULL else None))  # fmt: skip
        table.goals += _rate_goals(held, limited, whole=scale is FULL)
    table.note = (
        f"{CONNECTIONS} connections in all, processes on this machine ({os.cpu_count()} CPUs), one thread each; the "
        "server and PostgreSQL (its defaults, synced to disk) share it. Check, plan and send, with the cluster already "
        "there. The chart is a matplotlib Figure of each row's own."
    )
    return table


def _row(
    what: str, sender: Sender, samples: Sequence[Sample | None], one: Sequence[Sample | None]
) -> Sequence[str]:
    start = (what, sender.name.removeprefix(f"{what}, "), f"{sender.mails:,}")
    rate, ratio = middle(samples), times(samples, one)
    good = [s for s in samples if s is not None]
    if rate is None or ratio is None:
        return (*start, "failed", "", "", "")
    spread = f"{min(s.rate for s in good):,.1f} to {max(s.rate for s in good):,.1f}"
    cpu = median(s.cpu / s.mails * 1000 for s in good)
    return (*start, f"{rate:,.1f}", spread, f"{cpu:.2f}", f"{ratio:.2f}")


# ------------------------------------------------------------------------------------- one rate for all


def _rate_goals(bench: Bench, count: int, *, whole: bool) -> list[Goal]:
    """Send by a rate over two workers, and look when mails began at the server."""
    reached: list[float] = []
    most: list[int] = []
    sender = Sender(
        f"{RATE}/s over two workers", "spread", CONNECTIONS, count, f"plain 2 postgresql {RATE}/s"
    )
    for turn in range(bench.rounds):
        say(f"{sender.name}, round {turn + 1} of {bench.rounds} …")
        try:
            begun = _arrivals(bench, sender)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            bench.failed(sender.name, error)
            continue
        reached.append((len(begun) - 1) / (begun[-1] - begun[0]) / RATE)
        most.append(busiest(begun, RATE_SECONDS))
    say("")
    if len(reached) < bench.rounds:
        return [Goal(sender.name, f"≥ {_SHARE_GOAL:.0%} of the rate", "failed", met=False)]
    share = median(reached)
    return [
        Goal(
            sender.name,
            f"≥ {_SHARE_GOAL:.0%} of the rate",
            f"{share:.1%}",
            share >= _SHARE_GOAL if whole else None,
        ),
        Goal("… and the most in any second", f"≤ {RATE}", f"{max(most)}", max(most) <= RATE + _LATE),
    ]


def _arrivals(bench: Bench, sender: Sender) -> list[float]:
    """Return when each mail began at the server, in seconds."""
    path = bench.folder / "arrivals.json"
    command = [sys.executable, str(HERE / "clocked.py"), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            sent = bench.drive(sender, port, Conditions(warm_up=WARM_UP))["sent"]
        finally:
            process.terminate()
    found = json.loads(path.read_text(encoding="utf-8"))
    arrived = found["taken"] - WARM_UP
    if sent != sender.mails or arrived != sender.mails:
        raise ValueError(f"{sent} sent and {arrived} arrived, {sender.mails} were to go")
    return sorted(found["begun"])[WARM_UP:]


def busiest(moments: Sequence[float], seconds: float) -> int:
    """Return how many of *moments*, in order, lie in one window of so many seconds at the most; its end is not in it."""
    return max(bisect_right(moments, at + seconds - 1e-9) - i for i, at in enumerate(moments))


# --------------------------------------------------------------------------------------- what rows weigh


def sizing(bench: Bench, scale: Scale, size: int) -> Table:  # noqa: ARG001 - every leg is called alike
    """What each step of a merge over two workers takes, and what a row weighs: the figures of docs/explanation/sizing.md."""
    table = Table("What a row of a merge over two workers costs", ("what", "figure"), [])
    count = max(n for n in scale.frames if n <= 100_000)
    sender = Sender(f"{count:,} rows over two workers", "spread", CONNECTIONS, count, "plain 2 postgresql")
    with _database(bench) as held:
        say(f"{sender.name} …")
        sample = held.measure(sender, Conditions(warm_up=WARM_UP))
        say("")
    if sample is None:
        return table
    more = sample.more
    client = sample.cpu - sum(more["workers_cpu"])
    table.rows = [
        ("checked by the workers and taken in by the client, rows/s", f"{count / more['check']:,.0f}"),
        ("planned in the journal by the client, rows/s", f"{count / more['plan']:,.0f}"),
        ("sent, rows/s", f"{count / more['send']:,.0f}"),
        ("CPU of the client and the scheduler, µs per row", f"{client / count * 1e6:,.0f}"),
        ("CPU of the workers, µs per row", f"{sum(more['workers_cpu']) / count * 1e6:,.0f}"),
        ("the client's private table, octets per row", f"{more['roll'] / count:,.0f}"),
        ("the journal's tables and indexes, octets per row", f"{more['tables'] / count:,.0f}"),
        ("the client's memory at its peak, over what it had before, MB", f"{more['client'] / MEGABYTE:,.0f}"),
        ("a worker's memory at its peak, MB", f"{max(more['workers']) / MEGABYTE:,.0f}"),
        ("… of which this merge, MB", f"{max(more['workers_over']) / MEGABYTE:,.0f}"),
    ]
    table.note = f"{count:,} plain mails, {CONNECTIONS} connections; once, not in rounds."
    return table


@contextlib.contextmanager
def _database(bench: Bench) -> Iterator[Bench]:
    """Run a PostgreSQL that keeps what it is told, and give the bench with its address in the environment."""
    sys.path.insert(0, str(ROOT / "tests"))
    # The tests' folder of settings is not this run's.
    before = dict(os.environ)
    from databases import ROLE, running_postgres

    os.environ.clear()
    os.environ.update(before)
    with running_postgres({}, where="/var/tmp") as server:  # noqa: S108 - on a disk, unlike /tmp on many machines
        yield replace(bench, environment=bench.environment | _address(server, ROLE))


def _address(server: Any, role: str) -> dict[str, str]:
    url = f"postgresql://{role}@127.0.0.1:{server.port}/{server.fresh()}"
    return {"SMTP_NOTEBOOK_JOURNAL": url, "PGPASSWORD": server.password}
