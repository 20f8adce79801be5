"""Show tables on the terminal, and keep them in RESULTS.md beside what a person wrote there."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from legs import Goal, Table
from measure import HERE, MODULES, PYTHON, ROOT

RESULTS = HERE / "RESULTS.md"
BEGIN, END = "<!-- by hand: kept when the rest is made anew -->", "<!-- end of what is written by hand -->"
_TO_WRITE = "## What the floor is, and what remains\n\n(Not written yet.)"
_PEERS = ("aiosmtplib", "emails", "redmail", "yagmail", "jinja2")
_OURS = ("smtp_notebook", "pandas", "jinja2", "ipython")


def goals_table(tables: Sequence[Table]) -> Table:
    """Return the targets beside what was found."""
    goals = [g for t in tables for g in t.goals]
    rows = [(g.text, g.target, g.found, _verdict(g)) for g in goals]
    return Table("Targets", ("", "target", "found", "met"), rows)


def _verdict(goal: Goal) -> str:
    return "not measured in full" if goal.met is None else "yes" if goal.met else "no"


def text(table: Table) -> str:
    """Return a table for a terminal."""
    lines = [table.heads, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.heads))]
    shown = [_line(line, widths, _is_left(table)) for line in lines]
    shown = [line.rstrip() for line in shown]
    rule = "─" * max(map(len, shown))
    return "\n".join(["", table.title, rule, shown[0], rule, *shown[1:], rule, *_wrapped(table.note)])


def _line(cells: Sequence[str], widths: Sequence[int], left: Sequence[bool]) -> str:
    padded = (
        c.ljust(w) if is_left else c.rjust(w) for c, w, is_left in zip(cells, widths, left, strict=True)
    )
    return "  ".join(padded)


def _is_left(table: Table) -> list[bool]:
    """Words stand at the left, figures at the right."""
    columns = [[row[i] for row in table.rows] for i in range(len(table.heads))]
    return [any(re.search(r"[A-Za-z]{4}", c) and c != "failed" for c in column) for column in columns]


def _wrapped(note: str) -> list[str]:
    import textwrap

    return textwrap.wrap(note, 110)


def markdown(table: Table) -> str:
    """Return a table for RESULTS.md."""
    marks = [":--" if left else "--:" for left in _is_left(table)]
    lines = [table.heads, marks, *table.rows]
    body = "\n".join(f"| {' | '.join(c.replace('|', '/') for c in line)} |" for line in lines)
    return f"## {table.title}\n\n{body}\n" + (f"\n{table.note}\n" if table.note else "")


def write(tables: Sequence[Table], how: str, path: Path = RESULTS) -> None:
    """Write RESULTS.md anew, but for the part between the two marks."""
    kept = f"{BEGIN}\n{_TO_WRITE}\n{END}"
    if path.exists():
        found = re.search(
            f"{re.escape(BEGIN)}.*?{re.escape(END)}", path.read_text(encoding="utf-8"), re.DOTALL
        )
        kept = found[0] if found else kept
    head = (
        "# What `make bench` found\n\n"
        f"Made by `make bench` on {dt.date.today().isoformat()}{how}. Medians of interleaved rounds in one run on one machine; "  # noqa: DTZ011 - the reader's day
        "a ratio is the median of the rounds' ratios. All senders send the same mails to Postfix's smtp-sink, "
        "and its count is checked.\n"
    )
    parts = [head, markdown(goals_table(tables)), kept + "\n", *map(markdown, tables), _versions()]
    path.write_text("\n".join(parts), encoding="utf-8")


# ----------------------------------------------------------------------------------------- versions


def _versions() -> str:
    system = f"{platform.system()} {platform.release()}, {_cpu()}, load {os.getloadavg()[0]:.1f} at the end"
    lines = [
        f"Python {platform.python_version()}, {system}.",
        ", ".join(f"{name} {version(name)}" for name in _OURS) + f" ({_commit()}).",
        f"Peers: {', '.join(_peers())}.",
        f"Postfix {_postfix()}.",
    ]
    return "## Versions\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"


def _output(command: Sequence[str | Path]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    except OSError:
        return ""
    return done.stdout.strip()


def _peers() -> list[str]:
    code = (
        "import importlib.metadata as m, sys; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
    )
    found = [_output([PYTHON, "-c", code, *_PEERS])]
    package = MODULES / "node_modules" / "nodemailer" / "package.json"
    if package.exists():
        import json

        found.append(f"nodemailer {json.loads(package.read_text(encoding='utf-8'))['version']}")
        found.append(f"node {_output(['node', '--version'])}")
    return found


def _postfix() -> str:
    return _output(["dpkg-query", "-W", "-f=${Version}", "postfix"]) if shutil.which("dpkg-query") else "?"


def _commit() -> str:
    found = _output(["git", "rev-parse", "--short", "HEAD"])
    changed = _output(["git", "status", "--porcelain", "--", "smtp_notebook"])
    return f"commit {found}{' and changes' if changed else ''}" if found else "no commit"


def _cpu() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} CPUs"


def warn(errors: Sequence[str]) -> None:
    """Say at the end what failed, where nobody overlooks it."""
    for error in errors:
        print(f"failed: {error}", file=sys.stderr)
