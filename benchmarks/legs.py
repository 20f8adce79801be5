"""What is measured: each leg makes a Table, and says what it found for the targets."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import servers
from measure import HERE, Bench, Conditions, Sample, Sender, fastest, middle, say, times

Found = dict[str, list[Sample | None]]

HTML, MARKDOWN = "smtp_notebook, HTML template", "smtp_notebook, Markdown template"
NODE, SOURCE = "nodemailer, pooled", "smtp-source"
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Goal:
    """A target, and what was found.

    Attributes:
        text: What it is about.
        target: What was promised, as a person reads it.
        found: The figure, with its unit; "failed" when there is none.
        met: Whether it keeps the promise; None when it was not measured in full.
    """

    text: str
    target: str
    found: str
    met: bool | None


@dataclass(slots=True)
class Table:
    """What one leg found."""

    title: str
    heads: Sequence[str]
    rows: list[Sequence[str]]
    note: str = ""
    goals: list[Goal] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is sent.

    Attributes:
        many: Mails of a fast sender.
        some: Mails of a slow one.
        waiting: Mails of ours, and of a slow sender, where replies take their time.
        heavy: The same with an attachment.
        frames: Rows of the frames.
        starts: How often an interpreter is started.
    """

    many: int
    some: int
    waiting: tuple[int, int]
    heavy: tuple[int, int]
    frames: tuple[int, ...]
    starts: int


FULL = Scale(10_000, 1_000, (2_000, 60), (300, 100), (1_000, 10_000, 100_000), 15)
QUICK = Scale(400, 100, (200, 12), (20, 10), (500, 1_000), 3)
MILLION = 1_000_000


# ---------------------------------------------------------------------------------------- the senders


def _sequential(name: str, peer: str, mails: int) -> list[Sender]:
    """Return a peer that sends one mail after the other, by itself and with threads."""
    threads = [Sender(f"{name}, {n} threads", peer, n, mails) for n in (4, 8)]
    return [Sender(name, peer, 1, mails), *threads]


def _python_peers(mails: int) -> list[Sender]:
    names = {"smtplib": "stdlib", "yagmail": "yag", "redmail": "red_mail", "python-emails": "python_emails"}
    one_by_one = [s for name, peer in names.items() for s in _sequential(name, peer, mails)]
    return [*one_by_one, Sender("aiosmtplib, 4 clients", "async_smtp", 4, mails)]


def _without_mime(mails: int) -> list[Sender]:
    threads = Sender("smtplib, f-string (no MIME), 4 threads", "fstring", 4, mails)
    return [Sender("smtplib, f-string (no MIME)", "fstring", 1, mails), threads]


# ------------------------------------------------------------------------------------------ the legs


def main(bench: Bench, scale: Scale, size: int) -> Table:
    """Personal mails over four connections."""
    peers = _python_peers(scale.some)
    senders = [
        Sender(HTML, "ours", 4, scale.many, "html"),
        Sender(MARKDOWN, "ours", 4, scale.many, "markdown"),
        Sender(SOURCE, "smtp-source", 4, scale.many),
        Sender(NODE, "nodemailer", 4, scale.many),
        *_without_mime(scale.many),
        *peers,
    ]
    found = bench.rounds_of("Mails over 4 connections", senders, Conditions(size=size))
    best = fastest(found, [s.name for s in peers])
    alone = fastest(found, [s.name for s in peers if s.workers == 1])
    table = _rates("Personal mails over 4 connections", senders, found, HTML)
    table.note = (
        f"Rates are per second, so senders of {scale.some:,} mails compare with those of {scale.many:,}. "
        "Peers that send one mail after the other show also with threads, each with a connection of its own. "
        "The f-string builds no MIME: no encoding, no header rules, no check. smtp-source builds nothing."
    )
    for ours, kind in ((HTML, "HTML"), (MARKDOWN, "Markdown")):
        table.goals += [
            _at_least(f"{kind} ÷ fastest Python peer that builds MIME", 10, found, ours, best),
            _at_least(f"{kind} ÷ the fastest of them without threads", 10, found, ours, alone),
            _at_least(f"{kind} ÷ pooled nodemailer", 6, found, ours, NODE),
            _at_least(f"{kind} ÷ smtp-source with 4 sessions", 0.4, found, ours, SOURCE),
        ]
    return table


