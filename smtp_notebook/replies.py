"""SMTP replies: reading them off any segmentation, and what each one means for a mail.

Pure. A reply is judged by its stage first, then by its enhanced code (RFC 3463), then by its basic code;
an unknown code counts by its first digit (RFC 5321, 4.3.2).
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from smtp_notebook import advice
from smtp_notebook.outcome import State

__all__ = [
    "BEFORE_ANY_MAIL",
    "HaltedError",
    "Reply",
    "ReplyError",
    "ReplyReader",
    "Stage",
    "Verdict",
    "classify",
    "one_line",
    "too_many",
]

_NO_LOGIN = 401
_LONGEST_LINE = 8192
_MOST_LINES = 512
_LONGEST_REASON = 300
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s|$)")
_REPLY = re.compile(rb"([1-5][0-9][0-9])([ -]?)(.*)", re.DOTALL)


class ReplyError(ValueError):
    """What the server said is no SMTP reply.

    Attributes:
        before: Whole replies that came before it.
    """

    def __init__(self, message: str, before: Sequence[Reply] = ()) -> None:
        super().__init__(message)
        self.before = tuple(before)


class HaltedError(Exception):
    """The run stops, and this mail has no connection yet: nothing of it was said."""


class Stage(enum.StrEnum):
    """How far a transaction got."""

    CONNECT = "connect"
    TLS = "tls"
    LOGIN = "login"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply: its code, and its text without codes, lines joined by line feeds."""

    code: int
    text: str

    @property
    def digit(self) -> int:
        """The first digit, which alone decides (RFC 5321, 4.3.2)."""
        return self.code // 100

    @property
    def good(self) -> bool:
        """Whether the server did what it was asked."""
        return self.code // 100 == 2  # noqa: PLR2004 - RFC 5321, 4.2.1

    @property
    def enhanced(self) -> str:
        """The enhanced status code such as ``5.1.1``, or ""."""
        found = _ENHANCED.match(self.text)
        return found[1] if found else ""

    @property
    def line(self) -> str:
        """The reply on one line, as the server gave it."""
        return f"{self.code} {one_line(self.text)}".strip()


def one_line(text: str, length: int = _LONGEST_REASON) -> str:
    """Return a server's text as one printable line of at most *length* characters."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= length else flat[: length - 1] + "…"


class ReplyReader:
    """Takes octets in any pieces and gives whole replies.

    Raises:
        ReplyError: From `feed`: no reply can begin like that, or it never ends.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[str] = []
        self._code = 0

    def feed(self, data: bytes) -> list[Reply]:
        """Take octets in; return the replies that they complete."""
        *lines, self._rest = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        found: list[Reply] = []
        for line in lines:
            if not self._lines and (known := _KNOWN.get(line)) is not None:
                found.append(known)
                continue
            try:
                reply = self._line(line)
            except ReplyError as error:
                raise ReplyError(str(error), found) from None
            if reply is not None:
                found.append(reply)
        if len(self._rest) > _LONGEST_LINE:
            msg = f"a line of more than {_LONGEST_LINE} octets"
            raise ReplyError(msg, found)
        return found

    def _line(self, raw: bytes) -> Reply | None:
        line = raw.rstrip(b"\r")
        match = _REPLY.fullmatch(line)
        if match is None or len(line) > _LONGEST_LINE or len(self._lines) >= _MOST_LINES:
            raise ReplyError(one_line(line.decode("utf-8", "replace"), 80) or "an empty line")
        code = int(match[1])
        if self._lines and code != self._code:
            msg = f"a reply that begins with {self._code} and goes on with {code}"
            raise ReplyError(msg)
        self._code = code
        self._lines.append(match[3].decode("utf-8", "replace"))
        if match[2] == b"-":
            return None
        reply = Reply(code, "\n".join(self._lines))
        if len(self._lines) == 1 and len(_KNOWN) < _MOST_KNOWN:
            _KNOWN[raw] = reply
        self._lines = []
        return reply


