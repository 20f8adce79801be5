"""What depends on the interpreter: its email package has holes that were closed at different times.

CVE-2024-6923 (https://github.com/python/cpython/issues/121650): an encoded word that is pure ASCII, and so may stand in
a cell, becomes a line of its own when the standard library writes it. Closed in 3.11.10, 3.12.5 and 3.13.0. The gate has to
hold on both sides; `make test` runs this on two interpreters where there are two.
"""

from __future__ import annotations

import email
import email.policy
import platform
import sys
from email.errors import MessageError as EmailError
from email.message import EmailMessage

import pytest

from smtp_notebook import Address, Message, MessageError, mail_merge

HIDDEN = "=?utf-8?q?hi=0D=0ABcc:_evil=40example.org?="
#: On which side versions stand that python.org built; a distribution may have closed it earlier.
KNOWN = {(3, 11, 7): True, (3, 12, 1): True, (3, 13, 0): False}


def stdlib_injects():
    """Tell whether this interpreter's email package makes a header of a value."""
    mail = EmailMessage()
    mail["Subject"] = HIDDEN
    try:
        return b"\nBcc:" in mail.as_bytes(policy=email.policy.SMTP)
    except EmailError:  # HeaderWriteError, which came with the remedy
        return False


def headers(content):
    return [name.lower() for name in email.message_from_bytes(content).keys()]  # noqa: SIM118 - every occurrence


def test_this_interpreter_stands_on_the_side_that_its_version_says(record_property):
    side = "open" if stdlib_injects() else "closed"
    record_property(
        "CVE-2024-6923", f"{platform.python_implementation()} {platform.python_version()}: {side}"
    )
    version = sys.version_info[:3]
    if version not in KNOWN:
        pytest.skip(f"CVE-2024-6923 is {side} on {platform.python_version()}")
    assert stdlib_injects() is KNOWN[version]


#: Values in which a header, a line or a recipient is hidden, each in the letters of ASCII alone.
HOSTILE = [
    HIDDEN,
    "=?utf-8?b?aGkNCkJjYzogZXZpbEBleGFtcGxlLm9yZw==?=",
    "=?utf-8?q?a=0ABcc:_evil=40example.org?= =?utf-8?q?=0D=0A=0D=0Abody?=",
    "x" * 90 + " =?utf-8?q?=0D=0ABcc:_evil=40example.org?=",
    "=?utf-8?q?=00=0D?=",
    # gh-80222: folded, a comma in a long name makes two mailboxes.
    "evil@example.org, " + "x" * 90,
    '"evil@example.org", ' + "x" * 80,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_the_gate_holds_whichever_side_of_the_cve_this_interpreter_is_on(text):
    """B8: the value arrives as it was written, or the mail is refused; never does it add anything."""
    plain = headers(Message(to="ann@example.com", from_="me@example.com", subject="x", body="b").as_bytes())
    for fields in (
        {"subject": text},
        {"from_": Address("me@example.com", text)},
        {"to": Address("ann@example.com", text)},
    ):
        usual = {"to": "ann@example.com", "from_": "me@example.com", "subject": "x", "body": "b"}
        try:
            content = Message(**usual | fields).as_bytes()
        except MessageError:
            continue
        assert headers(content) == plain
        read = email.message_from_bytes(content, policy=email.policy.default)
        assert [a.addr_spec for a in read["to"].addresses] == ["ann@example.com"]
        assert [a.addr_spec for a in read["from"].addresses] == ["me@example.com"]
        # The standard library's reader puts a blank between two encoded words of a name.
        assert read["to"].addresses[0].display_name.replace(" ", "") in {"", text.replace(" ", "")}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_of_a_merge_adds_nothing_either(text, sandbox):
    rows = [{"Email": f"r{i}@example.com", "name": text} for i in range(3)]
    letter = "---\nsubject: Hi {{ name }}\n---\nDear {{ name }}\n"
    mail_merge(rows, letter, via=sandbox, on_problem="skip", format="text", progress=False)
    for mail in sandbox.messages:
        assert "bcc" not in headers(mail.raw)
        assert len(mail.recipients) == 1
        assert mail.email["subject"] == f"Hi {text}"
