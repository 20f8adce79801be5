"""Time one merge over a Dask cluster, or the same one without: ``spread.py JOB``, a JSON file.

The job's option is what the mails have, the workers, the journal, and a rate where there is one:
``plain 2 postgresql 200/s``. With 0 workers it is sent by this process alone. The cluster is one of processes on this machine, one thread each, and is
there before the clock begins: every worker has loaded what it needs. The journal is in the database that the
environment names, in a schema of this process's own, or in a file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from drive import Job
from frame import CLEAR_PEAK
from workload import HTML, MARKDOWN, SENDER, SUBJECT, jinja

from smtp_notebook import Connection, Report, Template
from smtp_notebook.api import carry_out
from smtp_notebook.ledger import Ledger
from smtp_notebook.orders import Options, Order, prepare
from smtp_notebook.places import PATH_VARIABLE, DatabaseURL


def chart(row: dict[str, Any]) -> Any:
    """Return a figure of one row's own, as a notebook would draw it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3))
    axes = figure.subplots()
    months = range(1, 13)
    axes.bar(months, [row["seats"] * (month % 5 + 2) for month in months], label=row["plan"])
    axes.plot(months, [float(row["amount"]) / 10 + month for month in months], color="C1", label="EUR")
    axes.set(title=f"{row['company']}, 2026", xlabel="month", ylabel="use")
    axes.legend()
    return figure


def template(kind: str) -> Template:
    """Return what is sent: the workload's HTML, or its Markdown with a chart of each row's own in it."""
    if kind == "chart":
        return Template(
            body=f"{jinja(MARKDOWN)}\n\n{{{{ chart(row) }}}}", format="markdown", subject=jinja(SUBJECT)
        )
    return Template(body=jinja(HTML), format="html", subject=jinja(SUBJECT))


def main(path: Path) -> None:
    """Run the job in *path*."""
    job = Job(**json.loads(path.read_text(encoding="utf-8")))
    rows = json.loads(Path(job.rows).read_text(encoding="utf-8"))
    kind, workers, place, *rate = job.option.split()
    journal = _journal(job, place)
    via = Connection.from_url(f"smtp+plain://127.0.0.1:{job.port}", max_connections=job.workers)
    fields = {
        "template": template(kind),
        "values": {"chart": chart} if kind == "chart" else None,
        "journal": journal,
    }
    with _cluster(int(workers)) as client:
        _merge(pd.DataFrame(rows[: job.warm_up]), client, campaign="warm-up", via=via, **fields)
        frame = pd.DataFrame(rows[job.warm_up :])
        before = _numbers(client)
        Path("/proc/self/clear_refs").write_text(CLEAR_PEAK, encoding="ascii")
        via = via.with_(rate="".join(rate))
        found = _merge(frame, client, campaign="renewals", via=via, **fields)
        after = _numbers(client)
    more = found["more"]
    cpu = [b["cpu"] - a["cpu"] for a, b in zip(before, after, strict=True)]
    more["workers_cpu"] = cpu[1:]
    more["client"] = after[0]["peak"] - before[0]["now"]
    more["workers"] = [worker["peak"] for worker in after[1:]]
    more["workers_over"] = [a["peak"] - b["now"] for a, b in zip(after[1:], before[1:], strict=True)]
    if isinstance(journal, str):
        more["tables"] = _tables(DatabaseURL(journal, typed=True))
    print(json.dumps(found | {"cpu": sum(cpu)}))


def _journal(job: Job, place: str) -> str | Path:
    """Return a journal that is not there yet."""
    if place == "postgresql":
        return f"{os.environ[PATH_VARIABLE]}?schema=bench_{os.getpid()}"
    return Path(job.folder) / f"journal-{os.getpid()}.sqlite3"


def _merge(frame: pd.DataFrame, client: Any, *, template: Template, **options: Any) -> dict[str, Any]:
    """Do what `mail_merge` does, and tell how long its steps took."""
    chosen, fields = Options.split(
        options | {"key": "account", "from_": SENDER, "progress": False, "executor": client}
    )
    start = time.perf_counter()
    with _timed(Ledger, "plan") as planning, prepare(Order.of(frame, template, chosen, fields)) as merge:
        checked = time.perf_counter()
        report: Report = carry_out(merge)
        end = time.perf_counter()
        table = merge.roll._db  # noqa: SLF001 - its size is asked for here alone
        size = (
            table.execute("PRAGMA page_count").fetchone()[0] * table.execute("PRAGMA page_size").fetchone()[0]
        )
    plan = sum(planning)
    steps = {"check": checked - start - plan, "plan": plan, "send": end - checked, "roll": size}
    return {"sent": len(report.sent), "seconds": end - start, "more": steps}


@contextlib.contextmanager
def _timed(of: type, name: str) -> Iterator[list[float]]:
    """Note how long each call of a method takes."""
    method, took = getattr(of, name), []

    def timed(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*arguments, **options)
        finally:
            took.append(time.perf_counter() - start)

    setattr(of, name, timed)
    try:
        yield took
    finally:
        setattr(of, name, method)


@contextlib.contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    """Give the client of a cluster of so many processes; None for none."""
    if not workers:
        ready()
        yield None
        return
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(workers)
        client.run(ready)
        yield client


def ready() -> None:
    """Load what a worker needs, and draw a first chart: fonts are looked for once."""
    from smtp_notebook import pictures, workers

    assert workers is not None
    pictures.figure_png(chart({"seats": 5, "plan": "Team", "amount": "96.00", "company": "Contoso"}))


def _numbers(client: Any) -> list[dict[str, float]]:
    """Return what the kernel says of this process, and of each worker."""
    return [numbers(), *(client.run(numbers).values() if client is not None else ())]


def numbers() -> dict[str, float]:
    """Return seconds of CPU, and octets of memory now and at the most."""
    import time
    from pathlib import Path

    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    sizes = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return {"cpu": time.process_time(), "now": int(sizes["VmRSS"]) * 1024, "peak": int(sizes["VmHWM"]) * 1024}


def _tables(place: DatabaseURL) -> int:
    """Return the octets of a journal's tables, with their indexes."""
    import psycopg

    query = (
        "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relkind = 'r'"
    )
    with psycopg.connect(**place.settings()) as connection:
        found = connection.execute(query, (place.schema,)).fetchone()
    return int(found[0]) if found else 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
