"""The scripted server is the judge of other tests, so it has to be a correct server itself."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
from scripted import ACCEPT_DROP, DROP, KEPT, SLOWLY, STALL, Server

HELLO = b"EHLO me\r\n"


def envelope(row):
    return f"MAIL FROM:<me@example.com>\r\nRCPT TO:<r{row}@example.com>\r\nDATA\r\n".encode()


def text(row):
    return f"Subject: {row}\r\n\r\n..dot\r\n".encode()


def said(server, *segments, wait=()):
    """Send each segment in one write, after as many reply lines as *wait* says; return the replies' codes."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock,
        sock.makefile("rb") as replies,
    ):
        lines = []
        for position, segment in enumerate(segments):
            lines += [replies.readline() for _ in range(dict(enumerate(wait)).get(position, 0))]
            sock.sendall(segment)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            lines += iter(replies.readline, b"")
    return [line.rstrip(b"\r\n").decode() for line in lines]


def codes(lines):
    return [line[:3] for line in lines if line[3:4] != "-"]


def test_a_text_with_its_dot_and_the_next_envelope_may_come_in_one_segment():
    with Server() as server:
        whole = HELLO + envelope(0), text(0) + b".\r\n" + envelope(1), text(1) + b".\r\nQUIT\r\n"
        found = said(server, *whole, wait=(1, 9, 4))
    assert codes(found) == ["220", "250", "250", "250", "354", "250", "250", "250", "354", "250", "221"]
    assert [(m.recipients, m.content) for m in server.log.mails] == [
        ([f"r{i}@example.com"], f"Subject: {i}\r\n\r\n.dot\r\n".encode()) for i in range(2)
    ]
    assert (server.log.ahead, server.log.grouped) == (1, 2)
    assert any(b".\r\nMAIL" in octets for _, octets in server.log.reads)


def test_all_of_a_dialogue_may_come_at_once_or_octet_by_octet():
    dialogue = HELLO + envelope(0) + text(0) + b".\r\n" + envelope(1) + text(1) + b".\r\nQUIT\r\n"
    with Server() as server:
        at_once = said(server, dialogue)
        one_by_one = said(server, *[dialogue[i : i + 1] for i in range(len(dialogue))])
    assert at_once == one_by_one
    assert len(server.log.mails) == 4


def test_waiting_for_each_reply_counts_as_nothing_ahead():
    commands = [line + b"\n" for line in envelope(0).split(b"\n")[:-1]]
    with Server() as server:
        said(server, HELLO, *commands, text(0) + b".\r\n", envelope(1)[:28], wait=(1, 6, 1, 1, 1, 1))
    assert (server.log.ahead, server.log.grouped, len(server.log.mails)) == (0, 0, 1)


@pytest.mark.parametrize("careless", [False, True])
def test_a_mail_inside_a_transaction_is_refused_and_leaves_it_as_it_was(careless):
    """What RFC 5321 wants, and what hands a text to the wrong person where a client does not say RSET."""
    with Server({"data": ["451 later", None]}, careless=careless) as server:
        found = said(server, HELLO + envelope(0) + envelope(1) + text(1) + b".\r\nQUIT\r\n")
    assert codes(found)[2:] == ["250", "250", "451", "503", "250", "354", "250", "221"]
    assert server.log.mails[0].recipients == ["r0@example.com", "r1@example.com"]


@pytest.mark.parametrize(("careless", "after"), [(False, ["503", "503"]), (True, ["250", "354"])])
def test_after_a_refused_mail_only_a_careless_server_goes_on(careless, after):
    with Server({"mail": "550 no"}, careless=careless) as server:
        found = said(server, HELLO + envelope(0) + b".\r\nQUIT\r\n")
    assert codes(found)[2:5] == ["550", *after]


def test_limits_are_kept_and_a_healed_server_has_none():
    with Server(most_mails=(1, "450 enough"), most_recipients=(1, "452 too many")) as server:
        more = envelope(0).replace(b"DATA", b"RCPT TO:<x@example.com>\r\nDATA")
        dialogue = HELLO + more + text(0) + b".\r\n" + more + b"QUIT\r\n"
        assert codes(said(server, dialogue))[2:8] == ["250", "250", "452", "354", "250", "450"]
        server.heal()
        dialogue = HELLO + more + text(0) + b".\r\nQUIT\r\n"
        assert codes(said(server, dialogue))[2:] == ["250", "250", "250", "354", "250", "221"]


def test_one_connection_too_many_is_turned_away():
    with Server(most_connections=1) as server, socket.create_connection(("127.0.0.1", server.port)) as first:
        assert first.recv(3) == b"220"
        assert codes(said(server, b"")) == ["421"]
    assert server.log.turned_away == 1


@pytest.mark.parametrize(
    ("action", "heard", "kept"),
    [
        (DROP, [], 0),
        (ACCEPT_DROP, [], 1),
        ("2" + DROP, ["2"], 0),
        (KEPT + "2" + DROP, ["2"], 1),
        ("250 ok\r\n" + DROP, ["250 ok"], 1),
        (KEPT + "what?", ["what?", "221 2.0.0 bye"], 1),
        ("what?", ["what?", "221 2.0.0 bye"], 0),
        (SLOWLY + "250 ok\r\n", ["250 ok", "221 2.0.0 bye"], 0),
        (KEPT + SLOWLY + "250 ok\r\n", ["250 ok", "221 2.0.0 bye"], 1),
    ],
)
def test_a_dot_may_keep_the_mail_and_say_something_else(action, heard, kept):
    with Server({"dot": action}) as server:
        found = said(server, HELLO + envelope(0) + text(0) + b".\r\nQUIT\r\n")
    assert found[found.index("354 go ahead") + 1 :] == heard
    assert len(server.log.mails) == kept


def test_what_was_met_knows_its_place():
    seen = []
    with Server({"rcpt": lambda met: seen.append((met, met.connection, met.mail, met.grouped))}) as server:
        for _ in range(2):
            said(server, HELLO + envelope(0) + text(0) + b".\r\n" + envelope(1)[:56])
    assert seen[0] == ("r0@example.com", 1, 1, True)
    assert {(connection, mail) for _, connection, mail, _ in seen} == {(1, 1), (1, 2), (2, 1), (2, 2)}


def test_a_stalled_answer_holds_up_its_own_connection_alone():
    stalled = threading.Event()

    def mail(met):
        if met.connection > 1:
            return None
        stalled.set()
        return STALL

    with Server({"mail": mail}) as server, socket.create_connection(("127.0.0.1", server.port)) as first:
        first.sendall(HELLO + envelope(0))
        assert stalled.wait(5)
        assert "354 go ahead" in said(server, HELLO + envelope(1) + text(1) + b".\r\nQUIT\r\n")
