"""The sandbox: real SMTP on loopback, a mailbox, a display that runs nothing."""

from __future__ import annotations

import gc
import os
import smtplib
import threading

from smtp_notebook import Sandbox, send
from smtp_notebook.sandbox import default_sandbox


def test_any_smtp_client_can_talk_to_it():
    with Sandbox() as box, smtplib.SMTP("127.0.0.1", box.connection.port) as client:
        code, offered = client.ehlo()
        assert code == 250
        for name in (b"PIPELINING", b"SMTPUTF8", b"8BITMIME", b"SIZE", b"AUTH"):
            assert name in offered
        client.login("anybody", "anything")
        client.sendmail("a@example.com", ["b@example.com", "c@example.com"], b"Subject: x\r\n\r\n.dot\r\n")
        (mail,) = box.messages
    assert (mail.sender, mail.recipients) == ("a@example.com", ("b@example.com", "c@example.com"))
    assert mail.email["subject"] == "x"
    assert mail.raw.endswith(b".dot\r\n")


def test_starting_and_stopping_twice_is_harmless_and_mails_stay():
    box = Sandbox()
    assert box.start() is box.start()
    port = box.connection.port
    assert box.connection.port == port
    send(to="ann@example.com", body="hi", via=box)
    box.stop()
    box.stop()
    assert len(box.messages) == 1
    assert "stopped" in repr(box)
    send(to="ann@example.com", body="hi", via=box)
    assert len(box.messages) == 2
    box.stop()


def test_it_listens_on_loopback_alone_on_a_port_of_the_systems_choice():
    with Sandbox() as one, Sandbox() as two:
        assert one.connection.is_loopback
        assert one.connection.port != two.connection.port


def test_the_oldest_mails_go_when_it_is_full(sandbox):
    box = Sandbox(max_messages=2)
    with box:
        for number in range(3):
            send(to="ann@example.com", subject=f"{number}", body="x", via=box)
        assert [m.email["subject"] for m in box.messages] == ["1", "2"]
    box.clear()
    assert box.messages == ()


def test_many_threads_may_send_at_once(sandbox):
    threads = [
        threading.Thread(target=send, kwargs={"to": f"u{i}@example.com", "body": "x", "via": sandbox})
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(m.recipients[0] for m in sandbox.messages) == [f"u{i}@example.com" for i in range(8)]


def test_a_forked_child_does_not_think_that_it_runs():
    with Sandbox() as box:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, b"1" if box.running else b"0")
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 1) == b"0"
        os.close(read)
        os.close(write)


def test_the_default_one_is_always_the_same():
    assert default_sandbox() is default_sandbox()
    assert default_sandbox().running


HOSTILE = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"


def test_the_inbox_shows_hostile_mail_as_text_or_inside_a_locked_frame(sandbox):
    with smtplib.SMTP("127.0.0.1", sandbox.connection.port) as client:
        raw = f"Subject: {HOSTILE}\r\nFrom: {HOSTILE}\r\nContent-Type: text/html\r\n\r\n{HOSTILE}\r\n"
        client.sendmail("a@example.com", ["b@example.com"], raw.encode())
    shown = sandbox._repr_mimebundle_()["text/html"]
    assert "<script" not in shown
    assert "<img" not in shown
    assert 'sandbox=""' in shown
    assert "allow-" not in shown
    assert "default-src &#x27;none&#x27;" in shown


def test_unreadable_mail_is_kept_and_shown(sandbox):
    with smtplib.SMTP("127.0.0.1", sandbox.connection.port) as client:
        client.sendmail(
            "a@example.com",
            ["b@example.com"],
            b"Subject: =?x?q?\xff?=\r\nTo: <\r\nContent-Type: ;;\r\n\r\n\xff\r\n",
        )
    assert len(sandbox.messages) == 1
    assert "1 message" in sandbox._repr_mimebundle_()["text/plain"]


def test_the_empty_inbox_says_so():
    assert "nothing has arrived" in Sandbox()._repr_mimebundle_()["text/html"]


# ----------------------------------------------------------------------------------- who watches it


class Notes:
    """Counts what it is told, and can be waited for."""

    def __init__(self):
        self.count, self.told = 0, threading.Event()

    def note(self):
        self.count += 1
        self.told.set()


def test_whoever_watches_hears_of_arrivals_and_of_a_clear_until_they_end_it(sandbox):
    notes = Notes()
    end = sandbox.watch(notes.note)
    send(to="ann@example.com", body="x", via=sandbox)
    assert notes.told.wait(10)
    sandbox.clear()
    assert notes.count == 2
    end()
    end()
    send(to="ann@example.com", body="x", via=sandbox)
    sandbox.clear()
    assert notes.count == 2


def test_an_error_of_one_who_watches_harms_nobody_and_is_logged(sandbox, caplog):
    notes = Notes()

    def broken():
        raise ZeroDivisionError

    sandbox.watch(broken)
    sandbox.watch(notes.note)
    assert send(to="ann@example.com", body="x", via=sandbox).state == "sent"
    assert notes.told.wait(10)
    assert len(sandbox.messages) == 1
    assert "ZeroDivisionError" in caplog.text


def test_whoever_watches_may_ask_for_the_messages_and_go(sandbox):
    found = []
    end = sandbox.watch(lambda: (found.append(len(sandbox.messages)), end()))
    sandbox.clear()
    sandbox.clear()
    assert found == [0]


def test_whoever_is_gone_is_not_kept_by_watching(sandbox):
    notes = Notes()
    heard = notes.told
    sandbox.watch(notes.note)
    del notes
    gc.collect()
    sandbox.clear()
    assert not heard.is_set()


def test_a_forked_child_tells_nobody_of_its_parent(sandbox):
    notes = Notes()
    sandbox.watch(notes.note)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        sandbox.clear()
        os.write(write, str(notes.count).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"0"
    os.close(read)
    os.close(write)


def test_messages_are_counted_and_a_number_never_comes_again(sandbox):
    for _ in range(2):
        send(to="ann@example.com", body="x", via=sandbox)
    assert [m.number for m in sandbox.messages] == [1, 2]
    sandbox.clear()
    send(to="ann@example.com", body="x", via=sandbox)
    assert [m.number for m in sandbox.messages] == [3]
