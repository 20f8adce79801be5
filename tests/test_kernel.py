"""What holds in a live kernel alone: interrupts, what a cell shows, and what a notebook keeps."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest
from jupyter_client.manager import start_new_kernel
from scripted import STALL, Server

pytestmark = pytest.mark.notebook

MERGE = """import pandas as pd
import os
os.environ["SMTP_NOTEBOOK_JOURNAL"] = "{journal}"
from smtp_notebook import Connection, Report, mail_merge, amail_merge
frame = pd.DataFrame({{"Email": [f"u{{i}}@example.com" for i in range(50)]}})
via = Connection.from_url("{url}", max_connections=1, timeout=60)
"""
BLOCKING = 'mail_merge(frame, "hi", via=via, from_="me@example.com", progress=False, campaign="k")'


class Cell:
    """What a cell came to: its text, and the name and traceback of its error."""

    def __init__(self):
        self.text, self.error, self.traceback = "", "", ""


class Kernel:
    """A live IPython kernel."""

    def __init__(self, manager, client):
        self.manager, self.client = manager, client

    def run(self, code, timeout=60):
        found = Cell()

        def note(message):
            content = message["content"]
            if message["msg_type"] == "stream":
                found.text += content["text"]
            elif message["msg_type"] in {"display_data", "execute_result"}:
                found.text += content["data"].get("text/plain", "")
            elif message["msg_type"] == "error":
                found.error = content["ename"]
                found.traceback = "\n".join(content["traceback"])

        self.client.execute_interactive(code, timeout=timeout, output_hook=note, allow_stdin=False)
        return found


@contextmanager
def live_kernel():
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def kernel():
    with live_kernel() as found:
        yield found


@pytest.mark.parametrize("call", [BLOCKING, f"await a{BLOCKING}"])
def test_an_interrupted_kernel_stops_a_merge_within_its_grace_and_has_the_report(kernel, call, tmp_path):
    reached = threading.Event()

    def stall(address):
        if address.startswith("u3@"):
            reached.set()
            return STALL
        return None

    with Server({"rcpt": stall}) as server:
        assert not kernel.run(MERGE.format(url=server.url(), journal=tmp_path / "journal.sqlite3")).error
        interrupted = []

        def interrupt():
            reached.wait(30)
            interrupted.append(time.monotonic())
            os.kill(kernel.manager.provisioner.pid, signal.SIGINT)  # what interrupt_kernel() does

        threading.Thread(target=interrupt, daemon=True).start()
        cell = kernel.run(call)
        seconds = time.monotonic() - interrupted[0]
        assert cell.error in {"KeyboardInterrupt", "CancelledError"}
        assert seconds < 9, "5 s of grace, and the time to unwind"
        counts = kernel.run("print(Report.last().summary)").text
        assert "3 sent" in counts, "whether the next one was begun or only opened is a matter of a moment"
        assert sum(int(part.split()[0]) for part in counts.strip().split(", ")) == 50
        assert len(server.log.mails) == 3
        server.script.clear()
        again = kernel.run(f"print(({call}).summary)")
        assert not again.error, again.traceback
        assert sorted(again.text.strip().split(", ")) == ["3 skipped", "47 sent"]
        assert sorted(m.recipients[0] for m in server.log.mails) == sorted(
            f"u{i}@example.com" for i in range(50)
        )


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("send(to='a@', body='x')", "no e-mail address"),
        ("send(to='ann@example.com', subjct='x')", "'subject'"),
        ("mail_merge(pd.DataFrame({'a': [1]}), 'x')", "No column is called email"),
        ("mail_merge(pd.DataFrame({'Email': ['u@example.com']}), '{% if %}')", "line 1"),
        ("connect('smtp://ann:hunter2@mail.example.com')", "password"),
        ("%send_email --to ann@example.com --template missing.md", "missing.md"),
        ("%%send_email --to ann@example.com\n{{ ''.__class__ }}", "not allowed"),
    ],
)
def test_a_persons_mistake_is_one_line_and_no_traceback(kernel, code, words):
    kernel.run("%reload_ext smtp_notebook\nimport pandas as pd\nfrom smtp_notebook import *")
    cell = kernel.run(code)
    shown = cell.traceback or cell.text
    assert words in shown
    assert "hunter2" not in shown
    assert len(shown.strip().splitlines()) == 1, shown


def test_a_secret_is_in_no_output_history_or_variable(kernel, monkeypatch):
    with Server(login=("ann", "correct-horse")) as server:
        cell = kernel.run(f"""
import os, json, logging
logging.basicConfig(level=logging.DEBUG)
os.environ["SMTP_NOTEBOOK_PASSWORD"] = "correct" + "-horse"
from smtp_notebook import *
via = connect("{server.url(user="ann")}", sender="me@example.com")
print(via, repr(via), vars(via) if hasattr(via, "__dict__") else "")
print(send(to="ann@example.com", body="hi"))
via""")
        assert not cell.error, cell.traceback
        assert "correct-horse" not in cell.text
        assert server.log.logins == 1
        wrong = kernel.run(f"""
os.environ["SMTP_NOTEBOOK_PASSWORD"] = "wrong" + "-horse"
connect("{server.url(user="ann")}", sender="me@example.com")
send(to="ann@example.com", body="hi")""")
        assert "The login failed" in wrong.traceback
        assert "wrong-horse" not in wrong.traceback + wrong.text
    kernel.run("os.environ.pop('SMTP_NOTEBOOK_PASSWORD'); connect('sandbox')")


def test_one_line_of_progress_stays_in_a_notebook(kernel, tmp_path):
    """A saved notebook has no widget that would be dead in it."""
    outputs = []

    def note(message):
        if message["msg_type"] in {"display_data", "update_display_data", "stream"}:
            outputs.append((message["msg_type"], message["content"]))

    with Server() as server:
        kernel.run(MERGE.format(url=server.url(), journal=tmp_path / "journal.sqlite3"))
        code = (
            "from smtp_notebook import showing; showing.PROGRESS_DELAY = 0.0\n"
            'report = mail_merge(frame, "hi", via=via, from_="me@example.com", campaign="p")'
        )
        kernel.client.execute_interactive(code, timeout=60, output_hook=note, allow_stdin=False)
    assert [kind for kind, _ in outputs].count("display_data") == 1, "the check and the sending share it"
    told = [found["data"]["text/plain"] for kind, found in outputs if kind != "stream"]
    assert told[0].startswith("checked: ")
    assert any("50/50" in said and "row/s" in said for said in told)
    assert not [said for kind, said in outputs if kind == "stream" and "mail/s" in said["text"]]
    outputs = [found for found in outputs if found[0] != "stream"]
    last = outputs[-1][1]["data"]
    assert list(last) == ["text/plain"]
    assert "50/50" in last["text/plain"]
    assert "mail/s" in last["text/plain"]
