"""A report is read for what it says, and nothing is guessed: whatever the octets, in linear time, without an error."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp_notebook.bounces import LIMIT, Action, Fact, Form, read

TAG = "18c2f0a1b2c3d4e5.0123456789abcdef"


def mail(*parts, kind="report; report-type=delivery-status", head="", boundary="b1"):
    """Return a mail of parts, each the type and text."""
    pieces = "".join(f"--{boundary}\r\nContent-Type: {type_}\r\n\r\n{text}\r\n" for type_, text in parts)
    return (
        "Return-Path: <>\r\nFrom: MAILER-DAEMON@mx.example.org (Mail Delivery System)\r\n"
        f"{head}Subject: Undelivered Mail\r\nDate: Tue, 24 Nov 2026 12:00:00 +0100\r\nMIME-Version: 1.0\r\n"
        f'Content-Type: multipart/{kind}; boundary="{boundary}"\r\n\r\nPreamble.\r\n{pieces}--{boundary}--\r\n'
    ).encode()


def dsn(*groups, about="Reporting-MTA: dns; mx.example.org\r\n", returned="", **more):
    status = "\r\n".join([about, *groups])
    returned = returned or "Message-ID: <1@example.org>\r\nTo: ann@example.com\r\n\r\nHello"
    return mail(
        ("text/plain", "I'm sorry."),
        ("message/delivery-status", status),
        ("message/rfc822", returned),
        **more,
    )


def group(**fields):
    return "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())


ANN = "rfc822; ann@example.com"
FAILED, DELAYED = Action.FAILED, Action.DELAYED
#: The fields of one recipient, and what they say.
GROUPS = {
    "Postfix": (
        {
            "Final_Recipient": ANN,
            "Original_Recipient": "rfc822;a@example.org",
            "Action": "failed",
            "Status": "5.1.1",
            "Diagnostic_Code": "smtp; 550 5.1.1 <ann@example.com>: User unknown",
        },
        Fact(
            FAILED,
            "ann@example.com",
            "a@example.org",
            "5.1.1",
            550,
            "550 5.1.1 <ann@example.com>: User unknown",
        ),
    ),
    "folded": (
        {
            "Final_Recipient": "RFC822;<ann@example.com>",
            "Action": "FAILED (no such user)",
            "Status": "5.1.10\r\n (null MX)",
            "Diagnostic_Code": "smtp;\r\n 556\r\n\tno mail here",
        },
        Fact(FAILED, "ann@example.com", "", "5.1.10", 556, "556 no mail here"),
    ),
    "the server knew better than 5.0.0": (
        {
            "Final_Recipient": ANN,
            "Action": "failed",
            "Status": "5.0.0",
            "Diagnostic_Code": "smtp; 550-5.1.1 no such",
        },
        Fact(FAILED, "ann@example.com", "", "5.1.1", 550, "550-5.1.1 no such"),
    ),
    "a status is not overruled by words": (
        {
            "Final_Recipient": ANN,
            "Action": "failed",
            "Status": "5.2.2",
            "Diagnostic_Code": "smtp; 552 5.1.1 odd",
        },
        Fact(FAILED, "ann@example.com", "", "5.2.2", 552, "552 5.1.1 odd"),
    ),
    "not SMTP": (
        {
            "Final_Recipient": ANN,
            "Action": "failed",
            "Status": "5.1.1",
            "Diagnostic_Code": 'x-postfix; unknown user: "ann"',
        },
        Fact(FAILED, "ann@example.com", "", "5.1.1", None, 'unknown user: "ann"'),
    ),
    "delayed": (
        {"Final_Recipient": ANN, "Action": "delayed", "Status": "4.4.1"},
        Fact(DELAYED, "ann@example.com", "", "4.4.1"),
    ),
    "gave up": (
        {"Final_Recipient": ANN, "Action": "failed", "Status": "4.4.1"},
        Fact(FAILED, "ann@example.com", "", "4.4.1"),
    ),
    "delivered": (
        {"Final_Recipient": ANN, "Action": "delivered", "Status": "2.0.0"},
        Fact(Action.DELIVERED, "ann@example.com", "", "2.0.0"),
    ),
    "relayed": (
        {"Final_Recipient": ANN, "Action": "relayed", "Status": "2.0.0"},
        Fact(Action.RELAYED, "ann@example.com", "", "2.0.0"),
    ),
    "expanded": (
        {"Final_Recipient": ANN, "Action": "expanded", "Status": "2.0.0"},
        Fact(Action.EXPANDED, "ann@example.com", "", "2.0.0"),
    ),
    "no action": (
        {"Final_Recipient": ANN, "Status": "5.1.1"},
        Fact(FAILED, "ann@example.com", "", "5.1.1"),
    ),
    "no status": ({"Final_Recipient": ANN, "Action": "failed"}, Fact(FAILED, "ann@example.com")),
    "letters beyond ASCII": (
        {"Final_Recipient": r"utf-8; j\x{F6}rg@example.com", "Action": "failed", "Status": "5.1.1"},
        Fact(FAILED, "jörg@example.com", "", "5.1.1"),
    ),
    "still encoded": (
        {
            "Final_Recipient": "rfc822; ann+2Bnews+40example.com",
            "Action": "failed",
            "Status": "5.1.1",
        },
        Fact(FAILED, "ann+news@example.com", "", "5.1.1"),
    ),
    "no Internet address": (
        {"Final_Recipient": "x400; /C=DE/S=ann@example.com", "Action": "failed", "Status": "5.1.1"},
        Fact(FAILED, "", "", "5.1.1"),
    ),
    "contradicts itself": ({"Final_Recipient": ANN, "Action": "failed", "Status": "2.0.0"}, None),
    "says nothing": ({"Final_Recipient": ANN, "Action": "pondered"}, None),
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_recipients_fields_say_what_became_of_the_mail(name):
    fields, fact = GROUPS[name]
    notice = read(dsn(group(**fields)))
    assert notice.facts == ((fact,) if fact else ())
    assert notice.form is (Form.DSN if fact else Form.UNREAD)


def test_several_recipients_and_the_mail_they_are_about():
    about = f"Reporting-MTA: dns; mx.example.org\r\nOriginal-Envelope-Id: {TAG}+40example.org\r\n"
    raw = dsn(
        group(Final_Recipient=ANN, Action="failed", Status="5.1.1"),
        group(Final_Recipient="rfc822; bob@example.com", Action="delayed", Status="4.2.2"),
        about=about,
        returned=f"Return-Path: <bounces+{TAG}@example.org>\r\nMessage-ID:\r\n <{TAG}@example.org>\r\n\r\nHi",
        head=f"Delivered-To: Bounces+{TAG.upper()}@example.org\r\n",
    )
    notice = read(raw)
    assert [(f.action, f.recipient) for f in notice.facts] == [
        (FAILED, "ann@example.com"),
        (DELAYED, "bob@example.com"),
    ]
    assert notice.message_ids == (f"<{TAG}@example.org>",)
    assert notice.tags == (TAG,)
    assert notice.envelope_id == f"{TAG}@example.org"
    assert notice.reporter == "mx.example.org"
    assert (notice.subject, notice.date.isoformat()) == ("Undelivered Mail", "2026-11-24T11:00:00+00:00")


@pytest.mark.parametrize("kind", ["text/rfc822-headers", "message/rfc822-headers", "message/global"])
def test_headers_alone_may_come_back(kind):
    status = f"Reporting-MTA: dns; x\n\n{group(Final_Recipient=ANN, Action='failed', Status='5.1.1')}"
    raw = mail(
        ("message/delivery-status", status), (kind, "Message-ID: <2@example.org>\nTo: ann@example.com\n")
    )
    assert read(raw).message_ids == ("<2@example.org>",)


def test_an_encoded_status_is_read_and_parts_may_lie_deeper():
    inner = (
        mail(
            (
                "message/global-delivery-status\r\nContent-Transfer-Encoding: base64",
                "UmVwb3J0aW5nLU1UQTogZG5zOyB4CgpGaW5hbC1SZWNpcGllbnQ6IHJmYzgyMjsgYW5uQGV4YW1wbGUuY29tCkFjdGlvbjogZmFpbGVkClN0YXR1czogNS4xLjEK",
            ),
            boundary="inner",
        )
        .partition(b"\r\n\r\n")[2]
        .decode()
    )
    raw = mail(('multipart/mixed; boundary="inner"', inner), kind="mixed")
    assert read(raw).facts == (Fact(FAILED, "ann@example.com", "", "5.1.1"),)


LOCALS = st.from_regex(r"[a-z0-9+_-]{1,12}", fullmatch=True)
RECIPIENTS = st.lists(
    st.tuples(LOCALS, st.sampled_from(["failed", "delayed"]), st.integers(0, 9), st.integers(0, 99)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(RECIPIENTS, st.sampled_from(["\r\n", "\n"]), st.booleans())
def test_what_a_report_says_of_each_recipient_is_read_back(recipients, ending, folded):
    written, expected = [], []
    for local, action, subject, detail in recipients:
        status = f"{'5' if action == 'failed' else '4'}.{subject}.{detail}"
        address = f"rfc822;{ending + ' ' if folded else ' '}{local}@example.com"
        written.append(group(Final_Recipient=address, Action=action.title(), Status=status))
        expected.append((action, f"{local}@example.com", status))
    raw = dsn(*written).replace(b"\r\n", ending.encode()) if ending == "\n" else dsn(*written)
    assert [(f.action, f.recipient, f.enhanced) for f in read(raw).facts] == expected


# -------------------------------------------------------------------------------------------- complaints


def complaint(fields, original=f"To: ann@example.com\r\nMessage-ID: <{TAG}@example.org>\r\n\r\nHi"):
    return mail(
        ("text/plain", "This is an abuse report."),
        ("message/feedback-report", f"User-Agent: SomeGenerator/1.0\r\nVersion: 1\r\n{fields}"),
        ("message/rfc822", original),
        kind="report; report-type=feedback-report",
    )


def test_a_complaint_names_its_sender_and_the_mail():
    raw = complaint(
        f"Feedback-Type: abuse\r\nOriginal-Rcpt-To: <ann@example.com>\r\nOriginal-Mail-From: <b+{TAG}@example.org>\r\n"
    )
    notice = read(raw)
    assert notice.form is Form.COMPLAINT
    assert [(f.action, f.recipient) for f in notice.facts] == [(Action.COMPLAINT, "ann@example.com")]
    assert notice.tags == (TAG,)
    assert notice.message_ids == (f"<{TAG}@example.org>",)


def test_a_complaint_that_hides_who_complained_is_one_all_the_same():
    (fact,) = read(complaint("Feedback-Type: abuse\r\n")).facts
    assert fact.recipient == "ann@example.com"
    (fact,) = read(complaint("Feedback-Type: Abuse\r\n", "To: [redacted]\r\n\r\n")).facts
    assert (fact.action, fact.recipient) == (Action.COMPLAINT, "")


@pytest.mark.parametrize("kind", ["not-spam", "auth-failure", "dmarc", "virus", ""])
def test_what_is_no_complaint_is_none(kind):
    notice = read(complaint(f"Feedback-Type: {kind}\r\nOriginal-Rcpt-To: <ann@example.com>\r\n"))
    assert (notice.form, notice.facts) == (Form.OTHER, ())


# ------------------------------------------------------------------------------------------ other forms

QMAIL = f"""From: MAILER-DAEMON@qmail.example.org
To: bounces+{TAG}@example.org
Subject: failure notice