#: Lines that were read before: a server says the same few thousands of times.
_KNOWN: dict[bytes, Reply] = {}
_MOST_KNOWN = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a transaction came to.

    Attributes:
        state: sent, partial, deferred, refused or in_doubt.
        status: The connector's response code.
        code: The deciding reply's code; None when no reply decided.
        refused: Each refused recipient with its answer.
        later: Those of them that another transaction may reach at once: there were too many for one.
        stops_run: Whether no other mail has a better chance (login, TLS).
        retry: Whether the same transaction may be tried again now.
        stage: Where it was decided.
    """

    state: State
    status: int
    code: int | None = None
    enhanced: str = ""
    reason: str = ""
    fix: str = ""
    refused: tuple[tuple[str, str], ...] = ()
    later: tuple[str, ...] = ()
    stops_run: bool = False
    retry: bool = False
    stage: Stage = Stage.CONNECT


BEFORE_ANY_MAIL = frozenset({Stage.CONNECT, Stage.TLS, Stage.LOGIN})


@functools.lru_cache(maxsize=256)
def classify(stage: Stage, reply: Reply, provider: str = "") -> Verdict:
    """Return what a reply at a stage means for the mail.

    Args:
        stage: How far the transaction got.
        reply: What the server said.
        provider: Whose server it is, as `providers` names it, or "": some refusals mean more there, or less.

    A daily limit that is reached stops the run: every other mail would hear the same, and its row would count as
    refused.
    """
    enhanced = reply.enhanced
    if stage is Stage.DOT and reply.good:
        return Verdict(state=State.SENT, status=200, code=reply.code, enhanced=enhanced, stage=stage)
    if reply.digit == 4 and stage is not Stage.TLS:  # noqa: PLR2004 - temporary
        return _verdict(State.DEFERRED, 202, stage, reply, provider, retry=True)
    if reply.digit == 5 or stage is Stage.TLS:  # noqa: PLR2004 - permanent
        status = _status(stage, reply.code, enhanced, needs_tls=_needs_tls(reply))
        stops = status == _NO_LOGIN or stage in BEFORE_ANY_MAIL or reply.code in {521, 538, 556}
        stops = stops or _needs_tls(reply) or advice.spent(reply.code, reply.text)
        return _verdict(State.REFUSED, status, stage, reply, provider, stops_run=stops)
    if stage is Stage.DOT:
        return _verdict(State.IN_DOUBT, 500, stage, reply, provider)
    # 1xx, 2xx or 3xx where none belongs: the two sides disagree about where they are.
    return _verdict(State.DEFERRED, 202, stage, reply, provider, retry=True)


def _verdict(
    state: State,
    status: int,
    stage: Stage,
    reply: Reply,
    provider: str,
    *,
    retry: bool = False,
    stops_run: bool = False,
) -> Verdict:
    text = one_line(_ENHANCED.sub("", reply.text, count=1)) or "no reason given"
    who = {
        Stage.RCPT: "The server refused the recipient",
        Stage.MAIL: "The server refused the sender",
        Stage.LOGIN: "The login failed",
        Stage.TLS: "The server refused STARTTLS",
    }
    said = who.get(stage, "The server refused the mail") if reply.digit == 5 else "The server said"  # noqa: PLR2004
    enhanced = f"{reply.enhanced} " if reply.enhanced else ""
    return Verdict(
        state=state,
        status=status,
        code=reply.code,
        enhanced=reply.enhanced,
        reason=f"{said}: {reply.code} {enhanced}{text}",
        fix=_fix(stage, reply, provider),
        retry=retry,
        stops_run=stops_run,
        stage=stage,
    )


def too_many(reply: Reply) -> bool:
    """Tell whether an answer to RCPT says that this transaction holds enough recipients.

    RFC 5321, 4.5.3.1.10: 452, and 552 of older servers. With another enhanced code it speaks of something else,
    such as a full mailbox (4.2.2, 5.2.2).
    """
    return reply.code in {452, 552} and reply.enhanced in {"", "4.5.3", "5.5.3"}


_CROWDED = re.compile(
    r"too many (?:\w+ ){0,3}(?:connections|sessions)\b|concurrent (?:\w+ )?connections?\b|sender thread limit",
    re.IGNORECASE,
)


def crowded(verdict: Verdict) -> bool:
    """Tell whether a temporary refusal says that there are too many connections, and nothing of the mail."""
    return verdict.retry and verdict.code is not None and bool(_CROWDED.search(verdict.reason))


def slower(verdict: Verdict) -> bool:
    """Tell whether a verdict says that mails come too fast (4.7.28)."""
    return verdict.enhanced == "4.7.28"


def _needs_tls(reply: Reply) -> bool:
    return reply.code == 530 and "starttls" in reply.text.lower()  # noqa: PLR2004 - RFC 3207, 4


def _status(stage: Stage, code: int, enhanced: str, *, needs_tls: bool) -> int:
    """Return the connector's response code of a permanent refusal: stage, enhanced code, basic code."""
    if stage is Stage.LOGIN:
        return 401
    if stage is Stage.TLS or code == 538:  # noqa: PLR2004 - encryption required for this login
        return 403
    if code in {521, 556}:
        return 404
    if code == 530:  # noqa: PLR2004 - who logs in, unless the text asks for TLS first (RFC 3207, 4)
        return 403 if needs_tls else 401
    for known, status in _BY_ENHANCED:
        if enhanced == known or (known.endswith(".") and enhanced.startswith(known)):
            return status
    if stage is Stage.MAIL and code in {550, 553, 554}:
        return 403
    if stage is Stage.RCPT and code in {550, 551}:
        return 404
    return _BY_CODE.get(code, 400)


