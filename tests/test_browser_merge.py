"""The form of a merge as a person uses it, in JupyterLab, Notebook 7 and Voilà: a real browser, kernel and server."""

from __future__ import annotations

import csv
import re
import threading
from collections import Counter

import pytest
from conftest import ROOT
from look import LOOKS, ONCE_AS_LAB, looks_well
from scripted import Server as Scripted

pytestmark = pytest.mark.browser

FRAME = "iframe.smtpnb-frame:not(.smtpnb-coming)"  # a newer one may be loading behind it
LETTER = "---\nsubject: Hi {{ First }}\n---\nDear **{{ First }}** of {{ row['The Company'] }}"
LEADS = ROOT / "notebooks" / "data" / "leads.csv"
WELCOME = "---\nsubject: Welcome\n---\nDear {{ FirstName | default(LastName) }}, thank you."
HOSTILE = """<script>top.__canary = parent.__canary = 1</script><img src=x onerror="top.__canary = 2">
<svg onload="top.__canary = 3"></svg><iframe srcdoc="<script>top.__canary = 5</script>"></iframe>"""


def cell(count=5, template=LETTER, *, server=0, bad=(), more="", **options):
    """Return a cell that shows a form.

    Args:
        count: How many rows its frame has.
        template: The form's template.
        server: The port of a server on this machine; 0 for the notebook's sandbox.
        bad: The rows that have no company.
        more: Code that changes the frame.
        options: What the form is given beside it.
    """
    address = (
        f"'smtp+plain://127.0.0.1:{server}', max_connections=1, dot_timeout=60" if server else "'sandbox'"
    )
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    return f"""import pandas as pd
from smtp_notebook import connect, merge_form
connect({address})
people = pd.DataFrame({{
    "First": [f"Ann{{i}}" for i in range({count})],
    "The Company": [None if i in {tuple(bad)!r} else f"Company {{i}}" for i in range({count})],
    "Email": [f"u{{i}}@example.com" for i in range({count})],
}})
{more}
form = merge_form(people, {template!r}{given})
form"""


def mailing(server, tmp_path, count, **more):
    """Return a cell whose form has a campaign that counts."""
    options = {"from_": "me@example.com", "campaign": "c", "journal": str(tmp_path / "j.db")}
    return cell(count, server=server, **options | more)


def shown(locator):
    from playwright.sync_api import expect

    expect(locator).to_be_visible(timeout=20_000)


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def pill(page, word):
    return page.locator(".smtpnb-pill", has_text=re.compile(f"^{word}$"))


def confirm(page, words):
    """Press Send and say yes to *words*."""
    press(page, words)
    page.get_by_role("alertdialog").get_by_role("button", name=re.compile("^Send")).click()


def people(mails):
    return sorted(r for m in mails for r in m.recipients)


# ------------------------------------------------------------------------------- from first to last


@ONCE_AS_LAB
def test_rows_are_looked_at_checked_sent_and_reported(frontend, sandbox, tmp_path):
    with frontend.notebook(mailing(sandbox.connection.port, tmp_path, 6, bad=(3,))) as page:
        inside = page.frame_locator(FRAME)
        shown(inside.get_by_text("Ann0", exact=True))
        press(page, "Next")
        shown(inside.get_by_text("Ann1", exact=True))
        shown(page.get_by_role("region", name="Cells of the row").get_by_text("u1@example.com"))
        shown(page.get_by_text("5 of 6 rows can be sent."))
        problem = page.get_by_role("row", name=re.compile("'The Company' is empty"))
        problem.click()
        shown(page.get_by_text(re.compile("^Row 3: ")))
        assert page.get_by_role("spinbutton", name="Row").input_value() == "3"
        page.get_by_role("textbox", name="Template").fill("Dear **{{ First }}**, all is well")
        shown(page.get_by_text("6 of 6 rows can be sent."))
        shown(inside.get_by_text("Ann3", exact=True))
        page.get_by_role("textbox", name="My address").fill("me@example.com")
        press(page, "Send this one to me")
        shown(page.get_by_text(re.compile("Row 3 to me@example.com: accepted")))
        assert people(sandbox.messages) == ["me@example.com"]
        press(page, "Send 6 mails")
        asked = page.get_by_role("alertdialog", name="Send 6 mails now?")
        shown(asked)
        assert "6 of 6 in people" in asked.inner_text()
        assert "127.0.0.1" in asked.inner_text()
        asked.get_by_role("button", name="Send 6 mails").click()
        shown(pill(page, "done"))
        shown(page.get_by_text("6 rows had it already; nothing is left."))
        shown(page.get_by_text("6 sent", exact=True))
        assert frontend.strange == []
    assert people(sandbox.messages) == sorted(["me@example.com", *(f"u{i}@example.com" for i in range(6))])


