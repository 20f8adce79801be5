"""Who runs a campaign; and the facts about this machine that tell a living holder from a dead one."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from smtp_notebook.outcome import JournalError, MergeRefusedError

__all__ = ["Holder", "alive", "boot_id", "held_by", "here", "on_network", "publish", "seen", "stamp", "words"]

_NETWORK = ("nfs", "cifs", "smb", "9p", "afs", "sshfs", "glusterfs", "ceph", "lustre")


def stamp() -> str:
    """Return the moment, in UTC, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


@functools.cache
def boot_id() -> str:
    """Return what changes when this machine starts anew; a clock that was set counts as a new start."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{platform.node()} {round((time.time() - time.monotonic()) / 60)}"


def on_network(path: Path) -> bool:
    """Tell whether *path* lies on a network file system, as far as Linux's mount table says."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return False
    under = [m for m in mounts if path.is_relative_to(m[1].replace("\\040", " "))]
    kind = max(under, key=lambda m: len(m[1]))[2].lower() if under else ""
    return any(name in kind for name in _NETWORK)


def publish(draft: Path, path: Path) -> None:
    """Give a finished file its name.

    Raises:
        FileExistsError: Another process was faster.
    """
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise FileExistsError from None
        draft.replace(path)


class Holder:
    """Who runs a campaign: a lock on a file beside the journal, which the system drops with the process.

    What the file says (host, boot, process) is for the message, and for a lock of another host: that one
    is never taken over, because its process cannot be seen from here.
    """

    #: A file is shared with nobody; see `store.Held`.
    guest = False

    def __init__(self, path: Path, campaign: str) -> None:
        self._path = _beside(path, campaign)
        try:
            self._file = self._path.open("a+", encoding="utf-8")
        except OSError as error:
            cause = f"The journal's folder {str(path.parent)!r} cannot be written: {error.strerror}."
            raise JournalError(cause, "Name another file: journal=….") from None
        if not _locked(self._file):
            who = self._read()
            self._file.close()
            raise held_by(campaign, who, "Wait for it, or interrupt it there.")
        who = self._read()
        if who and who.get("host") != platform.node():
            self._file.close()
            fix = f"If it is dead, delete {str(self._path)!r}."
            raise held_by(campaign, who, fix)
        self._write(here())

    def _read(self) -> dict[str, Any]:
        self._file.seek(0)
        return _who(self._file.read())

    def _write(self, who: dict[str, Any]) -> None:
        self._file.seek(0)
        self._file.truncate()
        if who:
            self._file.write(json.dumps(who))
        self._file.flush()

    def release(self) -> None:
        """Let others run the campaign."""
        if not self._file.closed:
            self._write({})
            _unlock(self._file)  # a forked child has the file, too
            self._file.close()


def seen(path: Path, campaign: str) -> str:
    """Say in words who runs a campaign of the journal at *path*; "" when nobody seems to.

    Only what the holder wrote is read: no lock is tried, because even that would keep others out for a moment. So it
    is for a person's eyes, and decides nothing.
    """
    try:
        who = _who(_beside(path, campaign).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""  # nobody ran it, or it cannot be read while it is locked (Windows)
    if not who:
        return ""
    near = who.get("host") == platform.node()
    gone = who.get("boot") != boot_id() or not isinstance(who.get("pid"), int) or not alive(who["pid"])
    return "" if near and gone else words(who)


def _beside(path: Path, campaign: str) -> Path:
    name = hashlib.sha256(campaign.encode()).hexdigest()[:16]
    return path.with_name(f"{path.name}.{name}.lock")


def _who(text: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        return found if isinstance(found, dict) else {}
    return {}


def here() -> dict[str, Any]:
    """Return who this process is, for others to read."""
    return {"host": platform.node(), "boot": boot_id(), "pid": os.getpid(), "since": stamp()}


def words(who: dict[str, Any]) -> str:
    """Say who somebody is."""
    return (
        f"process {who.get('pid', '?')} on {who.get('host', 'an unknown host')} since {who.get('since', '?')}"
    )


def held_by(campaign: str, who: dict[str, Any], fix: str) -> MergeRefusedError:
    """Return the refusal of a campaign that somebody else has."""
    error = MergeRefusedError(f"The campaign {campaign!r} is being sent already, by {words(who)}.", fix)
    error.passing = True
    return error


def _locked(file: Any) -> bool:
    """Take the lock of an open file without waiting; False when somebody has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _unlock(file: Any) -> None:
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)


def alive(pid: int) -> bool:
    """Tell whether a process of this machine lives; a number that was given away again counts as living."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
