"""What comes back is found wherever it lies, and speaks against nobody whom that very mail did not go to."""

from __future__ import annotations

import datetime as dt
import imaplib
import os
import pickle
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mailservers import ACCOUNTS, running_dovecot
from scripted import Server
from test_bounces import ANN, EXIM, complaint, dsn, group

from smtp_notebook import (
    Journal,
    OptionError,
    Report,
    SecretError,
    SettingsError,
    State,
    Suppressions,
    mail_merge,
    postbox,
    read_bounces,
    send,
    suppress,
)
from smtp_notebook.mime import tag

LETTER = "---\nsubject: Hi {{ n }}\n---\nDear **{{ n }}**"
AWAY = b"From: x@example.org\nAuto-Submitted: auto-replied\nSubject: away\n\nI am away.\n"
LETTER_OF_A_PERSON = b"From: ann@example.com\nSubject: Hello\n\nHow are you?\n"
UNREAD = b"From: MAILER-DAEMON@example.org\nSubject: Oh no\n\nIt did not work.\n"


def failed(address=ANN, status="5.1.1", said="smtp; 550 5.1.1 no such user", **more):
    return dsn(group(Final_Recipient=address, Action="failed", Status=status, Diagnostic_Code=said), **more)


def about(outcome, **more):
    """Return a bounce of the mail of an Outcome, for its first recipient."""
    returned = f"Message-ID: {outcome.message_id}\r\nTo: {outcome.to[0]}\r\n\r\nHello"
    return failed(f"rfc822; {more.pop('address', outcome.to[0])}", returned=returned, **more)


def write_mbox(path, *mails):
    with path.open("wb") as file:
        for raw in mails:
            text = raw.replace(b"\r\n", b"\n")
            file.write(b"From x Tue Nov 24 12:00:00 2026\n" + re.sub(rb"(?m)^(>*From )", rb">\1", text))
            file.write(b"\n\n")
    return path


@pytest.fixture(scope="module")
def sent_before(tmp_path_factory):
    """A campaign of three rows and a single mail, once sent; the journal, the Outcomes."""
    folder = tmp_path_factory.mktemp("sent")
    with pytest.MonkeyPatch.context() as patch, Server() as server:
        patch.setenv("SMTP_NOTEBOOK_JOURNAL", str(folder / "journal.sqlite3"))
        patch.setenv("SMTP_NOTEBOOK_SUPPRESSIONS", str(folder / "suppressions.sqlite3"))
        data = pd.DataFrame(
            {"Email": [f"u{i}@example.com" for i in range(3)], "n": range(3), "Id": ["a", "b", "c"]}
        )
        report = mail_merge(
            data, LETTER, campaign="news", key="Id", from_="me@example.org", via=server.url(), progress=False
        )
        single = send(
            to=["ann@example.com", "bob@example.com"],
            subject="S",
            body="B",
            from_="me@example.org",
            via=server.url(),
        )
    return folder / "journal.sqlite3", [*report, single]


def read(tmp_path, sent_before, *mails, **options):
    return read_bounces(write_mbox(tmp_path / "box", *mails), journal=sent_before[0], **options)


# ------------------------------------------------------------------------------------------- as Outcomes


def test_a_bounce_is_an_outcome_with_the_journals_key_campaign_and_message_id(tmp_path, sent_before):
    row = sent_before[1][1]
    (found,) = read(tmp_path, sent_before, about(row))
    assert (found.state, found.status, found.code, found.enhanced) == (State.REFUSED, 404, 550, "5.1.1")
    assert (found.key, found.campaign, found.message_id) == ("b", "news", row.message_id)
    assert found.to == ("u1@example.com",)
    assert "mx.example.org" in found.reason
    assert "no such user" in found.reason
    assert found.fix


JUDGED = [
    ("failed", "5.1.1", "smtp; 550 5.1.1 no", State.REFUSED, 404),
    ("failed", "5.1.10", "", State.REFUSED, 404),
    ("failed", "5.7.1", "smtp; 550 5.7.1 spam", State.REFUSED, 403),
    ("failed", "5.2.2", "smtp; 552 5.2.2 full", State.REFUSED, 400),
    ("failed", "5.0.0", "", State.REFUSED, 400),
    ("failed", "4.4.1", "", State.REFUSED, 400),
    ("delayed", "4.4.1", "", State.DEFERRED, 202),
    ("delivered", "2.0.0", "", State.SENT, 200),
    ("relayed", "2.0.0", "", State.SENT, 200),
    ("expanded", "2.0.0", "", State.SENT, 200),
]


