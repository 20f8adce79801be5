"""npm's smtp-server on loopback, a third voice beside Postfix and the scripted server; see smtpserver.mjs."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from conftest import missing
from mailservers import PASSWORD, Arrived, Certificates, token
from node_packages import FOLDER


class SmtpServer:
    """A running one; see `running_smtpserver`.

    Attributes:
        ports: Its ports by their names.
        ca_file: The authority of its certificates.
        token: The access token with which ann may log in.
    """

    def __init__(self, process, ca_file, access):
        self.ca_file = ca_file
        self.token = access
        self._process = process
        self._events = []
        self._told = threading.Semaphore(0)
        line = process.stdout.readline()
        if not line:
            missing(f"npm's smtp-server did not start: {process.wait()}")
        self.ports = json.loads(line)["ports"]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "all":
                self._told.release()
            else:
                self._events.append(event)

    def events(self, kind):
        """Return what it told of a kind so far: ``mail``, ``login`` or ``error``."""
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        assert self._told.acquire(timeout=20)
        return [e for e in self._events if e["event"] == kind]

    def arrived(self):
        """Return a copy for each recipient of each mail that it took."""
        mails = self.events("mail")
        return [Arrived(to, base64.b64decode(m["raw"])) for m in mails for to in m["to"]]


@contextlib.contextmanager
def running_smtpserver():
    """Start one, and stop it at the end; skips where node or the package is missing."""
    if shutil.which("node") is None or not (FOLDER / ".installed").exists():
        missing("no npm's smtp-server here: python scripts/node_packages.py")
    access = token("ann")
    with tempfile.TemporaryDirectory() as folder:
        tls = Path(folder) / "tls"
        ca_file = Certificates(tls).ca_file
        script = Path(__file__).with_name("smtpserver.mjs")
        command = ["node", str(script), str(FOLDER), str(tls), PASSWORD, access]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                yield SmtpServer(process, ca_file, access)
            finally:
                # It ends with its input.
                process.stdin.close()
                process.wait(20)