def latency(bench: Bench, scale: Scale, size: int) -> Table:
    """Every reply takes 20 ms."""
    many, few = scale.waiting
    sequential = [s for s in _python_peers(few) if s.workers == 1]
    ours, node = "smtp_notebook, 8 connections", "nodemailer, 8 connections"
    senders = [
        Sender(ours, "ours", 8, many, "html"),
        Sender(node, "nodemailer", 8, many // 5),
        Sender("nodemailer, 4 connections", "nodemailer", 4, many // 5),
        Sender("aiosmtplib, 8 clients", "async_smtp", 8, many // 5),
        Sender("smtp-source, 8 sessions", "smtp-source", 8, many // 5),
        *sequential,
    ]
    delay = 0.02
    found = bench.rounds_of("20 ms for each reply", senders, Conditions(delay=delay, warm_up=4, size=size))
    table = _rates("Every reply takes 20 ms", senders, found, ours)
    with servers.sink(bench.folder) as sink, servers.slow(sink.port, delay) as port:
        real = servers.round_trip(port)
    table.note = (
        f"A proxy passes everything on 10 ms after it arrived, in both directions; a NOOP took {real * 1000:.1f} ms. "
        "smtp-source does not pipeline."
    )
    best = fastest(found, [s.name for s in sequential])
    table.goals += [
        _at_least("20 ms: 8 connections ÷ fastest sequential peer", 25, found, ours, best),
        _at_least("20 ms: 8 connections ÷ nodemailer with 8", 2, found, ours, node),
    ]
    return table


def attachment(bench: Bench, scale: Scale, size: int) -> Table:
    """One file of 1 MB for all."""
    path = bench.folder / "report.bin"
    path.write_bytes(os.urandom(MEGABYTE))
    many, few = scale.heavy
    peers = [s for s in _python_peers(few) if s.workers in {1, 4}]
    senders = [
        Sender(HTML, "ours", 4, many, "html"),
        Sender(SOURCE, "smtp-source", 4, many),
        Sender(NODE, "nodemailer", 4, few),
        *peers,
    ]
    wire = size + MEGABYTE * 78 // 57  # base64 in lines of 76 and their ends
    found = bench.rounds_of("1 MB attached", senders, Conditions(attachment=path, warm_up=2, size=wire))
    table = _rates("One attachment of 1 MB, shared by all rows", senders, found, HTML)
    table.note = "Random bytes, named report.bin; each mail is 1.37 MB on the wire, over 4 connections."
    best = fastest(found, [NODE, *(s.name for s in peers)])
    table.goals.append(_at_least("1 MB attached ÷ the fastest peer", 5, found, HTML, best))
    return table


def journal(bench: Bench, scale: Scale, size: int) -> Table:
    """What the journal costs."""
    on, off = "with the journal", "without (practice=True)"
    senders = [Sender(on, "ours", 4, scale.many, "html"), Sender(off, "ours", 4, scale.many, "html-practice")]
    found = bench.rounds_of("The journal", senders, Conditions(size=size))
    table = _rates("The journal", senders, found, on)
    sync = _sync(bench.folder)
    table.note = (
        f"One fsync of a page of 4 KiB took {sync * 1000:.2f} ms here (median of 200, {_file_system(bench.folder)}); "
        f"one before each mail would cap a connection at {1 / sync:,.0f} mails/s."
    )
    cost = times(found[off], found[on])
    text, shown = "Time with the journal ÷ without", "failed" if cost is None else f"{cost:.2f}"
    table.goals.append(Goal(text, "≤ 1.33", shown, cost is not None and cost <= 4 / 3))
    return table


def scale(bench: Bench, scale: Scale, size: int) -> Table:  # noqa: ARG001 - every leg is called alike
    """Time per row and memory of ever larger frames."""
    rows: list[Sequence[str]] = []
    found: dict[int, dict[str, Any]] = {}
    for count in scale.frames:
        say(f"A frame of {count:,} rows …")
        result = _frame(bench, count)
        if result is None:
            rows.append((f"{count:,}", "failed", "", "", ""))
            continue
        found[count] = result
        rows.append(
            (
                f"{count:,}",
                f"{result['seconds']:,.1f}",
                f"{result['seconds'] / count * 1e6:,.0f}",
                f"{result['peak'] / MEGABYTE:,.0f}",
                f"{result['imports'] / MEGABYTE:,.0f}",
            )
        )
    say("")
    heads = ("rows", "seconds", "µs per row", "peak over the frame, MB", "of which imports, MB")
    table = Table("From a thousand rows to a million", heads, rows)
    table.note = "Each in a process of its own, with its frame loaded from disk; once, not in rounds."
    if found:
        table.goals += _scale_goals(found)
    return table


def _scale_goals(found: Mapping[int, Mapping[str, Any]]) -> list[Goal]:
    largest = max(found)
    peak = found[largest]["peak"] / MEGABYTE
    per_row = {n: found[n]["seconds"] / n for n in found}
    base = min(found, key=lambda n: abs(n - 10_000))
    growth = per_row[largest] / per_row[base]
    whole = largest >= MILLION
    return [
        Goal(f"Peak over a frame of {largest:,} rows", "≤ 100 MB for 1,000,000", f"{peak:,.0f} MB", peak <= 100 if whole or peak > 100 else None),
        Goal(f"Time per row, {largest:,} ÷ {base:,} rows", "flat (≤ 1.2)", f"{growth:.2f}", growth <= 1.2 if largest > base else None),
    ]  # fmt: skip


def _frame(bench: Bench, count: int) -> dict[str, Any] | None:
    path = bench.folder / "frame.pickle"
    conditions = Conditions(warm_up=8)
    sender = Sender(f"{count:,} rows", "ours", 4, count, "html")
    script = [sys.executable, str(HERE / "frame.py")]
    try:
        bench.child([*script, "make", str(count + conditions.warm_up), str(path)], 600)
        with servers.sink(bench.folder) as sink:
            job = bench.written("job.json", bench.job(sender, sink.port, conditions, rows=[]))
            result = bench.child([*script, "merge", job, str(path)], 60 + count * 0.03)
            arrived = sink.count() - conditions.warm_up
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        bench.failed(sender.name, error)
        return None
    finally:
        path.unlink(missing_ok=True)
    if result["sent"] != count or arrived != count:
        bench.failed(sender.name, f"{result['sent']} sent and {arrived} arrived, {count} were to go")
        return None
    return result


def start(bench: Bench, scale: Scale, size: int) -> Table:  # noqa: ARG001 - every leg is called alike
    """What importing costs."""
    shell = "from IPython.core.interactiveshell import InteractiveShell as S; s = S.instance()"
    load = "s.run_line_magic('load_ext', 'smtp_notebook')"
    code = {
        "python -c pass": "pass",
        "import smtp_notebook": "import smtp_notebook",
        "an IPython shell": shell,
        "an IPython shell, %load_ext smtp_notebook": f"{shell}; {load}",
    }
    took: dict[str, list[float]] = {name: [] for name in code}
    for turn in range(scale.starts + 1):
        say(f"Start-up, {turn} of {scale.starts} …")
        for name, source in code.items():
            seconds = _started(bench, source)
            if turn:  # the first one fills the file cache
                took[name].append(seconds)
    say("")
    bare, imported, ipython, loaded = (median(took[n]) * 1000 for n in code)
    over = {
        "import smtp_notebook": imported - bare,
        "an IPython shell, %load_ext smtp_notebook": loaded - ipython,
    }
    rows = [(n, f"{median(v) * 1000:,.0f}", f"{over[n]:+,.0f}" if n in over else "") for n, v in took.items()]
    table = Table("Start-up", ("what", "ms", "over the line above, ms"), rows)
    table.note = f"Medians of {scale.starts} processes each, taken in turns."
    table.goals.append(
        Goal(
            "import smtp_notebook over bare Python",
            "< 50 ms",
            f"{imported - bare:,.1f} ms",
            imported - bare < 50,
        )
    )
    return table


def _started(bench: Bench, source: str) -> float:
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", source],
        check=True,
        env=bench.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    return time.perf_counter() - begin


LEGS: dict[str, Callable[[Bench, Scale, int], Table]] = {
    "main": main,
    "latency": latency,
    "attachment": attachment,
    "journal": journal,
    "scale": scale,
    "start": start,
}


# ---------------------------------------------------------------------------------------- reckoning


def _rates(title: str, senders: Sequence[Sender], found: Found, ours: str) -> Table:
    heads = (
        "sender",
        "connections",
        "mails",
        "mails/s",
        "least to most",
        "CPU ms/mail",
        f"{ours.split(',', maxsplit=1)[0]} is",
    )
    rows = [_rate(s, found[s.name], found[ours], same=s.name == ours) for s in senders]
    return Table(title, heads, rows)


def _rate(
    sender: Sender, samples: Sequence[Sample | None], ours: Sequence[Sample | None], *, same: bool
) -> Sequence[str]:
    start = (sender.name, str(sender.workers), f"{sender.mails:,}")
    rate, ratio = middle(samples), times(ours, samples)
    if rate is None:
        return (*start, "failed", "", "", "")
    good = [s for s in samples if s is not None]
    cpu = median(s.cpu / s.mails * 1000 for s in good)
    spread = f"{_short(min(s.rate for s in good))} to {_short(max(s.rate for s in good))}"
    shown = "" if same or ratio is None else f"{_short(ratio)} ×"
    return (*start, _short(rate), spread, f"{cpu:.2f}" if cpu else "", shown)


def _short(number: float) -> str:
    """Return three figures that mean something."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def _at_least(text: str, target: float, found: Found, ours: str, theirs: str | None) -> Goal:
    ratio = times(found[ours], found[theirs]) if theirs else None
    if ratio is None:
        return Goal(text, f"≥ {target}", "failed", met=False)
    named = f" ({theirs})" if theirs not in {NODE, SOURCE} else ""
    return Goal(text, f"≥ {target}", f"{_short(ratio)}{named}", ratio >= target)


def _sync(folder: Path) -> float:
    """Return the seconds that one fsync takes where the journals of this run lie."""
    path, took = folder / "sync", []
    with path.open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(b"\0" * 4096)
            begin = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - begin)
    path.unlink()
    return median(took)


def _file_system(folder: Path) -> str:
    """Return the kind of the file system, such as ext4."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, place, found, *_ = line.split()
        if folder.is_relative_to(place) and len(place) >= len(best):
            best, kind = place, found
    return kind
