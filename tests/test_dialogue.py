"""What goes over the wire, octet by octet, whatever rows and servers are: the rest of the assertions about a dialogue.

`assertions` says which test proves which; these are those that no other file is about.
"""

from __future__ import annotations

import re
import time

import pytest
from scripted import KEPT, PIPELINING, PLAIN, Server

from smtp_notebook import Attachment, Connection, Journal, MessageError, State, mail_merge, merge, send
from smtp_notebook.replies import Reply, Stage, classify

#: Bodies in which a line would end the text, be cut off, or not end.
BODIES = [
    ".",
    "..",
    ".\n.\n..\n",
    "a\n.\nMAIL FROM:<x@example.com>\nRCPT TO:<y@example.com>\nDATA\n",
    "bare\rreturn\n.\r\n.\r.",
    "x" * 3000,
    "ä" * 3000,
    "",
    "\n" * 5 + ".",
    "From here\n>From there",
    "tab\tin it  \nends with a blank ",
]
TERMINATOR = b"\r\n.\r\n"
WAYS = {"plain": PLAIN, "pipelined": PIPELINING}


def merged(server, **more):
    rows = [
        {"n": i, "Email": f"r{i}@example.com", "text": body, "name": f"{i}, “Ünï”"}
        for i, body in enumerate(BODIES)
    ]
    return mail_merge(
        rows,
        "---\nsubject: {{ name }}\n---\n{{ text }}",
        from_="me@example.com",
        key="n",
        via=Connection.from_url(server.url(), max_connections=1),
        progress=False,
        **({"format": "text", "campaign": "wire"} | more),
    )


def said(server):
    """Return what each connection said, as octets."""
    numbers = {number for number, _ in server.log.reads}
    return [b"".join(octets for number, octets in server.log.reads if number == each) for each in numbers]


def texts(octets):
    """Return the octets between each DATA and its terminator, as they travelled, and the rest as commands."""
    found, commands, rest = [], [], octets
    while b"DATA\r\n" in rest:
        before, _, rest = rest.partition(b"DATA\r\n")
        commands.append(before)
        text, end, rest = rest.partition(TERMINATOR)
        assert end, "a text without its end"
        found.append(text + b"\r\n")
    return found, b"".join([*commands, rest])


@pytest.mark.parametrize("kind", ["text", "markdown", "html"])
@pytest.mark.parametrize("way", WAYS)
def test_whatever_a_row_holds_its_text_is_framed_as_the_standard_wants(way, kind):
    """A1, A2, A3, A4: every line ends in CRLF and is short, dots are doubled, and nothing but ASCII travels."""
    with Server(offers=WAYS[way]) as server:
        report = merged(server, format=kind)
    assert report.counts == {State.SENT: len(BODIES)}
    (octets,) = said(server)
    found, commands = texts(octets)
    assert len(found) == len(BODIES)
    for text, mail in zip(found, server.log.mails, strict=True):
        assert not re.search(rb"(?<!\r)\n|\r(?!\n)|\0", text)
        lines = text.split(b"\r\n")
        assert all(len(line) <= 998 for line in lines)
        assert not any(line.startswith(b".") and not line.startswith(b"..") for line in lines)
        assert b"".join((line[1:] if line.startswith(b".") else line) + b"\r\n" for line in lines[:-1]) == (
            mail.content
        )
        assert text.isascii()
        assert not re.search(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]", text.partition(b"\r\n\r\n")[0])
    assert b"BODY=8BITMIME" not in commands
    assert all(len(line) <= 510 for line in commands.split(b"\r\n"))


@pytest.mark.parametrize("offers", [PLAIN, ("SMTPUTF8",)])
def test_octets_beyond_ascii_travel_only_with_smtputf8_and_said_so(offers):
    """A4, C3: header fields are raw UTF-8 then, which is 8-bit data."""
    with Server(offers=offers) as server:
        send(to="jörg@example.com", from_="me@example.com", subject="Grüße", body="ö", via=server.url())
        send(to="ann@example.com", from_="me@example.com", subject="Grüße", body="ö", via=server.url())
    first, second = (c for c in server.log.commands if c.startswith("MAIL"))
    assert "SMTPUTF8" in first
    assert ("BODY=8BITMIME" in first) is ("8BITMIME" in offers)
    assert not re.search("SMTPUTF8|BODY=", second)
    assert [mail.content.isascii() for mail in server.log.mails] == [False, True]


def test_a_mail_that_is_tried_again_keeps_its_message_id_and_every_mail_has_its_own():
    """B4, RFC 5322, 3.6.4: and the journal knows the one that went."""
    with Server({"dot": [KEPT + "451 4.3.0 later", None]}) as server:
        report = merged(server)
    assert report.counts == {State.SENT: len(BODIES)}
    ids = [
        re.search(rb"^Message-ID: (<[^<>\s]+@[^<>\s]+>)\r$", m.content, re.MULTILINE)[1]
        for m in server.log.mails
    ]
    assert len(ids) == len(BODIES) + 1
    twice = [each for each in ids if ids.count(each) == 2]
    assert len(twice) == 2
    assert len(set(ids)) == len(BODIES)
    assert {o.message_id.encode() for o in report} == set(ids)
    assert {o.message_id.encode() for o in Journal().report("wire")} == set(ids)


