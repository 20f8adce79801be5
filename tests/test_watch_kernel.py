"""What holds of a watch in a live kernel alone: an interrupt of a poll, and a display that lives on."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from scripted import Server
from test_kernel import live_kernel

pytestmark = pytest.mark.notebook

SETUP = """
import os, sys, threading
os.environ["SMTP_NOTEBOOK_JOURNAL"] = "{journal}"
sys.path.insert(0, "{tests}")
from leads import Leads
from smtp_notebook import watch
leads, never = Leads(1), threading.Event()
def found(**more):
    return watch(leads, "---\\nsubject: s\\n---\\nhi", campaign="c", via="{url}", from_="me@example.com", since="all",
                 every=3600, **more)
"""


@pytest.fixture
def kernel():
    with live_kernel() as found:
        yield found


def test_an_interrupt_leaves_a_slow_source_at_once_and_a_display_lives_on(kernel, tmp_path):
    shown = []

    def note(message):
        if message["msg_type"] in {"display_data", "update_display_data"}:
            shown.append((message["msg_type"], message["content"]))

    with Server() as server:
        setup = SETUP.format(journal=tmp_path / "j.sqlite3", tests=Path(__file__).parent, url=server.url())
        cell = kernel.run(setup)
        assert not cell.error, cell.traceback
        kernel.run(
            "reached = threading.Event()\nleads.at['read'] = lambda: (print('asked', flush=True), never.wait())"
        )

        interrupted = []

        def interrupt():
            interrupted.append(time.monotonic())
            os.kill(kernel.manager.provisioner.pid, signal.SIGINT)

        def asked(message):
            if message["msg_type"] == "stream" and "asked" in message["content"]["text"]:
                threading.Thread(target=interrupt, daemon=True).start()
            if message["msg_type"] == "error":
                errors.append((message["content"]["ename"], time.monotonic()))

        errors = []
        kernel.client.execute_interactive("found().poll()", timeout=60, output_hook=asked, allow_stdin=False)
        assert [name for name, _ in errors] == ["KeyboardInterrupt"]
        assert errors[0][1] - interrupted[0] < 3, "a source that never answers is left behind"
        assert not server.log.mails

        kernel.run("never.set(); leads.at.clear()")
        code = "w = found().start(); w"
        kernel.client.execute_interactive(code, timeout=60, output_hook=note, allow_stdin=False)
        last = "while w.status.phase != 'waiting': pass"
        kernel.client.execute_interactive(last, timeout=60, output_hook=note, allow_stdin=False)
        kernel.client.execute_interactive("w.stop()", timeout=60, output_hook=note, allow_stdin=False)
    assert [kind for kind, _ in shown].count("display_data") == 1
    identity = shown[0][1]["transient"]["display_id"]
    assert all(content["transient"]["display_id"] == identity for _, content in shown)
    assert "stopped" in shown[-1][1]["data"]["text/plain"]
    assert "1 sent" in shown[-1][1]["data"]["text/plain"]
    assert "text/html" in shown[-1][1]["data"]
    assert len(server.log.mails) == 1
