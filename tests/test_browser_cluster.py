"""A merge over a cluster as a person meets it in JupyterLab: its progress, and what Stop does."""

from __future__ import annotations

import asyncio
import re

import pytest
from journals import fresh
from scripted import Server

from smtp_notebook import Connection, Journal, State, mail_merge

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CLUSTER = """import time
from dask.distributed import Client, LocalCluster
from smtp_notebook import mail_merge
cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0")
client = Client(cluster)
before = client.run(lambda: __import__("os").getpid())"""
MERGE = """def chart(n):
    time.sleep(0.05)
    return n

rows = [{{"Email": f"u{{i}}@example.com", "n": i}} for i in range({count})]
mail_merge(
    rows, "Hello {{{{ chart(n) }}}}", subject="Hi", from_="me@example.com", values={{"chart": chart}},
    campaign="c", journal={journal!r}, via={url!r}, executor=client,
)"""
ALIVE = 'client.run(lambda: __import__("os").getpid()) == before'
# The person's own run of all cells does not wait either.
RUN = """() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }"""
RUN_LAST = """() => {
  const notebook = window.jupyterapp.shell.currentWidget.content;
  notebook.activeCellIndex = notebook.widgets.length - 1;
  window.jupyterapp.commands.execute('notebook:run-cell');
}"""


@pytest.fixture
def free_lab(lab, monkeypatch):
    """JupyterLab, where a notebook is given as soon as its cells run."""
    monkeypatch.setattr(lab, "run_all", lambda page: page.evaluate(RUN))
    return lab


def shown(page, words):
    from playwright.sync_api import expect

    found = page.locator(".jp-OutputArea-output", has_text=re.compile(words)).first
    expect(found).to_be_visible(timeout=40_000)
    return found


async def slowly(_):
    await asyncio.sleep(0.1)


def test_the_progress_moves_and_stop_ends_it_with_a_report_and_with_every_worker_alive(free_lab, postgres):
    place = fresh(postgres)
    with Server({"dot": slowly}) as server:
        source = MERGE.format(count=400, journal=place, url=server.url())
        with free_lab.notebook(CLUSTER, source, ALIVE) as page:
            shown(page, r"checked: +\d+%")
            shown(page, r"\d+/400 .*mail/s")
            page.get_by_role("button", name=re.compile("^Interrupt the kernel")).click()
            shown(page, r"Stopped by the person at the notebook\.")
            shown(page, "KeyboardInterrupt")
            page.wait_for_timeout(500)  # Jupyter lets go of what was to run behind it
            page.evaluate(RUN_LAST)
            shown(page, r"^\s*True\s*$")
            outputs = page.locator(".jp-OutputArea-output").all_inner_texts()
        went = [to for mail in server.log.mails for to in mail.recipients]
        assert not [text for text in outputs if "distributed" in text]
        known = {o.key: o.state for o in Journal(place).report("c")}
        assert {key for key, state in known.items() if state is State.SENT} == set(went)
        assert set(known.values()) == {State.SENT, State.PLANNED}
        rest = mail_merge(
            [{"Email": f"u{i}@example.com", "n": i} for i in range(400)], "Hello {{ chart(n) }}", subject="Hi",
            from_="me@example.com", values={"chart": int}, campaign="c", journal=place,
            via=Connection.from_url(server.url()), progress=False,
        )  # fmt: skip
    assert len(rest.skipped) == len(went)
    everybody = [to for mail in server.log.mails for to in mail.recipients]
    assert sorted(everybody) == sorted(f"u{i}@example.com" for i in range(400))
