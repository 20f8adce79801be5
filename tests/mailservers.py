"""A private Postfix and a private Dovecot on loopback: queue, settings, ports, accounts and mail of their own.

`running_postfix` starts Postfix alone, with one port and one Maildir that takes every mail. `running_servers`
starts both: Postfix has a port for each manner of a server (`SERVICES`), asks Dovecot who may log in, and hands
the mail to Dovecot by LMTP; it is read back by IMAP. `running_dovecot` starts Dovecot alone.

Both change users, so they are started by root, or by a sudo that asks nothing. Their folder has a short path, for
their sockets, and may be entered by everybody. ``u…@example.test`` and the like have a mailbox (`USERS`), anyone
else there is unknown, other domains are not relayed to. The first try of each ``grey…@example.test`` gets a 450;
``later…@example.test`` is always told to come later. ``gone…@example.test`` is forwarded to nobody: such a mail is
taken, and bounces.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import email
import email.policy
import hashlib
import hmac
import imaplib
import json
import os
import smtplib
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from conftest import missing
from system_packages import found, privilege

DOMAIN = "example.test"
USERS = r"/^(u[0-9]+|(grey|later|full|never)[0-9]*|ann|bob|jörg|bounces\+.*)@example\.test$/"
FORWARDS = r"/^gone([0-9]*)@example\.test$/ nobody${1}@example.test"
PASSWORD = "secret"
#: Who may log in at Dovecot, with which password, and has a mailbox of its own there; everybody else's mail lies in
#: that of ``box``.
ACCOUNTS = dict.fromkeys(("ann", "bob", "jörg", "box"), PASSWORD) | {"bounces": 's3crét "pass\\word'}
_OAUTH_KEY = b"a key that signs the tokens of tests"
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
virtual_alias_maps = regexp:{folder}/forwards
virtual_mailbox_base = {folder}/mail
virtual_mailbox_limit = 0
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_transport = {transport}
# Dovecot notes the recipient in a copy only where it is the only one of the transaction.
lmtp_destination_recipient_limit = 1
message_size_limit = 5242880
queue_minfree = 0
smtpd_error_sleep_time = 0
in_flow_delay = 0
biff = no
notify_classes =
# The limits that a port sets count for this machine too, and a window is short.
smtpd_client_event_limit_exceptions =
anvil_rate_time_unit = 3s
"""
_SECURE = """\
smtpd_sasl_type = dovecot
smtpd_sasl_path = {folder}/run/sasl
smtpd_tls_chain_files = {folder}/tls/good.pem
smtpd_tls_auth_only = yes
tls_random_source = dev:/dev/urandom
"""
# No service is confined to the queue's folder: nothing would have to be copied there.
_MASTER = """\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
lmtp unix - - n - - lmtp
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
_LOGIN = {
    "smtpd_sasl_auth_enable": "yes",
    "smtpd_relay_restrictions": "permit_sasl_authenticated,reject",
}
_STARTTLS = _LOGIN | {"smtpd_tls_security_level": "may"}
_TLS = _LOGIN | {"smtpd_tls_security_level": "encrypt", "smtpd_tls_wrappermode": "yes"}
_ACCESS = """\
/^grey/ greylist
/^later/ 451 4.3.0 come later
# Dovecot 2.3 has no SMTPUTF8 in LMTP, so Postfix would return what needs it: virtual(8) brings it to the same folders.
/[^[:print:][:space:]]/ FILTER virtual:
"""
#: The ports of Postfix beside a Dovecot, and what each of them does otherwise than ``relay``.
SERVICES = {
    "relay": {},
    "starttls": _STARTTLS,
    "tls": _TLS,
    **{f"login-{m}": _STARTTLS | {"smtpd_sasl_mechanism_filter": m} for m in ("plain", "login", "cram-md5")},
    **{f"login-{m}": _STARTTLS | {"smtpd_sasl_mechanism_filter": m} for m in ("xoauth2", "oauthbearer")},
    "expired-starttls": _STARTTLS | {"smtpd_tls_chain_files": "{folder}/tls/expired.pem"},
    "expired-tls": _TLS | {"smtpd_tls_chain_files": "{folder}/tls/expired.pem"},
    "stranger-starttls": _STARTTLS | {"smtpd_tls_chain_files": "{folder}/tls/stranger.pem"},
    "stranger-tls": _TLS | {"smtpd_tls_chain_files": "{folder}/tls/stranger.pem"},
    "connections": {"smtpd_client_connection_count_limit": "2"},
    "rate": {"smtpd_client_message_rate_limit": "5"},
    "recipients": {"smtpd_recipient_limit": "3"},
    "small": {"message_size_limit": "50000"},
    "bare": {
        "smtpd_discard_ehlo_keywords": "pipelining,8bitmime,smtputf8,dsn,size,chunking",
        "message_size_limit": "50000",
    },
}
_DOVECOT = """\
base_dir = {folder}/run
state_dir = {folder}/state
instance_name = {folder.name}
log_path = {folder}/dovecot.log
auth_verbose = yes
protocols = imap lmtp
listen = 127.0.0.1
mail_location = maildir:~/Maildir
mail_fsync = never
first_valid_uid = 1
ssl = required
ssl_cert = <{folder}/tls/good.crt
ssl_key = <{folder}/tls/good.key
# ann logs in as ann or ann@example.test; names beyond ASCII are let through.
auth_username_format = %Ln
auth_username_chars =
auth_mechanisms = plain login cram-md5 xoauth2 oauthbearer
# Refusals come at once, not after seconds.
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {folder}/oauth2.conf
}}
passdb {{
  driver = passwd-file
  mechanisms = plain login cram-md5 lookup
  args = {folder}/accounts
}}
userdb {{
  driver = passwd-file
  args = {folder}/accounts
}}
# Whom Postfix knows and who has no account: their mail lies in one box.
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder}/mail/box allow_all_users=yes
}}
service auth {{
  unix_listener sasl {{
    mode = 0660
    user = postfix
    group = postfix
  }}
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0660
    user = postfix
    group = postfix
  }}
}}
service imap-login {{
  inet_listener imap {{
    address = 127.0.0.1
    port = {starttls}
  }}
  inet_listener imaps {{
    address = 127.0.0.1
    port = {imap}
    ssl = yes
  }}
}}
namespace inbox {{
  inbox = yes
}}
"""
# Tokens are checked with a key that lies beside: nobody has to be asked for them.
_OAUTH = """\
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={folder}/keys/
username_attribute = sub
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