Hi. This is the qmail-send program at qmail.example.org.
I'm afraid I wasn't able to deliver your message to the following addresses.

<ann@example.com>:
192.0.2.7 does not like recipient.
Remote host said: 550 5.1.1 No such user

<bob@example.com>:
Sorry, no mailbox here by that name. (#5.1.1)

<carl@example.com>:
Sorry, I couldn't find any host by that name.

--- Below this line is a copy of the message.

Return-Path: <bounces@example.org>
Message-ID: <2@example.org>
To: ann@example.com

<dora@example.com>:
550 5.1.1 what somebody wrote
"""
EXIM = """From: Mail Delivery System <Mailer-Daemon@exim.example.org>
X-Failed-Recipients: ann@example.com,
 bob@example.com
Auto-Submitted: auto-replied
Subject: Mail delivery failed: returning message to sender

This message was created automatically by mail delivery software.

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  ann@example.com
    host mx.example.com [192.0.2.7]
    SMTP error from remote mail server after RCPT TO:<ann@example.com>:
    550 5.1.1 <ann@example.com>: no such user

  bob@example.com
    Unrouteable address

------ This is a copy of the message, including all the headers. ------

Return-path: <me@example.org>
Message-ID: <3@example.org>
To: ann@example.com
"""
PLAIN = """Return-Path: <>
From: Postmaster <postmaster@mail.example.org>
Subject: Undeliverable: News

Your message did not reach some of its recipients.

<ann@example.com>: the server said 550 5.1.1 no such user

<bob@example.com> or <carl@example.com>: 550 5.1.1 one of them

dora@example.com is not here

----- Original message -----

Message-ID: <4@example.org>
"""
GOOGLE = """Return-Path: <>
From: Mail Delivery Subsystem <mailer-daemon@mail.example.net>
X-Failed-Recipients: ann@example.com
Content-Transfer-Encoding: quoted-printable

Delivery to the following recipient failed permanently:

     ann@example.com

The error that the other server return=
ed was: 550 550 5.1.1 user unknown (state 14).

----- Original message -----

Message-Id: <5@example.org>
"""
TEXTS = {
    "qmail": (
        QMAIL,
        Form.QMAIL,
        [
            ("ann@example.com", "5.1.1", 550),
            ("bob@example.com", "5.1.1", None),
            ("carl@example.com", "", None),
        ],
        "<2@example.org>",
    ),
    "Exim": (
        EXIM,
        Form.EXIM,
        [("ann@example.com", "5.1.1", 550), ("bob@example.com", "", None)],
        "<3@example.org>",
    ),
    "a text": (PLAIN, Form.TEXT, [("ann@example.com", "5.1.1", 550)], "<4@example.org>"),
    "Google's older one": (GOOGLE, Form.EXIM, [("ann@example.com", "5.1.1", 550)], "<5@example.org>"),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_text_that_is_well_known_is_read(name, ending):
    text, form, facts, message_id = TEXTS[name]
    notice = read(text.replace("\n", ending).encode())
    assert notice.form is form
    assert [(f.recipient, f.enhanced, f.code) for f in notice.facts] == facts
    assert {f.action for f in notice.facts} == {FAILED}
    assert notice.message_ids == (message_id,)


NO_REPORTS = {
    "a letter": ("From: ann@example.com\nSubject: Hi\n\nbob@example.com: 550 5.1.1 is what I got", Form.OTHER),
    "out of office": ("Return-Path: <>\nFrom: ann@example.com\nAuto-Submitted: auto-replied (vacation)\n\nAway.", Form.ANSWER),
    "an older one": ("From: ann@example.com\nX-Autoreply: yes\n\nAway.", Form.ANSWER),
    "a daemon that says nothing": ("From: MAILER-DAEMON@x.example.org\n\nIt did not work, sorry.", Form.UNREAD),
    "an answer without a person": ("Return-Path: <>\nFrom: x@example.org\n\n550 5.1.1 no such user", Form.UNREAD),
    "a status without a recipient": (dsn("").decode(), Form.UNREAD),
    "nothing": ("", Form.OTHER),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_REPORTS)
def test_what_is_not_understood_is_said_to_be_so_and_nothing_is_guessed(name):
    text, form = NO_REPORTS[name]
    notice = read(text.encode())
    assert (notice.form, notice.facts) == (form, ())


def test_what_a_mail_quotes_counts_for_nothing():
    """A bounce inside a forwarded mail, or in the returned one, is somebody else's."""
    inside = dsn(group(Final_Recipient=ANN, Action="failed", Status="5.1.1"), boundary="inner").decode()
    forwarded = mail(("text/plain", "Look what I got"), ("message/rfc822", inside), kind="mixed")
    assert read(forwarded).facts == ()
    bob = group(Final_Recipient="rfc822; bob@example.com", Action="failed", Status="5.1.1")
    assert [f.recipient for f in read(dsn(bob, returned=inside)).facts] == ["bob@example.com"]


# ----------------------------------------------------------------------------------------------- hostile


PIECES = [
    b"\r\n", b"\n", b"\r\n\r\n", b"--b1", b"--b1--", b" ", b"\t", b";", b"\0", b"\xff", b"<", b">", b"@",
    b"Content-Type: multipart/report; boundary=b1", b"Content-Type: message/delivery-status",
    b"Content-Type: message/feedback-report", b"Content-Type: message/rfc822", b"Feedback-Type: abuse",
    b"Final-Recipient: rfc822; ann@example.com", b"Action: failed", b"Status: 5.1.1", b"Status: ",
    b"Diagnostic-Code: smtp; 550 5.1.1 no", b"X-Failed-Recipients: ann@example.com", b"From: MAILER-DAEMON",
    b"Return-Path: <>", b"Hi. This is the qmail", b"<ann@example.com>:", b"--- Below this line is a copy",
    b"Content-Transfer-Encoding: base64", b"Content-Transfer-Encoding: quoted-printable", b"=", b"utf-8; \\x{D800}@x",
    b"\\x{110000}", b"+40", b"Date: Tue, 99 Foo 2026", b"Date: 1 Jan 99999 00:00:00 +9999", b"Message-ID: <a@b>",
    b"Original-Envelope-Id: +ZZ", b"Subject: =?utf-8?b?////?=", b"Delivered-To: b+" + TAG.encode() + b"@example.org",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.binary(max_size=600), st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join)))
