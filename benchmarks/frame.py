"""Time and memory of one merge of a frame that lies on a disk.

``frame.py make ROWS PATH`` writes the frame, ``frame.py merge JOB PATH`` loads and merges it.

The merge has a process of its own. The peak of its memory is reset after the frame was loaded and what
loading left over was given back to the system, else that would hide the merge's own; what the library's
imports take counts as the merge's, and is told apart.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from pathlib import Path

import pandas as pd
import workload

CLEAR_PEAK = "5"  # proc(5), /proc/PID/clear_refs


def make(count: int, path: Path) -> None:
    """Write a frame of *count* rows."""
    pd.DataFrame(workload.rows(count)).to_pickle(path)
    print("{}")


def merge(job_file: Path, path: Path) -> None:
    """Merge the frame in *path*, and print the seconds and the bytes that it took."""
    job = json.loads(job_file.read_text(encoding="utf-8"))
    frame = pd.read_pickle(path)  # noqa: S301 - this run wrote it
    _give_back()
    Path("/proc/self/clear_refs").write_text(CLEAR_PEAK, encoding="ascii")
    before = _status("VmRSS")

    from drive import Job
    from peers import ours

    ours.send(Job(**job), frame.head(job["warm_up"]))
    imported = _status("VmRSS")
    start = time.perf_counter()
    sent = ours.send(Job(**job), frame.iloc[job["warm_up"] :])
    seconds = time.perf_counter() - start
    peak = _status("VmHWM")
    print(json.dumps({"sent": sent, "seconds": seconds, "peak": peak - before, "imports": imported - before}))


def _give_back() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> int:
    """Return a line of the kernel's account of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        merge(Path(sys.argv[2]), Path(sys.argv[3]))