def token(user, *, seconds=3600):
    """Return an access token for *user*, a JWT signed with HS256 (RFC 7519); negative *seconds*: an expired one."""
    now = int(time.time())
    claims = {"sub": user, "iat": now - 7200, "nbf": now - 7200, "exp": now + seconds, "scope": "smtp"}
    head = {"alg": "HS256", "typ": "JWT"}
    signed = b".".join(_base64url(json.dumps(part).encode()) for part in (head, claims))
    return (signed + b"." + _base64url(hmac.digest(_OAUTH_KEY, signed, hashlib.sha256))).decode()


def _base64url(octets):
    return base64.urlsafe_b64encode(octets).rstrip(b"=")


def free_ports(count):
    """Return so many different ports that nobody listens on."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


# ---------------------------------------------------------------------------------------- what arrived


@dataclass(frozen=True)
class Arrived:
    """One copy of a mail, as it lies with its recipient.

    Attributes:
        to: The recipient of the envelope.
        raw: The whole mail, as the server keeps it.
    """

    to: str
    raw: bytes

    @property
    def mail(self):
        """The mail, parsed by the standard library."""
        return email.message_from_bytes(self.raw, policy=email.policy.default)

    @property
    def message_id(self):
        """Its Message-ID, with angle brackets."""
        return self.mail["Message-ID"].strip()


def copies(arrived):
    """Return how many copies of each mail each recipient has, by recipient and Message-ID."""
    return Counter((a.to, a.message_id) for a in arrived)


# ---------------------------------------------------------------------------------------- certificates


class Certificates:
    """Those of a throw-away authority, as files below *folder*: ``good``, ``expired``, and ``stranger``'s.

    Each name has ``.crt``, ``.key`` and ``.pem`` with both; ``ca.pem`` is the authority.
    """

    def __init__(self, folder):
        import trustme

        folder.mkdir()
        authority = trustme.CA()
        self.ca_file = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        now = dt.datetime.now(dt.UTC)
        past = {"not_before": now - dt.timedelta(days=30), "not_after": now - dt.timedelta(days=1)}
        for name, hosts, when in (
            ("good", ("localhost", "127.0.0.1"), {}),
            ("expired", ("localhost", "127.0.0.1"), past),
            ("stranger", ("other.example.test",), {}),
        ):
            made = authority.issue_cert(*hosts, **when)
            made.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{name}.pem"))
            made.private_key_pem.write_to_path(str(folder / f"{name}.key"))
            (folder / f"{name}.crt").write_bytes(b"".join(p.bytes() for p in made.cert_chain_pems))


# --------------------------------------------------------------------------------------------- policy


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


# ------------------------------------------------------------------------------------------- programs


class _Program:
    """A server below a folder of its own, run by root."""

    def __init__(self, folder):
        self.folder = folder
        self._prefix = privilege()
        own = os.geteuid() != 0
        self._uid, self._gid = (os.geteuid(), os.getegid()) if own else (_MAIL_UID, _MAIL_UID)

    def _write(self, name, text):
        (self.folder / name).write_text(text, encoding="utf-8")

    def _mailboxes(self):
        """Make the folder that the mail lies in, for whoever delivers it."""
        mail = self.folder / "mail"
        if not mail.exists():
            mail.mkdir()
            os.chown(mail, self._uid, self._gid)
        return mail

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

    def _end_of(self, *names):
        texts = []
        for name in names:
            with contextlib.suppress(OSError):
                texts += (self.folder / name).read_text(errors="replace").splitlines()[-30:]
        return "\n".join(texts)


class Postfix(_Program):
    """A running one; see `running_postfix`.

    Args:
        folder: Where everything of it lies.
        policy: What decides about the greylisted.
        services: Its ports by their names, each with its settings.
        transport: Who delivers.
        more: Further settings.
    """

    def __init__(self, folder, policy, services=None, *, transport="virtual", more=""):
        super().__init__(folder)
        self._policy = policy
        self._services = services or {"relay": {}}
        self._transport = transport
        self._more = more
        self.ports = dict(zip(self._services, free_ports(len(self._services)), strict=True))

    @property
    def port(self):
        return self.ports["relay"]

    @property
    def url(self):
        return f"smtp+plain://127.0.0.1:{self.port}"

    def start(self):
        """Write its settings, and start it."""
        values = {
            "folder": self.folder,
            "policy": self._policy.server_address[1],
            "uid": self._uid,
            "gid": self._gid,
            "transport": self._transport,
        }
        self._write("main.cf", _MAIN.format(**values) + self._more.format(**values))
        self._write("master.cf", "".join(map(self._service, self._services)) + _MASTER)
        mailboxes = f"/^jörg@example\\.test$/ jörg/Maildir/\n{USERS} box/Maildir/\n"
        self._write("users", mailboxes)
        self._write("forwards", f"{FORWARDS}\n")
        self._write("access", _ACCESS)
        for name in ("queue", "data"):
            (self.folder / name).mkdir()
        self._mailboxes()
        self._root("chown", "postfix", self.folder / "data")
        self.resume()

    def _service(self, name):
        options = {"syslog_name": f"postfix/{name}"} | self._services[name]
        given = "".join(f" -o {k}={v.format(folder=self.folder)}" for k, v in options.items())
        return f"127.0.0.1:{self.ports[name]} inet n - n - - smtpd{given}\n"

    def refuse(self, access):
        """Have recipients treated as the lines of *access* say, access(5)."""
        self._write("access", access)
        self._postfix("reload")

    def resume(self):
        """Start it as it is; done when it answers."""
        if self._postfix("start").returncode:
            raise RuntimeError(f"Postfix did not start:\n{self.log()}")
        until(self.offers, 20, "Postfix answers")

    def stop(self, how="stop"):
        """Stop it, or ``abort`` it at once; the queue stays."""
        if (self.folder / "main.cf").exists():
            self._postfix(how)

    def _postfix(self, verb):
        return self._root(found("postfix"), "-c", self.folder, verb)

    def log(self):
        """Return the end of what it said."""
        return self._end_of("output", "log")

    def said(self, service, what):
        """Return how many lines of the log are that port's and contain *what*."""
        with contextlib.suppress(OSError):
            lines = (self.folder / "log").read_text(errors="replace").splitlines()
            return sum(f"postfix/{service}/smtpd" in line and what in line for line in lines)
        return 0

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
        return sorted((self.folder / "mail").glob("*/Maildir/new/*"))

    def empty(self):
        """Forget what is in the mailbox."""
        until(lambda: not self.queued(), 60, "the queue is empty")
        for path in self._files():
            path.unlink()

    def delivered(self, count, seconds=60):
        """Return the mails in the mailbox once there are so many and none is on its way any more."""
        until(lambda: len(self._files()) >= count and not self.queued(), seconds, f"{count} mails arrive")
        return [email.message_from_bytes(p.read_bytes(), policy=email.policy.default) for p in self._files()]

    def queued(self):
        """Tell whether Postfix has taken mail that it has not delivered."""
        command = [*self._prefix, found("postqueue"), "-c", str(self.folder), "-j"]
        return subprocess.run(
            command, check=True, capture_output=True, stdin=subprocess.DEVNULL
        ).stdout.strip()


