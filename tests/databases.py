"""A private PostgreSQL: folder, socket, port, role and databases of its own, gone with the tests.

`running_postgres` starts one in about a second. It refuses to be run by root, so that root starts it as another user;
its folder is that user's alone. It is reached by its socket, without a password, or on loopback with one. What it keeps
is never synced to the disk: what was committed outlives a kill (``stop(kill=True)``), not a power failure.

Ask for the fixture ``postgres`` (conftest) and call `Postgres.fresh` for a database of a test's own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import secrets
import signal
import subprocess
import tempfile
from pathlib import Path

from conftest import missing
from mailservers import free_ports, until
from system_packages import found

#: Who owns every database.
ROLE = "tester"
_START_SECONDS = 30
_SETTINGS = {
    # Nothing waits for the disk; what was committed outlives a kill all the same.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "40",
    "shared_buffers": "16MB",
    "log_destination": "stderr",
    "timezone": "UTC",
}


class Postgres:
    """A running one; see `running_postgres`.

    Args:
        folder: Where everything of it lies; a short path, for its socket.
        initdb: The program; the server's lies beside it.
        settings: What is not as PostgreSQL has it by default.

    Attributes:
        port: Its port on 127.0.0.1, and the number of its socket.
        password: What it asks for there.
    """

    def __init__(self, folder, initdb, settings=_SETTINGS):
        self.folder = Path(folder)
        self._settings = settings
        self.port = free_ports(1)[0]
        self.password = secrets.token_hex(12)
        self._bin = Path(initdb).resolve().parent
        self._data = self.folder / "data"
        self._process = None
        self._numbers = itertools.count(1)
        self._prefix: list[str] = []
        owner = None
        if os.geteuid() == 0:
            owner = _somebody()
            ids = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
            self._prefix = [_needed("setpriv"), *ids]
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        word = self.folder / "password"
        word.write_text(self.password, encoding="ascii")
        if owner is not None:
            os.chown(word, owner.pw_uid, owner.pw_gid)
        self._run(
            *("initdb", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"),
            *("-D", self._data, "-U", ROLE, f"--pwfile={word}"),
            *("--auth-local=trust", "--auth-host=scram-sha-256"),
        )

    def _run(self, program, *words):
        command = [*self._prefix, self._bin / program, *words]
        done = subprocess.run(
            [str(word) for word in command], check=False, cwd="/", capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr

    def start(self):
        """Start it, again after `stop`; return when it answers."""
        settings = {
            **self._settings,
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
        }
        # It goes with the tests, where those are killed.
        mortal = [_needed("setpriv"), "--pdeathsig", "QUIT"]
        # The kernel forgets that signal when a process becomes somebody else: first that, then this.
        command = [*self._prefix, *mortal, self._bin / "postgres", "-D", self._data]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            # Not in this process's group: a Ctrl-C meant for the tests would end it under them.
            self._process = subprocess.Popen(
                [str(word) for word in command],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._answers, _START_SECONDS, "PostgreSQL answers")

    def _answers(self):
        import psycopg

        assert self._process.poll() is None, (self.folder / "log").read_text(errors="replace")[-3000:]
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, *, kill=False):
        """End it, and whoever is connected; with *kill* as a crash does."""
        if self._process is not None:
            # SIGINT is its fast shutdown, SIGQUIT ends every process of it at once.
            self._process.send_signal(signal.SIGQUIT if kill else signal.SIGINT)
            self._process.wait(timeout=30)
            self._process = None

    def connect(self, database="postgres", **options):
        """Return a psycopg connection by the socket; statements count at once."""
        import psycopg

        settings = {
            "host": str(self.folder),
            "port": self.port,
            "user": ROLE,
            "dbname": database,
            "autocommit": True,
        }
        return psycopg.connect(**(settings | options))

    def fresh(self):
        """Make an empty database, and return its name."""
        name = f"test{os.getpid()}_{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return name

    def drop(self, name):
        """Drop a database, and end whoever uses it."""
        with self.connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def url(self, database="postgres"):
        """Return SQLAlchemy's URL by the socket; it has no password in it."""
        return f"postgresql+psycopg://{ROLE}@/{database}?host={self.folder}&port={self.port}"

    def tcp_url(self, database="postgres"):
        """Return SQLAlchemy's URL on loopback, where `password` is asked for and is not in it."""
        return f"postgresql+psycopg://{ROLE}@127.0.0.1:{self.port}/{database}"


def _somebody():
    """Return the user that the server runs as, where root may not."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return missing("no user that PostgreSQL could be run as")


def _needed(program):
    path = found(program)
    if path is None:
        missing(f"no {program} here: apt install postgresql")
    return path


@contextlib.contextmanager
def running_postgres(settings=_SETTINGS, where="/tmp"):
    """Start one, and end it; skip with the reason where it cannot be had.

    Args:
        settings: As of `Postgres`.
        where: Below this its folder is made.
    """
    initdb = _needed("initdb")
    # Not pytest's own folder: only its owner enters that, and a socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="pg-", dir=where, ignore_cleanup_errors=True) as folder:
        server = Postgres(folder, initdb, settings)
        try:
            server.start()
            yield server
        finally:
            server.stop(kill=True)
