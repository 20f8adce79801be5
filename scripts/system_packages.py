"""Install what apt has to bring, where that is allowed: ``system_packages.py [tests | bench]``.

The programs that some tests drive, or those that the benchmark compares with. As root, or with a sudo that
asks nothing, through apt. Elsewhere it says what is missing; the tests that need it then say why they are
skipped, and the benchmark ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

#: The names of what drives the tests' pages; Chrome does as well.
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
#: For each purpose a program, by any of its names, and the Debian packages that bring it.
NEEDED = {
    "tests": {
        CHROMIUM: ("chromium", "fonts-dejavu-core"),
        ("chromedriver",): ("chromium-driver",),
        ("postfix",): ("postfix",),
        ("dovecot",): ("dovecot-core", "dovecot-imapd", "dovecot-lmtpd"),
        ("node",): ("nodejs",),
        ("npm",): ("npm",),
        ("strace",): ("strace",),
        # Its library reads DKIM signatures a second time.
        ("dkimproxy-verify",): ("libmail-dkim-perl",),
        ("initdb",): ("postgresql",),
    },
    "bench": {
        ("smtp-sink",): ("postfix",),
        ("node",): ("nodejs",),
        ("npm",): ("npm",),
        ("initdb",): ("postgresql",),
    },
}
#: Postfix's and Dovecot's programs are wanted, not a mail server that runs.
_ANSWERS = "postfix postfix/main_mailer_type select No configuration\n"
_SERVICES = {"dovecot-core": ("dovecot.service", "dovecot.socket")}
#: Debian's PostgreSQL makes a database of the machine's own, and starts it, unless a file here says otherwise; see
#: pg_createcluster(1).
_CLUSTER = Path("/etc/postgresql-common/createcluster.d/smtp-notebook-tests.conf")


def main(purpose: str = "tests") -> None:
    """Install what is missing; never fail."""
    needs = [packages for names, packages in NEEDED[purpose].items() if not any(map(found, names))]
    if not needs:
        return
    prefix = privilege()
    if prefix is None or shutil.which("apt-get") is None:
        every = " ".join(p for packages in needs for p in packages)
        print(f"Not installed: {every} (no root and no sudo without a password, or no apt).")
        return
    if _apt(prefix, "update", "-qq"):
        # What an older list of packages knows may still be had.
        print("apt-get update failed.")
    for packages in needs:
        _install(prefix, packages)


def found(name: str) -> str | None:
    """Return a program's path; servers lie where a person's PATH does not look."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -_number(path.parent.name))
    elsewhere = os.pathsep.join(["/usr/local/sbin", "/usr/sbin", "/sbin", *map(str, versions)])
    return shutil.which(name) or shutil.which(name, path=elsewhere)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def find_chromium() -> str | None:
    """Return the path of a Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def privilege() -> list[str] | None:
    """Return what to put before a command to run it as root, or None."""
    if os.geteuid() == 0:
        return []
    if (
        shutil.which("sudo")
        and subprocess.run(["sudo", "-n", "true"], check=False, capture_output=True).returncode == 0
    ):
        return ["sudo", "-n"]
    return None


def _install(prefix: Sequence[str], packages: Sequence[str]) -> None:
    """Install the packages of one need, so that another's failure does not stand in the way."""
    print(f"Installing {' '.join(packages)} …", flush=True)
    if "postfix" in packages and found("debconf-set-selections"):
        subprocess.run([*prefix, "debconf-set-selections"], check=False, input=_ANSWERS, text=True)
    with _not_started(prefix, packages), _no_cluster(prefix, packages):
        failed = _apt(prefix, "install", "-y", "-qq", "--no-install-recommends", *packages)
    if failed:
        print(f"apt-get install failed; what needs {' '.join(packages)} is skipped.")


@contextlib.contextmanager
def _not_started(prefix: Sequence[str], packages: Sequence[str]) -> Iterator[None]:
    """Keep systemd, where it runs, from starting what is installed meanwhile, then and at the next boot."""
    units = [unit for package in packages for unit in _SERVICES.get(package, ())]
    if not units or not Path("/run/systemd/system").is_dir():
        yield
        return
    _quietly(prefix, "systemctl", "--runtime", "mask", *units)
    try:
        yield
    finally:
        _quietly(prefix, "systemctl", "--runtime", "unmask", *units)
        _quietly(prefix, "systemctl", "disable", *units)


@contextlib.contextmanager
def _no_cluster(prefix: Sequence[str], packages: Sequence[str]) -> Iterator[None]:
    """Keep PostgreSQL's package from making a database of the machine's own; only its programs are wanted."""
    if "postgresql" not in packages or _CLUSTER.exists():
        yield
        return
    _quietly(prefix, "mkdir", "-p", str(_CLUSTER.parent))
    subprocess.run(
        [*prefix, "tee", str(_CLUSTER)],
        check=False,
        input="create_main_cluster = false\n",
        text=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        _quietly(prefix, "rm", "-f", str(_CLUSTER))
        # The folder is the package's, or goes where nothing came of it.
        _quietly(prefix, "rmdir", "--ignore-fail-on-non-empty", str(_CLUSTER.parent))


def _apt(prefix: Sequence[str], *words: str) -> int:
    # Inside the command: sudo drops the caller's environment.
    frontend = ["env", "DEBIAN_FRONTEND=noninteractive"]
    return _quietly(prefix, *frontend, "apt-get", *words)


def _quietly(prefix: Sequence[str], *command: str) -> int:
    nothing = subprocess.DEVNULL
    return subprocess.run([*prefix, *command], check=False, stdin=nothing, stdout=nothing).returncode


if __name__ == "__main__":
    main(*sys.argv[1:])