@pytest.mark.parametrize(("action", "status", "said", "state", "code"), JUDGED)
def test_the_state_follows_the_action_and_the_status_the_code(
    tmp_path, sent_before, action, status, said, state, code
):
    raw = dsn(group(Final_Recipient=ANN, Action=action, Status=status, Diagnostic_Code=said))
    (found,) = read(tmp_path, sent_before, raw)
    assert (found.state, found.status) == (state, code)


@pytest.mark.parametrize("way", ["tag", "envelope id", "Message-ID"])
def test_each_way_that_names_the_mail_finds_it(tmp_path, sent_before, way):
    row = sent_before[1][2]
    head = f"Delivered-To: bounces+{tag(row.message_id).upper()}@example.org\r\n" if way == "tag" else ""
    id_ = row.message_id.strip("<>") if way == "envelope id" else "unknown"
    returned = f"Message-ID: {row.message_id if way == 'Message-ID' else '<other@example.net>'}\r\n\r\nHi"
    raw = failed(
        "rfc822; u2@example.com", head=head, returned=returned, about=f"Reporting-MTA: dns; x\r\nOriginal-Envelope-Id: {id_}\r\n",
    )  # fmt: skip
    (found,) = read(tmp_path, sent_before, raw)
    assert (found.key, found.campaign) == ("c", "news")


def test_a_single_mail_is_found_too_and_belongs_to_no_campaign(tmp_path, sent_before):
    single = sent_before[1][-1]
    (found,) = read(tmp_path, sent_before, about(single, address="BOB@example.com"))
    assert (found.key, found.campaign, found.to) == ("BOB@example.com".lower(), "", ("bob@example.com",))
    assert found.against == "bounce"


def test_the_report_says_what_was_read_and_what_was_not_understood(tmp_path, sent_before):
    row = sent_before[1][0]
    report = read(tmp_path, sent_before, about(row), AWAY, LETTER_OF_A_PERSON, UNREAD)
    assert isinstance(report, Report)
    assert report.notes == (
        "4 mails read: 1 report, 1 automatic reply, 1 other mail.",
        "1 mail like a bounce not understood: Oh no.",
        "1 address is gone for good or complained: suppress(bounces) keeps later merges from trying it.",
    )
    assert report.unread == ("Oh no",)
    frame = report.to_frame()
    assert list(frame["campaign"]) == ["news"]
    copy = pickle.loads(pickle.dumps(report))
    assert (list(copy), copy.unread, copy.notes) == (list(report), report.unread, report.notes)
    assert "Bounces in box" in report._repr_mimebundle_()["text/plain"]


def test_the_journal_is_not_changed(tmp_path, sent_before):
    before = sent_before[0].read_bytes()
    read(tmp_path, sent_before, about(sent_before[1][0]), suppress=True)
    assert sent_before[0].read_bytes() == before
    journal = Journal(sent_before[0])
    assert journal.report("news").counts == {State.SENT: 3}
    journal.close()


def test_without_a_journal_nothing_is_made_and_nobody_is_vouched_for(tmp_path):
    report = read_bounces(write_mbox(tmp_path / "box", failed()))
    assert report[0].warnings == ("the journal knows no mail that this speaks of",)
    assert report.suppress() == ()
    assert not Path(os.environ["SMTP_NOTEBOOK_JOURNAL"]).exists()


# ------------------------------------------------------------------------------------------- suppressing


def test_what_is_gone_for_good_and_who_complained_are_suppressed_and_nobody_else(tmp_path, sent_before):
    first, second, third, single = sent_before[1]
    hidden = complaint(
        "Feedback-Type: abuse\r\n", f"Message-ID: {third.message_id}\r\nTo: [redacted]\r\n\r\nHi"
    )
    mails = [
        about(first),
        about(second, status="5.7.1", said="smtp; 550 5.7.1 policy"),
        about(single, status="5.2.2", said="smtp; 552 5.2.2 full"),
        hidden,
    ]
    report = read(tmp_path, sent_before, *mails)
    assert suppress(report) == ("u0@example.com", "u2@example.com")
    entries = {e.address: e for e in Suppressions()}
    assert (entries["u0@example.com"].source, entries["u2@example.com"].source) == ("bounce", "complaint")
    assert "no such user" in entries["u0@example.com"].reason
    assert report.suppress() == ()
    assert (report[3].state, report[3].status, report[3].key) == (State.REFUSED, 403, "c")