#: What ends with a dot is a prefix; the longest first.
_BY_ENHANCED = (
    ("5.1.7", 403),
    ("5.1.8", 403),
    ("5.1.", 404),
    ("5.2.2", 400),
    ("5.3.4", 400),
    ("5.6.", 400),
    ("5.7.8", 401),
    ("5.7.9", 401),
    ("5.7.", 403),
)
_BY_CODE = {530: 401, 534: 401, 535: 401, 550: 403, 551: 404, 552: 400, 553: 400, 554: 403, 555: 400}


# ------------------------------------------------------------------------------------- what to do


def _fix(stage: Stage, reply: Reply, provider: str) -> str:
    """Return what a person can do about a refusal, in plain words."""
    if _needs_tls(reply):
        return "Use smtp:// (STARTTLS) or smtps:// for this server."
    if stage is Stage.TLS:
        return "Nothing was sent. Try smtps:// (port 465), or later: a server that has no TLS now gets no login and no mail."
    if found := advice.fix(stage, reply.code, reply.enhanced, reply.text, provider):
        return found
    if stage is Stage.RCPT and reply.code in {550, 551, 553}:
        return "Check the address; mail to it will not arrive."
    return _FIX_BY_CODE.get(reply.code, "")


_LOGIN_FIX = (
    "Check the user name and the password. Providers with two-step login want an app password or OAuth instead "
    "of the account's own."
)
_FIX_BY_CODE = {
    421: "The server is busy or closes connections; it is tried again.",
    450: "The server asks to come back later; it is tried again by itself.",
    451: "A temporary fault of the server; it is tried again.",
    452: "The server has no room at present; it is tried again.",
    454: "The server cannot check logins at present; try again later.",
    521: "This host takes no mail; check the server's name.",
    530: "The server wants a login: put the user into the URL, smtp://user@host.",
    534: _LOGIN_FIX,
    535: _LOGIN_FIX,
    538: "This login needs encryption: use smtp:// or smtps://.",
    552: "Make the mail smaller: send a link instead of the attachment.",
    554: "The server's policy refused it; its text says why.",
}