class Dovecot(_Program):
    """A running one; see `running_servers`."""

    def __init__(self, folder, ca_file):
        super().__init__(folder)
        self.port, self.starttls_port = free_ports(2)
        self.ca_file = ca_file
        self._known = {name: [] for name in ACCOUNTS}
        self._trusted = ssl.create_default_context(cafile=ca_file)

    def start(self):
        """Write its settings and accounts, and start it."""
        mail = self._mailboxes()
        for name in ACCOUNTS:
            (mail / name).mkdir()
            os.chown(mail / name, self._uid, self._gid)
        values = {"folder": self.folder, "uid": self._uid, "gid": self._gid}
        values |= {"imap": self.port, "starttls": self.starttls_port}
        self._write("dovecot.conf", _DOVECOT.format(**values))
        self._write("oauth2.conf", _OAUTH.format(**values))
        accounts = [
            f"{a}:{{PLAIN}}{word}:{self._uid}:{self._gid}::{mail / a}::\n" for a, word in ACCOUNTS.items()
        ]
        self._write("accounts", "".join(accounts))
        keys = self.folder / "keys" / "default" / "HS256"
        keys.mkdir(parents=True)
        # Where Dovecot looks for the key of a token that names none.
        (keys / "default").write_bytes(base64.b64encode(_OAUTH_KEY) + b"\n")
        if self._dovecot().returncode:
            raise RuntimeError(f"Dovecot did not start:\n{self._end_of('output', 'dovecot.log')}")
        until(self._answers, 20, "Dovecot answers")

    def stop(self):
        """Stop it."""
        if (self.folder / "run" / "master.pid").exists():
            self._dovecot("stop")

    def _dovecot(self, *verb):
        return self._root(found("dovecot"), "-c", self.folder / "dovecot.conf", *verb)

    def _answers(self):
        with contextlib.suppress(OSError, imaplib.IMAP4.error):
            self._read("box")
            return True
        return False

    def url(self, name, scheme="imaps", mailbox="INBOX"):
        """Return where an account's mail is read: ``imaps``, or ``imap`` for STARTTLS."""
        port = self.port if scheme == "imaps" else self.starttls_port
        return f"{scheme}://{name}%40{DOMAIN}@localhost:{port}/{mailbox}"

    def put(self, name, label, raw):
        """Lay a mail into an account; its file begins with *label*."""
        new = self.folder / "mail" / name / "Maildir" / "new"
        for folder in (new.parent, new, new.parent / "cur", new.parent / "tmp"):
            if not folder.exists():
                folder.mkdir()
                os.chown(folder, self._uid, self._gid)
        (new / f"{label}.test").write_bytes(raw)

    def flags(self, name):
        """Return the label of each mail of an account, and its flags."""
        found = (self.folder / "mail" / name / "Maildir").glob("[nc][eu][wr]/*")
        return sorted((p.name.partition(".")[0], p.name.partition(":2,")[2]) for p in found)

    def read(self):
        """Return everything that lies in any account, read by IMAP."""
        return [copy for name in ACCOUNTS for copy in self._read(name)]

    def _read(self, name):
        with imaplib.IMAP4_SSL("127.0.0.1", self.port, ssl_context=self._trusted) as imap:
            imap.authenticate("PLAIN", lambda _: f"\0{name}\0{ACCOUNTS[name]}".encode())
            # Nothing is ever removed, so what was read before is still there.
            known = self._known[name]
            if int(imap.select(readonly=True)[1][0]) > len(known):
                parts = imap.fetch(f"{len(known) + 1}:*", "(BODY.PEEK[])")[1]
                known += [Arrived(_recipient(p[1]), p[1]) for p in parts if isinstance(p, tuple)]
            return known


