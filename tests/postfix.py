"""A private Postfix on loopback: its own queue, settings and port, and one Maildir that takes every mail.

Postfix changes users, so it is started by root, or by a sudo that asks nothing. Its folder has a short path,
for its sockets, and may be entered by everybody. ``u…@example.test`` and the like have a mailbox (`USERS`),
anyone else there is unknown, other domains are not relayed to, and ``grey…@example.test`` is greylisted: the
first try of each recipient gets a 450.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import os
import shutil
import smtplib
import socketserver
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from conftest import missing
from system_packages import found, privilege

DOMAIN = "example.test"
USERS = r"/^(u[0-9]+|grey[0-9]*|jörg|ann)@example\.test$/"
_MAIL_UID = 8
_MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = mail.example.test
myorigin = example.test
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
default_transport = error:nothing leaves this machine
smtp_dns_support_level = disabled
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions = check_recipient_access regexp:{folder}/access
smtpd_restriction_classes = greylist
greylist = check_policy_service inet:127.0.0.1:{policy}
virtual_mailbox_domains = example.test
virtual_mailbox_maps = regexp:{folder}/users
virtual_mailbox_base = {folder}/mail
virtual_mailbox_limit = 0
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
message_size_limit = 5242880
queue_minfree = 0
smtpd_error_sleep_time = 0
in_flow_delay = 0
biff = no
notify_classes =
"""
# No service is confined to the queue's folder: nothing would have to be copied there.
_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


def until(condition, seconds, what):
    """Return what *condition* gives as soon as it is true; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (given := condition()):
        if time.monotonic() > deadline:
            message = f"{what}: not within {seconds} s"
            raise AssertionError(message)
        threading.Event().wait(0.02)
    return given


class _Greylist(socketserver.StreamRequestHandler):
    """Postfix asks in lines of ``name=value`` and an empty one (its SMTPD_POLICY_README)."""

    def handle(self):
        asked = {}
        for line in self.rfile:
            name, _, value = line.decode().strip().partition("=")
            if name:
                asked[name] = value
                continue
            who = asked.get("recipient", "")
            action = "dunno" if who in self.server.seen else "450 4.7.1 greylisted, come again"
            self.server.seen.add(who)
            self.wfile.write(f"action={action}\n\n".encode())
            asked = {}


class _Policy(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Greylist)
        self.seen = set()


class Postfix:
    """A running one; see `running_postfix`."""

    def __init__(self, folder, policy):
        self.folder = folder
        self._policy = policy
        self._prefix = privilege()
        self.port = _free_port()

    @property
    def url(self):
        return f"smtp+plain://127.0.0.1:{self.port}"

    def start(self):
        own = os.geteuid() != 0
        uid, gid = (os.geteuid(), os.getegid()) if own else (_MAIL_UID, _MAIL_UID)
        policy = self._policy.server_address[1]
        values = {"folder": self.folder, "port": self.port, "policy": policy, "uid": uid, "gid": gid}
        (self.folder / "main.cf").write_text(_MAIN.format(**values))
        (self.folder / "master.cf").write_text(_MASTER.format(**values))
        (self.folder / "users").write_text(f"{USERS} box/\n")
        (self.folder / "access").write_text("/^grey/ greylist\n")
        for name in ("queue", "data", "mail"):
            (self.folder / name).mkdir()
        os.chown(self.folder / "mail", uid, gid)
        self._root("chown", "postfix", self.folder / "data")
        done = self._postfix("start")
        if done.returncode:
            raise RuntimeError(f"Postfix did not start:\n{self.log()}")
        until(self.offers, 20, "Postfix answers")

    def stop(self):
        self._postfix("stop")
        self._root("rm", "-rf", self.folder)

    def _postfix(self, verb):
        return self._root(found("postfix"), "-c", self.folder, verb)

    def _root(self, *command):
        # A daemon that kept our pipes would keep whoever reads them to their end.
        with (self.folder / "output").open("ab") as output:
            return subprocess.run(
                [*self._prefix, *map(str, command)],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=60,
            )

    def log(self):
        """Return the end of what it said."""
        texts = []
        for name in ("output", "log"):
            with contextlib.suppress(OSError):
                texts += (self.folder / name).read_text(errors="replace").splitlines()[-30:]
        return "\n".join(texts)

    def offers(self):
        """Return the names of what it offers, or nothing while it does not answer."""
        with (
            contextlib.suppress(OSError, smtplib.SMTPException),
            smtplib.SMTP("127.0.0.1", self.port) as smtp,
        ):
            smtp.ehlo()
            return set(smtp.esmtp_features)
        return set()

    def _files(self):
        box = self.folder / "mail" / "box" / "new"
        return sorted(box.iterdir()) if box.is_dir() else []

    def empty(self):
        """Forget what is in the mailbox."""
        until(lambda: not self._queued(), 60, "the queue is empty")
        for path in self._files():
            path.unlink()

    def delivered(self, count, seconds=60):
        """Return the mails in the mailbox once there are so many and none is on its way any more."""
        until(lambda: len(self._files()) >= count and not self._queued(), seconds, f"{count} mails arrive")
        return [email.message_from_bytes(p.read_bytes(), policy=email.policy.default) for p in self._files()]

    def _queued(self):
        """Tell whether Postfix has taken mail that it has not delivered."""
        command = [*self._prefix, found("postqueue"), "-c", str(self.folder), "-j"]
        return subprocess.run(
            command, check=True, capture_output=True, stdin=subprocess.DEVNULL
        ).stdout.strip()


def _free_port():
    with socketserver.TCPServer(("127.0.0.1", 0), None) as server:
        return server.server_address[1]


@contextlib.contextmanager
def running_postfix():
    """Start one, and stop it at the end; skips where it is not installed or may not be started."""
    if found("postfix") is None:
        missing("no Postfix here: apt install postfix")
    if privilege() is None:
        missing("Postfix is started by root, or by a sudo without a password")
    folder = Path(tempfile.mkdtemp(prefix="pf-", dir="/tmp"))
    folder.chmod(0o755)
    with _Policy() as policy:
        threading.Thread(target=policy.serve_forever, daemon=True).start()
        postfix = Postfix(folder, policy)
        try:
            postfix.start()
            yield postfix
        finally:
            postfix.stop()
            policy.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