def test_suppress_at_once_says_how_many(tmp_path, sent_before):
    report = read(tmp_path, sent_before, about(sent_before[1][0]), about(sent_before[1][0]), suppress=True)
    assert "1 address suppressed by this; 1 were found." in report.notes
    assert "u0@example.com" in Suppressions()


def test_a_forged_bounce_suppresses_nobody_who_was_not_mailed(tmp_path, sent_before):
    row = sent_before[1][0]
    forged = [
        failed("rfc822; victim@example.com"),
        about(row, address="victim@example.com"),
        failed("rfc822; u1@example.com", returned=f"Message-ID: {row.message_id}\r\n\r\nHi"),
        EXIM.encode(),
        complaint(
            "Feedback-Type: abuse\r\nOriginal-Rcpt-To: <u1@example.com>\r\n", "To: u1@example.com\r\n\r\n"
        ),
        failed("", returned="Message-ID: <forged@example.org>\r\nTo: u1@example.com\r\n\r\nHi"),
    ]
    report = read(tmp_path, sent_before, *forged)
    assert len(report) == 7
    assert report.proposals() == []
    assert all(o.warnings for o in report)
    trusted = read(tmp_path, sent_before, *forged, trust=True)
    assert set(trusted.suppress()) == {"victim@example.com", "u1@example.com", "ann@example.com"}


def test_a_forwarded_address_counts_where_the_report_names_the_one_that_was_mailed(tmp_path, sent_before):
    row = sent_before[1][0]
    returned = f"Message-ID: {row.message_id}\r\n\r\nHi"
    fields = {"Action": "failed", "Status": "5.1.1", "Final_Recipient": "rfc822; far@example.net"}
    named = dsn(group(Original_Recipient="rfc822; u0@example.com", **fields), returned=returned)
    hidden = dsn(group(**fields), returned=returned)
    found = read(tmp_path, sent_before, named, hidden)
    assert [(o.to[0], o.against) for o in found] == [("u0@example.com", "bounce"), ("far@example.net", "")]
    assert "u0@example.com" in found[1].warnings[0]


# ------------------------------------------------------------------------------------------- where from


def test_mbox_maildir_folder_and_one_file_give_the_same_and_stay_as_they_are(tmp_path, sent_before):
    mails = [about(sent_before[1][0]), AWAY, about(sent_before[1][1])]
    box = write_mbox(tmp_path / "box", *mails)
    maildir, folder = tmp_path / "maildir", tmp_path / "folder"
    for name in ("new", "cur", "tmp"):
        (maildir / name).mkdir(parents=True)
    folder.mkdir()
    (maildir / "cur" / "1.x:2,S").write_bytes(mails[0])
    (maildir / "new" / "2.x").write_bytes(mails[1])
    (maildir / "new" / "3.x").write_bytes(mails[2])
    (maildir / "cur" / "4.x:2,ST").write_bytes(failed("rfc822; trashed@example.com"))
    (maildir / "tmp" / "5.x").write_bytes(failed("rfc822; half@example.com"))
    for number, raw in enumerate(mails):
        (folder / f"{number}.eml").write_bytes(raw)
    (folder / "notes.txt").write_bytes(failed("rfc822; notes@example.com"))

    def everything():
        return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()}

    before = everything()
    found = [[o.to for o in read_bounces(s, journal=sent_before[0])] for s in (box, maildir, str(folder))]
    assert found == [[("u0@example.com",), ("u1@example.com",)]] * 3
    assert [o.key for o in read_bounces(folder / "2.eml", journal=sent_before[0])] == ["b"]
    assert everything() == before


def test_a_line_that_begins_with_from_splits_no_mail(tmp_path, sent_before):
    row = sent_before[1][0]
    raw = about(row).replace(
        b"I'm sorry.", b"From here on it is bad.\r\nFrom mailer-daemon\r\n>From old times"
    )
    path = write_mbox(tmp_path / "box", raw, raw)
    assert len(read_bounces(path, journal=sent_before[0])) == 2
    text = path.read_bytes().replace(
        b">From mailer", b"From mailer"
    )  # unquoted, with no empty line before it
    path.write_bytes(text)
    assert len(read_bounces(path, journal=sent_before[0])) == 2


LINES = st.lists(
    st.sampled_from(
        [b"", b"From me", b">From me", b">>From", b"from", b"Subject: x", b"\xff" * 9, b"a" * 200_000]
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=4))
def test_any_mails_come_out_of_an_mbox_as_they_went_in(tmp_path_factory, mails):
    path = tmp_path_factory.getbasetemp() / "any.mbox"
    raws = [b"".join(line + b"\n" for line in (b"Head: 1", *lines)) for lines in mails]
    write_mbox(path, *raws)
    found = [m.raw for m in postbox.mails(path, postbox.Access(1 << 22))]
    assert found == [raw + b"\n\n" for raw in raws]


