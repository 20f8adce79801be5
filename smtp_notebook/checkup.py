"""Is this server ready to be sent by? What a send does up to the first recipient, step by step, and no mail.

The steps are those of `session.Dialler`, which tells of each, and then MAIL and RSET: no RCPT, no DATA. So a check
that passes says that a mail would get as far as its recipients.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import html
import importlib
import ipaddress
import ssl
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from smtp_notebook import _html, _sync
from smtp_notebook.addresses import wire_of
from smtp_notebook.connection import Connection
from smtp_notebook.outcome import DeliveryError, MailError, Outcome, SecretError, State
from smtp_notebook.replies import Reply, Stage, Verdict, classify, one_line
from smtp_notebook.session import DialError, Dialler, Link, LostError, size_limit

__all__ = ["Checkup", "Mark", "Step", "acheck", "check"]

#: A certificate that ends within so many days is warned of.
FEW_DAYS = 30
_QUIT_SECONDS = 2.0
#: Of what stands beside a step's name, in characters.
_WIDTH = 88


class Mark(enum.StrEnum):
    """How a step ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a check.

    Attributes:
        name: What was done.
        mark: How it ended.
        text: What was found, or why it failed: one sentence or a few words, without a secret.
        fix: What to do, or "".
        seconds: How long it took, by a clock that only goes forward.
        facts: What was found, as values that JSON can hold.
        status: Of a step that failed: the connector's response code, as a mail would get it.
        code: Of a step that failed: the server's reply code, or None when no reply decided.
    """

    name: str
    mark: Mark = Mark.OK
    text: str = ""
    fix: str = ""
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    status: int = 0
    code: int | None = None

    @property
    def line(self) -> str:
        """Mark, name, time, what was found and what to do, as plain text that is no wider than a terminal."""
        head = f"{self.mark:>9}  {self.name:<12} {_taken(self.seconds):>7}  "
        wrapped = [line for text in (self.text, self.fix) for line in textwrap.wrap(text, _WIDTH)] or [""]
        return f"\n{'':>{len(head)}}".join([head + wrapped[0], *wrapped[1:]]).rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON can hold; a fact that nobody knows is left out."""
        said = {"text": self.text, "fix": self.fix, "facts": dict(self.facts), "status": self.status}
        said["code"] = self.code
        known = {name: value for name, value in said.items() if value}
        return {"name": self.name, "mark": str(self.mark), "seconds": round(self.seconds, 4)} | known


@dataclass(frozen=True, slots=True, repr=False)
class Checkup:
    """What a check found: a step for each thing that was looked at, in order. Displays itself, and holds no secret.

    Attributes:
        subject: What was checked: a server's URL, or this machine.
        steps: The steps.
    """

    subject: str
    steps: tuple[Step, ...]

    @property
    def ok(self) -> bool:
        """Whether no step failed; a warning is no failure."""
        return self.failed is None

    @property
    def failed(self) -> Step | None:
        """The first step that failed, or None."""
        return next((step for step in self.steps if step.mark is Mark.FAILED), None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person may want to look at although nothing failed."""
        return tuple(f"{s.name}: {s.fix or s.text}" for s in self.steps if s.mark is Mark.WARNING)

    @property
    def seconds(self) -> float:
        """How long all steps took together."""
        return sum(step.seconds for step in self.steps)

    @property
    def summary(self) -> str:
        """The result in a few words."""
        if self.failed is not None:
            return f"failed at {self.failed.name}: {self.failed.text}"
        count = len(self.warnings)
        more = f", {count} warning{'' if count == 1 else 's'}" if count else ""
        return f"all well in {_taken(self.seconds)}{more}"

    def raise_for_failure(self) -> None:
        """Raise what a mail by this server would have ended with.

        Raises:
            DeliveryError: A step failed; its ``outcome`` has the cause, the fix and the connector's status.
        """
        step = self.failed
        if step is None:
            return
        later = step.status == _LATER
        raise DeliveryError(
            Outcome(
                state=State.DEFERRED if later else State.REFUSED,
                status=step.status,
                code=step.code,
                reason=step.text,
                fix=step.fix,
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold: ``ok``, ``subject``, ``seconds``, ``warnings``, ``steps``."""
        return {
            "ok": self.ok,
            "subject": self.subject,
            "seconds": round(self.seconds, 4),
            "warnings": list(self.warnings),
            "steps": [step.to_dict() for step in self.steps],
        }

    def text(self) -> str:
        """Return all steps as lines of plain text."""
        return "\n".join([f"{self.subject}: {self.summary}", *(step.line for step in self.steps)])

    def __repr__(self) -> str:
        return f"<Checkup of {self.subject}: {self.summary}>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/plain": self.text(), "text/html": self._html()}

    def _html(self) -> str:
        head = f"<p><strong>{html.escape(self.subject)}</strong> · {html.escape(self.summary)}</p>"
        return _html.card(f"{head}<div>{''.join(map(_row, self.steps))}</div>")