def test_whatever_the_octets_nothing_raises_and_every_fact_is_whole(raw):
    notice = read(raw)
    for fact in notice.facts:
        assert fact.said.isprintable()
        assert fact.recipient.count("@") <= 1
        assert not fact.enhanced or fact.enhanced[0] in "245"
    notice.subject.encode()


HOSTILE = {
    "blanks": b"Subject:" + b" " * LIMIT,
    "line ends": b"\r\n" * (LIMIT // 2),
    "blank lines": b"From: mailer-daemon@x\n\n" + b"\n \n\t" * (LIMIT // 4),
    "boundaries": b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n" * (LIMIT // 4),
    "nested": b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (i, i) for i in range(20_000)
    ),
    "semicolons": b"Content-Type: multipart/mixed" + b"; " * (LIMIT // 2),
    "at signs": b"From: mailer-daemon@x\n\n" + b"a@" * (LIMIT // 2),
    "addresses": b"From: mailer-daemon@x\n\n" + b"550 5.1.1 a@b.c " * (LIMIT // 16),
    "failed": b"X-Failed-Recipients: " + b"a@b.c, " * (LIMIT // 8) + b"\n\nx",
    "dashes": b"From: mailer-daemon@x\n\n" + b"--" * (LIMIT // 2),
    "words": b"Return-Path: <>\nSubject: " + b"=?utf-8?q?a?= " * (LIMIT // 16),
    "groups": dsn(*[group(Final_Recipient=ANN, Action="failed", Status="5.1.1")] * 10_000),
    "fields": dsn("Final-Recipient: " + "; " * (LIMIT // 4)),
    "digits": dsn(group(Final_Recipient=ANN, Action="failed", Status="5." + "1" * 500_000)),
    "hex": b"To: " + b"0123456789abcdef" * (LIMIT // 16) + b"\n\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_large_hostile_mail_takes_no_longer_than_its_size(name):
    began = time.process_time()
    read(HOSTILE[name] * 3)
    assert time.process_time() - began < 1.5
