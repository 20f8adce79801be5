"""Compare smtp_notebook with its peers, side by side in one run: ``make bench``.

``make bench ARGS=--quick`` takes a minute and says little; ``ARGS="--legs main,latency --rounds 5"`` measures
a part. RESULTS.md is written by a whole run alone, or with ``--write``.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import report
from check import check
from clusters import cluster, sizing
from forms import forms
from legs import FULL, LEGS, MILLION, QUICK, Scale
from measure import BUILD, PYTHON, ROOT, Bench

sys.path.insert(0, str(ROOT / "scripts"))
from isolated import environment

ROUNDS = 3
EVERY = LEGS | {"forms": forms, "cluster": cluster, "sizing": sizing}


def main() -> None:
    """Measure what was asked for, show it, and keep it."""
    options = _options()
    if not PYTHON.exists():
        sys.exit("The peers are not installed: make bench does it, or python benchmarks/environment.py.")
    BUILD.mkdir(parents=True, exist_ok=True)
    # When this process is ended from outside, its servers are too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended from outside."))
    # Beside the project, not in a memory file system: the journals' syncs have to reach a disk.
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=BUILD))
    try:
        _run(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(options: argparse.Namespace, folder: Path) -> None:
    # This checkout is measured, whatever is installed.
    variables = environment(folder / "home") | {"PYTHONPATH": str(ROOT)}
    bench = Bench(folder, options.rounds, variables)
    sent, size = check(bench)
    print(report.text(sent), flush=True)
    tables = []
    for name in options.legs:
        tables.append(EVERY[name](bench, options.scale, size))
        print(report.text(tables[-1]), flush=True)
    print(report.text(report.goals_table(tables)))
    if options.write:
        rounds = f", with {options.rounds} rounds" + (", quickly" if options.quick else "")
        report.write([*tables, sent], rounds)
        print(f"\nWritten: {report.RESULTS.relative_to(ROOT)}")
    report.warn(bench.errors)
    if bench.errors:
        sys.exit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare smtp_notebook with its peers.")
    parser.add_argument("--legs", type=_legs, default=list(EVERY), help=f"some of {','.join(EVERY)}")
    parser.add_argument("--rounds", type=int, default=0, help=f"interleaved rounds (by default {ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="one round of small numbers, to try the harness")
    parser.add_argument("--full", action="store_true", help="a frame of a million rows as well")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md although not all was measured")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    options.scale = _scale(options)
    options.write = options.write or (options.legs == list(EVERY) and not options.quick)
    return options


def _legs(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in EVERY]:
        raise argparse.ArgumentTypeError(f"there is no {unknown[0]!r}, only {', '.join(EVERY)}")
    return names


def _scale(options: argparse.Namespace) -> Scale:
    scale = QUICK if options.quick else FULL
    return replace(scale, frames=(*scale.frames, MILLION)) if options.full else scale


if __name__ == "__main__":
    main()
