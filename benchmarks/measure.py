"""Run one sender against a server of its own, and believe the server's count rather than the sender's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import servers
import workload
from drive import Job

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "bench"
PYTHON = BUILD / "venv" / "bin" / "python"
MODULES = BUILD / "node"
#: Seconds that a mail may take before its sender counts as hung.
_MAIL, _SLOW_MAIL = 0.03, 0.5


@dataclass(frozen=True, slots=True)
class Sender:
    """One row of a table.

    Attributes:
        name: What the table calls it.
        peer: The module below ``peers/``, ``"nodemailer"``, ``"smtp-source"`` or ``"spread"``, a merge over a cluster.
        workers: Connections, or threads with one each.
        mails: How many it sends; slow ones send fewer, and rates are compared.
        option: What the peer's module knows.
    """

    name: str
    peer: str
    workers: int
    mails: int
    option: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one sender did in one round."""

    mails: int
    seconds: float
    cpu: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Mails per second."""
        return self.mails / self.seconds


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all senders of a leg have in common.

    Attributes:
        delay: What every reply takes, in seconds; 0 is loopback as it is.
        attachment: A file that every mail carries, or None.
        warm_up: Mails before the clock.
        size: Bytes of a mail's body, for smtp-source.
    """

    delay: float = 0.0
    attachment: Path | None = None
    warm_up: int = 20
    size: int = 0


@dataclass(slots=True)
class Bench:
    """The folder of this run, how many rounds it has, and what went wrong in it."""

    folder: Path
    rounds: int
    environment: dict[str, str]
    errors: list[str] = field(default_factory=list)

    def rounds_of(
        self, title: str, senders: Sequence[Sender], conditions: Conditions
    ) -> dict[str, list[Sample | None]]:
        """Measure every sender once per round, each round in another order; None is a failure."""
        found: dict[str, list[Sample | None]] = {s.name: [] for s in senders}
        for turn in range(self.rounds):
            shift = turn * len(senders) // self.rounds
            for sender in (*senders[shift:], *senders[:shift]):
                say(f"{title}, round {turn + 1} of {self.rounds}: {sender.name} …")
                found[sender.name].append(self.measure(sender, conditions))
        say("")
        return found

    def measure(self, sender: Sender, conditions: Conditions) -> Sample | None:
        """Run *sender* once against a new smtp-sink; None when it did not send every mail."""
        with servers.sink(self.folder) as sink:
            try:
                if conditions.delay:
                    with servers.slow(sink.port, conditions.delay) as port:
                        sample = self._run(sender, port, conditions)
                else:
                    sample = self._run(sender, sink.port, conditions)
            except (OSError, subprocess.SubprocessError, ValueError) as error:
                return self.failed(sender.name, error)
            extra = 0 if sender.peer == "smtp-source" else conditions.warm_up
            arrived = sink.count() - extra
        if sample.mails != sender.mails or arrived != sender.mails:
            reason = f"{sample.mails} sent and {arrived} arrived, {sender.mails} were to go"
            return self.failed(sender.name, reason)
        return sample

    def failed(self, name: str, reason: str | Exception) -> None:
        """Tell that a sender failed, and go on: the others' figures stand."""
        text = reason if isinstance(reason, str) else _reason(reason)
        self.errors.append(f"{name}: {text}")
        say("")
        print(f"  {name} failed: {text}", flush=True)

    def _run(self, sender: Sender, port: int, conditions: Conditions) -> Sample:
        if sender.peer == "smtp-source":
            took = servers.smtp_source(port, sender.mails, conditions.size, sender.workers)
            return Sample(sender.mails, took)
        found = self.drive(sender, port, conditions)
        return Sample(found["sent"], found["seconds"], found["cpu"], found.get("more", {}))

    def drive(
        self, sender: Sender, port: int, conditions: Conditions, rows: list[Any] | None = None
    ) -> dict[str, Any]:
        """Run *sender* in its own environment and process; return what it printed."""
        job = self.job(sender, port, conditions, rows)
        slow = bool(conditions.delay or conditions.attachment or sender.peer == "spread")
        return self.child(
            [*_program(sender), self.written("job.json", job)],
            60 + sender.mails * (_SLOW_MAIL if slow else _MAIL),
        )

    def job(
        self, sender: Sender, port: int, conditions: Conditions, rows: list[Any] | None = None
    ) -> dict[str, Any]:
        """Return what a sender's process is told."""
        if rows is None:
            rows = workload.rows(conditions.warm_up + sender.mails)
        said = asdict(
            Job(
                peer=sender.peer,
                port=port,
                rows=self.written("rows.json", rows),
                warm_up=conditions.warm_up,
                workers=sender.workers,
                attachment=str(conditions.attachment or ""),
                folder=str(self.folder),
                option=sender.option,
            )
        )
        return said | _for_node() if sender.peer == "nodemailer" else said

    def written(self, name: str, value: Any) -> str:
        """Write *value* as JSON into the run's folder; return the path."""
        path = self.folder / name
        path.write_text(json.dumps(value), encoding="utf-8")
        return str(path)

    def child(self, command: Sequence[str], seconds: float) -> dict[str, Any]:
        """Run a process that prints one JSON object, and return that; it has so many *seconds*."""
        done = subprocess.run(
            command,
            cwd=self.folder,  # a merge attaches files of its working folder alone
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds,
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1] if done.stdout else "null")
        return found


def _program(sender: Sender) -> list[str]:
    if sender.peer == "nodemailer":
        return ["node", str(HERE / "peers" / "nodemailer.mjs")]
    if sender.peer == "spread":
        return [sys.executable, str(HERE / "spread.py")]
    python = sys.executable if sender.peer == "ours" else str(PYTHON)
    return [python, str(HERE / "drive.py")]


def _for_node() -> dict[str, str]:
    """Return what Python's peers import from the workload."""
    texts = {"subject": workload.SUBJECT, "text": workload.TEXT, "html": workload.HTML}
    return texts | {"sender": workload.SENDER, "modules": str(MODULES)}


def _reason(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error)
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return text.strip().splitlines()[-1] if text.strip() else type(error).__name__


def say(text: str) -> None:
    """Show what is going on, on one line of a terminal; nothing in a file."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]:<{width}}\r", end="", flush=True)


# ---------------------------------------------------------------------------------------- reckoning


def middle(samples: Sequence[Sample | None]) -> float | None:
    """Return the median rate, or None when a round failed."""
    rates = [s.rate for s in samples if s is not None]
    return median(rates) if rates and len(rates) == len(samples) else None


def times(ours: Sequence[Sample | None], theirs: Sequence[Sample | None]) -> float | None:
    """Return how many times as fast *ours* is: the median of each round's ratio, which a slow minute spares."""
    pairs = [(a.rate, b.rate) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    return median(a / b for a, b in pairs) if pairs and len(pairs) == len(ours) else None


def fastest(found: dict[str, list[Sample | None]], names: Sequence[str]) -> str | None:
    """Return which of *names* has the highest median rate."""
    rates = {n: rate for n in names if (rate := middle(found[n])) is not None}
    return max(rates, key=lambda n: rates[n]) if rates else None