def _recipient(raw):
    """Return whom a copy was delivered to: the envelope's recipient, as the one who delivered it noted it."""
    return email.message_from_bytes(raw, policy=email.policy.default)["Delivered-To"].strip("<> ")


class Servers:
    """Both, running; see `running_servers`."""

    def __init__(self, postfix, dovecot, ca_file):
        self.postfix = postfix
        self.dovecot = dovecot
        self.ca_file = ca_file

    def arrived(self, seconds=60):
        """Return every copy that lies with anybody, once nothing is on its way any more."""
        until(lambda: not self.postfix.queued(), seconds, "everything is delivered")
        return self.dovecot.read()


# -------------------------------------------------------------------------------------------- running


def lacking(*programs):
    """Return why such servers cannot be started here, or ""."""
    absent = [name for name in programs if found(name) is None]
    if absent:
        return f"no {' and no '.join(absent)} here: python scripts/system_packages.py"
    if privilege() is None:
        return f"{' and '.join(programs)} are started by root, or by a sudo without a password"
    return ""


@contextlib.contextmanager
def _folder(*programs):
    """Make a folder for servers, and a policy service; skip where they cannot be."""
    if why := lacking(*programs):
        missing(why)
    folder = Path(tempfile.mkdtemp(prefix="pf-", dir="/tmp"))
    folder.chmod(0o755)
    with _Policy() as policy:
        threading.Thread(target=policy.serve_forever, daemon=True).start()
        try:
            yield folder, policy
        finally:
            policy.shutdown()
            # What the servers made belongs to their users.
            subprocess.run([*privilege(), "rm", "-rf", str(folder)], check=False, stdin=subprocess.DEVNULL)