_COLOUR = {Mark.OK: "sent", Mark.WARNING: "deferred", Mark.NOT_TRIED: "skipped", Mark.FAILED: "refused"}


def _taken(seconds: float) -> str:
    """Return a time as people read it; nothing for what took none."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{max(1, round(seconds * 1000))} ms" if seconds else ""


def _row(step: Step) -> str:
    """Return a step as a line that breaks where the cell is narrow."""
    badge = f'<span style="display:inline-block;min-width:84px">{_html.badge(_COLOUR[step.mark], step.mark)}</span>'
    head = f"{badge}<strong>{html.escape(step.name)}</strong> {_html.quiet(_taken(step.seconds))}"
    text = f"<div>{html.escape(step.text)}</div>" if step.text else ""
    fix = f'<div style="font-weight:600">{html.escape(step.fix)}</div>' if step.fix else ""
    outer = "display:flex;flex-wrap:wrap;gap:2px 12px;padding:4px 0"
    return (
        f'<div style="{outer}"><div style="flex:0 0 250px">{head}</div>'
        f'<div style="flex:1 1 240px;min-width:0">{text}{fix}</div></div>'
    )


# ------------------------------------------------------------------------------------------ the check


def check(connection: Connection, sender: str = "") -> Checkup:
    """Try a server as a send would, up to its recipients; nothing is sent and nobody is mailed.

    Args:
        connection: The server.
        sender: Whose mail it would be; by default the connection's sender, or its user where that is an address.

    The password is found first, as by `connect`: that may prompt, on the calling thread. There is one login at most.
    Each step takes at most the connection's timeout. Whatever fails is a step of the result, and no error.

    Raises:
        AddressError: *sender* is none.
    """
    plan = _Plan.of(connection, sender)
    return plan.result if plan.result is not None else _sync.run(lambda _: plan.run())


async def acheck(connection: Connection, sender: str = "") -> Checkup:
    """Do what `check` does, awaited."""
    plan = _Plan.of(connection, sender)
    return plan.result if plan.result is not None else await plan.run()


@dataclass(slots=True)
class _Plan:
    """A check whose settings were looked at, on the calling thread.

    Attributes:
        connection: The server; without its user where no password is to be had, so that all else can be tried.
        password: The secret.
        sender: Whose mail it would be.
        first: The step of the settings.
        result: What came of it already, when nothing further can be tried.
    """

    connection: Connection
    password: str | None
    sender: str
    first: Step
    url: str
    login: bool
    result: Checkup | None = None

    @classmethod
    def of(cls, connection: Connection, sender: str) -> _Plan:
        begun = time.perf_counter()
        url, password, error = _subject(connection), None, None
        wire = wire_of(sender or connection.sender or (connection.user if "@" in connection.user else ""))
        wire = connection.envelope_sender(wire, _NO_MAIL) if wire else wire
        try:
            if connection.security != "plain":
                connection.tls_context()
            if connection.user:
                password = connection.resolve_secret()
        except MailError as caught:
            error = caught
        seconds = time.perf_counter() - begun
        if error is not None:
            step = Step(
                name="settings", mark=Mark.FAILED, text=error.cause, fix=error.fix, seconds=seconds,
                status=_NO_LOGIN if isinstance(error, SecretError) else _FORBIDDEN,
            )  # fmt: skip
        else:
            step = Step(name="settings", text=_settings(connection), seconds=seconds, facts={"url": url})
        plan = cls(connection, password, wire, step, url, login=bool(connection.user))
        if isinstance(error, SecretError):
            plan.connection = connection.with_(user="", secret=None, oauth=None)
        elif error is not None:
            plan.result = Checkup(url, (step,))
        return plan

    async def run(self) -> Checkup:
        importlib.import_module("aiosmtplib")  # now, so that its time is not taken for the server's
        notes = _Notes(self.connection)
        dialler = Dialler(self.connection, self.password, notes)
        try:
            link = await dialler.dial()
        except DialError as error:
            notes.failed(error.verdict)
        else:
            try:
                await self._talk(link, notes, dialler.censored)
            finally:
                link.abort()
        return Checkup(self.url, (self.first, *notes.all(login=self.login)))

    async def _talk(self, link: Link, notes: _Notes, censored: Callable[[str], str]) -> None:
        """Say MAIL and RSET as a transaction would begin, and take leave."""
        if self.login and not self.connection.user:
            notes.skipped("login", "There is no password to try.")
        elif not self.login:
            notes.skipped("login", "The settings name no user, so nobody logs in.")
        if self.login and not self.connection.user:
            notes.skipped("sender", "Without the login nothing would be learnt.")
        elif self.sender:
            await self._mail(link, notes, censored)
        else:
            notes.skipped("sender", "No sender is named: check(sender=…) asks the server about one.")
        with contextlib.suppress(LostError):
            reply = await link.dialogue.ask(b"QUIT\r\n", _QUIT_SECONDS)
            notes.add("quit", text=censored(reply.line))
            return
        # A mail would have gone, so this is no failure.
        notes.add("quit", Mark.WARNING, text=f"The server did not say goodbye: {link.dialogue.lost}.")

    async def _mail(self, link: Link, notes: _Notes, censored: Callable[[str], str]) -> None:
        timeout = self.connection.timeout
        utf8 = not self.sender.isascii()
        if utf8 and "smtputf8" not in link.extensions:
            text = f"The server takes no address with letters beyond ASCII, such as {self.sender}."
            notes.add("sender", Mark.FAILED, text=text, fix="Send as an ASCII address.", status=_BAD)
            return
        option = " SMTPUTF8" if utf8 else ""
        try:
            reply = await link.dialogue.ask(f"MAIL FROM:<{self.sender}>{option}\r\n".encode(), timeout)
        except LostError as error:
            verdict = Verdict(
                state=State.DEFERRED,
                status=_LATER,
                reason=f"The connection was lost when the sender was named: {error}.",
                fix="Check again: if it stays so, ask whoever runs the server.",
                stage=Stage.MAIL,
            )
            notes.failed(verdict, "sender")
            return
        reply = Reply(reply.code, censored(reply.text))
        if not reply.good:
            notes.failed(classify(Stage.MAIL, reply, self.connection.provider), "sender")
        else:
            notes.add("sender", text=f"{self.sender} may send: {reply.line}", facts={"sender": self.sender})
        with contextlib.suppress(LostError):
            await link.dialogue.ask(b"RSET\r\n", timeout)


#: Stands for a mail's Message-ID where the envelope has a tag of it.
_NO_MAIL = "<check@localhost>"
_LATER, _BAD, _NO_LOGIN, _FORBIDDEN = 202, 400, 401, 403


def _subject(connection: Connection) -> str:
    if connection.sandbox:
        return f"sandbox at {connection.host}:{connection.port}"
    return f"{connection.name}: {connection.url}" if connection.name else connection.url


def _settings(connection: Connection) -> str:
    """Return in plain words how the server will be spoken to."""
    how = {
        "starttls": "TLS is demanded by STARTTLS",
        "tls": "TLS from the first octet",
        "plain": "no TLS: mails can be read on the way",
    }[connection.security]
    if connection.sandbox or (connection.security == "plain" and connection.is_loopback):
        how = "no TLS, and none is needed on this machine"
    origin = f"password from {connection.secret.origin}" if connection.secret is not None else "a password"
    if connection.oauth is not None:
        origin = f"a token of {connection.oauth.title}"
    login = f"login as {connection.user}, {origin}" if connection.user else "no login"
    return f"{how}; {login}"


# ------------------------------------------------------------------------------------------ the notes


class _Notes:
    """What a dial told, as steps; `session.Told`."""

    def __init__(self, connection: Connection) -> None:
        self._at = connection
        self._steps: list[Step] = []
        self._tried: list[tuple[str, str]] = []
        self._hellos = 0
        self._since = time.perf_counter()

    def __call__(self, step: str, found: Any) -> None:
        match step:
            case "resolve":
                self.add("name", **_resolved(self._at.host, found))
            case "try":
                self._tried.append(found)
            case "connect":
                self.add("connect", **_connected(self._tried))
            case "banner":
                self.add("banner", text=one_line(found))
            case "ehlo":
                self._hellos += 1
                self.add("EHLO" if self._hellos == 1 else "EHLO by TLS", **_greeted(found))
                if self._at.security != "starttls" or self._hellos > 1:
                    self._steps.append(Step(name="offers", **_offers(found.esmtp_extensions, self._at)))
            case "tls":
                self.add("TLS", **_secured(found, dt.datetime.now(dt.UTC)))
            case "login":
                self.add("login", text=f"{self._at.user} is logged in", facts={"user": self._at.user})

    def add(self, name: str, mark: Mark = Mark.OK, **more: Any) -> None:
        """Note a step that is done now."""
        now = time.perf_counter()
        self._steps.append(Step(name=name, mark=mark, seconds=now - self._since, **more))
        self._since = now

    def skipped(self, name: str, why: str) -> None:
        self._steps.append(Step(name=name, mark=Mark.NOT_TRIED, text=why))

    def failed(self, verdict: Verdict, name: str = "") -> None:
        self.add(
            name or self._failing(verdict),
            Mark.FAILED,
            text=verdict.reason,
            fix=verdict.fix,
            status=verdict.status,
            code=verdict.code,
            facts={"tried": [f"{a}: {why}" for a, why in self._tried if why]} if self._tried else {},
        )

    def _failing(self, verdict: Verdict) -> str:
        """Return the step that a dial was at when it failed: the one after the last that was told."""
        done = [step.name for step in self._steps]
        if verdict.stage is Stage.LOGIN:
            return "login"
        if "name" not in done:
            return "name"
        if "connect" not in done:
            return "connect"
        if verdict.stage is Stage.TLS:
            return "EHLO by TLS" if "TLS" in done else "TLS"
        if "banner" not in done:
            return "TLS" if self._at.security == "tls" and verdict.code is None else "banner"
        return "EHLO"

    def all(self, *, login: bool) -> Iterable[Step]:
        """Return the steps, and those that could not be tried any more."""
        steps = list(self._steps)
        if not any(step.mark is Mark.FAILED for step in steps):
            return steps
        done = {step.name for step in steps}
        tls = {"starttls": ("TLS", "EHLO by TLS"), "tls": ("TLS",), "plain": ()}[self._at.security]
        wanted = ["name", "connect", "banner", "EHLO", *tls, *(["login"] if login else []), "sender"]
        after = wanted.index(steps[-1].name) + 1 if steps[-1].name in wanted else len(wanted)
        missing = [name for name in wanted[after:] if name not in done]
        return [*steps, *(Step(name=name, mark=Mark.NOT_TRIED) for name in missing)]


# ----------------------------------------------------------------------------------- what was found


def _resolved(host: str, addresses: Iterable[str]) -> dict[str, Any]:
    found = list(dict.fromkeys(addresses))
    try:
        ipaddress.ip_address(host)
    except ValueError:
        shown = ", ".join(f"{a} ({'IPv6' if ':' in a else 'IPv4'})" for a in found)
        text = f"{host} is {shown}"
    else:
        text = f"{host} is an address"
    return {"text": text, "facts": {"addresses": found}}


def _connected(tried: list[tuple[str, str]]) -> dict[str, Any]:
    lost = "; ".join(f"{address} {why}" for address, why in tried if why)
    reached = tried[-1][0]
    facts = {"address": reached, "tried": [f"{a}: {why}" for a, why in tried if why]}
    if lost:
        fix = f"Each new connection loses that time ({lost}): have the name server or the network mended."
        return {"mark": Mark.WARNING, "text": f"{reached} answers", "fix": fix, "facts": facts}
    return {"text": f"{reached} answers", "facts": facts}


def _greeted(client: Any) -> dict[str, Any]:
    names = sorted(client.esmtp_extensions)
    if client.last_helo_response is not None:
        return {"text": "The server knows no EHLO, and took HELO"}
    return {"text": f"{len(names)} extensions", "facts": {"extensions": names}}


def _secured(client: Any, now: dt.datetime) -> dict[str, Any]:
    """Return what the handshake agreed on, and the certificate, which has been verified."""
    socket = client.get_transport_info("ssl_object")
    certificate = client.get_transport_info("peercert") or {}
    version = socket.version() if socket else ""
    cipher = (socket.cipher() or ("",))[0] if socket else ""
    until = _moment(certificate.get("notAfter"))
    days = (until - now).days if until is not None else None
    subject, issuer = _named(certificate, "subject"), _named(certificate, "issuer")
    facts = {
        "version": version,
        "cipher": cipher,
        "subject": subject,
        "names": [value for _, value in certificate.get("subjectAltName", ())],
        "issuer": issuer,
        "valid_from": _iso(_moment(certificate.get("notBefore"))),
        "valid_until": _iso(until),
        "days_left": days,
    }
    text = f"{version.replace('TLSv', 'TLS ')}, {cipher}; certificate of {subject or facts['names'] or 'no name'} by {issuer}"
    if until is None or days is None:
        return {"text": text, "facts": facts}
    text += f", valid until {until:%Y-%m-%d} ({days:,} day{'' if days == 1 else 's'})"
    if days >= FEW_DAYS:
        return {"text": text, "facts": facts}
    when = "today" if days < 1 else "tomorrow" if days == 1 else f"in {days} days"
    fix = f"The certificate ends {when}: tell whoever runs the server, for then no mail goes out any more."
    return {"mark": Mark.WARNING, "text": text, "fix": fix, "facts": facts}


def _moment(said: str | None) -> dt.datetime | None:
    return dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(said), dt.UTC) if said else None


def _iso(moment: dt.datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment is not None else ""


def _named(certificate: Mapping[str, Any], whose: Literal["subject", "issuer"]) -> str:
    """Return a name of the certificate: the common name, else the organisation."""
    parts = {key: value for group in certificate.get(whose, ()) for key, value in group}
    names = [parts.get("commonName", ""), parts.get("organizationName", "")]
    return one_line(", ".join(dict.fromkeys(filter(None, names))), 120)


_MEANING = {
    "8bitmime": ("8BITMIME", "text beyond ASCII travels as it is"),
    "smtputf8": ("SMTPUTF8", "addresses may have letters beyond ASCII"),
    "dsn": ("DSN", "reports of delivery can be asked for (notify=)"),
    "pipelining": ("PIPELINING", "commands share a round trip, so a merge is fast"),
}


def _offers(extensions: Mapping[str, str], connection: Connection) -> dict[str, Any]:
    """Return what the server's extensions mean for a mail."""
    said = [f"{name}: {meaning}" for key, (name, meaning) in _MEANING.items() if key in extensions]
    missing = [name for key, (name, _) in _MEANING.items() if key not in extensions]
    size = size_limit(extensions)
    if "size" in extensions:
        said.insert(0, f"SIZE: a mail may have {size / 1e6:,.1f} MB" if size else "SIZE: no limit is named")
    logins = extensions.get("auth", "").split()
    if logins:
        said.append(f"AUTH: logins by {', '.join(logins)}")
    if missing:
        said.append(f"not offered: {', '.join(missing)}")
    facts = {
        "extensions": dict(sorted(extensions.items())),
        "max_message_bytes": size,
        "logins": logins,
    }
    found: dict[str, Any] = {"text": "; ".join(said), "facts": facts}
    if size and size < connection.max_message_bytes:
        small = size < _SMALL
        found["mark"] = Mark.WARNING if small else Mark.OK
        found["fix"] = (
            f"A mail may have {size / 1e6:,.1f} MB here: send a link in place of a large file."
            if small
            else ""
        )
    return found


#: Less than this and an ordinary attachment is too much: 10 MB are the least that large providers take.
_SMALL = 10 * 10**6
