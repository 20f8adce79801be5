"""Is this machine ready to send mail? Versions, keyring, journal, suppression list, clock and optional packages, as steps of a check.

Nothing is changed: the journal is opened to be read, and whether a folder can be written is asked by a file without
a name that is gone at once.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from smtp_notebook.checkup import Checkup, Mark, Step
from smtp_notebook.connection import PASSWORD_VARIABLE
from smtp_notebook.journal import PATH_VARIABLE, Journal, journal_path
from smtp_notebook.outcome import JournalError
from smtp_notebook.replies import one_line
from smtp_notebook.suppressions import Suppressions

__all__ = ["machine"]

_PACKAGE = "smtp_notebook"
#: For those who work on the package itself.
_INNER_EXTRAS = frozenset({"all", "demo", "dev", "docs", "other"})
_LITTLE_ROOM = 50 * 10**6
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(?:>=\s*([0-9.]+))?[^;]*(?:;\s*(.*))?")
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")


def machine() -> Checkup:
    """Look at everything on this machine that a mail depends on; no network, but for a journal in a database."""
    looks: tuple[Callable[[], Step], ...] = (
        _python,
        _packages,
        _extras,
        _keyring,
        _journal,
        _suppressions,
        _clock,
    )
    return Checkup("this machine", tuple(_timed(look) for look in looks))


def _timed(look: Callable[[], Step]) -> Step:
    begun = time.perf_counter()
    step = look()
    return Step(
        name=step.name, mark=step.mark, text=step.text, fix=step.fix, facts=step.facts,
        seconds=time.perf_counter() - begun,
    )  # fmt: skip


def _python() -> Step:
    version = platform.python_version()
    text = f"{platform.python_implementation()} {version} on {platform.system()} {platform.machine()}"
    return Step(name="Python", text=text, facts={"version": version})


def _requirements() -> Iterable[tuple[str, str, str]]:
    """Return name, least version and extra of what this package asks for."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        for line in metadata.requires(_PACKAGE) or ():
            found = _REQUIREMENT.match(line)
            if found is not None:
                extra = _EXTRA.search(found[3] or "")
                yield found[1], found[2] or "", extra[1] if extra else ""


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])


def _packages() -> Step:
    """Compare what is installed with what this package needs; older ones have known holes."""
    core = [(name, least) for name, least, extra in _requirements() if not extra]
    found = {name: _version(name) for name, _ in core}
    short = [
        f"{name} {found[name] or 'is missing'}{f', {least} is needed' if least else ''}"
        for name, least in core
        if not found[name] or _numbers(found[name]) < _numbers(least)
    ]
    facts = {_PACKAGE: _version(_PACKAGE)} | found
    if short:
        fix = "Run: python -m pip install --upgrade smtp_notebook"
        return Step(name="packages", mark=Mark.FAILED, text="; ".join(short), fix=fix, facts=facts)
    named = ("aiosmtplib", "jinja2", "pandas")
    shown = ", ".join(f"{n} {facts[n]}" for n in (_PACKAGE, *named) if facts.get(n))
    return Step(name="packages", text=f"{shown}; {len(core)} are needed and there", facts=facts)


def _extras() -> Step:
    """Say which optional packages are installed; a missing one is no fault."""
    wanted: dict[str, list[str]] = {}
    for name, _, extra in _requirements():
        if extra and extra not in _INNER_EXTRAS and name.replace("-", "_") != _PACKAGE:
            wanted.setdefault(extra, []).append(name)
    missing = {extra: [n for n in names if not _version(n)] for extra, names in wanted.items()}
    there = [extra for extra, names in missing.items() if not names]
    lacking = [extra for extra, names in missing.items() if names]
    text = f"installed: {', '.join(there) or 'none'}"
    if lacking:
        text += f"; not installed: {', '.join(lacking)} (pip install 'smtp_notebook[{lacking[0]}]' adds one)"
    return Step(name="extras", text=text, facts={"installed": there, "missing": lacking})


