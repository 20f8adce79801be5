"""All forms on one page of Notebook 7 and Voilà, narrow and dark: each can be used there, and read."""

from __future__ import annotations

import pytest
import test_browser_form
import test_browser_merge
from look import axe, no_text_lost, picture
from test_browser_inbox import INBOX, Opened, fill, shown

pytestmark = pytest.mark.browser

CELLS = (test_browser_form.STATES["asking"], test_browser_merge.STATES["asking"], INBOX)


@pytest.mark.parametrize("name", ["notebook7", "voila"])
def test_forms_have_no_grave_fault_and_lose_no_text_in_notebook_7_and_voila(name, request):
    front = request.getfixturevalue(name)
    with front.notebook(*CELLS, width=700, height=7000, dark=True) as page:
        form, merge, inbox = (page.locator(".jp-Cell").nth(number) for number in range(3))
        form.get_by_role("button", name="Send", exact=True).click()
        shown(form.get_by_role("alertdialog"))
        test_browser_merge.brought(merge, "asking")
        fill(Opened(inbox), "asking")
        picture(page, f"forms-asking-{name}")
        assert page.locator(".smtpnb-form").count() == len(CELLS)
        assert axe(page, ".smtpnb-form") == []
        assert no_text_lost(page, ".smtpnb-form") == []