@pytest.mark.parametrize("way", WAYS)
def test_data_ends_a_group_and_so_does_every_command_that_changes_the_state(way):
    """C6, RFC 2920, 3.1: EHLO, DATA, STARTTLS, AUTH and QUIT stand last in what is written together."""
    with Server(offers=WAYS[way], login=("ann", "pw")) as server:
        via = Connection.from_url(server.url(user="ann"), password=lambda: "pw", max_connections=1)
        mail_merge(
            [{"Email": f"r{i}@example.com"} for i in range(12)],
            "hello",
            from_="me@example.com",
            format="text",
            campaign="group",
            via=via,
            progress=False,
        )
    assert len(server.log.mails) == 12
    for _, octets in server.log.reads:
        assert not re.search(
            rb"(?:^|\r\n)(?:EHLO[^\r]*|DATA|AUTH[^\r]*|STARTTLS|QUIT)\r\n.", octets, re.DOTALL
        )
    assert (server.log.ahead > 0) is (way == "pipelined")


def test_bdat_is_never_said():
    """C8: a chunk with LAST cannot be withdrawn, and DATA is what every server knows."""
    with Server(offers=(*PIPELINING, "CHUNKING", "BINARYMIME")) as server:
        merged(server)
    assert len(server.log.mails) == len(BODIES)
    assert not any(c.upper().startswith("BDAT") for c in server.log.commands)


def test_the_reply_to_a_mail_is_waited_for_as_long_as_the_standard_wants():
    """C9, RFC 5321, 4.5.3.2.6: 10 minutes behind the dot, where giving up early means a copy too many.

    Before it the default is a minute, less than the 2 to 5 of 4.5.3.2.1 to 4.5.3.2.5: nothing is lost by trying again
    there, and a person who waits at a notebook does not wait for 5 minutes to hear of a wrong port.
    """
    usual = Connection.from_url("smtp://mail.example.com")
    assert usual.dot_timeout >= 600
    assert usual.timeout == 60
    changed = usual.with_(timeout=300, dot_timeout=1200)
    assert (changed.timeout, changed.dot_timeout) == (300, 1200)


@pytest.mark.parametrize("said", ["451 4.3.0 later", "450 4.7.1 greylisted", "421 4.7.0 closing"])
def test_a_wait_for_another_try_is_never_zero_grows_and_is_bounded(said):
    """C12, RFC 5321, 4.5.4.1: and two that begin together do not come back together."""
    verdict = classify(Stage.MAIL, Reply(int(said[:3]), said[4:]))
    least = [merge.backoff(attempt, verdict, 0.0) for attempt in range(1, 40)]
    most = [merge.backoff(attempt, verdict, 1.0) for attempt in range(1, 40)]
    assert least == sorted(least)
    assert all(0.5 <= a < b <= 375 for a, b in zip(least, most, strict=True))


def test_a_permanent_refusal_is_asked_for_once():
    """C12, RFC 5321, 4.2.1: the same thing is not tried again unchanged."""
    with Server({"rcpt": "550 5.1.1 nobody"}) as server:
        report = mail_merge(
            [{"Email": "ann@example.com"}],
            "hello",
            from_="me@example.com",
            campaign="x",
            via=server.url(),
            progress=False,
        )
    assert report.counts == {State.REFUSED: 1}
    assert sum(c.startswith("RCPT") for c in server.log.commands) == 1


def test_a_connection_that_would_wait_longer_than_a_server_does_is_closed_in_order(monkeypatch):
    """C11, RFC 5321, 4.5.3.2.7: a server may leave after 5 minutes; we say QUIT before that."""
    waited = []

    async def pause(seconds):
        waited.append(seconds)

    monkeypatch.setattr(merge, "PAUSE", pause)
    monkeypatch.setattr(merge, "CLOCK", lambda: time.monotonic() + sum(waited))
    assert merge.IDLE_SECONDS < 300
    with Server({"rcpt": ["450 4.7.1 greylisted", None]}) as server:
        report = merged(server)
    assert report.counts == {State.SENT: len(BODIES)}
    assert max(waited) > merge.IDLE_SECONDS
    assert server.log.connections == 2
    assert server.log.commands.count("QUIT") == 2


def test_a_mail_has_one_sender():
    """B2, RFC 5322, 3.6.2: two would want a Sender; a reader shows the first alone."""
    with pytest.raises(MessageError):
        send(to="ann@example.com", from_="a@example.com, b@example.com", body="x", dry_run=True)


def test_every_octet_of_size_is_counted_as_it_travels():
    """C4, RFC 1870, 6.4: with CRLF, without the doubled dots and the terminator; attachments too."""
    with Server(offers=["SIZE 100000000"]) as server:
        for body in BODIES:
            send(
                to="a@example.com",
                from_="me@example.com",
                body=body,
                attach=[Attachment(b"\r\n.\r\n" * 500, "a.bin")],
                via=server.url(),
            )
    sizes = [int(re.search(r"SIZE=(\d+)", c)[1]) for c in server.log.commands if c.startswith("MAIL")]
    assert sizes == [len(mail.content) for mail in server.log.mails]