def test_since_leaves_out_what_is_older(tmp_path):
    old, new = failed(), failed("rfc822; new@example.com").replace(b"24 Nov 2026", b"25 Nov 2026")
    box = write_mbox(tmp_path / "box", old, new)
    for since in (dt.date(2026, 11, 25), dt.datetime(2026, 11, 25, 1, tzinfo=dt.UTC)):
        assert [o.to for o in read_bounces(box, since=since)] == [("new@example.com",)]
    with pytest.raises(OptionError):
        read_bounces(box, since="yesterday")


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("missing", "There is no"),
        ("pop3://ann@mail.example.com", "no mailbox"),
        ("imaps://mail.example.com/INBOX", "no user"),
        ("imaps://ann:s3cret@mail.example.com/INBOX", "password"),
        ("imaps://ann@mail.example.com:x/INBOX", "no host and port"),
        ("imaps://ann:s3cret%40mail.example.com/INBOX", "no host and port"),
        ("imap+plain://ann@mail.example.com/INBOX", "in clear"),
        ("imaps://ann@mail.example.com/IN%0D%0ABOX", "no mailbox's name"),
    ],
)
def test_a_source_that_is_none_is_a_mistake_that_says_what_would_be_one(source, word):
    with pytest.raises(SettingsError, match=word) as caught:
        read_bounces(source)
    assert caught.value.fix
    assert "s3cret" not in str(caught.value)


# ------------------------------------------------------------------------------------------ real servers


@pytest.fixture(scope="module")
def dovecot():
    with running_dovecot() as found:
        yield found


def test_a_mailbox_on_a_server_is_read_and_left_as_it_was(dovecot, sent_before):
    for number, raw in enumerate(
        [about(sent_before[1][0]), AWAY, LETTER_OF_A_PERSON, about(sent_before[1][1])]
    ):
        dovecot.put("bounces", number, raw)
    options = {"journal": sent_before[0], "password": lambda: ACCOUNTS["bounces"], "ca_file": dovecot.ca_file}
    for scheme in ("imaps", "imap"):
        report = read_bounces(dovecot.url("bounces", scheme), **options)
        assert sorted(o.key for o in report) == ["a", "b"]
        assert report.notes[0].startswith("4 mails read")
        assert "s3" not in report.text()
    assert {flags.replace("T", "") for _, flags in dovecot.flags("bounces")} == {""}
    assert len(read_bounces(dovecot.url("bounces"), since=dt.date(2100, 1, 1), **options)) == 0
    read_bounces(dovecot.url("bounces"), mark_seen=True, **options)
    assert dovecot.flags("bounces") == [("0", "S"), ("1", ""), ("2", ""), ("3", "S")]


def test_a_server_that_cannot_be_trusted_or_entered_is_said_to_be_so(dovecot, monkeypatch):
    trusted = {"ca_file": dovecot.ca_file}
    with pytest.raises(SettingsError, match="could not show who it is"):
        read_bounces(dovecot.url("bounces"), password=lambda: ACCOUNTS["bounces"])
    with pytest.raises(SettingsError, match="could not show who it is"):
        read_bounces(dovecot.url("bounces", "imap"), password=lambda: ACCOUNTS["bounces"])
    with pytest.raises(SettingsError, match="would not open"):
        read_bounces(
            dovecot.url("bounces", mailbox='Grüße & "mehr"'), password=lambda: ACCOUNTS["bounces"], **trusted
        )
    with pytest.raises(SecretError):
        read_bounces(dovecot.url("bounces"), **trusted)
    monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", "wrong one")
    with pytest.raises(SettingsError, match="cannot be read") as caught:
        read_bounces(dovecot.url("bounces"), **trusted)
    assert "wrong one" not in str(caught.value)


@pytest.mark.parametrize("source", [None, 5, b"mbox"])
def test_what_is_no_source_is_said_to_be_none(source):
    with pytest.raises(SettingsError, match="no mailbox"):
        read_bounces(source)


def test_a_password_that_a_server_cannot_take_is_not_shown():
    class Session:
        capabilities = ("IMAP4REV1",)

        def login(self, *_):
            raise AssertionError

    with pytest.raises(imaplib.IMAP4.error) as caught:
        postbox._log_in(Session(), "ann", "geheimwört")
    assert "geheim" not in repr(caught.value)
