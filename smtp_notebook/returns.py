"""What comes back of the mails that were sent: bounces and complaints out of a mailbox, as Outcomes.

Anybody can write a mail that looks like a bounce. So a report speaks against an address only where the journal knows
the very mail that it is about, by a tag, an envelope id or a Message-ID, and knows that address as one of its
recipients. The journal itself is only read.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smtp_notebook import suppressions
from smtp_notebook.addresses import Address
from smtp_notebook.bounces import LIMIT, Action, Fact, Form, Notice, read
from smtp_notebook.journal import Journal
from smtp_notebook.mime import tag
from smtp_notebook.outcome import AddressError, OptionError, Outcome, Report, Shelf, State
from smtp_notebook.postbox import Access, mails, named
from smtp_notebook.replies import Reply, Stage, classify
from smtp_notebook.standing import SINGLE
from smtp_notebook.suppressions import GONE, Proposal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Bounced", "Bounces", "read_bounces"]

_NAMED = 5
_STATES = {Action.FAILED: State.REFUSED, Action.DELAYED: State.DEFERRED, Action.COMPLAINT: State.REFUSED}
_SAID = {
    Action.FAILED: "could not be delivered",
    Action.DELAYED: "has not been delivered yet; that server goes on trying",
    Action.DELIVERED: "was delivered",
    Action.RELAYED: "was passed on to a server that sends no such reports",
    Action.EXPANDED: "was passed on to the members of a list",
    Action.COMPLAINT: "was reported as spam by its recipient",
}
_POLICY = 403
#: A reply code that says nothing by itself, where only the enhanced one is known.
_NO_CODE = 555


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounced(Outcome):
    """What was reported of one recipient of one mail.

    Attributes:
        campaign: The mailing that it belonged to, or "" where the journal does not know the mail or it was a
            single one.
        against: ``bounce`` or ``complaint`` where it speaks against the address for good; "" where it does not,
            or where it may be forged.
    """

    campaign: str = ""
    against: str = ""


class Bounces(Report):
    """What `read_bounces` found: a `Report` with one Outcome for each recipient of whom something was reported.

    Attributes:
        unread: The subjects of mails that look like bounces and were not understood.
    """

    def __init__(
        self, outcomes: Iterable[Outcome] | Shelf = (), *, unread: Iterable[str] = (), **more: Any
    ) -> None:
        super().__init__(outcomes, **more)
        self.unread = tuple(unread)

    def __reduce__(self) -> tuple[Any, ...]:
        return _copied, (tuple(self), self.title, self.notes, self.unread)

    def _part(self, outcomes: Iterable[Outcome] | Shelf) -> Bounces:
        return Bounces(outcomes, title=self.title)

    def proposals(self) -> list[Proposal]:
        """Return the addresses that are gone for good, and those of people who complained, with the reasons."""
        return [
            Proposal(o.to[0], o.reason, o.against)
            for o in self
            if isinstance(o, Bounced) and o.against and o.to
        ]

    def suppress(self) -> tuple[str, ...]:
        """Have no merge mail those any more; return the addresses that were not on the list before.

        The same as ``suppress(bounces)``.

        Raises:
            JournalError: The list cannot be read or written.
        """
        return suppressions.suppress(self)

    def to_frame(self) -> pd.DataFrame:
        """Return the Outcomes as a DataFrame, with the mailing of each in the column ``campaign``."""
        frame = super().to_frame()
        frame.insert(2, "campaign", [getattr(o, "campaign", "") for o in self])
        return frame


def _copied(
    outcomes: tuple[Outcome, ...], title: str, notes: tuple[str, ...], unread: tuple[str, ...]
) -> Bounces:
    return Bounces(outcomes, title=title, notes=notes, unread=unread)


def read_bounces(
    source: str | Path,
    *,
    journal: Journal | str | Path | None = None,
    since: dt.date | None = None,
    suppress: bool = False,
    trust: bool = False,
    mark_seen: bool = False,
    password: Callable[[], str] | None = None,
    ca_file: str = "",
) -> Bounces:
    """Read what servers reported of mails that were sent, and return it as a Report.

    Args:
        source: An mbox file, a Maildir, a folder of ``.eml`` files, or a mailbox on an IMAP server:
            ``imaps://user@mail.example.com/INBOX`` (TLS), or ``imap://`` (STARTTLS, required). Nothing is moved,
            deleted or marked.
        journal: The journal that knows the mails, or its file; by default the user's own. It is not changed.
        since: Leave out reports of before this day or moment.
        suppress: Put the addresses at once on the list of `Suppressions` that are gone for good, and those of people who
            complained; the same as `Bounces.suppress`.
        trust: Believe reports about mails and recipients that the journal does not know, too. Anybody can write
            one: with this, a stranger can have your subscribers suppressed.
        mark_seen: On an IMAP server, mark the reports that were understood as read.
        password: A function that returns the password of an IMAP login; otherwise it is found as that of a
            `Connection` is.
        ca_file: A PEM file with the authorities to trust instead of the system's.

    Each Outcome is of one recipient: ``refused`` for a failure or a complaint, ``deferred`` for a delay, ``sent`` for a
    success that was asked for. ``status`` follows from the code as for an answer of the server itself. ``key`` and
    ``message_id`` are the journal's where it knows the mail.

    Only failures that say that the address takes no mail (5.1.1, 5.1.6, 5.1.10, 5.2.1) and complaints speak against an
    address, and only where the journal knows it as a recipient of that very mail.

    Raises:
        SettingsError: The source cannot be read.
        SecretError: The login needs a password that cannot be had here.
        JournalError: The journal, or the list, cannot be read or written.
    """
    moment = _moment(since)
    day = None if moment is None else moment.date() - dt.timedelta(days=1)  # a server's day may be another
    access = Access(LIMIT, day, password, ca_file, mark_seen)
    notices: list[Notice] = []
    with contextlib.closing(mails(source, access)) as found:
        for mail in found:
            notice = read(mail.raw)
            if moment is not None and notice.date is not None and notice.date < moment:
                continue
            notices.append(notice)
            if notice.facts:
                mail.mark()
    known = _known(notices, journal)
    outcomes = [o for n in notices for o in _outcomes(n, known(n), trust=trust)]
    unread = [n.subject or "(no subject)" for n in notices if n.form is Form.UNREAD]
    report = Bounces(outcomes, title=f"Bounces in {named(source)}", unread=unread)
    put = report.suppress() if suppress else None
    return Bounces(outcomes, title=report.title, notes=_notes(notices, report, put), unread=unread)


def _moment(since: dt.date | None) -> dt.datetime | None:
    if since is None or isinstance(since, dt.datetime):
        return None if since is None else since.astimezone(dt.UTC)
    if not isinstance(since, dt.date):
        raise OptionError(f"since={since!r} is no day and no moment.", "Give a date or a datetime.")
    return dt.datetime.combine(since, dt.time()).astimezone(dt.UTC)  # the person's own midnight


# --------------------------------------------------------------------------------------------- the mails

#: A mail that the journal knows: the name of its campaign, and how it stands there.
_Mail = tuple[str, Outcome]


def _known(
    notices: Sequence[Notice], journal: Journal | str | Path | None
) -> Callable[[Notice], _Mail | None]:
    """Return what finds the mail that a notice is about, after one look through the journal."""
    ids = {name for n in notices if n.facts for name in _ids(n)}
    tags = {t for n in notices if n.facts for t in n.tags}
    by_id: dict[str, _Mail] = {}
    by_tag: dict[str, _Mail] = {}
    if ids or tags:
        opened = journal if isinstance(journal, Journal) else Journal.to_read(journal)
        try:
            found = opened.mails(lambda name: name in ids or tag(name) in tags) if opened is not None else []
            for mail in found:
                by_id[mail[1].message_id] = by_tag[tag(mail[1].message_id)] = mail
        finally:
            if opened is not None and opened is not journal:
                opened.close()

    def about(notice: Notice) -> _Mail | None:
        candidates = [*map(by_tag.get, notice.tags), *map(by_id.get, _ids(notice))]
        return next((mail for mail in candidates if mail is not None), None)

    return about


def _ids(notice: Notice) -> list[str]:
    """Return the Message-IDs by which a notice may name its mail; ours is the envelope id, too (`transport`)."""
    return [*([f"<{notice.envelope_id}>"] if notice.envelope_id else []), *notice.message_ids]


def _outcomes(notice: Notice, mail: _Mail | None, *, trust: bool) -> list[Bounced]:
    return [_outcome(notice, fact, mail, trust=trust) for fact in notice.facts]


def _outcome(notice: Notice, fact: Fact, mail: _Mail | None, *, trust: bool) -> Bounced:
    """Return what a fact says, as an Outcome; pure."""
    address, certain, warnings = _whom(fact, mail)
    campaign, sent = mail if mail is not None else ("", None)
    status, fix = _judged(fact)
    server = notice.reporter or "A server"
    words = f"{server} reports that the mail {_SAID[fact.action]}"
    told = fact.said if fact.action in {Action.FAILED, Action.DELAYED} else ""
    gone = fact.action is Action.FAILED and fact.enhanced in GONE
    against = "complaint" if fact.action is Action.COMPLAINT else "bounce" if gone else ""
    return Bounced(
        state=_STATES.get(fact.action, State.SENT),
        key=sent.key if sent is not None and campaign != SINGLE else address,
        to=(address,) if address else (),
        status=status,
        code=fact.code,
        enhanced=fact.enhanced,
        reason=f"{words}: {told}" if told else f"{words}.",
        fix=fix,
        message_id=sent.message_id if sent is not None else next(iter(notice.message_ids), ""),
        started=sent.started if sent is not None else None,
        warnings=warnings,
        campaign=campaign if campaign != SINGLE else "",
        against=against if address and (certain or trust) else "",
    )


def _whom(fact: Fact, mail: _Mail | None) -> tuple[str, bool, tuple[str, ...]]:
    """Return the address of which a fact speaks, whether the journal vouches for it, and what is to be said else."""
    said = fact.original or fact.recipient
    if mail is None:
        return said, False, ("the journal knows no mail that this speaks of",)
    mailed = {_folded(a): a for a in mail[1].to}
    for address in (fact.original, fact.recipient):
        if address and _folded(address) in mailed:
            return mailed[_folded(address)], True, ()
    if not said and len(mailed) == 1:
        return next(iter(mailed.values())), True, ()
    to = ", ".join(mail[1].to)
    return said, False, (f"the mail went to {to}, and this speaks of {said or 'nobody'}",)


def _folded(address: str) -> str:
    try:
        return Address.parse(address).wire.casefold()
    except AddressError:
        return address.casefold()


def _judged(fact: Fact) -> tuple[int, str]:
    """Return the connector's status and what can be done, as for an answer of the server itself."""
    if fact.action is Action.COMPLAINT:
        return _POLICY, "Do not mail this person again: bounces.suppress() sees to that."
    if fact.action is not Action.FAILED or fact.enhanced.startswith("4"):
        return 400 if fact.action is Action.FAILED else 0, ""
    code = fact.code if fact.code is not None and fact.code >= 500 else _NO_CODE  # noqa: PLR2004 - permanent
    verdict = classify(Stage.RCPT, Reply(code, f"{fact.enhanced} {fact.said}".strip()))
    return verdict.status, verdict.fix