def test_a_send_is_stopped_and_a_second_press_sends_the_rest(lab, tmp_path):
    from playwright.sync_api import expect

    reached, opened = threading.Event(), threading.Event()

    async def held():
        import asyncio

        reached.set()
        await asyncio.to_thread(opened.wait, 60)

    with Scripted({"dot": lambda met: held() if met.mail == 3 else None}) as server:
        with lab.notebook(mailing(server.port, tmp_path, 30)) as page:
            stop = page.get_by_role("button", name="Stop", exact=True)
            shown(page.get_by_text("30 of 30 rows can be sent."))
            expect(stop).to_be_disabled()
            confirm(page, "Send 30 mails")
            assert reached.wait(60)
            shown(page.get_by_text(re.compile(r"^\d+ of 30")).first)
            stop.click()
            shown(page.get_by_text("Stopping: mails in flight may still arrive."))
            opened.set()
            shown(pill(page, "stopped"))
            went = len(server.log.mails)
            shown(page.get_by_text(f"{went} rows had it already; {30 - went} are left."))
            server.heal()
            confirm(page, f"Send the rest ({30 - went})")
            shown(page.get_by_text("30 rows had it already; nothing is left."))
        assert people(server.log.mails) == sorted(f"u{i}@example.com" for i in range(30))


def test_the_kernel_answers_while_a_merge_is_sent(lab, tmp_path):
    opened = threading.Event()

    async def held():
        import asyncio

        await asyncio.to_thread(opened.wait, 60)

    with (
        Scripted({"dot": lambda _: held()}) as server,
        lab.notebook(mailing(server.port, tmp_path, 3)) as page,
    ):
        confirm(page, "Send 3 mails")
        shown(pill(page, "sending"))
        press(page, "Next")
        shown(page.frame_locator(FRAME).get_by_text("Ann1", exact=True))
        opened.set()
        shown(pill(page, "done"))


def test_columns_are_inserted_at_the_cursor_and_rows_stepped_by_keyboard(lab):
    with lab.notebook(cell(template="Dear ,")) as page:
        area = page.get_by_role("textbox", name="Template")
        area.focus()
        for key in ("Home", *["ArrowRight"] * 5):
            page.keyboard.press(key)
        page.get_by_role("button", name="First", exact=True).press("Enter")
        assert area.input_value() == "Dear {{ First }},"
        area.press("End")
        page.get_by_role("button", name="The Company", exact=True).press("Enter")
        assert area.input_value() == 'Dear {{ First }},{{ row["The Company"] }}'
        inside = page.frame_locator(FRAME)
        shown(inside.get_by_text("Dear Ann0,Company 0"))
        page.get_by_role("spinbutton", name="Row").focus()
        page.keyboard.press("ArrowUp")
        shown(inside.get_by_text("Dear Ann1,Company 1"))
        page.get_by_role("button", name="Next", exact=True).focus()
        page.keyboard.press("Enter")
        shown(inside.get_by_text("Dear Ann2,Company 2"))


def test_problems_are_chosen_by_keyboard(lab):
    with lab.notebook(cell(9, bad=(2, 5, 7))) as page:
        grid = page.get_by_role("grid", name="Rows with a problem")
        grid.get_by_role("row").nth(1).focus()
        page.keyboard.press("ArrowDown")
        shown(page.get_by_text(re.compile("^Row 5: ")))
        page.keyboard.press("End")
        shown(page.get_by_text(re.compile("^Row 7: ")))


@ONCE_AS_LAB
def test_a_hostile_row_is_looked_at_and_nothing_of_it_runs(frontend):
    more = f"""bad = {HOSTILE!r}
people['First'] = people['The Company'] = bad
people['<script>top.__canary = 6</script>'] = bad"""
    letter = "<p>before</p> {{ First }} {{ row['The Company'] }} <p id=after>after</p>"
    source = cell(3, letter, more=more, format="html", to="ann@example.com", key=["First", "Email"])
    with frontend.notebook(source) as page:
        dialogs = []
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        inside = page.frame_locator(FRAME)
        shown(inside.locator("#after"))
        shown(inside.get_by_text("top.__canary = 2").first)
        shown(page.get_by_text("3 of 3 rows can be sent."))
        press(page, "Next")
        for tab in ("Dark", "Text", "Source", "Headers", "Desktop"):
            page.get_by_role("tab", name=tab).click()
        assert page.evaluate("window.__canary") is None
        assert (frontend.strange, dialogs) == ([], [])


def test_what_cannot_be_rendered_or_read_is_said_in_words(lab):
    with lab.notebook(cell()) as page:
        page.get_by_role("textbox", name="Template").fill("Dear {{ Frist }}")
        shown(page.get_by_text(re.compile("Row 0: .*Frist")).first)
        page.get_by_role("textbox", name="Template").fill("{% if %}")
        shown(page.locator(".smtpnb-problem", has_text="line 1"))
        page.get_by_role("textbox", name="File").fill("none.md")
        press(page, "Load")
        press(page, "Load it")
        shown(page.get_by_text(re.compile("'none.md' cannot be read")))