@contextlib.contextmanager
def running_postfix(**settings):
    """Start Postfix alone, and stop it at the end; skips where it is not installed or may not be started."""
    with _folder("postfix") as (folder, policy):
        postfix = Postfix(folder, policy, **settings)
        try:
            postfix.start()
            yield postfix
        finally:
            postfix.stop()


@contextlib.contextmanager
def running_dovecot():
    """Start Dovecot alone, and stop it at the end; skips where it is not installed or may not be started."""
    with _folder("dovecot") as (folder, _):
        dovecot = Dovecot(folder, Certificates(folder / "tls").ca_file)
        try:
            dovecot.start()
            yield dovecot
        finally:
            dovecot.stop()


@contextlib.contextmanager
def running_servers():
    """Start Postfix and Dovecot, and stop them at the end; skips where that cannot be done."""
    with _folder("postfix", "dovecot") as (folder, policy):
        version = subprocess.run([found("dovecot"), "--version"], check=True, capture_output=True, text=True)
        if not version.stdout.startswith("2.3."):
            missing(f"the settings are for Dovecot 2.3, and this is {version.stdout.strip()}")
        ca_file = Certificates(folder / "tls").ca_file
        lmtp = f"lmtp:unix:{folder}/run/lmtp"
        with contextlib.ExitStack() as running:
            # Each takes its ports before the next one looks for some.
            dovecot = Dovecot(folder, ca_file)
            running.callback(dovecot.stop)
            dovecot.start()
            postfix = Postfix(folder, policy, SERVICES, transport=lmtp, more=_SECURE)
            running.callback(postfix.stop)
            postfix.start()
            yield Servers(postfix, dovecot, ca_file)
