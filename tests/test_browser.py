"""What a person sees and does in JupyterLab: a real browser, a real kernel, real SMTP."""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.browser

FORM = """from smtp_notebook import email_form
form = email_form(to="", subject="Hi", body="**hello** there")
form"""


def sends(page):
    return page.get_by_role("button", name=re.compile("Send$"))


def test_a_form_is_filled_in_and_sent_in_a_browser(lab):
    from playwright.sync_api import expect

    with lab.notebook(FORM) as page:
        page.get_by_role("textbox", name="To").fill("bob@example.com")
        sends(page).click()
        expect(page.get_by_text("sent", exact=True)).to_be_visible(timeout=15_000)


def test_the_preview_in_the_form_follows_what_is_typed(lab):
    from playwright.sync_api import expect

    with lab.notebook(FORM) as page:
        page.get_by_role("textbox", name="Body").fill("# Big news")
        page.get_by_role("textbox", name="Subject").fill("Changed")
        page.get_by_role("textbox", name="To").fill("bob@example.com")
        inside = page.frame_locator("iframe[title]")
        expect(inside.get_by_role("heading", name="Big news")).to_be_visible(timeout=15_000)