# ----------------------------------------------------------------------------------------- how it looks

STATES = {
    "fresh": "from smtp_notebook import merge_form\nmerge_form()",
    "problems": cell(250, bad=range(3, 250, 7)),
    "asking": cell(250, bad=(3, 9), campaign="spring-2026"),
    "done": cell(12, bad=(3, 9)),
    "error": cell(3, server=1, from_="me@example.com", campaign="c", journal=":memory:"),
    "wide": cell(
        3,
        more="for i in range(40):\n    people[f'A column of some length {i}'] = 'unbroken' * 40",
        subject="A subject of some length, as people write them, {{ First }}",
    ),
}


def brought(page, state):
    """Bring a form into a state."""
    if state == "fresh":
        shown(page.get_by_text("No frame is chosen."))
        return
    shown(pill(page, "checked"))
    if state in {"asking", "done"}:
        page.get_by_role("checkbox", name=re.compile("Send the good rows")).check()
    if state in {"asking", "wide"}:
        press(page, "Copy as code")
        page.get_by_role("button", name=re.compile(r"^Send \d+ mails$")).click()
        shown(page.get_by_role("alertdialog"))
    if state == "problems":
        page.get_by_role("row", name=re.compile("'The Company' is empty")).first.click()
        shown(page.get_by_text(re.compile("^Row 3: ")))
    if state in {"done", "error"}:
        confirm(page, "Send 10 mails" if state == "done" else "Send 3 mails")
        shown(pill(page, "done" if state == "done" else "failed"))


@LOOKS
@pytest.mark.parametrize("state", STATES)
def test_a_form_in_any_state_size_and_theme_has_no_grave_fault_and_loses_no_text(lab, state, looks, tmp_path):
    source = STATES[state].replace(":memory:", str(tmp_path / "j.db"))
    with lab.notebook(source, width=1280, height=3200) as page:
        brought(page, state)
        looks_well(lab, page, f"merge-form-{state}", height=3200, looks=looks)


@LOOKS
def test_a_form_that_sends_has_no_grave_fault_and_loses_no_text(lab, looks, tmp_path):
    reached, opened = threading.Event(), threading.Event()

    async def held():
        import asyncio

        reached.set()
        await asyncio.to_thread(opened.wait, 120)

    with (
        Scripted({"dot": lambda met: held() if met.mail == 20 else None}) as server,
        lab.notebook(mailing(server.port, tmp_path, 80), width=1280, height=3200) as page,
    ):
        confirm(page, "Send 80 mails")
        assert reached.wait(60)
        shown(page.get_by_text(re.compile(r"^\d+ of 80")).first)
        looks_well(lab, page, "merge-form-sending", height=3200, looks=looks)
        opened.set()
        shown(pill(page, "done"))


def test_a_merge_of_the_leads_is_stopped_the_kernel_restarted_and_every_lead_gets_one_mail(
    lab, sandbox, tmp_path
):
    port = sandbox.connection.port  # to the notebook it is a server like any other, and counts
    rate = tmp_path / "rate.txt"
    rate.write_text("1200/min")
    source = f"""import pandas as pd
from pathlib import Path
from smtp_notebook import connect, merge_form
leads = pd.read_csv({str(LEADS)!r})
connect("smtp+plain://127.0.0.1:{port}", sender="me@example.com", rate=Path({str(rate)!r}).read_text())
form = merge_form(leads, {WELCOME!r}, campaign="welcome-{port}", key="Id")
form"""
    with LEADS.open(encoding="utf-8") as file:
        people = [row["Email"] for row in csv.DictReader(file) if not row["Email"].endswith("@")]

    def send(words):
        page.get_by_label(re.compile("Send the good rows")).check()
        page.get_by_role("button", name=words).click()
        page.get_by_role("alertdialog").get_by_role("button", name=re.compile("^Send")).click()

    with lab.notebook(source, height=1800) as page:
        send("Send 249 mails")
        shown(page.get_by_text(re.compile(r"^(4\d|5\d) of 249")))
        page.get_by_role("button", name="Stop", exact=True).click()
        shown(page.locator(".smtpnb-pill", has_text="stopped"))
        went = len(sandbox.messages)
        assert 40 <= went < len(people) == 249
        rate.write_text("60000/min")  # slow enough to be stopped, and then there is nothing to wait for
        lab.restart(page)
        lab.run_all(page)
        send(f"Send the rest ({len(people) - went})")
        shown(page.get_by_text(re.compile(rf"^{len(people) - went} of {len(people) - went}")))
        shown(page.locator(".smtpnb-pill", has_text="done"))
    received = Counter(to for mail in sandbox.messages for to in mail.recipients)
    assert received == Counter(people)
    assert len({mail.header("message-id") for mail in sandbox.messages}) == len(people)