def _keyring() -> Step:
    """Ask the keyring for a password that nobody has: one that is locked or not there says so."""
    name = os.environ.get("PYTHON_KEYRING_BACKEND", "keyring")
    try:
        import keyring

        backend = keyring.get_keyring()
        name = f"{type(backend).__module__}.{type(backend).__qualname__}"
        keyring.get_password("smtp-notebook", "doctor")
        keeps = ".null." not in name
        why = "" if keeps else "it keeps nothing"
    except Exception as error:  # noqa: BLE001 - a backend is other people's code, and may not even be there
        why = one_line(str(error).partition(". ")[0], 120) or type(error).__name__
    if not why:
        return Step(name="keyring", text=name, facts={"backend": name})
    text = f"No keyring keeps passwords here ({name}: {why.rstrip('.')})."
    fix = f"Set {PASSWORD_VARIABLE} where the notebook runs, or install a keyring."
    return Step(name="keyring", mark=Mark.WARNING, text=text, fix=fix, facts={"backend": name})


def _journal() -> Step:
    """Open the journal to read it, and see whether it could be written."""
    facts: dict[str, Any] = {}
    try:
        path = journal_path()
        facts = {"path": str(path)}
        journal = Journal.to_read(path, whole=True)
    except JournalError as error:
        return Step(name="journal", mark=Mark.FAILED, text=error.cause, fix=error.fix, facts=facts)
    text = f"{path}: none yet; the first mailing makes it"
    if journal is not None:
        with contextlib.closing(journal):
            count = len(journal.campaigns())
        text = f"{path}: intact, {count:,} mailing{'' if count == 1 else 's'}"
    if not isinstance(path, Path):
        return Step(name="journal", text=text, facts=facts)
    folder = next(p for p in path.parents if p.exists())
    why = _unwritable(path, folder)
    if why:
        fix = f"Nothing is sent without it: make room, or name another file with {PATH_VARIABLE}."
        return Step(name="journal", mark=Mark.FAILED, text=f"{path}: {why}", fix=fix, facts=facts)
    free = shutil.disk_usage(folder).free
    if free < _LITTLE_ROOM:
        fix = f"{free / 1e6:,.0f} MB are free there: make room before a large merge."
        return Step(name="journal", mark=Mark.WARNING, text=text, fix=fix, facts=facts)
    return Step(name="journal", text=text, facts=facts)


def _suppressions() -> Step:
    """Read the list of those whom no merge mails; without it none starts."""
    try:
        with Suppressions() as found:
            count, path = len(found), str(found.path)
    except JournalError as error:
        return Step(name="suppressions", mark=Mark.FAILED, text=error.cause, fix=error.fix)
    facts = {"path": path, "count": count}
    return Step(name="suppressions", text=f"{path}: {count:,} on the list", facts=facts)


def _unwritable(path: Path, folder: Path) -> str:
    if path.exists() and not os.access(path, os.W_OK):
        return "it may not be written"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        return f"nothing can be written in {folder}: {(error.strerror or str(error)).lower()}"
    return ""


def _clock() -> Step:
    """See whether the clock can be right: a certificate is judged by it, and so is a mail's date.

    This package was installed at some time, so now is not before that.
    """
    now = dt.datetime.now().astimezone()
    installed = dt.datetime.fromtimestamp(Path(__file__).stat().st_mtime, dt.UTC)
    text = f"{now:%Y-%m-%d %H:%M:%S %z}"
    facts = {"now": now.isoformat(timespec="seconds")}
    if now < installed - dt.timedelta(days=1):
        fix = "Set the clock: certificates are judged by it, and mails are dated by it."
        text += f" is before this package was installed ({installed:%Y-%m-%d})"
        return Step(name="clock", mark=Mark.FAILED, text=text, fix=fix, facts=facts)
    return Step(name="clock", text=text, facts=facts)