# --------------------------------------------------------------------------------------------- the words


def _notes(notices: Sequence[Notice], report: Bounces, put: Sequence[str] | None) -> list[str]:
    """Return what a reader should see first."""
    forms = Counter(
        "other" if n.form is Form.OTHER else "answer" if n.form is Form.ANSWER else "" for n in notices
    )
    told = sum(1 for n in notices if n.facts)
    said = [f"{_count(len(notices), 'mail')} read: {_count(told, 'report')}"]
    said += [f"{_count(forms['answer'], 'automatic reply', 'automatic replies')}"] if forms["answer"] else []
    said += [f"{_count(forms['other'], 'other mail')}"] if forms["other"] else []
    notes = [", ".join(said) + "."]
    if report.unread:
        shown = "; ".join(report.unread[:_NAMED]) + ("; …" if len(report.unread) > _NAMED else "")
        notes.append(f"{_count(len(report.unread), 'mail')} like a bounce not understood: {shown}.")
    gone = {p.address.casefold() for p in report.proposals()}
    if put is not None:
        notes.append(
            f"{_count(len(put), 'address', 'addresses')} suppressed by this; {len(gone)} were found."
        )
    elif gone:
        words = "is gone for good or complained" if len(gone) == 1 else "are gone for good or complained"
        whom = "it" if len(gone) == 1 else "them"
        notes.append(
            f"{_count(len(gone), 'address', 'addresses')} {words}: suppress(bounces) keeps later merges from trying {whom}."
        )
    return notes


def _count(number: int, one: str, more: str = "") -> str:
    return f"{number:,} {one if number == 1 else more or f'{one}s'}"
